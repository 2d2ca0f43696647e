//! The one data path: every source, writer and sink meets here.
//!
//! ```text
//! plan → fetch            decode · scan · digest · encode        place (in order)      sink
//! source says where       one CPU job a sub-chunk, pure,         shapes in,            two threads:
//! the bytes are, or       any order, all cores                   operations out        write, make durable
//! streams them
//!    ▲        permits, taken in guest order before the fetch, bound memory           │
//!    └──────────────────────────── back-pressure ◀───────────────────────────────────┘
//! ```

mod budget;
pub mod buffer;
pub(crate) mod converter;
pub(crate) mod engine;
pub mod hash;
pub mod journal;
pub(crate) mod layout;
pub mod manifest;
pub(crate) mod output;
mod process;
pub mod progress;
pub(crate) mod resume;
pub(crate) mod stages;
pub(crate) mod target;
#[cfg(test)]
mod tests;

pub use self::process::Check;
pub(crate) use self::process::Checker;
