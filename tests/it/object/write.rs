//! Outputs that become objects: the same bytes as a file, whatever goes wrong on the way.

use std::{fs, path::Path, time::Duration};

use super::{
    proxy::{Fault, Proxy, tls},
    servers::{Bucket, KEY_ID, SECRET, Server},
};
use crate::support::{Finished, KINDS, listing, make_disk, read, run, scratch, vmferry};

/// Several parts of 8 MiB, and an odd end.
const LEN: usize = (37 << 20) + 512;

/// Runs vmferry with its state below `home`.
#[track_caller]
pub(super) fn run_in(bucket: &Bucket, home: &Path, args: &[impl AsRef<std::ffi::OsStr>]) -> Finished {
    bucket.vmferry(args).env("XDG_STATE_HOME", home.join("state")).output().expect("the binary runs").into()
}

/// What a run left on this machine.
pub(super) fn left_in(home: &Path) -> Vec<String> {
    let state = home.join("state/vmferry");
    if state.exists() { listing(&state) } else { Vec::new() }
}

#[track_caller]
fn fetched(bucket: &Bucket, key: &str, dir: &Path) -> Vec<u8> {
    let file = dir.join("fetched");
    bucket.get(key, &file);
    let bytes = read(&file);
    fs::remove_file(&file).unwrap();
    bytes
}

#[test]
fn every_format_has_the_same_bytes_in_every_store_as_in_a_file() {
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_disk(&source, 21, LEN);
    for server in Server::ALL {
        let Some(bucket) = Bucket::new(server) else { continue };
        for kind in &KINDS {
            let name = format!("disk.{}", kind.extension);
            let local = dir.path().join(kind.name);
            fs::create_dir_all(&local).unwrap();
            if !local.join(&name).exists() {
                run(kind.convert(&source, &local.join(&name))).expect(0);
            }
            let key = format!("vms/{}/{name}", kind.name);
            let url = bucket.url(&key);
            let mut args = kind.convert(&source, Path::new(&url));
            args.push("--verify".into());
            let report = run_in(&bucket, dir.path(), &args).expect(0).json();
            assert_eq!(
                (&report["output"], &report["verified"]),
                (&url.clone().into(), &true.into()),
                "{report}"
            );
            let image = fetched(&bucket, &key, dir.path());
            assert!(image == read(&local.join(&name)), "{server:?} {}: other bytes", kind.name);
            let manifest = format!("{name}.vmferry.jsonl");
            let stored = fetched(&bucket, &format!("{key}.vmferry.jsonl"), dir.path());
            assert!(stored == read(&local.join(manifest)), "{server:?} {}: another manifest", kind.name);
            let head = bucket.head(&key);
            assert!(head["metadata"]["vmferryrun"].is_string(), "{server:?}: {head}");
        }
        assert_eq!(bucket.list().len(), 2 * KINDS.len(), "{server:?}: images and manifests, no marker");
        assert!(left_in(dir.path()).is_empty(), "{server:?}: {:?}", left_in(dir.path()));
    }
}

#[test]
fn an_upload_over_tls_is_right_and_is_taken_up() {
    for server in Server::S3 {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 32, LEN);
        let mut parts = 0;
        let proxy = Proxy::start(&bucket.address, move |seen| {
            parts += usize::from(seen.target.contains("partNumber=") && seen.target.contains("disk.raw"));
            if parts > 2 { Fault::error(403, "AccessDenied") } else { Fault::None }
        });
        let journal = dir.path().join("journal");
        let convert = |upstream: &str| {
            let (address, ca_file) = tls(upstream, dir.path());
            let endpoint = format!("https://{address}");
            let mut command = vmferry(["convert", "-q"]);
            command.env("AWS_ACCESS_KEY_ID", KEY_ID).env("AWS_SECRET_ACCESS_KEY", SECRET);
            command.env("HOME", "/nonexistent");
            command.args([source.to_str().unwrap(), &bucket.url("disk.raw"), "--verify"]);
            command.args(["--store-endpoint", &endpoint, "--store-ca-file", ca_file.to_str().unwrap()]);
            command.args(["--journal", journal.to_str().unwrap()]);
            Finished::from(command.output().unwrap())
        };
        let failed = convert(&proxy.address);
        assert!(failed.stderr.contains("is kept"), "{server:?}: {}", failed.stderr);
        convert(&bucket.address).expect(0);
        assert!(fetched(&bucket, "disk.raw", dir.path()) == disk, "{server:?}");
        assert_eq!(bucket.list(), ["disk.raw", "disk.raw.vmferry.jsonl"], "{server:?}");
    }
}

