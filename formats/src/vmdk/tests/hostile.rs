//! Images that break rules, by accident or on purpose; contract 1.13.

use super::{streaming::parse, *};

fn sample(subformat: Subformat) -> Vec<u8> {
    let mut raw = vec![0; 40 << 20];
    for at in [1_usize, 2, 3, 600] {
        raw[at << 16..(at << 16) + 700].fill(u8::try_from(at % 250).unwrap());
    }
    image(subformat, &raw)
}

/// The header of a stream says that the directory is here, not in a footer.
fn without_footer(image: &mut [u8]) {
    let at = to_u64(directory(image)) / 512;
    put64(image, 56, at);
}

fn spoiled(subformat: Subformat, edit: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut image = sample(subformat);
    edit(&mut image);
    read(&image).map(|_| ())
}

fn replace(image: &mut [u8], from: &str, to: &str) {
    let at = image.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    assert_eq!(from.len(), to.len());
    image[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn every_rule_has_its_error() {
    use Subformat::{MonolithicSparse as Sparse, StreamOptimized as Stream};
    type Edit = fn(&mut Vec<u8>);
    let rules: &[(&str, ErrorKind, Subformat, Edit)] = &[
        ("neither", ErrorKind::Corrupt, Sparse, |image| image[0] = 0),
        ("COWD", ErrorKind::Unsupported, Sparse, |image| image[..4].copy_from_slice(b"COWD")),
        ("version 4", ErrorKind::Unsupported, Sparse, |image| put32(image, 4, 4)),
        ("version 0", ErrorKind::Unsupported, Sparse, |image| put32(image, 4, 0)),
        ("text transfer", ErrorKind::Corrupt, Sparse, |image| image[75] = b'\n'),
        ("capacity of 0", ErrorKind::Corrupt, Sparse, |image| put64(image, 12, 0)),
        ("virtual size", ErrorKind::Limit, Sparse, |image| put64(image, 12, u64::MAX)),
        ("virtual size", ErrorKind::Limit, Sparse, |image| put64(image, 12, (64 << 31) + 1)),
        ("leaves the file", ErrorKind::Truncated, Sparse, |image| put64(image, 12, 64 << 31)),
        ("grains of 0", ErrorKind::Corrupt, Sparse, |image| put64(image, 20, 0)),
        ("grains of 127", ErrorKind::Corrupt, Sparse, |image| put64(image, 20, 127)),
        ("grains of 4", ErrorKind::Corrupt, Sparse, |image| put64(image, 20, 4)),
        ("grains of 8192", ErrorKind::Corrupt, Sparse, |image| put64(image, 20, 8192)),
        ("one of several", ErrorKind::Unsupported, Sparse, |image| put64(image, 28, 0)),
        ("embedded descriptor", ErrorKind::Limit, Sparse, |image| put64(image, 36, 4097)),
        ("embedded descriptor", ErrorKind::Limit, Sparse, |image| put64(image, 36, u64::MAX)),
        ("descriptor at", ErrorKind::Truncated, Sparse, |image| put64(image, 28, 1 << 40)),
        ("no vmdk descriptor", ErrorKind::Corrupt, Sparse, |image| put64(image, 28, 2)),
        ("tables of 0", ErrorKind::Corrupt, Sparse, |image| put32(image, 44, 0)),
        ("tables of 513", ErrorKind::Corrupt, Sparse, |image| put32(image, 44, 513)),
        ("tables of 8192", ErrorKind::Corrupt, Sparse, |image| put32(image, 44, 8192)),
        ("sector 0", ErrorKind::Corrupt, Sparse, |image| {
            put64(image, 56, 0);
            put64(image, 48, 0);
        }),
        ("leaves the file", ErrorKind::Truncated, Sparse, |image| put64(image, 56, 1 << 40)),
        ("can be at sector", ErrorKind::Corrupt, Sparse, |image| put64(image, 56, u64::MAX - 1)),
        ("there are no markers", ErrorKind::Corrupt, Sparse, |image| put64(image, 56, u64::MAX)),
        ("unknown compression", ErrorKind::Unsupported, Sparse, |image| image[77] = 2),
        ("contradict", ErrorKind::Corrupt, Sparse, |image| image[77] = 1),
        ("contradict", ErrorKind::Corrupt, Stream, |image| image[77] = 0),
        ("without markers", ErrorKind::Unsupported, Stream, |image| put32(image, 8, 0x1_0001)),
        ("a footer ends", ErrorKind::Truncated, Stream, |image| image.extend([0; 512])),
        ("a footer ends", ErrorKind::Truncated, Stream, |image| image.truncate(image.len() - 512)),
        ("contradict", ErrorKind::Corrupt, Stream, |image| {
            let at = image.len() - 1024;
            put64(image, at + 28, 2);
        }),
        ("contradict", ErrorKind::Corrupt, Stream, |image| {
            let at = image.len() - 1024;
            put64(image, at + 12, 1);
        }),
        ("does not say", ErrorKind::Corrupt, Stream, |image| {
            let at = image.len() - 1024;
            put64(image, at + 56, u64::MAX);
        }),
        ("grain table at", ErrorKind::Truncated, Sparse, |image| {
            let at = directory(image);
            put32(image, at + 4, u32::MAX);
        }),
        ("share a table", ErrorKind::Corrupt, Sparse, |image| {
            let at = directory(image);
            let entry = le32(image, at);
            put32(image, at + 4, entry);
        }),
        ("leaves the file", ErrorKind::Truncated, Sparse, |image| {
            let at = table(image);
            put32(image, at + 4, u32::MAX);
        }),
        ("outside the file", ErrorKind::Truncated, Stream, |image| {
            let at = table(image);
            put32(image, at + 4, u32::MAX);
        }),
        ("that of sector 256", ErrorKind::Corrupt, Stream, |image| {
            let at = table(image);
            let entry = le32(image, at + 8);
            put32(image, at + 4, entry);
        }),
        ("room for", ErrorKind::Corrupt, Stream, |image| put32(image, 128 * 512 + 8, 70_000)),
        ("no grain where", ErrorKind::Corrupt, Stream, |image| put32(image, 128 * 512 + 8, 0)),
        ("does not inflate", ErrorKind::Corrupt, Stream, |image| image[128 * 512 + 12] = 0),
        ("difference", ErrorKind::Refused, Sparse, |image| {
            replace(image, "parentCID=ffffffff", "parentCID=fffffffe");
        }),
        ("createType", ErrorKind::Unsupported, Sparse, |image| {
            replace(image, "\"monolithicSparse\"", "\"monolithicSpar\"  ");
        }),
        ("bare file name", ErrorKind::Refused, Sparse, |image| {
            replace(image, "SPARSE \"disk.vmdk\"", "SPARSE \"/etc/xxxx\"");
        }),
    ];
    for &(text, expected, subformat, edit) in rules {
        let error = spoiled(subformat, edit).expect_err(text);
        assert!(error.to_string().contains(text), "{text}: {error}");
        assert_eq!(error.kind(), expected, "{error}");
    }
}

#[test]
fn a_file_cut_short_is_an_error_where_its_data_is_gone() {
    let whole = sample(Subformat::MonolithicSparse);
    for cut in [0, 100, 512, 5000, 11_000, 60_000, 65_536, 70_000, whole.len() - 65_536, whole.len() - 1] {
        let error = read(&whole[..cut]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{cut}: {error}");
    }
    let mut stream = sample(Subformat::StreamOptimized);
    without_footer(&mut stream);
    assert!(read(&stream).is_ok(), "the directory may be named by the header");
}

#[test]
fn what_writers_do_differently_is_read() {
    // Zeroed grains, if the header says that there are some.
    let mut image = sample(Subformat::MonolithicSparse);
    let mut disk = read(&image).unwrap();
    let at = table(&image);
    put32(&mut image, at + 4, 1);
    assert!(read(&image).unwrap() != disk);
    put32(&mut image, 8, 7);
    put32(&mut image, 4, 2);
    disk[1 << 16..2 << 16].fill(0);
    assert!(read(&image).unwrap() == disk);
    // Nothing but the redundant directory.
    put64(&mut image, 56, 0);
    let redundant = le32(&image, to_usize(le64(&image, 48)) * 512) as usize * 512;
    put32(&mut image, redundant + 4, 1);
    assert!(read(&image).unwrap() == disk);

    // The last grain stored short, and none but that.
    use crate::deflate::{DeflateSpec, Level, Wrapper};
    let raw = vec![7; 65_536 + 1024];
    let mut image = super::image(Subformat::StreamOptimized, &raw);
    let mut encoder = DeflateSpec::new(Wrapper::Zlib, Level::Fast).unwrap().encoder().unwrap();
    for (grain, len, fits) in [(1, 1024, true), (1, 1023, false), (0, 65_535, false)] {
        let at = le32(&image, table(&image) + grain * 4) as usize * 512;
        let kept = image[at..at + 512].to_vec();
        let stream = encoder.compress(&raw[..len], &mut image[at + 12..at + 512]).unwrap().unwrap();
        put32(&mut image, at + 8, u32::try_from(stream).unwrap());
        for result in [read(&image), parse(&image, 4096)] {
            assert_eq!(result.is_ok_and(|disk| disk == raw), fits, "grain {grain}, {len} bytes");
        }
        image[at..at + 512].copy_from_slice(&kept);
    }
}

#[test]
fn a_fetch_ends_where_the_next_grain_begins() {
    let image = sample(Subformat::StreamOptimized);
    let (mut reader, files) = open_image(Format::Vmdk, &image, &[], &ReaderPolicy::default()).unwrap();
    let (mut at, mut lens) = (0, Vec::new());
    while at < 40 << 20 {
        match reader.plan(at..40 << 20).unwrap() {
            Step::Need(need) => {
                reader.supply(need, &files[0][to_usize(need.offset)..][..need.len]).unwrap();
            }
            Step::Ready(mappings) => {
                at = mappings.last().unwrap().guest.end;
                lens.extend(mappings.iter().filter_map(|mapping| match mapping.place {
                    Place::Compressed { len, .. } => Some(len),
                    _ => None,
                }));
            }
        }
    }
    // The last one of a table ends before the table, marker included.
    assert_eq!(lens, [512, 512, 1024, 1024]);
}

#[test]
fn other_files_are_asked_for_only_where_they_are_allowed() {
    let text =
        b"# Disk DescriptorFile\nCID=1\ncreateType=\"twoGbMaxExtentFlat\"\nRW 2 FLAT \"b\" 1\nRW 1 ZERO\n\
                 RW 3 FLAT \"a\" 0\nRW 128 SPARSE \"c\"\n";
    let error = open_image(Format::Vmdk, text, &[], &ReaderPolicy::default()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let policy = ReaderPolicy { allow_extents: true, ..ReaderPolicy::default() };
    let sparse = image(Subformat::MonolithicSparse, &[9; 65_536]);
    let open = |a: usize, b: usize, c: &[u8]| {
        let (mut reader, files) =
            open_image(Format::Vmdk, text, &[("a", &vec![1; a]), ("b", &vec![2; b]), ("c", c)], &policy)?;
        read_all(&mut *reader, &files)
    };
    let disk = open(1536, 1536, &sparse).unwrap();
    assert!(disk == [&[2; 1024][..], &[0; 512], &[1; 1536], &[9; 65_536]].concat());
    assert_eq!(kind(open(1535, 1536, &sparse)), ErrorKind::Truncated);
    assert_eq!(kind(open(1536, 1535, &sparse)), ErrorKind::Truncated);
    assert_eq!(kind(open(1536, 1536, &sparse[..100])), ErrorKind::Truncated);
    let small = image(Subformat::MonolithicSparse, &[9; 65_535 - 512]);
    assert_eq!(kind(open(1536, 1536, &small)), ErrorKind::Corrupt);
    let stream = image(Subformat::StreamOptimized, &[9; 65_536]);
    assert_eq!(kind(open(1536, 1536, &stream)), ErrorKind::Unsupported);
    // A compressed extent alone is as good as a stream.
    let alone = b"# Disk DescriptorFile\ncreateType=\"streamOptimized\"\nRW 128 SPARSE \"c\"\n";
    let (mut reader, files) = open_image(Format::Vmdk, alone, &[("c", &stream)], &policy).unwrap();
    assert!(read_all(&mut *reader, &files).unwrap() == [9; 65_536]);
    // Zeros need no file.
    let zeros = b"# Disk DescriptorFile\ncreateType=\"custom\"\nRW 128 ZERO\n";
    assert!(read(zeros).unwrap() == [0; 65_536]);
    let huge = format!("# Disk DescriptorFile\ncreateType=\"custom\"\nRW {} ZERO\n", u64::MAX);
    assert_eq!(kind(read(huge.as_bytes())), ErrorKind::Limit);
    let empty = b"# Disk DescriptorFile\ncreateType=\"custom\"\n";
    assert_eq!(kind(read(empty)), ErrorKind::Corrupt);
}

/// Opens and reads, as far as it goes, but no more than so much of a disk.
fn survive(image: &[u8]) {
    let policy = ReaderPolicy { max_virtual_size: 128 << 20, table_cache_len: 1 << 16, allow_extents: true };
    if let Ok((mut reader, files)) = open_image(Format::Vmdk, image, &[("disk.vmdk", image)], &policy) {
        let _outcome = read_all(&mut *reader, &files);
    }
    let _outcome = parse(image, 70_000);
}

#[test]
fn no_damage_makes_it_panic() {
    let mut rng = Rng::new(77);
    for subformat in SUBFORMATS {
        let whole = {
            let mut raw = vec![0; 1 << 20];
            raw[65_536 * 3] = 1;
            raw[65_536 * 9] = 1;
            image(subformat, &raw)
        };
        let places: Vec<usize> = (0..80)
            .chain(512..1200)
            .chain(directory(&whole)..directory(&whole) + 8)
            .chain(table(&whole)..table(&whole) + 64)
            .chain(whole.len() - 1536..whole.len())
            .collect();
        for _ in 0..1500 {
            let mut image = whole.clone();
            for _ in 0..=rng.below(3) {
                let at = match rng.below(4) {
                    0 => to_usize(rng.below(to_u64(image.len()))),
                    _ => places[to_usize(rng.below(to_u64(places.len())))].min(image.len() - 1),
                };
                match rng.below(4) {
                    0 => image[at] ^= 1 << rng.below(8),
                    1 => image[at] = 0xff,
                    2 => image[at] = u8::try_from(rng.below(256)).unwrap(),
                    _ => image.truncate(at.max(1)),
                }
            }
            survive(&image);
        }
    }
    for _ in 0..300 {
        let mut noise = vec![0; to_usize(rng.below(3000))];
        rng.fill(&mut noise);
        if noise.len() > 80 && rng.below(2) == 0 {
            noise[..4].copy_from_slice(b"KDMV");
            noise[4] = 1;
            noise[5..8].fill(0);
        }
        survive(&noise);
    }
}
