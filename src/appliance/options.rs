//! How a description is to be made, and of which files.

use std::{collections::BTreeMap, fmt, str::FromStr};

use vmferry_formats::{WriterSpec, ovf::format_uri, vmdk::Subformat};

use crate::error::{Error, Result};

/// Names for the variants of an enum: `name`, `Display` and `FromStr`.
macro_rules! named {
    ($type:ident, $what:literal, $($variant:ident = $name:literal),+ $(,)?) => {
        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self> {
                Self::ALL.iter().copied().find(|known| known.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
                    let names: Vec<&str> = Self::ALL.iter().map(|known| known.name()).collect();
                    Error::usage(format!("unknown {} {name:?} ({})", $what, names.join(", ")))
                })
            }
        }
    };
}

/// Who is to import the appliance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetProfile {
    /// As little as possible that only one of them knows: AWS, Harvester, Nutanix, oVirt, virt-v2v.
    Generic,
    /// Proxmox VE.
    Proxmox,
    /// Oracle VirtualBox.
    Virtualbox,
    /// vSphere, Workstation, Fusion.
    #[default]
    Vmware,
}

named!(
    TargetProfile,
    "target profile",
    Vmware = "vmware",
    Virtualbox = "virtualbox",
    Proxmox = "proxmox",
    Generic = "generic"
);

impl TargetProfile {
    /// Whether its importers take images of this format. VirtualBox goes by the URI, Proxmox VE by what `qemu-img` finds in
    /// the file; the others read VMDKs, and vSphere only those that come as a stream.
    pub(super) fn takes(self, format: DiskFormat) -> bool {
        match format {
            DiskFormat::Iso | DiskFormat::VmdkStream => true,
            DiskFormat::Qcow2 | DiskFormat::Raw => self == Self::Proxmox,
            DiskFormat::Vhd => self == Self::Virtualbox,
            DiskFormat::VmdkSparse => matches!(self, Self::Proxmox | Self::Virtualbox),
        }
    }
}

/// Models of network cards that a description can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetNic {
    /// Intel 82545: drivers are everywhere.
    E1000,
    /// Intel 82574: Windows 8 and newer.
    E1000e,
    /// AMD PCnet: very old guests.
    Pcnet32,
    /// VMware's own: in Linux, and in Windows with VMware Tools.
    Vmxnet3,
}

named!(TargetNic, "NIC model", E1000 = "e1000", E1000e = "e1000e", Vmxnet3 = "vmxnet3", Pcnet32 = "pcnet32");

/// Models of disk controllers that a description can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerModel {
    /// IDE.
    Ide,
    /// LSI Logic Parallel SCSI.
    Lsilogic,
    /// LSI Logic SAS.
    LsilogicSas,
    /// NVMe.
    Nvme,
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// AHCI.
    Sata,
}

named!(
    ControllerModel,
    "disk bus",
    Lsilogic = "lsilogic",
    LsilogicSas = "lsilogicsas",
    Pvscsi = "pvscsi",
    Sata = "sata",
    Nvme = "nvme",
    Ide = "ide",
);

/// What becomes of MAC addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacPolicy {
    /// The appliance has those of the VM: never run both in one network.
    #[default]
    Keep,
    /// The importer makes new ones.
    New,
}

named!(MacPolicy, "MAC policy", Keep = "keep", New = "new");

/// How a description is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescriptorOptions {
    /// Who is to import it.
    pub target_profile: TargetProfile,
    /// Model of all network cards, in place of what the profile takes for theirs.
    pub nic_model: Option<TargetNic>,
    /// Controller of all disks, in place of what the profile takes for theirs.
    pub disk_bus: Option<ControllerModel>,
    /// Names of networks: from that in the VM, or that of the NetworkAttachmentDefinition, to that where it
    /// is imported.
    pub network_map: BTreeMap<String, String>,
    /// What becomes of MAC addresses. Without a word they are kept; where that is asked for, a card that has none is
    /// told.
    pub mac: Option<MacPolicy>,
    /// The operating system: a hint (`rhel.9`) or VMware's name, which is then taken as it is.
    pub os_type: Option<String>,
    /// The virtual system's name, in place of the VM's.
    pub name: Option<String>,
    /// Product that is in it.
    pub product: Option<String>,
    /// Who makes it.
    pub vendor: Option<String>,
}

/// Formats of disks in an appliance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskFormat {
    /// An ISO 9660 image: goes into a CD drive. No command makes one; for those who write the file themselves.
    Iso,
    /// QCOW2.
    Qcow2,
    /// RAW.
    Raw,
    /// VHD.
    Vhd,
    /// VMDK, monolithicSparse.
    VmdkSparse,
    /// VMDK, streamOptimized: what every importer takes.
    #[default]
    VmdkStream,
}

impl DiskFormat {
    /// The format of images that are written so.
    pub fn of(spec: &WriterSpec) -> Self {
        match spec {
            WriterSpec::Qcow2(_) => Self::Qcow2,
            WriterSpec::Vmdk(options) if options.subformat == Subformat::MonolithicSparse => Self::VmdkSparse,
            WriterSpec::Raw(_) => Self::Raw,
            _ => Self::VmdkStream,
        }
    }

    /// What people call it, with its article.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Iso => "an ISO",
            Self::Qcow2 => "a QCOW2",
            Self::Raw => "a RAW",
            Self::Vhd => "a VHD",
            Self::VmdkSparse => "a monolithicSparse VMDK",
            Self::VmdkStream => "a streamOptimized VMDK",
        }
    }

    /// The URI of `ovf:format`.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Iso => format_uri::ISO,
            Self::Qcow2 => format_uri::QCOW2,
            Self::Raw => format_uri::RAW,
            Self::Vhd => format_uri::VHD,
            Self::VmdkSparse => format_uri::VMDK_SPARSE,
            Self::VmdkStream => format_uri::VMDK_STREAM,
        }
    }
}

/// A file of the appliance, in the order in which they follow the descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskFile {
    /// The disk of the VM that it holds. Without it: the first that no file holds yet, or a new one.
    pub disk: Option<String>,
    /// Its name in the appliance: `A-Z a-z 0-9 . _ -`, at most 99 of them.
    pub file_name: String,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Its format.
    pub format: DiskFormat,
}
