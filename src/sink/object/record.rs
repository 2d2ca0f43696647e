//! What of an upload is told to the journal.

use serde::{Deserialize, Serialize};

/// A part that the store has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number, from 1 on.
    pub part: u32,
    /// Its bytes.
    pub len: u64,
    /// What the store calls it.
    pub id: String,
    /// MD5 of its bytes, hexadecimal: what tells that a part that is formed again is the same.
    pub md5: String,
}

/// Bytes of a part that is not with the store yet, in the pins file beside the journal. Where something
/// is to be filled in late they are zero: what had been filled in follows from the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// Number of the part.
    pub part: u32,
    /// Where its bytes begin in the pins file.
    pub at: u64,
    /// How many of them there are, from the part's first on.
    pub len: u64,
    /// CRC-32C of these.
    pub crc: u32,
    /// The objects that have them too, one after the other, if the journal lies beside the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
}

/// The lengths of the parts of an upload. Part 1 begins at output byte 0; lengths never decrease and
/// are multiples of 512, so that a block of an archive never lies in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Length of the first parts in bytes.
    pub first: u64,
    /// How many parts have that length.
    pub equal: u32,
    /// Behind them, parts of the `g`th hundred are longer by this many bytes times `g (g + 1) / 2`.
    pub step: u64,
    /// No part is longer, in bytes.
    pub longest: u64,
    /// Number of parts that the upload may have.
    pub parts: u32,
}
