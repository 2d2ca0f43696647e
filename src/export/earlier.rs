//! What an earlier run left: whether it is taken up, refused or discarded, and what of it serves.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Export, ExportEvent, ExportOf, Packaging, VolumeRecord,
    beside::{DESCRIPTION, RECORD, SUMS},
    output::{self, Form, Places, descriptions, shown},
    prepare::{Means, Prepared},
    run::Run,
    state::{self, Exported, Found, Left, Memory, Opened, RunState},
};
use crate::{
    conversion::{ResumePolicy, Target, paths_of, size_of_output},
    error::{Error, ErrorKind, Result},
    image::{self, ReadOptions},
    kubevirt::{ExportSource, PlannedVolume, Sighting, run_id, types::VirtualMachine},
    pack::PackTarget,
    pipeline::{
        manifest::{ContainerManifest, Manifest},
        progress::Progress,
        target::TargetPaths,
    },
};

impl Export {
    /// Begins the run's state, or takes up what an earlier run left.
    pub(super) async fn open_state(&self, places: &Places, run: &mut Run) -> Result<()> {
        let Some(path) = places.state(&self.options.conversion)? else {
            run.id = run_id()?;
            return Ok(());
        };
        places.create()?;
        let state = match state::open(&path)? {
            Found::Fresh(opened) => opened.begin(run_id()?, self.exported(), &self.manner())?,
            Found::Left(opened, left) if self.goes_on(&path, &left)? => opened.take_up(*left)?,
            Found::Left(opened, left) => self.discard(places, opened, *left).await?,
        };
        run.id.clone_from(&state.run);
        run.begun = state.is_resumed;
        run.stopped.clone_from(&state.memory.stopped);
        run.state = Some(state);
        Ok(())
    }

    /// Whose run it is.
    fn exported(&self) -> Exported {
        let (kind, name) = match &self.of {
            ExportOf::Claim(name) => ("claim", name),
            ExportOf::Existing(name) => ("export", name),
            ExportOf::Snapshot(name) => ("snapshot", name),
            ExportOf::Vm(name) => ("VM", name),
        };
        Exported {
            cluster: self.cluster.url().to_owned(),
            namespace: self.cluster.namespace().to_owned(),
            kind: kind.to_owned(),
            name: name.clone(),
        }
    }

    /// How it is exported: a run that goes on must be told the same.
    fn manner(&self) -> String {
        let mut manner = format!("as {}", self.spec);
        if let Some(appliance) = &self.options.appliance {
            manner.push_str(&format!(", in an {}", appliance.parameters()));
        }
        manner
    }

    /// Whether what is left is taken up; else it is discarded.
    ///
    /// # Errors
    /// Neither may be done.
    pub(super) fn goes_on(&self, path: &Path, left: &Left) -> Result<bool> {
        if left.object != self.exported() {
            let stopped = match &left.memory.stopped {
                Some(strategy) => format!(
                    ", put the VM back, which it had stopped (kubectl patch vm {} -n {} --type merge -p \
                     '{{\"spec\":{strategy}}}')",
                    left.object.name, left.object.namespace
                ),
                None => String::new(),
            };
            return Err(Error::refused(format!(
                "an unfinished export of something else is here: {}",
                left.object
            ))
            .with_hint(format!(
                "choose another output; or give its own command again to finish it; or, to give it up, remove what it \
                 left in its cluster (vmferry gc -n {}){stopped} and then remove {} and what was written beside it",
                left.object.namespace,
                path.display()
            )));
        }
        match self.options.conversion.resume {
            ResumePolicy::Restart => Ok(false),
            ResumePolicy::Resume if left.of == self.manner() => Ok(true),
            ResumePolicy::Resume | ResumePolicy::Refuse => {
                Err(Error::refused(format!("an unfinished export is here: {} {}", left.object, left.of))
                    .with_hint("the same command without --no-resume goes on with it, --restart discards it"))
            }
        }
    }

