//! An export from start to end.

use std::{fs, sync::Arc, time::Instant};

use serde_json::Value;

use super::{
    ApplianceRecord, Export, ExportEvent, ExportReport, VolumeRecord,
    output::{Places, shown},
    prepare::{Means, Prepared},
    state::{Memory, RunState},
};
use crate::{
    conversion::{Conversion, ConversionOptions, ConversionSource, Target},
    error::{Error, ErrorKind, Result},
    kubevirt::{Consistency, ExportSource, LeftOut, Making, Session, SessionOptions, Teller},
    source::Links,
};

/// What there is of a run, for its end: good or bad.
#[derive(Default)]
pub(super) struct Run {
    pub(super) id: String,
    /// What the objects in the cluster are named after; `None` = none was made.
    pub(super) named_after: Option<String>,
    pub(super) with_snapshot: bool,
    pub(super) state: Option<RunState>,
    /// The run strategy of the VM that was stopped.
    pub(super) stopped: Option<Value>,
    pub(super) session: Option<Arc<Session>>,
    /// Bytes have been taken, by this run or an earlier one: there is something to go on with.
    pub(super) begun: bool,
    pub(super) bytes_read: u64,
    pub(super) way: Option<&'static str>,
    pub(super) consistency: Option<Consistency>,
    pub(super) volumes: Vec<VolumeRecord>,
    pub(super) appliance: Option<ApplianceRecord>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) warnings: Vec<String>,
}

impl Run {
    /// What it has done so far, where that is remembered.
    pub(super) fn memory(&self) -> Option<&Memory> {
        self.state.as_ref().map(|state| &state.memory)
    }
}

impl Export {
    pub(super) async fn go(self) -> Result<ExportReport> {
        let started = Instant::now();
        let mut run = Run::default();
        let base = self.uncancelled(self.base_name()).await?;
        let places = Places::new(&self.target, &base);
        let worked = match self.open_state(&places, &mut run).await {
            Ok(()) => Box::pin(self.work(&places, &mut run)).await,
            Err(error) => return Err(error),
        };
        let worked = self.put_back(&mut run, worked).await;
        match worked {
            Ok(source) => {
                // First: the outputs are complete, and what stays in the cluster is found by its label.
                if let Some(state) = run.state.take() {
                    state.remove()?;
                }
                self.clean_up(&mut run).await;
                Ok(ExportReport {
                    namespace: self.cluster.namespace().to_owned(),
                    name: base,
                    output: places.shown(),
                    source,
                    consistency: run.consistency.unwrap_or(Consistency::Unknown),
                    way: run.way,
                    volumes: run.volumes,
                    appliance: run.appliance,
                    left_out: run.left_out,
                    bytes_read: run.bytes_read,
                    elapsed: started.elapsed(),
                    warnings: self.told_warnings().into_iter().chain(run.warnings).collect(),
                })
            }
            Err(error) => Err(self.after_failure(&places, run, error).await),
        }
    }

    /// Everything but the end; tells what was exported.
    async fn work(&self, places: &Places, run: &mut Run) -> Result<String> {
        let mut prepared = self.uncancelled(self.prepare(run.memory())).await?;
        let outputs = places.outputs(&prepared.volumes.volumes, self.form())?;
        self.uncancelled(self.check(places, run.memory(), &prepared, &outputs)).await?;
        if self.options.appliance.is_some()
            && let Some(state) = &mut run.state
        {
            state.remember_seen(&prepared.seen)?;
        }
        if let Means::Through(vm) = prepared.means.clone() {
            self.through_snapshot(&vm, run, &mut prepared).await?;
        }
        if prepared.stop {
            self.stop(run, &prepared).await?;
        }
        run.consistency = Some(prepared.consistency);
        let description = self.uncancelled(self.description(&prepared, run)).await?;
        let session_source = self.session_source(&prepared).await?;
        if run.state.is_some() {
            let seen = self.sighted(run.memory(), &session_source, &prepared.volumes.volumes);
            let seen = self.uncancelled(seen).await?;
            if let Some(state) = &mut run.state {
                state.remember_source(seen)?;
            }
        }
        match &self.options.appliance {
            Some(options) => {
                let description = description.as_ref();
                self.pack_all(options, places, run, &mut prepared, description, &session_source).await?;
            }
            None => self.convert_all(places, run, &mut prepared, &outputs, &session_source).await?,
        }
        run.left_out.clone_from(&prepared.volumes.left_out);
        if let Some(directory) = places.directory() {
            self.describe(directory, run, &prepared, description.as_ref(), &session_source).await?;
        }
        Ok(format!("{} {}", session_source.kind(), session_source.name()))
    }

    async fn through_snapshot(&self, vm: &str, run: &mut Run, prepared: &mut Prepared) -> Result<()> {
        let teller: Teller = Arc::new(self.teller());
        let snapshot = match prepared.snapshot.take() {
            Some(snapshot) => snapshot,
            None => {
                run.named_after = Some(vm.to_owned());
                run.with_snapshot = true;
                let making = Making { vm, run: &run.id, wait: self.options.wait };
                let name = self.uncancelled(self.cluster.make_snapshot(making, &teller)).await?;
                if let Some(state) = &mut run.state {
                    state.remember_snapshot(&name)?;
                }
                self.uncancelled(self.cluster.usable_snapshot(&name, self.options.wait, &teller)).await?
            }
        };
        (run.named_after, run.with_snapshot) = (Some(vm.to_owned()), true);
        snapshot.check(self.options.quiesce, &teller)?;
        let planned = std::mem::take(&mut prepared.volumes);
        for volume in &planned.volumes {
            if !snapshot.plan.volumes.iter().any(|there| there.claim == volume.claim) {
                return Err(Error::refused(format!("volume {} is not in the snapshot {}", volume.name, snapshot.name))
                    .with_hint("its storage has no snapshots: stop the VM and export it directly, or name other volumes with --volume"));
            }
        }
        prepared.volumes = planned;
        prepared.consistency = snapshot.consistency;
        prepared.vm = snapshot.vm.clone().or_else(|| prepared.vm.take());
        prepared.snapshot = Some(snapshot);
        Ok(())
    }

