//! Disks in image files: a format reader says where the bytes are, this module plans how to fetch
//! them.
//!
//! An image is hostile until proven otherwise. Its tables can map one cluster to the whole disk, so
//! what is delivered is bounded by what the files could honestly hold ([`Guard`]); its extents are
//! opened only beneath a directory that the user named; every range is checked against the store it
//! lies in before anybody reads.

mod encoded;
mod extents;
mod tables;

#[cfg(test)]
mod tests;

use std::{ops::Range, path::Path, sync::Arc};

use vmferry_formats::{
    Compression, Format, FormatReader, ImageInfo, OpenReader, OpenStep, ReaderPolicy,
    chunk::CHUNK_LEN,
    plan::{Mapping, Need, Place, Step},
};

use self::encoded::Encoded;
pub(super) use self::{extents::open_beside, tables::Tables};
use super::{
    BoxFuture, ByteStore, DiskPlan, Piece, ReadPlan, ReadRange, SourceIdentity,
    num::{to_u64, to_usize},
};
use crate::error::{Error, FormatContext as _, Result};

/// A disk in an image file, and the files that the image refers to.
pub struct ImagePlan {
    tables: Tables,
    reader: Box<dyn FormatReader>,
    /// The reader's last answer: it may reach further than what was asked for.
    known: Vec<Mapping>,
    decode_len: u64,
    guard: Guard,
    /// Where the piece planned last ended.
    position: u64,
}

impl std::fmt::Debug for ImagePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImagePlan")
            .field("name", &self.name())
            .field("info", self.reader.info())
            .finish_non_exhaustive()
    }
}

impl ImagePlan {
    /// Opens the image of `format` in `store`. Files that it refers to are opened in the directory
    /// `extents`, if there is one, and else refused.
    ///
    /// # Errors
    /// The image is corrupt, unsupported or refused, or cannot be read.
    pub async fn open(format: Format, store: Arc<dyn ByteStore>, extents: Option<&Path>) -> Result<Self> {
        let policy = ReaderPolicy { allow_extents: extents.is_some(), ..ReaderPolicy::default() };
        let opener = vmferry_formats::open(format, store.size(), &policy)
            .context(|| format!("cannot open {}", store.name()))?;
        Self::open_with(opener, store, extents).await
    }

    async fn open_with(
        mut opener: Box<dyn OpenReader>,
        store: Arc<dyn ByteStore>,
        extents: Option<&Path>,
    ) -> Result<Self> {
        let what = format!("cannot open {}", store.name());
        let mut tables = Tables::new(store);
        let mut last = None;
        let reader = loop {
            match opener.step().context(|| what.clone())? {
                OpenStep::Need(need) => {
                    goes_on(&mut last, need, &tables.name())?;
                    let bytes = tables.bytes(need).await?;
                    opener.supply(need, bytes).context(|| what.clone())?;
                }
                OpenStep::Extents(names) => {
                    let Some(directory) = extents else {
                        return Err(extents::refused(&tables.name()));
                    };
                    let lens = extents::open(directory, &names, &mut tables)?;
                    opener.supply_extents(&lens).context(|| what.clone())?;
                }
                OpenStep::Ready(reader) => break reader,
            }
        };
        let info = reader.info();
        let decode_len = if info.compression == Compression::None { 1 } else { info.cluster_len };
        if !decode_len.is_power_of_two() || decode_len > MAX_DECODE_LEN {
            return Err(Error::refused(format!(
                "{} has compressed clusters of {decode_len} bytes; up to {MAX_DECODE_LEN} are supported",
                tables.name()
            )));
        }
        let guard = Guard::new(tables.stores());
        Ok(Self { tables, reader, known: Vec::new(), decode_len, guard, position: 0 })
    }

    /// What the image says of itself.
    pub fn info(&self) -> &ImageInfo {
        self.reader.info()
    }

    fn name(&self) -> String {
        self.tables.name()
    }

