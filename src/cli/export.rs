//! `vmferry export`: the disks of a VM out of a cluster, in one pass.

mod report;

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
};
use vmferry::{
    ApplianceOptions, ConversionOptions, Error, Export, ExportBuilder, ExportEvent, ExportOf, ExportOptions,
    ExportReport, ExportTarget, Packaging, SourceChoice,
    formats::Format,
    is_object_url,
    kubevirt::{Quiesce, Reach, Told},
    source::{SourceOptions, Transfer},
};

use self::report::{DryRun, ExportSummary};
#[cfg(feature = "cloud")]
use super::store::StoreArgs;
use super::{
    Failure,
    appliance::{DescriptorArgs, SealArgs},
    args::HttpArgs,
    cluster::ClusterArgs,
    output::Output,
    progress::Watch,
    provider::parse_provider,
    signals::{self, Stop},
    units::parse_duration,
    upload::{UploadArgs, output_path},
    writing::WritingArgs,
};

/// How long the display may take to show what was told last.
const DISPLAY_END: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
Examples:
  # What would be done
  vmferry export demo/db --output backup/ --dry-run

  # All disks of a VM as QCOW2, with its description; a running VM through a snapshot
  vmferry export demo/db --output backup/ --compression zstd --verify

  # The whole VM as an appliance for VMware, VirtualBox, Proxmox or anyone
  vmferry export demo/db --output db.ova
  vmferry export demo/db --output out/ -O ovf --target-profile proxmox

  # Straight into a bucket, without a file on this machine
  vmferry export demo/db --output s3://backups/db.ova

  # One volume to a file, or to a pipe
  vmferry export demo/db --volume root --output root.vmdk
  vmferry export --pvc data -n demo -O raw --output - | zstd > data.raw.zst

  # What a job of HyperSDK says
  vmferry export --job nightly.json

A run that was interrupted goes on when the same command is given again. What runs that were never
finished have left in the cluster is listed by 'vmferry gc'.";

/// Arguments of which one names what is exported.
pub(super) const WHAT: &str = "what";

/// Export the disks of a VM, a snapshot or a claim from KubeVirt
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, group = ArgGroup::new(WHAT).required(true))]
pub(crate) struct ExportArgs {
    /// The VM
    #[arg(value_name = "[NAMESPACE/]VM", group = WHAT)]
    vm: Option<String>,

    /// The same, by the word of HyperSDK
    #[arg(id = "vm_flag", long = "vm", value_name = "[NAMESPACE/]VM", group = WHAT)]
    vm_flag: Option<String>,

    /// A VirtualMachineSnapshot instead
    #[arg(long, value_name = "NAME", group = WHAT)]
    snapshot: Option<String>,

    /// The volume of a PersistentVolumeClaim instead
    #[arg(long, value_name = "NAME", group = WHAT)]
    pvc: Option<String>,

    /// A VirtualMachineExport that is there already; it is left there
    #[arg(long, value_name = "NAME", group = WHAT)]
    vmexport: Option<String>,

    /// A directory, in which DIR/VM/VOLUME.FORMAT, vm.yaml and manifest.json are made; for an appliance a
    /// file that ends in .ova; for one volume a file (.raw, .img, .qcow2, .vmdk, which tells the format) or
    /// - for standard output. Or the same in an object store: s3://, gs:// or az://
    #[arg(long, value_name = "DIR|FILE|URL|-", value_hint = ValueHint::AnyPath)]
    output: PathBuf,

    /// A job definition of HyperSDK in JSON or YAML that says what to export and how; - is standard input.
    /// Flags count before it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    job: Option<PathBuf>,

    /// The provider, by the word of HyperSDK; kubevirt is the only one here
    #[arg(long, value_name = "NAME", default_value = "kubevirt", value_parser = parse_provider, hide_default_value = true)]
    provider: String,

    /// Export only this volume; may be given several times
    #[arg(long, value_name = "NAME")]
    volume: Vec<String>,

    /// How the disks of a VM are come by: auto is vm if it is stopped and snapshot if it runs
    #[arg(long, value_name = "auto|vm|snapshot", default_value = "auto", value_parser = parse_source)]
    source: SourceChoice,

    /// Stop a VM that runs, export it directly, and put its run strategy back as it was
    #[arg(long, conflicts_with_all = ["snapshot", "pvc", "vmexport"])]
    stop: bool,

