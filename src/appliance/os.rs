//! Operating systems: from the hints that KubeVirt has to the names that importers know.
//!
//! VMware refuses names that it does not know yet, so the names here are those of vSphere 7.0 and older,
//! each with the virtual hardware that it came with.

use std::ops::RangeInclusive;

use super::hardware::{GuestOs, OsFamily};

impl GuestOs {
    /// What nothing is known about.
    pub fn unknown() -> Self {
        Self::new(OsFamily::Other, 1, "otherGuest64", OLDEST, "Other (64-bit)")
    }

    /// What a hint means: the name of a preference (`rhel.9`, `windows.2k22`), the value of an annotation
    /// (`fedora`), a name of VMware's (`ubuntu64Guest`) or of VirtualBox's (`RedHat_64`), or a description
    /// (`Red Hat Enterprise Linux 9 (64-bit)`). `None` if it means nothing here.
    pub fn from_hint(hint: &str) -> Option<Self> {
        let hint = hint.to_ascii_lowercase();
        let hint = without_width(&hint);
        let (prefix, make) = FAMILIES.iter().find(|(prefix, _)| hint.starts_with(prefix))?;
        Some(make(&hint[prefix.len()..]))
    }

    /// What a value of `CIM_OperatingSystem.OSType` means, as far as it says: most have no version.
    pub(super) fn from_cim_id(id: u16) -> Option<Self> {
        Self::from_hint(match id {
            36 | 97..=101 => "linux",
            67 | 69..=71 | 73 | 74 | 111 | 113 | 114 | 117 | 118 => "windows",
            76 | 77 | 103 => "windows.2k8",
            79 | 80 => "rhel",
            82..=85 => "sles",
            93 | 94 => "ubuntu",
            95 | 96 => "debian",
            105 => "windows.7",
            106 | 107 => "centos",
            108 | 109 => "oracle",
            112 => "windows.2k12",
            115 => "windows.2k12r2",
            116 => "windows.2k16",
            119 | 120 => "windows.10",
            121 => "windows.2k19",
            122 => "windows.11",
            123 => "windows.2k22",
            _ => return None,
        })
    }

    /// Whether it is more than a family.
    pub(super) fn is_specific(&self) -> bool {
        !GENERIC.contains(&self.description.as_str())
    }

    fn new(
        family: OsFamily,
        cim_id: u16,
        vmw_os_type: &str,
        hardware_version: u32,
        description: &str,
    ) -> Self {
        Self {
            family,
            cim_id,
            vmw_os_type: vmw_os_type.to_owned(),
            hardware_version,
            description: description.to_owned(),
            has_lsilogic: false,
        }
    }

    /// With the driver of LSI Logic's parallel SCSI, if its version is known and one of these.
    fn with_lsilogic(self, version: Option<u32>, versions: RangeInclusive<u32>) -> Self {
        Self { has_lsilogic: version.is_some_and(|version| versions.contains(&version)), ..self }
    }

    /// A Linux distribution: its name, and VMware's for each version that it is known from.
    fn linux(name: &str, cim_id: u16, version: Option<u32>, types: &[(u32, &str, u32)]) -> Self {
        // Without a version the oldest name is the one that most hosts know.
        let wanted = version.unwrap_or(0);
        let found = types.iter().rev().find(|(from, ..)| *from <= wanted).or_else(|| types.first());
        let (_, vmw_os_type, hardware) = *found.unwrap_or(&(0, OTHER_LINUX, OTHER_LINUX_HARDWARE));
        let version = version.map_or_else(String::new, |version| format!(" {version}"));
        Self::new(OsFamily::Linux, cim_id, vmw_os_type, hardware, &format!("{name}{version} (64-bit)"))
    }

