//! The header and its extensions; contract 1.1 to 1.3.

use crate::{
    error::{Error, ErrorKind, Result},
    num::{round_up, to_u64, to_usize},
    qcow2::tables::{Geometry, MAX_L1_LEN, MAX_REFCOUNT_TABLE_LEN},
};

/// The fields of a header of version 2 or 3; for 2 those of 3 have the values that 2 implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// 2 or 3.
    pub(super) version: u32,
    /// Where the name of the backing file is; 0 for none.
    pub(super) backing_file_offset: u64,
    /// Bytes of that name.
    pub(super) backing_file_len: u32,
    /// log2 of the cluster length in bytes.
    pub(super) cluster_bits: u32,
    /// Bytes of the guest disk.
    pub(super) virtual_size: u64,
    /// 0 for none.
    pub(super) crypt_method: u32,
    /// Entries of the active L1 table.
    pub(super) l1_entries: u32,
    /// Where it is, in bytes.
    pub(super) l1_offset: u64,
    /// Where the refcount table is, in bytes.
    pub(super) refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub(super) refcount_table_clusters: u32,
    /// Number of internal snapshots.
    pub(super) snapshots: u32,
    /// Where the snapshot table is, in bytes.
    pub(super) snapshots_offset: u64,
    /// Features that a reader must know.
    pub(super) incompatible: u64,
    /// Features that nobody needs to know.
    pub(super) compatible: u64,
    /// Features that a writer who does not know them clears.
    pub(super) autoclear: u64,
    /// log2 of the bits of a refcount.
    pub(super) refcount_order: u32,
    /// Bytes of the header; extensions follow.
    pub(super) header_len: u32,
    /// 0 deflate, 1 zstd.
    pub(super) compression_type: u8,
}

impl Header {
    /// A header as this crate writes it, with the features that follow from its fields.
    pub(super) fn new(cluster_bits: u32, compression_type: u8) -> Self {
        Self {
            version: 3,
            backing_file_offset: 0,
            backing_file_len: 0,
            cluster_bits,
            virtual_size: 0,
            crypt_method: 0,
            l1_entries: 0,
            l1_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible: if compression_type == DEFLATE { 0 } else { INCOMPATIBLE_COMPRESSION },
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_len: HEADER_LEN,
            compression_type,
        }
    }