    /// If the guest agent cannot hold the file systems of a running VM still: prefer warns, require
    /// fails, never does not mind
    #[arg(long, value_name = "prefer|require|never", default_value = "prefer", value_parser = parse_quiesce)]
    quiesce: Quiesce,

    /// How long the export may live in the cluster [default: long enough for its size over a slow link]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,

    /// Longest wait for the export, and for a snapshot, to be ready
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    wait: Duration,

    /// Leave what was made in the cluster there, even on success
    #[arg(long)]
    keep_export: bool,

    /// Say what would be done, and make nothing
    #[arg(long)]
    dry_run: bool,

    /// The link that bytes are fetched by: raw is ranges side by side, gzip for thin links, auto
    /// measures
    #[arg(long, value_name = "auto|raw|gzip", default_value = "auto", value_parser = parse_transfer)]
    transfer: Transfer,

    /// The way to the exporter: auto tries external, then port-forward; in a pod internal first
    #[arg(long, value_name = "auto|external|internal|port-forward", default_value = "auto", value_parser = parse_reach)]
    reach: Reach,

    /// Where the exporter's service is reached instead; its own name is verified, with --ca-file the
    /// name given here
    #[arg(long, value_name = "URL", conflicts_with = "reach", value_parser = parse_service_url)]
    service_url: Option<url::Url>,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// Format of the outputs [default: by the extension of the output, qcow2 in a directory]
    #[arg(short = 'O', long, value_name = "FORMAT", value_enum, help_heading = "Output options")]
    format: Option<ExportFormat>,

    #[command(flatten)]
    writing: WritingArgs,
    #[command(flatten)]
    described: DescriptorArgs,
    #[command(flatten)]
    seal: SealArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[cfg(feature = "cloud")]
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    upload: UploadArgs,

    /// Whether the positional name is that of a snapshot.
    #[arg(skip)]
    is_of_snapshot: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// The bytes of each disk, zeros as holes
    Raw,
    /// QEMU copy-on-write 3
    Qcow2,
    /// VMware virtual disk
    Vmdk,
    /// The whole VM as one file
    Ova,
    /// The whole VM as a directory: descriptor, manifest and disks
    Ovf,
}

impl ExportFormat {
    /// What a file that is called so holds.
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?;
        match Format::from_extension(extension) {
            Some(Format::Raw) => Some(Self::Raw),
            Some(Format::Qcow2) => Some(Self::Qcow2),
            Some(Format::Vmdk) => Some(Self::Vmdk),
            _ => [Self::Ova, Self::Ovf].into_iter().find(|format| {
                format.packaging().is_some_and(|form| extension.eq_ignore_ascii_case(form.name()))
            }),
        }
    }

    fn packaging(self) -> Option<Packaging> {
        match self {
            Self::Ova => Some(Packaging::Ova),
            Self::Ovf => Some(Packaging::Ovf),
            Self::Raw | Self::Qcow2 | Self::Vmdk => None,
        }
    }
}

pub(super) async fn run(args: &ExportArgs, output: &Output) -> Result<(), Failure> {
    let (namespace, of) = what(args)?;
    let target = target(&output_path(&args.output)?);
    let format = match (args.format, &target) {
        (Some(format), _) => format,
        (None, ExportTarget::File(file)) => ExportFormat::of(file).unwrap_or(ExportFormat::Qcow2),
        (None, ExportTarget::Directory(_)) => ExportFormat::Qcow2,
        (None, ExportTarget::Stdout) => {
            return Err(Error::usage("standard output has no extension that tells the format")
                .with_hint("name the format: -O raw or -O vmdk")
                .into());
        }
    };
    let to_pipe = target == ExportTarget::Stdout;
    let to_store = is_object_url(&args.output.to_string_lossy());
    args.described.check()?;
    let appliance = args.appliance(format)?;
    let images = match format {
        ExportFormat::Raw => Format::Raw,
        ExportFormat::Qcow2 => Format::Qcow2,
        ExportFormat::Vmdk => Format::Vmdk,
        ExportFormat::Ova | ExportFormat::Ovf => args.seal.disk_format.map_or(Format::Vmdk, Format::from),
    };
    let spec = args.writing.spec(images, to_pipe)?;
    args.writing.check_journal(to_store)?;
    if to_store {
        // Of an archive, the SHA-256 is never had in passing.
        args.writing.check_object((appliance.is_none()).then_some(&spec))?;
    }
    if to_pipe && !args.dry_run && io::stdout().is_terminal() {
        return Err(Error::usage("standard output is a terminal; an image would garble it")
            .with_hint("name an output file, or pipe the image into a command")
            .into());
    }
    let output = if to_pipe && !args.dry_run { output.results_on_stderr() } else { output.clone() };

    let cluster = args.cluster.connect(namespace.as_deref(), Some(args.http.retry_for)).await?;
    let options = ExportOptions { appliance, ..args.options() };
    let builder = Export::builder(cluster, of, target).spec(spec).options(options);
    if args.dry_run {
        let (export, _listener) = listened(builder, &output);
        let plan = signals::supervise(async move { export.plan().await }, Stop::AtOnce, &output).await?;
        plan.warnings.iter().for_each(|warning| output.warning(&warning.to_string()));
        let told = DryRun::new(&plan, &args.output);
        #[cfg(feature = "cloud")]
        let told = told.with_uploads(&plan, &args.options().conversion)?;
        return Ok(output.report(&told)?);
    }
    let report = carry_out(builder, &output).await?;
    Ok(output.report(&ExportSummary::from(&report))?)
}

