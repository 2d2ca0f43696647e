//! What a later run makes of an earlier one whose source, place or purpose is another by now.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vmferry_sim::{Config, Disk, Fault, FaultKind, Rule, Server, Vm};

use super::{
    cluster::{Cluster, MIB, assert_disk, end, web},
    interrupted::SLOWLY,
};
use crate::support::{Finished, listing, scratch, wait_for};

const WEB: [&str; 6] = ["demo/web", "--output", "out", "--transfer", "raw", "--retry-for=2s"];

/// A stopped VM `demo/web` with two disks, which are others once it has been started; both are returned.
fn changing(cluster: &Cluster) -> [Vec<u8>; 4] {
    let disks = [1, 2, 3, 4].map(|seed| cluster.disk(seed, 5 * MIB));
    let [root, data, new_root, new_data] = disks.clone().map(Disk::bytes);
    let vm = Vm::new("demo", "web").disk("root", root.changing_on_start(new_root));
    cluster.sim.add_vm(vm.disk("data", data.changing_on_start(new_data)));
    disks
}

/// Runs it so that the first volume is completed and the second one fails.
#[track_caller]
fn half(cluster: &Cluster, place: &Path, args: &[&str]) -> Finished {
    let claim = format!("{}-data", args[0].split_once('/').unwrap().1);
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).volume(&claim).times(0));
    let failed = cluster.run(place, args);
    assert_ne!(failed.code, Some(0));
    cluster.sim.clear_faults();
    failed
}

fn kill(child: std::process::Child) {
    let _ = kill_process(Pid::from_child(&child), Signal::KILL);
    end(child);
}

/// Exports and snapshots that were asked for so far.
fn made(cluster: &Cluster) -> usize {
    let is_making = |request: &&vmferry_sim::LoggedRequest| {
        request.server == Server::Api
            && request.method == "POST"
            && ["/virtualmachineexports", "/virtualmachinesnapshots"].iter().any(|k| request.path.contains(k))
    };
    cluster.sim.requests().iter().filter(is_making).count()
}

fn strategy(cluster: &Cluster, namespace: &str) -> Value {
    cluster.sim.objects("virtualmachines", Some(namespace))[0]["spec"]["runStrategy"].clone()
}

#[test]
fn volumes_of_two_points_in_time_are_not_put_together() {
    for still_runs in [false, true] {
        let cluster = Cluster::start(Config::default());
        let [.., new_root, new_data] = changing(&cluster);
        let place = scratch();
        half(&cluster, place.path(), &WEB);
        assert!(place.path().join("out/web/root.qcow2").exists());
        cluster.sim.start_vm("demo", "web");
        if !still_runs {
            cluster.sim.stop_vm("demo", "web");
        }
        let before = made(&cluster);
        for dry_run in [&["--dry-run"][..], &[]] {
            let failed = cluster.run(place.path(), &[&WEB[..], dry_run].concat()).expect(4);
            for says in ["started", "--restart", "--source snapshot"] {
                assert!(failed.stderr.contains(says), "{still_runs} {says}: {}", failed.stderr);
            }
        }
        assert_eq!(made(&cluster), before, "nothing is made");
        assert!(!place.path().join("out/web/data.qcow2").exists());

        let how: &[&str] = if still_runs { &["--source", "snapshot", "--restart"] } else { &["--restart"] };
        cluster.run(place.path(), &[&WEB[..], how].concat()).expect(0);
        assert_disk(&place.path().join("out/web/root.qcow2"), &new_root);
        assert_disk(&place.path().join("out/web/data.qcow2"), &new_data);
        cluster.assert_clean();
    }
}

