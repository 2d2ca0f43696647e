//! `vmferry demo`: an export from a simulated cluster, for those who have none at hand.
//!
//! The cluster is the KubeVirt simulator, in this process. Everything else is what `vmferry export`
//! does: the API over TLS, the export's life, the transfer, the conversion.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, ValueHint};
use serde::Serialize;
use vmferry::{
    ConversionOptions, Error, Export, ExportOf, ExportOptions, ExportTarget, ResumePolicy,
    formats::{
        chunk::{CHUNK_LEN, LEAF_LEN},
        digest::{Algorithm, ChunkHasher, Digest, TreeHasher},
    },
    kubevirt::{Cluster, ClusterOptions},
};
use vmferry_sim::{Config, Disk, Simulator, Vm};

use super::{
    Failure, export,
    output::{Output, Report, field},
    units::{Bytes, Elapsed, seconds},
};

const AFTER_HELP: &str = "\
The cluster is a simulator that runs inside this command and ends with it; nothing leaves this
machine. What is done with it is a real export: the same command against your cluster is
'vmferry export NAMESPACE/VM --output DIR'.";

/// Export a VM from a simulated cluster and prove the result; needs no cluster
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DemoArgs {
    /// Keep the images in this directory [default: a temporary one, removed in the end]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: Option<PathBuf>,
}

pub(super) async fn run(args: &DemoArgs, output: &Output) -> Result<(), Failure> {
    let started = Instant::now();
    let scratch = Scratch::make()?;
    let disks = [("root", Disk::pattern(ROOT_LEN, 1)), ("data", Disk::pattern(DATA_LEN, 2))];
    let simulator = start(&disks).await?;
    output.note(&format!("a simulated KubeVirt cluster runs in this process, with VM {NAMESPACE}/{NAME}"));

    let options = ClusterOptions {
        kubeconfig: Some(scratch.private_file("kubeconfig", &simulator.kubeconfig())?),
        namespace: Some(NAMESPACE.to_owned()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::connect(&options).await?;
    let directory = args.output.clone().unwrap_or_else(|| scratch.0.join("images"));
    // What an earlier demonstration left is of a cluster that is gone.
    let resume = ResumePolicy::Restart;
    let conversion = ConversionOptions { verify: true, resume, ..ConversionOptions::default() };
    let builder =
        Export::builder(cluster, ExportOf::Vm(NAME.to_owned()), ExportTarget::Directory(directory.clone()))
            .options(ExportOptions { conversion, ..ExportOptions::default() });
    let report = export::carry_out(builder, output).await.map_err(cluster_is_gone)?;

    let mut volumes = Vec::new();
    for (name, disk) in disks {
        let found = report.volumes.iter().find(|volume| volume.volume == name);
        let volume = found.ok_or_else(|| Error::failed(format!("volume {name} was not exported")))?;
        let digest = digest_of(disk).await?.to_string();
        if volume.digest.as_ref() != Some(&digest) {
            return Err(Error::failed(format!("the image of {name} does not hold the simulated disk")).into());
        }
        volumes.push(Proof {
            volume: name,
            file: directory.join(NAME).join(&volume.file).display().to_string(),
            virtual_size: volume.virtual_size,
            image_size: volume.output_size,
            digest,
            equals_source: true,
        });
    }
    let elapsed = started.elapsed();
    let report = Demo {
        cluster: "simulated",
        vm: format!("{NAMESPACE}/{NAME}"),
        volumes,
        left_out: report.left_out.iter().map(|left| format!("{}: {}", left.name, left.reason)).collect(),
        kept: args.output.is_some(),
        elapsed_seconds: seconds(elapsed),
        elapsed,
    };
    Ok(output.report(&report)?)
}

/// A failure of an export says how to go on with it, or how to clean up: here there is nothing to go on
/// with, and nothing to clean up.
fn cluster_is_gone(failure: Failure) -> Failure {
    let hint = "the simulated cluster has ended with this command: give it again, it begins anew";
    Failure { error: failure.error.with_hint(hint), ..failure }
}

async fn start(disks: &[(&str, Disk)]) -> Result<Simulator, Error> {
    let failed = |error| Error::failed("the simulator cannot start").with_source(error);
    let simulator = Simulator::start(Config::default()).await.map_err(failed)?;
    let vm = disks.iter().fold(Vm::new(NAMESPACE, NAME), |vm, (name, disk)| vm.disk(name, disk.clone()));
    simulator.add_vm(vm.container_disk("drivers").cloud_init("seed", "#cloud-config\nhostname: web\n"));
    Ok(simulator)
}

/// The digest of what the simulator holds, taken without the export.
async fn digest_of(disk: Disk) -> Result<Digest, Error> {
    let read = tokio::task::spawn_blocking(move || -> io::Result<Digest> {
        let (hasher, len) = (ChunkHasher::new(Algorithm::Sha256), disk.len_bytes());
        let mut tree = TreeHasher::new(Algorithm::Sha256, Some(len));
        let mut at = 0;
        while at < len {
            let mut chunk = vec![0; usize::try_from(CHUNK_LEN.min(len - at)).unwrap_or(usize::MAX)];
            disk.read(at, &mut chunk)?;
            let leaves: Vec<&[u8]> = chunk.chunks(LEAF_LEN).collect();
            tree.push(hasher.chunk(hasher.leaves(&leaves)), 1);
            at += CHUNK_LEN;
        }
        Ok(tree.finish(len))
    });
    let failed = |error| Error::failed("cannot read the simulated disk").with_source(error);
    match read.await {
        Ok(digest) => digest.map_err(failed),
        Err(error) => Err(Error::failed("reading the simulated disk panicked").with_source(error)),
    }
}

/// A directory that is removed with the command.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self, Error> {
        let path = std::env::temp_dir().join(format!("vmferry-demo-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| failed_at("make", &path, error))?;
        Ok(Self(path))
    }

    fn private_file(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| failed_at("write", &path, error))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "cannot remove the directory of the demonstration");
        }
    }
}

