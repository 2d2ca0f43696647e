//! QCOW2, version 3 written, 2 and 3 read.

mod reader;
mod writer;

pub use reader::Qcow2Opener;
pub use writer::{Qcow2Options, Qcow2Writer};
