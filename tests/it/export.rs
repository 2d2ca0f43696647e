//! `vmferry export` against a simulated cluster: every source, way and format, and what goes wrong.

mod appliance;
mod chaos;
mod cluster;
mod doctor;
mod faults;
mod interrupted;
mod logins;
mod objects;
mod proxy;
mod refusals;
mod resumed;
mod secrets;
mod transfer;

use std::{fs, path::Path, time::Duration};

use vmferry_sim::{Config, Disk, Fault, FaultKind, PvcKind, Vm};

use self::cluster::{Cluster, MIB, assert_disk, web};
use crate::support::{listing, scratch, wait_for};

#[test]
fn all_disks_of_a_vm_in_one_run_whatever_the_format() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    for format in ["raw", "qcow2", "vmdk"] {
        let place = scratch();
        let report = cluster
            .run(place.path(), &["demo/web", "--output", "out", "-O", format, "-o", "json", "--verify"])
            .expect(0)
            .json();
        let directory = place.path().join("out/web");
        assert_disk(&directory.join(format!("root.{format}")), &root);
        assert_disk(&directory.join(format!("data.{format}")), &data);
        assert_eq!(report["consistency"], "stopped");
        assert_eq!(report["volumes"].as_array().unwrap().len(), 2);
        assert_eq!(report["left_out"][0]["name"], "cd");

        let mut names = listing(&directory);
        names.retain(|name| !name.ends_with(".vmferry.jsonl"));
        let disks = [format!("data.{format}"), format!("root.{format}")];
        let mut expected = vec!["manifest.json".to_owned(), "vm.yaml".into()];
        if format == "vmdk" {
            expected.push("SHA256SUMS".into());
        }
        expected.extend(disks);
        expected.sort();
        assert_eq!(names, expected);
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(directory.join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["source"]["kind"], "VirtualMachine");
        assert_eq!(manifest["volumes"], report["volumes"]);
        let description = fs::read_to_string(directory.join("vm.yaml")).unwrap();
        assert!(
            description.contains("kind: VirtualMachine") && !description.contains("status:"),
            "{description}"
        );
        cluster.assert_clean();
    }
}

