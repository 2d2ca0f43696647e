//! The VMDK reader; contract 3.2 and 3.9.
//!
//! Nothing is believed, as for QCOW2: offsets are checked against the file before they are asked
//! for, and again whenever a page of a table comes in.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    Compression, Error, Format, FormatReader, ImageInfo, Result,
    cache::PageCache,
    chunk::SECTOR_LEN,
    plan::{Mapping, Need, Place, Step},
    planning::{Plan, check_supply, opened},
    vmdk::{
        descriptor::Descriptor,
        extent::SparseExtent,
        header::Header,
        marker::{self, Marker},
    },
};

/// A part of the guest disk.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Bytes of the disk.
    pub(super) guest: Range<u64>,
    /// Where they are.
    pub(super) place: PartPlace,
}

/// Where the bytes of a [`Part`] are.
#[derive(Clone, Copy, Debug)]
pub(super) enum PartPlace {
    /// As they are, from this byte of a file on.
    Flat {
        /// Which file.
        file: u32,
        /// First byte.
        offset: u64,
    },
    /// Behind tables.
    Sparse(SparseExtent),
    /// Nowhere: zeros.
    Zero,
}

/// An open VMDK. Plans depend on the files alone; between calls there are only caches.
#[derive(Debug)]
pub(super) struct VmdkReader {
    info: ImageInfo,
    /// In guest order, without a gap; not empty.
    parts: Vec<Part>,
    cache: PageCache,
    pending: Option<Need>,
}

impl VmdkReader {
    /// A reader of these parts, which have been checked. `header` is that of an image of one file.
    pub(super) fn new(
        parts: Vec<Part>,
        descriptor: &Descriptor,
        header: Option<&Header>,
        cache: PageCache,
    ) -> Result<Self> {
        let virtual_size = parts.last().ok_or_else(opened)?.guest.end;
        let sparse = parts.iter().filter_map(|part| match &part.place {
            PartPlace::Sparse(extent) => Some((extent.grain_len(), extent.is_compressed())),
            PartPlace::Flat { .. } | PartPlace::Zero => None,
        });
        let (grain_len, compressed) = sparse
            .fold((SECTOR_LEN, false), |(len, any), (grain_len, compressed)| {
                (len.max(grain_len), any || compressed)
            });
        let facts = Facts { virtual_size, grain_len, compressed, parts: parts.len() };
        Ok(Self { info: info(&facts, descriptor, header), parts, cache, pending: None })
    }

    /// Adds what one page of a table says to the end of a plan, or says which page is lacking.
    fn extend(&mut self, plan: &mut Plan) -> Result<Option<Need>> {
        let index = self.parts.partition_point(|part| part.guest.end <= plan.at);
        let Some(part) = self.parts.get(index) else { return Err(opened()) };
        plan.examine();
        match part.place {
            PartPlace::Flat { file, offset } => {
                let offset = offset + (plan.at - part.guest.start);
                plan.push(part.guest.end, Place::Raw { file, offset });
            }
            PartPlace::Sparse(extent) => {
                let end = plan.end;
                plan.end = end.min(part.guest.end);
                let lack = extent.extend(part.guest.start, &mut self.cache, plan);
                plan.end = end;
                return lack;
            }
            PartPlace::Zero => plan.push(part.guest.end, Place::Hole),
        }
        Ok(None)
    }
}

impl FormatReader for VmdkReader {
    fn info(&self) -> &ImageInfo {
        &self.info
    }

    fn plan(&mut self, guest: Range<u64>) -> Result<Step<Vec<Mapping>>> {
        if guest.is_empty() || guest.end > self.info.virtual_size {
            return Err(Error::invalid_input(format!(
                "guest range {}..{} is empty or leaves the disk of {} bytes",
                guest.start, guest.end, self.info.virtual_size
            )));
        }
        let mut plan = Plan::new(guest);
        while plan.at < plan.end && plan.goes_on() {
            // What was found stands on its own; the lack or the error comes again with the next call.
            match self.extend(&mut plan) {
                Ok(None) => {}
                Ok(Some(_)) | Err(_) if !plan.mappings.is_empty() => break,
                Ok(Some(need)) => {
                    self.pending = Some(need);
                    return Ok(Step::Need(need));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Step::Ready(plan.mappings))
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        check_supply(self.pending.take(), need, bytes)?;
        self.cache.insert(need, Bytes::copy_from_slice(bytes));
        Ok(())
    }
}

/// What is known of a disk beside its descriptor.
struct Facts {
    virtual_size: u64,
    grain_len: u64,
    compressed: bool,
    parts: usize,
}

/// What an image of one file says of itself.
pub(super) fn info_of_one(descriptor: &Descriptor, header: &Header) -> ImageInfo {
    let facts = Facts {
        virtual_size: header.capacity.saturating_mul(SECTOR_LEN),
        grain_len: header.grain * SECTOR_LEN,
        compressed: header.is_compressed(),
        parts: 1,
    };
    info(&facts, descriptor, Some(header))
}

fn info(facts: &Facts, descriptor: &Descriptor, header: Option<&Header>) -> ImageInfo {
    let mut details = vec![
        ("content id", descriptor.cid.clone()),
        ("adapter type", descriptor.adapter.clone()),
        ("extents", facts.parts.to_string()),
    ];
    if let Some(header) = header {
        details.insert(0, ("version", header.version.to_string()));
    }
    details.retain(|(_, value)| !value.is_empty());
    ImageInfo {
        format: Format::Vmdk,
        variant: descriptor.create_type.clone(),
        virtual_size: facts.virtual_size,
        cluster_len: facts.grain_len,
        compression: if facts.compressed { Compression::Deflate } else { Compression::None },
        dirty: header.is_some_and(|header| header.unclean),
        details,
    }
}

/// The zlib stream of the grain whose marker is at the front of `input`.
///
/// # Errors
/// The marker does not name `sector`, or its length does not fit.
pub fn grain_stream(input: &[u8], sector: u64) -> Result<&[u8]> {
    match Marker::parse(input) {
        Some(Marker::Grain { sector: named, len }) if named == sector => {
            let stream = &input[marker::GRAIN_LEN..];
            usize::try_from(len).ok().and_then(|len| stream.get(..len)).ok_or_else(|| {
                Error::corrupt(format!(
                    "the grain of sector {sector} has {len} compressed bytes, but there is room for {}",
                    stream.len()
                ))
            })
        }
        Some(Marker::Grain { sector: named, .. }) => {
            Err(Error::corrupt(format!("a grain says that it is that of sector {named}, not {sector}")))
        }
        Some(Marker::Metadata { .. }) => {
            Err(Error::corrupt(format!("no grain where that of sector {sector} should be")))
        }
        None => Err(Error::truncated(format!("the grain of sector {sector} is cut off"))),
    }
}
