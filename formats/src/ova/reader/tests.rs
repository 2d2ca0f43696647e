use proptest::prelude::*;

use super::*;
use crate::{
    ErrorKind,
    ova::{Sum, SumAlgorithm, parse_sum, parse_sums},
    testkit::{tar, tar_checksum},
};

/// Opens an archive in memory; the largest piece asked for is checked, and the number of pieces.
fn open(bytes: &[u8]) -> Result<Archive, Error> {
    open_of(bytes.len() as u64, |need| {
        let start = usize::try_from(need.offset).unwrap();
        bytes[start..start + need.len].to_vec()
    })
}

fn open_of(len: u64, bytes: impl Fn(Need) -> Vec<u8>) -> Result<Archive, Error> {
    let mut opener = ArchiveOpener::new(len);
    for _ in 0..20_000 {
        match opener.step()? {
            Step::Ready(archive) => {
                assert!(opener.step().is_err(), "an archive is handed out once");
                return Ok(archive);
            }
            Step::Need(need) => {
                assert!(need.len > 0 && need.len <= Need::MAX_LEN && need.file == 0, "{need:?}");
                assert!(need.offset + need.len as u64 <= len, "{need:?}");
                opener.supply(need, &bytes(need))?;
            }
        }
    }
    panic!("opening never ends");
}

const OVF: &[u8] = b"<Envelope/>";

fn good() -> Vec<u8> {
    tar(&[
        ("x.ovf", b'0', OVF),
        ("x.mf", b'0', b"SHA256(x.ovf)= 00\n"),
        ("x.cert", b'0', b"cert"),
        ("x-disk1.vmdk", b'0', &[7; 1000]),
        ("empty.iso", 0, b""),
    ])
}

/// `good` with bytes of the header at `at` changed, and its checksum put right.
fn with(at: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut archive = good();
    archive[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
    tar_checksum(&mut archive[at..]);
    archive
}

/// Where the header of the disk stands.
const DISK: usize = 6 * 512;

#[test]
fn an_archive_is_indexed_without_its_bodies() {
    let bytes = good();
    let archive = open(&bytes).unwrap();
    let names: Vec<&str> = archive.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["x.ovf", "x.mf", "x.cert", "x-disk1.vmdk", "empty.iso"]);
    assert_eq!((archive.descriptor, archive.descriptor_text.as_slice()), (0, OVF));
    assert_eq!(archive.manifest, Some((1, b"SHA256(x.ovf)= 00\n".to_vec())));
    assert_eq!(archive.certificate, Some((2, b"cert".to_vec())));
    assert_eq!((archive.entries[3].header, archive.entries[3].data.clone()), (3072, 3584..4584));
    assert_eq!((archive.entries[4].size(), archive.end), (0, bytes.len() as u64 - 1024));
    // The body of the disk is asked for by nobody.
    open_of(bytes.len() as u64, |need| {
        assert!(!(3584..4584).contains(&need.offset), "{need:?}");
        let start = usize::try_from(need.offset).unwrap();
        bytes[start..start + need.len].to_vec()
    })
    .unwrap();
    // More zeros, or one block of them only, are an end too.
    open(&[&bytes[..], &[0; 8192]].concat()).unwrap();
    open(&bytes[..bytes.len() - 512]).unwrap();
}

#[test]
fn descriptor_manifest_and_certificate_are_found_wherever_they_stand() {
    let archive = open(&tar(&[
        ("a.vmdk", b'0', b"disk"),
        ("b.cert", b'0', b"cert"),
        ("a.MF", b'0', b""),
        ("A.OVF", b'0', OVF),
    ]))
    .unwrap();
    assert_eq!((archive.descriptor, archive.descriptor_text.as_slice()), (3, OVF));
    assert_eq!(archive.manifest, Some((2, Vec::new())));
    assert_eq!(archive.certificate, Some((1, b"cert".to_vec())));
}

#[test]
fn headers_of_every_dialect_are_read() {
    let dialects: [(&[u8], Dialect); 3] =
        [(b"ustar\x0000", Dialect::Ustar), (b"ustar  \0", Dialect::Gnu), (b"ustar\0 \0", Dialect::Mixed)];
    for (magic, dialect) in dialects {
        let archive = open(&with(DISK, 257, magic)).unwrap();
        assert_eq!(archive.entries[3].dialect, dialect);
    }
    // Old GNU tar keeps times where ustar has the front of the name.
    let mut archive = with(DISK, 257, b"ustar  \0");
    archive[DISK + 345..DISK + 357].copy_from_slice(b"15000000000\0");
    tar_checksum(&mut archive[DISK..]);
    assert_eq!(open(&archive).unwrap().entries[3].name, "x-disk1.vmdk");
    for size in [&b"      1750 \0"[..], b"00000001750 ", b"\x80\0\0\0\0\0\0\0\0\0\x03\xe8"] {
        assert_eq!(open(&with(DISK, 124, size)).unwrap().entries[3].size(), 1000, "{size:?}");
    }
}

