//! How outputs are written: what the commands that write images share.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use vmferry::{
    ConversionOptions, Error, ResumePolicy,
    formats::{
        Compression, Format, WriterSpec,
        deflate::Level,
        qcow2::Qcow2Options,
        raw::RawOptions,
        vmdk::{Subformat, VmdkOptions},
    },
};

use super::{
    args::{CompressionArg, DigestArg, ResourceArgs, SubformatArg},
    units::{parse_duration, parse_positive_size, parse_size},
};

/// Cluster lengths that QCOW2 knows: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// Deflate's highest level; zstd's is the highest that a level can be.
const DEFLATE_LEVEL_MAX: u8 = 9;

/// How outputs are written.
#[derive(Args, Debug)]
pub(super) struct WritingArgs {
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    integrity: IntegrityArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    resources: ResourceArgs,
}

/// What is written.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output options")]
pub(super) struct FormatArgs {
    /// Variant of a vmdk [default: streamOptimized]
    #[arg(long, value_name = "NAME", value_enum, ignore_case = true)]
    pub(super) subformat: Option<SubformatArg>,

    /// Compression [default: none for qcow2; a streamOptimized vmdk is always deflate]
    #[arg(long, value_name = "NAME", value_enum)]
    pub(super) compression: Option<CompressionArg>,

    /// How hard to compress: fast, default, best, 1-9 for deflate or 1-19 for zstd
    #[arg(long, value_name = "LEVEL")]
    pub(super) compression_level: Option<Level>,

    /// Cluster size of a qcow2: a power of two from 512 to 2MiB [default: 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) cluster_size: Option<u64>,

    /// What the ids in a vmdk derive from [default: size, parameters and base name]
    #[arg(long, value_name = "TEXT")]
    pub(super) id_seed: Option<String>,

    /// Overwrite an existing output; needed for block devices
    #[arg(long)]
    pub(super) force: bool,
}

/// What is proven.
#[derive(Args, Debug)]
#[command(next_help_heading = "Integrity options")]
pub(super) struct IntegrityArgs {
    /// Hash function of the digest tree; none also leaves out the manifest
    #[arg(long, value_name = "ALGORITHM", default_value = "sha256", value_enum)]
    digest: DigestArg,

    /// Also compute the SHA-256 of a raw output in passing (a streamOptimized vmdk always has one)
    #[arg(long)]
    flat_sha256: bool,

    /// Report the SHA-256 of the output file, reading the file again where that is needed
    #[arg(long)]
    sums: bool,

    /// Read the output back from the disk and compare digests
    #[arg(long)]
    verify: bool,

    /// Do not write the manifest OUTPUT.vmferry.jsonl
    #[arg(long)]
    no_manifest: bool,
}

/// How a run goes on after an interruption.
#[derive(Args, Debug)]
#[command(next_help_heading = "Resume options")]
pub(super) struct ResumeArgs {
    /// Refuse to touch the partial output of an earlier run
    #[arg(long, conflicts_with = "restart")]
    no_resume: bool,

    /// Discard the partial output of an earlier run and start again
    #[arg(long)]
    restart: bool,

    /// Where the journal goes; remote = beside the object that is written, so that another machine can go
    /// on [default: beside the output]
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,

    /// Resume from a source that cannot prove that it is unchanged, such as a block device
    #[arg(long)]
    assume_unchanged: bool,

    /// Most output bytes that an interruption may cost
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_positive_size)]
    checkpoint_bytes: u64,

    /// Most time that an interruption may cost
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    checkpoint_interval: Duration,
}

impl ResumeArgs {
    /// Whether the journal lies beside the object.
    pub(super) fn is_remote(&self) -> bool {
        self.journal.as_deref() == Some(Path::new(REMOTE))
    }

    /// What is asked for must be possible where the output goes.
    pub(super) fn check(&self, to_object: bool) -> Result<(), Error> {
        if to_object || !self.is_remote() {
            return Ok(());
        }
        Err(Error::usage("--journal remote is for outputs in object stores")
            .with_hint("leave it out; a file of that name is ./remote"))
    }
}

/// What stands for a journal beside the object.
const REMOTE: &str = "remote";

impl WritingArgs {
    /// Whether the journal lies beside the object.
    #[cfg(feature = "cloud")]
    pub(super) fn is_remote(&self) -> bool {
        self.resume.is_remote()
    }

