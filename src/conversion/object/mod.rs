//! An object as the place of an output: what is there, the upload that becomes it, its marker, its
//! manifest.

mod beside;
mod manifest;
mod plan;
mod remote;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::{MultipartId, PutMultipartOptions, multipart::PartId};
use ring::rand::{SecureRandom as _, SystemRandom};

pub use self::plan::UploadPlan;
use self::plan::{UNKNOWN_LEN, schedule};
pub(crate) use self::{
    beside::{check_free, put_object, remove_object, size_of_object},
    remote::fetch_journal,
};
use super::ConversionOptions;
use crate::{
    error::{Error, ErrorKind, Result},
    object::{
        Act, Encryption, MarkedUpload, Marker, ObjectClient, ObjectHead, ObjectLocation, RUN_METADATA,
        Scheme, Store, StoreOptions, StoredPart, answer_of, left_by, object_error,
    },
    pipeline::{
        journal::{ObjectHeader, PartRecord},
        target::TargetPaths,
    },
    sink::object::{PartTarget, Schedule},
    source::Rate,
};

/// Where an output becomes an object.
#[derive(Clone, Debug)]
pub(crate) struct ObjectPlace {
    pub(crate) location: ObjectLocation,
    store: Store,
    client: Arc<ObjectClient>,
    schedule: Schedule,
    rate: Option<Rate>,
    force: bool,
    /// Whether the journal is to lie beside the object.
    remote: bool,
    /// The VM, as `namespace/name`.
    vm: Option<String>,
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
            remote: options.object.remote_journal,
            vm: options.object.vm.clone(),
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
        let (url, schedule, remote) = (self.location.to_string(), self.schedule, self.remote);
        Ok(ObjectHeader { url, run, schedule, remote })
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

    /// Begins an upload, and says so in the bucket: first that one of this key is about to be begun, then
    /// which. So there is no moment at which a kill leaves an upload that nothing tells of.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked.
    pub(crate) async fn create(&self, header: &ObjectHeader) -> Result<MultipartId> {
        self.mark(header, String::new()).await?;
        let created = async {
            let upload = self.create_upload(header).await?;
            self.mark(header, upload.clone()).await?;
            Ok(upload)
        };
        match created.await {
            Ok(upload) => Ok(upload),
            Err(error) => {
                // If that cannot be done either, the marker stays, and with it what `gc` goes by.
                if let Err(error) = self.abandon(header).await {
                    tracing::debug!("{error}");
                }
                Err(error)
            }
        }
    }

    /// Gives up what a run has begun that never came to know the id of its upload.
    ///
    /// # Errors
    /// The store refuses, or cannot be asked. The marker is there still, then.
    pub(crate) async fn abandon(&self, header: &ObjectHeader) -> Result<()> {
        match left_by(&header.run, &self.store, &self.client, &self.location).await? {
            Some(left) => left.remove().await,
            None => Ok(()),
        }
    }

    async fn mark(&self, header: &ObjectHeader, id: String) -> Result<()> {
        let marked = MarkedUpload { key: self.location.key().to_owned(), id };
        Marker::new(&header.run, self.vm.clone(), vec![marked])?.write(&self.store, &self.location).await
    }

    async fn create_upload(&self, header: &ObjectHeader) -> Result<MultipartId> {
        let path = self.location.path()?;
        let creation = match self.store.scheme() {
            // Azure knows no uploads, only blocks that nobody has made a blob of.
            Scheme::Azure => PutMultipartOptions::default(),
            Scheme::Gcs | Scheme::S3 => self.store.creation(&self.metadata(header)),
        };
        let created = self.store.parts.create_multipart_opts(&path, creation).await;
        created.map_err(|error| object_error(&self.location, Act::Create, error))
    }

