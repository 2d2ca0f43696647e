//! The journal: what makes an interrupted run resumable. `docs/journal.md` describes the file.
//!
//! JSON lines, each followed by the CRC-32C of its text; a reader takes the longest prefix of
//! complete, valid lines and stops there. The durable point of a run is its last checkpoint: lines
//! behind it were written by a batch that was torn.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use vmferry_formats::{
    ChunkShape,
    chunk::{CHUNK_LEN, UnitShape},
    digest::Digest,
};

use super::process::Check;
use crate::{
    error::{Error, Result},
    source::SourceIdentity,
};

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A durable point: everything before it is on stable storage.
    Checkpoint(Checkpoint),
    /// A chunk, or a run of zero chunks.
    Chunk(ChunkRecord),
    /// The output is complete; only renames and removals may be left to do.
    Closed(Closed),
    /// A disk in a container is complete.
    DiskEnd(DiskEnd),
    /// A disk in a container begins.
    DiskStart(DiskStart),
    /// First line.
    Header(Box<Header>),
    /// The source changed: no later run goes on behind this.
    Tainted {
        /// What changed.
        reason: String,
    },
}

/// Everything in an output that is not disk content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "HeaderLine", into = "HeaderLine")]
pub struct Header {
    /// Final base name of the output; ids derive from it.
    pub name: String,
    /// Parameters of the writers with defaults resolved.
    pub spec: String,
    /// Name of the digest algorithm, if any.
    pub digest: Option<String>,
    /// Whether the output file's SHA-256 is taken in passing.
    pub flat_sha256: bool,
    /// The sources of the disks: one of a plain image, any number in a container.
    pub disks: Vec<DiskHeader>,
    /// What the disks lie in; `None` = a plain image.
    pub container: Option<ContainerHeader>,
    /// Encoder whose bytes these are.
    pub encoder: String,
    /// Device number of the partial output.
    pub device: u64,
    /// Inode number of the partial output.
    pub inode: u64,
    /// Version of the journal's format.
    pub version: u32,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHeader {
    /// Name of its image in the container; ids derive from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Source, as people call it.
    pub source: String,
    /// What proves that the source is the same; `None` = nothing can.
    pub identity: Option<SourceIdentity>,
    /// Size of the disk in bytes, if it was known at the start.
    pub size: Option<u64>,
}

/// Everything in a container that is not a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerHeader {
    /// Its format, as in the manifest.
    pub format: String,
    /// Its parameters with defaults resolved, as in the manifest.
    pub parameters: String,
    /// Name of the hash function of the images in it.
    pub file_hash: String,
    /// Whether the disks are files of their own with journals of their own: only their starts and ends
    /// are recorded here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub separate: bool,
    /// What else stands in it. Only who writes the container knows what that means.
    pub content: serde_json::Map<String, serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A header as it is written: the one source of a plain image stands in the line itself.
#[derive(Serialize, Deserialize)]
struct HeaderLine {
    version: u32,
    name: String,
    spec: String,
    digest: Option<String>,
    flat_sha256: bool,
    #[serde(flatten)]
    sources: Sources,
    encoder: String,
    device: u64,
    inode: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Sources {
    Container { container: ContainerHeader, disks: Vec<DiskHeader> },
    Image(DiskHeader),
}

impl From<HeaderLine> for Header {
    fn from(line: HeaderLine) -> Self {
        let HeaderLine { version, name, spec, digest, flat_sha256, sources, encoder, device, inode } = line;
        let (container, disks) = match sources {
            Sources::Container { container, disks } => (Some(container), disks),
            Sources::Image(disk) => (None, vec![disk]),
        };
        Self { name, spec, digest, flat_sha256, disks, container, encoder, device, inode, version }
    }
}

impl From<Header> for HeaderLine {
    fn from(header: Header) -> Self {
        let Header { name, spec, digest, flat_sha256, mut disks, container, .. } = header;
        let sources = match container {
            Some(container) => Sources::Container { container, disks },
            None => Sources::Image(disks.pop().unwrap_or(DiskHeader {
                file: None,
                source: String::new(),
                identity: None,
                size: None,
            })),
        };
        let Header { version, encoder, device, inode, .. } = header;
        Self { version, name, spec, digest, flat_sha256, sources, encoder, device, inode }
    }
}

/// A disk in a container that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStart {
    /// Its number, from 0.
    pub disk: u32,
    /// Output offset of the first byte of its image.
    pub start: u64,
    /// Length of the output behind what stands in front of its first chunk.
    pub out: u64,
}

/// What a complete disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEnd {
    /// Its number, from 0.
    pub disk: u32,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Guest bytes that are zero and take no space.
    pub zero: u64,
    /// Output offset of the first byte of its image.
    pub start: u64,
    /// Bytes of its image.
    pub len: u64,
    /// Length of the output behind it, padding included.
    pub out: u64,
    /// Disk digest, hexadecimal.
    pub tree: Option<String>,
    /// Hash of its image, if taken in passing, hexadecimal.
    pub hash: Option<String>,
}

