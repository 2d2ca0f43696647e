//! The simulator as a program: an example cluster for `kubectl` and for tests from outside.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use vmferry_sim::{Config, Disk, Simulator, Vm};

/// Plays a KubeVirt cluster until it is interrupted.
#[derive(Debug, Parser)]
#[command(name = "vmferry-sim", version)]
struct Options {
    /// Where the API server listens.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write the administrator's kubeconfig to this file, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// The KubeVirt release to play.
    #[arg(long, value_name = "MAJOR.MINOR", default_value = "1.9", value_parser = parse_version)]
    kubevirt_version: (u32, u32),
    /// Put in VM demo/files with each file of this directory as a disk.
    #[arg(long, value_name = "DIR")]
    disk_dir: Option<PathBuf>,
    /// The cluster has no Ingress: exports have no external links.
    #[arg(long)]
    no_external_link: bool,
    /// Seed of names, uids and orders.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn parse_version(text: &str) -> Result<(u32, u32), String> {
    let parts = text.trim_start_matches('v').split_once('.');
    let version = parts.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.ok_or_else(|| "expected a version such as 1.9".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "vmferry-sim: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> io::Result<()> {
    let simulator = Simulator::start(Config {
        listen: options.listen,
        kubevirt_version: options.kubevirt_version,
        external_link: !options.no_external_link,
        seed: options.seed,
        ..Config::default()
    })
    .await?;
    simulator.add_example();
    simulator.add_vm(
        Vm::new("demo", "web")
            .disk("root", Disk::pattern(512 << 20, 11))
            .disk("data", Disk::pattern(128 << 20, 12))
            .container_disk("tools")
            .cloud_init("cloudinit", "#cloud-config\nhostname: web\n"),
    );
    if let Some(directory) = &options.disk_dir {
        simulator.add_vm(vm_of_files(directory)?);
    }
    write_private(&options.kubeconfig, &simulator.kubeconfig())?;
    // Nobody has to read it.
    drop(io::stdout().write_all(summary(&options, &simulator).as_bytes()));
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    Ok(())
}

fn summary(options: &Options, simulator: &Simulator) -> String {
    let (major, minor) = options.kubevirt_version;
    format!(
        "A simulated cluster with KubeVirt {major}.{minor}\n\
         \x20 API server    {}\n\
         \x20 export proxy  https://{}\n\
         \x20 try           kubectl --kubeconfig {} get vm,vmexport -A\n",
        simulator.api_url(),
        simulator.proxy_address(),
        options.kubeconfig.display()
    )
}

/// A stopped VM with a disk a file, in the order of names. `disk.img.gz` beside `disk.img` is what its gzip link
/// sends.
fn vm_of_files(directory: &Path) -> io::Result<Vm> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.retain(|path| {
        path.is_file()
            && !(path.extension().is_some_and(|end| end == "gz") && path.with_extension("").is_file())
    });
    paths.sort();
    let mut vm = Vm::new("demo", "files");
    for path in paths {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
        let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let mut disk = Disk::file(&path)?;
        let compressed = PathBuf::from(format!("{}.gz", path.display()));
        if compressed.is_file() {
            disk = disk.with_gzip(Disk::file(&compressed)?);
        }
        vm = vm.disk(name.trim_matches('-'), disk);
    }
    Ok(vm)
}

/// The token is in there: nobody else reads it, not even for a moment.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}
