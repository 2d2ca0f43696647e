//! Whether an appliance is what it says of itself.
//!
//! Its bytes are read in one pass through the pipeline, as if the archive were a RAW disk, into a
//! sink that hashes each file and follows the VMDK streams ([`bodies`]). Then each disk is read once
//! more, as a conversion would read it, in parallel: every cluster must inflate.

mod bodies;
mod certificate;
mod checks;
mod descriptor;
mod kept;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use vmferry_formats::{
    Detected, ErrorKind as FormatErrorKind, Format, WriterSpec,
    ova::{Sum, parse_sums},
};

pub use self::report::{ApplianceCheck, ApplianceReport, CheckKind, CheckOutcome};
use self::{
    bodies::{Bodies, Body, Found, Hash},
    kept::{Expected, Kept},
};
use super::{ReadOptions, engine_options};
use crate::{
    conversion::job::first_cause,
    error::{Error, ErrorKind, FormatContext as _, Result},
    pipeline::{
        Checker,
        converter::{Converter, OpenDisk},
        engine::Engine,
        layout::Layout,
        output::{CommitPolicy, Output, OutputState},
        progress::Phase,
        stages::{DigestStage, Tree},
    },
    source::{
        self, Appliance, ApplianceDisk, ByteStore, FileRole, Obstacle, Opened, RawPlan, Source, SourceOptions,
    },
};

/// Reads a whole appliance and checks its archive, manifest, certificate, descriptor and disks.
/// What is wrong is in the report; it is an error only where the rest cannot be told.
///
/// # Errors
/// It cannot be opened or read, or is refused;
/// [`Verification`](crate::error::ErrorKind::Verification) if the archive or its descriptor is damaged.
pub async fn verify_appliance(location: &str, options: &ReadOptions) -> Result<ApplianceReport> {
    let started = Instant::now();
    let source_options = SourceOptions { memory: Some(options.memory), ..options.source.clone() };
    let opened = source::open_any(location, &source_options).await.map_err(Error::damage_is_verification)?;
    let Opened::Appliance(appliance) = opened else {
        return Err(Error::usage(format!("{location} is not an appliance")));
    };
    options.progress.set_total(Some(work_of(&appliance)));
    options.progress.set_phase(Phase::Verifying);
    let mut checks = Vec::new();
    checks::archive(&appliance, &mut checks);
    checks::descriptor(&appliance, &mut checks);
    let sums = manifest_lines(&appliance, &mut checks);
    let found = read_files(&appliance, sums.as_deref().unwrap_or_default(), &mut checks, options).await?;
    if let Some(sums) = &sums {
        checks::manifest(&appliance, sums, &found, &mut checks);
    }
    certificate::check(&appliance, &mut checks);
    let kept = Kept::find(&appliance, location, options).await?;
    let options = &ReadOptions { memory: options.memory.saturating_sub(kept.memory()), ..options.clone() };
    for disk in appliance.disks() {
        let found = disk.file.as_ref().and_then(|file| found.get(file));
        let expected = kept.of(disk).await?;
        checks.push(check_disk(&appliance, disk, (found, expected), &source_options, options).await?);
    }
    options.progress.set_phase(Phase::Done);
    Ok(ApplianceReport {
        name: appliance.name().to_owned(),
        kind: appliance.kind(),
        checks,
        bytes_read: options.progress.snapshot().read,
        elapsed: started.elapsed(),
    })
}

/// Bytes that will be gone through: those of the files, and those of the disks.
fn work_of(appliance: &Appliance) -> u64 {
    let files = match appliance.archive() {
        Some((store, _, _)) => store.size(),
        None => appliance.files().iter().filter_map(|file| file.size).fold(0, u64::saturating_add),
    };
    let disks = appliance.disks().iter().filter(|disk| disk.obstacle.is_none());
    disks.map(|disk| disk.capacity).fold(files, u64::saturating_add)
}

