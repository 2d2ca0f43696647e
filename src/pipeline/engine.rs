//! The loop that every run goes through: plan, fetch, process, hand over in guest order.
//!
//! Permits for a whole chunk are taken in guest order before its fetch begins, so the lowest chunk
//! that is not yet handed over always owns its memory and nothing can deadlock. Chunks are fetched
//! and processed concurrently and handed to the [`Stage`] in order.

use std::{future::Future, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::spawn_blocking,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use vmferry_formats::{FormatWriter, chunk::CHUNK_LEN};

use super::{
    budget::{Budget, INPUT_COST},
    buffer::BufferPool,
    process::{Checker, Fetched, Processed, Recipe},
    progress::Progress,
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{ByteStore, Piece, ReadPlan, ReadRange, Source, StreamChunk},
};

/// What stands at the end of a run and takes chunks in guest order.
pub(crate) trait Stage: Send {
    /// Takes the next chunk, or run of zero chunks. `charge` is the memory that it holds.
    fn accept(&mut self, chunk: Processed, charge: Charge) -> impl Future<Output = Result<()>> + Send;
}

/// The memory that a chunk holds, input and output; given back when dropped. All of it at once: the
/// pools keep what they once held, so an input that was given back early would be paid for twice.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    permits: Option<OwnedSemaphorePermit>,
}

impl Charge {
    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.permits.as_ref().map_or(0, |permits| permits.num_permits() as u64 * PERMIT_LEN)
    }
}

/// What a run works with.
pub(crate) struct Engine {
    recipe: Arc<Recipe>,
    pool: Arc<rayon::ThreadPool>,
    buffers: BufferPool,
    /// For encoded data, which can be a little longer than a chunk.
    encoded: BufferPool,
    permits: Arc<Semaphore>,
    capacity: u32,
    progress: Progress,
    cancel: CancellationToken,
}

/// What decides the size of an engine.
pub(crate) struct EngineOptions {
    /// CPU workers asked for.
    pub(crate) workers: Option<usize>,
    /// Resident memory of the process in bytes.
    pub(crate) memory: u64,
    /// Counters to update.
    pub(crate) progress: Progress,
    /// Ends the run.
    pub(crate) cancel: CancellationToken,
}

