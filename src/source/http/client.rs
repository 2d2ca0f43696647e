//! The HTTP client: TLS, the token, and what statuses and errors mean.

#[cfg(feature = "cloud")]
use std::sync::Arc;
use std::{
    fmt,
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use reqwest::{
    Certificate, ClientBuilder, Method, RequestBuilder, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
    redirect,
};
use url::{Origin, Url};

#[cfg(feature = "cloud")]
use super::signed::Authority;
use super::{Endpoint, HttpOptions, Rate};
use crate::{
    error::{Error, ErrorKind, Result, cause},
    secret::Secret,
    source::SourceIdentity,
};

/// A URL and how to ask for it.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    name: String,
    /// Of the links that the URL is one of.
    generation: u64,
    token: Option<Token>,
    /// Signs every request.
    #[cfg(feature = "cloud")]
    authority: Option<Arc<dyn Authority>>,
    ca_file: Option<PathBuf>,
    stall_timeout: Duration,
    retry_for: Duration,
    rate: Option<Rate>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .field("http", &self.http)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// Why a request gave no answer that can be used.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another try would end the same way.
    Fatal(Error),
    /// An answer that cannot be right: of a proxy that has a bad moment, or does not know better. A few
    /// tries tell.
    Wrong(Error),
    /// Another try would end the same way, unless there are new links, certificates or tokens.
    Stale(Error),
    /// Another try may help.
    Transient {
        /// What went wrong.
        error: Error,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
        /// Failures in a row after which no more tries are made.
        tries: u32,
    },
}

impl Trouble {
    /// Worth as many tries as there is time for.
    pub(super) fn transient(error: Error) -> Self {
        Self::Transient { error, retry_after: None, tries: u32::MAX }
    }

    /// What went wrong.
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Fatal(error) | Self::Stale(error) | Self::Wrong(error) | Self::Transient { error, .. } => {
                error
            }
        }
    }
}