#[test]
fn a_vm_that_runs_again_is_refused_before_anything_is_made() {
    let cluster = Cluster::start(Config::default());
    changing(&cluster);
    let place = scratch();
    let child = cluster.spawn(place.path(), &[&WEB[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    kill(child);
    cluster.sim.start_vm("demo", "web");
    let before = made(&cluster);
    for more in [&[][..], &["--stop"], &["--source", "snapshot"]] {
        let failed = cluster.run(place.path(), &[&WEB[..], more].concat()).expect(4);
        assert!(failed.stderr.contains("was started since"), "{}", failed.stderr);
    }
    assert_eq!(made(&cluster), before);
    assert_eq!(strategy(&cluster, "demo"), "Always");
}

#[test]
fn a_run_is_not_discarded_for_another_vm() {
    let cluster = Cluster::start(Config::default());
    let disk = || Disk::bytes(cluster.disk(1, 21 * MIB));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk()).running(true));
    cluster.sim.add_vm(Vm::new("prod", "web").disk("root", disk()));
    let place = scratch();
    let args = |vm| [vm, "--output", "out", "--transfer", "raw", "--stop"];
    let child = cluster.spawn(place.path(), &[&args("demo/web")[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    kill(child);
    assert_eq!(strategy(&cluster, "demo"), "Halted");
    let state = fs::read(place.path().join("out/web/.vmferry-run")).unwrap();
    for more in ["--restart", "--no-resume", "--dry-run"] {
        let failed = cluster.run(place.path(), &[&args("prod/web")[..], &[more]].concat()).expect(5);
        for says in ["VM demo/web", "kubectl patch vm web -n demo", "vmferry gc -n demo"] {
            assert!(failed.stderr.contains(says), "{more} {says}: {}", failed.stderr);
        }
    }
    assert_eq!(strategy(&cluster, "prod"), "Halted", "it was never stopped, and is not started");
    assert_eq!(fs::read(place.path().join("out/web/.vmferry-run")).unwrap(), state);
    cluster.run(place.path(), &args("demo/web")).expect(0);
    assert_eq!(strategy(&cluster, "demo"), "Always");
    cluster.assert_clean();
}

#[test]
fn a_vm_that_was_put_back_is_not_put_back_again() {
    let cluster = Cluster::start(Config::default());
    let disk = |seed| Disk::bytes(cluster.disk(seed, 3 * MIB));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk(1)).disk("data", disk(2)).running(true));
    let place = scratch();
    let with_stop = [&WEB[..], &["--stop"]].concat();
    let failed = half(&cluster, place.path(), &with_stop);
    assert!(failed.stderr.contains("put back as it was"), "{}", failed.stderr);
    assert_eq!(strategy(&cluster, "demo"), "Always");
    wait_for("the VM", || !cluster.sim.objects("virtualmachineinstances", Some("demo")).is_empty());
    cluster.sim.stop_vm("demo", "web");
    cluster.run(place.path(), &with_stop).expect(4);
    assert_eq!(strategy(&cluster, "demo"), "Halted", "the user has stopped it");
    cluster.run(place.path(), &[&with_stop[..], &["--restart"]].concat()).expect(0);
    assert_eq!(strategy(&cluster, "demo"), "Halted", "the user has stopped it");
    cluster.assert_clean();
}

/// The run that stopped it was killed, and could not put it back.
#[test]
fn a_vm_that_somebody_else_started_is_left_alone() {
    let cluster = Cluster::start(Config::default());
    let disk = Disk::bytes(cluster.disk(1, 21 * MIB));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk).running(true));
    let object = &cluster.sim.objects("virtualmachines", Some("demo"))[0];
    assert_eq!(object["spec"]["runStrategy"], "Always");
    let place = scratch();
    let with_stop = [&WEB[..], &["--stop"]].concat();
    let child = cluster.spawn(place.path(), &[&with_stop[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    kill(child);
    // Times in a cluster are in whole seconds.
    let killed = Instant::now();
    wait_for("another second", || killed.elapsed() > Duration::from_millis(1100));
    cluster.sim.start_vm("demo", "web");
    cluster.sim.stop_vm("demo", "web");
    cluster.run(place.path(), &with_stop).expect(4);
    assert_eq!(strategy(&cluster, "demo"), "Halted", "the user has stopped it");
    cluster.run(place.path(), &[&with_stop[..], &["--restart"]].concat()).expect(0);
    assert_eq!(strategy(&cluster, "demo"), "Halted", "the user has stopped it");
}

#[test]
fn a_restart_replaces_its_own_outputs_and_no_others() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let place = scratch();
    half(&cluster, place.path(), &WEB);
    let image = place.path().join("out/web/root.qcow2");
    let ours = fs::read(&image).unwrap();
    let restart = [&WEB[..], &["--restart"]].concat();

    fs::write(&image, "somebody else's").unwrap();
    let state = fs::read(place.path().join("out/web/.vmferry-run")).unwrap();
    let failed = cluster.run(place.path(), &restart).expect(5);
    assert!(failed.stderr.contains("root.qcow2 exists"), "{}", failed.stderr);
    cluster.run(place.path(), &[&restart[..], &["--dry-run"]].concat()).expect(5);
    assert_eq!(fs::read(place.path().join("out/web/.vmferry-run")).unwrap(), state);
    assert_eq!(fs::read(&image).unwrap(), b"somebody else's");
    cluster.export_name();

    fs::write(&image, ours).unwrap();
    cluster.run(place.path(), &[&restart[..], &["--dry-run"]].concat()).expect(0);
    let sent = cluster.sent();
    cluster.run(place.path(), &restart).expect(0);
    assert!(cluster.sent() - sent >= (root.len() + data.len()) as u64, "all of it is fetched again");
    assert_disk(&image, &root);
    assert_disk(&place.path().join("out/web/data.qcow2"), &data);
    cluster.assert_clean();
}

#[test]
fn what_an_earlier_run_completed_is_verified_too() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let verify = [&WEB[..], &["--verify", "-o", "json"]].concat();
    let place = scratch();
    half(&cluster, place.path(), &WEB);
    let report = cluster.run(place.path(), &verify).expect(0).json();
    assert_eq!(report["volumes"][0]["verified"], true);
    assert_eq!(report["volumes"][1]["verified"], true);
    assert_disk(&place.path().join("out/web/root.qcow2"), &root);
    assert_disk(&place.path().join("out/web/data.qcow2"), &data);

    let place = scratch();
    half(&cluster, place.path(), &WEB);
    let image = place.path().join("out/web/root.qcow2");
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&image, bytes).unwrap();
    let failed = cluster.run(place.path(), &verify).expect(3);
    assert!(failed.stderr.contains("--restart"), "{}", failed.stderr);
    assert!(!place.path().join("out/web/manifest.json").exists());
}