/// What one chunk became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRecord {
    /// First guest byte.
    pub at: u64,
    /// Guest bytes; more than a chunk only for zeros.
    pub len: u64,
    /// Chunk digest (of each chunk of a run), base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// CRC-32C where there is no digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc: Option<u32>,
    /// Length of the output after it.
    pub out: u64,
    /// Its units; absent = all of them are zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<ShapeCode>,
}

/// The units of a chunk, packed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShapeCode {
    /// All of them are data.
    #[serde(rename = "all")]
    All,
    /// One bit a unit (1 = data), least significant first, base64.
    #[serde(rename = "bits")]
    Bits(String),
    /// Three bytes a unit, little-endian, base64: 0 = absent, ffffff = data, else compressed length.
    #[serde(rename = "lens")]
    Lens(String),
}

/// A durable point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Number of the disk that it is in, or behind, if the disks lie in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u32>,
    /// Guest bytes of the disk before it.
    pub at: u64,
    /// Output bytes before it.
    pub out: u64,
    /// Guest bytes of the disk before it that were zero.
    pub zero: u64,
    /// Bytes of output before it that `tail_crc` covers.
    pub tail_len: u64,
    /// CRC-32C of these.
    pub tail_crc: u32,
    /// State of the running SHA-256 of the output, or of the disk's image in a container, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The same of a SHA-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
}

/// What a complete output is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Size of the disk, or of all disks, in bytes.
    pub size: u64,
    /// Length of the output in bytes.
    pub output_size: u64,
    /// Guest bytes that are zero and take no space.
    pub zero: u64,
    /// Disk digest, hexadecimal; of disks in a container, their ends have it.
    pub tree: Option<String>,
    /// SHA-256 of the output, if taken in passing, hexadecimal.
    pub file_sha256: Option<String>,
}

impl ChunkRecord {
    /// The record of a chunk; RAW needs no shape, its output is its guest disk.
    pub(crate) fn new(shape: &ChunkShape, check: Check, out: u64, is_raw: bool) -> Self {
        let code = if shape.is_absent() {
            None
        } else if is_raw {
            Some(ShapeCode::All)
        } else {
            Some(ShapeCode::pack(shape))
        };
        let (digest, crc) = match check {
            Check::Crc(crc) => (None, Some(crc)),
            Check::Digest(digest) => (Some(BASE64_STANDARD_NO_PAD.encode(digest.as_bytes())), None),
        };
        Self { at: shape.guest_offset, len: shape.len, digest, crc, out, shape: code }
    }

    /// The check of the chunk, or of each chunk of a run of zeros.
    ///
    /// # Errors
    /// The record has none.
    pub fn check(&self) -> Result<Check> {
        if let Some(crc) = self.crc {
            return Ok(Check::Crc(crc));
        }
        let digest = self.digest.as_deref().and_then(|text| BASE64_STANDARD_NO_PAD.decode(text).ok());
        digest
            .and_then(|bytes| <[u8; Digest::LEN]>::try_from(bytes).ok())
            .map(|bytes| Check::Digest(Digest::from_bytes(bytes)))
            .ok_or_else(|| damaged(format!("the chunk at {} has no digest", self.at)))
    }

