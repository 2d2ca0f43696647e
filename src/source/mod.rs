//! Where disks come from. Two kinds of source, told apart by what they can do:
//!
//! * [`ByteStore`]: bytes at any offset (file, block device, URL with ranges). A RAW disk is one
//!   store; an image is a [`FormatReader`](vmferry_formats::FormatReader) over one or several.
//! * [`ByteStream`]: bytes in order (stdin, gzip and zstd streams, streamOptimized on a pipe).
//!
//! Retries and reconnects live here: nobody downstream sees a broken connection.

mod appliance;
mod file;
mod http;
mod image;
mod location;
mod num;
#[cfg(feature = "cloud")]
mod object;
mod open;
mod random;
mod stream;
mod window;

use std::{future::Future, ops::Range, pin::Pin, sync::Arc};

use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(crate) use self::appliance::sample;
pub(crate) use self::appliance::stated_size;
#[cfg(feature = "cloud")]
pub(crate) use self::http::{Answered, Ask, Authority, Refusal, SignedClient};
#[cfg(feature = "cloud")]
pub(crate) use self::object::{object_is_there, read_object};
pub use self::{
    appliance::{Appliance, ApplianceDisk, ApplianceFile, ApplianceKind, DiskChoice, FileRole, Obstacle},
    file::FileStore,
    http::{Broken, Endpoint, HttpOptions, HttpStore, Links, Rate, Transfer},
    image::ImagePlan,
    open::{Opened, OpenedSource, SourceFormat, SourceOptions, is_appliance, open, open_any, open_links},
    random::RawPlan,
    window::Window,
};
pub(crate) use self::{location::Kind, open::open_window};
use crate::{error::Result, pipeline::buffer::Buffer};
use vmferry_formats::plan::Codec;

/// A future that owns what it works on.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One read of a [`ByteStore`]: `len` bytes from byte `offset` of the store to byte `at` of the
/// buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRange {
    /// First byte of the store.
    pub offset: u64,
    /// First byte of the buffer.
    pub at: usize,
    /// Number of bytes.
    pub len: usize,
}

/// What [`ByteStore::read_sparse`] gives back.
#[derive(Debug)]
pub struct SparseRead {
    /// The buffer; unspecified in the holes.
    pub buffer: Buffer,
    /// Ranges of it that are zeros, in order and apart from one another.
    pub holes: Vec<Range<usize>>,
}

/// A run of a store's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreExtent {
    /// May hold anything.
    Data(Range<u64>),
    /// Known to read as zeros.
    Zero(Range<u64>),
}

/// Bytes at any offset.
pub trait ByteStore: Send + Sync + 'static {
    /// What people call it: a path or a URL without secrets.
    fn name(&self) -> String;

    /// Length in bytes.
    fn size(&self) -> u64;

    /// Bytes that it takes on its disk, where that can be asked.
    fn allocated(&self) -> Option<u64> {
        None
    }

    /// What must be the same for a later run to go on with this source; `None` if the store cannot
    /// tell (a block device).
    fn identity(&self) -> Option<SourceIdentity>;

    /// The extent at `offset` (below the size), which it begins with, as long as it can be told
    /// cheaply. Stores without a map answer `Data` to their end.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn extent_at(&self, offset: u64) -> Result<StoreExtent> {
        Ok(StoreExtent::Data(offset..self.size()))
    }

    /// Executes `reads` (inside the store and inside `buffer`) and gives the buffer back. Fails if
    /// even one byte is missing. Retries are the store's own matter.
    fn read(self: Arc<Self>, reads: Vec<ReadRange>, buffer: Buffer) -> BoxFuture<'static, Result<Buffer>>;

    /// As [`read`](Self::read), but ranges of the buffer that are zero in the store may be left alone:
    /// they are told instead, in order. For stores that find zeros on the way cheaper than others can
    /// look for them afterwards.
    fn read_sparse(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        buffer: Buffer,
    ) -> BoxFuture<'static, Result<SparseRead>> {
        Box::pin(async move { Ok(SparseRead { buffer: self.read(reads, buffer).await?, holes: Vec::new() }) })
    }

    /// Most reads that are worth having in flight at once.
    fn concurrency(&self) -> usize;

    /// Whether the store still is what it was when it was opened, as far as it can tell: to be
    /// asked behind the last read, before anybody calls the copy complete.
    ///
    /// # Errors
    /// It has changed, or cannot be asked.
    fn check_unchanged(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What must not change between the runs that write one output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SourceIdentity {
    /// A volume that KubeVirt exports. Exports come and go; what they are made of stays.
    Export {
        /// Kind of the object that is exported: `VirtualMachine`, `VirtualMachineSnapshot`,
        /// `PersistentVolumeClaim`.
        source: String,
        /// Its UID.
        uid: String,
        /// Generation of its specification: starting a VM changes it.
        generation: Option<i64>,
        /// Since when a VM has not been running, as the cluster says.
        stopped_since: Option<String>,
        /// UID of the volume's claim; `None` where the volume was made for the export.
        volume_uid: Option<String>,
        /// Size that the claim asks for.
        volume_size: Option<String>,
        /// Name of the volume.
        volume: String,
    },
    /// A file on this machine.
    File {
        /// Device number.
        device: u64,
        /// Inode number.
        inode: u64,
        /// Bytes.
        size: u64,
        /// Modification time, nanoseconds since the epoch.
        modified_ns: i64,
        /// Status change time, nanoseconds since the epoch.
        changed_ns: i64,
    },
    /// What a URL answers.
    Http {
        /// The URL without user info, query and fragment.
        url: String,
        /// Bytes.
        size: Option<u64>,
        /// Strong ETag, if any.
        etag: Option<String>,
        /// Last-Modified, if any.
        last_modified: Option<String>,
    },
    /// An image and the files it refers to.
    Image {
        /// The image first.
        files: Vec<Self>,
    },
    /// A part of a file: an entry of an archive.
    Part {
        /// The whole.
        file: Box<Self>,
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

/// How a stream can be read again from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Open it again; the same bytes come.
    FromStart,
    /// Not at all (a pipe).
    Never,
}

/// What a stream put into a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamChunk {
    /// The next `len` bytes; fewer than asked for only at the end of the disk. Bytes in `holes`
    /// (relative to the buffer, in order) are zeros that were not written into the buffer.
    Data {
        /// Bytes of the disk.
        len: usize,
        /// Ranges of the buffer that were left alone.
        holes: Vec<Range<usize>>,
    },
    /// The stream has ended, properly.
    End,
    /// The next `len` bytes are zeros: whole buffers of them, fewer only at the end of the disk.
    Zero {
        /// Bytes of the disk.
        len: u64,
    },
}

/// The bytes of a disk in order. Calls block: they run on a thread of their own.
pub trait ByteStream: Send + 'static {
    /// What people call it.
    fn name(&self) -> String;

    /// Length of the disk in bytes, if it is known before the end.
    fn size(&self) -> Option<u64>;

    /// As for [`ByteStore::identity`]; `None` for pipes.
    fn identity(&self) -> Option<SourceIdentity>;

    /// How it restarts.
    fn restart(&self) -> Restart;

    /// The next piece, up to `buffer.len()` bytes.
    ///
    /// # Errors
    /// The source broke, is corrupt, or is shorter or longer than it announced. Completeness is
    /// proven before [`StreamChunk::End`] is returned.
    fn next_chunk(&mut self, buffer: &mut [u8]) -> Result<StreamChunk>;

    /// Bytes of the encoded source (compressed file, HTTP body) taken so far.
    fn bytes_read(&self) -> u64;

    /// Bytes of memory that unpacking may take beside the buffers it is given.
    fn memory(&self) -> u64 {
        0
    }
}

