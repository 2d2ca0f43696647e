//! What is refused, and what is said about it.

use std::fs;

use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Rule, Vm};

use super::cluster::{Cluster, MIB, assert_disk, web};
use crate::support::{listing, scratch};

#[test]
fn what_does_not_exist_is_named() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    for (args, says) in [
        (&["demo/nothing"][..], "VirtualMachine demo/nothing does not exist"),
        (&["--snapshot", "nothing", "-n", "demo"], "VirtualMachineSnapshot demo/nothing does not exist"),
        (&["--pvc", "nothing", "-n", "demo"], "PersistentVolumeClaim demo/nothing does not exist"),
        (&["--vmexport", "nothing", "-n", "demo"], "VirtualMachineExport demo/nothing does not exist"),
    ] {
        let failed = cluster.run(place.path(), &[args, &["--output", "out"]].concat()).expect(7);
        assert!(failed.stderr.contains(says), "{}", failed.stderr);
    }
    let failed = cluster.run(place.path(), &["demo/web", "--output", "out", "--volume", "swap"]).expect(2);
    assert!(failed.stderr.contains("root, data"), "{}", failed.stderr);
    let failed = cluster.run(place.path(), &["demo/web", "--output", "out", "--volume", "cd"]).expect(5);
    assert!(failed.stderr.contains("containerDisk"), "{}", failed.stderr);
    let failed = cluster.run(place.path(), &["demo/web", "--output", "both.qcow2"]).expect(2);
    assert!(failed.stderr.contains("--volume"), "{}", failed.stderr);
    assert_eq!(listing(place.path()), [""; 0], "nothing was made");
    cluster.assert_clean();
}

#[test]
fn missing_rights_are_named_before_anything_is_made() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let rules = vec![
        Rule::new(&["get"], &["kubevirt.io/*", "/persistentvolumeclaims"]),
        Rule::new(&["get", "create"], &["export.kubevirt.io/virtualmachineexports"]),
        Rule::new(&["get"], &["/secrets"]),
    ];
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let place = scratch();
    let failed = cluster.run(place.path(), &["demo/web", "--output", "out"]).expect(7);
    for says in ["delete virtualmachineexports.export.kubevirt.io", "create secrets", "kubectl create role"] {
        assert!(failed.stderr.contains(says), "{says}: {}", failed.stderr);
    }
    assert_eq!(listing(place.path()), [""; 0]);
    cluster.assert_clean();
}

/// What instancetype and preference set would be missing in the appliance; images by themselves only lack a description.
#[test]
fn an_appliance_of_a_vm_that_may_not_be_expanded_is_refused_before_anything_is_made() {
    let cluster = Cluster::start(Config::default());
    let vm = |name: &str, seed| {
        Vm::new("demo", name).disk("root", Disk::bytes(cluster.disk(seed, MIB))).preference("windows.11")
    };
    cluster.sim.add_vm(vm("off", 3));
    cluster.sim.add_vm(vm("on", 4).running(true));
    let all = ["export.kubevirt.io/*", "snapshot.kubevirt.io/*", "kubevirt.io/*", "/secrets", "/services"];
    let rules =
        vec![Rule::new(&["*"], &all), Rule::new(&["get"], &["/persistentvolumeclaims", "apps/deployments"])];
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
    let place = scratch();
    let given = "update expand-vm-spec.subresources.kubevirt.io";
    for (args, says) in [
        (&["demo/off"][..], "get virtualmachines.subresources.kubevirt.io/expand-spec"),
        (&["demo/on"], given),
        (&["demo/on", "--stop"], given),
        (&["demo/on", "--dry-run"], given),
    ] {
        let failed = cluster.run(place.path(), &[args, &["--output", "out", "-O", "ova"]].concat()).expect(7);
        assert!(failed.stderr.contains(says), "{args:?}: {}", failed.stderr);
        assert!(failed.stderr.contains("kubectl create role"), "{args:?}: {}", failed.stderr);
        assert_eq!(listing(place.path()), [""; 0]);
        for plural in ["virtualmachineexports", "virtualmachinesnapshots"] {
            assert_eq!(cluster.sim.objects(plural, None), [""; 0]);
        }
    }
    cluster.run(place.path(), &["demo/off", "--output", "out", "-O", "raw"]).expect(0);
}

