//! From hardware to descriptors and back.

use super::*;

fn file(name: &str, size: u64) -> DiskFile {
    DiskFile { file_name: format!("{name}.vmdk"), virtual_size: size, ..DiskFile::default() }
}

/// Any hardware that KubeVirt may have.
fn hardware(seed: u64) -> Hardware {
    let mut rng = Rng::new(seed);
    let mut below = |bound: u64| u32::try_from(rng.below(bound)).unwrap();
    let buses = [DiskBus::Virtio, DiskBus::Sata, DiskBus::Scsi, DiskBus::Usb];
    let models =
        [NicModel::Virtio, NicModel::E1000, NicModel::E1000e, NicModel::Pcnet, NicModel::Other("igb".into())];
    let hints = ["rhel.9", "windows.2k22", "debian", "linux", "nothing"];
    let texts = ["vm", "a<b>&\"c'", "\u{1b}[2J\0", "ä\n\u{1f4be}"];
    Hardware {
        name: texts[below(4) as usize].into(),
        origin: (below(2) == 0).then(|| "KubeVirt VM demo/x".into()),
        description: (below(2) == 0).then(|| texts[below(4) as usize].into()),
        cpu: Cpu {
            sockets: 1 + below(4),
            cores: 1 + below(8),
            threads: 1 + below(2),
            can_grow: below(2) == 0,
            is_nesting: below(2) == 0,
        },
        memory: 1 + u64::from(below(1 << 30)) * 64,
        firmware: [Firmware::Bios, Firmware::Efi { secure_boot: true }, Firmware::Efi { secure_boot: false }]
            [below(3) as usize],
        has_tpm: below(2) == 0,
        has_sound: below(2) == 0,
        os: GuestOs::from_hint(hints[below(5) as usize]),
        disks: (0..below(20))
            .map(|index| Disk {
                name: format!("d{index}{}", texts[below(4) as usize]),
                kind: [DiskKind::Disk, DiskKind::Lun, DiskKind::Cdrom][below(3) as usize],
                bus: buses[below(4) as usize],
                boot_order: (below(4) == 0).then(|| 1 + below(9)),
                serial: None,
                claim: (below(4) > 0).then(|| format!("c{index}")),
                capacity: None,
                field: format!("disks[{index}]"),
            })
            .collect(),
        nics: (0..below(9))
            .map(|index| Nic {
                name: format!("n{index}{}", texts[below(4) as usize]),
                model: models[below(5) as usize].clone(),
                mac: (below(2) == 0).then(|| format!("02:00:00:00:00:{index:02x}")),
                attachment: if below(2) == 0 {
                    Attachment::Pod
                } else {
                    Attachment::Network(format!("ns{}/net{}", below(2), below(3)))
                },
                boot_order: None,
                is_connected: below(3) > 0,
                field: format!("interfaces[{index}]"),
            })
            .collect(),
        ..Hardware::default()
    }
}

