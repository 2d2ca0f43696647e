//! How many network cards and CPUs the VMs of a target can have.

use super::Renderer;
use crate::appliance::options::TargetProfile;

/// Known limits of a target; importers differ in what they do beyond them, so they are told, not refused.
struct Limits {
    /// What has them, for people.
    of: String,
    /// Most network cards.
    nics: Option<usize>,
    /// Most CPUs.
    cpus: Option<u32>,
}

impl Limits {
    /// Those of a target; `hardware_version` is the N of `vmx-N`.
    fn new(profile: TargetProfile, hardware_version: u32) -> Self {
        match profile {
            TargetProfile::Vmware => {
                let cpus = if hardware_version < MANY_CPUS_HARDWARE { 128 } else { 256 };
                Self { of: format!("vmx-{hardware_version}"), nics: Some(10), cpus: Some(cpus) }
            }
            // With the PIIX3 chipset, which its import chooses.
            TargetProfile::Virtualbox => Self { of: "VirtualBox".to_owned(), nics: Some(8), cpus: Some(32) },
            TargetProfile::Proxmox => Self { of: "Proxmox".to_owned(), nics: Some(32), cpus: None },
            TargetProfile::Generic => Self { of: "the target".to_owned(), nics: None, cpus: None },
        }
    }
}

impl Renderer<'_> {
    /// About more of something than the target is known to take.
    pub(super) fn advise_on_limits(&mut self) {
        let hardware = self.hardware;
        let limits = Limits::new(self.profile, self.hardware_version());
        let of = &limits.of;
        if let Some((most, cpus)) = limits.cpus.zip(hardware.cpu.count()).filter(|(most, cpus)| cpus > most) {
            let field = self.path("domain.cpu", "CPUs");
            self.warn(
                &field,
                format!("a VM of {of} has at most {most} CPUs, and this one has {cpus}"),
                "give it fewer CPUs before the export, or in the descriptor before it is imported",
            );
        }
        let Some(most) = limits.nics else { return };
        if let Some(nic) = hardware.nics.get(most) {
            let count = hardware.nics.len();
            self.warn(
                &nic.field,
                format!("a VM of {of} has at most {most} network cards, and this one has {count}"),
                "remove cards before the export, or from the descriptor before it is imported",
            );
        }
    }
}

/// The oldest `vmx-N` with 256 CPUs, of vSphere 6.7 U2.
const MANY_CPUS_HARDWARE: u32 = 15;
