//! Deletion: what goes, what stays, and who is asked.

use serde_json::Value;
use vmferry_sim::{Config, Disk, Fault, FaultKind, PvcKind, Vm};

use super::{Cluster, text};

fn claims(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<String> = cluster
        .sim
        .objects("persistentvolumeclaims", Some("demo"))
        .iter()
        .filter_map(|claim: &Value| claim["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// A VM with a volume of its own and one that it only uses.
fn add(cluster: &Cluster, name: &str) {
    let disk = Disk::pattern(1 << 20, 1);
    cluster.sim.add_pvc("demo", &format!("{name}-shared"), disk.clone(), PvcKind::FilesystemKubevirt);
    let shared = format!("{name}-shared");
    cluster.sim.add_vm(Vm::new("demo", name).disk("root", disk).claim("shared", &shared));
}

#[test]
fn a_vm_goes_with_the_volumes_that_were_made_for_it() {
    let cluster = Cluster::start();
    add(&cluster, "web");
    let deleted = cluster.run("vm delete demo/web --yes").expect(0);
    assert_eq!(text(&deleted), "VM demo/web deleted\n");
    assert!(deleted.stderr.contains("kept: web-shared"), "{}", deleted.stderr);
    assert!(cluster.vm("web").is_none());
    crate::support::wait_for("the claim to go", || claims(&cluster) == ["web-shared"]);
    cluster.refused("vm delete demo/web --yes", 7, &["VM demo/web does not exist"]);
}

#[test]
fn an_answer_that_was_lost_is_no_failure() {
    for more in ["", " --keep-volumes"] {
        let cluster = Cluster::start();
        add(&cluster, "web");
        // The last request before the VM is gone is its deletion.
        let looks = if more.is_empty() { 1 } else { 2 };
        let cut = Fault::new(FaultKind::CutAfter { bytes: 0 }).api_path("/virtualmachines/web").skip(looks);
        cluster.sim.fault(cut);
        let deleted = cluster.run(&format!("vm delete demo/web --yes{more}")).expect(0);
        assert_eq!(text(&deleted), "VM demo/web deleted\n", "{}", deleted.stderr);
        let asked = cluster.sim.requests().into_iter().filter(|request| request.method == "DELETE").count();
        assert_eq!(asked, 1, "{more}");
    }
}

/// Whose the claims of a restore are is for the cluster to say: those of a VM that was there are its own, unless it
/// was said otherwise; those of a new VM, and so of a clone, are nobody's.
#[test]
fn claims_that_belong_to_a_vm_are_not_called_kept() {
    for (policy, name, kept) in [
        ("", "web", false),
        ("--volume-owner none", "web", true),
        ("--to copy", "copy", true),
        ("--to copy --volume-owner none", "copy", true),
    ] {
        let cluster = Cluster::start();
        cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::pattern(1 << 20, 1)));
        cluster.run("snapshot create demo/web --name s").expect(0);
        cluster.run(format!("snapshot restore demo/s {policy}").trim_end()).expect(0);
        let before = claims(&cluster);
        let restored: Vec<_> = before.iter().filter(|claim| claim.starts_with("restore-")).collect();
        assert_eq!(restored.len(), 1, "{policy}: {before:?}");
        if !kept && crate::support::have("script") {
            // What somebody is asked names what goes.
            let line = format!(
                "{} vm delete demo/{name} --kubeconfig {}",
                env!("CARGO_BIN_EXE_vmferry"),
                cluster.kubeconfig.display()
            );
            let asked = std::process::Command::new("script")
                .args(["--quiet", "--return", "--command", &line, "/dev/null"])
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&asked.stdout);
            assert!(said.contains("delete VM demo/web and its volumes restore-"), "{said}");
        }
        let deleted = cluster.run(&format!("vm delete demo/{name} --yes")).expect(0);
        let told = deleted.stderr.contains(&format!("kept: {}", restored[0]));
        assert_eq!(told, kept, "{policy}: {}", deleted.stderr);
        if kept {
            assert_eq!(claims(&cluster), before, "{policy}");
        } else {
            crate::support::wait_for("the restored claim to go", || {
                !claims(&cluster).iter().any(|claim| claim.starts_with("restore-"))
            });
        }
    }
}

