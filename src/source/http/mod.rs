//! Disks behind a URL.
//!
//! A server that answers range requests is a [`ByteStore`]: any part of the disk, several requests
//! at once, and a broken connection goes on from the byte it came to. A server that does not is an
//! [`Input`](super::stream::Input): one body from start to end.
//!
//! What a KubeVirt export does decides the details: no ETag, `If-Range` answered with the whole
//! body (so it is never sent), 503 while the export is not ready, a gzip stream that ends properly
//! after a read error. The token goes to the server that was named, in its header, and nowhere else.

mod client;
mod connection;
mod export;
mod input;
mod links;
mod measure;
mod probe;
mod rate;
mod retry;
#[cfg(feature = "cloud")]
mod signed;

#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Response, StatusCode, header};
use tokio::sync::Semaphore;

#[cfg(feature = "cloud")]
pub(super) use self::probe::probe_signed;
#[cfg(feature = "cloud")]
pub(crate) use self::signed::{Answered, Ask, Authority, Refusal, SignedClient};
use self::{
    client::{Client, Trouble, Validators},
    connection::Connection,
    retry::Retry,
};
pub use self::{
    export::Transfer,
    links::{Broken, Endpoint, Links},
    rate::Rate,
};
pub(super) use self::{
    export::open_export,
    input::HttpInput,
    probe::{Found, probe},
};
use super::{BoxFuture, ByteStore, ReadRange, SourceIdentity, num::to_u64};
use crate::{
    error::{Error, ErrorKind, Result},
    pipeline::buffer::Buffer,
};

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
    /// Limit on the bytes fetched a second.
    pub rate: Option<Rate>,
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
            rate: None,
        }
    }
}

/// A disk behind a URL that answers range requests.
pub struct HttpStore {
    connection: Connection,
    name: String,
    size: u64,
    validators: Validators,
    connections: usize,
    permits: Semaphore,
}

impl std::fmt::Debug for HttpStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpStore")
            .field("name", &self.name)
            .field("size", &self.size)
            .field("validators", &self.validators)
            .finish_non_exhaustive()
    }
}

impl HttpStore {
    /// Asks the server what is behind `url`.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or does not answer range requests.
    pub async fn connect(url: &str, options: &HttpOptions) -> Result<Self> {
        match probe(url, options).await? {
            Found::Store { store, .. } => Ok(store),
            Found::Stream(stream) => Err(Error::refused(format!(
                "the server does not answer range requests for {}",
                stream.name()
            ))
            .with_hint("such a URL can be read from start to end only")),
        }
    }

    fn new(connection: Connection, size: u64, validators: Validators, connections: usize) -> Self {
        let connections = connections.max(1);
        let name = match connection.links() {
            Some(links) => links.name(),
            None => connection.client().name().to_owned(),
        };
        Self { connection, name, size, validators, connections, permits: Semaphore::new(connections) }
    }

    /// Length of the disk that is compressed here, by the raw link beside it; `None` = there is none.
    ///
    /// # Errors
    /// The server does not say.
    pub(super) async fn announced_by_raw_link(&self) -> Result<Option<u64>> {
        probe::announced_by_raw_link(&self.connection.client()).await
    }

