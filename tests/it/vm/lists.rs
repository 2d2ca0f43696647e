//! What is shown: lists, single VMs, changes.

use serde_json::json;
use vmferry_sim::{Disk, Rule, Vm};

use super::{Cluster, text};

/// Some VMs of all sorts.
fn some(cluster: &Cluster) {
    let disk = Disk::pattern(5 << 30, 1);
    cluster.sim.add_vm(
        Vm::new("demo", "web").disk("root", disk.clone()).container_disk("cd").running(true).agent(true),
    );
    cluster.sim.add_vm(
        Vm::new("demo", "db").disk("root", disk.clone()).disk("data", disk).labels(&json!({"app": "db"})),
    );
    cluster.sim.add_vm(Vm::new("demo", "typed").instancetype("u1.large").preference("fedora"));
    cluster.sim.add_vm(Vm::new("other", "web").running(true));
}

#[test]
fn a_list_is_an_aligned_table() {
    let cluster = Cluster::start();
    some(&cluster);
    let table = text(&cluster.run("vm list -n demo").expect(0));
    let lines: Vec<&str> = table.lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(lines[0]),
        ["NAMESPACE", "NAME", "STATE", "CPUS", "MEMORY", "NODE", "ADDRESS", "AGE"],
        "{table}"
    );
    assert_eq!(words(lines[1])[..5], ["demo", "db", "stopped", "2", "1"], "{table}");
    assert_eq!(words(lines[2])[..6], ["demo", "typed", "stopped", "2", "8", "GiB"], "{table}");
    assert!(
        lines[3].contains("running") && lines[3].contains("node-1") && lines[3].contains("10.0."),
        "{table}"
    );
    assert_eq!(lines.len(), 4);
    // Each column begins under its title.
    for title in ["NAME ", "STATE", "NODE", "ADDRESS"] {
        let at = lines[0].find(title).unwrap();
        for line in &lines[1..] {
            assert!(line[..at].ends_with(' ') && !line[at..].starts_with(' '), "{title}: {table}");
        }
    }
    let wide = text(&cluster.run("vm list -n demo -o wide").expect(0));
    for says in ["STORAGE", "10 GiB", "Debian GNU/Linux 13", "yes", "Halted"] {
        assert!(wide.contains(says), "{says}: {wide}");
    }
}

#[test]
fn a_list_has_the_vms_that_were_asked_for() {
    let cluster = Cluster::start();
    some(&cluster);
    for (line, names) in [
        ("vm list -n demo", &["demo/db", "demo/typed", "demo/web"][..]),
        ("vm list -A", &["demo/db", "demo/typed", "demo/web", "other/web"]),
        ("vm list", &[]),
        ("vm list -A -l app=db", &["demo/db"]),
        ("vm list -A -l app!=db --state RUNNING", &["demo/web", "other/web"]),
        ("vm list -A --state stopped", &["demo/db", "demo/typed"]),
        ("vm list -A --name w?b", &["demo/web", "other/web"]),
        ("vm list -A --name *d*", &["demo/db", "demo/typed"]),
        ("vm list -A --name w", &[]),
    ] {
        let found = text(&cluster.run(&format!("{line} -o name")).expect(0));
        assert_eq!(found.lines().collect::<Vec<_>>(), names, "{line}");
    }
    assert_eq!(cluster.json("vm list --name nothing"), json!([]));
}

#[test]
fn json_has_what_clients_of_hypersdk_expect() {
    let cluster = Cluster::start();
    some(&cluster);
    let listed = cluster.json("vm list -n demo --name web");
    let got = cluster.json("vm get demo/web");
    assert_eq!(listed[0], got, "a list and a look tell the same");
    assert_eq!(
        json!({
            "path": got["path"], "provider": got["provider"], "state": got["state"], "power_state": got["power_state"],
            "guest_os": got["guest_os"], "memory_mb": got["memory_mb"], "num_cpu": got["num_cpu"], "num_cpus": got["num_cpus"],
            "storage_bytes": got["storage_bytes"], "storage_gb": got["storage_gb"], "location": got["location"],
            "node": got["node"], "tags": got["tags"], "running": got["metadata"]["running"],
            "snapshottable": got["snapshottable"], "live_migratable": got["live_migratable"],
        }),
        json!({
            "path": "demo/web", "provider": "kubevirt", "state": "running", "power_state": "running",
            "guest_os": "Debian GNU/Linux 13 (trixie)", "memory_mb": 1024, "num_cpu": 2, "num_cpus": 2,
            "storage_bytes": 5_u64 << 30, "storage_gb": 5.0, "location": "demo", "node": "node-1",
            "tags": {"app": "web"}, "running": true, "snapshottable": true, "live_migratable": false,
        })
    );
    assert_eq!(got["ip_addresses"].as_array().unwrap().len(), 1);
    assert_eq!(
        got["disks"][0],
        json!({
            "name": "root", "type": "dataVolume", "pvc": "web-root", "size_bytes": 5_u64 << 30,
            "storage_class": "csi-rig", "volume_mode": "Filesystem", "boot_order": null, "exportable": true,
        })
    );
    assert_eq!(
        (&got["disks"][1]["type"], &got["disks"][1]["exportable"]),
        (&json!("containerDisk"), &json!(false))
    );
    let nic = &got["networks"][0];
    assert_eq!(
        (&nic["type"], &nic["network"], &nic["mac"]),
        (&json!("masquerade"), &json!("pod"), &json!("02:00:00:00:00:00"))
    );

    let typed = cluster.json("vm get -n demo typed");
    assert_eq!(
        (&typed["num_cpus"], &typed["memory_mb"]),
        (&json!(2), &json!(8192)),
        "the instancetype counts"
    );
    assert_eq!(typed["metadata"]["running"], false);
}

