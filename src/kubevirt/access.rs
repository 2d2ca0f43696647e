//! Rights, asked for before anything is made.

use http::Method;
use serde_json::{Value, json};

use super::{Cluster, client::Call, explain::strange};
use crate::error::{Error, ErrorKind, Result};

/// A right in the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// Verb.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource.
    pub resource: &'static str,
    /// Subresource; empty for none.
    pub subresource: &'static str,
}

impl Right {
    /// A right on objects of a kind.
    pub const fn new(verb: &'static str, group: &'static str, resource: &'static str) -> Self {
        Self { verb, group, resource, subresource: "" }
    }

    /// A right on a part of objects.
    pub const fn on(self, subresource: &'static str) -> Self {
        Self { subresource, ..self }
    }

    /// As `kubectl create role` takes the resource.
    pub fn full_name(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let part = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        format!("{}{group}{part}", self.resource)
    }
}

/// What every export needs.
pub(crate) const TO_EXPORT: [Right; 5] = [
    Right::new("create", "export.kubevirt.io", "virtualmachineexports"),
    Right::new("get", "export.kubevirt.io", "virtualmachineexports"),
    Right::new("delete", "export.kubevirt.io", "virtualmachineexports"),
    Right::new("create", "", "secrets"),
    Right::new("get", "", "secrets"),
];

/// What an export that is there already needs.
pub(crate) const TO_FOLLOW: [Right; 2] =
    [Right::new("get", "export.kubevirt.io", "virtualmachineexports"), Right::new("get", "", "secrets")];

/// What the snapshot of a running VM needs.
pub(crate) const TO_SNAPSHOT: [Right; 3] = [
    Right::new("create", "snapshot.kubevirt.io", "virtualmachinesnapshots"),
    Right::new("get", "snapshot.kubevirt.io", "virtualmachinesnapshots"),
    Right::new("delete", "snapshot.kubevirt.io", "virtualmachinesnapshots"),
];

/// What a VM needs to be described with its instancetype and preference written out, as it is in the cluster.
pub(crate) const TO_EXPAND: Right =
    Right::new("get", "subresources.kubevirt.io", "virtualmachines").on("expand-spec");

/// The same as it is in a snapshot, or was before it was stopped.
pub(crate) const TO_EXPAND_GIVEN: Right = Right::new("update", "subresources.kubevirt.io", "expand-vm-spec");

/// What stopping a VM needs.
pub(crate) const TO_STOP: [Right; 1] = [Right::new("patch", "kubevirt.io", "virtualmachines")];

/// What a port-forward needs: it is a websocket, which is opened by a GET.
const TO_FORWARD: [Right; 3] = [
    Right::new("get", "", "services"),
    Right::new("list", "", "pods"),
    Right::new("get", "", "pods").on("portforward"),
];

/// What it needs too from [`FIRST_TO_ASK_TWICE`] on.
const TO_FORWARD_LATER: Right = Right::new("create", "", "pods").on("portforward");

/// The release of Kubernetes, 1.35, whose feature gate AuthorizePodWebsocketUpgradeCreatePermission is on: who may only
/// read can no longer open websockets to pods.
const FIRST_TO_ASK_TWICE: u32 = 35;

/// What a port-forward needs in this cluster; if it does not tell its version, what the newest needs.
pub(crate) async fn to_forward(cluster: &Cluster) -> Vec<Right> {
    let mut rights = TO_FORWARD.to_vec();
    if cluster.kubernetes_minor().await.is_none_or(|minor| minor >= FIRST_TO_ASK_TWICE) {
        rights.push(TO_FORWARD_LATER);
    }
    rights
}

/// Those of `rights` that the cluster says are missing. A cluster that does not say takes part as if
/// nothing were missing: the requests themselves will tell.
pub async fn missing_rights(cluster: &Cluster, rights: &[Right]) -> Vec<Right> {
    let mut missing = Vec::new();
    if let Err(error) = review(cluster, rights, &mut missing).await {
        tracing::debug!(%error, "rights cannot be asked for");
    }
    missing
}

/// Adds those of `rights` that the cluster says are missing.
///
/// # Errors
/// It does not say.
pub(super) async fn review(cluster: &Cluster, rights: &[Right], missing: &mut Vec<Right>) -> Result<()> {
    for right in rights {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "namespace": cluster.namespace(),
                "verb": right.verb,
                "group": right.group,
                "resource": right.resource,
                "subresource": right.subresource,
            }},
        });
        let call = Call {
            verb: "create",
            resource: "selfsubjectaccessreviews.authorization.k8s.io",
            what: "a review of rights",
            namespace: None,
        };
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = cluster.send(&call, Method::POST, path, Some(&review)).await?;
        match answer.pointer("/status/allowed") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => missing.push(*right),
            _ => return Err(strange(cluster.url(), call.what, "without a verdict")),
        }
    }
    Ok(())
}

/// Fails if rights are missing.
pub(crate) async fn demand(cluster: &Cluster, rights: &[Right]) -> Result<()> {
    let missing = missing_rights(cluster, rights).await;
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        missing.iter().map(|right| format!("{} {}", right.verb, right.full_name())).collect();
    Err(Error::new(
        ErrorKind::Cluster,
        format!("rights are missing in namespace {}: {}", cluster.namespace(), list.join(", ")),
    )
    .with_hint(grants(cluster, &missing).join("\n")))
}

/// How to get rights: a command for each resource.
pub(super) fn grants(cluster: &Cluster, missing: &[Right]) -> Vec<String> {
    let mut resources: Vec<(String, Vec<&str>)> = Vec::new();
    for right in missing {
        let name = right.full_name();
        match resources.iter_mut().find(|(resource, _)| *resource == name) {
            Some((_, verbs)) => verbs.push(right.verb),
            None => resources.push((name, vec![right.verb])),
        }
    }
    let namespace = cluster.namespace();
    let grant = |(resource, verbs): (String, Vec<&str>)| {
        let verbs = verbs.join(",");
        format!(
            "'kubectl create role NAME --verb={verbs} --resource={resource} -n {namespace}' and a role binding"
        )
    };
    resources.into_iter().map(grant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_named_as_kubectl_takes_them() {
        assert_eq!(TO_EXPORT[0].full_name(), "virtualmachineexports.export.kubevirt.io");
        assert_eq!(TO_FORWARD_LATER.full_name(), "pods/portforward");
    }
}
