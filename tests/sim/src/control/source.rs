//! What an export's source is, and whether it can be exported now.

use serde_json::{Value, json};

use crate::{
    store,
    world::{State, World},
};

/// A source as it stands.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) is_available: bool,
    /// It has nothing to export: the export is skipped for now.
    pub(super) is_skipped: bool,
    /// Something else uses it.
    pub(super) is_in_use: bool,
    /// Reason and message of condition Ready while it is not available.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The condition beside Ready: type, status, reason, message.
    pub(super) condition: Option<(&'static str, bool, &'static str, String)>,
    /// Volumes: the name in the links, and the claim that is read.
    pub(super) volumes: Vec<(String, String)>,
    /// `status.virtualMachineName`.
    pub(super) vm_name: Option<String>,
    /// Claims that are to be restored from a snapshot first.
    pub(super) to_restore: Vec<Value>,
}

impl Source {
    fn pending(reason: &'static str, message: String) -> Self {
        Self { reason, message, ..Self::default() }
    }

    fn skipped(reason: &'static str, message: String) -> Self {
        Self { is_skipped: true, ..Self::pending(reason, message) }
    }
}

/// Looks at the source of an export.
pub(super) fn evaluate(world: &World, state: &State, export: &Value) -> Source {
    let source = &export["spec"]["source"];
    let (namespace, name) = (store::namespace(export), source["name"].as_str().unwrap_or_default());
    match source["kind"].as_str().unwrap_or_default() {
        "PersistentVolumeClaim" => claim(state, export, namespace, name),
        "VirtualMachine" => vm(world, state, namespace, name),
        _ => snapshot(state, export, namespace, name),
    }
}

fn claim(state: &State, export: &Value, namespace: &str, name: &str) -> Source {
    let condition = |is_true, reason, message| Some(("PVCReady", is_true, reason, message));
    let Some(claim) = state.store.get("/persistentvolumeclaims", namespace, name) else {
        let message = format!("PersistentVolumeClaim {namespace}/{name} not found");
        return Source {
            condition: condition(false, "PVCNotFound", message),
            ..Source::pending("Initializing", String::new())
        };
    };
    let own_pod = super::export::pod_name(store::name(export));
    if let Some(pod) = user_of(state, namespace, name, Some(&own_pod)) {
        let message = format!("PersistentVolumeClaim {namespace}/{name} is in use by pod {namespace}/{pod}");
        return Source {
            is_in_use: true,
            condition: condition(true, "PVCBound", String::new()),
            ..Source::pending("InUse", message)
        };
    }
    if claim["status"]["phase"] != "Bound" {
        return Source {
            condition: condition(false, "PVCPending", String::new()),
            ..Source::pending("PVCPending", String::new())
        };
    }
    Source {
        is_available: true,
        volumes: vec![(name.to_owned(), name.to_owned())],
        condition: condition(true, "PVCBound", String::new()),
        ..Source::default()
    }
}

/// The pod that uses a claim, but for one.
pub(super) fn user_of(state: &State, namespace: &str, claim: &str, except: Option<&str>) -> Option<String> {
    let pods = state.store.list("/pods", Some(namespace));
    pods.filter(|(key, pod)| {
        let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let volumes = pod["spec"]["volumes"].as_array();
        except != Some(key.name.as_str())
            && !is_over
            && volumes.is_some_and(|volumes| {
                volumes.iter().any(|volume| volume["persistentVolumeClaim"]["claimName"] == claim)
            })
    })
    .map(|(key, _)| key.name.clone())
    .next()
}

fn vm(world: &World, state: &State, namespace: &str, name: &str) -> Source {
    let named = |source: Source| Source { vm_name: Some(name.to_owned()), ..source };
    let Some(vm) = state.store.get("kubevirt.io/virtualmachines", namespace, name) else {
        return named(Source::skipped("VMNotFound", format!("Virtual Machine {namespace}/{name} not found")));
    };
    let instance = state.store.get("kubevirt.io/virtualmachineinstances", namespace, name);
    if instance.is_some_and(|instance| !world.config.at_least(5) || !is_over(instance)) {
        let message = format!("Virtual Machine {namespace}/{name} is running");
        return named(Source { is_in_use: true, ..Source::pending("InUse", message) });
    }
    let mut volumes = Vec::new();
    for volume in vm["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten() {
        if let Some(data_volume) = volume["dataVolume"]["name"].as_str() {
            if state.store.get("/persistentvolumeclaims", namespace, data_volume).is_none() {
                // As on the real thing, a claim that is not made yet counts as none.
                continue;
            }
            let found = state.store.get("cdi.kubevirt.io/datavolumes", namespace, data_volume);
            if found.is_some_and(|found| found["status"]["phase"] != "Succeeded") {
                let message =
                    format!("Not all volumes in the Virtual Machine {namespace}/{name} are populated");
                return named(Source::pending("VolumesNotPopulated", message));
            }
            volumes.push((data_volume.to_owned(), data_volume.to_owned()));
        }
        for kind in ["persistentVolumeClaim", "memoryDump"] {
            let claim = volume[kind]["claimName"].as_str();
            if let Some(claim) =
                claim.filter(|claim| state.store.get("/persistentvolumeclaims", namespace, claim).is_some())
            {
                volumes.push((claim.to_owned(), claim.to_owned()));
            }
        }
    }
    if world.config.at_least(5) {
        let backend = state.store.list("/persistentvolumeclaims", Some(namespace));
        let backend =
            backend.filter(|(_, claim)| claim["metadata"]["labels"]["persistent-state-for"] == name);
        volumes.extend(backend.map(|(key, _)| (key.name.clone(), key.name.clone())));
    }
    if volumes.is_empty() {
        let message = format!("Virtual Machine {namespace}/{name} has no volumes to export");
        return named(Source::skipped("VMNoVolumes", message));
    }
    named(Source { is_available: true, volumes, ..Source::default() })
}

