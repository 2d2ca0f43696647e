//! Makes the seed corpora in `fuzz/seeds`:
//!
//! ```text
//! cargo run --manifest-path fuzz/Cargo.toml --example make_seeds
//! ```
//!
//! Ours are the same bytes each time. Images of foreign making come from `qemu-img`, which puts random
//! ids and the time into some: commit these only where they are new.
//! Files that are there already and not made here (findings) are left alone.

use std::{fs, io::Write as _, path::PathBuf, process::Command};

use flate2::{Compression as Gzip, GzBuilder};
use vmferry::{
    pipeline::journal::{
        Checkpoint, ChunkRecord, Closed, ContainerHeader, DiskEnd, DiskHeader, DiskStart, Header, Record,
        ShapeCode,
    },
    source::SourceIdentity,
};
use vmferry_formats::{
    Compression, WriterSpec,
    chunk::{CHUNK_LEN, LEAF_LEN},
    deflate::Level,
    digest::{Algorithm, ChunkHasher, TreeHasher},
    ovf,
    qcow2::Qcow2Options,
    testkit::{Rng, tar, write_image},
    vmdk::{Subformat, VmdkOptions},
};

fn main() {
    detect();
    gzip_stream();
    journal();
    manifest();
    ova_reader();
    ovf_parser();
    qcow2_reader();
    store_answer();
    vmdk_reader();
    writers();
    println!("{} bytes in {}", total(&seeds()), seeds().display());
}

fn seeds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = seeds().join(target);
    fs::create_dir_all(&folder).expect("a folder");
    if bytes.len() < PACKED_FROM {
        return fs::write(folder.join(name), bytes).expect("a seed");
    }
    let mut encoder = GzBuilder::new().write(Vec::new(), Gzip::best());
    encoder.write_all(bytes).expect("memory");
    fs::write(folder.join(format!("{name}.gz")), encoder.finish().expect("memory")).expect("a seed");
}

/// Seeds of this many bytes and more are committed as `.gz`: images are mostly zeros.
const PACKED_FROM: usize = 4096;

fn total(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let found = entry.metadata().expect("a file");
            if found.is_dir() { total(&entry.path()) } else { found.len() }
        })
        .sum()
}

/// A small disk with zeros, text and noise, `len` bytes long.
fn disk(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let text = b"a disk is a stream of extents; ".iter().cycle();
    disk[len / 8..len / 4].iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    Rng::new(1).fill(&mut disk[len / 2..len / 2 + 700]);
    disk[len - 1] = 1;
    disk
}

fn detect() {
    let heads: [(&str, usize, &[u8]); 10] = [
        ("qcow2", 0, b"QFI\xfb\0\0\0\x03"),
        ("vmdk-sparse", 0, b"KDMV\x03\0\0\0"),
        ("vmdk-cowd", 0, b"COWD\x01\0\0\0"),
        ("vmdk-text", 0, b"# Disk DescriptorFile\nversion=1\n"),
        ("vhdx", 0, b"vhdxfile"),
        ("vhd-dynamic", 0, b"conectix"),
        ("vdi", 64, &[0x7f, 0x10, 0xda, 0xbe]),
        ("gzip", 0, &[0x1f, 0x8b, 8, 0]),
        ("zstd", 0, &[0x28, 0xb5, 0x2f, 0xfd, 4]),
        ("tar", 257, b"ustar\0"),
    ];
    for (name, at, magic) in heads {
        let mut head = vec![0; (at + magic.len()).max(80)];
        head[at..at + magic.len()].copy_from_slice(magic);
        put("detect", name, &head);
    }
    let mut fixed = vec![0; 1024];
    fixed[512..520].copy_from_slice(b"conectix");
    put("detect", "vhd-fixed", &fixed);
}

