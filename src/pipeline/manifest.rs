//! The manifest, `<output>.vmferry.jsonl`: digests and sizes of an output, equal for equal content
//! and parameters. `docs/manifest.md` describes the file.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use vmferry_formats::{
    chunk::{CHUNK_LEN, LEAF_LEN},
    digest::{Algorithm, Digest, TreeHasher},
};

use super::process::Check;
use crate::error::{Error, ErrorKind, Result};

/// First line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Version of the manifest's format.
    #[serde(rename = "vmferry-manifest")]
    pub version: u32,
    /// Format of the output.
    pub format: String,
    /// Parameters of the writer.
    pub parameters: String,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Bytes that are digested: the virtual size rounded up to 512.
    pub content_size: u64,
    /// Name of the digest: `tree-sha256` or `tree-blake3`.
    pub digest: String,
    /// Bytes in a leaf.
    pub leaf_size: u64,
    /// Bytes in a chunk.
    pub chunk_size: u64,
    /// Name of the image in its container, if it lies in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Offset of the image's first byte in the output, if it lies in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// A run of chunks with the same digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// First guest byte.
    at: u64,
    /// Number of chunks.
    chunks: u64,
    /// Chunk digest, hexadecimal.
    digest: String,
}

/// Last line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// Disk digest, hexadecimal.
    pub tree: String,
    /// Length of the output, or of the image in its container, in bytes.
    pub output_size: u64,
    /// SHA-256 of it, hexadecimal, if it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_sha256: Option<String>,
    /// SHA-1 of it, hexadecimal, if that was taken instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_sha1: Option<String>,
}

/// First line of the manifest of a container. A manifest of each of its disks follows, in their order,
/// then a [`ContainerTail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerHead {
    /// Version of the manifest's format.
    #[serde(rename = "vmferry-manifest")]
    pub version: u32,
    /// Format of the output.
    pub format: String,
    /// Parameters of the container.
    pub parameters: String,
    /// Number of disks.
    pub disks: u32,
}

/// Last line of the manifest of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTail {
    /// Length of the output in bytes.
    pub output_size: u64,
    /// SHA-256 of the output file, hexadecimal, if it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_sha256: Option<String>,
}

/// Writes a manifest run by run.
pub(crate) struct ManifestWriter<W: Write> {
    writer: BufWriter<W>,
    run: Option<Run>,
}

impl<W: Write> ManifestWriter<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer: BufWriter::new(writer), run: None }
    }

    /// Writes the first line of a disk, or the first or last of a container.
    pub(crate) fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.writer.write_all(&line).map_err(failed)
    }

    /// Adds the digest of the chunks that cover `len` bytes from `at` on.
    pub(crate) fn push(&mut self, at: u64, len: u64, digest: Digest) -> Result<()> {
        let (digest, chunks) = (digest.to_string(), len.div_ceil(CHUNK_LEN));
        match &mut self.run {
            Some(run) if run.digest == digest => run.chunks += chunks,
            _ => {
                self.flush_run()?;
                self.run = Some(Run { at, chunks, digest });
            }
        }
        Ok(())
    }

    /// Ends a disk.
    pub(crate) fn end_disk(&mut self, tail: &Tail) -> Result<()> {
        self.flush_run()?;
        self.line(tail)
    }

    /// Ends it and gives the writer back.
    pub(crate) fn finish(self) -> Result<W> {
        self.writer.into_inner().map_err(|error| failed(error.into_error()))
    }

    fn flush_run(&mut self) -> Result<()> {
        match self.run.take() {
            Some(run) => self.line(&run),
            None => Ok(()),
        }
    }
}

/// A manifest that was read to its end and agrees with itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// First line.
    pub head: Head,
    /// Hash function.
    pub algorithm: Algorithm,
    /// Disk digest that the chunk digests add up to.
    pub tree: Digest,
    /// Last line.
    pub tail: Tail,
}

impl Manifest {
    /// Reads a manifest to its end: chunks without a gap, as many as the size says, adding up to
    /// the disk digest.
    ///
    /// # Errors
    /// The file cannot be read, or is not a manifest, or does not agree with itself.
    pub fn check(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open the manifest", path, error))?;
        Self::read(file).map_err(|error| error.with_hint(format!("{} cannot serve as proof", path.display())))
    }

