//! Object stores to test against: two implementations of S3 by others (`s3s-fs` in this process, moto
//! of PyPI), Azurite, and a fake of the part of Google's XML API that is used.
//!
//! A server is started once and lives as long as this process; each test has a bucket of its own.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use super::fake_gcs;
use crate::support::{self, Finished, missing, wait_for};

/// The key id that the S3 servers know.
pub(crate) const KEY_ID: &str = "AKVMFERRYTEST";

/// The key that belongs to it.
pub(crate) const SECRET: &str = "s3cret-of-the-tests";

/// Azurite's well-known account.
const ACCOUNT: &str = "devstoreaccount1";

/// The well-known key of that account.
const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// npm: azurite.
    Azurite,
    /// Written here; see [`fake_gcs`].
    FakeGcs,
    /// PyPI: moto.
    Moto,
    /// crates.io: s3s-fs. It checks signatures.
    S3s,
}

impl Server {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::S3s, Self::Moto, Self::Azurite, Self::FakeGcs];

    /// Those that speak S3.
    pub(crate) const S3: [Self; 2] = [Self::S3s, Self::Moto];

    fn scheme(self) -> &'static str {
        match self {
            Self::Azurite => "az",
            Self::FakeGcs => "gs",
            Self::Moto | Self::S3s => "s3",
        }
    }

    /// Where it listens; `None` if it cannot be had here.
    fn address(self) -> Option<&'static str> {
        static RUNNING: [OnceLock<Option<String>>; 4] = [const { OnceLock::new() }; 4];
        let start = || match self {
            Self::Azurite => start_azurite(),
            Self::FakeGcs => Some(fake_gcs::start()),
            Self::Moto => start_moto(),
            Self::S3s => Some(start_s3s()),
        };
        let index = match self {
            Self::Azurite => 0,
            Self::FakeGcs => 1,
            Self::Moto => 2,
            Self::S3s => 3,
        };
        RUNNING[index].get_or_init(start).as_deref()
    }
}

/// A bucket on a server.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) server: Server,
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) name: String,
    /// What to connect to instead: a proxy.
    through: Option<String>,
}

impl Bucket {
    /// A new bucket; `None` if the server cannot be had here: the test is skipped, or fails under
    /// `VMFERRY_STRICT=1`.
    #[track_caller]
    pub(crate) fn new(server: Server) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        python()?;
        let Some(address) = server.address() else {
            missing(&format!("the object store {server:?} (scripts/install-deps.sh installs it)"));
            return None;
        };
        let name = format!("bucket-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let bucket = Self { server, address: address.to_owned(), name, through: None };
        bucket.client(["bucket"]);
        Some(bucket)
    }

    /// The same bucket through a proxy at `host:port`.
    pub(crate) fn through(&self, proxy: &str) -> Self {
        Self { through: Some(proxy.to_owned()), ..self.clone() }
    }

    /// The URL of an object.
    pub(crate) fn url(&self, key: &str) -> String {
        format!("{}://{}/{key}", self.server.scheme(), self.name)
    }

    /// The URL of the store, for vmferry.
    pub(crate) fn endpoint(&self) -> String {
        let address = self.through.as_ref().unwrap_or(&self.address);
        match self.server {
            Server::Azurite => format!("http://{address}/{ACCOUNT}"),
            _ => format!("http://{address}"),
        }
    }

    /// vmferry with what it needs to get into this bucket: options and environment.
    pub(crate) fn vmferry(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = support::vmferry(args);
        command.args(["--store-endpoint", &self.endpoint(), "--store-allow-http"]);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("HOME", "/nonexistent");
        match self.server {
            Server::Azurite => command
                .env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
                .env("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY),
            Server::FakeGcs => command.env("GOOGLE_APPLICATION_CREDENTIALS", fake_gcs::service_account()),
            Server::Moto | Server::S3s => {
                command.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET)
            }
        };
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
        self.vmferry(args).output().expect("the binary runs").into()
    }

    /// Puts a file into the bucket, by an independent client.
    #[track_caller]
    pub(crate) fn put(&self, key: &str, file: &Path) {
        self.client(["put", key, file.to_str().unwrap()]);
    }

    /// Puts bytes into the bucket.
    #[track_caller]
    pub(crate) fn put_bytes(&self, key: &str, bytes: &[u8]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        self.put(key, file.path());
    }

    /// Fetches an object, by an independent client.
    #[track_caller]
    pub(crate) fn get(&self, key: &str, file: &Path) {
        self.client(["get", key, file.to_str().unwrap()]);
    }

    /// `size`, `metadata` and `etag` of an object; null if there is none.
    #[track_caller]
    pub(crate) fn head(&self, key: &str) -> serde_json::Value {
        self.client(["head", key])
    }

