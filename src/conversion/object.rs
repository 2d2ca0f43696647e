//! An object as the place of an output: what is there, the upload that becomes it, its marker, its
//! manifest.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{
    MultipartId, ObjectStoreExt as _, PutMultipartOptions, PutPayload, WriteMultipart, multipart::PartId,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::mpsc;

use super::ConversionOptions;
use crate::{
    error::{Error, ErrorKind, Result},
    object::{
        Act, Encryption, MarkedUpload, Marker, ObjectClient, ObjectHead, ObjectLocation, RUN_METADATA,
        Scheme, Store, StoreOptions, StoredPart, object_error,
    },
    pipeline::{
        journal::{ObjectHeader, PartRecord},
        target::TargetPaths,
    },
    sink::object::{Limits, PartTarget, Schedule},
    source::Rate,
};

/// How an output would be uploaded, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPlan {
    /// URL of the object.
    pub object: String,
    /// Bytes of the output at most, as far as the size of its disks is known.
    pub longest_output: Option<u64>,
    /// Bytes of the first part.
    pub first_part: u64,
    /// Bytes of the longest part that such an output has.
    pub longest_part: u64,
    /// Number of parts that it has then.
    pub parts: u32,
    /// Bytes of the longest object that these parts can become.
    pub longest_object: u64,
    /// Memory of the whole run in bytes until parts begin to grow.
    pub memory: u64,
    /// Memory of the whole run in bytes if the output is as long as it can be.
    pub most_memory: u64,
}

impl UploadPlan {
    /// For the image of a disk of `size` bytes in the object `url`. Nothing is asked.
    ///
    /// # Errors
    /// It is no URL of an object, or the store takes no parts of the length that is asked for.
    pub fn new(url: &str, size: Option<u64>, options: &ConversionOptions) -> Result<Self> {
        let location = ObjectLocation::parse(url)?
            .ok_or_else(|| Error::usage(format!("{url:?} is no URL of an object")))?;
        location.path()?;
        let longest_output = size.map(worst_len);
        let schedule = schedule(&location, options, longest_output)?;
        let end = longest_output.unwrap_or(UNKNOWN_LEN).clamp(1, schedule.covers()) - 1;
        Ok(Self {
            object: location.to_string(),
            longest_output,
            first_part: schedule.len(1),
            longest_part: schedule.len(schedule.part_at(end)),
            parts: schedule.part_at(end),
            longest_object: schedule.covers(),
            memory: options.memory + schedule.memory_at(0),
            most_memory: options.memory + schedule.memory_at(end),
        })
    }
}

/// Where an output becomes an object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectPlace {
    pub(crate) location: ObjectLocation,
    store: Store,
    client: Arc<ObjectClient>,
    schedule: Schedule,
    rate: Option<Rate>,
    force: bool,
}

/// How far the last step of an upload came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    /// The object is there, and it is ours.
    Yes,
    /// The upload is gone, and the object is not ours.
    Gone,
}

impl ObjectPlace {
    /// The object `url`, whose bytes are at most `worst`, as far as that is known.
    ///
    /// # Errors
    /// It is no URL of an object, or the options contradict each other.
    pub(crate) async fn open(url: &str, options: &ConversionOptions, worst: Option<u64>) -> Result<Self> {
        let location = ObjectLocation::parse(url)?
            .ok_or_else(|| Error::usage(format!("{url:?} is no URL of an object")))?;
        location.path()?;
        let schedule = schedule(&location, options, worst)?;
        let store = StoreOptions {
            largest_part: schedule.longest_of(worst.unwrap_or(UNKNOWN_LEN)),
            ..options.object.store.clone()
        };
        let store = Store::open(&location, &store).await?;
        let client = Arc::new(ObjectClient::new(&store, &location).await?);
        Ok(Self {
            location,
            store,
            client,
            schedule,
            rate: options.object.rate.clone(),
            force: options.force,
        })
    }

