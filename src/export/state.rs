//! What a run remembers for the next: its id, by which its objects are found again, and the volumes
//! that are complete. A file of JSON lines beside the outputs; it holds no secret.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApplianceRecord, VolumeRecord};
use crate::{
    appliance::Warning,
    error::{Error, Result},
};

/// The state of a run, held under a lock.
#[derive(Debug)]
pub(super) struct RunState {
    path: PathBuf,
    file: File,
    pub(super) run: String,
    /// Whether an earlier run left it.
    pub(super) is_resumed: bool,
    /// The snapshot that was made for it.
    pub(super) snapshot: Option<String>,
    /// The run strategy of the VM that was stopped for it.
    pub(super) stopped: Option<Value>,
    /// Claims whose volumes were begun: what then stands under their outputs' names is this run's.
    pub(super) begun: Vec<String>,
    pub(super) done: Vec<VolumeRecord>,
    /// What the descriptor of the appliance that was begun could not say.
    pub(super) described: Option<Vec<Warning>>,
    /// The appliance, once it is complete.
    pub(super) packed: Option<ApplianceRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Line {
    Run {
        version: u32,
        id: String,
        /// What is exported, and how: a later run must be told the same.
        of: String,
    },
    Snapshot {
        name: String,
    },
    Stopped {
        strategy: Value,
    },
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
    Left(Opened, Left),
}

/// What an earlier run left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) run: String,
    pub(super) of: String,
    pub(super) snapshot: Option<String>,
    pub(super) stopped: Option<Value>,
    begun: Vec<String>,
    done: Vec<VolumeRecord>,
    described: Option<Vec<Warning>>,
    packed: Option<ApplianceRecord>,
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
            return Err(Error::refused(format!(
                "another export is at work here: {} is locked",
                path.display()
            ))
            .with_hint("wait for it, or choose another output"));
        }
        // A run that ended meanwhile has removed the file that was locked.
        let held = file.metadata().map_err(|error| Error::io("look at", path, error))?;
        if !fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            continue;
        }
        let mut text = String::new();
        (&file).take(MAX_LEN).read_to_string(&mut text).map_err(|error| Error::io("read", path, error))?;
        let opened = Opened { path: path.to_owned(), file };
        return match parse(&text) {
            Some(left) => Ok(Found::Left(opened, left)),
            None if is_torn(&text) => Ok(Found::Fresh(opened)),
            None => Err(Error::refused(format!("{} is not the state of an export", path.display()))
                .with_hint(
                    "remove it if you do not need it; 'vmferry gc' lists what runs have left in the cluster",
                )),
        };
    }
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
            (Line::Run { version: VERSION, id, of }, None) => {
                left = Some(Left {
                    run: id,
                    of,
                    snapshot: None,
                    stopped: None,
                    begun: Vec::new(),
                    done: Vec::new(),
                    described: None,
                    packed: None,
                    valid_len,
                });
            }
            (Line::Snapshot { name }, Some(left)) => {
                (left.snapshot, left.valid_len) = (Some(name), valid_len);
            }
            (Line::Stopped { strategy }, Some(left)) => {
                (left.stopped, left.valid_len) = (Some(strategy), valid_len);
            }
            (Line::Begun { claim }, Some(left)) => {
                left.begun.push(claim);
                left.valid_len = valid_len;
            }
            (Line::Done { volume }, Some(left)) => {
                left.done.push(volume);
                left.valid_len = valid_len;
            }
            (Line::Described { warnings }, Some(left)) => {
                (left.described, left.valid_len) = (Some(warnings), valid_len);
            }
            (Line::Packed { appliance }, Some(left)) => {
                (left.packed, left.valid_len) = (Some(appliance), valid_len);
            }
            _ => break,
        }
    }
    left
}

impl Opened {
    /// Begins a run.
    pub(super) fn begin(self, run: String, of: &str) -> Result<RunState> {
        let mut state = RunState {
            path: self.path,
            file: self.file,
            run: run.clone(),
            is_resumed: false,
            snapshot: None,
            stopped: None,
            begun: Vec::new(),
            done: Vec::new(),
            described: None,
            packed: None,
        };
        state.cut(0)?;
        state.append(&Line::Run { version: VERSION, id: run, of: of.to_owned() })?;
        Ok(state)
    }

    /// Takes up an earlier run.
    pub(super) fn take_up(self, left: Left) -> Result<RunState> {
        let mut state = RunState {
            path: self.path,
            file: self.file,
            run: left.run,
            is_resumed: true,
            snapshot: left.snapshot,
            stopped: left.stopped,
            begun: left.begun,
            done: left.done,
            described: left.described,
            packed: left.packed,
        };
        state.cut(left.valid_len)?;
        Ok(state)
    }
}

