//! Which groups, versions and resources the API server knows: read from `resources.txt`, cut to the
//! KubeVirt release that is played.
//!
//! Each line of that file is a version (`version GROUP/VERSION`), a resource (`res PLURAL SINGULAR KIND SCOPE
//! VERBS STORAGE SHORT CATEGORIES`) or a subresource of the one before (`sub PLURAL/NAME KIND VERBS`). `-` is
//! nothing; `builtin`, `custom` and `status` are the usual sets of verbs; STORAGE is the version that objects
//! are stored in.

use crate::config::Config;

/// The API of a cluster.
#[derive(Debug)]
pub(crate) struct Resources {
    versions: Vec<ApiVersion>,
}

/// A version of a group.
#[derive(Clone, Debug)]
pub(crate) struct ApiVersion {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resources: Vec<Resource>,
}

/// A kind of object in one version.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) is_namespaced: bool,
    pub(crate) verbs: Option<Vec<String>>,
    /// The stored version, where objects are stored at all.
    pub(crate) storage: Option<String>,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) subresources: Vec<Subresource>,
    /// Whether it is defined by a custom resource definition.
    pub(crate) is_custom: bool,
}

/// Something below an object.
#[derive(Clone, Debug)]
pub(crate) struct Subresource {
    pub(crate) name: String,
    /// Group, version and kind of its body, where they are not the parent's.
    pub(crate) response: Option<(String, String)>,
    pub(crate) kind: String,
    pub(crate) verbs: Option<Vec<String>>,
}

impl ApiVersion {
    /// `group/version`, or the version alone for the core group.
    pub(crate) fn group_version(&self) -> String {
        join(&self.group, &self.version)
    }
}

impl Resource {
    /// What objects of all versions are kept under: `group/plural`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.group, self.plural)
    }

    pub(crate) fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresources.iter().any(|sub| sub.name == "status")
    }
}

impl Resources {
    /// The API of the release that is played.
    pub(crate) fn new(config: &Config) -> Self {
        let mut versions: Vec<ApiVersion> = Vec::new();
        for line in include_str!("resources.txt").lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("version") => {
                    let (group, version) = split(words.next().unwrap_or_default());
                    versions.push(ApiVersion { group, version, resources: Vec::new() });
                }
                Some("res") => {
                    let Some(current) = versions.last_mut() else { continue };
                    let resource = parse_resource(current, &mut words);
                    current.resources.push(resource);
                }
                Some("sub") => {
                    let resources = versions.last_mut().map(|version| &mut version.resources);
                    if let Some(resource) = resources.and_then(|list| list.last_mut()) {
                        resource.subresources.extend(parse_subresource(&mut words));
                    }
                }
                _ => {}
            }
        }
        versions.retain(|version| match version.group.as_str() {
            "backup.kubevirt.io" => config.at_least(8),
            "template.kubevirt.io" => config.at_least(if version.version == "v1alpha1" { 8 } else { 9 }),
            "k8s.cni.cncf.io" => config.multus,
            "plugin.kubevirt.io" => config.at_least(9),
            "clone.kubevirt.io" => version.version == "v1alpha1" || config.at_least(5),
            _ => true,
        });
        play_versions(&mut versions, "export.kubevirt.io", config.export_versions());
        play_versions(&mut versions, "snapshot.kubevirt.io", config.snapshot_versions());
        if !config.at_least(7) {
            play_versions(&mut versions, "instancetype.kubevirt.io", &["v1beta1", "v1alpha2", "v1alpha1"]);
        }
        Self { versions }
    }

    /// All versions, in the order of the group list.
    pub(crate) fn versions(&self) -> &[ApiVersion] {
        &self.versions
    }

    /// The versions of a group, the preferred one first.
    pub(crate) fn group<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a ApiVersion> + use<'a> {
        let group = group.to_owned();
        self.versions.iter().filter(move |version| version.group == group)
    }

    pub(crate) fn version(&self, group: &str, version: &str) -> Option<&ApiVersion> {
        self.group(group).find(|item| item.version == version)
    }

    /// The preferred version of a resource.
    pub(crate) fn preferred(&self, group: &str, plural: &str) -> Option<&Resource> {
        self.group(group).flat_map(|version| &version.resources).find(|resource| resource.plural == plural)
    }

    /// By the plural alone, as a person says it.
    pub(crate) fn by_plural(&self, plural: &str) -> Option<&Resource> {
        self.versions
            .iter()
            .flat_map(|version| &version.resources)
            .find(|resource| resource.plural == plural && resource.storage.is_some())
    }
}

