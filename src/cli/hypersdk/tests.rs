//! Every word and flag of HyperSDK: what it becomes, and that it is told where it cannot be.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory as _};
use vmferry::ErrorKind;

use super::{words::*, *};
use crate::cli::Cli;

fn typed(line: &str) -> Result<String, Error> {
    let line = translate(line.split(' ').map(OsString::from).collect())?;
    Ok(line.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" "))
}

#[test]
fn words_become_those_of_vmferry() {
    for (theirs, ours) in [
        (
            "hyperctl provider list --type kubevirt --namespace demo",
            "provider list --type kubevirt --namespace demo",
        ),
        (
            "hyperctl provider list -type=kubevirt -all-namespaces",
            "provider list --type=kubevirt --all-namespaces",
        ),
        ("hyperctl provider list -n demo -o json -vv", "provider list -n demo -o json -vv"),
        (
            "hyperctl export -provider kubevirt -vm demo/web -output out -format ova --verify",
            "export --provider kubevirt --vm demo/web --output out --format ova --verify",
        ),
        ("hyperctl export --vm web --output - -O raw -n=demo", "export --vm web --output - -O raw -n=demo"),
        ("/usr/bin/hyperctl list", "vm list"),
        ("hyperctl list -json -filter WEB", "vm list --name=*web* --output-format=json"),
        ("hyperctl vm -op shutdown -path demo/web -timeout 300", "vm stop --timeout=300 -- demo/web"),
        ("hyperctl vm -op poweroff -path web", "vm stop --force -- web"),
        ("hyperctl vm --op=info --path=demo/web", "vm get -- demo/web"),
        ("hyperctl k8s -op vm-list", "vm list"),
        (
            "hyperctl k8s -op vm-list -namespace demo -selector app=db -status running -output json",
            "vm list --namespace=demo --selector=app=db --state=running --output-format=json",
        ),
        ("hyperctl k8s -op vm-list -all-namespaces -watch -json=false", "vm list --all-namespaces --watch"),
        ("hyperctl k8s -op vm-get -vm web -output yaml", "vm get --output-format=yaml -- web"),
        ("hyperctl k8s -op vm-describe -vm web -kubeconfig k", "vm get --kubeconfig=k -- web"),
        ("hyperctl k8s -op vm-start -vm demo/web", "vm start --no-wait -- demo/web"),
        ("hyperctl k8s -op vm-start -vm web -wait -timeout 60", "vm start --wait --timeout=60 -- web"),
        ("hyperctl k8s -op vm-stop -vm web -force -provider kubevirt", "vm stop --no-wait --force -- web"),
        ("hyperctl k8s -op vm-stop -vm web -timeout=60 -show-progress", "vm stop --timeout=60 -- web"),
        ("hyperctl k8s -op vm-restart -vm a -vm web -wait=false", "vm restart --no-wait -- web"),
        (
            "hyperctl k8s -op vm-migrate -vm web -target-node n1 -wait",
            "vm migrate --wait --target-node=n1 -- web",
        ),
        ("hyperctl k8s -op vm-clone -vm web -target new", "vm clone --no-wait -- web new"),
        (
            "hyperctl k8s -op vm-clone -vm web -target new -snapshot s -wait",
            "vm clone --wait --from-snapshot=s -- web new",
        ),
        (
            "hyperctl k8s -op vm-clone-from-snapshot -snapshot s -target new",
            "snapshot clone --no-wait -- s new",
        ),
        ("hyperctl k8s -op vm-delete -vm web", "vm delete --no-wait -- web"),
        (
            "hyperctl k8s -op vm-delete -vm web -force -keep-volumes",
            "vm delete --no-wait --yes --keep-volumes -- web",
        ),
        ("hyperctl k8s -op vm-delete -vm web -yes -dry-run", "vm delete --no-wait --yes --dry-run -- web"),
        (
            "hyperctl k8s -op vm-snapshot-create -vm web -snapshot s -wait -include-memory=false",
            "snapshot create --wait --name=s -- web",
        ),
        ("hyperctl k8s -op vm-snapshot-list -namespace demo", "snapshot list --namespace=demo"),
        ("hyperctl k8s -op vm-snapshot-list -vm web", "snapshot list -- web"),
        ("hyperctl k8s -op vm-snapshot-delete -snapshot s -force", "snapshot delete --no-wait --yes -- s"),
        ("hyperctl k8s -op template-list", "template list"),
        ("hyperctl k8s -op template-get -template t", "template get -- t"),
        ("hyperctl completion -shell zsh", "completion -- zsh"),
        ("hyperexport -vm demo/web", "export --vm=demo/web --output=export-web/ --format=ovf"),
        (
            "hyperexport -vm web -output out -format ova -compress -parallel 8 -verify -dry-run -quiet",
            "export --vm=web --output=out --format=ova --connections=8 --verify --dry-run --quiet",
        ),
        (
            "hyperexport --vm web --output out --format qcow2 --compress --compress-level 9",
            "export --vm=web --output=out --format=qcow2 --compression=deflate --compression-level=9",
        ),
        (
            "hyperexport -vm web -output out -format=raw -power-off -provider kubevirt -snapshot",
            "export --vm=web --output=out --format=raw --stop --source=snapshot",
        ),
        (
            "hyperexport -vm web -output out -bandwidth-limit 50 -bandwidth-burst 0 -force-full",
            "export --vm=web --output=out --format=ovf --rate=50MiB",
        ),
        (
            "hyperexport -vm web -output out -resume -bandwidth-limit 0 -snapshot-quiesce -delete-snapshot=false",
            "export --vm=web --output=out --format=ovf --quiesce=prefer --keep-export",
        ),
        (
            "hyperexport -vm web -output out -resume=false -snapshot-quiesce=f -delete-snapshot",
            "export --vm=web --output=out --format=ovf --no-resume --quiesce=never",
        ),
        (
            "hyperexport -vm web -upload s3://b/k -stream-upload",
            "export --vm=web --output=s3://b/k --format=ovf",
        ),
        (
            "hyperexport -vm web -upload s3://b/k -output out -keep-local=false",
            "export --vm=web --output=s3://b/k --format=ovf",
        ),
        ("hyperexport -vm demo/web -vm-info -format ova", "vm get -- demo/web"),
        ("hyperexport -vm web -validate-only -output out -quiet", "doctor --output=out --quiet -- web"),
        ("hyperexport -vm web -validate-only -output out -upload s3://b/k -stream-upload", "doctor -- web"),
        (
            "hyperexport -vm web -encrypt=false -keep-snapshots 0 -passphrase=",
            "export --vm=web --output=export-web/ --format=ovf",
        ),
        ("hyperexport -completion fish", "completion -- fish"),
    ] {
        let line = typed(theirs).unwrap_or_else(|error| panic!("{theirs}: {error}"));
        assert_eq!(line, format!("vmferry {ours}"), "{theirs}");
        if let Err(error) = Cli::command().try_get_matches_from(line.split(' ')) {
            panic!("{theirs}: {error}");
        }
    }
}

