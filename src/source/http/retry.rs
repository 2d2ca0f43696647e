//! How long to wait before a request is tried again, and when to stop trying.

use std::time::Duration;

use tokio::time::Instant;

use super::client::{Client, Trouble};
use crate::error::{Error, ErrorKind, Result};

/// The tries of one request, or of the parts of one range.
pub(super) struct Retry {
    name: String,
    give_up_after: Duration,
    /// When something last came, or the start.
    since: Instant,
    /// Failures since.
    failures: u32,
    /// Spreads the pauses of requests that failed together.
    salt: u64,
}

impl Retry {
    /// For a request of `client`; `salt` tells it from others at the same time.
    pub(super) fn new(client: &Client, salt: u64) -> Self {
        Self::within(client, salt, client.retry_for())
    }

    /// The same, with another limit.
    pub(super) fn within(client: &Client, salt: u64, give_up_after: Duration) -> Self {
        let salt = salt ^ u64::from(std::process::id()) << 32;
        Self { name: client.name().to_owned(), give_up_after, since: Instant::now(), failures: 0, salt }
    }

    /// `len` bytes have come.
    pub(super) fn progress(&mut self, len: usize) {
        if len > 0 {
            self.since = Instant::now();
        }
        // A server that sends a little and breaks, every time, is not to be hammered.
        if len >= MUCH {
            self.failures = 0;
        }
    }

    /// There is a new place to ask: what was counted is of no matter there.
    pub(super) fn renewed(&mut self) {
        self.since = Instant::now();
        self.failures = 0;
    }

    /// Waits until it is time for the next try.
    ///
    /// # Errors
    /// There is no use in another.
    pub(super) async fn wait(&mut self, trouble: Trouble) -> Result<()> {
        let (error, retry_after, tries) = match trouble {
            Trouble::Fatal(error) | Trouble::Stale(error) => return Err(error),
            Trouble::Wrong(error) if self.failures + 1 >= TRIES_AT_WRONG_ANSWERS => return Err(error),
            Trouble::Wrong(error) => (error, None, u32::MAX),
            Trouble::Transient { error, retry_after, tries } => (error, retry_after, tries),
        };
        let waited = self.since.elapsed();
        self.failures = self.failures.saturating_add(1);
        if waited >= self.give_up_after || self.failures >= tries {
            return Err(self.gave_up(error, waited));
        }
        let pause = retry_after
            .unwrap_or_default()
            .max(self.pause())
            // One more try when the time is up.
            .min(self.give_up_after.saturating_sub(waited));
        if self.failures == 1 {
            // A kept connection that the server had closed: everyday business.
            tracing::debug!(source = %self.name, %error, ?pause, "request failed, trying again");
        } else {
            tracing::warn!(source = %self.name, %error, failures = self.failures, ?pause, "request failed, trying again");
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Twice as long with each failure, and up to a quarter more or less so that requests which
    /// failed together do not come back together.
    fn pause(&self) -> Duration {
        let first = (self.give_up_after / 1000).clamp(Duration::from_millis(5), Duration::from_millis(300));
        let doubled = first.saturating_mul(1 << (self.failures - 1).min(16)).min(LONGEST_PAUSE);
        let noise = self.salt.wrapping_add(u64::from(self.failures)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper bits of the product are the mixed ones: 0..512 thousandths.
        let thousandths = u32::try_from(noise >> 55).unwrap_or(0);
        doubled.saturating_mul(750 + thousandths) / 1000
    }

    fn gave_up(&self, error: Error, waited: Duration) -> Error {
        let hint = error
            .hint()
            .unwrap_or("check the network and the server; run the same command again to go on from here")
            .to_owned();
        let message = format!(
            "gave up on {} after {} failures and {:.1} s without progress",
            self.name,
            self.failures,
            waited.as_secs_f64()
        );
        Error::new(ErrorKind::Network, message).with_hint(hint).with_source(error)
    }
}

/// Bytes that show that a connection works.
const MUCH: usize = 64 << 10;

/// Answers that cannot be right until it is believed that they are meant.
const TRIES_AT_WRONG_ANSWERS: u32 = 3;

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
