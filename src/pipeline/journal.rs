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
pub struct Header {
    /// Version of the journal's format.
    pub version: u32,
    /// Final base name of the output; ids derive from it.
    pub name: String,
    /// Parameters of the writer with defaults resolved.
    pub spec: String,
    /// Name of the digest algorithm, if any.
    pub digest: Option<String>,
    /// Whether the output file's SHA-256 is taken in passing.
    pub flat_sha256: bool,
    /// Source, as people call it.
    pub source: String,
    /// What proves that the source is the same; `None` = nothing can.
    pub identity: Option<SourceIdentity>,
    /// Size of the disk in bytes, if it was known at the start.
    pub size: Option<u64>,
    /// Encoder whose bytes these are.
    pub encoder: String,
    /// Device number of the partial output.
    pub device: u64,
    /// Inode number of the partial output.
    pub inode: u64,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Guest bytes before it.
    pub at: u64,
    /// Output bytes before it.
    pub out: u64,
    /// Guest bytes before it that were zero.
    pub zero: u64,
    /// Bytes of output before it that `tail_crc` covers.
    pub tail_len: u64,
    /// CRC-32C of these.
    pub tail_crc: u32,
    /// State of the running SHA-256 of the output, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What a complete output is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Length of the output in bytes.
    pub output_size: u64,
    /// Guest bytes that are zero and take no space.
    pub zero: u64,
    /// Disk digest, hexadecimal.
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
    /// Bytes of the journal up to and with the last line that counts.
    pub valid_len: u64,
    /// The output is complete.
    pub closed: Option<Closed>,
    /// The source is known to have changed.
    pub tainted: Option<String>,
}

impl Summary {
    /// Reads a journal to the end of what is valid. Chunks must follow each other without a gap.
    /// `None` if not even the header is there.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn read(reader: impl io::Read) -> Result<Option<Self>> {
        let mut journal = JournalReader::new(reader);
        let Some(Record::Header(header)) = journal.next_record()? else { return Ok(None) };
        let valid_len = journal.offset();
        let mut this = Self { header: *header, checkpoint: None, valid_len, closed: None, tainted: None };
        let (mut at, mut out) = (0_u64, 0_u64);
        while let Some(record) = journal.next_record()? {
            match record {
                Record::Chunk(chunk)
                    if chunk.at == at && chunk.len > 0 && chunk.out >= out && this.closed.is_none() =>
                {
                    let Some(end) = at.checked_add(chunk.len) else { break };
                    (at, out) = (end, chunk.out);
                    continue;
                }
                Record::Checkpoint(point) if point.at == at && point.tail_len <= point.out => {
                    this.checkpoint = Some(point);
                }
                Record::Closed(closed) if closed.size == at => this.closed = Some(closed),
                Record::Tainted { reason } => this.tainted = Some(reason),
                Record::Checkpoint(_) | Record::Chunk(_) | Record::Closed(_) | Record::Header(_) => break,
            }
            this.valid_len = journal.offset();
        }
        Ok(Some(this))
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

/// Version of the journal's format.
pub(crate) const VERSION: u32 = 1;

/// What every journal begins with.
const BEGINNING: &[u8] = b"{\"record\":\"header\",";

/// Bytes before a checkpoint that its checksum covers, at most.
pub(crate) const TAIL_LEN: u64 = 64 << 10;

/// Three-byte length that stands for a unit stored as it is.
const STORED: u32 = 0x00ff_ffff;

/// Longer lines are damage. The longest real one has the lengths of 8192 clusters of 512 bytes.
const MAX_LINE_LEN: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmferry_formats::digest::Algorithm;

    use super::*;

    fn header() -> Record {
        Record::Header(Box::new(Header {
            version: VERSION,
            name: "disk.qcow2".into(),
            spec: "qcow2".into(),
            digest: Some("sha256".into()),
            flat_sha256: false,
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
        Record::Checkpoint(Checkpoint { at, out, zero: 0, tail_len: 0, tail_crc: 0, sha256: None })
    }

    fn lines(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|record| record.to_line().unwrap()).collect()
    }

    #[test]
    fn every_record_comes_back_from_its_line() {
        let records = [
            header(),
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
