//! The life of exports, snapshots and VMs.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vmferry_sim::{Action, Config, Disk, PvcKind, Vm};

use crate::support::{Cluster, exports, url};

fn vm() -> Vm {
    Vm::new("demo", "web")
        .disk("root", Disk::bytes(vec![1; 5000]).changing_on_start(Disk::bytes(vec![2; 5000])))
}

fn reason(export: &Value) -> &str {
    export["status"]["conditions"][0]["reason"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn deleting_an_export_takes_everything_along() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(vm());
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let export = json!({"metadata": {"name": "e"}, "spec": {"source": source}});
    cluster.call(Method::POST, &exports("demo"), &export).await;
    let export = cluster.ready("demo", "e").await;
    assert_eq!(export["status"]["tokenSecretRef"], "export-token-e");
    for plural in ["pods", "services", "configmaps", "secrets"] {
        assert!(!cluster.simulator.objects(plural, Some("demo")).is_empty(), "{plural}");
    }
    cluster.call(Method::DELETE, &format!("{}/e", exports("demo")), &Value::Null).await;
    for path in [
        "pods/virt-export-e",
        "services/virt-export-e",
        "secrets/export-token-e",
        "secrets/secret-virt-export-e",
    ] {
        cluster.gone(&format!("/api/v1/namespaces/demo/{path}")).await;
    }
    let raw = url(&export, "external", "web-root", "raw");
    assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_started_vm_pauses_its_export_and_its_content_changes() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(vm());
    let export = cluster.export("demo", "e", "web").await;
    let raw = url(&export, "external", "web-root", "raw");
    cluster.simulator.start_vm("demo", "web");
    let path = format!("{}/e", exports("demo"));
    let paused = cluster.until(&path, |export| reason(export) == "InUse").await;
    assert_eq!((&paused["status"]["phase"], &paused["status"]["links"]), (&json!("Pending"), &json!({})));
    assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), 503);
    let events = cluster.simulator.objects("events", Some("demo"));
    assert!(events.iter().any(|event| event["reason"] == "ExportPaused"));
    cluster.simulator.stop_vm("demo", "web");
    let again = cluster.ready("demo", "e").await;
    assert_eq!(again["metadata"]["uid"], export["metadata"]["uid"]);
    assert_eq!(cluster.data(Method::GET, &raw).send().await.unwrap().bytes().await.unwrap(), vec![2; 5000]);
}

#[tokio::test]
async fn a_pod_waits_for_the_token() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(vm());
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let export = json!({"metadata": {"name": "e"}, "spec": {"source": source, "tokenSecretRef": "later"}});
    cluster.call(Method::POST, &exports("demo"), &export).await;
    let path = format!("{}/e", exports("demo"));
    cluster.until(&path, |export| reason(export) == "PodPending").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(reason(&cluster.get(&path).await.1), "PodPending");
    let secret = json!({"metadata": {"name": "later"}, "stringData": {"token": "t"}});
    cluster.call(Method::POST, "/api/v1/namespaces/demo/secrets", &secret).await;
    cluster.ready("demo", "e").await;
}

#[tokio::test]
async fn what_cannot_be_exported_says_why() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "diskless").container_disk("cd").claim("gone", "no-such-claim"));
    cluster.simulator.add_pvc("demo", "data", Disk::bytes(vec![0; 10]), PvcKind::Block);
    let vm = |name: &str| json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": name});
    let claim = |name: &str| json!({"apiGroup": "", "kind": "PersistentVolumeClaim", "name": name});
    let snapshot =
        json!({"apiGroup": "snapshot.kubevirt.io", "kind": "VirtualMachineSnapshot", "name": "none"});
    for (name, source, phase, expected) in [
        ("a", vm("none"), "Skipped", "VMNotFound"),
        ("b", vm("diskless"), "Skipped", "VMNoVolumes"),
        ("c", claim("none"), "Pending", "Initializing"),
        ("d", claim("data"), "Ready", "PodReady"),
        ("e", claim("data"), "Pending", "InUse"),
        ("f", snapshot, "Skipped", "VMSnapshotNotFound"),
    ] {
        cluster.create_export("demo", name, &source).await;
        let path = format!("{}/{name}", exports("demo"));
        let found = cluster.until(&path, |export| reason(export) == expected).await;
        assert_eq!(found["status"]["phase"], phase, "{name}");
    }
    // The second export of the claim goes on when the first is gone.
    cluster.call(Method::DELETE, &format!("{}/d", exports("demo")), &Value::Null).await;
    let second = cluster.ready("demo", "e").await;
    let manifests = second["status"]["links"]["internal"]["manifests"].as_array().unwrap().clone();
    assert_eq!(manifests.len(), 1);
}

#[tokio::test]
async fn an_export_ends_with_its_ttl() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(vm());
    cluster.export("demo", "e", "web").await;
    cluster.simulator.act(Action::ExpireTtl { namespace: "demo".into(), export: "e".into() });
    cluster.gone(&format!("{}/e", exports("demo"))).await;
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let export = json!({"metadata": {"name": "short"}, "spec": {"source": source, "ttlDuration": "1s"}});
    cluster.call(Method::POST, &exports("demo"), &export).await;
    cluster.gone(&format!("{}/short", exports("demo"))).await;
}

