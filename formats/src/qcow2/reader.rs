//! The QCOW2 reader.
use crate::{OpenReader, OpenStep, ReaderPolicy, Result, plan::Need};

/// A QCOW2 image on its way to being open.
#[derive(Debug)]
pub struct Qcow2Opener {}

impl Qcow2Opener {
    /// Starts to open an image whose file has `len` bytes.
    pub fn new(_len: u64, _policy: &ReaderPolicy) -> Self {
        Self {}
    }
}

impl OpenReader for Qcow2Opener {
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
