//! What the fuzz targets do with their input. `fuzz/targets` calls these under libFuzzer, and
//! `tests/fuzz_seeds.rs` replays the committed seeds through the very same code on stable Rust.
//!
//! Each takes any bytes. It must not panic, loop or take more memory than its input justifies, and
//! where the input is accepted, what comes out must agree with itself.

mod archives;
mod images;
mod lines;
mod ovf;
#[cfg(feature = "cloud")]
mod stores;
mod streams;

#[cfg(feature = "cloud")]
pub use self::stores::store_answer;
pub use self::{
    archives::ova_reader,
    images::{qcow2_reader, qcow2_writer, vmdk_reader, vmdk_stream, vmdk_writer},
    lines::{journal, manifest},
    ovf::ovf_parser,
    streams::{detect, gzip_stream},
};

/// A target's body.
pub type Body = fn(&[u8]);

/// All targets by the name of their folder in `fuzz/seeds`.
pub const TARGETS: &[(&str, Body)] = &[
    ("detect", detect),
    ("gzip_stream", gzip_stream),
    ("journal", journal),
    ("manifest", manifest),
    ("ova_reader", ova_reader),
    ("ovf_parser", ovf_parser),
    ("qcow2_reader", qcow2_reader),
    ("qcow2_writer", qcow2_writer),
    #[cfg(feature = "cloud")]
    ("store_answer", store_answer),
    ("vmdk_reader", vmdk_reader),
    ("vmdk_stream", vmdk_stream),
    ("vmdk_writer", vmdk_writer),
];
