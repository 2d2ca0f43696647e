//! The export controller: service, pod, token, TTL, and the status with its links.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{links, source};
use crate::{
    api::remove_object,
    clock,
    store::{self, Key},
    world::{State, World},
};

const EXPORTS: &str = "export.kubevirt.io/virtualmachineexports";
const COMPONENT: &str = "export-controller";
/// Longer names of pods, services and secrets are cut and hashed.
const NAME_LIMIT: usize = 63;

pub(super) fn step(world: &World, state: &mut State) {
    forget_gone(state);
    let exports: Vec<(Key, Value)> =
        state.store.list(EXPORTS, None).map(|(key, export)| (key.clone(), Value::clone(export))).collect();
    for (key, export) in exports {
        if export["metadata"]["deletionTimestamp"].is_null() {
            reconcile(world, state, &key, &export);
        }
    }
    forget_gone(state);
}

/// Exporters whose pod is gone end at once, and with an export ends everything that reads from it.
fn forget_gone(state: &mut State) {
    let pods: HashSet<String> =
        state.store.list("/pods", None).map(|(_, pod)| store::uid(pod).to_owned()).collect();
    state.exporters.retain(|_, exporter| {
        let is_there = pods.contains(&exporter.pod_uid);
        if !is_there {
            exporter.stop.cancel();
        }
        is_there
    });
    let exports: HashSet<String> =
        state.store.list(EXPORTS, None).map(|(_, export)| store::uid(export).to_owned()).collect();
    state.exports.retain(|uid, memo| {
        let is_there = exports.contains(uid);
        if !is_there {
            memo.stop.cancel();
        }
        is_there
    });
}

fn reconcile(world: &World, state: &mut State, key: &Key, export: &Value) {
    let memo = state.exports.entry(store::uid(export).to_owned()).or_default();
    let is_ttl_over = memo.is_ttl_over;
    let service = service_name(&key.name);
    if state.store.get("/services", &key.namespace, &service).is_none() {
        create_service(world, state, export, &service);
    }
    let source = source::evaluate(world, state, export);
    let expires = expiry(world, export);
    let pod_name = pod_name(&key.name);
    let mut pod = state.store.get("/pods", &key.namespace, &pod_name).cloned();
    if pod.is_some() && source.is_available && (is_ttl_over || clock::now() >= expires) {
        remove_object(state, key, "Background");
        return;
    }
    for claim in &source.to_restore {
        world.create(state, "", "persistentvolumeclaims", claim.clone());
    }
    if let (Some(found), true) = (&pod, source.is_in_use) {
        let message = format!("Deleted exporter pod {}/{pod_name}, the source is in use", key.namespace);
        world.event(state, export, COMPONENT, "ExportPaused", &message);
        // Earlier pods that finish their transfers end with it.
        if let Some(memo) = state.exports.get_mut(store::uid(export)) {
            std::mem::take(&mut memo.stop).cancel();
        }
        let found = State::key("", "pods", found);
        remove_object(state, &found, "Background");
        pod = None;
    } else if pod.is_none() && source.is_available {
        create_pod(world, state, export, &source, &pod_name);
        pod = state.store.get("/pods", &key.namespace, &pod_name).cloned();
    }
    let was_told = export["status"]["phase"] == "Terminated";
    let status = status(world, state, export, &source, pod.as_deref());
    let is_over = status["phase"] == "Terminated";
    state.store.update(key, |export| export["status"] = status);
    if was_told && is_over {
        let message =
            format!("Exporter pod {}/{pod_name} is in phase {}", key.namespace, phase_of(pod.as_deref()));
        world.event(state, export, COMPONENT, "ExporterPodFailedOrCompleted", &message);
        remove_object(state, &Key::new("/pods", &key.namespace, &pod_name), "Background");
    }
}

fn phase_of(pod: Option<&Value>) -> &str {
    pod.and_then(|pod| pod["status"]["phase"].as_str()).unwrap_or_default()
}

/// When the TTL of an export is over.
fn expiry(world: &World, export: &Value) -> u64 {
    let created = export["metadata"]["creationTimestamp"].as_str().and_then(clock::parse_rfc3339);
    let ttl = export["spec"]["ttlDuration"].as_str().and_then(clock::parse_duration);
    created.unwrap_or_default() + ttl.unwrap_or(world.config.default_ttl).as_secs()
}

