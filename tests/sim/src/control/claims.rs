//! Claims and data volumes: claims are bound, contents come from snapshots or are empty.

use serde_json::{Value, json};

use crate::{
    disk::Disk,
    store::{self, Key},
    world::{State, Volume, World},
};

const CLAIMS: &str = "/persistentvolumeclaims";
const DATA_VOLUMES: &str = "cdi.kubevirt.io/datavolumes";

pub(super) fn step(world: &World, state: &mut State) {
    let pending: Vec<(Key, Value)> = state
        .store
        .list(CLAIMS, None)
        .filter(|(_, claim)| claim["status"]["phase"] == "Pending")
        .map(|(key, claim)| (key.clone(), Value::clone(claim)))
        .collect();
    for (key, claim) in pending {
        bind(state, &key, &claim);
    }
    grow(state);
    let unfinished: Vec<(Key, Value)> = state
        .store
        .list(DATA_VOLUMES, None)
        .filter(|(_, volume)| volume["status"]["phase"] != "Succeeded")
        .map(|(key, volume)| (key.clone(), Value::clone(volume)))
        .collect();
    for (key, volume) in unfinished {
        populate(world, state, &key, &volume);
    }
}

/// Claims that ask for more than they have get it.
fn grow(state: &mut State) {
    let size = |quantity: &Value| quantity.as_str().and_then(parse_quantity).unwrap_or_default();
    let small: Vec<Key> = state
        .store
        .list(CLAIMS, None)
        .filter(|(_, claim)| {
            claim["status"]["phase"] == "Bound"
                && size(&claim["spec"]["resources"]["requests"]["storage"])
                    > size(&claim["status"]["capacity"]["storage"])
                && !claim["status"]["capacity"].is_null()
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in small {
        state.store.update(&key, |claim| {
            claim["status"]["capacity"]["storage"] =
                claim["spec"]["resources"]["requests"]["storage"].clone();
        });
    }
}

fn bind(state: &mut State, key: &Key, claim: &Value) {
    let place = (key.namespace.clone(), key.name.clone());
    if !state.volumes.contains_key(&place) {
        let source = &claim["spec"]["dataSource"];
        let disk = if source["kind"] == "VolumeSnapshot" {
            let snapshot = source["name"].as_str().unwrap_or_default().to_owned();
            // Bound only once there is something to restore from.
            let Some(disk) = state.snapshots.get(&(key.namespace.clone(), snapshot)) else { return };
            disk.clone()
        } else {
            let size = claim["spec"]["resources"]["requests"]["storage"].as_str().and_then(parse_quantity);
            Disk::zeros(size.unwrap_or_default())
        };
        state.volumes.insert(place, Volume { disk });
    }
    let is_ours = claim["spec"]["storageClassName"] == crate::world::SNAPSHOT_CLASS;
    state.store.update(key, |claim| {
        if claim["spec"]["volumeName"].is_null() {
            claim["spec"]["volumeName"] = format!("pvc-{}", store::uid(claim)).into();
        }
        let annotations = &mut claim["metadata"]["annotations"];
        annotations["pv.kubernetes.io/bind-completed"] = "yes".into();
        if is_ours {
            annotations["pv.kubernetes.io/bound-by-controller"] = "yes".into();
            annotations["volume.beta.kubernetes.io/storage-provisioner"] = "csi.rig.test".into();
            annotations["volume.kubernetes.io/storage-provisioner"] = "csi.rig.test".into();
        }
        claim["status"] = json!({
            "phase": "Bound", "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
        });
    });
}

/// A data volume makes its claim, and is done when that is bound: imports are not simulated.
fn populate(world: &World, state: &mut State, key: &Key, volume: &Value) {
    match state.store.get(CLAIMS, &key.namespace, &key.name).cloned() {
        Some(claim) if claim["status"]["phase"] == "Bound" => {
            state.store.update(key, |volume| {
                volume["status"] = json!({"phase": "Succeeded", "progress": "100.0%", "claimName": key.name});
            });
        }
        Some(_) => {}
        None => {
            let wanted = if volume["spec"]["pvc"].is_object() {
                &volume["spec"]["pvc"]
            } else {
                &volume["spec"]["storage"]
            };
            let mut spec = wanted.clone();
            if spec["accessModes"].is_null() {
                spec["accessModes"] = json!(["ReadWriteOnce"]);
            }
            if spec["volumeMode"].is_null() {
                spec["volumeMode"] = "Filesystem".into();
            }
            if spec["storageClassName"].is_null() {
                spec["storageClassName"] = crate::world::LOCAL_CLASS.into();
            }
            let claim = json!({
                "metadata": {
                    "name": key.name, "namespace": key.namespace,
                    "annotations": {"cdi.kubevirt.io/storage.contentType": "kubevirt"},
                    "ownerReferences": [store::owner(volume)], "finalizers": ["kubernetes.io/pvc-protection"],
                },
                "spec": spec, "status": {"phase": "Pending"},
            });
            world.create(state, "", "persistentvolumeclaims", claim);
            state.store.update(key, |volume| {
                volume["status"] = json!({"phase": "ImportInProgress", "progress": "N/A"});
            });
        }
    }
}

/// A quantity such as `256Mi`, `1G` or `1073741824`, in bytes.
pub(super) fn parse_quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantities_have_units() {
        assert_eq!(super::parse_quantity("256Mi"), Some(256 << 20));
        assert_eq!(super::parse_quantity("1G"), Some(1_000_000_000));
        assert_eq!(super::parse_quantity("77"), Some(77));
        assert_eq!(super::parse_quantity("1.5Gi"), None);
    }
}
