//! Making a snapshot that is worth what was asked for, or none.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{SnapshotInfo, Snapshots};
use crate::{
    error::{Error, Result},
    kubevirt::{
        Acting, Power, Quiesce, Told, Vms, VolumePlan, go_duration, no_agent, resource::check_name, time,
        types::VirtualMachine,
    },
};

/// What a snapshot is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The VM.
    pub vm: String,
    /// Name of the snapshot; `None` = the VM's and the time.
    pub name: Option<String>,
    /// What is demanded of a guest that runs.
    pub quiesce: Quiesce,
    /// Volumes that cannot be snapshotted may be missing in it.
    pub partial: bool,
    /// After so long the cluster gives up; `None` = the longest wait, or what the cluster thinks.
    pub deadline: Option<Duration>,
    /// What it holds stays when the snapshot is deleted.
    pub retain: bool,
}

impl SnapshotRequest {
    /// One of all volumes of a VM.
    pub fn of(vm: impl Into<String>) -> Self {
        Self {
            vm: vm.into(),
            name: None,
            quiesce: Quiesce::default(),
            partial: false,
            deadline: None,
            retain: false,
        }
    }
}

impl Snapshots {
    /// Makes a snapshot of a VM.
    ///
    /// # Errors
    /// There is no such VM; a volume cannot be snapshotted; the guest was to hold still and cannot, or did
    /// not; the cluster refuses, cannot be reached, fails, or is not done in time. A snapshot that turns out
    /// to be less than was asked for is removed again.
    pub async fn create(&self, request: &SnapshotRequest, acting: &Acting) -> Result<SnapshotInfo> {
        let vm = Vms::new(self.cluster.clone()).find(&request.vm).await?;
        let left_out = self.check(request, &vm).await?;
        let name = match &request.name {
            Some(name) => name.clone(),
            None => default_name(&request.vm, &time::now()),
        };
        check_name("VirtualMachineSnapshot", &name)?;
        let resource = self.cluster.snapshot_resource().await?;
        let mut spec = json!({
            "source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": request.vm},
        });
        if let Some(deadline) = request.deadline.or(acting.wait) {
            spec["failureDeadline"] = go_duration(deadline).into();
        }
        if request.retain {
            spec["deletionPolicy"] = "Retain".into();
        }
        let object = json!({
            "apiVersion": resource.api_version(),
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": self.cluster.namespace()},
            "spec": spec,
        });
        self.cluster.make(&resource, &object, acting.dry_run).await?;
        if acting.dry_run {
            return Ok(SnapshotInfo {
                name,
                namespace: self.cluster.namespace().to_owned(),
                vm_name: request.vm.clone(),
                consistency: "unknown",
                ..SnapshotInfo::default()
            });
        }
        if let Some(wait) = acting.wait {
            let made = self.cluster.usable_snapshot(&name, wait, &self.teller).await.map_err(|error| {
                error.with_further_hint(format!(
                    "it stays: 'vmferry snapshot delete {name} -n {}' removes it",
                    self.cluster.namespace()
                ))
            })?;
            if let Err(error) = made.check(request.quiesce, &self.teller) {
                return Err(self.removed(&name, error).await);
            }
            // Beside those that were known not to be possible.
            let found: Vec<_> = made
                .plan
                .left_out
                .iter()
                .filter(|left| left.reason.contains("not in the snapshot"))
                .collect();
            let missing: Vec<&str> = found
                .iter()
                .map(|left| left.name.as_str())
                .filter(|name| !left_out.iter().any(|left| left == name))
                .collect();
            if !missing.is_empty() && !request.partial {
                let error = Error::refused(format!("the snapshot lacks {}", missing.join(", ")))
                    .with_hint("--partial takes it all the same");
                return Err(self.removed(&name, error).await);
            }
        }
        let deadline = Instant::now() + acting.wait.unwrap_or_default();
        Self { cluster: self.cluster.until(deadline), ..self.clone() }.get(&name).await
    }

    /// Whether the VM can give what is asked for; the volumes that will be missing.
    async fn check(&self, request: &SnapshotRequest, vm: &VirtualMachine) -> Result<Vec<String>> {
        let plan = VolumePlan::of_vm(&vm.object);
        let unfit: Vec<(&str, &str)> = vm
            .status
            .volume_snapshot_statuses
            .iter()
            .filter(|status| !status.enabled && plan.volumes.iter().any(|volume| volume.name == status.name))
            .map(|status| (status.name.as_str(), status.reason.as_str()))
            .collect();
        let list =
            unfit.iter().map(|(name, reason)| format!("{name} ({reason})")).collect::<Vec<_>>().join(", ");
        if !unfit.is_empty() && !request.partial {
            return Err(Error::refused(format!(
                "VM {}/{} has volumes that cannot be snapshotted: {list}",
                self.cluster.namespace(),
                request.vm
            ))
            .with_hint("--partial makes a snapshot without them"));
        }
        if !unfit.is_empty() {
            (self.teller)(Told::Warning(format!("not in the snapshot: {list}")));
        }
        if request.quiesce == Quiesce::Require
            && self.cluster.power(&request.vm).await? == (Power::Running { agent: false })
        {
            return Err(no_agent(&request.vm));
        }
        Ok(unfit.into_iter().map(|(name, _)| name.to_owned()).collect())
    }

    /// Removes a snapshot that is not what it was to be.
    async fn removed(&self, name: &str, error: Error) -> Error {
        match self.cluster.remove_snapshot(name).await {
            Ok(_) => error.with_further_hint(format!("the snapshot {name} was removed again")),
            Err(failed) => {
                error.with_further_hint(format!("the snapshot {name} could not be removed again: {failed}"))
            }
        }
    }
}

/// `web-20261123-063848`.
fn default_name(vm: &str, now: &str) -> String {
    let digits: String = now.chars().filter(char::is_ascii_digit).collect();
    let (date, clock) = digits.split_at(digits.len().min(8));
    let base: String = vm.chars().take(MOST_OF_VM).collect();
    format!("{}-{date}-{clock}", base.trim_end_matches(['-', '.']))
}

/// So that the whole is a name.
const MOST_OF_VM: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_names_are_names() {
        assert_eq!(default_name("web", "2026-11-23T06:38:48Z"), "web-20261123-063848");
        let long = default_name(&"x".repeat(253), "2026-11-23T06:38:48Z");
        check_name("VirtualMachineSnapshot", &long).unwrap();
    }
}
