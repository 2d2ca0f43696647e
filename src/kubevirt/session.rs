//! The life of an export: made with a token of its own, waited for, read, removed.

mod make;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, Resource,
    forward::Forward,
    identity::Origin,
    links::Offer,
    reach::Way,
    time,
    types::{Condition, VmExport},
    wait::{Readiness, Waiting, judge},
};
use crate::{
    error::{Error, ErrorKind, Result},
    secret::Secret,
    source::SourceIdentity,
};

/// What is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportSource {
    /// A PersistentVolumeClaim.
    Claim(String),
    /// A VirtualMachineSnapshot.
    Snapshot(String),
    /// A VirtualMachine that does not run.
    VirtualMachine(String),
}

impl ExportSource {
    /// Kind of the object.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Claim(_) => "PersistentVolumeClaim",
            Self::Snapshot(_) => "VirtualMachineSnapshot",
            Self::VirtualMachine(_) => "VirtualMachine",
        }
    }

    /// Name of the object.
    pub fn name(&self) -> &str {
        match self {
            Self::Claim(name) | Self::Snapshot(name) | Self::VirtualMachine(name) => name,
        }
    }

    /// API group of the object.
    fn group(&self) -> &'static str {
        match self {
            Self::Claim(_) => "",
            Self::Snapshot(_) => super::resource::SNAPSHOT_GROUP,
            Self::VirtualMachine(_) => "kubevirt.io",
        }
    }

    /// What an existing export says that it exports.
    fn of(export: &VmExport) -> Result<Self> {
        let name = export.spec.source.name.clone();
        match export.spec.source.kind.as_str() {
            "PersistentVolumeClaim" => Ok(Self::Claim(name)),
            "VirtualMachineSnapshot" => Ok(Self::Snapshot(name)),
            "VirtualMachine" => Ok(Self::VirtualMachine(name)),
            other => Err(Error::refused(format!(
                "the export {} is of a {other}, which has no disks that can be taken this way",
                export.metadata.name
            ))),
        }
    }
}

impl Cluster {
    /// What an export is of, and what its VM (or the exported object) is called.
    pub(crate) async fn source_of_export(&self, name: &str) -> Result<(ExportSource, String)> {
        super::resource::check_name("VirtualMachineExport", name)?;
        let exports = self.export_resource().await?;
        let export: VmExport = self.must_find(&exports, name).await?;
        let source = ExportSource::of(&export)?;
        let vm = match &source {
            ExportSource::Snapshot(snapshot) => Some(self.vm_of_snapshot(snapshot).await?),
            _ => export.status.virtual_machine_name.filter(|vm| !vm.is_empty()),
        };
        let base = vm.unwrap_or_else(|| source.name().to_owned());
        Ok((source, base))
    }
}

/// How an export is made and waited for.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Id of the run; the same id finds what an earlier run left.
    pub run: String,
    /// What the objects are named after; `None` = what is exported.
    pub named_after: Option<String>,
    /// How long the export shall live; `None` = long enough for `expected_bytes` over a slow link.
    pub ttl: Option<Duration>,
    /// Size of all volumes together, as far as it is known.
    pub expected_bytes: u64,
    /// Limit on the bytes a second, if there is one.
    pub rate: Option<u64>,
    /// Longest wait for an export that is not ready.
    pub wait: Duration,
    /// CA certificates to trust instead of those beside the links, in PEM form.
    pub authorities: Option<Vec<u8>>,
    /// Do not verify the exporter's certificate.
    pub insecure: bool,
    /// Host and port, as a URL, where the exporter's service is reached.
    pub service_url: Option<url::Url>,
}

impl SessionOptions {
    /// The defaults, for a run.
    pub fn new(run: impl Into<String>) -> Self {
        Self {
            run: run.into(),
            named_after: None,
            ttl: None,
            expected_bytes: 0,
            rate: None,
            wait: Duration::from_secs(600),
            authorities: None,
            insecure: false,
            service_url: None,
        }
    }

