//! A fake of Google Cloud Storage, written from the documentation of its XML API: objects with ranges
//! and conditions, lists, and multipart uploads. It is no judge of what we make of that API, only of
//! what we do with it; no emulator that is to be had speaks its multipart part.
//!
//! Requests need a bearer token; whether that is a good one is not looked at.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    thread,
};

use sha2::{Digest as _, Sha256};

use crate::support::tool;

#[derive(Clone, Default)]
struct Object {
    bytes: Vec<u8>,
    metadata: Vec<(String, String)>,
}

#[derive(Default)]
struct Upload {
    path: String,
    /// When it was begun.
    begun: String,
    metadata: Vec<(String, String)>,
    parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Default)]
struct State {
    /// By `/bucket/key`.
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    begun: u32,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Starts it; `host:port`.
pub(super) fn start() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let state = Arc::new(Mutex::new(State::default()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            // A client that goes away is no concern of the server.
            thread::spawn(move || drop(serve(stream, &state)));
        }
    });
    address
}

/// A file with the key of a service account: what Google's tools call application credentials.
pub(super) fn service_account() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let key = tool("openssl", ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
        let account = serde_json::json!({
            "type": "service_account",
            "private_key": key,
            "private_key_id": "1",
            "client_email": "tests@vmferry.invalid",
        });
        let file =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("account-{}.json", std::process::id()));
        std::fs::write(&file, account.to_string()).unwrap();
        file
    })
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, target) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let len = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
        let mut body = vec![0; len.parse().unwrap()];
        stream.read_exact(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let closes = headers.iter().any(|(name, value)| name == "connection" && value == "close");
        let request = Request { method, path: decoded(path), query, headers, body };
        let response = answer(&request, &mut state.lock().unwrap());
        let mut text = format!("HTTP/1.1 {} X\r\n", response.status);
        let is_head = request.method == "HEAD";
        if !is_head || !response.headers.iter().any(|(name, _)| name == "Content-Length") {
            text.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
        }
        for (name, value) in &response.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        stream.get_mut().write_all(text.as_bytes())?;
        if !is_head {
            stream.get_mut().write_all(&response.body)?;
        }
        if closes {
            return Ok(());
        }
    }
}

fn answer(request: &Request, state: &mut State) -> Response {
    let header =
        |name: &str| request.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    if !header("authorization").is_some_and(|value| value.starts_with("Bearer ey")) {
        return failure(401, "AuthenticationRequired");
    }
    let query = |name: &str| request.query.get(name).map(String::as_str);
    let path = request.path.as_str();
    let is_bucket = !path.trim_start_matches('/').contains('/');
    match (request.method.as_str(), query("uploadId")) {
        ("PUT", None) if is_bucket => success(Vec::new()),
        ("GET", None) if is_bucket && query("uploads").is_some() => list_uploads(path, state),
        ("GET", None) if is_bucket => list(path, query("prefix").unwrap_or_default(), state),
        ("POST", None) if query("uploads").is_some() => {
            state.begun += 1;
            let id = format!("upload {}/é+", state.begun);
            let upload = Upload {
                path: path.to_owned(),
                begun: jiff::Timestamp::now().to_string(),
                metadata: metadata(request),
                parts: BTreeMap::new(),
            };
            state.uploads.insert(id.clone(), upload);
            xml(&format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ))
        }
        (method, Some(id)) => {
            let Some(upload) = state.uploads.get_mut(id).filter(|upload| upload.path == path) else {
                return failure(404, "NoSuchUpload");
            };
            match method {
                "PUT" => {
                    let Some(number) = query("partNumber").and_then(|number| number.parse().ok()) else {
                        return failure(400, "InvalidArgument");
                    };
                    let tag = etag(&request.body);
                    upload.parts.insert(number, request.body.clone());
                    Response { status: 200, headers: vec![("ETag".into(), tag)], body: Vec::new() }
                }
                "GET" => {
                    let mut text = String::from("<ListPartsResult><IsTruncated>false</IsTruncated>");
                    for (number, bytes) in &upload.parts {
                        text.push_str(&format!(
                            "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag><Size>{}</Size></Part>",
                            etag(bytes).replace('"', "&quot;"),
                            bytes.len()
                        ));
                    }
                    xml(&(text + "</ListPartsResult>"))
                }
                "DELETE" => {
                    state.uploads.remove(id);
                    Response { status: 204, headers: Vec::new(), body: Vec::new() }
                }
                "POST"
                    if header("x-goog-if-generation-match") == Some("0")
                        && state.objects.contains_key(path) =>
                {
                    failure(412, "PreconditionFailed")
                }
                "POST" => complete(path, id, &request.body, state),
                _ => failure(405, "MethodNotAllowed"),
            }
        }
        ("PUT", None) => {
            let object = Object { bytes: request.body.clone(), metadata: metadata(request) };
            let headers = object_headers(&object);
            state.objects.insert(path.to_owned(), object);
            Response { status: 200, headers, body: Vec::new() }
        }
        ("DELETE", None) => match state.objects.remove(path) {
            Some(_) => Response { status: 204, headers: Vec::new(), body: Vec::new() },
            None => failure(404, "NoSuchKey"),
        },
        ("GET" | "HEAD", None) => match state.objects.get(path) {
            None => failure(404, "NoSuchKey"),
            Some(object) => {
                if header("if-match").is_some_and(|tag| tag != etag(&object.bytes)) {
                    return failure(412, "PreconditionFailed");
                }
                get(request, header("range"), object)
            }
        },
        _ => failure(405, "MethodNotAllowed"),
    }
}

