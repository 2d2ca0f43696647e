//! What an export needs, looked at one by one, with the remedy for what is missing. Nothing is made, but by
//! [`probe`].

mod ways;

use serde_json::Value;

pub use self::ways::{ProbeOptions, probe};
use super::{
    Cluster, Power, Resource, Right, VolumePlan,
    access::{TO_EXPORT, TO_SNAPSHOT, grants, review},
    release::minor_of,
    types::{Claim, VirtualMachine},
};
use crate::error::Error;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An export will fail over it.
    Bad,
    /// As it should be.
    Good,
    /// It depends on what is wanted.
    Mind,
}

impl Verdict {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Good => "good",
            Self::Mind => "mind",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, if there is anything to do.
    pub remedy: Option<String>,
}

impl Check {
    pub(crate) fn new(what: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { what, verdict, found: found.into(), remedy: None }
    }

    pub(crate) fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    fn failed(what: &'static str, verdict: Verdict, error: &Error) -> Self {
        Self { remedy: error.hint().map(str::to_owned), ..Self::new(what, verdict, error.to_string()) }
    }
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examination {
    /// In the order in which an export needs them.
    pub checks: Vec<Check>,
    /// Sizes of the VM's volumes together, in bytes; `None` where no VM was named or found.
    pub volume_bytes: Option<u64>,
}

/// Looks at the cluster, and at a VM in it if one is named.
pub async fn examine(cluster: &Cluster, vm: Option<&str>) -> Examination {
    let (mut checks, mut volume_bytes) = (Vec::new(), None);
    let exports = cluster.export_resource().await;
    match &exports {
        Ok(exports) => {
            checks.push(Check::new("cluster", Verdict::Good, cluster.url()));
            checks.push(Check::new("exports", Verdict::Good, exports.api_version()));
        }
        Err(error) => {
            checks.push(Check::failed("exports", Verdict::Bad, error));
            if error.kind() == crate::ErrorKind::Network {
                return Examination { checks, volume_bytes };
            }
        }
    }
    checks.push(match cluster.kubevirt_version().await {
        Some(version) => Check::new("KubeVirt", Verdict::Good, version),
        None => Check::new("KubeVirt", Verdict::Mind, "does not tell its version")
            .remedy("look at its components: 'kubectl get pods -A -l kubevirt.io'"),
    });
    checks.push(match cluster.snapshot_resource().await {
        Ok(snapshots) => Check::new("snapshots", Verdict::Good, snapshots.api_version()),
        Err(error) => Check::failed("snapshots", Verdict::Mind, &error),
    });
    let kubevirt = cluster.kubevirt_object().await;
    checks.extend(kubevirt.as_ref().map(gates).unwrap_or_default());
    for (what, rights, verdict) in [
        ("rights to export", &TO_EXPORT[..], Verdict::Bad),
        ("rights for running VMs", &TO_SNAPSHOT, Verdict::Mind),
    ] {
        checks.push(rights_check(cluster, what, rights, verdict).await);
    }
    let namespace = kubevirt
        .as_ref()
        .and_then(|kubevirt| kubevirt.pointer("/metadata/namespace"))
        .and_then(Value::as_str);
    checks.extend(ways::look(cluster, namespace).await);
    if let Some(name) = vm {
        match cluster.vm(name).await {
            Ok(vm) => volume_bytes = vm_checks(cluster, name, &vm, &mut checks).await,
            Err(error) => checks.push(Check::failed("VM", Verdict::Bad, &error)),
        }
    }
    Examination { checks, volume_bytes }
}

/// Before 1.8 the features are off unless they are listed.
fn gates(kubevirt: &Value) -> Vec<Check> {
    let version =
        kubevirt.pointer("/status/observedKubeVirtVersion").and_then(Value::as_str).unwrap_or_default();
    let gates: Vec<&str> = kubevirt
        .pointer("/spec/configuration/developerConfiguration/featureGates")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    gate_checks(version, &gates)
}

fn gate_checks(version: &str, gates: &[&str]) -> Vec<Check> {
    let needs_gates = minor_of(version).is_some_and(|minor| minor < FIRST_WITHOUT_GATES);
    [("VMExport", "gate of exports", Verdict::Bad), ("Snapshot", "gate of snapshots", Verdict::Mind)]
        .into_iter()
        .filter(|_| needs_gates)
        .map(|(gate, what, verdict)| {
            if gates.contains(&gate) {
                return Check::new(what, Verdict::Good, format!("{gate} is on"));
            }
            Check::new(what, verdict, format!("{gate} is off, and KubeVirt {version} needs it")).remedy(format!(
                "add {gate} to spec.configuration.developerConfiguration.featureGates: 'kubectl edit kubevirt -A'"
            ))
        })
        .collect()
}

async fn rights_check(cluster: &Cluster, what: &'static str, rights: &[Right], verdict: Verdict) -> Check {
    let mut missing = Vec::new();
    if let Err(error) = review(cluster, rights, &mut missing).await {
        let check = Check::new(what, Verdict::Mind, format!("cannot be told: {error}"));
        return check.remedy(error.hint().unwrap_or("ask whoever runs the cluster"));
    }
    if missing.is_empty() {
        return Check::new(what, Verdict::Good, format!("in namespace {}", cluster.namespace()));
    }
    let list: Vec<String> =
        missing.iter().map(|right| format!("{} {}", right.verb, right.full_name())).collect();
    Check::new(what, verdict, format!("missing: {}", list.join(", ")))
        .remedy(grants(cluster, &missing).join(", "))
}

/// Tells how large the volumes are together.
async fn vm_checks(
    cluster: &Cluster,
    name: &str,
    vm: &VirtualMachine,
    checks: &mut Vec<Check>,
) -> Option<u64> {
    let power = match cluster.power(name).await {
        Ok(power) => power,
        Err(error) => {
            checks.push(Check::failed("VM", Verdict::Bad, &error));
            return None;
        }
    };
    let mut bytes = 0_u64;
    checks.push(match power {
        Power::Stopped => Check::new("VM", Verdict::Good, "stopped: exported directly"),
        Power::Running { agent: true } => {
            Check::new("VM", Verdict::Good, "running, with guest agent: exported through a snapshot")
        }
        Power::Running { agent: false } => Check::new(
            "VM",
            Verdict::Mind,
            "running, without guest agent: the snapshot is as after a power failure",
        )
        .remedy("install qemu-guest-agent in the guest, or stop the VM for the export: --stop"),
    });
    let plan = VolumePlan::of_vm(&vm.object);
    for volume in &plan.volumes {
        let found: Result<Option<Claim>, Error> = cluster.find(&Resource::claims(), &volume.claim).await;
        if let Ok(Some(claim)) = &found {
            bytes = bytes.saturating_add(claim.size().unwrap_or(0));
        }
        let cannot = vm.status.volume_snapshot_statuses.iter().find(|s| s.name == volume.name && !s.enabled);
        checks.push(match (found, cannot) {
            (Err(error), _) => Check::failed("volume", Verdict::Bad, &error),
            (Ok(None), _) => Check::new(
                "volume",
                Verdict::Bad,
                format!("{}: claim {} does not exist", volume.name, volume.claim),
            )
            .remedy("name the others with --volume"),
            (Ok(Some(claim)), _) if claim.status.phase != "Bound" => {
                let phase = &claim.status.phase;
                Check::new(
                    "volume",
                    Verdict::Mind,
                    format!("{}: claim {} is {phase}", volume.name, volume.claim),
                )
                .remedy(format!("'kubectl describe pvc {}'", volume.claim))
            }
            (Ok(Some(_)), Some(status)) if power != Power::Stopped => Check::new(
                "volume",
                Verdict::Bad,
                format!("{}: cannot be snapshotted: {}", volume.name, status.reason),
            )
            .remedy("stop the VM for the export (--stop), or name the others with --volume"),
            (Ok(Some(claim)), _) => {
                let size = claim.size().map_or_else(String::new, |size| format!(", {} MiB", size >> 20));
                Check::new("volume", Verdict::Good, format!("{}: claim {}{size}", volume.name, volume.claim))
            }
        });
    }
    for left in &plan.left_out {
        checks.push(Check::new("left out", Verdict::Mind, format!("{}: {}", left.name, left.reason)));
    }
    Some(bytes)
}

/// The first release in which exports and snapshots are on by themselves.
const FIRST_WITHOUT_GATES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_matter_before_release_1_8() {
        let verdicts = |version: &str, gates: &[&str]| {
            gate_checks(version, gates).iter().map(|check| check.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts("v1.7.4", &[]), [Verdict::Bad, Verdict::Mind]);
        assert_eq!(verdicts("v1.7.4", &["VMExport"]), [Verdict::Good, Verdict::Mind]);
        assert_eq!(verdicts("v1.0.0-rc.1", &["VMExport", "Snapshot"]), [Verdict::Good, Verdict::Good]);
        for newer in ["v1.8.0", "v1.10.1", "v4.18.2", "", "devel"] {
            assert_eq!(verdicts(newer, &[]), [], "{newer}");
        }
    }
}
