//! Disks, drives, network cards and the rest, as items.

use vmferry_formats::ovf::{Item, clean_text, resource};

use super::{Placed, Renderer, disk_id, file_id};
use crate::{
    appliance::{
        controllers::{Place, arrange},
        hardware::{Disk, DiskBus, DiskKind, Nic, NicModel, OsFamily},
        options::{ControllerModel, DiskFile, DiskFormat, MacPolicy, TargetNic, TargetProfile},
    },
    error::Result,
};

impl Renderer<'_> {
    /// Controllers, then disks, then drives.
    pub(super) fn storage(&mut self, placed: &[Placed<'_>], files: &[DiskFile]) -> Result<()> {
        let is_drive = |placed: &&Placed<'_>| drive(placed, files);
        let (drives, disks): (Vec<&Placed<'_>>, Vec<&Placed<'_>>) = placed.iter().partition(is_drive);
        let models: Vec<ControllerModel> = disks
            .iter()
            .map(|placed| self.controller_of(placed.disk))
            .chain(drives.iter().map(|_| ControllerModel::Ide))
            .collect();
        let (controllers, places) = arrange(self.profile, &models)?;
        let mut parents = Vec::new();
        for controller in &controllers {
            let number = controller.number;
            parents.push(self.add(Item {
                address: Some(number.to_string()),
                description: Some(controller.model.title().to_owned()),
                element_name: format!("{} {number}", controller.model.title()),
                resource_sub_type: controller.model.sub_type(self.profile).map(str::to_owned),
                resource_type: controller.model.resource_type(),
                ..Item::default()
            }));
        }
        let parent = |place: &Place| parents.get(place.controller).cloned();
        for (index, (placed, place)) in disks.iter().zip(&places).enumerate() {
            let (Some(file), Some(parent)) = (placed.file, parent(place)) else { continue };
            let name = placed.disk.map_or("", |disk| disk.name.as_str());
            self.add(Item {
                address_on_parent: Some(place.unit.to_string()),
                description: (!name.is_empty()).then(|| clean_text(name).into_owned()),
                element_name: format!("Hard Disk {}", index + 1),
                host_resources: vec![format!("ovf:/disk/{}", disk_id(file))],
                parent: Some(parent),
                resource_type: resource::DISK,
                ..Item::default()
            });
        }
        for (index, (placed, place)) in drives.iter().zip(&places[disks.len()..]).enumerate() {
            let Some(parent) = parent(place) else { continue };
            self.add(Item {
                is_optional: true,
                address_on_parent: Some(place.unit.to_string()),
                automatic_allocation: Some(placed.file.is_some()),
                element_name: format!("CD/DVD Drive {}", index + 1),
                host_resources: placed
                    .file
                    .map(|file| format!("ovf:/file/{}", file_id(file)))
                    .into_iter()
                    .collect(),
                parent: Some(parent),
                resource_sub_type: Some(drive_type(placed).to_owned()),
                resource_type: resource::CD,
                ..Item::default()
            });
        }
        let models: Vec<ControllerModel> = places
            .iter()
            .filter_map(|place| controllers.get(place.controller))
            .map(|found| found.model)
            .collect();
        self.advise_on_disks(&disks, &models);
        Ok(())
    }

    /// The controller for a disk: that of the options, or one for which the guest has a driver.
    fn controller_of(&self, disk: Option<&Disk>) -> ControllerModel {
        if let Some(model) = self.options.disk_bus {
            return model;
        }
        let knows_nvme = matches!(self.profile, TargetProfile::Vmware | TargetProfile::Generic);
        match disk.map(|disk| disk.bus) {
            Some(DiskBus::Ide) => ControllerModel::Ide,
            Some(DiskBus::Nvme) if knows_nvme => ControllerModel::Nvme,
            Some(DiskBus::Sata | DiskBus::Usb | DiskBus::Nvme) => ControllerModel::Sata,
            // Nobody has virtio, and its SCSI controller is not one of these either.
            Some(DiskBus::Virtio | DiskBus::Scsi) | None => match self.profile {
                TargetProfile::Vmware | TargetProfile::Generic if self.os.has_lsilogic => {
                    ControllerModel::Lsilogic
                }
                _ => ControllerModel::Sata,
            },
        }
    }

    /// Network cards, each in the network of that number.
    pub(super) fn network_cards(&mut self, networks: &[String]) {
        let hardware = self.hardware;
        for (index, (nic, network)) in hardware.nics.iter().zip(networks).enumerate() {
            let model = self.model_of(nic);
            let mac = nic.mac.clone().filter(|_| self.options.mac.unwrap_or_default() == MacPolicy::Keep);
            if nic.mac.is_none() && self.options.mac == Some(MacPolicy::Keep) {
                self.warn_of_mac(nic);
            }
            self.add(Item {
                address: mac.map(|mac| clean_text(&mac).into_owned()),
                automatic_allocation: Some(nic.is_connected),
                connections: vec![network.clone()],
                description: (!nic.name.is_empty()).then(|| clean_text(&nic.name).into_owned()),
                element_name: format!("Network adapter {}", index + 1),
                resource_sub_type: Some(model.sub_type().to_owned()),
                resource_type: resource::ETHERNET,
                ..Item::default()
            });
        }
        self.advise_on_nics();
    }

    /// There is no address to keep.
    fn warn_of_mac(&mut self, nic: &Nic) {
        let remedy = if self.is_kubevirt() {
            "export the VM while it runs, or set macAddress in it; else the importer makes an address"
        } else {
            "set the address where the appliance is imported; else the importer makes one"
        };
        self.warn(&nic.field, format!("the VM states no MAC for {:?}", nic.name), remedy);
    }

    /// The model for a card: that of the options, or one for which the guest has a driver.
    pub(super) fn model_of(&self, nic: &Nic) -> TargetNic {
        if let Some(model) = self.options.nic_model {
            return model;
        }
        match (&nic.model, self.profile) {
            (NicModel::E1000e | NicModel::Vmxnet3, TargetProfile::Virtualbox) => TargetNic::E1000,
            (NicModel::Pcnet, TargetProfile::Proxmox) => TargetNic::E1000,
            (NicModel::E1000e, _) => TargetNic::E1000e,
            (NicModel::Vmxnet3, _) => TargetNic::Vmxnet3,
            (NicModel::Pcnet, _) => TargetNic::Pcnet32,
            (NicModel::Virtio, TargetProfile::Vmware) => match self.os.family {
                OsFamily::Linux => TargetNic::Vmxnet3,
                // Its driver for VMXNET3 comes with VMware Tools.
                OsFamily::Windows => TargetNic::E1000e,
                OsFamily::Other => TargetNic::E1000,
            },
            (NicModel::E1000 | NicModel::Virtio | NicModel::Other(_), _) => TargetNic::E1000,
        }
    }

    /// TPM and sound: VMware's items, which others may leave out.
    pub(super) fn other_devices(&mut self) {
        let knows_vmware = matches!(self.profile, TargetProfile::Vmware | TargetProfile::Generic);
        let hardware = self.hardware;
        if hardware.has_tpm && knows_vmware {
            self.add(Item {
                is_optional: true,
                automatic_allocation: Some(false),
                element_name: "Virtual TPM".to_owned(),
                resource_sub_type: Some("vmware.vtpm".to_owned()),
                resource_type: resource::OTHER,
                ..Item::default()
            });
        }
        if hardware.has_sound && knows_vmware {
            self.add(Item {
                is_optional: true,
                automatic_allocation: Some(true),
                element_name: "Sound card".to_owned(),
                resource_sub_type: Some("vmware.soundcard.hdaudio".to_owned()),
                resource_type: resource::OTHER,
                ..Item::default()
            });
        }
        self.advise_on_devices(knows_vmware);
    }
}

/// Whether it is a CD drive in the appliance: one without a file, or with an ISO image.
fn drive(placed: &Placed<'_>, files: &[DiskFile]) -> bool {
    let file = placed.file.and_then(|file| files.get(file));
    let is_cdrom = placed.disk.is_some_and(|disk| disk.kind == DiskKind::Cdrom);
    file.map_or(is_cdrom, |file| file.format == DiskFormat::Iso)
}

fn drive_type(placed: &Placed<'_>) -> &'static str {
    if placed.file.is_some() { "vmware.cdrom.iso" } else { "vmware.cdrom.remotepassthrough" }
}

impl TargetNic {
    /// The model as targets spell it.
    pub(super) fn sub_type(self) -> &'static str {
        match self {
            Self::E1000 => "E1000",
            Self::E1000e => "E1000e",
            Self::Pcnet32 => "PCNet32",
            Self::Vmxnet3 => "VmxNet3",
        }
    }
}
