//! Disk-image formats as pure plans: a writer says what bytes go where, a reader says where the
//! bytes are. Nothing here owns a file, a socket, a thread, a clock or a runtime, so the same code
//! serves files, pipes, object stores, tests and fuzzers.
//!
//! # Writing
//!
//! A [`FormatWriter`] is fed [`ChunkShape`]s in guest order and answers with [`Op`]s. What can run
//! in parallel is split off: each worker owns an [`Encoder`] (or none, for formats that store units
//! as they are), which turns one unit of guest data into its payload and shape.
//!
//! ```
//! use vmferry_formats::{chunk::{ChunkShape, UnitShape}, plan::Op, raw::RawOptions, WriterSpec};
//!
//! let mut writer = WriterSpec::Raw(RawOptions {}).writer(Some(8192), "disk.raw")?;
//! let mut ops = Vec::new();
//! writer.begin(&mut ops)?;
//! let mut shape = ChunkShape::new(0, 8192);           // two blocks of 4 KiB:
//! shape.push(UnitShape::Absent, 1);                   // zeros,
//! shape.push(UnitShape::Data, 1);                     // data
//! writer.place(&shape, &mut ops)?;
//! writer.finish(8192, &mut ops)?;
//! assert_eq!(ops, [Op::Skip(4096), Op::Payload { first: 1, units: 1, len: 4096 }]);
//! # Ok::<(), vmferry_formats::Error>(())
//! ```
//!
//! [`ova`] puts several disks and their description into one archive: its writer takes the operations
//! of the disks' own writers and makes them those of the archive.
//!
//! # Reading
//!
//! [`open`] starts a state machine that names the bytes it needs until a [`FormatReader`] is ready,
//! and the reader's [`plan`](FormatReader::plan) does the same for any guest range, with the
//! answer as [`Mapping`]s. Compressed ones go through a [`codec::Decoder`].

mod cache;
pub mod chunk;
pub mod codec;
pub mod deflate;
mod detect;
pub mod digest;
mod error;
mod num;
mod output;
pub mod ova;
pub mod ovf;
pub mod plan;
mod planning;
pub mod qcow2;
pub mod raw;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod vmdk;
pub mod zero;

pub use crate::{
    chunk::ChunkShape,
    detect::{Detected, HEAD_LEN, TAIL_LEN, detect},
    error::{Error, ErrorKind, Result},
    plan::Op,
};
use crate::{
    chunk::UnitShape,
    plan::{Mapping, Need, Step},
};

use std::{fmt, ops::Range, str::FromStr};

/// A disk-image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// QEMU copy-on-write version 2 and 3.
    Qcow2,
    /// The bytes of the disk and nothing else.
    Raw,
    /// VMware virtual disk: streamOptimized and monolithicSparse.
    Vmdk,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Qcow2, Self::Raw, Self::Vmdk];

    /// Lower-case name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
        }
    }

    /// The format that a file name's extension stands for: `raw` and `img` are RAW.
    pub fn from_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "qcow2" | "qcow" => Some(Self::Qcow2),
            "raw" | "img" => Some(Self::Raw),
            "vmdk" => Some(Self::Vmdk),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::invalid_input(format!("unknown image format {name:?} (raw, qcow2, vmdk)")))
    }
}

/// How clusters or grains are compressed in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Deflate (RFC 1951), as every consumer reads it.
    Deflate,
    /// As they are.
    None,
    /// Zstandard; QCOW2 only, QEMU 5.1 or newer.
    Zstd,
}

impl Compression {
    /// Lower-case name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "deflate" | "zlib" => Ok(Self::Deflate),
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd),
            _ => Err(Error::invalid_input(format!("unknown compression {name:?} (none, deflate, zstd)"))),
        }
    }
}

/// Everything that determines the bytes of an output, but for the disk's content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriterSpec {
    /// QCOW2 version 3.
    Qcow2(qcow2::Qcow2Options),
    /// RAW.
    Raw(raw::RawOptions),
    /// VMDK.
    Vmdk(vmdk::VmdkOptions),
}