    /// Fetches `out.len()` bytes from `offset` on, however often the connection breaks.
    async fn fetch(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|error| Error::failed(format!("{} is closed", self.name)).with_source(error))?;
        let mut client = self.connection.client();
        let mut retry = Retry::new(&client, offset);
        let mut done = 0;
        while done < out.len() {
            let before = done;
            let result = self.fetch_once(&client, offset, out, &mut done).await;
            retry.progress(done - before);
            if let Err(trouble) = result {
                self.connection.recover(&client, &mut retry, trouble).await?;
                client = self.connection.client();
            }
        }
        Ok(())
    }

    /// One request for what is missing: `out[done..]`. What came is counted in `done` even if the
    /// connection broke.
    async fn fetch_once(
        &self,
        client: &Client,
        offset: u64,
        out: &mut [u8],
        done: &mut usize,
    ) -> Result<(), Trouble> {
        let start = offset + to_u64(*done);
        let mut response = self.get(client, start, offset + to_u64(out.len())).await?;
        while let Some(bytes) = client.chunk(&mut response).await? {
            let Some(target) = out.get_mut(*done..).and_then(|rest| rest.get_mut(..bytes.len())) else {
                return Err(Trouble::Fatal(Error::failed(format!(
                    "the server of {} sends more than the range asked for at byte {start}",
                    client.name()
                ))));
            };
            target.copy_from_slice(&bytes);
            *done += bytes.len();
        }
        if *done < out.len() {
            return Err(Trouble::transient(Error::new(
                ErrorKind::Network,
                format!("the answer of {} ended {} bytes early", client.name(), out.len() - *done),
            )));
        }
        Ok(())
    }

    /// The response to a request for `start..end`, which is not empty: exactly that range, of the
    /// disk that was there at first.
    async fn get(&self, client: &Client, start: u64, end: u64) -> Result<Response, Trouble> {
        let response = client.get(Some((start, end)), self.validators.etag.as_deref()).await?;
        let name = client.name();
        let wrong = |message: String| Trouble::Wrong(Error::failed(message));
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => {
                return Err(wrong(format!(
                    "the server of {name} answered a range request with the whole disk"
                )));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let size = client::total_of(&response);
                return Err(Trouble::Fatal(self.changed(&size.map_or_else(
                    || format!("there is no byte {start} any more"),
                    |size| format!("its size is {size} bytes instead of {}", self.size),
                ))));
            }
            status => {
                return Err(wrong(format!("the server of {name} answered a range request with {status}")));
            }
        }
        let Some((first, last, total)) = client::content_range(&response) else {
            return Err(wrong(format!("the server of {name} does not say which range it sends")));
        };
        if total != self.size {
            return Err(Trouble::Fatal(
                self.changed(&format!("its size is {total} bytes instead of {}", self.size)),
            ));
        }
        if (first, last) != (start, end - 1) {
            return Err(wrong(format!(
                "the server of {name} sends bytes {first}-{last} instead of {start}-{}",
                end - 1
            )));
        }
        let length = client::header_text(&response, &header::CONTENT_LENGTH);
        if length.is_some_and(|length| length.parse() != Ok(end - start)) {
            return Err(wrong(format!("the server of {name} sends a range of another length than it says")));
        }
        if let Some(difference) = self.validators.difference(&Validators::of(&response)) {
            return Err(Trouble::Fatal(self.changed(&difference)));
        }
        Ok(response)
    }

    fn changed(&self, how: &str) -> Error {
        Error::new(ErrorKind::SourceChanged, format!("{} has changed while it was read: {how}", self.name))
            .with_hint("start again with what is there now")
    }
}

impl ByteStore for HttpStore {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn identity(&self) -> Option<SourceIdentity> {
        Some(match self.connection.links() {
            Some(links) => links.identity(),
            None => self.connection.client().identity(Some(self.size), &self.validators),
        })
    }

    fn read(
        self: Arc<Self>,
        reads: Vec<ReadRange>,
        mut buffer: Buffer,
    ) -> BoxFuture<'static, Result<Buffer>> {
        Box::pin(async move {
            let parts = split(reads, &mut buffer)
                .ok_or_else(|| Error::failed(format!("reads of {} overlap in their buffer", self.name)))?;
            futures_util::future::try_join_all(
                parts.into_iter().map(|(offset, out)| self.fetch(offset, out)),
            )
            .await?;
            Ok(buffer)
        })
    }

    fn concurrency(&self) -> usize {
        self.connections
    }

    fn check_unchanged(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            match self.connection.links() {
                Some(links) => links.check_unchanged().await,
                None => Ok(()),
            }
        })
    }
}

/// The parts of `buffer` that `reads` fill, each with its offset in the store; neighbours in both
/// are one. `None` if they overlap or leave the buffer.
fn split(mut reads: Vec<ReadRange>, buffer: &mut [u8]) -> Option<Vec<(u64, &mut [u8])>> {
    reads.retain(|read| read.len > 0);
    reads.sort_by_key(|read| read.at);
    let mut joined: Vec<ReadRange> = Vec::with_capacity(reads.len());
    for read in reads {
        match joined.last_mut() {
            Some(last)
                if last.at.checked_add(last.len) == Some(read.at)
                    && last.offset.checked_add(to_u64(last.len)) == Some(read.offset) =>
            {
                last.len += read.len;
            }
            _ => joined.push(read),
        }
    }
    let (mut rest, mut base, mut parts) = (buffer, 0, Vec::with_capacity(joined.len()));
    for read in joined {
        let (_, from) = rest.split_at_mut_checked(read.at.checked_sub(base)?)?;
        let (part, behind) = from.split_at_mut_checked(read.len)?;
        parts.push((read.offset, part));
        (rest, base) = (behind, read.at + read.len);
    }
    Some(parts)
}
