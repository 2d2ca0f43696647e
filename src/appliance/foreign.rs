//! A descriptor of any making as [`Hardware`], to be described anew with other files.

use std::collections::{BTreeSet, HashSet};

use vmferry_formats::ovf::{self, Envelope, Item, bytes_per_unit, resource};

use super::{
    Warning,
    annotation::{DESCRIPTOR, Kept},
    hardware::{
        Architecture, Attachment, Cpu, Disk, DiskBus, DiskKind, Firmware, GuestOs, Hardware, Nic, NicModel,
        OsFamily,
    },
    os::OLDEST,
};
use crate::error::{Error, Result};

/// The hardware that a descriptor describes, and what of it is not carried over.
///
/// # Errors
/// It states no memory, or quantities that cannot be.
pub fn of_ovf(envelope: &Envelope) -> Result<(Hardware, Vec<Warning>)> {
    let system = &envelope.system;
    let mut reader = Reader { envelope, hardware: Hardware::default(), warnings: Vec::new(), memory: None };
    let name = system.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&system.id);
    let kept = Kept::of(system.annotation.as_deref().unwrap_or_default());
    reader.hardware = Hardware {
        name: name.to_owned(),
        origin: Some(format!("{DESCRIPTOR}{name:?}")),
        description: kept.description,
        uuid: kept.uuid,
        serial: kept.serial,
        machine: kept.machine,
        product: system.products.first().and_then(|product| product.product.clone()),
        vendor: system.products.first().and_then(|product| product.vendor.clone()),
        architecture: Architecture::X86_64,
        os: system.os.as_ref().map(|os| os_of(os, oldest_hardware(envelope))),
        ..Hardware::default()
    };
    for item in in_order(&system.hardware.items) {
        reader.item(item)?;
    }
    reader.settings();
    reader.unattached_disks();
    reader.files();
    for what in &envelope.unknown {
        reader.warn(what, "this part of the descriptor is not carried over", "look up what it does");
    }
    reader.products();
    if let Some(transport) = &system.hardware.transport {
        reader.warn(
            "VirtualHardwareSection",
            format!("the way by which the guest is told its properties ({transport}) is not carried over"),
            "set up in the guest what it took from there",
        );
    }
    reader.hardware.memory =
        reader.memory.ok_or_else(|| Error::usage("the descriptor does not say how much memory there is"))?;
    Ok((reader.hardware, reader.warnings))
}

/// The items, disks in the order of their places, as a guest counts them, and CD drives behind them.
fn in_order(items: &[Item]) -> Vec<&Item> {
    let number =
        |address: &Option<String>| address.as_deref().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    let mut sorted: Vec<&Item> = items.iter().collect();
    sorted.sort_by_cached_key(|item| {
        let rank = match item.resource_type {
            resource::DISK => 1,
            resource::CD | resource::DVD => 2,
            _ => return (0, 0, 0, 0, 0),
        };
        let at = item.parent.as_deref().and_then(|id| items.iter().position(|other| other.instance_id == id));
        let Some(at) = at else { return (rank, usize::MAX, 0, 0, number(&item.address_on_parent)) };
        let kind = items[at].resource_type;
        let kind = items.iter().position(|other| other.resource_type == kind).unwrap_or_default();
        (rank, kind, number(&items[at].address), at, number(&item.address_on_parent))
    });
    sorted
}

struct Reader<'a> {
    envelope: &'a Envelope,
    hardware: Hardware,
    warnings: Vec<Warning>,
    memory: Option<u64>,
}