#[test]
fn questions_for_help_are_answered_by_vmferry() {
    for (theirs, ours) in [
        ("hyperctl", "vmferry"),
        ("hyperctl -h", "vmferry --help"),
        ("hyperctl help", "vmferry --help"),
        ("hyperctl --version", "vmferry --version"),
        ("hyperctl k8s -h", "vmferry vm --help"),
        ("hyperctl list --help", "vmferry vm list --help"),
        ("hyperctl export -help", "vmferry export --help"),
        ("hyperctl completion -help", "vmferry completion --help"),
        ("hyperexport -help", "vmferry export --help"),
        ("hyperexport -version", "vmferry --version"),
    ] {
        assert_eq!(typed(theirs).unwrap(), ours, "{theirs}");
    }
}

#[test]
fn other_names_are_left_as_they_are() {
    for line in ["vmferry convert a -output b", "kubectl-ferry vm list", "/x/hyperctl/vmferry submit", ""] {
        assert_eq!(typed(line).unwrap(), line);
    }
    assert_eq!(translate(Vec::new()).unwrap(), Vec::<OsString>::new());
}

#[test]
#[cfg(unix)]
fn paths_of_any_letters_come_through() {
    use std::os::unix::ffi::OsStringExt as _;

    let odd = |text: &[u8]| OsString::from_vec(text.to_vec());
    let words = |last: OsString| {
        ["hyperexport", "-vm", "web", "-output"].map(OsString::from).into_iter().chain([last])
    };
    let line = translate(words(odd(b"o\xff")).collect()).unwrap();
    assert!(line.contains(&odd(b"--output=o\xff")), "{line:?}");
    let line = line_of_ctl(odd(b"--output=o\xff")).unwrap();
    assert_eq!(line.last(), Some(&odd(b"--output=o\xff")));
    for wrong in
        [line_of_ctl(odd(b"-output=o\xff")), translate(words("o".into()).chain([odd(b"-vm=\xff")]).collect())]
    {
        let error = wrong.unwrap_err();
        assert!(error.to_string().contains("is not UTF-8"), "{error}");
    }
    let word = translate(vec!["hyperctl".into(), odd(b"\xff")]).unwrap_err();
    assert!(word.to_string().contains("is no word"), "{word}");
}

