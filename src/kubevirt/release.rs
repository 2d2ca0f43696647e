//! Which release of KubeVirt a cluster runs, and what is switched on in it.

use serde_json::Value;

use super::{Cluster, Resource};

/// A release, as far as its KubeVirt object tells; that of a cluster which does not is taken for the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    /// The minor release of KubeVirt 1; vendors have numbers of their own.
    pub(super) minor: Option<u32>,
    gates: Vec<String>,
    /// Changes of a VM reach its guest without a restart where they can.
    updates_live: bool,
    /// How the interface of a VM without any is bound; `None` = nobody says otherwise than KubeVirt itself.
    default_binding: Option<String>,
}

impl Release {
    /// As a KubeVirt object tells it.
    pub(super) fn of(kubevirt: &Value) -> Self {
        let text = |place: &str| kubevirt.pointer(place).and_then(Value::as_str);
        let gates = kubevirt.pointer("/spec/configuration/developerConfiguration/featureGates");
        let gates = gates.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        Self {
            minor: text("/status/observedKubeVirtVersion").and_then(minor_of),
            gates: gates.map(str::to_owned).collect(),
            updates_live: text("/spec/configuration/vmRolloutStrategy") == Some("LiveUpdate"),
            default_binding: text("/spec/configuration/network/defaultNetworkInterface").map(str::to_owned),
        }
    }

    /// Whether a feature gate is listed.
    pub(super) fn has_gate(&self, gate: &str) -> bool {
        self.gates.iter().any(|listed| listed == gate)
    }

    /// Whether networks can come and go while a guest runs: from 1.1 on by feature gate, from 1.4 on everywhere.
    pub(super) fn plugs_networks(&self) -> bool {
        match self.minor {
            Some(0) => false,
            Some(1..=3) => self.has_gate("HotplugNICs"),
            Some(_) | None => true,
        }
    }

    /// How the cluster binds the interface of a VM that describes none.
    pub(super) fn default_binding(&self) -> &str {
        self.default_binding.as_deref().filter(|binding| !binding.is_empty()).unwrap_or("bridge")
    }

    /// Whether a guest is migrated without being asked, where a change needs that: from 1.6 on.
    pub(super) fn migrates_by_itself(&self) -> bool {
        self.updates_live && self.minor.is_none_or(|minor| minor >= 6)
    }
}

impl Cluster {
    /// The KubeVirt object, which everybody may read; who may not learns nothing.
    pub(super) async fn kubevirt_object(&self) -> Option<Value> {
        match self.list(&Resource::kubevirts(), true, "").await {
            Ok(found) => found.into_iter().next(),
            Err(error) => {
                tracing::debug!(%error, "the KubeVirt object cannot be read");
                None
            }
        }
    }

    /// The release of KubeVirt.
    pub(super) async fn release(&self) -> Release {
        self.kubevirt_object().await.as_ref().map(Release::of).unwrap_or_default()
    }
}

/// The minor release of `v1.7.2`; vendors have numbers of their own.
pub(super) fn minor_of(version: &str) -> Option<u32> {
    let mut parts = version.trim_start_matches('v').split(['.', '-']);
    (parts.next() == Some("1")).then(|| parts.next()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn vms_without_networks_get_one_as_the_cluster_says() {
        let of = |network: Value| {
            Release::of(&json!({"spec": {"configuration": {"network": network}}}))
                .default_binding()
                .to_owned()
        };
        assert_eq!(of(json!(null)), "bridge");
        assert_eq!(of(json!({"defaultNetworkInterface": ""})), "bridge");
        assert_eq!(of(json!({"defaultNetworkInterface": "masquerade"})), "masquerade");
    }

    #[test]
    fn networks_come_and_go_as_release_and_gate_let_them() {
        let release = |version: &str, gates: &[&str]| {
            Release::of(&json!({
                "spec": {"configuration": {
                    "developerConfiguration": {"featureGates": gates}, "vmRolloutStrategy": "LiveUpdate",
                }},
                "status": {"observedKubeVirtVersion": version},
            }))
        };
        for (version, gates, plugs, migrates) in [
            ("v1.0.1", &["HotplugNICs"][..], false, false),
            ("v1.1.0", &[], false, false),
            ("v1.3.1", &["HotplugNICs"], true, false),
            ("v1.4.0", &[], true, false),
            ("v1.6.0", &[], true, true),
            ("v4.18.3", &[], true, true),
        ] {
            let release = release(version, gates);
            assert_eq!(
                (release.plugs_networks(), release.migrates_by_itself()),
                (plugs, migrates),
                "{version}"
            );
        }
        assert!(Release::default().plugs_networks() && !Release::default().migrates_by_itself());
    }
}
