use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use md5::{Digest as _, Md5};
use object_store::{
    MultipartId, PutPayload, PutResult,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use vmferry_formats::plan::Slot;

use super::*;
use crate::{
    error::{Error, Result},
    sink::{Durable, Sink},
};

type Answer<'a, T> = Pin<Box<dyn Future<Output = object_store::Result<T>> + Send + 'a>>;

/// A store that remembers what it was sent, and misbehaves as told.
#[derive(Debug, Default)]
struct Parts {
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    parts: BTreeMap<usize, Bytes>,
    /// Numbers of the parts in the order in which they came.
    order: Vec<usize>,
    /// How often a part is answered with an error, or with another checksum.
    failing: HashMap<usize, usize>,
    damaged: HashMap<usize, usize>,
    /// Answers a constant that looks like a checksum.
    constant: bool,
    /// How often a part is never answered.
    hanging: HashMap<usize, usize>,
    /// The client panics over this part.
    panics: Option<usize>,
    at_once: usize,
    most_at_once: usize,
}

impl Parts {
    async fn put(&self, index: usize, data: PutPayload) -> object_store::Result<PartId> {
        let number = index + 1;
        {
            let mut seen = self.state.lock().unwrap();
            seen.at_once += 1;
            seen.most_at_once = seen.most_at_once.max(seen.at_once);
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        if self.hangs(number) {
            std::future::pending::<()>().await;
        }
        let mut seen = self.state.lock().unwrap();
        seen.at_once -= 1;
        seen.order.push(number);
        if seen.panics == Some(number) {
            drop(seen);
            panic!("over part {number}");
        }
        if let Some(left) = seen.failing.get_mut(&number).filter(|left| **left > 0) {
            *left -= 1;
            return Err(object_store::Error::Generic { store: "test", source: "it is on fire".into() });
        }
        let mut bytes: Vec<u8> = data.iter().flatten().copied().collect();
        if let Some(left) = seen.damaged.get_mut(&number).filter(|left| **left > 0) {
            *left -= 1;
            let turn = u8::try_from(*left).unwrap();
            bytes[0] ^= 1 + turn;
        }
        let digest: String = Md5::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        seen.parts.insert(number, bytes.into());
        let content_id = if seen.constant {
            "\"0123456789abcdef0123456789abcdef\"".into()
        } else {
            format!("\"{digest}\"")
        };
        Ok(PartId { content_id })
    }

    fn hangs(&self, number: usize) -> bool {
        let mut seen = self.state.lock().unwrap();
        let left = seen.hanging.entry(number).or_default();
        let hangs = *left > 0;
        *left = left.saturating_sub(1);
        hangs
    }

    fn object(&self) -> Vec<u8> {
        let seen = self.state.lock().unwrap();
        let last = seen.parts.keys().max().copied().unwrap_or(0);
        (1..=last).flat_map(|number| seen.parts[&number].to_vec()).collect()
    }
}

impl MultipartStore for Parts {
    fn create_multipart<'a, 'b, 'c>(&'a self, _: &'b Path) -> Answer<'c, MultipartId>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async { Ok("upload".into()) })
    }

    fn put_part<'a, 'b, 'c, 'd>(
        &'a self,
        _: &'b Path,
        _: &'c MultipartId,
        index: usize,
        data: PutPayload,
    ) -> Answer<'d, PartId>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
        Self: 'd,
    {
        Box::pin(self.put(index, data))
    }

    fn complete_multipart<'a, 'b, 'c, 'd>(
        &'a self,
        _: &'b Path,
        _: &'c MultipartId,
        _: Vec<PartId>,
    ) -> Answer<'d, PutResult>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
        Self: 'd,
    {
        Box::pin(async {
            Err(object_store::Error::NotImplemented { operation: String::new(), implementer: String::new() })
        })
    }

    fn abort_multipart<'a, 'b, 'c, 'd>(&'a self, _: &'b Path, _: &'c MultipartId) -> Answer<'d, ()>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
        Self: 'd,
    {
        Box::pin(async { Ok(()) })
    }
}

fn target(parts: &Arc<Parts>) -> PartTarget {
    PartTarget {
        store: Arc::clone(parts) as Arc<dyn MultipartStore>,
        path: Path::from("key"),
        upload: "upload".into(),
        name: "s3://bucket/key".into(),
        answers_md5: true,
        rate: None,
        patience: Arc::new(|_| std::time::Duration::from_secs(2)),
        explain: Arc::new(|error| Error::failed("the store failed").with_source(error)),
    }
}

/// Parts of a KiB and more: nothing else depends on their lengths.
fn schedule() -> Schedule {
    Schedule { first: 1024, equal: 5, step: 512, longest: 8192, parts: 9900 }
}

/// One operation on an output, and what it makes of its bytes.
#[derive(Clone, Debug)]
enum Act {
    Append(Vec<u8>),
    Skip(u64),
    Reserve(u32, u64),
    Fill(u32, u64, Vec<u8>),
    Settle,
}

/// Operations by chance: `seed` decides.
fn acts(seed: u64) -> Vec<Act> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let len = |len: u64| usize::try_from(len).unwrap();
    let front = 100 + next(200);
    let (mut acts, mut position) = (vec![Act::Reserve(0, front), Act::Settle], front);
    let mut open: Option<(u32, u64)> = None;
    for slot in 1..60 {
        let byte = u8::try_from(slot).unwrap();
        match next(6) {
            0 => {
                let len = next(3000);
                acts.push(Act::Skip(len));
                position += len;
            }
            1 if open.is_none() => {
                // A header of an archive: it lies in one part.
                let pad = position.next_multiple_of(512) - position;
                acts.extend([Act::Skip(pad), Act::Reserve(slot, 64)]);
                position += pad + 64;
                open = Some((slot, 64));
            }
            2 => {
                if let Some((slot, len)) = open.take() {
                    acts.push(Act::Fill(slot, 0, vec![0xf0; 30]));
                    acts.push(Act::Fill(slot, 30, vec![0xf1; usize::try_from(len - 30).unwrap()]));
                }
            }
            _ => {
                let bytes = next(2500) + 1;
                acts.push(Act::Append(vec![byte; len(bytes)]));
                position += bytes;
            }
        }
        acts.push(Act::Settle);
    }
    acts.push(Act::Fill(0, 10, vec![0xaa; 50]));
    acts
}

