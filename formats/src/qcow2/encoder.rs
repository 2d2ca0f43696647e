//! Compressing single clusters; contract 1.6.

use std::ops::RangeInclusive;

use zstd::zstd_safe::{
    CCtx, CParameter, ResetDirective, get_error_name, is_error_kind, version_string, zstd_sys::ZSTD_ErrorCode,
};

use crate::{
    Compression, Encoded, Encoder, Error, Result,
    chunk::UnitShape,
    deflate::{DeflateEncoder, DeflateSpec, Level, Wrapper},
    qcow2::header,
    room,
};

/// Which codec a compression and a level stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CodecSpec {
    /// Raw deflate with a 4 KiB window.
    Deflate(DeflateSpec),
    /// Clusters as they are.
    None,
    /// Zstandard at this level.
    Zstd(u8),
    /// Zstandard at level 1, with parameters that suit single clusters.
    ZstdFast,
}

impl CodecSpec {
    /// Chooses the codec.
    ///
    /// # Errors
    /// The codec has no such level.
    pub(super) fn new(compression: Compression, level: Level) -> Result<Self> {
        match compression {
            Compression::Deflate => Ok(Self::Deflate(DeflateSpec::new(Wrapper::Raw4KiB, level)?)),
            Compression::None => Ok(Self::None),
            Compression::Zstd => match level {
                Level::Fast | Level::Default => Ok(Self::ZstdFast),
                Level::Best => Ok(Self::Zstd(MAX_ZSTD_LEVEL)),
                Level::Number(level @ 1..=MAX_ZSTD_LEVEL) => Ok(Self::Zstd(level)),
                Level::Number(level) => {
                    Err(Error::invalid_input(format!("zstd has the levels 1-19, not {level}")))
                }
            },
        }
    }

    /// Name, library version, level and CPU class.
    pub(super) fn identity(self) -> String {
        match self {
            Self::Deflate(spec) => spec.identity(),
            Self::None => "none".into(),
            Self::Zstd(level) => format!("zstd/{}/level{level}", version_string()),
            Self::ZstdFast => format!("zstd/{}/fast", version_string()),
        }
    }

    /// What the header says of it.
    pub(super) fn compression_type(self) -> u8 {
        match self {
            Self::Deflate(_) | Self::None => header::DEFLATE,
            Self::Zstd(_) | Self::ZstdFast => header::ZSTD,
        }
    }

    /// A new encoder of clusters of `cluster_len` bytes, unless they are stored as they are.
    ///
    /// # Errors
    /// The codec cannot be set up.
    pub(super) fn encoder(self, cluster_len: usize) -> Result<Option<Box<dyn Encoder>>> {
        let codec = match self {
            Self::Deflate(spec) => Codec::Deflate(spec.encoder()?),
            Self::None => return Ok(None),
            Self::Zstd(level) => Codec::Zstd(zstd_context(&[CParameter::CompressionLevel(level.into())])?),
            Self::ZstdFast if FAST_CLUSTERS.contains(&cluster_len) => Codec::Zstd(zstd_context(&FAST)?),
            Self::ZstdFast => Codec::Zstd(zstd_context(&FAST[..1])?),
        };
        Ok(Some(Box::new(ClusterEncoder { codec, cluster_len })))
    }
}

/// Compresses clusters, each on its own.
struct ClusterEncoder {
    codec: Codec,
    cluster_len: usize,
}

enum Codec {
    Deflate(Box<dyn DeflateEncoder>),
    Zstd(CCtx<'static>),
}

impl Encoder for ClusterEncoder {
    fn max_encoded_len(&self) -> usize {
        self.cluster_len
    }

    fn encode(&mut self, guest_offset: u64, unit: &[u8], out: &mut [u8]) -> Result<Encoded> {
        if unit.len() != self.cluster_len {
            return Err(Error::invalid_input(format!(
                "{} bytes at guest offset {guest_offset:#x} are not a cluster of {}",
                unit.len(),
                self.cluster_len
            )));
        }
        // A stream as long as a cluster is worth nothing, so the codec gets one byte less: then
        // 'does not fit' and 'does not help' are the same answer.
        let Some(len) = self.codec.compress(unit, room(out, unit.len() - 1)?)? else {
            return Ok(Encoded::PLAIN);
        };
        let stream = u32::try_from(len).expect("a cluster has at most 2 MiB, and its stream is shorter");
        Ok(Encoded { shape: UnitShape::Compressed(stream), len })
    }
}

impl Codec {
    /// Compresses into the front of `out`: the length, or `None` if it does not fit.
    fn compress(&mut self, unit: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        match self {
            Self::Deflate(encoder) => encoder.compress(unit, out),
            Self::Zstd(context) => {
                context.reset(ResetDirective::SessionOnly).map_err(zstd_failed)?;
                match context.compress2(out, unit) {
                    Ok(len) => Ok(Some(len)),
                    Err(code) if is_error_kind(code, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) => Ok(None),
                    Err(code) => Err(zstd_failed(code)),
                }
            }
        }
    }
}

fn zstd_context(parameters: &[CParameter]) -> Result<CCtx<'static>> {
    let mut context = CCtx::try_create().ok_or_else(|| Error::limit("no memory for a zstd context"))?;
    for &parameter in parameters {
        context.set_parameter(parameter).map_err(zstd_failed)?;
    }
    Ok(context)
}

fn zstd_failed(code: usize) -> Error {
    Error::invalid_input(format!("zstd failed: {}", get_error_name(code)))
}

/// Level 1, but with a hash table that leaves room in the first cache for the cluster, and matches
/// that are worth their codes: 7 % faster on a system disk, for 2 % more output.
const FAST: [CParameter; 3] =
    [CParameter::CompressionLevel(1), CParameter::MinMatch(7), CParameter::HashLog(12)];

/// Lengths of clusters for which that was measured to be so: shorter ones find little with it, and
/// for longer ones level 1 has similar parameters by itself.
const FAST_CLUSTERS: RangeInclusive<usize> = (32 << 10)..=(128 << 10);

/// Higher levels need windows that readers may refuse.
const MAX_ZSTD_LEVEL: u8 = 19;
