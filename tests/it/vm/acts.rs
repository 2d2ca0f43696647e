//! Start, stop, restart, pause and unpause: by every run strategy, and every refusal.

use std::time::Duration;

use serde_json::json;
use vmferry_sim::{Action, Config, Disk, Fault, FaultKind, Rule, Vm};

use super::{Cluster, text};
use crate::support::wait_for;

fn state(cluster: &Cluster, vm: &str) -> String {
    cluster.json(&format!("vm status demo/{vm}"))["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_vm_lives() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    let started = cluster.run("vm start demo/web").expect(0);
    assert_eq!(text(&started), "VM demo/web started (running)\n");
    assert!(started.stderr.contains("waiting: VM demo/web: "), "{}", started.stderr);
    assert_eq!(state(&cluster, "web"), "running");
    let uid = || cluster.object("virtualmachineinstances", "web").unwrap()["metadata"]["uid"].clone();
    let first = uid();

    let paused = cluster.json("vm pause demo/web");
    let timestamp = paused["timestamp"].clone();
    assert_eq!(
        paused,
        json!({"success": true, "message": "VM paused successfully", "timestamp": timestamp, "vm": "demo/web",
            "state": "paused", "complete": true, "dry_run": false})
    );
    assert_eq!(state(&cluster, "web"), "paused");
    cluster.run("vm unpause demo/web -q").expect(0);
    assert_eq!(state(&cluster, "web"), "running");
    assert_eq!(uid(), first, "it was the same guest all the time");

    cluster.run("vm restart -n demo web").expect(0);
    assert_ne!(uid(), first, "and is another one now");
    assert_eq!(state(&cluster, "web"), "running");
    cluster.run("vm stop demo/web").expect(0);
    assert_eq!(state(&cluster, "web"), "stopped");
    assert!(cluster.object("virtualmachineinstances", "web").is_none());
    // Not a word of it was said to the run strategy by us.
    assert!(
        cluster.sim.requests().iter().all(|request| request.method != "PATCH" && request.method != "POST")
    );
}

#[test]
fn a_vm_can_start_held_still() {
    let cluster = Cluster::start();
    for (name, strategy) in [("halted", "Halted"), ("manual", "Manual")] {
        cluster.sim.add_vm(Vm::new("demo", name).strategy(strategy));
        let started = cluster.json(&format!("vm start demo/{name} --paused"));
        assert_eq!(started["state"], "paused", "{strategy}");
        cluster.run(&format!("vm unpause demo/{name}")).expect(0);
    }
}

#[test]
fn every_run_strategy_goes_its_own_way() {
    let cluster = Cluster::start();
    for (strategy, start, stop, after) in [
        ("Halted", 0, 0, "Halted"),
        ("Always", 7, 0, "Halted"),
        ("Manual", 0, 0, "Manual"),
        ("RerunOnFailure", 0, 0, "RerunOnFailure"),
        ("Once", 7, 0, "Halted"),
    ] {
        let name = strategy.to_ascii_lowercase();
        let runs = start != 0;
        cluster.sim.add_vm(Vm::new("demo", &name).strategy(strategy).running(runs));
        let started = cluster.run(&format!("vm start demo/{name}"));
        assert_eq!(started.code, Some(start), "{strategy}: {}", started.stderr);
        assert_eq!(state(&cluster, &name), "running", "{strategy}");
        let stopped = cluster.run(&format!("vm stop demo/{name}"));
        assert_eq!(stopped.code, Some(stop), "{strategy}: {}", stopped.stderr);
        assert_eq!(cluster.vm(&name).unwrap()["spec"]["runStrategy"], after);
    }
    // The old field is followed too.
    cluster.sim.add_vm(Vm::new("demo", "old").patch(&json!({"running": false})));
    cluster.run("vm start demo/old").expect(0);
    assert_eq!(cluster.vm("old").unwrap()["spec"]["running"], true);
}

#[test]
fn what_the_guest_does_is_up_to_the_run_strategy() {
    let cluster = Cluster::start();
    for strategy in ["Always", "Manual", "RerunOnFailure", "Once"] {
        let name = strategy.to_ascii_lowercase();
        cluster.sim.add_vm(Vm::new("demo", &name).strategy(strategy).running(true));
        cluster.sim.act(Action::EndGuest { namespace: "demo".into(), name: name.clone(), failed: false });
        let after = if strategy == "Always" { "running" } else { "stopped" };
        wait_for("the guest's end", || state(&cluster, &name) == after);
    }
    // A guest that has ended makes room for one that is asked for.
    cluster.run("vm start demo/manual").expect(0);
    cluster.run("vm start demo/rerunonfailure").expect(0);
    cluster.refused("vm start demo/once", 7, &["its run strategy starts it without being asked", "Once"]);
}

#[test]
fn every_refusal_says_what_is_wrong() {
    let cluster = Cluster::start();
    let sim = &cluster.sim;
    sim.add_vm(Vm::new("demo", "off"));
    sim.add_vm(Vm::new("demo", "on").running(true));
    sim.add_vm(Vm::new("demo", "manual").strategy("Manual"));
    sim.add_vm(Vm::new("demo", "once").strategy("Once").running(true));
    sim.add_vm(Vm::new("demo", "broken").needs_recovery());
    let probe = json!({"template": {"spec": {"livenessProbe": {"httpGet": {"port": 80}}}}});
    sim.add_vm(Vm::new("demo", "probed").running(true).patch(&probe));
    sim.add_vm(Vm::new("demo", "waits").strategy("Always").stuck_starting());
    for (line, says) in [
        ("vm start demo/on", "cannot start VM demo/on: it is running already"),
        ("vm start demo/waits", "running already"),
        ("vm start demo/broken", "recovered by hand"),
        ("vm start demo/none", "VM demo/none does not exist"),
        ("vm stop demo/off", "cannot stop VM demo/off: it is not running"),
        ("vm stop demo/manual", "it is not running"),
        ("vm stop demo/none", "does not exist"),
        ("vm restart demo/off", "cannot restart VM demo/off: its run strategy does not let it run on"),
        ("vm restart demo/once", "does not let it run on"),
        ("vm restart demo/manual", "it is not running"),
        ("vm pause demo/off", "cannot pause VM demo/off: it is not running"),
        ("vm pause demo/waits", "it is not running"),
        ("vm pause demo/none", "VM demo/none does not exist"),
        ("vm pause demo/probed", "liveness probe"),
        ("vm unpause demo/on", "cannot unpause VM demo/on: it is not paused"),
        ("vm unpause demo/off", "it is not running"),
    ] {
        cluster.refused(line, 7, &[says, "hint: "]);
        cluster.refused(&format!("{line} --dry-run"), 7, &[says]);
    }
    cluster.run("vm pause demo/on").expect(0);
    cluster.refused("vm pause demo/on", 7, &["paused already", "vmferry vm unpause"]);
    // The cluster's own words are there too.
    cluster.refused("vm stop demo/off", 7, &["Operation cannot be fulfilled", "VM is not running"]);
}

#[test]
fn a_guest_that_failed_is_left_to_its_strategy() {
    let cluster = Cluster::with(Config { delay: Duration::from_secs(2), ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "rerun").strategy("RerunOnFailure").running(true));
    cluster.sim.act(Action::EndGuest { namespace: "demo".into(), name: "rerun".into(), failed: true });
    cluster.refused("vm start demo/rerun", 7, &["its guest failed, and its run strategy restarts it"]);
}

#[test]
fn two_orders_at_once_are_refused() {
    // A controller so slow that the first order is still there.
    let cluster = Cluster::with(Config { delay: Duration::from_secs(3), ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "web").strategy("Manual"));
    cluster.run("vm start demo/web --no-wait").expect(0);
    assert_eq!(cluster.json("vm status demo/web")["requests"], json!(["Start"]));
    cluster.refused("vm start demo/web", 7, &["it is being started or stopped already", "vm status"]);
}

#[test]
fn a_guest_is_not_restarted_twice_for_an_answer_that_was_lost() {
    // The guest has long been replaced when the answer is found missing.
    let cluster = Cluster::with(Config { delay: Duration::from_millis(10), ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "web").running(true));
    for wait in ["", " --no-wait"] {
        let before = cluster.sim.requests().len();
        cluster.sim.fault(Fault::new(FaultKind::CutAfter { bytes: 0 }).api_path("/web/restart"));
        cluster.run(&format!("vm restart demo/web{wait}")).expect(0);
        let requests = cluster.sim.requests();
        let asked = requests.iter().skip(before).filter(|request| request.path.ends_with("/restart")).count();
        assert_eq!(asked, 1, "{wait}");
    }
}

#[test]
fn who_comes_between_is_waited_for() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    let text = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "Operation cannot be fulfilled on virtualmachine \"web\": jsonpatch test operation does not apply",
    });
    let fault = Fault::new(FaultKind::Answer { code: 409, text: text.to_string() }).api_path("/web/start");
    cluster.sim.fault(fault);
    cluster.run("vm start demo/web").expect(0);
}

