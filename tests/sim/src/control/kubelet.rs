//! The kubelet's part: exporter pods start once their token is there, and become ready.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{export, source};
use crate::{
    api::expand_vm,
    clock,
    store::{self, Key},
    world::{ExportedVolume, Exporter, State, World},
};

pub(super) fn step(world: &World, state: &mut State) {
    let pods: Vec<(Key, Value)> = state
        .store
        .list("/pods", None)
        .filter(|(_, pod)| pod["metadata"]["labels"]["kubevirt.io"] == "virt-export")
        .map(|(key, pod)| (key.clone(), Value::clone(pod)))
        .collect();
    for (key, pod) in pods {
        advance(world, state, &key, &pod);
    }
}

/// Whether condition Ready of a pod holds.
pub(super) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn advance(world: &World, state: &mut State, key: &Key, pod: &Value) {
    let owner = pod["metadata"]["ownerReferences"][0]["name"].as_str().unwrap_or_default();
    let export = state.store.get("export.kubevirt.io/virtualmachineexports", &key.namespace, owner).cloned();
    let Some(export) =
        export.filter(|export| export["metadata"]["uid"] == pod["metadata"]["ownerReferences"][0]["uid"])
    else {
        return;
    };
    match pod["status"]["phase"].as_str() {
        Some("Pending") => {
            let secret = export::token_secret(&export);
            if state.store.get("/secrets", &key.namespace, &secret).is_none() {
                return;
            }
            if let Some(exporter) = start(world, state, &export, pod) {
                state
                    .exporters
                    .insert((key.namespace.clone(), store::name(&export).to_owned()), Arc::new(exporter));
                set(state, key, "Running", false);
            }
        }
        Some("Running") => {
            let memo = state.exports.get(store::uid(&export));
            let is_kept =
                memo.and_then(|memo| memo.unready_until).is_some_and(|until| until > Instant::now());
            if is_ready(pod) == is_kept {
                set(state, key, "Running", !is_kept);
            }
        }
        _ => {}
    }
}

fn set(state: &mut State, key: &Key, phase: &str, is_ready: bool) {
    let ready = if is_ready { "True" } else { "False" };
    let now = clock::rfc3339(clock::now());
    state.store.update(key, |pod| {
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now})
        };
        pod["status"] = json!({
            "phase": phase, "podIP": "10.244.0.9", "startTime": now,
            "conditions": [
                condition("PodScheduled", "True"), condition("Ready", ready), condition("ContainersReady", ready),
            ],
            "containerStatuses": [{
                "name": "exporter", "ready": is_ready, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": now}}, "image": pod["spec"]["containers"][0]["image"],
            }],
        });
    });
}

/// What runs in the pod.
fn start(world: &World, state: &State, export: &Value, pod: &Value) -> Option<Exporter> {
    let (namespace, name) = (store::namespace(export), store::name(export));
    let source = source::evaluate(world, state, export);
    let volumes: Option<Vec<ExportedVolume>> = source
        .volumes
        .iter()
        .map(|(name, claim)| {
            let volume = state.volumes.get(&(namespace.to_owned(), claim.clone()))?;
            Some(ExportedVolume {
                name: name.clone(),
                claim: claim.clone(),
                is_disk: source::is_disk(state, namespace, claim),
                disk: volume.disk.clone(),
            })
        })
        .collect();
    let volumes = volumes.filter(|volumes| !volumes.is_empty())?;
    let service = export::service_name(name);
    let names = [
        "",
        &format!(".{namespace}"),
        &format!(".{namespace}.svc"),
        &format!(".{namespace}.svc.cluster.local"),
    ]
    .map(|suffix| format!("{service}{suffix}"));
    let common_name = format!("{service}.{namespace}.pod.cluster.local");
    let identity = state.internal_ca.issue(&common_name, &names, None).ok()?;
    let memo = state.exports.get(store::uid(export))?;
    let vm =
        source.vm_name.as_ref().and_then(|vm| state.store.get("kubevirt.io/virtualmachines", namespace, vm));
    Some(Exporter {
        pod_uid: store::uid(pod).to_owned(),
        namespace: namespace.to_owned(),
        export: name.to_owned(),
        service,
        secret: export::token_secret(export),
        volumes,
        tls: identity.config,
        stop: memo.stop.child_token(),
        drain: CancellationToken::new(),
        knew_external_host: state.has_external_link,
        has_manifest: source.vm_name.is_some(),
        vm: vm.map(|vm| manifest_vm(state, vm)),
        last_token: Mutex::new(None),
    })
}

/// The VM as the manifest has it: expanded, without what belongs to this cluster.
fn manifest_vm(state: &State, vm: &Value) -> Value {
    let mut vm = expand_vm(state, vm).unwrap_or_else(|_| vm.clone());
    let metadata = &vm["metadata"];
    let mut kept = json!({"name": metadata["name"], "namespace": metadata["namespace"]});
    for key in ["labels", "annotations"] {
        if !metadata[key].is_null() {
            kept[key] = metadata[key].clone();
        }
    }
    vm["metadata"] = kept;
    vm["status"] = json!({});
    vm
}
