//! From what the user names to a source that can be read.

use std::path::PathBuf;

use super::{HttpOptions, Source};
use crate::error::Result;

/// How the user says a source is to be read.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// The format; `None` = by its magic, RAW by the absence of one.
    pub format: Option<SourceFormat>,
    /// Size of the disk in bytes, for streams that do not tell.
    pub size: Option<u64>,
    /// Directory in which other files that an image names may lie; `None` = refuse such images.
    pub allow_backing: Option<PathBuf>,
    /// How URLs are fetched.
    pub http: HttpOptions,
}

/// The formats a source may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceFormat {
    /// gzip-compressed RAW.
    Gzip,
    /// A disk image.
    Image(vmferry_formats::Format),
    /// zstd-compressed RAW.
    Zstd,
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
    /// The disk.
    pub source: Source,
}

/// Opens `location`: `-` for stdin, an `http://` or `https://` URL, or a path.
///
/// # Errors
/// The source cannot be opened, is refused, or is not what `options` say.
pub async fn open(location: &str, _options: &SourceOptions) -> Result<OpenedSource> {
    let store = super::FileStore::open(std::path::Path::new(location))?;
    Ok(OpenedSource {
        name: location.into(),
        format: SourceFormat::Image(vmferry_formats::Format::Raw),
        info: None,
        source: Source::Random(Box::new(super::RawPlan::new(std::sync::Arc::new(store)))),
    })
}
