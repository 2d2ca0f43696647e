use std::{fs, path::Path};

use vmferry_formats::{
    ovf::format_uri::{QCOW2, RAW, VHD, VMDK_SPARSE, VMDK_STREAM},
    testkit::{tar, tar_checksum},
};

use super::*;
use crate::source::sample::{CAPACITY, descriptor, item, stream};

/// A file of an appliance.
type File = (String, Vec<u8>);

/// A good appliance: descriptor, manifest, two disks.
struct Good {
    files: Vec<String>,
    disks: Vec<String>,
    items: String,
    a: Vec<u8>,
    b: Vec<u8>,
}

impl Good {
    fn new() -> Self {
        let (a, b) = (stream(1), stream(2));
        let files = vec![
            format!("ovf:id='f1' ovf:href='a.vmdk' ovf:size='{}'", a.len()),
            format!("ovf:id='f2' ovf:href='b.vmdk' ovf:size='{}'", b.len()),
        ];
        let disks = vec![
            format!("ovf:diskId='d1' ovf:fileRef='f1' ovf:capacity='{CAPACITY}' ovf:format='{VMDK_STREAM}'"),
            format!(
                "ovf:diskId='d2' ovf:fileRef='f2' ovf:capacity='1' \
                 ovf:capacityAllocationUnits='byte * 2^20' ovf:format='{VMDK_STREAM}'"
            ),
        ];
        let items = item(1, 6, &[])
            + &item(2, 17, &["HostResource=ovf:/disk/d1", "Parent=1"])
            + &item(3, 17, &["HostResource=/disk/d2", "Parent=1"])
            + &item(4, 10, &["Connection=n"]);
        Self { files, disks, items, a, b }
    }

    fn descriptor(&self) -> Vec<u8> {
        let text = |list: &[String]| list.iter().map(String::clone).collect::<Vec<_>>();
        let (files, disks) = (text(&self.files), text(&self.disks));
        let [files, disks] = [&files, &disks].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
        descriptor(&files, &disks, &self.items).into_bytes()
    }

    fn all(&self) -> Vec<File> {
        let mut all = vec![
            ("x.ovf".into(), self.descriptor()),
            ("x.mf".into(), Vec::new()),
            ("a.vmdk".into(), self.a.clone()),
            ("b.vmdk".into(), self.b.clone()),
        ];
        all[1].1 = manifest_of(&all);
        all
    }
}

/// A manifest with a different function for each file.
fn manifest_of(files: &[File]) -> Vec<u8> {
    let algorithms = [
        ("SHA1", &ring::digest::SHA1_FOR_LEGACY_USE_ONLY),
        ("SHA256", &ring::digest::SHA256),
        ("SHA512", &ring::digest::SHA512),
    ];
    let lines = files.iter().filter(|(name, _)| name != "x.mf").zip(algorithms.iter().cycle());
    lines
        .map(|((name, bytes), (label, algorithm))| {
            let digest = ring::digest::digest(algorithm, bytes);
            let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{label}({name})= {hex}\n")
        })
        .collect::<String>()
        .into_bytes()
}

fn pack(files: &[File]) -> Vec<u8> {
    tar(&files.iter().map(|(name, bytes)| (name.as_str(), b'0', &bytes[..])).collect::<Vec<_>>())
}

async fn verify(path: &Path) -> Result<ApplianceReport> {
    verify_appliance(path.to_str().unwrap(), &ReadOptions::default()).await
}

async fn verify_archive(bytes: &[u8]) -> Result<ApplianceReport> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.ova");
    fs::write(&path, bytes).unwrap();
    verify(&path).await
}

fn failed(report: &ApplianceReport) -> Vec<(CheckKind, String)> {
    let failed = report.checks.iter().filter(|check| check.outcome == CheckOutcome::Failed);
    failed.map(|check| (check.kind, check.detail.clone())).collect()
}

fn count(report: &ApplianceReport, kind: CheckKind, outcome: CheckOutcome) -> usize {
    report.checks.iter().filter(|check| (check.kind, check.outcome) == (kind, outcome)).count()
}

