//! Lines that come back, journals that are cut or contradict themselves.

use proptest::prelude::*;
use vmferry_formats::digest::Algorithm;

use super::*;
use crate::source::SourceIdentity;

fn disk_header(file: Option<&str>) -> DiskHeader {
    DiskHeader {
        file: file.map(str::to_owned),
        source: "disk.raw".into(),
        identity: Some(SourceIdentity::Image {
            files: vec![SourceIdentity::File {
                device: 1,
                inode: 2,
                size: 3,
                modified_ns: -4,
                changed_ns: i64::MAX,
            }],
        }),
        size: Some(12 << 20),
    }
}

fn header() -> Record {
    Record::Header(Box::new(Header {
        version: VERSION,
        name: "disk.qcow2".into(),
        spec: "qcow2".into(),
        digest: Some("sha256".into()),
        flat_sha256: false,
        disks: vec![disk_header(None)],
        container: None,
        object: None,
        encoder: "none".into(),
        device: u64::MAX,
        inode: 7,
    }))
}

fn chunk(index: u64, shape: UnitShape, out: u64) -> ChunkRecord {
    let mut outline = ChunkShape::new(index * CHUNK_LEN, CHUNK_LEN);
    outline.push(shape, 64);
    let content = if shape == UnitShape::Absent { 0 } else { u8::try_from(index).unwrap() + 1 };
    ChunkRecord::new(&outline, Check::Digest(Algorithm::Sha256.hash(&[content])), out, false)
}

fn point(at: u64, out: u64) -> Record {
    Record::Checkpoint(Checkpoint { at, out, ..Checkpoint::default() })
}

/// A header of a container with two disks.
fn container() -> Record {
    let Record::Header(plain) = header() else { unreachable!() };
    let content = serde_json::json!({ "descriptor": "<Envelope/>\n" });
    Record::Header(Box::new(Header {
        version: CONTAINER_VERSION,
        disks: vec![disk_header(Some("a.vmdk")), disk_header(Some("b.vmdk"))],
        container: Some(ContainerHeader {
            format: "ova".into(),
            parameters: "ova mtime=0".into(),
            file_hash: "sha1".into(),
            separate: false,
            content: content.as_object().unwrap().clone(),
        }),
        ..*plain
    }))
}

fn start(disk: u32, start: u64) -> Record {
    Record::DiskStart(DiskStart { disk, start, out: start + 100 })
}

fn end(disk: u32, size: u64, out: u64) -> Record {
    Record::DiskEnd(DiskEnd {
        disk,
        size,
        zero: 0,
        start: out - 50,
        len: 50,
        out,
        tree: Some("ab".into()),
        hash: Some("cd".into()),
    })
}

fn point_in(disk: u32, at: u64, out: u64) -> Record {
    let sha1 = Some("AAAA".into());
    Record::Checkpoint(Checkpoint { disk: Some(disk), at, out, sha1, ..Checkpoint::default() })
}

fn closed(size: u64) -> Record {
    Record::Closed(Closed { size, output_size: 9000, zero: 0, tree: None, file_sha256: None })
}

/// A journal of a whole container, of whose disks each has one chunk.
fn whole_container() -> Vec<Record> {
    vec![
        container(),
        start(0, 1000),
        point_in(0, 0, 1100),
        Record::Chunk(chunk(0, UnitShape::Data, 2000)),
        end(0, CHUNK_LEN, 2500),
        point_in(0, CHUNK_LEN, 2500),
        start(1, 3000),
        Record::Chunk(chunk(0, UnitShape::Data, 4000)),
        point_in(1, CHUNK_LEN, 4000),
        end(1, CHUNK_LEN, 4500),
        point_in(1, CHUNK_LEN, 4500),
        closed(2 * CHUNK_LEN),
    ]
}

fn lines(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(|record| record.to_line().unwrap()).collect()
}

#[test]
fn a_journal_of_disks_cut_anywhere_ends_at_its_last_whole_checkpoint() {
    let records = whole_container();
    let expected: Vec<(Option<u64>, usize, Option<u32>, bool)> = vec![
        (None, 0, None, false),
        (None, 0, None, false),
        (Some(1100), 0, Some(0), false),
        (Some(1100), 0, Some(0), false),
        (Some(1100), 0, Some(0), false),
        (Some(2500), 1, None, false),
        (Some(2500), 1, None, false),
        (Some(2500), 1, None, false),
        (Some(4000), 1, Some(1), false),
        (Some(4000), 1, Some(1), false),
        (Some(4500), 2, None, false),
        (Some(4500), 2, None, true),
    ];
    for (count, expected) in (1..).zip(expected) {
        let mut bytes = lines(&records[..count]);
        for torn in [&b""[..], b"{\"record\":\"chunk\""] {
            bytes.extend_from_slice(torn);
            let summary = Summary::read(&bytes[..]).unwrap().unwrap();
            let found = (
                summary.checkpoint.map(|point| point.out),
                summary.ended.len(),
                summary.open,
                summary.closed.is_some(),
            );
            assert_eq!(found, expected, "{count} lines");
        }
    }
}

