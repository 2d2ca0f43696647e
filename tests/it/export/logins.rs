//! Who asks and by which way: logins, impersonation, proxies, pods; and clusters that do not answer as they
//! should.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use vmferry_sim::{Config, Fault, FaultKind, Rule, Simulator};

use super::{
    cluster::{Cluster, assert_disk, end, web},
    proxy::Proxy,
};
use crate::support::{Finished, scratch, unprivileged};

const DATA: [&str; 5] = ["demo/web", "--volume", "data", "--output", "data.raw"];

/// The login in a kubeconfig: `token: …`, without indentation.
fn token_of(kubeconfig: &str) -> &str {
    kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap().trim_matches('"')
}

/// The kubeconfig with another login.
fn with_login(kubeconfig: &str, login: &str) -> String {
    kubeconfig.replace(&format!("token: {}", token_of(kubeconfig)), login)
}

/// A program that a kubeconfig names for the login.
fn plugin(directory: &Path, script: &str) -> String {
    let path = directory.join("login-plugin");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: '{}', args: [login], interactiveMode: Never}}",
        path.display()
    )
}

#[test]
fn every_login_of_a_kubeconfig_is_understood() {
    let cluster = Cluster::start(Config::default());
    let (_, data) = web(&cluster);
    let place = scratch();
    let kubeconfig = cluster.sim.kubeconfig();
    let token_file = place.path().join("token");
    fs::write(&token_file, token_of(&kubeconfig)).unwrap();
    let credential = "{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {\"token\": ";
    let script = format!(
        "test \"$1\" = login || exit 1\nprintf '%s\"%s\"}}}}' '{credential}' \"$(cat '{}')\"",
        token_file.display()
    );
    let by_certificate = cluster.sim.kubeconfig_with_certificate(vec![Rule::everything()]).unwrap();
    assert!(!by_certificate.contains("token:"));
    for (kind, text) in [
        ("tokenFile", with_login(&kubeconfig, &format!("tokenFile: '{}'", token_file.display()))),
        ("exec", with_login(&kubeconfig, &plugin(place.path(), &script))),
        ("certificate", by_certificate),
    ] {
        fs::write(&cluster.kubeconfig, text).unwrap();
        let done = cluster.run(place.path(), &[&DATA[..], &["--force"]].concat());
        assert_eq!(done.code, Some(0), "{kind}: {}", done.stderr);
        assert_disk(&place.path().join("data.raw"), &data);
        cluster.assert_clean();
    }
}

#[test]
fn a_login_that_fails_is_explained_and_stays_secret() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    let kubeconfig = cluster.sim.kubeconfig();
    let failing = plugin(place.path(), "echo s3cret-out\necho s3cret-err >&2\nexit 3");
    for (login, says) in [
        (failing.as_str(), "plugin that the kubeconfig names failed"),
        (
            "exec: {apiVersion: client.authentication.k8s.io/v1, command: /no/such, interactiveMode: Never}",
            "plugin that the kubeconfig names cannot be started",
        ),
        ("tokenFile: /no/such/file", "does not lead to a valid login"),
        ("token: s3cret-and-wrong", "does not know who asks"),
    ] {
        fs::write(&cluster.kubeconfig, with_login(&kubeconfig, login)).unwrap();
        let failed = cluster.run(place.path(), &[&DATA[..], &["-vvv"]].concat()).expect(7);
        assert!(
            failed.stderr.contains(says) && failed.stderr.contains("hint:"),
            "{login}: {}",
            failed.stderr
        );
        // What the plugin itself says is its own; it inherits standard error.
        let ours: Vec<&str> = failed.stderr.lines().filter(|line| *line != "s3cret-err").collect();
        assert!(!ours.iter().any(|line| line.contains("s3cret")), "{login}: {}", failed.stderr);
    }
}

#[test]
fn a_user_and_his_groups_can_be_acted_as() {
    let cluster = Cluster::start(Config::default());
    let (_, data) = web(&cluster);
    cluster.sim.add_group("exporters", vec![Rule::everything().within(&["demo"])]);
    let caller = vec![Rule::new(&["impersonate"], &["/users", "/groups"])];
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(caller)).unwrap();
    let place = scratch();
    let run = |more: &[&str]| cluster.run(place.path(), &[&DATA[..], more].concat());

    let failed = run(&[]).expect(7);
    assert!(failed.stderr.contains("no right to"), "{}", failed.stderr);
    let failed = run(&["--as", "jane"]).expect(7);
    assert!(failed.stderr.contains("no right to") && failed.stderr.contains("jane"), "{}", failed.stderr);
    run(&["--as-group", "exporters"]).expect(2);
    run(&["--as", "jane", "--as-group", "staff", "--as-group", "exporters"]).expect(0);
    assert_disk(&place.path().join("data.raw"), &data);
    cluster.assert_clean();

    // Who may not impersonate is told so.
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig_with(vec![Rule::new(&["get"], &["*/*"])])).unwrap();
    let failed = run(&["--as", "jane", "--force"]).expect(7);
    assert!(failed.stderr.contains("impersonate"), "{}", failed.stderr);
}

