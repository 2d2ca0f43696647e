//! Settings: a flag counts before the environment, that before the file, that before what is built in.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use serde_json::Value;

use crate::support::{Finished, make_disk, scratch, vmferry};

/// `vmferry` with a configuration in the usual place.
fn with(home: &Path, text: &str, line: &str) -> Command {
    let directory = home.join("vmferry");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.yaml"), text).unwrap();
    let mut command = vmferry(line.split_whitespace());
    command.env("XDG_CONFIG_HOME", home).env_remove("KUBECONFIG");
    command
}

#[track_caller]
fn finished(command: &mut Command) -> Finished {
    command.output().unwrap().into()
}

/// A row of `config show -o json`.
#[track_caller]
fn row(shown: &Value, key: &str) -> Value {
    let rows = shown.as_array().unwrap();
    rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key}: {shown}")).clone()
}

#[test]
fn each_setting_says_where_it_comes_from() {
    let home = scratch();
    let text = "memory: 64MiB\nworkers: 3\nnamespace: demo\noutput_format: json\n";
    let mut command = with(home.path(), text, "config show");
    let shown = finished(command.env("VMFERRY_WORKERS", "2").env("VMFERRY_RATE", "")).expect(0).json();
    let file = home.path().join("vmferry/config.yaml").display().to_string();
    for (key, value, source, place) in [
        ("memory", Some("64MiB"), "file", Some(file.as_str())),
        ("namespace", Some("demo"), "file", Some(&file)),
        ("workers", Some("2"), "environment", Some("VMFERRY_WORKERS")),
        ("rate", None, "default", None),
        ("request_timeout", Some("30s"), "default", None),
        ("output_format", Some("json"), "file", Some(&file)),
    ] {
        let row = row(&shown, key);
        assert_eq!(
            (row["value"].as_str(), row["source"].as_str(), row["place"].as_str()),
            (value, Some(source), place),
            "{row}"
        );
    }
    // A flag counts first; the text has the same.
    let shown = finished(&mut with(home.path(), text, "config show -o yaml")).expect(0);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("key: output_format\n  value: yaml\n  source: flag"), "{shown}");
    let shown = finished(&mut with(home.path(), text, "config show --output-format text")).expect(0);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = shown.lines().find(|line| line.starts_with("memory ")).unwrap();
    assert!(line.contains("64MiB") && line.ends_with(&format!("file {file}")), "{shown}");
    let names = finished(&mut with(home.path(), text, "config show -o name")).expect(0);
    assert!(String::from_utf8(names.stdout).unwrap().lines().any(|line| line == "log_level"));
}

#[test]
fn settings_count_for_commands_unless_a_flag_says_otherwise() {
    let place = scratch();
    let disk = place.path().join("disk.img");
    make_disk(&disk, 1, 1 << 20);
    let other = place.path().join("other.yaml");
    fs::write(&other, "memory: 32MiB\n").unwrap();
    let line = format!("digest {}", disk.display());
    let as_set = finished(&mut with(place.path(), "output_format: json\n", &line)).expect(0);
    assert!(as_set.json()["digest"].is_object());
    let by_flag =
        finished(&mut with(place.path(), "output_format: json\n", &format!("{line} -o text"))).expect(0);
    assert!(by_flag.stdout.starts_with(b"tree-sha256:"));
    let by_variable =
        finished(with(place.path(), "output_format: json\n", &line).env("VMFERRY_OUTPUT_FORMAT", "yaml"));
    let yaml = String::from_utf8(by_variable.expect(0).stdout).unwrap();
    assert!(yaml.contains("\ndigest:\n") && !yaml.starts_with('{'), "{yaml}");
    // Help has the defaults that count, whatever stands in the file.
    let help = |text: &str, line: &str| {
        let help = finished(&mut with(place.path(), text, line)).expect(0);
        String::from_utf8(help.stdout).unwrap()
    };
    for line in ["digest --help".to_owned(), format!("digest -h --config {}", other.display())] {
        let memory = if line.contains("config") { "32MiB" } else { "96MiB" };
        let help = help("memory: 96MiB\n", &line);
        assert!(help.contains(&format!("[default: {memory}]")), "{line}: {help}");
    }
    assert!(help("memory: 5KB\n", "digest --help").contains("[default: 128MiB]"));
    // Too little memory is told by whoever needs it, which shows that the setting arrived.
    let short = finished(&mut with(place.path(), "memory: 1KiB\n", &line));
    assert_ne!(short.code, Some(0), "{}", short.stderr);
    finished(&mut with(place.path(), "memory: 1KiB\n", &format!("{line} --memory 128MiB"))).expect(0);
}

