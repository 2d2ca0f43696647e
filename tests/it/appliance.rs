//! Descriptors of appliances, in the eyes of others: the schema of the DMTF, Cisco's COT, and people, who
//! have reviewed the ones in `tests/data/ovf`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use vmferry::{
    appliance::{
        Attachment, Cpu, DescriptorOptions, Disk, DiskBus, DiskFile, DiskFormat, DiskKind, Firmware, GuestOs,
        Hardware, Nic, NicModel, TargetProfile, descriptor, of_ovf, of_vm, read_vm,
    },
    formats::{ovf, testkit::Rng},
};

use crate::support::{have, material, missing, scratch, tool};

/// The descriptor of `tests/data/appliance/db.yaml` for a target, with numbers in place of its markers.
fn described(profile: TargetProfile) -> String {
    let vm = read_vm(include_str!("../data/appliance/db.yaml")).unwrap();
    let (mut hardware, warnings) = of_vm(&vm).unwrap();
    hardware.platform = Some("KubeVirt v1.9.0".to_owned());
    let options = DescriptorOptions { target_profile: profile, ..DescriptorOptions::default() };
    let file = |index: u64, gib: u64| DiskFile {
        file_name: format!("db-disk{index}.vmdk"),
        virtual_size: gib << 30,
        ..DiskFile::default()
    };
    let files = [file(1, 20), file(2, 100), DiskFile { virtual_size: (5 << 30) + 512, ..file(3, 5) }];
    with_numbers(&descriptor(&hardware, &options, &files, &warnings).unwrap().template, files.len())
}

/// A template with numbers in place of its markers.
fn with_numbers(template: &str, files: usize) -> String {
    let mut text = template.to_owned();
    for index in 0..files {
        text = text.replace(&format!("<vmferry-size-{index:05}>"), &format!("{}", 1_000_000_000 + index));
        text = text.replace(&format!("<vmferry-used-{index:05}>"), &format!("{}", 2_000_000_000 + index));
    }
    text
}

fn golden(profile: TargetProfile) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/ovf/{profile}.ovf"))
}

/// `VMFERRY_BLESS=1 cargo test --test it -- appliance` writes them anew; review what changed.
#[test]
fn descriptors_are_as_reviewed() {
    for &profile in TargetProfile::ALL {
        let (path, text) = (golden(profile), described(profile));
        if std::env::var_os("VMFERRY_BLESS").is_some_and(|value| value == "1") {
            fs::write(&path, &text).unwrap();
        }
        let reviewed = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            text,
            reviewed,
            "{} is not what is made now; see VMFERRY_BLESS in tests/it/appliance.rs",
            path.display()
        );
        assert!(!text.contains("hunter2"), "nothing of cloud-init");
    }
}

