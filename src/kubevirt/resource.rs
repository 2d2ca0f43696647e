//! Kinds of objects, and where they are in the API.

use crate::error::{Error, Result};

/// A kind of object in the version that the cluster serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    full_name: String,
}

impl Resource {
    /// A kind of object.
    pub(super) fn new(group: &'static str, version: &str, kind: &'static str, plural: &'static str) -> Self {
        let full_name = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        Self { group, version: version.to_owned(), kind, plural, full_name }
    }

    /// Secrets.
    pub fn secrets() -> Self {
        Self::new("", "v1", "Secret", "secrets")
    }

    pub(super) fn claims() -> Self {
        Self::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
    }

    pub(super) fn namespaces() -> Self {
        Self::new("", "v1", "Namespace", "namespaces")
    }

    pub(super) fn pods() -> Self {
        Self::new("", "v1", "Pod", "pods")
    }

    pub(super) fn services() -> Self {
        Self::new("", "v1", "Service", "services")
    }

    pub(super) fn events() -> Self {
        Self::new("", "v1", "Event", "events")
    }

    pub(super) fn attachments() -> Self {
        let (kind, plural) = ("NetworkAttachmentDefinition", "network-attachment-definitions");
        Self::new("k8s.cni.cncf.io", "v1", kind, plural)
    }

    pub(super) fn ingresses() -> Self {
        Self::new("networking.k8s.io", "v1", "Ingress", "ingresses")
    }

    pub(super) fn routes() -> Self {
        Self::new("route.openshift.io", "v1", "Route", "routes")
    }

    pub(super) fn vms() -> Self {
        Self::new("kubevirt.io", "v1", "VirtualMachine", "virtualmachines")
    }

    pub(super) fn kubevirts() -> Self {
        Self::new("kubevirt.io", "v1", "KubeVirt", "kubevirts")
    }

    pub(super) fn vmis() -> Self {
        Self::new("kubevirt.io", "v1", "VirtualMachineInstance", "virtualmachineinstances")
    }

    pub(super) fn migrations() -> Self {
        Self::new("kubevirt.io", "v1", "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations")
    }

    pub(super) fn exports(version: &str) -> Self {
        Self::new(EXPORT_GROUP, version, "VirtualMachineExport", "virtualmachineexports")
    }

    pub(super) fn snapshots(version: &str) -> Self {
        Self::new(SNAPSHOT_GROUP, version, "VirtualMachineSnapshot", "virtualmachinesnapshots")
    }

    pub(super) fn snapshot_contents(version: &str) -> Self {
        Self::new(SNAPSHOT_GROUP, version, "VirtualMachineSnapshotContent", "virtualmachinesnapshotcontents")
    }

    pub(super) fn restores(version: &str) -> Self {
        Self::new(SNAPSHOT_GROUP, version, "VirtualMachineRestore", "virtualmachinerestores")
    }

    pub(super) fn instancetypes(version: &str, kind: &'static str, plural: &'static str) -> Self {
        Self::new(INSTANCETYPE_GROUP, version, kind, plural)
    }

    pub(super) fn templates(version: &str) -> Self {
        Self::new(TEMPLATE_GROUP, version, "VirtualMachineTemplate", "virtualmachinetemplates")
    }

    pub(super) fn template_requests(version: &str) -> Self {
        Self::new(TEMPLATE_GROUP, version, "VirtualMachineTemplateRequest", "virtualmachinetemplaterequests")
    }

    pub(super) fn clones(version: &str) -> Self {
        Self::new(CLONE_GROUP, version, "VirtualMachineClone", "virtualmachineclones")
    }

    /// Group and version as objects carry them.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As rights name it: `virtualmachineexports.export.kubevirt.io`.
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// One of them, as people call it: `virtualmachineexport demo/db`.
    pub(super) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{} {namespace}/{name}", self.kind)
    }

    /// The path of all in a namespace, or everywhere.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let place =
            namespace.map_or_else(String::new, |namespace| format!("/namespaces/{}", encoded(namespace)));
        format!("{root}/{}{place}/{}", self.api_version(), self.plural)
    }
}

/// Group of VirtualMachineExports.
pub(super) const EXPORT_GROUP: &str = "export.kubevirt.io";

/// Group of VirtualMachineSnapshots.
pub(super) const SNAPSHOT_GROUP: &str = "snapshot.kubevirt.io";

/// Group of instancetypes and preferences.
pub(super) const INSTANCETYPE_GROUP: &str = "instancetype.kubevirt.io";

/// Group of templates.
pub(super) const TEMPLATE_GROUP: &str = "template.kubevirt.io";

/// Group of what processes them.
pub(super) const TEMPLATE_SERVER: &str = "subresources.template.kubevirt.io";

/// Group of VirtualMachineClones.
pub(super) const CLONE_GROUP: &str = "clone.kubevirt.io";

/// Text as a part of a path or query.
pub(super) fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// Names in Kubernetes are lower-case letters, digits, dashes and dots.
///
/// # Errors
/// `name` is none.
pub(super) fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if !name.is_empty() && name.len() <= 253 && name.chars().all(fits) && !name.starts_with(['-', '.']) {
        return Ok(());
    }
    Err(Error::usage(format!("{name:?} is not the name of a {what}"))
        .with_hint("names in Kubernetes are lower-case letters, digits, '-' and '.'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(Resource::secrets().path(Some("demo")), "/api/v1/namespaces/demo/secrets");
        assert_eq!(
            Resource::exports("v1beta1").path(None),
            "/apis/export.kubevirt.io/v1beta1/virtualmachineexports"
        );
        assert_eq!(Resource::exports("v1").full_name(), "virtualmachineexports.export.kubevirt.io");
        assert_eq!(encoded("a=b,c d"), "a%3Db%2Cc%20d");
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        for good in ["db", "db.prod-1", "0"] {
            check_name("VM", good).unwrap();
        }
        for bad in ["", "..", "a/b", "A", "-x", "a b", "a?b", "ä"] {
            assert!(check_name("VM", bad).is_err(), "{bad}");
        }
    }
}
