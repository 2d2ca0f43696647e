use serde_json::json;

use super::*;
use crate::kubevirt::types::{VirtualMachine, decode};

fn info(vm: &Value, instance: Option<&Instance>, claims: Option<&HashMap<String, Claim>>) -> VmInfo {
    let parsed = VirtualMachine::new(vm.clone()).unwrap();
    VmInfo::new(
        &parsed.metadata,
        &parsed.status.conditions,
        Facts { vm, expanded: None, shape: None, instance, claims },
    )
}

fn domain(domain: &Value) -> Value {
    json!({"spec": {"template": {"spec": {"domain": domain}}}})
}

#[test]
fn cpus_and_memory_are_what_the_guest_gets() {
    for (spec, cpus, mib) in [
        (
            json!({"cpu": {"sockets": 2, "cores": 3, "threads": 2}, "memory": {"guest": "4Gi"}}),
            Some(12),
            Some(4096),
        ),
        (json!({"cpu": {"cores": 2}, "resources": {"requests": {"memory": "512M"}}}), Some(2), Some(488)),
        (
            json!({"resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "1Gi"}}}),
            Some(2),
            Some(1024),
        ),
        (
            json!({"resources": {"limits": {"cpu": 4}}, "memory": {"hugepages": {"pageSize": "2Mi"}}}),
            Some(4),
            Some(2),
        ),
        (json!({}), Some(1), None),
        (json!({"cpu": {"sockets": u64::MAX, "cores": 2}}), None, None),
    ] {
        assert_eq!(Shape::of(&domain(&spec)), Shape { cpus, memory_mib: mib }, "{spec}");
    }
    assert_eq!(Shape::of(&json!({})), Shape::default());
}

#[test]
fn power_follows_the_status() {
    let vm = |status: &str, created: bool| json!({"status": {"printableStatus": status, "created": created}});
    for (status, created, power_state) in [
        ("Running", true, PowerState::Running),
        ("Migrating", true, PowerState::Running),
        ("Paused", true, PowerState::Paused),
        ("Stopped", false, PowerState::Stopped),
        ("Stopping", true, PowerState::Unknown),
        ("ErrorUnschedulable", true, PowerState::Unknown),
        ("DataVolumeError", false, PowerState::Stopped),
        ("SomethingNew", true, PowerState::Unknown),
    ] {
        assert_eq!(power(&vm(status, created)), power_state, "{status}");
    }
    assert_eq!(power(&json!({})), PowerState::Unknown);
}

#[test]
fn what_the_cluster_knows_is_put_together() {
    let vm = json!({
        "metadata": {"name": "db", "namespace": "demo", "uid": "u", "labels": {"app": "db"}, "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "password: x", "note": "y"}},
        "spec": {"runStrategy": "RerunOnFailure", "template": {"spec": {
            "domain": {"devices": {
                "disks": [{"name": "root", "bootOrder": 1}],
                "interfaces": [{"name": "default", "masquerade": {}}, {"name": "lan", "bridge": {}, "model": "e1000"}]}},
            "networks": [{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "net/lan"}}],
            "volumes": [{"name": "root", "dataVolume": {"name": "db-root"}}, {"name": "cd", "containerDisk": {}}]}}},
        "status": {"printableStatus": "Running", "created": true,
            "volumeSnapshotStatuses": [{"name": "root", "enabled": true}, {"name": "cd", "enabled": false}]},
    });
    let instance: Instance = decode(json!({"status": {"phase": "Running", "nodeName": "n1",
        "conditions": [{"type": "AgentConnected", "status": "True"}, {"type": "LiveMigratable", "status": "True"}],
        "guestOSInfo": {"prettyName": "Fedora 42"},
        "interfaces": [{"name": "default", "mac": "02:00", "ipAddress": "10.0.0.1", "ipAddresses": ["10.0.0.1", "fd00::1"]}]}}))
    .unwrap();
    let claim = decode(
        json!({"spec": {"volumeMode": "Block", "storageClassName": "fast"}, "status": {"capacity": {"storage": "10Gi"}}}),
    );
    let claims = HashMap::from([("db-root".to_owned(), claim.unwrap())]);
    let found = info(&vm, Some(&instance), Some(&claims));
    assert_eq!((found.path.as_str(), found.state.as_str()), ("demo/db", "running"));
    assert_eq!((found.storage_bytes, found.storage_gb), (Some(10 << 30), Some(10.0)));
    assert_eq!(found.ip_addresses, ["10.0.0.1", "fd00::1"]);
    assert_eq!((found.guest_os.as_deref(), found.node.as_deref()), (Some("Fedora 42"), Some("n1")));
    assert!(found.guest_agent && found.live_migratable && found.snapshottable && found.metadata.running);
    assert!(!found.metadata.annotations.keys().any(|key| key.contains("last-applied")));
    assert_eq!(found.metadata.annotations["note"], "y");
    let root = &found.disks[0];
    assert_eq!(
        (root.kind.as_str(), root.pvc.as_deref(), root.boot_order),
        ("dataVolume", Some("db-root"), Some(1))
    );
    assert_eq!((root.exportable, found.disks[1].exportable, found.disks[1].size_bytes), (true, false, None));
    assert_eq!(
        (found.networks[0].mac.as_deref(), found.networks[0].network.as_str()),
        (Some("02:00"), "pod")
    );
    assert_eq!((found.networks[1].network.as_str(), found.networks[1].model.as_str()), ("net/lan", "e1000"));

    // A claim that is missing makes the sum unknown, not smaller.
    let none = HashMap::new();
    assert_eq!(info(&vm, None, Some(&none)).storage_bytes, None);
    assert_eq!(info(&vm, None, None).storage_gb, None);
}
