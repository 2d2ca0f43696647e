//! The VMDK reader: sparse extents with their descriptor inside, and text descriptors that name
//! other files; contract 3.1 to 3.6 and 1.13.
//!
//! Nothing is believed: every offset is checked against the file before it is asked for. The walk
//! has two levels and no loops, so tables that point at each other cannot trap it. What one call
//! looks at is bounded, and so is what the cache keeps. Grains may share data, so a small file can
//! describe much of it: who converts it caps the output.

use std::ops::Range;

use bytes::Bytes;

use crate::{
    Compression, Error, Format, FormatReader, ImageInfo, OpenReader, OpenStep, ReaderPolicy, Result,
    cache::{Page, PageCache, page_of},
    chunk::SECTOR_LEN,
    num::{to_u64, to_usize},
    plan::{Codec, Mapping, Need, Place, Step},
    planner::{Plan, check_supply},
    vmdk::{
        GT_ENTRIES, GT_LEN,
        descriptor::{Extent, ExtentKind, FIRST_LINE, Parsed},
        header::{FLAG_COMPRESSED, FLAG_ZEROED, GD_AT_END, HEADER_LEN, Header, MAGIC, entry_count, u32_at},
        marker::{MARKER_LEN, Marker, padded_grain_len},
    },
};

/// A VMDK on its way to being open.
#[derive(Debug)]
pub struct VmdkOpener {
    policy: ReaderPolicy,
    /// Length of each file in bytes; the image first.
    lens: Vec<u64>,
    stage: Stage,
    pending: Option<Need>,
    /// What the descriptor says; empty until it was read.
    variant: String,
    pieces: Vec<Piece>,
    /// Extents that a text descriptor names, with their file, in order; those that are not pieces
    /// yet.
    extents: std::vec::IntoIter<(Extent, u32)>,
    guest: u64,
    unclean: bool,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known.
    Start,
    /// A text descriptor, of which only the front was read.
    Text,
    /// The header is read, the descriptor inside is not.
    Descriptor(Header),
    /// A text descriptor is read, the lengths of its extents are not known.
    Extents(Parsed),
    /// The next extent is to be looked at, if there is one.
    Next,
    /// The header of a sparse extent is to be read.
    Header { file: u32, sectors: u64 },
    /// Where its directory is stands in its footer, which is not read.
    Footer { file: u32, header: Header, sectors: u64 },
    /// The reader has been handed out, or an error.
    Done,
}

impl VmdkOpener {
    /// Starts to open an image whose file has `len` bytes.
    pub fn new(len: u64, policy: &ReaderPolicy) -> Self {
        Self {
            policy: policy.clone(),
            lens: vec![len],
            stage: Stage::Start,
            pending: None,
            variant: String::new(),
            pieces: Vec::new(),
            extents: Vec::new().into_iter(),
            guest: 0,
            unclean: false,
        }
    }

    fn len_of(&self, file: u32) -> u64 {
        usize::try_from(file).ok().and_then(|file| self.lens.get(file)).copied().unwrap_or(0)
    }

    /// Takes the front of the image file.
    fn start(&self, bytes: &[u8]) -> Result<Stage> {
        if bytes.starts_with(&MAGIC) {
            return Ok(Stage::Descriptor(Header::parse(bytes, 0)?));
        }
        if bytes.starts_with(b"COWD") {
            return Err(Error::unsupported(
                "an ESX sparse extent (COWD), as ESX snapshots have it, cannot be read; clone the disk with vmkfstools -i",
            ));
        }
        let is_text = bytes
            .get(..FIRST_LINE.len())
            .is_some_and(|line| line.eq_ignore_ascii_case(FIRST_LINE.as_bytes()));
        if !is_text {
            return Err(Error::corrupt("neither a sparse extent nor a descriptor of a vmdk").at(0));
        }
        let len = self.lens[0];
        if len > MAX_TEXT_LEN {
            return Err(Error::limit(format!("a descriptor of {len} bytes")));
        }
        if len > to_u64(bytes.len()) { Ok(Stage::Text) } else { self.take_text(bytes) }
    }

