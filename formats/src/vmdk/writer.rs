//! The VMDK writers.
use crate::{FormatWriter, Result, deflate::Level};

/// Parameters of a VMDK output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmdkOptions {
    /// The variant.
    pub subformat: Subformat,
    /// How hard streamOptimized compresses.
    pub level: Level,
    /// What ids derive from; by default virtual size, parameters and base name.
    pub id_seed: Option<String>,
}

/// Variant of a VMDK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Subformat {
    /// Uncompressed grains behind tables that are filled as their ranges complete.
    MonolithicSparse,
    /// Compressed grains, tables behind them, strictly forward.
    #[default]
    StreamOptimized,
}

/// A writer for a disk of `size` bytes, if that is known.
///
/// # Errors
/// Parameters out of range, or a disk that the format cannot hold.
pub fn writer(_options: &VmdkOptions, _size: Option<u64>, _name: &str) -> Result<Box<dyn FormatWriter>> {
    unimplemented!()
}

impl std::fmt::Display for Subformat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::StreamOptimized => "streamOptimized",
        })
    }
}