    /// What the journal says of it; the id of the run is new.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub(crate) fn header(&self) -> Result<ObjectHeader> {
        let mut bytes = [0_u8; 10];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| Error::failed("the system gives no random bytes for the id of the run"))?;
        let run = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(ObjectHeader { url: self.location.to_string(), run, schedule: self.schedule })
    }

    /// Refuses what the user did not ask to overwrite.
    ///
    /// # Errors
    /// The object or its manifest exists and there is no `force`, or the store cannot be asked.
    pub(crate) async fn check_free(&self) -> Result<()> {
        if self.force {
            return Ok(());
        }
        for location in [self.location.clone(), self.manifest()] {
            if self.client.head(&location).await?.is_some() {
                return Err(Error::refused(format!("{location} exists"))
                    .with_hint("choose another name, or say --force to overwrite it"));
            }
        }
        Ok(())
    }

    /// Begins an upload, and says so in the bucket: first that one is about to be begun, then which.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked.
    pub(crate) async fn create(&self, header: &ObjectHeader) -> Result<MultipartId> {
        self.mark(header, Vec::new()).await?;
        let upload = self.create_upload(header).await?;
        let marked = MarkedUpload { key: self.location.key().to_owned(), id: upload.clone() };
        self.mark(header, vec![marked]).await?;
        Ok(upload)
    }

    async fn mark(&self, header: &ObjectHeader, uploads: Vec<MarkedUpload>) -> Result<()> {
        Marker::new(&header.run, None, uploads)?.write(&self.store, &self.location).await
    }

    async fn create_upload(&self, header: &ObjectHeader) -> Result<MultipartId> {
        let path = self.location.path()?;
        let creation = match self.store.scheme() {
            // Azure knows no uploads, only blocks that nobody has made a blob of.
            Scheme::Azure => PutMultipartOptions::default(),
            Scheme::Gcs | Scheme::S3 => self.store.creation(&metadata(header)),
        };
        let created = self.store.parts.create_multipart_opts(&path, creation).await;
        created.map_err(|error| object_error(&self.location, Act::Create, error))
    }

    /// Where the parts of `upload` are sent.
    ///
    /// # Errors
    /// The key is no path.
    pub(crate) fn target(&self, upload: &str) -> Result<PartTarget> {
        let location = self.location.clone();
        let kms = matches!(self.store.options().encryption, Some(Encryption::Kms(_)));
        Ok(PartTarget {
            store: Arc::clone(&self.store.parts),
            path: self.location.path()?,
            upload: upload.to_owned(),
            name: self.location.to_string(),
            answers_md5: !kms && self.store.scheme() != Scheme::Azure,
            rate: self.rate.clone(),
            explain: Arc::new(move |error| object_error(&location, Act::Write, error)),
        })
    }

    /// Makes an object of size `size` of the parts of `upload`, or finds that this was done.
    ///
    /// # Errors
    /// A part is missing, an object appeared under the key, or the store refuses.
    pub(crate) async fn complete(
        &self,
        header: &ObjectHeader,
        upload: &str,
        parts: &[PartRecord],
        size: u64,
    ) -> Result<Completed> {
        let numbers = parts.iter().enumerate();
        let in_order = numbers.clone().all(|(index, part)| part.part as usize == index + 1);
        if !in_order || parts.is_empty() || parts.iter().map(|part| part.len).sum::<u64>() != size {
            return Err(Error::failed("the journal lacks parts of the upload")
                .with_hint("start again with --restart"));
        }
        let found = self.client.head(&self.location).await?;
        if found.as_ref().is_some_and(|found| is_made_by(found, &header.run, size)) {
            return Ok(Completed::Yes);
        }
        if found.is_some() && !self.force {
            return Err(Error::refused(format!("{} appeared while it was being made", self.location))
                .with_hint("remove it, or run the same command again with --force: the upload is kept"));
        }
        match self.make(header, upload, parts).await? {
            Made::Done => {}
            Made::Unknown(error) => {
                // The answer may have got lost on its way, or an earlier run's request may still be at work:
                // stores take their time to make an object of many parts.
                for _ in 0..LOOKS {
                    let found = self.client.head(&self.location).await?;
                    if found.is_some_and(|found| is_made_by(&found, &header.run, size)) {
                        return Ok(Completed::Yes);
                    }
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                }
                return match self.there(upload).await? {
                    None => Ok(Completed::Gone),
                    Some(_) => Err(error),
                };
            }
        }
        match self.client.head(&self.location).await? {
            Some(found) if found.size == size => Ok(Completed::Yes),
            found => {
                let has = found.map_or_else(|| "nothing".to_owned(), |found| format!("{} bytes", found.size));
                Err(Error::new(
                    ErrorKind::Verification,
                    format!("{} should have {size} bytes now, and has {has}", self.location),
                )
                .with_hint("remove it, and start again with --restart"))
            }
        }
    }

    async fn make(&self, header: &ObjectHeader, upload: &str, parts: &[PartRecord]) -> Result<Made> {
        let ids: Vec<PartId> = parts.iter().map(|part| PartId { content_id: part.id.clone() }).collect();
        let made = if self.store.scheme() == Scheme::Azure {
            let own = self.store.options().metadata.iter().cloned();
            let metadata: Vec<_> = metadata(header)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(own)
                .collect();
            self.client.commit_blocks(&self.location, &ids, &metadata).await.map(drop)
        } else {
            let path = self.location.path()?;
            let made = self.store.parts.complete_multipart(&path, &upload.to_owned(), ids).await;
            made.map(drop).map_err(|error| object_error(&self.location, Act::Complete, error))
        };
        Ok(made.map_or_else(Made::Unknown, |()| Made::Done))
    }

    /// What the store has of an upload; `None` if there is no such upload. Azure does not tell: there
    /// the journal has to be believed.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked.
    pub(crate) async fn there(&self, upload: &str) -> Result<Option<There>> {
        if self.store.scheme() == Scheme::Azure {
            return Ok(Some(There(None)));
        }
        let parts = self.client.list_parts(&self.location, upload).await?;
        Ok(parts.map(|parts| There(Some(parts))))
    }

    /// Gives up an upload, on the user's word.
    ///
    /// # Errors
    /// The store refuses.
    pub(crate) async fn abort(&self, header: &ObjectHeader, upload: &str) -> Result<()> {
        let aborted = self.store.parts.abort_multipart(&self.location.path()?, &upload.to_owned()).await;
        match aborted {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => self.remove_marker(header).await,
            Err(error) => Err(object_error(&self.location, Act::Abort, error)),
        }
    }

    /// The object with the digests.
    pub(crate) fn manifest(&self) -> ObjectLocation {
        self.location.child(".vmferry.jsonl")
    }

    /// Writes the manifest; `write` gives its bytes, on a thread where it may block.
    ///
    /// # Errors
    /// The store refuses, or `write` fails.
    pub(crate) async fn put_manifest<F>(&self, write: F) -> Result<ObjectLocation>
    where
        F: FnOnce(&mut dyn io::Write) -> Result<()> + Send + 'static,
    {
        let location = self.manifest();
        let failed = |error| object_error(&location, Act::Write, error);
        let (sender, mut receiver) = mpsc::channel(1);
        let writing = tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces { sender, piece: Vec::new() };
            write(&mut pieces)?;
            io::Write::flush(&mut pieces)
                .map_err(|error| Error::failed("cannot write the manifest").with_source(error))
        });
        let path = location.path()?;
        let first: Option<Bytes> = receiver.recv().await;
        let second = receiver.recv().await;
        match (first, second) {
            (Some(first), Some(second)) => {
                let upload = self.store.objects.put_multipart(&path).await.map_err(failed)?;
                let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE_LEN);
                let mut next = Some(first);
                let mut then = Some(second);
                while let Some(piece) = next {
                    upload.wait_for_capacity(1).await.map_err(failed)?;
                    upload.put(piece);
                    next = match then.take() {
                        Some(piece) => Some(piece),
                        None => receiver.recv().await,
                    };
                }
                joined(writing).await?;
                upload.finish().await.map_err(failed)?;
            }
            (first, _) => {
                joined(writing).await?;
                let payload = PutPayload::from(first.unwrap_or_default());
                self.store.objects.put(&path, payload).await.map_err(failed)?;
            }
        }
        Ok(location)
    }

    /// Removes the manifest of what was overwritten: it is not true of the new object.
    ///
    /// # Errors
    /// The store refuses.
    pub(crate) async fn remove_stale_manifest(&self) -> Result<()> {
        if !self.force {
            return Ok(());
        }
        Marker::remove(&self.store, &self.manifest()).await
    }

    /// Says that the upload is over.
    ///
    /// # Errors
    /// The store refuses.
    pub(crate) async fn remove_marker(&self, header: &ObjectHeader) -> Result<()> {
        let marker = Marker::new(&header.run, None, Vec::new())?.location(&self.location);
        Marker::remove(&self.store, &marker).await
    }
}

