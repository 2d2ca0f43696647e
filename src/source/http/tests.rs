use std::{io::Write as _, sync::atomic::Ordering};

use vmferry_formats::{Format, testkit};

use super::{
    server::{Fault, Resource, Server, TOKEN},
    *,
};
use crate::{
    pipeline::buffer::BufferPool,
    secret::Secret,
    source::{
        ByteStream, OpenedSource, Restart, Source, SourceFormat, SourceOptions, StreamChunk, open, open_links,
    },
};

/// As patient as a machine under load needs: nothing may stall but what a test stalls.
fn options(server: &Server) -> HttpOptions {
    HttpOptions { ca_file: Some(server.ca_file.clone()), ..patient() }
}

fn patient() -> HttpOptions {
    HttpOptions {
        stall_timeout: Duration::from_secs(30),
        retry_for: Duration::from_secs(20),
        ..HttpOptions::default()
    }
}

/// For tests that stall: the answers that do not may still take a while.
const IMPATIENT: Duration = Duration::from_millis(700);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A server with a disk, and the disk connected.
async fn connected(len: usize) -> (Server, Vec<u8>, Arc<HttpStore>) {
    connected_with(len, patient()).await
}

async fn connected_with(len: usize, how: HttpOptions) -> (Server, Vec<u8>, Arc<HttpStore>) {
    let server = Server::start(true).await;
    let disk = testkit::disk(9, len);
    server.put("/disk.img", Resource { etag: Some("\"one\""), ..Resource::disk(disk.clone()) });
    let how = HttpOptions { ca_file: Some(server.ca_file.clone()), ..how };
    let store = HttpStore::connect(&server.url("/disk.img"), &how).await.unwrap();
    (server, disk, Arc::new(store))
}

async fn read(store: &Arc<HttpStore>, reads: &[ReadRange]) -> Result<Buffer> {
    Arc::clone(store).read(reads.to_vec(), BufferPool::new(1 << 20).get()).await
}

/// Reads most of the disk; the bytes must be right.
async fn read_disk(store: &Arc<HttpStore>, disk: &[u8]) -> Result<()> {
    let len = disk.len() - 7;
    let buffer = read(store, &[ReadRange { offset: 7, at: 0, len }]).await?;
    assert!(buffer[..len] == disk[7..], "wrong bytes");
    Ok(())
}

/// An error as it could be printed or logged in any way.
fn all_texts(error: &Error) -> String {
    let mut texts = format!("{error} {error:?} {:?}", error.hint());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        texts += &format!(" {cause} {cause:?}");
        source = cause.source();
    }
    texts
}

#[tokio::test]
async fn a_disk_is_read_by_ranges() {
    let (server, disk, store) = connected(300_001).await;
    assert_eq!(server.requests(), ["HEAD /disk.img", "GET /disk.img bytes=0-511"]);
    assert_eq!(store.size(), 300_001);
    assert_eq!(store.name(), server.url("/disk.img"));
    assert_eq!(
        store.identity(),
        Some(SourceIdentity::Http {
            url: server.url("/disk.img"),
            size: Some(300_001),
            etag: Some("\"one\"".into()),
            last_modified: None
        })
    );
    let reads = [
        ReadRange { offset: 300_000, at: 9, len: 1 },
        ReadRange { offset: 1000, at: 1000, len: 500 },
        ReadRange { offset: 1500, at: 1500, len: 10 },
        ReadRange { offset: 5, at: 5000, len: 0 },
        ReadRange { offset: 0, at: 600_000, len: 100_000 },
    ];
    let buffer = read(&store, &reads).await.unwrap();
    assert_eq!(buffer[9], disk[300_000]);
    assert_eq!(buffer[1000..1510], disk[1000..1510]);
    assert_eq!(buffer[600_000..700_000], disk[..100_000]);
    let mut requests = server.requests();
    requests.sort();
    assert_eq!(
        requests,
        ["GET /disk.img bytes=0-99999", "GET /disk.img bytes=1000-1509", "GET /disk.img bytes=300000-300000"]
    );
    let overlapping = [ReadRange { offset: 0, at: 0, len: 10 }, ReadRange { offset: 0, at: 9, len: 10 }];
    assert!(read(&store, &overlapping).await.is_err());
    assert!(read(&store, &[ReadRange { offset: 0, at: 1 << 20, len: 1 }]).await.is_err());
}

