//! Compressing single grains; contract 3.3.

use crate::{
    Encoded, Encoder, Error, Result,
    chunk::{SECTOR_LEN, UnitShape},
    deflate::{DeflateEncoder, DeflateSpec},
    num::{to_u64, to_usize},
    room,
    vmdk::{marker, tables::GRAIN_LEN},
};

/// Makes what a streamOptimized file holds of a grain: marker, zlib stream, padding to a sector.
/// The shape names the length of the stream alone.
pub(super) struct GrainEncoder {
    codec: Box<dyn DeflateEncoder>,
}

impl GrainEncoder {
    /// A new encoder.
    ///
    /// # Errors
    /// The codec cannot be set up.
    pub(super) fn new(spec: &DeflateSpec) -> Result<Self> {
        Ok(Self { codec: spec.encoder()? })
    }
}

impl Encoder for GrainEncoder {
    fn max_encoded_len(&self) -> usize {
        (marker::GRAIN_LEN + STORED_LEN).next_multiple_of(to_usize(SECTOR_LEN))
    }

    fn encode(&mut self, guest_offset: u64, unit: &[u8], out: &mut [u8]) -> Result<Encoded> {
        if unit.len() != GRAIN_LEN || !guest_offset.is_multiple_of(to_u64(GRAIN_LEN)) {
            return Err(Error::invalid_input(format!(
                "{} bytes at guest offset {guest_offset:#x} are not a grain of {GRAIN_LEN}",
                unit.len()
            )));
        }
        let out = room(out, self.max_encoded_len())?;
        let stream = &mut out[marker::GRAIN_LEN..][..STORED_LEN];
        // There are no plain grains between compressed ones: what does not shrink is a zlib stream
        // of stored blocks, never longer than the room there is.
        let stream_len = match self.codec.compress(unit, stream)? {
            Some(len) => len,
            None => {
                store(unit, stream);
                STORED_LEN
            }
        };
        let shape_len = u32::try_from(stream_len).expect("no more than the room for it");
        out[..marker::GRAIN_LEN].copy_from_slice(&marker::grain(guest_offset / SECTOR_LEN, shape_len));
        let len = to_usize(padded_len(shape_len));
        out[marker::GRAIN_LEN + stream_len..len].fill(0);
        Ok(Encoded { shape: UnitShape::Compressed(shape_len), len })
    }
}

/// Bytes of file that a grain takes whose zlib stream has `len` bytes.
pub(super) fn padded_len(len: u32) -> u64 {
    (to_u64(marker::GRAIN_LEN) + u64::from(len)).next_multiple_of(SECTOR_LEN)
}

/// Writes `unit` into `out`, which is exactly [`STORED_LEN`], as a zlib stream of stored blocks.
fn store(unit: &[u8], out: &mut [u8]) {
    let mut stream = Vec::with_capacity(out.len());
    // Deflate, window 32 KiB, fastest; the two bytes are a multiple of 31 (RFC 1950, 2.2).
    stream.extend_from_slice(&[0x78, 0x01]);
    let blocks = unit.chunks(MAX_STORED_BLOCK);
    let last = blocks.len().saturating_sub(1);
    for (index, block) in blocks.enumerate() {
        let len = u16::try_from(block.len()).expect("cut to fit");
        stream.push(u8::from(index == last));
        stream.extend_from_slice(&len.to_le_bytes());
        stream.extend_from_slice(&(!len).to_le_bytes());
        stream.extend_from_slice(block);
    }
    stream.extend_from_slice(&libdeflater::adler32(unit).to_be_bytes());
    out.copy_from_slice(&stream);
}

/// Most bytes of a stored block (RFC 1951, 3.2.4).
const MAX_STORED_BLOCK: usize = 65_535;

/// Bytes of a grain that is stored: zlib header, five bytes for each block, Adler-32. A sector more
/// than a grain, and far less than the two grains that readers accept.
const STORED_LEN: usize = 2 + 5 * GRAIN_LEN.div_ceil(MAX_STORED_BLOCK) + GRAIN_LEN + 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        codec::Decoder,
        deflate::{Level, Wrapper},
        testkit::Rng,
        vmdk::reader::grain_stream,
    };

    /// Claims that nothing ever fits.
    struct Refusing;

    impl DeflateEncoder for Refusing {
        fn compress(&mut self, _input: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
            out.fill(0xee);
            Ok(None)
        }
    }

    fn grains() -> Vec<Vec<u8>> {
        let mut noise = vec![0; GRAIN_LEN];
        Rng::new(3).fill(&mut noise);
        let mut half = noise.clone();
        half[..GRAIN_LEN / 2].fill(7);
        vec![
            noise,
            half,
            vec![1; GRAIN_LEN],
            b"grain of text. ".iter().copied().cycle().take(GRAIN_LEN).collect(),
        ]
    }

    #[test]
    fn every_grain_is_a_marker_a_zlib_stream_and_zeros_to_the_sector() {
        let mut levels: Vec<Level> = (1..=9).map(Level::Number).collect();
        levels.extend([Level::Fast, Level::Best]);
        let mut encoders: Vec<GrainEncoder> = levels
            .into_iter()
            .map(|level| GrainEncoder::new(&DeflateSpec::new(Wrapper::Zlib, level).unwrap()).unwrap())
            .collect();
        encoders.push(GrainEncoder { codec: Box::new(Refusing) });
        for encoder in &mut encoders {
            let mut out = vec![0xcc; encoder.max_encoded_len() + 5];
            for (index, grain) in grains().iter().enumerate() {
                let guest = (to_u64(index) + (1 << 30)) << 16;
                let encoded = encoder.encode(guest, grain, &mut out).unwrap();
                let UnitShape::Compressed(len) = encoded.shape else { panic!("{encoded:?}") };
                let payload = &out[..encoded.len];
                assert_eq!(to_u64(payload.len()), padded_len(len));
                assert!(payload.len() <= encoder.max_encoded_len());
                assert_eq!(out[encoder.max_encoded_len()..], [0xcc; 5]);
                assert!(payload[12 + len as usize..].iter().all(|&byte| byte == 0));
                let stream = grain_stream(payload, guest / 512).unwrap();
                assert_eq!(stream.len(), len as usize);
                let mut back = vec![0; GRAIN_LEN];
                Decoder::new().inflate_zlib(stream, &mut back).unwrap();
                assert!(back == *grain);
            }
        }
    }

    #[test]
    fn what_is_no_grain_or_has_no_room_is_refused() {
        let spec = DeflateSpec::new(Wrapper::Zlib, Level::Fast).unwrap();
        let mut encoder = GrainEncoder::new(&spec).unwrap();
        let mut out = vec![0; encoder.max_encoded_len()];
        assert!(encoder.encode(0, &[1; 512], &mut out).is_err());
        assert!(encoder.encode(512, &[1; GRAIN_LEN], &mut out).is_err());
        let short = out.len() - 1;
        assert!(encoder.encode(0, &[1; GRAIN_LEN], &mut out[..short]).is_err());
        encoder.encode(0, &[1; GRAIN_LEN], &mut out).unwrap();
    }
}
