//! The journal: what makes an interrupted run resumable. `docs/journal.md` describes the file.
//!
//! JSON lines, each followed by the CRC-32C of its text; a reader takes the longest prefix of
//! complete, valid lines and stops there. The durable point of a run is its last checkpoint: lines
//! behind it were written by a batch that was torn.

mod file;
mod header;
mod summary;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead as _, BufReader};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use vmferry_formats::{
    ChunkShape,
    chunk::{CHUNK_LEN, UnitShape},
    digest::Digest,
};

pub(crate) use self::file::Journal;
#[cfg(feature = "cloud")]
pub(crate) use self::file::Mirror;
pub use self::{
    header::{ContainerHeader, DiskHeader, Header, ObjectHeader},
    summary::Summary,
};
use super::process::Check;
use crate::error::{Error, Result};
pub use crate::sink::object::{PartRecord, PinRecord, Schedule};

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A durable point: everything before it is on stable storage.
    Checkpoint(Checkpoint),
    /// A chunk, or a run of zero chunks.
    Chunk(ChunkRecord),
    /// The output is complete; only renames and removals may be left to do.
    Closed(Closed),
    /// A disk in a container is complete.
    DiskEnd(DiskEnd),
    /// A disk in a container begins.
    DiskStart(DiskStart),
    /// First line.
    Header(Box<Header>),
    /// A part of an upload that the store has acknowledged; the last one of its number counts.
    Part(PartRecord),
    /// The source changed: no later run goes on behind this.
    Tainted {
        /// What changed.
        reason: String,
    },
    /// The upload that the parts behind it belong to; the last one counts.
    Upload {
        /// What the store calls it.
        id: String,
    },
}

/// A disk in a container that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStart {
    /// Its number, from 0.
    pub disk: u32,
    /// Output offset of the first byte of its image.
    pub start: u64,
    /// Length of the output behind what stands in front of its first chunk.
    pub out: u64,
}

/// What a complete disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEnd {
    /// Its number, from 0.
    pub disk: u32,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Guest bytes that are zero and take no space.
    pub zero: u64,
    /// Output offset of the first byte of its image.
    pub start: u64,
    /// Bytes of its image.
    pub len: u64,
    /// Length of the output behind it, padding included.
    pub out: u64,
    /// Disk digest, hexadecimal.
    pub tree: Option<String>,
    /// Hash of its image, if taken in passing, hexadecimal.
    pub hash: Option<String>,
}

/// What one chunk became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// First guest byte.
    pub at: u64,
    /// Guest bytes; more than a chunk only for zeros.
    pub len: u64,
    /// Chunk digest (of each chunk of a run), base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// CRC-32C where there is no digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<u32>,
    /// Length of the output after it.
    pub out: u64,
    /// Its units; absent = all of them are zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<ShapeCode>,
}

/// The units of a chunk, packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShapeCode {
    /// All of them are data.
    #[serde(rename = "all")]
    All,
    /// One bit a unit (1 = data), least significant first, base64.
    #[serde(rename = "bits")]
    Bits(String),
    /// Three bytes a unit, little-endian, base64: 0 = absent, ffffff = data, else compressed length.
    #[serde(rename = "lens")]
    Lens(String),
}

/// A durable point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Number of the disk that it is in, or behind, if the disks lie in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u32>,
    /// Guest bytes of the disk before it.
    pub at: u64,
    /// Output bytes before it.
    pub out: u64,
    /// Guest bytes of the disk before it that were zero.
    pub zero: u64,
    /// Bytes of output before it that `tail_crc` covers.
    pub tail_len: u64,
    /// CRC-32C of these.
    pub tail_crc: u32,
    /// State of the running SHA-256 of the output, or of the disk's image in a container, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The same of a SHA-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    /// Of an object: parts before it that are in the pins file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<PinRecord>,
}

/// What a complete output is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Size of the disk, or of all disks, in bytes.
    pub size: u64,
    /// Length of the output in bytes.
    pub output_size: u64,
    /// Guest bytes that are zero and take no space.
    pub zero: u64,
    /// Disk digest, hexadecimal; of disks in a container, their ends have it.
    pub tree: Option<String>,
    /// SHA-256 of the output, if taken in passing, hexadecimal.
    pub file_sha256: Option<String>,
}

impl Checkpoint {
    /// A number that depends on what was written before it.
    pub(crate) fn seed(&self) -> u32 {
        self.pins.iter().fold(self.tail_crc, |seed, pin| crc32c::crc32c_append(seed, &pin.crc.to_le_bytes()))
    }
}

impl ChunkRecord {
    /// The record of a chunk; RAW needs no shape, its output is its guest disk.
    pub(crate) fn new(shape: &ChunkShape, check: Check, out: u64, is_raw: bool) -> Self {
        let code = if shape.is_absent() {
            None
        } else if is_raw {
            Some(ShapeCode::All)
        } else {
            Some(ShapeCode::pack(shape))
        };
        let (digest, crc) = match check {
            Check::Crc(crc) => (None, Some(crc)),
            Check::Digest(digest) => (Some(BASE64_STANDARD_NO_PAD.encode(digest.as_bytes())), None),
        };
        Self { at: shape.guest_offset, len: shape.len, digest, crc, out, shape: code }
    }

    /// The check of the chunk, or of each chunk of a run of zeros.
    ///
    /// # Errors
    /// The record has none.
    pub fn check(&self) -> Result<Check> {
        if let Some(crc) = self.crc {
            return Ok(Check::Crc(crc));
        }
        let digest = self.digest.as_deref().and_then(|text| BASE64_STANDARD_NO_PAD.decode(text).ok());
        digest
            .and_then(|bytes| <[u8; Digest::LEN]>::try_from(bytes).ok())
            .map(|bytes| Check::Digest(Digest::from_bytes(bytes)))
            .ok_or_else(|| damaged(format!("the chunk at {} has no digest", self.at)))
    }

