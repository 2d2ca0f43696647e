//! The refusals of the lifecycle calls, and what can be done about them.
//!
//! KubeVirt tells them by text alone: some come as a conflict, some as an internal error, some as if a
//! right were missing.

use crate::error::{Error, ErrorKind};

/// A refusal that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    meaning: &'static str,
    hint: &'static str,
    /// The VM is as it was asked for already.
    pub(super) already: bool,
}

impl Refusal {
    /// What the cluster's text means.
    pub(super) fn of(told: &str) -> Option<Self> {
        let found = KNOWN.iter().find(|(part, ..)| told.contains(part))?;
        let (_, meaning, hint, already) = *found;
        Some(Self { meaning, hint, already })
    }

    /// The error: `cannot start VM demo/web: it is running already`.
    pub(super) fn error(self, verb: &str, vm: &str, told: String) -> Error {
        Error::new(ErrorKind::Cluster, format!("cannot {verb} VM {vm}: {}", self.meaning))
            .with_hint(self.hint)
            .with_source(Error::failed(told))
    }
}

/// Part of the text, what it means, what to do, and whether that is what was asked for.
///
/// The first that fits counts: what is told by a part of another text stands behind it.
const KNOWN: [(&str, &str, &str, bool); 22] = [
    ("VM is already running", "it is running already", "'vmferry vm restart' restarts it", true),
    (
        "does not support manual start requests",
        "its run strategy starts it without being asked",
        "it may be starting, or its guest may have ended for good (strategy Once): 'vmferry vm status' tells",
        false,
    ),
    (
        "does not support starting VM from failed state",
        "its guest failed, and its run strategy restarts it by itself",
        "'vmferry vm status' tells what failed; stop the VM before it is started by hand",
        false,
    ),
    (
        "stop/start already underway",
        "it is being started or stopped already",
        "wait for that: 'vmferry vm status -w'",
        true,
    ),
    (
        "VM recovery required",
        "it has to be recovered by hand after a volume migration that was interrupted",
        "put the volumes of its description right: 'kubectl describe vm' tells which",
        false,
    ),
    (
        "only supports manual stop requests with a shorter graceperiod",
        "it is being stopped already",
        "a shorter grace period hurries it: --grace-period, or --force for none",
        true,
    ),
    (
        "does not support manual restart requests",
        "its run strategy does not let it run on (Halted, Once)",
        "'vmferry vm start' starts a VM that is stopped",
        false,
    ),
    ("VM is not running", "it is not running", "'vmferry vm start' starts it", true),
    ("VMI is not running", "it is not running", "'vmferry vm start' starts it", true),
    ("VMI is not started", "it is not running", "'vmferry vm start' starts it", true),
    ("VMI is already paused", "it is paused already", "'vmferry vm unpause' lets it go on", true),
    ("VMI is not paused", "it is not paused", "'vmferry vm status' tells what it does", true),
    ("VMI is paused", "it is paused", "'vmferry vm unpause' lets it go on", false),
    (
        "VM snapshot is in progress",
        "a snapshot of it is being made",
        "wait for that: 'vmferry vm status -w'",
        false,
    ),
    ("currently being migrated", "it is being migrated", "wait for that: 'vmferry vm status -w'", false),
    (
        "with LivenessProbe is currently not supported",
        "it has a liveness probe, which would take a paused guest for a dead one",
        "take the probe out of the VM's description, and restart it",
        false,
    ),
    (
        "because volume with that name already exists",
        "it has a volume of that name",
        "choose another name: --name; 'vmferry volume list' lists its volumes",
        true,
    ),
    (
        "because it already exists",
        "it has that claim already, as another volume",
        "'vmferry volume list' lists its volumes",
        true,
    ),
    (
        "because it does not exist",
        "it has no volume of that name",
        "'vmferry volume list' lists its volumes",
        true,
    ),
    (
        "is not hotpluggable",
        "that volume was not attached while it ran",
        "take it out of the VM's description while the VM is stopped",
        false,
    ),
    (
        // Before 1.6.
        "HotplugVolumes feature gate is not enabled",
        "the cluster does not allow it",
        "switch the feature gate HotplugVolumes on: add it to spec.configuration.developerConfiguration.featureGates of \
         the KubeVirt object ('kubectl edit kubevirt -A')",
        false,
    ),
    (
        "HotplugVolumes feature gate to use this API",
        "the cluster does not allow it",
        "switch the feature gate HotplugVolumes, or from KubeVirt 1.6 on DeclarativeHotplugVolumes, on: add it to \
         spec.configuration.developerConfiguration.featureGates of the KubeVirt object ('kubectl edit kubevirt -A')",
        false,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_of_the_cluster_has_a_meaning() {
        let conflict = |text: &str| {
            format!("Operation cannot be fulfilled on virtualmachine.kubevirt.io \"db\": {text}")
        };
        for (text, means) in [
            ("VM is already running", "running already"),
            ("Always does not support manual start requests", "without being asked"),
            ("RerunOnFailure does not support starting VM from failed state", "guest failed"),
            ("unable to complete request: stop/start already underway", "being started or stopped"),
            ("VM recovery required: volumes", "recovered by hand"),
            ("VM is not running", "not running"),
            ("VM is not running: Halted", "not running"),
            ("Halted only supports manual stop requests with a shorter graceperiod", "being stopped"),
            ("RunStategy Halted does not support manual restart requests", "does not let it run on"),
            ("VMI is already paused", "paused already"),
            ("VMI is not paused", "not paused"),
            ("VM snapshot is in progress", "snapshot"),
            ("VMI is paused", "paused"),
            ("Unable to Add Volume because HotplugVolumes feature gate is not enabled.", "does not allow"),
        ] {
            let refusal = Refusal::of(&conflict(text)).unwrap_or_else(|| panic!("{text}"));
            let error = refusal.error("start", "demo/db", conflict(text));
            assert!(error.to_string().starts_with("cannot start VM demo/db: "), "{error}");
            assert!(error.to_string().contains(means), "{text}: {error}");
            assert!(error.hint().is_some() && error.kind() == ErrorKind::Cluster);
        }
        assert_eq!(Refusal::of("the object has been modified"), None);
    }
}
