//! What goes where in an archive; contract 4.10.

use std::collections::HashMap;

use bytes::Bytes;

use crate::{
    Error, Op, Result,
    num::to_u64,
    ova::{BLOCK_LEN, FileNumbers, Template, check_name, header},
    plan::Slot,
};

/// Parameters of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveOptions {
    /// Name of the descriptor, `.ovf` included.
    pub descriptor_name: String,
    /// Names of the files, in their order.
    pub file_names: Vec<String>,
    /// Modification time of all entries, in seconds since 1970.
    pub mtime: u64,
}

/// The sequential half of writing an archive. Like a [`FormatWriter`](crate::FormatWriter) it sees no
/// payload, and is a pure function of its parameters and the calls.
///
/// Calls come in the order [`begin`](Self::begin); for each file [`begin_file`](Self::begin_file),
/// [`pass`](Self::pass) for all operations of the file's own writer, [`end_file`](Self::end_file); then
/// [`descriptor`](Self::descriptor) and [`finish`](Self::finish).
#[derive(Debug)]
pub struct ArchiveWriter {
    options: ArchiveOptions,
    template: Template,
    /// Bytes of output so far.
    position: u64,
    /// Slots given so far.
    slots: u32,
    stage: Stage,
    files: Vec<FileNumbers>,
}

#[derive(Debug)]
enum Stage {
    New,
    Between,
    File { header: Slot, start: u64, slots: HashMap<Slot, Slot> },
    Finished,
}

impl ArchiveWriter {
    /// A writer of an archive whose descriptor is `template`.
    ///
    /// # Errors
    /// A name that cannot be written or comes twice, no file or too many, a time out of range, or a
    /// template that names files that are not there.
    pub fn new(options: ArchiveOptions, template: Template) -> Result<Self> {
        let files = options.file_names.len();
        if files == 0 || files > MAX_FILES {
            return Err(Error::invalid_input(format!("an OVA has 1 to {MAX_FILES} disks, not {files}")));
        }
        if template.files() > files {
            let named = template.files() - 1;
            return Err(Error::invalid_input(format!(
                "the descriptor names file {named}, and there are {files}"
            )));
        }
        if template.reserved_len() == 0 {
            return Err(Error::invalid_input("the descriptor is empty"));
        }
        let mut taken: Vec<String> = Vec::new();
        for name in options.file_names.iter().chain([&options.descriptor_name]) {
            // Archives are unpacked on file systems that do not tell case apart.
            let folded = name.to_ascii_lowercase();
            if taken.contains(&folded) {
                return Err(Error::invalid_input(format!("two files of an OVA cannot be called {name:?}")));
            }
            taken.push(folded);
            header(name, 0, options.mtime)?;
        }
        if !options.descriptor_name.ends_with(".ovf") {
            let name = &options.descriptor_name;
            return Err(Error::invalid_input(format!("a descriptor ends in .ovf, {name:?} does not")));
        }
        Ok(Self { options, template, position: 0, slots: 0, stage: Stage::New, files: Vec::new() })
    }

