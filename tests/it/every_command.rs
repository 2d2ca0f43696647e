//! Every command that talks to a cluster, and every way in which a cluster can be of no use: each ends with the code
//! that is documented, says what failed and what to do next, prints nothing as if it were a result, and leaves nothing.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::json;
use vmferry_sim::{Config, Disk, Fault, FaultKind, PvcKind, Server, Vm};

use crate::{
    support::{Finished, listing, run, scratch},
    vm::{Cluster, text},
};

/// The commands, with a line that succeeds on the [`scene`]. `OUT` is a place for a result.
const LINES: [(&str, &str); 40] = [
    ("doctor", "doctor demo/off"),
    ("export", "export demo/off --output OUT/ --retry-for 2s"),
    ("gc", "gc -n demo"),
    ("instancetype-list", "instancetype list -n demo"),
    ("network-attach", "network attach demo/on lan"),
    ("network-detach", "network detach demo/on default"),
    ("network-list", "network list demo/on"),
    ("network-set-link", "network set-link demo/on default down"),
    ("preference-list", "preference list -n demo"),
    ("provider-list", "provider list -n demo"),
    ("snapshot-clone", "snapshot clone demo/s copy"),
    ("snapshot-create", "snapshot create demo/off --name t"),
    ("snapshot-delete", "snapshot delete demo/s --yes"),
    ("snapshot-export", "snapshot export demo/s --output OUT/ --retry-for 2s"),
    ("snapshot-get", "snapshot get demo/s"),
    ("snapshot-list", "snapshot list -n demo"),
    ("snapshot-restore", "snapshot restore demo/s"),
    ("template-create", "template create demo/off"),
    ("template-get", "template get demo/tiny"),
    ("template-list", "template list -n demo"),
    ("template-process", "template process demo/tiny"),
    ("vm-clone", "vm clone demo/off copy"),
    ("vm-console", "vm console demo/on --pipe --timeout 100ms"),
    ("vm-delete", "vm delete demo/off --yes"),
    ("vm-get", "vm get demo/on"),
    ("vm-list", "vm list -n demo"),
    ("vm-metrics", "vm metrics demo/on"),
    ("vm-migrate", "vm migrate demo/on"),
    ("vm-pause", "vm pause demo/on"),
    ("vm-restart", "vm restart demo/on"),
    ("vm-screenshot", "vm screenshot demo/on --output OUT.png"),
    ("vm-start", "vm start demo/off"),
    ("vm-status", "vm status demo/on"),
    ("vm-stop", "vm stop demo/on"),
    ("vm-unpause", "vm unpause demo/paused"),
    ("volume-attach", "volume attach demo/on scratch"),
    ("volume-detach", "volume detach demo/off extra"),
    ("volume-expand", "volume expand demo/on root 2MiB"),
    ("volume-export", "volume export demo/off --volume root --output OUT.raw --retry-for 2s"),
    ("volume-list", "volume list demo/on"),
];

/// The commands that never talk to one, or bring their own.
const APART: [&str; 10] =
    ["completion", "config-show", "convert", "demo", "digest", "inspect", "man", "map", "pack", "verify"];

