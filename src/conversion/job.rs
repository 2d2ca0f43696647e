//! A file or a device being written, with its journal: a plain image, or any number of disks in a
//! container. What an earlier run left, the run itself, its last steps.

mod finish;
#[cfg(feature = "cloud")]
mod object;
mod start;

pub(crate) use self::finish::hash_file;

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{FormatWriter, WriterSpec};

use self::start::{Begin, Start};
#[cfg(feature = "cloud")]
use super::object::ObjectPlace;
use super::{ConversionOptions, ConversionSource};
use crate::{
    error::{Error, ErrorKind, FormatContext as _, Result},
    pipeline::{
        Checker,
        converter::{Converter, OpenDisk},
        engine::{Engine, EngineOptions},
        hash::FileHash,
        journal::{Closed, DiskEnd, DiskHeader, Header, Journal, Record},
        layout::Container,
        manifest::{ContainerHead, MAX_DISK_LEN},
        output::{CommitPolicy, Output},
        progress::{Phase, Progress, Snapshot},
        resume::Guard,
        stages::{Comparison, DiskChecks, Tree},
        target::TargetPaths,
    },
    source::{OpenedSource, Restart, Source, SourceFormat, SourceOptions},
    sys,
};

/// What every run has at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means<'a> {
    pub(crate) options: &'a ConversionOptions,
    pub(crate) progress: &'a Progress,
    pub(crate) cancel: &'a CancellationToken,
}

impl Means<'_> {
    pub(crate) fn engine_options(self) -> EngineOptions {
        EngineOptions {
            workers: self.options.workers,
            memory: self.options.memory,
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
        }
    }

    pub(crate) fn engine(self, source: &Source, writer: Option<&dyn FormatWriter>) -> Result<Engine> {
        Engine::new(source, writer, Checker::new(self.options.digest), None, self.engine_options())
    }

    pub(crate) fn policy(self) -> CommitPolicy {
        CommitPolicy { bytes: self.options.checkpoint_bytes, interval: self.options.checkpoint_interval }
    }

    /// What cannot be suspended half-way is given up as soon as the user wants to stop.
    pub(crate) async fn unless_cancelled<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            done = work => done,
        }
    }
}

/// A disk that is to be written.
pub(crate) struct JobDisk<'a> {
    pub(crate) source: &'a ConversionSource,
    pub(crate) options: SourceOptions,
    pub(crate) spec: WriterSpec,
    /// Name of its image, from which ids derive.
    pub(crate) name: String,
    pub(crate) header: DiskHeader,
    pub(crate) format: SourceFormat,
    /// The hash of its image that is taken in passing.
    pub(crate) hash: Option<FileHash>,
    /// Whether the source is gone once it was read.
    pub(crate) once_only: bool,
    /// What is odd about the source.
    pub(crate) warnings: Vec<String>,
    /// If it is open already.
    opened: Option<Source>,
}

impl<'a> JobDisk<'a> {
    /// A disk whose source was opened to see what it is.
    pub(crate) fn new(
        source: &'a ConversionSource,
        options: SourceOptions,
        spec: WriterSpec,
        name: String,
        opened: OpenedSource,
    ) -> Self {
        let identity = match &opened.source {
            Source::Random(plan) => plan.identity(),
            Source::Stream(stream) => stream.identity(),
        };
        let size = opened.source.size();
        let once_only =
            matches!(&opened.source, Source::Stream(stream) if stream.restart() == Restart::Never);
        let header = DiskHeader { file: None, source: opened.name, identity, size };
        let (format, warnings, opened) = (opened.format, opened.warnings, Some(opened.source));
        Self { source, options, spec, name, header, format, hash: None, once_only, warnings, opened }
    }

    /// Closes the source until its turn comes, if it can be opened again.
    pub(crate) fn close(&mut self) {
        if !self.once_only {
            self.opened = None;
        }
    }

