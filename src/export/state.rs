//! What a run remembers for the next: its id, by which its objects are found again, and the volumes
//! that are complete. A file of JSON lines beside the outputs; it holds no secret.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApplianceRecord, VolumeRecord};
use crate::{
    appliance::{VmSeen, Warning},
    error::{Error, Result},
    kubevirt::Sighting,
};

/// The state of a run, held under a lock.
#[derive(Debug)]
pub(super) struct RunState {
    path: PathBuf,
    file: File,
    pub(super) run: String,
    /// Whether an earlier run left it.
    pub(super) is_resumed: bool,
    pub(super) memory: Memory,
}

/// What a run has done so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    /// The snapshot that was made for it.
    pub(super) snapshot: Option<String>,
    /// The run strategy of the VM that was stopped for it and not put back yet.
    pub(super) stopped: Option<Value>,
    /// What was seen of the VM while it ran, for its appliance.
    pub(super) seen: Option<VmSeen>,
    /// The source, as it was before the first byte was taken.
    pub(super) source: Option<Sighting>,
    /// Claims whose volumes were begun: what then stands under their outputs' names is this run's.
    pub(super) begun: Vec<String>,
    pub(super) done: Vec<VolumeRecord>,
    /// What the descriptor of the appliance that was begun could not say.
    pub(super) described: Option<Vec<Warning>>,
    /// The appliance, once it is complete.
    pub(super) packed: Option<ApplianceRecord>,
}

impl Memory {
    /// The source that bytes were taken of.
    pub(super) fn begun_of(&self) -> Option<&Sighting> {
        self.source.as_ref().filter(|_| !self.begun.is_empty())
    }
}

/// Whose run it is: no other object's run has to do with what it left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exported {
    /// Address of the cluster's API.
    pub(super) cluster: String,
    pub(super) namespace: String,
    /// What is named on the command line: a VM, a claim, a snapshot or an export.
    pub(super) kind: String,
    pub(super) name: String,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} of {}", self.kind, self.namespace, self.name, self.cluster)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Line {
    Run {
        version: u32,
        id: String,
        object: Exported,
        /// What is exported, and how: a later run must be told the same.
        of: String,
    },
    Source {
        source: Sighting,
    },
    Seen {
        seen: VmSeen,
    },
    Snapshot {
        name: String,
    },
    Stopped {
        strategy: Value,
    },
    PutBack,
    Begun {
        claim: String,
    },
    Done {
        #[serde(flatten)]
        volume: VolumeRecord,
    },
    Described {
        warnings: Vec<Warning>,
    },
    Packed {
        appliance: ApplianceRecord,
    },
}

/// What is found where a state may be.
#[derive(Debug)]
pub(super) enum Found {
    /// A new run begins.
    Fresh(Opened),
    /// An earlier one was interrupted.
    Left(Opened, Box<Left>),
}

/// What an earlier run left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) run: String,
    pub(super) object: Exported,
    pub(super) of: String,
    pub(super) memory: Memory,
    valid_len: u64,
}

/// The file, locked.
#[derive(Debug)]
pub(super) struct Opened {
    path: PathBuf,
    file: File,
}

/// Opens the state at `path` under a lock.
///
/// # Errors
/// Another process works there, or the file cannot be used.
pub(super) fn open(path: &Path) -> Result<Found> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| Error::io("open", path, error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(locked(path));
        }
        // A run that ended meanwhile has removed the file that was locked.
        let held = file.metadata().map_err(|error| Error::io("look at", path, error))?;
        if !fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            continue;
        }
        let left = read(&file, path)?;
        let opened = Opened { path: path.to_owned(), file };
        return Ok(match left {
            Some(left) => Found::Left(opened, Box::new(left)),
            None => Found::Fresh(opened),
        });
    }
}

/// Looks at what an earlier run left at `path`. Nothing is made or changed.
///
/// # Errors
/// As for [`open`].
pub(super) fn peek(path: &Path) -> Result<Option<Left>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    if flock(&file, FlockOperation::NonBlockingLockShared).is_err() {
        return Err(locked(path));
    }
    read(&file, path)
}

fn locked(path: &Path) -> Error {
    Error::refused(format!("another export is at work here: {} is locked", path.display()))
        .with_hint("wait for it, or choose another output")
}

/// What is in the file; `None` if no run came to begin there.
fn read(file: &File, path: &Path) -> Result<Option<Left>> {
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text).map_err(|error| Error::io("read", path, error))?;
    match (parse(&text), version(&text)) {
        (Some(left), _) => Ok(Some(left)),
        (None, _) if is_torn(&text) => Ok(None),
        (None, Some(version)) if version != VERSION => Err(Error::refused(format!(
            "{} is the state of an unfinished export by another release of vmferry (version {version} of its form, \
             and this is {VERSION})",
            path.display()
        ))
        .with_hint(
            "finish it with that release; or remove the file and what was written beside it, and see with 'vmferry \
             gc' what is left in the cluster and with 'kubectl get vm' whether a VM was left stopped",
        )),
        (None, _) => Err(Error::refused(format!("{} is not the state of an export", path.display()))
            .with_hint("remove it if you do not need it; 'vmferry gc' lists what runs have left in the cluster")),
    }
}

/// The version of a state's form, whatever else is in it.
fn version(text: &str) -> Option<u32> {
    #[derive(Deserialize)]
    struct Head {
        record: String,
        version: u32,
    }
    let head: Head = serde_json::from_str(text.lines().next()?).ok()?;
    (head.record == "run").then_some(head.version)
}