/// What the output must be.
fn expected(acts: &[Act]) -> Vec<u8> {
    let (mut out, mut slots) = (Vec::new(), HashMap::new());
    for act in acts {
        match act {
            Act::Append(bytes) => out.extend_from_slice(bytes),
            Act::Skip(len) => out.resize(out.len() + usize::try_from(*len).unwrap(), 0),
            Act::Reserve(slot, len) => {
                slots.insert(*slot, out.len());
                out.resize(out.len() + usize::try_from(*len).unwrap(), 0);
            }
            Act::Fill(slot, at, bytes) => {
                let start = slots[slot] + usize::try_from(*at).unwrap();
                out[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Act::Settle => {}
        }
    }
    out
}

fn perform(sink: &mut ObjectSink, act: &Act) -> Result<()> {
    match act {
        Act::Append(bytes) => {
            sink.begin_batch(bytes.len() as u64, bytes.len() as u64 * 3);
            sink.append(&[Bytes::from(bytes.clone())])
        }
        Act::Skip(len) => sink.skip(*len),
        Act::Reserve(slot, len) => sink.reserve(Slot(*slot), *len),
        Act::Fill(slot, at, bytes) => sink.fill(Slot(*slot), *at, &Bytes::from(bytes.clone())),
        Act::Settle => sink.settle(),
    }
}

/// Runs what blocks where it may.
fn blocking<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::task::spawn_blocking(body).await.unwrap() })
}

fn pins(directory: &tempfile::TempDir) -> PinsFile {
    PinsFile::beside(&directory.path().join("journal"))
}

