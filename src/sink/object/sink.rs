//! The sink that cuts an output into parts.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use vmferry_formats::plan::Slot;

use super::{
    Schedule,
    part::{Part, zeros},
    pins::{Earlier, Pin, PinsFile, Region, Regions},
    upload::{PartTarget, State, Upload},
};
use crate::{
    error::{Error, Result},
    sink::{DataSync, Sink},
};

/// Sends an output as the parts of an upload, from `position` on.
pub(crate) struct ObjectSink {
    upload: Arc<Upload>,
    slots: HashMap<Slot, (u64, u64)>,
    /// Bytes that the batch in hand appends, and memory that they hold.
    used: u64,
    held: u64,
}

impl ObjectSink {
    /// A sink at its start. It sends by the runtime that this is called in.
    pub(crate) fn new(target: PartTarget, schedule: Schedule, pins: PinsFile) -> Self {
        let state = State::new(schedule, 0, std::collections::BTreeMap::new());
        Self { upload: Arc::new(Upload::new(target, state, pins)), slots: HashMap::new(), used: 0, held: 0 }
    }

    /// A sink that goes on at `position`, where an earlier run was durable.
    ///
    /// # Errors
    /// Something before `position` is neither with the store nor in the pins file.
    pub(crate) fn restore(
        target: PartTarget,
        schedule: Schedule,
        mut pins: PinsFile,
        position: u64,
        earlier: Earlier,
    ) -> Result<Self> {
        let Earlier { parts, pins: records } = earlier;
        let mut state = State::new(schedule, position, parts);
        let (mut used, mut start, mut number) = (Vec::new(), 0, 1);
        while start < position {
            let len = schedule.len(number);
            let there = len.min(position - start);
            match records.iter().find(|record| record.part == number) {
                Some(record) if record.len == there => {
                    let bytes = pins.read(record)?;
                    let mut part = Part::new(number, start, len);
                    part.push(bytes, record.len);
                    let region = Region { at: record.at, len };
                    part.pin = Some(Pin {
                        region,
                        pieces: 1,
                        len: record.len,
                        crc: record.crc,
                        objects: record.objects.clone(),
                    });
                    used.push(region);
                    state.held += record.len;
                    if there == len { state.pinned.push(part) } else { state.filling = Some(part) }
                }
                _ if there == len && state.take_earlier(number).is_some_and(|part| part.len == len) => {}
                _ => return Err(lost(number)),
            }
            (start, number) = (start + len, number + 1);
        }
        state.regions = Regions::of(&used);
        Ok(Self {
            upload: Arc::new(Upload::new(target, state, pins)),
            slots: HashMap::new(),
            used: 0,
            held: 0,
        })
    }

    /// Tells the sink of a slot that an earlier run reserved.
    pub(crate) fn restore_slot(&mut self, slot: Slot, start: u64, len: u64) {
        self.slots.insert(slot, (start, len));
        let mut state = self.upload.inner.lock();
        let State { pinned, filling, .. } = &mut *state;
        for part in pinned.iter_mut().chain(filling) {
            if let Some((_, common)) = part.overlap(start, len) {
                part.open += common;
            }
        }
    }

    /// Fills in again what an earlier run had filled in: the pins file has zeros there.
    ///
    /// # Errors
    /// As for [`Sink::fill`].
    pub(crate) fn restore_fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()> {
        let start = crate::sink::file::slot_range(&self.slots, slot, at, bytes)?;
        self.fill_parts(start, bytes);
        Ok(())
    }

    /// Sends what an earlier run was about to send when it ended.
    ///
    /// # Errors
    /// As for [`Sink::append`].
    pub(crate) fn go_on(&mut self) -> Result<()> {
        self.send_complete()
    }

    /// Appends one piece, which holds `held` bytes of memory, to as many parts as it reaches into.
    fn push(&self, mut piece: Bytes, held: u64, open: bool) -> Result<()> {
        let inner = &self.upload.inner;
        let all = piece.len() as u64;
        while !piece.is_empty() {
            let mut state = inner.wait(|state| state.has_room(held))?;
            let mut part = match state.filling.take() {
                Some(part) => part,
                None => next_part(&state, inner.name())?,
            };
            let take = usize::try_from(part.room()).unwrap_or(usize::MAX).min(piece.len());
            let taken = piece.split_to(take);
            let share = held * take as u64 / all.max(1);
            part.push(taken, share);
            if open {
                part.open += take as u64;
            }
            state.held += share;
            state.position += take as u64;
            if part.room() > 0 {
                state.filling = Some(part);
            } else if part.open > 0 {
                state.held -= part.compact();
                state.pinned.push(part);
                if state.pinned.len() > MAX_PINNED {
                    return Err(Error::refused(format!(
                        "this layout leaves more than {MAX_PINNED} parts of {} to be filled in late",
                        inner.name()
                    ))
                    .with_hint(
                        "an object takes raw, qcow2 and streamOptimized vmdk, or a larger --part-size",
                    ));
                }
            } else {
                state.complete(&mut part);
                drop(state);
                self.upload.dispatch(part)?;
            }
        }
        Ok(())
    }

