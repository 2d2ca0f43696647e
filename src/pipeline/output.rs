//! The output's two threads: one executes operations, the other makes them durable.
//!
//! Records of chunks travel behind the data that they describe: the writer passes a record on once
//! its bytes are with the kernel, the committer writes it into the journal once a sync that began
//! after that has returned. The writer goes on during syncs.

use std::{
    mem,
    sync::{Arc, mpsc as std_mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use vmferry_formats::plan::Slot;

use super::{
    engine::Charge,
    hash::{FileDigest, FileHash, RunningHash},
    journal::{Checkpoint, Journal, Record, TAIL_LEN},
    progress::Progress,
};
use crate::{
    error::{Error, Result},
    sink::{DataSync, Durable, Sink},
};

/// An operation with its bytes.
#[derive(Debug)]
pub(crate) enum SinkOp {
    Append(Vec<Bytes>),
    Fill {
        slot: Slot,
        at: u64,
        bytes: Bytes,
    },
    /// From here on bytes are hashed.
    HashFrom(FileHash),
    /// Up to here; nobody minds if the receiver is gone.
    HashTo(oneshot::Sender<FileDigest>),
    Reserve {
        slot: Slot,
        len: u64,
    },
    Skip(u64),
}

/// The operations of one piece of the output and the record that they are covered by.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) ops: Vec<SinkOp>,
    pub(crate) mark: Option<Mark>,
    /// Memory held by the bytes.
    pub(crate) charge: Charge,
}

/// A record of the journal, and the durable point that it makes possible.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) record: Record,
    /// Number of the disk, if it lies in a container.
    pub(crate) disk: Option<u32>,
    /// Guest bytes of the disk so far.
    pub(crate) at: u64,
    /// Output bytes so far.
    pub(crate) out: u64,
    /// Guest bytes of the disk so far that were zero.
    pub(crate) zero: u64,
}

/// How often the output is made durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitPolicy {
    /// Output bytes between two durable points.
    pub(crate) bytes: u64,
    /// Time between them.
    pub(crate) interval: Duration,
}

/// The running state of an output beside its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutputState {
    /// Bytes so far.
    pub(crate) position: u64,
    /// End of the last reservation: what lies before it may still be filled.
    pub(crate) reserved_end: u64,
    /// Hash over a part of them, if one is being taken in passing.
    pub(crate) hash: Option<RunningHash>,
}

/// What is left when an output ends.
pub(crate) struct OutputEnd {
    /// The journal, with everything durable recorded.
    pub(crate) journal: Option<Journal>,
    /// Records of what no durable point covers, though all of it is written: they count once the output
    /// is complete.
    pub(crate) records: Vec<Record>,
    /// Makes the rest durable and reads it back.
    pub(crate) sync: Option<Arc<dyn DataSync>>,
}

/// An output being written.
pub(crate) struct Output {
    sender: Option<mpsc::Sender<Command>>,
    writer: Option<thread::JoinHandle<Result<()>>>,
    committer: Option<thread::JoinHandle<Committed>>,
    sync: Option<Arc<dyn DataSync>>,
}

/// What the committer leaves.
type Committed = (Option<Journal>, Vec<Record>, Result<()>);

enum Command {
    Batch(Batch),
    Finish,
}

struct Written {
    mark: Mark,
    /// Output bytes before it that no fill will change.
    settled: u64,
    /// State of the hash that is being taken.
    hash: Option<(FileHash, String)>,
}