#[test]
fn disks_that_do_not_follow_each_other_end_the_journal() {
    let all = whole_container();
    let lost = |at: usize, record: Record| {
        let records: Vec<Record> = all[..at].iter().cloned().chain([record]).collect();
        let point =
            Record::Checkpoint(Checkpoint { disk: Some(1), at: 0, out: 9000, ..Checkpoint::default() });
        let before = Summary::read(&lines(&all[..at])[..]).unwrap().unwrap();
        let found = Summary::read(&lines(&[&records[..], &[point]].concat())[..]).unwrap().unwrap();
        assert_eq!(found, before, "{:?}", records.last());
    };
    lost(1, start(1, 1000));
    lost(1, Record::Chunk(chunk(0, UnitShape::Data, 2000)));
    lost(1, end(0, 0, 2500));
    lost(3, start(1, 1200));
    lost(4, end(0, 7, 2500));
    lost(4, end(1, CHUNK_LEN, 2500));
    lost(4, end(0, CHUNK_LEN, 1500));
    lost(6, start(0, 3000));
    lost(6, Record::Chunk(chunk(1, UnitShape::Data, 4000)));
    lost(6, closed(CHUNK_LEN));
    lost(9, closed(2 * CHUNK_LEN));
    lost(11, start(2, 5000));
    lost(11, closed(CHUNK_LEN));
    lost(11, point(CHUNK_LEN, 4500));
}

#[test]
fn the_header_of_a_plain_image_is_what_it_was() {
    let line = String::from_utf8(header().to_line().unwrap()).unwrap();
    let expected = concat!(
        r#"{"record":"header","version":1,"name":"disk.qcow2","spec":"qcow2","digest":"sha256","#,
        r#""flat_sha256":false,"source":"disk.raw","identity":{"kind":"image","files":[{"kind":"file","#,
        r#""device":1,"inode":2,"size":3,"modified_ns":-4,"changed_ns":9223372036854775807}]},"#,
        r#""size":12582912,"encoder":"none","device":18446744073709551615,"inode":7} "#
    );
    assert_eq!(line[..line.len() - 9], *expected);
}

#[test]
fn every_record_comes_back_from_its_line() {
    let records = [
        header(),
        container(),
        start(3, 77),
        end(3, 77, 777),
        point_in(3, 77, 777),
        Record::Chunk(chunk(0, UnitShape::Data, 1)),
        Record::Chunk(chunk(1, UnitShape::Compressed(70), 2)),
        Record::Chunk(chunk(2, UnitShape::Absent, 2)),
        point(12 << 20, 2),
        Record::Tainted { reason: "it changed\n\"so\"".into() },
        Record::Closed(Closed {
            size: 1,
            output_size: 2,
            zero: 0,
            tree: Some("ab".into()),
            file_sha256: None,
        }),
    ];
    for record in records {
        let line = record.to_line().unwrap();
        assert_eq!(Record::from_line(line.strip_suffix(b"\n").unwrap()), Some(record));
    }
}

#[test]
fn a_flipped_bit_anywhere_makes_a_line_invalid() {
    let line = Record::Chunk(chunk(3, UnitShape::Compressed(9), 77)).to_line().unwrap();
    let line = line.strip_suffix(b"\n").unwrap();
    for bit in 0..line.len() * 8 {
        let mut line = line.to_vec();
        line[bit / 8] ^= 1 << (bit % 8);
        // Upper case digits of the checksum are the same checksum.
        let same = Record::from_line(&line)
            .is_some_and(|record| record == Record::Chunk(chunk(3, UnitShape::Compressed(9), 77)));
        assert!(!same || line.len() - bit / 8 <= 8, "bit {bit}");
        assert!(same || Record::from_line(&line).is_none(), "bit {bit}");
    }
}

#[test]
fn a_journal_cut_anywhere_ends_at_its_last_whole_checkpoint() {
    let records = [
        header(),
        Record::Chunk(chunk(0, UnitShape::Data, 100)),
        point(CHUNK_LEN, 100),
        Record::Chunk(chunk(1, UnitShape::Data, 200)),
        Record::Chunk(chunk(2, UnitShape::Absent, 200)),
        point(3 * CHUNK_LEN, 200),
    ];
    let all = lines(&records);
    let ends: Vec<usize> = (1..=records.len()).map(|count| lines(&records[..count]).len()).collect();
    for cut in 0..=all.len() {
        let summary = Summary::read(&all[..cut]).unwrap();
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        let expected = match whole {
            0 => None,
            1 | 2 => Some((None, ends[0])),
            3..=5 => Some((Some(100), ends[2])),
            _ => Some((Some(200), ends[5])),
        };
        let found = summary.map(|summary| {
            (summary.checkpoint.map(|point| point.out), usize::try_from(summary.valid_len).unwrap())
        });
        assert_eq!(found, expected, "cut at {cut}");
    }
}

