//! `vmferry snapshot` and `vmferry vm clone` against a simulated cluster.

mod refusals;
mod restores;

use serde_json::json;
use vmferry_formats::testkit;
use vmferry_sim::{Config, Disk, Vm};

use crate::{
    support::{read, scratch},
    vm::{Cluster, text},
};

const MIB: usize = 1 << 20;

/// A VM `demo/db` that runs, with two disks.
fn db(cluster: &Cluster, agent: bool) -> Vec<u8> {
    let disk = testkit::disk(1, 3 * MIB);
    let vm =
        Vm::new("demo", "db").disk("root", Disk::bytes(disk.clone())).disk("data", Disk::pattern(1 << 20, 2));
    cluster.sim.add_vm(vm.container_disk("cd").running(true).agent(agent));
    disk
}

#[test]
fn a_snapshot_is_made_listed_shown_and_deleted() {
    let cluster = Cluster::start();
    db(&cluster, true);
    let made = cluster.run("snapshot create demo/db --name before").expect(0);
    assert_eq!(text(&made), "snapshot demo/before of VM demo/db is ready (consistency: guest-agent)\n");
    assert!(made.stderr.contains("waiting: snapshot before"), "{}", made.stderr);
    let shown = cluster.json("snapshot get demo/before");
    let created = shown["created_at"].clone();
    assert_eq!(
        shown,
        json!({
            "name": "before", "namespace": "demo", "vm_name": "db", "created_at": created, "ready_to_use": true,
            "phase": "Succeeded", "indications": ["GuestAgent", "Online"], "error": "", "consistency": "guest-agent",
            "volumes": {"included": ["root", "data"], "excluded": []}, "size_bytes": 4 * MIB,
        })
    );
    let page = text(&cluster.run("snapshot get demo/before").expect(0));
    for says in
        ["demo/before", "Succeeded, ready to use", "guest-agent (GuestAgent, Online)", "root, data", "4 MiB"]
    {
        assert!(page.contains(says), "{says}: {page}");
    }

    // One with a name of its own, and one of another VM.
    let second = cluster.json("snapshot create demo/db");
    assert!(second["snapshot"]["name"].as_str().unwrap().starts_with("db-20"), "{second}");
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(1 << 20)));
    let stopped = cluster.json("snapshot create demo/web --name web-1");
    assert_eq!(stopped["snapshot"]["consistency"], "stopped");
    assert_eq!(cluster.json("snapshot list -n demo").as_array().unwrap().len(), 3);
    assert_eq!(text(&cluster.run("snapshot list demo/web -o name").expect(0)), "demo/web-1\n");
    let table = text(&cluster.run("snapshot list -A -o wide").expect(0));
    for says in ["CONSISTENCY", "EXCLUDED", "root,data", "stopped"] {
        assert!(table.contains(says), "{says}: {table}");
    }
    assert_eq!(cluster.json("snapshot list"), json!([]), "another namespace");

    let deleted = cluster.run("snapshot delete demo/before --yes").expect(0);
    assert_eq!(text(&deleted), "snapshot demo/before deleted\n");
    assert!(cluster.object("virtualmachinesnapshots", "before").is_none());
    cluster.refused(
        "snapshot get demo/before",
        7,
        &["snapshot demo/before does not exist", "vmferry snapshot list -n demo"],
    );
    cluster.refused("snapshot delete demo/web-1", 2, &["nobody can be asked", "--yes"]);
    assert!(cluster.object("virtualmachinesnapshots", "web-1").is_some());
}

#[test]
fn a_list_goes_on_with_what_changes() {
    let cluster = Cluster::start();
    db(&cluster, true);
    let mut watched = cluster.follow("snapshot list demo/db -w");
    watched.until("NAMESPACE");
    cluster.run("snapshot create demo/db --name first").expect(0);
    watched.until("first");
    cluster.run("snapshot delete demo/first --yes").expect(0);
    watched.until("deleted");
}

#[test]
fn what_a_snapshot_is_worth_is_demanded_before_it_is_made() {
    let cluster = Cluster::start();
    db(&cluster, false);
    let none = |cluster: &Cluster| cluster.sim.objects("virtualmachinesnapshots", None).is_empty();
    cluster.refused("snapshot create demo/db --quiesce require", 5, &["guest agent", "qemu-guest-agent"]);
    assert!(none(&cluster));
    let warned = cluster.run("snapshot create demo/db --name a").expect(0);
    assert!(warned.stderr.contains("warning: the guest of snapshot a did not hold"), "{}", warned.stderr);
    let quiet = cluster.run("snapshot create demo/db --name b --quiesce never").expect(0);
    assert!(!quiet.stderr.contains("warning"), "{}", quiet.stderr);

    let vm =
        Vm::new("demo", "half").disk("root", Disk::zeros(1 << 20)).local_disk("local", Disk::zeros(1 << 20));
    cluster.sim.add_vm(vm);
    cluster.refused(
        "snapshot create demo/half",
        5,
        &["VM demo/half has volumes that cannot be snapshotted: local (No VolumeSnapshotClass", "--partial"],
    );
    let partial = cluster.json("snapshot create demo/half --partial");
    assert_eq!(partial["snapshot"]["volumes"], json!({"included": ["root"], "excluded": ["local"]}));
    let warned = cluster.run("snapshot create demo/half --partial --name c").expect(0);
    assert!(warned.stderr.contains("not in the snapshot: local"), "{}", warned.stderr);
}

