//! Image formats: hostile images in, and disks through a writer and back.

use vmferry_formats::{
    Compression, Error, Format, FormatReader, OpenStep, ReaderPolicy, WriterSpec,
    codec::Decoder,
    deflate::Level,
    plan::{Mapping, Need, Place, Step},
    qcow2::Qcow2Options,
    testkit::{Rng, read_image, write_image},
    vmdk::{StreamGrain, StreamParser, StreamStep, Subformat, VmdkOptions},
};

/// Questions that a state machine may ask before it must have an answer. The largest L1 table of a
/// QCOW2 is read in 16 pieces.
const MAX_QUESTIONS: usize = 64;

/// Plans made of one image.
const MAX_PLANS: usize = 512;

/// Guest bytes that are inflated of one image.
const MAX_INFLATED: u64 = 16 << 20;

/// The length of each file beside an image.
const EXTENT_LEN: u64 = 1 << 20;

/// A hostile QCOW2.
pub fn qcow2_reader(data: &[u8]) {
    reader(Format::Qcow2, data);
}

/// A hostile VMDK.
pub fn vmdk_reader(data: &[u8]) {
    reader(Format::Vmdk, data);
}

fn reader(format: Format, data: &[u8]) {
    let policy = ReaderPolicy { table_cache_len: 1 << 20, ..ReaderPolicy::default() };
    open_and_walk(format, data, &policy);
    if format == Format::Vmdk {
        open_and_walk(format, data, &ReaderPolicy { allow_extents: true, ..policy });
    }
}

fn open_and_walk(format: Format, data: &[u8], policy: &ReaderPolicy) {
    let Some(mut image) = Image::open(format, data, policy) else { return };
    let size = image.reader.info().virtual_size;
    assert!(size <= policy.max_virtual_size, "the policy bounds the disk");
    assert_eq!(image.reader.info().format, format);

    // From the start, as a conversion goes.
    let (mut at, mut inflated) = (0, 0);
    for _ in 0..MAX_PLANS / 2 {
        if at >= size {
            break;
        }
        let Ok(mappings) = image.plan(at, size) else { break };
        for mapping in &mappings {
            inflated += image.decode(mapping, inflated);
        }
        at = mappings.last().map_or(size, |mapping| mapping.guest.end);
    }
    // Anywhere: what one range says does not depend on what was asked before.
    let mut rng = Rng::new(data.len() as u64);
    for _ in 0..MAX_PLANS / 2 {
        if size == 0 {
            break;
        }
        let at = rng.below(size) >> rng.below(40);
        let end = size.min(at + 1 + rng.below(1 << 26));
        let first = image.plan(at, end);
        let again = image.plan(at, end);
        assert_eq!(first.is_ok(), again.is_ok(), "plans of {at}..{end} differ");
        if let (Ok(first), Ok(again)) = (first, again) {
            assert_eq!(place_at(&first, at), place_at(&again, at), "plans of {at}..{end} differ");
        }
    }
}

/// What the first mapping says of guest byte `at`.
fn place_at(mappings: &[Mapping], at: u64) -> Place {
    let first = &mappings[0];
    match first.place {
        Place::Raw { file, offset } => Place::Raw { file, offset: offset + (at - first.guest.start) },
        place => place,
    }
}

/// An open image over bytes in memory.
struct Image<'a> {
    reader: Box<dyn FormatReader>,
    decoder: Decoder,
    data: &'a [u8],
    /// Lengths of the image and of the files beside it.
    lens: Vec<u64>,
}

impl<'a> Image<'a> {
    fn open(format: Format, data: &'a [u8], policy: &ReaderPolicy) -> Option<Self> {
        let mut lens = vec![data.len() as u64];
        let mut opener = vmferry_formats::open(format, lens[0], policy).expect("not raw");
        for _ in 0..MAX_QUESTIONS {
            match opener.step().ok()? {
                OpenStep::Need(need) => opener.supply(need, &bytes(data, &lens, need)).ok()?,
                OpenStep::Extents(names) => {
                    assert!(policy.allow_extents, "other files are named only if that is allowed");
                    for name in &names {
                        assert!(!name.is_empty() && !name.contains(['/', '\0']), "a bare name: {name:?}");
                        assert!(name != "." && name != "..", "a bare name: {name:?}");
                    }
                    lens.extend(names.iter().map(|_| EXTENT_LEN));
                    opener.supply_extents(&lens[1..]).ok()?;
                }
                OpenStep::Ready(reader) => {
                    return Some(Self { reader, decoder: Decoder::new(), data, lens });
                }
            }
        }
        panic!("opening never ends");
    }