proptest! {
    /// What importers insist on (contract 4.5 to 4.8), for any hardware and every target.
    #[test]
    fn descriptors_are_what_importers_insist_on(seed: u64) {
        let hardware = hardware(seed);
        let files: Vec<DiskFile> = (0..seed % 22).map(|index| file(&format!("disk{index}"), (index + 1) << 20)).collect();
        for &target_profile in TargetProfile::ALL {
            let options = DescriptorOptions { target_profile, ..DescriptorOptions::default() };
            let described = match descriptor(&hardware, &options, &files, &[]) {
                Ok(described) => described,
                Err(error) => {
                    prop_assert!(error.kind() == ErrorKind::Refused && target_profile == TargetProfile::Proxmox, "{}", error);
                    continue;
                }
            };
            let envelope = &described.envelope;
            prop_assert_eq!(descriptor(&hardware, &options, &files, &[]).unwrap().template, &*described.template);
            let items = &envelope.system.hardware.items;
            let ids: BTreeSet<&str> = items.iter().map(|item| item.instance_id.as_str()).collect();
            prop_assert_eq!(ids.len(), items.len(), "instance ids are unique");
            let mut places = BTreeSet::new();
            for item in items {
                for network in &item.connections {
                    prop_assert!(envelope.networks.iter().any(|known| known.name == *network));
                }
                if let Some(parent) = &item.parent {
                    let controller = items.iter().find(|other| other.instance_id == *parent).unwrap();
                    prop_assert!(matches!(controller.resource_type, resource::IDE | resource::SCSI | resource::STORAGE));
                    prop_assert!(places.insert((parent, item.address_on_parent.clone())), "two on one place");
                    let is_reserved = controller.resource_type == resource::SCSI && item.address_on_parent.as_deref() == Some("7");
                    prop_assert!(!is_reserved);
                }
                match item.resource_type {
                    resource::DISK => {
                        let disk = envelope.disk(item.disk_id().unwrap()).unwrap();
                        prop_assert!(envelope.file(disk.file_ref.as_ref().unwrap()).is_some());
                        prop_assert!(item.parent.is_some() && item.address_on_parent.is_some());
                    }
                    resource::ETHERNET => prop_assert_eq!(item.connections.len(), 1),
                    resource::CPU => {
                        let cores = u64::from(item.cores_per_socket.unwrap_or(1));
                        prop_assert_eq!(item.virtual_quantity.unwrap() % cores, 0);
                    }
                    resource::MEMORY => {
                        prop_assert_eq!(item.allocation_units.as_deref(), Some("byte * 2^20"));
                        prop_assert!(item.virtual_quantity.unwrap() << 20 >= hardware.memory);
                    }
                    resource::OTHER => prop_assert!(item.is_optional),
                    _ => {}
                }
            }
            let cards = items.iter().filter(|item| item.resource_type == resource::ETHERNET);
            let cards: Vec<_> = hardware.nics.iter().zip(cards.map(|item| &item.connections)).collect();
            for (nic, network) in &cards {
                let is_apart = |(other, name): &(&Nic, _)| other.attachment == nic.attachment || name != network;
                // VirtualBox knows kinds of networks by their names.
                prop_assert!(target_profile == TargetProfile::Virtualbox || cards.iter().all(is_apart));
            }
            let disks = items.iter().filter(|item| item.resource_type == resource::DISK).count();
            prop_assert_eq!((disks, envelope.disks.len(), envelope.files.len()), (files.len(), files.len(), files.len()));
            prop_assert_eq!(items.iter().filter(|item| item.resource_type == resource::ETHERNET).count(), hardware.nics.len());
            for warning in &described.warnings {
                prop_assert!(envelope.system.annotation.as_deref().unwrap().contains(&*ovf::clean_text(&warning.to_string())));
            }
            for index in 0..files.len() {
                for what in ["size", "used"] {
                    let marker = format!("<vmferry-{what}-{index:05}>");
                    prop_assert_eq!(described.template.matches(&marker).count(), 1);
                }
            }

            let text = known(&described.template);
            let (again, _) = of_ovf(&ovf::parse(text.as_bytes()).unwrap()).unwrap();
            prop_assert_eq!(again.cpu.count(), hardware.cpu.count());
            prop_assert_eq!(again.firmware, hardware.firmware);
            prop_assert_eq!(again.nics.len(), hardware.nics.len());
            prop_assert_eq!(again.disks.iter().filter(|disk| disk.capacity.is_some()).count(), files.len());
            let options = DescriptorOptions { target_profile, ..DescriptorOptions::default() };
            let twice = descriptor(&again, &options, &files, &[]).unwrap();
            prop_assert_eq!(twice.envelope.disks, envelope.disks.clone(), "described again, with the same files");
        }
    }
}

