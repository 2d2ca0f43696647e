//! `vmferry pack`: local disks and a descriptor as an appliance.

mod plan;
mod report;

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgGroup, Args, ValueEnum};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use vmferry::{
    ConversionOptions, ConversionSource, Error, Pack, PackBuilder, PackDisk, PackEvent, PackOptions,
    PackTarget,
    appliance::{Descriptor, DiskFile, DiskFormat, Warning, descriptor, of_ovf, of_vm, read_vm},
    formats::{
        Format, WriterSpec,
        deflate::Level,
        ovf::{self, Envelope},
    },
    is_object_url,
};

use self::{plan::DryRun, report::PackSummary};
use super::{
    Failure,
    appliance::{DescriptorArgs, SealArgs},
    args::{CompressionArg, FormatArg, ResourceArgs, SourceArgs},
    output::Output,
    progress::Watch,
    refuse_terminal_input,
    signals::{self, Stop},
    upload::{UploadArgs, output_path},
    writing::{self, FormatArgs, IntegrityArgs, ResumeArgs},
};

const AFTER_HELP: &str = "\
Examples:
  # What 'vmferry export' left of a VM, as an OVA
  vmferry pack --vm backup/db/vm.yaml --disk backup/db/root.qcow2 --disk backup/db/data.qcow2 db.ova

  # The VM of a foreign descriptor for another target, with disks that were changed, signed
  vmferry pack --ovf vm.ovf --disk root.raw --target-profile proxmox \\
      --sign-key key.pem --sign-cert cert.pem --verify vm.ova

  # A directory with each file by itself, and a descriptor that is taken as it is
  vmferry pack --descriptor vm.ovf --disk root.raw --format ovf vm/

An image that is called like a disk of the VM (root.qcow2) holds that disk; the others follow the order
of the VM. A descriptor that is taken as it is may leave numbers open that only the end of the disks
tells: <vmferry-size-00000> is the size of the first image, <vmferry-used-00000> what of its disk is
not zero.
A run that was interrupted goes on when the same command is given again.";

/// Longest time that progress may take to end its display.
const DISPLAY_END: Duration = Duration::from_secs(1);

/// Pack a VM's disks and its description into an OVA, in one pass, hashed and resumable
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new("what").required(true))]
pub(crate) struct PackArgs {
    /// Path or object (s3://, gs://, az://) of the OVA, or path of a directory (one that ends in /, or
    /// --format ovf)
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

    /// KubeVirt VM in YAML, instancetype and preference written out: what 'vmferry export' leaves
    #[arg(long, value_name = "FILE", group = "what")]
    vm: Option<PathBuf>,

    /// OVF descriptor whose VM is described anew for the target, with these disks
    #[arg(long, value_name = "FILE", group = "what")]
    ovf: Option<PathBuf>,

    /// OVF descriptor that is taken as it is; it names the images as they are called in the appliance
    #[arg(long, value_name = "FILE", group = "what")]
    descriptor: Option<PathBuf>,

    /// Path or http(s) URL of a disk, in any format; again for each, in the descriptor's order
    #[arg(long = "disk", value_name = "SOURCE", required = true)]
    disks: Vec<String>,

    /// Name of an image in the appliance, in the order of the disks [default: OUTPUT-diskN.vmdk]
    #[arg(long = "disk-name", value_name = "NAME")]
    disk_names: Vec<String>,

    #[command(flatten)]
    appliance: ApplianceArgs,
    #[command(flatten)]
    described: DescriptorArgs,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    integrity: IntegrityArgs,
    #[command(flatten)]
    resume: ResumeArgs,
    #[command(flatten)]
    reading: SourceArgs,
    #[command(flatten)]
    resources: ResourceArgs,
    #[command(flatten)]
    upload: UploadArgs,

    /// Say what would be made, how it would be uploaded and what memory that takes; make nothing
    #[arg(long)]
    dry_run: bool,
}

/// What is written.
#[derive(Args, Debug)]
#[command(next_help_heading = "Appliance options")]
struct ApplianceArgs {
    /// An archive or a directory [default: by OUTPUT]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<ApplianceFormat>,

    /// Compression of qcow2 images [default: none]
    #[arg(long, value_name = "NAME", value_enum)]
    compression: Option<CompressionArg>,

    /// How hard to compress: fast, default, best, or 1-9
    #[arg(long, value_name = "LEVEL")]
    compression_level: Option<Level>,

