//! The ends of a run that writes nothing: digest, compare.

use std::{fmt, io};

use vmferry_formats::{
    chunk::CHUNK_LEN,
    digest::{Algorithm, Digest, TreeHasher},
};

use super::{
    engine::{Charge, Stage},
    journal::{JournalReader, Record},
    manifest::ManifestReader,
    process::{Check, Processed},
};
use crate::error::{Error, ErrorKind, Result};

/// Chunk digests in guest order, from a journal or a manifest.
pub(crate) trait ExpectedChecks: Send {
    /// The next run: guest offset, guest bytes, check of each chunk.
    fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>>;
}

/// The chunks of one disk in a journal.
#[derive(Debug)]
pub(crate) struct DiskChecks<R> {
    journal: JournalReader<R>,
    wanted: u32,
    current: u32,
}

impl<R: io::Read> DiskChecks<R> {
    /// Those of disk number `disk`; a plain image has one, number 0.
    pub(crate) fn new(journal: JournalReader<R>, disk: u32) -> Self {
        Self { journal, wanted: disk, current: 0 }
    }

    /// Goes on to the next disk, once this one is read to its end.
    pub(crate) fn next_disk(&mut self) {
        self.wanted += 1;
    }
}

impl<R: io::Read + Send> ExpectedChecks for DiskChecks<R> {
    fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>> {
        while self.current <= self.wanted
            && let Some(record) = self.journal.next_record()?
        {
            match record {
                Record::Chunk(chunk) if self.current == self.wanted => {
                    return Ok(Some((chunk.at, chunk.len, chunk.check()?)));
                }
                Record::DiskEnd(end) => self.current = end.disk.saturating_add(1),
                _ => {}
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

impl fmt::Debug for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comparison").field("run", &self.run).finish_non_exhaustive()
    }
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

/// The source differs from what an earlier run read.
pub(crate) fn changed(at: u64) -> Error {
    Error::new(
        ErrorKind::SourceChanged,
        format!("the source changed since the interrupted run: guest byte {at} differs"),
    )
    .with_hint("start again with --restart")
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
