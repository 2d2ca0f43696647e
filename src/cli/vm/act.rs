//! `vmferry vm start`, `stop`, `restart`, `pause`, `unpause`.

use std::{
    future::Future,
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::Acted;

use super::OneVm;
use crate::cli::{
    Failure,
    output::{Output, Report},
    signals::{self, Stop},
    units::parse_duration,
    waiting::{WaitArgs, timestamp},
};

/// Start a VM
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Hold its guest still before its first instruction
    #[arg(long)]
    paused: bool,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Stop a VM: its guest is asked to shut down, and cut off when its grace period is over
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Cut it off at once, as by pulling the plug
    #[arg(long, conflicts_with = "grace_period")]
    force: bool,

    /// How long the guest may take [default: what the VM's description says]
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    grace_period: Option<Duration>,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Restart a VM, so that changes of its description count
#[derive(Args, Debug)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    vm: OneVm,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Hold the guest of a VM still
#[derive(Args, Debug)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    vm: OneVm,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Let a guest go on that is held still
#[derive(Args, Debug)]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    vm: OneVm,

    #[command(flatten)]
    waiting: WaitArgs,
}

pub(super) async fn start(args: &StartArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    let paused = args.paused;
    let work = async move { vms.start(&name, paused, &acting).await };
    carry_out(if paused { STARTED_PAUSED } else { STARTED }, work, args.waiting, output).await
}

pub(super) async fn stop(args: &StopArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    let grace = if args.force { Some(Duration::ZERO) } else { args.grace_period };
    carry_out(STOPPED, async move { vms.stop(&name, grace, &acting).await }, args.waiting, output).await
}

pub(super) async fn restart(args: &RestartArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    carry_out(RESTARTED, async move { vms.restart(&name, &acting).await }, args.waiting, output).await
}

pub(super) async fn pause(args: &PauseArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    carry_out(PAUSED, async move { vms.pause(&name, &acting).await }, args.waiting, output).await
}

pub(super) async fn unpause(args: &UnpauseArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    carry_out(UNPAUSED, async move { vms.unpause(&name, &acting).await }, args.waiting, output).await
}

async fn carry_out(
    done: &'static str,
    work: impl Future<Output = vmferry::Result<Acted>> + Send + 'static,
    waiting: WaitArgs,
    output: &Output,
) -> Result<(), Failure> {
    let acted = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&Done::new(done, &acted, waiting.dry_run))?)
}

/// What became of a change of a VM.
#[derive(Serialize)]
pub(super) struct Done<'a> {
    success: bool,
    message: String,
    timestamp: String,
    vm: &'a str,
    state: Option<&'a str>,
    complete: bool,
    dry_run: bool,
    #[serde(skip)]
    done: &'static str,
}

impl<'a> Done<'a> {
    /// `done` is what the VM is afterwards: `started`, `stopped`.
    pub(super) fn new(done: &'static str, acted: &'a Acted, dry_run: bool) -> Self {
        let message = match (dry_run, acted.complete) {
            (true, _) => format!("VM would be {done}"),
            (false, true) => format!("VM {done} successfully"),
            (false, false) => format!("VM is being {done}"),
        };
        Self {
            success: true,
            message,
            timestamp: timestamp(),
            vm: &acted.vm,
            state: acted.state.as_deref(),
            complete: acted.complete,
            dry_run,
            done,
        }
    }
}

impl Report for Done<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { vm, done, .. } = self;
        match (self.dry_run, self.complete, self.state) {
            (true, ..) => writeln!(out, "VM {vm} would be {done} (dry run, nothing was changed)"),
            (false, true, Some(state)) => writeln!(out, "VM {vm} {done} ({state})"),
            (false, true, None) => writeln!(out, "VM {vm} {done}"),
            (false, false, _) => writeln!(out, "VM {vm} is being {done}"),
        }
    }
}

const PAUSED: &str = "paused";
const RESTARTED: &str = "restarted";
const STARTED: &str = "started";
const STARTED_PAUSED: &str = "started and held still";
const STOPPED: &str = "stopped";
const UNPAUSED: &str = "unpaused";
