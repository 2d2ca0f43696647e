//! gzip streams: any number of members, checksums verified.

use vmferry_formats::deflate::gzip::GzipDecoder;

use super::{Input, Unpack, input::broken};
use crate::error::Result;

/// Inflates gzip.
#[derive(Debug, Default)]
pub(in crate::source) struct Gzip {
    decoder: GzipDecoder,
}

impl Unpack for Gzip {
    fn unpack(&mut self, input: &mut dyn Input, out: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < out.len() {
            let encoded = input.fill()?;
            let at_end = encoded.is_empty();
            let step = self
                .decoder
                .inflate(encoded, &mut out[done..])
                .map_err(|error| broken(input.origin(), "gzip", input.taken()).with_source(error))?;
            input.consume(step.consumed);
            done += step.produced;
            if step.consumed + step.produced > 0 {
                continue;
            }
            if !at_end {
                return Err(broken(input.origin(), "gzip", input.taken()));
            }
            if !self.decoder.is_complete() {
                return Err(input.cut_short("gzip"));
            }
            break;
        }
        Ok(done)
    }
}
