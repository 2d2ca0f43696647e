//! `subresources.kubevirt.io`: the version, expanded VMs, and the lifecycle of a VM.

use std::sync::Arc;

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use super::{Answer, Target, auth, console, expand, lifecycle, nosniff, respond, with_cache_header};
use crate::{
    http::{self, Body},
    refusal::{Asked, Refusal},
    world::{User, World},
};

/// Reads of the guest, whose failures are plain text.
const GUEST_READS: [&str; 3] = ["guestosinfo", "userlist", "filesystemlist"];
/// Calls on an instance that exists only while the VM runs.
const INSTANCE_CALLS: [&str; 6] = ["pause", "unpause", "freeze", "unfreeze", "softreboot", "reset"];

pub(super) async fn handle(
    world: &Arc<World>,
    user: &User,
    target: &Target<'_>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let (namespace, name) = (target.namespace.unwrap_or_default(), target.name.unwrap_or_default());
    let subresource = target.subresource.as_str();
    let is_read = GUEST_READS.contains(&subresource)
        || matches!(subresource, "expand-spec" | "objectgraph" | "vnc/screenshot" | "console")
        || matches!(target.plural, "version" | "healthz");
    let asked = Asked {
        group: "subresources.kubevirt.io",
        plural: target.plural,
        // The API server and virt-api both ask for the right to the first part alone: `vnc` of `vnc/screenshot`.
        subresource: subresource.split('/').next().unwrap_or_default(),
        namespace: target.namespace,
        name,
    };
    auth::check(user, if is_read { "get" } else { "update" }, &asked)?;
    let method = request.method().clone();
    let wanted = if is_read { Method::GET } else { Method::PUT };
    let is_known = is_read
        || target.plural == "expand-vm-spec"
        || INSTANCE_CALLS.contains(&subresource)
        || matches!(subresource, "start" | "stop" | "restart" | "migrate" | "addvolume" | "removevolume");
    if !is_known {
        return Err(Refusal::no_such_path());
    }
    if method != wanted {
        let mut response = http::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_str(wanted.as_str()).unwrap_or(HeaderValue::from_static("PUT")));
        return Ok(with_cache_header(response));
    }
    if (target.plural, subresource) == ("virtualmachineinstances", "console") {
        return console::handle(world, namespace, name, &mut request);
    }
    let body =
        http::read(request.into_body()).await.map_err(|error| Refusal::bad_request(error.to_string()))?;
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(error.to_string()))?
    };
    let mut response = match (target.plural, subresource) {
        ("version", _) => respond(&Answer::ok(version(world))),
        ("healthz", _) => http::text(StatusCode::OK, "ok"),
        ("expand-vm-spec", _) => respond(&Answer::ok(expand_given(world, namespace, body)?)),
        ("virtualmachines", "expand-spec") => respond(&Answer::ok(expand_stored(world, namespace, name)?)),
        ("virtualmachines", call @ ("addvolume" | "removevolume")) if !world.config.hotplug_gate => {
            return Err(lifecycle::no_hotplug(&world.config, call));
        }
        ("virtualmachines", call) => {
            world.change(|state| lifecycle::of_vm(state, namespace, name, call, &body))?;
            http::empty(StatusCode::ACCEPTED)
        }
        ("virtualmachineinstances", call) if GUEST_READS.contains(&call) => {
            guest_read(world, namespace, name, call)
        }
        ("virtualmachineinstances", "vnc/screenshot") => screenshot(world, namespace, name),
        ("virtualmachineinstances", call) => {
            world.change(|state| lifecycle::of_instance(state, namespace, name, call, &body))?;
            http::empty(StatusCode::OK)
        }
        _ => return Err(Refusal::no_such_path()),
    };
    nosniff(&mut response);
    Ok(with_cache_header(response))
}

fn version(world: &World) -> Value {
    let (major, minor) = world.config.kubevirt_version;
    json!({
        "gitVersion": format!("v{major}.{minor}.0"), "gitCommit": "simulator", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "go1.26.6", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn expand_stored(world: &World, namespace: &str, name: &str) -> Result<Value, Refusal> {
    let state = world.lock();
    let vm = state
        .store
        .get("kubevirt.io/virtualmachines", namespace, name)
        .ok_or_else(|| Refusal::not_found("kubevirt.io", "virtualmachine", name))?;
    expand::expand(&state, vm)
}

fn expand_given(world: &World, namespace: &str, mut vm: Value) -> Result<Value, Refusal> {
    if vm["kind"] != "VirtualMachine" || !vm["spec"]["template"].is_object() {
        return Err(Refusal::bad_request("Object is not a valid VirtualMachine"));
    }
    let given = vm["metadata"]["namespace"].as_str().unwrap_or_default();
    if !given.is_empty() && given != namespace {
        let message = format!("VM namespace must be empty or {namespace}");
        return Err(Refusal::bad_request(message));
    }
    vm["metadata"]["namespace"] = namespace.into();
    expand::expand(&world.lock(), &vm)
}

fn guest_read(world: &World, namespace: &str, name: &str, call: &str) -> Response<Body> {
    let state = world.lock();
    let instance = state.store.get("kubevirt.io/virtualmachineinstances", namespace, name);
    let memo = state.vms.get(&(namespace.to_owned(), name.to_owned()));
    let message = match instance {
        None => format!("virtualmachineinstance.kubevirt.io \"{name}\" not found"),
        Some(_) if !memo.is_some_and(|memo| memo.has_agent) => {
            format!(
                "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"{name}\": VMI does not have guest agent connected"
            )
        }
        Some(_) if call == "filesystemlist" => {
            return respond(&Answer::ok(json!({"items": [{
                "diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 1_500_000_000_u64,
                "totalBytes": 6_000_000_000_u64, "disk": [{"busType": "virtio"}],
            }], "metadata": {}})));
        }
        Some(_) if call == "userlist" => {
            let user = json!({"userName": "debian", "domain": "", "loginTime": 1_795_415_787});
            return respond(&Answer::ok(json!({"items": [user], "metadata": {}})));
        }
        Some(_) => {
            return respond(&Answer::ok(json!({
                "guestAgentVersion": "8.2.0", "hostname": name, "timezone": "UTC, 0",
                "os": {"name": "Debian GNU/Linux", "id": "debian", "versionId": "13", "prettyName": "Debian GNU/Linux 13", "kernelRelease": "6.12.0"},
                "fsFreezeStatus": "thawed",
            })));
        }
    };
    let mut response = http::text(StatusCode::INTERNAL_SERVER_ERROR, message);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A picture of the screen: one grey point, or what is said where there is none.
fn screenshot(world: &World, namespace: &str, name: &str) -> Response<Body> {
    let state = world.lock();
    let instance = state.store.get("kubevirt.io/virtualmachineinstances", namespace, name);
    let message = match instance {
        None => format!("virtualmachineinstance.kubevirt.io \"{name}\" not found"),
        Some(instance) if instance["spec"]["domain"]["devices"]["autoattachGraphicsDevice"] == false => {
            "No graphics devices are present.".to_owned()
        }
        Some(_) => {
            let mut response = http::text(StatusCode::OK, "");
            *response.body_mut() = http::full(PICTURE);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
            return response;
        }
    };
    let mut response = http::text(StatusCode::INTERNAL_SERVER_ERROR, message);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A PNG file of one point.
const PICTURE: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0\x3a\x7e\x9b\x55\0\0\0\x0aIDAT\
    \x78\x9c\x63\x68\0\0\0\x82\0\x81\xdd\x43\x6a\xf4\0\0\0\0IEND\xae\x42\x60\x82";
