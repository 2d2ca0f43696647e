//! Get, list, create, update, patch and delete, for every kind alike.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use hyper::{StatusCode, body::Incoming, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{Answer, Call, admission, delete};
use crate::{
    http,
    refusal::Refusal,
    store::{self, Key, patch},
    world::State,
};

/// Carries out a request and answers with the object, the list or a Status.
pub(super) async fn handle(call: &Call<'_>, verb: &str, body: Incoming) -> Result<Answer, Refusal> {
    let body = http::read(body).await.map_err(|error| Refusal::bad_request(error.to_string()))?;
    match verb {
        "get" => get(call),
        "list" => list(call),
        "create" => create(call, parse(call, &body)?),
        "update" => update(call, parse(call, &body)?),
        "patch" => patch(call, &body),
        "delete" => delete::one(call, &body),
        "deletecollection" => delete::all(call, &body),
        _ => Err(Refusal::method_not_allowed()),
    }
}

fn get(call: &Call<'_>) -> Result<Answer, Refusal> {
    let state = call.world.lock();
    let object = state.store.find(&key(call)).ok_or_else(|| call.not_found())?;
    Ok(Answer::ok(call.present(object)))
}

pub(super) fn list(call: &Call<'_>) -> Result<Answer, Refusal> {
    let selector = call.selector()?;
    let limit = call.query.first("limit").and_then(|limit| limit.parse().ok()).filter(|&limit| limit > 0);
    let start = match call.query.first("continue").filter(|token| !token.is_empty()) {
        Some(token) => Some(parse_continue(token)?),
        None => None,
    };
    let state = call.world.lock();
    let resource = call.resource.key();
    let found: Vec<(&Key, &Arc<Value>)> = state
        .store
        .list(&resource, call.namespace.as_deref())
        .filter(|(key, _)| start.as_ref().is_none_or(|(_, start)| place(key) > *start))
        .filter(|(_, object)| selector.matches(object))
        .collect();
    let count = limit.unwrap_or(found.len()).min(found.len());
    let revision = start.as_ref().map_or_else(|| state.store.revision(), |(revision, _)| *revision);
    let items: Vec<Value> = found.iter().take(count).map(|(_, object)| item(call, object)).collect();
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if call.resource.is_custom {
        metadata["continue"] = "".into();
    }
    if let Some((last, _)) = found.get(count.wrapping_sub(1)).filter(|_| count < found.len()) {
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{}\0", place(last))});
        metadata["continue"] = BASE64.encode(token.to_string()).into();
        if selector.is_empty() {
            metadata["remainingItemCount"] = (found.len() - count).into();
        }
    }
    Ok(Answer::ok(json!({
        "kind": format!("{}List", call.resource.kind), "apiVersion": call.resource.api_version(),
        "metadata": metadata, "items": items,
    })))
}

/// Custom objects in a list say what they are, built-in ones do not.
fn item(call: &Call<'_>, object: &Value) -> Value {
    let mut item = call.present(object);
    if let Some(fields) = item.as_object_mut().filter(|_| !call.resource.is_custom) {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}

/// Where an object is in its list.
fn place(key: &Key) -> String {
    if key.namespace.is_empty() { key.name.clone() } else { format!("{}/{}", key.namespace, key.name) }
}

fn parse_continue(token: &str) -> Result<(u64, String), Refusal> {
    let refused = || Refusal::bad_request("continue key is not valid");
    let bytes = BASE64.decode(token.trim_end_matches('=')).map_err(|_| refused())?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| refused())?;
    let revision = value["rv"].as_u64().ok_or_else(refused)?;
    let start = value["start"].as_str().ok_or_else(refused)?;
    Ok((revision, start.trim_end_matches('\0').to_owned()))
}

fn create(call: &Call<'_>, mut object: Value) -> Result<Answer, Refusal> {
    if call.name.is_some() {
        return Err(Refusal::method_not_allowed());
    }
    check_identity(call, &object)?;
    if let Some(namespace) = &call.namespace {
        object["metadata"]["namespace"] = namespace.as_str().into();
    } else if call.resource.is_namespaced {
        return Err(Refusal::method_not_allowed());
    }
    let metadata = &object["metadata"];
    if store::name(&object).is_empty() && metadata["generateName"].as_str().unwrap_or_default().is_empty() {
        let message = format!(
            "{} \"\" is invalid: metadata.name: Required value: name or generateName is required",
            call.resource.kind
        );
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message, Value::Null));
    }
    let warnings = admission::fields(call, &mut object)?;
    if call.resource.is_custom
        && call.resource.has_status()
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
    let object = call.world.change(|state| {
        if let Some(namespace) = &call.namespace
            && state.store.get("/namespaces", "", namespace).is_none()
        {
            return Err(Refusal::not_found("", "namespaces", namespace));
        }
        let name = store::name(&object);
        let taken = Key::new(&call.resource.key(), call.namespace.as_deref().unwrap_or_default(), name);
        if !name.is_empty() && state.store.find(&taken).is_some() {
            return Err(Refusal::already_exists(&call.resource.group, &call.resource.plural, name));
        }
        admission::create(call, state, &mut object)?;
        if call.is_dry_run() {
            store::fill_metadata(call.resource, &mut object, &mut state.rng);
            return Ok(Arc::new(object));
        }
        Ok(state.store.create(call.resource, object, &mut state.rng))
    })?;
    Ok(Answer { status: StatusCode::CREATED, value: call.present(&object), warnings })
}

