//! Objects as sources.

use std::{fs, path::Path, time::Duration};

use vmferry_formats::testkit;

use super::{
    proxy::{self, Fault, Proxy},
    servers::{Bucket, KEY_ID, SECRET, Server},
};
use crate::support::{Finished, have, make_disk, read, run, scratch, tool, vmferry, wait_for};

/// Some chunks and an odd end.
const LEN: usize = (20 << 20) + 1536;

/// A qcow2 of a seeded disk, and the disk.
fn qcow2(directory: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let (raw, image) = (directory.join("made.raw"), directory.join("made.qcow2"));
    let disk = make_disk(&raw, 7, LEN);
    run(["convert", "-q", raw.to_str().unwrap(), image.to_str().unwrap(), "--compression", "deflate"])
        .expect(0);
    (image, disk)
}

#[test]
fn every_store_is_read() {
    for server in Server::ALL {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let (image, disk) = qcow2(dir.path());
        let key = "vms/a b+ü%20/disk.qcow2";
        bucket.put(key, &image);
        let url = bucket.url(key);
        let out = dir.path().join("out.raw");
        let report = bucket.run(["convert", "-o", "json", &url, out.to_str().unwrap()]).expect(0).json();
        assert!(read(&out) == disk, "{server:?}: {report}");
        let inspected = bucket.run(["inspect", "-o", "json", &url]).expect(0).json();
        assert_eq!(inspected["virtual_size"], LEN, "{server:?}: {inspected}");
        let map = |location: &str| bucket.run(["map", "-o", "json", location]).expect(0).stdout;
        assert_eq!(map(&url), map(image.to_str().unwrap()), "{server:?}");
        let digest = |location: &str| {
            bucket.run(["digest", "-o", "json", location]).expect(0).json()["digest"].clone()
        };
        assert_eq!(digest(&url), digest(image.to_str().unwrap()), "{server:?}");
    }
}

#[test]
fn a_manifest_beside_the_object_is_found() {
    for server in [Server::S3s, Server::Azurite] {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let (image, _) = qcow2(dir.path());
        let manifest = dir.path().join("made.qcow2.vmferry.jsonl");
        bucket.put("disk.qcow2", &image);
        let url = bucket.url("disk.qcow2");
        let failed = bucket.run(["verify", &url]).expect(1);
        assert!(
            failed.stderr.contains("disk.qcow2.vmferry.jsonl") && failed.stderr.contains("--manifest"),
            "{}",
            failed.stderr
        );
        bucket.run(["verify", &url, "--manifest", manifest.to_str().unwrap()]).expect(0);
        bucket.put("disk.qcow2.vmferry.jsonl", &manifest);
        let verified = bucket.run(["verify", "-o", "json", &url]).expect(0).json();
        assert_eq!(verified["manifest"], bucket.url("disk.qcow2.vmferry.jsonl"), "{verified}");
        let mut other = read(&image);
        let raw = dir.path().join("other.raw");
        make_disk(&raw, 8, LEN);
        run(["convert", "-q", raw.to_str().unwrap(), dir.path().join("other.qcow2").to_str().unwrap()])
            .expect(0);
        bucket.put("disk.qcow2", &dir.path().join("other.qcow2"));
        bucket.run(["verify", &url]).expect(3);
        other.truncate(other.len() / 2);
        bucket.put_bytes("disk.qcow2", &other);
        assert_ne!(bucket.run(["verify", &url]).code, Some(0));
    }
}

#[test]
fn compressed_streams_raw_disks_and_empty_objects_are_read() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let raw = dir.path().join("disk.raw");
    let disk = make_disk(&raw, 9, LEN);
    bucket.put("disk.raw", &raw);
    tool("gzip", ["-k1", raw.to_str().unwrap()]);
    bucket.put("disk.raw.gz", &dir.path().join("disk.raw.gz"));
    bucket.put_bytes("empty.raw", b"");
    for (key, expected) in [("disk.raw", &disk[..]), ("disk.raw.gz", &disk[..]), ("empty.raw", b"")] {
        let out = dir.path().join(format!("{key}.out.raw"));
        let done = bucket.run(["convert", &bucket.url(key), out.to_str().unwrap()]).expect(0);
        assert!(read(&out) == expected, "{key}");
        // What is said of exports does not concern objects.
        assert!(!done.stderr.contains("export"), "{}", done.stderr);
    }
}

