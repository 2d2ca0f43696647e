//! What becomes of foreign descriptors, part by part.

use super::*;

fn read(id: u16, named: Option<&str>, description: Option<&str>) -> GuestOs {
    let os = ovf::OperatingSystem {
        id,
        version: None,
        description: description.map(str::to_owned),
        vmw_os_type: named.map(str::to_owned),
    };
    os_of(&os, None)
}

#[test]
fn hardware_of_a_name_that_is_not_known_is_that_of_the_descriptor() {
    for (named, families, expected) in [
        ("windows11_64Guest", "vmx-20", 20),
        ("windows11_64Guest", "virtualbox-2.2 vmx-21 vmx-19", 19),
        ("windows11_64Guest", "vmx-07", OLDEST),
        ("windows11_64Guest", "vmx-4000000000", OLDEST),
        ("windows11_64Guest", "", OLDEST),
        ("debian12_64Guest", "vmx-13", 17),
        // What is known is known to have come with older hardware.
        ("rhel7_64Guest", "vmx-20", OLDEST),
    ] {
        let system = ovf::System { system_type: Some(families.into()), ..ovf::System::default() };
        let os = ovf::OperatingSystem { id: 1, vmw_os_type: Some(named.into()), ..Default::default() };
        let mut envelope = Envelope::default();
        (envelope.system.hardware.system, envelope.system.os) = (Some(system), Some(os));
        envelope.system.hardware.items =
            vec![Item { resource_type: resource::MEMORY, virtual_quantity: Some(64), ..Item::default() }];
        let os = of_ovf(&envelope).unwrap().0.os.unwrap();
        assert_eq!((os.hardware_version, os.vmw_os_type.as_str()), (expected, named), "{families}");
    }
}

#[test]
fn systems_are_known_by_name_by_description_or_by_number() {
    for (id, named, description, expected) in [
        (80, None, Some("Red Hat Enterprise Linux 9 (64-bit)"), "rhel9_64Guest"),
        (80, None, Some("RedHat_64"), "rhel6_64Guest"),
        (96, None, Some("Debian_64"), "debian9_64Guest"),
        (121, None, Some("Microsoft Windows Server 2019 (64-bit)"), "windows2019srv_64Guest"),
        (85, None, Some("SUSE Linux Enterprise 15 (64-bit)"), "sles15_64Guest"),
        (80, None, Some("the till of shop 7"), "rhel6_64Guest"),
        (94, None, None, "ubuntu64Guest"),
        (101, Some("amazonlinux2_64Guest"), Some("Amazon Linux 2 (64-bit)"), "amazonlinux2_64Guest"),
        (1, None, Some("Something else"), "otherGuest64"),
    ] {
        let os = read(id, named, description);
        assert_eq!((os.vmw_os_type.as_str(), os.cim_id), (expected, id), "{named:?} {description:?}");
        assert_eq!(os.family == OsFamily::Other, id == 1, "{named:?} {description:?}");
        assert!(!os.has_lsilogic, "{named:?} {description:?}");
    }
    assert_eq!(read(1, Some("rhel9_64Guest"), None).cim_id, 80, "VMware's name says more than 'other'");
    assert!(read(80, Some("rhel7_64Guest"), None).has_lsilogic);
}

#[test]
fn disks_come_in_the_order_of_their_places() {
    let item = |id: &str, kind: u16, parent: Option<&str>, place: &str| Item {
        instance_id: id.into(),
        resource_type: kind,
        parent: parent.map(str::to_owned),
        address: parent.is_none().then(|| place.to_owned()),
        address_on_parent: parent.map(|_| place.to_owned()),
        ..Item::default()
    };
    let items = [
        item("later", resource::SCSI, None, "1"),
        item("first", resource::SCSI, None, "0"),
        item("cd", resource::CD, Some("first"), "0"),
        item("a", resource::DISK, Some("later"), "0"),
        item("b", resource::DISK, Some("first"), "10"),
        item("c", resource::DISK, Some("first"), "9"),
        item("d", resource::DISK, Some("nobody"), "0"),
    ];
    let ids: Vec<&str> = in_order(&items).iter().map(|item| item.instance_id.as_str()).collect();
    assert_eq!(ids, ["later", "first", "c", "b", "a", "d", "cd"]);
}