/// A cluster on which every line succeeds.
fn scene() -> Cluster {
    let config = Config { multus: true, expandable: true, metrics_server: true, ..Config::default() };
    let cluster = Cluster::with(config);
    let disk = Disk::pattern(1 << 20, 1);
    let extra = json!({"persistentVolumeClaim": {"claimName": "more", "hotpluggable": true}});
    cluster.sim.add_pvc("demo", "more", Disk::zeros(1 << 20), PvcKind::Block);
    cluster.sim.add_vm(Vm::new("demo", "off").disk("root", disk.clone()).volume("extra", &extra));
    cluster.sim.add_vm(Vm::new("demo", "on").disk("root", disk).running(true).migratable().agent(true));
    cluster.sim.add_vm(Vm::new("demo", "paused").running(true));
    cluster.sim.add_pvc("demo", "scratch", Disk::zeros(1 << 20), PvcKind::Block);
    let metadata = |name: &str| json!({"name": name, "namespace": "demo"});
    let lan = json!({"metadata": metadata("lan"), "spec": {"config": "{}"}});
    cluster.sim.add_object("network-attachment-definitions", lan);
    let vm = json!({"metadata": {"name": "small"}, "spec": {
        "runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}}});
    let tiny = json!({"metadata": metadata("tiny"), "spec": {"virtualMachine": vm}});
    cluster.sim.add_object("virtualmachinetemplates", tiny);
    cluster.run("snapshot create demo/off --name s").expect(0);
    cluster.run("vm pause demo/paused").expect(0);
    cluster
}

/// What is in the cluster, but for what the cluster itself does to it.
fn objects(cluster: &Cluster) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for plural in [
        "persistentvolumeclaims",
        "secrets",
        "virtualmachineclones",
        "virtualmachineexports",
        "virtualmachineinstancemigrations",
        "virtualmachineinstances",
        "virtualmachinerestores",
        "virtualmachines",
        "virtualmachinesnapshots",
        "virtualmachinetemplaterequests",
        "virtualmachinetemplates",
    ] {
        for object in cluster.sim.objects(plural, None) {
            found.insert(format!("{plural} {} {}", object["metadata"]["name"], object["spec"]));
        }
    }
    found
}

/// Runs all lines at once, with something behind each; gives what became of them.
fn run_all(cluster: &Cluster, more: &str) -> Vec<(&'static str, Finished)> {
    let place = scratch();
    let before = objects(cluster);
    let done = thread::scope(|scope| {
        let runs = LINES.map(|(name, line)| {
            let out = place.path().join(name);
            let line = format!("{} {more}", line.replace("OUT", out.to_str().unwrap()));
            scope.spawn(move || (name, limited(&cluster.command(&line)).output().unwrap().into()))
        });
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(listing(place.path()), [""; 0], "something was left");
    assert_eq!(objects(cluster), before, "something was changed");
    done
}

/// The same command, which is ended (with code 124) if it does not end by itself.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg("60").arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// Holds every command against what it must end with and say; `says` may depend on the command.
#[track_caller]
fn assert_all<'a>(done: &[(&'static str, Finished)], code: i32, says: impl Fn(&'static str) -> Vec<&'a str>) {
    for (name, done) in done {
        let stderr = &done.stderr;
        assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{name}: {stderr}");
        if *name == "doctor" {
            // What is wrong is what it was asked for.
            assert_eq!(done.code, Some(7), "{name}: {stderr}");
            assert!(stderr.starts_with("vmferry: bad: "), "{name}: {stderr}");
            let told = text(done);
            assert!(!told.contains("good     in namespace"), "what was not told is no good: {told}");
            continue;
        }
        assert_eq!(done.code, Some(code), "{name}: {stderr}");
        assert!(done.stdout.is_empty(), "{name}: {}", text(done));
        assert!(stderr.starts_with("vmferry: "), "{name}: {stderr}");
        assert!(stderr.contains("\n  hint: "), "{name} does not say what to do: {stderr}");
        assert!(stderr.lines().count() == 2, "{name}: {stderr}");
        // Which object, kind or group it was about.
        let about = ["demo/", "of namespace demo", "of all namespaces", ".kubevirt.io"];
        assert!(about.iter().any(|about| stderr.contains(about)), "{name}: {stderr}");
        for says in says(name) {
            assert!(stderr.contains(says), "{name}: {says:?} is missing in: {stderr}");
        }
    }
}

#[test]
fn an_api_server_that_is_away_is_told_as_such() {
    let cluster = scene();
    let config = fs::read_to_string(&cluster.kubeconfig).unwrap();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = format!("https://127.0.0.1:{port}");
    fs::write(&cluster.kubeconfig, config.replace(&cluster.sim.api_url(), &away)).unwrap();
    let done = run_all(&cluster, "");
    assert_all(&done, 6, |_| vec!["cannot reach the cluster", &away, "refused", "kubectl version"]);
}

#[test]
fn an_api_server_that_says_nothing_is_told_as_such() {
    let cluster = scene();
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_secs(60) }).api().times(0));
    let done = run_all(&cluster, "--request-timeout 1s");
    assert_all(&done, 6, |_| vec!["did not answer within 1 s", "kubectl version"]);
}

