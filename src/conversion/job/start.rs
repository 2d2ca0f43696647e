//! Where a job begins: afresh, or behind the last checkpoint of an earlier run.

use std::fs::File;

use bytes::Bytes;
use vmferry_formats::{FormatWriter, plan::Slot};

use super::Job;
use crate::{
    conversion::ResumePolicy,
    error::{Error, ErrorKind, Result},
    pipeline::{
        converter::{OpenDisk, Replay, replay},
        hash::FileHash,
        journal::{ChunkRecord, Closed, DiskEnd, Journal, MAX_LINE_LEN, Record, Summary},
        layout::Layout,
        output::OutputState,
        resume::{self, Guard},
    },
    sink::{BlockSink, FileSink, Sink},
};

pub(super) enum Start {
    /// An earlier run had written everything; its last steps are left.
    Earlier(Journal, Vec<DiskEnd>, Box<Closed>),
    Run(Box<Begin>),
}

/// What an earlier run left.
pub(super) enum Left {
    /// It had written everything.
    Closed(Box<Summary>),
    /// It was on its way.
    Open(Box<Summary>),
    /// Nothing that counts, if it was there.
    Nothing(Option<Box<Summary>>),
}

/// Where a run begins.
pub(super) struct Begin {
    pub(super) layout: Layout,
    pub(super) journal: Journal,
    pub(super) sink: Box<dyn Sink>,
    pub(super) state: OutputState,
    /// Whether an earlier run is taken up.
    pub(super) resumed: bool,
    /// Disks that are complete.
    pub(super) ended: Vec<DiskEnd>,
    /// The disk that the earlier run ended in, and its guest offset.
    pub(super) open: Option<(u64, OpenDisk)>,
    /// What proves that the sources of the disks that were begun are the same.
    pub(super) guards: Vec<Guard>,
}

