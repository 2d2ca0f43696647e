//! Names of objects, for whoever completes what is being typed.

use serde_json::Value;

use super::{Cluster, Resource, pages::Pages};
use crate::error::Result;

/// What names are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidates {
    /// PersistentVolumeClaims of the namespace.
    Claims,
    /// Namespaces.
    Namespaces,
    /// VirtualMachineSnapshots of the namespace.
    Snapshots,
    /// VirtualMachines of the namespace.
    Vms,
}

impl Candidates {
    /// Names that begin with `prefix`, in the order of the cluster, `most` of them at most.
    ///
    /// # Errors
    /// The cluster refuses, does not have such objects, or cannot be reached.
    pub async fn names(self, cluster: &Cluster, prefix: &str, most: usize) -> Result<Vec<String>> {
        let resource = match self {
            Self::Claims => Resource::claims(),
            Self::Namespaces => Resource::namespaces(),
            Self::Snapshots => cluster.snapshot_resource().await?,
            Self::Vms => Resource::vms(),
        };
        let mut pages = Pages::new(cluster, resource, self == Self::Namespaces, "");
        let mut names = Vec::new();
        while names.len() < most
            && let Some(page) = pages.next(LIMIT).await?
        {
            let name = |object: &Value| object.pointer("/metadata/name")?.as_str().map(str::to_owned);
            names.extend(page.iter().filter_map(name).filter(|name| name.starts_with(prefix)));
        }
        names.truncate(most);
        Ok(names)
    }
}

/// Objects of a page: names are short, and somebody waits.
const LIMIT: u32 = 500;