impl Reader<'_> {
    fn item(&mut self, item: &Item) -> Result<()> {
        let field = format!("Item[{}]", item.instance_id);
        if item.bound.is_some() || item.configuration.is_some() {
            self.warn(
                &field,
                "a bound or a deployment option is not carried over",
                "nothing to do, if the defaults do",
            );
            return Ok(());
        }
        if item.limit.is_some() || item.reservation.is_some_and(|reserved| reserved > 0) {
            self.warn(
                &field,
                "a limit or a reservation is not carried over",
                "set it after the import, if it matters",
            );
        }
        match item.resource_type {
            resource::CPU => self.cpu(item)?,
            resource::MEMORY => {
                let unit = item.allocation_units.as_deref().map_or(Some(1 << 20), bytes_per_unit);
                let bytes =
                    unit.and_then(|unit| item.virtual_quantity?.checked_mul(unit)).filter(|bytes| *bytes > 0);
                self.memory =
                    Some(bytes.ok_or_else(|| Error::usage("the descriptor's memory is no number of bytes"))?);
            }
            // Made anew for the target.
            resource::IDE | resource::SCSI | resource::STORAGE => {}
            resource::DISK => self.disk(item, field),
            resource::CD | resource::DVD => {
                self.medium(item, &field);
                let bus = self.bus(item);
                self.hardware.disks.push(Disk {
                    name: format!("cd{}", item.instance_id),
                    kind: DiskKind::Cdrom,
                    bus,
                    boot_order: None,
                    serial: None,
                    claim: None,
                    capacity: None,
                    field,
                });
            }
            resource::ETHERNET => self.nic(item, field),
            resource::OTHER if item.resource_sub_type.as_deref() == Some("vmware.vtpm") => {
                self.hardware.has_tpm = true;
            }
            _ if item.resource_sub_type.as_deref().is_some_and(|kind| kind.contains("soundcard")) => {
                self.hardware.has_sound = true;
            }
            // Every target has its own.
            resource::GRAPHICS => {}
            resource::FLOPPY if item.file_id().is_some() || item.disk_id().is_some() => {
                self.medium(item, &field);
            }
            other => self.warn(
                &field,
                format!("a device of type {other} ({}) is not carried over", item.element_name),
                "add it after the import, if the guest needs it",
            ),
        }
        Ok(())
    }

    fn cpu(&mut self, item: &Item) -> Result<()> {
        let count =
            item.virtual_quantity.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
        let count =
            count.ok_or_else(|| Error::usage("the descriptor does not say how many CPUs there are"))?;
        let cores = item.cores_per_socket.filter(|cores| *cores > 0 && count % cores == 0).unwrap_or(1);
        self.hardware.cpu = Cpu { sockets: count / cores, cores, ..Cpu::default() };
        Ok(())
    }

    fn disk(&mut self, item: &Item, field: String) {
        let disk = item.disk_id().and_then(|id| self.envelope.disk(id));
        let Some(disk) = disk else {
            self.warn(&field, "the item is for a disk that the descriptor does not have", "nothing to do");
            return;
        };
        let bus = self.bus(item);
        self.hardware.disks.push(Disk {
            name: disk.id.clone(),
            kind: DiskKind::Disk,
            bus,
            boot_order: None,
            serial: None,
            claim: None,
            capacity: Some(disk.capacity),
            field,
        });
    }

    /// Tells what lies in a drive: it is not among the disks.
    fn medium(&mut self, item: &Item, field: &str) {
        let name = match (item.file_id(), item.disk_id()) {
            (Some(id), _) => self.envelope.file(id).map_or(id, |file| file.href.as_str()),
            (None, Some(id)) => id,
            (None, None) => return,
        };
        let message =
            format!("{name:?}, which lies in the drive ({}), is not carried over", item.element_name);
        self.warn(field, message, "insert it after the import, if the guest needs it");
    }

    /// Tells the disks that no item attaches: the guest did not see them.
    fn unattached_disks(&mut self) {
        let envelope = self.envelope;
        let attached: HashSet<&str> =
            envelope.system.hardware.items.iter().filter_map(Item::disk_id).collect();
        for disk in envelope.disks.iter().filter(|disk| !attached.contains(disk.id.as_str())) {
            self.warn(
                &format!("Disk[{}]", disk.id),
                "the disk, which no item attaches, is not carried over",
                "nothing to do, unless it is wanted: add it after the import",
            );
        }
    }

    /// Tells what of the products is not carried over.
    fn products(&mut self) {
        let products = &self.envelope.system.products;
        if products.len() > 1 {
            self.warn("ProductSection", "only the first product is carried over", "nothing to do");
        }
        let is_more = |product: &ovf::Product| {
            [&product.version, &product.full_version, &product.product_url, &product.vendor_url]
                .iter()
                .any(|text| text.is_some())
        };
        if products.first().is_some_and(is_more) {
            self.warn(
                "ProductSection",
                "of the product only its name and vendor are carried over, no version and no address",
                "nothing to do",
            );
        }
    }

    /// Tells the files that nothing refers to.
    fn files(&mut self) {
        let envelope = self.envelope;
        let of_disks = envelope.disks.iter().filter_map(|disk| disk.file_ref.as_deref());
        let of_items = envelope.system.hardware.items.iter().filter_map(Item::file_id);
        let known: Vec<&str> = of_disks.chain(of_items).collect();
        for file in envelope.files.iter().filter(|file| !known.contains(&file.id.as_str())) {
            self.warn(
                &format!("File[{}]", file.id),
                format!("the file {:?}, to which nothing refers, is not carried over", file.href),
                "look up what it is for",
            );
        }
    }

    /// The bus of an item's controller.
    fn bus(&self, item: &Item) -> DiskBus {
        let items = &self.envelope.system.hardware.items;
        let parent = item.parent.as_deref().and_then(|id| items.iter().find(|other| other.instance_id == id));
        match parent {
            Some(parent) if parent.resource_type == resource::IDE => DiskBus::Ide,
            Some(parent) if parent.resource_type == resource::STORAGE => {
                let is_nvme = parent.resource_sub_type.as_deref().is_some_and(|kind| kind.contains("nvme"));
                if is_nvme { DiskBus::Nvme } else { DiskBus::Sata }
            }
            _ => DiskBus::Scsi,
        }
    }

    fn nic(&mut self, item: &Item, field: String) {
        let network = item.connections.first().cloned().unwrap_or_default();
        if item.connections.len() > 1 {
            self.warn(
                &field,
                format!("of the networks that the card could be in, only {network:?} is carried over"),
                "choose its network when the appliance is imported",
            );
        }
        let model = match item.resource_sub_type.as_deref().unwrap_or_default().to_ascii_lowercase().as_str()
        {
            "e1000" => NicModel::E1000,
            "e1000e" => NicModel::E1000e,
            "vmxnet3" => NicModel::Vmxnet3,
            "pcnet32" => NicModel::Pcnet,
            "virtio" => NicModel::Virtio,
            other => NicModel::Other(other.to_owned()),
        };
        self.hardware.nics.push(Nic {
            name: network.clone(),
            model,
            mac: item.address.clone().filter(|address| address.contains([':', '-'])),
            attachment: Attachment::Network(network),
            boot_order: None,
            is_connected: item.automatic_allocation.unwrap_or(true),
            field,
        });
    }

    fn settings(&mut self) {
        let hardware = &self.envelope.system.hardware;
        let is = |key: &str, value: &str| {
            let all = hardware.config.iter().chain(&hardware.extra_config);
            all.into_iter().any(|setting| setting.key == key && setting.value.eq_ignore_ascii_case(value))
        };
        if is("firmware", "efi") {
            let secure_boot =
                is("bootOptions.efiSecureBootEnabled", "true") || is("uefi.secureBoot.enabled", "true");
            self.hardware.firmware = Firmware::Efi { secure_boot };
        }
        self.hardware.cpu.can_grow = is("cpuHotAddEnabled", "true");
        self.hardware.cpu.is_nesting = is("nestedHVEnabled", "true");
        self.hardware.memory_can_grow = is("memoryHotAddEnabled", "true");
        let of_items: Vec<&ovf::Setting> = hardware.items.iter().flat_map(|item| &item.config).collect();
        for (what, settings) in [
            ("vmw:Config", hardware.config.iter().collect()),
            ("vmw:ExtraConfig", hardware.extra_config.iter().collect()),
            ("Item/vmw:Config", of_items),
        ] {
            let keys = settings.into_iter().map(|setting| setting.key.as_str());
            let keys: BTreeSet<&str> = keys.filter(|key| !KNOWN_KEYS.contains(key)).collect();
            if !keys.is_empty() {
                let keys = keys.into_iter().collect::<Vec<_>>().join(", ");
                self.warn(
                    what,
                    format!("settings are not carried over: {keys}"),
                    "set them after the import, if they matter",
                );
            }
        }
    }

    fn warn(&mut self, field: &str, message: impl Into<String>, remedy: &str) {
        self.warnings.push(Warning::new(field, message, remedy));
    }
}