impl Job<'_> {
    /// A file that the user named is theirs, unless it is a journal; what has the name that journals
    /// have is discarded on the user's word.
    pub(super) fn check_journal(&self, journal: &Journal) -> Result<()> {
        let options = self.means.options;
        let hint = match (journal.begins_like_one()?, &options.journal, options.resume) {
            (true, ..) | (false, None, ResumePolicy::Restart) => return Ok(()),
            (false, Some(_), _) => "name another file with --journal",
            (false, None, _) => "if a crash made it of a journal, start again with --restart",
        };
        let path = self.paths.journal.display();
        Err(Error::refused(format!("{path} is not a journal")).with_hint(hint))
    }

    /// Looks at what an earlier run left and sets the output up.
    pub(super) async fn start(&mut self, journal: Journal) -> Result<Start> {
        let left = self.left(&journal)?;
        #[cfg(feature = "cloud")]
        if self.object.is_some() {
            return self.start_object(journal, left).await;
        }
        match left {
            Left::Closed(summary) => {
                (self.header.device, self.header.inode) = (summary.header.device, summary.header.inode);
                let closed = summary.closed.ok_or_else(|| Error::failed("nothing was closed"))?;
                Ok(Start::Earlier(journal, summary.ended, Box::new(closed)))
            }
            Left::Open(summary) => self.take_up(journal, *summary).map(|begin| Start::Run(Box::new(begin))),
            Left::Nothing(summary) => {
                self.begin_fresh(journal, summary.is_none()).map(|begin| Start::Run(Box::new(begin)))
            }
        }
    }

    /// What of an earlier run counts.
    fn left(&self, journal: &Journal) -> Result<Left> {
        let options = self.means.options;
        let summary = journal.summary()?;
        match (summary, options.resume) {
            (None, _) => Ok(Left::Nothing(None)),
            (Some(summary), ResumePolicy::Restart) => Ok(Left::Nothing(Some(Box::new(summary)))),
            (Some(_), ResumePolicy::Refuse) => Err(Error::refused(format!(
                "{} is a partial output of an earlier run",
                self.paths.partial.display()
            ))
            .with_hint("without --no-resume it is taken up, with --restart it is discarded")),
            (Some(summary), ResumePolicy::Resume) => {
                if let Some(reason) = &summary.tainted {
                    return Err(Error::new(
                        ErrorKind::SourceChanged,
                        format!("the interrupted run cannot be taken up: {reason}"),
                    )
                    .with_hint("start again with --restart"));
                }
                if let Some(disk) = self.disks.iter().find(|disk| disk.once_only) {
                    return Err(self.refuse_stream(&disk.header.source, &summary));
                }
                resume::check_header(&summary.header, &self.header, options.assume_unchanged)?;
                let summary = Box::new(summary);
                Ok(if summary.closed.is_some() {
                    Left::Closed(summary)
                } else if summary.checkpoint.is_some() {
                    Left::Open(summary)
                } else {
                    Left::Nothing(Some(summary))
                })
            }
        }
    }

    fn begin_fresh(&mut self, mut journal: Journal, is_empty: bool) -> Result<Begin> {
        let paths = &self.paths;
        let created = self.check_header_len().and_then(|()| paths.check_free()).and_then(|()| {
            if !is_empty || self.means.options.resume == ResumePolicy::Restart {
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
        Ok(self.afresh(journal, sink))
    }

    /// A run that begins at the start of its output.
    pub(super) fn afresh(&mut self, journal: Journal, sink: Box<dyn Sink>) -> Begin {
        Begin {
            layout: self.layout(),
            journal,
            sink,
            state: OutputState::default(),
            resumed: false,
            ended: Vec::new(),
            open: None,
            guards: Vec::new(),
        }
    }

    fn layout(&mut self) -> Layout {
        let container = self.container.as_mut().and_then(|container| container.container.take());
        Layout::new(container)
    }

    /// What cannot be read back cannot be resumed.
    pub(super) fn check_header_len(&self) -> Result<()> {
        let mut header = self.header.clone();
        (header.device, header.inode) = (u64::MAX, u64::MAX);
        let len = Record::Header(Box::new(header)).to_line()?.len() as u64;
        if len < MAX_LINE_LEN {
            return Ok(());
        }
        Err(Error::refused(format!(
            "what describes the output takes {len} bytes, {MAX_LINE_LEN} are the most"
        ))
        .with_hint("a shorter descriptor or fewer disks fit"))
    }

    /// A device that is too small is found before its first byte is overwritten, where the length of
    /// the image is known.
    fn check_room(&self, file: &File) -> Result<()> {
        let [disk] = &self.disks[..] else { return Ok(()) };
        let (true, true, Some(size)) = (self.paths.is_device, disk.is_raw(), disk.header.size) else {
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
    fn refuse_stream(&self, source: &str, summary: &Summary) -> Error {
        let partial = self.paths.partial.display();
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
    pub(super) fn take_up(&mut self, mut journal: Journal, summary: Summary) -> Result<Begin> {
        let point = summary.checkpoint.clone().ok_or_else(|| Error::failed("there is no durable point"))?;
        if self.paths.is_device {
            self.paths.check_free()?;
        }
        let mut file = None;
        if !self.paths.is_object {
            let file = file.insert(self.paths.reopen()?);
            resume::check_partial(&summary, file, &self.paths)?;
        }
        let mut layout = self.layout();
        let open = summary.open.and_then(|open| usize::try_from(open).ok());
        let mut disk = open.map(|index| self.open_disk(index)).unwrap_or_default();
        let mut replayed = Replayed {
            job: self,
            seed: point.seed(),
            slots: Vec::new(),
            fills: Vec::new(),
            guards: Vec::new(),
        };
        replay(&mut layout, &mut disk.tree, &mut journal.reader()?, &summary, &mut replayed)?;
        let Replayed { slots, fills, guards, .. } = replayed;
        if let Some(encoder) = layout.encoder_identity().or_else(|| self.encoder_identity())
            && encoder != summary.header.encoder
        {
            self.warnings.push(format!(
                "the interrupted run encoded with {}, this one with {encoder}: the image is right, but its bytes differ from those of an undisturbed run",
                summary.header.encoder,
            ));
        }
        let state = [(FileHash::Sha1, &point.sha1), (FileHash::Sha256, &point.sha256)];
        let hash = match disk.hash {
            Some(kind) => match state.into_iter().find(|(found, _)| *found == kind) {
                Some((_, Some(state))) => Some(kind.restore(state)?),
                _ => {
                    return Err(Error::failed(
                        "the journal is damaged: it lacks the state of the file's hash",
                    )
                    .with_hint("start again with --restart"));
                }
            },
            None => None,
        };
        let reserved_end = slots.iter().map(|(_, start, len)| start + len).max().unwrap_or(0);
        let sink = match file {
            None => self.object_sink(&summary, &point, slots, fills)?,
            Some(file) => self.file_sink(file, point.out, slots)?,
        };
        journal.truncate(summary.valid_len)?;
        (self.header.device, self.header.inode) = (summary.header.device, summary.header.inode);
        tracing::info!(
            disk = point.disk.unwrap_or(0),
            guest_offset = point.at,
            output_offset = point.out,
            "taking up an interrupted run"
        );
        disk.zero = point.zero;
        Ok(Begin {
            layout,
            journal,
            sink,
            state: OutputState { position: point.out, reserved_end, hash },
            resumed: true,
            ended: summary.ended,
            open: open.map(|_| (point.at, disk)),
            guards,
        })
    }

    fn file_sink(&self, file: File, position: u64, slots: Vec<(Slot, u64, u64)>) -> Result<Box<dyn Sink>> {
        if self.paths.is_device {
            let mut sink = BlockSink::new(file, &self.paths.partial, position)?;
            slots.into_iter().for_each(|(slot, start, len)| sink.restore_slot(slot, start, len));
            return Ok(Box::new(sink));
        }
        let mut sink = FileSink::new(file, &self.paths.partial, position)?;
        slots.into_iter().for_each(|(slot, start, len)| sink.restore_slot(slot, start, len));
        Ok(Box::new(sink))
    }

    #[cfg(not(feature = "cloud"))]
    fn object_sink(
        &self,
        _: &Summary,
        _: &crate::pipeline::journal::Checkpoint,
        _: Vec<(Slot, u64, u64)>,
        _: Vec<(Slot, u64, Bytes)>,
    ) -> Result<Box<dyn Sink>> {
        Err(Error::failed("this program was built without object stores"))
    }

    fn encoder_identity(&self) -> Option<String> {
        Some(self.disks.first()?.writer().ok()?.encoder_identity())
    }
}

/// What a replay collects.
struct Replayed<'a, 'b> {
    job: &'a Job<'b>,
    seed: u32,
    slots: Vec<(Slot, u64, u64)>,
    fills: Vec<(Slot, u64, Bytes)>,
    guards: Vec<Guard>,
}

impl Replay for Replayed<'_, '_> {
    fn writer(&mut self, disk: usize) -> Result<Box<dyn FormatWriter>> {
        let disk = self.job.disks.get(disk);
        disk.ok_or_else(|| Error::failed("the journal has more disks than there are"))?.writer()
    }

    fn slot(&mut self, slot: Slot, start: u64, len: u64) {
        self.slots.push((slot, start, len));
    }

    fn fill(&mut self, slot: Slot, at: u64, bytes: Bytes) {
        // A file has these bytes.
        if self.job.paths.is_object {
            self.fills.push((slot, at, bytes));
        }
    }

    fn chunk(&mut self, disk: usize, record: &ChunkRecord) -> Result<()> {
        let seed = self.seed;
        self.guards.resize_with(self.guards.len().max(disk + 1), || Guard::new(seed));
        self.guards[disk].consider(record)
    }
}
