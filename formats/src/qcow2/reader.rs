//! The QCOW2 reader: the active state of versions 2 and 3; contract 1.1 to 1.8 and 1.13.
//!
//! Nothing is believed: every offset is checked against the file before it is asked for, and again
//! whenever a page of a table comes in, since a remote file may have changed in between. The walk
//! has two levels and no loops, so tables that point at each other cannot trap it. What one call
//! looks at is bounded, and so is what the cache keeps.
//!
//! No two L1 entries may share an L2 table. L2 entries may share a cluster, as deduplicating writers
//! make them do (contract 2.4), so a small file can still describe much data: who converts it caps
//! the output by [`ReaderPolicy::max_virtual_size`].

use std::ops::Range;

use bytes::Bytes;

use crate::{
    Compression, Error, Format, FormatReader, ImageInfo, OpenReader, OpenStep, ReaderPolicy, Result,
    cache::{PageCache, page_of},
    num::{to_u64, to_usize},
    plan::{Codec, Mapping, Need, Place, Step},
    planning::{Plan, check_supply, opened},
    qcow2::{
        header::{self, Header},
        tables::{
            Geometry, L2Entry, SUBCLUSTERS, Subcluster, check_bitmap, decode_l1, decode_l2, entry_at,
            entry_count, subcluster,
        },
    },
};

/// A QCOW2 image on its way to being open.
#[derive(Debug)]
pub struct Qcow2Opener {
    file_len: u64,
    policy: ReaderPolicy,
    stage: Stage,
    pending: Option<Need>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known.
    Start,
    /// The header is read, the rest of its cluster is not.
    Header(Header),
    /// L1 is read piece by piece, to check it.
    L1(Box<L1Check>),
    /// The reader has been handed out, or an error.
    Done,
}

impl Qcow2Opener {
    /// Starts to open an image whose file has `len` bytes.
    pub fn new(len: u64, policy: &ReaderPolicy) -> Self {
        Self { file_len: len, policy: policy.clone(), stage: Stage::Start, pending: None }
    }

    /// Takes the first cluster, or what the file has of it.
    fn check_header(&self, header: Header, cluster: &[u8]) -> Result<Stage> {
        header.check_features(cluster)?;
        header.check_limits(self.file_len, self.policy.max_virtual_size)?;
        let reader = Qcow2Reader::new(header, self.file_len, self.policy.table_cache_len);
        Ok(Stage::L1(Box::new(L1Check {
            max_listed: self.policy.table_cache_len / 2 / size_of::<u64>(),
            reader,
            read: 0,
            tables: 0,
            listed: Vec::new(),
        })))
    }
}

impl OpenReader for Qcow2Opener {
    fn step(&mut self) -> Result<OpenStep> {
        let len = match &mut self.stage {
            Stage::Start => self.file_len.min(HEAD_LEN),
            Stage::Header(header) => header.geometry().cluster_len().min(self.file_len),
            Stage::L1(check) => match check.next() {
                Some(need) => {
                    self.pending = Some(need);
                    return Ok(OpenStep::Need(need));
                }
                None => {
                    let Stage::L1(check) = std::mem::replace(&mut self.stage, Stage::Done) else {
                        return Err(opened());
                    };
                    return Ok(OpenStep::Ready(Box::new(check.finish()?)));
                }
            },
            Stage::Done => return Err(opened()),
        };
        if len == 0 {
            return Err(Error::truncated("the file is empty").at(0));
        }
        let need = Need { file: 0, offset: 0, len: to_usize(len) };
        self.pending = Some(need);
        Ok(OpenStep::Need(need))
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        check_supply(self.pending.take(), need, bytes)?;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start => {
                let header = Header::parse(bytes)?;
                let cluster = header.geometry().cluster_len();
                if to_u64(bytes.len()) < cluster.min(self.file_len) {
                    Stage::Header(header)
                } else {
                    self.check_header(header, &bytes[..bytes.len().min(to_usize(cluster))])?
                }
            }
            Stage::Header(header) => self.check_header(header, bytes)?,
            Stage::L1(mut check) => {
                check.take(need, bytes)?;
                Stage::L1(check)
            }
            Stage::Done => return Err(opened()),
        };
        Ok(())
    }

    fn supply_extents(&mut self, _lens: &[u64]) -> Result<()> {
        Err(Error::invalid_input("a qcow2 image has no extents"))
    }
}

/// Reads L1 once before anything is mapped, to find errors early and to refuse images that use one
/// L2 table for many ranges: a few hundred KiB could so pretend to be terabytes of data.
#[derive(Debug)]
struct L1Check {
    reader: Qcow2Reader,
    /// Bytes of L1 read so far.
    read: u64,
    /// L2 tables found.
    tables: u64,
    /// Their offsets, as long as they are few enough to be kept.
    listed: Vec<u64>,
    /// How many are.
    max_listed: usize,
}

