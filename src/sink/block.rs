//! A block device: its old content is not zero, so skipped ranges are zeroed, and the tail too.

use std::{
    collections::HashMap,
    fs::File,
    io::{Seek as _, SeekFrom},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use vmferry_formats::plan::Slot;

use super::{
    DataSync, Sink,
    file::{TargetFile, slot_range},
};
use crate::{
    error::{Error, Result},
    sys,
};

/// Writes a block device from `position` on.
pub(crate) struct BlockSink {
    target: Arc<TargetFile>,
    size: u64,
    position: u64,
    slots: HashMap<Slot, (u64, u64)>,
}

impl BlockSink {
    /// A sink that goes on at `position`.
    ///
    /// # Errors
    /// The size of the device cannot be told.
    pub(crate) fn new(mut device: File, path: &Path, position: u64) -> Result<Self> {
        let size =
            device.seek(SeekFrom::End(0)).map_err(|error| Error::io("find the size of", path, error))?;
        let target = Arc::new(TargetFile { file: device, path: path.to_owned() });
        Ok(Self { target, size, position, slots: HashMap::new() })
    }

    /// Tells the sink of a slot that an earlier run reserved.
    pub(crate) fn restore_slot(&mut self, slot: Slot, start: u64, len: u64) {
        self.slots.insert(slot, (start, len));
    }

    fn room_for(&self, len: u64) -> Result<()> {
        if self.position.checked_add(len).is_none_or(|end| end > self.size) {
            let message =
                format!("{} holds {} bytes, the image needs more", self.target.path.display(), self.size);
            return Err(Error::failed(message).with_hint("use a larger device"));
        }
        Ok(())
    }

    fn zero(&self, mut offset: u64, len: u64) -> Result<()> {
        let end = offset + len;
        // BLKZEROOUT takes whole sectors; the edges, and devices without it, get written zeros.
        let (start, stop) = (offset.next_multiple_of(SECTOR).min(end), end / SECTOR * SECTOR);
        if start < stop && sys::zero_out(&self.target.file, start, stop - start).is_ok() {
            self.write_zeros(offset, start - offset)?;
            offset = stop;
        }
        self.write_zeros(offset, end - offset)
    }

    fn write_zeros(&self, mut offset: u64, len: u64) -> Result<()> {
        let (end, zeros) = (offset + len, Bytes::from_static(&ZEROS));
        while offset < end {
            let step = (end - offset).min(zeros.len() as u64);
            self.target.write_all(offset, &[zeros.slice(..usize::try_from(step).unwrap_or(zeros.len()))])?;
            offset += step;
        }
        Ok(())
    }
}

impl Sink for BlockSink {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.room_for(len)?;
        self.target.write_all(self.position, pieces)?;
        self.position += len;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.room_for(len)?;
        self.zero(self.position, len)?;
        self.position += len;
        Ok(())
    }

    fn reserve(&mut self, slot: Slot, len: u64) -> Result<()> {
        self.slots.insert(slot, (self.position, len));
        self.skip(len)
    }

    fn fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()> {
        let start = slot_range(&self.slots, slot, at, bytes)?;
        self.target.write_all(start, std::slice::from_ref(bytes))
    }

    fn finish(&mut self) -> Result<()> {
        self.zero(self.position, self.size - self.position)
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        Some(Arc::clone(&self.target) as Arc<dyn DataSync>)
    }
}

const SECTOR: u64 = 512;

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
