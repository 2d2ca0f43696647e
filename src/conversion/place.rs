//! What outputs and what stands beside them have in common, be they files or objects.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

#[cfg(feature = "cloud")]
use super::object;
use super::{
    ConversionOptions, ConversionSource,
    small::{Readers, write_whole},
};
use crate::{
    error::{Error, Result},
    pipeline::target::{TargetPaths, same_file},
    source::SourceIdentity,
};

/// Whether a text is the URL of an object, or of a place that objects lie in.
pub fn is_object_url(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("az" | "azure" | "gs" | "s3"))
}

/// Bytes that the image of a disk of `size` bytes has at most, whatever the format: tables, and what
/// cannot be compressed.
pub(crate) fn worst_len(size: u64) -> u64 {
    size.saturating_add(size / 64).saturating_add(16 << 20)
}

/// What belongs to an output: a file, a device, or an object whose URL stands for a path.
///
/// # Errors
/// It cannot be looked at, or there is no place for its journal.
pub(crate) fn paths_of(output: &Path, options: &ConversionOptions, force: bool) -> Result<TargetPaths> {
    match output.to_str() {
        #[cfg(feature = "cloud")]
        Some(url) if is_object_url(url) => {
            object::paths(url, &ConversionOptions { force, ..options.clone() })
        }
        #[cfg(not(feature = "cloud"))]
        Some(url) if is_object_url(url) => {
            Err(Error::usage(format!("cannot write {url}: this program was built without object stores")))
        }
        _ => TargetPaths::new(output, options.journal.as_deref(), force),
    }
}

/// Bytes of what stands under an output's name; `None` if nothing does.
///
/// # Errors
/// It cannot be looked at.
pub(crate) async fn size_of_output(output: &Path, options: &ConversionOptions) -> Result<Option<u64>> {
    match output.to_str() {
        #[cfg(feature = "cloud")]
        Some(url) if is_object_url(url) => object::size_of_object(url, options).await,
        _ => {
            let _ = options;
            match fs::symlink_metadata(output) {
                Ok(found) => Ok(Some(found.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io("look at", output, error)),
            }
        }
    }
}

/// Refuses an output that the user did not ask to overwrite.
///
/// # Errors
/// It or its manifest exists and there is no `force`, or it cannot be looked at.
pub(crate) async fn check_output_free(output: &Path, options: &ConversionOptions) -> Result<()> {
    match output.to_str() {
        #[cfg(feature = "cloud")]
        Some(url) if is_object_url(url) => object::check_free(url, options).await,
        _ => paths_of(output, options, options.force)?.check_free(),
    }
}

/// Removes an output, or what stands beside one, if it is there.
///
/// # Errors
/// It stays.
pub(crate) async fn remove_output(output: &Path, options: &ConversionOptions) -> Result<()> {
    match output.to_str() {
        #[cfg(feature = "cloud")]
        Some(url) if is_object_url(url) => object::remove_object(url, options).await,
        _ => {
            let _ = options;
            match fs::remove_file(output) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io("remove", output, error))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Writes what stands beside images, an object or a file, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub(crate) async fn write_beside(
    output: &Path,
    bytes: &[u8],
    options: &ConversionOptions,
    readers: Readers,
) -> Result<()> {
    match output.to_str() {
        #[cfg(feature = "cloud")]
        Some(url) if is_object_url(url) => object::put_object(url, bytes, options).await,
        _ => {
            let _ = options;
            write_whole(output, bytes, readers)
        }
    }
}

/// Refuses to write over what is read.
pub(crate) fn refuse_sources<'a>(
    paths: &TargetPaths,
    sources: impl IntoIterator<Item = &'a ConversionSource>,
) -> Result<()> {
    for source in sources {
        for file in files_of(paths) {
            let is_object = paths.is_object && source.is_location(&file.to_string_lossy());
            if is_object || source.is_file(file) {
                return Err(Error::refused(format!("{} is the source itself", file.display()))
                    .with_hint("choose another output"));
            }
        }
    }
    Ok(())
}

/// The files that are written for an output.
pub(crate) fn files_of(paths: &TargetPaths) -> [&PathBuf; 4] {
    [&paths.output, &paths.partial, &paths.journal, &paths.manifest]
}

/// Refuses to write over one of `inputs`, which are read beside the disks.
pub(crate) fn refuse_inputs<'a>(
    written: impl IntoIterator<Item = &'a PathBuf>,
    inputs: &[PathBuf],
) -> Result<()> {
    match written.into_iter().find(|file| inputs.iter().any(|input| same_file(input, file))) {
        Some(file) => Err(Error::refused(format!(
            "{} is an input itself: a description, a key, a certificate or a configuration",
            file.display()
        ))
        .with_hint("choose another output, or copy the input elsewhere")),
        None => Ok(()),
    }
}

/// Refuses to write over a file that one of `identities`, which were opened, consists of: beside the
/// file that was named, an image may have its disk in others.
pub(crate) fn refuse_parts<'a>(
    paths: &TargetPaths,
    identities: impl IntoIterator<Item = &'a SourceIdentity>,
) -> Result<()> {
    let mut left: Vec<&SourceIdentity> = identities.into_iter().collect();
    let mut parts = Vec::new();
    while let Some(identity) = left.pop() {
        match identity {
            SourceIdentity::File { device, inode, .. } => parts.push((*device, *inode)),
            SourceIdentity::Image { files } => left.extend(files),
            SourceIdentity::Part { file, .. } => left.push(file),
            SourceIdentity::Export { .. } | SourceIdentity::Http { .. } => {}
        }
    }
    for file in [&paths.output, &paths.partial, &paths.journal, &paths.manifest] {
        if fs::metadata(file).is_ok_and(|found| parts.contains(&(found.dev(), found.ino()))) {
            return Err(Error::refused(format!("{} is a part of the source", file.display()))
                .with_hint("choose another output"));
        }
    }
    Ok(())
}
