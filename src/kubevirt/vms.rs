//! VirtualMachines: listed, looked at, started, stopped, paused, deleted.
//!
//! These are thin calls: what can be done when is decided by the cluster, which is asked through
//! `subresources.kubevirt.io`; the run strategy is never edited. What is added here is waiting that
//! says what it waits for, and refusals that say what to do.

mod delete;
mod info;
mod instance;
mod listing;
mod metrics;
mod migrate;
mod refused;
mod screenshot;
mod state;
mod verbs;
mod waiting;
mod watch;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

pub(crate) use self::instance::Instance;
pub(super) use self::verbs::Put;
pub use self::{
    delete::Doomed,
    info::{ConditionInfo, DiskInfo, NicInfo, PowerState, VmInfo, VmMetadata},
    listing::{VmDetail, VmPages, VmQuery},
    metrics::{
        CpuMetrics, DiskMetrics, FilesystemMetrics, GuestMetrics, MemoryMetrics, NicMetrics, VmMetrics,
    },
    migrate::Migrated,
    state::{PhaseInfo, VmState},
    watch::{VmChange, VmWatch},
};
use super::{Cluster, Resource, Told, session::Teller, types::VirtualMachine};
use crate::error::{Error, ErrorKind, Result};

/// The VMs of a cluster, in the namespace that it works in.
///
/// ```no_run
/// use vmferry::kubevirt::{Acting, Cluster, ClusterOptions, VmQuery, Vms};
///
/// # async fn example() -> vmferry::Result<()> {
/// let cluster = Cluster::connect(&ClusterOptions::default()).await?;
/// let vms = Vms::new(cluster).on_event(|told| eprintln!("{told}"));
/// let mut pages = vms.list(&VmQuery { everywhere: true, ..VmQuery::default() });
/// while let Some(page) = pages.next().await? {
///     for vm in page {
///         println!("{} {}", vm.path, vm.state);
///     }
/// }
/// vms.start("web", false, &Acting::default()).await?;
/// assert_eq!(vms.get("web").await?.state, "running");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Vms {
    cluster: Cluster,
    teller: Teller,
}

impl std::fmt::Debug for Vms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vms").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// How a change is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acting {
    /// Longest wait for the change to be complete; `None` = the cluster is asked for it, and no more.
    pub wait: Option<Duration>,
    /// The cluster only says whether it would do it.
    pub dry_run: bool,
}

impl Default for Acting {
    /// Waits for five minutes at most.
    fn default() -> Self {
        Self { wait: Some(Duration::from_secs(300)), dry_run: false }
    }
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acted {
    /// The VM, `namespace/name`.
    pub vm: String,
    /// Its status afterwards, as [`VmInfo::state`]; `None` if nobody looked.
    pub state: Option<String>,
    /// Whether the change is complete; not so if it was not waited for, or not carried out.
    pub complete: bool,
}

impl Vms {
    /// The VMs of a cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, teller: Arc::new(|_| {}) }
    }

    /// Calls `listener` with what is waited for, and with warnings.
    #[must_use]
    pub fn on_event(self, listener: impl Fn(Told) + Send + Sync + 'static) -> Self {
        Self { teller: Arc::new(listener), ..self }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A VM, with everything that is known of it.
    ///
    /// # Errors
    /// There is none of that name; the cluster refuses, or cannot be reached.
    pub async fn get(&self, name: &str) -> Result<VmInfo> {
        let vm = self.find(name).await?;
        self.full(&vm).await
    }

    /// What a VM does, and what it waits for.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn status(&self, name: &str) -> Result<VmState> {
        let vm = self.find(name).await?;
        let instance = self.instance(name).await?;
        Ok(VmState::new(&vm, instance.as_ref()))
    }

    /// The same VMs, for whoever waits until `deadline`.
    pub(super) fn until(&self, deadline: Instant) -> Self {
        Self { cluster: self.cluster.until(deadline), ..self.clone() }
    }

    pub(super) fn teller(&self) -> &Teller {
        &self.teller
    }

    async fn full(&self, vm: &VirtualMachine) -> Result<VmInfo> {
        let instance = self.instance(&vm.metadata.name).await?;
        self.described(vm, instance.as_ref()).await
    }

    /// Everything that is known of a VM and its instance.
    pub(super) async fn described(&self, vm: &VirtualMachine, instance: Option<&Instance>) -> Result<VmInfo> {
        let shapes = listing::Shapes::new(&self.cluster, &self.teller);
        let expanded = shapes.expanded(vm).await?;
        let described = expanded.as_ref().unwrap_or(&vm.object);
        let mut claims = listing::Claims::default();
        claims.look_up(&self.cluster, &super::VolumePlan::of_vm(described)).await?;
        Ok(VmInfo::new(
            &vm.metadata,
            &vm.status.conditions,
            info::Facts {
                vm: &vm.object,
                expanded: expanded.as_ref(),
                shape: None,
                instance,
                claims: Some(claims.of(&vm.metadata.namespace)),
            },
        ))
    }

    pub(super) async fn find(&self, name: &str) -> Result<VirtualMachine> {
        super::resource::check_name("VM", name)?;
        match self.cluster.find::<Value>(&Resource::vms(), name).await? {
            Some(object) => VirtualMachine::new(object),
            None => Err(self.missing(name).await),
        }
    }

    pub(super) async fn instance(&self, name: &str) -> Result<Option<Instance>> {
        self.cluster.find(&Resource::vmis(), name).await
    }

    /// Why there is no VM: it does not exist, or KubeVirt does not.
    async fn missing(&self, name: &str) -> Error {
        if !self.cluster.serves("kubevirt.io").await {
            return self.cluster.not_served(&Resource::vms());
        }
        let vm = self.called(name);
        Error::new(ErrorKind::Cluster, format!("VM {vm} does not exist")).with_hint(format!(
            "'vmferry vm list -n {}' lists those of the namespace",
            self.cluster.namespace()
        ))
    }

    /// A VM as people call it.
    pub(super) fn called(&self, name: &str) -> String {
        format!("{}/{name}", self.cluster.namespace())
    }
}

impl Cluster {
    /// The status of a VM, in lower case; `None` if there is none.
    pub(super) async fn state_of(&self, name: &str) -> Result<Option<String>> {
        let vm = self.find_vm(name).await?;
        Ok(vm.map(|vm| info::printable(&vm.object).to_ascii_lowercase()))
    }
}