#[test]
fn an_appliance_is_read_from_a_store() {
    for server in Server::S3 {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let (raw, ova) = (dir.path().join("disk.raw"), dir.path().join("vm.ova"));
        let disk = make_disk(&raw, 11, 6 << 20);
        let other = dir.path().join("data.raw");
        make_disk(&other, 12, 5 << 20);
        run(crate::ova::pack(&[raw.clone(), other.clone()], &ova, &[])).expect(0);
        bucket.put("vm.ova", &ova);
        let url = bucket.url("vm.ova");
        let verify = |code| bucket.run(["verify", "-o", "json", &url]).expect(code).json();
        let by_manifest = |report: &serde_json::Value| report.to_string().contains("vm.ova.vmferry.jsonl");
        assert!(!by_manifest(&verify(0)), "{server:?}");
        bucket.put("vm.ova.vmferry.jsonl", &dir.path().join("vm.ova.vmferry.jsonl"));
        let told = verify(0);
        assert!(by_manifest(&told), "{server:?}: {told}");
        // That of an appliance with the disks changed for each other.
        let (elsewhere, twin) = (dir.path().join("twin"), dir.path().join("twin/vm.ova"));
        fs::create_dir(&elsewhere).unwrap();
        run(crate::ova::pack(&[other, raw], &twin, &[])).expect(0);
        bucket.put("vm.ova.vmferry.jsonl", &elsewhere.join("vm.ova.vmferry.jsonl"));
        verify(3);
        bucket.put_bytes("vm.ova.vmferry.jsonl", b"{}");
        let broken = bucket.run(["verify", &url]);
        assert!(
            broken.code != Some(0) && broken.stderr.contains("manifest is not valid"),
            "{}",
            broken.stderr
        );
        let out = dir.path().join("out.raw");
        bucket.run(["convert", &url, out.to_str().unwrap(), "--disk", "1"]).expect(0);
        assert!(read(&out) == disk, "{server:?}");
    }
}

#[test]
fn faults_on_the_way_are_survived() {
    for server in [Server::S3s, Server::Moto, Server::Azurite] {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let (image, disk) = qcow2(dir.path());
        bucket.put("disk.qcow2", &image);
        // What is changed on the way is found by the digests of the manifest.
        let corrupting = Proxy::start(&bucket.address, |seen| {
            let is_data = seen.range.as_ref().is_some_and(|range| range.len() > "bytes=0-4095".len());
            if is_data { Fault::CorruptAnswer } else { Fault::None }
        });
        let manifest = dir.path().join("made.qcow2.vmferry.jsonl");
        let args = ["verify", &bucket.url("disk.qcow2"), "--manifest", manifest.to_str().unwrap()];
        let failed = bucket.through(&corrupting.address).run(args);
        assert!(matches!(failed.code, Some(1 | 3)), "{server:?}: {:?} {}", failed.code, failed.stderr);
        // Every other request fails, each time in another way.
        let faults = [
            Fault::error(503, "SlowDown"),
            Fault::Reset,
            Fault::error(500, "InternalError"),
            Fault::CutAnswer,
            Fault::Answer(429, "Retry-After: 0\r\n".into(), String::new()),
            Fault::LoseAnswer,
            Fault::Stall(Duration::from_secs(3)),
        ];
        let proxy = Proxy::start(&bucket.address, move |seen| {
            if seen.number % 2 == 0 { faults[seen.number / 2 % faults.len()].clone() } else { Fault::None }
        });
        let out = dir.path().join("out.raw");
        let args = [
            "convert",
            &bucket.url("disk.qcow2"),
            out.to_str().unwrap(),
            "--stall-timeout",
            "1s",
            "--retry-for",
            "20s",
        ];
        bucket.through(&proxy.address).run(args).expect(0);
        assert!(read(&out) == disk, "{server:?}");
        assert!(proxy.seen().len() > 10, "{:?}", proxy.seen());
        // The token or signature of a request stands in its headers only.
        assert!(!proxy.seen().iter().any(|seen| seen.target.contains('?')), "{:?}", proxy.seen());
    }
}

