//! `vmferry instancetype list` and `vmferry preference list`.

use clap::{Args, Subcommand};
use vmferry::kubevirt::{Catalog, InstancetypeInfo, PreferenceInfo};

use super::{
    Failure,
    cluster::ClusterArgs,
    output::Output,
    rows,
    table::{Cells, Column, unknown},
    units::Bytes,
};

/// Instancetypes or preferences.
#[derive(Args, Debug)]
pub(crate) struct CatalogArgs {
    #[command(subcommand)]
    command: CatalogCommand,
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    List(ListArgs),
}

/// List those for all and those of the namespace
#[derive(Args, Debug)]
#[command(visible_alias = "ls")]
struct ListArgs {
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn instancetypes(args: &CatalogArgs, output: &Output) -> Result<(), Failure> {
    let CatalogCommand::List(args) = &args.command;
    let (cluster, everywhere) = (args.cluster.connect_briefly(None).await?, args.all_namespaces);
    let work = async move { Catalog::new(cluster).instancetypes(everywhere).await };
    rows::print(work, output).await
}

pub(super) async fn preferences(args: &CatalogArgs, output: &Output) -> Result<(), Failure> {
    let CatalogCommand::List(args) = &args.command;
    let (cluster, everywhere) = (args.cluster.connect_briefly(None).await?, args.all_namespaces);
    let work = async move { Catalog::new(cluster).preferences(everywhere).await };
    rows::print(work, output).await
}

/// Where something is: a namespace, or everywhere.
fn place(namespace: Option<&String>) -> String {
    namespace.cloned().unwrap_or_else(|| "(all)".to_owned())
}

impl Cells for InstancetypeInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::text("NAME"),
        Column::number("CPUS"),
        Column::number("MEMORY"),
        Column::text("DEDICATED").wide(),
        Column::number("GPUS").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            place(self.namespace.as_ref()),
            self.name.clone(),
            self.cpus.map_or_else(unknown, |cpus| cpus.to_string()),
            self.memory_bytes.map_or_else(unknown, |bytes| Bytes(bytes).to_string()),
            if self.dedicated_cpus { "yes" } else { "no" }.to_owned(),
            self.gpus.to_string(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Cells for PreferenceInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::text("NAME"),
        Column::text("OS"),
        Column::text("FIRMWARE"),
        Column::text("DISKS").wide(),
        Column::text("NETWORK").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
        vec![
            place(self.namespace.as_ref()),
            self.name.clone(),
            text(&self.os),
            text(&self.firmware),
            text(&self.disk_bus),
            text(&self.interface_model),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
