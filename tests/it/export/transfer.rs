//! `--transfer auto`: which link is faster end to end is found out, not assumed.

use std::time::Duration;

use vmferry_formats::testkit::Rng;
use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Link, Vm};

use super::cluster::{Cluster, assert_disk};
use crate::support::scratch;

#[test]
fn mostly_zeros_over_a_thin_link_come_compressed() {
    let cluster = cluster(20 << 20);
    export(&cluster, &disk(20), Link::Gzip);
}

#[test]
fn mostly_zeros_come_raw_where_the_exporter_is_slow_to_compress() {
    let cluster = cluster(200 << 20);
    let slow = FaultKind::Slow { bytes_per_second: 100 << 10 };
    cluster.sim.fault(Fault::new(slow).link(Link::Gzip).times(0));
    export(&cluster, &disk(20), Link::Raw);
}

#[test]
fn what_does_not_compress_comes_raw() {
    let cluster = cluster(100 << 20);
    export(&cluster, &disk(1), Link::Raw);
}

/// Trying the compressed link is for its speed: it may cost a moment, never the patience of a transfer.
#[test]
fn a_compressed_link_in_trouble_is_not_waited_for() {
    for kind in [FaultKind::Status { code: 503 }, FaultKind::Delay { pause: Duration::from_secs(120) }] {
        let cluster = cluster(40 << 20);
        cluster.sim.fault(Fault::new(kind).link(Link::Gzip).times(0));
        let start = std::time::Instant::now();
        export(&cluster, &disk(20), Link::Raw);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(45), "{took:?}");
        let asked = cluster.sim.requests().iter().filter(|asked| asked.path.ends_with("disk.img.gz")).count();
        assert_eq!(asked, 1, "the compressed link was tried, once");
    }
}

/// A cluster behind a link of this rate.
fn cluster(bytes_per_second: u64) -> Cluster {
    let cluster = Cluster::start(Config::default());
    let (latency, stall) = (Duration::from_millis(1), Duration::ZERO);
    cluster.sim.act(Action::ShapeLink { bytes_per_second, latency, stall });
    cluster
}

/// A disk with random data in one of `share` blocks.
fn disk(share: usize) -> Vec<u8> {
    let (mut disk, mut rng) = (vec![0; LEN], Rng::new(7));
    disk.chunks_mut(64 << 10).step_by(share).for_each(|block| rng.fill(block));
    disk
}

/// Exports a disk with `--transfer auto`, and demands the link that it comes by.
#[track_caller]
fn export(cluster: &Cluster, disk: &[u8], expected: Link) {
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(disk.to_vec())));
    let place = scratch();
    cluster.run(place.path(), &["demo/web", "--output", "root.qcow2", "--transfer", "auto"]).expect(0);
    assert_disk(&place.path().join("root.qcow2"), disk);
    cluster.assert_clean();
    let requests = cluster.sim.requests();
    let ranges =
        requests.iter().filter(|request| request.method == "GET" && request.path.ends_with("/disk.img"));
    let by_ranges: u64 = ranges.map(|request| request.bytes_sent).sum();
    let link = if by_ranges < LEN as u64 { Link::Gzip } else { Link::Raw };
    assert_eq!(link, expected, "{by_ranges} of {LEN} bytes came by ranges");
}

/// A smaller disk is there before anything is measured.
const LEN: usize = 257 << 20;
