//! What a directory that is not empty loses by `pack`: nothing that nobody gave up.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{
    kill::OFTEN,
    ova::{four_disks, key_pair, pack},
    support::{have, listing, make_disk, read, run, scratch, tool, vmferry, wait_for},
};

/// Everything in a directory.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let names = listing(directory).into_iter();
    names.map(|name| (name.clone(), fs::read(directory.join(name)).unwrap())).collect()
}

#[test]
fn no_disk_is_written_over_a_source_of_another() {
    let directory = scratch();
    let place = directory.path().join("vm");
    fs::create_dir(&place).unwrap();
    let first = directory.path().join("a.raw");
    make_disk(&first, 600, 3 << 20);
    for name in [
        "vm-disk1.vmdk",
        "vm-disk1.vmdk.partial",
        "vm-disk1.vmdk.partial.journal",
        "vm-disk1.vmdk.vmferry.jsonl",
        "vm-disk2.vmdk",
        "vm.ovf",
        "vm.ovf.partial",
        "vm.ovf.partial.journal",
        "vm.mf",
        "vm.mf.partial",
        "vm.cert",
    ] {
        let source = place.join(name);
        make_disk(&source, 601, 3 << 20);
        let before = content(&place);
        for more in [&["--force"][..], &["--force", "--restart"], &["--restart"], &[]] {
            let more = [&["--format", "ovf", "-f", "raw"], more].concat();
            let said = run(pack(&[first.clone(), source.clone()], &place, &more)).expect(5).stderr;
            assert!(said.contains("source itself"), "{name} {more:?}: {said}");
            assert!(content(&place) == before, "{name} {more:?}");
        }
        fs::remove_file(&source).unwrap();
    }
    // Nor under another name.
    let source = place.join("vm-disk1.vmdk");
    make_disk(&source, 602, 3 << 20);
    let link = directory.path().join("link.raw");
    std::os::unix::fs::symlink(&source, &link).unwrap();
    let more = ["--format", "ovf", "-f", "raw", "--force"];
    let said = run(pack(&[first, link], &place, &more)).expect(5).stderr;
    assert!(said.contains("source itself"), "{said}");
    assert_eq!(listing(&place), ["vm-disk1.vmdk"]);
}

#[test]
fn a_description_is_not_written_over_itself() {
    let directory = scratch();
    let (disk, place) = (directory.path().join("a.raw"), directory.path().join("vm"));
    make_disk(&disk, 610, 1 << 20);
    let mut args = pack(&[disk], &place, &["--format", "ovf", "--force"]);
    fs::create_dir(&place).unwrap();
    let template = place.join("vm.ovf");
    let at = args.iter().position(|arg| arg == "--descriptor").unwrap() + 1;
    fs::copy(&args[at], &template).unwrap();
    args[at] = template.to_str().unwrap().into();
    let before = content(&place);
    let said = run(&args).expect(5).stderr;
    assert!(said.contains("input itself"), "{said}");
    assert!(content(&place) == before);
}

/// Whatever name an input has in the appliance, and in whatever shape that is written.
#[test]
fn no_input_is_written_over_or_removed() {
    let directory = scratch();
    let (disk, place) = (directory.path().join("a.raw"), directory.path().join("vm"));
    make_disk(&disk, 611, 1 << 20);
    fs::create_dir(&place).unwrap();
    let (key, cert) = key_pair(directory.path(), "k", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let disks = [disk];
    let plain = pack(&disks, &place, &[]);
    let template = &plain[plain.iter().position(|arg| arg == "--descriptor").unwrap() + 1];
    let archive = place.join("x.ova");
    let foreign = directory.path().join("foreign.ovf");
    fs::write(&foreign, FOREIGN).unwrap();
    for (option, name, from, output, more) in [
        ("--ovf", "desc.xml", foreign.as_path(), &place, &["--disk-name", "desc.xml"][..]),
        ("--ovf", "vm.mf", &foreign, &place, &[]),
        ("--descriptor", "vm.ovf.partial", Path::new(template), &place, &[]),
        ("--vm", "vm.ovf", Path::new(VM), &place, &[]),
        ("--sign-cert", "vm.cert", &cert, &place, &[]),
        ("--sign-key", "vm-disk1.vmdk", &key, &place, &[]),
        ("--ovf", "x.ova", &foreign, &archive, &[]),
        ("--sign-cert", "x.ova.partial", &cert, &archive, &[]),
    ] {
        let input = place.join(name);
        fs::copy(from, &input).unwrap();
        let before = content(&place);
        let mut args: Vec<String> = ["pack", "-q", "--force", "-f", "raw"].map(str::to_owned).into();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        args.extend(["--disk".into(), path(&disks[0]), option.into(), path(&input)]);
        match option {
            "--sign-cert" => args.extend(["--sign-key".into(), path(&key)]),
            "--sign-key" => args.extend(["--sign-cert".into(), path(&cert)]),
            _ => {}
        }
        if option.starts_with("--sign") {
            args.extend(["--vm".into(), VM.into()]);
        }
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args.push(path(output));
        let said = run(&args).expect(5).stderr;
        assert!(said.contains("input itself"), "{option} {name}: {said}");
        assert!(content(&place) == before, "{option} {name}");
        fs::remove_file(&input).unwrap();
    }
}

/// The least that describes a VM.
const FOREIGN: &str = "<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' \
    xmlns:o='http://schemas.dmtf.org/ovf/envelope/1' \
    xmlns:r='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData'><References/>\
    <VirtualSystem o:id='vm'><Info/><VirtualHardwareSection><Info/><Item><r:ElementName>memory</r:ElementName>\
    <r:InstanceID>1</r:InstanceID><r:ResourceType>4</r:ResourceType><r:VirtualQuantity>64</r:VirtualQuantity>\
    </Item></VirtualHardwareSection></VirtualSystem></Envelope>";

const VM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/appliance/db.yaml");

/// Kills a run into `place` in its second disk.
fn interrupt(args: &[String], place: &Path) {
    let journal = place.join("vm.ovf.partial.journal");
    let mut child = vmferry(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the second disk to begin", || {
        let text = fs::read_to_string(&journal).unwrap_or_default();
        text.matches("\"disk-start\"").count() > 1 || child.try_wait().unwrap().is_some()
    });
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was faster than the kill");
}

