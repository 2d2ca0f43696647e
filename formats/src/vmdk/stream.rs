//! The streamOptimized writer; contract 3.4.

use bytes::Bytes;

use crate::{
    ChunkShape, Encoder, Error, FormatWriter, Op, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::{DeflateSpec, Wrapper},
    num::{to_u64, to_usize},
    plan::Slot,
    vmdk::{
        GRAIN_LEN, GRAIN_SECTORS, GT_ENTRIES, GT_LEN, GT_SPAN, SECTOR_LIMIT,
        descriptor::DESCRIPTOR_SECTORS,
        encoder::GrainEncoder,
        header::{DEFLATE, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, GD_AT_END, HEADER_LEN, Header},
        marker::{MARKER_LEN, Marker, padded_grain_len},
        writer::{Naming, Progress, capacity, set_entry},
    },
};

/// Writes streamOptimized.
///
/// Memory: one grain table and 4 bytes for each 32 MiB of the disk up to its last data.
#[derive(Debug)]
pub(super) struct StreamWriter {
    naming: Naming,
    spec: DeflateSpec,
    capacity: Option<u64>,
    progress: Progress,
    /// The front of the open grain table, up to the last entry that is not 0.
    table: Vec<u8>,
    /// The same of the directory.
    directory: Vec<u8>,
}

impl StreamWriter {
    /// A writer for a disk of `size` bytes, if that is known.
    ///
    /// # Errors
    /// The level is unknown.
    pub(super) fn new(naming: Naming, size: Option<u64>) -> Result<Self> {
        let spec = DeflateSpec::new(Wrapper::Zlib, naming.options.level)?;
        let capacity = size.map(capacity).transpose()?;
        let progress = Progress::new(size);
        Ok(Self { naming, spec, capacity, progress, table: Vec::new(), directory: Vec::new() })
    }

    fn header(capacity: u64, gd_offset: u64) -> Header {
        Header {
            version: 3,
            flags: FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
            capacity,
            grain_size: GRAIN_SECTORS,
            descriptor_offset: 1,
            descriptor_size: DESCRIPTOR_SECTORS,
            gt_entries: 512,
            rgd_offset: 0,
            gd_offset,
            over_head: OVER_HEAD,
            unclean: false,
            compression: DEFLATE,
        }
    }

    /// Header and descriptor of a disk of `capacity` sectors.
    fn front(&self, capacity: u64) -> Bytes {
        let mut front = Self::header(capacity, GD_AT_END).to_bytes().to_vec();
        front.extend_from_slice(&self.naming.descriptor(capacity).to_bytes());
        front.into()
    }

    /// Most bytes that follow the grains of a piece that ends at guest byte `end`: tables that it
    /// completes, the directory, the footer and the end.
    fn worst_tail(&self, end: u64) -> u64 {
        let tables = end.div_ceil(GT_SPAN) - self.progress.guest / GT_SPAN;
        let directory = (end.div_ceil(GT_SPAN) * 4).next_multiple_of(SECTOR_LEN);
        let markers = to_u64(MARKER_LEN) * 5;
        tables.saturating_mul(to_u64(MARKER_LEN) + GT_LEN).saturating_add(directory + markers)
    }

    /// Appends a marker and a table, padded to a sector. Returns the sector of the table.
    fn append_table(&mut self, marker: Marker, table: &[u8], len: u64, ops: &mut Vec<Op>) -> u64 {
        let mut bytes = marker.to_bytes().to_vec();
        bytes.extend_from_slice(table);
        let sector = (self.progress.position + to_u64(MARKER_LEN)) / SECTOR_LEN;
        let missing = len - to_u64(table.len());
        ops.push(Op::Append(bytes.into()));
        if missing > 0 {
            ops.push(Op::Skip(missing));
        }
        self.progress.position += to_u64(MARKER_LEN) + len;
        sector
    }

