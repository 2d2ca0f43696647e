//! Appliances as a source: an OVA, or an OVF descriptor and the files beside it.
//!
//! Of an archive only headers and texts are read; a disk in it is a [`Window`] of the archive and
//! opens like any other. Of a directory only files are opened that the descriptor names by a bare
//! name, and never behind a link.

mod directory;
#[cfg(test)]
pub(crate) mod sample;

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use vmferry_formats::{
    Detected,
    ova::{Archive, ArchiveOpener, Entry},
    ovf::{self, Envelope, File, Number},
    plan::Step,
};

use self::directory::Directory;
use super::{
    ByteStore, OpenedSource, SourceOptions, Window,
    file::head_and_tail,
    image::{Tables, goes_on},
};
use crate::error::{Error, FormatContext as _, Result};

/// Which disk of an appliance is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskChoice {
    /// The file or the id that the descriptor gives it.
    Name(String),
    /// Its place in the descriptor's `DiskSection`, from 1 on.
    Number(u32),
}

impl FromStr for DiskChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::usage("a disk is chosen by its number, its file or its id"));
        }
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Number))
    }
}

impl fmt::Display for DiskChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name:?}"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// How an appliance is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplianceKind {
    /// One archive.
    Ova,
    /// A descriptor with its files beside it.
    Ovf,
}

impl ApplianceKind {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ova => "ova",
            Self::Ovf => "ovf",
        }
    }
}

/// What a file is in an appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// Signature of the manifest.
    Certificate,
    /// The OVF descriptor.
    Descriptor,
    /// Hashes of the other files.
    Manifest,
    /// Nothing that the descriptor knows of.
    Other,
    /// A disk, or another file that the descriptor refers to.
    Referenced,
}

/// A file of an appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplianceFile {
    /// Its bare name.
    pub name: String,
    /// What it is.
    pub role: FileRole,
    /// Its bytes; `None` if it is not there.
    pub size: Option<u64>,
    /// Where it begins in the archive.
    pub offset: Option<u64>,
}

/// A disk of an appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplianceDisk {
    /// Its place in the `DiskSection`, from 1 on.
    pub number: u32,
    /// Its id.
    pub id: String,
    /// Bytes of the guest disk, as the descriptor says.
    pub capacity: u64,
    /// The name of its file, if it has one and the name is a bare one.
    pub file: Option<String>,
    /// Bytes of its file; `None` if that is not there.
    pub file_size: Option<u64>,
    /// URI of its format.
    pub format: Option<String>,
    /// Why it cannot be read.
    pub obstacle: Option<Obstacle>,
}

impl ApplianceDisk {
    /// What is to be said of a disk of `size` bytes, if the descriptor states another size.
    pub(crate) fn other_size(&self, size: u64) -> Option<String> {
        let stated = self.capacity;
        (size != stated).then(|| format!("the disk has {size} bytes, and the descriptor says {stated}"))
    }
}

/// Why a disk cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Something that must be there is not.
    Broken(String),
    /// It is packed in a way that is not read, or there is nothing to read.
    Unsupported(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Broken(why) | Self::Unsupported(why)) = self;
        f.write_str(why)
    }
}

/// An appliance whose descriptor has been read.
pub struct Appliance {
    name: String,
    place: Place,
    descriptor: Vec<u8>,
    manifest: Option<(String, Vec<u8>)>,
    certificate: Option<(String, Vec<u8>)>,
    envelope: Envelope,
    files: Vec<ApplianceFile>,
    disks: Vec<ApplianceDisk>,
}

/// Where the files are.
enum Place {
    Archive { store: Arc<dyn ByteStore>, entries: Vec<Entry>, end: u64 },
    Directory(Directory),
}

impl fmt::Debug for Appliance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appliance")
            .field("name", &self.name)
            .field("files", &self.files)
            .field("disks", &self.disks)
            .finish_non_exhaustive()
    }
}

