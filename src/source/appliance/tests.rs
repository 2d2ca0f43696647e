use std::fs;

use vmferry_formats::{
    Format, WriterSpec,
    testkit::{disk, tar, write_image},
};

use super::{
    sample::{CAPACITY, descriptor, stream},
    *,
};
use crate::{
    error::ErrorKind,
    source::{self, Source, SourceFormat, SourceIdentity},
};

const FILES: [&str; 2] = ["ovf:id='f1' ovf:href='a.vmdk'", "ovf:id='f2' ovf:href='b.vmdk'"];
const DISKS: [&str; 2] = [
    "ovf:diskId='one' ovf:fileRef='f1' ovf:capacity='1048576'",
    "ovf:diskId='2000' ovf:fileRef='f2' ovf:capacity='1048576'",
];

fn chosen(disk: &str) -> SourceOptions {
    SourceOptions { disk: Some(disk.parse().unwrap()), ..SourceOptions::default() }
}

async fn open_archive(entries: &[(&str, u8, &[u8])], options: &SourceOptions) -> Result<OpenedSource> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.ova");
    fs::write(&path, tar(entries)).unwrap();
    source::open(path.to_str().unwrap(), options).await
}

fn text(error: &Error) -> String {
    format!("{error} ({})", error.hint().unwrap_or_default())
}

#[tokio::test]
async fn a_disk_is_chosen_by_number_file_or_id() {
    let ovf = descriptor(&FILES, &DISKS, "");
    let (a, b) = (stream(1), stream(2));
    let entries = [("x.ovf", b'0', ovf.as_bytes()), ("b.vmdk", b'0', &b[..]), ("a.vmdk", b'0', &a[..])];
    for (choice, name, offset) in [
        ("1", "x.ova: a.vmdk", None),
        ("2", "x.ova: b.vmdk", Some(ovf.len().next_multiple_of(512) + 1024)),
        ("one", "x.ova: a.vmdk", None),
        ("b.vmdk", "x.ova: b.vmdk", None),
        // An id that is a number, where there are not as many disks.
        ("2000", "x.ova: b.vmdk", None),
    ] {
        let opened = open_archive(&entries, &chosen(choice)).await.unwrap();
        assert!(opened.name.ends_with(name), "{choice}: {}", opened.name);
        assert_eq!(opened.format, SourceFormat::Image(Format::Vmdk));
        let Source::Random(plan) = opened.source else { panic!("no random access") };
        assert_eq!(plan.size(), CAPACITY as u64);
        let Some(SourceIdentity::Image { files }) = plan.identity() else { panic!("no identity") };
        let [SourceIdentity::Part { offset: found, .. }] = files[..] else { panic!("{files:?}") };
        assert!(offset.is_none_or(|offset| offset as u64 == found), "{choice}: {found}");
    }
    let error = open_archive(&entries, &SourceOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    for word in ["2 disks", "--disk", "\n1  a.vmdk (one), 1048576 bytes", "\n2  b.vmdk (2000)"] {
        assert!(text(&error).contains(word), "{}", text(&error));
    }
    for choice in ["0", "3", "c.vmdk"] {
        let error = open_archive(&entries, &chosen(choice)).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Usage && text(&error).contains("a.vmdk"), "{}", text(&error));
    }
    assert!("".parse::<DiskChoice>().is_err());
}

#[tokio::test]
async fn the_only_disk_needs_no_choice_and_its_bytes_tell_the_format() {
    let ovf = descriptor(&FILES[..1], &DISKS[..1], "");
    let content = disk(3, CAPACITY);
    let qcow2 = write_image(&WriterSpec::from(Format::Qcow2), &content, "x", true).unwrap();
    for (bytes, format) in
        [(stream(3), SourceFormat::Image(Format::Vmdk)), (qcow2, SourceFormat::Image(Format::Qcow2))]
    {
        let entries = [("x.ovf", b'0', ovf.as_bytes()), ("a.vmdk", b'0', &bytes[..])];
        let opened = open_archive(&entries, &SourceOptions::default()).await.unwrap();
        assert_eq!(opened.format, format);
    }
    // Bytes without a magic are no VMDK; called RAW by the descriptor, they are that.
    let entries = [("x.ovf", b'0', ovf.as_bytes()), ("a.vmdk", b'0', &content[..])];
    let error = open_archive(&entries, &SourceOptions::default()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("a.vmdk"), "{error}");
    let attributes = format!("{} ovf:format='{}'", DISKS[0], ovf::format_uri::RAW);
    let raw = descriptor(&FILES[..1], &[&attributes], "");
    let entries = [("x.ovf", b'0', raw.as_bytes()), ("a.vmdk", b'0', &content[..])];
    let opened = open_archive(&entries, &SourceOptions::default()).await.unwrap();
    assert_eq!(opened.format, SourceFormat::Image(Format::Raw));
    // A choice where there is nothing to choose.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    fs::write(&path, &content).unwrap();
    let error = source::open(path.to_str().unwrap(), &chosen("1")).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Usage && text(&error).contains("--disk"), "{}", text(&error));
}