#[test]
fn the_file_is_found_by_flag_then_variable_then_place() {
    let home = scratch();
    let other = home.path().join("other.yaml");
    let third = home.path().join("third.yaml");
    fs::write(&other, "namespace: by-flag\n").unwrap();
    fs::write(&third, "namespace: by-variable\n").unwrap();
    let namespace = |command: &mut Command| {
        row(&finished(command).expect(0).json(), "namespace")["value"].as_str().map(str::to_owned)
    };
    let text = "namespace: by-place\n";
    assert_eq!(namespace(&mut with(home.path(), text, "config show -o json")).as_deref(), Some("by-place"));
    let mut command = with(home.path(), text, "config show -o json");
    assert_eq!(namespace(command.env("VMFERRY_CONFIG", &third)).as_deref(), Some("by-variable"));
    command.arg("--config").arg(&other);
    assert_eq!(namespace(&mut command).as_deref(), Some("by-flag"));
    let mut command = with(home.path(), text, "config show -o json");
    assert_eq!(namespace(command.args(["--config", "/dev/null"])), None);
    // HOME stands in where there is no XDG_CONFIG_HOME.
    fs::create_dir_all(home.path().join(".config/vmferry")).unwrap();
    fs::write(home.path().join(".config/vmferry/config.yaml"), "namespace: at-home\n").unwrap();
    let mut command = vmferry(["config", "show", "-o", "json"]);
    command.env_remove("XDG_CONFIG_HOME").env("HOME", home.path());
    assert_eq!(namespace(&mut command).as_deref(), Some("at-home"));
    // One that was named must be there; the usual one need not.
    let missing = finished(&mut vmferry(["config", "show", "--config", "/nonexistent/x.yaml"])).expect(1);
    assert!(
        missing.stderr.contains("cannot read the configuration /nonexistent/x.yaml"),
        "{}",
        missing.stderr
    );
    finished(&mut vmferry(["config", "show"])).expect(0);
}

#[test]
fn mistakes_are_named_and_hold_up_all_but_scripts() {
    let home = scratch();
    for (text, says, hint) in [
        ("namespce: demo\n", "\"namespce\" is no key of", "\"namespace\" is one"),
        ("memory: 64KB\n", "memory cannot be \"64KB\", as", "two sizes"),
        ("progress: loud\n", "progress cannot be \"loud\"", "auto, bar, json, none"),
        ("namespace: [a]\n", "namespace must be one value", ""),
        ("a: b: c\n", "is no YAML", ""),
    ] {
        for line in ["config show", "digest /nonexistent"] {
            let failed = finished(&mut with(home.path(), text, line)).expect(2);
            assert!(
                failed.stderr.contains(says) && failed.stderr.contains(hint),
                "{text}: {}",
                failed.stderr
            );
            assert!(failed.stdout.is_empty());
        }
        finished(&mut with(home.path(), text, "completion bash")).expect(0);
        finished(&mut with(home.path(), text, "--version")).expect(0);
    }
    let failed =
        finished(with(home.path(), "", "config show -o json").env("VMFERRY_CONNECTIONS", "many")).expect(2);
    let error: Value = serde_json::from_str(failed.stderr.trim()).unwrap();
    assert!(
        error["error"]["message"].as_str().unwrap().contains("the variable VMFERRY_CONNECTIONS"),
        "{error}"
    );
}