    /// The bytes of a version 3 header and the end mark of the (absent) extensions.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(to_usize(u64::from(HEADER_LEN) + 8));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&self.backing_file_offset.to_be_bytes());
        bytes.extend_from_slice(&self.backing_file_len.to_be_bytes());
        bytes.extend_from_slice(&self.cluster_bits.to_be_bytes());
        bytes.extend_from_slice(&self.virtual_size.to_be_bytes());
        bytes.extend_from_slice(&self.crypt_method.to_be_bytes());
        bytes.extend_from_slice(&self.l1_entries.to_be_bytes());
        bytes.extend_from_slice(&self.l1_offset.to_be_bytes());
        bytes.extend_from_slice(&self.refcount_table_offset.to_be_bytes());
        bytes.extend_from_slice(&self.refcount_table_clusters.to_be_bytes());
        bytes.extend_from_slice(&self.snapshots.to_be_bytes());
        bytes.extend_from_slice(&self.snapshots_offset.to_be_bytes());
        bytes.extend_from_slice(&self.incompatible.to_be_bytes());
        bytes.extend_from_slice(&self.compatible.to_be_bytes());
        bytes.extend_from_slice(&self.autoclear.to_be_bytes());
        bytes.extend_from_slice(&self.refcount_order.to_be_bytes());
        bytes.extend_from_slice(&self.header_len.to_be_bytes());
        bytes.push(self.compression_type);
        bytes.resize(to_usize(u64::from(HEADER_LEN) + 8), 0);
        bytes
    }

    /// Reads the fields from the front of the file. Only what is needed to go on is checked: magic,
    /// version, cluster size and header length.
    pub(super) fn parse(head: &[u8]) -> Result<Self> {
        let mut fields = Fields { head, at: 0 };
        if fields.take::<4>()? != MAGIC {
            return Err(Error::corrupt("not a qcow2 image: wrong magic").at(0));
        }
        let version = fields.u32()?;
        if version != 2 && version != 3 {
            return Err(Error::unsupported(format!("qcow2 version {version}")).at(4));
        }
        let mut header = Self {
            version,
            backing_file_offset: fields.u64()?,
            backing_file_len: fields.u32()?,
            cluster_bits: fields.u32()?,
            virtual_size: fields.u64()?,
            crypt_method: fields.u32()?,
            l1_entries: fields.u32()?,
            l1_offset: fields.u64()?,
            refcount_table_offset: fields.u64()?,
            refcount_table_clusters: fields.u32()?,
            snapshots: fields.u32()?,
            snapshots_offset: fields.u64()?,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            header_len: HEADER_LEN_V2,
            compression_type: DEFLATE,
        };
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&header.cluster_bits) {
            let bits = header.cluster_bits;
            return Err(Error::corrupt(format!("cluster_bits {bits} is outside 9..=21")).at(20));
        }
        if version == 2 {
            return Ok(header);
        }
        header.incompatible = fields.u64()?;
        header.compatible = fields.u64()?;
        header.autoclear = fields.u64()?;
        header.refcount_order = fields.u32()?;
        header.header_len = fields.u32()?;
        let len = header.header_len;
        if len < MIN_HEADER_LEN_V3
            || !len.is_multiple_of(8)
            || u64::from(len) > header.geometry().cluster_len()
        {
            return Err(Error::corrupt(format!("header length {len} is impossible")).at(100));
        }
        if len > MIN_HEADER_LEN_V3 {
            [header.compression_type] = fields.take::<1>()?;
        }
        Ok(header)
    }

    /// Shape of the tables.
    pub(super) fn geometry(&self) -> Geometry {
        Geometry {
            cluster_bits: self.cluster_bits,
            extended_l2: self.incompatible & INCOMPATIBLE_EXTENDED_L2 != 0,
        }
    }

    /// Whether the image was not closed cleanly: its refcounts may be stale.
    pub(super) fn is_dirty(&self) -> bool {
        self.incompatible & INCOMPATIBLE_DIRTY != 0
    }

    /// Whether somebody found the image corrupt.
    pub(super) fn is_marked_corrupt(&self) -> bool {
        self.incompatible & INCOMPATIBLE_CORRUPT != 0
    }

    /// Whether refcounts are written late.
    pub(super) fn has_lazy_refcounts(&self) -> bool {
        self.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0
    }

    /// Refuses what this crate does not read: contract 1.13, the features. `cluster` is the first
    /// cluster of the file, or what the file has of it.
    pub(super) fn check_features(&self, cluster: &[u8]) -> Result<()> {
        if self.backing_file_offset != 0 {
            return Err(Error::refused(self.backing_file_name(cluster).map_or_else(
                || "the image has a backing file".to_owned(),
                |name| format!("the image has the backing file {name:?}"),
            ))
            .at(8));
        }
        if self.incompatible & INCOMPATIBLE_DATA_FILE != 0 {
            return Err(Error::refused("the image keeps its data in another file").at(72));
        }
        let names = self.walk_extensions(cluster)?;
        let unknown = self.incompatible & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            let bit = unknown.trailing_zeros();
            let name = names.and_then(|table| feature_name(table, bit));
            let name = name.map_or_else(String::new, |name| format!(" ({name:?})"));
            return Err(Error::unsupported(format!("incompatible feature bit {bit}{name}")).at(72));
        }
        match self.crypt_method {
            0 => {}
            method => {
                return Err(Error::unsupported(format!("encrypted image, method {method}")).at(32));
            }
        }
        let flagged = self.incompatible & INCOMPATIBLE_COMPRESSION != 0;
        if flagged != (self.compression_type != DEFLATE) {
            let kind = self.compression_type;
            return Err(
                Error::corrupt(format!("compression type {kind} contradicts its feature bit")).at(104)
            );
        }
        if self.compression_type > ZSTD {
            return Err(Error::unsupported(format!("compression type {}", self.compression_type)).at(104));
        }
        if self.geometry().extended_l2 && self.cluster_bits < MIN_CLUSTER_BITS_EXTENDED {
            let bits = self.cluster_bits;
            return Err(Error::corrupt(format!("cluster_bits {bits} is too small for extended l2")).at(20));
        }
        Ok(())
    }

    /// Checks sizes and the places of tables in a file of `file_len` bytes: contract 1.10 and 1.13.
    pub(super) fn check_limits(&self, file_len: u64, max_virtual_size: u64) -> Result<()> {
        let geometry = self.geometry();
        if self.refcount_order > MAX_REFCOUNT_ORDER {
            return Err(Error::corrupt(format!("refcount order {} exceeds 6", self.refcount_order)).at(96));
        }
        if self.virtual_size > max_virtual_size {
            let size = self.virtual_size;
            return Err(
                Error::limit(format!("virtual size {size} exceeds the limit of {max_virtual_size}")).at(24)
            );
        }
        let l1_len = u64::from(self.l1_entries) * 8;
        if l1_len > MAX_L1_LEN {
            return Err(Error::limit(format!("l1 table of {l1_len} bytes exceeds 32 MiB")).at(36));
        }
        let needed = geometry.l1_entries(self.virtual_size);
        if u64::from(self.l1_entries) < needed {
            let entries = self.l1_entries;
            return Err(Error::corrupt(format!("l1 table has {entries} entries, {needed} are needed")).at(36));
        }
        if l1_len > 0 {
            self.check_table("l1 table", 40, self.l1_offset, l1_len, file_len)?;
        }
        // Of what is not read, the cluster that the end of the file cuts counts as whole.
        let file_end = round_up(file_len, geometry.cluster_len()).unwrap_or(u64::MAX);
        let refcount_table_len = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if refcount_table_len == 0 {
            return Err(Error::corrupt("the image has no refcount table").at(56));
        }
        if refcount_table_len > MAX_REFCOUNT_TABLE_LEN {
            return Err(
                Error::limit(format!("refcount table of {refcount_table_len} bytes exceeds 8 MiB")).at(56)
            );
        }
        self.check_table("refcount table", 48, self.refcount_table_offset, refcount_table_len, file_end)?;
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(Error::limit(format!("{} snapshots exceed 65536", self.snapshots)).at(60));
        }
        if self.snapshots > 0 {
            let len = u64::from(self.snapshots) * SNAPSHOT_LEN;
            self.check_table("snapshot table", 64, self.snapshots_offset, len, file_end)?;
        }
        Ok(())
    }

    /// Whether a table of `len` bytes, named by the header field at `field`, begins at a cluster and
    /// ends at or before `file_end`.
    fn check_table(&self, name: &str, field: u64, offset: u64, len: u64, file_end: u64) -> Result<()> {
        let cluster = self.geometry().cluster_len();
        if offset == 0 || !offset.is_multiple_of(cluster) {
            return Err(Error::corrupt(format!("{name} at {offset:#x} is not at a cluster")).at(field));
        }
        match offset.checked_add(len) {
            Some(end) if end <= file_end => Ok(()),
            Some(end) => {
                Err(Error::truncated(format!("{name} at {offset:#x}..{end:#x} leaves the file")).at(field))
            }
            None => Err(Error::corrupt(format!("{name} at {offset:#x} of {len} bytes overflows")).at(field)),
        }
    }

    /// The name of the backing file, if it is where it has to be. Whatever the bytes are, it is
    /// printable once formatted with `{:?}`.
    fn backing_file_name(&self, cluster: &[u8]) -> Option<String> {
        let start = usize::try_from(self.backing_file_offset).ok()?;
        let len = usize::try_from(self.backing_file_len).ok()?;
        let name = cluster.get(start..start.checked_add(len)?)?;
        (1..=MAX_BACKING_NAME_LEN).contains(&len).then(|| String::from_utf8_lossy(name).into_owned())
    }

    /// Walks the extensions. Returns the table of feature names, if there is one.
    fn walk_extensions<'a>(&self, cluster: &'a [u8]) -> Result<Option<&'a [u8]>> {
        let (mut at, mut names) = (u64::from(self.header_len), None);
        let end = to_u64(cluster.len());
        // An image whose header fills its cluster has no room for an end mark.
        while at < end {
            let word = |at: u64| match cluster.get(to_usize(at)..to_usize(at + 4)) {
                Some(bytes) => Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
                None => Err(Error::corrupt("header extensions leave the first cluster").at(at)),
            };
            let (kind, len) = (word(at)?, u64::from(word(at + 4)?));
            let data = at + 8;
            if kind == EXTENSION_END {
                break;
            }
            if data + len > end {
                return Err(Error::corrupt(format!(
                    "header extension {kind:#010x} of {len} bytes leaves the first cluster"
                ))
                .at(at));
            }
            match kind {
                EXTENSION_DATA_FILE => {
                    return Err(Error::refused("the image keeps its data in another file").at(at));
                }
                EXTENSION_FEATURE_NAMES => names = Some(&cluster[to_usize(data)..to_usize(data + len)]),
                _ => {}
            }
            at = data + len.next_multiple_of(8);
        }
        Ok(names)
    }
}