    fn windows(rest: &str) -> Self {
        let is_r2 = rest.contains("r2");
        // VMware numbers its servers by the desktop's kernel.
        let kernel = [(7, 2008), (8, 2012), (9, 2016)];
        let server =
            kernel.into_iter().find(|(kernel, _)| number(rest) == Some(*kernel) && rest.contains("server"));
        let year = rest.split_once("2k").map(|(_, year)| 2000 + number(year).unwrap_or(0));
        let year = year.or_else(|| number(rest).filter(|year| (2000..2100).contains(year)));
        let year = year.or_else(|| server.map(|(_, year)| year));
        let new = |cim_id, vmw_os_type, hardware, name: &str| {
            Self::new(OsFamily::Windows, cim_id, vmw_os_type, hardware, &format!("Windows {name} (64-bit)"))
        };
        match (year, number(rest)) {
            (Some(2000..=2011), _) => new(103, "windows7Server64Guest", OLDEST, "Server 2008 R2"),
            (Some(2012..=2015), _) if is_r2 => new(115, "windows8Server64Guest", OLDEST, "Server 2012 R2"),
            (Some(2012..=2015), _) => new(112, "windows8Server64Guest", OLDEST, "Server 2012"),
            (Some(2016..=2018), _) => new(116, "windows9Server64Guest", OLDEST, "Server 2016"),
            (Some(2019..=2021), _) => new(121, "windows2019srv_64Guest", 17, "Server 2019"),
            (Some(2022..=2024), _) => new(123, "windows2019srv_64Guest", 17, "Server 2022"),
            (Some(_), _) => new(123, "windows2019srv_64Guest", 17, "Server 2025"),
            (None, Some(7)) => new(105, "windows7_64Guest", OLDEST, "7"),
            (None, Some(11)) => new(122, "windows9_64Guest", OLDEST, "11"),
            (None, Some(9 | 10)) => new(120, "windows9_64Guest", OLDEST, "10"),
            (None, _) => Self::new(OsFamily::Windows, 120, "windows9_64Guest", OLDEST, GENERIC[1]),
        }
    }
}

/// Without what says how many bits it has: the 64 is no version.
fn without_width(hint: &str) -> &str {
    let mut hint = hint.trim();
    while let Some(shorter) = WIDTHS.iter().find_map(|width| hint.strip_suffix(width)) {
        hint = shorter.trim_end();
    }
    hint
}

/// The version of a distribution; `CentOS 4/5 or later` is none.
fn version(rest: &str) -> Option<u32> {
    if rest.contains("or later") { None } else { number(rest) }
}

/// The first number in a text.
fn number(text: &str) -> Option<u32> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits = &text[start..];
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Makes an operating system of what stands behind the prefix.
type Make = fn(&str) -> GuestOs;

/// The first prefix that fits counts, so longer ones come first.
const FAMILIES: [(&str, Make); 30] = [
    ("microsoft windows", GuestOs::windows),
    ("windows", GuestOs::windows),
    ("win", GuestOs::windows),
    ("rhel coreos", rhcos),
    ("rhel", rhel),
    ("red hat enterprise linux coreos", rhcos),
    ("red hat", rhel),
    ("redhat", rhel),
    ("centos", centos),
    ("fedora coreos", fcos),
    ("fedora", |rest| GuestOs::linux("Fedora", 101, version(rest), &[(0, "fedora64Guest", OLDEST)])),
    ("ubuntu", ubuntu),
    ("debian", debian),
    ("opensuse", opensuse),
    ("sles", sles),
    ("suse", |rest| if rest.contains("opensuse") { opensuse(rest) } else { sles(rest) }),
    ("oracle", oracle),
    ("ol", oracle),
    ("alma", |rest| GuestOs::linux("AlmaLinux", 101, version(rest), &[])),
    ("rocky", |rest| GuestOs::linux("Rocky Linux", 101, version(rest), &[])),
    ("alpine", |_| GuestOs::linux("Alpine Linux", 101, None, &[])),
    ("arch", |_| GuestOs::linux("Arch Linux", 101, None, &[])),
    ("cirros", |_| GuestOs::linux("CirrOS", 101, None, &[])),
    ("fcos", fcos),
    ("flatcar", |_| GuestOs::linux("Flatcar", 101, None, &[])),
    ("gentoo", |_| GuestOs::linux("Gentoo", 101, None, &[])),
    ("rhcos", rhcos),
    ("otherlinux", linux),
    ("linux", linux),
    ("other", |rest| if rest.contains("linux") { linux(rest) } else { GuestOs::unknown() }),
];

fn rhel(rest: &str) -> GuestOs {
    let types = [
        (0, "rhel6_64Guest", OLDEST),
        (7, "rhel7_64Guest", OLDEST),
        (8, "rhel8_64Guest", 14),
        (9, "rhel9_64Guest", 17),
    ];
    let version = version(rest);
    GuestOs::linux("Red Hat Enterprise Linux", 80, version, &types).with_lsilogic(version, RED_HAT_LSILOGIC)
}

fn rhcos(_: &str) -> GuestOs {
    GuestOs::linux("RHEL CoreOS", 101, None, &[])
}

fn centos(rest: &str) -> GuestOs {
    let types = [(0, "centos7_64Guest", OLDEST), (8, "centos8_64Guest", 14), (9, "centos9_64Guest", 17)];
    let version = version(rest);
    GuestOs::linux("CentOS", 107, version, &types).with_lsilogic(version, RED_HAT_LSILOGIC)
}

