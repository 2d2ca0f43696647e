//! What is behind a URL: a disk with ranges, or a body from start to end.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{Response, StatusCode, header};

#[cfg(feature = "cloud")]
use super::signed::{Ask, Authority};
use super::{
    HttpInput, HttpOptions, HttpStore,
    client::{self, Client, Validators, header_text},
    connection::Connection,
    retry::Retry,
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::{
        SourceIdentity,
        num::{to_u64, to_usize},
    },
};

/// What a server has.
pub(in crate::source) enum Found {
    /// It answers range requests.
    Store {
        /// The disk.
        store: HttpStore,
        /// Its first bytes, up to [`vmferry_formats::HEAD_LEN`].
        head: Bytes,
    },
    /// It sends everything from the start, or nothing.
    Stream(Stream),
}

/// A body that has begun to come.
pub(in crate::source) struct Stream {
    client: Client,
    response: Response,
    validators: Validators,
    size: Option<u64>,
}

impl Stream {
    /// The URL without secrets.
    pub(in crate::source) fn name(&self) -> &str {
        self.client.name()
    }

    /// Bytes of the body, if the server tells.
    pub(in crate::source) fn size(&self) -> Option<u64> {
        self.size
    }

    /// What must be the same for another run.
    pub(in crate::source) fn identity(&self) -> SourceIdentity {
        self.client.identity(self.size, &self.validators)
    }

    /// Length of the disk that comes compressed, by the raw link beside it.
    ///
    /// # Errors
    /// As for [`HttpStore::announced_by_raw_link`].
    pub(in crate::source) async fn announced_by_raw_link(&self) -> Result<Option<u64>> {
        announced_by_raw_link(&self.client).await
    }

    /// The body, as it comes.
    pub(in crate::source) fn into_input(self) -> HttpInput {
        let identity = self.identity();
        HttpInput::body(Arc::new(self.client), self.response, identity)
    }
}

/// What HEAD told.
struct Head {
    size: Option<u64>,
}