#[test]
fn an_object_that_is_replaced_meanwhile_is_noticed() {
    for server in Server::ALL {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let (raw, other) = (dir.path().join("disk.raw"), dir.path().join("other.raw"));
        make_disk(&raw, 13, LEN);
        make_disk(&other, 14, LEN);
        bucket.put("disk.raw", &raw);
        // Behind the probe somebody writes another disk of the same size.
        let replaced = bucket.clone();
        let mut data = 0;
        let proxy = Proxy::start(&bucket.address, move |seen| {
            if seen.method == "GET" && seen.range.is_some() {
                data += 1;
                if data == 3 {
                    replaced.put("disk.raw", &other);
                }
            }
            Fault::None
        });
        let out = dir.path().join("out.raw");
        let args = ["convert", &bucket.url("disk.raw"), out.to_str().unwrap(), "--connections", "1"];
        let failed = bucket.through(&proxy.address).run(args).expect(4);
        assert!(!out.exists(), "{server:?}");
        assert!(failed.stderr.contains("start again"), "{server:?}: {}", failed.stderr);
        // The version is demanded, so that a store need not send what is not wanted.
        let demanded = proxy.seen().iter().filter(|seen| seen.if_match.is_some()).count();
        assert!(demanded > 0, "{server:?}: {:?}", proxy.seen());
    }
}

#[test]
fn wrong_answers_are_not_taken_for_the_disk() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let raw = dir.path().join("disk.raw");
    make_disk(&raw, 15, LEN);
    bucket.put("disk.raw", &raw);
    let out = dir.path().join("out.raw");
    let answers: [(&str, String, usize); 4] = [
        ("another range", "Content-Range: bytes 1-9/20973056\r\nETag: \"x\"\r\n".into(), 9),
        ("no range", String::new(), 9),
        ("another size", "Content-Range: bytes 0-8/9\r\nETag: \"x\"\r\n".into(), 9),
        ("a lie about its length", "Content-Range: bytes 0-4194303/20973056\r\n".into(), 100),
    ];
    for (what, headers, len) in answers {
        let (mut gets, body) = (0, "x".repeat(len));
        let proxy = Proxy::start(&bucket.address, move |seen| {
            gets += usize::from(seen.method == "GET");
            if seen.method == "GET" && gets > 1 {
                Fault::Answer(206, headers.clone(), body.clone())
            } else {
                Fault::None
            }
        });
        let args =
            ["convert", &bucket.url("disk.raw"), out.to_str().unwrap(), "--retry-for", "1s", "--restart"];
        let failed = bucket.through(&proxy.address).run(args);
        assert!(matches!(failed.code, Some(1 | 4 | 6)), "{what}: {:?} {}", failed.code, failed.stderr);
        assert!(!out.exists(), "{what}");
    }
}