impl Output {
    /// Starts the threads of `sink`, which stands at `state.position`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn start(
        sink: Box<dyn Sink>,
        state: OutputState,
        journal: Option<Journal>,
        policy: CommitPolicy,
        progress: Progress,
    ) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        let sync = sink.data_sync();
        let (records, pending) = std_mpsc::sync_channel(RECORDS_LEN);
        let committer_sync = sync.clone();
        let committer =
            spawn("vmferry-commit", move || commit_all(&pending, committer_sync, journal, policy))?;
        let writer = spawn("vmferry-write", move || write_all(sink, state, receiver, &records, &progress))?;
        Ok(Self { sender: Some(sender), writer: Some(writer), committer: Some(committer), sync })
    }

    /// Queues a batch; waits while the sink is behind.
    ///
    /// # Errors
    /// The output has failed; [`end`](Self::end) says why.
    pub(crate) async fn send(&self, batch: Batch) -> Result<()> {
        let sender = self.sender.as_ref().ok_or_else(ended)?;
        sender.send(Command::Batch(batch)).await.map_err(|_| ended())
    }

    /// Ends the output: with `finish`, all of it is written; without, what was queued is written
    /// and recorded, so that a later run can go on (suspend).
    ///
    /// # Errors
    /// What went wrong in the writer or at a sync; the journal comes back in any case.
    pub(crate) async fn end(mut self, finish: bool) -> (OutputEnd, Result<()>) {
        let mut result = Ok(());
        if let Some(sender) = self.sender.take()
            && finish
            && sender.send(Command::Finish).await.is_err()
        {
            result = Err(ended());
        }
        let (writer, committer, sync) = (self.writer.take(), self.committer.take(), self.sync.take());
        let joined = tokio::task::spawn_blocking(move || {
            (writer.map(thread::JoinHandle::join), committer.map(thread::JoinHandle::join))
        });
        let mut end = OutputEnd { journal: None, records: Vec::new(), sync };
        match joined.await {
            Ok((Some(Ok(written)), Some(Ok((journal, records, committed))))) => {
                (end.journal, end.records) = (journal, records);
                // A failed sync is the cause of whatever the writer met afterwards.
                match (committed, written) {
                    (Err(error), _) | (Ok(()), Err(error)) => result = Err(error),
                    (Ok(()), Ok(())) => {}
                }
            }
            _ => result = Err(Error::failed("a thread of the output panicked; this is a bug of vmferry")),
        }
        (end, result)
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    let builder = thread::Builder::new().name(name.into());
    builder.spawn(body).map_err(|error| Error::failed("cannot start a thread").with_source(error))
}

fn ended() -> Error {
    Error::failed("the output ended early")
}

fn write_all(
    mut sink: Box<dyn Sink>,
    mut state: OutputState,
    mut commands: mpsc::Receiver<Command>,
    records: &std_mpsc::SyncSender<Written>,
    progress: &Progress,
) -> Result<()> {
    while let Some(command) = commands.blocking_recv() {
        let batch = match command {
            Command::Batch(batch) => batch,
            Command::Finish => {
                sink.finish()?;
                return Ok(());
            }
        };
        sink.begin_batch(appended(&batch.ops), batch.charge.bytes());
        for op in batch.ops {
            execute(&mut *sink, op, &mut state, progress)?;
        }
        drop(batch.charge);
        if let Some(mark) = batch.mark {
            sink.settle()?;
            let hash = state.hash.as_ref().map(|hash| (hash.kind(), hash.state()));
            let settled = state.position - state.reserved_end;
            records.send(Written { mark, settled, hash }).map_err(|_| ended())?;
        }
    }
    Ok(())
}

/// Bytes that operations append.
fn appended(ops: &[SinkOp]) -> u64 {
    let pieces = ops.iter().flat_map(|op| match op {
        SinkOp::Append(pieces) => pieces.as_slice(),
        _ => &[],
    });
    pieces.map(|piece| piece.len() as u64).sum()
}

fn execute(sink: &mut dyn Sink, op: SinkOp, state: &mut OutputState, progress: &Progress) -> Result<()> {
    match op {
        SinkOp::Append(pieces) => {
            let len: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            if let Some(hash) = &mut state.hash {
                pieces.iter().for_each(|piece| hash.update(piece));
            }
            sink.append(&pieces)?;
            state.position += len;
            progress.add_written(len);
        }
        SinkOp::Skip(len) => {
            if let Some(hash) = &mut state.hash {
                hash.update_zeros(len);
            }
            sink.skip(len)?;
            state.position += len;
        }
        SinkOp::Reserve { slot, len } => {
            sink.reserve(slot, len)?;
            state.position += len;
            state.reserved_end = state.position;
        }
        SinkOp::Fill { slot, at, bytes } => {
            progress.add_written(bytes.len() as u64);
            sink.fill(slot, at, &bytes)?;
        }
        SinkOp::HashFrom(kind) => state.hash = Some(kind.start()),
        SinkOp::HashTo(receiver) => {
            if let Some(hash) = state.hash.take() {
                let _ = receiver.send(hash.finish());
            }
        }
    }
    Ok(())
}

