//! What is refused, what goes wrong half-way, and what is left behind: nothing, or something that
//! the next run takes up.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use vmferry_formats::testkit::{self, Rng};

use crate::support::{
    KINDS, have, have_root, listing, make_disk, read, run, scratch, tool, vmferry, wait_for, write_sparse,
};

#[test]
fn an_existing_output_is_not_touched_unless_forced() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 51, 3 << 20);
    for kind in &KINDS {
        let output = directory.path().join(format!("{}.{}", kind.name, kind.extension));
        fs::write(&output, "precious").unwrap();
        let refused = run(kind.convert(&source, &output)).expect(5);
        assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
        assert_eq!(read(&output), b"precious");
        let mut args = kind.convert(&source, &output);
        args.push("--force".into());
        run(&args).expect(0);
        assert!(read(&output) != b"precious");
    }
    // The same holds for the manifest beside it, and for what is no file at all.
    let output = directory.path().join("new.raw");
    fs::write(directory.path().join("new.raw.vmferry.jsonl"), "precious").unwrap();
    let args = ["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()];
    run(args).expect(5);
    assert!(!output.exists());
    for other in [directory.path().to_str().unwrap(), "/dev/null"] {
        let refused = run(["convert", "-q", "-O", "raw", source.to_str().unwrap(), other]);
        assert!(matches!(refused.code, Some(2 | 5)), "{other}: {}", refused.stderr);
    }
    run(["convert", "-q", "--force", "-O", "raw", source.to_str().unwrap(), source.to_str().unwrap()])
        .expect(5);
}

#[test]
fn two_runs_do_not_write_one_output() {
    let directory = scratch();
    let output = directory.path().join("out.raw");
    let text = output.to_str().unwrap();
    // A pipe that gives nothing keeps the first run busy.
    let mut first = vmferry(["convert", "-q", "-f", "raw", "-", text])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = first.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &testkit::disk(1, 9 << 20)).unwrap();
    wait_for("the journal", || directory.path().join("out.raw.partial.journal").exists());
    let source = directory.path().join("source.img");
    make_disk(&source, 52, 1 << 20);
    let second = run(["convert", "-q", source.to_str().unwrap(), text]).expect(5);
    assert!(second.stderr.contains("in use"), "{}", second.stderr);
    drop(stdin);
    assert!(first.wait().unwrap().success());
    assert_eq!(read(&output).len(), 9 << 20);
}

#[test]
fn images_that_name_other_files_are_refused() {
    if !have("qemu-img") {
        return;
    }
    let directory = scratch();
    let text = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    make_disk(&directory.path().join("base.raw"), 53, 2 << 20);
    tool(
        "qemu-img",
        ["create", "-q", "-f", "qcow2", "-b", &text("base.raw"), "-F", "raw", &text("top.qcow2")],
    );
    let data = format!("data_file={}", text("data.raw"));
    tool("qemu-img", ["create", "-q", "-f", "qcow2", "-o", &data, &text("external.qcow2"), "2M"]);
    tool(
        "qemu-img",
        ["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", &text("flat.vmdk"), "2M"],
    );
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
                      createType=\"monolithicFlat\"\n\nRW 8 FLAT \"/etc/passwd\" 0\n";
    fs::write(directory.path().join("passwd.vmdk"), descriptor).unwrap();
    fs::write(directory.path().join("dots.vmdk"), descriptor.replace("/etc/passwd", "../../etc/passwd"))
        .unwrap();
    for name in ["top.qcow2", "external.qcow2", "flat.vmdk", "passwd.vmdk", "dots.vmdk"] {
        let output = directory.path().join("out.raw");
        let refused = run(["convert", "-q", &text(name), output.to_str().unwrap()]).expect(5);
        assert!(!output.exists() && !refused.stderr.is_empty(), "{name}");
        for command in ["digest", "map", "inspect"] {
            run([command, "-q", &text(name)]).expect(5);
        }
    }
    // Named by the user, a directory may hold the extents; nothing outside of it may.
    let output = text("flat.raw");
    let allowed = directory.path().to_str().unwrap();
    run(["convert", "-q", "--allow-backing", allowed, &text("flat.vmdk"), &output]).expect(0);
    tool("qemu-img", ["compare", "-q", "-f", "vmdk", "-F", "raw", &text("flat.vmdk"), &output]);
    for name in ["passwd.vmdk", "dots.vmdk"] {
        let output = directory.path().join("out.raw");
        let done = run(["convert", "-q", "--allow-backing", allowed, &text(name), output.to_str().unwrap()]);
        assert!(matches!(done.code, Some(1 | 5)) && !output.exists(), "{name}: {}", done.stderr);
    }
}