#[test]
fn an_appliance_has_the_same_bytes_in_a_store_as_in_a_file() {
    let dir = scratch();
    let (first, second) = (dir.path().join("root.raw"), dir.path().join("data.raw"));
    make_disk(&first, 22, 21 << 20);
    make_disk(&second, 23, 9 << 20);
    let vm = dir.path().join("vm.yaml");
    fs::write(&vm, VM).unwrap();
    let local = dir.path().join("vm.ova");
    let pack = |output: &str| {
        let mut args = ["pack", "-q", "-o", "json", "--verify", "--vm"].map(str::to_owned).to_vec();
        args.extend([&vm, &first, &second].map(|path| path.to_str().unwrap().to_owned()));
        args.insert(7, "--disk".into());
        args.insert(9, "--disk".into());
        args.push(output.to_owned());
        args
    };
    run(pack(local.to_str().unwrap())).expect(0);
    for server in Server::ALL {
        let Some(bucket) = Bucket::new(server) else { continue };
        let report = run_in(&bucket, dir.path(), &pack(&bucket.url("a/vm.ova"))).expect(0).json();
        assert_eq!(report["verified"], true, "{report}");
        assert!(fetched(&bucket, "a/vm.ova", dir.path()) == read(&local), "{server:?}: other bytes");
        let manifest = fetched(&bucket, "a/vm.ova.vmferry.jsonl", dir.path());
        assert!(manifest == read(&dir.path().join("vm.ova.vmferry.jsonl")), "{server:?}: another manifest");
        assert_eq!(bucket.list(), ["a/vm.ova", "a/vm.ova.vmferry.jsonl"], "{server:?}");
    }
}

#[test]
fn a_dry_run_tells_what_would_be_packed_and_makes_nothing() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let (first, second) = (dir.path().join("root.raw"), dir.path().join("data.raw"));
    make_disk(&first, 22, 2 << 20);
    fs::File::create(&second).unwrap().set_len(1 << 40).unwrap();
    let vm = dir.path().join("vm.yaml");
    fs::write(&vm, VM).unwrap();
    let before = listing(dir.path());
    let [first, second, vm] = [&first, &second, &vm].map(|path| path.to_str().unwrap());
    let base = ["pack", "--vm", vm, "--disk", first, "--disk", second, "--dry-run"];
    let url = bucket.url("a/vm.ova");
    let told = run_in(&bucket, dir.path(), &[&base[..], &["-o", "json", &url]].concat()).expect(0).json();
    assert_eq!(told["output"], url);
    assert_eq!(told["descriptor"], "vm.ovf");
    assert_eq!(told["disks"][1]["virtual_size"], 1_u64 << 40);
    assert_eq!(told["disks"][0]["source"], first);
    let upload = &told["upload"];
    assert_eq!(
        (&upload["first_part"], &upload["memory"]),
        (&(8 << 20).into(), &(184 << 20).into()),
        "{told}"
    );
    assert!(upload["longest_part"].as_u64() > upload["first_part"].as_u64(), "{told}");
    assert!(
        upload["longest_output"].as_u64() > Some(1 << 40)
            && told["longest_output"] == upload["longest_output"]
    );
    let local = dir.path().join("vm.ova");
    let text = run([&base[..], &[local.to_str().unwrap()]].concat()).expect(0);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("Would pack") && text.contains("1 TiB") && !text.contains("Would upload"),
        "{text}"
    );
    assert!(bucket.list().is_empty() && left_in(dir.path()).is_empty());
    assert_eq!(listing(dir.path()), before);
}

