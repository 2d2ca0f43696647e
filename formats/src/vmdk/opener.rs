//! Opening: header, footer, descriptor and grain directory of each file; contract 3.1, 3.6, 3.9 and
//! 1.13.

use bytes::Bytes;

use crate::{
    Error, OpenReader, OpenStep, ReaderPolicy, Result,
    cache::PageCache,
    chunk::SECTOR_LEN,
    num::{to_u64, to_usize},
    plan::Need,
    planning::{check_supply, opened},
    vmdk::{
        descriptor::{Descriptor, ExtentKind, FIRST_LINE, MAX_DESCRIPTOR_LEN},
        extent::SparseExtent,
        header::{AT_END, COWD_MAGIC, FLAG_MARKERS, Header, MAGIC},
        marker::{self, Marker},
        reader::{Part, PartPlace, VmdkReader},
        tables::{ENTRY_LEN, entry_at, entry_count},
    },
};

/// A VMDK on its way to being open.
#[derive(Debug)]
pub struct VmdkOpener {
    file_len: u64,
    policy: ReaderPolicy,
    cache: PageCache,
    stage: Stage,
    pending: Option<Need>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known.
    Start,
    /// A text descriptor, of which only the front is read.
    Text,
    /// A sparse extent that holds its own descriptor.
    Embedded(Box<SparseOpener>),
    /// The files that a text descriptor names are asked for.
    Files(Box<Descriptor>, Vec<String>),
    /// The sparse ones among these files are opened, one after the other.
    Parts(Box<Assembly>),
    /// The reader has been handed out, or an error.
    Done,
}

impl VmdkOpener {
    /// Starts to open an image whose file has `len` bytes.
    pub fn new(len: u64, policy: &ReaderPolicy) -> Self {
        Self {
            file_len: len,
            policy: ReaderPolicy {
                // So that no offset on any disk overflows.
                max_virtual_size: policy.max_virtual_size.min(1 << 60),
                ..policy.clone()
            },
            cache: PageCache::new(policy.table_cache_len),
            stage: Stage::Start,
            pending: None,
        }
    }

    /// Takes the front of the image.
    fn start(&self, head: &[u8]) -> Result<Stage> {
        if head.starts_with(&COWD_MAGIC) {
            return Err(Error::unsupported(
                "an extent of the old ESX format (COWD): clone it to another format with 'vmkfstools -i' or qemu-img \
                 first",
            )
            .at(0));
        }
        if head.starts_with(FIRST_LINE.as_bytes()) {
            if self.file_len > MAX_DESCRIPTOR_LEN {
                return Err(Error::limit(format!(
                    "a descriptor of {} bytes is longer than {MAX_DESCRIPTOR_LEN}",
                    self.file_len
                ))
                .at(0));
            }
            return if to_u64(head.len()) == self.file_len { self.text(head) } else { Ok(Stage::Text) };
        }
        if !head.starts_with(&MAGIC) {
            return Err(Error::corrupt("neither a vmdk header nor a vmdk descriptor").at(0));
        }
        let mut opener = SparseOpener::new(0, self.file_len, true);
        opener.take_head(head)?;
        Ok(Stage::Embedded(Box::new(opener)))
    }

    /// Takes a text descriptor.
    fn text(&self, text: &[u8]) -> Result<Stage> {
        let descriptor = Descriptor::parse(text, 0)?;
        if descriptor.extents.is_empty() {
            return Err(Error::corrupt("the descriptor names no extents").at(0));
        }
        let mut names: Vec<String> = Vec::new();
        for extent in &descriptor.extents {
            if let ExtentKind::Flat { name, .. } | ExtentKind::Sparse { name } = &extent.kind {
                names.push(name.clone());
            }
        }
        names.sort_unstable();
        names.dedup();
        if !self.policy.allow_extents
            && let Some(name) = names.first()
        {
            return Err(Error::refused(format!(
                "the image keeps its data in other files ({} of them, {name:?} the first), which are not opened \
                 unasked: name the directory where they may lie, or convert the disk to one file first",
                names.len()
            )));
        }
        if names.is_empty() {
            return Ok(Stage::Parts(Box::new(self.assemble(descriptor, &[], &[])?)));
        }
        Ok(Stage::Files(Box::new(descriptor), names))
    }

