//! Geometry of the tables and the encoding of their entries; contract 1.4, 1.5, 1.7 and 1.8.

use crate::{
    error::{Error, Result},
    num::to_u64,
};

/// What follows from the header about the shape of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// log2 of the cluster length in bytes, 9 to 21.
    pub(super) cluster_bits: u32,
    /// Whether L2 entries have 16 bytes and describe subclusters.
    pub(super) extended_l2: bool,
}

impl Geometry {
    /// Bytes of a cluster.
    pub(super) fn cluster_len(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 entry.
    pub(super) fn l2_entry_len(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table, which is one cluster.
    pub(super) fn l2_entries(self) -> u64 {
        self.cluster_len() / self.l2_entry_len()
    }

    /// Guest bytes that one L2 table maps.
    pub(super) fn l2_span(self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Clusters that `len` bytes of table take.
    pub(super) fn clusters(self, len: u64) -> u64 {
        len.div_ceil(self.cluster_len())
    }

    /// Host clusters that a block of 16-bit refcounts counts.
    pub(super) fn refcounts_per_block(self) -> u64 {
        self.cluster_len() / 2
    }

    /// Low bits of a compressed descriptor that hold the host offset (`x` of contract 1.5).
    pub(super) fn compressed_offset_bits(self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// First host offset that entries cannot name.
    pub(super) fn host_limit(self, compressed: bool) -> u64 {
        let bits = if compressed { self.compressed_offset_bits().min(OFFSET_BITS) } else { OFFSET_BITS };
        1 << bits
    }

    /// Clusters for refcounts in a file whose other clusters are `others`; contract 1.7. A few
    /// rounds suffice, as blocks cost at most 1/256 of what they count.
    pub(super) fn refcount_clusters(self, others: u64) -> Refcounting {
        let mut found = Refcounting { blocks: 0, table: 0, total: others };
        loop {
            let blocks = found.total.div_ceil(self.refcounts_per_block());
            let table = self.clusters(blocks * 8);
            let next = Refcounting { blocks, table, total: others + blocks + table };
            if next == found {
                return found;
            }
            found = next;
        }
    }
}

/// What refcounts take, in clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refcounting {
    /// Refcount blocks.
    pub(super) blocks: u64,
    /// The refcount table.
    pub(super) table: u64,
    /// The whole file.
    pub(super) total: u64,
}

/// An L2 entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum L2Entry {
    /// A compressed stream somewhere in `len` bytes from `offset` on.
    Compressed {
        /// First byte in the file.
        offset: u64,
        /// Bytes to the end of the last sector, at most two clusters by the width of its field.
        len: u64,
    },
    /// A host cluster; aligned, not at 0.
    Standard(u64),
    /// Nothing stored: reads as zeros.
    Unallocated,
    /// Reads as zeros, whether a cluster is set aside or not.
    Zero,
}

/// What the second word of an extended L2 entry says of one subcluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subcluster {
    /// Stored in the host cluster.
    Data,
    /// Reads as zeros.
    Zero,
}

/// Decodes an L1 entry to the offset of its L2 table, if there is one.
pub(super) fn decode_l1(entry: u64, geometry: Geometry) -> Result<Option<u64>> {
    let reserved = entry & L1_RESERVED;
    if reserved != 0 {
        return Err(Error::corrupt(format!("l1 entry {entry:#018x} has reserved bits {reserved:#x} set")));
    }
    match entry & OFFSET_MASK {
        0 => Ok(None),
        offset if !offset.is_multiple_of(geometry.cluster_len()) => {
            Err(Error::corrupt(format!("l2 table at {offset:#x} is not aligned to a cluster")))
        }
        offset => Ok(Some(offset)),
    }
}

/// Decodes an L2 entry (the first word of an extended one). `version` is that of the header: only 3
/// knows the zero flag, and only without subclusters.
pub(super) fn decode_l2(entry: u64, geometry: Geometry, version: u32) -> Result<L2Entry> {
    if entry & COMPRESSED != 0 {
        // COPIED is not set here by any sane writer, but it means nothing to a reader.
        let bits = geometry.compressed_offset_bits();
        let offset = entry & ((1 << bits) - 1);
        let sectors = (entry & (COMPRESSED - 1)) >> bits;
        if offset == 0 {
            return Err(Error::corrupt(format!("compressed l2 entry {entry:#018x} points at the header")));
        }
        return Ok(L2Entry::Compressed { offset, len: (sectors + 1) * SECTOR - offset % SECTOR });
    }
    let zero_flag = version >= 3 && !geometry.extended_l2;
    let reserved = entry & if zero_flag { L2_RESERVED } else { L2_RESERVED | ZERO };
    if reserved != 0 {
        return Err(Error::corrupt(format!("l2 entry {entry:#018x} has reserved bits {reserved:#x} set")));
    }
    if entry & ZERO != 0 {
        return Ok(L2Entry::Zero);
    }
    match entry & OFFSET_MASK {
        0 => Ok(L2Entry::Unallocated),
        offset if !offset.is_multiple_of(geometry.cluster_len()) => {
            Err(Error::corrupt(format!("data cluster at {offset:#x} is not aligned to a cluster")))
        }
        offset => Ok(L2Entry::Standard(offset)),
    }
}

/// Checks the second word of an extended L2 entry against the first; contract 1.8.
pub(super) fn check_bitmap(bitmap: u64, entry: L2Entry) -> Result<()> {
    let (allocated, zero) = (bitmap & 0xffff_ffff, bitmap >> 32);
    let wrong = match entry {
        _ if allocated & zero != 0 => "both allocated and zero",
        L2Entry::Compressed { .. } if bitmap != 0 => "set in a compressed cluster",
        L2Entry::Unallocated if allocated != 0 => "allocated without a cluster",
        _ => return Ok(()),
    };
    Err(Error::corrupt(format!("subclusters of the bitmap {bitmap:#018x} are {wrong}")))
}

/// What a checked bitmap says of subcluster `index` (below 32). There is no backing file, so what
/// is not stored reads as zeros.
pub(super) fn subcluster(bitmap: u64, index: u32) -> Subcluster {
    if bitmap >> index & 1 == 1 { Subcluster::Data } else { Subcluster::Zero }
}

/// Encodes an L1 entry for an L2 table, or an L2 entry for a cluster, that nobody shares.
pub(super) fn encode_exclusive(offset: u64) -> u64 {
    debug_assert_eq!(offset & !OFFSET_MASK, 0, "the caller has checked host_limit");
    COPIED | offset
}

/// Encodes an L2 entry for a compressed stream of `len` bytes at `offset`.
pub(super) fn encode_compressed(offset: u64, len: u64, geometry: Geometry) -> u64 {
    debug_assert!(offset < geometry.host_limit(true), "the caller has checked host_limit");
    let sectors = (offset + len - 1) / SECTOR - offset / SECTOR;
    COMPRESSED | sectors << geometry.compressed_offset_bits() | offset
}

/// The `index`-th 8-byte entry of a table.
pub(super) fn entry_at(table: &[u8], index: usize) -> u64 {
    let mut entry = [0; 8];
    entry.copy_from_slice(&table[index * 8..index * 8 + 8]);
    u64::from_be_bytes(entry)
}

/// Number of 8-byte entries of a table.
pub(super) fn entry_count(table: &[u8]) -> u64 {
    to_u64(table.len() / 8)
}

/// Longest L1 table in bytes (contract 1.10, as QEMU).
pub(super) const MAX_L1_LEN: u64 = 32 << 20;

/// Longest refcount table in bytes (contract 1.10, as QEMU).
pub(super) const MAX_REFCOUNT_TABLE_LEN: u64 = 8 << 20;

/// Subclusters in a cluster with extended L2.
pub(super) const SUBCLUSTERS: u32 = 32;

/// The unit in which compressed descriptors count.
const SECTOR: u64 = 512;

/// Host offsets of tables and standard clusters end below bit 56.
const OFFSET_BITS: u32 = 56;

/// L1 and L2: bits 9 to 55 are the host offset.
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - (1 << 9);

/// L1 and L2: the refcount of what is named is exactly 1.
const COPIED: u64 = 1 << 63;

/// L2: compressed descriptor.
const COMPRESSED: u64 = 1 << 62;

/// L2: reads as zeros.
const ZERO: u64 = 1;

/// L1: bits 0 to 8 and 56 to 62.
const L1_RESERVED: u64 = !(OFFSET_MASK | COPIED);

/// L2, standard: bits 1 to 8 and 56 to 61.
const L2_RESERVED: u64 = !(OFFSET_MASK | COPIED | COMPRESSED | ZERO);