impl Client {
    /// A client for `url`.
    pub(super) async fn new(url: &str, options: &HttpOptions) -> Result<Self> {
        // The text is not repeated in the error: it may hold a password.
        let url = Url::parse(url).map_err(|error| Error::usage("not a valid URL").with_source(error))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(Error::usage(format!("{} is not an http:// or https:// URL", redacted(&url))));
        }
        let name = redacted(&url);
        let token = match &options.token_file {
            Some(file) => Some(Token::read(file.clone()).await?),
            None => None,
        };
        if token.is_some() && url.scheme() == "http" && !is_loopback(&url) {
            tracing::warn!(source = %name, "the token is sent over an unencrypted connection");
        }
        let authorities = match &options.ca_file {
            Some(file) => Some(read_authorities(file).await?),
            None => None,
        };
        let http = build(&url, token.is_some(), authorities, options.insecure, None, options)?;
        Ok(Self {
            http,
            url,
            name,
            generation: 0,
            token,
            #[cfg(feature = "cloud")]
            authority: None,
            ca_file: options.ca_file.clone(),
            stall_timeout: options.stall_timeout,
            retry_for: options.retry_for,
            rate: options.rate.clone(),
        })
    }

    /// A client for one link of an endpoint; what the endpoint says goes over `options`.
    pub(super) fn linked(link: &Url, endpoint: &Endpoint, options: &HttpOptions) -> Result<Self> {
        let name = redacted(link);
        let mut url = link.clone();
        if let Some(address) = endpoint.connect_to {
            // An address that a name is pinned to has no port of its own: the URL's counts.
            url.set_port(Some(address.port()))
                .map_err(|()| Error::failed(format!("{name} cannot have a port")))?;
        }
        let token = Token::given(&endpoint.token)?;
        let authorities = match &endpoint.authorities {
            Some(pem) => Some(authorities(pem).map_err(|_| {
                Error::failed(format!("what stands beside the link {name} is no certificate in PEM form"))
                    .with_hint("name the CA of that server with --ca-file")
            })?),
            None => None,
        };
        let http = build(&url, true, authorities, endpoint.insecure, endpoint.connect_to, options)?;
        Ok(Self {
            http,
            url,
            name,
            generation: endpoint.generation,
            token: Some(token),
            #[cfg(feature = "cloud")]
            authority: None,
            ca_file: None,
            stall_timeout: options.stall_timeout,
            retry_for: options.retry_for,
            rate: options.rate.clone(),
        })
    }

    /// A client for an object, or a bucket, at `url`, that `name` stands for in messages.
    #[cfg(feature = "cloud")]
    pub(super) async fn signed(
        url: Url,
        name: String,
        authority: Arc<dyn Authority>,
        options: &HttpOptions,
    ) -> Result<Self> {
        let authorities = match &options.ca_file {
            Some(file) => Some(read_authorities(file).await?),
            None => None,
        };
        // A signature is as good as a token: it is sent to the server that is named, and to no other.
        let http = build(&url, true, authorities, false, None, options)?;
        Ok(Self {
            http,
            url,
            name,
            generation: 0,
            token: None,
            authority: Some(authority),
            ca_file: options.ca_file.clone(),
            stall_timeout: options.stall_timeout,
            retry_for: options.retry_for,
            rate: options.rate.clone(),
        })
    }

    /// The same connections for another object of the same store.
    #[cfg(feature = "cloud")]
    pub(super) fn about(&self, name: String, authority: Arc<dyn Authority>) -> Self {
        Self {
            http: self.http.clone(),
            url: self.url.clone(),
            name,
            generation: 0,
            token: None,
            authority: Some(authority),
            ca_file: self.ca_file.clone(),
            stall_timeout: self.stall_timeout,
            retry_for: self.retry_for,
            rate: self.rate.clone(),
        }
    }

    /// Who signs requests, if somebody does.
    #[cfg(feature = "cloud")]
    pub(super) fn authority(&self) -> Option<&dyn Authority> {
        self.authority.as_deref()
    }

    /// The client below.
    #[cfg(feature = "cloud")]
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Of the links that the URL is one of.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The URL without secrets.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The URL.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// How long a request is tried.
    pub(super) fn retry_for(&self) -> Duration {
        self.retry_for
    }

    /// What must be the same for another run to go on.
    pub(super) fn identity(&self, size: Option<u64>, validators: &Validators) -> SourceIdentity {
        SourceIdentity::Http {
            url: self.name.clone(),
            size,
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
        }
    }

    /// GET, of the bytes `start..end` if given, of the version that has `etag` if that can be demanded.
    /// Any 2xx or 416 is an answer.
    pub(super) async fn get(
        &self,
        range: Option<(u64, u64)>,
        etag: Option<&str>,
    ) -> Result<Response, Trouble> {
        #[cfg(feature = "cloud")]
        if self.authority.is_some() {
            return self.get_signed(range, etag).await;
        }
        // Exporters answer conditions wrongly.
        let _not_asked_for = etag;
        let response = self.send(Method::GET, &self.url, range).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        self.judge(response)
    }

    /// HEAD of this URL or one beside it; any status is an answer.
    pub(super) async fn head(&self, url: &Url) -> Result<Response, Trouble> {
        self.send(Method::HEAD, url, None).await
    }

    /// The next bytes of a body; `None` at its end.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Trouble> {
        match tokio::time::timeout(self.stall_timeout, response.chunk()).await {
            Err(_) => Err(self.stalled()),
            Ok(Err(error)) => Err(self.explain(error)),
            Ok(Ok(bytes)) => {
                if let (Some(rate), Some(bytes)) = (&self.rate, &bytes) {
                    rate.take(bytes.len()).await;
                }
                Ok(bytes)
            }
        }
    }

    /// The response if its status is a success and its body is as it is.
    pub(super) fn judge(&self, response: Response) -> Result<Response, Trouble> {
        let status = response.status();
        if status.is_success() {
            return match header_text(&response, &header::CONTENT_ENCODING) {
                None | Some("identity" | "") => Ok(response),
                Some(encoding) => Err(Trouble::Fatal(
                    Error::failed(format!("the server encodes {} with {encoding:?}, unasked", self.name))
                        .with_hint("a proxy in between may compress: go around it"),
                )),
            };
        }
        let retry_after = header_text(&response, &header::RETRY_AFTER)
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs);
        let error = self.explain_status(&response);
        Err(match status.as_u16() {
            408 | 429 | 502 | 503 | 504 => Trouble::Transient { error, retry_after, tries: u32::MAX },
            // It may pass, but an exporter also answers so for ever when the disk is not there.
            500 => Trouble::Transient { error, retry_after, tries: TRIES_AT_500 },
            401 | 403 | 404 | 410 => Trouble::Stale(error),
            _ => Trouble::Fatal(error),
        })
    }

    async fn send(&self, method: Method, url: &Url, range: Option<(u64, u64)>) -> Result<Response, Trouble> {
        let mut renewed = false;
        loop {
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                // Bytes are wanted as they are stored: ranges of an encoding are of no use.
                .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some((start, end)) = range {
                request = request.header(header::RANGE, range_header(start, end));
            }
            if let Some(token) = &self.token {
                request = request.header(TOKEN_HEADER, token.value());
            }
            let response = self.answer(request).await?;
            if response.status() == StatusCode::UNAUTHORIZED
                && !renewed
                && let Some(token) = &self.token
                && token.renew().await
            {
                renewed = true;
                continue;
            }
            return Ok(response);
        }
    }

    /// The head of the answer to `request`.
    pub(super) async fn answer(&self, request: RequestBuilder) -> Result<Response, Trouble> {
        match tokio::time::timeout(self.stall_timeout, request.send()).await {
            Err(_) => Err(self.stalled()),
            Ok(Err(error)) => Err(self.explain(error)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    fn stalled(&self) -> Trouble {
        Trouble::transient(Error::new(
            ErrorKind::Network,
            format!("{} has sent nothing for {:.1} s", self.name, self.stall_timeout.as_secs_f64()),
        ))
    }

    fn explain_status(&self, response: &Response) -> Error {
        let (name, status) = (&self.name, response.status());
        let error = |what: String| Error::failed(what);
        match status.as_u16() {
            300..=399 => {
                let to = header_text(response, &header::LOCATION)
                    .and_then(|location| response.url().join(location).ok())
                    .map_or_else(|| "nowhere".to_owned(), |location| redacted(&location));
                let hint = if to.trim_end_matches('/') == name.trim_end_matches('/') {
                    "the path of a directory ends with '/': add it"
                } else {
                    "the token is sent to the server that is named, and never over a weaker connection: name the \
                     other address yourself if you trust it"
                };
                error(format!("{name} redirects to {to} ({status}), which is not followed")).with_hint(hint)
            }
            401 => match &self.token {
                None => error(format!("{name} wants a token (401)"))
                    .with_hint("save the token of the export to a file and name it with --token-file"),
                Some(token) => error(match &token.file {
                    Some(file) => format!("{name} refuses the token in {} (401)", file.display()),
                    None => format!("{name} refuses the token of the export's secret (401)"),
                })
                .with_hint("the token must be the one in the secret of this export (status.tokenSecretRef)"),
            },
            403 => error(format!("access to {name} is forbidden (403)"))
                .with_hint("the server, or a proxy before it, does not let you in: check the address and your rights"),
            404 | 410 => error(format!("there is nothing at {name} ({})", status.as_u16())).with_hint(
                "the path is wrong, or the export is gone: deleted, or past its ttlDuration; its links are in \
                 'kubectl get vmexport NAME -o yaml'",
            ),
            500 => error(format!("the server of {name} failed (500)"))
                .with_hint("an exporter answers so if it cannot open the disk: look at the logs of its pod"),
            503 => error(format!("{name} is not ready (503)"))
                .with_hint("the export is not Ready, or its pod is being replaced: 'kubectl get vmexport' tells"),
            502 | 504 => error(format!("the proxy of {name} does not reach its server ({})", status.as_u16()))
                .with_hint("the pod behind it is gone or restarting: 'kubectl get vmexport' tells"),
            _ => error(format!("{name} answers {status}")),
        }
    }

    fn explain(&self, error: reqwest::Error) -> Trouble {
        // The URL in it may hold a password.
        let error = error.without_url();
        if let Some(tls) = cause::<rustls::Error>(&error)
            && let Some((message, hint)) = self.explain_tls(tls)
        {
            return Trouble::Stale(Error::failed(message).with_hint(hint).with_source(error));
        }
        if error.is_builder() || error.is_redirect() {
            return Trouble::Fatal(Error::failed(format!("cannot ask for {}", self.name)).with_source(error));
        }
        let what = if error.is_dns() {
            "cannot find the server of"
        } else if error.is_connect() {
            "cannot connect to the server of"
        } else {
            "the connection broke for"
        };
        Trouble::transient(Error::new(ErrorKind::Network, format!("{what} {}", self.name)).with_source(error))
    }

    /// Message and hint for an error of TLS that will not pass by itself.
    fn explain_tls(&self, error: &rustls::Error) -> Option<(String, String)> {
        use rustls::{CertificateError as Bad, Error as Tls};
        let host = self.url.host_str().unwrap_or_default();
        let (what, hint) = match error {
            Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => (
                "has expired",
                "check this machine's clock, then the server: an exporter's certificate is renewed daily"
                    .to_owned(),
            ),
            Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
                ("is not valid yet", "check this machine's clock".to_owned())
            }
            Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => (
                "is for another name",
                "use a name that it carries; an exporter's is SERVICE.NAMESPACE.svc, never an address"
                    .to_owned(),
            ),
            #[cfg(feature = "cloud")]
            Tls::InvalidCertificate(_) if self.authority.is_some() => (
                "is not signed by a CA that is trusted here",
                "name the CA of the store with --store-ca-file".to_owned(),
            ),
            Tls::InvalidCertificate(_) => (
                "is not signed by a CA that is trusted here",
                match &self.ca_file {
                    None => "name the CA with --ca-file: that of an export is the 'cert' beside its links"
                        .to_owned(),
                    Some(file) => format!(
                        "the CA in {} is another one; that of an export is the 'cert' beside its links, and changes \
                         within days",
                        file.display()
                    ),
                },
            ),
            Tls::InvalidMessage(_) | Tls::PeerIncompatible(_) => {
                return Some((
                    format!("{host} does not speak TLS as it should"),
                    "an http:// port, or a proxy in between".to_owned(),
                ));
            }
            _ => return None,
        };
        Some((format!("the certificate of {host} {what}"), hint))
    }
}

/// What tells one version of a resource from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    /// Strong ETag.
    pub(super) etag: Option<String>,
    last_modified: Option<String>,
    /// Who said so, redirects followed: mirrors have ETags of their own.
    origin: Origin,
}

