//! Runs that end before their time, what they leave, and what comes of it.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::process::{Pid, Signal, kill_process};
use vmferry_formats::testkit::Rng;
use vmferry_sim::{Config, Disk, Fault, FaultKind, Link, Rule, Vm};

use super::cluster::{Cluster, MIB, assert_disk, end, web};
use crate::support::{Finished, listing, run, scratch, vmferry, wait_for};

/// Slow, with many checkpoints.
pub(super) const SLOWLY: [&str; 8] =
    ["--rate", "24MiB", "--connections", "2", "--checkpoint-bytes", "1MiB", "--checkpoint-interval", "20ms"];

/// Waits until so many bytes of the disk are durable in its partial output.
#[track_caller]
pub(super) fn wait_durable(journal: &Path, bytes: u64) {
    wait_for("a durable point", || durable(journal).is_some_and(|at| at >= bytes));
}

/// How much of the disk is durable, as the journal says.
fn durable(journal: &Path) -> Option<u64> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let last = text.lines().rev().find(|line| line.contains("\"checkpoint\""))?;
    let (json, _crc) = last.rsplit_once(' ')?;
    let line: serde_json::Value = serde_json::from_str(json).ok()?;
    line["at"].as_u64().or_else(|| line["checkpoint"]["at"].as_u64())
}

/// A process that has ended by itself meanwhile is no matter.
fn signal(child: &std::process::Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
}

/// So many rounds, or as many as VMFERRY_KILL_RUNS says.
fn rounds(otherwise: u64) -> u64 {
    std::env::var("VMFERRY_KILL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn killed_runs_go_on_to_the_bytes_of_an_undisturbed_one() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let undisturbed = scratch();
    cluster.run(undisturbed.path(), &["demo/web", "--output", "out"]).expect(0);
    let images = ["out/web/root.qcow2", "out/web/data.qcow2"];
    let [expected_root, expected_data] =
        images.map(|image| fs::read(undisturbed.path().join(image)).unwrap());
    let mut rng = Rng::new(11);
    for round in 0..rounds(6) {
        let transfer = if rng.below(2) == 0 { "gzip" } else { "raw" };
        let reach = if rng.below(3) == 0 { "port-forward" } else { "external" };
        let place = scratch();
        let args = ["demo/web", "--output", "out", "--transfer", transfer, "--reach", reach];
        let args = [&args[..], &SLOWLY].concat();
        for _ in 0..=rng.below(2) {
            let before = cluster.sent();
            let mut child = cluster.spawn(place.path(), &args);
            let enough = before + (1 << 20) + rng.below(16 << 20);
            wait_for("bytes or an end", || cluster.sent() >= enough || child.try_wait().unwrap().is_some());
            signal(&child, Signal::KILL);
            if end(child).code == Some(0) {
                break;
            }
            cluster.assert_gc_lists_all();
        }
        if !place.path().join("out/web/manifest.json").exists()
            || place.path().join("out/web/.vmferry-run").exists()
        {
            let done = cluster.run(place.path(), &args);
            assert_eq!(done.code, Some(0), "{round} {transfer}: {}", done.stderr);
        }
        // A kill in the very last step leaves objects that gc finds.
        cluster.assert_gc_lists_all();
        run(["gc", "--kubeconfig", cluster.kubeconfig.to_str().unwrap(), "-A", "--yes", "--all"]).expect(0);
        assert!(fs::read(place.path().join(images[0])).unwrap() == expected_root, "{round} {transfer}");
        assert!(fs::read(place.path().join(images[1])).unwrap() == expected_data, "{round} {transfer}");
        let names = listing(&place.path().join("out/web"));
        assert!(!names.iter().any(|name| name.contains("partial") || name.starts_with('.')), "{names:?}");
        cluster.assert_clean();
    }
    assert_disk(&undisturbed.path().join(images[0]), &root);
    assert_disk(&undisturbed.path().join(images[1]), &data);
}

/// A kill between the last step of a volume and the run's own next line.
#[test]
fn volumes_that_are_complete_are_not_fetched_again() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let place = scratch();
    let args = ["demo/web", "--output", "out", "--transfer", "raw"];
    let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
    cluster.wait_sent(4 << 20);
    signal(&child, Signal::KILL);
    end(child);
    let state = place.path().join("out/web/.vmferry-run");
    let begun = fs::read_to_string(&state).unwrap();
    assert!(begun.contains("web-root") && !begun.contains("\"done\""), "{begun}");
    cluster.run(place.path(), &args).expect(0);

    fs::write(&state, format!("{begun}{{\"record\":\"begun\",\"claim\":\"web-data\"}}\n")).unwrap();
    fs::remove_file(place.path().join("out/web/manifest.json")).unwrap();
    let sent = cluster.sent();
    let report = cluster.run(place.path(), &[&args[..], &["-o", "json"]].concat()).expect(0).json();
    assert_eq!(cluster.sent(), sent, "nothing is fetched again");
    assert_eq!(report["volumes"][0]["virtual_size"], root.len());
    assert_eq!(report["volumes"][1]["virtual_size"], data.len());
    assert!(report["volumes"][0]["digest"].is_string() && !state.exists(), "{report}");
    assert!(place.path().join("out/web/manifest.json").exists());
    cluster.assert_clean();
}

