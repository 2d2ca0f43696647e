//! Running a command and saying what it took.

use std::{
    fs::{self, File},
    io::Read as _,
    ops::AddAssign,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::{Value, json};
use wait4::Wait4 as _;

use crate::Result;

/// A command with its paths in place.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Where standard output goes instead of nowhere.
    pub(crate) stdout: Option<PathBuf>,
}

/// What one or several commands took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// CPU seconds of the commands and all that they waited for.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Largest resident set of any process, in bytes.
    pub(crate) peak: u64,
    /// CPU seconds that the machine spent on anything else meanwhile: kernel threads and neighbours.
    pub(crate) elsewhere: f64,
}

impl Usage {
    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.system
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "wall_seconds": self.wall, "user_seconds": self.user, "system_seconds": self.system,
            "peak_rss_bytes": self.peak, "cpu_seconds_elsewhere": self.elsewhere,
        })
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.user += other.user;
        self.system += other.system;
        self.peak = self.peak.max(other.peak);
        self.elsewhere += other.elsewhere;
    }
}

impl Step {
    /// Runs it to its end.
    pub(crate) fn run(&self) -> Result<Usage> {
        let stdout = match &self.stdout {
            Some(path) => Stdio::from(File::create(path)?),
            None => Stdio::null(),
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        command.env_remove("VMFERRY_LOG");
        let busy = busy_seconds();
        let started = Instant::now();
        let mut child =
            command.spawn().map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        let done = child.wait4()?;
        let wall = started.elapsed().as_secs_f64();
        if !done.status.success() {
            return Err(format!(
                "{} {}: {}: {said}",
                self.program.display(),
                self.args.join(" "),
                done.status
            )
            .into());
        }
        let (user, system) = (done.rusage.utime.as_secs_f64(), done.rusage.stime.as_secs_f64());
        let elsewhere = (busy_seconds() - busy - user - system).max(0.0);
        Ok(Usage { wall, user, system, peak: done.rusage.maxrss, elsewhere })
    }

    /// As a shell would read it, but for quotes.
    pub(crate) fn text(&self) -> String {
        let mut text = self.program.display().to_string();
        for arg in &self.args {
            text.push(' ');
            text.push_str(arg);
        }
        if let Some(path) = &self.stdout {
            text.push_str(" > ");
            text.push_str(&path.display().to_string());
        }
        text
    }
}

/// CPU seconds that all processors together have worked since the machine started.
fn busy_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user nice system idle iowait irq softirq steal, in hundredths on every Linux there is.
    let hundredths: f64 = fields
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .filter_map(|(_, field)| field.parse::<f64>().ok())
        .sum();
    hundredths / 100.0
}

/// The length of a file and the room that it takes, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    pub(crate) apparent: u64,
    pub(crate) allocated: u64,
}

impl Size {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { apparent: metadata.len(), allocated: metadata.blocks() * 512 })
    }

    /// Of all files in a directory.
    pub(crate) fn of_all(directory: &Path) -> Result<Self> {
        let mut sum = Self::default();
        for entry in fs::read_dir(directory)? {
            let size = Self::of(&entry?.path())?;
            sum.apparent += size.apparent;
            sum.allocated += size.allocated;
        }
        Ok(sum)
    }
}

/// The value in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => values[len / 2 - 1].midpoint(values[len / 2]),
    }
}
