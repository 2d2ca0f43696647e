//! `vmferry vm delete`.

use clap::Args;
use vmferry::kubevirt::Doomed;

use super::{OneVm, act::Done};
use crate::cli::{
    Failure,
    output::Output,
    question::{self, YesArgs},
    signals::{self, Stop},
    waiting::WaitArgs,
};

/// Delete a VM, and the volumes that belong to it
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Keep all of its volumes; it must be stopped
    #[arg(long)]
    keep_volumes: bool,

    #[command(flatten)]
    yes: YesArgs,

    #[command(flatten)]
    waiting: WaitArgs,
}

pub(super) async fn run(args: &DeleteArgs, output: &Output) -> Result<(), Failure> {
    let ask = args.yes.must_ask(args.waiting.dry_run, "the VM")?;
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    let (keep, console) = (args.keep_volumes, output.clone());
    let work = async move {
        let doomed = vms.doomed(&name, keep).await?;
        if ask {
            question::ask(&console, &question(&doomed), &format!("VM {}", doomed.vm)).await?;
        }
        let acted = vms.delete(&doomed, &acting).await?;
        Ok((doomed, acted))
    };
    let (doomed, acted) = signals::supervise(work, Stop::AtOnce, output).await?;
    if !doomed.kept.is_empty() && !args.waiting.dry_run {
        output.note(&format!("kept: {}", doomed.kept.join(", ")));
    }
    Ok(output.report(&Done::new("deleted", &acted, args.waiting.dry_run))?)
}

fn question(doomed: &Doomed) -> String {
    let running = if doomed.running { ", which is running," } else { "" };
    let volumes = match doomed.volumes.as_slice() {
        [] => " (no volumes)".to_owned(),
        volumes => format!(" and its volumes {}", volumes.join(", ")),
    };
    format!("delete VM {}{running}{volumes}?", doomed.vm)
}