    /// As [`check`](Self::check), from any reader.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub fn read(reader: impl io::Read) -> Result<Self> {
        let (manifest, mut rest) = Self::read_one(buffered(reader))?;
        demand_end(&mut rest)?;
        Ok(manifest)
    }

    /// Reads one manifest and gives back what stands behind it.
    fn read_one<R: io::Read>(reader: BufReader<R>) -> Result<(Self, BufReader<R>)> {
        let mut runs = ManifestReader::begin(reader)?;
        let (head, algorithm) = (runs.head.clone(), runs.algorithm);
        let mut tree = TreeHasher::new(algorithm, Some(head.content_size));
        while let Some((_, len, check)) = runs.next_run()? {
            let Check::Digest(digest) = check else { return Err(wrong("a chunk has no digest")) };
            tree.push(digest, len.div_ceil(CHUNK_LEN));
        }
        let tail = runs.tail.take().ok_or_else(|| wrong("it has no last line"))?;
        let tree = tree.finish(head.content_size);
        if tail.tree != tree.to_string() {
            return Err(wrong(format!("its chunk digests add up to {tree}, it says {}", tail.tree)));
        }
        Ok((Self { head, algorithm, tree, tail }, runs.reader))
    }
}

/// The manifest of a container that was read to its end and agrees with itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerManifest {
    /// First line.
    pub head: ContainerHead,
    /// What it says of each disk, in their order.
    pub disks: Vec<Manifest>,
    /// Last line.
    pub tail: ContainerTail,
}

impl ContainerManifest {
    /// Reads the manifest of a container to its end, as [`Manifest::check`] does that of an image.
    ///
    /// # Errors
    /// The file cannot be read, or is not the manifest of a container, or does not agree with itself.
    pub fn check(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open the manifest", path, error))?;
        Self::read(file).map_err(|error| error.with_hint(format!("{} cannot serve as proof", path.display())))
    }

    /// As [`check`](Self::check), from any reader.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub fn read(reader: impl io::Read) -> Result<Self> {
        let (head, mut reader) = container_head(buffered(reader))?;
        let (mut disks, mut content) = (Vec::new(), 0_u64);
        for _ in 0..head.disks {
            let (disk, rest) = Manifest::read_one(reader)?;
            reader = rest;
            content = content.saturating_add(disk.head.content_size);
            if content > MAX_DISK_LEN {
                return Err(wrong("its disks are larger than 64 TiB together"));
            }
            disks.push(disk);
        }
        let line = read_line(&mut reader)?.ok_or_else(|| wrong("it ends before its last line"))?;
        let tail = serde_json::from_slice(&line)
            .map_err(|error| wrong("its last line is damaged").with_source(error))?;
        demand_end(&mut reader)?;
        Ok(Self { head, disks, tail })
    }
}

fn container_head<R: io::Read>(mut reader: BufReader<R>) -> Result<(ContainerHead, BufReader<R>)> {
    let line = read_line(&mut reader)?.ok_or_else(|| wrong("it is empty"))?;
    let head: ContainerHead = serde_json::from_slice(&line)
        .map_err(|error| wrong("its first line is not that of a container").with_source(error))?;
    if head.version != CONTAINER_VERSION || head.disks == 0 {
        return Err(wrong(format!("version {} of {} disks is not known here", head.version, head.disks)));
    }
    Ok((head, reader))
}

fn buffered<R: io::Read>(reader: R) -> BufReader<R> {
    BufReader::with_capacity(256 << 10, reader)
}

fn demand_end(reader: &mut impl io::BufRead) -> Result<()> {
    match read_line(reader)? {
        Some(_) => Err(wrong("there is something behind its last line")),
        None => Ok(()),
    }
}

/// Reads the chunk digests of a manifest in order.
#[derive(Debug)]
pub struct ManifestReader<R> {
    reader: BufReader<R>,
    head: Head,
    algorithm: Algorithm,
    at: u64,
    tail: Option<Tail>,
}

