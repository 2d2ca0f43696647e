//! Appliances: what tar, Python, `sha256sum`, `qemu-img` and `openssl` say of what `pack` writes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{Finished, have, listing, make_disk, read, run, scratch, tool, vmferry, write_sparse};

/// A descriptor of disks with these names and sizes, as a template.
pub(crate) fn descriptor(disks: &[(String, u64)]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n <References>\n",
    );
    for (index, (name, _)) in disks.iter().enumerate() {
        let number = index + 1;
        text.push_str(&format!(
            "  <File ovf:href=\"{name}\" ovf:id=\"file{number}\" ovf:size=\"<vmferry-size-{index:05}>\"/>\n"
        ));
    }
    text.push_str(" </References>\n <DiskSection>\n  <Info>Disks</Info>\n");
    for (index, (_, size)) in disks.iter().enumerate() {
        let number = index + 1;
        text.push_str(&format!(
            "  <Disk ovf:diskId=\"disk{number}\" ovf:fileRef=\"file{number}\" ovf:capacity=\"{size}\" \
             ovf:populatedSize=\"<vmferry-used-{index:05}>\"/>\n"
        ));
    }
    text.push_str(
        " </DiskSection>\n <VirtualSystem ovf:id=\"vm\"><Info>A machine</Info></VirtualSystem>\n</Envelope>\n",
    );
    text
}

/// The values of an option.
fn values<'a>(args: &[&'a str], option: &str) -> Vec<&'a str> {
    args.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
}

/// Bytes of the guest disk in `source`, as an image holds them.
fn capacity(source: &str, more: &[&str]) -> u64 {
    let stated = values(more, "--source-size")
        .first()
        .map(|size| size.strip_suffix("MiB").expect("a size in MiB").parse::<u64>().unwrap() << 20);
    let size = stated.unwrap_or_else(|| match fs::read(source).unwrap_or_default() {
        image if image.starts_with(b"QFI\xfb") => u64::from_be_bytes(image[24..32].try_into().unwrap()),
        image => image.len() as u64,
    });
    size.next_multiple_of(512)
}

/// The arguments that pack `disks` into `output`, with a descriptor beside the first of them.
pub(crate) fn pack(disks: &[PathBuf], output: &Path, more: &[&str]) -> Vec<String> {
    let base = output.file_stem().unwrap().to_str().unwrap();
    let ovf = disks[0].with_file_name(format!("{base}-{}.template", disks.len()));
    let mut sources: Vec<&str> = disks.iter().map(|disk| disk.to_str().unwrap()).collect();
    sources.extend(values(more, "--disk"));
    let names = values(more, "--disk-name");
    let described: Vec<(String, u64)> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| {
            let usual = format!("{base}-disk{}.vmdk", index + 1);
            (names.get(index).map_or(usual, |&name| name.to_owned()), capacity(source, more))
        })
        .collect();
    fs::write(&ovf, descriptor(&described)).unwrap();
    let mut args = vec!["pack".to_owned(), "-q".into(), "-o".into(), "json".into()];
    args.extend(["--descriptor".into(), ovf.to_str().unwrap().into()]);
    for disk in disks {
        args.extend(["--disk".into(), disk.to_str().unwrap().into()]);
    }
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args.push(output.to_str().unwrap().into());
    args
}

/// Four disks: data, nothing but zeros, an odd size, a small one.
pub(crate) fn four_disks(directory: &Path, seed: u64) -> Vec<PathBuf> {
    let path = |name: &str| directory.join(name);
    make_disk(&path("data.raw"), seed, 17 << 20);
    write_sparse(&path("zeros.raw"), &vec![0; 40 << 20]);
    make_disk(&path("odd.raw"), seed + 1, (9 << 20) + 700);
    make_disk(&path("small.raw"), seed + 2, 1000);
    ["data.raw", "zeros.raw", "odd.raw", "small.raw"].map(path).to_vec()
}

/// Name, length and offset of what Python finds in an archive.
fn members(archive: &Path) -> Vec<(String, u64, u64)> {
    let script = "import sys, tarfile\n\
                  for m in tarfile.open(sys.argv[1], 'r:'):\n\
                  \x20   assert m.isreg() and not m.pax_headers and m.mode == 0o644 and m.uid == m.gid == 0\n\
                  \x20   print(m.name, m.size, m.offset_data, m.mtime)";
    let listing = tool("python3", ["-c", script, archive.to_str().unwrap()]);
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[0].to_owned(), fields[1].parse().unwrap(), fields[2].parse().unwrap())
    };
    listing.lines().map(line).collect()
}