    async fn convert_all(
        &self,
        places: &Places,
        run: &mut Run,
        prepared: &mut Prepared,
        outputs: &[Target],
        source: &ExportSource,
    ) -> Result<()> {
        let planned = prepared.volumes.volumes.clone();
        let count = planned.len();
        for (index, (volume, target)) in planned.iter().zip(outputs).enumerate() {
            let done = match self.done(places, run.memory(), volume, target) {
                Some(record) if self.is_there(target, &record).await? => Some(record),
                _ => None,
            };
            if let Some(mut record) = done {
                self.verify_earlier(run, volume, (index + 1, count), target, &mut record).await?;
                run.volumes.push(record);
                continue;
            }
            let session = match run.session.clone() {
                Some(session) => session,
                None => self.reach(run, prepared, source, &volume.claim).await?,
            };
            let links: Arc<dyn Links> = Arc::new(self.uncancelled(session.links(&volume.claim)).await?);
            let conversion =
                Conversion::builder(ConversionSource::Links(links, self.options.transfer), target.clone())
                    .spec(self.spec.clone())
                    .options(ConversionOptions {
                        // Complete, but without a manifest nobody can tell what it is: it is made again.
                        force: self.options.conversion.force || self.is_ours(run.memory(), volume, target),
                        ..self.options.conversion.clone()
                    })
                    .cancel_token(self.cancel.clone())
                    .build()?;
            let (number, name, progress) = (index + 1, volume.name.clone(), conversion.progress());
            (self.listener)(ExportEvent::Begun { number, count, name, progress });
            if let Some(state) = &mut run.state {
                state.remember_begun(&volume.claim)?;
                run.begun = true;
            }
            let converted = conversion.run().await;
            (self.listener)(ExportEvent::Ended);
            let report = converted?;
            run.bytes_read += report.bytes_read;
            let told = report.warnings.iter().map(|warning| format!("volume {}: {warning}", volume.name));
            run.warnings.extend(told);
            let record = VolumeRecord::new(volume, shown(places, target), &report);
            if let Some(state) = &mut run.state {
                state.remember(&record)?;
            }
            run.volumes.push(record);
        }
        Ok(())
    }

    /// What the export in the cluster is of.
    async fn session_source(&self, prepared: &Prepared) -> Result<ExportSource> {
        match &prepared.means {
            Means::Direct(source) => Ok(source.clone()),
            Means::Through(_) => {
                let snapshot = prepared.snapshot.as_ref().map(|snapshot| snapshot.name.clone());
                snapshot
                    .map(ExportSource::Snapshot)
                    .ok_or_else(|| Error::failed("there is no snapshot; this is a bug"))
            }
            Means::Follow(name) => {
                self.uncancelled(self.cluster.source_of_export(name)).await.map(|(source, _)| source)
            }
        }
    }

    /// Makes or follows the export and finds a way to it.
    pub(super) async fn reach(
        &self,
        run: &mut Run,
        prepared: &mut Prepared,
        source: &ExportSource,
        first: &str,
    ) -> Result<Arc<Session>> {
        let authorities = match &self.options.conversion.source.http.ca_file {
            Some(path) => Some(fs::read(path).map_err(|error| Error::io("read", path, error))?),
            None => None,
        };
        let options = self.session_options(&run.id, prepared.plan.space_needed);
        let options = SessionOptions { authorities, named_after: run.named_after.clone(), ..options };
        let session = match &prepared.means {
            Means::Follow(name) => {
                self.uncancelled(Session::follow(&self.cluster, name, options, self.teller())).await?
            }
            _ => {
                run.named_after.get_or_insert_with(|| source.name().to_owned());
                let begun = Session::begin(&self.cluster, source.clone(), options, self.teller());
                self.uncancelled(begun).await?
            }
        };
        run.session = Some(Arc::clone(&session));
        // Boxed: these futures are large, and callers keep them on small stacks.
        let export = Box::pin(self.uncancelled(session.ready())).await?;
        // The session's own look is later than the run's; between the two a VM may have been started.
        self.uncancelled(self.sighted(run.memory(), source, &[])).await?;
        let links = export.status.links.internal.or(export.status.links.external).unwrap_or_default();
        prepared.volumes = std::mem::take(&mut prepared.volumes).joined(&links.volumes)?;
        let http = &self.options.conversion.source.http;
        let choice = Box::pin(self.uncancelled(session.choose(self.options.reach, first, http))).await?;
        run.way = Some(choice.way);
        Ok(session)
    }

    /// What the objects of a run are named after, before anything is known of it.
    pub(super) fn named_after(&self) -> Option<String> {
        match &self.of {
            super::ExportOf::Existing(_) => None,
            super::ExportOf::Claim(name) | super::ExportOf::Snapshot(name) | super::ExportOf::Vm(name) => {
                Some(name.clone())
            }
        }
    }

    /// `work`, unless the run is cancelled first.
    pub(super) async fn uncancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.cancel.run_until_cancelled(work).await {
            Some(result) => result,
            None => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
        }
    }
}
