//! What each release of KubeVirt has and lacks (contract section 0, 4, 6), and what vmferry makes of it.

use serde_json::json;
use vmferry_sim::{Config, Disk, Rule, Vm};

use crate::vm::{Cluster, text};

/// A row of the contract: what a release serves and knows.
struct Release {
    minor: u32,
    /// Section 0: versions of `snapshot.kubevirt.io` and `clone.kubevirt.io` that are spoken.
    snapshots: &'static str,
    clones: &'static str,
    /// Section 6.2: `targetReadinessPolicy` from 1.5, `volumeRestorePolicy` from 1.6, `volumeOwnershipPolicy` from 1.7.
    readiness: bool,
    volume_names: bool,
    ownership: bool,
    /// Section 6.4: `addedNodeSelector` from 1.6.
    target_node: bool,
    /// Section 6.1: `sourceIndications` from 1.7, `indications` before.
    source_indications: bool,
}

const RELEASES: [Release; 4] = [
    Release {
        minor: 0,
        snapshots: "v1alpha1",
        clones: "v1alpha1",
        readiness: false,
        volume_names: false,
        ownership: false,
        target_node: false,
        source_indications: false,
    },
    Release {
        minor: 3,
        snapshots: "v1beta1",
        clones: "v1alpha1",
        readiness: false,
        volume_names: false,
        ownership: false,
        target_node: false,
        source_indications: false,
    },
    Release {
        minor: 6,
        snapshots: "v1beta1",
        clones: "v1beta1",
        readiness: true,
        volume_names: true,
        ownership: false,
        target_node: true,
        source_indications: false,
    },
    Release {
        minor: 9,
        snapshots: "v1beta1",
        clones: "v1beta1",
        readiness: true,
        volume_names: true,
        ownership: true,
        target_node: true,
        source_indications: true,
    },
];

#[test]
fn every_release_is_used_as_far_as_it_goes() {
    for release in &RELEASES {
        let minor = release.minor;
        let cluster = Cluster::with(Config { kubevirt_version: (1, minor), ..Config::default() });
        let vm = |name: &str| Vm::new("demo", name).disk("root", Disk::zeros(1 << 20));
        cluster.sim.add_vm(vm("db"));
        cluster.sim.add_vm(vm("on").running(true).agent(true).migratable().instancetype("u1.large"));

        // What is the same everywhere.
        for line in [
            "vm list -A -o wide",
            "vm get demo/on",
            "vm start demo/db --paused",
            "vm unpause demo/db",
            "vm restart demo/db",
            "vm stop demo/db",
            "vm migrate demo/on",
            "snapshot create demo/on --name s --quiesce require",
            "snapshot create demo/db --name t",
            "vm clone demo/db copy",
            "instancetype list",
            "preference list",
        ] {
            let done = cluster.run(line);
            assert_eq!(done.code, Some(0), "1.{minor}: {line}: {}", done.stderr);
        }

        // The newest version that the release serves is spoken.
        let spoken = |group: &str, version: &str| {
            let part = format!("/apis/{group}/");
            let requests = cluster.sim.requests();
            let mut all = requests.iter().filter_map(|request| request.path.strip_prefix(&part)).peekable();
            assert!(all.peek().is_some(), "1.{minor}: {group}");
            assert!(all.all(|rest| rest.starts_with(version)), "1.{minor}: {group} is spoken as {version}");
        };
        spoken("snapshot.kubevirt.io", release.snapshots);
        spoken("clone.kubevirt.io", release.clones);

        // Indications are read from where the release has them.
        let snapshot = cluster.json("snapshot get demo/s");
        assert_eq!(snapshot["consistency"], "guest-agent", "1.{minor}");
        assert_eq!(snapshot["indications"], json!(["GuestAgent", "Online"]), "1.{minor}");
        let raw = cluster.object("virtualmachinesnapshots", "s").unwrap();
        assert_eq!(!raw["status"]["sourceIndications"].is_null(), release.source_indications, "1.{minor}");

        // What a release lacks is a named error, not something that is dropped.
        for (line, field, is_known) in [
            ("snapshot restore demo/t --if-running fail", "targetReadinessPolicy", release.readiness),
            ("snapshot restore demo/t --volume-names in-place", "volumeRestorePolicy", release.volume_names),
            ("snapshot restore demo/t --volume-owner none", "volumeOwnershipPolicy", release.ownership),
            ("vm migrate demo/on --target-node node-3", "addedNodeSelector", release.target_node),
        ] {
            if is_known {
                let done = cluster.run(line);
                assert_eq!(done.code, Some(0), "1.{minor}: {line}: {}", done.stderr);
            } else {
                cluster.refused(
                    line,
                    7,
                    &[&format!("this version of KubeVirt does not know {field}"), "or newer"],
                );
            }
        }
        cluster.run("snapshot restore demo/t").expect(0);
    }
}

#[test]
fn what_vms_are_made_after_is_listed() {
    let cluster = Cluster::start();
    cluster.sim.add_object(
        "virtualmachineinstancetypes",
        json!({"metadata": {"name": "own", "namespace": "demo"}, "spec": {
            "cpu": {"guest": 3, "dedicatedCPUPlacement": true}, "memory": {"guest": "3Gi"}, "gpus": [{"name": "g"}]}}),
    );
    let all = cluster.json("instancetype list -n demo");
    let own = all.as_array().unwrap().last().unwrap();
    assert_eq!(
        *own,
        json!({"name": "own", "namespace": "demo", "kind": "VirtualMachineInstancetype", "cpus": 3,
            "memory_bytes": 3_u64 << 30, "dedicated_cpus": true, "gpus": 1})
    );
    let large = all.as_array().unwrap().iter().find(|found| found["name"] == "u1.large").unwrap();
    assert_eq!((&large["kind"], &large["cpus"]), (&json!("VirtualMachineClusterInstancetype"), &json!(2)));
    assert!(!text(&cluster.run("instancetype list -o name").expect(0)).contains("own"), "another namespace");
    assert!(text(&cluster.run("instancetype list -A").expect(0)).contains("own"));
    let preferences = text(&cluster.run("preference list -o wide").expect(0));
    for says in ["windows.11", "windows11", "efi, secure boot", "e1000e"] {
        assert!(preferences.contains(says), "{says}: {preferences}");
    }
    cluster.allow(vec![Rule::new(&["list"], &["kubevirt.io/*"])]);
    cluster.refused(
        "instancetype list",
        7,
        &["no right to list", "--resource=virtualmachineclusterinstancetypes.instancetype.kubevirt.io"],
    );
    cluster.refused(
        "preference list",
        7,
        &["--resource=virtualmachineclusterpreferences.instancetype.kubevirt.io"],
    );
    let absent = vec!["instancetype.kubevirt.io".to_owned()];
    let cluster = Cluster::with(Config { absent_groups: absent, ..Config::default() });
    cluster.refused("instancetype list", 7, &["the cluster does not know instancetype.kubevirt.io"]);
}
