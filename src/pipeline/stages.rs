//! The ends of a run: convert, digest, compare.

use std::io;

use bytes::Bytes;
use vmferry_formats::{
    FormatWriter, Op,
    chunk::CHUNK_LEN,
    digest::{Algorithm, Digest, TreeHasher},
    plan::Slot,
};

use super::{
    engine::{Charge, Stage},
    journal::{ChunkRecord, JournalReader, Record},
    manifest::ManifestReader,
    output::{Batch, Output, SinkOp},
    process::{Check, Payload, Processed},
};
use crate::error::{Error, ErrorKind, FormatContext as _, Result};

/// Chunk digests in guest order, from a journal or a manifest.
pub(crate) trait ExpectedChecks: Send {
    /// The next run: guest offset, guest bytes, check of each chunk.
    fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>>;
}

impl<R: io::Read + Send> ExpectedChecks for JournalReader<R> {
    fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>> {
        while let Some(record) = self.next_record()? {
            if let Record::Chunk(chunk) = record {
                return Ok(Some((chunk.at, chunk.len, chunk.check()?)));
            }
        }
        Ok(None)
    }
}

impl<R: io::Read + Send> ExpectedChecks for ManifestReader<R> {
    fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>> {
        Self::next_run(self)
    }
}

/// Holds chunks against expected checks, whatever runs either side comes in.
pub(crate) struct Comparison {
    expected: Box<dyn ExpectedChecks>,
    run: Option<(u64, u64, Check)>,
}

impl Comparison {
    pub(crate) fn new(expected: Box<dyn ExpectedChecks>) -> Self {
        Self { expected, run: None }
    }

    /// The guest offset of the first chunk of `at..at + len` whose check is not `check`.
    pub(crate) fn first_difference(&mut self, at: u64, len: u64, check: Check) -> Result<Option<u64>> {
        let (mut at, end) = (at, at + len);
        while at < end {
            let (start, run_len, expected) = match self.run {
                Some(run) if at < run.0 + run.1 => run,
                _ => match self.expected.next_run()? {
                    Some(run) => *self.run.insert(run),
                    None => return Ok(Some(at)),
                },
            };
            // Lengths differ by the padding to 512 bytes at the end of a disk; chunks do not.
            let run_end = start + run_len.next_multiple_of(CHUNK_LEN);
            if at < start || at >= run_end || expected != check {
                return Ok(Some(at));
            }
            self.run = Some((start, run_end - start, expected));
            at = run_end;
        }
        Ok(None)
    }
}

/// Adds chunk digests up, if there are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(Option<TreeHasher>);

impl Tree {
    pub(crate) fn new(algorithm: Option<Algorithm>, size: Option<u64>) -> Self {
        let content = size.map(|size| size.next_multiple_of(512));
        Self(algorithm.map(|algorithm| TreeHasher::new(algorithm, content)))
    }

    pub(crate) fn push(&mut self, len: u64, check: Check) {
        if let (Some(tree), Check::Digest(digest)) = (&mut self.0, check) {
            tree.push(digest, len.div_ceil(CHUNK_LEN));
        }
    }

    pub(crate) fn finish(self, size: u64) -> Option<Digest> {
        self.0.map(|tree| tree.finish(size.next_multiple_of(512)))
    }
}

/// Places chunks and sends them to the output.
pub(crate) struct Converter {
    writer: Box<dyn FormatWriter>,
    output: Output,
    tree: Tree,
    zero: u64,
    is_raw: bool,
    /// Chunks that an earlier run wrote and a stream delivers again.
    earlier: Option<(u64, Comparison)>,
    ops: Vec<Op>,
}

impl Converter {
    /// Goes on where `writer`, `tree` and `zero` stand.
    pub(crate) fn new(
        writer: Box<dyn FormatWriter>,
        output: Output,
        tree: Tree,
        zero: u64,
        is_raw: bool,
    ) -> Self {
        Self { writer, output, tree, zero, is_raw, earlier: None, ops: Vec::new() }
    }

    /// Chunks below `end` are not placed again but held against `comparison`.
    pub(crate) fn skip_earlier(&mut self, end: u64, comparison: Comparison) {
        self.earlier = Some((end, comparison));
    }

    /// What stands in front of an image that is begun.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.ops.clear();
        self.writer.begin(&mut self.ops).context(|| "cannot begin the output".into())?;
        self.send(&Payload::default(), None, Charge::default()).await
    }

    /// Ends the image of a disk of `size` bytes, or suspends it (`None`). Gives back what is left,
    /// the disk digest, zero bytes and length of the output.
    pub(crate) async fn end(mut self, size: Option<u64>) -> (super::output::OutputEnd, Result<Ended>) {
        let mut finished = Ok(());
        if let Some(size) = size {
            self.ops.clear();
            finished = self.writer.finish(size, &mut self.ops).context(|| "cannot end the output".into());
            if finished.is_ok() {
                finished = self.send(&Payload::default(), None, Charge::default()).await;
            }
        }
        let output_size = self.writer.position();
        let (end, result) = self.output.end(size.is_some() && finished.is_ok()).await;
        let ended =
            Ended { tree: size.and_then(|size| self.tree.finish(size)), zero: self.zero, output_size };
        // Why the output failed says more than that it did.
        (end, result.and(finished).map(|()| ended))
    }

    async fn send(&mut self, payload: &Payload, record: Option<ChunkRecord>, charge: Charge) -> Result<()> {
        let mut ops = Vec::new();
        for op in self.ops.drain(..) {
            match op {
                Op::Append(bytes) => append(&mut ops).push(bytes),
                Op::Payload { first, units, len } => payload.collect(first, units, len, append(&mut ops))?,
                Op::Skip(len) => ops.push(SinkOp::Skip(len)),
                Op::Reserve { slot, len } => ops.push(SinkOp::Reserve { slot, len }),
                Op::Fill { slot, at, bytes } => ops.push(SinkOp::Fill { slot, at, bytes }),
            }
        }
        self.output.send(Batch { ops, record, zero: self.zero, charge }).await
    }
}

