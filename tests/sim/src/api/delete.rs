//! Deletion: preconditions, propagation, finalizers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Answer, Call, crud};
use crate::{
    clock,
    refusal::Refusal,
    store::{self, Key},
    world::State,
};

/// What a DELETE may say.
struct DeleteOptions {
    uid: Option<String>,
    version: Option<String>,
    propagation: String,
    is_dry_run: bool,
}

fn options(body: &[u8]) -> Result<DeleteOptions, Refusal> {
    let value: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(DeleteOptions {
        uid: text(&value["preconditions"]["uid"]),
        version: text(&value["preconditions"]["resourceVersion"]),
        propagation: text(&value["propagationPolicy"]).unwrap_or_default(),
        is_dry_run: value["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
    })
}

/// Deletes an object, or marks it where finalizers hold it.
pub(super) fn one(call: &Call<'_>, body: &[u8]) -> Result<Answer, Refusal> {
    let options = options(body)?;
    let key = crud::key(call);
    let (group, plural) = (&call.resource.group, &call.resource.plural);
    call.world.change(|state| {
        let object = Arc::clone(state.store.find(&key).ok_or_else(|| call.not_found())?);
        if let Some(wanted) = options.uid.as_deref().filter(|&wanted| wanted != store::uid(&object)) {
            let real = store::uid(&object);
            let why = format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({real}). \
                 The object might have been deleted and then recreated"
            );
            return Err(Refusal::conflict(group, plural, &key.name, &why));
        }
        if let Some(wanted) = options.version.as_deref().filter(|&wanted| object["metadata"]["resourceVersion"] != wanted) {
            let real = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({real}). \
                 The object might have been modified"
            );
            return Err(Refusal::conflict(group, plural, &key.name, &why));
        }
        if call.is_dry_run() || options.is_dry_run {
            return Ok(Answer::ok(deleted_status(call, &object)));
        }
        let propagation = call.query.first("propagationPolicy").unwrap_or(&options.propagation);
        Ok(Answer::ok(match remove(state, &key, propagation) {
            Some(waiting) => call.present(&waiting),
            None if plural == "pods" => call.present(&object),
            None => deleted_status(call, &object),
        }))
    })
}

fn deleted_status(call: &Call<'_>, object: &Value) -> Value {
    let mut details =
        json!({"name": store::name(object), "kind": call.resource.plural, "uid": store::uid(object)});
    if !call.resource.group.is_empty() {
        details["group"] = call.resource.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Deletes what a list has.
pub(super) fn all(call: &Call<'_>, body: &[u8]) -> Result<Answer, Refusal> {
    let options = options(body)?;
    let Answer { value: list, .. } = crud::list(call)?;
    let namespaces = list["items"].as_array().into_iter().flatten();
    let keys: Vec<Key> = namespaces
        .map(|object| Key::new(&call.resource.key(), store::namespace(object), store::name(object)))
        .collect();
    if !call.is_dry_run() && !options.is_dry_run {
        call.world.change(|state| {
            for key in &keys {
                remove(state, key, &options.propagation);
            }
        });
    }
    Ok(Answer::ok(list))
}

/// Deletes an object, or marks it where finalizers hold it; then it is returned.
pub(crate) fn remove(state: &mut State, key: &Key, propagation: &str) -> Option<Arc<Value>> {
    let object = Arc::clone(state.store.find(key)?);
    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    match propagation {
        "Foreground" => finalizers.push("foregroundDeletion".into()),
        "Orphan" => orphan(state, store::uid(&object)),
        _ => {}
    }
    if finalizers.is_empty() {
        state.store.remove(key);
        return None;
    }
    state.store.update(key, |object| {
        object["metadata"]["finalizers"] = finalizers.into();
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = clock::rfc3339(clock::now()).into();
            object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
    })
}

/// Takes an owner out of everything it owns.
fn orphan(state: &mut State, uid: &str) {
    let owned: Vec<Key> = state
        .store
        .all()
        .filter(|(_, object)| {
            object["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in owned {
        state.store.update(&key, |object| {
            if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|owner| owner["uid"] != uid);
            }
        });
    }
}
