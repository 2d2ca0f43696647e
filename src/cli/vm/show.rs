//! `vmferry vm get` and `vmferry vm status`.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::{VmChange, VmInfo, VmState};

use super::OneVm;
use crate::cli::{
    Failure,
    output::{Output, Report, field},
    signals::{self, Stop},
    table::{age, unknown},
    units::Bytes,
};

/// Show a VM: CPUs, memory, disks, networks, guest
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Show it again whenever it changes
    #[arg(short, long)]
    watch: bool,
}

/// Show what a VM does and what it waits for
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Show it again whenever it changes
    #[arg(short, long)]
    watch: bool,
}

pub(super) async fn get(args: &GetArgs, output: &Output) -> Result<(), Failure> {
    let (vms, name) = args.vm.connect(output).await?;
    let (watch, printer) = (args.watch, output.clone());
    let work = async move {
        let mut last = Shown(vms.get(&name).await?);
        printer.report(&last)?;
        if !watch {
            return Ok(());
        }
        let mut changes = vms.watch_one(&name);
        loop {
            match changes.next().await? {
                // What was shown already.
                VmChange::Is(vm) if *vm == last.0 => {}
                VmChange::Is(vm) => {
                    last = Shown(*vm);
                    printer.report(&last)?;
                }
                VmChange::Gone { namespace, name } => {
                    printer.note(&format!("VM {namespace}/{name} was deleted"));
                    return Ok(());
                }
            }
        }
    };
    signals::supervise(work, Stop::AtOnce, output).await
}

pub(super) async fn status(args: &StatusArgs, output: &Output) -> Result<(), Failure> {
    let (vms, name) = args.vm.connect(output).await?;
    let (watch, printer) = (args.watch, output.clone());
    let work = async move {
        let mut last = vms.status(&name).await?;
        printer.report(&Told(&last))?;
        if !watch {
            return Ok(());
        }
        let mut changes = vms.watch_one(&name);
        loop {
            if let VmChange::Gone { namespace, name } = changes.next().await? {
                printer.note(&format!("VM {namespace}/{name} was deleted"));
                return Ok(());
            }
            let now = vms.status(&name).await?;
            if now != last {
                printer.report(&Told(&now))?;
                last = now;
            }
        }
    };
    signals::supervise(work, Stop::AtOnce, output).await
}

/// The result of `vm get`.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(VmInfo);

impl Report for Shown {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let vm = &self.0;
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| Bytes(bytes).to_string());
        field(out, "VM", &vm.path)?;
        field(out, "State", format_args!("{} (run strategy {})", vm.state, vm.run_strategy))?;
        field(out, "CPUs", vm.num_cpus.map_or_else(unknown, |cpus| cpus.to_string()))?;
        field(out, "Memory", size(vm.memory_mb.and_then(|mib| mib.checked_mul(1 << 20))))?;
        field(out, "Storage", size(vm.storage_bytes))?;
        let agent = if vm.guest_agent { "connected" } else { "not connected" };
        field(out, "Guest", format_args!("{}, agent {agent}", or_unknown(&vm.guest_os)))?;
        field(out, "Node", or_unknown(&vm.node))?;
        if !vm.ip_addresses.is_empty() {
            field(out, "Addresses", vm.ip_addresses.join(", "))?;
        }
        let created = format!("{} ({} ago)", or_unknown(&vm.created_at), age(vm.created_at.as_deref()));
        field(out, "Created", created)?;
        if !vm.tags.is_empty() {
            let labels: Vec<String> = vm.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            field(out, "Labels", labels.join(", "))?;
        }
        for disk in &vm.disks {
            let claim = disk
                .pvc
                .as_ref()
                .map_or_else(String::new, |claim| format!(" {claim}, {}", size(disk.size_bytes)));
            let class = disk.storage_class.as_ref().map_or_else(String::new, |class| format!(", {class}"));
            let left = if disk.exportable { "" } else { ", not exported" };
            field(out, "Disk", format_args!("{}: {}{claim}{class}{left}", disk.name, disk.kind))?;
        }
        for nic in &vm.networks {
            let mac = nic.mac.as_ref().map_or_else(String::new, |mac| format!(", {mac}"));
            let what = format!("{}: {} on {}, {}{mac}", nic.name, nic.kind, nic.network, nic.model);
            field(out, "Network", format_args!("{what}{}", ips(&nic.ips)))?;
        }
        field(out, "Snapshots", if vm.snapshottable { "possible" } else { "not of every volume" })?;
        field(out, "Migration", if vm.live_migratable { "possible" } else { "not possible now" })
    }
}

fn ips(ips: &[String]) -> String {
    if ips.is_empty() { String::new() } else { format!(", {}", ips.join(" ")) }
}

/// The result of `vm status`.
#[derive(Serialize)]
#[serde(transparent)]
struct Told<'a>(&'a VmState);

impl Report for Told<'_> {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let vm = self.0;
        let ready = if vm.ready { "ready" } else { "not ready" };
        field(out, "VM", &vm.vm)?;
        field(out, "State", format_args!("{}, {ready} (run strategy {})", vm.state, vm.run_strategy))?;
        if let Some(reason) = &vm.reason {
            field(out, "Reason", reason)?;
        }
        if let Some(phase) = &vm.phase {
            let node = vm.node.as_ref().map_or_else(String::new, |node| format!(" on node {node}"));
            let agent = if vm.guest_agent { "guest agent connected" } else { "no guest agent" };
            field(out, "Instance", format_args!("{phase}{node}, {agent}"))?;
        }
        for (name, value) in [("Snapshot", &vm.snapshot_in_progress), ("Restore", &vm.restore_in_progress)] {
            if let Some(value) = value {
                field(out, name, format_args!("{value} is going on"))?;
            }
        }
        if !vm.requests.is_empty() {
            field(out, "Asked for", vm.requests.join(", "))?;
        }
        if vm.restart_required {
            field(out, "Restart", "required for changes of its description to count")?;
        }
        for condition in vm.conditions.iter().filter(|condition| !condition.kind.is_empty()) {
            let why = [&condition.reason, &condition.message].map(String::as_str);
            let why: Vec<&str> = why.into_iter().filter(|text| !text.is_empty()).collect();
            let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(": ")) };
            field(out, "Condition", format_args!("{} {}{why}", condition.kind, condition.status))?;
        }
        Ok(())
    }
}
