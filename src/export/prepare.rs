//! What is to be done: looked up before anything is made.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use super::{Export, ExportOf, SourceChoice, output::Places, state::Memory};
use crate::{
    appliance::{VmSeen, Warning},
    conversion::Target,
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Consistency, ExportSource, LeftOut, PlannedVolume, Power, Quiesce, Reach, Right, SessionOptions,
        Sighting, Snapshot, TO_EXPAND, TO_EXPAND_GIVEN, TO_EXPORT, TO_FOLLOW, TO_SNAPSHOT, TO_STOP, Teller,
        VolumePlan, begin_anew, demand, no_agent, to_forward,
    },
};

/// What an export would do.
#[derive(Clone, Debug)]
pub struct ExportPlan {
    /// Namespace.
    pub namespace: String,
    /// The VM, or what else is exported.
    pub name: String,
    /// How the disks are come by, in words.
    pub source: String,
    /// Kinds of the objects that are made in the cluster.
    pub objects: Vec<&'static str>,
    /// How long the export may live there.
    pub ttl: Duration,
    /// The ways to the exporter, in the order in which they are tried.
    pub reach: Vec<&'static str>,
    /// The volumes and where they go.
    pub volumes: Vec<PlannedOutput>,
    /// Volumes that are left out.
    pub left_out: Vec<LeftOut>,
    /// Most bytes that the outputs can take, as far as the sizes of the volumes are known.
    pub space_needed: u64,
    /// Bytes that are free there, if that can be told.
    pub space_free: Option<u64>,
    /// What of the VM its appliance could not say, or would say otherwise, as far as that is known without the disks.
    pub warnings: Vec<Warning>,
}

/// A volume and where it goes.
#[derive(Clone, Debug)]
pub struct PlannedOutput {
    /// What the VM calls it.
    pub volume: String,
    /// Its claim.
    pub claim: String,
    /// Size of its claim in bytes, if it is there; the disk may be smaller.
    pub size: Option<u64>,
    /// The output; `None` for standard output.
    pub output: Option<PathBuf>,
}

/// How the disks are come by.
#[derive(Clone, Debug)]
pub(super) enum Means {
    /// By an export of this.
    Direct(ExportSource),
    /// By an export that is there already.
    Follow(String),
    /// By an export of a snapshot that is made of this VM.
    Through(String),
}

/// What a run begins with.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) plan: ExportPlan,
    pub(super) means: Means,
    pub(super) volumes: VolumePlan,
    /// The VM's whole object, if there is one.
    pub(super) vm: Option<Value>,
    /// What was seen of the VM while it ran, if an appliance is made of it.
    pub(super) seen: VmSeen,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) consistency: Consistency,
    /// The VM is stopped first.
    pub(super) stop: bool,
    /// It is, or an earlier run has stopped it: the description is that of before.
    pub(super) stopped: bool,
    pub(super) rights: Vec<Right>,
}

impl Export {
    /// What the directory of the outputs is called after.
    pub(super) async fn base_name(&self) -> Result<String> {
        match &self.of {
            ExportOf::Claim(name) | ExportOf::Vm(name) => Ok(name.clone()),
            ExportOf::Snapshot(name) => self.cluster.vm_of_snapshot(name).await,
            ExportOf::Existing(name) => self.cluster.source_of_export(name).await.map(|(_, base)| base),
        }
    }

