//! The writer against the reader, against a checker that shares no code with either, and against
//! images made to do harm.

mod encoding;
mod hostile;
mod limits;

use proptest::prelude::*;

use crate::{
    ChunkShape, Compression, Error, ErrorKind, Format, FormatReader, FormatWriter, Op, ReaderPolicy, Result,
    WriterSpec,
    chunk::UnitShape,
    deflate::Level,
    num::{to_u64, to_usize},
    plan::{Mapping, Need, Place, Step},
    qcow2::{Qcow2Options, Qcow2Writer},
    testkit::{MemoryImage, Rng, disk, open_image, read_all, read_image, write_image},
};

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Deflate, Compression::Zstd];

fn options(cluster_bits: u32, compression: Compression) -> Qcow2Options {
    Qcow2Options { cluster_bits, compression, level: Level::Default }
}

fn image(cluster_bits: u32, compression: Compression, raw: &[u8]) -> Vec<u8> {
    write_image(&WriterSpec::Qcow2(options(cluster_bits, compression)), raw, "x", true).unwrap()
}

fn read(image: &[u8]) -> Result<Vec<u8>> {
    read_image(Format::Qcow2, image, &ReaderPolicy::default())
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().kind()
}

fn be64(image: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(image[at..at + 8].try_into().unwrap())
}

