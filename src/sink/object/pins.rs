//! The pins file: parts that are not with the store yet when a run is recorded. It lies beside the
//! journal and takes the room of a few parts.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};

use super::{PartRecord, PinRecord};
use crate::error::{Error, Result};

/// A range of the pins file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// What of a part is in the pins file.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    pub(super) region: Region,
    /// Pieces of the part that are there.
    pub(super) pieces: usize,
    /// Their bytes.
    pub(super) len: u64,
    /// CRC-32C of these.
    pub(super) crc: u32,
    /// Names of the objects that have them too.
    pub(super) objects: Vec<String>,
}

impl Pin {
    pub(super) fn record(&self, part: u32) -> PinRecord {
        let objects = self.objects.clone();
        PinRecord { part, at: self.region.at, len: self.len, crc: self.crc, objects }
    }
}

/// Which ranges of the file are in use. A range that a record of the journal may still name is not
/// written to: it is free only once two more have been written.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Length of the file.
    end: u64,
    free: Vec<Region>,
    /// Not named by the next record any more.
    released: Vec<Region>,
    /// Not named by the last record any more.
    aged: Vec<Region>,
    /// The same of copies.
    released_copies: Vec<String>,
    aged_copies: Vec<String>,
}

impl Regions {
    /// Those of a file in which these are in use.
    pub(super) fn of(used: &[Region]) -> Self {
        Self { end: used.iter().map(|region| region.at + region.len).max().unwrap_or(0), ..Self::default() }
    }

    /// A range of `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Region {
        if let Some(index) = self.free.iter().position(|region| region.len >= len) {
            let region = self.free.swap_remove(index);
            if region.len > len {
                self.free.push(Region { at: region.at + len, len: region.len - len });
            }
            return Region { at: region.at, len };
        }
        let region = Region { at: self.end, len };
        self.end += len;
        region
    }

    /// Nobody needs it any more, but for a run that goes on from an earlier record.
    pub(super) fn release(&mut self, pin: Pin) {
        self.released.push(pin.region);
        self.released_copies.extend(pin.objects);
    }

    /// Another record is about to be written, and the one before it is durable. Names of copies that nobody
    /// needs any more.
    pub(super) fn age(&mut self) -> Vec<String> {
        self.free.append(&mut self.aged);
        std::mem::swap(&mut self.aged, &mut self.released);
        if self.free.iter().map(|region| region.len).sum::<u64>() == self.end {
            // Nothing is in use: what was cut small need not stay so.
            self.free = vec![Region { at: 0, len: self.end }];
        }
        std::mem::replace(&mut self.aged_copies, std::mem::take(&mut self.released_copies))
    }
}

/// The pins file. It is made when it is first needed.
#[derive(Debug)]
pub(crate) struct PinsFile {
    path: PathBuf,
    file: Option<File>,
    copies: Option<PinCopies>,
}

/// Where copies of the pins go: each is an object of its own that is never rewritten.
#[derive(Clone)]
pub(crate) struct PinCopies {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) directory: object_store::path::Path,
    /// What no other run has in the names of its copies.
    pub(crate) stamp: String,
    /// Makes an error of the store one of ours.
    pub(crate) explain: Arc<dyn Fn(object_store::Error) -> Error + Send + Sync>,
}

impl fmt::Debug for PinCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinCopies").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl PinCopies {
    /// Name of the copy number `count` of this run.
    pub(super) fn name(&self, count: u32) -> String {
        format!("{}-{count:08}.pin", self.stamp)
    }

    /// Makes a copy.
    pub(super) async fn put(&self, name: &str, pieces: Vec<Bytes>) -> Result<()> {
        let path = self.directory.clone().join(name);
        let put = self.store.put(&path, pieces.into_iter().collect::<PutPayload>()).await;
        put.map(drop).map_err(|error| (self.explain)(error))
    }

    /// Removes one that nobody needs. What stays goes with the journal at the end.
    pub(super) async fn remove(&self, name: &str) {
        if let Err(error) = self.store.delete(&self.directory.clone().join(name)).await {
            tracing::debug!(name, "a copy of a pin stays: {}", (self.explain)(error));
        }
    }
}

