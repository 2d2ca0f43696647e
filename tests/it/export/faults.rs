//! One fault at a time: the output is that of an undisturbed run, or there is none.

use std::{path::Path, time::Duration};

use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Link, Vm};

use super::{
    cluster::{Cluster, MIB, assert_disk, end, web},
    interrupted::wait_durable,
};
use crate::support::{Finished, listing, scratch};

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
        FaultKind::Slow { bytes_per_second: 3 << 20 },
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
            assert_good(&cluster, &done, &place.path().join("root.raw"), &root, &format!("{reach} {kind:?}"));
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
        assert_good(&cluster, &done, &place.path().join("root.qcow2"), &root, &format!("{kind:?}"));
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
        cluster.assert_gc_lists_all();
    }
}

#[test]
fn what_happens_to_the_exporter_does_not_reach_the_output() {
    for external in [true, false] {
        let cluster = Cluster::start(Config { external_link: external, ..Config::default() });
        let (root, _) = web(&cluster);
        for happening in ["replace", "fail", "rotate", "vanish", "expire"] {
            let place = scratch();
            let args = ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw"];
            let before = cluster.sent();
            let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
            cluster.wait_sent(before + (2 << 20));
            let (namespace, export) = ("demo".to_owned(), cluster.export_name());
            cluster.sim.act(match happening {
                "replace" => Action::ReplacePod { namespace, export },
                "fail" => Action::FailPod { namespace, export },
                "rotate" => Action::RotateCertificate,
                "vanish" => Action::LinksVanish { namespace, export, pause: Duration::from_millis(700) },
                _ => Action::ExpireTtl { namespace, export },
            });
            let done = end(child);
            let context = format!("external {external}, {happening}");
            assert_good(&cluster, &done, &place.path().join("root.raw"), &root, &context);
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
        assert_good(&cluster, &done, &place.path().join("root.raw"), &after, transfer);
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
        assert_good(&cluster, &done, &place.path().join("data.raw"), &data, &format!("request {skip}"));
    }
}

/// The checksum of a gzip stream is at its end: until then nobody knows, and what was written is worth nothing.
#[test]
fn a_byte_that_arrives_changed_in_a_gzip_stream_does_not_reach_the_output() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    for at in [1, 40, 100_001, 1 << 20, 3 << 20] {
        cluster.sim.clear_faults();
        cluster.sim.fault(Fault::new(FaultKind::Garble { at }).link(Link::Gzip));
        let place = scratch();
        let (path, args) =
            (place.path().join("root.qcow2"), ["demo/web", "--volume", "root", "--output", "root.qcow2"]);
        let by_gzip = [&args[..], &["--transfer", "gzip"]].concat();
        let failed = cluster.run(place.path(), &by_gzip);
        assert_eq!(failed.code, Some(4), "{at}: {}", failed.stderr);
        assert!(failed.stderr.contains("--restart") && !path.exists(), "{at}: {}", failed.stderr);
        cluster.assert_gc_lists_all();
        // No later run builds on it.
        let failed = cluster.run(place.path(), &by_gzip);
        assert_eq!(failed.code, Some(4), "{at}: {}", failed.stderr);
        let done = cluster.run(place.path(), &[&args[..], &["--transfer", "raw", "--restart"]].concat());
        assert_good(&cluster, &done, &path, &root, &format!("{at}"));
    }
}

/// In a raw body nothing tells; what a run compares before it goes on with an earlier one does.
#[test]
fn a_byte_that_arrived_changed_is_found_when_a_later_run_goes_on() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    let place = scratch();
    cluster.sim.fault(Fault::new(FaultKind::Corrupt { offset: 70_000 }).link(Link::Raw).times(0));
    let args = ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw"];
    let often = ["--checkpoint-bytes", "1MiB", "--checkpoint-interval", "20ms"];
    let mut child = cluster.spawn(place.path(), &[&args[..], &SLOWLY, &often].concat());
    wait_durable(&place.path().join("root.raw.partial.journal"), 8 << 20);
    child.kill().unwrap();
    end(child);
    cluster.sim.clear_faults();
    let failed = cluster.run(place.path(), &args).expect(4);
    assert!(failed.stderr.contains("--restart"), "{}", failed.stderr);
    assert!(!place.path().join("root.raw").exists());
    cluster.assert_gc_lists_all();
    let done = cluster.run(place.path(), &[&args[..], &["--restart"]].concat());
    assert_good(&cluster, &done, &place.path().join("root.raw"), &root, "again");
}

#[test]
fn an_external_link_that_goes_for_good_is_explained_and_another_way_goes_on() {
    let cluster = Cluster::start(Config::default());
    let (root, _) = web(&cluster);
    let place = scratch();
    let args = ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw"];
    let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
    cluster.wait_sent(2 << 20);
    let (namespace, export) = ("demo".to_owned(), cluster.export_name());
    cluster.sim.act(Action::ExternalLink { present: false });
    cluster.sim.act(Action::ReplacePod { namespace, export });
    let failed = end(child).expect(7);
    assert!(failed.stderr.contains("no external link"), "{}", failed.stderr);
    assert!(failed.stderr.contains("--reach port-forward"), "{}", failed.stderr);
    assert!(!place.path().join("root.raw").exists());
    cluster.assert_gc_lists_all();
    let done = cluster.run(place.path(), &args);
    assert_good(&cluster, &done, &place.path().join("root.raw"), &root, "by port-forward");
}

#[test]
fn a_token_that_gets_junk_around_it_meanwhile_is_explained() {
    for (before, after) in [("", "\n"), ("  ", ""), ("\u{feff}", "")] {
        let cluster = Cluster::start(Config::default());
        let (root, _) = web(&cluster);
        let place = scratch();
        let args = ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw"];
        let child = cluster.spawn(place.path(), &[&args[..], &SLOWLY].concat());
        cluster.wait_sent(2 << 20);
        let (namespace, export) = ("demo".to_owned(), cluster.export_name());
        let junk = |before: &str, after: &str| Action::TokenJunk {
            namespace: namespace.clone(),
            export: export.clone(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        cluster.sim.act(junk(before, after));
        let failed = end(child).expect(1);
        assert!(failed.stderr.contains("token") && failed.stderr.contains("hint:"), "{}", failed.stderr);
        assert!(!place.path().join("root.raw").exists());
        cluster.assert_gc_lists_all();
        let done = cluster.run(place.path(), &[&args[..], &["--restart"]].concat());
        assert_good(&cluster, &done, &place.path().join("root.raw"), &root, "again");
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

/// A run that went well: the disk is the right one, and nothing is left in the cluster.
#[track_caller]
fn assert_good(cluster: &Cluster, done: &Finished, image: &Path, disk: &[u8], context: &str) {
    assert_eq!(done.code, Some(0), "{context}: {}", done.stderr);
    assert_disk(image, disk);
    cluster.assert_clean();
}
