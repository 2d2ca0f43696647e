//! One conversion from start to end: [`Conversion`].

mod builder;
mod job;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sha2::Sha256;
use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    Format, FormatWriter, WriterSpec,
    digest::{Algorithm, Digest},
    vmdk::Subformat,
};

pub use self::builder::ConversionBuilder;
use self::job::FileJob;
use crate::{
    error::{Error, ErrorKind, FormatContext as _, Result},
    pipeline::{
        Checker,
        engine::{Engine, EngineOptions},
        journal::{self, Header},
        manifest::MAX_DISK_LEN,
        output::{CommitPolicy, Output, OutputState},
        progress::{Phase, Progress},
        stages::{Converter, Ended, Tree},
        target::{TargetPaths, same_file},
    },
    sink::PipeSink,
    source::{self, Links, OpenedSource, Source, SourceFormat, SourceOptions, Transfer},
};

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
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
    /// Opens it. `from_middle` says that an earlier run is taken up.
    async fn open(&self, options: &SourceOptions, from_middle: bool) -> Result<OpenedSource> {
        match self {
            Self::Location(location) => source::open(location, options).await,
            Self::Links(links, transfer) => {
                source::open_links(Arc::clone(links), *transfer, from_middle, options).await
            }
        }
    }

    /// What people call it, without secrets.
    fn name(&self) -> String {
        match self {
            // A URL may hold some; what was opened has a name without them.
            Self::Location(location) if location.contains("://") => "the source".into(),
            Self::Location(location) => location.clone(),
            Self::Links(links, _) => links.name(),
        }
    }

    /// Whether it is the file at `path`.
    fn is_file(&self, path: &Path) -> bool {
        matches!(self, Self::Location(location) if same_file(Path::new(location), path))
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

/// What to do with a partial output of an earlier run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResumePolicy {
    /// Go on where it ended, if source and parameters are the same.
    #[default]
    Resume,
    /// Refuse to touch it.
    Refuse,
    /// Discard it and start again.
    Restart,
}

/// How a conversion is done; every field has the default of the command line.
#[derive(Clone, Debug)]
pub struct ConversionOptions {
    /// How the source is read.
    pub source: SourceOptions,
    /// Hash function of the digest tree; `None` = no digest and no manifest.
    pub digest: Option<Algorithm>,
    /// Also compute the SHA-256 of a RAW output file in passing (streamOptimized always has one).
    pub flat_sha256: bool,
    /// CPU workers; `None` = the cores this process may use. Lowered to fit `memory`.
    pub workers: Option<usize>,
    /// Resident memory of the process in bytes.
    pub memory: u64,
    /// Read the output back from the disk after the sync and compare digests.
    pub verify: bool,
    /// Report the output file's SHA-256, by reading it again where it was not had in passing.
    pub sums: bool,
    /// Overwrite an existing output; required for block devices.
    pub force: bool,
    /// Write `<output>.vmferry.jsonl`.
    pub manifest: bool,
    /// What to do with a partial output.
    pub resume: ResumePolicy,
    /// Where the journal goes instead of beside the output.
    pub journal: Option<PathBuf>,
    /// Output bytes between two durable points.
    pub checkpoint_bytes: u64,
    /// Time between two durable points.
    pub checkpoint_interval: Duration,
    /// Resume from a source that cannot prove that it is unchanged (block device).
    pub assume_unchanged: bool,
}