impl L1Check {
    fn next(&self) -> Option<Need> {
        let left = self.reader.l1_len - self.read;
        (left > 0).then(|| Need {
            file: 0,
            offset: self.reader.header.l1_offset + self.read,
            len: to_usize(left).min(Need::MAX_LEN),
        })
    }

    fn take(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        let clusters = self.reader.file_len / self.reader.geometry.cluster_len();
        for index in 0..bytes.len() / 8 {
            let at = need.offset + to_u64(index * 8);
            let Some(table) = self.reader.decode_l1(entry_at(bytes, index), at)? else { continue };
            self.tables += 1;
            if self.tables > clusters {
                return Err(Error::corrupt(format!(
                    "l1 names more than {clusters} l2 tables, as many as the file has clusters"
                ))
                .at(at));
            }
            if self.listed.len() < self.max_listed {
                self.listed.push(table);
            }
        }
        self.read += to_u64(need.len);
        // The usual L1 is a single page, and planning starts with it.
        let page = page_of(0, self.reader.header.l1_offset, self.reader.l1_len, self.reader.page_len, 0);
        if page == need {
            self.reader.cache.insert(page, Bytes::copy_from_slice(bytes));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Qcow2Reader> {
        self.listed.sort_unstable();
        if let Some(pair) = self.listed.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::corrupt("two l1 entries share an l2 table").at(pair[0]));
        }
        Ok(self.reader)
    }
}

/// An open QCOW2 image. Plans depend on the file alone; between calls there are only caches.
#[derive(Debug)]
struct Qcow2Reader {
    info: ImageInfo,
    header: Header,
    geometry: Geometry,
    codec: Codec,
    file_len: u64,
    /// Bytes of L1 that the virtual size needs; entries behind them mean nothing.
    l1_len: u64,
    cache: PageCache,
    page_len: u64,
    pending: Option<Need>,
}

impl Qcow2Reader {
    /// A reader for an image whose header has been checked.
    fn new(header: Header, file_len: u64, table_cache_len: usize) -> Self {
        let (geometry, cache) = (header.geometry(), PageCache::new(table_cache_len));
        Self {
            info: info(&header),
            geometry,
            codec: if header.compression_type == header::ZSTD { Codec::Zstd } else { Codec::Deflate },
            file_len,
            l1_len: geometry.l1_entries(header.virtual_size) * 8,
            page_len: cache.page_len(),
            cache,
            pending: None,
            header,
        }
    }

    /// Decodes the L1 entry that stands `at` this offset to that of its L2 table, if there is one.
    fn decode_l1(&self, entry: u64, at: u64) -> Result<Option<u64>> {
        let Some(table) = decode_l1(entry, self.geometry).map_err(|error| error.at(at))? else {
            return Ok(None);
        };
        let cluster = self.geometry.cluster_len();
        if table.checked_add(cluster).is_none_or(|end| end > self.file_len) {
            return Err(Error::truncated(format!("l2 table at {table:#x} is not inside the file")).at(at));
        }
        let header = &self.header;
        let refcount_table_len = u64::from(header.refcount_table_clusters) * cluster;
        for (name, start, len) in [
            ("l1 table", header.l1_offset, u64::from(header.l1_entries) * 8),
            ("refcount table", header.refcount_table_offset, refcount_table_len),
        ] {
            if table < start + len && start < table + cluster {
                return Err(Error::corrupt(format!(
                    "l2 table at {table:#x} overlaps the {name} at {start:#x}"
                ))
                .at(at));
            }
        }
        Ok(Some(table))
    }

    /// Adds what one page of a table says to the end of a plan, or says which page is lacking.
    fn extend(&mut self, plan: &mut Plan) -> Result<Option<Need>> {
        let span = self.geometry.l2_span();
        let index = plan.at / span;
        let page = page_of(0, self.header.l1_offset, self.l1_len, self.page_len, index * 8);
        let Some(l1) = self.cache.get(page) else { return Ok(Some(page)) };
        let first = index - index * 8 % self.page_len / 8;
        let mut here = index;
        while here * span < plan.end && here - first < entry_count(&l1) && plan.examine() {
            let (entry, at) = (entry_at(&l1, to_usize(here - first)), self.header.l1_offset + here * 8);
            match self.decode_l1(entry, at) {
                Ok(None) => {
                    here += 1;
                    plan.push(here * span, Place::Hole);
                }
                Ok(Some(table)) if here == index => return self.extend_by_l2(table, plan),
                Err(error) if here == index => return Err(error),
                // What comes before stands on its own.
                Ok(Some(_)) | Err(_) => break,
            }
        }
        Ok(None)
    }

    /// Adds what one page of the L2 table at `table` says.
    fn extend_by_l2(&mut self, table: u64, plan: &mut Plan) -> Result<Option<Need>> {
        let (cluster, entry_len) = (self.geometry.cluster_len(), self.geometry.l2_entry_len());
        let at = plan.at / cluster % self.geometry.l2_entries() * entry_len;
        let page = page_of(0, table, cluster, self.page_len, at);
        let Some(l2) = self.cache.get(page) else { return Ok(Some(page)) };
        let mut at = table + at - page.offset;
        while plan.at < plan.end && at < to_u64(l2.len()) && plan.examine() {
            self.extend_by_entry(&l2, at, page.offset, plan)?;
            at += entry_len;
        }
        Ok(None)
    }

