//! The migration controller: an instance moves from one node to another, phase by phase.

use serde_json::{Value, json};

use crate::{
    clock,
    store::{self, Key},
    world::State,
};

const MIGRATIONS: &str = "kubevirt.io/virtualmachineinstancemigrations";
const INSTANCES: &str = "kubevirt.io/virtualmachineinstances";

/// The phases of a migration that succeeds.
const PHASES: [&str; 7] =
    ["Pending", "Scheduling", "Scheduled", "PreparingTarget", "TargetReady", "Running", "Succeeded"];

/// The nodes that a guest may be on.
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

pub(super) fn step(state: &mut State) {
    let migrations: Vec<(Key, Value)> = state
        .store
        .list(MIGRATIONS, None)
        .filter(|(_, migration)| !is_over(migration))
        .map(|(key, migration)| (key.clone(), Value::clone(migration)))
        .collect();
    for (key, migration) in migrations {
        reconcile(state, &key, &migration);
    }
    unmark(state);
}

/// Whether a migration has ended.
pub(crate) fn is_over(migration: &Value) -> bool {
    matches!(migration["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn reconcile(state: &mut State, key: &Key, migration: &Value) {
    let name = migration["spec"]["vmiName"].as_str().unwrap_or_default();
    let instance_key = Key::new(INSTANCES, &key.namespace, name);
    let Some(instance) = state.store.find(&instance_key).cloned() else {
        return fail(state, key, "the guest has ended");
    };
    let source = instance["status"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let wanted = migration["spec"]["addedNodeSelector"]["kubernetes.io/hostname"].as_str();
    let phase = migration["status"]["phase"].as_str().unwrap_or_default();
    let next = match PHASES.iter().position(|known| *known == phase) {
        None => PHASES[0],
        Some(at) => PHASES.get(at + 1).copied().unwrap_or("Succeeded"),
    };
    let target = match wanted {
        Some(node) => NODES.iter().find(|known| **known == node).copied(),
        None => NODES.iter().find(|known| **known != source).copied(),
    };
    // A node that nobody knows is waited for.
    let Some(target) = target.filter(|_| !(next == "Scheduled" && wanted == Some(source.as_str()))) else {
        if phase != "Scheduling" {
            tell(state, key, "Scheduling", &json!({"sourceNode": source}));
        }
        return;
    };
    let now = clock::rfc3339(clock::now());
    let mut progress = json!({"sourceNode": source, "migrationUid": store::uid(migration)});
    if PHASES.iter().position(|known| *known == next) >= Some(2) {
        progress["targetNode"] = target.into();
        progress["startTimestamp"] = now.clone().into();
    }
    if next == "Succeeded" {
        progress["completed"] = true.into();
        progress["endTimestamp"] = now.into();
    }
    state.store.update(&instance_key, |instance| {
        instance["status"]["migrationState"] = progress.clone();
        if next == "Succeeded" {
            instance["status"]["nodeName"] = target.into();
        }
    });
    tell(state, key, next, &progress);
}

fn tell(state: &mut State, key: &Key, phase: &str, progress: &Value) {
    state.store.update(key, |migration| {
        if migration["metadata"]["finalizers"].is_null() {
            migration["metadata"]["labels"]["kubevirt.io/vmi-name"] = migration["spec"]["vmiName"].clone();
        }
        migration["status"]["phase"] = phase.into();
        migration["status"]["migrationState"] = progress.clone();
    });
}

/// Ends a migration without success.
pub(crate) fn fail(state: &mut State, key: &Key, why: &str) {
    state.store.update(key, |migration| {
        migration["status"]["phase"] = "Failed".into();
        migration["status"]["migrationState"]["failed"] = true.into();
        migration["status"]["migrationState"]["failureReason"] = why.into();
    });
}

/// Instances whose migration was given up are not migrating any more.
fn unmark(state: &mut State) {
    let running: Vec<(String, String)> = state
        .store
        .list(MIGRATIONS, None)
        .filter(|(_, migration)| !is_over(migration))
        .map(|(key, migration)| {
            (key.namespace.clone(), migration["spec"]["vmiName"].as_str().unwrap_or_default().to_owned())
        })
        .collect();
    let left: Vec<Key> = state
        .store
        .list(INSTANCES, None)
        .filter(|(key, instance)| {
            let progress = &instance["status"]["migrationState"];
            !progress.is_null()
                && progress["completed"] != true
                && !running.contains(&(key.namespace.clone(), key.name.clone()))
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in left {
        state.store.update(&key, |instance| {
            instance["status"]["migrationState"]["completed"] = true.into();
            instance["status"]["migrationState"]["failed"] = true.into();
        });
    }
}
