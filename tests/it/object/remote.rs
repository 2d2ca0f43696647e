//! `--journal remote`: runs that are killed are taken up on other machines, which have nothing of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use vmferry_formats::testkit::Rng;

use super::{
    kill::{assert_none_again, part_of, safe_parts, wait},
    proxy::{Fault, Proxy},
    servers::{Bucket, KEY_ID, SECRET, Server},
    write::{left_in, run_in},
};
use crate::{
    kill::OFTEN,
    support::{KINDS, make_disk, read, run, scratch, tool, wait_for},
};

/// Runs that are killed; more with `VMFERRY_KILL_RUNS`.
fn kill_runs() -> u64 {
    std::env::var("VMFERRY_KILL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(5)
}

/// The segments of the journal beside `key`'s object.
fn segments(bucket: &Bucket) -> Vec<String> {
    bucket.list().into_iter().filter(|key| key.ends_with(".journal")).collect()
}

/// What they say together.
fn joined(bucket: &Bucket, dir: &Path) -> PathBuf {
    let (journal, file) = (dir.join("joined"), dir.join("segment"));
    let mut all = Vec::new();
    for (number, key) in (1..).zip(segments(bucket)) {
        bucket.get(&key, &file);
        let segment = read(&file);
        let end = segment.iter().position(|byte| *byte == b'\n').unwrap();
        let head: serde_json::Value = serde_json::from_slice(&segment[..end]).unwrap();
        assert_eq!(head["segment"], number);
        all.truncate(usize::try_from(head["at"].as_u64().unwrap()).unwrap());
        all.extend_from_slice(&segment[end + 1..]);
    }
    fs::write(&journal, all).unwrap();
    journal
}

/// Ends a process that may be stopped, whatever becomes of the test.
struct Ends(u32);

impl Drop for Ends {
    fn drop(&mut self) {
        // It has ended, if all went well.
        let id = self.0.to_string();
        drop(std::process::Command::new("kill").args(["-KILL", &id]).stderr(Stdio::null()).status());
    }
}

fn spawn(bucket: &Bucket, home: &Path, args: &[String]) -> Child {
    bucket
        .vmferry(args)
        .env("XDG_STATE_HOME", home.join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_run_is_taken_up_by_a_machine_that_has_nothing_of_it() {
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_disk(&source, 71, (90 << 20) + 512);
    let mut rng = Rng::new(71);
    let servers: Vec<Bucket> =
        [Server::S3s, Server::Azurite, Server::Moto].into_iter().filter_map(Bucket::new).collect();
    if servers.is_empty() {
        return;
    }
    let (mut killed, mut resumed, mut kept, mut round) = (0, 0, 0, 0);
    // A run that was killed before its first record has nothing to resume.
    while killed < kill_runs() || resumed == 0 {
        round += 1;
        assert!(
            round < 40 * kill_runs(),
            "{killed} killed, {resumed} resumed: it is always faster than the kill"
        );
        let bucket = &servers[usize::try_from(round).unwrap() % servers.len()];
        let kind = &KINDS[usize::try_from(round).unwrap() % KINDS.len()];
        let name = format!("disk.{}", kind.extension);
        let local = dir.path().join(kind.name);
        if !local.exists() {
            fs::create_dir(&local).unwrap();
            run(kind.convert(&source, &local.join(&name))).expect(0);
        }
        let pause = 100 + rng.below(100);
        let proxy = Proxy::start(&bucket.address, move |seen| {
            if seen.body_len > 5 << 20 {
                wait(pause);
            }
            Fault::None
        });
        let through = bucket.through(&proxy.address);
        let mut args = kind.convert(&source, Path::new(&bucket.url(&name)));
        args.extend(OFTEN.map(str::to_owned));
        args.extend(["--journal", "remote"].map(str::to_owned));
        let (mut safe, mut sent) = (Vec::new(), 0);
        for attempt in 0..1 + rng.below(3) {
            let home = dir.path().join(format!("{round}-{attempt}"));
            let mut child = spawn(&through, &home, &args);
            let wanted = segments(bucket).len() + usize::try_from(2 + rng.below(2)).unwrap();
            while segments(bucket).len() < wanted && child.try_wait().unwrap().is_none() {
                wait(1);
            }
            wait(rng.below(200));
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            killed += 1;
            if !bucket.head(&name).is_null() {
                // It was at its last steps, which take the segments away.
                break;
            }
            (safe, sent) = (safe_parts(&joined(bucket, dir.path())), proxy.seen().len());
        }
        let home = dir.path().join(format!("{round}-last"));
        if bucket.head(&name).is_null() {
            let report = run_in(&through, &home, &args).expect(0).json();
            resumed += u64::from(report["resumed_from"].is_u64());
            assert_none_again(&proxy, sent, &safe, &format!("{} {round}", kind.name));
            kept += safe.len();
        } else if !segments(bucket).is_empty() {
            // Killed behind the last request.
            run_in(&through, &home, &args);
            bucket.run(["gc", &bucket.url(""), "--yes", "--all"]).expect(0);
        }
        assert!(left_in(&home).is_empty(), "{} {round}: {:?}", kind.name, left_in(&home));
        let file = dir.path().join("fetched");
        bucket.get(&name, &file);
        assert!(
            read(&file) == read(&local.join(&name)),
            "{:?} {} {round}: other bytes",
            bucket.server,
            kind.name
        );
        let left: Vec<String> = bucket.list().into_iter().filter(|key| key.starts_with(".vmferry")).collect();
        assert!(left.is_empty(), "{:?} {} {round}: {left:?}", bucket.server, kind.name);
        for key in bucket.list() {
            bucket.client(["delete", &key]);
        }
    }
    println!("{killed} uploads killed, {resumed} resumed elsewhere, {kept} parts not sent again");
}

#[test]
fn of_two_machines_that_go_on_at_once_the_slower_one_ends() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let source = dir.path().join("source.raw");
    let disk = make_disk(&source, 72, (90 << 20) + 512);
    let proxy = Proxy::start(&bucket.address, |seen| {
        if seen.body_len > 5 << 20 {
            wait(300);
        }
        Fault::None
    });
    let through = bucket.through(&proxy.address);
    let url = bucket.url("disk.raw");
    let mut args =
        ["convert", "-q", source.to_str().unwrap(), &url, "--journal", "remote"].map(str::to_owned).to_vec();
    args.extend(OFTEN.map(str::to_owned));
    let slow = through
        .vmferry(&args)
        .env("XDG_STATE_HOME", dir.path().join("a/state"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ends = Ends(slow.id());
    wait_for("a segment of the first", || segments(&bucket).len() > 1);
    tool("kill", ["-STOP", &slow.id().to_string()]);
    let before = segments(&bucket).len();
    let mut fast = spawn(&through, &dir.path().join("b"), &args);
    wait_for("a segment of the second", || segments(&bucket).len() > before);
    fast.kill().unwrap();
    fast.wait().unwrap();
    tool("kill", ["-CONT", &slow.id().to_string()]);
    let ended = slow.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        ended.status.code() == Some(5) && told.contains("another run goes on"),
        "{:?}: {told}",
        ended.status
    );
    run_in(&bucket, &dir.path().join("c"), &args).expect(0);
    let file = dir.path().join("fetched");
    bucket.get("disk.raw", &file);
    assert!(read(&file) == disk);
    assert_eq!(bucket.list(), ["disk.raw", "disk.raw.vmferry.jsonl"]);
}

#[test]
fn gc_removes_what_was_kept_and_another_mode_is_refused() {
    let Some(bucket) = Bucket::new(Server::Moto) else { return };
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_disk(&source, 73, (42 << 20) + 512);
    let proxy = Proxy::start(&bucket.address, |seen| {
        wait(if part_of(seen).is_some() { 300 } else { 0 });
        Fault::None
    });
    let through = bucket.through(&proxy.address);
    let mut args =
        ["convert", "-q", source.to_str().unwrap(), &bucket.url("vms/disk.raw")].map(str::to_owned).to_vec();
    args.extend(OFTEN.map(str::to_owned));
    let with_journal = [args.as_slice(), &["--journal", "remote"].map(str::to_owned)].concat();
    let mut child = spawn(&through, dir.path(), &with_journal);
    wait_for("segments", || segments(&bucket).len() > 1);
    child.kill().unwrap();
    child.wait().unwrap();
    // Nothing secret is in what was left.
    let state = dir.path().join("state/vmferry");
    let mut left: Vec<Vec<u8>> = left_in(dir.path()).iter().map(|name| read(&state.join(name))).collect();
    for key in bucket.list().iter().filter(|key| !key.ends_with(".pin")) {
        let file = dir.path().join("fetched");
        bucket.get(key, &file);
        left.push(read(&file));
    }
    assert!(left.len() >= 4, "journal, pins, marker, segments");
    for bytes in left {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(SECRET) && !text.contains("AWS4-HMAC") && !text.contains(KEY_ID), "{text}");
    }
    let refused = run_in(&through, dir.path(), &args).expect(5);
    assert!(refused.stderr.contains("--journal remote"), "{}", refused.stderr);
    bucket.run(["gc", &bucket.url("vms"), "--yes", "--all"]).expect(0);
    assert!(bucket.list().is_empty(), "{:?}", bucket.list());
    // What is here is a copy of what is over.
    run_in(&bucket, dir.path(), &[&with_journal[..4], &["--journal", "remote"].map(str::to_owned)].concat())
        .expect(0);
    assert_eq!(bucket.list(), ["vms/disk.raw", "vms/disk.raw.vmferry.jsonl"]);
    let local = dir.path().join("x.raw");
    let wrong =
        run(["convert", source.to_str().unwrap(), local.to_str().unwrap(), "--journal", "remote"]).expect(2);
    assert!(wrong.stderr.contains("object stores"), "{}", wrong.stderr);
}