fn extract(archive: &Path, name: &str) -> Vec<u8> {
    let output = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    output.stdout
}

/// What `qemu-img` takes for the image at a place of an archive.
pub(crate) fn inside(archive: &Path, offset: u64, size: u64) -> String {
    let filename = archive.to_str().unwrap();
    format!(
        "json:{{\"driver\":\"vmdk\",\"file\":{{\"driver\":\"raw\",\"offset\":{offset},\"size\":{size},\
         \"file\":{{\"driver\":\"file\",\"filename\":\"{filename}\"}}}}}}"
    )
}

/// Everything that must hold of an archive of these disks.
#[track_caller]
fn judge(archive: &Path, disks: &[PathBuf], report: &Value, algorithm: &str) {
    let base = archive.file_stem().unwrap().to_str().unwrap();
    let members = members(archive);
    let names: Vec<String> = (1..=disks.len())
        .map(|number| format!("{base}-disk{number}.vmdk"))
        .chain([format!("{base}.mf")])
        .collect();
    assert_eq!(members[0].0, format!("{base}.ovf"));
    assert!(members[1..].iter().map(|(name, ..)| name).eq(&names), "{members:?}");
    let listing = tool("tar", ["-tvf", archive.to_str().unwrap()]);
    assert_eq!(listing.lines().count(), members.len());
    let len = fs::metadata(archive).unwrap().len();
    let (_, last_len, last_at) = members.last().unwrap();
    assert_eq!(len, (last_at + last_len).next_multiple_of(512) + 1024, "two blocks of zeros and the end");
    assert_eq!(report["output_size"], len);

    let text = String::from_utf8(extract(archive, &format!("{base}.ovf"))).unwrap();
    let described: Vec<(String, u64)> = (1..)
        .zip(disks)
        .map(|(number, disk)| (format!("{base}-disk{number}.vmdk"), capacity(disk.to_str().unwrap(), &[])))
        .collect();
    assert_eq!(text.len(), descriptor(&described).len());
    assert!(text.trim_end().ends_with("</Envelope>"), "{text}");
    for (index, disk) in disks.iter().enumerate() {
        let (name, size, offset) = &members[index + 1];
        assert!(
            text.contains(&format!("href=\"{name}\" ovf:id=\"file{}\" ovf:size=\"{size}\"", index + 1)),
            "{text}"
        );
        let told = &report["disks"][index];
        assert_eq!((told["file_size"].as_u64(), told["offset"].as_u64()), (Some(*size), Some(*offset)));
        let used = told["virtual_size"].as_u64().unwrap() - told["zero_bytes"].as_u64().unwrap();
        assert!(text.contains(&format!("ovf:populatedSize=\"{used}\"/>")), "{text}");
        let image = inside(archive, *offset, *size);
        tool("qemu-img", ["check", "-q", &image]);
        let source = disk.to_str().unwrap();
        let other = if source.ends_with(".raw") { "raw" } else { "qcow2" };
        let opened = format!(
            "json:{{\"driver\":\"{other}\",\"file\":{{\"driver\":\"file\",\"filename\":\"{source}\"}}}}"
        );
        tool("qemu-img", ["compare", "-q", &opened, &image]);
        let digest = run(["digest", "-q", "-o", "json", source]).expect(0).json();
        assert_eq!(told["digest"]["tree"], digest["digest"]["tree"], "{source}");
    }

    // The files by themselves, and what the manifest says of them.
    let unpacked = scratch();
    tool("tar", ["-xf", archive.to_str().unwrap(), "-C", unpacked.path().to_str().unwrap()]);
    let manifest = fs::read_to_string(unpacked.path().join(format!("{base}.mf"))).unwrap();
    assert_eq!(manifest.lines().count(), disks.len() + 1);
    let label = algorithm.to_uppercase();
    let sums: String = manifest
        .lines()
        .map(|line| {
            let (name, hash) = line.strip_prefix(&format!("{label}(")).unwrap().split_once(")= ").unwrap();
            format!("{hash}  {name}\n")
        })
        .collect();
    assert!(sums.lines().next().unwrap().ends_with(".ovf"), "the descriptor comes first");
    fs::write(unpacked.path().join("sums"), sums).unwrap();
    let check = format!("cd '{}' && {algorithm}sum --strict -c sums", unpacked.path().display());
    assert_eq!(tool("sh", ["-c", &check]).matches(": OK").count(), disks.len() + 1);
}

