//! The end of a run that writes: places chunks and sends them to the output; and its replay.

use std::io;

use bytes::Bytes;
use tokio::sync::oneshot;
use vmferry_formats::{FormatWriter, Op, plan::Slot};

use super::{
    engine::{Charge, Stage},
    hash::FileHash,
    journal::{ChunkRecord, DiskEnd, DiskStart, JournalReader, Record, Summary},
    layout::Layout,
    output::{Batch, Mark, Output, OutputEnd, SinkOp},
    process::{Payload, Processed},
    stages::{Comparison, Tree, changed},
};
use crate::error::{Error, Result};

/// Places chunks and sends them to the output.
pub(crate) struct Converter {
    layout: Layout,
    output: Output,
    disk: OpenDisk,
    ops: Vec<Op>,
}

/// How far the open disk is.
#[derive(Debug, Default)]
pub(crate) struct OpenDisk {
    /// Its number, if it lies in a container: its start and its end are recorded then.
    pub(crate) index: Option<u32>,
    pub(crate) tree: Tree,
    /// Bytes so far that are zero and take no space.
    pub(crate) zero: u64,
    pub(crate) is_raw: bool,
    /// The hash of its image that is taken in passing.
    pub(crate) hash: Option<FileHash>,
    /// Chunks that an earlier run wrote and a stream delivers again.
    pub(crate) earlier: Option<(u64, Comparison)>,
}

impl Converter {
    /// Goes on where `layout` and `output` stand.
    pub(crate) fn new(layout: Layout, output: Output) -> Self {
        Self { layout, output, disk: OpenDisk::default(), ops: Vec::new() }
    }

    /// What stands in front of all disks of an output that is begun.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.ops.clear();
        self.layout.begin(&mut self.ops)?;
        let ops = self.sink_ops(&Payload::default(), Vec::new())?;
        self.send(ops, None, Charge::default()).await
    }

    /// Begins the next disk.
    pub(crate) async fn begin_disk(&mut self, disk: OpenDisk, writer: Box<dyn FormatWriter>) -> Result<()> {
        self.disk = disk;
        self.ops.clear();
        self.layout.enter_disk(&mut self.ops)?;
        let mut ops = self.sink_ops(&Payload::default(), Vec::new())?;
        ops.extend(self.disk.hash.map(SinkOp::HashFrom));
        self.layout.begin_disk(writer, &mut self.ops)?;
        let ops = self.sink_ops(&Payload::default(), ops)?;
        let mark = self.disk.index.map(|disk| {
            let (start, out) = (self.layout.start(), self.layout.position());
            self.mark(Record::DiskStart(DiskStart { disk, start, out }), 0)
        });
        self.send(ops, mark, Charge::default()).await
    }

    /// Goes on with a disk that the layout has been brought into.
    pub(crate) fn go_on(&mut self, disk: OpenDisk) {
        self.disk = disk;
    }

    /// Ends the open disk, whose source had `size` bytes; waits until its bytes are with the sink.
    pub(crate) async fn end_disk(&mut self, size: u64) -> Result<DiskEnd> {
        self.ops.clear();
        self.layout.finish_disk(size, &mut self.ops)?;
        let mut ops = self.sink_ops(&Payload::default(), Vec::new())?;
        let (sender, receiver) = oneshot::channel();
        if self.disk.hash.is_some() {
            ops.push(SinkOp::HashTo(sender));
        }
        self.send(ops, None, Charge::default()).await?;
        let hash = match self.disk.hash {
            // The output's own error says why there is no answer.
            Some(_) => Some(receiver.await.map_err(|_| Error::failed("the output ended early"))?),
            None => None,
        };
        let (start, position) = (self.layout.start(), self.layout.position());
        let mut end = DiskEnd {
            disk: self.disk.index.unwrap_or(0),
            size,
            zero: self.disk.zero,
            start,
            len: position - start,
            out: position,
            tree: std::mem::take(&mut self.disk.tree).finish(size).map(|tree| tree.to_string()),
            hash: hash.map(|hash| hash.to_string()),
        };
        self.layout.leave_disk(&end, &mut self.ops)?;
        let ops = self.sink_ops(&Payload::default(), Vec::new())?;
        end.out = self.layout.position();
        let mark = self.disk.index.map(|_| self.mark(Record::DiskEnd(end.clone()), size));
        self.send(ops, mark, Charge::default()).await?;
        Ok(end)
    }

    /// What stands behind all disks.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.ops.clear();
        self.layout.finish(&mut self.ops)?;
        let ops = self.sink_ops(&Payload::default(), Vec::new())?;
        self.send(ops, None, Charge::default()).await
    }

    /// Ends the output, or suspends it. Gives back what is left, and the length of the output.
    pub(crate) async fn end(self, complete: bool) -> (OutputEnd, Result<u64>) {
        let output_size = self.layout.position();
        let (end, result) = self.output.end(complete).await;
        (end, result.map(|()| output_size))
    }

    fn mark(&self, record: Record, at: u64) -> Mark {
        let out = self.layout.position();
        Mark { record, disk: self.disk.index, at, out, zero: self.disk.zero }
    }

    /// Joins the operations in hand with their bytes, behind `ops`.
    fn sink_ops(&mut self, payload: &Payload, mut ops: Vec<SinkOp>) -> Result<Vec<SinkOp>> {
        for op in self.ops.drain(..) {
            match op {
                Op::Append(bytes) => append(&mut ops).push(bytes),
                Op::Payload { first, units, len } => payload.collect(first, units, len, append(&mut ops))?,
                Op::Skip(len) => ops.push(SinkOp::Skip(len)),
                Op::Reserve { slot, len } => ops.push(SinkOp::Reserve { slot, len }),
                Op::Fill { slot, at, bytes } => ops.push(SinkOp::Fill { slot, at, bytes }),
            }
        }
        Ok(ops)
    }

    async fn send(&mut self, ops: Vec<SinkOp>, mark: Option<Mark>, charge: Charge) -> Result<()> {
        if ops.is_empty() && mark.is_none() {
            return Ok(());
        }
        self.output.send(Batch { ops, mark, charge }).await
    }
}