impl From<Format> for WriterSpec {
    /// The format with its defaults.
    fn from(format: Format) -> Self {
        match format {
            Format::Qcow2 => Self::Qcow2(qcow2::Qcow2Options::default()),
            Format::Raw => Self::Raw(raw::RawOptions {}),
            Format::Vmdk => Self::Vmdk(vmdk::VmdkOptions::default()),
        }
    }
}

impl fmt::Display for WriterSpec {
    /// All parameters with defaults resolved, in a fixed order: equal texts, equal parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qcow2(options) => write!(
                f,
                "qcow2 version=3 cluster_bits={} compression={} level={}",
                options.cluster_bits, options.compression, options.level
            ),
            Self::Raw(_) => f.write_str("raw"),
            Self::Vmdk(options) => {
                write!(f, "vmdk subformat={} level={}", options.subformat, options.level)?;
                options.id_seed.as_ref().map_or(Ok(()), |seed| write!(f, " id_seed={seed:?}"))
            }
        }
    }
}

impl WriterSpec {
    /// The format.
    pub fn format(&self) -> Format {
        match self {
            Self::Qcow2(_) => Format::Qcow2,
            Self::Raw(_) => Format::Raw,
            Self::Vmdk(_) => Format::Vmdk,
        }
    }

    /// A writer for a disk whose source has `size` bytes (exact; `None` if only the end of the
    /// stream will tell). `name` is the final base name of the output: ids derive from it, and a
    /// VMDK descriptor names it.
    ///
    /// # Errors
    /// Parameters out of range, or a disk that the format cannot hold: before the first byte.
    pub fn writer(&self, size: Option<u64>, name: &str) -> Result<Box<dyn FormatWriter>> {
        Ok(match self {
            Self::Qcow2(options) => Box::new(qcow2::Qcow2Writer::new(options, size)?),
            Self::Raw(_) => Box::new(raw::RawWriter::new(size)),
            Self::Vmdk(options) => vmdk::writer(options, size, name)?,
        })
    }
}

/// The sequential half of writing an image: shapes in, operations out. It sees no payload.
///
/// Calls come in the order `begin`, `place` for each piece of the disk from 0 to its end without
/// a gap, `finish`. A writer is a pure function of its parameters and these calls, so a replay of
/// recorded shapes brings a new writer into the state of an interrupted one.
pub trait FormatWriter: Send {
    /// Bytes of guest disk in a unit (cluster, grain, block): a power of two, at most 2 MiB.
    fn unit_len(&self) -> usize;

    /// A new encoder for one worker, or `None` if units are stored as they are.
    ///
    /// # Errors
    /// The codec cannot be set up (out of memory, unknown level).
    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>>;

    /// Name, library version, level and CPU class of the encoder; equal identities and equal
    /// content give equal bytes. `none` where units are stored as they are.
    fn encoder_identity(&self) -> String;

    /// Whether reservations are filled late, so that the sink must be able to go back.
    fn fills_late(&self) -> bool;

    /// What stands in front.
    ///
    /// # Errors
    /// The disk does not fit into the format.
    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()>;

    /// The next piece of the disk.
    ///
    /// # Errors
    /// The output would exceed a limit of the format; nothing of the piece was placed.
    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()>;

    /// What stands behind, and the late fills. `size` is the exact length of the source in bytes.
    ///
    /// # Errors
    /// The output would exceed a limit of the format.
    fn finish(&mut self, size: u64, ops: &mut Vec<Op>) -> Result<()>;

    /// Bytes of output that the operations so far span, reservations and skips included.
    fn position(&self) -> u64;
}

/// The parallel half of writing an image: one unit of guest data in, its payload out.
///
/// Pure for the caller: the answer depends on the arguments alone, whatever was encoded before.
pub trait Encoder: Send {
    /// Bytes of room that one call wants, which is at least as much as it fills.
    fn max_encoded_len(&self) -> usize;

    /// Encodes the unit at `guest_offset` (bytes) into the front of `out`, which has
    /// [`max_encoded_len`](Self::max_encoded_len) bytes or more and may hold anything before and, behind
    /// the payload, after. `unit` is exactly one unit, not all zero, padded with zeros behind the end
    /// of the disk.
    ///
    /// # Errors
    /// The codec failed, or `unit` or `out` is too short; no unit is lost in silence.
    fn encode(&mut self, guest_offset: u64, unit: &[u8], out: &mut [u8]) -> Result<Encoded>;
}

