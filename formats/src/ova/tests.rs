//! Headers, templates, manifests and the archive as a whole, without any tool; the tools judge in
//! `tests/ova_judges.rs`.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Op, WriterSpec, plan::Slot, testkit, testkit::MemoryImage};

#[test]
fn small_entries_are_ustar_and_large_ones_gnu() {
    let block = header("disk1.vmdk", 0o1234567, 7).unwrap();
    assert_eq!(&block[..11], b"disk1.vmdk\0");
    assert_eq!(&block[100..124], b"0000644\x000000000\x000000000\0");
    assert_eq!(&block[124..136], b"00001234567\0");
    assert_eq!(&block[136..148], b"00000000007\0");
    assert_eq!(&block[156..157], b"0");
    assert_eq!(&block[257..265], b"ustar\x0000");
    let last = header("d", (8 << 30) - 1, 0).unwrap();
    assert_eq!(&last[124..136], b"77777777777\0");
    let first = header("d", 8 << 30, MAX_MTIME).unwrap();
    assert_eq!(&first[124..136], &[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(&first[136..148], b"77777777777\0");
    assert_eq!(&first[257..265], b"ustar  \0");
    assert!(header("d", 0, MAX_MTIME + 1).is_err());
}

#[test]
fn names_are_what_every_importer_takes() {
    for good in ["a", "A-1_b.vmdk", "-x", ".x", &"n".repeat(99)] {
        check_name(good).unwrap();
    }
    for bad in ["", ".", "..", "a/b", "/a", "a b", "ä", "a\n", "a\0", "a\\b", "a:b", &"n".repeat(100)] {
        assert!(check_name(bad).is_err(), "{bad:?}");
        assert!(header(bad, 1, 0).is_err(), "{bad:?}");
    }
}

#[test]
fn markers_that_are_none_are_refused() {
    for bad in [
        "<vmferry-size-0000>",
        "<vmferry-size-000000>",
        "<vmferry-used-0000x>",
        "<vmferry-uses-00000>",
        "<vmferry-size-00000",
        "x <vmferry-",
    ] {
        assert!(Template::new(bad).is_err(), "{bad}");
    }
    assert!(Template::new("x".repeat((1 << 20) + 1)).is_err());
    let template = Template::new("<a/>").unwrap();
    assert_eq!((template.files(), template.render(&[]).unwrap()), (0, b"<a/>".to_vec()));
    assert!(Template::new("<vmferry-size-00001>").unwrap().render(&[FileNumbers::default()]).is_err());
}

#[test]
fn a_manifest_is_what_importers_compare() {
    let (a, b) = ([0xab; 32], [1; 32]);
    let text = manifest(ManifestHash::Sha256, [("x.ovf", &a[..]), ("x-1.vmdk", &b[..])]).unwrap();
    let expected = format!("SHA256(x.ovf)= {}\nSHA256(x-1.vmdk)= {}\n", "ab".repeat(32), "01".repeat(32));
    assert_eq!(text, expected);
    assert_eq!(
        manifest(ManifestHash::Sha1, [("x.ovf", &[0; 20][..])]).unwrap(),
        format!("SHA1(x.ovf)= {}\n", "00".repeat(20))
    );
    assert!(manifest(ManifestHash::Sha1, [("x.ovf", &a[..])]).is_err(), "a hash of another length");
    assert!(manifest(ManifestHash::Sha256, [("x y", &a[..])]).is_err());
    let text =
        certificate("x.mf", &[0xfe, 0xdc], "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n\n");
    let pem = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
    assert_eq!(text.unwrap(), format!("SHA256(x.mf)= fedc\n{pem}"));
}

fn options(files: &[&str]) -> ArchiveOptions {
    ArchiveOptions {
        descriptor_name: "vm.ovf".into(),
        file_names: files.iter().map(|&name| name.to_owned()).collect(),
        mtime: 0,
    }
}

#[test]
fn archives_that_cannot_be_are_refused_before_their_first_byte() {
    let new = |files: &[&str], text: &str| ArchiveWriter::new(options(files), Template::new(text).unwrap());
    new(&["a.vmdk"], "<x/>").unwrap();
    assert!(new(&[], "<x/>").is_err(), "no disk");
    assert!(new(&["a.vmdk", "A.vmdk"], "<x/>").is_err(), "the same name");
    assert!(new(&["VM.ovf"], "<x/>").is_err(), "the descriptor's name");
    assert!(new(&["../a.vmdk"], "<x/>").is_err(), "a path");
    assert!(new(&["a.vmdk"], "").is_err(), "an empty descriptor");
    assert!(new(&["a.vmdk"], "<vmferry-used-00001>").is_err(), "a disk that is not there");
    let named = ArchiveOptions { descriptor_name: "vm.xml".into(), ..options(&["a"]) };
    assert!(ArchiveWriter::new(named, Template::new("<x/>").unwrap()).is_err());
    let late = ArchiveOptions { mtime: u64::MAX, ..options(&["a"]) };
    assert!(ArchiveWriter::new(late, Template::new("<x/>").unwrap()).is_err());
}

#[test]
fn calls_out_of_order_are_errors() {
    let mut writer = ArchiveWriter::new(options(&["a.vmdk"]), Template::new("<x/>").unwrap()).unwrap();
    let mut ops = Vec::new();
    assert!(writer.begin_file(&mut ops).is_err());
    writer.begin(&mut ops).unwrap();
    assert!(writer.begin(&mut ops).is_err());
    assert!(writer.pass(&mut [Op::Skip(1)]).is_err());
    assert!(writer.end_file(0, &mut ops).is_err());
    assert!(writer.descriptor().is_err(), "a file is missing");
    writer.begin_file(&mut ops).unwrap();
    assert!(writer.begin_file(&mut ops).is_err());
    let fill = Op::Fill { slot: Slot(0), at: 0, bytes: Bytes::from_static(b"x") };
    assert!(writer.pass(&mut [fill]).is_err(), "the archive's slots are not the file's");
    writer.end_file(0, &mut ops).unwrap();
    assert!(writer.begin_file(&mut ops).is_err(), "there is no other file");
    assert!(writer.finish(vec![0; 3], [], &mut ops).is_err(), "another length");
    writer.finish(vec![0; 4], [], &mut ops).unwrap();
    assert!(writer.finish(vec![0; 4], [], &mut ops).is_err());
}

/// An archive of `disks` in the formats of `specs`, and the bytes of each disk's image by itself.
fn archive(specs: &[WriterSpec], disks: &[Vec<u8>], text: &str) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
    let names: Vec<String> = (0..disks.len()).map(|index| format!("disk{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut writer = ArchiveWriter::new(options(&names), Template::new(text).unwrap()).unwrap();
    let (mut image, mut ops, mut alone) = (MemoryImage::default(), Vec::new(), Vec::new());
    let nothing = |_| unreachable!("an archive has no payload of its own");
    writer.begin(&mut ops).unwrap();
    for ((spec, disk), name) in specs.iter().zip(disks).zip(&names) {
        writer.begin_file(&mut ops).unwrap();
        image.apply(&ops, nothing);
        let before = writer.position();
        testkit::drive(spec, disk, name, true, |ops, payload| {
            writer.pass(ops).unwrap();
            image.apply(ops, payload);
        })
        .unwrap();
        alone.push(testkit::write_image(spec, disk, name, true).unwrap());
        assert_eq!(writer.file_len(), Some(writer.position() - before));
        ops.clear();
        writer.end_file(disk.len() as u64 / 2, &mut ops).unwrap();
        assert_eq!(writer.file_len(), None);
    }
    let descriptor = writer.descriptor().unwrap();
    let last =
        [("vm.mf".to_owned(), Bytes::from_static(b"the manifest")), ("vm.cert".to_owned(), Bytes::new())];
    writer.finish(descriptor.clone(), last, &mut ops).unwrap();
    image.apply(&ops, nothing);
    assert_eq!(writer.position(), image.bytes.len() as u64, "position follows the operations");
    (image.bytes, alone, descriptor)
}

/// Name and content of the entries of an archive, by the rules of tar and nothing else.
fn entries(mut archive: &[u8]) -> Vec<(String, &[u8])> {
    let mut found = Vec::new();
    loop {
        assert!(archive.len() >= 1024 && archive.len().is_multiple_of(512), "{} bytes left", archive.len());
        let (block, rest) = archive.split_at(512);
        if block.iter().all(|&byte| byte == 0) {
            assert!(
                rest.iter().all(|&byte| byte == 0) && rest.len() == 512,
                "two blocks of zeros and the end"
            );
            return found;
        }
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum::<u32>()
            - block[148..156].iter().map(|&byte| u32::from(byte)).sum::<u32>()
            + 8 * u32::from(b' ');
        let octal = |field: &[u8]| {
            let digits: String =
                field.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect();
            u64::from_str_radix(&digits, 8).unwrap()
        };
        assert_eq!(octal(&block[148..156]), u64::from(sum), "the checksum");
        let len = usize::try_from(octal(&block[124..136])).unwrap();
        let end = block.iter().position(|&byte| byte == 0).unwrap();
        let name = String::from_utf8(block[..end].to_vec()).unwrap();
        found.push((name, &rest[..len]));
        assert!(rest[len..len.next_multiple_of(512)].iter().all(|&byte| byte == 0), "padding");
        archive = &rest[len.next_multiple_of(512)..];
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_disk_in_an_archive_is_what_it_is_alone(
        seed in any::<u64>(),
        shapes in proptest::collection::vec((0_usize..4, 1_usize..300_000), 1..5),
        text in "[ -~]{1,600}",
    ) {
        let specs: Vec<WriterSpec> = shapes.iter().map(|(kind, _)| match kind {
            0 => WriterSpec::Raw(Default::default()),
            1 => WriterSpec::Qcow2(Default::default()),
            2 => WriterSpec::Vmdk(crate::vmdk::VmdkOptions {
                subformat: crate::vmdk::Subformat::MonolithicSparse,
                ..Default::default()
            }),
            _ => WriterSpec::Vmdk(Default::default()),
        }).collect();
        let disks: Vec<Vec<u8>> = shapes.iter().zip(0..).map(|((_, len), index)| testkit::disk(seed ^ index, *len)).collect();
        prop_assume!(!text.contains("<vmferry-"));
        let text = format!("{text}<vmferry-size-00000>|<vmferry-used-00000>");
        let (archive, alone, descriptor) = archive(&specs, &disks, &text);
        let entries = entries(&archive);
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
        prop_assert_eq!(names.first(), Some(&"vm.ovf"));
        prop_assert_eq!(&names[names.len() - 2..], ["vm.mf", "vm.cert"]);
        prop_assert_eq!(entries.len(), disks.len() + 3);
        for (index, image) in alone.iter().enumerate() {
            prop_assert!(entries[index + 1].1 == image, "disk {}", index);
        }
        prop_assert_eq!(entries[0].1, &descriptor[..]);
        prop_assert_eq!(descriptor.len(), text.len());
        let numbers = format!("{}|{}\n", alone[0].len(), disks[0].len() / 2);
        prop_assert!(String::from_utf8(descriptor).unwrap().contains(&numbers));
    }

    #[test]
    fn a_rendered_template_fills_its_place_exactly(
        parts in proptest::collection::vec(("[^<]{0,40}", 0_usize..4, any::<bool>()), 0..12),
        numbers in proptest::collection::vec((any::<u64>(), any::<u64>()), 4),
    ) {
        let (mut text, mut expected) = (String::new(), String::new());
        for (plain, file, size) in &parts {
            let (kind, number) = if *size { ("size", numbers[*file].0) } else { ("used", numbers[*file].1) };
            text.push_str(&format!("{plain}<vmferry-{kind}-{file:05}>"));
            expected.push_str(&format!("{plain}{number}"));
        }
        let files: Vec<FileNumbers> = numbers.iter().map(|&(size, used)| FileNumbers { size, used }).collect();
        let template = Template::new(text.clone()).unwrap();
        let rendered = String::from_utf8(template.render(&files).unwrap()).unwrap();
        prop_assert_eq!(rendered.len() as u64, template.reserved_len());
        prop_assert_eq!(template.text(), text);
        let rest = rendered.strip_prefix(&expected).unwrap();
        prop_assert!(rest.trim_matches([' ', '\n']).is_empty() && (rest.is_empty() || rest.starts_with('\n')));
    }

    #[test]
    fn headers_add_up(name in "[A-Za-z0-9._-]{1,99}", size in any::<u64>(), mtime in 0..=MAX_MTIME) {
        prop_assume!(!name.bytes().all(|byte| byte == b'.'));
        let block = header(&name, size, mtime).unwrap();
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum::<u32>()
            - block[148..156].iter().map(|&byte| u32::from(byte)).sum::<u32>() + 8 * u32::from(b' ');
        let field = format!("{sum:06o}\0 ");
        prop_assert_eq!(&block[148..156], field.as_bytes());
        let read = if block[124] == 0x80 {
            u64::from_be_bytes(block[128..136].try_into().unwrap())
        } else {
            u64::from_str_radix(std::str::from_utf8(&block[124..135]).unwrap(), 8).unwrap()
        };
        prop_assert_eq!(read, size);
    }
}