impl Appliance {
    /// Opens the archive in `store`.
    pub(super) async fn in_archive(store: Arc<dyn ByteStore>) -> Result<Self> {
        let name = store.name();
        let archive = index(Arc::clone(&store)).await?;
        let Archive { entries, descriptor, descriptor_text, manifest, certificate, end } = archive;
        let named = |text: Option<(usize, Vec<u8>)>| {
            text.and_then(|(index, bytes)| Some((entries.get(index)?.name.clone(), bytes)))
        };
        let (manifest, certificate) = (named(manifest), named(certificate));
        let mut files: Vec<ApplianceFile> = entries
            .iter()
            .map(|entry| ApplianceFile {
                name: entry.name.clone(),
                role: FileRole::Other,
                size: Some(entry.size()),
                offset: Some(entry.data.start),
            })
            .collect();
        if let Some(file) = files.get_mut(descriptor) {
            file.role = FileRole::Descriptor;
        }
        let place = Place::Archive { store, entries, end };
        Self::new(name, place, descriptor_text, manifest, certificate, files)
    }

    /// Opens the descriptor at `path`.
    pub(super) async fn in_directory(path: &Path) -> Result<Self> {
        let opening = directory::open(path.to_owned());
        let (directory, descriptor) = opening.await?;
        let name = path.display().to_string();
        let mut files = vec![ApplianceFile {
            name: directory.descriptor().to_owned(),
            role: FileRole::Descriptor,
            size: Some(u64::try_from(descriptor.len()).unwrap_or(u64::MAX)),
            offset: None,
        }];
        let mut beside = Vec::new();
        for extension in ["mf", "cert"] {
            let found = directory.beside(extension).await?;
            files.extend(found.iter().map(|(name, bytes)| ApplianceFile {
                name: name.clone(),
                role: FileRole::Other,
                size: u64::try_from(bytes.len()).ok(),
                offset: None,
            }));
            beside.push(found);
        }
        let certificate = beside.pop().flatten();
        let manifest = beside.pop().flatten();
        Self::new(name, Place::Directory(directory), descriptor, manifest, certificate, files)
    }

    fn new(
        name: String,
        place: Place,
        descriptor: Vec<u8>,
        manifest: Option<(String, Vec<u8>)>,
        certificate: Option<(String, Vec<u8>)>,
        files: Vec<ApplianceFile>,
    ) -> Result<Self> {
        let envelope = ovf::parse(&descriptor).context(|| format!("cannot read the descriptor of {name}"))?;
        let mut this =
            Self { name, place, descriptor, manifest, certificate, envelope, files, disks: Vec::new() };
        this.assign_roles();
        this.disks = this.list_disks();
        Ok(this)
    }

    /// Says which files the descriptor refers to; those of a directory are added.
    fn assign_roles(&mut self) {
        for (text, role) in [(&self.manifest, FileRole::Manifest), (&self.certificate, FileRole::Certificate)]
        {
            let name = text.as_ref().map(|(name, _)| name.as_str());
            if let Some(file) = self.files.iter_mut().find(|file| Some(file.name.as_str()) == name) {
                file.role = role;
            }
        }
        for href in self.envelope.files.iter().filter_map(|file| file.safe_name().ok()) {
            match self.files.iter_mut().find(|file| file.name == href) {
                Some(file) if file.role == FileRole::Other => file.role = FileRole::Referenced,
                Some(_) => {}
                None => {
                    let Place::Directory(directory) = &self.place else { continue };
                    let size = directory.size_of(href);
                    let (name, role) = (href.to_owned(), FileRole::Referenced);
                    self.files.push(ApplianceFile { name, role, size, offset: None });
                }
            }
        }
    }

    fn list_disks(&self) -> Vec<ApplianceDisk> {
        let numbers = 1_u32..;
        let disks = self.envelope.disks.iter().zip(numbers);
        disks
            .map(|(disk, number)| {
                let file = self.file_of(disk);
                let name = file.and_then(|file| file.safe_name().ok());
                let found = name.and_then(|name| self.files.iter().find(|file| file.name == name));
                let file_size = found.and_then(|file| file.size);
                ApplianceDisk {
                    number,
                    id: disk.id.clone(),
                    capacity: disk.capacity,
                    file: name.map(str::to_owned),
                    file_size,
                    format: disk.format.clone(),
                    obstacle: obstacle(disk, file, file_size.is_some()),
                }
            })
            .collect()
    }

