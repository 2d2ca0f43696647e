//! Disks and images in files and on block devices.
//!
//! Reads are positional and run on blocking threads, so any number of them may be in flight. A file
//! that changes while it is read is an error, as far as the file system lets it be noticed: a short
//! read, a hole beyond a new end, and [`ByteStore::check_unchanged`] in the end.

use std::{
    fs::File,
    io,
    num::NonZero,
    ops::Range,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Advice, SeekFrom};
use vmferry_formats::zero::is_zero;

use super::{
    BoxFuture, ByteStore, ReadRange, SourceIdentity, SparseRead, StoreExtent,
    num::{to_u64, to_usize},
};
use crate::{
    error::{Error, ErrorKind, Result},
    pipeline::buffer::Buffer,
};

/// A regular file or a block device, open for reading.
#[derive(Debug)]
pub struct FileStore {
    file: File,
    path: PathBuf,
    size: u64,
    /// `None` for a block device.
    identity: Option<SourceIdentity>,
}

impl FileStore {
    /// Opens a regular file or a block device.
    ///
    /// # Errors
    /// It cannot be opened, or is something else (a directory, a pipe).
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
        accept_kind(path, &metadata)?;
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        Self::from_file(file, path)
    }

    /// Takes a file that is open already; `path` is what people call it.
    ///
    /// # Errors
    /// It is neither a regular file nor a block device.
    pub(super) fn from_file(file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| Error::io("look at", path, error))?;
        accept_kind(path, &metadata)?;
        let (size, identity) = if metadata.file_type().is_block_device() {
            // The length of a device is where its end is; the kernel answers as to BLKGETSIZE64.
            let end = rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|error| Error::io("find the size of", path, error.into()))?;
            (end, None)
        } else {
            (metadata.len(), Some(identity_of(&metadata)))
        };
        // Reads are long, so a sparse file needs no read-ahead: that would fill memory with zeros of
        // holes. A file system that does not take advice still reads.
        let is_sparse = metadata.is_file() && metadata.blocks() * 512 < size;
        let advice = if is_sparse { Advice::Random } else { Advice::Sequential };
        let _taken = rustix::fs::fadvise(&file, 0, None, advice);
        Ok(Self { file, path: path.to_owned(), size, identity })
    }

    /// Whether it is a block device.
    pub fn is_block_device(&self) -> bool {
        self.identity.is_none()
    }

    /// The file at its first byte, for reading it in order. The position is shared with this store,
    /// which uses it for [`extent_at`](ByteStore::extent_at) only.
    pub(super) fn duplicate(&self) -> Result<(File, PathBuf)> {
        let file = self.file.try_clone().map_err(|error| Error::io("read", &self.path, error))?;
        rustix::fs::seek(&file, SeekFrom::Start(0))
            .map_err(|error| Error::io("read", &self.path, error.into()))?;
        Ok((file, self.path.clone()))
    }

    fn read_all(&self, reads: &[ReadRange], buffer: &mut [u8]) -> Result<()> {
        for read in reads {
            self.read_exact(read.offset, target_of(read, buffer)?)?;
        }
        Ok(())
    }

    /// Reads step by step as long as zeros come, all of them into the same place, which stays in
    /// the cache: zeros that a disk has allocated cost half of what they cost if they were spread over
    /// memory first and looked for later. From the first other byte on the rest comes in one read.
    fn read_all_but_zeros(&self, reads: &[ReadRange], buffer: &mut [u8]) -> Result<Vec<Range<usize>>> {
        let mut holes: Vec<Range<usize>> = Vec::new();
        for read in reads {
            let target = target_of(read, buffer)?;
            let mut zeros = 0;
            while zeros < target.len() {
                let len = STEP.min(target.len() - zeros);
                self.read_exact(read.offset + to_u64(zeros), &mut target[..len])?;
                if !is_zero(&target[..len]) {
                    target.copy_within(..len, zeros);
                    let rest = zeros + len;
                    self.read_exact(read.offset + to_u64(rest), &mut target[rest..])?;
                    break;
                }
                if zeros == 0 && target.len() > len {
                    // The steps are short: without this, a file that is not cached would be waited for at each.
                    self.announce(read.offset, target.len());
                }
                zeros += len;
            }
            if zeros > 0 {
                holes.push(read.at..read.at + zeros);
            }
        }
        holes.sort_unstable_by_key(|hole| hole.start);
        Ok(holes)
    }

    /// Has the kernel fetch a range, if it takes advice.
    fn announce(&self, offset: u64, len: usize) {
        let _taken = rustix::fs::fadvise(&self.file, offset, NonZero::new(to_u64(len)), Advice::WillNeed);
    }

    fn read_exact(&self, offset: u64, target: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < target.len() {
            let at = offset + to_u64(done);
            match self.file.read_at(&mut target[done..], at) {
                Ok(0) => return Err(self.shrunk(at)),
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::io(
                        &format!("read {} bytes at {at} of", target.len() - done),
                        &self.path,
                        error,
                    ));
                }
            }
        }
        Ok(())
    }

    fn shrunk(&self, end: u64) -> Error {
        Error::new(
            ErrorKind::SourceChanged,
            format!(
                "{} is shorter than when it was opened: it had {} bytes, and there are none at {end} now",
                self.path.display(),
                self.size
            ),
        )
        .with_hint("nothing may write to the source while it is read: stop the VM, or read a snapshot")
    }
}