/// The smallest N of the descriptor's `vmx-N`, if it has one.
fn oldest_hardware(envelope: &Envelope) -> Option<u32> {
    let families = envelope.system.hardware.system.as_ref()?.system_type.as_deref()?;
    let numbers = families.split_whitespace().filter_map(|family| family.strip_prefix("vmx-")?.parse().ok());
    numbers.filter(|number| *number <= NEWEST).min()
}

/// The operating system: by VMware's name, else by the description, else by the CIM's number. `hardware` is the
/// N of the descriptor's `vmx-N`.
fn os_of(section: &ovf::OperatingSystem, hardware: Option<u32>) -> GuestOs {
    let named = section.vmw_os_type.as_deref();
    let texts = [named, section.description.as_deref()].into_iter().flatten();
    let mut hints: Vec<GuestOs> = texts.filter_map(GuestOs::from_hint).collect();
    if hints.iter().all(|os| os.family == OsFamily::Other) {
        hints.splice(0..0, GuestOs::from_cim_id(section.id));
    }
    // A name that VMware has for several versions says less than a description, if that one is cautious.
    let has_lsilogic = !hints.is_empty() && hints.iter().all(|os| os.has_lsilogic);
    let known = hints.into_iter().next().unwrap_or_else(GuestOs::unknown);
    // Which hardware came with a name that is not known here is only known to the descriptor.
    let is_new = named.is_some_and(|named| named != known.vmw_os_type);
    let hardware = hardware.filter(|_| is_new).unwrap_or(OLDEST);
    GuestOs {
        family: known.family,
        // VMware's tools write 'unknown' or 'other' where the CIM has no number for a system.
        cim_id: if section.id <= CIM_OTHER { known.cim_id } else { section.id },
        vmw_os_type: named.map_or(known.vmw_os_type, str::to_owned),
        hardware_version: known.hardware_version.max(hardware).max(OLDEST),
        description: section.description.clone().unwrap_or(known.description),
        has_lsilogic,
    }
}

/// `CIM_OperatingSystem.OSType`: 0 is 'unknown', 1 is 'other'.
const CIM_OTHER: u16 = 1;

/// Virtual hardware beyond which a number is taken for a mistake: vSphere 8 has 21.
const NEWEST: u32 = 99;

/// Settings that are carried over, and those that say what is so anyway.
const KNOWN_KEYS: [&str; 12] = [
    "bootOptions.efiSecureBootEnabled",
    "cpuHotAddEnabled",
    "cpuHotRemoveEnabled",
    "firmware",
    "memoryHotAddEnabled",
    "nestedHVEnabled",
    "powerOpInfo.powerOffType",
    "powerOpInfo.resetType",
    "powerOpInfo.suspendType",
    "tools.syncTimeWithHost",
    "tools.toolsUpgradePolicy",
    "uefi.secureBoot.enabled",
];

#[cfg(test)]
mod tests;
