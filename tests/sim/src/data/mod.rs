//! The data path: exporters, and the proxy in front of them.

mod archive;
pub(crate) mod body;
mod content;
pub(crate) mod exporter;
mod manifest;
pub(crate) mod proxy;
mod range;
