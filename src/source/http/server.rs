//! A small HTTP/1.1 server for tests: HEAD, ranges, token, TLS, and faults on request.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

pub(super) const TOKEN: &str = "t0ken-that-nobody-may-see";

const SERVICE: &str = "virt-export-demo.ns.svc";

/// A resource.
#[derive(Clone, Default)]
pub(super) struct Resource {
    pub(super) bytes: Vec<u8>,
    /// Answers ranges and HEAD; else a chunked body, whatever is asked.
    pub(super) ranges: bool,
    /// Refuses HEAD with this status.
    pub(super) no_head: Option<u16>,
    pub(super) etag: Option<&'static str>,
    /// Sends a chunked body of that many bytes only, and ends it properly.
    pub(super) cut: Option<usize>,
}

impl Resource {
    pub(super) fn disk(bytes: Vec<u8>) -> Self {
        Self { bytes, ranges: true, ..Self::default() }
    }

    pub(super) fn stream(bytes: Vec<u8>) -> Self {
        Self { bytes, no_head: Some(400), ..Self::default() }
    }
}

/// What goes wrong with the next GET.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Another Content-Range than that of the body.
    ContentRange(&'static str),
    Encoded,
    Etag(&'static str),
    Garbage,
    /// The body breaks off after so many bytes.
    Reset(usize),
    /// The body stops after so many bytes, the connection stays.
    Stall(usize),
    Status(u16, &'static str),
    /// The whole body with status 200.
    Whole,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) resources: Mutex<HashMap<&'static str, Resource>>,
    pub(super) token: Mutex<Option<String>>,
    /// One for each GET to come.
    pub(super) faults: Mutex<VecDeque<Fault>>,
    /// Method, path and Range of each request.
    pub(super) requests: Mutex<Vec<String>>,
    /// GETs being answered, now and at most.
    active: AtomicUsize,
    pub(super) most_active: AtomicUsize,
    /// Pause before each body.
    pub(super) delay: Mutex<Duration>,
}

pub(super) struct Server {
    pub(super) state: Arc<State>,
    address: SocketAddr,
    tls: bool,
    /// The CA of the server and another, in files.
    pub(super) ca_file: PathBuf,
    pub(super) other_ca_file: PathBuf,
    pub(super) token_file: PathBuf,
    _dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (pem, Issuer::new(params, key))
}

impl Server {
    pub(super) async fn start(tls: bool) -> Self {
        crate::tls::install();
        let dir = tempfile::tempdir().unwrap();
        let (pem, issuer) = authority();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ca_file = write("ca.pem", &pem);
        let other_ca_file = write("other.pem", &authority().0);
        let token_file = write("token", &format!("{TOKEN}\n"));
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into(), SERVICE.into()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, acceptor) = (Arc::clone(&shared), acceptor.clone());
                connections.spawn(async move {
                    if tls {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, &state).await;
                        }
                    } else {
                        serve(stream, &state).await;
                    }
                });
            }
        });
        Self { state, address, tls, ca_file, other_ca_file, token_file, _dir: dir, task }
    }

    pub(super) fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same server under the name that a service has in a cluster.
    pub(super) fn service_url(&self, path: &str) -> url::Url {
        url::Url::parse(&format!("https://{SERVICE}{path}")).unwrap()
    }

    /// The same server by its address, for which it has no certificate.
    pub(super) fn url_by_address(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.address.port())
    }

    pub(super) fn put(&self, path: &'static str, resource: Resource) {
        self.state.resources.lock().unwrap().insert(path, resource);
    }

    pub(super) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.faults.lock().unwrap().extend(faults);
    }

    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if buffer.first() == Some(&0x16) {
                // A TLS handshake on a plain port: what servers answer to it.
                let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                return;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        let request = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
        let goes_on = answer(&mut stream, state, &request).await;
        if !matches!(goes_on, Ok(true)) {
            return;
        }
    }
}