#[test]
fn what_is_restarted_removes_its_own_files_and_no_others() {
    let directory = scratch();
    let disks: Vec<PathBuf> = (0..3).map(|index| directory.path().join(format!("{index}.raw"))).collect();
    for (index, disk) in disks.iter().enumerate() {
        make_disk(disk, 620 + index as u64, 40 << 20);
    }
    let place = directory.path().join("vm");
    let named = |names: [&'static str; 3], more: &[&'static str]| {
        let names = names.into_iter().flat_map(|name| ["--disk-name", name]);
        let more: Vec<&str> = names.chain(OFTEN.iter().copied()).chain(more.iter().copied()).collect();
        pack(&disks, &place, &[&["--format", "ovf"], &more[..]].concat())
    };
    let old = named(["a.vmdk", "b.vmdk", "c.vmdk"], &[]);
    interrupt(&old, &place);
    // Files of somebody else: in the way of new names, and beside.
    fs::write(place.join("x.vmdk"), "foreign").unwrap();
    fs::write(place.join("c.vmdk"), "foreign").unwrap();
    let again = named(["x.vmdk", "y.vmdk", "z.vmdk"], &["--restart"]);
    let said = run(&again).expect(5).stderr;
    assert!(said.contains("x.vmdk exists"), "{said}");
    assert_eq!(fs::read(place.join("x.vmdk")).unwrap(), b"foreign");
    fs::remove_file(place.join("x.vmdk")).unwrap();
    run(&again).expect(0);
    let left = listing(&place);
    assert!(!left.iter().any(|name| name.starts_with("a.vmdk") || name.starts_with("b.vmdk")), "{left:?}");
    assert!(!left.iter().any(|name| name.contains("partial")), "{left:?}");
    assert_eq!(fs::read(place.join("c.vmdk")).unwrap(), b"foreign");
    run(["verify", "-q", place.join("vm.ovf").to_str().unwrap()]).expect(0);
}

#[test]
fn what_is_in_the_way_is_refused_before_anything_is_written() {
    let directory = scratch();
    let disks = [directory.path().join("a.raw"), directory.path().join("b.raw")];
    for disk in &disks {
        make_disk(disk, 630, 2 << 20);
    }
    let place = directory.path().join("vm");
    fs::create_dir(&place).unwrap();
    for name in [
        "vm-disk2.vmdk",
        "vm-disk2.vmdk.vmferry.jsonl",
        "vm.mf",
        "vm.cert",
        "vm.ovf",
        "vm.mf.partial",
        "vm.ovf.partial",
    ] {
        fs::write(place.join(name), "foreign").unwrap();
        let said = run(pack(&disks, &place, &["--format", "ovf"])).expect(5).stderr;
        assert!(said.contains(&format!("{name} exists")), "{name}: {said}");
        assert_eq!(listing(&place), [name]);
        fs::remove_file(place.join(name)).unwrap();
    }
}

