//! The requests that came, for tests to look at. Secrets are left out.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU16, AtomicU64, Ordering},
};

use hyper::{HeaderMap, Method, Uri};
use serde::Serialize;

/// A request as it came, and what became of it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LoggedRequest {
    /// Who answered.
    pub server: Server,
    /// The method.
    pub method: String,
    /// Path and query; a token in the query is replaced.
    pub path: String,
    /// The answer's status; 0 while there is none.
    pub status: u16,
    /// The headers, names in lower case, without those that hold secrets.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body that were handed to the connection, up to now.
    pub bytes_sent: u64,
}

impl LoggedRequest {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Who answered a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// The Kubernetes API.
    Api,
    /// The exporter, by port-forward or its service's address.
    Exporter,
    /// The export proxy.
    Proxy,
}

/// All requests, in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Log(Mutex<Vec<Arc<Entry>>>);

/// A request whose answer may still be on its way.
#[derive(Debug)]
pub(crate) struct Entry {
    server: Server,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    status: AtomicU16,
    sent: AtomicU64,
}

impl Log {
    pub(crate) fn begin(
        &self,
        server: Server,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Arc<Entry> {
        let headers = headers
            .iter()
            .filter(|(name, _)| !is_secret(name.as_str()))
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let entry = Arc::new(Entry {
            server,
            method: method.to_string(),
            path: without_token(uri),
            headers,
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&entry));
        entry
    }

    pub(crate) fn requests(&self) -> Vec<LoggedRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.snapshot()).collect()
    }
}

impl Entry {
    pub(crate) fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn snapshot(&self) -> LoggedRequest {
        LoggedRequest {
            server: self.server,
            method: self.method.clone(),
            path: self.path.clone(),
            status: self.status.load(Ordering::Relaxed),
            headers: self.headers.clone(),
            bytes_sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

fn is_secret(header: &str) -> bool {
    matches!(header, "authorization" | "x-kubevirt-export-token" | "cookie" | "proxy-authorization")
}

fn without_token(uri: &Uri) -> String {
    let Some(query) = uri.query() else { return uri.path().to_owned() };
    let query: Vec<&str> = query
        .split('&')
        .map(|pair| {
            if pair.to_ascii_lowercase().starts_with("x-kubevirt-export-token=") {
                "x-kubevirt-export-token=REMOVED"
            } else {
                pair
            }
        })
        .collect();
    format!("{}?{}", uri.path(), query.join("&"))
}
