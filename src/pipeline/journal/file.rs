//! The file of a journal, held by the run that writes it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use tokio::runtime::Handle;

use super::{JournalReader, Record, Summary};
use crate::{
    error::{Error, Result},
    source::BoxFuture,
};

/// Keeps what stands in a journal elsewhere too.
pub(crate) trait Mirror: Send + Sync + std::fmt::Debug {
    /// Takes lines that begin at byte `at`: nothing that was there or behind it counts any more. When this
    /// returns, they are durable.
    fn write(&mut self, at: u64, lines: Vec<u8>) -> BoxFuture<'_, Result<()>>;
}

/// A journal open for appending, held under an exclusive lock.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    found: bool,
    /// Bytes in it.
    end: u64,
    mirror: Option<Mirrored>,
}

/// What of a journal is kept elsewhere.
#[derive(Debug)]
struct Mirrored {
    mirror: Box<dyn Mirror>,
    /// The runtime that it needs.
    runtime: Handle,
    /// Lines that it has not been given yet, and where they begin.
    at: u64,
    lines: Vec<u8>,
}

impl Journal {
    /// Opens or creates the journal at `path` and locks it.
    ///
    /// # Errors
    /// Another run holds it, or it cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
            options.read(true).write(true).mode(0o600).custom_flags(nofollow);
            let created = options.clone().create_new(true).open(path);
            let found = matches!(&created, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
            let opened = if found { options.open(path) } else { created };
            let file = match opened {
                // Removed in between by the run that held it.
                Err(error) if found && error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(|error| Error::io("open the journal", path, error))?,
            };
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::refused(format!("{} is in use by another run", path.display()))
                        .with_hint("wait for that run to end, or choose another output"));
                }
                Err(error) => return Err(Error::io("lock the journal", path, error.into())),
            }
            // The run that held the lock may have removed the file in between.
            let ours = file.metadata().map_err(|error| Error::io("look at the journal", path, error))?;
            match std::fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
                _ => continue,
            }
            return Ok(Self { file, path: path.to_owned(), found, end: ours.len(), mirror: None });
        }
    }

    /// Whether an earlier run had made the file. If nothing stands in it, that run was killed at its
    /// very beginning.
    pub(crate) fn was_found(&self) -> bool {
        self.found
    }

    /// Whether it begins like a journal, as far as it goes: what is overwritten and removed should be
    /// one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn begins_like_one(&self) -> Result<bool> {
        let (mut start, mut len) = ([0; BEGINNING.len()], 0);
        while len < start.len() {
            match self.file.read_at(&mut start[len..], len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read the journal", &self.path, error)),
            }
        }
        Ok(start[..len] == BEGINNING[..len])
    }

    /// A second handle at the start of the file, for reading.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn reader(&self) -> Result<JournalReader<File>> {
        let file =
            File::open(&self.path).map_err(|error| Error::io("open the journal", &self.path, error))?;
        Ok(JournalReader::new(file))
    }

    /// What stands in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn summary(&self) -> Result<Option<Summary>> {
        let file =
            File::open(&self.path).map_err(|error| Error::io("open the journal", &self.path, error))?;
        Summary::read(file)
    }

    /// Cuts it at `len` and goes on there.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub(crate) fn truncate(&mut self, len: u64) -> Result<()> {
        let done = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        done.map_err(|error| Error::io("cut the journal", &self.path, error))?;
        self.end = len;
        if let Some(mirrored) = &mut self.mirror {
            (mirrored.at, mirrored.lines) = (len, Vec::new());
        }
        Ok(())
    }

    /// Bytes in it.
    #[cfg(feature = "cloud")]
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Keeps a copy of what is appended from here on by `mirror`, in the runtime that this is called in.
    #[cfg(feature = "cloud")]
    pub(crate) fn mirror_to(&mut self, mirror: Option<Box<dyn Mirror>>) {
        let (at, lines) = (self.end, Vec::new());
        self.mirror = mirror.map(|mirror| Mirrored { mirror, runtime: Handle::current(), at, lines });
    }

    /// Gives the mirror what it has not got yet, if there is one.
    ///
    /// # Errors
    /// It cannot take it: what was appended since may be lost with this machine.
    pub(crate) async fn send_to_mirror(&mut self) -> Result<()> {
        match &mut self.mirror {
            Some(mirrored) => mirrored.send().await,
            None => Ok(()),
        }
    }

    /// The same on a thread that may block.
    ///
    /// # Errors
    /// As for [`send_to_mirror`](Self::send_to_mirror).
    pub(crate) fn send_to_mirror_blocking(&mut self) -> Result<()> {
        match &mut self.mirror {
            Some(mirrored) => mirrored.runtime.clone().block_on(mirrored.send()),
            None => Ok(()),
        }
    }

    /// Appends lines of a journal as they are.
    ///
    /// # Errors
    /// They may be lost.
    pub(crate) fn copy(&mut self, lines: &[u8]) -> Result<()> {
        let done = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        done.map_err(|error| Error::io("write the journal", &self.path, error))?;
        self.end += lines.len() as u64;
        Ok(())
    }

    /// Appends records and makes them durable.
    ///
    /// # Errors
    /// They may be lost.
    pub(crate) fn append(&mut self, records: impl IntoIterator<Item = Record>) -> Result<()> {
        let mut lines = Vec::new();
        for record in records {
            lines.extend_from_slice(&record.to_line()?);
        }
        self.copy(&lines)?;
        if let Some(mirrored) = &mut self.mirror {
            mirrored.lines.extend(lines);
        }
        Ok(())
    }

    /// Removes it; the last step of a complete run.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| Error::io("remove the journal", &self.path, error))
    }
}

impl Mirrored {
    async fn send(&mut self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.mirror.write(self.at, self.lines.clone()).await?;
        self.at += self.lines.len() as u64;
        self.lines.clear();
        Ok(())
    }
}

/// What every journal begins with.
const BEGINNING: &[u8] = b"{\"record\":\"header\",";