/// Whether the connection stays.
async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    state: &State,
    request: &str,
) -> std::io::Result<bool> {
    let mut lines = request.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap(), first.next().unwrap());
    let path = target.split('?').next().unwrap();
    let headers: HashMap<String, &str> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    assert!(!headers.contains_key("if-range"), "If-Range must not be sent");
    assert_eq!(headers.get("accept-encoding"), Some(&"identity"));
    let range = headers.get("range").copied().unwrap_or_default();
    state.requests.lock().unwrap().push(format!("{method} {target} {range}").trim_end().to_owned());

    let fault = if method == "GET" { state.faults.lock().unwrap().pop_front() } else { None };
    let status = |code: u16, more: &str| {
        format!("HTTP/1.1 {code} Something\r\nContent-Length: 0\r\n{more}\r\n").into_bytes()
    };
    match &fault {
        Some(Fault::Status(code, more)) => {
            stream.write_all(&status(*code, more)).await?;
            stream.flush().await?;
            return Ok(true);
        }
        Some(Fault::Garbage) => {
            stream.write_all(b"\x00\x01 this is not HTTP at all\r\n\r\n").await?;
            stream.flush().await?;
            return Ok(false);
        }
        _ => {}
    }
    let resource = state.resources.lock().unwrap().get(path).cloned();
    let token = state.token.lock().unwrap().clone();
    let given = headers.get("x-kubevirt-export-token").map(|&token| token.to_owned());
    let refused = match &resource {
        None if path == "/moved" => Some(status(307, "Location: /disk.img\r\n")),
        None if path == "/elsewhere" => {
            Some(status(302, "Location: http://other.test/disk.img?secret=1\r\n"))
        }
        None => Some(status(404, "")),
        Some(_) if token.is_some() && token != given => Some(status(401, "")),
        Some(resource) if method == "HEAD" => resource.no_head.map(|code| status(code, "")),
        Some(_) => None,
    };
    if let Some(refused) = refused {
        stream.write_all(&refused).await?;
        stream.flush().await?;
        return Ok(true);
    }
    let resource = resource.unwrap();
    let size = resource.bytes.len();
    let etag = match fault {
        Some(Fault::Etag(etag)) => Some(etag),
        _ => resource.etag,
    };
    let etag = etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
    if method == "HEAD" {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nAccept-Ranges: bytes\r\n{etag}\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        return Ok(true);
    }
    let active = state.active.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_active.fetch_max(active, Ordering::SeqCst);
    let delay = *state.delay.lock().unwrap();
    tokio::time::sleep(delay).await;
    let result = body(stream, &resource, range, fault, &etag).await;
    state.active.fetch_sub(1, Ordering::SeqCst);
    result
}

async fn body(
    stream: &mut (impl AsyncWrite + Unpin),
    resource: &Resource,
    range: &str,
    fault: Option<Fault>,
    etag: &str,
) -> std::io::Result<bool> {
    let size = resource.bytes.len();
    let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let (head, bytes) = match bounds {
        Some((first, last)) if resource.ranges && !matches!(fault, Some(Fault::Whole)) => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            if first >= size {
                let head = format!(
                    "HTTP/1.1 416 Range\r\nContent-Length: 0\r\nContent-Range: bytes */{size}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await?;
                stream.flush().await?;
                return Ok(true);
            }
            let last = last.min(size - 1);
            let right = format!("bytes {first}-{last}/{size}");
            let content_range = match &fault {
                Some(Fault::ContentRange(wrong)) => *wrong,
                _ => &right,
            };
            let encoding =
                if matches!(fault, Some(Fault::Encoded)) { "Content-Encoding: gzip\r\n" } else { "" };
            let head = format!(
                "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: {content_range}\r\n{encoding}{etag}\r\n",
                last + 1 - first
            );
            (head, &resource.bytes[first..=last])
        }
        _ if resource.ranges => {
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n{etag}\r\n"), &resource.bytes[..])
        }
        _ => {
            // As an exporter sends gzip: chunked, and Range ignored.
            let all = &resource.bytes[..resource.cut.unwrap_or(size)];
            let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for part in all.chunks(10_000) {
                wire.extend(format!("{:x}\r\n", part.len()).into_bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            let wire_end = match fault {
                Some(Fault::Reset(after)) => after.min(wire.len()),
                _ => {
                    wire.extend(b"0\r\n\r\n");
                    wire.len()
                }
            };
            stream.write_all(&wire[..wire_end]).await?;
            stream.flush().await?;
            return Ok(!matches!(fault, Some(Fault::Reset(_))));
        }
    };
    stream.write_all(head.as_bytes()).await?;
    match fault {
        Some(Fault::Reset(after)) => {
            stream.write_all(&bytes[..after.min(bytes.len())]).await?;
            stream.flush().await?;
            Ok(false)
        }
        Some(Fault::Stall(after)) => {
            stream.write_all(&bytes[..after.min(bytes.len())]).await?;
            stream.flush().await?;
            std::future::pending().await
        }
        _ => {
            stream.write_all(bytes).await?;
            stream.flush().await?;
            Ok(true)
        }
    }
}
