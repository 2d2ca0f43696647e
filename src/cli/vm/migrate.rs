//! `vmferry vm migrate`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::Migrated;

use super::OneVm;
use crate::cli::{
    Failure,
    output::{Output, Report},
    signals::{self, Stop},
    waiting::{WaitArgs, timestamp},
};

const AFTER_HELP: &str = "\
Examples:
  vmferry vm migrate demo/db
  vmferry vm migrate demo/db --target-node worker-3 --timeout 30m
  vmferry vm migrate demo/db --cancel";

/// Move a VM to another node while it runs
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    vm: OneVm,

    /// The node [default: the cluster chooses; KubeVirt 1.6]
    #[arg(long, value_name = "NODE")]
    target_node: Option<String>,

    /// Give the migration up that is going on
    #[arg(long, conflicts_with = "target_node")]
    cancel: bool,

    #[command(flatten)]
    waiting: WaitArgs,
}

pub(super) async fn run(args: &MigrateArgs, output: &Output) -> Result<(), Failure> {
    let ((vms, name), acting) = (args.vm.connect(output).await?, args.waiting.acting());
    let dry_run = args.waiting.dry_run;
    if args.cancel {
        let vm = format!("{}/{name}", vms.cluster().namespace());
        let work = async move { vms.cancel_migration(&name, &acting).await };
        let migrations = signals::supervise(work, Stop::AtOnce, output).await?;
        return Ok(output.report(&Cancelled {
            success: true,
            timestamp: timestamp(),
            vm,
            migrations,
            dry_run,
        })?);
    }
    let node = args.target_node.clone();
    let work = async move { vms.migrate(&name, node.as_deref(), &acting).await };
    let migrated = signals::supervise(work, Stop::AtOnce, output).await?;
    Ok(output.report(&Done::new(&migrated, dry_run))?)
}

/// The result of `vm migrate`.
#[derive(Serialize)]
struct Done<'a> {
    success: bool,
    message: &'static str,
    timestamp: String,
    vm: &'a str,
    migration: &'a str,
    source_node: Option<&'a str>,
    target_node: Option<&'a str>,
    complete: bool,
    dry_run: bool,
}

impl<'a> Done<'a> {
    fn new(migrated: &'a Migrated, dry_run: bool) -> Self {
        let message = match (dry_run, migrated.complete) {
            (true, _) => "VM would be migrated",
            (false, true) => "VM migrated successfully",
            (false, false) => "VM is being migrated",
        };
        Self {
            success: true,
            message,
            timestamp: timestamp(),
            vm: &migrated.vm,
            migration: &migrated.migration,
            source_node: migrated.source_node.as_deref(),
            target_node: migrated.target_node.as_deref(),
            complete: migrated.complete,
            dry_run,
        }
    }
}

impl Report for Done<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { vm, migration, .. } = self;
        let (source, target) = (self.source_node.unwrap_or("?"), self.target_node.unwrap_or("?"));
        match (self.dry_run, self.complete) {
            (true, _) => writeln!(out, "VM {vm} would be migrated (dry run, nothing was changed)"),
            (false, true) => writeln!(out, "VM {vm} migrated from {source} to {target}"),
            (false, false) => writeln!(out, "VM {vm} is being migrated (migration {migration})"),
        }
    }
}

/// The result of `vm migrate --cancel`.
#[derive(Serialize)]
struct Cancelled {
    success: bool,
    timestamp: String,
    vm: String,
    migrations: Vec<String>,
    dry_run: bool,
}

impl Report for Cancelled {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { vm, migrations, .. } = self;
        let migrations = migrations.join(", ");
        if self.dry_run {
            writeln!(
                out,
                "the migration {migrations} of VM {vm} would be given up (dry run, nothing was changed)"
            )
        } else {
            writeln!(out, "the migration {migrations} of VM {vm} was given up")
        }
    }
}
