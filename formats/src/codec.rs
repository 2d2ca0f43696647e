//! Inflating single clusters and grains.

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{DecompressionError, Decompressor};

use crate::{
    error::{Error, Result},
    num::to_u64,
    plan::Codec,
    vmdk,
};

/// Inflates compressed clusters and grains; one per worker. Each call stands alone.
pub struct Decoder {
    deflate: Decompressor,
    zstd: Option<zstd::zstd_safe::DCtx<'static>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder for all codecs.
    pub fn new() -> Self {
        Self { deflate: Decompressor::new(), zstd: None }
    }

    /// Inflates the front of `input`, the bytes of one [`Place::Compressed`](crate::plan::Place),
    /// into `out`, which is exactly one cluster or grain. What follows in `input` is not looked at.
    ///
    /// # Errors
    /// The stream is corrupt or does not yield exactly `out.len()` bytes.
    pub fn decode(&mut self, codec: Codec, input: &[u8], out: &mut [u8]) -> Result<()> {
        match codec {
            Codec::Deflate => self.inflate(input, out),
            Codec::VmdkGrain { sector, content } => {
                let stream = vmdk::grain_stream(input, sector)?;
                let len = self.deflate.zlib_decompress(stream, out).map_err(|error| failed(&error))?;
                if to_u64(len) < u64::from(content) {
                    return exact(len, out.len());
                }
                out[len..].fill(0);
                Ok(())
            }
            Codec::Zstd => self.unzstd(input, out),
        }
    }

    /// Inflates a zlib stream (RFC 1950) that yields exactly `out.len()` bytes.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode).
    pub fn inflate_zlib(&mut self, input: &[u8], out: &mut [u8]) -> Result<()> {
        match self.deflate.zlib_decompress(input, out) {
            Ok(len) => exact(len, out.len()),
            Err(error) => Err(failed(&error)),
        }
    }

    fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Result<()> {
        match self.deflate.deflate_decompress(input, out) {
            Ok(len) => exact(len, out.len()),
            // A stream that would go on is legal as long as a whole cluster came out first
            // (formats contract 1.6), and so is one without an end: the streaming inflater decides.
            Err(DecompressionError::InsufficientSpace | DecompressionError::BadData) => {
                let mut codec = Decompress::new(false);
                match codec.decompress(input, out, FlushDecompress::Finish) {
                    Ok(Status::Ok | Status::BufError | Status::StreamEnd) => {
                        exact(usize::try_from(codec.total_out()).unwrap_or(usize::MAX), out.len())
                    }
                    Err(error) => {
                        Err(Error::corrupt("a compressed cluster does not inflate").with_source(error))
                    }
                }
            }
        }
    }

    fn unzstd(&mut self, input: &[u8], out: &mut [u8]) -> Result<()> {
        use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective, get_error_name};
        let codec = self.zstd.get_or_insert_with(DCtx::create);
        let wrong =
            |code| Error::corrupt(format!("a compressed cluster does not inflate: {}", get_error_name(code)));
        codec.reset(ResetDirective::SessionOnly).map_err(wrong)?;
        let len = out.len();
        let (mut source, mut target) = (InBuffer::around(input), OutBuffer::around(out));
        // Frame by frame until the cluster is full and the last frame is flushed.
        loop {
            let before = (source.pos(), target.pos());
            let left = codec.decompress_stream(&mut target, &mut source).map_err(wrong)?;
            if left == 0 && target.pos() == len {
                return Ok(());
            }
            if before == (source.pos(), target.pos()) {
                return exact(target.pos(), len)
                    .and(Err(Error::corrupt("a compressed cluster has too many bytes")));
            }
        }
    }
}

fn exact(len: usize, expected: usize) -> Result<()> {
    if len == expected {
        return Ok(());
    }
    Err(Error::corrupt(format!("a compressed cluster inflates to {len} bytes instead of {expected}")))
}

fn failed(error: &DecompressionError) -> Error {
    match error {
        DecompressionError::BadData => Error::corrupt("a compressed grain does not inflate"),
        DecompressionError::InsufficientSpace => Error::corrupt("a compressed grain has too many bytes"),
    }
}
