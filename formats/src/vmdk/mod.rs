//! VMDK: streamOptimized and monolithicSparse.

mod check;
mod descriptor;
mod encoder;
mod extent;
mod header;
mod ids;
mod marker;
mod opener;
mod parser;
mod reader;
mod sparse;
mod stream;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use opener::VmdkOpener;
pub use parser::{StreamGrain, StreamParser, StreamStep};
pub use reader::grain_stream;
pub use writer::{Subformat, VmdkOptions, writer};
