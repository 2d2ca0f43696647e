//! Deflate behind one small trait, with two encoders.
//!
//! | encoder | when | what for |
//! |---|---|---|
//! | ISA-L | feature `isal`, levels 1-3 | both wrappers; about ten times as fast as zlib |
//! | libdeflate | otherwise | zlib streams (VMDK grains): its window cannot be limited |
//! | zlib-rs | otherwise | raw deflate with the 4 KiB window that QCOW2 readers rely on |
//!
//! All of them make valid streams; the bytes differ, so a journal names the encoder
//! ([`DeflateSpec::identity`]). [`gzip::GzipDecoder`] is the streaming inflater.

pub mod gzip;
#[cfg(feature = "isal")]
mod isal;
mod portable;
mod sift;

use std::{fmt, str::FromStr};

use crate::error::{Error, Result};

/// How hard to compress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Level {
    /// As small as the codec can.
    Best,
    /// The same as [`Level::Fast`]: a stream should not wait for its encoder.
    #[default]
    Default,
    /// The fastest level that compresses.
    Fast,
    /// Deflate 1-9, zstd 1-19.
    Number(u8),
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            // The two are the same level.
            Self::Default | Self::Fast => f.write_str("fast"),
            Self::Number(level) => write!(f, "{level}"),
        }
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "best" => Ok(Self::Best),
            "default" => Ok(Self::Default),
            "fast" => Ok(Self::Fast),
            _ => match text.parse() {
                Ok(level @ 1..=19) => Ok(Self::Number(level)),
                _ => Err(Error::invalid_input(format!(
                    "unknown compression level {text:?} (fast, default, best, 1-19)"
                ))),
            },
        }
    }
}

/// What stands around the deflate blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrapper {
    /// Nothing (RFC 1951), distances of at most 4 KiB: QCOW2 clusters, formats contract 1.6.
    Raw4KiB,
    /// zlib (RFC 1950), window 32 KiB: VMDK grains, formats contract 3.3.
    Zlib,
}

/// Which encoder a wrapper and a level stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateSpec {
    wrapper: Wrapper,
    choice: Choice,
    /// Blocks that look like noise are not tried.
    sifts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    #[cfg(feature = "isal")]
    Isal(u8),
    Libdeflate(u8),
    ZlibRs(u8),
}

impl Choice {
    fn is_portable(self) -> bool {
        matches!(self, Self::Libdeflate(_) | Self::ZlibRs(_))
    }
}

impl DeflateSpec {
    /// Chooses the encoder.
    ///
    /// # Errors
    /// A numbered level outside 1-9.
    pub fn new(wrapper: Wrapper, level: Level) -> Result<Self> {
        let portable = |libdeflate, zlib_rs| match wrapper {
            Wrapper::Raw4KiB => Choice::ZlibRs(zlib_rs),
            Wrapper::Zlib => Choice::Libdeflate(libdeflate),
        };
        let choice = match level {
            #[cfg(feature = "isal")]
            Level::Fast | Level::Default => Choice::Isal(1),
            #[cfg(feature = "isal")]
            Level::Number(level @ 1..=3) => Choice::Isal(level),
            #[cfg(not(feature = "isal"))]
            Level::Fast | Level::Default => portable(1, 3),
            Level::Best => portable(12, 9),
            Level::Number(level @ 1..=9) => portable(level, level),
            Level::Number(level) => {
                return Err(Error::invalid_input(format!("deflate has the levels 1-9, not {level}")));
            }
        };
        let sifts = matches!(level, Level::Fast | Level::Default) && choice.is_portable();
        Ok(Self { wrapper, choice, sifts })
    }

    /// A new encoder.
    ///
    /// # Errors
    /// The codec refuses its parameters.
    pub fn encoder(&self) -> Result<Box<dyn DeflateEncoder>> {
        Ok(match self.choice {
            #[cfg(feature = "isal")]
            Choice::Isal(level) => Box::new(isal::IsalEncoder::new(self.wrapper, level)),
            Choice::Libdeflate(level) => self.boxed(portable::LibdeflateEncoder::new(level)?),
            Choice::ZlibRs(level) => self.boxed(portable::ZlibRsEncoder::new(level)),
        })
    }

    fn boxed(&self, encoder: impl DeflateEncoder + 'static) -> Box<dyn DeflateEncoder> {
        if self.sifts { Box::new(sift::Sifting(encoder)) } else { Box::new(encoder) }
    }

    /// Name, library version, level and CPU class: what decides the bytes beside the input.
    pub fn identity(&self) -> String {
        let encoder = match self.choice {
            #[cfg(feature = "isal")]
            Choice::Isal(level) => format!("isa-l/2/level{level}/{}", cpu_class()),
            Choice::Libdeflate(level) => format!("libdeflate/1/level{level}"),
            Choice::ZlibRs(level) => format!("zlib-rs/0.6/level{level}/{}", cpu_class()),
        };
        if self.sifts { encoder + "/sifted" } else { encoder }
    }
}

/// Compresses single blocks, each on its own.
pub trait DeflateEncoder: Send {
    /// Compresses `input` into the front of `out` and returns the length of the stream, or `None`
    /// if it does not fit or is not worth it. What earlier calls compressed has no influence.
    ///
    /// # Errors
    /// The codec failed otherwise.
    fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Option<usize>>;
}

