//! Snapshots of VMs that run: made for an export, judged, removed with it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Cluster, LeftOut, MANAGED_BY, PlannedVolume, RUN_ID, Resource, Told, VolumePlan,
    explain::CallError,
    names,
    session::Teller,
    types::{Claim, SnapshotStatus, VmSnapshot},
};
use crate::error::{Error, ErrorKind, Result};

/// What is demanded of a snapshot of a running VM. KubeVirt always asks the guest agent to hold the file
/// systems still, if there is one; this says what follows if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quiesce {
    /// Nothing: a disk as after a power failure will do.
    Never,
    /// A warning.
    #[default]
    Prefer,
    /// A failure.
    Require,
}

impl Quiesce {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("prefer", Self::Prefer), ("require", Self::Require), ("never", Self::Never)];
}

/// What the disks of an export are consistent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The VM was stopped.
    Stopped,
    /// The guest held its file systems still.
    GuestAgent,
    /// As after a power failure.
    Crash,
    /// Nobody says.
    Unknown,
}

impl Consistency {
    /// As in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::GuestAgent => "guest-agent",
            Self::Crash => "crash",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn of(status: &SnapshotStatus) -> Self {
        match () {
            () if !status.ready_to_use => Self::Unknown,
            () if !status.indicates("Online") => Self::Stopped,
            () if status.indicates("GuestAgent") && !status.indicates("QuiesceTimeout") => Self::GuestAgent,
            () => Self::Crash,
        }
    }
}

/// A snapshot that can be used.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// What its disks are consistent with.
    pub consistency: Consistency,
    /// How it was taken, as the cluster says.
    pub indications: Vec<String>,
    /// When it was taken, in RFC 3339.
    pub taken: Option<String>,
    /// The VM as it was, the whole object; `None` if the snapshot does not tell.
    pub vm: Option<Value>,
    /// Its volumes, and those that are not in it.
    pub plan: VolumePlan,
}

/// How a snapshot is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making<'a> {
    /// The VM.
    pub(crate) vm: &'a str,
    /// Id of the run.
    pub(crate) run: &'a str,
    /// Longest wait.
    pub(crate) wait: Duration,
}