/// The guard, which proves that the disk is the same, reads 18 chunks again, so the disk has many more.
#[test]
fn a_resumed_run_fetches_what_is_missing_and_no_more() {
    let cluster = Cluster::start(Config::default());
    let len = 192 << 20;
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::pattern(len, 3)));
    let mut disk = vec![0; usize::try_from(len).unwrap()];
    Disk::pattern(len, 3).read(0, &mut disk).unwrap();
    let mut rng = Rng::new(12);
    for round in 0..rounds(2) {
        let place = scratch();
        let transfer = if round % 2 == 0 { "raw" } else { "gzip" };
        let args = ["demo/web", "--output", "root.raw", "--transfer", transfer, "--connections", "2"];
        let often = ["--rate", "64MiB", "--checkpoint-bytes", "4MiB", "--checkpoint-interval", "50ms"];
        let args = [&args[..], &often].concat();
        let before = cluster.sent();
        let child = cluster.spawn(place.path(), &args);
        let journal = place.path().join("root.raw.partial.journal");
        wait_durable(&journal, (8 << 20) + rng.below(140 << 20));
        signal(&child, Signal::KILL);
        end(child);
        let (durable, sent) = (durable(&journal).unwrap(), cluster.sent());
        let report = cluster.run(place.path(), &[&args[..], &["-o", "json"]].concat()).expect(0).json();
        assert!(fs::read(place.path().join("root.raw")).unwrap() == disk, "{round} {transfer}");
        // What was not durable, what is compared again, and a range a connection.
        let most = (len - durable) + durable.min(GUARD_LEN) + 2 * RANGE_LEN;
        let (first, again) = (sent - before, cluster.sent() - sent);
        let context = format!(
            "{round} {transfer}: {} MiB sent, {} MiB durable, {} MiB sent again",
            first >> 20,
            durable >> 20,
            again >> 20
        );
        assert!(again <= most, "{context}");
        assert!(report["bytes_read"].as_u64().unwrap() <= most, "{context}: {report}");
        eprintln!("{context}");
        cluster.assert_clean();
    }
}

/// What is compared before a run goes on.
const GUARD_LEN: u64 = 18 * (4 << 20);

/// The longest range of one request.
const RANGE_LEN: u64 = 16 << 20;

#[test]
fn a_new_export_of_the_same_source_goes_on_with_an_old_partial() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    let place = scratch();
    let args = ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw"];
    let args = [&args[..], &SLOWLY].concat();
    let child = cluster.spawn(place.path(), &args);
    wait_durable(&place.path().join("root.raw.partial.journal"), 4 << 20);
    signal(&child, Signal::KILL);
    end(child);
    let (namespace, export) = ("demo".to_owned(), cluster.export_name());
    cluster.sim.act(vmferry_sim::Action::ExpireTtl { namespace, export });
    wait_for("the end of the export", || {
        cluster.sim.objects("virtualmachineexports", Some("demo")).is_empty()
    });
    let before = fs::metadata(place.path().join("root.raw.partial")).unwrap();
    cluster.run(place.path(), &args).expect(0);
    assert_disk(&place.path().join("root.raw"), &root);
    let after = fs::metadata(place.path().join("root.raw")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(before.ino(), after.ino(), "the partial was taken up");
    cluster.assert_clean();
}

#[test]
fn a_snapshot_that_was_made_serves_the_next_run_too() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(4, 21 * MIB);
    cluster
        .sim
        .add_vm(Vm::new("demo", "live").disk("root", Disk::bytes(disk.clone())).running(true).agent(true));
    let place = scratch();
    let args = ["demo/live", "--output", "out", "--transfer", "raw"];
    let args = [&args[..], &SLOWLY].concat();
    let child = cluster.spawn(place.path(), &args);
    cluster.wait_sent(8 << 20);
    signal(&child, Signal::KILL);
    end(child);
    assert_eq!(cluster.sim.objects("virtualmachinesnapshots", Some("demo")).len(), 1);
    // It may be stopped by then; the disk is still the snapshotted one.
    cluster.sim.stop_vm("demo", "live");
    cluster.run(place.path(), &args).expect(0);
    assert_disk(&place.path().join("out/live/root.qcow2"), &disk);
    cluster.assert_clean();
}

