//! A VM put back to what a snapshot holds, or another one made of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Snapshots;
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Acting, Resource, Told, Vms, explain::told, made::Work, names::run_id, resource::check_name,
        session::Teller, types::VmSnapshot,
    },
};

/// What happens while the VM that is restored still runs (KubeVirt 1.5 and newer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadinessPolicy {
    /// The restore fails.
    FailImmediate,
    /// The cluster stops it.
    StopTarget,
    /// The restore waits, without end.
    WaitEventually,
    /// The restore waits for five minutes.
    WaitGracePeriod,
}

impl ReadinessPolicy {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 4] = [
        ("fail", Self::FailImmediate),
        ("stop", Self::StopTarget),
        ("wait", Self::WaitEventually),
        ("wait-briefly", Self::WaitGracePeriod),
    ];

    const fn api(self) -> &'static str {
        match self {
            Self::FailImmediate => "FailImmediate",
            Self::StopTarget => "StopTarget",
            Self::WaitEventually => "WaitEventually",
            Self::WaitGracePeriod => "WaitGracePeriod",
        }
    }
}

/// What the restored volumes are called (KubeVirt 1.6 and newer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreVolumePolicy {
    /// As those they replace, which are deleted.
    InPlace,
    /// After the VM (1.8 and newer).
    PrefixTargetName,
    /// Something new.
    RandomizeNames,
}

impl RestoreVolumePolicy {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 3] =
        [("in-place", Self::InPlace), ("prefix", Self::PrefixTargetName), ("random", Self::RandomizeNames)];

    const fn api(self) -> &'static str {
        match self {
            Self::InPlace => "InPlace",
            Self::PrefixTargetName => "PrefixTargetName",
            Self::RandomizeNames => "RandomizeNames",
        }
    }
}

/// Whom the restored volumes belong to (KubeVirt 1.7 and newer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnershipPolicy {
    /// Nobody: they stay when the VM is deleted.
    None,
    /// The VM.
    Vm,
}

impl OwnershipPolicy {
    /// All of them, with the names they have on the command line.
    pub const ALL: [(&'static str, Self); 2] = [("none", Self::None), ("vm", Self::Vm)];

    const fn api(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Vm => "Vm",
        }
    }
}

/// What is restored, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The snapshot.
    pub snapshot: String,
    /// The VM; `None` = the one that the snapshot is of. Another one must be new.
    pub target: Option<String>,
    /// Stops the VM first if it runs; it stays stopped.
    pub stop: bool,
    /// What happens while it runs; `None` = that is refused here, before anything is made.
    pub readiness: Option<ReadinessPolicy>,
    /// What the volumes are called; `None` = as the cluster does.
    pub volumes: Option<RestoreVolumePolicy>,
    /// Whom they belong to; `None` = as the cluster does.
    pub ownership: Option<OwnershipPolicy>,
    /// Leaves the MAC addresses out that the snapshotted VM had: the guest gets new ones.
    pub new_macs: bool,
}

impl RestoreRequest {
    /// The VM of a snapshot put back to it.
    pub fn of(snapshot: impl Into<String>) -> Self {
        Self {
            snapshot: snapshot.into(),
            target: None,
            stop: false,
            readiness: None,
            volumes: None,
            ownership: None,
            new_macs: false,
        }
    }
}

/// What became of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Name of the VirtualMachineRestore.
    pub restore: String,
    /// The VM, `namespace/name`.
    pub vm: String,
    /// Its status afterwards, as [`VmInfo::state`](crate::kubevirt::VmInfo::state); `None` if nobody looked.
    pub state: Option<String>,
    /// Whether it is complete; not so if it was not waited for, or not carried out.
    pub complete: bool,
}

