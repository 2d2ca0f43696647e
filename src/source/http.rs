//! Disks behind a URL.

use std::{path::PathBuf, time::Duration};

/// How URLs are fetched.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// File that holds the token for the header `x-kubevirt-export-token`.
    pub token_file: Option<PathBuf>,
    /// PEM file with the only CA certificates to trust; `None` = those of the system.
    pub ca_file: Option<PathBuf>,
    /// Do not verify the server's certificate.
    pub insecure: bool,
    /// Range requests in flight.
    pub connections: usize,
    /// A request that makes no progress for this long is given up and tried again.
    pub stall_timeout: Duration,
    /// Give up when nothing has succeeded for this long.
    pub retry_for: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            token_file: None,
            ca_file: None,
            insecure: false,
            connections: 4,
            stall_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(300),
        }
    }
}

/// A disk behind a URL that answers range requests.
#[derive(Debug)]
pub struct HttpStore {}
