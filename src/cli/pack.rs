//! `vmferry pack`: local disks and a descriptor as an appliance.

mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use vmferry::{
    ConversionOptions, Error, Pack, PackDisk, PackEvent, PackOptions, PackTarget, Signer,
    formats::{Format, deflate::Level, ova::ManifestHash},
};

use self::report::PackSummary;
use super::{
    Failure,
    args::{CompressionArg, FormatArg, ResourceArgs, SourceArgs},
    output::Output,
    progress::Watch,
    refuse_terminal_input,
    signals::{self, Stop},
    writing::{self, FormatArgs, IntegrityArgs, ResumeArgs},
};

const AFTER_HELP: &str = "\
Examples:
  # One disk and a descriptor as an OVA
  vmferry pack --ovf vm.ovf --disk root.qcow2 vm.ova

  # Two disks, signed, read back after writing
  vmferry pack --ovf vm.ovf --disk root.raw --disk data.raw \\
      --sign-key key.pem --sign-cert cert.pem --verify vm.ova

  # A directory with each file by itself
  vmferry pack --ovf vm.ovf --disk root.raw --format ovf vm/

The descriptor may leave numbers open that only the end of the disks tells: <vmferry-size-00000> is
the size of the first image, <vmferry-used-00000> what of its disk is not zero.
A run that was interrupted goes on when the same command is given again.";

/// Longest time that progress may take to end its display.
const DISPLAY_END: Duration = Duration::from_secs(1);

/// Pack disks and an OVF descriptor into an OVA, in one pass, hashed and resumable
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PackArgs {
    /// Path of the OVA, or of a directory (one that ends in /, or --format ovf)
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

    /// OVF descriptor, which names the images as they are called in the appliance
    #[arg(long, value_name = "FILE")]
    ovf: PathBuf,

    /// Path or http(s) URL of a disk, in any format; again for each, in the descriptor's order
    #[arg(long = "disk", value_name = "SOURCE", required = true)]
    disks: Vec<String>,

    /// Name of an image in the appliance, in the order of the disks [default: OUTPUT-diskN.vmdk]
    #[arg(long = "disk-name", value_name = "NAME")]
    disk_names: Vec<String>,

    #[command(flatten)]
    appliance: ApplianceArgs,
    #[command(flatten)]
    integrity: IntegrityArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    reading: SourceArgs,
    #[command(flatten)]
    resources: ResourceArgs,
}

/// What is written.
#[derive(Args, Debug)]
#[command(next_help_heading = "Appliance options")]
struct ApplianceArgs {
    /// An archive or a directory [default: by OUTPUT]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<ApplianceFormat>,

    /// Format of the images; an OVA takes vmdk alone
    #[arg(long, value_name = "FORMAT", default_value = "vmdk", value_enum)]
    disk_format: FormatArg,

    /// Compression of qcow2 images [default: none]
    #[arg(long, value_name = "NAME", value_enum)]
    compression: Option<CompressionArg>,

    /// How hard to compress: fast, default, best, or 1-9
    #[arg(long, value_name = "LEVEL")]
    compression_level: Option<Level>,

    /// What the ids in the images derive from [default: size, parameters and name]
    #[arg(long, value_name = "TEXT")]
    id_seed: Option<String>,

    /// Hash function of the manifest; vSphere before 6.5 and some tools know sha1 alone
    #[arg(long, value_name = "NAME", default_value = "sha256")]
    manifest_algorithm: ManifestHash,

    /// PEM file of the private key (RSA, or ECDSA on P-256) that signs the manifest
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    sign_key: Option<PathBuf>,

    /// PEM file of its certificate
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_cert: Option<PathBuf>,

    /// Time of the files in an OVA, in seconds since 1970 [default: SOURCE_DATE_EPOCH, or 0]
    #[arg(long, value_name = "SECONDS")]
    mtime: Option<u64>,

    /// Overwrite an existing output
    #[arg(long)]
    force: bool,
}

/// What an appliance looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ApplianceFormat {
    /// One file
    Ova,
    /// A directory with each file by itself
    Ovf,
}

pub(super) async fn run(args: &PackArgs, output: &Output) -> Result<(), Failure> {
    for disk in &args.disks {
        refuse_terminal_input(disk)?;
    }
    args.integrity.check_appliance()?;
    let (events, told) = unbounded_channel();
    let pack = pack(args, std::env::var("SOURCE_DATE_EPOCH").ok(), move |event| {
        // Nobody listens any more when the command ends.
        let _ = events.send(event);
    })?;
    let stop = Stop::Orderly(pack.cancel_token());
    let listener = tokio::spawn(listen(told, output.clone()));
    let result = signals::supervise(pack.run(), stop, output).await;
    // A run that was left behind may keep its end of the channel.
    let _ = tokio::time::timeout(DISPLAY_END, listener).await;

    let report = result?;
    for warning in &report.warnings {
        output.warning(warning);
    }
    Ok(output.report(&PackSummary::from(&report))?)
}