    /// Throws away what an earlier run left, once nothing stands in the way of a new one.
    async fn discard(&self, places: &Places, opened: Opened, left: Left) -> Result<RunState> {
        let prepared = self.uncancelled(self.prepare(None)).await?;
        let outputs = places.outputs(&prepared.volumes.volumes, self.form())?;
        self.uncancelled(self.check(places, Some(&left.memory), &prepared, &outputs)).await?;
        if let Some(after) = self.named_after() {
            // What it left in the cluster is of no use to anybody.
            let with_snapshot = left.memory.snapshot.is_some();
            self.uncancelled(self.cluster.remove_run(&after, &left.run, with_snapshot)).await?;
        }
        self.remove_outputs(places, &left.memory, &prepared, &outputs)?;
        let vm = prepared.vm.map(VirtualMachine::new).transpose()?;
        let was_started =
            |vm: &VirtualMachine| left.memory.source.as_ref().is_some_and(|source| source.was_started(vm));
        let mut state = opened.begin(run_id()?, self.exported(), &self.manner())?;
        // Somebody who started it since decides himself whether it runs.
        if let Some(strategy) = left.memory.stopped.filter(|_| !vm.as_ref().is_some_and(was_started)) {
            state.remember_stopped(&strategy)?;
        }
        Ok(state)
    }

    /// Removes the outputs that an earlier run completed, which the new one makes again.
    fn remove_outputs(
        &self,
        places: &Places,
        memory: &Memory,
        prepared: &Prepared,
        outputs: &[Target],
    ) -> Result<()> {
        let mut paths = Vec::new();
        for (volume, output) in prepared.volumes.volumes.iter().zip(outputs) {
            if let Target::Path(path) = output
                && self.is_replaceable(memory, volume, output)
            {
                paths.extend([path.clone(), TargetPaths::new(path, None, false)?.manifest]);
            }
        }
        if !memory.begun.is_empty()
            && let Some(directory) = places.directory()
        {
            paths.extend([DESCRIPTION, RECORD, SUMS].map(|name| directory.join(name)));
        }
        if let Form::Appliance(packaging @ Packaging::Ovf, _) = self.form()
            && memory.packed.is_some()
            && let (PackTarget::Directory(directory), base) = places.appliance(packaging)?
        {
            paths.extend(descriptions(&directory, &base));
        }
        output::remove_files(&paths)
    }

    /// Whether what stands under an output's name is what an earlier run wrote there, so that a new one of
    /// the same object may write it again.
    fn is_replaceable(&self, memory: &Memory, volume: &PlannedVolume, target: &Target) -> bool {
        let Target::Path(path) = target else { return false };
        let Ok(len) = fs::symlink_metadata(path).map(|found| found.len()) else { return false };
        let Ok(paths) = TargetPaths::new(path, None, false) else { return false };
        if let Form::Appliance(Packaging::Ova, _) = self.form() {
            return match &memory.packed {
                Some(appliance) => appliance.size == len,
                None => {
                    memory.begun.contains(&volume.claim)
                        && ContainerManifest::check(&paths.manifest)
                            .is_ok_and(|manifest| manifest.tail.output_size == len)
                }
            };
        }
        match memory.done.iter().find(|record| record.claim == volume.claim) {
            Some(record) => record.output_size == len && is_manifest_of(&paths, record),
            None => {
                memory.begun.contains(&volume.claim)
                    && Manifest::check(&paths.manifest).is_ok_and(|manifest| manifest.tail.output_size == len)
            }
        }
    }

