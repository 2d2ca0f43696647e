//! What an output is called while it is made, and how it gets its final name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use sha2::{Digest as _, Sha256};

use super::{
    journal::{Closed, Header, Journal, JournalReader},
    manifest::{self, ContainerHead, ContainerTail, Head, ManifestWriter, Tail},
    process::Check,
    stages::{DiskChecks, ExpectedChecks as _},
};
use crate::error::{Error, Result};

/// The files of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetPaths {
    /// Final path.
    pub(crate) output: PathBuf,
    /// Where the bytes go until they are complete: `<output>.partial`, or the device itself.
    pub(crate) partial: PathBuf,
    pub(crate) journal: PathBuf,
    pub(crate) manifest: PathBuf,
    pub(crate) is_device: bool,
    /// The output is an object: its paths are URLs, and only the journal is a file.
    pub(crate) is_object: bool,
    pub(crate) force: bool,
}

impl TargetPaths {
    /// Names the files for `output`.
    ///
    /// # Errors
    /// The output cannot be looked at, or there is no place for a device's journal.
    pub(crate) fn new(output: &Path, journal: Option<&Path>, force: bool) -> Result<Self> {
        let found = match fs::metadata(output) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io("look at", output, error)),
        };
        let file_name = output
            .file_name()
            .ok_or_else(|| Error::usage(format!("{} is not a file name", output.display())))?;
        if output.as_os_str().as_bytes().ends_with(b"/") || found.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(Error::usage(format!("{} is a directory", output.display()))
                .with_hint("name the file to write"));
        }
        let is_device = found.as_ref().is_some_and(|found| found.file_type().is_block_device());
        if let Some(found) = &found
            && !is_device
            && !found.is_file()
        {
            return Err(Error::refused(format!("{} is neither a file nor a block device", output.display()))
                .with_hint("use - to write to a pipe"));
        }
        let beside = |suffix: &str| {
            let mut name = file_name.to_owned();
            name.push(suffix);
            output.with_file_name(name)
        };
        let (partial, journal, manifest) = match (is_device, journal) {
            (false, journal) => {
                let journal = journal.map_or_else(|| beside(".partial.journal"), Path::to_owned);
                (beside(".partial"), journal, beside(".vmferry.jsonl"))
            }
            (true, None) => {
                (output.to_owned(), state_file(output, ".journal")?, state_file(output, ".vmferry.jsonl")?)
            }
            // Where there is no directory for state, the manifest goes beside the journal.
            (true, Some(journal)) => {
                let manifest = state_file(output, ".vmferry.jsonl").unwrap_or_else(|_| {
                    let mut name = journal.as_os_str().to_owned();
                    name.push(".vmferry.jsonl");
                    name.into()
                });
                (output.to_owned(), journal.to_owned(), manifest)
            }
        };
        if [output, &partial, &manifest].contains(&&*journal) {
            return Err(Error::usage(format!("{} cannot be the journal too", journal.display()))
                .with_hint("name another file with --journal"));
        }
        Ok(Self { output: output.to_owned(), partial, journal, manifest, is_device, is_object: false, force })
    }

    /// Names what belongs to the object at `url`. `place` says which store that is, if the URL does not.
    ///
    /// # Errors
    /// There is no place for its journal.
    #[cfg(feature = "cloud")]
    pub(crate) fn of_object(url: &str, place: &str, journal: Option<&Path>, force: bool) -> Result<Self> {
        let journal = match journal {
            Some(journal) => journal.to_owned(),
            None => state_of(format!("{url} {place}").as_bytes(), ".journal")?,
        };
        let (output, manifest) = (PathBuf::from(url), PathBuf::from(format!("{url}.vmferry.jsonl")));
        let partial = output.clone();
        Ok(Self { output, partial, journal, manifest, is_device: false, is_object: true, force })
    }

    /// Final base name of the output.
    pub(crate) fn base_name(&self) -> String {
        self.output.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// Refuses what the user did not ask to overwrite.
    ///
    /// # Errors
    /// The output or its manifest exists and there is no `force`. A manifest counts even where none is
    /// written: it would be taken for that of the new output.
    pub(crate) fn check_free(&self) -> Result<()> {
        if self.force {
            return Ok(());
        }
        if self.is_device {
            return Err(Error::refused(format!(
                "{} is a block device; its content would be overwritten",
                self.output.display()
            ))
            .with_hint("say --force if that is what you want"));
        }
        for path in [&self.output, &self.manifest] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(Error::refused(format!("{} exists", path.display()))
                    .with_hint("choose another name, or say --force to overwrite it"));
            }
        }
        Ok(())
    }

    /// Creates the partial output, or opens the device, empty. Nothing may stand in the way.
    ///
    /// # Errors
    /// It exists, or cannot be created, or the device is in use.
    pub(crate) fn create(&self) -> Result<File> {
        if self.is_device {
            return self.open_device();
        }
        let created = OpenOptions::new().read(true).write(true).create_new(true).open(&self.partial);
        let file = created.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::refused(format!("{} is in the way", self.partial.display()))
                    .with_hint("it belongs to no journal: remove it, or say --restart")
            }
            _ => Error::io("create", &self.partial, error),
        })?;
        self.hold(&file)?;
        Ok(file)
    }

    /// Opens the partial output of an earlier run.
    ///
    /// # Errors
    /// It is gone or cannot be opened.
    pub(crate) fn reopen(&self) -> Result<File> {
        if self.is_device {
            return self.open_device();
        }
        let opened = OpenOptions::new().read(true).write(true).custom_flags(NOFOLLOW).open(&self.partial);
        let file = opened.map_err(|error| {
            Error::io("open", &self.partial, error).with_hint("start again with --restart")
        })?;
        self.hold(&file)?;
        Ok(file)
    }

    /// Locks the partial output, as long as it is open: a run with another journal must not touch it.
    fn hold(&self, file: &File) -> Result<()> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::refused(format!("{} is in use by another run", self.partial.display()))
                    .with_hint("wait for that run to end, or choose another output"))
            }
            // Where files cannot be locked, the journal's lock must do.
            _ => Ok(()),
        }
    }

    fn open_device(&self) -> Result<File> {
        // Without O_CREAT, O_EXCL means that nobody has the device mounted or otherwise in use.
        let opened = OpenOptions::new().read(true).write(true).custom_flags(EXCL).open(&self.output);
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Error::refused(format!("{} is in use", self.output.display()))
                .with_hint("unmount it, or stop what uses it"),
            _ => Error::io("open", &self.output, error),
        })
    }

    /// What tells the output from another file: device and inode, or device number and length of a
    /// block device.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(crate) fn identity_of(&self, file: &File) -> Result<(u64, u64)> {
        let found = file.metadata().map_err(|error| Error::io("look at", &self.partial, error))?;
        if !self.is_device {
            return Ok((found.dev(), found.ino()));
        }
        let len = io::Seek::seek(&mut &*file, io::SeekFrom::End(0));
        let len = len.map_err(|error| Error::io("find the size of", &self.partial, error))?;
        Ok((found.rdev(), len))
    }

    /// Removes what an earlier run left, on the user's word.
    ///
    /// # Errors
    /// Another run is writing it, or it cannot be removed.
    pub(crate) fn discard(&self) -> Result<()> {
        if self.is_device {
            return Ok(());
        }
        if let Ok(file) = OpenOptions::new().read(true).custom_flags(NOFOLLOW).open(&self.partial) {
            self.hold(&file)?;
        }
        match fs::remove_file(&self.partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.partial, error))
            }
            _ => Ok(()),
        }
    }

    /// Removes a partial output in which nothing stands yet: a run was killed between making it and
    /// saying so in its journal.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn discard_empty(&self) -> Result<()> {
        match fs::symlink_metadata(&self.partial) {
            Ok(found) if found.is_file() && found.len() == 0 => self.discard(),
            _ => Ok(()),
        }
    }

    /// Makes the directory entries of the output durable.
    ///
    /// # Errors
    /// The directory cannot be synced.
    pub(crate) fn sync_directory(&self) -> Result<()> {
        let mut directories = vec![parent(&self.journal)];
        if !self.is_device && !self.is_object && parent(&self.output) != directories[0] {
            directories.push(parent(&self.output));
        }
        for directory in directories {
            let synced = File::open(directory).and_then(|opened| opened.sync_all());
            synced.map_err(|error| Error::io("sync the directory", directory, error))?;
        }
        Ok(())
    }

    /// Where the image is that a run made completely: still the partial output, or the output, if that
    /// run was killed behind the rename.
    ///
    /// # Errors
    /// It is in neither place; what has its name there is another file.
    pub(crate) fn made(&self, header: &Header, closed: &Closed) -> Result<&Path> {
        if self.is_device {
            return Ok(&self.output);
        }
        for path in [&self.partial, &self.output] {
            match fs::symlink_metadata(path) {
                Ok(found)
                    if (found.dev(), found.ino()) == (header.device, header.inode)
                        && found.len() == closed.output_size =>
                {
                    return Ok(path);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("look at", path, error));
                }
                _ => {}
            }
        }
        Err(Error::refused(format!(
            "the image that was made is gone: {} is not the file that was written",
            self.partial.display()
        ))
        .with_hint("if it was moved elsewhere, it is complete; start again with --restart"))
    }

    /// The steps behind the closing record: rename, manifest, directory, journal. Each may have
    /// been done by a run that was killed in between.
    ///
    /// # Errors
    /// A step failed; running the same command again takes it up here.
    pub(crate) fn complete(
        &self,
        journal: Journal,
        header: &Header,
        closed: &Closed,
        content: Option<&ManifestContent>,
    ) -> Result<Option<PathBuf>> {
        if self.made(header, closed)? == self.partial && !self.is_device {
            self.rename(&self.partial, &self.output)?;
        }
        let manifest = match content {
            Some(content) => Some(self.write_manifest(&journal, content)?),
            None => {
                self.remove_stale_manifest()?;
                None
            }
        };
        self.sync_directory()?;
        journal.remove()?;
        self.sync_directory()?;
        Ok(manifest)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => {
                Err(Error::refused(format!("{} appeared while it was being made", to.display())).with_hint(
                    format!(
                        "the complete image is {}; move it yourself, or run again with --force",
                        from.display()
                    ),
                ))
            }
            // A file system without RENAME_NOREPLACE: a hard link refuses to replace as well.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                let linked = fs::hard_link(from, to).and_then(|()| fs::remove_file(from));
                linked.map_err(|error| Error::io("give its final name to", from, error))
            }
            Err(error) => Err(Error::io("give its final name to", from, error.into())),
        }
    }

    /// Removes the manifest of what was overwritten: it is not true of the new output.
    fn remove_stale_manifest(&self) -> Result<()> {
        if !self.force {
            return Ok(());
        }
        match fs::remove_file(&self.manifest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.manifest, error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the manifest from the journal, so that it is the same whether the run was resumed.
    fn write_manifest(&self, journal: &Journal, content: &ManifestContent) -> Result<PathBuf> {
        let mut name = self.manifest.clone().into_os_string();
        name.push(".partial");
        let partial = PathBuf::from(name);
        let failed = |error| Error::io("write", &partial, error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(NOFOLLOW)
            .open(&partial)
            .map_err(failed)?;
        let mut file = content.write(journal.reader()?, file)?;
        file.flush().and_then(|()| file.sync_data()).map_err(failed)?;
        fs::rename(&partial, &self.manifest).map_err(|error| Error::io("rename", &partial, error))?;
        Ok(self.manifest.clone())
    }
}

/// What a manifest says beside the chunk digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ManifestContent {
    /// First and last line of each disk.
    pub(crate) disks: Vec<(Head, Tail)>,
    /// First and last line, if the disks lie in a container.
    pub(crate) container: Option<(ContainerHead, ContainerTail)>,
}

impl ManifestContent {
    /// Writes the manifest, with the digests of a journal, to `writer`, and gives it back.
    ///
    /// # Errors
    /// The journal cannot be read or the manifest not be written.
    pub(crate) fn write<W: io::Write>(&self, journal: JournalReader<File>, writer: W) -> Result<W> {
        let mut writer = ManifestWriter::new(writer);
        if let Some((head, _)) = &self.container {
            writer.line(head)?;
        }
        let mut chunks = DiskChecks::new(journal, 0);
        for (head, tail) in &self.disks {
            writer.line(head)?;
            while let Some((at, len, check)) = chunks.next_run()? {
                if let Check::Digest(digest) = check {
                    writer.push(at, len, digest)?;
                }
            }
            writer.end_disk(tail)?;
            chunks.next_disk();
        }
        if let Some((_, tail)) = &self.container {
            writer.line(tail)?;
        }
        writer.finish()
    }
}

/// First line of the manifest of an image.
pub(crate) fn manifest_head(
    spec: &vmferry_formats::WriterSpec,
    algorithm: vmferry_formats::digest::Algorithm,
    size: u64,
) -> Head {
    Head {
        version: manifest::VERSION,
        format: spec.format().name().into(),
        parameters: spec.to_string(),
        virtual_size: size,
        content_size: size.next_multiple_of(512),
        digest: format!("tree-{algorithm}"),
        leaf_size: vmferry_formats::chunk::LEAF_LEN as u64,
        chunk_size: vmferry_formats::chunk::CHUNK_LEN,
        file: None,
        offset: None,
    }
}

/// Whether two paths lead to the same file.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where state about a target lives that has no file beside it.
fn state_file(target: &Path, suffix: &str) -> Result<PathBuf> {
    let absolute = fs::canonicalize(target).map_err(|error| Error::io("look at", target, error))?;
    state_of(absolute.as_os_str().as_bytes(), suffix)
}

/// Where state about what `name` names lives.
///
/// # Errors
/// There is no directory for it.
pub(crate) fn state_of(name: &[u8], suffix: &str) -> Result<PathBuf> {
    let base = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")))
        .ok_or_else(|| {
            Error::usage("there is no directory for the journal: neither XDG_STATE_HOME nor HOME is set")
                .with_hint("name one with --journal PATH")
        })?;
    let directory = base.join("vmferry");
    fs::create_dir_all(&directory).map_err(|error| Error::io("create", &directory, error))?;
    let hash = Sha256::digest(name);
    let name: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(directory.join(name + suffix))
}

/// O_NOFOLLOW and O_EXCL as `custom_flags` takes them.
const NOFOLLOW: i32 = libc::O_NOFOLLOW;
const EXCL: i32 = libc::O_EXCL;
