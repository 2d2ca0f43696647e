//! `vmferry vm screenshot`.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueHint};
use serde::Serialize;
use vmferry::Error;

use super::OneVm;
use crate::cli::{
    Failure,
    output::{Output, Report, field},
    signals::{self, Stop},
    units::Bytes,
};

/// Take a picture of a VM's screen, as a PNG file
#[derive(Args, Debug)]
pub(crate) struct ScreenshotArgs {
    #[command(flatten)]
    vm: OneVm,

    /// The file; - is standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: PathBuf,

    /// Overwrite a file that is there
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(args: &ScreenshotArgs, output: &Output) -> Result<(), Failure> {
    let to_pipe = args.output == Path::new("-");
    if to_pipe && io::stdout().is_terminal() {
        return Err(Error::usage("standard output is a terminal; a picture would garble it")
            .with_hint("name a file, or pipe the picture into a program")
            .into());
    }
    if !to_pipe && !args.force && args.output.exists() {
        return Err(exists(&args.output).into());
    }
    let (vms, name) = args.vm.connect(output).await?;
    let vm = format!("{}/{name}", vms.cluster().namespace());
    let picture =
        signals::supervise(async move { vms.screenshot(&name).await }, Stop::AtOnce, output).await?;
    if to_pipe {
        return Ok(output.raw(&picture)?);
    }
    write(&args.output, args.force, &picture)?;
    let file = args.output.display().to_string();
    let bytes = u64::try_from(picture.len()).unwrap_or(u64::MAX);
    Ok(output.report(&Taken { vm, file, bytes })?)
}

fn write(path: &Path, force: bool, picture: &[u8]) -> Result<(), Error> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).create_new(!force).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Error::io("create", path, error),
    })?;
    file.write_all(picture).map_err(|error| Error::io("write", path, error))
}

fn exists(path: &Path) -> Error {
    Error::refused(format!("{} exists", path.display())).with_hint("--force overwrites it")
}

/// The result of `vm screenshot`.
#[derive(Serialize)]
struct Taken {
    vm: String,
    file: String,
    bytes: u64,
}

impl Report for Taken {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Screen", &self.vm)?;
        field(out, "File", format_args!("{}, {}", self.file, Bytes(self.bytes)))
    }
}