/// A websocket is opened by a GET; Kubernetes asks for `get`, and from 1.35 on for `create` too.
#[test]
fn a_port_forward_needs_what_the_cluster_asks_for() {
    for (minor, verbs, lacks) in [
        (34, &["create"][..], Some("get")),
        (34, &["get"], None),
        (36, &["get"], Some("create")),
        (36, &["create"], Some("get")),
        (36, &["create", "get"], None),
    ] {
        let cluster = Cluster::start(Config { kubernetes_minor: minor, ..Config::default() });
        web(&cluster);
        let all = [
            "export.kubevirt.io/*",
            "/secrets",
            "kubevirt.io/*",
            "/persistentvolumeclaims",
            "/pods",
            "/services",
        ];
        let rules = vec![Rule::new(&["*"], &all), Rule::new(verbs, &["/pods/portforward"])];
        fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
        let place = scratch();
        let done = cluster.run(place.path(), &["demo/web", "--output", "out", "--reach", "port-forward"]);
        match lacks {
            None => assert_eq!(done.code, Some(0), "1.{minor} {verbs:?}: {}", done.stderr),
            Some(verb) => {
                assert_eq!(done.code, Some(7), "1.{minor} {verbs:?}: {}", done.stderr);
                let says = format!("--verb={verb} --resource=pods/portforward -n demo");
                assert!(done.stderr.contains(&says), "1.{minor} {verbs:?}: {}", done.stderr);
                assert_eq!(listing(place.path()), [""; 0], "1.{minor} {verbs:?}");
            }
        }
        cluster.assert_clean();
    }
}

/// A cluster that does not say what is allowed says so when the port-forward is opened.
#[test]
fn a_port_forward_that_is_refused_names_the_right_that_is_missing() {
    for (verbs, lacks) in [(&["get"][..], "create"), (&["create"], "get")] {
        let cluster = Cluster::start(Config { external_link: false, ..Config::default() });
        web(&cluster);
        let all = [
            "export.kubevirt.io/*",
            "/secrets",
            "kubevirt.io/*",
            "/persistentvolumeclaims",
            "/pods",
            "/services",
        ];
        let rules = vec![Rule::new(&["*"], &all), Rule::new(verbs, &["/pods/portforward"])];
        fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(rules)).unwrap();
        cluster
            .sim
            .fault(Fault::new(FaultKind::Status { code: 500 }).api_path("selfsubjectaccessreviews").times(0));
        let place = scratch();
        let failed =
            cluster.run(place.path(), &["demo/web", "--output", "out", "--reach", "port-forward"]).expect(7);
        let says = format!("--verb={lacks} --resource=pods/portforward -n demo");
        assert!(failed.stderr.contains(&says), "{verbs:?}: {}", failed.stderr);
    }
}

#[test]
fn a_running_vm_is_never_stopped() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, 2 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "live").disk("root", Disk::bytes(disk)).running(true).agent(false));
    let place = scratch();
    let failed = cluster.run(place.path(), &["demo/live", "--output", "out", "--source", "vm"]).expect(5);
    assert!(failed.stderr.contains("--source snapshot"), "{}", failed.stderr);
    let failed =
        cluster.run(place.path(), &["demo/live", "--output", "out", "--quiesce", "require"]).expect(5);
    assert!(failed.stderr.contains("qemu-guest-agent"), "{}", failed.stderr);
    assert_eq!(cluster.sim.objects("virtualmachineinstances", Some("demo")).len(), 1);
    cluster.assert_clean();
}

#[test]
fn a_volume_that_a_snapshot_would_leave_out_is_no_surprise() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, 2 * MIB);
    let vm = Vm::new("demo", "live")
        .disk("root", Disk::bytes(disk.clone()))
        .local_disk("local", Disk::bytes(disk.clone()));
    cluster.sim.add_vm(vm.running(true));
    let place = scratch();
    let failed = cluster.run(place.path(), &["demo/live", "--output", "out"]).expect(5);
    assert!(failed.stderr.contains("local"), "{}", failed.stderr);
    cluster.assert_clean();
    cluster.run(place.path(), &["demo/live", "--output", "out", "--volume", "root"]).expect(0);
    assert_disk(&place.path().join("out/live/root.qcow2"), &disk);
    cluster.assert_clean();
}