#[test]
fn a_disk_that_is_too_large_is_refused_before_the_first_byte() {
    if !have("qemu-img") {
        return;
    }
    let directory = scratch();
    let text = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    tool("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", &text("huge.qcow2"), "65T"]);
    let refused = run(["convert", "-q", &text("huge.qcow2"), &text("out.vmdk")]).expect(5);
    assert!(refused.stderr.contains("exceeds the limit of 70368744177664"), "{}", refused.stderr);
    let announced = ["convert", "-q", "-f", "raw", "--source-size", "65TiB", "-"];
    let refused = run(announced.into_iter().chain([&*text("out.qcow2")])).expect(5);
    assert!(refused.stderr.contains("64 TiB are the most"), "{}", refused.stderr);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something was left behind");
}

#[test]
fn damaged_images_end_in_an_error_never_in_an_output() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 54, 3 << 20);
    let mut rng = Rng::new(54);
    for kind in KINDS.iter().filter(|kind| kind.extension != "raw") {
        let image = directory.path().join(format!("{}.{}", kind.name, kind.extension));
        run(kind.convert(&source, &image)).expect(0);
        let whole = read(&image);
        for round in 0..24 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(usize::try_from(rng.below(whole.len() as u64)).unwrap()),
                1 => (0..8).for_each(|_| {
                    // Headers and tables are in front and at the end.
                    let at = usize::try_from(rng.below(4096)).unwrap();
                    let at = if rng.below(2) == 0 { at } else { whole.len() - 1 - at };
                    bytes[at] = u8::try_from(rng.below(256)).unwrap();
                }),
                _ => {
                    let at = usize::try_from(rng.below(whole.len() as u64 - 512)).unwrap();
                    rng.fill(&mut bytes[at..at + 512]);
                }
            }
            let (damaged, output) = (directory.path().join("damaged"), directory.path().join("out.raw"));
            fs::write(&damaged, &bytes).unwrap();
            let paths = [&damaged, &output].map(|path| path.to_str().unwrap());
            let done = run(["convert", "-q", "--restart", "-f", kind.format(), paths[0], paths[1]]);
            assert!(
                matches!(done.code, Some(0..=5)),
                "{} {round}: {:?} {}",
                kind.name,
                done.code,
                done.stderr
            );
            assert!(!done.stderr.contains("panicked"), "{} {round}: {}", kind.name, done.stderr);
            assert_eq!(done.code == Some(0), output.exists(), "{} {round}", kind.name);
            if output.exists() {
                fs::remove_file(&output).unwrap();
                fs::remove_file(directory.path().join("out.raw.vmferry.jsonl")).unwrap();
            }
        }
    }
}

#[test]
fn a_signal_leaves_a_partial_that_the_next_run_takes_up() {
    let directory = scratch();
    let disk = testkit::disk(55, 40 << 20);
    let source = directory.path().join("source.img");
    fs::write(&source, &disk).unwrap();
    for (name, signal, code) in [("INT", Signal::INT, 130), ("TERM", Signal::TERM, 143)] {
        let output = directory.path().join(format!("{name}.qcow2"));
        let args = ["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()];
        // A limit on the memory in use makes the run slow enough to be hit.
        let slow = ["--compression", "deflate", "--compression-level", "9", "--workers", "1"];
        let mut child = vmferry(args.iter().chain(&slow)).stderr(Stdio::piped()).spawn().unwrap();
        let partial = directory.path().join(format!("{name}.qcow2.partial"));
        wait_for("some output", || {
            fs::metadata(&partial).is_ok_and(|found| found.len() > 1 << 20) || output.exists()
        });
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        if output.exists() {
            continue; // It was faster than the signal.
        }
        assert_eq!(status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("again"), "{stderr}");
        let report = run(args.iter().chain(&slow).chain(&["-o", "json"])).expect(0).json();
        assert!(report["resumed_from"].is_u64(), "{report}");
        run(["verify", "-q", output.to_str().unwrap()]).expect(0);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 56, 40 << 20);
    let script = format!(
        "{} convert -q -O raw {} - | head -c 1000000 | wc -c; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_vmferry"),
        source.display()
    );
    let said = tool("bash", ["-c", &script]);
    let lines: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(lines[0], "1000000");
    assert!(matches!(lines[1], "1" | "141"), "{said}");
}

