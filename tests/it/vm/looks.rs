//! What a VM uses, and what is on its screen.

use serde_json::json;
use vmferry_sim::{Config, Disk, Fault, FaultKind, Rule, Vm};

use super::{Cluster, text};
use crate::support::{read, scratch};

fn add(cluster: &Cluster) {
    let disk = Disk::pattern(5 << 30, 1);
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk.clone()).running(true).agent(true));
    cluster.sim.add_vm(Vm::new("demo", "mute").disk("root", disk).running(true));
    cluster.sim.add_vm(Vm::new("demo", "off").instancetype("u1.large"));
    let blind = json!({"template": {"spec": {"domain": {"devices": {"autoattachGraphicsDevice": false}}}}});
    cluster.sim.add_vm(Vm::new("demo", "blind").running(true).patch(&blind));
}

#[test]
fn what_a_vm_uses_is_shown_as_far_as_it_is_known() {
    let cluster = Cluster::with(Config { metrics_server: true, ..Config::default() });
    add(&cluster);
    let found = cluster.json("vm metrics demo/web");
    assert_eq!(found["cpu"], json!({"cpus": 2, "usage_millis": 154}));
    assert_eq!(found["memory"], json!({"guest_bytes": 1 << 30, "usage_bytes": 734_512 << 10}));
    assert_eq!(
        found["disks"][0],
        json!({"name": "root", "target": "vda", "size_bytes": 5_u64 << 30, "phase": ""})
    );
    assert_eq!(
        (&found["networks"][0]["link_state"], &found["networks"][0]["name"]),
        (&json!("up"), &json!("default"))
    );
    assert_eq!(
        (&found["filesystems"][0]["mount_point"], &found["filesystems"][0]["type"]),
        (&json!("/"), &json!("ext4"))
    );
    assert_eq!((&found["guest"]["hostname"], &found["guest"]["users"]), (&json!("web"), &json!(["debian"])));
    let shown = text(&cluster.run("vm metrics demo/web").expect(0));
    for says in ["0.154 of 2", "of 1 GiB", "root (vda): 5 GiB", "25%", "kernel 6.12.0", "node-1"] {
        assert!(shown.contains(says), "{says}: {shown}");
    }

    let mute = cluster.run("vm metrics demo/mute").expect(0);
    assert!(text(&mute).contains("no agent") && mute.stderr.is_empty(), "{}{}", text(&mute), mute.stderr);
    let off = cluster.json("vm metrics demo/off");
    assert_eq!(
        (&off["state"], &off["cpu"], &off["node"]),
        (&json!("stopped"), &json!({"cpus": 2, "usage_millis": null}), &json!(null))
    );
    cluster.refused("vm metrics demo/none", 7, &["VM demo/none does not exist"]);

    let mut watched = cluster.follow("vm metrics demo/web -w --interval 100ms");
    for _ in 0..3 {
        watched.until("0.154 of 2");
    }
}

#[test]
fn what_is_not_known_is_told_and_left_open() {
    let cluster = Cluster::start();
    add(&cluster);
    let found = cluster.run("vm metrics demo/web").expect(0);
    assert!(found.stderr.contains("warning: the cluster has no metrics server"), "{}", found.stderr);
    assert!(text(&found).contains("- of 2"), "{}", text(&found));

    let cluster = Cluster::with(Config { metrics_server: true, ..Config::default() });
    add(&cluster);
    cluster.allow(vec![Rule::new(&["get"], &["kubevirt.io/*"])]);
    let poor = cluster.run("vm metrics demo/web").expect(0);
    for says in [
        "--verb=list --resource=pods.metrics.k8s.io -n demo",
        "--verb=get --resource=virtualmachineinstances.subresources.kubevirt.io/guestosinfo -n demo",
        "subresources.kubevirt.io/filesystemlist",
    ] {
        assert!(poor.stderr.contains(says), "{says}: {}", poor.stderr);
    }
    cluster.allow(vec![Rule::new(&["*"], &["*/*"])]);
    // A guest that does not answer does not hide the rest.
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 500 }).api_path("/guestosinfo").times(0));
    let found = cluster.run("vm metrics demo/web").expect(0);
    assert!(
        found.stderr.contains("guestosinfo of demo/web (500)") && text(&found).contains("ext4"),
        "{}",
        found.stderr
    );
    cluster.sim.clear_faults();
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api().times(0));
    cluster.refused("vm metrics demo/web", 1, &["is no JSON"]);
}

#[test]
fn a_screen_becomes_a_file() {
    let cluster = Cluster::start();
    add(&cluster);
    let place = scratch();
    let file = place.path().join("screen.png");
    let line = format!("vm screenshot demo/web --output {}", file.display());
    cluster.run(&line).expect(0);
    assert!(read(&file).starts_with(b"\x89PNG\r\n\x1a\n"));
    cluster.refused(&line, 5, &["screen.png exists", "--force"]);
    std::fs::write(
        &file,
        "an older and much longer file than a picture of one point is, and that must be gone afterwards",
    )
    .unwrap();
    cluster.run(&format!("{line} --force")).expect(0);
    let piped = cluster.run("vm screenshot demo/web --output -").expect(0);
    assert_eq!(piped.stdout, read(&file));

    let none = place.path().join("none.png");
    let line = |vm: &str| format!("vm screenshot demo/{vm} --output {}", none.display());
    cluster.refused(&line("off"), 7, &["VM demo/off has no screen to be seen: it is not running"]);
    cluster.refused(
        &line("blind"),
        7,
        &["VM demo/blind has no screen to be seen: it has no graphics device"],
    );
    cluster.refused(&line("missing"), 7, &["VM demo/missing does not exist"]);
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api_path("/screenshot"));
    cluster.refused(&line("web"), 1, &["is no PNG picture"]);
    cluster.sim.fault(
        Fault::new(FaultKind::Delay { pause: std::time::Duration::from_secs(60) }).api_path("/screenshot"),
    );
    cluster.refused(&format!("{} --request-timeout 1s", line("web")), 6, &["did not answer within 1 s"]);
    cluster.allow(vec![Rule::new(&["get"], &["kubevirt.io/*"])]);
    cluster.refused(
        &line("web"),
        7,
        &["--verb=get --resource=virtualmachineinstances.subresources.kubevirt.io/vnc -n demo"],
    );
    assert!(!none.exists());
}