fn line_of_ctl(last: OsString) -> Result<Vec<OsString>, Error> {
    translate(["hyperctl", "export", "-vm", "web"].map(OsString::from).into_iter().chain([last]).collect())
}

#[test]
fn what_is_not_done_here_is_told() {
    for (line, says, hint) in [
        ("hyperctl submit -file job.json", "hyperctl submit is not in", "'vmferry export --job FILE'"),
        ("hyperctl query -all", "hyperctl query is not in", "'vmferry export -o json'"),
        ("hyperctl schedules list", "hyperctl schedules is not in", "CronJob"),
        ("hyperctl webhooks list", "hyperctl webhooks is not in", "exit code"),
        ("hyperctl manifest validate -file m", "hyperctl manifest is not in", "'vmferry verify'"),
        ("hyperctl -daemon http://x query", "hyperctl -daemon is not in", "no daemon"),
        ("hyperctl vm -op remove-cdrom -path web", "-op remove-cdrom is not in", "'vmferry volume detach"),
        ("hyperctl k8s -op status", "-op status is not in", "'vmferry doctor'"),
        (
            "hyperctl k8s -op backup-create -vm web -bucket b",
            "-op backup-create is not in",
            "'vmferry export",
        ),
        ("hyperctl k8s -op backup-schedule-list", "-op backup-schedule-list is not in", "CronJob"),
        (
            "hyperctl k8s -op vm-create -vm web -cpus 4",
            "-op vm-create is not in",
            "'vmferry template process",
        ),
        ("hyperctl k8s -op vm-list -node n1", "-node is not in", "'vmferry vm list -o wide'"),
        (
            "hyperctl k8s -op vm-snapshot-create -vm web -snapshot s -include-memory",
            "-include-memory is not in",
            "disks",
        ),
        ("hyperexport -vm web -batch f", "hyperexport -batch is not in", "for each line"),
        ("hyperexport -vm web -output o -encrypt -passphrase hush", "-encrypt is not in", "--output -"),
        ("hyperexport -vm web -passphrase hush", "-passphrase is not in", "--output -"),
        ("hyperexport -vm web -profile p", "-profile is not in", "'vmferry config show'"),
        ("hyperexport -vm web -webhook-url http://hush", "-webhook-url is not in", "exit code"),
        ("hyperexport -vm web -history", "-history is not in", "manifest.json"),
        ("hyperexport -vm web -vm-info -history", "-history is not in", "manifest.json"),
        ("hyperexport -vm web -incremental", "-incremental is not in", "whole disks"),
        ("hyperexport -vm web -snapshot-name s", "-snapshot-name is not in", "'vmferry snapshot create"),
        ("hyperexport -vm web -keep-snapshots 3", "-keep-snapshots is not in", "'vmferry snapshot list"),
        ("hyperexport -vm web -upload s3://b/k -keep-local", "-keep-local is not in", "one place"),
        ("hyperexport -vm web -upload s3://b/k -output o", "-output beside -upload is not in", "one place"),
        ("hyperexport -vm web -pipeline", "-pipeline is not in", "does not hand over"),
        ("hyperexport -vm web -format vhd", "format vhd is not in", "qcow2"),
    ] {
        assert_wrong(line, says, hint);
    }
}