impl Validators {
    /// Those of a response.
    pub(super) fn of(response: &Response) -> Self {
        let text = |name: &HeaderName| header_text(response, name).map(str::to_owned);
        Self {
            etag: text(&header::ETAG).filter(|etag| !etag.starts_with("W/")),
            last_modified: text(&header::LAST_MODIFIED),
            origin: response.url().origin(),
        }
    }

    /// What shows that `other` is of another version; nothing, if one of them does not tell.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        if self.origin != other.origin {
            return None;
        }
        let differ = |what: &str, a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) if a != b => Some(format!("its {what} is {b} instead of {a}")),
            _ => None,
        };
        differ("ETag", &self.etag, &other.etag)
            .or_else(|| differ("Last-Modified", &self.last_modified, &other.last_modified))
    }
}

/// The token of an export. It is never printed: not even its length.
struct Token {
    /// Where it can be read again.
    file: Option<PathBuf>,
    value: Mutex<HeaderValue>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Token {
    async fn read(file: PathBuf) -> Result<Self> {
        let value = Mutex::new(read_token(file.clone()).await?);
        Ok(Self { file: Some(file), value })
    }

    fn given(secret: &Secret) -> Result<Self> {
        let value =
            token_header(secret.reveal().as_bytes()).filter(|value| !value.is_empty()).ok_or_else(|| {
                Error::failed("the secret of the export holds no token that a header can carry")
                    .with_hint("it must be one line of text under the key 'token'")
            })?;
        Ok(Self { file: None, value: Mutex::new(value) })
    }

    fn value(&self) -> HeaderValue {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again; whether it holds another token than before.
    async fn renew(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let Ok(now) = read_token(file.clone()).await else { return false };
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = *value != now;
        *value = now;
        differs
    }
}

/// A token as a header that is never printed, if it is text.
fn token_header(token: &[u8]) -> Option<HeaderValue> {
    // An error of the conversion would have nothing to add, and must not show the value.
    let mut value = HeaderValue::from_bytes(token).ok().filter(|value| value.to_str().is_ok())?;
    value.set_sensitive(true);
    Some(value)
}

async fn read_token(file: PathBuf) -> Result<HeaderValue> {
    let text = read_small(file.clone(), MAX_TOKEN_FILE_LEN).await?;
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err(Error::usage(format!("the token file {} is empty", file.display())));
    }
    let value = token_header(token).ok_or_else(|| {
        Error::usage(format!("{} does not hold a token: it has more than one line of text", file.display()))
    })?;
    if std::fs::metadata(&file).is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0) {
        tracing::warn!(file = %file.display(), "the token file can be read by other users");
    }
    Ok(value)
}

