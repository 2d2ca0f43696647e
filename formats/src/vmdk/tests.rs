//! The writers against the reader and the parser, and against images made to do harm.

mod hostile;
mod layout;
mod streaming;

use crate::{
    ChunkShape, Error, ErrorKind, Format, FormatWriter, Op, ReaderPolicy, Result, WriterSpec,
    chunk::UnitShape,
    deflate::Level,
    num::{to_u64, to_usize},
    plan::{Mapping, Need, Place, Step},
    testkit::{Rng, disk, open_image, read_all, read_image, write_image},
    vmdk::{Subformat, VmdkOptions},
};

const SUBFORMATS: [Subformat; 2] = [Subformat::MonolithicSparse, Subformat::StreamOptimized];

fn options(subformat: Subformat) -> VmdkOptions {
    VmdkOptions { subformat, ..VmdkOptions::default() }
}

fn spec(subformat: Subformat) -> WriterSpec {
    WriterSpec::Vmdk(options(subformat))
}

fn image(subformat: Subformat, raw: &[u8]) -> Vec<u8> {
    write_image(&spec(subformat), raw, "disk.vmdk", true).unwrap()
}

fn read(image: &[u8]) -> Result<Vec<u8>> {
    read_image(Format::Vmdk, image, &ReaderPolicy::default())
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().kind()
}