    /// Refuses what is in the way of the outputs. `memory` is what an earlier run left, whether it is taken
    /// up or discarded.
    pub(super) async fn check_outputs(
        &self,
        places: &Places,
        memory: Option<&Memory>,
        prepared: &Prepared,
        outputs: &[Target],
    ) -> Result<()> {
        let options = &self.options.conversion;
        let several = outputs.iter().any(|output| Some(output) != outputs.first());
        if options.journal.is_some() && several {
            return Err(Error::usage("--journal names one file, and several volumes are exported")
                .with_hint("leave it out: each volume has a journal beside it"));
        }
        self.refuse_inputs(places, outputs)?;
        let serves = |volume: &PlannedVolume, output: &Target| match options.resume {
            ResumePolicy::Restart => memory.is_some_and(|memory| self.is_replaceable(memory, volume, output)),
            _ => self.done(places, memory, volume, output).is_some() || self.is_ours(memory, volume, output),
        };
        let pending: Vec<Target> = prepared
            .volumes
            .volumes
            .iter()
            .zip(outputs)
            .filter(|(volume, output)| !serves(volume, output))
            .map(|(_, output)| output.clone())
            .collect();
        output::check_free(&pending, options).await?;
        let is_begun = memory.is_some_and(|memory| !memory.begun.is_empty());
        if let Some(directory) = places.directory() {
            for name in [DESCRIPTION, RECORD, SUMS] {
                let path = directory.join(name);
                if !options.force && !is_begun && size_of_output(&path, options).await?.is_some() {
                    return Err(Error::refused(format!("{} exists", path.display()))
                        .with_hint("choose another directory, or say --force to overwrite what is there"));
                }
            }
        }
        Ok(())
    }

    /// The record of a volume that an earlier run completed.
    pub(super) fn done(
        &self,
        places: &Places,
        memory: Option<&Memory>,
        volume: &PlannedVolume,
        target: &Target,
    ) -> Option<VolumeRecord> {
        if let Target::Object(_) = target {
            // Whether it is there is asked by who needs it.
            return memory?.done.iter().find(|record| record.claim == volume.claim).cloned();
        }
        let Target::Path(path) = target else { return None };
        let len = fs::metadata(path).ok()?.len();
        let paths = TargetPaths::new(path, None, false).ok()?;
        if let Some(record) = memory?.done.iter().find(|record| record.claim == volume.claim) {
            return (len == record.output_size && is_manifest_of(&paths, record)).then(|| record.clone());
        }
        if !self.is_ours(memory, volume, target) {
            return None;
        }
        // The run ended between the last step of the conversion and its own next line. Whether it had
        // read the output back is not known.
        let manifest = Manifest::check(&paths.manifest).ok()?;
        (manifest.tail.output_size == len)
            .then(|| VolumeRecord::of_manifest(volume, shown(places, target), &manifest, false))
    }

    /// Whether an object that an earlier run completed is still there.
    pub(super) async fn is_there(&self, target: &Target, record: &VolumeRecord) -> Result<bool> {
        let Target::Object(url) = target else { return Ok(true) };
        let size = self.uncancelled(size_of_output(Path::new(url), &self.options.conversion)).await?;
        Ok(size == Some(record.output_size))
    }

    /// Whether what stands under an output's name is what this run, and no other, has completed there.
    pub(super) fn is_ours(&self, memory: Option<&Memory>, volume: &PlannedVolume, target: &Target) -> bool {
        let Some(memory) = memory else { return false };
        let options = &self.options.conversion;
        if let Target::Object(url) = target {
            // What has its name was not there when the run began it.
            return !options.force
                && memory.begun.contains(&volume.claim)
                && paths_of(Path::new(url), options, false).is_ok_and(|paths| !paths.journal.exists());
        }
        let Target::Path(path) = target else { return false };
        // With --force there may have been something before.
        !options.force
            && memory.begun.contains(&volume.claim)
            && TargetPaths::new(path, options.journal.as_deref(), false)
                .is_ok_and(|paths| path.exists() && !paths.journal.exists())
    }

