//! The last steps of a run, and whose files they may touch.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Stdio},
    sync::atomic::Ordering::SeqCst,
};

use rustix::process::{Pid, Signal, kill_process};
use vmferry_formats::testkit;

use crate::{
    server::Server,
    support::{have, listing, make_disk, read, run, scratch, tool, vmferry, wait_for},
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_that_is_no_journal_is_not_taken_for_one() {
    let directory = scratch();
    let (source, notes) = (directory.path().join("a.raw"), directory.path().join("notes.txt"));
    let disk = make_disk(&source, 91, 1 << 20);
    fs::write(&notes, "do not lose this").unwrap();
    let output = directory.path().join("a.qcow2");
    let before = listing(directory.path());
    for (journal, code) in [(&notes, 5), (&source, 5), (&output, 2)] {
        let args = ["convert", "-q", "--journal", text(journal), text(&source), text(&output)];
        run(args).expect(code);
        run(args.iter().chain(&["--restart"])).expect(code);
    }
    // An output that exists is no reason to remove the file either.
    fs::write(&output, "an image").unwrap();
    run(["convert", "-q", "--journal", text(&notes), text(&source), text(&output)]).expect(5);
    fs::remove_file(&output).unwrap();
    assert_eq!(listing(directory.path()), before);
    assert_eq!(read(&notes), b"do not lose this");
    assert!(read(&source) == disk);
}

#[test]
fn a_source_that_has_the_name_of_a_partial_output_is_kept() {
    let directory = scratch();
    let source = directory.path().join("a.raw.partial");
    let disk = make_disk(&source, 92, 1 << 20);
    let output = directory.path().join("a.raw");
    run(["convert", "-q", "--restart", "-f", "raw", text(&source), text(&output)]).expect(5);
    assert!(read(&source) == disk && !output.exists());
}

/// A run that has written everything but could not rename it, since a file of that name appeared.
fn finished_but_unnamed(directory: &Path, server: &Server, disk: &[u8]) -> Vec<String> {
    server.put("/disk.img", disk.to_vec());
    server.state.first_stalls.store(true, SeqCst);
    let output = directory.join("disk.qcow2");
    let mut args = vec!["convert".to_owned(), "-o".into(), "json".into(), "-q".into()];
    args.extend(server.options());
    args.extend([server.url("/disk.img"), text(&output).into()]);
    let child = vmferry(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the run to begin", || directory.join("disk.qcow2.partial").exists());
    fs::write(&output, "somebody else's").unwrap();
    server.state.first_stalls.store(false, SeqCst);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(5), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(read(&output), b"somebody else's");
    args
}

#[test]
fn a_finished_run_is_completed_only_with_the_image_it_made() {
    let directory = scratch();
    let server = Server::start(directory.path());
    let disk = testkit::disk(93, 9 << 20);
    let args = finished_but_unnamed(directory.path(), &server, &disk);
    let output = directory.path().join("disk.qcow2");
    let (partial, aside) = (directory.path().join("disk.qcow2.partial"), directory.path().join("aside"));
    // The image was moved away: there is nothing to call complete, and what has its name is not it.
    fs::rename(&partial, &aside).unwrap();
    for foreign in [true, false] {
        if !foreign {
            fs::remove_file(&output).unwrap();
        }
        let refused = run(&args).expect(5);
        assert!(refused.stderr.contains("gone"), "{}", refused.stderr);
        assert!(!directory.path().join("disk.qcow2.vmferry.jsonl").exists());
    }
    fs::write(&partial, "another file").unwrap();
    run(&args).expect(5);
    assert_eq!(read(&partial), b"another file");
    // It is back. What the user asks for is done, not claimed.
    fs::rename(&aside, &partial).unwrap();
    let report = run(args.iter().map(String::as_str).chain(["--verify", "--sums"])).expect(0).json();
    assert_eq!(report["verified"], true);
    assert!(report["bytes_read"] == 0 && report["file_sha256"].is_string(), "{report}");
    run(["verify", "-q", text(&output)]).expect(0);
}

#[test]
fn a_finished_run_that_is_damaged_does_not_pass_its_verification() {
    let directory = scratch();
    let server = Server::start(directory.path());
    let args = finished_but_unnamed(directory.path(), &server, &testkit::disk(94, 9 << 20));
    let output = directory.path().join("disk.qcow2");
    fs::remove_file(&output).unwrap();
    let partial = directory.path().join("disk.qcow2.partial");
    let mut image = read(&partial);
    for byte in &mut image[70_000..130_000] {
        *byte ^= 0x55;
    }
    fs::OpenOptions::new().write(true).open(&partial).unwrap().write_all(&image).unwrap();
    run(args.iter().map(String::as_str).chain(["--verify"])).expect(3);
    assert!(!output.exists());
}

fn start_pipe(directory: &Path, journal: &str) -> Child {
    let (output, journal) = (directory.join("pipe.raw"), directory.join(journal));
    vmferry(["convert", "-q", "-f", "raw", "--restart", "--journal", text(&journal), "-", text(&output)])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn two_runs_with_two_journals_do_not_write_one_output() {
    let directory = scratch();
    let disk = testkit::disk(95, 6 << 20);
    let mut first = start_pipe(directory.path(), "one");
    let mut stdin = first.stdin.take().unwrap();
    stdin.write_all(&disk[..5 << 20]).unwrap();
    wait_for("the first run", || directory.path().join("pipe.raw.partial").exists());
    let mut second = start_pipe(directory.path(), "two");
    // It may be refused before it has taken everything.
    let _ = second.stdin.take().unwrap().write_all(&disk);
    let refused = second.wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in use"));
    stdin.write_all(&disk[5 << 20..]).unwrap();
    drop(stdin);
    assert!(first.wait().unwrap().success());
    assert!(read(&directory.path().join("pipe.raw")) == disk);
    assert!(!directory.path().join("two").exists());
}

#[test]
fn no_manifest_of_an_earlier_output_stays_beside_a_new_one() {
    let directory = scratch();
    let (a, b) = (directory.path().join("a.raw"), directory.path().join("b.raw"));
    make_disk(&a, 96, 1 << 20);
    make_disk(&b, 97, 1 << 20);
    let output = directory.path().join("out.raw");
    let manifest = directory.path().join("out.raw.vmferry.jsonl");
    for without in [&["--no-manifest"][..], &["--digest", "none"]] {
        run(["convert", "-q", "--force", text(&a), text(&output)]).expect(0);
        assert!(manifest.exists());
        fs::remove_file(&output).unwrap();
        let paths = [text(&b), text(&output)];
        let args = || ["convert", "-q"].iter().chain(without).chain(&paths);
        let refused = run(args()).expect(5);
        assert!(refused.stderr.contains("jsonl"), "{}", refused.stderr);
        run(args().chain(&["--force"])).expect(0);
        assert!(!manifest.exists());
    }
}

#[test]
fn a_signal_ends_a_run_that_still_waits_for_its_source() {
    let directory = scratch();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
    let output = directory.path().join("out.raw");
    let child = vmferry(["convert", "-q", &url, text(&output)]).stderr(Stdio::piped()).spawn().unwrap();
    // It says nothing to whoever calls.
    let connection = listener.accept().unwrap();
    let start = std::time::Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert!(listing(directory.path()).is_empty());
    drop(connection);
}

#[test]
fn a_gzip_link_is_not_taken_where_nothing_tells_the_length_of_the_disk() {
    use flate2::{Compression, write::GzEncoder};
    let directory = scratch();
    let server = Server::start(directory.path());
    let disk = testkit::disk(98, 5 << 20);
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&disk).unwrap();
    server.put("/v/disk.img.gz", packed.finish().unwrap());
    let output = directory.path().join("out.raw");
    let (options, url) = (server.options(), server.url("/v/disk.img.gz"));
    let args = || {
        let options = options.iter().map(String::as_str);
        ["convert", "-q"].into_iter().chain(options).chain([url.as_str(), text(&output)])
    };
    let refused = run(args()).expect(5);
    assert!(refused.stderr.contains("--source-size"), "{}", refused.stderr);
    run(args().chain(["--source-size", "5MiB"])).expect(0);
    fs::remove_file(&output).unwrap();
    fs::remove_file(directory.path().join("out.raw.vmferry.jsonl")).unwrap();
    // A server that is busy for a while has not said that there is no raw link.
    server.put("/v/disk.img", disk.clone());
    server.state.unavailable_heads.store(2, SeqCst);
    run(args()).expect(0);
    assert_eq!(server.state.unavailable_heads.load(SeqCst), 0, "the faults were met");
    assert!(read(&output) == disk);
}

#[test]
fn a_zstd_stream_with_a_long_window_is_read_where_memory_allows() {
    if !have("zstd") {
        return;
    }
    let directory = scratch();
    let source = directory.path().join("disk.raw");
    let disk = make_disk(&source, 99, 40 << 20);
    let packed = directory.path().join("disk.raw.zst");
    let output = directory.path().join("out.raw");
    for (window, more, code) in
        [("--long=24", &[][..], 0), ("--long=27", &[], 5), ("--long=27", &["--memory", "512MiB"], 0)]
    {
        // From a pipe: a size that is known would make the window smaller.
        let command = format!("zstd -q -f {window} -o {} < {}", text(&packed), text(&source));
        tool("sh", ["-c", &command]);
        let paths = [text(&packed), text(&output)];
        let done = run(["convert", "-q", "--force"].iter().chain(more).chain(&paths)).expect(code);
        assert!(code == 0 || done.stderr.contains("--memory"), "{}", done.stderr);
        assert!(code != 0 || read(&output) == disk);
    }
}
