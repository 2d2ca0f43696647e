//! A proxy between vmferry and a store, in which things go wrong.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivatePkcs8KeyDer};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The answer comes from here: a status, headers (lines) and a body.
    Answer(u16, String, String),
    /// A byte in the middle of the answer's body is another one.
    CorruptAnswer,
    /// A byte in the middle of the request's body is another one.
    CorruptRequest,
    /// The answer breaks off in the middle.
    CutAnswer,
    /// The store does what is asked; its answer is held back for so long.
    HoldAnswer(Duration),
    /// Nothing goes wrong.
    None,
    /// The answer has the second text wherever it has the first, which is of the same length.
    Replace(&'static str, String),
    /// The connection breaks before the store has seen the request.
    Reset,
    /// The store does what is asked; the connection breaks before its answer.
    LoseAnswer,
    /// Nothing is answered for so long, and then the connection breaks.
    Stall(Duration),
}

impl Fault {
    /// An S3 error.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::Answer(
            status,
            String::new(),
            format!("<Error><Code>{code}</Code><Message>{code} by the proxy</Message></Error>"),
        )
    }
}

/// A request that comes by.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its method.
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Its `Range`, if it has one.
    pub(crate) range: Option<String>,
    /// Its `If-Match`, if it has one.
    pub(crate) if_match: Option<String>,
    /// Whether it demands that there be no object yet.
    pub(crate) is_for_new: bool,
    /// Whether it says who asks.
    pub(crate) is_signed: bool,
    /// Bytes of its body.
    pub(crate) body_len: usize,
    /// How many came before it.
    pub(crate) number: usize,
}

type Decide = dyn FnMut(&Seen) -> Fault + Send;

/// A proxy, and what came by.
pub(crate) struct Proxy {
    /// `host:port`.
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    /// Listens, and forwards to `upstream` what `decide` lets pass.
    pub(crate) fn start(upstream: &str, decide: impl FnMut(&Seen) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let decide: Arc<Mutex<Box<Decide>>> = Arc::new(Mutex::new(Box::new(decide)));
        let (upstream, all) = (upstream.to_owned(), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (upstream, seen, decide) = (upstream.clone(), Arc::clone(&all), Arc::clone(&decide));
                // A client that goes away is no concern of the proxy.
                thread::spawn(move || drop(pass(stream, &upstream, &seen, &decide)));
            }
        });
        Self { address, seen }
    }

    /// What came by so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Speaks TLS before `upstream`, with a certificate for `localhost`: `localhost:port`, and the PEM file
/// with its CA in `directory`.
pub(crate) fn tls(upstream: &str, directory: &Path) -> (String, PathBuf) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority of this test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca_file = directory.join("store-ca.pem");
    std::fs::write(&ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let (config, upstream) = (Arc::new(config), upstream.to_owned());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, upstream) = (Arc::clone(&config), upstream.clone());
            thread::spawn(move || drop(decrypt(stream, config, &upstream)));
        }
    });
    (format!("localhost:{port}"), ca_file)
}

/// One request a connection.
fn decrypt(stream: TcpStream, config: Arc<ServerConfig>, upstream: &str) -> std::io::Result<()> {
    let connection = ServerConnection::new(config).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let Some((head, body)) = read_request(&mut stream)? else { return Ok(()) };
    let mut server = send_closing(upstream, &head, &body)?;
    let client = stream.get_mut();
    std::io::copy(&mut server, client)?;
    client.conn.send_close_notify();
    client.flush()
}

/// The head and the body of the next request.
fn read_request(stream: &mut impl BufRead) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let len = header(&head, "content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    stream.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then(|| value.to_owned())
    })
}

/// Sends a request whose answer ends with its connection.
fn send_closing(upstream: &str, head: &str, body: &[u8]) -> std::io::Result<TcpStream> {
    let mut server = TcpStream::connect(upstream)?;
    server.set_nodelay(true)?;
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let forwarded: String = lines.flat_map(|line| [line, "\r\n"]).collect();
    server.write_all(format!("{forwarded}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    Ok(server)
}

/// One request a connection: the store is asked to close, which the client sees.
fn pass(
    stream: TcpStream,
    upstream: &str,
    seen: &Mutex<Vec<Seen>>,
    decide: &Mutex<Box<Decide>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let Some((head, mut body)) = read_request(&mut stream)? else { return Ok(()) };
    let mut words = head.split(' ');
    let request = {
        let mut seen = seen.lock().unwrap();
        let request = Seen {
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            range: header(&head, "range"),
            if_match: header(&head, "if-match"),
            is_for_new: header(&head, "if-none-match").is_some()
                || header(&head, "x-goog-if-generation-match").is_some(),
            is_signed: header(&head, "authorization").is_some(),
            body_len: body.len(),
            number: seen.len(),
        };
        seen.push(request.clone());
        request
    };
    let fault = (*decide.lock().unwrap())(&request);
    let client = stream.get_mut();
    match &fault {
        Fault::Answer(status, headers, body) => {
            let body = if request.method == "HEAD" { "" } else { body };
            let len = body.len();
            write!(
                client,
                "HTTP/1.1 {status} X\r\n{headers}Connection: close\r\nContent-Length: {len}\r\n\r\n{body}"
            )?;
            return client.flush();
        }
        Fault::Reset => return client.shutdown(Shutdown::Both),
        Fault::Stall(time) => {
            thread::park_timeout(*time);
            return client.shutdown(Shutdown::Both);
        }
        Fault::CorruptRequest => {
            let middle = body.len() / 2;
            if let Some(byte) = body.get_mut(middle) {
                *byte ^= 0x40;
            }
        }
        _ => {}
    }
    let mut server = send_closing(upstream, &head, &body)?;
    if fault == Fault::None {
        std::io::copy(&mut server, client)?;
        return client.shutdown(Shutdown::Both);
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let body_at =
        answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let middle = body_at + (answer.len() - body_at) / 2;
    match fault {
        Fault::HoldAnswer(time) => {
            thread::park_timeout(time);
            client.write_all(&answer)?;
        }
        Fault::LoseAnswer => {}
        Fault::Replace(from, to) => {
            assert_eq!(from.len(), to.len());
            let text = String::from_utf8_lossy(&answer).replace(from, &to);
            client.write_all(text.as_bytes())?;
        }
        Fault::CutAnswer => client.write_all(&answer[..middle])?,
        Fault::CorruptAnswer => {
            if let Some(byte) = answer.get_mut(middle) {
                *byte ^= 0x40;
            }
            client.write_all(&answer)?;
        }
        _ => client.write_all(&answer)?,
    }
    client.shutdown(Shutdown::Both)
}
