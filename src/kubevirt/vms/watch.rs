//! VMs as they change.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, TryStreamExt as _};
use http::{Method, Request};
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{VmDetail, VmInfo, VmQuery, Vms, info::Facts};
use crate::{
    error::Result,
    kubevirt::{Resource, explain, resource::encoded, types::VirtualMachine},
};

/// A change of a VM.
#[derive(Clone, Debug, PartialEq)]
pub enum VmChange {
    /// It is there, and this is what it is now.
    Is(Box<VmInfo>),
    /// It was deleted, or is none of those that are watched any more.
    Gone {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

type Events = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Value>>> + Send>>;

/// Changes of VMs, one after the other.
pub struct VmWatch {
    vms: Vms,
    query: VmQuery,
    only: Option<String>,
    version: String,
    events: Option<Events>,
    /// Since when there has been no connection.
    broken: Option<Instant>,
}

impl std::fmt::Debug for VmWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmWatch")
            .field("query", &self.query)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Vms {
    /// The changes of VMs after what [`VmPages::version`](super::VmPages::version) said. If that is too long
    /// ago for the cluster, all of them come once more as they are.
    pub fn watch(&self, query: &VmQuery, version: &str) -> VmWatch {
        VmWatch {
            vms: self.clone(),
            query: query.clone(),
            only: None,
            version: version.to_owned(),
            events: None,
            broken: None,
        }
    }

    /// The changes of one VM, that it is there to begin with.
    pub fn watch_one(&self, name: &str) -> VmWatch {
        let query = VmQuery { detail: VmDetail::Full, ..VmQuery::default() };
        VmWatch { only: Some(name.to_owned()), ..self.watch(&query, "") }
    }
}

impl VmWatch {
    /// The next change.
    ///
    /// # Errors
    /// The cluster refuses, or could not be reached for a while.
    pub async fn next(&mut self) -> Result<VmChange> {
        loop {
            let event = match &mut self.events {
                Some(events) => events.try_next().await,
                None => match self.open().await {
                    Ok(events) => {
                        self.events = Some(events);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match event {
                Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    let vm = self.seen(object)?;
                    if let Some(change) = self.change(&vm).await? {
                        return Ok(change);
                    }
                }
                Ok(Some(WatchEvent::Deleted(object))) => return Ok(gone(&self.seen(object)?)),
                Ok(Some(WatchEvent::Bookmark(mark))) => {
                    self.broken = None;
                    self.version.clone_from(&mark.metadata.resource_version);
                }
                // The history is too short: from the beginning.
                Ok(Some(WatchEvent::Error(status))) if status.code == 410 => self.begin_anew(),
                Err(kube::Error::Api(status)) if status.code == 410 => self.begin_anew(),
                Ok(Some(WatchEvent::Error(status))) => self.retry(kube::Error::Api(status)).await?,
                Err(error) => self.retry(error).await?,
                // A server ends each watch after a while.
                Ok(None) => self.events = None,
            }
        }
    }

    fn begin_anew(&mut self) {
        self.events = None;
        self.version.clear();
    }

    /// Pauses before the next try, or gives up.
    async fn retry(&mut self, error: kube::Error) -> Result<()> {
        self.events = None;
        let since = *self.broken.get_or_insert_with(Instant::now);
        let cluster = &self.vms.cluster;
        let resource = Resource::vms();
        let call = cluster.call("watch", &resource, "the virtualmachines");
        match explain::failure(cluster.url(), &call, error) {
            explain::CallError::Transient(error) if since.elapsed() < cluster.retry_for() => {
                tracing::debug!(%error, "the watch broke, watching again");
                sleep(PAUSE).await;
                Ok(())
            }
            explain::CallError::NotFound(_) => Err(cluster.not_served(&resource)),
            error => Err(error.into()),
        }
    }

    fn seen(&mut self, object: Value) -> Result<VirtualMachine> {
        let vm = VirtualMachine::new(object)?;
        self.broken = None;
        self.version.clone_from(&vm.metadata.resource_version);
        Ok(vm)
    }

    async fn change(&mut self, vm: &VirtualMachine) -> Result<Option<VmChange>> {
        if !self.query.wants(vm) {
            return Ok(None);
        }
        if self.query.detail == VmDetail::Description {
            let facts = Facts { vm: &vm.object, expanded: None, shape: None, instance: None, claims: None };
            let info = VmInfo::new(&vm.metadata, &vm.status.conditions, facts);
            return Ok(Some(VmChange::Is(Box::new(info))));
        }
        let place =
            Vms { cluster: self.vms.cluster.in_namespace(&vm.metadata.namespace), ..self.vms.clone() };
        Ok(Some(VmChange::Is(Box::new(place.full(vm).await?))))
    }

    async fn open(&mut self) -> kube::Result<Events> {
        let cluster = &self.vms.cluster;
        let namespace = (!self.query.everywhere).then_some(cluster.namespace());
        let field = self.only.as_ref().map_or_else(String::new, |name| format!("metadata.name={name}"));
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={}&labelSelector={}&fieldSelector={}",
            Resource::vms().path(namespace),
            encoded(&self.version),
            encoded(&self.query.selector),
            encoded(&field)
        );
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        Ok(Box::pin(cluster.client().request_events::<Value>(request).await?))
    }
}

fn gone(vm: &VirtualMachine) -> VmChange {
    VmChange::Gone { namespace: vm.metadata.namespace.clone(), name: vm.metadata.name.clone() }
}

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
