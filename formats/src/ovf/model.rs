//! The typed descriptor. Field names are those of the specification; texts are unescaped, and one
//! that is empty counts as absent where it is optional.

use super::safe_name;
use crate::error::Result;

/// An OVF descriptor with one virtual system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Files of the package, in the order in which they follow the descriptor.
    pub files: Vec<File>,
    /// Virtual disks.
    pub disks: Vec<Disk>,
    /// Networks, one for each name that a NIC's `connection` uses.
    pub networks: Vec<Network>,
    /// The virtual system.
    pub system: VirtualSystem,
    /// What the parser found and did not understand: element names with that of their parent in front,
    /// each once. The writer ignores it.
    pub unknown: Vec<String>,
}

/// A number that may be known only when everything else has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// It is known.
    Known(u64),
    /// It comes late; the index of the file or the disk that it belongs to, below 100,000.
    Late(u32),
}

/// A file of the package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// What disks call it.
    pub id: String,
    /// Its name as the descriptor has it: hostile until [`safe_name`](Self::safe_name) has seen it.
    pub href: String,
    /// Its length in bytes as stored. If it is there, it must be exact: vSphere aborts otherwise.
    pub size: Option<Number>,
    /// Bytes of each of the pieces into which it is split.
    pub chunk_size: Option<u64>,
    /// `gzip`, `identity`.
    pub compression: Option<String>,
}

impl File {
    /// The name, if it is a bare one.
    ///
    /// # Errors
    /// As [`safe_name`](super::safe_name()).
    pub fn safe_name(&self) -> Result<&str> {
        safe_name(&self.href)
    }
}

/// A virtual disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// What items call it.
    pub id: String,
    /// Bytes of the guest disk.
    pub capacity: u64,
    /// The file that holds it; an empty disk has none.
    pub file_ref: Option<String>,
    /// URI of the file's format.
    pub format: Option<String>,
    /// Bytes of the guest disk that have data.
    pub populated_size: Option<Number>,
    /// The disk that this one is a difference to.
    pub parent_ref: Option<String>,
}

/// A network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// What NICs call it.
    pub name: String,
    /// For people.
    pub description: Option<String>,
}

/// The virtual system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualSystem {
    /// Its id in the descriptor.
    pub id: String,
    /// Its name for people.
    pub name: Option<String>,
    /// The guest's operating system.
    pub os: Option<OperatingSystem>,
    /// Its hardware.
    pub hardware: Hardware,
    /// What is in it, for people.
    pub products: Vec<Product>,
    /// A note for people.
    pub annotation: Option<String>,
}

/// The guest's operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatingSystem {
    /// Value of `CIM_OperatingSystem.OSType`; 1 is 'other'.
    pub id: u16,
    /// Its version.
    pub version: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// VMware's name of it.
    pub vmw_os_type: Option<String>,
}

/// What the virtual system is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// How properties reach the guest.
    pub transport: Option<String>,
    /// Its family.
    pub system: Option<System>,
    /// CPUs, memory, controllers, devices.
    pub items: Vec<Item>,
    /// `vmw:Config`: settings of VMware's platforms, some of which others know as well.
    pub config: Vec<Setting>,
    /// `vmw:ExtraConfig`: lines of a `.vmx` file.
    pub extra_config: Vec<Setting>,
}

/// Family of the virtual hardware.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// For people.
    pub element_name: String,
    /// Its id.
    pub instance_id: String,
    /// The virtual system's name.
    pub identifier: Option<String>,
    /// Families, `vmx-13`; several are separated by spaces.
    pub system_type: Option<String>,
}

/// A setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// A product that is in the appliance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Product {
    /// Name.
    pub product: Option<String>,
    /// Who makes it.
    pub vendor: Option<String>,
    /// Version, short.
    pub version: Option<String>,
    /// Version, long.
    pub full_version: Option<String>,
    /// Where more is said about it.
    pub product_url: Option<String>,
    /// Where more is said about its maker.
    pub vendor_url: Option<String>,
}

/// A CPU, memory, a controller or a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// An importer may leave it out without a word.
    pub is_optional: bool,
    /// A bound of a range rather than a value: `min`, `max`, `normal`.
    pub bound: Option<String>,
    /// The deployment option that it belongs to.
    pub configuration: Option<String>,
    /// Number of a controller; MAC address of a NIC.
    pub address: Option<String>,
    /// Place on its controller.
    pub address_on_parent: Option<String>,
    /// Units of quantities.
    pub allocation_units: Option<String>,
    /// Whether it is connected when the machine starts.
    pub automatic_allocation: Option<bool>,
    /// Networks of a NIC.
    pub connections: Vec<String>,
    /// For people.
    pub description: Option<String>,
    /// For people.
    pub element_name: String,
    /// What backs it: `ovf:/disk/ID`, `ovf:/file/ID`.
    pub host_resources: Vec<String>,
    /// Its id, unique among all items.
    pub instance_id: String,
    /// Upper limit of what it gets of the host.
    pub limit: Option<u64>,
    /// The id of its controller.
    pub parent: Option<String>,
    /// What it gets of the host in any case.
    pub reservation: Option<u64>,
    /// Model.
    pub resource_sub_type: Option<String>,
    /// What it is: one of [`resource`].
    pub resource_type: u16,
    /// How much, in `allocation_units`.
    pub virtual_quantity: Option<u64>,
    /// `vmw:CoresPerSocket` of CPUs.
    pub cores_per_socket: Option<u32>,
    /// `vmw:Config`.
    pub config: Vec<Setting>,
}

/// Resource types that matter here (`CIM_ResourceAllocationSettingData.ResourceType`).
pub mod resource {
    /// Other: TPM, sound.
    pub const OTHER: u16 = 1;
    /// CPU.
    pub const CPU: u16 = 3;
    /// Memory.
    pub const MEMORY: u16 = 4;
    /// IDE controller.
    pub const IDE: u16 = 5;
    /// SCSI controller.
    pub const SCSI: u16 = 6;
    /// Ethernet adapter.
    pub const ETHERNET: u16 = 10;
    /// Floppy drive.
    pub const FLOPPY: u16 = 14;
    /// CD drive.
    pub const CD: u16 = 15;
    /// DVD drive.
    pub const DVD: u16 = 16;
    /// Hard disk.
    pub const DISK: u16 = 17;
    /// Other storage: SATA and NVMe controllers.
    pub const STORAGE: u16 = 20;
    /// Serial port.
    pub const SERIAL: u16 = 21;
    /// Parallel port.
    pub const PARALLEL: u16 = 22;
    /// USB controller.
    pub const USB: u16 = 23;
    /// Graphics.
    pub const GRAPHICS: u16 = 24;
}