/// The name of incompatible feature `bit` in a table of feature names.
fn feature_name(table: &[u8], bit: u32) -> Option<String> {
    table.chunks_exact(FEATURE_NAME_LEN).find(|record| record[0] == 0 && u32::from(record[1]) == bit).map(
        |record| {
            let name = record[2..].split(|&byte| byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        },
    )
}

/// Takes big-endian fields from the front of a file.
struct Fields<'a> {
    head: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let field = self.head.get(self.at..).and_then(|rest| rest.first_chunk::<LEN>()).ok_or_else(|| {
            Error::new(ErrorKind::Truncated, "the file ends inside the qcow2 header").at(to_u64(self.at))
        })?;
        self.at += LEN;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

/// Legal values of `cluster_bits`: 512 bytes to 2 MiB.
pub(super) const MIN_CLUSTER_BITS: u32 = 9;
pub(super) const MAX_CLUSTER_BITS: u32 = 21;

/// With extended L2 a subcluster has at least a sector.
const MIN_CLUSTER_BITS_EXTENDED: u32 = 14;

/// Values of `compression_type`.
pub(super) const DEFLATE: u8 = 0;
pub(super) const ZSTD: u8 = 1;

const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of the header written, compression type and padding included.
const HEADER_LEN: u32 = 112;
const HEADER_LEN_V2: u32 = 72;
/// Without the compression type.
const MIN_HEADER_LEN_V3: u32 = 104;

/// Refcounts of 64 bits.
const MAX_REFCOUNT_ORDER: u32 = 6;

/// Contract 1.10.
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_BACKING_NAME_LEN: usize = 1023;

/// The shortest entry of a snapshot table in bytes.
const SNAPSHOT_LEN: u64 = 40;

const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = (1 << 5) - 1;
const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;

const EXTENSION_END: u32 = 0;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// A record of the table of feature names: type, bit, 46 bytes of name.
const FEATURE_NAME_LEN: usize = 48;
