//! `vmferry network` against a simulated cluster.

use std::time::Duration;

use serde_json::{Value, json};
use vmferry_sim::{Config, Fault, FaultKind, Rule, Vm};

use crate::{
    support::wait_for,
    vm::{Cluster, text},
};

fn start(config: Config) -> Cluster {
    let cluster = Cluster::with(Config { multus: true, ..config });
    cluster.sim.add_vm(Vm::new("demo", "web").running(true).migratable());
    cluster.sim.add_vm(Vm::new("demo", "off"));
    for (namespace, name) in [("demo", "lan"), ("shared", "back.bone")] {
        let metadata = json!({"name": name, "namespace": namespace});
        cluster.sim.add_object(
            "network-attachment-definitions",
            json!({"metadata": metadata, "spec": {"config": "{}"}}),
        );
    }
    cluster
}

fn network(cluster: &Cluster, vm: &str, name: &str) -> Option<Value> {
    let all = cluster.json(&format!("network list demo/{vm}"));
    all.as_array().unwrap().iter().find(|network| network["name"] == name).cloned()
}

#[test]
fn who_describes_no_network_keeps_the_one_the_cluster_gave_him() {
    let cluster = start(Config::default());
    let none = json!({"template": {"spec": {"networks": null, "domain": {"devices": {"interfaces": null}}}}});
    cluster.sim.add_vm(Vm::new("demo", "plain").patch(&none).running(true).migratable());
    assert_eq!(network(&cluster, "plain", "default").unwrap()["type"], "bridge");
    let attached = cluster.run("network attach demo/plain lan").expect(0);
    assert_eq!(text(&attached), "network lan of VM demo/plain attached\n");
    let (_, interfaces) = described(&cluster, "plain");
    assert_eq!(interfaces[0], json!({"name": "default", "bridge": {}}));
}

/// The description of a VM's networks.
fn described(cluster: &Cluster, vm: &str) -> (Value, Value) {
    let spec = cluster.vm(vm).unwrap()["spec"]["template"]["spec"].clone();
    (spec["networks"].clone(), spec["domain"]["devices"]["interfaces"].clone())
}

#[test]
fn networks_come_and_go_while_a_vm_runs() {
    let cluster = start(Config::default());
    assert_eq!(
        network(&cluster, "web", "default").unwrap(),
        json!({
            "name": "default", "type": "masquerade", "network": "pod", "model": "virtio",
            "mac": "02:00:00:00:00:00", "ips": network(&cluster, "web", "default").unwrap()["ips"],
            "device": null, "link": "up", "phase": "attached",
        })
    );
    let before = described(&cluster, "web");
    let attached = cluster.run("network attach demo/web lan --name backup --mac 02:00:00:00:00:99").expect(0);
    assert_eq!(text(&attached), "network backup of VM demo/web attached\n");
    let backup = network(&cluster, "web", "backup").unwrap();
    for (key, value) in [
        ("type", "bridge"),
        ("network", "lan"),
        ("mac", "02:00:00:00:00:99"),
        ("link", "up"),
        ("phase", "attached"),
    ] {
        assert_eq!(backup[key], value, "{backup}");
    }
    let table = text(&cluster.run("network list demo/web -o wide").expect(0));
    assert!(table.contains("NETWORK") && table.contains("MODEL") && table.contains("backup"), "{table}");
    assert_eq!(text(&cluster.run("network list demo/web -o name").expect(0)), "default\nbackup\n");
    cluster.refused(
        "network attach demo/web lan --name backup",
        2,
        &["has a network backup already", "--name"],
    );
    // What came later to the list did not disturb what was there.
    assert_eq!(described(&cluster, "web").0[0], before.0[0]);
    assert_eq!(described(&cluster, "web").1[0], before.1[0]);

    let down = cluster.json("network set-link demo/web backup down");
    assert_eq!((&down["complete"], &down["needs"]), (&json!(true), &Value::Null));
    assert_eq!(network(&cluster, "web", "backup").unwrap()["link"], "down");
    assert_eq!(
        text(&cluster.run("network set-link demo/web backup up").expect(0)),
        "network backup of VM demo/web set up\n"
    );

    let json = cluster.json("network detach demo/web backup");
    assert_eq!(
        (&json["complete"], &json["message"]),
        (&json!(true), &json!("Network detached successfully"))
    );
    assert!(network(&cluster, "web", "backup").is_none());
    assert_eq!(described(&cluster, "web"), before);
    let guest = cluster.object("virtualmachineinstances", "web").unwrap();
    assert_eq!(guest["status"]["interfaces"].as_array().unwrap().len(), 1);
}

