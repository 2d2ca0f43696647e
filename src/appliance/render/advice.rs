//! What the owner of a guest must know about its new hardware.

use super::{Placed, Renderer};
use crate::appliance::{
    annotation::KUBEVIRT,
    hardware::{Architecture, DiskBus, DiskKind, Firmware, NicModel, OsFamily},
    options::{ControllerModel, TargetNic, TargetProfile},
};

impl Renderer<'_> {
    /// About disks; `models` are those of their controllers, in the same order.
    pub(super) fn advise_on_disks(&mut self, disks: &[&Placed<'_>], models: &[ControllerModel]) {
        let mut moved: Vec<(&str, &str, ControllerModel)> = Vec::new();
        for (placed, &model) in disks.iter().zip(models) {
            let Some(disk) = placed.disk else { continue };
            let is_known = matches!(
                (disk.bus, model),
                (DiskBus::Sata, ControllerModel::Sata)
                    | (DiskBus::Ide, ControllerModel::Ide)
                    | (DiskBus::Nvme, ControllerModel::Nvme)
            );
            if !is_known {
                moved.push((&disk.field, &disk.name, model));
            }
            if disk.kind == DiskKind::Cdrom {
                self.warn(
                    &disk.field,
                    format!(
                        "the CD {:?} is a hard disk in the appliance, since its file is no ISO image",
                        disk.name
                    ),
                    "leave it out, or attach its ISO image where the appliance is imported",
                );
            }
        }
        if let Some((field, ..)) = moved.first() {
            let on: Vec<String> = moved.iter().map(|(_, name, model)| format!("{name} on {model}")).collect();
            let mut drivers: Vec<&str> = moved.iter().map(|(.., model)| model.linux_driver()).collect();
            drivers.sort_unstable();
            drivers.dedup();
            let message = format!(
                "disks change their controller, for which the guest needs a driver to start: {}",
                on.join(", ")
            );
            let remedy = self.disk_remedy(&drivers.join(" "));
            self.warn(field, message, remedy);
        }
        self.advise_on_boot_order(disks);
    }

    fn disk_remedy(&self, drivers: &str) -> String {
        let mut remedy = match self.os.family {
            OsFamily::Linux => format!(
                "before the export, put the driver into the guest's initramfs: dracut -f --add-drivers {drivers:?}, or \
                 the module's name in /etc/initramfs-tools/modules and update-initramfs -u"
            ),
            OsFamily::Windows => "before the export, start the guest once with a small SATA disk beside the others, so \
                                  that Windows turns its driver on; or start it in safe mode once after the import"
                .to_owned(),
            OsFamily::Other => "make sure that the guest has its driver, or choose another one by --disk-bus".to_owned(),
        };
        if self.profile == TargetProfile::Proxmox {
            remedy.push_str("; after the import the disks can be moved to VirtIO, for which it has drivers");
        }
        remedy
    }

    /// An OVF says nothing of it: the first disk on the first controller is started from.
    fn advise_on_boot_order(&mut self, disks: &[&Placed<'_>]) {
        let hardware = self.hardware;
        let nic =
            hardware.nics.iter().filter(|nic| nic.boot_order.is_some()).min_by_key(|nic| nic.boot_order);
        let disk = hardware.disks.iter().filter_map(|disk| disk.boot_order).min();
        if let Some(nic) = nic {
            let is_first = disk.is_none_or(|disk| nic.boot_order.is_some_and(|order| order < disk));
            let message = format!("a start from the network {:?} cannot be said", nic.name);
            let field = format!("{}.bootOrder", nic.field);
            let remedy = if is_first {
                "set it first in the firmware's boot order"
            } else {
                "nothing to do, if the disk starts"
            };
            self.warn(&field, message, remedy);
        }
        let in_order = hardware.disks.iter().filter(|disk| disk.boot_order.is_some()).count();
        let drive =
            hardware.disks.iter().filter(|disk| disk.boot_order == Some(1) && disk.kind == DiskKind::Cdrom);
        if in_order > 1 || drive.count() > 0 {
            let first = disks.first().and_then(|placed| placed.disk).map_or("", |disk| disk.name.as_str());
            let field = hardware
                .disks
                .iter()
                .find(|disk| disk.boot_order.is_some())
                .map_or("", |disk| disk.field.as_str());
            self.warn(
                &format!("{field}.bootOrder"),
                format!("the order in which disks are tried cannot be said: {first:?} is the first disk"),
                "set the order in the firmware, if the guest starts from another one",
            );
        }
    }

    /// About network cards.
    pub(super) fn advise_on_nics(&mut self) {
        let hardware = self.hardware;
        let mut changed: Vec<(&str, String)> = Vec::new();
        let mut needs_tools = false;
        for nic in &hardware.nics {
            let model = self.model_of(nic);
            let is_same = matches!(
                (&nic.model, model),
                (NicModel::E1000, TargetNic::E1000)
                    | (NicModel::E1000e, TargetNic::E1000e)
                    | (NicModel::Vmxnet3, TargetNic::Vmxnet3)
                    | (NicModel::Pcnet, TargetNic::Pcnet32)
            );
            if !is_same {
                needs_tools |= model == TargetNic::Vmxnet3;
                changed.push((&nic.field, format!("{} is {model}", nic.name)));
            }
        }
        let Some((field, _)) = changed.first() else { return };
        let field = format!("{field}.model");
        let list: Vec<String> = changed.into_iter().map(|(_, change)| change).collect();
        let mut remedy = match self.os.family {
            OsFamily::Windows if needs_tools => {
                "install VMware Tools before the export, and set fixed addresses anew: Windows sees new cards"
                    .to_owned()
            }
            OsFamily::Windows => "set fixed addresses anew: Windows sees new cards".to_owned(),
            _ => "check what in the guest names a network card: its name may change".to_owned(),
        };
        if self.profile == TargetProfile::Proxmox {
            remedy.push_str("; after the import the model can be set to VirtIO, for which it has drivers");
        }
        self.warn(&field, format!("network cards change their model: {}", list.join(", ")), remedy);
    }

    /// About TPM, sound and what the target's descriptors have no word for.
    pub(super) fn advise_on_devices(&mut self, knows_vmware: bool) {
        let hardware = self.hardware;
        let tpm = self.path("domain.devices.tpm", "TPM");
        match self.profile {
            _ if !hardware.has_tpm => {}
            TargetProfile::Virtualbox => self.warn(
                &tpm,
                "VirtualBox does not take a TPM from a description",
                "VBoxManage modifyvm NAME --tpm-type 2.0",
            ),
            TargetProfile::Proxmox => self.warn(
                &tpm,
                "Proxmox does not take a TPM from a description",
                "qm set ID --tpmstate0 STORAGE:1,version=v2.0",
            ),
            TargetProfile::Vmware | TargetProfile::Generic => self.warn(
                &tpm,
                "the importer makes a new, empty TPM, or leaves it out if it cannot encrypt VMs",
                "set up a key provider (vSphere) or encryption (Workstation), or add the TPM after the import",
            ),
        }
        if hardware.has_sound && !knows_vmware {
            let field = self.path("domain.devices.sound", "sound card");
            self.warn(&field, "a sound card is not in the description", "add one after the import");
        }
        if self.profile != TargetProfile::Vmware {
            let grown = [
                (
                    hardware.cpu.can_grow,
                    "domain.cpu.maxSockets",
                    "CPUs",
                    "CPUs cannot be added while it runs",
                ),
                (
                    hardware.memory_can_grow,
                    "domain.memory.maxGuest",
                    "memory",
                    "memory cannot be added while it runs",
                ),
                (
                    hardware.cpu.is_nesting,
                    "domain.cpu.features",
                    "CPUs",
                    "the guest cannot run virtual machines",
                ),
            ];
            for (_, field, other, message) in grown.into_iter().filter(|(is_on, ..)| *is_on) {
                let field = self.path(field, other);
                self.warn(&field, message, "turn it on after the import");
            }
        }
    }

    /// About architecture and firmware.
    pub(super) fn advise_on_machine(&mut self) {
        let hardware = self.hardware;
        let architecture = match &hardware.architecture {
            Architecture::X86_64 => None,
            Architecture::Aarch64 => Some("arm64"),
            Architecture::S390x => Some("s390x"),
            Architecture::Other(name) => Some(name.as_str()),
        };
        if let Some(name) = architecture {
            let field = self.path("architecture", "architecture");
            self.warn(
                &field,
                format!("the guest is for {name}, and an OVF cannot say so"),
                "import it only on hosts of this architecture",
            );
        }
        let Firmware::Efi { secure_boot } = hardware.firmware else { return };
        let field = self.path("domain.firmware.bootloader.efi", "firmware");
        match self.profile {
            TargetProfile::Virtualbox => {
                self.warn(
                    &field,
                    "VirtualBox does not take EFI from a description",
                    "VBoxManage modifyvm NAME --firmware efi64",
                );
                if secure_boot {
                    self.warn(
                        &format!("{field}.secureBoot"),
                        "VirtualBox does not take Secure Boot from a description",
                        "VBoxManage modifynvram NAME inituefivarstore, then enrollmssignatures, enrollorclpk and \
                         secureboot --enable",
                    );
                }
            }
            TargetProfile::Proxmox if secure_boot => self.warn(
                &format!("{field}.secureBoot"),
                "Proxmox does not take Secure Boot from a description",
                "qm set ID --efidisk0 STORAGE:1,efitype=4m,pre-enrolled-keys=1",
            ),
            _ => {}
        }
    }

    /// The name of a field: KubeVirt's if the hardware is that of its VM.
    pub(super) fn path(&self, kubevirt: &str, other: &str) -> String {
        if self.is_kubevirt() { format!("spec.template.spec.{kubevirt}") } else { other.to_owned() }
    }

    /// Whether the hardware is that of a VM of KubeVirt.
    pub(super) fn is_kubevirt(&self) -> bool {
        self.hardware.origin.as_ref().is_some_and(|origin| origin.starts_with(KUBEVIRT))
    }
}
