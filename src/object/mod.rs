//! Object storage: S3 and what speaks like it, Google Cloud Storage, Azure Blob.
//!
//! What source and sink share: how an object is named (`location`), how a store is reached
//! (`options`, `access`), what its refusals mean (`explain`). Bytes are written through the
//! crate `object_store` (`store`). They are read by the HTTP source, whose requests are signed by
//! `access`, so that there is one retry path for everything that is fetched.
//!
//! No key, token or signature is part of an error, a log line or a `Debug` text. What a store answers
//! is shown by its code and message only: some stores repeat the token that they refuse.

mod access;
mod client;
mod explain;
mod leftovers;
mod location;
mod marker;
mod options;
mod profile;
mod store;
#[doc(hidden)]
pub mod untrusted;
mod xml;

pub(crate) use self::{
    access::Access,
    client::{ObjectClient, ObjectHead, OpenUpload, Signing, StoredPart},
    explain::{Act, Answer, answer_of, object_error},
    leftovers::left_by,
    location::{ObjectLocation, Scheme},
    marker::{FoundMarker, MarkedUpload, Marker},
    store::Store,
};
pub use self::{
    leftovers::{LeftRun, LeftUpload, StoreLeftovers, UploadState, store_leftovers},
    options::{Encryption, StoreOptions},
};

/// Metadata of an object that names the run which wrote it. Letters only: Azure takes no hyphen in such
/// a name, and proxies drop headers with an underscore.
pub(crate) const RUN_METADATA: &str = "vmferryrun";
