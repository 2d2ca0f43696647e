//! Markers: what stands in front of everything in a streamOptimized file; contract 3.3.

use crate::{chunk::SECTOR_LEN, num::to_usize};

/// What a marker announces. Each begins on a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// Sector of the guest disk, and bytes of the zlib stream that begins behind the 12 bytes of
    /// the marker.
    Grain {
        /// First sector of the grain in the guest disk.
        sector: u64,
        /// Bytes of the stream.
        len: u32,
    },
    /// `sectors` sectors of something else behind the sector of the marker.
    Metadata {
        /// What they are.
        kind: u32,
        /// How many.
        sectors: u64,
    },
}

impl Marker {
    /// Reads the front of a marker: [`Marker::LEN`] bytes or more.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (value, rest) = bytes.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let (value, len) = (u64::from_le_bytes(*value), u32::from_le_bytes(*len));
        Some(match len {
            0 => Self::Metadata { kind: u32::from_le_bytes(*kind), sectors: value },
            _ => Self::Grain { sector: value, len },
        })
    }

    /// Bytes that tell what a marker announces.
    pub(super) const LEN: usize = 16;
}

/// The 12 bytes in front of the zlib stream of a grain.
pub(super) fn grain(sector: u64, len: u32) -> [u8; GRAIN_LEN] {
    let mut bytes = [0; GRAIN_LEN];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// The sector in front of `sectors` sectors of something that is no grain.
pub(super) fn metadata(kind: u32, sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; to_usize(SECTOR_LEN)];
    bytes[..8].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..16].copy_from_slice(&kind.to_le_bytes());
    bytes
}

/// Bytes of a grain marker in front of its stream.
pub(super) const GRAIN_LEN: usize = 12;

/// End of the stream: nothing follows.
pub(super) const END: u32 = 0;
/// A grain table.
pub(super) const TABLE: u32 = 1;
/// The grain directory.
pub(super) const DIRECTORY: u32 = 2;
/// The header again, this time with the place of the directory.
pub(super) const FOOTER: u32 = 3;
/// Some VMware products write a few of these, without anything behind.
pub(super) const UNSPECIFIED: u32 = 4;
