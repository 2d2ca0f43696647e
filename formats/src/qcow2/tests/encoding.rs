//! Header fields and table entries, bit by bit.

use super::*;
use crate::qcow2::{
    header::Header,
    tables::{Geometry, L2Entry, Refcounting, decode_l1, decode_l2, encode_compressed, encode_exclusive},
};

fn geometry(cluster_bits: u32) -> Geometry {
    Geometry { cluster_bits, extended_l2: false }
}

#[test]
fn offsets_and_counts_split_compressed_descriptors_as_the_contract_tables_them() {
    for (bits, x, limit) in [(9, 61, 56), (12, 58, 56), (16, 54, 54), (20, 50, 50), (21, 49, 49)] {
        let geometry = geometry(bits);
        assert_eq!(geometry.compressed_offset_bits(), x);
        assert_eq!(geometry.host_limit(true), 1 << limit);
        assert_eq!(geometry.host_limit(false), 1 << 56);
        // The count has room for the longest stream at the worst place in a sector, no more.
        let longest = decode_l2(1 << 62 | ((1 << (62 - x)) - 1) << x | 1 << 9, geometry, 3).unwrap();
        assert_eq!(longest, L2Entry::Compressed { offset: 512, len: 2 << bits });
    }
}

#[test]
fn a_descriptor_spans_the_sectors_that_the_stream_touches() {
    for (offset, len, span) in
        [(512, 1, 512), (512, 512, 512), (512, 513, 1024), (1023, 1, 1), (1023, 2, 513), (700, 4000, 4420)]
    {
        let entry = encode_compressed(offset, len, geometry(16));
        assert_eq!(entry >> 62, 1, "compressed, not exclusive");
        assert_eq!(decode_l2(entry, geometry(16), 3).unwrap(), L2Entry::Compressed { offset, len: span });
    }
}

#[test]
fn plain_entries_come_back() {
    let geometry = geometry(16);
    assert_eq!(encode_exclusive(0x5_0000), 0x8000_0000_0005_0000);
    assert_eq!(decode_l1(encode_exclusive(0x5_0000), geometry).unwrap(), Some(0x5_0000));
    assert_eq!(decode_l1(0x5_0000, geometry).unwrap(), Some(0x5_0000), "shared with a snapshot");
    assert_eq!(decode_l1(0, geometry).unwrap(), None);
    assert_eq!(decode_l2(encode_exclusive(0x5_0000), geometry, 2).unwrap(), L2Entry::Standard(0x5_0000));
    assert_eq!(decode_l2(0, geometry, 2).unwrap(), L2Entry::Unallocated);
    assert_eq!(decode_l2(1, geometry, 3).unwrap(), L2Entry::Zero);
    assert_eq!(decode_l2(encode_exclusive(0x5_0000) | 1, geometry, 3).unwrap(), L2Entry::Zero);
    assert_eq!(kind(decode_l2(1, geometry, 2)), ErrorKind::Corrupt);
    assert_eq!(kind(decode_l2(1, Geometry { extended_l2: true, ..geometry }, 3)), ErrorKind::Corrupt);
}

#[test]
fn refcounts_count_themselves() {
    let of = |bits, others| geometry(bits).refcount_clusters(others);
    assert_eq!(of(16, 4), Refcounting { blocks: 1, table: 1, total: 6 });
    assert_eq!(of(16, 32766), Refcounting { blocks: 1, table: 1, total: 32768 });
    assert_eq!(of(16, 32767), Refcounting { blocks: 2, table: 1, total: 32770 });
    assert_eq!(of(9, 254), Refcounting { blocks: 1, table: 1, total: 256 });
    for bits in 9..=21 {
        for others in (0..3000).chain((1 << 20) - 5..1 << 20) {
            let Refcounting { blocks, table, total } = of(bits, others);
            assert_eq!(total, others + blocks + table);
            assert_eq!((blocks, table), (total.div_ceil(1 << (bits - 1)), (blocks * 8).div_ceil(1 << bits)));
        }
    }
}

proptest! {
    #[test]
    fn a_header_comes_back(sizes: (u64, u64, u64), counts: (u32, u32, u32), flags: (u64, u64, u64), bits in 9_u32..22) {
        let header = Header {
            virtual_size: sizes.0,
            l1_offset: sizes.1,
            refcount_table_offset: sizes.2,
            l1_entries: counts.0,
            refcount_table_clusters: counts.1,
            snapshots: counts.2,
            incompatible: flags.0,
            compatible: flags.1,
            autoclear: flags.2,
            ..Header::new(bits, 1)
        };
        let bytes = header.to_bytes();
        prop_assert_eq!(bytes.len(), 120);
        prop_assert_eq!(Header::parse(&bytes).unwrap(), header);
        for len in 0..105 {
            prop_assert_eq!(kind(Header::parse(&bytes[..len])), ErrorKind::Truncated);
        }
    }
}
