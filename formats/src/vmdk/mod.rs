//! VMDK (VMware virtual disk): streamOptimized and monolithicSparse written in one pass, these and
//! multi-file images read.
//!
//! # Layouts written
//!
//! Formats contract 3.4 and 3.5. All numbers are little-endian, offsets in entries are sectors of
//! 512 bytes, a grain is 64 KiB of disk and a grain table (GT) has 512 entries: 32 MiB of disk.
//!
//! streamOptimized, strictly forward; `M` is a marker of one sector, a grain has its own of 12
//! bytes, then a zlib stream, and ends at a sector:
//!
//! ```text
//! sector 0   1            21      128                                                          end of file
//! +--------+------------+-------+--------+-------+--------+-------+-----+-------+-----------+-----+
//! | header | descriptor | zeros | grains | M, GT | grains | M, GT | ... | M, GD | M, footer | end |
//! +--------+------------+-------+--------+-------+--------+-------+-----+-------+-----------+-----+
//! ```
//!
//! Grains ascend; a GT follows the last grain of its range unless it is empty; the grain directory
//! (GD) names the tables, the footer is the header again and says where the directory is. Nothing
//! is filled late, unless the size of the disk was not known beforehand: then everything in front
//! of sector 128 is.
//!
//! monolithicSparse; everything in front of the grains is one reservation:
//!
//! ```text
//! sector 0   1            21                                      multiple of 128
//! +--------+------------+-----+-----------+----+----------+-------+----------------------
//! | header | descriptor | GD' | every GT' | GD | every GT | zeros | grains as they are ...
//! +--------+------------+-----+-----------+----+----------+-------+----------------------
//! ```
//!
//! Both copies of a table are filled as soon as the disk has passed its 32 MiB, header, descriptor
//! and directories at the end. So memory holds one grain table and, for a stream, 4 bytes for each
//! 32 MiB of disk.
//!
//! # Supported and refused
//!
//! | feature | written | read |
//! |---|---|---|
//! | sparse extent version 1 | monolithicSparse | yes |
//! | version 2 (zeroed grains) | no | yes |
//! | version 3 | streamOptimized | yes |
//! | grains other than 64 KiB, tables other than 512 entries | no | 4 KiB to 2 MiB, up to 4096 |
//! | directory in front, or named by a footer | both | yes |
//! | redundant directory | monolithicSparse | where there is no other |
//! | descriptor with FLAT, VMFS, ZERO and SPARSE extents | no | if the caller allows other files |
//! | streams from a pipe | - | streamOptimized with a footer ([`StreamParser`]) |
//! | differences to a parent | no | refused |
//! | COWD, seSparse, raw device mappings | no | unsupported |
//! | an empty disk | refused | corrupt |
//! | file past 2 TiB, monolithicSparse disk past 2 TiB | refused, naming QCOW2 | - |
//!
//! What comes from an image is hostile until it is checked: contract 1.13 applies, and memory for
//! tables is bounded by [`ReaderPolicy`](crate::ReaderPolicy). Sections cited in this folder are
//! those of the formats contract; the primary sources are VMware's "Virtual Disk Format 5.0" and
//! open-vmdk.

mod check;
mod descriptor;
mod encoder;
mod extent;
mod header;
mod ids;
mod marker;
mod opener;
mod parser;
mod reader;
mod sparse;
mod stream;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use opener::VmdkOpener;
pub use parser::{StreamGrain, StreamParser, StreamStep};
pub use reader::grain_stream;
pub use writer::{Subformat, VmdkOptions, writer};
