//! The QCOW2 writer: layout (b') of contract 2.1.

use crate::{
    ChunkShape, Compression, Encoder, Error, FormatWriter, Op, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::Level,
    num::{round_up, to_u64, to_usize},
    output::Output,
    plan::Slot,
    qcow2::{
        encoder::CodecSpec,
        header::{self, Header},
        tables::{Geometry, MAX_L1_LEN, MAX_REFCOUNT_TABLE_LEN, encode_compressed, encode_exclusive},
    },
};

/// Parameters of a QCOW2 output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qcow2Options {
    /// log2 of the cluster length in bytes: 9 (512 bytes) to 21 (2 MiB).
    pub cluster_bits: u32,
    /// How clusters are compressed.
    pub compression: Compression,
    /// How hard; of no effect without compression.
    pub level: Level,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self { cluster_bits: 16, compression: Compression::None, level: Level::Default }
    }
}

/// Writes QCOW2.
///
/// Memory hardly grows with the disk: one L2 table, one open refcount block, 8 bytes for each L2
/// range up to the last data and 8 bytes for each refcount block. With clusters of 64 KiB that is
/// 16 KiB and 4 KiB for a TiB.
#[derive(Debug)]
pub struct Qcow2Writer {
    geometry: Geometry,
    codec: CodecSpec,
    /// Bytes of the source, if known.
    size: Option<u64>,
    stage: Stage,
    /// Guest bytes placed.
    guest: u64,
    /// Bytes of output so far.
    position: u64,
    /// The front of the L1 table as it will be on disk, up to the last entry that is not 0.
    l1: Vec<u8>,
    /// The same of the L2 table for the guest range in hand.
    l2: Vec<u8>,
    /// Offsets of the refcount blocks written.
    blocks: Vec<u64>,
    /// Refcounts of the host clusters behind those that `blocks` count.
    counts: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Placing,
    Finished,
}

impl Qcow2Writer {
    /// A writer for a disk of `size` bytes, if that is known.
    ///
    /// # Errors
    /// Parameters out of range, or a disk that the format cannot hold in the worst case (no zeros,
    /// nothing compressible): contract 1.5 and 1.10.
    pub fn new(options: &Qcow2Options, size: Option<u64>) -> Result<Self> {
        if !(header::MIN_CLUSTER_BITS..=header::MAX_CLUSTER_BITS).contains(&options.cluster_bits) {
            return Err(Error::invalid_input(format!(
                "cluster_bits {} is outside 9..=21",
                options.cluster_bits
            )));
        }
        let writer = Self {
            geometry: Geometry { cluster_bits: options.cluster_bits, extended_l2: false },
            codec: CodecSpec::new(options.compression, options.level)?,
            size,
            stage: Stage::New,
            guest: 0,
            position: 0,
            l1: Vec::new(),
            l2: Vec::new(),
            blocks: Vec::new(),
            counts: Vec::new(),
        };
        if let Some(size) = size {
            // One cluster for the header; all data and all L2 tables are still to come.
            writer.check_fits(size, 1, writer.geometry.clusters(size))?;
        }
        Ok(writer)
    }

    /// Whether a disk of `end` bytes fits if, behind `clusters` clusters of output (without
    /// refcount blocks), `stored` more guest clusters are stored. A group of compressed clusters
    /// never takes more host clusters than it has members.
    fn check_fits(&self, end: u64, clusters: u64, stored: u64) -> Result<()> {
        let geometry = self.geometry;
        let cluster = geometry.cluster_len();
        let l1_len = geometry.l1_entries(end).max(1) * 8;
        if l1_len > MAX_L1_LEN {
            return Err(Error::limit(format!(
                "a disk of {end} bytes needs an l1 table of {l1_len} bytes, more than 32 MiB, with clusters of \
                 {cluster} bytes"
            )));
        }
        // Tables that end in or behind the piece: no more than begin at its data, and the open one.
        let tables = (geometry.l1_entries(end) - self.guest / geometry.l2_span()).min(stored + 1);
        let refcounting = geometry.refcount_clusters(clusters + stored + tables + geometry.clusters(l1_len));
        if refcounting.table * cluster > MAX_REFCOUNT_TABLE_LEN {
            return Err(Error::limit(format!(
                "a disk of {end} bytes may need {} clusters of {cluster} bytes, more than a refcount table of 8 MiB \
                 counts",
                refcounting.total
            )));
        }
        let limit = geometry.host_limit(self.codec != CodecSpec::None);
        if refcounting.total > limit / cluster {
            return Err(Error::limit(format!(
                "a disk of {end} bytes may need offsets past {limit:#x}, the end of what entries can name"
            )));
        }
        Ok(())
    }

