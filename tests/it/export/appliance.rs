//! A whole VM as an appliance: what others say of it, how it is resumed, what is refused.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use vmferry_sim::{Config, Disk, LoggedRequest, Vm};

use super::cluster::{Cluster, MIB, end, web};
use crate::{
    ova::key_pair,
    support::{Finished, listing, material, read, run, scratch, vmferry, wait_for},
};

#[test]
fn a_vm_becomes_an_ova_that_others_take() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let place = scratch();
    let report = cluster
        .run(place.path(), &["demo/web", "--output", "web.ova", "-o", "json", "--verify", "--sums"])
        .expect(0)
        .json();
    let appliance = &report["appliance"];
    assert_eq!((&appliance["file"], &appliance["format"]), (&"web.ova".into(), &"ova".into()));
    assert_eq!(appliance["target_profile"], "vmware");
    let files: Vec<&str> =
        report["volumes"].as_array().unwrap().iter().map(|volume| volume["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["web-disk1.vmdk", "web-disk2.vmdk"]);
    let told = appliance["warnings"].as_array().unwrap();
    assert!(
        told.iter().any(|warning| warning["field"].as_str().unwrap().contains("containerDisk")),
        "{told:?}"
    );
    cluster.assert_clean();

    let names = said(place.path(), "tar", &["-tf", "web.ova"]);
    assert_eq!(names, "web.ovf\nweb-disk1.vmdk\nweb-disk2.vmdk\nweb.mf\n");
    said(place.path(), "tar", &["-xf", "web.ova"]);
    judge(place.path(), "web", &[root, data]);
    run(["verify", text(&place.path().join("web.ova"))]).expect(0);
}

#[test]
fn a_directory_holds_the_appliance_with_the_record_of_the_export() {
    let cluster = Cluster::start(Config::default());
    let (root, data) = web(&cluster);
    let place = scratch();
    let args = [
        "demo/web",
        "--output",
        "out",
        "-O",
        "ovf",
        "--target-profile",
        "proxmox",
        "--manifest-algorithm",
        "sha1",
    ];
    cluster.run(place.path(), &args).expect(0);
    let directory = place.path().join("out/web");
    let mut names = listing(&directory);
    names.retain(|name| !name.ends_with(".vmferry.jsonl"));
    assert_eq!(names, ["manifest.json", "vm.yaml", "web-disk1.vmdk", "web-disk2.vmdk", "web.mf", "web.ovf"]);
    judge(&directory, "web", &[root, data]);
    let record: serde_json::Value = serde_json::from_slice(&read(&directory.join("manifest.json"))).unwrap();
    assert_eq!(record["appliance"]["target_profile"], "proxmox");
    assert!(!record["appliance"]["warnings"].as_array().unwrap().is_empty());
    // And again from what is there.
    let rest = ["--vm", "vm.yaml", "--disk", "web-disk1.vmdk", "--disk", "web-disk2.vmdk", "again.ova"];
    let packed = vmferry(["pack"]).args(rest).current_dir(&directory).output().unwrap();
    assert!(packed.status.success(), "{packed:?}");
    run(["verify", text(&directory.join("again.ova"))]).expect(0);
}

#[test]
fn the_descriptor_says_what_the_images_are() {
    let cluster = Cluster::start(Config::default());
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(cluster.disk(7, 2 * MIB))));
    for (format, uri) in
        [("qcow2", "qcow-image-format"), ("raw", "wiki/Byte"), ("vmdk", "vmdk.html#streamOptimized")]
    {
        let place = scratch();
        let args = ["demo/web", "--output", "out", "-O", "ovf", "--disk-format", format];
        if format != "vmdk" {
            let refused = cluster.run(place.path(), &args).expect(2).stderr;
            assert!(refused.contains("the target vmware does not take web-disk1"), "{refused}");
            assert_eq!(listing(place.path()), [""; 0]);
        }
        cluster.run(place.path(), &[&args[..], &["--target-profile", "proxmox"]].concat()).expect(0);
        let descriptor = fs::read_to_string(place.path().join("out/web/web.ovf")).unwrap();
        assert!(
            descriptor.contains(uri) && descriptor.contains(&format!("web-disk1.{format}")),
            "{descriptor}"
        );
    }
}

