//! Tokens are in no log at any level, no error, no argument, no variable and no file: whatever becomes of a run.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustix::process::{Pid, Signal, kill_process};
use vmferry_sim::{Config, Fault, FaultKind};

use super::cluster::{Cluster, web};
use crate::support::{Finished, scratch};

const SLOWLY: [&str; 6] = ["--rate", "16MiB", "--checkpoint-bytes", "1MiB", "--checkpoint-interval", "20ms"];

/// A run that tells everything it can, with its temporary files in `directory`.
fn loud(cluster: &Cluster, directory: &Path, args: &[&str]) -> Child {
    let mut command = cluster.command(directory, &[args, &["-vvv"]].concat());
    for name in ["VMFERRY_LOG", "RUST_LOG"] {
        command.env(name, "trace");
    }
    let command = command.env("TMPDIR", directory).env("HOME", directory);
    // A pipe would be full soon.
    let log = File::create(log_of(directory)).expect("a log");
    command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary runs")
}

fn log_of(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// The end of a process, and what it told.
fn end(child: Child, directory: &Path) -> Finished {
    let finished = Finished::from(child.wait_with_output().expect("an end"));
    let log = fs::read(log_of(directory)).expect("a log");
    Finished { stderr: String::from_utf8_lossy(&log).into_owned(), ..finished }
}

/// Arguments and variables of a process and its children.
fn shown_by(child: &Child) -> Vec<u8> {
    let process = |pid: &str| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        [read("cmdline"), read("environ")].concat()
    };
    let pid = child.id().to_string();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut shown = process(&pid);
    assert!(shown.starts_with(env!("CARGO_BIN_EXE_vmferry").as_bytes()), "a process that runs");
    for child in children.split_whitespace() {
        shown.extend(process(child));
    }
    shown
}

/// What must be nowhere: the tokens of exports, and the login.
fn secrets(cluster: &Cluster) -> Vec<String> {
    let mut secrets = cluster.tokens();
    assert!(!secrets.is_empty(), "an export with its token");
    let kubeconfig = fs::read_to_string(&cluster.kubeconfig).unwrap();
    let login = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap();
    secrets.push(login.trim_matches('"').to_owned());
    let encoded: Vec<String> = secrets.iter().map(|secret| BASE64_STANDARD.encode(secret)).collect();
    secrets.into_iter().chain(encoded).collect()
}

#[track_caller]
fn assert_secret(secrets: &[String], finished: &Finished, process: &[u8], directory: &Path) {
    assert!(finished.stderr.contains("TRACE"), "a log that tells everything");
    assert_holds_none(finished.stderr.as_bytes(), secrets, "the log");
    assert_holds_none(&finished.stdout, secrets, "the output");
    assert_holds_none(process, secrets, "an argument or a variable");
    no_file_holds(directory, secrets);
}

#[test]
fn the_token_is_nowhere_to_be_seen() {
    for reach in ["external", "port-forward"] {
        for transfer in ["raw", "gzip"] {
            let cluster = Cluster::start(Config::default());
            web(&cluster);
            let place = scratch();
            let args =
                ["demo/web", "--output", "out", "--keep-export", "--reach", reach, "--transfer", transfer];
            let args = [&args[..], &SLOWLY].concat();

            // Killed, then resumed to the end.
            let child = loud(&cluster, place.path(), &args);
            cluster.wait_sent(1 << 20);
            let process = shown_by(&child);
            let first = secrets(&cluster);
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            let killed = end(child, place.path());
            assert_secret(&first, &killed, &process, place.path());
            let before = cluster.sent();
            let child = loud(&cluster, place.path(), &args);
            cluster.wait_sent(before + (1 << 20));
            let process = shown_by(&child);
            let resumed = end(child, place.path()).expect(0);
            assert_secret(&secrets(&cluster), &resumed, &process, place.path());

            // Refused by the exporter, for ever.
            cluster.sim.fault(Fault::new(FaultKind::Status { code: 401 }).times(0));
            let args = ["demo/web", "--output", "no", "--keep-export", "--reach", reach, "--retry-for", "1s"];
            let child = loud(&cluster, place.path(), &args);
            let failed = end(child, place.path());
            assert!(failed.code != Some(0) && failed.stderr.contains("401"), "{}", failed.stderr);
            assert_secret(&secrets(&cluster), &failed, &[], place.path());
        }
    }
}

#[track_caller]
fn no_file_holds(directory: &Path, secrets: &[String]) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            no_file_holds(&path, secrets);
        } else {
            assert_holds_none(&fs::read(&path).unwrap(), secrets, &path.display().to_string());
        }
    }
}

#[track_caller]
fn assert_holds_none(bytes: &[u8], secrets: &[String], what: &str) {
    // Secrets are ASCII: what is not UTF-8 does not hide them.
    let text = String::from_utf8_lossy(bytes);
    assert!(!secrets.iter().any(|secret| text.contains(secret)), "{what}");
}
