use std::time::Duration;

use clap::Parser as _;
use vmferry::{
    ErrorKind, ResumePolicy,
    formats::{
        Compression,
        deflate::Level,
        digest::Algorithm,
        qcow2::Qcow2Options,
        raw::RawOptions,
        vmdk::{Subformat, VmdkOptions},
    },
    source::SourceFormat,
};

use super::*;
use crate::cli::{Cli, args::Command};

fn parse(arguments: &str) -> Result<Box<ConvertArgs>, clap::Error> {
    let line = format!("vmferry convert {arguments}");
    match Cli::try_parse_from(line.split_whitespace())?.command {
        Command::Convert(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

fn plan(arguments: &str) -> Result<Plan, Error> {
    Plan::new(&parse(arguments).unwrap(), OutputKind::Other)
}

fn qcow2(cluster_bits: u32, compression: Compression, level: Level) -> WriterSpec {
    WriterSpec::Qcow2(Qcow2Options { cluster_bits, compression, level })
}

fn vmdk(subformat: Subformat, level: Level, id_seed: Option<&str>) -> WriterSpec {
    WriterSpec::Vmdk(VmdkOptions { subformat, level, id_seed: id_seed.map(str::to_owned) })
}

#[test]
fn arguments_become_a_spec() {
    use {
        Compression::{Deflate, None as Stored, Zstd},
        Subformat::{MonolithicSparse, StreamOptimized},
    };
    let raw = || WriterSpec::Raw(RawOptions::default());
    for (arguments, spec) in [
        ("a b.raw", raw()),
        ("a b.IMG", raw()),
        ("a b.bin -O raw --compression none", raw()),
        ("a b.vmdk -O raw", raw()),
        ("a - -O raw", raw()),
        ("a b.qcow2", qcow2(16, Stored, Level::Default)),
        ("a b.qcow2 --cluster-size 512", qcow2(9, Stored, Level::Default)),
        ("a b.qcow2 --cluster-size 2M", qcow2(21, Stored, Level::Default)),
        ("a b.qcow2 --compression zlib", qcow2(16, Deflate, Level::Default)),
        ("a b.qcow2 --compression deflate --compression-level 9", qcow2(16, Deflate, Level::Number(9))),
        ("a b.qcow2 --compression zstd --compression-level 19", qcow2(16, Zstd, Level::Number(19))),
        ("a b.qcow2 --compression zstd --compression-level best", qcow2(16, Zstd, Level::Best)),
        ("a b.vmdk", vmdk(StreamOptimized, Level::Default, None)),
        ("a b.vmdk --compression deflate --compression-level fast", vmdk(StreamOptimized, Level::Fast, None)),
        (
            "a b.vmdk --subformat monolithicSparse --id-seed x",
            vmdk(MonolithicSparse, Level::Default, Some("x")),
        ),
        ("a b.vmdk --subformat streamoptimized", vmdk(StreamOptimized, Level::Default, None)),
        (
            "a b.vmdk --subformat monolithicSparse --compression none",
            vmdk(MonolithicSparse, Level::Default, None),
        ),
    ] {
        assert_eq!(plan(arguments).unwrap().spec, spec, "{arguments}");
    }
}

#[test]
fn impossible_arguments_are_usage_errors_with_the_reason() {
    for (arguments, reason) in [
        ("a b", "no extension"),
        ("a b.bin", ".bin"),
        ("a b.qcow2.partial", ".partial"),
        ("a -", "standard output has no extension"),
        ("a ftp://host/b.qcow2", "cannot write to the URL"),
        ("a b.raw --compression zstd", "raw cannot be compressed"),
        ("a b.raw --compression-level 3", "not compressed"),
        ("a b.raw --cluster-size 64K", "--cluster-size is for qcow2, the output is raw"),
        ("a b.qcow2 --subformat streamOptimized", "--subformat is for vmdk"),
        ("a b.qcow2 --id-seed x", "--id-seed is for vmdk"),
        ("a b.qcow2 --cluster-size 0", "power of two from 512 to 2MiB"),
        ("a b.qcow2 --cluster-size 256", "power of two from 512 to 2MiB"),
        ("a b.qcow2 --cluster-size 4M", "power of two from 512 to 2MiB"),
        ("a b.qcow2 --cluster-size 65537", "not 65537"),
        ("a b.qcow2 --compression-level 1", "not compressed"),
        ("a b.qcow2 --compression deflate --compression-level 10", "levels 1-9, not 10"),
        ("a b.vmdk --compression none", "always compressed"),
        ("a b.vmdk --compression zstd", "no zstd"),
        ("a b.vmdk --compression-level 10", "levels 1-9"),
        ("a b.vmdk --subformat monolithicSparse --compression deflate", "cannot be compressed"),
        ("a b.vmdk --subformat monolithicSparse --compression-level 1", "not compressed"),
        ("a b.qcow2 --flat-sha256", "--flat-sha256"),
        ("a b.vmdk --subformat monolithicSparse --flat-sha256", "--flat-sha256"),
        ("a b.qcow2 --verify --digest none", "--verify compares digests"),
        ("a - -O raw --verify", "--verify is not possible on a pipe"),
        ("a - -O raw --sums", "--sums is not possible on a pipe"),
        ("a - -O raw --journal j", "--journal is not possible on a pipe"),
    ] {
        let error = plan(arguments).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{arguments}");
        assert!(error.to_string().contains(reason), "{arguments}: {error}");
    }
}

#[test]
fn mistakes_that_clap_finds_exit_with_2() {
    for arguments in [
        "",
        "a",
        "a b.raw c.raw",
        "a b.raw -O vhdx",
        "a b.raw -f qcow",
        "a b.raw --digest md5",
        "a b.raw --compression lzma",
        "a b.vmdk --compression-level 20",
        "a b.vmdk --compression-level 0",
        "a b.vmdk --subformat flat",
        "a b.raw --workers 0",
        "a b.raw --connections 0",
        "a b.raw --memory 0",
        "a b.raw --memory 64KB",
        "a b.raw --checkpoint-bytes 0",
        "a b.raw --checkpoint-interval 0s",
        "a b.raw --stall-timeout soon",
        "a b.raw --no-resume --restart",
        "a b.raw --insecure --ca-file x",
        "a b.raw --quiet --verbose",
    ] {
        let error = parse(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments}");
    }
}

#[test]
fn the_defaults_are_those_of_the_library() {
    let plan = plan("a b.qcow2").unwrap();
    assert_eq!(format!("{:?}", plan.options), format!("{:?}", ConversionOptions::default()));
    assert_eq!(plan.spec, WriterSpec::Qcow2(Qcow2Options::default()));
    assert_eq!((plan.source.as_str(), plan.target), ("a", Target::Path("b.qcow2".into())));
}

#[test]
fn every_option_reaches_the_library() {
    let full = plan(
        "-f gz --source-size 20GiB --allow-backing /b --token-file t --ca-file c --connections 8 \
         --stall-timeout 10s --retry-for 1h --digest blake3 --flat-sha256 --workers 3 --memory 1GiB --verify \
         --sums --force --no-manifest --restart --journal j --checkpoint-bytes 1M --checkpoint-interval 500ms \
         --assume-unchanged - b.raw",
    )
    .unwrap();
    assert_eq!(full.source, "-");
    let options = full.options;
    assert_eq!(options.source.format, Some(SourceFormat::Gzip));
    assert_eq!(options.source.size, Some(20 << 30));
    assert_eq!(options.source.allow_backing, Some("/b".into()));
    let http = options.source.http;
    assert_eq!((http.token_file, http.ca_file), (Some("t".into()), Some("c".into())));
    assert_eq!((http.insecure, http.connections), (false, 8));
    assert_eq!((http.stall_timeout, http.retry_for), (Duration::from_secs(10), Duration::from_secs(3600)));
    assert_eq!((options.digest, options.workers), (Some(Algorithm::Blake3), Some(3)));
    assert_eq!((options.memory, options.checkpoint_bytes), (1 << 30, 1 << 20));
    assert_eq!(options.checkpoint_interval, Duration::from_millis(500));
    assert_eq!((options.resume, options.journal), (ResumePolicy::Restart, Some("j".into())));
    let flags = [options.flat_sha256, options.verify, options.sums, options.force, options.assume_unchanged];
    assert!(flags.iter().all(|flag| *flag) && !options.manifest);
    let short = plan("a b.raw --digest none --no-resume --insecure").unwrap();
    assert_eq!((short.options.digest, short.options.resume), (None, ResumePolicy::Refuse));
    assert!(short.options.source.http.insecure);
}

#[test]
fn what_stands_at_the_output_decides_too() {
    let args = parse("a /dev/mapper/disk.raw").unwrap();
    let error = Plan::new(&args, OutputKind::BlockDevice).unwrap_err();
    assert!(error.to_string().contains("block device"), "{error}");
    assert_eq!(error.hint(), Some("name the format: -O raw, -O qcow2 or -O vmdk"));
    let args = parse("a /dev/mapper/disk -O raw").unwrap();
    assert!(Plan::new(&args, OutputKind::BlockDevice).is_ok());
    let error = Plan::new(&args, OutputKind::Directory).unwrap_err();
    assert!(error.to_string().contains("is a directory"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    assert_eq!(kind_of(directory.path()), OutputKind::Directory);
    assert_eq!(kind_of(&directory.path().join("new.raw")), OutputKind::Other);
}

#[test]
fn examples_in_the_help_parse() {
    let joined = AFTER_HELP.replace("\\\n", " ");
    let commands: Vec<&str> = joined.lines().filter(|line| line.contains("vmferry convert")).collect();
    assert_eq!(commands.len(), 5);
    for command in commands {
        let (_, arguments) = command.split_once("vmferry convert").unwrap();
        let arguments = arguments.split('|').next().unwrap();
        plan(arguments).unwrap();
    }
}
