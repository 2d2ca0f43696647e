//! Every way in: links of an export, compressed files, pipes; and what goes wrong with them.

use std::{fs, io::Write as _, path::Path, process::Stdio, sync::atomic::Ordering::SeqCst};

use vmferry_formats::testkit;

use crate::{
    server::{Server, TOKEN},
    support::{Finished, KINDS, have, listing, make_disk, read, run, scratch, vmferry},
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Converts `url` with what the server demands.
fn fetch(server: &Server, url: &str, output: &Path, more: &[&str]) -> Finished {
    let mut args = vec!["convert".to_owned(), "-q".into(), "-o".into(), "json".into()];
    args.extend(server.options());
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    args.extend([url.to_owned(), output.to_str().unwrap().to_owned()]);
    run(&args)
}

#[test]
fn a_link_of_an_export_gives_the_bytes_that_the_file_gives() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    let disk = make_disk(&source, 31, (21 << 20) + 512);
    let server = Server::start(directory.path());
    server.put("/volumes/root/disk.img.gz", gzip(&disk));
    server.put("/volumes/root/disk.img", disk);
    for kind in &KINDS {
        let place = |name: &str| {
            let place = directory.path().join(name);
            fs::create_dir_all(&place).unwrap();
            place.join(format!("disk.{}", kind.extension))
        };
        let expected = place("file");
        let mut args = kind.convert(&source, &expected);
        args.push("--force".into());
        run(&args).expect(0);
        for path in ["/volumes/root/disk.img", "/volumes/root/disk.img.gz"] {
            let output = place("link");
            let more: Vec<&str> =
                kind.args.iter().copied().chain(["--force", "--connections", "3"]).collect();
            let report = fetch(&server, &server.url(path), &output, &more).expect(0).json();
            assert_eq!(report["virtual_size"], (21 << 20) + 512);
            assert!(read(&output) == read(&expected), "{} {path}", kind.name);
        }
    }
}

#[test]
fn broken_connections_and_busy_servers_cost_time_only() {
    let directory = scratch();
    let disk = testkit::disk(32, 24 << 20);
    let server = Server::start(directory.path());
    server.put("/disk.img", disk.clone());
    server.state.breaks.store(3, SeqCst);
    server.state.unavailable.store(2, SeqCst);
    let output = directory.path().join("disk.raw");
    fetch(&server, &server.url("/disk.img"), &output, &[]).expect(0);
    assert!(read(&output) == disk);
    assert_eq!(server.state.breaks.load(SeqCst), 0, "the faults were met");
}

#[test]
fn a_short_gzip_is_not_taken_for_the_disk() {
    let directory = scratch();
    let disk = testkit::disk(33, 9 << 20);
    let server = Server::start(directory.path());
    // What an exporter sends when it cannot read its disk to the end: a whole stream of a part.
    server.put("/v/disk.img.gz", gzip(&disk[..5 << 20]));
    server.put("/v/disk.img", disk);
    let output = directory.path().join("out.qcow2");
    let failed = fetch(&server, &server.url("/v/disk.img.gz"), &output, &[]).expect(4);
    assert!(failed.stderr.contains("9437184") && failed.stderr.contains("5242880"), "{}", failed.stderr);
    assert!(!output.exists());
}

#[test]
fn a_wrong_token_or_path_is_explained_and_leaves_nothing() {
    let directory = scratch();
    let server = Server::start(directory.path());
    server.put("/disk.img", testkit::disk(34, 1 << 20));
    let output = directory.path().join("out.raw");
    let before = listing(directory.path());
    let missing = fetch(&server, &server.url("/other.img"), &output, &[]);
    assert!(
        missing.code.is_some_and(|code| code != 0) && missing.stderr.contains("404"),
        "{}",
        missing.stderr
    );
    fs::write(&server.token_file, "another").unwrap();
    let refused = fetch(&server, &server.url("/disk.img"), &output, &[]);
    assert!(
        refused.code.is_some_and(|code| code != 0) && refused.stderr.contains("401"),
        "{}",
        refused.stderr
    );
    assert!(!refused.stderr.contains("another") && !refused.stderr.contains(TOKEN), "the token was shown");
    // Without the CA file the certificate is that of a stranger.
    let url = server.url("/disk.img");
    let stranger = run(["convert", "-q", &url, output.to_str().unwrap()]);
    assert!(stranger.code.is_some_and(|code| code != 0), "{}", stranger.stderr);
    assert!(stranger.stderr.contains("certificate"), "{}", stranger.stderr);
    assert_eq!(listing(directory.path()), before);
}

