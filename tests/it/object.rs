//! Objects as sources and targets, on servers that others have written.

mod fake_gcs;
mod gc;
mod kill;
mod memory;
mod moments;
mod proxy;
mod read;
mod remote;
pub(crate) mod servers;
mod write;
