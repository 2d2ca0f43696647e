//! Images that break rules, by accident or on purpose; contract 1.13.

use std::collections::BTreeMap;

use super::*;

/// 1 MiB in clusters of 4 KiB: 1 data cluster in 8, the first at 4096. L2 is behind the data, L1
/// behind it.
fn sample() -> Vec<u8> {
    let mut raw = vec![0; 1 << 20];
    raw.chunks_mut(32768)
        .enumerate()
        .for_each(|(index, chunk)| chunk[..4096].fill(u8::try_from(index).unwrap() + 1));
    image(12, Compression::None, &raw)
}

fn l1(image: &[u8]) -> usize {
    to_usize(be64(image, 40))
}

fn l2(image: &[u8]) -> usize {
    to_usize(be64(image, l1(image)) & ((1 << 56) - 512))
}

fn spoiled(edit: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut image = sample();
    edit(&mut image);
    read(&image).map(|_| ())
}

#[test]
fn every_rule_of_the_header_has_its_error() {
    type Edit = fn(&mut Vec<u8>);
    let rules: &[(&str, ErrorKind, Edit)] = &[
        ("magic", ErrorKind::Corrupt, |image| image[0] = 0),
        ("version", ErrorKind::Unsupported, |image| put32(image, 4, 4)),
        ("backing file", ErrorKind::Refused, |image| put64(image, 8, 512)),
        ("cluster_bits", ErrorKind::Corrupt, |image| put32(image, 20, 8)),
        ("cluster_bits", ErrorKind::Corrupt, |image| put32(image, 20, 22)),
        ("virtual size", ErrorKind::Limit, |image| put64(image, 24, 1 << 63)),
        ("virtual size", ErrorKind::Limit, |image| put64(image, 24, (64 << 40) + 1)),
        ("are needed", ErrorKind::Corrupt, |image| put64(image, 24, (2 << 20) + 1)),
        ("encrypted", ErrorKind::Unsupported, |image| put32(image, 32, 1)),
        ("encrypted", ErrorKind::Unsupported, |image| put32(image, 32, 2)),
        ("l1 table of", ErrorKind::Limit, |image| put32(image, 36, 0x1000_0000)),
        ("l1 table has 0 entries", ErrorKind::Corrupt, |image| put32(image, 36, 0)),
        ("leaves the file", ErrorKind::Truncated, |image| put32(image, 36, 1 << 21)),
        ("l1 table at", ErrorKind::Corrupt, |image| put64(image, 40, 4097)),
        ("l1 table at", ErrorKind::Corrupt, |image| put64(image, 40, 0)),
        ("leaves the file", ErrorKind::Truncated, |image| put64(image, 40, 1 << 40)),
        ("overflows", ErrorKind::Corrupt, |image| {
            put32(image, 36, 1024);
            put64(image, 40, u64::MAX - 4095);
        }),
        ("refcount table at", ErrorKind::Corrupt, |image| put64(image, 48, 100)),
        ("leaves the file", ErrorKind::Truncated, |image| put64(image, 48, 1 << 40)),
        ("no refcount table", ErrorKind::Corrupt, |image| put32(image, 56, 0)),
        ("refcount table of", ErrorKind::Limit, |image| put32(image, 56, 2049)),
        ("snapshots", ErrorKind::Limit, |image| put32(image, 60, 65537)),
        ("snapshot table", ErrorKind::Corrupt, |image| put32(image, 60, 1)),
        ("another file", ErrorKind::Refused, |image| put64(image, 72, 4)),
        ("compression type 0", ErrorKind::Corrupt, |image| put64(image, 72, 8)),
        ("too small for extended", ErrorKind::Corrupt, |image| put64(image, 72, 16)),
        ("feature bit 5", ErrorKind::Unsupported, |image| put64(image, 72, 32)),
        ("feature bit 63", ErrorKind::Unsupported, |image| put64(image, 72, 1 << 63)),
        ("refcount order", ErrorKind::Corrupt, |image| put32(image, 96, 7)),
        ("header length", ErrorKind::Corrupt, |image| put32(image, 100, 96)),
        ("header length", ErrorKind::Corrupt, |image| put32(image, 100, 108)),
        ("header length", ErrorKind::Corrupt, |image| put32(image, 100, 4104)),
        ("compression type 1", ErrorKind::Corrupt, |image| image[104] = 1),
        ("compression type 2", ErrorKind::Unsupported, |image| {
            put64(image, 72, 8);
            image[104] = 2;
        }),
        ("another file", ErrorKind::Refused, |image| put32(image, 112, 0x4441_5441)),
        ("leaves the first cluster", ErrorKind::Corrupt, |image| {
            put32(image, 112, 0x1234_5678);
            put32(image, 116, u32::MAX);
        }),
    ];
    for (text, kind, edit) in rules {
        let error = spoiled(edit).expect_err(text);
        assert!(error.to_string().contains(text), "{text}: {error}");
        assert_eq!(error.kind(), *kind, "{error}");
        assert!(error.offset().is_some_and(|offset| offset < 4096), "{error}");
    }
}