#[test]
fn what_is_wrong_is_told() {
    for (line, says, hint) in [
        ("hyperctl sumbit", "\"sumbit\" is no word of hyperctl", "export, k8s"),
        ("hyperctl convert a b", "\"convert\" is no word of hyperctl", "export, k8s"),
        ("hyperctl -deamon x", "no flag -deamon", "-daemon is one"),
        ("hyperctl provider list -namspace demo", "no flag -namspace", "-namespace is one"),
        ("hyperctl export -vm web -ojson", "no flag -ojson", "two dashes"),
        ("hyperctl k8s -op vm-list -priority-class x", "no flag -priority-class", "by that name"),
        ("hyperctl vm list", "hyperctl vm does not take \"list\"", "flags alone"),
        ("hyperctl vm -path web", "-op is missing", "shutdown, poweroff, info"),
        ("hyperctl vm -op info", "-path is missing", "NAMESPACE/VM"),
        ("hyperctl vm -op shutdwn -path web", "\"shutdwn\" is no operation", "shutdown is one"),
        ("hyperctl k8s -op vm-start", "-vm is missing", "NAMESPACE/VM"),
        ("hyperctl k8s -op vm-clone -vm web", "-target is missing", "-target TARGET"),
        ("hyperctl k8s -op vm-start -vm web -snapshot s", "-snapshot says nothing", "leave it out"),
        ("hyperctl k8s -op vm-restart -vm web -force", "-force says nothing", "leave it out"),
        ("hyperctl k8s -op vm-list -wait", "-wait says nothing", "leave it out"),
        ("hyperctl k8s -op vm-list -provider vsphere", "-provider cannot be \"vsphere\"", "only provider"),
        ("hyperctl k8s -op vm-list -namespce demo", "no flag -namespce", "-namespace is one"),
        ("hyperctl k8s -op vm-list -- -watch", "does not take \"-watch\"", "flags alone"),
        ("hyperctl k8s -op", "-op has no value", "-op VALUE"),
        ("hyperctl completion", "-shell is missing", "-shell SHELL"),
        ("hyperexport", "-vm is missing", "'vmferry vm list'"),
        ("hyperexport web", "does not take \"web\"", "flags alone"),
        ("hyperexport -", "does not take \"-\"", "flags alone"),
        ("hyperexport -vm web -verfy", "no flag -verfy", "-verify is one"),
        ("hyperexport -vm web -verify=maybe", "-verify must be true or false", "-verify=false"),
        ("hyperexport -vm web -bandwidth-limit fast", "whole number of MB/s", "-bandwidth-limit 50"),
        ("hyperexport -vm web -bandwidth-limit -1", "whole number of MB/s", "-bandwidth-limit 50"),
        ("hyperexport -vm web -format iso", "format cannot be \"iso\"", "raw, qcow2"),
        ("hyperexport -vm web -format raw -compress", "compress is not possible for raw", "qcow2"),
        ("hyperexport -vm web -stream-upload", "-stream-upload is for -upload", "s3://"),
        ("hyperexport -vm web -upload bucket", "-upload must be a URL", "s3://"),
        ("hyperexport -vm web -provider vsphere", "-provider cannot be \"vsphere\"", "only provider"),
    ] {
        assert_wrong(line, says, hint);
    }
}

