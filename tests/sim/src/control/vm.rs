//! The VM controller: instances come and go as the run strategy says, and the status tells it.

use std::time::Instant;

use serde_json::{Value, json};

use super::network;
use crate::{
    clock,
    store::{self, Key},
    world::{SNAPSHOT_CLASS, State, VmMemo, World},
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
        memo(state, &key).is_wanted = Some(is_running);
        request(state, &key, &[if is_running { "Start" } else { "Stop" }]);
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

/// Writes requests into the status, so that the controllers see that there is something to do.
pub(crate) fn request(state: &mut State, vm: &Key, actions: &[&str]) {
    let requests: Vec<Value> = actions.iter().map(|action| json!({"action": action})).collect();
    state.store.update(vm, |vm| vm["status"]["stateChangeRequests"] = requests.into());
}

/// What is remembered of a VM.
pub(crate) fn memo<'a>(state: &'a mut State, vm: &Key) -> &'a mut VmMemo {
    state.vms.entry((vm.namespace.clone(), vm.name.clone())).or_default()
}

/// Lets the guest of a VM end, of itself or by failing.
pub(crate) fn end_guest(state: &mut State, namespace: &str, name: &str, has_failed: bool) {
    let phase = if has_failed { "Failed" } else { "Succeeded" };
    let instance = Key::new(INSTANCES, namespace, name);
    let key = Key::new(VMS, namespace, name);
    let Some(vm) = state.store.find(&key).cloned() else { return };
    state.store.update(&instance, |instance| {
        instance["status"]["phase"] = phase.into();
        instance["status"]["conditions"] = json!([not_running(&clock::rfc3339(clock::now()))]);
    });
    state.store.update(&Key::new("/pods", namespace, &launcher(name)), |pod| {
        pod["status"]["phase"] = phase.into();
    });
    let stays = match run_strategy(&vm) {
        "Manual" | "Once" => true,
        "RerunOnFailure" => !has_failed,
        _ => false,
    };
    if stays {
        memo(state, &key).is_wanted = Some(false);
    }
}

/// Takes steps with one VM until nothing more happens by itself.
pub(crate) fn settle(world: &World, state: &mut State, namespace: &str, name: &str) {
    let key = Key::new(VMS, namespace, name);
    for _ in 0..MOST_STEPS {
        if let Some(vm) = state.store.find(&key).cloned() {
            reconcile(world, state, &key, &vm);
        }
    }
}

/// From stopped to running, or back, takes fewer.
const MOST_STEPS: u32 = 5;

pub(crate) fn step(world: &World, state: &mut State) {
    let vms: Vec<(Key, Value)> =
        state.store.list(VMS, None).map(|(key, vm)| (key.clone(), Value::clone(vm))).collect();
    for (key, vm) in vms {
        reconcile(world, state, &key, &vm);
    }
}

fn reconcile(world: &World, state: &mut State, key: &Key, vm: &Value) {
    let memo = memo(state, key);
    let (is_stuck, restarted) = (memo.is_stuck, memo.restarted.clone());
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
    match instance.as_deref() {
        None if is_wanted => {
            self::memo(state, key).restarted = None;
            start(world, state, key, vm);
        }
        None => {}
        // A guest that was stopped is still there for a while, ended.
        Some(instance) if !is_wanted && linger(state, key, instance) => {
            state.store.update(&instance_key, end);
            let pod = Key::new("/pods", &key.namespace, &launcher(&key.name));
            state.store.update(&pod, |pod| pod["status"]["phase"] = "Succeeded".into());
        }
        // An instance that has ended stays to be looked at, or makes room for the next.
        Some(instance) if is_over(instance) && !is_wanted && !is_leaving && run_strategy(vm) != "Halted" => {}
        Some(instance) if is_over(instance) => remove_instance(state, &instance_key),
        Some(instance) if !is_wanted || restarted.as_deref() == Some(store::uid(instance)) => {
            stop(state, key, &instance_key, instance);
        }
        Some(instance) if !is_stuck && missing_claim(state, key, vm).is_none() => {
            run(state, key, &instance_key, instance);
        }
        Some(_) => {}
    }
    let instance = state.store.find(&instance_key).cloned();
    let vm = state.store.find(key).cloned().map_or_else(|| vm.clone(), |vm| Value::clone(&vm));
    let status = status(state, key, &vm, instance.as_deref());
    state.store.update(key, |vm| {
        let keep = vm["status"]["snapshotInProgress"].clone();
        vm["status"] = status;
        if !keep.is_null() {
            vm["status"]["snapshotInProgress"] = keep;
        }
    });
}

