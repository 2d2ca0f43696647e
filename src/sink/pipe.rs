//! A pipe: every byte in order, zeros written out, no way back.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use vmferry_formats::plan::Slot;

use super::{DataSync, Sink};
use crate::error::{Error, Result};

/// Writes to standard output (or any other writer).
pub(crate) struct PipeSink<W> {
    writer: W,
    position: u64,
}

impl<W: Write + Send> PipeSink<W> {
    /// A sink at its start.
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, position: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| {
            let message = format!("cannot write to standard output at byte {}", self.position);
            let error_kind = error.kind();
            let failed = Error::failed(message).with_source(error);
            if error_kind == io::ErrorKind::BrokenPipe {
                return failed
                    .with_hint("the program that reads the pipe ended first; a pipe cannot be resumed");
            }
            failed
        })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl<W: Write + Send> Sink for PipeSink<W> {
    fn append(&mut self, pieces: &[Bytes]) -> Result<()> {
        pieces.iter().try_for_each(|piece| self.write(piece))
    }

    fn skip(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            let step = len.min(ZEROS.len() as u64);
            self.write(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())])?;
            len -= step;
        }
        Ok(())
    }

    fn reserve(&mut self, _slot: Slot, len: u64) -> Result<()> {
        Err(Error::refused(format!("this layout fills {len} bytes in later, which a pipe cannot do")))
    }

    fn fill(&mut self, _slot: Slot, _at: u64, _bytes: &Bytes) -> Result<()> {
        Err(Error::refused("a pipe cannot go back"))
    }

    fn finish(&mut self) -> Result<()> {
        self.writer.flush().map_err(|error| Error::failed("cannot flush standard output").with_source(error))
    }

    fn data_sync(&self) -> Option<Arc<dyn DataSync>> {
        None
    }
}

/// What skipped ranges are written from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_ranges_are_written_out() {
        let mut out = Vec::new();
        let mut sink = PipeSink::new(&mut out);
        sink.append(&[Bytes::from_static(b"ab"), Bytes::from_static(b"c")]).unwrap();
        sink.skip(100_000).unwrap();
        sink.append(&[Bytes::from_static(b"d")]).unwrap();
        sink.finish().unwrap();
        assert_eq!(out.len(), 100_004);
        assert_eq!((&out[..3], out[100_003]), (&b"abc"[..], b'd'));
        assert!(out[3..100_003].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn reservations_are_refused() {
        assert!(PipeSink::new(Vec::new()).reserve(Slot(0), 512).is_err());
    }
}
