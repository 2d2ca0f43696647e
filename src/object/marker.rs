//! Markers: objects that tell of uploads which have begun and not ended.
//!
//! ```text
//! <prefix>/.vmferry/<run id>.json
//! {"version":1,"run":"3f…","tool":"vmferry 0.1.0","vm":"shop/db","uploads":[{"key":"vms/db.qcow2","id":"…"}]}
//! ```
//!
//! A run writes its marker before it begins an upload, and again once it knows the upload's id; it removes
//! the marker behind the last part. What cleans up goes by markers, so that uploads of others are never
//! touched: where a run was killed before it knew the id, the upload is found by its key (`leftovers`). A marker is believed only about keys below
//! its own prefix: who may write into one prefix cannot have uploads in another one given up.

use std::collections::HashMap;

use futures_util::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, PutPayload, path::Path};
use serde::{Deserialize, Serialize};

use super::{Act, ObjectLocation, Store, object_error};
use crate::error::{Error, Result};

/// What a marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker {
    version: u32,
    /// The run.
    pub(crate) run: String,
    /// What wrote it, for people.
    #[serde(default)]
    tool: String,
    /// The VM whose disks these are, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<String>,
    /// The uploads of the run.
    pub(crate) uploads: Vec<MarkedUpload>,
}

/// An upload that a marker tells of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct MarkedUpload {
    /// Key of the object to be.
    pub(crate) key: String,
    /// The store's id; empty where it has none (Azure), and where the upload was only about to be begun.
    pub(crate) id: String,
}

/// A marker that was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundMarker {
    /// Where it is.
    pub(crate) location: ObjectLocation,
    /// When it was written, by the store's clock, in seconds since 1970.
    pub(crate) written: u64,
    /// When the run last kept something beside it, by the same clock; 0 if it did not.
    pub(crate) kept: u64,
    /// What it says, or why that cannot be believed.
    pub(crate) marker: Result<Marker, String>,
}

impl Marker {
    /// The marker of `run`.
    ///
    /// # Errors
    /// The id of the run cannot be part of a key.
    pub(crate) fn new(run: &str, vm: Option<String>, uploads: Vec<MarkedUpload>) -> Result<Self> {
        if !is_run(run) {
            return Err(Error::failed(format!("{run:?} is no id of a run")));
        }
        let tool = concat!("vmferry ", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Self { version: VERSION, run: run.to_owned(), tool, vm, uploads })
    }

    /// Where the marker of a run that writes `target` is.
    pub(crate) fn location(&self, target: &ObjectLocation) -> ObjectLocation {
        target.with_key(format!("{}{DIRECTORY}/{}.json", target.prefix(), self.run))
    }

    /// Where a run that writes `target` keeps what it has to find again: in front of the `/` of its objects.
    ///
    /// # Errors
    /// The id of the run cannot be part of a key.
    pub(crate) fn directory(run: &str, target: &ObjectLocation) -> Result<ObjectLocation> {
        let marker = Self::new(run, None, Vec::new())?.location(target);
        Ok(marker.with_key(kept_by(&marker)))
    }

