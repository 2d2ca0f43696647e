//! `vmferry snapshot create`.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::{Quiesce, SnapshotInfo, SnapshotRequest};

use super::connect;
use crate::cli::{
    Failure,
    cluster::ClusterArgs,
    export::parse_quiesce,
    output::{Output, Report},
    signals::{self, Stop},
    units::parse_duration,
    waiting::{WaitArgs, timestamp},
};

const AFTER_HELP: &str = "\
Examples:
  vmferry snapshot create demo/db --name before-upgrade --quiesce require
  vmferry snapshot create demo/db --no-wait";

/// Make a snapshot of a VM, running or not
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CreateArgs {
    /// The VM
    #[arg(value_name = "[NAMESPACE/]VM")]
    vm: String,

    /// Name of the snapshot [default: the VM's and the time]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// If the guest agent cannot hold the file systems of a running VM still: prefer warns, require
    /// fails, never does not mind
    #[arg(long, value_name = "prefer|require|never", default_value = "prefer", value_parser = parse_quiesce)]
    quiesce: Quiesce,

    /// Make it though volumes cannot be snapshotted, and leave those out
    #[arg(long)]
    partial: bool,

    /// After how long the cluster gives up [default: --timeout]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    failure_deadline: Option<Duration>,

    /// Keep what it holds in the storage when the snapshot is deleted
    #[arg(long)]
    retain: bool,

    #[command(flatten)]
    waiting: WaitArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: &CreateArgs, output: &Output) -> Result<(), Failure> {
    let (snapshots, vm) = connect(&args.vm, &args.cluster, output).await?;
    let request = SnapshotRequest {
        name: args.name.clone(),
        quiesce: args.quiesce,
        partial: args.partial,
        deadline: args.failure_deadline,
        retain: args.retain,
        ..SnapshotRequest::of(vm)
    };
    let acting = args.waiting.acting();
    let work = async move { snapshots.create(&request, &acting).await };
    let made = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&Created::new(&made, args.waiting.dry_run))?)
}

/// The result of `snapshot create`.
#[derive(Serialize)]
struct Created<'a> {
    success: bool,
    message: &'static str,
    timestamp: String,
    vm: String,
    dry_run: bool,
    snapshot: &'a SnapshotInfo,
}

impl<'a> Created<'a> {
    fn new(snapshot: &'a SnapshotInfo, dry_run: bool) -> Self {
        let message = match (dry_run, snapshot.ready_to_use) {
            (true, _) => "Snapshot would be created",
            (false, true) => "Snapshot created successfully",
            (false, false) => "Snapshot is being created",
        };
        let vm = format!("{}/{}", snapshot.namespace, snapshot.vm_name);
        Self { success: true, message, timestamp: timestamp(), vm, dry_run, snapshot }
    }
}

impl Report for Created<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let SnapshotInfo { namespace, name, consistency, .. } = self.snapshot;
        let vm = &self.vm;
        match (self.dry_run, self.snapshot.ready_to_use) {
            (true, _) => writeln!(
                out,
                "snapshot {namespace}/{name} of VM {vm} would be made (dry run, nothing was changed)"
            ),
            (false, true) => {
                writeln!(out, "snapshot {namespace}/{name} of VM {vm} is ready (consistency: {consistency})")
            }
            (false, false) => writeln!(out, "snapshot {namespace}/{name} of VM {vm} is being made"),
        }
    }
}