    /// Lays the parts of a disk out, whose files are known.
    fn assemble(&self, descriptor: Descriptor, names: &[String], lens: &[u64]) -> Result<Assembly> {
        let (mut at, mut parts, mut sparse) = (0_u64, Vec::new(), Vec::new());
        let mut is_sparse = vec![false; names.len() + 1];
        for extent in &descriptor.extents {
            let end = extent
                .sectors
                .checked_mul(SECTOR_LEN)
                .and_then(|len| at.checked_add(len))
                .filter(|&end| end <= self.policy.max_virtual_size);
            let Some(end) = end else {
                return Err(Error::limit(format!(
                    "the virtual size is larger than {} bytes",
                    self.policy.max_virtual_size
                )));
            };
            if end == at {
                return Err(Error::corrupt("an extent has no sectors"));
            }
            let file = |name: &String| -> Result<(u32, u64)> {
                let index = names.binary_search(name).map_err(|_| opened())?;
                let len = lens.get(index).copied().ok_or_else(opened)?;
                // The descriptor itself is file 0.
                Ok((u32::try_from(index + 1).map_err(|_| Error::limit("too many files"))?, len))
            };
            let place = match &extent.kind {
                ExtentKind::Zero => PartPlace::Zero,
                ExtentKind::Flat { name, offset } => {
                    let (file, file_len) = file(name)?;
                    let offset = offset.checked_mul(SECTOR_LEN);
                    let inside =
                        offset.and_then(|offset| offset.checked_add(end - at)).filter(|&end| end <= file_len);
                    let (Some(offset), Some(_)) = (offset, inside) else {
                        return Err(Error::truncated(format!(
                            "extent {name:?} has {file_len} bytes, fewer than the descriptor says"
                        )));
                    };
                    PartPlace::Flat { file, offset }
                }
                ExtentKind::Sparse { name } => {
                    let (file, file_len) = file(name)?;
                    if std::mem::replace(&mut is_sparse[file as usize], true) {
                        return Err(Error::corrupt(format!("the sparse extent {name:?} is named twice")));
                    }
                    sparse.push((parts.len(), file, file_len));
                    PartPlace::Zero
                }
            };
            parts.push(Part { guest: at..end, place });
            at = end;
        }
        sparse.reverse();
        Ok(Assembly { descriptor, parts, sparse, current: None })
    }
}

impl OpenReader for VmdkOpener {
    fn step(&mut self) -> Result<OpenStep> {
        let need = match &mut self.stage {
            Stage::Start if self.file_len == 0 => return Err(Error::truncated("the file is empty").at(0)),
            Stage::Start => Need { file: 0, offset: 0, len: to_usize(self.file_len.min(HEAD_LEN)) },
            Stage::Text => Need { file: 0, offset: 0, len: to_usize(self.file_len) },
            Stage::Files(_, names) => return Ok(OpenStep::Extents(names.clone())),
            Stage::Embedded(opener) => match opener.next(&self.policy, &self.cache)? {
                Some(need) => need,
                None => {
                    let Stage::Embedded(opener) = std::mem::replace(&mut self.stage, Stage::Done) else {
                        return Err(opened());
                    };
                    return self.embedded(*opener).map(|reader| OpenStep::Ready(Box::new(reader)));
                }
            },
            Stage::Parts(assembly) => match assembly.next(&self.policy, &self.cache)? {
                Some(need) => need,
                None => {
                    let Stage::Parts(assembly) = std::mem::replace(&mut self.stage, Stage::Done) else {
                        return Err(opened());
                    };
                    let cache = std::mem::replace(&mut self.cache, PageCache::new(0));
                    let reader = VmdkReader::new(assembly.parts, &assembly.descriptor, None, cache)?;
                    return Ok(OpenStep::Ready(Box::new(reader)));
                }
            },
            Stage::Done => return Err(opened()),
        };
        self.pending = Some(need);
        Ok(OpenStep::Need(need))
    }

    fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        check_supply(self.pending.take(), need, bytes)?;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start => self.start(bytes)?,
            Stage::Text => self.text(bytes)?,
            Stage::Embedded(mut opener) => {
                opener.take(need, bytes, &mut self.cache)?;
                Stage::Embedded(opener)
            }
            Stage::Parts(mut assembly) => {
                let opener = assembly.current.as_mut().ok_or_else(opened)?;
                opener.take(need, bytes, &mut self.cache)?;
                Stage::Parts(assembly)
            }
            Stage::Files(..) | Stage::Done => return Err(opened()),
        };
        Ok(())
    }

    fn supply_extents(&mut self, lens: &[u64]) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Files(descriptor, names) if names.len() == lens.len() => {
                self.stage = Stage::Parts(Box::new(self.assemble(*descriptor, &names, lens)?));
                Ok(())
            }
            _ => Err(Error::invalid_input(format!("{} lengths for the files of the image", lens.len()))),
        }
    }
}

