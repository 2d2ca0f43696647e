//! The monolithicSparse writer; contract 3.5.

use bytes::Bytes;

use crate::{
    ChunkShape, Encoder, Error, FormatWriter, Op, Result,
    chunk::{SECTOR_LEN, UnitShape},
    num::{to_u64, to_usize},
    plan::Slot,
    vmdk::{
        GRAIN_LEN, GRAIN_SECTORS, GT_ENTRIES, GT_LEN, GT_SPAN, SECTOR_LIMIT,
        descriptor::DESCRIPTOR_SECTORS,
        header::{FLAG_NEWLINES, FLAG_REDUNDANT, Header},
        writer::{Naming, Progress, capacity, set_entry},
    },
};

/// Writes monolithicSparse. Memory: one grain table; both directories once, at the start.
#[derive(Debug)]
pub(super) struct SparseWriter {
    naming: Naming,
    capacity: u64,
    layout: Layout,
    progress: Progress,
    /// The front of the open grain table, up to the last entry that is not 0.
    table: Vec<u8>,
}

/// Where the tables stand, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    /// Number of grain tables.
    tables: u64,
    /// Sectors of a directory.
    directory: u64,
    redundant_directory: u64,
    primary_directory: u64,
    /// First sector of the grains.
    over_head: u64,
}

impl Layout {
    fn new(capacity: u64) -> Self {
        let tables = (capacity * SECTOR_LEN).div_ceil(GT_SPAN);
        let directory = (tables * 4).div_ceil(SECTOR_LEN);
        let copy = directory + tables * TABLE_SECTORS;
        let redundant_directory = 1 + DESCRIPTOR_SECTORS;
        let primary_directory = redundant_directory + copy;
        let over_head = (primary_directory + copy).next_multiple_of(GRAIN_SECTORS);
        Self { tables, directory, redundant_directory, primary_directory, over_head }
    }

    /// A directory whose tables follow it.
    fn directory_bytes(&self, at: u64) -> Bytes {
        let mut bytes = Vec::with_capacity(to_usize(self.directory * SECTOR_LEN));
        for table in 0..self.tables {
            set_entry(&mut bytes, table, at + self.directory + table * TABLE_SECTORS);
        }
        bytes.resize(to_usize(self.directory * SECTOR_LEN), 0);
        bytes.into()
    }
}

impl SparseWriter {
    /// A writer for a disk of `size` bytes, which must be known.
    ///
    /// # Errors
    /// The size is not known, or more than 2 TiB.
    pub(super) fn new(naming: Naming, size: Option<u64>) -> Result<Self> {
        let size = size.ok_or_else(|| {
            Error::invalid_input(
                "a monolithicSparse vmdk begins with tables for the whole disk, whose size is not known: state it, \
                 or use streamOptimized or qcow2",
            )
        })?;
        let capacity = capacity(size)?;
        if capacity > SECTOR_LIMIT {
            return Err(Error::limit(format!(
                "a monolithicSparse vmdk holds at most 2 TiB, the disk has {size} bytes: use streamOptimized or qcow2"
            )));
        }
        let layout = Layout::new(capacity);
        Ok(Self { naming, capacity, layout, progress: Progress::new(Some(size)), table: Vec::new() })
    }

    fn front(&self) -> Bytes {
        let header = Header {
            version: 1,
            flags: FLAG_NEWLINES | FLAG_REDUNDANT,
            capacity: self.capacity,
            grain_size: GRAIN_SECTORS,
            descriptor_offset: 1,
            descriptor_size: DESCRIPTOR_SECTORS,
            gt_entries: 512,
            rgd_offset: self.layout.redundant_directory,
            gd_offset: self.layout.primary_directory,
            over_head: self.layout.over_head,
            unclean: false,
            compression: 0,
        };
        let mut front = header.to_bytes().to_vec();
        front.extend_from_slice(&self.naming.descriptor(self.capacity).to_bytes());
        front.extend_from_slice(&self.layout.directory_bytes(self.layout.redundant_directory));
        front.into()
    }

