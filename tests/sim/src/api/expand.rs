//! VMs with their instance type and preference written out.

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::{refusal::Refusal, store, world::State};

/// Puts what the instance type and the preference say into the VM, and takes the references out.
pub(crate) fn expand(state: &State, vm: &Value) -> Result<Value, Refusal> {
    let mut vm = vm.clone();
    let namespace = store::namespace(&vm).to_owned();
    let matcher = vm["spec"]["instancetype"].take();
    let preference = vm["spec"]["preference"].take();
    if let Some(spec) = vm["spec"].as_object_mut() {
        spec.remove("instancetype");
        spec.remove("preference");
    }
    if !matcher.is_null() {
        let kinds = ("virtualmachineclusterinstancetypes", "virtualmachineinstancetypes");
        let found = find(state, &namespace, &matcher, "VirtualMachineInstancetype", kinds)?;
        let (spec, domain) = (&found["spec"], &mut vm["spec"]["template"]["spec"]["domain"]);
        if let Some(guest) = spec["cpu"]["guest"].as_u64() {
            domain["cpu"]["sockets"] = guest.into();
            domain["cpu"]["cores"] = json!(1);
            domain["cpu"]["threads"] = json!(1);
        }
        if !spec["memory"]["guest"].is_null() {
            domain["memory"]["guest"] = spec["memory"]["guest"].clone();
        }
    }
    if !preference.is_null() {
        let kinds = ("virtualmachineclusterpreferences", "virtualmachinepreferences");
        let found = find(state, &namespace, &preference, "VirtualMachinePreference", kinds)?;
        apply_preference(&found["spec"], &mut vm["spec"]["template"]);
    }
    Ok(vm)
}

fn apply_preference(spec: &Value, template: &mut Value) {
    let devices = &mut template["spec"]["domain"]["devices"];
    if !spec["devices"]["preferredDiskBus"].is_null() {
        for disk in devices["disks"].as_array_mut().into_iter().flatten() {
            if disk["cdrom"].is_null() && disk["lun"].is_null() && disk["disk"]["bus"].is_null() {
                disk["disk"]["bus"] = spec["devices"]["preferredDiskBus"].clone();
            }
        }
    }
    if !spec["devices"]["preferredInterfaceModel"].is_null() {
        for interface in devices["interfaces"].as_array_mut().into_iter().flatten() {
            if interface["model"].is_null() {
                interface["model"] = spec["devices"]["preferredInterfaceModel"].clone();
            }
        }
    }
    if spec["firmware"]["preferredEfi"].is_object() {
        template["spec"]["domain"]["firmware"]["bootloader"]["efi"] =
            spec["firmware"]["preferredEfi"].clone();
    }
    for (key, value) in spec["annotations"].as_object().into_iter().flatten() {
        template["metadata"]["annotations"][key] = value.clone();
    }
}

fn find(
    state: &State,
    namespace: &str,
    matcher: &Value,
    namespaced_kind: &str,
    (cluster, namespaced): (&str, &str),
) -> Result<Value, Refusal> {
    let name = matcher["name"].as_str().unwrap_or_default();
    let is_namespaced =
        matcher["kind"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case(namespaced_kind));
    let (plural, namespace) = if is_namespaced { (namespaced, namespace) } else { (cluster, "") };
    let group = "instancetype.kubevirt.io";
    let found = state.store.get(&format!("{group}/{plural}"), namespace, name);
    found.map(|object| Value::clone(object)).ok_or_else(|| {
        let message = format!("{plural}.{group} \"{name}\" not found");
        Refusal::new(StatusCode::NOT_FOUND, "NotFound", message, Value::Null)
    })
}