#[test]
fn a_vm_that_ran_in_between_is_noticed() {
    let cluster = Cluster::start(Config::default());
    let (root, after) = (cluster.disk(1, 21 * MIB), cluster.disk(7, 21 * MIB));
    let disk = Disk::bytes(root).changing_on_start(Disk::bytes(after));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk));
    let place = scratch();
    let args = ["demo/web", "--output", "out", "--transfer", "raw"];
    let args = [&args[..], &SLOWLY].concat();
    let child = cluster.spawn(place.path(), &args);
    wait_durable(&place.path().join("out/web/root.qcow2.partial.journal"), 4 << 20);
    signal(&child, Signal::KILL);
    end(child);
    cluster.sim.start_vm("demo", "web");
    cluster.sim.stop_vm("demo", "web");
    let failed = cluster.run(place.path(), &args).expect(4);
    assert!(failed.stderr.contains("--restart"), "{}", failed.stderr);
    assert!(!place.path().join("out/web/root.qcow2").exists());
}

#[test]
fn signals_suspend_and_say_how_to_go_on() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let place = scratch();
        let args = ["demo/web", "--volume", "root", "--output", "root.qcow2", "--transfer", "raw"];
        let args = [&args[..], &SLOWLY].concat();
        let before = cluster.sent();
        let child = cluster.spawn(place.path(), &args);
        cluster.wait_sent(before + (6 << 20));
        signal(&child, sent);
        let stopped = end(child).expect(code);
        assert!(stopped.stderr.contains("run the same command again"), "{}", stopped.stderr);
        assert!(stopped.stderr.contains("vmferry gc"), "{}", stopped.stderr);
        cluster.run(place.path(), &args).expect(0);
        assert_disk(&place.path().join("root.qcow2"), &root);
        cluster.assert_clean();
    }
}

/// The compressed stream is still being read when the run ends: it must not take the export that is
/// removed for one that was lost, and make another.
#[test]
fn what_a_failed_pipe_had_made_stays_removed() {
    let cluster = Cluster::start(Config::default());
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::pattern(512 << 20, 3)));
    let place = scratch();
    let args = ["--pvc", "web-root", "-n", "demo", "-O", "raw", "--output", "-", "--transfer", "gzip"];
    // The run is still cleaning up when the stream breaks.
    let pause = std::time::Duration::from_secs(1);
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause }).api_path("/secrets/").times(0));
    // And the stream is in the middle of a chunk then.
    let slow = FaultKind::Slow { bytes_per_second: 1 << 20 };
    cluster.sim.fault(Fault::new(slow).link(Link::Gzip).times(0));
    for sent in [None, Some(Signal::INT), Some(Signal::TERM)] {
        let mut child = cluster.spawn(place.path(), &args);
        let mut stdout = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut stdout, &mut [0; 100]).unwrap();
        let reader = sent.map(|sent| {
            signal(&child, sent);
            std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()))
        });
        let ended = end(child);
        if let Some(reader) = reader {
            reader.join().unwrap().unwrap();
        }
        assert_ne!(ended.code, Some(0), "{sent:?} {}", ended.stderr);
        assert!(!ended.stderr.contains("making another one"), "{sent:?} {}", ended.stderr);
        cluster.assert_clean();
    }
}

