//! Streams that are the disk as it is.

use super::{Input, Unpack};
use crate::error::Result;

/// Copies.
#[derive(Debug)]
pub(in crate::source) struct Raw;

impl Unpack for Raw {
    fn unpack(&mut self, input: &mut dyn Input, out: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match input.read(&mut out[done..])? {
                0 => break,
                len => done += len,
            }
        }
        Ok(done)
    }
}
