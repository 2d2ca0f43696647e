//! Appliances of foreign making: archives by GNU tar and by Python, disks by qemu-img, a descriptor by
//! hand. What they hold, what is wrong with them, and that they come from servers too.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    server::Server,
    support::{have, listing, make_disk, missing, read, run, scratch, tool},
};

/// Bytes of the disks; the second is odd and ends in a grain that is not whole.
const SIZES: [usize; 2] = [21 << 20, (5 << 20) + (1 << 10)];

/// An appliance of two disks: descriptor, manifest and disks in a directory, RAW disks beside.
struct Two {
    directory: tempfile::TempDir,
}

impl Two {
    fn make() -> Option<Self> {
        if !have("qemu-img") || !have("tar") || !have("sha256sum") {
            return None;
        }
        let this = Self { directory: scratch() };
        let mut descriptor = include_str!("../data/two-disks.ovf").to_owned();
        // The second capacity is in units of a MiB in the file; here it is not a whole number of them.
        descriptor = descriptor.replace(" ovf:capacityAllocationUnits=\"byte * 2^20\"", "");
        fs::create_dir(this.path("two")).unwrap();
        for (index, size) in SIZES.into_iter().enumerate() {
            let number = index + 1;
            let raw = this.path(&format!("{number}.raw"));
            make_disk(&raw, 80 + number as u64, size);
            let vmdk = this.path(&format!("two/two-disk{number}.vmdk"));
            let [raw, vmdk] = [&raw, &vmdk].map(|path| path.to_str().unwrap());
            tool(
                "qemu-img",
                ["convert", "-q", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk],
            );
            let stored = fs::metadata(vmdk).unwrap().len();
            descriptor = descriptor
                .replace(&format!("@SIZE{number}@"), &stored.to_string())
                .replace(&format!("@CAPACITY{number}@"), &size.to_string());
        }
        fs::write(this.path("two/two.ovf"), descriptor).unwrap();
        this.write_manifest("sha256sum", "SHA256");
        Some(this)
    }

