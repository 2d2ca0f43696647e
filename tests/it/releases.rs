//! What each release of KubeVirt has and lacks, and what vmferry makes of it: a test for each row of the contract.

use serde_json::json;
use vmferry_sim::{Action, Config, Disk, Rule, Server, Vm};

use crate::{
    support::{scratch, wait_for},
    vm::{Cluster, text},
};

/// A release, and what the contract says of it.
struct Release {
    minor: u32,
    /// Section 0: the versions of `export.kubevirt.io`, `snapshot.kubevirt.io` and `clone.kubevirt.io` that are spoken.
    exports: &'static str,
    snapshots: &'static str,
    clones: &'static str,
    /// Section 0: the version of `template.kubevirt.io`, if there is any.
    templates: Option<&'static str>,
    /// Section 9: whether `VMExport` must be listed.
    export_gate: bool,
    /// Section 1.8: whether a VM whose guest has ended is not in use.
    frees_ended: bool,
    /// Section 6.1: `sourceIndications`, or `indications`.
    source_indications: bool,
    /// Section 4.5: whether networks come while a guest runs, once `HotplugNICs` is listed; whether links can be set.
    networks: bool,
    links: bool,
}

const RELEASES: [Release; 4] = [
    Release {
        minor: 0,
        exports: "v1alpha1",
        snapshots: "v1alpha1",
        clones: "v1alpha1",
        templates: None,
        export_gate: true,
        frees_ended: false,
        source_indications: false,
        networks: false,
        links: false,
    },
    Release {
        minor: 3,
        exports: "v1beta1",
        snapshots: "v1beta1",
        clones: "v1alpha1",
        templates: None,
        export_gate: true,
        frees_ended: false,
        source_indications: false,
        networks: true,
        links: false,
    },
    Release {
        minor: 6,
        exports: "v1beta1",
        snapshots: "v1beta1",
        clones: "v1beta1",
        templates: None,
        export_gate: true,
        frees_ended: true,
        source_indications: false,
        networks: true,
        links: true,
    },
    Release {
        minor: 9,
        exports: "v1",
        snapshots: "v1beta1",
        clones: "v1beta1",
        templates: Some("v1beta1"),
        export_gate: false,
        frees_ended: true,
        source_indications: true,
        networks: true,
        links: true,
    },
];

impl Release {
    /// A cluster of this release, with a VM that is off and one that runs.
    fn start(&self, config: Config) -> Cluster {
        let cluster = Cluster::with(Config { kubevirt_version: (1, self.minor), ..config });
        let vm = |name: &str| Vm::new("demo", name).disk("root", Disk::pattern(1 << 20, 1));
        cluster.sim.add_vm(vm("db"));
        cluster.sim.add_vm(vm("on").running(true).agent(true).migratable().instancetype("u1.large"));
        cluster
    }

    /// Runs lines that must succeed.
    #[track_caller]
    fn does(&self, cluster: &Cluster, lines: &[&str]) {
        for line in lines {
            let done = cluster.run(line);
            assert_eq!(done.code, Some(0), "1.{}: {line}: {}", self.minor, done.stderr);
        }
    }

    /// Demands that a group was spoken in this version and in no other.
    #[track_caller]
    fn spoke(&self, cluster: &Cluster, group: &str, version: &str) {
        let part = format!("/apis/{group}/");
        let requests = cluster.sim.requests();
        let api = requests.iter().filter(|request| request.server == Server::Api);
        let mut all = api.filter_map(|request| request.path.strip_prefix(&part)).peekable();
        assert!(all.peek().is_some(), "1.{}: {group} was not spoken", self.minor);
        let wanted = format!("{version}/");
        for rest in all {
            assert!(rest.starts_with(&wanted), "1.{}: {group}: {rest}, not {version}", self.minor);
        }
    }

