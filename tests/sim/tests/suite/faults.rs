//! Faults, one at a time.

use std::{
    io::Read as _,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::json;
use vmferry_sim::{Action, Disk, Fault, FaultKind, Link, Vm};

use crate::support::{Cluster, url};

const SIZE: usize = 1 << 20;

async fn ready() -> (Cluster, String, String) {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(disk())));
    let export = cluster.export("demo", "e", "web").await;
    let (raw, gzip) =
        (url(&export, "external", "web-root", "raw"), url(&export, "external", "web-root", "gzip"));
    (cluster, raw, gzip)
}

fn disk() -> Vec<u8> {
    (0..SIZE).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

/// What arrives, and whether all of it did.
async fn fetch(cluster: &Cluster, url: &str) -> (Vec<u8>, bool) {
    let mut answer = cluster.data(Method::GET, url).send().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        match answer.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return (bytes, true),
            Err(_) => return (bytes, false),
        }
    }
}

#[tokio::test]
async fn a_cut_breaks_the_connection_at_the_byte() {
    let (cluster, raw, gzip) = ready().await;
    cluster.simulator.fault(Fault::new(FaultKind::CutAfter { bytes: 300_001 }).volume("web-root").times(2));
    let (bytes, is_whole) = fetch(&cluster, &raw).await;
    assert_eq!((bytes.len(), is_whole), (300_001, false));
    let (_, is_whole) = fetch(&cluster, &gzip).await;
    // Shorter than the cut, so unharmed.
    assert!(is_whole);
    cluster.simulator.fault(Fault::new(FaultKind::CutAfter { bytes: 1000 }).link(Link::Gzip));
    let (bytes, is_whole) = fetch(&cluster, &gzip).await;
    assert_eq!((bytes.len(), is_whole), (1000, false));
    assert_eq!(fetch(&cluster, &raw).await, (disk(), true));
}

#[tokio::test]
async fn statuses_are_answered_with_empty_bodies_as_often_as_asked() {
    let (cluster, raw, _) = ready().await;
    for code in [401, 502, 503, 504] {
        cluster.simulator.fault(Fault::new(FaultKind::Status { code }).link(Link::Raw));
        let answer = cluster.data(Method::HEAD, &raw).send().await.unwrap();
        assert_eq!(answer.status(), code);
    }
    assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn stalls_slowness_and_delays_take_their_time() {
    let (cluster, raw, _) = ready().await;
    let pause = Duration::from_millis(150);
    for kind in [
        FaultKind::Stall { after_bytes: 1000, pause },
        FaultKind::Delay { pause },
        FaultKind::Slow { bytes_per_second: 5 << 20 },
    ] {
        cluster.simulator.fault(Fault::new(kind.clone()));
        let start = Instant::now();
        assert_eq!(fetch(&cluster, &raw).await, (disk(), true));
        assert!(start.elapsed() >= pause, "{kind:?} took {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn ranges_go_wrong_in_two_ways() {
    let (cluster, raw, _) = ready().await;
    let ranged = || cluster.data(Method::GET, &raw).header("range", "bytes=100-199");
    cluster.simulator.fault(Fault::new(FaultKind::IgnoreRange));
    let answer = ranged().send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, SIZE));
    cluster.simulator.fault(Fault::new(FaultKind::WrongContentRange));
    let answer = ranged().send().await.unwrap();
    assert_eq!(answer.headers()["content-range"], "bytes 101-200/1048576");
    assert_eq!(answer.bytes().await.unwrap(), disk()[100..200]);
    assert_eq!(ranged().send().await.unwrap().headers()["content-range"], "bytes 100-199/1048576");
}

#[tokio::test]
async fn gzip_may_end_early_and_look_whole() {
    let (cluster, _, gzip) = ready().await;
    cluster.simulator.fault(Fault::new(FaultKind::ShortGzip { bytes: 400_000 }));
    let (bytes, is_whole) = fetch(&cluster, &gzip).await;
    assert!(is_whole);
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut inflated).unwrap();
    assert_eq!(inflated, disk()[..400_000]);
}

