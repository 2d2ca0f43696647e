//! The data path over stores and sinks that live in memory: whatever the source looks like, the
//! output is that of the plain in-memory driver of the formats crate.

mod durability;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    Compression, FormatWriter, WriterSpec,
    chunk::CHUNK_LEN,
    deflate::Level,
    digest::{Algorithm, tree_digest},
    plan::Slot,
    qcow2::Qcow2Options,
    raw::RawOptions,
    testkit::{self, Rng},
};

use super::{
    Checker,
    buffer::Buffer,
    converter::{Converter, OpenDisk},
    engine::{Engine, EngineOptions},
    journal::DiskEnd,
    layout::Layout,
    output::{CommitPolicy, Output, OutputEnd, OutputState},
    progress::Progress,
    stages::{DigestStage, DiskChecks, Tree, VerifyStage},
};
use crate::{
    error::{Error, ErrorKind, Result},
    pipeline::{journal::JournalReader, process::Check, stages::ExpectedChecks},
    sink::{DataSync, Sink},
    source::{
        BoxFuture, ByteStore, ByteStream, RawPlan, ReadRange, Restart, Source, SourceIdentity, StoreExtent,
        StreamChunk,
    },
};

/// A disk in memory whose reads come back late, in any order, or not at all.
struct MemoryStore {
    disk: Vec<u8>,
    /// Ranges that the store says are zero.
    holes: Vec<Range<u64>>,
    fails_at: Option<u64>,
    stalls_at: Option<u64>,
    delays: bool,
    changes: bool,
    reads: AtomicUsize,
}

impl MemoryStore {
    fn new(disk: Vec<u8>) -> Self {
        Self {
            disk,
            holes: Vec::new(),
            fails_at: None,
            stalls_at: None,
            delays: false,
            changes: false,
            reads: AtomicUsize::new(0),
        }
    }

    /// Says of all long runs of zeros that they are holes, at odd boundaries.
    fn with_holes(mut self, least: usize) -> Self {
        let mut at = 0;
        while at < self.disk.len() {
            let zeros = self.disk[at..].iter().take_while(|&&byte| byte == 0).count();
            if zeros >= least {
                self.holes.push(at as u64..(at + zeros) as u64);
            }
            at += zeros.max(1);
        }
        self
    }
}

impl ByteStore for MemoryStore {
    fn name(&self) -> String {
        "memory".into()
    }

    fn size(&self) -> u64 {
        self.disk.len() as u64
    }

    fn identity(&self) -> Option<SourceIdentity> {
        None
    }

    fn extent_at(&self, offset: u64) -> Result<StoreExtent> {
        Ok(match self.holes.iter().find(|hole| hole.end > offset) {
            Some(hole) if hole.start <= offset => StoreExtent::Zero(offset..hole.end),
            Some(hole) => StoreExtent::Data(offset..hole.start),
            None => StoreExtent::Data(offset..self.size()),
        })
    }

    fn read(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        mut buffer: Buffer,
    ) -> BoxFuture<'static, Result<Buffer>> {
        Box::pin(async move {
            let turn = self.reads.fetch_add(1, SeqCst);
            if self.delays {
                tokio::time::sleep(Duration::from_micros((turn as u64 * 7919) % 3000)).await;
            }
            for read in reads {
                let range = read.offset..read.offset + read.len as u64;
                if self.stalls_at.is_some_and(|at| range.contains(&at)) {
                    std::future::pending::<()>().await;
                }
                if self.fails_at.is_some_and(|at| range.contains(&at)) {
                    return Err(Error::failed("the disk is broken here"));
                }
                assert!(
                    self.holes.iter().all(|hole| hole.end <= range.start || range.end <= hole.start),
                    "{range:?} reads a hole"
                );
                let start = usize::try_from(read.offset).unwrap();
                buffer[read.at..read.at + read.len].copy_from_slice(&self.disk[start..start + read.len]);
            }
            Ok(buffer)
        })
    }

    fn concurrency(&self) -> usize {
        64
    }

    fn check_unchanged(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        let changed = || Error::new(ErrorKind::SourceChanged, "somebody wrote to the disk");
        Box::pin(std::future::ready(if self.changes { Err(changed()) } else { Ok(()) }))
    }
}

