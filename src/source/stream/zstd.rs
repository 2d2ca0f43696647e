//! Zstandard streams (RFC 8878): any number of frames, skippable ones included, checksums verified
//! where a frame has one.

use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::{Input, Unpack, input::broken};
use crate::error::{Error, Result};

/// Inflates zstd.
pub(in crate::source) struct Zstd {
    decoder: Decoder<'static>,
    /// At least one frame has come.
    begun: bool,
    /// Behind a frame, all of its bytes given out.
    between: bool,
}

impl Zstd {
    /// A decoder at the start of a stream.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(in crate::source) fn new() -> Result<Self> {
        let wrong = |error| Error::failed("cannot set up a zstd decoder").with_source(error);
        let mut decoder = Decoder::new().map_err(wrong)?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(wrong)?;
        Ok(Self { decoder, begun: false, between: false })
    }
}

impl Unpack for Zstd {
    fn unpack(&mut self, input: &mut dyn Input, out: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < out.len() {
            let encoded = input.fill()?;
            if encoded.is_empty() && (self.between || !self.begun) {
                return if self.begun { Ok(done) } else { Err(input.cut_short("zstd")) };
            }
            let at_end = encoded.is_empty();
            self.begun = true;
            let step = self
                .decoder
                .run_on_buffers(encoded, &mut out[done..])
                .map_err(|error| broken(input.origin(), "zstd", input.taken()).with_source(error))?;
            self.between = step.remaining == 0;
            input.consume(step.bytes_read);
            done += step.bytes_written;
            if step.bytes_read + step.bytes_written == 0 && !self.between {
                let cut = if at_end {
                    input.cut_short("zstd")
                } else {
                    broken(input.origin(), "zstd", input.taken())
                };
                return Err(cut);
            }
        }
        Ok(done)
    }
}

/// The largest window accepted, 128 MiB: what the decoders of others take unasked, `zstd --ultra
/// -22` included. The memory is taken when a frame asks for it.
const WINDOW_LOG_MAX: u32 = 27;
