//! Which of an export's links is faster end to end: seen by trying, for a second or two.
//!
//! Ranges of the raw disk move every byte, zeros too; the compressed stream moves few of them but
//! keeps one core of the exporter busy. What wins depends on the link, on that core, and on how much
//! of the disk is zero.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, timeout_at};
use vmferry_formats::{chunk::CHUNK_LEN, deflate::gzip::GzipDecoder, zero::is_zero};

use super::{HttpStore, client::Trouble, connection::Connection};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{
        ByteStore as _,
        num::{to_u64, to_usize},
    },
};

/// The link to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Faster {
    Gzip,
    Raw,
}

/// Speeds in bytes of the disk a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speeds {
    raw: f64,
    /// Of the compressed stream where it holds data, and where it holds zeros.
    data: f64,
    zeros: f64,
}

/// Tries both links.
///
/// # Errors
/// The raw link does not work; a compressed one that does not is just not taken.
pub(super) async fn faster(store: &Arc<HttpStore>, gzip: &Connection) -> Result<Faster> {
    if store.size() < WORTH_MEASURING {
        return Ok(Faster::Raw);
    }
    let zero_share = sample_zeros(store).await?;
    let raw = raw_speed(store).await?;
    let hoped = Speeds { raw, data: HOPED_DATA, zeros: HOPED_ZEROS };
    if choose(hoped, zero_share) == Faster::Raw {
        tracing::info!(source = %store.name(), raw_mib_s = mib(raw), "raw ranges are faster than gzip could be");
        return Ok(Faster::Raw);
    }
    let speeds = match gzip_speed(gzip).await {
        Ok((data, zeros)) => Speeds { raw, data, zeros },
        Err(error) => {
            tracing::debug!(source = %store.name(), %error, "the compressed link could not be tried");
            return Ok(Faster::Raw);
        }
    };
    let faster = choose(speeds, zero_share);
    tracing::info!(
        source = %store.name(),
        zero_percent = (zero_share * 100.0).round(),
        raw_mib_s = mib(speeds.raw),
        gzip_data_mib_s = mib(speeds.data),
        gzip_zeros_mib_s = mib(speeds.zeros),
        taken = ?faster,
        "tried both links"
    );
    Ok(faster)
}

fn choose(speeds: Speeds, zero_share: f64) -> Faster {
    // Seconds for each byte of the disk.
    let raw = 1.0 / speeds.raw.max(1.0);
    let gzip = (1.0 - zero_share) / speeds.data.max(1.0) + zero_share / speeds.zeros.max(1.0);
    // Ranges can be resumed and survive more: what is nearly as fast is better.
    if gzip < raw * CLEARLY { Faster::Gzip } else { Faster::Raw }
}

/// The share of blocks that are zero, as far as a few spread over the disk tell.
async fn sample_zeros(store: &Arc<HttpStore>) -> Result<f64> {
    let step = store.size() / SAMPLES;
    let zeros: Vec<bool> = stream::iter(0..SAMPLES)
        .map(|index| async move {
            let mut block = vec![0xff; to_usize(SAMPLE_LEN)];
            // In the middle of each part, on a block of the disk.
            let offset = (index * step + step / 2) / SAMPLE_LEN * SAMPLE_LEN;
            store.fetch(offset.min(store.size() - SAMPLE_LEN), &mut block).await.map(|()| is_zero(&block))
        })
        .buffer_unordered(store.concurrency())
        .try_collect()
        .await?;
    let zero = zeros.iter().filter(|zero| **zero).count();
    Ok(ratio(to_u64(zero), SAMPLES))
}

/// Bytes a second of ranges as the transfer would ask for them.
async fn raw_speed(store: &Arc<HttpStore>) -> Result<f64> {
    let taken = AtomicU64::new(0);
    let start = Instant::now();
    let until = start + TRY_FOR;
    let chunks = to_u64(store.concurrency()) * CHUNKS_A_CONNECTION;
    let step = (store.size() / chunks / CHUNK_LEN).max(1) * CHUNK_LEN;
    let offsets: Vec<u64> =
        (0..chunks).map(|index| index * step).take_while(|at| at + CHUNK_LEN <= store.size()).collect();
    let tries = stream::iter(offsets)
        .map(|at| {
            let taken = &taken;
            async move {
                let client = store.connection.client();
                let result = async {
                    let mut response = store.get(&client, at, at + CHUNK_LEN).await?;
                    while let Some(bytes) = client.chunk(&mut response).await? {
                        taken.fetch_add(to_u64(bytes.len()), Relaxed);
                    }
                    Ok(())
                };
                match result.await {
                    // The transfer itself will look into troubles that may pass.
                    Ok(()) | Err(Trouble::Transient { .. } | Trouble::Stale(_) | Trouble::Wrong(_)) => Ok(()),
                    Err(Trouble::Fatal(error)) => Err(error),
                }
            }
        })
        .buffer_unordered(store.concurrency())
        .try_collect::<()>();
    if let Ok(done) = timeout_at(until, tries).await {
        done?;
    }
    Ok(speed(taken.into_inner(), start.elapsed()))
}