impl Snapshots {
    /// Puts a VM back to a snapshot, or makes another one of it.
    ///
    /// # Errors
    /// There is no such snapshot, or it is not ready; the VM runs; the target is another VM that exists; the
    /// cluster refuses, cannot be reached, fails, or is not done in time.
    pub async fn restore(&self, request: &RestoreRequest, acting: &Acting) -> Result<Restored> {
        let start = Instant::now();
        let (resource, snapshot) = self.find(&request.snapshot).await?;
        self.wait_usable(&snapshot, acting).await?;
        let target = request.target.clone().unwrap_or_else(|| snapshot.spec.source.name.clone());
        check_name("VM", &target)?;
        let vm = format!("{}/{target}", self.cluster.namespace());
        let patches = self.patches(request, &resource, &snapshot, &target).await?;
        let was_stopped = self.check_target(request, &snapshot, &target, acting).await?;
        let restores = Resource::restores(&resource.version);
        self.begin(request, &restores, &target, patches, acting, start).await.map_err(|error| {
            if was_stopped {
                error.with_further_hint(format!(
                    "VM {vm} was stopped for it, and stays so: 'vmferry vm start {vm}' starts it"
                ))
            } else {
                error
            }
        })
    }

    /// Makes a restore, and waits for it.
    async fn begin(
        &self,
        request: &RestoreRequest,
        restores: &Resource,
        target: &str,
        patches: Vec<String>,
        acting: &Acting,
        start: Instant,
    ) -> Result<Restored> {
        let vm = format!("{}/{target}", self.cluster.namespace());
        let base: String = request.snapshot.chars().take(MOST_OF_SNAPSHOT).collect();
        let name = format!("{}-restore-{}", base.trim_end_matches(['-', '.']), run_id()?);
        let mut spec = json!({
            "target": {"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": target},
            "virtualMachineSnapshotName": request.snapshot,
        });
        let policies = [
            ("targetReadinessPolicy", request.readiness.map(ReadinessPolicy::api)),
            ("volumeRestorePolicy", request.volumes.map(RestoreVolumePolicy::api)),
            ("volumeOwnershipPolicy", request.ownership.map(OwnershipPolicy::api)),
        ];
        for (field, policy) in policies {
            if let Some(policy) = policy {
                spec[field] = policy.into();
            }
        }
        if !patches.is_empty() {
            spec["patches"] = patches.into();
        }
        let object = json!({
            "apiVersion": restores.api_version(),
            "kind": restores.kind,
            "metadata": {"name": name, "namespace": self.cluster.namespace()},
            "spec": spec,
        });
        self.cluster.make(restores, &object, acting.dry_run).await.map_err(stands_in_the_way)?;
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else {
            return Ok(Restored { restore: name, vm, state: None, complete: false });
        };
        self.until_restored(restores, &name, &vm, wait, start).await?;
        let state = self.cluster.until(start + wait).state_of(target).await?;
        Ok(Restored { restore: name, vm, state, complete: true })
    }

    /// A snapshot that is not ready is waited for, if that is wanted at all.
    async fn wait_usable(&self, snapshot: &VmSnapshot, acting: &Acting) -> Result<()> {
        if snapshot.status.ready_to_use {
            return Ok(());
        }
        match acting.wait.filter(|_| !acting.dry_run) {
            Some(wait) => {
                self.cluster.usable_snapshot(&snapshot.metadata.name, wait, &self.teller).await.map(|_| ())
            }
            None => Err(Error::new(
                ErrorKind::Cluster,
                format!("snapshot {}/{} is not ready", self.cluster.namespace(), snapshot.metadata.name),
            )
            .with_hint("'vmferry snapshot get' tells why; without --no-wait it is waited for")),
        }
    }

