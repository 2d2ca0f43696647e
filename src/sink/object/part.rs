//! A part of an upload until it is sent.

use bytes::Bytes;

use super::pins::Pin;

/// Bytes of the output that are sent together.
#[derive(Debug)]
pub(super) struct Part {
    /// Number from 1 on.
    pub(super) number: u32,
    /// Output offset of its first byte.
    pub(super) start: u64,
    /// Bytes that it takes.
    pub(super) capacity: u64,
    /// Bytes that it has.
    pub(super) len: u64,
    /// These, with zeros where something is filled in later.
    pub(super) pieces: Vec<Bytes>,
    /// Memory that the pieces hold, in bytes.
    pub(super) held: u64,
    /// Bytes that are reserved and not filled in yet.
    pub(super) open: u64,
    /// What was filled in, by offset in the part.
    fills: Vec<(u64, Bytes)>,
    /// Where it is in the pins file.
    pub(super) pin: Option<Pin>,
}

impl Part {
    pub(super) fn new(number: u32, start: u64, capacity: u64) -> Self {
        Self {
            number,
            start,
            capacity,
            len: 0,
            pieces: Vec::new(),
            held: 0,
            open: 0,
            fills: Vec::new(),
            pin: None,
        }
    }

    pub(super) fn room(&self) -> u64 {
        self.capacity - self.len
    }

    pub(super) fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Appends bytes that fit, and hold `held` bytes of memory.
    pub(super) fn push(&mut self, piece: Bytes, held: u64) {
        self.len += piece.len() as u64;
        self.held += held;
        self.pieces.push(piece);
    }

    /// What `offset..offset + len` of the output and this part have in common: offset in the part, bytes.
    pub(super) fn overlap(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let (start, end) = (offset.max(self.start), (offset + len).min(self.end()));
        (start < end).then(|| (start - self.start, end - start))
    }

    /// Fills in what was reserved.
    pub(super) fn fill(&mut self, at: u64, bytes: Bytes) {
        self.open = self.open.saturating_sub(bytes.len() as u64);
        self.fills.push((at, bytes));
    }

    /// Gives up memory that the pieces hold and do not use. Returns how much.
    pub(super) fn compact(&mut self) -> u64 {
        let data: u64 =
            self.pieces.iter().filter(|piece| !is_zeros(piece)).map(|piece| piece.len() as u64).sum();
        if self.held <= data {
            return 0;
        }
        for piece in self.pieces.iter_mut().filter(|piece| !is_zeros(piece)) {
            *piece = Bytes::copy_from_slice(piece);
        }
        let saved = self.held - data;
        self.held = data;
        saved
    }

    /// Everything in it, late bytes too.
    pub(super) fn into_payload(mut self) -> Vec<Bytes> {
        self.fills.sort_by_key(|(at, _)| *at);
        let mut fills = self.fills.into_iter().peekable();
        let (mut out, mut at, mut covered) = (Vec::with_capacity(self.pieces.len()), 0, 0);
        for piece in self.pieces {
            let end = at + piece.len() as u64;
            loop {
                let from = covered.max(at);
                match fills.peek() {
                    Some((fill, _)) if *fill < end => {
                        let (fill, bytes) = fills.next().unwrap_or_default();
                        push(&mut out, &piece, at, from, fill);
                        covered = fill + bytes.len() as u64;
                        out.push(bytes);
                    }
                    _ => {
                        push(&mut out, &piece, at, from, end);
                        break;
                    }
                }
            }
            at = end;
        }
        out
    }
}

/// Appends bytes `from..to` of what `piece`, which begins at `at`, is part of.
fn push(out: &mut Vec<Bytes>, piece: &Bytes, at: u64, from: u64, to: u64) {
    let index = |offset: u64| usize::try_from(offset - at).unwrap_or(usize::MAX).min(piece.len());
    if from < to {
        out.push(piece.slice(index(from)..index(to)));
    }
}

/// `len` zero bytes, which take no memory.
pub(super) fn zeros(len: u64) -> impl Iterator<Item = Bytes> {
    let mut left = len;
    std::iter::from_fn(move || {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        left -= step as u64;
        (step > 0).then(|| Bytes::from_static(&ZEROS[..step]))
    })
}

fn is_zeros(piece: &Bytes) -> bool {
    ZEROS.as_ptr_range().contains(&piece.as_ptr())
}

/// What ranges that read as zeros are sent from.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_bytes_replace_what_was_reserved_wherever_pieces_end() {
        let mut part = Part::new(1, 1000, 4096);
        let mut expected = vec![0; 300];
        for len in [1, 99, 100, 100] {
            part.push(Bytes::from(vec![0; len]), len as u64);
        }
        part.open = 200;
        for (at, len, byte) in [(150_u64, 100_usize, 7), (0, 1, 1), (99, 2, 2), (270, 30, 3), (250, 20, 4)] {
            let start = usize::try_from(at).unwrap();
            expected[start..start + len].fill(byte);
            part.fill(at, Bytes::from(vec![byte; len]));
        }
        assert_eq!((part.open, part.len, part.end()), (47, 300, 1300));
        assert_eq!(part.overlap(900, 101), Some((0, 1)));
        assert_eq!(part.overlap(1299, 10), Some((299, 1)));
        assert_eq!(part.overlap(1300, 10), None);
        assert_eq!(part.into_payload().concat(), expected);
    }

    #[test]
    fn zeros_take_no_memory() {
        let pieces: Vec<Bytes> = zeros((5 << 20) + 1).collect();
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), (5 << 20) + 1);
        assert!(pieces.iter().all(is_zeros));
        let mut part = Part::new(1, 0, 8 << 20);
        pieces.into_iter().for_each(|piece| part.push(piece, 0));
        part.push(Bytes::from(vec![1; 10]).slice(..5), 10);
        assert_eq!((part.compact(), part.held, part.compact()), (5, 5, 0));
    }
}
