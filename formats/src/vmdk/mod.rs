//! VMDK: streamOptimized and monolithicSparse.

mod descriptor;
mod encoder;
mod header;
mod ids;
mod marker;
mod reader;
mod sparse;
mod stream;
mod tables;
mod writer;

pub use reader::{VmdkOpener, grain_stream};
pub use writer::{Subformat, VmdkOptions, writer};
