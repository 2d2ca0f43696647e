//! `vmferry vm metrics`.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;
use vmferry::kubevirt::VmMetrics;

use super::OneVm;
use crate::cli::{
    Failure,
    output::{Output, Report, field},
    signals::{self, Stop},
    table::unknown,
    units::{Bytes, parse_duration, percent},
};

/// Show what a VM uses: CPU, memory, disks, networks, and what its guest agent tells
#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Show it again and again
    #[arg(short, long)]
    watch: bool,

    /// Between two looks
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration, requires = "watch")]
    interval: Duration,
}

pub(super) async fn run(args: &MetricsArgs, output: &Output) -> Result<(), Failure> {
    let (vms, name) = args.vm.connect(output).await?;
    let (watch, interval, printer) = (args.watch, args.interval, output.clone());
    let work = async move {
        loop {
            printer.report(&Shown(vms.metrics(&name).await?))?;
            if !watch {
                return Ok(());
            }
            sleep(interval).await;
        }
    };
    signals::supervise(work, Stop::AtOnce, output).await
}

/// The result of `vm metrics`.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(VmMetrics);

impl Report for Shown {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let vm = &self.0;
        let size = |bytes: Option<u64>| bytes.map_or_else(unknown, |bytes| Bytes(bytes).to_string());
        let node = vm.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
        field(out, "VM", format_args!("{}, {}{node}, {}", vm.vm, vm.state, vm.timestamp))?;
        let cpus = vm.cpu.cpus.map_or_else(unknown, |cpus| cpus.to_string());
        let used = vm
            .cpu
            .usage_millis
            .map_or_else(unknown, |millis| format!("{}.{:03}", millis / 1000, millis % 1000));
        field(out, "CPU", format_args!("{used} of {cpus}"))?;
        let (used, all) = (size(vm.memory.usage_bytes), size(vm.memory.guest_bytes));
        field(out, "Memory", format_args!("{used} of {all}"))?;
        for disk in &vm.disks {
            let phase = if disk.phase.is_empty() { String::new() } else { format!(", {}", disk.phase) };
            field(
                out,
                "Disk",
                format_args!("{} ({}): {}{phase}", disk.name, disk.target, size(disk.size_bytes)),
            )?;
        }
        for system in &vm.filesystems {
            let (used, all) = (Bytes(system.used_bytes), Bytes(system.total_bytes));
            let share = percent(system.used_bytes, system.total_bytes);
            let what = format!("{} ({}, {})", system.mount_point, system.disk, system.kind);
            field(out, "File system", format_args!("{what}: {used} of {all}, {share}%"))?;
        }
        for nic in &vm.networks {
            let link =
                if nic.link_state.is_empty() { String::new() } else { format!(", {}", nic.link_state) };
            field(out, "Network", format_args!("{}: {}, {}{link}", nic.name, nic.mac, nic.ips.join(" ")))?;
        }
        let Some(guest) = &vm.guest else { return field(out, "Guest", "no agent") };
        field(out, "Guest", format_args!("{}, {}, kernel {}", guest.hostname, guest.os, guest.kernel))?;
        if !guest.users.is_empty() {
            field(out, "Users", guest.users.join(", "))?;
        }
        Ok(())
    }
}