    /// The shape that was placed, in units of `unit_len` bytes.
    ///
    /// # Errors
    /// The record contradicts itself.
    pub fn shape(&self, unit_len: usize) -> Result<ChunkShape> {
        let wrong = || damaged(format!("the chunk at {} has a wrong shape", self.at));
        let unit = unit_len as u64;
        let Some(code) = &self.shape else { return Ok(ChunkShape::absent(self.at, self.len, unit_len)) };
        if self.len > CHUNK_LEN {
            return Err(wrong());
        }
        let units = self.len.div_ceil(unit);
        let mut shape = ChunkShape::new(self.at, self.len);
        match code {
            ShapeCode::All => shape.push(UnitShape::Data, units),
            ShapeCode::Bits(text) => {
                let bits = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| wrong())?;
                if bits.len() as u64 != units.div_ceil(8) {
                    return Err(wrong());
                }
                let all = bits.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
                for (_, data) in (0..units).zip(all) {
                    shape.push(if data { UnitShape::Data } else { UnitShape::Absent }, 1);
                }
            }
            ShapeCode::Lens(text) => {
                let lens = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| wrong())?;
                if lens.len() as u64 != units * 3 {
                    return Err(wrong());
                }
                for len in lens.chunks_exact(3) {
                    shape.push(
                        match u32::from_le_bytes([len[0], len[1], len[2], 0]) {
                            0 => UnitShape::Absent,
                            STORED => UnitShape::Data,
                            len => UnitShape::Compressed(len),
                        },
                        1,
                    );
                }
            }
        }
        Ok(shape)
    }

    /// Joins `next` to this record if both are zeros of whole chunks and touch.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let whole = |record: &Self| record.shape.is_none() && record.len.is_multiple_of(CHUNK_LEN);
        let joins = whole(self)
            && whole(next)
            && self.at.checked_add(self.len) == Some(next.at)
            && self.digest == next.digest
            && self.crc == next.crc;
        if joins {
            self.len += next.len;
            self.out = next.out;
        }
        joins
    }
}

impl ShapeCode {
    fn pack(shape: &ChunkShape) -> Self {
        if shape.runs().iter().all(|run| run.shape == UnitShape::Data) {
            return Self::All;
        }
        if shape.runs().iter().any(|run| matches!(run.shape, UnitShape::Compressed(_))) {
            let lens = shape.iter().flat_map(|unit| {
                let len = match unit {
                    UnitShape::Absent => 0,
                    UnitShape::Compressed(len) => len,
                    UnitShape::Data => STORED,
                };
                let [a, b, c, _] = len.to_le_bytes();
                [a, b, c]
            });
            return Self::Lens(BASE64_STANDARD_NO_PAD.encode(lens.collect::<Vec<u8>>()));
        }
        let mut bits = Vec::new();
        for (index, unit) in shape.iter().enumerate() {
            if index.is_multiple_of(8) {
                bits.push(0);
            }
            if unit == UnitShape::Data {
                bits[index / 8] |= 1 << (index % 8);
            }
        }
        Self::Bits(BASE64_STANDARD_NO_PAD.encode(bits))
    }
}

impl Record {
    /// The line that stands for it, with its checksum and newline.
    ///
    /// # Errors
    /// It cannot be expressed in JSON (a bug).
    pub fn to_line(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)
            .map_err(|error| Error::failed("cannot express a journal record").with_source(error))?;
        let crc = crc32c::crc32c(&line);
        line.extend_from_slice(format!(" {crc:08x}\n").as_bytes());
        Ok(line)
    }

    /// The record of a line without its newline; `None` if it is torn or damaged.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let (text, crc) = line.split_at_checked(line.len().checked_sub(9)?)?;
        let crc = str::from_utf8(crc.strip_prefix(b" ")?).ok()?;
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(text)) {
            return None;
        }
        serde_json::from_slice(text).ok()
    }
}

/// Reads records until the first line that is not complete and valid.
#[derive(Debug)]
pub struct JournalReader<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    offset: u64,
}

impl<R: io::Read> JournalReader<R> {
    /// A reader at the start of a journal.
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(256 << 10, reader), line: Vec::new(), offset: 0 }
    }

    /// Bytes of valid lines so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end of what is valid.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        self.line.clear();
        let failed = |error| Error::failed("cannot read the journal").with_source(error);
        let mut limited = io::Read::take(&mut self.reader, MAX_LINE_LEN);
        limited.read_until(b'\n', &mut self.line).map_err(failed)?;
        let Some(line) = self.line.strip_suffix(b"\n") else { return Ok(None) };
        let record = Record::from_line(line);
        if record.is_some() {
            self.offset += self.line.len() as u64;
        }
        Ok(record)
    }
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::failed(format!("the journal is damaged: {what}")).with_hint("start again with --restart")
}

/// Version of the journal of a plain image.
pub(crate) const VERSION: u32 = 1;

/// Version of the journal of a container: programs that know only the other one must not touch it.
pub(crate) const CONTAINER_VERSION: u32 = 2;

/// Version of the journal of an object, whatever is in it.
pub(crate) const OBJECT_VERSION: u32 = 3;

/// Bytes before a checkpoint that its checksum covers, at most.
pub(crate) const TAIL_LEN: u64 = 64 << 10;

/// Three-byte length that stands for a unit stored as it is.
const STORED: u32 = 0x00ff_ffff;

/// Longer lines are damage. The longest real one is the header of a container with a large descriptor;
/// the longest of a chunk has the lengths of 8192 clusters of 512 bytes.
pub(crate) const MAX_LINE_LEN: u64 = 4 << 20;
