//! `vmferry convert`: any source to any format, in one pass.

mod report;

use std::{
    fs,
    io::{self, IsTerminal as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use vmferry::{
    Conversion, ConversionOptions, Error, Target,
    formats::{Format, WriterSpec},
};

use self::report::ConvertReport;
#[cfg(feature = "cloud")]
use super::upload::UploadSummary;
use super::{
    Failure,
    args::{DiskArgs, FormatArg, SourceArgs},
    output::Output,
    progress::Watch,
    refuse_terminal_input,
    signals::{self, Stop},
    upload::{UploadArgs, output_target},
    writing::WritingArgs,
};

const AFTER_HELP: &str = "\
Examples:
  # A local image; the format comes from the extension
  vmferry convert disk.vmdk disk.qcow2

  # A volume behind a URL, compressed, read back and compared after writing
  vmferry convert --token-file token --ca-file ca.crt --compression zstd --verify \\
      https://exports.example/volumes/root/disk.img root.qcow2

  # The second disk of an appliance
  vmferry convert --disk 2 vm.ova data.qcow2

  # Straight into a bucket, without a file on this machine
  vmferry convert disk.vmdk s3://images/disk.qcow2

  # A pipe: - is standard input or output, the result goes to standard error
  zstd -dc disk.raw.zst | vmferry convert -O vmdk - - | ssh store 'cat > disk.vmdk'

Sizes are binary: K, Ki and KiB are 1024 bytes; KB is refused. Durations: 90s, 1m30s, 500ms, 2h.
A run that was interrupted goes on when the same command is given again.";

/// Convert a disk image, in one pass, hashed and resumable
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ConvertArgs {
    /// Path or http(s) URL of the source; - reads standard input
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Path or object (s3://, gs://, az://) of the output, whose extension (.raw, .img, .qcow2, .vmdk)
    /// tells the format; - writes to standard output, and results to standard error
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,

    /// Format of the output [default: by the extension of OUTPUT]
    #[arg(short = 'O', long, value_name = "FORMAT", value_enum, help_heading = "Output options")]
    format: Option<FormatArg>,

    #[command(flatten)]
    writing: WritingArgs,
    #[command(flatten)]
    reading: SourceArgs,
    #[command(flatten)]
    disk: DiskArgs,
    #[command(flatten)]
    upload: UploadArgs,

    /// Say how an upload would be cut into parts and what memory it takes, and make nothing
    #[cfg(feature = "cloud")]
    #[arg(long, help_heading = "Object storage options")]
    dry_run: bool,
}

pub(super) async fn run(args: &ConvertArgs, output: &Output) -> Result<(), Failure> {
    let plan = Plan::new(args, kind_of(&args.output))?;
    refuse_terminal_input(&plan.source)?;
    let output = match plan.target {
        Target::Object(_) | Target::Path(_) => output.clone(),
        Target::Stdout if io::stdout().is_terminal() => {
            return Err(Error::usage("standard output is a terminal; an image would garble it")
                .with_hint("name an output file, or pipe the image into a command")
                .into());
        }
        Target::Stdout => output.results_on_stderr(),
    };

    let conversion =
        Conversion::builder(plan.source, plan.target).spec(plan.spec).options(plan.options).build()?;
    #[cfg(feature = "cloud")]
    if args.dry_run {
        let planned = Box::pin(async move { conversion.plan_upload().await });
        let plan = signals::supervise(planned, Stop::AtOnce, &output).await?;
        let plan = plan.ok_or_else(|| {
            Error::usage("--dry-run is for uploads, and the output is no object")
                .with_hint("name an s3://, gs:// or az:// URL")
        })?;
        return Ok(output.report(&UploadSummary::from(plan))?);
    }
    let watch = Watch::start(&output, conversion.progress());
    let stop = Stop::Orderly(conversion.cancel_token());
    let result = signals::supervise(conversion.run(), stop, &output).await;
    watch.finish().await;

    let report = result?;
    for warning in &report.warnings {
        output.warning(warning);
    }
    Ok(output.report(&ConvertReport::from(&report))?)
}

/// What stands where the output shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputKind {
    BlockDevice,
    Directory,
    /// A file, nothing, or something that only the library can judge.
    Other,
}

fn kind_of(output: &Path) -> OutputKind {
    match fs::metadata(output).map(|metadata| metadata.file_type()) {
        Ok(kind) if kind.is_block_device() => OutputKind::BlockDevice,
        Ok(kind) if kind.is_dir() => OutputKind::Directory,
        _ => OutputKind::Other,
    }
}

/// The arguments, checked and with all defaults resolved.
#[derive(Debug)]
struct Plan {
    source: String,
    target: Target,
    spec: WriterSpec,
    options: ConversionOptions,
}

impl Plan {
    fn new(args: &ConvertArgs, kind: OutputKind) -> Result<Self, Error> {
        let target = target(&args.output, kind)?;
        let format = match args.format.map(Format::from) {
            Some(format) => format,
            None => format_of(&target, kind)?,
        };
        let spec = args.writing.spec(format, target == Target::Stdout)?;
        args.writing.check_journal(matches!(target, Target::Object(_)))?;
        if matches!(target, Target::Object(_)) {
            args.writing.check_object(Some(&spec))?;
        }
        let options = ConversionOptions {
            source: args.disk.choose(&args.reading),
            #[cfg(feature = "cloud")]
            object: args.upload.options(&args.reading, args.writing.is_remote()),
            ..args.writing.options()
        };
        Ok(Self { source: args.source.clone(), target, spec, options })
    }
}

fn target(output: &Path, kind: OutputKind) -> Result<Target, Error> {
    if output == Path::new("-") {
        return Ok(Target::Stdout);
    }
    if kind == OutputKind::Directory {
        return Err(Error::usage(format!("{} is a directory", output.display()))
            .with_hint("name the file, for instance with the extension .qcow2"));
    }
    output_target(output)
}

fn format_of(target: &Target, kind: OutputKind) -> Result<Format, Error> {
    let wrong =
        |what: String| Err(Error::usage(what).with_hint("name the format: -O raw, -O qcow2 or -O vmdk"));
    match target {
        Target::Stdout => wrong("standard output has no extension that tells the format".to_owned()),
        Target::Path(path) if kind == OutputKind::BlockDevice => {
            wrong(format!("the block device {} has no extension that tells the format", path.display()))
        }
        Target::Object(url) => match Path::new(url).extension().and_then(|extension| extension.to_str()) {
            None => wrong(format!("{url} has no extension that tells the format")),
            Some(extension) => match Format::from_extension(extension) {
                Some(format) => Ok(format),
                None => wrong(format!("the extension .{extension} does not tell the format")),
            },
        },
        Target::Path(path) => match path.extension().and_then(|extension| extension.to_str()) {
            None => wrong(format!("{} has no extension that tells the format", path.display())),
            Some(extension) => match Format::from_extension(extension) {
                Some(format) => Ok(format),
                None => wrong(format!("the extension .{extension} does not tell the format")),
            },
        },
    }
}

#[cfg(test)]
mod tests;