#[test]
fn a_vm_that_does_not_run_has_it_from_its_next_start_on() {
    let cluster = start(Config::default());
    cluster.run("network attach demo/off shared/back.bone --binding sriov").expect(0);
    let listed = network(&cluster, "off", "back-bone").unwrap();
    assert_eq!(
        (&listed["type"], &listed["network"], &listed["phase"], &listed["link"]),
        (&json!("sriov"), &json!("shared/back.bone"), &Value::Null, &json!("up"))
    );
    cluster.run("network set-link demo/off default down").expect(0);
    assert_eq!(network(&cluster, "off", "default").unwrap()["link"], "down");
    let dry = text(&cluster.run("network detach demo/off back-bone --dry-run").expect(0));
    assert!(dry.contains("would be detached") && network(&cluster, "off", "back-bone").is_some(), "{dry}");
    let dry = text(&cluster.run("network attach demo/off lan --dry-run").expect(0));
    assert!(dry.contains("would be attached") && network(&cluster, "off", "lan").is_none(), "{dry}");
    cluster.run("network detach demo/off back-bone").expect(0);
    assert!(network(&cluster, "off", "back-bone").is_none());

    // Who has lost the last one gets none by itself when it starts.
    cluster.run("network detach demo/off default").expect(0);
    cluster.run("vm start demo/off").expect(0);
    assert_eq!(cluster.json("network list demo/off"), json!([]));
    assert_eq!(cluster.object("virtualmachineinstances", "off").unwrap()["status"]["interfaces"], json!([]));
}

#[test]
fn a_list_goes_on_with_what_changes() {
    let cluster = start(Config::default());
    let mut watched = cluster.follow("network list demo/web -w");
    watched.until("default");
    cluster.run("network attach demo/web lan").expect(0);
    watched.until("attached");
    cluster.run("network detach demo/web lan").expect(0);
    watched.until("gone");
}

#[test]
fn a_vm_that_names_no_network_keeps_the_one_it_gets_by_itself() {
    let cluster = start(Config::default());
    let none = json!({"template": {"spec": {"networks": null, "domain": {"devices": {"interfaces": null}}}}});
    cluster.sim.add_vm(Vm::new("demo", "bare").patch(&none).running(true));
    assert_eq!(network(&cluster, "bare", "default").unwrap()["phase"], "attached");
    cluster.run("network attach demo/bare lan").expect(0);
    let (networks, _) = described(&cluster, "bare");
    assert_eq!(
        networks,
        json!([{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "lan"}}])
    );
    cluster.run("vm restart demo/bare").expect(0);
    assert_eq!(text(&cluster.run("network list demo/bare -o name").expect(0)), "default\nlan\n");
    assert_eq!(network(&cluster, "bare", "lan").unwrap()["phase"], "attached");
}

#[test]
fn what_needs_a_migration_says_so_or_gets_it() {
    // Multus cannot change pods that run: the guest gets a pod that has it.
    let cluster = start(Config { dynamic_networks: false, ..Config::default() });
    let told = cluster.run("network attach demo/web lan").expect(0);
    assert_eq!(
        text(&told),
        "network lan of VM demo/web will be attached with its next migration: 'vmferry vm migrate demo/web'\n"
    );
    assert_eq!(network(&cluster, "web", "lan").unwrap()["phase"], "attaching");
    cluster.run("vm migrate demo/web").expect(0);
    wait_for("the network", || network(&cluster, "web", "lan").unwrap()["phase"] == "attached");

    // From 1.6 on with live updates the cluster does that by itself, and it is waited for.
    let cluster = start(Config { dynamic_networks: false, live_update: true, ..Config::default() });
    let done = cluster.run("network attach demo/web lan").expect(0);
    assert_eq!(text(&done), "network lan of VM demo/web attached\n", "{}", done.stderr);
    assert_eq!(cluster.sim.objects("virtualmachineinstancemigrations", Some("demo")).len(), 1);
}

