//! The one data path: every source, writer and sink meets here.

pub mod buffer;
pub mod progress;
