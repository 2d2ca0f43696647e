//! `vmferry volume` against a simulated cluster.

use std::time::Duration;

use serde_json::{Value, json};
use vmferry_formats::testkit;
use vmferry_sim::{Config, Disk, Fault, FaultKind, PvcKind, Rule, Vm};

use crate::{
    support::{read, scratch},
    vm::{Cluster, text},
};

fn add(cluster: &Cluster) {
    let disk = Disk::bytes(testkit::disk(1, 2 << 20));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk.clone()).container_disk("cd").running(true));
    cluster.sim.add_vm(Vm::new("demo", "off").disk("root", disk.clone()).local_disk("local", disk.clone()));
    cluster.sim.add_pvc("demo", "scratch", disk, PvcKind::Block);
}

fn volume(cluster: &Cluster, vm: &str, name: &str) -> Option<Value> {
    let all = cluster.json(&format!("volume list demo/{vm}"));
    all.as_array().unwrap().iter().find(|volume| volume["name"] == name).cloned()
}

#[test]
fn volumes_come_and_go_while_a_vm_runs() {
    let cluster = Cluster::start();
    add(&cluster);
    let root = volume(&cluster, "web", "root").unwrap();
    assert_eq!(
        root,
        json!({
            "name": "root", "type": "dataVolume", "pvc": "web-root", "size_bytes": 2 << 20, "storage_class": "csi-rig",
            "volume_mode": "Filesystem", "device": "disk", "bus": "virtio", "target": "vda", "hotplugged": false,
            "phase": null, "exportable": true,
        })
    );
    let table = text(&cluster.run("volume list demo/web -o wide").expect(0));
    assert!(table.contains("HOTPLUGGED") && table.contains("containerDisk"), "{table}");
    assert_eq!(text(&cluster.run("volume list demo/web -o name").expect(0)), "root\ncd\n");

    let attached = cluster.run("volume attach demo/web scratch --name extra --serial S1").expect(0);
    assert_eq!(text(&attached), "volume extra of VM demo/web attached\n");
    assert!(attached.stderr.contains("waiting: volume extra: "), "{}", attached.stderr);
    let extra = volume(&cluster, "web", "extra").unwrap();
    assert_eq!(
        (&extra["phase"], &extra["hotplugged"], &extra["bus"]),
        (&json!("Ready"), &json!(true), &json!("scsi"))
    );

    cluster.refused(
        "volume attach demo/web scratch --name extra",
        7,
        &["cannot attach a volume to VM demo/web: it has a volume of that name"],
    );
    cluster.refused("volume attach demo/web scratch", 7, &["it has that claim already"]);
    cluster.refused(
        "volume detach demo/web root",
        7,
        &["cannot detach a volume from VM demo/web: that volume was not attached while it ran"],
    );
    cluster.refused("volume detach demo/web nothing", 7, &["it has no volume of that name"]);
    let json = cluster.json("volume detach demo/web extra");
    assert_eq!((&json["complete"], &json["message"]), (&json!(true), &json!("Volume detached successfully")));
    assert!(volume(&cluster, "web", "extra").is_none());

    // By its claim: the cluster would say yes, and keep it.
    cluster.run("volume attach demo/web scratch --name extra").expect(0);
    let detached = cluster.run("volume detach demo/web scratch").expect(0);
    assert_eq!(text(&detached), "volume extra of VM demo/web detached\n");
    assert!(volume(&cluster, "web", "extra").is_none());

    // A VM that does not run has it from its next start on.
    cluster.run("volume attach demo/off scratch --bus virtio").expect(0);
    assert_eq!(volume(&cluster, "off", "scratch").unwrap()["bus"], "virtio");
    let dry = text(&cluster.run("volume detach demo/off scratch --dry-run").expect(0));
    assert!(dry.contains("would be detached") && volume(&cluster, "off", "scratch").is_some(), "{dry}");
}

