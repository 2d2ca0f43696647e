//! What the writer refuses, and what it costs.

use super::*;

#[test]
fn disks_that_cannot_fit_are_refused_before_the_first_byte() {
    let limit = |bits, compression, size| Qcow2Writer::new(&options(bits, compression), Some(size)).err();
    // What fits in the worst case, next to what does not.
    for (bits, fits, fails) in [
        (9, 120 << 30, 128 << 30),
        (12, 7 << 40, 8_u64 << 40),
        (16, 2040 << 40, 2048 << 40),
        (16, 2040 << 40, (2048 << 40) + 1),
        (21, 1 << 55, 1 << 56),
        (21, 1 << 55, u64::MAX),
    ] {
        assert!(limit(bits, Compression::None, fits).is_none(), "{bits} bits, {fits} bytes");
        let error = limit(bits, Compression::None, fails).expect("too large");
        assert_eq!(error.kind(), ErrorKind::Limit, "{bits} bits, {fails} bytes: {error}");
    }
    assert!(limit(21, Compression::Deflate, 511 << 40).is_none());
    let error = limit(21, Compression::Deflate, 512 << 40).expect("past 2^49");
    assert!(error.to_string().contains("0x2000000000000"), "{error}");
    for bits in [0, 8, 22, u32::MAX] {
        assert_eq!(limit(bits, Compression::None, 1).unwrap().kind(), ErrorKind::InvalidInput);
    }
    let level = Qcow2Options { level: Level::Number(20), ..options(16, Compression::Zstd) };
    assert_eq!(Qcow2Writer::new(&level, None).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn of_unknown_size_the_piece_that_does_not_fit_is_refused_and_changes_nothing() {
    for (bits, compression, large) in [
        (9, Compression::None, 128 << 30),
        (16, Compression::None, 2048 << 40),
        (21, Compression::Zstd, 512 << 40),
    ] {
        let mut writer = Qcow2Writer::new(&options(bits, compression), None).unwrap();
        let (unit, mut ops) = (writer.unit_len(), Vec::new());
        writer.begin(&mut ops).unwrap();
        writer.place(&ChunkShape::absent(0, 1 << 30, unit), &mut ops).unwrap();
        let state = format!("{writer:?}");
        ops.clear();
        let mut shape = ChunkShape::new(1 << 30, large);
        shape.push(UnitShape::Data, large.div_ceil(to_u64(unit)));
        assert_eq!(kind(writer.place(&shape, &mut ops)), ErrorKind::Limit, "{bits} bits");
        let rest = ChunkShape::absent(1 << 30, u64::MAX - (1 << 30), unit);
        assert_eq!(kind(writer.place(&rest, &mut ops)), ErrorKind::Limit, "{bits} bits");
        assert!(ops.is_empty() && format!("{writer:?}") == state, "nothing happened");
        writer.finish(1 << 30, &mut ops).unwrap();
    }
}

#[test]
fn pieces_out_of_order_or_of_wrong_shape_are_refused() {
    let mut writer = Qcow2Writer::new(&options(16, Compression::None), Some(10 << 20)).unwrap();
    let mut ops = Vec::new();
    let absent = |offset, len| ChunkShape::absent(offset, len, 65536);
    assert_eq!(kind(writer.place(&absent(0, 4 << 20), &mut ops)), ErrorKind::InvalidInput);
    writer.begin(&mut ops).unwrap();
    assert_eq!(kind(writer.begin(&mut ops)), ErrorKind::InvalidInput);
    writer.place(&absent(0, 4 << 20), &mut ops).unwrap();
    ops.clear();
    let with = |unit, units| {
        let mut shape = ChunkShape::new(4 << 20, 1 << 20);
        shape.push(unit, units);
        shape
    };
    let mut overflowing = with(UnitShape::Data, 16);
    overflowing.push(UnitShape::Absent, 1);
    overflowing.push(UnitShape::Data, u64::MAX);
    for wrong in [
        absent(0, 4 << 20),
        absent(8 << 20, 1 << 20),
        absent(4 << 20, 7 << 20),
        absent(4 << 20, u64::MAX),
        with(UnitShape::Data, 15),
        with(UnitShape::Data, 17),
        with(UnitShape::Data, u64::MAX),
        with(UnitShape::Compressed(5), 16),
        overflowing,
    ] {
        assert_eq!(kind(writer.place(&wrong, &mut ops)), ErrorKind::InvalidInput, "{wrong:?}");
    }
    assert_eq!(kind(writer.finish(10 << 20, &mut ops)), ErrorKind::InvalidInput);
    writer.place(&absent(4 << 20, 100), &mut ops).unwrap();
    assert_eq!(kind(writer.place(&absent((4 << 20) + 100, 100), &mut ops)), ErrorKind::InvalidInput);
    assert_eq!(kind(writer.finish((4 << 20) + 100, &mut ops)), ErrorKind::InvalidInput);
    assert!(ops.is_empty());

    let mut writer = Qcow2Writer::new(&options(9, Compression::Deflate), None).unwrap();
    writer.begin(&mut ops).unwrap();
    for len in [0, 512, u32::MAX] {
        let mut shape = ChunkShape::new(0, 512);
        shape.push(UnitShape::Compressed(len), 1);
        assert_eq!(kind(writer.place(&shape, &mut ops)), ErrorKind::InvalidInput, "{len}");
    }
    writer.finish(0, &mut ops).unwrap();
    assert_eq!(kind(writer.finish(0, &mut ops)), ErrorKind::InvalidInput);
}

#[test]
fn a_hole_of_any_length_costs_nothing() {
    let (size, unit) = (1 << 50, 65536);
    let mut writer = Qcow2Writer::new(&options(16, Compression::None), Some(size)).unwrap();
    let mut ops = Vec::new();
    writer.begin(&mut ops).unwrap();
    writer.place(&ChunkShape::absent(0, size, unit), &mut ops).unwrap();
    writer.finish(size, &mut ops).unwrap();
    assert!(ops.len() < 8, "{ops:?}");
    assert_eq!(writer.position(), (16 << 20) + 3 * 65536);
}

#[test]
fn a_host_cluster_is_never_referenced_more_than_its_refcount_can_say() {
    let shapes = vec![UnitShape::Compressed(1); 200_000];
    let mut writer = Qcow2Writer::new(&options(21, Compression::Deflate), None).unwrap();
    let mut ops = Vec::new();
    writer.begin(&mut ops).unwrap();
    for (index, units) in shapes.chunks(2).enumerate() {
        let mut shape = ChunkShape::new(to_u64(index) << 22, 4 << 20);
        shape.push(units[0], 2);
        writer.place(&shape, &mut ops).unwrap();
    }
    writer.finish(200_000 << 21, &mut ops).unwrap();
    let mut image = MemoryImage::default();
    image.apply(&ops, |_| vec![0x77]);
    check(&image.bytes);
}

#[test]
fn operations_cover_runs_and_never_reach_into_an_earlier_call() {
    let mut writer = Qcow2Writer::new(&options(16, Compression::Deflate), None).unwrap();
    let mut ops = Vec::new();
    writer.begin(&mut ops).unwrap();
    for chunk in 0..2 {
        let mut shape = ChunkShape::new(chunk << 22, 4 << 20);
        shape.push(UnitShape::Data, 10);
        shape.push(UnitShape::Absent, 4);
        shape.push(UnitShape::Compressed(100), 20);
        shape.push(UnitShape::Compressed(200), 30);
        writer.place(&shape, &mut ops).unwrap();
    }
    let payload = |first, units, len| Op::Payload { first, units, len };
    let chunk = [payload(0, 10, 10 << 16), payload(14, 50, 8000)];
    assert_eq!(ops[1..3], chunk);
    assert_eq!(ops[3], Op::Skip(65536 - 8000));
    assert_eq!(ops[4..], chunk);
}