    /// Looks everything up. `memory` is what an earlier run left that is taken up.
    pub(super) async fn prepare(&self, memory: Option<&Memory>) -> Result<Prepared> {
        let name = self.base_name().await?;
        let places = Places::new(&self.target, &name);
        let mut found = match &self.of {
            ExportOf::Vm(vm) => self.of_vm(vm, memory).await?,
            ExportOf::Claim(claim) => {
                Looked::direct(ExportSource::Claim(claim.clone()), VolumePlan::of_claim(claim))
            }
            ExportOf::Snapshot(snapshot) => {
                let means = Means::Direct(ExportSource::Snapshot(snapshot.clone()));
                self.of_snapshot(snapshot, means).await?
            }
            ExportOf::Existing(export) => self.of_existing(export).await?,
        };
        found.volumes = found.volumes.select(&self.options.volumes)?;
        let mut volumes = Vec::new();
        let outputs = places.outputs(&found.volumes.volumes, self.form())?;
        for (volume, output) in found.volumes.volumes.iter().zip(outputs) {
            let size = self.cluster.claim_size(&volume.claim).await?;
            if size.is_none()
                && matches!(found.means, Means::Direct(ExportSource::VirtualMachine(_)) | Means::Through(_))
            {
                return Err(missing_claim(self.cluster.namespace(), volume));
            }
            volumes.push(PlannedOutput {
                volume: volume.name.clone(),
                claim: volume.claim.clone(),
                size,
                output: match output {
                    Target::Object(url) => Some(url.into()),
                    Target::Path(path) => Some(path),
                    Target::Stdout => None,
                },
            });
        }
        self.check_sighted(memory, &found.means, &found.volumes.volumes).await?;
        let space_needed = volumes.iter().filter_map(|volume| volume.size).sum();
        let (objects, mut rights): (Vec<&'static str>, Vec<Right>) = match &found.means {
            Means::Follow(_) => (Vec::new(), TO_FOLLOW.to_vec()),
            Means::Direct(_) => (vec!["VirtualMachineExport", "Secret"], TO_EXPORT.to_vec()),
            Means::Through(_) => (
                vec!["VirtualMachineSnapshot", "VirtualMachineExport", "Secret"],
                TO_EXPORT.into_iter().chain(TO_SNAPSHOT).collect(),
            ),
        };
        if self.options.reach == Reach::PortForward {
            rights.extend(to_forward(&self.cluster).await);
        }
        if found.stop {
            rights.extend(TO_STOP);
        }
        let stopped = found.stop || memory.is_some_and(|memory| memory.stopped.is_some());
        // An appliance says what these set, so it cannot do without them.
        if self.options.appliance.is_some() && found.vm.as_ref().is_some_and(has_references) {
            rights.push(match &found.means {
                Means::Direct(ExportSource::VirtualMachine(_)) if !stopped => TO_EXPAND,
                _ => TO_EXPAND_GIVEN,
            });
        }
        let plan = ExportPlan {
            namespace: self.cluster.namespace().to_owned(),
            name,
            source: found.source,
            objects,
            reach: self.options.reach.order(self.options.service_url.is_some()),
            ttl: self.session_options("", space_needed).time_to_live(),
            volumes,
            left_out: found.volumes.left_out.clone(),
            space_needed,
            space_free: places.free(),
            warnings: Vec::new(),
        };
        let seen = match memory.and_then(|memory| memory.seen.clone()) {
            Some(seen) => seen,
            None => self.seen().await?,
        };
        Ok(Prepared {
            plan,
            means: found.means,
            volumes: found.volumes,
            vm: found.vm,
            seen,
            snapshot: found.snapshot,
            consistency: found.consistency,
            stop: found.stop,
            stopped,
            rights,
        })
    }

    /// What the VM's instance, if there is one, tells that its description does not.
    async fn seen(&self) -> Result<VmSeen> {
        let ExportOf::Vm(name) = &self.of else { return Ok(VmSeen::default()) };
        if self.options.appliance.is_none() {
            return Ok(VmSeen::default());
        }
        let instance = self.cluster.instance(name).await?;
        Ok(instance.as_ref().map(VmSeen::of_instance).unwrap_or_default())
    }

    /// Refuses, before anything is made, what stands in the way of a run. `memory` is what an earlier run left,
    /// whether it is taken up or discarded. Gives what an appliance could not say.
    ///
    /// # Errors
    /// Something does.
    pub(super) async fn check(
        &self,
        places: &Places,
        memory: Option<&Memory>,
        prepared: &Prepared,
        outputs: &[Target],
    ) -> Result<Vec<Warning>> {
        self.check_outputs(places, memory, prepared, outputs).await?;
        demand(&self.cluster, &prepared.rights).await?;
        match &self.options.appliance {
            Some(options) => self.check_appliance(options, places, prepared).await,
            None => Ok(Vec::new()),
        }
    }

    pub(super) fn session_options(&self, run: &str, bytes: u64) -> SessionOptions {
        SessionOptions {
            ttl: self.options.ttl,
            expected_bytes: bytes,
            rate: self
                .options
                .conversion
                .source
                .http
                .rate
                .as_ref()
                .map(crate::source::Rate::bytes_per_second),
            wait: self.options.wait,
            insecure: self.options.conversion.source.http.insecure,
            service_url: self.options.service_url.clone(),
            ..SessionOptions::new(run)
        }
    }

