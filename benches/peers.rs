//! vmferry beside what people use today, on the same disk in one run: see `benches/README.md`.
//!
//! Both sides take turns, and so does who begins. Both are durable: vmferry syncs before it renames,
//! the others are followed by `sync -d`. The same again with the outputs in memory, without that
//! sync, shows what is left when the disk is not waited for.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers that prints its result"
)]

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

/// One line of the table.
struct Row {
    name: &'static str,
    /// Arguments of vmferry, and a shell command for the peer: `{os}`, `{out}` and so on are paths.
    ours: &'static str,
    peer: &'static str,
    /// Largest ratio of wall times that is wanted.
    goal: f64,
    /// Largest ratio of output sizes that is wanted, if it matters.
    size_goal: Option<f64>,
}

const fn row(name: &'static str, ours: &'static str, peer: &'static str, goal: f64) -> Row {
    Row { name, ours, peer, goal, size_goal: None }
}

const fn sized(name: &'static str, ours: &'static str, peer: &'static str, goal: f64) -> Row {
    Row { name, ours, peer, goal, size_goal: Some(1.06) }
}

/// `Q` stands for `qemu-img convert -m 16 -W`, `S` for the sync of the output.
const ROWS: [Row; 17] = [
    row("raw-raw-none", "convert --digest none {os} {out}.raw", "Q -f raw -O raw {os} {out}.raw S", 0.9),
    row(
        "raw-qcow2-none",
        "convert --digest none {os} {out}.qcow2",
        "Q -f raw -O qcow2 {os} {out}.qcow2 S",
        0.9,
    ),
    row(
        "raw-qcow2-sha256",
        "convert {os} {out}.qcow2",
        "Q -f raw -O qcow2 {os} {out}.qcow2 S && openssl dgst -sha256 {os}",
        0.2,
    ),
    row(
        "sparse-qcow2-sha256",
        "convert {sparse} {out}.qcow2",
        "Q -f raw -O qcow2 {sparse} {out}.qcow2 S",
        1.5,
    ),
    sized(
        "raw-qcow2-deflate",
        "convert --compression deflate {os} {out}.qcow2",
        "Q -c -f raw -O qcow2 {os} {out}.qcow2 S",
        0.1,
    ),
    sized(
        "raw-qcow2-deflate-none",
        "convert --digest none --compression deflate {os} {out}.qcow2",
        "Q -c -f raw -O qcow2 {os} {out}.qcow2 S",
        0.1,
    ),
    row(
        "raw-qcow2-zstd",
        "convert --compression zstd {os} {out}.qcow2",
        "Q -c -f raw -O qcow2 -o compression_type=zstd {os} {out}.qcow2 S",
        0.4,
    ),
    row(
        "raw-qcow2-zstd-none",
        "convert --digest none --compression zstd {os} {out}.qcow2",
        "Q -c -f raw -O qcow2 -o compression_type=zstd {os} {out}.qcow2 S",
        0.4,
    ),
    sized(
        "raw-vmdk",
        "convert {os} {out}.vmdk",
        "Q -f raw -O vmdk -o subformat=streamOptimized {os} {out}.vmdk S",
        0.05,
    ),
    sized(
        "raw-vmdk-none",
        "convert --digest none {os} {out}.vmdk",
        "Q -f raw -O vmdk -o subformat=streamOptimized {os} {out}.vmdk S",
        0.05,
    ),
    row("deflate-raw", "convert {deflate} {out}.raw", "Q -f qcow2 -O raw {deflate} {out}.raw S", 0.35),
    row(
        "deflate-raw-none",
        "convert --digest none {deflate} {out}.raw",
        "Q -f qcow2 -O raw {deflate} {out}.raw S",
        0.35,
    ),
    row("zstd-raw", "convert {zstd} {out}.raw", "Q -f qcow2 -O raw {zstd} {out}.raw S", 0.45),
    row(
        "zstd-raw-none",
        "convert --digest none {zstd} {out}.raw",
        "Q -f qcow2 -O raw {zstd} {out}.raw S",
        0.45,
    ),
    row("vmdk-raw", "convert {vmdk} {out}.raw", "Q -f vmdk -O raw {vmdk} {out}.raw S", 0.2),
    row(
        "gz-qcow2",
        "convert {gz} {out}.qcow2",
        "igzip -dc {gz} > {out}.spool && Q -f raw -O qcow2 {out}.spool {out}.qcow2 S",
        0.35,
    ),
    row("digest", "digest -f raw {os}", "openssl dgst -sha256 {os}", 0.12),
];