#[test]
fn refusals_name_bucket_and_right_and_no_secret() {
    for server in [Server::S3s, Server::Moto] {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let out = dir.path().join("out.raw");
        let convert = |bucket: &Bucket, url: &str| {
            bucket.vmferry(["convert", url, out.to_str().unwrap(), "--retry-for", "2s", "-vv"])
        };
        let finish = |mut command: std::process::Command| Finished::from(command.output().unwrap());
        let missing = finish(convert(&bucket, &bucket.url("nothing.raw"))).expect(1);
        assert!(
            missing.stderr.contains("there is no object") && missing.stderr.contains("nothing.raw"),
            "{}",
            missing.stderr
        );
        let nowhere = finish(convert(&bucket, "s3://no-such-bucket-here/disk.raw")).expect(1);
        assert!(nowhere.stderr.contains("no-such-bucket-here"), "{}", nowhere.stderr);
        let forbidding = Proxy::start(&bucket.address, |_| Fault::error(403, "AccessDenied"));
        let forbidden =
            finish(convert(&bucket.through(&forbidding.address), &bucket.url("disk.raw"))).expect(1);
        for word in [bucket.name.as_str(), "s3:GetObject", "AccessDenied"] {
            assert!(forbidden.stderr.contains(word), "{word}: {}", forbidden.stderr);
        }
        // It is asked once: another try would end the same way.
        assert!(forbidding.seen().len() <= 2, "{:?}", forbidding.seen());
        let token = "t0ken-that-must-not-show";
        let repeating = Proxy::start(&bucket.address, move |_| {
            let body = format!(
                "<Error><Code>InvalidToken</Code><Message>bad</Message><Token-0>{token}</Token-0></Error>"
            );
            Fault::Answer(400, String::new(), body)
        });
        let mut command = convert(&bucket.through(&repeating.address), &bucket.url("disk.raw"));
        command.env("AWS_SESSION_TOKEN", token);
        let refused = finish(command).expect(1);
        assert!(refused.stderr.contains("does not accept the credentials"), "{}", refused.stderr);
        for finished in [&missing, &nowhere, &forbidden, &refused] {
            for secret in [SECRET, token, "Signature="] {
                assert!(!finished.stderr.contains(secret), "{}", finished.stderr);
            }
        }
    }
}

#[test]
fn wrong_keys_are_told() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    bucket.put_bytes("disk.raw", &[1; 4096]);
    let dir = scratch();
    let out = dir.path().join("out.raw");
    let mut command = bucket.vmferry(["convert", &bucket.url("disk.raw"), out.to_str().unwrap()]);
    command.env("AWS_SECRET_ACCESS_KEY", "another");
    let failed = Finished::from(command.output().unwrap()).expect(1);
    assert!(
        failed.stderr.contains("AWS_SECRET_ACCESS_KEY") && !failed.stderr.contains("another\n"),
        "{}",
        failed.stderr
    );
    // The keys of a profile are taken where the environment has none.
    let home = scratch();
    fs::create_dir(home.path().join(".aws")).unwrap();
    let text = format!("[backup]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n");
    fs::write(home.path().join(".aws/credentials"), text).unwrap();
    let mut command = bucket.vmferry([
        "convert",
        &bucket.url("disk.raw"),
        out.to_str().unwrap(),
        "--store-profile",
        "backup",
    ]);
    command.env("HOME", home.path()).env("AWS_SECRET_ACCESS_KEY", "another");
    Finished::from(command.output().unwrap()).expect(0);
    assert_eq!(read(&out), [1; 4096]);
}

#[test]
fn connections_are_encrypted_and_certificates_verified() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let disk = testkit::disk(19, 3 << 20);
    bucket.put_bytes("disk.raw", &disk);
    let (address, ca_file) = proxy::tls(&bucket.address, dir.path());
    let out = dir.path().join("out.raw");
    let convert = |endpoint: &str, more: &[&str]| {
        let url = bucket.url("disk.raw");
        let args = [&["convert", &url, out.to_str().unwrap(), "--store-endpoint", endpoint], more].concat();
        let mut command = vmferry(args);
        command
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("HOME", "/nonexistent");
        Finished::from(command.output().unwrap())
    };
    let plain = convert(&bucket.endpoint(), &[]).expect(5);
    assert!(plain.stderr.contains("--store-allow-http"), "{}", plain.stderr);
    let endpoint = format!("https://{address}");
    let unknown = convert(&endpoint, &[]).expect(1);
    assert!(unknown.stderr.contains("--store-ca-file"), "{}", unknown.stderr);
    // What turns verification off elsewhere does not do so for stores.
    convert(&endpoint, &["--insecure"]).expect(1);
    let done = convert(&endpoint, &["--store-ca-file", ca_file.to_str().unwrap()]).expect(0);
    assert!(read(&out) == disk && !done.stderr.contains("NOT encrypted"), "{}", done.stderr);
}

