//! What an OVA or OVF says of itself: hardware, disks, files.

use std::io::{self, Write};

use serde::Serialize;
use vmferry::{
    formats::ovf::{Envelope, Item, Number, bytes_per_unit, resource},
    source::{Appliance, ApplianceDisk, ApplianceFile, FileRole},
};

use crate::cli::{
    output::{Plain, Report, field},
    units::Bytes,
};

#[derive(Serialize)]
pub(super) struct ApplianceReport<'a> {
    name: &'a str,
    format: &'static str,
    system: SystemReport<'a>,
    cpus: Option<u64>,
    memory: Option<u64>,
    disks: Vec<DiskReport<'a>>,
    networks: Vec<&'a str>,
    items: Vec<ItemReport<'a>>,
    files: Vec<FileReport<'a>>,
    /// Elements of the descriptor that were not understood.
    unknown: &'a [String],
}

#[derive(Serialize)]
struct SystemReport<'a> {
    id: &'a str,
    name: Option<&'a str>,
    os: Option<&'a str>,
    os_id: Option<u16>,
    vmware_os: Option<&'a str>,
    family: Option<&'a str>,
    firmware: Option<&'a str>,
}

#[derive(Serialize)]
struct DiskReport<'a> {
    number: u32,
    id: &'a str,
    capacity: u64,
    populated: Option<u64>,
    file: Option<&'a str>,
    file_size: Option<u64>,
    format: Option<&'a str>,
    obstacle: Option<String>,
}

#[derive(Serialize)]
struct ItemReport<'a> {
    id: &'a str,
    kind: String,
    name: &'a str,
    model: Option<&'a str>,
    parent: Option<&'a str>,
    address: Option<&'a str>,
    address_on_parent: Option<&'a str>,
    quantity: Option<u64>,
    units: Option<&'a str>,
    resources: &'a [String],
    networks: &'a [String],
    optional: bool,
}

#[derive(Serialize)]
struct FileReport<'a> {
    name: &'a str,
    role: &'static str,
    size: Option<u64>,
    offset: Option<u64>,
}

impl<'a> ApplianceReport<'a> {
    pub(super) fn new(appliance: &'a Appliance) -> Self {
        let envelope = appliance.envelope();
        let hardware = &envelope.system.hardware;
        Self {
            name: appliance.name(),
            format: appliance.kind().name(),
            system: SystemReport::new(envelope),
            cpus: quantity(&hardware.items, resource::CPU, |_| Some(1)),
            memory: quantity(&hardware.items, resource::MEMORY, |item| {
                bytes_per_unit(item.allocation_units.as_deref().unwrap_or("byte * 2^20"))
            }),
            disks: appliance.disks().iter().map(|disk| DiskReport::new(disk, envelope)).collect(),
            networks: envelope.networks.iter().map(|network| network.name.as_str()).collect(),
            items: hardware.items.iter().map(ItemReport::from).collect(),
            files: appliance.files().iter().map(FileReport::from).collect(),
            unknown: &envelope.unknown,
        }
    }
}

/// The sum over the items of one kind that are values for all deployments.
fn quantity(items: &[Item], kind: u16, unit: impl Fn(&Item) -> Option<u64>) -> Option<u64> {
    let is_meant =
        |item: &&Item| item.resource_type == kind && item.bound.is_none() && item.configuration.is_none();
    let values = items.iter().filter(is_meant).map(|item| item.virtual_quantity?.checked_mul(unit(item)?));
    let sum = values.sum::<Option<u64>>();
    sum.filter(|&sum| sum > 0)
}

impl<'a> SystemReport<'a> {
    fn new(envelope: &'a Envelope) -> Self {
        let system = &envelope.system;
        let os = system.os.as_ref();
        let firmware = system.hardware.config.iter().find(|setting| setting.key == "firmware");
        Self {
            id: &system.id,
            name: system.name.as_deref(),
            os: os.and_then(|os| os.description.as_deref()),
            os_id: os.map(|os| os.id),
            vmware_os: os.and_then(|os| os.vmw_os_type.as_deref()),
            family: system.hardware.system.as_ref().and_then(|system| system.system_type.as_deref()),
            firmware: firmware.map(|setting| setting.value.as_str()),
        }
    }
}

impl<'a> DiskReport<'a> {
    fn new(disk: &'a ApplianceDisk, envelope: &'a Envelope) -> Self {
        let populated = match envelope.disk(&disk.id).and_then(|disk| disk.populated_size) {
            Some(Number::Known(size)) => Some(size),
            _ => None,
        };
        Self {
            number: disk.number,
            id: &disk.id,
            capacity: disk.capacity,
            populated,
            file: disk.file.as_deref(),
            file_size: disk.file_size,
            format: disk.format.as_deref(),
            obstacle: disk.obstacle.as_ref().map(ToString::to_string),
        }
    }
}

