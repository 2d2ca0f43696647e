//! ISA-L, the one place of this crate that calls C without a safe wrapper.
//!
//! Invariants: the C side reads `avail_in` bytes at `next_in` and writes at most `avail_out` bytes
//! at `next_out`, both set from slices that outlive the call and cleared after it; the level buffer
//! is owned by the encoder, as long as the stream that points at it, and never moves; a placed stream
//! lies in a mapping of its own, which is unmapped once, with it.
#![expect(unsafe_code, reason = "ISA-L has a C interface")]

use std::{
    ops::{Deref, DerefMut},
    ptr::{NonNull, null_mut},
};

use isal_sys::igzip_lib as c;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::{DeflateEncoder, Wrapper};
use crate::error::{Error, Result};

/// One-shot deflate by `isal_deflate_stateless`.
pub(super) struct IsalEncoder {
    stream: PlacedStream,
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
            // More room than this makes one block of a whole grain, which is larger than two that each
            // have codes of their own; less splits what is not worth it.
            1 if wrapper == Wrapper::Zlib => 96 << 10,
            1 => c::ISAL_DEF_LVL1_DEFAULT,
            2 => c::ISAL_DEF_LVL2_DEFAULT,
            _ => c::ISAL_DEF_LVL3_DEFAULT,
        };
        let level_buf = vec![0; usize::try_from(level_buf_len).expect("a constant below 1 MiB")];
        Self { stream: PlacedStream::new(), level_buf, wrapper, level: level.into() }
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
        clean_registers();
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

/// Zeroes the upper halves of the vector registers.
///
/// ISA-L 2.30 leaves them as they are. Every instruction of the old encoding, SHA-256's among them,
/// then has to preserve them: hashing beside ISA-L took three times as long as alone.
fn clean_registers() {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX. The calling convention lets no caller keep anything there.
        unsafe { std::arch::x86_64::_mm256_zeroupper() };
    }
}

/// A stream at an address that decides nothing.
///
/// An encoder must give the same bytes wherever its memory lies, and with ISA-L 2.30 it does not:
/// where a block begins, the kernels of levels 1 to 3 take the hash of its third position from bits
/// 16 to 47 of the address of the stream instead of the data, and file that position under it. Which
/// matches are found later can depend on that: about one cluster in 10,000 came out a byte longer or
/// shorter, another one in each process. So a stream is put where that hash is zero. Address space is
/// reserved for the search, not memory. Where it is not to be had the stream lies on the heap: its
/// output is as good, but may differ in such bytes.
enum PlacedStream {
    Heap(Box<c::isal_zstream>),
    Mapped { mapping: NonNull<u8>, stream: NonNull<c::isal_zstream> },
}

impl PlacedStream {
    fn new() -> Self {
        Self::map().unwrap_or_else(|| {
            // SAFETY: isal_zstream is plain C data (integers, arrays, pointers): all zeros is a value.
            Self::Heap(unsafe { Box::<c::isal_zstream>::new_zeroed().assume_init() })
        })
    }

    fn map() -> Option<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses, touches nothing that exists.
        let start = unsafe { mmap_anonymous(null_mut(), WINDOW_LEN, ProtFlags::empty(), flags) }.ok()?;
        let mapping = NonNull::new(start.cast::<u8>())?;
        let slots =
            mapping.addr().get().div_ceil(SLOT_LEN)..(mapping.addr().get() + WINDOW_LEN) / SLOT_LEN - 1;
        let found =
            { slots }.find(|&slot| u32::try_from(slot & 0xffff_ffff).is_ok_and(|slot| bucket(slot) == 0));
        let placed = found.and_then(|slot| {
            let offset = slot * SLOT_LEN - mapping.addr().get();
            // SAFETY: the slot and the one behind it lie inside the mapping.
            let at = unsafe { mapping.add(offset) };
            let access = MprotectFlags::READ | MprotectFlags::WRITE;
            // SAFETY: this part of the mapping is ours alone; it becomes zeros that can be written.
            unsafe { mprotect(at.as_ptr().cast(), STREAM_LEN, access) }.ok()?;
            Some(Self::Mapped { mapping, stream: at.cast() })
        });
        if placed.is_none() {
            // SAFETY: nothing refers to the mapping.
            let _ = unsafe { munmap(mapping.as_ptr().cast(), WINDOW_LEN) };
        }
        placed
    }
}

impl Deref for PlacedStream {
    type Target = c::isal_zstream;

    fn deref(&self) -> &c::isal_zstream {
        match self {
            Self::Heap(stream) => stream,
            // SAFETY: zeroed memory of the right size and alignment, which lives as long as self.
            Self::Mapped { stream, .. } => unsafe { stream.as_ref() },
        }
    }
}

impl DerefMut for PlacedStream {
    fn deref_mut(&mut self) -> &mut c::isal_zstream {
        match self {
            Self::Heap(stream) => stream,
            // SAFETY: as for deref; self is borrowed exclusively, and nothing else points there.
            Self::Mapped { stream, .. } => unsafe { stream.as_mut() },
        }
    }
}

impl Drop for PlacedStream {
    fn drop(&mut self) {
        if let Self::Mapped { mapping, .. } = self {
            // SAFETY: the mapping was made by `map` and is not used again.
            let _ = unsafe { munmap(mapping.as_ptr().cast(), WINDOW_LEN) };
        }
    }
}

/// The hash that ISA-L takes of four bytes: CRC-32C as the processor's instruction computes it,
/// without inversions, cut to the largest table of levels 1 to 3.
fn bucket(word: u32) -> u32 {
    let crc = (0..32).fold(word, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 });
    crc & (c::IGZIP_LVL3_HASH_SIZE - 1)
}

/// Addresses in a slot have the same bits from 16 on.
const SLOT_LEN: usize = 1 << 16;

/// Address space in which there is a slot of hash zero: among 2^15 slots that are aligned together
/// there is one, since the 15 bits of the hash are independent of each other.
const WINDOW_LEN: usize = SLOT_LEN << 16;

/// Bytes of a stream, whole pages.
const STREAM_LEN: usize = size_of::<c::isal_zstream>().next_multiple_of(4096);
const _: () = assert!(STREAM_LEN <= 2 * SLOT_LEN, "a stream reaches into the slot behind its own at most");

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
        clean_registers();
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
