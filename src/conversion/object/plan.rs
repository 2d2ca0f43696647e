//! How an output is cut into parts, before anything is asked of the store.

use super::ConversionOptions;
use crate::{
    conversion::worst_len,
    error::{Error, Result},
    object::{ObjectLocation, Scheme},
    sink::object::{Limits, Schedule},
};

/// How an output would be uploaded, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPlan {
    /// URL of the object.
    pub object: String,
    /// Bytes of the output at most, as far as the size of its disks is known.
    pub longest_output: Option<u64>,
    /// Bytes of the first part.
    pub first_part: u64,
    /// Bytes of the longest part that such an output has.
    pub longest_part: u64,
    /// Number of parts that it has then.
    pub parts: u32,
    /// Bytes of the longest object that these parts can become.
    pub longest_object: u64,
    /// Memory of the whole run in bytes until parts begin to grow.
    pub memory: u64,
    /// Memory of the whole run in bytes if the output is as long as it can be.
    pub most_memory: u64,
}

impl UploadPlan {
    /// For the image of a disk of `size` bytes in the object `url`. Nothing is asked.
    ///
    /// # Errors
    /// It is no URL of an object, or the store takes no parts of the length that is asked for.
    pub fn new(url: &str, size: Option<u64>, options: &ConversionOptions) -> Result<Self> {
        Self::of(url, size.map(worst_len), options)
    }

    /// For an output of at most `longest_output` bytes.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(crate) fn of(url: &str, longest_output: Option<u64>, options: &ConversionOptions) -> Result<Self> {
        let location = ObjectLocation::parse(url)?
            .ok_or_else(|| Error::usage(format!("{url:?} is no URL of an object")))?;
        location.path()?;
        let schedule = schedule(&location, options, longest_output)?;
        let end = longest_output.unwrap_or(UNKNOWN_LEN).clamp(1, schedule.covers()) - 1;
        Ok(Self {
            object: location.to_string(),
            longest_output,
            first_part: schedule.len(1),
            longest_part: schedule.len(schedule.part_at(end)),
            parts: schedule.part_at(end),
            longest_object: schedule.covers(),
            memory: options.memory + schedule.memory_at(0),
            most_memory: options.memory + schedule.memory_at(end),
        })
    }
}

/// How an output of at most `worst` bytes is cut.
pub(super) fn schedule(
    location: &ObjectLocation,
    options: &ConversionOptions,
    worst: Option<u64>,
) -> Result<Schedule> {
    let limits = match location.scheme() {
        Scheme::Azure => Limits::AZURE,
        Scheme::Gcs | Scheme::S3 => Limits::S3,
    };
    match options.object.part_size {
        Some(len) => Schedule::equal(limits, len),
        None => Ok(Schedule::growing(limits, worst.unwrap_or(UNKNOWN_LEN))),
    }
}

/// Bytes of an output whose length nothing tells.
pub(super) const UNKNOWN_LEN: u64 = 16 << 40;
