//! The monolithicSparse writer; contract 3.5.

use crate::{
    ChunkShape, Encoder, Error, FormatWriter, Op, Result,
    chunk::{SECTOR_LEN, UnitShape},
    num::{to_u64, to_usize},
    output::Output,
    plan::Slot,
    vmdk::{
        VmdkOptions,
        descriptor::DESCRIPTOR_SECTORS,
        header::{FLAG_NEWLINES, FLAG_REDUNDANT, Header, NONE},
        tables::{
            GRAIN_LEN, GRAIN_SECTORS, MAX_SECTORS, TABLE_ENTRIES, TABLE_SECTORS, entry_bytes, entry_for,
            entry_sectors, too_long, written_directory_entries,
        },
        writer::{Progress, Subformat, capacity, descriptor},
    },
};

/// Writes monolithicSparse: all tables are reserved in front, and filled as their ranges complete.
///
/// Memory: one grain table. The reservation has 128 KiB for each GiB of disk, most of it never
/// written for a disk that is mostly zeros.
#[derive(Debug)]
pub(super) struct SparseWriter {
    options: VmdkOptions,
    name: String,
    layout: Layout,
    progress: Progress,
    /// Bytes of output so far.
    position: u64,
    /// The front of the grain table in hand, up to the last entry that is not 0.
    table: Vec<u32>,
}

/// Where things are, in sectors. Both directories stand in front of their tables, the redundant
/// one first.
#[derive(Clone, Copy, Debug)]
struct Layout {
    capacity: u64,
    tables: u64,
    redundant_directory: u64,
    redundant_tables: u64,
    directory: u64,
    first_table: u64,
    overhead: u64,
}

impl Layout {
    fn new(capacity: u64) -> Result<Self> {
        let tables = written_directory_entries(capacity)?;
        let redundant_directory = 1 + DESCRIPTOR_SECTORS;
        let redundant_tables = redundant_directory + entry_sectors(tables);
        let directory = redundant_tables + tables * TABLE_SECTORS;
        let first_table = directory + entry_sectors(tables);
        let overhead = (first_table + tables * TABLE_SECTORS).next_multiple_of(GRAIN_SECTORS);
        Ok(Self { capacity, tables, redundant_directory, redundant_tables, directory, first_table, overhead })
    }

    fn header(&self) -> Header {
        Header {
            version: 1,
            flags: FLAG_NEWLINES | FLAG_REDUNDANT,
            capacity: self.capacity,
            grain: GRAIN_SECTORS,
            descriptor: 1,
            descriptor_len: DESCRIPTOR_SECTORS,
            table_entries: TABLE_ENTRIES,
            redundant_directory: self.redundant_directory,
            directory: self.directory,
            overhead: self.overhead,
            unclean: false,
            compression: NONE,
        }
    }

    /// The directory of the tables that begin at sector `first`.
    fn directory(&self, first: u64) -> Result<Vec<u8>> {
        let entries: Result<Vec<u32>> =
            (0..self.tables).map(|table| entry_for((first + table * TABLE_SECTORS) * SECTOR_LEN)).collect();
        Ok(entry_bytes(&entries?))
    }
}

impl SparseWriter {
    /// A writer for a disk of `size` bytes.
    ///
    /// # Errors
    /// The size is not known, or more than the format can hold.
    pub(super) fn new(options: &VmdkOptions, size: Option<u64>, name: &str) -> Result<Self> {
        let Some(known) = size else {
            return Err(Error::invalid_input(
                "the tables of monolithicSparse stand in front of the data, so the size of the disk has to be known \
                 beforehand: announce it, or write streamOptimized or QCOW2",
            ));
        };
        let capacity = capacity(known)?;
        if capacity > MAX_SECTORS {
            return Err(Error::limit(format!(
                "a disk of {known} bytes is larger than the 2 TiB of monolithicSparse: write QCOW2 or streamOptimized \
                 instead"
            )));
        }
        Ok(Self {
            options: options.clone(),
            name: name.to_owned(),
            layout: Layout::new(capacity)?,
            progress: Progress::new(size)?,
            position: 0,
            table: Vec::new(),
        })
    }

    /// Fills both copies of grain table `number`, unless it is empty.
    fn close_table(&mut self, number: u64, out: &mut Output<'_>) {
        if self.table.is_empty() {
            return;
        }
        let bytes = bytes::Bytes::from(entry_bytes(&self.table));
        self.table.clear();
        for first in [self.layout.redundant_tables, self.layout.first_table] {
            out.fill(FRONT, (first + number * TABLE_SECTORS) * SECTOR_LEN, bytes.clone());
        }
    }

    /// Places up to `units` grains, but none behind the end of the table in hand. Returns how many.
    fn place_grains(&mut self, first: u64, units: u64, end: u64, out: &mut Output<'_>) -> Result<u64> {
        let (grain, span) = (to_u64(GRAIN_LEN), u64::from(TABLE_ENTRIES));
        let index = self.progress.grain() % span;
        let units = units.min(span - index);
        self.table.resize(to_usize(index), 0);
        for unit in 0..units {
            self.table.push(entry_for(self.position + unit * grain)?);
        }
        // The tail of the last grain need not be in the payload; it reads as zeros.
        let len = units * grain;
        let payload = len.min(end - self.progress.guest());
        out.payload(first, units, payload);
        out.skip(len - payload);
        self.position += len;
        Ok(units)
    }
}

impl FormatWriter for SparseWriter {
    fn unit_len(&self) -> usize {
        GRAIN_LEN
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
        self.position = self.layout.overhead * SECTOR_LEN;
        ops.push(Op::Reserve { slot: FRONT, len: self.position });
        Ok(())
    }

    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        let piece = self.progress.check_piece(shape, Subformat::MonolithicSparse)?;
        if self.position.checked_add(piece.len).is_none_or(|end| end > MAX_SECTORS * SECTOR_LEN) {
            return Err(too_long());
        }
        let (mut out, mut unit) = (Output::new(ops), 0);
        for run in shape.runs() {
            let mut left = run.units;
            while left > 0 {
                let placed = match run.shape {
                    UnitShape::Data => self.place_grains(unit, left, piece.end, &mut out)?,
                    _ => left,
                };
                let number = self.progress.grain() / u64::from(TABLE_ENTRIES);
                self.progress.advance(placed, piece.end);
                if self.progress.grain() / u64::from(TABLE_ENTRIES) != number {
                    self.close_table(number, &mut out);
                }
                unit += placed;
                left -= placed;
            }
        }
        Ok(())
    }

    fn finish(&mut self, size: u64, ops: &mut Vec<Op>) -> Result<()> {
        let capacity = self.progress.finish(size)?;
        let mut out = Output::new(ops);
        self.close_table(self.progress.grain() / u64::from(TABLE_ENTRIES), &mut out);
        let layout = self.layout;
        let redundant = layout.directory(layout.redundant_tables)?;
        out.fill(FRONT, layout.redundant_directory * SECTOR_LEN, redundant);
        out.fill(FRONT, layout.directory * SECTOR_LEN, layout.directory(layout.first_table)?);
        let mut front = layout.header().to_bytes();
        front.extend_from_slice(&descriptor(&self.options, capacity, &self.name));
        out.fill(FRONT, 0, front);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// The reservation of everything in front of the grains.
const FRONT: Slot = Slot(0);
