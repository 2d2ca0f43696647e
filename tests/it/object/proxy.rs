//! A proxy between vmferry and a store, in which things go wrong.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

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
    /// Nothing goes wrong.
    None,
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

/// One request a connection: the store is asked to close, which the client sees.
fn pass(
    stream: TcpStream,
    upstream: &str,
    seen: &Mutex<Vec<Seen>>,
    decide: &Mutex<Box<Decide>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let mut body = vec![0; header("content-length").and_then(|len| len.parse().ok()).unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let mut words = head.split(' ');
    let request = {
        let mut seen = seen.lock().unwrap();
        let request = Seen {
            method: words.next().unwrap_or_default().to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            range: header("range"),
            if_match: header("if-match"),
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
    let mut server = TcpStream::connect(upstream)?;
    server.set_nodelay(true)?;
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let forwarded: String = lines.flat_map(|line| [line, "\r\n"]).collect();
    server.write_all(format!("{forwarded}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
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
        Fault::LoseAnswer => {}
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
