//! Looking at images: [`inspect`], [`map`], [`digest`], [`verify`].

use std::{ops::Range, path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    ImageInfo,
    digest::{Algorithm, Digest},
};

use crate::{
    conversion::TreeDigest,
    error::Result,
    pipeline::progress::Progress,
    source::{SourceFormat, SourceOptions},
};

/// What can be said of a source without reading its data.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Path, URL without secrets, or `stdin`.
    pub name: String,
    /// Format.
    pub format: SourceFormat,
    /// Bytes of the guest disk, if known before the end.
    pub virtual_size: Option<u64>,
    /// Length of the file in bytes; `None` for streams.
    pub file_size: Option<u64>,
    /// Bytes that the file takes on its disk, where that can be asked.
    pub allocated: Option<u64>,
    /// What an image says of itself; `None` for RAW and streams.
    pub info: Option<ImageInfo>,
}

/// Looks at a source.
///
/// # Errors
/// It cannot be opened, or is refused.
pub async fn inspect(location: &str, options: &SourceOptions) -> Result<Inspection> {
    let _ = (location, options);
    unimplemented!()
}

/// A run of the guest disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Guest bytes.
    pub guest: Range<u64>,
    /// What is known of them.
    pub kind: MapKind,
    /// Where they begin in the image file, for data stored as it is.
    pub host_offset: Option<u64>,
}

/// What is known of a run of the guest disk without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Stored compressed.
    Compressed,
    /// Stored as it is.
    Data,
    /// Reads as zeros.
    Zero,
}

/// Tells the extents of a source to `each`, in guest order, equal neighbours joined.
///
/// # Errors
/// It cannot be opened, is refused, or is a stream, which has no map.
pub async fn map(
    location: &str,
    options: &SourceOptions,
    each: impl FnMut(MapEntry) -> Result<()> + Send,
) -> Result<()> {
    let _ = (location, options, each);
    unimplemented!()
}

/// How [`digest`] and [`verify`] read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// How the source is read.
    pub source: SourceOptions,
    /// CPU workers; `None` = the cores this process may use.
    pub workers: Option<usize>,
    /// Resident memory of the process in bytes.
    pub memory: u64,
    /// Counters to update.
    pub progress: Progress,
    /// Cancelling this token ends the run.
    pub cancel: CancellationToken,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::default(),
            workers: None,
            memory: 128 << 20,
            progress: Progress::default(),
            cancel: CancellationToken::new(),
        }
    }
}

/// The digest of a source's content.
#[derive(Clone, Debug)]
pub struct DigestReport {
    /// Path, URL without secrets, or `stdin`.
    pub name: String,
    /// Format.
    pub format: SourceFormat,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Guest bytes that are zero.
    pub zero_bytes: u64,
    /// Bytes taken from the source.
    pub bytes_read: u64,
    /// The digest.
    pub digest: TreeDigest,
    /// Wall time.
    pub elapsed: Duration,
}

/// Digests the content of a source.
///
/// # Errors
/// It cannot be read to its end.
pub async fn digest(location: &str, algorithm: Algorithm, options: &ReadOptions) -> Result<DigestReport> {
    let _ = (location, algorithm, options);
    unimplemented!()
}

/// What [`verify`] proved.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// Path or URL.
    pub name: String,
    /// Manifest that it was held against.
    pub manifest: PathBuf,
    /// Format.
    pub format: SourceFormat,
    /// Bytes of content compared.
    pub content_size: u64,
    /// The digest that both have.
    pub digest: TreeDigest,
    /// SHA-256 of the file, if the manifest has one and it was compared.
    pub file_sha256: Option<Digest>,
    /// Wall time.
    pub elapsed: Duration,
}

/// Reads a whole image and compares its content with a manifest (`<image>.vmferry.jsonl` unless
/// `manifest` names another), chunk by chunk.
///
/// # Errors
/// [`Verification`](crate::error::ErrorKind::Verification) names the first chunks that differ.
pub async fn verify(
    location: &str,
    manifest: Option<PathBuf>,
    options: &ReadOptions,
) -> Result<VerifyReport> {
    let _ = (location, manifest, options);
    unimplemented!()
}
