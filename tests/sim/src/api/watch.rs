//! Watches: the changes of a list from a resource version on, as lines of JSON.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Response,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Call, present, resources::Resource, table};
use crate::{
    http::{self, Body},
    log::Entry,
    refusal::{Refusal, RefusalBody},
    store::{Change, selector::Selector},
    world::World,
};

/// How long a watch without `timeoutSeconds` lasts.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Starts a watch.
pub(super) fn handle(call: &Call<'_>, entry: &Arc<Entry>) -> Result<Response<Body>, Refusal> {
    let mut selector = call.selector()?;
    if let Some(name) = &call.name {
        selector = Selector::parse("", &format!("metadata.name={name}"))?;
    }
    let version = call.query.first("resourceVersion").unwrap_or_default();
    let asked: u64 = if version.is_empty() {
        0
    } else {
        version.parse().map_err(|_| Refusal::bad_request(format!("invalid resource version: {version}")))?
    };
    call.world.lock().held_until = None;
    let timeout = call.query.first("timeoutSeconds").and_then(|seconds| seconds.parse().ok());
    let mut watch = Watch {
        world: Arc::clone(call.world),
        entry: Arc::clone(entry),
        changes: call.world.subscribe(),
        resource: call.resource.clone(),
        namespace: call.namespace.clone(),
        selector,
        position: asked,
        wants_table: call.wants_table(),
        wants_bookmarks: call.query.is_set("allowWatchBookmarks"),
        queue: VecDeque::new(),
        ends: Instant::now() + timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        next_bookmark: Instant::now() + call.world.config.bookmark_interval,
        is_over: false,
    };
    watch.start(asked, call.query.is_set("sendInitialEvents"));
    let pieces = futures_util::stream::unfold(watch, |mut watch| async move {
        watch.next().await.map(|line| (Ok::<_, io::Error>(line), watch))
    });
    let mut response = Response::new(http::stream(pieces));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

struct Watch {
    world: Arc<World>,
    entry: Arc<Entry>,
    changes: watch::Receiver<u64>,
    resource: Resource,
    namespace: Option<String>,
    selector: Selector,
    position: u64,
    wants_table: bool,
    wants_bookmarks: bool,
    queue: VecDeque<Bytes>,
    ends: Instant,
    next_bookmark: Instant,
    is_over: bool,
}

impl Watch {
    /// Without a version, or with version 0, everything there is comes first.
    fn start(&mut self, asked: u64, wants_initial: bool) {
        let world = Arc::clone(&self.world);
        let state = world.lock();
        if asked != 0 && !wants_initial {
            return;
        }
        let key = self.resource.key();
        let namespace = self.namespace.clone();
        for (_, object) in state.store.list(&key, namespace.as_deref()) {
            if self.selector.matches(object) {
                self.push("ADDED", object);
            }
        }
        self.position = state.store.revision();
        if wants_initial {
            self.bookmark(json!({"k8s.io/initial-events-end": "true"}));
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                self.entry.sent(line.len());
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            self.changes.mark_unchanged();
            self.collect();
            if !self.queue.is_empty() {
                continue;
            }
            let until = if self.wants_bookmarks { self.ends.min(self.next_bookmark) } else { self.ends };
            tokio::select! {
                changed = self.changes.changed() => self.is_over = changed.is_err(),
                () = tokio::time::sleep_until(until.into()) => self.at(until),
            }
        }
    }

    fn at(&mut self, now: Instant) {
        self.is_over = now >= self.ends;
        if self.wants_bookmarks {
            self.collect();
            self.bookmark(Value::Null);
            self.next_bookmark = Instant::now() + self.world.config.bookmark_interval;
        }
    }

    /// Takes what has changed since.
    fn collect(&mut self) {
        let world = Arc::clone(&self.world);
        let state = world.lock();
        let oldest = state.store.oldest();
        if self.position < oldest {
            if let RefusalBody::Status(status) = Refusal::too_old(self.position, oldest).body {
                self.queue.push_back(line("ERROR", &status));
            }
            self.is_over = true;
            return;
        }
        let changes = state.store.changes_after(self.position, &self.resource.key());
        self.position = state.store.revision();
        drop(state);
        for change in changes {
            self.tell(&change);
        }
    }

    fn tell(&mut self, change: &Change) {
        let is_seen = |object: &&Arc<Value>| {
            let namespace = object["metadata"]["namespace"].as_str();
            self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
                && self.selector.matches(object)
        };
        let before = change.before.as_ref().filter(is_seen);
        let after = change.after.as_ref().filter(is_seen);
        match (before, after) {
            (None, None) => {}
            (None, Some(after)) => self.push("ADDED", &Arc::clone(after)),
            (Some(_), Some(after)) => self.push("MODIFIED", &Arc::clone(after)),
            (Some(before), None) => {
                // The last state, at the version of the change.
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                self.push("DELETED", &Arc::new(last));
            }
        }
    }

    fn push(&mut self, kind: &str, object: &Arc<Value>) {
        let mut object = present(&self.resource, object);
        if self.wants_table {
            object = table::table(&self.resource, &object);
        }
        self.queue.push_back(line(kind, &object));
    }

    fn bookmark(&mut self, annotations: Value) {
        let mut object = json!({
            "apiVersion": self.resource.api_version(), "kind": self.resource.kind,
            "metadata": {"resourceVersion": self.position.to_string()},
        });
        if !annotations.is_null() {
            object["metadata"]["annotations"] = annotations;
        }
        if self.wants_table {
            object = table::bookmark(&object);
        }
        self.queue.push_back(line("BOOKMARK", &object));
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut line = json!({"type": kind, "object": object}).to_string();
    line.push('\n');
    line.into()
}
