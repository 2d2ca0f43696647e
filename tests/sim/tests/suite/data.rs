//! The data path: ranges, gzip, trees, manifests, the token.

use std::io::Read as _;

use reqwest::Method;
use serde_json::json;
use vmferry_sim::{Action, Disk, PvcKind, Vm};

use crate::support::{Cluster, TOKEN, url};

/// A size that is no multiple of anything.
const SIZE: u64 = 3 * 1024 * 1024 + 777;

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(
        Vm::new("demo", "web")
            .disk("root", Disk::pattern(SIZE, 1))
            .disk_as(
                "files",
                Disk::pattern(9000, 2).with_file("readme.txt", "hello"),
                PvcKind::FilesystemPlain,
            )
            .container_disk("cd"),
    );
    cluster
}

fn whole() -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
    Disk::pattern(SIZE, 1).read(0, &mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn raw_is_the_disk_whole_and_in_ranges() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let raw = url(&export, "external", "web-root", "raw");
    let disk = whole();
    let head = cluster.data(Method::HEAD, &raw).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()),
        (200, "3146505")
    );
    assert_eq!(cluster.data(Method::GET, &raw).send().await.unwrap().bytes().await.unwrap(), disk);
    for (range, start, end) in [
        ("bytes=5-4000000", 5, disk.len()),
        ("bytes=-7", disk.len() - 7, disk.len()),
        ("bytes=1048575-1048577", 1_048_575, 1_048_578),
    ] {
        let answer = cluster.data(Method::GET, &raw).header("range", range).send().await.unwrap();
        assert_eq!(answer.status(), 206);
        let expected = format!("bytes {start}-{}/{SIZE}", end - 1);
        assert_eq!(answer.headers()["content-range"], expected.as_str());
        assert_eq!(answer.bytes().await.unwrap(), disk[start..end], "{range}");
    }
    for (header, value, status) in
        [("if-range", "\"x\"", 200), ("if-match", "\"x\"", 412), ("if-none-match", "*", 304)]
    {
        let request = cluster.data(Method::GET, &raw).header("range", "bytes=0-0").header(header, value);
        assert_eq!(request.send().await.unwrap().status(), status, "{header}");
    }
}

#[tokio::test]
async fn several_ranges_are_a_multipart_body() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let raw = url(&export, "external", "web-root", "raw");
    let answer = cluster.data(Method::GET, &raw).header("range", "bytes=0-1,10-12").send().await.unwrap();
    assert_eq!(answer.headers().get_all("content-type").iter().count(), 1);
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap().to_owned();
    let body = answer.bytes().await.unwrap();
    let disk = whole();
    let mut expected = Vec::new();
    for (i, (range, piece)) in [("0-1", &disk[0..2]), ("10-12", &disk[10..13])].into_iter().enumerate() {
        let before = if i == 0 { "" } else { "\r\n" };
        let head = format!(
            "{before}--{boundary}\r\nContent-Range: bytes {range}/{SIZE}\r\nContent-Type: application/x-raw-disk-image\r\n\r\n"
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(piece);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert_eq!(body, expected);
}

#[tokio::test]
async fn gzip_is_one_member_and_the_same_each_time() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let gzip = url(&export, "external", "web-root", "gzip");
    let answer = cluster.data(Method::GET, &gzip).header("range", "bytes=0-3").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().get("content-length").is_none());
    let first = answer.bytes().await.unwrap();
    assert_eq!(first, cluster.data(Method::GET, &gzip).send().await.unwrap().bytes().await.unwrap());
    let mut decoder = flate2::bufread::GzDecoder::new(&first[..]);
    let mut inflated = Vec::new();
    decoder.read_to_end(&mut inflated).unwrap();
    assert!(decoder.into_inner().is_empty(), "a second member");
    assert_eq!(inflated, whole());
    assert_eq!(cluster.data(Method::HEAD, &gzip).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn claims_without_a_mark_are_trees() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let dir = url(&export, "external", "web-files", "dir");
    let answer = cluster.data(Method::GET, &dir).send().await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(answer.headers()["location"], "/volumes/web-files/dir/");
    let listing = cluster.data(Method::GET, &format!("{dir}/")).send().await.unwrap().text().await.unwrap();
    assert!(listing.contains("disk.img") && listing.contains("readme.txt"));
    let file = format!("{dir}/disk.img");
    let answer = cluster.data(Method::GET, &file).header("range", "bytes=100-199").send().await.unwrap();
    assert_eq!(answer.status(), 206);
    let modified = answer.headers()["last-modified"].to_str().unwrap().to_owned();
    let request = cluster.data(Method::GET, &file).header("range", "bytes=0-9").header("if-range", modified);
    assert_eq!(request.send().await.unwrap().status(), 206);
    assert_eq!(cluster.data(Method::GET, &format!("{dir}/nope")).send().await.unwrap().status(), 404);
    let archive = url(&export, "external", "web-files", "tar.gz");
    let bytes = cluster.data(Method::GET, &archive).send().await.unwrap().bytes().await.unwrap();
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut tar).unwrap();
    assert!(tar.starts_with(b"disk.img\0"));
    assert_eq!(tar.len(), 512 + 9216 + 512 + 512 + 1024);
}