    /// Runs a line with a field that came with a later release, or demands that this is told.
    #[track_caller]
    fn knows(&self, cluster: &Cluster, line: &str, field: &str, since: u32) {
        if self.minor >= since {
            self.does(cluster, &[line]);
        } else {
            let (lacks, newer) =
                (format!("this version of KubeVirt does not know {field}"), format!("1.{since} or newer"));
            cluster.refused(line, 7, &[&lacks, &newer]);
        }
    }
}

/// Section 0: "`kubevirt.io` | v1", "`subresources.kubevirt.io` | v1 (preferred), v1alpha3 | same | same".
#[test]
fn vms_and_their_calls_are_spoken_in_v1_everywhere() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(
            &cluster,
            &[
                "vm list -A -o wide",
                "vm get demo/on",
                "vm start demo/db --paused",
                "vm unpause demo/db",
                "vm pause demo/db",
                "vm unpause demo/db",
                "vm restart demo/db",
                "vm stop demo/db",
                "vm migrate demo/on",
                "vm screenshot demo/on --output -",
                "vm console demo/on --pipe --timeout 100ms",
            ],
        );
        release.spoke(&cluster, "kubevirt.io", "v1");
        release.spoke(&cluster, "subresources.kubevirt.io", "v1");
    }
}

/// Section 0: "`export.kubevirt.io` | v1alpha1 | v1alpha1, v1beta1 | v1beta1 (deprecated, warning header), v1 (storage).
/// v1alpha1 gone".
#[test]
fn exports_are_spoken_in_the_newest_version() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        let place = scratch();
        release.does(&cluster, &[&format!("export demo/db --output {}/", place.path().display())]);
        release.spoke(&cluster, "export.kubevirt.io", release.exports);
        assert!(place.path().join("db/root.qcow2").exists(), "1.{}", release.minor);
    }
}

/// Section 1.5: "`<ver>` in the path is v1alpha1 (≤1.2), v1beta1 (1.3–1.8), v1 (≥1.9) … Use links verbatim".
#[test]
fn links_are_used_as_they_are() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        let (place, ca) = (scratch(), scratch());
        let file = ca.path().join("ca.pem");
        std::fs::write(&file, cluster.sim.ingress_ca_pem()).unwrap();
        let line = format!(
            "export demo/db --reach external --ca-file {} --output {}/",
            file.display(),
            place.path().display()
        );
        release.does(&cluster, &[&line]);
        let requests = cluster.sim.requests();
        let proxied: Vec<&str> = requests
            .iter()
            .filter(|request| request.server == Server::Proxy)
            .map(|request| request.path.as_str())
            .collect();
        let part = format!("/api/export.kubevirt.io/{}/namespaces/demo/", release.exports);
        assert!(
            !proxied.is_empty() && proxied.iter().all(|path| path.starts_with(&part)),
            "{part}: {proxied:?}"
        );
    }
}

/// Section 9: "VMExport | must be listed ≤1.7; on by default 1.8 (beta); GA 1.9".
#[test]
fn the_gate_of_exports_is_named_where_it_is_needed() {
    for release in &RELEASES {
        let cluster = release.start(Config { export_gate: false, ..Config::default() });
        let place = scratch();
        let line = format!("export demo/db --output {}/", place.path().display());
        if release.export_gate {
            cluster.refused(&line, 7, &["feature gate VMExport", "featureGates"]);
        } else {
            release.does(&cluster, &[&line]);
        }
    }
}

/// Section 9: "Snapshot | must be listed ≤1.7; default on ≥1.8": whoever has it off is told so in every release.
#[test]
fn the_gate_of_snapshots_is_named() {
    for release in &RELEASES {
        let cluster = release.start(Config { snapshot_gate: false, ..Config::default() });
        let place = scratch();
        for line in
            ["snapshot create demo/db", &format!("export demo/on --output {}/", place.path().display())]
        {
            cluster.refused(line, 7, &["feature gate Snapshot", "featureGates"]);
        }
    }
}