    /// The shape that was placed, in units of `unit_len` bytes.
    ///
    /// # Errors
    /// The record contradicts itself.
    pub fn shape(&self, unit_len: usize) -> Result<ChunkShape> {
        let wrong = || damaged(format!("the chunk at {} has a wrong shape", self.at));
        let unit = unit_len as u64;
        let Some(code) = &self.shape else { return Ok(ChunkShape::absent(self.at, self.len, unit_len)) };
        if self.len > CHUNK_LEN {
            return Err(wrong());
        }
        let units = self.len.div_ceil(unit);
        let mut shape = ChunkShape::new(self.at, self.len);
        match code {
            ShapeCode::All => shape.push(UnitShape::Data, units),
            ShapeCode::Bits(text) => {
                let bits = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| wrong())?;
                if bits.len() as u64 != units.div_ceil(8) {
                    return Err(wrong());
                }
                let all = bits.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
                for (_, data) in (0..units).zip(all) {
                    shape.push(if data { UnitShape::Data } else { UnitShape::Absent }, 1);
                }
            }
            ShapeCode::Lens(text) => {
                let lens = BASE64_STANDARD_NO_PAD.decode(text).map_err(|_| wrong())?;
                if lens.len() as u64 != units * 3 {
                    return Err(wrong());
                }
                for len in lens.chunks_exact(3) {
                    shape.push(
                        match u32::from_le_bytes([len[0], len[1], len[2], 0]) {
                            0 => UnitShape::Absent,
                            STORED => UnitShape::Data,
                            len => UnitShape::Compressed(len),
                        },
                        1,
                    );
                }
            }
        }
        Ok(shape)
    }

    /// Joins `next` to this record if both are zeros of whole chunks and touch.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let whole = |record: &Self| record.shape.is_none() && record.len.is_multiple_of(CHUNK_LEN);
        let joins = whole(self)
            && whole(next)
            && self.at.checked_add(self.len) == Some(next.at)
            && self.digest == next.digest
            && self.crc == next.crc;
        if joins {
            self.len += next.len;
            self.out = next.out;
        }
        joins
    }
}

impl ShapeCode {
    fn pack(shape: &ChunkShape) -> Self {
        if shape.runs().iter().all(|run| run.shape == UnitShape::Data) {
            return Self::All;
        }
        if shape.runs().iter().any(|run| matches!(run.shape, UnitShape::Compressed(_))) {
            let lens = shape.iter().flat_map(|unit| {
                let len = match unit {
                    UnitShape::Absent => 0,
                    UnitShape::Compressed(len) => len,
                    UnitShape::Data => STORED,
                };
                let [a, b, c, _] = len.to_le_bytes();
                [a, b, c]
            });
            return Self::Lens(BASE64_STANDARD_NO_PAD.encode(lens.collect::<Vec<u8>>()));
        }
        let mut bits = Vec::new();
        for (index, unit) in shape.iter().enumerate() {
            if index.is_multiple_of(8) {
                bits.push(0);
            }
            if unit == UnitShape::Data {
                bits[index / 8] |= 1 << (index % 8);
            }
        }
        Self::Bits(BASE64_STANDARD_NO_PAD.encode(bits))
    }
}

impl Record {
    /// The line that stands for it, with its checksum and newline.
    ///
    /// # Errors
    /// It cannot be expressed in JSON (a bug).
    pub fn to_line(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)
            .map_err(|error| Error::failed("cannot express a journal record").with_source(error))?;
        let crc = crc32c::crc32c(&line);
        line.extend_from_slice(format!(" {crc:08x}\n").as_bytes());
        Ok(line)
    }

    /// The record of a line without its newline; `None` if it is torn or damaged.
    pub fn from_line(line: &[u8]) -> Option<Self> {
        let (text, crc) = line.split_at_checked(line.len().checked_sub(9)?)?;
        let crc = str::from_utf8(crc.strip_prefix(b" ")?).ok()?;
        if u32::from_str_radix(crc, 16) != Ok(crc32c::crc32c(text)) {
            return None;
        }
        serde_json::from_slice(text).ok()
    }
}

/// Reads records until the first line that is not complete and valid.
#[derive(Debug)]
pub struct JournalReader<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    offset: u64,
}

impl<R: io::Read> JournalReader<R> {
    /// A reader at the start of a journal.
    pub fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(256 << 10, reader), line: Vec::new(), offset: 0 }
    }

    /// Bytes of valid lines so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end of what is valid.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        self.line.clear();
        let failed = |error| Error::failed("cannot read the journal").with_source(error);
        let mut limited = io::Read::take(&mut self.reader, MAX_LINE_LEN);
        limited.read_until(b'\n', &mut self.line).map_err(failed)?;
        let Some(line) = self.line.strip_suffix(b"\n") else { return Ok(None) };
        let record = Record::from_line(line);
        if record.is_some() {
            self.offset += self.line.len() as u64;
        }
        Ok(record)
    }
}