    /// What is asked for must be possible where the output goes.
    pub(super) fn check_journal(&self, to_object: bool) -> Result<(), Error> {
        self.resume.check(to_object)
    }

    /// What to write as `format`, or why that cannot be.
    pub(super) fn spec(&self, format: Format, to_pipe: bool) -> Result<WriterSpec, Error> {
        let spec = self.format.spec(format)?;
        self.check_integrity(&spec, to_pipe)?;
        Ok(spec)
    }

    /// What is asked for must be possible: nobody wants to learn that after an hour.
    fn check_integrity(&self, spec: &WriterSpec, to_pipe: bool) -> Result<(), Error> {
        let wanted = &self.integrity;
        if wanted.verify && wanted.digest == DigestArg::None {
            return Err(Error::usage("--verify compares digests, but --digest none leaves them out"));
        }
        if to_pipe {
            let unfit = [
                (wanted.verify, "--verify"),
                (wanted.sums, "--sums"),
                (self.resume.journal.is_some(), "--journal"),
            ];
            if let Some((_, flag)) = unfit.into_iter().find(|(given, _)| *given) {
                let message =
                    format!("{flag} is not possible on a pipe, which cannot be read back or resumed");
                return Err(Error::usage(message));
            }
        }
        let in_order = match spec {
            WriterSpec::Raw(_) => true,
            WriterSpec::Vmdk(options) => options.subformat == Subformat::StreamOptimized,
            _ => false,
        };
        if wanted.flat_sha256 && !in_order {
            return Err(Error::usage(
                "--flat-sha256 is for outputs whose bytes come in order: raw, streamOptimized",
            )
            .with_hint("use --sums, which reads the output again"));
        }
        Ok(())
    }

    /// What is asked for must be possible in an appliance.
    #[cfg(feature = "kubevirt")]
    pub(super) fn check_appliance(&self) -> Result<(), Error> {
        self.integrity.check_appliance()
    }

    /// What is asked for must be possible of an object: an image as `spec` says, or an archive.
    pub(super) fn check_object(&self, spec: Option<&WriterSpec>) -> Result<(), Error> {
        let in_passing = match spec {
            Some(WriterSpec::Raw(_)) => self.integrity.flat_sha256,
            Some(WriterSpec::Vmdk(options)) => options.subformat == Subformat::StreamOptimized,
            _ => false,
        };
        if in_passing { Ok(()) } else { self.integrity.check_object() }
    }

    /// How to convert, but for the source.
    pub(super) fn options(&self) -> ConversionOptions {
        options(&self.integrity, &self.resume, &self.resources, self.format.force)
    }
}

/// How to convert, but for the source and the format.
pub(super) fn options(
    integrity: &IntegrityArgs,
    resume: &ResumeArgs,
    resources: &ResourceArgs,
    force: bool,
) -> ConversionOptions {
    ConversionOptions {
        digest: integrity.digest.algorithm(),
        flat_sha256: integrity.flat_sha256,
        workers: resources.workers(),
        memory: resources.memory,
        verify: integrity.verify,
        sums: integrity.sums,
        force,
        manifest: !integrity.no_manifest,
        resume: match (resume.no_resume, resume.restart) {
            (true, _) => ResumePolicy::Refuse,
            (_, true) => ResumePolicy::Restart,
            _ => ResumePolicy::Resume,
        },
        journal: resume.journal.clone().filter(|_| !resume.is_remote()),
        checkpoint_bytes: resume.checkpoint_bytes,
        checkpoint_interval: resume.checkpoint_interval,
        assume_unchanged: resume.assume_unchanged,
        ..ConversionOptions::default()
    }
}

impl IntegrityArgs {
    /// What is asked for must be possible of an object, whose SHA-256 is not had in passing.
    pub(super) fn check_object(&self) -> Result<(), Error> {
        if !self.sums {
            return Ok(());
        }
        Err(Error::usage("--sums reads the output again, which an object would have to be fetched for")
            .with_hint("leave it out: --verify reads the object back and compares digests"))
    }

    /// What is asked for must be possible in an appliance.
    pub(super) fn check_appliance(&self) -> Result<(), Error> {
        if self.verify && self.digest == DigestArg::None {
            return Err(Error::usage("--verify compares digests, but --digest none leaves them out"));
        }
        if self.flat_sha256 {
            return Err(Error::usage(
                "--flat-sha256 is for raw outputs: the manifest of an appliance has all hashes",
            ));
        }
        Ok(())
    }
}