#[test]
fn a_provider_configuration_of_hypersdk_is_understood() {
    let home = scratch();
    let text = "provider:\n  type: kubevirt\n  metadata: {namespace: demo, kubeconfig: ~/.kube/config, storageClass: standard}\n\
                daemon_addr: localhost:8080\nlog_level: info\ndatabase_path: /var/lib/x/jobs.db\ndownload_workers: 3\nchunk_size: 33554432\n\
                retry_attempts: 3\nretry_delay: 5s\nmetrics: {enabled: true}\nweb: {disabled: false}\n\
                security: {enable_auth: false, api_key: 'hush-hush', allowed_origins: [], max_request_size_mb: 10, rate_limit_per_min: 0, trusted_proxies: [], block_private_ips: true}\n\
                webhooks: [{url: 'https://x/hush-hush', events: ['job.completed'], headers: {}, timeout: 10s, retry: 3, enabled: true}]\n\
                aws: {region: , access_key: , secret_key: , s3_bucket: }\nazure: {storage_account: , container: , tenant_id: , client_id: , client_secret: }\n\
                gcp: {project_id: , gcs_bucket: , credentials_json: /path }\n";
    with(home.path(), text, "config show");
    let file = home.path().join("vmferry/config.yaml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let run = |line: &str| {
        let mut command = vmferry(line.split_whitespace());
        finished(command.env("XDG_CONFIG_HOME", home.path()).env("HOME", "/home/x").env_remove("KUBECONFIG"))
    };
    let shown = run("config show -o json").expect(0);
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("hush"));
    let shown = shown.json();
    for (key, value) in [
        ("namespace", "demo"),
        ("kubeconfig", "/home/x/.kube/config"),
        ("connections", "3"),
        ("log_level", "info"),
    ] {
        let row = row(&shown, key);
        assert_eq!((row["value"].as_str(), row["used"].as_bool()), (Some(value), Some(true)), "{row}");
    }
    for (key, value, says) in [
        ("chunk_size", Some("33554432"), "4 MiB"),
        ("retry_attempts", Some("3"), "retry_for"),
        ("daemon_addr", Some("localhost:8080"), "server"),
        ("security.api_key", None, "server"),
        ("webhooks", None, "server"),
        ("aws.secret_key", Some(""), "object stores"),
        ("gcp.credentials_json", Some("/path"), "object stores"),
        ("provider.metadata.storageClass", Some("standard"), "volumes"),
    ] {
        let row = row(&shown, key);
        assert_eq!((row["value"].as_str(), row["used"].as_bool()), (value, Some(false)), "{row}");
        assert_eq!(row["secret"], value.is_none(), "{row}");
        assert!(row["note"].as_str().unwrap().contains(says), "{row}");
    }
    let table = String::from_utf8(run("config show").expect(0).stdout).unwrap();
    assert!(table.contains("(not shown)") && table.contains("not used: for the server"), "{table}");

    // Whoever can change a file with secrets can have them sent elsewhere.
    for mode in [0o664, 0o646] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let refused = run("config show").expect(5);
        assert!(
            refused.stderr.contains("others may change") && refused.stderr.contains("chmod 600"),
            "{}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("security.api_key") && !refused.stderr.contains("hush"),
            "{}",
            refused.stderr
        );
    }
    fs::write(&file, "namespace: demo\n").unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o646);
    run("config show").expect(0);
    let refused = finished(&mut with(home.path(), "provider: {type: vsphere}\n", "config show")).expect(2);
    assert!(refused.stderr.contains("kubevirt is the only provider"), "{}", refused.stderr);
}

#[cfg(feature = "kubevirt")]
mod of_a_cluster {
    use vmferry_sim::Vm;

    use super::*;
    use crate::vm::{Cluster, text};

    /// `vmferry` with the kubeconfig of a cluster in its configuration.
    fn run(cluster: &Cluster, home: &Path, namespace: &str, line: &str) -> Finished {
        let text = format!("kubeconfig: {}\nnamespace: {namespace}\n", cluster.kubeconfig.display());
        finished(with(home, &text, line).env_remove("KUBERNETES_SERVICE_HOST"))
    }

    #[test]
    fn a_namespace_that_is_set_counts_behind_one_that_is_named() {
        let cluster = Cluster::start();
        cluster.sim.add_vm(Vm::new("demo", "web"));
        cluster.sim.add_vm(Vm::new("other", "db"));
        let home = scratch();
        for (line, expected) in [
            ("vm list -o name", "demo/web\n"),
            ("vm list -o name -n other", "other/db\n"),
            ("vm list -o name -A", "demo/web\nother/db\n"),
            ("provider list --type kubevirt --namespace other -o name", "other/db\n"),
            ("provider list -o name", "demo/web\n"),
            ("provider list --all-namespaces -o name", "demo/web\nother/db\n"),
        ] {
            assert_eq!(text(&run(&cluster, home.path(), "demo", line).expect(0)), expected, "{line}");
        }
        // The namespace before the name counts; only two that were named contradict each other.
        run(&cluster, home.path(), "demo", "vm get other/db").expect(0);
        run(&cluster, home.path(), "demo", "vm get web").expect(0);
        let two = run(&cluster, home.path(), "demo", "vm get other/db -n demo").expect(2);
        assert!(two.stderr.contains("two namespaces are named"), "{}", two.stderr);
        // KUBECONFIG is of the environment, which counts before the file.
        let broken = "kubeconfig: /nonexistent/k\nnamespace: demo\n";
        let mut command = with(home.path(), broken, "vm list -o name");
        finished(&mut command).expect(2);
        assert_eq!(text(&finished(command.env("KUBECONFIG", &cluster.kubeconfig)).expect(0)), "demo/web\n");
    }

    #[test]
    fn other_providers_are_refused_by_name() {
        let cluster = Cluster::start();
        cluster.refused("provider list --type vsphere", 2, &["vsphere", "kubevirt is the only provider"]);
        cluster.refused(
            "export --provider aws --vm demo/db --output x",
            2,
            &["kubevirt is the only provider"],
        );
        cluster.sim.add_vm(Vm::new("demo", "web").running(true));
        let listed = cluster.json("provider list --type kubevirt --namespace demo");
        assert_eq!(listed, cluster.json("vm list --namespace demo"));
        let wide = text(&cluster.run("provider list -n demo -o wide").expect(0));
        assert!(wide.starts_with("NAMESPACE") && wide.contains("STORAGE"), "{wide}");
    }
}
