//! Disks and a descriptor as an appliance, an OVA or a directory: [`Pack`].

mod archive;
mod builder;
mod container;
mod descriptor;
mod directory;
mod earlier;
mod left;
mod plan;
mod sign;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{
    Format, WriterSpec,
    digest::Digest,
    ova::{ManifestHash, Template},
    ovf::Envelope,
    vmdk::Subformat,
};

pub use self::{
    builder::PackBuilder,
    earlier::EarlierPack,
    plan::{PackPlan, PlannedDisk},
    sign::Signer,
};
use crate::{
    conversion::{
        ConversionOptions, ConversionSource, TreeDigest,
        job::{JobDisk, Means},
    },
    error::{Error, ErrorKind, Result},
    pipeline::{
        hash::FileDigest,
        progress::{Phase, Progress},
    },
    source::{SourceFormat, SourceOptions},
};

/// A disk of an appliance.
#[derive(Clone, Debug)]
pub struct PackDisk {
    /// Where it comes from.
    pub source: ConversionSource,
    /// Name of its image, as the descriptor has it; `None` = `<base>-disk<number>.<format>`.
    pub file_name: Option<String>,
    /// How it is read, instead of as the options say.
    pub source_options: Option<SourceOptions>,
}

impl PackDisk {
    /// A disk whose image has the usual name.
    pub fn new(source: impl Into<ConversionSource>) -> Self {
        Self { source: source.into(), file_name: None, source_options: None }
    }

    /// The same disk, its image called `name`.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { file_name: Some(name.into()), ..self }
    }
}

/// Where an appliance goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackTarget {
    /// One file, an OVA: streamOptimized VMDKs only.
    Archive(PathBuf),
    /// A directory, in which each file stands by itself.
    Directory(PathBuf),
}

impl PackTarget {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Archive(path) | Self::Directory(path) => path,
        }
    }

    /// What the images of these disks are called, if the appliance is called like its output.
    ///
    /// # Errors
    /// A name is not possible.
    pub fn file_names(&self, disks: &[PackDisk], format: Format) -> Result<Vec<String>> {
        builder::names(self, None, disks, format).map(|names| names.disks)
    }
}

/// How an appliance is packed; every field has the default of the command line.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// How each disk is converted. Of these, `sums` is for the whole archive, and `flat_sha256` is of no
    /// use: the manifest of an appliance always needs hashes.
    pub conversion: ConversionOptions,
    /// Hash function of the manifest (`.mf`).
    pub manifest_hash: ManifestHash,
    /// Modification time of everything in an archive, in seconds since 1970.
    pub mtime: u64,
    /// Signs the manifest (`.cert`).
    pub signer: Option<Signer>,
    /// Files that the appliance is made of beside its disks: the description, the key and the certificate.
    /// Whatever would be written over one of them, or remove it, is refused.
    pub inputs: Vec<PathBuf>,
}

/// What happens while an appliance is packed.
#[derive(Clone, Debug)]
pub enum PackEvent {
    /// A disk begins, or is taken up again.
    Begun {
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        count: usize,
        /// Name of its image.
        name: String,
        /// How far it is; in an archive, how far all disks are together.
        progress: Progress,
    },
    /// It is complete, or failed.
    Ended,
}

/// Who is told.
type Listener = Arc<dyn Fn(PackEvent) + Send + Sync>;

/// An appliance that is to be packed, set up but not begun.
///
/// The descriptor is the text of an OVF envelope, or a [`Template`] of one that leaves the sizes of the
/// images to be filled in. Its references must be the images of the disks and nothing else, in their
/// order; it may state no sizes of them by itself; its capacities must be those of the disks.
///
/// ```
/// use vmferry::{Pack, PackDisk, PackTarget};
///
/// # let directory = tempfile::tempdir()?;
/// # let (disk, appliance) = (directory.path().join("disk.raw"), directory.path().join("vm.ova"));
/// # std::fs::write(&disk, vec![7; 1 << 20])?;
/// # let disk = disk.to_str().expect("a UTF-8 path");
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let descriptor = r#"<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
///     xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
///   <References>
///     <File ovf:id="file1" ovf:href="vm-disk1.vmdk" ovf:size="<vmferry-size-00000>"/>
///   </References>
///   <DiskSection>
///     <Info>Disks</Info>
///     <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="1048576"/>
///   </DiskSection>
///   <VirtualSystem ovf:id="vm"><Info>A machine</Info></VirtualSystem>
/// </Envelope>"#;
/// let report = Pack::builder(descriptor, PackTarget::Archive(appliance))
///     .disk(PackDisk::new(disk))
///     .build()?
///     .run()
///     .await?;
/// assert_eq!(report.disks[0].file, "vm-disk1.vmdk");
/// # Ok::<(), vmferry::Error>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pack {
    template: Template,
    /// What the template says, but for late numbers.
    envelope: Envelope,
    target: PackTarget,
    names: Names,
    disks: Vec<PackDisk>,
    spec: WriterSpec,
    options: PackOptions,
    listener: Listener,
    progress: Progress,
    cancel: CancellationToken,
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, names, disks, .. } = self;
        let mut debug = f.debug_struct("Pack");
        debug.field("target", target).field("names", names).field("disks", disks).finish_non_exhaustive()
    }
}

/// The names of the files of an appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    descriptor: String,
    disks: Vec<String>,
    manifest: String,
    certificate: String,
}

impl Names {
    /// The files that describe the disks; the descriptor first.
    fn description(&self) -> [&String; 3] {
        [&self.descriptor, &self.manifest, &self.certificate]
    }
}

