//! Setting an appliance up.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    Format, WriterSpec,
    ova::{MAX_MTIME, Template, check_name},
};

use super::{
    Listener, Names, Pack, PackDisk, PackEvent, PackOptions, PackTarget,
    container::{OvaContainer, Tail},
    demand_streams, descriptor,
};
use crate::{
    conversion::ConversionSource,
    error::{Error, FormatContext as _, Result},
    file_name::base_name,
    pipeline::progress::Progress,
};

/// Sets a [`Pack`] up. What is not said has the default of the command line.
#[must_use = "an appliance that is not built and run does nothing"]
pub struct PackBuilder {
    descriptor: String,
    target: PackTarget,
    base: Option<String>,
    disks: Vec<PackDisk>,
    spec: WriterSpec,
    options: PackOptions,
    listener: Listener,
    cancel: CancellationToken,
}

impl std::fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("PackBuilder");
        debug.field("target", &self.target).field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl PackBuilder {
    pub(super) fn new(descriptor: String, target: PackTarget) -> Self {
        Self {
            descriptor,
            target,
            base: None,
            disks: Vec::new(),
            spec: Format::Vmdk.into(),
            options: PackOptions::default(),
            listener: Arc::new(|_| {}),
            cancel: CancellationToken::new(),
        }
    }

    /// What the files are called, without an extension, instead of like the output.
    pub fn base_name(mut self, base: impl Into<String>) -> Self {
        self.base = Some(base.into());
        self
    }

    /// Adds a disk behind those that are there.
    pub fn disk(mut self, disk: PackDisk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Format and parameters of the images, instead of streamOptimized VMDK.
    pub fn spec(mut self, spec: WriterSpec) -> Self {
        self.spec = spec;
        self
    }

    /// How it is done.
    pub fn options(mut self, options: PackOptions) -> Self {
        self.options = options;
        self
    }

    /// Who is told what happens meanwhile. Called from the run itself: it must not block.
    pub fn on_event(mut self, listener: impl Fn(PackEvent) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Ends the run with a resumable partial when it is cancelled.
    pub fn cancel_token(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Whether everything but the descriptor can be, for whoever makes that later.
    ///
    /// # Errors
    /// A name, the time, or the format of the images cannot be.
    pub fn check(&self) -> Result<()> {
        self.checked_names().map(|_| ())
    }

    fn checked_names(&self) -> Result<Names> {
        let Self { target, base, disks, spec, options, .. } = self;
        if matches!(target, PackTarget::Archive(_)) {
            demand_streams(spec)?;
        }
        if options.mtime > MAX_MTIME {
            return Err(Error::usage(format!("the time {} is too late for an archive", options.mtime)));
        }
        let streams = disks.iter().filter(|disk| is_stdin(&disk.source)).count();
        if streams > 1 {
            return Err(Error::usage("standard input is one disk, not several"));
        }
        let names = names(target, base.clone(), disks, spec.format())?;
        // What an archive refuses, a directory should not have either.
        let blank = Template::new(" ").context(|| "the descriptor cannot be used".into())?;
        let tail = Tail::new(names.clone(), options.manifest_hash, None);
        OvaContainer::new(names.clone(), blank, options.mtime, tail)?;
        Ok(names)
    }

    /// The appliance. Nothing is opened or created before it runs.
    ///
    /// # Errors
    /// A name, the time, the descriptor, or the format of the images cannot be. The descriptor must be
    /// an envelope of OVF 1.x that refers to the images of the disks and to nothing else, in their
    /// order, and states no lengths of them but by markers.
    pub fn build(self) -> Result<Pack> {
        let names = self.checked_names()?;
        let Self { descriptor, target, disks, spec, options, listener, cancel, .. } = self;
        let template = Template::new(descriptor).context(|| "the descriptor cannot be used".into())?;
        let envelope = descriptor::check(&template, &names)?;
        Ok(Pack {
            template,
            envelope,
            target,
            names,
            disks,
            spec,
            options,
            listener,
            progress: Progress::default(),
            cancel,
        })
    }
}

pub(super) fn is_stdin(source: &ConversionSource) -> bool {
    matches!(source, ConversionSource::Location(location) if location == "-")
}

pub(super) fn names(
    target: &PackTarget,
    base: Option<String>,
    disks: &[PackDisk],
    format: Format,
) -> Result<Names> {
    let base = match base {
        Some(base) => base,
        None => base_of(target)?,
    };
    let disk = |(number, disk): (usize, &PackDisk)| {
        disk.file_name.clone().unwrap_or_else(|| format!("{base}-disk{number}.{}", format.name()))
    };
    let names = Names {
        disks: (1..).zip(disks).map(disk).collect(),
        descriptor: format!("{base}.ovf"),
        manifest: format!("{base}.mf"),
        certificate: format!("{base}.cert"),
    };
    check_name(&names.certificate).context(|| "the name of the appliance cannot be used".into())?;
    for name in &names.disks {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        if TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(extension)) {
            return Err(Error::usage(format!(
                "an image cannot be called {name}: what ends in .{extension} is something else of an appliance"
            ))
            .with_hint(format!("let its name end in .{}", format.name())));
        }
    }
    Ok(names)
}

pub(super) fn base_of(target: &PackTarget) -> Result<String> {
    let path = target.path();
    let base = match target {
        PackTarget::Archive(_) => path.file_stem(),
        PackTarget::Directory(_) => path.file_name(),
    };
    match base {
        Some(base) => Ok(base_name(&base.to_string_lossy())),
        None => Err(Error::usage(format!("{} gives the appliance no name", path.display()))),
    }
}

/// Extensions of what lies beside images: readers know descriptor, manifest and certificate by theirs alone, and
/// files that are being written have the others.
const TAKEN: [&str; 6] = ["ovf", "mf", "cert", "partial", "journal", "jsonl"];