#[test]
fn a_size_above_8_gib_is_one_in_base_256() {
    const SIZE: u64 = (9 << 30) + 5;
    let header = tar(&[("x.vmdk", b'0', b"")]);
    let mut header = header[..512].to_vec();
    header[124] = 0x80;
    header[125..128].fill(0);
    header[128..136].copy_from_slice(&SIZE.to_be_bytes());
    tar_checksum(&mut header);
    let front = tar(&[("x.ovf", b'0', OVF)]);
    let front = &front[..1024];
    let end = 1024 + 512 + SIZE.next_multiple_of(512);
    let archive = open_of(end + 1024, |need| {
        let start = usize::try_from(need.offset).unwrap();
        match need.offset {
            0..1024 => front[start..start + need.len].to_vec(),
            1024 => header.clone(),
            at if at >= end => vec![0; need.len],
            _ => panic!("the disk is not read: {need:?}"),
        }
    })
    .unwrap();
    assert_eq!(archive.entries[1].data, 1536..1536 + SIZE);
    assert_eq!(archive.end, end);
}

#[test]
fn long_names_and_pax_headers_say_what_the_next_entry_is() {
    let long = format!("{}.vmdk", "a".repeat(200));
    let gnu = format!("{long}\0");
    let path = format!("214 path={long}\n");
    assert_eq!(path.len(), 214 + 1);
    let path = format!("215 path={long}\n");
    let comment = b"19 comment=nothing\n";
    for (headers, dialect) in [
        (vec![("././@LongLink", b'L', gnu.as_bytes())], Dialect::Ustar),
        (vec![("PaxHeaders/x", b'x', path.as_bytes())], Dialect::Pax),
        (vec![("pax_global_header", b'g', &comment[..]), ("p", b'x', path.as_bytes())], Dialect::Pax),
    ] {
        let mut entries = vec![("x.ovf", b'0', OVF)];
        entries.extend(headers);
        entries.push(("cut", b'0', b"1234"));
        let archive = open(&tar(&entries)).unwrap();
        assert_eq!((archive.entries.len(), &archive.entries[1].name), (2, &long));
        assert_eq!((archive.entries[1].size(), archive.entries[1].dialect), (4, dialect));
    }
    // A pax size counts, whatever the header says.
    let mut bytes = tar(&[("x.ovf", b'0', OVF), ("p", b'x', b"10 size=4\n"), ("d", b'0', b"1234")]);
    bytes[2048 + 124..2048 + 135].copy_from_slice(b"00000000000");
    tar_checksum(&mut bytes[2048..]);
    assert_eq!(open(&bytes).unwrap().entries[1].size(), 4);
}

#[test]
fn names_may_begin_with_the_directory_that_was_packed() {
    let archive = open(&tar(&[("./x.ovf", b'0', OVF), ("./d.vmdk", b'0', b"1")])).unwrap();
    assert_eq!(archive.entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), ["x.ovf", "d.vmdk"]);
}