#[test]
fn what_cannot_leave_a_guest_that_runs_waits_for_a_restart() {
    let cluster = start(Config::default());
    let json = cluster.json("network detach demo/web default");
    assert_eq!((&json["complete"], &json["needs"]), (&json!(false), &json!("restart")));
    let guest = || cluster.object("virtualmachineinstances", "web").unwrap()["status"]["interfaces"].clone();
    assert_eq!(guest()[0]["name"], "default");
    wait_for("the condition", || {
        let vm = cluster.vm("web").unwrap();
        vm["status"]["conditions"].as_array().unwrap().iter().any(|found| found["type"] == "RestartRequired")
    });
    // While a restart is due, the cluster passes nothing on.
    let told = cluster.run("network attach demo/web lan --name later").expect(0);
    assert_eq!(
        text(&told),
        "network later of VM demo/web will be attached with its next restart: 'vmferry vm restart demo/web'\n"
    );
    cluster.run("network detach demo/web later").expect(0);
    cluster.run("vm restart demo/web").expect(0);
    assert_eq!(guest(), json!([]));
    cluster.run("network attach demo/web lan --binding sriov").expect(0);
    cluster.refused(
        "network set-link demo/web lan down",
        7,
        &["cannot set a link of VM demo/web: it is bound by SR-IOV"],
    );
    assert_eq!(cluster.json("network detach demo/web lan")["needs"], "restart");
}

