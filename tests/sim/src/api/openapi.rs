//! As much of the OpenAPI document as `kubectl` reads before it leaves validation to the server: that patches
//! know `fieldValidation`.

use serde_json::{Map, Value, json};

use super::resources::{ApiVersion, Resources};

/// `/openapi/v3`: where the document of each version is.
pub(super) fn index(resources: &Resources) -> Value {
    let paths: Map<String, Value> = resources
        .versions()
        .iter()
        .map(|version| {
            let path = path(version);
            (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}")}))
        })
        .collect();
    json!({"paths": paths})
}

/// The document of a version.
pub(super) fn document(version: &ApiVersion) -> Value {
    let base = path(version);
    let paths: Map<String, Value> = version
        .resources
        .iter()
        .filter(|resource| resource.storage.is_some())
        .map(|resource| {
            let namespace = if resource.is_namespaced { "namespaces/{namespace}/" } else { "" };
            let item = json!({"patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "responses": {},
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {
                    "group": resource.group, "version": resource.version, "kind": resource.kind,
                },
            }});
            (format!("/{base}/{namespace}{}/{{name}}", resource.plural), item)
        })
        .collect();
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": paths})
}

fn path(version: &ApiVersion) -> String {
    if version.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}", version.group_version()) }
}
