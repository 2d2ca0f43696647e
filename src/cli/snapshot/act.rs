//! `vmferry snapshot delete` and `clone`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;

use super::OneSnapshot;
use crate::cli::{
    Failure,
    cloned::ClonedReport,
    output::{Output, Report},
    question::{self, YesArgs},
    signals::{self, Stop},
    waiting::{WaitArgs, timestamp},
};

/// Delete a snapshot
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    snapshot: OneSnapshot,

    #[command(flatten)]
    yes: YesArgs,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Make a VM of a snapshot, with new MAC addresses
#[derive(Args, Debug)]
pub(crate) struct CloneArgs {
    #[command(flatten)]
    snapshot: OneSnapshot,

    /// Name of the new VM
    #[arg(value_name = "NEW-VM")]
    target: String,

    #[command(flatten)]
    waiting: WaitArgs,
}

pub(super) async fn delete(args: &DeleteArgs, output: &Output) -> Result<(), Failure> {
    let ask = args.yes.must_ask(args.waiting.dry_run, "the snapshot")?;
    let ((snapshots, name), acting) = (args.snapshot.connect(output).await?, args.waiting.acting());
    let console = output.clone();
    let work = async move {
        let found = snapshots.get(&name).await?;
        let what = format!("snapshot {}/{name}", found.namespace);
        if ask {
            question::ask(&console, &format!("delete {what} of VM {}?", found.vm_name), &what).await?;
        }
        let complete = snapshots.delete(&name, &acting).await?;
        Ok((format!("{}/{name}", found.namespace), complete))
    };
    let (snapshot, complete) = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&Deleted::new(snapshot, complete, args.waiting.dry_run))?)
}

pub(super) async fn clone(args: &CloneArgs, output: &Output) -> Result<(), Failure> {
    let ((snapshots, name), acting) = (args.snapshot.connect(output).await?, args.waiting.acting());
    let (source, target) = (format!("snapshot {name}"), args.target.clone());
    let work = async move { snapshots.clone_vm(&name, &target, &acting).await };
    let cloned = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&ClonedReport::new(source, &cloned, args.waiting.dry_run))?)
}

/// The result of `snapshot delete`.
#[derive(Serialize)]
struct Deleted {
    success: bool,
    message: &'static str,
    timestamp: String,
    snapshot: String,
    complete: bool,
    dry_run: bool,
}

impl Deleted {
    fn new(snapshot: String, complete: bool, dry_run: bool) -> Self {
        let message = match (dry_run, complete) {
            (true, _) => "Snapshot would be deleted",
            (false, true) => "Snapshot deleted successfully",
            (false, false) => "Snapshot is being deleted",
        };
        Self { success: true, message, timestamp: timestamp(), snapshot, complete, dry_run }
    }
}

impl Report for Deleted {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { snapshot, .. } = self;
        match (self.dry_run, self.complete) {
            (true, _) => writeln!(out, "snapshot {snapshot} would be deleted (dry run, nothing was changed)"),
            (false, true) => writeln!(out, "snapshot {snapshot} deleted"),
            (false, false) => writeln!(out, "snapshot {snapshot} is being deleted"),
        }
    }
}