impl VmdkOpener {
    /// The reader of an image that is one file.
    fn embedded(&mut self, opener: SparseOpener) -> Result<VmdkReader> {
        let (header, extent, descriptor) = opener.finish()?;
        let descriptor = descriptor.ok_or_else(opened)?;
        let known = ["monolithicSparse", "streamOptimized"];
        if !known.iter().any(|known| descriptor.create_type.eq_ignore_ascii_case(known)) {
            return Err(Error::unsupported(format!(
                "createType {:?} in an image of one file, not monolithicSparse or streamOptimized",
                descriptor.create_type
            ))
            .at(header.descriptor.saturating_mul(SECTOR_LEN)));
        }
        let parts = vec![Part { guest: 0..extent.capacity(), place: PartPlace::Sparse(extent) }];
        let cache = std::mem::replace(&mut self.cache, PageCache::new(0));
        VmdkReader::new(parts, &descriptor, Some(&header), cache)
    }
}

/// A disk of several files.
#[derive(Debug)]
struct Assembly {
    descriptor: Descriptor,
    parts: Vec<Part>,
    /// Parts that are sparse extents, the next one last: index, file and its length.
    sparse: Vec<(usize, u32, u64)>,
    current: Option<SparseOpener>,
}

impl Assembly {
    fn next(&mut self, policy: &ReaderPolicy, cache: &PageCache) -> Result<Option<Need>> {
        while let Some(&(index, file, file_len)) = self.sparse.last() {
            let opener = self.current.get_or_insert_with(|| SparseOpener::new(file, file_len, false));
            if let Some(need) = opener.next(policy, cache)? {
                return Ok(Some(need));
            }
            let alone = self.parts.len() == 1;
            let (Some(opener), Some(part)) = (self.current.take(), self.parts.get_mut(index)) else {
                return Err(opened());
            };
            self.sparse.pop();
            let (_, extent, _) = opener.finish()?;
            if extent.capacity() < part.guest.end - part.guest.start {
                return Err(Error::corrupt(format!(
                    "file {file} of the image is a sparse extent of {} bytes, fewer than the descriptor says",
                    extent.capacity()
                )));
            }
            // A compressed grain that two extents share could not be inflated into place.
            if extent.is_compressed() && !alone {
                return Err(Error::unsupported("compressed extents in an image of several files"));
            }
            part.place = PartPlace::Sparse(extent);
        }
        Ok(None)
    }
}

/// A sparse extent on its way to being open.
#[derive(Debug)]
struct SparseOpener {
    file: u32,
    file_len: u64,
    /// Whether the extent says by itself what disk it is.
    describes_itself: bool,
    header: Option<Header>,
    descriptor: Option<Descriptor>,
    check: Option<DirectoryCheck>,
}

impl SparseOpener {
    fn new(file: u32, file_len: u64, describes_itself: bool) -> Self {
        Self { file, file_len, describes_itself, header: None, descriptor: None, check: None }
    }

    fn next(&mut self, policy: &ReaderPolicy, cache: &PageCache) -> Result<Option<Need>> {
        let need = |offset, len| Ok(Some(Need { file: self.file, offset, len: to_usize(len) }));
        let Some(header) = &self.header else {
            if self.file_len < SECTOR_LEN {
                return Err(Error::truncated(format!("file {} of the image has no header", self.file)));
            }
            return need(0, SECTOR_LEN);
        };
        if header.directory == AT_END {
            // The extent is checked against the length of the file first.
            return match self.file_len.checked_sub(TAIL_LEN) {
                Some(offset) => need(offset, TAIL_LEN),
                None => Err(no_footer(self.file_len)),
            };
        }
        if self.describes_itself && self.descriptor.is_none() {
            let (offset, len) = descriptor_range(header, self.file_len)?;
            return need(offset, len);
        }
        if self.check.is_none() {
            let extent = SparseExtent::new(
                header,
                self.file,
                self.file_len,
                cache.page_len(),
                policy.max_virtual_size,
            )?;
            self.check = Some(DirectoryCheck::new(extent, policy.table_cache_len));
        }
        Ok(self.check.as_ref().and_then(DirectoryCheck::next))
    }

    /// Takes the front of the file, with which the caller may have been generous.
    fn take_head(&mut self, bytes: &[u8]) -> Result<()> {
        let header = Header::parse(bytes, 0)?;
        if header.directory == AT_END && !header.has(FLAG_MARKERS) {
            return Err(Error::corrupt("the grain directory is in a footer, but there are no markers").at(56));
        }
        if self.describes_itself {
            let (offset, len) = descriptor_range(&header, self.file_len)?;
            if let Some(text) = bytes.get(to_usize(offset)..to_usize(offset + len)) {
                self.descriptor = Some(Descriptor::parse(text, offset)?);
            }
        }
        self.header = Some(header);
        Ok(())
    }

