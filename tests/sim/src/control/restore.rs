//! The restore controller: claims from a snapshot, and the VM that has them.

use serde_json::{Value, json};

use super::{
    snapshot::{condition, keep_times},
    source, vm,
};
use crate::{
    clock,
    store::{self, Key, patch},
    world::{State, World},
};

const RESTORES: &str = "snapshot.kubevirt.io/virtualmachinerestores";
const VMS: &str = "kubevirt.io/virtualmachines";

pub(super) fn step(world: &World, state: &mut State) {
    let restores: Vec<(Key, Value)> = state
        .store
        .list(RESTORES, None)
        .filter(|(_, restore)| {
            restore["status"]["complete"] != true && restore["metadata"]["deletionTimestamp"].is_null()
        })
        .map(|(key, restore)| (key.clone(), Value::clone(restore)))
        .collect();
    for (key, restore) in restores {
        reconcile(world, state, &key, &restore);
    }
}

fn reconcile(world: &World, state: &mut State, key: &Key, restore: &Value) {
    let name = restore["spec"]["virtualMachineSnapshotName"].as_str().unwrap_or_default();
    let snapshot = state.store.get("snapshot.kubevirt.io/virtualmachinesnapshots", &key.namespace, name);
    let content = snapshot
        .filter(|snapshot| snapshot["status"]["readyToUse"] == true)
        .and_then(|snapshot| snapshot["status"]["virtualMachineSnapshotContentName"].as_str())
        .and_then(|content| {
            state.store.get("snapshot.kubevirt.io/virtualmachinesnapshotcontents", &key.namespace, content)
        });
    let Some(content) = content.cloned() else {
        return tell(state, key, false, "VirtualMachineSnapshot not ready or does not exist", &[]);
    };
    if restore["metadata"]["finalizers"].is_null() {
        state.store.update(key, |restore| {
            restore["metadata"]["finalizers"] = json!(["snapshot.kubevirt.io/vmrestore-protection"]);
        });
    }
    let target = restore["spec"]["target"]["name"].as_str().unwrap_or_default();
    // It never gets anywhere with a VM that is another one than the snapshot's.
    let source = &content["spec"]["source"]["virtualMachine"]["metadata"]["uid"];
    if state.store.get(VMS, &key.namespace, target).is_some_and(|vm| vm["metadata"]["uid"] != *source) {
        let message = "restore source and restore target are different but restore target already exists";
        return tell(state, key, false, message, &[]);
    }
    if state.store.get("kubevirt.io/virtualmachineinstances", &key.namespace, target).is_some() {
        return wait_for_target(state, key, restore, target);
    }
    let (mut restores, mut is_bound) = (Vec::new(), true);
    for backup in content["spec"]["volumeBackups"].as_array().into_iter().flatten() {
        let volume = backup["volumeName"].as_str().unwrap_or_default();
        let claim = format!("restore-{}-{volume}", store::uid(restore));
        match state.store.get("/persistentvolumeclaims", &key.namespace, &claim) {
            Some(claim) => is_bound &= claim["status"]["phase"] == "Bound",
            None => {
                is_bound = false;
                let object = restored_claim(backup, &claim, key, restore, &content);
                world.create(state, "", "persistentvolumeclaims", object);
            }
        }
        restores.push(json!({
            "volumeName": volume, "persistentVolumeClaim": claim, "volumeSnapshotName": backup["volumeSnapshotName"],
        }));
    }
    if !is_bound {
        return tell(state, key, false, "Creating new PVCs", &restores);
    }
    // Claims that are made before their VM is belong to nobody.
    let was_there = state.store.get(VMS, &key.namespace, target).is_some();
    let vm = put_vm(world, state, key, target, restore, &content, &restores);
    if was_there && restore["spec"]["volumeOwnershipPolicy"] != "None" {
        own(state, key, &vm, &restores);
    }
    state.store.update(key, |restore| restore["metadata"]["ownerReferences"] = json!([store::owner(&vm)]));
    tell(state, key, true, "Operation complete", &restores);
}

/// The claims that were restored into a VM belong to it, and go with it.
fn own(state: &mut State, key: &Key, vm: &Value, restores: &[Value]) {
    for claim in restores.iter().filter_map(|restore| restore["persistentVolumeClaim"].as_str()) {
        state.store.update(&Key::new("/persistentvolumeclaims", &key.namespace, claim), |claim| {
            claim["metadata"]["ownerReferences"] = json!([store::owner(vm)]);
        });
    }
}