    /// Keys, sorted.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<String> {
        serde_json::from_value(self.client(["list"])).unwrap()
    }

    /// Parts that the store holds of an upload; `None` if there is no such upload.
    #[track_caller]
    pub(crate) fn parts(&self, key: &str, upload: &str) -> Option<u64> {
        self.client(["parts", key, upload]).as_u64()
    }

    /// Ids of the uploads of a key that are neither completed nor given up.
    #[track_caller]
    pub(crate) fn uploads(&self, key: &str) -> Vec<String> {
        serde_json::from_value(self.client(["uploads", key])).unwrap()
    }

    /// Asks the independent client, past any proxy.
    #[track_caller]
    pub(crate) fn client<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> serde_json::Value {
        let direct = Self { through: None, ..self.clone() };
        let mut request = [self.server.scheme(), &direct.endpoint(), &self.name].map(str::to_owned).to_vec();
        request.extend(args.into_iter().map(str::to_owned));
        let mut answer = ask_client(&request);
        assert!(answer.get("error").is_none(), "{}", answer["error"]);
        answer["ok"].take()
    }
}

/// Asks the one client of this process, which takes its time to start. It ends with its input.
fn ask_client(request: &[String]) -> serde_json::Value {
    static CLIENT: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>> = Mutex::new(None);
    let mut client = CLIENT.lock().unwrap_or_else(PoisonError::into_inner);
    let (input, output) = client.get_or_insert_with(|| {
        let mut child = Command::new(python().expect("asked for when the bucket was made"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/object/client.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pipes = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        // It ends when this process does, which nobody is left to wait for.
        std::mem::forget(child);
        pipes
    });
    writeln!(input, "{}", serde_json::json!(request)).unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A Python that has the clients: that of `VMFERRY_PYTHON`, or `python3`.
#[track_caller]
fn python() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let python = std::env::var_os("VMFERRY_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
        let script = "import boto3, azure.storage.blob";
        let has = Command::new(&python).args(["-c", script]).stderr(Stdio::null()).status();
        has.is_ok_and(|status| status.success()).then_some(python)
    });
    if found.is_none() {
        missing("a Python with boto3 and azure-storage-blob (VMFERRY_PYTHON)");
    }
    found.as_deref()
}

/// Starts a program that dies with this process, and waits until it listens at `port`.
fn start(port: u16, program: &OsStr, args: &[&str]) -> Option<String> {
    // The shell ends when its input does, which is when this process has gone, however that was.
    let script = "\"$@\" >/dev/null 2>&1 & child=$!; cat >/dev/null; kill $child";
    let shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    // Its input stays open: the handle is never dropped.
    std::mem::forget(shell);
    let address = format!("127.0.0.1:{port}");
    wait_for(&format!("{program:?} at {address}"), || TcpStream::connect(&address).is_ok());
    Some(address)
}

/// A port that nothing listens at, at the moment.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn start_moto() -> Option<String> {
    let python = python()?;
    let has = Command::new(python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        return None;
    }
    let port = free_port();
    start(port, python.as_os_str(), &["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
}

fn start_azurite() -> Option<String> {
    let installed =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("test-npm/node_modules/.bin/azurite-blob");
    let program = if installed.exists() { installed } else { "azurite-blob".into() };
    let has = Command::new(&program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        return None;
    }
    let port = free_port();
    let args =
        ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent", "--blobPort"];
    let port_text = port.to_string();
    start(port, program.as_os_str(), &[&args[..], &[&port_text, "--blobHost", "127.0.0.1"]].concat())
}

/// Serves S3 from a directory, on threads of its own.
fn start_s3s() -> String {
    let root =
        tempfile::Builder::new().prefix("vmferry-s3s-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // It lies below the target directory, and what remains of it is removed by the next run.
    let root = root.keep();
    remove_old(root.parent().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut service = s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
            service.set_auth(s3s::auth::SimpleAuth::from_single(KEY_ID, SECRET));
            let service = service.build();
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            sender.send(listener.local_addr().unwrap().to_string()).unwrap();
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone());
                // A client that goes away is no concern of the server.
                tokio::spawn(async move { drop(connection.await) });
            }
        });
    });
    receiver.recv_timeout(Duration::from_secs(30)).unwrap()
}

/// Removes what earlier processes have left.
fn remove_old(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > Duration::from_secs(4 * 3600)));
        if is_old && entry.file_name().to_string_lossy().starts_with("vmferry-s3s-") {
            let _another_run_may_do_the_same = std::fs::remove_dir_all(entry.path());
        }
    }
}