    /// Adds the cluster whose entry is `at` bytes into a page of an L2 table.
    fn extend_by_entry(&self, l2: &[u8], at: u64, page: u64, plan: &mut Plan) -> Result<()> {
        let cluster_len = self.geometry.cluster_len();
        let start = plan.at - plan.at % cluster_len;
        let word = to_usize(at / 8);
        let locate = |error: Error| error.at(page + at);
        let entry = decode_l2(entry_at(l2, word), self.geometry, self.header.version).map_err(locate)?;
        let bitmap = if self.geometry.extended_l2 {
            let bitmap = entry_at(l2, word + 1);
            check_bitmap(bitmap, entry).map_err(locate)?;
            Some(bitmap)
        } else {
            None
        };
        match entry {
            L2Entry::Unallocated | L2Entry::Zero => plan.push(start + cluster_len, Place::Hole),
            L2Entry::Compressed { offset, len } => {
                let len = len.min(self.file_len.saturating_sub(offset));
                let len = u32::try_from(len).ok().filter(|&len| len > 0).ok_or_else(|| {
                    locate(Error::truncated(format!("compressed cluster at {offset:#x} is outside the file")))
                })?;
                let place = Place::Compressed { file: 0, offset, len, codec: self.codec };
                plan.push_whole(start..start + cluster_len, place);
            }
            L2Entry::Standard(host) => {
                let bitmap = bitmap.map_or(u64::MAX, |bitmap| bitmap & u64::from(u32::MAX));
                // A cluster that the end of the file cuts is legal; one behind it is not, unless
                // nothing of it is in use.
                if host >= self.file_len && bitmap != 0 {
                    let error = format!("data cluster at {host:#x} is outside the file");
                    return Err(locate(Error::truncated(error)));
                }
                if bitmap == u64::MAX {
                    self.push_data(plan, start, host, cluster_len);
                    return Ok(());
                }
                let sub_len = cluster_len / u64::from(SUBCLUSTERS);
                for index in 0..SUBCLUSTERS {
                    let from = u64::from(index) * sub_len;
                    match subcluster(bitmap, index) {
                        Subcluster::Data => self.push_data(plan, start + from, host + from, sub_len),
                        Subcluster::Zero => plan.push(start + from + sub_len, Place::Hole),
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds `len` guest bytes from `guest` on that are stored from `host` on; behind the end of the
    /// file they read as zeros.
    fn push_data(&self, plan: &mut Plan, guest: u64, host: u64, len: u64) {
        let stored = len.min(self.file_len.saturating_sub(host));
        let skipped = plan.at.saturating_sub(guest);
        plan.push(guest + stored, Place::Raw { file: 0, offset: host + skipped });
        plan.push(guest + len, Place::Hole);
    }
}

impl FormatReader for Qcow2Reader {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, guest: Range<u64>) -> Result<Step<Vec<Mapping>>> {
        if guest.is_empty() || guest.end > self.info.virtual_size {
            return Err(Error::invalid_input(format!(
                "guest range {}..{} is empty or leaves the disk of {} bytes",
                guest.start, guest.end, self.info.virtual_size
            )));
        }
        let mut plan = Plan::new(guest);
        while plan.at < plan.end && plan.goes_on() {
            // What was found stands on its own; the lack or the error comes again with the next call.
            match self.extend(&mut plan) {
                Ok(None) => {}
                Ok(Some(_)) | Err(_) if !plan.mappings.is_empty() => break,
                Ok(Some(need)) => {
                    self.pending = Some(need);
                    return Ok(Step::Need(need));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Ready(plan.mappings))
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        check_supply(self.pending.take(), need, bytes)?;
        self.cache.insert(need, Bytes::copy_from_slice(bytes));
        Ok(())
    }
}

fn info(header: &Header) -> ImageInfo {
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let mut details = vec![
        ("refcount bits", (1 << header.refcount_order).to_string()),
        ("extended l2", yes_no(header.geometry().extended_l2)),
        ("lazy refcounts", yes_no(header.has_lazy_refcounts())),
        ("internal snapshots", header.snapshots.to_string()),
        ("backing file", "none".to_owned()),
    ];
    if header.is_marked_corrupt() {
        details.push(("corrupt", "marked as corrupt by an earlier user of the image".to_owned()));
    }
    ImageInfo {
        format: Format::Qcow2,
        variant: format!("v{}", header.version),
        virtual_size: header.virtual_size,
        cluster_len: header.geometry().cluster_len(),
        compression: match header.compression_type {
            header::ZSTD => Compression::Zstd,
            _ => Compression::Deflate,
        },
        dirty: header.is_dirty(),
        details,
    }
}

/// What is read first, in bytes: with clusters of up to 64 KiB all that is needed before L1.
const HEAD_LEN: u64 = 64 << 10;
