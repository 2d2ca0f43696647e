//! Every field of a VM is accounted for, and what is described is what the VM has.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};
use vmferry_formats::{
    ovf::{self, resource},
    testkit::Rng,
};

use super::{
    fields::{Rule, rules_of},
    rules::{OUTER_RULES, RULES},
    *,
};
use crate::ErrorKind;

mod rendering;

fn every_field() -> Value {
    read_vm(include_str!("../../tests/data/appliance/every-field.yaml")).unwrap()
}

fn fields(warnings: &[Warning]) -> Vec<&str> {
    warnings.iter().map(|warning| warning.field.as_str()).collect()
}

/// Without the numbers of items, as the rules have it.
fn pattern(field: &str) -> String {
    let mut pattern = String::new();
    let mut is_inside = false;
    for c in field.chars() {
        is_inside = c == '[' || is_inside && c != ']';
        if !is_inside || c == '[' {
            pattern.push(c);
        }
    }
    pattern
}

#[test]
fn every_field_has_a_rule_and_every_rule_is_tried() {
    let vm = every_field();
    let found = rules_of(&vm);
    let unknown: Vec<_> = found.iter().filter(|(_, rule)| rule.is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let tried: BTreeSet<String> = found.iter().map(|(field, _)| pattern(field)).collect();
    for (rule, _) in OUTER_RULES.iter().filter(|(rule, _)| !rule.ends_with(".*")) {
        assert!(tried.contains(*rule), "{rule} is not in every-field.yaml");
    }
    for (rule, _) in RULES.iter().filter(|(rule, _)| !rule.ends_with(".*")) {
        assert!(tried.contains(&format!("spec.template.spec.{rule}")), "{rule} is not in every-field.yaml");
    }
}

#[test]
fn what_is_lost_is_told_with_its_field_and_a_remedy() {
    let vm = every_field();
    let (_, warnings) = of_vm(&vm).unwrap();
    let told = fields(&warnings);
    for (field, rule) in rules_of(&vm) {
        let Some(Rule::Lost(message, remedy)) = rule else { continue };
        let warning = warnings.iter().find(|warning| warning.field == field);
        let warning = warning.unwrap_or_else(|| panic!("{field} is not told"));
        assert_eq!((warning.message.as_str(), warning.remedy.as_str()), (message, remedy));
    }
    for field in [
        "spec.template.spec.domain.devices.gpus[0]",
        "spec.template.spec.domain.devices.interfaces[1].sriov",
        "spec.template.spec.domain.devices.interfaces[5].binding",
        "spec.template.spec.domain.devices.disks[0].serial",
        "spec.template.spec.domain.cpu.features[1]",
        "spec.template.spec.volumes[3].cloudInitNoCloud",
    ] {
        assert!(told.contains(&field), "{field} is not told: {told:#?}");
    }
    assert!(warnings.iter().all(|warning| !warning.to_string().contains("secret words")));
    assert!(warnings.iter().all(|warning| !warning.message.is_empty() && !warning.remedy.is_empty()));
}

#[test]
fn what_is_not_known_is_told() {
    let mut vm = every_field();
    vm["spec"]["template"]["spec"]["domain"]["devices"]["quantumLinks"] = json!([1]);
    vm["spec"]["template"]["spec"]["volumes"][0]["dataVolume"]["magic"] = json!(true);
    vm["spec"]["warp"] = json!("9");
    vm["domain"] = json!({"cpu": {"cores": 2}});
    vm["spec"]["template"]["spec"]["domain"]["features"] = json!("all");
    let (_, warnings) = of_vm(&vm).unwrap();
    let told = fields(&warnings);
    for field in [
        "spec.template.spec.domain.devices.quantumLinks",
        "spec.template.spec.volumes[0].dataVolume.magic",
        "spec.warp",
        "domain",
        "spec.template.spec.domain.features",
    ] {
        assert!(told.contains(&field), "{field}: {told:#?}");
    }
}

/// A field that is carried over makes a difference: changed, it changes hardware or warnings. Some only do
/// where another one is missing.
#[test]
fn what_is_mapped_makes_a_difference() {
    let full = every_field();
    let without = |paths: &[&str]| {
        let mut vm = full.clone();
        for path in paths {
            let (parent, key) = path.rsplit_once('/').unwrap();
            vm.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        }
        vm
    };
    let domain = |rest: &str| format!("/spec/template/spec/domain{rest}");
    let topology = ["/cpu/cores", "/cpu/sockets", "/cpu/threads", "/memory/guest"].map(domain);
    let topology: Vec<&str> = topology.iter().map(String::as_str).chain(["/spec/instancetype"]).collect();
    let requests = domain("/resources/requests");
    let limits = domain("/resources/limits");
    let (interfaces, networks) = (domain("/devices/interfaces"), "/spec/template/spec/networks");
    let bases = [
        full.clone(),
        without(&topology),
        without(&[&topology[..], &[&limits]].concat()),
        without(&[&topology[..], &[&requests]].concat()),
        without(&[&topology[..], &[&limits, &requests]].concat()),
        without(&[&interfaces, networks]),
        without(&["/spec/preference", "/spec/instancetype"]),
        without(&[topology[0], topology[1], topology[2]]),
    ];
    let (mut mapped, mut different) = (BTreeSet::new(), BTreeSet::new());
    for (field, rule) in rules_of(&full) {
        if rule != Some(Rule::Mapped) || ["metadata", "spec.template.metadata"].contains(&field.as_str()) {
            continue;
        }
        let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
        let differs = bases.iter().any(|base| {
            let Some(value) = base.pointer(&pointer) else { return false };
            variants(value).into_iter().any(|other| {
                let mut changed = base.clone();
                *changed.pointer_mut(&pointer).unwrap() = other;
                match (of_vm(base), of_vm(&changed)) {
                    (Ok(one), Ok(other)) => one != other,
                    (one, other) => one.is_ok() != other.is_ok(),
                }
            })
        });
        mapped.insert(pattern(&field));
        if differs {
            different.insert(pattern(&field));
        }
    }
    assert_eq!(different, mapped, "what is said to be mapped makes a difference");
}

/// Other values of the same kind.
fn variants(value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(is) => vec![json!(!is)],
        Value::Number(number) => vec![json!(number.as_u64().unwrap() + 1), json!(1)],
        Value::String(text) => {
            vec![json!(format!("{text}x")), json!("7"), json!("sata"), json!("1Gi"), json!("down")]
        }
        _ => vec![Value::Null],
    }
}