    /// Takes a text descriptor: its data lies in other files.
    fn take_text(&self, bytes: &[u8]) -> Result<Stage> {
        let parsed = Parsed::parse(bytes)?;
        if !self.policy.allow_extents {
            return Err(Error::refused(
                "the vmdk is a descriptor whose data lies in other files, which may be any file of this machine",
            ));
        }
        if !TEXT_TYPES.contains(&parsed.create_type.as_str()) {
            return Err(Error::refused(format!(
                "a vmdk of type {:?} in several files ({} are read)",
                parsed.create_type,
                TEXT_TYPES.join(", ")
            )));
        }
        if parsed.extents.is_empty() {
            return Err(Error::corrupt("the descriptor names no extent"));
        }
        self.check_capacity(parsed.capacity()?)?;
        Ok(Stage::Extents(parsed))
    }

    /// Takes the descriptor inside of a sparse extent.
    fn take_descriptor(&mut self, header: Header, bytes: &[u8]) -> Result<Stage> {
        let at = |error: Error| error.at(header.descriptor_offset * SECTOR_LEN);
        let parsed = Parsed::parse(bytes).map_err(at)?;
        if !EMBEDDED_TYPES.contains(&parsed.create_type.as_str()) {
            return Err(at(Error::refused(format!(
                "a vmdk of type {:?} in one file ({} are read)",
                parsed.create_type,
                EMBEDDED_TYPES.join(", ")
            ))));
        }
        // An embedded descriptor speaks of its own file, under whatever name that once had.
        if !matches!(&parsed.extents[..], [Extent { kind: ExtentKind::Sparse { .. }, .. }]) {
            return Err(at(Error::refused(
                "the descriptor in a sparse extent must name one sparse extent: its own",
            )));
        }
        self.check_capacity(header.capacity)?;
        self.variant = parsed.create_type;
        let sectors = header.capacity;
        self.take_header(0, header, sectors)
    }

    /// The extent in `file`, which stands for `sectors` of the disk, has this header.
    fn take_header(&mut self, file: u32, header: Header, sectors: u64) -> Result<Stage> {
        if header.gd_offset == GD_AT_END {
            return Ok(Stage::Footer { file, header, sectors });
        }
        self.add_sparse(file, header, sectors)?;
        Ok(Stage::Next)
    }

    /// Takes the last three sectors of a stream: footer marker, footer, end.
    fn take_footer(&mut self, file: u32, header: &Header, sectors: u64, bytes: &[u8]) -> Result<()> {
        let start = self.len_of(file) - to_u64(bytes.len());
        let cut = "the vmdk does not end with a footer: it is cut short, or something was appended to it";
        let sector = |index: usize| bytes[index * MARKER_LEN..].first_chunk::<MARKER_LEN>();
        let (Some(marker), Some(end)) = (sector(0), sector(2)) else {
            return Err(Error::truncated(cut).at(start));
        };
        let markers = (Marker::parse(marker, start), Marker::parse(end, start));
        if !matches!(markers, (Ok(Marker::Footer), Ok(Marker::EndOfStream))) {
            return Err(Error::truncated(cut).at(start));
        }
        let at = start + to_u64(MARKER_LEN);
        let footer = Header::parse(&bytes[MARKER_LEN..2 * MARKER_LEN], at)?;
        // What the footer may add is where the directory is, nothing else.
        if (Header { gd_offset: header.gd_offset, ..footer.clone() }) != *header {
            return Err(Error::corrupt("the footer contradicts the header").at(at));
        }
        if footer.gd_offset == GD_AT_END {
            return Err(Error::corrupt("the footer does not say where the directory is").at(at));
        }
        self.add_sparse(file, footer, sectors)
    }

