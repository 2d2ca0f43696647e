//! Manual pages: one a command, the same every time, and without fault.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use crate::support::{have, listing, read, run, scratch, tool};

fn pages(directory: &std::path::Path) -> Vec<PathBuf> {
    run([OsStr::new("man"), directory.as_os_str()]).expect(0);
    listing(directory).iter().map(|name| directory.join(name)).collect()
}

#[test]
fn every_page_is_the_same_every_time() {
    let place = scratch();
    let (one, other) = (place.path().join("a/b"), place.path().join("c"));
    let (first, second) = (pages(&one), pages(&other));
    assert_eq!(first.len(), second.len());
    for (a, b) in first.iter().zip(&second) {
        assert!(a.file_name() == b.file_name() && read(a) == read(b), "{a:?}");
    }
    let report = run(["man", one.to_str().unwrap(), "-o", "json"]).expect(0).json();
    assert_eq!(report["pages"].as_array().unwrap().len(), first.len());
    assert_eq!(report["pages"][0], "vmferry.1");
    for name in ["vmferry-convert.1", "vmferry-config-show.1"] {
        assert!(one.join(name).is_file(), "{name}");
    }
    let failed = run(["man", "/dev/null/x"]).expect(1);
    assert!(failed.stderr.contains("cannot make the directory /dev/null/x"), "{}", failed.stderr);
}

#[test]
fn readers_of_manual_pages_find_no_fault() {
    let place = scratch();
    let pages = pages(place.path());
    if have_mandoc() {
        for page in &pages {
            // Style is ours; what is said of the date is that there is none.
            let output =
                Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(page).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let faults: Vec<&str> = said.lines().filter(|line| !line.contains("missing date")).collect();
            assert!(faults.is_empty(), "{page:?}: {faults:#?}");
        }
        let text = tool(
            "mandoc",
            [OsStr::new("-T"), OsStr::new("ascii"), place.path().join("vmferry-convert.1").as_os_str()],
        );
        assert!(text.contains("Examples:\n"), "{text}");
    }
    if have("man") {
        let page = place.path().join("vmferry.1");
        let output = Command::new("man").arg("-l").arg(&page).env("MANWIDTH", "100").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("convert") && text.contains("Exit codes:"),
            "{text}"
        );
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// mandoc knows no --version.
fn have_mandoc() -> bool {
    let is_there = Command::new("mandoc").arg("/dev/null").output().is_ok();
    if !is_there {
        crate::support::missing("the program mandoc");
    }
    is_there
}