/// The table for people is the one that is used.
#[test]
fn the_document_has_every_field_in_its_place() {
    let document = include_str!("../../docs/appliance.md");
    let section = |title: &str| {
        let behind = document.split_once(&format!("\n## {title}\n")).unwrap().1;
        behind.split_once("\n## ").unwrap().0
    };
    let (mapped, lost, harmless) =
        (section("What is carried over"), section("What is lost"), section("What makes no difference"));
    for (field, rule) in OUTER_RULES.iter().chain(RULES) {
        let name = format!("`{field}`");
        let sections = [mapped, lost, harmless].map(|section| section.contains(&name));
        let expected = match rule {
            Rule::Mapped => [true, false, false],
            Rule::Lost(message, remedy) => {
                let row = lost.lines().find(|line| line.contains(&name)).unwrap_or_default();
                assert!(row.ends_with(&format!("| {message} | {remedy} |")), "{field}: {row}");
                [false, true, false]
            }
            Rule::Harmless => [false, false, true],
        };
        assert_eq!(sections, expected, "{field}");
    }
    assert!(!mapped.contains("ISO file"), "the command knows no ISO files, the library does");
    assert!(mapped.contains("Users of the library can describe a file as\n`DiskFormat::Iso`"));
}

fn small_vm() -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web", "namespace": "ns1"},
        "spec": {"template": {"spec": {"domain": {"memory": {"guest": "1Gi"}, "devices": {}}}}},
    })
}