/// What became of the request to make an object of parts.
enum Made {
    Done,
    /// It failed, or its answer did not come.
    Unknown(Error),
}

/// The parts that a store has of an upload; `None` = it does not tell.
#[derive(Debug)]
pub(crate) struct There(Option<Vec<StoredPart>>);

impl There {
    /// Drops from `parts` what the store does not have, and adds what the journal did not hear of, as
    /// far as the store names parts by the MD5 of their bytes.
    pub(crate) fn reconcile(self, parts: &mut BTreeMap<u32, PartRecord>) {
        let Self(Some(there)) = self else { return };
        let there: BTreeMap<u32, StoredPart> = there.into_iter().map(|part| (part.number, part)).collect();
        parts.retain(|number, part| {
            there.get(number).is_some_and(|there| {
                // With a checksum, an id has the ETag somewhere in it.
                there.size == part.len && part.id.contains(there.etag.trim_matches('"'))
            })
        });
        let by_md5 = parts.values().all(|part| part.id.trim_matches('"') == part.md5);
        for (number, part) in there.into_iter().filter(|_| by_md5) {
            let md5 = part.etag.trim_matches('"').to_ascii_lowercase();
            let is_md5 = md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_md5 && part.crc64.is_none() {
                let id = part.etag;
                parts.entry(number).or_insert(PartRecord { part: number, len: part.size, id, md5 });
            }
        }
    }
}