/// Section 1.8: "VM | VM exists; no VMI, or (≥1.5, #13240) VMI Succeeded/Failed".
#[test]
fn a_guest_that_has_ended_is_in_use_before_1_5() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        let vm = Vm::new("demo", "ended").disk("root", Disk::pattern(1 << 20, 1)).strategy("Manual");
        cluster.sim.add_vm(vm.running(true));
        let (namespace, name) = ("demo".to_owned(), "ended".to_owned());
        cluster.sim.act(Action::EndGuest { namespace, name, failed: false });
        wait_for("the end of the guest", || {
            cluster.object("virtualmachineinstances", "ended").unwrap()["status"]["phase"] == "Succeeded"
        });
        let place = scratch();
        let line = format!("export demo/ended --output {}/ --wait 2s", place.path().display());
        if release.frees_ended {
            release.does(&cluster, &[&line]);
        } else {
            cluster.refused(&line, 8, &["in use"]);
        }
    }
}

/// Section 0: "`snapshot.kubevirt.io` | v1alpha1 | v1alpha1, v1beta1 | v1alpha1, v1beta1 (use v1beta1)".
#[test]
fn snapshots_are_spoken_in_the_newest_version() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(
            &cluster,
            &[
                "snapshot create demo/db --name t",
                "snapshot list -A",
                "snapshot get demo/t",
                "snapshot restore demo/t",
                "snapshot delete demo/t --yes",
            ],
        );
        release.spoke(&cluster, "snapshot.kubevirt.io", release.snapshots);
    }
}

/// Section 6.1: "`sourceIndications[]{indication,message}` (≥1.7), `indications[]` (older)".
#[test]
fn indications_are_read_from_where_the_release_has_them() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(&cluster, &["snapshot create demo/on --name s --quiesce require"]);
        let snapshot = cluster.json("snapshot get demo/s");
        assert_eq!(snapshot["consistency"], "guest-agent", "1.{}", release.minor);
        assert_eq!(snapshot["indications"], json!(["GuestAgent", "Online"]), "1.{}", release.minor);
        let raw = cluster.object("virtualmachinesnapshots", "s").unwrap();
        let has_source = !raw["status"]["sourceIndications"].is_null();
        assert_eq!(has_source, release.source_indications, "1.{}", release.minor);
    }
}

/// Restores with a field, in every release.
#[track_caller]
fn restores(option: &str, field: &str, since: u32) {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(&cluster, &["snapshot create demo/db --name t"]);
        release.knows(&cluster, &format!("snapshot restore demo/t {option}"), field, since);
        // What is refused leaves nothing behind that would be in the way.
        release.does(&cluster, &["snapshot restore demo/t"]);
    }
}

/// Section 6.2: "`targetReadinessPolicy` (≥1.5)".
#[test]
fn restores_wait_for_their_target_from_1_5_on() {
    restores("--if-running fail", "targetReadinessPolicy", 5);
}

/// Section 6.2: "`volumeRestorePolicy` (≥1.6) | `RandomizeNames` (default), `InPlace`".
#[test]
fn restores_keep_names_of_volumes_from_1_6_on() {
    restores("--volume-names in-place", "volumeRestorePolicy", 6);
}

/// Section 6.2: "`PrefixTargetName` (≥1.8)".
#[test]
fn restores_name_volumes_after_their_target_from_1_8_on() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(&cluster, &["snapshot create demo/db --name t"]);
        // Before 1.6 it is the field that is not known.
        let field =
            if release.minor < 6 { ("volumeRestorePolicy", "1.6") } else { ("PrefixTargetName", "1.8") };
        let line = "snapshot restore demo/t --volume-names prefix";
        if release.minor >= 8 {
            release.does(&cluster, &[line]);
        } else {
            let lacks = format!("this version of KubeVirt does not know {}", field.0);
            cluster.refused(line, 7, &[&lacks, &format!("{} or newer", field.1)]);
        }
    }
}

