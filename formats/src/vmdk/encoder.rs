//! Compressing single grains of a stream; contract 3.3.

use crate::{
    Encoder, Error, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::{DeflateEncoder, DeflateSpec},
    num::{to_u64, to_usize},
    vmdk::{
        GRAIN_LEN,
        marker::{GRAIN_MARKER_LEN, padded_grain_len},
    },
};

/// Makes grains: marker, zlib stream, padding to a sector. The payload is all of that; what counts
/// in the shape is the length of the stream, from which the rest follows.
pub(super) struct GrainEncoder {
    deflate: Box<dyn DeflateEncoder>,
}

impl GrainEncoder {
    /// A new encoder.
    ///
    /// # Errors
    /// The codec cannot be set up.
    pub(super) fn new(spec: &DeflateSpec) -> Result<Self> {
        Ok(Self { deflate: spec.encoder()? })
    }
}

impl Encoder for GrainEncoder {
    fn max_encoded_len(&self) -> usize {
        to_usize(padded_grain_len(to_u64(MAX_STREAM_LEN)))
    }

    fn encode(&mut self, guest_offset: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<UnitShape> {
        if to_u64(unit.len()) != GRAIN_LEN || !guest_offset.is_multiple_of(GRAIN_LEN) {
            return Err(Error::invalid_input(format!(
                "{} bytes at guest offset {guest_offset:#x} are not a grain",
                unit.len()
            )));
        }
        let start = out.len();
        let stream_start = start + GRAIN_MARKER_LEN;
        out.resize(stream_start + MAX_STREAM_LEN, 0);
        let len = match self.deflate.compress(unit, &mut out[stream_start..])? {
            Some(len) => len,
            // Never left uncompressed: importers inflate every grain.
            None => store(unit, &mut out[stream_start..]),
        };
        let stream_len = u32::try_from(len).expect("a stream is a few bytes longer than a grain at most");
        out[start..start + 8].copy_from_slice(&(guest_offset / SECTOR_LEN).to_le_bytes());
        out[start + 8..stream_start].copy_from_slice(&stream_len.to_le_bytes());
        let end = start + to_usize(padded_grain_len(u64::from(stream_len)));
        out.truncate(stream_start + len);
        out.resize(end, 0);
        Ok(UnitShape::Compressed(stream_len))
    }
}

/// A zlib stream of stored blocks (RFC 1950 and 1951, 3.2.4) into the front of `out`; its length.
fn store(unit: &[u8], out: &mut [u8]) -> usize {
    // Window of 32 KiB, no dictionary, fastest level; the two bytes are a multiple of 31.
    out[..2].copy_from_slice(&[0x78, 0x01]);
    let mut at = 2;
    let mut blocks = unit.chunks(STORED_BLOCK_LEN).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).expect("a stored block has at most 65535 bytes");
        out[at] = u8::from(blocks.peek().is_none());
        out[at + 1..at + 3].copy_from_slice(&len.to_le_bytes());
        out[at + 3..at + 5].copy_from_slice(&(!len).to_le_bytes());
        out[at + 5..at + 5 + block.len()].copy_from_slice(block);
        at += 5 + block.len();
    }
    out[at..at + 4].copy_from_slice(&adler32(unit).to_be_bytes());
    at + 4
}

/// Adler-32 (RFC 1950, section 8).
fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1_u32, 0_u32);
    // As many bytes as the sums take without overflow.
    for part in bytes.chunks(5552) {
        for &byte in part {
            a += u32::from(byte);
            b += a;
        }
        (a, b) = (a % 65521, b % 65521);
    }
    b << 16 | a
}

/// Most bytes in a stored block.
const STORED_BLOCK_LEN: usize = 65_535;

/// Bytes of the longest stream: two stored blocks with their headers, zlib's header and checksum.
const MAX_STREAM_LEN: usize = 65_536 + 2 * 5 + 2 + 4;
