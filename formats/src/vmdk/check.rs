//! Whether the tables of a stream agree with the grains that came. A stream can be read without
//! them, but nothing else would show that a marker names the wrong place.

use crate::{
    chunk::SECTOR_LEN,
    num::{to_u64, to_usize},
    vmdk::tables::{entry_at, entry_count},
};

/// Grains seen, held against each grain table and against the directory.
///
/// Streams have the table of a range right behind its grains (contract 3.4). One with tables
/// elsewhere could not be told from one with a wrong marker, so it counts as contradicting itself.
#[derive(Debug)]
pub(super) struct TableCheck {
    table_entries: u64,
    /// Number of the table for the grains in hand.
    number: u64,
    /// Where they are, in sectors; 0 for those that did not come.
    grains: Vec<u32>,
    /// Tables that agreed: number and sector, ascending.
    tables: Vec<(u32, u32)>,
    /// Whether tables without an entry have come.
    has_empty_tables: bool,
}

impl TableCheck {
    /// For tables of so many entries.
    pub(super) fn new(table_entries: u32) -> Self {
        Self {
            table_entries: table_entries.into(),
            number: 0,
            grains: Vec::new(),
            tables: Vec::new(),
            has_empty_tables: false,
        }
    }

    /// Grain number `grain` has come at byte `position`.
    #[must_use]
    pub(super) fn grain(&mut self, grain: u64, position: u64) -> bool {
        let number = grain / self.table_entries;
        let Ok(sector) = u32::try_from(position / SECTOR_LEN) else { return false };
        if number != self.number && !self.grains.is_empty() {
            return false;
        }
        self.number = number;
        self.grains.resize(to_usize(grain % self.table_entries), 0);
        self.grains.push(sector);
        true
    }

    /// A table has come, whose entries stand at byte `position`.
    #[must_use]
    pub(super) fn table(&mut self, position: u64, bytes: &[u8]) -> bool {
        let mut entries = (0..to_usize(entry_count(bytes))).map(|index| entry_at(bytes, index));
        if self.grains.is_empty() {
            self.has_empty_tables = true;
            return entries.all(|entry| entry == 0);
        }
        let agree =
            self.grains.iter().all(|&grain| entries.next() == Some(grain)) && entries.all(|entry| entry == 0);
        self.grains.clear();
        match (u32::try_from(self.number), u32::try_from(position / SECTOR_LEN)) {
            (Ok(number), Ok(sector))
                if agree && self.tables.last().is_none_or(|&(last, _)| last < number) =>
            {
                self.tables.push((number, sector));
                true
            }
            _ => false,
        }
    }

    /// A piece of the directory has come, from entry `first` on.
    #[must_use]
    pub(super) fn directory(&self, first: u64, bytes: &[u8]) -> bool {
        let last = first.saturating_add(entry_count(bytes));
        let mut known = self.tables.partition_point(|&(number, _)| u64::from(number) < first);
        (first..last).enumerate().all(|(index, number)| {
            let entry = entry_at(bytes, index);
            match self.tables.get(known) {
                Some(&(known_number, sector)) if u64::from(known_number) == number => {
                    known += 1;
                    entry == sector
                }
                _ => entry == 0 || self.has_empty_tables,
            }
        })
    }

    /// The tables are complete; `entries` of the directory have come.
    #[must_use]
    pub(super) fn is_complete(&self, entries: u64) -> bool {
        self.grains.is_empty() && self.tables.last().is_none_or(|&(number, _)| u64::from(number) < entries)
    }

    /// Bytes of a table.
    pub(super) fn table_len(&self) -> u64 {
        to_u64(size_of::<u32>()) * self.table_entries
    }
}