#[test]
fn compressed_files_and_pipes_give_the_disk() {
    let directory = scratch();
    let disk = testkit::disk(35, (13 << 20) + 700);
    let files = [("disk.raw.gz", gzip(&disk)), ("disk.raw.zst", zstd::encode_all(&disk[..], 1).unwrap())];
    for (name, bytes) in &files {
        let (path, output) = (directory.path().join(name), directory.path().join(format!("{name}.raw")));
        fs::write(&path, bytes).unwrap();
        run(["convert", "-q", path.to_str().unwrap(), output.to_str().unwrap()]).expect(0);
        assert!(read(&output) == disk, "{name}");
        let piped = pipe(&["convert", "-q", "-O", "raw", "-", "-"], bytes);
        assert!(piped.code == Some(0) && piped.stdout == disk, "{name} through a pipe: {}", piped.stderr);
    }
    let stream =
        pipe(&["convert", "-q", "-O", "vmdk", "--source-size", &disk.len().to_string(), "-", "-"], &disk);
    assert_eq!(stream.code, Some(0), "{}", stream.stderr);
    let back = pipe(&["convert", "-q", "-O", "raw", "-", "-"], &stream.stdout);
    assert_eq!(back.code, Some(0), "{}", back.stderr);
    assert!(back.stdout[..disk.len()] == disk[..] && back.stdout.len() == disk.len().next_multiple_of(512));
}

#[test]
fn truncated_and_lying_streams_end_with_the_right_code() {
    let directory = scratch();
    let disk = testkit::disk(36, 9 << 20);
    let packed = gzip(&disk);
    let output = directory.path().join("out.qcow2");
    let text = output.to_str().unwrap();
    let cut = pipe(&["convert", "-q", "-", text], &packed[..packed.len() / 2]);
    assert!(matches!(cut.code, Some(1 | 4)) && !output.exists(), "{:?} {}", cut.code, cut.stderr);
    for size in [8 << 20, 10 << 20] {
        let size = size.to_string();
        let wrong = pipe(&["convert", "-q", "--restart", "--source-size", &size, "-", text], &disk);
        assert_eq!(wrong.code, Some(4), "{}", wrong.stderr);
        assert!(wrong.stderr.contains(&size) && !output.exists(), "{}", wrong.stderr);
    }
}

#[test]
fn a_source_that_changes_between_runs_is_not_taken_up() {
    let directory = scratch();
    let source = directory.path().join("source.img");
    make_disk(&source, 37, 24 << 20);
    let output = directory.path().join("out.qcow2");
    let args = ["convert", "-q", source.to_str().unwrap(), output.to_str().unwrap()];
    let often = ["--checkpoint-bytes", "1MiB", "--checkpoint-interval", "10ms"];
    let journal = directory.path().join("out.qcow2.partial.journal");
    let mut child = vmferry(args.iter().chain(&often)).stderr(Stdio::null()).spawn().unwrap();
    crate::support::wait_for("a checkpoint", || {
        fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"checkpoint\"")) || output.exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    if output.exists() {
        return; // It was faster than the signal.
    }
    let file = fs::OpenOptions::new().append(true).open(&source).unwrap();
    file.set_len(25 << 20).unwrap();
    let refused = run(args).expect(4);
    assert!(refused.stderr.contains("--restart"), "{}", refused.stderr);
    run(args.iter().chain(&["--restart"])).expect(0);
    assert!(output.exists());
}

#[test]
fn curl_can_feed_a_pipe() {
    if !have("curl") {
        return;
    }
    let directory = scratch();
    let disk = testkit::disk(38, 5 << 20);
    let server = Server::start(directory.path());
    server.put("/disk.img", disk.clone());
    let script = format!(
        "curl -sSf --cacert {ca} -H \"x-kubevirt-export-token: $(cat {token})\" {url} | {vmferry} convert -q -f raw - {out}",
        ca = server.ca_file.display(),
        token = server.token_file.display(),
        url = server.url("/disk.img"),
        vmferry = env!("CARGO_BIN_EXE_vmferry"),
        out = directory.path().join("out.raw").display(),
    );
    crate::support::tool("sh", ["-c", &script]);
    assert!(read(&directory.path().join("out.raw")) == disk);
}

/// Runs the binary with `input` on its standard input.
pub(crate) fn pipe(args: &[&str], input: &[u8]) -> Finished {
    let mut child =
        vmferry(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // The command may have seen enough.
        let _closed = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.into()
}
