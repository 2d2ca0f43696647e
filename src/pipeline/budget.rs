//! How the memory of a run is divided.

use vmferry_formats::chunk::CHUNK_LEN;

use crate::error::{Error, Result};

/// What a run may use at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// CPU workers.
    pub(super) workers: usize,
    /// Bytes that chunks in flight may hold, input and worst-case output.
    pub(super) in_flight: u64,
}

impl Budget {
    /// Divides `memory` bytes. `chunk_cost` is what one chunk holds at most, input and worst-case
    /// output, for the formats at hand, and `unpacking` what the source takes. Workers are lowered to
    /// fit.
    ///
    /// # Errors
    /// `memory` is too small for [`MIN_CHUNKS`] chunks and one worker.
    pub(super) fn new(memory: u64, workers: usize, chunk_cost: u64, unpacking: u64) -> Result<Self> {
        let chunks = chunk_cost.saturating_mul(MIN_CHUNKS);
        let fixed = PROCESS_LEN + TABLES_LEN + unpacking;
        let least = fixed + WORKER_LEN + chunks;
        if memory < least {
            let mib = least.div_ceil(1 << 20);
            return Err(Error::usage(format!(
                "{} MiB of memory are too few for this conversion",
                memory >> 20
            ))
            .with_hint(format!("it needs at least {mib} MiB: --memory {mib}MiB")));
        }
        let for_workers = memory - fixed - chunks;
        let most = usize::try_from(for_workers / WORKER_LEN).unwrap_or(usize::MAX);
        let workers = workers.clamp(1, most.max(1));
        let in_flight = memory - fixed - WORKER_LEN * workers as u64;
        // More chunks in flight than this only wait for each other.
        let useful = chunk_cost.saturating_mul(4 * workers as u64 + 8);
        Ok(Self { workers, in_flight: in_flight.min(useful) })
    }
}

/// What one chunk of raw input costs, in bytes.
pub(super) const INPUT_COST: u64 = CHUNK_LEN + 4096;

/// Chunks that a disk always has: one that is read, one that is encoded, one that is written.
const MIN_CHUNKS: u64 = 3;

/// The program, its runtime, stacks and TLS sessions, as measured with some room, in bytes.
const PROCESS_LEN: u64 = 32 << 20;

/// Tables and caches of readers and writers, in bytes.
const TABLES_LEN: u64 = 16 << 20;

/// A worker's stack and codec state, in bytes.
const WORKER_LEN: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_give_way_to_chunks() {
        let budget = Budget::new(128 << 20, 64, 2 * INPUT_COST, 0).unwrap();
        assert!(budget.workers < 64 && budget.workers > 8, "{budget:?}");
        assert!(budget.in_flight >= 6 * INPUT_COST);
        let total = PROCESS_LEN + TABLES_LEN + WORKER_LEN * budget.workers as u64 + budget.in_flight;
        assert!(total <= 128 << 20);
    }

    #[test]
    fn too_little_memory_is_refused_with_the_amount_that_would_do() {
        let error = Budget::new(48 << 20, 2, 2 * INPUT_COST, 0).unwrap_err();
        assert!(error.hint().unwrap().contains("--memory 75MiB"), "{error:?}");
    }
}
