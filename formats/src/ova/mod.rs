//! OVA: a tar archive with an OVF descriptor, its disks and a manifest, written in one pass.
//!
//! # Layout written
//!
//! Formats contract 4.1, 4.2, 4.9 and 4.10. Everything is a multiple of 512 bytes; `H` is the header
//! block of an entry, what is filled late is marked `*`.
//!
//! ```text
//! +---+-------------------+----+-------------+----+-------------+-----+---+----------+---+-------+-------+
//! | H | descriptor (.ovf)*| H* | first disk  | H* | second disk | ... | H | manifest | H | .cert | zeros |
//! |   | length known      |    | any length  |    |             |     |   | (.mf)    |   | maybe | 1 KiB |
//! +---+-------------------+----+-------------+----+-------------+-----+---+----------+---+-------+-------+
//! ```
//!
//! * The descriptor comes first and names lengths that only the end of the disks tells. It is given as a
//!   [`Template`] whose length is known beforehand; its place is reserved, and filled at the end.
//! * A disk's header is reserved, and filled as soon as the disk is complete. It takes one block whatever
//!   the length: octal digits below 8 GiB, GNU base-256 from there on, never pax (vSphere and VirtualBox
//!   refuse that).
//! * Manifest and certificate come last, both of them ([`manifest`], [`certificate`]). The hashes in the
//!   manifest and the signature in the certificate come from outside: who writes the bytes in order has
//!   them in passing.
//!
//! So a sink must be able to go back into what was reserved: files and multipart uploads can, a pipe
//! cannot. A disk's own [`FormatWriter`](crate::FormatWriter) does not know that it writes into an
//! archive: its operations pass through [`ArchiveWriter::pass`].
//!
//! The header block is built here, not by a crate: it is one block of nine fixed fields, and the crate
//! `tar` would choose magic and number formats by itself, which importers care about.
//!
//! # Reading
//!
//! ```text
//! byte 0     512                     multiple of 512
//! +--------+------------+-------+--------+----------+-------+-----+-------------+
//! | header | descriptor | zeros | header | disk ... | zeros | ... | zeros, 1024 |
//! +--------+------------+-------+--------+----------+-------+-----+-------------+
//! ```
//!
//! [`ArchiveOpener`] walks the headers and reads nothing else but what is text: descriptor,
//! manifest and certificate. The answer is an [`Archive`]: each entry is a range of the file, in
//! which a disk is opened like any other image. What a manifest says is parsed by [`parse_sums`].
//!
//! | feature | read |
//! |---|---|
//! | ustar, old GNU tar, both mixed (ovftool) | yes |
//! | sizes in base-256 | yes |
//! | GNU long names | up to 255 bytes |
//! | pax headers | `path` and `size`; others are skipped |
//! | names with directories, links, devices, pipes | refused |
//! | GNU sparse entries, multi-volume archives | unsupported |
//! | two entries of one name, in whatever case; two descriptors | refused |
//! | archives without a descriptor, or without an end | corrupt, truncated |
//!
//! Everything is bounded: [`MAX_ENTRIES`] entries, [`MAX_DESCRIPTOR_LEN`](crate::ovf::MAX_DESCRIPTOR_LEN) of
//! descriptor. Sections
//! cited in this folder are those of the formats contract; the sources of what is read are POSIX.1-2001 `pax`, the
//! manual of GNU tar and DSP0243.

mod header;
mod manifest;
mod parser;
mod reader;
mod sums;
mod template;
#[cfg(test)]
mod tests;
mod writer;

pub use header::{BLOCK_LEN, MAX_MTIME, check_name, header};
pub use manifest::{ManifestHash, certificate, manifest};
pub use parser::Dialect;
pub use reader::{Archive, ArchiveOpener, Entry, MAX_ENTRIES, MAX_SUMS_LEN};
pub use sums::{Sum, SumAlgorithm, parse_sum, parse_sums};
pub use template::{FileNumbers, Template};
pub use writer::{ArchiveOptions, ArchiveWriter, MAX_FILES};
