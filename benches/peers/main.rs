//! vmferry beside what people use today, on the same disks in one run: see `benches/README.md`.
//!
//! Both sides take turns, and so does who begins. Both are durable: vmferry syncs before it renames,
//! the others are followed by `sync -d`. The same again with the outputs in memory, where a sync is
//! nothing, shows what is left when no disk is waited for.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a program for developers that prints its result; no byte count here needs 53 bits"
)]

mod cluster;
mod measure;
mod places;
mod race;
mod report;
mod rows;
mod store;

use std::{env, error::Error, fs, path::PathBuf};

use clap::Parser;

use crate::{
    cluster::Cluster,
    measure::Usage,
    places::Places,
    race::{Race, race},
    report::{Outcome, load},
    rows::{Group, ROWS, Row},
    store::Store,
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Race vmferry against qemu-img, openssl, igzip and others
#[derive(Parser, Debug)]
struct Args {
    /// Directory with os.raw and sparse.raw [default: made by the test material, under --work]
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,

    /// Where inputs and outputs go, on the disk to be measured; some 12 GB [default: a directory in
    /// the system's temporary one]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,

    /// Runs of each side
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,

    /// Runs of each side with the outputs in memory; 0 leaves them out
    #[arg(long, value_name = "N", default_value_t = 3)]
    memory_rounds: usize,

    /// Where outputs in memory go
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    memory_dir: PathBuf,

    /// Only these rows, separated by commas; all = those without a goal of their own too
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    rows: Vec<String>,

    /// Write all samples, commands and versions
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// A vmferry built without ISA-L, for the rows that end in -portable
    #[arg(long, value_name = "FILE")]
    portable_bin: Option<PathBuf>,

    /// Show the rows and what they run
    #[arg(long)]
    list: bool,

    /// Be the object store of other rows, with its objects in this directory
    #[arg(long, value_name = "DIR", hide = true)]
    serve_store: Option<PathBuf>,

    /// Said by cargo bench
    #[arg(long, hide = true)]
    bench: bool,

    /// Said when nothing is to be measured
    #[arg(long, hide = true)]
    test: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(directory) = &args.serve_store {
        return store::serve(directory);
    }
    if args.list {
        for row in ROWS {
            println!("{}\n    vmferry {}", row.name, row.ours);
            row.peer.iter().for_each(|command| println!("    {command}"));
        }
        return Ok(());
    }
    if args.test
        || args.corpus.is_none() && env::var_os("VMFERRY_TEST_MATERIAL").is_none() && args.rows.is_empty()
    {
        // `cargo bench` without arguments runs all benches.
        println!("peers: nothing to convert; see benches/README.md");
        return Ok(());
    }
    let work = args.work.clone().unwrap_or_else(|| env::temp_dir().join("vmferry-peers"));
    let mut places = Places::new(args.corpus.clone(), work, args.portable_bin.clone())?;
    let rows = chosen(&args, &places)?;
    places.prepare(&rows)?;
    if rows.iter().any(|row| row.takes("kubeconfig")) {
        places.cluster = Some(Cluster::start(&places)?);
    }
    if rows.iter().any(|row| row.takes("store")) {
        places.store = Some(Store::start(&places.work)?);
    }
    let session = report::session(&places, args.rounds, args.memory_rounds);
    eprintln!("load before: {}", load());
    let mut outcomes = Vec::new();
    for row in rows {
        outcomes.push(run(&args, &places, row)?);
        if let Some(file) = &args.json {
            report::write_json(file, &session, &outcomes)?;
        }
    }
    println!("{}", report::markdown(&outcomes));
    Ok(())
}

fn chosen(args: &Args, places: &Places) -> Result<Vec<Row>> {
    let is_all = args.rows.iter().any(|name| name == "all");
    for name in args.rows.iter().filter(|name| *name != "all") {
        if !ROWS.iter().any(|row| row.name == name) {
            return Err(format!("there is no row {name}; --list shows them").into());
        }
    }
    let mut rows = Vec::new();
    for row in ROWS {
        let is_named = args.rows.iter().any(|name| name == row.name);
        if !is_named && !is_all && (!args.rows.is_empty() || row.group == Group::Extra) {
            continue;
        }
        match places.lacks(&row) {
            Some(reason) => eprintln!("{}: left out, {reason}", row.name),
            None => rows.push(row),
        }
    }
    Ok(rows)
}

fn run(args: &Args, places: &Places, row: Row) -> Result<Outcome> {
    // A row without a peer is about memory, which does not change from run to run.
    let rounds = if row.peer.is_empty() { 1 } else { args.rounds.max(1) };
    let place = places.work.join("out");
    let durable = race(places, &row, &place, rounds, true)?;
    fs::remove_dir_all(&place)?;
    tell(&row, "durable", &durable);
    let room = durable.ours.room.max(durable.peer.room);
    let mut memory = None;
    if args.memory_rounds > 0 && !row.peer.is_empty() && room > 0 {
        if has_room(args, room)? {
            let place = args.memory_dir.join(format!("vmferry-peers-{}", std::process::id()));
            let result = race(places, &row, &place, args.memory_rounds, false);
            fs::remove_dir_all(&place)?;
            let result = result?;
            tell(&row, "in memory", &result);
            memory = Some(result);
        } else {
            eprintln!("{}: outputs of {} MB do not fit into memory", row.name, room / 1_000_000);
        }
    }
    Ok(Outcome { row, durable, memory })
}

/// Whether `bytes` of outputs fit into memory with some of it left.
fn has_room(args: &Args, bytes: u64) -> Result<bool> {
    let statistics = rustix::fs::statvfs(&args.memory_dir)?;
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let free = (statistics.f_bavail * statistics.f_frsize).min(kib << 10);
    Ok(bytes + (2 << 30) <= free)
}

fn tell(row: &Row, how: &str, race: &Race) {
    let wall = |total: &Usage| total.wall;
    let elsewhere = race.ours.median(|total| total.elsewhere);
    eprintln!(
        "{} {how}: {:.2} s, peer {:.2} s, ratio {:.3}; {elsewhere:.2} CPU s elsewhere, load {}",
        row.name,
        race.ours.median(wall),
        race.peer.median(wall),
        race.ratio(),
        load()
    );
}
