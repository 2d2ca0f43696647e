//! Appliances that were interrupted: the same command again ends in the same bytes, or refuses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use vmferry_formats::testkit::{self, Rng};

use crate::{
    kill::{Moment, OFTEN, start_and_kill},
    ova::{four_disks, pack},
    server::Server,
    support::{listing, make_disk, read, run, scratch, vmferry, wait_for},
};

fn often<'a>(more: &[&'a str]) -> Vec<&'a str> {
    OFTEN.iter().chain(more).copied().collect()
}

#[test]
fn killed_runs_resume_to_the_bytes_of_an_undisturbed_one() {
    let directory = scratch();
    let disks = four_disks(directory.path(), 500);
    let (mut rng, mut killed, mut resumed, mut behind) = (Rng::new(11), 0, 0, 0);
    for algorithm in ["sha256", "sha1"] {
        let more = often(&["--manifest-algorithm", algorithm]);
        let reference = directory.path().join("reference").join(algorithm);
        fs::create_dir_all(&reference).unwrap();
        let started = Instant::now();
        run(pack(&disks, &reference.join("vm.ova"), &more)).expect(0);
        let duration = started.elapsed();
        let expected = (read(&reference.join("vm.ova")), read(&reference.join("vm.ova.vmferry.jsonl")));
        for round in 0..30 {
            let place = directory.path().join(format!("{algorithm}-{round}"));
            fs::create_dir(&place).unwrap();
            let output = place.join("vm.ova");
            let args = pack(&disks, &output, &more);
            let journal = place.join("vm.ova.partial.journal");
            let (mut left, mut tries) = (1 + rng.below(3), 0);
            while left > 0 {
                tries += 1;
                assert!(tries < 100, "{round}: it is always faster than the kill");
                let moment = if rng.below(2) == 0 {
                    Moment::After(duration.mul_f64((rng.below(1000) as f64) / 900.0))
                } else {
                    Moment::Checkpoints(1 + usize::try_from(rng.below(14)).unwrap())
                };
                if start_and_kill(&args, &journal, &moment) {
                    (killed, left) = (killed + 1, left - 1);
                    assert!(!output.exists() || read(&output) == expected.0, "{round}: a partial archive");
                } else {
                    fs::remove_dir_all(&place).unwrap();
                    fs::create_dir(&place).unwrap();
                }
            }
            if !output.exists() || journal.exists() {
                let report = run(&args).expect(0).json();
                let from = &report["resumed_from"];
                resumed += usize::from(from.is_object());
                behind += usize::from(from["disk"].as_u64().is_some_and(|disk| disk > 0));
            }
            assert!(read(&output) == expected.0, "{algorithm} {round}: other bytes");
            assert!(read(&place.join("vm.ova.vmferry.jsonl")) == expected.1, "{algorithm} {round}");
            assert_eq!(listing(&place), ["vm.ova", "vm.ova.vmferry.jsonl"]);
            fs::remove_dir_all(&place).unwrap();
        }
    }
    println!("{killed} runs killed, {resumed} resumed, {behind} of them behind the first disk");
    assert!(killed >= 60 && resumed >= 20 && behind >= 5, "{killed} {resumed} {behind}");
}

/// The journal of a partial archive, cut behind a line, with the archive as long as it says.
fn cut_behind(place: &Path, lines: usize) {
    let journal = place.join("vm.ova.partial.journal");
    let text = fs::read_to_string(&journal).unwrap();
    let kept: String = text.split_inclusive('\n').take(lines).collect();
    fs::write(&journal, kept).unwrap();
}

