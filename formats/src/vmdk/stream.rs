//! The streamOptimized writer; contract 3.4.

use crate::{
    ChunkShape, Encoder, FormatWriter, Op, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::{DeflateSpec, Wrapper},
    num::{to_u64, to_usize},
    output::Output,
    plan::Slot,
    vmdk::{
        VmdkOptions,
        descriptor::DESCRIPTOR_SECTORS,
        encoder::{GrainEncoder, padded_len},
        header::{AT_END, DEFLATE, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, Header},
        marker,
        tables::{
            ENTRY_LEN, GRAIN_LEN, GRAIN_SECTORS, MAX_SECTORS, TABLE_ENTRIES, TABLE_SECTORS,
            directory_entries, entry_bytes, entry_for, entry_sectors, too_long,
        },
        writer::{Piece, Progress, Subformat, descriptor},
    },
};

/// Writes streamOptimized: strictly forward if the size is known beforehand. If it is not, the
/// front, which tells it, is filled at the end.
///
/// Memory: one grain table, and 4 bytes for each 32 MiB up to the last data.
#[derive(Debug)]
pub(super) struct StreamWriter {
    options: VmdkOptions,
    name: String,
    codec: DeflateSpec,
    progress: Progress,
    /// Bytes of output so far; always whole sectors.
    position: u64,
    /// The front of the grain table in hand, up to the last entry that is not 0.
    table: Vec<u32>,
    /// The same of the grain directory.
    directory: Vec<u32>,
}

impl StreamWriter {
    /// A writer for a disk of `size` bytes, if that is known.
    ///
    /// # Errors
    /// Parameters out of range, or a disk that the format cannot hold.
    pub(super) fn new(options: &VmdkOptions, size: Option<u64>, name: &str) -> Result<Self> {
        let writer = Self {
            options: options.clone(),
            name: name.to_owned(),
            codec: DeflateSpec::new(Wrapper::Zlib, options.level)?,
            progress: Progress::new(size)?,
            position: 0,
            table: Vec::new(),
            directory: Vec::new(),
        };
        // What a disk of zeros takes must fit at least; what data takes, its compression tells.
        let end = size.unwrap_or(0);
        writer.check_fits(Piece { end, grains: 0, len: OVERHEAD * SECTOR_LEN })?;
        Ok(writer)
    }

    /// Whether all fits that there will be if nothing follows `piece`.
    fn check_fits(&self, piece: Piece) -> Result<()> {
        let end = self.progress.size().unwrap_or(piece.end);
        let directory =
            entry_sectors(directory_entries(end.div_ceil(SECTOR_LEN), GRAIN_SECTORS, TABLE_ENTRIES));
        // Tables that the piece completes hold at least one of its grains each, but for the first;
        // one more may stay open.
        let span = u64::from(TABLE_ENTRIES) * to_u64(GRAIN_LEN);
        let passed = piece.end / span - (self.progress.guest() / span).min(piece.end / span);
        let tables = passed.min(piece.grains).saturating_add(2).saturating_mul(1 + TABLE_SECTORS);
        let sectors = (self.position.saturating_add(piece.len) / SECTOR_LEN)
            .saturating_add(tables)
            .saturating_add(1 + directory + TRAILER);
        if sectors > MAX_SECTORS { Err(too_long()) } else { Ok(()) }
    }

    /// Header and descriptor.
    fn front(&self, capacity: u64) -> Vec<u8> {
        let mut bytes = header(capacity, AT_END).to_bytes();
        bytes.extend_from_slice(&descriptor(&self.options, capacity, &self.name));
        bytes
    }

    /// Appends the grain table in hand, number `number`, unless it is empty.
    fn close_table(&mut self, number: u64, out: &mut Output<'_>) -> Result<()> {
        if self.table.is_empty() {
            return Ok(());
        }
        self.table.resize(TABLE_ENTRIES as usize, 0);
        let mut bytes = marker::metadata(marker::TABLE, TABLE_SECTORS);
        bytes.extend_from_slice(&entry_bytes(&self.table));
        self.table.clear();
        self.directory.resize(to_usize(number), 0);
        // The directory names the table, not its marker.
        self.directory.push(entry_for(self.position + SECTOR_LEN)?);
        self.position += (1 + TABLE_SECTORS) * SECTOR_LEN;
        out.append(bytes);
        Ok(())
    }