/// What the manifest says, if there is a valid one.
fn manifest_lines(appliance: &Appliance, checks: &mut Vec<ApplianceCheck>) -> Option<Vec<Sum>> {
    let Some((name, bytes)) = appliance.manifest() else {
        checks.push(ApplianceCheck::new(
            CheckKind::Manifest,
            CheckOutcome::NotChecked,
            None,
            "there is none",
        ));
        return None;
    };
    match parse_sums(bytes) {
        Ok(sums) => Some(sums),
        Err(error) => {
            let text = error.to_string();
            checks.push(ApplianceCheck::new(CheckKind::Manifest, CheckOutcome::Failed, Some(name), text));
            None
        }
    }
}

/// Reads all files in order, each byte once; what was found of each.
async fn read_files(
    appliance: &Appliance,
    sums: &[Sum],
    checks: &mut Vec<ApplianceCheck>,
    options: &ReadOptions,
) -> Result<HashMap<String, Found>> {
    let hash = |name: &str| sums.iter().find(|sum| sum.name == name).and_then(|sum| Hash::new(sum.algorithm));
    let is_disk = |name: &str| appliance.disks().iter().any(|disk| disk.file.as_deref() == Some(name));
    if let Some((store, entries, _)) = appliance.archive() {
        let mut bodies = Vec::new();
        for entry in entries {
            bodies.push(Body::ignored(entry.header..entry.data.start));
            let name = entry.name.as_str();
            bodies.push(Body::new(entry.data.clone(), name, hash(name), is_disk(name)));
        }
        let end = read_through(Arc::clone(store), bodies, options).await?;
        if let Some(at) = end.stray {
            let text = format!("byte {at} belongs to no entry and is not zero");
            checks.push(ApplianceCheck::new(CheckKind::Archive, CheckOutcome::Warned, None, text));
        }
        return Ok(end.found);
    }
    let mut all = HashMap::new();
    for file in appliance.files() {
        let name = file.name.as_str();
        let hash = hash(name);
        // The manifest's own bytes are at hand, and what nobody refers to does not matter.
        if file.size.is_none() || matches!(file.role, FileRole::Manifest | FileRole::Certificate) {
            continue;
        }
        if hash.is_none() && !is_disk(name) {
            continue;
        }
        let store = appliance.store(name).await?;
        let body = Body::new(0..store.size(), name, hash, is_disk(name));
        all.extend(read_through(store, vec![body], options).await?.found);
    }
    Ok(all)
}

/// Sends the bytes of `store` through the pipeline to the bodies that they belong to.
async fn read_through(
    store: Arc<dyn ByteStore>,
    bodies: Vec<Body>,
    options: &ReadOptions,
) -> Result<bodies::End> {
    let (name, size) = (store.name(), store.size());
    let mut source = Source::Random(Box::new(RawPlan::new(store)));
    let writer = WriterSpec::from(Format::Raw).writer(Some(size), "files");
    let writer = writer.context(|| format!("cannot read {name}"))?;
    let engine = Engine::new(&source, Some(&*writer), Checker::new(None), None, engine_options(options))?;
    let end = Arc::new(Mutex::new(None));
    let sink = Box::new(Bodies::new(bodies, Arc::clone(&end)));
    let policy = CommitPolicy { bytes: u64::MAX, interval: Duration::from_secs(3600) };
    let output = Output::start(sink, OutputState::default(), None, policy, options.progress.clone())?;
    let mut converter = Converter::new(Layout::new(None), output);
    let run = async {
        converter.begin_disk(OpenDisk { is_raw: true, ..OpenDisk::default() }, writer).await?;
        let size = engine.run(&mut source, 0, 0, &mut converter).await?;
        converter.end_disk(size).await
    };
    let run = run.await;
    let (_, written) = converter.end(run.is_ok()).await;
    first_cause(run, written)?;
    let end = end.lock().unwrap_or_else(PoisonError::into_inner).take();
    end.ok_or_else(|| Error::failed(format!("{name} was not read to its end")))
}

