//! Markers: what stands before grains and tables in a stream; contract 3.3.

use crate::{
    Error, Result,
    chunk::SECTOR_LEN,
    num::{to_u64, to_usize},
    vmdk::header::{u32_at, u64_at},
};

/// Bytes of a grain marker; the grain's stream follows at once.
pub(super) const GRAIN_MARKER_LEN: usize = 12;

/// Bytes of any other marker: a sector.
pub(super) const MARKER_LEN: usize = 512;

/// What a marker announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// Nothing follows.
    EndOfStream,
    /// The footer, one sector.
    Footer,
    /// The grain directory, so many sectors.
    Directory(u64),
    /// A grain for this guest sector; a stream of so many bytes stands right behind the marker.
    Grain { sector: u64, len: u32 },
    /// A grain table, so many sectors.
    Table(u64),
    /// Progress of whoever wrote it; skipped.
    Other,
}

impl Marker {
    /// The sector of a marker that is no grain's.
    pub(super) fn to_bytes(self) -> [u8; MARKER_LEN] {
        let (sectors, kind) = match self {
            Self::Footer => (1, FOOTER),
            Self::Directory(sectors) => (sectors, DIRECTORY),
            Self::Table(sectors) => (sectors, TABLE),
            Self::EndOfStream | Self::Grain { .. } | Self::Other => (0, END_OF_STREAM),
        };
        let mut bytes = [0; MARKER_LEN];
        bytes[..8].copy_from_slice(&u64::to_le_bytes(sectors));
        bytes[12..16].copy_from_slice(&u32::to_le_bytes(kind));
        bytes
    }

    /// Reads the marker in the sector that stands at byte `at` of the file.
    ///
    /// # Errors
    /// It is no marker.
    pub(super) fn parse(bytes: &[u8; MARKER_LEN], at: u64) -> Result<Self> {
        let (value, len, kind) = (u64_at(bytes, 0), u32_at(bytes, 8), u32_at(bytes, 12));
        if len > 0 {
            return Ok(Self::Grain { sector: value, len });
        }
        match kind {
            END_OF_STREAM if value == 0 && bytes.iter().all(|&byte| byte == 0) => Ok(Self::EndOfStream),
            TABLE => Ok(Self::Table(value)),
            DIRECTORY => Ok(Self::Directory(value)),
            FOOTER if value == 1 => Ok(Self::Footer),
            PROGRESS => Ok(Self::Other),
            _ => Err(Error::corrupt(format!("marker of type {kind} for {value} sectors")).at(at)),
        }
    }
}

/// Bytes of a grain in the file: marker, a stream of `len` bytes, padding.
pub(super) fn padded_grain_len(len: u64) -> u64 {
    (to_u64(GRAIN_MARKER_LEN) + len).next_multiple_of(SECTOR_LEN)
}

/// The zlib stream of the grain whose marker is at the front of `input`.
///
/// # Errors
/// The marker does not name `sector`, or its length does not fit.
pub fn grain_stream(input: &[u8], sector: u64) -> Result<&[u8]> {
    if input.len() < GRAIN_MARKER_LEN {
        return Err(Error::truncated(format!("the grain for sector {sector} is cut in its marker")));
    }
    let (found, len) = (u64_at(input, 0), u32_at(input, 8));
    if found != sector {
        return Err(Error::corrupt(format!("a grain for sector {found} stands where {sector} was expected")));
    }
    let stream = &input[GRAIN_MARKER_LEN..];
    match stream.get(..to_usize(u64::from(len))) {
        Some(stream) if len > 0 => Ok(stream),
        _ => Err(Error::corrupt(format!(
            "the grain for sector {sector} says {len} bytes, there are {}",
            stream.len()
        ))),
    }
}

const END_OF_STREAM: u32 = 0;
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;
const PROGRESS: u32 = 4;