#[tokio::test]
async fn tokens_are_compared_byte_for_byte() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let raw = url(&export, "external", "web-root", "raw");
    let plain = |url: String| cluster.client.head(url);
    assert_eq!(plain(format!("{raw}?x-kubevirt-export-token={TOKEN}")).send().await.unwrap().status(), 200);
    assert_eq!(plain(format!("{raw}?X-Kubevirt-Export-Token={TOKEN}")).send().await.unwrap().status(), 401);
    assert_eq!(
        plain(raw.clone()).header("X-KUBEVIRT-Export-Token", TOKEN).send().await.unwrap().status(),
        200
    );
    assert_eq!(plain(raw.clone()).bearer_auth(TOKEN).send().await.unwrap().status(), 401);
    let junk = Action::TokenJunk {
        namespace: "demo".into(),
        export: "e".into(),
        before: String::new(),
        after: "\n".into(),
    };
    cluster.simulator.act(junk);
    assert_eq!(cluster.data(Method::HEAD, &raw).send().await.unwrap().status(), 401);
    // An empty token asks for none.
    let secret = json!({"metadata": {"name": "empty"}, "data": {"token": ""}});
    cluster.call(Method::POST, "/api/v1/namespaces/demo/secrets", &secret).await;
    let source = json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"});
    let object = json!({"metadata": {"name": "open"}, "spec": {"source": source, "tokenSecretRef": "empty"}});
    cluster.call(Method::POST, &crate::support::exports("demo"), &object).await;
    let export = cluster.ready("demo", "open").await;
    assert_eq!(plain(url(&export, "external", "web-root", "raw")).send().await.unwrap().status(), 200);
    let told = format!("{:?}", cluster.simulator.requests());
    assert!(!told.contains(TOKEN) && !told.contains(&cluster.token), "the log tells secrets");
}

#[tokio::test]
async fn manifests_show_the_vm_with_its_sources() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let link = export["status"]["links"]["external"]["manifests"][0]["url"].as_str().unwrap();
    let text = cluster.data(Method::GET, link).send().await.unwrap().text().await.unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let source = &list["items"][1]["spec"]["dataVolumeTemplates"][0]["spec"]["source"]["http"];
    assert_eq!(source["url"], url(&export, "external", "web-root", "gzip"));
    assert!(text.starts_with("{\n    \"apiVersion\"") || text.starts_with("{\n    \"kind\""));
    let yaml = cluster.data(Method::GET, link).header("accept", "application/yaml").send().await.unwrap();
    assert_eq!(yaml.text().await.unwrap().matches("\n---\n").count(), 2);
    assert_eq!(cluster.data(Method::HEAD, link).send().await.unwrap().status(), 400);
    let secret = link.replace("/all", "/secret");
    let text = cluster.data(Method::GET, &secret).send().await.unwrap().text().await.unwrap();
    assert!(text.contains(&format!("x-kubevirt-export-token:{TOKEN}")));
}

#[tokio::test]
async fn a_service_has_an_address_for_those_who_resolve_its_name() {
    let cluster = cluster().await;
    let export = cluster.export("demo", "e", "web").await;
    let address = cluster.simulator.service_address("demo", "e").unwrap();
    let cert = export["status"]["links"]["internal"]["cert"].as_str().unwrap();
    let raw = url(&export, "internal", "web-root", "raw");
    let raw = raw.replace("virt-export-e.demo.svc", &format!("virt-export-e.demo.svc:{}", address.port()));
    let certificate = reqwest::Certificate::from_pem(cert.as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([certificate])
        .no_proxy()
        .resolve("virt-export-e.demo.svc", address)
        .build()
        .unwrap();
    let answer = client.get(&raw).header("x-kubevirt-export-token", TOKEN).send().await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), whole());
    let by_address = format!("https://{address}/exportready");
    assert!(client.get(by_address).send().await.is_err(), "the certificate has no address");
}

#[tokio::test]
async fn gzip_may_have_been_made_before() {
    let cluster = Cluster::start().await;
    let disk = Disk::zeros(SIZE).with_gzip(Disk::bytes(&b"any bytes"[..]));
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", disk));
    let export = cluster.export("demo", "e", "web").await;
    let gzip = url(&export, "external", "web-root", "gzip");
    assert_eq!(cluster.data(Method::GET, &gzip).send().await.unwrap().text().await.unwrap(), "any bytes");
}