impl PinsFile {
    /// The one that belongs to the journal at `journal`.
    pub(crate) fn beside(journal: &Path) -> Self {
        let mut path = journal.as_os_str().to_owned();
        path.push(".pins");
        Self { path: path.into(), file: None, copies: None }
    }

    /// The same, with copies of what is written.
    pub(crate) fn with_copies(self, copies: PinCopies) -> Self {
        Self { copies: Some(copies), ..self }
    }

    pub(super) fn copies(&self) -> Option<PinCopies> {
        self.copies.clone()
    }

    /// Writes pieces back to back from `at` on.
    ///
    /// # Errors
    /// They cannot be written.
    pub(crate) fn write(&mut self, mut at: u64, pieces: &[Bytes]) -> Result<()> {
        let path = &self.path;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(path)?),
        };
        for piece in pieces {
            file.write_all_at(piece, at).map_err(|error| Error::io("write", path, error))?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// They may be lost.
    pub(crate) fn sync(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.sync_data().map_err(|error| Error::io("sync", &self.path, error)),
            None => Ok(()),
        }
    }

    /// The bytes of a record.
    pub(super) fn read(&mut self, pin: &PinRecord) -> Result<Bytes> {
        let wrong = |why: &str| {
            Error::refused(format!("{} is not what the journal describes: {why}", self.path.display()))
                .with_hint("start again with --restart")
        };
        if self.file.is_none() {
            self.file = Some(open(&self.path)?);
        }
        let Some(file) = &self.file else { return Err(wrong("it is not open")) };
        let found = file.metadata().map_err(|error| Error::io("look at", &self.path, error))?;
        if pin.at.checked_add(pin.len).is_none_or(|end| end > found.len()) {
            return Err(wrong("it is too short"));
        }
        let mut bytes = vec![0; usize::try_from(pin.len).map_err(|_| wrong("a part is larger than memory"))?];
        file.read_exact_at(&mut bytes, pin.at).map_err(|error| Error::io("read", &self.path, error))?;
        if crc32c::crc32c(&bytes) != pin.crc {
            return Err(wrong("its bytes are not those that were written"));
        }
        Ok(bytes.into())
    }

    /// Removes it, if it is there.
    ///
    /// # Errors
    /// It stays.
    pub(crate) fn remove(&mut self) -> Result<()> {
        self.file = None;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path).map_err(|error| Error::io("open", path, error))?;
    let directory =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| Error::io("sync the directory", directory, error))?;
    Ok(file)
}

/// What an earlier run left of an upload: the truth for a run that goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Earlier {
    /// Parts that the store has.
    pub(crate) parts: BTreeMap<u32, PartRecord>,
    /// Parts of which the pins file has the beginning, or all.
    pub(crate) pins: Vec<PinRecord>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_a_record_may_name_are_left_alone() {
        let mut regions = Regions::default();
        let (a, b) = (regions.take(100), regions.take(50));
        assert_eq!((a.at, b.at), (0, 100));
        regions.release(Pin { region: a, pieces: 1, len: 100, crc: 0, objects: vec!["a".into()] });
        assert_eq!(regions.take(80).at, 150, "the last record names the first range");
        assert!(regions.age().is_empty());
        assert_eq!(regions.take(10).at, 230, "so does the one that is being written");
        assert_eq!(regions.age(), ["a"]);
        assert_eq!(regions.take(80).at, 0);
        assert_eq!(regions.take(20).at, 80);
        assert_eq!(regions.take(1).at, 240);
    }

    #[test]
    fn bytes_come_back_unless_they_are_others() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let mut pins = PinsFile::beside(&journal);
        pins.write(10, &[Bytes::from_static(b"abc"), Bytes::from_static(b"de")]).unwrap();
        pins.sync().unwrap();
        let crc = crc32c::crc32c(b"abcde");
        let record = PinRecord { part: 1, at: 10, len: 5, crc, objects: Vec::new() };
        let mut again = PinsFile::beside(&journal);
        assert_eq!(again.read(&record).unwrap(), &b"abcde"[..]);
        for wrong in [
            PinRecord { len: 6, ..record.clone() },
            PinRecord { at: u64::MAX, ..record.clone() },
            PinRecord { crc: 0, ..record.clone() },
        ] {
            assert_eq!(again.read(&wrong).unwrap_err().kind(), crate::ErrorKind::Refused);
        }
        again.remove().unwrap();
        again.remove().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
