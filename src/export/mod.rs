//! A VM out of a cluster: [`Export`].

mod appliance;
mod beside;
mod builder;
mod earlier;
mod end;
mod output;
mod prepare;
mod record;
mod run;
mod space;
mod state;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use vmferry_formats::WriterSpec;

pub use self::{
    appliance::{ApplianceOptions, ApplianceRecord, Packaging},
    builder::ExportBuilder,
    prepare::{ExportPlan, PlannedOutput},
    record::{ExportReport, VolumeRecord},
    space::check_space,
};
use crate::{
    conversion::ConversionOptions,
    error::Result,
    kubevirt::{Cluster, Quiesce, Reach, Told},
    pipeline::progress::Progress,
    source::Transfer,
};

/// What is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportOf {
    /// The volume of a claim.
    Claim(String),
    /// A VirtualMachineExport that somebody else made.
    Existing(String),
    /// A snapshot of a VM.
    Snapshot(String),
    /// A VM.
    Vm(String),
}

impl fmt::Display for ExportOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(name) => write!(f, "claim {name}"),
            Self::Existing(name) => write!(f, "export {name}"),
            Self::Snapshot(name) => write!(f, "snapshot {name}"),
            Self::Vm(name) => write!(f, "VM {name}"),
        }
    }
}

/// How the disks of a VM are come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceChoice {
    /// Directly if the VM is stopped, through a snapshot if it runs.
    #[default]
    Auto,
    /// Through a snapshot made for the export.
    Snapshot,
    /// Directly; the VM must be stopped.
    Vm,
}

impl SourceChoice {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("vm", Self::Vm), ("snapshot", Self::Snapshot)];
}

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportTarget {
    /// `DIRECTORY/<vm>/<volume>.<extension>`, with the VM's description and a record of the export.
    Directory(PathBuf),
    /// One volume, or an OVA of all of them, into this file.
    File(PathBuf),
    /// One volume to standard output.
    Stdout,
}

/// How an export is done; every field has the default of the command line.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The volumes to export, by the VM's names or those of their claims; all if there are none.
    pub volumes: Vec<String>,
    /// How the disks of a VM are come by.
    pub source: SourceChoice,
    /// Stop a VM that runs, export it directly, and put its run strategy back as it was.
    pub stop: bool,
    /// What is demanded of a snapshot of a running VM.
    pub quiesce: Quiesce,
    /// How long the export may live in the cluster; `None` = long enough for its size.
    pub ttl: Option<Duration>,
    /// Longest wait for the export, and for a snapshot.
    pub wait: Duration,
    /// Leave in the cluster what was made there, even on success.
    pub keep: bool,
    /// Which links the bytes are fetched by.
    pub transfer: Transfer,
    /// How the exporter is reached.
    pub reach: Reach,
    /// Where the exporter's service is reached, instead of where its link says.
    pub service_url: Option<url::Url>,
    /// How each volume is converted.
    pub conversion: ConversionOptions,
    /// An appliance of all volumes instead of an image for each.
    pub appliance: Option<ApplianceOptions>,
    /// Files that are read beside the disks: key, certificate, kubeconfig and the like. What would be written over
    /// one of them, or remove it, is refused.
    pub inputs: Vec<PathBuf>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            volumes: Vec::new(),
            source: SourceChoice::default(),
            stop: false,
            quiesce: Quiesce::default(),
            ttl: None,
            wait: Duration::from_secs(600),
            keep: false,
            transfer: Transfer::default(),
            reach: Reach::default(),
            service_url: None,
            conversion: ConversionOptions::default(),
            appliance: None,
            inputs: Vec::new(),
        }
    }
}

/// What an export tells while it runs.
#[derive(Clone, Debug)]
pub enum ExportEvent {
    /// Something about objects in the cluster.
    Told(Told),
    /// A volume is begun.
    Begun {
        /// Number of the volume, from 1 on.
        number: usize,
        /// Volumes in all.
        count: usize,
        /// Name of the volume.
        name: String,
        /// Its counters.
        progress: Progress,
    },
    /// The volume that was begun last has ended.
    Ended,
}

/// Who listens.
type Listener = Arc<dyn Fn(ExportEvent) + Send + Sync>;

/// An export of the volumes of a VM, set up but not begun.
///
/// ```no_run
/// use vmferry::{
///     Export, ExportOf, ExportTarget,
///     kubevirt::{Cluster, ClusterOptions},
/// };
///
/// # async fn example() -> vmferry::Result<()> {
/// let cluster = Cluster::connect(&ClusterOptions::default()).await?;
/// let target = ExportTarget::Directory("backup".into());
/// let report = Export::builder(cluster, ExportOf::Vm("db".into()), target).build().run().await?;
/// for volume in &report.volumes {
///     println!("{}: {} bytes", volume.file, volume.virtual_size);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Export {
    cluster: Cluster,
    of: ExportOf,
    target: ExportTarget,
    spec: WriterSpec,
    options: ExportOptions,
    listener: Listener,
    /// Warnings that the listener was told, for the report.
    warnings: Arc<Mutex<Vec<String>>>,
    cancel: CancellationToken,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("cluster", &self.cluster)
            .field("of", &self.of)
            .field("target", &self.target)
            .field("spec", &self.spec)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Export {
    /// The same, whose objects and their markers name the VM.
    #[cfg(feature = "cloud")]
    fn telling_objects(mut self) -> Self {
        if let ExportOf::Vm(name) = &self.of {
            let vm = format!("{}/{name}", self.cluster.namespace());
            self.options.conversion.object.vm.get_or_insert(vm);
        }
        self
    }

    /// Sets up an export from `cluster` (and the namespace it works in) to `target`.
    pub fn builder(cluster: Cluster, of: ExportOf, target: ExportTarget) -> ExportBuilder {
        ExportBuilder::new(cluster, of, target)
    }

    /// Cancelling this token ends the run; what it has done so far can be taken up.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// What [`run`](Self::run) would do. Nothing is made, here or in the cluster.
    ///
    /// # Errors
    /// What would stop a run before it has begun.
    pub async fn plan(&self) -> Result<ExportPlan> {
        let places = output::Places::new(&self.target, &self.base_name().await?);
        let (mut left, mut goes_on) = (None, false);
        if let Some(path) = places.state(&self.options.conversion)?
            && let Some(found) = state::peek(&path)?
        {
            goes_on = self.goes_on(&path, &found)?;
            left = Some(found);
        }
        let memory = left.as_ref().map(|left| &left.memory);
        let prepared = self.prepare(memory.filter(|_| goes_on)).await?;
        let outputs = places.outputs(&prepared.volumes.volumes, self.form())?;
        let warnings = self.check(&places, memory, &prepared, &outputs).await?;
        Ok(ExportPlan { warnings, ..prepared.plan })
    }

    /// Runs it.
    ///
    /// # Errors
    /// Whatever goes wrong; what was done is kept where it can be taken up, and the hint says how, and
    /// how to clean up instead.
    pub async fn run(self) -> Result<ExportReport> {
        // Boxed: the futures below are large.
        Box::pin(self.go()).await
    }

    fn told_warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn teller(&self) -> impl Fn(Told) + Send + Sync + 'static {
        let (listener, warnings) = (Arc::clone(&self.listener), Arc::clone(&self.warnings));
        move |told| {
            tracing::debug!("{told}");
            if let Told::Warning(text) = &told {
                warnings.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
            }
            listener(ExportEvent::Told(told));
        }
    }
}
