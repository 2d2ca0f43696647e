//! The VM controller: instances come and go as the run strategy says, and the status tells it.

use serde_json::{Value, json};

use crate::{
    clock,
    store::{self, Key},
    world::{SNAPSHOT_CLASS, State, World},
};

const VMS: &str = "kubevirt.io/virtualmachines";
const INSTANCES: &str = "kubevirt.io/virtualmachineinstances";

/// `spec.runStrategy`, or what `spec.running` means.
pub(crate) fn run_strategy(vm: &Value) -> &str {
    match (vm["spec"]["runStrategy"].as_str(), vm["spec"]["running"].as_bool()) {
        (Some(strategy), _) => strategy,
        (None, Some(true)) => "Always",
        (None, _) => "Halted",
    }
}

/// Starts or stops a VM as the subresources do: by its run strategy, or by request where that is left to hand.
pub(crate) fn set_running(state: &mut State, namespace: &str, name: &str, is_running: bool) {
    let key = Key::new(VMS, namespace, name);
    let Some(vm) = state.store.find(&key).cloned() else { return };
    if matches!(run_strategy(&vm), "Manual" | "RerunOnFailure") {
        state.vms.entry((namespace.to_owned(), name.to_owned())).or_default().is_wanted = Some(is_running);
        // So that the controllers see that there is something to do.
        state.store.update(&key, |vm| {
            vm["status"]["stateChangeRequests"] =
                json!([{"action": if is_running { "Start" } else { "Stop" }}]);
        });
        return;
    }
    state.store.update(&key, |vm| {
        if vm["spec"]["runStrategy"].is_null() && !vm["spec"]["running"].is_null() {
            vm["spec"]["running"] = is_running.into();
        } else {
            vm["spec"]["runStrategy"] = if is_running { "Always" } else { "Halted" }.into();
        }
    });
}

pub(crate) fn step(world: &World, state: &mut State) {
    let vms: Vec<(Key, Value)> =
        state.store.list(VMS, None).map(|(key, vm)| (key.clone(), Value::clone(vm))).collect();
    for (key, vm) in vms {
        reconcile(world, state, &key, &vm);
    }
}

fn reconcile(world: &World, state: &mut State, key: &Key, vm: &Value) {
    let place = (key.namespace.clone(), key.name.clone());
    let memo = state.vms.entry(place).or_default();
    let is_stuck = memo.is_stuck;
    let has_agent = memo.has_agent;
    let is_leaving = !vm["metadata"]["deletionTimestamp"].is_null();
    let is_wanted = !is_leaving
        && match run_strategy(vm) {
            "Halted" => false,
            "Manual" => memo.is_wanted.unwrap_or(false),
            "RerunOnFailure" | "Once" => memo.is_wanted.unwrap_or(true),
            _ => true,
        };
    make_data_volumes(world, state, key, vm);
    let instance_key = Key::new(INSTANCES, &key.namespace, &key.name);
    let instance = state.store.find(&instance_key).cloned();
    match (&instance, is_wanted) {
        (None, true) => start(world, state, key, vm),
        (Some(instance), true) if !is_stuck && instance["status"]["phase"] != "Running" => {
            run(state, &instance_key, has_agent);
        }
        (Some(_), false) => {
            state.store.remove(&instance_key);
            state.store.remove(&Key::new("/pods", &key.namespace, &launcher(&key.name)));
        }
        _ => {}
    }
    let instance = state.store.find(&instance_key).cloned();
    let status = status(state, vm, instance.as_deref());
    state.store.update(key, |vm| {
        let keep = vm["status"]["snapshotInProgress"].clone();
        vm["status"] = status;
        if !keep.is_null() {
            vm["status"]["snapshotInProgress"] = keep;
        }
    });
}

fn launcher(vm: &str) -> String {
    format!("virt-launcher-{vm}")
}

