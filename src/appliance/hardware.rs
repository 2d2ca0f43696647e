//! What a VM is made of, in nobody's terms.

/// A virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Its name.
    pub name: String,
    /// Where it comes from, for people: `KubeVirt VM demo/db`.
    pub origin: Option<String>,
    /// Version of what it ran on, if that is known.
    pub platform: Option<String>,
    /// What its owner says about it.
    pub description: Option<String>,
    /// The product that is in it.
    pub product: Option<String>,
    /// Who makes the product.
    pub vendor: Option<String>,
    /// Processor architecture.
    pub architecture: Architecture,
    /// Machine type as the hypervisor calls it.
    pub machine: Option<String>,
    /// CPUs.
    pub cpu: Cpu,
    /// Memory in bytes.
    pub memory: u64,
    /// Memory can be added while it runs.
    pub memory_can_grow: bool,
    /// Firmware.
    pub firmware: Firmware,
    /// It has a TPM.
    pub has_tpm: bool,
    /// It has a sound card.
    pub has_sound: bool,
    /// SMBIOS UUID.
    pub uuid: Option<String>,
    /// SMBIOS serial number.
    pub serial: Option<String>,
    /// Operating system, if there is a hint.
    pub os: Option<GuestOs>,
    /// Disks, in the VM's order.
    pub disks: Vec<Disk>,
    /// Network cards, in the VM's order.
    pub nics: Vec<Nic>,
}

/// Processor architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit ARM.
    Aarch64,
    /// IBM Z.
    S390x,
    /// x86 with 64 bits.
    #[default]
    X86_64,
    /// Another one, by its name.
    Other(String),
}

/// CPUs: their number is the product of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// CPUs can be added while it runs.
    pub can_grow: bool,
    /// The guest can run virtual machines.
    pub is_nesting: bool,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { sockets: 1, cores: 1, threads: 1, can_grow: false, is_nesting: false }
    }
}

impl Cpu {
    /// All CPUs that the guest sees; `None` if there are absurdly many.
    pub fn count(&self) -> Option<u32> {
        self.sockets.checked_mul(self.cores)?.checked_mul(self.threads)
    }
}

/// Firmware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS.
    #[default]
    Bios,
    /// UEFI.
    Efi {
        /// Only signed boot loaders are started.
        secure_boot: bool,
    },
}

/// Family of operating systems: they differ in the drivers that they bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OsFamily {
    /// Linux.
    Linux,
    /// Anything else.
    Other,
    /// Windows.
    Windows,
}

/// An operating system, as others call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestOs {
    /// Family.
    pub family: OsFamily,
    /// `CIM_OperatingSystem.OSType`.
    pub cim_id: u16,
    /// VMware's name.
    pub vmw_os_type: String,
    /// Oldest virtual hardware (`vmx-N`) that knows VMware's name.
    pub hardware_version: u32,
    /// For people.
    pub description: String,
    /// Its kernel is known to have the driver of LSI Logic's parallel SCSI (mptspi).
    pub has_lsilogic: bool,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name in the VM.
    pub name: String,
    /// What the guest sees.
    pub kind: DiskKind,
    /// How it is attached.
    pub bus: DiskBus,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// Serial number.
    pub serial: Option<String>,
    /// The claim that holds it.
    pub claim: Option<String>,
    /// Bytes of the guest disk, if that is known.
    pub capacity: Option<u64>,
    /// The field that describes it.
    pub field: String,
}

/// What a disk is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// CD drive.
    Cdrom,
    /// Hard disk.
    Disk,
    /// SCSI device that is passed through.
    Lun,
}

/// What a disk is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// IDE.
    Ide,
    /// NVMe.
    Nvme,
    /// SATA.
    Sata,
    /// SCSI; KubeVirt's is virtio-scsi.
    Scsi,
    /// USB.
    Usb,
    /// virtio-blk.
    Virtio,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its name in the VM, which is that of its network.
    pub name: String,
    /// Model.
    pub model: NicModel,
    /// MAC address, `02:00:00:00:00:01`.
    pub mac: Option<String>,
    /// What it is attached to.
    pub attachment: Attachment,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// Its cable is plugged in.
    pub is_connected: bool,
    /// The field that describes it.
    pub field: String,
}

/// Models of network cards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicModel {
    /// Intel 82540EM.
    E1000,
    /// Intel 82574.
    E1000e,
    /// AMD PCnet.
    Pcnet,
    /// virtio-net.
    Virtio,
    /// VMXNET3.
    Vmxnet3,
    /// Another one, by its name.
    Other(String),
}

/// What a network card is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The network of the cluster's pods.
    Pod,
    /// A network of its own, by its name: `NAMESPACE/NAME` or `NAME` of a NetworkAttachmentDefinition.
    Network(String),
}
