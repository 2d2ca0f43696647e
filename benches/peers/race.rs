//! One row: both sides in turns.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    Result,
    measure::{Size, Step, Usage, median},
    places::Places,
    rows::Row,
    store::Store,
};

/// The runs of one side of a row.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// The commands, without paths.
    pub(crate) commands: Vec<String>,
    /// For each round what each command took.
    pub(crate) runs: Vec<Vec<Usage>>,
    /// The output, the same in each round.
    pub(crate) output: Size,
    /// Room that outputs and intermediate files took together.
    pub(crate) room: u64,
}

impl Side {
    /// Medians over the rounds of the sums over the commands.
    pub(crate) fn median(&self, field: impl Fn(&Usage) -> f64) -> f64 {
        median(self.totals().map(|total| field(&total)))
    }

    /// Median of what the commands named `program` took.
    pub(crate) fn share(&self, program: &str) -> f64 {
        let is_it = |index: usize| self.commands[index].starts_with(program);
        median(self.runs.iter().map(|steps| {
            let mine = steps.iter().enumerate().filter(|(index, _)| is_it(*index));
            mine.map(|(_, step)| step.wall).sum()
        }))
    }

    pub(crate) fn peak(&self) -> u64 {
        self.totals().map(|total| total.peak).max().unwrap_or(0)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "commands": self.commands,
            "runs": self.runs.iter().map(|run| run.iter().map(Usage::json).collect()).collect::<Vec<Value>>(),
            "output_bytes": self.output.apparent,
            "output_allocated_bytes": self.output.allocated,
        })
    }

    fn totals(&self) -> impl Iterator<Item = Usage> + '_ {
        self.runs.iter().map(|steps| {
            let mut total = Usage::default();
            steps.iter().for_each(|&step| total += step);
            total
        })
    }
}

/// Both sides of a row in one place.
#[derive(Debug)]
pub(crate) struct Race {
    pub(crate) ours: Side,
    pub(crate) peer: Side,
    /// Bytes of the disk, where there is one.
    pub(crate) content: u64,
}

impl Race {
    /// Ratio of the medians of wall times; not a number without a peer.
    pub(crate) fn ratio(&self) -> f64 {
        self.ours.median(|total| total.wall) / self.peer.median(|total| total.wall)
    }

    /// Ratio of the shortest wall times: what is left when neither side had bad luck with the machine.
    pub(crate) fn best(&self) -> f64 {
        let least = |side: &Side| side.totals().map(|total| total.wall).fold(f64::NAN, f64::min);
        least(&self.ours) / least(&self.peer)
    }

    /// Smallest and largest ratio of a round.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let rounds = self.ours.totals().zip(self.peer.totals()).map(|(ours, peer)| ours.wall / peer.wall);
        rounds.fold((f64::INFINITY, 0.0), |(least, most), ratio| (least.min(ratio), most.max(ratio)))
    }

    /// Ratio of the medians of CPU times.
    pub(crate) fn cpu_ratio(&self) -> f64 {
        self.ours.median(Usage::cpu) / self.peer.median(Usage::cpu)
    }

    /// vmferry's output length by the peer's.
    pub(crate) fn size_ratio(&self) -> f64 {
        self.ours.output.apparent as f64 / self.peer.output.apparent as f64
    }
}

/// Runs a row in `place`, an empty directory; `durable` rows sync, and are checked in the first round.
pub(crate) fn race(places: &Places, row: &Row, place: &Path, rounds: usize, durable: bool) -> Result<Race> {
    let peer = row.peer.iter().filter(|command| durable || !command.starts_with("sync"));
    let sides = [vec![places.ours(row, place)], peer.map(|command| places.step(command, place)).collect()];
    let mut results = sides.each_ref().map(|steps: &Vec<Step>| Side {
        commands: steps.iter().map(|step| places.without_paths(&step.text())).collect(),
        ..Side::default()
    });
    let output = places.output(row, place);
    let uploaded = row.peer.last().and_then(|command| places.file(command, place));
    for round in 0..rounds {
        // Whoever begins may find the machine in another state, so that changes.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in order.into_iter().filter(|&index| !sides[index].is_empty()) {
            empty(place)?;
            places.store.as_ref().map_or(Ok(()), Store::empty)?;
            places.warm(row)?;
            if let Some(cluster) = &places.cluster {
                cluster.shape(row.link);
            }
            let side = &mut results[index];
            use_memory(place, side.room.max(FIRST_ROOM))?;
            side.runs.push(sides[index].iter().map(Step::run).collect::<Result<_>>()?);
            side.room = side.room.max(Size::of_all(place)?.allocated);
            // The peer of an upload has its output as a file, and only then as an object.
            if let Some(output) = output.iter().chain(&uploaded).find(|output| output.exists()) {
                side.output = Size::of(output)?;
            }
            if let (0, 0, true, Some(output), Some(content)) = (round, index, durable, &output, row.content) {
                compare(&PathBuf::from(places.expand(content, place)), output)?;
            }
        }
    }
    empty(place)?;
    let [ours, peer] = results;
    let content = row.content.map(|disk| Size::of(Path::new(&places.expand(disk, place)))).transpose()?;
    Ok(Race { ours, peer, content: content.unwrap_or_default().apparent })
}

/// Removes what is in a directory, and waits until its file system has nothing left to do.
fn empty(place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    for entry in fs::read_dir(place)? {
        fs::remove_file(entry?.path())?;
    }
    rustix::fs::syncfs(File::open(place)?)?;
    Ok(())
}

/// Writes a file of `len` bytes and removes it.
///
/// A virtual machine hands free memory back to its host, and pays for each page that it takes again:
/// seconds for an output, and only in some of the runs. The pages of this file are free and there when
/// the run begins.
fn use_memory(place: &Path, len: u64) -> Result<()> {
    let path = place.join("memory");
    let (file, bytes) = (File::create(&path)?, vec![1; 1 << 20]);
    for at in (0..len).step_by(bytes.len()) {
        file.write_all_at(&bytes, at)?;
    }
    file.sync_data()?;
    fs::remove_file(&path)?;
    Ok(())
}

/// Fast and wrong does not count.
fn compare(disk: &Path, output: &Path) -> Result<()> {
    let format = output.extension().unwrap_or_default();
    let done = Command::new("qemu-img")
        .args(["compare", "-f", "raw", "-F"])
        .args([format, disk.as_os_str(), output.as_os_str()])
        .output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    Err(format!("{} does not hold the disk it was made from: {said}", output.display()).into())
}

/// Bytes that outputs and intermediate files take, until it is known.
const FIRST_ROOM: u64 = 3 << 29;
