//! The header of a sparse extent, which is also its footer; contract 3.1.

use crate::{
    chunk::SECTOR_LEN,
    error::{Error, Result},
    num::to_usize,
};

/// The fields of a header. Offsets and lengths are in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// 1 to 3.
    pub(super) version: u32,
    /// See the `FLAG_` constants.
    pub(super) flags: u32,
    /// Of the guest disk.
    pub(super) capacity: u64,
    /// Of a grain.
    pub(super) grain: u64,
    /// Where the embedded descriptor is; 0 for none.
    pub(super) descriptor: u64,
    /// Room for it.
    pub(super) descriptor_len: u64,
    /// Entries of a grain table.
    pub(super) table_entries: u32,
    /// Where the redundant grain directory is.
    pub(super) redundant_directory: u64,
    /// Where the grain directory is, or [`AT_END`].
    pub(super) directory: u64,
    /// First sector that may hold a grain.
    pub(super) overhead: u64,
    /// Whether the extent was not closed.
    pub(super) unclean: bool,
    /// [`NONE`] or [`DEFLATE`].
    pub(super) compression: u16,
}

impl Header {
    /// The bytes of the header.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(to_usize(SECTOR_LEN));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.capacity.to_le_bytes());
        bytes.extend_from_slice(&self.grain.to_le_bytes());
        bytes.extend_from_slice(&self.descriptor.to_le_bytes());
        bytes.extend_from_slice(&self.descriptor_len.to_le_bytes());
        bytes.extend_from_slice(&self.table_entries.to_le_bytes());
        bytes.extend_from_slice(&self.redundant_directory.to_le_bytes());
        bytes.extend_from_slice(&self.directory.to_le_bytes());
        bytes.extend_from_slice(&self.overhead.to_le_bytes());
        bytes.push(u8::from(self.unclean));
        bytes.extend_from_slice(&NEWLINES);
        bytes.extend_from_slice(&self.compression.to_le_bytes());
        bytes.resize(to_usize(SECTOR_LEN), 0);
        bytes
    }

    /// Reads the header that stands at byte `offset` of a file and checks each field for itself.
    ///
    /// # Errors
    /// It is no header, or one of a kind that is not supported.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let at = |field: u64| offset.saturating_add(field);
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(Error::truncated("the file ends inside the vmdk header").at(offset));
        };
        if bytes[..4] != MAGIC {
            return Err(Error::corrupt("no vmdk header").at(offset));
        }
        let header = Self {
            version: u32_at(bytes, 4),
            flags: u32_at(bytes, 8),
            capacity: u64_at(bytes, 12),
            grain: u64_at(bytes, 20),
            descriptor: u64_at(bytes, 28),
            descriptor_len: u64_at(bytes, 36),
            table_entries: u32_at(bytes, 44),
            redundant_directory: u64_at(bytes, 48),
            directory: u64_at(bytes, 56),
            overhead: u64_at(bytes, 64),
            unclean: bytes[72] != 0,
            compression: u16::from_le_bytes([bytes[77], bytes[78]]),
        };
        if !(1..=3).contains(&header.version) {
            return Err(
                Error::unsupported(format!("vmdk version {} is not 1, 2 or 3", header.version)).at(at(4))
            );
        }
        if header.has(FLAG_NEWLINES) && bytes[73..77] != NEWLINES {
            return Err(Error::corrupt(
                "the line ends in the header are not what was written: the file went through a text transfer",
            )
            .at(at(73)));
        }
        if !header.grain.is_power_of_two() || !(MIN_GRAIN..=MAX_GRAIN).contains(&header.grain) {
            return Err(Error::corrupt(format!(
                "grains of {} sectors are not a power of two from {MIN_GRAIN} to {MAX_GRAIN}",
                header.grain
            ))
            .at(at(20)));
        }
        if !header.table_entries.is_power_of_two() || header.table_entries > MAX_TABLE_ENTRIES {
            return Err(Error::corrupt(format!(
                "grain tables of {} entries are not a power of two up to {MAX_TABLE_ENTRIES}",
                header.table_entries
            ))
            .at(at(44)));
        }
        if header.compression > DEFLATE {
            return Err(Error::unsupported(format!("unknown compression {}", header.compression)).at(at(77)));
        }
        if header.has(FLAG_COMPRESSED) != (header.compression == DEFLATE) {
            return Err(Error::corrupt(format!(
                "flags {:#x} contradict compression {}",
                header.flags, header.compression
            ))
            .at(at(8)));
        }
        if header.is_compressed() && !header.has(FLAG_MARKERS) {
            return Err(Error::unsupported("compressed grains without markers").at(at(8)));
        }
        Ok(header)
    }

    /// Whether all of `flag` is set.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag == flag
    }

    /// Whether grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compression == DEFLATE
    }

    /// Takes the place of the directory from `footer`, which stands at byte `offset`.
    ///
    /// # Errors
    /// It contradicts the header: then one of them was put there to deceive (contract 1.13).
    pub(super) fn complete(&mut self, footer: Self, offset: u64) -> Result<()> {
        let expected = Self {
            redundant_directory: footer.redundant_directory,
            directory: footer.directory,
            overhead: footer.overhead,
            unclean: footer.unclean,
            ..self.clone()
        };
        if footer != expected {
            return Err(Error::corrupt("header and footer contradict each other").at(offset));
        }
        if footer.directory == AT_END {
            return Err(Error::corrupt("the footer does not say where the grain directory is").at(offset));
        }
        *self = footer;
        Ok(())
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// At the start of a sparse extent.
pub(super) const MAGIC: [u8; 4] = *b"KDMV";

/// At the start of an extent of ESX Server 2.
pub(super) const COWD_MAGIC: [u8; 4] = *b"COWD";

/// Bytes of the fields; the rest of the sector is zero.
const HEADER_LEN: usize = 79;

/// Show whether somebody has changed line ends: LF, space, CR, LF.
const NEWLINES: [u8; 4] = *b"\n \r\n";

/// [`NEWLINES`] are there.
pub(super) const FLAG_NEWLINES: u32 = 1;
/// There is a redundant grain directory.
pub(super) const FLAG_REDUNDANT: u32 = 1 << 1;
/// An entry of 1 is a grain of zeros.
pub(super) const FLAG_ZERO_GRAINS: u32 = 1 << 2;
/// Grains are compressed.
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
/// Markers stand in front of grains and tables.
pub(super) const FLAG_MARKERS: u32 = 1 << 17;

/// Grains as they are.
pub(super) const NONE: u16 = 0;
/// zlib streams.
pub(super) const DEFLATE: u16 = 1;

/// In place of the directory's offset: it is in the footer.
pub(super) const AT_END: u64 = u64::MAX;

/// Grains of 4 KiB: the least that VMware and VirtualBox take.
const MIN_GRAIN: u64 = 8;
/// Grains of 2 MiB: the largest unit that is inflated at once. Everybody writes 64 KiB.
const MAX_GRAIN: u64 = 4096;
/// Eight times what everybody writes and QEMU takes.
const MAX_TABLE_ENTRIES: u32 = 4096;
