//! What independent readers say of every kind of image: `qemu-img`, libvmdk, dissect.hypervisor.

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use vmferry_formats::testkit::Rng;

use crate::support::{KINDS, Kind, corpus, have, make_disk, missing, read, run, scratch, tool, write_sparse};

/// Everything that must hold of an output; gives its digest.
#[track_caller]
fn judge(source: &Path, output: &Path, kind: &Kind) -> String {
    let (source, image) = (source.to_str().unwrap(), output.to_str().unwrap());
    let size = fs::metadata(source).unwrap().len();
    if kind.extension != "raw" {
        tool("qemu-img", ["check", "-q", "-f", kind.format(), image]);
    }
    // qemu-img rounds the size of a raw disk up; what it then compares is padded with zeros.
    tool("qemu-img", ["compare", "-q", "-f", "raw", "-F", kind.format(), source, image]);
    if kind.extension == "vmdk" {
        let info = tool("vmdkinfo", [image]);
        assert!(info.contains(&format!("{} bytes", size.next_multiple_of(512))), "{info}");
    }
    let report = run(["verify", "-q", "-o", "json", image]).expect(0).json();
    assert_eq!(report["verified"], true);
    report["digest"]["tree"].as_str().expect("a digest").to_owned()
}

fn have_judges() -> bool {
    have("qemu-img") && have("vmdkinfo")
}

fn sizes_that_break_things() -> Vec<usize> {
    const CLUSTER: usize = 64 << 10;
    const CHUNK: usize = 4 << 20;
    let around = |size: usize| [size - 512, size - 1, size, size + 1, size + 512];
    let mut sizes = vec![0, 1, 511, 512, 513, 32 << 20, (32 << 20) + CLUSTER];
    sizes.extend(around(CLUSTER).into_iter().chain(around(CHUNK)));
    sizes
}

#[test]
fn images_of_every_size_around_a_border_are_what_qemu_reads() {
    if !have_judges() {
        return;
    }
    let directory = scratch();
    for (index, size) in sizes_that_break_things().into_iter().enumerate() {
        let source = directory.path().join(format!("{size}.img"));
        make_disk(&source, index as u64, size);
        let digest = digest_of(&source);
        for kind in &KINDS {
            let output = directory.path().join(format!("{size}-{}.{}", kind.name, kind.extension));
            let done = run(kind.convert(&source, &output));
            if size == 0 && kind.extension == "vmdk" {
                let done = done.expect(5);
                assert!(done.stderr.contains("empty") && !output.exists(), "{}", done.stderr);
                continue;
            }
            let report = done.expect(0).json();
            assert_eq!(report["digest"]["tree"], digest, "{size} {}", kind.name);
            assert_eq!(report["virtual_size"], size);
            assert_eq!(judge(&source, &output, kind), digest, "{size} {}", kind.name);
            fs::remove_file(&output).unwrap();
        }
    }
}

#[test]
fn the_corpus_in_every_kind_is_what_qemu_reads_and_has_one_digest() {
    let Some(disks) = corpus() else { return };
    if !have_judges() {
        return;
    }
    let directory = scratch();
    let mut rng = Rng::new(12);
    let mut flipped = 0;
    for source in disks {
        let digest = digest_of(&source);
        let is_empty = fs::metadata(&source).unwrap().len() == 0;
        for kind in &KINDS {
            let output = directory.path().join(format!("{}.{}", kind.name, kind.extension));
            let done = run(kind.convert(&source, &output));
            if is_empty && kind.extension == "vmdk" {
                let done = done.expect(5);
                assert!(done.stderr.contains("empty") && !output.exists(), "{}", done.stderr);
                continue;
            }
            let report = done.expect(0).json();
            assert_eq!(report["digest"]["tree"], digest, "{source:?} {}", kind.name);
            assert_eq!(judge(&source, &output, kind), digest, "{source:?} {}", kind.name);
            for at in bytes_of_content(&output, &mut rng, 3) {
                flipped += usize::from(flip(&source, &output, kind, at, &mut rng));
            }
            run(["verify", "-q", output.to_str().unwrap()]).expect(0);
            fs::remove_file(&output).unwrap();
            fs::remove_file(manifest_of(&output)).unwrap();
        }
    }
    assert!(flipped >= 60, "only {flipped} flipped bytes hit content");
}

/// Where an image has content, `count` times: in what its map shows as stored plainly, or anywhere
/// if that is nothing.
fn bytes_of_content(image: &Path, rng: &mut Rng, count: usize) -> Vec<u64> {
    let rows = run(["map", "-o", "json", image.to_str().unwrap()]).expect(0).json();
    let number = |row: &serde_json::Value, name: &str| row[name].as_u64();
    let stored: Vec<(u64, u64)> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["data"] == true)
        .filter_map(|row| Some((number(row, "offset")?, number(row, "length")?)))
        .collect();
    let len = fs::metadata(image).unwrap().len();
    let mut pick = || match stored.len() as u64 {
        0 => rng.below(len),
        runs => {
            let (offset, length) = stored[usize::try_from(rng.below(runs)).unwrap()];
            (offset + rng.below(length)).min(len - 1)
        }
    };
    (0..if len == 0 { 0 } else { count }).map(|_| pick()).collect()
}

