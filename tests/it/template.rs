//! `vmferry template` against a simulated cluster.

use std::{fs, io::Write as _, process::Stdio, time::Duration};

use serde_json::{Value, json};
use vmferry_sim::{Config, Disk, Fault, FaultKind, Rule, Vm};

use crate::{
    support::{Finished, scratch, wait_for},
    vm::{Cluster, text},
};

fn start(config: Config) -> Cluster {
    let cluster = Cluster::with(config);
    cluster.sim.add_object(
        "virtualmachinetemplates",
        json!({
            "metadata": {"name": "debian", "namespace": "demo", "labels": {"os": "debian"}},
            "spec": {
                "message": "log in as debian",
                "parameters": [
                    {"name": "NAME", "generate": "expression", "from": "debian-[a-z0-9]{8}", "description": "its name"},
                    {"name": "MEMORY", "value": "2Gi", "displayName": "memory"},
                    {"name": "KEY", "required": true},
                ],
                "virtualMachine": {
                    "metadata": {"name": "${NAME}"},
                    "spec": {"runStrategy": "Halted", "template": {"spec": {
                        "domain": {"memory": {"guest": "${MEMORY}"}, "devices": {}},
                        "volumes": [{"name": "init", "cloudInitNoCloud": {"userData": "key: ${KEY}"}}],
                    }}},
                },
            },
        }),
    );
    cluster.sim.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(1 << 20)));
    cluster
}

const LINES: [&str; 4] = [
    "template list -n demo",
    "template get demo/debian",
    "template process demo/debian -p KEY=k",
    "template process demo/debian -p KEY=k --create",
];

#[test]
fn a_template_is_listed_shown_and_processed() {
    let cluster = start(Config::default());
    let ready = || cluster.json("template get demo/debian")["ready"] == true;
    wait_for("the template", ready);
    let listed = cluster.json("template list -A -l os=debian");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["ready"], &listed[0]["vm_name"]),
        (&json!("debian"), &json!(true), &json!("${NAME}"))
    );
    assert_eq!(listed[0]["parameters"][1]["display_name"], "memory");
    assert_eq!(cluster.json("template list -A -l os=other"), json!([]));
    assert_eq!(text(&cluster.run("template list -n demo -o name").expect(0)), "demo/debian\n");
    let table = text(&cluster.run("template list -A -o wide").expect(0));
    assert!(table.contains("NAME,MEMORY,KEY") && table.contains("PARAMETERS"), "{table}");
    let shown = text(&cluster.run("template get demo/debian").expect(0));
    for says in [
        "log in as debian",
        "KEY (required)",
        "NAME = made of debian-[a-z0-9]{8}: its name",
        "MEMORY = \"2Gi\": memory",
    ] {
        assert!(shown.contains(says), "{says}: {shown}");
    }

    let line = "template process demo/debian -p NAME=db -p KEY=ssh-rsa=x";
    let done = cluster.run(line).expect(0);
    assert!(text(&done).contains("name: db") && text(&done).contains("guest: 2Gi"), "{}", text(&done));
    assert!(done.stderr.contains("log in as debian"), "{}", done.stderr);
    let vm = cluster.json(line);
    assert_eq!((&vm["kind"], &vm["metadata"]["name"]), (&json!("VirtualMachine"), &json!("db")));
    let init = &vm["spec"]["template"]["spec"]["volumes"][0]["cloudInitNoCloud"]["userData"];
    assert_eq!(init, "key: ssh-rsa=x");
    assert!(cluster.vm("db").is_none(), "nothing was made");

    let made = cluster.run("template process demo/debian -p NAME=db -p KEY=k --create").expect(0);
    assert_eq!(text(&made), "VM demo/db made of template demo/debian\n");
    assert_eq!(cluster.json("vm get demo/db")["memory_mb"], 2048);
    cluster.refused(
        "template process demo/debian -p NAME=db -p KEY=k --create",
        7,
        &["makes a VM whose name is taken", "template get"],
    );
    // A name that the cluster finds.
    let made = cluster.json("template process demo/debian -p KEY=k --create");
    assert!(made["vm"].as_str().unwrap().starts_with("demo/debian-"), "{made}");
}

