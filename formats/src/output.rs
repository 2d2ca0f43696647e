//! The operations of one call of a writer.

use bytes::Bytes;

use crate::plan::{Op, Slot};

/// Operations of one call. They are joined where they touch, but never with those of an earlier
/// call: unit numbers belong to the piece just placed.
pub(crate) struct Output<'a> {
    ops: &'a mut Vec<Op>,
    own: usize,
}

impl<'a> Output<'a> {
    /// Adds to `ops`.
    pub(crate) fn new(ops: &'a mut Vec<Op>) -> Self {
        Self { own: ops.len(), ops }
    }

    /// [`Op::Append`], unless there is nothing to append.
    pub(crate) fn append(&mut self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.ops.push(Op::Append(bytes));
        }
    }

    /// [`Op::Fill`].
    pub(crate) fn fill(&mut self, slot: Slot, at: u64, bytes: impl Into<Bytes>) {
        self.ops.push(Op::Fill { slot, at, bytes: bytes.into() });
    }

    /// [`Op::Payload`], joined with the one before.
    pub(crate) fn payload(&mut self, first: u64, units: u64, len: u64) {
        match self.ops[self.own..].last_mut() {
            Some(Op::Payload { first: start, units: joined, len: joined_len })
                if *start + *joined == first =>
            {
                *joined += units;
                *joined_len += len;
            }
            _ => self.ops.push(Op::Payload { first, units, len }),
        }
    }

    /// [`Op::Skip`], joined with the one before; nothing for 0 bytes.
    pub(crate) fn skip(&mut self, len: u64) {
        match self.ops[self.own..].last_mut() {
            _ if len == 0 => {}
            Some(Op::Skip(joined)) => *joined += len,
            _ => self.ops.push(Op::Skip(len)),
        }
    }
}
