//! Bytes and limits of what is written.

use super::*;

/// Little-endian numbers at offsets of a header.
fn check_header(image: &[u8], at: usize, fields: &[(usize, usize, u64)]) {
    let mut known = vec![false; 512];
    let mut header = image[at..at + 512].to_vec();
    assert_eq!(header[..4], *b"KDMV");
    assert_eq!(header[73..77], *b"\n \r\n");
    header[..4].fill(0);
    header[73..77].fill(0);
    for &(offset, len, value) in fields {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&header[offset..offset + len]);
        assert_eq!(u64::from_le_bytes(bytes), value, "field at {offset}");
        known[offset..offset + len].fill(true);
    }
    assert!(header.iter().zip(known).all(|(&byte, known)| known || byte == 0));
}

#[test]
fn stream_optimized_is_as_the_contract_draws_it() {
    let mut raw = vec![0; (96 << 20) + 700];
    raw[5 << 16] = 1;
    raw[7 << 16] = 2;
    raw[96 << 20] = 3;
    let image = image(Subformat::StreamOptimized, &raw);
    let capacity = (96 << 20) / 512 + 2;
    let directory = image.len() as u64 / 512 - 4;
    let fields = |directory| {
        [
            (4, 4, 3),
            (8, 4, 0x30001),
            (12, 8, capacity),
            (20, 8, 128),
            (28, 8, 1),
            (36, 8, 20),
            (44, 4, 512),
            (48, 8, 0),
            (56, 8, directory),
            (64, 8, 128),
            (72, 1, 0),
            (77, 2, 1),
        ]
    };
    check_header(&image, 0, &fields(u64::MAX));
    check_header(&image, image.len() - 1024, &fields(directory));
    assert!(image[512..].starts_with(b"# Disk DescriptorFile\n"));
    assert!(image[21 * 512..128 * 512].iter().all(|&byte| byte == 0));
    // Grain marker, grain, table marker, table, and the same again; then the directory.
    let expected = [
        (128, 5 * 128, None),
        (129, 7 * 128, None),
        (130, 4, Some(1)),
        (135, 96 << 11, None),
        (136, 4, Some(1)),
        (141, 1, Some(2)),
        (143, 1, Some(3)),
        (145, 0, Some(0)),
    ];
    for (sector, value, kind) in expected {
        let at = sector * 512;
        assert_eq!(le64(&image, at), value, "sector {sector}");
        match kind {
            None => {
                let len = le32(&image, at + 8) as usize;
                assert!((1..500).contains(&len));
                assert!(image[at + 12 + len..at + 512].iter().all(|&byte| byte == 0));
            }
            Some(kind) => {
                assert_eq!((le32(&image, at + 8), le32(&image, at + 12)), (0, kind), "sector {sector}");
                assert!(image[at + 16..at + 512].iter().all(|&byte| byte == 0));
            }
        }
    }
    assert_eq!(image.len(), 146 * 512);
    let directory: Vec<u32> = (0..4).map(|index| le32(&image, 142 * 512 + index * 4)).collect();
    assert_eq!(directory, [131, 0, 0, 137]);
    let table: Vec<u32> = (0..9).map(|index| le32(&image, 131 * 512 + index * 4)).collect();
    assert_eq!(table, [0, 0, 0, 0, 0, 128, 0, 129, 0]);
    assert_eq!(le32(&image, 137 * 512), 135);
}

#[test]
fn monolithic_sparse_is_as_the_contract_draws_it() {
    let mut raw = vec![0; (33 << 20) + 512];
    raw[5 << 16] = 1;
    raw[33 << 20] = 3;
    let image = image(Subformat::MonolithicSparse, &raw);
    let fields = [
        (4, 4, 1),
        (8, 4, 3),
        (12, 8, (33 << 11) + 1),
        (20, 8, 128),
        (28, 8, 1),
        (36, 8, 20),
        (44, 4, 512),
        (48, 8, 21),
        (56, 8, 30),
        (64, 8, 128),
        (72, 1, 0),
        (77, 2, 0),
    ];
    check_header(&image, 0, &fields);
    assert_eq!((le32(&image, 21 * 512), le32(&image, 21 * 512 + 4)), (22, 26));
    assert_eq!((le32(&image, 30 * 512), le32(&image, 30 * 512 + 4)), (31, 35));
    for table in [22, 31] {
        assert_eq!(le32(&image, table * 512 + 20), 128);
        assert_eq!(le32(&image, (table + 4) * 512 + 16 * 4), 256);
        let entries = image[table * 512..(table + 8) * 512].chunks(4).filter(|entry| **entry != [0; 4]);
        assert_eq!(entries.count(), 2);
    }
    assert_eq!(image.len(), 3 * 65_536, "the last grain is a whole one");
    assert_eq!((image[65_536], image[2 * 65_536]), (1, 3));
}