impl Default for ConversionOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::default(),
            digest: Some(Algorithm::Sha256),
            flat_sha256: false,
            workers: None,
            memory: 128 << 20,
            verify: false,
            sums: false,
            force: false,
            manifest: true,
            resume: ResumePolicy::Resume,
            journal: None,
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(5),
            assume_unchanged: false,
        }
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
        let opening = self.source.open(&source, self.goes_on()?);
        let opened = Box::pin(self.unless_cancelled(opening)).await?;
        // Boxed: these futures are large, and callers keep them on small stacks.
        let report = match &self.target {
            Target::Path(path) => Box::pin(self.to_path(path.clone(), opened, started)).await,
            Target::Stdout => Box::pin(self.to_pipe(opened, started)).await,
        };
        if report.is_ok() {
            progress.set_phase(Phase::Done);
        }
        report
    }

    /// What cannot be suspended half-way is given up as soon as the user wants to stop.
    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            done = work => done,
        }
    }

    /// Whether an earlier run left something to go on from.
    fn goes_on(&self) -> Result<bool> {
        let options = &self.options;
        let (Target::Path(path), ResumePolicy::Resume) = (&self.target, options.resume) else {
            return Ok(false);
        };
        let paths = TargetPaths::new(path, options.journal.as_deref(), options.force)?;
        Ok(fs::symlink_metadata(&paths.journal).is_ok())
    }

    async fn to_pipe(&self, opened: OpenedSource, started: Instant) -> Result<ConversionReport> {
        let size = size_of(&opened.source);
        let writer = self.writer(size, PIPE_NAME)?;
        if writer.fills_late() {
            return Err(match (&self.spec, size) {
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
        self.progress.set_total(size);
        let mut source = opened.source;
        let engine = self.engine(&source, &*writer)?;
        let hash = self.takes_file_hash(&*writer).then(Sha256::default);
        let state = OutputState { position: 0, sha256: hash };
        let sink = Box::new(PipeSink::new(io::stdout()));
        let output = Output::start(sink, state, None, self.policy(), self.progress.clone())?;
        let tree = Tree::new(self.options.digest, size);
        let mut converter = Converter::new(writer, output, tree, 0, self.is_raw());
        self.progress.set_phase(Phase::Running);
        let run = match converter.begin().await {
            Ok(()) => engine.run(&mut source, 0, 0, &mut converter).await,
            Err(error) => Err(error),
        };
        let size = run.as_ref().ok().copied();
        let (end, ended) = converter.end(size).await;
        let (size, ended) = first_cause(run, ended)?;
        let snapshot = self.progress.snapshot();
        Ok(ConversionReport {
            output: "-".into(),
            format: self.spec.format(),
            source_format: opened.format,
            virtual_size: size,
            bytes_read: snapshot.read,
            bytes_written: snapshot.written,
            output_size: ended.output_size,
            zero_bytes: ended.zero,
            digest: self.tree_digest(ended.tree),
            file_sha256: end.sha256,
            resumed_from: None,
            verified: false,
            manifest: None,
            elapsed: started.elapsed(),
            warnings: Vec::new(),
        })
    }

    async fn to_path(
        &self,
        path: PathBuf,
        opened: OpenedSource,
        started: Instant,
    ) -> Result<ConversionReport> {
        let options = &self.options;
        let paths = TargetPaths::new(&path, options.journal.as_deref(), options.force)?;
        for file in [&path, &paths.partial, &paths.journal, &paths.manifest] {
            if self.source.is_file(file) {
                return Err(Error::refused(format!("{} is the source itself", file.display()))
                    .with_hint("choose another output"));
            }
        }
        if paths.is_device && !matches!(self.spec, WriterSpec::Raw(_) | WriterSpec::Qcow2(_)) {
            return Err(
                Error::refused("a block device takes raw and qcow2 only").with_hint("use -O raw or -O qcow2")
            );
        }
        let with_manifest = options.manifest && options.digest.is_some();
        let size = size_of(&opened.source);
        let writer = self.writer(size, &paths.base_name())?;
        // Before anything is created: an output that is complete already is what the user must hear of.
        if fs::symlink_metadata(&paths.journal).is_err() {
            paths.check_free()?;
        }
        let header = self.header(&opened, &paths, &*writer, size);
        FileJob::new(self, paths, header, with_manifest, started).run(opened, writer).await
    }

    fn writer(&self, size: Option<u64>, name: &str) -> Result<Box<dyn FormatWriter>> {
        if let Some(size) = size.filter(|&size| size > MAX_DISK_LEN) {
            let message = format!("{} has {size} bytes of disk, and 64 TiB are the most", self.source.name());
            return Err(Error::refused(message).with_hint(
                "memory, journal and manifest are laid out for that; split the disk if it is meant",
            ));
        }
        let writer = self.spec.writer(size, name);
        writer.context(|| format!("cannot write {} as {}", self.source.name(), self.spec.format()))
    }

    fn engine(&self, source: &Source, writer: &dyn FormatWriter) -> Result<Engine> {
        Engine::new(source, Some(writer), Checker::new(self.options.digest), None, self.engine_options())
    }

    fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            workers: self.options.workers,
            memory: self.options.memory,
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
        }
    }

    fn header(
        &self,
        opened: &OpenedSource,
        paths: &TargetPaths,
        writer: &dyn FormatWriter,
        size: Option<u64>,
    ) -> Header {
        let identity = match &opened.source {
            Source::Random(plan) => plan.identity(),
            Source::Stream(stream) => stream.identity(),
        };
        Header {
            version: journal::VERSION,
            name: paths.base_name(),
            spec: self.spec.to_string(),
            digest: self.options.digest.map(|algorithm| algorithm.name().into()),
            flat_sha256: self.takes_file_hash(writer),
            source: opened.name.clone(),
            identity,
            size,
            encoder: writer.encoder_identity(),
            device: 0,
            inode: 0,
        }
    }

    /// Whether the output's bytes come in order and their hash is wanted.
    fn takes_file_hash(&self, writer: &dyn FormatWriter) -> bool {
        match &self.spec {
            WriterSpec::Raw(_) => self.options.flat_sha256,
            WriterSpec::Vmdk(_) => {
                !writer.fills_late() && (self.options.digest.is_some() || self.options.flat_sha256)
            }
            _ => false,
        }
    }

    fn policy(&self) -> CommitPolicy {
        CommitPolicy { bytes: self.options.checkpoint_bytes, interval: self.options.checkpoint_interval }
    }

    fn is_raw(&self) -> bool {
        matches!(self.spec, WriterSpec::Raw(_))
    }

    fn tree_digest(&self, tree: Option<Digest>) -> Option<TreeDigest> {
        Some(TreeDigest { algorithm: self.options.digest?, tree: tree? })
    }
}