/// Whether an instance that is to go is still there, ended, for a while. One that never ran is not.
fn linger(state: &mut State, key: &Key, instance: &Value) -> bool {
    let memo = state.vms.entry((key.namespace.clone(), key.name.clone())).or_default();
    let stays = match memo.ended {
        _ if memo.lingers.is_zero() => false,
        None => instance["status"]["phase"] == "Running",
        Some(ended) => ended.elapsed() < memo.lingers,
    };
    memo.ended = stays.then(|| memo.ended.unwrap_or_else(Instant::now));
    stays
}

/// An instance whose guest has shut down.
fn end(instance: &mut Value) {
    if instance["status"]["phase"] == "Succeeded" {
        return;
    }
    let now = clock::rfc3339(clock::now());
    instance["status"]["phase"] = "Succeeded".into();
    instance["status"]["conditions"] = json!([{
        "type": "Ready", "status": "False", "reason": "PodTerminating",
        "message": "virt-launcher pod is terminating", "lastProbeTime": now, "lastTransitionTime": now,
    }]);
    if let Some(phases) = instance["status"]["phaseTransitionTimestamps"].as_array_mut() {
        phases.push(json!({"phase": "Succeeded", "phaseTransitionTimestamp": now}));
    }
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
    let devices = &mut domain["devices"];
    if devices["autoattachPodInterface"] != false
        && devices["interfaces"].as_array().is_none_or(Vec::is_empty)
    {
        // What KubeVirt does where its configuration names no other `defaultNetworkInterface`.
        devices["interfaces"] = json!([{"name": "default", "model": "virtio", "bridge": {}}]);
        spec["networks"] = json!([{"name": "default", "pod": {}}]);
    }
    let domain = &mut spec["domain"];
    let memory = domain["memory"]["guest"].clone();
    if let Some(guest) = memory.as_str().and_then(|guest| guest.strip_suffix("Gi")?.parse::<u64>().ok()) {
        domain["memory"]["maxGuest"] = format!("{}Gi", 4 * guest).into();
    }
    let topology: serde_json::Map<String, Value> = ["sockets", "cores", "threads"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), domain["cpu"].get(key)?.clone())))
        .collect();
    let mut conditions = vec![not_running(&now)];
    conditions.extend(missing_claim(state, key, vm).map(|claim| no_claim(key, &claim, &now)));
    conditions.extend(memo(state, key).trouble.as_ref().map(|trouble| trouble.condition(&now)));
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
            "conditions": conditions,
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

/// One phase further.
fn run(state: &mut State, vm: &Key, key: &Key, instance: &Value) {
    let now = clock::rfc3339(clock::now());
    let next = match instance["status"]["phase"].as_str() {
        Some("Scheduling") => "Scheduled",
        Some("Scheduled") => "Running",
        _ => return,
    };
    if next == "Running" {
        let pod = Key::new("/pods", &key.namespace, &launcher(&key.name));
        state.store.update(&pod, |pod| pod["status"]["phase"] = "Running".into());
    }
    let memo = memo(state, vm);
    let (has_agent, is_migratable) = (memo.has_agent, memo.is_migratable);
    let is_paused = next == "Running" && std::mem::take(&mut memo.starts_paused);
    let address = format!("10.0.{}.{}", store::uid(instance).len() % 256, 2 + key.name.len() % 250);
    let volumes = volume_statuses(state, key, instance);
    state.store.update(key, |instance| {
        let interfaces = network::of_guest(instance, &address);
        let status = &mut instance["status"];
        status["phase"] = next.into();
        status["nodeName"] = "node-1".into();
        if let Some(phases) = status["phaseTransitionTimestamps"].as_array_mut() {
            phases.push(json!({"phase": next, "phaseTransitionTimestamp": now}));
        }
        if next != "Running" {
            return;
        }
        status["interfaces"] = interfaces.into();
        status["volumeStatus"] = volumes.into();
        let mut conditions = vec![condition("Ready", &now)];
        if has_agent {
            conditions.push(condition("AgentConnected", &now));
            status["guestOSInfo"] = guest_os();
        }
        conditions.push(if is_migratable { condition("LiveMigratable", &now) } else { not_migratable(&now) });
        if is_paused {
            conditions.push(paused(&now));
        }
        status["conditions"] = conditions.into();
    });
}

