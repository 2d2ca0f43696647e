//! The manifests with chunk digests that lie beside what we wrote: one for an archive with all its
//! disks, one beside each file of a directory.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use vmferry_formats::digest::Algorithm;

use super::super::manifest::beside;
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
    archive: Option<(PathBuf, ContainerManifest)>,
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
    /// Looks beside the appliance at `location`; beside a URL there is nothing.
    ///
    /// # Errors
    /// The manifest is there and is not valid.
    pub(super) async fn find(appliance: &Appliance, location: &str) -> Result<Self> {
        let Kind::Path(path) = Kind::of(location)? else {
            return Ok(Self { archive: None, directory: None });
        };
        if appliance.archive().is_none() {
            let directory = path.parent().map_or_else(PathBuf::new, Path::to_owned);
            return Ok(Self { archive: None, directory: Some(directory) });
        }
        let path = beside(&path);
        if !path.exists() {
            return Ok(Self { archive: None, directory: None });
        }
        let manifest = blocking(&path, ContainerManifest::check).await?;
        Ok(Self { archive: Some((path, manifest)), directory: None })
    }

    /// What is known of a disk.
    ///
    /// # Errors
    /// Its manifest cannot be read, or is not valid.
    pub(super) async fn of(&self, disk: &ApplianceDisk) -> Result<Option<Expected>> {
        let Some(file) = disk.file.as_deref() else { return Ok(None) };
        if let Some((path, container)) = &self.archive {
            let index = container.disks.iter().position(|disk| disk.head.file.as_deref() == Some(file));
            let found =
                index.and_then(|index| Some((u32::try_from(index).ok()?, container.disks.get(index)?)));
            let Some((index, manifest)) = found else { return Ok(None) };
            return Ok(Some(expected(path, manifest, ManifestReader::of_disk(open(path)?, index)?)));
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

fn expected(path: &Path, manifest: &Manifest, reader: ManifestReader<File>) -> Expected {
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