/// Whether there is nothing, or the front of a first line, that a crash left.
fn is_torn(text: &str) -> bool {
    !text.contains('\n') && (text.starts_with(BEGINNING) || BEGINNING.starts_with(text))
}

/// The longest prefix of complete lines; `None` if there is no run in it.
fn parse(text: &str) -> Option<Left> {
    let mut left: Option<Left> = None;
    let mut len = 0;
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Ok(line_read) = serde_json::from_str(line) else { break };
        len += line.len();
        let valid_len = u64::try_from(len).ok()?;
        match (line_read, &mut left) {
            (Line::Run { version: VERSION, id, object, of }, None) => {
                left = Some(Left { run: id, object, of, memory: Memory::default(), valid_len });
            }
            (Line::Run { .. }, _) | (_, None) => break,
            (line, Some(left)) => {
                left.memory.take(line);
                left.valid_len = valid_len;
            }
        }
    }
    left
}

impl Memory {
    fn take(&mut self, line: Line) {
        match line {
            Line::Run { .. } => {}
            Line::Seen { seen } => self.seen = Some(seen),
            Line::Source { source } => self.source = Some(source),
            Line::Snapshot { name } => self.snapshot = Some(name),
            Line::Stopped { strategy } => self.stopped = Some(strategy),
            Line::PutBack => self.stopped = None,
            Line::Begun { claim } => self.begun.push(claim),
            Line::Done { volume } => self.done.push(volume),
            Line::Described { warnings } => self.described = Some(warnings),
            Line::Packed { appliance } => self.packed = Some(appliance),
        }
    }
}

impl Opened {
    /// Begins a run.
    pub(super) fn begin(self, run: String, object: Exported, of: &str) -> Result<RunState> {
        let mut state = RunState {
            path: self.path,
            file: self.file,
            run: run.clone(),
            is_resumed: false,
            memory: Memory::default(),
        };
        state.cut(0)?;
        state.append(&Line::Run { version: VERSION, id: run, object, of: of.to_owned() })?;
        Ok(state)
    }

    /// Takes up an earlier run.
    pub(super) fn take_up(self, left: Left) -> Result<RunState> {
        let mut state = RunState {
            path: self.path,
            file: self.file,
            run: left.run,
            is_resumed: true,
            memory: left.memory,
        };
        state.cut(left.valid_len)?;
        Ok(state)
    }
}

impl RunState {
    /// Remembers the source, before the first byte is taken of it.
    pub(super) fn remember_source(&mut self, source: Sighting) -> Result<()> {
        if self.memory.source.as_ref() == Some(&source) {
            return Ok(());
        }
        self.remember_line(Line::Source { source })
    }

    /// Remembers what was seen of the VM, before it is stopped.
    pub(super) fn remember_seen(&mut self, seen: &VmSeen) -> Result<()> {
        if self.memory.seen.as_ref() == Some(seen) {
            return Ok(());
        }
        self.remember_line(Line::Seen { seen: seen.clone() })
    }

    /// Remembers the snapshot that was made.
    pub(super) fn remember_snapshot(&mut self, name: &str) -> Result<()> {
        self.remember_line(Line::Snapshot { name: name.to_owned() })
    }

    /// Remembers the run strategy of a VM before it is stopped.
    pub(super) fn remember_stopped(&mut self, strategy: &Value) -> Result<()> {
        self.remember_line(Line::Stopped { strategy: strategy.clone() })
    }

    /// There is no VM any more that is to be put back.
    pub(super) fn remember_put_back(&mut self) -> Result<()> {
        self.remember_line(Line::PutBack)
    }

    /// Remembers that a volume is begun, before anything is made for it.
    pub(super) fn remember_begun(&mut self, claim: &str) -> Result<()> {
        if self.memory.begun.iter().any(|begun| begun == claim) {
            return Ok(());
        }
        self.remember_line(Line::Begun { claim: claim.to_owned() })
    }

    /// Remembers a volume that is complete.
    pub(super) fn remember(&mut self, volume: &VolumeRecord) -> Result<()> {
        self.remember_line(Line::Done { volume: volume.clone() })
    }

    /// Remembers what a descriptor could not say, before the appliance that it is for is begun.
    pub(super) fn remember_described(&mut self, warnings: &[Warning]) -> Result<()> {
        self.remember_line(Line::Described { warnings: warnings.to_vec() })
    }

    /// Remembers an appliance that is complete.
    pub(super) fn remember_packed(&mut self, appliance: &ApplianceRecord) -> Result<()> {
        self.remember_line(Line::Packed { appliance: appliance.clone() })
    }

    fn remember_line(&mut self, line: Line) -> Result<()> {
        self.append(&line)?;
        self.memory.take(line);
        Ok(())
    }

    /// There is nothing to remember any more.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io("remove", &self.path, error))
    }

    fn append(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|error| Error::failed("cannot write down the state of the run").with_source(error))?;
        text.push('\n');
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| Error::io("write", &self.path, error))
    }

    fn cut(&mut self, len: u64) -> Result<()> {
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        cut.map(|_| ()).map_err(|error| Error::io("write", &self.path, error))
    }
}

/// What every state begins with.
const BEGINNING: &str = "{\"record\":\"run\",";

/// Version of the lines' form.
const VERSION: u32 = 2;

/// Far more than any VM has volumes for.
const MAX_LEN: u64 = 16 << 20;

#[cfg(test)]
mod tests;
