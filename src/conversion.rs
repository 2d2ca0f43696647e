//! One conversion from start to end: [`Conversion`].

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256, digest::common::hazmat::SerializableState as _};
use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    Format, FormatWriter, WriterSpec,
    digest::{Algorithm, Digest},
    vmdk::Subformat,
};

use crate::{
    error::{Error, ErrorKind, FormatContext as _, Result},
    pipeline::{
        Checker,
        engine::{Engine, EngineOptions},
        journal::{self, Closed, Header, Journal, Record, Summary},
        output::{CommitPolicy, Output, OutputState},
        progress::{Phase, Progress},
        resume::{self, Guard},
        stages::{Comparison, Converter, Ended, Tree, VerifyStage, replay},
        target::{TargetPaths, manifest_head, same_file},
    },
    sink::{BlockSink, FileSink, PipeSink, Sink},
    source::{self, OpenedSource, Restart, Source, SourceFormat, SourceOptions},
};

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file (or, with `force`, a block device).
    Path(PathBuf),
    /// Standard output: RAW and streamOptimized VMDK only.
    Stdout,
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
#[derive(Debug)]
pub struct Conversion {
    pub(crate) source: String,
    pub(crate) target: Target,
    pub(crate) spec: WriterSpec,
    pub(crate) options: ConversionOptions,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancellationToken,
}

impl Conversion {
    /// From `source` (a path, an `http(s)://` URL, or `-` for stdin) to `target`, written as `spec`.
    pub fn new(
        source: impl Into<String>,
        target: Target,
        spec: WriterSpec,
        options: ConversionOptions,
    ) -> Self {
        Self {
            source: source.into(),
            target,
            spec,
            options,
            progress: Progress::default(),
            cancel: CancellationToken::new(),
        }
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
        let opened = source::open(&self.source, &self.options.source).await?;
        let report = match &self.target {
            Target::Path(path) => self.to_path(path.clone(), opened, started).await,
            Target::Stdout => self.to_pipe(opened, started).await,
        };
        if report.is_ok() {
            progress.set_phase(Phase::Done);
        }
        report
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
        if same_file(Path::new(&self.source), &path) {
            return Err(Error::refused(format!("{} is the source itself", path.display()))
                .with_hint("choose another output"));
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
            paths.check_free(with_manifest)?;
        }
        let header = self.header(&opened, &paths, &*writer, size);
        let mut job =
            FileJob { conversion: self, paths, header, with_manifest, warnings: Vec::new(), started };
        let journal = Journal::open(&job.paths.journal)?;
        let start = match job.start(journal, &opened.source, writer)? {
            Start::Complete(report) => return Ok(*report),
            Start::Run(start) => start,
        };
        job.run(opened, *start, size).await
    }

    fn writer(&self, size: Option<u64>, name: &str) -> Result<Box<dyn FormatWriter>> {
        let writer = self.spec.writer(size, name);
        writer.context(|| format!("cannot write {} as {}", self.source_name(), self.spec.format()))
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

    fn source_name(&self) -> &str {
        // A URL may hold secrets; what was opened has a name without them.
        if self.source.contains("://") { "the source" } else { &self.source }
    }

    fn tree_digest(&self, tree: Option<Digest>) -> Option<TreeDigest> {
        Some(TreeDigest { algorithm: self.options.digest?, tree: tree? })
    }
}

/// A conversion into a file or a device, with its journal.
struct FileJob<'a> {
    conversion: &'a Conversion,
    paths: TargetPaths,
    header: Header,
    with_manifest: bool,
    warnings: Vec<String>,
    started: Instant,
}

enum Start {
    /// An earlier run had written everything; the last steps are done now.
    Complete(Box<ConversionReport>),
    Run(Box<Begin>),
}

/// Where a run begins.
struct Begin {
    writer: Box<dyn FormatWriter>,
    journal: Journal,
    sink: Box<dyn Sink>,
    tree: Tree,
    state: OutputState,
    zero: u64,
    /// Guest offset, and what proves that the source is the same, if an earlier run is taken up.
    resumed: Option<(u64, Guard)>,
}

