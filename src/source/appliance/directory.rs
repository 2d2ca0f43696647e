//! The directory of an OVF descriptor. The descriptor comes from anywhere, so what it names is
//! opened in its own directory only, and never behind a link.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fd::{AsFd as _, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags},
};
use vmferry_formats::{ova::MAX_SUMS_LEN, ovf::MAX_DESCRIPTOR_LEN};

use crate::{
    error::{Error, Result},
    source::{ByteStore, FileStore, file::read_range, image::open_beside, num::to_usize, open::blocking},
};

/// A directory with a descriptor in it.
pub(super) struct Directory {
    root: Arc<OwnedFd>,
    path: PathBuf,
    descriptor: String,
}

/// Opens the directory of the descriptor at `path`, and reads that.
pub(super) async fn open(path: PathBuf) -> Result<(Directory, Vec<u8>)> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let name = name.ok_or_else(|| Error::usage(format!("{} is no name of a descriptor", path.display())))?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // The user named the descriptor, so that one may be a link.
    let (root, store) = blocking(move || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&parent, flags, Mode::empty())
            .map_err(|error| Error::io("open the directory", &parent, error.into()))?;
        Ok((Directory { root: Arc::new(root), path: parent, descriptor: name }, FileStore::open(&path)?))
    })
    .await?;
    let text = read_small(Arc::new(store), MAX_DESCRIPTOR_LEN).await?;
    Ok((root, text))
}

impl Directory {
    /// The name of the descriptor.
    pub(super) fn descriptor(&self) -> &str {
        &self.descriptor
    }

    /// Name and bytes of the file with the descriptor's name and another extension, if there is one.
    pub(super) async fn beside(&self, extension: &str) -> Result<Option<(String, Vec<u8>)>> {
        let base = self.descriptor.rsplit_once('.').map_or(self.descriptor.as_str(), |(base, _)| base);
        let name = format!("{base}.{extension}");
        if self.size_of(&name).is_none() {
            return Ok(None);
        }
        let bytes = read_small(self.file(&name).await?, MAX_SUMS_LEN).await?;
        Ok(Some((name, bytes)))
    }

    /// The bytes of a file of that bare name; `None` if it is not there, or is no file.
    pub(super) fn size_of(&self, name: &str) -> Option<u64> {
        let found = rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        u64::try_from(found.st_size).ok().filter(|_| is_file)
    }

    /// Opens a file.
    pub(super) async fn file(&self, name: &str) -> Result<Arc<dyn ByteStore>> {
        let (root, path, name) = (Arc::clone(&self.root), self.path.clone(), name.to_owned());
        let what = path.join(&self.descriptor).display().to_string();
        let store = blocking(move || open_beside(root.as_fd(), &path, &name, &what)).await?;
        Ok(Arc::new(store))
    }
}

/// Reads a file that must be short.
async fn read_small(store: Arc<dyn ByteStore>, limit: u64) -> Result<Vec<u8>> {
    if store.size() > limit {
        return Err(Error::refused(format!(
            "{} has {} bytes; up to {limit} are read",
            store.name(),
            store.size()
        )));
    }
    let (mut bytes, mut at) = (Vec::new(), 0);
    while at < store.size() {
        let len = (store.size() - at).min(PIECE_LEN);
        bytes.extend_from_slice(&read_range(&store, at, to_usize(len)).await?);
        at += len;
    }
    Ok(bytes)
}

/// Bytes read at once.
const PIECE_LEN: u64 = 1 << 20;
