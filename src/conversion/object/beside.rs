//! Small objects: what stands beside images, and what is asked of them.

use bytes::Bytes;
use object_store::ObjectStoreExt as _;

use super::{ConversionOptions, ObjectPlace, paths};
use crate::{
    error::Result,
    object::{Act, object_error},
};

/// Refuses an object that the user did not ask to overwrite, unless a run has begun it.
///
/// # Errors
/// As for [`ObjectPlace::check_free`].
pub(crate) async fn check_free(url: &str, options: &ConversionOptions) -> Result<()> {
    if std::fs::symlink_metadata(paths(url, options)?.journal).is_ok() {
        return Ok(());
    }
    ObjectPlace::open(url, options, None).await?.check_free().await
}

/// Bytes of an object; `None` if there is none.
///
/// # Errors
/// The store refuses, or cannot be asked.
pub(crate) async fn size_of_object(url: &str, options: &ConversionOptions) -> Result<Option<u64>> {
    let place = ObjectPlace::open(url, options, None).await?;
    Ok(place.client.head(&place.location).await?.map(|found| found.size))
}

/// Removes an object, if it is there.
///
/// # Errors
/// The store refuses, or cannot be asked.
pub(crate) async fn remove_object(url: &str, options: &ConversionOptions) -> Result<()> {
    let place = ObjectPlace::open(url, options, None).await?;
    match place.store.objects.delete(&place.location.path()?).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(object_error(&place.location, Act::Delete, error)),
    }
}

/// Makes a small object, whole or not at all.
///
/// # Errors
/// The store refuses, or cannot be asked.
pub(crate) async fn put_object(url: &str, bytes: &[u8], options: &ConversionOptions) -> Result<()> {
    let place = ObjectPlace::open(url, options, None).await?;
    let bytes = Bytes::copy_from_slice(bytes);
    let put = place.store.objects.put(&place.location.path()?, bytes.into()).await;
    put.map(drop).map_err(|error| object_error(&place.location, Act::Write, error))
}
