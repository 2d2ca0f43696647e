//! What shows that a source is still the same.

use super::{
    Cluster, ExportSource, Power, Resource,
    types::{Claim, VmSnapshot},
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::SourceIdentity,
};

/// An object that is exported, as it was at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    kind: &'static str,
    name: String,
    uid: String,
    generation: Option<i64>,
    stopped_since: Option<String>,
}

impl Origin {
    /// Looks at the source.
    ///
    /// # Errors
    /// It does not exist, or cannot be asked for.
    pub(super) async fn look(cluster: &Cluster, source: &ExportSource, snapshots: &str) -> Result<Self> {
        let (kind, name) = (source.kind(), source.name().to_owned());
        let (uid, generation, stopped_since) = match source {
            ExportSource::VirtualMachine(name) => {
                let vm = cluster.vm(name).await?;
                let since = vm.stopped_since();
                (vm.metadata.uid, vm.metadata.generation, since)
            }
            ExportSource::Snapshot(name) => {
                let snapshot: VmSnapshot = cluster.must_find(&Resource::snapshots(snapshots), name).await?;
                (snapshot.metadata.uid, None, None)
            }
            ExportSource::Claim(name) => {
                let claim: Claim = cluster.must_find(&Resource::claims(), name).await?;
                (claim.metadata.uid, None, None)
            }
        };
        Ok(Self { kind, name, uid, generation, stopped_since })
    }

    /// Fails if the source was changed or a VM runs, or ran in between.
    ///
    /// # Errors
    /// What changed.
    pub(super) async fn check(
        &self,
        cluster: &Cluster,
        source: &ExportSource,
        snapshots: &str,
    ) -> Result<()> {
        let changed = |how: String| {
            Error::new(
                ErrorKind::SourceChanged,
                format!("{} {}/{} {how}", self.kind, cluster.namespace(), self.name),
            )
        };
        if let ExportSource::VirtualMachine(name) = source
            && let Power::Running { .. } = cluster.power(name).await?
        {
            return Err(changed("was started while it was exported: its disks have changed".to_owned()).with_hint(
                format!("stop it and give the command again with --restart, or export a snapshot: vmferry export {name} --source snapshot --restart"),
            ));
        }
        let now = Self::look(cluster, source, snapshots).await?;
        let how = match () {
            () if now.uid != self.uid => "was deleted and made anew",
            () if now.generation != self.generation => {
                "was changed while it was exported (starting it does that too)"
            }
            () if now.stopped_since != self.stopped_since => "was started in between",
            () => return Ok(()),
        };
        Err(changed(how.to_owned()).with_hint("start again with what is there now: --restart"))
    }

    /// The identity of one volume.
    ///
    /// # Errors
    /// Its claim does not exist, or cannot be asked for.
    pub(super) async fn of_volume(
        &self,
        cluster: &Cluster,
        source: &ExportSource,
        claim: &str,
    ) -> Result<SourceIdentity> {
        // The claims of a snapshot's export are made for it; the snapshot itself cannot change.
        let found: Option<Claim> = match source {
            ExportSource::Snapshot(_) => None,
            _ => Some(cluster.must_find(&Resource::claims(), claim).await?),
        };
        Ok(SourceIdentity::Export {
            source: self.kind.to_owned(),
            uid: self.uid.clone(),
            generation: self.generation,
            stopped_since: self.stopped_since.clone(),
            volume_size: found.as_ref().and_then(|claim| claim.requested().map(str::to_owned)),
            volume_uid: found.map(|claim| claim.metadata.uid),
            volume: claim.to_owned(),
        })
    }
}