    /// The mapping of the guest byte `at`; where nothing is known yet the reader is asked up to
    /// `end`.
    async fn mapping(&mut self, at: u64, end: u64) -> Result<Mapping> {
        let index = self.known.partition_point(|mapping| mapping.guest.end <= at);
        if let Some(mapping) = self.known.get(index)
            && mapping.guest.start <= at
        {
            return Ok(mapping.clone());
        }
        let what = |name: String| move || format!("cannot read {name}");
        let mut last = None;
        self.known = loop {
            match self.reader.plan(at..end).context(what(self.tables.name()))? {
                Step::Need(need) => {
                    goes_on(&mut last, need, &self.tables.name())?;
                    let bytes = self.tables.bytes(need).await?;
                    self.reader.supply(need, bytes).context(what(self.tables.name()))?;
                }
                Step::Ready(mappings) => break mappings,
            }
        };
        let in_order = self.known.iter().all(|mapping| mapping.guest.start < mapping.guest.end)
            && self.known.windows(2).all(|pair| pair[0].guest.end == pair[1].guest.start);
        match self.known.first() {
            Some(first) if in_order && first.guest.contains(&at) => Ok(first.clone()),
            _ => {
                self.known.clear();
                Err(Error::failed(format!(
                    "the tables of {} cannot be followed at guest byte {at}",
                    self.name()
                )))
            }
        }
    }

    async fn piece(&mut self, start: u64) -> Result<Piece> {
        let size = self.size();
        if start >= size || !start.is_multiple_of(CHUNK_LEN) {
            return Err(Error::failed(format!("no chunk begins at {start} of a disk of {size} bytes")));
        }
        if start < self.position {
            // A new pass over the disk: a guard of a resumed run, a verification.
            self.guard.restart();
        }
        let end = size.min(start + CHUNK_LEN);
        let zero_end = self.zero_end(start, end).await?;
        let piece = if zero_end >= end {
            let end = if zero_end == size { size } else { zero_end - zero_end % CHUNK_LEN };
            Piece { guest_offset: start, len: end - start, read: None }
        } else {
            let read = self.read_plan(start..end).await?;
            Piece { guest_offset: start, len: end - start, read: Some(read) }
        };
        self.position = start + piece.len;
        Ok(piece)
    }

    /// Where the run of known zeros at `start` ends; `start` if there is none. It is followed past
    /// `end`, the end of the chunk, only if all of the chunk is zero.
    async fn zero_end(&mut self, start: u64, end: u64) -> Result<u64> {
        let size = self.size();
        let (mut at, mut window) = (start, FIRST_WINDOW);
        while at < size {
            // Questions grow with the hole, so that a disk of terabytes takes few of them.
            let ask = if at < end { end } else { size.min(at.saturating_add(window)) };
            let mapping = self.mapping(at, ask).await?;
            if mapping.place != Place::Hole {
                break;
            }
            if at >= end {
                window = window.saturating_mul(2);
            }
            at = mapping.guest.end.min(size);
        }
        Ok(at)
    }

    async fn read_plan(&mut self, chunk: Range<u64>) -> Result<ReadPlan> {
        let mut plan = ReadPlan::default();
        let mut encoded = Encoded::default();
        let mut at = chunk.start;
        while at < chunk.end {
            let mapping = self.mapping(at, chunk.end).await?;
            let end = mapping.guest.end.min(chunk.end);
            let part = Range { start: to_usize(at - chunk.start), end: to_usize(end - chunk.start) };
            match mapping.place {
                Place::Hole => push_hole(&mut plan.holes, part),
                Place::Raw { file, offset } => {
                    let store =
                        self.check_range(file, offset.checked_add(at - mapping.guest.start), end - at, at)?;
                    self.guard.raw(end - at).map_err(|error| self.again(error))?;
                    let offset = offset + (at - mapping.guest.start);
                    push_read(&mut plan.reads, store, ReadRange { offset, at: part.start, len: part.len() });
                }
                Place::Compressed { file, offset, len, codec } => {
                    let store = self.check_range(file, Some(offset), u64::from(len), at)?;
                    let part = self.check_cluster(&mapping.guest, chunk.start)?;
                    self.guard.compressed().map_err(|error| self.again(error))?;
                    encoded.push(store, offset, len, part, codec);
                }
            }
            at = end;
        }
        encoded.lay_out(&mut plan).map_err(|len| {
            Error::refused(format!(
                "{} needs {len} bytes of compressed data for {} bytes of its disk at {}",
                self.name(),
                chunk.end - chunk.start,
                chunk.start
            ))
            .with_hint("no tool writes such an image: it is damaged, or made to exhaust memory")
        })?;
        Ok(plan)
    }

    /// The index of the store that a mapping names, if its range lies inside.
    fn check_range(&self, file: u32, offset: Option<u64>, len: u64, guest: u64) -> Result<usize> {
        let index = usize::try_from(file).ok().filter(|&index| index < self.tables.stores().len());
        let inside = index.zip(offset.and_then(|offset| offset.checked_add(len)));
        match inside {
            Some((index, end)) if end <= self.tables.stores()[index].size() => Ok(index),
            _ => Err(Error::failed(format!(
                "{} maps guest byte {guest} to bytes outside of its files",
                self.name()
            ))),
        }
    }