#[test]
fn a_claim_in_use_is_waited_for_and_explained() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, 2 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "live").disk("root", Disk::bytes(disk)).running(true));
    let place = scratch();
    let failed = cluster
        .run(place.path(), &["--pvc", "live-root", "-n", "demo", "--output", "x.raw", "--wait", "1s"])
        .expect(8);
    assert!(
        failed.stderr.contains("in use") && failed.stderr.contains("kubectl get pods"),
        "{}",
        failed.stderr
    );
    assert_eq!(listing(place.path()), [""; 0]);
    cluster.assert_clean();
}

#[test]
fn a_missing_claim_of_a_vm_is_not_left_out_in_silence() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(1, 2 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "half").disk("root", Disk::bytes(disk)).claim("data", "gone"));
    let place = scratch();
    let failed = cluster.run(place.path(), &["demo/half", "--output", "out"]).expect(7);
    assert!(failed.stderr.contains("demo/gone does not exist"), "{}", failed.stderr);
    cluster.run(place.path(), &["demo/half", "--output", "out", "--volume", "root"]).expect(0);
    cluster.assert_clean();
}

#[test]
fn what_is_there_is_not_overwritten() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    fs::create_dir_all(place.path().join("out/web")).unwrap();
    fs::write(place.path().join("out/web/data.qcow2"), "mine").unwrap();
    let failed = cluster.run(place.path(), &["demo/web", "--output", "out"]).expect(5);
    assert!(failed.stderr.contains("data.qcow2"), "{}", failed.stderr);
    assert_eq!(fs::read(place.path().join("out/web/data.qcow2")).unwrap(), b"mine");
    assert_eq!(listing(&place.path().join("out/web")), ["data.qcow2"]);
    cluster.assert_clean();
    cluster.run(place.path(), &["demo/web", "--output", "out", "--force"]).expect(0);
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused_unless_told() {
    let cluster = Cluster::start(Config::default());
    let (_, data) = web(&cluster);
    // Without a certificate beside the link the system's CAs count, and they do not know it.
    cluster.sim.act(Action::EmptyExternalCert { empty: true });
    let place = scratch();
    let args = ["demo/web", "--volume", "data", "--reach", "external", "--retry-for", "2s"];
    let failed = cluster.run(place.path(), &[&args[..], &["--output", "no.raw"]].concat());
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(failed.stderr.contains("--ca-file"), "{}", failed.stderr);
    cluster.assert_clean();

    let ca = place.path().join("ca.pem");
    fs::write(&ca, cluster.sim.ingress_ca_pem()).unwrap();
    cluster
        .run(place.path(), &[&args[..], &["--output", "ca.raw", "--ca-file", "ca.pem"]].concat())
        .expect(0);
    assert_disk(&place.path().join("ca.raw"), &data);
    let loud = cluster
        .run(place.path(), &[&args[..], &["--output", "insecure.raw", "--insecure"]].concat())
        .expect(0);
    assert!(loud.stderr.contains("NOT verified"), "{}", loud.stderr);
    // Left to itself it goes through the API server.
    cluster.run(place.path(), &["demo/web", "--volume", "data", "--output", "auto.raw"]).expect(0);
    assert_disk(&place.path().join("auto.raw"), &data);
    cluster.assert_clean();
}

#[test]
fn a_feature_gate_that_is_off_is_named() {
    let cluster =
        Cluster::start(Config { kubevirt_version: (1, 7), export_gate: false, ..Config::default() });
    web(&cluster);
    let place = scratch();
    let failed = cluster.run(place.path(), &["demo/web", "--output", "out"]).expect(7);
    assert!(failed.stderr.contains("VMExport"), "{}", failed.stderr);
    cluster.assert_clean();
}
