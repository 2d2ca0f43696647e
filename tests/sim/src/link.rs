//! The link between clients and the data path, which all transfers share.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How fast it is, how far, and how bumpy.
#[derive(Debug, Default)]
pub(crate) struct Link(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rate: Option<u64>,
    latency: Duration,
    stall: Duration,
    /// When what was sent so far is through.
    free_at: Option<Instant>,
    next_stall: Option<Instant>,
}

impl Link {
    /// Shapes the link anew; a rate of 0 is no limit.
    pub(crate) fn shape(&self, rate: u64, latency: Duration, stall: Duration) {
        let rate = (rate > 0).then_some(rate);
        *self.state() = State { rate, latency, stall, free_at: None, next_stall: None };
    }

    /// What each request takes at least.
    pub(crate) fn latency(&self) -> Duration {
        self.state().latency
    }

    /// How much is sent in one go.
    pub(crate) fn piece(&self) -> u64 {
        self.state().rate.map_or(u64::MAX, |rate| (rate / 100).max(1))
    }

    /// Takes a place in the queue: when so many bytes are through.
    pub(crate) fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut state = self.state();
        let mut at = state.free_at.map_or(now, |free_at| free_at.max(now));
        if !state.stall.is_zero() && state.next_stall.is_none_or(|next| at >= next) {
            at += state.stall;
            state.next_stall = Some(at + Duration::from_secs(1));
        }
        if let Some(rate) = state.rate {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            at += Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        state.free_at = Some(at);
        at
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_share_the_rate_and_the_stalls() {
        let (link, now) = (Link::default(), Instant::now());
        assert_eq!(link.reserve(1 << 30, now), now);
        link.shape(1000, Duration::ZERO, Duration::from_millis(10));
        let millis = |at: Instant| at.duration_since(now).as_millis();
        assert_eq!(millis(link.reserve(500, now)), 510);
        assert_eq!(millis(link.reserve(500, now)), 1010);
        assert_eq!(millis(link.reserve(100, now)), 1120);
        // Time that was not used is gone.
        assert_eq!(millis(link.reserve(100, now + Duration::from_secs(5))), 5110);
    }
}
