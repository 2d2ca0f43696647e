use super::*;

/// The job, with nothing given beside it.
fn job(text: &str) -> Result<Job, Wrong> {
    translate(text, |_| false)
}

fn flags(text: &str) -> Vec<String> {
    let job = job(text).unwrap();
    job.arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
}

#[test]
fn a_job_becomes_flags_in_json_and_yaml() {
    let text = r#"{"name":"nightly","vm_path":"default/ubuntu-vm-1","provider":"kubevirt","output_dir":"/backups",
        "format":"ova","compress":true,"metadata":{"namespace":"other","carbon_aware":true},
        "options":{"parallel_downloads":4,"compress_level":6,"remove_cdrom":true,"show_individual_progress":false}}"#;
    let expected = [
        "--vm=default/ubuntu-vm-1",
        "--output=/backups",
        "--format=ova",
        "--compression-level=6",
        "--connections=4",
    ];
    for text in [text.to_owned(), format!("[{text}]"), format!("{{\"jobs\": [{text}]}}")] {
        assert_eq!(flags(&text), expected, "{text}");
    }
    assert_eq!(job(text).unwrap().notes.len(), 1);
    let yaml = "name: yes\nvm_path: ubuntu-vm-1\noutput_path: /b\nmetadata: {namespace: demo, kubeconfig: /k}\nformat: qcow2\n";
    assert_eq!(
        flags(yaml),
        ["--vm=ubuntu-vm-1", "--namespace=demo", "--kubeconfig=/k", "--output=/b", "--format=qcow2"]
    );
    assert_eq!(flags("{vm_path: a, output_dir: b}"), ["--vm=a", "--output=b", "--format=ovf"]);
}

#[test]
fn options_become_flags() {
    let text = "vm_path: a\noutput_dir: b\nformat: qcow2\ncompress: true\noptions:\n  compress_level: 9\n  source: export\n  \
                quiesce: require\n  volumes: [root, data]\n  verify: true\n  resume: false\n  bandwidth_limit: 1000\n  overwrite: true\n  \
                ttl: 2h\n  keep_export: true\n  encrypt: {recipient: ''}\n";
    assert_eq!(
        flags(text)[2..],
        [
            "--format=qcow2",
            "--compression=deflate",
            "--compression-level=9",
            "--source=vm",
            "--quiesce=require",
            "--rate=1000",
            "--ttl=2h",
            "--verify",
            "--force",
            "--keep-export",
            "--no-resume",
            "--volume=root",
            "--volume=data",
        ]
    );
    // Nothing is compressed, so there is no level.
    assert_eq!(
        flags("{vm_path: a, output_dir: b, format: raw, options: {compress_level: 6}}")[2..],
        ["--format=raw"]
    );
}

#[test]
fn what_the_command_line_says_counts() {
    let text =
        "{vm_path: demo/a, output_dir: b, format: raw, options: {volumes: [root], parallel_downloads: 2}}";
    let given = |ids: &'static [&str]| {
        let job = translate(text, |id| ids.contains(&id)).unwrap();
        job.arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(given(&["pvc", "volume"]), ["--output=b", "--format=raw", "--connections=2"]);
    assert_eq!(given(&["output", "format", "connections"]), ["--vm=demo/a", "--volume=root"]);
    assert_eq!(translate("{}", |_| true).unwrap(), Job::default());
}

#[test]
fn what_clients_send_as_no_passes() {
    let text = r#"{"id":"x","created_at":"2026-01-01T00:00:00Z","vm_path":"a","output_dir":"b","vcenter":{"server":"","username":"",
        "password":"","insecure":false},"vcenter_url":"","thin":false,"enable_pipeline":false,"export_method":"","method":"web",
        "options":{"parallel_downloads":0,"libvirt_integration":false,"hyper2kvm_path":"","h2kvm_poll_interval":0,"pipeline_fix":false,
        "enable_rdp":null}}"#;
    assert_eq!(flags(text), ["--vm=a", "--output=b", "--format=ovf"]);
}

#[test]
fn what_is_not_understood_or_not_done_is_named() {
    for (fields, is_refusal, says) in [
        (r#""vmpath":"a""#, false, "\"vmpath\" is no field"),
        (r#""options":{"parallel":4}"#, false, "options.parallel"),
        (r#""metadata":{"name_space":"a"}"#, false, "metadata.name_space"),
        (r#""provider":"vsphere""#, true, "provider cannot be \"vsphere\""),
        (r#""format":"vhdx""#, true, "format vhdx is not in this version"),
        (r#""format":"iso""#, true, "format cannot be \"iso\""),
        (r#""format":5"#, false, "format must be text"),
        (r#""format":"raw","compress":true"#, true, "compress is not possible for raw"),
        (r#""compress":"yes""#, false, "compress must be true or false"),
        (r#""vcenter":{"server":"","password":"hush"}"#, true, "vcenter cannot be honoured"),
        (r#""password":"hush""#, true, "password cannot be honoured"),
        (r#""export_method":"scp""#, true, "export_method cannot be"),
        (r#""output_path":"c""#, false, "output_dir and output_path say two things"),
        (r#""options":{"libvirt_integration":true}"#, true, "options.libvirt_integration cannot be honoured"),
        (r#""options":{"pipeline_fix":true}"#, true, "options.pipeline_fix"),
        (r#""options":{"parallel_downloads":33}"#, false, "from 1 to 32"),
        (r#""options":{"parallel_downloads":-1}"#, false, "whole number"),
        (r#""options":{"source":"backup"}"#, true, "options.source cannot be \"backup\""),
        (r#""options":{"encrypt":{"recipient":"me"}}"#, true, "options.encrypt"),
        (r#""options":{"volumes":"root"}"#, false, "list of names"),
        (r#""options":[]"#, false, "options must hold fields"),
        (r#""compress":true,"options":{"compression":"none"}"#, false, "say two things"),
    ] {
        let text = format!(r#"{{"vm_path":"a","output_dir":"b",{fields}}}"#);
        let wrong = job(&text).unwrap_err();
        assert_eq!(wrong.is_refusal, is_refusal, "{text}");
        assert!(wrong.message.contains(says), "{text}: {}", wrong.message);
        assert!(!format!("{wrong:?}").contains("hush"), "{wrong:?}");
    }
    for (text, says) in [
        ("", "no object"),
        ("[]", "there is none"),
        ("[{}, {}]", "there are 2"),
        ("{\"jobs\": [], \"x\": 1}", "beside jobs"),
        ("{\"jobs\": 5}", "no object"),
        ("{", "no JSON"),
        ("a: b: c", "no YAML"),
        ("{}", "vm_path is missing"),
        ("{\"vm_path\": \"a\"}", "output_dir is missing"),
    ] {
        let wrong = job(text).unwrap_err();
        assert!(wrong.message.contains(says), "{text}: {}", wrong.message);
    }
    assert!(job(&"[".repeat(100_000)).is_err());
}