#[test]
fn an_api_server_that_fails_is_told_as_such() {
    let cluster = scene();
    let fault = FaultKind::Answer { code: 500, text: "upstream went away".to_owned() };
    cluster.sim.fault(Fault::new(fault).api().times(0));
    let done = run_all(&cluster, "");
    assert_all(&done, 6, |_| vec!["the cluster could not ", "(500): upstream went away", "/readyz"]);
}

#[test]
fn answers_that_cannot_be_those_of_a_cluster_are_told_as_such() {
    let cluster = scene();
    let hint = "something else may answer in place of the cluster";
    for (answer, says) in [
        ("<html><body>It works!</body></html>", &["no JSON"][..]),
        ("{\"items\":[{\"meta", &["no JSON"]),
        ("{}", &["about something else", "no list"]),
        ("[]", &["about something else", "no list"]),
        ("null", &["about something else", "no list"]),
        ("\"items\"", &["about something else", "no list"]),
        ("", &["about something else", "no list"]),
    ] {
        cluster.sim.clear_faults();
        let fault = FaultKind::Answer { code: 200, text: answer.to_owned() };
        cluster.sim.fault(Fault::new(fault).api().times(0));
        let done = run_all(&cluster, "");
        assert_all(&done, 1, |_| vec![hint, "the answer of https://127.0.0.1:"]);
        for (name, done) in done.iter().filter(|(name, _)| *name != "doctor") {
            assert!(says.iter().any(|says| done.stderr.contains(says)), "{name}: {}", done.stderr);
        }
    }
}

#[test]
fn a_login_that_is_none_is_told_as_such() {
    let cluster = scene();
    let config = fs::read_to_string(&cluster.kubeconfig).unwrap();
    fs::write(&cluster.kubeconfig, config.replace("token: ", "token: not-")).unwrap();
    let done = run_all(&cluster, "");
    assert_all(&done, 7, |_| vec!["the cluster does not know who asks to ", "(401)", "log in again"]);
    assert!(done.iter().all(|(_, done)| !done.stderr.contains("not-") && !text(done).contains("not-")));
}

#[test]
fn the_right_that_is_missing_is_named_with_its_verb_and_resource() {
    let cluster = scene();
    cluster.allow(Vec::new());
    let done = run_all(&cluster, "");
    assert_all(&done, 7, |name| match name {
        // What is for all is in no namespace.
        "instancetype-list" | "preference-list" => {
            vec!["(403)", "'kubectl create clusterrole vmferry --verb=list --resource=virtualmachinecluster"]
        }
        _ => {
            vec!["no right to ", "(403)", "'kubectl create role vmferry --verb=", ".kubevirt.io", " -n demo'"]
        }
    });
}

#[test]
fn a_cluster_without_kubevirt_is_told_as_such() {
    let absent = [
        "kubevirt.io",
        "subresources.kubevirt.io",
        "export.kubevirt.io",
        "snapshot.kubevirt.io",
        "clone.kubevirt.io",
        "instancetype.kubevirt.io",
        "template.kubevirt.io",
        "subresources.template.kubevirt.io",
    ];
    let config = Config { absent_groups: absent.map(str::to_owned).to_vec(), ..Config::default() };
    let cluster = Cluster::with(config);
    let done = run_all(&cluster, "");
    // Rights can be asked for where nothing is.
    let done: Vec<_> = done.into_iter().filter(|(name, _)| *name != "doctor").collect();
    assert_all(&done, 7, |_| {
        vec!["the cluster does not ", "is this the right cluster (https://127.0.0.1:", "KubeVirt"]
    });
}