/// The error that came first: what the source or the codecs said, unless the output had failed
/// under them.
fn first_cause(run: Result<u64>, ended: Result<Ended>) -> Result<(u64, Ended)> {
    match (run, ended) {
        (Ok(size), Ok(ended)) => Ok((size, ended)),
        (Err(error), Ok(_)) => Err(error),
        (_, Err(error)) => Err(error),
    }
}

pub(crate) fn size_of(source: &Source) -> Option<u64> {
    match source {
        Source::Random(plan) => Some(plan.size()),
        Source::Stream(stream) => stream.size(),
    }
}

/// What ids derive from where an output has no name.
const PIPE_NAME: &str = "disk";

/// The digest of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeDigest {
    /// Hash function.
    pub algorithm: Algorithm,
    /// Disk digest.
    pub tree: Digest,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct ConversionReport {
    /// Final path, or `-`.
    pub output: String,
    /// Format written.
    pub format: Format,
    /// Format of the source.
    pub source_format: SourceFormat,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Bytes taken from the source by this run.
    pub bytes_read: u64,
    /// Bytes written to the output by this run.
    pub bytes_written: u64,
    /// Length of the output in bytes, holes included.
    pub output_size: u64,
    /// Guest bytes that are zero and take no space in the output.
    pub zero_bytes: u64,
    /// Digest of the content.
    pub digest: Option<TreeDigest>,
    /// SHA-256 of the output file, if asked for or had in passing.
    pub file_sha256: Option<Digest>,
    /// Guest offset at which this run took up an earlier one.
    pub resumed_from: Option<u64>,
    /// Whether the output was read back and compared.
    pub verified: bool,
    /// The manifest written.
    pub manifest: Option<PathBuf>,
    /// Wall time.
    pub elapsed: Duration,
    /// What the operator should know.
    pub warnings: Vec<String>,
}