#[test]
fn parameters_come_from_a_file_too() {
    let cluster = start(Config::default());
    let place = scratch();
    let file = place.path().join("parameters");
    fs::write(&file, "# for the database\n\nNAME=db\nKEY=hunter2 = secret \n").unwrap();
    let init =
        |vm: &Value| vm["spec"]["template"]["spec"]["volumes"][0]["cloudInitNoCloud"]["userData"].clone();
    let line = format!("template process demo/debian --param-file {}", file.display());
    let vm = cluster.json(&line);
    assert_eq!((&vm["metadata"]["name"], init(&vm)), (&json!("db"), json!("key: hunter2 = secret ")));
    // The command line counts before it, and nothing that was made shows a value.
    let made = cluster.run(&format!("{line} -p NAME=other --create")).expect(0);
    assert_eq!(text(&made), "VM demo/other made of template demo/debian\n");
    assert_eq!(init(&cluster.vm("other").unwrap()), "key: hunter2 = secret ");
    let made = cluster.run(&format!("{line} -p NAME=third --create -o json -vvv")).expect(0);
    assert!(!text(&made).contains("hunter2") && !made.stderr.contains("hunter2"), "{}", made.stderr);

    let mut command = cluster.command("template process demo/debian --param-file - -o json");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"KEY=piped").unwrap();
    let vm = Finished::from(child.wait_with_output().unwrap()).expect(0).json();
    assert_eq!(init(&vm), "key: piped");

    for (content, code, says) in [
        ("KEY=a\nKEY=hunter2\n", 2, "parameter KEY is given twice in "),
        ("KEY=a\nhunter2\n", 2, "is not NAME=VALUE"),
        (&*"#".repeat((1 << 20) + 1), 5, "has more than 1048576 bytes"),
    ] {
        fs::write(&file, content).unwrap();
        let refused = cluster.run(&line).expect(code);
        assert!(refused.stderr.contains(says) && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    }
    fs::remove_file(&file).unwrap();
    cluster.refused(&line, 1, &["cannot read the file of parameters"]);
}

#[test]
fn a_template_is_made_of_a_vm() {
    let cluster = start(Config { delay: Duration::from_millis(100), ..Config::default() });
    let dry = text(&cluster.run("template create demo/web --name gold --dry-run").expect(0));
    assert!(dry.contains("would be made of VM demo/web"), "{dry}");
    assert_eq!(cluster.json("template list -n demo").as_array().unwrap().len(), 1);
    let made = cluster.run("template create demo/web --name gold").expect(0);
    assert_eq!(text(&made), "template demo/gold made of VM demo/web\n");
    let mut watched = cluster.follow("template list -n demo -w -o name");
    watched.until("demo/gold");
    cluster.run("template create demo/web --name silver").expect(0);
    watched.until("demo/silver");
    assert!(made.stderr.contains("waiting: template gold: "), "{}", made.stderr);
    cluster.run("template process demo/gold -p NAME=copy --create").expect(0);
    assert!(cluster.vm("copy").is_some());
    cluster.refused(
        "template create demo/web --name gold",
        7,
        &["template demo/gold exists already", "--name"],
    );
    cluster.refused("template create demo/none", 7, &["VM demo/none does not exist"]);

    let slow = start(Config { delay: Duration::from_secs(60), ..Config::default() });
    slow.refused(
        "template create demo/web --timeout 1s",
        8,
        &["template demo/web was not made within 1 s: not begun", "kubectl describe"],
    );
    let told = text(&slow.run("template create demo/web --name other --no-wait").expect(0));
    assert_eq!(told, "template demo/other is being made of VM demo/web\n");
}

