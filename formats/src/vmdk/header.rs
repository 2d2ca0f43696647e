//! The sparse extent header, which a stream repeats as its footer; contract 3.1.

use crate::{Error, Result, chunk::SECTOR_LEN, num::to_u64};

/// Length of the header in bytes: one sector.
pub(super) const HEADER_LEN: usize = 512;

/// `KDMV`.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// The newline characters are valid.
pub(super) const FLAG_NEWLINES: u32 = 1;
/// There is a redundant grain directory.
pub(super) const FLAG_REDUNDANT: u32 = 1 << 1;
/// The grain table entry 1 stands for zeros.
pub(super) const FLAG_ZEROED: u32 = 1 << 2;
/// Grains are compressed.
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
/// Markers stand before grains and tables.
pub(super) const FLAG_MARKERS: u32 = 1 << 17;

/// The directory's offset is in the footer.
pub(super) const GD_AT_END: u64 = u64::MAX;

/// Deflate, the only algorithm there is.
pub(super) const DEFLATE: u16 = 1;

/// Line ends that tell whether a transfer in text mode spoilt the file: LF, space, CR, LF.
const NEWLINES: [u8; 4] = *b"\n \r\n";

/// A sparse extent header. Offsets and sizes are sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) grain_size: u64,
    pub(super) descriptor_offset: u64,
    pub(super) descriptor_size: u64,
    pub(super) gt_entries: u32,
    pub(super) rgd_offset: u64,
    pub(super) gd_offset: u64,
    pub(super) over_head: u64,
    pub(super) unclean: bool,
    pub(super) compression: u16,
}

impl Header {
    /// The header as it stands on disk.
    pub(super) fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(4, &self.version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &self.capacity.to_le_bytes());
        put(20, &self.grain_size.to_le_bytes());
        put(28, &self.descriptor_offset.to_le_bytes());
        put(36, &self.descriptor_size.to_le_bytes());
        put(44, &self.gt_entries.to_le_bytes());
        put(48, &self.rgd_offset.to_le_bytes());
        put(56, &self.gd_offset.to_le_bytes());
        put(64, &self.over_head.to_le_bytes());
        put(72, &[u8::from(self.unclean)]);
        put(73, &NEWLINES);
        put(77, &self.compression.to_le_bytes());
        bytes
    }

    /// Reads a header that stands at byte `at` of the file and checks what can be checked without
    /// the rest of it.
    ///
    /// # Errors
    /// It is no header of a version and with features that are known.
    pub(super) fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes
            .get(..HEADER_LEN)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| Error::truncated("the file is shorter than a vmdk header").at(at))?;
        if bytes[..4] != MAGIC {
            return Err(Error::corrupt("no vmdk header (magic KDMV)").at(at));
        }
        let header = Self {
            version: u32_at(bytes, 4),
            flags: u32_at(bytes, 8),
            capacity: u64_at(bytes, 12),
            grain_size: u64_at(bytes, 20),
            descriptor_offset: u64_at(bytes, 28),
            descriptor_size: u64_at(bytes, 36),
            gt_entries: u32_at(bytes, 44),
            rgd_offset: u64_at(bytes, 48),
            gd_offset: u64_at(bytes, 56),
            over_head: u64_at(bytes, 64),
            unclean: bytes[72] != 0,
            compression: u16::from_le_bytes([bytes[77], bytes[78]]),
        };
        if header.flags & FLAG_NEWLINES != 0 && bytes[73..77] != NEWLINES {
            return Err(Error::corrupt(
                "the newline check fails: the file was transferred as text, which spoils it",
            )
            .at(at + 73));
        }
        header.check().map_err(|error| error.at(at))?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        if !(1..=3).contains(&self.version) {
            return Err(Error::unsupported(format!("vmdk version {} (1 to 3 are known)", self.version)));
        }
        if self.has(FLAG_COMPRESSED) && self.compression != DEFLATE {
            return Err(Error::unsupported(format!(
                "compression algorithm {} (1, deflate, is known)",
                self.compression
            )));
        }
        if !self.grain_size.is_power_of_two() || !(MIN_GRAIN..=MAX_GRAIN).contains(&self.grain_size) {
            return Err(Error::corrupt(format!(
                "grains of {} sectors, not a power of two from {MIN_GRAIN} to {MAX_GRAIN}",
                self.grain_size
            )));
        }
        if u64::from(self.gt_entries) != super::GT_ENTRIES {
            return Err(Error::unsupported(format!(
                "grain tables of {} entries (512 are known)",
                self.gt_entries
            )));
        }
        if self.capacity == 0 {
            return Err(Error::corrupt("a capacity of 0"));
        }
        if self.capacity.checked_mul(SECTOR_LEN).is_none() {
            return Err(Error::limit(format!("a capacity of {} sectors", self.capacity)));
        }
        Ok(())
    }

    /// Whether `flag` is set.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of a grain.
    pub(super) fn grain_len(&self) -> u64 {
        self.grain_size * SECTOR_LEN
    }

    /// Guest bytes that a grain table maps.
    pub(super) fn gt_span(&self) -> u64 {
        self.grain_len() * super::GT_ENTRIES
    }

    /// Bytes of the guest disk.
    pub(super) fn virtual_size(&self) -> u64 {
        self.capacity * SECTOR_LEN
    }

    /// Number of grain tables.
    pub(super) fn tables(&self) -> u64 {
        self.virtual_size().div_ceil(self.gt_span())
    }
}

/// The little-endian integer at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

/// The little-endian integer at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// Number of 32-bit entries in a piece of a table.
pub(super) fn entry_count(bytes: &[u8]) -> u64 {
    to_u64(bytes.len() / 4)
}

/// Sectors of the smallest grain: 4 KiB.
const MIN_GRAIN: u64 = 8;

/// Sectors of the largest grain: 2 MiB, the largest piece that is inflated in one step.
const MAX_GRAIN: u64 = 4096;
