//! The CPU's part of a chunk: inflate, find zeros, digest leaves, encode. Pure, in any order, on
//! all cores; one job per sub-chunk, so that few chunks in flight keep every worker busy.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rayon::prelude::*;
use vmferry_formats::{
    ChunkShape, Encoder, FormatWriter,
    chunk::{CHUNK_LEN, LEAF_LEN, UnitShape},
    codec::Decoder,
    digest::{Algorithm, ChunkHasher, Digest},
    zero::is_zero,
};

use super::buffer::Buffer;
use crate::{
    error::{Error, FormatContext as _, Result},
    source::Decode,
};

/// Digest of a chunk, or a checksum where no digest is wanted: proves that content is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// CRC-32C over the CRC-32Cs (LE) of the chunk's leaves.
    Crc(u32),
    /// Chunk digest of the tree.
    Digest(Digest),
}

/// Computes [`Check`]s.
#[derive(Clone, Debug)]
pub(crate) enum Checker {
    /// Checksums only; holds that of a zero leaf.
    Crc(u32),
    /// Digests.
    Digest(Box<ChunkHasher>),
}

impl Checker {
    /// Digests by `algorithm`, or checksums.
    pub(crate) fn new(algorithm: Option<Algorithm>) -> Self {
        match algorithm {
            None => Self::Crc(crc32c::crc32c(&[0; LEAF_LEN])),
            Some(algorithm) => Self::Digest(Box::new(ChunkHasher::new(algorithm))),
        }
    }

