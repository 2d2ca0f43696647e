//! What both writers share: parameters, and the order of calls.

use std::fmt;

use crate::{
    ChunkShape, Error, FormatWriter, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::Level,
    num::to_u64,
    vmdk::{
        descriptor::NewDescriptor,
        encoder::padded_len,
        ids::{Ids, Seed},
        sparse::SparseWriter,
        stream::StreamWriter,
        tables::{GRAIN_LEN, written_directory_entries},
    },
};

/// Parameters of a VMDK output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmdkOptions {
    /// The variant.
    pub subformat: Subformat,
    /// How hard streamOptimized compresses.
    pub level: Level,
    /// What ids derive from; by default virtual size, parameters and base name.
    pub id_seed: Option<String>,
}

/// Variant of a VMDK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Subformat {
    /// Uncompressed grains behind tables that are filled as their ranges complete.
    MonolithicSparse,
    /// Compressed grains, tables behind them, strictly forward.
    #[default]
    StreamOptimized,
}

impl fmt::Display for Subformat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
        })
    }
}

/// A writer for a disk of `size` bytes, if that is known.
///
/// # Errors
/// Parameters out of range, or a disk that the format cannot hold.
pub fn writer(options: &VmdkOptions, size: Option<u64>, name: &str) -> Result<Box<dyn FormatWriter>> {
    Ok(match options.subformat {
        Subformat::MonolithicSparse => Box::new(SparseWriter::new(options, size, name)?),
        Subformat::StreamOptimized => Box::new(StreamWriter::new(options, size, name)?),
    })
}

/// Where a writer stands in its disk.
#[derive(Debug)]
pub(super) struct Progress {
    /// Bytes of the source, if known.
    size: Option<u64>,
    stage: Stage,
    /// Guest bytes placed.
    guest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Placing,
    Finished,
}

impl Progress {
    /// At the start of a disk of `size` bytes, if that is known.
    ///
    /// # Errors
    /// No VMDK can hold it.
    pub(super) fn new(size: Option<u64>) -> Result<Self> {
        size.map_or(Ok(()), |size| capacity(size).map(|_| ()))?;
        Ok(Self { size, stage: Stage::New, guest: 0 })
    }

    /// Bytes of the source, if known.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Guest bytes placed.
    pub(super) fn guest(&self) -> u64 {
        self.guest
    }

    /// Index of the next grain.
    pub(super) fn grain(&self) -> u64 {
        self.guest.div_ceil(to_u64(GRAIN_LEN))
    }

    /// `begin` is called.
    ///
    /// # Errors
    /// Not for the first time.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.stage != Stage::New {
            return Err(Error::invalid_input("an image begins once"));
        }
        self.stage = Stage::Placing;
        Ok(())
    }

    /// Whether `shape` may be placed now; changes nothing. Answers where it ends, and the bytes of
    /// output that its grains take, of which there are so many.
    ///
    /// # Errors
    /// It is not the next piece, or has units of another kind than those of `subformat`.
    pub(super) fn check_piece(&self, shape: &ChunkShape, subformat: Subformat) -> Result<Piece> {
        let grain = to_u64(GRAIN_LEN);
        let end = shape.guest_offset.checked_add(shape.len);
        let Some(end) = end.filter(|_| shape.guest_offset == self.guest && self.stage == Stage::Placing)
        else {
            return Err(Error::invalid_input(format!(
                "piece of {} bytes at {} is out of order, {} is next",
                shape.len, shape.guest_offset, self.guest
            )));
        };
        if !self.guest.is_multiple_of(grain) {
            return Err(Error::invalid_input(format!(
                "piece at {} follows one that ended inside a grain of {grain} bytes",
                self.guest
            )));
        }
        if self.size.is_some_and(|size| end > size) {
            return Err(Error::invalid_input(format!("piece {}..{end} leaves the disk", self.guest)));
        }
        written_directory_entries(end.div_ceil(SECTOR_LEN))?;
        let (mut units, mut piece) = (0_u64, Piece { end, grains: 0, len: 0 });
        for run in shape.runs() {
            let len = match (run.shape, subformat) {
                (UnitShape::Absent, _) => 0,
                (UnitShape::Data, Subformat::MonolithicSparse) => grain,
                (UnitShape::Compressed(len), Subformat::StreamOptimized)
                    if (1..=MAX_STREAM_LEN).contains(&len) =>
                {
                    padded_len(len)
                }
                (shape, _) => {
                    return Err(Error::invalid_input(format!("no grain of {subformat} is {shape:?}")));
                }
            };
            units = units.saturating_add(run.units);
            if len > 0 {
                piece.grains = piece.grains.saturating_add(run.units);
                piece.len = piece.len.saturating_add(run.units.saturating_mul(len));
            }
        }
        if units != shape.len.div_ceil(grain) {
            return Err(Error::invalid_input(format!(
                "piece of {} bytes has the wrong number of grains of {grain} bytes",
                shape.len
            )));
        }
        Ok(piece)
    }

    /// `units` grains are placed, up to `end` at most.
    pub(super) fn advance(&mut self, units: u64, end: u64) {
        self.guest = end.min(self.guest.saturating_add(units.saturating_mul(to_u64(GRAIN_LEN))));
    }

    /// `finish` is called with `size`. Answers the capacity in sectors.
    ///
    /// # Errors
    /// That is not what was placed or announced, or nothing that a VMDK can hold.
    pub(super) fn finish(&mut self, size: u64) -> Result<u64> {
        let announced = self.size.unwrap_or(size);
        if self.stage != Stage::Placing || size != self.guest || size != announced {
            return Err(Error::invalid_input(format!(
                "a disk of {size} bytes ({announced} announced) ends after {} placed",
                self.guest
            )));
        }
        let capacity = capacity(size)?;
        self.stage = Stage::Finished;
        Ok(capacity)
    }
}

/// What a piece takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Guest byte where it ends.
    pub(super) end: u64,
    /// Grains that are stored.
    pub(super) grains: u64,
    /// Bytes of output that they take.
    pub(super) len: u64,
}

/// Sectors of a disk of `size` bytes.
///
/// # Errors
/// No VMDK can hold it.
pub(super) fn capacity(size: u64) -> Result<u64> {
    if size == 0 {
        return Err(Error::limit(
            "a vmdk cannot hold an empty disk (to its readers a capacity of 0 means that it is told elsewhere): write \
             RAW or QCOW2 instead",
        ));
    }
    let capacity = size.div_ceil(SECTOR_LEN);
    written_directory_entries(capacity).map(|_| capacity)
}

/// The descriptor of a disk of `capacity` sectors.
pub(super) fn descriptor(options: &VmdkOptions, capacity: u64, name: &str) -> Vec<u8> {
    let parameters = format!("subformat={} level={}", options.subformat, options.level);
    let virtual_size = capacity.saturating_mul(SECTOR_LEN);
    let seed = match &options.id_seed {
        Some(seed) => Seed::Given(seed),
        None => Seed::Derived { virtual_size, parameters: &parameters, name },
    };
    NewDescriptor { subformat: options.subformat, capacity, name, ids: Ids::new(&seed, 0) }.to_bytes()
}

/// Longest zlib stream of a grain: readers load two grains, marker included.
#[expect(clippy::cast_possible_truncation, reason = "a constant of 128 KiB")]
const MAX_STREAM_LEN: u32 = 2 * GRAIN_LEN as u32 - 12;