#[test]
fn defaults_are_those_of_kubevirt() {
    let (hardware, warnings) = of_vm(&small_vm()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((hardware.cpu.count(), hardware.memory), (Some(1), 1 << 30));
    assert_eq!((hardware.firmware, hardware.has_tpm, hardware.os), (Firmware::Bios, false, None));
    assert_eq!(hardware.nics.len(), 1);
    assert_eq!(
        (&hardware.nics[0].model, &hardware.nics[0].attachment),
        (&NicModel::Virtio, &Attachment::Pod)
    );
    assert_eq!(hardware.origin.as_deref(), Some("KubeVirt VM ns1/web"));

    let spec = |change: Value| {
        let mut vm = small_vm();
        let spec = &mut vm["spec"]["template"]["spec"];
        for (key, value) in change.as_object().unwrap() {
            let pointer = format!("/{key}");
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        of_vm(&vm).unwrap().0
    };
    assert_eq!(
        spec(json!({"domain/firmware": {"bootloader": {"efi": {}}}})).firmware,
        Firmware::Efi { secure_boot: true }
    );
    assert_eq!(spec(json!({"architecture": "arm64"})).firmware, Firmware::Efi { secure_boot: false });
    assert!(spec(json!({"domain/devices/tpm": {}})).has_tpm);
    assert!(!spec(json!({"domain/devices/tpm": {"enabled": false}})).has_tpm);
    assert!(spec(json!({"domain/devices/autoattachPodInterface": false})).nics.is_empty());
    let claims = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "b"}}]);
    let disks = spec(json!({"volumes": claims.clone()})).disks;
    assert_eq!(
        (disks[0].bus, disks[0].claim.as_deref()),
        (DiskBus::Sata, Some("b")),
        "a volume without a disk"
    );
    assert_eq!(
        spec(json!({"volumes": claims.clone(), "architecture": "arm64"})).disks[0].bus,
        DiskBus::Virtio
    );
    let shared = json!([{"name": "a", "virtiofs": {}}]);
    assert!(spec(json!({"volumes": claims, "domain/devices/filesystems": shared})).disks.is_empty());
    let resources = spec(json!({"domain/resources": {"requests": {"cpu": "1500m"}}}));
    assert_eq!(resources.cpu.sockets, 2, "requests are rounded up");
    let windows = spec(json!({"domain/features": {"hyperv": {"relaxed": {}}}})).os.unwrap();
    assert_eq!(windows.family, OsFamily::Windows);
    let memory = spec(json!({"domain/memory": {"guest": 1_073_741_824}}));
    assert_eq!(memory.memory, 1 << 30, "YAML makes numbers of quantities");
}

#[test]
fn hints_of_the_operating_system_are_taken_in_order_but_specific_ones_first() {
    let os = |annotation: Option<&str>, label: Option<&str>, preference: Option<&str>| {
        let mut vm = small_vm();
        if let Some(annotation) = annotation {
            vm["spec"]["template"]["metadata"] = json!({"annotations": {"vm.kubevirt.io/os": annotation}});
        }
        if let Some(label) = label {
            vm["metadata"]["labels"] = json!({format!("os.template.kubevirt.io/{label}"): "true"});
        }
        if let Some(preference) = preference {
            vm["spec"]["preference"] = json!({"name": preference});
        }
        of_vm(&vm).unwrap().0.os.map(|os| os.vmw_os_type)
    };
    assert_eq!(os(Some("rhel9"), Some("fedora"), Some("ubuntu")).as_deref(), Some("rhel9_64Guest"));
    assert_eq!(os(Some("linux"), None, Some("ubuntu")).as_deref(), Some("ubuntu64Guest"));
    assert_eq!(os(None, Some("windows10"), None).as_deref(), Some("windows9_64Guest"));
    assert_eq!(os(Some("legacy"), None, None), None);
}

