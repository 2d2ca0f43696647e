//! ISA-L, the one place of this crate that calls C without a safe wrapper.
//!
//! Invariants: the C side reads `avail_in` bytes at `next_in` and writes at most `avail_out` bytes
//! at `next_out`, both set from slices that outlive the call and cleared after it; the level buffer
//! is owned by the encoder, as long as the stream that points at it, and never moves.
#![expect(unsafe_code, reason = "ISA-L has a C interface")]

use std::ptr::null_mut;

use isal_sys::igzip_lib as c;

use super::{DeflateEncoder, Wrapper};
use crate::error::{Error, Result};

/// One-shot deflate by `isal_deflate_stateless`.
pub(super) struct IsalEncoder {
    stream: Box<c::isal_zstream>,
    level_buf: Vec<u8>,
    wrapper: Wrapper,
    level: u32,
}

// SAFETY: the raw pointers in the stream point into `level_buf`, which moves along, or are null
// between calls; ISA-L has no thread-local or global state but its read-only dispatch table.
unsafe impl Send for IsalEncoder {}

impl IsalEncoder {
    /// `level` is 1-3.
    pub(super) fn new(wrapper: Wrapper, level: u8) -> Self {
        let level_buf_len = match level {
            1 => c::ISAL_DEF_LVL1_DEFAULT,
            2 => c::ISAL_DEF_LVL2_DEFAULT,
            _ => c::ISAL_DEF_LVL3_DEFAULT,
        };
        let level_buf = vec![0; usize::try_from(level_buf_len).expect("a constant below 1 MiB")];
        // SAFETY: isal_zstream is plain C data (integers, arrays, pointers): all zeros is a value.
        let stream = unsafe { Box::<c::isal_zstream>::new_zeroed().assume_init() };
        Self { stream, level_buf, wrapper, level: level.into() }
    }
}

impl DeflateEncoder for IsalEncoder {
    fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        let too_long = |_| Error::invalid_input("a deflate block is shorter than 4 GiB");
        let avail_in = u32::try_from(input.len()).map_err(too_long)?;
        let avail_out = u32::try_from(out.len()).map_err(too_long)?;
        let stream = &mut *self.stream;
        // SAFETY: the stream is a valid, exclusively borrowed isal_zstream.
        unsafe { c::isal_deflate_stateless_init(stream) };
        stream.level = self.level;
        stream.level_buf = self.level_buf.as_mut_ptr();
        stream.level_buf_size = u32::try_from(self.level_buf.len()).map_err(too_long)?;
        stream.end_of_stream = 1;
        (stream.gzip_flag, stream.hist_bits) = match self.wrapper {
            Wrapper::Raw4KiB => (RAW_FLAG, 12),
            Wrapper::Zlib => (ZLIB_FLAG, 15),
        };
        stream.next_in = input.as_ptr().cast_mut();
        stream.avail_in = avail_in;
        stream.next_out = out.as_mut_ptr();
        stream.avail_out = avail_out;
        // SAFETY: next_in/avail_in and next_out/avail_out describe the two slices, level_buf the
        // encoder's own buffer; all live until the call returns, and ISA-L only reads the input.
        let status = unsafe { c::isal_deflate_stateless(stream) };
        let len = stream.total_out;
        stream.next_in = null_mut();
        stream.next_out = null_mut();
        match status {
            OK => Ok(Some(usize::try_from(len).map_err(too_long)?)),
            c::STATELESS_OVERFLOW => Ok(None),
            other => Err(Error::corrupt(format!("ISA-L deflate failed with code {other}"))),
        }
    }
}

/// Streaming gzip inflate by `isal_inflate`.
pub(super) struct IsalGzipInflater {
    state: Box<c::inflate_state>,
    /// The front of a member's header, until the rest of it comes: ISA-L 2.30 loses the header's
    /// checksum between calls, so it gets headers whole.
    header: Vec<u8>,
}

