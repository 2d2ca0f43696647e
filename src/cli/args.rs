//! The command line as clap sees it: what all commands share.

use std::{path::PathBuf, sync::LazyLock, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};
use vmferry::{
    formats::{
        Compression, Format,
        deflate::{DeflateSpec, Level, Wrapper},
        digest::Algorithm,
        vmdk::Subformat,
    },
    source::{DiskChoice, HttpOptions, Rate, SourceFormat, SourceOptions},
};

#[cfg(feature = "demo")]
use super::demo::DemoArgs;
#[cfg(any(feature = "cloud", feature = "kubevirt"))]
use super::gc::GcArgs;
#[cfg(feature = "cloud")]
use super::store::StoreArgs;
#[cfg(feature = "kubevirt")]
use super::{
    catalog::CatalogArgs, doctor::DoctorArgs, export::ExportArgs, network::NetworkArgs,
    provider::ProviderArgs, snapshot::SnapshotArgs, template::TemplateArgs, vm::VmArgs, volume::VolumeArgs,
};
use super::{
    complete::CompleteArgs,
    completion::CompletionArgs,
    config::{ConfigArgs, Settings},
    convert::ConvertArgs,
    digest::DigestArgs,
    inspect::InspectArgs,
    man::ManArgs,
    map::MapArgs,
    pack::PackArgs,
    units::{parse_duration, parse_positive_size, parse_rate, parse_size},
    verify::VerifyArgs,
};

/// Export VMs from KubeVirt and convert virtual disks between RAW, QCOW2 and VMDK in one pass, hashed and resumable
#[derive(Debug, Parser)]
#[command(
    name = "vmferry",
    version = VERSION,
    long_version = LONG_VERSION.as_str(),
    after_help = AFTER_HELP,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do, in the order of the help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    // Far larger than its siblings.
    Convert(Box<ConvertArgs>),
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    #[cfg(feature = "kubevirt")]
    Export(Box<ExportArgs>),
    #[cfg(any(feature = "cloud", feature = "kubevirt"))]
    Gc(GcArgs),
    #[cfg(feature = "kubevirt")]
    Doctor(DoctorArgs),
    Pack(Box<PackArgs>),
    #[cfg(feature = "kubevirt")]
    Vm(VmArgs),
    #[cfg(feature = "kubevirt")]
    Snapshot(SnapshotArgs),
    #[cfg(feature = "kubevirt")]
    Volume(VolumeArgs),
    #[cfg(feature = "kubevirt")]
    Network(NetworkArgs),
    #[cfg(feature = "kubevirt")]
    Template(TemplateArgs),
    /// List instancetypes: how large VMs may be
    #[cfg(feature = "kubevirt")]
    Instancetype(CatalogArgs),
    /// List preferences: how VMs are best made for an operating system
    #[cfg(feature = "kubevirt")]
    Preference(CatalogArgs),
    #[cfg(feature = "kubevirt")]
    Provider(ProviderArgs),
    Inspect(InspectArgs),
    Map(MapArgs),
    Digest(DigestArgs),
    Verify(VerifyArgs),
    Config(ConfigArgs),
    Completion(CompletionArgs),
    Man(ManArgs),
    /// Asked by shells, and taken from the command line before clap sees it.
    #[command(skip)]
    Complete(CompleteArgs),
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("VMFERRY_BUILD_COMMIT"), ")");

/// The encoders are asked, not the feature: they decide speed and the bytes of compressed outputs.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let name = |wrapper| {
        let identity = DeflateSpec::new(wrapper, Level::Default).map(|spec| spec.identity());
        identity.ok().and_then(|identity| identity.split('/').next().map(str::to_owned))
    };
    let mut names: Vec<String> = [Wrapper::Raw4KiB, Wrapper::Zlib].into_iter().filter_map(name).collect();
    names.dedup();
    format!("{VERSION}\ndeflate: {}", names.join(", "))
});

const AFTER_HELP: &str = "\
Results go to standard output; logs, progress and errors to standard error.

Exit codes:
  0    success
  1    failed: I/O error, corrupt image, full disk
  2    usage: a parameter is wrong
  3    verification failed: the content is not what it must be
  4    the source changed, or is shorter or longer than announced
  5    refused by policy: output exists or is in use, backing file, impossible layout
  6    interrupted, or the network gave up; run the same command again to resume
  7    the cluster refused: no such object, no right, a conflict
  8    a wait ran out before what was waited for came
  130  stopped by SIGINT, 143 by SIGTERM; run the same command again to resume