#[test]
fn what_was_seen_of_a_vm_fills_what_it_does_not_say() {
    let os = |seen: &VmSeen, annotation: Option<&str>| {
        let mut vm = small_vm();
        vm["metadata"]["annotations"] = json!({"vm.kubevirt.io/os": annotation});
        of_vm_with(&vm, seen).unwrap().0.os.map(|os| os.description)
    };
    let guest = |info: Value| VmSeen::of_instance(&json!({"status": {"guestOSInfo": info}}));
    let windows = json!({
        "id": "mswindows", "name": "Microsoft Windows", "prettyName": "Windows Server 2022 Standard",
        "version": "Microsoft Windows Server 2022", "versionId": "2022",
    });
    let preferred = |name: &str| VmSeen { preference: Some(name.into()), ..VmSeen::default() };
    for (seen, annotation, expected) in [
        (
            guest(json!({"id": "debian", "versionId": "12"})),
            Some("rhel9"),
            Some("Debian GNU/Linux 12 (64-bit)"),
        ),
        (guest(json!({"id": "rhel", "versionId": "9.4"})), None, Some("Red Hat Enterprise Linux 9 (64-bit)")),
        (guest(json!({"id": "ol", "versionId": "8.9"})), None, Some("Oracle Linux 8 (64-bit)")),
        (guest(windows), None, Some("Windows Server 2022 (64-bit)")),
        // More exact, but of another family.
        (
            guest(json!({"id": "mswindows", "name": "Microsoft Windows"})),
            Some("fedora"),
            Some("Windows (64-bit)"),
        ),
        (
            guest(json!({"id": "mswindows", "name": "Microsoft Windows"})),
            Some("win10"),
            Some("Windows 10 (64-bit)"),
        ),
        (guest(json!({"id": "plan9"})), Some("fedora"), Some("Fedora (64-bit)")),
        (preferred("fedora"), Some("linux"), Some("Fedora (64-bit)")),
        (preferred("fedora"), Some("debian"), Some("Debian GNU/Linux (64-bit)")),
        (preferred("windows.11"), Some("linux"), Some("Linux (64-bit)")),
        (preferred("abacus"), None, None),
    ] {
        assert_eq!(os(&seen, annotation).as_deref(), expected, "{seen:?} {annotation:?}");
    }

    let seen = VmSeen {
        macs: [("default", "02-AA-00-00-00-01"), ("lan", "02:00:00:00:00:02"), ("gone", "02:00:00:00:00:03")]
            .map(|(name, mac)| (name.to_owned(), mac.to_owned()))
            .into(),
        ..VmSeen::default()
    };
    let macs = |interfaces: Value| {
        let mut vm = small_vm();
        vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = interfaces;
        let nics = of_vm_with(&vm, &seen).unwrap().0.nics;
        nics.into_iter().map(|nic| nic.mac.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(macs(json!(null)), ["02:aa:00:00:00:01"], "the card that a VM has which says nothing");
    let stated =
        json!([{"name": "lan", "macAddress": "02:00:00:00:00:99"}, {"name": "default"}, {"name": "new"}]);
    assert_eq!(macs(stated), ["02:00:00:00:00:99", "02:aa:00:00:00:01", ""]);
}

#[test]
fn a_vm_without_a_uuid_has_the_one_of_its_name() {
    let uuid = |vm: &Value| of_vm(vm).unwrap().0.uuid;
    let mut vm = small_vm();
    vm["metadata"]["name"] = json!("db");
    assert_eq!(uuid(&vm).as_deref(), Some("afbfbee4-e771-559c-b6d5-41f26cb027a0"));
    vm["spec"]["template"]["spec"]["domain"]["firmware"] =
        json!({"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223"});
    assert_eq!(uuid(&vm).as_deref(), Some("5d307ca9-b3ef-428c-8861-06e72d69f223"));
    vm["spec"]["template"]["spec"]["domain"]["firmware"] = json!({"uuid": ""});
    vm["metadata"] = json!({});
    assert_eq!(uuid(&vm), None);
}

#[test]
fn references_that_are_not_written_out_are_told() {
    let mut vm = small_vm();
    vm["spec"]["preference"] = json!({"name": "windows.11"});
    vm["spec"]["instancetype"] = json!({"name": "u1.small"});
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"cores": 2});
    let (hardware, warnings) = of_vm(&vm).unwrap();
    assert_eq!(hardware.firmware, Firmware::Bios, "nobody says otherwise here");
    assert_eq!(fields(&warnings), ["spec.instancetype", "spec.preference"]);
    assert!(warnings[1].message.contains("windows.11") && warnings[1].message.contains("firmware"));
    assert!(warnings.iter().all(|warning| warning.remedy.contains("expand-spec")), "{warnings:?}");
    let error = of_vm(&json!({})).unwrap_err();
    assert!(error.hint().unwrap().contains("expand-spec"), "{error}");
}