#[tokio::test]
async fn no_more_requests_at_once_than_connections() {
    let (server, disk, store) = connected(1 << 20).await;
    *server.state.delay.lock().unwrap() = Duration::from_millis(20);
    let reads: Vec<ReadRange> = (0..16)
        .map(|index| ReadRange { offset: index * 4096, at: to_usize(index * 8192), len: 4096 })
        .collect();
    let buffer = read(&store, &reads).await.unwrap();
    assert_eq!(buffer[8192..12_288], disk[4096..8192]);
    assert_eq!(server.state.most_active.load(Ordering::SeqCst), 4);
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

#[tokio::test]
async fn what_passes_is_tried_again_and_the_rest_only_is_fetched() {
    let faults: [(&str, Vec<Fault>); 7] = [
        ("reset before a byte", vec![Fault::Reset(0); 3]),
        ("reset in the middle", vec![Fault::Reset(100_000), Fault::Reset(70_000), Fault::Reset(1)]),
        ("not ready", vec![Fault::Status(503, ""); 5]),
        ("other statuses", [408, 429, 500, 502, 504].map(|code| Fault::Status(code, "")).to_vec()),
        ("busy for a second", vec![Fault::Status(429, "Retry-After: 1\r\n")]),
        ("busy until a date", vec![Fault::Status(503, "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n")]),
        ("garbage", vec![Fault::Garbage]),
    ];
    let (server, disk, store) = connected(300_001).await;
    for (name, faults) in faults {
        let begin = std::time::Instant::now();
        server.requests();
        server.fail(faults.clone());
        read_disk(&store, &disk).await.unwrap_or_else(|error| panic!("{name}: {}", all_texts(&error)));
        let requests = server.requests();
        assert_eq!(requests.len(), faults.len() + 1, "{name}: {requests:?}");
        match name {
            "reset in the middle" => {
                assert_eq!(requests.last().unwrap(), "GET /disk.img bytes=170008-300000");
            }
            "busy for a second" => assert!(begin.elapsed() >= Duration::from_secs(1)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_given_up_and_goes_on() {
    let (server, disk, store) =
        connected_with(300_001, HttpOptions { stall_timeout: IMPATIENT, ..patient() }).await;
    for (fault, next) in [
        (Fault::Stall(0), "GET /disk.img bytes=7-300000"),
        (Fault::Stall(200_000), "GET /disk.img bytes=200007-300000"),
    ] {
        server.requests();
        server.fail([fault]);
        read_disk(&store, &disk).await.unwrap();
        assert_eq!(server.requests()[1], next);
    }
}

#[tokio::test]
async fn what_does_not_pass_is_an_error_of_the_right_kind() {
    let faults = [
        (Fault::ContentRange("bytes 8-300000/300001"), ErrorKind::Failed, "instead of"),
        (Fault::ContentRange("bytes 7-299999/300001"), ErrorKind::Failed, "instead of"),
        (
            Fault::ContentRange("bytes 7-300000/300002"),
            ErrorKind::SourceChanged,
            "300002 bytes instead of 300001",
        ),
        (Fault::ContentRange("bytes 7-300000/*"), ErrorKind::Failed, "does not say"),
        (Fault::Whole, ErrorKind::Failed, "the whole disk"),
        (Fault::Etag("\"two\""), ErrorKind::SourceChanged, "ETag"),
        (Fault::Encoded, ErrorKind::Failed, "gzip"),
        (Fault::Status(401, ""), ErrorKind::Failed, "token"),
        (Fault::Status(403, ""), ErrorKind::Failed, "forbidden"),
        (Fault::Status(404, ""), ErrorKind::Failed, "nothing at"),
        (Fault::Status(418, ""), ErrorKind::Failed, "418"),
        (Fault::Status(302, "Location: /disk.img?x=1\r\n"), ErrorKind::Failed, "nothing"),
    ];
    let (server, disk, store) = connected(300_001).await;
    for (fault, kind, word) in faults {
        let description = format!("{fault:?}");
        if description.contains("302") {
            // Followed, being on the same server: right bytes.
            server.fail([fault]);
            read_disk(&store, &disk).await.unwrap();
            continue;
        }
        // An answer that cannot be right may be a moment's: three of them are not.
        let tries = match &fault {
            Fault::ContentRange(range) if range.ends_with('2') => 1,
            Fault::ContentRange(_) | Fault::Whole => 3,
            _ => 1,
        };
        server.requests();
        server.fail(vec![fault; tries]);
        let error = read_disk(&store, &disk).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{description}: {}", all_texts(&error));
        assert!(all_texts(&error).contains(word), "{description}: {}", all_texts(&error));
        assert_eq!(server.requests().len(), tries, "{description}");
    }
    // The disk is replaced by a smaller one.
    server.put("/disk.img", Resource::disk(vec![1; 1000]));
    let error = read(&store, &[ReadRange { offset: 5000, at: 0, len: 10 }]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert!(error.to_string().contains("1000 bytes instead of 300001"), "{error}");
    // A status that lasts is given up sooner.
    server.fail(vec![Fault::Status(500, ""); 9]);
    let error = read_disk(&store, &disk).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert_eq!(server.state.faults.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_server_that_is_gone_is_given_up_in_time() {
    let (server, disk, store) = connected(300_001).await;
    drop(server);
    // Connections that are open already still answer; new ones do not.
    let impatient =
        HttpOptions { retry_for: Duration::from_millis(500), insecure: true, ..HttpOptions::default() };
    let client = Client::new(store.connection.client().url().as_str(), &impatient).await.unwrap();
    let store = Arc::new(HttpStore::new(Connection::fixed(client), 300_001, store.validators.clone(), 1));
    let begin = std::time::Instant::now();
    let error = read_disk(&store, &disk).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(begin.elapsed() >= Duration::from_millis(500));
    assert!(error.hint().is_some() && all_texts(&error).contains("cannot connect"), "{}", all_texts(&error));
}

#[tokio::test]
async fn the_token_is_sent_and_never_shown() {
    let server = Server::start(true).await;
    *server.state.token.lock().unwrap() = Some(TOKEN.into());
    let disk = testkit::disk(9, 300_001);
    server.put("/disk.img", Resource::disk(disk.clone()));
    let with_token = HttpOptions { token_file: Some(server.token_file.clone()), ..options(&server) };
    let url = server.url("/disk.img");

    let error = HttpStore::connect(&url, &options(&server)).await.unwrap_err();
    assert!(
        error.to_string().contains("wants a token") && error.hint().unwrap().contains("--token-file"),
        "{error}"
    );

    let store = Arc::new(HttpStore::connect(&url, &with_token).await.unwrap());
    read_disk(&store, &disk).await.unwrap();
    let mut texts = format!("{store:?} {with_token:?} {:?} {:?}", store.connection, store.identity());

    for fault in
        [Fault::Status(401, ""), Fault::Status(404, ""), Fault::Whole, Fault::ContentRange("bytes 0-1/2")]
    {
        server.fail(vec![fault; 3]);
        texts += &all_texts(&read_disk(&store, &disk).await.unwrap_err());
        server.state.faults.lock().unwrap().clear();
    }
    server.fail(vec![Fault::Garbage; 100]);
    let impatient = HttpOptions { retry_for: Duration::from_millis(200), ..with_token.clone() };
    texts += &all_texts(&HttpStore::connect(&url, &impatient).await.unwrap_err());
    server.state.faults.lock().unwrap().clear();
    let wrong_ca = HttpOptions { ca_file: Some(server.other_ca_file.clone()), ..with_token.clone() };
    texts += &all_texts(&HttpStore::connect(&url, &wrong_ca).await.unwrap_err());
    // A redirect to another server does not get it.
    let error = HttpStore::connect(&server.url("/elsewhere"), &with_token).await.unwrap_err();
    assert!(error.to_string().contains("redirects to http://other.test/disk.img"), "{error}");
    assert!(!all_texts(&error).contains("secret"), "{}", all_texts(&error));
    texts += &all_texts(&error);
    // One on the same server does.
    HttpStore::connect(&server.url("/moved"), &with_token).await.unwrap();

    *server.state.token.lock().unwrap() = Some("another".into());
    let error = HttpStore::connect(&url, &with_token).await.unwrap_err();
    assert!(error.to_string().contains("refuses the token in"), "{error}");
    texts += &all_texts(&error);
    assert!(!texts.contains(TOKEN), "{texts}");

    // A token that was renewed meanwhile is read again.
    std::fs::write(&server.token_file, " another \n").unwrap();
    read_disk(&store, &disk).await.unwrap();
}

#[tokio::test]
async fn token_files_must_hold_one_token() {
    let server = Server::start(false).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    for (content, word) in
        [("", "is empty"), (" \n ", "is empty"), ("a\nb", "more than one line"), ("a\u{1}b", "line")]
    {
        std::fs::write(&path, content).unwrap();
        let options = HttpOptions { token_file: Some(path.clone()), ..options(&server) };
        let error = HttpStore::connect(&server.url("/disk.img"), &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(word), "{content:?}: {error}");
    }
    let options = HttpOptions { token_file: Some(dir.path().join("none")), ..options(&server) };
    assert!(HttpStore::connect(&server.url("/disk.img"), &options).await.is_err());
}

#[tokio::test]
async fn certificates_are_verified_and_errors_say_what_to_do() {
    let server = Server::start(true).await;
    server.put("/disk.img", Resource::disk(vec![7; 5000]));
    let begin = std::time::Instant::now();
    let connect = async |url: &str, options: HttpOptions| HttpStore::connect(url, &options).await;

    let wrong_ca = HttpOptions { ca_file: Some(server.other_ca_file.clone()), ..options(&server) };
    let error = connect(&server.url("/disk.img"), wrong_ca.clone()).await.unwrap_err();
    assert!(error.to_string().contains("not signed by a CA"), "{}", all_texts(&error));
    assert!(error.hint().unwrap().contains("other.pem"), "{:?}", error.hint());

    let error = connect(&server.url_by_address("/disk.img"), options(&server)).await.unwrap_err();
    assert!(error.to_string().contains("for another name"), "{}", all_texts(&error));

    let no_ca = HttpOptions { ca_file: Some(server.token_file.clone()), ..options(&server) };
    let error = connect(&server.url("/disk.img"), no_ca).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);

    // Errors that will not pass are not tried again.
    assert!(begin.elapsed() < options(&server).retry_for);
    let insecure = HttpOptions { insecure: true, ..wrong_ca };
    connect(&server.url("/disk.img"), insecure.clone()).await.unwrap();
    connect(&server.url_by_address("/disk.img"), HttpOptions { ca_file: None, ..insecure }).await.unwrap();

    let plain = Server::start(false).await;
    plain.put("/disk.img", Resource::disk(vec![7; 5000]));
    connect(&plain.url("/disk.img"), HttpOptions::default()).await.unwrap();
    let error =
        connect(&plain.url("/disk.img").replace("http:", "https:"), options(&plain)).await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{}", all_texts(&error));
}

#[tokio::test]
async fn locations_that_are_no_urls_are_refused_without_repeating_them() {
    let options = HttpOptions { retry_for: Duration::ZERO, ..HttpOptions::default() };
    for url in ["http://", "https://user:pa55@:bad/", "ftp://user:pa55@host/x"] {
        let error = HttpStore::connect(url, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(!all_texts(&error).contains("pa55"), "{}", all_texts(&error));
    }
}

#[tokio::test]
async fn the_first_contact_bears_faults_and_odd_servers() {
    let server = Server::start(true).await;
    let disk = testkit::disk(3, 2000);
    for code in [400, 403, 405, 501] {
        server.put("/disk.img", Resource { no_head: Some(code), ..Resource::disk(disk.clone()) });
        server.fail([Fault::Status(503, ""), Fault::Reset(10)]);
        let store = HttpStore::connect(&server.url("/disk.img"), &options(&server)).await.unwrap();
        assert_eq!(store.size(), 2000);
    }
    for len in [0, 1, 511, 512, 513] {
        for no_head in [None, Some(405)] {
            server.put("/disk.img", Resource { no_head, ..Resource::disk(disk[..len].to_vec()) });
            let store = HttpStore::connect(&server.url("/disk.img"), &options(&server)).await.unwrap();
            assert_eq!(store.size(), to_u64(len));
        }
    }
    server.put("/disk.img", Resource::disk(disk));
    server.fail([Fault::Whole]);
    let error = HttpStore::connect(&server.url("/disk.img"), &options(&server)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    for (path, word) in [("/none", "nothing at"), ("/none?token=pa55", "nothing at")] {
        let error = HttpStore::connect(&server.url(path), &options(&server)).await.unwrap_err();
        assert!(error.to_string().contains(word) && !all_texts(&error).contains("pa55"), "{error}");
    }
}

async fn open_url(server: &Server, path: &str, size: Option<u64>) -> Result<OpenedSource> {
    open(&server.url(path), &SourceOptions { size, http: options(server), ..SourceOptions::default() }).await
}

/// The bytes of a stream, read on a thread of its own.
async fn drain(opened: OpenedSource) -> Result<(Vec<u8>, Box<dyn ByteStream>)> {
    let Source::Stream(mut stream) = opened.source else { panic!("no stream: {opened:?}") };
    tokio::task::spawn_blocking(move || {
        let (mut all, mut buffer) = (Vec::new(), vec![0xaa; 50_000]);
        loop {
            match stream.next_chunk(&mut buffer)? {
                StreamChunk::Data { len, .. } => all.extend_from_slice(&buffer[..len]),
                StreamChunk::End => return Ok((all, stream)),
                StreamChunk::Zero { .. } => unreachable!("streams do not look for zeros"),
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn urls_with_ranges_open_as_random_disks() {
    let (server, _, _) = connected(300_001).await;
    let opened = open_url(&server, "/disk.img", None).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
    assert!(matches!(&opened.source, Source::Random(plan) if plan.size() == 300_001));
    let error = open_url(&server, "/disk.img", Some(300_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    server.put("/disk.qcow2", Resource::disk(vec![0; 5000]));
    assert_eq!(open_url(&server, "/disk.qcow2", None).await.unwrap_err().kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn a_body_without_ranges_is_a_stream() {
    let server = Server::start(true).await;
    let disk = testkit::disk(4, 200_000);
    server.put("/disk", Resource::stream(disk.clone()));
    let opened = open_url(&server, "/disk", None).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
    let (bytes, stream) = drain(opened).await.unwrap();
    assert_eq!(bytes, disk);
    assert_eq!((stream.restart(), stream.bytes_read()), (Restart::FromStart, 200_000));
    assert!(matches!(stream.identity(), Some(SourceIdentity::Http { .. })));
    let error = drain(open_url(&server, "/disk", Some(200_001)).await.unwrap()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    // A length that is announced is kept: the server sends 200 with Content-Length to a range.
    server.put("/disk.img", Resource::disk(disk.clone()));
    server.fail([Fault::Whole]);
    let opened = open_url(&server, "/disk.img", None).await.unwrap();
    let (bytes, stream) = drain(opened).await.unwrap();
    assert_eq!((bytes, stream.size()), (disk, Some(200_000)));
}

#[tokio::test]
async fn a_compressed_export_is_held_against_its_raw_link() {
    let server = Server::start(true).await;
    let disk = testkit::disk(5, 400_000);
    server.put("/disk.img", Resource::disk(disk.clone()));
    server.put("/disk.img.gz", Resource::stream(gzip(&disk)));
    let opened = open_url(&server, "/disk.img.gz", None).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Gzip);
    assert_eq!(server.requests(), ["HEAD /disk.img.gz", "GET /disk.img.gz bytes=0-511", "HEAD /disk.img"]);
    let (bytes, stream) = drain(opened).await.unwrap();
    assert_eq!((bytes, stream.size()), (disk.clone(), Some(400_000)));

    // The exporter failed to read its disk: a stream that is right in itself, but short.
    server.put("/disk.img.gz", Resource::stream(gzip(&disk[..300_000])));
    let error = drain(open_url(&server, "/disk.img.gz", None).await.unwrap()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SourceChanged);
    assert!(error.to_string().contains("300000 bytes instead of the 400000"), "{error}");
    // Without the raw link it cannot be known.
    server.state.resources.lock().unwrap().remove("/disk.img");
    let (bytes, stream) = drain(open_url(&server, "/disk.img.gz", None).await.unwrap()).await.unwrap();
    assert_eq!((bytes.len(), stream.size()), (300_000, None));
}

#[tokio::test]
async fn a_stream_that_breaks_says_that_it_restarts() {
    let server = Server::start(true).await;
    let packed = gzip(&testkit::disk(6, 400_000));
    server.put("/disk.img.gz", Resource::stream(packed.clone()));
    server.fail([Fault::Reset(packed.len() / 2)]);
    let error = drain(open_url(&server, "/disk.img.gz", None).await.unwrap()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.hint().unwrap().contains("restarts from its start"), "{:?}", error.hint());
    // A body that ends properly, but in the middle of the gzip stream.
    server.put("/disk.img.gz", Resource { cut: Some(packed.len() / 2), ..Resource::stream(packed) });
    let error = drain(open_url(&server, "/disk.img.gz", None).await.unwrap()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Network, "{}", all_texts(&error));
    // Before the first byte it is simply tried again.
    let disk = testkit::disk(7, 10_000);
    server.put("/disk.img.gz", Resource::stream(gzip(&disk)));
    server.fail([Fault::Status(503, ""), Fault::Reset(0)]);
    let (bytes, _) = drain(open_url(&server, "/disk.img.gz", None).await.unwrap()).await.unwrap();
    assert_eq!(bytes, disk);
}

#[tokio::test]
async fn a_compressed_file_with_ranges_survives_breaks() {
    let server = Server::start(true).await;
    let disk = testkit::disk(8, 900_000);
    let packed = gzip(&disk);
    let (third, len) = (packed.len() / 3, packed.len());
    server.put("/packed", Resource::disk(packed));
    let opened = open_url(&server, "/packed", None).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Gzip);
    drop(opened);
    // The task of the first stream may still have taken a request; the faults are for the second.
    let opened = {
        server.fail([Fault::Reset(512), Fault::Reset(third), Fault::Stall(100), Fault::Status(503, "")]);
        let http = HttpOptions { stall_timeout: IMPATIENT, ..options(&server) };
        open(&server.url("/packed"), &SourceOptions { http, ..SourceOptions::default() }).await.unwrap()
    };
    let (bytes, stream) = drain(opened).await.unwrap();
    assert_eq!(bytes, disk);
    assert_eq!(stream.bytes_read(), to_u64(len));
}

#[tokio::test]
async fn images_inside_a_stream_are_refused() {
    let server = Server::start(true).await;
    let mut image = vec![0; 2000];
    image[..4].copy_from_slice(b"QFI\xfb");
    server.put("/disk.gz", Resource::stream(gzip(&image)));
    let error = open_url(&server, "/disk.gz", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("a QCOW2 image inside gzip"), "{error}");
    server.put("/disk", Resource::stream(image));
    let error = open_url(&server, "/disk", None).await.unwrap_err();
    assert!(error.to_string().contains("needs random access"), "{error}");
}

/// Links of a [`Server`] that a test changes at will.
#[derive(Debug)]
struct TestLinks {
    state: std::sync::Mutex<LinksState>,
}

#[derive(Debug)]
struct LinksState {
    endpoint: Endpoint,
    /// What the next questions after a failure are answered with.
    renewals: Vec<Endpoint>,
    asked: Vec<String>,
    unchanged: bool,
}

impl TestLinks {
    fn new(server: &Server) -> Arc<Self> {
        let state = LinksState {
            endpoint: endpoint(server, 1),
            renewals: Vec::new(),
            asked: Vec::new(),
            unchanged: true,
        };
        Arc::new(Self { state: std::sync::Mutex::new(state) })
    }

    fn with(&self, change: impl FnOnce(&mut LinksState)) {
        change(&mut self.state.lock().unwrap());
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

impl Links for TestLinks {
    fn name(&self) -> String {
        "demo/export/root".into()
    }

    fn endpoint(&self, broken: Option<Broken<'_>>) -> BoxFuture<'_, Result<Endpoint>> {
        let mut state = self.state.lock().unwrap();
        if let Some(broken) = broken {
            state.asked.push(format!("{} {}", broken.generation, broken.error));
            if !state.renewals.is_empty() {
                state.endpoint = state.renewals.remove(0);
            }
        }
        Box::pin(std::future::ready(Ok(state.endpoint.clone())))
    }

    fn identity(&self) -> SourceIdentity {
        SourceIdentity::Http { url: "demo".into(), size: None, etag: None, last_modified: None }
    }

    fn check_unchanged(&self) -> BoxFuture<'_, Result<()>> {
        let unchanged = self.state.lock().unwrap().unchanged;
        let changed = || Error::new(ErrorKind::SourceChanged, "the VM was started meanwhile");
        Box::pin(std::future::ready(if unchanged { Ok(()) } else { Err(changed()) }))
    }
}

fn endpoint(server: &Server, generation: u64) -> Endpoint {
    // The name is that of a service in a cluster; the port is where it is reached.
    Endpoint {
        generation,
        raw: Some(server.service_url("/disk.img")),
        gzip: Some(server.service_url("/disk.img.gz")),
        authorities: Some(std::fs::read(&server.ca_file).unwrap()),
        insecure: false,
        connect_to: Some(server.address()),
        token: Secret::new(TOKEN),
    }
}

/// A server whose exporter wants the token and offers a disk both ways, and links to it.
async fn exporting(len: usize) -> (Server, Vec<u8>, Arc<TestLinks>) {
    let server = Server::start(true).await;
    *server.state.token.lock().unwrap() = Some(TOKEN.into());
    let disk = testkit::disk(11, len);
    server.put("/disk.img", Resource::disk(disk.clone()));
    server.put("/disk.img.gz", Resource::stream(gzip(&disk)));
    let links = TestLinks::new(&server);
    (server, disk, links)
}

async fn open_export(links: &Arc<TestLinks>, transfer: Transfer, from_middle: bool) -> Result<OpenedSource> {
    let options = SourceOptions { http: patient(), ..SourceOptions::default() };
    open_links(Arc::clone(links) as Arc<dyn Links>, transfer, from_middle, &options).await
}

/// The bytes of a disk that is read by ranges.
fn read_all(opened: &OpenedSource) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
    let Source::Random(plan) = &opened.source else { panic!("no ranges: {opened:?}") };
    let (store, len) = (Arc::clone(&plan.stores()[0]), to_usize(plan.size()));
    async move {
        let half = len / 2;
        let reads = vec![
            ReadRange { offset: 0, at: 0, len: half },
            ReadRange { offset: to_u64(half), at: half + 8, len: len - half },
        ];
        let buffer = Arc::clone(&store).read(reads, BufferPool::new(len + 8).get()).await?;
        store.check_unchanged().await?;
        Ok([&buffer[..half], &buffer[half + 8..len + 8]].concat())
    }
}

#[tokio::test]
async fn an_export_is_reached_under_the_name_of_its_service() {
    let (server, disk, links) = exporting(300_001).await;
    let opened = open_export(&links, Transfer::Raw, false).await.unwrap();
    assert_eq!((opened.name.as_str(), opened.format), ("demo/export/root", SourceFormat::Image(Format::Raw)));
    assert!(read_all(&opened).await.unwrap() == disk);
    assert_eq!(server.requests()[0], "HEAD /disk.img");
    // A small disk is not worth a choice, and an earlier run is taken up by ranges.
    for (transfer, from_middle) in [(Transfer::Auto, false), (Transfer::Gzip, true)] {
        let opened = open_export(&links, transfer, from_middle).await.unwrap();
        assert!(matches!(opened.source, Source::Random(_)));
    }
    let opened = open_export(&links, Transfer::Gzip, false).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Gzip);
    let (bytes, stream) = drain(opened).await.unwrap();
    assert!(bytes == disk && stream.size() == Some(300_001));
    assert!(links.asked().is_empty());
}

#[tokio::test]
async fn links_are_read_again_when_they_break() {
    // Another certificate, another token, another path: what a new exporter pod brings.
    let (server, disk, links) = exporting(300_001).await;
    let new = Server::start(true).await;
    new.put("/new/disk.img", Resource::disk(disk.clone()));
    *new.state.token.lock().unwrap() = Some("rotated".into());
    let raw = Some(new.service_url("/new/disk.img"));
    let right = Endpoint { raw, token: Secret::new("rotated"), ..endpoint(&new, 5) };
    for (name, wrong, words) in [
        ("401", Endpoint { token: Secret::new("old"), ..right.clone() }, "refuses the token"),
        ("404", Endpoint { raw: Some(new.service_url("/gone")), ..right.clone() }, "nothing at"),
        (
            "certificate",
            Endpoint { authorities: endpoint(&server, 0).authorities, ..right.clone() },
            "not signed by a CA",
        ),
    ] {
        links.with(|state| {
            state.endpoint = Endpoint { generation: 4, ..wrong };
            state.renewals = vec![right.clone()];
        });
        let opened = open_export(&links, Transfer::Raw, false).await.unwrap();
        assert!(read_all(&opened).await.unwrap() == disk, "{name}");
        let asked = links.asked();
        assert!(asked.len() == 1 && asked[0].starts_with("4 ") && asked[0].contains(words), "{asked:?}");
    }
    // In the middle of the disk, by several requests at once: the links are read again once.
    links.with(|state| state.endpoint = endpoint(&server, 1));
    let opened = open_export(&links, Transfer::Raw, false).await.unwrap();
    *server.state.token.lock().unwrap() = Some("no more".into());
    links.with(|state| state.renewals = vec![right]);
    assert!(read_all(&opened).await.unwrap() == disk);
    assert_eq!(links.asked().len(), 1);
}

#[tokio::test]
async fn what_stays_wrong_ends_with_the_reason() {
    let (server, _, links) = exporting(300_001).await;
    links.with(|state| state.endpoint.token = Secret::new("wrong"));
    let error = open_export(&links, Transfer::Raw, false).await.unwrap_err();
    assert!(all_texts(&error).contains("refuses the token"), "{}", all_texts(&error));
    assert!(!all_texts(&error).contains("wrong\""), "{}", all_texts(&error));
    links.with(|state| state.endpoint = endpoint(&server, 2));

    let opened = open_export(&links, Transfer::Raw, false).await.unwrap();
    links.with(|state| state.unchanged = false);
    assert_eq!(read_all(&opened).await.unwrap_err().kind(), ErrorKind::SourceChanged);
    let opened = open_export(&links, Transfer::Gzip, false).await.unwrap();
    assert_eq!(drain(opened).await.err().unwrap().kind(), ErrorKind::SourceChanged);

    links.with(|state| (state.endpoint.raw, state.endpoint.gzip) = (None, None));
    let error = open_export(&links, Transfer::Auto, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    for (secret, word) in [("", "no token"), ("a\nb", "no token")] {
        links.with(|state| state.endpoint = Endpoint { token: Secret::new(secret), ..endpoint(&server, 3) });
        let error = open_export(&links, Transfer::Raw, false).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_compressed_transfer_that_breaks_goes_on_by_ranges() {
    let (server, disk, links) = exporting(2_000_003).await;
    let packed = gzip(&disk);
    let cut = packed.len() / 2;
    // The connection breaks; the stream ends early and properly, in its middle or as a shorter disk.
    let broken: [(Resource, Vec<Fault>); 3] = [
        (Resource::stream(packed.clone()), vec![Fault::Reset(cut)]),
        (Resource { cut: Some(cut), ..Resource::stream(packed) }, Vec::new()),
        (Resource::stream(gzip(&disk[..1_200_000])), Vec::new()),
    ];
    for (index, (resource, faults)) in broken.into_iter().enumerate() {
        server.put("/disk.img.gz", resource);
        server.fail(faults);
        server.requests();
        let opened = open_export(&links, Transfer::Gzip, false).await.unwrap();
        let (bytes, stream) = drain(opened).await.unwrap();
        assert!(bytes == disk, "{index}");
        assert_eq!(stream.restart(), Restart::FromStart);
        let requests = server.requests();
        let ranges: Vec<&String> =
            requests.iter().filter(|request| request.starts_with("GET /disk.img bytes=")).collect();
        assert!(ranges.len() == 2 || ranges.len() == 1, "{requests:?}");
        // From the last complete piece on, not from the start.
        assert!(!ranges.iter().any(|range| range.contains("bytes=0-")), "{requests:?}");
    }
}

#[tokio::test]
async fn a_compressed_transfer_without_raw_link_starts_anew() {
    let (server, disk, links) = exporting(900_000).await;
    let packed = gzip(&disk);
    links.with(|state| state.endpoint.raw = None);
    server.fail([Fault::Reset(packed.len() / 2), Fault::Reset(packed.len() / 3)]);
    let opened = open_export(&links, Transfer::Auto, false).await.unwrap();
    let (bytes, _) = drain(opened).await.unwrap();
    assert!(bytes == disk);
    // It must be the same disk again.
    let mut other = disk.clone();
    other[5] ^= 1;
    server.fail([Fault::Reset(packed.len() / 2)]);
    let opened = open_export(&links, Transfer::Auto, false).await.unwrap();
    server.put("/disk.img.gz", Resource::stream(gzip(&other)));
    // The first body was taken from the first resource: it breaks while the second is there.
    match drain(opened).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::SourceChanged, "{}", all_texts(&error)),
        Ok((bytes, _)) => assert!(bytes == other, "mixed bytes"),
    }
}

#[tokio::test]
async fn bytes_that_do_not_inflate_are_not_patched_over() {
    let (server, disk, links) = exporting(2_000_003).await;
    let mut packed = gzip(&disk);
    let middle = packed.len() / 2;
    packed[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    server.put("/disk.img.gz", Resource::stream(packed));
    let opened = open_export(&links, Transfer::Gzip, false).await.unwrap();
    let error = drain(opened).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::SourceChanged, "{}", all_texts(&error));
    assert!(error.hint().unwrap().contains("--transfer raw"), "{error:?}");
}

#[tokio::test]
async fn answers_that_cannot_be_right_are_asked_for_again() {
    // A server for each case: a request that was given up may reach its server late and take the
    // fault of the next.
    for fault in [Fault::Whole, Fault::ContentRange("bytes 0-1/300001")] {
        let (server, disk, links) = exporting(300_001).await;
        let opened = open_export(&links, Transfer::Raw, false).await.unwrap();
        server.fail([fault.clone()]);
        assert!(read_all(&opened).await.unwrap() == disk, "{fault:?}");
        server.fail(vec![fault.clone(); 20]);
        let error = read_all(&opened).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{fault:?}: {}", all_texts(&error));
    }
    let (server, _, links) = exporting(300_001).await;
    let opened = open_export(&links, Transfer::Raw, false).await.unwrap();
    server.fail([Fault::ContentRange("bytes 0-150000/999999")]);
    assert_eq!(read_all(&opened).await.unwrap_err().kind(), ErrorKind::SourceChanged);
}
