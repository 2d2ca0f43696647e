//! The words and flags of HyperSDK, and what each is here.

use self::Means::{Always, Nothing, Word};
use crate::cli::job::{ENCRYPTION_HINT, FOREIGN_HINT};

/// A flag of HyperSDK.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) means: Means,
}

/// What stands behind a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, or `=true` and `=false`.
    Switch,
    Value,
}

/// What a flag is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// What is done in any case.
    Always,
    /// The flag of this name, with the value, if it is a switch when that is on.
    Flag(&'static str),
    /// Nothing; this comes nearest.
    Nothing(&'static str),
    /// A part of the command, by its name.
    Word,
}

/// What `-op` says.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// The command of vmferry.
    pub(super) line: &'static [&'static str],
    /// Flags of HyperSDK that become its arguments, in order.
    pub(super) names: &'static [&'static str],
    /// Whether they may be left out.
    pub(super) optional: bool,
    /// Flags that mean another one with each operation.
    pub(super) flags: &'static [(&'static str, &'static str)],
    /// Whether it can be waited for.
    pub(super) waits: bool,
}

const fn switch(name: &'static str, means: Means) -> Flag {
    Flag { name, takes: Takes::Switch, means }
}

const fn value(name: &'static str, means: Means) -> Flag {
    Flag { name, takes: Takes::Value, means }
}

/// An operation that is there or not at once.
const fn shows(
    name: &'static str,
    line: &'static [&'static str],
    names: &'static [&'static str],
) -> Operation {
    Operation { name, line, names, optional: false, flags: &[], waits: false }
}

/// An operation that takes its time.
const fn acts(
    name: &'static str,
    line: &'static [&'static str],
    names: &'static [&'static str],
    flags: &'static [(&'static str, &'static str)],
) -> Operation {
    Operation { name, line, names, optional: false, flags, waits: true }
}

/// Flags of `provider list` and `export`, which are the same with two dashes.
pub(super) static SAME: &[&str] =
    &["all-namespaces", "format", "help", "kubeconfig", "namespace", "output", "provider", "type", "vm"];

/// `hyperctl list`.
pub(super) static LIST: &[Flag] = &[switch("json", JSON), value("filter", Word)];

/// `hyperctl completion`.
pub(super) static SHELL: &[Flag] = &[value("shell", Word)];

/// `hyperctl vm`.
pub(super) static VM: &[Flag] =
    &[value("op", Word), value("path", Word), value("timeout", Means::Flag("timeout"))];

pub(super) static VM_OPERATIONS: &[Operation] = &[
    shows("shutdown", &["vm", "stop"], &["path"]),
    shows("poweroff", &["vm", "stop", "--force"], &["path"]),
    shows("info", &["vm", "get"], &["path"]),
];

/// `hyperctl k8s`.
pub(super) static K8S: &[Flag] = &[
    value("op", Word),
    value("provider", Word),
    value("vm", Word),
    value("target", Word),
    value("snapshot", Word),
    value("template", Word),
    switch("force", Word),
    switch("wait", Word),
    value("kubeconfig", Means::Flag("kubeconfig")),
    value("namespace", Means::Flag("namespace")),
    switch("all-namespaces", Means::Flag("all-namespaces")),
    value("target-node", Means::Flag("target-node")),
    value("timeout", Means::Flag("timeout")),
    value("output", Means::Flag("output-format")),
    switch("json", JSON),
    switch("watch", Means::Flag("watch")),
    value("status", Means::Flag("state")),
    value("selector", Means::Flag("selector")),
    // What a refused deletion advises, and a look ahead.
    switch("yes", Means::Flag("yes")),
    switch("dry-run", Means::Flag("dry-run")),
    // Whatever is waited for is shown.
    switch("show-progress", Always),
    value("node", Nothing(BY_COLUMNS)),
    value("min-cpus", Nothing(BY_COLUMNS)),
    value("min-memory", Nothing(BY_COLUMNS)),
    switch("include-memory", Nothing("a snapshot in KubeVirt is of the disks")),
    switch("interactive", Nothing("say by flags what is to be done")),
    value("name", Nothing(BACKUPS)),
    value("dest-type", Nothing(BACKUPS)),
    value("bucket", Nothing(BACKUPS)),
    value("backup", Nothing(BACKUPS)),
    value("schedule", Nothing(SCHEDULES)),
    value("keep-last", Nothing(SCHEDULES)),
    switch("carbon-aware", Nothing(CARBON)),
    switch("include-memory-backup", Nothing(BACKUPS)),
    switch("quiesce-backup", Nothing(BACKUPS)),
    switch("power-on", Nothing("'vmferry vm start NAMESPACE/VM' starts it afterwards")),
    value("cpus", Nothing(NEW_VMS)),
    value("memory", Nothing(NEW_VMS)),
    value("image", Nothing(NEW_VMS)),
    value("gpus", Nothing(NEW_VMS)),
    value("gpu-vendor", Nothing(NEW_VMS)),
    value("gpu-model", Nothing(NEW_VMS)),
    switch("gpu-passthrough", Nothing(NEW_VMS)),
    value("usb-vendor-id", Nothing(NEW_VMS)),
    value("usb-product-id", Nothing(NEW_VMS)),
    switch("usb-hotplug", Nothing(NEW_VMS)),
    switch("keep-volumes", Means::Flag("keep-volumes")),
];