#[test]
fn an_ova_that_was_killed_goes_on_to_the_same_bytes() {
    let cluster = Cluster::start(Config::default());
    let disks = [cluster.disk(5, 30 * MIB), cluster.disk(6, 17 * MIB + 512)];
    let vm = Vm::new("demo", "web")
        .disk("root", Disk::bytes(disks[0].clone()))
        .disk("data", Disk::bytes(disks[1].clone()));
    cluster.sim.add_vm(vm);
    let args = [
        "demo/web",
        "--output",
        "out",
        "-O",
        "ova",
        "--checkpoint-bytes",
        "1MiB",
        "--checkpoint-interval",
        "50ms",
    ];
    let undisturbed = scratch();
    cluster.run(undisturbed.path(), &args).expect(0);
    let whole = read(&undisturbed.path().join("out/web/web.ova"));

    for share in [5, 50, 90] {
        let place = scratch();
        let slow = [&args[..], &["--rate", "16MiB"]].concat();
        let before = cluster.sent();
        let mut child = cluster.spawn(place.path(), &slow);
        let enough = before + 47 * MIB as u64 * share / 100;
        wait_for("bytes", || cluster.sent() >= enough || child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        // Other parameters would make another descriptor than the one that is begun.
        let other = [&args[..], &["--nic-model", "e1000"]].concat();
        assert!(cluster.run(place.path(), &other).expect(5).stderr.contains("unfinished export"));
        let finished = cluster.run(place.path(), &[&args[..], &["-o", "json", "-v"]].concat()).expect(0);
        if share > 50 {
            assert!(finished.stderr.contains("taking up an interrupted run"), "{}", finished.stderr);
        }
        let report = finished.json();
        let warnings = |directory: &Path| {
            let record = read(&directory.join("out/web/manifest.json"));
            serde_json::from_slice::<serde_json::Value>(&record).unwrap()["appliance"].clone()
        };
        assert_eq!(warnings(place.path()), warnings(undisturbed.path()));
        assert!(read(&place.path().join("out/web/web.ova")) == whole, "killed at {share} %");
        assert_eq!(report["volumes"].as_array().unwrap().len(), 2);
        assert_eq!(
            listing(&place.path().join("out/web")).len(),
            4,
            "{:?}",
            listing(&place.path().join("out/web"))
        );
        cluster.assert_clean();
    }
}

/// Ends a run behind its appliance: the record of the export cannot be written.
fn all_but_the_record(cluster: &Cluster, place: &Path, args: &[&str]) {
    let record = place.join("out/web/manifest.json");
    let slow = [args, &["--rate", "16MiB"]].concat();
    let child = cluster.spawn(place, &slow);
    wait_for("the run to begin", || cluster.sent() > 0 && record.parent().is_some_and(Path::exists));
    fs::create_dir(&record).unwrap();
    let failed = end(child);
    assert!(matches!(failed.code, Some(1 | 5)), "{:?} {}", failed.code, failed.stderr);
    fs::remove_dir(&record).unwrap();
}

#[test]
fn an_appliance_that_is_complete_is_read_back_and_not_fetched_again() {
    for (format, file) in [("ova", "web.ova"), ("ovf", "web-disk1.vmdk")] {
        let cluster = Cluster::start(Config::default());
        let disk = cluster.disk(8, 12 * MIB);
        cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(disk.clone())));
        let args = ["demo/web", "--output", "out", "-O", format];
        let verify = [&args[..], &["--verify", "-o", "json"]].concat();
        let place = scratch();
        all_but_the_record(&cluster, place.path(), &args);
        let names = listing(&place.path().join("out/web"));
        let found = names.iter().find(|&name| name == file).unwrap_or_else(|| panic!("{names:?}"));
        let path = place.path().join("out/web").join(found);
        let whole = read(&path);

        // What is complete is proven where that is asked for, and what was changed is found.
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&path, changed).unwrap();
        let failed = cluster.run(place.path(), &verify).expect(3);
        assert!(failed.stderr.contains("--restart"), "{}", failed.stderr);
        assert!(!place.path().join("out/web/manifest.json").exists());
        fs::write(&path, &whole).unwrap();
        let sent = cluster.sent();
        let report = cluster.run(place.path(), &verify).expect(0).json();
        assert_eq!(report["volumes"][0]["verified"], true, "{report}");
        assert_eq!(cluster.sent(), sent, "nothing is fetched again");
        assert!(read(&path) == whole);
        cluster.assert_clean();

        // From the beginning, on the user's word.
        let place = scratch();
        all_but_the_record(&cluster, place.path(), &args);
        let path = place.path().join("out/web").join(found);
        let sent = cluster.sent();
        cluster.run(place.path(), &[&args[..], &["--restart"]].concat()).expect(0);
        assert!(cluster.sent() - sent >= disk.len() as u64, "all of it is fetched again");
        assert!(read(&path) == whole);
        let left = listing(&place.path().join("out/web"));
        assert!(left.iter().all(|name| !name.contains("partial") && !name.starts_with('.')), "{left:?}");
        cluster.assert_clean();
    }
}