fn oracle(rest: &str) -> GuestOs {
    let types = [
        (0, "oracleLinux7_64Guest", OLDEST),
        (8, "oracleLinux8_64Guest", 14),
        (9, "oracleLinux9_64Guest", 17),
    ];
    let version = version(rest);
    GuestOs::linux("Oracle Linux", 109, version, &types).with_lsilogic(version, RED_HAT_LSILOGIC)
}

fn fcos(_: &str) -> GuestOs {
    GuestOs::linux("Fedora CoreOS", 101, None, &[])
}

fn ubuntu(rest: &str) -> GuestOs {
    let version = version(rest);
    GuestOs::linux("Ubuntu Linux", 94, version, &[(0, "ubuntu64Guest", OLDEST)])
        .with_lsilogic(version, UBUNTU_LSILOGIC)
}

fn debian(rest: &str) -> GuestOs {
    let types = [(0, "debian9_64Guest", OLDEST), (10, "debian10_64Guest", 14), (11, "debian11_64Guest", 17)];
    let version = version(rest);
    GuestOs::linux("Debian GNU/Linux", 96, version, &types).with_lsilogic(version, DEBIAN_LSILOGIC)
}

fn opensuse(rest: &str) -> GuestOs {
    GuestOs::linux("openSUSE", 101, version(rest), &[(0, "opensuse64Guest", OLDEST)])
}

fn sles(rest: &str) -> GuestOs {
    let types = [(0, "sles12_64Guest", OLDEST), (15, "sles15_64Guest", 14)];
    let version = version(rest);
    GuestOs::linux("SUSE Linux Enterprise", 85, version, &types).with_lsilogic(version, SUSE_LSILOGIC)
}

fn linux(_: &str) -> GuestOs {
    GuestOs::new(OsFamily::Linux, 101, OTHER_LINUX, OTHER_LINUX_HARDWARE, GENERIC[0])
}

/// The versions of which every kernel is known to have mptspi. Red Hat took it out of version 8, and those
/// who build from its sources with it.
const RED_HAT_LSILOGIC: RangeInclusive<u32> = 5..=7;
/// Version 15 has a small kernel for VMs, kernel-default-base.
const SUSE_LSILOGIC: RangeInclusive<u32> = 11..=12;
/// Version 10 has a small kernel for VMs, linux-image-cloud-amd64.
const DEBIAN_LSILOGIC: RangeInclusive<u32> = 7..=9;
/// Version 16.04 has a small kernel for VMs, linux-kvm.
const UBUNTU_LSILOGIC: RangeInclusive<u32> = 12..=14;

/// How names end that say how many bits the system has; VMware's end with `Guest`, too.
const WIDTHS: [&str; 7] = ["(64-bit)", "(32-bit)", "_64guest", "64guest", "guest64", "guest", "_64"];

/// Virtual hardware of vSphere 6.5.
pub(super) const OLDEST: u32 = 13;

/// Linux 4 and newer, known since vSphere 6.7.
const OTHER_LINUX: &str = "other4xLinux64Guest";
const OTHER_LINUX_HARDWARE: u32 = 14;