/// The same disk as a stream that delivers pieces with holes.
struct MemoryStream {
    disk: Vec<u8>,
    at: usize,
    tells_size: bool,
}

impl ByteStream for MemoryStream {
    fn name(&self) -> String {
        "memory stream".into()
    }

    fn size(&self) -> Option<u64> {
        self.tells_size.then_some(self.disk.len() as u64)
    }

    fn identity(&self) -> Option<SourceIdentity> {
        None
    }

    fn restart(&self) -> Restart {
        Restart::Never
    }

    fn next_chunk(&mut self, buffer: &mut [u8]) -> Result<StreamChunk> {
        let rest = &self.disk[self.at..];
        if rest.is_empty() {
            return Ok(StreamChunk::End);
        }
        let zeros = rest.chunks(buffer.len()).take_while(|chunk| chunk.iter().all(|&byte| byte == 0));
        let zeros: usize = zeros.map(<[u8]>::len).sum();
        if zeros > 0 {
            self.at += zeros;
            return Ok(StreamChunk::Zero { len: zeros as u64 });
        }
        let len = rest.len().min(buffer.len());
        let mut holes = Vec::new();
        for (index, part) in rest[..len].chunks(10_000).enumerate() {
            let range = index * 10_000..index * 10_000 + part.len();
            if part.iter().all(|&byte| byte == 0) {
                holes.push(range);
            } else {
                buffer[range].copy_from_slice(part);
            }
        }
        self.at += len;
        Ok(StreamChunk::Data { len, holes })
    }

    fn bytes_read(&self) -> u64 {
        self.at as u64
    }
}

/// An output in memory, full of old bytes where nothing was written; may fail at operation N.
#[derive(Clone, Default)]
struct MemorySink {
    shared: Arc<Mutex<SinkState>>,
}

#[derive(Default)]
struct SinkState {
    bytes: Vec<u8>,
    slots: Vec<(Slot, usize)>,
    operations: usize,
    fails_at: Option<usize>,
    finished: bool,
}

impl MemorySink {
    fn step(&self) -> Result<std::sync::MutexGuard<'_, SinkState>> {
        let mut state = self.shared.lock().unwrap();
        state.operations += 1;
        if state.fails_at == Some(state.operations) {
            return Err(Error::failed("no space left"));
        }
        Ok(state)
    }
}

impl Sink for MemorySink {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        let mut state = self.step()?;
        pieces.iter().for_each(|piece| state.bytes.extend_from_slice(piece));
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        let mut state = self.step()?;
        let len = state.bytes.len() + usize::try_from(len).unwrap();
        state.bytes.resize(len, 0);
        Ok(())
    }

    fn reserve(&mut self, slot: Slot, len: u64) -> Result<()> {
        let start = self.shared.lock().unwrap().bytes.len();
        self.shared.lock().unwrap().slots.push((slot, start));
        self.skip(len)
    }

    fn fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()> {
        let mut state = self.step()?;
        let start =
            state.slots.iter().find(|(name, _)| *name == slot).unwrap().1 + usize::try_from(at).unwrap();
        state.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.step()?.finished = true;
        Ok(())
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        None
    }
}

fn specs() -> Vec<WriterSpec> {
    let qcow2 = |cluster_bits, compression| {
        WriterSpec::Qcow2(Qcow2Options { cluster_bits, compression, level: Level::Fast })
    };
    vec![
        WriterSpec::Raw(RawOptions {}),
        qcow2(16, Compression::None),
        qcow2(9, Compression::None),
        qcow2(21, Compression::None),
        qcow2(16, Compression::Deflate),
        qcow2(12, Compression::Deflate),
        qcow2(21, Compression::Zstd),
        WriterSpec::Vmdk(Default::default()),
    ]
}

struct Outcome {
    image: Vec<u8>,
    ended: DiskEnd,
    finished: bool,
}

fn options(workers: usize) -> EngineOptions {
    EngineOptions {
        workers: Some(workers),
        memory: 96 << 20,
        progress: Progress::default(),
        cancel: CancellationToken::new(),
    }
}