    fn take(&mut self, need: Need, bytes: &[u8], cache: &mut PageCache) -> Result<()> {
        if let Some(check) = &mut self.check {
            return check.take(need, bytes, cache);
        }
        match &mut self.header {
            None => self.take_head(bytes),
            Some(header) if header.directory == AT_END => {
                header.complete(footer(need.offset, bytes)?, need.offset + SECTOR_LEN)
            }
            Some(_) => {
                self.descriptor = Some(Descriptor::parse(bytes, need.offset)?);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<(Header, SparseExtent, Option<Descriptor>)> {
        let (Some(header), Some(check)) = (self.header, self.check) else { return Err(opened()) };
        Ok((header, check.finish()?, self.descriptor))
    }
}

/// Where the embedded descriptor is, in bytes.
fn descriptor_range(header: &Header, file_len: u64) -> Result<(u64, u64)> {
    if header.descriptor == 0 || header.descriptor_len == 0 {
        return Err(Error::unsupported(
            "one of several extents: open the descriptor that names it, with the directory of its files allowed",
        )
        .at(28));
    }
    let range = header.descriptor.checked_mul(SECTOR_LEN).zip(header.descriptor_len.checked_mul(SECTOR_LEN));
    let Some((offset, len)) = range.filter(|&(_, len)| len <= MAX_DESCRIPTOR_LEN) else {
        return Err(Error::limit(format!(
            "an embedded descriptor of {} sectors at {} is longer than {MAX_DESCRIPTOR_LEN} bytes or leaves any file",
            header.descriptor_len, header.descriptor
        ))
        .at(28));
    };
    if offset.checked_add(len).is_none_or(|end| end > file_len) {
        return Err(Error::truncated(format!("the descriptor at {offset:#x} leaves the file")).at(28));
    }
    Ok((offset, len))
}

/// The footer in the last three sectors of a file, which begin at `offset`.
fn footer(offset: u64, tail: &[u8]) -> Result<Header> {
    let sector = |index: usize| tail.chunks_exact(to_usize(SECTOR_LEN)).nth(index).unwrap_or_default();
    let announced = Marker::parse(sector(0)) == Some(Marker::Metadata { kind: marker::FOOTER, sectors: 1 });
    if !announced || sector(2).iter().any(|&byte| byte != 0) {
        return Err(no_footer(offset + TAIL_LEN));
    }
    Header::parse(sector(1), offset + SECTOR_LEN)
}

fn no_footer(file_len: u64) -> Error {
    Error::truncated(
        "the header says that a footer ends the file, but none does: the file is cut short, or something was added",
    )
    .at(file_len)
}

/// Reads the directory once before anything is mapped, to find errors early and to refuse images
/// that use one grain table for many ranges: a small file could so pretend to be terabytes of data.
#[derive(Debug)]
struct DirectoryCheck {
    extent: SparseExtent,
    /// Bytes of the directory read so far.
    read: u64,
    /// Tables found.
    tables: u64,
    /// Their offsets, as long as they are few enough to be kept.
    listed: Vec<u64>,
    /// How many are.
    max_listed: usize,
}

impl DirectoryCheck {
    fn new(extent: SparseExtent, table_cache_len: usize) -> Self {
        let max_listed = table_cache_len / 2 / size_of::<u64>();
        Self { extent, read: 0, tables: 0, listed: Vec::new(), max_listed }
    }

    fn next(&self) -> Option<Need> {
        self.extent.directory_from(self.read)
    }

    fn take(&mut self, need: Need, bytes: &[u8], cache: &mut PageCache) -> Result<()> {
        for index in 0..entry_count(bytes) {
            let at = need.offset + index * ENTRY_LEN;
            let entry = entry_at(bytes, to_usize(index));
            let Some(table) = self.extent.decode_directory(entry, at)? else { continue };
            self.tables += 1;
            if self.tables > self.extent.max_tables() {
                return Err(Error::corrupt(
                    "the grain directory names more tables than the file has room for",
                )
                .at(at));
            }
            if self.listed.len() < self.max_listed {
                self.listed.push(table);
            }
        }
        self.read += to_u64(need.len);
        // The usual directory is a single page, and planning starts with it.
        if self.extent.first_page() == need {
            cache.insert(need, Bytes::copy_from_slice(bytes));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<SparseExtent> {
        self.listed.sort_unstable();
        if let Some(pair) = self.listed.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::corrupt("two entries of the grain directory share a table").at(pair[0]));
        }
        Ok(self.extent)
    }
}

/// What is read first, in bytes: header and descriptor as everybody lays them out.
const HEAD_LEN: u64 = 64 << 10;

/// Footer marker, footer and end of stream.
const TAIL_LEN: u64 = 3 * SECTOR_LEN;