/// What became of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// [`UnitShape::Compressed`], or [`UnitShape::Data`] if the payload is the unit itself.
    pub shape: UnitShape,
    /// Bytes of payload in the front of the room given; 0 if the payload is the unit itself.
    pub len: usize,
}

impl Encoded {
    /// The unit is its own payload.
    const PLAIN: Self = Self { shape: UnitShape::Data, len: 0 };
}

/// The first `len` bytes of the room that an encoder was given.
fn room(out: &mut [u8], len: usize) -> Result<&mut [u8]> {
    let given = out.len();
    out.get_mut(..len)
        .ok_or_else(|| Error::invalid_input(format!("{given} bytes of room for a unit instead of {len}")))
}

/// What bounds a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderPolicy {
    /// Largest virtual size accepted, in bytes.
    pub max_virtual_size: u64,
    /// Bytes that cached tables may take.
    pub table_cache_len: usize,
    /// Accept images whose data lies in other files (flat and multi-extent VMDK); the caller opens
    /// these, and decides from where.
    pub allow_extents: bool,
}

impl Default for ReaderPolicy {
    fn default() -> Self {
        Self { max_virtual_size: 64 << 40, table_cache_len: 8 << 20, allow_extents: false }
    }
}

/// Starts to open an image of `format` whose file has `len` bytes. RAW needs no reader.
///
/// # Errors
/// [`Format::Raw`] is refused as invalid input.
pub fn open(format: Format, len: u64, policy: &ReaderPolicy) -> Result<Box<dyn OpenReader>> {
    match format {
        Format::Qcow2 => Ok(Box::new(qcow2::Qcow2Opener::new(len, policy))),
        Format::Vmdk => Ok(Box::new(vmdk::VmdkOpener::new(len, policy))),
        Format::Raw => Err(Error::invalid_input("a raw image has no structure to open")),
    }
}

/// An image on its way to being open.
pub trait OpenReader: Send {
    /// What is needed next, or the reader.
    ///
    /// # Errors
    /// The image is corrupt, refused or unsupported.
    fn step(&mut self) -> Result<OpenStep>;

    /// The bytes that the last [`OpenStep::Need`] asked for; exactly `need.len` of them.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()>;

    /// The lengths in bytes of the files that [`OpenStep::Extents`] named, in that order.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    fn supply_extents(&mut self, lens: &[u64]) -> Result<()>;
}

/// Where opening stands.
#[expect(missing_debug_implementations, reason = "holds a trait object")]
pub enum OpenStep {
    /// The image's data lies in these files: bare names, without any directory. They become files
    /// 1, 2, … of [`Need::file`].
    Extents(Vec<String>),
    /// Supply these bytes and step again.
    Need(Need),
    /// Open.
    Ready(Box<dyn FormatReader>),
}

/// An open image: says where the bytes of its guest disk lie.
pub trait FormatReader: Send {
    /// What the image says of itself.
    fn info(&self) -> &ImageInfo;

    /// Maps the front of `guest` (bytes, inside the virtual size, not empty). The answer's mappings
    /// are in order, start at or before `guest.start`, leave no gap and cover at least one byte; a
    /// hole of any size is one mapping. Every file range named is inside its file.
    ///
    /// # Errors
    /// The tables for this range are corrupt.
    fn plan(&mut self, guest: Range<u64>) -> Result<Step<Vec<Mapping>>>;

    /// The bytes that the last [`Step::Need`] asked for; exactly `need.len` of them.
    ///
    /// # Errors
    /// The table is corrupt.
    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()>;
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The format.
    pub format: Format,
    /// Variant, for instance `v3` or `streamOptimized`.
    pub variant: String,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Bytes of a cluster or grain.
    pub cluster_len: u64,
    /// How clusters are or may be compressed.
    pub compression: Compression,
    /// Whether the image says that it was not closed cleanly.
    pub dirty: bool,
    /// Further facts for people, as name and value, in a fixed order.
    pub details: Vec<(&'static str, String)>,
}