    fn push_zeros(&self, len: u64, open: bool) -> Result<()> {
        zeros(len).try_for_each(|piece| self.push(piece, 0, open))
    }

    fn fill_parts(&self, start: u64, bytes: &Bytes) {
        let mut state = self.upload.inner.lock();
        let State { pinned, filling, .. } = &mut *state;
        for part in pinned.iter_mut().chain(filling) {
            if let Some((at, common)) = part.overlap(start, bytes.len() as u64) {
                let first = usize::try_from(part.start + at - start).unwrap_or(0);
                let common = usize::try_from(common).unwrap_or(0);
                // Copied: what is filled in is short, and may be a slice of something long.
                part.fill(at, Bytes::copy_from_slice(&bytes[first..first + common]));
            }
        }
    }

    /// Sends what nothing is left to be filled in.
    fn send_complete(&self) -> Result<()> {
        loop {
            let mut state = self.upload.inner.lock();
            let Some(index) = state.pinned.iter().position(|part| part.open == 0) else { return Ok(()) };
            let mut part = state.pinned.remove(index);
            state.complete(&mut part);
            drop(state);
            self.upload.dispatch(part)?;
        }
    }
}

/// The part that begins where the output ends.
fn next_part(state: &State, name: &str) -> Result<Part> {
    let number = state.schedule.part_at(state.position);
    if number > state.schedule.parts {
        return Err(Error::refused(format!(
            "{name} would be longer than {} bytes, the most that its parts hold",
            state.schedule.covers()
        ))
        .with_hint("start again with --restart and a larger --part-size"));
    }
    Ok(Part::new(number, state.position, state.schedule.len(number)))
}

fn lost(part: u32) -> Error {
    Error::refused(format!(
        "part {part} of the interrupted upload is neither with the store nor in the pins file"
    ))
    .with_hint("start again with --restart")
}

impl Sink for ObjectSink {
    fn begin_batch(&mut self, used: u64, held: u64) {
        (self.used, self.held) = (used, held);
    }

    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        // Bytes that are kept keep alive all of the memory that they are a slice of.
        if self.used.saturating_mul(2) < self.held {
            let mut all = Vec::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|piece| all.extend_from_slice(piece));
            let held = all.len() as u64;
            return self.push(all.into(), held, false);
        }
        for piece in pieces {
            let len = piece.len() as u64;
            let held = if self.held > self.used { len * self.held / self.used.max(1) } else { len };
            self.push(piece.clone(), held, false)?;
        }
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.push_zeros(len, false)
    }

    fn reserve(&mut self, slot: Slot, len: u64) -> Result<()> {
        let start = self.upload.inner.lock().position;
        self.slots.insert(slot, (start, len));
        self.push_zeros(len, true)
    }

    fn fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()> {
        let start = crate::sink::file::slot_range(&self.slots, slot, at, bytes)?;
        self.fill_parts(start, bytes);
        self.send_complete()
    }

    fn settle(&mut self) -> Result<()> {
        let mut state = self.upload.inner.lock();
        state.settled = state.position;
        drop(state);
        self.upload.inner.notify();
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let mut state = self.upload.inner.lock();
        if state.position == 0 {
            // An upload has a part, if an empty one.
            state.filling = Some(next_part(&state, self.upload.inner.name())?);
        }
        // What was never filled in stays zero.
        let mut parts = std::mem::take(&mut state.pinned);
        parts.extend(state.filling.take());
        parts.iter_mut().for_each(|part| state.complete(part));
        (state.ended, state.finished) = (true, true);
        drop(state);
        parts.sort_by_key(|part| std::cmp::Reverse(part.number));
        parts.into_iter().try_for_each(|part| self.upload.dispatch(part))
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        Some(Arc::clone(&self.upload) as Arc<dyn DataSync>)
    }
}

impl Drop for ObjectSink {
    fn drop(&mut self) {
        self.upload.inner.lock().ended = true;
        self.upload.inner.notify();
    }
}

/// Parts that wait for late bytes at once: the front of an output, and the header of an archive's disk.
const MAX_PINNED: usize = 2;
