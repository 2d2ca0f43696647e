//! Chunks and their shapes: what the pipeline moves and what a writer places.

use crate::num::{to_u64, to_usize};

/// Bytes of a sector.
pub const SECTOR_LEN: u64 = 512;

/// Bytes of guest disk in a chunk: the unit of hashing, resume, permits and progress. Chunks are
/// aligned to their length; the last of a disk may be short.
pub const CHUNK_LEN: u64 = 4 << 20;

/// Bytes of guest disk in a leaf of the digest tree.
pub const LEAF_LEN: usize = 64 << 10;

/// What one unit of a chunk (the writer's cluster, grain or block) became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnitShape {
    /// All zero: nothing is stored.
    Absent,
    /// Encoded; the payload is this many bytes long. What counts is the format's matter (QCOW2: the
    /// compressed stream; VMDK: the deflate stream without its marker and padding).
    Compressed(u32),
    /// The unit's own bytes. In a compressing format: stored, because compression did not help.
    Data,
}

/// A run of units of equal shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShapeRun {
    /// The shape of each unit.
    pub shape: UnitShape,
    /// Number of units, not 0.
    pub units: u64,
}

/// The outline of a piece of the guest disk: all that [`place`](crate::FormatWriter::place) needs,
/// without the payload. So a replay after a crash feeds the same function as the first run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkShape {
    /// First guest byte, a multiple of [`CHUNK_LEN`].
    pub guest_offset: u64,
    /// Guest bytes covered: one chunk (the last may be short), or any number of whole chunks if
    /// all of them are absent.
    pub len: u64,
    runs: Vec<ShapeRun>,
}

impl ChunkShape {
    /// A shape without units yet.
    pub fn new(guest_offset: u64, len: u64) -> Self {
        Self { guest_offset, len, runs: Vec::new() }
    }

    /// A range of zeros in units of `unit_len` bytes.
    pub fn absent(guest_offset: u64, len: u64, unit_len: usize) -> Self {
        let mut shape = Self::new(guest_offset, len);
        shape.push(UnitShape::Absent, len.div_ceil(to_u64(unit_len)));
        shape
    }

    /// Adds `units` units of the same shape; equal neighbours become one run.
    pub fn push(&mut self, shape: UnitShape, units: u64) {
        match self.runs.last_mut() {
            _ if units == 0 => {}
            Some(last) if last.shape == shape => last.units += units,
            _ => self.runs.push(ShapeRun { shape, units }),
        }
    }

    /// The runs, in guest order.
    pub fn runs(&self) -> &[ShapeRun] {
        &self.runs
    }

    /// Number of units.
    pub fn units(&self) -> u64 {
        self.runs.iter().map(|run| run.units).sum()
    }

    /// Whether nothing of it is stored.
    pub fn is_absent(&self) -> bool {
        self.runs.iter().all(|run| run.shape == UnitShape::Absent)
    }

    /// The shape of each unit, in order. Meant for single chunks; an absent range may be billions.
    pub fn iter(&self) -> impl Iterator<Item = UnitShape> + '_ {
        self.runs.iter().flat_map(|run| std::iter::repeat_n(run.shape, to_usize(run.units)))
    }
}