    /// Whether a piece may be placed now; changes nothing.
    fn check_piece(&self, shape: &ChunkShape) -> Result<()> {
        let cluster = self.geometry.cluster_len();
        let end = shape.guest_offset.checked_add(shape.len);
        let Some(end) = end.filter(|_| shape.guest_offset == self.guest && self.stage == Stage::Placing)
        else {
            return Err(Error::invalid_input(format!(
                "piece of {} bytes at {} is out of order, {} is next",
                shape.len, shape.guest_offset, self.guest
            )));
        };
        if !self.guest.is_multiple_of(cluster) {
            return Err(Error::invalid_input(format!(
                "piece at {} follows one that ended inside a cluster of {cluster} bytes",
                self.guest
            )));
        }
        if self.size.is_some_and(|size| end > size) {
            return Err(Error::invalid_input(format!("piece {}..{end} leaves the disk", self.guest)));
        }
        let (mut units, mut stored) = (0_u64, 0);
        for run in shape.runs() {
            match run.shape {
                UnitShape::Absent => {}
                UnitShape::Data => stored = run.units.saturating_add(stored),
                UnitShape::Compressed(_) if self.codec == CodecSpec::None => {
                    return Err(Error::invalid_input("compressed cluster in an image without compression"));
                }
                UnitShape::Compressed(len) if len == 0 || u64::from(len) >= cluster => {
                    return Err(Error::invalid_input(format!(
                        "compressed cluster of {len} bytes, not 1 to {}",
                        cluster - 1
                    )));
                }
                UnitShape::Compressed(_) => stored = run.units.saturating_add(stored),
            }
            units = units.saturating_add(run.units);
        }
        if units != self.geometry.clusters(shape.len) {
            return Err(Error::invalid_input(format!(
                "piece of {} bytes has the wrong number of clusters of {cluster} bytes",
                shape.len
            )));
        }
        self.check_fits(end, self.geometry.clusters(self.position) - to_u64(self.blocks.len()), stored)
    }

    /// Places up to `units` clusters of equal shape, but none behind the next table to be written,
    /// so that tables stand where they do however the disk is cut. Returns how many.
    fn place_some(
        &mut self,
        shape: UnitShape,
        first: u64,
        units: u64,
        end: u64,
        out: &mut Output<'_>,
    ) -> u64 {
        let cluster_len = self.geometry.cluster_len();
        let index = self.guest / cluster_len;
        let units = match shape {
            UnitShape::Absent => units,
            UnitShape::Compressed(len) => {
                self.place_compressed(index, first, len, out);
                1
            }
            UnitShape::Data => {
                self.align(out);
                self.close_blocks(out);
                let cluster = self.position / cluster_len;
                let l2_left = self.geometry.l2_entries() - index % self.geometry.l2_entries();
                let block_left = self.first_counted() + self.geometry.refcounts_per_block() - cluster;
                let units = units.min(l2_left).min(block_left);
                for unit in 0..units {
                    self.push_l2(index + unit, encode_exclusive(self.position + unit * cluster_len));
                }
                self.reference(cluster, units);
                // The tail of the last cluster need not be in the payload; it reads as zeros.
                let len = units * cluster_len;
                let payload = len.min(end - self.guest);
                out.payload(first, units, payload);
                out.skip(len - payload);
                self.position += len;
                units
            }
        };
        let table = self.guest / self.geometry.l2_span();
        self.guest = end.min(self.guest.saturating_add(units.saturating_mul(cluster_len)));
        if self.guest / self.geometry.l2_span() != table {
            self.close_l2(table, out);
        }
        self.close_blocks(out);
        units
    }

