//! `vmferry vm list`.

use clap::Args;
use vmferry::kubevirt::{VmChange, VmDetail, VmInfo, VmQuery, Vms};

use crate::cli::{
    Failure,
    args::OutputFormat,
    cluster::ClusterArgs,
    output::Output,
    signals::{self, Stop},
    table::{Cells, Column, Table, age, unknown},
    units::Bytes,
    waiting::show,
};

const AFTER_HELP: &str = "\
Examples:
  vmferry vm list -A
  vmferry vm list -n demo -l app=db --state running -o wide
  vmferry vm list -A --name 'web-*' -o name
  vmferry vm list -w";

/// List VMs
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, visible_alias = "ls")]
pub(crate) struct ListArgs {
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Only those with these labels: app=db,tier!=test
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,

    /// Only those in this state: running, stopped, paused, errorunschedulable, …
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Only those whose name fits: * is anything, ? one character
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,

    /// Go on, with a row for each change
    #[arg(short, long)]
    watch: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(in crate::cli) async fn run(args: &ListArgs, output: &Output) -> Result<(), Failure> {
    let cluster = args.cluster.connect_briefly(None).await?;
    let query = VmQuery {
        everywhere: args.all_namespaces,
        selector: args.selector.clone(),
        name: args.name.clone(),
        state: args.state.clone(),
        detail: match output.format() {
            OutputFormat::Name => VmDetail::Description,
            OutputFormat::Text => VmDetail::Summary,
            OutputFormat::Json | OutputFormat::Wide | OutputFormat::Yaml => VmDetail::Full,
        },
    };
    let vms = Vms::new(cluster).on_event(show(output));
    let (watch, output) = (args.watch, output.clone());
    let work = {
        let output = output.clone();
        async move {
            let mut table = if watch { Table::endless(&output) } else { Table::new(&output) };
            match print(&vms, &query, watch, &mut table).await {
                // `vmferry vm list | head` has seen what it wanted.
                Err(_) if table.closed() => Ok(()),
                result => result,
            }
        }
    };
    signals::supervise(work, Stop::AtOnce, &output).await
}

async fn print(vms: &Vms, query: &VmQuery, watch: bool, table: &mut Table<VmInfo>) -> vmferry::Result<()> {
    let mut pages = vms.list(query);
    while let Some(page) = pages.next().await? {
        if !page.is_empty() {
            table.page(&page)?;
        }
    }
    if !watch {
        return table.finish();
    }
    table.page(&[])?;
    let mut changes = vms.watch(query, pages.version());
    loop {
        let row = match changes.next().await? {
            VmChange::Is(vm) => *vm,
            VmChange::Gone { namespace, name } => VmInfo {
                path: format!("{namespace}/{name}"),
                state: "deleted".to_owned(),
                location: namespace.clone(),
                namespace,
                name,
                ..VmInfo::default()
            },
        };
        table.page(&[row])?;
    }
}

impl Cells for VmInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::text("NAME"),
        Column::text("STATE"),
        Column::number("CPUS"),
        Column::number("MEMORY"),
        Column::number("STORAGE").wide(),
        Column::text("NODE"),
        Column::text("ADDRESS"),
        Column::text("STRATEGY").wide(),
        Column::text("AGENT").wide(),
        Column::text("GUEST").wide(),
        Column::number("AGE"),
    ];

    fn cells(&self) -> Vec<String> {
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| Bytes(bytes).to_string());
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.state.clone(),
            self.num_cpus.map_or_else(unknown, |cpus| cpus.to_string()),
            size(self.memory_mb.and_then(|mib| mib.checked_mul(1 << 20))),
            size(self.storage_bytes),
            self.node.clone().unwrap_or_else(unknown),
            self.ip_addresses.first().cloned().unwrap_or_else(unknown),
            self.run_strategy.clone(),
            if self.guest_agent { "yes" } else { "no" }.to_owned(),
            self.guest_os.clone().unwrap_or_else(unknown),
            age(self.created_at.as_deref()),
        ]
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}
