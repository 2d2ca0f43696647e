//! Resident memory stays under the bound that the user states, whatever the disk and however slow
//! its ends.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::FileExt as _,
    process::{Child, Stdio},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use vmferry_formats::testkit::Rng;

use crate::{
    server::Server,
    support::{scratch, vmferry, wait_for},
};

/// The default of `--memory`.
const BOUND: u64 = 128 << 20;

/// Most bytes that the process had resident so far.
fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Waits for the end of a run; gives the most memory that it had.
pub(crate) fn watch(mut child: Child) -> u64 {
    let (mut most, (_never, wait)) = (0, std::sync::mpsc::channel::<()>());
    loop {
        most = peak(&child).unwrap_or(most).max(most);
        if let Some(status) = child.try_wait().unwrap() {
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            assert!(status.success(), "{status}: {stderr}");
            assert!(most > 0, "the memory was seen");
            return most;
        }
        let _ = wait.recv_timeout(Duration::from_millis(3));
    }
}

fn start(args: &[&str]) -> Child {
    vmferry(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn assert_bounded(most: u64) {
    assert!(most <= BOUND, "{} MiB resident, {} allowed", most >> 20, BOUND >> 20);
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

#[test]
fn sixteen_tebibytes_with_scattered_data_fit() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    let file = fs::File::create(&source).unwrap();
    // The largest file of ext4 with blocks of 4 KiB.
    let size = (16 << 40) - 4096;
    file.set_len(size).expect("a file system that holds a sparse file of 16 TiB");
    let mut rng = Rng::new(71);
    for index in 0..400 {
        let at = rng.below(size - 65536) / 4096 * 4096;
        file.write_all_at(&noise(index, 8192), at).unwrap();
    }
    let source = source.to_str().unwrap();
    for (name, more) in [
        ("a.qcow2", &[][..]),
        ("b.qcow2", &["--compression", "deflate", "--workers", "64"]),
        ("c.raw", &[]),
        ("d.vmdk", &[]),
    ] {
        let output = directory.path().join(name);
        let args: Vec<&str> =
            ["convert", "-q"].iter().chain(more).copied().chain([source, output.to_str().unwrap()]).collect();
        assert_bounded(watch(start(&args)));
        let verified = watch(start(&["verify", "-q", output.to_str().unwrap()]));
        assert_bounded(verified);
        fs::remove_file(&output).unwrap();
    }
}

#[test]
fn many_workers_are_lowered_to_fit() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    fs::write(&source, noise(72, 96 << 20)).unwrap();
    for (name, more) in [
        ("a.qcow2", &["--compression", "zstd", "--compression-level", "9"][..]),
        ("b.vmdk", &["--compression-level", "1"]),
        ("c.qcow2", &["--cluster-size", "2MiB", "--compression", "deflate"]),
        ("d.raw", &["--digest", "blake3"]),
    ] {
        let output = directory.path().join(name);
        let paths = [source.to_str().unwrap(), output.to_str().unwrap()];
        let args: Vec<&str> =
            ["convert", "-q", "--workers", "64"].iter().chain(more).copied().chain(paths).collect();
        assert_bounded(watch(start(&args)));
    }
}

#[test]
fn a_first_range_that_stalls_does_not_make_the_others_pile_up() {
    let directory = scratch();
    let disk = noise(73, 256 << 20);
    let server = Server::start(directory.path());
    server.put("/disk.img", disk);
    server.state.first_stalls.store(true, SeqCst);
    let (url, output) = (server.url("/disk.img"), directory.path().join("out.qcow2"));
    let options = server.options();
    let mut args = vec!["convert", "-q", "--connections", "16", "--workers", "64"];
    args.extend(options.iter().map(String::as_str));
    args.extend([url.as_str(), output.to_str().unwrap()]);
    let child = start(&args);
    // Until nothing moves any more: what may be in flight is.
    let mut seen = 0;
    let mut rounds = 0;
    wait_for("the others to come", || {
        let gets = server.state.gets.load(SeqCst);
        rounds = if gets == seen { rounds + 1 } else { 0 };
        seen = gets;
        seen > 2 && rounds > 200
    });
    let stalled = peak(&child).unwrap();
    assert_bounded(stalled);
    assert!(seen < 40, "{seen} ranges of 64 were fetched ahead of the first");
    server.state.first_stalls.store(false, SeqCst);
    assert_bounded(watch(child));
}

#[test]
fn a_sink_that_does_not_read_holds_the_run_back() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    fs::write(&source, noise(74, 256 << 20)).unwrap();
    let mut child = vmferry(["convert", "-q", "-O", "raw", source.to_str().unwrap(), "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(Duration::from_millis(700));
    assert_bounded(peak(&child).unwrap());
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()).unwrap());
    assert_bounded(watch(child));
    assert_eq!(reader.join().unwrap(), 256 << 20);
}

#[test]
fn too_little_memory_is_refused_with_what_is_needed() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    fs::write(&source, noise(75, 1 << 20)).unwrap();
    let output = directory.path().join("out.qcow2");
    let args = ["convert", "-q", "--memory", "8MiB", source.to_str().unwrap(), output.to_str().unwrap()];
    let refused = crate::support::run(args).expect(2);
    assert!(refused.stderr.contains("--memory"), "{}", refused.stderr);
    assert!(!output.exists());
}

#[test]
fn an_appliance_of_four_disks_stays_within_the_bound() {
    let directory = scratch();
    let mut disks: Vec<std::path::PathBuf> = (0..4)
        .map(|index| {
            let path = directory.path().join(format!("{index}.raw"));
            fs::write(&path, noise(90 + index, 150 << 20)).unwrap();
            path
        })
        .collect();
    // What is read differently has buffers of other sizes.
    let image = directory.path().join("1.qcow2");
    let [from, to] = [&disks[1], &image].map(|path| path.to_str().unwrap());
    crate::support::run(["convert", "-q", "--compression", "zstd", from, to]).expect(0);
    disks[1] = image;
    for workers in ["2", "16"] {
        let output = directory.path().join(format!("vm{workers}.ova"));
        let args = crate::ova::pack(&disks, &output, &["--workers", workers, "--verify"]);
        assert_bounded(watch(vmferry(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()));
    }
}
