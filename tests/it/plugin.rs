//! The plugin of kubectl: found, called and completed by the real one.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use vmferry_sim::Vm;

use crate::{
    support::{Finished, have, scratch, without_settings},
    vm::{Cluster, text},
};

/// A directory on the PATH with the plugin, and what kubectl asks for completions.
fn installed() -> tempfile::TempDir {
    let place = scratch();
    symlink(env!("CARGO_BIN_EXE_vmferry"), place.path().join("kubectl-ferry")).unwrap();
    let script = place.path().join("kubectl_complete-ferry");
    fs::write(&script, "#!/bin/sh\nexec kubectl-ferry __complete \"$@\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    place
}

fn kubectl(place: &Path, cluster: &Cluster, args: &[&str]) -> Finished {
    let mut command = Command::new("kubectl");
    let path = format!("{}:{}", place.display(), env::var("PATH").unwrap());
    command.args(args).env("PATH", path).env("KUBECONFIG", &cluster.kubeconfig);
    without_settings(&mut command);
    command.output().unwrap().into()
}

#[test]
fn kubectl_finds_and_calls_it() {
    if !have("kubectl") {
        return;
    }
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    let place = installed();
    let run = |line: &str| kubectl(place.path(), &cluster, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(text(&run("ferry vm list -A -o name").expect(0)), "demo/web\n");
    assert_eq!(text(&run("ferry provider list -n demo -o name").expect(0)), "demo/web\n");

    // Whatever tells a command tells it as it is typed.
    let help = text(&run("ferry vm list --help").expect(0));
    assert!(help.contains("Usage: kubectl ferry vm list"), "{help}");
    assert!(help.contains("  kubectl ferry vm list -A\n") && !help.contains("vmferry vm"), "{help}");
    let help = text(&run("ferry snapshot --help").expect(0));
    assert!(
        help.contains("Usage: kubectl ferry snapshot") && help.contains("'kubectl ferry export'"),
        "{help}"
    );
    let wrong = run("ferry vm lst").expect(2);
    assert!(wrong.stderr.contains("Usage: kubectl ferry vm"), "{}", wrong.stderr);
    let missing = run("ferry vm get demo/none").expect(7);
    assert!(missing.stderr.contains("hint: 'kubectl ferry vm list -n demo'"), "{}", missing.stderr);
    let missing = run("ferry vm get demo/none -o json").expect(7);
    assert!(missing.stderr.contains("'kubectl ferry vm list -n demo'"), "{}", missing.stderr);
    let script = text(&run("ferry completion bash").expect(0));
    assert!(script.contains("complete -F _kubectl-ferry_names"), "{script}");
}

#[test]
fn kubectl_completes_it() {
    if !have("kubectl") {
        return;
    }
    let cluster = Cluster::start();
    cluster.sim.add_vm(Vm::new("demo", "web"));
    cluster.sim.add_vm(Vm::new("demo", "db"));
    let place = installed();
    let complete = |words: &[&str]| {
        let args = [&["__complete", "ferry"], words].concat();
        text(&kubectl(place.path(), &cluster, &args).expect(0))
    };
    assert_eq!(complete(&["vm", "start", "-n", "demo", ""]), "db\nweb\n:4\n");
    assert_eq!(complete(&["vm", "start", "demo/w"]), "demo/web\n:4\n");
    assert!(complete(&["vm", "sta"]).starts_with("status\t"), "{}", complete(&["vm", "sta"]));
    assert!(complete(&["vm", "list", "--all"]).starts_with("--all-namespaces\t"));
}