/// Section 6.2: "`volumeOwnershipPolicy` (≥1.7) | `Vm` (default), `None`".
#[test]
fn restores_own_volumes_or_not_from_1_7_on() {
    restores("--volume-owner none", "volumeOwnershipPolicy", 7);
}

/// Section 0: "`clone.kubevirt.io` | v1alpha1 | v1alpha1; v1beta1 from 1.5 | v1alpha1, v1beta1".
#[test]
fn clones_are_spoken_in_the_newest_version() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(&cluster, &["vm clone demo/db copy"]);
        release.spoke(&cluster, "clone.kubevirt.io", release.clones);
    }
}

/// Section 6.4: "`addedNodeSelector` (≥1.6)".
#[test]
fn guests_are_sent_to_a_node_from_1_6_on() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.knows(&cluster, "vm migrate demo/on --target-node node-3", "addedNodeSelector", 6);
        release.does(&cluster, &["vm migrate demo/on"]);
    }
}

/// Section 0: "`instancetype.kubevirt.io` | v1alpha1/2, v1beta1 | same; only v1beta1 from 1.7 | v1beta1".
#[test]
fn instancetypes_are_spoken_in_v1beta1_everywhere() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        release.does(&cluster, &["instancetype list", "preference list"]);
        release.spoke(&cluster, "instancetype.kubevirt.io", "v1beta1");
    }
}

/// Section 0: "`template.kubevirt.io` | – | v1alpha1 from 1.8 | v1alpha1, v1beta1".
#[test]
fn templates_are_there_from_1_8_on() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        match release.templates {
            None => cluster.refused(
                "template list -A",
                7,
                &["the cluster does not know template.kubevirt.io", "Templates came with KubeVirt 1.8"],
            ),
            Some(version) => {
                release.does(&cluster, &["template list -A", "template create demo/db"]);
                release.spoke(&cluster, "template.kubevirt.io", version);
            }
        }
    }
}

/// Section 4.4: "any version with gate HotplugVolumes or, ≥1.6, DeclarativeHotplugVolumes; neither → 400".
#[test]
fn volumes_come_while_a_guest_runs_where_a_gate_lets_them() {
    for release in &RELEASES {
        for gate in [true, false] {
            let cluster = release.start(Config { hotplug_gate: gate, ..Config::default() });
            cluster.sim.add_pvc("demo", "more", Disk::zeros(1 << 20), vmferry_sim::PvcKind::Block);
            if gate {
                release.does(&cluster, &["volume attach demo/on more", "volume detach demo/on more"]);
            } else {
                cluster.refused(
                    "volume attach demo/on more",
                    7,
                    &["feature gate HotplugVolumes", "featureGates"],
                );
            }
        }
    }
}

/// Section 4.5: "Hotplug (GA 1.4; gate HotplugNICs 1.1–1.3)". What 1.0 cannot do counts from the next restart.
#[test]
fn networks_come_while_a_guest_runs_from_1_1_on() {
    for release in &RELEASES {
        let cluster = release.start(Config { multus: true, ..Config::default() });
        let lan = json!({"metadata": {"name": "lan", "namespace": "demo"}, "spec": {"config": "{}"}});
        cluster.sim.add_object("network-attachment-definitions", lan);
        let attached = cluster.json("network attach demo/on lan");
        assert_eq!(attached["complete"], release.networks, "1.{}", release.minor);
        assert_eq!(attached["needs"] == "restart", !release.networks, "1.{}", release.minor);
    }
}

/// Section 4.5: "Link: `state: up|down` (≥1.5)".
#[test]
fn links_are_set_from_1_5_on() {
    for release in &RELEASES {
        let cluster = release.start(Config::default());
        if release.links {
            release.does(&cluster, &["network set-link demo/on default down"]);
        } else {
            cluster.refused(
                "network set-link demo/on default down",
                7,
                &["this version of KubeVirt does not know", "1.5 or newer"],
            );
        }
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