fn random(store: MemoryStore) -> Source {
    Source::Random(Box::new(RawPlan::new(Arc::new(store))))
}

async fn convert(mut source: Source, spec: &WriterSpec, workers: usize, sink: MemorySink) -> Result<Outcome> {
    let size = source.size();
    let writer = spec.writer(size, "disk").unwrap();
    let engine =
        Engine::new(&source, Some(&*writer), Checker::new(Some(Algorithm::Sha256)), None, options(workers))?;
    let policy = CommitPolicy { bytes: 1 << 20, interval: Duration::from_secs(1) };
    let output =
        Output::start(Box::new(sink.clone()), OutputState::default(), None, policy, Progress::default())?;
    let tree = Tree::new(Some(Algorithm::Sha256), size);
    let (_, ended) = write(&engine, &mut source, writer, output, tree, is_raw(spec)).await;
    let state = sink.shared.lock().unwrap();
    ended.map(|ended| Outcome { image: state.bytes.clone(), ended, finished: state.finished })
}

fn is_raw(spec: &WriterSpec) -> bool {
    matches!(spec, WriterSpec::Raw(_))
}

/// Writes a plain image; what failed under the run is its error.
async fn write(
    engine: &Engine,
    source: &mut Source,
    writer: Box<dyn FormatWriter>,
    output: Output,
    tree: Tree,
    is_raw: bool,
) -> (OutputEnd, Result<DiskEnd>) {
    let mut converter = Converter::new(Layout::new(None), output);
    let run = async {
        converter.begin_disk(OpenDisk { tree, is_raw, ..OpenDisk::default() }, writer).await?;
        let size = engine.run(source, 0, 0, &mut converter).await?;
        converter.end_disk(size).await
    };
    let run = run.await;
    let (end, written) = converter.end(run.is_ok()).await;
    (end, written.and(run))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn sizes() -> Vec<usize> {
    let chunk = usize::try_from(CHUNK_LEN).unwrap();
    vec![
        0,
        1,
        511,
        512,
        513,
        65_535,
        65_536,
        65_537,
        chunk - 1,
        chunk,
        chunk + 1,
        chunk + 512,
        3 * chunk + 700,
    ]
}

#[test]
fn every_source_and_worker_count_gives_the_bytes_of_the_plain_driver() {
    let runtime = runtime();
    for (index, size) in sizes().into_iter().enumerate() {
        let disk = testkit::disk(index as u64, size);
        let tree = tree_digest(Algorithm::Sha256, &disk);
        for spec in specs() {
            let announced = testkit::write_image(&spec, &disk, "disk", true);
            let Ok(expected) = announced else {
                assert_eq!(size, 0, "{spec}");
                continue;
            };
            let store = || MemoryStore::new(disk.clone());
            let late = |mut store: MemoryStore| {
                store.delays = true;
                store
            };
            let sources = [
                (1, random(store())),
                (2, random(store().with_holes(1))),
                (5, random(late(store().with_holes(5000)))),
                (2, Source::Stream(Box::new(MemoryStream { disk: disk.clone(), at: 0, tells_size: true }))),
            ];
            for (workers, source) in sources {
                let outcome =
                    runtime.block_on(convert(source, &spec, workers, MemorySink::default())).unwrap();
                assert!(outcome.image == expected, "{spec}, {size} bytes, {workers} workers");
                assert!(outcome.finished);
                assert_eq!(outcome.ended.tree, Some(tree.to_string()), "{spec}, {size} bytes");
                assert_eq!(outcome.ended.out, expected.len() as u64);
            }
            let source =
                Source::Stream(Box::new(MemoryStream { disk: disk.clone(), at: 0, tells_size: false }));
            let outcome = runtime.block_on(convert(source, &spec, 2, MemorySink::default())).unwrap();
            let expected = testkit::write_image(&spec, &disk, "disk", false).unwrap();
            assert!(outcome.image == expected, "{spec}, {size} bytes, size unknown");
            assert_eq!(outcome.ended.tree, Some(tree.to_string()));
        }
    }
}

#[test]
fn an_error_of_the_source_comes_behind_the_chunks_before_it() {
    let disk: Vec<u8> = std::iter::repeat_n(7, 5 << 22).collect();
    let mut store = MemoryStore::new(disk);
    store.fails_at = Some(13 << 20);
    store.delays = true;
    let sink = MemorySink::default();
    let error = runtime().block_on(convert(random(store), &WriterSpec::Raw(RawOptions {}), 2, sink.clone()));
    assert_eq!(error.err().unwrap().to_string(), "the disk is broken here");
    assert_eq!(sink.shared.lock().unwrap().bytes.len(), 12 << 20, "three whole chunks are placed");
    assert!(!sink.shared.lock().unwrap().finished);
}

#[test]
fn a_source_that_changed_meanwhile_is_no_success() {
    let mut store = MemoryStore::new(testkit::disk(8, 9 << 20));
    store.changes = true;
    let sink = MemorySink::default();
    let run = convert(random(store), &WriterSpec::Raw(RawOptions {}), 2, sink.clone());
    assert_eq!(runtime().block_on(run).err().unwrap().kind(), ErrorKind::SourceChanged);
    assert!(!sink.shared.lock().unwrap().finished);
}

#[test]
fn a_sink_that_fails_at_any_operation_ends_the_run_with_its_error() {
    let disk = testkit::disk(5, 9 << 20);
    let runtime = runtime();
    for spec in [WriterSpec::Raw(RawOptions {}), specs().remove(4)] {
        let whole = MemorySink::default();
        runtime.block_on(convert(random(MemoryStore::new(disk.clone())), &spec, 2, whole.clone())).unwrap();
        let operations = whole.shared.lock().unwrap().operations;
        for at in (1..=operations).step_by(operations.div_ceil(40)) {
            let sink = MemorySink::default();
            sink.shared.lock().unwrap().fails_at = Some(at);
            let run =
                runtime.block_on(convert(random(MemoryStore::new(disk.clone())), &spec, 2, sink.clone()));
            assert_eq!(
                run.err().unwrap().to_string(),
                "no space left",
                "{spec}, operation {at} of {operations}"
            );
            assert!(!sink.shared.lock().unwrap().finished);
        }
    }
}

#[test]
fn cancelling_ends_a_stalled_run_and_keeps_what_is_contiguous() {
    let mut store = MemoryStore::new(vec![9; 6 << 22]);
    store.stalls_at = Some(9 << 20);
    let mut source = random(store);
    let spec = WriterSpec::Raw(RawOptions {});
    let writer = spec.writer(Some(6 << 22), "disk").unwrap();
    let options = options(2);
    let (cancel, progress) = (options.cancel.clone(), options.progress.clone());
    let engine = Engine::new(&source, Some(&*writer), Checker::new(None), None, options).unwrap();
    runtime().block_on(async {
        let sink = MemorySink::default();
        let policy = CommitPolicy { bytes: 1 << 20, interval: Duration::from_secs(1) };
        let output =
            Output::start(Box::new(sink.clone()), OutputState::default(), None, policy, Progress::default())
                .unwrap();
        tokio::spawn(async move {
            while progress.snapshot().done < 8 << 20 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            cancel.cancel();
        });
        let (_, ended) = write(&engine, &mut source, writer, output, Tree::default(), true).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Interrupted);
        assert_eq!(sink.shared.lock().unwrap().bytes.len(), 8 << 20);
    });
}

