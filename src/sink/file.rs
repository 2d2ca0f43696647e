//! A file: written by offset as `<output>.partial`, holes where there are zeros.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IoSlice},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use vmferry_formats::plan::Slot;

use super::{DataSync, Durable, Sink};
use crate::{
    error::{Error, Result},
    sys,
};

/// Writes a file from `position` on.
pub(crate) struct FileSink {
    target: Arc<TargetFile>,
    position: u64,
    written_back: u64,
    /// End of what the file is known to have.
    end: u64,
    slots: HashMap<Slot, (u64, u64)>,
}

/// A file and its name, shared with the thread that syncs it.
pub(crate) struct TargetFile {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
}

impl FileSink {
    /// A sink that goes on at `position`. Everything behind it is cut off first, so that no byte of
    /// an earlier run shows in a range that is skipped now.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub(crate) fn new(file: File, path: &Path, position: u64) -> Result<Self> {
        file.set_len(position).map_err(|error| Error::io("cut", path, error))?;
        let target = Arc::new(TargetFile { file, path: path.to_owned() });
        Ok(Self { target, position, written_back: position, end: position, slots: HashMap::new() })
    }

    /// Tells the sink of a slot that an earlier run reserved.
    pub(crate) fn restore_slot(&mut self, slot: Slot, start: u64, len: u64) {
        self.slots.insert(slot, (start, len));
    }
}

impl Sink for FileSink {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        self.target.write_all(self.position, pieces)?;
        self.position += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.end = self.position;
        if self.position - self.written_back >= WRITEBACK_LEN {
            // Only a hint: where it is not supported, the sync does all the work.
            let _ =
                sys::start_writeback(&self.target.file, self.written_back, self.position - self.written_back);
            self.written_back = self.position;
        }
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<()> {
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

    fn settle(&mut self) -> Result<()> {
        // A hole at the end is not part of the file until its length says so.
        if self.end < self.position { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<()> {
        self.end = self.position;
        self.target
            .file
            .set_len(self.position)
            .map_err(|error| self.target.failed("extend", self.position, error))
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        Some(Arc::clone(&self.target) as Arc<dyn DataSync>)
    }
}

/// Where a fill begins in the output; it must stay inside its slot.
pub(super) fn slot_range(
    slots: &HashMap<Slot, (u64, u64)>,
    slot: Slot,
    at: u64,
    bytes: &Bytes,
) -> Result<u64> {
    match slots.get(&slot) {
        Some((start, len)) if at.checked_add(bytes.len() as u64).is_some_and(|end| end <= *len) => {
            Ok(start + at)
        }
        _ => Err(Error::failed(format!("the writer filled bytes outside of reservation {}", slot.0))),
    }
}

impl TargetFile {
    /// Writes `pieces` back to back from `offset` on, in as few calls as the kernel takes.
    pub(super) fn write_all(&self, mut offset: u64, pieces: &[Bytes]) -> Result<()> {
        for group in pieces.chunks(MAX_SLICES) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut slices = &mut slices[..];
            IoSlice::advance_slices(&mut slices, 0);
            while !slices.is_empty() {
                match rustix::io::pwritev(&self.file, slices, offset) {
                    Ok(0) => return Err(self.failed("write", offset, io::ErrorKind::WriteZero.into())),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut slices, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(self.failed("write", offset, error.into())),
                }
            }
        }
        Ok(())
    }

    pub(super) fn failed(&self, operation: &str, offset: u64, error: io::Error) -> Error {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "make room on that file system, then run the same command again: it goes on where it stopped"
            }
            io::ErrorKind::FileTooLarge => {
                "the file system or a limit (ulimit -f) does not allow a file of that size"
            }
            _ => {
                "look for disk errors in the kernel log; the same command goes on from the last durable point"
            }
        };
        let message = format!("cannot {operation} {} at byte {offset}", self.path.display());
        Error::failed(message).with_source(error).with_hint(hint)
    }
}

impl DataSync for TargetFile {
    fn sync(&self) -> Result<Durable> {
        let synced = self.file.sync_data().map_err(|error| {
            Error::io("sync", &self.path, error).with_hint(
                "data since the last durable point may be lost; the same command goes on from there",
            )
        });
        synced.map(|()| Durable::All)
    }

    fn tail_crc(&self, end: u64, len: u64) -> Result<u32> {
        tail_crc(&self.file, &self.path, end, len)
    }
}

/// CRC-32C of the `len` bytes before `end`; a file that is too short reads as zeros there.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn tail_crc(file: &File, path: &Path, end: u64, len: u64) -> Result<u32> {
    let (start, mut there) = (end - len, 0);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    while there < bytes.len() {
        match file.read_at(&mut bytes[there..], start + there as u64) {
            Ok(0) => break,
            Ok(read) => there += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read back", path, error)),
        }
    }
    Ok(crc32c::crc32c(&bytes))
}

/// Bytes between two hints to start writing back.
const WRITEBACK_LEN: u64 = 16 << 20;

/// Slices in one system call; Linux takes 1024.
const MAX_SLICES: usize = 1024;
