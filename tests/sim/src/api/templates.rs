//! `subresources.template.kubevirt.io`: the server of templates, which makes VMs of them.

use std::sync::Arc;

use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use serde_json::{Value, json};

use super::{Answer, admission, auth, respond};
use crate::{
    http::{self, Body},
    refusal::{Asked, Refusal},
    rng::Rng,
    store::{self, Key},
    world::{User, World},
};

const GROUP: &str = "subresources.template.kubevirt.io";

/// Whether there is such a server: the release has templates, and it runs.
pub(super) fn is_served(world: &World) -> bool {
    let is_absent = world.config.absent_groups.iter().any(|absent| absent == GROUP);
    world.config.template_server && world.config.at_least(8) && !is_absent
}

/// Versions, the preferred one first.
fn versions(world: &World) -> &'static [&'static str] {
    if world.config.at_least(9) { &["v1beta1", "v1alpha1"] } else { &["v1alpha1"] }
}

pub(super) async fn handle(
    world: &Arc<World>,
    user: &User,
    rest: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let known = versions(world);
    let version = |version: &str| json!({"groupVersion": format!("{GROUP}/{version}"), "version": version});
    let (namespace, name, task) = match rest {
        [] => {
            let all: Vec<Value> = known.iter().map(|known| version(known)).collect();
            return Ok(respond(&Answer::ok(json!({
                "kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "preferredVersion": all[0], "versions": all,
            }))));
        }
        [
            version,
            "namespaces",
            namespace,
            "virtualmachinetemplates",
            name,
            task @ ("process" | "create"),
        ] if known.contains(version) => (*namespace, *name, *task),
        _ => return Err(Refusal::no_such_path()),
    };
    if request.method() != Method::POST {
        return Err(Refusal::method_not_allowed());
    }
    let asked = Asked {
        group: GROUP,
        plural: "virtualmachinetemplates",
        subresource: task,
        namespace: Some(namespace),
        name,
    };
    auth::check(user, "create", &asked)?;
    let body = http::read(request.into_body()).await.map_err(|e| Refusal::bad_request(e.to_string()))?;
    let options: Value =
        serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    if options["kind"] != "ProcessOptions" {
        return Err(Refusal::bad_request(
            "the object provided is unrecognized (must be of type ProcessOptions)",
        ));
    }
    let answer = world.change(|state| {
        let template =
            state.store.get("template.kubevirt.io/virtualmachinetemplates", namespace, name).cloned();
        let template = template
            .ok_or_else(|| Refusal::not_found("template.kubevirt.io", "virtualmachinetemplates", name))?;
        let mut vm = process(&template, &options["parameters"], &mut state.rng)?;
        vm["metadata"]["namespace"] = namespace.into();
        vm["apiVersion"] = "kubevirt.io/v1".into();
        vm["kind"] = "VirtualMachine".into();
        if task == "create" {
            let wanted = store::name(&vm).to_owned();
            if state.store.find(&Key::new("kubevirt.io/virtualmachines", namespace, &wanted)).is_some() {
                return Err(Refusal::already_exists("kubevirt.io", "virtualmachines", &wanted));
            }
            admission::default_vm(&mut vm, state);
            vm = Value::clone(&world.create(state, "kubevirt.io", "virtualmachines", vm));
        }
        Ok(json!({
            "kind": "ProcessedVirtualMachineTemplate", "apiVersion": format!("{GROUP}/{}", known[0]),
            "metadata": {}, "templateRef": {"namespace": namespace, "name": name}, "virtualMachine": vm,
            "message": template["spec"]["message"],
        }))
    })?;
    Ok(respond(&Answer::ok(answer)))
}

/// Fills in the parameters.
fn process(template: &Value, given: &Value, rng: &mut Rng) -> Result<Value, Refusal> {
    let parameters = template["spec"]["parameters"].as_array().cloned().unwrap_or_default();
    let invalid = |why: String| {
        Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            why,
            json!({"name": store::name(template)}),
        ))
    };
    for name in given.as_object().into_iter().flat_map(serde_json::Map::keys) {
        if !parameters.iter().any(|parameter| parameter["name"] == name.as_str()) {
            return invalid(format!("unknown parameter name {name:?}"));
        }
    }
    let mut text = template["spec"]["virtualMachine"].to_string();
    for parameter in &parameters {
        let name = parameter["name"].as_str().unwrap_or_default();
        let value = match (given[name].as_str(), parameter["value"].as_str(), parameter["generate"].as_str())
        {
            (Some(given), ..) => given.to_owned(),
            (None, Some(value), _) if !value.is_empty() => value.to_owned(),
            (None, _, Some("expression")) => {
                let from = parameter["from"].as_str().unwrap_or_default();
                let fixed = from.split('[').next().unwrap_or_default();
                format!("{fixed}{}", rng.text(b"abcdefghijklmnopqrstuvwxyz0123456789", 8))
            }
            _ if parameter["required"] == true => {
                return invalid(format!("parameter {name} is required and must be specified"));
            }
            _ => String::new(),
        };
        let quoted = Value::String(value).to_string();
        text = text.replace(&format!("${{{name}}}"), quoted.trim_matches('"'));
    }
    serde_json::from_str(&text).map_err(|error| Refusal::bad_request(error.to_string()))
}