    /// The place in the chunk of a compressed cluster, which must be whole, aligned and inside.
    fn check_cluster(&self, guest: &Range<u64>, chunk_start: u64) -> Result<Range<usize>> {
        let start = guest.start.checked_sub(chunk_start);
        let len = guest.end - guest.start;
        match start {
            Some(start)
                if len == self.decode_len
                    && guest.start.is_multiple_of(len)
                    && start.checked_add(len).is_some_and(|end| end <= CHUNK_LEN) =>
            {
                Ok(to_usize(start)..to_usize(start + len))
            }
            _ => Err(Error::failed(format!(
                "{} maps {len} compressed bytes of the disk at {}, which is no cluster of it",
                self.name(),
                guest.start
            ))),
        }
    }

    fn again(&self, Again { delivered, limit, what }: Again) -> Error {
        Error::refused(format!(
            "{} maps the same data again and again: {delivered} {what} so far, where its files account for {limit}",
            self.name()
        ))
        .with_hint("such an image expands without end: it is damaged, or made to fill disks")
    }
}

impl DiskPlan for ImagePlan {
    fn size(&self) -> u64 {
        self.reader.info().virtual_size
    }

    fn piece_at(&mut self, guest_offset: u64) -> BoxFuture<'_, Result<Piece>> {
        Box::pin(self.piece(guest_offset))
    }

    fn stores(&self) -> &[Arc<dyn ByteStore>] {
        self.tables.stores()
    }

    fn decode_len(&self) -> usize {
        to_usize(self.decode_len)
    }

    fn identity(&self) -> Option<SourceIdentity> {
        let files: Option<Vec<_>> = self.stores().iter().map(|store| store.identity()).collect();
        files.map(|files| SourceIdentity::Image { files })
    }
}

/// Largest cluster that is decoded in one step: that of QCOW2 with `cluster_bits` 21.
const MAX_DECODE_LEN: u64 = 2 << 20;

/// Guest bytes that a reader is first asked for behind a chunk of zeros.
const FIRST_WINDOW: u64 = 64 << 20;

/// A reader that was given what it asked for must not ask for the same again.
pub(super) fn goes_on(last: &mut Option<Need>, need: Need, name: &str) -> Result<()> {
    if last.replace(need) == Some(need) {
        return Err(Error::failed(format!(
            "the tables of {name} cannot be followed: {need:?} does not help"
        )));
    }
    Ok(())
}

fn push_hole(holes: &mut Vec<Range<usize>>, part: Range<usize>) {
    match holes.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        _ => holes.push(part),
    }
}

fn push_read(reads: &mut Vec<(usize, ReadRange)>, store: usize, read: ReadRange) {
    match reads.last_mut() {
        Some((last_store, last))
            if *last_store == store
                && last.offset + to_u64(last.len) == read.offset
                && last.at + last.len == read.at =>
        {
            last.len += read.len;
        }
        _ => reads.push((store, read)),
    }
}

/// Bounds what one pass over the disk delivers by the length of the files. Two counters tell an
/// image that maps the same data again and again from an honest one; no table of what was used is
/// needed.
#[derive(Debug)]
struct Guard {
    raw: u64,
    raw_limit: u64,
    compressed: u64,
    compressed_limit: u64,
}

/// What exceeded a limit of [`Guard`].
struct Again {
    delivered: u64,
    limit: u64,
    what: &'static str,
}

impl Guard {
    /// Honest images deliver each byte of their files once. The factors leave room for images that
    /// share some data; the constants for small ones. Eight bytes are less than any compressed
    /// cluster takes.
    fn new(stores: &[Arc<dyn ByteStore>]) -> Self {
        let total = stores.iter().fold(0, |sum: u64, store| sum.saturating_add(store.size()));
        Self {
            raw: 0,
            raw_limit: total.saturating_mul(4).saturating_add(64 << 20),
            compressed: 0,
            compressed_limit: total / 8 + 1024,
        }
    }

    fn restart(&mut self) {
        (self.raw, self.compressed) = (0, 0);
    }

    fn raw(&mut self, len: u64) -> Result<(), Again> {
        self.raw = self.raw.saturating_add(len);
        within(self.raw, self.raw_limit, "bytes")
    }

    fn compressed(&mut self) -> Result<(), Again> {
        self.compressed += 1;
        within(self.compressed, self.compressed_limit, "compressed clusters")
    }
}

fn within(delivered: u64, limit: u64, what: &'static str) -> Result<(), Again> {
    if delivered <= limit { Ok(()) } else { Err(Again { delivered, limit, what }) }
}
