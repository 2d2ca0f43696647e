//! Uploads that are killed: the same command, given again, ends in the object of an undisturbed run,
//! and sends nothing twice that was safe.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use vmferry_formats::testkit::Rng;

use super::{
    proxy::{Fault, Proxy, Seen},
    servers::{Bucket, Server},
    write::{left_in, run_in},
};
use crate::{
    kill::OFTEN,
    support::{KINDS, make_disk, read, run, scratch},
};

/// Runs that are killed; more with `VMFERRY_KILL_RUNS`.
pub(super) fn kill_runs() -> u64 {
    std::env::var("VMFERRY_KILL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(20)
}

/// What a journal says is safe: numbers of parts that no later run has a reason to send.
pub(super) fn safe_parts(journal: &Path) -> Vec<u64> {
    let Ok(text) = fs::read_to_string(journal) else { return Vec::new() };
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let (mut parts, mut out, mut pins) = (BTreeMap::new(), 0, Vec::new());
    for (record, _) in lines {
        let Ok(record) = serde_json::from_str::<serde_json::Value>(record) else { break };
        match record["record"].as_str() {
            Some("part") => {
                parts.insert(record["part"].as_u64().unwrap(), record["len"].as_u64().unwrap());
            }
            Some("checkpoint") => {
                out = record["out"].as_u64().unwrap();
                let of = |pin: &serde_json::Value| pin["part"].as_u64().unwrap();
                pins =
                    record["pins"].as_array().map(|pins| pins.iter().map(of).collect()).unwrap_or_default();
            }
            _ => {}
        }
    }
    // All parts but the last are 8 MiB here.
    parts.keys().copied().filter(|part| part * (8 << 20) <= out && !pins.contains(part)).collect()
}

/// The same of the only journal below `home`.
fn safe_in(home: &Path) -> Vec<u64> {
    journal_in(home).map_or_else(Vec::new, |journal| safe_parts(&journal))
}

fn journal_in(home: &Path) -> Option<PathBuf> {
    let name = left_in(home).into_iter().find(|name| name.ends_with(".journal"))?;
    Some(home.join("state/vmferry").join(name))
}

/// Of what was `safe`, nothing is among the requests behind the first `sent`.
pub(super) fn assert_none_again(proxy: &Proxy, sent: usize, safe: &[u64], what: &str) {
    let again: Vec<u64> = proxy.seen()[sent..].iter().filter_map(part_of).collect();
    for part in safe {
        assert!(!again.contains(part), "{what}: part {part} was safe: {again:?}");
    }
}

pub(super) fn wait(milliseconds: u64) {
    std::thread::park_timeout(Duration::from_millis(milliseconds));
}

pub(super) fn part_of(seen: &Seen) -> Option<u64> {
    let rest = seen.target.split_once("partNumber=")?.1;
    rest.split('&').next()?.parse().ok()
}

#[test]
fn killed_uploads_end_in_the_object_of_an_undisturbed_run_and_send_nothing_safe_twice() {
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_disk(&source, 51, (58 << 20) + 512);
    let mut rng = Rng::new(51);
    let (mut killed, mut resumed, mut kept) = (0, 0, 0);
    let servers: Vec<Bucket> = Server::S3.into_iter().filter_map(Bucket::new).collect();
    if servers.is_empty() {
        return;
    }
    let mut references: BTreeMap<&str, (Vec<u8>, PathBuf)> = BTreeMap::new();
    for kind in &KINDS {
        let place = dir.path().join(kind.name);
        fs::create_dir(&place).unwrap();
        let image = place.join(format!("disk.{}", kind.extension));
        run(kind.convert(&source, &image)).expect(0);
        references.insert(kind.name, (read(&image), place));
    }
    let mut round = 0;
    while killed < kill_runs() {
        round += 1;
        assert!(round < 40 * kill_runs(), "it is always faster than the kill");
        let bucket = &servers[usize::try_from(round).unwrap() % servers.len()];
        let kind = &KINDS[usize::try_from(round).unwrap() % KINDS.len()];
        let (image, place) = &references[kind.name];
        // Slow enough to be killed in the middle.
        let pause = rng.below(60);
        let proxy = Proxy::start(&bucket.address, move |seen| {
            if part_of(seen).is_some() {
                std::thread::park_timeout(Duration::from_millis(pause));
            }
            Fault::None
        });
        let (through, key) = (bucket.through(&proxy.address), format!("{round}/disk.{}", kind.extension));
        let home = dir.path().join(round.to_string());
        let mut args = kind.convert(&source, Path::new(&bucket.url(&key)));
        args.extend(OFTEN.map(str::to_owned));
        for _ in 0..1 + rng.below(3) {
            let mut child = through
                .vmferry(&args)
                .env("XDG_STATE_HOME", home.join("state"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // At some time, or once some parts are safe.
            let (wanted, delay) = (usize::try_from(rng.below(4)).unwrap(), 30 + rng.below(900));
            wait(if wanted == 0 { delay } else { 1 });
            while safe_in(&home).len() < wanted && child.try_wait().unwrap().is_none() {
                wait(1);
            }
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            killed += 1;
            let safe = safe_in(&home);
            let sent = proxy.seen().len();
            // One more run, which may be killed as well; what is safe is safe in all of them.
            if rng.below(2) == 0 {
                let report = run_in(&through, &home, &args).expect(0).json();
                resumed += u64::from(report["resumed_from"].is_u64());
                assert_none_again(&proxy, sent, &safe, &format!("{} {round}", kind.name));
                kept += safe.len();
                break;
            }
        }
        if bucket.head(&key).is_null() || !left_in(&home).is_empty() {
            let report = run_in(&through, &home, &args).expect(0).json();
            resumed += u64::from(report["resumed_from"].is_u64());
        }
        let file = dir.path().join("fetched");
        bucket.get(&key, &file);
        assert!(read(&file) == *image, "{} {round}: other bytes", kind.name);
        bucket.get(&format!("{key}.vmferry.jsonl"), &file);
        let manifest = place.join(format!("disk.{}.vmferry.jsonl", kind.extension));
        assert!(read(&file) == read(&manifest), "{} {round}: another manifest", kind.name);
        assert!(left_in(&home).is_empty(), "{} {round}: {:?}", kind.name, left_in(&home));
    }
    for bucket in &servers {
        let markers: Vec<String> =
            bucket.list().into_iter().filter(|key| key.contains(".vmferry/")).collect();
        assert!(markers.len() as u64 <= killed, "{markers:?}");
    }
    println!("{killed} uploads killed, {resumed} resumed, {kept} parts not sent again");
    assert!(resumed > 0 && kept > 0, "{resumed} resumed, {kept} parts kept");
}

#[test]
fn an_upload_that_somebody_gave_up_is_begun_anew() {
    for server in Server::S3 {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 52, (73 << 20) + 1);
        let url = bucket.url("x/disk.raw");
        let mut args = ["convert", "-q", source.to_str().unwrap(), &url].map(str::to_owned).to_vec();
        args.extend(OFTEN.map(str::to_owned));
        // Once something is safe, the other parts wait for the kill, however slow that is.
        let home = dir.path().to_owned();
        let proxy = Proxy::start(&bucket.address, move |seen| match part_of(seen) {
            None => Fault::None,
            Some(_) if safe_in(&home).is_empty() => {
                wait(200);
                Fault::None
            }
            Some(_) => Fault::Stall(Duration::from_secs(600)),
        });
        let mut child = bucket
            .through(&proxy.address)
            .vmferry(&args)
            .env("XDG_STATE_HOME", dir.path().join("state"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while safe_in(dir.path()).is_empty() {
            assert!(child.try_wait().unwrap().is_none(), "it was faster than the kill");
            wait(1);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let journal = journal_in(dir.path()).unwrap();
        args.extend(["--journal", journal.to_str().unwrap()].map(str::to_owned));
        bucket.run(["gc", &bucket.url("x/"), "--yes", "--all"]).expect(0);
        let done = run_in(&bucket, dir.path(), &args).expect(0);
        assert!(done.stderr.contains("began anew"), "{server:?}: {}", done.stderr);
        let file = dir.path().join("fetched");
        bucket.get("x/disk.raw", &file);
        assert!(read(&file) == disk, "{server:?}");
        assert_eq!(bucket.list(), ["x/disk.raw", "x/disk.raw.vmferry.jsonl"], "{server:?}");
        assert!(left_in(dir.path()).is_empty());
    }
}

/// A command that writes an object, and what that must be.
struct Upload<'a> {
    bucket: &'a Bucket,
    args: Vec<String>,
    key: String,
    image: &'a [u8],
}

/// Kills runs of `upload` and goes on with them; how many were killed, and how many parts were safe.
fn kill_and_go_on(upload: &Upload<'_>, home: &Path, rng: &mut Rng) -> (u64, usize) {
    let Upload { bucket, args, key, image } = upload;
    let pause = 40 + rng.below(60);
    let proxy = Proxy::start(&bucket.address, move |seen| {
        if seen.body_len > 1 << 20 {
            std::thread::park_timeout(Duration::from_millis(pause));
        }
        Fault::None
    });
    let through = bucket.through(&proxy.address);
    let (mut killed, mut kept) = (0, 0);
    for _ in 0..1 + rng.below(2) {
        let mut child = through
            .vmferry(args)
            .env("XDG_STATE_HOME", home.join("state"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let wanted = kept + usize::try_from(rng.below(3)).unwrap();
        while safe_in(home).len() < wanted && child.try_wait().unwrap().is_none() {
            wait(1);
        }
        wait(rng.below(300));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        killed += 1;
        kept = safe_in(home).len();
    }
    let sent = proxy.seen().len();
    if bucket.head(key).is_null() || !left_in(home).is_empty() {
        run_in(&through, home, args).expect(0);
        // Each part that was not safe, once.
        let again: usize =
            proxy.seen()[sent..].iter().map(|seen| seen.body_len).filter(|len| *len > 1 << 20).sum();
        let most = image.len().saturating_sub(kept * (8 << 20));
        assert!(again <= most, "{:?} {key}: {again} bytes were sent, {kept} parts were safe", bucket.server);
    }
    let file = home.with_extension("fetched");
    bucket.get(key, &file);
    assert!(read(&file) == *image, "{:?} {key}: other bytes", bucket.server);
    fs::remove_file(&file).unwrap();
    assert!(left_in(home).is_empty(), "{:?} {key}: {:?}", bucket.server, left_in(home));
    (killed, kept)
}

/// Fewer of those that take longer.
fn fewer_kill_runs(usually: u64) -> u64 {
    std::env::var("VMFERRY_KILL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(usually)
}

#[test]
fn killed_uploads_of_appliances_end_in_the_object_of_an_undisturbed_run() {
    let dir = scratch();
    let disks = [dir.path().join("root.raw"), dir.path().join("data.raw")];
    make_disk(&disks[0], 53, (70 << 20) + 512);
    make_disk(&disks[1], 54, 40 << 20);
    let local = dir.path().join("vm.ova");
    run(crate::ova::pack(&disks, &local, &[])).expect(0);
    let (image, mut rng) = (read(&local), Rng::new(53));
    let servers: Vec<Bucket> = Server::S3.into_iter().filter_map(Bucket::new).collect();
    let (mut killed, mut kept, mut round) = (0, 0, 0);
    while !servers.is_empty() && killed < fewer_kill_runs(5) {
        round += 1;
        assert!(round < 20 * fewer_kill_runs(5), "it is always faster than the kill");
        let bucket = &servers[usize::try_from(round).unwrap() % servers.len()];
        let key = format!("{round}/vm.ova");
        let mut args = crate::ova::pack(&disks, &local, &OFTEN);
        *args.last_mut().unwrap() = bucket.url(&key);
        let upload = Upload { bucket, args, key, image: &image };
        let (more, parts) = kill_and_go_on(&upload, &dir.path().join(round.to_string()), &mut rng);
        (killed, kept) = (killed + more, kept + parts);
    }
    println!("{killed} uploads of appliances killed, {kept} parts not sent again");
}

#[test]
fn killed_uploads_to_azure_end_in_the_object_of_an_undisturbed_run() {
    let Some(bucket) = Bucket::new(Server::Azurite) else { return };
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_disk(&source, 55, (58 << 20) + 512);
    let (kind, mut rng) = (&KINDS[1], Rng::new(55));
    let local = dir.path().join("disk.qcow2");
    run(kind.convert(&source, &local)).expect(0);
    let image = read(&local);
    let (mut killed, mut kept, mut round) = (0, 0, 0);
    while killed < fewer_kill_runs(5) {
        round += 1;
        assert!(round < 20 * fewer_kill_runs(5), "it is always faster than the kill");
        let key = format!("{round}/disk.qcow2");
        let mut args = kind.convert(&source, Path::new(&bucket.url(&key)));
        args.extend(OFTEN.map(str::to_owned));
        let upload = Upload { bucket: &bucket, args, key, image: &image };
        let (more, parts) = kill_and_go_on(&upload, &dir.path().join(round.to_string()), &mut rng);
        (killed, kept) = (killed + more, kept + parts);
    }
    println!("{killed} uploads to Azure killed, {kept} parts not sent again");
}
