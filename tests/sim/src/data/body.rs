//! Bodies as streams: disks, gzip of disks, and what faults do to them on the way.

use std::{
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::{Response, header::CONTENT_LENGTH};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    disk::{Disk, to_usize},
    fault::FaultKind,
    http::{self, Body},
    link::Link,
    log::Entry,
};

/// A piece of a body.
const PIECE: u64 = 256 << 10;
/// How many pieces wait for the connection.
const WAITING: usize = 4;

/// Pieces of a body on their way.
pub(super) type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// What faults do to a body.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    cut: Option<u64>,
    stalls: Vec<(u64, Duration)>,
    rate: Option<u64>,
    /// Offsets of the disk whose byte is changed.
    pub(super) corrupt: Vec<u64>,
    /// Offsets of the body whose byte is changed.
    garble: Vec<u64>,
    link: Arc<Link>,
    /// How much of the disk a gzip stream holds.
    pub(super) short: Option<u64>,
}

impl Shape {
    pub(super) fn new(faults: &[FaultKind], link: &Arc<Link>) -> Self {
        let mut shape = Self { link: Arc::clone(link), ..Self::default() };
        for fault in faults {
            match *fault {
                FaultKind::CutAfter { bytes } => {
                    shape.cut = Some(shape.cut.map_or(bytes, |cut| cut.min(bytes)));
                }
                FaultKind::Stall { after_bytes, pause } => shape.stalls.push((after_bytes, pause)),
                FaultKind::Slow { bytes_per_second } => shape.rate = Some(bytes_per_second.max(1)),
                FaultKind::Corrupt { offset } => shape.corrupt.push(offset),
                FaultKind::Garble { at } => shape.garble.push(at),
                FaultKind::ShortGzip { bytes } => shape.short = Some(bytes),
                _ => {}
            }
        }
        shape.stalls.sort_unstable();
        shape
    }
}

/// The bytes of a disk from `start` on.
pub(super) fn disk(disk: Disk, start: u64, len: u64, corrupt: Vec<u64>) -> Pieces {
    let (sender, pieces) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || send_disk(&disk, start, len, &corrupt, &sender));
    pieces
}

/// Several pieces of a disk with text before each and at the end, as multipart bodies are.
pub(super) fn parts(disk: Disk, parts: Vec<(String, u64, u64)>, end: String, corrupt: Vec<u64>) -> Pieces {
    let (sender, pieces) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        for (head, start, len) in parts {
            if sender.blocking_send(Ok(head.into())).is_err()
                || !send_disk(&disk, start, len, &corrupt, &sender)
            {
                return;
            }
        }
        drop(sender.blocking_send(Ok(end.into())));
    });
    pieces
}

/// Sends a range of a disk; false once nobody listens or a read failed.
fn send_disk(
    disk: &Disk,
    start: u64,
    len: u64,
    corrupt: &[u64],
    sender: &mpsc::Sender<io::Result<Bytes>>,
) -> bool {
    let (mut offset, end) = (start, start + len);
    while offset < end {
        // Up to a boundary, so that pieces of one disk are cut alike.
        let len = (PIECE - offset % PIECE).min(end - offset);
        let piece = disk.piece(offset, to_usize(len)).map(|piece| corrupted(piece, offset, corrupt));
        let is_failed = piece.is_err();
        if sender.blocking_send(piece).is_err() || is_failed {
            return false;
        }
        offset += len;
    }
    true
}

fn corrupted(piece: Bytes, offset: u64, corrupt: &[u64]) -> Bytes {
    let hits = |at: &&u64| **at >= offset && **at - offset < u64::try_from(piece.len()).unwrap_or(0);
    let hits: Vec<usize> = corrupt.iter().filter(hits).map(|at| to_usize(at - offset)).collect();
    if hits.is_empty() {
        return piece;
    }
    let mut changed = piece.to_vec();
    for at in hits {
        if let Some(byte) = changed.get_mut(at) {
            *byte ^= 0xff;
        }
    }
    changed.into()
}