/// A cluster whose names only its proxy knows, and that proxy.
fn behind_a_proxy() -> (Cluster, Proxy, String) {
    let host = "exports.example.test".to_owned();
    let cluster = Cluster::start(Config { external_host: Some(host), ..Config::default() });
    cluster.add_export("theirs", "web", "t0ken");
    let service = cluster.sim.service_address("demo", "theirs").unwrap();
    let api = cluster.sim.api_url().trim_start_matches("https://").parse().unwrap();
    let outside = cluster.sim.proxy_address();
    let proxy = Proxy::start(move |target| match target {
        "kubernetes.default.svc:6443" => Some(api),
        "exports.example.test:443" => Some(outside),
        "virt-export-theirs.demo.svc:443" => Some(service),
        address => address.parse().ok().filter(|address| *address == api),
    });
    let url = cluster.sim.api_url();
    let named = cluster.sim.kubeconfig().replace(&url, "https://kubernetes.default.svc:6443");
    (cluster, proxy, named)
}

/// The command with nothing of the environment's own proxies.
fn without_proxies(command: &mut Command) -> &mut Command {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

#[test]
fn a_proxy_of_the_environment_leads_to_cluster_and_exporter() {
    let (cluster, proxy, kubeconfig) = behind_a_proxy();
    let (root, _) = web(&cluster);
    fs::write(&cluster.kubeconfig, kubeconfig).unwrap();
    // By the service's name as well, which a pod could resolve itself.
    for (reach, way, target) in [
        ("external", "external link", "exports.example.test:443"),
        ("internal", "internal link", "virt-export-theirs.demo.svc:443"),
        ("port-forward", "port-forward through the API server", "kubernetes.default.svc:6443"),
    ] {
        for transfer in ["raw", "gzip"] {
            let place = scratch();
            let args = ["--vmexport", "theirs", "-n", "demo", "--volume", "root", "--output", "root.raw"];
            let more = ["--reach", reach, "--transfer", transfer, "-o", "json"];
            let mut command = cluster.command(place.path(), &[&args[..], &more].concat());
            // That the proxy itself has an address of this network is no reason to go around it.
            without_proxies(&mut command)
                .env("HTTPS_PROXY", proxy.url())
                .env("NO_PROXY", "127.0.0.0/8,.intern");
            let done = Finished::from(command.output().unwrap()).expect(0);
            assert_eq!(done.json()["reached_by"], way);
            assert_disk(&place.path().join("root.raw"), &root);
            assert!(proxy.was_asked_for("kubernetes.default.svc:6443") && proxy.was_asked_for(target));
        }
    }
    // A name that the variable excepts is not taken to the proxy, where it would be found.
    let place = scratch();
    let args = [&DATA[..], &["--retry-for", "1s"]].concat();
    let mut command = cluster.command(place.path(), &args);
    without_proxies(&mut command).env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", "default.svc");
    Finished::from(command.output().unwrap()).expect(6);
    let mut command = cluster.command(place.path(), &args);
    without_proxies(&mut command).env("HTTPS_PROXY", proxy.url()).env("NO_PROXY", "a,,b");
    let failed = Finished::from(command.output().unwrap()).expect(2);
    assert!(failed.stderr.contains("NO_PROXY"), "{}", failed.stderr);
}

#[test]
fn the_internal_link_outside_of_the_cluster_is_explained() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    let args = [&DATA[..], &["--reach", "internal", "--retry-for", "1s"]].concat();
    let mut command = cluster.command(place.path(), &args);
    let failed = Finished::from(without_proxies(&mut command).output().unwrap()).expect(6);
    assert!(failed.stderr.contains("--reach port-forward"), "{}", failed.stderr);
    cluster.assert_clean();
}

#[test]
fn a_proxy_of_the_kubeconfig_leads_to_the_cluster() {
    let (cluster, proxy, _) = behind_a_proxy();
    let (_, data) = web(&cluster);
    let url = cluster.sim.api_url();
    let with_proxy = format!("{url}\n    proxy-url: {}", proxy.url());
    fs::write(&cluster.kubeconfig, cluster.sim.kubeconfig().replace(&url, &with_proxy)).unwrap();
    let place = scratch();
    let args = [&DATA[..], &["--reach", "port-forward"]].concat();
    let mut command = cluster.command(place.path(), &args);
    without_proxies(&mut command).env("NO_PROXY", "*");
    Finished::from(command.output().unwrap()).expect(0);
    assert_disk(&place.path().join("data.raw"), &data);
    assert!(proxy.was_asked_for(url.trim_start_matches("https://")));
}