    /// How long the export shall live.
    pub fn time_to_live(&self) -> Duration {
        self.ttl.unwrap_or_else(|| {
            let rate = self.rate.unwrap_or(SLOW).clamp(1, SLOW);
            LEAST_TTL.saturating_add(Duration::from_secs(self.expected_bytes / rate)).min(MOST_TTL)
        })
    }
}

/// What a session tells while it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An object was made.
    Made(String),
    /// A way to the volumes was found.
    Reached(String),
    /// Something is waited for.
    Waiting(String),
    /// Something the operator should know.
    Warning(String),
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(what) => write!(f, "made {what}"),
            Self::Reached(what) => write!(f, "reached {what}"),
            Self::Waiting(what) => write!(f, "waiting: {what}"),
            Self::Warning(what) => f.write_str(what),
        }
    }
}

/// Who is told.
pub(crate) type Teller = Arc<dyn Fn(Told) + Send + Sync>;

/// An export and what belongs to it.
pub struct Session {
    pub(super) cluster: Cluster,
    pub(super) exports: Resource,
    pub(super) snapshots: String,
    pub(super) source: ExportSource,
    pub(super) options: SessionOptions,
    pub(super) teller: Teller,
    /// Whether this session, or an earlier one of its run, made the export.
    owned: bool,
    origin: Origin,
    name: StdMutex<String>,
    /// Nothing is made or waited for any more.
    closed: CancellationToken,
    pub(super) state: Mutex<State>,
}

/// What changes while the export lives.
pub(super) struct State {
    pub(super) token: Option<Secret>,
    pub(super) way: Option<Way>,
    pub(super) forward: Option<Arc<Forward>>,
    /// The last answer for each volume, with its generation.
    pub(super) offers: HashMap<String, (u64, Offer)>,
    /// Exports made by this run so far.
    serial: u32,
    /// Bytes have been taken: from now on a changed source is an error.
    pub(super) begun: bool,
    warned_of_end: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("cluster", &self.cluster)
            .field("source", &self.source)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Makes an export of `source`, or takes up the one that an earlier session of the same run left.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn begin(
        cluster: &Cluster,
        source: ExportSource,
        options: SessionOptions,
        teller: impl Fn(Told) + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        let session = Self::new(cluster, source, options, Arc::new(teller), true).await?;
        let mut state = session.state.lock().await;
        session.make(&mut state).await?;
        drop(state);
        Ok(Arc::new(session))
    }

    /// Follows an export that somebody else made.
    ///
    /// # Errors
    /// There is none of that name, it is of a kind without disks, or the cluster refuses.
    pub async fn follow(
        cluster: &Cluster,
        name: &str,
        options: SessionOptions,
        teller: impl Fn(Told) + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        super::resource::check_name("VirtualMachineExport", name)?;
        let exports = cluster.export_resource().await?;
        let export: VmExport = cluster.must_find(&exports, name).await?;
        let source = ExportSource::of(&export)?;
        let session = Self::new(cluster, source, options, Arc::new(teller), false).await?;
        name.clone_into(&mut session.name.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Arc::new(session))
    }

    async fn new(
        cluster: &Cluster,
        source: ExportSource,
        options: SessionOptions,
        teller: Teller,
        owned: bool,
    ) -> Result<Self> {
        super::resource::check_name(source.kind(), source.name())?;
        let exports = cluster.export_resource().await?;
        let snapshots = match source {
            ExportSource::Snapshot(_) => cluster.snapshot_resource().await?.version,
            _ => String::new(),
        };
        let origin = Origin::look(cluster, &source, &snapshots, options.wait).await?;
        let state = State {
            token: None,
            way: None,
            forward: None,
            offers: HashMap::new(),
            serial: 0,
            begun: false,
            warned_of_end: false,
        };
        Ok(Self {
            cluster: cluster.clone(),
            exports,
            snapshots,
            source,
            options,
            teller,
            owned,
            origin,
            name: StdMutex::default(),
            closed: CancellationToken::new(),
            state: Mutex::new(state),
        })
    }

