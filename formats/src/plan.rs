//! What a writer asks for and what a reader answers: operations and mappings.

use std::ops::Range;

use bytes::Bytes;

use crate::num::to_u64;

/// What to do with the output next. Operations are strictly forward, but for [`Op::Fill`], which
/// goes back into a range that was reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Append bytes that the writer made: tables, headers, padding that is not zero.
    Append(Bytes),
    /// Append `len` payload bytes: those of `units` units of the chunk just placed, from unit
    /// `first` on, back to back. `len` may leave out the tail of the last one (RAW, odd sizes).
    Payload {
        /// Index in the chunk of the first unit.
        first: u64,
        /// Number of units.
        units: u64,
        /// Bytes in all.
        len: u64,
    },
    /// The next `len` bytes read as zeros.
    Skip(u64),
    /// Set the next `len` bytes aside; what is never filled reads as zeros.
    Reserve {
        /// Name for later [`Op::Fill`]s, unique in the output.
        slot: Slot,
        /// Bytes.
        len: u64,
    },
    /// Write into a reserved range; each byte of a slot is written at most once.
    Fill {
        /// The reservation.
        slot: Slot,
        /// First byte, from the start of the slot.
        at: u64,
        /// What to write; it stays inside the slot.
        bytes: Bytes,
    },
}

impl Op {
    /// Bytes by which it moves the end of the output.
    pub fn span(&self) -> u64 {
        match self {
            Self::Append(bytes) => to_u64(bytes.len()),
            Self::Payload { len, .. } | Self::Skip(len) | Self::Reserve { len, .. } => *len,
            Self::Fill { .. } => 0,
        }
    }
}

/// Name of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// What a reader does next: it lacks bytes of an image file, or it has the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Supply these bytes and ask again.
    Need(Need),
    /// The answer.
    Ready(T),
}

/// A range of an image file that a reader lacks. It lies inside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Need {
    /// Which file: 0 is the image, others are its extents in the order the reader lists them.
    pub file: u32,
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at most [`Need::MAX_LEN`].
    pub len: usize,
}

impl Need {
    /// No reader asks for more than this at once, in bytes.
    pub const MAX_LEN: usize = 2 << 20;
}

/// Where a piece of the guest disk lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Guest bytes. A compressed mapping covers a whole cluster of the image (the last may reach
    /// past the range asked for and past the virtual size).
    pub guest: Range<u64>,
    /// Where they are.
    pub place: Place,
}

/// Where the bytes of a [`Mapping`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Compressed, somewhere in `offset..offset + len` of an image file, from the first byte on.
    Compressed {
        /// Which file, as in [`Need::file`].
        file: u32,
        /// First byte.
        offset: u64,
        /// Upper bound of the compressed length in bytes; inside the file.
        len: u32,
        /// How to inflate it.
        codec: Codec,
    },
    /// Reads as zeros.
    Hole,
    /// As it is, at this offset of an image file; inside the file.
    Raw {
        /// Which file, as in [`Need::file`].
        file: u32,
        /// First byte.
        offset: u64,
    },
}

/// How a compressed cluster or grain is packed; see [`crate::codec::Decoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Raw deflate (RFC 1951), QCOW2 compression type 0.
    Deflate,
    /// A VMDK grain: marker naming this guest sector, then a zlib stream (RFC 1950).
    VmdkGrain {
        /// Guest sector that the marker must name.
        sector: u64,
        /// Bytes that it must yield at least: some programs store the last grain of a disk short.
        /// The rest of the grain is zeros.
        content: u32,
    },
    /// Zstandard frames, QCOW2 compression type 1.
    Zstd,
}