/// The descriptor would be written over the image, and the run would end well.
#[test]
fn no_image_is_called_as_what_is_written_beside_it() {
    let directory = scratch();
    let disks = [directory.path().join("a.raw")];
    make_disk(&disks[0], 635, 1 << 20);
    let place = directory.path().join("vm");
    for name in ["vm.ovf.partial", "vm.mf.partial", "vm.ovf.partial.journal", "a.vmdk.vmferry.jsonl", "a.OVF"]
    {
        let said = run(pack(&disks, &place, &["--format", "ovf", "--disk-name", name])).expect(2).stderr;
        assert!(said.contains("something else") && said.contains(".vmdk"), "{name}: {said}");
        assert!(!place.exists(), "{name}");
    }
}

#[test]
fn what_described_the_old_disks_does_not_stay_beside_the_new_ones() {
    let directory = scratch();
    let disks: Vec<PathBuf> = (0..2).map(|index| directory.path().join(format!("{index}.raw"))).collect();
    for (index, disk) in disks.iter().enumerate() {
        make_disk(disk, 640 + index as u64, 40 << 20);
    }
    let place = directory.path().join("vm");
    fs::create_dir(&place).unwrap();
    let fill = || {
        for name in ["vm.ovf", "vm.mf", "vm.cert"] {
            fs::write(place.join(name), "old").unwrap();
        }
    };
    fill();
    let args = pack(&disks, &place, &[&OFTEN[..], &["--format", "ovf", "--force"]].concat());
    interrupt(&args, &place);
    let left = listing(&place);
    for name in ["vm.ovf", "vm.mf", "vm.cert"] {
        assert!(!left.iter().any(|left| left == name), "{left:?}");
    }
    run(&args).expect(0);
    // A complete one is overwritten as a whole too.
    fill();
    run(&args).expect(0);
    assert!(!place.join("vm.cert").exists());
    assert!(read(&place.join("vm.ovf")).starts_with(b"<?xml"));
    run(["verify", "-q", place.join("vm.ovf").to_str().unwrap()]).expect(0);
}

#[test]
fn an_appliance_as_a_source_says_how_to_go_on() {
    let directory = scratch();
    let disks = [directory.path().join("a.raw"), directory.path().join("b.raw")];
    for disk in &disks {
        make_disk(disk, 650, 1 << 20);
    }
    let two = directory.path().join("two.ova");
    run(pack(&disks, &two, &[])).expect(0);
    let said = run(pack(&[two], &directory.path().join("vm.ova"), &[])).expect(2).stderr;
    assert!(said.contains("vmferry convert --disk NUMBER") && !said.contains("choose one"), "{said}");
}

#[test]
fn no_part_of_a_source_is_written_over_although_another_file_was_named() {
    if !have("qemu-img") {
        return;
    }
    let directory = scratch();
    let disks = four_disks(directory.path(), 640);
    let vm = directory.path().join("vm");
    run(pack(&disks[..2], &vm, &["--format", "ovf"])).expect(0);
    // The disk of a text VMDK lies in a file beside it; here it has the name of what is to be packed.
    let place = directory.path().join("place");
    fs::create_dir(&place).unwrap();
    let path = |directory: &Path, name: &str| directory.join(name).to_str().unwrap().to_owned();
    let text = path(&place, "flat.vmdk");
    let raw = disks[0].to_str().unwrap();
    tool("qemu-img", ["convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, &text]);
    let extent = path(&place, "place-disk1.vmdk");
    fs::rename(place.join("flat-flat.vmdk"), &extent).unwrap();
    let described = fs::read_to_string(&text).unwrap();
    fs::write(&text, described.replace("flat-flat.vmdk", "place-disk1.vmdk")).unwrap();
    let before = (content(&place), content(&vm));
    let refused = |args: &[String]| {
        for more in [&["--force"][..], &["--force", "--restart"]] {
            let more = more.iter().map(|&arg| arg.to_owned()).collect();
            let said = run([args.to_vec(), more].concat()).expect(5).stderr;
            assert!(said.contains("part of the source"), "{args:?}: {said}");
            assert!((content(&place), content(&vm)) == before, "{args:?}");
        }
    };
    let words = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
    let allow = ["--allow-backing", place.to_str().unwrap()];
    refused(&words(&[&["convert", "-q", &text, &extent, "-O", "raw"], &allow[..]].concat()));
    let ovf = path(&vm, "vm.ovf");
    for (name, disk) in [("vm-disk1.vmdk", "1"), ("vm-disk2.vmdk", "2")] {
        refused(&words(&["convert", "-q", &ovf, &path(&vm, name), "--disk", disk]));
    }
    for (output, format) in [(place.clone(), "ovf"), (PathBuf::from(&extent), "ova")] {
        let args = pack(&disks[..1], &output, &[&["--format", format], &allow[..]].concat());
        let from_text = |arg: String| if arg == raw { text.clone() } else { arg };
        refused(&args.into_iter().map(from_text).collect::<Vec<_>>());
    }
}