    /// What an object is made with beside what the user says.
    fn metadata(&self, header: &ObjectHeader) -> Vec<(&'static str, String)> {
        let tool = concat!("vmferry/", env!("CARGO_PKG_VERSION")).to_owned();
        let vm = self.vm.clone().map(|vm| (VM_METADATA, vm));
        [(RUN_METADATA, header.run.clone()), (TOOL_METADATA, tool)].into_iter().chain(vm).collect()
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
            patience: Arc::new({
                let store = self.store.clone();
                move |len| store.patience(len)
            }),
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
            return Err(self.appeared());
        }
        // What appears from here on, the store has to see.
        let mut made = self.make(header, upload, parts, !self.force).await?;
        if matches!(made, Made::NotDemandable) {
            tracing::warn!(
                "the store of {} cannot be told to overwrite nothing: there was no such object a moment ago",
                self.location
            );
            made = self.make(header, upload, parts, false).await?;
        }
        match made {
            Made::Done => {}
            Made::NotDemandable => {
                return Err(Error::failed("nothing was demanded, and the store refuses it"));
            }
            Made::Unknown(error) => {
                // The answer may have got lost on its way, or an earlier run's request may still be at work:
                // stores take their time to make an object of many parts.
                for _ in 0..LOOKS {
                    match self.client.head(&self.location).await? {
                        Some(found) if is_made_by(&found, &header.run, size) => return Ok(Completed::Yes),
                        Some(_) if !self.force => return Err(self.appeared()),
                        _ => {}
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

    fn appeared(&self) -> Error {
        Error::refused(format!("{} appeared while it was being made", self.location))
            .with_hint("remove it, or run the same command again with --force: the upload is kept")
    }

    /// Asks for an object of these parts; with `only_new`, if there is none.
    async fn make(
        &self,
        header: &ObjectHeader,
        upload: &str,
        parts: &[PartRecord],
        only_new: bool,
    ) -> Result<Made> {
        let ids: Vec<PartId> = parts.iter().map(|part| PartId { content_id: part.id.clone() }).collect();
        if self.store.scheme() == Scheme::Azure {
            let own = self.store.options().metadata.iter().cloned();
            let metadata: Vec<_> = self
                .metadata(header)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(own)
                .collect();
            let made = self.client.commit_blocks(&self.location, &ids, &metadata, only_new).await;
            return Ok(match made {
                Ok(true) => Made::Done,
                Ok(false) => Made::Unknown(self.appeared()),
                Err(error) => Made::Unknown(error),
            });
        }
        let path = self.location.path()?;
        let store = if only_new { &self.store.parts_of_new } else { &self.store.parts };
        let made = store.complete_multipart(&path, &upload.to_owned(), ids).await;
        Ok(match made {
            Ok(_) => Made::Done,
            Err(error) if only_new && answer_of(&error).is_unknown_demand() => Made::NotDemandable,
            Err(error) if only_new && answer_of(&error).is_conflict() => Made::Unknown(self.appeared()),
            Err(error) => Made::Unknown(object_error(&self.location, Act::Complete, error)),
        })
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

    /// Says that the upload is over, and removes what was kept for it.
    ///
    /// # Errors
    /// The store refuses.
    pub(crate) async fn remove_marker(&self, header: &ObjectHeader) -> Result<()> {
        let marker = Marker::new(&header.run, None, Vec::new())?.location(&self.location);
        if header.remote {
            Marker::remove_kept(&self.store, &marker).await?;
        }
        Marker::remove(&self.store, &marker).await
    }
}

/// What became of the request to make an object of parts.
enum Made {
    Done,
    /// The store does not know the demand that nothing be overwritten.
    NotDemandable,
    /// It failed, or its answer did not come.
    Unknown(Error),
}

/// The parts that a store has of an upload; `None` = it does not tell.
#[derive(Debug)]
pub(crate) struct There(Option<Vec<StoredPart>>);

impl There {
    /// Drops from `parts` what the store does not have, and adds what the journal did not hear of, as
    /// far as the store names parts by the MD5 of their bytes: from part `from` on, since what lies before
    /// that must have been recorded.
    pub(crate) fn reconcile(self, parts: &mut BTreeMap<u32, PartRecord>, from: u32) {
        let Self(Some(there)) = self else { return };
        let there: BTreeMap<u32, StoredPart> = there.into_iter().map(|part| (part.number, part)).collect();
        let by_md5 = parts.values().all(|part| part.id.trim_matches('"') == part.md5);
        parts.retain(|number, part| {
            there.get(number).is_some_and(|there| {
                let etag = there.etag.trim_matches('"');
                // With a checksum, an id has the ETag somewhere in it. Where none is listed, what may have
                // been sent again since it was recorded may be another part by now.
                there.size == part.len && part.id.contains(etag) && (*number < from || !etag.is_empty())
            })
        });
        for (number, part) in there.into_iter().filter(|(number, _)| by_md5 && *number >= from) {
            let md5 = part.etag.trim_matches('"').to_ascii_lowercase();
            let is_md5 = md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_md5 && part.crc64.is_none() {
                let id = part.etag;
                parts.entry(number).or_insert(PartRecord { part: number, len: part.size, id, md5 });
            }
        }
    }
}

/// Of `parts`, those that an object of `size` bytes is made of: an earlier run may have sent more than what
/// goes on from it, with another encoder, came to need.
pub(crate) fn parts_of<'a>(
    size: u64,
    schedule: Schedule,
    parts: impl Iterator<Item = &'a PartRecord>,
) -> Vec<PartRecord> {
    parts.filter(|part| part.part == 1 || schedule.start(part.part) < size).cloned().collect()
}

fn is_made_by(found: &ObjectHead, run: &str, size: u64) -> bool {
    found.size == size && found.run.as_deref() == Some(run)
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

/// Metadata of an object that names the VM whose disks it holds.
const VM_METADATA: &str = "vmferryvm";

/// Metadata of an object that names the program.
const TOOL_METADATA: &str = "vmferrytool";

/// How often the store is asked for an object that may be about to appear, and the time in between.
const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: [&str; 3] = [
        "0cc175b9c0f1b6a831c399e269772661",
        "92eb5ffee6ae2fec3ad71c777531578f",
        "4a8a08f09d37b73795649038408b5f33",
    ];

    fn stored(number: u32, md5: usize) -> StoredPart {
        StoredPart { number, size: 8, etag: format!("\"{}\"", MD5[md5]), crc64: None, written: None }
    }

    fn recorded(part: u32, md5: usize) -> (u32, PartRecord) {
        let md5 = MD5[md5].to_owned();
        (part, PartRecord { part, len: 8, id: format!("\"{md5}\""), md5 })
    }

    #[test]
    fn only_what_the_store_has_counts_and_what_it_has_more_is_known_by_its_md5() {
        let mut parts: BTreeMap<_, _> = [recorded(1, 0), recorded(2, 1), recorded(3, 2)].into();
        let there = There(Some(vec![stored(1, 0), stored(2, 2), stored(4, 1), stored(5, 2)]));
        there.reconcile(&mut parts, 5);
        // The second is another one, the third is missing, the fourth should have been recorded.
        assert_eq!(parts, [recorded(1, 0), recorded(5, 2)].into());
        There(None).reconcile(&mut parts, 1);
        assert_eq!(parts.len(), 2, "who does not tell is believed");
        let silent = |number| StoredPart { etag: String::new(), ..stored(number, 0) };
        There(Some(vec![silent(1), silent(5)])).reconcile(&mut parts, 5);
        assert_eq!(parts, [recorded(1, 0)].into(), "the fifth may have been sent again");
    }

    #[test]
    fn an_object_is_not_made_of_parts_behind_its_end() {
        let schedule = Schedule { first: 8, equal: 9, step: 0, longest: 8, parts: 9 };
        let parts: BTreeMap<_, _> = [recorded(1, 0), recorded(2, 1), recorded(3, 2)].into();
        for (size, count) in [(0, 1), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3), (24, 3)] {
            assert_eq!(parts_of(size, schedule, parts.values()).len(), count, "{size}");
        }
    }

    #[test]
    fn ids_with_checksums_are_not_taken_for_md5() {
        let id = format!("<Part><ETag>\"{}\"</ETag><ChecksumCRC64NVME>x</ChecksumCRC64NVME></Part>", MD5[0]);
        let part = PartRecord { part: 1, len: 8, id, md5: MD5[0].into() };
        let mut parts: BTreeMap<_, _> = [(1, part.clone())].into();
        There(Some(vec![stored(1, 0), stored(2, 1)])).reconcile(&mut parts, 2);
        assert_eq!(parts, [(1, part)].into());
    }
}
