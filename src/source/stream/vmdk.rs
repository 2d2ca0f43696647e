//! streamOptimized VMDKs that come in order.

use std::ops::Range;

use vmferry_formats::{
    ErrorKind as FormatErrorKind, ReaderPolicy,
    codec::Decoder,
    vmdk::{StreamGrain, StreamParser, StreamStep},
};

use super::Input;
use crate::{
    error::{Error, ErrorKind, Result},
    source::{
        ByteStream, Restart, SourceIdentity, StreamChunk,
        num::{to_u64, to_usize},
    },
};

/// The disk in a streamOptimized VMDK that comes through a pipe. `size` is what was announced.
///
/// # Errors
/// It cannot be read in order, or has another size.
pub(in crate::source) fn vmdk_stream(
    input: Box<dyn Input>,
    size: Option<u64>,
) -> Result<Box<dyn ByteStream>> {
    let mut stream = VmdkStream {
        input,
        parser: StreamParser::new(&ReaderPolicy::default()),
        decoder: Decoder::new(),
        size: 0,
        grain_len: 0,
        done: 0,
        next: Next::Unknown,
        grain: Vec::new(),
        ended: false,
    };
    while stream.parser.info().is_none() {
        stream.advance()?;
    }
    if let Some(info) = stream.parser.info() {
        (stream.size, stream.grain_len) = (info.virtual_size, to_usize(info.cluster_len));
    }
    if let Some(size) = size
        // The image counts sectors.
        && stream.size.checked_sub(size).is_none_or(|surplus| surplus >= 512)
    {
        return Err(Error::new(
            ErrorKind::SourceChanged,
            format!("{} holds a disk of {} bytes instead of the {size} given", stream.name(), stream.size),
        ));
    }
    Ok(Box::new(stream))
}

/// A disk that is inflated while it is read; what lies between its grains is never touched.
struct VmdkStream {
    input: Box<dyn Input>,
    parser: StreamParser,
    decoder: Decoder,
    /// Bytes of the disk.
    size: u64,
    grain_len: usize,
    /// Bytes of the disk given out.
    done: u64,
    next: Next,
    /// A grain that did not go into a buffer in one piece.
    grain: Vec<u8>,
    ended: bool,
}

/// What comes next on the disk, behind zeros.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Nothing: the stream has ended.
    End,
    /// A grain whose bytes are at hand.
    Encoded(StreamGrain),
    /// A grain that was inflated into [`VmdkStream::grain`]; it begins at this guest byte.
    Inflated(u64),
    /// The stream has to be asked.
    Unknown,
}

impl VmdkStream {
    /// Does one step of the parser.
    fn advance(&mut self) -> Result<()> {
        let mut need = 0;
        let step = loop {
            let at_hand = if need == 0 { self.input.fill()? } else { self.input.peek(need)? };
            let at_end = at_hand.len() < need || at_hand.is_empty();
            match self.parser.step(at_hand, at_end) {
                Ok(StreamStep::Need(more)) => need = more,
                Ok(step) => break step,
                Err(error) => return Err(self.failed(error)),
            }
        };
        match step {
            StreamStep::Drop(len) => self.input.consume(len),
            StreamStep::End => self.next = Next::End,
            StreamStep::Grain(grain) => self.next = Next::Encoded(grain),
            StreamStep::Need(_) => {}
        }
        Ok(())
    }

    /// The guest byte where the next grain begins, the end of the disk if there is none.
    fn next_start(&mut self) -> Result<u64> {
        loop {
            match self.next {
                Next::End => return Ok(self.size),
                Next::Encoded(grain) => return Ok(grain.guest_offset),
                Next::Inflated(start) => return Ok(start),
                Next::Unknown => self.advance()?,
            }
        }
    }