#[test]
fn digests_agree_with_the_definition_whatever_the_map_says() {
    let runtime = runtime();
    for size in sizes() {
        let disk = testkit::disk(size as u64 + 99, size);
        for (algorithm, least) in [(Algorithm::Sha256, 1), (Algorithm::Blake3, 700)] {
            let mut source = random(MemoryStore::new(disk.clone()).with_holes(least));
            let engine = Engine::new(&source, None, Checker::new(Some(algorithm)), None, options(3)).unwrap();
            let mut stage = DigestStage { tree: Tree::new(Some(algorithm), Some(size as u64)), zero: 0 };
            runtime.block_on(engine.run(&mut source, 0, 0, &mut stage)).unwrap();
            assert_eq!(stage.tree.finish(size as u64), Some(tree_digest(algorithm, &disk)), "{size} bytes");
        }
    }
}

/// What a journal of the disk would expect.
struct Expected(Vec<(u64, u64, Check)>);

impl ExpectedChecks for Expected {
    fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>> {
        Ok(if self.0.is_empty() { None } else { Some(self.0.remove(0)) })
    }
}

fn expected(disk: &[u8]) -> Expected {
    let checker = vmferry_formats::digest::ChunkHasher::new(Algorithm::Sha256);
    let mut content = disk.to_vec();
    content.resize(disk.len().next_multiple_of(512), 0);
    let chunk_len = usize::try_from(CHUNK_LEN).unwrap();
    let chunks = content.chunks(chunk_len).enumerate().map(|(index, chunk)| {
        let digest = checker.chunk(chunk.chunks(65536).map(|leaf| checker.leaf(leaf)));
        (index as u64 * CHUNK_LEN, chunk.len() as u64, Check::Digest(digest))
    });
    Expected(chunks.collect())
}

