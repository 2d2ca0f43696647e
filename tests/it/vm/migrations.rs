//! Live migration: with progress, to a node, cancelled, failed, refused.

use std::{thread, time::Duration};

use serde_json::json;
use vmferry_sim::{Action, Config, Rule, Vm};

use super::{Cluster, text};
use crate::support::wait_for;

fn node(cluster: &Cluster) -> String {
    cluster.object("virtualmachineinstances", "db").unwrap()["status"]["nodeName"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn add(cluster: &Cluster) {
    cluster.sim.add_vm(Vm::new("demo", "db").running(true).migratable());
}

#[test]
fn a_guest_moves_and_runs_on() {
    let cluster = Cluster::with(Config { delay: Duration::from_millis(50), ..Config::default() });
    add(&cluster);
    let uid = cluster.object("virtualmachineinstances", "db").unwrap()["metadata"]["uid"].clone();
    let moved = cluster.run("vm migrate demo/db").expect(0);
    assert_eq!(text(&moved), "VM demo/db migrated from node-1 to node-2\n");
    assert!(moved.stderr.contains("waiting: migration db-migration-"), "{}", moved.stderr);
    assert!(moved.stderr.contains("node-1 -> node-2"), "{}", moved.stderr);
    let json = cluster.json("vm migrate demo/db --target-node node-3");
    assert_eq!((&json["source_node"], &json["target_node"]), (&json!("node-2"), &json!("node-3")));
    assert_eq!((json["complete"].as_bool(), node(&cluster).as_str()), (Some(true), "node-3"));
    let instance = cluster.object("virtualmachineinstances", "db").unwrap();
    assert_eq!(instance["metadata"]["uid"], uid, "it is the same guest");
    wait_for("the VM's status", || cluster.json("vm status demo/db")["state"] == "running");
    let told = text(&cluster.run("vm migrate demo/db --dry-run").expect(0));
    assert!(told.contains("would be migrated") && node(&cluster) == "node-3", "{told}");
}

#[test]
fn a_migration_that_does_not_get_on_can_be_given_up() {
    let cluster = Cluster::start();
    add(&cluster);
    cluster.refused("vm migrate demo/db --cancel", 7, &["VM demo/db is not being migrated"]);
    cluster.refused(
        "vm migrate demo/db --target-node node-9 --timeout 1s",
        8,
        &["VM demo/db was not migrated within 1 s: Scheduling, from node-1", "--cancel"],
    );
    cluster.refused(
        "vm migrate demo/db",
        7,
        &["cannot migrate VM demo/db: it is being migrated already", "in-flight"],
    );
    let dry = text(&cluster.run("vm migrate demo/db --cancel --dry-run").expect(0));
    assert!(dry.contains("would be given up"), "{dry}");
    let told = text(&cluster.run("vm migrate demo/db --cancel").expect(0));
    assert!(told.contains("of VM demo/db was given up"), "{told}");
    assert_eq!(node(&cluster), "node-1");
    cluster.run("vm migrate demo/db").expect(0);
}

#[test]
fn a_migration_that_fails_says_why() {
    let cluster = Cluster::with(Config { delay: Duration::from_secs(1), ..Config::default() });
    add(&cluster);
    thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("the migration", || {
                !cluster.sim.objects("virtualmachineinstancemigrations", None).is_empty()
            });
            let reason = "the guest writes faster than it can be sent".to_owned();
            cluster.sim.act(Action::FailMigration { namespace: "demo".into(), name: "db".into(), reason });
        });
        cluster.refused(
            "vm migrate demo/db",
            7,
            &[
                "VM demo/db was not migrated: the guest writes faster than it can be sent",
                "runs on where it was",
            ],
        );
    });
}

#[test]
fn what_cannot_move_is_told_before_anything_is_made() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "off"));
    cluster.sim.add_vm(Vm::new("demo", "bound").running(true));
    cluster.refused("vm migrate demo/off", 7, &["cannot migrate VM demo/off: it is not running"]);
    cluster.refused("vm migrate demo/bound", 7, &["DisksNotLiveMigratable", "ReadWriteMany"]);
    cluster.refused("vm migrate demo/none", 7, &["VM demo/none does not exist"]);
    cluster.refused("vm migrate demo/off --target-node N", 7, &["it is not running"]);
    assert!(cluster.sim.objects("virtualmachineinstancemigrations", None).is_empty());

    add(&cluster);
    cluster.refused("vm migrate demo/db --target-node Bad_Node", 2, &["not the name of a node"]);
    cluster.allow(vec![Rule::new(&["get", "list", "watch"], &["kubevirt.io/*"])]);
    cluster.refused(
        "vm migrate demo/db",
        7,
        &[
            "no right to create",
            "--verb=create --resource=virtualmachineinstancemigrations.kubevirt.io -n demo",
        ],
    );
}

#[test]
fn a_release_that_knows_no_target_node_says_so() {
    // Contract 6.4: addedNodeSelector from 1.6.
    for (minor, is_known) in [(0, false), (3, false), (5, false), (6, true), (9, true)] {
        let cluster = Cluster::with(Config { kubevirt_version: (1, minor), ..Config::default() });
        add(&cluster);
        if is_known {
            cluster.run("vm migrate demo/db --target-node node-3").expect(0);
            assert_eq!(node(&cluster), "node-3");
        } else {
            cluster.refused(
                "vm migrate demo/db --target-node node-3",
                7,
                &["this version of KubeVirt does not know addedNodeSelector", "1.6"],
            );
        }
        cluster.run("vm migrate demo/db").expect(0);
    }
}
