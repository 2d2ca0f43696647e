//! The VMDK writers: parameters, and what both variants check.

use crate::{
    ChunkShape, Error, FormatWriter, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::Level,
    num::{round_up, to_u64},
    vmdk::{GRAIN_LEN, SECTOR_LIMIT, descriptor::Descriptor, sparse::SparseWriter, stream::StreamWriter},
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

impl std::fmt::Display for Subformat {
    /// The `createType`, as the descriptor spells it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
        })
    }
}

/// A writer for a disk of `size` bytes, if that is known, in a file of this base name.
///
/// # Errors
/// Parameters out of range, or a disk that the format cannot hold.
pub fn writer(options: &VmdkOptions, size: Option<u64>, name: &str) -> Result<Box<dyn FormatWriter>> {
    if let Some(size) = size {
        check_size(size)?;
    }
    let naming = Naming { options: options.clone(), name: name.to_owned() };
    Ok(match options.subformat {
        Subformat::MonolithicSparse => Box::new(SparseWriter::new(naming, size)?),
        Subformat::StreamOptimized => Box::new(StreamWriter::new(naming, size)?),
    })
}

/// Whether a disk of `size` bytes can be a VMDK at all.
pub(super) fn check_size(size: u64) -> Result<()> {
    if size == 0 {
        return Err(Error::limit("a vmdk cannot hold an empty disk: use raw or qcow2"));
    }
    capacity(size).map(drop)
}

/// Sectors of a disk of `size` bytes.
pub(super) fn capacity(size: u64) -> Result<u64> {
    let rounded = round_up(size, SECTOR_LEN).ok_or_else(|| Error::limit("the size overflows"))?;
    Ok(rounded / SECTOR_LEN)
}

/// What a descriptor is made of, but for the size.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) options: VmdkOptions,
    name: String,
}

impl Naming {
    /// The descriptor of a disk of `capacity` sectors.
    pub(super) fn descriptor(&self, capacity: u64) -> Descriptor {
        let VmdkOptions { subformat, level, id_seed } = &self.options;
        let seed = id_seed.clone().unwrap_or_else(|| {
            let size = capacity * SECTOR_LEN;
            format!("virtual_size={size} subformat={subformat} level={level} name={}", self.name)
        });
        Descriptor::new(*subformat, capacity, &self.name, &seed)
    }
}

/// How far a writer has come; both variants go through the same checks.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Bytes of the source, if known.
    size: Option<u64>,
    stage: Stage,
    /// Guest bytes placed.
    pub(super) guest: u64,
    /// Bytes of output so far.
    pub(super) position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Placing,
    Finished,
}

impl Progress {
    pub(super) fn new(size: Option<u64>) -> Self {
        Self { size, stage: Stage::New, guest: 0, position: 0 }
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        if self.stage != Stage::New {
            return Err(Error::invalid_input("an image begins once"));
        }
        self.stage = Stage::Placing;
        Ok(())
    }

    /// Whether a piece may be placed now, with grains of the wanted kind, so that `worst` more bytes
    /// of output than its payload stay below the limit of the offsets. Changes nothing.
    pub(super) fn check_piece(
        &self,
        shape: &ChunkShape,
        stored_len: impl Fn(UnitShape) -> Result<u64>,
        worst: u64,
    ) -> Result<()> {
        let end = shape.guest_offset.checked_add(shape.len);
        let Some(end) = end.filter(|_| shape.guest_offset == self.guest && self.stage == Stage::Placing)
        else {
            return Err(Error::invalid_input(format!(
                "piece of {} bytes at {} is out of order, {} is next",
                shape.len, shape.guest_offset, self.guest
            )));
        };
        if !self.guest.is_multiple_of(GRAIN_LEN) {
            return Err(Error::invalid_input(format!(
                "piece at {} follows one that ended inside a grain",
                self.guest
            )));
        }
        if self.size.is_some_and(|size| end > size) {
            return Err(Error::invalid_input(format!("piece {}..{end} leaves the disk", self.guest)));
        }
        let (mut units, mut stored) = (0_u64, 0_u64);
        for run in shape.runs() {
            let len = stored_len(run.shape)?;
            stored = stored.saturating_add(len.saturating_mul(run.units));
            units = units.saturating_add(run.units);
        }
        if units != shape.len.div_ceil(GRAIN_LEN) {
            return Err(Error::invalid_input(format!(
                "piece of {} bytes has {units} grains instead of {}",
                shape.len,
                shape.len.div_ceil(GRAIN_LEN)
            )));
        }
        let reach = self.position.saturating_add(stored).saturating_add(worst);
        if reach / SECTOR_LEN >= SECTOR_LIMIT {
            return Err(Error::limit(format!(
                "the vmdk would grow past 2 TiB at guest byte {}, more than its offsets can name: use qcow2",
                self.guest
            )));
        }
        Ok(())
    }

    /// Whether the disk may end here, with `size` bytes.
    pub(super) fn finish(&mut self, size: u64) -> Result<()> {
        let announced = self.size.unwrap_or(size);
        if self.stage != Stage::Placing || size != self.guest || size != announced {
            return Err(Error::invalid_input(format!(
                "a disk of {size} bytes ({announced} announced) ends after {} placed",
                self.guest
            )));
        }
        check_size(size)?;
        self.stage = Stage::Finished;
        Ok(())
    }

    /// Takes `units` grains as placed; the last one of a disk may be short.
    pub(super) fn advance(&mut self, units: u64, end: u64) {
        self.guest = end.min(self.guest.saturating_add(units.saturating_mul(GRAIN_LEN)));
    }
}

/// Sets entry `index` of a table held as its front: entries between are 0.
pub(super) fn set_entry(table: &mut Vec<u8>, index: u64, entry: u64) {
    let entry = u32::try_from(entry).expect("checked against the limit of 32 bits before");
    let at = crate::num::to_usize(index * 4);
    debug_assert!(to_u64(table.len()) <= index * 4, "entries come in order");
    table.resize(at, 0);
    table.extend_from_slice(&entry.to_le_bytes());
}