// SAFETY: as for IsalEncoder; between calls the state holds no pointer that is used again.
unsafe impl Send for IsalGzipInflater {}

impl IsalGzipInflater {
    pub(super) fn new() -> Self {
        // SAFETY: inflate_state is plain C data: all zeros is a value.
        let mut state = unsafe { Box::<c::inflate_state>::new_zeroed().assume_init() };
        // SAFETY: a valid, exclusively borrowed inflate_state.
        unsafe { c::isal_inflate_init(&mut *state) };
        state.crc_flag = c::ISAL_GZIP;
        Self { state, header: Vec::new() }
    }

    /// Ready for the next member.
    pub(super) fn reset(&mut self) {
        // SAFETY: a valid, exclusively borrowed inflate_state.
        unsafe { c::isal_inflate_reset(&mut *self.state) };
        self.state.crc_flag = c::ISAL_GZIP;
    }

    /// Inflates from `input` to `out`: bytes consumed, bytes produced, whether the member ended
    /// with a good checksum.
    pub(super) fn inflate(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize, bool)> {
        if self.in_member() {
            return self.run(input, out);
        }
        let earlier = self.header.len();
        let taken = input.len().min(MAX_HEADER_LEN - earlier);
        let done = if earlier == 0 {
            self.run(input, out)?
        } else {
            let mut header = std::mem::take(&mut self.header);
            header.extend_from_slice(&input[..taken]);
            self.reset();
            let done = self.run(&header, out);
            self.header = header;
            done?
        };
        if self.in_member() {
            self.header.clear();
            let (consumed, produced, ended) = done;
            let consumed = consumed.checked_sub(earlier).ok_or_else(miscounted)?;
            return Ok((consumed, produced, ended));
        }
        if taken < input.len() {
            return Err(Error::corrupt("the header of a gzip member is too long"));
        }
        if earlier == 0 {
            self.header.extend_from_slice(input);
        }
        Ok((taken, 0, false))
    }

    /// Whether the header of the member is behind.
    fn in_member(&self) -> bool {
        self.state.wrapper_flag != 0
    }

    fn run(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize, bool)> {
        let (input_len, out_len) = (clamp(input.len()), clamp(out.len()));
        let state = &mut *self.state;
        state.next_in = input.as_ptr().cast_mut();
        state.avail_in = input_len;
        state.next_out = out.as_mut_ptr();
        state.avail_out = out_len;
        // SAFETY: next_in/avail_in and next_out/avail_out describe the front of the two slices,
        // which live until the call returns; ISA-L only reads the input.
        let status = unsafe { c::isal_inflate(state) };
        state.next_in = null_mut();
        state.next_out = null_mut();
        // What is left means nothing after an error: ISA-L gives back bits that it never had.
        if status != OK {
            return Err(Error::corrupt(format!("not a valid gzip stream (ISA-L code {status})")));
        }
        let used = |before: u32, left: u32| {
            let used = before.checked_sub(left).and_then(|used| usize::try_from(used).ok());
            used.ok_or_else(miscounted)
        };
        let ended = state.block_state == c::isal_block_state_ISAL_BLOCK_FINISH;
        Ok((used(input_len, state.avail_in)?, used(out_len, state.avail_out)?, ended))
    }
}

fn miscounted() -> Error {
    Error::corrupt("not a valid gzip stream (ISA-L miscounts it)")
}

fn clamp(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Longest header of a member in bytes: 64 KiB of extra fields, a name and a comment.
const MAX_HEADER_LEN: usize = 128 << 10;

const OK: i32 = 0;
/// IGZIP_DEFLATE and IGZIP_ZLIB in the width of the field.
const RAW_FLAG: u16 = 0;
const ZLIB_FLAG: u16 = 3;
const _: () =
    assert!(c::IGZIP_DEFLATE == 0 && c::IGZIP_ZLIB == 3 && c::COMP_OK == 0 && c::ISAL_DECOMP_OK == 0);
