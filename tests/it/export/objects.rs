//! A VM straight into a bucket: the objects are the files that an export to this machine makes.

use std::{fs, path::Path};

use vmferry_sim::Config;

use super::cluster::{Cluster, web};
use crate::{
    object::servers::{Bucket, Server},
    support::{Finished, listing, read, scratch},
};

/// Exports into a bucket, with its state below `home`.
#[track_caller]
fn export(cluster: &Cluster, bucket: &Bucket, home: &Path, args: &[&str]) -> Finished {
    let kubeconfig = cluster.kubeconfig.to_str().unwrap();
    bucket
        .vmferry([&["export", "demo/web", "--kubeconfig", kubeconfig], args].concat())
        .current_dir(home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .unwrap()
        .into()
}

/// Everything below `prefix` is what a directory holds, but for what has a time in it.
#[track_caller]
fn assert_same(bucket: &Bucket, prefix: &str, directory: &Path, scratch: &Path) {
    let mut names: Vec<String> =
        bucket.list().iter().filter_map(|key| key.strip_prefix(prefix)).map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, listing(directory));
    for name in names.iter().filter(|name| *name != "manifest.json") {
        let file = scratch.join("fetched");
        bucket.get(&format!("{prefix}{name}"), &file);
        assert!(read(&file) == read(&directory.join(name)), "{name}: other bytes");
    }
}

#[test]
fn a_vm_goes_straight_into_a_bucket() {
    for server in [Server::S3s, Server::Moto, Server::Azurite] {
        let Some(bucket) = Bucket::new(server) else { continue };
        let cluster = Cluster::start(Config::default());
        web(&cluster);
        let place = scratch();
        for (format, prefix) in [("qcow2", "images"), ("ovf", "appliance")] {
            let url = bucket.url(&format!("{prefix}/"));
            let args = ["--output", &url, "-O", format, "--verify", "-o", "json"];
            let report = export(&cluster, &bucket, place.path(), &args).expect(0).json();
            assert_eq!(report["volumes"].as_array().unwrap().len(), 2);
            assert!(report["volumes"].as_array().unwrap().iter().all(|volume| volume["verified"] == true));
            cluster.run(place.path(), &["demo/web", "--output", prefix, "-O", format, "--verify"]).expect(0);
            let local = place.path().join(prefix).join("web");
            assert_same(&bucket, &format!("{prefix}/web/"), &local, place.path());
            let again = export(&cluster, &bucket, place.path(), &args).expect(5);
            assert!(again.stderr.contains("exists"), "{}", again.stderr);
        }
        let url = bucket.url("web.ova");
        export(&cluster, &bucket, place.path(), &["--output", &url, "--verify"]).expect(0);
        cluster.run(place.path(), &["demo/web", "--output", "web.ova"]).expect(0);
        bucket.get("web.ova", &place.path().join("fetched"));
        assert!(read(&place.path().join("fetched")) == read(&place.path().join("web.ova")), "other bytes");
        assert_eq!(bucket.head("web.ova")["metadata"]["vmferryvm"], "demo/web", "{server:?}");
        cluster.assert_clean();
        assert!(listing(&place.path().join("state/vmferry")).is_empty());
        assert!(bucket.list().iter().all(|key| !key.contains(".vmferry/")), "{:?}", bucket.list());
    }
}

#[test]
fn an_export_that_was_killed_goes_on_with_its_objects() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let place = scratch();
    let url = bucket.url("backup/");
    let args = ["--output", &url, "-O", "raw", "--verify", "--rate", "4MiB", "-o", "json"];
    let kubeconfig = cluster.kubeconfig.to_str().unwrap();
    let mut child = bucket
        .vmferry([&["export", "demo/web", "--kubeconfig", kubeconfig], &args[..]].concat())
        .current_dir(place.path())
        .env("XDG_STATE_HOME", place.path().join("state"))
        .env_remove("KUBECONFIG")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    cluster.wait_sent(1 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let args = ["--output", &url, "-O", "raw", "--verify", "-o", "json"];
    export(&cluster, &bucket, place.path(), &args).expect(0);
    for (name, disk) in [("root", root), ("data", data)] {
        bucket.get(&format!("backup/web/{name}.raw"), &place.path().join("fetched"));
        assert!(read(&place.path().join("fetched")) == disk, "{name}");
    }
    assert!(fs::read_dir(place.path().join("state/vmferry")).unwrap().next().is_none());
    cluster.assert_clean();
}