#[tokio::test]
async fn disks_that_cannot_be_read_say_why() {
    let disk = DISKS[0];
    for (file, disk, is_broken, word) in [
        ("ovf:id='f1' ovf:href='a.vmdk' ovf:compression='gzip'", disk, false, "gzip"),
        ("ovf:id='f1' ovf:href='c.vmdk' ovf:chunkSize='1000'", disk, false, "pieces of 1000 bytes"),
        ("ovf:id='f1' ovf:href='c.vmdk'", disk, true, "not there"),
        ("ovf:id='f1' ovf:href='../a.vmdk'", disk, true, "bare file name"),
        ("ovf:id='f1' ovf:href='/etc/passwd'", disk, true, "bare file name"),
        ("ovf:id='f9' ovf:href='a.vmdk'", disk, true, "not among the references"),
        ("ovf:id='f1' ovf:href='a.vmdk'", "ovf:diskId='d' ovf:capacity='512'", false, "no file"),
        (
            "ovf:id='f1' ovf:href='a.vmdk'",
            "ovf:diskId='d' ovf:fileRef='f1' ovf:parentRef='p' ovf:capacity='512'",
            false,
            "differences",
        ),
    ] {
        let ovf = descriptor(&[file], &[disk], "");
        let entries = [("x.ovf", b'0', ovf.as_bytes()), ("a.vmdk", b'0', b"x")];
        let error = open_archive(&entries, &SourceOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.ovf");
        fs::write(&path, &ovf).unwrap();
        fs::write(directory.path().join("a.vmdk"), b"x").unwrap();
        let appliance = Appliance::in_directory(&path).await.unwrap();
        let obstacle = appliance.disks()[0].obstacle.clone().unwrap();
        assert!(matches!(obstacle, Obstacle::Broken(_)) == is_broken, "{obstacle}");
        assert!(obstacle.to_string().contains(word), "{obstacle}");
    }
    // A size of pieces that nobody cut.
    let image = stream(1);
    let ovf = descriptor(&["ovf:id='f1' ovf:href='a.vmdk' ovf:chunkSize='1000'"], &DISKS[..1], "");
    let entries = [("x.ovf", b'0', ovf.as_bytes()), ("a.vmdk", b'0', &image[..])];
    open_archive(&entries, &SourceOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_descriptor_opens_nothing_but_files_beside_it() {
    let root = tempfile::tempdir().unwrap();
    let inside = root.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(root.path().join("secret"), stream(1)).unwrap();
    fs::write(inside.join("a.vmdk"), stream(2)).unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link.vmdk")).unwrap();
    fs::create_dir(inside.join("dir.vmdk")).unwrap();
    let open = async |href: &str| {
        let file = format!("ovf:id='f1' ovf:href='{href}'");
        fs::write(inside.join("x.ovf"), descriptor(&[&file], &DISKS[..1], "")).unwrap();
        source::open(inside.join("x.ovf").to_str().unwrap(), &SourceOptions::default()).await
    };
    open("a.vmdk").await.unwrap();
    for href in
        ["../secret", "link.vmdk", "dir.vmdk", "./a.vmdk", "..", "/etc/passwd", "http://host/a", "a\\b"]
    {
        let error = open(href).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{href}: {error}");
    }
    // The user may name the descriptor through a link; its own directory counts.
    let place = root.path().join("x.OVF");
    std::os::unix::fs::symlink("inside/x.ovf", &place).unwrap();
    assert!(source::open(place.to_str().unwrap(), &SourceOptions::default()).await.is_err());
    let error =
        source::open(inside.join("none.ovf").to_str().unwrap(), &SourceOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("none.ovf"), "{error}");
}

#[tokio::test]
async fn what_only_looks_like_an_appliance_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let archive = tar(&[("disk.vmdk", b'0', b"x")]);
    let none = SourceOptions::default();
    // A guest may have written that.
    let raw = write("disk.raw", &archive);
    let error = source::open(&raw, &none).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && text(&error).contains("-f raw"), "{}", text(&error));
    let raw_options = SourceOptions { format: Some(SourceFormat::Image(Format::Raw)), ..none.clone() };
    source::open(&raw, &raw_options).await.unwrap();
    assert!(!source::is_appliance(&raw, &none).await.unwrap());
    let tar = write("x.tar", &archive);
    let error = source::open(&tar, &none).await.unwrap_err();
    assert!(error.to_string().contains("as an OVA") && error.hint().is_some(), "{}", text(&error));
    assert!(source::is_appliance(&tar, &none).await.unwrap());
    assert!(!source::is_appliance(&tar, &raw_options).await.unwrap());
    assert!(source::is_appliance("https://host/x.ova?a=b", &none).await.unwrap());
    assert!(!source::is_appliance("https://host/x.img", &none).await.unwrap());
    assert!(!source::is_appliance("-", &none).await.unwrap());
    let ovf = write("bad.ovf", b"<!DOCTYPE x [<!ENTITY a 'b'>]><Envelope/>");
    assert_eq!(source::open(&ovf, &none).await.unwrap_err().kind(), ErrorKind::Refused);
}
