use clap::Parser as _;

use super::*;
use crate::cli::{Cli, args::Command};

fn parse(line: &str) -> Result<ExportArgs, clap::Error> {
    match Cli::try_parse_from(line.split_whitespace())?.command {
        Command::Export(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_thing_is_exported_and_it_has_a_name() {
    let of = |line: &str| what(&parse(line).unwrap()).unwrap();
    assert_eq!(of("vmferry export db --output x"), (None, ExportOf::Vm("db".into())));
    assert_eq!(of("vmferry export demo/db --output x"), (Some("demo".into()), ExportOf::Vm("db".into())));
    assert_eq!(of("vmferry export --pvc data --output x"), (None, ExportOf::Claim("data".into())));
    assert_eq!(of("vmferry export --snapshot s --output x"), (None, ExportOf::Snapshot("s".into())));
    assert_eq!(of("vmferry export --vmexport e --output x"), (None, ExportOf::Existing("e".into())));
    for wrong in ["", "db --pvc data", "--pvc a --snapshot b"] {
        assert!(parse(&format!("vmferry export {wrong} --output x")).is_err(), "{wrong}");
    }
    for wrong in ["/db", "demo/", "a/b/c"] {
        assert!(what(&parse(&format!("vmferry export {wrong} --output x")).unwrap()).is_err(), "{wrong}");
    }
    assert!(parse("vmferry export db").is_err(), "an output is needed");
}

#[test]
fn outputs_are_directories_unless_they_end_like_images() {
    assert_eq!(target(Path::new("-")), ExportTarget::Stdout);
    for directory in ["/", "no-such/", "no-such", "no-such.v1", "x.qcow2/"] {
        assert_eq!(target(Path::new(directory)), ExportTarget::Directory(directory.into()), "{directory}");
    }
    for file in ["no-such.qcow2", "a/b.IMG", "x.vmdk"] {
        assert_eq!(target(Path::new(file)), ExportTarget::File(file.into()), "{file}");
    }
}

#[test]
fn choices_have_the_names_of_the_help() {
    let args = parse("vmferry export db --output x --source snapshot --quiesce require --transfer gzip --reach port-forward")
        .unwrap();
    assert_eq!(args.source, SourceChoice::Snapshot);
    assert_eq!(
        (args.quiesce, args.transfer, args.reach),
        (Quiesce::Require, Transfer::Gzip, Reach::PortForward)
    );
    for (wrong, says) in [
        ("--source backup", "not yet supported"),
        ("--source pvc", "--pvc"),
        ("--reach telepathy", "port-forward"),
    ] {
        let error = parse(&format!("vmferry export db --output x {wrong}")).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(parse("vmferry export db --output x --service-url http://h").is_err());
}