#[test]
fn annotations_that_change_the_machine_are_told() {
    let mut vm = small_vm();
    vm["spec"]["template"]["metadata"] = json!({"annotations": {
        "hooks.kubevirt.io/hookSidecars": "[{\"image\": \"secret\"}]",
        "kubevirt.io/ignitiondata": "{}",
        "vm.kubevirt.io/flavor": "small",
    }});
    let (_, warnings) = of_vm(&vm).unwrap();
    let document = include_str!("../../docs/appliance.md");
    for name in ["hooks.kubevirt.io/hookSidecars", "kubevirt.io/ignitiondata"] {
        let field = format!("spec.template.metadata.annotations[{name}]");
        let told = warnings.iter().filter(|warning| warning.field == field).collect::<Vec<_>>();
        let [told] = told.as_slice() else { panic!("{name}: {warnings:?}") };
        assert!(document.contains(&format!("| `{field}` | {} | {} |", told.message, told.remedy)), "{field}");
    }
    assert!(!format!("{warnings:?}").contains("secret") && !format!("{warnings:?}").contains("flavor"));
}

#[test]
fn what_is_not_a_vm_or_says_too_little_is_refused() {
    for vm in [json!({}), json!({"kind": "Pod", "spec": {"template": {"spec": {}}}}), json!(null), json!([])]
    {
        assert_eq!(of_vm(&vm).unwrap_err().kind(), ErrorKind::Usage, "{vm}");
    }
    let mut vm = small_vm();
    vm["spec"]["instancetype"] = json!({"name": "u1.small"});
    let error = of_vm(&vm).unwrap_err();
    assert!(
        error.to_string().contains("u1.small") && error.hint().unwrap().contains("expand-spec"),
        "{error}"
    );
    let mut vm = small_vm();
    vm["spec"]["template"]["spec"]["domain"]["memory"] = json!({});
    assert!(of_vm(&vm).unwrap_err().to_string().contains("memory"));
    let mut vm = small_vm();
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"sockets": 4_000_000_000_u64, "cores": 4});
    assert!(of_vm(&vm).unwrap_err().to_string().contains("CPUs"));
}

#[test]
fn numbers_that_are_none_do_not_become_defaults() {
    for (place, value) in [
        ("cpu/cores", json!("4")),
        ("cpu/cores", json!(3.5)),
        ("cpu/threads", json!(-1)),
        ("cpu/sockets", json!(1_u64 << 32)),
        ("cpu/maxSockets", json!([8])),
        ("memory/guest", json!("4GB")),
        ("memory/guest", json!(-1)),
        ("memory/guest", json!("99Ei")),
        ("memory/maxGuest", json!(true)),
    ] {
        let mut vm = small_vm();
        let (part, name) = place.split_once('/').unwrap();
        vm["spec"]["template"]["spec"]["domain"][part][name] = value.clone();
        let error = of_vm(&vm).unwrap_err();
        let field = format!("domain.{part}.{name} is {value}");
        assert!(error.kind() == ErrorKind::Usage && error.to_string().contains(&field), "{error}");
    }
    // To KubeVirt 0 is as if it were not there.
    let mut vm = small_vm();
    vm["spec"]["template"]["spec"]["domain"]["cpu"] = json!({"sockets": 0, "cores": 0, "threads": null});
    assert_eq!(of_vm(&vm).unwrap().0.cpu.count(), Some(1));
}