/// What one run took.
#[derive(Clone, Copy, Debug)]
struct Sample {
    wall: f64,
    cpu: f64,
    peak_kib: f64,
    size: f64,
}

struct Harness {
    corpus: PathBuf,
    work: PathBuf,
    rounds: usize,
}

fn main() {
    let mut args = env::args().skip(1).filter(|arg| arg != "--bench");
    let (mut corpus, mut work, mut rounds, mut names, mut json_file) =
        (None, env::temp_dir().join("vmferry-peers"), 5, Vec::new(), None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} wants a value"));
        match arg.as_str() {
            "--corpus" => corpus = Some(PathBuf::from(value())),
            "--work" => work = value().into(),
            "--rounds" => rounds = value().parse().expect("a number of rounds"),
            "--rows" => names = value().split(',').map(str::to_owned).collect(),
            "--json" => json_file = Some(value()),
            other => panic!("unknown argument {other}; see benches/README.md"),
        }
    }
    let Some(corpus) = corpus else {
        println!("no disks: name the directory with os.raw and sparse.raw by --corpus DIR");
        return;
    };
    let harness = Harness { corpus, work, rounds };
    harness.prepare();
    let load_before = load();
    let mut results = Vec::new();
    println!(
        "| row | vmferry s | peer s | ratio | goal | | in memory | CPU s | peer | peak MiB | peer | size ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for row in ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)) {
        let (ours, peer) = harness.race(row, &harness.work.join("out"), true);
        let (ours_memory, peer_memory) = harness.race(row, Path::new("/dev/shm/vmferry-peers"), false);
        let ratio = median(&ours, |sample| sample.wall) / median(&peer, |sample| sample.wall);
        let in_memory =
            median(&ours_memory, |sample| sample.wall) / median(&peer_memory, |sample| sample.wall);
        let size = median(&ours, |sample| sample.size) / median(&peer, |sample| sample.size);
        let is_met = ratio <= row.goal && row.size_goal.is_none_or(|goal| size <= goal);
        let mut line = String::new();
        write!(
            line,
            "| {} | {:.2} | {:.2} | {ratio:.3} | {} | {} | {in_memory:.3} | {:.2} | {:.2} | {:.0} | {:.0} | {size:.3} |",
            row.name,
            median(&ours, |sample| sample.wall),
            median(&peer, |sample| sample.wall),
            row.goal,
            if is_met { "met" } else { "missed" },
            median(&ours, |sample| sample.cpu),
            median(&peer, |sample| sample.cpu),
            median(&ours, |sample| sample.peak_kib) / 1024.0,
            median(&peer, |sample| sample.peak_kib) / 1024.0,
        )
        .unwrap();
        println!("{line}");
        let samples = |samples: &[Sample]| {
            samples
                .iter()
                .map(|s| json!({"wall": s.wall, "cpu": s.cpu, "peak_kib": s.peak_kib, "size": s.size}))
                .collect::<Vec<_>>()
        };
        results.push(json!({
            "row": row.name, "ours": row.ours, "peer": row.peer, "goal": row.goal, "ratio": ratio,
            "ratio_in_memory": in_memory, "met": is_met,
            "samples": samples(&ours), "peer_samples": samples(&peer),
            "samples_in_memory": samples(&ours_memory), "peer_samples_in_memory": samples(&peer_memory),
        }));
    }
    if let Some(file) = json_file {
        let report = json!({
            "vmferry": output(env!("CARGO_BIN_EXE_vmferry"), &["--version"]),
            "qemu_img": output("qemu-img", &["--version"]).lines().next(),
            "cpu": cpu(), "load_before": load_before, "load_after": load(), "rounds": harness.rounds, "rows": results,
        });
        fs::write(&file, serde_json::to_string_pretty(&report).unwrap()).unwrap();
        println!("\nall samples: {file}");
    }
}