    /// The descriptor's entry, whose content is reserved.
    ///
    /// # Errors
    /// Not the first call.
    pub fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        if !matches!(self.stage, Stage::New) {
            return Err(out_of_order());
        }
        let len = self.template.reserved_len();
        let first = ops.len();
        ops.push(block(&self.options.descriptor_name, len, self.options.mtime)?);
        ops.push(Op::Reserve { slot: self.slot()?, len });
        pad(len, ops);
        self.count(&ops[first..]);
        self.stage = Stage::Between;
        Ok(())
    }

    /// What stands in front of the next file: its header, reserved.
    ///
    /// # Errors
    /// A file is open, or all are written.
    pub fn begin_file(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        if !matches!(self.stage, Stage::Between) || self.files.len() == self.options.file_names.len() {
            return Err(out_of_order());
        }
        let header = self.slot()?;
        let op = Op::Reserve { slot: header, len: to_u64(BLOCK_LEN) };
        self.count(std::slice::from_ref(&op));
        ops.push(op);
        self.stage = Stage::File { header, start: self.position, slots: HashMap::new() };
        Ok(())
    }

    /// Takes operations of the open file's own writer and makes them those of the archive: slots get
    /// names that are unique in it.
    ///
    /// # Errors
    /// No file is open, or a slot is filled that was never reserved.
    pub fn pass(&mut self, ops: &mut [Op]) -> Result<()> {
        for op in ops.iter_mut() {
            let next = match op {
                Op::Reserve { .. } => Some(self.slot()?),
                _ => None,
            };
            let Stage::File { slots, .. } = &mut self.stage else { return Err(out_of_order()) };
            match (op, next) {
                (Op::Reserve { slot, .. }, Some(next)) => {
                    slots.insert(*slot, next);
                    *slot = next;
                }
                (Op::Fill { slot, .. }, _) => {
                    *slot = *slots.get(slot).ok_or_else(|| {
                        Error::invalid_input(format!("reservation {} was never made", slot.0))
                    })?;
                }
                _ => {}
            }
        }
        self.count(ops);
        Ok(())
    }

    /// Ends the open file, of whose disk `used` bytes are not zero: its header, and padding.
    ///
    /// # Errors
    /// No file is open.
    pub fn end_file(&mut self, used: u64, ops: &mut Vec<Op>) -> Result<()> {
        let Stage::File { header: slot, start, .. } = &self.stage else { return Err(out_of_order()) };
        let (slot, size) = (*slot, self.position - *start);
        let name = self.options.file_names.get(self.files.len()).ok_or_else(out_of_order)?;
        let bytes = header(name, size, self.options.mtime)?;
        let first = ops.len();
        ops.push(Op::Fill { slot, at: 0, bytes: Bytes::copy_from_slice(&bytes) });
        pad(size, ops);
        self.count(&ops[first..]);
        self.files.push(FileNumbers { size, used });
        self.stage = Stage::Between;
        Ok(())
    }

    /// Bytes of the open file so far, or `None` if none is open.
    pub fn file_len(&self) -> Option<u64> {
        match self.stage {
            Stage::File { start, .. } => Some(self.position - start),
            _ => None,
        }
    }

    /// The descriptor with all its numbers, as it is to be hashed and given to [`finish`](Self::finish).
    ///
    /// # Errors
    /// A file is missing.
    pub fn descriptor(&self) -> Result<Vec<u8>> {
        if self.files.len() < self.options.file_names.len() {
            return Err(out_of_order());
        }
        self.template.render(&self.files)
    }

    /// The descriptor's content and what stands behind the files: `last` are names and contents of the
    /// manifest and the certificate; then the end of the archive.
    ///
    /// # Errors
    /// A file is missing, the descriptor has another length than was reserved, or a name cannot be
    /// written.
    pub fn finish(
        &mut self,
        descriptor: impl Into<Bytes>,
        last: impl IntoIterator<Item = (String, Bytes)>,
        ops: &mut Vec<Op>,
    ) -> Result<()> {
        let bytes = descriptor.into();
        if !matches!(self.stage, Stage::Between) || self.files.len() < self.options.file_names.len() {
            return Err(out_of_order());
        }
        if to_u64(bytes.len()) != self.template.reserved_len() {
            let (len, reserved) = (bytes.len(), self.template.reserved_len());
            return Err(Error::invalid_input(format!(
                "a descriptor of {len} bytes where {reserved} are reserved"
            )));
        }
        let first = ops.len();
        ops.push(Op::Fill { slot: DESCRIPTOR, at: 0, bytes });
        for (name, content) in last {
            check_name(&name)?;
            let len = to_u64(content.len());
            ops.push(block(&name, len, self.options.mtime)?);
            if len > 0 {
                ops.push(Op::Append(content));
            }
            pad(len, ops);
        }
        ops.push(Op::Skip(2 * to_u64(BLOCK_LEN)));
        self.count(&ops[first..]);
        self.stage = Stage::Finished;
        Ok(())
    }

    /// Bytes of output that the operations so far span.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn slot(&mut self) -> Result<Slot> {
        let slot = Slot(self.slots);
        self.slots = self.slots.checked_add(1).ok_or_else(|| Error::limit("too many reservations"))?;
        Ok(slot)
    }

    fn count(&mut self, ops: &[Op]) {
        self.position += ops.iter().map(Op::span).sum::<u64>();
    }
}

fn block(name: &str, len: u64, mtime: u64) -> Result<Op> {
    Ok(Op::Append(Bytes::copy_from_slice(&header(name, len, mtime)?)))
}

/// Zeros up to the next block behind `len` bytes.
fn pad(len: u64, ops: &mut Vec<Op>) {
    let padding = len.next_multiple_of(to_u64(BLOCK_LEN)) - len;
    if padding > 0 {
        ops.push(Op::Skip(padding));
    }
}

fn out_of_order() -> Error {
    Error::invalid_input("a call to the writer of an archive is out of order")
}

/// The reservation of the descriptor: the first that is made.
const DESCRIPTOR: Slot = Slot(0);

/// Most files that an archive has: markers of a [`Template`] count further, importers far less.
pub const MAX_FILES: usize = 1000;
