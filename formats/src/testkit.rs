//! For tests: seeded disks, and writers and readers driven in memory. Simple on purpose, so that it
//! can judge the pipeline.

use bytes::Bytes;

use crate::{
    ChunkShape, Error, Format, FormatReader, Op, OpenStep, ReaderPolicy, Result, WriterSpec,
    chunk::{CHUNK_LEN, UnitShape},
    codec::Decoder,
    num::{to_u64, to_usize},
    plan::{Need, Place, Slot, Step},
    zero::is_zero,
};

/// A small, fast, seeded generator (SplitMix64); equal seeds give equal numbers for ever.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound` (`bound` is not 0).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Fills `bytes` with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let noise = self.next_u64().to_le_bytes();
            word.copy_from_slice(&noise[..word.len()]);
        }
    }
}

/// A disk of `len` bytes: runs of zeros, noise and text of many lengths, a few lone bytes.
pub fn disk(seed: u64, len: usize) -> Vec<u8> {
    let (mut rng, mut bytes, mut at) = (Rng::new(seed), vec![0; len], 0);
    while at < len {
        let magnitude = 9 + rng.below(12);
        let run = 1 + to_usize(rng.below(1 << magnitude));
        let end = (at + run).min(len);
        match rng.below(5) {
            0 => rng.fill(&mut bytes[at..end]),
            1 | 2 => {
                let word: Vec<u8> =
                    (0..24).map(|_| b' ' + u8::try_from(rng.below(90)).unwrap_or(0)).collect();
                for (to, from) in bytes[at..end].iter_mut().zip(word.iter().cycle()) {
                    *to = *from;
                }
                bytes[at] = u8::try_from(rng.below(255)).unwrap_or(0) + 1;
            }
            3 => bytes[at] = 1,
            _ => {}
        }
        at = end;
    }
    bytes
}

/// An output in memory, made by executing [`Op`]s.
#[derive(Clone, Debug, Default)]
pub struct MemoryImage {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    slots: Vec<(Slot, u64, u64, Vec<bool>)>,
}