fn update(call: &Call<'_>, mut object: Value) -> Result<Answer, Refusal> {
    check_identity(call, &object)?;
    let warnings = admission::fields(call, &mut object)?;
    let is_patch = false;
    let object = call.world.change(|state| replace(call, state, is_patch, |_| Ok(object)))?;
    Ok(Answer { status: StatusCode::OK, value: call.present(&object), warnings })
}

fn patch(call: &Call<'_>, body: &[u8]) -> Result<Answer, Refusal> {
    let kind = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let patch: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))?;
    let is_json_patch = match kind {
        "application/json-patch+json" => true,
        "application/merge-patch+json"
        | "application/strategic-merge-patch+json"
        | "application/apply-patch+yaml" => false,
        _ => {
            return Err(Refusal::unsupported_media_type(
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
    };
    if kind == "application/strategic-merge-patch+json" && call.resource.is_custom {
        return Err(Refusal::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        ));
    }
    let exists = call.world.lock().store.find(&key(call)).is_some();
    if kind == "application/apply-patch+yaml" && !exists {
        let call = Call {
            world: call.world,
            user: call.user.clone(),
            resource: call.resource,
            namespace: call.namespace.clone(),
            name: None,
            subresource: String::new(),
            query: call.query.clone(),
            headers: call.headers.clone(),
        };
        return create(&call, patch);
    }
    let is_patch = true;
    let mut warnings = Vec::new();
    let object = call.world.change(|state| {
        replace(call, state, is_patch, |before| {
            let mut after = before.clone();
            if is_json_patch {
                patch::json_patch(&mut after, &patch).map_err(|why| {
                    Refusal::new(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        "Invalid",
                        format!("the server rejected our request due to an error in our request: {why}"),
                        json!({}),
                    )
                })?;
            } else {
                patch::merge(&mut after, &patch);
            }
            warnings = admission::fields(call, &mut after)?;
            Ok(after)
        })
    })?;
    Ok(Answer { status: StatusCode::OK, value: call.present(&object), warnings })
}

/// Puts what `make` makes of an object in its place, unless something forbids it.
fn replace(
    call: &Call<'_>,
    state: &mut State,
    is_patch: bool,
    make: impl FnOnce(&Value) -> Result<Value, Refusal>,
) -> Result<Arc<Value>, Refusal> {
    let key = key(call);
    let before = Arc::clone(state.store.find(&key).ok_or_else(|| call.not_found())?);
    let mut after = make(&before)?;
    let (group, plural, name) = (&call.resource.group, &call.resource.plural, &key.name);
    let version = after["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if version.is_empty() && !is_patch && call.resource.is_custom {
        let message = format!(
            "{plural}.{group} \"{name}\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
        );
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message, Value::Null));
    }
    if !version.is_empty() && version != before["metadata"]["resourceVersion"] {
        return Err(Refusal::stale(group, plural, name));
    }
    if !after["metadata"]["uid"].is_null() && after["metadata"]["uid"] != before["metadata"]["uid"] {
        let (given, real) = (store::uid(&after), store::uid(&before));
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {real}");
        return Err(Refusal::conflict(group, plural, name, &why));
    }
    for kept in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "name",
        "namespace",
        "resourceVersion",
    ] {
        match before["metadata"].get(kept) {
            Some(value) => after["metadata"][kept] = value.clone(),
            None => {
                if let Some(fields) = after["metadata"].as_object_mut() {
                    fields.remove(kept);
                }
            }
        }
    }
    if let Some(fields) = after["metadata"].as_object_mut() {
        fields.remove("managedFields");
    }
    if call.subresource == "status" {
        let status = after["status"].take();
        after = Value::clone(&before);
        after["status"] = status;
    } else if call.resource.has_status() {
        match before.get("status") {
            Some(status) => after["status"] = status.clone(),
            None => {
                if let Some(fields) = after.as_object_mut() {
                    fields.remove("status");
                }
            }
        }
    }
    admission::update(call, state, &before, &mut after)?;
    if call.is_dry_run() {
        return Ok(Arc::new(after));
    }
    state.store.update(&key, |object| *object = after).ok_or_else(|| call.not_found())
}

/// Where the object of a request is.
pub(super) fn key(call: &Call<'_>) -> Key {
    Key::new(
        &call.resource.key(),
        call.namespace.as_deref().unwrap_or_default(),
        call.name.as_deref().unwrap_or_default(),
    )
}

fn parse(call: &Call<'_>, body: &[u8]) -> Result<Value, Refusal> {
    let kind =
        call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    if !kind.starts_with("application/json") {
        return Err(Refusal::unsupported_media_type("application/json"));
    }
    let object: Value = serde_json::from_slice(body).map_err(|error| {
        Refusal::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error}",
            call.resource.kind
        ))
    })?;
    if object.is_object() {
        Ok(object)
    } else {
        Err(Refusal::bad_request("the object provided is unrecognized"))
    }
}

/// The body must be what the path says.
fn check_identity(call: &Call<'_>, object: &Value) -> Result<(), Refusal> {
    let resource = call.resource;
    if let Some(kind) = object["kind"].as_str().filter(|&kind| kind != resource.kind) {
        return Err(Refusal::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {}: no kind \"{kind}\" is registered",
            resource.version, resource.kind
        )));
    }
    let wanted = resource.api_version();
    if let Some(given) = object["apiVersion"].as_str().filter(|&given| given != wanted) {
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({wanted})"
        )));
    }
    let namespace = call.namespace.as_deref().unwrap_or_default();
    if !store::namespace(object).is_empty() && store::namespace(object) != namespace {
        return Err(Refusal::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    match &call.name {
        Some(name) if store::name(object) != name => Err(Refusal::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            store::name(object)
        ))),
        _ => Ok(()),
    }
}