    /// Places one grain.
    fn place_grain(&mut self, unit: u64, len: u32, out: &mut Output<'_>) -> Result<()> {
        let index = to_usize(self.progress.grain() % u64::from(TABLE_ENTRIES));
        self.table.resize(index, 0);
        self.table.push(entry_for(self.position)?);
        let len = padded_len(len);
        out.payload(unit, 1, len);
        self.position += len;
        Ok(())
    }
}

impl FormatWriter for StreamWriter {
    fn unit_len(&self) -> usize {
        GRAIN_LEN
    }

    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>> {
        Ok(Some(Box::new(GrainEncoder::new(&self.codec)?)))
    }

    fn encoder_identity(&self) -> String {
        self.codec.identity()
    }

    fn fills_late(&self) -> bool {
        self.progress.size().is_none()
    }

    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.progress.begin()?;
        self.position = OVERHEAD * SECTOR_LEN;
        match self.progress.size() {
            Some(size) => {
                let mut out = Output::new(ops);
                out.append(self.front(size.div_ceil(SECTOR_LEN)));
                out.skip((OVERHEAD - 1 - DESCRIPTOR_SECTORS) * SECTOR_LEN);
            }
            None => ops.push(Op::Reserve { slot: FRONT, len: self.position }),
        }
        Ok(())
    }

    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        let piece = self.progress.check_piece(shape, Subformat::StreamOptimized)?;
        self.check_fits(piece)?;
        let (mut out, mut unit) = (Output::new(ops), 0);
        for run in shape.runs() {
            let mut left = run.units;
            while left > 0 {
                let placed = match run.shape {
                    UnitShape::Compressed(len) => {
                        self.place_grain(unit, len, &mut out)?;
                        1
                    }
                    _ => left,
                };
                let number = self.progress.grain() / u64::from(TABLE_ENTRIES);
                self.progress.advance(placed, piece.end);
                if self.progress.grain() / u64::from(TABLE_ENTRIES) != number {
                    self.close_table(number, &mut out)?;
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
        self.close_table(self.progress.grain() / u64::from(TABLE_ENTRIES), &mut out)?;

        let sectors = entry_sectors(directory_entries(capacity, GRAIN_SECTORS, TABLE_ENTRIES));
        out.append(marker::metadata(marker::DIRECTORY, sectors));
        let directory = self.position / SECTOR_LEN + 1;
        let entries = std::mem::take(&mut self.directory);
        let unused = sectors * SECTOR_LEN - to_u64(entries.len()) * ENTRY_LEN;
        out.append(entry_bytes(&entries));
        out.skip(unused);

        let mut trailer = marker::metadata(marker::FOOTER, 1);
        trailer.extend_from_slice(&header(capacity, directory).to_bytes());
        trailer.extend_from_slice(&marker::metadata(marker::END, 0));
        out.append(trailer);
        self.position += (1 + sectors + TRAILER) * SECTOR_LEN;
        if self.progress.size().is_none() {
            out.fill(FRONT, 0, self.front(capacity));
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// Header or footer.
fn header(capacity: u64, directory: u64) -> Header {
    Header {
        // What VMware writes; ESXi refuses streams of version 1.
        version: 3,
        flags: FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
        capacity,
        grain: GRAIN_SECTORS,
        descriptor: 1,
        descriptor_len: DESCRIPTOR_SECTORS,
        table_entries: TABLE_ENTRIES,
        redundant_directory: 0,
        directory,
        overhead: OVERHEAD,
        unclean: false,
        compression: DEFLATE,
    }
}

/// Where grains begin, in sectors.
const OVERHEAD: u64 = 128;

/// Sectors behind the directory: footer marker, footer, end of stream.
const TRAILER: u64 = 3;

/// The reservation of everything in front of the grains, if the size is not known.
const FRONT: Slot = Slot(0);