/// Asks what is behind `url`. This is the first contact, so a server that does not answer is given
/// up sooner than in the middle of a disk: the address may be wrong.
pub(in crate::source) async fn probe(url: &str, options: &HttpOptions) -> Result<Found> {
    let client = Client::new(url, options).await?;
    let head = head(&client).await?;
    let mut retry = Retry::within(&client, 0, client.retry_for().min(PROBE_FOR));
    loop {
        match look(&client, head.as_ref()).await {
            Ok(Looked::Store { size, validators, head }) => {
                let store = HttpStore::new(Connection::fixed(client), size, validators, options.connections);
                return Ok(Found::Store { store, head });
            }
            Ok(Looked::Stream(response)) => {
                let validators = Validators::of(&response);
                let size = header_text(&response, &header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
                return Ok(Found::Stream(Stream { client, response, validators, size }));
            }
            Err(trouble) => retry.wait(trouble).await?,
        }
    }
}

/// Asks an object store for the object at `url`, which `name` stands for in messages: the object and
/// its first bytes.
#[cfg(feature = "cloud")]
pub(in crate::source) async fn probe_signed(
    url: url::Url,
    name: String,
    authority: Arc<dyn Authority>,
    options: &HttpOptions,
) -> Result<(HttpStore, Bytes)> {
    let client = Client::signed(url, name, authority, options).await?;
    let mut retry = Retry::within(&client, 0, client.retry_for().min(PROBE_FOR));
    loop {
        // The length by HEAD is all that tells that an object is empty. A refusal comes again with GET,
        // and there with a body that says why.
        let looked = match client.send_signed(Ask::new(reqwest::Method::HEAD, client.url().clone())).await {
            Err(trouble) => Err(trouble),
            Ok(response) => {
                let size = header_text(&response, &header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
                let head = response.status().is_success().then_some(Head { size });
                look(&client, head.as_ref()).await
            }
        };
        match looked {
            Ok(Looked::Store { size, validators, head }) => {
                let store = HttpStore::new(Connection::fixed(client), size, validators, options.connections);
                return Ok((store, head));
            }
            Ok(Looked::Stream(_)) => {
                return Err(Error::failed(format!(
                    "the store does not answer range requests for {}",
                    client.name()
                ))
                .with_hint("a proxy in between may take them away; or the object is served decompressed"));
            }
            Err(trouble) => retry.wait(trouble).await?,
        }
    }
}

/// HEAD tells size, token, path and TLS in one go. Compressed exports and signed URLs refuse it,
/// which means nothing: then GET decides.
async fn head(client: &Client) -> Result<Option<Head>> {
    let mut retry = Retry::within(client, 1, client.retry_for().min(PROBE_FOR));
    loop {
        let trouble = match client.head(client.url()).await {
            Ok(response) if matches!(response.status().as_u16(), 400 | 403 | 405 | 501) => return Ok(None),
            Ok(response) => match client.judge(response) {
                Ok(response) => {
                    let size =
                        header_text(&response, &header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
                    return Ok(Some(Head { size }));
                }
                Err(trouble) => trouble,
            },
            Err(trouble) => trouble,
        };
        retry.wait(trouble).await?;
    }
}

enum Looked {
    Store { size: u64, validators: Validators, head: Bytes },
    Stream(Response),
}

/// Fetches the first bytes by a range request: whether ranges work is seen, not believed.
async fn look(client: &Client, head: Option<&Head>) -> Result<Looked, client::Trouble> {
    let mut response = client.get(Some((0, to_u64(vmferry_formats::HEAD_LEN))), None).await?;
    let fatal = |error: Error| client::Trouble::Fatal(error);
    let wrong = |what: &str| fatal(Error::failed(format!("the server of {} {what}", client.name())));
    let validators = Validators::of(&response);
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let Some((0, last, size)) = client::content_range(&response) else {
                return Err(wrong("does not say which range it sends"));
            };
            if let Some(announced) = head.and_then(|head| head.size)
                && announced != size
            {
                return Err(fatal(Error::new(
                    ErrorKind::SourceChanged,
                    format!("{} has {announced} bytes by HEAD and {size} by GET", client.name()),
                )));
            }
            let expected = size.min(to_u64(vmferry_formats::HEAD_LEN));
            let mut bytes = BytesMut::with_capacity(to_usize(expected));
            while let Some(chunk) = client.chunk(&mut response).await? {
                bytes.extend_from_slice(&chunk);
                if to_u64(bytes.len()) > expected {
                    return Err(wrong("sends more than the range asked for"));
                }
            }
            if last + 1 != expected || to_u64(bytes.len()) != expected {
                return Err(wrong("sends another range than was asked for"));
            }
            Ok(Looked::Store { size, validators, head: bytes.freeze() })
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // There is no first byte.
            let size = client::total_of(&response).or_else(|| head.and_then(|head| head.size));
            if size == Some(0) {
                return Ok(Looked::Store { size: 0, validators, head: Bytes::new() });
            }
            Err(wrong("cannot send the first bytes (416)"))
        }
        _ => Ok(Looked::Stream(response)),
    }
}

/// The true length of the disk in the compressed stream: what the raw link beside it announces, the
/// same path without `.gz`. It is the only proof of completeness for an export, whose compressed
/// stream ends properly when reading the disk fails.
///
/// # Errors
/// The server did not say whether there is such a link: that is no answer to go on without.
pub(super) async fn announced_by_raw_link(client: &Client) -> Result<Option<u64>> {
    let mut url = client.url().clone();
    let Some(path) = url.path().strip_suffix(".gz").map(str::to_owned) else { return Ok(None) };
    url.set_path(&path);
    let mut retry = Retry::within(client, 2, client.retry_for().min(PROBE_FOR));
    loop {
        let trouble = match client.head(&url).await {
            Ok(response) if matches!(response.status().as_u16(), 400 | 401 | 403..=405 | 410 | 501) => {
                return Ok(None);
            }
            Ok(response) => match client.judge(response) {
                // Exports say so; a page that says 'not found' with status 200 does not.
                Ok(response) => {
                    let ranges = header_text(&response, &header::ACCEPT_RANGES);
                    let len = header_text(&response, &header::CONTENT_LENGTH);
                    let is_disk = ranges.is_some_and(|ranges| ranges.trim() == "bytes");
                    return Ok(len.filter(|_| is_disk).and_then(|len| len.parse().ok()));
                }
                Err(trouble) => trouble,
            },
            Err(trouble) => trouble,
        };
        retry.wait(trouble).await?;
    }
}

/// The first contact is tried for so long at most.
const PROBE_FOR: Duration = Duration::from_secs(30);
