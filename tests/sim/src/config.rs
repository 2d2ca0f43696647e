//! What a simulator is started with, and what its users may do.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// How a simulated cluster behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The minor release of Kubernetes 1 that is played: from 35 on who opens a websocket to a pod needs the right to
    /// create, beside that to get.
    pub kubernetes_minor: u32,
    /// The KubeVirt minor release that is played: decides API versions, link paths and gates.
    pub kubevirt_version: (u32, u32),
    /// Seeds everything random: uids, generated names, the order of snapshot volumes.
    pub seed: u64,
    /// Whether the cluster has an Ingress to the export proxy; without one `links.external` is absent.
    pub external_link: bool,
    /// The host in external links, which have no port then, as real ones; `None` is the address of the proxy. Nothing
    /// resolves it: a client needs a proxy that does, or an address for it.
    pub external_host: Option<String>,
    /// How long a controller takes for one step.
    pub delay: Duration,
    /// The controllers rest after each change by a client until somebody begins a watch, so long at most: what a
    /// client asks for is never done before it looks, however slow it is. Zero is not at all.
    pub hold_until_watched: Duration,
    /// Where the API server listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether feature gate `VMExport` is on, which only matters up to 1.8.
    pub export_gate: bool,
    /// Whether feature gate `Snapshot` is on.
    pub snapshot_gate: bool,
    /// Whether a feature gate lets volumes come and go while a VM runs.
    pub hotplug_gate: bool,
    /// Whether Multus is installed: there are NetworkAttachmentDefinitions. Discovery then has one group more.
    pub multus: bool,
    /// Whether Multus attaches networks to pods that run; else they wait for a migration.
    pub dynamic_networks: bool,
    /// Whether feature gate `HotplugNICs` is on, which only matters from 1.1 to 1.3.
    pub nic_gate: bool,
    /// Whether changes of VMs are rolled out live: from 1.6 on guests migrate by themselves where that is needed.
    pub live_update: bool,
    /// Whether the storage that can take snapshots can grow too.
    pub expandable: bool,
    /// Life of an export without `ttlDuration`.
    pub default_ttl: Duration,
    /// Whether the cluster has a metrics server; discovery does not show it.
    pub metrics_server: bool,
    /// Whether the server of templates runs, where the release has templates; discovery does not show it.
    pub template_server: bool,
    /// API groups that the cluster does not have, as if what serves them were not installed.
    pub absent_groups: Vec<String>,
    /// How often a watch that asked for bookmarks gets one.
    pub bookmark_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kubernetes_minor: 36,
            kubevirt_version: (1, 9),
            seed: 1,
            external_link: true,
            external_host: None,
            delay: Duration::from_millis(5),
            hold_until_watched: Duration::ZERO,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            export_gate: true,
            snapshot_gate: true,
            hotplug_gate: true,
            multus: false,
            dynamic_networks: true,
            nic_gate: true,
            live_update: false,
            expandable: false,
            default_ttl: Duration::from_secs(2 * 3600),
            metrics_server: false,
            template_server: true,
            absent_groups: Vec::new(),
            bookmark_interval: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// Versions of `export.kubevirt.io`, the preferred one first.
    pub(crate) fn export_versions(&self) -> &'static [&'static str] {
        match self.kubevirt_version {
            (0 | 1, 0..=2) => &["v1alpha1"],
            (0 | 1, 3..=8) => &["v1beta1", "v1alpha1"],
            _ => &["v1", "v1beta1"],
        }
    }

    /// Versions of `snapshot.kubevirt.io`, the preferred one first.
    pub(crate) fn snapshot_versions(&self) -> &'static [&'static str] {
        match self.kubevirt_version {
            (0 | 1, 0..=2) => &["v1alpha1"],
            _ => &["v1beta1", "v1alpha1"],
        }
    }

    /// Whether networks come and go while guests run.
    pub(crate) fn plugs_networks(&self) -> bool {
        self.at_least(4) || (self.at_least(1) && self.nic_gate)
    }

    /// Whether this release or a later one is played.
    pub(crate) fn at_least(&self, minor: u32) -> bool {
        self.kubevirt_version >= (1, minor)
    }
}

/// Something that a user may do. A user without rules may only use discovery and review his own rights.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `impersonate` or `*`.
    pub verbs: Vec<String>,
    /// `group/plural` or `group/plural/subresource`; the core group is empty (`/pods`, `/pods/portforward`).
    /// `*` stands for any group or any resource with any subresource.
    pub resources: Vec<String>,
    /// Where the rule holds; `None` is everywhere, objects without a namespace included.
    pub namespaces: Option<Vec<String>>,
}

impl Rule {
    /// A rule for these verbs on these resources in all namespaces.
    #[must_use]
    pub fn new(verbs: &[&str], resources: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
        Self { verbs: owned(verbs), resources: owned(resources), namespaces: None }
    }

    /// The same rule, in these namespaces only.
    #[must_use]
    pub fn within(mut self, namespaces: &[&str]) -> Self {
        self.namespaces = Some(namespaces.iter().map(|&namespace| namespace.to_owned()).collect());
        self
    }

    /// What a cluster administrator has.
    #[must_use]
    pub fn everything() -> Self {
        Self::new(&["*"], &["*/*"])
    }

    /// Whether the rule allows an action. `resource` is `plural` or `plural/subresource`.
    pub(crate) fn allows(&self, verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> bool {
        let is_placed = match (&self.namespaces, namespace) {
            (None, _) => true,
            (Some(list), Some(namespace)) => list.iter().any(|item| item == namespace),
            (Some(_), None) => false,
        };
        is_placed
            && self.verbs.iter().any(|item| item == "*" || item == verb)
            && self.resources.iter().any(|item| {
                let (item_group, item_resource) = item.split_once('/').unwrap_or(("", item));
                (item_group == "*" || item_group == group)
                    && (item_resource == "*" || item_resource == resource)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_allow_what_they_name() {
        let rule = Rule::new(&["get"], &["/pods", "kubevirt.io/*"]).within(&["a"]);
        assert!(rule.allows("get", "", "pods", Some("a")));
        assert!(rule.allows("get", "kubevirt.io", "virtualmachines", Some("a")));
        assert!(!rule.allows("get", "", "pods/portforward", Some("a")));
        assert!(!rule.allows("get", "", "pods", Some("b")));
        assert!(!rule.allows("get", "", "pods", None));
        assert!(!rule.allows("list", "", "pods", Some("a")));
        assert!(Rule::everything().allows("delete", "", "nodes", None));
    }
}