#[test]
fn outputs_at_the_sizes_where_things_break() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let part = 8 << 20;
    for len in [0, 1, 511, 513, part - 1, part, part + 1, 2 * part] {
        let source = dir.path().join(format!("{len}.raw"));
        let disk = make_disk(&source, 24, len);
        let key = format!("{len}.raw");
        let args = ["convert", "-q", source.to_str().unwrap(), &bucket.url(&key)];
        run_in(&bucket, dir.path(), &args).expect(0);
        assert!(fetched(&bucket, &key, dir.path()) == disk, "{len}");
    }
}

#[test]
fn parts_of_a_stated_size_are_equal_and_others_are_refused() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let source = dir.path().join("source.raw");
    let disk = make_disk(&source, 25, LEN);
    let proxy = Proxy::start(&bucket.address, |_| Fault::None);
    let through = bucket.through(&proxy.address);
    let url = bucket.url("disk.raw");
    let with = |size: &str| {
        run_in(&through, dir.path(), &["convert", "-q", "--part-size", size, source.to_str().unwrap(), &url])
    };
    with("4MiB").expect(2);
    with("5MiB").expect(0);
    assert!(fetched(&bucket, "disk.raw", dir.path()) == disk);
    let parts: Vec<usize> = proxy
        .seen()
        .iter()
        .filter(|seen| seen.method == "PUT" && seen.target.contains("partNumber="))
        .map(|seen| seen.body_len)
        .collect();
    let full = parts.iter().filter(|&&len| len == 5 << 20).count();
    assert_eq!((parts.len(), full), (8, 7), "{parts:?}");
}

#[test]
fn what_exists_is_overwritten_only_on_the_users_word() {
    let Some(bucket) = Bucket::new(Server::Moto) else { return };
    let dir = scratch();
    let (one, two) = (dir.path().join("one.raw"), dir.path().join("two.raw"));
    let first = make_disk(&one, 26, 3 << 20);
    let second = make_disk(&two, 27, 2 << 20);
    let url = bucket.url("disk.raw");
    let convert = |source: &Path, more: &[&str]| {
        let mut args = vec!["convert", "-q", source.to_str().unwrap(), &url];
        args.extend(more);
        run_in(&bucket, dir.path(), &args)
    };
    convert(&one, &[]).expect(0);
    let refused = convert(&two, &[]).expect(5);
    assert!(refused.stderr.contains("disk.raw exists"), "{}", refused.stderr);
    assert!(left_in(dir.path()).is_empty());
    assert!(fetched(&bucket, "disk.raw", dir.path()) == first);
    convert(&two, &["--force", "--no-manifest"]).expect(0);
    assert!(fetched(&bucket, "disk.raw", dir.path()) == second);
    assert_eq!(bucket.list(), ["disk.raw"], "the manifest of the old one would not be true");
}

#[test]
fn what_breaks_between_here_and_the_store_is_tried_again() {
    for server in Server::S3 {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 28, LEN);
        let mut turn = 0;
        let proxy = Proxy::start(&bucket.address, move |seen| {
            if !seen.target.contains("partNumber=") {
                return Fault::None;
            }
            turn += 1;
            match turn {
                1 => Fault::error(503, "SlowDown"),
                2 => Fault::Reset,
                3 => Fault::LoseAnswer,
                4 => Fault::CorruptRequest,
                5 => Fault::error(500, "InternalError"),
                6 => Fault::error(429, "TooManyRequests"),
                _ => Fault::None,
            }
        });
        let url = bucket.url("disk.raw");
        let args = ["convert", "-q", "--verify", source.to_str().unwrap(), &url];
        run_in(&bucket.through(&proxy.address), dir.path(), &args).expect(0);
        assert!(fetched(&bucket, "disk.raw", dir.path()) == disk, "{server:?}");
    }
}

