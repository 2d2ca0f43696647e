//! A part of a store as a store of its own: an image inside of a larger file.

use std::sync::Arc;

use super::{BoxFuture, ByteStore, ReadRange, SourceIdentity, SparseRead, StoreExtent};
use crate::{
    error::{Error, Result},
    pipeline::buffer::Buffer,
};

/// `len` bytes of a store from `offset` on.
pub struct Window {
    store: Arc<dyn ByteStore>,
    name: String,
    offset: u64,
    len: u64,
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, offset, len, .. } = self;
        f.debug_struct("Window").field("name", name).field("offset", offset).field("len", len).finish()
    }
}

impl Window {
    /// A window on `store`; `name` is what people call it.
    ///
    /// # Errors
    /// It is not inside of the store.
    pub fn new(store: Arc<dyn ByteStore>, name: String, offset: u64, len: u64) -> Result<Self> {
        if offset.checked_add(len).is_none_or(|end| end > store.size()) {
            let (outer, size) = (store.name(), store.size());
            let message =
                format!("{name} would be {len} bytes at {offset} of {outer}, which has {size} bytes");
            return Err(Error::failed(message));
        }
        Ok(Self { store, name, offset, len })
    }

    /// `reads` of the window as reads of the store.
    fn shift(&self, mut reads: Vec<ReadRange>) -> Result<Vec<ReadRange>> {
        for read in &mut reads {
            let end = read.offset.checked_add(read.len as u64);
            if end.is_none_or(|end| end > self.len) {
                return Err(Error::failed(format!("{read:?} reaches past the end of {}", self.name)));
            }
            read.offset += self.offset;
        }
        Ok(reads)
    }
}

impl ByteStore for Window {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size(&self) -> u64 {
        self.len
    }

    fn identity(&self) -> Option<SourceIdentity> {
        let file = Box::new(self.store.identity()?);
        Some(SourceIdentity::Part { file, offset: self.offset, size: self.len })
    }

    fn extent_at(&self, offset: u64) -> Result<StoreExtent> {
        let clip = |end: u64| (end - self.offset).min(self.len);
        Ok(match self.store.extent_at(self.offset + offset)? {
            StoreExtent::Data(range) => StoreExtent::Data(offset..clip(range.end)),
            StoreExtent::Zero(range) => StoreExtent::Zero(offset..clip(range.end)),
        })
    }

    fn read(self: Arc<Self>, reads: Vec<ReadRange>, buffer: Buffer) -> BoxFuture<'static, Result<Buffer>> {
        match self.shift(reads) {
            Ok(reads) => Arc::clone(&self.store).read(reads, buffer),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn read_sparse(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        buffer: Buffer,
    ) -> BoxFuture<'static, Result<SparseRead>> {
        match self.shift(reads) {
            Ok(reads) => Arc::clone(&self.store).read_sparse(reads, buffer),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn concurrency(&self) -> usize {
        self.store.concurrency()
    }

    fn check_unchanged(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Arc::clone(&self.store).check_unchanged()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{pipeline::buffer::BufferPool, source::FileStore};

    #[tokio::test]
    async fn a_window_shows_its_part_and_no_more() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b"..........", &b"inside"[..], b"......"].concat()).unwrap();
        let store: Arc<dyn ByteStore> = Arc::new(FileStore::open(file.path()).unwrap());
        let window = |offset, len| Window::new(Arc::clone(&store), "x".into(), offset, len).map(Arc::new);
        let inside = window(10, 6).unwrap();
        assert_eq!((inside.size(), inside.name().as_str()), (6, "x"));
        assert_eq!(inside.extent_at(2).unwrap(), StoreExtent::Data(2..6));
        let file = Box::new(store.identity().unwrap());
        assert_eq!(inside.identity(), Some(SourceIdentity::Part { file, offset: 10, size: 6 }));
        let read = |offset, len| {
            let buffer = BufferPool::new(4096).get();
            Arc::clone(&inside).read(vec![ReadRange { offset, at: 1, len }], buffer)
        };
        assert_eq!(read(0, 6).await.unwrap()[1..7], *b"inside");
        assert_eq!(read(2, 3).await.unwrap()[1..4], *b"sid");
        for (offset, len) in [(0, 7), (6, 1), (u64::MAX, 2)] {
            assert!(read(offset, len).await.is_err(), "{len} at {offset}");
        }
        assert!(window(16, 6).is_ok());
        for (offset, len) in [(17, 6), (0, 23), (u64::MAX, 2)] {
            assert!(window(offset, len).is_err(), "{len} at {offset}");
        }
    }
}