impl RunState {
    /// Remembers the snapshot that was made.
    pub(super) fn remember_snapshot(&mut self, name: &str) -> Result<()> {
        self.snapshot = Some(name.to_owned());
        self.append(&Line::Snapshot { name: name.to_owned() })
    }

    /// Remembers the run strategy of a VM before it is stopped.
    pub(super) fn remember_stopped(&mut self, strategy: &Value) -> Result<()> {
        self.stopped = Some(strategy.clone());
        self.append(&Line::Stopped { strategy: strategy.clone() })
    }

    /// Remembers that a volume is begun, before anything is made for it.
    pub(super) fn remember_begun(&mut self, claim: &str) -> Result<()> {
        if self.begun.iter().any(|begun| begun == claim) {
            return Ok(());
        }
        self.begun.push(claim.to_owned());
        self.append(&Line::Begun { claim: claim.to_owned() })
    }

    /// Remembers a volume that is complete.
    pub(super) fn remember(&mut self, volume: &VolumeRecord) -> Result<()> {
        self.done.push(volume.clone());
        self.append(&Line::Done { volume: volume.clone() })
    }

    /// Remembers what a descriptor could not say, before the appliance that it is for is begun.
    pub(super) fn remember_described(&mut self, warnings: &[Warning]) -> Result<()> {
        self.described = Some(warnings.to_vec());
        self.append(&Line::Described { warnings: warnings.to_vec() })
    }

    /// Remembers an appliance that is complete.
    pub(super) fn remember_packed(&mut self, appliance: &ApplianceRecord) -> Result<()> {
        self.packed = Some(appliance.clone());
        self.append(&Line::Packed { appliance: appliance.clone() })
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
const VERSION: u32 = 1;

/// Far more than any VM has volumes for.
const MAX_LEN: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> VolumeRecord {
        VolumeRecord {
            volume: name.into(),
            claim: name.into(),
            file: format!("{name}.qcow2"),
            archive: None,
            format: "qcow2".into(),
            virtual_size: 1,
            output_size: 2,
            digest_algorithm: None,
            digest: None,
            sha256: None,
            verified: false,
        }
    }

    fn fresh(path: &Path) -> Opened {
        match open(path).unwrap() {
            Found::Fresh(opened) => opened,
            Found::Left(_, left) => panic!("{left:?}"),
        }
    }

    fn left(path: &Path) -> (Opened, Left) {
        match open(path).unwrap() {
            Found::Left(opened, left) => (opened, left),
            Found::Fresh(_) => panic!("nothing is left"),
        }
    }

    #[test]
    fn a_run_is_taken_up_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = fresh(&path).begin("abc".into(), "VM demo/db").unwrap();
        state.remember_snapshot("snap").unwrap();
        state.remember_begun("root").unwrap();
        state.remember_begun("root").unwrap();
        state.remember(&volume("root")).unwrap();
        drop(state);
        // A line that a crash cut short.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"record":"done","volu"#).unwrap();
        drop(file);

        let (opened, found) = left(&path);
        assert_eq!((found.run.as_str(), found.of.as_str()), ("abc", "VM demo/db"));
        let mut state = opened.take_up(found).unwrap();
        assert_eq!((state.snapshot.as_deref(), state.done.len(), state.is_resumed), (Some("snap"), 1, true));
        assert_eq!(state.begun, ["root"]);
        state.remember(&volume("data")).unwrap();
        drop(state);
        let (opened, found) = left(&path);
        let state = opened.take_up(found).unwrap();
        assert_eq!(state.done, [volume("root"), volume("data")]);
        state.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn two_runs_do_not_work_in_one_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let held = fresh(&path).begin("abc".into(), "x").unwrap();
        assert_eq!(open(&path).unwrap_err().kind(), crate::ErrorKind::Refused);
        drop(held);
        let (opened, found) = left(&path);
        opened.take_up(found).unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn only_what_a_crash_left_of_a_state_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        for text in ["", "{", "{\"record\":\"run\",\"ver"] {
            fs::write(&path, text).unwrap();
            drop(fresh(&path));
        }
        for text in ["a letter", "{\"record\":\"run\",\"version\":2,\"id\":\"a\",\"of\":\"b\"}\n", "\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(open(&path).unwrap_err().kind(), crate::ErrorKind::Refused);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_state_counts_as_none() {
        for text in ["", "garbage\n", "{\"record\":\"snapshot\",\"name\":\"x\"}\n", "{\"record\":\"run\"}\n"]
        {
            assert!(parse(text).is_none(), "{text}");
        }
        assert!(parse("{\"record\":\"run\",\"version\":2,\"id\":\"a\",\"of\":\"b\"}\n").is_none());
    }
}
