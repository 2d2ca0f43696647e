//! From what the user names to a source that can be read.
//!
//! The magic of a source decides, unless the user names the format. RAW is never concluded from
//! content: a guest can write any header into its first sector. So a named RAW is RAW whatever it
//! begins with, a named format must be what is there, and bytes without a magic are taken as RAW
//! only where nothing says otherwise.

mod choose;
mod stream;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use vmferry_formats::{Detected, Format, detect};

use self::{
    choose::{Rest, choose, exported_format, has_extension, is_archive, may_be_raw, says_raw},
    stream::{Announced, open_stream, refuse_unordered},
};
#[cfg(feature = "cloud")]
use super::object::open_object;
use super::{
    Appliance, ByteStore, DiskChoice, FileStore, HttpOptions, ImagePlan, Links, RawPlan, Source, Transfer,
    Window,
    file::{head_and_tail, read_range},
    http::{self, Found, HttpInput, HttpStore},
    location::Kind,
    num::{to_u64, to_usize},
    stream::FileInput,
};
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "cloud")]
use crate::object::StoreOptions;

/// How the user says a source is to be read.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// The format; `None` = by its magic, RAW by the absence of one.
    pub format: Option<SourceFormat>,
    /// Size of the disk in bytes, for streams that do not tell.
    pub size: Option<u64>,
    /// Directory in which other files that an image names may lie; `None` = refuse such images.
    pub allow_backing: Option<PathBuf>,
    /// Which disk of an appliance is meant; `None` = its only one.
    pub disk: Option<DiskChoice>,
    /// How URLs are fetched.
    pub http: HttpOptions,
    /// How object stores are reached.
    #[cfg(feature = "cloud")]
    pub store: StoreOptions,
    /// Resident memory of the process in bytes, of which a zstd stream may ask for a quarter; `None` =
    /// 128 MiB.
    pub memory: Option<u64>,
}

/// The formats a source may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceFormat {
    /// gzip-compressed RAW.
    Gzip,
    /// A disk image.
    Image(Format),
    /// zstd-compressed RAW.
    Zstd,
}

impl SourceFormat {
    /// Lower-case name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Image(format) => format.name(),
            Self::Zstd => "zstd",
        }
    }
}

impl std::fmt::Display for SourceFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A source, open.
#[derive(Debug)]
pub struct OpenedSource {
    /// What people call it: a path, a URL without secrets, `stdin`.
    pub name: String,
    /// Its format.
    pub format: SourceFormat,
    /// What an image says of itself; `None` for RAW and streams.
    pub info: Option<vmferry_formats::ImageInfo>,
    /// What is odd about it, though it is read.
    pub warnings: Vec<String>,
    /// The disk.
    pub source: Source,
}

/// What a location turned out to be.
#[derive(Debug)]
pub enum Opened {
    /// Several files and their descriptor: an OVA, or an OVF with what lies beside it.
    Appliance(Box<Appliance>),
    /// A disk.
    Disk(OpenedSource),
}

/// Opens the disk at `location`: `-` for stdin, an `http://` or `https://` URL, an object (`s3://`,
/// `gs://`, `az://`), or a path. Of an appliance that is the disk that `options` choose.
///
/// # Errors
/// The source cannot be opened, is refused, or is not what `options` say.
pub async fn open(location: &str, options: &SourceOptions) -> Result<OpenedSource> {
    match open_any(location, options).await? {
        Opened::Appliance(appliance) => {
            let disk = appliance.disk(options.disk.as_ref())?;
            appliance.open_disk(disk, options).await
        }
        Opened::Disk(opened) => match &options.disk {
            None => Ok(opened),
            Some(disk) => Err(Error::usage(format!(
                "{} is one disk, not an appliance of which disk {disk} could be chosen",
                opened.name
            ))
            .with_hint("leave --disk away, or name an OVA or an OVF descriptor")),
        },
    }
}

/// Opens `location`, as [`open`] does, but leaves it to the caller what to do with an appliance.
///
/// # Errors
/// As for [`open`].
pub async fn open_any(location: &str, options: &SourceOptions) -> Result<Opened> {
    match Kind::of(location)? {
        #[cfg(feature = "cloud")]
        Kind::Object(object) => {
            let (store, head) = open_object(&object, options).await?;
            open_http_store(store, &head, false, options).await
        }
        Kind::Stdin => {
            refuse_unordered(options.format, "stdin")?;
            let input = blocking(FileInput::stdin).await?;
            open_stream(Box::new(input), options, Announced::Nothing).await.map(Opened::Disk)
        }
        Kind::Url => open_url(location, options).await,
        Kind::Path(path) => open_path(path, options).await,
    }
}