#[test]
fn what_cannot_be_an_appliance_is_refused_before_anything_is_made() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    for (args, code, says) in [
        (&["--pvc", "web-root", "-n", "demo", "--output", "a.ova"][..], 2, "describes a VM"),
        (&["demo/web", "--output", "-", "-O", "ova"], 5, "pipe"),
        (&["demo/web", "--output", "x.ovf"], 2, "several files"),
        (&["demo/web", "--output", "a.ova", "--disk-format", "qcow2"], 2, "streamOptimized"),
        (&["demo/web", "--output", "a.ova", "--network-map", "nowhere=LAN"], 2, "nowhere"),
        (&["demo/web", "--output", "x.qcow2", "--target-profile", "proxmox"], 2, "for appliances"),
        (&["demo/web", "--output", "a.ova", "--target-profile", "abacus"], 2, "abacus"),
    ] {
        let finished = cluster.run(place.path(), args).expect(code);
        assert!(finished.stderr.contains(says), "{args:?}: {}", finished.stderr);
        cluster.assert_clean();
        assert_eq!(listing(place.path()), Vec::<String>::new(), "{args:?}");
    }
}

/// The descriptor in `out/web`, of an export of `demo/web` there.
#[track_caller]
fn described(cluster: &Cluster, place: &Path, more: &[&str]) -> String {
    let args = [&["demo/web", "--output", "out", "-O", "ovf"], more].concat();
    cluster.run(place, &args).expect(0);
    cluster.assert_clean();
    fs::read_to_string(place.join("out/web/web.ovf")).unwrap()
}

/// Expansion takes it out of the VM, and `linux` is all that it leaves there as a hint.
#[test]
fn the_preference_is_a_hint_at_the_operating_system_whatever_the_vm_is_exported_through() {
    for is_running in [false, true] {
        let cluster = Cluster::start(Config::default());
        let disk = Disk::bytes(cluster.disk(9, MIB));
        cluster
            .sim
            .add_vm(Vm::new("demo", "web").disk("root", disk).preference("fedora").running(is_running));
        let descriptor = described(&cluster, scratch().path(), &[]);
        assert!(descriptor.contains("<Description>Fedora (64-bit)</Description>"), "{descriptor}");
        assert!(descriptor.contains("fedora64Guest"), "{descriptor}");
    }
}

/// A VM that runs, and whose cards have no addresses in its description.
fn running() -> Cluster {
    let cluster = Cluster::start(Config::default());
    let disk = Disk::bytes(cluster.disk(10, MIB));
    let vm = Vm::new("demo", "web").disk("root", disk).preference("windows.11").running(true).agent(true);
    let spec = json!({"template": {"spec": {
        "domain": {"devices": {"interfaces": [
            {"name": "default", "masquerade": {}},
            {"name": "lan", "bridge": {}, "macAddress": "02:AA:00:00:00:07"},
            {"name": "wan", "bridge": {}},
        ]}},
        "networks": [
            {"name": "default", "pod": {}},
            {"name": "lan", "multus": {"networkName": "one/net"}},
            {"name": "wan", "multus": {"networkName": "two/net"}},
        ],
    }}});
    cluster.sim.add_vm(vm.patch(&spec));
    cluster
}

