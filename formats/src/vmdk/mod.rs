//! VMDK (VMware virtual disk): streamOptimized and monolithicSparse written in one pass, these and
//! the flat and split variants read.
//!
//! # Layouts written
//!
//! Formats contract 3.4 and 3.5. All numbers are little-endian, all offsets are sectors of 512
//! bytes; a grain is 64 KiB and a grain table (GT) has 512 entries, so it maps 32 MiB.
//!
//! ```text
//! streamOptimized: strictly forward, nothing is filled late if the size is known
//! 0      1            21    128                                              end of file
//! +------+------------+-----+---------------------+--- --+----+--------+-----+
//! |header| descriptor | 0   | grains | marker, GT | ...  | GD | footer | EOS |
//! +------+------------+-----+---------------------+--- --+----+--------+-----+
//!
//! monolithicSparse: both copies of the grain tables are reserved and filled as they complete
//! 0      1            21                                multiple of 128
//! +------+------------+-----------------+---------------+--------- --+
//! |header| descriptor | redundant GD,GT | GD, grain tab.| grains ... |
//! +------+------------+-----------------+---------------+--------- --+
//! ```
//!
//! A grain of a stream is a marker (the guest sector, the length of what follows) and a zlib stream,
//! padded to a sector. Grains that are all zero are left out, and so are tables of nothing but those
//! in a stream.
//!
//! # Supported and refused
//!
//! | feature | written | read |
//! |---|---|---|
//! | streamOptimized, directory in the footer | version 3 | versions 1 to 3 |
//! | streamOptimized, directory in front (as QEMU writes it) | no | yes |
//! | monolithicSparse | version 1, two copies of the tables | versions 1 to 3, the primary copy |
//! | zeroed-grain entries | no: such grains are left out | yes |
//! | flat and split images (data in other files) | no | where the policy allows extents |
//! | parent (differencing disk), raw device mapping | no | refused |
//! | ESX sparse (`COWD`), seSparse | no | unsupported |
//!
//! What comes from an image is hostile until it is checked: contract 1.13 applies, and memory for
//! tables is bounded by [`ReaderPolicy`](crate::ReaderPolicy). Sections cited in this folder are
//! those of the formats contract; the primary source is VMware's "Virtual Disk Format 5.0".

mod descriptor;
mod encoder;
mod header;
mod ids;
mod marker;
mod parser;
mod reader;
mod sparse;
mod stream;
mod writer;

pub use marker::grain_stream;
pub use parser::{StreamEvent, StreamParser};
pub use reader::VmdkOpener;
pub use writer::{Subformat, VmdkOptions, writer};

/// Bytes of a grain that is written: 128 sectors.
const GRAIN_LEN: u64 = 64 << 10;

/// Sectors of a grain that is written.
const GRAIN_SECTORS: u64 = 128;

/// Entries of a grain table; 3.1.
const GT_ENTRIES: u64 = 512;

/// Bytes of a grain table.
const GT_LEN: u64 = GT_ENTRIES * 4;

/// Guest bytes that a grain table maps, with grains of [`GRAIN_LEN`].
const GT_SPAN: u64 = GT_ENTRIES * GRAIN_LEN;

/// First sector behind what offsets of 32 bits can name; 3.2.
const SECTOR_LIMIT: u64 = 1 << 32;
