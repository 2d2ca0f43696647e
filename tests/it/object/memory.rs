//! Resident memory of an upload: of a huge disk in an appliance, into a store that keeps nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use vmferry_formats::testkit::Rng;

use super::{
    servers::{KEY_ID, SECRET},
    write::VM,
};
use crate::{
    memory::watch,
    support::{scratch, vmferry},
};

/// What `--dry-run` states for a run of up to 12 GB with the default of `--memory`, and some room.
const BOUND: u64 = 192 << 20;

/// Bytes of data that are written; more with `VMFERRY_MEMORY_GIB`.
fn data_len() -> u64 {
    let gib = std::env::var("VMFERRY_MEMORY_GIB").ok().and_then(|gib| gib.parse().ok()).unwrap_or(2);
    gib << 30
}

/// What of the API of S3 an upload needs. Only lengths are kept.
#[derive(Default)]
struct Discarding {
    /// Lengths of parts, by target and number.
    parts: BTreeMap<(String, u32), u64>,
    /// Lengths of objects.
    objects: BTreeMap<String, u64>,
}

impl Discarding {
    /// Starts it; what it has, and `host:port`.
    fn start() -> (Arc<Mutex<Self>>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(Self::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away is no concern of the server.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        (state, address)
    }

    /// Status and body, or the length that is told instead of one.
    fn answer(&mut self, method: &str, target: &str, len: u64) -> (u16, String, Option<u64>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let number = query.split('&').find_map(|pair| pair.strip_prefix("partNumber=")?.parse().ok());
        match (method, number) {
            ("PUT", Some(number)) => {
                self.parts.insert((path.to_owned(), number), len);
                (200, String::new(), None)
            }
            ("PUT", None) => {
                self.objects.insert(path.to_owned(), len);
                (200, String::new(), None)
            }
            ("POST", _) if query.starts_with("uploads") => {
                let id =
                    "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
                (200, id.to_owned(), None)
            }
            // Objects are removed by lists of them.
            ("POST", _) if query.starts_with("delete") => {
                (200, "<DeleteResult><Deleted><Key>x</Key></Deleted></DeleteResult>".to_owned(), None)
            }
            ("POST", _) => {
                let parts = self.parts.iter().filter(|((of, _), _)| of == path);
                let size = parts.map(|(_, len)| len).sum();
                self.objects.insert(path.to_owned(), size);
                let made =
                    "<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>";
                (200, made.to_owned(), None)
            }
            ("DELETE", _) => {
                self.objects.remove(path);
                (204, String::new(), None)
            }
            _ => match self.objects.get(path) {
                Some(len) => (200, String::new(), Some(*len)),
                None => (404, String::new(), None),
            },
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<Discarding>) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let len = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        io::copy(&mut (&mut stream).take(len), &mut io::sink())?;
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, body, told) = state.lock().unwrap().answer(method, target, len);
        let told = told.unwrap_or(body.len() as u64);
        write!(
            stream.get_mut(),
            "HTTP/1.1 {status} X\r\nETag: \"x\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n\
             Content-Length: {told}\r\n\r\n{body}"
        )?;
    }
}

#[test]
fn an_appliance_of_sixteen_tebibytes_is_uploaded_within_what_is_stated() {
    let directory = scratch();
    let (root, data) = (directory.path().join("root.raw"), directory.path().join("data.raw"));
    let mut rng = Rng::new(81);
    let mut noise = vec![0; 4 << 20];
    rng.fill(&mut noise);
    fs::write(&root, &noise).unwrap();
    let file = fs::File::create(&data).unwrap();
    // The largest file of ext4 with blocks of 4 KiB.
    let size = (16 << 40) - 4096;
    file.set_len(size).expect("a file system that holds a sparse file of 16 TiB");
    for index in 0..data_len() / noise.len() as u64 {
        noise[..8].copy_from_slice(&index.to_le_bytes());
        file.write_all_at(&noise, rng.below(size / (8 << 20)) * (8 << 20)).unwrap();
    }
    let (store, address) = Discarding::start();
    let vm = directory.path().join("vm.yaml");
    fs::write(&vm, VM).unwrap();
    let [vm, root, data] = [&vm, &root, &data].map(|path| path.to_str().unwrap());
    let args = ["pack", "-q", "--vm", vm, "--disk", root, "--disk", data, "s3://bucket/vm.ova"];
    let child = vmferry(args)
        .args(["--store-endpoint", &format!("http://{address}"), "--store-allow-http"])
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("HOME", "/nonexistent")
        .env("XDG_STATE_HOME", directory.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let most = watch(child);
    let written = store.lock().unwrap().objects["/bucket/vm.ova"];
    // Regions may have fallen onto each other.
    assert!(written > data_len() / 10 * 9, "{written} bytes");
    println!("{} MiB resident, {} MiB written", most >> 20, written >> 20);
    assert!(most <= BOUND, "{} MiB resident, {} allowed", most >> 20, BOUND >> 20);
}
