//! How far a run is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A handle on the counters of a run; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    /// Size of the disk plus one; 0 = not known.
    total: AtomicU64,
    done: AtomicU64,
    zero: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    phase: AtomicU64,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Looking at the source and at what an earlier run left.
    #[default]
    Preparing,
    /// Moving data.
    Running,
    /// Making the output durable.
    Syncing,
    /// Reading the output back.
    Verifying,
    /// Over.
    Done,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What the run is doing.
    pub phase: Phase,
    /// Guest bytes in all, if known.
    pub total: Option<u64>,
    /// Guest bytes done, those of an earlier run included.
    pub done: u64,
    /// Of these, bytes that were zero.
    pub zero: u64,
    /// Bytes taken from the source.
    pub read: u64,
    /// Bytes given to the output.
    pub written: u64,
}

impl Progress {
    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        let counters = &self.counters;
        Snapshot {
            phase: match counters.phase.load(Relaxed) {
                0 => Phase::Preparing,
                1 => Phase::Running,
                2 => Phase::Syncing,
                3 => Phase::Verifying,
                _ => Phase::Done,
            },
            total: counters.total.load(Relaxed).checked_sub(1),
            done: counters.done.load(Relaxed),
            zero: counters.zero.load(Relaxed),
            read: counters.read.load(Relaxed),
            written: counters.written.load(Relaxed),
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.counters.phase.store(phase as u64, Relaxed);
    }

    pub(crate) fn set_total(&self, total: Option<u64>) {
        self.counters.total.store(total.map_or(0, |total| total.saturating_add(1)), Relaxed);
    }

    pub(crate) fn restart_at(&self, done: u64, zero: u64) {
        self.counters.done.store(done, Relaxed);
        self.counters.zero.store(zero, Relaxed);
    }

    pub(crate) fn add_done(&self, done: u64, zero: u64) {
        self.counters.done.fetch_add(done, Relaxed);
        self.counters.zero.fetch_add(zero, Relaxed);
    }

    pub(crate) fn add_read(&self, bytes: u64) {
        self.counters.read.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_written(&self, bytes: u64) {
        self.counters.written.fetch_add(bytes, Relaxed);
    }
}