impl Engine {
    /// An engine that reads `source` and encodes for `writer`, if any. With `content_limit`, only
    /// that much of the disk is digested and what lies behind is searched for data.
    ///
    /// # Errors
    /// Not enough memory, or a codec or the threads cannot be set up.
    pub(crate) fn new(
        source: &Source,
        writer: Option<&dyn FormatWriter>,
        checker: Checker,
        content_limit: Option<u64>,
        options: EngineOptions,
    ) -> Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = options.workers.unwrap_or_else(cores).max(1);
        let (decode_len, unpacking) = match source {
            Source::Random(plan) => (plan.decode_len(), 0),
            Source::Stream(stream) => (1, stream.memory()),
        };
        let probe = Recipe::new(writer, decode_len, checker.clone(), 1)?;
        let encoded_cost = if decode_len > 1 { ENCODED_LEN + INPUT_COST - CHUNK_LEN } else { 0 };
        let chunk_cost = INPUT_COST + encoded_cost + probe.output_cost();
        let budget = Budget::new(options.memory, workers, chunk_cost, unpacking)?;
        let mut recipe = Recipe::new(writer, decode_len, checker, budget.workers)?;
        if let Some(content) = content_limit {
            recipe = recipe.limit_content(content);
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(budget.workers)
            .thread_name(|index| format!("vmferry-cpu-{index}"))
            .build()
            .map_err(|error| Error::failed("cannot start the CPU workers").with_source(error))?;
        tracing::debug!(workers = budget.workers, in_flight = budget.in_flight, "memory divided");
        let capacity = to_permits(budget.in_flight);
        Ok(Self {
            recipe: Arc::new(recipe),
            pool: Arc::new(pool),
            buffers: BufferPool::new(usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX)),
            encoded: BufferPool::new(usize::try_from(ENCODED_LEN).unwrap_or(usize::MAX)),
            permits: Arc::new(Semaphore::new(usize::try_from(capacity).unwrap_or(usize::MAX))),
            capacity,
            progress: options.progress,
            cancel: options.cancel,
        })
    }

    /// Runs `source` from guest byte `from` (a multiple of the chunk length) to its end through
    /// `stage`; chunks below `encode_from` are checked, not encoded. Returns the length of the disk.
    ///
    /// # Errors
    /// The first error of source, codec or stage. All chunks before it have been handed over.
    pub(crate) async fn run(
        &self,
        source: &mut Source,
        from: u64,
        encode_from: u64,
        stage: &mut impl Stage,
    ) -> Result<u64> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        // Both halves run in this one task; an error of the producer arrives through the channel,
        // behind the chunks before it, so that the consumer places what is contiguous.
        let produce = async {
            let error_sender = sender.clone();
            let end = match source {
                Source::Random(_) => self.plan_all(source, from, encode_from, sender).await,
                Source::Stream(_) => self.stream_all(source, encode_from, sender).await,
            };
            match end {
                Ok(size) => Some(size),
                Err(error) => {
                    let _ = error_sender.send(InFlight::Failed(error)).await;
                    None
                }
            }
        };
        let consume = self.hand_over(receiver, stage);
        let mut size = None;
        let result = {
            tokio::pin!(produce, consume);
            let mut producing = true;
            loop {
                tokio::select! {
                    end = &mut produce, if producing => {
                        size = end;
                        producing = false;
                    }
                    result = &mut consume => break result,
                }
            }
        };
        result?;
        let size = size.ok_or_else(|| Error::failed("the source ended without saying how"))?;
        // Streams ask before they say that they have ended.
        if let Source::Random(plan) = source {
            for store in plan.stores() {
                Arc::clone(store).check_unchanged().await?;
            }
        }
        Ok(size)
    }

    /// Checks single chunks of a random source against `expected`, for the resume guard.
    ///
    /// # Errors
    /// The source cannot be read.
    pub(crate) async fn check_chunk(
        &self,
        source: &mut Source,
        guest_offset: u64,
        len: u64,
    ) -> Result<super::process::Check> {
        let Source::Random(plan) = source else {
            return Err(Error::failed("a stream has no chunks to look up"));
        };
        let mut piece = plan.piece_at(guest_offset).await?;
        let stores = plan.stores().to_vec();
        let Some(read) = piece.read.take() else {
            return Ok(self.recipe.checker().zero_chunk(len.next_multiple_of(512)));
        };
        piece.len = len;
        let fetched = fetch(stores, piece, read, self.pools(), Arc::new(Semaphore::new(1))).await?;
        Ok(process(&self.pool, &self.recipe, fetched, false).await?.check)
    }

    async fn hand_over(&self, mut receiver: mpsc::Receiver<InFlight>, stage: &mut impl Stage) -> Result<()> {
        while let Some(item) = receiver.recv().await {
            let (chunk, charge) = match item {
                InFlight::Failed(error) => return Err(error),
                InFlight::Ready(chunk) => (*chunk, Charge::default()),
                InFlight::Task(task) => task.await.map_err(panicked)??,
            };
            let (len, zero) = (chunk.shape.len, chunk.zero_bytes);
            stage.accept(chunk, charge).await?;
            self.progress.add_done(len, zero);
        }
        Ok(())
    }

    async fn plan_all(
        &self,
        source: &mut Source,
        from: u64,
        encode_from: u64,
        sender: mpsc::Sender<InFlight>,
    ) -> Result<u64> {
        let Source::Random(plan) = source else { return Err(Error::failed("not a random source")) };
        let (size, stores) = (plan.size(), plan.stores().to_vec());
        let concurrency = stores.iter().map(|store| store.concurrency()).max().unwrap_or(1);
        let fetches = Arc::new(Semaphore::new(concurrency));
        let mut at = from;
        while at < size {
            let mut piece = self.unless_cancelled(plan.piece_at(at)).await??;
            at = piece.guest_offset + piece.len;
            let item = match piece.read.take() {
                None => {
                    for zeros in self.split_zeros(piece.guest_offset, piece.len) {
                        self.send(&sender, InFlight::Ready(Box::new(zeros))).await?;
                    }
                    continue;
                }
                Some(read) => {
                    let encoded = match read.encoded_len {
                        0 => 0,
                        len => self.encoded.cost_of(len) as u64,
                    };
                    let cost = INPUT_COST + encoded + self.recipe.output_cost();
                    let permits = self.acquire(cost).await?;
                    let bytes: usize =
                        read.reads.iter().chain(&read.encoded_reads).map(|(_, read)| read.len).sum();
                    let encode = piece.guest_offset >= encode_from;
                    let fetched = fetch(stores.clone(), piece, read, self.pools(), Arc::clone(&fetches));
                    let (pool, recipe) = (Arc::clone(&self.pool), Arc::clone(&self.recipe));
                    let (cancel, progress) = (self.cancel.clone(), self.progress.clone());
                    InFlight::Task(AbortOnDropHandle::new(tokio::spawn(async move {
                        let fetched = tokio::select! {
                            biased;
                            () = cancel.cancelled() => return Err(interrupted()),
                            fetched = fetched => fetched?,
                        };
                        progress.add_read(bytes as u64);
                        let chunk = process(&pool, &recipe, fetched, encode).await?;
                        Ok((chunk, Charge { permits: Some(permits) }))
                    })))
                }
            };
            self.send(&sender, item).await?;
        }
        Ok(size)
    }

    async fn stream_all(
        &self,
        source: &mut Source,
        encode_from: u64,
        sender: mpsc::Sender<InFlight>,
    ) -> Result<u64> {
        let Source::Stream(stream) = source else { return Err(Error::failed("not a stream")) };
        // The stream lives on its own thread while it reads; it comes back between calls.
        let mut stream = Some(std::mem::replace(stream, Box::new(Taken)));
        let (mut at, mut read_before) = (0, 0);
        loop {
            let permits = self.acquire(INPUT_COST + self.recipe.output_cost()).await?;
            let mut buffer = self.buffers.get();
            let Some(mut reader) = stream.take() else { return Err(Error::failed("the stream is gone")) };
            let reading = spawn_blocking(move || {
                let chunk = reader.next_chunk(&mut buffer);
                (reader, buffer, chunk)
            });
            let (reader, buffer, chunk) = self.unless_cancelled(reading).await?.map_err(panicked)?;
            let bytes_read = reader.bytes_read();
            self.progress.add_read(bytes_read - read_before);
            read_before = bytes_read;
            stream = Some(reader);
            match chunk? {
                StreamChunk::End => return Ok(at),
                StreamChunk::Zero { len } => {
                    for zeros in self.split_zeros(at, len) {
                        self.send(&sender, InFlight::Ready(Box::new(zeros))).await?;
                    }
                    at += len;
                }
                StreamChunk::Data { len, holes } => {
                    let fetched =
                        Fetched { guest_offset: at, len, buffer, holes, encoded: None, decodes: Vec::new() };
                    let encode = at >= encode_from;
                    at += len as u64;
                    let (pool, recipe) = (Arc::clone(&self.pool), Arc::clone(&self.recipe));
                    let task = tokio::spawn(async move {
                        let chunk = process(&pool, &recipe, fetched, encode).await?;
                        Ok((chunk, Charge { permits: Some(permits) }))
                    });
                    self.send(&sender, InFlight::Task(AbortOnDropHandle::new(task))).await?;
                }
            }
        }
    }

    /// A run of zeros in parts whose chunks all have the same digest: whole chunks, the short last
    /// one, the one that the content ends in.
    fn split_zeros(&self, guest_offset: u64, len: u64) -> impl Iterator<Item = Processed> + '_ {
        let end = guest_offset + len;
        let limit = self.recipe.content_limit().unwrap_or(end).clamp(guest_offset, end);
        let floor = |offset: u64| offset / CHUNK_LEN * CHUNK_LEN;
        let cuts = [guest_offset, floor(limit), limit.next_multiple_of(CHUNK_LEN).min(end), floor(end), end];
        let mut at = guest_offset;
        cuts.into_iter().filter_map(move |cut| {
            let part = (cut > at).then(|| self.recipe.zeros(at, cut - at));
            at = at.max(cut);
            part
        })
    }

    fn pools(&self) -> (BufferPool, BufferPool) {
        (self.buffers.clone(), self.encoded.clone())
    }

    async fn acquire(&self, cost: u64) -> Result<OwnedSemaphorePermit> {
        // A chunk that alone exceeds the budget (a badly packed image) takes all of it.
        let permits = to_permits(cost).min(self.capacity);
        let acquired = Arc::clone(&self.permits).acquire_many_owned(permits);
        self.unless_cancelled(acquired).await?.map_err(|_| interrupted())
    }

    async fn send(&self, sender: &mpsc::Sender<InFlight>, item: InFlight) -> Result<()> {
        // A closed channel means that the stage failed; its error is the one that counts.
        self.unless_cancelled(sender.send(item)).await?.map_err(|_| interrupted())
    }

    async fn unless_cancelled<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(interrupted()),
            done = future => Ok(done),
        }
    }
}

