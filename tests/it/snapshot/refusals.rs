//! What is refused, what fails, and what is away.

use std::{thread, time::Duration};

use serde_json::json;
use vmferry_sim::{Config, Disk, Fault, FaultKind, Rule, Vm};

use super::db;
use crate::vm::Cluster;

#[test]
fn the_right_that_is_missing_is_named() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "db").disk("root", Disk::zeros(1 << 20)));
    cluster.run("snapshot create demo/db --name before").expect(0);
    cluster.allow(vec![Rule::new(&["get", "list", "watch"], &["*/*"])]);
    for (line, verb, resource) in [
        ("snapshot create demo/db", "create", "virtualmachinesnapshots.snapshot.kubevirt.io"),
        ("snapshot restore demo/before", "create", "virtualmachinerestores.snapshot.kubevirt.io"),
        ("snapshot delete demo/before --yes", "delete", "virtualmachinesnapshots.snapshot.kubevirt.io"),
        ("snapshot clone demo/before x", "create", "virtualmachineclones.clone.kubevirt.io"),
        ("vm clone demo/db x", "create", "virtualmachineclones.clone.kubevirt.io"),
    ] {
        let remedy = format!("kubectl create role vmferry --verb={verb} --resource={resource} -n demo");
        cluster.refused(line, 7, &[&format!("no right to {verb}"), "(403)", &remedy]);
    }
    cluster.allow(vec![]);
    for (line, verb) in [("snapshot list -n demo", "list"), ("snapshot get demo/before", "get")] {
        let remedy = format!("--verb={verb} --resource=virtualmachinesnapshots.snapshot.kubevirt.io -n demo");
        cluster.refused(line, 7, &["(403)", &remedy]);
    }
}

#[test]
fn a_feature_that_is_off_or_absent_is_named() {
    let cluster = Cluster::with(Config { snapshot_gate: false, ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "db").disk("root", Disk::zeros(1 << 20)));
    cluster.refused("snapshot create demo/db", 7, &["feature gate", "Snapshot", "featureGates"]);
    // Contract 6.3: clones need it too.
    cluster.refused(
        "vm clone demo/db x",
        7,
        &["snapshot feature gate is not enabled", "switch the feature gate Snapshot on"],
    );
    // One that was made before it was switched off.
    let with = Cluster::start();
    with.sim.add_vm(Vm::new("demo", "db").disk("root", Disk::zeros(1 << 20)));
    with.run("snapshot create demo/db --name s").expect(0);
    cluster.sim.add_object("virtualmachinesnapshots", with.object("virtualmachinesnapshots", "s").unwrap());
    for line in ["snapshot restore demo/s", "snapshot restore demo/s --to x", "snapshot clone demo/s x"] {
        cluster.refused(line, 7, &["switch the feature gate Snapshot on"]);
    }

    let absent = ["snapshot.kubevirt.io", "clone.kubevirt.io"].map(str::to_owned).to_vec();
    let cluster = Cluster::with(Config { absent_groups: absent, ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "db").disk("root", Disk::zeros(1 << 20)));
    for line in [
        "snapshot create demo/db",
        "snapshot list -A",
        "snapshot get demo/x",
        "snapshot restore demo/x",
        "snapshot delete demo/x --yes",
    ] {
        cluster.refused(
            line,
            7,
            &["the cluster does not know snapshot.kubevirt.io", "feature gate Snapshot"],
        );
    }
    cluster.refused("vm clone demo/db x", 7, &["the cluster does not know clone.kubevirt.io"]);
}

#[test]
fn a_snapshot_that_fails_says_what_the_cluster_says() {
    let cluster = Cluster::with(Config { delay: Duration::from_secs(2), ..Config::default() });
    db(&cluster, true);
    let status = json!({
        "phase": "Failed", "readyToUse": false, "error": {"message": "driver csi.rig.test: out of space"},
        "conditions": [{"type": "Failure", "status": "True", "reason": "In error state"}],
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            crate::support::wait_for("the snapshot", || {
                cluster.object("virtualmachinesnapshots", "s").is_some()
            });
            cluster.sim.set_status("virtualmachinesnapshots", "demo", "s", &status);
        });
        cluster.refused(
            "snapshot create demo/db --name s",
            7,
            &["the snapshot demo/s failed: driver csi.rig.test: out of space"],
        );
    });
    let shown = cluster.json("snapshot get demo/s");
    assert_eq!(
        (&shown["error"], &shown["phase"]),
        (&json!("driver csi.rig.test: out of space"), &json!("Failed"))
    );
}