fn build(
    url: &Url,
    has_token: bool,
    authorities: Option<Vec<Certificate>>,
    insecure: bool,
    connect_to: Option<SocketAddr>,
    options: &HttpOptions,
) -> Result<reqwest::Client> {
    crate::tls::install();
    if insecure {
        tracing::warn!(
            source = %redacted(url),
            "the server's certificate is NOT verified: whoever is in between can read the token and change the disk"
        );
    }
    let builder = || base(url, has_token, connect_to, options).tls_danger_accept_invalid_certs(insecure);
    let built = match authorities {
        Some(authorities) => builder().tls_certs_only(authorities).build(),
        None if insecure => builder().tls_certs_only([]).build(),
        // A machine without CA certificates can still speak plain HTTP.
        None if url.scheme() == "http" => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
        None => builder().build(),
    };
    built.map_err(|error| {
        Error::failed("cannot set up the HTTP client")
            .with_hint("if this machine has no CA certificates, name some with --ca-file")
            .with_source(error.without_url())
    })
}

fn base(url: &Url, has_token: bool, connect_to: Option<SocketAddr>, options: &HttpOptions) -> ClientBuilder {
    let secret = has_token || !url.username().is_empty() || url.password().is_some();
    let policy = redirect::Policy::custom(move |attempt| {
        let first = attempt.previous().first().map(Url::origin);
        let same_origin = first.as_ref() == Some(&attempt.url().origin());
        let weaker = attempt.url().scheme() == "http"
            && attempt.previous().iter().any(|previous| previous.scheme() == "https");
        if attempt.previous().len() <= MAX_REDIRECTS && (same_origin || (!secret && !weaker)) {
            attempt.follow()
        } else {
            attempt.stop()
        }
    });
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(policy)
        // It would repeat the query of one server to another.
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .user_agent(concat!("vmferry/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.stall_timeout.min(MAX_CONNECT_TIMEOUT))
        .pool_max_idle_per_host(options.connections.max(1))
        // The export proxy closes connections that idle for 60 s.
        .pool_idle_timeout(Duration::from_secs(50))
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15));
    if let (Some(address), Some(host)) = (connect_to, url.host_str()) {
        builder = builder.resolve(host, address);
    }
    if is_loopback(url) || connect_to.is_some() {
        // A port-forward, or an address that was named: no proxy belongs in between.
        builder = builder.no_proxy();
    }
    builder
}

