//! Looking at images: [`inspect`], [`map`], [`digest`], [`verify`]; and at whole appliances:
//! [`inspect`] again, [`verify_appliance`].

mod appliance;
mod manifest;
mod map;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{ImageInfo, digest::Algorithm};

use self::manifest::ManifestText;
pub use self::{
    appliance::{ApplianceCheck, ApplianceReport, CheckKind, CheckOutcome, verify_appliance},
    map::{MapEntry, MapKind, map},
};
use crate::{
    conversion::TreeDigest,
    error::{Error, Result},
    pipeline::{
        Checker,
        engine::{Engine, EngineOptions},
        manifest::ManifestReader,
        progress::{Phase, Progress},
        stages::{DigestStage, Tree, VerifyStage},
    },
    source::{self, Appliance, Opened, Source, SourceFormat, SourceOptions},
};

/// What can be said of a source without reading its data.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Path, URL without secrets, or `stdin`.
    pub name: String,
    /// Format.
    pub format: SourceFormat,
    /// Bytes of the guest disk, if known before the end.
    pub virtual_size: Option<u64>,
    /// Length of the file in bytes; `None` for streams.
    pub file_size: Option<u64>,
    /// Bytes that the file takes on its disk, where that can be asked.
    pub allocated: Option<u64>,
    /// What an image says of itself; `None` for RAW and streams.
    pub info: Option<ImageInfo>,
    /// What is odd about it.
    pub warnings: Vec<String>,
}

/// What was looked at.
#[derive(Debug)]
pub enum Inspected {
    /// An OVA or OVF, of which no disk was chosen.
    Appliance(Box<Appliance>),
    /// A disk.
    Disk(Inspection),
}

/// Looks at a source.
///
/// # Errors
/// It cannot be opened, or is refused.
pub async fn inspect(location: &str, options: &SourceOptions) -> Result<Inspected> {
    let opened = if options.disk.is_some() {
        source::open(location, options).await?
    } else {
        match source::open_any(location, options).await? {
            Opened::Appliance(appliance) => return Ok(Inspected::Appliance(appliance)),
            Opened::Disk(opened) => opened,
        }
    };
    let (file_size, allocated) = match &opened.source {
        Source::Random(plan) => {
            let lens = plan.stores().iter().map(|store| store.size()).sum();
            (Some(lens), plan.stores().iter().map(|store| store.allocated()).sum())
        }
        Source::Stream(_) => (None, None),
    };
    Ok(Inspected::Disk(Inspection {
        virtual_size: opened.source.size(),
        name: opened.name,
        format: opened.format,
        file_size,
        allocated,
        info: opened.info,
        warnings: opened.warnings,
    }))
}

/// How [`digest`] and [`verify`] read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// How the source is read.
    pub source: SourceOptions,
    /// CPU workers; `None` = the cores this process may use.
    pub workers: Option<usize>,
    /// Resident memory of the process in bytes.
    pub memory: u64,
    /// Counters to update.
    pub progress: Progress,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::default(),
            workers: None,
            memory: 128 << 20,
            progress: Progress::default(),
            cancel: CancellationToken::new(),
        }
    }
}

/// The digest of a source's content.
#[derive(Clone, Debug)]
pub struct DigestReport {
    /// Path, URL without secrets, or `stdin`.
    pub name: String,
    /// Format.
    pub format: SourceFormat,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Guest bytes that are zero.
    pub zero_bytes: u64,
    /// Bytes taken from the source.
    pub bytes_read: u64,
    /// The digest.
    pub digest: TreeDigest,
    /// Wall time.
    pub elapsed: Duration,
}

/// Digests the content of a source.
///
/// # Errors
/// It cannot be read to its end.
pub async fn digest(location: &str, algorithm: Algorithm, options: &ReadOptions) -> Result<DigestReport> {
    let started = Instant::now();
    let source_options = SourceOptions { memory: Some(options.memory), ..options.source.clone() };
    let mut opened = source::open(location, &source_options).await?;
    let size = opened.source.size();
    options.progress.set_total(size);
    options.progress.set_phase(Phase::Running);
    let engine =
        Engine::new(&opened.source, None, Checker::new(Some(algorithm)), None, engine_options(options))?;
    let mut stage = DigestStage { tree: Tree::new(Some(algorithm), size), zero: 0 };
    let size = engine.run(&mut opened.source, 0, 0, &mut stage).await?;
    options.progress.set_phase(Phase::Done);
    let tree = stage.tree.finish(size).ok_or_else(|| Error::failed("there is no digest"))?;
    Ok(DigestReport {
        name: opened.name,
        format: opened.format,
        virtual_size: size,
        zero_bytes: stage.zero,
        bytes_read: options.progress.snapshot().read,
        digest: TreeDigest { algorithm, tree },
        elapsed: started.elapsed(),
    })
}

fn engine_options(options: &ReadOptions) -> EngineOptions {
    EngineOptions {
        workers: options.workers,
        memory: options.memory,
        progress: options.progress.clone(),
        cancel: options.cancel.clone(),
    }
}

/// What [`verify`] proved.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// Path or URL.
    pub name: String,
    /// Manifest that it was held against.
    pub manifest: PathBuf,
    /// Format.
    pub format: SourceFormat,
    /// Bytes of content compared.
    pub content_size: u64,
    /// The digest that both have.
    pub digest: TreeDigest,
    /// Wall time.
    pub elapsed: Duration,
}

/// Reads a whole image and compares its content with a manifest (`<image>.vmferry.jsonl` unless
/// `manifest` names another), chunk by chunk.
///
/// # Errors
/// [`Verification`](crate::error::ErrorKind::Verification) names the first chunks that differ.
pub async fn verify(
    location: &str,
    manifest: Option<PathBuf>,
    options: &ReadOptions,
) -> Result<VerifyReport> {
    compare(location, manifest, options).await.map_err(Error::damage_is_verification)
}

async fn compare(location: &str, manifest: Option<PathBuf>, options: &ReadOptions) -> Result<VerifyReport> {
    let started = Instant::now();
    let is_beside = manifest.is_none();
    let text = ManifestText::of(location, manifest, options).await?;
    let manifest = text.check().await?;
    let mut source_options = SourceOptions { memory: Some(options.memory), ..options.source.clone() };
    if source_options.format.is_none() && is_beside {
        // What was written there is known; a disk may begin like an image of another format.
        source_options.format = manifest.head.format.parse().ok().map(SourceFormat::Image);
    }
    let mut opened = source::open(location, &source_options).await?;
    let content = manifest.head.content_size;
    options.progress.set_total(opened.source.size());
    options.progress.set_phase(Phase::Verifying);
    let checker = Checker::new(Some(manifest.algorithm));
    let engine_options =
        EngineOptions { memory: options.memory.saturating_sub(text.memory()), ..engine_options(options) };
    let engine = Engine::new(&opened.source, None, checker, Some(content), engine_options)?;
    let mut stage = VerifyStage::new(Box::new(ManifestReader::new(text.reader()?)?), content);
    let size = engine.run(&mut opened.source, 0, 0, &mut stage).await?;
    stage.finish(&opened.name, size)?;
    options.progress.set_phase(Phase::Done);
    Ok(VerifyReport {
        name: opened.name,
        manifest: text.name(),
        format: opened.format,
        content_size: content,
        digest: TreeDigest { algorithm: manifest.algorithm, tree: manifest.tree },
        elapsed: started.elapsed(),
    })
}