/// A pod finds cluster, token and namespace where Kubernetes puts them, and reaches exporters by the names
/// of their services. The fixed paths are laid over the real ones in a namespace of this process alone.
#[test]
fn in_a_pod_nothing_has_to_be_named() {
    let within = ["--user", "--map-root-user", "--mount"];
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(within).stdin(Stdio::null());
        command
    };
    if !unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
        return unprivileged("user namespaces (unshare --user --mount)");
    }
    let (cluster, proxy, _) = behind_a_proxy();
    let (root, _) = web(&cluster);
    let place = scratch();
    let account = place.path().join("account");
    fs::create_dir(&account).unwrap();
    fs::write(account.join("token"), token_of(&cluster.sim.kubeconfig())).unwrap();
    fs::write(account.join("ca.crt"), cluster.sim.api_ca_pem()).unwrap();
    fs::write(account.join("namespace"), "demo").unwrap();
    let script = "run=$(realpath /var/run)\n\
                  mount -t tmpfs tmpfs \"$run\"\n\
                  mkdir -p \"$run/secrets/kubernetes.io\"\n\
                  cp -r account \"$run/secrets/kubernetes.io/serviceaccount\"\n\
                  exec \"$@\"";
    let mut command = unshare();
    command.args(["sh", "-ec", script, "sh", env!("CARGO_BIN_EXE_vmferry")]);
    command.args([
        "export",
        "--vmexport",
        "theirs",
        "--volume",
        "root",
        "--output",
        "root.raw",
        "-o",
        "json",
    ]);
    let api: std::net::SocketAddr = cluster.sim.api_url().trim_start_matches("https://").parse().unwrap();
    without_proxies(&mut command)
        .current_dir(place.path())
        .env("HOME", place.path())
        .env_remove("KUBECONFIG")
        .env("KUBERNETES_SERVICE_HOST", api.ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", api.port().to_string())
        // What the cluster's DNS does in a real one.
        .env("HTTPS_PROXY", proxy.url());
    let done = Finished::from(command.output().unwrap()).expect(0);
    assert_eq!(done.json()["reached_by"], "internal link");
    assert_disk(&place.path().join("root.raw"), &root);
}

/// What a server says that is none.
fn babble(text: &'static [u8]) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(text);
        }
    });
    format!("https://{address}")
}

#[test]
fn a_cluster_that_does_not_answer_as_it_should_is_explained() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let other = Simulator::start_blocking(Config::default()).unwrap();
    let (url, kubeconfig) = (cluster.sim.api_url(), cluster.sim.kubeconfig());
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let place = scratch();
    for (server, code, says) in [
        (format!("https://{free}"), 6, "cannot reach the cluster at https://127.0.0.1"),
        (babble(b"SSH-2.0-OpenSSH_9.2\r\n"), 6, "cannot reach the cluster at"),
        (babble(b""), 6, "cannot reach the cluster at"),
        (other.api_url(), 7, "is not trusted"),
    ] {
        fs::write(&cluster.kubeconfig, kubeconfig.replace(&url, &server)).unwrap();
        let start = Instant::now();
        let failed = cluster.run(place.path(), &[&DATA[..], &["--retry-for", "2s"]].concat());
        assert_eq!(failed.code, Some(code), "{server}: {}", failed.stderr);
        assert!(failed.stderr.contains(says) && failed.stderr.contains("hint:"), "{}", failed.stderr);
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    fs::write(&cluster.kubeconfig, &kubeconfig).unwrap();
    for (kind, says) in [
        (FaultKind::Delay { pause: Duration::from_secs(20) }, "did not answer within 1 s"),
        (FaultKind::Status { code: 500 }, "(500)"),
        (FaultKind::Status { code: 200 }, "is about something else"),
        (FaultKind::CutAfter { bytes: 10 }, "cannot reach the cluster at"),
    ] {
        cluster.sim.clear_faults();
        cluster.sim.fault(Fault::new(kind.clone()).api().times(0));
        let failed = cluster
            .run(place.path(), &[&DATA[..], &["--retry-for", "2s", "--request-timeout", "1s"]].concat());
        assert!(matches!(failed.code, Some(1 | 6)), "{kind:?}: {:?} {}", failed.code, failed.stderr);
        assert!(
            failed.stderr.contains(says) && failed.stderr.contains("hint:"),
            "{kind:?}: {}",
            failed.stderr
        );
    }
    cluster.sim.clear_faults();
    cluster.assert_clean();
}

#[test]
fn a_cluster_that_goes_away_meanwhile_ends_the_export_clearly() {
    let cluster = Cluster::start(Config::default());
    web(&cluster);
    let place = scratch();
    let args =
        ["demo/web", "--volume", "root", "--output", "root.raw", "--transfer", "raw", "--rate", "4MiB"];
    let child =
        cluster.spawn(place.path(), &[&args[..], &["--retry-for", "3s", "--stall-timeout", "1s"]].concat());
    cluster.wait_sent(2 << 20);
    drop(cluster);
    let failed = end(child).expect(6);
    assert!(failed.stderr.contains("run the same command again"), "{}", failed.stderr);
    assert!(!place.path().join("root.raw").exists());
}
