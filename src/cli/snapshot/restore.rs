//! `vmferry snapshot restore`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::{OwnershipPolicy, ReadinessPolicy, RestoreRequest, RestoreVolumePolicy, Restored};

use super::OneSnapshot;
use crate::cli::{
    Failure,
    export::named,
    output::{Output, Report},
    signals::{self, Stop},
    waiting::{WaitArgs, timestamp},
};

const AFTER_HELP: &str = "\
Examples:
  vmferry snapshot restore demo/before-upgrade --stop       # its VM, put back
  vmferry snapshot restore demo/before-upgrade --to db-old --new-mac

What the VM held is lost with its old volumes, unless another VM is made.";

/// Put a VM back to a snapshot, or make another one of it
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    snapshot: OneSnapshot,

    /// A VM that does not exist yet, instead of the one that the snapshot is of
    #[arg(long, value_name = "VM")]
    to: Option<String>,

    /// Stop the VM first if it runs [default: refuse]
    #[arg(long, conflicts_with = "if_running")]
    stop: bool,

    /// What the cluster does with a VM that runs [KubeVirt 1.5]
    #[arg(long, value_name = "fail|stop|wait|wait-briefly", value_parser = |text: &str| named(text, &ReadinessPolicy::ALL))]
    if_running: Option<ReadinessPolicy>,

    /// What the restored volumes are called [KubeVirt 1.6; prefix: 1.8]
    #[arg(long, value_name = "in-place|prefix|random", value_parser = |text: &str| named(text, &RestoreVolumePolicy::ALL))]
    volume_names: Option<RestoreVolumePolicy>,

    /// Whom the restored volumes belong to, and are deleted with [KubeVirt 1.7]
    #[arg(long, value_name = "vm|none", value_parser = |text: &str| named(text, &OwnershipPolicy::ALL))]
    volume_owner: Option<OwnershipPolicy>,

    /// Give the guest new MAC addresses where the description has some [KubeVirt 1.6]
    #[arg(long)]
    new_mac: bool,

    #[command(flatten)]
    waiting: WaitArgs,
}

pub(super) async fn run(args: &RestoreArgs, output: &Output) -> Result<(), Failure> {
    let (snapshots, name) = args.snapshot.connect(output).await?;
    let request = RestoreRequest {
        target: args.to.clone(),
        stop: args.stop,
        readiness: args.if_running,
        volumes: args.volume_names,
        ownership: args.volume_owner,
        new_macs: args.new_mac,
        ..RestoreRequest::of(&name)
    };
    let acting = args.waiting.acting();
    let work = async move { snapshots.restore(&request, &acting).await };
    let restored = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&Done::new(&name, &restored, args.waiting.dry_run))?)
}

/// The result of `snapshot restore`.
#[derive(Serialize)]
struct Done<'a> {
    success: bool,
    message: &'static str,
    timestamp: String,
    vm: &'a str,
    snapshot: &'a str,
    state: Option<&'a str>,
    dry_run: bool,
    restore: RestoreInfo<'a>,
}

#[derive(Serialize)]
struct RestoreInfo<'a> {
    name: &'a str,
    complete: bool,
    target: &'a str,
}

impl<'a> Done<'a> {
    fn new(snapshot: &'a str, restored: &'a Restored, dry_run: bool) -> Self {
        let message = match (dry_run, restored.complete) {
            (true, _) => "VM would be restored",
            (false, true) => "VM restored successfully",
            (false, false) => "VM is being restored",
        };
        let target = restored.vm.split_once('/').map_or(restored.vm.as_str(), |(_, name)| name);
        let restore = RestoreInfo { name: &restored.restore, complete: restored.complete, target };
        let state = restored.state.as_deref();
        Self {
            success: true,
            message,
            timestamp: timestamp(),
            vm: &restored.vm,
            snapshot,
            state,
            dry_run,
            restore,
        }
    }
}

impl Report for Done<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { vm, snapshot, .. } = self;
        match (self.dry_run, self.restore.complete) {
            (true, _) => writeln!(
                out,
                "VM {vm} would be restored from snapshot {snapshot} (dry run, nothing was changed)"
            ),
            (false, true) => {
                let state = self.state.unwrap_or("gone again");
                writeln!(out, "VM {vm} restored from snapshot {snapshot} ({state})")
            }
            (false, false) => {
                writeln!(
                    out,
                    "VM {vm} is being restored from snapshot {snapshot} (restore {})",
                    self.restore.name
                )
            }
        }
    }
}
