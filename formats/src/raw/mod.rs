//! RAW: byte `n` of the file is byte `n` of the disk.
//!
//! Written sparse: blocks of 4 KiB that are zero are skipped. The file keeps the exact length of
//! the source, also where that is not a multiple of 512. RAW has no reader: a file's own map of
//! holes (SEEK_HOLE) is all the structure there is.

mod writer;

pub use writer::{RawOptions, RawWriter};