impl Cluster {
    /// Makes a snapshot of a VM, or takes up the one that the same run made before; waits until it can
    /// be used. Its name is told.
    pub(crate) async fn make_snapshot(&self, making: Making<'_>, teller: &Teller) -> Result<String> {
        let snapshots = self.snapshot_resource().await?;
        let name = names::object_name(making.vm, making.run);
        let object = json!({
            "apiVersion": snapshots.api_version(),
            "kind": snapshots.kind,
            "metadata": {
                "name": name,
                "namespace": self.namespace(),
                "labels": { MANAGED_BY.0: MANAGED_BY.1, RUN_ID: making.run },
            },
            "spec": {
                "source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": making.vm},
                "failureDeadline": super::go_duration(making.wait),
            },
        });
        match self.create_again(&snapshots, &object).await {
            Ok(_) => teller(Told::Made(snapshots.object(self.namespace(), &name))),
            Err(CallError::Exists(error)) => {
                let found: VmSnapshot = self.must_find(&snapshots, &name).await?;
                if found.metadata.labels.get(RUN_ID).map(String::as_str) != Some(making.run) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(name)
    }

    /// A snapshot, once it can be used.
    pub(crate) async fn usable_snapshot(
        &self,
        name: &str,
        wait: Duration,
        teller: &Teller,
    ) -> Result<Snapshot> {
        super::resource::check_name("VirtualMachineSnapshot", name)?;
        let snapshots = self.snapshot_resource().await?;
        let (start, mut told) = (Instant::now(), String::new());
        let cluster = self.until(start + wait);
        let found = loop {
            let found: VmSnapshot = cluster.must_find(&snapshots, name).await?;
            if found.status.ready_to_use {
                break found;
            }
            let state = state(&found.status);
            if found.status.phase == "Failed" {
                return Err(Error::new(
                    ErrorKind::Cluster,
                    format!("the snapshot {}/{name} failed: {state}", self.namespace()),
                )
                .with_hint(
                    "'kubectl describe vmsnapshot' tells more; the storage class needs a VolumeSnapshotClass",
                ));
            }
            if state != told {
                teller(Told::Waiting(format!("snapshot {name}: {state}")));
                told = state;
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!(
                        "the snapshot {}/{name} was not ready within {} s: {told}",
                        self.namespace(),
                        wait.as_secs()
                    ),
                )
                .with_hint(
                    "'kubectl describe vmsnapshot' and 'kubectl get volumesnapshot' tell what it waits for",
                ));
            }
            self.changed(&snapshots, name, &found.metadata.resource_version, left.min(LOOK)).await;
        };
        cluster.read_snapshot(&snapshots.version, &found).await
    }

    /// Whether there is a snapshot of that name.
    pub(crate) async fn has_snapshot(&self, name: &str) -> Result<bool> {
        let snapshots = self.snapshot_resource().await?;
        Ok(self.find::<VmSnapshot>(&snapshots, name).await?.is_some())
    }

    /// The VM that a snapshot is of.
    pub(crate) async fn vm_of_snapshot(&self, name: &str) -> Result<String> {
        super::resource::check_name("VirtualMachineSnapshot", name)?;
        let snapshots = self.snapshot_resource().await?;
        let found: VmSnapshot = self.must_find(&snapshots, name).await?;
        let vm = found.spec.source.name;
        Ok(if vm.is_empty() { name.to_owned() } else { vm })
    }

    /// Size of a claim in bytes; `None` if there is no such claim, or it does not say.
    pub(crate) async fn claim_size(&self, name: &str) -> Result<Option<u64>> {
        let claim: Option<Claim> = self.find(&Resource::claims(), name).await?;
        Ok(claim.as_ref().and_then(Claim::size))
    }

    /// Removes a snapshot; `false` if there was none.
    pub(crate) async fn remove_snapshot(&self, name: &str) -> Result<bool> {
        let snapshots = self.snapshot_resource().await?;
        self.delete(&snapshots, name).await
    }

    async fn read_snapshot(&self, version: &str, found: &VmSnapshot) -> Result<Snapshot> {
        let status = &found.status;
        let content = match &status.virtual_machine_snapshot_content_name {
            Some(content) => self.find::<Value>(&Resource::snapshot_contents(version), content).await?,
            None => None,
        };
        let vm = content.as_ref().and_then(|content| content.pointer("/spec/source/virtualMachine")).cloned();
        Ok(Snapshot {
            name: found.metadata.name.clone(),
            consistency: Consistency::of(status),
            indications: status.all_indications(),
            taken: status.creation_time.clone(),
            plan: plan(vm.as_ref(), content.as_ref(), &status.snapshot_volumes.excluded_volumes),
            vm,
        })
    }
}

impl Snapshot {
    /// Fails if the guest was to hold still and did not, or if volumes that are wanted are missing.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self, quiesce: Quiesce, teller: &Teller) -> Result<()> {
        if self.consistency != Consistency::Crash {
            return Ok(());
        }
        let what = format!(
            "the guest of snapshot {} did not hold its file systems still ({})",
            self.name,
            self.indications.join(", ")
        );
        match quiesce {
            Quiesce::Never => Ok(()),
            Quiesce::Prefer => {
                teller(Told::Warning(format!("{what}: the disks are as after a power failure")));
                Ok(())
            }
            Quiesce::Require => Err(Error::refused(what)
                .with_hint("install qemu-guest-agent in the guest, or say --quiesce prefer to take the disks as after a power failure")),
        }
    }
}

/// The volumes of a snapshot, as the snapshotted VM names them.
fn plan(vm: Option<&Value>, content: Option<&Value>, excluded: &[String]) -> VolumePlan {
    let mut plan = match (vm, content) {
        (Some(vm), _) => VolumePlan::of_vm(vm),
        (None, Some(content)) => VolumePlan { volumes: backups(content), left_out: Vec::new() },
        (None, None) => VolumePlan::default(),
    };
    let (gone, kept) = plan.volumes.into_iter().partition(|volume| excluded.contains(&volume.name));
    plan.volumes = kept;
    plan.left_out.extend(gone.into_iter().map(|volume: PlannedVolume| LeftOut {
        name: volume.name,
        reason: "not in the snapshot: its storage has no snapshots".to_owned(),
    }));
    plan
}

