//! How conversions are done.

use std::{path::PathBuf, time::Duration};

use vmferry_formats::digest::Algorithm;

use crate::source::SourceOptions;
#[cfg(feature = "cloud")]
use crate::{object::StoreOptions, source::Rate};

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
    /// How objects are written.
    #[cfg(feature = "cloud")]
    pub object: ObjectOptions,
}

/// How objects are written; every field has the default of the command line.
#[cfg(feature = "cloud")]
#[derive(Clone, Debug, Default)]
pub struct ObjectOptions {
    /// How their store is reached, and what they are made with.
    pub store: StoreOptions,
    /// Bytes of each part, for stores that want them equal; `None` = 8 MiB, growing.
    pub part_size: Option<u64>,
    /// Bytes a second that all uploads may send together.
    pub rate: Option<Rate>,
    /// Whether the journal lies beside the object, so that a run on another machine can go on. The file
    /// that `ConversionOptions::journal` names is a copy then.
    pub remote_journal: bool,
    /// The VM whose disks they hold, as `namespace/name`: markers and the metadata of objects name it.
    pub vm: Option<String>,
}

impl ConversionOptions {
    /// How outputs are read back.
    pub(crate) fn reading_back(&self) -> SourceOptions {
        SourceOptions {
            #[cfg(feature = "cloud")]
            store: self.object.store.clone(),
            ..SourceOptions::default()
        }
    }
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
            #[cfg(feature = "cloud")]
            object: ObjectOptions::default(),
        }
    }
}
