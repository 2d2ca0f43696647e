//! The lifecycle calls: what each run strategy allows, and what is said to the others.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::{
    clock,
    config::Config,
    control::{hotplug, vm as control},
    refusal::Refusal,
    store::{self, Key},
    world::State,
};

const VMS: &str = "kubevirt.io/virtualmachines";
const INSTANCES: &str = "kubevirt.io/virtualmachineinstances";

/// Start, stop, restart, migrate.
pub(super) fn of_vm(
    state: &mut State,
    namespace: &str,
    name: &str,
    call: &str,
    body: &Value,
) -> Result<(), Refusal> {
    let key = Key::new(VMS, namespace, name);
    let vm = state
        .store
        .find(&key)
        .cloned()
        .ok_or_else(|| Refusal::not_found("kubevirt.io", "virtualmachine", name))?;
    let instance = state.store.find(&Key::new(INSTANCES, namespace, name)).cloned();
    let instance = instance.as_deref();
    let is_dry_run = is_dry_run(body);
    match call {
        "start" => start(state, &key, &vm, instance, body["paused"] == true, is_dry_run),
        "stop" => stop(state, &key, &vm, instance, body["gracePeriod"].as_u64(), is_dry_run),
        "restart" => restart(state, &key, &vm, instance, body, is_dry_run),
        "addvolume" => add_volume(state, &key, &vm, body),
        "removevolume" => remove_volume(state, &key, &vm, body),
        "migrate" if instance.is_none() => {
            Err(Refusal::not_found("kubevirt.io", "virtualmachineinstance", name))
        }
        _ => Ok(()),
    }
}

fn is_dry_run(body: &Value) -> bool {
    body["dryRun"].as_array().is_some_and(|list| !list.is_empty())
}

fn conflict(key: &Key, why: &str) -> Refusal {
    Refusal::conflict("kubevirt.io", "virtualmachine", &key.name, why)
}

/// Requests wait for the controller; while one does, no other is taken.
fn check_requests(vm: &Value) -> Result<(), Refusal> {
    if vm["status"]["stateChangeRequests"].as_array().is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let message = "Internal error occurred: unable to complete request: stop/start already underway";
    let causes = json!({"causes": [{"message": "unable to complete request: stop/start already underway"}]});
    Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message, causes))
}

fn start(
    state: &mut State,
    key: &Key,
    vm: &Value,
    instance: Option<&Value>,
    is_paused: bool,
    is_dry_run: bool,
) -> Result<(), Refusal> {
    if instance.is_some_and(|instance| !control::is_over(instance)) {
        return Err(conflict(key, "VM is already running"));
    }
    if control::memo(state, key).needs_recovery {
        return Err(conflict(
            key,
            "VM recovery required: Volume migration failed, leaving some volumes missing",
        ));
    }
    let strategy = control::run_strategy(vm);
    match strategy {
        "Always" | "Once" => {
            return Err(conflict(key, &format!("{strategy} does not support manual start requests")));
        }
        "RerunOnFailure" if instance.is_some_and(|instance| instance["status"]["phase"] == "Failed") => {
            return Err(conflict(key, "RerunOnFailure does not support starting VM from failed state"));
        }
        "Halted" if !is_paused => {}
        _ => check_requests(vm)?,
    }
    if !is_dry_run {
        control::memo(state, key).starts_paused = is_paused;
        control::set_running(state, &key.namespace, &key.name, true);
    }
    Ok(())
}

fn stop(
    state: &mut State,
    key: &Key,
    vm: &Value,
    instance: Option<&Value>,
    grace: Option<u64>,
    is_dry_run: bool,
) -> Result<(), Refusal> {
    let running = instance.filter(|instance| !control::is_over(instance));
    let old = running.and_then(|instance| instance["spec"]["terminationGracePeriodSeconds"].as_u64());
    match control::run_strategy(vm) {
        "Always" | "Once" => {}
        _ if running.is_none() => return Err(conflict(key, "VM is not running")),
        "Halted" if grace.is_none_or(|grace| old.is_some_and(|old| grace >= old)) => {
            let why = "Halted only supports manual stop requests with a shorter graceperiod";
            return Err(conflict(key, why));
        }
        _ => {}
    }
    if is_dry_run {
        return Ok(());
    }
    if let Some(grace) = grace {
        state.store.update(&Key::new(INSTANCES, &key.namespace, &key.name), |instance| {
            instance["spec"]["terminationGracePeriodSeconds"] = grace.into();
        });
    }
    control::set_running(state, &key.namespace, &key.name, false);
    Ok(())
}