impl<R: io::Read> ManifestReader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// It is not a manifest, or one of another version.
    pub fn new(reader: R) -> Result<Self> {
        Self::begin(buffered(reader))
    }

    /// Reads the manifest of a container up to the first line of disk number `disk`.
    ///
    /// # Errors
    /// It is not the manifest of a container, or what stands before that disk is damaged.
    pub fn of_disk(reader: R, disk: u32) -> Result<Self> {
        let (head, mut reader) = container_head(buffered(reader))?;
        if disk >= head.disks {
            return Err(wrong(format!("it has no disk {disk}, only {}", head.disks)));
        }
        for _ in 0..disk {
            let mut earlier = Self::begin(reader)?;
            while earlier.next_run()?.is_some() {}
            reader = earlier.reader;
        }
        Self::begin(reader)
    }

    fn begin(mut reader: BufReader<R>) -> Result<Self> {
        let line = read_line(&mut reader)?.ok_or_else(|| wrong("it is empty"))?;
        if serde_json::from_slice::<ContainerHead>(&line).is_ok_and(|head| head.version == CONTAINER_VERSION)
        {
            return Err(wrong("it is that of several disks, not of one image"));
        }
        let head: Head = serde_json::from_slice(&line)
            .map_err(|error| wrong("its first line is not that of a manifest").with_source(error))?;
        let algorithm = match head.digest.as_str() {
            "tree-sha256" => Algorithm::Sha256,
            "tree-blake3" => Algorithm::Blake3,
            other => return Err(wrong(format!("unknown digest {other:?}"))),
        };
        let content = head.virtual_size.checked_next_multiple_of(512);
        if head.version != VERSION
            || head.leaf_size != LEAF_LEN as u64
            || head.chunk_size != CHUNK_LEN
            || content != Some(head.content_size)
            || head.content_size > MAX_DISK_LEN
        {
            return Err(wrong(format!("version {} or its sizes are not known here", head.version)));
        }
        Ok(Self { reader, head, algorithm, at: 0, tail: None })
    }

    /// The next run: guest offset, guest bytes, check of each chunk. `None` behind the last.
    ///
    /// # Errors
    /// A line is damaged, or the runs do not follow each other.
    pub fn next_run(&mut self) -> Result<Option<(u64, u64, Check)>> {
        if self.at == self.head.content_size {
            let line = read_line(&mut self.reader)?.ok_or_else(|| wrong("it ends before its last line"))?;
            let tail = serde_json::from_slice(&line)
                .map_err(|error| wrong("its last line is damaged").with_source(error))?;
            self.tail = Some(tail);
            self.at += 1;
        }
        if self.at > self.head.content_size {
            return Ok(None);
        }
        let line = read_line(&mut self.reader)?
            .ok_or_else(|| wrong(format!("it ends at guest byte {}", self.at)))?;
        let run: Run = serde_json::from_slice(&line).map_err(|error| {
            wrong(format!("the line for guest byte {} is damaged", self.at)).with_source(error)
        })?;
        let digest: Digest = run.digest.parse().map_err(|error| {
            wrong(format!("the digest at guest byte {} is damaged", run.at)).with_source(error)
        })?;
        let left = (self.head.content_size - self.at).div_ceil(CHUNK_LEN);
        if run.at != self.at || run.chunks == 0 || run.chunks > left {
            return Err(wrong(format!("the line for guest byte {} does not follow the one before", run.at)));
        }
        let len = run.chunks.saturating_mul(CHUNK_LEN).min(self.head.content_size - self.at);
        self.at += len;
        Ok(Some((run.at, len, Check::Digest(digest))))
    }
}

fn read_line(reader: &mut impl io::BufRead) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    io::Read::take(reader, MAX_LINE_LEN)
        .read_until(b'\n', &mut line)
        .map_err(|error| Error::failed("cannot read the manifest").with_source(error))?;
    if line.is_empty() { Ok(None) } else { Ok(Some(line)) }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Verification, format!("the manifest is not valid: {}", what.into()))
}

fn failed(error: io::Error) -> Error {
    Error::failed("cannot write the manifest").with_source(error)
}

/// Version of the manifest's format.
pub(crate) const VERSION: u32 = 1;

/// Version of the format of a container's manifest.
pub(crate) const CONTAINER_VERSION: u32 = 2;

/// No line is longer.
const MAX_LINE_LEN: u64 = 64 << 10;

/// Largest disk in bytes. A line of a manifest can stand for that much hashing, so a small file must
/// not keep a reader busy for ever.
pub(crate) const MAX_DISK_LEN: u64 = 64 << 40;