fn start(world: &World, state: &mut State, key: &Key, vm: &Value) {
    let now = clock::rfc3339(clock::now());
    // The guest writes: what volumes hold afterwards may be something else.
    for claim in claims(vm) {
        if let Some(volume) = state.volumes.get_mut(&(key.namespace.clone(), claim))
            && let Some(after) = volume.disk.after_start().cloned()
        {
            volume.disk = after;
        }
    }
    let mut spec = vm["spec"]["template"]["spec"].clone();
    spec["evictionStrategy"] = "None".into();
    let domain = &mut spec["domain"];
    if domain["cpu"]["model"].is_null() {
        domain["cpu"]["model"] = "host-model".into();
    }
    domain["features"] = json!({"acpi": {"enabled": true}});
    let memory = domain["memory"]["guest"].clone();
    if let Some(guest) = memory.as_str().and_then(|guest| guest.strip_suffix("Gi")?.parse::<u64>().ok()) {
        domain["memory"]["maxGuest"] = format!("{}Gi", 4 * guest).into();
    }
    let topology: serde_json::Map<String, Value> = ["sockets", "cores", "threads"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), domain["cpu"].get(key)?.clone())))
        .collect();
    let revision = format!("revision-start-vm-{}-{}", store::uid(vm), vm["metadata"]["generation"]);
    let pod_uid = state.rng.uid();
    let instance = json!({
        "metadata": {
            "name": key.name, "namespace": key.namespace, "labels": vm["spec"]["template"]["metadata"]["labels"],
            "annotations": {
                "kubevirt.io/latest-observed-api-version": "v1", "kubevirt.io/pci-topology-version": "v3",
                "kubevirt.io/storage-observed-api-version": "v1",
                "kubevirt.io/vm-generation": vm["metadata"]["generation"].to_string(),
            },
            "finalizers": [
                "kubevirt.io/virtualMachineControllerFinalize", "kubevirt.io/foregroundDeleteVirtualMachine",
            ],
            "ownerReferences": [store::owner(vm)],
        },
        "spec": spec,
        "status": {
            "activePods": {pod_uid: ""}, "currentCPUTopology": topology,
            "launcherContainerImageVersion": "registry.example/kubevirt/virt-launcher",
            "memory": {
                "guestAtBoot": memory, "guestCurrent": memory, "guestRequested": memory,
                "memoryOverhead": "296Mi",
            },
            "virtualMachineRevisionName": revision,
            "phase": "Scheduling", "guestOSInfo": {}, "qosClass": "Burstable", "runtimeUser": 107,
            "conditions": [not_running(&now)],
            "phaseTransitionTimestamps": [
                {"phase": "Pending", "phaseTransitionTimestamp": now},
                {"phase": "Scheduling", "phaseTransitionTimestamp": now},
            ],
        },
    });
    let instance = world.create(state, "kubevirt.io", "virtualmachineinstances", instance);
    let volumes: Vec<Value> = claims(vm)
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let pod = json!({
        "metadata": {
            "name": launcher(&key.name), "namespace": key.namespace,
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": store::uid(&instance)},
            "ownerReferences": [store::owner(&instance)],
        },
        "spec": {"containers": [{"name": "compute", "image": "registry.example/kubevirt/virt-launcher"}], "volumes": volumes},
        "status": {"phase": "Pending"},
    });
    world.create(state, "", "pods", pod);
}

fn run(state: &mut State, instance: &Key, has_agent: bool) {
    let now = clock::rfc3339(clock::now());
    let pod = Key::new("/pods", &instance.namespace, &launcher(&instance.name));
    state.store.update(&pod, |pod| pod["status"]["phase"] = "Running".into());
    state.store.update(instance, |instance| {
        let status = &mut instance["status"];
        status["phase"] = "Running".into();
        status["nodeName"] = "node-1".into();
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now})
        };
        status["conditions"] = json!([condition("Ready")]);
        if has_agent && let Some(conditions) = status["conditions"].as_array_mut() {
            conditions.push(condition("AgentConnected"));
        }
        if let Some(phases) = status["phaseTransitionTimestamps"].as_array_mut() {
            phases.push(json!({"phase": "Running", "phaseTransitionTimestamp": now}));
        }
    });
}