    /// A plan whose promises are checked.
    fn plan(&mut self, at: u64, end: u64) -> Result<Vec<Mapping>, Error> {
        for _ in 0..MAX_QUESTIONS {
            match self.reader.plan(at..end)? {
                Step::Need(need) => {
                    let bytes = bytes(self.data, &self.lens, need);
                    self.reader.supply(need, &bytes)?;
                }
                Step::Ready(mappings) => {
                    self.check(&mappings, at);
                    return Ok(mappings);
                }
            }
        }
        panic!("planning {at}..{end} never ends");
    }

    fn check(&self, mappings: &[Mapping], at: u64) {
        let first = mappings.first().expect("a plan is not empty");
        assert!(first.guest.start <= at && first.guest.end > at, "{first:?} does not cover {at}");
        for pair in mappings.windows(2) {
            assert_eq!(pair[0].guest.end, pair[1].guest.start, "a gap");
        }
        for mapping in mappings {
            assert!(mapping.guest.start < mapping.guest.end, "{mapping:?} is empty");
            let (file, offset, len) = match mapping.place {
                Place::Hole => continue,
                Place::Raw { file, offset } => (file, offset, mapping.guest.end - mapping.guest.start),
                Place::Compressed { file, offset, len, .. } => (file, offset, u64::from(len)),
            };
            let end = offset.checked_add(len).expect("offsets do not wrap");
            assert!(end <= self.lens[file as usize], "{mapping:?} leaves its file");
        }
    }

    /// Inflates a compressed mapping; guest bytes inflated.
    fn decode(&mut self, mapping: &Mapping, inflated: u64) -> u64 {
        let Place::Compressed { file, offset, len, codec } = mapping.place else { return 0 };
        let cluster = mapping.guest.end - mapping.guest.start;
        assert!(cluster <= 2 << 20, "{mapping:?} is larger than any cluster");
        if inflated + cluster > MAX_INFLATED {
            return 0;
        }
        let input = bytes(self.data, &self.lens, Need { file, offset, len: len as usize });
        let mut out = vec![0xaa; usize::try_from(cluster).expect("a cluster")];
        let _ = self.decoder.decode(codec, &input, &mut out);
        cluster
    }
}

/// What a file holds; those beside the image are zeros.
fn bytes(data: &[u8], lens: &[u64], need: Need) -> Vec<u8> {
    assert!(need.len > 0 && need.len <= Need::MAX_LEN, "{need:?} is out of bounds");
    let end = need.offset.checked_add(need.len as u64).expect("offsets do not wrap");
    assert!(end <= lens[need.file as usize], "{need:?} leaves its file");
    match need.file {
        0 => data[need.offset as usize..end as usize].to_vec(),
        _ => vec![0; need.len],
    }
}

/// A hostile streamOptimized VMDK that comes through a pipe.
pub fn vmdk_stream(data: &[u8]) {
    let mut inflated = 0;
    let _ = follow(data, |_, _, len| {
        inflated += len as u64;
        inflated <= MAX_INFLATED
    });
}

/// Reads a stream to its end and tells of each grain: guest offset, content if it inflates, length.
/// Whether the stream is complete.
fn follow(data: &[u8], mut each: impl FnMut(u64, Option<&[u8]>, usize) -> bool) -> Result<bool, Error> {
    let (mut parser, mut decoder) = (StreamParser::new(&ReaderPolicy::default()), Decoder::new());
    let (mut rest, mut guest) = (data, 0);
    loop {
        match parser.step(rest, true)? {
            StreamStep::End => return Ok(true),
            StreamStep::Need(len) => panic!("{len} bytes wanted where nothing follows"),
            StreamStep::Drop(len) => {
                assert!(len > 0, "a step forward");
                rest = &rest[len..];
            }
            StreamStep::Grain(StreamGrain { guest_offset, encoded_len, codec }) => {
                let info = parser.info().expect("the descriptor is behind");
                assert!(guest_offset >= guest, "grains come in order");
                assert!(guest_offset < info.virtual_size);
                let len = usize::try_from(info.cluster_len).expect("a grain is small");
                assert!(len <= 2 << 20, "a grain of {len} bytes, {encoded_len} in the stream");
                guest = guest_offset + info.cluster_len;
                let mut grain = vec![0xaa; len];
                let decoded = decoder.decode(codec, &rest[..encoded_len], &mut grain);
                rest = &rest[encoded_len..];
                if !each(guest_offset, decoded.is_ok().then_some(&grain), len) {
                    return Ok(false);
                }
            }
        }
    }
}