fn is_over(instance: &Value) -> bool {
    matches!(instance["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn snapshot(state: &State, export: &Value, namespace: &str, name: &str) -> Source {
    let Some(snapshot) = state.store.get("snapshot.kubevirt.io/virtualmachinesnapshots", namespace, name)
    else {
        let message = format!("VirtualMachineSnapshot {namespace}/{name} not found");
        return Source::skipped("VMSnapshotNotFound", message);
    };
    let vm_name = snapshot["spec"]["source"]["name"].as_str().map(str::to_owned);
    let condition = |is_true, reason| Some(("VolumesCreated", is_true, reason, String::new()));
    if snapshot["status"]["readyToUse"] != true {
        return Source {
            vm_name,
            condition: condition(false, "NotAllPVCsCreated"),
            ..Source::pending("Initializing", String::new())
        };
    }
    let content = snapshot["status"]["virtualMachineSnapshotContentName"].as_str().unwrap_or_default();
    let content = state.store.get("snapshot.kubevirt.io/virtualmachinesnapshotcontents", namespace, content);
    let backups = content.and_then(|content| content["spec"]["volumeBackups"].as_array().cloned());
    let backups: Vec<Value> = backups
        .unwrap_or_default()
        .into_iter()
        .filter(|backup| !backup["volumeSnapshotName"].is_null())
        .collect();
    if backups.is_empty() {
        let message =
            format!("VirtualMachineSnapshot {namespace}/{name} does not contain any volume snapshots");
        return Source {
            vm_name,
            condition: condition(false, "VMSnapshotNoVolumes"),
            ..Source::skipped("VMSnapshotNoVolumes", message)
        };
    }
    let (mut volumes, mut to_restore, mut is_bound) = (Vec::new(), Vec::new(), true);
    for backup in backups {
        let original =
            backup["persistentVolumeClaim"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let restored = format!("{}-{original}", store::name(export));
        match state.store.get("/persistentvolumeclaims", namespace, &restored) {
            Some(claim) => is_bound &= claim["status"]["phase"] == "Bound",
            None => to_restore.push(restored_claim(&backup, export, &restored)),
        }
        volumes.push((original, restored));
    }
    if !to_restore.is_empty() || !is_bound {
        let reason = if to_restore.is_empty() { "NotAllPVCsReady" } else { "NotAllPVCsCreated" };
        return Source {
            vm_name,
            to_restore,
            condition: condition(false, reason),
            ..Source::pending("Initializing", String::new())
        };
    }
    Source {
        is_available: true,
        volumes,
        vm_name,
        condition: condition(true, "AllPVCsReady"),
        ..Source::default()
    }
}

fn restored_claim(backup: &Value, export: &Value, name: &str) -> Value {
    let mut claim = claim_from_backup(backup, name, store::namespace(export));
    claim["metadata"]["annotations"]["cdi.kubevirt.io/storage.contentType"] = "kubevirt".into();
    claim["metadata"]["ownerReferences"] = json!([store::owner(export)]);
    claim
}

/// A claim that is restored from a volume of a snapshot.
pub(super) fn claim_from_backup(backup: &Value, name: &str, namespace: &str) -> Value {
    let original = &backup["persistentVolumeClaim"];
    let mut annotations = original["metadata"]["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.retain(|key, _| !key.starts_with("pv.kubernetes.io/") && !key.starts_with("volume."));
    }
    let data_source = json!({
        "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": backup["volumeSnapshotName"],
    });
    let mut spec = original["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("volumeName");
    }
    spec["dataSource"] = data_source.clone();
    spec["dataSourceRef"] = data_source;
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "annotations": annotations,
            "finalizers": ["kubernetes.io/pvc-protection"],
        },
        "spec": spec, "status": {"phase": "Pending"},
    })
}

/// Whether a claim is offered as a disk image, or else as a file tree.
pub(super) fn is_disk(state: &State, namespace: &str, name: &str) -> bool {
    let Some(claim) = state.store.get("/persistentvolumeclaims", namespace, name) else { return false };
    let content = &claim["metadata"]["annotations"]["cdi.kubevirt.io/storage.contentType"];
    let mut owners = claim["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    claim["spec"]["volumeMode"] == "Block"
        || content == "kubevirt"
        || content == ""
        || owners.any(|owner| {
            let data_volume = owner["name"].as_str().unwrap_or_default();
            let data_volume = state.store.get("cdi.kubevirt.io/datavolumes", namespace, data_volume);
            owner["kind"] == "DataVolume"
                && data_volume.is_some_and(|volume| {
                    matches!(volume["spec"]["contentType"].as_str(), None | Some("kubevirt" | ""))
                })
        })
}