    /// Fills both copies of the open grain table, which maps range `index`, unless it is empty.
    fn close_table(&mut self, index: u64, ops: &mut Vec<Op>) {
        if self.table.is_empty() {
            return;
        }
        let bytes = Bytes::from(std::mem::take(&mut self.table));
        let at = index * GT_LEN;
        ops.push(Op::Fill { slot: REDUNDANT_TABLES, at, bytes: bytes.clone() });
        ops.push(Op::Fill { slot: TABLES, at, bytes });
    }

    /// Takes `units` grains as placed and closes the table that they complete.
    fn advance(&mut self, units: u64, end: u64, ops: &mut Vec<Op>) {
        let table = self.progress.guest / GT_SPAN;
        self.progress.advance(units, end);
        if self.progress.guest / GT_SPAN != table {
            self.close_table(table, ops);
        }
    }
}

impl FormatWriter for SparseWriter {
    fn unit_len(&self) -> usize {
        to_usize(GRAIN_LEN)
    }

    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>> {
        Ok(None)
    }

    fn encoder_identity(&self) -> String {
        "none".into()
    }

    fn fills_late(&self) -> bool {
        true
    }

    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.progress.begin()?;
        let layout = self.layout;
        let tables_len = layout.tables * GT_LEN;
        let behind = (layout.primary_directory + layout.directory) * SECTOR_LEN + tables_len;
        ops.extend([
            Op::Append(self.front()),
            Op::Reserve { slot: REDUNDANT_TABLES, len: tables_len },
            Op::Append(layout.directory_bytes(layout.primary_directory)),
            Op::Reserve { slot: TABLES, len: tables_len },
        ]);
        self.progress.position = layout.over_head * SECTOR_LEN;
        if behind < self.progress.position {
            ops.push(Op::Skip(self.progress.position - behind));
        }
        Ok(())
    }

    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        let end = shape.guest_offset.saturating_add(shape.len);
        let stored_len = |shape| match shape {
            UnitShape::Absent => Ok(0),
            UnitShape::Data => Ok(GRAIN_LEN),
            UnitShape::Compressed(_) => {
                Err(Error::invalid_input("compressed grain in a monolithicSparse vmdk"))
            }
        };
        self.progress.check_piece(shape, stored_len, 0)?;
        let (own, mut unit) = (ops.len(), 0);
        for run in shape.runs() {
            if run.shape != UnitShape::Data {
                self.advance(run.units, end, ops);
                unit += run.units;
                continue;
            }
            for _ in 0..run.units {
                let index = self.progress.guest / GRAIN_LEN % GT_ENTRIES;
                set_entry(&mut self.table, index, self.progress.position / SECTOR_LEN);
                // The tail of the last grain need not be in the payload; it reads as zeros.
                let stored = GRAIN_LEN.min(end - self.progress.guest);
                match ops[own..].iter_mut().rev().find(|op| !matches!(op, Op::Fill { .. })) {
                    Some(Op::Payload { first, units, len }) if *first + *units == unit => {
                        *units += 1;
                        *len += stored;
                    }
                    _ => ops.push(Op::Payload { first: unit, units: 1, len: stored }),
                }
                if stored < GRAIN_LEN {
                    ops.push(Op::Skip(GRAIN_LEN - stored));
                }
                self.progress.position += GRAIN_LEN;
                unit += 1;
                self.advance(1, end, ops);
            }
        }
        Ok(())
    }

    fn finish(&mut self, size: u64, ops: &mut Vec<Op>) -> Result<()> {
        self.progress.finish(size)?;
        self.close_table(self.progress.guest / GT_SPAN, ops);
        debug_assert!(to_u64(self.table.len()) == 0, "closed above");
        Ok(())
    }

    fn position(&self) -> u64 {
        self.progress.position
    }
}

/// Sectors of a grain table.
const TABLE_SECTORS: u64 = GT_LEN / SECTOR_LEN;

/// The redundant grain tables.
const REDUNDANT_TABLES: Slot = Slot(0);

/// The primary ones.
const TABLES: Slot = Slot(1);
