//! A sparse extent: where the grains of its part of the disk lie; contract 3.2.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    cache::{PageCache, page_of},
    chunk::SECTOR_LEN,
    error::{Error, Result},
    num::{to_u64, to_usize},
    plan::{Codec, Need, Place},
    planning::Plan,
    vmdk::{
        header::{FLAG_REDUNDANT, FLAG_ZERO_GRAINS, Header},
        marker,
        tables::{ENTRY_LEN, MAX_DIRECTORY_ENTRIES, directory_entries, entry_at, entry_count, entry_sectors},
    },
};

/// The tables of a sparse extent. Offsets and lengths are in bytes unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct SparseExtent {
    file: u32,
    file_len: u64,
    capacity: u64,
    grain_len: u64,
    table_entries: u64,
    /// Where the grain directory is.
    directory: u64,
    /// Its entries.
    tables: u64,
    compressed: bool,
    zero_grains: bool,
    page_len: u64,
}

impl SparseExtent {
    /// The extent in `file`, which has `file_len` bytes; tables are read in pages of `page_len`.
    ///
    /// # Errors
    /// The header asks for more than the file or the policy allows.
    pub(super) fn new(
        header: &Header,
        file: u32,
        file_len: u64,
        page_len: u64,
        max_virtual_size: u64,
    ) -> Result<Self> {
        let capacity = header.capacity.checked_mul(SECTOR_LEN).filter(|&len| len <= max_virtual_size);
        let Some(capacity) = capacity else {
            return Err(Error::limit(format!(
                "virtual size of {} sectors is larger than {max_virtual_size} bytes",
                header.capacity
            ))
            .at(12));
        };
        if capacity == 0 {
            return Err(Error::corrupt("the header has a capacity of 0").at(12));
        }
        let tables = directory_entries(header.capacity, header.grain, header.table_entries);
        if tables > MAX_DIRECTORY_ENTRIES {
            return Err(Error::limit(format!(
                "a grain directory of {tables} entries has more than {MAX_DIRECTORY_ENTRIES}"
            ))
            .at(12));
        }
        let (at, sector) = match header.directory {
            0 if header.has(FLAG_REDUNDANT) => (48, header.redundant_directory),
            sector => (56, sector),
        };
        let directory = sector.checked_mul(SECTOR_LEN).filter(|&offset| offset > 0);
        let Some(directory) = directory else {
            return Err(Error::corrupt(format!("no grain directory can be at sector {sector}")).at(at));
        };
        if directory.checked_add(tables * ENTRY_LEN).is_none_or(|end| end > file_len) {
            return Err(Error::truncated(format!(
                "the grain directory of {tables} entries at {directory:#x} leaves the file of {file_len} bytes"
            ))
            .at(at));
        }
        Ok(Self {
            file,
            file_len,
            capacity,
            grain_len: header.grain * SECTOR_LEN,
            table_entries: header.table_entries.into(),
            directory,
            tables,
            compressed: header.is_compressed(),
            zero_grains: header.has(FLAG_ZERO_GRAINS),
            page_len,
        })
    }

    /// Bytes of guest disk.
    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of a grain.
    pub(super) fn grain_len(&self) -> u64 {
        self.grain_len
    }

    /// Whether grains are compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// The bytes of the grain directory from byte `read` on, as many as are read at once; `None` at
    /// its end.
    pub(super) fn directory_from(&self, read: u64) -> Option<Need> {
        let left = self.tables * ENTRY_LEN - read;
        let len = to_usize(left).min(Need::MAX_LEN);
        (left > 0).then(|| Need { file: self.file, offset: self.directory + read, len })
    }

    /// The first page of the directory.
    pub(super) fn first_page(&self) -> Need {
        self.directory_page(0)
    }

    /// Decodes the directory entry that stands `at` this offset to that of its table, if any.
    ///
    /// # Errors
    /// The table is not inside the file.
    pub(super) fn decode_directory(&self, entry: u32, at: u64) -> Result<Option<u64>> {
        if entry == 0 {
            return Ok(None);
        }
        let offset = u64::from(entry) * SECTOR_LEN;
        if offset + self.table_len() > self.file_len {
            return Err(Error::truncated(format!("grain table at {offset:#x} is not inside the file")).at(at));
        }
        Ok(Some(offset))
    }

    /// How many grain tables the file can hold.
    pub(super) fn max_tables(&self) -> u64 {
        self.file_len / self.table_len().max(SECTOR_LEN) + 1
    }

    fn table_len(&self) -> u64 {
        self.table_entries * ENTRY_LEN
    }

    /// Bytes of guest disk that a table maps.
    fn span(&self) -> u64 {
        self.table_entries * self.grain_len
    }

    fn directory_page(&self, table: u64) -> Need {
        page_of(self.file, self.directory, self.tables * ENTRY_LEN, self.page_len, table * ENTRY_LEN)
    }

    /// Adds what one page of a table says to the end of a plan, or says which page is lacking. The
    /// extent begins at guest byte `start`, and the plan ends inside it.
    ///
    /// # Errors
    /// The tables are corrupt here.
    pub(super) fn extend(&self, start: u64, cache: &mut PageCache, plan: &mut Plan) -> Result<Option<Need>> {
        let index = (plan.at - start) / self.span();
        let page = self.directory_page(index);
        let Some(directory) = cache.get(page) else { return Ok(Some(page)) };
        let first = (page.offset - self.directory) / ENTRY_LEN;
        let mut here = index;
        while start + here * self.span() < plan.end
            && here - first < entry_count(&directory)
            && plan.examine()
        {
            let at = self.directory + here * ENTRY_LEN;
            match self.decode_directory(entry_at(&directory, to_usize(here - first)), at) {
                Ok(None) => {
                    here += 1;
                    plan.push(start + here * self.span(), Place::Hole);
                }
                Ok(Some(table)) if here == index => {
                    let page = self.tables_page(&directory, index - first);
                    let Some(tables) = cache.get(page) else { return Ok(Some(page)) };
                    let from = to_usize(table - page.offset);
                    let bytes = tables.slice(from..from + to_usize(self.table_len()));
                    return self.extend_by_table(start, index, table, &bytes, plan).map(|()| None);
                }
                Err(error) if here == index => return Err(error),
                // What comes before stands on its own.
                Ok(Some(_)) | Err(_) => break,
            }
        }
        Ok(None)
    }