Environment:
  VMFERRY_CONFIG  the configuration file; 'vmferry config show' tells what is set, and by whom
  VMFERRY_LOG     log filter, for instance debug or vmferry=trace; replaces the level of -v and -q
  NO_COLOR        no colours in logs";

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// How results look; wide adds columns and name leaves all but one, where rows are listed
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) output_format: OutputFormat,

    /// Progress on standard error: auto is a bar on terminals, json an object a second
    #[arg(long, global = true, value_name = "MODE", default_value = "auto", value_enum)]
    pub(crate) progress: ProgressMode,

    /// No progress, notes or summary; warnings about the result and errors are still told
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log what is done; -vv for details, -vvv for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// How log lines look: json is an object a line
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) log_format: LogFormat,

    /// What is logged, by name instead of -v: warn by default
    #[arg(long, global = true, value_name = "LEVEL", value_enum, conflicts_with_all = ["quiet", "verbose"])]
    pub(crate) log_level: Option<LogLevel>,

    /// The configuration file [default: VMFERRY_CONFIG, or vmferry/config.yaml in XDG_CONFIG_HOME or
    /// ~/.config]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// What is set besides flags.
    #[arg(skip)]
    pub(crate) settings: Settings,

    /// What is to be told before the command runs.
    #[arg(skip)]
    pub(crate) notes: Vec<String>,
}

// The values of these four explain themselves: without descriptions the help stays short.

/// How results look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    #[value(alias = "table")]
    Text,
    Wide,
    Json,
    Yaml,
    Name,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    Auto,
    Bar,
    Json,
    None,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    #[value(alias = "warning")]
    Warn,
    Info,
    Debug,
    Trace,
}

/// How sources are read.
#[derive(Args, Debug)]
#[command(next_help_heading = "Source options")]
pub(crate) struct SourceArgs {
    /// Format of the source [default: found by its first bytes, raw if they say nothing]
    #[arg(short = 'f', long, value_name = "FORMAT", value_enum)]
    source_format: Option<SourceFormatArg>,

    /// Size of the disk, for streams that do not tell it
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    source_size: Option<u64>,

    /// Directory in which other files that an image names may lie [default: refuse such images]
    #[arg(long, value_name = "DIR")]
    allow_backing: Option<PathBuf>,

    /// File with the token for the header x-kubevirt-export-token of URL sources
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    #[command(flatten)]
    http: HttpArgs,

    #[cfg(feature = "cloud")]
    #[command(flatten)]
    store: StoreArgs,
}

/// How servers are asked.
#[derive(Args, Debug)]
#[command(next_help_heading = "Network options")]
pub(crate) struct HttpArgs {
    /// PEM file with the only CA certificates to trust [default: the system's, or an export's own]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,

    /// Do not verify the server's certificate
    #[arg(long, conflicts_with = "ca_file")]
    pub(crate) insecure: bool,

    /// Range requests in flight
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,

    /// Give up a request that makes no progress for this long and try it again
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    stall_timeout: Duration,

    /// Give up when no request has succeeded for this long
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub(crate) retry_for: Duration,

    /// Most bytes fetched a second, all connections together: 50MiB or 50MiB/s
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,
}

impl HttpArgs {
    /// The same for the library.
    pub(crate) fn options(&self) -> HttpOptions {
        HttpOptions {
            token_file: None,
            ca_file: self.ca_file.clone(),
            insecure: self.insecure,
            connections: usize::from(self.connections),
            stall_timeout: self.stall_timeout,
            retry_for: self.retry_for,
            rate: self.rate.map(Rate::new),
        }
    }
}

impl SourceArgs {
    /// Whether the size of a disk is stated.
    pub(crate) fn states_size(&self) -> bool {
        self.source_size.is_some()
    }

    /// The same for the library.
    pub(crate) fn options(&self) -> SourceOptions {
        SourceOptions {
            format: self.source_format.map(SourceFormatArg::format),
            size: self.source_size,
            allow_backing: self.allow_backing.clone(),
            disk: None,
            http: HttpOptions { token_file: self.token_file.clone(), ..self.http.options() },
            #[cfg(feature = "cloud")]
            store: self.store.options(&self.http),
            memory: None,
        }
    }
}

/// Which disk is read.
#[derive(Args, Debug)]
#[command(next_help_heading = "Source options")]
pub(crate) struct DiskArgs {
    /// Disk of an OVA or OVF: its number in the descriptor from 1 on, its file or its id [default: the
    /// only one]
    #[arg(long, value_name = "DISK")]
    disk: Option<DiskChoice>,
}

impl DiskArgs {
    /// `source` with the choice in it.
    pub(crate) fn choose(&self, source: &SourceArgs) -> SourceOptions {
        SourceOptions { disk: self.disk.clone(), ..source.options() }
    }
}

