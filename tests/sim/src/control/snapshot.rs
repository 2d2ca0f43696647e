//! The snapshot controller: content, volume snapshots, and readiness.

use serde_json::{Value, json};

use super::vm;
use crate::{
    clock,
    store::{self, Key},
    world::{SNAPSHOT_CLASS, State, World},
};

const SNAPSHOTS: &str = "snapshot.kubevirt.io/virtualmachinesnapshots";
const CONTENTS: &str = "snapshot.kubevirt.io/virtualmachinesnapshotcontents";
const VOLUME_SNAPSHOTS: &str = "snapshot.storage.k8s.io/volumesnapshots";
const VMS: &str = "kubevirt.io/virtualmachines";
/// What a snapshot without `failureDeadline` gets.
const DEFAULT_DEADLINE: u64 = 300;

pub(super) fn step(world: &World, state: &mut State) {
    let snapshots: Vec<(Key, Value)> =
        state.store.list(SNAPSHOTS, None).map(|(key, item)| (key.clone(), Value::clone(item))).collect();
    for (key, snapshot) in snapshots {
        let is_over = matches!(snapshot["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if snapshot["metadata"]["deletionTimestamp"].is_null() && !is_over {
            reconcile(world, state, &key, &snapshot);
        }
    }
    collect_contents(state);
}

/// One state further.
fn reconcile(world: &World, state: &mut State, key: &Key, snapshot: &Value) {
    if snapshot["metadata"]["finalizers"].is_null() {
        state.store.update(key, |snapshot| {
            snapshot["metadata"]["finalizers"] = json!(["snapshot.kubevirt.io/vmsnapshot-protection"]);
        });
    }
    let source = snapshot["spec"]["source"]["name"].as_str().unwrap_or_default();
    let vm_key = Key::new(VMS, &key.namespace, source);
    let vm = state.store.find(&vm_key).cloned();
    let content_name = format!("vmsnapshot-content-{}", store::uid(snapshot));
    let content_key = Key::new(CONTENTS, &key.namespace, &content_name);
    let content = state.store.find(&content_key).cloned();
    match (vm, content) {
        (None, None) => wait_for_source(state, key, snapshot),
        (Some(vm), None) => begin(world, state, key, snapshot, &vm, &content_name),
        (_, Some(content)) => {
            let is_taken = content["status"]["volumeSnapshotStatus"].is_array();
            if is_taken {
                finish(state, key, &vm_key, &content_key, &content);
            } else {
                take(world, state, &content_key, &content, source);
            }
        }
    }
}

fn wait_for_source(state: &mut State, key: &Key, snapshot: &Value) {
    let created = snapshot["metadata"]["creationTimestamp"].as_str().and_then(clock::parse_rfc3339);
    let deadline = snapshot["spec"]["failureDeadline"].as_str().and_then(clock::parse_duration);
    let deadline = deadline.map_or(DEFAULT_DEADLINE, |deadline| deadline.as_secs());
    let is_late = deadline > 0 && clock::now() >= created.unwrap_or_default() + deadline;
    let mut conditions = vec![
        condition("Progressing", false, "Source does not exist"),
        condition("Ready", false, "Not ready"),
    ];
    if is_late {
        conditions = vec![
            condition("Failure", true, "snapshot deadline exceeded"),
            condition("Progressing", false, "In error state"),
            condition("Ready", false, "Not ready"),
        ];
    }
    keep_times(&snapshot["status"], &mut conditions);
    let phase = if is_late { "Failed" } else { "InProgress" };
    state.store.update(key, |snapshot| {
        snapshot["status"] = json!({"conditions": conditions, "phase": phase, "readyToUse": false});
    });
}

/// Locks the VM and writes down what is to be taken, the VM itself included.
fn begin(world: &World, state: &mut State, key: &Key, snapshot: &Value, vm: &Value, content: &str) {
    let locked = state.store.update(&State::key("kubevirt.io", "virtualmachines", vm), |vm| {
        let protection = "snapshot.kubevirt.io/snapshot-source-protection";
        match vm["metadata"]["finalizers"].as_array_mut() {
            Some(finalizers) => finalizers.push(protection.into()),
            None => vm["metadata"]["finalizers"] = json!([protection]),
        }
        vm["status"]["snapshotInProgress"] = key.name.as_str().into();
    });
    let mut taken = locked.map_or_else(|| vm.clone(), |vm| Value::clone(&vm));
    if let Some(fields) = taken.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    taken["status"] = json!({"printableStatus": vm["status"]["printableStatus"]});
    let (mut backups, mut included, mut excluded) = (Vec::new(), Vec::new(), Vec::new());
    for volume in vm["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten() {
        let Some(claim) = vm::claim_of(volume) else { continue };
        let class = vm::storage_class(state, &key.namespace, claim);
        let found = state.store.get("/persistentvolumeclaims", &key.namespace, claim);
        match found {
            Some(claim) if class.as_deref() == Some(SNAPSHOT_CLASS) => {
                let volume_name = volume["name"].as_str().unwrap_or_default();
                included.push(volume["name"].clone());
                backups.push(json!({
                    "volumeName": volume_name,
                    "volumeSnapshotName": format!("vmsnapshot-{}-volume-{volume_name}", store::uid(snapshot)),
                    "persistentVolumeClaim": {"metadata": claim["metadata"], "spec": claim["spec"]},
                }));
            }
            _ => excluded.push(volume["name"].clone()),
        }
    }
    // The order of the volumes is nobody's promise.
    state.rng.shuffle(&mut backups);
    let object = json!({
        "metadata": {
            "name": content, "namespace": key.namespace,
            "finalizers": ["snapshot.kubevirt.io/vmsnapshotcontent-protection"],
        },
        "spec": {
            "virtualMachineSnapshotName": key.name, "source": {"virtualMachine": taken}, "volumeBackups": backups,
        },
    });
    world.create(state, "snapshot.kubevirt.io", "virtualmachinesnapshotcontents", object);
    let mut conditions = vec![
        condition("Progressing", true, "Source locked and operation in progress"),
        condition("Ready", false, "Not ready"),
    ];
    keep_times(&snapshot["status"], &mut conditions);
    let mut status = json!({
        "conditions": conditions, "phase": "InProgress", "readyToUse": false, "sourceUID": store::uid(vm),
        "virtualMachineSnapshotContentName": content,
    });
    let mut volumes = json!({});
    if !included.is_empty() {
        volumes["includedVolumes"] = included.into();
    }
    if !excluded.is_empty() {
        volumes["excludedVolumes"] = excluded.into();
    }
    status["snapshotVolumes"] = volumes;
    add_indications(world, state, key, vm, &mut status);
    state.store.update(key, |snapshot| snapshot["status"] = status);
}

/// What the snapshot is worth: taken online, with or without the guest agent.
fn add_indications(world: &World, state: &State, key: &Key, vm: &Value, status: &mut Value) {
    if state.store.get("kubevirt.io/virtualmachineinstances", &key.namespace, store::name(vm)).is_none() {
        return;
    }
    let memo = state.vms.get(&(key.namespace.clone(), store::name(vm).to_owned()));
    let agent = if memo.is_some_and(|memo| memo.has_agent) { "GuestAgent" } else { "NoGuestAgent" };
    status["indications"] = json!([agent, "Online"]);
    if world.config.at_least(7) {
        let message = match agent {
            "GuestAgent" => {
                "Guest agent was active and attempted to quiesce the VM for application consistency"
            }
            _ => "Guest agent is not connected, the snapshot is crash consistent",
        };
        status["sourceIndications"] = json!([
            {"indication": agent, "message": message},
            {"indication": "Online", "message": "Snapshot taken while the VM was running"},
        ]);
    }
}

/// Makes the volume snapshots; what the volumes hold now is what they hold.
fn take(world: &World, state: &mut State, content_key: &Key, content: &Value, vm: &str) {
    let now = clock::rfc3339(clock::now());
    let mut statuses = Vec::new();
    for backup in content["spec"]["volumeBackups"].as_array().into_iter().flatten() {
        let name = backup["volumeSnapshotName"].as_str().unwrap_or_default();
        let claim = store::name(&backup["persistentVolumeClaim"]);
        let place = (content_key.namespace.clone(), claim.to_owned());
        if let Some(volume) = state.volumes.get(&place) {
            let disk = volume.disk.clone();
            state.snapshots.insert((content_key.namespace.clone(), name.to_owned()), disk);
        }
        let uid = state.rng.uid();
        let snapshot = json!({
            "metadata": {
                "name": name, "namespace": content_key.namespace, "ownerReferences": [store::owner(content)],
                "labels": {
                    "snapshot.kubevirt.io/source-vm-name": vm,
                    "snapshot.kubevirt.io/source-vm-namespace": content_key.namespace,
                },
            },
            "spec": {
                "source": {"persistentVolumeClaimName": claim}, "volumeSnapshotClassName": SNAPSHOT_CLASS,
            },
            "status": {
                "boundVolumeSnapshotContentName": format!("snapcontent-{uid}"), "creationTime": now,
                "readyToUse": true,
                "restoreSize": backup["persistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"],
            },
        });
        world.create(state, "snapshot.storage.k8s.io", "volumesnapshots", snapshot);
        statuses.push(json!({"volumeSnapshotName": name, "creationTime": now, "readyToUse": true}));
    }
    state.store.update(content_key, |content| {
        content["status"] =
            json!({"creationTime": now, "readyToUse": true, "volumeSnapshotStatus": statuses});
    });
}

fn finish(state: &mut State, key: &Key, vm: &Key, content_key: &Key, content: &Value) {
    state.store.update(vm, |vm| {
        if let Some(finalizers) = vm["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|item| item != "snapshot.kubevirt.io/snapshot-source-protection");
        }
        if let Some(status) = vm["status"].as_object_mut() {
            status.remove("snapshotInProgress");
        }
    });
    state.store.update(key, |snapshot| {
        let mut conditions =
            vec![condition("Progressing", false, "Operation complete"), condition("Ready", true, "Ready")];
        keep_times(&snapshot["status"], &mut conditions);
        let status = &mut snapshot["status"];
        status["conditions"] = conditions.into();
        status["creationTime"] = content["status"]["creationTime"].clone();
        status["phase"] = "Succeeded".into();
        status["readyToUse"] = true.into();
        status["virtualMachineSnapshotContentName"] = content_key.name.as_str().into();
    });
}

/// Contents go with their snapshot, unless they are to be kept.
fn collect_contents(state: &mut State) {
    let lost: Vec<Key> = state
        .store
        .list(CONTENTS, None)
        .filter(|(key, content)| {
            let owner = content["spec"]["virtualMachineSnapshotName"].as_str().unwrap_or_default();
            let is_retained = content["spec"]["deletionPolicy"] == "Retain";
            content["metadata"]["deletionTimestamp"].is_null()
                && !is_retained
                && state.store.get(SNAPSHOTS, &key.namespace, owner).is_none()
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in lost {
        crate::api::remove_object(state, &key, "Background");
    }
    let lost: Vec<Key> = state
        .store
        .list(VOLUME_SNAPSHOTS, None)
        .filter(|(_, snapshot)| !snapshot["metadata"]["deletionTimestamp"].is_null())
        .map(|(key, _)| key.clone())
        .collect();
    for key in lost {
        state.store.remove(&key);
    }
}

/// A condition as snapshots have it: the text is in the reason.
pub(super) fn condition(kind: &str, is_true: bool, reason: &str) -> Value {
    json!({
        "type": kind, "status": if is_true { "True" } else { "False" }, "reason": reason, "lastProbeTime": null,
        "lastTransitionTime": clock::rfc3339(clock::now()),
    })
}

/// Conditions that did not change keep their time.
pub(super) fn keep_times(old: &Value, conditions: &mut [Value]) {
    for condition in conditions {
        let before = old["conditions"].as_array().into_iter().flatten().find(|item| {
            item["type"] == condition["type"]
                && item["status"] == condition["status"]
                && item["reason"] == condition["reason"]
        });
        if let Some(before) = before {
            condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
        }
    }
}
