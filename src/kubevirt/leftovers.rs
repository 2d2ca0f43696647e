//! What runs that crashed have left in the cluster, found by their label.

use std::time::Duration;

use super::{Cluster, MANAGED_BY, RUN_ID, Resource, time, types::Object};
use crate::error::{ErrorKind, Result};

/// Kinds of objects that runs make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftoverKind {
    /// VirtualMachineExport; its secret, service, pod and restored volumes go with it.
    Export,
    /// VirtualMachineSnapshot.
    Snapshot,
    /// Secret of an export.
    Secret,
}

impl LeftoverKind {
    /// As kubectl takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Export => "virtualmachineexport",
            Self::Snapshot => "virtualmachinesnapshot",
            Self::Secret => "secret",
        }
    }
}

/// An object that a run made.
#[derive(Clone, Debug)]
pub struct Leftover {
    /// Its kind.
    pub kind: LeftoverKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The run.
    pub run: Option<String>,
    /// How long it has been there.
    pub age: Option<Duration>,
    resource: Resource,
}

impl Leftover {
    /// Removes it; `false` if it was gone already.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn remove(&self, cluster: &Cluster) -> Result<bool> {
        cluster.in_namespace(&self.namespace).delete(&self.resource, &self.name).await
    }
}

/// All objects that runs made, in the namespace or everywhere, at least as old as `older_than`: exports
/// first, in which order they can be removed.
///
/// # Errors
/// The cluster refuses, or cannot be reached.
pub async fn leftovers(cluster: &Cluster, everywhere: bool, older_than: Duration) -> Result<Vec<Leftover>> {
    let selector = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
    let mut kinds = vec![(LeftoverKind::Export, cluster.export_resource().await?)];
    match cluster.snapshot_resource().await {
        Ok(snapshots) => kinds.push((LeftoverKind::Snapshot, snapshots)),
        // A cluster may have exports and no snapshots.
        Err(error) if error.kind() == ErrorKind::Cluster => tracing::info!(%error, "there are no snapshots"),
        Err(error) => return Err(error),
    }
    kinds.push((LeftoverKind::Secret, Resource::secrets()));
    let mut found = Vec::new();
    for (kind, resource) in kinds {
        let objects: Vec<Object> = cluster.list(&resource, everywhere, &selector).await?;
        for Object { metadata } in objects {
            // Others may call themselves so too; a run id is ours alone.
            let run = metadata.labels.get(RUN_ID).cloned();
            let age = metadata.creation_timestamp.as_deref().and_then(time::since);
            let is_old = older_than.is_zero() || age.is_some_and(|age| age >= older_than);
            if run.is_some() && is_old {
                found.push(Leftover {
                    kind,
                    namespace: if metadata.namespace.is_empty() {
                        cluster.namespace().to_owned()
                    } else {
                        metadata.namespace
                    },
                    name: metadata.name,
                    run,
                    age,
                    resource: resource.clone(),
                });
            }
        }
    }
    Ok(found)
}