fn restart(
    state: &mut State,
    key: &Key,
    vm: &Value,
    instance: Option<&Value>,
    body: &Value,
    is_dry_run: bool,
) -> Result<(), Refusal> {
    if body["gracePeriodSeconds"].as_i64().is_some_and(|grace| grace > 0) {
        return Err(Refusal::bad_request("For force restart, only gracePeriod=0 is supported for now"));
    }
    let strategy = control::run_strategy(vm);
    if matches!(strategy, "Halted" | "Once") {
        let why = format!("RunStategy {strategy} does not support manual restart requests");
        return Err(conflict(key, &why));
    }
    let Some(instance) = instance else { return Err(conflict(key, "VM is not running: Halted")) };
    check_requests(vm)?;
    if !is_dry_run {
        let memo = control::memo(state, key);
        memo.restarted = Some(store::uid(instance).to_owned());
        memo.is_wanted = Some(true);
        control::request(state, key, &["Stop", "Start"]);
    }
    Ok(())
}

/// What a request about a volume gets where hotplug is not switched on.
pub(super) fn no_hotplug(config: &Config, call: &str) -> Refusal {
    if config.at_least(6) {
        let message = "Enable DeclarativeHotplugVolumes or HotplugVolumes feature gate to use this API.";
        return Refusal::bad_request(message);
    }
    let doing = if call == "addvolume" { "Add" } else { "Remove" };
    Refusal::bad_request(format!(
        "Unable to {doing} Volume because HotplugVolumes feature gate is not enabled."
    ))
}