impl ByteStore for FileStore {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn allocated(&self) -> Option<u64> {
        // st_blocks counts units of 512 bytes, whatever the file system's block is.
        self.file.metadata().ok().filter(|found| found.is_file()).map(|found| found.blocks() * 512)
    }

    fn identity(&self) -> Option<SourceIdentity> {
        self.identity.clone()
    }

    fn extent_at(&self, offset: u64) -> Result<StoreExtent> {
        let data = |end: u64| Ok(StoreExtent::Data(offset..end));
        if self.is_block_device() {
            return data(self.size);
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) if start > offset => Ok(StoreExtent::Zero(offset..start.min(self.size))),
            Ok(_) => match rustix::fs::seek(&self.file, SeekFrom::Hole(offset)) {
                Ok(end) if end > offset => data(end.min(self.size)),
                // The file changes under us, or the file system has no holes to tell: read all.
                _ => data(self.size),
            },
            // A hole up to the end of the file, which must be where it was: zeros that nobody read
            // must not stand for bytes that are gone.
            Err(rustix::io::Errno::NXIO) => {
                let metadata =
                    self.file.metadata().map_err(|error| Error::io("look at", &self.path, error))?;
                if metadata.len() < self.size {
                    return Err(self.shrunk(metadata.len()));
                }
                Ok(StoreExtent::Zero(offset..self.size))
            }
            // The file system does not know.
            Err(_) => data(self.size),
        }
    }

    fn read(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        mut buffer: Buffer,
    ) -> BoxFuture<'static, Result<Buffer>> {
        let name = self.name();
        on_blocking_thread(name, move || {
            self.read_all(&reads, &mut buffer)?;
            Ok(buffer)
        })
    }

    fn read_sparse(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        mut buffer: Buffer,
    ) -> BoxFuture<'static, Result<SparseRead>> {
        let name = self.name();
        on_blocking_thread(name, move || {
            let holes = self.read_all_but_zeros(&reads, &mut buffer)?;
            Ok(SparseRead { buffer, holes })
        })
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn check_unchanged(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(check_unchanged(&self.file, &self.path, self.identity.as_ref())))
    }
}

/// Runs `read`, which waits for the file called `name`.
fn on_blocking_thread<T: Send + 'static>(
    name: String,
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> BoxFuture<'static, Result<T>> {
    Box::pin(async move {
        let read = tokio::task::spawn_blocking(read);
        read.await
            .map_err(|error| Error::failed(format!("reading {name} was given up")).with_source(error))?
    })
}

/// The part of `buffer` that `read` fills.
fn target_of<'a>(read: &ReadRange, buffer: &'a mut [u8]) -> Result<&'a mut [u8]> {
    let end = read.at.checked_add(read.len);
    end.and_then(|end| buffer.get_mut(read.at..end))
        .ok_or_else(|| Error::failed(format!("{read:?} does not fit into its buffer")))
}