/// Shows how the disks go, until there is no more to tell.
async fn listen(mut events: UnboundedReceiver<PackEvent>, output: Output) {
    let mut watch: Option<Watch> = None;
    while let Some(event) = events.recv().await {
        if let Some(watch) = watch.take() {
            watch.finish().await;
        }
        if let PackEvent::Begun { number, count, name, progress } = event {
            output.note(&format!("disk {name} ({number} of {count})"));
            watch = Some(Watch::start(&output, progress));
        }
    }
    if let Some(watch) = watch {
        watch.finish().await;
    }
}

/// The arguments, checked and with all defaults resolved.
fn pack(
    args: &PackArgs,
    epoch: Option<String>,
    listener: impl Fn(PackEvent) + Send + Sync + 'static,
) -> Result<Pack, Error> {
    let appliance = &args.appliance;
    if !args.disk_names.is_empty() && args.disk_names.len() != args.disks.len() {
        let (names, disks) = (args.disk_names.len(), args.disks.len());
        return Err(Error::usage(format!("{names} names for {disks} disks"))
            .with_hint("give --disk-name once for each --disk, or not at all"));
    }
    if args.reading.states_size() && args.disks.len() > 1 {
        return Err(Error::usage("--source-size is the size of one disk, and there are several")
            .with_hint("convert the disk that does not tell its size to a file first"));
    }
    let target = target(&args.output, appliance.format)?;
    let format = FormatArgs {
        format: None,
        subformat: None,
        compression: appliance.compression,
        compression_level: appliance.compression_level,
        cluster_size: None,
        id_seed: appliance.id_seed.clone(),
        force: appliance.force,
    };
    let spec = format.spec(Format::from(appliance.disk_format))?;
    let signer = match (&appliance.sign_key, &appliance.sign_cert) {
        (Some(key), Some(certificate)) => Some(Signer::open(key, certificate)?),
        _ => None,
    };
    let conversion = writing::options(&args.integrity, &args.resume, &args.resources, appliance.force);
    let options = PackOptions {
        conversion: ConversionOptions { source: args.reading.options(), ..conversion },
        manifest_hash: appliance.manifest_algorithm,
        mtime: mtime(appliance.mtime, epoch)?,
        signer,
    };
    let mut builder =
        Pack::builder(descriptor(&args.ovf)?, target).spec(spec).options(options).on_event(listener);
    for (index, source) in args.disks.iter().enumerate() {
        let disk = PackDisk::new(source.clone());
        builder = builder.disk(match args.disk_names.get(index) {
            Some(name) => disk.named(name),
            None => disk,
        });
    }
    builder.build()
}

fn target(output: &Path, format: Option<ApplianceFormat>) -> Result<PackTarget, Error> {
    if output == Path::new("-") {
        return Err(Error::refused(
            "an OVA cannot be written to a pipe: its descriptor and the headers of its disks come late",
        )
        .with_hint(
            "name a file or a directory; a single disk goes to a pipe by `vmferry convert -O vmdk SOURCE -`",
        ));
    }
    let is_directory = output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/");
    match format {
        Some(ApplianceFormat::Ova) => Ok(PackTarget::Archive(output.to_owned())),
        Some(ApplianceFormat::Ovf) => Ok(PackTarget::Directory(output.to_owned())),
        None if is_directory => Ok(PackTarget::Directory(output.to_owned())),
        None if output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ova")) => {
            Ok(PackTarget::Archive(output.to_owned()))
        }
        None => Err(Error::usage(format!("{} does not tell what to write", output.display()))
            .with_hint("name a file that ends in .ova, a directory that ends in /, or a --format")),
    }
}

fn mtime(given: Option<u64>, epoch: Option<String>) -> Result<u64, Error> {
    match (given, epoch) {
        (Some(given), _) => Ok(given),
        (None, Some(epoch)) => epoch.trim().parse().map_err(|_| {
            Error::usage(format!("SOURCE_DATE_EPOCH is {epoch:?}, not a number of seconds since 1970"))
        }),
        (None, None) => Ok(0),
    }
}

fn descriptor(path: &Path) -> Result<String, Error> {
    let bytes = fs::read(path).map_err(|error| Error::io("read", path, error))?;
    String::from_utf8(bytes).map_err(|_| Error::usage(format!("{} is not a text in UTF-8", path.display())))
}

#[cfg(test)]
mod tests;
