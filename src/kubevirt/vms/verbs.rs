//! The lifecycle calls.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Acted, Acting, Vms, refused::Refusal, waiting::Look};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        client::Call,
        explain::{CallError, told},
        resource::encoded,
    },
};

/// A lifecycle call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Pause,
    Restart,
    Start { paused: bool },
    Stop { grace: Option<Duration> },
    Unpause,
}

impl Verb {
    /// As the API calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Unpause => "unpause",
        }
    }

    /// What it is a call on.
    const fn plural(self) -> &'static str {
        match self {
            Self::Pause | Self::Unpause => "virtualmachineinstances",
            Self::Restart | Self::Start { .. } | Self::Stop { .. } => "virtualmachines",
        }
    }

    fn body(self, dry_run: bool) -> Value {
        let mut body = match self {
            Self::Start { paused: true } => json!({"paused": true}),
            Self::Stop { grace: Some(grace) } => json!({"gracePeriod": grace.as_secs()}),
            _ => json!({}),
        };
        if dry_run {
            body["dryRun"] = json!(["All"]);
        }
        body
    }
}

impl Vms {
    /// Starts a VM; `paused` holds its guest still before its first instruction.
    ///
    /// # Errors
    /// The cluster refuses, for instance because it runs already, or cannot be reached; the VM fails, or is
    /// not running in time.
    pub async fn start(&self, name: &str, paused: bool, acting: &Acting) -> Result<Acted> {
        self.act(name, Verb::Start { paused }, acting).await
    }

    /// Stops a VM: its guest is asked to shut down, and cut off after `grace`, in whole seconds; `None` is
    /// what the description of the VM says, zero is at once.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn stop(&self, name: &str, grace: Option<Duration>, acting: &Acting) -> Result<Acted> {
        self.act(name, Verb::Stop { grace }, acting).await
    }

    /// Stops a VM and starts it again, which makes changes of its description count.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn restart(&self, name: &str, acting: &Acting) -> Result<Acted> {
        self.act(name, Verb::Restart, acting).await
    }

    /// Holds the guest of a VM still; it keeps its memory, and its time stands.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn pause(&self, name: &str, acting: &Acting) -> Result<Acted> {
        self.act(name, Verb::Pause, acting).await
    }

    /// Lets a guest go on that was held still.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn unpause(&self, name: &str, acting: &Acting) -> Result<Acted> {
        self.act(name, Verb::Unpause, acting).await
    }

    async fn act(&self, name: &str, verb: Verb, acting: &Acting) -> Result<Acted> {
        crate::kubevirt::resource::check_name("VM", name)?;
        // Which guest it was: the one behind a restart is another one.
        let before = if !acting.dry_run && (acting.wait.is_some() || verb == Verb::Restart) {
            self.instance(name).await?.map(|instance| instance.metadata.uid)
        } else {
            None
        };
        self.ask(name, verb, before.as_deref(), acting.dry_run).await?;
        let vm = self.called(name);
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else {
            return Ok(Acted { vm, state: None, complete: false });
        };
        let Look { vm: found, .. } = self.wait(name, verb, before.as_deref(), wait).await?;
        let state = super::info::printable(&found.object).to_ascii_lowercase();
        Ok(Acted { vm, state: Some(state), complete: true })
    }

    async fn ask(&self, name: &str, verb: Verb, before: Option<&str>, dry_run: bool) -> Result<()> {
        let put = Put {
            plural: verb.plural(),
            call: verb.name(),
            doing: verb.name(),
            body: verb.body(dry_run),
            replaces: before.filter(|_| verb == Verb::Restart).map(str::to_owned),
        };
        self.put(name, &put).await
    }

    /// Whether the guest that a call is to replace has gone: an earlier request has arrived.
    async fn is_replaced(&self, name: &str, put: &Put) -> Result<bool> {
        let Some(uid) = &put.replaces else { return Ok(false) };
        Ok(self.instance(name).await?.is_none_or(|instance| instance.metadata.uid != *uid))
    }

    /// One call, given again while that may help.
    pub(in crate::kubevirt) async fn put(&self, name: &str, put: &Put) -> Result<()> {
        let (Put { plural, call: verb, doing, body, .. }, vm) = (put, self.called(name));
        let resource = format!("{plural}.subresources.kubevirt.io/{verb}");
        let what = format!("{plural}/{verb} of {vm}");
        let call = Call {
            verb: "update",
            resource: &resource,
            what: &what,
            namespace: Some(self.cluster.namespace()),
        };
        let path = format!("{}/{plural}/{}/{verb}", self.cluster.subresources(), encoded(name));
        // Whether an earlier call may have arrived, though nobody said so.
        let (start, mut is_repeated) = (Instant::now(), false);
        loop {
            if is_repeated && self.is_replaced(name, put).await? {
                return Ok(());
            }
            let Err(error) = self.cluster.send(&call, Method::PUT, &path, Some(body)).await else {
                return Ok(());
            };
            let text = match &error {
                CallError::Exists(error)
                | CallError::NotFound(error)
                | CallError::Refused(error)
                | CallError::Transient(error) => told(error),
            };
            let (error, may_have_arrived) = match (Refusal::of(&text), error) {
                (Some(refusal), _) if refusal.already && is_repeated => return Ok(()),
                (Some(refusal), _) => return Err(refusal.error(doing, &vm, text)),
                (None, CallError::NotFound(error)) => return Err(self.not_there(name, put, error).await),
                (None, CallError::Transient(error)) => (error, true),
                // The VM changed while virt-api was at it: nothing was done.
                (None, CallError::Refused(error)) if RACES.iter().any(|part| text.contains(part)) => {
                    (error, false)
                }
                (None, error) => return Err(error.into()),
            };
            if start.elapsed() + PAUSE >= self.cluster.retry_for() {
                return Err(error);
            }
            tracing::debug!(%error, what, "the cluster did not do it, asking again");
            is_repeated |= may_have_arrived;
            sleep(PAUSE).await;
        }
    }

    /// There is no VM, or no instance of it, or nobody who knows the call.
    async fn not_there(&self, name: &str, put: &Put, error: Error) -> Error {
        match self.find(name).await {
            Err(missing) => missing,
            Ok(_) if told(&error).contains("page not found") => Error::new(
                ErrorKind::Cluster,
                format!("the cluster does not serve {}/{}", put.plural, put.call),
            )
            .with_hint("is virt-api running? 'kubectl get apiservices v1.subresources.kubevirt.io' tells")
            .with_source(error),
            Ok(_) => Error::new(
                ErrorKind::Cluster,
                format!("cannot {} VM {}: it is not running", put.doing, self.called(name)),
            )
            .with_hint("'vmferry vm start' starts it")
            .with_source(error),
        }
    }
}

/// A call on a VM or its instance.
#[derive(Clone, Debug)]
pub(in crate::kubevirt) struct Put {
    /// What it is a call on.
    pub(in crate::kubevirt) plural: &'static str,
    /// As the API calls it.
    pub(in crate::kubevirt) call: &'static str,
    /// What is done, in front of `VM x`.
    pub(in crate::kubevirt) doing: &'static str,
    /// What goes with it.
    pub(in crate::kubevirt) body: Value,
    /// The guest that makes room for another: once it has, the call is not given again.
    pub(in crate::kubevirt) replaces: Option<String>,
}

/// What is said when an object changed between the look and the change.
const RACES: [&str; 2] = ["the object has been modified", "jsonpatch test operation does not apply"];

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
