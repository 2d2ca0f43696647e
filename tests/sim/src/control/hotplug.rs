//! Volumes that come to an instance and go from it while it runs, phase by phase.

use serde_json::{Value, json};

use crate::{store::Key, world::State};

const INSTANCES: &str = "kubevirt.io/virtualmachineinstances";

/// The phases of a volume that is attached, and of one that is detached.
const PHASES: [(&str, &str); 4] = [
    ("Pending", "AttachedToNode"),
    ("AttachedToNode", "MountedToPod"),
    ("MountedToPod", "Ready"),
    ("Detaching", "UnMountedFromPod"),
];

pub(super) fn step(state: &mut State) {
    let is_moving = |status: &Value| !status["hotplugVolume"].is_null() && status["phase"] != "Ready";
    let busy: Vec<Key> = state
        .store
        .list(INSTANCES, None)
        .filter(|(_, instance)| {
            instance["status"]["phase"] == "Running"
                && instance["status"]["volumeStatus"].as_array().is_some_and(|all| all.iter().any(is_moving))
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in busy {
        state.store.update(&key, |instance| {
            let Some(all) = instance["status"]["volumeStatus"].as_array_mut() else { return };
            all.retain(|status| status["phase"] != "UnMountedFromPod");
            for status in all.iter_mut().filter(|status| is_moving(status)) {
                if let Some((_, next)) = PHASES.iter().find(|(phase, _)| status["phase"] == *phase) {
                    status["phase"] = (*next).into();
                    if *next == "Ready" {
                        status["target"] = "sda".into();
                    }
                }
            }
        });
    }
}

/// The status of a volume that an instance is told to attach.
pub(crate) fn begun(name: &str) -> Value {
    json!({
        "name": name, "target": "", "phase": "Pending", "hotplugVolume": {"attachPodName": format!("hp-volume-{name}")},
        "reason": "", "message": "",
    })
}
