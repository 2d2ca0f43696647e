//! What `vmferry gc` finds below a prefix, and what it leaves alone.

use serde_json::{Value, json};

use super::{
    kill::wait,
    proxy::{Fault, Proxy},
    servers::{Bucket, Server},
};

/// Bytes of a part that was uploaded.
const PART: &[u8] = &[7; 100_000];

/// Begins an upload and sends a part of it; its id.
fn begin(bucket: &Bucket, key: &str) -> String {
    let id = bucket.client(["begin", key]).as_str().unwrap().to_owned();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, PART).unwrap();
    bucket.client(["part", key, &id, "1", file.path().to_str().unwrap()]);
    id
}

/// Puts a marker of `run` below `prefix`.
fn mark(bucket: &Bucket, prefix: &str, run: &str, key: &str, id: &str) {
    let marker = json!({
        "version": 1, "run": run, "tool": "a test", "vm": "shop/db", "uploads": [{"key": key, "id": id}],
    });
    bucket.put_bytes(&format!("{prefix}.vmferry/{run}.json"), marker.to_string().as_bytes());
}

fn rows(bucket: &Bucket, args: &[&str]) -> Vec<Value> {
    let found = bucket.run([&["gc", "-o", "json"], args].concat()).expect(0);
    let mut rows: Vec<Value> = serde_json::from_slice(&found.stdout).unwrap();
    rows.sort_by_key(|row| row["run"].to_string());
    rows
}

#[test]
fn uploads_with_a_marker_are_given_up_and_others_are_not() {
    for server in [Server::S3s, Server::Moto, Server::FakeGcs] {
        let Some(bucket) = Bucket::new(server) else { continue };
        // s3s-fs lists no parts of an upload that it does not have.
        let nothing = (server == Server::S3s).then_some(0);
        let ours = begin(&bucket, "vms/db.qcow2");
        let foreign = begin(&bucket, "vms/foreign");
        let elsewhere = begin(&bucket, "other/x");
        mark(&bucket, "vms/", "r1", "vms/db.qcow2", &ours);
        // Below another prefix, and one that claims what is not below its own.
        mark(&bucket, "other/", "r9", "other/x", &elsewhere);
        mark(&bucket, "vms/", "r3", "other/x", &elsewhere);
        bucket.put_bytes("vms/.vmferry/readme.txt", b"no marker");
        bucket.put_bytes("vms/db.json", b"{}");
        let url = bucket.url("vms");
        let listed = rows(&bucket, &[&url]);
        assert_eq!(listed.len(), 1, "{server:?}: {listed:?}");
        let row = &listed[0];
        assert_eq!((row["run"].as_str(), row["vm"].as_str()), (Some("r1"), Some("shop/db")));
        assert_eq!(
            (&row["state"], &row["parts"], &row["bytes"]),
            (&json!("open"), &json!(1), &json!(PART.len()))
        );
        assert_eq!((&row["object"], &row["removed"]), (&json!(bucket.url("vms/db.qcow2")), &json!(false)));
        assert_eq!(bucket.parts("vms/db.qcow2", &ours), Some(1));
        // Of another run nothing is there; what was written a moment ago stays, and the fake's is old.
        assert!(rows(&bucket, &[&url, "--run", "r2", "--yes"]).is_empty());
        if server != Server::FakeGcs {
            assert_eq!(rows(&bucket, &[&url, "--yes"])[0]["removed"], json!(false));
            assert!(rows(&bucket, &[&url, "--older-than", "1h"]).is_empty());
            assert_eq!(bucket.parts("vms/db.qcow2", &ours), Some(1));
        }
        let removed = bucket.run(["gc", &url, "--run", "r1", "--yes"]).expect(0);
        assert!(removed.stderr.contains("r3.json is left alone"), "{}", removed.stderr);
        let left = bucket.parts("vms/db.qcow2", &ours);
        assert_eq!(left, nothing, "{server:?}");
        for (key, id) in [("vms/foreign", &foreign), ("other/x", &elsewhere)] {
            assert_eq!(bucket.parts(key, id), Some(1), "{server:?} {key}");
        }
        let keys =
            ["other/.vmferry/r9.json", "vms/.vmferry/r3.json", "vms/.vmferry/readme.txt", "vms/db.json"];
        assert_eq!(bucket.list(), keys, "{server:?}");
        // The whole bucket; with a marker whose upload is gone, where the store can tell.
        if server != Server::S3s {
            mark(&bucket, "vms/", "r4", "vms/db.qcow2", &ours);
        }
        let all = rows(&bucket, &[&bucket.url(""), "--yes", "--all"]);
        let states: Vec<_> =
            all.iter().map(|row| (row["run"].as_str().unwrap(), row["state"].as_str().unwrap())).collect();
        let expected = [("r4", "gone"), ("r9", "open")];
        assert_eq!(states, expected[usize::from(server == Server::S3s)..], "{server:?}");
        assert_eq!(bucket.parts("other/x", &elsewhere), nothing);
        assert_eq!(bucket.list(), ["vms/.vmferry/r3.json", "vms/.vmferry/readme.txt", "vms/db.json"]);
    }
}

