//! Faults in random combination: the output is right, or there is none and the error says why; and nothing
//! is left in the cluster that `gc` does not list. Seeded; VMFERRY_CHAOS_RUNS sets how many, VMFERRY_CHAOS_SEED
//! the first seed.

use std::time::Duration;

use vmferry_formats::testkit::Rng;
use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Link, Vm};

use super::cluster::{Cluster, MIB, assert_disk, end};
use crate::support::{run, scratch, wait_for};

const RUNS: u64 = 24;

#[test]
fn whatever_goes_wrong_together_ends_well_or_clearly() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let runs = number("VMFERRY_CHAOS_RUNS").unwrap_or(RUNS);
    let first = number("VMFERRY_CHAOS_SEED").unwrap_or(0);
    let (mut good, mut failed) = (0, 0);
    for seed in first..first + runs {
        eprintln!("seed {seed}");
        if one_run(seed) {
            good += 1;
        } else {
            failed += 1;
        }
    }
    eprintln!("{good} runs ended well, {failed} with an error");
    assert!(runs < 10 || good > failed, "{good} and {failed}: most of this is to be survived");
}

fn one_run(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let external_link = rng.below(3) > 0;
    let cluster = Cluster::start(Config { seed, external_link, ..Config::default() });
    let is_running = rng.below(4) == 0;
    let (root, after) = (cluster.disk(seed, 9 * MIB + 512), cluster.disk(seed + 1000, 9 * MIB + 512));
    let disk = Disk::bytes(root.clone()).changing_on_start(Disk::bytes(after));
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk).running(is_running));
    let mut told = Vec::new();
    for _ in 0..=rng.below(3) {
        let fault = fault(&mut rng);
        told.push(format!("{fault:?}"));
        cluster.sim.fault(fault);
    }
    let transfer = ["raw", "gzip", "auto"][usize::try_from(rng.below(3)).unwrap()];
    let format = ["raw", "qcow2", "vmdk", "ova"][usize::try_from(rng.below(4)).unwrap()];
    let place = scratch();
    let output = format!("root.{format}");
    let args = ["demo/web", "--output", &output, "--transfer", transfer, "--connections", "2"];
    let patience = ["--rate", "12MiB", "--stall-timeout", "1s", "--retry-for", "8s", "--wait", "20s"];
    let mut child = cluster.spawn(place.path(), &[&args[..], &patience].concat());

    let enough = rng.below(8 << 20);
    wait_for("bytes or an end", || cluster.sent() >= enough || child.try_wait().unwrap().is_some());
    let exports = cluster.sim.objects("virtualmachineexports", Some("demo"));
    if let Some(name) = exports.first().and_then(|export| export["metadata"]["name"].as_str()) {
        let action = action(&mut rng, name);
        told.push(format!("{action:?}"));
        cluster.sim.act(action);
    }
    let finished = end(child);
    let context =
        format!("seed {seed}, {transfer} to {format}, running {is_running}, {told:#?}\n{}", finished.stderr);
    let path = place.path().join(&output);
    let is_good = finished.code == Some(0);
    if is_good {
        assert_disk(&path, &root);
        cluster.assert_clean();
    } else {
        assert!(matches!(finished.code, Some(1 | 4 | 6 | 7 | 8)), "{:?}: {context}", finished.code);
        assert!(!path.exists(), "{context}");
        assert!(finished.stderr.contains("hint:"), "{context}");
    }
    cluster.sim.clear_faults();
    cluster.assert_gc_lists_all();
    run(["gc", "--kubeconfig", cluster.kubeconfig.to_str().unwrap(), "-A", "--yes", "--all"]).expect(0);
    cluster.assert_clean();
    is_good
}

fn fault(rng: &mut Rng) -> Fault {
    let kind = match rng.below(11) {
        0 => FaultKind::CutAfter { bytes: rng.below(3 << 20) },
        1 => FaultKind::Stall {
            after_bytes: rng.below(1 << 20),
            pause: Duration::from_millis(rng.below(2500)),
        },
        2 => FaultKind::Status { code: 502 },
        3 => FaultKind::Status { code: 503 },
        4 => FaultKind::Status { code: [401, 404, 500, 504][usize::try_from(rng.below(4)).unwrap()] },
        5 => FaultKind::WrongContentRange,
        6 => FaultKind::IgnoreRange,
        7 => FaultKind::ShortGzip { bytes: rng.below(9 << 20) },
        // In a raw body nobody could tell: there is nothing to compare it with.
        8 => return Fault::new(FaultKind::Garble { at: rng.below(9 << 20) }).link(Link::Gzip),
        9 => FaultKind::Delay { pause: Duration::from_millis(rng.below(1500)) },
        _ => FaultKind::Slow { bytes_per_second: 1 << 20 },
    };
    let fault = Fault::new(kind).skip(u32::try_from(rng.below(6)).unwrap());
    match rng.below(3) {
        0 => fault.link(Link::Raw),
        1 => fault,
        _ => fault.times(u32::try_from(1 + rng.below(3)).unwrap()),
    }
}

fn action(rng: &mut Rng, export: &str) -> Action {
    let (namespace, export) = ("demo".to_owned(), export.to_owned());
    match rng.below(11) {
        0 => Action::ReplacePod { namespace, export },
        1 => Action::RotateCertificate,
        2 => Action::LinksVanish { namespace, export, pause: Duration::from_millis(rng.below(1500)) },
        3 => Action::ExpireTtl { namespace, export },
        4 => Action::StartVm { namespace, name: "web".to_owned() },
        5 => Action::ForgetHistory,
        6 => Action::ExternalLink { present: false },
        7 => Action::EmptyExternalCert { empty: true },
        8 => Action::FailPod { namespace, export },
        9 => Action::TokenJunk { namespace, export, before: String::new(), after: "\n".to_owned() },
        _ => Action::TokenJunk { namespace, export, before: " ".to_owned(), after: String::new() },
    }
}
