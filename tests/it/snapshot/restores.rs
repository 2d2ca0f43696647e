//! Restores: into the same VM or another one, by every policy, on every release.

use serde_json::{Value, json};
use vmferry_sim::{Config, Disk, Fault, FaultKind, Vm};

use super::db;
use crate::vm::{Cluster, text};

fn restore(cluster: &Cluster) -> Value {
    cluster.sim.objects("virtualmachinerestores", Some("demo")).pop().expect("a restore")
}

fn claims(vm: &Value) -> Vec<String> {
    let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    volumes
        .iter()
        .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn a_vm_is_put_back() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name before").expect(0);
    cluster.refused("snapshot restore demo/before", 7, &["VM demo/db runs", "--stop", "--to"]);
    cluster.refused("snapshot restore demo/before --dry-run", 7, &["VM demo/db runs"]);
    assert!(cluster.sim.objects("virtualmachinerestores", None).is_empty());

    let uid = cluster.vm("db").unwrap()["metadata"]["uid"].clone();
    let restored = cluster.run("snapshot restore demo/before --stop").expect(0);
    assert_eq!(text(&restored), "VM demo/db restored from snapshot before (stopped)\n");
    assert!(restored.stderr.contains("restore before-restore-"), "{}", restored.stderr);
    let vm = cluster.vm("db").unwrap();
    assert_eq!(vm["metadata"]["uid"], uid, "it is the same VM");
    assert_eq!(claims(&vm).len(), 2, "with the restored volumes: {vm}");

    // Stopped, it needs no word.
    let json = cluster.json("snapshot restore -n demo before");
    assert_eq!((&json["restore"]["complete"], &json["restore"]["target"]), (&json!(true), &json!("db")));
}

#[test]
fn a_vm_that_was_stopped_in_vain_is_told() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name before").expect(0);
    let no =
        json!({"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422, "message": "quota"});
    let fault = Fault::new(FaultKind::Answer { code: 422, text: no.to_string() });
    cluster.sim.fault(fault.api_path("/virtualmachinerestores"));
    cluster.refused(
        "snapshot restore demo/before --stop",
        7,
        &["quota", "VM demo/db was stopped for it, and stays so: 'vmferry vm start demo/db' starts it"],
    );
}

#[test]
fn another_vm_is_made() {
    let cluster = Cluster::start();
    let macs = json!({"template": {"spec": {"domain": {"devices": {"interfaces": [
        {"name": "default", "masquerade": {}},
        {"name": "lan", "bridge": {}, "macAddress": "02:00:00:00:00:07"},
    ]}}}}});
    cluster.sim.add_vm(Vm::new("demo", "db").disk("root", Disk::zeros(1 << 20)).patch(&macs));
    cluster.run("snapshot create demo/db --name before").expect(0);
    let mac = |vm: &str| {
        cluster.vm(vm).unwrap()["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][1]["macAddress"].clone()
    };
    let same = cluster.run("snapshot restore demo/before --to copy").expect(0);
    assert!(same.stderr.contains("warning: VM copy gets the MAC addresses of VM db"), "{}", same.stderr);
    assert_eq!(mac("copy"), "02:00:00:00:00:07");
    let other = cluster.run("snapshot restore demo/before --to other --new-mac").expect(0);
    assert!(!other.stderr.contains("warning"), "{}", other.stderr);
    assert!(mac("other").is_null(), "{}", mac("other"));
    assert_eq!(mac("db"), "02:00:00:00:00:07", "the first one is as it was");

    cluster.refused(
        "snapshot restore demo/before --to copy",
        7,
        &["VM demo/copy exists, and is not the one that snapshot before is of"],
    );
    // A VM of the old name that is another one is another one.
    cluster.run("vm delete demo/db --yes").expect(0);
    cluster.sim.add_vm(Vm::new("demo", "db"));
    cluster.refused("snapshot restore demo/before", 7, &["VM demo/db exists, and is not the one"]);
}

#[test]
fn policies_reach_the_cluster() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name before").expect(0);
    cluster
        .run("snapshot restore demo/before --if-running stop --volume-names in-place --volume-owner none")
        .expect(0);
    let spec = restore(&cluster)["spec"].clone();
    assert_eq!(spec["targetReadinessPolicy"], "StopTarget");
    assert_eq!(
        (&spec["volumeRestorePolicy"], &spec["volumeOwnershipPolicy"]),
        (&json!("InPlace"), &json!("None"))
    );
    assert_eq!(spec["target"], json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "db"}));

    cluster.run("vm start demo/db").expect(0);
    cluster.refused(
        "snapshot restore demo/before --if-running fail",
        7,
        &["VM demo/db was not restored: Restore target must be powered off", "kubectl delete vmrestore"],
    );
    // As long as one is there, no other is taken.
    cluster.refused(
        "snapshot restore demo/before --if-running wait",
        7,
        &["VirtualMachineRestore", "in progress", "'kubectl delete vmrestore' gives it up"],
    );
}

