//! Where disks, inputs and outputs are, and how the inputs come to be.

use std::{
    env,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use rustix::fs::SeekFrom;
use vmferry::formats::testkit::Rng;

use crate::{
    Result,
    cluster::Cluster,
    measure::Step,
    rows::{Binary, Row},
    store::Store,
};

/// The paths of a session.
#[derive(Debug)]
pub(crate) struct Places {
    /// Holds `os.raw` and `sparse.raw`.
    pub(crate) corpus: PathBuf,
    /// Holds inputs that are made once, and the outputs.
    pub(crate) work: PathBuf,
    /// A vmferry that was built without ISA-L.
    pub(crate) portable: Option<PathBuf>,
    /// What exports come from, if a row has one.
    pub(crate) cluster: Option<Cluster>,
    /// What objects are uploaded to, if a row has some.
    pub(crate) store: Option<Store>,
}

impl Places {
    /// The corpus in `corpus`, or one that the test material makes under `work`.
    pub(crate) fn new(corpus: Option<PathBuf>, work: PathBuf, portable: Option<PathBuf>) -> Result<Self> {
        fs::create_dir_all(&work)?;
        let corpus = match (corpus, env::var_os("VMFERRY_TEST_MATERIAL")) {
            (Some(corpus), _) => corpus,
            (None, Some(material)) => {
                let corpus = work.join("corpus");
                let mut make = Command::new(Path::new(&material).join("corpus/make-corpus"));
                let status = make.args(["--only", "os,sparse,tail,zeros"]).arg(&corpus).status()?;
                if !status.success() {
                    return Err(format!("make-corpus: {status}").into());
                }
                corpus
            }
            (None, None) => {
                return Err(
                    "no disks: name a directory with os.raw and sparse.raw by --corpus, or the test \
                            material by VMFERRY_TEST_MATERIAL"
                        .into(),
                );
            }
        };
        Ok(Self { corpus, work, portable, cluster: None, store: None })
    }

    /// What is missing for `row`, if anything.
    pub(crate) fn lacks(&self, row: &Row) -> Option<String> {
        if row.binary == Binary::Portable && self.portable.is_none() {
            return Some("--portable-bin is not given".into());
        }
        row.peer
            .iter()
            .map(|command| program(command))
            .find(|name| !is_installed(name))
            .map(|name| format!("{name} is not installed"))
            .or_else(|| {
                let uploads = row.peer.iter().any(|command| command.starts_with(UPLOAD));
                (uploads && !has_boto3()).then(|| "the Python of VMFERRY_PYTHON has no boto3".into())
            })
    }

    /// vmferry's command of a row, with its outputs in `place`.
    pub(crate) fn ours(&self, row: &Row, place: &Path) -> Step {
        let program = match (&self.portable, row.binary) {
            (Some(portable), Binary::Portable) => portable.clone(),
            _ => PathBuf::from(env!("CARGO_BIN_EXE_vmferry")),
        };
        let args = row.ours.split(' ').map(|word| self.expand(word, place));
        Step { program, args: args.chain(["-q".to_owned()]).collect(), stdout: None }
    }

    /// A command of the peer, with its outputs in `place`.
    pub(crate) fn step(&self, command: &str, place: &Path) -> Step {
        let mut words = command.split(' ').map(|word| self.expand(word, place));
        let mut step = Step { program: program(command).into(), args: Vec::new(), stdout: None };
        match words.next().as_deref() {
            Some(QEMU) => step.args.extend(QEMU_ARGS.map(str::to_owned)),
            Some(VMFERRY) => step.args.push("-q".into()),
            Some(UPLOAD) => step.args.push(UPLOADER.into()),
            Some(CURL) => step.args.extend(CURL_ARGS.map(|word| self.expand(word, place))),
            _ => {}
        }
        while let Some(word) = words.next() {
            if word == ">" {
                step.stdout = words.next().map(PathBuf::from);
            } else {
                step.args.push(word);
            }
        }
        step
    }

    /// The output of a row, if it has one.
    pub(crate) fn output(&self, row: &Row, place: &Path) -> Option<PathBuf> {
        if let Some(store) = &self.store
            && let Some(object) = row.ours.split(' ').find_map(|word| word.strip_prefix("{object}"))
        {
            return Some(store.file(object));
        }
        self.file(row.ours, place)
    }

    /// The file that a command writes, if there is one.
    pub(crate) fn file(&self, command: &str, place: &Path) -> Option<PathBuf> {
        let word = command.split(' ').rfind(|word| word.starts_with("{out}"))?;
        Some(self.expand(word, place).into())
    }

    pub(crate) fn expand(&self, word: &str, place: &Path) -> String {
        let Some((name, rest)) = word.strip_prefix('{').and_then(|word| word.split_once('}')) else {
            return word.to_owned();
        };
        if let Some(text) = self.cluster.as_ref().and_then(|cluster| cluster.word(name)) {
            return text + rest;
        }
        if let Some(text) = self.store.as_ref().and_then(|store| store.word(name)) {
            return text + rest;
        }
        let path = if name == "out" { place.join("disk") } else { self.input(name) };
        path.display().to_string() + rest
    }

    /// A text in which only what matters is left of paths.
    pub(crate) fn without_paths(&self, text: &str) -> String {
        let mut text = text.replace(env!("CARGO_BIN_EXE_vmferry"), "vmferry");
        if let Some(cluster) = &self.cluster {
            text = cluster.without_places(&text);
        }
        if let Some(store) = &self.store {
            text = store.without_places(&text).replace(UPLOADER, "upload.py");
        }
        if let Some(portable) = &self.portable {
            text = text.replace(&portable.display().to_string(), "vmferry-portable");
        }
        text.replace(&self.corpus.display().to_string(), "$CORPUS")
            .replace(&self.work.display().to_string(), "$WORK")
    }

    /// Makes the inputs of `rows` that are not there.
    pub(crate) fn prepare(&self, rows: &[Row]) -> Result<()> {
        let is_taken = |name: &&str| {
            // The cluster serves the disk as it is and compressed.
            rows.iter().any(|row| row.takes(name) || row.takes("kubeconfig") && *name == "gz")
        };
        for name in INPUTS.into_iter().filter(is_taken) {
            let path = self.input(name);
            if !path.exists() {
                eprintln!("making {}", self.without_paths(&path.display().to_string()));
                let unfinished = path.with_extension("unfinished");
                self.make(name, &unfinished)?;
                fs::rename(&unfinished, &path)?;
            }
        }
        Ok(())
    }

    /// Brings the inputs of a row into the page cache: a system may have thrown them out in between.
    pub(crate) fn warm(&self, row: &Row) -> Result<()> {
        let is_read = |name: &&str| {
            row.takes(name) || *name == "os" && row.takes("raw-url") || *name == "gz" && row.takes("gzip-url")
        };
        INPUTS.into_iter().filter(is_read).try_for_each(|name| warm(&self.input(name)))
    }

    pub(crate) fn input(&self, name: &str) -> PathBuf {
        match name {
            "os" | "sparse" | "tail" | "zeros" => self.corpus.join(format!("{name}.raw")),
            "vm" => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/appliance/db.yaml"),
            "deflate" => self.work.join("os.deflate.qcow2"),
            "zstd" => self.work.join("os.zstd.qcow2"),
            "vmdk" => self.work.join("os.stream.vmdk"),
            "gz" => self.work.join("os.raw.gz"),
            other => self.work.join(format!("{other}.raw")),
        }
    }

    fn make(&self, name: &str, path: &Path) -> Result<()> {
        let command = match name {
            "deflate" => "QEMU -c -f raw -O qcow2 {os}",
            "zstd" => "QEMU -c -f raw -O qcow2 -o compression_type=zstd {os}",
            "vmdk" => "QEMU -f raw -O vmdk -o subformat=streamOptimized {os}",
            "gz" if is_installed("igzip") => "igzip -1 -c {os} >",
            "gz" => "gzip -1 -c {os} >",
            "huge" => return make_huge(path),
            other => return Err(format!("{} is not there", self.input(other).display()).into()),
        };
        let mut step = self.step(command, path);
        if command.ends_with('>') {
            step.stdout = Some(path.to_owned());
        } else {
            step.args.push(path.display().to_string());
        }
        step.run().map(drop)
    }
}

/// A disk of 16 TiB: data in 2,048 random places, and half a GiB of it at once in the middle.
fn make_huge(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    let mut size = 16 << 40;
    if file.set_len(size).is_err_and(|error| error.kind() == ErrorKind::FileTooLarge) {
        // The largest file of ext4.
        size -= 4096;
        file.set_len(size)?;
    }
    let (mut rng, mut piece) = (Rng::new(16), vec![0; 64 << 10]);
    for _ in 0..2048 {
        rng.fill(&mut piece);
        file.write_all_at(&piece, rng.below((size - piece.len() as u64) / 4096) * 4096)?;
    }
    for index in 0..(512 << 20) / piece.len() as u64 {
        rng.fill(&mut piece[..4096]);
        file.write_all_at(&piece, size / 8192 * 4096 + index * piece.len() as u64)?;
    }
    file.sync_data()?;
    Ok(())
}

/// Reads what is not a hole.
fn warm(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (size, mut buffer, mut at) = (file.metadata()?.len(), vec![0; 1 << 20], 0);
    while at < size {
        // No data behind `at` is an error too, and then nothing is left to do.
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { return Ok(()) };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            at += file.read_at(&mut buffer, at)?.max(1) as u64;
        }
    }
    Ok(())
}