    /// Writes it, for a run that writes `target`; replaces what the same run has written before.
    ///
    /// # Errors
    /// The store refuses, or cannot be reached.
    pub(crate) async fn write(&self, store: &Store, target: &ObjectLocation) -> Result<()> {
        let location = self.location(target);
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::failed("cannot write a marker").with_source(error))?;
        let written = store.objects.put(&location.path()?, PutPayload::from(text)).await;
        written.map(|_| ()).map_err(|error| object_error(&location, Act::Write, error))
    }

    /// Removes what the run of the marker at `location` has kept beside it, the oldest first.
    ///
    /// # Errors
    /// The store refuses, or cannot be reached.
    pub(crate) async fn remove_kept(store: &Store, location: &ObjectLocation) -> Result<()> {
        let directory = location.with_key(kept_by(location));
        let failed = |error| object_error(&directory, Act::List, error);
        let path = directory.path()?;
        let listed: Vec<_> = store.objects.list(Some(&path)).try_collect().await.map_err(failed)?;
        let mut found: Vec<Path> = listed.into_iter().map(|meta| meta.location).collect();
        found.sort();
        for path in found {
            match store.objects.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    return Err(object_error(&location.with_key(path.as_ref()), Act::Delete, error));
                }
            }
        }
        Ok(())
    }

    /// The markers of runs that write objects beside `target`.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub(crate) async fn beside(store: &Store, target: &ObjectLocation) -> Result<Vec<FoundMarker>> {
        Self::list(store, &target.with_key(format!("{}{DIRECTORY}", target.prefix()))).await
    }

    /// Removes the marker at `location`; that there is none is fine.
    ///
    /// # Errors
    /// The store refuses, or cannot be reached.
    pub(crate) async fn remove(store: &Store, location: &ObjectLocation) -> Result<()> {
        match store.objects.delete(&location.path()?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(object_error(location, Act::Delete, error)),
        }
    }

    /// The markers below `location`, at any depth: all its objects are listed for that.
    ///
    /// # Errors
    /// The store refuses, or cannot be reached.
    pub(crate) async fn list(store: &Store, location: &ObjectLocation) -> Result<Vec<FoundMarker>> {
        let prefix = match location.key().trim_end_matches('/') {
            "" => None,
            key => Some(location.with_key(key).path()?),
        };
        let failed = |error| object_error(location, Act::List, error);
        let mut listed = store.objects.list(prefix.as_ref());
        let mut found: Vec<FoundMarker> = Vec::new();
        let mut kept: HashMap<String, u64> = HashMap::new();
        while let Some(meta) = listed.try_next().await.map_err(failed)? {
            let written = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
            let Some((base, run)) = parts(&meta.location) else {
                if let Some(directory) = directory_of(&meta.location)
                    && (kept.len() < MAX_MARKERS || kept.contains_key(directory))
                {
                    let newest = kept.entry(directory.to_owned()).or_default();
                    *newest = written.max(*newest);
                }
                continue;
            };
            if found.len() >= MAX_MARKERS {
                return Err(Error::failed(format!(
                    "there are more than {MAX_MARKERS} markers below {location}"
                ))
                .with_hint("name a longer prefix"));
            }
            let place = location.with_key(meta.location.as_ref());
            let marker = if meta.size > MAX_MARKER_LEN {
                Err(format!("it has {} bytes, too many for a marker", meta.size))
            } else {
                match store.objects.get(&meta.location).await {
                    Ok(got) => match got.bytes().await {
                        Ok(bytes) => read(&bytes, base, run),
                        Err(error) => return Err(object_error(&place, Act::Read, error)),
                    },
                    // Its run has ended in the meantime.
                    Err(object_store::Error::NotFound { .. }) => continue,
                    Err(error) => return Err(object_error(&place, Act::Read, error)),
                }
            };
            found.push(FoundMarker { location: place, written, kept: 0, marker });
        }
        for marker in &mut found {
            marker.kept = kept.get(kept_by(&marker.location)).copied().unwrap_or(0);
        }
        Ok(found)
    }
}

/// The prefix that a marker is believed about, and the run, if the key is that of a marker.
fn parts(path: &Path) -> Option<(&str, &str)> {
    let key = path.as_ref();
    let (directory, name) = key.rsplit_once('/')?;
    let run = name.strip_suffix(".json")?;
    Some((base_of(directory, run)?, run))
}

/// The directory of a run, if the key is that of something that it keeps.
fn directory_of(path: &Path) -> Option<&str> {
    let (directory, _) = path.as_ref().rsplit_once('/')?;
    let (above, run) = directory.rsplit_once('/')?;
    base_of(above, run).map(|_| directory)
}

/// The prefix that `directory` has the markers of, if one of them may be that of `run`.
fn base_of<'a>(directory: &'a str, run: &str) -> Option<&'a str> {
    let base = directory.strip_suffix(DIRECTORY)?;
    (is_run(run) && (base.is_empty() || base.ends_with('/'))).then_some(base)
}

/// The directory in which the run of a marker keeps things.
fn kept_by(marker: &ObjectLocation) -> &str {
    marker.key().trim_end_matches(".json")
}

