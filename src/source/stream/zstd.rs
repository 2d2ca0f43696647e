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
    window_log: u32,
}

impl Zstd {
    /// A decoder at the start of a stream. Its window is a quarter of `memory` bytes at most, by default
    /// of 128 MiB.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(in crate::source) fn new(memory: Option<u64>) -> Result<Self> {
        let window = memory.unwrap_or(DEFAULT_MEMORY) / 4;
        let window_log = window.checked_ilog2().unwrap_or(0).clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
        let wrong = |error| Error::failed("cannot set up a zstd decoder").with_source(error);
        let mut decoder = Decoder::new().map_err(wrong)?;
        decoder.set_parameter(DParameter::WindowLogMax(window_log)).map_err(wrong)?;
        Ok(Self { decoder, begun: false, between: false, window_log })
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
            let step = match self.decoder.run_on_buffers(encoded, &mut out[done..]) {
                Ok(step) => step,
                Err(error) if error.to_string().contains(WINDOW_TOO_LARGE) => {
                    return Err(self.too_large(&input.origin().name));
                }
                Err(error) => return Err(broken(input.origin(), "zstd", input.taken()).with_source(error)),
            };
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

    fn memory(&self) -> u64 {
        1 << self.window_log
    }
}

impl Zstd {
    fn too_large(&self, name: &str) -> Error {
        let window = self.memory() >> 20;
        Error::refused(format!("{name} was packed with a window of more than {window} MiB"))
            .with_hint("zstd --long and --ultra make such streams: --memory 512MiB reads them")
    }
}

/// The largest window accepted, 128 MiB: what the decoders of others take unasked, `zstd --ultra
/// -22` included. The memory is taken when a frame asks for it.
const WINDOW_LOG_MAX: u32 = 27;

/// Every decoder must take 8 MiB (RFC 8878, 3.1.1.1.2).
const WINDOW_LOG_MIN: u32 = 23;

/// What a run may take if nothing is said.
const DEFAULT_MEMORY: u64 = 128 << 20;

/// What zstd says of a frame whose window is larger than the limit; it has no other sign of it.
const WINDOW_TOO_LARGE: &str = "too much memory";
