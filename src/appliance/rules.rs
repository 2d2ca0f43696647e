//! The rules for every field of a VM, as of KubeVirt 1.9 (`api/core/v1`).
//!
//! `docs/appliance.md` has the same table for people; a test holds them against each other.

use super::fields::Rule::{self, Harmless, Lost, Mapped};

/// Rules for what is around the template's spec.
pub(super) const OUTER_RULES: &[(&str, Rule)] = &[
    ("apiVersion", Harmless),
    ("kind", Harmless),
    ("metadata", Mapped),
    ("status", Harmless),
    ("spec.dataVolumeTemplates", Harmless),
    ("spec.instancetype", Mapped),
    ("spec.preference", Mapped),
    ("spec.runStrategy", Harmless),
    ("spec.running", Harmless),
    ("spec.template.metadata", Mapped),
    ("spec.updateVolumesStrategy", Harmless),
];

/// Rules for the fields of `spec.template.spec`; `[]` is any item, `.*` any field that is not named.
pub(super) const RULES: &[(&str, Rule)] = &[
    // Where and how it lives in the cluster.
    ("affinity", Harmless),
    ("architecture", Mapped),
    ("dnsPolicy", Harmless),
    ("evictionStrategy", Harmless),
    ("nodeSelector", Harmless),
    ("priorityClassName", Harmless),
    ("resourceClaims", Harmless),
    ("schedulerName", Harmless),
    ("startStrategy", Harmless),
    ("terminationGracePeriodSeconds", Harmless),
    ("tolerations", Harmless),
    ("topologySpreadConstraints", Harmless),
    ("utilityVolumes", Harmless),
    (
        "accessCredentials",
        Lost(
            "keys and passwords are not put into the guest any more",
            "put them into the guest before the export",
        ),
    ),
    (
        "dnsConfig",
        Lost(
            "the guest was told these name servers by DHCP",
            "set them in the guest or in its new network's DHCP",
        ),
    ),
    ("hostname", Lost("the guest was told this host name by DHCP and cloud-init", "set it in the guest")),
    (
        "livenessProbe",
        Lost("nobody watches the guest any more", "set up monitoring where the appliance runs"),
    ),
    (
        "readinessProbe",
        Lost("nobody watches the guest any more", "set up monitoring where the appliance runs"),
    ),
    (
        "subdomain",
        Lost("the guest had a name in the cluster's DNS", "give it a name in the DNS of its new network"),
    ),
    // Networks.
    ("networks[].name", Mapped),
    ("networks[].multus.default", Harmless),
    ("networks[].multus.networkName", Mapped),
    ("networks[].pod.vmIPv6NetworkCIDR", Lost(ADDRESS, ADDRESS_REMEDY)),
    ("networks[].pod.vmNetworkCIDR", Lost(ADDRESS, ADDRESS_REMEDY)),
    (
        "networks[].resourceClaim",
        Lost(
            "the network comes from a device that is claimed from the cluster",
            "choose a network when the appliance is imported",
        ),
    ),
    // Volumes.
    ("volumes[].name", Mapped),
    ("volumes[].dataVolume.hotpluggable", Harmless),
    ("volumes[].dataVolume.name", Mapped),
    ("volumes[].persistentVolumeClaim.claimName", Mapped),
    ("volumes[].persistentVolumeClaim.hotpluggable", Harmless),
    ("volumes[].persistentVolumeClaim.readOnly", Harmless),
    ("volumes[].cloudInitConfigDrive", Lost(CLOUD_INIT, CLOUD_INIT_REMEDY)),
    ("volumes[].cloudInitNoCloud", Lost(CLOUD_INIT, CLOUD_INIT_REMEDY)),
    ("volumes[].configMap", Lost(CLUSTER_DATA, CLUSTER_DATA_REMEDY)),
    (
        "volumes[].containerDisk",
        Lost(
            "a disk from a container image is not exported",
            "copy what is needed to a claim, or give its image to 'vmferry pack'",
        ),
    ),
    ("volumes[].containerPath", Lost(CLUSTER_DATA, CLUSTER_DATA_REMEDY)),
    ("volumes[].downwardAPI", Lost(CLUSTER_DATA, CLUSTER_DATA_REMEDY)),
    (
        "volumes[].downwardMetrics",
        Lost("the host's metrics are not offered elsewhere", "stop what reads them in the guest"),
    ),
    (
        "volumes[].emptyDisk",
        Lost("an empty disk is made anew at each start", "add an empty disk where the appliance is imported"),
    ),
    (
        "volumes[].ephemeral",
        Lost(
            "a disk that forgets what is written to it is not exported",
            "export the claim behind it with --pvc",
        ),
    ),
    (
        "volumes[].hostDisk",
        Lost("a file of a node is not exported", "copy it, and give it to 'vmferry pack'"),
    ),
    (
        "volumes[].memoryDump",
        Lost("a memory dump is no disk", "nothing to do, unless it is wanted: it is a claim of its own"),
    ),
    ("volumes[].secret", Lost(CLUSTER_DATA, CLUSTER_DATA_REMEDY)),
    ("volumes[].serviceAccount", Lost(CLUSTER_DATA, CLUSTER_DATA_REMEDY)),
    (
        "volumes[].sysprep",
        Lost(
            "the answer file for Windows' set-up is not in the appliance",
            "nothing to do, once Windows is set up",
        ),
    ),
    // The machine.
    (
        "domain.chassis",
        Lost("SMBIOS tells another chassis", "check software that is licensed by these values"),
    ),
    ("domain.clock.timer", Harmless),
    (
        "domain.clock.timezone",
        Lost(
            "the hardware clock ran in this time zone, and runs in UTC or as the importer thinks",
            "check the guest's clock after the first start",
        ),
    ),
    (
        "domain.clock.utc.offsetSeconds",
        Lost("the hardware clock had an offset", "check the guest's clock after the first start"),
    ),
    ("domain.cpu.cores", Mapped),
    (
        "domain.cpu.dedicatedCpuPlacement",
        Lost("CPUs are not the guest's alone", "reserve CPUs where the appliance runs"),
    ),
    ("domain.cpu.features", Mapped),
    (
        "domain.cpu.isolateEmulatorThread",
        Lost("the emulator has no CPU of its own", "reserve CPUs where the appliance runs"),
    ),
    ("domain.cpu.maxSockets", Mapped),
    ("domain.cpu.model", Mapped),
    (
        "domain.cpu.numa",
        Lost("the guest sees no NUMA nodes of the host", "set up vNUMA where the appliance runs"),
    ),
    (
        "domain.cpu.realtime",
        Lost("nothing is tuned for real time", "set latency sensitivity where the appliance runs"),
    ),
    ("domain.cpu.sockets", Mapped),
    ("domain.cpu.threads", Mapped),
    ("domain.features.acpi", Harmless),
    ("domain.features.apic", Harmless),
    (
        "domain.features.hyperv",
        Lost(
            "KVM's imitation of Hyper-V is gone",
            "nothing to do: Windows uses what its new hypervisor offers",
        ),
    ),
    (
        "domain.features.hypervPassthrough",
        Lost(
            "KVM's imitation of Hyper-V is gone",
            "nothing to do: Windows uses what its new hypervisor offers",
        ),
    ),
    (
        "domain.features.kvm.hidden",
        Lost("the guest sees its hypervisor", "set hypervisor.cpuid.v0 = FALSE, or what is like it"),
    ),
    ("domain.features.pvspinlock", Harmless),
    ("domain.features.smm", Harmless),
    (
        "domain.firmware.acpi",
        Lost("ACPI tables with a Windows licence are not in the appliance", "activate Windows anew"),
    ),
    (
        "domain.firmware.bootloader.bios.useSerial",
        Lost("the BIOS does not write to the serial port", "use the graphical console"),
    ),
    (
        "domain.firmware.bootloader.efi.persistent",
        Lost(
            "EFI variables, boot entries among them, are not in the appliance",
            "make sure that the disk has the fallback loader EFI/BOOT/BOOTX64.EFI, or add the boot entry anew",
        ),
    ),
    ("domain.firmware.bootloader.efi.secureBoot", Mapped),
    (
        "domain.firmware.kernelBoot",
        Lost(
            "a kernel from outside of the disks cannot be started",
            "install a boot loader in the guest before the export",
        ),
    ),
    ("domain.firmware.serial", Mapped),
    ("domain.firmware.uuid", Mapped),
    ("domain.ioThreads", Harmless),
    ("domain.ioThreadsPolicy", Harmless),
    (
        "domain.launchSecurity",
        Lost(
            "memory is not encrypted (SEV, SNP, TDX)",
            "set up confidential computing where the appliance runs, if it can",
        ),
    ),
    ("domain.machine.type", Mapped),
    ("domain.memory.guest", Mapped),
    ("domain.memory.hugepages.pageSize", Mapped),
    ("domain.memory.maxGuest", Mapped),
    ("domain.memory.reservedOverhead", Harmless),
    ("domain.rebootPolicy", Harmless),
    ("domain.resources.limits.cpu", Mapped),
    ("domain.resources.limits.memory", Mapped),
    ("domain.resources.limits.*", Harmless),
    ("domain.resources.requests.cpu", Mapped),
    ("domain.resources.requests.memory", Mapped),
    ("domain.resources.requests.*", Harmless),
    ("domain.resources.*", Harmless),
    // Devices.
    ("domain.devices.autoattachGraphicsDevice", Harmless),
    ("domain.devices.autoattachInputDevice", Harmless),
    ("domain.devices.autoattachMemBalloon", Harmless),
    ("domain.devices.autoattachPodInterface", Mapped),
    ("domain.devices.autoattachSerialConsole", Harmless),
    (
        "domain.devices.autoattachVSOCK",
        Lost("there is no VSOCK to the host", "let the guest's services use the network"),
    ),
    ("domain.devices.blockMultiQueue", Harmless),
    (
        "domain.devices.clientPassthrough",
        Lost("USB devices of the viewer are not redirected", "use what the importer's console offers"),
    ),
    ("domain.devices.disableHotplug", Harmless),
    (
        "domain.devices.downwardMetrics",
        Lost("the host's metrics are not offered elsewhere", "stop what reads them in the guest"),
    ),
    (
        "domain.devices.filesystems[]",
        Lost(
            "a file system that is shared with the host (virtiofs) is not in the appliance",
            "copy its files to a disk, or mount them by NFS",
        ),
    ),
    (
        "domain.devices.gpus[]",
        Lost(
            "a GPU is not part of an appliance",
            "assign one where the appliance runs, and install its driver",
        ),
    ),
    (
        "domain.devices.hostDevices[]",
        Lost("a device of the host is not part of an appliance", "assign one where the appliance runs"),
    ),
    ("domain.devices.inputs", Harmless),
    ("domain.devices.logSerialConsole", Harmless),
    ("domain.devices.networkInterfaceMultiqueue", Harmless),
    (
        "domain.devices.panicDevices[]",
        Lost("the guest's crashes are not reported to the host", "set up kdump in the guest"),
    ),
    (
        "domain.devices.rng",
        Lost(
            "there is no virtio random number generator",
            "nothing to do: guests of today seed themselves from the CPU",
        ),
    ),
    ("domain.devices.sound", Mapped),
    ("domain.devices.tpm.enabled", Mapped),
    (
        "domain.devices.tpm.persistent",
        Lost(
            "what the TPM holds is not in the appliance",
            "suspend BitLocker and the like before the export, or have the recovery key at hand",
        ),
    ),
    ("domain.devices.useVirtioTransitional", Harmless),
    ("domain.devices.video", Harmless),
    (
        "domain.devices.watchdog",
        Lost(
            "there is no watchdog",
            "turn off the watchdog service in the guest, or add one where the appliance runs",
        ),
    ),
    // Disks.
    (
        "domain.devices.disks[].blockSize",
        Lost(
            "disks have sectors of 512 bytes in an appliance",
            "a guest that was installed on 4096-byte sectors may not start: move it to 512-byte sectors first",
        ),
    ),
    ("domain.devices.disks[].bootOrder", Mapped),
    ("domain.devices.disks[].cache", Harmless),
    ("domain.devices.disks[].cdrom.bus", Mapped),
    ("domain.devices.disks[].cdrom.readonly", Harmless),
    ("domain.devices.disks[].cdrom.tray", Harmless),
    ("domain.devices.disks[].changedBlockTracking", Harmless),
    ("domain.devices.disks[].dedicatedIOThread", Harmless),
    ("domain.devices.disks[].disk.bus", Mapped),
    ("domain.devices.disks[].disk.pciAddress", Lost(ADDRESS_PCI, ADDRESS_PCI_REMEDY)),
    (
        "domain.devices.disks[].disk.readonly",
        Lost("the disk can be written to", "set it read-only where the appliance is imported"),
    ),
    ("domain.devices.disks[].errorPolicy", Harmless),
    ("domain.devices.disks[].io", Harmless),
    ("domain.devices.disks[].lun.bus", Mapped),
    (
        "domain.devices.disks[].lun.readonly",
        Lost("the disk can be written to", "set it read-only where the appliance is imported"),
    ),
    (
        "domain.devices.disks[].lun.reservation",
        Lost("SCSI reservations do not reach the storage", "set up shared disks where the appliance runs"),
    ),
    ("domain.devices.disks[].name", Mapped),
    ("domain.devices.disks[].serial", Mapped),
    (
        "domain.devices.disks[].shareable",
        Lost("the disk is a copy that nobody else uses", "set up shared disks where the appliance runs"),
    ),
    ("domain.devices.disks[].tag", Harmless),
    // Network cards.
    (
        "domain.devices.interfaces[].acpiIndex",
        Lost("the guest may call this network card otherwise", "check the guest's network configuration"),
    ),
    ("domain.devices.interfaces[].binding", Mapped),
    ("domain.devices.interfaces[].bootOrder", Mapped),
    ("domain.devices.interfaces[].bridge", Harmless),
    (
        "domain.devices.interfaces[].dhcpOptions",
        Lost("the guest was told these options by DHCP", "set them in its new network's DHCP"),
    ),
    ("domain.devices.interfaces[].macAddress", Mapped),
    ("domain.devices.interfaces[].macvtap", Mapped),
    ("domain.devices.interfaces[].masquerade", Harmless),
    ("domain.devices.interfaces[].model", Mapped),
    ("domain.devices.interfaces[].name", Mapped),
    ("domain.devices.interfaces[].passt", Mapped),
    ("domain.devices.interfaces[].passtBinding", Mapped),
    ("domain.devices.interfaces[].pciAddress", Lost(ADDRESS_PCI, ADDRESS_PCI_REMEDY)),
    ("domain.devices.interfaces[].portRanges", Lost(PORTS, PORTS_REMEDY)),
    ("domain.devices.interfaces[].ports", Lost(PORTS, PORTS_REMEDY)),
    ("domain.devices.interfaces[].slirp", Mapped),
    ("domain.devices.interfaces[].sriov", Mapped),
    ("domain.devices.interfaces[].state", Mapped),
    ("domain.devices.interfaces[].tag", Harmless),
];

const ADDRESS: &str = "the guest had its address from this range behind the node's NAT";
const ADDRESS_REMEDY: &str = "let the guest use DHCP, or give it an address of its new network";
const ADDRESS_PCI: &str = "the device has another PCI address";
const ADDRESS_PCI_REMEDY: &str = "check what in the guest is named by PCI address";
const CLOUD_INIT: &str = "the cloud-init disk is not in the appliance";
const CLOUD_INIT_REMEDY: &str =
    "nothing to do, if the guest need not be set up again; else attach a seed ISO where it is imported";
const CLUSTER_DATA: &str = "data that the cluster offered as a disk are not in the appliance";
const CLUSTER_DATA_REMEDY: &str = "copy what the guest needs of them to one of its disks";
const PORTS: &str = "only these ports of the guest could be reached";
const PORTS_REMEDY: &str = "set up a firewall in the guest or in its new network";
