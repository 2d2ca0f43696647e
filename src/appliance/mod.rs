//! Appliances: what a VM is made of, and how an OVF descriptor says it.
//!
//! ```text
//! VirtualMachine ──▶ of_vm ──┐                                   ┌──▶ descriptor, with markers
//!                            ├──▶ Hardware ──▶ descriptor(files) ┤
//! OVF descriptor ──▶ of_ovf ─┘                  per profile      └──▶ warnings
//! ```
//!
//! [`Hardware`] is neutral: it knows neither KubeVirt nor OVF. [`of_vm`] makes one of a KubeVirt VM with
//! instancetype and preference written out ([`of_vm_with`] also of what else was seen of it), [`of_ovf`] of a foreign descriptor, and [`descriptor`] says it
//! in the way that a [`TargetProfile`] understands best.
//!
//! Nothing is lost in silence: every field of a VM is carried over, is known to make no difference, or
//! leads to a [`Warning`] that names it and says what to do. `docs/appliance.md` has the table.
//!
//! Everything here is a function of its arguments: no I/O, no clock, no randomness, ordered maps.

mod annotation;
mod controllers;
mod fields;
mod foreign;
mod hardware;
mod interfaces;
mod options;
mod os;
mod render;
mod rules;
mod seen;
mod storage;
#[cfg(test)]
#[cfg(any(feature = "cli", feature = "kubevirt"))]
mod tests;
mod uuid;
mod vm;
#[cfg(any(feature = "cli", feature = "kubevirt"))]
mod yaml;

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(any(feature = "cli", feature = "kubevirt"))]
pub use self::yaml::read_vm;
pub use self::{
    foreign::of_ovf,
    hardware::{
        Architecture, Attachment, Cpu, Disk, DiskBus, DiskKind, Firmware, GuestOs, Hardware, Nic, NicModel,
        OsFamily,
    },
    options::{
        ControllerModel, DescriptorOptions, DiskFile, DiskFormat, MacPolicy, TargetNic, TargetProfile,
    },
    render::{Descriptor, descriptor},
    seen::VmSeen,
    vm::{of_vm, of_vm_with},
};

/// Something of a VM that its description cannot say, or says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The field: `spec.template.spec.domain.devices.gpus[0]`.
    pub field: String,
    /// What becomes of it.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Warning {
    fn new(field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.message, self.remedy)
    }
}