enum InFlight {
    Failed(Error),
    Ready(Box<Processed>),
    Task(AbortOnDropHandle<Result<(Processed, Charge)>>),
}

/// Reads what `read` names into fresh buffers.
async fn fetch(
    stores: Vec<Arc<dyn ByteStore>>,
    piece: Piece,
    read: ReadPlan,
    (buffers, encoded_buffers): (BufferPool, BufferPool),
    fetches: Arc<Semaphore>,
) -> Result<Fetched> {
    let _turn = fetches.acquire().await.map_err(|_| interrupted())?;
    let (mut buffer, mut holes) = (buffers.get(), read.holes);
    for run in by_store(&stores, read.reads)? {
        let read = run.store.read_sparse(run.reads, buffer).await?;
        buffer = read.buffer;
        holes.extend(read.holes);
    }
    holes.sort_unstable_by_key(|hole| hole.start);
    let encoded = match read.encoded_len {
        0 => None,
        len => {
            let mut buffer = encoded_buffers.get_at_least(len);
            for run in by_store(&stores, read.encoded_reads)? {
                buffer = run.store.read(run.reads, buffer).await?;
            }
            Some(buffer)
        }
    };
    let len = usize::try_from(piece.len).map_err(|_| Error::failed("a chunk is larger than memory"))?;
    Ok(Fetched { guest_offset: piece.guest_offset, len, buffer, holes, encoded, decodes: read.decodes })
}