pub(crate) fn have_judges() -> bool {
    ["tar", "python3", "qemu-img", "sha256sum", "sha1sum"].iter().all(|program| have(program))
}

#[test]
fn archives_of_one_two_and_four_disks_are_what_others_read() {
    if !have_judges() {
        return;
    }
    let directory = scratch();
    let mut disks = four_disks(directory.path(), 400);
    let image = directory.path().join("odd.qcow2");
    run(["convert", "-q", disks[2].to_str().unwrap(), image.to_str().unwrap()]).expect(0);
    disks[2] = image;
    for (count, algorithm) in [(1, "sha256"), (2, "sha1"), (4, "sha256"), (4, "sha1")] {
        let output = directory.path().join(format!("vm{count}-{algorithm}.ova"));
        let more = ["--manifest-algorithm", algorithm, "--verify"];
        let report = run(pack(&disks[..count], &output, &more)).expect(0).json();
        assert_eq!((&report["verified"], &report["manifest_algorithm"]), (&true.into(), &algorithm.into()));
        judge(&output, &disks[..count], &report, algorithm);
    }
}

#[test]
fn the_bytes_are_the_same_on_one_worker_or_many_and_in_no_time() {
    let directory = scratch();
    let disks = four_disks(directory.path(), 410);
    let packed = |place: &str, more: &[&str], epoch: Option<&str>| {
        let place = directory.path().join(place);
        fs::create_dir(&place).unwrap();
        let output = place.join("vm.ova");
        let mut command = vmferry(pack(&disks, &output, more));
        epoch.map(|epoch| command.env("SOURCE_DATE_EPOCH", epoch));
        Finished::from(command.output().unwrap()).expect(0);
        (read(&output), read(&place.join("vm.ova.vmferry.jsonl")))
    };
    let one = packed("one", &["--workers", "1"], None);
    assert!(packed("many", &["--workers", "7", "--checkpoint-bytes", "1MiB"], None) == one);
    // Neither digests nor checkpoints show in the archive.
    assert!(packed("blake3", &["--digest", "blake3", "--verify"], None).0 == one.0);
    let place = directory.path().join("none");
    fs::create_dir(&place).unwrap();
    run(pack(&disks, &place.join("vm.ova"), &["--digest", "none"])).expect(0);
    assert_eq!(listing(&place), ["vm.ova"]);
    assert!(read(&place.join("vm.ova")) == one.0);
    let late = packed("late", &["--mtime", "1700000000"], None);
    assert!(late.0 != one.0 && packed("epoch", &[], Some("1700000000")) == late);
    assert!(packed("both", &["--mtime", "1700000000"], Some("5")) == late);
    let sizes = |archive: &[u8]| archive.len();
    assert_eq!(sizes(&late.0), sizes(&one.0));
}