    /// Reads an output back that an earlier run completed, if it was asked for and not done then.
    ///
    /// # Errors
    /// [`Verification`](ErrorKind::Verification): it does not hold what was written.
    pub(super) async fn verify_earlier(
        &self,
        run: &mut Run,
        volume: &PlannedVolume,
        (number, count): (usize, usize),
        target: &Target,
        record: &mut VolumeRecord,
    ) -> Result<()> {
        let conversion = &self.options.conversion;
        let path = match target {
            Target::Object(url) => Path::new(url),
            Target::Path(path) => path,
            Target::Stdout => return Ok(()),
        };
        if !conversion.verify || record.verified {
            return Ok(());
        }
        let manifest = paths_of(path, conversion, false)?.manifest;
        let has_manifest = self.uncancelled(size_of_output(&manifest, conversion)).await?.is_some();
        let absolute = location_of(path)?;
        let (Some(location), true) = (absolute.to_str(), has_manifest) else {
            run.warnings.push(format!(
                "volume {}: completed by an earlier run without a manifest, so it was not verified",
                volume.name
            ));
            return Ok(());
        };
        let progress = Progress::default();
        let options = ReadOptions {
            workers: conversion.workers,
            memory: conversion.memory,
            progress: progress.clone(),
            cancel: self.cancel.clone(),
            source: conversion.reading_back(),
        };
        (self.listener)(ExportEvent::Begun { number, count, name: volume.name.clone(), progress });
        let verified = image::verify(location, None, &options).await;
        (self.listener)(ExportEvent::Ended);
        let hint = "what an earlier run wrote has changed: begin anew with --restart";
        let report = verified.map_err(|error| error.with_further_hint(hint))?;
        if record.digest.as_ref().is_some_and(|digest| *digest != report.digest.tree.to_string()) {
            return Err(Error::new(
                ErrorKind::Verification,
                format!("{} is not the image that the earlier run wrote", path.display()),
            )
            .with_hint(hint));
        }
        record.verified = true;
        Ok(())
    }

    /// Looks whether the source is what an earlier run took bytes of.
    ///
    /// # Errors
    /// [`SourceChanged`](ErrorKind::SourceChanged) says what has changed.
    pub(super) async fn sighted(
        &self,
        memory: Option<&Memory>,
        source: &ExportSource,
        volumes: &[PlannedVolume],
    ) -> Result<Sighting> {
        let claims: Vec<&str> = volumes.iter().map(|volume| volume.claim.as_str()).collect();
        let now = Sighting::look(&self.cluster, source, &claims, self.options.wait).await?;
        match memory.and_then(Memory::begun_of) {
            Some(earlier) => now.after(earlier),
            None => Ok(now),
        }
    }

    /// The same before anything is made, for a run that goes on.
    pub(super) async fn check_sighted(
        &self,
        memory: Option<&Memory>,
        means: &Means,
        volumes: &[PlannedVolume],
    ) -> Result<()> {
        let Some(memory) = memory.filter(|memory| memory.begun_of().is_some()) else { return Ok(()) };
        let source = match (means, &memory.snapshot) {
            (Means::Direct(source), _) => source.clone(),
            (Means::Through(_), Some(snapshot)) => ExportSource::Snapshot(snapshot.clone()),
            // Nothing that bytes were taken of; what is made cannot be the same.
            (Means::Through(_), None) => return Ok(()),
            (Means::Follow(name), _) => self.cluster.source_of_export(name).await?.0,
        };
        self.sighted(Some(memory), &source, volumes).await.map(|_| ())
    }
}

/// Where an output is, from wherever one looks.
pub(super) fn location_of(output: &Path) -> Result<PathBuf> {
    match Target::at(output) {
        Target::Object(url) => Ok(url.into()),
        _ => std::path::absolute(output).map_err(|error| Error::io("look at", output, error)),
    }
}

/// Whether the manifest, if there is one, is that of the volume that was completed.
fn is_manifest_of(paths: &TargetPaths, record: &VolumeRecord) -> bool {
    let Some(digest) = &record.digest else { return true };
    match Manifest::check(&paths.manifest) {
        Ok(manifest) => manifest.tree.to_string() == *digest,
        // It may have been told not to write one.
        Err(_) => !paths.manifest.exists(),
    }
}
