//! Requests that are signed: those to object stores.
//!
//! A store is a server that answers range requests, so it is read as any other: the same client, the
//! same retries. What differs is here: every request is signed anew, a refusal has a body that says
//! why, and a version of the object can be demanded.

use std::{fmt, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, Response, StatusCode,
    header::{self, HeaderMap, HeaderValue},
};
use url::Url;

use super::{
    HttpOptions,
    client::{Client, Trouble, header_text, range_header},
    retry::Retry,
};
use crate::{
    error::{Error, ErrorKind, Result},
    source::BoxFuture,
};

/// Who signs requests, and knows what refusals mean.
pub(crate) trait Authority: fmt::Debug + Send + Sync {
    /// URL and headers to send, for a request with these headers, which become part of the signature.
    ///
    /// # Errors
    /// There is nothing to sign with.
    fn sign(
        &self,
        request: (Method, Url),
        headers: HeaderMap,
        body: Bytes,
    ) -> BoxFuture<'_, Result<(Url, HeaderMap)>>;

    /// What an answer that is no success means; `body` is the beginning of its body.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &str) -> Refusal;
}

/// What an answer that is no success means.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// To be told if nothing helps.
    pub(crate) error: Error,
    /// Whether another try may help.
    pub(crate) is_transient: bool,
}

/// A request to a store.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Method.
    pub(crate) method: Method,
    /// URL, without a signature.
    pub(crate) url: Url,
    /// Headers, without those of the signature.
    pub(crate) headers: HeaderMap,
    /// Body.
    pub(crate) body: Bytes,
}

impl Ask {
    /// A request without headers and body.
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

/// An answer with a small body.
#[derive(Debug)]
pub(crate) struct Answered {
    /// A success, or one of the statuses that count as an answer.
    pub(crate) status: StatusCode,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Body; empty if the status is no success.
    pub(crate) body: Bytes,
}

/// Asks an object store for small things.
#[derive(Debug)]
pub(crate) struct SignedClient(Client);

impl SignedClient {
    /// A client for what `name` stands for in messages.
    ///
    /// # Errors
    /// There is no TLS, or the file with CA certificates cannot be used.
    pub(crate) async fn new(
        url: Url,
        name: String,
        authority: Arc<dyn Authority>,
        options: &HttpOptions,
    ) -> Result<Self> {
        Ok(Self(Client::signed(url, name, authority, options).await?))
    }

    /// The same connections, for another object of the same store.
    pub(crate) fn about(&self, name: String, authority: Arc<dyn Authority>) -> Self {
        Self(self.0.about(name, authority))
    }

    /// The answer to `ask`, with a body of at most `max_len` bytes. The `accepted` statuses are
    /// answers, too. Requests are repeated: they must be such that this does no harm.
    ///
    /// # Errors
    /// The store refuses, or nothing has succeeded for as long as the options say.
    pub(crate) async fn ask(&self, ask: &Ask, accepted: &[u16], max_len: usize) -> Result<Answered> {
        let mut retry = Retry::new(&self.0, 3);
        loop {
            match self.ask_once(ask, accepted, max_len).await {
                Ok(answered) => return Ok(answered),
                Err(trouble) => retry.wait(trouble).await?,
            }
        }
    }

    async fn ask_once(&self, ask: &Ask, accepted: &[u16], max_len: usize) -> Result<Answered, Trouble> {
        let response = self.0.send_signed(ask.clone()).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        if accepted.contains(&status.as_u16()) {
            return Ok(Answered { status, headers, body: Bytes::new() });
        }
        let mut response = self.0.judge_signed(response).await?;
        let mut body = BytesMut::new();
        while let Some(bytes) = self.0.chunk(&mut response).await? {
            if body.len() + bytes.len() > max_len {
                return Err(Trouble::Fatal(Error::failed(format!(
                    "the store's answer about {} has more than {max_len} bytes",
                    self.0.name()
                ))));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(Answered { status, headers, body: body.freeze() })
    }
}

impl Client {
    /// Sends a signed request; any status is an answer.
    pub(super) async fn send_signed(&self, ask: Ask) -> Result<Response, Trouble> {
        let authority = self.authority().ok_or_else(|| {
            Trouble::Fatal(Error::failed(format!("there is nobody to sign requests to {}", self.name())))
        })?;
        let Ask { method, url, headers, body } = ask;
        let signed = authority.sign((method.clone(), url), headers, body.clone()).await;
        let (url, headers) = signed.map_err(|error| match error.kind() {
            // Where credentials come from had a bad moment.
            ErrorKind::Network => Trouble::transient(error),
            _ => Trouble::Fatal(error),
        })?;
        let request = self
            .http()
            .request(method, url)
            .headers(headers)
            // Bytes are wanted as they are stored.
            .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .body(body);
        self.answer(request).await
    }

    /// As [`get`](Client::get), signed: of the version that has `etag` if one is given.
    pub(super) async fn get_signed(
        &self,
        range: Option<(u64, u64)>,
        etag: Option<&str>,
    ) -> Result<Response, Trouble> {
        let mut ask = Ask::new(Method::GET, self.url().clone());
        if let Some((start, end)) = range
            && let Ok(range) = HeaderValue::from_str(&range_header(start, end))
        {
            ask.headers.insert(header::RANGE, range);
        }
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            ask.headers.insert(header::IF_MATCH, etag);
        }
        let response = self.send_signed(ask).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        self.judge_signed(response).await
    }

    /// The response if its status is a success and its body is as it is.
    pub(super) async fn judge_signed(&self, mut response: Response) -> Result<Response, Trouble> {
        let Some(authority) = self.authority().filter(|_| !response.status().is_success()) else {
            return self.judge(response);
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let retry_after = header_text(&response, &header::RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        // What cannot be read of a refusal is no matter: the status says enough.
        while body.len() < MAX_REFUSAL_LEN
            && let Ok(Some(bytes)) = self.chunk(&mut response).await
        {
            body.extend_from_slice(bytes.get(..MAX_REFUSAL_LEN.min(bytes.len())).unwrap_or_default());
        }
        let Refusal { error, is_transient } =
            authority.refusal(status, &headers, &String::from_utf8_lossy(&body));
        Err(if is_transient {
            Trouble::Transient { error, retry_after, tries: u32::MAX }
        } else {
            Trouble::Fatal(error)
        })
    }
}

/// Bytes of a refusal that are looked at.
const MAX_REFUSAL_LEN: usize = 64 << 10;
