//! Completions: real shells with the generated scripts, names from a simulated cluster.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use vmferry_sim::{Disk, Fault, FaultKind, Rule, Vm};

use crate::{
    support::{Finished, have, run, scratch, vmferry, without_settings},
    vm::{Cluster, text},
};

/// Some VMs, a snapshot and their namespaces.
fn cluster() -> Cluster {
    let cluster = Cluster::start();
    let disk = Disk::pattern(1 << 20, 1);
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", disk.clone()).disk("data", disk));
    cluster.sim.add_vm(Vm::new("demo", "web-2"));
    cluster.sim.add_vm(Vm::new("demo", "db"));
    cluster.sim.add_vm(Vm::new("other", "mail"));
    cluster.run("snapshot create demo/web --name before").expect(0);
    cluster
}

/// Lines of words, the last being typed, and the names that come into question.
const LINES: &[(&str, &[&str])] = &[
    ("vm start -n demo ", &["db", "web", "web-2"]),
    ("vm start demo/we", &["demo/web", "demo/web-2"]),
    ("vm get other/", &["other/mail"]),
    ("export -n demo d", &["db"]),
    ("export --namespace demo --vm d", &["db"]),
    ("doctor -n=demo d", &["db"]),
    ("vm list -n ot", &["other"]),
    ("vm list --namespace dem", &["demo"]),
    ("snapshot restore -n demo b", &["before"]),
    ("snapshot export demo/", &["demo/before"]),
    ("snapshot create demo/d", &["demo/db"]),
    ("export -n demo --snapshot ", &["before"]),
    ("export -n demo --pvc web-r", &["web-root"]),
    ("export demo/web --volume ", &["data", "root"]),
    ("volume detach -n demo web d", &["data"]),
    ("vm clone demo/web copy --from-snapshot ", &["before"]),
    ("volume attach demo/web web-d", &["web-data"]),
];

/// Asks the hidden command.
fn ask(cluster: &Cluster, line: &str) -> Finished {
    let words = ["__complete", "--names"].into_iter().chain(line.split(' '));
    vmferry(words).env("KUBECONFIG", &cluster.kubeconfig).output().unwrap().into()
}