    /// What the ids in the images derive from [default: size, parameters and name]
    #[arg(long, value_name = "TEXT")]
    id_seed: Option<String>,

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
    args.described.check()?;
    let (events, told) = unbounded_channel();
    let (pack, described) = pack(args, std::env::var("SOURCE_DATE_EPOCH").ok(), move |event| {
        // Nobody listens any more when the command ends.
        let _ = events.send(event);
    })
    .await
    .map_err(in_pack)?;
    if args.dry_run {
        let planned = Box::pin(async move { pack.plan().await });
        let plan = signals::supervise(planned, Stop::AtOnce, output).await;
        let plan = plan.map_err(|failure| Failure { error: in_pack(failure.error), ..failure })?;
        let warnings: Vec<String> = described.iter().map(ToString::to_string).collect();
        for warning in &warnings {
            output.warning(warning);
        }
        return Ok(output.report(&DryRun::new(plan, warnings))?);
    }
    let stop = Stop::Orderly(pack.cancel_token());
    let listener = tokio::spawn(listen(told, output.clone()));
    let result = signals::supervise(pack.run(), stop, output).await;
    // A run that was left behind may keep its end of the channel.
    let _ = tokio::time::timeout(DISPLAY_END, listener).await;

    let mut report = result.map_err(|failure| Failure { error: in_pack(failure.error), ..failure })?;
    report.warnings.extend(described.iter().map(ToString::to_string));
    for warning in &report.warnings {
        output.warning(warning);
    }
    Ok(output.report(&PackSummary::from(&report))?)
}

