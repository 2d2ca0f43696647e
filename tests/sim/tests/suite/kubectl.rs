//! The program, and kubectl against it.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::missing;

/// The program, running until it is dropped.
struct Program {
    child: Child,
    kubeconfig: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Program {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let kubeconfig = folder.join("kubeconfig");
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmferry-sim"));
        command.arg("--kubeconfig").arg(&kubeconfig).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        // It says so when it is ready.
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("A simulated cluster"), "{line}");
        Self { child, kubeconfig }
    }

    fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir");
        command.arg(self.kubeconfig.with_file_name("cache")).args(args).env_remove("KUBECONFIG");
        command
    }

    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).output().expect("kubectl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

fn has_kubectl() -> bool {
    Command::new("kubectl").args(["version", "--client"]).output().is_ok_and(|output| output.status.success())
}

fn manifest(folder: &Path, name: &str) -> String {
    let path = folder.join(format!("{name}.json"));
    let text = format!(
        r#"{{"apiVersion": "export.kubevirt.io/v1", "kind": "VirtualMachineExport",
            "metadata": {{"name": "{name}", "namespace": "demo"}},
            "spec": {{"source": {{"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "web"}}}}}}"#
    );
    std::fs::write(&path, text).expect("a file");
    path.to_string_lossy().into_owned()
}

#[test]
fn kubectl_lists_watches_and_deletes() {
    if !has_kubectl() {
        return missing("kubectl");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = Program::start(folder.path(), &[]);
    let mode = std::fs::metadata(&program.kubeconfig).expect("the kubeconfig").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = program.says(&["get", "vm,vmexport", "-A"]);
    assert!(text.contains("NAMESPACE") && text.contains("virtualmachine.kubevirt.io/web"), "{text}");
    assert!(text.contains("Starting"), "{text}");

    let mut watch = program
        .kubectl(&["get", "vmexport", "-n", "demo", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    program.says(&["create", "-f", &manifest(folder.path(), "first")]);
    let start = Instant::now();
    loop {
        let line = lines.next().expect("a line").expect("text");
        if line.starts_with("first") && line.contains("Ready") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "never ready");
    }
    let text = program.says(&["get", "vmexport", "-n", "demo"]);
    assert!(
        text.contains("SOURCEKIND") && text.contains("VirtualMachine") && text.contains("Ready"),
        "{text}"
    );
    let text = program.says(&["get", "pods,svc,secrets,events,pvc,sc,vmsnapshot,kubevirt", "-A"]);
    assert!(text.contains("virt-export-first"), "{text}");
    let text = program.says(&["delete", "vmexport", "first", "-n", "demo"]);
    assert!(text.contains("\"first\" deleted"), "{text}");
    drop(watch.kill());
    drop(watch.wait());
    let text = program.says(&["get", "vmexport,pods", "-n", "demo", "-o", "name"]);
    assert!(!text.contains("first"), "{text}");
    program.says(&["label", "vm", "web", "-n", "demo", "tested=yes"]);
    assert!(program.says(&["get", "vm", "-A", "-l", "tested=yes", "-o", "name"]).contains("/web"));
}

#[test]
fn the_program_plays_older_releases_and_files_as_disks() {
    if !has_kubectl() {
        return missing("kubectl");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let disks = folder.path().join("disks");
    std::fs::create_dir(&disks).expect("a folder");
    std::fs::write(disks.join("Boot.img"), vec![1; 4096]).expect("a file");
    let disks = disks.to_string_lossy().into_owned();
    let program = Program::start(folder.path(), &["--kubevirt-version", "1.2", "--disk-dir", &disks]);
    let text = program.says(&["api-versions"]);
    assert!(
        text.contains("export.kubevirt.io/v1alpha1") && !text.contains("export.kubevirt.io/v1beta1"),
        "{text}"
    );
    assert!(program.says(&["get", "pvc", "-n", "demo", "-o", "name"]).contains("files-boot"));
}