    /// Places one stream right behind what is there.
    fn place_compressed(&mut self, index: u64, unit: u64, len: u32, out: &mut Output<'_>) {
        let (cluster_len, len) = (self.geometry.cluster_len(), u64::from(len));
        // A host cluster can be referenced by 65535 streams: tiny ones in 2 MiB could be more.
        if !self.position.is_multiple_of(cluster_len) && self.counts.last() == Some(&u16::MAX) {
            self.align(out);
        }
        self.push_l2(index, encode_compressed(self.position, len, self.geometry));
        let (first, last) = (self.position / cluster_len, (self.position + len - 1) / cluster_len);
        self.reference(first, last - first + 1);
        out.payload(unit, 1, len);
        self.position += len;
    }

    /// Sets the L2 entry of guest cluster `index`; those between it and the last one set are 0.
    fn push_l2(&mut self, index: u64, entry: u64) {
        self.l2.resize(to_usize(index % self.geometry.l2_entries() * 8), 0);
        self.l2.extend_from_slice(&entry.to_be_bytes());
    }

    /// Appends the L2 table of L1 entry `table`, unless it is empty.
    fn close_l2(&mut self, table: u64, out: &mut Output<'_>) {
        if self.l2.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.l2);
        let offset = self.append_table(bytes, self.geometry.cluster_len(), out);
        self.l1.resize(to_usize(table * 8), 0);
        self.l1.extend_from_slice(&encode_exclusive(offset).to_be_bytes());
    }

    /// Appends the refcount blocks whose range the file has passed. No later cluster is inside it,
    /// but a compressed stream may have begun the cluster behind it.
    fn close_blocks(&mut self, out: &mut Output<'_>) {
        let per_block = self.geometry.refcounts_per_block();
        while self.position / self.geometry.cluster_len() >= self.first_counted() + per_block {
            let block = self.counts.drain(..to_usize(per_block)).flat_map(u16::to_be_bytes).collect();
            // The list comes first: the block itself is counted by a later one.
            self.blocks.push(0);
            let offset = self.append_table(block, self.geometry.cluster_len(), out);
            *self.blocks.last_mut().expect("pushed above") = offset;
        }
    }

    /// Appends a table of `len` bytes and counts it. Returns its offset.
    fn append_table(&mut self, bytes: Vec<u8>, len: u64, out: &mut Output<'_>) -> u64 {
        self.align(out);
        self.reference(self.position / self.geometry.cluster_len(), self.geometry.clusters(len));
        self.append_counted(bytes, len, out)
    }

    /// Appends a table of `len` bytes, zeros behind `bytes`, whose clusters are counted already.
    /// Returns its offset.
    fn append_counted(&mut self, bytes: Vec<u8>, len: u64, out: &mut Output<'_>) -> u64 {
        let offset = self.position;
        let (used, len) = (to_u64(bytes.len()), self.geometry.clusters(len) * self.geometry.cluster_len());
        out.append(bytes);
        out.skip(len - used);
        self.position += len;
        offset
    }

    /// Skips to the next cluster, unless the position is at one.
    fn align(&mut self, out: &mut Output<'_>) {
        let aligned = self.position.next_multiple_of(self.geometry.cluster_len());
        out.skip(aligned - self.position);
        self.position = aligned;
    }

    /// Host cluster that `counts` starts with.
    fn first_counted(&self) -> u64 {
        to_u64(self.blocks.len()) * self.geometry.refcounts_per_block()
    }

    /// Counts one more reference to each of `clusters` host clusters from `first` on.
    fn reference(&mut self, first: u64, clusters: u64) {
        let start = to_usize(first - self.first_counted());
        let end = start + to_usize(clusters);
        if self.counts.len() < end {
            self.counts.resize(end, 0);
        }
        for count in &mut self.counts[start..end] {
            *count += 1;
        }
    }
}

