//! Compressed clusters of one chunk: which ranges to fetch so that no byte is fetched twice.

use std::ops::Range;

use vmferry_formats::plan::Codec;

use crate::source::{
    Decode, ReadPlan, ReadRange,
    num::{to_u64, to_usize},
};

/// The compressed clusters of a chunk, in guest order.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    clusters: Vec<Cluster>,
}

#[derive(Debug)]
struct Cluster {
    store: usize,
    bytes: Range<u64>,
    chunk: Range<usize>,
    codec: Codec,
}

/// Bytes of a store that are fetched together.
#[derive(Debug)]
struct Run {
    store: usize,
    bytes: Range<u64>,
}

impl Encoded {
    /// Adds the cluster at `chunk`, in `len` bytes at `offset` of `store`.
    pub(super) fn push(&mut self, store: usize, offset: u64, len: u32, chunk: Range<usize>, codec: Codec) {
        let bytes = offset..offset.saturating_add(u64::from(len));
        self.clusters.push(Cluster { store, bytes, chunk, codec });
    }

    /// Adds reads and decodes to `plan`.
    ///
    /// # Errors
    /// More than [`MAX_LEN`] bytes would have to be fetched: their number.
    pub(super) fn lay_out(self, plan: &mut ReadPlan) -> Result<(), u64> {
        let runs = self.runs()?;
        // The first byte of each run in the buffer.
        let mut starts = Vec::with_capacity(runs.len());
        for run in &runs {
            let (at, len) = (plan.encoded_len, to_usize(run.bytes.end - run.bytes.start));
            starts.push(at);
            if len > 0 {
                plan.encoded_reads.push((run.store, ReadRange { offset: run.bytes.start, at, len }));
            }
            plan.encoded_len += len;
        }
        for cluster in self.clusters {
            // The last run that begins at or before the cluster is the one that holds it.
            let key = (cluster.store, cluster.bytes.start);
            let index = runs.partition_point(|run| (run.store, run.bytes.start) <= key).saturating_sub(1);
            let Some((run, start)) = runs.get(index).zip(starts.get(index)) else { continue };
            let at = start + to_usize(cluster.bytes.start - run.bytes.start);
            let encoded = at..at + to_usize(cluster.bytes.end - cluster.bytes.start);
            plan.decodes.push(Decode { chunk: cluster.chunk, encoded, codec: cluster.codec });
        }
        Ok(())
    }

    /// The ranges to fetch, in the order of their stores: neighbours overlap (a cluster's length is
    /// known in sectors only) or nearly touch, and each fetch has its price.
    fn runs(&self) -> Result<Vec<Run>, u64> {
        let mut ranges: Vec<(usize, Range<u64>)> =
            self.clusters.iter().map(|cluster| (cluster.store, cluster.bytes.clone())).collect();
        ranges.sort_by_key(|(store, bytes)| (*store, bytes.start));
        let exact = join(&ranges, |_| false);
        let len = |runs: &[Run]| runs.iter().map(|run| run.bytes.end - run.bytes.start).sum::<u64>();
        let needed = len(&exact);
        if needed > to_u64(MAX_LEN) {
            return Err(needed);
        }
        let mut spare = to_u64(MAX_LEN) - needed;
        Ok(join(&ranges, |gap| {
            let take = gap <= MAX_GAP && gap <= spare;
            if take {
                spare -= gap;
            }
            take
        }))
    }
}

/// Joins sorted ranges that overlap or touch, and those between which `bridge` accepts the gap.
fn join(ranges: &[(usize, Range<u64>)], mut bridge: impl FnMut(u64) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (store, bytes) in ranges {
        match runs.last_mut() {
            Some(run)
                if run.store == *store
                    && (bytes.start <= run.bytes.end || bridge(bytes.start - run.bytes.end)) =>
            {
                run.bytes.end = run.bytes.end.max(bytes.end);
            }
            _ => runs.push(Run { store: *store, bytes: bytes.clone() }),
        }
    }
    runs
}

/// Most encoded bytes of one chunk: QCOW2 may name twice the cluster for each of its clusters, and
/// a sector more.
pub(super) const MAX_LEN: usize = (8 << 20) + (64 << 10);

/// Gaps up to this many bytes are fetched and thrown away rather than asked around: a request costs
/// more.
const MAX_GAP: u64 = 64 << 10;
