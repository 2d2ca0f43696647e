//! A cluster that is away, slow, half there, or answers rubbish.

use std::time::{Duration, Instant};

use vmferry_sim::{Config, Fault, FaultKind, Vm};

use super::{Cluster, text};

/// All that can be asked for, and what it is asked at.
const COMMANDS: [&str; 9] = [
    "vm list -A",
    "vm get demo/web",
    "vm status demo/web",
    "vm start demo/web",
    "vm stop demo/web",
    "vm restart demo/web",
    "vm pause demo/web",
    "vm unpause demo/web",
    "vm delete demo/web --yes",
];

#[test]
fn a_cluster_without_kubevirt_is_named() {
    let absent = ["kubevirt.io", "subresources.kubevirt.io"].map(str::to_owned).to_vec();
    let cluster = Cluster::with(Config { absent_groups: absent, ..Config::default() });
    for command in COMMANDS {
        cluster.refused(
            command,
            7,
            &["the cluster does not serve virtualmachines.kubevirt.io", "is KubeVirt installed there?"],
        );
    }
}

#[test]
fn a_cluster_whose_virt_api_is_gone_is_named() {
    let absent = vec!["subresources.kubevirt.io".to_owned()];
    let cluster = Cluster::with(Config { absent_groups: absent, ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "web"));
    cluster.run("vm list -A").expect(0);
    cluster.refused("vm start demo/web", 7, &["does not serve virtualmachines/start", "virt-api"]);
}

#[test]
fn an_api_server_that_is_away_is_given_up_soon() {
    let cluster = Cluster::start();
    let kubeconfig = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = kubeconfig.replace(&cluster.sim.api_url(), &format!("https://127.0.0.1:{port}"));
    std::fs::write(&cluster.kubeconfig, away).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for command in COMMANDS {
            let cluster = &cluster;
            scope.spawn(move || {
                cluster.refused(command, 6, &[&format!("https://127.0.0.1:{port}"), "kubectl version"]);
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[test]
fn an_api_server_that_stumbles_is_asked_again() {
    let cluster = Cluster::start();
    for (command, running) in [
        ("vm list -A", false),
        ("vm get demo/web", false),
        ("vm start demo/web", false),
        ("vm stop demo/web", true),
        ("vm restart demo/web", true),
        ("vm pause demo/web", true),
        ("vm delete demo/web --yes", true),
    ] {
        cluster.sim.add_vm(Vm::new("demo", "web").running(running));
        for kind in [
            FaultKind::Status { code: 503 },
            FaultKind::Status { code: 429 },
            FaultKind::CutAfter { bytes: 0 },
        ] {
            cluster.sim.fault(Fault::new(kind).api());
        }
        cluster.run(command).expect(0);
        cluster.sim.clear_faults();
        cluster.run("vm delete demo/web --yes");
    }
}

#[test]
fn an_order_that_got_lost_on_its_way_back_is_no_refusal() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    // The first call arrives, its answer does not; the second is told that the VM runs already.
    cluster.sim.fault(Fault::new(FaultKind::CutAfter { bytes: 0 }).api_path("/start"));
    let started = cluster.run("vm start demo/web");
    assert_eq!(started.code, Some(0), "{}", started.stderr);
    cluster
        .sim
        .fault(Fault::new(FaultKind::Status { code: 503 }).api_path("/virtualmachines/web").skip(1).times(2));
    cluster.run("vm stop demo/web").expect(0);
}

#[test]
fn a_slow_api_server_is_waited_for_and_a_silent_one_is_not() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_millis(700) }).api().times(3));
    cluster.run("vm get demo/web").expect(0);
    cluster.sim.clear_faults();
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_secs(120) }).api().times(0));
    cluster.refused("vm list -A --request-timeout 1s", 6, &["did not answer within 1 s"]);
    cluster.refused("vm start demo/web --request-timeout 1s", 6, &["did not answer within 1 s"]);
}

#[test]
fn a_wait_sits_out_an_api_server_that_goes_away() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web").stuck_starting());
    cluster.sim.stop_vm("demo", "web");
    // Answers once, takes the order, and is silent from then on.
    let silent = FaultKind::Status { code: 503 };
    cluster.sim.fault(Fault::new(silent).api_path("/virtualmachines/web").skip(1).times(0));
    let failed = cluster.run("vm start demo/web --timeout 3s").expect(8);
    assert!(failed.stderr.contains("is not running after 3 s"), "{}", failed.stderr);
}

#[test]
fn rubbish_is_no_answer() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web").running(true));
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api().times(0));
    for command in COMMANDS {
        cluster.refused(command, 1, &["is no JSON"]);
    }
    cluster.sim.clear_faults();
    // And half a list is none.
    cluster.sim.fault(Fault::new(FaultKind::CutAfter { bytes: 300 }).api_path("/virtualmachines").times(0));
    let failed = cluster.run("vm list -A");
    assert!(failed.code == Some(6) && text(&failed).is_empty(), "{:?} {}", failed.code, failed.stderr);
}
