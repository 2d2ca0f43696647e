//! streamOptimized VMDKs that come in order: a grain is inflated when it comes, what lies between
//! grains is zero.

use std::ops::Range;

use vmferry_formats::{
    codec::Decoder,
    plan::Codec,
    vmdk::{StreamEvent, StreamParser},
};

use super::Input;
use crate::{
    error::{Error, FormatContext as _, Result},
    source::{
        ByteStream, Restart, SourceIdentity, StreamChunk,
        num::{to_u64, to_usize},
    },
};

/// The disk in a streamOptimized VMDK that comes through a pipe; `size` is what the user says.
///
/// # Errors
/// It cannot be read in order, or has another size.
pub(in crate::source) fn vmdk_stream(
    input: Box<dyn Input>,
    size: Option<u64>,
) -> Result<Box<dyn ByteStream>> {
    let mut stream = VmdkStream {
        input,
        parser: StreamParser::new(),
        decoder: Decoder::new(),
        packed: Vec::new(),
        grain: None,
        size: 0,
        done: 0,
        ended: false,
    };
    let virtual_size = loop {
        match stream.parser.virtual_size() {
            Some(size) => break size,
            None => stream.step().map_err(|error| {
                error.with_hint(
                    "save it to a file and name that; a pipe may carry RAW, gzip, zstd or streamOptimized",
                )
            })?,
        };
    };
    if size.is_some_and(|size| size != virtual_size) {
        return Err(Error::new(
            crate::error::ErrorKind::SourceChanged,
            format!("{} holds a disk of {virtual_size} bytes, not the one given", stream.name()),
        ));
    }
    stream.size = virtual_size;
    Ok(Box::new(stream))
}

struct VmdkStream {
    input: Box<dyn Input>,
    parser: StreamParser,
    decoder: Decoder,
    /// The packed bytes of `grain`.
    packed: Vec<u8>,
    /// A grain that has come and is not given out.
    grain: Option<Grain>,
    size: u64,
    /// Bytes of the disk given out.
    done: u64,
    /// The stream is complete.
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Grain {
    guest_offset: u64,
    len: usize,
    codec: Codec,
}

impl VmdkStream {
    fn name(&self) -> String {
        self.input.origin().name.clone()
    }

    /// Takes the next piece of the stream.
    fn step(&mut self) -> Result<()> {
        let wanted = self.parser.wants();
        let at = self.input.taken();
        self.packed.clear();
        self.take(wanted)?;
        let event = self
            .parser
            .supply(&self.packed)
            .context(|| format!("cannot read {} near byte {at}", self.input.origin().name))?;
        match event {
            StreamEvent::Other => {}
            StreamEvent::Grain { guest_offset, len, codec, rest } => {
                self.take(rest)?;
                self.grain = Some(Grain { guest_offset, len, codec });
            }
            StreamEvent::End => {
                if !self.input.fill()?.is_empty() {
                    return Err(Error::failed(format!(
                        "something follows the end of the vmdk in {}",
                        self.name()
                    ))
                    .with_hint("the stream is damaged, or two were put one behind the other"));
                }
                self.input.check_unchanged()?;
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Adds the next `len` bytes of the stream to `packed`.
    fn take(&mut self, len: usize) -> Result<()> {
        let mut at = self.packed.len();
        self.packed.resize(at + len, 0);
        while at < self.packed.len() {
            match self.input.read(&mut self.packed[at..])? {
                0 => return Err(self.input.cut_short("vmdk")),
                taken => at += taken,
            }
        }
        Ok(())
    }

    /// The next grain that is not given out; `None` behind the last.
    fn next_grain(&mut self) -> Result<Option<Grain>> {
        while self.grain.is_none() && !self.ended {
            self.step()?;
        }
        Ok(self.grain)
    }

    /// Fills the part of the disk that begins at `done` and has the length of `buffer`; gives the
    /// ranges that were left alone.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<Vec<Range<usize>>> {
        let (start, len) = (self.done, buffer.len());
        let (mut holes, mut filled) = (Vec::new(), 0);
        while let Some(grain) = self.next_grain()? {
            let at = to_usize(grain.guest_offset - start);
            if at >= len {
                break;
            }
            if at > filled {
                holes.push(filled..at);
            }
            // The last grain may reach past the disk, and so past the buffer.
            let end = len.min(at + grain.len);
            let name = |decoder: Result<(), vmferry_formats::Error>| {
                decoder.context(|| {
                    format!(
                        "cannot read {} at guest byte {:#x}",
                        self.input.origin().name,
                        grain.guest_offset
                    )
                })
            };
            if end - at == grain.len {
                name(self.decoder.decode(grain.codec, &self.packed, &mut buffer[at..end]))?;
            } else {
                let mut whole = vec![0; grain.len];
                name(self.decoder.decode(grain.codec, &self.packed, &mut whole))?;
                buffer[at..end].copy_from_slice(&whole[..end - at]);
            }
            filled = end;
            self.grain = None;
        }
        if filled < len {
            holes.push(filled..len);
        }
        Ok(holes)
    }
}

impl ByteStream for VmdkStream {
    fn name(&self) -> String {
        Self::name(self)
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
        let left = self.size - self.done;
        if left == 0 {
            // The end of the stream is the proof that nothing is missing.
            if self.next_grain()?.is_some() {
                return Err(Error::failed(format!("{} has data behind its end", self.name())));
            }
            return Ok(StreamChunk::End);
        }
        let next = self.next_grain()?.map_or(self.size, |grain| grain.guest_offset);
        let len = to_u64(buffer.len());
        if len == 0 {
            return Err(Error::failed(format!("no room for the bytes of {}", self.name())));
        }
        let zeros = match next - self.done {
            gap if gap == left => gap,
            gap => gap / len * len,
        };
        if zeros > 0 {
            self.done += zeros;
            return Ok(StreamChunk::Zero { len: zeros });
        }
        let len = to_usize(left.min(len));
        let holes = self.fill(&mut buffer[..len])?;
        self.done += to_u64(len);
        Ok(StreamChunk::Data { len, holes })
    }

    fn bytes_read(&self) -> u64 {
        self.input.taken()
    }
}