    /// The target must be the VM of the snapshot, and not run, or be no VM yet. Whether it was stopped.
    async fn check_target(
        &self,
        request: &RestoreRequest,
        snapshot: &VmSnapshot,
        target: &str,
        acting: &Acting,
    ) -> Result<bool> {
        let Some(vm) = self.cluster.find_vm(target).await? else { return Ok(false) };
        let called = format!("{}/{target}", self.cluster.namespace());
        let source = &snapshot.status.source_uid;
        if source.as_ref().is_some_and(|uid| *uid != vm.metadata.uid) || target != snapshot.spec.source.name {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("VM {called} exists, and is not the one that snapshot {} is of", request.snapshot),
            )
            .with_hint("name a VM that does not exist yet: --to"));
        }
        let runs = self.cluster.power(target).await? != crate::kubevirt::Power::Stopped;
        if !runs || request.readiness.is_some() {
            return Ok(false);
        }
        if !request.stop {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("VM {called} runs: it must be stopped before it is restored"),
            )
            .with_hint("--stop stops it first; --to makes another VM of the snapshot"));
        }
        if acting.dry_run {
            return Ok(false);
        }
        let wait = acting.wait.or(Some(STOP_WAIT));
        let teller = Teller::clone(&self.teller);
        let vms = Vms::new(self.cluster.clone()).on_event(move |told| teller(told));
        vms.stop(target, None, &Acting { wait, dry_run: false }).await.map(|_| true)
    }

    /// Patches that take the MAC addresses out of the description, where that is wanted.
    async fn patches(
        &self,
        request: &RestoreRequest,
        resource: &Resource,
        snapshot: &VmSnapshot,
        target: &str,
    ) -> Result<Vec<String>> {
        if target == snapshot.spec.source.name && !request.new_macs {
            return Ok(Vec::new());
        }
        let content = match &snapshot.status.virtual_machine_snapshot_content_name {
            Some(content) => {
                self.cluster.find::<Value>(&Resource::snapshot_contents(&resource.version), content).await?
            }
            None => None,
        };
        let interfaces = content
            .as_ref()
            .and_then(|content| {
                content.pointer("/spec/source/virtualMachine/spec/template/spec/domain/devices/interfaces")
            })
            .and_then(Value::as_array);
        let has_mac = |interface: &Value| interface.get("macAddress").and_then(Value::as_str).is_some();
        let places: Vec<usize> = interfaces
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, interface)| has_mac(interface))
            .map(|(place, _)| place)
            .collect();
        if !request.new_macs {
            if !places.is_empty() {
                (self.teller)(Told::Warning(format!(
                    "VM {target} gets the MAC addresses of VM {}: do not run both in one network, or say --new-mac",
                    snapshot.spec.source.name
                )));
            }
            return Ok(Vec::new());
        }
        // The webhook splits at colons: no more of them than a patch needs.
        let patch = |place: usize| {
            format!(
                r#"{{"op": "remove", "path": "/spec/template/spec/domain/devices/interfaces/{place}/macAddress"}}"#
            )
        };
        Ok(places.into_iter().map(patch).collect())
    }

    async fn until_restored(
        &self,
        restores: &Resource,
        name: &str,
        vm: &str,
        wait: Duration,
        start: Instant,
    ) -> Result<()> {
        let (mut told, cluster) = (String::new(), self.cluster.until(start + wait));
        loop {
            let found: Work = cluster.must_find(restores, name).await?;
            if found.status.complete {
                return Ok(());
            }
            if let Some(failure) = found.status.failure() {
                return Err(Error::new(ErrorKind::Cluster, format!("VM {vm} was not restored: {failure}"))
                    .with_hint(format!(
                        "'kubectl describe vmrestore {name} -n {0}' tells more; 'kubectl delete vmrestore {name} -n {0}' \
                         gives it up",
                        self.cluster.namespace()
                    )));
            }
            let state = found.status.state();
            if state != told {
                (self.teller)(Told::Waiting(format!("restore {name}: {state}")));
                told = state;
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("VM {vm} was not restored within {} s: {told}", wait.as_secs_f64()),
                )
                .with_hint(format!(
                    "the cluster goes on with it: 'kubectl get vmrestore {name} -n {0}'; 'kubectl delete vmrestore \
                     {name} -n {0}' gives it up",
                    self.cluster.namespace()
                )));
            }
            self.cluster.changed(restores, name, &found.metadata.resource_version, left.min(LOOK)).await;
        }
    }
}

/// A restore that is not complete lets no other of the same VM be made, even if it failed for good.
fn stands_in_the_way(error: Error) -> Error {
    let text = told(&error);
    if !(text.contains("VirtualMachineRestore \"") && text.contains("in progress")) {
        return error;
    }
    error.with_further_hint(
        "wait for it; if it failed, it stands in the way until 'kubectl delete vmrestore' gives it up",
    )
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(5);

/// How long a VM may take to stop where nothing else is waited for.
const STOP_WAIT: Duration = Duration::from_secs(300);

/// So that the whole is a name.
const MOST_OF_SNAPSHOT: usize = 200;
