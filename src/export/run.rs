//! An export from start to end.

use std::{fs, sync::Arc, time::Instant};

use serde_json::Value;

use super::{
    ApplianceRecord, Export, ExportEvent, ExportReport, VolumeRecord,
    beside::{DESCRIPTION, RECORD, SUMS},
    output::{self, Places, shown},
    prepare::{Means, Prepared},
    state::{self, Found, RunState},
};
use crate::{
    conversion::{Conversion, ConversionOptions, ConversionSource, ResumePolicy, Target},
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Consistency, ExportSource, LeftOut, Making, PlannedVolume, Session, SessionOptions, Teller, demand,
        run_id,
    },
    pipeline::{manifest::Manifest, target::TargetPaths},
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

impl Export {
    pub(super) async fn go(self) -> Result<ExportReport> {
        let started = Instant::now();
        let mut run = Run::default();
        let base = self.uncancelled(self.base_name()).await?;
        let places = Places::new(&self.target, &base);
        let worked = match self.open_state(&places, &mut run).await {
            Ok(()) => self.work(&places, &mut run).await,
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

    /// Begins the run's state, or takes up what an earlier run left.
    async fn open_state(&self, places: &Places, run: &mut Run) -> Result<()> {
        let Some(path) = places.state() else {
            run.id = run_id()?;
            return Ok(());
        };
        places.create()?;
        let mut of = format!("{} of namespace {}, as {}", self.of, self.cluster.namespace(), self.spec);
        if let Some(appliance) = &self.options.appliance {
            of.push_str(&format!(", in an {}", appliance.parameters()));
        }
        let (opened, left) = match state::open(&path)? {
            Found::Fresh(opened) => (opened, None),
            Found::Left(opened, left) => (opened, Some(left)),
        };
        let state = match (left, self.options.conversion.resume) {
            (Some(left), ResumePolicy::Resume) if left.of == of => opened.take_up(left)?,
            (Some(left), ResumePolicy::Resume | ResumePolicy::Refuse) => {
                return Err(Error::refused(format!("an unfinished export is here: {}", left.of)).with_hint(
                    "the same command without --no-resume goes on with it, --restart discards it",
                ));
            }
            (Some(left), ResumePolicy::Restart) => {
                let after = self.named_after();
                if let Some(after) = after {
                    // What it left in the cluster is of no use to anybody.
                    let with_snapshot = left.snapshot.is_some();
                    self.uncancelled(self.cluster.remove_run(&after, &left.run, with_snapshot)).await?;
                }
                let mut state = opened.begin(run_id()?, &of)?;
                if let Some(strategy) = &left.stopped {
                    state.remember_stopped(strategy)?;
                }
                state
            }
            (None, _) => opened.begin(run_id()?, &of)?,
        };
        run.id.clone_from(&state.run);
        run.begun = state.is_resumed;
        run.stopped.clone_from(&state.stopped);
        run.state = Some(state);
        Ok(())
    }

    /// Everything but the end; tells what was exported.
    async fn work(&self, places: &Places, run: &mut Run) -> Result<String> {
        let mut prepared = self.uncancelled(self.prepare(run.state.as_ref())).await?;
        let outputs = places.outputs(&prepared.volumes.volumes, self.form())?;
        self.check_outputs(places, run, &prepared, &outputs)?;
        self.uncancelled(demand(&self.cluster, &prepared.rights)).await?;
        if let Means::Through(vm) = prepared.means.clone() {
            self.through_snapshot(&vm, run, &mut prepared).await?;
        }
        if prepared.stop {
            self.stop(run, &prepared).await?;
        }
        run.consistency = Some(prepared.consistency);
        let description = self.uncancelled(self.description(&prepared, run)).await?;
        let session_source = self.session_source(&prepared).await?;
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

    fn check_outputs(
        &self,
        places: &Places,
        run: &Run,
        prepared: &Prepared,
        outputs: &[Target],
    ) -> Result<()> {
        let options = &self.options.conversion;
        let several = outputs.iter().any(|output| Some(output) != outputs.first());
        if options.journal.is_some() && several {
            return Err(Error::usage("--journal names one file, and several volumes are exported")
                .with_hint("leave it out: each volume has a journal beside it"));
        }
        let pending: Vec<Target> = prepared
            .volumes
            .volumes
            .iter()
            .zip(outputs)
            .filter(|(volume, output)| {
                self.done(places, run, volume, output).is_none() && !self.is_ours(run, volume, output)
            })
            .map(|(_, output)| output.clone())
            .collect();
        output::check_free(&pending, options)?;
        if let Some(directory) = places.directory() {
            for name in [DESCRIPTION, RECORD, SUMS] {
                let path = directory.join(name);
                if !options.force && !run.begun && fs::symlink_metadata(&path).is_ok() {
                    return Err(Error::refused(format!("{} exists", path.display()))
                        .with_hint("choose another directory, or say --force to overwrite what is there"));
                }
            }
        }
        Ok(())
    }

    /// The record of a volume that an earlier run completed.
    fn done(
        &self,
        places: &Places,
        run: &Run,
        volume: &PlannedVolume,
        target: &Target,
    ) -> Option<VolumeRecord> {
        let Target::Path(path) = target else { return None };
        let state = run.state.as_ref()?;
        let len = fs::metadata(path).ok()?.len();
        if let Some(record) = state.done.iter().find(|record| record.claim == volume.claim) {
            return (len == record.output_size).then(|| record.clone());
        }
        if !self.is_ours(run, volume, target) {
            return None;
        }
        // The run ended between the last step of the conversion and its own next line.
        let manifest = Manifest::check(&TargetPaths::new(path, None, false).ok()?.manifest).ok()?;
        let verified = self.options.conversion.verify;
        (manifest.tail.output_size == len)
            .then(|| VolumeRecord::of_manifest(volume, shown(places, target), &manifest, verified))
    }

    /// Whether what stands under an output's name is what this run, and no other, has completed there.
    pub(super) fn is_ours(&self, run: &Run, volume: &PlannedVolume, target: &Target) -> bool {
        let (Target::Path(path), Some(state)) = (target, &run.state) else { return false };
        let options = &self.options.conversion;
        // With --force there may have been something before.
        !options.force
            && state.begun.contains(&volume.claim)
            && TargetPaths::new(path, options.journal.as_deref(), false)
                .is_ok_and(|paths| path.exists() && !paths.journal.exists())
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
            if let Some(record) = self.done(places, run, volume, target) {
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
                        force: self.options.conversion.force || self.is_ours(run, volume, target),
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
        let export = self.uncancelled(session.ready()).await?;
        let links = export.status.links.internal.or(export.status.links.external).unwrap_or_default();
        prepared.volumes = std::mem::take(&mut prepared.volumes).joined(&links.volumes)?;
        let http = &self.options.conversion.source.http;
        let choice = self.uncancelled(session.choose(self.options.reach, first, http)).await?;
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