#[test]
fn nothing_is_waited_for_or_made_if_so_said() {
    let cluster = Cluster::with(Config { delay: std::time::Duration::from_millis(300), ..Config::default() });
    db(&cluster, true);
    let dry = cluster.run("snapshot create demo/db --name x --dry-run").expect(0);
    assert!(text(&dry).contains("would be made") && text(&dry).contains("dry run"), "{}", text(&dry));
    assert!(cluster.object("virtualmachinesnapshots", "x").is_none());
    let begun = cluster.json("snapshot create demo/db --name x --no-wait --retain --failure-deadline 90s");
    assert_eq!(
        (&begun["message"], &begun["snapshot"]["ready_to_use"]),
        (&json!("Snapshot is being created"), &json!(false))
    );
    let spec = cluster.object("virtualmachinesnapshots", "x").unwrap()["spec"].clone();
    assert_eq!((&spec["deletionPolicy"], &spec["failureDeadline"]), (&json!("Retain"), &json!("0h1m30s")));
    // What is not ready is waited for by a restore, and refused by one that does not wait.
    cluster.refused("snapshot restore demo/x --to new --no-wait", 7, &["snapshot demo/x is not ready"]);
    cluster.run("snapshot restore demo/x --to new").expect(0);
    assert!(cluster.vm("new").is_some());
    let told = text(&cluster.run("snapshot delete demo/x --dry-run").expect(0));
    assert!(told.contains("would be deleted"), "{told}");
    assert!(cluster.object("virtualmachinesnapshots", "x").is_some());
}

#[test]
fn a_snapshot_is_exported_like_a_vm() {
    let cluster = Cluster::start();
    let disk = db(&cluster, true);
    cluster.run("snapshot create demo/db --name before").expect(0);
    let place = scratch();
    let output = place.path().join("root.raw");
    cluster
        .run(&format!("snapshot export demo/before --volume root --output {}", output.display()))
        .expect(0);
    assert!(read(&output) == disk);
    cluster.refused(
        "snapshot export demo/none --output x",
        7,
        &["VirtualMachineSnapshot demo/none does not exist"],
    );
    cluster.refused("snapshot export --output x", 2, &["SNAPSHOT"]);
}

#[test]
fn a_vm_is_cloned_as_it_is_or_as_it_was() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name before").expect(0);
    let cloned = cluster.run("vm clone demo/db db-2 --new-mac").expect(0);
    assert!(text(&cloned).starts_with("VM demo/db-2 made of VM db ("), "{}", text(&cloned));
    assert!(cloned.stderr.contains("waiting: clone db-2-clone-"), "{}", cloned.stderr);
    let json = cluster.json("vm clone demo/db db-3 --from-snapshot before");
    assert_eq!(
        (&json["vm"], &json["complete"], &json["source"]),
        (&json!("demo/db-3"), &json!(true), &json!("snapshot before"))
    );
    cluster.run("snapshot clone demo/before db-4").expect(0);
    let uids: std::collections::HashSet<String> = ["db", "db-2", "db-3", "db-4"]
        .iter()
        .map(|name| cluster.vm(name).unwrap_or_else(|| panic!("{name}"))["metadata"]["uid"].to_string())
        .collect();
    assert_eq!(uids.len(), 4);
    let told = text(&cluster.run("vm clone demo/db db-5 --dry-run").expect(0));
    assert!(told.contains("would be made") && cluster.vm("db-5").is_none(), "{told}");

    cluster.refused("vm clone demo/db db-2", 7, &["VM demo/db-2 exists already"]);
    cluster.refused("vm clone demo/none x", 7, &["VM demo/none does not exist"]);
    cluster.refused(
        "vm clone demo/db x --from-snapshot none",
        7,
        &["VirtualMachineSnapshot demo/none does not exist"],
    );
    cluster.refused("snapshot clone demo/none x", 7, &["demo/none does not exist"]);
    cluster.refused(
        "vm clone demo/db-2 x --from-snapshot before",
        7,
        &["snapshot demo/before is of VM db, not of db-2"],
    );
    cluster.refused("vm clone demo/db X", 2, &["not the name of a VM"]);
}
