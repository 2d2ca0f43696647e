//! `vmferry doctor`: a line a check, with the remedy.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Rule, Vm};

use super::cluster::{Cluster, MIB, end, web};
use crate::support::{Finished, run, scratch, vmferry, wait_for};

fn doctor(cluster: &Cluster, args: &[&str]) -> Finished {
    run([&["doctor", "--kubeconfig", cluster.kubeconfig.to_str().unwrap(), "-o", "json"], args].concat())
}

/// The line of a check; there must be one.
#[track_caller]
fn line(finished: &Finished, check: &str) -> Value {
    let rows = finished.json();
    let found = rows.as_array().unwrap().iter().find(|row| row["check"] == check).cloned();
    found.unwrap_or_else(|| panic!("no {check}: {rows:#}"))
}

#[track_caller]
fn assert_line(finished: &Finished, check: &str, verdict: &str, found: &str, remedy: &str) {
    let line = line(finished, check);
    assert_eq!(line["verdict"], verdict, "{line}");
    assert!(line["found"].as_str().unwrap().contains(found), "{line}");
    assert!(line["remedy"].as_str().unwrap_or_default().contains(remedy), "{line}");
    assert!(verdict == "good" || line["remedy"].is_string() || check == "left out", "{line}");
}

#[test]
fn the_doctor_finds_a_healthy_cluster_healthy_and_makes_nothing() {
    let cluster =
        Cluster::start(Config { external_host: Some("exports.example".into()), ..Config::default() });
    web(&cluster);
    let place = scratch();
    let healthy = doctor(&cluster, &["demo/web", "--output", place.path().to_str().unwrap()]).expect(0);
    for (check, found) in [
        ("cluster", "https://127.0.0.1"),
        ("exports", "export.kubevirt.io/v1"),
        ("KubeVirt", "1.9"),
        ("snapshots", "snapshot.kubevirt.io/v1beta1"),
        ("rights to export", "demo"),
        ("rights for running VMs", "demo"),
        ("external link", "exports.example"),
        ("port-forward", "demo"),
        ("VM", "stopped"),
        ("volume", "root: claim web-root"),
        ("space", "at most 28 MiB are needed"),
    ] {
        assert_line(&healthy, check, "good", found, "");
    }
    assert_line(&healthy, "left out", "mind", "cd", "");
    assert!(cluster.sim.requests().iter().all(|r| r.method == "GET" || r.path.contains("selfsubjectaccess")));
    let text = run(["doctor", "--kubeconfig", cluster.kubeconfig.to_str().unwrap()]).expect(0);
    let lines = String::from_utf8(text.stdout).unwrap();
    assert!(lines.lines().count() > 8 && lines.contains("are free at ."), "{lines}");
}

#[test]
fn the_doctor_says_what_is_missing() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    cluster.sim.add_vm(Vm::new("demo", "half").claim("data", "gone").running(true).agent(false));
    let half = doctor(&cluster, &["demo/half"]).expect(7);
    assert_line(&half, "volume", "bad", "claim gone does not exist", "--volume");
    assert_line(&half, "VM", "mind", "without guest agent", "qemu-guest-agent");
    let disk = Disk::bytes(cluster.disk(1, MIB));
    let local = Vm::new("demo", "local").local_disk("root", disk).running(true).agent(true);
    cluster.sim.add_vm(local);
    let local = doctor(&cluster, &["demo/local"]).expect(7);
    assert_line(&local, "volume", "bad", "cannot be snapshotted", "--stop");
    assert_line(&local, "space", "good", "at most 1 MiB are needed", "");
    let none = doctor(&cluster, &["demo/nothing"]).expect(7);
    assert_line(&none, "VM", "bad", "demo/nothing does not exist", "kubectl get");

    cluster.sim.act(Action::ExternalLink { present: false });
    let inside = doctor(&cluster, &["demo/web"]).expect(0);
    assert_line(&inside, "external link", "mind", "no Ingress or Route", "--reach port-forward");
    let rules = vec![Rule::new(&["get", "list"], &["*/*"])];
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let poor = doctor(&cluster, &["demo/web"]).expect(7);
    assert_line(&poor, "rights to export", "bad", "create secrets", "kubectl create role");
    assert_line(&poor, "rights for running VMs", "mind", "virtualmachinesnapshots", "kubectl create role");
    assert_line(&poor, "port-forward", "mind", "create pods/portforward", "kubectl create role");
    assert_line(&poor, "reach", "bad", "no way", "Ingress");
    // It may get, which is what a websocket is opened by, but not create.
    let rights = line(&poor, "port-forward").to_string();
    assert!(!rights.contains("get pods/portforward"), "{rights}");
    let rules = vec![Rule::new(&["get"], &["*/*"]), Rule::new(&["list"], &["/pods"])];
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let blind = doctor(&cluster, &["demo/web"]).expect(7);
    assert_line(&blind, "external link", "mind", "no right to list", "--probe");
}