#[tokio::test]
async fn a_failing_disk_breaks_raw_and_shortens_gzip() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(disk()).failing_at(600_000)));
    let export = cluster.export("demo", "e", "web").await;
    let (bytes, is_whole) = fetch(&cluster, &url(&export, "external", "web-root", "raw")).await;
    assert!(!is_whole && bytes.len() < 600_001);
    let (bytes, is_whole) = fetch(&cluster, &url(&export, "external", "web-root", "gzip")).await;
    assert!(is_whole);
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut inflated).unwrap();
    assert!(inflated.len() < 600_001 && disk().starts_with(&inflated));
}

#[tokio::test]
async fn a_byte_is_corrupted_in_raw_and_in_gzip() {
    let (cluster, raw, gzip) = ready().await;
    cluster.simulator.fault(Fault::new(FaultKind::Corrupt { offset: 700_000 }).times(2));
    let mut expected = disk();
    expected[700_000] ^= 0xff;
    assert_eq!(fetch(&cluster, &raw).await.0, expected);
    let (bytes, _) = fetch(&cluster, &gzip).await;
    let mut inflated = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut inflated).unwrap();
    assert!(inflated == expected);
}

#[tokio::test]
async fn faults_are_ordered_over_http_by_the_administrator_only() {
    let (cluster, raw, _) = ready().await;
    let orders = json!([
        {"kind": "status", "code": 503, "volume": "web-root", "times": 1},
        {"action": "links-vanish", "namespace": "demo", "export": "e", "for_ms": 1},
    ]);
    let (status, _) = cluster.call(Method::POST, "/simulator/faults", &orders).await;
    assert_eq!(status, 200);
    cluster.ready("demo", "e").await;
    // The fault is answered by the exporter, a proxy without an exporter answers 503 too: wait for the former.
    assert_eq!(cluster.data(Method::GET, &raw).send().await.unwrap().status(), 503);
    let (status, body) = cluster.call(Method::POST, "/simulator/faults", &json!({"kind": "nonsense"})).await;
    assert_eq!(status, 400, "{body}");
    let user = crate::support::token_of(&cluster.simulator.kubeconfig_with(Vec::new()));
    let url = format!("{}/simulator/faults", cluster.simulator.api_url());
    let answer = cluster.client.post(url).bearer_auth(user).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let (_, requests) = cluster.get("/simulator/requests").await;
    assert!(requests.as_array().unwrap().len() > 5);
}

#[tokio::test]
async fn api_requests_fail_on_order() {
    let (cluster, ..) = ready().await;
    cluster.simulator.fault(Fault::new(FaultKind::Status { code: 500 }).api_path("/secrets"));
    cluster.simulator.fault(Fault::new(FaultKind::Status { code: 503 }).api());
    assert_eq!(cluster.get("/api/v1/namespaces/demo/pods").await.0, 503);
    assert_eq!(cluster.get("/api/v1/namespaces/demo/pods").await.0, 200);
    assert_eq!(cluster.get("/api/v1/namespaces/demo/secrets").await.0, 500);
}

#[tokio::test]
async fn a_replaced_pod_cuts_its_transfers_and_the_export_comes_back() {
    let (cluster, raw, _) = ready().await;
    let before = cluster.get("/api/v1/namespaces/demo/pods/virt-export-e").await.1["metadata"]["uid"].clone();
    cluster.simulator.fault(Fault::new(FaultKind::Slow { bytes_per_second: 200_000 }));
    let transfer = fetch(&cluster, &raw);
    let action = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.simulator.act(Action::ReplacePod { namespace: "demo".into(), export: "e".into() });
    };
    let ((bytes, is_whole), ()) = tokio::join!(transfer, action);
    assert!(!is_whole && bytes.len() < SIZE);
    let pod = "/api/v1/namespaces/demo/pods/virt-export-e";
    cluster.until(pod, |pod| pod["metadata"]["uid"] != before).await;
    cluster.ready_again("demo", "e").await;
    assert_eq!(fetch(&cluster, &raw).await, (disk(), true));
}