#[test]
fn volumes_can_be_kept() {
    let cluster = Cluster::start();
    add(&cluster, "web");
    let deleted = cluster.run("vm delete demo/web --keep-volumes --yes").expect(0);
    assert!(deleted.stderr.contains("kept: web-root, web-shared"), "{}", deleted.stderr);
    // Another VM's life must not change that: whatever is collected in the cluster is collected by then.
    add(&cluster, "other");
    cluster.run("vm delete demo/other --yes").expect(0);
    crate::support::wait_for("the other claim to go", || {
        claims(&cluster) == ["other-shared", "web-root", "web-shared"]
    });
    let volume = cluster.object("datavolumes", "web-root").expect("the data volume");
    assert!(volume["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{volume}");
}

#[test]
fn the_volumes_of_a_running_vm_cannot_be_kept() {
    let cluster = Cluster::start();
    add(&cluster, "web");
    cluster.run("vm start demo/web").expect(0);
    cluster.refused(
        "vm delete demo/web --keep-volumes --yes",
        5,
        &["VM demo/web runs, and its volumes are to be kept", "vmferry vm stop web -n demo"],
    );
    assert!(cluster.vm("web").is_some());
    // Without them it goes, guest and all.
    cluster.run("vm delete demo/web --yes").expect(0);
    crate::support::wait_for("the guest to go", || {
        cluster.object("virtualmachineinstances", "web").is_none()
    });
}

#[test]
fn nobody_is_surprised() {
    let cluster = Cluster::start();
    add(&cluster, "web");
    // Nobody at a terminal: no question, no deletion.
    cluster.refused("vm delete demo/web", 2, &["nobody can be asked", "--yes"]);
    assert!(cluster.vm("web").is_some());
    let dry = cluster.run("vm delete demo/web --dry-run").expect(0);
    assert!(text(&dry).contains("would be deleted"), "{}", text(&dry));
    assert!(cluster.vm("web").is_some());
    let json = cluster.json("vm delete demo/web --yes --no-wait");
    assert_eq!(
        (json["complete"].as_bool(), json["message"].as_str()),
        (Some(false), Some("VM is being deleted"))
    );
}

#[test]
fn somebody_at_a_terminal_is_asked() {
    let cluster = Cluster::start();
    for (answer, is_there, code) in [("n", true, "5"), ("", true, "5"), ("y", false, "0")] {
        if cluster.vm("web").is_none() {
            add(&cluster, "web");
        }
        if !crate::support::have("script") {
            return;
        }
        let command = format!(
            "{} vm delete demo/web --kubeconfig {}",
            env!("CARGO_BIN_EXE_vmferry"),
            cluster.kubeconfig.display()
        );
        let mut child = std::process::Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{answer}\n").as_bytes())
            .unwrap();
        let finished = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&finished.stdout);
        assert!(said.contains("delete VM demo/web and its volumes web-root? [y/N]"), "{said}");
        assert_eq!(finished.status.code().unwrap().to_string(), code, "{answer}: {said}");
        assert_eq!(cluster.vm("web").is_some(), is_there, "{answer}: {said}");
    }
}

#[test]
fn a_vm_that_something_holds_is_waited_for() {
    let cluster = Cluster::with(Config::default());
    add(&cluster, "web");
    let mut vm = cluster.vm("web").unwrap();
    vm["metadata"]["name"] = "held".into();
    vm["metadata"]["finalizers"] = serde_json::json!(["example.org/keep"]);
    cluster.sim.add_object("virtualmachines", vm);
    cluster.refused(
        "vm delete demo/held --yes --timeout 1s",
        8,
        &["VM demo/held is not gone after 1 s", "finalizer"],
    );
}
