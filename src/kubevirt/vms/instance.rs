//! VirtualMachineInstances: the guest that runs, as far as it matters.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::kubevirt::{
    parse_quantity,
    types::{Condition, Metadata},
};

/// A VirtualMachineInstance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Instance {
    pub(crate) metadata: Metadata,
    pub(crate) status: InstanceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InstanceStatus {
    pub(crate) phase: String,
    pub(crate) reason: String,
    pub(crate) node_name: Option<String>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) interfaces: Vec<InstanceInterface>,
    #[serde(rename = "guestOSInfo")]
    pub(crate) guest_os: GuestOs,
    pub(crate) phase_transition_timestamps: Vec<PhaseChange>,
    pub(crate) volume_status: Vec<VolumeStatus>,
}

/// A network interface of the guest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct InstanceInterface {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) ip_address: String,
    pub(crate) ip_addresses: Vec<String>,
    pub(crate) link_state: String,
    /// What the guest calls it.
    pub(crate) interface_name: String,
    /// Who says that it is there: `domain`, `guest-agent`, `multus-status`, parted by commas.
    pub(crate) info_source: String,
}

/// A volume of the guest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VolumeStatus {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) phase: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) size: Option<u64>,
    pub(crate) hotplug_volume: Option<serde_json::Value>,
    pub(crate) persistent_volume_claim_info: ClaimInfo,
}

/// What an instance knows of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimInfo {
    pub(crate) capacity: BTreeMap<String, String>,
}

impl VolumeStatus {
    /// Its size in bytes: its own, or that of its claim.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        let capacity = || self.persistent_volume_claim_info.capacity.get("storage");
        self.size.filter(|size| *size > 0).or_else(|| capacity().and_then(|size| parse_quantity(size)))
    }
}

/// What the guest agent says of the operating system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct GuestOs {
    pub(crate) name: String,
    pub(crate) pretty_name: String,
}

/// When a phase began.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PhaseChange {
    pub(crate) phase: String,
    pub(crate) phase_transition_timestamp: String,
}

impl Instance {
    /// Whether the guest has ended; the object may stay.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether a condition holds.
    pub(crate) fn is(&self, kind: &str) -> bool {
        self.status.conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
    }

    /// A network interface, by what the VM calls it.
    pub(crate) fn nic(&self, name: &str) -> Option<&InstanceInterface> {
        self.status.interfaces.iter().find(|nic| nic.name == name)
    }

    /// Addresses of the guest, each once.
    pub(crate) fn addresses(&self) -> Vec<String> {
        once(self.status.interfaces.iter().flat_map(InstanceInterface::all))
    }
}

impl InstanceInterface {
    /// Whether the guest has it, and not only its pod. Older releases do not say who knows of it.
    pub(crate) fn is_in_guest(&self) -> bool {
        self.info_source.is_empty() || self.info_source.contains("domain")
    }

    /// Its addresses, each once.
    pub(crate) fn addresses(&self) -> Vec<String> {
        once(self.all())
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.ip_address).chain(&self.ip_addresses)
    }
}

/// What is not empty, in its order, each once.
fn once<'a>(all: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = HashSet::new();
    all.filter(|item| !item.is_empty() && seen.insert(item.as_str())).cloned().collect()
}