#[test]
fn a_part_that_always_arrives_damaged_is_never_completed_and_the_upload_is_kept() {
    for server in Server::S3 {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 29, LEN);
        let proxy = Proxy::start(&bucket.address, |seen| match seen.target.contains("partNumber=3") {
            true => Fault::CorruptRequest,
            false => Fault::None,
        });
        let url = bucket.url("disk.raw");
        let args = ["convert", "-q", source.to_str().unwrap(), &url, "--retry-for", "2s"];
        let failed = run_in(&bucket.through(&proxy.address), dir.path(), &args);
        assert_ne!(failed.code, Some(0));
        assert!(failed.stderr.contains("part 3") && failed.stderr.contains("is kept"), "{}", failed.stderr);
        assert!(bucket.head("disk.raw").is_null());
        assert!(bucket.list().iter().all(|key| key.starts_with(".vmferry/")), "{:?}", bucket.list());
        // The same command through another connection; the journal is found by the endpoint.
        let journal = dir.path().join("state/vmferry").join(&left_in(dir.path())[0]);
        let args = ["convert", "-q", source.to_str().unwrap(), &url, "--journal", journal.to_str().unwrap()];
        run_in(&bucket, dir.path(), &args).expect(0);
        assert!(fetched(&bucket, "disk.raw", dir.path()) == disk);
        assert!(left_in(dir.path()).is_empty(), "{:?}", left_in(dir.path()));
        assert_eq!(bucket.list(), ["disk.raw", "disk.raw.vmferry.jsonl"]);
    }
}

#[test]
fn a_lost_answer_to_the_last_request_is_no_obstacle() {
    for server in Server::S3 {
        let Some(bucket) = Bucket::new(server) else { continue };
        let dir = scratch();
        let source = dir.path().join("source.raw");
        let disk = make_disk(&source, 30, 9 << 20);
        let mut lost = false;
        let proxy = Proxy::start(&bucket.address, move |seen| {
            let completes = seen.method == "POST" && seen.target.contains("uploadId=");
            if completes && !std::mem::replace(&mut lost, true) { Fault::LoseAnswer } else { Fault::None }
        });
        let url = bucket.url("disk.raw");
        let args = ["convert", "-q", source.to_str().unwrap(), &url];
        run_in(&bucket.through(&proxy.address), dir.path(), &args).expect(0);
        assert!(fetched(&bucket, "disk.raw", dir.path()) == disk, "{server:?}");
        assert_eq!(bucket.list(), ["disk.raw", "disk.raw.vmferry.jsonl"], "{server:?}");
    }
}

#[test]
fn no_file_is_made_here_but_the_journal_and_the_pins() {
    let Some(bucket) = Bucket::new(Server::S3s) else { return };
    let dir = scratch();
    let source = dir.path().join("source.raw");
    make_disk(&source, 31, LEN);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    // Slow, so that there is something to see.
    let proxy = Proxy::start(&bucket.address, |seen| {
        if seen.target.contains("partNumber=") {
            std::thread::park_timeout(Duration::from_millis(150));
        }
        Fault::None
    });
    let url = bucket.url("disk.qcow2");
    let args = [
        "convert",
        "-q",
        source.to_str().unwrap(),
        &url,
        "--checkpoint-interval",
        "20ms",
        "--checkpoint-bytes",
        "1MiB",
    ];
    let mut child = bucket
        .through(&proxy.address)
        .vmferry(args)
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .env("TMPDIR", &empty)
        .current_dir(&empty)
        .spawn()
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while child.try_wait().unwrap().is_none() {
        seen.extend(left_in(dir.path()));
        assert!(listing(&empty).is_empty());
        std::thread::park_timeout(Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success());
    let ends: Vec<&str> = seen.iter().map(|name| &name[32..]).collect();
    assert_eq!(ends, [".journal", ".journal.pins"]);
    assert!(left_in(dir.path()).is_empty());
}

/// A VM of two disks.
pub(super) const VM: &str = "\
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: db, namespace: shop}
spec:
  runStrategy: Halted
  template:
    spec:
      domain:
        cpu: {cores: 2}
        memory: {guest: 2Gi}
        devices:
          disks:
          - {name: root, disk: {bus: virtio}}
          - {name: data, disk: {bus: virtio}}
      volumes:
      - {name: root, persistentVolumeClaim: {claimName: root}}
      - {name: data, persistentVolumeClaim: {claimName: data}}
";