#[test]
fn a_list_goes_on_with_what_changes() {
    let cluster = Cluster::start();
    add(&cluster);
    let mut watched = cluster.follow("volume list demo/web -w -o json");
    watched.until("\"root\"");
    cluster.run("volume attach demo/web scratch --name extra").expect(0);
    assert!(!watched.until("\"extra\"").contains("\"root\""), "an object a line");
    cluster.run("volume detach demo/web extra").expect(0);
    watched.until("\"phase\":\"gone\"");
}

#[test]
fn a_volume_grows_if_its_storage_lets_it() {
    let cluster = Cluster::with(Config { expandable: true, ..Config::default() });
    add(&cluster);
    let dry = text(&cluster.run("volume expand demo/web root 8MiB --dry-run").expect(0));
    assert!(dry.contains("would be enlarged"), "{dry}");
    assert_eq!(volume(&cluster, "web", "root").unwrap()["size_bytes"], 2 << 20);
    cluster.run("volume expand demo/web root 8MiB").expect(0);
    assert_eq!(volume(&cluster, "web", "root").unwrap()["size_bytes"], 8 << 20);
    // By the name of its claim too.
    cluster.run("volume expand demo/web web-root 9MiB").expect(0);
    cluster.refused("volume expand demo/web root 4MiB", 2, &["volumes can only grow"]);
    cluster.refused("volume expand demo/web cd 9MiB", 5, &["containerDisk"]);
    cluster.refused("volume expand demo/web nothing 9MiB", 2, &["there is no volume nothing", "root"]);
    cluster.refused(
        "volume expand demo/off local 9MiB",
        7,
        &["storage class of the volume does not let volumes grow", "allowVolumeExpansion"],
    );
}

#[test]
fn one_volume_is_exported() {
    let cluster = Cluster::start();
    add(&cluster);
    let place = scratch();
    let output = place.path().join("root.raw");
    cluster.run(&format!("volume export demo/off --volume root --output {}", output.display())).expect(0);
    assert!(read(&output) == testkit::disk(1, 2 << 20));
    cluster.refused("volume export demo/off --output x.raw", 2, &["--volume"]);
}

#[test]
fn what_is_missing_is_named() {
    let cluster = Cluster::start();
    add(&cluster);
    cluster.refused("volume attach demo/web gone", 7, &["PersistentVolumeClaim demo/gone does not exist"]);
    for line in [
        "volume list demo/none",
        "volume attach demo/none scratch",
        "volume detach demo/none x",
        "volume expand demo/none x 1GiB",
    ] {
        cluster.refused(line, 7, &["VM demo/none does not exist"]);
    }
    cluster.allow(vec![Rule::new(&["get", "list", "watch"], &["*/*"])]);
    for (line, verb, resource) in [
        ("volume attach demo/web scratch", "update", "virtualmachines.subresources.kubevirt.io/addvolume"),
        ("volume detach demo/web root", "update", "virtualmachines.subresources.kubevirt.io/removevolume"),
        ("volume expand demo/web root 1GiB", "patch", "persistentvolumeclaims"),
    ] {
        cluster.refused(line, 7, &[&format!("--verb={verb} --resource={resource} -n demo"), "(403)"]);
    }

    let cluster = Cluster::with(Config { hotplug_gate: false, ..Config::default() });
    add(&cluster);
    cluster.refused(
        "volume attach demo/web scratch",
        7,
        &["the cluster does not allow it", "feature gate HotplugVolumes"],
    );
}

#[test]
fn a_wait_has_an_end_and_a_cluster_may_be_mad() {
    let cluster =
        Cluster::with(Config { expandable: true, delay: Duration::from_secs(60), ..Config::default() });
    add(&cluster);
    cluster.refused(
        "volume attach demo/web scratch --timeout 1s",
        8,
        &["volume scratch is not attached after 1 s: Pending", "hp-volume"],
    );
    cluster.refused(
        "volume expand demo/web root 1GiB --timeout 1s",
        8,
        &["volume root has not grown within 1 s"],
    );
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api().times(0));
    for line in [
        "volume list demo/web",
        "volume attach demo/web scratch",
        "volume detach demo/web x",
        "volume expand demo/web root 1GiB",
    ] {
        cluster.refused(line, 1, &["is no JSON"]);
    }
}
