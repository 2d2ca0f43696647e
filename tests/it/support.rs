//! What the tests share: the binary, disks, tools, and how to skip.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use vmferry_formats::testkit;

/// A directory that is removed with the test.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("vmferry-it-").tempdir().expect("a temporary directory")
}

/// The binary under test, quiet and without the user's environment.
pub(crate) fn vmferry(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmferry"));
    command.args(args).stdin(Stdio::null());
    without_settings(&mut command);
    command
}

/// The same for any command: nothing that the user has set counts.
pub(crate) fn without_settings(command: &mut Command) {
    let set = std::env::vars_os().map(|(name, _)| name);
    for name in set.filter(|name| name.as_encoded_bytes().starts_with(b"VMFERRY_")) {
        command.env_remove(name);
    }
    command.env_remove("DOWNLOAD_WORKERS").env("XDG_CONFIG_HOME", "/nonexistent");
}

/// What a finished command said.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    /// The JSON object on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.stdout)))
    }

    /// Demands an exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stderr: {}", self.stderr);
        self
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the binary to its end.
#[track_caller]
pub(crate) fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Finished {
    vmferry(args).output().expect("the binary runs").into()
}

/// Runs a tool that must succeed; gives its standard output.
#[track_caller]
pub(crate) fn tool(program: &str, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let mut command = Command::new(program);
    command.args(args);
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Whether `program` can be run; if not, the test is skipped, or fails under `VMFERRY_STRICT=1`.
#[track_caller]
pub(crate) fn have(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        missing(&format!("the program {program}"));
    }
    found
}

/// The directory of the test material; without it the test is skipped, or fails under
/// `VMFERRY_STRICT=1`.
#[track_caller]
pub(crate) fn material() -> Option<PathBuf> {
    let path = std::env::var_os("VMFERRY_TEST_MATERIAL").map(PathBuf::from);
    if path.is_none() {
        missing("the test material (VMFERRY_TEST_MATERIAL is not set)");
    }
    path
}

#[track_caller]
pub(crate) fn missing(what: &str) {
    let place = std::panic::Location::caller();
    assert!(!is_strict(), "{place}: {what} is not there");
    eprintln!("SKIPPED at {place}: {what} is not there; set VMFERRY_STRICT=1 to make this a failure");
}

fn is_strict() -> bool {
    std::env::var_os("VMFERRY_STRICT").is_some_and(|value| value == "1")
}

/// The small corpus of the test material, made once; or the disks that are in `VMFERRY_TEST_CORPUS`.
pub(crate) fn corpus() -> Option<Vec<PathBuf>> {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let given = std::env::var_os("VMFERRY_TEST_CORPUS").map(PathBuf::from);
    let material = if given.is_some() { PathBuf::new() } else { material()? };
    let directory = MADE.get_or_init(|| {
        if let Some(directory) = given {
            return directory;
        }
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("corpus-small");
        fs::create_dir_all(&directory).expect("a directory for the corpus");
        tool(
            &material.join("corpus/make-corpus").to_string_lossy(),
            [OsStr::new("--small"), directory.as_os_str()],
        );
        directory
    });
    let mut disks: Vec<PathBuf> = fs::read_dir(directory)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension() == Some(OsStr::new("raw")))
        .collect();
    disks.sort();
    assert!(disks.len() >= 8, "a corpus of {} disks", disks.len());
    Some(disks)
}

/// A seeded disk written to `path`, sparse where it is zero.
pub(crate) fn make_disk(path: &Path, seed: u64, len: usize) -> Vec<u8> {
    let disk = testkit::disk(seed, len);
    write_sparse(path, &disk);
    disk
}

/// Writes `disk` to `path` with holes where it is zero.
pub(crate) fn write_sparse(path: &Path, disk: &[u8]) {
    let file = File::create(path).expect("a disk");
    file.set_len(disk.len() as u64).expect("its length");
    for (index, block) in disk.chunks(4096).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, index as u64 * 4096).expect("a block");
        }
    }
}

/// One way to write an image: what to ask for and what qemu-img calls it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) extension: &'static str,
    pub(crate) args: &'static [&'static str],
}

/// Every kind of image that is written.
pub(crate) const KINDS: [Kind; 6] = [
    Kind { name: "raw", extension: "raw", args: &[] },
    Kind { name: "qcow2", extension: "qcow2", args: &[] },
    Kind { name: "qcow2-deflate", extension: "qcow2", args: &["--compression", "deflate"] },
    Kind { name: "qcow2-zstd", extension: "qcow2", args: &["--compression", "zstd"] },
    Kind { name: "vmdk-stream", extension: "vmdk", args: &["--subformat", "streamOptimized"] },
    Kind { name: "vmdk-sparse", extension: "vmdk", args: &["--subformat", "monolithicSparse"] },
];

impl Kind {
    /// The arguments that convert `source` into `output`.
    pub(crate) fn convert(&self, source: &Path, output: &Path) -> Vec<String> {
        let mut args = vec!["convert".to_owned(), "-q".into(), "-o".into(), "json".into()];
        args.extend(self.args.iter().map(|&arg| arg.to_owned()));
        args.extend([source, output].map(|path| path.to_str().expect("UTF-8").to_owned()));
        args
    }

    /// The format's name, for qemu-img and for vmferry.
    pub(crate) fn format(&self) -> &'static str {
        self.extension
    }
}

/// The whole of a file.
#[track_caller]
pub(crate) fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
    bytes
}

/// Files in a directory, by name.
pub(crate) fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits until `condition` holds; panics after a minute.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    let (never, wait) = std::sync::mpsc::channel::<()>();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain: {what}");
        let _ = wait.recv_timeout(Duration::from_millis(2));
    }
    drop(never);
}

/// Whether the test may mount and attach; if not, it is skipped, strict or not: a machine may
/// forbid that.
#[track_caller]
pub(crate) fn have_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        unprivileged("root");
    }
    is_root
}

/// Says that a test is skipped for want of a privilege.
#[track_caller]
pub(crate) fn unprivileged(what: &str) {
    eprintln!("SKIPPED at {}: this machine does not allow {what}", std::panic::Location::caller());
}