fn gzip_stream() {
    let member = |level, name: Option<&str>, bytes: &[u8]| {
        let builder = name.map_or_else(GzBuilder::new, |name| GzBuilder::new().filename(name).mtime(7));
        let mut encoder = builder.write(Vec::new(), level);
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    // The first byte says how the target cuts the stream.
    let put = |name, steps: u8, parts: &[&[u8]]| {
        put("gzip_stream", name, &[&[steps], &parts.concat()[..]].concat());
    };
    let content = disk(6000);
    let plain = member(Gzip::fast(), None, &content);
    put("one-member", 0x10, &[&plain]);
    put("named-best", 0xff, &[&member(Gzip::best(), Some("disk.img"), &content)]);
    put("stored", 3, &[&member(Gzip::none(), None, &content[3000..3700])]);
    put("three-members-padded", 0, &[&plain, &member(Gzip::fast(), None, b""), &plain, &[0; 9]]);
    put("cut", 0x21, &[&plain[..plain.len() - 5]]);
    put("garbage-behind", 0x21, &[&plain, b"x"]);
    let mut wrong = plain.clone();
    let crc = wrong.len() - 8;
    wrong[crc] ^= 1;
    put("wrong-checksum", 0x44, &[&wrong]);
    put("empty-member", 0, &[&member(Gzip::fast(), None, b"")]);
}

fn journal() {
    let header = |identity, spec: &str, digest: Option<&str>| {
        Record::Header(Box::new(Header {
            version: 1,
            name: "disk.qcow2".into(),
            spec: spec.into(),
            digest: digest.map(str::to_owned),
            flat_sha256: false,
            disks: vec![DiskHeader {
                file: None,
                source: "disk.raw".into(),
                identity,
                size: Some(3 * CHUNK_LEN + 512),
            }],
            container: None,
            object: None,
            encoder: "none".into(),
            device: 2049,
            inode: 12,
        }))
    };
    let file = SourceIdentity::File { device: 1, inode: 2, size: 3, modified_ns: -4, changed_ns: 5 };
    let http = SourceIdentity::Http {
        url: "https://example.org/disk.img".into(),
        size: Some(9),
        etag: Some("\"x\"".into()),
        last_modified: None,
    };
    let chunk = |at: u64, len, out, shape| {
        let digest = Some("OHccVtlrlKClPT++LPhh9EPr/5vqdju6rECR8ZUwBk0".to_owned());
        Record::Chunk(ChunkRecord { at, len, digest, crc: None, out, shape })
    };
    let point = |at, out| {
        Record::Checkpoint(Checkpoint { at, out, tail_len: 512, tail_crc: 7, ..Checkpoint::default() })
    };
    let closed = Record::Closed(Closed {
        size: 3 * CHUNK_LEN + 512,
        output_size: 9 << 20,
        zero: 4 << 20,
        tree: Some("ab".repeat(32)),
        file_sha256: None,
    });
    let put = |name, records: &[Record]| {
        let lines: Vec<u8> = records.iter().flat_map(|record| record.to_line().expect("a record")).collect();
        put("journal", name, &lines);
    };
    let bits = ShapeCode::Bits("AQAAAAAAAIA".into());
    let lens = ShapeCode::Lens("AAAABwAA////".into());
    put(
        "complete",
        &[
            header(Some(file.clone()), "qcow2", Some("sha256")),
            chunk(0, CHUNK_LEN, 70_000, Some(bits)),
            point(CHUNK_LEN, 70_000),
            chunk(CHUNK_LEN, 2 * CHUNK_LEN, 70_000, None),
            chunk(3 * CHUNK_LEN, 512, 80_000, Some(ShapeCode::All)),
            point(3 * CHUNK_LEN + 512, 80_000),
            closed,
        ],
    );
    put(
        "compressed",
        &[
            header(Some(http), "qcow2", Some("sha256")),
            chunk(0, 3 * 65_536, 70_000, Some(lens)),
            point(3 * 65_536, 70_000),
        ],
    );
    let crc = ChunkRecord { at: 0, len: CHUNK_LEN, digest: None, crc: Some(7), out: 9, shape: None };
    put(
        "tainted",
        &[
            header(Some(SourceIdentity::Image { files: vec![file] }), "raw", None),
            Record::Chunk(crc),
            Record::Tainted { reason: "it changed".into() },
        ],
    );
    put("torn", &[header(None, "raw", Some("blake3")), chunk(CHUNK_LEN, CHUNK_LEN, 1, None)]);
    container_journal();
}

/// A journal of two disks, the second of which is open.
fn container_journal() {
    let disk = |file: &str| DiskHeader {
        file: Some(file.into()),
        source: "disk.raw".into(),
        identity: None,
        size: Some(CHUNK_LEN),
    };
    let mut content = serde_json::Map::new();
    content.insert("descriptor".into(), "<Envelope/>".into());
    let header = Record::Header(Box::new(Header {
        version: 2,
        name: "vm.ova".into(),
        spec: "vmdk subformat=streamOptimized level=fast".into(),
        digest: None,
        flat_sha256: false,
        disks: vec![disk("vm-disk1.vmdk"), disk("vm-disk2.vmdk")],
        container: Some(ContainerHeader {
            format: "ova".into(),
            parameters: "ova mtime=0 manifest=sha1".into(),
            file_hash: "sha1".into(),
            separate: false,
            content,
        }),
        object: None,
        encoder: "none".into(),
        device: 1,
        inode: 2,
    }));
    let start = |disk, start| Record::DiskStart(DiskStart { disk, start, out: start + 65_536 });
    let chunk = |out| {
        Record::Chunk(ChunkRecord { at: 0, len: CHUNK_LEN, digest: None, crc: Some(7), out, shape: None })
    };
    let point = |disk, at, out| {
        let sha1 = Some("AAAA".into());
        Record::Checkpoint(Checkpoint { disk: Some(disk), at, out, sha1, ..Checkpoint::default() })
    };
    let end = Record::DiskEnd(DiskEnd {
        disk: 0,
        size: CHUNK_LEN,
        zero: CHUNK_LEN,
        start: 2048,
        len: 70_000,
        out: 72_192,
        tree: None,
        hash: Some("ab".repeat(20)),
    });
    let records = [
        header,
        start(0, 2048),
        chunk(68_000),
        end,
        point(0, CHUNK_LEN, 72_192),
        start(1, 72_704),
        point(1, 0, 138_240),
        chunk(138_240),
        point(1, CHUNK_LEN, 138_240),
    ];
    let lines: Vec<u8> = records.iter().flat_map(|record| record.to_line().expect("a record")).collect();
    put("journal", "container", &lines);
}

fn store_answer() {
    for (name, text) in [
        (
            "parts",
            "<?xml version=\"1.0\"?><ListPartsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Bucket>b</Bucket>\
             <IsTruncated>true</IsTruncated><NextPartNumberMarker>2</NextPartNumberMarker><Part><PartNumber>1</PartNumber>\
             <LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;a&#98;&quot;</ETag><Size>5</Size></Part>\
             <Part><PartNumber>2</PartNumber><ETag><![CDATA[\"c\"]]></ETag><Size>7</Size></Part></ListPartsResult>",
        ),
        (
            "uploads",
            "<ListMultipartUploadsResult><Upload><Key>a&amp;b</Key><UploadId>1</UploadId><Owner><ID>x</ID></Owner></Upload>\
             <IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
        ),
        ("doctype", "<!DOCTYPE a [<!ENTITY x \"y\">]><a><Part><b>&x;</b></Part></a>"),
        (
            "refusal",
            "<Error><Code>PermanentRedirect</Code><Message>go\nthere</Message><Region>eu-west-1</Region></Error>",
        ),
        ("marker", "{\"version\":1,\"run\":\"r1\",\"uploads\":[{\"key\":\"vms/db.qcow2\",\"id\":\"u\"}]}"),
        (
            "marker-elsewhere",
            "{\"version\":1,\"run\":\"r1\",\"uploads\":[{\"key\":\"other/x\",\"id\":\"u\"}]}",
        ),
    ] {
        put("store_answer", name, text.as_bytes());
    }
}

fn manifest() {
    let mut disks = String::new();
    for (name, algorithm, size) in [
        ("empty", Algorithm::Sha256, 0),
        ("two-runs", Algorithm::Sha256, 2 * CHUNK_LEN + 100),
        ("blake3", Algorithm::Blake3, 5),
    ] {
        let content: u64 = u64::next_multiple_of(size, 512);
        let hasher = ChunkHasher::new(algorithm);
        let mut tree = TreeHasher::new(algorithm, Some(content));
        let mut text = format!(
            "{{\"vmferry-manifest\":1,\"format\":\"raw\",\"parameters\":\"raw\",\"virtual_size\":{size},\
             \"content_size\":{content},\"digest\":\"tree-{algorithm}\",\"leaf_size\":{LEAF_LEN},\
             \"chunk_size\":{CHUNK_LEN}}}\n"
        );
        let whole = content / CHUNK_LEN;
        let short = content % CHUNK_LEN;
        for (at, chunks, len) in [(0, whole, CHUNK_LEN), (whole * CHUNK_LEN, u64::from(short > 0), short)] {
            if chunks > 0 {
                let digest = hasher.zero_chunk(len);
                tree.push(digest, chunks);
                text += &format!("{{\"at\":{at},\"chunks\":{chunks},\"digest\":\"{digest}\"}}\n");
            }
        }
        text += &format!("{{\"tree\":\"{}\",\"output_size\":{size}}}\n", tree.finish(content));
        put("manifest", name, text.as_bytes());
        put("manifest", &format!("{name}-cut"), &text.as_bytes()[..text.len() - 2]);
        disks += &text;
    }
    let head = "{\"vmferry-manifest\":2,\"format\":\"ova\",\"parameters\":\"ova mtime=0\",\"disks\":3}";
    put("manifest", "container", format!("{head}\n{disks}{{\"output_size\":9}}\n").as_bytes());
}

fn ovf_parser() {
    for seed in [1, 2, 7] {
        let text = ovf::sample(seed).to_template().expect("a descriptor");
        put("ovf_parser", &format!("sample-{seed}"), text.as_bytes());
    }
    let envelope = |version: u8, front: &str, inner: &str| {
        format!(
            "{front}<o:Envelope xmlns:o='http://schemas.dmtf.org/ovf/envelope/{version}' \
             xmlns:r='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData'>{inner}\
             <o:VirtualSystem o:id='v'><o:VirtualHardwareSection><o:Item><r:ElementName>a&#x42;<![CDATA[<]]></r:ElementName>\
             <r:ResourceType>17</r:ResourceType></o:Item></o:VirtualHardwareSection></o:VirtualSystem></o:Envelope>"
        )
    };
    let put = |name: &str, text: String| put("ovf_parser", name, text.as_bytes());
    put("foreign", envelope(1, "<?xml version='1.0' encoding='UTF-8'?>\n<!-- x -->", "<o:References/>"));
    put("version-2", envelope(2, "", ""));
    put("doctype", envelope(1, "<!DOCTYPE a [<!ENTITY b 'c'>]>", "<o:A>&b;</o:A>"));
    put("entity", envelope(1, "", "<o:A>&b;</o:A>"));
    put("deep", envelope(1, "", &"<o:A>".repeat(50)));
    put(
        "units",
        envelope(
            1,
            "",
            "<o:DiskSection><o:Disk o:diskId='d' o:capacity='9' o:capacityAllocationUnits='byte * 2^40'/></o:DiskSection>",
        ),
    );
}

fn ova_reader() {
    const OVF: &[u8] = b"<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1'/>";
    let put = |name: &str, entries: &[(&str, u8, &[u8])]| put("ova_reader", name, &tar(entries));
    let manifest = format!("SHA1(x.ovf)= {}\n", "00".repeat(20));
    put(
        "plain",
        &[
            ("x.ovf", b'0', OVF),
            ("x.mf", b'0', manifest.as_bytes()),
            ("x.cert", b'0', b"SHA256(x.mf)= 0011\n-----BEGIN CERTIFICATE-----\n"),
            ("x.vmdk", b'0', b"KDMV"),
        ],
    );
    put("long-name", &[("././@LongLink", b'L', b"x.ovf\0"), ("x", b'0', OVF)]);
    put("pax", &[("g", b'g', b"11 a=bcdef\n"), ("p", b'x', b"14 path=x.ovf\n"), ("x", b'0', OVF)]);
    put("sparse", &[("p", b'x', b"22 GNU.sparse.major=1\n"), ("x.ovf", b'0', OVF)]);
    put("link", &[("x.ovf", b'0', OVF), ("x.vmdk", b'2', b"")]);
    put("path", &[("x.ovf", b'0', OVF), ("../x.vmdk", b'0', b"x")]);
    put("twice", &[("x.ovf", b'0', OVF), ("X.OVF", b'0', OVF)]);
}

fn qcow2_reader() {
    let disk = disk(24 << 10);
    for (name, cluster_bits, compression) in [
        ("ours-plain", 9, Compression::None),
        ("ours-deflate", 12, Compression::Deflate),
        ("ours-zstd", 12, Compression::Zstd),
    ] {
        let spec = WriterSpec::Qcow2(Qcow2Options { cluster_bits, compression, level: Level::Number(4) });
        put("qcow2_reader", name, &write_image(&spec, &disk, "x", true).expect("it fits"));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let qemu = |name: &str, options: &str, more: &[&str]| {
        let path = directory.path().join(name);
        fs::write(directory.path().join("disk.raw"), &disk).expect("a disk");
        let mut arguments = vec!["convert", "-q", "-f", "raw", "-O", "qcow2", "-o", options];
        arguments.extend(more);
        run(directory.path(), &[&arguments[..], &["disk.raw", name]].concat());
        path
    };
    let small = "cluster_size=512";
    let paths = [
        qemu("qemu-v2", &format!("{small},compat=0.10"), &[]),
        qemu("qemu-v3", small, &[]),
        qemu("qemu-metadata", &format!("{small},preallocation=metadata,lazy_refcounts=on"), &[]),
        qemu("qemu-deflate", "cluster_size=4096", &["-c"]),
        qemu("qemu-zstd", "cluster_size=4096,compression_type=zstd", &["-c"]),
        qemu("qemu-refcount-1", &format!("{small},refcount_bits=1"), &[]),
        qemu("qemu-extended-l2", "cluster_size=16384,extended_l2=on", &[]),
    ];
    let snapshot = qemu("qemu-snapshot", small, &[]);
    run(directory.path(), &["snapshot", "-c", "before", "qemu-snapshot"]);
    run(
        directory.path(),
        &["create", "-q", "-f", "qcow2", "-o", small, "-F", "raw", "-b", "disk.raw", "qemu-backing"],
    );
    let backing = directory.path().join("qemu-backing");
    for path in paths.iter().chain([&snapshot, &backing]) {
        let name = path.file_name().expect("a name").to_str().expect("ASCII");
        put("qcow2_reader", name, &fs::read(path).expect("an image"));
    }
}

fn vmdk_reader() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("disk.raw"), disk(24 << 10)).expect("a disk");
    let convert = |subformat: &str, name: &str| {
        let options = format!("subformat={subformat}");
        run(
            directory.path(),
            &["convert", "-q", "-f", "raw", "-O", "vmdk", "-o", &options, "disk.raw", name],
        );
        let image = fs::read(directory.path().join(name)).expect("an image");
        put("vmdk_reader", name, &image);
        if subformat == "streamOptimized" {
            put("vmdk_stream", name, &image);
        }
    };
    convert("monolithicSparse", "qemu-monolithic-sparse");
    convert("streamOptimized", "qemu-stream-optimized");
    convert("monolithicFlat", "qemu-flat-descriptor");
    convert("twoGbMaxExtentSparse", "qemu-extents-descriptor");
    for subformat in [Subformat::StreamOptimized, Subformat::MonolithicSparse] {
        let spec = WriterSpec::Vmdk(VmdkOptions { subformat, level: Level::Number(4), id_seed: None });
        let image = write_image(&spec, &disk(200 << 10), "x.vmdk", true).expect("it fits");
        put("vmdk_reader", &format!("ours-{subformat}"), &image);
        if subformat == Subformat::StreamOptimized {
            put("vmdk_stream", "ours", &image);
            // Without the marker at the end it is not complete.
            put("vmdk_stream", "cut", &image[..image.len() - 512]);
        }
    }
    let text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 2048 FLAT \"../../etc/passwd\" 0\n";
    put("vmdk_reader", "hostile-descriptor", text.as_bytes());
}