/// Builds an export and shows what it tells.
fn listened(builder: ExportBuilder, output: &Output) -> (Export, JoinHandle<Vec<String>>) {
    let (events, told) = unbounded_channel();
    let builder = builder.on_event(move |event| {
        // Nobody listens any more when the command ends.
        let _ = events.send(event);
    });
    (builder.build(), tokio::spawn(listen(told, output.clone())))
}

/// Runs an export to its end, with all that is shown meanwhile.
pub(super) async fn carry_out(builder: ExportBuilder, output: &Output) -> Result<ExportReport, Failure> {
    let (export, listener) = listened(builder, output);
    let stop = Stop::Orderly(export.cancel_token());
    let result = signals::supervise(export.run(), stop, output).await;
    // A run that was left behind may keep its end of the channel.
    let told = tokio::time::timeout(DISPLAY_END, listener).await;
    let told = told.ok().and_then(Result::ok).unwrap_or_default();

    let report = result.map_err(|failure| match (failure.signal, failure.error.hint()) {
        // It was left before it could say so itself.
        (Some(_), None) => Failure {
            error: failure
                .error
                .with_hint("what the run has made in the cluster may still be there: 'vmferry gc' lists it"),
            ..failure
        },
        _ => failure,
    })?;
    for warning in report.warnings.iter().filter(|warning| !told.contains(warning)) {
        output.warning(warning);
    }
    Ok(report)
}

impl ExportArgs {
    /// The appliance that is made, if one is.
    fn appliance(&self, format: ExportFormat) -> Result<Option<ApplianceOptions>, Error> {
        let Some(packaging) = format.packaging() else {
            return match self.described.given().or_else(|| self.seal.given()) {
                Some(option) => Err(Error::usage(format!("{option} is for appliances: -O ova or -O ovf"))),
                None => Ok(None),
            };
        };
        self.writing.check_appliance()?;
        Ok(Some(ApplianceOptions {
            packaging,
            descriptor: self.described.options(),
            manifest_hash: self.seal.manifest_hash(),
            signer: self.seal.signer()?,
            mtime: self.seal.mtime(std::env::var("SOURCE_DATE_EPOCH").ok())?,
        }))
    }

    /// The same for a snapshot, whose name stands where that of a VM does.
    pub(super) fn of_snapshot(self) -> Self {
        Self { is_of_snapshot: true, ..self }
    }

    fn options(&self) -> ExportOptions {
        let source = SourceOptions { http: self.http.options(), ..SourceOptions::default() };
        ExportOptions {
            volumes: self.volume.clone(),
            source: self.source,
            stop: self.stop,
            quiesce: self.quiesce,
            ttl: self.ttl,
            wait: self.wait,
            keep: self.keep_export,
            transfer: self.transfer,
            reach: self.reach,
            service_url: self.service_url.clone(),
            conversion: ConversionOptions {
                source,
                #[cfg(feature = "cloud")]
                object: self.upload.options_in(
                    self.store.options(&self.http),
                    self.http.rate,
                    self.writing.is_remote(),
                ),
                ..self.writing.options()
            },
            appliance: None,
            inputs: self.inputs(),
        }
    }

