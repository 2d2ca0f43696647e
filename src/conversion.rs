//! One conversion from start to end: [`Conversion`].

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    Format, WriterSpec,
    digest::{Algorithm, Digest},
};

use crate::{
    error::Result,
    pipeline::progress::Progress,
    source::{SourceFormat, SourceOptions},
};

/// Where an output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file (or, with `force`, a block device).
    Path(PathBuf),
    /// Standard output: RAW and streamOptimized VMDK only.
    Stdout,
}

/// What to do with a partial output of an earlier run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResumePolicy {
    /// Go on where it ended, if source and parameters are the same.
    #[default]
    Resume,
    /// Refuse to touch it.
    Refuse,
    /// Discard it and start again.
    Restart,
}

/// How a conversion is done; every field has the default of the command line.
#[derive(Clone, Debug)]
pub struct ConversionOptions {
    /// How the source is read.
    pub source: SourceOptions,
    /// Hash function of the digest tree; `None` = no digest and no manifest.
    pub digest: Option<Algorithm>,
    /// Also compute the SHA-256 of a RAW output file in passing (streamOptimized always has one).
    pub flat_sha256: bool,
    /// CPU workers; `None` = the cores this process may use. Lowered to fit `memory`.
    pub workers: Option<usize>,
    /// Resident memory of the process in bytes.
    pub memory: u64,
    /// Read the output back from the disk after the sync and compare digests.
    pub verify: bool,
    /// Report the output file's SHA-256, by reading it again where it was not had in passing.
    pub sums: bool,
    /// Overwrite an existing output; required for block devices.
    pub force: bool,
    /// Write `<output>.vmferry.jsonl`.
    pub manifest: bool,
    /// What to do with a partial output.
    pub resume: ResumePolicy,
    /// Where the journal goes instead of beside the output.
    pub journal: Option<PathBuf>,
    /// Output bytes between two durable points.
    pub checkpoint_bytes: u64,
    /// Time between two durable points.
    pub checkpoint_interval: Duration,
    /// Resume from a source that cannot prove that it is unchanged (block device).
    pub assume_unchanged: bool,
}

impl Default for ConversionOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::default(),
            digest: Some(Algorithm::Sha256),
            flat_sha256: false,
            workers: None,
            memory: 128 << 20,
            verify: false,
            sums: false,
            force: false,
            manifest: true,
            resume: ResumePolicy::Resume,
            journal: None,
            checkpoint_bytes: 256 << 20,
            checkpoint_interval: Duration::from_secs(5),
            assume_unchanged: false,
        }
    }
}

/// A conversion, set up but not begun.
#[derive(Debug)]
pub struct Conversion {
    pub(crate) source: String,
    pub(crate) target: Target,
    pub(crate) spec: WriterSpec,
    pub(crate) options: ConversionOptions,
    pub(crate) progress: Progress,
    pub(crate) cancel: CancellationToken,
}

impl Conversion {
    /// From `source` (a path, an `http(s)://` URL, or `-` for stdin) to `target`, written as `spec`.
    pub fn new(
        source: impl Into<String>,
        target: Target,
        spec: WriterSpec,
        options: ConversionOptions,
    ) -> Self {
        Self {
            source: source.into(),
            target,
            spec,
            options,
            progress: Progress::default(),
            cancel: CancellationToken::new(),
        }
    }

    /// A handle that tells how far the conversion is; it may be polled from anywhere.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Cancelling this token ends the run with a resumable partial.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Runs it.
    ///
    /// # Errors
    /// Whatever goes wrong; the partial output is kept where it can be resumed, and the hint says how.
    pub async fn run(self) -> Result<ConversionReport> {
        unimplemented!()
    }
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
