//! What a VM does, and what it waits for.

use serde::Serialize;
use serde_json::Value;

use super::{
    Instance,
    info::{ConditionInfo, PowerState, power, printable, run_strategy, text},
};
use crate::kubevirt::types::{Condition, VirtualMachine};

/// What a VM does, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmState {
    /// The VM, `namespace/name`.
    pub vm: String,
    /// Its status in lower case, as [`VmInfo::state`](super::VmInfo::state).
    pub state: String,
    /// Whether it has power.
    pub power_state: PowerState,
    /// When it is to run.
    pub run_strategy: String,
    /// Whether the guest is ready.
    pub ready: bool,
    /// What it waits for, or what is wrong, as the cluster says.
    pub reason: Option<String>,
    /// Phase of its instance.
    pub phase: Option<String>,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Whether the guest agent answers.
    pub guest_agent: bool,
    /// Whether it is to be restarted for a change of its description to count.
    pub restart_required: bool,
    /// What was asked for and has not been done yet: `Start`, `Stop`.
    pub requests: Vec<String>,
    /// The snapshot that is being made of it.
    pub snapshot_in_progress: Option<String>,
    /// The restore that is going on.
    pub restore_in_progress: Option<String>,
    /// The phases of its instance so far.
    pub phases: Vec<PhaseInfo>,
    /// Conditions of the VM.
    pub conditions: Vec<ConditionInfo>,
}

/// A phase of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseInfo {
    /// The phase.
    pub phase: String,
    /// When it began, in RFC 3339.
    pub since: String,
}

impl VmState {
    pub(super) fn new(vm: &VirtualMachine, instance: Option<&Instance>) -> Self {
        let object = &vm.object;
        let has = |kind: &str| {
            vm.status.conditions.iter().any(|found| found.kind == kind && found.status == "True")
        };
        let owned = |place: &str| text(object, place).map(str::to_owned);
        let requests = object.pointer("/status/stateChangeRequests").and_then(Value::as_array);
        let phases = instance.map(|instance| instance.status.phase_transition_timestamps.as_slice());
        Self {
            vm: format!("{}/{}", vm.metadata.namespace, vm.metadata.name),
            state: printable(object).to_ascii_lowercase(),
            power_state: power(object),
            run_strategy: run_strategy(object).to_owned(),
            ready: has("Ready"),
            reason: reason(vm, instance),
            phase: instance.map(|instance| instance.status.phase.clone()),
            node: instance.and_then(|instance| instance.status.node_name.clone()),
            guest_agent: instance.is_some_and(|instance| instance.is("AgentConnected")),
            restart_required: has("RestartRequired"),
            requests: requests
                .into_iter()
                .flatten()
                .filter_map(|request| text(request, "/action").map(str::to_owned))
                .collect(),
            snapshot_in_progress: owned("/status/snapshotInProgress"),
            restore_in_progress: owned("/status/restoreInProgress"),
            phases: phases
                .unwrap_or_default()
                .iter()
                .map(|change| PhaseInfo {
                    phase: change.phase.clone(),
                    since: change.phase_transition_timestamp.clone(),
                })
                .collect(),
            conditions: vm.status.conditions.iter().map(ConditionInfo::from).collect(),
        }
    }
}

/// What a VM waits for or what is wrong with it, in the cluster's words; `None` if all is well, or if
/// nothing is said.
pub(super) fn reason(vm: &VirtualMachine, instance: Option<&Instance>) -> Option<String> {
    let of_vm = &vm.status.conditions;
    let of_instance = instance.map(|instance| instance.status.conditions.as_slice()).unwrap_or_default();
    let found = TELLING.iter().find_map(|(kind, status)| {
        let tells = |condition: &&Condition| {
            condition.kind == *kind
                && condition.status == *status
                && !(condition.message.is_empty() && condition.reason.is_empty())
        };
        of_instance.iter().find(tells).or_else(|| of_vm.iter().find(tells))
    })?;
    // A VM that does not run has no instance, and that is no news.
    if found.reason == "VMINotExists" {
        return None;
    }
    Some(if found.message.trim().is_empty() { found.reason.clone() } else { found.message.trim().to_owned() })
}

/// The conditions that say what is wrong, those first that say it best.
const TELLING: [(&str, &str); 7] = [
    ("Failure", "True"),
    ("ManualRecoveryRequired", "True"),
    ("PodScheduled", "False"),
    ("DataVolumesReady", "False"),
    ("Provisioning", "False"),
    ("Synchronized", "False"),
    ("Ready", "False"),
];
