//! What is in every cluster, and the example cluster of the program.

use serde_json::{Value, json};

use crate::{
    disk::Disk,
    store::Key,
    vm::{PvcKind, Vm},
    world::{KUBEVIRT_NAMESPACE, LOCAL_CLASS, SNAPSHOT_CLASS, State, World},
};

/// Puts in what every cluster has.
pub(crate) fn add_base(world: &World, state: &mut State) {
    for namespace in ["default", "kube-system", KUBEVIRT_NAMESPACE] {
        world.ensure_namespace(state, namespace);
    }
    let (major, minor) = world.config.kubevirt_version;
    let version = format!("v{major}.{minor}.0");
    let mut gates = vec!["Snapshot"];
    if !world.config.at_least(9) && world.config.export_gate {
        gates.push("VMExport");
    }
    if world.config.at_least(1) && !world.config.at_least(4) && world.config.nic_gate {
        gates.push("HotplugNICs");
    }
    let mut kubevirt = json!({
        "metadata": {"name": "kubevirt", "namespace": KUBEVIRT_NAMESPACE},
        "spec": {
            "configuration": {"developerConfiguration": {"featureGates": gates}},
            "imagePullPolicy": "IfNotPresent",
        },
        "status": {
            "defaultArchitecture": "amd64", "observedKubeVirtVersion": version,
            "outdatedVirtualMachineInstanceWorkloads": 0, "phase": "Deployed", "targetKubeVirtVersion": version,
        },
    });
    if world.config.live_update {
        kubevirt["spec"]["configuration"]["vmRolloutStrategy"] = "LiveUpdate".into();
    }
    world.create(state, "kubevirt.io", "kubevirts", kubevirt);
    let map = json!({
        "metadata": {
            "name": "kubevirt-export-ca", "namespace": KUBEVIRT_NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "virt-operator"},
        },
        "data": {"ca-bundle": state.internal_bundle},
    });
    world.create(state, "", "configmaps", map);
    set_ingress(world, state, world.config.external_link);
    add_storage(world, state);
    add_instancetypes(world, state);
}

/// The Ingress to the export proxy comes or goes, and the links from outside with it.
pub(crate) fn set_ingress(world: &World, state: &mut State, present: bool) {
    state.has_external_link = present;
    if !present {
        state.store.remove(&Key::new("networking.k8s.io/ingresses", KUBEVIRT_NAMESPACE, INGRESS));
        return;
    }
    let host = world.config.external_host.clone().unwrap_or_else(|| world.proxy_address.ip().to_string());
    let backend = json!({"service": {"name": "virt-exportproxy", "port": {"number": 443}}});
    let ingress = json!({
        "metadata": {"name": INGRESS, "namespace": KUBEVIRT_NAMESPACE},
        "spec": {"rules": [{
            "host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
        }]},
    });
    world.create(state, "networking.k8s.io", "ingresses", ingress);
}

fn add_storage(world: &World, state: &mut State) {
    let class = |name: &str, provisioner: &str, annotations: Value| {
        json!({
            "metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner,
            "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        })
    };
    let mut csi = class(SNAPSHOT_CLASS, "csi.rig.test", json!({}));
    if world.config.expandable {
        csi["allowVolumeExpansion"] = true.into();
    }
    world.create(state, "storage.k8s.io", "storageclasses", csi);
    let default = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let local = class(LOCAL_CLASS, "kubernetes.io/no-provisioner", default);
    world.create(state, "storage.k8s.io", "storageclasses", local);
    let snapshots = json!({
        "metadata": {"name": SNAPSHOT_CLASS}, "driver": "csi.rig.test", "deletionPolicy": "Delete",
    });
    world.create(state, "snapshot.storage.k8s.io", "volumesnapshotclasses", snapshots);
}

fn add_instancetypes(world: &World, state: &mut State) {
    for (name, cpu, memory) in
        [("u1.micro", 1, "1Gi"), ("u1.small", 1, "2Gi"), ("u1.medium", 1, "4Gi"), ("u1.large", 2, "8Gi")]
    {
        let instancetype = json!({
            "metadata": {"name": name, "labels": {"instancetype.kubevirt.io/vendor": "kubevirt.io"}},
            "spec": {"cpu": {"guest": cpu}, "memory": {"guest": memory}},
        });
        world.create(state, "instancetype.kubevirt.io", "virtualmachineclusterinstancetypes", instancetype);
    }
    for (name, spec) in [
        ("alpine", json!({"devices": {"preferredDiskBus": "virtio", "preferredInterfaceModel": "virtio"}})),
        (
            "fedora",
            json!({
                "annotations": {"vm.kubevirt.io/os": "linux"},
                "devices": {"preferredDiskBus": "virtio", "preferredInterfaceModel": "virtio"},
                "firmware": {"preferredEfi": {"secureBoot": true}},
            }),
        ),
        (
            "windows.11",
            json!({
                "annotations": {"vm.kubevirt.io/os": "windows11"},
                "devices": {"preferredDiskBus": "sata", "preferredInterfaceModel": "e1000e"},
                "firmware": {"preferredEfi": {"secureBoot": true}},
            }),
        ),
    ] {
        let preference = json!({
            "metadata": {"name": name, "labels": {"instancetype.kubevirt.io/vendor": "kubevirt.io"}}, "spec": spec,
        });
        world.create(state, "instancetype.kubevirt.io", "virtualmachineclusterpreferences", preference);
    }
}

/// Name of the Ingress to the export proxy.
const INGRESS: &str = "export-proxy";

/// The VMs of the example cluster: of each kind of volume one, one that runs, one without disks.
pub(crate) fn example() -> Vec<Vm> {
    const MIB: u64 = 1 << 20;
    let user_data = "#cloud-config\npassword: x\n";
    let kubevirt = PvcKind::FilesystemKubevirt;
    let plain = |namespace: &str, name: &str| Vm::new(namespace, name).claims();
    vec![
        plain("ns1", "blk")
            .disk_on("root", "blk-root", Disk::pattern(1024 * MIB, 1), PvcKind::Block, LOCAL_CLASS)
            .cloud_init("cloudinit", user_data),
        plain("ns1", "diskless").cloud_init("cloudinit", user_data),
        plain("ns1", "web")
            .disk_on("root", "web-root", Disk::pattern(1024 * MIB, 2), kubevirt, LOCAL_CLASS)
            .disk_on("data", "web-data", Disk::pattern(256 * MIB, 3), kubevirt, LOCAL_CLASS)
            .cloud_init("cloudinit", user_data),
        plain("ns2", "db")
            .disk_on("root", "db.root", Disk::pattern(256 * MIB, 4), kubevirt, LOCAL_CLASS)
            .cloud_init("cloudinit", user_data),
        plain("ns2", "noann")
            .disk_on("root", "files", Disk::pattern(64 * MIB, 5), PvcKind::FilesystemPlain, LOCAL_CLASS)
            .cloud_init("cloudinit", user_data),
        plain("ns2", "snapvm")
            .disk_on("root", "snap-root", Disk::pattern(256 * MIB, 6), kubevirt, SNAPSHOT_CLASS)
            .labels(&Value::Null)
            .patch(&json!({"template": {
                "metadata": null,
                "spec": {
                    "domain": {
                        "cpu": null, "memory": {"guest": "512Mi"}, "firmware": null,
                        "devices": {"interfaces": null},
                    },
                    "networks": null,
                },
            }})),
        plain("prod-db", "live")
            .disk_on("root", "live-root", Disk::pattern(256 * MIB, 7), kubevirt, LOCAL_CLASS)
            .cloud_init("cloudinit", user_data)
            .stuck_starting(),
    ]
}