/// What an output became.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) tree: Option<Digest>,
    pub(crate) zero: u64,
    pub(crate) output_size: u64,
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
        if let Some((end, comparison)) = &mut self.earlier
            && shape.guest_offset < *end
        {
            return match comparison.first_difference(shape.guest_offset, shape.len, check)? {
                None => Ok(()),
                Some(at) => Err(changed(at)),
            };
        }
        self.tree.push(shape.len, check);
        self.zero += zero_bytes;
        self.ops.clear();
        let placed = self.writer.place(&shape, &mut self.ops);
        placed.context(|| format!("cannot place guest bytes {:#x}", shape.guest_offset))?;
        let record = ChunkRecord::new(&shape, check, self.writer.position(), self.is_raw);
        self.send(&payload, Some(record), charge).await
    }
}

/// The source differs from what an earlier run read.
pub(crate) fn changed(at: u64) -> Error {
    Error::new(
        ErrorKind::SourceChanged,
        format!("the source changed since the interrupted run: guest byte {at} differs"),
    )
    .with_hint("start again with --restart")
}

/// Brings `writer` and `tree` to where the journal ends; `slot` is told of each reservation.
pub(crate) fn replay<R: io::Read>(
    writer: &mut dyn FormatWriter,
    tree: &mut Tree,
    journal: &mut JournalReader<R>,
    until: u64,
    mut slot: impl FnMut(Slot, u64, u64),
    mut each: impl FnMut(&ChunkRecord) -> Result<()>,
) -> Result<()> {
    let (mut ops, mut position) = (Vec::new(), 0);
    writer.begin(&mut ops).context(|| "cannot begin the output".into())?;
    let mut at = 0;
    loop {
        for op in ops.drain(..) {
            match op {
                Op::Append(bytes) => position += bytes.len() as u64,
                Op::Payload { len, .. } | Op::Skip(len) => position += len,
                Op::Reserve { slot: name, len } => {
                    slot(name, position, len);
                    position += len;
                }
                Op::Fill { .. } => {}
            }
        }
        if at >= until {
            return Ok(());
        }
        let record = loop {
            match journal.next_record()? {
                Some(Record::Chunk(record)) => break record,
                Some(_) => {}
                None => return Err(Error::failed("the journal is damaged: it ends before its checkpoint")),
            }
        };
        let shape = record.shape(writer.unit_len())?;
        writer.place(&shape, &mut ops).context(|| "cannot replay the journal".into())?;
        if writer.position() != record.out {
            return Err(Error::failed(format!(
                "the journal is damaged: the chunk at {} ends at output byte {}, not {}",
                record.at,
                writer.position(),
                record.out
            ))
            .with_hint("start again with --restart"));
        }
        tree.push(record.len, record.check()?);
        each(&record)?;
        at = record.at + record.len;
    }
}

/// Adds up a disk digest.
pub(crate) struct DigestStage {
    pub(crate) tree: Tree,
    pub(crate) zero: u64,
}

impl Stage for DigestStage {
    async fn accept(&mut self, chunk: Processed, _charge: Charge) -> Result<()> {
        self.tree.push(chunk.shape.len, chunk.check);
        self.zero += chunk.zero_bytes;
        Ok(())
    }
}

/// Holds a disk against expected checks.
pub(crate) struct VerifyStage {
    comparison: Comparison,
    content: u64,
    differences: Vec<u64>,
    more: u64,
}

impl VerifyStage {
    /// Expects `content` bytes; whatever lies behind must be zero.
    pub(crate) fn new(expected: Box<dyn ExpectedChecks>, content: u64) -> Self {
        Self { comparison: Comparison::new(expected), content, differences: Vec::new(), more: 0 }
    }

    /// Whether the disk of `size` bytes was what was expected.
    pub(crate) fn finish(self, name: &str, size: u64) -> Result<()> {
        let failed = |message| Err(Error::new(ErrorKind::Verification, message));
        if size.next_multiple_of(512) < self.content {
            return failed(format!("{name} holds {size} bytes, its manifest says {}", self.content));
        }
        if self.differences.is_empty() {
            return Ok(());
        }
        let mut places: Vec<String> = self.differences.iter().map(|at| format!("{at:#x}")).collect();
        if self.more > 0 {
            places.push(format!("and {} more", self.more));
        }
        failed(format!(
            "{name} does not hold what its manifest says: chunks at guest bytes {}",
            places.join(", ")
        ))
    }

    fn differs(&mut self, at: u64) {
        if self.differences.len() < MAX_NAMED { self.differences.push(at) } else { self.more += 1 }
    }
}

impl Stage for VerifyStage {
    async fn accept(&mut self, chunk: Processed, _charge: Charge) -> Result<()> {
        let (mut at, end) = (chunk.shape.guest_offset, chunk.shape.guest_offset + chunk.shape.len);
        if chunk.data_behind_content {
            self.differs(at);
            return Ok(());
        }
        let end = end.min(self.content);
        while at < end {
            match self.comparison.first_difference(at, end - at, chunk.check)? {
                None => break,
                Some(difference) => {
                    self.differs(difference);
                    at = difference + CHUNK_LEN;
                }
            }
        }
        Ok(())
    }
}

/// Differences that are named one by one.
const MAX_NAMED: usize = 8;