#[tokio::test]
async fn a_rotation_spares_transfers_and_changes_the_authority() {
    let (cluster, raw, _) = ready().await;
    let before = cluster.ready("demo", "e").await["status"]["links"]["internal"]["cert"].clone();
    let pod = cluster.get("/api/v1/namespaces/demo/pods/virt-export-e").await.1["metadata"]["uid"].clone();
    cluster.simulator.fault(Fault::new(FaultKind::Slow { bytes_per_second: 2_000_000 }));
    let transfer = fetch(&cluster, &raw);
    let action = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.simulator.act(Action::RotateCertificate);
    };
    let (arrived, ()) = tokio::join!(transfer, action);
    assert_eq!(arrived, (disk(), true));
    let export = cluster.ready_again("demo", "e").await;
    assert_ne!(export["status"]["links"]["internal"]["cert"], before);
    let now = cluster.get("/api/v1/namespaces/demo/pods/virt-export-e").await.1["metadata"]["uid"].clone();
    assert_ne!(now, pod);
}

#[tokio::test]
async fn links_vanish_for_a_while_and_the_proxy_says_503() {
    let (cluster, raw, _) = ready().await;
    let pause = Duration::from_millis(300);
    cluster.simulator.act(Action::LinksVanish { namespace: "demo".into(), export: "e".into(), pause });
    let path = format!("{}/e", crate::support::exports("demo"));
    let gone = cluster.until(&path, |export| export["status"]["phase"] == "Pending").await;
    assert_eq!(gone["status"]["links"], json!({}));
    assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), 503);
    cluster.ready("demo", "e").await;
    assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn external_links_and_certificates_come_and_go() {
    let (cluster, ..) = ready().await;
    let path = format!("{}/e", crate::support::exports("demo"));
    cluster.simulator.act(Action::EmptyExternalCert { empty: true });
    cluster.until(&path, |export| export["status"]["links"]["external"]["cert"] == "").await;
    cluster.simulator.act(Action::ExternalLink { present: false });
    cluster.until(&path, |export| export["status"]["links"]["external"].is_null()).await;
}

#[tokio::test]
async fn a_volume_without_its_image_is_500_though_the_exporter_is_ready() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(disk()).missing()));
    let export = cluster.export("demo", "e", "web").await;
    for format in ["raw", "gzip"] {
        let link = url(&export, "external", "web-root", format);
        let answer = cluster.data(Method::GET, &link).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (500, 0));
    }
    let ready =
        url(&export, "external", "web-root", "raw").replace("/volumes/web-root/disk.img", "/exportready");
    assert_eq!(cluster.client.get(ready).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn transfers_are_cut_when_the_ttl_ends_and_when_the_vm_starts() {
    for is_start in [false, true] {
        let (cluster, raw, _) = ready().await;
        cluster.simulator.fault(Fault::new(FaultKind::Slow { bytes_per_second: 200_000 }));
        let transfer = fetch(&cluster, &raw);
        let (namespace, name, export) = ("demo".to_owned(), "web".to_owned(), "e".to_owned());
        let action = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.simulator.act(if is_start {
                Action::StartVm { namespace, name }
            } else {
                Action::ExpireTtl { namespace, export }
            });
        };
        let ((bytes, is_whole), ()) = tokio::join!(transfer, action);
        assert!(!is_whole && bytes.len() < SIZE);
        let expected = if is_start { 503 } else { 404 };
        assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), expected);
    }
}

#[tokio::test]
async fn transfers_share_the_link() {
    let (cluster, raw, _) = ready().await;
    let latency = Duration::from_millis(30);
    let shape =
        json!({"action": "shape-link", "bytes_per_second": 8 << 20, "latency_ms": 30, "stall_ms": 10});
    assert_eq!(cluster.call(Method::POST, "/simulator/faults", &shape).await.0, 200);
    let start = Instant::now();
    let (a, b) = tokio::join!(fetch(&cluster, &raw), fetch(&cluster, &raw));
    assert!(a.1 && b.1);
    // Two MiB at eight a second.
    assert!(start.elapsed() >= Duration::from_millis(250) + latency, "{:?}", start.elapsed());
    let start = Instant::now();
    cluster.data(Method::HEAD, &raw).send().await.unwrap();
    assert!(start.elapsed() >= latency);
}
