//! Encoders that need nothing but a C compiler: libdeflate and zlib-rs.

use flate2::{Compress, FlushCompress, Status};
use libdeflater::{CompressionError, CompressionLvl, Compressor};

use super::DeflateEncoder;
use crate::error::{Error, Result};

/// libdeflate, zlib wrapper.
pub(super) struct LibdeflateEncoder {
    codec: Compressor,
}

impl LibdeflateEncoder {
    /// `level` is 1-12.
    pub(super) fn new(level: u8) -> Result<Self> {
        let level = CompressionLvl::new(level.into())
            .map_err(|_| Error::invalid_input(format!("libdeflate has no level {level}")))?;
        Ok(Self { codec: Compressor::new(level) })
    }
}

impl DeflateEncoder for LibdeflateEncoder {
    fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        match self.codec.zlib_compress(input, out) {
            Ok(len) => Ok(Some(len)),
            Err(CompressionError::InsufficientSpace) => Ok(None),
        }
    }
}

/// zlib-rs, raw deflate with a 4 KiB window.
pub(super) struct ZlibRsEncoder {
    codec: Compress,
    level: u8,
}

impl ZlibRsEncoder {
    /// `level` is 1-9.
    pub(super) fn new(level: u8) -> Self {
        Self { codec: raw_4kib(level), level }
    }
}

fn raw_4kib(level: u8) -> Compress {
    Compress::new_with_window_bits(flate2::Compression::new(level.into()), false, WINDOW_BITS)
}

impl DeflateEncoder for ZlibRsEncoder {
    fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        self.codec.reset();
        match self.codec.compress(input, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => {
                let len =
                    usize::try_from(self.codec.total_out()).expect("a stream in memory fits into memory");
                Ok(Some(len))
            }
            Ok(Status::Ok | Status::BufError) => {
                // In zlib-rs 0.6.8 a reset forgets the output that did not fit, but not the room it
                // takes in the buffer: after a few misfits in a row the codec would panic.
                self.codec = raw_4kib(self.level);
                Ok(None)
            }
            Err(error) => Err(Error::corrupt("deflate failed").with_source(error)),
        }
    }
}

/// 2^12 = 4 KiB, what QEMU's QCOW2 driver writes and promises to read (formats contract 1.6).
const WINDOW_BITS: u8 = 12;