#[test]
fn every_disk_has_the_bytes_of_a_conversion_of_its_own() {
    let directory = scratch();
    let disks = four_disks(directory.path(), 420);
    let output = directory.path().join("vm.ova");
    run(pack(&disks, &output, &[])).expect(0);
    let place = directory.path().join("vm");
    let mut args = pack(&disks, &place, &["--format", "ovf", "--sums"]);
    let report = run(&args).expect(0).json();
    let expected: Vec<String> = (1..=4)
        .flat_map(|number| [format!("vm-disk{number}.vmdk"), format!("vm-disk{number}.vmdk.vmferry.jsonl")])
        .chain(["vm.mf".to_owned(), "vm.ovf".to_owned()])
        .collect();
    assert_eq!(listing(&place), expected);
    for (index, number) in (1..=4).enumerate() {
        let name = format!("vm-disk{number}.vmdk");
        assert!(read(&place.join(&name)) == extract(&output, &name), "{name}");
        assert_eq!(report["disks"][index]["file"], name);
        run(["verify", "-q", place.join(&name).to_str().unwrap()]).expect(0);
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (ovf, ova) = (text(read(&place.join("vm.ovf"))), text(extract(&output, "vm.ovf")));
    assert_eq!(ovf.trim_end(), ova.trim_end());
    assert!(ovf.ends_with("</Envelope>\n"));
    // What is there is not overwritten, unless that is wanted.
    run(&args).expect(5);
    args.push("--force".into());
    run(&args).expect(0);
    assert_eq!(listing(&place), expected);
}

#[test]
fn the_manifest_beside_an_archive_describes_all_disks() {
    let directory = scratch();
    let disks = four_disks(directory.path(), 430);
    let output = directory.path().join("vm.ova");
    let report = run(pack(&disks, &output, &["--sums"])).expect(0).json();
    let text = fs::read_to_string(directory.path().join("vm.ova.vmferry.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["vmferry-manifest"], 2);
    assert_eq!((&lines[0]["format"], &lines[0]["disks"]), (&"ova".into(), &4.into()));
    assert_eq!(lines[0]["parameters"], "ova mtime=0 manifest=sha256");
    let last = lines.last().unwrap();
    assert_eq!(last["output_size"], fs::metadata(&output).unwrap().len());
    assert_eq!(last["file_sha256"], report["file_sha256"]);
    assert!(last["file_sha256"].is_string());
    let heads: Vec<&Value> = lines.iter().filter(|line| line["vmferry-manifest"] == 1).collect();
    let tails: Vec<&Value> = lines.iter().filter(|line| line["tree"].is_string()).collect();
    assert_eq!((heads.len(), tails.len()), (4, 4));
    for (index, told) in report["disks"].as_array().unwrap().iter().enumerate() {
        let (head, tail) = (heads[index], tails[index]);
        assert_eq!((&head["file"], &head["offset"]), (&told["file"], &told["offset"]));
        assert_eq!(head["virtual_size"], told["virtual_size"]);
        assert_eq!(tail["tree"], told["digest"]["tree"]);
        assert_eq!((&tail["output_size"], &tail["file_sha256"]), (&told["file_size"], &told["file_hash"]));
        // The lines of a disk are the manifest of its image alone, but for its place.
        let image = directory.path().join(told["file"].as_str().unwrap());
        run(["convert", "-q", disks[index].to_str().unwrap(), image.to_str().unwrap()]).expect(0);
        let alone = fs::read_to_string(image.with_extension("vmdk.vmferry.jsonl")).unwrap();
        let alone: Vec<&str> = alone.lines().collect();
        let start = lines.iter().position(|line| line == head).unwrap();
        let mine: Vec<&str> = text.lines().skip(start + 1).take(alone.len() - 1).collect();
        assert_eq!(mine, alone[1..], "{index}");
    }
    // One image is not what this manifest is of.
    let said = run(["verify", "-q", "-f", "raw", output.to_str().unwrap()]).expect(3).stderr;
    assert!(said.contains("several disks"), "{said}");
}

pub(crate) fn key_pair(directory: &Path, name: &str, kind: &[&str]) -> (PathBuf, PathBuf) {
    let (key, cert) = (directory.join(format!("{name}.key")), directory.join(format!("{name}.pem")));
    let mut args = vec!["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=vmferry test", "-newkey"];
    args.extend(kind);
    args.extend(["-keyout", key.to_str().unwrap(), "-out", cert.to_str().unwrap()]);
    tool("openssl", args);
    (key, cert)
}

#[test]
fn openssl_verifies_what_is_signed() {
    if Command::new("openssl").arg("version").output().is_err() {
        crate::support::missing("the program openssl");
        return;
    }
    let directory = scratch();
    let disks = [directory.path().join("a.raw")];
    make_disk(&disks[0], 440, 3 << 20);
    let kinds: [(&str, &[&str]); 2] =
        [("rsa", &["rsa:2048"]), ("ecdsa", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"])];
    for (name, kind) in kinds {
        let (key, cert) = key_pair(directory.path(), name, kind);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        // A file that holds both must not show the key.
        let both = directory.path().join("both.pem");
        fs::write(&both, [read(&key), read(&cert)].concat()).unwrap();
        let output = directory.path().join(format!("{name}.ova"));
        let more = ["--sign-key", key.to_str().unwrap(), "--sign-cert", both.to_str().unwrap()];
        let report = run(pack(&disks, &output, &more)).expect(0).json();
        assert_eq!(report["signed"], true);
        assert!(report["warnings"][0].as_str().unwrap().contains("others may read the key"), "{report}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let force = [&more[..], &["--force"]].concat();
        assert_eq!(
            run(pack(&disks, &output, &force)).expect(0).json()["warnings"].as_array().unwrap().len(),
            0
        );
        assert_eq!(members(&output).last().unwrap().0, format!("{name}.cert"));

        let text = String::from_utf8(extract(&output, &format!("{name}.cert"))).unwrap();
        let (line, pem) = text.split_once('\n').unwrap();
        assert_eq!(pem.as_bytes(), read(&cert), "the certificate and nothing else");
        let hex = line.strip_prefix(&format!("SHA256({name}.mf)= ")).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        fs::write(path("signature"), bytes).unwrap();
        fs::write(path("mf"), extract(&output, &format!("{name}.mf"))).unwrap();
        let public = tool("openssl", ["x509", "-in", cert.to_str().unwrap(), "-pubkey", "-noout"]);
        fs::write(path("public"), public).unwrap();
        let verify =
            ["dgst", "-sha256", "-verify", &path("public"), "-signature", &path("signature"), &path("mf")];
        assert!(tool("openssl", verify).contains("Verified OK"));
    }
    // What cannot sign is refused before anything is read.
    let (key, cert) = key_pair(directory.path(), "other", &["rsa:2048"]);
    let weak = key_pair(directory.path(), "p384", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let rsa = directory.path().join("rsa.pem");
    for (key, cert, what) in [
        (&key, &rsa, "not that of the key"),
        (&cert, &cert, "no PEM private key"),
        (&key, &key, "no PEM certificate"),
        (&weak.0, &weak.1, "cannot sign"),
    ] {
        let output = directory.path().join("never.ova");
        let more = ["--sign-key", &path(key), "--sign-cert", &path(cert)];
        let said = run(pack(&disks, &output, &more)).expect(2).stderr;
        assert!(said.contains(what) && !said.contains("BEGIN"), "{said}");
        assert!(!output.exists());
    }
}

#[test]
fn what_cannot_be_an_archive_is_refused_and_nothing_is_left() {
    let directory = scratch();
    let disks = [directory.path().join("a.raw"), directory.path().join("b.raw")];
    make_disk(&disks[0], 450, 1 << 20);
    make_disk(&disks[1], 451, 1 << 20);
    let output = directory.path().join("vm.ova");
    let before = {
        pack(&disks, &output, &[]);
        pack(&disks[..1], &output, &[]);
        listing(directory.path())
    };
    let refused = |args: Vec<String>, code: i32, what: &str| {
        let said = run(&args).expect(code).stderr;
        assert!(said.contains(what), "{args:?}: {said}");
        assert_eq!(listing(directory.path()), before, "{args:?}");
    };
    let mut to_pipe = pack(&disks, &output, &[]);
    *to_pipe.last_mut().unwrap() = "-".into();
    refused(to_pipe, 5, "pipe");
    refused(pack(&disks, &output, &["--disk-format", "qcow2"]), 2, "streamOptimized");
    refused(pack(&disks, &output, &["--disk-name", "x/y", "--disk-name", "z"]), 2, "OVA");
    refused(pack(&disks, &output, &["--disk-name", "a.vmdk", "--disk-name", "A.VMDK"]), 2, "OVA");
    // Readers know these files by their extensions, and two of a kind are one too many.
    for name in ["a.ovf", "a.MF", "a.cert"] {
        refused(pack(&disks[..1], &output, &["--disk-name", name]), 2, "something else");
    }
    refused(pack(&disks, &output, &["--digest", "none", "--verify"]), 2, "--verify");
    refused(pack(&disks[..1], &output, &["--disk", "/nowhere/at.all"]), 1, "/nowhere/at.all");
    refused(pack(&disks[..1], &output, &["--journal", disks[1].to_str().unwrap()]), 5, "not a journal");
    // Outputs that would be sources.
    let over = pack(&disks, &disks[1], &["--force", "--format", "ova"]);
    let said = run(&over).expect(5).stderr;
    assert!(said.contains("source itself"), "{said}");
    // A template that names a disk that is not there, and one that is damaged.
    for (text, what) in [("<vmferry-used-00002>", "names file 2"), ("<vmferry-sise-00000>", "marker")] {
        let ovf = directory.path().join("vm-2.template");
        let args = pack(&disks, &output, &[]);
        fs::write(&ovf, text).unwrap();
        let said = run(&args).expect(2).stderr;
        assert!(said.contains(what) || said.contains("cannot"), "{said}");
        assert!(!output.exists());
    }
    // A disk of no size, and a stream that does not tell its size.
    fs::write(&disks[1], "").unwrap();
    let said = run(pack(&disks, &output, &[])).expect(5).stderr;
    assert!(said.contains("empty"), "{said}");
    tool("sh", ["-c", &format!("gzip -kf '{}'", disks[0].display())]);
    let said = run(pack(&[directory.path().join("a.raw.gz")], &output, &[])).expect(5).stderr;
    assert!(said.contains("--source-size"), "{said}");
    run(pack(&[directory.path().join("a.raw.gz")], &output, &["--source-size", "1MiB"])).expect(0);
    let said = run(pack(&disks[..1], &output, &[])).expect(5).stderr;
    assert!(said.contains("exists"), "{said}");
}

/// An OVA has names of plain letters and at most 99 bytes; its own name may be any.
#[test]
fn any_name_of_a_file_gives_an_appliance_good_names() {
    let directory = scratch();
    let disk = directory.path().join("a.raw");
    make_disk(&disk, 460, 1 << 20);
    let vm = directory.path().join("vm.yaml");
    fs::write(
        &vm,
        "{kind: VirtualMachine, metadata: {name: db}, spec: {template: {spec: {domain: {memory: {guest: 1Gi}, devices: {}}}}}}",
    )
    .unwrap();
    let long = "x".repeat(130);
    for (name, base) in [("my vm", "my_vm"), ("prüfung", "pr_fung"), (".db", "db"), (&*long, &long[..80])] {
        let output = directory.path().join(format!("{name}.ova"));
        let args = ["pack", "-q", "--vm", vm.to_str().unwrap(), "--disk", disk.to_str().unwrap()];
        run(args.into_iter().chain([output.to_str().unwrap()])).expect(0);
        let names: Vec<String> = members(&output).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, [format!("{base}.ovf"), format!("{base}-disk1.vmdk"), format!("{base}.mf")]);
        run(["verify", "-q", output.to_str().unwrap()]).expect(0);
    }
    // And of a directory.
    let output = directory.path().join("my vm");
    fs::create_dir(&output).unwrap();
    let args = ["pack", "-q", "--vm", vm.to_str().unwrap(), "--disk", disk.to_str().unwrap()];
    run(args.into_iter().chain([output.to_str().unwrap()])).expect(0);
    let images = listing(&output).into_iter().filter(|name| !name.ends_with(".jsonl"));
    assert_eq!(images.collect::<Vec<_>>(), ["my_vm-disk1.vmdk", "my_vm.mf", "my_vm.ovf"]);
}

#[test]
fn a_disk_from_standard_input_is_packed_but_not_resumed() {
    let directory = scratch();
    let disk = directory.path().join("a.raw");
    let bytes = make_disk(&disk, 460, 5 << 20);
    let output = directory.path().join("vm.ova");
    let args = pack(&["-".into()], &output, &["--source-size", "5MiB", "-f", "raw"]);
    // `pack` writes the template beside the first disk: here, into the working directory.
    let template = Path::new("vm-1.template");
    let command = args.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ");
    let script = format!("'{}' {command} < '{}'", env!("CARGO_BIN_EXE_vmferry"), disk.display());
    let report: Value = serde_json::from_str(&tool("sh", ["-c", &script])).unwrap();
    fs::remove_file(template).unwrap();
    assert_eq!(report["disks"][0]["virtual_size"], bytes.len());
}

#[test]
fn the_length_of_a_descriptor_does_not_matter() {
    let directory = scratch();
    let disks = [directory.path().join("a.raw")];
    make_disk(&disks[0], 470, 1 << 20);
    for more in [0, 1, 100, 511, 512, 513, 100_000] {
        let output = directory.path().join(format!("vm{more}.ova"));
        let args = pack(&disks, &output, &[]);
        let template = directory.path().join(format!("vm{more}-1.template"));
        // No late numbers: it is written as it is.
        let text = fs::read_to_string(&template).unwrap().replace(" ovf:size=\"<vmferry-size-00000>\"", "");
        let text = text.replace(" ovf:populatedSize=\"<vmferry-used-00000>\"", "") + &"\n".repeat(more);
        fs::write(&template, &text).unwrap();
        let len = text.len();
        run(args).expect(0);
        assert_eq!(extract(&output, &format!("vm{more}.ovf")), text.as_bytes());
        let found = members(&output);
        assert_eq!((found.len(), found[1].2), (3, 512 + (len as u64).next_multiple_of(512) + 512));
    }
    let output = directory.path().join("vm.ova");
    let args = pack(&disks, &output, &[]);
    fs::write(directory.path().join("vm-1.template"), "x".repeat((1 << 20) + 1)).unwrap();
    let said = run(args).expect(5).stderr;
    assert!(said.contains("descriptor"), "{said}");
}