/// Parameters, then runs: kind, magnitude and fine length, as the targets read them.
fn writers() {
    let runs: [(&str, &[u8]); 5] = [
        ("zeros-then-byte", &[0, 22, 128, 1 + 4 * 9, 0, 0]),
        ("noise", &[2, 16, 200, 0, 13, 128, 2, 12, 1]),
        ("chunks", &[5, 21, 128, 5, 22, 129, 0, 21, 127, 6, 9, 3]),
        ("literal", b"\x03\x06\x80some bytes of a disk, some bytes of a disk, some bytes of a disk"),
        ("odd", &[1 + 4 * 60, 9, 127, 0, 9, 129, 2, 16, 129]),
    ];
    for (name, runs) in runs {
        for (index, head) in
            [[7_u8, 0, 0, 0], [7, 1, 0, 1], [0, 2, 3, 0], [12, 1, 4, 0], [3, 1, 2, 1]].iter().enumerate()
        {
            if name == "chunks" && head[0] == 0 {
                continue;
            }
            put("qcow2_writer", &format!("{name}-{index}"), &[&head[..], runs].concat());
        }
        for (index, head) in [[0_u8, 0, 0], [1, 0, 0], [0, 3, 1]].iter().enumerate() {
            put("vmdk_writer", &format!("{name}-{index}"), &[&head[..], runs].concat());
        }
    }
}

fn run(directory: &std::path::Path, arguments: &[&str]) {
    let mut command = Command::new("qemu-img");
    command.args(arguments).current_dir(directory);
    let status = command.status().expect("qemu-img runs");
    assert!(status.success(), "{command:?}");
}