fn verify(disk: &[u8], expected: Expected, content: u64, holes: bool) -> Result<()> {
    let store = MemoryStore::new(disk.to_vec());
    let mut source = random(if holes { store.with_holes(1) } else { store });
    let checker = Checker::new(Some(Algorithm::Sha256));
    let engine = Engine::new(&source, None, checker, Some(content), options(2)).unwrap();
    let mut stage = VerifyStage::new(Box::new(expected), content);
    let size = runtime().block_on(engine.run(&mut source, 0, 0, &mut stage)).unwrap();
    stage.finish("disk", size)
}

#[test]
fn verify_finds_any_flipped_byte_and_only_that() {
    let mut rng = Rng::new(3);
    for size in [513, 65_536, (9 << 20) + 512] {
        let disk = testkit::disk(1, size);
        let content = (size as u64).next_multiple_of(512);
        verify(&disk, expected(&disk), content, true).unwrap();
        for _ in 0..12 {
            let mut flipped = disk.clone();
            let at = usize::try_from(rng.below(size as u64)).unwrap();
            flipped[at] ^= 1 << rng.below(8);
            let error = verify(&flipped, expected(&disk), content, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Verification);
            let chunk = at as u64 / CHUNK_LEN * CHUNK_LEN;
            assert!(error.to_string().ends_with(&format!("bytes {chunk:#x}")), "{error} for byte {at}");
        }
    }
}

#[test]
fn verify_demands_that_surplus_is_zero() {
    for (size, surplus) in [(1000, 3000), (4 << 20, 512), ((5 << 20) + 100, 11 << 20), (0, 4096)] {
        let disk = testkit::disk(2, size);
        let content = (size as u64).next_multiple_of(512);
        let mut larger = disk.clone();
        larger.resize(size.next_multiple_of(512) + surplus, 0);
        for holes in [false, true] {
            verify(&larger, expected(&disk), content, holes).unwrap();
            for at in [size.next_multiple_of(512), larger.len() - 1] {
                let mut stained = larger.clone();
                stained[at] = 1;
                let error = verify(&stained, expected(&disk), content, holes).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Verification, "{size} + {surplus}, byte {at}");
            }
        }
    }
    let disk = testkit::disk(4, 8192);
    assert!(verify(&disk[..4096], expected(&disk), 8192, false).is_err(), "too short");
}

#[test]
fn a_journal_without_chunks_expects_nothing() {
    assert_eq!(DiskChecks::new(JournalReader::new(&b""[..]), 0).next_run().unwrap(), None);
}

#[test]
fn every_writer_reports_the_same_unit_that_its_encoder_takes() {
    for spec in specs() {
        let writer: Box<dyn FormatWriter> = spec.writer(Some(1 << 20), "disk").unwrap();
        assert!(writer.unit_len().is_power_of_two());
        assert_eq!(usize::try_from(CHUNK_LEN).unwrap() % writer.unit_len(), 0);
    }
}