/// Flips a bit of the byte at `at` and back. In between, `verify` must fail if that changed the
/// content; whether it did is the answer. What is no content (padding, a refcount) may change;
/// qemu-img tells which it was.
fn flip(source: &Path, image: &Path, kind: &Kind, at: u64, rng: &mut Rng) -> bool {
    let file = fs::OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << rng.below(8))], at).unwrap();
    let same = Command::new("qemu-img")
        .args(["compare", "-q", "-f", "raw", "-F", kind.format()])
        .args([source, image])
        .output()
        .unwrap()
        .status
        .success();
    if !same {
        let verified = run(["verify", "-q", image.to_str().unwrap()]);
        let (code, name) = (verified.code, kind.name);
        assert!(matches!(code, Some(3 | 5)), "{source:?} {name} byte {at}: {code:?} {}", verified.stderr);
    }
    file.write_all_at(&byte, at).unwrap();
    !same
}

#[test]
fn one_worker_or_many_a_file_or_a_pipe_give_the_same_bytes() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    let size = make_disk(&source, 77, (23 << 20) + 4096 + 512).len();
    for kind in &KINDS {
        let mut images = Vec::new();
        for workers in ["1", "2", "7"] {
            // The name goes into the ids of a VMDK.
            let output = directory.path().join(workers).join(format!("disk.{}", kind.extension));
            fs::create_dir_all(output.parent().unwrap()).unwrap();
            let mut args = kind.convert(&source, &output);
            args.extend(["--workers".into(), workers.into(), "--force".into()]);
            run(&args).expect(0);
            images.push(read(&output));
        }
        let output = directory.path().join("pipe").join(format!("disk.{}", kind.extension));
        fs::create_dir_all(output.parent().unwrap()).unwrap();
        let mut args = kind.convert(Path::new("-"), &output);
        args.extend(["--source-size".into(), size.to_string(), "--force".into()]);
        let piped = crate::support::vmferry(&args).stdin(fs::File::open(&source).unwrap()).output().unwrap();
        assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
        images.push(read(&output));
        assert!(images.iter().all(|image| *image == images[0]), "{}", kind.name);
    }
}

#[test]
fn any_change_of_the_content_makes_verify_fail() {
    if !have_judges() {
        return;
    }
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 3, (5 << 20) + 512);
    let mut rng = Rng::new(11);
    for kind in &KINDS {
        let output = directory.path().join(format!("{}.{}", kind.name, kind.extension));
        run(kind.convert(&source, &output)).expect(0);
        let len = fs::metadata(&output).unwrap().len();
        let changed = (0..40).filter(|_| flip(&source, &output, kind, rng.below(len), &mut rng)).count();
        assert!(changed >= 10, "{}: only {changed} changes hit the content", kind.name);
        run(["verify", "-q", output.to_str().unwrap()]).expect(0);
    }
}

#[test]
fn zeros_take_no_space() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    let mut disk = vec![0; 96 << 20];
    for at in [0, 7 << 20, (50 << 20) + 70_000, (96 << 20) - 1] {
        disk[at] = 1;
    }
    // A file without holes: that it is mostly zeros has to be found.
    fs::write(&source, &disk).unwrap();
    let clusters = 4 * (64 << 10);
    // Header, tables and their alignment; a monolithicSparse VMDK has two copies of them.
    let metadata = 512 << 10;
    for kind in &KINDS {
        let output = directory.path().join(format!("{}.{}", kind.name, kind.extension));
        let report = run(kind.convert(&source, &output)).expect(0).json();
        let allocated = fs::metadata(&output).unwrap().blocks() * 512;
        assert!(allocated <= clusters + metadata, "{}: {allocated} bytes", kind.name);
        let zero = report["zero_bytes"].as_u64().unwrap();
        assert!(zero >= (96 << 20) - clusters, "{}: {zero} zero bytes", kind.name);
    }
}