fn backups(content: &Value) -> Vec<PlannedVolume> {
    let volumes = content.pointer("/spec/volumeBackups").and_then(Value::as_array);
    let volume = |backup: &Value| {
        let text = |pointer: &str| backup.pointer(pointer)?.as_str().map(str::to_owned);
        Some(PlannedVolume {
            name: text("/volumeName")?,
            claim: text("/persistentVolumeClaim/metadata/name")?,
        })
    };
    volumes.into_iter().flatten().filter_map(volume).collect()
}

/// What a snapshot is waiting for, in words.
fn state(status: &SnapshotStatus) -> String {
    if let Some(error) = &status.error {
        return error.message.clone();
    }
    // The human text is in the reason.
    let condition = status.conditions.iter().find(|condition| condition.kind == "Progressing");
    let reason = condition.or_else(|| status.conditions.first()).map(|condition| condition.reason.as_str());
    match reason {
        Some(reason) if !reason.is_empty() => format!("{} ({reason})", phase(status)),
        _ => phase(status).to_owned(),
    }
}

fn phase(status: &SnapshotStatus) -> &str {
    if status.phase.is_empty() { "not begun" } else { &status.phase }
}

/// The error for a VM that has to be quiesced and cannot be.
pub(crate) fn no_agent(vm: &str) -> Error {
    Error::refused(format!(
        "the guest agent of VM {vm} is not connected, so the guest cannot hold its file systems still"
    ))
    .with_hint("install and start qemu-guest-agent in the guest, or say --quiesce prefer")
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kubevirt::types::SourceIndication;

    fn deaf() -> Teller {
        Arc::new(|_| {})
    }

    fn status(indications: &[&str]) -> SnapshotStatus {
        SnapshotStatus {
            ready_to_use: true,
            source_indications: indications
                .iter()
                .map(|&i| SourceIndication { indication: i.into() })
                .collect(),
            ..SnapshotStatus::default()
        }
    }

    fn snapshot(consistency: Consistency) -> Snapshot {
        Snapshot {
            name: "s".into(),
            consistency,
            indications: vec!["Online".into()],
            taken: None,
            vm: None,
            plan: VolumePlan::default(),
        }
    }

    #[test]
    fn indications_tell_the_consistency() {
        for (indications, consistency) in [
            (&[][..], Consistency::Stopped),
            (&["Online", "GuestAgent"], Consistency::GuestAgent),
            (&["Online", "NoGuestAgent"], Consistency::Crash),
            (&["Online"], Consistency::Crash),
            (&["Online", "GuestAgent", "QuiesceTimeout"], Consistency::Crash),
        ] {
            assert_eq!(Consistency::of(&status(indications)), consistency, "{indications:?}");
        }
        let old = SnapshotStatus {
            ready_to_use: true,
            indications: vec!["Online".into()],
            ..SnapshotStatus::default()
        };
        assert_eq!(Consistency::of(&old), Consistency::Crash);
    }

    #[test]
    fn the_policy_decides_about_guests_that_did_not_hold_still() {
        let crash = snapshot(Consistency::Crash);
        crash.check(Quiesce::Never, &deaf()).unwrap();
        crash.check(Quiesce::Prefer, &deaf()).unwrap();
        assert_eq!(crash.check(Quiesce::Require, &deaf()).unwrap_err().kind(), ErrorKind::Refused);
        for fine in [Consistency::GuestAgent, Consistency::Stopped] {
            snapshot(fine).check(Quiesce::Require, &deaf()).unwrap();
        }
    }

    #[test]
    fn excluded_volumes_are_told() {
        let vm = json!({"spec": {"template": {"spec": {"volumes": [
            {"name": "root", "dataVolume": {"name": "db-root"}},
            {"name": "local", "persistentVolumeClaim": {"claimName": "local-data"}},
        ]}}}});
        let found = plan(Some(&vm), None, &["local".to_owned()]);
        assert_eq!(found.volumes.len(), 1);
        assert_eq!((found.left_out.len(), found.left_out[0].name.as_str()), (1, "local"));
        let content = json!({"spec": {"volumeBackups": [
            {"volumeName": "root", "persistentVolumeClaim": {"metadata": {"name": "db-root"}}},
        ]}});
        let found = plan(None, Some(&content), &[]);
        assert_eq!(found.volumes, [PlannedVolume { name: "root".into(), claim: "db-root".into() }]);
    }
}
