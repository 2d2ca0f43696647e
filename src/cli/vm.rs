//! `vmferry vm`: VMs listed, looked at, reached by their consoles, started, stopped, paused, cloned, deleted.

mod act;
mod clone;
mod console;
mod delete;
pub(super) mod list;
mod metrics;
mod migrate;
mod screenshot;
mod show;

use clap::{Args, Subcommand};
use vmferry::{
    Error,
    kubevirt::{Cluster, Vms},
};

use self::{
    act::{PauseArgs, RestartArgs, StartArgs, StopArgs, UnpauseArgs},
    clone::CloneArgs,
    console::ConsoleArgs,
    delete::DeleteArgs,
    list::ListArgs,
    metrics::MetricsArgs,
    migrate::MigrateArgs,
    screenshot::ScreenshotArgs,
    show::{GetArgs, StatusArgs},
};
use super::{Failure, cluster::ClusterArgs, export::named_vm, output::Output, waiting::show};

/// List VMs, look at them, start, stop, pause, clone and delete them
#[derive(Args, Debug)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    List(ListArgs),
    Get(GetArgs),
    Status(StatusArgs),
    Metrics(MetricsArgs),
    Screenshot(ScreenshotArgs),
    Console(ConsoleArgs),
    Start(StartArgs),
    Stop(StopArgs),
    Restart(RestartArgs),
    Pause(PauseArgs),
    Unpause(UnpauseArgs),
    Migrate(MigrateArgs),
    Clone(CloneArgs),
    Delete(DeleteArgs),
}

impl VmArgs {
    /// Whether it lists rows.
    pub(super) fn has_rows(&self) -> bool {
        matches!(self.command, VmCommand::List(_))
    }
}

pub(super) async fn run(args: &VmArgs, output: &Output) -> Result<(), Failure> {
    match &args.command {
        VmCommand::List(args) => list::run(args, output).await,
        VmCommand::Get(args) => show::get(args, output).await,
        VmCommand::Status(args) => show::status(args, output).await,
        VmCommand::Metrics(args) => metrics::run(args, output).await,
        VmCommand::Screenshot(args) => screenshot::run(args, output).await,
        VmCommand::Console(args) => console::run(args, output).await,
        VmCommand::Start(args) => act::start(args, output).await,
        VmCommand::Stop(args) => act::stop(args, output).await,
        VmCommand::Restart(args) => act::restart(args, output).await,
        VmCommand::Pause(args) => act::pause(args, output).await,
        VmCommand::Unpause(args) => act::unpause(args, output).await,
        VmCommand::Migrate(args) => migrate::run(args, output).await,
        VmCommand::Clone(args) => clone::run(args, output).await,
        VmCommand::Delete(args) => delete::run(args, output).await,
    }
}

/// A VM, and where it is.
#[derive(Args, Debug)]
pub(super) struct OneVm {
    /// The VM
    #[arg(value_name = "[NAMESPACE/]VM")]
    vm: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl OneVm {
    /// The VMs of its namespace, and its name among them.
    async fn connect(&self, output: &Output) -> Result<(Vms, String), Error> {
        self.connect_to(|cluster| Vms::new(cluster).on_event(show(output))).await
    }

    /// What `open` makes of its cluster, and its name there.
    pub(super) async fn connect_to<T>(&self, open: impl FnOnce(Cluster) -> T) -> Result<(T, String), Error> {
        let (namespace, name) = named_vm(&self.vm)?;
        let cluster = self.cluster.connect_briefly(namespace.as_deref()).await?;
        Ok((open(cluster), name))
    }
}
