//! Networks that come to a guest and go from it while it runs, as far as release, gate and Multus let them.

use serde_json::{Value, json};

use super::vm;
use crate::{
    clock,
    config::Config,
    store::{self, Key},
    world::{State, World},
};

const VMS: &str = "kubevirt.io/virtualmachines";
const INSTANCES: &str = "kubevirt.io/virtualmachineinstances";

pub(super) fn step(world: &World, state: &mut State) {
    let running: Vec<(Key, Value)> = state
        .store
        .list(INSTANCES, None)
        .filter(|(_, instance)| instance["status"]["phase"] == "Running")
        .map(|(key, instance)| (key.clone(), Value::clone(instance)))
        .collect();
    for (key, instance) in running {
        let Some(vm) = state.store.get(VMS, &key.namespace, &key.name).cloned() else { continue };
        pass_on(&world.config, state, &key, &vm, &instance);
        plug(world, state, &key);
    }
}

fn interfaces(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["domain"]["devices"]["interfaces"].as_array().into_iter().flatten()
}

fn named<'a>(mut all: impl Iterator<Item = &'a Value>, name: &Value) -> Option<&'a Value> {
    all.find(|item| item["name"] == *name)
}

/// What can change while the guest runs reaches its instance; anything else waits for a restart, which is told from
/// 1.2 on. While one is due, nothing more is passed on.
fn pass_on(config: &Config, state: &mut State, key: &Key, vm: &Value, instance: &Value) {
    let uid = Some(store::uid(instance));
    if vm::memo(state, &Key::new(VMS, &key.namespace, &key.name)).must_restart.as_deref() == uid {
        return;
    }
    let (wanted, has) = (&vm["spec"]["template"]["spec"], &instance["spec"]);
    let mut after = has.clone();
    let mut must_restart = interfaces(has).any(|old| {
        let is_gone = old["state"] == "absent"
            && named(instance["status"]["interfaces"].as_array().into_iter().flatten(), &old["name"])
                .is_none();
        named(interfaces(wanted), &old["name"]).is_none() && !is_gone && !is_implied(wanted, old)
    });
    for interface in interfaces(wanted) {
        let network = wanted["networks"].as_array().into_iter().flatten();
        let network = named(network, &interface["name"]).cloned().unwrap_or_default();
        let place = interfaces(has).position(|old| old["name"] == interface["name"]);
        let can_come = config.plugs_networks()
            && network["multus"].is_object()
            && (interface["bridge"].is_object() || interface["sriov"].is_object());
        match place {
            Some(place) => {
                let state = &interface["state"];
                let is_link = matches!(state.as_str(), None | Some("up" | "down"));
                if has["domain"]["devices"]["interfaces"][place]["state"] != *state
                    && (is_link || config.plugs_networks())
                {
                    after["domain"]["devices"]["interfaces"][place]["state"] = state.clone();
                }
            }
            None if is_implied(has, interface) => {}
            None if can_come => {
                for (list, item) in [("/networks", &network), ("/domain/devices/interfaces", interface)] {
                    if let Some(list) = after.pointer_mut(list).and_then(Value::as_array_mut) {
                        list.push(item.clone());
                    }
                }
            }
            None => must_restart = true,
        }
    }
    if after != *has {
        state.store.update(key, |instance| instance["spec"] = after);
    }
    if must_restart && config.at_least(2) {
        let uid = store::uid(instance).to_owned();
        vm::memo(state, &Key::new(VMS, &key.namespace, &key.name)).must_restart = Some(uid);
    }
}

/// The interface that a VM without any gets: written out or not, it is the same, if it is bound in the same way.
fn is_implied(other: &Value, interface: &Value) -> bool {
    interface["name"] == "default"
        && interface["bridge"].is_object()
        && interfaces(other).next().is_none()
        && other["domain"]["devices"]["autoattachPodInterface"] != false
}

/// What the instance is to have, its guest gets, or no longer has.
fn plug(world: &World, state: &mut State, key: &Key) {
    let Some(instance) = state.store.find(key).cloned() else { return };
    let node = instance["status"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let memo = vm::memo(state, &Key::new(VMS, &key.namespace, &key.name));
    let has_moved = memo.must_leave.as_ref().is_some_and(|left| *left != node);
    let before = instance["status"]["interfaces"].as_array().cloned().unwrap_or_default();
    let wanted = of_guest(&instance, "10.9.0.9");
    let (mut after, mut is_waiting) = (Vec::new(), false);
    for mut interface in wanted {
        match named(before.iter(), &interface["name"]) {
            Some(old) if old["infoSource"] == "multus-status" => after.push(interface),
            Some(old) => {
                let mut old = old.clone();
                old["linkState"] = interface["linkState"].clone();
                after.push(old);
            }
            None if world.config.dynamic_networks || has_moved => {
                interface["infoSource"] = "multus-status".into();
                after.push(interface);
            }
            None => is_waiting = true,
        }
    }
    if before != after {
        state.store.update(key, |instance| instance["status"]["interfaces"] = after.into());
    }
    let memo = vm::memo(state, &Key::new(VMS, &key.namespace, &key.name));
    let was_waiting = memo.must_leave.is_some();
    if is_waiting && !was_waiting {
        memo.must_leave = Some(node);
    } else if !is_waiting || has_moved {
        memo.must_leave = None;
    }
    if is_waiting == was_waiting {
        return;
    }
    let now = clock::rfc3339(clock::now());
    state.store.update(key, |instance| {
        let Some(conditions) = instance["status"]["conditions"].as_array_mut() else { return };
        conditions.retain(|item| item["type"] != "MigrationRequired");
        if is_waiting {
            conditions.push(vm::condition("MigrationRequired", &now));
        }
    });
    if is_waiting && world.config.live_update && world.config.at_least(6) {
        let migration = json!({
            "metadata": {
                "name": format!("kubevirt-workload-update-{}", key.name), "namespace": key.namespace,
            },
            "spec": {"vmiName": key.name},
        });
        world.create(state, "kubevirt.io", "virtualmachineinstancemigrations", migration);
    }
}

/// What a guest has of the interfaces of its description.
pub(super) fn of_guest(instance: &Value, address: &str) -> Vec<Value> {
    let described = instance["spec"]["domain"]["devices"]["interfaces"].as_array().into_iter().flatten();
    described
        .enumerate()
        .filter(|(_, interface)| interface["state"] != "absent")
        .map(|(i, interface)| {
            let link = if interface["state"] == "down" { "down" } else { "up" };
            let mac = format!("02:00:00:00:00:{i:02x}");
            json!({
                "name": interface["name"], "mac": interface["macAddress"].as_str().unwrap_or(&mac),
                "ipAddress": address, "ipAddresses": [address], "infoSource": "domain, guest-agent",
                "linkState": link, "podInterfaceName": format!("eth{i}"), "queueCount": 1,
            })
        })
        .collect()
}