fn failed_at(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::failed(format!("cannot {operation} {}", path.display())).with_source(error)
}

/// What was shown.
#[derive(Serialize)]
struct Demo {
    cluster: &'static str,
    vm: String,
    volumes: Vec<Proof>,
    left_out: Vec<String>,
    kept: bool,
    elapsed_seconds: f64,
    #[serde(skip)]
    elapsed: Duration,
}

#[derive(Serialize)]
struct Proof {
    volume: &'static str,
    file: String,
    virtual_size: u64,
    image_size: u64,
    digest: String,
    equals_source: bool,
}

impl Report for Demo {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Exported", format_args!("{} from a simulated cluster", self.vm))?;
        for proof in &self.volumes {
            let (size, image) = (Bytes(proof.virtual_size), Bytes(proof.image_size));
            field(out, "Volume", format_args!("{}, {size}, as {} ({image})", proof.volume, proof.file))?;
            field(out, "  Digest", format_args!("tree-sha256:{}", proof.digest))?;
            field(out, "  Proof", "the image was read back, and the simulated disk has the same digest")?;
        }
        for left in &self.left_out {
            field(out, "Left out", left)?;
        }
        field(out, "Took", Elapsed(self.elapsed))?;
        let images = if self.kept { "kept" } else { "removed now; --output DIR keeps them" };
        field(out, "Images", images)?;
        field(out, "Next", "vmferry export NAMESPACE/VM --output DIR --dry-run, with your own cluster")
    }
}

const NAMESPACE: &str = "demo";

const NAME: &str = "web";

const ROOT_LEN: u64 = 512 << 20;

/// Not a whole number of chunks.
const DATA_LEN: u64 = (96 << 20) + 4096;
