//! What an export waits for, and what can be done about it.

use super::types::{Condition, VmExport};

/// How far an export is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Its links are there.
    Ready,
    /// Something is missing.
    Waiting(Waiting),
}

/// Why an export is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Reason in one word, as the cluster says it.
    pub(super) reason: String,
    /// What that means here.
    pub(super) meaning: String,
    /// What to do about it.
    pub(super) hint: String,
    /// It will not end by itself: wait a little, not long.
    pub(super) hopeless: bool,
    /// The exporter's pod may say more.
    pub(super) ask_pod: bool,
}

/// Judges the status of an export.
pub(super) fn judge(export: &VmExport) -> Readiness {
    let status = &export.status;
    let has_links = status.links.internal.is_some() || status.links.external.is_some();
    if status.phase == "Ready" && has_links {
        return Readiness::Ready;
    }
    Readiness::Waiting(explain(export))
}

fn explain(export: &VmExport) -> Waiting {
    let source = format!("{} {}", export.spec.source.kind, export.spec.source.name);
    let condition = decisive(&export.status.conditions);
    let (reason, message) = condition.map_or(("", ""), |found| (found.reason.as_str(), found.message.trim()));
    let told = |meaning: &str| {
        let message = if message.is_empty() { String::new() } else { format!(" ({message})") };
        format!("{meaning}{message}")
    };
    let name = &export.spec.source.name;
    let waiting = |meaning: String, hint: String| Waiting {
        reason: if reason.is_empty() { export.status.phase.clone() } else { reason.to_owned() },
        meaning,
        hint,
        hopeless: false,
        ask_pod: false,
    };
    // In code the reasons are in CamelCase, in the documentation not always.
    match reason.to_ascii_lowercase().as_str() {
        "inuse" => waiting(
            told(&format!("{source} is in use")),
            match export.spec.source.kind.as_str() {
                "VirtualMachine" => format!("stop the VM ('virtctl stop {name}'), or export it by a snapshot: --source snapshot"),
                _ => "a pod uses the volume, perhaps of another export: 'kubectl get pods' and 'kubectl get vmexport' tell which".to_owned(),
            },
        ),
        "vmnotfound" | "vmsnapshotnotfound" => Waiting {
            hopeless: true,
            ..waiting(told(&format!("{source} does not exist")), "check its name and namespace".to_owned())
        },
        "pvcnotfound" => Waiting {
            hopeless: true,
            ..waiting(told(&format!("{source} does not exist")), "check its name and namespace: 'kubectl get pvc'".to_owned())
        },
        "vmnovolumes" | "vmsnapshotnovolumes" => Waiting {
            hopeless: true,
            ..waiting(
                told(&format!("{source} has no volume that can be exported")),
                "its claims may not exist yet: 'kubectl get pvc,dv'".to_owned(),
            )
        },
        "volumesnotpopulated" => waiting(
            told(&format!("a DataVolume of {source} is not complete")),
            "wait for its import, or start the VM once if the storage binds on first use: 'kubectl get dv'".to_owned(),
        ),
        "pvcpending" => waiting(
            told(&format!("a claim of {source} is not bound")),
            "look at its events: 'kubectl describe pvc'".to_owned(),
        ),
        "notallpvccreated" | "notallpvcscreated" | "notallpvcsready" => waiting(
            told(&format!("the volumes of {source} are being restored for the export")),
            "this takes as long as the storage needs to make volumes from snapshots; a quota may stop it: 'kubectl get pvc'"
                .to_owned(),
        ),
        "podpending" | "initializing" | "unknown" | "" => Waiting {
            ask_pod: true,
            ..waiting(
                told("the exporter's pod is not running yet"),
                "it may wait for a node, an image or its secret: 'kubectl describe pod' of the pod virt-export-… tells"
                    .to_owned(),
            )
        },
        "podcompleted" => waiting(
            told("the exporter's pod has ended and is made anew"),
            "it ends once a day for a new certificate; if it does so all the time, look at its log".to_owned(),
        ),
        "podready" => waiting(told("the links are not there yet"), "this takes a moment".to_owned()),
        _ => Waiting {
            ask_pod: true,
            ..waiting(
                told(&format!("the export is {} ({reason})", export.status.phase)),
                "'kubectl describe vmexport' tells more".to_owned(),
            )
        },
    }
}