/// What stands in a journal up to its durable point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// First line.
    pub header: Header,
    /// The durable point, if there was any output before the end.
    pub checkpoint: Option<Checkpoint>,
    /// The disks that are complete there, in their order; always empty for a plain image.
    pub ended: Vec<DiskEnd>,
    /// The number of the disk that it is in: not 0 only in a container. `None` = between two disks.
    pub open: Option<u32>,
    /// Bytes of the journal up to and with the last line that counts.
    pub valid_len: u64,
    /// The output is complete.
    pub closed: Option<Closed>,
    /// The source is known to have changed.
    pub tainted: Option<String>,
}

impl Summary {
    /// Reads a journal to the end of what is valid. Chunks and disks must follow each other without a
    /// gap. `None` if not even the header is there.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn read(reader: impl io::Read) -> Result<Option<Self>> {
        let mut journal = JournalReader::new(reader);
        let Some(Record::Header(header)) = journal.next_record()? else { return Ok(None) };
        let mut place = Place::new(&header);
        let mut this = Self {
            header: *header,
            checkpoint: None,
            ended: Vec::new(),
            open: place.open,
            valid_len: journal.offset(),
            closed: None,
            tainted: None,
        };
        while let Some(record) = journal.next_record()? {
            if this.closed.is_some() && !matches!(record, Record::Tainted { .. }) {
                break;
            }
            match record {
                Record::Chunk(chunk) if place.take_chunk(&chunk) => continue,
                Record::DiskStart(start) if place.take_start(start) => continue,
                Record::DiskEnd(end) if place.take_end(&end) => {
                    this.ended.push(end);
                    continue;
                }
                Record::Checkpoint(point) if place.is_at(&point) => {
                    place.counted = this.ended.len();
                    this.open = place.open;
                    this.checkpoint = Some(point);
                }
                Record::Closed(closed) if place.is_whole(&this.ended, &closed) => {
                    place.counted = this.ended.len();
                    this.closed = Some(closed);
                }
                Record::Tainted { reason } => this.tainted = Some(reason),
                _ => break,
            }
            this.valid_len = journal.offset();
        }
        this.ended.truncate(place.counted);
        Ok(Some(this))
    }
}

/// Where a reader is among the disks of a journal.
struct Place {
    /// Number of disks, if they lie in a container.
    disks: Option<usize>,
    separate: bool,
    /// Disks that are complete.
    ended: u32,
    /// Of these, how many the last checkpoint counts.
    counted: usize,
    /// The open disk.
    open: Option<u32>,
    /// Guest bytes of the open or the last disk.
    at: u64,
    /// Output bytes.
    out: u64,
}

impl Place {
    fn new(header: &Header) -> Self {
        let disks = header.container.as_ref().map(|_| header.disks.len());
        let open = if disks.is_none() { Some(0) } else { None };
        let separate = header.container.as_ref().is_some_and(|container| container.separate);
        Self { disks, separate, ended: 0, counted: 0, open, at: 0, out: 0 }
    }

    fn take_chunk(&mut self, chunk: &ChunkRecord) -> bool {
        let Some(end) = chunk.at.checked_add(chunk.len) else { return false };
        let fits = self.open.is_some() && chunk.at == self.at && chunk.len > 0 && chunk.out >= self.out;
        if fits {
            (self.at, self.out) = (end, chunk.out);
        }
        fits
    }

    fn take_start(&mut self, start: DiskStart) -> bool {
        let is_next =
            start.disk == self.ended && self.disks.is_some_and(|disks| (start.disk as usize) < disks);
        let fits = is_next && self.open.is_none() && start.start >= self.out && start.out >= start.start;
        if fits {
            (self.open, self.at, self.out) = (Some(start.disk), 0, start.out);
        }
        fits
    }