/// Asks the guest to end; it does with the next step, unless it is deaf and has time left.
fn stop(state: &mut State, vm: &Key, key: &Key, instance: &Value) {
    let grace = instance["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(DEFAULT_GRACE);
    let memo = memo(state, vm);
    if instance["metadata"]["deletionTimestamp"].is_null() {
        memo.asked_to_stop = Some(Instant::now());
        state.store.update(key, |instance| {
            instance["metadata"]["deletionTimestamp"] = clock::rfc3339(clock::now()).into();
            instance["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        });
        return;
    }
    let asked = memo.asked_to_stop.map(|asked| asked.elapsed().as_secs());
    if !memo.is_deaf || asked.is_none_or(|asked| asked >= grace) {
        remove_instance(state, key);
    }
}

fn remove_instance(state: &mut State, key: &Key) {
    state.store.remove(key);
    state.store.remove(&Key::new("/pods", &key.namespace, &launcher(&key.name)));
}

/// Seconds that a guest has to end if nobody says otherwise.
const DEFAULT_GRACE: u64 = 30;

/// Whether the guest has ended.
pub(crate) fn is_over(instance: &Value) -> bool {
    matches!(instance["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Whether the guest is on its way to another node.
pub(crate) fn is_migrating(instance: &Value) -> bool {
    let progress = &instance["status"]["migrationState"];
    !progress["startTimestamp"].is_null() && progress["completed"] != true
}

/// A claim that the VM names and that is not there.
fn missing_claim(state: &State, key: &Key, vm: &Value) -> Option<String> {
    let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array()?;
    let mut claims =
        volumes.iter().filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    let is_missing =
        |claim: &&str| state.store.get("/persistentvolumeclaims", &key.namespace, claim).is_none();
    claims.find(is_missing).map(str::to_owned)
}

pub(super) fn condition(kind: &str, now: &str) -> Value {
    json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now})
}

/// The condition of a guest that is held still.
pub(crate) fn paused(now: &str) -> Value {
    let mut condition = condition("Paused", now);
    condition["reason"] = "PausedByUser".into();
    condition["message"] = "VMI was paused by user".into();
    condition
}

fn no_claim(key: &Key, claim: &str, now: &str) -> Value {
    json!({
        "type": "Synchronized", "status": "False", "reason": "FailedPvcNotFound",
        "message": format!("PVC {}/{claim} does not exist, waiting for it to appear", key.namespace),
        "lastProbeTime": null, "lastTransitionTime": now,
    })
}

fn not_migratable(now: &str) -> Value {
    json!({
        "type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable",
        "message": "cannot migrate VMI: a PVC is not shared, live migration requires that all PVCs must be shared \
            (using ReadWriteMany access mode)",
        "lastProbeTime": null, "lastTransitionTime": now,
    })
}

fn guest_os() -> Value {
    json!({
        "id": "debian", "name": "Debian GNU/Linux", "prettyName": "Debian GNU/Linux 13 (trixie)", "version": "13",
        "versionId": "13", "kernelRelease": "6.12.0", "machine": "x86_64",
    })
}

/// The volumes of the description with sizes.
fn volume_statuses(state: &State, key: &Key, instance: &Value) -> Vec<Value> {
    let volumes = instance["spec"]["volumes"].as_array().into_iter().flatten();
    volumes
        .zip('a'..='z')
        .map(|(volume, letter)| {
            let mut status = json!({"name": volume["name"], "target": format!("vd{letter}")});
            let claim = claim_of(volume).unwrap_or_default();
            if let Some(claim) = state.store.get("/persistentvolumeclaims", &key.namespace, claim) {
                status["persistentVolumeClaimInfo"] = json!({
                    "claimName": store::name(claim), "capacity": claim["status"]["capacity"],
                    "volumeMode": claim["spec"]["volumeMode"], "accessModes": claim["spec"]["accessModes"],
                });
            }
            status
        })
        .collect()
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

fn status(state: &State, key: &Key, vm: &Value, instance: Option<&Value>) -> Value {
    let old = &vm["status"];
    let now = clock::rfc3339(clock::now());
    let memo = state.vms.get(&(key.namespace.clone(), key.name.clone()));
    let instance_is = |kind: &str| {
        let conditions = instance.and_then(|instance| instance["status"]["conditions"].as_array());
        conditions.into_iter().flatten().find(|item| item["type"] == kind && item["status"] == "True")
    };
    let phase = instance.map(|instance| instance["status"]["phase"].as_str().unwrap_or_default());
    let is_stopping = instance.is_some_and(|instance| !instance["metadata"]["deletionTimestamp"].is_null());
    let is_lingering = memo.is_some_and(|memo| memo.ended.is_some());
    let trouble = memo.and_then(|memo| memo.trouble.as_ref());
    let printable = match phase {
        _ if !vm["metadata"]["deletionTimestamp"].is_null() => "Terminating",
        Some("Succeeded") if is_lingering => "Stopping",
        None | Some("Succeeded" | "Failed") => "Stopped",
        Some(_) if is_stopping => "Stopping",
        Some("Running") if instance_is("Paused").is_some() => "Paused",
        Some("Running") if instance.is_some_and(is_migrating) => "Migrating",
        Some("Running") => "Running",
        Some(_) if missing_claim(state, key, vm).is_some() => "ErrorPvcNotFound",
        Some(_) => trouble.map_or("Starting", |trouble| trouble.status.as_str()),
    };
    let (is_ready, reason, message) = match phase {
        None => ("False", "VMINotExists", "VMI does not exist"),
        Some("Running") => ("True", "", ""),
        Some("Succeeded") if is_lingering => ("False", "PodTerminating", "virt-launcher pod is terminating"),
        Some(_) => ("False", "GuestNotRunning", "Guest VM is not reported as running"),
    };
    let before = &old["conditions"][0];
    let is_same = before["status"] == is_ready && before["reason"].as_str().unwrap_or_default() == reason;
    let since = if is_same { before["lastTransitionTime"].clone() } else { now.clone().into() };
    let mut ready = json!({
        "type": "Ready", "status": is_ready, "lastProbeTime": since, "lastTransitionTime": since,
    });
    if !reason.is_empty() {
        ready["reason"] = reason.into();
        ready["message"] = message.into();
    }
    // What the instance says is told by the VM too.
    let mut conditions = vec![ready];
    conditions
        .extend(["AgentConnected", "LiveMigratable", "Paused"].into_iter().filter_map(instance_is).cloned());
    let uid = instance.map(store::uid);
    if uid.is_some() && memo.is_some_and(|memo| memo.must_restart.as_deref() == uid) {
        conditions.push(json!({
            "type": "RestartRequired", "status": "True", "reason": "RestartRequired",
            "message": "a non-live-updatable field was changed in the template spec", "lastProbeTime": null,
            "lastTransitionTime": since,
        }));
    }
    if memo.is_some_and(|memo| memo.needs_recovery) {
        conditions.push(json!({
            "type": "ManualRecoveryRequired", "status": "True", "reason": "VolumeMigrationFailed",
            "message": "the volumes of the description are not those that the guest had",
            "lastProbeTime": null, "lastTransitionTime": since,
        }));
    }
    let mut status = json!({
        "conditions": conditions, "printableStatus": printable,
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
