//! What conversions did.

use std::{path::PathBuf, time::Duration};

use vmferry_formats::{
    Format,
    digest::{Algorithm, Digest},
};

use crate::{pipeline::journal::DiskEnd, source::SourceFormat};

/// The digest of a disk that is complete.
pub(crate) fn tree_digest(algorithm: Option<Algorithm>, end: &DiskEnd) -> Option<TreeDigest> {
    Some(TreeDigest { algorithm: algorithm?, tree: end.tree.as_ref()?.parse().ok()? })
}

/// The digest of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeDigest {
    /// Hash function.
    pub algorithm: Algorithm,
    /// Disk digest.
    pub tree: Digest,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct ConversionReport {
    /// Final path, or `-`.
    pub output: String,
    /// Format written.
    pub format: Format,
    /// Format of the source.
    pub source_format: SourceFormat,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Bytes taken from the source by this run.
    pub bytes_read: u64,
    /// Bytes written to the output by this run.
    pub bytes_written: u64,
    /// Length of the output in bytes, holes included.
    pub output_size: u64,
    /// Guest bytes that are zero and take no space in the output.
    pub zero_bytes: u64,
    /// Digest of the content.
    pub digest: Option<TreeDigest>,
    /// SHA-256 of the output file, if asked for or had in passing.
    pub file_sha256: Option<Digest>,
    /// Guest offset at which this run took up an earlier one.
    pub resumed_from: Option<u64>,
    /// Whether the output was read back and compared.
    pub verified: bool,
    /// The manifest written.
    pub manifest: Option<PathBuf>,
    /// Wall time.
    pub elapsed: Duration,
    /// What the operator should know.
    pub warnings: Vec<String>,
}
