//! Discovery: the groups, versions and resources, as lists and aggregated.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::resources::{ApiVersion, Resource, Resources};

/// Content type of aggregated discovery.
pub(crate) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api`.
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub(crate) fn groups(resources: &Resources) -> Value {
    let groups: Vec<Value> = group_names(resources)
        .into_iter()
        .filter(|group| !group.is_empty())
        .filter_map(|group| group_value(resources, group))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(crate) fn group(resources: &Resources, group: &str) -> Option<Value> {
    let mut value = group_value(resources, group)?;
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `/apis/GROUP/VERSION` and `/api/v1`.
pub(crate) fn resource_list(version: &ApiVersion) -> Value {
    let mut list = Vec::new();
    for resource in &version.resources {
        let is_only_parent = resource.kind.is_empty() && !resource.subresources.is_empty();
        if !is_only_parent {
            list.push(listed_resource(resource));
        }
        list.extend(resource.subresources.iter().map(|sub| {
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.is_namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if let Some((group, version)) = &sub.response {
                value["group"] = group.as_str().into();
                value["version"] = version.as_str().into();
            }
            value
        }));
    }
    let mut answer =
        json!({"kind": "APIResourceList", "groupVersion": version.group_version(), "resources": list});
    // The built-in groups' answers have no apiVersion but for the aggregated ones; the core group's never has.
    if !version.group.is_empty() {
        answer["apiVersion"] = "v1".into();
    }
    answer
}

/// `/api` or `/apis`, aggregated.
pub(crate) fn aggregated(resources: &Resources, is_core: bool) -> Value {
    let items: Vec<Value> = group_names(resources)
        .into_iter()
        .filter(|group| group.is_empty() == is_core)
        .map(|group| {
            let versions: Vec<Value> = resources.group(group).map(aggregated_version).collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group_names(resources: &Resources) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for version in resources.versions() {
        if !names.contains(&version.group.as_str()) {
            names.push(&version.group);
        }
    }
    names
}

fn group_value(resources: &Resources, group: &str) -> Option<Value> {
    let versions: Vec<Value> = resources
        .group(group)
        .map(|version| json!({"groupVersion": version.group_version(), "version": version.version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

fn listed_resource(resource: &Resource) -> Value {
    let mut value = json!({
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.is_namespaced,
        "kind": resource.kind, "verbs": resource.verbs,
    });
    add_names(&mut value, resource);
    if let Some(storage) = &resource.storage {
        value["storageVersionHash"] = storage_hash(&resource.group, storage, &resource.kind).into();
    }
    value
}

fn aggregated_version(version: &ApiVersion) -> Value {
    let resources: Vec<Value> =
        version.resources.iter().map(|item| aggregated_resource(version, item)).collect();
    json!({"version": version.version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(version: &ApiVersion, resource: &Resource) -> Value {
    // The real one leaves group and version of built-in kinds empty: they are those of the list.
    let own = if resource.is_custom { (version.group.as_str(), version.version.as_str()) } else { ("", "") };
    let response = |(group, version): (&str, &str), kind: &str| {
        if kind.is_empty() {
            json!({"group": "", "version": "", "kind": ""})
        } else {
            json!({"group": group, "version": version, "kind": kind})
        }
    };
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": response(own, &resource.kind),
        "scope": if resource.is_namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    add_names(&mut value, resource);
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            let of = sub.response.as_ref().map_or(own, |(group, version)| (group.as_str(), version.as_str()));
            json!({
                "subresource": sub.name, "responseKind": response(of, &sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}

fn add_names(value: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        value["shortNames"] = resource.short_names.clone().into();
    }
    if !resource.categories.is_empty() {
        value["categories"] = resource.categories.clone().into();
    }
}

/// The first eight bytes of SHA-256 over `group/version/kind`, as the real one has it.
fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, format!("{group}/{version}/{kind}").as_bytes());
    BASE64.encode(hash.as_ref().get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_that_of_the_storage_version() {
        assert_eq!(super::storage_hash("", "v1", "Secret"), "S6u1pOWzb84=");
        assert_eq!(super::storage_hash("kubevirt.io", "v1", "VirtualMachine"), "v2rohjOGqcY=");
    }
}
