//! What the readers of all formats do alike.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    plan::{Mapping, Need, Place},
};

/// A plan in the making.
pub(crate) struct Plan {
    /// Guest bytes up to here are mapped.
    pub(crate) at: u64,
    /// Where the range asked for ends.
    pub(crate) end: u64,
    /// What is mapped.
    pub(crate) mappings: Vec<Mapping>,
    examined: usize,
}

impl Plan {
    /// Nothing of `guest` is mapped yet.
    pub(crate) fn new(guest: Range<u64>) -> Self {
        Self { at: guest.start, end: guest.end, mappings: Vec::new(), examined: 0 }
    }

    /// Whether the answer may grow. One cluster can add 33 mappings at most.
    pub(crate) fn goes_on(&self) -> bool {
        self.examined < MAX_EXAMINED && self.mappings.len() < MAX_MAPPINGS
    }

    /// Counts an entry looked at, unless the call has done enough.
    pub(crate) fn examine(&mut self) -> bool {
        let goes_on = self.goes_on();
        self.examined += usize::from(goes_on);
        goes_on
    }

    /// Maps what is not yet mapped before `to`, as far as it was asked for. `place` is that of the
    /// first byte added.
    pub(crate) fn push(&mut self, to: u64, place: Place) {
        let to = to.min(self.end);
        if to <= self.at {
            return;
        }
        match (self.mappings.last_mut(), place) {
            (Some(Mapping { guest, place: Place::Hole }), Place::Hole) => guest.end = to,
            (
                Some(Mapping { guest, place: Place::Raw { file: first, offset: start } }),
                Place::Raw { file, offset },
            ) if *first == file && *start + (guest.end - guest.start) == offset => {
                guest.end = to;
            }
            _ => self.mappings.push(Mapping { guest: self.at..to, place }),
        }
        self.at = to;
    }

    /// Maps a whole cluster, wherever the range asked for begins and ends.
    pub(crate) fn push_whole(&mut self, guest: Range<u64>, place: Place) {
        self.at = guest.end;
        self.mappings.push(Mapping { guest, place });
    }
}

/// Whether these are the bytes that were asked for.
///
/// # Errors
/// They are not.
pub(crate) fn check_supply(pending: Option<Need>, need: Need, bytes: &[u8]) -> Result<()> {
    if pending == Some(need) && bytes.len() == need.len {
        return Ok(());
    }
    Err(Error::invalid_input(format!("{} bytes for {need:?}, asked for {pending:?}", bytes.len())))
}

/// The error for a call to an opener that is done.
pub(crate) fn opened() -> Error {
    Error::invalid_input("the image is open already, or could not be opened")
}

/// Bounds of one call of `plan`: entries looked at (some 100 microseconds) and mappings returned.
const MAX_EXAMINED: usize = 1 << 16;
const MAX_MAPPINGS: usize = 4096;