/// The same error, with a hint that is right here, where --disk names a source.
fn in_pack(error: Error) -> Error {
    let Some(disks) = error.hint().and_then(|hint| hint.strip_prefix("choose one with --disk")) else {
        return error;
    };
    let hint = format!(
        "pack takes single disks: write the one that is meant to a file first, with \
         `vmferry convert --disk NUMBER APPLIANCE disk.qcow2`{disks}"
    );
    error.with_hint(hint)
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

/// The arguments, checked and with all defaults resolved; and what could not be described.
async fn pack(
    args: &PackArgs,
    epoch: Option<String>,
    listener: impl Fn(PackEvent) + Send + Sync + 'static,
) -> Result<(Pack, Vec<Warning>), Error> {
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
    let target = target(&output_path(&args.output)?, appliance.format)?;
    let to_store = is_object_url(&target.path().to_string_lossy());
    args.resume.check(to_store)?;
    if to_store {
        args.integrity.check_object()?;
    }
    let spec = spec(args)?;
    let conversion = writing::options(&args.integrity, &args.resume, &args.resources, appliance.force);
    let options = PackOptions {
        conversion: ConversionOptions {
            source: args.reading.options(),
            #[cfg(feature = "cloud")]
            object: args.upload.options(&args.reading, args.resume.is_remote()),
            ..conversion
        },
        manifest_hash: args.seal.manifest_hash(),
        mtime: args.seal.mtime(epoch)?.unwrap_or(0),
        signer: args.seal.signer()?,
        inputs: inputs(args),
    };
    let disks: Vec<PackDisk> = args
        .disks
        .iter()
        .enumerate()
        .map(|(index, source)| match args.disk_names.get(index) {
            Some(name) => PackDisk::new(source.clone()).named(name),
            None => PackDisk::new(source.clone()),
        })
        .collect();
    let (text, warnings) = match &args.descriptor {
        Some(path) => {
            if let Some(option) = args.described.given() {
                return Err(Error::usage(format!("{option} is for a VM that is described here"))
                    .with_hint("--descriptor takes a text as it is; --ovf describes its VM anew"));
            }
            (read_text(path)?, Vec::new())
        }
        None => {
            // What an appliance refuses is not found after its disks were looked at.
            builder(String::new(), &target, &spec, &options, &disks).check()?;
            let described = describe(args, &target, &spec, &options, &disks).await?;
            (described.template, described.warnings)
        }
    };
    let builder = builder(text, &target, &spec, &options, &disks);
    Ok((builder.on_event(listener).build()?, warnings))
}

/// The files that are read beside the disks.
fn inputs(args: &PackArgs) -> Vec<PathBuf> {
    let texts = [&args.vm, &args.ovf, &args.descriptor].into_iter().flatten();
    texts.chain(args.seal.files()).cloned().collect()
}

fn builder(
    text: String,
    target: &PackTarget,
    spec: &WriterSpec,
    options: &PackOptions,
    disks: &[PackDisk],
) -> PackBuilder {
    let builder = Pack::builder(text, target.clone()).spec(spec.clone()).options(options.clone());
    disks.iter().cloned().fold(builder, PackBuilder::disk)
}

/// Describes the VM with these disks.
async fn describe(
    args: &PackArgs,
    target: &PackTarget,
    spec: &WriterSpec,
    options: &PackOptions,
    disks: &[PackDisk],
) -> Result<Descriptor, Error> {
    let mut envelope = None;
    let (hardware, earlier) = match (&args.vm, &args.ovf) {
        (Some(path), _) => of_vm(&read_vm(&read_text(path)?)?)?,
        (None, Some(path)) => of_ovf(envelope.insert(read_envelope(path)?))?,
        (None, None) => return Err(Error::usage("there is nothing to describe")),
    };
    let names = target.file_names(disks, spec.format())?;
    let mut files: Vec<DiskFile> = Vec::new();
    for (disk, file_name) in disks.iter().zip(names) {
        let size = disk.source.size(&options.conversion.source).await?;
        let virtual_size = size.and_then(|size| size.checked_next_multiple_of(512)).ok_or_else(|| {
            Error::refused(format!("the size of the disk {file_name} is not known before its end"))
                .with_hint("state it with --source-size, or convert that disk to a file first")
        })?;
        let holds = stem(&disk.source).filter(|stem| {
            let is_taken = files.iter().any(|file| file.disk.as_ref() == Some(stem));
            !is_taken && hardware.disks.iter().any(|disk| disk.name == *stem)
        });
        files.push(DiskFile { disk: holds, file_name, virtual_size, format: DiskFormat::of(spec) });
    }
    if let Some(envelope) = &envelope {
        let stems: Vec<Option<String>> = disks.iter().map(|disk| stem(&disk.source)).collect();
        let has = |id: &str| hardware.disks.iter().any(|disk| disk.name == id);
        for (file, id) in files.iter_mut().zip(joined(envelope, &stems, has)) {
            file.disk = id;
        }
    }
    descriptor(&hardware, &args.described.options(), &files, &earlier)
}

/// The id of the disk that each source holds: the one that is called like it, or whose file is; the others
/// follow the `DiskSection`, which `inspect` and `convert --disk` number too.
fn joined(envelope: &Envelope, stems: &[Option<String>], has: impl Fn(&str) -> bool) -> Vec<Option<String>> {
    let mut left: Vec<&ovf::Disk> = envelope.disks.iter().filter(|disk| has(&disk.id)).collect();
    // One without a file was empty.
    left.sort_by_key(|disk| disk.file_ref.is_none());
    let file_stem = |disk: &ovf::Disk| {
        let file = envelope.file(disk.file_ref.as_deref()?)?;
        Path::new(&file.href).file_stem()?.to_str().map(str::to_owned)
    };
    let mut found: Vec<Option<String>> = Vec::new();
    for stem in stems {
        let by_id = left.iter().position(|disk| Some(&disk.id) == stem.as_ref());
        let at = by_id.or_else(|| left.iter().position(|disk| stem.is_some() && file_stem(disk) == *stem));
        found.push(at.map(|at| left.remove(at).id.clone()));
    }
    let mut left = left.into_iter();
    found.into_iter().map(|id| id.or_else(|| left.next().map(|disk| disk.id.clone()))).collect()
}

/// What a source is called, without directory and extension.
fn stem(source: &ConversionSource) -> Option<String> {
    match source {
        ConversionSource::Location(location) if !location.contains("://") => {
            Path::new(location).file_stem()?.to_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn spec(args: &PackArgs) -> Result<WriterSpec, Error> {
    let appliance = &args.appliance;
    let format = FormatArgs {
        subformat: None,
        compression: appliance.compression,
        compression_level: appliance.compression_level,
        cluster_size: None,
        id_seed: appliance.id_seed.clone(),
        force: appliance.force,
    };
    format.spec(Format::from(args.seal.disk_format.unwrap_or(FormatArg::Vmdk)))
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

fn read_envelope(path: &Path) -> Result<Envelope, Error> {
    ovf::parse(read_text(path)?.as_bytes()).map_err(|error| {
        Error::failed(format!("{} is not a descriptor that is understood", path.display())).with_source(error)
    })
}

fn read_text(path: &Path) -> Result<String, Error> {
    let wrap = |error| Error::io("read", path, error);
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(wrap)?;
    file.take(MAX_TEXT_LEN + 1).read_to_end(&mut text).map_err(wrap)?;
    if text.len() as u64 > MAX_TEXT_LEN {
        return Err(Error::usage(format!("{} is too long for a description", path.display())));
    }
    String::from_utf8(text).map_err(|_| Error::usage(format!("{} is not a text in UTF-8", path.display())))
}

/// Longest description that is read, in bytes: that of a descriptor.
const MAX_TEXT_LEN: u64 = ovf::MAX_DESCRIPTOR_LEN;

#[cfg(test)]
mod tests;