#[test]
fn what_anybody_may_read_needs_no_keys() {
    let Some(bucket) = Bucket::new(Server::Moto) else { return };
    bucket.put_bytes("disk.raw", &[3; 5000]);
    bucket.client(["publish", "disk.raw"]);
    let dir = scratch();
    let out = dir.path().join("out.raw");
    let proxy = Proxy::start(&bucket.address, |_| Fault::None);
    let through = bucket.through(&proxy.address);
    let mut command =
        through.vmferry(["convert", &bucket.url("disk.raw"), out.to_str().unwrap(), "--store-anonymous"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    Finished::from(command.output().unwrap()).expect(0);
    assert_eq!(read(&out), [3; 5000]);
    assert!(proxy.seen().iter().all(|seen| !seen.is_signed), "{:?}", proxy.seen());
}

#[test]
fn a_store_that_stays_away_ends_in_a_run_that_can_be_resumed() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let raw = dir.path().join("disk.raw");
    let disk = make_disk(&raw, 16, LEN);
    bucket.put("disk.raw", &raw);
    let out = dir.path().join("out.raw");
    let mut gets = 0;
    let proxy = Proxy::start(&bucket.address, move |seen| {
        gets += usize::from(seen.method == "GET");
        if gets > 4 { Fault::error(503, "SlowDown") } else { Fault::None }
    });
    let args = |retry_for: &'static str| {
        [
            "convert".to_owned(),
            bucket.url("disk.raw"),
            out.to_str().unwrap().to_owned(),
            "--retry-for".into(),
            retry_for.into(),
        ]
    };
    let failed = bucket.through(&proxy.address).run(args("2s")).expect(6);
    assert!(failed.stderr.contains("gave up") && !out.exists(), "{}", failed.stderr);
    bucket.run(args("1m")).expect(0);
    assert!(read(&out) == disk);
}

#[test]
fn a_killed_run_is_taken_up_from_the_object() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let raw = dir.path().join("disk.raw");
    let disk = make_disk(&raw, 17, 40 << 20);
    bucket.put("disk.raw", &raw);
    let out = dir.path().join("out.qcow2");
    let args = ["convert", &bucket.url("disk.raw"), out.to_str().unwrap(), "--rate", "8MiB"];
    let mut child = bucket.vmferry(args).spawn().unwrap();
    let partial = dir.path().join("out.qcow2.partial");
    wait_for("some of the output", || fs::metadata(&partial).is_ok_and(|metadata| metadata.len() > 4 << 20));
    child.kill().unwrap();
    child.wait().unwrap();
    bucket.run(["convert", &bucket.url("disk.raw"), out.to_str().unwrap()]).expect(0);
    if have("qemu-img") {
        tool(
            "qemu-img",
            ["compare", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), out.to_str().unwrap()],
        );
    }
    assert_eq!(disk.len(), 40 << 20);
}

#[test]
fn files_are_named_by_url_too() {
    let dir = scratch();
    let raw = dir.path().join("a disk.raw");
    let disk = make_disk(&raw, 18, 1 << 20);
    let out = dir.path().join("out.raw");
    let url = format!("file://{}", raw.to_str().unwrap().replace(' ', "%20"));
    run(["convert", &url, out.to_str().unwrap()]).expect(0);
    assert!(read(&out) == disk);
    let refused = run(["convert", &url, raw.to_str().unwrap(), "--force"]);
    assert_ne!(refused.code, Some(0), "a source that is its own output");
    assert!(read(&raw) == disk);
}