/// Opens the image of `format` that lies at `offset` of the file at `path` and has `len` bytes; `name` is
/// what people call it.
///
/// # Errors
/// The file cannot be opened, or there is no such image in it.
pub(crate) async fn open_window(
    path: &Path,
    name: String,
    (offset, len): (u64, u64),
    format: Format,
    options: &SourceOptions,
) -> Result<OpenedSource> {
    let store: Arc<dyn ByteStore> = match Kind::of(&path.to_string_lossy())? {
        #[cfg(feature = "cloud")]
        Kind::Object(object) => Arc::new(open_object(&object, options).await?.0),
        _ => {
            let path = path.to_owned();
            Arc::new(blocking(move || FileStore::open(&path)).await?)
        }
    };
    let window = Arc::new(Window::new(store, name, offset, len)?);
    open_store(format, window, None, options).await
}

/// Opens the disk that `links` lead to; its bytes are a RAW disk whatever they begin with.
/// `from_middle` says that an earlier run is taken up.
///
/// # Errors
/// There is no link, or what is behind it cannot be used.
pub async fn open_links(
    links: Arc<dyn Links>,
    transfer: Transfer,
    from_middle: bool,
    options: &SourceOptions,
) -> Result<OpenedSource> {
    let opened = http::open_export(links, transfer, from_middle, &options.http).await?;
    if let (Some(expected), Source::Random(plan)) = (options.size, &opened.source)
        && plan.size() != expected
    {
        return Err(wrong_size(&opened.name, plan.size(), expected));
    }
    Ok(opened)
}

async fn open_path(path: PathBuf, options: &SourceOptions) -> Result<Opened> {
    let location = path.to_string_lossy().into_owned();
    let location = location.as_str();
    // A format that is named is that of a disk, unless a disk is named too.
    let may_be_appliance = options.format.is_none() || options.disk.is_some();
    if may_be_appliance && has_extension(location, "ovf") {
        let appliance = Appliance::in_directory(&path).await?;
        return Ok(Opened::Appliance(Box::new(appliance)));
    }
    let store = Arc::new(blocking(move || FileStore::open(&path)).await?);
    let bytes: Arc<dyn ByteStore> = Arc::clone(&store) as Arc<dyn ByteStore>;
    let (head, tail) = head_and_tail(&bytes).await?;
    let rest =
        Rest { name: store.name(), raw_likely: store.is_block_device() || may_be_raw(location, false) };
    let detected = detect(&head, &tail);
    if may_be_appliance && is_archive(detected, &rest)? {
        return Ok(Opened::Appliance(Box::new(Appliance::in_archive(bytes).await?)));
    }
    let opened = match choose(options.format, detected, &rest)? {
        SourceFormat::Image(format) => {
            open_store(format, bytes, options.allow_backing.as_deref(), options).await
        }
        SourceFormat::Gzip | SourceFormat::Zstd => {
            let input = blocking(move || FileInput::file(&store)).await?;
            open_stream(Box::new(input), options, Announced::Nothing).await
        }
    };
    opened.map(Opened::Disk)
}

/// Opens a disk's file in an appliance. `is_raw` says that the descriptor calls it RAW.
///
/// # Errors
/// It is of another format than `options` name, or of one that is not read.
pub(super) async fn open_file_of_appliance(
    store: Arc<dyn ByteStore>,
    is_raw: bool,
    extents: Option<&Path>,
    options: &SourceOptions,
) -> Result<OpenedSource> {
    let (head, tail) = head_and_tail(&store).await?;
    let name = store.name();
    let rest = Rest { raw_likely: is_raw || may_be_raw(&name, false), name };
    match choose(options.format, detect(&head, &tail), &rest)? {
        SourceFormat::Image(format) => open_store(format, store, extents, options).await,
        format @ (SourceFormat::Gzip | SourceFormat::Zstd) => Err(Error::refused(format!(
            "{} is compressed with {format}, and is not read inside of an appliance",
            rest.name
        ))
        .with_hint("extract the file, decompress it, and name that")),
    }
}

