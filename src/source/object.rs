//! Objects as sources: servers that answer range requests, if these are signed.
//!
//! Every request demands the version of the object that was there at first (`If-Match`), so an object
//! that is replaced in the middle of a run is noticed at once.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ByteStore, HttpOptions, HttpStore, SourceOptions, file::read_range, http::probe_signed, num::to_usize,
};
use crate::{
    error::{Error, Result},
    object::{Act, ObjectClient, ObjectLocation, Signing, Store},
    pipeline::buffer::Buffer,
};

/// Opens the object at `location`: it, and its first bytes.
///
/// # Errors
/// It is not there, the store refuses, or cannot be reached.
pub(super) async fn open_object(
    location: &ObjectLocation,
    options: &SourceOptions,
) -> Result<(HttpStore, Bytes)> {
    // That there is a key is seen before anything is asked.
    let _key = location.path()?;
    let store = Store::open(location, &options.store).await?;
    let http = HttpOptions {
        token_file: None,
        ca_file: options.store.ca_file.clone(),
        insecure: false,
        ..options.http.clone()
    };
    let authority = Arc::new(Signing::new(Arc::clone(&store.access), location.clone(), Act::Read));
    let url = store.access.url(location.key(), &[])?;
    probe_signed(url, location.to_string(), authority, &http).await
}

/// All bytes of a small object: one that describes others.
///
/// # Errors
/// As for [`open_object`]; or it has more than `max` bytes.
pub(crate) async fn read_object(
    location: &ObjectLocation,
    max: u64,
    options: &SourceOptions,
) -> Result<Bytes> {
    let (store, _) = open_object(location, options).await?;
    let size = store.size();
    if size > max {
        return Err(Error::refused(format!(
            "{location} has {size} bytes, more than the {max} there is memory for"
        ))
        .with_hint("fetch it to a file and name that, or allow more with --memory"));
    }
    let store: Arc<dyn ByteStore> = Arc::new(store);
    read_range(&store, 0, to_usize(size)).await.map(Buffer::freeze)
}

/// Whether there is an object.
///
/// # Errors
/// The store refuses, or cannot be reached.
pub(crate) async fn object_is_there(location: &ObjectLocation, options: &SourceOptions) -> Result<bool> {
    let store = Store::open(location, &options.store).await?;
    let client = ObjectClient::new(&store, location).await?;
    client.head(location).await.map(|found| found.is_some())
}