/// Reads a disk as a conversion would, and holds it against what is known of it.
async fn check_disk(
    appliance: &Appliance,
    disk: &ApplianceDisk,
    (found, expected): (Option<&Found>, Option<Expected>),
    source_options: &SourceOptions,
    options: &ReadOptions,
) -> Result<ApplianceCheck> {
    let subject = format!("{} ({})", disk.number, disk.file.as_deref().unwrap_or(&disk.id));
    let check =
        |outcome, text: String| Ok(ApplianceCheck::new(CheckKind::Disk, outcome, Some(&subject), text));
    match &disk.obstacle {
        Some(Obstacle::Broken(why)) => return check(CheckOutcome::Failed, why.clone()),
        Some(Obstacle::Unsupported(why)) => return check(CheckOutcome::NotChecked, why.clone()),
        None => {}
    }
    if source_options.format.is_none() {
        let detected = appliance.detect(disk).await?;
        if let Some(why) = descriptor::other_format(disk.format.as_deref(), detected) {
            return check(CheckOutcome::Failed, why);
        }
        match detected {
            Detected::Known(what) => {
                return check(CheckOutcome::NotChecked, format!("{what} is not read"));
            }
            Detected::Gzip | Detected::Zstd => {
                return check(CheckOutcome::NotChecked, "a compressed file is not read".into());
            }
            _ => {}
        }
    }
    let opened = match appliance.open_disk(disk, source_options).await {
        Ok(opened) => opened,
        Err(error) => return tell(error).and_then(|text| check(CheckOutcome::Failed, text)),
    };
    let (format, info) = (opened.format, opened.info.clone());
    let mut source = opened.source;
    let virtual_size = source.size();
    let known = expected.as_ref().map_or_else(String::new, |known| format!(", content as in {}", known.name));
    if let Err(error) = read_disk(&mut source, &opened.name, expected, options).await {
        return tell(error).and_then(|text| check(CheckOutcome::Failed, text));
    }
    if let Some(text) = virtual_size.and_then(|size| disk.other_size(size)) {
        return check(CheckOutcome::Failed, text);
    }
    let layout =
        info.as_ref().and_then(|info| descriptor::other_layout(disk.format.as_deref(), &info.variant));
    if let Some(why) = layout {
        return check(CheckOutcome::Failed, why);
    }
    let variant = info.map_or_else(String::new, |info| format!(" ({})", info.variant));
    let text = format!("{format}{variant}, {} bytes{known}", disk.capacity);
    match found.and_then(|found| found.stream.as_ref()) {
        // Other layouts than streams are proven by their tables alone.
        Some(Err(error)) if error.kind() != FormatErrorKind::Unsupported => {
            check(CheckOutcome::Failed, format!("read in order: {error}"))
        }
        _ => check(CheckOutcome::Passed, text),
    }
}

/// Reads a whole disk; its chunks must be those that are expected, if any are.
async fn read_disk(
    source: &mut Source,
    name: &str,
    expected: Option<Expected>,
    options: &ReadOptions,
) -> Result<()> {
    let Some(Expected { algorithm, content, mut stage, .. }) = expected else {
        let engine = Engine::new(source, None, Checker::new(None), None, engine_options(options))?;
        let mut stage = DigestStage { tree: Tree::default(), zero: 0 };
        return engine.run(source, 0, 0, &mut stage).await.map(|_| ());
    };
    let checker = Checker::new(Some(algorithm));
    let engine = Engine::new(source, None, checker, Some(content), engine_options(options))?;
    let size = engine.run(source, 0, 0, &mut stage).await?;
    stage.finish(name, size)
}

/// The text of an error that says that a disk is damaged; others end the run.
fn tell(error: Error) -> Result<String> {
    let mut cause = std::error::Error::source(&error);
    let mut text = error.to_string();
    while let Some(inner) = cause {
        if inner.is::<io::Error>() {
            return Err(error);
        }
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    match error.kind() {
        ErrorKind::Failed | ErrorKind::Refused | ErrorKind::Usage | ErrorKind::Verification => Ok(text),
        _ => Err(error),
    }
}
