//! Files that an image refers to. Naming a file of the host in an image, and having it copied into
//! the output, is a known attack: nothing is opened unless the user says in which directory, and
//! then only regular files that lie in it themselves, never behind a link.

use std::{fs::File, path::Path, sync::Arc};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::Tables;
use crate::{
    error::{Error, Result},
    source::{ByteStore as _, FileStore},
};

/// The error for an image that refers to other files where none are allowed.
pub(super) fn refused(image: &str) -> Error {
    Error::refused(format!("{image} keeps its data in other files, which are not opened unasked")).with_hint(
        "if you trust the image, name the directory that holds these files with --allow-backing; for a URL, download \
         image and files first",
    )
}

/// Opens the files `names` in `directory` and answers their lengths.
pub(super) fn open(directory: &Path, names: &[String], tables: &mut Tables) -> Result<Vec<u64>> {
    if names.len() > MAX_FILES {
        return Err(Error::refused(format!(
            "{} names {} files; up to {MAX_FILES} are opened",
            tables.name(),
            names.len()
        )));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| Error::io("open the directory", directory, error.into()))?;
    let mut lens = Vec::with_capacity(names.len());
    for name in names {
        let store = open_beside(root.as_fd(), directory, name, &tables.name())?;
        lens.push(store.size());
        tables.add(Arc::new(store));
    }
    Ok(lens)
}

/// Opens the file `name`, which `named_by` names, in `root`, whose path is `directory`.
///
/// # Errors
/// The name is not a bare one, or the file is a link, a device or something else, or cannot be opened.
pub(in crate::source) fn open_beside(
    root: BorrowedFd<'_>,
    directory: &Path,
    name: &str,
    named_by: &str,
) -> Result<FileStore> {
    let path = directory.join(name);
    let bare = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if !bare {
        return Err(Error::refused(format!("{named_by} names {name:?}, which is not a bare file name")));
    }
    let file = open_beneath(root, name).map_err(|error| match error {
        Errno::LOOP | Errno::XDEV => {
            Error::refused(format!("{} is a link, and links are not followed", path.display()))
                .with_hint("put the file itself into the directory")
        }
        _ => Error::io("open", &path, error.into()),
    })?;
    let store = FileStore::from_file(File::from(file), &path)?;
    if store.is_block_device() {
        return Err(Error::refused(format!("{} is a block device, not a file", path.display())));
    }
    Ok(store)
}

/// Opens `name`, a bare name, in `root` and nowhere else.
fn open_beneath(root: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    // Not blocking: opening a pipe must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve) {
        // Kernels before 5.6, and sandboxes that do not know the call. A bare name without
        // following links stays in the directory too.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(&root, name, flags, Mode::empty()),
        result => result,
    }
}

/// Most files of one image: a 64 TiB disk in pieces of 2 GiB has 32,768, and each takes a file
/// descriptor, of which a process usually has 1,024.
const MAX_FILES: usize = 512;
