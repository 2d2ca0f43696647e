//! `metrics.k8s.io`, where the cluster has a metrics server: what the pods of guests use.

use serde_json::{Value, json};

use super::{Answer, Query, auth, respond};
use crate::{
    clock,
    http::Body,
    refusal::{Asked, Refusal},
    store::{self, selector::Selector},
    world::{User, World},
};
use hyper::Response;

/// Lists the metrics of the pods in a namespace.
pub(super) fn pods(
    world: &World,
    user: &User,
    namespace: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let asked = Asked {
        group: "metrics.k8s.io",
        plural: "pods",
        subresource: "",
        namespace: Some(namespace),
        name: "",
    };
    auth::check(user, "list", &asked)?;
    let selector = Selector::parse(query.first("labelSelector").unwrap_or_default(), "")?;
    let state = world.lock();
    let running = state
        .store
        .list("/pods", Some(namespace))
        .filter(|(_, pod)| pod["status"]["phase"] == "Running" && selector.matches(pod));
    let items: Vec<Value> = running
        .map(|(_, pod)| {
            json!({
                "metadata": {"name": store::name(pod), "namespace": namespace, "labels": pod["metadata"]["labels"]},
                "timestamp": clock::rfc3339(clock::now()), "window": "15s",
                "containers": [{"name": "compute", "usage": {"cpu": "153420811n", "memory": "734512Ki"}}],
            })
        })
        .collect();
    Ok(respond(&Answer::ok(json!({
        "kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items,
    }))))
}
