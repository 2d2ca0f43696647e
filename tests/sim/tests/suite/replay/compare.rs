//! Two answers side by side, without what varies from cluster to cluster.

use serde_json::{Map, Value};

/// Keys whose values vary; their types do not.
const VARYING: [&str; 23] = [
    "ca-bundle",
    "cert",
    "clusterIP",
    "clusterIPs",
    "continue",
    "creationTime",
    "creationTimestamp",
    "firstTimestamp",
    "gitCommit",
    "gitVersion",
    "lastProbeTime",
    "lastTimestamp",
    "lastTransitionTime",
    "observedKubeVirtVersion",
    "phaseTransitionTimestamp",
    "resourceVersion",
    "restoreTime",
    "serial",
    "targetKubeVirtVersion",
    "ttlExpirationTime",
    "uid",
    "uuid",
    "launcherContainerImageVersion",
];
/// What kubectl leaves in the recorded objects.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A value without what varies, lists of discovery in one order.
pub(super) fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let is_discovery = fields.get("kind").and_then(Value::as_str).is_some_and(|kind| {
                matches!(kind, "APIGroupList" | "APIGroupDiscoveryList" | "APIResourceList")
            });
            let mut out = Map::new();
            for (key, value) in fields {
                if key == LAST_APPLIED || key == "managedFields" {
                    continue;
                }
                let value = if VARYING.contains(&key.as_str()) { type_of(value) } else { normal(value) };
                out.insert(normal_text(key), value);
            }
            // What is left without its only, dropped entry.
            out.retain(|key, value| {
                key != "annotations" || value.as_object().is_none_or(|map| !map.is_empty())
            });
            if is_discovery {
                for key in ["groups", "items", "resources"] {
                    if let Some(Value::Array(list)) = out.get_mut(key) {
                        sort(list);
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(normal).collect();
            if list.iter().any(|item| item.get("resource").is_some() || item.get("subresource").is_some()) {
                sort(&mut list);
            }
            Value::Array(list)
        }
        Value::String(text) => Value::String(normal_text(text)),
        other => other.clone(),
    }
}

fn sort(list: &mut [Value]) {
    list.sort_by_key(|item| {
        let places = ["/name", "/resource", "/subresource", "/metadata/name"];
        places.iter().find_map(|place| item.pointer(place)).map(Value::to_string)
    });
}

fn type_of(value: &Value) -> Value {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(text) if text.is_empty() => "empty string",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Value::from(format!("<{name}>"))
}

/// Uids, hosts, ages, versions and random suffixes in texts.
fn normal_text(text: &str) -> String {
    let mut text = text.to_owned();
    if let Some(rest) = text.strip_prefix("https://")
        && let Some((host, path)) = rest.split_once("/api/export.kubevirt.io/")
    {
        let _ = host;
        text = format!("https://HOST/api/export.kubevirt.io/{path}");
    }
    if let Some(prefix) = text.strip_prefix("too old resource version: 1 (") {
        let _ = prefix;
        return "too old resource version: 1 (N)".to_owned();
    }
    if text.len() < 6
        && text.ends_with(['s', 'm', 'h', 'd'])
        && text.starts_with(|c: char| c.is_ascii_digit())
        && !text.contains('M')
    {
        return "AGE".to_owned();
    }
    if let Some(suffix) = text.strip_prefix("demo.").filter(|suffix| suffix.len() == 16) {
        let _ = suffix;
        return "demo.EVENT".to_owned();
    }
    if let Some(suffix) = text.strip_prefix("dry-") {
        return format!("dry-{}", "x".repeat(suffix.len()));
    }
    without_uuids(&text)
}

fn without_uuids(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let is_uuid = |piece: &[char]| {
        piece.iter().enumerate().all(|(i, c)| match i {
            8 | 13 | 18 | 23 => *c == '-',
            _ => c.is_ascii_hexdigit(),
        })
    };
    let (mut out, mut i) = (String::new(), 0);
    while i < bytes.len() {
        if bytes.get(i..i + 36).is_some_and(is_uuid) {
            out.push_str("UUID");
            i += 36;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    out
}

/// Where two values differ.
pub(super) fn differences(path: &str, wanted: &Value, found: &Value) -> Vec<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let mut all = Vec::new();
            for (key, value) in wanted {
                match found.get(key) {
                    Some(other) => all.extend(differences(&format!("{path}/{key}"), value, other)),
                    None => all.push(format!("{path}/{key} is missing ({value})")),
                }
            }
            let surplus = found.iter().filter(|(key, _)| !wanted.contains_key(*key));
            all.extend(surplus.map(|(key, value)| format!("{path}/{key} is too much ({value})")));
            all
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let pairs = wanted.iter().zip(found).enumerate();
            pairs
                .flat_map(|(i, (wanted, found))| differences(&format!("{path}/{i}"), wanted, found))
                .collect()
        }
        _ if wanted == found => Vec::new(),
        _ => vec![format!("{path} is {found} instead of {wanted}")],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_found_and_variations_are_not() {
        let uid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        let wanted = json!({"metadata": {"name": format!("x-{uid}"), "uid": uid}, "a": [1, 2], "b": "10Mi", "c": null});
        let same = json!({"metadata": {"name": format!("x-{uid}"), "uid": "other"}, "a": [1, 2], "b": "10Mi", "c": null});
        assert!(differences("", &normal(&wanted), &normal(&same)).is_empty());
        for (place, value) in [
            ("/metadata/uid", json!(7)),
            ("/metadata/name", json!("y")),
            ("/a", json!([1])),
            ("/a/0", json!(2)),
            ("/b", json!("11Mi")),
            ("/c", json!("")),
        ] {
            let mut other = same.clone();
            *other.pointer_mut(place).unwrap() = value;
            assert_eq!(differences("", &normal(&wanted), &normal(&other)).len(), 1, "{place}");
        }
        let mut other = same;
        other["d"] = json!({});
        assert_eq!(differences("", &normal(&wanted), &normal(&other)).len(), 1);
        assert_eq!(differences("", &normal(&other), &normal(&wanted)).len(), 1);
    }
}
