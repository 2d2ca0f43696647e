//! The RAW writer.

use crate::{ChunkShape, Encoder, Error, FormatWriter, Op, Result, chunk::UnitShape, num::to_u64};

/// RAW has no parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawOptions {}

/// Writes RAW: payload where there is data, [`Op::Skip`] elsewhere.
#[derive(Debug)]
pub struct RawWriter {
    size: Option<u64>,
    position: u64,
}

impl RawWriter {
    /// A writer for a disk of `size` bytes, if that is known.
    pub fn new(size: Option<u64>) -> Self {
        Self { size, position: 0 }
    }
}

impl FormatWriter for RawWriter {
    fn unit_len(&self) -> usize {
        BLOCK_LEN
    }

    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>> {
        Ok(None)
    }

    fn encoder_identity(&self) -> String {
        "none".into()
    }

    fn fills_late(&self) -> bool {
        false
    }

    fn begin(&mut self, _ops: &mut Vec<Op>) -> Result<()> {
        Ok(())
    }

    fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        let block = to_u64(BLOCK_LEN);
        let end = shape.guest_offset + shape.len;
        if shape.guest_offset != self.position || self.size.is_some_and(|size| end > size) {
            return Err(Error::invalid_input(format!("chunk {}..{end} is out of order", shape.guest_offset)));
        }
        let mut first = 0;
        for run in shape.runs() {
            let len = (run.units * block).min(end - self.position);
            match run.shape {
                UnitShape::Absent => ops.push(Op::Skip(len)),
                UnitShape::Data => ops.push(Op::Payload { first, units: run.units, len }),
                UnitShape::Compressed(_) => return Err(Error::invalid_input("raw has no compressed blocks")),
            }
            first += run.units;
            self.position += len;
        }
        Ok(())
    }

    fn finish(&mut self, size: u64, _ops: &mut Vec<Op>) -> Result<()> {
        debug_assert_eq!(size, self.position, "a disk is placed to its end before it is finished");
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// Granularity of holes in bytes: the block of common file systems.
const BLOCK_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_length_is_kept_to_the_byte() {
        let mut writer = RawWriter::new(Some(4096 + 700));
        let mut shape = ChunkShape::new(0, 4096 + 700);
        shape.push(UnitShape::Data, 2);
        let mut ops = Vec::new();
        writer.place(&shape, &mut ops).unwrap();
        assert_eq!(ops, [Op::Payload { first: 0, units: 2, len: 4096 + 700 }]);
        writer.finish(4096 + 700, &mut ops).unwrap();
        assert_eq!(writer.position(), 4096 + 700);
    }

    #[test]
    fn a_gap_between_chunks_is_refused() {
        let mut writer = RawWriter::new(None);
        let error = writer.place(&ChunkShape::absent(4 << 20, 4096, 4096), &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("out of order"));
    }
}