/// Each command gets half of the answers that it needs, and none from then on.
#[test]
fn an_api_server_that_goes_away_in_the_middle_is_told_as_such() {
    let mut all = Vec::new();
    for lines in LINES.chunks(20) {
        all.extend(thread::scope(|scope| {
            let runs: Vec<_> = lines.iter().map(|line| scope.spawn(|| half_way(line))).collect();
            runs.into_iter().filter_map(|run| run.join().unwrap()).collect::<Vec<_>>()
        }));
    }
    assert!(all.len() > 30, "only {} of them", all.len());
    for (name, done, left) in &all {
        let stderr = &done.stderr;
        let code = match *name {
            "doctor" => 7,
            // What is waited for may be there when the time is over.
            _ if stderr.contains("the cluster did not answer") => 8,
            _ => 6,
        };
        assert_eq!(done.code, Some(code), "{name}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{name}: {stderr}");
        if *name == "doctor" {
            continue;
        }
        assert!(done.stdout.is_empty(), "{name}: {}", text(done));
        let says =
            if code == 8 { "the cluster goes on with it" } else { "cannot reach the cluster at https://" };
        assert!(stderr.contains(says) && stderr.contains("\n  hint: "), "{name}: {stderr}");
        // Who has changed something, or may have, says so, and what to do.
        let tells = ["goes on", "may have been carried out all the same", "vmferry gc -n demo --run "];
        assert!(
            left.is_empty() || tells.iter().any(|tell| stderr.contains(tell)),
            "{name}: {stderr} {left:?}"
        );
    }
}

/// What becomes of a command, and what it leaves in the cluster; `None` for one that asks only once, or that was so fast
/// this time that it had all that it needs.
fn half_way(&(name, line): &(&'static str, &str)) -> Option<(&'static str, Finished, Vec<String>)> {
    let (cluster, places) = (scene(), [scratch(), scratch()]);
    let at = |place: usize| line.replace("OUT", places[place].path().join("out").to_str().unwrap());
    let asked = |cluster: &Cluster| {
        cluster.sim.requests().iter().filter(|request| request.server == Server::Api).count()
    };
    let before = asked(&cluster);
    cluster.run(&at(0)).expect(0);
    let count = asked(&cluster) - before;
    if count < 2 {
        return None;
    }
    let cluster = scene();
    let (before, asked_before) = (objects(&cluster), asked(&cluster));
    let words = line.split(' ').take(name.split('-').count().min(2));
    let help = text(&run(words.chain(["--help"])));
    let wait = if help.contains("--no-wait") { "--timeout 2s" } else { "" };
    let fault = Fault::new(FaultKind::CutAfter { bytes: 0 });
    cluster.sim.fault(fault.api().skip(u32::try_from(count / 2).unwrap()).times(0));
    let done = limited(&cluster.command(&format!("{} {wait}", at(1)))).output().unwrap().into();
    if asked(&cluster) - asked_before <= count / 2 {
        return None;
    }
    assert_eq!(listing(places[1].path()), [""; 0], "{name} has left something");
    let left = objects(&cluster).difference(&before).cloned().collect();
    Some((name, done, left))
}

#[test]
fn each_line_succeeds_where_nothing_is_wrong() {
    thread::scope(|scope| {
        for (name, line) in LINES {
            scope.spawn(move || {
                let (cluster, place) = (scene(), scratch());
                let done = cluster.run(&line.replace("OUT", place.path().join("out").to_str().unwrap()));
                assert_eq!(done.code, Some(0), "{name}: {}", done.stderr);
            });
        }
    });
}

#[test]
fn no_command_is_forgotten() {
    let place = scratch();
    run(["man", place.path().to_str().unwrap()]).expect(0);
    let pages: Vec<String> = listing(place.path())
        .iter()
        .filter_map(|page| Some(page.strip_prefix("vmferry-")?.strip_suffix(".1")?.to_owned()))
        .collect();
    let has_parts = |page: &str| pages.iter().any(|other| other.starts_with(&format!("{page}-")));
    let there: BTreeSet<&str> = pages.iter().map(String::as_str).filter(|page| !has_parts(page)).collect();
    let known = LINES.iter().map(|(name, _)| *name).chain(APART).collect();
    assert_eq!(there, known);
    for (name, line) in LINES {
        assert!(line.starts_with(&name.replacen('-', " ", 1)), "{name}: {line}");
    }
}