#[test]
fn a_snapshot_of_an_earlier_run_is_not_taken_for_what_is_told() {
    let cluster = Cluster::start(Config::default());
    let disk = Disk::bytes(cluster.disk(4, 21 * MIB));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk).running(true).agent(true));
    let place = scratch();
    let child = cluster.spawn(place.path(), &[&WEB[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    kill(child);
    for other in [&["--stop"][..], &["--source", "vm"]] {
        let failed = cluster.run(place.path(), &[&WEB[..], other].concat()).expect(5);
        assert!(failed.stderr.contains("--restart"), "{}", failed.stderr);
    }
    assert_eq!(strategy(&cluster, "demo"), "Always");
    cluster.run(place.path(), &WEB).expect(0);
    cluster.assert_clean();
}

#[test]
fn a_plan_is_refused_where_a_run_would_be() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    let dry_run = [&WEB[..], &["--dry-run"]].concat();
    cluster.run(place.path(), &dry_run).expect(0);
    assert_eq!(listing(place.path()), [""; 0], "nothing is made");

    fs::create_dir_all(place.path().join("out/web")).unwrap();
    fs::write(place.path().join("out/web/root.qcow2"), "x").unwrap();
    let failed = cluster.run(place.path(), &dry_run).expect(5);
    assert!(failed.stderr.contains("root.qcow2 exists"), "{}", failed.stderr);
    fs::remove_dir_all(place.path().join("out")).unwrap();

    let rules = vec![Rule::new(&["get"], &["kubevirt.io/*", "/persistentvolumeclaims"])];
    let all = fs::read(&cluster.kubeconfig).unwrap();
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let failed = cluster.run(place.path(), &dry_run).expect(7);
    assert!(failed.stderr.contains("create virtualmachineexports"), "{}", failed.stderr);
    fs::write(&cluster.kubeconfig, all).unwrap();

    half(&cluster, place.path(), &WEB);
    cluster.run(place.path(), &dry_run).expect(0);
    let failed = cluster.run(place.path(), &[&dry_run[..], &["--no-resume"]].concat()).expect(5);
    assert!(failed.stderr.contains("unfinished export"), "{}", failed.stderr);
    let files = listing(&place.path().join("out/web"));
    assert!(files.contains(&"root.qcow2".to_owned()), "{files:?}");
    cluster.run(place.path(), &WEB).expect(0);
}
