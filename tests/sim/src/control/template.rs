//! The controller of templates: they are ready at once, and made of VMs on request.

use serde_json::{Value, json};

use crate::{
    clock,
    store::{self, Key},
    world::{State, World},
};

const TEMPLATES: &str = "template.kubevirt.io/virtualmachinetemplates";
const REQUESTS: &str = "template.kubevirt.io/virtualmachinetemplaterequests";

pub(super) fn step(world: &World, state: &mut State) {
    let new: Vec<Key> = state
        .store
        .list(TEMPLATES, None)
        .filter(|(_, template)| template["status"]["conditions"].is_null())
        .map(|(key, _)| key.clone())
        .collect();
    for key in new {
        state
            .store
            .update(&key, |template| template["status"]["conditions"] = ready("True", "Reconciled", ""));
    }
    let open: Vec<(Key, Value)> = state
        .store
        .list(REQUESTS, None)
        .filter(|(_, request)| request["status"]["conditions"][0]["status"] != "True")
        .map(|(key, request)| (key.clone(), Value::clone(request)))
        .collect();
    for (key, request) in open {
        reconcile(world, state, &key, &request);
    }
}

fn reconcile(world: &World, state: &mut State, key: &Key, request: &Value) {
    let text = |place: &str| request.pointer(place).and_then(Value::as_str).unwrap_or_default();
    if request["status"]["conditions"].is_null() {
        state.store.update(key, |request| {
            request["status"]["conditions"] = ready("False", "Waiting", "the VM is being snapshotted");
        });
        return;
    }
    let (namespace, vm) = (text("/spec/virtualMachineRef/namespace"), text("/spec/virtualMachineRef/name"));
    let Some(vm) = state.store.get("kubevirt.io/virtualmachines", namespace, vm).cloned() else { return };
    let name = match text("/spec/templateName") {
        "" => key.name.clone(),
        name => name.to_owned(),
    };
    let template = json!({
        "metadata": {"name": name, "namespace": key.namespace, "ownerReferences": [store::owner(request)]},
        "spec": {
            "parameters": [{"name": "NAME", "required": true}],
            "virtualMachine": {"metadata": {"name": "${NAME}"}, "spec": vm["spec"]},
        },
    });
    world.create(state, "template.kubevirt.io", "virtualmachinetemplates", template);
    state.store.update(key, |request| {
        request["status"] =
            json!({"conditions": ready("True", "Created", ""), "templateRef": {"name": name}});
    });
}

fn ready(status: &str, reason: &str, message: &str) -> Value {
    let now = clock::rfc3339(clock::now());
    json!([{"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now}])
}