#[test]
fn gc_lists_and_removes_what_a_crash_left() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(4, 21 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "live").disk("root", Disk::bytes(disk)).running(true).agent(true));
    cluster.add_export("theirs", "live", "token");
    let place = scratch();
    let args = ["demo/live", "--output", "out", "--transfer", "raw"];
    let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    signal(&child, Signal::KILL);
    end(child);

    let kubeconfig = cluster.kubeconfig.to_str().unwrap();
    let gc = |extra: &[&str]| {
        let rows =
            run([&["gc", "--kubeconfig", kubeconfig, "-A", "-o", "json"], extra].concat()).expect(0).json();
        let mut kinds = BTreeMap::new();
        for row in rows.as_array().unwrap() {
            assert_eq!(row["namespace"], "demo");
            *kinds.entry(row["kind"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        kinds
    };
    let all = BTreeMap::from(
        [("secret", 1), ("virtualmachineexport", 1), ("virtualmachinesnapshot", 1)]
            .map(|(k, n)| (k.to_owned(), n)),
    );
    assert_eq!(gc(&[]), all);
    assert_eq!(gc(&["--older-than", "1h"]), BTreeMap::new());
    // What may be of a run that is going on stays, unless it is named.
    assert_eq!(gc(&["--yes"]), all);
    assert_eq!(gc(&["--yes", "--run", "another"]), BTreeMap::new());
    assert_eq!(gc(&[]), all);
    let export = cluster.sim.objects("virtualmachineexports", Some("demo"));
    let id = export.iter().find_map(|export| {
        let labels = export["metadata"]["labels"].as_object()?;
        let run = labels.iter().find(|(key, _)| key.contains("run"))?;
        run.1.as_str().map(str::to_owned)
    });
    assert_eq!(gc(&["--yes", "--run", &id.unwrap()]), all);
    assert_eq!(gc(&[]), BTreeMap::new());
    cluster.assert_clean();
    assert_eq!(cluster.export_name(), "theirs", "what is not ours stays");
}

/// One object that cannot be removed does not keep the others.
#[test]
fn gc_removes_what_it_may_and_says_what_it_may_not() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(4, 21 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "live").disk("root", Disk::bytes(disk)).running(true).agent(true));
    let place = scratch();
    let args = ["demo/live", "--output", "out", "--transfer", "raw"];
    let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    signal(&child, Signal::KILL);
    end(child);

    // Exports, of which this user may delete none; snapshots; and nothing about secrets.
    let limited = place.path().join("limited");
    let rules = |may_delete: &[&str]| {
        let exports = "export.kubevirt.io/virtualmachineexports";
        let snapshots = "snapshot.kubevirt.io/virtualmachinesnapshots";
        vec![Rule::new(&["list", "get"], &[exports, snapshots]), Rule::new(&["delete"], may_delete)]
    };
    let gc = || {
        let kubeconfig = limited.to_str().unwrap();
        run(["gc", "--kubeconfig", kubeconfig, "-n", "demo", "--yes", "--all", "-o", "json"])
    };
    let snapshots = "snapshot.kubevirt.io/virtualmachinesnapshots";
    fs::write(&limited, cluster.sim.kubeconfig_with(rules(&[snapshots]))).unwrap();
    let rows = gc().expect(7).json();
    let end = |kind: &str| rows.as_array().unwrap().iter().find(|row| row["kind"] == kind).cloned();
    let export = end("virtualmachineexport").unwrap();
    assert_eq!(export["removed"], false);
    assert!(export["error"].as_str().unwrap().contains("no right"), "{export}");
    assert_eq!(end("virtualmachinesnapshot").unwrap()["removed"], true);
    assert_eq!(end("secret"), None, "they cannot be listed");

    let exports = "export.kubevirt.io/virtualmachineexports";
    fs::write(&limited, cluster.sim.kubeconfig_with(rules(&[exports]))).unwrap();
    let rows = gc().expect(0).json();
    assert_eq!(rows[0]["removed"], true, "{rows}");
    // The secret goes with its export, in the cluster's own time.
    wait_for("the end of the secret", || cluster.tokens().is_empty());
    cluster.assert_clean();
}

#[test]
fn a_run_that_fails_says_how_to_go_on_and_how_to_give_up() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    let args = ["demo/web", "--output", "out", "--transfer", "raw"];
    let args = [&args[..], &SLOWLY].concat();
    let child = cluster.spawn(place.path(), &args);
    wait_durable(&place.path().join("out/web/root.qcow2.partial.journal"), 4 << 20);
    signal(&child, Signal::KILL);
    end(child);
    // Before it has an export to go on with.
    let rules = vec![Rule::new(&["get"], &["kubevirt.io/*", "/persistentvolumeclaims"])];
    let kubeconfig = place.path().join("limited");
    fs::write(&kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let mut command = vmferry(["export"]);
    command.args(&args).arg("--kubeconfig").arg(&kubeconfig).current_dir(place.path());
    let failed = Finished::from(command.output().unwrap()).expect(7);
    assert!(failed.stderr.contains("the same command goes on with"), "{}", failed.stderr);
    let id = failed.stderr.split("--run ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let kubeconfig = cluster.kubeconfig.to_str().unwrap();
    run(["gc", "--kubeconfig", kubeconfig, "-n", "demo", "--run", &id, "--yes"]).expect(0);
    cluster.assert_clean();
}