/// A partial archive that has all of its disks, but nothing behind them: its end cannot be renamed.
fn whole_journal(place: &Path, args: &[String]) -> Vec<String> {
    let output = place.join("vm.ova");
    let mut child = vmferry(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the run to begin", || place.join("vm.ova.partial").exists());
    fs::write(&output, "in the way").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "the name was taken meanwhile");
    fs::remove_file(&output).unwrap();
    let text = fs::read_to_string(place.join("vm.ova.partial.journal")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_run_goes_on_from_every_checkpoint_that_it_could_have_ended_at() {
    let directory = scratch();
    let disks = four_disks(directory.path(), 510);
    let place = directory.path().join("place");
    fs::create_dir(&place).unwrap();
    // A slow source keeps the run long enough to put something in its way.
    let server = Server::start(directory.path());
    server.put("/disk.img", fs::read(&disks[0]).unwrap());
    let mut sources = disks.clone();
    sources[0] = PathBuf::from(server.url("/disk.img"));
    let options = server.options();
    // A checkpoint for every record, however slow the machine is.
    let mut more = vec!["--checkpoint-bytes", "1"];
    more.extend(options.iter().map(String::as_str));
    let output = place.join("vm.ova");
    let args = |output: &Path| {
        let mut args = pack(&disks, output, &more);
        let at = args.iter().position(|arg| *arg == disks[0].to_str().unwrap()).unwrap();
        args[at] = sources[0].to_str().unwrap().to_owned();
        args
    };
    fs::create_dir(directory.path().join("reference")).unwrap();
    let reference = directory.path().join("reference/vm.ova");
    run(args(&reference)).expect(0);
    let args = args(&output);
    let prepare = || {
        server.state.first_stalls.store(true, SeqCst);
        let release = std::thread::spawn({
            let (state, partial) = (std::sync::Arc::clone(&server.state), place.join("vm.ova.partial"));
            move || {
                wait_for("the run to begin", || partial.exists());
                let (_never, timer) = std::sync::mpsc::channel::<()>();
                let _ = timer.recv_timeout(Duration::from_millis(50));
                state.first_stalls.store(false, SeqCst);
            }
        });
        let lines = whole_journal(&place, &args);
        release.join().unwrap();
        lines
    };
    let (mut count, mut tested) = (2, 0);
    loop {
        let lines = prepare();
        let Some(at) = (count..=lines.len()).find(|&at| lines[at - 1].contains("\"checkpoint\"")) else {
            break;
        };
        cut_behind(&place, at);
        let report = run(&args).expect(0).json();
        assert!(report["resumed_from"].is_object(), "cut behind line {at}: {}", lines[at - 1]);
        assert!(read(&output) == read(&reference), "cut behind line {at}: {}", lines[at - 1]);
        fs::remove_file(&output).unwrap();
        fs::remove_file(place.join("vm.ova.vmferry.jsonl")).unwrap();
        (count, tested) = (at + 1, tested + 1);
    }
    assert!(tested >= 8, "{tested} checkpoints");
    // Here everything was written: only the name is missing.
    let report = run(&args).expect(0).json();
    assert!(report["warnings"][0].as_str().unwrap().contains("last steps"), "{report}");
    assert!(read(&output) == read(&reference));
}

/// Kills a run when its journal holds so many starts of disks and checkpoints.
fn interrupt(args: &[String], journal: &Path, disk: usize) {
    let mut child = vmferry(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the disk to begin", || {
        let text = fs::read_to_string(journal).unwrap_or_default();
        text.matches("\"disk-start\"").count() > disk && text.matches("\"disk-end\"").count() >= disk
            || child.try_wait().unwrap().is_some()
    });
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was faster than the kill");
}

#[test]
fn a_source_that_changed_meanwhile_is_noticed_in_every_disk_that_was_begun() {
    let directory = scratch();
    let disks: Vec<PathBuf> = (0..3).map(|index| directory.path().join(format!("{index}.raw"))).collect();
    for (index, disk) in disks.iter().enumerate() {
        make_disk(disk, 520 + index as u64, 40 << 20);
    }
    let output = directory.path().join("vm.ova");
    let journal = directory.path().join("vm.ova.partial.journal");
    let args = pack(&disks, &output, &often(&[]));
    for (changed, name) in [(0, "vm-disk1.vmdk"), (1, "vm-disk2.vmdk"), (2, "vm-disk3.vmdk")] {
        interrupt(&args, &journal, 1);
        let before = fs::read(&disks[changed]).unwrap();
        fs::write(&disks[changed], testkit::disk(77, 40 << 20)).unwrap();
        let said = run(&args).expect(4).stderr;
        assert!(said.contains(name) && said.contains("changed"), "{said}");
        assert!(!output.exists());
        fs::write(&disks[changed], before).unwrap();
        run([&args[..], &["--restart".into()]].concat()).expect(0);
        fs::remove_file(&output).unwrap();
        fs::remove_file(directory.path().join("vm.ova.vmferry.jsonl")).unwrap();
    }
    // Content that changed although nothing else shows it, in a disk that was complete already.
    let server = Server::start(directory.path());
    server.put("/disk.img", fs::read(&disks[0]).unwrap());
    let options = server.options();
    // A checkpoint for every record, however slow the machine is.
    let mut more = vec!["--checkpoint-bytes", "1"];
    more.extend(options.iter().map(String::as_str));
    let mut args = pack(&disks, &output, &more);
    let at = args.iter().position(|arg| *arg == disks[0].to_str().unwrap()).unwrap();
    args[at] = server.url("/disk.img");
    interrupt(&args, &journal, 1);
    let mut other = fs::read(&disks[0]).unwrap();
    other.iter_mut().for_each(|byte| *byte ^= u8::from(*byte != 0));
    server.put("/disk.img", other);
    let said = run(&args).expect(4).stderr;
    assert!(said.contains("changed"), "{said}");
}

#[test]
fn other_parameters_do_not_go_on() {
    let directory = scratch();
    let disks: Vec<PathBuf> = (0..2).map(|index| directory.path().join(format!("{index}.raw"))).collect();
    for (index, disk) in disks.iter().enumerate() {
        make_disk(disk, 530 + index as u64, 40 << 20);
    }
    let output = directory.path().join("vm.ova");
    let journal = directory.path().join("vm.ova.partial.journal");
    let args = |more: &[&str]| pack(&disks, &output, &often(more));
    interrupt(&args(&[]), &journal, 1);
    for (more, what) in [
        (&["--manifest-algorithm", "sha1"][..], "manifest=sha"),
        (&["--mtime", "7"], "mtime="),
        (&["--compression-level", "9"], "level="),
        (&["--digest", "blake3"], "digest"),
        (&["--disk-name", "a.vmdk", "--disk-name", "b.vmdk"], "another descriptor"),
        (&["--no-resume"], "earlier run"),
    ] {
        let said = run(args(more)).expect(5).stderr;
        assert!(said.contains(what), "{more:?}: {said}");
    }
    let said = run(pack(&disks[..1], &output, &often(&[]))).expect(5).stderr;
    assert!(said.contains("descriptor") || said.contains("number of disks"), "{said}");
    let again = args(&[]);
    let template = directory.path().join("vm-2.template");
    let text = fs::read_to_string(&template).unwrap();
    fs::write(&template, text.replace("</Envelope>", "<!-- --></Envelope>")).unwrap();
    let said = run(&again).expect(5).stderr;
    assert!(said.contains("another descriptor"), "{said}");
    fs::write(&template, text).unwrap();
    // A second run does not come between, and a plain conversion does not take it over.
    let said = run(["convert", "-q", "-O", "raw", disks[0].to_str().unwrap(), output.to_str().unwrap()])
        .expect(5)
        .stderr;
    assert!(said.contains("journal version"), "{said}");
    assert!(run(&again).expect(0).json()["resumed_from"].is_object());
}

#[test]
fn the_first_signal_suspends_and_the_same_command_goes_on() {
    let directory = scratch();
    let disks: Vec<PathBuf> = (0..2).map(|index| directory.path().join(format!("{index}.raw"))).collect();
    for (index, disk) in disks.iter().enumerate() {
        make_disk(disk, 540 + index as u64, 60 << 20);
    }
    let output = directory.path().join("vm.ova");
    let journal = directory.path().join("vm.ova.partial.journal");
    let args = pack(&disks, &output, &often(&[]));
    let child = vmferry(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a checkpoint", || fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"chunk\"")));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(143), "{said}");
    assert!(said.contains("run the same command again"), "{said}");
    assert!(run(&args).expect(0).json()["resumed_from"].is_object());
}