fn commit_all(
    pending: &std_mpsc::Receiver<Written>,
    sync: Option<Arc<dyn DataSync>>,
    journal: Option<Journal>,
    policy: CommitPolicy,
) -> Committed {
    let (Some(sync), Some(journal)) = (sync, journal) else {
        // Nothing to make durable: only take the records off the writer's hands.
        while pending.recv().is_ok() {}
        return (None, Vec::new(), Ok(()));
    };
    let mut committer = Committer { sync, journal, records: Vec::new(), last: None, committed: 0 };
    let result = committer.run(pending, policy);
    (Some(committer.journal), committer.records, result)
}

struct Committer {
    sync: Arc<dyn DataSync>,
    journal: Journal,
    records: Vec<Record>,
    last: Option<Checkpoint>,
    committed: u64,
}

impl Committer {
    fn run(&mut self, pending: &std_mpsc::Receiver<Written>, policy: CommitPolicy) -> Result<()> {
        let mut due = Instant::now() + policy.interval;
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            let more = match pending.recv_timeout(wait) {
                Ok(written) => {
                    self.take(written);
                    true
                }
                Err(std_mpsc::RecvTimeoutError::Timeout) => true,
                Err(std_mpsc::RecvTimeoutError::Disconnected) => false,
            };
            let bytes = self.last.as_ref().map_or(0, |point| point.out.saturating_sub(self.committed));
            self.note_parts()?;
            if !more || bytes >= policy.bytes || Instant::now() >= due {
                self.commit(pending)?;
                due = Instant::now() + policy.interval;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn take(&mut self, written: Written) {
        let Written { mark, settled, hash } = written;
        let Mark { record, disk, at, out, zero } = mark;
        let tail_len = settled.min(TAIL_LEN);
        let mut point = Checkpoint { disk, at, out, zero, tail_len, ..Checkpoint::default() };
        match hash {
            Some((FileHash::Sha1, state)) => point.sha1 = Some(state),
            Some((FileHash::Sha256, state)) => point.sha256 = Some(state),
            None => {}
        }
        self.last = Some(point);
        let joined = match (self.records.last_mut(), &record) {
            (Some(Record::Chunk(last)), Record::Chunk(next)) => last.join(next),
            _ => false,
        };
        if !joined {
            self.records.push(record);
        }
    }

    /// Records the parts of an upload that have arrived. They count by themselves.
    fn note_parts(&mut self) -> Result<()> {
        let parts = self.sync.acknowledged();
        if parts.is_empty() { Ok(()) } else { self.journal.append(parts.into_iter().map(Record::Part)) }
    }

    fn commit(&mut self, pending: &std_mpsc::Receiver<Written>) -> Result<()> {
        if self.last.is_none() {
            return Ok(());
        }
        let durable = self.sync.sync()?;
        self.note_parts()?;
        let pins = match durable {
            Durable::All => None,
            Durable::Nothing => return Ok(()),
            Durable::Until { out, pins } => {
                // A record rests on exactly this point; those up to it are on their way.
                while self.last.as_ref().is_some_and(|point| point.out < out) {
                    match pending.recv() {
                        Ok(written) => self.take(written),
                        Err(std_mpsc::RecvError) => return Ok(()),
                    }
                }
                Some(pins)
            }
        };
        let Some(mut point) = self.last.take() else { return Ok(()) };
        match pins {
            None => point.tail_crc = self.sync.tail_crc(point.out, point.tail_len)?,
            // The parts have checksums of their own.
            Some(pins) => (point.tail_len, point.pins) = (0, pins),
        }
        self.committed = point.out;
        let records = mem::take(&mut self.records).into_iter();
        self.journal.append(records.chain([Record::Checkpoint(point)]))?;
        self.journal.send_to_mirror_blocking()
    }
}

/// Batches that wait for the sink.
const QUEUE_LEN: usize = 4;

/// Records that wait for a sync.
const RECORDS_LEN: usize = 4096;
