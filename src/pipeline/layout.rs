//! What turns the disks of an output into operations: a writer for each disk, one after the other, in a
//! container if there is one. A plain image is one disk without.

use vmferry_formats::{ChunkShape, FormatWriter, Op};

use super::journal::DiskEnd;
use crate::error::{Error, FormatContext as _, Result};

/// What the disks of an output lie in. Calls come in the order `begin`; for each disk `begin_disk`,
/// `pass` for the operations of its own writer, `end_disk`; then `finish`. Like a writer it is a pure
/// function of its parameters and these calls.
pub(crate) trait Container: Send {
    /// What stands in front of all disks.
    ///
    /// # Errors
    /// It cannot be written.
    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()>;

    /// What stands in front of the next disk.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn begin_disk(&mut self, ops: &mut Vec<Op>) -> Result<()>;

    /// Makes operations of the disk's own writer those of the container.
    ///
    /// # Errors
    /// They break the rules of operations.
    fn pass(&mut self, ops: &mut [Op]) -> Result<()>;

    /// What stands behind a disk, of which everything is known now.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn end_disk(&mut self, disk: &DiskEnd, ops: &mut Vec<Op>) -> Result<()>;

    /// What stands behind all disks, and the late fills.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    fn finish(&mut self, ops: &mut Vec<Op>) -> Result<()>;

    /// Bytes of output that the operations so far span.
    fn position(&self) -> u64;
}

/// Where everything of an output goes.
#[derive(Default)]
pub(crate) struct Layout {
    container: Option<Box<dyn Container>>,
    /// Of the open disk, or of the last one.
    writer: Option<Box<dyn FormatWriter>>,
    /// Output offset of the first byte of that disk's image.
    start: u64,
}

impl Layout {
    pub(crate) fn new(container: Option<Box<dyn Container>>) -> Self {
        Self { container, ..Self::default() }
    }

    /// What stands in front of all disks.
    pub(crate) fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.container.as_mut().map_or(Ok(()), |container| container.begin(ops))
    }

    /// What stands in front of the next disk; its own writer has said nothing yet.
    pub(crate) fn enter_disk(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        if let Some(container) = &mut self.container {
            container.begin_disk(ops)?;
        }
        self.writer = None;
        self.start = self.position();
        Ok(())
    }

    /// The front of the disk that was entered.
    pub(crate) fn begin_disk(&mut self, mut writer: Box<dyn FormatWriter>, ops: &mut Vec<Op>) -> Result<()> {
        let first = ops.len();
        writer.begin(ops).context(|| "cannot begin the output".into())?;
        self.writer = Some(writer);
        self.pass(&mut ops[first..])
    }

    /// The next piece of the open disk.
    pub(crate) fn place(&mut self, shape: &ChunkShape, ops: &mut Vec<Op>) -> Result<()> {
        let first = ops.len();
        let placed = self.open()?.place(shape, ops);
        placed.context(|| format!("cannot place guest bytes {:#x}", shape.guest_offset))?;
        self.pass(&mut ops[first..])
    }

    /// The end of the open disk, as its own writer sees it. `size` is the exact length of its source.
    pub(crate) fn finish_disk(&mut self, size: u64, ops: &mut Vec<Op>) -> Result<()> {
        let first = ops.len();
        self.open()?.finish(size, ops).context(|| "cannot end the output".into())?;
        self.pass(&mut ops[first..])
    }

    /// What stands behind a disk.
    pub(crate) fn leave_disk(&mut self, disk: &DiskEnd, ops: &mut Vec<Op>) -> Result<()> {
        self.container.as_mut().map_or(Ok(()), |container| container.end_disk(disk, ops))
    }

    /// A disk that an earlier run completed.
    pub(crate) fn skip_disk(&mut self, disk: &DiskEnd, ops: &mut Vec<Op>) -> Result<()> {
        self.enter_disk(ops)?;
        let first = ops.len();
        ops.push(Op::Skip(disk.len));
        self.pass(&mut ops[first..])?;
        self.leave_disk(disk, ops)
    }

    /// What stands behind all disks, and the late fills.
    pub(crate) fn finish(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.container.as_mut().map_or(Ok(()), |container| container.finish(ops))
    }

    /// Bytes of output that the operations so far span.
    pub(crate) fn position(&self) -> u64 {
        match (&self.container, &self.writer) {
            (Some(container), _) => container.position(),
            (None, Some(writer)) => writer.position(),
            (None, None) => 0,
        }
    }

    /// Output offset of the first byte of the open disk's image.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Bytes of guest disk in a unit of the open disk's writer.
    pub(crate) fn unit_len(&self) -> Result<usize> {
        Ok(self.writer.as_ref().ok_or_else(no_disk)?.unit_len())
    }

    /// Encoder of the open disk's writer.
    pub(crate) fn encoder_identity(&self) -> Option<String> {
        self.writer.as_ref().map(|writer| writer.encoder_identity())
    }

    fn open(&mut self) -> Result<&mut dyn FormatWriter> {
        match &mut self.writer {
            Some(writer) => Ok(&mut **writer),
            None => Err(no_disk()),
        }
    }

    fn pass(&mut self, ops: &mut [Op]) -> Result<()> {
        self.container.as_mut().map_or(Ok(()), |container| container.pass(ops))
    }
}

fn no_disk() -> Error {
    Error::failed("no disk of the output is open; this is a bug of vmferry")
}
