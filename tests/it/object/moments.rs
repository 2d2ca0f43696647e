//! Moments of an upload in which something happens: the run dies, or somebody else writes the object.

use std::{fs, process::Stdio, time::Duration};

use super::{
    proxy::{Fault, Proxy, Seen},
    servers::{Bucket, Server},
    write::{left_in, run_in},
};
use crate::support::{make_disk, read, scratch, wait_for};

/// What moto says of every upload; the others tell the truth.
const BEGUN_BY_MOTO: &str = "2010-11-10T20:48:33.000Z";

/// Begins an upload.
fn creates(seen: &Seen) -> bool {
    seen.method == "POST" && (seen.target.ends_with("?uploads=") || seen.target.ends_with("?uploads"))
}

/// Makes an object of parts.
fn completes(seen: &Seen) -> bool {
    (seen.method == "POST" && seen.target.contains("uploadId="))
        || (seen.method == "PUT" && seen.target.contains("comp=blocklist"))
}

/// Corrects moto's clock.
fn correct(seen: &Seen) -> Fault {
    if seen.method == "GET" && seen.target.contains("uploads") {
        return Fault::Replace(BEGUN_BY_MOTO, format!("{:.3}", jiff::Timestamp::now()));
    }
    Fault::None
}

#[test]
fn an_upload_whose_run_died_as_it_began_is_found_by_who_comes_next() {
    for server in [Server::Moto, Server::FakeGcs] {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 61, (9 << 20) + 512);
        // Somebody else's, since it has a part.
        let foreign = bucket.client(["begin", "vms/disk.raw"]).as_str().unwrap().to_owned();
        bucket.client(["part", "vms/disk.raw", &foreign, "1", source.to_str().unwrap()]);
        for by_gc in [true, false] {
            let home = dir.path().join(by_gc.to_string());
            let proxy = Proxy::start(&bucket.address, move |seen| {
                if creates(seen) { Fault::HoldAnswer(Duration::from_secs(20)) } else { Fault::None }
            });
            let url = bucket.url("vms/disk.raw");
            let mut args = ["convert", "-q", source.to_str().unwrap(), &url].map(str::to_owned).to_vec();
            let mut child = bucket
                .through(&proxy.address)
                .vmferry(&args)
                .env("XDG_STATE_HOME", home.join("state"))
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait_for("the upload", || bucket.uploads("vms/disk.raw").len() == 2);
            child.kill().unwrap();
            assert!(!child.wait().unwrap().success(), "it was faster than the kill");
            let markers = bucket.list();
            assert_eq!(markers.len(), 1, "{markers:?}");
            let marker = dir.path().join("marker");
            bucket.get(&markers[0], &marker);
            let marker: serde_json::Value = serde_json::from_slice(&read(&marker)).unwrap();
            let upload = serde_json::json!([{"key": "vms/disk.raw", "id": ""}]);
            assert_eq!(marker["uploads"], upload, "{server:?}");
            let corrected = Proxy::start(&bucket.address, correct);
            let through = bucket.through(&corrected.address);
            if by_gc {
                if server == Server::Moto {
                    // Begun before the marker was written: somebody else's.
                    let rows = bucket.run(["gc", "-o", "json", &bucket.url("vms")]).expect(0).json();
                    assert_eq!(rows[0]["state"], "gone", "{rows}");
                }
                let rows = through.run(["gc", "-o", "json", &bucket.url("vms"), "--yes", "--all"]).expect(0);
                let rows = rows.json();
                assert_eq!((&rows[0]["state"], &rows[0]["parts"]), (&"open".into(), &0.into()), "{rows}");
                assert!(bucket.list().is_empty(), "{server:?}: {:?}", bucket.list());
            } else {
                let journal = home.join("state/vmferry").join(&left_in(&home)[0]);
                args.extend(["--journal", journal.to_str().unwrap()].map(str::to_owned));
                let done = run_in(&through, &home, &args).expect(0);
                assert!(!done.stderr.contains("warning"), "{}", done.stderr);
                let file = dir.path().join("fetched");
                bucket.get("vms/disk.raw", &file);
                assert!(read(&file) == disk, "{server:?}");
                assert_eq!(bucket.list(), ["vms/disk.raw", "vms/disk.raw.vmferry.jsonl"], "{server:?}");
            }
            assert_eq!(bucket.uploads("vms/disk.raw"), std::slice::from_ref(&foreign), "{server:?}");
        }
    }
}