    /// The extent in `file` is understood.
    fn add_sparse(&mut self, file: u32, header: Header, sectors: u64) -> Result<()> {
        let file_len = self.len_of(file);
        let directory = header.gd_offset.checked_mul(SECTOR_LEN);
        let inside = directory.and_then(|offset| offset.checked_add(header.tables() * 4));
        let Some(directory) = directory.filter(|&at| at > 0 && inside.is_some_and(|end| end <= file_len))
        else {
            return Err(Error::truncated(format!(
                "the grain directory at sector {} is not inside the file",
                header.gd_offset
            )));
        };
        if header.capacity < sectors {
            return Err(Error::corrupt(format!(
                "an extent of {} sectors is to hold {sectors}",
                header.capacity
            )));
        }
        // Whole grains are inflated: one that reached into the next extent would have no place.
        if file != 0 && header.has(FLAG_COMPRESSED) {
            return Err(Error::unsupported("compressed extents of a split vmdk"));
        }
        self.unclean |= header.unclean;
        self.add(sectors, PieceKind::Sparse(Sparse { file, file_len, directory, header }));
        Ok(())
    }

    fn add(&mut self, sectors: u64, kind: PieceKind) {
        let len = sectors * SECTOR_LEN;
        if len > 0 {
            self.pieces.push(Piece { guest: self.guest..self.guest + len, kind });
        }
        self.guest += len;
    }