/// Labels and annotations that pod and service take over from the export.
fn inherited(export: &Value, own: &Value) -> Value {
    let mut labels = export["metadata"]["labels"].clone();
    for (key, value) in own.as_object().into_iter().flatten() {
        labels[key] = value.clone();
    }
    labels
}

fn create_service(world: &World, state: &mut State, export: &Value, name: &str) {
    let address = format!("10.96.{}.{}", state.rng.below(256), 1 + state.rng.below(254));
    let service = json!({
        "metadata": {
            "name": name, "namespace": store::namespace(export),
            "labels": inherited(export, &json!({"kubevirt.io": "virt-exporter"})),
            "ownerReferences": [store::owner(export)],
        },
        "spec": {
            "ports": [{"name": "export", "protocol": "TCP", "port": 443, "targetPort": 8443}],
            "selector": {"kubevirt.io.virt-export-service": store::name(export)},
            "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    });
    world.create(state, "", "services", service);
    let message = format!("Created service {}/{name}", store::namespace(export));
    world.event(state, export, COMPONENT, "ServiceCreated", &message);
}

fn create_pod(world: &World, state: &mut State, export: &Value, source: &source::Source, name: &str) {
    let namespace = store::namespace(export);
    if source.vm_name.is_some() {
        create_manifest(world, state, export);
    }
    let volumes: Vec<Value> = source
        .volumes
        .iter()
        .map(|(_, claim)| json!({"name": claim.replace('.', "-"), "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let pod = json!({
        "metadata": {
            "name": name, "namespace": namespace, "annotations": export["metadata"]["annotations"],
            "labels": inherited(export, &json!({
                "kubevirt.io": "virt-export", "kubevirt.io.virt-export-service": store::name(export),
            })),
            "ownerReferences": [store::owner(export)],
        },
        "spec": {
            "containers": [{
                "name": "exporter", "image": "registry.example/kubevirt/virt-exportserver",
                "ports": [{"name": "export", "containerPort": 8443, "protocol": "TCP"}],
                "resources": {
                    "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "200Mi"},
                },
                "readinessProbe": {
                    "httpGet": {"path": "/exportready", "port": 8443, "scheme": "HTTPS"},
                    "initialDelaySeconds": 5, "periodSeconds": 5,
                },
            }],
            "restartPolicy": "Never", "volumes": volumes,
            "securityContext": {
                "runAsNonRoot": true, "fsGroup": 107, "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
        "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastProbeTime": null,
             "lastTransitionTime": clock::rfc3339(clock::now())},
        ]},
    });
    let pod = world.create(state, "", "pods", pod);
    world.event(
        state,
        export,
        COMPONENT,
        "ExporterPodCreated",
        &format!("Created exporter pod {namespace}/{name}"),
    );
    create_secrets(world, state, export, &pod);
}

/// The map that tells the exporter about its VM.
fn create_manifest(world: &World, state: &mut State, export: &Value) {
    let (namespace, name) =
        (store::namespace(export), format!("exporter-vm-manifest-{}", store::name(export)));
    if state.store.get("/configmaps", namespace, &name).is_some() {
        return;
    }
    let map = json!({
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": [store::owner(export)]}, "data": {},
    });
    world.create(state, "", "configmaps", map);
    let message = format!("Created exporter data manifest {namespace}/{name}");
    world.event(state, export, COMPONENT, "DataManifestCreated", &message);
}

/// The secret of the pod's certificate, and the token if the client brought none.
fn create_secrets(world: &World, state: &mut State, export: &Value, pod: &Value) {
    let namespace = store::namespace(export);
    let name = format!("secret-{}", store::name(pod));
    if state.store.get("/secrets", namespace, &name).is_none() {
        let secret = json!({
            "metadata": {"name": name, "namespace": namespace, "ownerReferences": [store::owner(pod)]},
            "type": "Opaque", "data": {},
        });
        world.create(state, "", "secrets", secret);
        world.event(state, export, COMPONENT, "SecretCreated", "Created exporter pod secret");
    }
    let token = token_secret(export);
    if export["spec"]["tokenSecretRef"].is_null() && state.store.get("/secrets", namespace, &token).is_none()
    {
        use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
        let alphabet = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let value = BASE64.encode(state.rng.text(alphabet, 20));
        let secret = json!({
            "metadata": {"name": token, "namespace": namespace, "ownerReferences": [store::owner(export)]},
            "type": "Opaque", "data": {"token": value},
        });
        world.create(state, "", "secrets", secret);
    }
}

fn status(
    world: &World,
    state: &State,
    export: &Value,
    source: &source::Source,
    pod: Option<&Value>,
) -> Value {
    let old = &export["status"];
    let mut phase = if source.is_skipped { "Skipped" } else { "Pending" };
    let (mut is_ready, mut reason, mut message) = (false, source.reason, source.message.as_str());
    let key = (store::namespace(export).to_owned(), store::name(export).to_owned());
    let mut found_links = json!({});
    if let Some(pod) = pod.filter(|_| source.is_available) {
        message = "";
        let is_pod_ready = super::kubelet::is_ready(pod);
        reason = match phase_of(Some(pod)) {
            "Pending" => "PodPending",
            "Running" if is_pod_ready => "PodReady",
            "Succeeded" | "Failed" => "PodCompleted",
            _ => "Unknown",
        };
        match (reason, state.exporters.get(&key)) {
            ("PodReady", Some(exporter)) => {
                phase = "Ready";
                is_ready = true;
                found_links = links::links(world, state, export, exporter);
            }
            ("PodReady", None) => reason = "Unknown",
            ("PodCompleted", _) => phase = "Terminated",
            _ => {}
        }
    }
    let mut conditions = vec![condition(old, "Ready", is_ready, reason, message)];
    if let Some((kind, is_true, reason, message)) = &source.condition {
        conditions.push(condition(old, kind, *is_true, reason, message));
    }
    let mut status = json!({
        "conditions": conditions, "links": found_links, "phase": phase,
        "serviceName": service_name(store::name(export)),
        "ttlExpirationTime": clock::rfc3339(expiry(world, export)),
    });
    if source.is_available {
        status["tokenSecretRef"] = token_secret(export).into();
    } else if !old["tokenSecretRef"].is_null() {
        status["tokenSecretRef"] = old["tokenSecretRef"].clone();
    }
    if let Some(name) = &source.vm_name {
        status["virtualMachineName"] = name.as_str().into();
    }
    status
}

/// A condition that keeps its time while nothing changes.
fn condition(old: &Value, kind: &str, is_true: bool, reason: &str, message: &str) -> Value {
    let text = if is_true { "True" } else { "False" };
    let before =
        old["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    let since = before
        .filter(|before| before["status"] == text && before["reason"] == reason)
        .map(|before| before["lastTransitionTime"].clone());
    let mut condition = json!({
        "type": kind, "status": text, "reason": reason, "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| clock::rfc3339(clock::now()).into()),
    });
    if !message.is_empty() {
        condition["message"] = message.into();
    }
    condition
}

/// The secret that holds an export's token.
pub(super) fn token_secret(export: &Value) -> String {
    match export["spec"]["tokenSecretRef"].as_str() {
        Some(name) => name.to_owned(),
        None => limited(&format!("export-token-{}", store::name(export))),
    }
}

/// `virt-export-NAME`, dots replaced.
pub(super) fn service_name(export: &str) -> String {
    limited(&format!("virt-export-{}", export.replace('.', "-")))
}

pub(super) fn pod_name(export: &str) -> String {
    limited(&format!("virt-export-{export}"))
}

/// Names that are too long end in a hash (FNV-1a) of the whole.
fn limited(name: &str) -> String {
    if name.len() <= NAME_LIMIT {
        return name.to_owned();
    }
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}-{hash:08x}", name.get(..NAME_LIMIT - 9).unwrap_or(name))
}

#[cfg(test)]
mod tests {
    #[test]
    fn long_names_are_hashed() {
        let name = super::service_name(&"a.".repeat(40));
        assert_eq!(name.len(), 63);
        assert!(name.starts_with("virt-export-a-a-"));
        assert_ne!(name, super::service_name(&("a.".repeat(40) + "b")));
        assert_eq!(super::service_name("demo"), "virt-export-demo");
    }
}