/// Any disk through the QCOW2 writer and back.
pub fn qcow2_writer(data: &[u8]) {
    let mut recipe = Recipe::new(data);
    let cluster_bits = 9 + u32::from(recipe.byte()) % 13;
    let compression = [Compression::None, Compression::Deflate, Compression::Zstd][recipe.below(3)];
    let level = recipe.level();
    let announce = recipe.byte() & 1 == 0;
    let disk = recipe.disk();
    let spec = WriterSpec::Qcow2(Qcow2Options { cluster_bits, compression, level });
    let image = write_image(&spec, &disk, "x", announce).expect("such a disk fits");
    assert!(image.len() <= disk.len() + disk.len() / 8 + (8 << cluster_bits), "{} bytes", image.len());
    comes_back(Format::Qcow2, &image, disk);
}

/// Any disk through the VMDK writers and back.
pub fn vmdk_writer(data: &[u8]) {
    let mut recipe = Recipe::new(data);
    let subformat = [Subformat::StreamOptimized, Subformat::MonolithicSparse][recipe.below(2)];
    let level = recipe.level();
    let announce = recipe.byte() & 1 == 0;
    let disk = recipe.disk();
    let spec = WriterSpec::Vmdk(VmdkOptions { subformat, level, id_seed: None });
    match write_image(&spec, &disk, "x.vmdk", announce) {
        Ok(image) => {
            if subformat == Subformat::StreamOptimized {
                streams_back(&image, &disk);
            }
            comes_back(Format::Vmdk, &image, disk);
        }
        Err(error) => assert!(disk.is_empty() || !announce, "refused: {error}"),
    }
}

/// The same disk comes out if the image is read in order.
fn streams_back(image: &[u8], disk: &[u8]) {
    let mut back = vec![0; disk.len()];
    let complete = follow(image, |guest, grain, _| {
        let to = &mut back[guest as usize..];
        let grain = grain.expect("our own grain inflates");
        let len = grain.len().min(to.len());
        to[..len].copy_from_slice(&grain[..len]);
        true
    });
    assert!(complete.expect("our own stream"), "our own stream ends");
    assert!(back == disk, "what comes in order is the same");
}

fn comes_back(format: Format, image: &[u8], mut disk: Vec<u8>) {
    disk.resize(disk.len().next_multiple_of(512), 0);
    let back = read_image(format, image, &ReaderPolicy::default()).expect("our own image");
    assert_eq!(back.len(), disk.len());
    assert_eq!(back.iter().zip(&disk).position(|(ours, theirs)| ours != theirs), None, "first wrong byte");
}

/// Parameters and a disk, spelled by the input.
struct Recipe<'a> {
    data: &'a [u8],
}

impl<'a> Recipe<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data }
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.data.split_first() else { return 0 };
        self.data = rest;
        first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    fn level(&mut self) -> Level {
        [Level::Default, Level::Number(1), Level::Number(2), Level::Number(4), Level::Number(9)]
            [self.below(5)]
    }

    /// Runs of zeros, of one byte, of noise and of the input itself, up to a chunk and a half.
    fn disk(&mut self) -> Vec<u8> {
        let mut disk: Vec<u8> = Vec::new();
        while let [kind, magnitude, fine, rest @ ..] = self.data {
            self.data = rest;
            // Lengths from 1 byte to 8 MiB, many of them near powers of two.
            let len = (1_usize << (magnitude % 23)) + usize::from(*fine) - 128.min(1 << (magnitude % 23));
            let len = len.min(MAX_DISK - disk.len());
            let (end, start) = (disk.len() + len, disk.len());
            match kind % 4 {
                0 => disk.resize(end, 0),
                1 => disk.resize(start + len.min(MAX_DATA), kind / 4),
                2 => {
                    disk.resize(start + len.min(MAX_DATA), 0);
                    Rng::new(u64::from(*fine)).fill(&mut disk[start..]);
                }
                _ => {
                    let (run, rest) = self.data.split_at(len.min(self.data.len()));
                    disk.extend_from_slice(run);
                    self.data = rest;
                }
            }
        }
        disk
    }
}

/// More than one chunk; not so much that a run takes long.
const MAX_DISK: usize = 6 << 20;

/// Data of one run.
const MAX_DATA: usize = 128 << 10;
