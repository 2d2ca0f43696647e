//! A conversion into a file or a device: what an earlier run left, the run itself, its last steps.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256, digest::common::hazmat::SerializableState as _};
use tokio_util::sync::CancellationToken;
use vmferry_formats::{FormatWriter, digest::Digest};

use super::{Conversion, ConversionReport, ResumePolicy, first_cause, size_of};
use crate::{
    error::{Error, ErrorKind, Result},
    pipeline::{
        Checker,
        engine::Engine,
        journal::{Closed, Header, Journal, Record, Summary},
        output::{Output, OutputState},
        progress::{Phase, Snapshot},
        resume::{self, Guard},
        stages::{Comparison, Converter, Tree, VerifyStage, replay},
        target::{TargetPaths, manifest_head},
    },
    sink::{BlockSink, FileSink, Sink},
    source::{self, OpenedSource, Restart, Source, SourceFormat, SourceOptions},
};

/// A conversion into a file or a device, with its journal.
pub(super) struct FileJob<'a> {
    conversion: &'a Conversion,
    paths: TargetPaths,
    header: Header,
    with_manifest: bool,
    warnings: Vec<String>,
    started: Instant,
}

enum Start {
    /// An earlier run had written everything; its last steps are left.
    Earlier(Journal, Box<Closed>),
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

impl<'a> FileJob<'a> {
    pub(super) fn new(
        conversion: &'a Conversion,
        paths: TargetPaths,
        header: Header,
        with_manifest: bool,
        started: Instant,
    ) -> Self {
        Self { conversion, paths, header, with_manifest, warnings: Vec::new(), started }
    }

    /// Goes through with it: `writer` is new.
    pub(super) async fn run(
        mut self,
        opened: OpenedSource,
        writer: Box<dyn FormatWriter>,
    ) -> Result<ConversionReport> {
        let journal = Journal::open(&self.paths.journal)?;
        self.check_journal(&journal)?;
        match self.start(journal, &opened, writer)? {
            Start::Earlier(journal, closed) => self.complete_earlier(journal, *closed, opened.format).await,
            Start::Run(begin) => self.go(opened, *begin).await,
        }
    }

    /// A file that the user named is theirs, unless it is a journal; what has the name that journals
    /// have is discarded on the user's word.
    fn check_journal(&self, journal: &Journal) -> Result<()> {
        let options = &self.conversion.options;
        let hint = match (journal.begins_like_one()?, &options.journal, options.resume) {
            (true, ..) | (false, None, ResumePolicy::Restart) => return Ok(()),
            (false, Some(_), _) => "name another file with --journal",
            (false, None, _) => "if a crash made it of a journal, start again with --restart",
        };
        let path = self.paths.journal.display();
        Err(Error::refused(format!("{path} is not a journal")).with_hint(hint))
    }

    /// Looks at what an earlier run left and sets the output up.
    fn start(
        &mut self,
        journal: Journal,
        opened: &OpenedSource,
        writer: Box<dyn FormatWriter>,
    ) -> Result<Start> {
        let options = &self.conversion.options;
        let summary = journal.summary()?;
        let is_empty = summary.is_none();
        match (summary, options.resume) {
            (None, _) | (_, ResumePolicy::Restart) => {}
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
                if is_once_only(&opened.source) {
                    return Err(self.refuse_stream(&summary));
                }
                resume::check_header(&summary.header, &self.header, options.assume_unchanged)?;
                if let Some(closed) = summary.closed {
                    (self.header.device, self.header.inode) = (summary.header.device, summary.header.inode);
                    return Ok(Start::Earlier(journal, Box::new(closed)));
                }
                if summary.checkpoint.is_some() {
                    return self.take_up(journal, &summary, writer).map(|begin| Start::Run(Box::new(begin)));
                }
            }
        }
        self.begin_fresh(journal, is_empty, writer).map(|begin| Start::Run(Box::new(begin)))
    }

