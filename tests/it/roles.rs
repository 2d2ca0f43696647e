//! The roles of `deploy/rbac`: each command works with exactly that role, says what is missing without it,
//! and no role gives more than what is used.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use vmferry_sim::{Config, Disk, PvcKind, Rule, Server, Vm};

use crate::{support::scratch, vm::Cluster};

/// A right: verb, and resource as `group/plural/subresource`.
type Right = (String, String);

/// How long the cluster waits for those who do not watch what they have changed.
const HOLD: Duration = Duration::from_secs(2);

/// The rights that a file gives.
fn role(name: &str) -> BTreeSet<Right> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rbac").join(name);
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(&format!("name: vmferry:{}", name.trim_end_matches(".yaml"))), "{text}");
    // The lists are JSON.
    let list = |line: &str| serde_json::from_str::<Vec<String>>(line.split_once(": ").unwrap().1).unwrap();
    let (mut rights, mut groups, mut resources) = (BTreeSet::new(), Vec::new(), Vec::new());
    for line in text.lines().map(str::trim_start) {
        match line.split(':').next().unwrap() {
            "- apiGroups" => groups = list(line),
            "resources" => resources = list(line),
            "verbs" => {
                for verb in list(line) {
                    for (group, resource) in
                        groups.iter().flat_map(|group| resources.iter().map(move |r| (group, r)))
                    {
                        rights.insert((verb.clone(), format!("{group}/{resource}")));
                    }
                }
            }
            _ => {}
        }
    }
    assert!(rights.len() > 5, "{text}");
    rights
}

fn rules(rights: &BTreeSet<Right>) -> Vec<Rule> {
    rights.iter().map(|(verb, resource)| Rule::new(&[verb], &[resource])).collect()
}

/// The rights that the requests so far have used.
fn used(cluster: &Cluster) -> BTreeSet<Right> {
    let requests = cluster.sim.requests();
    requests
        .iter()
        .filter(|request| request.server == Server::Api)
        .filter_map(|r| right(&r.method, &r.path))
        .collect()
}

fn right(method: &str, path: &str) -> Option<Right> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, rest @ ..] => rest,
        rest => rest,
    };
    let (plural, name, sub) = match rest {
        [] => return None,
        [plural] => (*plural, "", String::new()),
        // Kubernetes authorizes by the first part of what is below an object.
        [plural, name, sub @ ..] => (*plural, *name, sub.first().copied().unwrap_or_default().to_owned()),
    };
    let verb = match (method, name.is_empty()) {
        ("GET", true) if query.contains("watch=true") => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        other => panic!("{other:?}"),
    };
    let resource =
        if sub.is_empty() { format!("{group}/{plural}") } else { format!("{group}/{plural}/{sub}") };
    Some((verb.to_owned(), resource))
}

/// What nobody has to be granted.
fn is_free((_, resource): &Right) -> bool {
    resource.starts_with("authorization.k8s.io/")
        || ["subresources.kubevirt.io/version", "kubevirt.io/kubevirts"].contains(&resource.as_str())
}

/// Runs lines with a role: each succeeds with it, names what is missing without it, and all of it is used.
fn prove(cluster: &Cluster, files: &[&str], given: &BTreeSet<Right>, lines: &[&str]) {
    let rights: BTreeSet<Right> = files.iter().flat_map(|file| role(file)).collect();
    for line in lines {
        cluster.allow(Vec::new());
        let poor = cluster.run(line);
        assert_eq!(poor.code, Some(7), "{line}: {}", poor.stderr);
        assert!(poor.stderr.contains("'kubectl create "), "{line}: {}", poor.stderr);
        cluster.allow(rules(&rights));
        let done = cluster.run(line);
        assert_eq!(done.code, Some(0), "{files:?}: {line}: {}", done.stderr);
        assert!(!done.stderr.contains("403"), "{line}: {}", done.stderr);
    }
    let mut used = used(cluster);
    // This release of Kubernetes asks for both when a websocket is opened.
    if used.contains(&("get".to_owned(), "/pods/portforward".to_owned())) {
        used.insert(("create".to_owned(), "/pods/portforward".to_owned()));
    }
    let unused: Vec<&Right> = rights.difference(&used).filter(|right| !given.contains(*right)).collect();
    assert!(unused.is_empty(), "{files:?} give what is never used: {unused:?}");
    let beyond: Vec<&Right> = used.difference(&rights).filter(|right| !is_free(right)).collect();
    assert!(beyond.is_empty(), "used beyond {files:?}: {beyond:?}");
}