async fn read_authorities(file: &Path) -> Result<Vec<Certificate>> {
    let pem = read_small(file.to_owned(), MAX_CA_FILE_LEN).await?;
    authorities(&pem).map_err(|cause| {
        let wrong = Error::usage(format!("{} holds no CA certificate in PEM form", file.display()))
            .with_hint("it must have at least one block '-----BEGIN CERTIFICATE-----'");
        match cause {
            Some(cause) => wrong.with_source(cause),
            None => wrong,
        }
    })
}

/// The certificates in a PEM bundle; none at all is an error without a cause.
fn authorities(pem: &[u8]) -> Result<Vec<Certificate>, Option<reqwest::Error>> {
    let authorities = Certificate::from_pem_bundle(pem).map_err(|error| Some(error.without_url()))?;
    if authorities.is_empty() { Err(None) } else { Ok(authorities) }
}

/// Reads a file of at most `max` bytes.
async fn read_small(path: PathBuf, max: u64) -> Result<Vec<u8>> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
            .map_err(|error| Error::io("read", &path, error))?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len <= max) {
            return Ok(bytes);
        }
        Err(Error::usage(format!(
            "{} has more than {max} bytes, which is too long for what it is for",
            path.display()
        )))
    });
    read.await.map_err(|error| Error::failed("reading a file was given up").with_source(error))?
}