    /// The files that are read beside the disks.
    fn inputs(&self) -> Vec<PathBuf> {
        let named = [self.job.as_ref(), self.http.ca_file.as_ref(), self.cluster.kubeconfig()];
        self.seal.files().chain(named.into_iter().flatten()).cloned().collect()
    }
}

/// Shows what the export tells, in its order, until it tells no more; the warnings among that.
async fn listen(mut events: UnboundedReceiver<ExportEvent>, output: Output) -> Vec<String> {
    let (mut watch, mut warnings): (Option<Watch>, _) = (None, Vec::new());
    while let Some(event) = events.recv().await {
        match event {
            ExportEvent::Told(Told::Warning(text)) => {
                output.warning(&text);
                warnings.push(text);
            }
            ExportEvent::Told(told) => output.note(&told.to_string()),
            ExportEvent::Begun { number, count, name, progress } => {
                output.note(&format!("volume {name} ({number} of {count})"));
                watch = Some(Watch::start(&output, progress));
            }
            ExportEvent::Ended => {
                if let Some(watch) = watch.take() {
                    watch.finish().await;
                }
            }
        }
    }
    if let Some(watch) = watch {
        watch.finish().await;
    }
    warnings
}

/// What is exported, and the namespace that stands before its name.
fn what(args: &ExportArgs) -> Result<(Option<String>, ExportOf), Error> {
    let named = [
        (&args.snapshot, ExportOf::Snapshot as fn(String) -> ExportOf),
        (&args.pvc, ExportOf::Claim),
        (&args.vmexport, ExportOf::Existing),
    ];
    if let Some((Some(name), of)) = named.into_iter().find(|(name, _)| name.is_some()) {
        return Ok((None, of(name.clone())));
    }
    let vm = args.vm.as_deref().or(args.vm_flag.as_deref());
    let (namespace, vm) = named_vm(vm.unwrap_or_default())?;
    Ok((namespace, if args.is_of_snapshot { ExportOf::Snapshot(vm) } else { ExportOf::Vm(vm) }))
}

/// A VM, and the namespace that stands before its name.
pub(super) fn named_vm(vm: &str) -> Result<(Option<String>, String), Error> {
    match vm.split_once('/') {
        None => Ok((None, vm.to_owned())),
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((Some(namespace.to_owned()), name.to_owned()))
        }
        Some(_) => {
            Err(Error::usage(format!("{vm:?} is not the name of a VM"))
                .with_hint("write VM, or NAMESPACE/VM"))
        }
    }
}

/// Only `export` itself reads jobs.
pub(super) fn no_job(_: &str) -> Result<PathBuf, String> {
    Err("'vmferry export --job' takes jobs".to_owned())
}

/// Directories are what is one, what ends like one, and what does not end like an image.
fn target(output: &Path) -> ExportTarget {
    if output == Path::new("-") {
        return ExportTarget::Stdout;
    }
    let found = fs::metadata(output).ok();
    let is_directory = match found {
        Some(found) => found.is_dir(),
        None => output.as_os_str().as_encoded_bytes().ends_with(b"/") || ExportFormat::of(output).is_none(),
    };
    if is_directory {
        ExportTarget::Directory(output.to_owned())
    } else {
        ExportTarget::File(output.to_owned())
    }
}

fn parse_source(text: &str) -> Result<SourceChoice, String> {
    match text {
        "backup" => Err("not yet supported; take snapshot for a running VM".to_owned()),
        "pvc" => Err("name the claim by --pvc instead of a VM".to_owned()),
        text => named(text, &SourceChoice::ALL),
    }
}

pub(super) fn parse_quiesce(text: &str) -> Result<Quiesce, String> {
    named(text, &Quiesce::ALL)
}

fn parse_transfer(text: &str) -> Result<Transfer, String> {
    named(text, &Transfer::ALL)
}

fn parse_reach(text: &str) -> Result<Reach, String> {
    named(text, &Reach::ALL)
}

pub(super) fn named<T: Copy>(text: &str, all: &[(&'static str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("one of {}", all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")))
}

pub(super) fn parse_service_url(text: &str) -> Result<url::Url, String> {
    match text.parse::<url::Url>() {
        Ok(url) if url.scheme() == "https" && url.host_str().is_some() => Ok(url),
        _ => Err("an https:// URL with a host is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests;