    /// The check of a chunk of `len` zero bytes.
    pub(crate) fn zero_chunk(&self, len: u64) -> Check {
        match self {
            Self::Crc(_) => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                let starts = (0..len).step_by(LEAF_LEN);
                self.chunk(starts.map(|start| self.leaf(&[0; LEAF_LEN][..LEAF_LEN.min(len - start)], true)))
            }
            Self::Digest(hasher) => Check::Digest(hasher.zero_chunk(len)),
        }
    }

    fn leaf(&self, bytes: &[u8], zero: bool) -> Leaf {
        match self {
            Self::Crc(zero_leaf) if zero && bytes.len() == LEAF_LEN => Leaf::Crc(*zero_leaf),
            Self::Crc(_) => Leaf::Crc(crc32c::crc32c(bytes)),
            Self::Digest(hasher) if zero => Leaf::Digest(hasher.zero_leaf(bytes.len())),
            Self::Digest(hasher) => Leaf::Digest(hasher.leaf(bytes)),
        }
    }

    /// The leaves of `bytes`, which begin with one; `is_zero` knows which of them are zero.
    fn leaves(&self, bytes: &[u8], is_zero: impl Fn(usize, usize) -> bool) -> Vec<Leaf> {
        let starts = (0..bytes.len()).step_by(LEAF_LEN);
        let ranges = starts.map(|start| (start, (start + LEAF_LEN).min(bytes.len())));
        let Self::Digest(hasher) = self else {
            return ranges.map(|(start, end)| self.leaf(&bytes[start..end], is_zero(start, end))).collect();
        };
        let (mut data, mut leaves) = (Vec::new(), Vec::new());
        for (start, end) in ranges {
            let zero = is_zero(start, end).then(|| hasher.zero_leaf(end - start));
            if zero.is_none() {
                data.push(&bytes[start..end]);
            }
            leaves.push(zero);
        }
        let mut digests = hasher.leaves(&data).into_iter();
        leaves.into_iter().filter_map(|zero| zero.or_else(|| digests.next())).map(Leaf::Digest).collect()
    }

    fn chunk(&self, leaves: impl IntoIterator<Item = Leaf>) -> Check {
        match self {
            Self::Crc(_) => Check::Crc(leaves.into_iter().fold(0, |crc, leaf| match leaf {
                Leaf::Crc(leaf) => crc32c::crc32c_append(crc, &leaf.to_le_bytes()),
                Leaf::Digest(leaf) => crc32c::crc32c_append(crc, leaf.as_bytes()),
            })),
            Self::Digest(hasher) => Check::Digest(hasher.chunk(leaves.into_iter().map(|leaf| match leaf {
                Leaf::Crc(_) => hasher.zero_leaf(0),
                Leaf::Digest(leaf) => leaf,
            }))),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Leaf {
    Crc(u32),
    Digest(Digest),
}

/// What is done to every chunk of a run.
pub(crate) struct Recipe {
    unit_len: usize,
    block_len: usize,
    sub_len: usize,
    checker: Checker,
    /// Only this much of the disk is digested; the rest must be zero.
    content_limit: Option<u64>,
    max_encoded_len: usize,
    encodes: bool,
    encoders: Pool<Box<dyn Encoder>>,
    decoders: Pool<Decoder>,
    outputs: Arc<Pool<Vec<u8>>>,
}

impl Recipe {
    /// For chunks that go to `writer` (or nowhere), read by jobs of at least `decode_len` bytes.
    ///
    /// # Errors
    /// A codec cannot be set up.
    pub(crate) fn new(
        writer: Option<&dyn FormatWriter>,
        decode_len: usize,
        checker: Checker,
        workers: usize,
    ) -> Result<Self> {
        let unit_len = writer.map_or(LEAF_LEN, FormatWriter::unit_len);
        let (encoders, mut max_encoded_len, mut encodes) = (Pool::default(), 0, false);
        if let Some(writer) = writer {
            for _ in 0..workers {
                if let Some(encoder) = writer.encoder().context(|| "cannot set up the encoder".into())? {
                    max_encoded_len = encoder.max_encoded_len();
                    encodes = true;
                    encoders.put(encoder);
                }
            }
        }
        Ok(Self {
            unit_len,
            block_len: unit_len.min(BLOCK_LEN),
            sub_len: SUB_LEN.max(unit_len).max(decode_len),
            checker,
            content_limit: None,
            max_encoded_len,
            encodes,
            encoders,
            decoders: Pool::default(),
            outputs: Arc::default(),
        })
    }

    /// Digests only the first `content` bytes of the disk and looks for data behind them.
    pub(crate) fn limit_content(mut self, content: u64) -> Self {
        self.content_limit = Some(content);
        self
    }

    pub(crate) fn content_limit(&self) -> Option<u64> {
        self.content_limit
    }

    /// Worst-case bytes of output that a chunk holds beside its input.
    pub(crate) fn output_cost(&self) -> u64 {
        let units = usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX) / self.unit_len;
        (units * self.max_encoded_len) as u64
    }

    pub(crate) fn checker(&self) -> &Checker {
        &self.checker
    }

    /// The CPU's part of one chunk; called inside the pool.
    ///
    /// # Errors
    /// A cluster of the source does not inflate, or the encoder failed.
    pub(crate) fn process(&self, fetched: Fetched, encode: bool) -> Result<Processed> {
        let Fetched { guest_offset, len, mut buffer, holes, encoded, decodes } = fetched;
        let padded = len.next_multiple_of(self.sub_len);
        let subs = buffer[..padded]
            .par_chunks_mut(self.sub_len)
            .enumerate()
            .map(|(index, bytes)| {
                let start = index * self.sub_len;
                let sub = SubChunk {
                    guest_offset: guest_offset + start as u64,
                    start,
                    len: (len - start).min(bytes.len()),
                };
                self.decode(&sub, bytes, encoded.as_deref(), &decodes)?;
                bytes[sub.len..].fill(0);
                self.sub_chunk(&sub, bytes, &holes, encode)
            })
            .collect::<Result<Vec<SubOutput>>>()?;
        drop(encoded);
        let data_behind_content = subs.iter().any(|sub| sub.data_behind_content);
        let check = self.checker.chunk(subs.iter().flat_map(|sub| sub.leaves.iter().copied()));
        let mut shape = ChunkShape::new(guest_offset, len as u64);
        let units = len.div_ceil(self.unit_len);
        let shapes = subs.iter().flat_map(|sub| sub.shapes.iter().copied());
        let (mut absent, mut keeps_input) = (0, false);
        for unit in shapes.take(units) {
            shape.push(unit, 1);
            absent += u64::from(unit == UnitShape::Absent);
            keeps_input |= unit == UnitShape::Data;
        }
        let zero_bytes = (absent * self.unit_len as u64).min(len as u64);
        let payload = Payload {
            unit_len: self.unit_len,
            units_per_sub: self.sub_len / self.unit_len,
            input: (keeps_input && encode).then(|| buffer.freeze()),
            outputs: subs.into_iter().map(|sub| (sub.output, sub.ends)).collect(),
        };
        Ok(Processed { shape, check, zero_bytes, payload, data_behind_content })
    }

    /// A range of zeros, whole chunks or the short last one.
    pub(crate) fn zeros(&self, guest_offset: u64, len: u64) -> Processed {
        Processed {
            shape: ChunkShape::absent(guest_offset, len, self.unit_len),
            check: self.checker.zero_chunk(self.content_len(guest_offset, len.min(CHUNK_LEN))),
            zero_bytes: len,
            payload: Payload::default(),
            data_behind_content: false,
        }
    }

    /// How much of `len` bytes at `guest_offset` is digested: up to the limit, whole sectors.
    fn content_len(&self, guest_offset: u64, len: u64) -> u64 {
        let limit = self.content_limit.map_or(u64::MAX, |limit| limit.saturating_sub(guest_offset));
        len.min(limit).next_multiple_of(512)
    }

    fn decode(
        &self,
        sub: &SubChunk,
        bytes: &mut [u8],
        encoded: Option<&[u8]>,
        decodes: &[Decode],
    ) -> Result<()> {
        let end = sub.start + bytes.len();
        let first = decodes.partition_point(|decode| decode.chunk.start < sub.start);
        let mine = decodes[first..].iter().take_while(|decode| decode.chunk.start < end);
        let (Some(encoded), true) = (encoded, mine.clone().next().is_some()) else { return Ok(()) };
        let mut decoder = self.decoders.take(Decoder::new);
        for decode in mine {
            let out = &mut bytes[decode.chunk.start - sub.start..decode.chunk.end - sub.start];
            decoder.decode(decode.codec, &encoded[decode.encoded.clone()], out).context(|| {
                let guest = sub.guest_offset + (decode.chunk.start - sub.start) as u64;
                format!("cannot read the source at guest byte {guest:#x}")
            })?;
        }
        self.decoders.put(decoder);
        Ok(())
    }

    fn sub_chunk(
        &self,
        sub: &SubChunk,
        bytes: &mut [u8],
        holes: &[Range<usize>],
        encode: bool,
    ) -> Result<SubOutput> {
        let zero = self.find_zeros(sub, bytes, holes);
        let content = usize::try_from(self.content_len(sub.guest_offset, sub.len as u64)).unwrap_or(sub.len);
        let leaves = self.checker.leaves(&bytes[..content], |start, end| zero.all(start, end));
        let data_behind_content = content < sub.len && !is_zero(&bytes[content..sub.len]);
        let mut out = SubOutput { leaves, data_behind_content, ..SubOutput::default() };
        if !encode {
            out.shapes.extend((0..bytes.len()).step_by(self.unit_len).map(|start| {
                if zero.all(start, start + self.unit_len) { UnitShape::Absent } else { UnitShape::Data }
            }));
            return Ok(out);
        }
        let mut encoder = None;
        // The front of `output` that holds payloads; behind is what an earlier use left.
        let (mut output, mut filled) = (Vec::new(), 0);
        if self.encodes && !zero.all(0, bytes.len()) {
            // There are as many encoders as workers, so one is always free.
            let free = self.encoders.try_take();
            encoder = Some(free.ok_or_else(|| Error::failed("more jobs than encoders"))?);
            let room = bytes.len() / self.unit_len * self.max_encoded_len;
            output = self.outputs.take(|| vec![0; room]);
            if output.len() < room {
                output.resize(room, 0);
            }
        }
        for (index, unit) in bytes.chunks_exact(self.unit_len).enumerate() {
            let start = index * self.unit_len;
            let shape = match &mut encoder {
                _ if zero.all(start, start + self.unit_len) => UnitShape::Absent,
                None => UnitShape::Data,
                Some(encoder) => {
                    let guest = sub.guest_offset + start as u64;
                    let encoded = encoder
                        .encode(guest, unit, &mut output[filled..])
                        .context(|| format!("cannot encode the cluster at guest byte {guest:#x}"))?;
                    filled += encoded.len;
                    encoded.shape
                }
            };
            out.shapes.push(shape);
            out.ends.push(filled);
        }
        if let Some(encoder) = encoder {
            self.encoders.put(encoder);
            let home = Arc::clone(&self.outputs);
            out.output = Bytes::from_owner(PooledVec { bytes: output, home }).slice(..filled);
        }
        Ok(out)
    }

    /// Whether the digested content ends inside of the sub-chunk.
    fn is_cut(&self, sub: &SubChunk, len: usize) -> bool {
        self.content_len(sub.guest_offset, sub.len as u64) < len as u64
    }

    /// Scans what is not known to be zero, and zeroes the holes that share a unit or a leaf with
    /// data: nothing but that is ever read in a hole.
    fn find_zeros(&self, sub: &SubChunk, bytes: &mut [u8], holes: &[Range<usize>]) -> Blocks {
        let mut blocks =
            Blocks { block_len: self.block_len, zero: vec![false; bytes.len() / self.block_len] };
        let mut stale = vec![false; blocks.zero.len()];
        let end = sub.start + bytes.len();
        let first = holes.partition_point(|hole| hole.end <= sub.start);
        for hole in holes[first..].iter().take_while(|hole| hole.start < end) {
            let hole = hole.start.max(sub.start) - sub.start..hole.end.min(end) - sub.start;
            let (inner_start, inner_end) =
                (hole.start.next_multiple_of(self.block_len), hole.end / self.block_len * self.block_len);
            if inner_start >= inner_end {
                bytes[hole].fill(0);
                continue;
            }
            bytes[hole.start..inner_start].fill(0);
            bytes[inner_end..hole.end].fill(0);
            let range = inner_start / self.block_len..inner_end / self.block_len;
            blocks.zero[range.clone()].fill(true);
            stale[range].fill(true);
        }
        for (index, block) in bytes.chunks_exact(self.block_len).enumerate() {
            if !stale[index] {
                blocks.zero[index] = is_zero(block);
            }
        }
        let group_len = self.unit_len.max(LEAF_LEN);
        for start in (0..bytes.len()).step_by(group_len) {
            let group = start / self.block_len..(start + group_len).min(bytes.len()) / self.block_len;
            // A short leaf of zeros is hashed from memory, and so is what a limit cuts off.
            if self.is_cut(sub, bytes.len()) || group.clone().any(|block| !blocks.zero[block]) {
                for block in group.filter(|&block| stale[block]) {
                    bytes[block * self.block_len..][..self.block_len].fill(0);
                }
            }
        }
        blocks
    }
}

/// A chunk whose bytes have arrived.
pub(crate) struct Fetched {
    /// First guest byte.
    pub(crate) guest_offset: u64,
    /// Guest bytes; the buffer is a whole chunk.
    pub(crate) len: usize,
    /// The chunk; unspecified in holes, in what is still to be decoded, and behind `len`.
    pub(crate) buffer: Buffer,
    /// Ranges of zeros that were not written into the buffer, in order.
    pub(crate) holes: Vec<Range<usize>>,
    /// Clusters to inflate.
    pub(crate) encoded: Option<Buffer>,
    /// Where they go, in chunk order.
    pub(crate) decodes: Vec<Decode>,
}

/// A chunk that is ready to be placed.
pub(crate) struct Processed {
    /// Its outline.
    pub(crate) shape: ChunkShape,
    /// Its digest; for a run of zero chunks that of each of them.
    pub(crate) check: Check,
    /// Guest bytes in absent units.
    pub(crate) zero_bytes: u64,
    /// Its payload.
    pub(crate) payload: Payload,
    /// There is data behind the content limit.
    pub(crate) data_behind_content: bool,
}

/// The payload of a chunk's units: slices of its input and of what the encoder made.
#[derive(Default)]
pub(crate) struct Payload {
    unit_len: usize,
    units_per_sub: usize,
    input: Option<Bytes>,
    outputs: Vec<(Bytes, Vec<usize>)>,
}

impl Payload {
    /// Appends the payload of `units` units from `first` on to `pieces`, cut to `len` bytes;
    /// neighbours in memory become one piece.
    ///
    /// # Errors
    /// The writer asked for something that the chunk does not have.
    pub(crate) fn collect(&self, first: u64, units: u64, len: u64, pieces: &mut Vec<Bytes>) -> Result<()> {
        let wrong = || {
            Error::failed(format!(
                "the writer asked for {len} bytes of units {first}+{units} that are not there"
            ))
        };
        let index = |n: u64| usize::try_from(n).map_err(|_| wrong());
        let (first, units, mut left) = (index(first)?, index(units)?, index(len)?);
        let mut unit = first;
        while unit < first + units {
            let (output, ends) = self.outputs.get(unit / self.units_per_sub).ok_or_else(wrong)?;
            let in_sub = unit % self.units_per_sub;
            let last = (first + units - unit + in_sub).min(self.units_per_sub);
            let encoded = |at: usize| {
                let start = if at == 0 { 0 } else { ends[at - 1] };
                start..ends[at]
            };
            let (piece, next) = if encoded(in_sub).is_empty() {
                let stop = (in_sub + 1..last).find(|&at| !encoded(at).is_empty()).unwrap_or(last);
                let start = unit * self.unit_len;
                let end = start + (stop - in_sub) * self.unit_len;
                let input = self.input.as_ref().ok_or_else(wrong)?;
                (input.slice(start..end.min(input.len())), stop)
            } else {
                let stop = (in_sub + 1..last).find(|&at| encoded(at).is_empty()).unwrap_or(last);
                (output.slice(encoded(in_sub).start..encoded(stop - 1).end), stop)
            };
            unit += next - in_sub;
            let piece = piece.slice(..piece.len().min(left));
            left -= piece.len();
            if !piece.is_empty() {
                pieces.push(piece);
            }
        }
        if left > 0 { Err(wrong()) } else { Ok(()) }
    }
}

struct SubChunk {
    guest_offset: u64,
    start: usize,
    len: usize,
}

#[derive(Default)]
struct SubOutput {
    leaves: Vec<Leaf>,
    data_behind_content: bool,
    shapes: Vec<UnitShape>,
    output: Bytes,
    /// Where each unit's payload ends in `output`.
    ends: Vec<usize>,
}

struct Blocks {
    block_len: usize,
    zero: Vec<bool>,
}

impl Blocks {
    fn all(&self, start: usize, end: usize) -> bool {
        self.zero[start / self.block_len..end.div_ceil(self.block_len)].iter().all(|&zero| zero)
    }
}

/// Things that are expensive to make, kept for the next job.
#[derive(Debug)]
struct Pool<T>(Mutex<Vec<T>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<T> Pool<T> {
    fn take(&self, make: impl FnOnce() -> T) -> T {
        self.try_take().unwrap_or_else(make)
    }

    fn try_take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, item: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(item);
    }
}

/// A vector that goes back to its pool with the last slice of it.
struct PooledVec {
    bytes: Vec<u8>,
    home: Arc<Pool<Vec<u8>>>,
}

impl AsRef<[u8]> for PooledVec {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledVec {
    fn drop(&mut self) {
        self.home.put(std::mem::take(&mut self.bytes));
    }
}

/// Guest bytes of one CPU job, unless a unit is larger.
const SUB_LEN: usize = 256 << 10;

/// Granularity of the zero scan in bytes, unless a unit is smaller.
const BLOCK_LEN: usize = 4096;
