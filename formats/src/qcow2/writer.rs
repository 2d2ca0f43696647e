//! The QCOW2 writer.
use crate::{ChunkShape, Compression, Encoder, FormatWriter, Op, Result, deflate::Level};

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
#[derive(Debug)]
pub struct Qcow2Writer {}

impl Qcow2Writer {
    /// A writer for a disk of `size` bytes, if that is known.
    ///
    /// # Errors
    /// Parameters out of range, or a disk that the format cannot hold.
    pub fn new(_options: &Qcow2Options, _size: Option<u64>) -> Result<Self> {
        unimplemented!()
    }
}

impl FormatWriter for Qcow2Writer {
    fn unit_len(&self) -> usize {
        unimplemented!()
    }
    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>> {
        unimplemented!()
    }
    fn encoder_identity(&self) -> String {
        unimplemented!()
    }
    fn fills_late(&self) -> bool {
        true
    }
    fn begin(&mut self, _ops: &mut Vec<Op>) -> Result<()> {
        unimplemented!()
    }
    fn place(&mut self, _shape: &ChunkShape, _ops: &mut Vec<Op>) -> Result<()> {
        unimplemented!()
    }
    fn finish(&mut self, _size: u64, _ops: &mut Vec<Op>) -> Result<()> {
        unimplemented!()
    }
    fn position(&self) -> u64 {
        unimplemented!()
    }
}
