//! A job whose output becomes an object: how its upload begins, is taken up, and ends.

use bytes::Bytes;
use vmferry_formats::plan::Slot;

use super::{
    Done, Job,
    start::{Left, Start},
};
use crate::{
    conversion::{
        ResumePolicy,
        object::{Completed, ObjectPlace, parts_of},
    },
    error::{Error, Result},
    pipeline::{
        journal::{Checkpoint, Closed, DiskEnd, Journal, ObjectHeader, Record, Summary},
        progress::Snapshot,
    },
    sink::{
        Sink,
        object::{Earlier, ObjectSink, PinsFile},
    },
};

impl Job<'_> {
    /// Looks at what became of an earlier run's upload, and sets the output up.
    pub(super) async fn start_object(&mut self, mut journal: Journal, left: Left) -> Result<Start> {
        match left {
            Left::Closed(summary) => {
                self.adopt(&mut journal, &summary).await?;
                let closed = summary.closed.clone().ok_or_else(|| Error::failed("nothing was closed"))?;
                match self.complete_upload(&summary, closed.output_size).await? {
                    Completed::Yes => Ok(Start::Earlier(journal, summary.ended, Box::new(closed))),
                    Completed::Gone => self.begin_anew(journal, *summary).await,
                }
            }
            Left::Open(mut summary) => {
                self.adopt(&mut journal, &summary).await?;
                let Some(upload) = summary.upload.clone() else {
                    return self.begin_object(journal, Some(*summary)).await;
                };
                match self.place()?.there(&upload).await? {
                    None => self.begin_anew(journal, *summary).await,
                    Some(there) => {
                        let out = summary.checkpoint.as_ref().map_or(0, |point| point.out);
                        let from = self.object_header()?.schedule.part_at(out);
                        let recorded = summary.parts.len();
                        there.reconcile(&mut summary.parts, from);
                        let pins = summary.checkpoint.iter().flat_map(|point| &point.pins);
                        let pinned: Vec<u32> = pins.map(|pin| pin.part).collect();
                        let is_there = |part: &u32| summary.parts.contains_key(part) || pinned.contains(part);
                        // Some stores answer with an empty list where there is no upload.
                        if recorded > 0 && !(1..from).all(|part| is_there(&part)) {
                            return self.begin_anew(journal, *summary).await;
                        }
                        let begin = self.take_up(journal, *summary)?;
                        Ok(Start::Run(Box::new(begin)))
                    }
                }
            }
            Left::Nothing(summary) => self.begin_object(journal, summary.map(|summary| *summary)).await,
        }
    }

    /// The upload of the earlier run is gone: somebody or the bucket's own rules gave it up.
    async fn begin_anew(&mut self, journal: Journal, mut summary: Summary) -> Result<Start> {
        let output = self.paths.output.display();
        self.warnings.push(format!(
            "the interrupted upload to {output} is gone, or parts of it: somebody gave it up, or a rule of the bucket did; this run began anew"
        ));
        if let (Some(header), Some(upload)) = (&summary.header.object, summary.upload.take()) {
            // What is gone cannot be given up, and stores differ in how they say so.
            if let Err(error) = self.place()?.abort(header, &upload).await {
                tracing::debug!("{error}");
            }
        }
        self.begin_object(journal, Some(summary)).await
    }

    async fn begin_object(&mut self, mut journal: Journal, earlier: Option<Summary>) -> Result<Start> {
        let is_empty = earlier.is_none();
        let begun = self.begin_upload(&mut journal, earlier).await;
        let target = match begun {
            Ok(target) => target,
            Err(error) => {
                // Nothing was begun: leave nothing behind either.
                if is_empty {
                    journal.remove()?;
                }
                return Err(error);
            }
        };
        let header = self.object_header()?;
        let pins = self.place()?.pins(header, &self.paths.journal)?;
        let sink = ObjectSink::new(target, header.schedule, pins);
        Ok(Start::Run(Box::new(self.afresh(journal, Box::new(sink)))))
    }

    async fn begin_upload(
        &mut self,
        journal: &mut Journal,
        earlier: Option<Summary>,
    ) -> Result<crate::sink::object::PartTarget> {
        let header = self.place()?.header()?;
        self.header.object = Some(header.clone());
        self.check_header_len()?;
        self.check_layout()?;
        if let Some(summary) = earlier {
            self.give_up(&summary).await?;
        }
        let place = self.place()?;
        place.check_free().await?;
        PinsFile::beside(&self.paths.journal).remove()?;
        journal.truncate(0)?;
        journal.mirror_to(place.mirror(&header).await?);
        journal.append([Record::Header(Box::new(self.header.clone()))])?;
        self.paths.sync_directory()?;
        let upload = place.create(&header).await?;
        journal.append([Record::Upload { id: upload.clone() }])?;
        journal.send_to_mirror().await?;
        place.target(&upload)
    }

    /// Gives up the upload of an earlier run, which nobody can go on with from here.
    async fn give_up(&mut self, summary: &Summary) -> Result<()> {
        let Some(header) = &summary.header.object else { return Ok(()) };
        match &summary.upload {
            Some(upload) => self.place()?.abort(header, upload).await,
            None => {
                if let Err(error) = self.place()?.abandon(header).await {
                    self.warnings.push(format!(
                        "an upload that an earlier run had just begun may be there still, which vmferry gc finds: {error}"
                    ));
                }
                Ok(())
            }
        }
    }

    /// Refuses a layout that fills in more late than an upload can hold back.
    fn check_layout(&self) -> Result<()> {
        let schedule = self.object_header()?.schedule;
        for disk in &self.disks {
            let mut ops = Vec::new();
            let mut writer = disk.writer()?;
            writer
                .begin(&mut ops)
                .map_err(|error| Error::failed("cannot begin the output").with_source(error))?;
            let late: u64 = ops
                .iter()
                .map(|op| match op {
                    vmferry_formats::Op::Reserve { len, .. } => *len,
                    _ => 0,
                })
                .sum();
            if late > schedule.first {
                let message = format!(
                    "the tables of this layout take {late} bytes in front, and an object can fill in {} late",
                    schedule.first
                );
                return Err(Error::refused(message)
                    .with_hint("write a streamOptimized vmdk or a qcow2, or state a larger --part-size"));
            }
        }
        Ok(())
    }

    /// Goes on with what an earlier run said of the object.
    async fn adopt(&mut self, journal: &mut Journal, summary: &Summary) -> Result<()> {
        let earlier = summary.header.object.clone().filter(|object| object.schedule.is_sound());
        let earlier = earlier.ok_or_else(|| {
            Error::failed("the journal is damaged: it does not say how the object is cut")
                .with_hint("start again with --restart")
        })?;
        let url = self.place()?.location.to_string();
        if earlier.url != url {
            return Err(Error::refused(format!("the interrupted run wrote {}, this one {url}", earlier.url))
                .with_hint("name the same object to go on, or another --journal"));
        }
        let asked = self.means.options.object.part_size;
        if asked.is_some_and(|asked| (asked, 0) != (earlier.schedule.first, earlier.schedule.step)) {
            return Err(Error::refused("the interrupted run cut the object into parts of other lengths")
                .with_hint("use the same --part-size to go on, or start again with --restart"));
        }
        if earlier.remote != self.means.options.object.remote_journal {
            return Err(match earlier.remote {
                true => Error::refused("the journal of the interrupted run lies beside the object")
                    .with_hint("say --journal remote to go on"),
                false => Error::refused("the journal of the interrupted run lies on this machine only")
                    .with_hint("go on without --journal remote, or start again with --restart"),
            });
        }
        journal.mirror_to(self.place()?.mirror(&earlier).await?);
        self.header.object = Some(earlier);
        Ok(())
    }

    /// A sink that goes on where the journal ends.
    pub(super) fn object_sink(
        &self,
        summary: &Summary,
        point: &Checkpoint,
        slots: Vec<(Slot, u64, u64)>,
        fills: Vec<(Slot, u64, Bytes)>,
    ) -> Result<Box<dyn Sink>> {
        let upload = summary.upload.as_deref().unwrap_or_default();
        let earlier = Earlier { parts: summary.parts.clone(), pins: point.pins.clone() };
        let (place, header) = (self.place()?, self.object_header()?);
        let (target, pins) = (place.target(upload)?, place.pins(header, &self.paths.journal)?);
        let mut sink = ObjectSink::restore(target, self.object_header()?.schedule, pins, point.out, earlier)?;
        for (slot, start, len) in slots {
            sink.restore_slot(slot, start, len);
        }
        for (slot, at, bytes) in fills {
            sink.restore_fill(slot, at, &bytes)?;
        }
        sink.go_on()?;
        Ok(Box::new(sink))
    }

    /// The steps of a run that has written everything. With the disks come those of their records that
    /// are not in the journal yet.
    pub(super) async fn close_object(
        mut self,
        mut journal: Journal,
        (disks, records): (Vec<DiskEnd>, Vec<Record>),
        closed: Closed,
        moved: Snapshot,
        resumed_from: Option<(usize, u64)>,
    ) -> Result<Done> {
        journal.append(records.into_iter().chain([Record::Closed(closed.clone())]))?;
        journal.send_to_mirror().await.map_err(|error| self.resumable(error))?;
        let summary = journal.summary()?.ok_or_else(|| Error::failed("the journal is gone"))?;
        match self.complete_upload(&summary, closed.output_size).await {
            Ok(Completed::Yes) => self.end_object(journal, disks, closed, moved, resumed_from).await,
            Ok(Completed::Gone) => Err(self.resumable(Error::failed(format!(
                "the upload to {} is gone: somebody gave it up while it was being written",
                self.paths.output.display()
            )))),
            Err(error) => Err(self.resumable(error)),
        }
    }

    /// The steps behind the completion of the upload: reading back, manifest, marker, journal.
    pub(super) async fn end_object(
        mut self,
        mut journal: Journal,
        disks: Vec<DiskEnd>,
        mut closed: Closed,
        moved: Snapshot,
        resumed_from: Option<(usize, u64)>,
    ) -> Result<Done> {
        let output = self.paths.output.clone();
        self.prove(&mut journal, &disks, &mut closed, &output).await?;
        let (place, header) = (self.place()?, self.object_header()?);
        let options = self.means.options;
        let manifest = match options.digest {
            Some(algorithm) if options.manifest => {
                let content = self.manifest(algorithm, &disks, &closed);
                let reader = journal.reader()?;
                let put = place.put_manifest(move |writer| content.write(reader, writer).map(drop)).await?;
                Some(put.to_string().into())
            }
            _ => {
                place.remove_stale_manifest().await?;
                None
            }
        };
        place.remove_marker(header).await?;
        PinsFile::beside(&self.paths.journal).remove()?;
        journal.remove()?;
        self.paths.sync_directory()?;
        Ok(Done { disks, closed, moved, resumed_from, manifest, warnings: self.warnings })
    }

    async fn complete_upload(&mut self, summary: &Summary, size: u64) -> Result<Completed> {
        let parts = parts_of(size, self.object_header()?.schedule, summary.parts.values());
        let upload = summary.upload.as_deref().unwrap_or_default();
        let restarted = self.means.options.resume == ResumePolicy::Restart;
        debug_assert!(summary.upload.is_some() || restarted, "parts belong to an upload");
        self.place()?.complete(self.object_header()?, upload, &parts, size).await
    }

    fn place(&self) -> Result<&ObjectPlace> {
        self.object.as_ref().ok_or_else(|| Error::failed("there is no object; this is a bug of vmferry"))
    }

    fn object_header(&self) -> Result<&ObjectHeader> {
        let header = self.header.object.as_ref();
        header.ok_or_else(|| Error::failed("the journal names no object; this is a bug of vmferry"))
    }
}
