//! One conversion from start to end: [`Conversion`].

mod builder;
pub(crate) mod job;
#[cfg(feature = "cloud")]
pub(crate) mod object;
mod options;
mod place;
mod report;
mod small;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{FormatWriter, WriterSpec, vmdk::Subformat};

use self::job::{Done, Job, JobDisk, Means, first_cause};
pub use self::{
    builder::ConversionBuilder,
    options::{ConversionOptions, ResumePolicy},
    place::is_object_url,
    report::{ConversionReport, TreeDigest},
};
#[cfg(feature = "cloud")]
pub use self::{object::UploadPlan, options::ObjectOptions};
pub(crate) use self::{
    place::{
        check_output_free, files_of, paths_of, refuse_inputs, refuse_parts, refuse_sources, remove_output,
        size_of_output, worst_len, write_beside,
    },
    report::tree_digest,
    small::{Readers, partial_of},
};
use crate::{
    error::{Error, Result},
    pipeline::{
        converter::{Converter, OpenDisk},
        hash::FileHash,
        journal::{self, DiskEnd, DiskHeader, Header},
        layout::Layout,
        output::{Output, OutputState},
        progress::{Phase, Progress, Snapshot},
        stages::Tree,
        target::{TargetPaths, same_file},
    },
    sink::PipeSink,
    source::{self, Kind, Links, OpenedSource, SourceFormat, SourceOptions, Transfer},
};

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An object, by its URL: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`.
    Object(String),
    /// A file (or, with `force`, a block device).
    Path(PathBuf),
    /// Standard output: RAW and streamOptimized VMDK only.
    Stdout,
}

/// What is converted.
#[derive(Clone, Debug)]
pub enum ConversionSource {
    /// A path, an `http(s)://` URL, or `-` for stdin.
    Location(String),
    /// A disk whose links may change while it is read.
    Links(Arc<dyn Links>, Transfer),
}

impl From<String> for ConversionSource {
    fn from(location: String) -> Self {
        Self::Location(location)
    }
}

impl From<&str> for ConversionSource {
    fn from(location: &str) -> Self {
        Self::Location(location.to_owned())
    }
}

impl ConversionSource {
    /// Bytes of the guest disk, as the source tells them before it is read: `None` if only its end does.
    /// Standard input is left alone; what `options` say of it counts.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn size(&self, options: &SourceOptions) -> Result<Option<u64>> {
        if matches!(self, Self::Location(location) if location == "-") {
            return Ok(options.size);
        }
        // As if in the middle: what links are taken does not matter.
        self.open(options, true).await.map(|opened| opened.source.size())
    }

    /// Opens it. `from_middle` says that an earlier run is taken up.
    pub(crate) async fn open(&self, options: &SourceOptions, from_middle: bool) -> Result<OpenedSource> {
        match self {
            Self::Location(location) => source::open(location, options).await,
            Self::Links(links, transfer) => {
                source::open_links(Arc::clone(links), *transfer, from_middle, options).await
            }
        }
    }

    /// What people call it, without secrets.
    pub(crate) fn name(&self) -> String {
        match self {
            // A URL may hold some; what was opened has a name without them.
            Self::Location(location) if location.contains("://") => "the source".into(),
            Self::Location(location) => location.clone(),
            Self::Links(links, _) => links.name(),
        }
    }

    /// Whether it is what `location` names.
    fn is_location(&self, location: &str) -> bool {
        matches!(self, Self::Location(own) if own == location)
    }

    /// Whether it is the file at `path`.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        matches!(self, Self::Location(location) if matches!(Kind::of(location), Ok(Kind::Path(source)) if same_file(&source, path)))
    }
}

impl Target {
    /// A path, or an object if that is what it looks like.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        match path.to_str() {
            Some(url) if is_object_url(url) => Self::Object(url.to_owned()),
            _ => Self::Path(path),
        }
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&str> for Target {
    /// A path; unlike on the command line, `-` is one too.
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

/// A conversion, set up but not begun.
///
/// ```
/// use vmferry::Conversion;
///
/// # let directory = tempfile::tempdir()?;
/// # let (disk, image) = (directory.path().join("disk.raw"), directory.path().join("disk.qcow2"));
/// # std::fs::write(&disk, vec![7; 1 << 20])?;
/// # let disk = disk.to_str().expect("a UTF-8 path");
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let report = Conversion::builder(disk, image.as_path()).verify(true).build()?.run().await?;
/// assert_eq!(report.virtual_size, 1 << 20);
/// assert!(report.verified && report.digest.is_some());
/// # Ok::<(), vmferry::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Conversion {
    pub(crate) source: ConversionSource,
    pub(crate) target: Target,
    pub(crate) spec: WriterSpec,
    pub(crate) options: ConversionOptions,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancellationToken,
    /// What the source was when somebody looked at it before.
    pub(crate) expected: Option<DiskHeader>,
}

impl Conversion {
    /// Sets up a conversion from `source` (a path, an `http(s)://` URL, `-` for stdin, or links) to
    /// `target`.
    pub fn builder(source: impl Into<ConversionSource>, target: impl Into<Target>) -> ConversionBuilder {
        ConversionBuilder::new(source.into(), target.into())
    }