/// What an object is made with beside what the user says.
fn metadata(header: &ObjectHeader) -> [(&'static str, String); 2] {
    [
        (RUN_METADATA, header.run.clone()),
        (TOOL_METADATA, concat!("vmferry/", env!("CARGO_PKG_VERSION")).to_owned()),
    ]
}

fn is_made_by(found: &ObjectHead, run: &str, size: u64) -> bool {
    found.size == size && found.run.as_deref() == Some(run)
}

async fn joined(task: tokio::task::JoinHandle<Result<()>>) -> Result<()> {
    task.await.map_err(|error| Error::failed("writing the manifest panicked").with_source(error))?
}

/// What belongs to the object at `url`.
///
/// # Errors
/// There is no place for its journal, or a directory has its name.
pub(crate) fn paths(url: &str, options: &ConversionOptions) -> Result<TargetPaths> {
    let endpoint = options.object.store.endpoint.as_deref().unwrap_or_default();
    let location =
        ObjectLocation::parse(url)?.map_or_else(|| url.to_owned(), |location| location.to_string());
    TargetPaths::of_object(&location, endpoint, options.journal.as_deref(), options.force)
}

/// Refuses an object that the user did not ask to overwrite, unless a run has begun it.
///
/// # Errors
/// As for [`ObjectPlace::check_free`].
pub(crate) async fn check_free(url: &str, options: &ConversionOptions) -> Result<()> {
    if std::fs::symlink_metadata(paths(url, options)?.journal).is_ok() {
        return Ok(());
    }
    ObjectPlace::open(url, options, None).await?.check_free().await
}

/// Bytes of an object; `None` if there is none.
///
/// # Errors
/// The store refuses, or cannot be asked.
pub(crate) async fn size_of_object(url: &str, options: &ConversionOptions) -> Result<Option<u64>> {
    let place = ObjectPlace::open(url, options, None).await?;
    Ok(place.client.head(&place.location).await?.map(|found| found.size))
}

/// Removes an object, if it is there.
///
/// # Errors
/// The store refuses, or cannot be asked.
pub(crate) async fn remove_object(url: &str, options: &ConversionOptions) -> Result<()> {
    let place = ObjectPlace::open(url, options, None).await?;
    match place.store.objects.delete(&place.location.path()?).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(object_error(&place.location, Act::Delete, error)),
    }
}

/// Makes a small object, whole or not at all.
///
/// # Errors
/// The store refuses, or cannot be asked.
pub(crate) async fn put_object(url: &str, bytes: &[u8], options: &ConversionOptions) -> Result<()> {
    let place = ObjectPlace::open(url, options, None).await?;
    let bytes = Bytes::copy_from_slice(bytes);
    let put = place.store.objects.put(&place.location.path()?, bytes.into()).await;
    put.map(drop).map_err(|error| object_error(&place.location, Act::Write, error))
}

/// Bytes that the image of a disk of `size` bytes has at most, whatever the format: tables, and what
/// cannot be compressed.
pub(crate) fn worst_len(size: u64) -> u64 {
    size.saturating_add(size / 64).saturating_add(16 << 20)
}

/// How an output of at most `worst` bytes is cut.
fn schedule(location: &ObjectLocation, options: &ConversionOptions, worst: Option<u64>) -> Result<Schedule> {
    let limits = match location.scheme() {
        Scheme::Azure => Limits::AZURE,
        Scheme::Gcs | Scheme::S3 => Limits::S3,
    };
    match options.object.part_size {
        Some(len) => Schedule::equal(limits, len),
        None => Ok(Schedule::growing(limits, worst.unwrap_or(UNKNOWN_LEN))),
    }
}

/// Collects what is written into pieces for a part each.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_LEN - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_LEN {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece).into();
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Metadata of an object that names the program.
const TOOL_METADATA: &str = "vmferrytool";

/// How often the store is asked for an object that may be about to appear, and the time in between.
const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Bytes of an output whose length nothing tells.
const UNKNOWN_LEN: u64 = 16 << 40;

/// Bytes of a part of a manifest.
const PIECE_LEN: usize = 8 << 20;
