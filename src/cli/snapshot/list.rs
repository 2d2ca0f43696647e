//! `vmferry snapshot list` and `get`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::SnapshotInfo;

use super::{OneSnapshot, connect};
use crate::cli::{
    Failure,
    cluster::ClusterArgs,
    output::{Output, Report, field},
    rows::{self, Changing, WatchArgs},
    signals::{self, Stop},
    table::{Cells, Column, Table, age, unknown},
    units::Bytes,
    waiting::show,
};

/// List snapshots
#[derive(Args, Debug)]
#[command(visible_alias = "ls")]
pub(crate) struct ListArgs {
    /// Only those of this VM
    #[arg(value_name = "[NAMESPACE/]VM")]
    vm: Option<String>,

    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Only those with these labels: app=db,tier!=test
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,

    #[command(flatten)]
    watch: WatchArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Show a snapshot: whether it can be used, what is in it, what it is worth
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    snapshot: OneSnapshot,
}

pub(super) async fn run(args: &ListArgs, output: &Output) -> Result<(), Failure> {
    let (snapshots, vm) = match &args.vm {
        Some(vm) => connect(vm, &args.cluster, output).await.map(|(snapshots, vm)| (snapshots, Some(vm)))?,
        None => {
            let cluster = args.cluster.connect_briefly(None).await?;
            (vmferry::kubevirt::Snapshots::new(cluster).on_event(show(output)), None)
        }
    };
    let (everywhere, selector) = (args.all_namespaces, args.selector.clone());
    if args.watch.watch {
        let list = move || {
            let (snapshots, selector, vm) = (snapshots.clone(), selector.clone(), vm.clone());
            async move {
                let mut pages = snapshots.list(everywhere, &selector, vm.as_deref()).await?;
                let mut all = Vec::new();
                while let Some(page) = pages.next().await? {
                    all.extend(page);
                }
                Ok(all)
            }
        };
        return rows::follow(list, output).await;
    }
    let mut table = Table::new(output);
    let work = async move {
        let mut print = async || {
            let mut pages = snapshots.list(everywhere, &selector, vm.as_deref()).await?;
            while let Some(page) = pages.next().await? {
                if !page.is_empty() {
                    table.page(&page)?;
                }
            }
            table.finish()
        };
        match print().await {
            // `vmferry snapshot list | head` has seen what it wanted.
            Err(_) if table.closed() => Ok(()),
            result => result,
        }
    };
    signals::supervise(work, Stop::AtOnce, output).await
}

pub(super) async fn get(args: &GetArgs, output: &Output) -> Result<(), Failure> {
    let (snapshots, name) = args.snapshot.connect(output).await?;
    let found = signals::supervise(async move { snapshots.get(&name).await }, Stop::AtOnce, output).await?;
    Ok(output.report(&Shown(found))?)
}

impl Changing for SnapshotInfo {
    fn gone(self) -> Self {
        Self { phase: "deleted".to_owned(), ready_to_use: false, ..self }
    }
}

impl Cells for SnapshotInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::text("NAME"),
        Column::text("VM"),
        Column::text("PHASE"),
        Column::text("READY"),
        Column::text("CONSISTENCY"),
        Column::text("VOLUMES").wide(),
        Column::text("EXCLUDED").wide(),
        Column::text("ERROR").wide(),
        Column::number("AGE"),
    ];

    fn cells(&self) -> Vec<String> {
        let list = |names: &[String]| if names.is_empty() { unknown() } else { names.join(",") };
        let text = |text: &str| if text.is_empty() { unknown() } else { text.to_owned() };
        vec![
            self.namespace.clone(),
            self.name.clone(),
            self.vm_name.clone(),
            text(&self.phase),
            if self.ready_to_use { "yes" } else { "no" }.to_owned(),
            self.consistency.to_owned(),
            list(&self.volumes.included),
            list(&self.volumes.excluded),
            text(&self.error),
            age(self.created_at.as_deref()),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The result of `snapshot get`.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(SnapshotInfo);

impl Report for Shown {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let found = &self.0;
        let list = |names: &[String]| if names.is_empty() { unknown() } else { names.join(", ") };
        field(out, "Snapshot", format_args!("{}/{}", found.namespace, found.name))?;
        field(out, "VM", &found.vm_name)?;
        let phase = if found.phase.is_empty() { "not begun" } else { &found.phase };
        let ready = if found.ready_to_use { "ready to use" } else { "not ready" };
        field(out, "Phase", format_args!("{phase}, {ready}"))?;
        if !found.error.is_empty() {
            field(out, "Error", &found.error)?;
        }
        let how = if found.indications.is_empty() {
            String::new()
        } else {
            format!(" ({})", found.indications.join(", "))
        };
        field(out, "Consistency", format_args!("{}{how}", found.consistency))?;
        field(out, "Volumes", list(&found.volumes.included))?;
        if !found.volumes.excluded.is_empty() {
            field(out, "Excluded", list(&found.volumes.excluded))?;
        }
        if let Some(size) = found.size_bytes {
            field(out, "Size", Bytes(size))?;
        }
        let created = found.created_at.clone().unwrap_or_else(unknown);
        field(out, "Taken", format_args!("{created} ({} ago)", age(found.created_at.as_deref())))
    }
}
