//! Merge patch (RFC 7396) and JSON patch (RFC 6902).

use serde_json::Value;

/// Applies a merge patch.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a JSON patch; the error says which operation failed and why.
pub(crate) fn json_patch(target: &mut Value, operations: &Value) -> Result<(), String> {
    let operations = operations.as_array().ok_or("a JSON patch is an array of operations")?;
    for operation in operations {
        let text = |key: &str| operation[key].as_str().ok_or_else(|| format!("missing {key}"));
        let path = text("path")?;
        let value = || operation.get("value").cloned().ok_or_else(|| "missing value".to_owned());
        match text("op")? {
            "add" => add(target, path, value()?)?,
            "remove" => drop(remove(target, path)?),
            "replace" => {
                *target.pointer_mut(path).ok_or_else(|| missing("replace", path))? = value()?;
            }
            "move" => {
                let value = remove(target, text("from")?)?;
                add(target, path, value)?;
            }
            "copy" => {
                let from = text("from")?;
                let value = target.pointer(from).cloned().ok_or_else(|| missing("copy", from))?;
                add(target, path, value)?;
            }
            "test" => {
                if target.pointer(path) != Some(&value()?) {
                    return Err(format!("testing path {path} value failed"));
                }
            }
            other => return Err(format!("unexpected kind: {other}")),
        }
    }
    Ok(())
}

fn missing(operation: &str, path: &str) -> String {
    format!("{operation} operation does not apply: doc is missing path: {path}: missing value")
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let Some((parent, last)) = path.rsplit_once('/') else {
        *target = value;
        return Ok(());
    };
    let last = last.replace("~1", "/").replace("~0", "~");
    match target.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(last, value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            let index = if last == "-" { Some(items.len()) } else { last.parse().ok() };
            let index = index.filter(|&index| index <= items.len()).ok_or_else(|| missing("add", path))?;
            items.insert(index, value);
            Ok(())
        }
        _ => Err(missing("add", path)),
    }
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| missing("remove", path))?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let removed = match target.pointer_mut(parent) {
        Some(Value::Object(fields)) => fields.remove(&last),
        Some(Value::Array(items)) => {
            last.parse().ok().filter(|&index: &usize| index < items.len()).map(|index| items.remove(index))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing("remove", path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_replaces_adds_and_removes() {
        let mut object = json!({"a": {"b": 1, "c": [1]}, "d": 2});
        merge(&mut object, &json!({"a": {"b": null, "c": [2, 3]}, "e": {"f": null, "g": 1}}));
        assert_eq!(object, json!({"a": {"c": [2, 3]}, "d": 2, "e": {"g": 1}}));
    }

    #[test]
    fn operations_apply_in_order() {
        let mut object = json!({"a": [1, 2], "b": {"x/y": 1}});
        let patch = json!([
            {"op": "test", "path": "/b/x~1y", "value": 1},
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "move", "from": "/b", "path": "/c"},
            {"op": "replace", "path": "/c/x~1y", "value": 9},
        ]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"a": [2, 3], "c": {"x/y": 9}}));
        let refused = json!([{"op": "replace", "path": "/nope", "value": 1}]);
        assert!(json_patch(&mut object, &refused).is_err());
        let refused = json!([{"op": "test", "path": "/a", "value": 1}]);
        assert!(json_patch(&mut object, &refused).is_err());
    }
}