#[test]
fn an_object_is_what_the_operations_say_and_its_front_comes_last() {
    for seed in 0..20 {
        let (parts, acts) = (Arc::new(Parts::default()), acts(seed));
        let out = expected(&acts);
        let directory = tempfile::tempdir().unwrap();
        let (store, file) = (Arc::clone(&parts), pins(&directory));
        blocking(move || {
            let mut sink = ObjectSink::new(target(&store), schedule(), file);
            let sync = sink.data_sync().unwrap();
            acts.iter().for_each(|act| perform(&mut sink, act).unwrap());
            sink.finish().unwrap();
            sync.sync().unwrap();
            assert_eq!(sync.acknowledged().len(), store.state.lock().unwrap().parts.len());
        });
        assert_eq!(parts.object(), out, "seed {seed}");
        let order = parts.state.lock().unwrap().order.clone();
        let first = order.iter().position(|&number| number == 1).unwrap();
        assert!(first + 8 >= order.len(), "seed {seed}: {order:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no record, no pins");
    }
}

#[test]
fn an_output_that_is_cut_off_goes_on_where_its_last_record_stands() {
    for seed in 0..60 {
        let (parts, acts) = (Arc::new(Parts::default()), acts(seed));
        let out = expected(&acts);
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let store = Arc::clone(&parts);
        let sent_below = blocking(move || cut_off_and_go_on(seed, &store, &acts, &journal));
        assert_eq!(parts.object(), out, "seed {seed}");
        let order = parts.state.lock().unwrap().order.clone();
        for number in sent_below {
            let sent = order.iter().filter(|&&sent| sent == usize::try_from(number).unwrap()).count();
            assert_eq!(sent, 1, "seed {seed}: part {number} was sent twice: {order:?}");
        }
    }
}

/// Ends a run somewhere, takes it up at its last record, and ends it. Gives the parts that must have
/// been sent once.
fn cut_off_and_go_on(seed: u64, store: &Arc<Parts>, acts: &[Act], journal: &std::path::Path) -> Vec<u32> {
    let mut sink = ObjectSink::new(target(store), schedule(), PinsFile::beside(journal));
    let sync = sink.data_sync().unwrap();
    let settled: Vec<usize> =
        acts.iter().enumerate().filter(|(_, act)| matches!(act, Act::Settle)).map(|(at, _)| at).collect();
    let turn = usize::try_from(seed).unwrap();
    // Records at every fifth place, the last one of them some way before the end.
    let cut = settled[(turn * 7 + 11) % settled.len()];
    let (mut record, mut known) = (None, BTreeMap::new());
    for (index, act) in acts[..=cut].iter().enumerate() {
        perform(&mut sink, act).unwrap();
        if settled.contains(&index) && (index + turn).is_multiple_of(5) {
            let Durable::Until { out, pins } = sync.sync().unwrap() else { panic!("it was settled") };
            known.extend(sync.acknowledged().into_iter().map(|part| (part.part, part)));
            record = Some((index, out, pins));
        }
    }
    // What was on its way may arrive or not; the journal may hear of it or not.
    if seed.is_multiple_of(2) {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
        known.extend(sync.acknowledged().into_iter().map(|part| (part.part, part)));
    }
    drop((sink, sync));
    let Some((index, out, pins)) = record else {
        // Nothing to go on with.
        let mut sink = ObjectSink::new(target(store), schedule(), PinsFile::beside(journal));
        finish(&mut sink, acts);
        return Vec::new();
    };
    let pinned: Vec<u32> = pins.iter().map(|pin| pin.part).collect();
    let below =
        known.keys().copied().filter(|&part| schedule().start(part + 1) <= out && !pinned.contains(&part));
    let below = below.collect();
    let earlier = Earlier { parts: known, pins };
    let mut sink =
        ObjectSink::restore(target(store), schedule(), PinsFile::beside(journal), out, earlier).unwrap();
    let mut position = 0;
    for act in &acts[..=index] {
        match act {
            Act::Append(bytes) => position += bytes.len() as u64,
            Act::Skip(len) => position += len,
            Act::Reserve(slot, len) => {
                sink.restore_slot(Slot(*slot), position, *len);
                position += len;
            }
            Act::Fill(slot, at, bytes) => {
                sink.restore_fill(Slot(*slot), *at, &Bytes::from(bytes.clone())).unwrap();
            }
            Act::Settle => {}
        }
    }
    assert_eq!(position, out);
    sink.go_on().unwrap();
    finish(&mut sink, &acts[index + 1..]);
    below
}

fn finish(sink: &mut ObjectSink, acts: &[Act]) {
    acts.iter().for_each(|act| perform(sink, act).unwrap());
    sink.finish().unwrap();
    sink.data_sync().unwrap().sync().unwrap();
}