    fn file_of(&self, disk: &ovf::Disk) -> Option<&File> {
        let reference = disk.file_ref.as_deref()?;
        self.envelope.file(reference)
    }

    /// Path or URL without secrets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is packed.
    pub fn kind(&self) -> ApplianceKind {
        match self.place {
            Place::Archive { .. } => ApplianceKind::Ova,
            Place::Directory(_) => ApplianceKind::Ovf,
        }
    }

    /// What the descriptor says.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The descriptor as it stands.
    pub fn descriptor(&self) -> &[u8] {
        &self.descriptor
    }

    /// Its files in the order of the archive, or of the descriptor's references.
    pub fn files(&self) -> &[ApplianceFile] {
        &self.files
    }

    /// Its disks in the order of the `DiskSection`.
    pub fn disks(&self) -> &[ApplianceDisk] {
        &self.disks
    }

    /// Name and bytes of the manifest.
    pub(crate) fn manifest(&self) -> Option<(&str, &[u8])> {
        self.manifest.as_ref().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Name and bytes of the certificate.
    pub(crate) fn certificate(&self) -> Option<(&str, &[u8])> {
        self.certificate.as_ref().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// The archive with its entries and the byte where they end; `None` for a directory.
    pub(crate) fn archive(&self) -> Option<(&Arc<dyn ByteStore>, &[Entry], u64)> {
        match &self.place {
            Place::Archive { store, entries, end } => Some((store, entries, *end)),
            Place::Directory(_) => None,
        }
    }

    /// The bytes of the file called `name`.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub(crate) async fn store(&self, name: &str) -> Result<Arc<dyn ByteStore>> {
        match &self.place {
            Place::Archive { store, entries, .. } => {
                let entry = entries.iter().find(|entry| entry.name == name);
                let entry = entry.ok_or_else(|| self.lacks(name))?;
                // The file's name comes last, so that the extension is its own.
                let title = format!("{}: {name}", store.name());
                Ok(Arc::new(Window::new(Arc::clone(store), title, entry.data.start, entry.size())?))
            }
            Place::Directory(directory) => directory.file(name).await,
        }
    }

    fn lacks(&self, name: &str) -> Error {
        Error::failed(format!("{} has no file {name:?}", self.name))
            .with_hint("the appliance is incomplete: fetch or export it again")
    }

    /// The bytes of a disk's file.
    async fn disk_store(&self, disk: &ApplianceDisk) -> Result<Arc<dyn ByteStore>> {
        let place = format!("disk {} of {}", disk.number, self.name);
        match (&disk.obstacle, &disk.file) {
            (Some(obstacle), _) => Err(Error::refused(format!("{place} cannot be read: {obstacle}"))),
            (None, Some(file)) => self.store(file).await,
            (None, None) => Err(Error::refused(format!("{place} has no file"))),
        }
    }

    /// What the first and last bytes of a disk's file say.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) async fn detect(&self, disk: &ApplianceDisk) -> Result<Detected> {
        let (head, tail) = head_and_tail(&self.disk_store(disk).await?).await?;
        Ok(vmferry_formats::detect(&head, &tail))
    }

    /// Opens a disk. Its format is the one that `options` name, or that of its first bytes.
    ///
    /// # Errors
    /// It cannot be read, or is of a format that is not.
    pub async fn open_disk(&self, disk: &ApplianceDisk, options: &SourceOptions) -> Result<OpenedSource> {
        let store = self.disk_store(disk).await?;
        let beside = match self.place {
            Place::Archive { .. } => None,
            Place::Directory(_) => options.allow_backing.as_deref(),
        };
        let is_raw = disk.format.as_deref() == Some(ovf::format_uri::RAW);
        let mut opened = super::open::open_file_of_appliance(store, is_raw, beside, options).await?;
        opened.warnings.extend(opened.source.size().and_then(|size| disk.other_size(size)));
        Ok(opened)
    }

