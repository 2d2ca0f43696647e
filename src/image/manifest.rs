//! The manifest that an image is held against: a file, or an object beside an image that is one.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::ReadOptions;
#[cfg(feature = "cloud")]
use crate::source;
use crate::{
    error::{Error, Result},
    pipeline::{
        manifest::{ContainerManifest, Manifest},
        target::TargetPaths,
    },
    source::Kind,
};

/// A manifest that an image is held against.
pub(super) enum ManifestText {
    /// A file of this machine.
    File(PathBuf),
    /// An object beside the image.
    #[cfg(feature = "cloud")]
    Object {
        /// Its URL.
        name: String,
        /// All of it.
        text: bytes::Bytes,
    },
}

impl ManifestText {
    /// The manifest at `named`, or else the one beside the image at `location`.
    pub(super) async fn of(location: &str, named: Option<PathBuf>, options: &ReadOptions) -> Result<Self> {
        let path = match (named, Kind::of(location)?) {
            (Some(path), _) => path,
            (None, Kind::Path(path)) => beside(&path),
            #[cfg(feature = "cloud")]
            (None, Kind::Object(image)) => {
                let object = image.child(".vmferry.jsonl");
                let max = options.memory / MANIFEST_SHARE;
                let text = source::read_object(&object, max, &options.source).await.map_err(|error| {
                    error.with_further_hint("or name a manifest on this machine with --manifest FILE")
                })?;
                return Ok(Self::Object { name: object.to_string(), text });
            }
            (None, Kind::Stdin | Kind::Url) => {
                return Err(Error::usage("there is no file beside that source")
                    .with_hint("name the manifest: --manifest FILE"));
            }
        };
        if !path.exists() {
            return Err(Error::usage(format!("there is no manifest {}", path.display())).with_hint(
                "name one with --manifest FILE; without one, `vmferry digest` shows what the image holds",
            ));
        }
        #[cfg(not(feature = "cloud"))]
        let _only_objects_take_memory = options;
        Ok(Self::File(path))
    }

    /// That beside the object at `location`, if there is one. Whether there is cannot be told where that is
    /// refused.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub(super) async fn beside_object(location: &str, options: &ReadOptions) -> Result<Option<Self>> {
        #[cfg(feature = "cloud")]
        if let Kind::Object(archive) = Kind::of(location)? {
            let object = archive.child(".vmferry.jsonl");
            match source::object_is_there(&object, &options.source).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    tracing::warn!("cannot look for a manifest: {error}");
                    return Ok(None);
                }
            }
            let text = source::read_object(&object, options.memory / MANIFEST_SHARE, &options.source).await?;
            return Ok(Some(Self::Object { name: object.to_string(), text }));
        }
        let _nothing_is_beside = (location, options);
        Ok(None)
    }

    /// What it says of a container, if it agrees with itself.
    pub(super) async fn check_container(&self) -> Result<ContainerManifest> {
        let (reader, name) = (self.reader()?, self.name());
        let read = tokio::task::spawn_blocking(move || {
            ContainerManifest::read(reader)
                .map_err(|error| error.with_hint(format!("{} cannot serve as proof", name.display())))
        });
        read.await.map_err(|error| Error::failed("reading the manifest panicked").with_source(error))?
    }

    /// What it says, if it agrees with itself.
    pub(super) async fn check(&self) -> Result<Manifest> {
        let read = match self {
            Self::File(path) => {
                let path = path.clone();
                tokio::task::spawn_blocking(move || Manifest::check(&path)).await
            }
            #[cfg(feature = "cloud")]
            Self::Object { name, text } => {
                let (name, text) = (name.clone(), text.clone());
                tokio::task::spawn_blocking(move || {
                    Manifest::read(&text[..])
                        .map_err(|error| error.with_hint(format!("{name} cannot serve as proof")))
                })
                .await
            }
        };
        read.map_err(|error| Error::failed("reading the manifest panicked").with_source(error))?
    }

    /// It, from its start.
    pub(super) fn reader(&self) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::File(path) => match File::open(path) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => Err(Error::io("open the manifest", path, error)),
            },
            #[cfg(feature = "cloud")]
            Self::Object { text, .. } => Ok(Box::new(std::io::Cursor::new(text.clone()))),
        }
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> u64 {
        match self {
            Self::File(_) => 0,
            #[cfg(feature = "cloud")]
            Self::Object { text, .. } => u64::try_from(text.len()).unwrap_or(u64::MAX),
        }
    }

    /// Where it is.
    pub(super) fn name(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            #[cfg(feature = "cloud")]
            Self::Object { name, .. } => name.into(),
        }
    }
}

/// The manifest that stands beside an image; that of a device has no place there.
pub(super) fn beside(image: &Path) -> PathBuf {
    if let Ok(paths) = TargetPaths::new(image, None, true)
        && paths.is_device
    {
        return paths.manifest;
    }
    let mut name = image.as_os_str().to_owned();
    name.push(".vmferry.jsonl");
    PathBuf::from(name)
}

/// A manifest that is an object may take this part of the memory.
#[cfg(feature = "cloud")]
const MANIFEST_SHARE: u64 = 4;