    fn write_manifest(&self, program: &str, label: &str) {
        let mut manifest = String::new();
        for name in ["two.ovf", "two-disk1.vmdk", "two-disk2.vmdk"] {
            let sum = tool(program, [self.path("two").join(name)]);
            manifest.push_str(&format!("{label}({name})= {}\n", sum.split(' ').next().unwrap()));
        }
        fs::write(self.path("two/two.mf"), manifest).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Packs the directory with GNU tar, in this order.
    fn pack(&self, archive: &str, format: &str, names: &[&str]) -> PathBuf {
        let archive = self.path(archive);
        let (format, inside) = (format!("--format={format}"), self.path("two"));
        let fixed = [&format, "-cf", archive.to_str().unwrap(), "-C", inside.to_str().unwrap()];
        tool("tar", fixed.iter().copied().chain(names.iter().copied()));
        archive
    }

    /// Packs it with Python's tarfile.
    fn pack_by_python(&self, archive: &str, format: &str) -> PathBuf {
        let script = "\
import sys, tarfile
archive, directory, format = sys.argv[1:4]
with tarfile.open(archive, 'w', format=getattr(tarfile, format + '_FORMAT')) as tar:
    for name in sys.argv[4:]:
        # Something that only an extended header holds.
        tar.add(directory + '/' + name, name, filter=lambda entry: (setattr(entry, 'mtime', 1700000000.25), entry)[1])
";
        let archive = self.path(archive);
        let inside = self.path("two");
        let fixed = ["-c", script, archive.to_str().unwrap(), inside.to_str().unwrap(), format];
        tool("python3", fixed.iter().copied().chain(NAMES));
        archive
    }
}

const NAMES: [&str; 4] = ["two.ovf", "two.mf", "two-disk1.vmdk", "two-disk2.vmdk"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Converts each disk of `source` and holds it against what it was made of.
fn each_disk_is_right(two: &Two, source: &str, more: &[&str]) {
    for (number, name) in [(1, "two-disk1.vmdk"), (2, "vmdisk2")] {
        for choice in [&number.to_string(), name] {
            let output = two.path("out.qcow2");
            let mut args =
                vec!["convert", "-q", source, text(&output), "--disk", choice, "--verify", "--force"];
            args.extend(more);
            run(&args).expect(0);
            let raw = two.path(&format!("{number}.raw"));
            tool("qemu-img", ["compare", "-q", "-f", "raw", "-F", "qcow2", text(&raw), text(&output)]);
        }
    }
}

#[test]
fn every_kind_of_archive_is_read() {
    let Some(two) = Two::make() else { return };
    let mut archives = Vec::new();
    for format in ["gnu", "oldgnu", "ustar", "pax"] {
        archives.push((two.pack(&format!("{format}.ova"), format, &NAMES), format == "pax"));
    }
    if have("python3") {
        for format in ["GNU", "USTAR", "PAX"] {
            archives.push((two.pack_by_python(&format!("py-{format}.ova"), format), format == "PAX"));
        }
    }
    for (archive, is_pax) in archives {
        let report = run(["verify", "-o", "json", text(&archive)]).expect(0).json();
        assert_eq!(report["verified"], true);
        let of = |outcome: &str| {
            report["checks"].as_array().unwrap().iter().filter(|check| check["outcome"] == outcome).count()
        };
        assert_eq!((of("warning") > 0, of("not-checked"), of("failed")), (is_pax, 0, 0), "{report}");
        each_disk_is_right(&two, text(&archive), &[]);
    }
    let descriptor = two.path("two/two.ovf");
    run(["verify", "-q", text(&descriptor)]).expect(0);
    each_disk_is_right(&two, text(&descriptor), &[]);
    assert_eq!(listing(&two.path("two")), ["two-disk1.vmdk", "two-disk2.vmdk", "two.mf", "two.ovf"]);
}

/// A disk is what its image says; whoever sized a volume by the descriptor must hear of it.
#[test]
fn a_disk_of_another_size_than_the_descriptor_says_is_told() {
    let Some(two) = Two::make() else { return };
    let descriptor = two.path("two/two.ovf");
    let stated = SIZES[1] + 512;
    let text_of = fs::read_to_string(&descriptor).unwrap();
    let said = format!("ovf:capacity=\"{}\"", SIZES[1]);
    assert!(text_of.contains(&said));
    fs::write(&descriptor, text_of.replace(&said, &format!("ovf:capacity=\"{stated}\""))).unwrap();
    let warning = format!("the disk has {} bytes, and the descriptor says {stated}", SIZES[1]);
    let source = text(&descriptor);
    let output = two.path("out.qcow2");
    let told = run(["convert", source, text(&output), "--disk", "2"]).expect(0).stderr;
    assert!(told.contains(&warning), "{told}");
    let report =
        run(["convert", "-o", "json", source, text(&output), "--disk", "2", "--force"]).expect(0).json();
    assert_eq!(report["warnings"][0], *warning);
    assert!(run(["inspect", source, "--disk", "2"]).expect(0).stderr.contains(&warning));
    let told = run(["convert", source, text(&output), "--disk", "1", "--force"]).expect(0).stderr;
    assert!(!told.contains("warning"), "{told}");
    let failed = String::from_utf8(run(["verify", source]).expect(3).stdout).unwrap();
    assert!(failed.contains(&warning), "{failed}");
}

#[test]
fn inspect_shows_hardware_disks_and_files() {
    let Some(two) = Two::make() else { return };
    let archive = two.pack("two.ova", "gnu", &NAMES);
    let report = run(["inspect", "-o", "json", text(&archive)]).expect(0).json();
    assert_eq!((report["format"].as_str(), report["cpus"].as_u64()), (Some("ova"), Some(2)));
    assert_eq!(report["memory"].as_u64(), Some(1 << 30));
    assert_eq!(report["system"]["firmware"], "efi");
    assert_eq!(report["system"]["vmware_os"], "debian12_64Guest");
    assert_eq!(report["networks"][0], "VM Network");
    for (index, size) in SIZES.into_iter().enumerate() {
        let disk = &report["disks"][index];
        assert_eq!(disk["capacity"].as_u64(), Some(size as u64));
        let file = &report["files"][index + 2];
        assert_eq!((&file["name"], &file["size"]), (&disk["file"], &disk["file_size"]));
        // What stands there is a VMDK.
        let mut magic = [0; 4];
        let at = file["offset"].as_u64().unwrap();
        fs::File::open(&archive).unwrap().read_exact_at(&mut magic, at).unwrap();
        assert_eq!(&magic, b"KDMV");
    }
    let shown = run(["inspect", text(&archive)]).expect(0);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for word in ["two-disk2.vmdk  (vmdisk2, ", "Network adapter 1", "VmxNet3", "1 GiB", "at 3:1"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let disk = run(["inspect", "-o", "json", "--disk", "2", text(&archive)]).expect(0).json();
    assert_eq!(disk["info"]["variant"], "streamOptimized");
    // Which disk is meant must be said, and the answer is in the error.
    let output = two.path("out.raw");
    let refused = run(["convert", "-q", text(&archive), text(&output)]).expect(2);
    assert!(refused.stderr.contains("2  two-disk2.vmdk (vmdisk2)"), "{}", refused.stderr);
    run(["convert", "-q", text(&archive), text(&output), "--disk", "3"]).expect(2);
    let raw = two.path("2.raw");
    let digest = |args: &[&str]| run(args).expect(0).json()["digest"]["tree"].clone();
    assert_eq!(
        digest(&["digest", "-o", "json", "--disk", "vmdisk2", text(&archive)]),
        digest(&["digest", "-o", "json", text(&raw)])
    );
    run(["map", "--disk", "1", text(&archive)]).expect(0);
    run(["map", "--disk", "1", text(&raw)]).expect(2);
}

#[test]
fn a_flipped_byte_anywhere_is_found() {
    let Some(two) = Two::make() else { return };
    for (program, label) in [("sha1sum", "SHA1"), ("sha256sum", "SHA256"), ("sha512sum", "SHA512")] {
        two.write_manifest(program, label);
        let archive = two.pack("two.ova", "gnu", &NAMES);
        let files = run(["inspect", "-o", "json", text(&archive)]).expect(0).json()["files"].clone();
        let file = fs::OpenOptions::new().read(true).write(true).open(&archive).unwrap();
        for entry in files.as_array().unwrap() {
            let [offset, size] = ["offset", "size"].map(|name| entry[name].as_u64().unwrap());
            for at in [0, size / 3, size / 2, size - 2] {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset + at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], offset + at).unwrap();
                let verified = run(["verify", text(&archive)]);
                assert!(
                    verified.code == Some(3),
                    "{label} {entry} {at}: {:?} {}",
                    verified.code,
                    verified.stderr
                );
                file.write_all_at(&byte, offset + at).unwrap();
            }
        }
        run(["verify", text(&archive)]).expect(0);
    }
}

#[test]
fn archives_that_are_damaged_or_hostile_are_refused() {
    let Some(two) = Two::make() else { return };
    let archive = two.pack("two.ova", "gnu", &NAMES);
    let bytes = read(&archive);
    let cut = two.path("cut.ova");
    for len in [100, 1000, 9000, bytes.len() / 2, bytes.len() / 512 * 512 - 20 * 512] {
        fs::write(&cut, &bytes[..len]).unwrap();
        let failed = run(["verify", text(&cut)]);
        assert!(matches!(failed.code, Some(2 | 3)), "{len}: {:?} {}", failed.code, failed.stderr);
        let output = two.path("out.raw");
        let failed = run(["convert", "-q", text(&cut), text(&output), "--disk", "1"]);
        assert!(matches!(failed.code, Some(1 | 2)) && !output.exists(), "{len}: {}", failed.stderr);
    }
    // Things that have no place in an OVA, as tar writes them.
    let inside = two.path("two");
    std::os::unix::fs::symlink("/etc/passwd", inside.join("link.vmdk")).unwrap();
    fs::create_dir(inside.join("sub")).unwrap();
    fs::write(inside.join("sub/x.vmdk"), b"x").unwrap();
    for (more, word) in [
        ("link.vmdk", "a symbolic link"),
        ("sub", "a directory"),
        ("sub/x.vmdk", "a directory in it"),
        ("two.ovf", "a hard link"),
        (".", "a directory"),
    ] {
        let names: Vec<&str> = NAMES.into_iter().chain([more]).collect();
        let hostile = two.pack("hostile.ova", "gnu", &names);
        for command in ["inspect", "verify"] {
            let refused = run([command, text(&hostile)]).expect(5);
            assert!(refused.stderr.contains(word), "{more}: {}", refused.stderr);
        }
    }
    // A disk stored as a sparse entry.
    let sparse = two.path("two/sparse.raw");
    fs::File::create(&sparse).unwrap().set_len(8 << 20).unwrap();
    let names: Vec<&str> = ["-S"].into_iter().chain(NAMES).chain(["sparse.raw"]).collect();
    for format in ["gnu", "pax"] {
        let hostile = two.pack("sparse.ova", format, &names);
        let refused = run(["inspect", text(&hostile)]).expect(1);
        assert!(refused.stderr.contains("stored sparsely"), "{format}: {}", refused.stderr);
    }
}

#[test]
fn a_signature_by_openssl_is_checked() {
    let Some(two) = Two::make() else { return };
    if !have("openssl") && Command::new("openssl").arg("version").output().is_err() {
        return missing("openssl");
    }
    for (kind, hash) in
        [("rsa:2048", "sha256"), ("rsa:2048", "sha512"), ("rsa:2048", "sha1"), ("ec", "sha256")]
    {
        let (key, cert, signature) = (two.path("key.pem"), two.path("cert.pem"), two.path("signature"));
        let mut args = vec!["req", "-x509", "-newkey", kind, "-nodes", "-subj", "/CN=test", "-days", "2"];
        if kind == "ec" {
            args.extend(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        args.extend(["-keyout", text(&key), "-out", text(&cert)]);
        tool("openssl", args);
        let manifest = two.path("two/two.mf");
        let hash_option = format!("-{hash}");
        tool(
            "openssl",
            ["dgst", &hash_option, "-sign", text(&key), "-out", text(&signature), text(&manifest)],
        );
        let hex: String = read(&signature).iter().map(|byte| format!("{byte:02x}")).collect();
        let pem = fs::read_to_string(&cert).unwrap();
        let text_of = format!("{}(two.mf)= {hex}\n{pem}", hash.to_uppercase());
        fs::write(two.path("two/two.cert"), text_of).unwrap();
        let names = ["two.ovf", "two.mf", "two.cert", "two-disk1.vmdk", "two-disk2.vmdk"];
        let verify = |archive: &Path, code| {
            let report = run(["verify", "-o", "json", text(archive)]).expect(code).json();
            let checks = report["checks"].as_array().unwrap().clone();
            let check = checks.into_iter().find(|check| check["check"] == "certificate").unwrap();
            check["outcome"].as_str().unwrap().to_owned()
        };
        assert_eq!(verify(&two.pack("signed.ova", "gnu", &names), 0), "ok", "{kind} {hash}");
        assert_eq!(verify(&two.path("two/two.ovf"), 0), "ok");
        // Another manifest, as right as the first.
        two.write_manifest("sha1sum", "SHA1");
        assert_eq!(verify(&two.pack("forged.ova", "gnu", &names), 3), "failed", "{kind} {hash}");
        two.write_manifest("sha256sum", "SHA256");
    }
}

#[test]
fn a_server_is_read_like_a_file() {
    let Some(two) = Two::make() else { return };
    let archive = two.pack("two.ova", "gnu", &NAMES);
    let server = Server::start(two.directory.path());
    server.put("/images/two.ova", read(&archive));
    let url = server.url("/images/two.ova?x=y");
    let options = server.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let with = |args: &[&str]| run(args.iter().copied().chain(options.iter().copied()));
    // The server of the tests knows paths, not queries.
    with(&["inspect", &url]).expect(1);
    let url = server.url("/images/two.ova");
    let before = server.state.gets.load(std::sync::atomic::Ordering::SeqCst);
    let report = with(&["inspect", "-o", "json", &url]).expect(0).json();
    assert_eq!(report["disks"].as_array().unwrap().len(), 2);
    // Headers and texts in blocks, not the disks.
    let gets = server.state.gets.load(std::sync::atomic::Ordering::SeqCst) - before;
    assert!(gets < 12, "{gets} requests");
    each_disk_is_right(&two, &url, &options);
    with(&["verify", "-q", &url]).expect(0);
}

#[test]
fn a_conversion_from_an_archive_resumes_and_notices_another_one() {
    let Some(two) = Two::make() else { return };
    let archive = two.pack("two.ova", "gnu", &NAMES);
    let output = two.path("disk.qcow2");
    let convert = |more: &[&str]| {
        let args = ["convert", "-q", text(&archive), text(&output), "--disk", "1"];
        run(args.iter().copied().chain(more.iter().copied()))
    };
    convert(&[]).expect(0);
    let whole = read(&output);
    let remove = || {
        fs::remove_file(&output).unwrap();
        fs::remove_file(two.path("disk.qcow2.vmferry.jsonl")).unwrap();
    };
    remove();
    // A limit on the output's size ends the run in the middle.
    let limited = |bytes: u64| {
        let script = format!("ulimit -f {}; trap '' XFSZ; exec \"$@\"", bytes / 1024);
        let status = Command::new("bash")
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_vmferry"), "convert", "-q", text(&archive)])
            .args([
                text(&output),
                "--disk",
                "1",
                "--checkpoint-bytes",
                "256KiB",
                "--checkpoint-interval",
                "10ms",
            ])
            .output()
            .unwrap();
        assert!(!status.status.success());
    };
    limited(whole.len() as u64 / 1024 * 1024 / 2);
    assert!(
        !output.exists() && two.path("disk.qcow2.partial").exists(),
        "{:?}",
        listing(two.directory.path())
    );
    convert(&[]).expect(0);
    assert!(read(&output) == whole);
    // The same place in another file is another source.
    remove();
    limited(whole.len() as u64 / 1024 * 1024 / 2);
    two.pack("two.ova", "ustar", &NAMES);
    let refused = convert(&[]).expect(4);
    assert!(refused.stderr.contains("--restart"), "{}", refused.stderr);
}

#[test]
fn what_we_pack_is_verified_down_to_its_chunks() {
    let directory = scratch();
    let path = |name: &str| directory.path().join(name);
    let mut template = include_str!("../data/two-disks.ovf").replace("byte * 2^20", "byte");
    for (index, size) in SIZES.into_iter().enumerate() {
        let number = index + 1;
        make_disk(&path(&format!("{number}.raw")), 60 + number as u64, size);
        make_disk(&path(&format!("{number}.other.raw")), 70 + number as u64, size);
        template = template
            .replace(&format!("@SIZE{number}@"), &format!("<vmferry-size-{index:05}>"))
            .replace(&format!("@CAPACITY{number}@"), &size.to_string());
    }
    fs::write(path("two.template"), template).unwrap();
    let pack = |output: &str, suffix: &str, more: &[&str]| {
        let disks = [path(&format!("1{suffix}")), path(&format!("2{suffix}"))];
        let [ovf, output] = [path("two.template"), path(output)];
        fs::create_dir_all(output.parent().unwrap()).unwrap();
        let args =
            ["pack", "-q", "--descriptor", text(&ovf), "--disk", text(&disks[0]), "--disk", text(&disks[1])];
        run(args.iter().copied().chain(more.iter().copied()).chain([text(&output)])).expect(0);
        output
    };
    let verify = |image: &Path, code| {
        let report = run(["verify", "-o", "json", text(image)]).expect(code).json();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().filter(|check| check["check"] == "disk").collect::<Vec<_>>()
    };
    let archive = pack("a/two.ova", ".raw", &[]);
    let other = pack("b/two.ova", ".other.raw", &["--manifest-algorithm", "sha1"]);
    for image in [&archive, &other] {
        for check in verify(image, 0) {
            let detail = check["detail"].as_str().unwrap();
            assert!(detail.contains("content as in two.ova.vmferry.jsonl"), "{detail}");
        }
    }
    // Each is right by itself, but not what the manifest of the other says.
    let kept = |image: &Path| image.with_file_name("two.ova.vmferry.jsonl");
    fs::copy(kept(&other), kept(&archive)).unwrap();
    for check in verify(&archive, 3) {
        assert_eq!(check["outcome"], "failed");
        assert!(check["detail"].as_str().unwrap().contains("chunks at guest bytes"), "{check}");
    }
    fs::remove_file(kept(&archive)).unwrap();
    assert!(verify(&archive, 0).iter().all(|check| !check["detail"].as_str().unwrap().contains("as in")));
    fs::write(kept(&archive), "{}\n").unwrap();
    run(["verify", "-q", text(&archive)]).expect(3);
    // An OVF directory has a manifest beside each disk.
    let unpacked = pack("c/two", ".raw", &["--format", "ovf"]);
    let descriptor = unpacked.join("two.ovf");
    for check in verify(&descriptor, 0) {
        assert!(check["detail"].as_str().unwrap().contains(".vmdk.vmferry.jsonl"), "{check}");
    }
    for number in ["1", "2"] {
        let output = path("out.raw");
        run(["convert", "-q", "--force", "--disk", number, text(&archive), text(&output)]).expect(0);
        let mut back = read(&output);
        let disk = read(&path(&format!("{number}.raw")));
        back.truncate(disk.len());
        assert!(back == disk);
    }
}