fn volumes(vm: &Value) -> impl Iterator<Item = &Value> {
    vm["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten()
}

fn claim(source: &Value) -> &Value {
    let data_volume = &source["dataVolume"]["name"];
    if data_volume.is_null() { &source["persistentVolumeClaim"]["claimName"] } else { data_volume }
}

fn add_volume(state: &mut State, key: &Key, vm: &Value, body: &Value) -> Result<(), Refusal> {
    let (name, source) = (body["name"].as_str().unwrap_or_default(), &body["volumeSource"]);
    if name.is_empty() {
        return Err(Refusal::bad_request("AddVolumeOptions requires name to be set"));
    }
    if volumes(vm).any(|volume| volume["name"] == name) {
        let why = format!("Unable to add volume [{name}] because volume with that name already exists");
        return Err(conflict(key, &why));
    }
    let wanted = claim(source);
    if volumes(vm).any(|volume| claim(volume) == wanted) {
        let wanted = wanted.as_str().unwrap_or_default();
        return Err(conflict(
            key,
            &format!("Unable to add volume source [{wanted}] because it already exists"),
        ));
    }
    if is_dry_run(body) {
        return Ok(());
    }
    let mut volume = source.clone();
    volume["name"] = name.into();
    let mut disk = body["disk"].clone();
    disk["name"] = name.into();
    let add = |spec: &mut Value| {
        for (list, item) in [("/volumes", &volume), ("/domain/devices/disks", &disk)] {
            if let Some(list) = spec.pointer_mut(list).and_then(Value::as_array_mut) {
                list.push(item.clone());
            }
        }
    };
    state.store.update(key, |vm| add(&mut vm["spec"]["template"]["spec"]));
    state.store.update(&Key::new(INSTANCES, &key.namespace, &key.name), |instance| {
        add(&mut instance["spec"]);
        if let Some(all) = instance["status"]["volumeStatus"].as_array_mut() {
            all.push(hotplug::begun(name));
        }
    });
    Ok(())
}

fn remove_volume(state: &mut State, key: &Key, vm: &Value, body: &Value) -> Result<(), Refusal> {
    let name = body["name"].as_str().unwrap_or_default();
    // As the real one: found by its claim too, and then not taken away.
    let Some(volume) = volumes(vm).find(|volume| volume["name"] == name || *claim(volume) == name) else {
        return Err(conflict(key, &format!("Unable to remove volume [{name}] because it does not exist")));
    };
    let is_hotpluggable =
        ["dataVolume", "persistentVolumeClaim"].iter().any(|kind| volume[*kind]["hotpluggable"] == true);
    if !is_hotpluggable {
        return Err(conflict(
            key,
            &format!("Unable to remove volume [{name}] because it is not hotpluggable"),
        ));
    }
    if is_dry_run(body) {
        return Ok(());
    }
    let remove = |spec: &mut Value| {
        for list in ["/volumes", "/domain/devices/disks"] {
            if let Some(list) = spec.pointer_mut(list).and_then(Value::as_array_mut) {
                list.retain(|item| item["name"] != name);
            }
        }
    };
    state.store.update(key, |vm| remove(&mut vm["spec"]["template"]["spec"]));
    state.store.update(&Key::new(INSTANCES, &key.namespace, &key.name), |instance| {
        remove(&mut instance["spec"]);
        let all = instance["status"]["volumeStatus"].as_array_mut().into_iter().flatten();
        for status in all.filter(|status| status["name"] == name) {
            status["phase"] = "Detaching".into();
        }
    });
    Ok(())
}

/// Pause, unpause and what is like them.
pub(super) fn of_instance(
    state: &mut State,
    namespace: &str,
    name: &str,
    call: &str,
    body: &Value,
) -> Result<(), Refusal> {
    let is_snapshotted =
        state.store.get(VMS, namespace, name).is_some_and(|vm| !vm["status"]["snapshotInProgress"].is_null());
    if call == "unpause" && is_snapshotted {
        let vm = Key::new(VMS, namespace, name);
        return Err(conflict(&vm, "VM snapshot is in progress"));
    }
    let key = Key::new(INSTANCES, namespace, name);
    let instance = state
        .store
        .find(&key)
        .cloned()
        .ok_or_else(|| Refusal::not_found("kubevirt.io", "virtualmachineinstance", name))?;
    let conflict = |why: &str| Err(Refusal::conflict("kubevirt.io", "virtualmachineinstance", name, why));
    if instance["status"]["phase"] != "Running" {
        return conflict(if call == "unpause" { "VMI is not running" } else { "VM is not running" });
    }
    let conditions = instance["status"]["conditions"].as_array();
    let is_paused = conditions.is_some_and(|list| list.iter().any(|item| item["type"] == "Paused"));
    match call {
        "pause" if !instance["spec"]["livenessProbe"].is_null() => {
            let message = format!(
                "virtualmachineinstance.kubevirt.io \"{name}\" is forbidden: Pausing VMIs with LivenessProbe is \
                 currently not supported"
            );
            let details = json!({"name": name, "group": "kubevirt.io", "kind": "virtualmachineinstance"});
            return Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message, details));
        }
        "pause" if is_paused => return conflict("VMI is already paused"),
        "pause" if control::is_migrating(&instance) => {
            return conflict(&format!("Cannot pause VM '{name}' because it is currently being migrated"));
        }
        "unpause" if !is_paused => return conflict("VMI is not paused"),
        "softreboot" if is_paused => return conflict("VMI is paused"),
        "pause" | "unpause" => {}
        _ => return Ok(()),
    }
    if !is_dry_run(body) {
        state.store.update(&key, |instance| {
            let Some(conditions) = instance["status"]["conditions"].as_array_mut() else { return };
            conditions.retain(|item| item["type"] != "Paused");
            if call == "pause" {
                conditions.push(control::paused(&clock::rfc3339(clock::now())));
            }
        });
    }
    Ok(())
}
