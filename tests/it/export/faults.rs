//! One fault at a time: the output is that of an undisturbed run, or there is none.

use std::time::Duration;

use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Link, Vm};

use super::cluster::{Cluster, MIB, assert_disk, end, web};
use crate::support::{listing, scratch};

/// So slow that something can happen meanwhile, and so impatient that a test ends.
const SLOWLY: [&str; 8] =
    ["--rate", "8MiB", "--stall-timeout", "2s", "--retry-for", "30s", "--connections", "2"];

#[test]
fn faults_of_the_data_path_do_not_reach_the_output() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    let kinds = [
        FaultKind::CutAfter { bytes: 1 << 20 },
        FaultKind::CutAfter { bytes: 0 },
        FaultKind::Status { code: 502 },
        FaultKind::Status { code: 503 },
        FaultKind::Status { code: 504 },
        FaultKind::Status { code: 401 },
        FaultKind::Status { code: 404 },
        FaultKind::Delay { pause: Duration::from_millis(300) },
        FaultKind::Stall { after_bytes: 1000, pause: Duration::from_secs(4) },
        FaultKind::IgnoreRange,
        FaultKind::WrongContentRange,
    ];
    for reach in ["external", "port-forward"] {
        for kind in &kinds {
            cluster.sim.clear_faults();
            cluster.sim.fault(Fault::new(kind.clone()).link(Link::Raw).skip(2));
            let place = scratch();
            let args = [
                "demo/web",
                "--volume",
                "root",
                "--output",
                "root.raw",
                "--transfer",
                "raw",
                "--reach",
                reach,
            ];
            let done = cluster
                .run(place.path(), &[&args[..], &["--stall-timeout", "2s", "--retry-for", "30s"]].concat());
            assert_eq!(done.code, Some(0), "{reach} {kind:?}: {}", done.stderr);
            assert_disk(&place.path().join("root.raw"), &root);
            cluster.assert_clean();
        }
    }
}

#[test]
fn a_gzip_stream_that_breaks_or_ends_early_goes_on_by_ranges() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    for kind in [
        FaultKind::CutAfter { bytes: 1 << 20 },
        FaultKind::ShortGzip { bytes: 9 << 20 },
        FaultKind::ShortGzip { bytes: 0 },
        FaultKind::Status { code: 503 },
    ] {
        cluster.sim.clear_faults();
        cluster.sim.fault(Fault::new(kind.clone()).link(Link::Gzip));
        let place = scratch();
        let args = ["demo/web", "--volume", "root", "--output", "root.qcow2", "--transfer", "gzip"];
        let done = cluster.run(place.path(), &args);
        assert_eq!(done.code, Some(0), "{kind:?}: {}", done.stderr);
        assert_disk(&place.path().join("root.qcow2"), &root);
        cluster.assert_clean();
    }
}

#[test]
fn a_disk_that_cannot_be_read_leaves_nothing_under_its_name() {
    let cluster = Cluster::start(Config::default());
    let disk = cluster.disk(5, 9 * MIB);
    cluster.sim.add_vm(Vm::new("demo", "bad").disk("root", Disk::bytes(disk).failing_at(6 << 20)));
    for transfer in ["raw", "gzip"] {
        let place = scratch();
        let args = ["demo/bad", "--output", "root.qcow2", "--transfer", transfer];
        let failed =
            cluster.run(place.path(), &[&args[..], &["--stall-timeout", "1s", "--retry-for", "2s"]].concat());
        assert_eq!(failed.code, Some(6), "{transfer}: {}", failed.stderr);
        assert!(!place.path().join("root.qcow2").exists());
        assert!(failed.stderr.contains("kubectl delete virtualmachineexport"), "{}", failed.stderr);
    }
}

#[test]
fn what_happens_to_the_exporter_does_not_reach_the_output() {
    for external in [true, false] {
        let cluster = Cluster::start(Config { external_link: external, ..Config::default() });
        let (root, _) = web(&cluster);
        for happening in ["replace", "rotate", "vanish", "expire"] {
            let place = scratch();
            let args = ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw"];
            let before = cluster.sent();
            let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
            cluster.wait_sent(before + (2 << 20));
            let (namespace, export) = ("demo".to_owned(), cluster.export_name());
            cluster.sim.act(match happening {
                "replace" => Action::ReplacePod { namespace, export },
                "rotate" => Action::RotateCertificate,
                "vanish" => Action::LinksVanish { namespace, export, pause: Duration::from_millis(700) },
                _ => Action::ExpireTtl { namespace, export },
            });
            let done = end(child);
            assert_eq!(done.code, Some(0), "external {external}, {happening}: {}", done.stderr);
            assert_disk(&place.path().join("root.raw"), &root);
            cluster.assert_clean();
        }
    }
}

#[test]
fn a_vm_that_is_started_meanwhile_ends_the_export() {
    for transfer in ["raw", "gzip"] {
        let cluster = Cluster::start(Config::default());
        let (root, after) = (cluster.disk(1, 21 * MIB), cluster.disk(9, 21 * MIB));
        let disk = Disk::bytes(root).changing_on_start(Disk::bytes(after.clone()));
        cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk));
        let place = scratch();
        let args = ["demo/web", "--output", "root.raw", "--transfer", transfer];
        let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
        cluster.wait_sent(2 << 20);
        cluster.sim.start_vm("demo", "web");
        let failed = end(child);
        assert_eq!(failed.code, Some(4), "{transfer}: {}", failed.stderr);
        assert!(
            failed.stderr.contains("started") && failed.stderr.contains("--restart"),
            "{}",
            failed.stderr
        );
        assert!(!place.path().join("root.raw").exists());

        // Once it is stopped again the disk is another one: no run goes on with the old one.
        cluster.sim.stop_vm("demo", "web");
        let failed = cluster.run(place.path(), &args);
        assert_eq!(failed.code, Some(4), "{transfer}: {}", failed.stderr);
        let done = cluster.run(place.path(), &[&args[..], &["--restart"]].concat());
        assert_eq!(done.code, Some(0), "{transfer}: {}", done.stderr);
        assert_disk(&place.path().join("root.raw"), &after);
        cluster.assert_clean();
        assert_eq!(listing(place.path()), ["root.raw", "root.raw.vmferry.jsonl"]);
    }
}

#[test]
fn the_api_server_may_fail_for_a_moment() {
    let cluster = Cluster::start(Config::default());
    let (_, data) = web(&cluster);
    for skip in 0..16 {
        cluster.sim.clear_faults();
        cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api().skip(skip));
        let place = scratch();
        let done = cluster.run(place.path(), &["demo/web", "--volume", "data", "--output", "data.raw"]);
        assert_eq!(done.code, Some(0), "request {skip}: {}", done.stderr);
        assert_disk(&place.path().join("data.raw"), &data);
        cluster.assert_clean();
    }
}

#[test]
fn a_token_with_junk_around_it_is_explained() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    cluster.add_export("theirs", "web", "t0ken\n");
    let place = scratch();
    let args = ["--vmexport", "theirs", "-n", "demo", "--volume", "root", "--output", "root.qcow2"];
    let failed = cluster.run(place.path(), &args).expect(1);
    assert!(
        failed.stderr.contains("line ends around it") && !failed.stderr.contains("t0ken"),
        "{}",
        failed.stderr
    );
}