#[test]
fn a_clone_that_fails_says_what_the_cluster_says() {
    let cluster = Cluster::with(Config { delay: Duration::from_secs(2), ..Config::default() });
    db(&cluster, true);
    let status = json!({
        "phase": "Failed",
        "conditions": [{"type": "Progressing", "status": "False", "reason": "Failed", "message": "no snapshot of volume local"}],
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            let clones = || cluster.sim.objects("virtualmachineclones", Some("demo"));
            crate::support::wait_for("the clone", || !clones().is_empty());
            let name = clones()[0]["metadata"]["name"].as_str().unwrap().to_owned();
            cluster.sim.set_status("virtualmachineclones", "demo", &name, &status);
        });
        cluster.refused(
            "vm clone demo/db x",
            7,
            &["VM demo/x was not cloned: Failed (Failed: no snapshot of volume local)"],
        );
    });
}

#[test]
fn a_wait_has_an_end() {
    let cluster = Cluster::with(Config { delay: Duration::from_secs(60), ..Config::default() });
    db(&cluster, true);
    cluster.refused(
        "snapshot create demo/db --name s --timeout 1s",
        8,
        &[
            "the snapshot demo/s was not ready within 1 s",
            "it stays: 'vmferry snapshot delete s -n demo' removes it",
        ],
    );
    cluster.refused(
        "vm clone demo/db x --timeout 1s",
        8,
        &["VM demo/x was not cloned within 1 s: not begun", "kubectl delete vmclone"],
    );
    let mut held = cluster.object("virtualmachinesnapshots", "s").unwrap();
    held["metadata"]["name"] = "held".into();
    held["metadata"]["finalizers"] = json!(["example.org/keep"]);
    cluster.sim.add_object("virtualmachinesnapshots", held);
    cluster.refused(
        "snapshot delete demo/held --yes --timeout 1s",
        8,
        &["snapshot demo/held is not gone after 1 s", "finalizers"],
    );
}

#[test]
fn names_that_are_taken_or_none_are_refused() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name s").expect(0);
    cluster.refused(
        "snapshot create demo/db --name s",
        7,
        &["VirtualMachineSnapshot demo/s exists already", "another name"],
    );
    cluster.refused("snapshot create demo/none", 7, &["VM demo/none does not exist"]);
    cluster.refused("snapshot create demo/db --name S", 2, &["not the name of a VirtualMachineSnapshot"]);
    cluster.refused("snapshot restore demo/s --to S", 2, &["not the name of a VM"]);
    cluster.refused(
        "snapshot restore demo/s --if-running maybe",
        2,
        &["one of fail, stop, wait, wait-briefly"],
    );
    cluster.refused("snapshot get demo/s -o name", 2, &["-o name"]);
}

#[test]
fn an_answer_that_was_lost_is_no_failure() {
    let cluster = Cluster::start();
    db(&cluster, true);
    for (line, path) in [
        ("snapshot create demo/db --name s", "/virtualmachinesnapshots"),
        ("snapshot restore demo/s --to new", "/virtualmachinerestores"),
        ("vm clone demo/db copy", "/virtualmachineclones"),
    ] {
        // The first request is carried out, but its answer does not arrive.
        cluster.sim.fault(Fault::new(FaultKind::CutAfter { bytes: 0 }).api_path(path));
        cluster.run(line).expect(0);
        cluster.sim.clear_faults();
    }
    for (plural, count) in [("virtualmachinerestores", 1), ("virtualmachineclones", 1)] {
        let found = cluster.sim.objects(plural, Some("demo"));
        let ours =
            found.iter().filter(|object| !object["metadata"]["name"].as_str().unwrap().starts_with("tmp-"));
        assert_eq!(ours.count(), count, "{plural}: {found:?}");
    }
}

#[test]
fn what_was_there_before_is_not_taken_for_what_was_asked_for() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name s").expect(0);
    let before = cluster.object("virtualmachinesnapshots", "s").unwrap()["metadata"]["uid"].clone();
    // The request is lost, not its answer; the next one meets an older snapshot of the same specification.
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api_path("/virtualmachinesnapshots"));
    cluster.refused("snapshot create demo/db --name s", 7, &["exists already", "choose another name"]);
    assert_eq!(cluster.object("virtualmachinesnapshots", "s").unwrap()["metadata"]["uid"], before);
}

#[test]
fn a_cluster_that_is_away_slow_or_mad_is_told_from_one_that_refuses() {
    const LINES: [&str; 6] = [
        "snapshot list -A",
        "snapshot get demo/s",
        "snapshot create demo/db",
        "snapshot restore demo/s",
        "snapshot delete demo/s --yes",
        "snapshot clone demo/s x",
    ];
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api().times(0));
    for line in LINES {
        cluster.refused(line, 1, &["is no JSON"]);
    }
    cluster.sim.clear_faults();
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api().times(0));
    thread::scope(|scope| {
        for line in LINES {
            let cluster = &cluster;
            scope.spawn(move || cluster.refused(line, 6, &["(503)"]));
        }
    });
    cluster.sim.clear_faults();
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_secs(100) }).api().times(0));
    thread::scope(|scope| {
        for line in LINES {
            let cluster = &cluster;
            scope.spawn(move || {
                cluster.refused(&format!("{line} --request-timeout 1s"), 6, &["did not answer within 1 s"]);
            });
        }
    });
}
