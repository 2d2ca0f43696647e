//! The words of HyperSDK: the binary called `hyperctl` and `hyperexport`.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use vmferry_sim::{Config, Disk, Vm};

use crate::{
    support::{Finished, listing, read, run, scratch, without_settings},
    vm::{Cluster, text},
};

/// A cluster with a VM, and a place with both links.
struct Scene {
    cluster: Cluster,
    place: tempfile::TempDir,
    disk: Vec<u8>,
}

impl Scene {
    fn new(is_running: bool) -> Self {
        let cluster = Cluster::with(Config::default());
        let disk = vmferry_formats::testkit::disk(1, 3 << 20);
        let vm = Vm::new("demo", "web").disk("root", Disk::bytes(disk.clone()));
        cluster.sim.add_vm(vm.running(is_running));
        let place = scratch();
        for name in ["hyperctl", "hyperexport"] {
            symlink(env!("CARGO_BIN_EXE_vmferry"), place.path().join(name)).unwrap();
        }
        Self { cluster, place, disk }
    }

    /// Runs a command line beside the links, words parted by blanks.
    fn run(&self, line: &str) -> Finished {
        let (program, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut command = Command::new(self.place.path().join(program));
        command
            .args(rest.split_whitespace())
            .stdin(Stdio::null())
            .current_dir(self.place.path())
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST");
        without_settings(&mut command);
        command.output().unwrap().into()
    }

    fn ok(&self, line: &str) -> String {
        text(&self.run(line).expect(0))
    }

    #[track_caller]
    fn assert_disk(&self, image: &str) {
        let (image, raw) = (self.place.path().join(image), self.place.path().join("disk.raw"));
        let (from, to) = (image.to_str().unwrap(), raw.to_str().unwrap());
        run(["convert", "-q", "--no-manifest", "--force", from, to]).expect(0);
        assert!(read(&raw) == self.disk);
    }
}

#[test]
fn hyperctl_lists_and_exports() {
    let scene = Scene::new(false);
    assert_eq!(scene.ok("hyperctl provider list -type kubevirt -namespace demo -o name"), "demo/web\n");
    assert_eq!(scene.ok("hyperctl provider list --all-namespaces -o name"), "demo/web\n");
    // In the namespace of the context.
    for name in ["my-web", "db"] {
        scene.cluster.sim.add_vm(Vm::new("default", name));
    }
    let listed = scene.run("hyperctl list -json -filter WE").expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed[0]["name"], "my-web", "{listed}");
    let listed = scene.run("hyperctl k8s -op vm-list -namespace demo -output json").expect(0).json();
    assert_eq!(listed[0]["path"], "demo/web", "{listed}");

    scene.ok("hyperctl export -provider kubevirt -vm demo/web -output out -format qcow2");
    scene.assert_disk("out/web/root.qcow2");
    assert!(scene.ok("hyperctl completion -shell bash").contains("complete -F _vmferry_names"));
    assert!(scene.ok("hyperctl -version").starts_with("vmferry "));
}

#[test]
fn hyperctl_acts_on_vms() {
    let scene = Scene::new(true);
    let stopped = scene.ok("hyperctl k8s -op vm-stop -vm web -namespace demo -wait -timeout 60");
    assert_eq!(stopped, "VM demo/web stopped (stopped)\n");
    scene.ok("hyperctl k8s -op vm-start -vm demo/web -timeout 60");
    assert!(scene.ok("hyperctl vm -op info -path demo/web").contains("running"));

    scene.ok("hyperctl k8s -op vm-snapshot-create -vm web -namespace demo -snapshot s -wait");
    assert!(scene.ok("hyperctl k8s -op vm-snapshot-list -namespace demo").contains("demo"));
    // Nobody is there to be asked.
    let asked = scene.run("hyperctl k8s -op vm-snapshot-delete -namespace demo -snapshot s").expect(2);
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert!(scene.cluster.object("virtualmachinesnapshots", "s").is_some());
    scene.ok("hyperctl k8s -op vm-snapshot-delete -namespace demo -snapshot s -force -wait");
    assert!(scene.cluster.object("virtualmachinesnapshots", "s").is_none());
    assert_eq!(scene.ok("hyperctl vm -op poweroff -path demo/web"), "VM demo/web stopped (stopped)\n");
    // What is not waited for is accepted and no more.
    let started = scene.run("hyperctl k8s -op vm-start -vm demo/web -json").expect(0).json();
    assert_eq!((&started["success"], &started["complete"]), (&true.into(), &false.into()), "{started}");
}