    /// Appends the open grain table, which maps range `index`, unless it is empty.
    fn close_table(&mut self, index: u64, ops: &mut Vec<Op>) {
        if self.table.is_empty() {
            return;
        }
        let table = std::mem::take(&mut self.table);
        let sector = self.append_table(Marker::Table(GT_LEN / SECTOR_LEN), &table, GT_LEN, ops);
        set_entry(&mut self.directory, index, sector);
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

impl FormatWriter for StreamWriter {
    fn unit_len(&self) -> usize {
        to_usize(GRAIN_LEN)
    }

    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>> {
        Ok(Some(Box::new(GrainEncoder::new(&self.spec)?)))
    }

    fn encoder_identity(&self) -> String {
        self.spec.identity()
    }

    fn fills_late(&self) -> bool {
        // The capacity stands in front.
        self.capacity.is_none()
    }

    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.progress.begin()?;
        let len = OVER_HEAD * SECTOR_LEN;
        match self.capacity {
            Some(capacity) => {
                let front = self.front(capacity);
                let rest = len - to_u64(front.len());
                ops.extend([Op::Append(front), Op::Skip(rest)]);
            }
            None => ops.push(Op::Reserve { slot: FRONT, len }),
        }
        self.progress.position = len;
        Ok(())
    }

    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        let end = shape.guest_offset.saturating_add(shape.len);
        let stored_len = |shape| match shape {
            UnitShape::Absent => Ok(0),
            UnitShape::Compressed(len @ 1..=MAX_STREAM_LEN) => Ok(padded_grain_len(u64::from(len))),
            UnitShape::Compressed(len) => Err(Error::invalid_input(format!(
                "compressed grain of {len} bytes, not 1 to {MAX_STREAM_LEN}"
            ))),
            UnitShape::Data => Err(Error::invalid_input("uncompressed grain in a streamOptimized vmdk")),
        };
        self.progress.check_piece(shape, stored_len, self.worst_tail(end))?;
        // Joined where they touch, but never with operations of an earlier call: unit numbers belong
        // to this piece.
        let (own, mut unit) = (ops.len(), 0);
        for run in shape.runs() {
            let UnitShape::Compressed(len) = run.shape else {
                self.advance(run.units, end, ops);
                unit += run.units;
                continue;
            };
            let grain_len = padded_grain_len(u64::from(len));
            for _ in 0..run.units {
                let index = self.progress.guest / GRAIN_LEN % GT_ENTRIES;
                set_entry(&mut self.table, index, self.progress.position / SECTOR_LEN);
                match ops[own..].last_mut() {
                    Some(Op::Payload { first, units, len }) if *first + *units == unit => {
                        *units += 1;
                        *len += grain_len;
                    }
                    _ => ops.push(Op::Payload { first: unit, units: 1, len: grain_len }),
                }
                self.progress.position += grain_len;
                unit += 1;
                self.advance(1, end, ops);
            }
        }
        Ok(())
    }

    fn finish(&mut self, size: u64, ops: &mut Vec<Op>) -> Result<()> {
        self.progress.finish(size)?;
        let capacity = capacity(size)?;
        self.close_table(self.progress.guest / GT_SPAN, ops);
        let directory = std::mem::take(&mut self.directory);
        let len = (size.div_ceil(GT_SPAN) * 4).next_multiple_of(SECTOR_LEN);
        let gd_offset = self.append_table(Marker::Directory(len / SECTOR_LEN), &directory, len, ops);
        debug_assert!(gd_offset < SECTOR_LIMIT, "place has left room");
        let mut tail = Marker::Footer.to_bytes().to_vec();
        tail.extend_from_slice(&Self::header(capacity, gd_offset).to_bytes());
        tail.extend_from_slice(&Marker::EndOfStream.to_bytes());
        debug_assert_eq!(tail.len(), 2 * MARKER_LEN + HEADER_LEN, "three sectors");
        self.progress.position += to_u64(tail.len());
        ops.push(Op::Append(tail.into()));
        if self.capacity.is_none() {
            ops.push(Op::Fill { slot: FRONT, at: 0, bytes: self.front(capacity) });
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.progress.position
    }
}

/// The sectors in front of the grains, where the size is not known at the start.
const FRONT: Slot = Slot(0);

/// Sectors in front of the grains.
const OVER_HEAD: u64 = 128;

/// Bytes of the longest stream of a grain that readers take: they load two grains for one (3.3).
const MAX_STREAM_LEN: u32 = 128 * 1024 - 12;