/// The pieces of the append at the end of `ops`, begun if there is none.
fn append(ops: &mut Vec<SinkOp>) -> &mut Vec<Bytes> {
    if !matches!(ops.last(), Some(SinkOp::Append(_))) {
        ops.push(SinkOp::Append(Vec::new()));
    }
    match ops.last_mut() {
        Some(SinkOp::Append(pieces)) => pieces,
        _ => unreachable!("the last operation is the append that was just made"),
    }
}

impl Stage for Converter {
    async fn accept(&mut self, chunk: Processed, charge: Charge) -> Result<()> {
        let Processed { shape, check, zero_bytes, payload, .. } = chunk;
        if let Some((end, comparison)) = &mut self.disk.earlier
            && shape.guest_offset < *end
        {
            return match comparison.first_difference(shape.guest_offset, shape.len, check)? {
                None => Ok(()),
                Some(at) => Err(changed(at)),
            };
        }
        self.disk.tree.push(shape.len, check);
        self.disk.zero += zero_bytes;
        self.ops.clear();
        self.layout.place(&shape, &mut self.ops)?;
        let record = ChunkRecord::new(&shape, check, self.layout.position(), self.disk.is_raw);
        let mark = self.mark(Record::Chunk(record), shape.guest_offset + shape.len);
        let ops = self.sink_ops(&payload, Vec::new())?;
        self.send(ops, Some(mark), charge).await
    }
}

/// What is told while a journal is replayed.
pub(crate) trait Replay {
    /// A new writer for the disk that the journal ends in.
    fn writer(&mut self, disk: usize) -> Result<Box<dyn FormatWriter>>;

    /// A reservation: its name, its output offset, its length.
    fn slot(&mut self, slot: Slot, start: u64, len: u64);

    /// What was filled into a reservation, from `at` in it on.
    fn fill(&mut self, slot: Slot, at: u64, bytes: Bytes);

    /// A chunk of a disk.
    fn chunk(&mut self, disk: usize, record: &ChunkRecord) -> Result<()>;
}

/// Brings `layout` to where `summary` says that the journal ends; `tree` is that of the disk that it
/// ends in.
pub(crate) fn replay<R: io::Read>(
    layout: &mut Layout,
    tree: &mut Tree,
    journal: &mut JournalReader<R>,
    summary: &Summary,
    told: &mut impl Replay,
) -> Result<()> {
    let until = summary.checkpoint.as_ref().map_or(0, |point| point.at);
    let (mut ops, mut position) = (Vec::new(), 0);
    let mut tell = |ops: &mut Vec<Op>, told: &mut dyn Replay| {
        for op in ops.drain(..) {
            let span = op.span();
            match op {
                Op::Reserve { slot, len } => told.slot(slot, position, len),
                Op::Fill { slot, at, bytes } => told.fill(slot, at, bytes),
                _ => {}
            }
            position += span;
        }
    };
    let is_plain = summary.header.container.is_none();
    layout.begin(&mut ops)?;
    if is_plain {
        layout.enter_disk(&mut ops)?;
        layout.begin_disk(told.writer(0)?, &mut ops)?;
    }
    let (mut ended, mut open, mut at) = (0, is_plain.then_some(0), 0);
    loop {
        tell(&mut ops, told);
        if ended == summary.ended.len() && summary.open.is_none_or(|_| open == Some(ended) && at >= until) {
            return Ok(());
        }
        match journal.next_record()? {
            Some(Record::DiskStart(start)) => {
                (open, at) = (Some(ended), 0);
                if ended == summary.ended.len() {
                    layout.enter_disk(&mut ops)?;
                    layout.begin_disk(told.writer(ended)?, &mut ops)?;
                    demand(layout, start.out, || format!("the start of disk {ended}"))?;
                }
            }
            Some(Record::Chunk(record)) if ended < summary.ended.len() => told.chunk(ended, &record)?,
            Some(Record::Chunk(record)) => {
                let shape = record.shape(layout.unit_len()?)?;
                layout.place(&shape, &mut ops)?;
                demand(layout, record.out, || format!("the chunk at {}", record.at))?;
                tree.push(record.len, record.check()?);
                told.chunk(ended, &record)?;
                at = record.at + record.len;
            }
            Some(Record::DiskEnd(end)) => {
                layout.skip_disk(&end, &mut ops)?;
                demand(layout, end.out, || format!("disk {ended}"))?;
                (ended, open) = (ended + 1, None);
            }
            Some(_) => {}
            None => return Err(Error::failed("the journal is damaged: it ends before its checkpoint")),
        }
    }
}

/// What the journal says of the output's length must be what the writers say.
fn demand(layout: &Layout, out: u64, what: impl FnOnce() -> String) -> Result<()> {
    if layout.position() == out {
        return Ok(());
    }
    let (what, position) = (what(), layout.position());
    Err(Error::failed(format!("the journal is damaged: {what} ends at output byte {position}, not {out}"))
        .with_hint("start again with --restart"))
}