/// That of the simulator's guest, and the addresses that it has.
#[track_caller]
fn assert_as_seen(descriptor: &str) {
    assert!(descriptor.contains("<Description>Debian GNU/Linux 13 (64-bit)</Description>"), "{descriptor}");
    for mac in ["02:00:00:00:00:00", "02:aa:00:00:00:07", "02:00:00:00:00:02"] {
        assert!(descriptor.contains(&format!("<rasd:Address>{mac}</rasd:Address>")), "{mac}: {descriptor}");
    }
    for network in ["VM Network", "one/net", "two/net"] {
        assert!(descriptor.contains(&format!("<Network ovf:name=\"{network}\">")), "{network}: {descriptor}");
    }
    assert!(!descriptor.contains("states no MAC"), "{descriptor}");
}

#[test]
fn what_only_the_running_guest_tells_is_in_the_appliance() {
    for more in [&["--mac", "keep"][..], &["--stop", "--mac", "keep"]] {
        assert_as_seen(&described(&running(), scratch().path(), more));
    }
}

#[test]
fn what_was_seen_of_a_vm_before_it_was_stopped_is_remembered() {
    let (cluster, place) = (running(), scratch());
    let args = ["demo/web", "--output", "out", "-O", "ovf", "--stop"];
    let mut child = cluster.spawn(place.path(), &args);
    wait_for("the VM to be stopped", || {
        cluster.sim.objects("virtualmachines", None)[0]["spec"]["runStrategy"] == "Halted"
    });
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the instance to go", || cluster.sim.objects("virtualmachineinstances", None).is_empty());
    assert_as_seen(&described(&cluster, place.path(), &["--stop"]));
}

#[test]
fn a_stopped_vm_that_states_no_address_to_keep_is_told() {
    let cluster = Cluster::start(Config::default());
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(cluster.disk(11, MIB))));
    let says = "the VM states no MAC for \"default\"";
    let (place, other) = (scratch(), scratch());
    let args = ["demo/web", "--output", "a.ova", "--mac", "keep"];
    let told = cluster.run(place.path(), &args).expect(0).stderr;
    assert!(told.contains(says) && told.contains("while it runs"), "{told}");
    assert!(described(&cluster, place.path(), &args[3..]).contains("states no MAC for"));
    assert!(!described(&cluster, other.path(), &[]).contains("states no MAC for"), "nobody asked for it");
}

/// Some of it is to be done in the guest before the export.
#[test]
fn a_dry_run_tells_what_the_appliance_will_not_say() {
    let cluster = running();
    let place = scratch();
    let args = ["demo/web", "--output", "a.ova", "-o", "json"];
    let planned = cluster.run(place.path(), &[&args[..], &["--dry-run"]].concat()).expect(0).json();
    let printed = cluster.run(place.path(), &[&args[..3], &["--dry-run"]].concat()).expect(0).stderr;
    assert_eq!(listing(place.path()), [""; 0]);
    let told = &planned["warnings"];
    assert!(told.as_array().is_some_and(|told| !told.is_empty()), "{told}");
    assert!(printed.contains(told[0]["message"].as_str().unwrap()), "{printed}");
    let made = cluster.run(place.path(), &args).expect(0).json();
    assert_eq!(&made["appliance"]["warnings"], told);
}

#[test]
fn what_is_asked_for_in_vain_is_refused_before_anything_is_made() {
    let cluster = Cluster::start(Config::default());
    let vm = |name: &str, seed| Vm::new("demo", name).disk("root", Disk::bytes(cluster.disk(seed, MIB)));
    cluster.sim.add_vm(vm("off", 12));
    cluster.sim.add_vm(vm("on", 13).running(true));
    let place = scratch();
    for (args, says) in [
        (&["--os-type", "nonsense"][..], "unknown operating system \"nonsense\""),
        (&["--network-map", "nowhere=LAN"], "in no network \"nowhere\""),
        (&["--disk-bus", "nvme", "--target-profile", "proxmox"], "no disk controller nvme"),
        (&["--disk-format", "qcow2"], "streamOptimized"),
        (&["--mtime", "99999999999"], "too late for an archive"),
    ] {
        for source in [&["demo/off"][..], &["demo/on"], &["demo/on", "--stop"], &["demo/on", "--dry-run"]] {
            let args = [source, &["--output", "out", "-O", "ova"], args].concat();
            let failed = cluster.run(place.path(), &args).expect(2);
            assert!(failed.stderr.contains(says), "{args:?}: {}", failed.stderr);
            assert_eq!(listing(place.path()), [""; 0], "{args:?}");
        }
    }
    let changing = |request: &LoggedRequest| {
        let is_asking = request.path.contains("selfsubjectaccessreviews") || request.path.contains("expand");
        request.method != "GET" && !is_asking
    };
    let changes: Vec<String> =
        cluster.sim.requests().into_iter().filter(changing).map(|request| request.path).collect();
    assert_eq!(changes, [""; 0]);
}

