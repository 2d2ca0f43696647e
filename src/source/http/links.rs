//! Disks whose links change while they are read: an export that gets a new pod, certificate or host.

use std::{fmt, net::SocketAddr};

use url::Url;

use crate::{
    error::{Error, Result},
    secret::Secret,
    source::{BoxFuture, SourceIdentity},
};

/// Where a disk can be fetched from right now.
#[derive(Clone)]
pub struct Endpoint {
    /// Tells this answer from others: grows whenever anything below has changed.
    pub generation: u64,
    /// The whole disk, by ranges.
    pub raw: Option<Url>,
    /// The same bytes as one gzip member, from the first to the last.
    pub gzip: Option<Url>,
    /// The only CA certificates to trust, in PEM form; `None` = those of the system.
    pub authorities: Option<Vec<u8>>,
    /// Do not verify the server's certificate.
    pub insecure: bool,
    /// Where to connect instead of to what the links' host resolves to. TLS still verifies that host.
    pub connect_to: Option<SocketAddr>,
    /// For the header `x-kubevirt-export-token`.
    pub token: Secret,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("generation", &self.generation)
            .field("raw", &self.raw.as_ref().map(Url::as_str))
            .field("gzip", &self.gzip.as_ref().map(Url::as_str))
            .field("insecure", &self.insecure)
            .field("connect_to", &self.connect_to)
            .finish_non_exhaustive()
    }
}

/// Knows where one disk can be fetched from, and whether it is still the same disk.
pub trait Links: fmt::Debug + Send + Sync + 'static {
    /// What people call the disk: `namespace/export/volume`.
    fn name(&self) -> String;

    /// The endpoint to use. After a failure `broken` is the generation that failed and why: the
    /// links are then read again, and the answer may be the same if nothing has changed. Waits, with
    /// a limit of its own, while there is no link, and says meanwhile why.
    ///
    /// # Errors
    /// There is none and will be none: the export is gone, its source changed, the wait ran out.
    fn endpoint(&self, broken: Option<Broken<'_>>) -> BoxFuture<'_, Result<Endpoint>>;

    /// What must be the same for a later run to go on with this disk.
    fn identity(&self) -> SourceIdentity;

    /// Fails if the disk may have changed since the first byte was fetched (the VM was started in
    /// between). Asked behind the last byte, and before anything is called durable behind a break.
    ///
    /// # Errors
    /// It has changed, or cannot be asked.
    fn check_unchanged(&self) -> BoxFuture<'_, Result<()>>;
}

/// What went wrong with an [`Endpoint`].
#[derive(Clone, Copy, Debug)]
pub struct Broken<'a> {
    /// The one that was used.
    pub generation: u64,
    /// What happened; its texts hold no secrets.
    pub error: &'a Error,
}