/// Contract 4.5: hotplug by gate HotplugNICs from 1.1 to 1.3, everywhere from 1.4 on; links from 1.5 on.
#[test]
fn a_release_does_what_it_can() {
    for (minor, gate, plugs, links) in [
        (0, true, false, false),
        (1, true, true, false),
        (3, false, false, false),
        (3, true, true, false),
        (4, false, true, false),
        (5, false, true, true),
        (9, false, true, true),
    ] {
        let config = Config { kubevirt_version: (1, minor), nic_gate: gate, ..Config::default() };
        let cluster = start(config);
        let attached = cluster.json("network attach demo/web lan");
        let needs = if plugs { Value::Null } else { json!("restart") };
        assert_eq!((&attached["complete"], &attached["needs"]), (&json!(plugs), &needs), "1.{minor}");
        if !plugs {
            cluster.run("vm restart demo/web").expect(0);
        }
        assert_eq!(network(&cluster, "web", "lan").unwrap()["phase"], "attached", "1.{minor}");
        if links {
            cluster.run("network set-link demo/web lan down").expect(0);
        } else {
            cluster.refused(
                "network set-link demo/web lan down",
                7,
                &["cannot set a link of VM demo/web: this version of KubeVirt does not know", "1.5 or newer"],
            );
        }
        let detached = cluster.json("network detach demo/web lan");
        assert_eq!((&detached["complete"], &detached["needs"]), (&json!(plugs), &needs), "1.{minor}");
        assert_eq!(described(&cluster, "web").0.as_array().unwrap().len(), 1, "1.{minor}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let cluster = start(Config::default());
    cluster.refused(
        "network attach demo/web gone",
        7,
        &[
            "NetworkAttachmentDefinition demo/gone does not exist",
            "kubectl get network-attachment-definitions",
        ],
    );
    cluster.refused(
        "network attach demo/web none/lan",
        7,
        &["NetworkAttachmentDefinition none/lan does not exist"],
    );
    cluster.refused("network attach demo/web a/b/c", 2, &["not the name of a NetworkAttachmentDefinition"]);
    cluster.refused(
        "network detach demo/web gone",
        2,
        &["VM demo/web has no network gone", "network list demo/web"],
    );
    cluster.refused("network set-link demo/web gone up", 2, &["VM demo/web has no network gone"]);
    cluster.refused("network set-link demo/web default sideways", 2, &["down", "up"]);
    for line in [
        "network list demo/none",
        "network attach demo/none lan",
        "network detach demo/none x",
        "network set-link demo/none x up",
    ] {
        cluster.refused(line, 7, &["VM demo/none does not exist"]);
    }
    cluster.allow(vec![Rule::new(&["get", "list", "watch"], &["kubevirt.io/*"])]);
    let resource = "--verb=get --resource=network-attachment-definitions.k8s.cni.cncf.io -n demo";
    cluster.refused("network attach demo/web lan", 7, &[resource, "(403)"]);
    cluster.allow(vec![Rule::new(&["get", "list", "watch"], &["*/*"])]);
    for line in [
        "network attach demo/web lan",
        "network detach demo/web default",
        "network set-link demo/web default down",
    ] {
        cluster.refused(line, 7, &["--verb=patch --resource=virtualmachines.kubevirt.io -n demo", "(403)"]);
    }

    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    cluster.refused(
        "network attach demo/web lan",
        7,
        &["the cluster does not know k8s.cni.cncf.io", "is it installed there?"],
    );
    let absent = vec!["kubevirt.io".to_owned()];
    let cluster = Cluster::with(Config { absent_groups: absent, ..Config::default() });
    cluster.refused("network list demo/web", 7, &["is KubeVirt installed there?"]);
}

#[test]
fn a_wait_has_an_end_and_a_cluster_may_be_mad() {
    let cluster = start(Config { delay: Duration::from_secs(60), ..Config::default() });
    cluster.refused(
        "network attach demo/web lan --timeout 1s",
        8,
        &["network lan of VM demo/web is not attached after 1 s: not begun", "vmferry vm migrate demo/web"],
    );
    cluster.refused(
        "network set-link demo/web default down --timeout 1s",
        8,
        &["network default of VM demo/web is not down after 1 s: it is up"],
    );
    assert!(
        text(&cluster.run("network set-link demo/web default up --no-wait").expect(0))
            .contains("is being set up")
    );

    let cluster = start(Config::default());
    let lines = [
        "network list demo/web",
        "network attach demo/web lan",
        "network detach demo/web default",
        "network set-link demo/web default down",
    ];
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api().times(0));
    for line in lines {
        cluster.refused(line, 1, &["is no JSON"]);
    }
    cluster.sim.clear_faults();
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_secs(60) }).api().times(0));
    for line in lines {
        cluster.refused(&format!("{line} --request-timeout 1s"), 6, &["did not answer within 1 s"]);
    }
    cluster.sim.clear_faults();
    // An answer that got lost is no refusal: what was asked for stands there.
    cluster.sim.fault(Fault::new(FaultKind::CutAfter { bytes: 0 }).api_path("/virtualmachines/web").skip(1));
    cluster.run("network attach demo/web lan").expect(0);
    assert_eq!(cluster.json("network list demo/web").as_array().unwrap().len(), 2);
    // Nor is somebody else who was faster.
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api_path("/virtualmachines/web"));
    cluster.run("network set-link demo/web lan down").expect(0);
}

#[test]
fn an_api_server_that_is_away_is_given_up_soon() {
    let cluster = start(Config::default());
    let kubeconfig = std::fs::read_to_string(&cluster.kubeconfig).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = kubeconfig.replace(&cluster.sim.api_url(), &format!("https://127.0.0.1:{port}"));
    std::fs::write(&cluster.kubeconfig, away).unwrap();
    std::thread::scope(|scope| {
        for line in ["network list demo/web", "network attach demo/web lan", "network set-link demo/web x up"]
        {
            let cluster = &cluster;
            scope.spawn(move || cluster.refused(line, 6, &[&format!("https://127.0.0.1:{port}")]));
        }
    });
}