fn vms(cluster: &Cluster) {
    let disk = Disk::pattern(1 << 20, 1);
    cluster.sim.add_vm(Vm::new("demo", "off").disk("root", disk.clone()).instancetype("u1.small"));
    let tiny = serde_json::json!({
        "metadata": {"name": "tiny", "namespace": "demo"},
        "spec": {"virtualMachine": {"metadata": {"name": "small"}, "spec": {
            "runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}}},
    });
    cluster.sim.add_object("virtualmachinetemplates", tiny);
    cluster.sim.add_vm(Vm::new("demo", "on").disk("root", disk).running(true).migratable().agent(true));
}

#[test]
fn the_role_to_read_is_enough_and_no_more() {
    let cluster = Cluster::start();
    vms(&cluster);
    cluster.run("snapshot create demo/off --name s").expect(0);
    let fresh = Cluster::with(Config { metrics_server: true, ..Config::default() });
    vms(&fresh);
    let mut snapshot = cluster.object("virtualmachinesnapshots", "s").unwrap();
    let content = cluster.sim.objects("virtualmachinesnapshotcontents", Some("demo")).pop().unwrap();
    snapshot["status"]["virtualMachineSnapshotContentName"] = content["metadata"]["name"].clone();
    fresh.sim.add_object("virtualmachinesnapshots", snapshot);
    fresh.sim.add_object("virtualmachinesnapshotcontents", content);
    let watch = [("watch".to_owned(), "kubevirt.io/virtualmachines".to_owned())];
    prove(
        &fresh,
        &["read.yaml"],
        // That is for -w, which has no end.
        &BTreeSet::from(watch),
        &[
            "vm list -n demo",
            "vm list -A -o name",
            "vm list -A -o json",
            "vm get demo/off",
            "vm status demo/on",
            "vm metrics demo/on",
            "volume list demo/on",
            "network list demo/on",
            "instancetype list -n demo",
            "preference list -n demo",
            "template list -n demo",
            "template get demo/tiny",
            "snapshot list -A",
            "snapshot get demo/s",
        ],
    );
    let mut watched = fresh.follow("vm list -A -w");
    watched.until("off");
    fresh.sim.start_vm("demo", "off");
    watched.until("running");
}

#[test]
fn the_role_to_operate_is_enough_and_no_more() {
    // What is asked for is never done before it is waited for: each right to watch is used.
    let config = Config { expandable: true, multus: true, hold_until_watched: HOLD, ..Config::default() };
    let cluster = Cluster::with(config);
    vms(&cluster);
    cluster.sim.add_pvc("demo", "scratch", Disk::zeros(1 << 20), PvcKind::Block);
    let lan = serde_json::json!({"metadata": {"name": "lan", "namespace": "demo"}, "spec": {"config": "{}"}});
    cluster.sim.add_object("network-attachment-definitions", lan);
    // What only those need who look, and what needs a scene of its own.
    let mut apart = role("read.yaml");
    for (verb, resource) in [
        ("list", "kubevirt.io/virtualmachineinstancemigrations"),
        ("delete", "kubevirt.io/virtualmachineinstancemigrations"),
        ("delete", "kubevirt.io/virtualmachines"),
        ("delete", "snapshot.kubevirt.io/virtualmachinesnapshots"),
    ] {
        apart.insert((verb.to_owned(), resource.to_owned()));
    }
    prove(
        &cluster,
        &["read.yaml", "operate.yaml"],
        &apart,
        &[
            "vm start demo/off",
            "vm restart demo/off",
            "vm pause demo/off",
            "vm unpause demo/off",
            "vm stop demo/off",
            "vm migrate demo/on",
            "vm screenshot demo/on --output -",
            "template process demo/tiny",
            "template process demo/tiny --create",
            "template create demo/off",
            "vm console demo/on --pipe --timeout 100ms",
            "volume attach demo/on scratch",
            "volume detach demo/on scratch",
            "volume expand demo/on root 2GiB",
            "network attach demo/on lan",
            "network set-link demo/on lan down",
            "network detach demo/on lan",
            "snapshot create demo/off --name s",
            "snapshot restore demo/s",
            "snapshot restore demo/s --to other --new-mac",
            "snapshot clone demo/s third",
            "vm clone demo/off fourth",
        ],
    );
    // A migration to give up, and what is gone afterwards.
    cluster.run("vm migrate demo/on --target-node node-9 --no-wait").expect(0);
    cluster.run("vm migrate demo/on --cancel").expect(0);
    cluster.run("snapshot delete demo/s --yes").expect(0);
    cluster.run("vm delete demo/off --yes").expect(0);
    cluster.run("vm delete demo/other --keep-volumes --yes").expect(0);
    assert!(used(&cluster).is_superset(&role("operate.yaml")), "all of it is used");
}

#[test]
fn the_role_to_export_is_enough_and_no_more() {
    // Without an Ingress, so that the port-forward is needed too.
    let config = Config { external_link: false, hold_until_watched: HOLD, ..Config::default() };
    let cluster = Cluster::with(config);
    vms(&cluster);
    let place = scratch();
    let output = place.path().display();
    prove(
        &cluster,
        &["export.yaml"],
        &BTreeSet::new(),
        &[
            &format!("export demo/off --output {output}/off/"),
            &format!("export demo/on --output {output}/on/"),
            "gc -n demo --yes",
        ],
    );
}