/// The instruction sets that codecs dispatch on; their output may differ between classes.
fn cpu_class() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512bw") {
            "x86-64-avx512"
        } else if std::arch::is_x86_feature_detected!("avx2") {
            "x86-64-avx2"
        } else {
            "x86-64"
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        std::env::consts::ARCH
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn inflate_raw_4kib(stream: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 1 << 20];
        let mut codec = flate2::Decompress::new_with_window_bits(false, 12);
        let status =
            codec.decompress(stream, &mut out, flate2::FlushDecompress::Finish).expect("valid stream");
        assert_eq!(status, flate2::Status::StreamEnd);
        out.truncate(usize::try_from(codec.total_out()).unwrap());
        out
    }

    fn inflate_zlib(stream: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::ZlibDecoder::new(stream).read_to_end(&mut out).expect("valid stream");
        out
    }

    /// Repetitions at distances on both sides of the 4 KiB window, random parts, runs.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..3000),
            (any::<u8>(), 1_usize..9000).prop_map(|(byte, len)| vec![byte; len]),
            (proptest::collection::vec(any::<u8>(), 16..64), 2_usize..300)
                .prop_map(|(word, times)| word.repeat(times)),
        ];
        (proptest::collection::vec(piece, 1..12), 1_usize..4)
            .prop_map(|(pieces, times)| pieces.concat().repeat(times))
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(len)
        .collect()
    }

    fn specs() -> Vec<DeflateSpec> {
        let levels = [Level::Fast, Level::Best].into_iter().chain((1..=9).map(Level::Number));
        let wrappers = [Wrapper::Raw4KiB, Wrapper::Zlib];
        levels.flat_map(|level| wrappers.map(|wrapper| DeflateSpec::new(wrapper, level).unwrap())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn every_encoder_is_read_back_by_an_inflater_of_its_window(input in input()) {
            for spec in specs() {
                let mut out = vec![0; input.len() * 2 + 1024];
                let len = spec.encoder().unwrap().compress(&input, &mut out).unwrap().unwrap();
                let back = match spec.wrapper {
                    Wrapper::Raw4KiB => inflate_raw_4kib(&out[..len]),
                    Wrapper::Zlib => inflate_zlib(&out[..len]),
                };
                prop_assert!(back == input, "{}", spec.identity());
            }
        }

        #[test]
        fn earlier_input_leaves_no_trace(first in input(), second in input()) {
            for spec in specs() {
                let (mut used, mut fresh) = (spec.encoder().unwrap(), spec.encoder().unwrap());
                let mut a = vec![0; second.len() * 2 + 1024];
                let mut b = a.clone();
                used.compress(&first, &mut vec![0; first.len() / 3]).unwrap();
                used.compress(&first, &mut vec![0; first.len() * 2 + 1024]).unwrap();
                let len = used.compress(&second, &mut a).unwrap().unwrap();
                prop_assert_eq!(fresh.compress(&second, &mut b).unwrap(), Some(len), "{}", spec.identity());
                prop_assert!(a[..len] == b[..len], "{}", spec.identity());
            }
        }
    }

    #[test]
    fn the_bytes_do_not_depend_on_where_an_encoder_lies() {
        let bytes = noise(64 * 4096);
        // The first bytes come again: whether they are found must not be chance.
        let blocks: Vec<Vec<u8>> = bytes
            .chunks_exact(64)
            .map(|block| [&block[..12], &block[20..], &block[..12], &[0; 600], &block[1..9]].concat())
            .collect();
        for spec in specs() {
            let count = 20;
            let mut encoders: Vec<_> = (0..count).map(|_| spec.encoder().unwrap()).collect();
            let mut out = [vec![0; 2048], vec![0; 2048]];
            for (index, block) in blocks.iter().enumerate() {
                let mut encode = |encoder: usize, out: usize, outs: &mut [Vec<u8>; 2]| {
                    encoders[encoder].compress(block, &mut outs[out]).unwrap().unwrap()
                };
                let first = encode(0, 0, &mut out);
                let other = 1 + index % (count - 1);
                let second = encode(other, 1, &mut out);
                assert!(out[0][..first] == out[1][..second], "block {index}, {}", spec.identity());
            }
        }
    }

    #[test]
    fn any_number_of_misfits_in_a_row_is_survived() {
        let noise = noise(65536);
        for spec in specs() {
            let (mut encoder, mut out) = (spec.encoder().unwrap(), vec![0; noise.len()]);
            for room in (1..64).map(|step| step * 1000) {
                let identity = spec.identity();
                assert_eq!(encoder.compress(&noise, &mut out[..room]).unwrap(), None, "{identity}");
            }
        }
    }

    #[test]
    fn incompressible_input_does_not_fit_into_less_than_its_length() {
        let noise = noise(65536);
        for spec in specs() {
            let mut out = vec![0; noise.len() - 1];
            assert_eq!(
                spec.encoder().unwrap().compress(&noise, &mut out).unwrap(),
                None,
                "{}",
                spec.identity()
            );
        }
    }
}