    fn take_end(&mut self, end: &DiskEnd) -> bool {
        let is_behind = end.size == self.at
            && end.out >= self.out
            && end.start.checked_add(end.len).is_some_and(|image| image <= end.out);
        let fits = self.disks.is_some() && self.open == Some(end.disk) && (self.separate || is_behind);
        if fits {
            (self.open, self.ended, self.out) = (None, end.disk + 1, end.out);
        }
        fits
    }

    fn is_at(&self, point: &Checkpoint) -> bool {
        let disk = self.disks.and(self.open.or(self.ended.checked_sub(1)));
        point.disk == disk && point.at == self.at && point.tail_len <= point.out
    }

    fn is_whole(&self, ended: &[DiskEnd], closed: &Closed) -> bool {
        match self.disks {
            None => closed.size == self.at,
            Some(disks) => {
                let size = ended.iter().try_fold(0_u64, |size, disk| size.checked_add(disk.size));
                self.open.is_none() && ended.len() == disks && size == Some(closed.size)
            }
        }
    }
}

/// A journal open for appending, held under an exclusive lock.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    found: bool,
}

impl Journal {
    /// Opens or creates the journal at `path` and locks it.
    ///
    /// # Errors
    /// Another run holds it, or it cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
            options.read(true).write(true).mode(0o600).custom_flags(nofollow);
            let created = options.clone().create_new(true).open(path);
            let found = matches!(&created, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
            let opened = if found { options.open(path) } else { created };
            let file = match opened {
                // Removed in between by the run that held it.
                Err(error) if found && error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(|error| Error::io("open the journal", path, error))?,
            };
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::refused(format!("{} is in use by another run", path.display()))
                        .with_hint("wait for that run to end, or choose another output"));
                }
                Err(error) => return Err(Error::io("lock the journal", path, error.into())),
            }
            // The run that held the lock may have removed the file in between.
            let ours = file.metadata().map_err(|error| Error::io("look at the journal", path, error))?;
            match std::fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
                _ => continue,
            }
            return Ok(Self { file, path: path.to_owned(), found });
        }
    }

    /// Whether an earlier run had made the file. If nothing stands in it, that run was killed at its
    /// very beginning.
    pub(crate) fn was_found(&self) -> bool {
        self.found
    }

    /// Whether it begins like a journal, as far as it goes: what is overwritten and removed should be
    /// one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn begins_like_one(&self) -> Result<bool> {
        let (mut start, mut len) = ([0; BEGINNING.len()], 0);
        while len < start.len() {
            match self.file.read_at(&mut start[len..], len as u64) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read the journal", &self.path, error)),
            }
        }
        Ok(start[..len] == BEGINNING[..len])
    }

    /// A second handle at the start of the file, for reading.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn reader(&self) -> Result<JournalReader<File>> {
        let file =
            File::open(&self.path).map_err(|error| Error::io("open the journal", &self.path, error))?;
        Ok(JournalReader::new(file))
    }

    /// What stands in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn summary(&self) -> Result<Option<Summary>> {
        let file =
            File::open(&self.path).map_err(|error| Error::io("open the journal", &self.path, error))?;
        Summary::read(file)
    }

    /// Cuts it at `len` and goes on there.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub(crate) fn truncate(&mut self, len: u64) -> Result<()> {
        let done = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        done.map(drop).map_err(|error| Error::io("cut the journal", &self.path, error))
    }

    /// Appends records and makes them durable.
    ///
    /// # Errors
    /// They may be lost.
    pub(crate) fn append(&mut self, records: impl IntoIterator<Item = Record>) -> Result<()> {
        let mut lines = Vec::new();
        for record in records {
            lines.extend_from_slice(&record.to_line()?);
        }
        let done = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        done.map_err(|error| Error::io("write the journal", &self.path, error))
    }

    /// Removes it; the last step of a complete run.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|error| Error::io("remove the journal", &self.path, error))
    }
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::failed(format!("the journal is damaged: {what}")).with_hint("start again with --restart")
}

/// Version of the journal of a plain image.
pub(crate) const VERSION: u32 = 1;

/// Version of the journal of a container: programs that know only the other one must not touch it.
pub(crate) const CONTAINER_VERSION: u32 = 2;

/// What every journal begins with.
const BEGINNING: &[u8] = b"{\"record\":\"header\",";

/// Bytes before a checkpoint that its checksum covers, at most.
pub(crate) const TAIL_LEN: u64 = 64 << 10;