#[test]
fn a_guest_that_is_held_or_moved_by_others_is_left_alone() {
    // Contract 4.2; each step of both takes so long.
    let cluster = Cluster::with(Config { delay: Duration::from_secs(1), ..Config::default() });
    cluster.sim.add_vm(Vm::new("demo", "moves").running(true).migratable());
    cluster.sim.add_vm(Vm::new("demo", "held").disk("root", Disk::zeros(1 << 20)).running(true));
    cluster.run("vm migrate demo/moves --no-wait").expect(0);
    let moves = || {
        let guest = cluster.object("virtualmachineinstances", "moves").unwrap();
        !guest["status"]["migrationState"]["startTimestamp"].is_null()
    };
    wait_for("the migration", moves);
    cluster.refused(
        "vm pause demo/moves",
        7,
        &["cannot pause VM demo/moves: it is being migrated", "vm status -w"],
    );
    cluster.run("vm pause demo/held --no-wait").expect(0);
    cluster.run("snapshot create demo/held --no-wait").expect(0);
    let is_held = || !cluster.vm("held").unwrap()["status"]["snapshotInProgress"].is_null();
    wait_for("the snapshot", is_held);
    cluster.refused(
        "vm unpause demo/held",
        7,
        &["cannot unpause VM demo/held: a snapshot of it is being made", "vm status -w"],
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "off"));
    cluster.sim.add_vm(Vm::new("demo", "on").running(true));
    let before = (cluster.vm("off"), cluster.object("virtualmachineinstances", "on"));
    for (line, says) in [
        ("vm start demo/off", "would be started"),
        ("vm start demo/off --paused", "would be started and held still"),
        ("vm stop demo/on", "would be stopped"),
        ("vm restart demo/on", "would be restarted"),
        ("vm pause demo/on", "would be paused"),
        ("vm delete demo/on", "would be deleted"),
    ] {
        let told = text(&cluster.run(&format!("{line} --dry-run")).expect(0));
        assert!(told.contains(says) && told.contains("dry run"), "{told}");
    }
    assert_eq!((cluster.vm("off"), cluster.object("virtualmachineinstances", "on")), before);
}