impl Harness {
    /// Makes the sources that others wrote, once, and brings all sources into the page cache.
    fn prepare(&self) {
        fs::create_dir_all(&self.work).unwrap();
        for (target, command) in [
            ("{deflate}", "qemu-img convert -m 16 -W -c -f raw -O qcow2 {os} {deflate}"),
            ("{zstd}", "qemu-img convert -m 16 -W -c -f raw -O qcow2 -o compression_type=zstd {os} {zstd}"),
            ("{vmdk}", "qemu-img convert -m 16 -W -f raw -O vmdk -o subformat=streamOptimized {os} {vmdk}"),
            ("{gz}", "igzip -1 -c {os} > {gz}"),
        ] {
            if !Path::new(&self.expand(target, Path::new(""))).exists() {
                shell(&self.expand(command, Path::new("")));
            }
        }
        shell(&self.expand("cat {os} {sparse} {deflate} {zstd} {vmdk} {gz} > /dev/null", Path::new("")));
    }

    /// Runs both sides in turns; outputs go to `place`, durably if `sync`.
    fn race(&self, row: &Row, place: &Path, sync: bool) -> (Vec<Sample>, Vec<Sample>) {
        fs::create_dir_all(place).unwrap();
        let out = place.join("disk");
        let ours = format!("{} {} -q", env!("CARGO_BIN_EXE_vmferry"), self.expand(row.ours, &out));
        let synced = if sync { format!(" && sync -d {}.[qrv]*", out.display()) } else { String::new() };
        let peer =
            self.expand(&row.peer.replace(" S", &synced).replace("Q ", "qemu-img convert -m 16 -W "), &out);
        let (mut our_samples, mut peer_samples) = (Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let mut turns = [(&ours, &mut our_samples), (&peer, &mut peer_samples)];
            if round % 2 == 1 {
                turns.reverse();
            }
            for (command, samples) in turns {
                samples.push(measure(command, place));
            }
        }
        fs::remove_dir_all(place).unwrap();
        (our_samples, peer_samples)
    }

    fn expand(&self, command: &str, out: &Path) -> String {
        let mut command = command.replace("{out}", &out.display().to_string());
        for name in ["os", "sparse"] {
            let path = self.corpus.join(format!("{name}.raw"));
            command = command.replace(&format!("{{{name}}}"), &path.display().to_string());
        }
        for (name, file) in [
            ("deflate", "deflate.qcow2"),
            ("zstd", "zstd.qcow2"),
            ("vmdk", "stream.vmdk"),
            ("gz", "os.raw.gz"),
        ] {
            command = command.replace(&format!("{{{name}}}"), &self.work.join(file).display().to_string());
        }
        command
    }
}

/// Runs a command whose outputs go to `place`, which is emptied before, outside of the time.
fn measure(command: &str, place: &Path) -> Sample {
    for entry in fs::read_dir(place).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    shell("sync");
    let times = env::temp_dir().join(format!("vmferry-peers-{}.time", std::process::id()));
    let done = Command::new("/usr/bin/time")
        .args(["-f", "%e %U %S %M", "-o"])
        .arg(&times)
        .args(["sh", "-c", command])
        .output()
        .expect("GNU time at /usr/bin/time (Debian: apt-get install time)");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    let text = fs::read_to_string(&times).unwrap();
    fs::remove_file(&times).unwrap();
    let fields: Vec<f64> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
    let image = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
        path.extension().is_some_and(|extension| ["raw", "qcow2", "vmdk"].iter().any(|&e| extension == e))
    });
    let size = image.map_or(1, |path| fs::metadata(path).unwrap().len());
    Sample { wall: fields[0], cpu: fields[1] + fields[2], peak_kib: fields[3], size: size as f64 }
}

fn median(samples: &[Sample], field: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(field).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn shell(command: &str) {
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

fn output(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).output().unwrap();
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let cores = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{} x {cores}", model.split(": ").nth(1).unwrap_or("unknown"))
}
