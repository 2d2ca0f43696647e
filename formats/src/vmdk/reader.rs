//! The VMDK reader.
use crate::{OpenReader, OpenStep, ReaderPolicy, Result, plan::Need};

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
pub fn grain_stream(_input: &[u8], _sector: u64) -> Result<&[u8]> {
    unimplemented!()
}
