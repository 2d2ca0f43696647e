//! Long lists: what `vmferry vm list -A` takes over thousands of VMs, see `benches/README.md`.
//!
//! The cluster is the simulator in a process of its own: this program, started once more.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a program for developers that prints its result; no byte count here needs 53 bits"
)]

use std::{
    env,
    error::Error,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use vmferry_sim::{Config, Disk, Simulator, Vm};
use wait4::Wait4 as _;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Measure lists of many VMs
#[derive(Parser, Debug)]
struct Args {
    /// VMs in the cluster; 0 measures nothing
    #[arg(long, value_name = "N", default_value_t = 0)]
    vms: usize,

    /// Runs of each command
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,

    /// Be the cluster: write the kubeconfig, and end with standard input
    #[arg(long, value_name = "FILE", hide = true)]
    cluster: Option<PathBuf>,

    /// Said by cargo bench
    #[arg(long, hide = true)]
    bench: bool,

    /// Said when nothing is to be measured
    #[arg(long, hide = true)]
    test: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(kubeconfig) = &args.cluster {
        return be_the_cluster(kubeconfig, args.vms);
    }
    if args.test || args.vms == 0 {
        // `cargo bench` without arguments runs all benches.
        println!("lists: nothing to list; see benches/README.md");
        return Ok(());
    }
    let place = tempfile::tempdir()?;
    let kubeconfig = place.path().join("kubeconfig");
    let mut cluster = start(&kubeconfig, args.vms)?;
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprint!("load before: {}", load());
    println!("| {} VMs | first row, s | goal | all, s | CPU, s | peak, MiB | goal |", args.vms);
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for line in COMMANDS {
        let runs =
            (0..args.rounds.max(1)).map(|_| run(line, &kubeconfig, args.vms)).collect::<Result<Vec<_>>>()?;
        let median = |of: fn(&Run) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let peak = runs.iter().map(|run| run.peak).max().unwrap_or_default();
        println!(
            "| `{line}` | {:.2} | {FIRST_ROW_GOAL} | {:.2} | {:.2} | {:.0} | {PEAK_GOAL} |",
            median(|run| run.first),
            median(|run| run.all),
            median(|run| run.cpu),
            peak as f64 / 1_048_576.0
        );
    }
    eprint!("load after: {}", load());
    drop(cluster.stdin.take());
    cluster.wait()?;
    Ok(())
}

/// What a list took.
#[derive(Debug)]
struct Run {
    /// Seconds from the start to the first row.
    first: f64,
    /// Seconds to the end.
    all: f64,
    /// CPU seconds.
    cpu: f64,
    /// Largest resident set in bytes.
    peak: u64,
}

fn run(line: &str, kubeconfig: &Path, vms: usize) -> Result<Run> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmferry"));
    command.args(line.split(' ')).arg("--kubeconfig").arg(kubeconfig).env("VMFERRY_CONFIG", "/dev/null");
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut text = String::new();
    // The titles, and the first row.
    output.read_line(&mut text)?;
    output.read_line(&mut text)?;
    let first = started.elapsed();
    output.read_to_string(&mut text)?;
    let done = child.wait4()?;
    let all = started.elapsed();
    let rows = text.lines().count() - 1;
    if !done.status.success() || rows != vms {
        return Err(format!("{line}: {}, {rows} rows", done.status).into());
    }
    let cpu = (done.rusage.utime + done.rusage.stime).as_secs_f64();
    Ok(Run { first: first.as_secs_f64(), all: all.as_secs_f64(), cpu, peak: done.rusage.maxrss })
}

/// Starts the cluster, and waits until it is there.
fn start(kubeconfig: &Path, vms: usize) -> Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["--vms", &vms.to_string(), "--cluster"]).arg(kubeconfig);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    if line.trim() == READY { Ok(child) } else { Err("the cluster did not start".into()) }
}

/// A third of the VMs has an instancetype, half of them run, and all have a disk, in ten namespaces.
fn be_the_cluster(kubeconfig: &Path, vms: usize) -> Result<()> {
    // The controllers have nothing to do, and would look through all of it all the time.
    let simulator =
        Simulator::start_blocking(Config { delay: Duration::from_secs(3600), ..Config::default() })?;
    for i in 0..vms {
        let vm = Vm::new(&format!("team-{}", i % 10), &format!("vm-{i:04}")).claims();
        let vm = vm.disk("root", Disk::pattern(1 << 30, 1)).running(i % 2 == 0);
        simulator.add_vm(if i % 3 == 0 { vm.instancetype("u1.large") } else { vm });
    }
    fs::write(kubeconfig, simulator.kubeconfig())?;
    println!("{READY}");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What is measured.
const COMMANDS: [&str; 2] = ["vm list -A", "vm list -A -o wide"];

/// Seconds to the first row, at most.
const FIRST_ROW_GOAL: u64 = 1;

/// MiB, at most.
const PEAK_GOAL: u64 = 100;

/// Said by the cluster when it is there.
const READY: &str = "ready";
