//! Which versions of KubeVirt's APIs a cluster serves.

use serde_json::Value;

use super::{
    Cluster, Resource,
    client::Call,
    explain::{CallError, strange},
    resource::{CLONE_GROUP, EXPORT_GROUP, INSTANCETYPE_GROUP, SNAPSHOT_GROUP},
};
use crate::error::{Error, ErrorKind, Result};

/// Versions of exports that are known here, newest first. The schema is the same in all.
const EXPORT_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// The same for snapshots.
const SNAPSHOT_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// The same for clones.
const CLONE_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// The same for instancetypes and preferences.
const INSTANCETYPE_VERSIONS: [&str; 4] = ["v1", "v1beta1", "v1alpha2", "v1alpha1"];

impl Cluster {
    /// VirtualMachineExports, in the newest version that cluster and program know.
    ///
    /// # Errors
    /// The cluster has none, or cannot be asked.
    pub async fn export_resource(&self) -> Result<Resource> {
        let version = self.version_of(EXPORT_GROUP, &EXPORT_VERSIONS, "VMExport").await?;
        Ok(Resource::exports(version))
    }

    /// VirtualMachineSnapshots, as [`export_resource`](Self::export_resource).
    ///
    /// # Errors
    /// As there.
    pub async fn snapshot_resource(&self) -> Result<Resource> {
        let version = self.version_of(SNAPSHOT_GROUP, &SNAPSHOT_VERSIONS, "Snapshot").await?;
        Ok(Resource::snapshots(version))
    }

    /// VirtualMachineClones, as [`export_resource`](Self::export_resource).
    ///
    /// # Errors
    /// As there.
    pub async fn clone_resource(&self) -> Result<Resource> {
        let version = self.version_of(CLONE_GROUP, &CLONE_VERSIONS, "Snapshot").await?;
        Ok(Resource::clones(version))
    }

    /// The version of instancetypes and preferences.
    pub(super) async fn instancetype_version(&self) -> Result<&'static str> {
        let hint = format!("is this the right cluster ({}), and is KubeVirt installed there?", self.url());
        self.version_or(INSTANCETYPE_GROUP, &INSTANCETYPE_VERSIONS, hint).await
    }

    /// Version of KubeVirt, as it calls itself; `None` if it does not tell.
    pub async fn kubevirt_version(&self) -> Option<String> {
        let (path, what) = ("/apis/subresources.kubevirt.io/v1/version", "the version of KubeVirt");
        let call = Call { verb: "get", resource: path, what, namespace: None };
        let answer = self.get(&call, path).await.ok()?;
        answer.get("gitVersion")?.as_str().map(str::to_owned)
    }

    /// The minor release of Kubernetes 1; `None` if it does not tell.
    pub(super) async fn kubernetes_minor(&self) -> Option<u32> {
        let what = "the version of Kubernetes";
        let call = Call { verb: "get", resource: "/version", what, namespace: None };
        let answer = self.get(&call, "/version").await.ok()?;
        let minor = answer.get("minor")?.as_str()?;
        // Some add a sign: "35+".
        minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
    }

    /// Whether the cluster has an API group, as far as it says.
    pub(super) async fn serves(&self, group: &str) -> bool {
        !matches!(self.group(group).await, Err(CallError::NotFound(_)))
    }

    /// An API group, as the cluster describes it.
    async fn group(&self, group: &str) -> Result<Value, CallError> {
        let (path, what) = (format!("/apis/{group}"), format!("API group {group}"));
        self.get(&Call { verb: "get", resource: &path, what: &what, namespace: None }, &path).await
    }

    async fn version_of(&self, group: &str, known: &[&'static str], gate: &str) -> Result<&'static str> {
        let hint = format!(
            "is this the right cluster ({})? KubeVirt before 1.8 needs its feature gate {gate}",
            self.url()
        );
        self.version_or(group, known, hint).await
    }

    /// The first of `known` versions that a group has; `hint` says why there may be none.
    pub(super) async fn version_or(
        &self,
        group: &str,
        known: &[&'static str],
        hint: String,
    ) -> Result<&'static str> {
        let none = |what: String| Error::new(ErrorKind::Cluster, what).with_hint(hint);
        match self.group(group).await {
            Ok(answer) if !answer.get("versions").is_some_and(Value::is_array) => {
                Err(strange(self.url(), &format!("API group {group}"), "about something else"))
            }
            Ok(answer) => choose(&answer, known).ok_or_else(|| {
                none(format!("the cluster serves {group} only in versions that are not known here"))
            }),
            Err(CallError::NotFound(error)) => {
                Err(none(format!("the cluster does not know {group}")).with_source(error))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The first of `known` that an API group has.
fn choose(group: &Value, known: &[&'static str]) -> Option<&'static str> {
    let served: Vec<&str> = group
        .get("versions")?
        .as_array()?
        .iter()
        .filter_map(|version| version.get("version")?.as_str())
        .collect();
    known.iter().copied().find(|known| served.contains(known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_taken() {
        let group = |versions: &[&str]| json!({"versions": versions.iter().map(|version| json!({"version": version})).collect::<Vec<_>>()});
        for (served, chosen) in [
            (&["v1alpha1"][..], Some("v1alpha1")),
            (&["v1alpha1", "v1beta1"], Some("v1beta1")),
            (&["v1beta1", "v1"], Some("v1")),
            (&["v2", "v1beta1"], Some("v1beta1")),
            (&["v2"], None),
            (&[], None),
        ] {
            assert_eq!(choose(&group(served), &EXPORT_VERSIONS), chosen, "{served:?}");
        }
        assert_eq!(choose(&json!({}), &EXPORT_VERSIONS), None);
    }
}