/// The group has exactly these versions, with the resources of the first that the file has.
fn play_versions(all: &mut Vec<ApiVersion>, group: &str, versions: &[&str]) {
    let Some(place) = all.iter().position(|item| item.group == group) else { return };
    let Some(model) = all.get(place).cloned() else { return };
    all.retain(|item| item.group != group);
    for (i, version) in versions.iter().enumerate() {
        let mut played = model.clone();
        (*version).clone_into(&mut played.version);
        for resource in &mut played.resources {
            (*version).clone_into(&mut resource.version);
            // What is stored in: v1beta1 for snapshots, the newest for exports.
            resource.storage = versions.first().map(|&first| first.to_owned());
        }
        all.insert(place + i, played);
    }
}

fn parse_resource<'a>(version: &ApiVersion, words: &mut impl Iterator<Item = &'a str>) -> Resource {
    let mut word = || words.next().filter(|&word| word != "-").unwrap_or_default();
    let (plural, singular, kind) = (word().to_owned(), word().to_owned(), word().to_owned());
    let is_namespaced = word() == "ns";
    let verbs = word();
    let storage = word();
    let list = |text: &str| text.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect();
    Resource {
        group: version.group.clone(),
        version: version.version.clone(),
        plural,
        singular,
        kind,
        is_namespaced,
        verbs: parse_verbs(verbs),
        storage: (!storage.is_empty()).then(|| storage.to_owned()),
        short_names: list(word()),
        categories: list(word()),
        subresources: Vec::new(),
        is_custom: verbs == "custom",
    }
}

fn parse_subresource<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Subresource> {
    let (_, name) = words.next()?.split_once('/')?;
    let kind = words.next().filter(|&word| word != "-").unwrap_or_default();
    let verbs = parse_verbs(words.next()?);
    let (response, kind) = match kind.rsplit_once('/') {
        Some((group_version, kind)) => (Some(split(group_version)), kind),
        None => (None, kind),
    };
    Some(Subresource { name: name.to_owned(), response, kind: kind.to_owned(), verbs })
}

fn parse_verbs(text: &str) -> Option<Vec<String>> {
    let text = match text {
        "none" => return None,
        "builtin" => "create,delete,deletecollection,get,list,patch,update,watch",
        "custom" => "delete,deletecollection,get,list,patch,create,update,watch",
        "status" => "get,patch,update",
        other => other,
    };
    Some(text.split(',').map(str::to_owned).collect())
}

fn split(group_version: &str) -> (String, String) {
    match group_version.split_once('/') {
        Some((group, version)) => (group.to_owned(), version.to_owned()),
        None => (String::new(), group_version.to_owned()),
    }
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_serve_their_versions() {
        for (minor, expected) in
            [(2, vec!["v1alpha1"]), (7, vec!["v1beta1", "v1alpha1"]), (9, vec!["v1", "v1beta1"])]
        {
            let resources = Resources::new(&Config { kubevirt_version: (1, minor), ..Config::default() });
            let versions: Vec<_> =
                resources.group("export.kubevirt.io").map(|version| version.version.as_str()).collect();
            assert_eq!(versions, expected);
            let exports = resources.preferred("export.kubevirt.io", "virtualmachineexports").unwrap();
            assert_eq!(exports.short_names, ["vmexport", "vmexports"]);
            assert!(exports.has_status() && exports.is_custom && exports.is_namespaced);
            assert_eq!(resources.version("backup.kubevirt.io", "v1alpha1").is_some(), minor >= 8);
        }
    }
}
