//! `kill -9` at random moments: the same command, given again, ends in the bytes of an undisturbed
//! run, or there is nothing at all under the final name until it does.

use std::{fs, path::Path, process::Stdio, sync::mpsc, time::Duration};

use vmferry_formats::testkit::Rng;

use crate::support::{KINDS, Kind, make_disk, read, run, scratch, vmferry, write_sparse};

/// Small checkpoints, so that a small disk has many.
pub(crate) const OFTEN: [&str; 4] = ["--checkpoint-bytes", "1MiB", "--checkpoint-interval", "10ms"];

fn command(kind: &Kind, source: &Path, output: &Path) -> Vec<String> {
    let mut args = kind.convert(source, output);
    args.extend(OFTEN.map(str::to_owned));
    args
}

/// When a run is killed.
pub(crate) enum Moment {
    /// So long after its start, wherever it is then.
    After(Duration),
    /// When its journal holds so many checkpoints.
    Checkpoints(usize),
}

/// Starts the command and kills it; whether it was killed before its end.
pub(crate) fn start_and_kill(args: &[String], journal: &Path, moment: &Moment) -> bool {
    let mut child =
        vmferry(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    let (_keep, timer) = mpsc::channel::<()>();
    match moment {
        Moment::After(delay) => {
            let _ = timer.recv_timeout(*delay);
        }
        Moment::Checkpoints(count) => {
            let checkpoints =
                || fs::read_to_string(journal).map_or(0, |text| text.matches("\"checkpoint\"").count());
            while checkpoints() < *count && child.try_wait().expect("a state").is_none() {
                let _ = timer.recv_timeout(Duration::from_millis(1));
            }
        }
    }
    child.kill().expect("SIGKILL");
    !child.wait().expect("an end").success()
}

#[test]
fn two_hundred_killed_runs_resume_to_the_bytes_of_an_undisturbed_one() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 42, (44 << 20) + 512);
    let (mut rng, mut killed, mut resumed) = (Rng::new(7), 0, 0);
    for kind in &KINDS {
        let reference = directory.path().join("reference").join(kind.name);
        fs::create_dir_all(&reference).unwrap();
        let name = format!("disk.{}", kind.extension);
        let started = std::time::Instant::now();
        run(command(kind, &source, &reference.join(&name))).expect(0);
        let duration = started.elapsed();
        let (image, manifest) =
            (read(&reference.join(&name)), read(&reference.join(format!("{name}.vmferry.jsonl"))));
        for round in 0..34 {
            let place = directory.path().join(format!("{}-{round}", kind.name));
            fs::create_dir(&place).unwrap();
            let output = place.join(&name);
            let args = command(kind, &source, &output);
            let journal = place.join(format!("{name}.partial.journal"));
            let (mut left, mut tries) = (1 + rng.below(3), 0);
            while left > 0 {
                tries += 1;
                assert!(tries < 100, "{} {round}: it is always faster than the kill", kind.name);
                let moment = if rng.below(2) == 0 {
                    Moment::After(duration.mul_f64((rng.below(1000) as f64) / 900.0))
                } else {
                    Moment::Checkpoints(1 + usize::try_from(rng.below(4)).unwrap())
                };
                if start_and_kill(&args, &journal, &moment) {
                    (killed, left) = (killed + 1, left - 1);
                    assert!(
                        !output.exists() || read(&output) == image,
                        "{} {round}: a partial image",
                        kind.name
                    );
                } else {
                    // It was done before it was killed: once more, from the start.
                    fs::remove_dir_all(&place).unwrap();
                    fs::create_dir(&place).unwrap();
                }
            }
            if !output.exists() || place.join(format!("{name}.partial.journal")).exists() {
                let report = run(&args).expect(0).json();
                resumed += usize::from(report["resumed_from"].is_u64());
            }
            assert!(read(&output) == image, "{} {round}: other bytes", kind.name);
            assert!(read(&place.join(format!("{name}.vmferry.jsonl"))) == manifest, "{} {round}", kind.name);
            assert_eq!(crate::support::listing(&place), [name.clone(), format!("{name}.vmferry.jsonl")]);
            fs::remove_dir_all(&place).unwrap();
        }
    }
    println!("{killed} runs killed, {resumed} resumed");
    assert!(killed >= 200, "only {killed} runs were killed before their end");
    assert!(resumed >= 50, "only {resumed} runs were resumed");
}

#[test]
fn a_run_that_was_killed_before_its_first_record_is_no_obstacle() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 43, 1 << 20);
    let output = directory.path().join("disk.qcow2");
    let (partial, journal) =
        (directory.path().join("disk.qcow2.partial"), directory.path().join("disk.qcow2.partial.journal"));
    let args = ["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()];
    // A partial output that belongs to nobody stays, even an empty one.
    fs::write(&partial, "").unwrap();
    run(args).expect(5);
    assert!(partial.exists() && !journal.exists());
    // So does one that holds something, whatever lies beside it.
    fs::write(&journal, "").unwrap();
    fs::write(&partial, "x").unwrap();
    run(args).expect(5);
    assert_eq!(read(&partial), b"x");
    // The two empty files are what a killed run leaves.
    fs::write(&journal, "").unwrap();
    fs::write(&partial, "").unwrap();
    run(args).expect(0);
    run(["verify", "-q", output.to_str().unwrap()]).expect(0);
}

#[test]
fn bytes_that_a_killed_run_left_behind_its_durable_point_never_show() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    // Data in front, then long stretches of zeros that a resumed run skips.
    let mut disk = vec![0; 64 << 20];
    Rng::new(1).fill(&mut disk[..20 << 20]);
    Rng::new(2).fill(&mut disk[50 << 20..51 << 20]);
    write_sparse(&source, &disk);
    for kind in &KINDS {
        let output = directory.path().join(format!("{}.{}", kind.name, kind.extension));
        let reference = directory.path().join("reference");
        fs::create_dir_all(&reference).unwrap();
        let reference = reference.join(output.file_name().unwrap());
        run(command(kind, &source, &reference)).expect(0);
        let args = command(kind, &source, &output);
        let partial = directory.path().join(format!("{}.{}.partial", kind.name, kind.extension));
        let journal = directory.path().join(format!("{}.{}.partial.journal", kind.name, kind.extension));
        let mut child = vmferry(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        crate::support::wait_for("a checkpoint", || {
            fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"checkpoint\"")) || output.exists()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        if partial.exists() {
            // What a torn run may have written: anything, anywhere behind the durable point.
            let text = fs::read_to_string(&journal).unwrap();
            let is_checkpoint = |line: &&str| line.contains("\"record\":\"checkpoint\"");
            let line = text.lines().rfind(is_checkpoint).expect("a checkpoint").rsplit_once(' ').unwrap().0;
            let durable = serde_json::from_str::<serde_json::Value>(line).unwrap()["out"].as_u64().unwrap();
            let file = fs::OpenOptions::new().write(true).open(&partial).unwrap();
            let stale = vec![0xee; 70 << 20];
            std::os::unix::fs::FileExt::write_all_at(&file, &stale, durable).unwrap();
        }
        if !output.exists() {
            run(&args).expect(0);
        }
        assert!(read(&output) == read(&reference), "{}", kind.name);
    }
}
