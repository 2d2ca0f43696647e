//! The disks of a KubeVirt VM, joined with its volumes by name.

use serde_json::Value;

use super::{
    hardware::{Architecture, Disk, DiskBus, DiskKind},
    vm::{Reader, count_of},
};

/// The disks that an appliance can have: those on claims, and CD drives without a volume. What becomes of
/// the others is told by the rules of their volumes.
pub(super) fn disks(reader: &mut Reader<'_>, architecture: &Architecture) -> Vec<Disk> {
    let usual = if *architecture == Architecture::X86_64 { DiskBus::Sata } else { DiskBus::Virtio };
    let volumes = reader.list("/volumes");
    let entries = reader.list("/domain/devices/disks");
    let mut disks = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("domain.devices.disks[{index}]");
        let name = name_of(entry).unwrap_or_default();
        let volume = volumes.iter().find(|volume| name_of(volume) == Some(name));
        let claim = volume.and_then(claim_of);
        let kind = kind_of(entry);
        match (kind, volume, &claim) {
            (_, Some(_), Some(_)) | (DiskKind::Cdrom, None, _) => {}
            // Told by the volume's rule.
            (_, Some(_), None) => continue,
            (_, None, _) => {
                reader.warn(
                    &field,
                    "the disk has no volume, so it is not in the appliance",
                    "nothing to do, if it was empty",
                );
                continue;
            }
        }
        if kind == DiskKind::Lun {
            reader.warn(
                &format!("{field}.lun"),
                "a SCSI device that is passed through becomes a disk that holds what it held",
                "attach the device itself where the appliance runs, if that is wanted",
            );
        }
        let serial = entry.get("serial").and_then(Value::as_str).filter(|serial| !serial.is_empty());
        if let Some(serial) = serial {
            reader.warn(
                &format!("{field}.serial"),
                format!("the disk does not have the serial number {serial:?}"),
                "check what in the guest names the disk by it (/dev/disk/by-id)",
            );
        }
        disks.push(Disk {
            name: name.to_owned(),
            kind,
            bus: bus_of(reader, entry, &field, usual),
            boot_order: entry.get("bootOrder").and_then(count_of),
            serial: serial.map(str::to_owned),
            claim,
            capacity: None,
            field: format!("spec.template.spec.{field}"),
        });
    }
    // KubeVirt gives a volume without a disk an ordinary one.
    let shared: Vec<_> = reader.list("/domain/devices/filesystems").iter().filter_map(name_of).collect();
    for (index, volume) in volumes.iter().enumerate() {
        let Some(name) = name_of(volume) else { continue };
        if entries.iter().any(|entry| name_of(entry) == Some(name)) || shared.contains(&name) {
            continue;
        }
        let Some(claim) = claim_of(volume) else { continue };
        disks.push(Disk {
            name: name.to_owned(),
            kind: DiskKind::Disk,
            bus: usual,
            boot_order: None,
            serial: None,
            claim: Some(claim),
            capacity: None,
            field: format!("spec.template.spec.volumes[{index}]"),
        });
    }
    disks
}

fn name_of(value: &Value) -> Option<&str> {
    value.get("name").and_then(Value::as_str)
}

/// The claim of a volume that is exported.
fn claim_of(volume: &Value) -> Option<String> {
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    text("/dataVolume/name").or_else(|| text("/persistentVolumeClaim/claimName"))
}

fn kind_of(entry: &Value) -> DiskKind {
    let is = |kind: &str| entry.get(kind).is_some_and(|value| !value.is_null());
    if is("cdrom") {
        DiskKind::Cdrom
    } else if is("lun") {
        DiskKind::Lun
    } else {
        DiskKind::Disk
    }
}

fn bus_of(reader: &mut Reader<'_>, entry: &Value, field: &str, usual: DiskBus) -> DiskBus {
    let found = ["disk", "cdrom", "lun"].iter().find_map(|kind| {
        let bus = entry.get(kind)?.get("bus")?.as_str().filter(|bus| !bus.is_empty())?;
        Some((*kind, bus))
    });
    match found {
        None => usual,
        Some((_, "virtio")) => DiskBus::Virtio,
        Some((_, "sata")) => DiskBus::Sata,
        Some((_, "scsi")) => DiskBus::Scsi,
        Some((_, "usb")) => DiskBus::Usb,
        Some((kind, other)) => {
            reader.warn(
                &format!("{field}.{kind}.bus"),
                format!("the bus {other:?} is not known"),
                "check where the appliance is imported that the guest finds the disk",
            );
            usual
        }
    }
}
