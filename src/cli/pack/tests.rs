use clap::Parser as _;
use vmferry::ErrorKind;

use super::*;
use crate::cli::{Cli, args::Command};

fn args(line: &str) -> PackArgs {
    let line = format!("vmferry pack --descriptor x.ovf {line}");
    match Cli::try_parse_from(line.split(' ')).unwrap().command {
        Command::Pack(args) => *args,
        other => panic!("{other:?}"),
    }
}

/// What `pack` makes of a command whose descriptor is there.
fn packed(line: &str) -> Result<Pack, Error> {
    let names: Vec<&str> = match line.matches("--disk ").count() {
        _ if line.contains("--disk-name a.vmdk") => vec!["a.vmdk"],
        _ if line.ends_with("vm/") => vec!["vm-disk1.qcow2"],
        1 => vec!["vm-disk1.vmdk"],
        _ => vec!["vm-disk1.vmdk", "vm-disk2.vmdk"],
    };
    packed_with(&envelope(&names, ""), line)
}

/// A descriptor that refers to files with these names, each `File` with `more`.
fn envelope(names: &[&str], more: &str) -> String {
    let files = names.iter().map(|name| format!("<File o:id='{name}' o:href='{name}' {more}/>"));
    format!(
        "<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' \
         xmlns:o='http://schemas.dmtf.org/ovf/envelope/1'><References>{}</References>\
         <VirtualSystem o:id='vm'><Info/></VirtualSystem></Envelope>",
        files.collect::<String>()
    )
}

fn packed_with(descriptor: &str, line: &str) -> Result<Pack, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), descriptor).unwrap();
    let args = PackArgs { descriptor: Some(file.path().to_owned()), ..args(line) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(pack(&args, None, |_| {})).map(|(pack, _)| pack)
}

#[test]
fn the_output_tells_what_is_written_unless_a_format_is_named() {
    let target = |output: &str, format| target(Path::new(output), format);
    let (ova, ovf) = (Some(ApplianceFormat::Ova), Some(ApplianceFormat::Ovf));
    assert_eq!(target("a.ova", None).unwrap(), PackTarget::Archive("a.ova".into()));
    assert_eq!(target("a.OVA", None).unwrap(), PackTarget::Archive("a.OVA".into()));
    assert_eq!(target("a/", None).unwrap(), PackTarget::Directory("a/".into()));
    assert_eq!(target("/tmp", None).unwrap(), PackTarget::Directory("/tmp".into()));
    assert_eq!(target("a", ova).unwrap(), PackTarget::Archive("a".into()));
    assert_eq!(target("a.ova", ovf).unwrap(), PackTarget::Directory("a.ova".into()));
    assert_eq!(target("a", None).unwrap_err().kind(), ErrorKind::Usage);
    let pipe = target("-", None).unwrap_err();
    assert_eq!(pipe.kind(), ErrorKind::Refused);
    assert!(pipe.hint().unwrap().contains("directory"), "{pipe:?}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_opened() {
    packed("--disk a.raw --disk b.raw vm.ova").unwrap();
    packed("--disk a.raw --disk-name a.vmdk vm.ova").unwrap();
    packed("--disk a.raw --disk-format qcow2 --compression zstd vm/").unwrap();
    for (line, what) in [
        ("--disk a.raw --disk b.raw --disk-name x.vmdk vm.ova", "1 names for 2 disks"),
        ("--disk a.raw --disk b.raw --source-size 1MiB vm.ova", "--source-size"),
        ("--disk a.raw --disk-format qcow2 vm.ova", "streamOptimized"),
        ("--disk - --disk - vm.ova", "standard input"),
        ("--disk a.raw --disk-name a/b.vmdk vm.ova", "OVA"),
        ("--disk a.raw --disk-name vm.mf vm.ova", "vm.mf"),
        ("--disk a.raw --disk b.raw --disk-name x --disk-name X vm.ova", "OVA"),
        ("--disk a.raw --mtime 99999999999 vm.ova", "99999999999"),
    ] {
        let error = packed(line).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{line}: {error}");
        assert!(error.to_string().contains(what), "{line}: {error}");
    }
}

#[test]
fn a_key_needs_its_certificate() {
    for line in ["--disk a --sign-key k vm.ova", "--disk a --sign-cert c vm.ova", "vm.ova"] {
        let line = format!("vmferry pack --descriptor x {line}");
        assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn a_descriptor_that_is_taken_as_it_is_must_be_one_of_these_disks() {
    let (one, two) = ("--disk a vm.ova", "--disk a --disk b vm.ova");
    let names = ["vm-disk1.vmdk", "vm-disk2.vmdk"];
    let marker = "o:size='<vmferry-size-00000>'";
    packed_with(&envelope(&names[..1], marker), one).unwrap();
    packed_with(&envelope(&names[..1], "o:compression='identity'"), one).unwrap();
    packed_with(&envelope(&names, ""), two).unwrap();
    for (text, line, what, hint) in [
        (String::from("hello"), one, "cannot be used", ""),
        ("<Envelope/>".into(), one, "cannot be used", ""),
        ("<x/>".into(), one, "cannot be used", ""),
        (envelope(&[], ""), one, "(none)", "--disk-name"),
        (envelope(&names, ""), one, "vm-disk2.vmdk", "--disk-name"),
        (
            envelope(&["vm-disk2.vmdk", "vm-disk1.vmdk"], ""),
            two,
            "vm-disk2.vmdk, vm-disk1.vmdk",
            "--disk-name",
        ),
        (envelope(&["root.vmdk"], ""), one, "root.vmdk", "--disk-name"),
        (envelope(&names[..1], "o:size='68096'"), one, "certain length", "<vmferry-size-00000>"),
        (envelope(&names[..1], "o:size='<vmferry-used-00000>'"), one, "certain length", ""),
        (envelope(&names, marker), two, "vm-disk2.vmdk", "<vmferry-size-00001>"),
        (envelope(&names[..1], "o:chunkSize='512'"), one, "split", "chunkSize"),
        (envelope(&names[..1], "o:compression='gzip'"), one, "gzip", "compression"),
    ] {
        let error = packed_with(&text, line).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{text}: {error}");
        assert!(error.to_string().contains(what), "{text}: {error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{text}: {error:?}");
    }
}

#[test]
fn files_follow_the_disk_section_unless_they_are_called_like_a_disk_or_its_file() {
    let disk = |id: &str, file: Option<&str>| ovf::Disk {
        id: id.into(),
        file_ref: file.map(str::to_owned),
        ..ovf::Disk::default()
    };
    let file = |id: &str| ovf::File { id: id.into(), href: format!("{id}-x.vmdk"), ..ovf::File::default() };
    let envelope = Envelope {
        files: ["f1", "f2", "f3"].map(file).into(),
        disks: vec![
            disk("blank", None),
            disk("d3", Some("f3")),
            disk("d1", Some("f1")),
            disk("d2", Some("f2")),
        ],
        ..Envelope::default()
    };
    let joined = |stems: &[&str]| {
        let stems: Vec<_> = stems.iter().map(|stem| Some((*stem).to_owned())).collect();
        let ids = joined(&envelope, &stems, |_| true).into_iter();
        ids.map(Option::unwrap_or_default).collect::<Vec<_>>()
    };
    assert_eq!(joined(&["a", "b", "c", "d", "e"]), ["d3", "d1", "d2", "blank", ""]);
    assert_eq!(joined(&["a", "d3", "f1-x"]), ["d2", "d3", "d1"]);
    assert_eq!(super::joined(&envelope, &[None], |id| id == "d2"), [Some("d2".to_owned())]);
}