#[test]
fn a_vmdk_comes_with_sums_that_others_check() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    cluster.run(place.path(), &["demo/web", "--output", "out", "-O", "vmdk"]).expect(0);
    let checked = std::process::Command::new("sha256sum")
        .args(["-c", "SHA256SUMS"])
        .current_dir(place.path().join("out/web"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn every_way_to_the_exporter_carries_the_same_bytes() {
    for (external, reach, way) in [
        (true, "external", "external link"),
        (true, "port-forward", "port-forward through the API server"),
        (true, "auto", "external link"),
        (false, "auto", "port-forward through the API server"),
    ] {
        let cluster = Cluster::start(Config { external_link: external, ..Config::default() });
        let (root, _) = web(&cluster);
        for transfer in ["raw", "gzip"] {
            let place = scratch();
            let args = [
                "demo/web",
                "--volume",
                "root",
                "--output",
                "root.raw",
                "--reach",
                reach,
                "--transfer",
                transfer,
            ];
            let report = cluster.run(place.path(), &[&args[..], &["-o", "json"]].concat()).expect(0).json();
            assert_disk(&place.path().join("root.raw"), &root);
            assert_eq!(report["reached_by"], way);
            cluster.assert_clean();
        }
    }
}

#[test]
fn every_release_of_kubevirt_is_spoken_to() {
    for minor in [0, 2, 3, 5, 8, 9] {
        let cluster = Cluster::start(Config { kubevirt_version: (1, minor), ..Config::default() });
        let (root, _) = web(&cluster);
        let place = scratch();
        cluster.run(place.path(), &["demo/web", "--volume", "root", "--output", "root.qcow2"]).expect(0);
        assert_disk(&place.path().join("root.qcow2"), &root);
        cluster.assert_clean();
    }
}

#[test]
fn one_volume_goes_to_a_pipe() {
    let cluster = Cluster::start(Config::default());
    let (_, data) = web(&cluster);
    let place = scratch();
    let piped = cluster
        .run(place.path(), &["demo/web", "--volume", "web-data", "--output", "-", "-O", "raw"])
        .expect(0);
    assert!(piped.stdout == data, "{} bytes", piped.stdout.len());
    assert_eq!(listing(place.path()), [""; 0]);
    cluster.assert_clean();
}

#[test]
fn a_running_vm_is_exported_through_a_snapshot() {
    for (agent, consistency) in [(true, "guest-agent"), (false, "crash")] {
        let cluster = Cluster::start(Config::default());
        let (root, data) = (cluster.disk(1, 9 * MIB), cluster.disk(2, 5 * MIB));
        let vm = Vm::new("demo", "live")
            .disk("root", Disk::bytes(root.clone()))
            .disk("data", Disk::bytes(data.clone()));
        cluster.sim.add_vm(vm.running(true).agent(agent));
        let place = scratch();
        let report =
            cluster.run(place.path(), &["demo/live", "--output", "out", "-o", "json"]).expect(0).json();
        assert_disk(&place.path().join("out/live/root.qcow2"), &root);
        assert_disk(&place.path().join("out/live/data.qcow2"), &data);
        assert_eq!(report["consistency"], consistency);
        let manifest = fs::read_to_string(place.path().join("out/live/manifest.json")).unwrap();
        assert!(manifest.contains("\"Online\""), "{manifest}");
        cluster.assert_clean();
        // It still runs.
        let vms = cluster.sim.objects("virtualmachineinstances", Some("demo"));
        assert_eq!(vms.len(), 1);
    }
}

#[test]
fn a_vm_is_stopped_only_if_told_and_put_back_as_it_was() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, 9 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "live").disk("root", Disk::bytes(disk.clone())).running(true));
    let strategy = || cluster.sim.objects("virtualmachines", Some("demo"))[0]["spec"]["runStrategy"].clone();
    let before = strategy();
    let place = scratch();
    let report =
        cluster.run(place.path(), &["demo/live", "--output", "out", "--stop", "-o", "json"]).expect(0).json();
    assert_disk(&place.path().join("out/live/root.qcow2"), &disk);
    assert_eq!(report["consistency"], "stopped");
    assert_eq!(strategy(), before);
    wait_for("the VM", || !cluster.sim.objects("virtualmachineinstances", Some("demo")).is_empty());
    let description = fs::read_to_string(place.path().join("out/live/vm.yaml")).unwrap();
    assert!(description.contains(&format!("runStrategy: {}", before.as_str().unwrap())), "{description}");
    cluster.assert_clean();

    // And if it fails.
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 500 }).times(0));
    let failed =
        cluster.run(place.path(), &["demo/live", "--output", "again", "--stop", "--retry-for", "2s"]);
    assert_ne!(failed.code, Some(0));
    assert!(failed.stderr.contains("put back as it was"), "{}", failed.stderr);
    assert_eq!(strategy(), before);
}

/// The status of a VM that stops goes through a reason of its own first, with a time that does not last.
#[test]
fn a_vm_that_has_just_stopped_is_not_taken_for_one_that_was_started() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, 21 * MIB);
    let slow = ["--transfer", "raw", "--rate", "4MiB"];
    for (name, stop) in [("told", &["--stop"][..]), ("before", &[])] {
        let vm = Vm::new("demo", name).disk("root", Disk::bytes(disk.clone())).running(true);
        cluster.sim.add_vm(vm.lingering(Duration::from_secs(3)));
        if stop.is_empty() {
            cluster.sim.stop_vm("demo", name);
        }
        let place = scratch();
        let target = format!("demo/{name}");
        cluster.run(place.path(), &[&[&target, "--output", "root.raw"], &slow[..], stop].concat()).expect(0);
        assert_disk(&place.path().join("root.raw"), &disk);
        cluster.assert_clean();
    }
}