impl MemoryImage {
    /// Executes operations; `payload` gives the payload of a unit of the chunk just placed.
    ///
    /// # Panics
    /// An operation breaks the rules of [`Op`].
    pub fn apply(&mut self, ops: &[Op], mut payload: impl FnMut(u64) -> Vec<u8>) {
        for op in ops {
            match op {
                Op::Append(bytes) => self.bytes.extend_from_slice(bytes),
                Op::Payload { first, units, len } => {
                    let mut all: Vec<u8> = (*first..first + units).flat_map(&mut payload).collect();
                    assert!(
                        to_u64(all.len()) >= *len,
                        "payload of {} bytes for an operation of {len}",
                        all.len()
                    );
                    all.truncate(to_usize(*len));
                    self.bytes.extend_from_slice(&all);
                }
                Op::Skip(len) => self.bytes.resize(self.bytes.len() + to_usize(*len), 0),
                Op::Reserve { slot, len } => {
                    assert!(self.slots.iter().all(|(name, ..)| name != slot), "slot {slot:?} reserved twice");
                    self.slots.push((*slot, to_u64(self.bytes.len()), *len, vec![false; to_usize(*len)]));
                    self.bytes.resize(self.bytes.len() + to_usize(*len), 0);
                }
                Op::Fill { slot, at, bytes } => {
                    let (_, start, len, filled) =
                        self.slots.iter_mut().find(|(name, ..)| name == slot).expect("a reserved slot");
                    assert!(at + to_u64(bytes.len()) <= *len, "fill past the end of {slot:?}");
                    let filled = &mut filled[to_usize(*at)..to_usize(*at) + bytes.len()];
                    assert!(!filled.contains(&true), "bytes of {slot:?} at {at} filled twice");
                    filled.fill(true);
                    let start = to_usize(*start + at);
                    self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }
}

/// Writes `disk` as an image. `announce` tells the writer the size beforehand. Holes are coalesced
/// over chunks as the pipeline does it.
///
/// # Errors
/// Those of the writer.
pub fn write_image(spec: &WriterSpec, disk: &[u8], name: &str, announce: bool) -> Result<Vec<u8>> {
    let mut image = MemoryImage::default();
    let position = drive(spec, disk, name, announce, |ops, payload| image.apply(ops, payload))?;
    assert_eq!(position, to_u64(image.bytes.len()), "position follows the operations");
    Ok(image.bytes)
}

/// Feeds `disk` to a writer and gives what it says to `execute`, with what tells the payload of a unit of
/// the chunk just placed. Returns the writer's last position.
///
/// # Errors
/// Those of the writer.
pub fn drive(
    spec: &WriterSpec,
    disk: &[u8],
    name: &str,
    announce: bool,
    mut execute: impl FnMut(&mut [Op], &dyn Fn(u64) -> Vec<u8>),
) -> Result<u64> {
    let size = to_u64(disk.len());
    let mut writer = spec.writer(announce.then_some(size), name)?;
    let (unit_len, mut encoder) = (writer.unit_len(), writer.encoder()?);
    let mut ops = Vec::new();
    let mut position = 0;
    let mut execute = |ops: &mut [Op], now: u64, payload: &dyn Fn(u64) -> Vec<u8>| {
        position += ops.iter().map(Op::span).sum::<u64>();
        assert_eq!(now, position, "position follows the operations");
        execute(ops, payload);
    };
    writer.begin(&mut ops)?;
    execute(&mut ops, writer.position(), &|_| unreachable!("no payload before the first chunk"));
    let mut pending: Option<ChunkShape> = None;
    for (index, chunk) in disk.chunks(to_usize(CHUNK_LEN)).enumerate() {
        let guest = to_u64(index) * CHUNK_LEN;
        if is_zero(chunk) {
            match &mut pending {
                Some(shape) => {
                    *shape =
                        ChunkShape::absent(shape.guest_offset, shape.len + to_u64(chunk.len()), unit_len);
                }
                None => pending = Some(ChunkShape::absent(guest, to_u64(chunk.len()), unit_len)),
            }
            continue;
        }
        if let Some(shape) = pending.take() {
            ops.clear();
            writer.place(&shape, &mut ops)?;
            execute(&mut ops, writer.position(), &|_| unreachable!("a hole has no payload"));
        }
        let mut padded = chunk.to_vec();
        padded.resize(chunk.len().next_multiple_of(unit_len), 0);
        let (mut shape, mut payloads) = (ChunkShape::new(guest, to_u64(chunk.len())), Vec::new());
        for (unit_index, unit) in padded.chunks(unit_len).enumerate() {
            let mut payload = Vec::new();
            let unit_shape = match &mut encoder {
                _ if is_zero(unit) => UnitShape::Absent,
                Some(encoder) => {
                    // What is there before must not matter.
                    payload = vec![0xa5; encoder.max_encoded_len()];
                    let encoded =
                        encoder.encode(guest + to_u64(unit_index * unit_len), unit, &mut payload)?;
                    payload.truncate(encoded.len);
                    encoded.shape
                }
                None => UnitShape::Data,
            };
            if unit_shape == UnitShape::Data {
                payload = unit.to_vec();
            }
            shape.push(unit_shape, 1);
            payloads.push(payload);
        }
        ops.clear();
        writer.place(&shape, &mut ops)?;
        execute(&mut ops, writer.position(), &|unit| payloads[to_usize(unit)].clone());
    }
    ops.clear();
    if let Some(shape) = pending {
        writer.place(&shape, &mut ops)?;
    }
    writer.finish(size, &mut ops)?;
    execute(&mut ops, writer.position(), &|_| unreachable!("no payload behind the last chunk"));
    Ok(writer.position())
}

/// Opens an image held in memory; `extents` are the contents of the files it may name.
///
/// # Errors
/// Those of the reader, or an extent that is not there.
pub fn open_image(
    format: Format,
    bytes: &[u8],
    extents: &[(&str, &[u8])],
    policy: &ReaderPolicy,
) -> Result<(Box<dyn FormatReader>, Vec<Bytes>)> {
    let mut files = vec![Bytes::copy_from_slice(bytes)];
    let mut opener = crate::open(format, to_u64(bytes.len()), policy)?;
    loop {
        match opener.step()? {
            OpenStep::Ready(reader) => return Ok((reader, files)),
            OpenStep::Need(need) => opener.supply(need, slice(&files, need))?,
            OpenStep::Extents(names) => {
                for name in &names {
                    let (_, content) = extents
                        .iter()
                        .find(|(known, _)| known == name)
                        .ok_or_else(|| Error::refused(format!("no extent {name}")))?;
                    files.push(Bytes::copy_from_slice(content));
                }
                let lens: Vec<u64> = files[1..].iter().map(|file| to_u64(file.len())).collect();
                opener.supply_extents(&lens)?;
            }
        }
    }
}

/// The whole guest disk of an image held in memory.
///
/// # Errors
/// Those of the reader.
pub fn read_image(format: Format, bytes: &[u8], policy: &ReaderPolicy) -> Result<Vec<u8>> {
    let (mut reader, files) = open_image(format, bytes, &[], policy)?;
    read_all(&mut *reader, &files)
}

/// The whole guest disk of an open image whose `files` are held in memory.
///
/// # Errors
/// Those of the reader.
pub fn read_all(reader: &mut dyn FormatReader, files: &[Bytes]) -> Result<Vec<u8>> {
    let size = reader.info().virtual_size;
    let (mut disk, mut decoder, mut at) = (vec![0; to_usize(size)], Decoder::new(), 0);
    while at < size {
        let mappings = match reader.plan(at..size)? {
            Step::Need(need) => {
                reader.supply(need, slice(files, need))?;
                continue;
            }
            Step::Ready(mappings) => mappings,
        };
        assert!(mappings[0].guest.start <= at, "the answer starts where it was asked");
        for mapping in mappings {
            assert!(
                mapping.guest.start <= at && mapping.guest.end > at,
                "mappings leave no gap: {mapping:?} at {at}"
            );
            let skip = to_usize(at - mapping.guest.start);
            let end = mapping.guest.end.min(size);
            let out = &mut disk[to_usize(at)..to_usize(end)];
            match mapping.place {
                Place::Hole => {}
                Place::Raw { file, offset } => {
                    let offset = offset + to_u64(skip);
                    out.copy_from_slice(slice(files, Need { file, offset, len: out.len() }));
                }
                Place::Compressed { file, offset, len, codec } => {
                    let input = slice(files, Need { file, offset, len: len as usize });
                    let mut cluster = vec![0xaa; to_usize(mapping.guest.end - mapping.guest.start)];
                    decoder.decode(codec, input, &mut cluster)?;
                    out.copy_from_slice(&cluster[skip..skip + out.len()]);
                }
            }
            at = end;
        }
    }
    Ok(disk)
}

fn slice(files: &[Bytes], need: Need) -> &[u8] {
    let start = to_usize(need.offset);
    &files[need.file as usize][start..start + need.len]
}

/// A tar archive of `(name, type flag, body)`, ustar, with its end: what archives of tests begin as.
pub fn tar(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, flag, body) in entries {
        let at = archive.len();
        archive.resize(at + 512, 0);
        let mut field = |offset: usize, bytes: &[u8]| {
            archive[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        };
        field(0, name.as_bytes());
        field(100, b"0000644\x000000000\x000000000\0");
        field(124, format!("{:011o}\0", body.len()).as_bytes());
        field(136, b"00000000000\0");
        field(156, &[*flag]);
        field(257, b"ustar\x0000");
        tar_checksum(&mut archive[at..]);
        archive.extend_from_slice(body);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Puts the checksum of the header block in front of `block` right.
pub fn tar_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..512].iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