fn not_running(now: &str) -> Value {
    json!({
        "type": "Ready", "status": "False", "reason": "GuestNotRunning",
        "message": "Guest VM is not reported as running", "lastProbeTime": now, "lastTransitionTime": now,
    })
}

/// The claims that a VM's volumes name.
pub(super) fn claims(vm: &Value) -> impl Iterator<Item = String> {
    let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| claim_of(volume).map(str::to_owned))
}

/// The claim of a volume, if it has one.
pub(super) fn claim_of(volume: &Value) -> Option<&str> {
    volume["dataVolume"]["name"].as_str().or_else(|| volume["persistentVolumeClaim"]["claimName"].as_str())
}

/// Data volumes of the VM's templates that are not there yet.
fn make_data_volumes(world: &World, state: &mut State, key: &Key, vm: &Value) {
    for template in vm["spec"]["dataVolumeTemplates"].as_array().into_iter().flatten() {
        let name = store::name(template);
        if name.is_empty() || state.store.get("cdi.kubevirt.io/datavolumes", &key.namespace, name).is_some() {
            continue;
        }
        let data_volume = json!({
            "metadata": {"name": name, "namespace": key.namespace, "ownerReferences": [store::owner(vm)]},
            "spec": template["spec"],
        });
        world.create(state, "cdi.kubevirt.io", "datavolumes", data_volume);
    }
}

fn status(state: &State, vm: &Value, instance: Option<&Value>) -> Value {
    let old = &vm["status"];
    let now = clock::rfc3339(clock::now());
    let phase = instance.map(|instance| instance["status"]["phase"].as_str().unwrap_or_default());
    let (printable, is_ready, reason, message) = match phase {
        None => ("Stopped", "False", "VMINotExists", "VMI does not exist"),
        Some("Running") => ("Running", "True", "", ""),
        Some(_) => ("Starting", "False", "GuestNotRunning", "Guest VM is not reported as running"),
    };
    let before = &old["conditions"][0];
    let is_same = before["status"] == is_ready && before["reason"].as_str().unwrap_or_default() == reason;
    let since = if is_same { before["lastTransitionTime"].clone() } else { now.into() };
    let mut condition = json!({
        "type": "Ready", "status": is_ready, "lastProbeTime": since, "lastTransitionTime": since,
    });
    if !reason.is_empty() {
        condition["reason"] = reason.into();
        condition["message"] = message.into();
    }
    let mut status = json!({
        "conditions": [condition], "printableStatus": printable,
        "volumeSnapshotStatuses": snapshot_statuses(state, vm),
    });
    if phase.is_some() {
        status["created"] = true.into();
        status["runStrategy"] = run_strategy(vm).into();
        status["desiredGeneration"] = vm["metadata"]["generation"].clone();
        status["observedGeneration"] = vm["metadata"]["generation"].clone();
    }
    if is_ready == "True" {
        status["ready"] = true.into();
    }
    status
}

/// Which volumes a snapshot can hold.
fn snapshot_statuses(state: &State, vm: &Value) -> Vec<Value> {
    let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten();
    volumes
        .map(|volume| {
            let name = volume["name"].as_str().unwrap_or_default();
            let Some(claim) = claim_of(volume) else {
                let reason = format!("Snapshot is not supported for this volumeSource type [{name}]");
                return json!({"name": name, "enabled": false, "reason": reason});
            };
            match storage_class(state, store::namespace(vm), claim) {
                Some(class) if class == SNAPSHOT_CLASS => json!({"name": name, "enabled": true}),
                class => {
                    let class = class.unwrap_or_default();
                    let reason = format!(
                        "No VolumeSnapshotClass: Volume snapshots are not configured for this StorageClass [{class}] [{name}]"
                    );
                    json!({"name": name, "enabled": false, "reason": reason})
                }
            }
        })
        .collect()
}

/// The storage class of a claim.
pub(super) fn storage_class(state: &State, namespace: &str, claim: &str) -> Option<String> {
    let claim = state.store.get("/persistentvolumeclaims", namespace, claim)?;
    claim["spec"]["storageClassName"].as_str().map(str::to_owned)
}
