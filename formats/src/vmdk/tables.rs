//! The arithmetic of grains, grain tables and the grain directory; contract 3.2 and 3.8.

use crate::{
    chunk::SECTOR_LEN,
    error::{Error, Result},
    num::{to_u64, to_usize},
};

/// Entries of a grain directory that list the tables of `capacity` sectors.
pub(super) fn directory_entries(capacity: u64, grain: u64, table_entries: u32) -> u64 {
    capacity.div_ceil(grain).div_ceil(table_entries.into())
}

/// The same for what is written here.
///
/// # Errors
/// More than any reader takes.
pub(super) fn written_directory_entries(capacity: u64) -> Result<u64> {
    let entries = directory_entries(capacity, GRAIN_SECTORS, TABLE_ENTRIES);
    if entries > MAX_DIRECTORY_ENTRIES {
        return Err(Error::limit(format!(
            "a disk of {capacity} sectors needs a grain directory of {entries} entries, more than \
             {MAX_DIRECTORY_ENTRIES}: write QCOW2 instead"
        )));
    }
    Ok(entries)
}

/// Sectors of `entries` entries.
pub(super) fn entry_sectors(entries: u64) -> u64 {
    (entries * ENTRY_LEN).div_ceil(SECTOR_LEN)
}

/// The bytes of entries.
pub(super) fn entry_bytes(entries: &[u32]) -> Vec<u8> {
    entries.iter().copied().flat_map(u32::to_le_bytes).collect()
}

/// Entry `index` of `bytes`, a piece of a table.
pub(super) fn entry_at(bytes: &[u8], index: usize) -> u32 {
    let at = index.saturating_mul(to_usize(ENTRY_LEN));
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |entry| u32::from_le_bytes(*entry))
}

/// Number of entries in `bytes`.
pub(super) fn entry_count(bytes: &[u8]) -> u64 {
    to_u64(bytes.len()) / ENTRY_LEN
}

/// The entry for what is stored at this byte of the output.
///
/// # Errors
/// Entries cannot name it: contract 3.8.
pub(super) fn entry_for(offset: u64) -> Result<u32> {
    u32::try_from(offset / SECTOR_LEN).map_err(|_| too_long())
}

/// The error for an output that becomes too long for its entries.
pub(super) fn too_long() -> Error {
    Error::limit("a vmdk cannot grow past 2 TiB, where its tables end to name sectors: write QCOW2 instead")
}

/// Bytes of an entry.
pub(super) const ENTRY_LEN: u64 = 4;

/// Sectors of a grain, as written.
pub(super) const GRAIN_SECTORS: u64 = 128;

/// Bytes of a grain, as written.
pub(super) const GRAIN_LEN: usize = 64 << 10;

/// Entries of a grain table, as written: 32 MiB of disk.
pub(super) const TABLE_ENTRIES: u32 = 512;

/// Sectors of a grain table, as written.
pub(super) const TABLE_SECTORS: u64 = 4;

/// Sectors that entries can name.
pub(super) const MAX_SECTORS: u64 = 1 << 32;

/// What QEMU takes, 128 MiB: 1 PiB of disk in grains of 64 KiB.
pub(super) const MAX_DIRECTORY_ENTRIES: u64 = 32 << 20;

const _: () = assert!(GRAIN_LEN == 128 * 512 && TABLE_SECTORS * 512 == 512 * ENTRY_LEN);
