//! Pooled buffers: memory is faulted in once and used for the whole run.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

/// Alignment of buffers in bytes: a page, so that copies from the page cache run at full speed.
const ALIGN: usize = 4096;

/// Buffers kept for reuse: full ones, for chunks, and smaller ones whose lengths are powers of two,
/// for encoded data.
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
    /// A pool whose full buffers have `len` bytes. It never holds more bytes than were in use at
    /// once.
    pub fn new(len: usize) -> Self {
        Self { shared: Arc::new(Shared { len, free: Mutex::new(Vec::new()) }) }
    }

    /// A full buffer whose content is unspecified (of earlier use; poisoned in debug builds).
    pub fn get(&self) -> Buffer {
        self.pooled(self.shared.len)
    }

    /// A buffer of [`cost_of`](Self::cost_of) `len` bytes.
    pub fn get_at_least(&self, len: usize) -> Buffer {
        if len <= self.shared.len {
            self.pooled(self.class(len))
        } else {
            Buffer::new(vec![0; len + ALIGN], len, None)
        }
    }

    /// Bytes of memory that a buffer of at least `len` bytes takes.
    pub fn cost_of(&self, len: usize) -> usize {
        if len <= self.shared.len { self.class(len) + ALIGN } else { len + ALIGN }
    }

    fn class(&self, len: usize) -> usize {
        len.max(LEAST_LEN).next_power_of_two().min(self.shared.len)
    }

    fn pooled(&self, len: usize) -> Buffer {
        let storage_len = len + ALIGN;
        let mut storage = {
            let mut free = self.shared.free.lock().unwrap_or_else(PoisonError::into_inner);
            match free.iter().rposition(|storage| storage.len() == storage_len) {
                Some(index) => free.swap_remove(index),
                None => {
                    // What is kept for other lengths makes room, so that kept and used buffers
                    // together stay within what the permits allow.
                    let mut freed = 0;
                    while freed < storage_len
                        && let Some(storage) = free.pop()
                    {
                        freed += storage.len();
                    }
                    vec![0; storage_len]
                }
            }
        };
        if cfg!(debug_assertions) {
            storage.fill(0xa5);
        }
        Buffer::new(storage, len, Some(Arc::clone(&self.shared)))
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

/// Smallest buffer in bytes.
const LEAST_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_buffers_make_room_for_those_of_other_lengths() {
        let pool = BufferPool::new(1 << 20);
        let kept = |pool: &BufferPool| -> usize {
            pool.shared.free.lock().unwrap().iter().map(|storage| storage.len() - ALIGN).sum()
        };
        drop([pool.get(), pool.get(), pool.get()]);
        assert_eq!(kept(&pool), 3 << 20);
        let small = pool.get_at_least(70_000);
        assert_eq!((small.len(), kept(&pool)), (128 << 10, 2 << 20), "one full buffer made room");
        assert_eq!(pool.cost_of(70_000), (128 << 10) + ALIGN);
        drop(small);
        assert_eq!(pool.get_at_least(100_000).len(), 128 << 10);
        assert_eq!(kept(&pool), (2 << 20) + (128 << 10), "the small one was used again");
        assert_eq!(pool.get_at_least((1 << 20) + 1).len(), (1 << 20) + 1);
        assert_eq!(pool.get_at_least(0).len(), LEAST_LEN);
    }

    #[test]
    fn buffers_come_back_with_their_last_slice() {
        let pool = BufferPool::new(LEAST_LEN);
        let mut buffer = pool.get();
        assert_eq!(buffer.len(), LEAST_LEN);
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
