//! Snapshots of VMs: made, listed, restored, cloned from, deleted.
//!
//! What they are worth is said before and after: which volumes are in them, whether the guest held its file
//! systems still. KubeVirt leaves out volumes it cannot snapshot without a word; here that is a refusal,
//! unless it is asked for.

mod create;
mod info;
mod restore;

use std::{sync::Arc, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use self::{
    create::SnapshotRequest,
    info::{SnapshotInfo, SnapshotVolumesInfo},
    restore::{OwnershipPolicy, ReadinessPolicy, RestoreRequest, RestoreVolumePolicy, Restored},
};
use super::{
    Acting, Cloned, Cluster, Resource, Told,
    clones::{CloneRequest, CloneSource},
    explain::CallError,
    pages::{FIRST_PAGE, PAGE, Pages},
    resource::encoded,
    session::Teller,
    types::{Object, VmSnapshot},
};
use crate::error::{Error, ErrorKind, Result};

/// The snapshots of a cluster, in the namespace that it works in.
///
/// ```no_run
/// use vmferry::kubevirt::{Acting, Cluster, ClusterOptions, RestoreRequest, SnapshotRequest, Snapshots};
///
/// # async fn example() -> vmferry::Result<()> {
/// let cluster = Cluster::connect(&ClusterOptions::default()).await?;
/// let snapshots = Snapshots::new(cluster).on_event(|told| eprintln!("{told}"));
/// let made = snapshots.create(&SnapshotRequest::of("web"), &Acting::default()).await?;
/// println!("{} is {}", made.name, made.consistency);
/// let restore = RestoreRequest { target: Some("web-copy".to_owned()), ..RestoreRequest::of(&made.name) };
/// snapshots.restore(&restore, &Acting::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshots {
    cluster: Cluster,
    teller: Teller,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Snapshots, page by page.
#[derive(Debug)]
pub struct SnapshotPages {
    pages: Pages,
    vm: Option<String>,
    first: bool,
}

impl Snapshots {
    /// The snapshots of a cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, teller: Arc::new(|_| {}) }
    }

    /// Calls `listener` with what is waited for, and with warnings.
    #[must_use]
    pub fn on_event(self, listener: impl Fn(Told) + Send + Sync + 'static) -> Self {
        Self { teller: Arc::new(listener), ..self }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Snapshots, page by page: those of the namespace or of all, with these labels, of this VM.
    ///
    /// # Errors
    /// The cluster has none, or cannot be asked.
    pub async fn list(&self, everywhere: bool, selector: &str, vm: Option<&str>) -> Result<SnapshotPages> {
        let resource = self.cluster.snapshot_resource().await?;
        Ok(SnapshotPages {
            pages: Pages::new(&self.cluster, resource, everywhere, selector),
            vm: vm.map(str::to_owned),
            first: true,
        })
    }

    /// A snapshot, with its size.
    ///
    /// # Errors
    /// There is none of that name; the cluster refuses, or cannot be reached.
    pub async fn get(&self, name: &str) -> Result<SnapshotInfo> {
        let (resource, found) = self.find(name).await?;
        let content = match &found.status.virtual_machine_snapshot_content_name {
            Some(content) => {
                self.cluster.find::<Value>(&Resource::snapshot_contents(&resource.version), content).await?
            }
            None => None,
        };
        let mut info = SnapshotInfo::new(&found);
        info.size_bytes = content.as_ref().and_then(info::size);
        Ok(info)
    }

    /// Deletes a snapshot; what it holds goes with it unless it was made to be kept.
    ///
    /// # Errors
    /// As [`get`](Self::get); it is not gone in time.
    pub async fn delete(&self, name: &str, acting: &Acting) -> Result<bool> {
        let (resource, found) = self.find(name).await?;
        let (start, uid) = (Instant::now(), found.metadata.uid);
        let what = resource.object(self.cluster.namespace(), name);
        let call = self.cluster.call("delete", &resource, &what);
        let path = format!("{}/{}", resource.path(Some(self.cluster.namespace())), encoded(name));
        let mut options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        });
        if acting.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        loop {
            match self.cluster.send(&call, Method::DELETE, &path, Some(&options)).await {
                Ok(_) => break,
                // Gone between the look and now.
                Err(CallError::NotFound(_)) => return Ok(true),
                Err(CallError::Transient(_)) if start.elapsed() + POLL < self.cluster.retry_for() => {
                    tokio::time::sleep(POLL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        match acting.wait.filter(|_| !acting.dry_run) {
            Some(wait) => self.until_gone(&resource, name, &uid, wait).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Makes a VM from a snapshot, under a name that is new; its network cards get new addresses.
    ///
    /// # Errors
    /// There is no such snapshot; the VM exists; the cluster refuses, cannot be reached, fails, or is not
    /// done in time.
    pub async fn clone_vm(&self, snapshot: &str, target: &str, acting: &Acting) -> Result<Cloned> {
        let request =
            CloneRequest { source: CloneSource::Snapshot(snapshot.to_owned()), target: target.to_owned() };
        self.cluster.make_clone(&request, acting, &self.teller).await
    }

    async fn find(&self, name: &str) -> Result<(Resource, VmSnapshot)> {
        super::resource::check_name("VirtualMachineSnapshot", name)?;
        let resource = self.cluster.snapshot_resource().await?;
        let found: Option<VmSnapshot> = self.cluster.find(&resource, name).await?;
        let namespace = self.cluster.namespace();
        let found = found.ok_or_else(|| {
            Error::new(ErrorKind::Cluster, format!("snapshot {namespace}/{name} does not exist"))
                .with_hint(format!("'vmferry snapshot list -n {namespace}' lists those of the namespace"))
        })?;
        Ok((resource, found))
    }

    async fn until_gone(&self, resource: &Resource, name: &str, uid: &str, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        let what = format!("snapshot {}/{name}", self.cluster.namespace());
        let (mut is_told, cluster) = (false, self.cluster.until(deadline));
        loop {
            let found: Option<Object> = cluster.find(resource, name).await?;
            let Some(Object { metadata }) = found.filter(|found| found.metadata.uid == uid) else {
                return Ok(());
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("{what} is not gone after {} s", wait.as_secs_f64()),
                )
                .with_hint(
                    "the cluster goes on with it; a restore or an export that uses it may hold it: \
                     'kubectl get vmsnapshot -o yaml' shows its finalizers",
                ));
            }
            if !std::mem::replace(&mut is_told, true) {
                (self.teller)(Told::Waiting(format!("{what} is being deleted")));
            }
            self.cluster.changed(resource, name, &metadata.resource_version, left.min(POLL)).await;
        }
    }
}

impl SnapshotPages {
    /// The next snapshots; an empty page is not the last one. Their sizes are not looked up.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn next(&mut self) -> Result<Option<Vec<SnapshotInfo>>> {
        let limit = if std::mem::replace(&mut self.first, false) { FIRST_PAGE } else { PAGE };
        let Some(page) = self.pages.next(limit).await? else { return Ok(None) };
        let mut infos = Vec::with_capacity(page.len());
        for object in page {
            let snapshot: VmSnapshot = super::client::decoded("a VirtualMachineSnapshot", object)?;
            if self.vm.as_ref().is_none_or(|vm| snapshot.spec.source.name == *vm) {
                infos.push(SnapshotInfo::new(&snapshot));
            }
        }
        Ok(Some(infos))
    }
}

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);