#[tokio::test]
async fn a_good_appliance_passes_packed_or_not() {
    let good = Good::new();
    let report = verify_archive(&pack(&good.all())).await.unwrap();
    assert!(report.is_good(), "{report:?}");
    assert!(report.checks.iter().all(|check| check.outcome == CheckOutcome::Passed), "{report:?}");
    assert_eq!(count(&report, CheckKind::Manifest, CheckOutcome::Passed), 3);
    assert_eq!(count(&report, CheckKind::Size, CheckOutcome::Passed), 2);
    assert_eq!(count(&report, CheckKind::Disk, CheckOutcome::Passed), 2);
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in good.all() {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let report = verify(&directory.path().join("x.ovf")).await.unwrap();
    assert!(report.checks.iter().all(|check| check.outcome == CheckOutcome::Passed), "{report:?}");
    assert_eq!(count(&report, CheckKind::Manifest, CheckOutcome::Passed), 3);
    assert_eq!(count(&report, CheckKind::Order, CheckOutcome::Passed), 0);
    // Manifest last, as VirtualBox has it.
    let mut files = good.all();
    let manifest = files.remove(1);
    files.push(manifest);
    assert!(verify_archive(&pack(&files)).await.unwrap().is_good());
}

#[tokio::test]
async fn each_contradiction_is_found() {
    use CheckKind::{Archive, Descriptor, Disk, Manifest, Order, Size};
    type Change = fn(&mut Good);
    let changes: [(&str, Change, CheckKind, &str); 12] = [
        ("a size", |good| good.files[0] = good.files[0].replace("ovf:size='", "ovf:size='1"), Size, "says 1"),
        ("a file", |good| good.files[0] = good.files[0].replace("a.vmdk", "c.vmdk"), Size, "not there"),
        ("a file of a disk", |good| good.files[0] = good.files[0].replace("f1", "f7"), Descriptor, "\"f1\""),
        ("a path", |good| good.files[0] = good.files[0].replace("a.vmdk", "../a.vmdk"), Descriptor, "bare"),
        (
            "a capacity",
            |good| good.disks[0] = good.disks[0].replace("1048576", "1048577"),
            Disk,
            "says 1048577",
        ),
        (
            "a disk of an item",
            |good| good.items = good.items.replace("disk/d1", "disk/d9"),
            Descriptor,
            "disk/d9",
        ),
        (
            "a resource",
            |good| good.items = good.items.replace("ovf:/disk/d1", "http://x"),
            Descriptor,
            "http",
        ),
        ("a controller", |good| good.items = good.items.replace("Parent>1", "Parent>9"), Descriptor, "\"9\""),
        (
            "a network",
            |good| good.items = good.items.replace("Connection>n", "Connection>m"),
            Descriptor,
            "\"m\"",
        ),
        (
            "an id",
            |good| good.items = good.items.replace("InstanceID>3", "InstanceID>2"),
            Descriptor,
            "same InstanceID",
        ),
        ("a cut disk", |good| good.a.truncate(4096), Disk, "a.vmdk"),
        ("no disk at all", |good| good.a = vec![7; 4096], Disk, "no magic"),
    ];
    for (what, change, kind, word) in changes {
        let mut good = Good::new();
        change(&mut good);
        let report = verify_archive(&pack(&good.all())).await.unwrap();
        let failed = failed(&report);
        assert!(
            failed.iter().any(|(found, text)| *found == kind && text.contains(word)),
            "{what}: {failed:?}"
        );
    }
    type Move = fn(&mut Vec<File>);
    let moves: [(&str, Move, CheckKind, &str); 9] = [
        ("descriptor last", |files| files.rotate_left(1), Order, "comes first"),
        ("disks the other way", |files| files.swap(2, 3), Order, "in front of"),
        ("manifest between", |files| files.swap(1, 2), Order, "neither"),
        (
            "certificate apart",
            |files| files.push(("x.cert".into(), b"SHA256(x.mf)= 00\n".to_vec())),
            Order,
            "certificate",
        ),
        ("a file that is not there", |files| files.truncate(3), Manifest, "not there"),
        ("a name", |files| files[1].0 = "y.mf".into(), Archive, "extension"),
        ("a manifest that is none", |files| files[1].1 = b"hello".to_vec(), Manifest, "line 1"),
        ("a hash", |files| files[1].1 = manifest_of(&[("b.vmdk".into(), Vec::new())]), Manifest, "SHA1 is"),
        (
            "a certificate without a manifest",
            |files| files[1] = ("x.cert".into(), b"SHA256(x.mf)= 00\n".to_vec()),
            Order,
            "no manifest",
        ),
    ];
    for (what, change, kind, word) in moves {
        let mut files = Good::new().all();
        change(&mut files);
        let report = verify_archive(&pack(&files)).await.unwrap();
        let failed = failed(&report);
        assert!(
            failed.iter().any(|(found, text)| *found == kind && text.contains(word)),
            "{what}: {failed:?}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_told_says_so_and_what_is_unusual_is_a_warning() {
    let mut good = Good::new();
    good.files[1] = "ovf:id='f2' ovf:href='b.vmdk' ovf:compression='gzip'".into();
    good.disks.push("ovf:diskId='d3' ovf:capacity='512'".into());
    let mut files = good.all();
    let md5 = |name: &str| format!("MD5({name})= {}\n", "00".repeat(16));
    files[1].1 = ["x.ovf", "a.vmdk", "b.vmdk"].map(md5).concat().into_bytes();
    files.push(("left over.txt".into(), b"x".to_vec()));
    let mut bytes = pack(&files);
    let end = bytes.len() - 1024;
    // Behind the byte of the last entry.
    bytes[end - 3] = 1;
    let report = verify_archive(&bytes).await.unwrap();
    assert!(report.is_good(), "{report:?}");
    // MD5, and a file that nobody refers to; a disk in gzip and an empty one; no size.
    assert_eq!(count(&report, CheckKind::Manifest, CheckOutcome::NotChecked), 4, "{report:?}");
    assert_eq!(count(&report, CheckKind::Disk, CheckOutcome::NotChecked), 2);
    assert_eq!(count(&report, CheckKind::Size, CheckOutcome::NotChecked), 1);
    let stray = report.checks.iter().find(|check| check.detail.contains("belongs to no entry"));
    assert!(stray.unwrap().detail.contains(&(end - 3).to_string()), "{stray:?}");
    assert_eq!(count(&report, CheckKind::Archive, CheckOutcome::Warned), 2);
    files.remove(1);
    let report = verify_archive(&pack(&files)).await.unwrap();
    assert!(report.is_good() && count(&report, CheckKind::Manifest, CheckOutcome::NotChecked) == 1);
}

/// What is said of a changed appliance: outcomes and texts of one kind.
async fn told(files: &[File], kind: CheckKind) -> Vec<(CheckOutcome, String)> {
    let report = verify_archive(&pack(files)).await.unwrap();
    let checks = report.checks.iter().filter(|check| check.kind == kind);
    checks.map(|check| (check.outcome, format!("{:?} {}", check.subject, check.detail))).collect()
}

#[tokio::test]
async fn what_importers_stumble_over_is_told() {
    use CheckKind::{Descriptor, Disk};
    use CheckOutcome::{Failed, Passed, Warned};
    let format = |good: &mut Good, uri: &str| good.disks[0] = good.disks[0].replace(VMDK_STREAM, uri);
    let place = |good: &mut Good, id: u32, place: &str| {
        let old = format!("InstanceID>{id}</rasd:InstanceID>");
        let new = format!("{old}<rasd:AddressOnParent>{place}</rasd:AddressOnParent>");
        good.items = good.items.replace(&old, &new);
    };
    type Change = Box<dyn Fn(&mut Good)>;
    let cases: Vec<(&str, Change, CheckKind, CheckOutcome, &str)> = vec![
        (
            "two disks in one file",
            Box::new(|good| good.disks[1] = good.disks[1].replace("fileRef='f2'", "fileRef='f1'")),
            Descriptor,
            Failed,
            "both in the file \"f1\"",
        ),
        (
            "one disk twice",
            Box::new(|good| good.items = good.items.replace("/disk/d2", "ovf:/disk/d1")),
            Descriptor,
            Failed,
            "both the disk \"d1\"",
        ),
        (
            "a disk that no item has",
            Box::new(|good| good.items = good.items.replace("/disk/d2", "ovf:/disk/d1")),
            Descriptor,
            Warned,
            "\"d2\" is in no item",
        ),
        (
            "one place twice",
            Box::new(move |good| [2, 3].into_iter().for_each(|id| place(good, id, "0"))),
            Descriptor,
            Failed,
            "the place 0",
        ),
        (
            "two places",
            Box::new(move |good| [2, 3].into_iter().for_each(|id| place(good, id, &id.to_string()))),
            Descriptor,
            Passed,
            "2 disks",
        ),
        ("firmware", Box::new(|good| good.items += &firmware("uefi")), Descriptor, Failed, "\"uefi\""),
        ("known firmware", Box::new(|good| good.items += &firmware("efi")), Descriptor, Passed, "2 disks"),
        (
            "a card without a network",
            Box::new(|good| good.items += &item(9, 10, &[])),
            Descriptor,
            Warned,
            "no Connection",
        ),
        (
            "two files of one name",
            Box::new(|good| good.files.push("ovf:id='f3' ovf:href='a.vmdk'".into())),
            Descriptor,
            Failed,
            "\"f3\" are both \"a.vmdk\"",
        ),
        (
            "no format",
            Box::new(|good| good.disks[0] = good.disks[0].split(" ovf:format").next().unwrap().into()),
            Descriptor,
            Warned,
            "no ovf:format",
        ),
        ("QCOW2", Box::new(move |good| format(good, QCOW2)), Disk, Failed, "the file is VMDK"),
        ("VHD", Box::new(move |good| format(good, VHD)), Disk, Failed, "the file is VMDK"),
        ("RAW", Box::new(move |good| format(good, RAW)), Disk, Failed, "the file is VMDK"),
        ("another VMDK", Box::new(move |good| format(good, VMDK_SPARSE)), Disk, Passed, "vmdk"),
        ("an unknown format", Box::new(move |good| format(good, "urn:x")), Disk, Passed, "vmdk"),
        (
            "a QCOW2 that is called a VMDK",
            Box::new(|good| {
                let content = vmferry_formats::testkit::disk(1, CAPACITY);
                let spec = Format::Qcow2.into();
                good.a = vmferry_formats::testkit::write_image(&spec, &content, "a", true).unwrap();
            }),
            Disk,
            Failed,
            "the file is QCOW2",
        ),
    ];
    for (what, change, kind, outcome, word) in cases {
        let mut good = Good::new();
        change(&mut good);
        let told = told(&good.all(), kind).await;
        let found = told.iter().any(|(found, text)| *found == outcome && text.contains(word));
        assert!(found, "{what}: {told:?}");
    }
    let layout = |uri, variant| descriptor::other_layout(Some(uri), variant).is_some();
    assert!(layout(VMDK_STREAM, "monolithicSparse") && !layout(VMDK_STREAM, "streamOptimized"));
    assert!(!layout(VMDK_SPARSE, "monolithicSparse"));
}

/// The setting of a firmware.
fn firmware(value: &str) -> String {
    format!("<v:Config xmlns:v='http://www.vmware.com/schema/ovf' v:key='firmware' v:value='{value}'/>")
}

#[tokio::test]
async fn a_manifest_must_cover_what_the_descriptor_refers_to() {
    use CheckOutcome::{Failed, Warned};
    let good = Good::new().all();
    let text = String::from_utf8(good[1].1.clone()).unwrap();
    let without = |name: &str| -> String {
        text.split_inclusive('\n').filter(|line| !line.contains(&format!("({name})"))).collect()
    };
    let extra = format!("{text}SHA256(other.iso)= {}\n", "00".repeat(32));
    for (what, manifest, failed, warned) in [
        ("all", text.clone(), 0, 0),
        ("no disk", without("b.vmdk"), 1, 0),
        ("no descriptor", without("x.ovf"), 0, 1),
        ("one too many", extra, 0, 1),
        // Both disks, and the manifest itself; the descriptor.
        ("nothing", String::new(), 3, 1),
        ("blank lines", "\n\n".into(), 3, 1),
    ] {
        let mut files = good.clone();
        files[1].1 = manifest.into_bytes();
        let told = told(&files, CheckKind::Manifest).await;
        let count = |outcome| told.iter().filter(|(found, _)| *found == outcome).count();
        assert_eq!((count(Failed), count(Warned)), (failed, warned), "{what}: {told:?}");
    }
}

#[tokio::test]
async fn any_flipped_byte_of_an_entry_is_found() {
    let bytes = pack(&Good::new().all());
    // In the descriptor, the manifest, and both disks, in every part of them.
    let archive_len = bytes.len() - 1024;
    for step in 0..60 {
        let at = 512 + step * (archive_len - 512) / 60;
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        match verify_archive(&flipped).await {
            Ok(report) => {
                let is_padding =
                    report.checks.iter().any(|check| check.detail.contains("belongs to no entry"));
                assert!(!report.is_good() || is_padding, "byte {at}: {report:?}");
            }
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::Verification | ErrorKind::Refused),
                    "{at}: {error}"
                );
            }
        }
    }
    // A header that is damaged ends it.
    let mut damaged = bytes.clone();
    damaged[1] = 1;
    assert_eq!(verify_archive(&damaged).await.unwrap_err().kind(), ErrorKind::Verification);
    tar_checksum(&mut damaged);
    assert_eq!(verify_archive(&damaged).await.unwrap_err().kind(), ErrorKind::Refused);
}
