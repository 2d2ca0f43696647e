//! Uploads that runs have begun and not ended, found by their markers.
//!
//! A run that was killed while its upload began never learnt the upload's id, and nothing that a store tells
//! of an upload says whose it is. So an upload is taken for that of a marker without id only if it is of the
//! very key, was begun no earlier than the marker was written, has no parts (such a run has sent none), and
//! no other marker names it.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    FoundMarker, MarkedUpload, Marker, ObjectClient, ObjectLocation, OpenUpload, Scheme, Store, StoreOptions,
};
use crate::error::{Error, Result};

/// What an upload has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadState {
    /// Neither completed nor given up: the store keeps its parts, and charges for them.
    Open {
        /// Parts that are there.
        parts: usize,
        /// Bytes of them.
        bytes: u64,
    },
    /// Completed or given up; only the marker is left.
    Gone,
    /// The store does not tell: Azure, which drops what was not committed after a week, and stores without a
    /// list of uploads.
    Untold,
}

/// An upload that a marker tells of.
#[derive(Clone, Debug)]
pub struct LeftUpload {
    /// URL of the object to be.
    pub url: String,
    /// What it has come to.
    pub state: UploadState,
    location: ObjectLocation,
    id: String,
}

/// A marker, and the uploads that it tells of.
#[derive(Debug)]
pub struct LeftRun {
    /// Id of the run.
    pub run: String,
    /// The VM whose disks these are, as `namespace/name`.
    pub vm: Option<String>,
    /// Since when nothing was written: no part, nor the marker, nor what a run keeps beside it.
    pub idle: Duration,
    /// Its uploads.
    pub uploads: Vec<LeftUpload>,
    marker: ObjectLocation,
    place: Arc<Place>,
}

/// What there is below a prefix.
#[derive(Debug, Default)]
pub struct StoreLeftovers {
    /// Runs that have not ended.
    pub runs: Vec<LeftRun>,
    /// Markers that cannot be believed: URL and reason. They are left alone.
    pub unbelieved: Vec<(String, String)>,
}

#[derive(Debug)]
struct Place {
    store: Store,
    client: Arc<ObjectClient>,
}

/// Looks for markers below `location` (a bucket, or a prefix in one, at any depth), of `run` if one is
/// named. Uploads without a marker are of others and are not looked at.
///
/// # Errors
/// The store refuses, or cannot be reached.
pub async fn store_leftovers(
    location: &str,
    run: Option<&str>,
    options: &StoreOptions,
) -> Result<StoreLeftovers> {
    let location = ObjectLocation::parse(location)?.ok_or_else(|| {
        Error::usage(format!("{location} is no place in an object store"))
            .with_hint("write s3://BUCKET/PREFIX")
    })?;
    let store = Store::open(&location, options).await?;
    let client = Arc::new(ObjectClient::new(&store, &location).await?);
    let found = Marker::list(&store, &location).await?;
    look(found, run, Place { store, client }).await
}

/// The same for the marker of `run`, which writes `target`.
///
/// # Errors
/// The store refuses, or cannot be reached.
pub(crate) async fn left_by(
    run: &str,
    store: &Store,
    client: &Arc<ObjectClient>,
    target: &ObjectLocation,
) -> Result<Option<LeftRun>> {
    let found = Marker::beside(store, target).await?;
    let place = Place { store: store.clone(), client: Arc::clone(client) };
    Ok(look(found, Some(run), place).await?.runs.pop())
}

async fn look(found: Vec<FoundMarker>, run: Option<&str>, place: Place) -> Result<StoreLeftovers> {
    let (mut leftovers, place) = (StoreLeftovers::default(), Arc::new(place));
    let believed = found.iter().filter_map(|found| found.marker.as_ref().ok());
    let named: HashSet<MarkedUpload> = believed.flat_map(|marker| marker.uploads.iter().cloned()).collect();
    for FoundMarker { location, written, kept, marker } in found {
        match marker {
            Err(why) => leftovers.unbelieved.push((location.to_string(), why)),
            Ok(marker) if run.is_some_and(|run| run != marker.run) => {}
            Ok(marker) => {
                leftovers.runs.push(LeftRun::look(&place, location, (written, kept), marker, &named).await?);
            }
        }
    }
    Ok(leftovers)
}

impl LeftRun {
    async fn look(
        place: &Arc<Place>,
        location: ObjectLocation,
        (written, kept): (u64, u64),
        marker: Marker,
        named: &HashSet<MarkedUpload>,
    ) -> Result<Self> {
        let (mut uploads, mut newest) = (Vec::new(), written.max(kept));
        for marked in marker.uploads {
            let object = location.with_key(&marked.key);
            let found = match (location.scheme(), marked.id.is_empty()) {
                (Scheme::Azure, _) => vec![(String::new(), UploadState::Untold)],
                (_, true) => place.unnamed(&object, written, named).await?,
                (_, false) => {
                    let state = match place.client.list_parts(&object, &marked.id).await? {
                        None => UploadState::Gone,
                        Some(parts) => {
                            newest = parts.iter().filter_map(|part| part.written).fold(newest, u64::max);
                            let bytes = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.size));
                            UploadState::Open { parts: parts.len(), bytes }
                        }
                    };
                    vec![(marked.id, state)]
                }
            };
            uploads.extend(found.into_iter().map(|(id, state)| LeftUpload {
                url: object.to_string(),
                state,
                location: object.clone(),
                id,
            }));
        }
        let idle = since(newest);
        Ok(Self { run: marker.run, vm: marker.vm, idle, uploads, marker: location, place: Arc::clone(place) })
    }

    /// Gives the uploads up and removes the marker. What was gone already is fine.
    ///
    /// # Errors
    /// The store refuses, or cannot be reached; the marker is still there then.
    pub async fn remove(&self) -> Result<()> {
        for upload in &self.uploads {
            if let UploadState::Open { .. } = upload.state {
                self.place.client.abort(&upload.location, &upload.id).await?;
            }
        }
        Marker::remove_kept(&self.place.store, &self.marker).await?;
        Marker::remove(&self.place.store, &self.marker).await
    }
}

impl Place {
    /// The uploads of `object` that a run had begun, or was about to begin, when it wrote its marker, at
    /// `written`: see above.
    async fn unnamed(
        &self,
        object: &ObjectLocation,
        written: u64,
        named: &HashSet<MarkedUpload>,
    ) -> Result<Vec<(String, UploadState)>> {
        let Some(open) = self.client.list_uploads(object).await? else {
            return Ok(vec![(String::new(), UploadState::Untold)]);
        };
        let mut found = Vec::new();
        for OpenUpload { key, id, begun } in open {
            let is_later = begun.is_some_and(|begun| begun.saturating_add(SKEW_SECONDS) >= written);
            let marked = MarkedUpload { key, id };
            if is_later
                && !named.contains(&marked)
                && self.client.list_parts(object, &marked.id).await?.is_some_and(|parts| parts.is_empty())
            {
                found.push((marked.id, UploadState::Open { parts: 0, bytes: 0 }));
            }
        }
        if found.is_empty() {
            found.push((String::new(), UploadState::Gone));
        }
        Ok(found)
    }
}

/// How long ago a time in seconds since 1970 was; zero if it lies ahead.
fn since(seconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(seconds))
}

/// By how much the clocks of a store's machines may differ.
const SKEW_SECONDS: u64 = 2;
