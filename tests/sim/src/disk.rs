//! Disk contents: bytes, files, or a function of the offset, so that a disk of many TiB takes no memory.

use std::{fmt, fs::File, io, os::unix::fs::FileExt as _, path::Path, sync::Arc};

use bytes::Bytes;

/// What a volume holds.
///
/// Cheap to clone; the content never changes. A volume whose content changes when its VM starts has two
/// of these ([`Disk::changing_on_start`]).
#[derive(Clone)]
pub struct Disk {
    content: Arc<Content>,
    len_bytes: u64,
    fails_at: Option<u64>,
    is_missing: bool,
    files: Vec<(String, Bytes)>,
    after_start: Option<Arc<Self>>,
    gzip: Option<Arc<Self>>,
}

impl Disk {
    /// A disk of these bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let len_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Self::new(Content::Bytes(bytes), len_bytes)
    }

    /// A disk of zeros, which takes no memory.
    #[must_use]
    pub fn zeros(len_bytes: u64) -> Self {
        Self::generated(len_bytes, |_, buffer| buffer.fill(0))
    }

    /// A disk whose bytes are those of a file, read when they are asked for.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn file(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        let len_bytes = file.metadata()?.len();
        Ok(Self::new(Content::File(file), len_bytes))
    }

    /// A disk of `len_bytes` bytes, made by a function that fills the buffer with what is at the offset.
    ///
    /// The function must give the same bytes each time, however the disk is cut into pieces.
    pub fn generated(len_bytes: u64, fill: impl Fn(u64, &mut [u8]) + Send + Sync + 'static) -> Self {
        Self::new(Content::Generated(Box::new(fill)), len_bytes)
    }

    /// A disk of `len_bytes` bytes like that of a guest: a quarter of its 64 KiB blocks holds data that depends on
    /// the seed, half of it compressible; the rest is zero.
    #[must_use]
    pub fn pattern(len_bytes: u64, seed: u64) -> Self {
        Self::generated(len_bytes, move |offset, buffer| {
            for (i, word) in buffer.chunks_mut(8).enumerate() {
                // Pieces begin anywhere, so each byte is computed from its own offset.
                let start = offset + u64::try_from(i).unwrap_or(0) * 8;
                if start.is_multiple_of(8) && word.len() == 8 {
                    word.copy_from_slice(&pattern_word(seed, start / 8));
                } else {
                    for (j, byte) in word.iter_mut().enumerate() {
                        let at = start + u64::try_from(j).unwrap_or(0);
                        *byte = pattern_word(seed, at / 8).get(to_usize(at % 8)).copied().unwrap_or(0);
                    }
                }
            }
        })
    }

    fn new(content: Content, len_bytes: u64) -> Self {
        Self {
            content: Arc::new(content),
            len_bytes,
            fails_at: None,
            is_missing: false,
            files: Vec::new(),
            after_start: None,
            gzip: None,
        }
    }

    /// The volume has these bytes instead once its VM has been started.
    #[must_use]
    pub fn changing_on_start(mut self, after: Self) -> Self {
        self.after_start = Some(Arc::new(after));
        self
    }

    /// Reads at or beyond this offset fail, as of a broken backend: raw breaks off, gzip ends early and cleanly.
    #[must_use]
    pub fn failing_at(mut self, offset: u64) -> Self {
        self.fails_at = Some(offset);
        self
    }

    /// The gzip link sends these bytes, made before: for measurements that are not to measure the simulator's
    /// compression. They must be one gzip member with the disk's content.
    #[must_use]
    pub fn with_gzip(mut self, compressed: Self) -> Self {
        self.gzip = Some(Arc::new(compressed));
        self
    }

    /// There is no `disk.img` in the volume, though it is offered: 500.
    #[must_use]
    pub fn missing(mut self) -> Self {
        self.is_missing = true;
        self
    }

    /// A file beside `disk.img`, seen through `dir` and `tar.gz` links.
    #[must_use]
    pub fn with_file(mut self, name: &str, content: impl Into<Bytes>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// The virtual size.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads the bytes at `offset`, which must lie within the disk.
    ///
    /// # Errors
    ///
    /// The file cannot be read, the range is outside, or the disk was made to fail there.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(u64::try_from(buffer.len()).unwrap_or(u64::MAX));
        if self.fails_at.is_some_and(|fails_at| end > fails_at) {
            return Err(io::Error::other("simulated read error"));
        }
        if end > self.len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &*self.content {
            Content::Bytes(bytes) => {
                let start = to_usize(offset);
                let slice = bytes.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(slice);
                Ok(())
            }
            Content::File(file) => file.read_exact_at(buffer, offset),
            Content::Generated(fill) => {
                fill(offset, buffer);
                Ok(())
            }
        }
    }

    /// A piece of the disk, without a copy where the bytes are in memory already.
    pub(crate) fn piece(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if let (Content::Bytes(bytes), None) = (&*self.content, self.fails_at) {
            let start = to_usize(offset);
            if start + len > bytes.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            return Ok(bytes.slice(start..start + len));
        }
        let mut buffer = vec![0; len];
        self.read(offset, &mut buffer)?;
        Ok(buffer.into())
    }

    /// How far a read that starts at zero gets.
    pub(crate) fn readable(&self) -> u64 {
        self.fails_at.map_or(self.len_bytes, |fails_at| fails_at.min(self.len_bytes))
    }

    /// The gzip that was made before; none where reads fail, which it does not know.
    pub(crate) fn gzip(&self) -> Option<&Self> {
        self.gzip.as_deref().filter(|_| self.fails_at.is_none())
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.is_missing
    }

    pub(crate) fn files(&self) -> &[(String, Bytes)] {
        &self.files
    }

    pub(crate) fn after_start(&self) -> Option<&Self> {
        self.after_start.as_deref()
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

enum Content {
    Bytes(Bytes),
    File(File),
    Generated(Fill),
}

/// Fills a buffer with what is at an offset.
type Fill = Box<dyn Fn(u64, &mut [u8]) + Send + Sync>;

/// Eight bytes of a pattern.
fn pattern_word(seed: u64, index: u64) -> [u8; 8] {
    let block = mix(seed.wrapping_mul(31).wrapping_add(index >> 13));
    if !block.is_multiple_of(4) {
        return [0; 8];
    }
    // Half of the blocks with data repeat a short text.
    let word = if block & 4 == 0 { mix(seed ^ (index << 8)) } else { mix(block ^ (index & 15)) };
    word.to_le_bytes()
}

fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sizes that index memory.
pub(crate) fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_the_same_however_it_is_cut() {
        let disk = Disk::pattern(1 << 20, 3);
        let whole = disk.piece(0, 1 << 20).unwrap();
        assert_eq!(disk.piece(65_533, 9_001).unwrap(), whole.slice(65_533..74_534));
        let data = whole.iter().filter(|&&byte| byte != 0).count();
        assert!((50_000..700_000).contains(&data), "{data}");
    }

    #[test]
    fn the_kinds_of_content_read_alike() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), &bytes).unwrap();
        let generated = Disk::generated(10_000, |offset, buffer| {
            for (i, byte) in buffer.iter_mut().enumerate() {
                *byte = u8::try_from((to_usize(offset) + i) % 256).unwrap();
            }
        });
        for disk in [Disk::bytes(bytes.clone()), Disk::file(path.path()).unwrap(), generated] {
            assert_eq!(disk.len_bytes(), 10_000);
            assert_eq!(disk.piece(1234, 999).unwrap(), bytes[1234..2233]);
            assert!(disk.piece(9999, 2).is_err());
            assert!(disk.clone().failing_at(5000).piece(4999, 2).is_err());
            assert_eq!(disk.failing_at(5000).readable(), 5000);
        }
    }
}