/// Descriptions that name a family only.
const GENERIC: [&str; 3] = ["Linux (64-bit)", "Windows (64-bit)", "Other (64-bit)"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_of_all_kinds_are_understood() {
        for (hint, cim, vmware) in [
            ("rhel.9", 80, "rhel9_64Guest"),
            ("rhel.10", 80, "rhel9_64Guest"),
            ("rhel8.6", 80, "rhel8_64Guest"),
            ("rhel.9.dpdk", 80, "rhel9_64Guest"),
            ("windows.11", 122, "windows9_64Guest"),
            ("windows.10.virtio", 120, "windows9_64Guest"),
            ("win2k22", 123, "windows2019srv_64Guest"),
            ("windows.2k12r2", 115, "windows8Server64Guest"),
            ("windows2k25", 123, "windows2019srv_64Guest"),
            ("windows7_64Guest", 105, "windows7_64Guest"),
            ("windows9Server64Guest", 116, "windows9Server64Guest"),
            ("windows2019srvNext_64Guest", 121, "windows2019srv_64Guest"),
            ("windows", 120, "windows9_64Guest"),
            ("Fedora", 101, "fedora64Guest"),
            ("centos.stream9", 107, "centos9_64Guest"),
            ("debian", 96, "debian9_64Guest"),
            ("debian12_64Guest", 96, "debian11_64Guest"),
            ("ubuntu22.04", 94, "ubuntu64Guest"),
            ("opensuse.leap", 101, "opensuse64Guest"),
            ("sles15", 85, "sles15_64Guest"),
            ("oraclelinux", 109, "oracleLinux7_64Guest"),
            ("alpine", 101, "other4xLinux64Guest"),
            ("linux", 101, "other4xLinux64Guest"),
            ("otherGuest64", 1, "otherGuest64"),
            ("Red Hat Enterprise Linux 9 (64-bit)", 80, "rhel9_64Guest"),
            ("RedHat_64", 80, "rhel6_64Guest"),
            ("RedHat8_64", 80, "rhel8_64Guest"),
            ("Debian_64", 96, "debian9_64Guest"),
            ("Debian11_64", 96, "debian11_64Guest"),
            ("Ubuntu22_LTS_64", 94, "ubuntu64Guest"),
            ("Oracle_64", 109, "oracleLinux7_64Guest"),
            ("OpenSUSE_64", 101, "opensuse64Guest"),
            ("SUSE_LE_64", 85, "sles12_64Guest"),
            ("SUSE Linux Enterprise 15 (64-bit)", 85, "sles15_64Guest"),
            ("SUSE openSUSE (64-bit)", 101, "opensuse64Guest"),
            ("Microsoft Windows Server 2016 or later (64-bit)", 116, "windows9Server64Guest"),
            ("Microsoft Windows 10 (64-bit)", 120, "windows9_64Guest"),
            ("Windows2022_64", 123, "windows2019srv_64Guest"),
            ("windows7Server64Guest", 103, "windows7Server64Guest"),
            ("CentOS 4/5 or later (64-bit)", 107, "centos7_64Guest"),
            ("centos64Guest", 107, "centos7_64Guest"),
            ("Other 4.x or later Linux (64-bit)", 101, "other4xLinux64Guest"),
            ("RHEL CoreOS (64-bit)", 101, "other4xLinux64Guest"),
            ("Fedora CoreOS (64-bit)", 101, "other4xLinux64Guest"),
        ] {
            let os = GuestOs::from_hint(hint).unwrap();
            assert_eq!((os.cim_id, os.vmw_os_type.as_str()), (cim, vmware), "{hint}");
            assert!((OLDEST..=17).contains(&os.hardware_version), "{hint}");
        }
        for nothing in ["", "legacy", "plan9", "true"] {
            assert_eq!(GuestOs::from_hint(nothing), None, "{nothing}");
        }
        assert!(!GuestOs::from_hint("linux").unwrap().is_specific());
        assert!(GuestOs::from_hint("alpine").unwrap().is_specific());
        let described = |hint| GuestOs::from_hint(hint).unwrap().description;
        assert_eq!(described("ubuntu64Guest"), "Ubuntu Linux (64-bit)");
        assert_eq!(described("fedora64Guest"), "Fedora (64-bit)");
    }

    #[test]
    fn lsi_logic_is_for_versions_that_are_known_to_drive_it() {
        let has = |hint: &str| GuestOs::from_hint(hint).unwrap().has_lsilogic;
        for hint in ["rhel.7", "rhel6.10", "centos.7", "oraclelinux7", "sles12", "debian9", "ubuntu14.04"] {
            assert!(has(hint), "{hint}");
        }
        for hint in [
            "rhcos",
            "rhel",
            "rhel.8",
            "rhel.10",
            "centos",
            "centos64Guest",
            "centos.stream9",
            "oracle",
            "oraclelinux8",
            "CentOS 4/5 or later (64-bit)",
            "alma9",
            "rocky",
            "sles",
            "sles15",
            "debian",
            "debian12",
            "ubuntu",
            "ubuntu64Guest",
            "ubuntu22.04",
            "fedora",
            "linux",
            "other",
            "windows.2k8",
        ] {
            assert!(!has(hint), "{hint}");
        }
        assert!(!GuestOs::unknown().has_lsilogic);
    }

    #[test]
    fn what_is_numbered_by_cim_is_understood() {
        for hint in
            ["windows.11", "windows.2k12r2", "rhel", "sles", "ubuntu", "debian", "centos", "oracle", "linux"]
        {
            let os = GuestOs::from_hint(hint).unwrap();
            assert_eq!(GuestOs::from_cim_id(os.cim_id), Some(os), "{hint}");
        }
        for nothing in [0, 1, 2, 42, 102, u16::MAX] {
            assert_eq!(GuestOs::from_cim_id(nothing), None, "{nothing}");
        }
    }
}
