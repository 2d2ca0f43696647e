//! Uploads that runs have begun and not ended, found by their markers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{FoundMarker, MarkedUpload, Marker, ObjectClient, ObjectLocation, Scheme, Store, StoreOptions};
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
    /// The store does not tell (Azure, which drops what was not committed after a week).
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
    /// Since when nothing was written: no part, nor the marker.
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
    client: ObjectClient,
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
    let client = ObjectClient::new(&store, &location).await?;
    let found = Marker::list(&store, &location).await?;
    let place = Arc::new(Place { store, client });
    let mut leftovers = StoreLeftovers::default();
    for FoundMarker { location, age, marker } in found {
        match marker {
            Err(why) => leftovers.unbelieved.push((location.to_string(), why)),
            Ok(marker) if run.is_some_and(|run| run != marker.run) => {}
            Ok(marker) => leftovers.runs.push(LeftRun::look(&place, location, age, marker).await?),
        }
    }
    Ok(leftovers)
}

impl LeftRun {
    async fn look(
        place: &Arc<Place>,
        location: ObjectLocation,
        age: Duration,
        marker: Marker,
    ) -> Result<Self> {
        let (mut uploads, mut idle) = (Vec::new(), age);
        for MarkedUpload { key, id } in marker.uploads {
            let object = location.with_key(key);
            let state = if location.scheme() == Scheme::Azure {
                UploadState::Untold
            } else {
                match place.client.list_parts(&object, &id).await? {
                    None => UploadState::Gone,
                    Some(parts) => {
                        let newest = parts.iter().filter_map(|part| part.written).max();
                        idle = idle.min(newest.map_or(age, since));
                        let bytes = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.size));
                        UploadState::Open { parts: parts.len(), bytes }
                    }
                }
            };
            uploads.push(LeftUpload { url: object.to_string(), state, location: object, id });
        }
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
        Marker::remove(&self.place.store, &self.marker).await
    }
}

/// How long ago a time in seconds since 1970 was; zero if it lies ahead.
fn since(seconds: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(seconds))
}
