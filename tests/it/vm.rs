//! `vmferry vm` against a simulated cluster: what it shows, what it does, and what it says when it cannot.

mod acts;
mod consoles;
mod deletes;
mod lists;
mod looks;
mod many;
mod migrations;
mod troubles;

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use serde_json::Value;
use vmferry_sim::{Config, Rule, Simulator};

use crate::support::{Finished, scratch, vmferry};

/// A cluster, and a kubeconfig for it.
pub(crate) struct Cluster {
    pub(crate) sim: Simulator,
    pub(crate) kubeconfig: PathBuf,
    _place: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let sim = Simulator::start_blocking(config).expect("a simulator");
        let place = scratch();
        let kubeconfig = place.path().join("kubeconfig");
        std::fs::write(&kubeconfig, sim.kubeconfig()).expect("a kubeconfig");
        Self { sim, kubeconfig, _place: place }
    }

    /// From now on a user who may do this and nothing else.
    pub(crate) fn allow(&self, rules: Vec<Rule>) {
        std::fs::write(&self.kubeconfig, self.sim.kubeconfig_with(rules)).expect("a kubeconfig");
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = vmferry(line.split_whitespace());
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST");
        command
    }

    /// Runs a command line, words parted by blanks.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> Finished {
        self.command(line).output().expect("the binary runs").into()
    }

    /// Runs a command line that must succeed and print JSON.
    #[track_caller]
    pub(crate) fn json(&self, line: &str) -> Value {
        self.run(&format!("{line} -o json")).expect(0).json()
    }

    /// Runs a command line that must fail with a code, and whose error must say all of this.
    #[track_caller]
    pub(crate) fn refused(&self, line: &str, code: i32, says: &[&str]) {
        let failed = self.run(line);
        assert_eq!(failed.code, Some(code), "{line}: {}", failed.stderr);
        for says in says {
            assert!(failed.stderr.contains(says), "{line}: {says:?} is missing in: {}", failed.stderr);
        }
        assert!(failed.stdout.is_empty(), "{line}: {}", text(&failed));
    }

    /// Starts a command that goes on.
    pub(crate) fn follow(&self, line: &str) -> Followed {
        let mut child =
            self.command(line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary runs");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Followed { child, lines }
    }

    /// A VM as the cluster has it.
    pub(crate) fn vm(&self, name: &str) -> Option<Value> {
        self.object("virtualmachines", name)
    }

    pub(crate) fn object(&self, plural: &str, name: &str) -> Option<Value> {
        self.sim.objects(plural, Some("demo")).into_iter().find(|object| object["metadata"]["name"] == name)
    }
}

/// A command that goes on; it is killed in the end.
pub(crate) struct Followed {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Followed {
    /// Reads lines until one holds this.
    #[track_caller]
    pub(crate) fn until(&mut self, part: &str) -> String {
        let mut all = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => all.push(line),
                Err(error) => panic!("{part:?} did not come ({error}), only: {all:#?}"),
            }
        }
    }
}

/// How long a line may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Standard output as text.
pub(crate) fn text(finished: &Finished) -> String {
    String::from_utf8_lossy(&finished.stdout).into_owned()
}