#[test]
fn chunks_that_do_not_follow_each_other_end_the_journal() {
    let good = [header(), Record::Chunk(chunk(0, UnitShape::Data, 100)), point(CHUNK_LEN, 100)];
    for bad in [
        Record::Chunk(chunk(2, UnitShape::Data, 300)),
        Record::Chunk(chunk(0, UnitShape::Data, 200)),
        Record::Chunk(chunk(1, UnitShape::Data, 99)),
        point(2 * CHUNK_LEN, 100),
        header(),
    ] {
        let all = [&lines(&good)[..], &lines(&[bad.clone(), point(2 * CHUNK_LEN, 300)])].concat();
        let summary = Summary::read(&all[..]).unwrap().unwrap();
        assert_eq!(summary.checkpoint.unwrap().out, 100, "{bad:?}");
        assert_eq!(summary.valid_len, lines(&good).len() as u64, "{bad:?}");
    }
}

#[test]
fn zeros_of_whole_chunks_become_one_record() {
    let mut first = chunk(0, UnitShape::Absent, 5);
    assert!(first.join(&chunk(1, UnitShape::Absent, 6)));
    assert_eq!((first.len, first.out), (2 * CHUNK_LEN, 6));
    assert!(!first.join(&chunk(3, UnitShape::Absent, 6)), "a gap");
    assert!(!first.join(&chunk(2, UnitShape::Data, 7)), "data");
    assert_eq!(first.shape(65536).unwrap(), ChunkShape::absent(0, 2 * CHUNK_LEN, 65536));
}

proptest! {
    #[test]
    fn shapes_survive_packing(
        units in proptest::collection::vec(0_u32..4, 1..=64),
        short in 0_u64..65536,
    ) {
        let len = (units.len() as u64 * 65536 - short).max(1);
        let mut shape = ChunkShape::new(8 * CHUNK_LEN, len);
        for unit in &units {
            shape.push(match unit { 0 => UnitShape::Absent, 1 => UnitShape::Data, n => UnitShape::Compressed(n * 30_000) }, 1);
        }
        let record = ChunkRecord::new(&shape, Check::Crc(7), 99, false);
        let line = Record::Chunk(record.clone()).to_line().unwrap();
        let back = Record::from_line(line.strip_suffix(b"\n").unwrap()).unwrap();
        prop_assert_eq!(&back, &Record::Chunk(record.clone()));
        prop_assert_eq!(record.check().unwrap(), Check::Crc(7));
        prop_assert_eq!(record.shape(65536).unwrap(), shape);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Summary::read(&bytes[..]);
        let _ = Record::from_line(&bytes);
    }
}

fn object() -> Record {
    let Record::Header(plain) = header() else { unreachable!() };
    let schedule = Schedule { first: 8 << 20, equal: 1500, step: 512, longest: 5 << 30, parts: 9900 };
    let object =
        ObjectHeader { url: "s3://bucket/disk.qcow2".into(), run: "r1".into(), schedule, remote: false };
    Record::Header(Box::new(Header { version: OBJECT_VERSION, object: Some(object), ..*plain }))
}

fn part(part: u32, md5: &str) -> Record {
    Record::Part(PartRecord { part, len: 8 << 20, id: format!("\"{md5}\""), md5: md5.into() })
}

#[test]
fn parts_of_an_object_count_by_themselves() {
    let pins = vec![PinRecord { part: 1, at: 0, len: 9, crc: 7, objects: Vec::new() }];
    let point = Checkpoint { at: CHUNK_LEN, out: 65536, pins: pins.clone(), ..Checkpoint::default() };
    let records = [
        object(),
        Record::Upload { id: "gone".into() },
        part(9, "of another upload"),
        Record::Upload { id: "u1".into() },
        part(2, "a"),
        Record::Chunk(chunk(0, UnitShape::Data, 65536)),
        Record::Checkpoint(point),
        part(2, "b"),
        part(3, "c"),
        // A part among records that no checkpoint counts cannot be.
        Record::Chunk(chunk(1, UnitShape::Data, 131_072)),
        part(4, "d"),
    ];
    let lines: Vec<Vec<u8>> = records.iter().map(|record| record.to_line().unwrap()).collect();
    for record in &records {
        let line = record.to_line().unwrap();
        assert_eq!(Record::from_line(&line[..line.len() - 1]).as_ref(), Some(record));
    }
    let summary = Summary::read(lines.concat().as_slice()).unwrap().unwrap();
    assert_eq!(summary.upload.as_deref(), Some("u1"));
    let parts: Vec<(u32, &str)> = summary.parts.iter().map(|(part, record)| (*part, &*record.md5)).collect();
    assert_eq!(parts, [(2, "b"), (3, "c")], "the last of its number, of the last upload");
    assert_eq!(summary.checkpoint.as_ref().map(|point| &point.pins), Some(&pins));
    assert_eq!(summary.valid_len, lines[..9].concat().len() as u64);
    assert_eq!(summary.header.object.as_ref().unwrap().run, "r1");
    // The journal of a file has none.
    let file = [header(), part(1, "a")].map(|record| record.to_line().unwrap()).concat();
    assert!(Summary::read(file.as_slice()).unwrap().unwrap().parts.is_empty());
}
