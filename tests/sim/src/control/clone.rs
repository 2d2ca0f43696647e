//! The clone controller: a snapshot of the source, a restore to the target, and both away again.

use serde_json::{Value, json};

use super::snapshot::{condition, keep_times};
use crate::{
    api::remove_object,
    store::{self, Key},
    world::{State, World},
};

const CLONES: &str = "clone.kubevirt.io/virtualmachineclones";
const VMS: &str = "kubevirt.io/virtualmachines";
const SNAPSHOTS: &str = "snapshot.kubevirt.io/virtualmachinesnapshots";
const RESTORES: &str = "snapshot.kubevirt.io/virtualmachinerestores";

pub(super) fn step(world: &World, state: &mut State) {
    let clones: Vec<(Key, Value)> = state
        .store
        .list(CLONES, None)
        .filter(|(_, clone)| {
            !matches!(clone["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
                && clone["metadata"]["deletionTimestamp"].is_null()
        })
        .map(|(key, clone)| (key.clone(), Value::clone(clone)))
        .collect();
    for (key, clone) in clones {
        reconcile(world, state, &key, &clone);
    }
}

fn reconcile(world: &World, state: &mut State, key: &Key, clone: &Value) {
    let uid = store::uid(clone);
    let source = &clone["spec"]["source"];
    let is_vm = source["kind"] == "VirtualMachine";
    let snapshot_name = if is_vm {
        format!("tmp-snapshot-{uid}")
    } else {
        source["name"].as_str().unwrap_or_default().to_owned()
    };
    let snapshot = state.store.get(SNAPSHOTS, &key.namespace, &snapshot_name).cloned();
    let restore_key = Key::new(RESTORES, &key.namespace, &format!("tmp-restore-{uid}"));
    let restore = state.store.find(&restore_key).cloned();
    let vm = state.store.get(VMS, &key.namespace, source["name"].as_str().unwrap_or_default());
    if is_vm && vm.is_some_and(|vm| has_backend_storage(vm)) {
        let name = source["name"].as_str().unwrap_or_default();
        let why =
            format!("Clone of source with backendstorage is not supported: VM {}/{name}", key.namespace);
        state.store.update(key, |clone| {
            let conditions = [condition("Progressing", false, "Failed"), condition("Ready", false, &why)];
            clone["status"] = json!({"phase": "Failed", "conditions": conditions});
        });
        return;
    }
    let metadata = |name: &str| json!({"name": name, "namespace": key.namespace, "ownerReferences": [store::owner(clone)]});
    match (snapshot, restore) {
        (None, _) if is_vm => {
            let snapshot = json!({"metadata": metadata(&snapshot_name), "spec": {"source": source}});
            world.create(state, "snapshot.kubevirt.io", "virtualmachinesnapshots", snapshot);
            tell(state, key, "SnapshotInProgress", "");
        }
        (Some(snapshot), None) if snapshot["status"]["readyToUse"] == true => {
            let restore = json!({
                "metadata": metadata(&restore_key.name),
                "spec": {"target": clone["spec"]["target"], "virtualMachineSnapshotName": snapshot_name},
            });
            world.create(state, "snapshot.kubevirt.io", "virtualmachinerestores", restore);
            tell(state, key, "RestoreInProgress", "");
        }
        (_, Some(restore)) if restore["status"]["complete"] == true => {
            remove_object(state, &restore_key, "Background");
            if is_vm {
                remove_object(state, &Key::new(SNAPSHOTS, &key.namespace, &snapshot_name), "Background");
            }
            let target = clone["spec"]["target"]["name"].as_str().unwrap_or_default();
            tell(state, key, "Succeeded", target);
        }
        _ => {}
    }
}

/// Whether a VM keeps state of its own that is on no disk.
fn has_backend_storage(vm: &Value) -> bool {
    let domain = &vm["spec"]["template"]["spec"]["domain"];
    domain["devices"]["tpm"]["persistent"] == true
        || domain["firmware"]["bootloader"]["efi"]["persistent"] == true
}

fn tell(state: &mut State, key: &Key, phase: &str, target: &str) {
    let is_done = phase == "Succeeded";
    state.store.update(key, |clone| {
        let reason = if is_done { "Ready" } else { "Still processing" };
        let mut conditions =
            vec![condition("Progressing", !is_done, reason), condition("Ready", is_done, reason)];
        keep_times(&clone["status"], &mut conditions);
        clone["status"] = json!({"conditions": conditions, "phase": phase});
        if is_done {
            clone["status"]["targetName"] = target.into();
        }
    });
}
