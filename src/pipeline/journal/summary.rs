//! What counts in a journal.

use std::{collections::BTreeMap, io};

use super::{Checkpoint, ChunkRecord, Closed, DiskEnd, DiskStart, Header, JournalReader, PartRecord, Record};
use crate::error::Result;

/// What stands in a journal up to its durable point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// First line.
    pub header: Header,
    /// The durable point, if there was any output before the end.
    pub checkpoint: Option<Checkpoint>,
    /// The disks that are complete there, in their order; always empty for a plain image.
    pub ended: Vec<DiskEnd>,
    /// The number of the disk that it is in: not 0 only in a container. `None` = between two disks.
    pub open: Option<u32>,
    /// Bytes of the journal up to and with the last line that counts.
    pub valid_len: u64,
    /// The output is complete.
    pub closed: Option<Closed>,
    /// The source is known to have changed.
    pub tainted: Option<String>,
    /// The upload of an object, if it was begun.
    pub upload: Option<String>,
    /// Its parts that the store has, by their numbers.
    pub parts: BTreeMap<u32, PartRecord>,
}

impl Summary {
    /// Reads a journal to the end of what is valid. Chunks and disks must follow each other without a
    /// gap. `None` if not even the header is there.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn read(reader: impl io::Read) -> Result<Option<Self>> {
        let mut journal = JournalReader::new(reader);
        let Some(Record::Header(header)) = journal.next_record()? else { return Ok(None) };
        let mut place = Place::new(&header);
        let mut this = Self {
            header: *header,
            checkpoint: None,
            ended: Vec::new(),
            open: place.open,
            valid_len: journal.offset(),
            closed: None,
            tainted: None,
            upload: None,
            parts: BTreeMap::new(),
        };
        // Lines that a checkpoint must follow, if they are to count.
        let mut uncounted = false;
        while let Some(record) = journal.next_record()? {
            if this.closed.is_some() && !matches!(record, Record::Tainted { .. }) {
                break;
            }
            match record {
                Record::Chunk(chunk) if place.take_chunk(&chunk) => {
                    uncounted = true;
                    continue;
                }
                Record::DiskStart(start) if place.take_start(start) => {
                    uncounted = true;
                    continue;
                }
                Record::DiskEnd(end) if place.take_end(&end) => {
                    uncounted = true;
                    this.ended.push(end);
                    continue;
                }
                // What the store has does not depend on what is recorded of the disks.
                Record::Part(part) if !uncounted && this.header.object.is_some() => {
                    this.parts.insert(part.part, part);
                }
                Record::Upload { id } if !uncounted && this.header.object.is_some() => {
                    this.upload = Some(id);
                    this.parts.clear();
                }
                Record::Checkpoint(point) if place.is_at(&point) => {
                    place.counted = this.ended.len();
                    this.open = place.open;
                    this.checkpoint = Some(point);
                }
                Record::Closed(closed) if place.is_whole(&this.ended, &closed) => {
                    place.counted = this.ended.len();
                    this.closed = Some(closed);
                }
                Record::Tainted { reason } => this.tainted = Some(reason),
                _ => break,
            }
            uncounted = false;
            this.valid_len = journal.offset();
        }
        this.ended.truncate(place.counted);
        Ok(Some(this))
    }
}

/// Where a reader is among the disks of a journal.
struct Place {
    /// Number of disks, if they lie in a container.
    disks: Option<usize>,
    separate: bool,
    /// Disks that are complete.
    ended: u32,
    /// Of these, how many the last checkpoint counts.
    counted: usize,
    /// The open disk.
    open: Option<u32>,
    /// Guest bytes of the open or the last disk.
    at: u64,
    /// Output bytes.
    out: u64,
}

impl Place {
    fn new(header: &Header) -> Self {
        let disks = header.container.as_ref().map(|_| header.disks.len());
        let open = if disks.is_none() { Some(0) } else { None };
        let separate = header.container.as_ref().is_some_and(|container| container.separate);
        Self { disks, separate, ended: 0, counted: 0, open, at: 0, out: 0 }
    }

    fn take_chunk(&mut self, chunk: &ChunkRecord) -> bool {
        let Some(end) = chunk.at.checked_add(chunk.len) else { return false };
        let fits = self.open.is_some() && chunk.at == self.at && chunk.len > 0 && chunk.out >= self.out;
        if fits {
            (self.at, self.out) = (end, chunk.out);
        }
        fits
    }

    fn take_start(&mut self, start: DiskStart) -> bool {
        let is_next =
            start.disk == self.ended && self.disks.is_some_and(|disks| (start.disk as usize) < disks);
        let fits = is_next && self.open.is_none() && start.start >= self.out && start.out >= start.start;
        if fits {
            (self.open, self.at, self.out) = (Some(start.disk), 0, start.out);
        }
        fits
    }

    fn take_end(&mut self, end: &DiskEnd) -> bool {
        let is_behind = end.size == self.at
            && end.out >= self.out
            && end.start.checked_add(end.len).is_some_and(|image| image <= end.out);
        let fits = self.disks.is_some() && self.open == Some(end.disk) && (self.separate || is_behind);
        if fits {
            (self.open, self.ended, self.out) = (None, end.disk + 1, end.out);
        }
        fits
    }

    fn is_at(&self, point: &Checkpoint) -> bool {
        let disk = self.disks.and_then(|_| self.open.or_else(|| self.ended.checked_sub(1)));
        point.disk == disk && point.at == self.at && point.tail_len <= point.out
    }

    fn is_whole(&self, ended: &[DiskEnd], closed: &Closed) -> bool {
        match self.disks {
            None => closed.size == self.at,
            Some(disks) => {
                let size = ended.iter().try_fold(0_u64, |size, disk| size.checked_add(disk.size));
                self.open.is_none() && ended.len() == disks && size == Some(closed.size)
            }
        }
    }
}
