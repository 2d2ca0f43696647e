//! `vmferry snapshot`: snapshots made, listed, restored, exported, cloned from, deleted.

mod act;
mod create;
mod list;
mod restore;

use clap::{Args, Subcommand};
use vmferry::{Error, kubevirt::Snapshots};

use self::{
    act::{CloneArgs, DeleteArgs},
    create::CreateArgs,
    list::{GetArgs, ListArgs},
    restore::RestoreArgs,
};
use super::{
    Failure,
    cluster::ClusterArgs,
    export::{self, ExportArgs, named_vm, no_job},
    output::Output,
    waiting::show,
};

/// Make snapshots of VMs, restore, export, clone and delete them
#[derive(Args, Debug)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Create(CreateArgs),
    List(ListArgs),
    Get(GetArgs),
    Restore(RestoreArgs),
    Delete(DeleteArgs),
    /// Export the disks of a snapshot; the options are those of 'vmferry export'
    #[command(
        mut_arg("vm", |arg| arg.value_name("[NAMESPACE/]SNAPSHOT").help("The snapshot").required(true)),
        mut_arg("snapshot", |arg| arg.hide(true)),
        mut_arg("pvc", |arg| arg.hide(true)),
        mut_arg("vmexport", |arg| arg.hide(true)),
        mut_arg("source", |arg| arg.hide(true)),
        mut_arg("stop", |arg| arg.hide(true)),
        mut_arg("vm_flag", |arg| arg.hide(true)),
        mut_arg("job", |arg| arg.hide(true).value_parser(no_job))
    )]
    Export(Box<ExportArgs>),
    Clone(CloneArgs),
}

impl SnapshotArgs {
    /// Whether it lists rows.
    pub(super) fn has_rows(&self) -> bool {
        matches!(self.command, SnapshotCommand::List(_))
    }
}

pub(super) async fn run(args: SnapshotArgs, output: &Output) -> Result<(), Failure> {
    match args.command {
        SnapshotCommand::Create(args) => create::run(&args, output).await,
        SnapshotCommand::List(args) => list::run(&args, output).await,
        SnapshotCommand::Get(args) => list::get(&args, output).await,
        SnapshotCommand::Restore(args) => restore::run(&args, output).await,
        SnapshotCommand::Delete(args) => act::delete(&args, output).await,
        SnapshotCommand::Export(args) => export::run(&args.of_snapshot(), output).await,
        SnapshotCommand::Clone(args) => act::clone(&args, output).await,
    }
}

/// A snapshot, and where it is.
#[derive(Args, Debug)]
struct OneSnapshot {
    /// The snapshot
    #[arg(value_name = "[NAMESPACE/]SNAPSHOT")]
    snapshot: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl OneSnapshot {
    /// The snapshots of its namespace, and its name among them.
    async fn connect(&self, output: &Output) -> Result<(Snapshots, String), Error> {
        connect(&self.snapshot, &self.cluster, output).await
    }
}

/// The snapshots of the namespace that stands before a name, and the name.
async fn connect(name: &str, cluster: &ClusterArgs, output: &Output) -> Result<(Snapshots, String), Error> {
    let (namespace, name) = named_vm(name)?;
    let cluster = cluster.connect_briefly(namespace.as_deref()).await?;
    Ok((Snapshots::new(cluster).on_event(show(output)), name))
}