#[test]
fn dissect_reads_what_we_write() {
    let Some(python) = dissect() else { return };
    let script = "\
import hashlib, pathlib, sys
from dissect.hypervisor.disk.qcow2 import QCow2
from dissect.hypervisor.disk.vmdk import VMDK
kind, path, size = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
if kind == 'qcow2':
    image = QCow2(path)
    stream = image.open() if hasattr(image, 'open') else image
else:
    stream = VMDK(path.open('rb'))
print(hashlib.sha256(stream.read(size)).hexdigest())
";
    let directory = scratch();
    let source = directory.path().join("source.img");
    // dissect wants whole grains.
    let disk = make_disk(&source, 5, (37 << 20) + (64 << 10));
    let expected = {
        use sha2::Digest as _;
        sha2::Sha256::digest(&disk).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    for kind in KINDS.iter().filter(|kind| kind.extension != "raw") {
        let output = directory.path().join(format!("{}.{}", kind.name, kind.extension));
        run(kind.convert(&source, &output)).expect(0);
        let path = output.to_str().unwrap();
        let read =
            tool(python.to_str().unwrap(), ["-c", script, kind.format(), path, &disk.len().to_string()]);
        assert_eq!(read.trim(), expected, "{}", kind.name);
    }
}

#[test]
fn every_kind_converts_to_every_other_and_back() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    let disk = make_disk(&source, 9, (9 << 20) + 1536);
    let padded = disk.len().next_multiple_of(512);
    for from in &KINDS {
        let first = directory.path().join(format!("{}.{}", from.name, from.extension));
        let digest = run(from.convert(&source, &first)).expect(0).json()["digest"]["tree"].clone();
        for to in &KINDS {
            let second = directory.path().join(format!("{}-{}.{}", from.name, to.name, to.extension));
            let report = run(to.convert(&first, &second)).expect(0).json();
            assert_eq!(report["digest"]["tree"], digest, "{} to {}", from.name, to.name);
            if to.name == "raw" {
                let mut back = read(&second);
                back.resize(padded, 0);
                assert!(back[..disk.len()] == disk[..], "{} to raw", from.name);
            }
        }
    }
}

#[test]
fn images_that_qemu_makes_are_read() {
    if !have("qemu-img") {
        return;
    }
    let directory = scratch();
    let source = directory.path().join("source.raw");
    let disk = make_disk(&source, 21, (19 << 20) + 512);
    let in_order = [
        ("qcow2", ""),
        ("qcow2", "compat=0.10"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "cluster_size=2M"),
        ("qcow2", "cluster_size=2M,extended_l2=on"),
        ("qcow2", "extended_l2=on,cluster_size=16k"),
        ("qcow2", "lazy_refcounts=on"),
        ("qcow2", "preallocation=metadata"),
        ("qcow2", "preallocation=falloc"),
        ("qcow2", "refcount_bits=1"),
        ("qcow2", "refcount_bits=64"),
        ("-c qcow2", ""),
        ("-c qcow2", "compression_type=zstd"),
        ("-c qcow2", "compat=0.10,cluster_size=4k"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=monolithicSparse,compat6=on"),
    ];
    for (index, (format, options)) in in_order.into_iter().enumerate() {
        let (compress, format) = format.strip_prefix("-c ").map_or((false, format), |format| (true, format));
        let image = directory.path().join(format!("{index}.{format}"));
        let mut args = vec!["convert", "-q", "-f", "raw", "-O", format];
        args.extend(compress.then_some("-c"));
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        let paths = [&source, &image].map(|path| path.to_str().unwrap());
        tool("qemu-img", args.into_iter().chain(paths));
        if format == "qcow2" && !compress && !options.contains("refcount_bits=1") {
            // The state of a snapshot is not that of the disk.
            tool("qemu-img", ["snapshot", "-c", "before", image.to_str().unwrap()]);
            tool("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 1M 512k", image.to_str().unwrap()]);
        }
        let back = directory.path().join(format!("{index}.img"));
        run(["convert", "-q", image.to_str().unwrap(), back.to_str().unwrap()]).expect(0);
        let judged =
            ["compare", "-q", "-F", "raw", "-f", format, image.to_str().unwrap(), back.to_str().unwrap()];
        tool("qemu-img", judged);
        let read = read(&back);
        assert!(read[2 << 20..disk.len()] == disk[2 << 20..], "{format} {options}");
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_sparse_source_of_terabytes_takes_no_time() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    write_sparse(&source, &[1; 4096]);
    let file = fs::OpenOptions::new().write(true).open(&source).unwrap();
    if file.set_len(8 << 40).is_err() {
        return; // This file system holds no such file; the memory test says so.
    }
    file.write_all_at(&[2; 4096], (7 << 40) + 12345).unwrap();
    let output = directory.path().join("disk.qcow2");
    run(["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()]).expect(0);
    let rows = run(["map", "-o", "json", output.to_str().unwrap()]).expect(0).json();
    let data: Vec<u64> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["data"] == true)
        .map(|row| row["start"].as_u64().unwrap())
        .collect();
    assert_eq!(data, [0, ((7 << 40) + 12345) / 65536 * 65536]);
}

fn digest_of(source: &Path) -> String {
    let report = run(["digest", "-q", "-f", "raw", "-o", "json", source.to_str().unwrap()]).expect(0).json();
    report["digest"]["tree"].as_str().expect("a digest").to_owned()
}

fn manifest_of(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".vmferry.jsonl");
    name.into()
}

/// A Python that has dissect.hypervisor: that of `VMFERRY_PYTHON`, or `python3`.
fn dissect() -> Option<PathBuf> {
    let python = std::env::var_os("VMFERRY_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let found = Command::new(&python).args(["-c", "import dissect.hypervisor"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    missing("a Python with dissect.hypervisor (VMFERRY_PYTHON)");
    None
}
