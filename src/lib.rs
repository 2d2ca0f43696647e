//! vmferry: a streaming disk-image conversion engine.

pub mod error;
pub mod pipeline;
pub mod source;
