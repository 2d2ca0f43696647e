//! What came out: Markdown tables and JSON.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    Result,
    measure::Usage,
    places::Places,
    race::Race,
    rows::{Binary, Row},
};

/// A row and what came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) row: Row,
    pub(crate) durable: Race,
    /// The same with the outputs in memory and without syncs.
    pub(crate) memory: Option<Race>,
}

impl Outcome {
    /// Which goals were missed.
    pub(crate) fn missed(&self) -> Vec<&'static str> {
        let is_over = |value: f64, goal: Option<f64>| goal.is_some_and(|goal| value > goal);
        let checks = [
            ("time", is_over(self.durable.ratio(), self.row.wall_goal())),
            ("size", is_over(self.durable.size_ratio(), self.row.goals.size)),
            ("rate", is_over(self.row.goals.share.unwrap_or(0.0), self.share())),
            ("CPU", is_over(self.durable.cpu_ratio(), self.row.goals.cpu)),
            ("memory", self.durable.ours.peak() > PEAK_GOAL),
        ];
        checks.into_iter().filter(|(_, missed)| *missed).map(|(name, _)| name).collect()
    }

    /// The part of the link's rate that the disk came at, where the row is about that.
    fn share(&self) -> Option<f64> {
        self.row.goals.share?;
        let wall = self.durable.ours.median(|total| total.wall);
        Some(self.durable.content as f64 / wall / self.row.link.rate as f64)
    }

    fn verdict(&self) -> String {
        match self.missed()[..] {
            [] => self.share().map_or_else(|| "met".into(), |share| format!("met: {share:.2} of the link")),
            ref missed => format!("missed: {}", missed.join(", ")),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let Self { row, durable, memory } = self;
        json!({
            "row": row.name,
            "encoder": if row.binary == Binary::Built && cfg!(feature = "isal") { "isa-l" } else { "portable" },
            "goal": { "wall_ratio": row.wall_goal(), "size_ratio": row.goals.size, "cpu_ratio": row.goals.cpu,
                "share_of_link": row.goals.share, "peak_rss_bytes": PEAK_GOAL },
            "missed": self.missed(),
            "wall_ratio": number(durable.ratio()),
            "wall_ratio_of_best": number(durable.best()),
            "wall_ratio_in_memory": memory.as_ref().map(|race| number(race.ratio())),
            "size_ratio": number(durable.size_ratio()),
            "cpu_ratio": number(durable.cpu_ratio()),
            "link": {
                "bytes_per_second": row.link.rate, "round_trip_ms": row.link.round_trip, "stall_ms": row.link.stall,
            },
            "share_of_link": self.share(),
            "vmferry": durable.ours.json(),
            "peer": durable.peer.json(),
            "vmferry_in_memory": memory.as_ref().map(|race| race.ours.json()),
            "peer_in_memory": memory.as_ref().map(|race| race.peer.json()),
        })
    }
}