    /// A new writer.
    ///
    /// # Errors
    /// The format cannot hold the disk.
    pub(crate) fn writer(&self) -> Result<Box<dyn FormatWriter>> {
        let source = self.source.name();
        if let Some(size) = self.header.size.filter(|&size| size > MAX_DISK_LEN) {
            let message = format!("{source} has {size} bytes of disk, and 64 TiB are the most");
            return Err(Error::refused(message).with_hint(
                "memory, journal and manifest are laid out for that; split the disk if it is meant",
            ));
        }
        let writer = self.spec.writer(self.header.size, &self.name);
        writer.context(|| format!("cannot write {source} as {}", self.spec.format()))
    }

    /// The source, as it was when it was looked at first.
    pub(super) async fn open(&mut self, from_middle: bool) -> Result<Source> {
        if let Some(source) = self.opened.take() {
            return Ok(source);
        }
        let opened = self.source.open(&self.options, from_middle).await?;
        let again = Self::new(self.source, self.options.clone(), self.spec.clone(), String::new(), opened);
        again.check_unchanged(&self.header)?;
        again.opened.ok_or_else(|| Error::failed("a source is not open; this is a bug of vmferry"))
    }

    /// Refuses a source that is not what it was when this run began.
    ///
    /// # Errors
    /// It is another one.
    pub(crate) fn check_unchanged(&self, before: &DiskHeader) -> Result<()> {
        if (&self.header.identity, self.header.size) == (&before.identity, before.size) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::SourceChanged,
            format!("{} is not what it was when this run began", before.source),
        )
        .with_hint("nothing may write to the sources while they are read; start again with --restart"))
    }

    fn is_raw(&self) -> bool {
        matches!(self.spec, WriterSpec::Raw(_))
    }
}

/// The container of a job and what its manifest says of it.
pub(crate) struct JobContainer {
    /// Taken when the run begins.
    pub(crate) container: Option<Box<dyn Container>>,
    pub(crate) head: ContainerHead,
}

/// Told when a disk begins (its number from 0) or ends.
pub(crate) type DiskListener = Arc<dyn Fn(usize, bool) + Send + Sync>;

/// A run into a file or a device.
pub(crate) struct Job<'a> {
    pub(crate) means: Means<'a>,
    pub(crate) paths: TargetPaths,
    /// The object that the output becomes.
    #[cfg(feature = "cloud")]
    pub(crate) object: Option<ObjectPlace>,
    pub(crate) header: Header,
    pub(crate) disks: Vec<JobDisk<'a>>,
    pub(crate) container: Option<JobContainer>,
    pub(crate) listener: Option<DiskListener>,
    pub(crate) warnings: Vec<String>,
}

/// What a job did.
pub(crate) struct Done {
    /// What became of the disks, in their order.
    pub(crate) disks: Vec<DiskEnd>,
    pub(crate) closed: Closed,
    /// Bytes moved by this run.
    pub(crate) moved: Snapshot,
    /// Disk and guest offset at which an earlier run was taken up.
    pub(crate) resumed_from: Option<(usize, u64)>,
    pub(crate) manifest: Option<PathBuf>,
    pub(crate) warnings: Vec<String>,
}

/// A disk that is ready to be read.
struct Ready {
    source: Source,
    engine: Engine,
}