/// The gzip of a disk, one member. A read error ends it early but cleanly, as the real exporter does.
pub(super) fn gzip(disk: Disk, shape: &Shape) -> Pieces {
    if let Some(made) = disk.gzip().filter(|_| shape.corrupt.is_empty() && shape.short.is_none()) {
        return self::disk(made.clone(), 0, made.len_bytes(), Vec::new());
    }
    let (sender, pieces) = mpsc::channel(WAITING);
    let end = disk.readable().min(shape.short.unwrap_or(u64::MAX));
    let corrupt = shape.corrupt.clone();
    tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Sender::new(sender), Compression::fast());
        let mut offset = 0;
        while offset < end {
            let len = PIECE.min(end - offset);
            let Ok(piece) = disk.piece(offset, to_usize(len)) else { break };
            if encoder.write_all(&corrupted(piece, offset, &corrupt)).is_err() {
                return;
            }
            offset += len;
        }
        // Nobody listens any more: nothing to finish.
        drop(encoder.finish().and_then(|mut sender| sender.flush()));
    });
    pieces
}

/// What is written goes out as pieces.
pub(super) struct Sender {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Sender {
    pub(super) fn new(pieces: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { pieces, buffer: Vec::new() }
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= to_usize(PIECE / 4) {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.buffer);
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The channel of a producer that runs on a blocking thread.
pub(super) fn channel() -> (Sender, Pieces) {
    let (sender, pieces) = mpsc::channel(WAITING);
    (Sender::new(sender), pieces)
}

/// A body of these pieces, in the given shape, that breaks when `stop` says so.
pub(super) fn shaped(pieces: Pieces, shape: Shape, stop: CancellationToken, entry: Arc<Entry>) -> Body {
    let flow = Flow {
        pieces,
        shape,
        stop,
        entry,
        rest: Bytes::new(),
        sent: 0,
        started: Instant::now(),
        is_broken: false,
    };
    http::stream(futures_util::stream::unfold(flow, |mut flow| async move {
        let piece = flow.next().await?;
        flow.is_broken = piece.is_err();
        Some((piece, flow))
    }))
}

struct Flow {
    pieces: Pieces,
    shape: Shape,
    stop: CancellationToken,
    entry: Arc<Entry>,
    rest: Bytes,
    sent: u64,
    started: Instant,
    is_broken: bool,
}

impl Flow {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.is_broken {
            return None;
        }
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Some(Err(io::Error::other("the exporter is gone"))),
            piece = self.take() => piece,
        }
    }

    async fn take(&mut self) -> Option<io::Result<Bytes>> {
        if self.shape.cut == Some(self.sent) {
            // What was sent before shall arrive before the end does.
            tokio::time::sleep(Duration::from_millis(2)).await;
            return Some(Err(io::Error::other("simulated cut")));
        }
        if self.rest.is_empty() {
            self.rest = match self.pieces.recv().await? {
                Ok(piece) => piece,
                Err(error) => return Some(Err(error)),
            };
        }
        while let Some(&(at, pause)) = self.shape.stalls.first().filter(|(at, _)| *at <= self.sent) {
            let _ = at;
            self.shape.stalls.remove(0);
            tokio::time::sleep(pause).await;
        }
        let mut len = u64::try_from(self.rest.len()).unwrap_or(u64::MAX).min(self.shape.link.piece());
        for limit in [self.shape.cut, self.shape.stalls.first().map(|(at, _)| *at)].into_iter().flatten() {
            len = len.min(limit.saturating_sub(self.sent).max(1));
        }
        if let Some(rate) = self.shape.rate {
            len = len.min((rate / 50).max(1));
            let micros = u128::from(self.sent) * 1_000_000 / u128::from(rate);
            let due = self.started + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
            tokio::time::sleep_until(due.into()).await;
        }
        let now = Instant::now();
        let due = self.shape.link.reserve(len, now);
        if due > now {
            tokio::time::sleep_until(due.into()).await;
        }
        let piece = corrupted(self.rest.split_to(to_usize(len)), self.sent, &self.shape.garble);
        self.sent += len;
        self.entry.sent(piece.len());
        Some(Ok(piece))
    }
}

/// Breaks any response off after so many bytes.
pub(crate) fn cut(response: Response<Body>, bytes: u64) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    let pieces = body.into_data_stream().boxed();
    let cut = futures_util::stream::unfold((pieces, Some(bytes)), |(mut pieces, left)| async move {
        let left = left?;
        if left == 0 {
            return Some((Err(io::Error::other("simulated cut")), (pieces, None)));
        }
        match pieces.next().await? {
            Ok(mut piece) => {
                piece.truncate(to_usize(left));
                let left = left - u64::try_from(piece.len()).unwrap_or(left);
                Some((Ok(piece), (pieces, Some(left))))
            }
            Err(error) => Some((Err(error), (pieces, None))),
        }
    });
    Response::from_parts(parts, http::stream(cut))
}