#[test]
fn what_is_missing_is_named() {
    let cluster = start(Config::default());
    for line in ["template get demo/none", "template process demo/none"] {
        cluster.refused(line, 7, &["demo/none does not exist"]);
    }
    cluster.refused(
        "template process demo/debian",
        7,
        &[
            "template demo/debian cannot be processed",
            "parameter KEY is required",
            "NAME, MEMORY, KEY (required)",
        ],
    );
    cluster.refused(
        "template process demo/debian -p KEY=k -p SIZE=3 --create",
        7,
        &["cannot be processed", "unknown parameter name", "its parameters: NAME"],
    );
    cluster.refused("template process demo/debian -p KEY", 2, &["NAME=VALUE"]);
    cluster.refused("template process demo/debian -p KEY=a -p KEY=b", 2, &["parameter KEY is given twice"]);

    cluster.allow(Vec::new());
    cluster.refused(
        "template list -n demo",
        7,
        &["--verb=list --resource=virtualmachinetemplates.template.kubevirt.io -n demo", "(403)"],
    );
    for (task, flag) in [("process", ""), ("create", " --create")] {
        let resource = format!("virtualmachinetemplates.subresources.template.kubevirt.io/{task}");
        cluster.refused(
            &format!("template process demo/debian -p KEY=k{flag}"),
            7,
            &[&format!("--verb=create --resource={resource} -n demo"), "(403)"],
        );
    }
    cluster.allow(vec![Rule::new(&["get"], &["*/*"])]);
    cluster.refused(
        "template create demo/web",
        7,
        &["--verb=create --resource=virtualmachinetemplaterequests.template.kubevirt.io -n demo"],
    );
}

#[test]
fn a_cluster_without_templates_is_named() {
    // Contract section 0 and 4.6: v1alpha1 from 1.8, v1beta1 from 1.9.
    for minor in [0, 3, 6, 7] {
        let cluster = Cluster::with(Config { kubevirt_version: (1, minor), ..Config::default() });
        for line in LINES.into_iter().chain(["template create demo/web"]) {
            cluster.refused(
                line,
                7,
                &["the cluster does not know template.kubevirt.io", "1.8", "gate Template"],
            );
        }
    }
    for (minor, version) in [(8, "v1alpha1"), (9, "v1beta1")] {
        let cluster = start(Config { kubevirt_version: (1, minor), ..Config::default() });
        for line in LINES.into_iter().chain(["template create demo/web"]) {
            cluster.run(line).expect(0);
        }
        let requests = cluster.sim.requests();
        let mut paths =
            requests.iter().filter_map(|request| request.path.split_once("template.kubevirt.io/"));
        assert!(paths.all(|(_, rest)| rest.starts_with(version)), "1.{minor}");
    }
    let cluster = start(Config { template_server: false, ..Config::default() });
    cluster.run("template get demo/debian").expect(0);
    cluster.refused(
        LINES[2],
        7,
        &["the cluster does not know subresources.template.kubevirt.io", "kubectl get apiservices"],
    );
}

#[test]
fn a_cluster_may_be_slow_or_mad() {
    let cluster = start(Config::default());
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api().times(0));
    for line in LINES {
        cluster.refused(line, 1, &["is no JSON"]);
    }
    cluster.sim.clear_faults();
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_secs(60) }).api().times(0));
    for line in LINES {
        cluster.refused(&format!("{line} --request-timeout 1s"), 6, &["did not answer within 1 s"]);
    }
    cluster.sim.clear_faults();
    // What only looks is asked again; what makes something is not, and says so.
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api_path("/process").times(2));
    cluster.run(LINES[2]).expect(0);
    cluster.sim.fault(Fault::new(FaultKind::CutAfter { bytes: 0 }).api_path("/create"));
    cluster.refused(
        "template process demo/debian -p NAME=db -p KEY=k --create",
        6,
        &["may have been carried out all the same", "look before"],
    );
    assert!(cluster.vm("db").is_some());
    let all: Value = cluster.json("vm list -n demo");
    assert_eq!(all.as_array().unwrap().len(), 2);

    let kubeconfig = fs::read_to_string(&cluster.kubeconfig).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let away = kubeconfig.replace(&cluster.sim.api_url(), &format!("https://127.0.0.1:{port}"));
    fs::write(&cluster.kubeconfig, away).unwrap();
    cluster.refused("template list -n demo", 6, &[&format!("https://127.0.0.1:{port}")]);
}