#[test]
fn names_from_the_image_are_told_in_printable_form() {
    let error = spoiled(|image| {
        put64(image, 8, 512);
        put32(image, 16, 20);
        image[512..532].copy_from_slice(b"json:{\x1b[2J\n\xff\"x\"}\0abc");
    });
    let text = error.unwrap_err().to_string();
    assert!(text.contains(r#""json:{\u{1b}[2J\n"#) && text.is_ascii() != text.contains('\u{fffd}'), "{text}");
    assert!(!text.chars().any(char::is_control));
    // A name that is not where it has to be is not looked for.
    for (offset, len) in [(u64::MAX, 5), (4090, 20), (512, 1024), (512, u32::MAX)] {
        let error = spoiled(|image| {
            put64(image, 8, offset);
            put32(image, 16, len);
        });
        assert_eq!(kind(error), ErrorKind::Refused);
    }
    let error = spoiled(|image| {
        put64(image, 72, 1 << 7);
        put32(image, 112, 0x6803_f857);
        put32(image, 116, 96);
        image[120 + 49] = 7;
        image[120 + 50..120 + 58].copy_from_slice(b"new\tthin");
    });
    assert!(error.unwrap_err().to_string().contains(r#"feature bit 7 ("new\tthin")"#));
}

#[test]
fn flags_that_do_not_matter_do_not_stop_a_reader() {
    let mut image = sample();
    let disk = read(&image).unwrap();
    put64(&mut image, 72, 3);
    put64(&mut image, 80, u64::MAX);
    put64(&mut image, 88, u64::MAX);
    put32(&mut image, 96, 0);
    let (mut reader, files) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    assert!(read_all(&mut *reader, &files).unwrap() == disk);
    let info = reader.info();
    assert!(info.dirty);
    let details: BTreeMap<_, _> = info.details.iter().cloned().collect();
    assert_eq!((details["refcount bits"].as_str(), details["lazy refcounts"].as_str()), ("1", "yes"));
    assert!(details.contains_key("corrupt"));
}

#[test]
fn a_v2_header_is_read_without_what_it_does_not_have() {
    let mut image = sample();
    let disk = read(&image).unwrap();
    put32(&mut image, 4, 2);
    image[72..120].fill(0);
    let (reader, _) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    assert_eq!(reader.info().variant, "v2");
    assert!(read(&image).unwrap() == disk);
    // The zero flag is one of version 3.
    let at = l2(&image);
    image[at + 7] |= 1;
    assert_eq!(kind(read(&image)), ErrorKind::Corrupt);
    put32(&mut image, 4, 3);
    put32(&mut image, 96, 4);
    put32(&mut image, 100, 104);
    assert!(read(&image).unwrap()[..4096].iter().all(|&byte| byte == 0));
}

#[test]
fn entries_that_break_the_rules_are_located() {
    let image = sample();
    let (l1, l2, copied) = (l1(&image), l2(&image), 1_u64 << 63);
    let len = to_u64(image.len());
    for (at, entry, kind, text) in [
        (l1, copied | 4096 | 1, ErrorKind::Corrupt, "reserved bits 0x1 "),
        (l1, copied | 4096 | 1 << 56, ErrorKind::Corrupt, "reserved"),
        (l1, copied | 4096 | 1 << 62, ErrorKind::Corrupt, "reserved"),
        (l1, copied | 4608, ErrorKind::Corrupt, "not aligned"),
        (l1, copied | len, ErrorKind::Truncated, "inside the file"),
        (l1, copied | 0xff_ffff_ffff_f000, ErrorKind::Truncated, "inside the file"),
        (l1, copied | to_u64(l1), ErrorKind::Corrupt, "overlaps the l1 table"),
        (l1, copied | be64(&image, 48), ErrorKind::Corrupt, "overlaps the refcount table"),
        (l2, copied | 4096 | 2, ErrorKind::Corrupt, "reserved"),
        (l2, copied | 4096 | 1 << 61, ErrorKind::Corrupt, "reserved"),
        (l2, copied | 4608, ErrorKind::Corrupt, "not aligned"),
        (l2, copied | len, ErrorKind::Truncated, "outside the file"),
        (l2, copied | 0xff_ffff_ffff_f000, ErrorKind::Truncated, "outside the file"),
        (l2, 1 << 62, ErrorKind::Corrupt, "points at the header"),
        (l2, 1 << 62 | len, ErrorKind::Truncated, "outside the file"),
        (l2, u64::MAX, ErrorKind::Truncated, "outside the file"),
    ] {
        let error = spoiled(|image| put64(image, at, entry)).expect_err(text);
        assert!(error.to_string().contains(text) && error.kind() == kind, "{entry:#x}: {error}");
        assert_eq!(error.offset(), Some(to_u64(at)), "{error}");
    }
}

#[test]
fn what_stands_before_an_error_is_answered_first() {
    let mut image = sample();
    let at = l2(&image) + 16 * 8;
    put64(&mut image, at, 3);
    let (mut reader, _) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    let mappings = settle(&mut *reader, &image, 0..1 << 20).unwrap();
    assert_eq!(mappings.last().unwrap().guest.end, 16 * 4096);
    let error = settle(&mut *reader, &image, 16 * 4096..1 << 20).unwrap_err();
    assert_eq!(error.offset(), Some(to_u64(at)));
}

#[test]
fn a_file_cut_anywhere_gives_an_error_or_its_cluster_tail() {
    let image = sample();
    for len in (0..image.len()).step_by(64).chain(0..130) {
        let kind = read(&image[..len]).err().map(|error| error.kind());
        // Only the refcount table is in the last cluster; less of it is none of our business.
        if image.len() - len < 4096 {
            assert_eq!(kind, None, "{len} bytes");
        } else {
            assert!(matches!(kind, Some(ErrorKind::Truncated | ErrorKind::Corrupt)), "{len} bytes: {kind:?}");
        }
    }
}

#[test]
fn only_the_last_host_cluster_may_be_cut() {
    let mut image = sample();
    let end = image.len();
    let at = l2(&image);
    // A data cluster behind everything, of which the file has 1000 bytes.
    image.resize(end + 1000, 0x42);
    put64(&mut image, at, 1 << 63 | to_u64(end));
    let (mut reader, files) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    let mappings = settle(&mut *reader, &image, 0..1 << 20).unwrap();
    assert_eq!(mappings[0], Mapping { guest: 0..1000, place: Place::Raw { file: 0, offset: to_u64(end) } });
    assert_eq!(mappings[1], Mapping { guest: 1000..32768, place: Place::Hole });
    let disk = read_all(&mut *reader, &files).unwrap();
    assert!(disk[..1000].iter().all(|&byte| byte == 0x42) && disk[1000..32768].iter().all(|&byte| byte == 0));
    // From inside the part that is not there.
    assert_eq!(
        settle(&mut *reader, &image, 2000..3000).unwrap(),
        [Mapping { guest: 2000..3000, place: Place::Hole }]
    );
    // A compressed one is clipped to what there is.
    put64(&mut image, at, 1 << 62 | 15 << 58 | to_u64(end + 999));
    let (mut reader, _) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    let mappings = settle(&mut *reader, &image, 100..200).unwrap();
    assert_eq!(mappings[0].guest, 0..4096);
    assert!(matches!(mappings[0].place, Place::Compressed { len: 1, .. }));
}

/// 384 KiB that pretend to be 2 TiB: every range has the same L2 table.
#[test]
fn one_l2_table_for_many_ranges_is_refused() {
    let mut image = image(16, Compression::None, &vec![1; 65536]);
    let at = l1(&image);
    let entry = be64(&image, at);
    put64(&mut image, 24, 2 << 40);
    put32(&mut image, 36, 4096);
    (0..4096).for_each(|index| put64(&mut image, at + index * 8, entry));
    let error = read_error(&image);
    assert!(error.to_string().contains("more than 6 l2 tables"), "{error}");
    // Two are as wrong as 4096.
    (2..4096).for_each(|index| put64(&mut image, at + index * 8, 0));
    let error = read_error(&image);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("share an l2 table"), "{error}");
}

fn read_error(image: &[u8]) -> Error {
    open_image(Format::Qcow2, image, &[], &ReaderPolicy::default()).map(|_| ()).unwrap_err()
}

#[test]
fn only_what_was_asked_for_is_taken() {
    let image = sample();
    let (mut reader, _) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    let Step::Need(need) = reader.plan(0..4096).unwrap() else { panic!("nothing is cached yet") };
    let bytes = &image[to_usize(need.offset)..to_usize(need.offset) + need.len];
    assert_eq!(kind(reader.supply(Need { file: 1, ..need }, bytes)), ErrorKind::InvalidInput);
    assert_eq!(kind(reader.supply(need, bytes)), ErrorKind::InvalidInput, "nothing is pending any more");
    assert_eq!(reader.plan(0..4096).unwrap(), Step::Need(need));
    assert_eq!(kind(reader.supply(need, &bytes[1..])), ErrorKind::InvalidInput);
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for wrong in [0..0, 5..4, 0..(1 << 20) + 1, 1 << 20..u64::MAX] {
        assert_eq!(kind(reader.plan(wrong)), ErrorKind::InvalidInput);
    }
    let mut opener = crate::open(Format::Qcow2, 0, &ReaderPolicy::default()).unwrap();
    assert_eq!(kind(opener.step().map(|_| ())), ErrorKind::Truncated);
    assert_eq!(kind(opener.supply_extents(&[])), ErrorKind::InvalidInput);
}

#[test]
fn a_hole_of_many_tib_is_planned_in_a_few_calls_and_little_memory() {
    let size = 60_u64 << 40;
    let mut writer = Qcow2Writer::new(&options(16, Compression::None), Some(size)).unwrap();
    let (mut image, mut ops) = (MemoryImage::default(), Vec::new());
    writer.begin(&mut ops).unwrap();
    writer.place(&ChunkShape::absent(0, size, 65536), &mut ops).unwrap();
    writer.finish(size, &mut ops).unwrap();
    image.apply(&ops, |_| unreachable!());
    for (table_cache_len, most) in [(8 << 20, 20), (4096, 2000)] {
        let policy = ReaderPolicy { table_cache_len, ..ReaderPolicy::default() };
        let (mut reader, _) = open_image(Format::Qcow2, &image.bytes, &[], &policy).unwrap();
        let (mut at, mut calls) = (0, 0);
        while at < size {
            let mappings = settle(&mut *reader, &image.bytes, at..size).unwrap();
            assert_eq!(mappings.len(), 1);
            assert_eq!(mappings[0].place, Place::Hole);
            (at, calls) = (mappings[0].guest.end, calls + 1);
        }
        assert!(calls <= most, "{calls} calls");
    }
}

/// A valid extended L2 entry is made by hand: a subcluster of 512 bytes in 16 KiB.
#[test]
fn subclusters_are_told_apart_and_contradictions_refused() {
    let mut image = image(14, Compression::None, &[9; 16384]);
    put64(&mut image, 72, 16);
    let (at, host) = (l2(&image), be64(&image, l2(&image)) & ((1 << 56) - 512));
    put64(&mut image, at + 8, 0b1010_u64 << 32 | 0b1_0100);
    let (mut reader, _) = open_image(Format::Qcow2, &image, &[], &ReaderPolicy::default()).unwrap();
    let raw = |from: u64, to| Mapping { guest: from..to, place: Place::Raw { file: 0, offset: host + from } };
    let hole = |from, to| Mapping { guest: from..to, place: Place::Hole };
    assert_eq!(
        settle(&mut *reader, &image, 0..16384).unwrap(),
        [hole(0, 1024), raw(1024, 1536), hole(1536, 2048), raw(2048, 2560), hole(2560, 16384)]
    );
    assert_eq!(
        settle(&mut *reader, &image, 1100..2050).unwrap(),
        [raw(1100, 1536), hole(1536, 2048), raw(2048, 2050)]
    );
    for (entry, bitmap, text) in [
        (host, 1 << 32 | 1, "both allocated and zero"),
        (0, 1, "without a cluster"),
        (1 << 62 | host, 1, "compressed"),
        (host | 1, 0, "reserved"),
        (1 << 40, 1, "outside the file"),
    ] {
        let mut image = image.clone();
        put64(&mut image, at, entry);
        put64(&mut image, at + 8, bitmap);
        let error = read(&image).map(|_| ()).expect_err(text);
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
}