#[test]
fn pipes_refuse_what_they_cannot_carry_and_name_what_they_can() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 57, 1 << 20);
    for more in [&["-O", "qcow2"][..], &["-O", "vmdk", "--subformat", "monolithicSparse"]] {
        let args = ["convert", "-q"].iter().chain(more).copied().chain([source.to_str().unwrap(), "-"]);
        let refused = run(args).expect(5);
        assert!(refused.stdout.is_empty());
        assert!(
            refused.stderr.contains("raw") && refused.stderr.contains("streamOptimized"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn a_full_disk_leaves_a_partial_that_goes_on_when_there_is_room() {
    if !have_root() {
        return;
    }
    let directory = scratch();
    let source = directory.path().join("source.img");
    let mut disk = vec![0; 24 << 20];
    Rng::new(58).fill(&mut disk);
    fs::write(&source, &disk).unwrap();
    let small = directory.path().join("small");
    fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=10m", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        crate::support::unprivileged("mounting a tmpfs");
        return;
    }
    let _unmount = Unmount(&small);
    for kind in &KINDS {
        let output = small.join(format!("{}.{}", kind.name, kind.extension));
        let mut args = kind.convert(&source, &output);
        args.extend(["--checkpoint-bytes", "1MiB"].map(str::to_owned));
        let full = run(&args).expect(1);
        assert!(full.stderr.contains("No space left"), "{}: {}", kind.name, full.stderr);
        assert!(!output.exists() && full.stderr.contains("again"), "{}: {}", kind.name, full.stderr);
        tool("mount", ["-o", "remount,size=64m", small.to_str().unwrap()]);
        run(&args).expect(0);
        run(["verify", "-q", output.to_str().unwrap()]).expect(0);
        for name in listing(&small) {
            fs::remove_file(small.join(name)).unwrap();
        }
        tool("mount", ["-o", "remount,size=10m", small.to_str().unwrap()]);
    }
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _done = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_block_device_takes_raw_and_qcow2_and_hides_what_it_held() {
    if !have_root() || !have("losetup") {
        return;
    }
    let directory = scratch();
    let source = directory.path().join("source.img");
    let disk = make_disk(&source, 59, (9 << 20) + 512);
    let backing = directory.path().join("device.img");
    fs::write(&backing, vec![0xee; 16 << 20]).unwrap();
    let made = Command::new("losetup").args(["--show", "-f"]).arg(&backing).output().unwrap();
    if !made.status.success() {
        crate::support::unprivileged("a loop device");
        return;
    }
    let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let _detach = Detach(&device);
    let state = directory.path().join("state");
    let convert = |more: &[&str]| {
        let args = ["convert", "-q"].iter().chain(more).copied().chain([source.to_str().unwrap(), &device]);
        let output = vmferry(args).env("XDG_STATE_HOME", &state).output().unwrap();
        crate::support::Finished::from(output)
    };
    let refused = convert(&["-O", "raw"]).expect(5);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert!(read(&backing).iter().all(|&byte| byte == 0xee), "nothing was written");
    convert(&["-O", "vmdk", "--force"]).expect(5);
    // A disk that does not fit is found before anything is overwritten.
    write_sparse(&source, &[disk.clone(), vec![1; 8 << 20]].concat());
    let refused = convert(&["-O", "raw", "--force"]).expect(5);
    assert!(refused.stderr.contains("larger device"), "{}", refused.stderr);
    assert!(read(&backing).iter().all(|&byte| byte == 0xee), "nothing was written");
    write_sparse(&source, &disk);
    convert(&["-O", "raw", "--force"]).expect(0);
    let verify = || {
        let output = vmferry(["verify", "-q", &device]).env("XDG_STATE_HOME", &state).output().unwrap();
        crate::support::Finished::from(output)
    };
    verify().expect(0);
    let held = read(&backing);
    assert!(held[..disk.len()] == disk[..]);
    assert!(held[disk.len()..].iter().all(|&byte| byte == 0), "stale bytes behind the disk");
    fs::write(&backing, vec![0xdd; 16 << 20]).unwrap();
    tool("losetup", ["-c", &device]);
    verify().expect(3);
    // Without a directory for state, the journal and the manifest go where the user says.
    let journal = directory.path().join("journal");
    let alone = vmferry(["convert", "-q", "--force", "-O", "raw", "--journal", journal.to_str().unwrap()])
        .args([source.to_str().unwrap(), &device])
        .env_remove("XDG_STATE_HOME")
        .env_remove("HOME")
        .output()
        .unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    assert!(directory.path().join("journal.vmferry.jsonl").exists() && !journal.exists());
    convert(&["-O", "qcow2", "--force"]).expect(0);
    if have("qemu-img") {
        tool("qemu-img", ["compare", "-q", "-f", "raw", "-F", "qcow2", source.to_str().unwrap(), &device]);
    }
    // A device is a source too.
    let digest = |path: &str| run(["digest", "-q", "-o", "json", path]).expect(0).json()["digest"].clone();
    assert_eq!(digest(&device), digest(source.to_str().unwrap()));
}

struct Detach<'a>(&'a str);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        let _done = Command::new("losetup").args(["-d", self.0]).status();
    }
}

