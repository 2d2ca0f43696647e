//! Job definitions of HyperSDK: `vmferry export --job`.

use std::{fs, io::Write as _, path::Path, process::Stdio};

use serde_json::{Value, json};
use vmferry_sim::{Config, Disk, Vm};

use crate::{
    support::{Finished, listing, read, run, scratch},
    vm::Cluster,
};

const MIB: usize = 1 << 20;

fn cluster() -> (Cluster, Vec<u8>) {
    let cluster = Cluster::with(Config::default());
    let disk = vmferry_formats::testkit::disk(1, 3 * MIB);
    let vm = Vm::new("demo", "web")
        .disk("root", Disk::bytes(disk.clone()))
        .disk("data", Disk::pattern(1 << 20, 2));
    cluster.sim.add_vm(vm);
    (cluster, disk)
}

/// Writes a job and exports by it.
fn export(cluster: &Cluster, place: &Path, job: &Value, more: &str) -> Finished {
    let file = place.join("job.json");
    fs::write(&file, job.to_string()).unwrap();
    cluster.run(&format!("export --job {} {more}", file.display()))
}

#[track_caller]
fn assert_disk(image: &Path, disk: &[u8]) {
    let place = scratch();
    let raw = place.path().join("disk.raw");
    run(["convert", "-q", "--no-manifest", image.to_str().unwrap(), raw.to_str().unwrap()]).expect(0);
    assert!(read(&raw) == disk, "{image:?}");
}

#[test]
fn a_job_is_an_export() {
    let (cluster, disk) = cluster();
    let place = scratch();
    let out = place.path().join("out");
    let job = json!({
        "name": "nightly", "vm_path": "demo/web", "provider": "kubevirt", "output_dir": out, "format": "qcow2", "compress": true,
        "metadata": {"namespace": "elsewhere"},
        "options": {"parallel_downloads": 2, "compress_level": 6, "remove_cdrom": true, "show_individual_progress": false,
            "volumes": ["root"], "verify": true},
    });
    let done = export(&cluster, place.path(), &job, "-o json").expect(0).json();
    assert_eq!((done["namespace"].as_str(), done["name"].as_str()), (Some("demo"), Some("web")));
    assert_eq!(done["volumes"].as_array().unwrap().len(), 1);
    assert_disk(&out.join("web/root.qcow2"), &disk);
    assert!(!listing(&out.join("web")).contains(&"data.qcow2".to_owned()));

    // The command line counts before the job, and a batch of one is one.
    let other = place.path().join("other");
    let batch = json!({"jobs": [job]});
    let more = format!("--volume data --format raw --compression none --output {}", other.display());
    let told = export(&cluster, place.path(), &batch, &more).expect(0);
    assert!(told.stderr.contains("options.remove_cdrom of the job has no effect"), "{}", told.stderr);
    let names = listing(&other.join("web"));
    assert!(names.contains(&"data.raw".to_owned()) && !names.contains(&"root.raw".to_owned()), "{names:?}");
}

#[test]
fn a_job_without_a_format_is_an_appliance() {
    let (cluster, disk) = cluster();
    let place = scratch();
    let out = place.path().join("out");
    let job = json!({"vm_path": "web", "output_path": out, "metadata": {"namespace": "demo", "kubeconfig": cluster.kubeconfig}});
    fs::write(place.path().join("job"), job.to_string()).unwrap();
    // Its kubeconfig is the only one.
    let mut command = crate::support::vmferry(["export", "-o", "json", "--job"]);
    command.arg(place.path().join("job")).env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
    let done = Finished::from(command.output().unwrap()).expect(0).json();
    assert!(done["appliance"].is_object(), "{done}");
    let descriptor = out.join("web/web.ovf");
    assert!(descriptor.is_file(), "{:?}", listing(&out));
    let raw = place.path().join("root.raw");
    run([
        "convert",
        "-q",
        "--no-manifest",
        "--disk",
        "1",
        descriptor.to_str().unwrap(),
        raw.to_str().unwrap(),
    ])
    .expect(0);
    assert!(read(&raw) == disk);

    let job = json!({"vm_path": "demo/web", "output_dir": place.path().join("ova"), "format": "ova", "compress": true});
    export(&cluster, place.path(), &job, "").expect(0);
    let found = listing(&place.path().join("ova"));
    assert!(
        found.iter().any(|name| name.ends_with(".ova")) || place.path().join("ova/web/web.ova").is_file(),
        "{found:?}"
    );
}

#[test]
fn a_job_comes_by_standard_input_too() {
    let (cluster, disk) = cluster();
    let place = scratch();
    let out = place.path().join("root.img");
    let job = format!(
        "vm_path: demo/web\noutput_path: {}\nformat: raw\noptions:\n  volumes: [root]\n",
        out.display()
    );
    let mut command = cluster.command("export --job -");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(job.as_bytes()).unwrap();
    Finished::from(child.wait_with_output().unwrap()).expect(0);
    assert!(read(&out) == disk);
}

#[test]
fn a_job_that_cannot_be_done_is_refused_before_anything_is_asked() {
    let (cluster, _) = cluster();
    let place = scratch();
    let base = json!({"vm_path": "demo/web", "output_dir": place.path().join("out")});
    for (fields, code, says) in [
        (json!({"outputdir": "x"}), 2, "\"outputdir\" is no field of a job"),
        (json!({"options": {"paralel_downloads": 2}}), 2, "options.parallel_downloads is one"),
        (json!({"provider": "vsphere"}), 5, "provider cannot be \"vsphere\""),
        (json!({"format": "vhd"}), 5, "format vhd is not in this version"),
        (json!({"vcenter": {"server": "v", "password": "hush"}}), 5, "vcenter cannot be honoured"),
        (json!({"options": {"enable_pipeline": true}}), 5, "options.enable_pipeline cannot be honoured"),
        (json!({"options": {"encrypt": {"recipient": "r"}}}), 5, "options.encrypt is not in this version"),
        (json!({"output_dir": "ftp://bucket/x", "format": "qcow2"}), 2, "cannot write to the URL ftp://"),
        (json!({"options": {"ttl": "soon"}}), 2, "--ttl"),
    ] {
        let mut job = base.clone();
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let refused = export(&cluster, place.path(), &job, "");
        assert_eq!(refused.code, Some(code), "{fields}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{fields}: {}", refused.stderr);
        assert!(!refused.stderr.contains("hush"), "{}", refused.stderr);
    }
    assert!(cluster.sim.requests().is_empty(), "the cluster was asked");
    let missing = cluster.run("export --job /nonexistent/job.json").expect(1);
    assert!(missing.stderr.contains("cannot read the job /nonexistent/job.json"), "{}", missing.stderr);
    for line in ["snapshot export x --job j --output o", "volume export web --volume root --job j --output o"]
    {
        cluster.refused(line, 2, &["'vmferry export --job' takes jobs"]);
    }
    // Without a job everything is as it was.
    cluster.refused("export", 2, &["required", "--output"]);
    cluster.refused("export --output x", 2, &["required"]);
    cluster.refused("export a --vm b --output x", 2, &["cannot be used with"]);
}
