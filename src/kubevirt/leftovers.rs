//! What runs that crashed have left in the cluster, found by their label.

use std::time::Duration;

use super::{Cluster, MANAGED_BY, RUN_ID, Resource, time, types::Object};
use crate::error::{Error, ErrorKind, Result};

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
    /// The export that it goes with.
    owner: Option<String>,
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

    /// Whether the cluster removes it with `other`, in its own time.
    pub fn goes_with(&self, other: &Self) -> bool {
        other.kind == LeftoverKind::Export
            && self.namespace == other.namespace
            && self.owner.as_ref() == Some(&other.name)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// The objects: exports first, in which order they can be removed.
    pub objects: Vec<Leftover>,
    /// Kinds that the cluster did not list, and why.
    pub unlisted: Vec<(LeftoverKind, Error)>,
}

/// All objects that runs made, or that `run` made, in the namespace or everywhere, at least as old as
/// `older_than`.
///
/// # Errors
/// The cluster refuses to list exports, or cannot be reached.
pub async fn leftovers(
    cluster: &Cluster,
    everywhere: bool,
    older_than: Duration,
    run: Option<&str>,
) -> Result<Leftovers> {
    let mut found = Leftovers::default();
    found.look(cluster, LeftoverKind::Export, cluster.export_resource().await?, everywhere).await?;
    match cluster.snapshot_resource().await {
        Ok(snapshots) => {
            let looked = found.look(cluster, LeftoverKind::Snapshot, snapshots, everywhere).await;
            found.unless_refused(LeftoverKind::Snapshot, looked)?;
        }
        // A cluster may have exports and no snapshots.
        Err(error) if error.kind() == ErrorKind::Cluster => tracing::info!(%error, "there are no snapshots"),
        Err(error) => return Err(error),
    }
    // They go with their exports: who may not list them can still clean up.
    let looked = found.look(cluster, LeftoverKind::Secret, Resource::secrets(), everywhere).await;
    found.unless_refused(LeftoverKind::Secret, looked)?;
    found.objects.retain(|object| {
        let is_old = older_than.is_zero() || object.age.is_some_and(|age| age >= older_than);
        is_old && run.is_none_or(|run| object.run.as_deref() == Some(run))
    });
    Ok(found)
}

impl Leftovers {
    async fn look(
        &mut self,
        cluster: &Cluster,
        kind: LeftoverKind,
        resource: Resource,
        everywhere: bool,
    ) -> Result<()> {
        let selector = format!("{}={}", MANAGED_BY.0, MANAGED_BY.1);
        let listed: Vec<Object> = cluster.list(&resource, everywhere, &selector).await?;
        for Object { metadata } in listed {
            // Others may call themselves so too; a run id is ours alone.
            let Some(run) = metadata.labels.get(RUN_ID).cloned() else { continue };
            let owners = &metadata.owner_references;
            let owner = owners.iter().find(|owner| owner.kind == "VirtualMachineExport");
            self.objects.push(Leftover {
                kind,
                namespace: if metadata.namespace.is_empty() {
                    cluster.namespace().to_owned()
                } else {
                    metadata.namespace
                },
                name: metadata.name,
                run: Some(run),
                age: metadata.creation_timestamp.as_deref().and_then(time::since),
                owner: owner.map(|owner| owner.name.clone()),
                resource: resource.clone(),
            });
        }
        Ok(())
    }

    fn unless_refused(&mut self, kind: LeftoverKind, looked: Result<()>) -> Result<()> {
        match looked {
            Err(error) if error.kind() == ErrorKind::Cluster => self.unlisted.push((kind, error)),
            other => return other,
        }
        Ok(())
    }
}
