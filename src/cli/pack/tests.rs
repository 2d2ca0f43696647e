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
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "<Envelope/>").unwrap();
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
        ("--disk a.raw my_ünit.ova", "name of the appliance"),
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
