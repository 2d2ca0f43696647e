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

mod header;
mod manifest;
mod template;
#[cfg(test)]
mod tests;
mod writer;

pub use header::{BLOCK_LEN, MAX_MTIME, check_name, header};
pub use manifest::{ManifestHash, certificate, manifest};
pub use template::{FileNumbers, Template};
pub use writer::{ArchiveOptions, ArchiveWriter, MAX_FILES};