/// Reads of one store that follow each other.
struct Run {
    store: Arc<dyn ByteStore>,
    index: usize,
    reads: Vec<ReadRange>,
}

fn by_store(stores: &[Arc<dyn ByteStore>], reads: Vec<(usize, ReadRange)>) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, read) in reads {
        match runs.last_mut() {
            Some(run) if run.index == index => run.reads.push(read),
            _ => {
                let store = stores.get(index);
                let store = store.ok_or_else(|| Error::failed("a piece names a file that is not there"))?;
                runs.push(Run { store: Arc::clone(store), index, reads: vec![read] });
            }
        }
    }
    Ok(runs)
}

/// Runs the CPU's part on the pool.
async fn process(
    pool: &rayon::ThreadPool,
    recipe: &Arc<Recipe>,
    fetched: Fetched,
    encode: bool,
) -> Result<Processed> {
    let (sender, receiver) = oneshot::channel();
    let recipe = Arc::clone(recipe);
    pool.spawn_fifo(move || {
        let _ = sender.send(recipe.process(fetched, encode));
    });
    receiver.await.map_err(|_| Error::failed("a CPU worker panicked; this is a bug of vmferry"))?
}

fn to_permits(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_LEN)).unwrap_or(u32::MAX)
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
}

fn panicked(error: tokio::task::JoinError) -> Error {
    if error.is_cancelled() {
        return interrupted();
    }
    Error::failed("a task panicked; this is a bug of vmferry").with_source(error)
}

/// Stands in for a stream that a thread has taken.
struct Taken;

impl crate::source::ByteStream for Taken {
    fn name(&self) -> String {
        String::new()
    }

    fn size(&self) -> Option<u64> {
        None
    }

    fn identity(&self) -> Option<crate::source::SourceIdentity> {
        None
    }

    fn restart(&self) -> crate::source::Restart {
        crate::source::Restart::Never
    }

    fn next_chunk(&mut self, _buffer: &mut [u8]) -> Result<StreamChunk> {
        Err(Error::failed("the stream has been read already"))
    }

    fn bytes_read(&self) -> u64 {
        0
    }
}

/// Bytes that one permit stands for.
const PERMIT_LEN: u64 = 4096;

/// Chunks that may wait for their turn; memory is bounded by permits, this only bounds zeros.
const QUEUE_LEN: usize = 64;

/// Bytes of a buffer for encoded data: a chunk of incompressible clusters with what a format adds to
/// each; what is longer gets a buffer of its own.
const ENCODED_LEN: u64 = CHUNK_LEN + (256 << 10);