#[track_caller]
fn assert_wrong(line: &str, says: &str, hint: &str) {
    let error = typed(line).expect_err(line);
    assert_eq!(error.kind(), ErrorKind::Usage, "{line}");
    assert!(error.to_string().contains(says), "{line}: {error}");
    assert!(error.hint().unwrap_or_default().contains(hint), "{line}: {:?}", error.hint());
    assert!(!format!("{error:?}").contains("hush"), "{line}: {error:?}");
}

/// All flags, with whose they are.
fn all() -> impl Iterator<Item = (&'static str, &'static Flag)> {
    let tables = [
        ("hyperctl list", LIST),
        ("hyperctl completion", SHELL),
        ("hyperctl vm", VM),
        ("hyperctl k8s", K8S),
        ("hyperexport", EXPORT),
    ];
    tables.into_iter().flat_map(|(place, flags)| flags.iter().map(move |flag| (place, flag)))
}

#[test]
fn a_flag_stands_once_and_none_is_dropped() {
    let mut seen = BTreeSet::new();
    for (place, flag) in all() {
        assert!(seen.insert((place, flag.name)), "{place} has -{} twice", flag.name);
        let Means::Nothing(_) = flag.means else { continue };
        let base = match place {
            "hyperctl k8s" => "hyperctl k8s -op vm-list",
            _ => "hyperexport -vm web",
        };
        let (asks, does_not) = match flag.takes {
            Takes::Switch => (String::new(), "=false"),
            Takes::Value => ("=x".to_owned(), "="),
        };
        assert_wrong(
            &format!("{base} -{}{asks}", flag.name),
            &format!("-{} is not in this version", flag.name),
            "",
        );
        let line = typed(&format!("{base} -{}{does_not}", flag.name)).unwrap();
        assert_eq!(line, typed(base).unwrap());
    }
    for (word, _) in NOT_HERE {
        assert_wrong(&format!("hyperctl {word}"), &format!("hyperctl {word} is not in this version"), "");
    }
    for word in EXPORT_WORDS {
        assert!(EXPORT.iter().any(|flag| flag.name == *word && flag.means == Means::Word), "{word}");
    }
    let words = EXPORT.iter().filter(|flag| flag.means == Means::Word).count();
    assert_eq!(words, EXPORT_WORDS.len());
}

/// The long flags of a command and of those below.
fn long_flags(command: &Command, found: &mut BTreeSet<String>) {
    found.extend(command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)));
    command.get_subcommands().for_each(|command| long_flags(command, found));
}

#[test]
fn what_is_named_exists() {
    let (root, mut flags) = (Cli::command(), BTreeSet::new());
    long_flags(&root, &mut flags);
    let hints = all().filter_map(|(_, flag)| match flag.means {
        Means::Flag(ours) => {
            let name = ours.split('=').next().unwrap();
            assert!(flags.contains(name), "--{name} is no flag of vmferry");
            None
        }
        Means::Nothing(hint) => Some(hint),
        Means::Always | Means::Word => None,
    });
    let words = NOT_HERE.iter().chain(NO_OPERATIONS).map(|(_, hint)| *hint);
    let mut commands = 0;
    for hint in hints.chain(words).chain([NO_DAEMON, ONE_PLACE]) {
        for quoted in hint.split('\'').skip(1).step_by(2) {
            let Some(line) = quoted.strip_prefix("vmferry ") else { continue };
            commands += 1;
            assert_is_command(&root, line);
        }
    }
    assert!(commands > 50, "{commands}");
}

/// A line with capitals where values stand.
#[track_caller]
fn assert_is_command(root: &Command, line: &str) {
    let mut command = root;
    for word in line.split(' ') {
        let has = |command: &Command| {
            let mut flags = command.get_arguments();
            flags.any(|arg| arg.get_long() == word.strip_prefix("--") && arg.get_long().is_some())
        };
        if word.starts_with("--") {
            assert!(has(command) || has(root), "{line:?}: {word}");
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        } else {
            let is_value = ["-o", "json", "name", "wide"].contains(&word) || word == word.to_uppercase();
            assert!(is_value, "{line:?}: {word}");
        }
    }
    assert!(!command.has_subcommands(), "{line:?} is no command");
}
