//! `vmferry demo`: what a newcomer runs first.

use crate::support::{have, listing, run, scratch, tool, vmferry};

#[test]
fn the_demonstration_proves_what_it_exports_and_keeps_it_on_request() {
    let directory = scratch();
    let images = directory.path().join("images");
    let report = run(["demo", "-q", "-o", "json", "--output", images.to_str().unwrap()]).expect(0).json();
    assert_eq!(report["cluster"], "simulated");
    let volumes = report["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 2);
    for volume in volumes {
        assert_eq!(volume["equals_source"], true);
        let file = volume["file"].as_str().unwrap();
        run(["verify", "-q", file]).expect(0);
        if have("qemu-img") {
            tool("qemu-img", ["check", "-q", file]);
        }
    }
    assert_eq!(report["left_out"].as_array().unwrap().len(), 2, "{report}");
}

#[test]
fn the_demonstration_leaves_nothing_behind() {
    let directory = scratch();
    let shown = vmferry(["demo"]).env("TMPDIR", directory.path()).output().unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    assert!(text.contains("simulated") && text.contains("tree-sha256:"), "{text}");
    assert!(listing(directory.path()).is_empty());
}