    /// A handle that tells how far the conversion is; it may be polled from anywhere.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Cancelling this token ends the run with a resumable partial.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// How the output would be uploaded; `None` if it does not become an object. The source is looked
    /// at, and nothing is made.
    ///
    /// # Errors
    /// The source cannot be opened, or the output cannot be such an object.
    #[cfg(feature = "cloud")]
    pub async fn plan_upload(&self) -> Result<Option<UploadPlan>> {
        let Target::Object(url) = &self.target else { return Ok(None) };
        let size = self.means().unless_cancelled(self.source.size(&self.options.source)).await?;
        UploadPlan::new(url, size, &self.options).map(Some)
    }

    /// Runs it.
    ///
    /// # Errors
    /// Whatever goes wrong; the partial output is kept where it can be resumed, and the hint says how.
    pub async fn run(self) -> Result<ConversionReport> {
        let started = Instant::now();
        let progress = self.progress.clone();
        progress.set_phase(Phase::Preparing);
        let memory = Some(self.options.memory);
        let source = SourceOptions { memory, ..self.options.source.clone() };
        #[cfg(feature = "cloud")]
        if let Target::Object(url) = &self.target {
            Box::pin(self.means().unless_cancelled(object::fetch_journal(url, &self.options))).await?;
        }
        let opening = self.source.open(&source, self.goes_on()?);
        let opened = Box::pin(self.means().unless_cancelled(opening)).await?;
        // Boxed: these futures are large, and callers keep them on small stacks.
        let report = match &self.target {
            Target::Object(url) => Box::pin(self.to_object(url, opened, source, started)).await,
            Target::Path(path) => Box::pin(self.to_path(path.clone(), opened, source, started)).await,
            Target::Stdout => Box::pin(self.to_pipe(opened, source, started)).await,
        };
        if report.is_ok() {
            progress.set_phase(Phase::Done);
        }
        report
    }

    /// The same, of a source that must still be what it was.
    pub(crate) fn expecting(self, expected: DiskHeader) -> Self {
        Self { expected: Some(expected), ..self }
    }

