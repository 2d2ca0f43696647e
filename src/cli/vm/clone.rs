//! `vmferry vm clone`.

use clap::Args;

use super::OneVm;
use crate::cli::{
    Failure,
    cloned::ClonedReport,
    output::Output,
    signals::{self, Stop},
    waiting::WaitArgs,
};

const AFTER_HELP: &str = "\
Examples:
  vmferry vm clone demo/db db-test
  vmferry vm clone demo/db db-test --from-snapshot before-upgrade";

/// Make a copy of a VM, with new MAC addresses
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CloneArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Name of the new VM
    #[arg(value_name = "NEW-VM")]
    target: String,

    /// Of this snapshot of the VM, instead of what it holds now
    #[arg(long, value_name = "NAME")]
    from_snapshot: Option<String>,

    /// Give the copy new MAC addresses, which it gets in any case
    #[arg(long)]
    new_mac: bool,

    #[command(flatten)]
    waiting: WaitArgs,
}

pub(super) async fn run(args: &CloneArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    let (snapshot, target) = (args.from_snapshot.clone(), args.target.clone());
    let source = match &snapshot {
        Some(snapshot) => format!("snapshot {snapshot}"),
        None => format!("VM {name}"),
    };
    let work = async move { vms.clone_vm(&name, snapshot.as_deref(), &target, &acting).await };
    let cloned = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&ClonedReport::new(source, &cloned, args.waiting.dry_run))?)
}