pub(super) static K8S_OPERATIONS: &[Operation] = &[
    shows("vm-list", &["vm", "list"], &[]),
    shows("vm-get", &["vm", "get"], &["vm"]),
    shows("vm-describe", &["vm", "get"], &["vm"]),
    acts("vm-start", &["vm", "start"], &["vm"], &[]),
    acts("vm-stop", &["vm", "stop"], &["vm"], &[("force", "force")]),
    acts("vm-restart", &["vm", "restart"], &["vm"], &[]),
    acts("vm-migrate", &["vm", "migrate"], &["vm"], &[]),
    acts("vm-clone", &["vm", "clone"], &["vm", "target"], &[("snapshot", "from-snapshot")]),
    acts("vm-clone-from-snapshot", &["snapshot", "clone"], &["snapshot", "target"], &[]),
    acts("vm-delete", &["vm", "delete"], &["vm"], &[("force", "yes")]),
    acts("vm-snapshot-create", &["snapshot", "create"], &["vm"], &[("snapshot", "name")]),
    Operation { optional: true, ..shows("vm-snapshot-list", &["snapshot", "list"], &["vm"]) },
    acts("vm-snapshot-delete", &["snapshot", "delete"], &["snapshot"], &[("force", "yes")]),
    shows("template-list", &["template", "list"], &[]),
    shows("template-get", &["template", "get"], &["template"]),
];

/// Operations, by how they begin, that are not here.
pub(super) static NO_OPERATIONS: &[(&str, &str)] = &[
    ("backup-schedule", SCHEDULES),
    ("backup", BACKUPS),
    ("schedule", SCHEDULES),
    ("restore", "'vmferry snapshot restore NAMESPACE/SNAPSHOT' restores a VM from a snapshot"),
    ("status", "'vmferry doctor' looks at the cluster, and at what an export needs"),
    ("vm-create", NEW_VMS),
    ("vm-resize", "change the VM by 'kubectl edit vm', and 'vmferry vm restart' makes it count"),
    ("remove-cdrom", "'vmferry volume detach NAMESPACE/VM VOLUME' takes a volume from a VM"),
];

/// Words of `hyperctl` that are not here.
pub(super) static NOT_HERE: &[(&str, &str)] = &[
    ("submit", RUN_A_JOB),
    ("query", NO_JOBS),
    ("status", NO_DAEMON),
    ("cancel", "an export is stopped by Ctrl-C, and goes on when the same command is given again"),
    ("watch", PROGRESS),
    ("logs", "'vmferry export' logs to standard error: -v, or --log-format json for programs"),
    ("schedules", SCHEDULES),
    ("webhooks", OUTCOME),
    ("manifest", MANIFESTS),
    ("workflow", RUN_A_JOB),
    ("migrate", INTERACTIVE),
    ("interactive", INTERACTIVE),
    ("grep", BY_NAME),
    ("rg", BY_NAME),
    ("metrics", "'vmferry vm metrics NAMESPACE/VM' shows those of a VM"),
    ("events", "'vmferry vm status NAMESPACE/VM --watch' tells what becomes of a VM"),
    ("clone", "'vmferry vm clone NAMESPACE/VM NEW-VM' makes a copy of a VM"),
    ("daemon", NO_DAEMON),
    ("carbon", CARBON),
    ("host", NODES),
    ("cluster", NODES),
    ("pool", NODES),
];