#[test]
fn hostile_archives_are_refused_and_say_why() {
    use ErrorKind::{Corrupt, Limit, Refused, Truncated, Unsupported};
    let entry = |name: &str| tar(&[("x.ovf", b'0', OVF), (name, b'0', b"1")]);
    let flag = |flag: u8| with(DISK, 156, &[flag]);
    let behind = |headers: &[(&str, u8, &[u8])]| {
        let entries = [&[("x.ovf", b'0', OVF)], headers, &[("d", b'0', b"1")]].concat();
        tar(&entries)
    };
    let many: Vec<String> = (0..MAX_ENTRIES).map(|index| format!("{index}")).collect();
    let mut many: Vec<(&str, u8, &[u8])> = many.iter().map(|name| (name.as_str(), b'0', &[][..])).collect();
    many.push(("x.ovf", b'0', OVF));
    let comments = vec![("g", b'g', &b"19 comment=nothing\n"[..]); 4 * MAX_ENTRIES];
    let long_descriptor = vec![b' '; 1 + to_usize(MAX_DESCRIPTOR_LEN)];
    let long_manifest = vec![b'\n'; 1 + (1 << 20)];
    let long_name = format!("{}\0", "a".repeat(256));
    let good_len = good().len();
    let damaged = |at: usize| {
        let mut bytes = good();
        bytes[at] ^= 1;
        bytes
    };
    let mut no_checksum = good();
    no_checksum[DISK + 149] = b'x';
    let mut lone_zeros = good();
    lone_zeros.splice(DISK..DISK, [0; 512]);
    let cases: Vec<(&str, Vec<u8>, ErrorKind, &str)> = vec![
        ("a path", entry("a/b.vmdk"), Refused, "a directory in it"),
        ("an absolute path", entry("/etc/passwd"), Refused, "a directory in it"),
        ("a parent", entry("../x.vmdk"), Refused, "a directory in it"),
        ("the parent itself", entry(".."), Refused, "a directory in it"),
        ("the directory itself", entry("./"), Refused, "is empty"),
        ("a parent behind the directory", entry("./../x.vmdk"), Refused, "a directory in it"),
        ("the directory twice", entry("././x.vmdk"), Refused, "a directory in it"),
        ("a path of Windows", entry("..\\x.vmdk"), Refused, "a directory in it"),
        ("an escape", entry("a\u{1b}[2J"), Refused, "control characters"),
        ("a line break", entry("a\nb"), Refused, "control characters"),
        ("no name", entry(""), Refused, "is empty"),
        ("a ustar prefix", with(DISK, 345, b"dir"), Refused, "a directory in it"),
        ("a name that is no text", with(DISK, 0, b"\xff\xfe"), Refused, "not UTF-8"),
        ("a hard link", flag(b'1'), Refused, "a hard link"),
        ("a link", flag(b'2'), Refused, "a symbolic link"),
        ("a long link", flag(b'K'), Refused, "a symbolic link"),
        ("a character device", flag(b'3'), Refused, "a device"),
        ("a block device", flag(b'4'), Refused, "a device"),
        ("a directory", flag(b'5'), Refused, "a directory"),
        ("a pipe", flag(b'6'), Refused, "a pipe"),
        ("a sparse entry", flag(b'S'), Unsupported, "stored sparsely"),
        ("a second volume", flag(b'M'), Unsupported, "another archive"),
        ("an unknown type", flag(b'V'), Unsupported, "unknown type 'V'"),
        ("a pax sparse entry", behind(&[("p", b'x', b"22 GNU.sparse.major=1\n")]), Unsupported, "sparsely"),
        ("a global name", behind(&[("p", b'g', b"10 path=a\n")]), Refused, "one name or size to all"),
        ("pax without a length", behind(&[("p", b'x', b"path=a\n")]), Corrupt, "extended header"),
        ("pax with a wrong length", behind(&[("p", b'x', b"99 path=a\n")]), Corrupt, "extended header"),
        ("pax of length zero", behind(&[("p", b'x', b"0 path=a\n")]), Corrupt, "extended header"),
        (
            "pax with a huge length",
            behind(&[("p", b'x', b"99999999999999999999999 a=b\n")]),
            Corrupt,
            "extended",
        ),
        ("pax with a negative size", behind(&[("p", b'x', b"11 size=-4\n")]), Corrupt, "extended header"),
        (
            "pax with a huge size",
            behind(&[("p", b'x', b"29 size=18446744073709551615\n")]),
            Truncated,
            "18446744073709551615 bytes",
        ),
        (
            "two pax headers",
            behind(&[("p", b'x', b"7 a=bc\n"), ("p", b'x', b"7 a=bc\n")]),
            Corrupt,
            "two extended",
        ),
        ("a long pax header", behind(&[("p", b'x', &[b'1'; 65537])]), Limit, "65537 bytes"),
        ("a long name too long", behind(&[("L", b'L', long_name.as_bytes())]), Refused, "256 bytes"),
        (
            "a name for nothing",
            tar(&[("x.ovf", b'0', OVF), ("L", b'L', b"abc\0")]),
            Corrupt,
            "behind the name",
        ),
        ("two names alike", entry("X.OVF"), Refused, "two entries"),
        (
            "two names alike in another alphabet",
            behind(&[("\u{c4}", b'0', b""), ("\u{e4}", b'0', b"")]),
            Refused,
            "two entries",
        ),
        ("two descriptors", entry("y.ovf"), Refused, "several descriptors"),
        ("two manifests", behind(&[("a.mf", b'0', b""), ("b.mf", b'0', b"")]), Refused, "several manifests"),
        ("no descriptor", tar(&[("x.vmdk", b'0', b"1")]), Unsupported, "no OVA"),
        ("nothing at all", vec![0; 1024], Unsupported, "no OVA"),
        ("too many entries", tar(&many), Limit, "more than 1000 entries"),
        ("too many headers", behind(&comments), Limit, "more than 4000 headers"),
        ("a descriptor too long", tar(&[("x.ovf", b'0', &long_descriptor)]), Limit, "4194305 bytes"),
        ("a manifest too long", behind(&[("x.mf", b'0', &long_manifest)]), Limit, "1048577 bytes"),
        ("a wrong checksum", damaged(DISK + 5), Corrupt, "checksum"),
        ("a checksum that is none", no_checksum, Corrupt, "no number"),
        ("a negative size", with(DISK, 124, &[0xff; 12]), Corrupt, "size"),
        ("a size past 2^64", with(DISK, 124, &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Corrupt, "size"),
        (
            "a size that wraps",
            with(DISK, 124, &[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
            Truncated,
            "size is wrong",
        ),
        ("a size that is none", with(DISK, 124, b"0000000175z\0"), Corrupt, "size"),
        ("a size longer than the archive", with(DISK, 124, b"00001000000\0"), Truncated, "size is wrong"),
        ("no header", lone_zeros, Corrupt, "one block of zeros"),
        ("garbage", [&good()[..good_len - 1024], &[1; 512]].concat(), Corrupt, "no header"),
        ("an archive cut in a header", good()[..DISK + 100].to_vec(), Truncated, "cut short"),
        ("an archive cut in a body", good()[..DISK + 600].to_vec(), Truncated, "cut short"),
        ("an archive cut behind a body", good()[..good_len - 1024].to_vec(), Truncated, "no end"),
        ("no bytes", Vec::new(), Truncated, "no end"),
    ];
    for (what, bytes, kind, text) in cases {
        let error = open(&bytes).expect_err(what);
        assert!(
            error.kind() == kind && error.to_string().contains(text),
            "{what}: {:?} {error}",
            error.kind()
        );
        assert!(!error.to_string().contains(char::is_control), "{what}: {error}");
    }
}

#[test]
fn sums_are_read_as_everybody_writes_them() {
    let digest = "0123456789abcdef0123456789ABCDEF01234567";
    let bytes: Vec<u8> =
        (0..20).map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap()).collect();
    let line = |algorithm, name: &str| Sum { algorithm, name: name.into(), value: bytes.clone() };
    let text = format!(
        "SHA1(x.ovf)= {digest}\r\n\nSHA1 (a (1).vmdk) = {digest}\nsha1(b)={digest}\nSHA2-256(c)= {}\n",
        "ab".repeat(32)
    );
    let sums = parse_sums(text.as_bytes()).unwrap();
    assert_eq!(
        sums[..3],
        [
            line(SumAlgorithm::Sha1, "x.ovf"),
            line(SumAlgorithm::Sha1, "a (1).vmdk"),
            line(SumAlgorithm::Sha1, "b")
        ]
    );
    assert_eq!((sums[3].algorithm, sums[3].value.len()), (SumAlgorithm::Sha256, 32));
    assert_eq!(parse_sums(b" \n\n").unwrap(), []);
    // The signature of a certificate has the length of its key.
    assert_eq!(parse_sum(b"SHA256(x.mf)= 0011").unwrap().value, [0, 0x11]);
    let twice = format!("SHA1(a)= {digest}\nSHA1(a)= {digest}\n");
    for (text, word) in [
        ("hello", "line 1"),
        ("SHA1(x)= 00", "1 bytes"),
        ("SHA3(x)= 00", "line 1"),
        ("SHA1()= 00", "line 1"),
        ("\nSHA1(x)= 0g", "line 2"),
        ("SHA1(x)= 012", "line 1"),
        ("SHA1(x 00", "line 1"),
        ("\u{ff}\u{0}(", "line 1"),
        (twice.as_str(), "twice"),
    ] {
        let error = parse_sums(text.as_bytes()).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(word), "{text}: {error}");
    }
}

proptest! {
    /// Whatever becomes of an archive, opening it ends, asks for nothing outside, and what it finds
    /// lies inside.
    #[test]
    fn mutations_never_panic_and_stay_inside(
        changes in proptest::collection::vec((0_usize..8192, any::<u8>()), 1..12),
        cut in proptest::option::of(0_usize..8192),
        right in any::<bool>(),
    ) {
        let mut bytes = good();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
            if right && at / 512 * 512 + 512 <= bytes.len() {
                tar_checksum(&mut bytes[at / 512 * 512..]);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % (bytes.len() + 1));
        }
        if let Ok(archive) = open(&bytes) {
            for entry in &archive.entries {
                prop_assert!(entry.header < entry.data.start && entry.data.start <= entry.data.end);
                prop_assert!(entry.data.end <= bytes.len() as u64);
                prop_assert!(check_file_name(&entry.name).is_ok());
            }
        }
    }

    /// Manifests of any bytes.
    #[test]
    fn manifests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_sums(&bytes);
        let _ = parse_sum(&bytes);
    }
}