/// Bytes of a step through zeros: far less than the cache of a core.
const STEP: usize = 128 << 10;

/// Reads worth having in flight: enough to keep a disk's queue filled.
const CONCURRENCY: usize = 4;

/// Whether `file` still is what it was when `identity` was taken; always so for devices.
pub(super) fn check_unchanged(file: &File, path: &Path, identity: Option<&SourceIdentity>) -> Result<()> {
    let Some(before) = identity else { return Ok(()) };
    let metadata = file.metadata().map_err(|error| Error::io("look at", path, error))?;
    let now = identity_of(&metadata);
    if is_same_content(before, &now) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::SourceChanged, format!("{} was written to while it was read", path.display()))
        .with_hint("stop whatever writes to it, or read a snapshot, and start again"))
}

/// Content is the same as long as size and modification time are: a change of permissions or links
/// alone moves the status change time only.
fn is_same_content(before: &SourceIdentity, now: &SourceIdentity) -> bool {
    match (before, now) {
        (
            SourceIdentity::File { size, modified_ns, .. },
            SourceIdentity::File { size: size_now, modified_ns: modified_now, .. },
        ) => size == size_now && modified_ns == modified_now,
        _ => before == now,
    }
}

fn identity_of(metadata: &std::fs::Metadata) -> SourceIdentity {
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    SourceIdentity::File {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn accept_kind(path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let (what, hint) = if kind.is_dir() {
        ("a directory", "name the disk image in it")
    } else if kind.is_fifo() {
        ("a pipe", "read it with '-' as the source and '< PIPE'")
    } else if kind.is_char_device() {
        ("a character device", "name a block device or a file")
    } else {
        ("a socket", "name a block device or a file")
    };
    Err(Error::usage(format!("{} is {what}, not a file or block device", path.display())).with_hint(hint))
}

/// Reads `len` bytes at `offset` of `store`.
pub(super) async fn read_range(store: &Arc<dyn ByteStore>, offset: u64, len: usize) -> Result<Buffer> {
    let buffer = crate::pipeline::buffer::BufferPool::new(len).get();
    Arc::clone(store).read(vec![ReadRange { offset, at: 0, len }], buffer).await
}

/// The first and the last bytes of `store`, for looking at its magic.
pub(super) async fn head_and_tail(store: &Arc<dyn ByteStore>) -> Result<(Buffer, Buffer)> {
    let size = store.size();
    let head_len = size.min(to_u64(vmferry_formats::HEAD_LEN));
    let tail_len = size.min(to_u64(vmferry_formats::TAIL_LEN));
    let head = read_range(store, 0, to_usize(head_len)).await?;
    let tail = read_range(store, size - tail_len, to_usize(tail_len)).await?;
    Ok((head, tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::buffer::BufferPool;

    fn write(path: &Path, parts: &[(u64, &[u8])], len: u64) {
        let file = File::create(path).unwrap();
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).unwrap();
        }
        file.set_len(len).unwrap();
    }

    fn extents(store: &FileStore) -> Vec<StoreExtent> {
        let (mut all, mut at) = (Vec::new(), 0);
        while at < store.size() {
            let extent = store.extent_at(at).unwrap();
            let (StoreExtent::Data(range) | StoreExtent::Zero(range)) = &extent;
            assert_eq!(range.start, at);
            assert!(range.end > at);
            at = range.end;
            all.push(extent);
        }
        assert_eq!(at, store.size());
        all
    }

    #[test]
    fn holes_are_told_up_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        write(&path, &[(1 << 20, &[7; 65536])], (9 << 20) + 77);
        let store = FileStore::open(&path).unwrap();
        assert_eq!(store.size(), (9 << 20) + 77);
        let zero = |extent: &StoreExtent| matches!(extent, StoreExtent::Zero(_));
        let all = extents(&store);
        // A file system without holes answers one extent of data, which is right too.
        if all.len() > 1 {
            assert_eq!(all.iter().map(zero).collect::<Vec<_>>(), [true, false, true]);
            assert_eq!(all[2], StoreExtent::Zero((1 << 20) + 65536..(9 << 20) + 77));
        }
    }

    #[tokio::test]
    async fn reads_land_where_they_are_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let bytes: Vec<u8> = (0..=250).cycle().take(10_001).collect();
        write(&path, &[(0, &bytes)], 10_001);
        let store = Arc::new(FileStore::open(&path).unwrap());
        let reads = vec![
            ReadRange { offset: 9_000, at: 0, len: 1_001 },
            ReadRange { offset: 3, at: 2_000, len: 5 },
            ReadRange { offset: 0, at: 3_000, len: 0 },
        ];
        let buffer = store.read(reads, BufferPool::new(4096).get()).await.unwrap();
        assert_eq!(buffer[..1_001], bytes[9_000..]);
        assert_eq!(buffer[2_000..2_005], bytes[3..8]);
    }

    #[tokio::test]
    async fn zeros_in_front_are_told_and_everything_else_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let len = 4 * STEP + 1000;
        for data in [0, 1, STEP - 1, STEP, STEP + 1, 2 * STEP, 4 * STEP, len - 1, len] {
            let mut bytes = vec![0; len];
            if let Some(byte) = bytes.get_mut(data) {
                *byte = 9;
            }
            std::fs::write(&path, &bytes).unwrap();
            let store = Arc::new(FileStore::open(&path).unwrap());
            // Out of order, and with a range that holds one byte.
            let reads = vec![
                ReadRange { offset: 0, at: 500, len },
                ReadRange { offset: to_u64(data.min(len - 1)), at: 100, len: 1 },
            ];
            let read = store.read_sparse(reads, BufferPool::new(len + 500).get()).await.unwrap();
            let SparseRead { mut buffer, holes } = read;
            assert!(holes.is_sorted_by(|a, b| a.end <= b.start), "{holes:?}");
            let zeros = if data < len { data / STEP * STEP } else { len };
            assert_eq!(
                holes.last().cloned().unwrap_or_default(),
                if zeros > 0 { 500..500 + zeros } else { 0..0 }
            );
            for hole in holes {
                buffer[hole].fill(0);
            }
            assert_eq!(buffer[100], if data < len { 9 } else { 0 });
            assert!(buffer[500..] == bytes, "data at {data}");
        }
    }

    #[tokio::test]
    async fn a_shrinking_file_is_a_changed_source() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        write(&path, &[(0, &[1; 8192])], 1 << 20);
        let store = Arc::new(FileStore::open(&path).unwrap());
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let reads = vec![ReadRange { offset: 4096, at: 0, len: 4096 }];
        let error = Arc::clone(&store).read(reads, BufferPool::new(4096).get()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
        assert!(error.to_string().contains("1048576 bytes") && error.to_string().contains("5000"), "{error}");
        // No hole may stand for what was cut off.
        assert_eq!(store.extent_at(1 << 19).unwrap_err().kind(), ErrorKind::SourceChanged);
        assert_eq!(store.check_unchanged().await.unwrap_err().kind(), ErrorKind::SourceChanged);
    }

    #[tokio::test]
    async fn identities_tell_files_and_versions_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(&a, &[(0, b"one")], 3);
        write(&b, &[(0, b"one")], 3);
        let first = Arc::new(FileStore::open(&a).unwrap());
        assert_eq!(first.identity(), FileStore::open(&a).unwrap().identity());
        assert_ne!(first.identity(), FileStore::open(&b).unwrap().identity());
        Arc::clone(&first).check_unchanged().await.unwrap();
        File::options().write(true).open(&a).unwrap().set_len(9).unwrap();
        assert_ne!(first.identity(), FileStore::open(&a).unwrap().identity());
        assert!(first.check_unchanged().await.is_err());
    }

    #[test]
    fn directories_and_pipes_are_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let error = FileStore::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("a directory"), "{error}");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(FileStore::open(&pipe).unwrap_err().to_string().contains("a pipe"));
        let error = FileStore::open(&dir.path().join("nothing")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}