#[test]
fn azure_loses_markers_and_is_told_of_its_blocks() {
    let Some(bucket) = Bucket::new(Server::Azurite) else { return };
    mark(&bucket, "vms/", "r1", "vms/db.qcow2", "");
    let listed = rows(&bucket, &[&bucket.url("vms/")]);
    assert_eq!((&listed[0]["state"], &listed[0]["parts"]), (&json!("untold"), &Value::Null));
    let removed = bucket.run(["gc", &bucket.url("vms"), "--yes", "--all"]).expect(0);
    assert!(removed.stderr.contains("after a week"), "{}", removed.stderr);
    assert!(bucket.list().is_empty());
}

/// Azure tells of no parts: that a run is alive shows in the journal that it keeps there, if it does.
#[test]
fn a_run_that_keeps_its_journal_in_the_store_is_as_old_as_its_last_record() {
    for server in [Server::Azurite, Server::S3s] {
        let Some(bucket) = Bucket::new(server) else { continue };
        mark(&bucket, "vms/", "r1", "vms/a.qcow2", "");
        mark(&bucket, "vms/", "r2", "vms/b.qcow2", "");
        wait(4100);
        bucket.put_bytes("vms/.vmferry/r1/00000001.journal", b"a record");
        bucket.run(["gc", &bucket.url("vms"), "--yes", "--older-than", "3s"]).expect(0);
        let left = bucket.list();
        assert_eq!(left, ["vms/.vmferry/r1.json", "vms/.vmferry/r1/00000001.journal"], "{server:?}");
    }
}

#[test]
fn what_is_not_allowed_or_lost_is_told() {
    let Some(bucket) = Bucket::new(Server::Moto) else { return };
    let id = begin(&bucket, "vms/db.qcow2");
    mark(&bucket, "vms/", "r1", "vms/db.qcow2", &id);
    let through =
        |fault: Fault, method: &'static str| {
            let proxy = Proxy::start(&bucket.address, move |seen| {
                if seen.method == method { fault.clone() } else { Fault::None }
            });
            bucket.through(&proxy.address).run(["gc", &bucket.url("vms"), "--yes", "--all"])
        };
    let refused = through(Fault::error(403, "AccessDenied"), "DELETE").expect(1);
    assert!(refused.stderr.contains("s3:AbortMultipartUpload"), "{}", refused.stderr);
    let refused = through(Fault::error(403, "AccessDenied"), "GET").expect(1);
    assert!(refused.stderr.contains("s3:ListBucket"), "{}", refused.stderr);
    assert_eq!(bucket.parts("vms/db.qcow2", &id), Some(1));
    // An answer that was lost is asked for again, and finds nothing any more: that is fine.
    let mut lost = 0;
    let proxy = Proxy::start(&bucket.address, move |seen| {
        lost += usize::from(seen.method == "DELETE");
        if seen.method == "DELETE" && lost == 1 { Fault::LoseAnswer } else { Fault::None }
    });
    bucket.through(&proxy.address).run(["gc", &bucket.url("vms"), "--yes", "--all"]).expect(0);
    assert_eq!(bucket.parts("vms/db.qcow2", &id), None);
    let hostile = Proxy::start(&bucket.address, |seen| {
        if seen.target.contains("uploadId") {
            Fault::Answer(200, String::new(), "<ListPartsResult><Part></ListPartsResult>".into())
        } else {
            Fault::None
        }
    });
    mark(&bucket, "vms/", "r1", "vms/db.qcow2", &id);
    let failed = bucket.through(&hostile.address).run(["gc", &bucket.url("vms")]).expect(1);
    assert!(failed.stderr.contains("XML"), "{}", failed.stderr);
}
