//! The order of data, syncs and records: the journal never counts what a power cut could take back.

use std::path::{Path, PathBuf};

use super::*;
use crate::{
    pipeline::journal::{self, DiskHeader, Header, Journal, Record},
    sink::Durable,
};

/// A sink in memory that looks at the journal whenever it is synced.
struct WatchedSink {
    memory: MemorySink,
    watch: Arc<Watch>,
}

struct Watch {
    memory: MemorySink,
    journal: PathBuf,
    /// Bytes of output that the last good sync covers.
    durable: Mutex<u64>,
    syncs: AtomicUsize,
    fails_at: Option<usize>,
}

impl Watch {
    fn assert_nothing_early(&self) {
        let counted = counted(&self.journal);
        let durable = *self.durable.lock().unwrap();
        assert!(counted <= durable, "the journal counts {counted} bytes, {durable} are durable");
    }
}

/// Output bytes that a journal calls durable.
fn counted(journal: &Path) -> u64 {
    let summary = journal::Summary::read(std::fs::File::open(journal).unwrap()).unwrap();
    summary.and_then(|summary| summary.checkpoint).map_or(0, |point| point.out)
}

impl Sink for WatchedSink {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        self.memory.append(pieces)
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        self.memory.skip(len)
    }

    fn reserve(&mut self, slot: Slot, len: u64) -> Result<()> {
        self.memory.reserve(slot, len)
    }

    fn fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()> {
        self.memory.fill(slot, at, bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.memory.finish()
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        Some(Arc::clone(&self.watch) as Arc<dyn DataSync>)
    }
}

impl DataSync for Watch {
    fn sync(&self) -> Result<Durable> {
        let turn = self.syncs.fetch_add(1, SeqCst) + 1;
        self.assert_nothing_early();
        // What is written while a sync runs is not covered by it.
        let covered = self.memory.shared.lock().unwrap().bytes.len() as u64;
        let (_never, wait) = std::sync::mpsc::channel::<()>();
        let _ = wait.recv_timeout(Duration::from_millis(3));
        self.assert_nothing_early();
        if self.fails_at == Some(turn) {
            return Err(Error::failed("the disk lost what was written"));
        }
        *self.durable.lock().unwrap() = covered;
        Ok(Durable::All)
    }

    fn tail_crc(&self, end: u64, len: u64) -> Result<u32> {
        let state = self.memory.shared.lock().unwrap();
        let range = usize::try_from(end - len).unwrap()..usize::try_from(end).unwrap();
        Ok(crc32c::crc32c(&state.bytes[range]))
    }
}

/// Converts a disk with a journal and many checkpoints; gives the watch and how it ended.
fn run(spec: &WriterSpec, fails_at: Option<usize>, path: &Path) -> (Arc<Watch>, Result<()>) {
    run_disk(spec, testkit::disk(91, 40 << 20), fails_at, path)
}

fn run_disk(
    spec: &WriterSpec,
    disk: Vec<u8>,
    fails_at: Option<usize>,
    path: &Path,
) -> (Arc<Watch>, Result<()>) {
    let mut source = random(MemoryStore { delays: true, ..MemoryStore::new(disk) });
    let size = source.size();
    let writer = spec.writer(size, "disk").unwrap();
    let memory = MemorySink::default();
    let watch = Arc::new(Watch {
        memory: memory.clone(),
        journal: path.to_owned(),
        durable: Mutex::new(0),
        syncs: AtomicUsize::new(0),
        fails_at,
    });
    let mut journal = Journal::open(path).unwrap();
    let header = Header {
        version: journal::VERSION,
        name: "disk".into(),
        spec: spec.to_string(),
        digest: None,
        flat_sha256: false,
        disks: vec![DiskHeader { file: None, source: "memory".into(), identity: None, size }],
        container: None,
        object: None,
        encoder: writer.encoder_identity(),
        device: 0,
        inode: 0,
    };
    journal.append([Record::Header(Box::new(header))]).unwrap();
    let result = runtime().block_on(async {
        let checker = Checker::new(None);
        let engine = Engine::new(&source, Some(&*writer), checker, None, options(2)).unwrap();
        let policy = CommitPolicy { bytes: 1 << 20, interval: Duration::from_millis(20) };
        let sink = WatchedSink { memory, watch: Arc::clone(&watch) };
        let output =
            Output::start(Box::new(sink), OutputState::default(), Some(journal), policy, Progress::default())
                .unwrap();
        let tree = Tree::new(None, size);
        let (end, ended) = write(&engine, &mut source, writer, output, tree, is_raw(spec)).await;
        assert!(end.journal.is_some(), "the journal comes back");
        ended.map(drop)
    });
    (watch, result)
}

#[test]
fn records_are_written_only_behind_the_sync_that_covers_their_data() {
    let directory = tempfile::tempdir().unwrap();
    for (index, spec) in specs().iter().enumerate() {
        let path = directory.path().join(index.to_string());
        let (watch, result) = run(spec, None, &path);
        result.unwrap();
        watch.assert_nothing_early();
        assert!(watch.syncs.load(SeqCst) >= 3, "{spec}: the disk has several checkpoints");
        assert!(counted(&path) > 0, "{spec}");
    }
}

#[test]
fn a_failed_sync_ends_the_run_and_nothing_since_the_last_good_one_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let spec = WriterSpec::Qcow2(Qcow2Options::default());
    for fails_at in 1..=4 {
        let path = directory.path().join(fails_at.to_string());
        let (watch, result) = run(&spec, Some(fails_at), &path);
        let error = result.unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        watch.assert_nothing_early();
        assert_eq!(watch.syncs.load(SeqCst), fails_at, "a sync is not tried again");
        assert_eq!(counted(&path) > 0, fails_at > 1);
    }
}

#[test]
fn what_a_late_fill_may_change_is_not_part_of_a_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    // Nothing but the reserved header comes before the end of a disk of zeros.
    let spec = WriterSpec::Qcow2(Qcow2Options::default());
    let (watch, result) = run_disk(&spec, vec![0; 9 << 20], None, &path);
    result.unwrap();
    let summary = journal::Summary::read(std::fs::File::open(&path).unwrap()).unwrap().unwrap();
    let point = summary.checkpoint.unwrap();
    assert_eq!((point.at, point.out), (9 << 20, 65536));
    assert_eq!(
        watch.tail_crc(point.out, point.tail_len).unwrap(),
        point.tail_crc,
        "the header was filled since"
    );
}