/// Permission to overwrite an output is none to lose a key.
#[test]
fn what_an_export_reads_is_not_overwritten() {
    let cluster = Cluster::start(Config::default());
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(cluster.disk(14, MIB))));
    let keys = scratch();
    let (key, cert) = key_pair(keys.path(), "k", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for (option, name, form) in [
        ("--sign-key", "web-disk1.vmdk", "ovf"),
        ("--sign-key", "web.ova", "ova"),
        ("--sign-cert", "web.ova.partial", "ova"),
        ("--sign-cert", "web.cert", "ovf"),
        ("--sign-cert", "web.mf.partial", "ovf"),
        ("--sign-cert", "manifest.json", "ova"),
        ("--kubeconfig", "vm.yaml", "ova"),
        ("--kubeconfig", "root.raw", "raw"),
    ] {
        let place = scratch();
        let directory = place.path().join("out/web");
        fs::create_dir_all(&directory).unwrap();
        let input = directory.join(name);
        let from = match option {
            "--sign-key" => &key,
            "--sign-cert" => &cert,
            _ => &cluster.kubeconfig,
        };
        fs::copy(from, &input).unwrap();
        let mut args = vec!["demo/web", "--output", "out", "--force", "-O", form];
        match option {
            "--sign-key" => args.extend(["--sign-key", text(&input), "--sign-cert", text(&cert)]),
            "--sign-cert" => args.extend(["--sign-key", text(&key), "--sign-cert", text(&input)]),
            _ => {}
        }
        for restart in [&[][..], &["--restart"], &["--dry-run"]] {
            let args = [&args[..], restart].concat();
            let mut command = match option {
                "--kubeconfig" => vmferry(["export", "--kubeconfig", text(&input)]),
                _ => cluster.command(place.path(), &[]),
            };
            let finished: Finished = command.args(&args).current_dir(place.path()).output().unwrap().into();
            let said = finished.expect(5).stderr;
            assert!(said.contains("input itself"), "{option} {name}: {said}");
            assert!(read(&input) == read(from), "{option} {name}");
            assert_eq!(listing(&directory), [name], "{option} {name}");
        }
    }
    assert!(cluster.sim.requests().iter().all(|request| !request.path.contains("virtualmachineexports")));
}

/// What qemu-img, the hashes' own programs and the schema say of an appliance in a directory.
fn judge(directory: &Path, base: &str, disks: &[Vec<u8>]) {
    for (number, disk) in (1..).zip(disks) {
        let image = directory.join(format!("{base}-disk{number}.vmdk"));
        said(directory, "qemu-img", &["check", "-q", text(&image)]);
        let raw = directory.join("raw");
        fs::write(&raw, disk).unwrap();
        said(directory, "qemu-img", &["compare", "-q", "-f", "raw", "-F", "vmdk", text(&raw), text(&image)]);
        fs::remove_file(raw).unwrap();
    }
    let manifest = fs::read_to_string(directory.join(format!("{base}.mf"))).unwrap();
    for line in manifest.lines() {
        let (head, hash) = line.split_once(")= ").unwrap();
        let (algorithm, name) = head.split_once('(').unwrap();
        let sums = said(directory, &format!("{}sum", algorithm.to_lowercase()), &[name]);
        assert!(sums.starts_with(hash), "{line}: {sums}");
    }
    let descriptor: PathBuf = directory.join(format!("{base}.ovf"));
    if let Some(material) = material() {
        let schema = material.join("ovf-schema/dsp8023_1.1.1.xsd");
        said(directory, "xmllint", &["--noout", "--nonet", "--schema", text(&schema), text(&descriptor)]);
    }
}

#[track_caller]
fn said(directory: &Path, program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).current_dir(directory).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
