//! RAW disks with random access: the store's bytes are the disk.

use std::{ops::Range, sync::Arc};

use vmferry_formats::chunk::CHUNK_LEN;

use super::{
    BoxFuture, ByteStore, DiskPlan, Piece, ReadPlan, ReadRange, SourceIdentity, StoreExtent, num::to_usize,
};
use crate::error::{Error, Result};

/// A RAW disk in one [`ByteStore`]. Holes that the store knows of are never read.
pub struct RawPlan {
    stores: [Arc<dyn ByteStore>; 1],
    /// The extent asked for last, so that a hole of terabytes is asked for once.
    last: Option<StoreExtent>,
}

impl std::fmt::Debug for RawPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawPlan").field("name", &self.stores[0].name()).field("last", &self.last).finish()
    }
}

impl RawPlan {
    /// The disk that `store` holds.
    pub fn new(store: Arc<dyn ByteStore>) -> Self {
        Self { stores: [store], last: None }
    }

    /// Whether the byte at `offset` begins a run of known zeros, and where the run ends.
    fn extent(&mut self, offset: u64) -> Result<(bool, u64)> {
        let size = self.stores[0].size();
        if let Some(known) = self.last.as_ref().and_then(|extent| rest_of(extent, offset)) {
            return Ok(known);
        }
        let extent = self.stores[0].extent_at(offset)?;
        // An answer that makes no sense is no knowledge: read.
        let (zero, end) = rest_of(&extent, offset).filter(|&(_, end)| end <= size).unwrap_or((false, size));
        let range = Range { start: offset, end };
        self.last = Some(if zero { StoreExtent::Zero(range) } else { StoreExtent::Data(range) });
        Ok((zero, end))
    }

    fn piece(&mut self, start: u64) -> Result<Piece> {
        let size = self.size();
        if start >= size || !start.is_multiple_of(CHUNK_LEN) {
            return Err(Error::failed(format!("no chunk begins at {start} of a disk of {size} bytes")));
        }
        let chunk_end = size.min(start + CHUNK_LEN);
        let mut zero_end = start;
        while zero_end < size {
            match self.extent(zero_end)? {
                (true, end) => zero_end = end,
                (false, _) => break,
            }
        }
        if zero_end >= chunk_end {
            let end = if zero_end == size { size } else { zero_end - zero_end % CHUNK_LEN };
            return Ok(Piece { guest_offset: start, len: end - start, read: None });
        }
        let mut plan = ReadPlan::default();
        let mut at = start;
        while at < chunk_end {
            let (zero, end) = self.extent(at)?;
            let end = end.min(chunk_end);
            let part = Range { start: to_usize(at - start), end: to_usize(end - start) };
            if zero {
                plan.holes.push(part);
            } else {
                plan.reads.push((0, ReadRange { offset: at, at: part.start, len: part.len() }));
            }
            at = end;
        }
        Ok(Piece { guest_offset: start, len: chunk_end - start, read: Some(plan) })
    }
}

/// What `extent` says of the bytes from `offset` on, if it holds that byte.
fn rest_of(extent: &StoreExtent, offset: u64) -> Option<(bool, u64)> {
    let (zero, range) = match extent {
        StoreExtent::Data(range) => (false, range),
        StoreExtent::Zero(range) => (true, range),
    };
    range.contains(&offset).then_some((zero, range.end))
}

impl DiskPlan for RawPlan {
    fn size(&self) -> u64 {
        self.stores[0].size()
    }

