//! An upload on its way: parts that are sent, what the store has said, and what is durable of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use md5::{Digest as _, Md5};
use object_store::{MultipartId, PutPayload, multipart::MultipartStore, path::Path};
use tokio::{runtime::Handle, task::JoinSet};

use super::{
    PartRecord, PinRecord, Schedule,
    part::Part,
    pins::{PinCopies, PinsFile, Regions},
};
use crate::{
    error::{Error, ErrorKind, Result},
    sink::{DataSync, Durable},
    source::Rate,
};

/// Where parts are sent.
#[derive(Clone)]
pub(crate) struct PartTarget {
    pub(crate) store: Arc<dyn MultipartStore>,
    pub(crate) path: Path,
    pub(crate) upload: MultipartId,
    /// What people call the object.
    pub(crate) name: String,
    /// Whether what the store answers to a part should be the MD5 of its bytes.
    pub(crate) answers_md5: bool,
    pub(crate) rate: Option<Rate>,
    /// How long to wait for a part of so many bytes.
    pub(crate) patience: Arc<dyn Fn(u64) -> Duration + Send + Sync>,
    /// Makes an error of the store one of ours.
    pub(crate) explain: Arc<dyn Fn(object_store::Error) -> Error + Send + Sync>,
}

impl fmt::Debug for PartTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartTarget")
            .field("name", &self.name)
            .field("upload", &self.upload)
            .finish_non_exhaustive()
    }
}

/// An upload, shared by who fills parts and who makes them durable. Dropped, it ends what is on its way.
pub(super) struct Upload {
    pub(super) inner: Arc<Inner>,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
    pins: Mutex<PinsFile>,
    copies: Option<PinCopies>,
}

/// What the tasks share too.
pub(super) struct Inner {
    target: PartTarget,
    state: Mutex<State>,
    changed: Condvar,
}

/// How far an upload is.
#[derive(Debug)]
pub(super) struct State {
    pub(super) schedule: Schedule,
    /// Output bytes taken so far.
    pub(super) position: u64,
    /// Where the last record of the journal will end.
    pub(super) settled: u64,
    /// Nothing more will be taken.
    pub(super) ended: bool,
    /// The last part is complete, however short it is.
    pub(super) finished: bool,
    /// The part that is being filled.
    pub(super) filling: Option<Part>,
    /// Parts that are full but for late bytes.
    pub(super) pinned: Vec<Part>,
    pub(super) regions: Regions,
    /// Copies of pins that were made.
    copied: u32,
    /// Memory that all parts hold, in bytes.
    pub(super) held: u64,
    /// Numbers of the parts that are complete and not acknowledged.
    in_flight: BTreeSet<u32>,
    /// How many of these are being sent.
    sending: usize,
    /// Parts of earlier runs that the store has: kept if they are formed again as they were.
    earlier: BTreeMap<u32, PartRecord>,
    /// What the store has acknowledged since somebody asked.
    acknowledged: Vec<PartRecord>,
    /// Whether any answer was the MD5 of what was sent.
    answered_md5: Option<bool>,
    failure: Option<Failure>,
}

/// An error that may have to be told twice.
#[derive(Clone, Debug)]
struct Failure {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

impl Upload {
    pub(super) fn new(target: PartTarget, state: State, pins: PinsFile) -> Self {
        let inner = Inner { target, state: Mutex::new(state), changed: Condvar::new() };
        let (tasks, copies) = (Mutex::new(JoinSet::new()), pins.copies());
        Self { inner: Arc::new(inner), runtime: Handle::current(), tasks, pins: Mutex::new(pins), copies }
    }