/// A VM in which some values are not what KubeVirt would let through.
fn odd_vm(seed: u64) -> Value {
    let mut rng = Rng::new(seed);
    let mut below = |bound: usize| usize::try_from(rng.below(u64::try_from(bound).unwrap())).unwrap();
    let mut vm = every_field();
    for _ in 0..1 + below(6) {
        let (mut pointers, mut open) = (Vec::new(), vec![(String::new(), &vm)]);
        while let Some((pointer, value)) = open.pop() {
            match value {
                Value::Object(fields) => {
                    let children = fields.iter().map(|(key, child)| (key.replace('/', "~1"), child));
                    open.extend(children.map(|(key, child)| (format!("{pointer}/{key}"), child)));
                }
                Value::Array(items) => {
                    let children = items.iter().enumerate();
                    open.extend(children.map(|(index, child)| (format!("{pointer}/{index}"), child)));
                }
                _ => {}
            }
            pointers.push(pointer);
        }
        let odd = [
            json!(null),
            json!(true),
            json!(-1),
            json!(0),
            json!(u64::MAX),
            json!(1.5),
            json!(""),
            json!("\u{0}<]]>&"),
            json!("a/b/c"),
            json!("-5Gi"),
            json!("16Ei"),
            json!("down"),
            json!([]),
            json!([null, {"name": 7}]),
            json!({}),
            json!({"name": "root", "bus": "warp"}),
        ];
        let (place, odd) = (below(pointers.len()), odd[below(odd.len())].clone());
        *vm.pointer_mut(&pointers[place]).unwrap() = odd;
    }
    vm
}

proptest! {
    #[test]
    fn any_vm_is_described_so_that_it_can_be_read_or_is_refused(seed: u64) {
        let vm = odd_vm(seed);
        let seen = VmSeen::of_instance(&vm).with_preference_of(&vm);
        let (hardware, warnings) = match of_vm_with(&vm, &seen) {
            Ok(described) => described,
            Err(error) => {
                prop_assert!(error.kind() == ErrorKind::Usage, "{}", error);
                return Ok(());
            }
        };
        prop_assert!(warnings.iter().all(|warning| !warning.message.is_empty() && !warning.remedy.is_empty()));
        for &target_profile in TargetProfile::ALL {
            let mac = Some(MacPolicy::Keep);
            let options = DescriptorOptions { target_profile, mac, ..DescriptorOptions::default() };
            let files = [file("a", 1 << 20), file("b", 2 << 20)];
            match descriptor(&hardware, &options, &files, &warnings) {
                Ok(described) => {
                    let text = known(&described.template);
                    let (again, _) = of_ovf(&ovf::parse(text.as_bytes()).unwrap()).unwrap();
                    prop_assert_eq!(again.cpu.count(), hardware.cpu.count());
                    prop_assert_eq!(again.nics.len(), hardware.nics.len());
                }
                Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Usage | ErrorKind::Refused), "{}", error),
            }
        }
    }
}

/// The text with numbers in place of its markers.
fn known(template: &str) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((front, behind)) = rest.split_once("<vmferry-") {
        text.push_str(front);
        text.push_str("12345");
        rest = behind.split_once('>').unwrap().1;
    }
    text + rest
}

fn db() -> Hardware {
    let disk = |name: &str, bus, boot_order| Disk {
        name: name.into(),
        kind: DiskKind::Disk,
        bus,
        boot_order,
        serial: None,
        claim: Some(format!("db-{name}")),
        capacity: None,
        field: format!("spec.template.spec.domain.devices.disks[{name}]"),
    };
    let nic = |name: &str, attachment| Nic {
        name: name.into(),
        model: NicModel::Virtio,
        mac: Some("02:00:00:00:00:01".into()),
        attachment,
        boot_order: None,
        is_connected: true,
        field: format!("spec.template.spec.domain.devices.interfaces[{name}]"),
    };
    Hardware {
        name: "db".into(),
        origin: Some("KubeVirt VM demo/db".into()),
        memory: 1_500_000_000,
        disks: vec![disk("data", DiskBus::Sata, None), disk("root", DiskBus::Virtio, Some(1))],
        nics: vec![
            nic("default", Attachment::Pod),
            nic("storage", Attachment::Network("infra/storage".into())),
        ],
        ..Hardware::default()
    }
}

fn items(described: &Descriptor, kind: u16) -> Vec<&ovf::Item> {
    described.envelope.system.hardware.items.iter().filter(|item| item.resource_type == kind).collect()
}