impl Pack {
    /// Sets an appliance up: `descriptor` is the text of its envelope or a template of it.
    pub fn builder(descriptor: impl Into<String>, target: PackTarget) -> PackBuilder {
        PackBuilder::new(descriptor.into(), target)
    }

    /// A handle that tells how far it is. For a directory, whose disks are conversions of their own,
    /// [`PackEvent::Begun`] brings one for each.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Cancelling this token ends the run with a resumable partial.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Runs it.
    ///
    /// # Errors
    /// Whatever goes wrong; what can be resumed is kept, and the hint says how.
    pub async fn run(self) -> Result<PackReport> {
        let started = Instant::now();
        self.progress.set_phase(Phase::Preparing);
        // Boxed: these futures are large, and callers keep them on small stacks.
        let report = match &self.target {
            PackTarget::Archive(path) => Box::pin(self.to_archive(path)).await,
            PackTarget::Directory(path) => Box::pin(self.to_directory(path)).await,
        };
        let mut report = report?;
        report.elapsed = started.elapsed();
        if let Some(signer) = &self.options.signer {
            report.warnings.extend_from_slice(signer.warnings());
        }
        self.progress.set_phase(Phase::Done);
        Ok(report)
    }

    fn means(&self) -> Means<'_> {
        Means { options: &self.options.conversion, progress: &self.progress, cancel: &self.cancel }
    }

    /// Opens all sources to see what they are, and closes again what can be opened once more.
    async fn look(&self, from_middle: bool) -> Result<Vec<JobDisk<'_>>> {
        let mut disks = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            let options = self.source_options(disk);
            // Only the first is read from here on: for the others it is enough to see what they are.
            let opening = disk.source.open(&options, from_middle || index > 0);
            let opened = Box::pin(self.means().unless_cancelled(opening)).await?;
            let name = self.names.disks[index].clone();
            let mut found = JobDisk::new(&disk.source, options, self.disk_spec(index), name.clone(), opened);
            found.header.file = Some(name);
            if index > 0 {
                found.close();
            }
            disks.push(found);
        }
        Ok(disks)
    }

    fn source_options(&self, disk: &PackDisk) -> SourceOptions {
        let options = disk.source_options.clone();
        let options = options.unwrap_or_else(|| self.options.conversion.source.clone());
        SourceOptions { memory: Some(self.options.conversion.memory), ..options }
    }

    /// Parameters of the image of a disk: ids that derive from a given seed differ.
    fn disk_spec(&self, index: usize) -> WriterSpec {
        let mut spec = self.spec.clone();
        if let WriterSpec::Vmdk(options) = &mut spec
            && let Some(seed) = &mut options.id_seed
            && index > 0
        {
            seed.push_str(&format!("/{index}"));
        }
        spec
    }

    fn tell(&self, event: PackEvent) {
        (self.listener)(event);
    }

    fn begun(&self, index: usize, progress: Progress) {
        let (number, count, name) = (index + 1, self.disks.len(), self.names.disks[index].clone());
        self.tell(PackEvent::Begun { number, count, name, progress });
    }
}

/// What was packed.
#[derive(Clone, Debug)]
pub struct PackReport {
    /// The archive or the directory.
    pub output: PathBuf,
    /// Name of the descriptor in it.
    pub descriptor: String,
    /// The disks, in their order.
    pub disks: Vec<PackedDisk>,
    /// Length of the archive, or of all files in the directory that belong to the appliance, in bytes.
    pub output_size: u64,
    /// SHA-256 of the archive, if asked for.
    pub file_sha256: Option<Digest>,
    /// Hash function of the manifest (`.mf`).
    pub manifest_hash: ManifestHash,
    /// Whether the manifest is signed.
    pub signed: bool,
    /// Bytes taken from the sources by this run.
    pub bytes_read: u64,
    /// Bytes written by this run.
    pub bytes_written: u64,
    /// Index of the disk and guest offset at which this run took up an earlier one; behind the last disk
    /// if only the end was missing.
    pub resumed_from: Option<(usize, u64)>,
    /// Whether the disks were read back and compared.
    pub verified: bool,
    /// The manifest of digests beside the archive; each disk of a directory has its own.
    pub manifest: Option<PathBuf>,
    /// Wall time.
    pub elapsed: Duration,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A disk in an appliance.
#[derive(Clone, Debug)]
pub struct PackedDisk {
    /// Name of its image.
    pub file: String,
    /// Format of the image.
    pub format: Format,
    /// Format of the source.
    pub source_format: SourceFormat,
    /// Bytes of the guest disk.
    pub virtual_size: u64,
    /// Guest bytes that are zero and take no space in the image.
    pub zero_bytes: u64,
    /// Offset of the image's first byte in the archive; `None` in a directory.
    pub offset: Option<u64>,
    /// Bytes of the image.
    pub file_size: u64,
    /// Hash of the image, as in the manifest (`.mf`).
    pub file_hash: FileDigest,
    /// Digest of the content.
    pub digest: Option<TreeDigest>,
}

/// What an archive may hold.
fn demand_streams(spec: &WriterSpec) -> Result<()> {
    match spec {
        WriterSpec::Vmdk(options) if options.subformat == Subformat::StreamOptimized => Ok(()),
        other => Err(Error::new(
            ErrorKind::Usage,
            format!("the disks of an OVA are streamOptimized VMDKs, not {}", other.format()),
        )
        .with_hint("a directory (--format ovf) takes any format, for the few importers that do")),
    }
}