/// Three-byte length that stands for a unit stored as it is.
const STORED: u32 = 0x00ff_ffff;

/// Longer lines are damage. The longest real one is the header of a container with a large descriptor;
/// the longest of a chunk has the lengths of 8192 clusters of 512 bytes.
pub(crate) const MAX_LINE_LEN: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmferry_formats::digest::Algorithm;

    use super::*;

    fn disk_header(file: Option<&str>) -> DiskHeader {
        DiskHeader {
            file: file.map(str::to_owned),
            source: "disk.raw".into(),
            identity: Some(SourceIdentity::Image {
                files: vec![SourceIdentity::File {
                    device: 1,
                    inode: 2,
                    size: 3,
                    modified_ns: -4,
                    changed_ns: i64::MAX,
                }],
            }),
            size: Some(12 << 20),
        }
    }

    fn header() -> Record {
        Record::Header(Box::new(Header {
            version: VERSION,
            name: "disk.qcow2".into(),
            spec: "qcow2".into(),
            digest: Some("sha256".into()),
            flat_sha256: false,
            disks: vec![disk_header(None)],
            container: None,
            encoder: "none".into(),
            device: u64::MAX,
            inode: 7,
        }))
    }

    fn chunk(index: u64, shape: UnitShape, out: u64) -> ChunkRecord {
        let mut outline = ChunkShape::new(index * CHUNK_LEN, CHUNK_LEN);
        outline.push(shape, 64);
        let content = if shape == UnitShape::Absent { 0 } else { u8::try_from(index).unwrap() + 1 };
        ChunkRecord::new(&outline, Check::Digest(Algorithm::Sha256.hash(&[content])), out, false)
    }

    fn point(at: u64, out: u64) -> Record {
        Record::Checkpoint(Checkpoint { at, out, ..Checkpoint::default() })
    }

    /// A header of a container with two disks.
    fn container() -> Record {
        let Record::Header(plain) = header() else { unreachable!() };
        let content = serde_json::json!({ "descriptor": "<Envelope/>\n" });
        Record::Header(Box::new(Header {
            version: CONTAINER_VERSION,
            disks: vec![disk_header(Some("a.vmdk")), disk_header(Some("b.vmdk"))],
            container: Some(ContainerHeader {
                format: "ova".into(),
                parameters: "ova mtime=0".into(),
                file_hash: "sha1".into(),
                separate: false,
                content: content.as_object().unwrap().clone(),
            }),
            ..*plain
        }))
    }

    fn start(disk: u32, start: u64) -> Record {
        Record::DiskStart(DiskStart { disk, start, out: start + 100 })
    }

    fn end(disk: u32, size: u64, out: u64) -> Record {
        Record::DiskEnd(DiskEnd {
            disk,
            size,
            zero: 0,
            start: out - 50,
            len: 50,
            out,
            tree: Some("ab".into()),
            hash: Some("cd".into()),
        })
    }

    fn point_in(disk: u32, at: u64, out: u64) -> Record {
        let sha1 = Some("AAAA".into());
        Record::Checkpoint(Checkpoint { disk: Some(disk), at, out, sha1, ..Checkpoint::default() })
    }

    fn closed(size: u64) -> Record {
        Record::Closed(Closed { size, output_size: 9000, zero: 0, tree: None, file_sha256: None })
    }

    /// A journal of a whole container, of whose disks each has one chunk.
    fn whole_container() -> Vec<Record> {
        vec![
            container(),
            start(0, 1000),
            point_in(0, 0, 1100),
            Record::Chunk(chunk(0, UnitShape::Data, 2000)),
            end(0, CHUNK_LEN, 2500),
            point_in(0, CHUNK_LEN, 2500),
            start(1, 3000),
            Record::Chunk(chunk(0, UnitShape::Data, 4000)),
            point_in(1, CHUNK_LEN, 4000),
            end(1, CHUNK_LEN, 4500),
            point_in(1, CHUNK_LEN, 4500),
            closed(2 * CHUNK_LEN),
        ]
    }

    fn lines(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|record| record.to_line().unwrap()).collect()
    }

    #[test]
    fn a_journal_of_disks_cut_anywhere_ends_at_its_last_whole_checkpoint() {
        let records = whole_container();
        let expected: Vec<(Option<u64>, usize, Option<u32>, bool)> = vec![
            (None, 0, None, false),
            (None, 0, None, false),
            (Some(1100), 0, Some(0), false),
            (Some(1100), 0, Some(0), false),
            (Some(1100), 0, Some(0), false),
            (Some(2500), 1, None, false),
            (Some(2500), 1, None, false),
            (Some(2500), 1, None, false),
            (Some(4000), 1, Some(1), false),
            (Some(4000), 1, Some(1), false),
            (Some(4500), 2, None, false),
            (Some(4500), 2, None, true),
        ];
        for (count, expected) in (1..).zip(expected) {
            let mut bytes = lines(&records[..count]);
            for torn in [&b""[..], b"{\"record\":\"chunk\""] {
                bytes.extend_from_slice(torn);
                let summary = Summary::read(&bytes[..]).unwrap().unwrap();
                let found = (
                    summary.checkpoint.map(|point| point.out),
                    summary.ended.len(),
                    summary.open,
                    summary.closed.is_some(),
                );
                assert_eq!(found, expected, "{count} lines");
            }
        }
    }

    #[test]
    fn disks_that_do_not_follow_each_other_end_the_journal() {
        let all = whole_container();
        let lost = |at: usize, record: Record| {
            let records: Vec<Record> = all[..at].iter().cloned().chain([record]).collect();
            let point =
                Record::Checkpoint(Checkpoint { disk: Some(1), at: 0, out: 9000, ..Checkpoint::default() });
            let before = Summary::read(&lines(&all[..at])[..]).unwrap().unwrap();
            let found = Summary::read(&lines(&[&records[..], &[point]].concat())[..]).unwrap().unwrap();
            assert_eq!(found, before, "{:?}", records.last());
        };
        lost(1, start(1, 1000));
        lost(1, Record::Chunk(chunk(0, UnitShape::Data, 2000)));
        lost(1, end(0, 0, 2500));
        lost(3, start(1, 1200));
        lost(4, end(0, 7, 2500));
        lost(4, end(1, CHUNK_LEN, 2500));
        lost(4, end(0, CHUNK_LEN, 1500));
        lost(6, start(0, 3000));
        lost(6, Record::Chunk(chunk(1, UnitShape::Data, 4000)));
        lost(6, closed(CHUNK_LEN));
        lost(9, closed(2 * CHUNK_LEN));
        lost(11, start(2, 5000));
        lost(11, closed(CHUNK_LEN));
        lost(11, point(CHUNK_LEN, 4500));
    }

    #[test]
    fn the_header_of_a_plain_image_is_what_it_was() {
        let line = String::from_utf8(header().to_line().unwrap()).unwrap();
        let expected = concat!(
            r#"{"record":"header","version":1,"name":"disk.qcow2","spec":"qcow2","digest":"sha256","#,
            r#""flat_sha256":false,"source":"disk.raw","identity":{"kind":"image","files":[{"kind":"file","#,
            r#""device":1,"inode":2,"size":3,"modified_ns":-4,"changed_ns":9223372036854775807}]},"#,
            r#""size":12582912,"encoder":"none","device":18446744073709551615,"inode":7} "#
        );
        assert_eq!(line[..line.len() - 9], *expected);
    }

    #[test]
    fn every_record_comes_back_from_its_line() {
        let records = [
            header(),
            container(),
            start(3, 77),
            end(3, 77, 777),
            point_in(3, 77, 777),
            Record::Chunk(chunk(0, UnitShape::Data, 1)),
            Record::Chunk(chunk(1, UnitShape::Compressed(70), 2)),
            Record::Chunk(chunk(2, UnitShape::Absent, 2)),
            point(12 << 20, 2),
            Record::Tainted { reason: "it changed\n\"so\"".into() },
            Record::Closed(Closed {
                size: 1,
                output_size: 2,
                zero: 0,
                tree: Some("ab".into()),
                file_sha256: None,
            }),
        ];
        for record in records {
            let line = record.to_line().unwrap();
            assert_eq!(Record::from_line(line.strip_suffix(b"\n").unwrap()), Some(record));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_makes_a_line_invalid() {
        let line = Record::Chunk(chunk(3, UnitShape::Compressed(9), 77)).to_line().unwrap();
        let line = line.strip_suffix(b"\n").unwrap();
        for bit in 0..line.len() * 8 {
            let mut line = line.to_vec();
            line[bit / 8] ^= 1 << (bit % 8);
            // Upper case digits of the checksum are the same checksum.
            let same = Record::from_line(&line)
                .is_some_and(|record| record == Record::Chunk(chunk(3, UnitShape::Compressed(9), 77)));
            assert!(!same || line.len() - bit / 8 <= 8, "bit {bit}");
            assert!(same || Record::from_line(&line).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_journal_cut_anywhere_ends_at_its_last_whole_checkpoint() {
        let records = [
            header(),
            Record::Chunk(chunk(0, UnitShape::Data, 100)),
            point(CHUNK_LEN, 100),
            Record::Chunk(chunk(1, UnitShape::Data, 200)),
            Record::Chunk(chunk(2, UnitShape::Absent, 200)),
            point(3 * CHUNK_LEN, 200),
        ];
        let all = lines(&records);
        let ends: Vec<usize> = (1..=records.len()).map(|count| lines(&records[..count]).len()).collect();
        for cut in 0..=all.len() {
            let summary = Summary::read(&all[..cut]).unwrap();
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            let expected = match whole {
                0 => None,
                1 | 2 => Some((None, ends[0])),
                3..=5 => Some((Some(100), ends[2])),
                _ => Some((Some(200), ends[5])),
            };
            let found = summary.map(|summary| {
                (summary.checkpoint.map(|point| point.out), usize::try_from(summary.valid_len).unwrap())
            });
            assert_eq!(found, expected, "cut at {cut}");
        }
    }

    #[test]
    fn chunks_that_do_not_follow_each_other_end_the_journal() {
        let good = [header(), Record::Chunk(chunk(0, UnitShape::Data, 100)), point(CHUNK_LEN, 100)];
        for bad in [
            Record::Chunk(chunk(2, UnitShape::Data, 300)),
            Record::Chunk(chunk(0, UnitShape::Data, 200)),
            Record::Chunk(chunk(1, UnitShape::Data, 99)),
            point(2 * CHUNK_LEN, 100),
            header(),
        ] {
            let all = [&lines(&good)[..], &lines(&[bad.clone(), point(2 * CHUNK_LEN, 300)])].concat();
            let summary = Summary::read(&all[..]).unwrap().unwrap();
            assert_eq!(summary.checkpoint.unwrap().out, 100, "{bad:?}");
            assert_eq!(summary.valid_len, lines(&good).len() as u64, "{bad:?}");
        }
    }

    #[test]
    fn zeros_of_whole_chunks_become_one_record() {
        let mut first = chunk(0, UnitShape::Absent, 5);
        assert!(first.join(&chunk(1, UnitShape::Absent, 6)));
        assert_eq!((first.len, first.out), (2 * CHUNK_LEN, 6));
        assert!(!first.join(&chunk(3, UnitShape::Absent, 6)), "a gap");
        assert!(!first.join(&chunk(2, UnitShape::Data, 7)), "data");
        assert_eq!(first.shape(65536).unwrap(), ChunkShape::absent(0, 2 * CHUNK_LEN, 65536));
    }

    proptest! {
        #[test]
        fn shapes_survive_packing(
            units in proptest::collection::vec(0_u32..4, 1..=64),
            short in 0_u64..65536,
        ) {
            let len = (units.len() as u64 * 65536 - short).max(1);
            let mut shape = ChunkShape::new(8 * CHUNK_LEN, len);
            for unit in &units {
                shape.push(match unit { 0 => UnitShape::Absent, 1 => UnitShape::Data, n => UnitShape::Compressed(n * 30_000) }, 1);
            }
            let record = ChunkRecord::new(&shape, Check::Crc(7), 99, false);
            let line = Record::Chunk(record.clone()).to_line().unwrap();
            let back = Record::from_line(line.strip_suffix(b"\n").unwrap()).unwrap();
            prop_assert_eq!(&back, &Record::Chunk(record.clone()));
            prop_assert_eq!(record.check().unwrap(), Check::Crc(7));
            prop_assert_eq!(record.shape(65536).unwrap(), shape);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Summary::read(&bytes[..]);
            let _ = Record::from_line(&bytes);
        }
    }
}