#[tokio::test]
async fn a_snapshot_keeps_what_the_vm_was() {
    let cluster = Cluster::start().await;
    let mut vm = Vm::new("demo", "web").local_disk("local", Disk::bytes(vec![9; 100])).running(true);
    for i in 0..5 {
        vm = vm.disk(
            &format!("d{i}"),
            Disk::bytes(vec![i; 1000]).changing_on_start(Disk::bytes(vec![77; 1000])),
        );
    }
    cluster.simulator.add_vm(vm);
    let base = "/apis/snapshot.kubevirt.io/v1beta1/namespaces/demo";
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let snapshot = json!({"metadata": {"name": "s"}, "spec": {"source": source}});
    let (status, _) = cluster.call(Method::POST, &format!("{base}/virtualmachinesnapshots"), &snapshot).await;
    assert_eq!(status, 201);
    let path = format!("{base}/virtualmachinesnapshots/s");
    let snapshot = cluster.until(&path, |snapshot| snapshot["status"]["readyToUse"] == true).await;
    assert_eq!(snapshot["status"]["indications"], json!(["NoGuestAgent", "Online"]));
    assert_eq!(snapshot["status"]["snapshotVolumes"]["excludedVolumes"], json!(["local"]));
    cluster.simulator.stop_vm("demo", "web");
    cluster.simulator.start_vm("demo", "web");
    let source = json!({"apiGroup": "snapshot.kubevirt.io", "kind": "VirtualMachineSnapshot", "name": "s"});
    cluster.create_export("demo", "e", &source).await;
    let export = cluster.ready("demo", "e").await;
    let volumes = export["status"]["links"]["internal"]["volumes"].as_array().unwrap();
    let names: Vec<&str> = volumes.iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 5);
    assert_ne!(names, ["web-d0", "web-d1", "web-d2", "web-d3", "web-d4"], "the order is nobody's promise");
    let raw = url(&export, "external", "web-d3", "raw");
    assert!(raw.ends_with("/volumes/e-web-d3/disk.img"));
    assert_eq!(cluster.data(Method::GET, &raw).send().await.unwrap().bytes().await.unwrap(), vec![3; 1000]);
    cluster.call(Method::DELETE, &format!("{}/e", exports("demo")), &Value::Null).await;
    cluster.gone("/api/v1/namespaces/demo/persistentvolumeclaims/e-web-d3").await;
    cluster.call(Method::DELETE, &path, &Value::Null).await;
    cluster.gone(&path).await;
    let group = "/apis/snapshot.storage.k8s.io/v1/namespaces/demo/volumesnapshots";
    cluster.until(group, |list| list["items"].as_array().is_some_and(Vec::is_empty)).await;
}

#[tokio::test]
async fn older_releases_have_older_versions() {
    let config = Config { kubevirt_version: (1, 6), external_link: false, ..Config::default() };
    let cluster = Cluster::with(config).await;
    cluster.simulator.add_vm(vm());
    assert_eq!(cluster.get("/apis/export.kubevirt.io/v1").await.0, 404);
    let path = "/apis/export.kubevirt.io/v1beta1/namespaces/demo/virtualmachineexports";
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let export = json!({"metadata": {"name": "e"}, "spec": {"source": source}});
    let answer = cluster
        .request(Method::POST, path)
        .header("content-type", "application/json")
        .body(export.to_string());
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(answer.headers().get("warning").is_none());
    let export = cluster.until(&format!("{path}/e"), |export| export["status"]["phase"] == "Ready").await;
    assert_eq!(export["apiVersion"], "export.kubevirt.io/v1beta1");
    assert!(export["status"]["links"]["external"].is_null());
}

#[tokio::test]
async fn a_failed_pod_is_told_and_made_anew() {
    let cluster = Cluster::with(Config { delay: Duration::from_millis(40), ..Config::default() }).await;
    cluster.simulator.add_vm(vm());
    let export = cluster.export("demo", "e", "web").await;
    cluster.simulator.act(Action::FailPod { namespace: "demo".into(), export: "e".into() });
    let path = format!("{}/e", exports("demo"));
    let over = cluster.until(&path, |export| export["status"]["phase"] == "Terminated").await;
    assert_eq!((reason(&over), &over["status"]["links"]), ("PodCompleted", &json!({})));
    let again = cluster.ready("demo", "e").await;
    assert_eq!(again["status"]["links"], export["status"]["links"]);
    let events = cluster.simulator.objects("events", Some("demo"));
    assert!(events.iter().any(|event| event["reason"] == "ExporterPodFailedOrCompleted"));
}

#[tokio::test]
async fn a_deleted_vm_leaves_its_export_skipped() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(vm());
    cluster.export("demo", "e", "web").await;
    let vm = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/web";
    cluster.call(Method::DELETE, vm, &Value::Null).await;
    let path = format!("{}/e", exports("demo"));
    let skipped = cluster.until(&path, |export| export["status"]["phase"] == "Skipped").await;
    assert_eq!((reason(&skipped), &skipped["status"]["links"]), ("VMNotFound", &json!({})));
    cluster.gone("/apis/cdi.kubevirt.io/v1beta1/namespaces/demo/datavolumes/web-root").await;
}

#[test]
fn a_simulator_may_have_a_runtime_of_its_own() {
    let simulator = vmferry_sim::Simulator::start_blocking(Config::default()).unwrap();
    simulator.add_vm(vm());
    let client = crate::support::client(&[simulator.api_ca_pem()]);
    let url = format!("{}/version", simulator.api_url());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async { client.get(&url).send().await.unwrap().text().await.unwrap() });
    assert!(answer.contains("gitVersion"));
    assert!(simulator.service_address("demo", "e").is_ok());
    drop(simulator);
    assert!(runtime.block_on(client.get(url).send()).is_err());
}