    /// Waits until a part that [`State::complete`] was told of may be sent, and sends it.
    pub(super) fn dispatch(&self, part: Part) -> Result<()> {
        let mut state = self.inner.wait(|state| state.sending < MAX_UPLOADS)?;
        let (number, len, held) = (part.number, part.len, part.held);
        state.sending += 1;
        let earlier = state.earlier.remove(&number);
        drop(state);
        let (inner, pieces) = (Arc::clone(&self.inner), part.into_payload());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(
            async move {
                let sent = AssertUnwindSafe(inner.send(number, len, pieces, earlier)).catch_unwind().await;
                // Who waits for this part would wait for ever.
                let sent =
                    sent.unwrap_or_else(|_| Err(Error::failed(format!("sending part {number} panicked"))));
                inner.sent(number, held, sent);
            },
            &self.runtime,
        );
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`, or the upload has failed.
    pub(super) fn wait(&self, ready: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.error());
            }
            if ready(&state) {
                return Ok(state);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Says that something changed that somebody may wait for.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    pub(super) fn name(&self) -> &str {
        &self.target.name
    }

    /// Sends a part, unless an earlier run sent the same.
    async fn send(
        &self,
        number: u32,
        len: u64,
        pieces: Vec<Bytes>,
        earlier: Option<PartRecord>,
    ) -> Result<PartRecord> {
        let hashed = tokio::task::spawn_blocking(move || {
            let mut hash = Md5::new();
            pieces.iter().for_each(|piece| hash.update(piece));
            (hex(&hash.finalize()), pieces)
        });
        let (md5, pieces) =
            hashed.await.map_err(|error| Error::failed("hashing a part panicked").with_source(error))?;
        if let Some(earlier) = earlier.filter(|earlier| earlier.len == len && earlier.md5 == md5) {
            tracing::debug!(part = number, "the store has this part already");
            return Ok(earlier);
        }
        let payload: PutPayload = pieces.into_iter().collect();
        let (mut tries, mut before) = (0, None);
        loop {
            tries += 1;
            if let Some(rate) = &self.target.rate {
                rate.take(payload.content_length()).await;
            }
            let PartTarget { store, path, upload, .. } = &self.target;
            let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
            let put = store.put_part(path, upload, index, payload.clone());
            let put = tokio::time::timeout((self.target.patience)(len), put).await;
            let put = put.unwrap_or_else(|_| Err(no_answer()));
            let what = format!("part {number}: ");
            let error = match put {
                Ok(id) if self.answer_is_right(&id.content_id, &md5, before.as_deref()) => {
                    return Ok(PartRecord { part: number, len, id: id.content_id, md5 });
                }
                Ok(id) => {
                    before = Some(id.content_id);
                    Error::failed(format!("what arrived at {} is not what was sent", self.name()))
                        .with_hint(
                            "something between here and the store changes bytes; or the bucket encrypts by a key \
                             service, and answers differ: say --sse aws:kms then",
                        )
                        .prefixed(&what)
                }
                Err(error) if is_final(&error) => return Err((self.target.explain)(error).prefixed(&what)),
                Err(error) => (self.target.explain)(error).prefixed(&what),
            };
            if tries == PART_TRIES {
                return Err(error);
            }
            tracing::warn!(part = number, tries, "{error}; it is sent again");
            tokio::time::sleep(PAUSE * (1 << tries)).await;
        }
    }

    /// Whether the store's answer to a part says that it got what was sent. `before` is the answer to
    /// the same bytes that was taken for wrong.
    fn answer_is_right(&self, answer: &str, md5: &str, before: Option<&str>) -> bool {
        let answer = answer.trim_matches('"');
        let is_md5 = answer.len() == md5.len() && answer.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !self.target.answers_md5 || !is_md5 {
            return true;
        }
        let mut state = self.lock();
        if answer.eq_ignore_ascii_case(md5) {
            state.answered_md5 = Some(true);
            return true;
        }
        // A store that encrypts may answer something else that looks like it; it says the same twice.
        if state.answered_md5.is_none() && before.is_some_and(|before| before.trim_matches('"') == answer) {
            state.answered_md5 = Some(false);
            tracing::warn!("what {} answers to parts is not their MD5: it proves nothing", self.name());
        }
        state.answered_md5 == Some(false)
    }

    fn sent(&self, number: u32, held: u64, sent: Result<PartRecord>) {
        let mut state = self.lock();
        state.in_flight.remove(&number);
        state.sending -= 1;
        state.held = state.held.saturating_sub(held);
        match sent {
            Ok(record) => state.acknowledged.push(record),
            Err(error) => {
                state.failure.get_or_insert_with(|| Failure::of(&error));
            }
        }
        drop(state);
        self.notify();
    }
}

impl State {
    /// An upload whose output has `position` bytes.
    pub(super) fn new(schedule: Schedule, position: u64, earlier: BTreeMap<u32, PartRecord>) -> Self {
        Self {
            schedule,
            position,
            settled: position,
            ended: false,
            finished: false,
            filling: None,
            pinned: Vec::new(),
            regions: Regions::default(),
            copied: 0,
            held: 0,
            in_flight: BTreeSet::new(),
            sending: 0,
            earlier,
            acknowledged: Vec::new(),
            answered_md5: None,
            failure: None,
        }
    }

    /// A part of an earlier run, which is not looked for any more.
    pub(super) fn take_earlier(&mut self, number: u32) -> Option<PartRecord> {
        self.earlier.remove(&number)
    }

    /// From here on a part waits for the store's word. To be said under the lock under which it was taken
    /// out of the state: a sync must find it in one place or the other.
    pub(super) fn complete(&mut self, part: &mut Part) {
        self.in_flight.insert(part.number);
        if let Some(pin) = part.pin.take() {
            self.regions.release(pin);
        }
    }

    /// Whether `more` bytes of memory may be held now. What is on its way makes room; if nothing is,
    /// waiting would not help.
    pub(super) fn has_room(&self, more: u64) -> bool {
        self.in_flight.is_empty() || self.held + more <= self.schedule.memory_at(self.position)
    }
}

impl DataSync for Upload {
    fn sync(&self) -> Result<Durable> {
        let mut state = self.inner.wait(|state| state.ended || state.settled == state.position)?;
        let on_their_way = state.in_flight.clone();
        if state.finished || state.settled != state.position {
            // The end was written already: the last part is sent, and what stood before it is gone from memory.
            drop(state);
            drop(self.inner.wait(|state| state.in_flight.is_disjoint(&on_their_way))?);
            return Ok(Durable::Nothing);
        }
        let out = state.position;
        let unneeded = state.regions.age();
        let (mut writes, mut pins) = (Vec::new(), Vec::new());
        let State { pinned, filling, regions, copied, .. } = &mut *state;
        for part in pinned.iter_mut().chain(filling) {
            let copy = self.copies.as_ref().map(|copies| copies.name(*copied));
            let (at, pieces, pin) = part.pin(regions, copy.clone());
            if !pieces.is_empty() {
                *copied += 1;
                writes.push((at, pieces, copy));
            }
            pins.push(pin);
        }
        drop(state);
        // Not under the lock: parts go on being filled.
        if !writes.is_empty() {
            let mut file = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            writes.iter().try_for_each(|(at, pieces, _)| file.write(*at, pieces))?;
            file.sync()?;
        }
        if let Some(copies) = &self.copies {
            self.runtime.block_on(async {
                for (_, pieces, name) in writes {
                    copies.put(&name.unwrap_or_default(), pieces).await?;
                }
                for name in unneeded {
                    copies.remove(&name).await;
                }
                Ok::<(), Error>(())
            })?;
        }
        drop(self.inner.wait(|state| state.in_flight.is_disjoint(&on_their_way))?);
        Ok(Durable::Until { out, pins })
    }

    fn acknowledged(&self) -> Vec<PartRecord> {
        std::mem::take(&mut self.inner.lock().acknowledged)
    }

    fn tail_crc(&self, _end: u64, _len: u64) -> Result<u32> {
        Ok(0)
    }
}

impl Part {
    /// What has to be written into the pins file, and where; and what a record says then. If there is
    /// anything, its copy will be called `copy`.
    fn pin(&mut self, regions: &mut Regions, copy: Option<String>) -> (u64, Vec<Bytes>, PinRecord) {
        let (capacity, number) = (self.capacity, self.number);
        let pin = self.pin.get_or_insert_with(|| super::pins::Pin {
            region: regions.take(capacity),
            pieces: 0,
            len: 0,
            crc: 0,
            objects: Vec::new(),
        });
        let at = pin.region.at + pin.len;
        let new = self.pieces[pin.pieces..].to_vec();
        for piece in &new {
            pin.crc = crc32c::crc32c_append(pin.crc, piece);
            pin.len += piece.len() as u64;
        }
        if !new.is_empty() {
            pin.objects.extend(copy);
        }
        pin.pieces = self.pieces.len();
        (at, new, pin.record(number))
    }
}

impl Failure {
    fn of(error: &Error) -> Self {
        let mut message = error.to_string();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            message.push_str(&format!(": {cause}"));
            next = cause.source();
        }
        Self { kind: error.kind(), message, hint: error.hint().map(str::to_owned) }
    }

    fn error(&self) -> Error {
        let error = Error::new(self.kind, self.message.clone());
        match &self.hint {
            Some(hint) => error.with_hint(hint.clone()),
            None => error,
        }
    }
}

fn no_answer() -> object_store::Error {
    let error = Error::new(ErrorKind::Network, "the store did not answer in time")
        .with_hint("check the endpoint and the network; run the same command again to go on from here");
    object_store::Error::Generic { store: "parts", source: Box::new(error) }
}

/// Whether sending again cannot help.
fn is_final(error: &object_store::Error) -> bool {
    use object_store::Error::{
        InvalidPath, NotFound, NotImplemented, NotSupported, PermissionDenied, Unauthenticated,
    };
    matches!(
        error,
        InvalidPath { .. }
            | NotFound { .. }
            | NotImplemented { .. }
            | NotSupported { .. }
            | PermissionDenied { .. }
            | Unauthenticated { .. }
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parts on their way at once, at most; memory may allow fewer.
const MAX_UPLOADS: usize = 8;

/// How often a part is sent before the run fails. What the HTTP client tries by itself is not counted.
const PART_TRIES: u32 = 4;

/// Half the pause before a part is sent the second time.
const PAUSE: Duration = Duration::from_millis(250);