/// Validates against the schema; files in one call, since it takes long to compile.
fn validate(directory: &Path, names: &[PathBuf]) {
    let (true, Some(material)) = (have("xmllint"), material()) else { return };
    let schema = material.join("ovf-schema/dsp8023_1.1.1.xsd");
    if !schema.exists() {
        missing("the schema ovf-schema/dsp8023_1.1.1.xsd of the test material");
        return;
    }
    for names in names.chunks(150) {
        let mut command = Command::new("xmllint");
        command.current_dir(directory).args(["--nonet", "--noout", "--schema"]).arg(&schema).args(names);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn reviewed_descriptors_are_valid() {
    let names: Vec<PathBuf> = TargetProfile::ALL.iter().map(|&profile| golden(profile)).collect();
    validate(Path::new("/"), &names);
}

#[test]
fn whatever_the_model_holds_is_valid() {
    let directory = scratch();
    let mut names = Vec::new();
    for seed in 0..150 {
        let name = PathBuf::from(format!("{seed}.ovf"));
        fs::write(directory.path().join(&name), ovf::sample(seed).to_template().unwrap()).unwrap();
        names.push(name);
    }
    validate(directory.path(), &names);
}

/// Hardware with everything that it can have, and with texts that XML has trouble with.
fn any_hardware(rng: &mut Rng) -> Hardware {
    let texts = ["vm", "a<b>&\"c'", "\u{1b}[2J\0\u{ffff}", "ä\n\u{1f4be}\t]]>", ""];
    let hints = ["rhel.9", "rhel.7", "windows.2k22", "debian", "linux", "nothing"];
    let buses = [DiskBus::Ide, DiskBus::Nvme, DiskBus::Sata, DiskBus::Scsi, DiskBus::Usb, DiskBus::Virtio];
    let kinds = [DiskKind::Cdrom, DiskKind::Disk, DiskKind::Lun];
    let models =
        [NicModel::E1000, NicModel::E1000e, NicModel::Pcnet, NicModel::Virtio, NicModel::Other("igb".into())];
    let firmware =
        [Firmware::Bios, Firmware::Efi { secure_boot: true }, Firmware::Efi { secure_boot: false }];
    fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
        of[usize::try_from(rng.below(of.len() as u64)).unwrap()].clone()
    }
    fn count(rng: &mut Rng, below: u64) -> u32 {
        u32::try_from(rng.below(below)).unwrap()
    }
    let maybe = |rng: &mut Rng| (rng.below(2) == 0).then(|| pick(rng, &texts).to_owned());
    let mut hardware = Hardware {
        name: pick(rng, &texts).to_owned(),
        origin: pick(
            rng,
            &[None, Some("KubeVirt VM demo/x".to_owned()), Some("OVF descriptor of \"x\"".to_owned())],
        ),
        platform: maybe(rng),
        description: maybe(rng),
        product: maybe(rng),
        vendor: maybe(rng),
        machine: maybe(rng),
        uuid: maybe(rng),
        serial: maybe(rng),
        cpu: Cpu {
            sockets: 1 + count(rng, 40),
            cores: 1 + count(rng, 8),
            threads: 1 + count(rng, 2),
            can_grow: rng.below(2) == 0,
            is_nesting: rng.below(2) == 0,
        },
        memory: 1 + rng.below(1 << 40),
        memory_can_grow: rng.below(2) == 0,
        firmware: pick(rng, &firmware),
        has_tpm: rng.below(2) == 0,
        has_sound: rng.below(2) == 0,
        os: GuestOs::from_hint(pick(rng, &hints)),
        ..Hardware::default()
    };
    for index in 0..rng.below(8) {
        hardware.disks.push(Disk {
            name: format!("d{index}{}", pick(rng, &texts)),
            kind: pick(rng, &kinds),
            bus: pick(rng, &buses),
            boot_order: (rng.below(4) == 0).then(|| 1 + count(rng, 9)),
            serial: maybe(rng),
            claim: maybe(rng),
            capacity: None,
            field: format!("disks[{index}]"),
        });
    }
    for index in 0..rng.below(14) {
        let network = Attachment::Network(format!("ns/net{}{}", index % 3, pick(rng, &texts)));
        hardware.nics.push(Nic {
            name: format!("n{index}{}", pick(rng, &texts)),
            model: pick(rng, &models),
            mac: (rng.below(2) == 0).then(|| format!("02:00:00:00:00:{index:02x}")),
            attachment: pick(rng, &[Attachment::Pod, network]),
            boot_order: (rng.below(4) == 0).then(|| 1 + count(rng, 9)),
            is_connected: rng.below(3) > 0,
            field: format!("interfaces[{index}]"),
        });
    }
    hardware
}

#[test]
fn whatever_the_hardware_is_its_descriptors_are_valid() {
    let directory = scratch();
    let mut names = Vec::new();
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let hardware = any_hardware(&mut rng);
        let files: Vec<DiskFile> = (0..rng.below(10))
            .map(|index| DiskFile {
                file_name: format!("disk{index}"),
                virtual_size: (1 + rng.below(1 << 40)) * 512,
                format: if rng.below(4) == 0 { DiskFormat::Iso } else { DiskFormat::VmdkStream },
                ..DiskFile::default()
            })
            .collect();
        for &target_profile in TargetProfile::ALL {
            let options = DescriptorOptions { target_profile, ..DescriptorOptions::default() };
            let text = descriptor(&hardware, &options, &files, &[]).unwrap().template;
            let name = PathBuf::from(format!("{seed}-{target_profile}.ovf"));
            fs::write(directory.path().join(&name), with_numbers(&text, files.len())).unwrap();
            names.push(name);
        }
    }
    assert_eq!(names.len(), 120);
    validate(directory.path(), &names);
}

