//! Garbage collection: what has lost all its owners goes, and what waits for finalizers is finished.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    api::remove_object,
    store::{self, Key},
    world::State,
};

pub(super) fn step(state: &mut State) {
    empty_namespaces(state);
    collect_orphans(state);
    finish_deletions(state);
    forget_contents(state);
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

fn collect_orphans(state: &mut State) {
    let alive: HashSet<String> = state.store.all().map(|(_, object)| store::uid(object).to_owned()).collect();
    let leaving: HashSet<String> = state
        .store
        .all()
        .filter(|(_, object)| is_foreground(object))
        .map(|(_, object)| store::uid(object).to_owned())
        .collect();
    let lost: Vec<Key> = state
        .store
        .all()
        .filter(|(_, object)| object["metadata"]["deletionTimestamp"].is_null())
        .filter(|(_, object)| {
            let is_there = |owner: &Value| {
                owner["uid"].as_str().is_some_and(|uid| alive.contains(uid) && !leaving.contains(uid))
            };
            owners(object).next().is_some() && !owners(object).any(is_there)
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in lost {
        remove_object(state, &key, "Background");
    }
}

fn is_foreground(object: &Value) -> bool {
    finalizers(object).any(|finalizer| finalizer == "foregroundDeletion")
}

fn finalizers(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten()
}

/// What was in a namespace that is gone.
fn empty_namespaces(state: &mut State) {
    let lost: Vec<Key> = state
        .store
        .all()
        .filter(|(key, _)| {
            !key.namespace.is_empty() && state.store.get("/namespaces", "", &key.namespace).is_none()
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in lost {
        state.store.remove(&key);
    }
}

/// Takes away the finalizers that a controller of the real cluster would take away.
fn finish_deletions(state: &mut State) {
    let marked: Vec<Key> = state
        .store
        .all()
        .filter(|(_, object)| !object["metadata"]["deletionTimestamp"].is_null())
        .map(|(key, _)| key.clone())
        .collect();
    for key in marked {
        let Some(object) = state.store.find(&key).cloned() else { continue };
        let kept: Vec<Value> = finalizers(&object)
            .filter(|finalizer| is_held(state, &key, &object, finalizer))
            .cloned()
            .collect();
        if kept.is_empty() {
            state.store.remove(&key);
        } else {
            state.store.update(&key, |object| object["metadata"]["finalizers"] = kept.into());
        }
    }
}

/// Whether what a finalizer protects is still there.
fn is_held(state: &State, key: &Key, object: &Value, finalizer: &Value) -> bool {
    match finalizer.as_str().unwrap_or_default() {
        "foregroundDeletion" => state.store.all().any(|(_, other)| {
            owners(other)
                .any(|owner| owner["uid"] == object["metadata"]["uid"] && owner["blockOwnerDeletion"] == true)
        }),
        "kubernetes.io/pvc-protection" => {
            super::source::user_of(state, &key.namespace, &key.name, None).is_some()
        }
        "kubevirt.io/virtualMachineControllerFinalize" if key.resource.ends_with("/virtualmachines") => {
            // The instance goes first; it has an owner, so it is collected in the end.
            false
        }
        // The VM controller takes an instance away once its guest has ended.
        "kubevirt.io/foregroundDeleteVirtualMachine" => {
            state.store.get("kubevirt.io/virtualmachines", &key.namespace, &key.name).is_some()
        }
        "kubevirt.io/virtualMachineControllerFinalize"
        | "snapshot.kubevirt.io/snapshot-source-protection"
        | "snapshot.kubevirt.io/vmsnapshot-protection"
        | "snapshot.kubevirt.io/vmsnapshotcontent-protection"
        | "snapshot.kubevirt.io/vmrestore-protection" => false,
        // Somebody else's, who will take it away himself.
        _ => true,
    }
}

/// Contents whose claim or snapshot is gone.
fn forget_contents(state: &mut State) {
    let store = &state.store;
    state
        .volumes
        .retain(|(namespace, name), _| store.get("/persistentvolumeclaims", namespace, name).is_some());
    state.snapshots.retain(|(namespace, name), _| {
        store.get("snapshot.storage.k8s.io/volumesnapshots", namespace, name).is_some()
    });
}
