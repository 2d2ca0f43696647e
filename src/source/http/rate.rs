//! A limit on how fast bytes are taken, shared by all that take them.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Bytes a second that all holders of this handle may take together.
#[derive(Clone)]
pub struct Rate {
    bytes_per_second: u64,
    /// When the bytes taken so far are paid for.
    paid: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("bytes_per_second", &self.bytes_per_second).finish()
    }
}

impl Rate {
    /// At most `bytes_per_second`, at least one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: Arc::default() }
    }

    /// The limit.
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Waits until `len` more bytes may be taken.
    pub(crate) async fn take(&self, len: usize) {
        let wait = self.charge(len, Instant::now());
        // A timer is not finer than a millisecond; what is owed is not forgotten.
        if wait >= Duration::from_millis(1) {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long to wait before more than `len` bytes are taken.
    fn charge(&self, len: usize, now: Instant) -> Duration {
        let len = u128::try_from(len).unwrap_or(u128::MAX);
        let nanos = len.saturating_mul(1_000_000_000) / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // A pause is no credit, but for what a moment of bad luck left over.
        let from = paid.unwrap_or(now).max(now.checked_sub(CREDIT).unwrap_or(now));
        let until = from + cost;
        *paid = Some(until);
        until.saturating_duration_since(now)
    }
}

/// Time in which nothing was taken that may be made up for.
const CREDIT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_paid_for_and_pauses_are_not_saved_up() {
        let rate = Rate::new(1000);
        let start = Instant::now();
        assert_eq!(rate.charge(500, start), Duration::from_millis(500));
        let other = rate.clone();
        assert_eq!(other.charge(500, start), Duration::from_secs(1));
        assert_eq!(rate.charge(100, start + Duration::from_millis(500)), Duration::from_millis(600));
        // An hour later only the credit counts.
        let later = start + Duration::from_secs(3600);
        assert_eq!(rate.charge(100, later), Duration::ZERO);
        assert_eq!(rate.charge(100, later), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_come_no_faster_than_the_rate() {
        let rate = Rate::new(1 << 20);
        let start = Instant::now();
        for _ in 0..64 {
            rate.take(64 << 10).await;
        }
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(3990) && taken < Duration::from_millis(4100), "{taken:?}");
    }
}