#[test]
fn the_doctor_knows_gates_and_clusters_without_kubevirt() {
    let cluster =
        Cluster::start(Config { kubevirt_version: (1, 7), export_gate: false, ..Config::default() });
    let off = doctor(&cluster, &[]).expect(7);
    assert_line(&off, "gate of exports", "bad", "VMExport is off", "featureGates");
    assert_line(&off, "gate of snapshots", "good", "Snapshot is on", "");

    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let elsewhere = cluster.sim.kubeconfig().replace(&cluster.sim.api_url(), &format!("https://{free}"));
    fs::write(&cluster.kubeconfig, elsewhere).unwrap();
    let away = doctor(&cluster, &[]).expect(7);
    assert_line(&away, "exports", "bad", "cannot reach the cluster", "kubectl version");
}

#[test]
fn the_doctor_minds_a_disk_that_does_not_fit() {
    let cluster = Cluster::start(Config::default());
    cluster.sim.add_vm(Vm::new("demo", "huge").disk("root", Disk::pattern(1 << 60, 1)));
    let place = scratch();
    let huge = doctor(&cluster, &["demo/huge", "--output", place.path().to_str().unwrap()]).expect(0);
    assert_line(&huge, "space", "mind", "1099511627776 MiB are needed", "--compression");
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let wrong = doctor(&cluster, &["demo/huge", "--output", file.to_str().unwrap()]).expect(7);
    assert_line(&wrong, "space", "bad", "no directory", "--output");
}

#[test]
fn a_probe_asks_over_every_way_and_leaves_nothing() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let probe = |args: &[&str]| doctor(&cluster, &[&["demo/web", "--probe"], args].concat());
    let good = probe(&[]).expect(0);
    assert_line(&good, "probe", "good", "root", "");
    let (external, forward) = ("external link", "port-forward through the API server");
    let rows = good.json();
    let asked = |way: &str| {
        let mut rows = rows.as_array().unwrap().iter();
        rows.any(|row| row["check"] == way && row["found"].as_str().unwrap().contains("a disk of 22 MiB"))
    };
    assert!(asked(external) && asked(forward), "{rows:#}");
    let made =
        |r: &vmferry_sim::LoggedRequest| r.method == "POST" && r.path.ends_with("/virtualmachineexports");
    assert_eq!(cluster.sim.requests().iter().filter(|request| made(request)).count(), 1);
    cluster.assert_clean();

    // Of two ways one does.
    cluster.sim.act(Action::EmptyExternalCert { empty: true });
    let one = probe(&[]).expect(0);
    let rows = one.json();
    let lines: Vec<&Value> = rows.as_array().unwrap().iter().filter(|row| row["check"] == external).collect();
    let untrusted = lines.iter().any(|row| {
        row["verdict"] == "mind" && row["remedy"].as_str().unwrap_or_default().contains("--ca-file")
    });
    assert!(untrusted, "{rows:#}");
    let place = scratch();
    let ca = place.path().join("ca.pem");
    fs::write(&ca, cluster.sim.ingress_ca_pem()).unwrap();
    let trusted = probe(&["--ca-file", ca.to_str().unwrap()]).expect(0).json();
    assert!(
        trusted.as_array().unwrap().iter().any(|row| {
            row["check"] == external && row["found"].as_str().unwrap().contains("answered in")
        }),
        "{trusted:#}"
    );
    cluster.assert_clean();

    // None does.
    cluster.sim.act(Action::ExternalLink { present: false });
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api_path("/portforward").times(0));
    let none = probe(&["--request-timeout", "1s"]).expect(7);
    assert_line(&none, forward, "bad", "(503)", "websockets");
    cluster.sim.clear_faults();
    cluster.assert_clean();

    // A right that is missing is named, and nothing is made.
    let rules = vec![Rule::new(&["get", "list", "create"], &["*/*"])];
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let poor = probe(&[]).expect(7);
    assert_line(&poor, "probe", "bad", "delete virtualmachineexports", "kubectl create role");
    cluster.assert_clean();
}

#[test]
fn a_probe_of_what_cannot_be_probed_says_so_and_leaves_nothing() {
    let cluster = Cluster::start(Config::default());
    let disk = Disk::bytes(cluster.disk(1, MIB));
    cluster.sim.add_vm(Vm::new("demo", "live").disk("root", disk).running(true).agent(true));
    let live = doctor(&cluster, &["demo/live", "--probe"]).expect(0);
    assert_line(&live, "probe", "mind", "runs", "stopped VM");
    assert!(cluster.sim.requests().iter().all(|r| r.method == "GET" || r.path.contains("selfsubjectaccess")));

    // An exporter that does not get ready, a cluster that will not have the export removed.
    web(&cluster);
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: std::time::Duration::from_secs(4) }).times(0));
    let slow = Cluster::start(Config { delay: std::time::Duration::from_secs(30), ..Config::default() });
    web(&slow);
    let late = doctor(&slow, &["demo/web", "--probe", "--wait", "1s"]).expect(7);
    assert_line(&late, "probe", "bad", "not ready within 1 s", "");
    slow.assert_clean();
    run(["doctor", "--probe"]).expect(2);
}

#[test]
fn a_probe_that_is_interrupted_removes_its_export() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: std::time::Duration::from_secs(4) }).times(0));
    let child =
        vmferry(["doctor", "demo/web", "--probe", "--kubeconfig", cluster.kubeconfig.to_str().unwrap()])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
    wait_for("an export", || !cluster.sim.objects("virtualmachineexports", Some("demo")).is_empty());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    end(child).expect(130);
    cluster.assert_clean();
}