/// Bytes of the disk a second that the compressed stream yields: data, zeros.
async fn gzip_speed(connection: &Connection) -> Result<(f64, f64)> {
    let start = Instant::now();
    let until = start + TRY_FOR;
    // Once: what is in trouble while it is tried is not worth waiting for, as the other link works.
    let client = connection.client();
    let answer = timeout_at(until, client.get(None, None)).await;
    let mut response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(
            Trouble::Fatal(error)
            | Trouble::Stale(error)
            | Trouble::Wrong(error)
            | Trouble::Transient { error, .. },
        )) => return Err(error),
        Err(_) => return Err(Error::new(ErrorKind::TimedOut, format!("{} does not answer", client.name()))),
    };
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<bytes::Bytes>(4);
    // Inflating blocks; it is part of what is measured.
    let inflating = tokio::task::spawn_blocking(move || {
        let mut seen = Seen::default();
        let (mut decoder, mut out) = (GzipDecoder::default(), vec![0; PIECE_LEN]);
        let (mut filled, mut since) = (0, Instant::now());
        while let Some(bytes) = receiver.blocking_recv() {
            let mut encoded = &bytes[..];
            while !encoded.is_empty() {
                let Ok(step) = decoder.inflate(encoded, &mut out[filled..]) else { return seen };
                if step.consumed + step.produced == 0 {
                    return seen;
                }
                encoded = &encoded[step.consumed..];
                filled += step.produced;
                if filled == out.len() {
                    seen.add(&out, since.elapsed());
                    (filled, since) = (0, Instant::now());
                }
            }
            if seen.bytes() >= ENOUGH {
                break;
            }
        }
        seen
    });
    while let Ok(Ok(Some(bytes))) = timeout_at(until, client.chunk(&mut response)).await {
        if sender.send(bytes).await.is_err() {
            break;
        }
    }
    drop(sender);
    Ok(inflating.await.unwrap_or_default().speeds())
}

/// What a compressed stream yielded in its first second.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    data: (u64, Duration),
    zeros: (u64, Duration),
}

impl Seen {
    fn add(&mut self, piece: &[u8], took: Duration) {
        let (bytes, time) = if is_zero(piece) { &mut self.zeros } else { &mut self.data };
        *bytes += to_u64(piece.len());
        *time += took;
    }

    fn bytes(&self) -> u64 {
        self.data.0 + self.zeros.0
    }

    /// What was not seen is guessed from what was: zeros are that much cheaper to pack and to send.
    fn speeds(&self) -> (f64, f64) {
        let of = |(bytes, time): (u64, Duration)| (bytes > 0).then(|| speed(bytes, time));
        match (of(self.data), of(self.zeros)) {
            (Some(data), Some(zeros)) => (data, zeros.max(data)),
            (Some(data), None) => (data, data * ZEROS_BY_DATA),
            (None, Some(zeros)) => (zeros / ZEROS_BY_DATA, zeros),
            (None, None) => (0.0, 0.0),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn speed(bytes: u64, time: Duration) -> f64 {
    ratio(bytes, 1) / time.as_secs_f64().max(1e-6)
}

fn mib(speed: f64) -> f64 {
    (speed / f64::from(1 << 20)).round()
}

/// A smaller disk is there before anything is measured.
const WORTH_MEASURING: u64 = 256 << 20;

/// Blocks looked at for zeros, and their length in bytes.
const SAMPLES: u64 = 64;
const SAMPLE_LEN: u64 = 4096;

/// Each link is tried for so long at most.
const TRY_FOR: Duration = Duration::from_millis(1200);

/// Chunks fetched over each connection to see how fast ranges are.
const CHUNKS_A_CONNECTION: u64 = 2;

/// Bytes of the disk after which the compressed stream has shown what it can do.
const ENOUGH: u64 = 256 << 20;

/// Bytes of the disk that are data or zeros as a whole.
const PIECE_LEN: usize = 1 << 20;

/// A compressed stream faster than the other by less than this is not worth its disadvantages.
const CLEARLY: f64 = 0.85;

/// The most that was seen of exporters, whose pod has one core: bytes of the disk a second.
const HOPED_DATA: f64 = 400e6;
const HOPED_ZEROS: f64 = 2e9;

/// How much faster zeros are packed than data.
const ZEROS_BY_DATA: f64 = 4.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_that_takes_less_time_for_the_whole_disk_is_taken() {
        // A thin link, a disk that is mostly zero.
        let thin = Speeds { raw: 12e6, data: 24e6, zeros: 400e6 };
        assert_eq!(choose(thin, 0.9), Faster::Gzip);
        assert_eq!(choose(thin, 0.0), Faster::Gzip);
        // A fast link: packing is slower than sending, unless there is next to nothing to pack.
        let fast = Speeds { raw: 900e6, data: 100e6, zeros: 400e6 };
        assert_eq!(choose(fast, 0.0), Faster::Raw);
        assert_eq!(choose(fast, 0.95), Faster::Raw);
        let zeros = Speeds { zeros: 2e9, ..fast };
        assert_eq!(choose(zeros, 0.99), Faster::Gzip);
        assert_eq!(choose(zeros, 0.9), Faster::Raw);
        // Nearly as fast is not enough, and what yields nothing is never taken.
        assert_eq!(choose(Speeds { raw: 100e6, data: 110e6, zeros: 110e6 }, 0.5), Faster::Raw);
        assert_eq!(choose(Speeds { raw: 1e3, data: 0.0, zeros: 0.0 }, 0.5), Faster::Raw);
    }

    #[test]
    fn what_was_not_seen_is_guessed() {
        let second = Duration::from_secs(1);
        let both = Seen { data: (100, second), zeros: (900, second) };
        assert_eq!(both.speeds(), (100.0, 900.0));
        assert_eq!(Seen { data: (100, second), ..Seen::default() }.speeds(), (100.0, 400.0));
        assert_eq!(Seen { zeros: (100, second), ..Seen::default() }.speeds(), (25.0, 100.0));
        assert_eq!(Seen::default().speeds(), (0.0, 0.0));
    }
}