    async fn of_vm(&self, name: &str, memory: Option<&Memory>) -> Result<Looked> {
        let vm = self.cluster.vm(name).await?;
        if let Some(snapshot) = memory.and_then(|memory| memory.snapshot.as_deref()) {
            if self.options.stop || self.options.source == SourceChoice::Vm {
                return Err(other_means(&format!("through the snapshot {snapshot}"), "the VM itself"));
            }
            if !self.cluster.has_snapshot(snapshot).await? {
                return Err(Error::new(
                    ErrorKind::SourceChanged,
                    format!("the snapshot {snapshot} that the interrupted run had made is gone"),
                )
                .with_hint("start again with another one: --restart"));
            }
            return self.of_snapshot(snapshot, Means::Through(name.to_owned())).await;
        }
        let place = format!("VM {}/{name}", self.cluster.namespace());
        let power = self.cluster.power(name).await?;
        if memory.and_then(Memory::begun_of).is_some_and(Sighting::is_of_vm) {
            if power != Power::Stopped {
                return Err(Error::new(
                    ErrorKind::SourceChanged,
                    format!("{place} was started since the interrupted run: its disks have changed"),
                )
                .with_hint(begin_anew(name)));
            }
            if self.options.source == SourceChoice::Snapshot {
                return Err(other_means("of the VM itself", "a snapshot"));
            }
        }
        let stop = self.options.stop && power != Power::Stopped;
        if self.options.stop && self.options.source == SourceChoice::Snapshot {
            return Err(Error::usage("a VM that is stopped needs no snapshot: --stop or --source snapshot"));
        }
        let direct = match (self.options.source, power) {
            _ if stop => true,
            (SourceChoice::Auto | SourceChoice::Vm, Power::Stopped) => true,
            (SourceChoice::Auto | SourceChoice::Snapshot, _) => false,
            (SourceChoice::Vm, Power::Running { .. }) => {
                return Err(Error::refused(format!(
                    "{place} runs, and only a stopped VM can be exported directly"
                ))
                .with_hint(format!("stop it ('virtctl stop {name}', or --stop for the time of the export), or take --source snapshot")));
            }
        };
        let volumes = VolumePlan::of_vm(&vm.object);
        if !direct {
            let selected = volumes.clone().select(&self.options.volumes)?;
            selected.check_snapshottable(&vm.status.volume_snapshot_statuses)?;
            if self.options.quiesce == Quiesce::Require && power == (Power::Running { agent: false }) {
                return Err(no_agent(name));
            }
        }
        let state = if power == Power::Stopped { "stopped" } else { "running" };
        Ok(Looked {
            source: if stop {
                format!("{place}, stopped for the export and then put back as it is")
            } else if direct {
                format!("{place}, {state}, directly")
            } else {
                format!("{place}, {state}, through a snapshot made for the export")
            },
            means: if direct {
                Means::Direct(ExportSource::VirtualMachine(name.to_owned()))
            } else {
                Means::Through(name.to_owned())
            },
            volumes,
            vm: Some(vm.object),
            snapshot: None,
            consistency: if direct { Consistency::Stopped } else { Consistency::Unknown },
            stop,
        })
    }

    async fn of_snapshot(&self, name: &str, means: Means) -> Result<Looked> {
        let teller: Teller = std::sync::Arc::new(self.teller());
        let snapshot = self.cluster.usable_snapshot(name, self.options.wait, &teller).await?;
        Ok(Looked {
            source: format!("snapshot {}/{name}", self.cluster.namespace()),
            means,
            volumes: snapshot.plan.clone(),
            vm: snapshot.vm.clone(),
            consistency: snapshot.consistency,
            snapshot: Some(snapshot),
            stop: false,
        })
    }

    async fn of_existing(&self, name: &str) -> Result<Looked> {
        let (source, _) = self.cluster.source_of_export(name).await?;
        let means = Means::Follow(name.to_owned());
        let shown =
            format!("export {}/{name} of {} {}", self.cluster.namespace(), source.kind(), source.name());
        let looked = match &source {
            ExportSource::Snapshot(snapshot) => self.of_snapshot(snapshot, means).await?,
            ExportSource::Claim(claim) => {
                Looked { means, ..Looked::direct(source.clone(), VolumePlan::of_claim(claim)) }
            }
            ExportSource::VirtualMachine(vm) => {
                let vm = self.cluster.vm(vm).await?;
                Looked {
                    means,
                    volumes: VolumePlan::of_vm(&vm.object),
                    vm: Some(vm.object),
                    consistency: Consistency::Stopped,
                    ..Looked::direct(source.clone(), VolumePlan::default())
                }
            }
        };
        Ok(Looked { source: shown, ..looked })
    }
}

/// Whether a VM leaves some of its hardware to an instancetype or a preference.
pub(super) fn has_references(vm: &Value) -> bool {
    ["/spec/instancetype", "/spec/preference"]
        .iter()
        .any(|place| vm.pointer(place).is_some_and(|reference| !reference.is_null()))
}

/// What was found out about the source.
struct Looked {
    source: String,
    means: Means,
    volumes: VolumePlan,
    vm: Option<Value>,
    snapshot: Option<Snapshot>,
    consistency: Consistency,
    stop: bool,
}

impl Looked {
    fn direct(source: ExportSource, volumes: VolumePlan) -> Self {
        Self {
            source: format!("{} {}", source.kind(), source.name()),
            means: Means::Direct(source),
            volumes,
            vm: None,
            snapshot: None,
            consistency: Consistency::Unknown,
            stop: false,
        }
    }
}

/// An unfinished run is not gone on with by other means.
fn other_means(then: &str, now: &str) -> Error {
    Error::refused(format!("the unfinished export here is {then}, and now {now} is asked for")).with_hint(
        "the command that began it goes on with it; --restart discards it and begins anew as it is told now",
    )
}

fn missing_claim(namespace: &str, volume: &PlannedVolume) -> Error {
    Error::new(
        ErrorKind::Cluster,
        format!(
            "volume {} has no claim: PersistentVolumeClaim {namespace}/{} does not exist",
            volume.name, volume.claim
        ),
    )
    .with_hint("KubeVirt would leave it out without a word; export the others by naming them with --volume")
}