#[test]
fn snapshots_and_claims_are_exported_by_name() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    cluster.sim.add_object(
        "virtualmachinesnapshots",
        serde_json::json!({
            "apiVersion": "snapshot.kubevirt.io/v1beta1",
            "kind": "VirtualMachineSnapshot",
            "metadata": {"name": "before", "namespace": "demo"},
            "spec": {"source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"}},
        }),
    );
    let place = scratch();
    cluster.run(place.path(), &["--snapshot", "before", "-n", "demo", "--output", "out"]).expect(0);
    assert_disk(&place.path().join("out/web/root.qcow2"), &root);
    assert_disk(&place.path().join("out/web/data.qcow2"), &data);
    assert!(place.path().join("out/web/vm.yaml").exists());
    assert_eq!(cluster.sim.objects("virtualmachinesnapshots", Some("demo")).len(), 1, "it is not ours");
    cluster.assert_clean();

    let plain = cluster.disk(3, 3 * MIB);
    for (name, kind) in [
        ("block", PvcKind::Block),
        ("marked", PvcKind::FilesystemKubevirt),
        ("plain", PvcKind::FilesystemPlain),
    ] {
        cluster.sim.add_pvc("demo", name, Disk::bytes(plain.clone()), kind);
        cluster
            .run(place.path(), &["--pvc", name, "-n", "demo", "--output", &format!("{name}.raw")])
            .expect(0);
        assert_disk(&place.path().join(format!("{name}.raw")), &plain);
        cluster.assert_clean();
    }
}

#[test]
fn an_export_that_is_there_is_read_and_left() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    cluster.add_export("theirs", "web", "t0ken-of-theirs");
    let place = scratch();
    let args = ["--vmexport", "theirs", "-n", "demo", "--volume", "root", "--output", "root.qcow2"];
    cluster.run(place.path(), &args).expect(0);
    assert_disk(&place.path().join("root.qcow2"), &root);

    // By an address of the exporter's service; its own name is verified.
    let address = cluster.sim.service_address("demo", "theirs").unwrap();
    let url = format!("https://{address}");
    let args = [
        "--vmexport",
        "theirs",
        "-n",
        "demo",
        "--volume",
        "root",
        "--output",
        "again.qcow2",
        "--service-url",
        &url,
    ];
    cluster.run(place.path(), &args).expect(0);
    assert_disk(&place.path().join("again.qcow2"), &root);
    assert_eq!(cluster.sim.objects("virtualmachineexports", Some("demo")).len(), 1);
    let secrets = cluster.sim.objects("secrets", Some("demo"));
    assert!(secrets.iter().any(|secret| secret["metadata"]["name"] == "theirs-token"), "{secrets:?}");
}

#[test]
fn a_dry_run_makes_nothing() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    let plan = cluster
        .run(place.path(), &["demo/web", "--output", "out", "--dry-run", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(plan["volumes"].as_array().unwrap().len(), 2);
    assert!(plan["source"].as_str().unwrap().contains("stopped"), "{plan}");
    assert_eq!(plan["left_out"][0]["name"], "cd");
    assert!(plan["space_needed"].as_u64().unwrap() > 0);
    assert_eq!(plan["reach"][0], "external link");
    let text = cluster.run(place.path(), &["demo/web", "--output", "out", "--dry-run"]).expect(0);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("external link, then port-forward"), "{text}");
    assert_eq!(listing(place.path()), [""; 0]);
    // What a user may do is asked by a POST.
    let is_question = |request: &vmferry_sim::LoggedRequest| {
        request.method == "GET" || request.path.ends_with("/selfsubjectaccessreviews")
    };
    assert!(cluster.sim.requests().iter().all(is_question), "only questions");
}

/// Every name that KubeVirt allows is a file in its place.
#[test]
fn names_with_dots_stay_files_in_their_directory() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, MIB);
    cluster.sim.add_pvc("demo", "a.b.c", Disk::bytes(disk.clone()), PvcKind::Block);
    cluster.sim.add_vm(Vm::new("demo", "web.prod").claim("root.disk", "a.b.c"));
    let place = scratch();
    cluster.run(place.path(), &["demo/web.prod", "--output", "out/"]).expect(0);
    assert_disk(&place.path().join("out/web.prod/root.disk.qcow2"), &disk);
    assert!(Path::new(&place.path().join("out/web.prod/manifest.json")).exists());
    cluster.assert_clean();
}
