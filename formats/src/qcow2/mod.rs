//! QCOW2 (QEMU copy-on-write): version 3 written in one pass, versions 2 and 3 read.
//!
//! # Layout written
//!
//! Formats contract 2.1 (b'). Every box is made of whole clusters; all numbers are big-endian.
//!
//! ```text
//! 0                                                                                 end of file
//! +--------+------+----+------+----+-------+------+-- --+----+----------+----------+
//! | header | data | L2 | data | L2 | block | data | ... | L1 | block(s) | refcount |
//! | (late) |      |    |      |    |       |      |     |    |          |  table   |
//! +--------+------+----+------+----+-------+------+-- --+----+----------+----------+
//! ```
//!
//! * *data* is in guest order: clusters as they are, aligned, or compressed streams back to back;
//! * an *L2* table follows the last data of its guest range, unless nothing of it is stored;
//! * a refcount *block* follows as soon as the file has passed the range it counts;
//! * only the header, which says where L1 and the refcount table are, is filled late.
//!
//! So memory holds one L2 table, one open refcount block, L1 and the list of blocks, whatever the
//! size of the disk, and the image does not depend on how the disk was cut into pieces.
//!
//! # Supported and refused
//!
//! | feature | written | read |
//! |---|---|---|
//! | version 2 | no | yes |
//! | version 3, clusters of 512 bytes to 2 MiB | yes | yes |
//! | compressed clusters, deflate and zstd | yes | yes |
//! | zero flag | no: such clusters are left out | yes |
//! | refcounts of 1 to 64 bits | 16 | not looked at |
//! | dirty, corrupt, lazy refcounts, bitmaps | no | yes, reported |
//! | extended L2 (subclusters) | no | yes |
//! | internal snapshots | no | the active state only |
//! | backing file, external data file | no | refused |
//! | encryption, unknown incompatible features | no | unsupported |
//!
//! What comes from an image is hostile until it is checked: contract 1.13 applies, and memory for
//! tables is bounded by [`ReaderPolicy`](crate::ReaderPolicy). Sections cited in this folder are
//! those of the formats contract; the primary source is `docs/interop/qcow2` of QEMU.

mod encoder;
mod header;
mod reader;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::Qcow2Opener;
pub use writer::{Qcow2Options, Qcow2Writer};