impl FileJob<'_> {
    /// Looks at what an earlier run left and sets the output up.
    fn start(
        &mut self,
        mut journal: Journal,
        source: &Source,
        writer: Box<dyn FormatWriter>,
    ) -> Result<Start> {
        let options = &self.conversion.options;
        let summary = journal.summary()?;
        let is_empty = summary.is_none();
        let fresh = match (summary, options.resume) {
            (None, _) | (_, ResumePolicy::Restart) => true,
            (Some(_), ResumePolicy::Refuse) => {
                return Err(Error::refused(format!(
                    "{} is a partial output of an earlier run",
                    self.paths.partial.display()
                ))
                .with_hint("without --no-resume it is taken up, with --restart it is discarded"));
            }
            (Some(summary), ResumePolicy::Resume) => {
                if let Some(reason) = &summary.tainted {
                    return Err(Error::new(
                        ErrorKind::SourceChanged,
                        format!("the interrupted run cannot be taken up: {reason}"),
                    )
                    .with_hint("start again with --restart"));
                }
                if matches!(source, Source::Stream(stream) if stream.restart() == Restart::Never) {
                    return Err(Error::refused(format!(
                        "{} cannot be read again from its start",
                        self.header.source
                    ))
                    .with_hint("give the whole stream again and say --restart"));
                }
                resume::check_header(&summary.header, &self.header, options.assume_unchanged)?;
                if let Some(closed) = &summary.closed {
                    return self
                        .complete_earlier(journal, closed)
                        .map(|report| Start::Complete(Box::new(report)));
                }
                if summary.checkpoint.is_some() {
                    return self.take_up(journal, &summary, writer).map(|begin| Start::Run(Box::new(begin)));
                }
                true
            }
        };
        debug_assert!(fresh, "everything else has returned");
        self.begin_fresh(journal, is_empty, writer).map(|begin| Start::Run(Box::new(begin)))
    }

    fn begin_fresh(
        &mut self,
        mut journal: Journal,
        is_empty: bool,
        writer: Box<dyn FormatWriter>,
    ) -> Result<Begin> {
        let paths = &self.paths;
        let created = paths.check_free(self.with_manifest).and_then(|()| {
            if !is_empty || self.conversion.options.resume == ResumePolicy::Restart {
                paths.discard()?;
            }
            paths.create()
        });
        let file = match created {
            Ok(file) => file,
            Err(error) => {
                // Nothing was begun: leave nothing behind either.
                if is_empty {
                    journal.remove()?;
                }
                return Err(error);
            }
        };
        let found = file.metadata().map_err(|error| Error::io("look at", &paths.partial, error))?;
        (self.header.device, self.header.inode) = (found.dev(), found.ino());
        journal.truncate(0)?;
        journal.append([Record::Header(Box::new(self.header.clone()))])?;
        paths.sync_directory()?;
        let sink: Box<dyn Sink> = if paths.is_device {
            Box::new(BlockSink::new(file, &paths.partial, 0)?)
        } else {
            Box::new(FileSink::new(file, &paths.partial, 0)?)
        };
        Ok(Begin {
            writer,
            journal,
            sink,
            tree: Tree::new(self.conversion.options.digest, self.header.size),
            state: OutputState { position: 0, sha256: self.header.flat_sha256.then(Sha256::default) },
            zero: 0,
            resumed: None,
        })
    }

    /// Goes on behind the last checkpoint.
    fn take_up(
        &mut self,
        mut journal: Journal,
        summary: &Summary,
        mut writer: Box<dyn FormatWriter>,
    ) -> Result<Begin> {
        let point = summary.checkpoint.clone().ok_or_else(|| Error::failed("there is no durable point"))?;
        let file = self.paths.reopen()?;
        resume::check_partial(summary, &file, &self.paths)?;
        let mut tree = Tree::new(self.conversion.options.digest, self.header.size);
        let (mut slots, mut considered) = (Vec::new(), Ok(()));
        let mut guard = Guard::new(point.tail_crc);
        replay(
            &mut *writer,
            &mut tree,
            &mut journal.reader()?,
            point.at,
            |slot, start, len| slots.push((slot, start, len)),
            |record| {
                considered = std::mem::replace(&mut considered, Ok(())).and_then(|()| guard.consider(record))
            },
        )?;
        considered?;
        if writer.encoder_identity() != summary.header.encoder {
            self.warnings.push(format!(
                "the interrupted run encoded with {}, this one with {}: the image is right, but its bytes differ from those of an undisturbed run",
                summary.header.encoder,
                writer.encoder_identity()
            ));
        }
        let sha256 = match (&point.sha256, self.header.flat_sha256) {
            (Some(state), true) => Some(restore_hash(state)?),
            (None, true) => {
                return Err(Error::failed("the journal is damaged: it lacks the state of the file's hash")
                    .with_hint("start again with --restart"));
            }
            (_, false) => None,
        };
        let sink: Box<dyn Sink> = if self.paths.is_device {
            let mut sink = BlockSink::new(file, &self.paths.partial, point.out)?;
            slots.into_iter().for_each(|(slot, start, len)| sink.restore_slot(slot, start, len));
            Box::new(sink)
        } else {
            let mut sink = FileSink::new(file, &self.paths.partial, point.out)?;
            slots.into_iter().for_each(|(slot, start, len)| sink.restore_slot(slot, start, len));
            Box::new(sink)
        };
        journal.truncate(summary.valid_len)?;
        (self.header.device, self.header.inode) = (summary.header.device, summary.header.inode);
        tracing::info!(guest_offset = point.at, output_offset = point.out, "taking up an interrupted run");
        Ok(Begin {
            writer,
            journal,
            sink,
            tree,
            state: OutputState { position: point.out, sha256 },
            zero: point.zero,
            resumed: Some((point.at, guard)),
        })
    }

    async fn run(
        mut self,
        opened: OpenedSource,
        begin: Begin,
        size: Option<u64>,
    ) -> Result<ConversionReport> {
        let conversion = self.conversion;
        let progress = &conversion.progress;
        let Begin { writer, journal, sink, tree, state, zero, resumed } = begin;
        let mut source = opened.source;
        progress.set_total(size);
        let engine = conversion.engine(&source, &*writer)?;
        let mut from = 0;
        let mut earlier = None;
        if let Some((at, guard)) = resumed {
            if let Err(error) = guard.check(&engine, &mut source).await {
                return Err(self.taint(journal, error));
            }
            from = at;
            if matches!(source, Source::Stream(_)) {
                earlier = Some(Comparison::new(Box::new(journal.reader()?)));
            } else {
                progress.restart_at(at, zero);
            }
        }
        let resumed_from = (from > 0 || earlier.is_some()).then_some(from);
        let output = Output::start(sink, state, Some(journal), conversion.policy(), progress.clone())?;
        let mut converter = Converter::new(writer, output, tree, zero, conversion.is_raw());
        progress.set_phase(Phase::Running);
        let begun = match (resumed_from, earlier) {
            (None, _) => converter.begin().await,
            (Some(at), Some(comparison)) => {
                converter.skip_earlier(at, comparison);
                Ok(())
            }
            (Some(_), None) => Ok(()),
        };
        let run = match begun {
            Ok(()) => engine.run(&mut source, from, from, &mut converter).await,
            Err(error) => Err(error),
        };
        let size = run.as_ref().ok().copied();
        if size.is_some() {
            progress.set_phase(Phase::Syncing);
        }
        let (end, ended) = converter.end(size).await;
        let (Some(journal), Some(sync)) = (end.journal, end.sync) else {
            return Err(Error::failed("the output lost its journal; this is a bug of vmferry"));
        };
        let (size, ended) = match first_cause(run, ended) {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::SourceChanged => return Err(self.taint(journal, error)),
            Err(error) => return Err(self.resumable(&source, error)),
        };
        let synced = tokio::task::spawn_blocking(move || sync.sync()).await;
        synced.map_err(|error| Error::failed("the sync panicked").with_source(error))??;
        let mut closed = Closed {
            size,
            output_size: ended.output_size,
            zero: ended.zero,
            tree: ended.tree.map(|tree| tree.to_string()),
            file_sha256: end.sha256.map(|hash| hash.to_string()),
        };
        drop(source);
        drop(engine);
        self.verify_and_close(journal, &mut closed, opened.format, resumed_from).await
    }

    async fn verify_and_close(
        mut self,
        mut journal: Journal,
        closed: &mut Closed,
        source_format: SourceFormat,
        resumed_from: Option<u64>,
    ) -> Result<ConversionReport> {
        let options = &self.conversion.options;
        if options.verify {
            self.conversion.progress.set_phase(Phase::Verifying);
            if let Err(error) = self.read_back(&journal, closed.size).await {
                if error.kind() == ErrorKind::Verification {
                    journal.append([Record::Tainted {
                        reason: format!("the output did not read back: {error}"),
                    }])?;
                    return Err(error.with_hint(format!(
                        "{} is not usable; look for disk errors, then start again with --restart",
                        self.paths.partial.display()
                    )));
                }
                return Err(error);
            }
        }
        if options.sums && closed.file_sha256.is_none() {
            let path = self.paths.partial.clone();
            let (limit, cancel) = (closed.output_size, self.conversion.cancel.clone());
            let hashed = tokio::task::spawn_blocking(move || hash_file(&path, limit, &cancel)).await;
            let hash = hashed.map_err(|error| Error::failed("hashing panicked").with_source(error))??;
            closed.file_sha256 = Some(hash.to_string());
            self.warnings.push("--sums: the output was read again for its SHA-256".into());
        }
        journal.append([Record::Closed(closed.clone())])?;
        let manifest = self.complete(journal, closed)?;
        Ok(self.report(closed, source_format, resumed_from, manifest))
    }

    /// The steps behind the closing record, for a run that was killed between them.
    fn complete_earlier(&mut self, journal: Journal, closed: &Closed) -> Result<ConversionReport> {
        self.warnings.push("an earlier run had written everything; its last steps were done now".into());
        let manifest = self.complete(journal, closed)?;
        let format = SourceFormat::Image(vmferry_formats::Format::Raw);
        Ok(self.report(closed, format, Some(closed.size), manifest))
    }

    fn complete(&self, journal: Journal, closed: &Closed) -> Result<Option<PathBuf>> {
        let head = match self.conversion.options.digest {
            Some(algorithm) if self.with_manifest => {
                Some(manifest_head(&self.conversion.spec, algorithm, closed.size))
            }
            _ => None,
        };
        self.paths.complete(journal, closed, head.as_ref())
    }

    fn report(
        &self,
        closed: &Closed,
        source_format: SourceFormat,
        resumed_from: Option<u64>,
        manifest: Option<PathBuf>,
    ) -> ConversionReport {
        let snapshot = self.conversion.progress.snapshot();
        let parse = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        ConversionReport {
            output: self.paths.output.display().to_string(),
            format: self.conversion.spec.format(),
            source_format,
            virtual_size: closed.size,
            bytes_read: snapshot.read,
            bytes_written: snapshot.written,
            output_size: closed.output_size,
            zero_bytes: closed.zero,
            digest: self.conversion.tree_digest(parse(&closed.tree)),
            file_sha256: parse(&closed.file_sha256),
            resumed_from,
            verified: self.conversion.options.verify,
            manifest,
            elapsed: self.started.elapsed(),
            warnings: self.warnings.clone(),
        }
    }

    /// Reads the output back from the disk through the reader of its format.
    async fn read_back(&self, journal: &Journal, size: u64) -> Result<()> {
        let conversion = self.conversion;
        let path = self.paths.partial.clone();
        let dropped = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        // What is still in the page cache would prove nothing about the disk.
        let _ = rustix::fs::fadvise(&dropped, 0, None, rustix::fs::Advice::DontNeed);
        let location = path
            .to_str()
            .ok_or_else(|| Error::usage("the output's path is not UTF-8; it cannot be read back"))?;
        let format = Some(SourceFormat::Image(conversion.spec.format()));
        let options = SourceOptions { format, ..SourceOptions::default() };
        let mut opened = source::open(location, &options).await?;
        let content = size.next_multiple_of(512);
        let engine_options = EngineOptions { progress: Progress::default(), ..conversion.engine_options() };
        let engine = Engine::new(
            &opened.source,
            None,
            Checker::new(conversion.options.digest),
            Some(content),
            engine_options,
        )?;
        let mut stage = VerifyStage::new(Box::new(journal.reader()?), content);
        let read = engine.run(&mut opened.source, 0, 0, &mut stage).await?;
        stage.finish(&path.display().to_string(), read)
    }

    /// Marks the partial output as one that no later run may go on with.
    fn taint(&self, mut journal: Journal, error: Error) -> Error {
        if error.kind() != ErrorKind::SourceChanged {
            return error;
        }
        match journal.append([Record::Tainted { reason: error.to_string() }]) {
            Ok(()) => error,
            Err(journal_error) => journal_error,
        }
    }

    /// Says how to go on.
    fn resumable(&self, source: &Source, error: Error) -> Error {
        let partial = self.paths.partial.display();
        if matches!(source, Source::Stream(stream) if stream.restart() == Restart::Never) {
            return error.with_further_hint(format!("{partial} cannot be completed, because the source cannot be read again: give the whole stream and say --restart"));
        }
        error.with_further_hint(format!("{partial} is kept: run the same command again to go on where it stopped, or with --restart to begin anew"))
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

fn restore_hash(state: &str) -> Result<Sha256> {
    let damaged = || {
        Error::failed("the journal is damaged: the state of the file's hash")
            .with_hint("start again with --restart")
    };
    let bytes = BASE64_STANDARD_NO_PAD.decode(state).map_err(|_| damaged())?;
    let state = bytes.as_slice().try_into().map_err(|_| damaged())?;
    Sha256::deserialize(state).map_err(|_| damaged())
}

/// SHA-256 of the first `limit` bytes of a file, read from the start.
fn hash_file(path: &Path, limit: u64, cancel: &CancellationToken) -> Result<Digest> {
    let failed = |error| Error::io("read back", path, error);
    let mut file = io::Read::take(File::open(path).map_err(failed)?, limit);
    let (mut hash, mut buffer) = (Sha256::default(), vec![0; 1 << 20]);
    loop {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted while the output was hashed"));
        }
        match io::Read::read(&mut file, &mut buffer).map_err(failed)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            len => hash.update(&buffer[..len]),
        }
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