impl<'a> From<&'a Item> for ItemReport<'a> {
    fn from(item: &'a Item) -> Self {
        Self {
            id: &item.instance_id,
            kind: kind_name(item.resource_type),
            name: &item.element_name,
            model: item.resource_sub_type.as_deref(),
            parent: item.parent.as_deref(),
            address: item.address.as_deref(),
            address_on_parent: item.address_on_parent.as_deref(),
            quantity: item.virtual_quantity,
            units: item.allocation_units.as_deref(),
            resources: &item.host_resources,
            networks: &item.connections,
            optional: item.is_optional,
        }
    }
}

fn kind_name(kind: u16) -> String {
    let name = match kind {
        resource::OTHER => "other",
        resource::CPU => "cpu",
        resource::MEMORY => "memory",
        resource::IDE => "ide",
        resource::SCSI => "scsi",
        resource::ETHERNET => "nic",
        resource::FLOPPY => "floppy",
        resource::CD => "cd",
        resource::DVD => "dvd",
        resource::DISK => "disk",
        resource::STORAGE => "storage",
        resource::SERIAL => "serial",
        resource::PARALLEL => "parallel",
        resource::USB => "usb",
        resource::GRAPHICS => "graphics",
        kind => return format!("type-{kind}"),
    };
    name.to_owned()
}

impl<'a> From<&'a ApplianceFile> for FileReport<'a> {
    fn from(file: &'a ApplianceFile) -> Self {
        let role = match file.role {
            FileRole::Certificate => "certificate",
            FileRole::Descriptor => "descriptor",
            FileRole::Manifest => "manifest",
            FileRole::Other => "other",
            FileRole::Referenced => "file",
        };
        Self { name: &file.name, role, size: file.size, offset: file.offset }
    }
}

impl Report for ApplianceReport<'_> {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let system = &self.system;
        field(out, "Appliance", self.name)?;
        field(out, "Format", self.format)?;
        field(out, "System", system.name.unwrap_or(system.id))?;
        let os = [system.os, system.vmware_os].into_iter().flatten().collect::<Vec<_>>().join(", ");
        for (name, value) in [
            ("Guest OS", Some(os.as_str()).filter(|os| !os.is_empty())),
            ("Hardware", system.family),
            ("Firmware", system.firmware),
        ] {
            value.map_or(Ok(()), |value| field(out, name, value))?;
        }
        if let Some(cpus) = self.cpus {
            field(out, "CPUs", cpus)?;
        }
        if let Some(memory) = self.memory {
            field(out, "Memory", Bytes(memory))?;
        }
        if !self.networks.is_empty() {
            field(out, "Networks", self.networks.join(", "))?;
        }
        writeln!(out, "Disks:{}", if self.disks.is_empty() { "         none" } else { "" })?;
        for disk in &self.disks {
            let file = disk.file.unwrap_or("no file");
            let size = disk.file_size.map_or_else(String::new, |size| format!(", {} stored", Bytes(size)));
            let line = format!("{:>4}  {file}  ({}, {}{size})", disk.number, disk.id, Bytes(disk.capacity));
            writeln!(out, "{}", Plain(&line))?;
            if let Some(obstacle) = &disk.obstacle {
                writeln!(out, "      cannot be read: {}", Plain(obstacle))?;
            }
        }
        writeln!(out, "Devices:")?;
        for item in self.items.iter().filter(|item| !matches!(item.kind.as_str(), "cpu" | "memory")) {
            let mut line = format!("{:>4}  {:<9} {}", item.id, item.kind, item.name);
            if let Some(model) = item.model {
                line.push_str(&format!("  {model}"));
            }
            if let Some(parent) = item.parent {
                line.push_str(&format!("  at {parent}:{}", item.address_on_parent.unwrap_or("?")));
            }
            for resource in item.resources.iter().chain(item.networks) {
                line.push_str(&format!("  {resource}"));
            }
            writeln!(out, "{}", Plain(&line))?;
        }
        writeln!(out, "Files:")?;
        for file in &self.files {
            let size = file.size.map_or_else(|| "missing".to_owned(), |size| Bytes(size).to_string());
            writeln!(out, "{}", Plain(&format!("      {:<12} {}  ({size})", file.role, file.name)))?;
        }
        if !self.unknown.is_empty() {
            field(out, "Not understood", self.unknown.join(", "))?;
        }
        Ok(())
    }
}