/// `hyperexport`.
pub(super) static EXPORT: &[Flag] = &[
    value("vm", Word),
    value("provider", Word),
    value("output", Word),
    value("format", Word),
    switch("compress", Word),
    value("compress-level", Word),
    value("upload", Word),
    switch("stream-upload", Word),
    switch("keep-local", Word),
    switch("resume", Word),
    value("bandwidth-limit", Word),
    switch("snapshot-quiesce", Word),
    switch("delete-snapshot", Word),
    switch("validate-only", Word),
    switch("vm-info", Word),
    switch("version", Word),
    value("completion", Word),
    value("parallel", Means::Flag("connections")),
    switch("verify", Means::Flag("verify")),
    switch("dry-run", Means::Flag("dry-run")),
    switch("quiet", Means::Flag("quiet")),
    switch("power-off", Means::Flag("stop")),
    switch("snapshot", Means::Flag("source=snapshot")),
    // Every export is of everything.
    switch("force-full", Always),
    switch("incremental", Nothing(WHOLE)),
    switch("incremental-info", Nothing(WHOLE)),
    value("bandwidth-burst", Nothing(NO_BURSTS)),
    switch("adaptive-bandwidth", Nothing(NO_BURSTS)),
    value("snapshot-name", Nothing(NAMED_SNAPSHOT)),
    switch("snapshot-memory", Nothing("a snapshot in KubeVirt is of the disks")),
    value("keep-snapshots", Nothing(SNAPSHOTS)),
    switch("consolidate-snapshots", Nothing(SNAPSHOTS)),
    value("batch", Nothing(ONE_BY_ONE)),
    value(
        "filter",
        Nothing("'vmferry vm list --selector KEY=VALUE -o name' lists VMs; export them one by one"),
    ),
    value("folder", Nothing("'vmferry vm list --namespace NAME -o name' lists VMs; export them one by one")),
    switch("interactive", Nothing(INTERACTIVE)),
    switch("tui", Nothing(INTERACTIVE)),
    switch("encrypt", Nothing(ENCRYPTION_HINT)),
    value("encrypt-method", Nothing(ENCRYPTION_HINT)),
    value("passphrase", Nothing(ENCRYPTION_HINT)),
    value("keyfile", Nothing(ENCRYPTION_HINT)),
    value("gpg-recipient", Nothing(ENCRYPTION_HINT)),
    value("profile", Nothing(PROFILES)),
    value("save-profile", Nothing(PROFILES)),
    switch("list-profiles", Nothing(PROFILES)),
    value("delete-profile", Nothing(PROFILES)),
    switch("create-default-profiles", Nothing(PROFILES)),
    switch("history", Nothing(HISTORY)),
    value("history-limit", Nothing(HISTORY)),
    switch("clear-history", Nothing(HISTORY)),
    switch("report", Nothing(HISTORY)),
    value("report-file", Nothing(HISTORY)),
    switch("manifest", Nothing(MANIFESTS)),
    switch("verify-manifest", Nothing(MANIFESTS)),
    switch("manifest-checksum", Nothing(MANIFESTS)),
    value("manifest-target", Nothing(MANIFESTS)),
    value("audit-log", Nothing("'vmferry export' logs to standard error: --log-format json")),
    value("webhook-url", Nothing(OUTCOME)),
    value("webhook-type", Nothing(OUTCOME)),
    switch("webhook-on-start", Nothing(OUTCOME)),
    switch("webhook-on-complete", Nothing(OUTCOME)),
    switch("webhook-on-error", Nothing(OUTCOME)),
    switch("email-notify", Nothing(OUTCOME)),
    value("email-smtp-host", Nothing(OUTCOME)),
    value("email-smtp-port", Nothing(OUTCOME)),
    value("email-from", Nothing(OUTCOME)),
    value("email-to", Nothing(OUTCOME)),
    value("email-username", Nothing(OUTCOME)),
    value("email-password", Nothing(OUTCOME)),
    switch("email-on-start", Nothing(OUTCOME)),
    switch("email-on-complete", Nothing(OUTCOME)),
    switch("email-on-failure", Nothing(OUTCOME)),
    value("metrics-api", Nothing(PROGRESS)),
    value("progress-api", Nothing(PROGRESS)),
    switch("orchestrate", Nothing(FOREIGN_HINT)),
    switch("use-daemon", Nothing(NO_DAEMON)),
    value("daemon-url", Nothing(NO_DAEMON)),
    value("daemon-watch", Nothing(NO_DAEMON)),
    value("daemon-list", Nothing(NO_DAEMON)),
    value("daemon-schedule", Nothing(SCHEDULES)),
    switch("daemon-status", Nothing(NO_DAEMON)),
    switch("watch", Nothing(PROGRESS)),
    switch("cleanup", Nothing(CLEANUP)),
    value("cleanup-max-age", Nothing(CLEANUP)),
    value("cleanup-max-count", Nothing(CLEANUP)),
    value("cleanup-max-size", Nothing(CLEANUP)),
    switch("cleanup-dry-run", Nothing(CLEANUP)),
    value("cleanup-schedule", Nothing(CLEANUP)),
    switch("pipeline", Nothing(FOREIGN_HINT)),
    switch("stream-pipeline", Nothing(FOREIGN_HINT)),
    value("pipeline-timeout", Nothing(FOREIGN_HINT)),
    switch("pipeline-dry-run", Nothing(FOREIGN_HINT)),
    switch("pipeline-inspect", Nothing(FOREIGN_HINT)),
    switch("pipeline-fix", Nothing(FOREIGN_HINT)),
    switch("pipeline-convert", Nothing(FOREIGN_HINT)),
    switch("pipeline-validate", Nothing(FOREIGN_HINT)),
    switch("pipeline-compress", Nothing(FOREIGN_HINT)),
    switch("libvirt", Nothing(FOREIGN_HINT)),
    value("libvirt-uri", Nothing(FOREIGN_HINT)),
    switch("libvirt-autostart", Nothing(FOREIGN_HINT)),
    value("libvirt-bridge", Nothing(FOREIGN_HINT)),
    value("libvirt-pool", Nothing(FOREIGN_HINT)),
    value("hyper2kvm-path", Nothing(FOREIGN_HINT)),
    switch("hyper2kvm-daemon", Nothing(FOREIGN_HINT)),
    value("hyper2kvm-instance", Nothing(FOREIGN_HINT)),
    value("hyper2kvm-watch-dir", Nothing(FOREIGN_HINT)),
    value("hyper2kvm-output-dir", Nothing(FOREIGN_HINT)),
    value("hyper2kvm-poll-interval", Nothing(FOREIGN_HINT)),
    value("hyper2kvm-daemon-timeout", Nothing(FOREIGN_HINT)),
];