#[test]
fn what_is_read_and_not_described_anew_is_told() {
    let setting = |key: &str| ovf::Setting { key: key.into(), value: "1".into() };
    let item = |id: &str, kind: u16| Item {
        instance_id: id.into(),
        resource_type: kind,
        virtual_quantity: Some(64),
        config: vec![setting("slotInfo.pciSlotNumber")],
        ..Item::default()
    };
    let disk = |id: &str| ovf::Disk { id: id.into(), capacity: 512, ..ovf::Disk::default() };
    let items = vec![
        Item { reservation: Some(64), ..item("1", resource::MEMORY) },
        Item { limit: Some(1000), reservation: Some(0), ..item("2", resource::CPU) },
        Item { host_resources: vec!["ovf:/disk/a".into()], ..item("3", resource::DISK) },
        Item { connections: vec!["lan".into(), "dmz".into()], ..item("4", resource::ETHERNET) },
    ];
    let product = ovf::Product { version: Some("7".into()), ..ovf::Product::default() };
    let envelope = Envelope {
        disks: vec![disk("a"), disk("b")],
        system: ovf::VirtualSystem {
            hardware: ovf::Hardware { items, transport: Some("iso".into()), ..ovf::Hardware::default() },
            products: vec![product],
            ..ovf::VirtualSystem::default()
        },
        ..Envelope::default()
    };
    let (hardware, warnings) = of_ovf(&envelope).unwrap();
    assert_eq!((hardware.disks.len(), hardware.nics[0].name.as_str()), (1, "lan"));
    let told: Vec<&str> = warnings.iter().map(|warning| warning.field.as_str()).collect();
    let expected = ["Item[1]", "Item[2]", "Item[4]", "Item/vmw:Config", "Disk[b]", "ProductSection"];
    assert_eq!(told, [&expected[..], &["VirtualHardwareSection"]].concat(), "{warnings:?}");
}

#[test]
fn media_and_files_of_nobody_are_told() {
    let item = |id: &str, kind: u16, resource: &str| Item {
        instance_id: id.into(),
        resource_type: kind,
        host_resources: vec![resource.into()],
        virtual_quantity: Some(64),
        ..Item::default()
    };
    let file = |id: &str| ovf::File { id: id.into(), href: format!("{id}.iso"), ..ovf::File::default() };
    let items = vec![
        Item { host_resources: Vec::new(), ..item("1", resource::MEMORY, "") },
        item("2", resource::CD, "ovf:/file/tools"),
        item("3", resource::DVD, "ovf:/disk/d"),
        item("4", resource::FLOPPY, "ovf:/file/floppy"),
        Item { host_resources: Vec::new(), ..item("5", resource::CD, "") },
    ];
    let envelope = Envelope {
        files: ["tools", "floppy", "stray"].map(file).into(),
        system: ovf::VirtualSystem {
            hardware: ovf::Hardware { items, ..ovf::Hardware::default() },
            ..ovf::VirtualSystem::default()
        },
        ..Envelope::default()
    };
    let (_, warnings) = of_ovf(&envelope).unwrap();
    let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    for (warning, names) in told.iter().zip([
        ["Item[4]", "floppy.iso"],
        ["Item[2]", "tools.iso"],
        ["Item[3]", "\"d\""],
        ["File[stray]", "stray.iso"],
    ]) {
        assert!(names.iter().all(|name| warning.contains(name)), "{warning}");
    }
}

/// A system that is known is the same after it was written and read.
#[test]
fn systems_are_read_as_they_were_written() {
    for hint in [
        "rhel",
        "rhel.7",
        "rhel.9",
        "rhel.10",
        "rhcos",
        "centos",
        "centos.7",
        "oraclelinux8",
        "fedora",
        "fcos",
        "ubuntu22.04",
        "debian",
        "debian12",
        "opensuse15",
        "sles",
        "sles15",
        "alma9",
        "rocky.9",
        "alpine",
        "arch",
        "cirros",
        "flatcar",
        "gentoo",
        "linux",
        "other",
        "windows",
        "windows.7",
        "windows.10",
        "windows.11",
        "windows.2k8",
        "windows.2k12r2",
        "windows.2k16",
        "windows.2k19",
        "windows.2k22",
        "windows.2k25",
    ] {
        let os = GuestOs::from_hint(hint).unwrap();
        for named in [Some(os.vmw_os_type.as_str()), None] {
            assert_eq!(read(os.cim_id, named, Some(&os.description)), os, "{hint} {named:?}");
        }
    }
}