#[test]
fn files_are_joined_by_name_or_in_order_and_the_boot_disk_comes_first() {
    let options = DescriptorOptions::default();
    let root = DiskFile { disk: Some("root".into()), ..file("r", 1 << 20) };
    let described =
        descriptor(&db(), &options, &[root, file("d", 2 << 20), file("more", 3 << 20)], &[]).unwrap();
    let disks = items(&described, resource::DISK);
    let of: Vec<_> =
        disks.iter().map(|item| (item.disk_id().unwrap(), item.description.as_deref())).collect();
    assert_eq!(of, [("vmdisk1", Some("root")), ("vmdisk2", Some("data")), ("vmdisk3", None)]);
    let ids: Vec<_> =
        described.envelope.disks.iter().map(|disk| (disk.id.as_str(), disk.capacity >> 20)).collect();
    assert_eq!(ids, [("vmdisk1", 1), ("vmdisk2", 2), ("vmdisk3", 3)]);

    let described = descriptor(&db(), &options, &[file("d", 1 << 20)], &[]).unwrap();
    assert!(
        described.warnings.iter().any(|warning| warning.message.contains("\"root\" is not in the appliance"))
    );
    for wrong in ["nothing", "data"] {
        let file = DiskFile { disk: Some(wrong.into()), ..file("x", 1) };
        assert_eq!(
            descriptor(&db(), &options, &[file.clone(), file], &[]).unwrap_err().kind(),
            ErrorKind::Usage
        );
    }
    for odd in [&[file("a b", 1)][..], &[file("a", 1), file("A", 1)]] {
        assert_eq!(descriptor(&db(), &options, odd, &[]).unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn drives_hold_iso_images_or_nothing() {
    let mut hardware = db();
    hardware.disks[0].kind = DiskKind::Cdrom;
    let iso = DiskFile { format: DiskFormat::Iso, ..file("d", 1 << 20) };
    let described =
        descriptor(&hardware, &DescriptorOptions::default(), &[iso, file("r", 1 << 20)], &[]).unwrap();
    let drives = items(&described, resource::CD);
    assert_eq!(
        (drives[0].file_id(), drives[0].resource_sub_type.as_deref()),
        (Some("file1"), Some("vmware.cdrom.iso"))
    );
    assert_eq!(described.envelope.disks.len(), 1);

    hardware.disks[0].claim = None;
    let described = descriptor(&hardware, &DescriptorOptions::default(), &[file("r", 1 << 20)], &[]).unwrap();
    let drives = items(&described, resource::CD);
    assert_eq!(drives[0].resource_sub_type.as_deref(), Some("vmware.cdrom.remotepassthrough"));
    assert!(drives[0].is_optional && drives[0].host_resources.is_empty());

    hardware.disks[0].claim = Some("cd".into());
    let root = DiskFile { disk: Some("root".into()), ..file("r", 1 << 20) };
    let described = descriptor(&hardware, &DescriptorOptions::default(), &[root], &[]).unwrap();
    assert_eq!(items(&described, resource::CD).len(), 1);
    assert!(
        described
            .warnings
            .iter()
            .any(|warning| warning.message.contains("on \"data\" is not in the appliance"))
    );
    let files = [file("d", 1 << 20), file("r", 1 << 20)];
    let described = descriptor(&hardware, &DescriptorOptions::default(), &files, &[]).unwrap();
    assert_eq!((items(&described, resource::CD).len(), items(&described, resource::DISK).len()), (0, 2));
    assert!(described.warnings.iter().any(|warning| warning.message.contains("no ISO image")));
}

#[test]
fn options_win_over_the_profile() {
    let options = DescriptorOptions {
        nic_model: Some(TargetNic::Pcnet32),
        disk_bus: Some(ControllerModel::Pvscsi),
        network_map: [("storage".into(), "VLAN 7".into())].into(),
        mac: Some(MacPolicy::New),
        os_type: Some("rhel9_64Guest".into()),
        name: Some("other name".into()),
        product: Some("Database".into()),
        ..DescriptorOptions::default()
    };
    let described = descriptor(&db(), &options, &[file("a", 1 << 20), file("b", 1 << 20)], &[]).unwrap();
    let nics = items(&described, resource::ETHERNET);
    assert!(
        nics.iter().all(|nic| nic.resource_sub_type.as_deref() == Some("PCNet32") && nic.address.is_none())
    );
    assert_eq!(nics[1].connections, ["VLAN 7"]);
    assert_eq!(items(&described, resource::SCSI)[0].resource_sub_type.as_deref(), Some("VirtualSCSI"));
    let system = &described.envelope.system;
    assert_eq!((system.id.as_str(), system.name.as_deref()), ("other_name", Some("other name")));
    let os = system.os.as_ref().unwrap();
    assert_eq!((os.id, os.vmw_os_type.as_deref()), (80, Some("rhel9_64Guest")));
    assert_eq!(system.products[0].product.as_deref(), Some("Database"));
    assert_eq!(items(&described, resource::MEMORY)[0].virtual_quantity, Some(1432), "a multiple of 4 MiB");
    assert!(described.warnings.iter().any(|warning| warning.field.ends_with("memory.guest")));

    for (key, value) in [("infra/storage", true), ("default", true), ("nothing", false)] {
        let options = DescriptorOptions {
            network_map: [(key.into(), "x".into())].into(),
            ..DescriptorOptions::default()
        };
        assert_eq!(descriptor(&db(), &options, &[], &[]).is_ok(), value, "{key}");
    }
    for (os_type, id) in
        [("windows.11", Some(122)), ("plan9", None), ("newOs_64Guest", Some(1)), ("a<Guest", None)]
    {
        let options = DescriptorOptions { os_type: Some(os_type.into()), ..DescriptorOptions::default() };
        let described = descriptor(&db(), &options, &[], &[]).ok();
        assert_eq!(described.map(|described| described.envelope.system.os.unwrap().id), id, "{os_type}");
    }
}

/// Whatever the order of the alphabet says.
#[test]
fn the_most_exact_name_of_a_network_decides() {
    let card = |name: &str, network: &str| Nic {
        name: name.into(),
        attachment: Attachment::Network(network.into()),
        ..db().nics[0].clone()
    };
    let nics = vec![card("z", "ns/lan"), card("y", "ns2/lan"), card("lan", "ns/other")];
    let hardware = Hardware { nics, ..db() };
    let with = |map: &[(&str, &str)]| {
        let network_map = map.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect();
        let generic = TargetProfile::Generic;
        let options = DescriptorOptions { network_map, target_profile: generic, ..Default::default() };
        descriptor(&hardware, &options, &[], &[])
    };
    let names = |map: &[(&str, &str)]| {
        let described = with(map).unwrap();
        let nics = items(&described, resource::ETHERNET);
        nics.iter().map(|nic| nic.connections[0].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[("lan", "bare")]), ["bare"; 3]);
    assert_eq!(names(&[("lan", "bare"), ("ns/lan", "full")]), ["full", "bare", "bare"]);
    assert_eq!(names(&[("lan", "bare"), ("z", "card")]), ["card", "bare", "bare"]);
    for (map, what) in
        [(&[("ns/lan", "full"), ("z", "card")][..], "more exact"), (&[("nothing", "x")], "in no network")]
    {
        let error = with(map).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(
            error.hint(),
            Some("its cards and their networks are: z (ns/lan), y (ns2/lan), lan (ns/other)")
        );
    }

    let told = |map: &[(&str, &str)]| {
        let warnings = with(map).unwrap().warnings.into_iter().map(|warning| warning.message);
        warnings.filter(|message| message.contains("both called")).collect::<Vec<_>>()
    };
    assert!(told(&[]).is_empty());
    assert_eq!(
        told(&[("y", "ns/lan"), ("ns/other", "lan")]),
        ["the networks z (ns/lan) and y (ns2/lan) are both called \"ns/lan\" in the appliance"]
    );
    assert!(told(&[("ns2/lan", "second")]).is_empty());
    assert!(told(&[("lan", "same")]).is_empty(), "that was asked for");
}

/// An appliance of ours that is packed anew, and again.
#[test]
fn networks_of_one_name_in_two_namespaces_are_kept_apart() {
    let mut hardware = db();
    let nic = hardware.nics[1].clone();
    let nics =
        ["ns1/net", "ns2/net", "net", "ns1/net", "ns3/other"].iter().zip(1..).map(|(network, number)| Nic {
            name: format!("n{number}"),
            attachment: Attachment::Network((*network).into()),
            ..nic.clone()
        });
    hardware.nics = nics.collect();
    let networks = |target_profile, map: &[(&str, &str)]| -> (Vec<String>, usize) {
        let pairs = map.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
        let options = DescriptorOptions {
            target_profile,
            network_map: pairs.collect(),
            ..DescriptorOptions::default()
        };
        let files = [file("a", 1 << 20), file("b", 1 << 20)];
        let described = descriptor(&hardware, &options, &files, &[]).unwrap();
        let listed = described.envelope.networks.iter().map(|network| &network.name);
        let nics = items(&described, resource::ETHERNET).into_iter().map(|nic| nic.connections[0].clone());
        let nics: Vec<String> = nics.collect();
        assert_eq!(listed.collect::<BTreeSet<_>>(), nics.iter().collect::<BTreeSet<_>>());
        let told = described.warnings.iter().filter(|warning| warning.message.contains("are both called"));
        (nics, told.count())
    };
    let apart = ["ns1/net", "ns2/net", "net", "ns1/net", "other"].map(str::to_owned).to_vec();
    for profile in [TargetProfile::Vmware, TargetProfile::Proxmox, TargetProfile::Generic] {
        assert_eq!(networks(profile, &[]), (apart.clone(), 0), "{profile}");
    }
    // A name that another one is mapped to is taken, too; what is mapped is as it was asked for.
    let (nics, told) = networks(TargetProfile::Vmware, &[("n5", "net"), ("n1", "LAN"), ("n2", "LAN")]);
    assert_eq!((nics[..].join(" ").as_str(), told), ("LAN LAN net ns1/net net", 1));
    assert_eq!(networks(TargetProfile::Virtualbox, &[]).0, ["Bridged"; 5]);
}

#[test]
fn images_that_the_importer_does_not_take_are_refused() {
    use TargetProfile::{Generic, Proxmox, Virtualbox, Vmware};
    for (format, takers) in [
        (DiskFormat::VmdkStream, &[Vmware, Virtualbox, Proxmox, Generic][..]),
        (DiskFormat::VmdkSparse, &[Virtualbox, Proxmox]),
        (DiskFormat::Vhd, &[Virtualbox]),
        (DiskFormat::Qcow2, &[Proxmox]),
        (DiskFormat::Raw, &[Proxmox]),
    ] {
        for &target_profile in TargetProfile::ALL {
            let options = DescriptorOptions { target_profile, ..DescriptorOptions::default() };
            let files = [file("a", 1 << 20), DiskFile { format, ..file("b", 1 << 20) }];
            match descriptor(&db(), &options, &files, &[]) {
                Ok(_) => assert!(takers.contains(&target_profile), "{target_profile} {format:?}"),
                Err(error) => {
                    assert!(!takers.contains(&target_profile), "{target_profile} {format:?}: {error}");
                    assert!(
                        error.kind() == ErrorKind::Usage && error.to_string().contains("b.vmdk"),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_card_without_an_address_is_told_where_addresses_are_to_be_kept() {
    let mut hardware = db();
    hardware.nics[0].mac = None;
    let told = |hardware: &Hardware, mac| {
        let options = DescriptorOptions { mac, ..DescriptorOptions::default() };
        let files = [file("a", 1 << 20), file("b", 1 << 20)];
        let warnings = descriptor(hardware, &options, &files, &[]).unwrap().warnings;
        warnings.into_iter().filter(|warning| warning.message.contains("states no MAC")).collect::<Vec<_>>()
    };
    let warnings = told(&hardware, Some(MacPolicy::Keep));
    assert_eq!(fields(&warnings), [hardware.nics[0].field.as_str()]);
    assert!(warnings[0].message.ends_with(&format!("for {:?}", hardware.nics[0].name)), "{warnings:?}");
    assert!(warnings[0].remedy.contains("while it runs"), "{warnings:?}");
    for mac in [None, Some(MacPolicy::New)] {
        assert_eq!(told(&hardware, mac), []);
    }
    hardware.origin = None;
    assert!(!told(&hardware, Some(MacPolicy::Keep))[0].remedy.contains("while it runs"));
}

#[test]
fn annotations_do_not_grow() {
    let mut hardware = Hardware {
        description: Some("Orders\n- and invoices".into()),
        platform: Some("KubeVirt v1.9.0".into()),
        uuid: Some("0b39d0b0".into()),
        machine: Some("q35".into()),
        ..db()
    };
    let mut lengths = Vec::new();
    for _ in 0..3 {
        let described = descriptor(&hardware, &DescriptorOptions::default(), &[], &[]).unwrap();
        lengths.push(described.envelope.system.annotation.as_ref().unwrap().len());
        let again = of_ovf(&described.envelope).unwrap().0;
        assert_eq!(
            (&again.description, &again.uuid, &again.serial, &again.machine),
            (&hardware.description, &hardware.uuid, &hardware.serial, &hardware.machine)
        );
        hardware = again;
    }
    assert!(lengths[2] <= lengths[1], "{lengths:?}");
}

#[test]
fn more_than_a_target_is_known_to_take_is_told_and_not_refused() {
    let told = |profile, os: &str, nics: usize, cpus: u32| {
        let mut hardware = Hardware { os: GuestOs::from_hint(os), ..db() };
        hardware.cpu.sockets = cpus;
        hardware.nics = vec![hardware.nics[0].clone(); nics];
        let options = DescriptorOptions { target_profile: profile, ..DescriptorOptions::default() };
        let described = descriptor(&hardware, &options, &[], &[]).unwrap();
        let about = described.warnings.iter().filter(|warning| warning.message.contains("at most"));
        about.map(|warning| format!("{}: {}", warning.field, warning.message)).collect::<Vec<_>>().join("; ")
    };
    let cpus = "spec.template.spec.domain.cpu: a VM of";
    let nics = "spec.template.spec.domain.devices.interfaces[default]: a VM of";
    for (profile, os, most_nics, most_cpus, of) in [
        (TargetProfile::Vmware, "", Some(10), Some(128), "vmx-13"),
        (TargetProfile::Vmware, "rhel.9", Some(10), Some(256), "vmx-17"),
        (TargetProfile::Virtualbox, "rhel.9", Some(8), Some(32), "VirtualBox"),
        (TargetProfile::Proxmox, "rhel.9", Some(32), None, "Proxmox"),
        (TargetProfile::Generic, "rhel.9", None, None, ""),
    ] {
        assert_eq!(told(profile, os, most_nics.unwrap_or(64), most_cpus.unwrap_or(512)), "", "{profile}");
        let expected = most_nics.map(|most| {
            format!("{nics} {of} has at most {most} network cards, and this one has {}", most + 1)
        });
        assert_eq!(told(profile, os, most_nics.unwrap_or(64) + 1, 1), expected.unwrap_or_default());
        let expected = most_cpus
            .map(|most| format!("{cpus} {of} has at most {most} CPUs, and this one has {}", most + 1));
        assert_eq!(told(profile, os, 1, most_cpus.unwrap_or(512) + 1), expected.unwrap_or_default());
    }
}

#[test]
fn names_of_options_are_those_of_the_command_line() {
    assert_eq!("VMware".parse::<TargetProfile>().unwrap(), TargetProfile::Vmware);
    assert_eq!("vmxnet3".parse::<TargetNic>().unwrap(), TargetNic::Vmxnet3);
    assert_eq!("sata".parse::<ControllerModel>().unwrap().to_string(), "sata");
    let error = "qemu".parse::<TargetProfile>().unwrap_err();
    assert!(error.to_string().contains("vmware, virtualbox, proxmox, generic"), "{error}");
}

#[test]
fn disks_that_were_on_virtio_are_on_lsi_logic_only_where_the_guest_is_known_to_drive_it() {
    for (hint, is_lsilogic) in [
        ("", false),
        ("rhcos", false),
        ("rhel", false),
        ("rhel.9", false),
        ("debian", false),
        ("rhel.7", true),
    ] {
        let hardware = Hardware { os: GuestOs::from_hint(hint), ..db() };
        for &target_profile in TargetProfile::ALL {
            let options = DescriptorOptions { target_profile, ..DescriptorOptions::default() };
            let described =
                descriptor(&hardware, &options, &[file("a", 1 << 20), file("b", 1 << 20)], &[]).unwrap();
            let knows = matches!(target_profile, TargetProfile::Vmware | TargetProfile::Generic);
            let found = !items(&described, resource::SCSI).is_empty();
            assert_eq!(found, is_lsilogic && knows, "{hint} for {target_profile}");
        }
    }
}

#[test]
fn a_foreign_descriptor_is_described_anew_and_what_is_dropped_is_told() {
    let old = Hardware { os: GuestOs::from_hint("rhel.7"), ..db() };
    let mut envelope =
        descriptor(&old, &DescriptorOptions::default(), &[file("a", 1 << 30), file("b", 1 << 20)], &[])
            .unwrap()
            .envelope;
    let hardware = &mut envelope.system.hardware;
    let usb = |id: &str, kind| ovf::Item {
        instance_id: id.into(),
        element_name: "USB".into(),
        resource_type: kind,
        ..ovf::Item::default()
    };
    hardware.items.extend([usb("90", resource::USB), usb("91", resource::GRAPHICS)]);
    hardware.items.push(ovf::Item { bound: Some("max".into()), ..usb("92", resource::CPU) });
    hardware.extra_config = vec![ovf::Setting { key: "svga.x".into(), value: "1".into() }];
    envelope.unknown = vec!["VirtualSystem/EulaSection".into()];
    let (hardware, warnings) = of_ovf(&envelope).unwrap();
    assert_eq!(fields(&warnings), ["Item[90]", "Item[92]", "vmw:ExtraConfig", "VirtualSystem/EulaSection"]);
    assert_eq!((hardware.name.as_str(), hardware.memory), ("db", 1432 << 20));
    assert_eq!(hardware.disks[0].bus, DiskBus::Scsi);
    assert_eq!(hardware.nics[1].name, "storage");
    assert_eq!(hardware.nics[1].mac.as_deref(), Some("02:00:00:00:00:01"));
    let described = descriptor(
        &hardware,
        &DescriptorOptions::default(),
        &[file("x", 5 << 20), file("y", 6 << 20)],
        &warnings,
    )
    .unwrap();
    assert_eq!(described.envelope.disks[1].capacity, 6 << 20);
    assert!(
        fields(&described.warnings).iter().all(|field| !field.contains("spec.template")),
        "no fields of KubeVirt's"
    );
    let said =
        |text: &str| described.warnings.iter().filter(|warning| warning.message.contains(text)).count();
    assert_eq!((said("the cluster's"), said("one of those that the descriptor came with")), (0, 2));

    envelope.system.hardware.items.retain(|item| item.resource_type != resource::MEMORY);
    assert_eq!(of_ovf(&envelope).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn what_was_a_cd_comes_behind_the_disks_and_gets_a_file_last() {
    let disk = |name: &str, kind, boot_order| Disk {
        name: name.into(),
        kind,
        bus: DiskBus::Sata,
        boot_order,
        serial: None,
        claim: Some(name.into()),
        capacity: None,
        field: name.into(),
    };
    let hardware = Hardware {
        memory: 1 << 30,
        disks: vec![disk("install", DiskKind::Cdrom, Some(1)), disk("root", DiskKind::Disk, Some(2))],
        ..Hardware::default()
    };
    let places = |files: &[DiskFile]| -> Vec<String> {
        let described = descriptor(&hardware, &DescriptorOptions::default(), files, &[]).unwrap();
        let items = described.envelope.system.hardware.items;
        items.into_iter().filter_map(|item| item.host_resources.first().cloned()).collect()
    };
    let named = |name: &str| DiskFile { disk: Some(name.into()), ..file(name, 1 << 20) };
    assert_eq!(
        places(&[named("install"), named("root")]),
        ["ovf:/disk/vmdisk2", "ovf:/disk/vmdisk1"],
        "the CD's boot order does not make it the system disk"
    );
    assert_eq!(
        places(&[file("a", 1 << 20), file("b", 2 << 20)]),
        ["ovf:/disk/vmdisk1", "ovf:/disk/vmdisk2"],
        "the first file is the system disk's"
    );
    // One file alone: the disk has it, the drive is empty.
    let described = descriptor(&hardware, &DescriptorOptions::default(), &[file("a", 1 << 20)], &[]).unwrap();
    assert!(fields(&described.warnings).contains(&"install"), "{:?}", described.warnings);
    assert!(!fields(&described.warnings).contains(&"root"), "{:?}", described.warnings);
}
