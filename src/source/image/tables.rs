//! The files of an image, and reads of its tables.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use vmferry_formats::plan::Need;

use crate::{
    error::{Error, Result},
    pipeline::buffer::{Buffer, BufferPool},
    source::{
        ByteStore, ReadRange,
        num::{to_u64, to_usize},
    },
};

/// The files of an image. Tables are read in aligned blocks, the last of which are kept: readers
/// ask for small pieces that lie close together, and over HTTP each read is a round trip.
pub(in crate::source) struct Tables {
    /// The image first.
    stores: Vec<Arc<dyn ByteStore>>,
    /// Latest first.
    blocks: VecDeque<Block>,
    pool: BufferPool,
}

struct Block {
    file: usize,
    range: Range<u64>,
    bytes: Buffer,
}

impl Tables {
    pub(in crate::source) fn new(image: Arc<dyn ByteStore>) -> Self {
        Self { stores: vec![image], blocks: VecDeque::new(), pool: BufferPool::new(to_usize(BLOCK_LEN)) }
    }

    /// What people call the image.
    pub(in crate::source) fn name(&self) -> String {
        self.stores[0].name()
    }

    pub(in crate::source) fn stores(&self) -> &[Arc<dyn ByteStore>] {
        &self.stores
    }

    /// Adds the next file that the image refers to.
    pub(in crate::source) fn add(&mut self, store: Arc<dyn ByteStore>) {
        self.stores.push(store);
    }

    /// The bytes that a reader asks for.
    pub(in crate::source) async fn bytes(&mut self, need: Need) -> Result<&[u8]> {
        let file = usize::try_from(need.file).unwrap_or(usize::MAX);
        let end = need.offset.checked_add(to_u64(need.len));
        let (store, end) = match self.stores.get(file).zip(end) {
            Some((store, end)) if end <= store.size() && need.len <= Need::MAX_LEN => (store, end),
            _ => {
                return Err(Error::failed(format!(
                    "the tables of {} cannot be followed: {need:?} is outside of its files",
                    self.name()
                )));
            }
        };
        let holds =
            |block: &Block| block.file == file && block.range.start <= need.offset && end <= block.range.end;
        match self.blocks.iter().position(holds) {
            Some(0) => {}
            Some(index) => self.blocks.swap(0, index),
            None => {
                let start = need.offset - need.offset % BLOCK_LEN;
                let range = start..end.next_multiple_of(BLOCK_LEN).min(store.size());
                let read = ReadRange { offset: start, at: 0, len: to_usize(range.end - start) };
                let buffer = self.pool.get_at_least(read.len);
                let bytes = Arc::clone(store).read(vec![read], buffer).await?;
                self.keep(Block { file, range, bytes });
            }
        }
        let block = &self.blocks[0];
        let at = to_usize(need.offset - block.range.start);
        Ok(&block.bytes[at..at + need.len])
    }

    fn keep(&mut self, block: Block) {
        self.blocks.push_front(block);
        let mut kept = 0;
        self.blocks.retain(|block| {
            let first = kept == 0;
            kept += block.range.end - block.range.start;
            first || kept <= KEPT_LEN
        });
    }
}

/// Tables are read in blocks of this many bytes.
const BLOCK_LEN: u64 = 64 << 10;

/// Bytes of blocks that are kept.
const KEPT_LEN: u64 = 8 * BLOCK_LEN;
