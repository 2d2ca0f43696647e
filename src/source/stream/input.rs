//! Where the bytes of a stream come from.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{
    error::{Error, Result},
    source::{ByteStore as _, FileStore, Restart, SourceIdentity, file, num::to_u64},
};

/// What is known of a source apart from its bytes.
#[derive(Clone, Debug)]
pub(in crate::source) struct Origin {
    /// What people call it.
    pub(in crate::source) name: String,
    /// What must be the same for another run to go on with it.
    pub(in crate::source) identity: Option<SourceIdentity>,
    /// Whether it can be had again.
    pub(in crate::source) restart: Restart,
}

/// The bytes of a source, in order. Calls block.
pub(in crate::source) trait Input: Send + 'static {
    /// Where they come from.
    fn origin(&self) -> &Origin;

    /// Bytes that are at hand, waiting for some if there are none; empty at the end.
    fn fill(&mut self) -> Result<&[u8]>;

    /// Bytes at hand, at least `len` unless the source has fewer left.
    fn peek(&mut self, len: usize) -> Result<&[u8]>;

    /// Takes `len` of the bytes at hand.
    fn consume(&mut self, len: usize);

    /// Takes the next bytes into `out`; 0 at the end.
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let at_hand = self.fill()?;
        let len = at_hand.len().min(out.len());
        out[..len].copy_from_slice(&at_hand[..len]);
        self.consume(len);
        Ok(len)
    }

    /// Number of bytes taken.
    fn taken(&self) -> u64;

    /// Whether the source still is what it was at the start.
    fn check_unchanged(&mut self) -> Result<()> {
        Ok(())
    }

    /// The error for a source whose bytes ended in the middle of a `format` stream.
    fn cut_short(&self, format: &str) -> Error {
        Error::failed(format!(
            "{} is cut short: its {format} stream does not end within the {} bytes there are",
            self.origin().name,
            self.taken()
        ))
        .with_hint("the file or pipe is incomplete: make or fetch it again")
    }
}

/// The error for a source that is not a valid `format` stream near byte `at`.
pub(super) fn broken(origin: &Origin, format: &str, at: u64) -> Error {
    Error::failed(format!("{} is not a valid {format} stream near byte {at}", origin.name))
}

/// A file or a pipe.
#[derive(Debug)]
pub(in crate::source) struct FileInput {
    file: File,
    path: PathBuf,
    origin: Origin,
    buffer: Vec<u8>,
    /// Bytes at hand: `buffer[start..end]`.
    start: usize,
    end: usize,
    taken: u64,
}

impl FileInput {
    /// Reads a file or device from its start.
    ///
    /// # Errors
    /// It cannot be positioned there.
    pub(in crate::source) fn file(store: &FileStore) -> Result<Self> {
        let (file, path) = store.duplicate()?;
        let origin = Origin { name: store.name(), identity: store.identity(), restart: Restart::FromStart };
        Ok(Self::new(file, path, origin))
    }

    /// Reads standard input.
    ///
    /// # Errors
    /// It is closed or a terminal.
    pub(in crate::source) fn stdin() -> Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(Error::usage("stdin is a terminal, not a disk")
                .with_hint("pipe or redirect a disk into it: '< disk.img' or 'zcat disk.gz |'"));
        }
        let file = stdin
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Error::io("read", Path::new("stdin"), error))?;
        Ok(Self::pipe(File::from(file), "stdin"))
    }

    /// Reads what comes through `file`, once.
    pub(in crate::source) fn pipe(file: File, name: &str) -> Self {
        // A pipe set to non-blocking by its other user would end reads early; one with room for
        // more bytes saves switches between the processes. Both are improvements only: sources
        // that are no pipes refuse them.
        if let Ok(flags) = rustix::fs::fcntl_getfl(&file)
            && flags.contains(OFlags::NONBLOCK)
        {
            let _set = rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK);
        }
        let _set = rustix::pipe::fcntl_setpipe_size(&file, PIPE_LEN);
        let origin = Origin { name: name.to_owned(), identity: None, restart: Restart::Never };
        Self::new(file, PathBuf::from(name), origin)
    }

    fn new(file: File, path: PathBuf, origin: Origin) -> Self {
        Self { file, path, origin, buffer: vec![0; BUFFER_LEN], start: 0, end: 0, taken: 0 }
    }

    /// Reads behind the bytes at hand; 0 at the end.
    fn more(&mut self) -> Result<usize> {
        let len = read(
            &mut self.file,
            &self.path,
            self.taken + to_u64(self.end - self.start),
            &mut self.buffer[self.end..],
        )?;
        self.end += len;
        Ok(len)
    }
}

impl Input for FileInput {
    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn peek(&mut self, len: usize) -> Result<&[u8]> {
        let len = len.min(self.buffer.len());
        if self.end - self.start < len {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            while self.end < len && self.more()? > 0 {}
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, len: usize) {
        let len = len.min(self.end - self.start);
        self.start += len;
        self.taken += to_u64(len);
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let at_hand = self.end - self.start;
        if at_hand == 0 && out.len() >= DIRECT_LEN {
            let len = read(&mut self.file, &self.path, self.taken, out)?;
            self.taken += to_u64(len);
            return Ok(len);
        }
        if at_hand == 0 {
            self.fill()?;
        }
        let len = (self.end - self.start).min(out.len());
        out[..len].copy_from_slice(&self.buffer[self.start..self.start + len]);
        self.consume(len);
        Ok(len)
    }

    fn taken(&self) -> u64 {
        self.taken
    }

    fn check_unchanged(&mut self) -> Result<()> {
        file::check_unchanged(&self.file, &self.path, self.origin.identity.as_ref())
    }
}

fn read(file: &mut File, path: &Path, at: u64, out: &mut [u8]) -> Result<usize> {
    loop {
        match file.read(out) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(&format!("read at byte {at} of"), path, error)),
            Ok(len) => return Ok(len),
        }
    }
}

/// Encoded bytes read at once: large enough that system calls do not show beside inflating.
const BUFFER_LEN: usize = 512 << 10;

/// From this length on bytes go straight to where they are wanted.
const DIRECT_LEN: usize = 64 << 10;

/// Bytes that a pipe may hold: the most that the kernel grants to everybody by default.
const PIPE_LEN: usize = 1 << 20;