#[test]
fn a_disk_from_a_stream_is_read_from_its_start_and_goes_on_where_it_stopped() {
    let directory = scratch();
    let disk = directory.path().join("a.raw");
    make_disk(&disk, 560, 60 << 20);
    crate::support::tool("gzip", ["-kf1", disk.to_str().unwrap()]);
    let disks = [directory.path().join("a.raw.gz")];
    let more = often(&["--source-size", "60MiB"]);
    fs::create_dir(directory.path().join("reference")).unwrap();
    let reference = directory.path().join("reference/vm.ova");
    run(pack(&disks, &reference, &more)).expect(0);
    let output = directory.path().join("vm.ova");
    let journal = directory.path().join("vm.ova.partial.journal");
    let args = pack(&disks, &output, &more);
    assert!(start_and_kill(&args, &journal, &Moment::Checkpoints(3)), "it was faster than the kill");
    let from = run(&args).expect(0).json()["resumed_from"]["offset"].as_u64();
    assert!(from.is_some_and(|offset| offset > 0), "{from:?}");
    assert!(read(&output) == read(&reference));
}

#[test]
fn a_directory_that_was_interrupted_is_completed() {
    let directory = scratch();
    let disks = four_disks(directory.path(), 550);
    let more = often(&["--format", "ovf"]);
    let reference = directory.path().join("reference/vm");
    fs::create_dir(directory.path().join("reference")).unwrap();
    let started = Instant::now();
    run(pack(&disks, &reference, &more)).expect(0);
    let duration = started.elapsed();
    let names = listing(&reference);
    let (mut rng, mut killed) = (Rng::new(5), 0);
    for round in 0..12 {
        let place = directory.path().join(format!("{round}/vm"));
        fs::create_dir(place.parent().unwrap()).unwrap();
        let args = pack(&disks, &place, &more);
        let journal = place.join("vm.ovf.partial.journal");
        for _ in 0..1 + rng.below(2) {
            let moment = Moment::After(duration.mul_f64((rng.below(1000) as f64) / 1000.0));
            killed += usize::from(start_and_kill(&args, &journal, &moment));
        }
        if journal.exists() || !place.join("vm.ovf").exists() {
            assert!(!place.join("vm.ovf").exists() || journal.exists());
            run(&args).expect(0);
        }
        assert_eq!(listing(&place), names, "{round}");
        for name in &names {
            assert!(read(&place.join(name)) == read(&reference.join(name)), "{round} {name}");
        }
    }
    assert!(killed >= 6, "{killed}");
}