#[test]
fn hyperexport_exports() {
    let scene = Scene::new(false);
    assert!(scene.ok("hyperexport -vm demo/web -vm-info").contains("demo"));
    scene.ok("hyperexport -vm demo/web -format ova -dry-run");
    assert!(!scene.place.path().join("export-web").exists());
    // A directory of the VM's name, and an OVF in it, are what HyperSDK makes where nothing is said.
    scene.ok("hyperexport -vm demo/web -parallel 2 -verify -quiet -encrypt=false");
    assert!(scene.place.path().join("export-web/web/web.ovf").is_file(), "{:?}", listing(scene.place.path()));
    scene.ok(
        "hyperexport -vm demo/web -output out -format qcow2 -compress -compress-level 1 -bandwidth-limit 500",
    );
    scene.assert_disk("out/web/root.qcow2");
    scene.ok("hyperexport -vm demo/web -output plain -format qcow2");
    let len = |image: &str| fs::metadata(scene.place.path().join(image)).unwrap().len();
    assert!(len("out/web/root.qcow2") < len("plain/web/root.qcow2"), "{}", len("out/web/root.qcow2"));
}

#[test]
fn hyperexport_stops_or_snapshots_a_vm_that_runs() {
    let scene = Scene::new(true);
    scene.ok("hyperexport -vm demo/web -output a -format raw -snapshot -snapshot-quiesce=false");
    scene.assert_disk("a/web/root.raw");
    scene.ok("hyperexport -vm demo/web -output b -format raw -power-off");
    scene.assert_disk("b/web/root.raw");
}

#[test]
fn what_cannot_be_honoured_is_told_before_anything_is_asked() {
    let scene = Scene::new(false);
    let before = listing(scene.place.path());
    for (line, says, hint) in [
        (
            "hyperctl submit -vm demo/web -output out",
            "hyperctl submit is not in this version",
            "vmferry export --job",
        ),
        (
            "hyperctl k8s -op vm-create -vm new",
            "-op vm-create is not in this version",
            "vmferry template process",
        ),
        ("hyperctl k8s -op vm-start -vm demo/web -name x", "-name is not in this version", "hint: "),
        (
            "hyperctl k8s -op vm-start -vm demo/web -target-node n1",
            "--target-node",
            "Usage: vmferry vm start",
        ),
        ("hyperctl export -vm demo/web -output out -fromat raw", "no flag -fromat", "-format is one"),
        (
            "hyperexport -vm demo/web -output out -encrypt -passphrase hush",
            "-encrypt is not in this version",
            "--output -",
        ),
        ("hyperexport -vm demo/web -output out -history", "-history is not in this version", "manifest.json"),
        ("hyperexport -vm demo/web -output out -format vhdx", "format vhdx is not in this version", "qcow2"),
        ("hyperexport -vm demo/web -output out -sneaky", "no flag -sneaky", "hint: "),
        ("hyperexport -vm demo/web -output out -parallel 1000", "--connections", "1..=64"),
    ] {
        let refused = scene.run(line);
        assert_eq!(refused.code, Some(2), "{line}: {}", refused.stderr);
        assert!(refused.stderr.contains(says) && refused.stderr.contains(hint), "{line}: {}", refused.stderr);
        assert!(!refused.stderr.contains("hush") && refused.stdout.is_empty(), "{line}: {}", refused.stderr);
    }
    assert!(scene.cluster.sim.requests().is_empty(), "the cluster was asked");
    assert_eq!(listing(scene.place.path()), before);
    // By its own name it has none of these words.
    scene.cluster.refused("submit -file x", 2, &["unrecognized subcommand"]);
    scene.cluster.refused("export -vm demo/web --output out", 2, &["unexpected argument"]);
}