    /// The page with the table of entry `index` of a page of the directory, and with its neighbours
    /// in guest order as long as they are its neighbours in the file: where tables stand in front of
    /// the data one read brings them for a GiB.
    fn tables_page(&self, directory: &[u8], index: u64) -> Need {
        let sectors = entry_sectors(self.table_entries);
        // A table that does not fill its sectors has none right behind it.
        let joins = (self.table_len() == sectors * SECTOR_LEN).then_some(sectors);
        let group = (self.page_len / self.table_len()).max(1);
        let entry = |index: u64| u64::from(entry_at(directory, to_usize(index)));
        let next_to = |index: u64| {
            let next = entry(index + 1);
            joins.is_some_and(|sectors| entry(index) != 0 && entry(index) + sectors == next)
                && next * SECTOR_LEN + self.table_len() <= self.file_len
        };
        // Groups are aligned, so that every table has one page, whichever was asked for first.
        let lowest = index - index % group;
        let end = (lowest + group).min(entry_count(directory));
        let mut first = index;
        while first > lowest && next_to(first - 1) {
            first -= 1;
        }
        let mut last = index;
        while last + 1 < end && next_to(last) {
            last += 1;
        }
        let len = (last - first + 1) * self.table_len();
        Need { file: self.file, offset: entry(first) * SECTOR_LEN, len: to_usize(len) }
    }

    /// Adds what table number `index`, whose bytes stand at `table`, says.
    fn extend_by_table(
        &self,
        start: u64,
        index: u64,
        table: u64,
        bytes: &Bytes,
        plan: &mut Plan,
    ) -> Result<()> {
        let base = index * self.span();
        let mut grain = (plan.at - start - base) / self.grain_len;
        // The next grain behind that is stored, sought but once for all that come before it.
        let (mut next, mut known) = (None, false);
        while plan.at < plan.end && grain < self.table_entries && plan.examine() {
            let guest = base + grain * self.grain_len;
            let entry = entry_at(bytes, to_usize(grain));
            let at = table + grain * ENTRY_LEN;
            if entry == 0 || (entry == ZERO_GRAIN && self.zero_grains) {
                plan.push(start + guest + self.grain_len, Place::Hole);
            } else if self.compressed {
                if !known || next.is_some_and(|next| next <= grain) {
                    next = (grain + 1..self.table_entries)
                        .find(|&grain| entry_at(bytes, to_usize(grain)) > ZERO_GRAIN);
                    known = true;
                }
                let behind =
                    next.map_or(table, |next| u64::from(entry_at(bytes, to_usize(next))) * SECTOR_LEN);
                let place = self.compressed_place(guest, entry, behind).map_err(|error| error.at(at))?;
                plan.push_whole(start + guest..start + guest + self.grain_len, place);
            } else {
                self.push_plain(start, guest, entry, plan).map_err(|error| error.at(at))?;
            }
            grain += 1;
        }
        Ok(())
    }

    /// Where the compressed grain at byte `guest` of the extent is. How long it is only its marker
    /// tells. It ends before `behind`, where the next grain of this table or, behind the last one,
    /// the table itself begins, if that is further on in the file, as it is in a stream. Fetching no
    /// more than that saves most of what the format's own bound, two grains, would cost; that one
    /// remains for files written out of order.
    fn compressed_place(&self, guest: u64, entry: u32, behind: u64) -> Result<Place> {
        let offset = u64::from(entry) * SECTOR_LEN;
        let longest = (to_u64(marker::GRAIN_LEN) + 2 * self.grain_len).next_multiple_of(SECTOR_LEN);
        let mut len = longest.min(self.file_len.saturating_sub(offset));
        if behind > offset {
            len = len.min(behind - offset);
        }
        if len < SECTOR_LEN {
            return Err(Error::truncated(format!("compressed grain at {offset:#x} is outside the file")));
        }
        let content = self.grain_len.min(self.capacity - guest);
        let (Ok(len), Ok(content)) = (u32::try_from(len), u32::try_from(content)) else {
            return Err(Error::limit("a grain of 2 GiB"));
        };
        let codec = Codec::VmdkGrain { sector: guest / SECTOR_LEN, content };
        Ok(Place::Compressed { file: self.file, offset, len, codec })
    }

    /// Adds the plain grain at byte `guest` of the extent. Only what is part of the disk must be in
    /// the file: the last grain may be stored short.
    fn push_plain(&self, start: u64, guest: u64, entry: u32, plan: &mut Plan) -> Result<()> {
        let offset = u64::from(entry) * SECTOR_LEN;
        let stored = Range { start: guest, end: (guest + self.grain_len).min(self.capacity) };
        if offset + (stored.end - stored.start) > self.file_len {
            return Err(Error::truncated(format!("grain at {offset:#x} leaves the file")));
        }
        let skipped = plan.at - (start + guest);
        plan.push(start + stored.end, Place::Raw { file: self.file, offset: offset + skipped });
        Ok(())
    }
}

/// The entry of a grain that was set to zero, if the header has [`FLAG_ZERO_GRAINS`].
const ZERO_GRAIN: u32 = 1;