    /// Takes extents until one has to be looked at; `None` behind the last.
    fn next_extent(&mut self) -> Result<Option<Stage>> {
        while let Some((extent, file)) = self.extents.next() {
            match extent.kind {
                ExtentKind::Zero => self.add(extent.sectors, PieceKind::Zero),
                ExtentKind::Sparse { .. } => {
                    return Ok(Some(Stage::Header { file, sectors: extent.sectors }));
                }
                ExtentKind::Flat { sector, .. } => {
                    let end = sector.checked_add(extent.sectors).and_then(|end| end.checked_mul(SECTOR_LEN));
                    if end.is_none_or(|end| end > self.len_of(file)) {
                        return Err(Error::truncated(format!(
                            "extent file {file} has {} bytes, the descriptor wants sectors {sector} to {}",
                            self.len_of(file),
                            sector.saturating_add(extent.sectors)
                        )));
                    }
                    self.add(extent.sectors, PieceKind::Flat { file, offset: sector * SECTOR_LEN });
                }
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> VmdkReader {
        let pieces = std::mem::take(&mut self.pieces);
        let compressed = pieces.iter().any(Piece::is_compressed);
        let grain_len = pieces.iter().find_map(|piece| match &piece.kind {
            PieceKind::Sparse(sparse) => Some(sparse.header.grain_len()),
            _ => None,
        });
        let version = pieces.iter().find_map(|piece| match &piece.kind {
            PieceKind::Sparse(sparse) => Some(sparse.header.version.to_string()),
            _ => None,
        });
        let mut details = Vec::new();
        details.extend(version.map(|version| ("version", version)));
        if self.lens.len() > 1 {
            details.push(("extent files", (self.lens.len() - 1).to_string()));
        }
        let cache = PageCache::new(self.policy.table_cache_len);
        VmdkReader {
            info: ImageInfo {
                format: Format::Vmdk,
                variant: std::mem::take(&mut self.variant),
                virtual_size: self.guest,
                cluster_len: grain_len.unwrap_or(super::GRAIN_LEN),
                compression: if compressed { Compression::Deflate } else { Compression::None },
                dirty: self.unclean,
                details,
            },
            pieces,
            page_len: cache.page_len(),
            cache,
            pending: None,
        }
    }

    /// What the stage lacks, if it lacks anything.
    fn need(&self) -> Result<Option<Need>> {
        let len = self.lens[0];
        Ok(Some(match &self.stage {
            Stage::Start if len == 0 => return Err(Error::truncated("the file is empty").at(0)),
            Stage::Start => Need { file: 0, offset: 0, len: to_usize(len.min(HEAD_LEN)) },
            Stage::Text => Need { file: 0, offset: 0, len: to_usize(len) },
            Stage::Descriptor(header) => {
                if header.descriptor_offset == 0 || header.descriptor_size == 0 {
                    return Err(Error::refused(
                        "the file is one extent of a vmdk in several files: name the file with its descriptor",
                    ));
                }
                let offset = header.descriptor_offset.checked_mul(SECTOR_LEN);
                let wanted = header.descriptor_size.saturating_mul(SECTOR_LEN).min(MAX_EMBEDDED_LEN);
                let Some(offset) =
                    offset.filter(|offset| offset.checked_add(wanted).is_some_and(|end| end <= len))
                else {
                    return Err(Error::truncated("the descriptor is not inside the file").at(28));
                };
                Need { file: 0, offset, len: to_usize(wanted) }
            }
            Stage::Header { file, .. } => {
                let file = *file;
                if self.len_of(file) < to_u64(HEADER_LEN) {
                    return Err(Error::truncated(format!("extent file {file} is shorter than its header")));
                }
                Need { file, offset: 0, len: HEADER_LEN }
            }
            Stage::Footer { file, .. } => {
                let (file, tail) = (*file, to_u64(3 * MARKER_LEN));
                let Some(offset) = self.len_of(file).checked_sub(tail) else {
                    return Err(Error::truncated("the file ends before its footer"));
                };
                Need { file, offset, len: to_usize(tail) }
            }
            Stage::Extents(_) | Stage::Next | Stage::Done => return Ok(None),
        }))
    }

    fn check_capacity(&self, sectors: u64) -> Result<()> {
        let size = sectors.checked_mul(SECTOR_LEN).filter(|&size| size <= self.policy.max_virtual_size);
        size.map(drop).ok_or_else(|| {
            Error::limit(format!(
                "a disk of {sectors} sectors, more than the {} bytes allowed",
                self.policy.max_virtual_size
            ))
        })
    }
}

impl OpenReader for VmdkOpener {
    fn step(&mut self) -> Result<OpenStep> {
        if let Some(need) = self.need()? {
            self.pending = Some(need);
            return Ok(OpenStep::Need(need));
        }
        match &self.stage {
            Stage::Extents(parsed) => Ok(OpenStep::Extents(files_of(parsed))),
            Stage::Next => match self.next_extent()? {
                Some(stage) => {
                    self.stage = stage;
                    self.step()
                }
                None => {
                    self.stage = Stage::Done;
                    Ok(OpenStep::Ready(Box::new(self.finish())))
                }
            },
            _ => Err(stepped_too_far()),
        }
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        check_supply(self.pending.take(), need, bytes)?;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start => self.start(bytes)?,
            Stage::Text => self.take_text(bytes)?,
            Stage::Descriptor(header) => self.take_descriptor(header, bytes)?,
            Stage::Header { file, sectors } => self.take_header(file, Header::parse(bytes, 0)?, sectors)?,
            Stage::Footer { file, header, sectors } => {
                self.take_footer(file, &header, sectors, bytes)?;
                Stage::Next
            }
            Stage::Extents(_) | Stage::Next | Stage::Done => return Err(stepped_too_far()),
        };
        Ok(())
    }

    fn supply_extents(&mut self, lens: &[u64]) -> Result<()> {
        let Stage::Extents(parsed) = std::mem::replace(&mut self.stage, Stage::Done) else {
            return Err(Error::invalid_input("no extents were asked for"));
        };
        let files = files_of(&parsed);
        if lens.len() != files.len() {
            return Err(Error::invalid_input(format!("{} lengths for {} extents", lens.len(), files.len())));
        }
        self.lens.extend_from_slice(lens);
        let mut extents = Vec::with_capacity(parsed.extents.len());
        for extent in parsed.extents {
            let file = match &extent.kind {
                ExtentKind::Zero => None,
                ExtentKind::Flat { file, .. } | ExtentKind::Sparse { file } => files.binary_search(file).ok(),
            };
            let file = file.map_or(Ok(0), |index| u32::try_from(index + 1));
            extents.push((extent, file.map_err(|_| Error::limit("too many extents"))?));
        }
        self.extents = extents.into_iter();
        self.variant = parsed.create_type;
        self.stage = Stage::Next;
        Ok(())
    }
}

/// The files that a descriptor names, each once, in alphabetical order.
fn files_of(parsed: &Parsed) -> Vec<String> {
    let mut files: Vec<String> = parsed
        .extents
        .iter()
        .filter_map(|extent| match &extent.kind {
            ExtentKind::Flat { file, .. } | ExtentKind::Sparse { file } => Some(file.clone()),
            ExtentKind::Zero => None,
        })
        .collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// A part of the guest disk.
#[derive(Debug)]
struct Piece {
    guest: Range<u64>,
    kind: PieceKind,
}

#[derive(Debug)]
enum PieceKind {
    Flat { file: u32, offset: u64 },
    Sparse(Sparse),
    Zero,
}

/// A sparse extent.
#[derive(Debug)]
struct Sparse {
    file: u32,
    file_len: u64,
    /// First byte of the grain directory.
    directory: u64,
    header: Header,
}

impl Piece {
    fn is_compressed(&self) -> bool {
        matches!(&self.kind, PieceKind::Sparse(sparse) if sparse.header.has(FLAG_COMPRESSED))
    }
}

/// An open VMDK. Plans depend on the files alone; between calls there are only caches.
#[derive(Debug)]
struct VmdkReader {
    info: ImageInfo,
    /// In guest order, without gaps.
    pieces: Vec<Piece>,
    cache: PageCache,
    page_len: u64,
    pending: Option<Need>,
}

impl VmdkReader {
    /// Adds what one table says to the end of a plan, or says which page is lacking.
    fn extend(&mut self, plan: &mut Plan) -> Result<Option<Page>> {
        let index = self.pieces.partition_point(|piece| piece.guest.end <= plan.at);
        let Some(piece) = self.pieces.get(index) else {
            return Err(Error::corrupt(format!("no extent holds guest byte {}", plan.at)));
        };
        plan.examine();
        match &piece.kind {
            PieceKind::Zero => plan.push(piece.guest.end, Place::Hole),
            PieceKind::Flat { file, offset } => {
                let offset = offset + (plan.at - piece.guest.start);
                plan.push(piece.guest.end, Place::Raw { file: *file, offset });
            }
            PieceKind::Sparse(sparse) => {
                return sparse.extend(&piece.guest, &mut self.cache, self.page_len, plan);
            }
        }
        Ok(None)
    }
}

impl Sparse {
    /// Adds what one page of the directory, and the table that it leads to, says.
    fn extend(
        &self,
        guest: &Range<u64>,
        cache: &mut PageCache,
        page_len: u64,
        plan: &mut Plan,
    ) -> Result<Option<Page>> {
        let span = self.header.gt_span();
        let index = (plan.at - guest.start) / span;
        let page = page_of(self.directory, self.header.tables() * 4, page_len, index * 4);
        let page = Page { file: self.file, ..page };
        let Some(directory) = cache.get(page) else { return Ok(Some(page)) };
        let first = index - index * 4 % page_len / 4;
        let mut here = index;
        while here * span < plan.end - guest.start && here - first < entry_count(&directory) && plan.examine()
        {
            let entry = u32_at(&directory, to_usize((here - first) * 4));
            if entry == 0 {
                here += 1;
                plan.push(guest.end.min(guest.start + here * span), Place::Hole);
                continue;
            }
            if here > index {
                break; // What comes before stands on its own.
            }
            let offset = u64::from(entry) * SECTOR_LEN;
            if offset + GT_LEN > self.file_len {
                return Err(Error::truncated(format!("grain table at {offset:#x} is not inside the file"))
                    .at(self.directory + here * 4));
            }
            let page = Page { file: self.file, offset, len: to_usize(GT_LEN) };
            let Some(table) = cache.get(page) else { return Ok(Some(page)) };
            self.extend_by_table(guest, &table, offset, plan)?;
            break;
        }
        Ok(None)
    }

    /// Adds what the grain table at `offset` says.
    fn extend_by_table(&self, guest: &Range<u64>, table: &[u8], offset: u64, plan: &mut Plan) -> Result<()> {
        let grain_len = self.header.grain_len();
        let compressed = self.header.has(FLAG_COMPRESSED);
        let starts = if compressed { starts(table, offset) } else { Vec::new() };
        let mut index = (plan.at - guest.start) / grain_len;
        let end = (index / GT_ENTRIES + 1) * GT_ENTRIES;
        while index < end && plan.at < plan.end.min(guest.end) && plan.examine() {
            let entry_at = to_usize(index % GT_ENTRIES * 4);
            let entry = u32_at(table, entry_at);
            let start = guest.start + index * grain_len;
            let grain_end = guest.end.min(start + grain_len);
            let locate = |error: Error| error.at(offset + to_u64(entry_at));
            index += 1;
            if entry == 0 || entry == 1 && self.header.has(FLAG_ZEROED) {
                plan.push(grain_end, Place::Hole);
                continue;
            }
            let host = u64::from(entry) * SECTOR_LEN;
            let outside = || locate(Error::truncated(format!("grain at {host:#x} is not inside the file")));
            if compressed {
                let next = starts.partition_point(|&other| other <= entry);
                let next = starts.get(next).map_or(u64::MAX, |&next| u64::from(next) * SECTOR_LEN);
                let bound = (next - host).min(padded_grain_len(2 * grain_len));
                let len = bound.min(self.file_len.saturating_sub(host));
                let len = u32::try_from(len).ok().filter(|&len| len > 0).ok_or_else(outside)?;
                let least = u32::try_from(grain_end - start).unwrap_or(u32::MAX);
                let codec = Codec::VmdkGrain { sector: (start - guest.start) / SECTOR_LEN, least };
                plan.push_whole(
                    start..start + grain_len,
                    Place::Compressed { file: self.file, offset: host, len, codec },
                );
            } else {
                if host + (grain_end - start) > self.file_len {
                    return Err(outside());
                }
                plan.push(grain_end, Place::Raw { file: self.file, offset: host + (plan.at - start) });
            }
        }
        Ok(())
    }
}

/// The sectors that the grains of a table begin at, and its own, in ascending order. No grain
/// reaches past the next of them, which bounds how much has to be read for one: its marker, which
/// says how long it is, is not known before.
fn starts(table: &[u8], offset: u64) -> Vec<u32> {
    let own = u32::try_from(offset / SECTOR_LEN).unwrap_or(u32::MAX).saturating_sub(1);
    let entries = (0..table.len() / 4).map(|index| u32_at(table, index * 4)).filter(|&entry| entry > 1);
    let mut starts: Vec<u32> = entries.chain([own]).collect();
    starts.sort_unstable();
    starts
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
                Ok(Some(page)) => {
                    let need = Need::from(page);
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
        self.cache.insert(need.into(), Bytes::copy_from_slice(bytes));
        Ok(())
    }
}

fn stepped_too_far() -> Error {
    Error::invalid_input("the image is open already, or could not be opened")
}

/// Types of a descriptor inside of its extent; 1.13.
const EMBEDDED_TYPES: [&str; 2] = ["monolithicSparse", "streamOptimized"];

/// Types of a descriptor in a file of its own. The others name devices.
const TEXT_TYPES: [&str; 6] = [
    "monolithicFlat",
    "monolithicSparse",
    "streamOptimized",
    "twoGbMaxExtentFlat",
    "twoGbMaxExtentSparse",
    "vmfs",
];

/// What is read first, in bytes.
const HEAD_LEN: u64 = 64 << 10;

/// Bytes of the longest descriptor in a file of its own.
const MAX_TEXT_LEN: u64 = 2 << 20;

/// Bytes that are read of a descriptor inside of its extent; they are 1 KiB or two.
const MAX_EMBEDDED_LEN: u64 = 64 << 10;