    fn begin_fresh(
        &mut self,
        mut journal: Journal,
        is_empty: bool,
        writer: Box<dyn FormatWriter>,
    ) -> Result<Begin> {
        let paths = &self.paths;
        let created = paths.check_free().and_then(|()| {
            if !is_empty || self.conversion.options.resume == ResumePolicy::Restart {
                paths.discard()?;
            } else if journal.was_found() {
                paths.discard_empty()?;
            }
            let file = paths.create()?;
            self.check_room(&file)?;
            Ok(file)
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
        (self.header.device, self.header.inode) = paths.identity_of(&file)?;
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

    /// A device that is too small is found before its first byte is overwritten, where the length of
    /// the image is known.
    fn check_room(&self, file: &File) -> Result<()> {
        let (true, true, Some(size)) = (self.paths.is_device, self.conversion.is_raw(), self.header.size)
        else {
            return Ok(());
        };
        let (_, room) = self.paths.identity_of(file)?;
        if size > room {
            let output = self.paths.output.display();
            let message = format!("{output} holds {room} bytes, and the disk has {size}");
            return Err(Error::refused(message).with_hint("use a larger device"));
        }
        Ok(())
    }

    /// A stream that comes once has nothing to do with what an earlier one left.
    fn refuse_stream(&self, summary: &Summary) -> Error {
        let (partial, source) = (self.paths.partial.display(), &self.header.source);
        if summary.closed.is_some() {
            return Error::refused(format!(
                "{partial} is the complete image of an earlier run that was ended before it got its name"
            ))
            .with_hint("move it away if you want it; --restart discards it");
        }
        Error::refused(format!("{source} cannot be read again from its start"))
            .with_hint("give the whole stream again and say --restart")
    }

    /// Goes on behind the last checkpoint.
    fn take_up(
        &mut self,
        mut journal: Journal,
        summary: &Summary,
        mut writer: Box<dyn FormatWriter>,
    ) -> Result<Begin> {
        let point = summary.checkpoint.clone().ok_or_else(|| Error::failed("there is no durable point"))?;
        if self.paths.is_device {
            self.paths.check_free()?;
        }
        let file = self.paths.reopen()?;
        resume::check_partial(summary, &file, &self.paths)?;
        let mut tree = Tree::new(self.conversion.options.digest, self.header.size);
        let (mut slots, mut guard) = (Vec::new(), Guard::new(point.tail_crc));
        replay(
            &mut *writer,
            &mut tree,
            &mut journal.reader()?,
            point.at,
            |slot, start, len| slots.push((slot, start, len)),
            |record| guard.consider(record),
        )?;
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

    async fn go(self, opened: OpenedSource, begin: Begin) -> Result<ConversionReport> {
        let conversion = self.conversion;
        let progress = &conversion.progress;
        let Begin { writer, journal, sink, tree, state, zero, resumed } = begin;
        let mut source = opened.source;
        progress.set_total(self.header.size);
        let engine = conversion.engine(&source, &*writer)?;
        let mut from = 0;
        let mut earlier = None;
        if let Some((at, guard)) = resumed {
            if let Err(error) = conversion.unless_cancelled(guard.check(&engine, &mut source)).await {
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
        // Taken here, since reading back counts anew.
        let moved = self.conversion.progress.snapshot();
        let partial = self.paths.partial.clone();
        self.prove(&mut journal, closed, &partial).await?;
        journal.append([Record::Closed(closed.clone())])?;
        let manifest = self.complete(journal, closed)?;
        Ok(self.report(closed, moved, source_format, resumed_from, manifest))
    }

    /// Reads the image at `path` again as far as the user wants: to verify it, to hash it.
    async fn prove(&mut self, journal: &mut Journal, closed: &mut Closed, path: &Path) -> Result<()> {
        let options = &self.conversion.options;
        if options.verify
            && let Err(error) =
                self.read_back(journal, closed.size, path).await.map_err(Error::damage_is_verification)
        {
            if error.kind() != ErrorKind::Verification {
                return Err(error);
            }
            journal.append([Record::Tainted { reason: format!("the output did not read back: {error}") }])?;
            return Err(error.with_hint(format!(
                "{} is not usable; look for disk errors, then start again with --restart",
                path.display()
            )));
        }
        if options.sums && closed.file_sha256.is_none() {
            let path = path.to_owned();
            let (limit, cancel) = (closed.output_size, self.conversion.cancel.clone());
            let hashed = tokio::task::spawn_blocking(move || hash_file(&path, limit, &cancel)).await;
            let hash = hashed.map_err(|error| Error::failed("hashing panicked").with_source(error))??;
            closed.file_sha256 = Some(hash.to_string());
            self.warnings.push("--sums: the output was read again for its SHA-256".into());
        }
        Ok(())
    }

    /// The steps behind the closing record, for a run that was killed between them.
    async fn complete_earlier(
        mut self,
        mut journal: Journal,
        mut closed: Closed,
        format: SourceFormat,
    ) -> Result<ConversionReport> {
        self.warnings.push("an earlier run had written everything; its last steps were done now".into());
        let made = self.paths.made(&self.header, &closed)?.to_owned();
        self.prove(&mut journal, &mut closed, &made).await?;
        let manifest = self.complete(journal, &closed)?;
        let resumed_from = Some(closed.size);
        Ok(self.report(&closed, Snapshot::default(), format, resumed_from, manifest))
    }

    fn complete(&self, journal: Journal, closed: &Closed) -> Result<Option<PathBuf>> {
        let head = match self.conversion.options.digest {
            Some(algorithm) if self.with_manifest => {
                Some(manifest_head(&self.conversion.spec, algorithm, closed.size))
            }
            _ => None,
        };
        self.paths.complete(journal, &self.header, closed, head.as_ref())
    }

    fn report(
        &self,
        closed: &Closed,
        moved: Snapshot,
        source_format: SourceFormat,
        resumed_from: Option<u64>,
        manifest: Option<PathBuf>,
    ) -> ConversionReport {
        let parse = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok());
        ConversionReport {
            output: self.paths.output.display().to_string(),
            format: self.conversion.spec.format(),
            source_format,
            virtual_size: closed.size,
            bytes_read: moved.read,
            bytes_written: moved.written,
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
    async fn read_back(&self, journal: &Journal, size: u64, path: &Path) -> Result<()> {
        let conversion = self.conversion;
        let dropped = File::open(path).map_err(|error| Error::io("open", path, error))?;
        // What is still in the page cache would prove nothing about the disk.
        let _ = rustix::fs::fadvise(&dropped, 0, None, rustix::fs::Advice::DontNeed);
        let location = path
            .to_str()
            .ok_or_else(|| Error::usage("the output's path is not UTF-8; it cannot be read back"))?;
        let format = Some(SourceFormat::Image(conversion.spec.format()));
        let options = SourceOptions { format, ..SourceOptions::default() };
        let mut opened = source::open(location, &options).await?;
        let content = size.next_multiple_of(512);
        conversion.progress.restart_at(0, 0);
        conversion.progress.set_total(size_of(&opened.source));
        conversion.progress.set_phase(Phase::Verifying);
        let engine = Engine::new(
            &opened.source,
            None,
            Checker::new(conversion.options.digest),
            Some(content),
            conversion.engine_options(),
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
        if is_once_only(source) {
            return error.with_further_hint(format!("{partial} cannot be completed, because the source cannot be read again: give the whole stream and say --restart"));
        }
        let journal = match self.paths.is_device {
            true => format!(" (its journal is {})", self.paths.journal.display()),
            false => String::new(),
        };
        error.with_further_hint(format!("{partial} is kept{journal}: run the same command again to go on where it stopped, or with --restart to begin anew"))
    }
}

/// Whether the source is gone once it was read.
fn is_once_only(source: &Source) -> bool {
    matches!(source, Source::Stream(stream) if stream.restart() == Restart::Never)
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