/// A disk, ready to be read.
pub enum Source {
    /// Any part of it, in any order.
    Random(Box<dyn DiskPlan>),
    /// From its start to its end.
    Stream(Box<dyn ByteStream>),
}

impl Source {
    /// Bytes of the disk; `None` if only its end tells.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Random(plan) => Some(plan.size()),
            Self::Stream(stream) => stream.size(),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Random(plan) => write!(f, "Random({:?} bytes)", plan.size()),
            Self::Stream(stream) => write!(f, "Stream({})", stream.name()),
        }
    }
}

/// Says how to read a disk of known size, piece by piece, from any chunk on.
pub trait DiskPlan: Send + 'static {
    /// Length of the disk in bytes.
    fn size(&self) -> u64;

    /// The piece of the disk at `guest_offset`: a multiple of the chunk length, below the size.
    fn piece_at(&mut self, guest_offset: u64) -> BoxFuture<'_, Result<Piece>>;

    /// The files that pieces name by index; the image itself first.
    fn stores(&self) -> &[Arc<dyn ByteStore>];

    /// Largest guest range in bytes that is decoded in one step: a power of two, at most 2 MiB; 1
    /// where nothing is compressed.
    fn decode_len(&self) -> usize;

    /// What must be the same for a later run to go on.
    fn identity(&self) -> Option<SourceIdentity>;
}

/// A planned piece of the guest disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First guest byte, a multiple of the chunk length.
    pub guest_offset: u64,
    /// Guest bytes: one chunk (the last of the disk may be short), or any number of chunks that
    /// are all zero.
    pub len: u64,
    /// How to get them; `None` if all of them are zero.
    pub read: Option<ReadPlan>,
}

/// How to fill one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadPlan {
    /// Reads into the chunk, with the index of the store.
    pub reads: Vec<(usize, ReadRange)>,
    /// Ranges of the chunk that are zero and that no read touches, in order.
    pub holes: Vec<Range<usize>>,
    /// Bytes of encoded data to fetch beside; at most 8 MiB + 64 KiB.
    pub encoded_len: usize,
    /// Reads into the buffer of encoded data, with the index of the store.
    pub encoded_reads: Vec<(usize, ReadRange)>,
    /// What to inflate from there into the chunk, in chunk order.
    pub decodes: Vec<Decode>,
}

/// One cluster or grain to inflate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decode {
    /// Where it goes in the chunk: a whole, aligned cluster. It may reach past the end of the disk,
    /// never past a full chunk.
    pub chunk: Range<usize>,
    /// Where it lies in the buffer of encoded data.
    pub encoded: Range<usize>,
    /// How it is packed.
    pub codec: Codec,
}