impl FormatArgs {
    /// What to write, or why that cannot be.
    pub(super) fn spec(&self, format: Format) -> Result<WriterSpec, Error> {
        if self.subformat.is_some() && format != Format::Vmdk {
            return Err(Error::usage(format!("--subformat is for vmdk, the output is {format}")));
        }
        if self.id_seed.is_some() && format != Format::Vmdk {
            return Err(Error::usage(format!("--id-seed is for vmdk; {format} has no ids")));
        }
        if self.cluster_size.is_some() && format != Format::Qcow2 {
            return Err(Error::usage(format!("--cluster-size is for qcow2, the output is {format}")));
        }
        match format {
            Format::Qcow2 => self.qcow2(),
            Format::Raw => self.raw(),
            Format::Vmdk => self.vmdk(),
            other => Err(Error::usage(format!("cannot write {other}"))),
        }
    }

    fn qcow2(&self) -> Result<WriterSpec, Error> {
        let defaults = Qcow2Options::default();
        let cluster_bits = match self.cluster_size {
            None => defaults.cluster_bits,
            Some(size) if size.is_power_of_two() && CLUSTER_BITS.contains(&size.ilog2()) => size.ilog2(),
            Some(size) => {
                let message = format!("--cluster-size must be a power of two from 512 to 2MiB, not {size}");
                return Err(Error::usage(message));
            }
        };
        let compression = self.compression.map_or(defaults.compression, Compression::from);
        let level = self.level(compression)?;
        Ok(WriterSpec::Qcow2(Qcow2Options { cluster_bits, compression, level }))
    }

    fn raw(&self) -> Result<WriterSpec, Error> {
        if let Some(CompressionArg::Deflate | CompressionArg::Zstd) = self.compression {
            return Err(Error::usage(
                "raw cannot be compressed: it is the bytes of the disk and nothing else",
            )
            .with_hint("use -O qcow2, or write to - and pipe through a compressor"));
        }
        self.level(Compression::None)?;
        Ok(WriterSpec::Raw(RawOptions::default()))
    }

    fn vmdk(&self) -> Result<WriterSpec, Error> {
        let subformat = self.subformat.map_or_else(Subformat::default, Subformat::from);
        let compression = match (subformat, self.compression) {
            (Subformat::StreamOptimized, None | Some(CompressionArg::Deflate)) => Compression::Deflate,
            (Subformat::StreamOptimized, Some(CompressionArg::None)) => {
                return Err(Error::usage(
                    "a streamOptimized vmdk is always compressed: --compression none is not possible",
                )
                .with_hint("use --subformat monolithicSparse, or -O qcow2"));
            }
            (Subformat::StreamOptimized, Some(CompressionArg::Zstd)) => {
                return Err(Error::usage("a vmdk is compressed by deflate: the format has no zstd")
                    .with_hint("use --compression deflate, or -O qcow2"));
            }
            (Subformat::MonolithicSparse, None | Some(CompressionArg::None)) => Compression::None,
            (Subformat::MonolithicSparse, Some(CompressionArg::Deflate | CompressionArg::Zstd)) => {
                return Err(Error::usage("a monolithicSparse vmdk cannot be compressed")
                    .with_hint("use --subformat streamOptimized, or -O qcow2"));
            }
        };
        let level = self.level(compression)?;
        Ok(WriterSpec::Vmdk(VmdkOptions { subformat, level, id_seed: self.id_seed.clone() }))
    }

    fn level(&self, compression: Compression) -> Result<Level, Error> {
        match (compression, self.compression_level) {
            (_, None) => Ok(Level::default()),
            (Compression::None, Some(_)) => {
                Err(Error::usage("--compression-level has no effect: the output is not compressed")
                    .with_hint("choose --compression deflate or zstd with -O qcow2, or leave the level out"))
            }
            (Compression::Deflate, Some(Level::Number(level))) if level > DEFLATE_LEVEL_MAX => {
                Err(Error::usage(format!("deflate has the levels 1-{DEFLATE_LEVEL_MAX}, not {level}")))
            }
            (Compression::Deflate | Compression::Zstd, Some(level)) => Ok(level),
        }
    }
}
