//! Disks that come in order, from their first byte to their last: pipes, compressed files, HTTP
//! bodies without ranges.
//!
//! Three parts meet here. An [`Input`] gives the bytes of the source, an [`Unpack`] makes bytes of
//! the disk of them, and [`DiskStream`] counts: it holds the disk against the size that was
//! announced and says that a stream has ended only when that is proven.

mod gzip;
mod input;
mod raw;
mod vmdk;
mod zstd;

#[cfg(test)]
mod tests;

use super::{ByteStream, Restart, SourceIdentity, StreamChunk, num::to_u64, num::to_usize};
use crate::error::{Error, ErrorKind, Result};

pub(super) use self::{
    gzip::Gzip,
    input::{FileInput, Input, Origin},
    raw::Raw,
    vmdk::vmdk_stream,
    zstd::Zstd,
};

/// Turns the bytes of a source into the bytes of a disk.
pub(super) trait Unpack: Send + 'static {
    /// Fills `out`. Fewer bytes are the end of the disk: of a stream that is complete and after
    /// which nothing follows.
    fn unpack(&mut self, input: &mut dyn Input, out: &mut [u8]) -> Result<usize>;

    /// Bytes of memory that it may take.
    fn memory(&self) -> u64 {
        0
    }
}

/// A disk that is unpacked while it is read.
pub(super) struct DiskStream<U> {
    input: Box<dyn Input>,
    unpack: U,
    /// Bytes of the disk, where they were announced.
    size: Option<u64>,
    /// Bytes of the disk given out.
    done: u64,
    /// Bytes of the disk that were looked at before they were asked for.
    head: Vec<u8>,
    ended: bool,
}

impl<U: Unpack> DiskStream<U> {
    /// The disk in `input`; `size` is what was announced.
    pub(super) fn new(input: Box<dyn Input>, unpack: U, size: Option<u64>) -> Self {
        Self { input, unpack, size, done: 0, head: Vec::new(), ended: false }
    }

    /// The first `len` bytes of the disk, fewer if it has fewer, ahead of any
    /// [`next_chunk`](ByteStream::next_chunk), which gives them again.
    pub(super) fn peek(&mut self, len: usize) -> Result<&[u8]> {
        if self.done == 0 && self.head.is_empty() {
            let mut head = vec![0; len];
            let unpacked = self.unpack.unpack(self.input.as_mut(), &mut head)?;
            head.truncate(unpacked);
            self.head = head;
        }
        Ok(&self.head)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let len = self.head.len().min(out.len());
        out[..len].copy_from_slice(&self.head[..len]);
        self.head.drain(..len);
        Ok(len + self.unpack.unpack(self.input.as_mut(), &mut out[len..])?)
    }

    fn end(&mut self) -> Result<StreamChunk> {
        self.input.check_unchanged()?;
        self.ended = true;
        Ok(StreamChunk::End)
    }

    fn wrong_size(&self, message: String) -> Error {
        Error::new(ErrorKind::SourceChanged, message).with_hint(match self.input.origin().restart {
            Restart::FromStart => {
                "what made the stream stopped early or announced another disk: make it anew, or take the raw disk"
            }
            Restart::Never => "check the size given, and what writes to the pipe",
        })
    }
}

impl<U: Unpack> ByteStream for DiskStream<U> {
    fn name(&self) -> String {
        self.input.origin().name.clone()
    }

    fn size(&self) -> Option<u64> {
        self.size
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
        let left = self.size.map_or(u64::MAX, |size| size - self.done);
        if left == 0 {
            // Everything announced was given out. The stream must end here too, with a checksum
            // that is right.
            let surplus = self.fill(&mut [0; SURPLUS_LEN])?;
            if surplus > 0 {
                return Err(self.wrong_size(format!(
                    "{} holds at least {} bytes instead of the {} announced",
                    self.name(),
                    self.done + to_u64(surplus),
                    self.done
                )));
            }
            return self.end();
        }
        let want = to_usize(left.min(to_u64(buffer.len())));
        let len = self.fill(&mut buffer[..want])?;
        self.done += to_u64(len);
        match self.size {
            Some(size) if len < want => Err(self.wrong_size(format!(
                "{} ends properly, but after {} bytes instead of the {size} announced",
                self.name(),
                self.done
            ))),
            None if len == 0 => self.end(),
            _ => Ok(StreamChunk::Data { len, holes: Vec::new() }),
        }
    }

    fn bytes_read(&self) -> u64 {
        self.input.taken()
    }

    fn memory(&self) -> u64 {
        self.unpack.memory()
    }
}

/// Bytes read behind the announced end to see whether anything is there: one sector.
const SURPLUS_LEN: usize = 512;
