//! What the documents promise: a manifest can be checked without us.

use std::{fs, os::unix::fs::FileExt as _, path::Path, process::Command};

use crate::support::{have, make_disk, run, scratch};

/// `docs/tree_digest.py`, which shares no code with the engine: its exit code and what it says.
fn tree_digest(arguments: &[&Path]) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tree_digest.py");
    let output = Command::new("python3").arg(script).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_program_that_is_not_ours_checks_a_manifest() {
    if !have("python3") {
        return;
    }
    let directory = scratch();
    let path = |name: &str| directory.path().join(name);
    for (seed, size) in [(1, 0), (2, 1), (3, 4 << 20), (4, (13 << 20) + 700)] {
        let (disk, image) = (path("disk.img"), path(&format!("{size}.qcow2")));
        make_disk(&disk, seed, size);
        let (source, output) = (disk.to_str().unwrap(), image.to_str().unwrap());
        let report = run(["convert", "-o", "json", source, output]).expect(0).json();
        let tree = report["digest"]["tree"].as_str().unwrap().to_owned();
        let (_, said) = tree_digest(&[&disk]);
        assert!(said.starts_with(&format!("tree-sha256:{tree} ")), "{size}: {said}");

        let manifest = path(&format!("{size}.qcow2.vmferry.jsonl"));
        let check = || tree_digest(&[Path::new("--manifest"), &manifest, &disk]);
        assert_eq!(check().0, Some(0), "{size}");
        let file = fs::OpenOptions::new().read(true).write(true).open(&disk).unwrap();
        let mut byte = [0];
        if size > 0 {
            let last = u64::try_from(size).unwrap() - 1;
            file.read_exact_at(&mut byte, last).unwrap();
            file.write_all_at(&[byte[0] ^ 1], last).unwrap();
            assert_eq!(check().0, Some(1), "{size}: a changed byte");
            file.write_all_at(&byte, last).unwrap();
        }
        file.set_len(u64::try_from(size).unwrap() + 5000).unwrap();
        assert_eq!(check().0, Some(0), "{size}: zeros behind the end");
        file.write_all_at(&[1], u64::try_from(size).unwrap() + 4000).unwrap();
        assert_eq!(check().0, Some(1), "{size}: data behind the end");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace(&tree[..8], "00000000")).unwrap();
        assert_eq!(check().0, Some(2), "{size}: a manifest that contradicts itself");
    }
}

#[test]
fn a_program_that_is_not_ours_checks_every_disk_of_an_appliance() {
    if !have("python3") {
        return;
    }
    let directory = scratch();
    let disks = crate::ova::four_disks(directory.path(), 70);
    let output = directory.path().join("vm.ova");
    run(crate::ova::pack(&disks, &output, &[])).expect(0);
    let manifest = directory.path().join("vm.ova.vmferry.jsonl");
    let check = |number: usize, disk: &Path| {
        let name = format!("vm-disk{number}.vmdk");
        tree_digest(&[Path::new("--manifest"), &manifest, Path::new("--disk"), Path::new(&name), disk]).0
    };
    for (number, disk) in (1..).zip(&disks) {
        assert_eq!(check(number, disk), Some(0), "{number}");
    }
    assert_eq!(check(1, &disks[1]), Some(1), "another disk");
    assert_eq!(check(5, &disks[1]), Some(2), "a disk that is not there");
    assert_eq!(tree_digest(&[Path::new("--manifest"), &manifest, &disks[0]]).0, Some(2), "which of them?");
}