    /// The disk that is meant; without a choice the only one.
    ///
    /// # Errors
    /// There is no such disk, or several and no choice: all of them are named.
    pub fn disk(&self, choice: Option<&DiskChoice>) -> Result<&ApplianceDisk> {
        let name = &self.name;
        let Some(choice) = choice else {
            return match self.disks.as_slice() {
                [] => Err(Error::refused(format!("{name} has no disks"))),
                [disk] => Ok(disk),
                disks => {
                    Err(Error::usage(format!("{name} has {} disks: say which one is meant", disks.len()))
                        .with_hint(format!("choose one with --disk:{}", self.listing())))
                }
            };
        };
        let text = match choice {
            DiskChoice::Name(name) => name.clone(),
            DiskChoice::Number(number) => number.to_string(),
        };
        let by_number = self.disks.iter().find(|disk| *choice == DiskChoice::Number(disk.number));
        let by_name = |disk: &&ApplianceDisk| disk.id == text || disk.file.as_ref() == Some(&text);
        by_number.or_else(|| self.disks.iter().find(by_name)).ok_or_else(|| {
            let error = Error::usage(format!("{name} has no disk {choice}"));
            if self.disks.is_empty() { error } else { error.with_hint(format!("it has:{}", self.listing())) }
        })
    }

    /// A line for each disk.
    fn listing(&self) -> String {
        let mut text = String::new();
        for disk in self.disks.iter().take(MAX_LISTED) {
            let file = disk.file.as_deref().unwrap_or("no file");
            text.push_str(&format!("\n{}  {file} ({}), {} bytes", disk.number, disk.id, disk.capacity));
        }
        match self.disks.len().checked_sub(MAX_LISTED) {
            Some(more @ 1..) => text + &format!("\nand {more} more"),
            _ => text,
        }
    }
}

/// Why a disk cannot be read.
fn obstacle(disk: &ovf::Disk, file: Option<&File>, is_there: bool) -> Option<Obstacle> {
    let broken = |why: String| Some(Obstacle::Broken(why));
    let unsupported = |why: String| Some(Obstacle::Unsupported(why));
    if let Some(parent) = &disk.parent_ref {
        return unsupported(format!("it holds the differences to the disk {parent:?} only"));
    }
    let Some(reference) = &disk.file_ref else { return unsupported("it is empty: it has no file".into()) };
    let Some(file) = file else {
        return broken(format!("its file {reference:?} is not among the references"));
    };
    if let Err(error) = file.safe_name() {
        return broken(error.to_string());
    }
    match file.compression.as_deref() {
        None | Some("" | "identity") => {}
        Some(compression) => {
            return unsupported(format!(
                "its file is compressed with {compression:?}, which has no random access: unpack the appliance, \
                 decompress the file, and say so in the descriptor"
            ));
        }
    }
    match file.chunk_size {
        // Some programs state a size for pieces and do not cut.
        Some(size) if !is_there => unsupported(format!(
            "its file is split into pieces of {size} bytes: join them in order under the name {:?}",
            file.href
        )),
        None if !is_there => broken(format!("its file {:?} is not there", file.href)),
        _ => None,
    }
}

/// The length that the descriptor states for a file.
pub(crate) fn stated_size(file: &File) -> Option<u64> {
    match file.size {
        Some(Number::Known(size)) => Some(size),
        _ => None,
    }
}

/// Reads the headers and the texts of the archive in `store`.
async fn index(store: Arc<dyn ByteStore>) -> Result<Archive> {
    let name = store.name();
    let what = || format!("cannot read {name} as an OVA, a tar archive with an OVF descriptor");
    let advise = |error: Error| {
        error.with_hint("look at it with 'tar -tvf'; a disk in another archive must be extracted first")
    };
    let mut opener = ArchiveOpener::new(store.size());
    let mut tables = Tables::new(store);
    let mut last = None;
    loop {
        match opener.step().context(what).map_err(advise)? {
            Step::Ready(archive) => return Ok(archive),
            Step::Need(need) => {
                goes_on(&mut last, need, &tables.name())?;
                let bytes = tables.bytes(need).await?;
                opener.supply(need, bytes).context(what).map_err(advise)?;
            }
        }
    }
}

/// Disks that are named in an error.
const MAX_LISTED: usize = 24;

#[cfg(test)]
mod tests;