/// The words among them, all of which are looked at.
pub(super) static EXPORT_WORDS: &[&str] = &[
    "vm",
    "provider",
    "output",
    "format",
    "compress",
    "compress-level",
    "upload",
    "stream-upload",
    "keep-local",
    "resume",
    "bandwidth-limit",
    "snapshot-quiesce",
    "delete-snapshot",
    "validate-only",
    "vm-info",
    "version",
    "completion",
];

const JSON: Means = Means::Flag("output-format=json");

// What comes nearest. Commands in quotes are held against the command line by a test.

pub(super) const NO_DAEMON: &str =
    "there is no daemon: 'vmferry export' does the work itself, and 'vmferry doctor' looks at the cluster";
pub(super) const ONE_PLACE: &str =
    "an export goes to one place: 'vmferry export --output DIR', and again with the URL as --output";

const BACKUPS: &str = "'vmferry export NAMESPACE/VM --output URL' exports a VM into a bucket, 'vmferry snapshot create' makes a snapshot";
const BY_COLUMNS: &str = "'vmferry vm list -o wide' shows nodes and sizes, -o json for programs";
const BY_NAME: &str = "'vmferry vm list --name GLOB' lists VMs by their names";
const CARBON: &str = "nothing here measures it";
const CLEANUP: &str =
    "'vmferry gc' lists what unfinished runs have left in a cluster; exports on disk are never removed here";
const HISTORY: &str = "each export into a directory has its record beside it, manifest.json";
const INTERACTIVE: &str =
    "'vmferry vm list' lists VMs, 'vmferry export NAMESPACE/VM --output DIR' exports one";
const MANIFESTS: &str = "each export into a directory has a record, manifest.json, and 'vmferry verify' checks an image by its manifest";
const NAMED_SNAPSHOT: &str = "'vmferry snapshot create NAMESPACE/VM --name NAME', then 'vmferry snapshot export NAMESPACE/NAME --output DIR'";
const NEW_VMS: &str = "'vmferry template process NAMESPACE/TEMPLATE --create' makes a VM of a template";
const NODES: &str = "'vmferry vm list -o wide' shows the nodes that VMs run on";
const NO_BURSTS: &str = "-bandwidth-limit is a limit for all connections together, without bursts";
const NO_JOBS: &str = "no jobs are kept: 'vmferry export -o json' tells what was made when it is done";
const ONE_BY_ONE: &str = "an export is of one VM: run it for each line of the file";
const OUTCOME: &str = "the exit code of 'vmferry export' tells how it ended, and -o json what was made";
const PROFILES: &str =
    "the configuration file has defaults for flags: 'vmferry config show' tells which and where it is";
const PROGRESS: &str = "'vmferry export --progress json' tells how far it is, an object a second";
const RUN_A_JOB: &str = "'vmferry export --job FILE' carries a job out at once";
const SCHEDULES: &str = "let cron, or a CronJob, call 'vmferry export --job FILE'";
const SNAPSHOTS: &str =
    "'vmferry snapshot list NAMESPACE/VM' lists snapshots, 'vmferry snapshot delete' removes one";
const WHOLE: &str = "every export is of whole disks, of which only data is fetched";
