//! A simulated cluster, and exports from it.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use vmferry_formats::testkit;
use vmferry_sim::{Config, Disk, Server, Simulator, Vm};

use crate::support::{Finished, read, run, scratch, vmferry, wait_for};

pub(super) const MIB: usize = 1 << 20;

/// A cluster.
pub(super) struct Cluster {
    pub(super) sim: Simulator,
    pub(super) kubeconfig: PathBuf,
    _place: tempfile::TempDir,
}

impl Cluster {
    pub(super) fn start(config: Config) -> Self {
        let sim = Simulator::start_blocking(config).expect("a simulator");
        let place = scratch();
        let kubeconfig = place.path().join("kubeconfig");
        std::fs::write(&kubeconfig, sim.kubeconfig()).expect("a kubeconfig");
        Self { sim, kubeconfig, _place: place }
    }

    /// The command, in a directory.
    pub(super) fn command(&self, directory: &Path, args: &[&str]) -> Command {
        let mut command = vmferry(["export"]);
        command
            .args(args)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .current_dir(directory)
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST");
        command
    }

    #[track_caller]
    pub(super) fn run(&self, directory: &Path, args: &[&str]) -> Finished {
        self.command(directory, args).output().expect("the binary runs").into()
    }

    pub(super) fn spawn(&self, directory: &Path, args: &[&str]) -> Child {
        self.command(directory, args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
    }

    /// A seeded disk.
    pub(super) fn disk(&self, seed: u64, len: usize) -> Vec<u8> {
        testkit::disk(seed, len)
    }

    /// Bytes of disks that were sent so far.
    pub(super) fn sent(&self) -> u64 {
        let data = |request: &&vmferry_sim::LoggedRequest| {
            request.server != Server::Api && request.method == "GET" && request.path.contains("/disk.img")
        };
        self.sim.requests().iter().filter(data).map(|request| request.bytes_sent).sum()
    }

    /// Waits until so many bytes of disks were sent.
    #[track_caller]
    pub(super) fn wait_sent(&self, bytes: u64) {
        wait_for("bytes of a disk", || self.sent() >= bytes);
    }

    /// Name of the only export.
    #[track_caller]
    pub(super) fn export_name(&self) -> String {
        let exports = self.sim.objects("virtualmachineexports", Some("demo"));
        assert_eq!(exports.len(), 1, "{exports:?}");
        exports[0]["metadata"]["name"].as_str().expect("a name").to_owned()
    }

    /// Nothing of ours is left in the cluster.
    #[track_caller]
    pub(super) fn assert_clean(&self) {
        for plural in ["virtualmachineexports", "virtualmachinesnapshots", "secrets"] {
            let ours =
                |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "vmferry";
            let left = || self.sim.objects(plural, None).into_iter().filter(ours).collect::<Vec<Value>>();
            // What is deleted goes when the cluster's own finalizers have run.
            wait_for("what is deleted to go", || {
                left().iter().all(|object| object["metadata"]["deletionTimestamp"].is_null())
            });
            assert!(left().is_empty(), "{plural}: {:?}", left());
        }
    }

    /// `gc` lists whatever is left: every export, snapshot and secret that was not put in by the test, but for
    /// what the cluster made itself for one of them and collects with it.
    #[track_caller]
    pub(super) fn assert_gc_lists_all(&self) {
        let left = || {
            let mut left = Vec::new();
            for (kind, plural) in [
                ("virtualmachineexport", "virtualmachineexports"),
                ("virtualmachinesnapshot", "virtualmachinesnapshots"),
                ("secret", "secrets"),
            ] {
                let other = |object: &Value| {
                    let metadata = &object["metadata"];
                    let is_theirs = metadata["name"].as_str().is_some_and(|name| name.starts_with("theirs"));
                    is_theirs || (metadata["labels"].is_null() && metadata["ownerReferences"][0].is_object())
                };
                let objects = self.sim.objects(plural, None).into_iter().filter(|object| !other(object));
                left.extend(
                    objects.map(|object| format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap())),
                );
            }
            left.sort();
            left
        };
        let kubeconfig = self.kubeconfig.to_str().expect("UTF-8");
        let listed = || {
            let rows = run(["gc", "--kubeconfig", kubeconfig, "-A", "-o", "json"]).expect(0).json();
            let name = |row: &Value| Some(format!("{}/{}", row["kind"].as_str()?, row["name"].as_str()?));
            let mut listed: Vec<String> = rows.as_array().expect("rows").iter().filter_map(name).collect();
            listed.sort();
            listed
        };
        // The cluster may be collecting garbage in between.
        let is_settled = (0..20).any(|_| listed() == left());
        assert!(is_settled, "gc lists {:?}, and there are {:?}", listed(), left());
    }

    /// Tokens in the cluster, as text.
    pub(super) fn tokens(&self) -> Vec<String> {
        let token = |secret: Value| {
            let bytes = BASE64_STANDARD.decode(secret["data"]["token"].as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        self.sim.objects("secrets", None).into_iter().filter_map(token).collect()
    }

    /// An export of a VM that somebody else made, with its secret.
    pub(super) fn add_export(&self, name: &str, vm: &str, token: &str) {
        let secret = format!("{name}-token");
        self.sim.add_object(
            "secrets",
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": secret, "namespace": "demo"},
                "data": {"token": BASE64_STANDARD.encode(token)},
            }),
        );
        self.sim.add_object(
            "virtualmachineexports",
            json!({
                "apiVersion": "export.kubevirt.io/v1", "kind": "VirtualMachineExport",
                "metadata": {"name": name, "namespace": "demo"},
                "spec": {
                    "source": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": vm},
                    "tokenSecretRef": secret,
                },
            }),
        );
    }
}

/// A stopped VM `demo/web` with two disks, which are returned, and one that is left out.
pub(super) fn web(cluster: &Cluster) -> (Vec<u8>, Vec<u8>) {
    let (root, data) = (cluster.disk(1, 21 * MIB + 512), cluster.disk(2, 6 * MIB));
    let vm = Vm::new("demo", "web")
        .disk("root", Disk::bytes(root.clone()))
        .disk("data", Disk::bytes(data.clone()))
        .container_disk("cd");
    cluster.sim.add_vm(vm);
    (root, data)
}

/// The image holds exactly this disk.
#[track_caller]
pub(super) fn assert_disk(image: &Path, disk: &[u8]) {
    let place = scratch();
    let raw = place.path().join("disk.raw");
    run(["convert", "-q", "--no-manifest", image.to_str().expect("UTF-8"), raw.to_str().expect("UTF-8")])
        .expect(0);
    let found = read(&raw);
    assert!(found == disk, "{image:?} holds another disk: {} and {} bytes", found.len(), disk.len());
}

/// The end of a process that was spawned.
#[track_caller]
pub(super) fn end(child: Child) -> Finished {
    child.wait_with_output().expect("an end").into()
}
