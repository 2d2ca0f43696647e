//! Objects: the stream is cut into parts, which are sent as soon as they are complete, in any order.
//!
//! A part is complete when it is full and nothing in it is left to be filled in late; part 1 of most
//! layouts is the last one. What is durable of an output is what the store has acknowledged and what
//! lies in the pins file beside the journal: the part that is being filled and those that wait for late
//! bytes. So a run goes on exactly where its last record stands, like one that wrote a file, and no part
//! below it is ever sent twice.
//!
//! Memory: [`Schedule::memory_at`]. Zeros take none. Nothing else touches a disk.

#[cfg(feature = "cloud")]
mod part;
#[cfg(feature = "cloud")]
mod pins;
mod record;
#[cfg(feature = "cloud")]
mod schedule;
#[cfg(feature = "cloud")]
mod sink;
#[cfg(test)]
#[cfg(feature = "cloud")]
mod tests;
#[cfg(feature = "cloud")]
mod upload;

pub use self::record::{PartRecord, PinRecord, Schedule};
#[cfg(feature = "cloud")]
pub(crate) use self::{
    pins::{Earlier, PinCopies, PinsFile},
    schedule::Limits,
    sink::ObjectSink,
    upload::PartTarget,
};