/// The schema is no judge unless it refuses something: the order of children, which programs get wrong.
#[test]
fn the_schema_refuses_children_that_are_out_of_order() {
    let (true, Some(material)) = (have("xmllint"), material()) else { return };
    let directory = scratch();
    let path = directory.path().join("wrong.ovf");
    let text = described(TargetProfile::Vmware);
    let swapped =
        text.replacen("<rasd:Address>", "<rasd:Zebra>", 1).replacen("</rasd:Address>", "</rasd:Zebra>", 1);
    assert_ne!(text, swapped);
    fs::write(&path, swapped).unwrap();
    let schema = material.join("ovf-schema/dsp8023_1.1.1.xsd");
    let output = Command::new("xmllint")
        .args(["--nonet", "--noout", "--schema"])
        .arg(schema)
        .arg(path)
        .output()
        .unwrap();
    assert!(!output.status.success());
}

/// COT of the Python that `VMFERRY_PYTHON` names, or of the machine.
pub(crate) fn cot() -> Option<PathBuf> {
    let beside =
        std::env::var_os("VMFERRY_PYTHON").and_then(|python| Some(Path::new(&python).parent()?.join("cot")));
    let cot = beside.filter(|cot| cot.exists()).unwrap_or_else(|| "cot".into());
    if Command::new(&cot).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return Some(cot);
    }
    missing("COT (pip install cot, beside VMFERRY_PYTHON)");
    None
}

#[test]
fn cot_sees_the_same_hardware() {
    let Some(cot) = cot() else { return };
    for &profile in TargetProfile::ALL {
        let directory = scratch();
        let path = directory.path().join("db.ovf");
        fs::write(&path, described(profile)).unwrap();
        for (name, size) in [
            ("db-disk1.vmdk", 1_000_000_000),
            ("db-disk2.vmdk", 1_000_000_001),
            ("db-disk3.vmdk", 1_000_000_002),
        ] {
            fs::File::create(directory.path().join(name)).unwrap().set_len(size).unwrap();
        }
        let said = tool(cot.to_str().unwrap(), ["info", "-v", path.to_str().unwrap()]);
        let words: Vec<&str> = said.split_whitespace().collect();
        let has = |wanted: &str| {
            let wanted: Vec<&str> = wanted.split(' ').collect();
            words.windows(wanted.len()).any(|words| words == wanted)
        };
        // CPUs, memory, NICs, serial ports, disks and their capacity.
        for wanted in ["None (default) 4 8 GiB 2 0 3 / 125 GiB", "20 GiB harddisk @", "100 GiB harddisk @"] {
            assert!(has(wanted), "{profile}: {wanted} in\n{said}");
        }
        for nic in ["Network adapter 1 :", "Network adapter 2 :"] {
            assert!(has(nic), "{profile}: {nic} in\n{said}");
        }
    }
}

#[test]
fn a_reviewed_descriptor_is_read_and_described_anew() {
    for &profile in TargetProfile::ALL {
        let envelope = ovf::parse(&fs::read(golden(profile)).unwrap()).unwrap();
        assert!(envelope.unknown.is_empty(), "{:?}", envelope.unknown);
        let (hardware, _) = of_ovf(&envelope).unwrap();
        assert_eq!((hardware.cpu.count(), hardware.memory), (Some(4), 8 << 30));
        assert_eq!((hardware.disks.len(), hardware.nics.len()), (4, 2));
        let vm = read_vm(include_str!("../data/appliance/db.yaml")).unwrap();
        assert_eq!(hardware.os, of_vm(&vm).unwrap().0.os, "{profile}");
        let options = DescriptorOptions { target_profile: profile, ..DescriptorOptions::default() };
        let again = descriptor(&hardware, &options, &[], &[]).unwrap().envelope;
        assert_eq!(again.system.os, envelope.system.os, "{profile}");
    }
}
