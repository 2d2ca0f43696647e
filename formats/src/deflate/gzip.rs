//! Streaming gzip (RFC 1952): any number of members, checksums verified.

use crate::error::{Error, Result};

/// What one call of [`GzipDecoder::inflate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflated {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
}

/// Inflates a gzip stream that arrives in pieces.
///
/// Members may follow each other (RFC 1952 section 2.2); zero bytes behind the last one are
/// padding. The stream is complete only where [`is_complete`](Self::is_complete) says so.
pub struct GzipDecoder {
    backend: Backend,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No byte seen.
    Start,
    /// Inside a member.
    Member,
    /// Behind a member whose checksum was right.
    Between,
    /// In zero padding behind the last member.
    Padding,
}

#[cfg(feature = "isal")]
type Backend = super::isal::IsalGzipInflater;
#[cfg(not(feature = "isal"))]
type Backend = PortableInflater;

impl std::fmt::Debug for GzipDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipDecoder").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for GzipDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl GzipDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self { backend: Backend::new(), state: State::Start }
    }

    /// Inflates from the front of `input` into the front of `out`, until one of them is used up.
    ///
    /// # Errors
    /// The stream is corrupt, or something that is not gzip follows a member.
    pub fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Result<Inflated> {
        let mut done = Inflated { consumed: 0, produced: 0 };
        while done.produced < out.len() {
            let rest = &input[done.consumed..];
            match (self.state, rest.first()) {
                (State::Start | State::Between, None) => break,
                (State::Between | State::Padding, Some(0)) => {
                    self.state = State::Padding;
                    done.consumed += rest.iter().take_while(|&&byte| byte == 0).count();
                    continue;
                }
                (State::Padding, None) => break,
                (State::Padding, Some(_)) => {
                    return Err(Error::corrupt("data behind the padding of a gzip stream"));
                }
                (State::Between, Some(&byte)) => {
                    if byte != MAGIC {
                        return Err(Error::corrupt("data that is not gzip follows a gzip member"));
                    }
                    self.backend.reset();
                    self.state = State::Member;
                }
                (State::Start, Some(_)) => self.state = State::Member,
                (State::Member, _) => {}
            }
            let (consumed, produced, ended) = self.backend.inflate(rest, &mut out[done.produced..])?;
            done.consumed += consumed;
            done.produced += produced;
            if ended {
                self.state = State::Between;
            } else if consumed == 0 && produced == 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Whether the stream may end here: behind a member, none begun.
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Between | State::Padding)
    }
}

/// First byte of a member.
const MAGIC: u8 = 0x1f;

/// zlib-rs; compiled for tests of the other backend too.
#[cfg(any(test, not(feature = "isal")))]
struct PortableInflater {
    codec: flate2::Decompress,
}

#[cfg(any(test, not(feature = "isal")))]
impl PortableInflater {
    fn new() -> Self {
        Self { codec: flate2::Decompress::new_gzip(15) }
    }

    #[cfg(not(feature = "isal"))]
    fn reset(&mut self) {
        *self = Self::new();
    }

    fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize, bool)> {
        let (consumed, produced) = (self.codec.total_in(), self.codec.total_out());
        let status = self
            .codec
            .decompress(input, out, flate2::FlushDecompress::None)
            .map_err(|error| Error::corrupt("not a valid gzip stream").with_source(error))?;
        let count =
            |after: u64, before: u64| usize::try_from(after - before).expect("counts bytes of a slice");
        Ok((
            count(self.codec.total_in(), consumed),
            count(self.codec.total_out(), produced),
            status == flate2::Status::StreamEnd,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(stream: &[u8], step_in: usize, step_out: usize) -> Result<(Vec<u8>, bool)> {
        let (mut decoder, mut at, mut all) = (GzipDecoder::new(), 0, Vec::new());
        let mut out = vec![0xaa; step_out];
        loop {
            let end = (at + step_in).min(stream.len());
            let done = decoder.inflate(&stream[at..end], &mut out)?;
            at += done.consumed;
            all.extend_from_slice(&out[..done.produced]);
            if done.produced == 0 && at == stream.len() {
                return Ok((all, decoder.is_complete()));
            }
            assert!(done.consumed + done.produced > 0 || end > at, "no progress");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn members_in_any_pieces_come_out_whole(
            members in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5000), 1..4),
            step_in in 1_usize..700,
            step_out in 1_usize..5000,
            padding in 0_usize..9,
        ) {
            let mut stream: Vec<u8> = members.iter().flat_map(|member| gzip(member)).collect();
            stream.resize(stream.len() + padding, 0);
            let (bytes, complete) = inflate(&stream, step_in, step_out).unwrap();
            prop_assert!(complete);
            prop_assert_eq!(bytes, members.concat());
        }

        #[test]
        fn a_cut_stream_is_never_complete(bytes in proptest::collection::vec(any::<u8>(), 0..4000), cut in 1_usize..200) {
            let stream = gzip(&bytes);
            let cut = cut.min(stream.len());
            let (_, complete) = inflate(&stream[..stream.len() - cut], 97, 1000).unwrap();
            prop_assert!(!complete);
        }

        #[test]
        fn both_backends_agree(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let stream = gzip(&bytes);
            let mut out = vec![0; 8000];
            let (_, len, ended) = PortableInflater::new().inflate(&stream, &mut out).unwrap();
            prop_assert!(ended);
            prop_assert_eq!(&inflate(&stream, 8000, 8000).unwrap().0, &out[..len]);
        }
    }

    #[test]
    fn a_wrong_checksum_is_an_error() {
        let mut stream = gzip(b"some content of a disk");
        let crc = stream.len() - 8;
        stream[crc] ^= 1;
        assert!(inflate(&stream, 1000, 1000).is_err());
    }

    /// Found by fuzzing: ISA-L reports more input left than there was.
    #[test]
    fn an_invalid_symbol_near_the_end_is_an_error() {
        let stream = [
            0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 4, 0xff, 0x62, 0x18, 5, 0x1f, 0x8b, 8, 0, 0xba, 0x7f, 0, 0x1f,
            0x7e, 0x8b, 8, 8, 0x50, 0x7c, 0, 0, 0x63, 0x1f, 0xf1, 0x56,
        ];
        for step_in in 1..=stream.len() {
            assert!(inflate(&stream, step_in, 65_536).is_err(), "{step_in} bytes at a time");
        }
    }

    /// Found by fuzzing: ISA-L refuses the header's checksum if the header comes in pieces.
    #[test]
    fn a_header_with_every_field_may_come_in_pieces() {
        // Checksum, extra field, name and comment (RFC 1952 section 2.3.1), then "vmferry" stored.
        let mut member = vec![0x1f, 0x8b, 8, 0b1_1110, 0, 0, 0, 0, 0, 3, 5, 0];
        member.extend_from_slice(b"ab\x01\0xname\0comment\0");
        let mut crc = flate2::Crc::new();
        crc.update(&member);
        member.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
        let header_len = member.len();
        member.extend_from_slice(&[1, 7, 0, 0xf8, 0xff]);
        member.extend_from_slice(b"vmferry");
        let mut crc = flate2::Crc::new();
        crc.update(b"vmferry");
        member.extend_from_slice(&crc.sum().to_le_bytes());
        member.extend_from_slice(&7_u32.to_le_bytes());
        let two = [&member[..], &member].concat();
        for step_in in 1..=two.len() {
            let (bytes, complete) = inflate(&two, step_in, 5).unwrap();
            assert!(complete && bytes == b"vmferryvmferry", "{step_in} bytes at a time");
        }
        for cut in 1..member.len() {
            assert!(!inflate(&member[..cut], 3, 100).unwrap().1, "{cut} bytes of it");
        }
        for byte in 3..header_len {
            let mut wrong = member.clone();
            wrong[byte] ^= 1;
            let whole = inflate(&wrong, 1000, 100).ok();
            assert_eq!(inflate(&wrong, 4, 100).ok(), whole, "byte {byte} changed");
        }
    }

    #[test]
    fn garbage_behind_a_member_is_an_error() {
        let mut stream = gzip(b"some content of a disk");
        stream.push(7);
        assert!(inflate(&stream, 1000, 1000).is_err());
    }
}
