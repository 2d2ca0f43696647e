//! Clones: another VM with the disks of one, or of a snapshot of it.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{
    Acting, Cluster, Told, Vms,
    made::Work,
    names::run_id,
    resource::{SNAPSHOT_GROUP, check_name},
    session::Teller,
    types::Object,
};
use crate::error::{Error, ErrorKind, Result};

/// What is cloned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CloneSource {
    /// A snapshot.
    Snapshot(String),
    /// A VM, running or not: a snapshot is made for it and removed again.
    Vm(String),
}

/// A clone that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloneRequest {
    /// What is cloned.
    pub(super) source: CloneSource,
    /// Name of the new VM. Its network cards get new addresses.
    pub(super) target: String,
}

/// What became of a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloned {
    /// Name of the VirtualMachineClone.
    pub clone: String,
    /// The new VM, `namespace/name`.
    pub vm: String,
    /// Its status, as [`VmInfo::state`](super::VmInfo::state); `None` if nobody looked.
    pub state: Option<String>,
    /// Whether it is there; not so if it was not waited for, or not made.
    pub complete: bool,
}

impl Vms {
    /// Makes a copy of a VM, as it is now or as a snapshot of it holds it, under a name that is new; its
    /// network cards get new addresses.
    ///
    /// # Errors
    /// There is no such VM or snapshot; the snapshot is of another VM; the new one exists; the cluster
    /// refuses, cannot be reached, fails, or is not done in time.
    pub async fn clone_vm(
        &self,
        name: &str,
        snapshot: Option<&str>,
        target: &str,
        acting: &Acting,
    ) -> Result<Cloned> {
        let source = match snapshot {
            None => CloneSource::Vm(name.to_owned()),
            Some(snapshot) => {
                let of = self.cluster().vm_of_snapshot(snapshot).await?;
                if of != name {
                    return Err(Error::new(
                        ErrorKind::Cluster,
                        format!(
                            "snapshot {}/{snapshot} is of VM {of}, not of {name}",
                            self.cluster().namespace()
                        ),
                    )
                    .with_hint(format!("'vmferry snapshot list {name}' lists those of the VM")));
                }
                CloneSource::Snapshot(snapshot.to_owned())
            }
        };
        let request = CloneRequest { source, target: target.to_owned() };
        self.cluster().make_clone(&request, acting, self.teller()).await
    }
}

impl Cluster {
    pub(super) async fn make_clone(
        &self,
        request: &CloneRequest,
        acting: &Acting,
        teller: &Teller,
    ) -> Result<Cloned> {
        let (group, kind, name) = match &request.source {
            CloneSource::Snapshot(name) => (SNAPSHOT_GROUP, "VirtualMachineSnapshot", name),
            CloneSource::Vm(name) => ("kubevirt.io", "VirtualMachine", name),
        };
        check_name(kind, name)?;
        check_name("VM", &request.target)?;
        let clones = self.clone_resource().await?;
        let vm = format!("{}/{}", self.namespace(), request.target);
        match &request.source {
            CloneSource::Snapshot(name) => {
                let snapshots = self.snapshot_resource().await?;
                let _: Object = self.must_find(&snapshots, name).await?;
            }
            CloneSource::Vm(name) => {
                Vms::new(self.clone()).find(name).await?;
            }
        }
        if self.find_vm(&request.target).await?.is_some() {
            return Err(Error::new(ErrorKind::Cluster, format!("VM {vm} exists already"))
                .with_hint("choose another name for the clone, or delete that VM"));
        }
        let base: String = request.target.chars().take(MOST_OF_TARGET).collect();
        let clone = format!("{}-clone-{}", base.trim_end_matches(['-', '.']), run_id()?);
        let object = json!({
            "apiVersion": clones.api_version(),
            "kind": clones.kind,
            "metadata": {"name": clone, "namespace": self.namespace()},
            "spec": {
                "source": {"apiGroup": group, "kind": kind, "name": name},
                "target": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": request.target},
            },
        });
        self.make(&clones, &object, acting.dry_run).await?;
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else {
            return Ok(Cloned { clone, vm, state: None, complete: false });
        };
        let (start, mut told) = (Instant::now(), String::new());
        let cluster = self.until(start + wait);
        loop {
            let found: Work = cluster.must_find(&clones, &clone).await?;
            if found.status.phase == "Succeeded" {
                let state = cluster.state_of(&request.target).await?;
                return Ok(Cloned { clone, vm, state, complete: true });
            }
            if let Some(failure) = found.status.failure() {
                return Err(Error::new(ErrorKind::Cluster, format!("VM {vm} was not cloned: {failure}"))
                    .with_hint(format!(
                        "'kubectl describe vmclone {clone} -n {}' tells more",
                        self.namespace()
                    )));
            }
            let state = found.status.state();
            if state != told {
                teller(Told::Waiting(format!("clone {clone}: {state}")));
                told = state;
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("VM {vm} was not cloned within {} s: {told}", wait.as_secs_f64()),
                )
                .with_hint(format!(
                    "the cluster goes on with it: 'kubectl get vmclone {clone} -n {0}'; 'kubectl delete vmclone {clone} \
                     -n {0}' gives it up",
                    self.namespace()
                )));
            }
            self.changed(&clones, &clone, &found.metadata.resource_version, left.min(LOOK)).await;
        }
    }
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(5);

/// So that the whole is a name.
const MOST_OF_TARGET: usize = 200;
