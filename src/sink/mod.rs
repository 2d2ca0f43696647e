//! Where outputs go. A sink executes operations strictly forward, but for fills of what was
//! reserved; the pipeline drives it from one writer thread.

mod block;
mod file;
pub(crate) mod object;
mod pipe;

use std::sync::Arc;

use bytes::Bytes;
use vmferry_formats::plan::Slot;

use self::object::{PartRecord, PinRecord};
pub(crate) use self::{
    block::BlockSink,
    file::{FileSink, tail_crc},
    pipe::PipeSink,
};
use crate::error::Result;

/// Takes the bytes of an output in order.
pub(crate) trait Sink: Send {
    /// Operations follow that append `used` bytes, which hold `held` bytes of memory until they are
    /// dropped: for sinks that keep them.
    fn begin_batch(&mut self, used: u64, held: u64) {
        let _ = (used, held);
    }

    /// Writes `pieces` back to back. A sink that keeps them accounts for their memory.
    ///
    /// # Errors
    /// The bytes could not be written; the output is unusable behind the last durable point.
    fn append(&mut self, pieces: &[Bytes]) -> Result<()>;

    /// Makes the next `len` bytes read as zeros.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn skip(&mut self, len: u64) -> Result<()>;

    /// Sets the next `len` bytes aside for [`fill`](Self::fill); until then they read as zeros.
    ///
    /// # Errors
    /// As for [`append`](Self::append), or the sink cannot go back.
    fn reserve(&mut self, slot: Slot, len: u64) -> Result<()>;

    /// Writes into a reserved range. Used again on resume, where the slot was reserved before.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn fill(&mut self, slot: Slot, at: u64, bytes: &Bytes) -> Result<()>;

    /// Called before a record counts what was written so far: the output has its length then.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Called once all operations are executed: gives the output its exact length, zeroes what is
    /// left of a device.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    fn finish(&mut self) -> Result<()>;

    /// Makes what was written durable, from any thread; `None` where nothing can be (a pipe).
    fn data_sync(&self) -> Option<Arc<dyn DataSync>>;
}

/// Makes an output durable.
pub(crate) trait DataSync: Send + Sync {
    /// Returns once everything that was written before the call is on stable storage, or says how much
    /// of it is. A failure is final: nothing since the last success may be trusted.
    ///
    /// # Errors
    /// The data may be lost.
    fn sync(&self) -> Result<Durable>;

    /// Parts of an upload that the store has acknowledged since this was asked last.
    fn acknowledged(&self) -> Vec<PartRecord> {
        Vec::new()
    }

    /// CRC-32C of the `len` bytes before `end` of the output.
    ///
    /// # Errors
    /// They cannot be read back.
    fn tail_crc(&self, end: u64, len: u64) -> Result<u32>;
}

/// What a sync has made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "cloud"), expect(dead_code, reason = "of files, everything is"))]
pub(crate) enum Durable {
    /// Everything that was written before it.
    All,
    /// Nothing on which a record could rest: the end of the output was being written.
    Nothing,
    /// The output up to byte `out`, where a record ends; some of it in the pins file.
    Until {
        /// Output bytes.
        out: u64,
        /// Where the parts are that the store does not have.
        pins: Vec<PinRecord>,
    },
}