fn program(command: &str) -> &str {
    match command.split(' ').next() {
        Some(CURL) => "curl",
        Some(VMFERRY) => env!("CARGO_BIN_EXE_vmferry"),
        Some(UPLOAD) => python(),
        Some(QEMU) | None => "qemu-img",
        Some(name) => name,
    }
}

/// That of `VMFERRY_PYTHON`, or `python3`.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| env::var("VMFERRY_PYTHON").unwrap_or_else(|_| "python3".into()))
}

fn has_boto3() -> bool {
    let mut command = Command::new(python());
    command.args(["-c", "import boto3"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_absolute()
        || env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

const INPUTS: [&str; 9] = ["os", "sparse", "tail", "zeros", "deflate", "zstd", "vmdk", "gz", "huge"];
const QEMU: &str = "QEMU";
/// As fast as qemu-img gets: 16 requests in flight, written in any order.
const QEMU_ARGS: [&str; 4] = ["convert", "-m", "16", "-W"];
const UPLOAD: &str = "UPLOAD";
const UPLOADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/upload.py");
const VMFERRY: &str = "VMFERRY";
const CURL: &str = "CURL";
/// The token stands in a file, as it should.
const CURL_ARGS: [&str; 7] = ["-q", "-sS", "--fail", "--cacert", "{ca}", "-H", "{token-header}"];