    fn piece_at(&mut self, guest_offset: u64) -> BoxFuture<'_, Result<Piece>> {
        Box::pin(std::future::ready(self.piece(guest_offset)))
    }

    fn stores(&self) -> &[Arc<dyn ByteStore>] {
        &self.stores
    }

    fn decode_len(&self) -> usize {
        1
    }

    fn identity(&self) -> Option<SourceIdentity> {
        self.stores[0].identity()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::pipeline::buffer::Buffer;

    /// A store with a made-up map; it counts how often it is asked.
    struct Mapped {
        size: u64,
        data: Vec<Range<u64>>,
        asked: AtomicUsize,
    }

    impl ByteStore for Mapped {
        fn name(&self) -> String {
            "mapped".into()
        }

        fn size(&self) -> u64 {
            self.size
        }

        fn identity(&self) -> Option<SourceIdentity> {
            None
        }

        fn extent_at(&self, offset: u64) -> Result<StoreExtent> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(match self.data.iter().find(|range| range.end > offset) {
                Some(range) if range.contains(&offset) => StoreExtent::Data(offset..range.end),
                Some(range) => StoreExtent::Zero(offset..range.start),
                None => StoreExtent::Zero(offset..self.size),
            })
        }

        fn read(self: Arc<Self>, _: Vec<ReadRange>, buffer: Buffer) -> BoxFuture<'static, Result<Buffer>> {
            Box::pin(std::future::ready(Ok(buffer)))
        }

        fn concurrency(&self) -> usize {
            1
        }
    }

    /// Walks a disk and checks that pieces cover it without a gap, holes and reads each byte once.
    fn walk(store: &Arc<Mapped>) -> Vec<Piece> {
        let mut plan = RawPlan::new(Arc::clone(store) as Arc<dyn ByteStore>);
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < plan.size() {
            let piece = plan.piece(at).unwrap();
            assert_eq!(piece.guest_offset, at);
            assert!(piece.len > 0);
            if let Some(read) = &piece.read {
                assert!(piece.len <= CHUNK_LEN);
                let mut parts: Vec<Range<usize>> = read.holes.clone();
                parts.extend(read.reads.iter().map(|(_, read)| read.at..read.at + read.len));
                parts.sort_by_key(|part| part.start);
                assert_eq!(
                    parts.iter().fold(0, |end, part| {
                        assert_eq!(part.start, end);
                        part.end
                    }),
                    to_usize(piece.len)
                );
            }
            at += piece.len;
            pieces.push(piece);
        }
        assert_eq!(at, plan.size());
        pieces
    }

    fn mapped(size: u64, data: &[Range<u64>]) -> Arc<Mapped> {
        Arc::new(Mapped { size, data: data.to_vec(), asked: AtomicUsize::new(0) })
    }

    #[test]
    fn holes_over_many_chunks_are_one_piece_and_cost_one_question() {
        let store = mapped(64 << 40, &[Range { start: 5 * CHUNK_LEN + 10, end: 5 * CHUNK_LEN + 20 }]);
        let pieces = walk(&store);
        assert_eq!(pieces.len(), 3);
        assert_eq!((pieces[0].len, &pieces[0].read), (5 * CHUNK_LEN, &None));
        let read = pieces[1].read.as_ref().unwrap();
        assert_eq!(read.reads, [(0, ReadRange { offset: 5 * CHUNK_LEN + 10, at: 10, len: 10 })]);
        assert_eq!(read.holes, [0..10, 20..to_usize(CHUNK_LEN)]);
        assert_eq!(pieces[2].read, None);
        assert!(store.asked.load(Ordering::Relaxed) <= 8);
    }

    #[test]
    fn a_store_without_map_gives_one_read_a_chunk() {
        let size = 2 * CHUNK_LEN + 1;
        let all = Range { start: 0, end: size };
        let pieces = walk(&mapped(size, &[all]));
        assert_eq!(pieces.iter().map(|piece| piece.len).collect::<Vec<_>>(), [CHUNK_LEN, CHUNK_LEN, 1]);
        assert!(pieces.iter().all(|piece| piece.read.as_ref().unwrap().reads.len() == 1));
    }

    #[test]
    fn a_hole_to_an_odd_end_is_a_piece_of_its_own() {
        let pieces = walk(&mapped(CHUNK_LEN + 5, &[0..7, 100..CHUNK_LEN]));
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].read.as_ref().unwrap().holes, [Range { start: 7, end: 100 }]);
        assert_eq!((pieces[1].len, &pieces[1].read), (5, &None));
        assert_eq!(walk(&mapped(0, &[])), []);
        assert_eq!(walk(&mapped(3, &[])), [Piece { guest_offset: 0, len: 3, read: None }]);
    }

    #[test]
    fn pieces_come_from_any_chunk_on() {
        let store = mapped(10 * CHUNK_LEN, &[CHUNK_LEN..2 * CHUNK_LEN, 3 * CHUNK_LEN - 1..3 * CHUNK_LEN]);
        let mut plan = RawPlan::new(store as Arc<dyn ByteStore>);
        for start in [9, 3, 1, 2, 0] {
            let piece = plan.piece(start * CHUNK_LEN).unwrap();
            assert_eq!(piece.read.is_some(), start == 1 || start == 2, "chunk {start}");
        }
        assert!(plan.piece(1).is_err());
        assert!(plan.piece(10 * CHUNK_LEN).is_err());
    }
}
