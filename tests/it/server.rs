//! A volume server over TLS, as an export has it: `/disk.img` by ranges, `/disk.img.gz` as a stream.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivatePkcs8KeyDer};

/// The token that requests must carry.
pub(crate) const TOKEN: &str = "s3cret-token-of-this-test";

/// A server that runs until it is dropped.
pub(crate) struct Server {
    port: u16,
    pub(crate) state: Arc<State>,
    pub(crate) ca_file: PathBuf,
    pub(crate) token_file: PathBuf,
}

/// What it serves and what goes wrong.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: Mutex<HashMap<&'static str, Vec<u8>>>,
    /// Bodies that break off in the middle, from now on.
    pub(crate) breaks: AtomicUsize,
    /// GETs answered with 503, from now on.
    pub(crate) unavailable: AtomicUsize,
    /// HEADs of disks answered with 503, from now on.
    pub(crate) unavailable_heads: AtomicUsize,
    /// The first range of the disk waits until this is false.
    pub(crate) first_stalls: AtomicBool,
    /// GETs of bodies so far.
    pub(crate) gets: AtomicUsize,
}

impl Server {
    /// Starts one whose certificate and token files lie in `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of this test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca_file = directory.join("ca.pem");
        std::fs::write(&ca_file, params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let token_file = directory.join("token");
        std::fs::write(&token_file, TOKEN).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let (config, state) = (Arc::new(config), Arc::new(State::default()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (config, state) = (Arc::clone(&config), Arc::clone(&shared));
                thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    // A client that goes away is no concern of the server.
                    let _gone = serve(StreamOwned::new(connection, stream), &state);
                });
            }
        });
        Self { port, state, ca_file, token_file }
    }

    pub(crate) fn put(&self, path: &'static str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(path, bytes);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// The options that a client needs.
    pub(crate) fn options(&self) -> [String; 4] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        ["--token-file".into(), text(&self.token_file), "--ca-file".into(), text(&self.ca_file)]
    }
}

fn serve(stream: StreamOwned<ServerConnection, TcpStream>, state: &State) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        if !answer(stream.get_mut(), state, &head)? {
            return Ok(());
        }
    }
}

/// Whether the connection stays.
fn answer(stream: &mut (impl Read + Write), state: &State, head: &str) -> std::io::Result<bool> {
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    };
    let status = |code: &str| format!("HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n");
    let file = state.files.lock().unwrap().get(path).cloned();
    let refusal = match &file {
        _ if header("x-kubevirt-export-token") != Some(TOKEN) => Some("401 Unauthorized"),
        None => Some("404 Not Found"),
        Some(_) if method == "HEAD" && path.ends_with(".gz") => Some("400 Bad Request"),
        Some(_) if method == "HEAD" && take_one(&state.unavailable_heads) => Some("503 Service Unavailable"),
        Some(_) if method == "GET" && take_one(&state.unavailable) => Some("503 Service Unavailable"),
        Some(_) => None,
    };
    if let Some(refusal) = refusal {
        stream.write_all(status(refusal).as_bytes())?;
        stream.flush()?;
        return Ok(true);
    }
    let file = file.unwrap();
    let size = file.len();
    if method == "HEAD" {
        let head = format!("HTTP/1.1 200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.flush()?;
        return Ok(true);
    }
    state.gets.fetch_add(1, SeqCst);
    let range = header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (head, body) = match range {
        Some((first, last)) if !path.ends_with(".gz") && size > 0 => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            let last = last.min(size - 1);
            // The probe asks for a few bytes; it is the data that waits.
            while first == 0 && last > 1 << 20 && state.first_stalls.load(SeqCst) {
                thread::park_timeout(Duration::from_millis(5));
            }
            let len = last + 1 - first;
            let range = format!("Content-Range: bytes {first}-{last}/{size}\r\nContent-Length: {len}");
            (format!("HTTP/1.1 206 Partial Content\r\n{range}\r\n\r\n"), &file[first..=last])
        }
        _ if path.ends_with(".gz") => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let broken = take_one(&state.breaks);
            for part in file[..if broken { size / 2 } else { size }].chunks(60_000) {
                stream.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
                stream.write_all(part)?;
                stream.write_all(b"\r\n")?;
            }
            if !broken {
                stream.write_all(b"0\r\n\r\n")?;
            }
            stream.flush()?;
            return Ok(!broken);
        }
        _ => (format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"), &file[..]),
    };
    stream.write_all(head.as_bytes())?;
    let broken = body.len() > 1 << 20 && take_one(&state.breaks);
    stream.write_all(if broken { &body[..body.len() / 3] } else { body })?;
    stream.flush()?;
    Ok(!broken)
}

fn take_one(counter: &AtomicUsize) -> bool {
    counter.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1)).is_ok()
}
