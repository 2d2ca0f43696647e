//! GNU tar and Python judge archives whose disks are holes: one of them is above 8 GiB, and none of that
//! is written.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{fs::File, os::unix::fs::FileExt as _, path::Path, process::Command};

use bytes::Bytes;
use vmferry_formats::{
    Op,
    ova::{ArchiveOptions, ArchiveWriter, Template},
};

/// Executes operations into a sparse file.
struct Sparse {
    file: File,
    position: u64,
    slots: Vec<u64>,
}

impl Sparse {
    fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Append(bytes) => self.file.write_all_at(bytes, self.position).unwrap(),
                Op::Reserve { slot, .. } => {
                    assert_eq!(slot.0 as usize, self.slots.len(), "slots are counted");
                    self.slots.push(self.position);
                }
                Op::Fill { slot, at, bytes } => {
                    self.file.write_all_at(bytes, self.slots[slot.0 as usize] + at).unwrap();
                }
                Op::Payload { .. } | Op::Skip(_) => {}
            }
            self.position += op.span();
        }
        self.file.set_len(self.position).unwrap();
    }
}

/// An archive whose files are holes of these lengths.
fn write(path: &Path, mtime: u64, lens: &[u64]) -> String {
    let file_names: Vec<String> = (1..=lens.len()).map(|number| format!("vm-disk{number}.vmdk")).collect();
    let text: String = (0..lens.len()).map(|index| format!("<vmferry-size-{index:05}>\n")).collect();
    let options = ArchiveOptions { descriptor_name: "vm.ovf".into(), file_names, mtime };
    let mut writer = ArchiveWriter::new(options, Template::new(text).unwrap()).unwrap();
    let mut sparse = Sparse { file: File::create(path).unwrap(), position: 0, slots: Vec::new() };
    let mut ops = Vec::new();
    writer.begin(&mut ops).unwrap();
    for &len in lens {
        writer.begin_file(&mut ops).unwrap();
        let mut disk = [Op::Skip(len)];
        writer.pass(&mut disk).unwrap();
        ops.extend(disk);
        writer.end_file(0, &mut ops).unwrap();
    }
    let descriptor = writer.descriptor().unwrap();
    let last = [("vm.mf".to_owned(), Bytes::from_static(b"hashes\n"))];
    writer.finish(descriptor.clone(), last, &mut ops).unwrap();
    sparse.apply(&ops);
    assert_eq!(writer.position(), sparse.position);
    String::from_utf8(descriptor).unwrap()
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.is_empty(), "{program} {args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// Edges of the two number formats, and a disk far above 8 GiB.
const LENS: [u64; 5] = [70_000, (8 << 30) - 1, 8 << 30, (9 << 30) + 512, 3 << 40];

#[test]
fn gnu_tar_lists_every_length() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.ova");
    let descriptor = write(&path, 0, &LENS);
    let listing = run("tar", &["--utc", "--numeric-owner", "-tvf", path.to_str().unwrap()]);
    let expected = [("vm.ovf".to_owned(), descriptor.len() as u64)]
        .into_iter()
        .chain(LENS.iter().zip(1..).map(|(&len, number)| (format!("vm-disk{number}.vmdk"), len)))
        .chain([("vm.mf".to_owned(), 7)]);
    let found: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    for (line, (name, len)) in found.iter().zip(expected) {
        assert_eq!(line[..], ["-rw-r--r--", "0/0", &len.to_string(), "1970-01-01", "00:00", &name][..]);
    }
    assert_eq!(found.len(), LENS.len() + 2);
    assert_eq!(run("tar", &["-xOf", path.to_str().unwrap(), "vm.ovf"]), descriptor);
    for (line, len) in descriptor.lines().zip(LENS) {
        assert_eq!(line, len.to_string());
    }
}

#[test]
fn python_lists_regular_files_and_no_extension() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.ova");
    write(&path, 1_700_000_000, &LENS);
    let script = "import sys, tarfile\n\
                  for m in tarfile.open(sys.argv[1], 'r:'):\n\
                  \x20   print(m.name, m.size, m.type.decode(), oct(m.mode), m.uid, m.gid, m.mtime, m.offset_data - m.offset, m.pax_headers)";
    let listing = run("python3", &["-c", script, path.to_str().unwrap()]);
    let lines: Vec<&str> = listing.lines().collect();
    assert_eq!(lines.len(), LENS.len() + 2, "{listing}");
    for (index, len) in LENS.iter().enumerate() {
        let number = index + 1;
        assert_eq!(lines[number], format!("vm-disk{number}.vmdk {len} 0 0o644 0 0 1700000000 512 {{}}"));
    }
}