fn le64(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

fn le32(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Where the directory of an image of ours is, in bytes.
fn directory(image: &[u8]) -> usize {
    match le64(image, 56) {
        u64::MAX => to_usize(le64(image, image.len() - 1024 + 56)) * 512,
        sector => to_usize(sector) * 512,
    }
}

/// Where its first table is.
fn table(image: &[u8]) -> usize {
    le32(image, directory(image)) as usize * 512
}

#[test]
fn what_is_written_is_read() {
    let (grain, chunk, table) = (65_536, 4 << 20, 32 << 20);
    let mut sizes = vec![1, 511, 512, 513, grain - 1, grain, grain + 1, chunk - 1, chunk, chunk + 1];
    sizes.extend([9_999_999, table, table + 1, table + chunk + 700]);
    for size in sizes {
        let raw = disk(to_u64(size) + 3, size);
        for subformat in SUBFORMATS {
            let mut back = read(&image(subformat, &raw)).unwrap();
            assert_eq!(back.len(), size.next_multiple_of(512));
            assert!(back[size..].iter().all(|&byte| byte == 0));
            back.truncate(size);
            assert!(back == raw, "{subformat}, {size} bytes");
        }
    }
}

#[test]
fn any_disk_comes_back_through_the_smallest_cache() {
    let policy = ReaderPolicy { table_cache_len: 0, ..ReaderPolicy::default() };
    let mut rng = Rng::new(1);
    for seed in 0..12 {
        let raw = disk(seed, 1 + to_usize(rng.below(6 << 20)));
        for subformat in SUBFORMATS {
            let mut back = read_image(Format::Vmdk, &image(subformat, &raw), &policy).unwrap();
            back.truncate(raw.len());
            assert!(back == raw, "{subformat}, seed {seed}");
        }
    }
}

#[test]
fn a_read_from_anywhere_is_right() {
    let raw = disk(5, 5 << 20);
    for subformat in SUBFORMATS {
        let image = image(subformat, &raw);
        let (mut reader, _) = open_image(Format::Vmdk, &image, &[], &ReaderPolicy::default()).unwrap();
        let mut rng = Rng::new(2);
        for _ in 0..300 {
            let start = rng.below(5 << 20);
            let end = start + 1 + rng.below((5 << 20) - start);
            let mappings = loop {
                match reader.plan(start..end).unwrap() {
                    Step::Need(need) => {
                        let at = to_usize(need.offset);
                        reader.supply(need, &image[at..at + need.len]).unwrap();
                    }
                    Step::Ready(mappings) => break mappings,
                }
            };
            assert!(mappings[0].guest.start <= start && mappings[0].guest.end > start);
            for Mapping { guest, place } in mappings {
                let disk = &raw[to_usize(guest.start)..to_usize(guest.end.min(5 << 20))];
                match place {
                    Place::Hole => assert!(disk.iter().all(|&byte| byte == 0)),
                    Place::Raw { offset, .. } => assert!(image[to_usize(offset)..][..disk.len()] == *disk),
                    Place::Compressed { offset, len, .. } => {
                        assert!(offset + u64::from(len) <= to_u64(image.len()));
                    }
                }
            }
        }
    }
}

#[test]
fn equal_calls_give_equal_bytes_and_other_parameters_other_ids() {
    let raw = disk(8, 5 << 20);
    for subformat in SUBFORMATS {
        let first = image(subformat, &raw);
        assert!(first == image(subformat, &raw));
        let other = write_image(&spec(subformat), &raw, "other.vmdk", true).unwrap();
        assert!(first[..512] == other[..512] && first[512..1536] != other[512..1536]);
        let seeded = |name, seed: &str| {
            let options = VmdkOptions { id_seed: Some(seed.to_owned()), ..options(subformat) };
            write_image(&WriterSpec::Vmdk(options), &raw, name, true).unwrap()
        };
        let cid = |image: &[u8]| {
            let text = String::from_utf8_lossy(&image[512..2048]).into_owned();
            text.lines().find(|line| line.starts_with("CID=")).unwrap().to_owned()
        };
        assert_eq!(cid(&seeded("a", "x")), cid(&seeded("b", "x")));
        assert_ne!(cid(&seeded("a", "x")), cid(&seeded("a", "y")));
    }
}

#[test]
fn a_stream_of_unknown_length_differs_in_nothing() {
    for size in [1, 70_000, (33 << 20) + 5] {
        let raw = disk(9, size);
        let spec = spec(Subformat::StreamOptimized);
        assert!(
            spec.writer(None, "x").unwrap().fills_late() && !spec.writer(Some(1), "x").unwrap().fills_late()
        );
        let late = write_image(&spec, &raw, "disk.vmdk", false).unwrap();
        assert!(late == image(Subformat::StreamOptimized, &raw), "{size} bytes");
    }
}

#[test]
fn how_a_disk_is_cut_and_replayed_does_not_show() {
    // Shapes alone, as a journal keeps them: the operations of pieces of one chunk and of several.
    for subformat in SUBFORMATS {
        let unit = match subformat {
            Subformat::MonolithicSparse => UnitShape::Data,
            Subformat::StreamOptimized => UnitShape::Compressed(1000),
        };
        let run = |join: bool| {
            let mut writer = spec(subformat).writer(Some(100 << 20), "x").unwrap();
            let mut ops = Vec::new();
            writer.begin(&mut ops).unwrap();
            let zeros = |from: u64, to: u64| ChunkShape::absent(from << 20, (to - from) << 20, 65_536);
            let mut data = ChunkShape::new(28 << 20, 4 << 20);
            data.push(UnitShape::Absent, 10);
            data.push(unit, 54);
            let pieces = if join {
                vec![zeros(0, 28), data, zeros(32, 100)]
            } else {
                let mut pieces: Vec<_> = (0..7).map(|chunk| zeros(chunk * 4, chunk * 4 + 4)).collect();
                pieces.push(data);
                pieces.extend((8..25).map(|chunk| zeros(chunk * 4, chunk * 4 + 4)));
                pieces
            };
            for piece in pieces {
                writer.place(&piece, &mut ops).unwrap();
            }
            writer.finish(100 << 20, &mut ops).unwrap();
            (ops, writer.position())
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
fn a_hole_of_terabytes_is_few_answers() {
    for (subformat, size) in
        [(Subformat::StreamOptimized, 16_u64 << 40), (Subformat::MonolithicSparse, 8 << 30)]
    {
        let mut writer = spec(subformat).writer(Some(size), "x").unwrap();
        let (mut image, mut ops) = (crate::testkit::MemoryImage::default(), Vec::new());
        writer.begin(&mut ops).unwrap();
        writer.place(&ChunkShape::absent(0, size, 65_536), &mut ops).unwrap();
        writer.finish(size, &mut ops).unwrap();
        image.apply(&ops, |_| unreachable!());
        let (mut reader, files) =
            open_image(Format::Vmdk, &image.bytes, &[], &ReaderPolicy::default()).unwrap();
        let (mut at, mut steps) = (0, 0);
        while at < size {
            steps += 1;
            match reader.plan(at..size).unwrap() {
                Step::Need(need) => {
                    reader.supply(need, &files[0][to_usize(need.offset)..][..need.len]).unwrap();
                }
                Step::Ready(mappings) => {
                    assert!(mappings.len() == 1 && mappings[0].place == Place::Hole);
                    at = mappings[0].guest.end;
                }
            }
        }
        assert!(steps < 100, "{steps} steps");
    }
}

#[test]
fn tables_side_by_side_come_in_one_piece() {
    let mut raw = vec![0; 200 << 20];
    raw.chunks_mut(32 << 20).for_each(|span| span[0] = 1);
    let image = image(Subformat::MonolithicSparse, &raw);
    let (mut reader, files) = open_image(Format::Vmdk, &image, &[], &ReaderPolicy::default()).unwrap();
    let (mut needs, mut at) = (Vec::new(), 0);
    while at < 200 << 20 {
        match reader.plan(at..200 << 20).unwrap() {
            Step::Need(need) => {
                reader.supply(need, &files[0][to_usize(need.offset)..][..need.len]).unwrap();
                needs.push(need);
            }
            Step::Ready(mappings) => at = mappings.last().unwrap().guest.end,
        }
    }
    assert_eq!(needs, [Need { file: 0, offset: to_u64(table(&image)), len: 7 * 2048 }]);
    assert!(read_all(&mut *reader, &files).unwrap() == raw);
}