#[test]
fn an_empty_disk_is_refused_with_the_alternatives() {
    for subformat in SUBFORMATS {
        let error = spec(subformat).writer(Some(0), "x").map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert!(error.to_string().contains("RAW or QCOW2"), "{error}");
    }
    let mut writer = spec(Subformat::StreamOptimized).writer(None, "x").unwrap();
    writer.begin(&mut Vec::new()).unwrap();
    let error = writer.finish(0, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("RAW or QCOW2"), "{error}");
}

#[test]
fn what_cannot_fit_is_refused_before_the_first_byte() {
    let refused = |subformat, size| spec(subformat).writer(size, "x").map(|_| ()).err();
    let limit = |error: Option<Error>| {
        let error = error.unwrap();
        assert!(error.kind() == ErrorKind::Limit && error.to_string().contains("QCOW2"), "{error}");
    };
    assert!(refused(Subformat::MonolithicSparse, Some(2 << 40)).is_none());
    limit(refused(Subformat::MonolithicSparse, Some((2 << 40) + 1)));
    let error = refused(Subformat::MonolithicSparse, None).unwrap();
    assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("QCOW2"), "{error}");
    assert!(refused(Subformat::StreamOptimized, Some(64 << 40)).is_none());
    limit(refused(Subformat::StreamOptimized, Some((1 << 50) + 1)));
    limit(refused(Subformat::StreamOptimized, Some(u64::MAX)));
}

#[test]
fn no_offset_reaches_two_to_the_32_sectors() {
    for (subformat, unit) in [
        (Subformat::MonolithicSparse, UnitShape::Data),
        (Subformat::StreamOptimized, UnitShape::Compressed(65_552)),
    ] {
        let size = 2 << 40;
        let mut writer = spec(subformat).writer(Some(size), "x").unwrap();
        let mut ops = Vec::new();
        writer.begin(&mut ops).unwrap();
        let mut at = 0;
        // Pieces of many chunks of data: a writer takes them, and so the test is quick.
        let piece = 8_u64 << 30;
        let error = loop {
            let mut shape = ChunkShape::new(at, piece);
            shape.push(unit, piece / 65_536);
            let (before, len) = (writer.position(), ops.len());
            match writer.place(&shape, &mut ops) {
                Ok(()) => ops.clear(),
                Err(error) => {
                    assert_eq!((writer.position(), ops.len()), (before, len), "nothing of it was placed");
                    break error;
                }
            }
            at += piece;
        };
        assert!(error.kind() == ErrorKind::Limit && error.to_string().contains("QCOW2"), "{error}");
        assert!(at > size / 100 * 98, "{at}");
        // The rest is zeros: what stands behind still fits.
        writer.place(&ChunkShape::absent(at, size - at, 65_536), &mut ops).unwrap();
        writer.finish(size, &mut ops).unwrap();
        assert!(writer.position() <= 1 << 41);
    }
}

#[test]
fn calls_out_of_order_are_refused() {
    for subformat in SUBFORMATS {
        let unit = match subformat {
            Subformat::MonolithicSparse => UnitShape::Data,
            Subformat::StreamOptimized => UnitShape::Compressed(65_536),
        };
        let other = match subformat {
            Subformat::MonolithicSparse => UnitShape::Compressed(5),
            Subformat::StreamOptimized => UnitShape::Data,
        };
        let writer = || spec(subformat).writer(Some(100_000), "x").unwrap();
        let shape = |at, len, unit, units| {
            let mut shape = ChunkShape::new(at, len);
            shape.push(unit, units);
            shape
        };
        let refused = |writer: &mut dyn FormatWriter, shape: &ChunkShape| {
            let mut ops: Vec<Op> = Vec::new();
            let position = writer.position();
            let error = writer.place(shape, &mut ops).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(ops.is_empty() && writer.position() == position);
        };
        let mut ops = Vec::new();
        refused(&mut *writer(), &shape(0, 65_536, unit, 1));
        let mut begun = writer();
        begun.begin(&mut ops).unwrap();
        assert!(begun.begin(&mut ops).is_err());
        refused(&mut *begun, &shape(65_536, 65_536, unit, 1));
        refused(&mut *begun, &shape(0, 65_536, unit, 2));
        refused(&mut *begun, &shape(0, 131_072, unit, 2));
        refused(&mut *begun, &shape(0, 65_536, other, 1));
        refused(&mut *begun, &shape(0, 65_536, UnitShape::Compressed(131_061), 1));
        begun.place(&shape(0, 65_536, unit, 1), &mut ops).unwrap();
        assert!(begun.finish(65_536, &mut ops).is_err());
        begun.place(&shape(65_536, 34_464, unit, 1), &mut ops).unwrap();
        refused(&mut *begun, &shape(100_000, 1, unit, 1));
        assert!(begun.finish(100_001, &mut ops).is_err());
        begun.finish(100_000, &mut ops).unwrap();
        assert!(begun.finish(100_000, &mut ops).is_err());
    }
}

#[test]
fn levels_that_deflate_does_not_have_are_refused() {
    let options = VmdkOptions { level: Level::Number(10), ..VmdkOptions::default() };
    assert_eq!(
        WriterSpec::Vmdk(options).writer(Some(1), "x").map(|_| ()).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}
