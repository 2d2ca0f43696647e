//! From what the user names to a source that can be read.
//!
//! The magic of a source decides, unless the user names the format. RAW is never concluded from
//! content: a guest can write any header into its first sector. So a named RAW is RAW whatever it
//! begins with, a named format must be what is there, and bytes without a magic are taken as RAW
//! only where nothing says otherwise.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use vmferry_formats::{Detected, Format, HEAD_LEN, detect};

#[cfg(feature = "cloud")]
use super::object::open_object;
use super::{
    Appliance, ByteStore, ByteStream, DiskChoice, FileStore, HttpOptions, ImagePlan, Links, RawPlan, Source,
    Transfer, Window,
    file::{head_and_tail, read_range},
    http::{self, Found, HttpInput, HttpStore},
    location::Kind,
    num::{to_u64, to_usize},
    stream::{DiskStream, FileInput, Gzip, Input, Raw, Unpack, Zstd, vmdk_stream},
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
/// `gs://`, `az://`), or a path. Of an
/// appliance that is the disk that `options` choose.
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

/// Whether a source is to be opened as an archive.
///
/// # Errors
/// Its name promises the bytes of a disk, into which a guest may have written what is found.
fn is_archive(detected: Detected, rest: &Rest) -> Result<bool> {
    if detected != Detected::Tar {
        return Ok(false);
    }
    if says_raw(&rest.name) {
        return Err(Error::refused(format!("{} calls itself RAW and begins like a tar archive", rest.name))
            .with_hint("a guest can write such a beginning into its disk: say '-f raw' to take the bytes as the disk"));
    }
    Ok(true)
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

/// What a volume of a VMExport is: the bytes of the disk, or these in gzip. Its content has no say in
/// that, since the guest could write the magic of an image there.
fn exported_format(location: &str, options: &SourceOptions) -> Option<SourceFormat> {
    options.http.token_file.as_ref()?;
    let path = location.split(['?', '#']).next().unwrap_or(location);
    // No export calls a volume so.
    if has_extension(path, "ova") {
        return None;
    }
    Some(if path.ends_with(".gz") { SourceFormat::Gzip } else { SourceFormat::Image(Format::Raw) })
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

/// What a stream's length must be, as others say.
#[derive(Clone, Copy, Debug)]
enum Announced {
    Nothing,
    Http {
        /// Length of the body.
        body: Option<u64>,
        /// Length of the disk, from the link beside.
        raw_link: Option<u64>,
    },
}

/// Opens what comes in order.
async fn open_stream(
    mut input: Box<dyn Input>,
    options: &SourceOptions,
    announced: Announced,
) -> Result<OpenedSource> {
    let options = options.clone();
    blocking(move || {
        let name = input.origin().name.clone();
        let head = input.peek(HEAD_LEN)?;
        let rest = Rest { raw_likely: may_be_raw(&name, true), name: name.clone() };
        let format = choose(options.format, detect(&head[..head.len().min(HEAD_LEN)], &[]), &rest)?;
        let stream = match format {
            SourceFormat::Image(Format::Raw) => {
                let body = match announced {
                    Announced::Http { body, .. } => body,
                    Announced::Nothing => None,
                };
                agree(&name, options.size, body)?;
                if head.is_empty() && options.size.or(body).is_none() {
                    return Err(Error::new(
                        ErrorKind::SourceChanged,
                        format!("nothing came from {name}: it ended before its first byte"),
                    )
                    .with_hint("look at what feeds it; if the disk is empty indeed, say '--source-size 0'"));
                }
                Box::new(DiskStream::new(input, Raw, options.size.or(body)))
            }
            SourceFormat::Gzip => {
                let raw_link = match announced {
                    Announced::Http { raw_link, .. } => raw_link,
                    Announced::Nothing => None,
                };
                if matches!(announced, Announced::Http { .. }) && options.size.or(raw_link).is_none() {
                    if options.http.token_file.is_some() {
                        return Err(unproven(&name));
                    }
                    tracing::warn!(
                        source = %name,
                        "the length of the disk is not known: an export whose disk cannot be read to its end sends a \
                         shorter stream that looks complete; give the size to be sure"
                    );
                }
                open_packed(DiskStream::new(input, Gzip::default(), options.size.or(raw_link)), format)?
            }
            SourceFormat::Zstd => open_packed(DiskStream::new(input, Zstd::new(options.memory)?, options.size), format)?,
            SourceFormat::Image(Format::Vmdk) => vmdk_stream(input, options.size)?,
            SourceFormat::Image(_) => return Err(unordered(&name, format)),
        };
        let source = Source::Stream(stream);
        Ok(OpenedSource { name, format, info: None, warnings: Vec::new(), source })
    })
    .await
}

/// An export's compressed stream proves nothing about its end.
fn unproven(name: &str) -> Error {
    Error::refused(format!(
        "{name} is compressed, and there is no raw link beside it that tells how long the disk is"
    ))
    .with_hint(
        "an export whose disk cannot be read to its end sends a shorter stream that looks complete: take the raw \
         link, or state the length with --source-size",
    )
}

fn agree(name: &str, given: Option<u64>, announced: Option<u64>) -> Result<()> {
    match (given, announced) {
        (Some(given), Some(announced)) if given != announced => Err(Error::new(
            ErrorKind::SourceChanged,
            format!("{name} announces {announced} bytes instead of the {given} given"),
        )),
        _ => Ok(()),
    }
}

/// A compressed disk, unless an image or archive turns out to be inside.
fn open_packed<U: Unpack>(mut stream: DiskStream<U>, format: SourceFormat) -> Result<Box<dyn ByteStream>> {
    let name = stream.name();
    let what = match detect(stream.peek(HEAD_LEN)?, &[]) {
        Detected::Unknown => return Ok(Box::new(stream)),
        inside => describe(inside),
    };
    let tool = if format == SourceFormat::Gzip { "gunzip" } else { "unzstd" };
    Err(Error::refused(format!("{name} is {what} inside {format}, where only a RAW disk is read")).with_hint(
        format!(
            "decompress it first: '{tool} -c FILE > DISK'; if it is a RAW disk that begins so, pipe it: '{tool} -c \
             FILE | vmferry convert -f raw - OUTPUT'"
        ),
    ))
}

/// What decides besides the magic.
struct Rest {
    name: String,
    /// Whether bytes without a magic may be taken as RAW.
    raw_likely: bool,
}

/// The format to read a source as.
fn choose(named: Option<SourceFormat>, detected: Detected, rest: &Rest) -> Result<SourceFormat> {
    let name = &rest.name;
    let found = match detected {
        Detected::Image(format) => Some(SourceFormat::Image(format)),
        Detected::Gzip => Some(SourceFormat::Gzip),
        Detected::Zstd => Some(SourceFormat::Zstd),
        _ => None,
    };
    match (named, found) {
        (Some(named @ SourceFormat::Image(Format::Raw)), _) => Ok(named),
        (Some(named), found) if found == Some(named) => Ok(named),
        (Some(named), _) => Err(Error::usage(format!(
            "{name} is named as {named}, but by its first bytes it is {}",
            describe(detected)
        ))
        .with_hint("leave the format away to take what is there, or name raw to take the bytes as the disk")),
        (None, Some(found @ SourceFormat::Image(_))) if says_raw(name) => Err(Error::refused(format!(
            "{name} calls itself RAW and begins like {}",
            describe(detected)
        ))
        .with_hint(format!(
            "a guest can write such a beginning into its disk: say '-f raw' to take the bytes as the disk, or '-f {found}' if it is one"
        ))),
        (None, Some(found)) => Ok(found),
        (None, None) if detected == Detected::Unknown => {
            if rest.raw_likely {
                return Ok(SourceFormat::Image(Format::Raw));
            }
            Err(Error::usage(format!(
                "{name} has no magic that is known, and its name does not say that it is RAW"
            ))
            .with_hint("if it is a RAW disk, say so: '-f raw'"))
        }
        (None, None) => {
            let hint = match detected {
                Detected::Tar => {
                    "an OVA is such an archive: save it to a file and name that, since its disks are not read in order"
                }
                Detected::Known("xz stream") => {
                    "decompress it on the way: 'xz -dc FILE | vmferry convert -f raw - OUTPUT'"
                }
                _ => "convert it to RAW or QCOW2 first, with qemu-img or the tool that made it",
            };
            Err(Error::failed(format!(
                "{name} is {}, which is not supported as a source",
                describe(detected)
            ))
            .with_hint(hint))
        }
    }
}

fn describe(detected: Detected) -> String {
    match detected {
        Detected::Gzip => "a gzip stream".to_owned(),
        Detected::Image(Format::Qcow2) => "a QCOW2 image".to_owned(),
        Detected::Image(Format::Vmdk) => "a VMDK image".to_owned(),
        Detected::Image(format) => format!("a {format} image"),
        Detected::Known("xz stream") => "an xz stream".to_owned(),
        Detected::Known(what) => format!("a {what} image"),
        Detected::Tar => "a tar archive".to_owned(),
        Detected::Zstd => "a zstd stream".to_owned(),
        _ => "none that is known".to_owned(),
    }
}

/// Whether the extension of a path lets it be a RAW disk. Links and pipes often have names that say
/// nothing, so there (`lenient`) only the extension of something else counts against it.
fn may_be_raw(location: &str, lenient: bool) -> bool {
    let Some(extension) = Path::new(location).extension() else { return true };
    let extension = extension.to_string_lossy().to_ascii_lowercase();
    match Format::from_extension(&extension) {
        Some(format) => format == Format::Raw,
        None => lenient && !OTHER_EXTENSIONS.contains(&extension.as_str()),
    }
}

/// Whether a name promises the bytes of a disk; `.img` does not.
fn says_raw(location: &str) -> bool {
    has_extension(location, "raw")
}

fn has_extension(location: &str, extension: &str) -> bool {
    Path::new(location).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Extensions of what is no RAW disk.
const OTHER_EXTENSIONS: [&str; 14] =
    ["7z", "bz2", "gz", "htm", "html", "ova", "ovf", "tar", "vdi", "vhd", "vhdx", "xz", "zip", "zst"];

/// Formats that need random access are refused before anything is read.
fn refuse_unordered(named: Option<SourceFormat>, name: &str) -> Result<()> {
    match named {
        Some(format @ SourceFormat::Image(Format::Qcow2)) => Err(unordered(name, format)),
        _ => Ok(()),
    }
}

fn unordered(name: &str, format: SourceFormat) -> Error {
    Error::refused(format!("{name} can only be read in order, and {format} needs random access"))
        .with_hint("save it to a file and name that; a stream may be RAW, gzip or zstd")
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
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::source::{Restart, StreamChunk};

    fn with(format: Option<SourceFormat>, size: Option<u64>) -> SourceOptions {
        SourceOptions { format, size, ..SourceOptions::default() }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn magic(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    async fn open_bytes(name: &str, bytes: &[u8], options: &SourceOptions) -> Result<OpenedSource> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        open(path.to_str().unwrap(), options).await
    }

    async fn open_pipe(bytes: &[u8], options: &SourceOptions) -> Result<OpenedSource> {
        let (read, mut write) = std::io::pipe().unwrap();
        // Small enough for the pipe to hold it.
        write.write_all(bytes).unwrap();
        drop(write);
        let input = FileInput::pipe(std::fs::File::from(std::os::fd::OwnedFd::from(read)), "stdin");
        open_stream(Box::new(input), options, Announced::Nothing).await
    }

    fn text(error: &Error) -> String {
        format!("{error} ({})", error.hint().unwrap_or_default())
    }

    const QCOW2: Option<SourceFormat> = Some(SourceFormat::Image(Format::Qcow2));
    const RAW: Option<SourceFormat> = Some(SourceFormat::Image(Format::Raw));

    #[tokio::test]
    async fn raw_is_taken_only_where_nothing_speaks_against_it() {
        for name in ["disk.raw", "disk.img", "disk.IMG", "disk"] {
            let opened = open_bytes(name, &[0; 700], &with(None, None)).await.unwrap();
            assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
            assert!(
                matches!(&opened.source, Source::Random(plan) if plan.size() == 700 && plan.decode_len() == 1)
            );
            assert!(opened.info.is_none() && opened.name.ends_with(name));
        }
        for name in ["disk.qcow2", "disk.vmdk", "disk.gz", "disk.bin"] {
            let error = open_bytes(name, &[0; 700], &with(None, None)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(text(&error).contains("-f raw"), "{}", text(&error));
            open_bytes(name, &[0; 700], &with(RAW, None)).await.unwrap();
        }
        // What the user calls RAW is RAW, and so is an empty file.
        for bytes in [magic(0, b"QFI\xfb"), magic(0, b"KDMV"), gzip(b"x"), Vec::new()] {
            let opened = open_bytes("disk.qcow2", &bytes, &with(RAW, None)).await.unwrap();
            assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
        }
    }

    #[tokio::test]
    async fn a_magic_that_a_guest_may_have_written_does_not_decide() {
        for bytes in [magic(0, b"QFI\xfb"), magic(0, b"KDMV")] {
            let error = open_bytes("disk.raw", &bytes, &with(None, None)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(text(&error).contains("-f raw"), "{}", text(&error));
            open_bytes("disk.raw", &bytes, &with(RAW, None)).await.unwrap();
        }
        let mut options = with(None, None);
        assert_eq!(exported_format("https://host/x/disk.img", &options), None);
        options.http.token_file = Some("token".into());
        for (location, format) in [
            ("https://host/volumes/root/disk.img", SourceFormat::Image(Format::Raw)),
            ("https://host/volumes/root/disk.img.gz", SourceFormat::Gzip),
            ("https://host/volumes/root/disk.img.gz?a=b.img", SourceFormat::Gzip),
            ("https://host/volumes/root/dir/disk.img", SourceFormat::Image(Format::Raw)),
        ] {
            assert_eq!(exported_format(location, &options), Some(format), "{location}");
        }
    }

    #[tokio::test]
    async fn a_named_format_must_be_what_is_there() {
        for (named, bytes, word) in [
            (QCOW2, vec![0; 4096], "none that is known"),
            (QCOW2, magic(0, b"KDMV"), "a VMDK image"),
            (Some(SourceFormat::Image(Format::Vmdk)), magic(0, b"QFI\xfb"), "a QCOW2 image"),
            (Some(SourceFormat::Gzip), vec![0; 10], "none that is known"),
            (Some(SourceFormat::Zstd), gzip(b"x"), "a gzip stream"),
        ] {
            let error = open_bytes("disk.img", &bytes, &with(named, None)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_not_read_is_named() {
        let mut fixed_vhd = vec![0; 4096];
        fixed_vhd[4096 - 512..4096 - 504].copy_from_slice(b"conectix");
        for (bytes, word) in [
            (magic(257, b"ustar"), "a tar archive"),
            (magic(0, b"conectix"), "a dynamic VHD image"),
            (fixed_vhd, "a fixed VHD image"),
            (magic(0, b"vhdxfile"), "a VHDX image"),
            (magic(64, &[0x7f, 0x10, 0xda, 0xbe]), "a VDI image"),
            (magic(0, &[0xfd, b'7', b'z', b'X', b'Z', 0]), "an xz stream"),
            (magic(0, &[0xbe, 0xba, 0xfe, 0xca]), "a seSparse VMDK image"),
        ] {
            let error = open_bytes("disk.img", &bytes, &with(None, None)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Failed);
            assert!(error.to_string().contains(word) && error.hint().is_some(), "{error}");
        }
        for location in ["s3://bucket", "nbd+unix:///x"] {
            assert_eq!(open(location, &with(None, None)).await.unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    #[tokio::test]
    async fn compressed_files_are_streams_that_can_restart() {
        let disk = vec![7; 100_000];
        for (bytes, format) in [
            (gzip(&disk), SourceFormat::Gzip),
            (zstd::stream::encode_all(&disk[..], 1).unwrap(), SourceFormat::Zstd),
        ] {
            for named in [None, Some(format)] {
                let opened = open_bytes("disk.bin", &bytes, &with(named, Some(100_000))).await.unwrap();
                assert_eq!(opened.format, format);
                let Source::Stream(mut stream) = opened.source else { panic!("not a stream") };
                assert_eq!((stream.size(), stream.restart()), (Some(100_000), Restart::FromStart));
                let mut buffer = vec![0; 200_000];
                let chunk = stream.next_chunk(&mut buffer).unwrap();
                assert_eq!(chunk, StreamChunk::Data { len: 100_000, holes: Vec::new() });
                assert_eq!(buffer[..100_000], disk);
                assert_eq!(stream.next_chunk(&mut buffer).unwrap(), StreamChunk::End);
            }
        }
        for (inside, word) in
            [(magic(0, b"QFI\xfb"), "QCOW2"), (magic(257, b"ustar"), "tar"), (gzip(b"x"), "gzip")]
        {
            let error = open_bytes("disk.gz", &gzip(&inside), &with(None, None)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(
                error.to_string().contains(word) && text(&error).contains("gunzip -c"),
                "{}",
                text(&error)
            );
        }
    }

    #[tokio::test]
    async fn a_size_that_is_given_must_be_right() {
        let error = open_bytes("disk.img", &[0; 700], &with(None, Some(701))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
        assert!(error.to_string().contains("700") && error.to_string().contains("701"), "{error}");
        open_bytes("disk.img", &[0; 700], &with(None, Some(700))).await.unwrap();
    }

    #[tokio::test]
    async fn pipes_take_what_can_be_read_in_order() {
        let opened = open_pipe(&[1; 1000], &with(None, None)).await.unwrap();
        assert_eq!((opened.name.as_str(), opened.format), ("stdin", SourceFormat::Image(Format::Raw)));
        let Source::Stream(mut stream) = opened.source else { panic!("not a stream") };
        assert_eq!((stream.size(), stream.restart(), stream.identity()), (None, Restart::Never, None));
        let mut buffer = vec![0; 2000];
        assert_eq!(
            stream.next_chunk(&mut buffer).unwrap(),
            StreamChunk::Data { len: 1000, holes: Vec::new() }
        );
        let opened = open_pipe(&gzip(&[1; 1000]), &with(None, None)).await.unwrap();
        assert_eq!(opened.format, SourceFormat::Gzip);
        for bytes in [magic(0, b"QFI\xfb"), magic(0, b"KDMV")] {
            let error = open_pipe(&bytes, &with(None, None)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
            assert!(error.hint().unwrap().contains("save it to a file"), "{}", text(&error));
            open_pipe(&bytes, &with(RAW, None)).await.unwrap();
        }
        let error = open_pipe(&[], &with(None, None)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged);
        assert!(error.to_string().contains("nothing came"), "{error}");
        open_pipe(&[], &with(None, Some(0))).await.unwrap();
        assert_eq!(open("-", &with(QCOW2, None)).await.unwrap_err().kind(), ErrorKind::Refused);
    }
}