/// What the marker of `run` below `base` says.
pub(super) fn read(bytes: &[u8], base: &str, run: &str) -> Result<Marker, String> {
    let marker: Marker = serde_json::from_slice(bytes).map_err(|_| "it cannot be read".to_owned())?;
    if marker.version != VERSION {
        return Err(format!("it is of version {}, which this vmferry does not know", marker.version));
    }
    if marker.run != run {
        return Err("it names another run than its key".to_owned());
    }
    if marker.uploads.len() > MAX_UPLOADS {
        return Err("it names too many uploads".to_owned());
    }
    match marker.uploads.iter().find(|upload| !upload.key.starts_with(base) || upload.key.len() == base.len())
    {
        Some(_) => Err("it names an upload that is not below its own prefix".to_owned()),
        None => Ok(marker),
    }
}

fn is_run(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Of the format of markers.
const VERSION: u32 = 1;

/// Below the prefix that markers tell of.
const DIRECTORY: &str = ".vmferry";

/// Bytes of a marker; one of a run with a hundred disks has 30 KiB.
const MAX_MARKER_LEN: u64 = 256 << 10;

/// Uploads of one run.
const MAX_UPLOADS: usize = 1000;

/// Markers that are listed.
const MAX_MARKERS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(key: &str) -> MarkedUpload {
        MarkedUpload { key: key.into(), id: "u1".into() }
    }

    #[test]
    fn markers_stand_beside_what_they_tell_of() {
        let marker = Marker::new("3f-a1", Some("shop/db".into()), vec![upload("vms/db.qcow2")]).unwrap();
        let target = ObjectLocation::parse("s3://b/vms/db.qcow2").unwrap().unwrap();
        assert_eq!(marker.location(&target).key(), "vms/.vmferry/3f-a1.json");
        let top = ObjectLocation::parse("s3://b/db.qcow2").unwrap().unwrap();
        assert_eq!(marker.location(&top).key(), ".vmferry/3f-a1.json");
        let text = serde_json::to_vec(&marker).unwrap();
        assert_eq!(read(&text, "vms/", "3f-a1").unwrap(), marker);
        assert_eq!(read(&text, "", "3f-a1").unwrap(), marker);
        for run in ["", "../x", "a/b", "a b"] {
            assert!(Marker::new(run, None, Vec::new()).is_err(), "{run}");
        }
    }

    #[test]
    fn a_marker_is_believed_about_its_own_prefix_only() {
        let text = |run: &str, version: u32, key: &str| {
            serde_json::to_vec(&Marker {
                version,
                run: run.into(),
                tool: String::new(),
                vm: None,
                uploads: vec![upload(key)],
            })
            .unwrap()
        };
        for (text, word) in [
            (text("r", 1, "other/x"), "own prefix"),
            (text("r", 1, "vms/"), "own prefix"),
            (text("r", 1, "vmsx"), "own prefix"),
            (text("q", 1, "vms/x"), "another run"),
            (text("r", 2, "vms/x"), "version 2"),
            (b"{".to_vec(), "cannot be read"),
            (b"{\"version\":1,\"run\":\"r\"}".to_vec(), "cannot be read"),
        ] {
            let why = read(&text, "vms/", "r").unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn keys_of_markers_are_told_from_others() {
        let parsed = |key: &str| {
            let path = Path::parse(key).unwrap();
            parts(&path).map(|(base, run)| (base.to_owned(), run.to_owned()))
        };
        assert_eq!(parsed("a/b/.vmferry/r1.json"), Some(("a/b/".into(), "r1".into())));
        assert_eq!(parsed(".vmferry/r1.json"), Some((String::new(), "r1".into())));
        for key in [
            "a/x.vmferry/r1.json",
            "a/.vmferry/r1",
            "a/.vmferry/r 1.json",
            ".vmferry/a/r1.json",
            "r1.json",
            "a/.vmferry/.json",
        ] {
            assert_eq!(parsed(key), None, "{key}");
        }
        let kept = |key: &str| directory_of(&Path::parse(key).unwrap()).map(str::to_owned);
        assert_eq!(kept("a/b/.vmferry/r1/1.journal"), Some("a/b/.vmferry/r1".into()));
        assert_eq!(kept(".vmferry/r1/1.journal"), Some(".vmferry/r1".into()));
        for key in ["a/x.vmferry/r1/1", "a/.vmferry/r1.json", "a/.vmferry/r1/x/1", "a/.vmferry/r 1/1", "r1/1"]
        {
            assert_eq!(kept(key), None, "{key}");
        }
    }
}