#[test]
fn an_upload_that_cannot_be_looked_for_keeps_its_marker() {
    let Some(bucket) = Bucket::new(Server::Moto) else { return };
    let marker = serde_json::json!({
        "version": 1, "run": "r1", "tool": "a test", "uploads": [{"key": "vms/disk.raw", "id": ""}],
    });
    bucket.put_bytes("vms/.vmferry/r1.json", marker.to_string().as_bytes());
    let proxy = Proxy::start(&bucket.address, |seen| match seen.target.contains("uploads") {
        true => Fault::error(403, "AccessDenied"),
        false => Fault::None,
    });
    let args = ["gc", &bucket.url("vms"), "--yes", "--all"];
    let failed = bucket.through(&proxy.address).run(args).expect(1);
    assert!(failed.stderr.contains("s3:ListBucketMultipartUploads"), "{}", failed.stderr);
    assert_eq!(bucket.list(), ["vms/.vmferry/r1.json"]);
    // A store that has no such list is no obstacle, and the user is told.
    let proxy = Proxy::start(&bucket.address, |seen| match seen.target.contains("uploads") {
        true => Fault::error(501, "NotImplemented"),
        false => Fault::None,
    });
    let done = bucket.through(&proxy.address).run(args).expect(0);
    assert!(done.stderr.contains("does not tell of"), "{}", done.stderr);
    assert!(bucket.list().is_empty());
}

#[test]
fn an_object_that_appears_at_the_last_moment_is_not_overwritten() {
    // moto does not look at the demand.
    for server in [Server::S3s, Server::Azurite, Server::FakeGcs] {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 62, (9 << 20) + 512);
        let foreign = b"somebody else's".as_slice();
        let (place, mut is_there) = (bucket.clone(), false);
        let proxy = Proxy::start(&bucket.address, move |seen| {
            if completes(seen) && !std::mem::replace(&mut is_there, true) {
                assert!(seen.is_for_new, "{seen:?}");
                place.put_bytes("disk.raw", foreign);
            }
            Fault::None
        });
        let (through, url) = (bucket.through(&proxy.address), bucket.url("disk.raw"));
        let mut args = vec!["convert", "-q", source.to_str().unwrap(), &url];
        let refused = run_in(&through, dir.path(), &args).expect(5);
        assert!(refused.stderr.contains("appeared while"), "{server:?}: {}", refused.stderr);
        let file = dir.path().join("fetched");
        bucket.get("disk.raw", &file);
        assert!(read(&file) == foreign, "{server:?}");
        run_in(&through, dir.path(), &args).expect(5);
        // All parts are there: only the last request is made again.
        let before = proxy.seen().len();
        args.push("--force");
        run_in(&through, dir.path(), &args).expect(0);
        fs::remove_file(&file).unwrap();
        bucket.get("disk.raw", &file);
        assert!(read(&file) == disk, "{server:?}");
        let sent: usize = proxy.seen()[before..].iter().map(|seen| seen.body_len).sum();
        assert!(sent < 1 << 20, "{server:?}: {sent} bytes were sent again");
    }
}

#[test]
fn a_store_that_cannot_be_told_to_overwrite_nothing_is_told_of() {
    let Some(bucket) = Bucket::new(Server::Moto) else { return };
    let dir = scratch();
    let source = dir.path().join("source.raw");
    let disk = make_disk(&source, 63, (9 << 20) + 512);
    let proxy = Proxy::start(&bucket.address, |seen| match completes(seen) && seen.is_for_new {
        true => Fault::error(501, "NotImplemented"),
        false => Fault::None,
    });
    let url = bucket.url("disk.raw");
    let args = ["convert", source.to_str().unwrap(), &url, "--progress", "none"];
    let done = run_in(&bucket.through(&proxy.address), dir.path(), &args).expect(0);
    let told = done.stderr.matches("cannot be told to overwrite nothing").count();
    assert_eq!(told, 1, "{}", done.stderr);
    let file = dir.path().join("fetched");
    bucket.get("disk.raw", &file);
    assert!(read(&file) == disk);
}