/// The tables.
pub(crate) fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| row | vmferry s | peer s | of it sync | ratio | best | rounds | goal | | in memory: vmferry s | peer s | ratio |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let wall = |total: &Usage| total.wall;
    for outcome in outcomes {
        let Outcome { row, durable, memory } = outcome;
        let (least, most) = durable.spread();
        let rounds = if least.is_finite() { format!("{least:.3}-{most:.3}") } else { "-".into() };
        let in_memory = memory.as_ref().map_or_else(
            || "- | - | -".into(),
            |race| {
                let sides = (race.ours.median(wall), race.peer.median(wall));
                format!("{} | {} | {}", seconds(sides.0), seconds(sides.1), ratio(race.ratio()))
            },
        );
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {rounds} | {} | {} | {in_memory} |",
            row.name,
            seconds(durable.ours.median(wall)),
            seconds(durable.peer.median(wall)),
            seconds(durable.peer.share("sync")),
            ratio(durable.ratio()),
            ratio(durable.best()),
            row.wall_goal().map_or_else(|| "-".into(), |goal| goal.to_string()),
            outcome.verdict(),
        );
    }
    text.push_str(
        "\n| row | CPU s: vmferry | peer | ratio | goal | peak MiB: vmferry | peer | output MB: vmferry | peer | ratio | goal | allocated MB: vmferry | peer |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for Outcome { row, durable: Race { ours, peer, .. }, .. } in outcomes {
        let has_peer = !peer.runs.is_empty();
        let theirs = |text: String| if has_peer { text } else { "-".into() };
        let has_output = ours.output.apparent > 0;
        let megabytes = |bytes: u64| if has_output { (bytes / 1_000_000).to_string() } else { "-".into() };
        let _ = writeln!(
            text,
            "| {} | {:.2} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            ours.median(Usage::cpu),
            seconds(peer.median(Usage::cpu)),
            ratio(ours.median(Usage::cpu) / peer.median(Usage::cpu)),
            row.goals.cpu.map_or_else(|| "-".into(), |goal| goal.to_string()),
            ours.peak().div_ceil(1 << 20),
            theirs(peer.peak().div_ceil(1 << 20).to_string()),
            megabytes(ours.output.apparent),
            theirs(megabytes(peer.output.apparent)),
            ratio(ours.output.apparent as f64 / peer.output.apparent as f64),
            row.goals.size.map_or_else(|| "-".into(), |goal| goal.to_string()),
            megabytes(ours.output.allocated),
            theirs(megabytes(peer.output.allocated)),
        );
    }
    text
}

/// Writes everything that is known so far.
pub(crate) fn write_json(file: &Path, session: &Value, outcomes: &[Outcome]) -> Result<()> {
    let mut report = session.clone();
    report["machine"]["load_after"] = load().into();
    report["rows"] = outcomes.iter().map(Outcome::json).collect();
    fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(())
}

/// What the figures depend on beside vmferry.
pub(crate) fn session(places: &Places, rounds: usize, memory_rounds: usize) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let file_system = |path: &Path| said("stat", &["-f", "-c", "%T", &path.display().to_string()]);
    json!({
        "date": said("date", &["-u", "+%FT%TZ"]),
        "rounds": rounds,
        "rounds_in_memory": memory_rounds,
        "machine": {
            "cpu": value(&cpus, "model name"),
            "cpus": cpus.lines().filter(|line| line.starts_with("processor")).count(),
            "memory": value(&memory, "MemTotal"),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "corpus_file_system": file_system(&places.corpus),
            "work_file_system": file_system(&places.work),
            "load_before": load(),
        },
        "versions": {
            "vmferry": said(env!("CARGO_BIN_EXE_vmferry"), &["--version"]),
            "vmferry_portable":
                places.portable.as_ref().map(|path| said(&path.display().to_string(), &["--version"])),
            "qemu-img": said("qemu-img", &["--version"]),
            "openssl": said("openssl", &["version"]),
            "igzip": said("igzip", &["--version"]),
            "curl": said("curl", &["--version"]),
            "gzip": said("gzip", &["--version"]),
            "pigz": said("pigz", &["--version"]),
            "blksum": said("blksum", &["--version"]),
        },
    })
}

/// The load averages.
pub(crate) fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

fn said(program: &str, args: &[&str]) -> Option<String> {
    let done = Command::new(program).args(args).output().ok()?;
    let mut text = done.stdout;
    text.extend(done.stderr);
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    // vmferry names its encoder in the second line; the others go on about copyright there.
    let lines = if program.contains("vmferry") { 2 } else { 1 };
    Some(text.lines().take(lines).collect::<Vec<_>>().join("; "))
}

fn number(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn ratio(value: f64) -> String {
    number(value).map_or_else(|| "-".into(), |value| format!("{value:.3}"))
}

fn seconds(value: f64) -> String {
    number(value).map_or_else(|| "-".into(), |value| format!("{value:.2}"))
}

/// Resident memory that no run of vmferry may exceed, in bytes.
const PEAK_GOAL: u64 = 128 << 20;