/// The condition that tells why: Ready, unless another one is about something that is missing.
fn decisive(conditions: &[Condition]) -> Option<&Condition> {
    let of =
        |kind: &str| conditions.iter().find(|condition| condition.kind == kind && condition.status != "True");
    let ready = of("Ready");
    let is_vague = ready.is_none_or(|ready| {
        matches!(ready.reason.to_ascii_lowercase().as_str(), "" | "unknown" | "initializing" | "podpending")
    });
    let claim = of("PVCReady").filter(|claim| claim.reason.eq_ignore_ascii_case("PVCNotFound"));
    let volumes = of("VolumesCreated").filter(|volumes| !volumes.reason.is_empty());
    if is_vague { claim.or(volumes).or(ready) } else { ready }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubevirt::types::{ExportLinks, TypedReference};

    fn export(kind: &str, phase: &str, conditions: &[(&str, &str, &str, &str)]) -> VmExport {
        let mut export = VmExport::default();
        export.spec.source = TypedReference { api_group: None, kind: kind.into(), name: "db".into() };
        export.status.phase = phase.into();
        export.status.conditions = conditions
            .iter()
            .map(|&(kind, status, reason, message)| Condition {
                kind: kind.into(),
                status: status.into(),
                reason: reason.into(),
                message: message.into(),
                last_transition_time: None,
            })
            .collect();
        export
    }

    fn waiting(export: &VmExport) -> Waiting {
        match judge(export) {
            Readiness::Waiting(waiting) => waiting,
            Readiness::Ready => panic!("ready: {export:?}"),
        }
    }

    #[test]
    fn ready_needs_links() {
        let mut ready = export("VirtualMachine", "Ready", &[("Ready", "True", "PodReady", "")]);
        assert!(matches!(judge(&ready), Readiness::Waiting(_)));
        ready.status.links.internal = Some(ExportLinks::default());
        assert_eq!(judge(&ready), Readiness::Ready);
        ready.status.phase = "Pending".into();
        assert!(matches!(judge(&ready), Readiness::Waiting(_)));
    }

    #[test]
    fn every_reason_says_what_to_do() {
        for (kind, phase, reason, means, hint, hopeless) in [
            ("VirtualMachine", "Pending", "InUse", "is in use", "--source snapshot", false),
            ("PersistentVolumeClaim", "Pending", "inuse", "is in use", "kubectl get pods", false),
            ("VirtualMachine", "Skipped", "VMNotFound", "does not exist", "namespace", true),
            ("VirtualMachineSnapshot", "Skipped", "VMSnapshotNotFound", "does not exist", "namespace", true),
            ("VirtualMachine", "Skipped", "VMNoVolumes", "no volume", "kubectl get pvc", true),
            ("VirtualMachine", "Pending", "VolumesNotPopulated", "not complete", "kubectl get dv", false),
            ("VirtualMachineSnapshot", "Pending", "NotAllPVCsCreated", "restored", "quota", false),
            ("VirtualMachine", "Pending", "PodPending", "pod", "kubectl describe pod", false),
            ("VirtualMachine", "Pending", "SomethingNew", "SomethingNew", "kubectl describe vmexport", false),
        ] {
            let found = waiting(&export(kind, phase, &[("Ready", "False", reason, "the message")]));
            assert!(found.meaning.contains(means), "{reason}: {}", found.meaning);
            assert!(found.hint.contains(hint), "{reason}: {}", found.hint);
            assert_eq!(found.hopeless, hopeless, "{reason}");
            assert!(reason == "SomethingNew" || found.meaning.contains("the message"), "{}", found.meaning);
        }
    }

    #[test]
    fn a_missing_claim_is_told_by_its_own_condition() {
        let missing = export(
            "PersistentVolumeClaim",
            "Pending",
            &[("Ready", "False", "Initializing", ""), ("PVCReady", "False", "PVCNotFound", "pvc gone")],
        );
        let found = waiting(&missing);
        assert_eq!((found.reason.as_str(), found.hopeless), ("PVCNotFound", true));
        let restoring = export(
            "VirtualMachineSnapshot",
            "Pending",
            &[("VolumesCreated", "False", "NotAllPVCsCreated", "")],
        );
        assert!(waiting(&restoring).meaning.contains("restored"));
    }
}
