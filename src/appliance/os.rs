//! Operating systems: from the hints that KubeVirt has to the names that importers know.
//!
//! VMware refuses names that it does not know yet, so the names here are those of vSphere 7.0 and older,
//! each with the virtual hardware that it came with.

use super::hardware::{GuestOs, OsFamily};

impl GuestOs {
    /// What nothing is known about.
    pub fn unknown() -> Self {
        Self::new(OsFamily::Other, 1, "otherGuest64", OLDEST, "Other (64-bit)")
    }

    /// What a hint means: the name of a preference (`rhel.9`, `windows.2k22`), the value of an annotation
    /// (`fedora`), one of VMware's names (`ubuntu64Guest`). `None` if it means nothing here.
    pub fn from_hint(hint: &str) -> Option<Self> {
        let hint = hint.trim().to_ascii_lowercase();
        let family = FAMILIES.iter().find(|(prefix, _)| hint.starts_with(prefix));
        let (prefix, make) = family?;
        Some(make(&hint[prefix.len()..]))
    }

    /// Whether it is more than a family.
    pub(super) fn is_specific(&self) -> bool {
        !GENERIC.contains(&self.description.as_str())
    }

    /// Whether its kernel has the driver of LSI Logic's parallel SCSI (mptspi). Red Hat took it out of
    /// version 8, and those who build from its sources have none either.
    pub(super) fn has_lsilogic(&self) -> bool {
        let is_red_hat = matches!(self.cim_id, 80 | 107 | 109)
            && self.hardware_version >= OTHER_LINUX_HARDWARE
            || ["AlmaLinux", "Rocky"].iter().any(|name| self.description.starts_with(name));
        self.family != OsFamily::Windows && !is_red_hat
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
        }
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
const FAMILIES: [(&str, Make); 25] = [
    ("windows", GuestOs::windows),
    ("win", GuestOs::windows),
    ("rhel", rhel),
    ("redhat", rhel),
    ("centos", |rest| {
        let types = [(0, "centos7_64Guest", OLDEST), (8, "centos8_64Guest", 14), (9, "centos9_64Guest", 17)];
        GuestOs::linux("CentOS", 107, number(rest), &types)
    }),
    ("fedora", |rest| GuestOs::linux("Fedora", 101, number(rest), &[(0, "fedora64Guest", OLDEST)])),
    ("ubuntu", |rest| GuestOs::linux("Ubuntu Linux", 94, number(rest), &[(0, "ubuntu64Guest", OLDEST)])),
    ("debian", |rest| {
        let types =
            [(0, "debian9_64Guest", OLDEST), (10, "debian10_64Guest", 14), (11, "debian11_64Guest", 17)];
        GuestOs::linux("Debian GNU/Linux", 96, number(rest), &types)
    }),
    ("opensuse", |rest| GuestOs::linux("openSUSE", 101, number(rest), &[(0, "opensuse64Guest", OLDEST)])),
    ("sles", sles),
    ("suse", sles),
    ("oracle", oracle),
    ("ol", oracle),
    ("alma", |rest| GuestOs::linux("AlmaLinux", 101, number(rest), &[])),
    ("rocky", |rest| GuestOs::linux("Rocky Linux", 101, number(rest), &[])),
    ("alpine", |_| GuestOs::linux("Alpine Linux", 101, None, &[])),
    ("arch", |_| GuestOs::linux("Arch Linux", 101, None, &[])),
    ("cirros", |_| GuestOs::linux("CirrOS", 101, None, &[])),
    ("fcos", |_| GuestOs::linux("Fedora CoreOS", 101, None, &[])),
    ("flatcar", |_| GuestOs::linux("Flatcar", 101, None, &[])),
    ("gentoo", |_| GuestOs::linux("Gentoo", 101, None, &[])),
    ("rhcos", |_| GuestOs::linux("RHEL CoreOS", 101, None, &[])),
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
    GuestOs::linux("Red Hat Enterprise Linux", 80, number(rest), &types)
}

fn sles(rest: &str) -> GuestOs {
    let types = [(0, "sles12_64Guest", OLDEST), (15, "sles15_64Guest", 14)];
    GuestOs::linux("SUSE Linux Enterprise", 85, number(rest), &types)
}

fn oracle(rest: &str) -> GuestOs {
    let types = [
        (0, "oracleLinux7_64Guest", OLDEST),
        (8, "oracleLinux8_64Guest", 14),
        (9, "oracleLinux9_64Guest", 17),
    ];
    GuestOs::linux("Oracle Linux", 109, number(rest), &types)
}

fn linux(_: &str) -> GuestOs {
    GuestOs::new(OsFamily::Linux, 101, OTHER_LINUX, OTHER_LINUX_HARDWARE, GENERIC[0])
}

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
    }
}