    /// Name of the VirtualMachineExport.
    pub fn name(&self) -> String {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Namespace of the VirtualMachineExport.
    pub fn namespace(&self) -> &str {
        self.cluster.namespace()
    }

    /// What is exported.
    pub fn source(&self) -> &ExportSource {
        &self.source
    }

    /// Whether it was made by this run, and so may be removed.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// The export, once its links are there.
    ///
    /// # Errors
    /// It will not get ready, or not in time; the error tells why and what to do.
    pub async fn ready(&self) -> Result<VmExport> {
        let mut state = self.state.lock().await;
        self.wait_ready(&mut state).await
    }

    /// Ends the session: whoever still reads a volume is told that it was interrupted, and no other
    /// export is made in place of one that goes. Returns when nothing is being made any more, so that
    /// what is removed afterwards stays removed.
    pub async fn close(&self) {
        self.closed.cancel();
        drop(self.state.lock().await);
    }

    /// Fails if the session has ended.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() {
            return Err(Error::new(
                ErrorKind::Interrupted,
                format!("the export {}/{} is not used any more", self.namespace(), self.name()),
            ));
        }
        Ok(())
    }

    /// Waits for `event`, or for the end of the session.
    pub(super) async fn pause_until(&self, event: impl Future<Output = ()>) {
        self.closed.run_until_cancelled(event).await;
    }

    /// Removes the export with its secret.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn remove(&self) -> Result<()> {
        self.cluster.remove_export(&self.exports, &self.name()).await
    }

    /// Fails if the source has changed, or a VM runs or ran in between.
    pub(super) async fn check_source(&self) -> Result<()> {
        self.origin.check(&self.cluster, &self.source, &self.snapshots).await
    }

    pub(super) async fn identity_of(&self, claim: &str) -> Result<SourceIdentity> {
        self.origin.of_volume(&self.cluster, &self.source, claim).await
    }

    pub(super) fn tell(&self, what: Told) {
        (self.teller)(what);
    }

    pub(super) async fn wait_ready(&self, state: &mut State) -> Result<VmExport> {
        let start = tokio::time::Instant::now();
        let (mut hopeless_since, mut told) = (None, String::new());
        loop {
            self.check_open()?;
            let found: Option<VmExport> = self.cluster.find(&self.exports, &self.name()).await?;
            // It may have been removed because the session has ended.
            self.check_open()?;
            let Some(export) = found.filter(|export| export.metadata.deletion_timestamp.is_none()) else {
                self.make_anew(state).await?;
                continue;
            };
            let waiting = match judge(&export) {
                Readiness::Ready => {
                    self.warn_of_end(state, &export);
                    return Ok(export);
                }
                Readiness::Waiting(waiting) => waiting,
            };
            if state.begun {
                // A VM that was started makes its export wait for ever.
                self.check_source().await?;
            }
            if waiting.meaning != told {
                self.tell(Told::Waiting(format!("export {}: {}", export.metadata.name, waiting.meaning)));
                told.clone_from(&waiting.meaning);
            }
            let limit = if waiting.hopeless {
                let since = *hopeless_since.get_or_insert_with(tokio::time::Instant::now);
                HOPELESS.saturating_sub(since.elapsed())
            } else {
                hopeless_since = None;
                self.options.wait.saturating_sub(start.elapsed())
            };
            if limit.is_zero() {
                return Err(self.gave_up(&export, &waiting, start.elapsed()).await);
            }
            let version = &export.metadata.resource_version;
            let changed =
                self.cluster.changed(&self.exports, &export.metadata.name, version, limit.min(LOOK));
            self.pause_until(changed).await;
        }
    }

    /// The export is gone: its time was over, or somebody removed it.
    async fn make_anew(&self, state: &mut State) -> Result<()> {
        let gone = || {
            Error::new(
                ErrorKind::Cluster,
                format!(
                    "the export {}/{} is gone: deleted, or past its ttlDuration",
                    self.namespace(),
                    self.name()
                ),
            )
        };
        if !self.owned {
            return Err(gone()
                .with_hint("export the source itself: what it then makes is renewed when its time is over"));
        }
        if state.serial >= MOST_EXPORTS {
            return Err(
                gone().with_hint("something removes the exports of this run as soon as they are made")
            );
        }
        self.check_source().await?;
        self.check_open()?;
        self.tell(Told::Warning(format!("{}; making another one of the same source", gone())));
        self.make(state).await
    }

    fn warn_of_end(&self, state: &mut State, export: &VmExport) {
        let left = export.status.ttl_expiration_time.as_deref().and_then(time::until);
        if let Some(left) = left.filter(|left| *left < SOON)
            && !std::mem::replace(&mut state.warned_of_end, true)
        {
            let then =
                if self.owned { "; another one is made then" } else { ", and the transfer breaks then" };
            self.tell(Told::Warning(format!(
                "the export {} ends in {} min{then}",
                export.metadata.name,
                left.as_secs() / 60
            )));
        }
    }

    async fn gave_up(&self, export: &VmExport, waiting: &Waiting, waited: Duration) -> Error {
        let mut meaning = waiting.meaning.clone();
        if waiting.ask_pod
            && let Some(more) = self.pod_says(&export.metadata.name).await
        {
            meaning = format!("{meaning}: {more}");
        }
        let name = format!("{}/{}", self.namespace(), export.metadata.name);
        let (kind, text) = if waiting.hopeless {
            (ErrorKind::Cluster, format!("the export {name} cannot be ready: {meaning}"))
        } else {
            let seconds = waited.as_secs();
            (
                ErrorKind::TimedOut,
                format!("the export {name} was not ready within {seconds} s ({}): {meaning}", waiting.reason),
            )
        };
        Error::new(kind, text).with_hint(waiting.hint.clone())
    }

    /// What the exporter's pod and the last warnings say.
    async fn pod_says(&self, export: &str) -> Option<String> {
        let pod = format!("virt-export-{export}");
        let found: Option<serde_json::Value> = self.cluster.find(&Resource::pods(), &pod).await.ok()?;
        if let Some(found) = found {
            let conditions: Vec<Condition> =
                serde_json::from_value(found.pointer("/status/conditions").cloned().unwrap_or_default())
                    .unwrap_or_default();
            let unmet = conditions.into_iter().find(|c| c.kind == "PodScheduled" && c.status == "False");
            if let Some(unmet) = unmet {
                return Some(format!("pod {pod}: {} ({})", unmet.message, unmet.reason));
            }
            let waiting = found.pointer("/status/containerStatuses/0/state/waiting")?;
            let text =
                |field: &str| waiting.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
            return Some(format!("pod {pod}: {} {}", text("reason"), text("message")).trim().to_owned());
        }
        self.cluster.last_warning(export).await
    }
}