    fn means(&self) -> Means<'_> {
        Means { options: &self.options, progress: &self.progress, cancel: &self.cancel }
    }

    /// Whether an earlier run left something to go on from.
    fn goes_on(&self) -> Result<bool> {
        let options = &self.options;
        let paths = match (&self.target, options.resume) {
            (Target::Path(path), ResumePolicy::Resume) => {
                TargetPaths::new(path, options.journal.as_deref(), options.force)?
            }
            #[cfg(feature = "cloud")]
            (Target::Object(url), ResumePolicy::Resume) => object::paths(url, options)?,
            _ => return Ok(false),
        };
        Ok(fs::symlink_metadata(&paths.journal).is_ok())
    }

    async fn to_pipe(
        &self,
        opened: OpenedSource,
        options: SourceOptions,
        started: Instant,
    ) -> Result<ConversionReport> {
        let source_format = opened.format;
        let mut disk = JobDisk::new(&self.source, options, self.spec.clone(), PIPE_NAME.into(), opened);
        let writer = disk.writer()?;
        if writer.fills_late() {
            return Err(match (&self.spec, disk.header.size) {
                (WriterSpec::Vmdk(options), None) if options.subformat == Subformat::StreamOptimized => {
                    Error::refused("a VMDK begins with its capacity, and the size of the source is not known")
                        .with_hint("state it with --source-size, or write to a file")
                }
                _ => Error::refused(format!(
                    "{} cannot be written to a pipe: its tables come late",
                    self.spec.format()
                ))
                .with_hint("a pipe takes raw and vmdk (streamOptimized); or name a file"),
            });
        }
        let (means, size) = (self.means(), disk.header.size);
        self.progress.set_total(size);
        let mut source = disk.open(false).await?;
        let engine = means.engine(&source, Some(&*writer))?;
        let open = OpenDisk {
            tree: Tree::new(self.options.digest, size),
            is_raw: matches!(self.spec, WriterSpec::Raw(_)),
            hash: self.file_hash(&*writer),
            ..OpenDisk::default()
        };
        let sink = Box::new(PipeSink::new(io::stdout()));
        let output =
            Output::start(sink, OutputState::default(), None, means.policy(), self.progress.clone())?;
        let mut converter = Converter::new(Layout::new(None), output);
        self.progress.set_phase(Phase::Running);
        let run = async {
            converter.begin_disk(open, writer).await?;
            let size = engine.run(&mut source, 0, 0, &mut converter).await?;
            converter.end_disk(size).await
        };
        let run = run.await;
        let (_, written) = converter.end(run.is_ok()).await;
        let (end, _) = first_cause(run, written)?;
        let report = self.report("-".into(), source_format, &end, self.progress.snapshot(), started);
        Ok(ConversionReport { verified: false, warnings: disk.warnings, ..report })
    }

    async fn to_path(
        &self,
        path: PathBuf,
        opened: OpenedSource,
        source: SourceOptions,
        started: Instant,
    ) -> Result<ConversionReport> {
        let options = &self.options;
        let paths = TargetPaths::new(&path, options.journal.as_deref(), options.force)?;
        if paths.is_device && !matches!(self.spec, WriterSpec::Raw(_) | WriterSpec::Qcow2(_)) {
            return Err(
                Error::refused("a block device takes raw and qcow2 only").with_hint("use -O raw or -O qcow2")
            );
        }
        let (job, format) = self.job(paths, opened, source)?;
        // Before anything is created: an output that is complete already is what the user must hear of.
        if fs::symlink_metadata(&job.paths.journal).is_err() {
            job.paths.check_free()?;
        }
        Box::pin(self.finish(job, format, started)).await
    }

    #[cfg(not(feature = "cloud"))]
    async fn to_object(
        &self,
        url: &str,
        _: OpenedSource,
        _: SourceOptions,
        _: Instant,
    ) -> Result<ConversionReport> {
        Err(Error::usage(format!("cannot write {url}: this program was built without object stores")))
    }

    #[cfg(feature = "cloud")]
    async fn to_object(
        &self,
        url: &str,
        opened: OpenedSource,
        source: SourceOptions,
        started: Instant,
    ) -> Result<ConversionReport> {
        let worst = opened.source.size().map(worst_len);
        let place = object::ObjectPlace::open(url, &self.options, worst).await?;
        let (mut job, format) = self.job(object::paths(url, &self.options)?, opened, source)?;
        if fs::symlink_metadata(&job.paths.journal).is_err() {
            self.means().unless_cancelled(place.check_free()).await?;
        }
        job.object = Some(place);
        Box::pin(self.finish(job, format, started)).await
    }

    /// The job of writing the one disk into `paths`, and the format of its source.
    fn job(
        &self,
        paths: TargetPaths,
        opened: OpenedSource,
        source: SourceOptions,
    ) -> Result<(Job<'_>, SourceFormat)> {
        let options = &self.options;
        refuse_sources(&paths, [&self.source])?;
        let mut disk = JobDisk::new(&self.source, source, self.spec.clone(), paths.base_name(), opened);
        if let Some(expected) = &self.expected {
            disk.check_unchanged(expected)?;
        }
        refuse_parts(&paths, &disk.header.identity)?;
        let writer = disk.writer()?;
        disk.hash = self.file_hash(&*writer);
        let format = disk.format;
        let header = Header {
            version: if paths.is_object { journal::OBJECT_VERSION } else { journal::VERSION },
            name: paths.base_name(),
            spec: self.spec.to_string(),
            digest: options.digest.map(|algorithm| algorithm.name().into()),
            flat_sha256: disk.hash.is_some(),
            disks: vec![disk.header.clone()],
            container: None,
            object: None,
            encoder: writer.encoder_identity(),
            device: 0,
            inode: 0,
        };
        let job = Job {
            means: self.means(),
            paths,
            #[cfg(feature = "cloud")]
            object: None,
            header,
            disks: vec![disk],
            container: None,
            listener: None,
            warnings: Vec::new(),
        };
        Ok((job, format))
    }

    async fn finish(
        &self,
        job: Job<'_>,
        source_format: SourceFormat,
        started: Instant,
    ) -> Result<ConversionReport> {
        let output = job.paths.output.display().to_string();
        let Done { disks, closed, moved, resumed_from, manifest, warnings } = Box::pin(job.run()).await?;
        let end = disks.first().ok_or_else(|| Error::failed("a run ended without its disk"))?;
        let report = self.report(output, source_format, end, moved, started);
        let file_sha256 = closed.file_sha256.as_ref().and_then(|hash| hash.parse().ok());
        let resumed_from = resumed_from.map(|(_, at)| at);
        Ok(ConversionReport { file_sha256, resumed_from, manifest, warnings, ..report })
    }

    /// The hash of the output that is taken in passing: if its bytes come in order and it is wanted.
    fn file_hash(&self, writer: &dyn FormatWriter) -> Option<FileHash> {
        let wanted = match &self.spec {
            WriterSpec::Raw(_) => self.options.flat_sha256,
            WriterSpec::Vmdk(_) => {
                !writer.fills_late() && (self.options.digest.is_some() || self.options.flat_sha256)
            }
            _ => false,
        };
        wanted.then_some(FileHash::Sha256)
    }

    fn report(
        &self,
        output: String,
        source_format: SourceFormat,
        end: &DiskEnd,
        moved: Snapshot,
        started: Instant,
    ) -> ConversionReport {
        ConversionReport {
            output,
            format: self.spec.format(),
            source_format,
            virtual_size: end.size,
            bytes_read: moved.read,
            bytes_written: moved.written,
            output_size: end.out,
            zero_bytes: end.zero,
            digest: tree_digest(self.options.digest, end),
            file_sha256: end.hash.as_ref().and_then(|hash| hash.parse().ok()),
            resumed_from: None,
            verified: self.options.verify,
            manifest: None,
            elapsed: started.elapsed(),
            warnings: Vec::new(),
        }
    }
}

/// What ids derive from where an output has no name.
const PIPE_NAME: &str = "disk";
