//! Pooled buffers: memory is faulted in once and used for the whole run.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Alignment of buffers in bytes: a page, so that copies from the page cache run at full speed.
const ALIGN: usize = 4096;

/// Buffers of one length, kept for reuse.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    len: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A pool of buffers of `len` bytes. It never holds more than were in use at once.
    pub fn new(len: usize) -> Self {
        Self { shared: Arc::new(Shared { len, free: Mutex::new(Vec::new()) }) }
    }

    /// A buffer whose content is unspecified (of earlier use; poisoned in debug builds).
    pub fn get(&self) -> Buffer {
        let mut storage = self
            .shared
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_else(|| vec![0; self.shared.len + ALIGN]);
        if cfg!(debug_assertions) {
            storage.fill(0xa5);
        }
        Buffer::new(storage, self.shared.len, Some(Arc::clone(&self.shared)))
    }

    /// A buffer of at least `len` bytes: a pooled one if that is long enough.
    pub fn get_at_least(&self, len: usize) -> Buffer {
        if len <= self.shared.len { self.get() } else { Buffer::new(vec![0; len + ALIGN], len, None) }
    }

    /// Bytes of memory that a buffer of at least `len` bytes takes, however little of it is used:
    /// the next user may touch all of it. Buffers of other lengths would fragment the heap.
    pub fn cost_of(&self, len: usize) -> usize {
        len.max(self.shared.len) + ALIGN
    }
}

/// A page-aligned buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    storage: Vec<u8>,
    start: usize,
    len: usize,
    home: Option<Arc<Shared>>,
}

impl Buffer {
    fn new(storage: Vec<u8>, len: usize, home: Option<Arc<Shared>>) -> Self {
        let start = storage.as_ptr().align_offset(ALIGN).min(storage.len() - len);
        Self { storage, start, len, home }
    }

    /// The buffer as immutable bytes; it goes back to its pool with the last slice of them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            let storage = std::mem::take(&mut self.storage);
            home.free.lock().unwrap_or_else(PoisonError::into_inner).push(storage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_with_their_last_slice() {
        let pool = BufferPool::new(8192);
        let mut buffer = pool.get();
        assert_eq!(buffer.len(), 8192);
        assert_eq!(buffer.as_ptr().align_offset(ALIGN), 0);
        let address = buffer.as_ptr();
        buffer[0] = 7;
        let slice = buffer.freeze().slice(..1);
        assert_ne!(pool.get().as_ptr(), address);
        assert_eq!(slice[0], 7);
        drop(slice);
        let (a, b) = (pool.get(), pool.get());
        assert!(a.as_ptr() == address || b.as_ptr() == address);
    }
}