/// What a slow link moves in a second.
const SLOW: u64 = 10 << 20;

/// What an export is given beside the time for its bytes: waiting, retries, verification.
const LEAST_TTL: Duration = Duration::from_secs(4 * 3600);

/// A longer life would outlive the interest in it.
const MOST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// What does not end by itself may be a moment of the cluster's own making.
const HOPELESS: Duration = Duration::from_secs(15);

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(10);

/// When the end of an export is worth a warning.
const SOON: Duration = Duration::from_secs(900);

/// Exports that one session makes, one after the other.
const MOST_EXPORTS: u32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_lives_long_enough_for_a_slow_link() {
        let ttl = |bytes: u64, rate: Option<u64>| {
            let options = SessionOptions { expected_bytes: bytes, rate, ..SessionOptions::new("x") };
            options.time_to_live().as_secs() / 3600
        };
        assert_eq!(ttl(0, None), 4);
        assert_eq!(ttl(1 << 40, None), 4 + 29);
        assert_eq!(ttl(1 << 40, Some(1 << 30)), 4 + 29, "a high limit is no promise");
        assert_eq!(ttl(36 << 30, Some(1 << 20)), 4 + 10);
        assert_eq!(ttl(u64::MAX, Some(0)), 7 * 24);
        let given = SessionOptions { ttl: Some(Duration::from_secs(3600)), ..SessionOptions::new("x") };
        assert_eq!(given.time_to_live(), Duration::from_secs(3600));
    }
}