impl Job<'_> {
    /// Goes through with it.
    ///
    /// # Errors
    /// Whatever goes wrong; what can be resumed is kept, and the hint says how.
    pub(crate) async fn run(mut self) -> Result<Done> {
        let journal = Journal::open(&self.paths.journal)?;
        self.check_journal(&journal)?;
        for disk in &mut self.disks {
            self.warnings.append(&mut disk.warnings);
        }
        match self.start(journal).await? {
            Start::Earlier(journal, ended, closed) => self.complete_earlier(journal, ended, *closed).await,
            Start::Run(begin) => Box::pin(self.go(*begin)).await,
        }
    }

    async fn go(mut self, begin: Begin) -> Result<Done> {
        let Begin { layout, journal, sink, state, ended, open, guards, resumed } = begin;
        let progress = self.means.progress;
        let sizes: Option<Vec<u64>> = self.disks.iter().map(|disk| disk.header.size).collect();
        progress.set_total(sizes.map(|sizes| sizes.iter().sum()));
        let first = ended.len();
        let resumed_from = resumed.then(|| (first, open.as_ref().map_or(0, |(at, _)| *at)));
        let mut ready = None;
        if first < self.disks.len() {
            ready = Some(self.ready(first, open.as_ref().map_or(0, |(at, _)| *at)).await?);
        }
        if let Err(error) = self.guard(guards, first, &mut ready).await {
            return Err(Self::taint(journal, error).await);
        }
        let (mut done, mut zero): (u64, u64) =
            ended.iter().fold((0, 0), |(done, zero), disk| (done + disk.size, zero + disk.zero));
        let mut going_on = None;
        if let Some((at, mut disk)) = open {
            match &ready {
                Some(Ready { source: Source::Stream(_), .. }) => {
                    let number = u32::try_from(first).unwrap_or(u32::MAX);
                    let expected = DiskChecks::new(journal.reader()?, number);
                    disk.earlier = Some((at, Comparison::new(Box::new(expected))));
                }
                _ => (done, zero) = (done + at, zero + disk.zero),
            }
            going_on = Some((at, disk));
        }
        progress.restart_at(done, zero);
        let output = Output::start(sink, state, Some(journal), self.means.policy(), progress.clone())?;
        let mut converter = Converter::new(layout, output);
        progress.set_phase(Phase::Running);
        let run = self.write_all(&mut converter, ended, ready, going_on, resumed).await;
        if run.is_ok() {
            progress.set_phase(Phase::Syncing);
        }
        let (end, written) = converter.end(run.is_ok()).await;
        let (Some(mut journal), Some(sync)) = (end.journal, end.sync) else {
            return Err(Error::failed("the output lost its journal; this is a bug of vmferry"));
        };
        let (disks, output_size) = match first_cause(run, written) {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::SourceChanged => {
                return Err(Self::taint(journal, error).await);
            }
            Err(error) => return Err(self.resumable(error)),
        };
        let synced = tokio::task::spawn_blocking(move || sync.sync().map(|_| sync.acknowledged())).await;
        let synced = synced.map_err(|error| Error::failed("the sync panicked").with_source(error))?;
        let parts = synced.map_err(|error| self.resumable(error))?;
        if !parts.is_empty() {
            journal.append(parts.into_iter().map(Record::Part))?;
        }
        let closed = self.closed(&disks, output_size);
        self.verify_and_close(journal, end.records, disks, closed, resumed_from).await
    }

    /// Writes all disks that are not complete yet, and what stands behind them.
    async fn write_all(
        &mut self,
        converter: &mut Converter,
        mut ended: Vec<DiskEnd>,
        mut ready: Option<Ready>,
        mut going_on: Option<(u64, OpenDisk)>,
        resumed: bool,
    ) -> Result<Vec<DiskEnd>> {
        if !resumed {
            converter.begin().await?;
        }
        for index in ended.len()..self.disks.len() {
            let Ready { mut source, engine } = match ready.take() {
                Some(ready) => ready,
                None => self.ready(index, 0).await?,
            };
            self.tell(index, true);
            let from = match going_on.take() {
                Some((at, disk)) => {
                    converter.go_on(disk);
                    at
                }
                None => {
                    converter.begin_disk(self.open_disk(index), self.disks[index].writer()?).await?;
                    0
                }
            };
            let run = engine.run(&mut source, from, from, converter).await;
            let size = run.map_err(|error| self.of_disk(index, error))?;
            ended.push(converter.end_disk(size).await?);
            // The next disk has a budget of its own.
            drop((source, engine));
            sys::release_free_memory();
            self.tell(index, false);
        }
        converter.finish().await?;
        Ok(ended)
    }

    /// Opens a disk and sets up what reads it.
    async fn ready(&mut self, index: usize, from: u64) -> Result<Ready> {
        let means = self.means;
        let disk = &mut self.disks[index];
        let source = means.unless_cancelled(disk.open(from > 0)).await?;
        let engine = means.engine(&source, Some(&*disk.writer()?))?;
        Ok(Ready { source, engine })
    }

    /// Reads chunks of every disk that an earlier run began again. `ready` is disk number `first`, in
    /// which that run may have ended.
    async fn guard(&mut self, guards: Vec<Guard>, first: usize, ready: &mut Option<Ready>) -> Result<()> {
        let means = self.means;
        for (index, guard) in guards.into_iter().enumerate() {
            let checked = match ready {
                Some(Ready { source, engine }) if index == first => {
                    means.unless_cancelled(guard.check(engine, source)).await
                }
                _ => {
                    let mut source = means.unless_cancelled(self.disks[index].open(true)).await?;
                    let engine = means.engine(&source, None)?;
                    means.unless_cancelled(guard.check(&engine, &mut source)).await
                }
            };
            checked.map_err(|error| self.of_disk(index, error))?;
        }
        Ok(())
    }

    /// Says in which disk of several a source changed.
    fn of_disk(&self, index: usize, error: Error) -> Error {
        if self.header.container.is_none() || error.kind() != ErrorKind::SourceChanged {
            return error;
        }
        error.prefixed(&format!("{}: ", self.disks[index].name))
    }

    /// How a disk begins.
    fn open_disk(&self, index: usize) -> OpenDisk {
        let disk = &self.disks[index];
        OpenDisk {
            index: self.number(index),
            tree: Tree::new(self.means.options.digest, disk.header.size),
            zero: 0,
            is_raw: disk.is_raw(),
            hash: disk.hash,
            earlier: None,
        }
    }

    /// The number of a disk, if it lies in a container.
    fn number(&self, index: usize) -> Option<u32> {
        self.header.container.as_ref().and_then(|_| u32::try_from(index).ok())
    }

    fn tell(&self, index: usize, begins: bool) {
        if let Some(listener) = &self.listener {
            listener(index, begins);
        }
    }

    /// Marks the partial output as one that no later run may go on with.
    async fn taint(mut journal: Journal, error: Error) -> Error {
        if error.kind() != ErrorKind::SourceChanged {
            return error;
        }
        if let Err(journal_error) = journal.append([Record::Tainted { reason: error.to_string() }]) {
            return journal_error;
        }
        match journal.send_to_mirror().await {
            Ok(()) => error,
            Err(journal_error) => journal_error,
        }
    }

    /// Says how to go on.
    fn resumable(&self, error: Error) -> Error {
        let partial = self.paths.partial.display();
        if self.disks.iter().any(|disk| disk.once_only) {
            return error.with_further_hint(format!("{partial} cannot be completed, because the source cannot be read again: give the whole stream and say --restart"));
        }
        if self.paths.is_object {
            let journal = self.paths.journal.display();
            return error.with_further_hint(format!("the upload to {partial} is kept (its journal is {journal}): run the same command again to go on where it stopped, or with --restart to give it up and begin anew"));
        }
        let journal = match self.paths.is_device {
            true => format!(" (its journal is {})", self.paths.journal.display()),
            false => String::new(),
        };
        error.with_further_hint(format!("{partial} is kept{journal}: run the same command again to go on where it stopped, or with --restart to begin anew"))
    }
}

/// The error that came first: what the sources or the codecs said, unless the output had failed under
/// them.
pub(crate) fn first_cause<T>(run: Result<T>, written: Result<u64>) -> Result<(T, u64)> {
    match (run, written) {
        (Ok(done), Ok(output_size)) => Ok((done, output_size)),
        (Err(error), Ok(_)) => Err(error),
        (_, Err(error)) => Err(error),
    }
}