#[test]
fn a_guest_that_does_not_react_is_cut_off_by_force() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "deaf").running(true).deaf());
    cluster.refused(
        "vm stop demo/deaf --timeout 1s",
        8,
        &["VM demo/deaf is not stopped after 1 s: VM demo/deaf: Stopping", "--force"],
    );
    // It is being stopped; only a shorter time is still to be had.
    cluster.refused("vm stop demo/deaf", 7, &["it is being stopped already", "--grace-period"]);
    cluster.run("vm stop demo/deaf --grace-period 1").expect(0);
    cluster.run("vm start demo/deaf").expect(0);
    cluster.run("vm stop demo/deaf --force --timeout 20s").expect(0);
    cluster.refused("vm stop demo/deaf --force --grace-period 3", 2, &["cannot be used with"]);
}

#[test]
fn the_reason_is_shown_while_and_after_waiting() {
    let cluster = Cluster::start();
    let nodes = "0/3 nodes are available: 3 Insufficient memory.";
    cluster.sim.add_vm(Vm::new("demo", "big").in_trouble("ErrorUnschedulable", nodes));
    cluster.refused(
        "vm start demo/big --timeout 1500ms",
        8,
        &[
            "VM demo/big is not running after 1.5 s",
            "ErrorUnschedulable",
            nodes,
            "goes on with it",
            "--timeout",
        ],
    );
    let status = cluster.json("vm status demo/big");
    assert_eq!((&status["reason"], &status["state"]), (&json!(nodes), &json!("errorunschedulable")));
    cluster.run("vm stop demo/big").expect(0);

    // A claim that is missing does not come by itself.
    cluster.sim.add_vm(Vm::new("demo", "half").claim("data", "gone"));
    cluster.refused(
        "vm start demo/half",
        7,
        &[
            "VM demo/half is not running: ErrorPvcNotFound (PVC demo/gone does not exist",
            "vm status half -n demo",
        ],
    );
    // What is not waited for is not judged either.
    cluster.sim.add_vm(Vm::new("demo", "third").claim("data", "gone"));
    let started = cluster.json("vm start demo/third --no-wait");
    assert_eq!((&started["complete"], &started["state"]), (&json!(false), &json!(null)));
    assert_eq!(started["message"], "VM is being started");
}

#[test]
fn the_right_that_is_missing_is_named() {
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    cluster.sim.add_vm(Vm::new("demo", "on").running(true));
    cluster.allow(vec![Rule::new(&["get", "list", "watch"], &["kubevirt.io/*"])]);
    for (line, resource) in [
        ("vm start demo/web", "virtualmachines.subresources.kubevirt.io/start"),
        ("vm stop demo/on", "virtualmachines.subresources.kubevirt.io/stop"),
        ("vm restart demo/on", "virtualmachines.subresources.kubevirt.io/restart"),
        ("vm pause demo/on", "virtualmachineinstances.subresources.kubevirt.io/pause"),
        ("vm unpause demo/on", "virtualmachineinstances.subresources.kubevirt.io/unpause"),
    ] {
        let remedy = format!("kubectl create role vmferry --verb=update --resource={resource} -n demo");
        cluster.refused(line, 7, &["no right to update", "(403)", &remedy]);
    }
    cluster.refused(
        "vm delete demo/web --yes",
        7,
        &["no right to delete VM demo/web", "--verb=delete --resource=virtualmachines.kubevirt.io -n demo"],
    );
    // With it, it works.
    cluster.allow(vec![
        Rule::new(&["get", "list", "watch"], &["kubevirt.io/*"]),
        Rule::new(&["update"], &["subresources.kubevirt.io/virtualmachines/start"]),
    ]);
    cluster.run("vm start demo/web").expect(0);
}