    /// Puts the part of the next grain that begins at `at` into the front of `out`: the number of
    /// bytes.
    fn take_grain(&mut self, at: u64, out: &mut [u8]) -> Result<usize> {
        if let Next::Encoded(grain) = self.next {
            let whole = at == grain.guest_offset && out.len() >= self.grain_len;
            let target = if whole {
                &mut out[..self.grain_len]
            } else {
                self.grain.resize(self.grain_len, 0);
                &mut self.grain
            };
            let encoded = self.input.peek(grain.encoded_len)?;
            let encoded = &encoded[..grain.encoded_len.min(encoded.len())];
            if let Err(error) = self.decoder.decode(grain.codec, encoded, target) {
                return Err(self.failed(error));
            }
            self.input.consume(grain.encoded_len);
            if whole {
                self.next = Next::Unknown;
                return Ok(to_usize((self.size - at).min(to_u64(self.grain_len))));
            }
            self.next = Next::Inflated(grain.guest_offset);
        }
        let Next::Inflated(start) = self.next else { return Ok(0) };
        let end = self.size.min(start + to_u64(self.grain_len));
        let from = to_usize(at - start);
        let len = to_usize(end - at).min(out.len());
        out[..len].copy_from_slice(&self.grain[from..from + len]);
        if at + to_u64(len) == end {
            self.next = Next::Unknown;
        }
        Ok(len)
    }

    fn failed(&self, error: vmferry_formats::Error) -> Error {
        if error.kind() == FormatErrorKind::Truncated {
            return self.input.cut_short("VMDK").with_source(error);
        }
        let name = self.name();
        match error.kind() {
            FormatErrorKind::Unsupported => Error::refused(format!(
                "{name} is a VMDK that cannot be read from a stream"
            ))
            .with_source(error)
            .with_hint(
                "save it to a file and name that, or make it RAW on the way: 'qemu-img convert -O raw'",
            ),
            FormatErrorKind::Limit | FormatErrorKind::Refused => {
                Error::refused(format!("{name} is a VMDK that is not read")).with_source(error)
            }
            _ => super::input::broken(self.input.origin(), "VMDK", self.input.taken()).with_source(error),
        }
    }
}

impl ByteStream for VmdkStream {
    fn name(&self) -> String {
        self.input.origin().name.clone()
    }

    fn size(&self) -> Option<u64> {
        Some(self.size)
    }

    fn identity(&self) -> Option<SourceIdentity> {
        self.input.origin().identity.clone()
    }

    fn restart(&self) -> Restart {
        self.input.origin().restart
    }

    fn next_chunk(&mut self, buffer: &mut [u8]) -> Result<StreamChunk> {
        if self.ended {
            return Ok(StreamChunk::End);
        }
        if buffer.is_empty() {
            return Err(Error::failed(format!("no room for the bytes of {}", self.name())));
        }
        if self.done == self.size {
            // The footer, the end of the stream, and nothing behind it.
            while !matches!(self.next, Next::End) {
                self.advance()?;
            }
            self.input.check_unchanged()?;
            self.ended = true;
            return Ok(StreamChunk::End);
        }
        let room = to_u64(buffer.len());
        let zeros = self.next_start()?.saturating_sub(self.done);
        // A grain in hand that has begun already leaves none.
        let whole = if self.done + zeros == self.size { zeros } else { zeros - zeros % room };
        if whole >= room.min(self.size - self.done) && whole > 0 {
            self.done += whole;
            return Ok(StreamChunk::Zero { len: whole });
        }
        let end = self.done + room.min(self.size - self.done);
        let (mut at, mut holes) = (self.done, Vec::new());
        while at < end {
            let start = self.next_start()?;
            let here = to_usize(at - self.done);
            if start > at {
                let to = start.min(end);
                holes.push(Range { start: here, end: to_usize(to - self.done) });
                at = to;
            } else {
                at += to_u64(self.take_grain(at, &mut buffer[here..])?);
            }
        }
        let len = to_usize(end - self.done);
        self.done = end;
        Ok(StreamChunk::Data { len, holes })
    }

    fn bytes_read(&self) -> u64 {
        self.input.taken()
    }
}