fn get(request: &Request, range: Option<&str>, object: &Object) -> Response {
    let mut headers = object_headers(object);
    let size = object.bytes.len();
    if request.method == "HEAD" {
        headers.push(("Content-Length".into(), size.to_string()));
        return Response { status: 200, headers, body: Vec::new() };
    }
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else {
        return Response { status: 200, headers, body: object.bytes.clone() };
    };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    if first >= size {
        return failure(416, "InvalidRange");
    }
    let last = last.min(size - 1);
    headers.push(("Content-Range".into(), format!("bytes {first}-{last}/{size}")));
    Response { status: 206, headers, body: object.bytes[first..=last].to_vec() }
}

fn complete(path: &str, id: &str, body: &[u8], state: &mut State) -> Response {
    let text = String::from_utf8_lossy(body).replace("&quot;", "\"");
    let upload = &state.uploads[id];
    let (mut bytes, mut before) = (Vec::new(), 0_u32);
    for part in text.split("<Part>").skip(1) {
        let value =
            |tag: &str| part.split_once(&format!("<{tag}>"))?.1.split_once("</").map(|(text, _)| text);
        let number = value("PartNumber").and_then(|number| number.parse().ok()).unwrap_or(0);
        let Some(stored) = upload.parts.get(&number).filter(|stored| value("ETag") == Some(&etag(stored)))
        else {
            return failure(400, "InvalidPart");
        };
        if number <= before {
            return failure(400, "InvalidPartOrder");
        }
        before = number;
        bytes.extend_from_slice(stored);
    }
    let object = Object { bytes, metadata: upload.metadata.clone() };
    let tag = etag(&object.bytes);
    state.uploads.remove(id);
    state.objects.insert(path.to_owned(), object);
    xml(&format!("<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"))
}

fn list(bucket: &str, prefix: &str, state: &State) -> Response {
    let mut text = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
    for (path, object) in &state.objects {
        if let Some(key) = path.strip_prefix(&format!("{}/", bucket.trim_end_matches('/')))
            && key.starts_with(prefix)
        {
            text.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>{}</ETag>\
                 <Size>{}</Size></Contents>",
                etag(&object.bytes).replace('"', "&quot;"),
                object.bytes.len()
            ));
        }
    }
    xml(&(text + "</ListBucketResult>"))
}

fn list_uploads(bucket: &str, state: &State) -> Response {
    let mut text = String::from("<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>");
    for (id, upload) in &state.uploads {
        if let Some(key) = upload.path.strip_prefix(&format!("{}/", bucket.trim_end_matches('/'))) {
            let begun = &upload.begun;
            text.push_str(&format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>"
            ));
        }
    }
    xml(&(text + "</ListMultipartUploadsResult>"))
}

fn metadata(request: &Request) -> Vec<(String, String)> {
    request.headers.iter().filter(|(name, _)| name.starts_with("x-goog-meta-")).cloned().collect()
}

fn object_headers(object: &Object) -> Vec<(String, String)> {
    let mut headers = object.metadata.clone();
    headers.push(("ETag".into(), etag(&object.bytes)));
    headers.push(("Last-Modified".into(), "Fri, 02 Jan 2026 03:04:05 GMT".into()));
    headers
}

fn etag(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!("\"{}\"", hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn success(body: Vec<u8>) -> Response {
    Response { status: 200, headers: Vec::new(), body }
}

fn xml(text: &str) -> Response {
    success(format!("<?xml version='1.0' encoding='UTF-8'?>{text}").into_bytes())
}

fn failure(status: u16, code: &str) -> Response {
    let body = format!(
        "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} of the fake</Message></Error>"
    );
    Response { status, headers: Vec::new(), body: body.into_bytes() }
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&String::from_utf8(digits).unwrap(), 16).unwrap());
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).unwrap()
}