#[test]
fn sources_that_cannot_be_read_are_named() {
    let directory = scratch();
    let output = directory.path().join("out.raw");
    let missing = directory.path().join("missing.img");
    let failed = run(["convert", "-q", missing.to_str().unwrap(), output.to_str().unwrap()]).expect(1);
    assert!(
        failed.stderr.contains("missing.img") && failed.stderr.contains("No such file"),
        "{}",
        failed.stderr
    );
    let failed = run(["convert", "-q", directory.path().to_str().unwrap(), output.to_str().unwrap()]);
    assert!(failed.code.is_some_and(|code| code != 0), "a directory is no disk");
    assert_eq!(listing(directory.path()), Vec::<String>::new());
}

#[test]
fn a_tampered_journal_or_partial_is_not_trusted() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 60, 30 << 20);
    let output = directory.path().join("out.raw");
    let args = ["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()];
    let often = ["--checkpoint-bytes", "1MiB", "--checkpoint-interval", "10ms"];
    let (partial, journal) =
        (directory.path().join("out.raw.partial"), directory.path().join("out.raw.partial.journal"));
    let mut child = vmferry(args.iter().chain(&often)).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a checkpoint", || {
        fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"checkpoint\"")) || output.exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    if output.exists() {
        return; // It was faster than the signal.
    }
    // Another file under the name of the partial.
    let bytes = read(&partial);
    fs::rename(&partial, directory.path().join("moved")).unwrap();
    fs::write(&partial, &bytes).unwrap();
    let refused = run(args);
    assert!(matches!(refused.code, Some(1 | 4 | 5)), "{:?} {}", refused.code, refused.stderr);
    assert!(refused.stderr.contains("--restart") && !output.exists(), "{}", refused.stderr);
    // A journal of nonsense.
    fs::write(&journal, "nonsense\n").unwrap();
    fs::remove_file(&partial).unwrap();
    let done = run(args);
    assert!(done.code == Some(0) || done.stderr.contains("--restart"), "{}", done.stderr);
    run(args.iter().chain(&["--restart", "--force"])).expect(0);
    run(["verify", "-q", output.to_str().unwrap()]).expect(0);
}

#[test]
fn an_output_directory_that_cannot_be_written_is_an_error() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 61, 1 << 20);
    let output = directory.path().join("no/such/directory/out.raw");
    let failed = run(["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()]).expect(1);
    assert!(failed.stderr.contains("out.raw"), "{}", failed.stderr);
}

#[test]
fn a_disk_that_begins_like_an_image_stays_a_disk() {
    let directory = scratch();
    let source = directory.path().join("guest.raw");
    make_disk(&source, 63, 2 << 20);
    fs::OpenOptions::new().write(true).open(&source).unwrap().write_all_at(b"QFI\xfb\0\0\0\x03", 0).unwrap();
    let output = directory.path().join("out.raw");
    let paths = [source.to_str().unwrap(), output.to_str().unwrap()];
    run(["convert", "-q", paths[0], paths[1]]).expect(5);
    run(["convert", "-q", "--verify", "-f", "raw", paths[0], paths[1]]).expect(0);
    assert!(read(&output) == read(&source));
    run(["verify", "-q", paths[1]]).expect(0);
}
