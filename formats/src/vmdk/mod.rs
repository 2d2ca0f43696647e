//! VMDK: streamOptimized and monolithicSparse.

mod reader;
mod writer;

pub use reader::{VmdkOpener, grain_stream};
pub use writer::{Subformat, VmdkOptions, writer};