impl FormatWriter for Qcow2Writer {
    fn unit_len(&self) -> usize {
        to_usize(self.geometry.cluster_len())
    }

    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>> {
        self.codec.encoder(self.unit_len())
    }

    fn encoder_identity(&self) -> String {
        self.codec.identity()
    }

    fn fills_late(&self) -> bool {
        true
    }

    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        if self.stage != Stage::New {
            return Err(Error::invalid_input("an image begins once"));
        }
        self.stage = Stage::Placing;
        let len = self.geometry.cluster_len();
        ops.push(Op::Reserve { slot: HEADER, len });
        self.reference(0, 1);
        self.position = len;
        Ok(())
    }

    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        self.check_piece(shape)?;
        let (mut out, end, mut first) = (Output::new(ops), self.guest + shape.len, 0);
        for run in shape.runs() {
            let mut left = run.units;
            while left > 0 {
                let placed = self.place_some(run.shape, first, left, end, &mut out);
                first += placed;
                left -= placed;
            }
        }
        Ok(())
    }

    fn finish(&mut self, size: u64, ops: &mut Vec<Op>) -> Result<()> {
        let announced = self.size.unwrap_or(size);
        if self.stage != Stage::Placing || size != self.guest || size != announced {
            return Err(Error::invalid_input(format!(
                "a disk of {size} bytes ({announced} announced) ends after {} placed",
                self.guest
            )));
        }
        self.stage = Stage::Finished;
        let geometry = self.geometry;
        let mut out = Output::new(ops);
        self.close_l2(self.guest / geometry.l2_span(), &mut out);
        self.close_blocks(&mut out);

        let l1_entries = geometry.l1_entries(size).max(1);
        let l1 = std::mem::take(&mut self.l1);
        let l1_offset = self.append_table(l1, l1_entries * 8, &mut out);

        // What is left to append counts itself too. `place` has checked that all of it fits.
        let others = self.position / geometry.cluster_len() - to_u64(self.blocks.len());
        let refcounting = geometry.refcount_clusters(others);
        let first = self.first_counted();
        self.counts.resize(to_usize(refcounting.total - first), 1);
        let counts = std::mem::take(&mut self.counts);
        let per_block = to_usize(geometry.refcounts_per_block());
        for block in counts.chunks(per_block) {
            let bytes = block.iter().copied().flat_map(u16::to_be_bytes).collect();
            let offset = self.append_counted(bytes, geometry.cluster_len(), &mut out);
            self.blocks.push(offset);
        }
        debug_assert_eq!(to_u64(self.blocks.len()), refcounting.blocks, "as the fixpoint said");
        let table = self.blocks.iter().copied().flat_map(u64::to_be_bytes).collect();
        let table_len = refcounting.table * geometry.cluster_len();
        let refcount_table_offset = self.append_counted(table, table_len, &mut out);
        debug_assert_eq!(self.position, refcounting.total * geometry.cluster_len(), "as the fixpoint said");

        let too_large = |_| Error::limit("a table has 2^32 entries");
        let header = Header {
            virtual_size: round_up(size, SECTOR_LEN).ok_or_else(|| Error::limit("size overflows"))?,
            l1_entries: u32::try_from(l1_entries).map_err(too_large)?,
            l1_offset,
            refcount_table_offset,
            refcount_table_clusters: u32::try_from(refcounting.table).map_err(too_large)?,
            ..Header::new(geometry.cluster_bits, self.codec.compression_type())
        };
        out.fill(HEADER, 0, header.to_bytes());
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// The reservation of the header cluster.
const HEADER: Slot = Slot(0);