#[track_caller]
fn sorted(text: &str) -> Vec<String> {
    let mut names: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn names_come_from_the_cluster() {
    let cluster = cluster();
    for (line, names) in LINES {
        let found = ask(&cluster, line).expect(0);
        assert_eq!(sorted(&text(&found)), *names, "{line}");
        assert!(found.stderr.is_empty(), "{line}: {}", found.stderr);
    }
    for line in ["vm ", "vm list ", "vm clone demo/web ", "convert ", "vm start demo/web ", "pack --vm "] {
        assert_eq!(text(&ask(&cluster, line).expect(0)), "", "{line}");
    }
    // Where a kubeconfig is named, that is the cluster.
    let line = format!("vm start --kubeconfig {} -n demo d", cluster.kubeconfig.display());
    let words = ["__complete", "--names"].into_iter().chain(line.split(' '));
    let found = vmferry(words).env("KUBECONFIG", "/nonexistent").output().unwrap();
    assert_eq!(found.stdout, b"db\n");
}

#[test]
fn whoever_types_is_not_kept_waiting_nor_told_of_failures() {
    let cluster = cluster();
    let silent = |cluster: &Cluster| {
        let start = Instant::now();
        let found = ask(cluster, "vm start -n demo ").expect(0);
        assert!(found.stdout.is_empty() && found.stderr.is_empty(), "{}{}", text(&found), found.stderr);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    };
    cluster.sim.fault(
        Fault::new(FaultKind::Delay { pause: Duration::from_secs(60) }).api_path("virtualmachines").times(0),
    );
    silent(&cluster);
    cluster.allow(vec![Rule::new(&["get"], &["/pods"])]);
    silent(&cluster);
    fs::write(&cluster.kubeconfig, "clusters: 5").unwrap();
    silent(&cluster);
    // A configuration that is wrong is not the place to say so either.
    let mut command = vmferry(["__complete", "--names", "vm", "start", ""]);
    command.env("VMFERRY_CONFIG", "/nonexistent").env("KUBECONFIG", "/nonexistent");
    let found = Finished::from(command.output().unwrap()).expect(0);
    assert!(found.stdout.is_empty() && found.stderr.is_empty(), "{}", found.stderr);
}

/// A directory on the PATH with the program, and the script of a shell.
fn installed(shell: &str) -> (tempfile::TempDir, PathBuf) {
    let place = scratch();
    symlink(env!("CARGO_BIN_EXE_vmferry"), place.path().join("vmferry")).unwrap();
    let script = place.path().join(if shell == "zsh" { "_vmferry" } else { "script" });
    fs::write(&script, run(["completion", shell]).expect(0).stdout).unwrap();
    (place, script)
}

fn shell(program: &str, place: &Path, cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    let path = format!("{}:{}", place.display(), env::var("PATH").unwrap());
    command.args(args).env("PATH", path).env("KUBECONFIG", &cluster.kubeconfig).env("HOME", place);
    command.stdin(Stdio::null()).env("TERM", "dumb");
    without_settings(&mut command);
    command
}

#[test]
fn bash_completes_names_and_words() {
    if !have("bash") {
        return;
    }
    let cluster = cluster();
    let (place, script) = installed("bash");
    // What bash itself does when somebody presses the key.
    let press = r#"
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
        spec=$(complete -p vmferry); function=${spec#*-F }; function=${function%% *}
        "$function" vmferry "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let complete = |line: &str| {
        let mut args = vec!["--norc", "-c", press, "bash", script.to_str().unwrap(), "vmferry"];
        args.extend(line.split(' '));
        let found = Finished::from(shell("bash", place.path(), &cluster, &args).output().unwrap());
        assert!(found.stderr.is_empty(), "{line}: {}", found.stderr);
        text(&found)
    };
    for (line, names) in LINES {
        assert_eq!(sorted(&complete(line)), *names, "{line}");
    }
    // bash takes these apart.
    assert_eq!(complete("vm list --namespace = dem"), "demo\n");
    assert_eq!(complete("vm list --namespace ="), complete("vm list --namespace "));
    let words = complete("vm sta");
    assert!(words.contains("start") && words.contains("status"), "{words}");
    assert!(complete("convert --compr").contains("--compression"));
    assert_eq!(sorted(&complete("digest --progress ")), ["auto", "bar", "json", "none"]);
}

#[test]
fn zsh_completes_names_and_words() {
    if !have("zsh") {
        return;
    }
    let cluster = cluster();
    let (place, _) = installed("zsh");
    // The line editor needs a terminal: one of zsh's own.
    let press = r#"
        zmodload zsh/zpty
        zpty line 'zsh -f -i'
        zpty -w line "PS1= PROMPT= ; unsetopt prompt_sp; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -d $1/dump"
        zpty -w line "zstyle ':completion:*' list-colors ''; LISTMAX=0; bindkey '^I' complete-word; setopt no_list_beep; unsetopt menu_complete auto_menu"
        zpty -w line "show() { zle -I; print -r -- \"BUFFER<\$BUFFER>\" }; zle -N show; bindkey '^X' show; print READY"
        zpty -r -m line all '*READY*READY*'
        shift
        zpty -w -n line "$1"$'\t'$'\x18'
        zpty -r -m line all '*BUFFER<*>*'
        print -r -- "$all"
    "#;
    let complete = |line: &str| {
        let args = ["-f", "-c", press, "zsh", place.path().to_str().unwrap(), line];
        let output =
            shell("timeout", place.path(), &cluster, &[&["60", "zsh"], &args[..]].concat()).output().unwrap();
        text(&Finished::from(output))
    };
    for (line, expected) in [
        ("vmferry vm start demo/d", "BUFFER<vmferry vm start demo/db >"),
        ("vmferry vm get other/", "BUFFER<vmferry vm get other/mail >"),
        ("vmferry vm list --namespace dem", "BUFFER<vmferry vm list --namespace demo >"),
        ("vmferry vm list --namespace=dem", "BUFFER<vmferry vm list --namespace=demo >"),
        ("vmferry export -n demo --snapshot b", "BUFFER<vmferry export -n demo --snapshot before >"),
        ("vmferry export demo/web --volume r", "BUFFER<vmferry export demo/web --volume root >"),
        ("vmferry digest --progress aut", "BUFFER<vmferry digest --progress auto >"),
        ("vmferry instance", "BUFFER<vmferry instancetype >"),
    ] {
        let found = complete(line);
        assert!(found.contains(expected), "{line}: {found:?}");
    }
}

#[test]
fn fish_completes_names_and_words() {
    if !have("fish") {
        return;
    }
    let cluster = cluster();
    let (place, script) = installed("fish");
    let complete = |line: &str| {
        let press = format!("source {}; complete -C 'vmferry {line}'", script.display());
        let found =
            Finished::from(shell("fish", place.path(), &cluster, &["-N", "-c", &press]).output().unwrap());
        assert!(found.stderr.is_empty(), "{line}: {}", found.stderr);
        // A tab stands before what describes a candidate.
        let words = text(&found);
        sorted(
            &words
                .lines()
                .map(|line| line.split('\t').next().unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\n"),
        )
    };
    for (line, names) in LINES {
        let found = complete(line);
        for name in *names {
            assert!(found.contains(&(*name).to_owned()), "{line}: {found:?}");
        }
    }
    assert_eq!(complete("vm sta"), ["start", "status"]);
    assert!(complete("vm list --namespace=dem").iter().any(|name| name.ends_with("demo")));
}
