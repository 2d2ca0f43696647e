//! pipeline
pub mod buffer;
