//! `vmferry pack --vm` and `--ovf`: a VM's description and disks, judged as one file by those who take such files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    ova::{four_disks, have_judges, inside},
    support::{have, material, missing, run, scratch, tool},
};

const VM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/appliance/db.yaml");

/// A description, disks in their order, options.
fn pack(what: [&str; 2], disks: &[PathBuf], more: &[&str], output: &Path) -> Value {
    let mut args: Vec<&str> = vec!["pack", "-o", "json", what[0], what[1]];
    for disk in disks {
        args.extend(["--disk", text(disk)]);
    }
    args.extend(more);
    args.push(text(output));
    run(args).expect(0).json()
}

#[test]
fn a_vm_with_four_disks_is_taken_by_all_judges_for_every_target() {
    if !have_judges() {
        return;
    }
    let place = scratch();
    let disks = four_disks(place.path(), 31);
    for profile in ["vmware", "virtualbox", "proxmox", "generic"] {
        let archive = place.path().join(format!("{profile}.ova"));
        let more = ["--target-profile", profile, "--verify"];
        let report = pack(["--vm", VM], &disks, &more, &archive);
        let warnings = report["warnings"].as_array().unwrap();
        assert!(warnings.iter().any(|told| told.as_str().unwrap().contains("cloudInit")), "{warnings:?}");
        judge(&archive, &report, &disks, false);

        // The same VM out of the appliance, for another target, its manifest as COT wants it.
        let unpacked = scratch();
        tool("tar", ["-xf", text(&archive), "-C", text(unpacked.path())]);
        let images: Vec<PathBuf> =
            (1..=4).map(|number| unpacked.path().join(format!("{profile}-disk{number}.vmdk"))).collect();
        let again = place.path().join(format!("from-{profile}.ova"));
        let descriptor = unpacked.path().join(format!("{profile}.ovf"));
        let report = pack(["--ovf", text(&descriptor)], &images, &["--manifest-algorithm", "sha1"], &again);
        judge(&again, &report, &disks, true);
    }
}

#[test]
fn an_image_that_is_called_like_a_disk_holds_that_disk() {
    let place = scratch();
    let disks = ["backup.raw", "root.raw"].map(|name| place.path().join(name));
    for (disk, len) in disks.iter().zip([3 << 20, 5 << 20]) {
        fs::write(disk, vec![7; len]).unwrap();
    }
    let archive = place.path().join("db.ova");
    let report = pack(["--vm", VM], &disks, &[], &archive);
    let warnings = report["warnings"].as_array().unwrap();
    assert!(
        warnings.iter().any(|told| told.as_str().unwrap().contains("\"data\" is not in the appliance")),
        "{warnings:?}"
    );
    let inspected = run(["inspect", "-o", "json", text(&archive)]).expect(0).json();
    let items = inspected["items"].as_array().unwrap();
    let places: Vec<&str> = items
        .iter()
        .filter(|item| item["kind"] == "disk")
        .map(|item| item["resources"][0].as_str().unwrap())
        .collect();
    // The one that the VM starts from comes first: the second file.
    assert_eq!(places, ["ovf:/disk/vmdisk2", "ovf:/disk/vmdisk1"], "{inspected}");
    let capacity = |index: usize| inspected["disks"][index]["capacity"].as_u64();
    assert_eq!((capacity(0), capacity(1)), (Some(3 << 20), Some(5 << 20)));
}

#[test]
fn what_does_not_describe_a_vm_is_refused() {
    let place = scratch();
    let (disk, output) = (place.path().join("a.raw"), place.path().join("x.ova"));
    fs::write(&disk, vec![1; 4096]).unwrap();
    let write = |name: &str, content: &str| {
        let path = place.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let bomb = write("bomb.ovf", "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><Envelope>&a;</Envelope>");
    let pod = write("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n");
    let typed = write("vm.yaml", "{");
    for (option, path) in
        [("--ovf", &bomb), ("--ovf", &disk), ("--vm", &pod), ("--vm", &typed), ("--vm", &disk)]
    {
        let finished = run(["pack", option, text(path), "--disk", text(&disk), text(&output)]);
        assert!(matches!(finished.code, Some(1 | 2 | 5)), "{option} {path:?}: {}", finished.stderr);
        assert!(!output.exists() && !finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
    let finished =
        run(["pack", "--descriptor", text(&bomb), "--mac", "new", "--disk", text(&disk), text(&output)]);
    assert!(finished.expect(2).stderr.contains("--ovf describes its VM anew"));
}

/// What GNU tar, the schema, qemu-img, the hashes' own programs and COT say.
#[track_caller]
fn judge(archive: &Path, report: &Value, disks: &[PathBuf], is_sha1: bool) {
    let listing = tool("tar", ["-tf", text(archive)]);
    let base = archive.file_stem().unwrap().to_str().unwrap();
    let names: Vec<String> = std::iter::once(format!("{base}.ovf"))
        .chain((1..=disks.len()).map(|number| format!("{base}-disk{number}.vmdk")))
        .chain([format!("{base}.mf")])
        .collect();
    assert_eq!(listing.lines().collect::<Vec<_>>(), names);
    for (disk, told) in disks.iter().zip(report["disks"].as_array().unwrap()) {
        let image = inside(archive, told["offset"].as_u64().unwrap(), told["file_size"].as_u64().unwrap());
        tool("qemu-img", ["check", "-q", &image]);
        let raw = format!(
            "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"file\",\"filename\":\"{}\"}}}}",
            text(disk)
        );
        tool("qemu-img", ["compare", "-q", &raw, &image]);
    }
    let unpacked = scratch();
    tool("tar", ["-xf", text(archive), "-C", text(unpacked.path())]);
    let program = if is_sha1 { "sha1sum" } else { "sha256sum" };
    // OpenSSL's form of such lines has no space before the name, which these programs know as well.
    let check = format!("cd '{}' && {program} --strict -c '{base}.mf'", text(unpacked.path()));
    assert_eq!(tool("sh", ["-c", &check]).matches(": OK").count(), disks.len() + 1);
    if let (true, Some(material)) = (have("xmllint"), material()) {
        let schema = material.join("ovf-schema/dsp8023_1.1.1.xsd");
        let descriptor = unpacked.path().join(format!("{base}.ovf"));
        tool("xmllint", ["--nonet", "--noout", "--schema", text(&schema), text(&descriptor)]);
    }
    run(["verify", text(archive)]).expect(0);
    match crate::appliance::cot() {
        Some(cot) => cot_takes(&cot, archive, is_sha1),
        None => missing("COT"),
    }
}

#[track_caller]
fn cot_takes(cot: &Path, archive: &Path, is_sha1: bool) {
    let output = Command::new(cot).args(["info", "-v", text(archive)]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    // COT expects SHA-1 of such envelopes, and takes another hash for damage.
    if is_sha1 {
        assert!(!err.to_lowercase().contains("error"), "{err}");
    }
    let words: Vec<&str> = out.split_whitespace().collect();
    for wanted in [&["4", "8", "GiB", "2"][..], &["Network", "adapter", "2"]] {
        assert!(words.windows(wanted.len()).any(|words| words == wanted), "{wanted:?} in\n{out}");
    }
    assert_eq!(out.matches("harddisk @").count(), 4, "{out}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
