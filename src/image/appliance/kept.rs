//! The manifests with chunk digests that lie beside what we wrote: one for an archive with all its
//! disks, one beside each file of a directory.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use vmferry_formats::digest::Algorithm;

use super::super::{
    ReadOptions,
    manifest::{ManifestText, beside},
};
use crate::{
    error::{Error, Result},
    pipeline::{
        manifest::{ContainerManifest, Manifest, ManifestReader},
        stages::VerifyStage,
    },
    source::{Appliance, ApplianceDisk, Kind},
};

/// Where such manifests may be.
pub(super) struct Kept {
    archive: Option<(ManifestText, ContainerManifest)>,
    directory: Option<PathBuf>,
}

/// What a disk must hold.
pub(super) struct Expected {
    pub(super) algorithm: Algorithm,
    /// Bytes that are digested.
    pub(super) content: u64,
    pub(super) stage: VerifyStage,
    /// Name of the manifest.
    pub(super) name: String,
}

impl Kept {
    /// Looks beside the appliance at `location`; beside a URL that is no object there is nothing.
    ///
    /// # Errors
    /// The manifest is there and is not valid.
    pub(super) async fn find(appliance: &Appliance, location: &str, options: &ReadOptions) -> Result<Self> {
        let Kind::Path(path) = Kind::of(location)? else {
            let text = ManifestText::beside_object(location, options).await?;
            let archive = match text {
                Some(text) => {
                    let manifest = text.check_container().await?;
                    Some((text, manifest))
                }
                None => None,
            };
            return Ok(Self { archive, directory: None });
        };
        if appliance.archive().is_none() {
            let directory = path.parent().map_or_else(PathBuf::new, Path::to_owned);
            return Ok(Self { archive: None, directory: Some(directory) });
        }
        let path = beside(&path);
        if !path.exists() {
            return Ok(Self { archive: None, directory: None });
        }
        let text = ManifestText::File(path);
        let manifest = text.check_container().await?;
        Ok(Self { archive: Some((text, manifest)), directory: None })
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> u64 {
        self.archive.as_ref().map_or(0, |(text, _)| text.memory())
    }

    /// What is known of a disk.
    ///
    /// # Errors
    /// Its manifest cannot be read, or is not valid.
    pub(super) async fn of(&self, disk: &ApplianceDisk) -> Result<Option<Expected>> {
        let Some(file) = disk.file.as_deref() else { return Ok(None) };
        if let Some((text, container)) = &self.archive {
            let index = container.disks.iter().position(|disk| disk.head.file.as_deref() == Some(file));
            let found =
                index.and_then(|index| Some((u32::try_from(index).ok()?, container.disks.get(index)?)));
            let Some((index, manifest)) = found else { return Ok(None) };
            let reader = ManifestReader::of_disk(text.reader()?, index)?;
            return Ok(Some(expected(&text.name(), manifest, reader)));
        }
        let Some(directory) = &self.directory else { return Ok(None) };
        // The name is a bare one.
        let path = beside(&directory.join(file));
        if !path.exists() {
            return Ok(None);
        }
        let manifest = blocking(&path, Manifest::check).await?;
        Ok(Some(expected(&path, &manifest, ManifestReader::new(open(&path)?)?)))
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::io("open the manifest", path, error))
}

fn expected<R>(path: &Path, manifest: &Manifest, reader: ManifestReader<R>) -> Expected
where
    R: Read + Send + 'static,
{
    let content = manifest.head.content_size;
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let stage = VerifyStage::new(Box::new(reader), content);
    Expected { algorithm: manifest.algorithm, content, stage, name }
}

async fn blocking<T: Send + 'static>(path: &Path, read: fn(&Path) -> Result<T>) -> Result<T> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    read.map_err(|error| Error::failed("reading the manifest panicked").with_source(error))?
}
