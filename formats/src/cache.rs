//! Pages of tables, the least recently used of them forgotten. A page is named by the [`Need`] that
//! asked for it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::{
    num::{to_u64, to_usize},
    plan::Need,
};

/// Table pages by their place in the file, bounded in bytes. The two used last are always kept: who
/// needs a page of L1 and one of L2 at a time makes progress however small the bound.
#[derive(Debug)]
pub(crate) struct PageCache {
    max_len: usize,
    len: usize,
    clock: u64,
    pages: HashMap<Need, (u64, Bytes)>,
    by_use: BTreeMap<u64, Need>,
}

impl PageCache {
    /// A cache of at most `max_len` bytes.
    pub(crate) fn new(max_len: usize) -> Self {
        Self { max_len, len: 0, clock: 0, pages: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Bytes of a full page: a sixteenth of the cache, but neither so small that a remote image is
    /// read in crumbs nor so large that few entries are bought with much transfer.
    pub(crate) fn page_len(&self) -> u64 {
        let share = (to_u64(self.max_len) / 16).max(1);
        (1 << share.ilog2()).clamp(MIN_PAGE_LEN, MAX_PAGE_LEN)
    }

    /// The bytes of `page`, if they are here.
    pub(crate) fn get(&mut self, page: Need) -> Option<Bytes> {
        let (used, bytes) = self.pages.get_mut(&page)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, page);
        Some(bytes.clone())
    }

    /// Keeps the bytes of `page`, which is not here yet.
    pub(crate) fn insert(&mut self, page: Need, bytes: Bytes) {
        self.clock += 1;
        self.len += page.len + OVERHEAD;
        if let Some((used, _)) = self.pages.insert(page, (self.clock, bytes)) {
            self.by_use.remove(&used);
            self.len -= page.len + OVERHEAD;
        }
        self.by_use.insert(self.clock, page);
        while self.len > self.max_len && self.pages.len() > 2 {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.pages.remove(&oldest);
            self.len -= oldest.len + OVERHEAD;
        }
    }
}

/// The page of a table that holds its byte `at`. The table begins at `table` in `file`, has
/// `table_len` bytes and is cut into pages of `page_len` bytes; the last one may be short.
pub(crate) fn page_of(file: u32, table: u64, table_len: u64, page_len: u64, at: u64) -> Need {
    let start = at - at % page_len;
    Need { file, offset: table + start, len: to_usize(page_len.min(table_len - start)) }
}

/// Bytes of bookkeeping for a page, roughly.
const OVERHEAD: usize = 128;

/// A table of the smallest cluster.
const MIN_PAGE_LEN: u64 = 512;

/// A table of the usual cluster: 8192 entries.
const MAX_PAGE_LEN: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64) -> Need {
        Need { file: 0, offset: number * 512, len: 512 }
    }

    fn fill(cache: &mut PageCache, number: u64) {
        cache.insert(page(number), Bytes::from(vec![0; 512]));
    }

    #[test]
    fn the_page_used_least_recently_goes_first() {
        let mut cache = PageCache::new(3 * (512 + OVERHEAD));
        (0..3).for_each(|number| fill(&mut cache, number));
        assert!(cache.get(page(0)).is_some());
        fill(&mut cache, 3);
        assert!(cache.get(page(1)).is_none());
        assert!([0, 2, 3].into_iter().all(|number| cache.get(page(number)).is_some()));
    }

    #[test]
    fn two_pages_stay_whatever_the_bound() {
        let mut cache = PageCache::new(0);
        for number in 0..10 {
            fill(&mut cache, number);
            fill(&mut cache, number);
        }
        assert!(cache.get(page(8)).is_some() && cache.get(page(9)).is_some());
        assert_eq!((cache.pages.len(), cache.by_use.len(), cache.len), (2, 2, 2 * (512 + OVERHEAD)));
    }

    #[test]
    fn pages_cover_a_table_without_leaving_it() {
        assert_eq!(page_of(3, 4096, 1000, 512, 0), Need { file: 3, offset: 4096, len: 512 });
        assert_eq!(page_of(3, 4096, 1000, 512, 511), Need { file: 3, offset: 4096, len: 512 });
        assert_eq!(page_of(3, 4096, 1000, 512, 512), Need { file: 3, offset: 4608, len: 488 });
        assert_eq!(PageCache::new(8 << 20).page_len(), MAX_PAGE_LEN);
        assert_eq!(PageCache::new(0).page_len(), MIN_PAGE_LEN);
        assert_eq!(PageCache::new(17 << 10).page_len(), 1024);
    }
}