fn be32(image: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(image[at..at + 4].try_into().unwrap())
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Counts every reference in an image of ours from L1 and L2 and compares with what is stored.
fn check(image: &[u8]) {
    let bits = be32(image, 20);
    let cluster = 1_usize << bits;
    assert_eq!(image.len() % cluster, 0, "the file is whole clusters");
    let mut counts = vec![0_u16; image.len() / cluster];
    let mut count = |from: usize, len: usize| {
        for count in &mut counts[from / cluster..(from + len).div_ceil(cluster)] {
            *count += 1;
        }
    };
    let (l1, l1_len) = (to_usize(be64(image, 40)), be32(image, 36) as usize * 8);
    let (table, table_len) = (to_usize(be64(image, 48)), be32(image, 56) as usize * cluster);
    assert_eq!((l1 % cluster, table % cluster), (0, 0));
    count(0, cluster);
    count(l1, l1_len);
    count(table, table_len);
    let mask = (1_u64 << 56) - 512;
    let x = 62 - (bits - 8);
    for l1_at in (l1..l1 + l1_len).step_by(8) {
        let l1_entry = be64(image, l1_at);
        if l1_entry == 0 {
            continue;
        }
        assert_eq!(l1_entry & !mask, 1 << 63, "L2 tables are exclusive");
        let l2 = to_usize(l1_entry & mask);
        assert_eq!(l2 % cluster, 0);
        count(l2, cluster);
        assert!(image[l2..l2 + cluster].iter().any(|&byte| byte != 0), "an empty L2 table is not written");
        for at in (l2..l2 + cluster).step_by(8) {
            let entry = be64(image, at);
            if entry >> 62 & 1 == 1 {
                assert_eq!(entry >> 63, 0, "compressed clusters are never exclusive");
                let offset = to_usize(entry & ((1 << x) - 1));
                let sectors = to_usize((entry & ((1 << 62) - 1)) >> x);
                count(offset, (sectors + 1) * 512 - offset % 512);
            } else if entry != 0 {
                assert_eq!(entry & !mask, 1 << 63, "data clusters are exclusive");
                assert_eq!(to_usize(entry & mask) % cluster, 0);
                count(to_usize(entry & mask), cluster);
            }
        }
    }
    let blocks: Vec<usize> =
        (table..table + table_len).step_by(8).map(|at| to_usize(be64(image, at))).collect();
    for &block in blocks.iter().filter(|&&block| block != 0) {
        assert_eq!(block % cluster, 0);
        count(block, cluster);
    }
    for (host, &counted) in counts.iter().enumerate() {
        let block = blocks[host / (cluster / 2)];
        assert_ne!(block, 0, "host cluster {host} is not counted at all");
        let at = block + host % (cluster / 2) * 2;
        let stored = u16::from_be_bytes([image[at], image[at + 1]]);
        assert_eq!(stored, counted, "refcount of host cluster {host}");
        assert_ne!(counted, 0, "host cluster {host} is used");
    }
    let counted = image.len() / cluster;
    assert_eq!(blocks.iter().filter(|&&block| block != 0).count(), counted.div_ceil(cluster / 2));
}

#[test]
fn what_is_written_is_read_and_counted_exactly() {
    let chunk = 4 << 20;
    for cluster_bits in [9, 12, 16, 21] {
        let cluster = 1_usize << cluster_bits;
        let sizes =
            [0, 1, 511, 512, cluster - 1, cluster, cluster + 1, chunk - 1, chunk, chunk + 1, 9_999_999];
        for (index, size) in sizes.into_iter().enumerate() {
            let raw = disk(to_u64(size) + 1, size);
            for compression in COMPRESSIONS {
                let spec = WriterSpec::Qcow2(options(cluster_bits, compression));
                let image = write_image(&spec, &raw, "x", true).unwrap();
                check(&image);
                let mut read = read(&image).unwrap();
                assert_eq!(read.len(), size.next_multiple_of(512));
                assert!(read[size..].iter().all(|&byte| byte == 0));
                read.truncate(size);
                assert!(read == raw, "{compression}, {size} bytes in clusters of {cluster}");
                if index % 2 == 0 {
                    assert!(image == write_image(&spec, &raw, "x", false).unwrap(), "announced or not");
                }
            }
        }
    }
}

#[test]
fn the_smallest_image_is_as_the_contract_draws_it() {
    let mut raw = vec![0; 1 << 20];
    raw[65536 * 3] = 1;
    let image = image(16, Compression::None, &raw);
    assert_eq!(image.len(), 6 << 16);
    assert_eq!(image[..8], *b"QFI\xfb\0\0\0\x03");
    assert_eq!((be32(&image, 20), be64(&image, 24)), (16, 1 << 20));
    assert_eq!((be32(&image, 36), be64(&image, 40)), (1, 3 << 16));
    assert_eq!((be64(&image, 48), be32(&image, 56)), (5 << 16, 1));
    assert_eq!((be64(&image, 72), be32(&image, 96), be32(&image, 100)), (0, 4, 112));
    assert!(image[104..65536].iter().all(|&byte| byte == 0));
    assert_eq!(be64(&image, (2 << 16) + 3 * 8), 0x8000_0000_0001_0000);
    assert_eq!(be64(&image, 3 << 16), 0x8000_0000_0002_0000);
    assert_eq!(be64(&image, 5 << 16), 0x40000);
    let zstd = self::image(16, Compression::Zstd, &raw);
    assert_eq!((be64(&zstd, 72), zstd[104]), (8, 1));
}

/// Places units of the given shapes cut into pieces, and returns the image. The payload of a unit
/// depends on nothing but its place on the disk.
fn place_all(options: &Qcow2Options, shapes: &[UnitShape], cuts: &[usize], tail: u64) -> Vec<u8> {
    let mut writer = Qcow2Writer::new(options, None).unwrap();
    let cluster = writer.unit_len();
    let size = to_u64(shapes.len() * cluster) - tail;
    let (mut image, mut ops, mut from) = (MemoryImage::default(), Vec::new(), 0);
    writer.begin(&mut ops).unwrap();
    for to in cuts.iter().copied().filter(|&to| to < shapes.len()).chain([shapes.len()]) {
        let start = to_u64(from * cluster);
        let mut shape = ChunkShape::new(start, size.min(to_u64(to * cluster)) - start);
        shapes[from..to].iter().for_each(|&unit| shape.push(unit, 1));
        writer.place(&shape, &mut ops).unwrap();
        image.apply(&std::mem::take(&mut ops), |unit| {
            let unit = from + to_usize(unit);
            let len = match shapes[unit] {
                UnitShape::Absent => unreachable!("absent units have no payload"),
                UnitShape::Compressed(len) => len as usize,
                UnitShape::Data => cluster,
            };
            let mut bytes = vec![0; len];
            Rng::new(to_u64(unit)).fill(&mut bytes);
            bytes
        });
        assert_eq!(writer.position(), to_u64(image.bytes.len()));
        from = to;
    }
    writer.finish(size, &mut ops).unwrap();
    image.apply(&ops, |_| unreachable!("no payload behind the last piece"));
    assert_eq!(writer.position(), to_u64(image.bytes.len()));
    image.bytes
}

fn shapes() -> impl Strategy<Value = Vec<UnitShape>> {
    let run = prop_oneof![
        (Just(UnitShape::Absent), 1_usize..200),
        (Just(UnitShape::Data), 1_usize..600),
        ((1_u32..512).prop_map(UnitShape::Compressed), 1_usize..4),
        ((480_u32..512).prop_map(UnitShape::Compressed), 1_usize..300),
    ];
    proptest::collection::vec(run, 0..20)
        .prop_map(|runs| runs.into_iter().flat_map(|(shape, units)| vec![shape; units]).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_image_does_not_depend_on_the_cuts(
        shapes in shapes(),
        mut cuts in proptest::collection::vec(0_usize..4000, 0..12),
        tail in 0_u64..512,
    ) {
        cuts.sort_unstable();
        let tail = if shapes.is_empty() { 0 } else { tail };
        let options = options(9, Compression::Deflate);
        let whole = place_all(&options, &shapes, &[], tail);
        check(&whole);
        prop_assert!(whole == place_all(&options, &shapes, &cuts, tail));
    }

    #[test]
    fn any_part_of_a_disk_is_planned_the_same(seed: u64, bits in 9_u32..13, at in 0_u64..1 << 20, len in 1_u64..1 << 20) {
        let raw = disk(seed, 1 << 20);
        let image = image(bits, COMPRESSIONS[to_usize(seed % 3)], &raw);
        let policy = ReaderPolicy { table_cache_len: to_usize(seed % 5000), ..ReaderPolicy::default() };
        let (mut reader, files) = open_image(Format::Qcow2, &image, &[], &policy).unwrap();
        let all = read_all(&mut *reader, &files).unwrap();
        prop_assert!(all == raw);
        let end = (at + len).min(1 << 20);
        let mut from = at;
        while from < end {
            let mappings = settle(&mut *reader, &image, from..end).unwrap();
            prop_assert!(mappings[0].guest.start <= from);
            prop_assert!(mappings.windows(2).all(|pair| pair[0].guest.end == pair[1].guest.start));
            for mapping in &mappings {
                match mapping.place {
                    Place::Hole => {
                        let range = to_usize(mapping.guest.start)..to_usize(mapping.guest.end);
                        prop_assert!(raw[range].iter().all(|&byte| byte == 0));
                    }
                    Place::Raw { offset, .. } => {
                        let (start, len) = (to_usize(mapping.guest.start), to_usize(mapping.guest.end - mapping.guest.start));
                        prop_assert!(raw[start..start + len] == image[to_usize(offset)..to_usize(offset) + len]);
                    }
                    Place::Compressed { .. } => prop_assert_eq!(mapping.guest.end - mapping.guest.start, 1 << bits),
                }
            }
            from = mappings.last().unwrap().guest.end;
        }
    }

    #[test]
    fn a_mutated_image_is_read_or_refused(
        seed: u64,
        extended: bool,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..10),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let bits = if extended { 14 } else { 9 + u32::try_from(seed % 4).unwrap() };
        let mut image = image(bits, COMPRESSIONS[to_usize(seed % 3)], &disk(seed, 200_000));
        if extended {
            image[79] |= 16;
        }
        let tables: Vec<usize> = (0..be32(&image, 36) as usize)
            .map(|index| to_usize(be64(&image, to_usize(be64(&image, 40)) + index * 8) & ((1 << 56) - 512)))
            .collect();
        for (at, byte, place) in edits {
            // Noise in a header field or a table entry does more than noise in data.
            let at = match place {
                0 => at.index(image.len()),
                1 => at.index(120),
                2 => to_usize(be64(&image, 40)).saturating_add(at.index(64)),
                _ => tables[at.index(tables.len())] + at.index(512),
            };
            if let Some(target) = image.get_mut(at) {
                *target ^= byte;
            }
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        let policy = ReaderPolicy { max_virtual_size: 64 << 20, ..ReaderPolicy::default() };
        let _: Result<Vec<u8>> = read_image(Format::Qcow2, &image, &policy);
    }
}

/// Asks until there is an answer, supplying what is needed from `image`.
fn settle(reader: &mut dyn FormatReader, image: &[u8], guest: std::ops::Range<u64>) -> Result<Vec<Mapping>> {
    loop {
        match reader.plan(guest.clone())? {
            Step::Ready(mappings) => {
                assert!(!mappings.is_empty(), "an answer covers something");
                return Ok(mappings);
            }
            Step::Need(need) => {
                assert!(need.len > 0 && need.len <= Need::MAX_LEN);
                reader.supply(need, &image[to_usize(need.offset)..to_usize(need.offset) + need.len])?;
            }
        }
    }
}

#[test]
fn an_encoder_answers_the_same_whatever_came_before() {
    let (mut noise, text) = (vec![0; 65536], b"so many words, ".repeat(65536 / 15 + 1)[..65536].to_vec());
    Rng::new(1).fill(&mut noise);
    for (compression, level) in [
        (Compression::Deflate, Level::Fast),
        (Compression::Deflate, Level::Best),
        (Compression::Zstd, Level::Fast),
        (Compression::Zstd, Level::Best),
    ] {
        let options = Qcow2Options { cluster_bits: 16, compression, level };
        let writer = Qcow2Writer::new(&options, None).unwrap();
        let mut encoder = writer.encoder().unwrap().unwrap();
        let mut out = vec![0xcc; encoder.max_encoded_len() + 1];
        let first = encoder.encode(0, &text, &mut out).unwrap();
        let UnitShape::Compressed(len) = first.shape else { panic!("text is compressible") };
        assert_eq!(first.len, len as usize);
        assert_eq!(out[encoder.max_encoded_len()], 0xcc);
        let mut again = vec![0x33; encoder.max_encoded_len()];
        for _ in 0..5 {
            let plain = encoder.encode(0, &noise, &mut again).unwrap();
            assert_eq!((plain.shape, plain.len), (UnitShape::Data, 0));
        }
        assert_eq!(encoder.encode(1 << 30, &text, &mut again).unwrap(), first);
        assert!(out[..first.len] == again[..first.len]);
        assert_eq!(kind(encoder.encode(0, &text, &mut again[..10])), ErrorKind::InvalidInput);
        assert_eq!(kind(encoder.encode(0, &text[..512], &mut again)), ErrorKind::InvalidInput);
    }
    let identity =
        |compression| Qcow2Writer::new(&options(16, compression), None).unwrap().encoder_identity();
    assert_eq!(identity(Compression::None), "none");
    assert!(
        identity(Compression::Zstd).starts_with("zstd/1.") && identity(Compression::Zstd).ends_with("/fast")
    );
}