#[test]
fn one_vm_is_shown_in_full() {
    let cluster = Cluster::start();
    some(&cluster);
    let shown = text(&cluster.run("vm get demo/web").expect(0));
    for says in [
        "demo/web",
        "running (run strategy Always)",
        "CPUs:",
        "1 GiB",
        "web-root, 5 GiB",
        "not exported",
        "agent connected",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    let status = text(&cluster.run("vm status demo/web").expect(0));
    for says in ["running, ready", "Running on node node-1", "guest agent connected", "AgentConnected True"] {
        assert!(status.contains(says), "{says}: {status}");
    }
    cluster.refused("vm get demo/none", 7, &["VM demo/none does not exist", "vmferry vm list -n demo"]);
    cluster.refused("vm status demo/none", 7, &["VM demo/none does not exist"]);
    cluster.refused("vm get demo/web -o wide", 2, &["-o wide"]);
    cluster.refused("vm start demo/web -o name", 2, &["-o name"]);
    cluster.refused("vm get demo/web/x", 2, &["NAMESPACE/VM"]);
    cluster.refused("vm get Web", 2, &["not the name of a VM"]);
}

#[test]
fn changes_are_followed() {
    let cluster = Cluster::start();
    some(&cluster);
    let mut list = cluster.follow("vm list -n demo -w");
    list.until("web");
    let mut json = cluster.follow("vm list -A -w -o json --name db");
    assert!(json.until("demo/db").starts_with("{\"name\":\"db\""));
    let mut status = cluster.follow("vm status demo/db -w");
    status.until("stopped");
    let mut shown = cluster.follow("vm get demo/db -w");
    shown.until("stopped");

    cluster.sim.start_vm("demo", "db");
    assert!(list.until(" db ").contains("demo"));
    list.until("running");
    let line = json.until("\"state\":\"running\"");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["path"], "demo/db");
    status.until("running, ready");
    shown.until("running (run strategy Always)");

    // A history that is forgotten is no end.
    cluster.sim.act(vmferry_sim::Action::ForgetHistory);
    cluster.sim.stop_vm("demo", "db");
    list.until("stopped");
    cluster.run("vm delete demo/db --yes").expect(0);
    list.until("deleted");
}

#[test]
fn a_list_needs_no_more_rights_than_what_it_shows() {
    let cluster = Cluster::start();
    some(&cluster);
    let vms = Rule::new(&["list"], &["kubevirt.io/virtualmachines"]);
    cluster.allow(vec![vms.clone()]);
    cluster.run("vm list -A -o name").expect(0);
    cluster.refused(
        "vm list -n demo",
        7,
        &[
            "no right to list the virtualmachineinstances of namespace demo (403)",
            "--resource=virtualmachineinstances.kubevirt.io -n demo",
        ],
    );
    let instances = Rule::new(&["list"], &["kubevirt.io/virtualmachineinstances"]);
    cluster.allow(vec![vms.clone(), instances.clone()]);
    // What an instancetype says cannot be looked up: that is told, and shown as unknown.
    let table = cluster.run("vm list -n demo").expect(0);
    let says = "--verb=get --resource=virtualmachines.subresources.kubevirt.io/expand-spec -n demo";
    assert!(table.stderr.contains(says), "{}", table.stderr);
    assert!(
        text(&table).lines().any(|line| line.contains("typed") && line.contains(" - ")),
        "{}",
        text(&table)
    );
    cluster.refused("vm list -n demo -o json", 7, &["persistentvolumeclaims", "kubectl create role"]);
    cluster.allow(vec![vms.within(&["demo"]), instances.within(&["demo"])]);
    cluster.refused("vm list -A", 7, &["no right to list the virtualmachines of all namespaces"]);
}