/// The VM runs: what happens now is up to the policy.
fn wait_for_target(state: &mut State, key: &Key, restore: &Value, target: &str) {
    match restore["spec"]["targetReadinessPolicy"].as_str() {
        Some("StopTarget") => {
            vm::set_running(state, &key.namespace, target, false);
            tell(state, key, false, "Automatically stopping restore target for restore operation", &[]);
        }
        Some("FailImmediate") => {
            let message = "Restore target must be powered off before restore operation";
            tell(state, key, false, message, &[]);
            state.store.update(key, |restore| {
                if let Some(conditions) = restore["status"]["conditions"].as_array_mut() {
                    conditions.retain(|condition| condition["type"] != "Failure");
                    conditions.push(condition("Failure", true, message));
                }
            });
        }
        _ => {
            let message = "Waiting for target VM to be powered off. Please stop the restore target to proceed with restore";
            tell(state, key, false, message, &[]);
        }
    }
}

fn restored_claim(backup: &Value, name: &str, key: &Key, restore: &Value, content: &Value) -> Value {
    let mut claim = source::claim_from_backup(backup, name, &key.namespace);
    let vm = store::name(&content["spec"]["source"]["virtualMachine"]);
    claim["metadata"]["labels"] = json!({
        "restore.kubevirt.io/source-vm-name": vm, "restore.kubevirt.io/source-vm-namespace": key.namespace,
    });
    let annotations = &mut claim["metadata"]["annotations"];
    annotations["restore.kubevirt.io/name"] = key.name.as_str().into();
    annotations["restore.kubevirt.io/lastRestoreUID"] =
        format!("{}-{}", key.name, store::uid(restore)).into();
    claim
}

/// The target VM, new or changed, with the restored claims.
fn put_vm(
    world: &World,
    state: &mut State,
    key: &Key,
    target: &str,
    restore: &Value,
    content: &Value,
    restores: &[Value],
) -> std::sync::Arc<Value> {
    let mut spec = content["spec"]["source"]["virtualMachine"]["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("dataVolumeTemplates");
    }
    for volume in spec["template"]["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        let restored = restores.iter().find(|restore| restore["volumeName"] == volume["name"]);
        if let Some(restored) = restored {
            *volume = json!({
                "name": volume["name"],
                "persistentVolumeClaim": {"claimName": restored["persistentVolumeClaim"]},
            });
        }
    }
    let vm_key = Key::new(VMS, &key.namespace, target);
    let put_back = |vm: &mut Value| {
        // A VM that was stopped for it stays stopped.
        let strategy = vm["spec"]["runStrategy"].clone();
        vm["spec"] = spec.clone();
        if !strategy.is_null() {
            vm["spec"]["runStrategy"] = strategy;
        }
        patch_vm(vm, restore);
    };
    if let Some(vm) = state.store.update(&vm_key, put_back) {
        return vm;
    }
    let domain = &mut spec["template"]["spec"]["domain"];
    domain["firmware"]["uuid"] = state.rng.uid().into();
    domain["firmware"]["serial"] = state.rng.uid().into();
    let mut vm = json!({"metadata": {"name": target, "namespace": key.namespace}, "spec": spec});
    patch_vm(&mut vm, restore);
    crate::api::default_vm(&mut vm, state);
    world.create(state, "kubevirt.io", "virtualmachines", vm)
}

/// What the restore wants to be different.
fn patch_vm(vm: &mut Value, restore: &Value) {
    for text in restore["spec"]["patches"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if let Ok(change) = serde_json::from_str::<Value>(text) {
            // One that does not fit is passed over.
            let _ = patch::json_patch(vm, &json!([change]));
        }
    }
}

fn tell(state: &mut State, key: &Key, is_complete: bool, reason: &str, restores: &[Value]) {
    state.store.update(key, |restore| {
        let ready = if is_complete { "Operation complete" } else { "Waiting" };
        let mut conditions =
            vec![condition("Progressing", !is_complete, reason), condition("Ready", is_complete, ready)];
        keep_times(&restore["status"], &mut conditions);
        let mut status = json!({"complete": is_complete, "conditions": conditions});
        if !restores.is_empty() {
            status["restores"] = restores.to_vec().into();
        }
        if is_complete {
            status["restoreTime"] = clock::rfc3339(clock::now()).into();
        }
        restore["status"] = status;
    });
}
