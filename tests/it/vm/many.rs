//! Thousands of VMs: rows come at once, and memory does not grow with them.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use vmferry_sim::{Config, Disk, Fault, FaultKind, Vm};

use super::Cluster;
use crate::memory;

const MANY: usize = 5000;

/// The most that a list may take.
const BOUND: u64 = 100 << 20;

#[test]
fn five_thousand_vms_are_listed_page_by_page() {
    // The controllers have nothing to do, and would look through all of it all the time.
    let cluster = Cluster::with(Config { delay: Duration::from_secs(3600), ..Config::default() });
    for i in 0..MANY {
        let vm = Vm::new(&format!("team-{}", i % 10), &format!("vm-{i:04}")).claims();
        let vm = vm.disk("root", Disk::pattern(1 << 30, 1)).running(i % 2 == 0);
        cluster.sim.add_vm(if i % 3 == 0 { vm.instancetype("u1.large") } else { vm });
    }

    let before = cluster.sim.requests().len();
    let place = crate::support::scratch();
    let out = place.path().join("out");
    // The one that looks up most.
    let mut command = cluster.command("vm list -A -o wide");
    command.stdout(std::fs::File::create(&out).unwrap()).stderr(Stdio::piped());
    let most = memory::watch(command.spawn().unwrap());
    assert!(most <= BOUND, "{} MiB resident", most >> 20);
    let out = std::fs::read_to_string(out).unwrap();
    let rows: Vec<&str> = out.lines().skip(1).collect();
    assert_eq!(rows.len(), MANY);
    assert_eq!(rows.iter().filter(|row| row.contains("node-1")).count(), MANY / 2, "nodes are known");
    assert!(rows.iter().all(|row| row.contains("1 GiB")), "sizes are known");
    assert_eq!(
        rows.iter().filter(|row| row.contains("8 GiB")).count(),
        MANY.div_ceil(3),
        "instancetypes are"
    );
    // A page of a list a request, and one for each instancetype in each namespace.
    let requests = cluster.sim.requests().len() - before;
    assert!(requests < 90, "{requests} requests");

    // The first rows do not wait for the last page.
    let pause = Duration::from_secs(15);
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause }).api_path("v1/virtualmachines").skip(1).times(0));
    let start = Instant::now();
    cluster.follow("vm list -A").until("vm-0000");
    assert!(start.elapsed() < pause, "{:?}", start.elapsed());
}