#[test]
fn a_restore_that_waits_says_for_what() {
    let cluster = Cluster::start();
    db(&cluster, true);
    cluster.run("snapshot create demo/db --name before").expect(0);
    cluster.refused(
        "snapshot restore demo/before --if-running wait --timeout 1s",
        8,
        &[
            "VM demo/db was not restored within 1 s: Waiting for target VM to be powered off",
            "goes on with it",
        ],
    );
    // And goes on.
    cluster.run("vm stop demo/db").expect(0);
    crate::support::wait_for("the restore", || restore(&cluster)["status"]["complete"] == true);
}

#[test]
fn state_that_cannot_be_shared_is_not_restored_elsewhere() {
    let cluster = Cluster::start();
    let tpm = json!({"template": {"spec": {"domain": {"devices": {"tpm": {"persistent": true}}}}}});
    cluster.sim.add_vm(Vm::new("demo", "win").disk("root", Disk::zeros(1 << 20)).patch(&tpm));
    cluster.run("snapshot create demo/win --name before").expect(0);
    cluster.refused("snapshot restore demo/before --to copy", 7, &["persistent TPM or EFI"]);
    // Contract 6.3: nor is it cloned.
    cluster.refused(
        "vm clone demo/win copy",
        7,
        &[
            "VM demo/copy was not cloned: Failed (Clone of source with backendstorage is not supported: VM demo/win)",
            "kubectl describe vmclone",
        ],
    );
    cluster.run("snapshot restore demo/before").expect(0);
}

#[test]
fn what_a_release_does_not_know_is_named() {
    // Contract 6.2: targetReadinessPolicy from 1.5, volumeRestorePolicy 1.6, volumeOwnershipPolicy 1.7.
    for (minor, options) in [
        (0, [true, true, true]),
        (3, [true, true, true]),
        (5, [false, true, true]),
        (6, [false, false, true]),
        (7, [false, false, false]),
        (9, [false, false, false]),
    ] {
        let cluster = Cluster::with(Config { kubevirt_version: (1, minor), ..Config::default() });
        cluster.sim.add_vm(Vm::new("demo", "db").disk("root", Disk::zeros(1 << 20)));
        cluster.run("snapshot create demo/db --name before").expect(0);
        let all = [
            ("--if-running fail", "targetReadinessPolicy", "1.5"),
            ("--volume-names in-place", "volumeRestorePolicy", "1.6"),
            ("--volume-owner none", "volumeOwnershipPolicy", "1.7"),
        ];
        for ((option, field, since), is_unknown) in all.into_iter().zip(options) {
            let line = format!("snapshot restore demo/before {option}");
            if is_unknown {
                let says = format!("this version of KubeVirt does not know {field}");
                cluster.refused(&line, 7, &[&says, &format!("KubeVirt {since} or newer")]);
            } else {
                cluster.run(&line).expect(0);
            }
        }
        // Without them it works everywhere, clones included.
        cluster.run("snapshot restore demo/before").expect(0);
        cluster.run("vm clone demo/db copy").expect(0);
        cluster.run("snapshot delete demo/before --yes").expect(0);
    }
}