/// What a run may use of the machine.
#[derive(Args, Debug)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceArgs {
    /// CPU workers [default: the cores that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,

    /// Memory to stay within; workers and requests in flight are lowered to fit
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_positive_size)]
    pub(crate) memory: u64,
}

impl ResourceArgs {
    /// CPU workers, if the user named a number.
    pub(crate) fn workers(&self) -> Option<usize> {
        self.workers.map(usize::from)
    }
}

/// What every command that looks at an image takes.
#[derive(Args, Debug)]
pub(crate) struct ReadArgs {
    /// Path, http(s) URL, or object: s3://, gs://, az://; - reads standard input
    #[arg(value_name = "IMAGE")]
    pub(crate) image: String,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    disk: DiskArgs,
    #[command(flatten)]
    pub(crate) resources: ResourceArgs,
}

impl ReadArgs {
    /// How the image is read.
    pub(crate) fn source_options(&self) -> SourceOptions {
        self.disk.choose(&self.source)
    }
}

/// Formats of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceFormatArg {
    /// The bytes of the disk
    Raw,
    /// QEMU copy-on-write 2 and 3
    Qcow2,
    /// VMware virtual disk
    Vmdk,
    /// gzip-compressed raw
    #[value(alias = "gz")]
    Gzip,
    /// zstd-compressed raw
    #[value(alias = "zst")]
    Zstd,
}

impl SourceFormatArg {
    fn format(self) -> SourceFormat {
        match self {
            Self::Raw => SourceFormat::Image(Format::Raw),
            Self::Qcow2 => SourceFormat::Image(Format::Qcow2),
            Self::Vmdk => SourceFormat::Image(Format::Vmdk),
            Self::Gzip => SourceFormat::Gzip,
            Self::Zstd => SourceFormat::Zstd,
        }
    }
}

/// The name of a source's format, as on the command line.
pub(crate) fn source_format_name(format: SourceFormat) -> &'static str {
    match format {
        SourceFormat::Gzip => "gzip",
        SourceFormat::Image(format) => format.name(),
        SourceFormat::Zstd => "zstd",
    }
}

/// Formats of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// The bytes of the disk, zeros as holes
    Raw,
    /// QEMU copy-on-write 3
    Qcow2,
    /// VMware virtual disk
    Vmdk,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Raw => Self::Raw,
            FormatArg::Qcow2 => Self::Qcow2,
            FormatArg::Vmdk => Self::Vmdk,
        }
    }
}

/// Variants of a VMDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SubformatArg {
    /// Compressed, written strictly forward: for OVA, object stores and pipes
    #[value(name = "streamOptimized")]
    StreamOptimized,
    /// Uncompressed, opened directly by hypervisors
    #[value(name = "monolithicSparse")]
    MonolithicSparse,
}

impl From<SubformatArg> for Subformat {
    fn from(subformat: SubformatArg) -> Self {
        match subformat {
            SubformatArg::StreamOptimized => Self::StreamOptimized,
            SubformatArg::MonolithicSparse => Self::MonolithicSparse,
        }
    }
}

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompressionArg {
    /// Stored as they are
    None,
    /// Deflate, which every reader knows
    #[value(alias = "zlib")]
    Deflate,
    /// Zstandard; QCOW2 only, read by QEMU 5.1 and newer
    Zstd,
}

impl From<CompressionArg> for Compression {
    fn from(compression: CompressionArg) -> Self {
        match compression {
            CompressionArg::None => Self::None,
            CompressionArg::Deflate => Self::Deflate,
            CompressionArg::Zstd => Self::Zstd,
        }
    }
}

/// Hash functions of the digest tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlgorithmArg {
    /// SHA-256: leaves can be checked with standard tools
    Sha256,
    /// BLAKE3: three to four times as fast
    Blake3,
}

impl From<AlgorithmArg> for Algorithm {
    fn from(algorithm: AlgorithmArg) -> Self {
        match algorithm {
            AlgorithmArg::Sha256 => Self::Sha256,
            AlgorithmArg::Blake3 => Self::Blake3,
        }
    }
}

/// As [`AlgorithmArg`], or no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DigestArg {
    /// SHA-256: leaves can be checked with standard tools
    Sha256,
    /// BLAKE3: three to four times as fast
    Blake3,
    /// No digest, no manifest
    None,
}

impl DigestArg {
    /// The hash function, if any.
    pub(crate) fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Sha256 => Some(Algorithm::Sha256),
            Self::Blake3 => Some(Algorithm::Blake3),
            Self::None => None,
        }
    }
}