async fn open_url(location: &str, options: &SourceOptions) -> Result<Opened> {
    let options = &SourceOptions {
        format: options.format.or_else(|| exported_format(location, options)),
        ..options.clone()
    };
    match http::probe(location, &options.http).await? {
        Found::Store { store, head } => open_http_store(store, &head, true, options).await,
        Found::Stream(stream) => {
            refuse_unordered(options.format, stream.name())?;
            let raw_link = match options.size {
                None => stream.announced_by_raw_link().await?,
                Some(_) => None,
            };
            let announced = Announced::Http { body: stream.size(), raw_link };
            open_stream(Box::new(stream.into_input()), options, announced).await.map(Opened::Disk)
        }
    }
}

/// Whether `location` leads to an appliance, by its name and first bytes; nothing is read from stdin,
/// and of a URL only the name counts.
///
/// # Errors
/// A file cannot be opened or read.
pub async fn is_appliance(location: &str, options: &SourceOptions) -> Result<bool> {
    if options.format.is_some() && options.disk.is_none() {
        return Ok(false);
    }
    match Kind::of(location)? {
        #[cfg(feature = "cloud")]
        Kind::Object(object) => Ok(has_extension(object.key(), "ova")),
        Kind::Stdin => Ok(false),
        Kind::Url => Ok(has_extension(location.split(['?', '#']).next().unwrap_or(location), "ova")),
        Kind::Path(path) if has_extension(&path.to_string_lossy(), "ovf") => Ok(true),
        Kind::Path(path) => {
            let store: Arc<dyn ByteStore> = Arc::new(blocking(move || FileStore::open(&path)).await?);
            let (head, tail) = head_and_tail(&store).await?;
            Ok(detect(&head, &tail) == Detected::Tar && !says_raw(location))
        }
    }
}

/// Opens what answers range requests. `may_be_export`: a compressed disk may end early and look
/// complete.
async fn open_http_store(
    store: HttpStore,
    head: &[u8],
    may_be_export: bool,
    options: &SourceOptions,
) -> Result<Opened> {
    let name = store.name();
    let store = Arc::new(store);
    let bytes = Arc::clone(&store) as Arc<dyn ByteStore>;
    // The end is looked at only if it could matter: it costs a round trip.
    let tail = match (options.format, detect(head, &[])) {
        (None, Detected::Unknown) => {
            let len = store.size().min(to_u64(vmferry_formats::TAIL_LEN));
            Some(read_range(&bytes, store.size() - len, to_usize(len)).await?)
        }
        _ => None,
    };
    let rest = Rest { raw_likely: may_be_raw(&name, true), name };
    let detected = detect(head, tail.as_deref().unwrap_or_default());
    let may_be_appliance = options.format.is_none() || options.disk.is_some();
    if may_be_appliance && is_archive(detected, &rest)? {
        return Ok(Opened::Appliance(Box::new(Appliance::in_archive(bytes).await?)));
    }
    let opened = match choose(options.format, detected, &rest)? {
        SourceFormat::Image(format) => open_store(format, bytes, None, options).await,
        SourceFormat::Gzip | SourceFormat::Zstd => {
            // The compressed bytes are complete when the last range is; what was packed may not be.
            let announced = match options.size {
                _ if !may_be_export => Announced::Nothing,
                None => Announced::Http { body: None, raw_link: store.announced_by_raw_link().await? },
                Some(_) => Announced::Http { body: None, raw_link: None },
            };
            let input = HttpInput::ranges(store, 0)?;
            open_stream(Box::new(input), options, announced).await
        }
    };
    opened.map(Opened::Disk)
}

/// Opens what has random access and is not compressed as a whole.
async fn open_store(
    format: Format,
    store: Arc<dyn ByteStore>,
    extents: Option<&Path>,
    options: &SourceOptions,
) -> Result<OpenedSource> {
    let name = store.name();
    let (size, info, source) = match format {
        Format::Raw => (store.size(), None, Source::Random(Box::new(RawPlan::new(store)))),
        format => {
            let plan = ImagePlan::open(format, store, extents).await?;
            let info = plan.info().clone();
            (info.virtual_size, Some(info), Source::Random(Box::new(plan)))
        }
    };
    if let Some(expected) = options.size
        && expected != size
    {
        return Err(wrong_size(&name, size, expected));
    }
    Ok(OpenedSource { name, format: SourceFormat::Image(format), info, warnings: Vec::new(), source })
}

fn wrong_size(name: &str, size: u64, expected: u64) -> Error {
    Error::new(
        ErrorKind::SourceChanged,
        format!("{name} has {size} bytes of disk instead of the {expected} given"),
    )
}

/// Runs what may block away from the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::failed("opening the source was given up").with_source(error))?
}

#[cfg(test)]
mod tests;