fn run_with(seen: Seen) -> (Arc<Parts>, Result<()>) {
    let parts = Arc::new(Parts { state: Mutex::new(seen) });
    let store = Arc::clone(&parts);
    let result = blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = ObjectSink::new(target(&store), schedule(), pins(&directory));
        let sync = sink.data_sync().unwrap();
        let bytes = Bytes::from(vec![7; 20_000]);
        sink.append(&[bytes])?;
        sink.finish()?;
        sync.sync().map(drop)
    });
    (parts, result)
}

#[test]
fn parts_that_fail_or_arrive_as_others_are_sent_again() {
    let seen = Seen { failing: [(2, 2)].into(), damaged: [(3, 2)].into(), ..Seen::default() };
    let (parts, result) = run_with(seen);
    result.unwrap();
    assert_eq!(parts.object(), vec![7; 20_000]);
    let seen = parts.state.lock().unwrap();
    let sent = |number| seen.order.iter().filter(|&&sent| sent == number).count();
    assert_eq!((sent(1), sent(2), sent(3)), (1, 3, 3));
    assert!(seen.most_at_once > 1 && seen.most_at_once <= 8);
}

#[test]
fn a_part_that_never_arrives_ends_the_run() {
    for (seen, text) in [
        (Seen { failing: [(4, 99)].into(), ..Seen::default() }, "on fire"),
        (Seen { damaged: [(4, 99)].into(), ..Seen::default() }, "not what was sent"),
    ] {
        let (_, result) = run_with(seen);
        let error = result.unwrap_err();
        assert!(error.to_string().starts_with("part 4: ") && error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_part_that_is_not_answered_is_sent_again() {
    let (parts, result) = run_with(Seen { hanging: [(2, 1)].into(), ..Seen::default() });
    result.unwrap();
    assert_eq!(parts.object(), vec![7; 20_000]);
}

#[test]
fn a_part_that_the_client_panics_over_ends_the_run() {
    let (_, result) = run_with(Seen { panics: Some(3), ..Seen::default() });
    assert_eq!(result.unwrap_err().to_string(), "sending part 3 panicked");
}

#[test]
fn a_store_whose_answers_are_no_checksums_is_believed() {
    let (parts, result) = run_with(Seen { constant: true, ..Seen::default() });
    result.unwrap();
    assert_eq!(parts.object(), vec![7; 20_000]);
}

#[test]
fn an_output_of_nothing_has_an_empty_part() {
    let parts = Arc::new(Parts::default());
    let store = Arc::clone(&parts);
    blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        finish(&mut ObjectSink::new(target(&store), schedule(), pins(&directory)), &[]);
    });
    assert_eq!(parts.state.lock().unwrap().order, [1]);
    assert!(parts.object().is_empty());
}

#[test]
fn layouts_that_fill_in_too_much_late_and_outputs_that_are_too_long_are_refused() {
    let parts = Arc::new(Parts::default());
    blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = ObjectSink::new(target(&parts), schedule(), pins(&directory));
        let error = sink.reserve(Slot(0), 5000).unwrap_err();
        assert!(error.to_string().contains("filled in late"), "{error}");
        let few = Schedule { parts: 3, ..schedule() };
        let mut sink = ObjectSink::new(target(&parts), few, pins(&directory));
        sink.skip(3072).unwrap();
        let error = sink.skip(1).unwrap_err();
        assert!(error.hint().unwrap().contains("--part-size"), "{error}");
    });
}

#[test]
fn no_record_rests_on_an_end_whose_last_part_is_short() {
    let parts = Arc::new(Parts::default());
    blocking(move || {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = ObjectSink::new(target(&parts), schedule(), pins(&directory));
        let sync = sink.data_sync().unwrap();
        sink.append(&[Bytes::from(vec![1; 1500])]).unwrap();
        sink.settle().unwrap();
        let Durable::Until { out: 1500, pins } = sync.sync().unwrap() else { panic!("it was settled") };
        assert_eq!(pins.len(), 1);
        sink.finish().unwrap();
        assert_eq!(sync.sync().unwrap(), Durable::Nothing);
        assert_eq!(parts.object(), vec![1; 1500], "all of it is with the store all the same");
    });
}