/// The URL without user info, query and fragment: these may hold secrets.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Fails only for URLs without a host, which have no user either.
    let _cannot_have_any = shown.set_password(None);
    let _cannot_have_any = shown.set_username("");
    shown.into()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A header's value, if it is text.
pub(super) fn header_text<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// First byte, last byte and total length of a partial response (RFC 9110 section 14.4).
pub(super) fn content_range(response: &Response) -> Option<(u64, u64, u64)> {
    parse_content_range(header_text(response, &header::CONTENT_RANGE)?)
}

/// The total length that a 416 tells.
pub(super) fn total_of(response: &Response) -> Option<u64> {
    header_text(response, &header::CONTENT_RANGE)?
        .trim()
        .strip_prefix("bytes")?
        .trim()
        .strip_prefix("*/")?
        .parse()
        .ok()
}

/// The range `start..end`, which is not empty.
pub(super) fn range_header(start: u64, end: u64) -> String {
    format!("bytes={start}-{}", end.saturating_sub(1))
}

fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}

const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-kubevirt-export-token");

/// Tokens have some tens of bytes.
const MAX_TOKEN_FILE_LEN: u64 = 64 << 10;

/// The CA bundle of a whole distribution has 250 KiB.
const MAX_CA_FILE_LEN: u64 = 4 << 20;

/// As browsers have it, more or less.
const MAX_REDIRECTS: usize = 10;

/// A TCP and TLS handshake that takes longer than this has failed.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Failures in a row with status 500.
const TRIES_AT_500: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 0-511/1024"), Some((0, 511, 1024)));
        assert_eq!(parse_content_range(" bytes 5-5/6 "), Some((5, 5, 6)));
        for wrong in [
            "",
            "bytes",
            "bytes */5",
            "bytes 0-5/*",
            "bytes 5-4/9",
            "bytes 0-9/9",
            "items 0-1/2",
            "bytes 0-1",
        ] {
            assert_eq!(parse_content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn secrets_in_urls_are_not_shown() {
        let url =
            Url::parse("https://user:pa55@host:8443/a/disk.img?x-kubevirt-export-token=t0p#frag").unwrap();
        assert_eq!(redacted(&url), "https://host:8443/a/disk.img");
    }
}
