//! The VMDK reader.
use crate::{
    Error, OpenReader, OpenStep, ReaderPolicy, Result,
    plan::Need,
    vmdk::marker::{self, Marker},
};

/// A VMDK on its way to being open.
#[derive(Debug)]
pub struct VmdkOpener {}

impl VmdkOpener {
    /// Starts to open an image whose file has `len` bytes.
    pub fn new(_len: u64, _policy: &ReaderPolicy) -> Self {
        Self {}
    }
}

impl OpenReader for VmdkOpener {
    fn step(&mut self) -> Result<OpenStep> {
        unimplemented!()
    }
    fn supply(&mut self, _need: Need, _bytes: &[u8]) -> Result<()> {
        unimplemented!()
    }
    fn supply_extents(&mut self, _lens: &[u64]) -> Result<()> {
        unimplemented!()
    }
}

/// The zlib stream of the grain whose marker is at the front of `input`.
///
/// # Errors
/// The marker does not name `sector`, or its length does not fit.
pub fn grain_stream(input: &[u8], sector: u64) -> Result<&[u8]> {
    match Marker::parse(input) {
        Some(Marker::Grain { sector: named, len }) if named == sector => {
            let stream = &input[marker::GRAIN_LEN..];
            usize::try_from(len).ok().and_then(|len| stream.get(..len)).ok_or_else(|| {
                Error::corrupt(format!(
                    "the grain of sector {sector} has {len} compressed bytes, but there is room for {}",
                    stream.len()
                ))
            })
        }
        Some(Marker::Grain { sector: named, .. }) => {
            Err(Error::corrupt(format!("a grain says that it is that of sector {named}, not {sector}")))
        }
        Some(Marker::Metadata { .. }) => {
            Err(Error::corrupt(format!("no grain where that of sector {sector} should be")))
        }
        None => Err(Error::truncated(format!("the grain of sector {sector} is cut off"))),
    }
}
