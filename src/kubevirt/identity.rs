//! What shows that a source is still the same.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Cluster, ExportSource, Power, Resource,
    types::{Claim, VirtualMachine, VmSnapshot},
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
    /// Looks at the source; at a VM that has just stopped once its status is at rest, for `wait` at most.
    ///
    /// # Errors
    /// It does not exist, or cannot be asked for.
    pub(super) async fn look(
        cluster: &Cluster,
        source: &ExportSource,
        snapshots: &str,
        wait: Duration,
    ) -> Result<Self> {
        let (kind, name) = (source.kind(), source.name().to_owned());
        let (uid, generation, stopped_since) = match source {
            ExportSource::VirtualMachine(name) => {
                let (vm, since) = cluster.settled(name, wait).await?;
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
        let now = Self::look(cluster, source, snapshots, Duration::ZERO).await?;
        // If it was not known at first, only an instance or a change of the specification tells.
        let is_restarted = self.stopped_since.is_some() && now.stopped_since != self.stopped_since;
        let how = match () {
            () if now.uid != self.uid => "was deleted and made anew",
            () if now.generation != self.generation => {
                "was changed while it was exported (starting it does that too)"
            }
            () if is_restarted => "was started in between",
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

/// What a run has seen of its source before the first byte, for later runs to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sighting {
    kind: String,
    name: String,
    uid: String,
    generation: Option<i64>,
    stopped_since: Option<String>,
    /// By the names of their claims; empty for a snapshot, which cannot change.
    volumes: BTreeMap<String, VolumeSighting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct VolumeSighting {
    uid: String,
    /// Size that the claim asks for.
    size: Option<String>,
}

impl Sighting {
    /// Looks at the source and at these claims of it; at a VM that has just stopped once its status is at
    /// rest, for `wait` at most.
    ///
    /// # Errors
    /// It does not exist, or cannot be asked for.
    pub(crate) async fn look(
        cluster: &Cluster,
        source: &ExportSource,
        claims: &[&str],
        wait: Duration,
    ) -> Result<Self> {
        let snapshots = match source {
            ExportSource::Snapshot(_) => cluster.snapshot_resource().await?.version,
            _ => String::new(),
        };
        let origin = Origin::look(cluster, source, &snapshots, wait).await?;
        let mut volumes = BTreeMap::new();
        if !matches!(source, ExportSource::Snapshot(_)) {
            for claim in claims {
                let found: Claim = cluster.must_find(&Resource::claims(), claim).await?;
                let size = found.requested().map(str::to_owned);
                volumes.insert((*claim).to_owned(), VolumeSighting { uid: found.metadata.uid, size });
            }
        }
        Ok(Self {
            kind: origin.kind.to_owned(),
            name: origin.name,
            uid: origin.uid,
            generation: origin.generation,
            stopped_since: origin.stopped_since,
            volumes,
        })
    }

    /// Whether it is of a VM itself, which changes when it is started.
    pub(crate) fn is_of_vm(&self) -> bool {
        self.kind == ExportSource::VirtualMachine(String::new()).kind()
    }

    /// Whether the VM was started, or made anew, after it was seen stopped.
    pub(crate) fn was_started(&self, vm: &VirtualMachine) -> bool {
        let since = vm.stopped_since();
        self.is_of_vm()
            && (self.uid != vm.metadata.uid
                || self.stopped_since.as_ref().is_some_and(|then| since.is_some_and(|now| now != *then)))
    }

    /// With the volumes of an earlier look at the same source.
    ///
    /// # Errors
    /// [`SourceChanged`](ErrorKind::SourceChanged) says what is not as it was.
    pub(crate) fn after(mut self, earlier: &Self) -> Result<Self> {
        if let Some(how) = self.change_since(earlier) {
            return Err(Error::new(
                ErrorKind::SourceChanged,
                format!("the source is not what the interrupted run exported: {how}"),
            )
            .with_hint(self.anew()));
        }
        self.volumes.extend(earlier.volumes.clone());
        Ok(self)
    }

    fn change_since(&self, earlier: &Self) -> Option<String> {
        let name = format!("{} {}", self.kind, self.name);
        if (&self.kind, &self.name) != (&earlier.kind, &earlier.name) {
            return Some(format!("it was {} {} then, and is {name} now", earlier.kind, earlier.name));
        }
        if self.uid != earlier.uid {
            return Some(format!("{name} was deleted and made anew"));
        }
        if self.stopped_since != earlier.stopped_since {
            return Some(format!("{name} was started in between, and its disks have changed"));
        }
        if self.generation != earlier.generation {
            return Some(format!("{name} was changed in between (starting it does that too)"));
        }
        let changed = |(claim, now): (&String, &VolumeSighting)| {
            let then = earlier.volumes.get(claim)?;
            let claim = format!("PersistentVolumeClaim {claim}");
            match () {
                () if now.uid != then.uid => Some(format!("{claim} was deleted and made anew")),
                () if now.size != then.size => Some(format!("the size of {claim} was changed")),
                () => None,
            }
        };
        self.volumes.iter().find_map(changed)
    }

    /// How to begin anew.
    fn anew(&self) -> String {
        if self.is_of_vm() {
            begin_anew(&self.name)
        } else {
            "start again with what is there now: --restart".to_owned()
        }
    }
}

/// How to begin anew with a VM that was started.
pub(crate) fn begin_anew(vm: &str) -> String {
    format!(
        "begin anew with what is there now: --restart; whether it runs or not, through a snapshot: vmferry export {vm} \
         --source snapshot --restart"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(change: impl FnOnce(&mut Sighting)) -> Sighting {
        let volume = VolumeSighting { uid: "v1".into(), size: Some("1Gi".into()) };
        let mut seen = Sighting {
            kind: "VirtualMachine".into(),
            name: "db".into(),
            uid: "u1".into(),
            generation: Some(2),
            stopped_since: Some("2026-01-01T00:00:00Z".into()),
            volumes: BTreeMap::from([("root".to_owned(), volume)]),
        };
        change(&mut seen);
        seen
    }

    #[test]
    fn whatever_changed_is_told() {
        type Change = fn(&mut Sighting);
        let changes: [(Change, &str); 6] = [
            (|seen| seen.name = "web".into(), "is VirtualMachine web now"),
            (|seen| seen.uid = "u2".into(), "db was deleted and made anew"),
            (|seen| seen.stopped_since = None, "was started in between"),
            (|seen| seen.generation = Some(3), "was changed in between"),
            (
                |seen| seen.volumes.get_mut("root").unwrap().uid = "v2".into(),
                "root was deleted and made anew",
            ),
            (|seen| seen.volumes.get_mut("root").unwrap().size = None, "size of PersistentVolumeClaim root"),
        ];
        for (change, says) in changes {
            let error = seen(change).after(&seen(|_| {})).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SourceChanged);
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.hint().unwrap().contains("--restart"));
        }
    }

    #[test]
    fn volumes_of_both_looks_are_kept() {
        let other = seen(|seen| {
            let volume = seen.volumes.remove("root").unwrap();
            seen.volumes.insert("data".into(), volume);
        });
        let both = other.after(&seen(|_| {})).unwrap();
        assert_eq!(both.volumes.keys().collect::<Vec<_>>(), ["data", "root"]);
    }
}
