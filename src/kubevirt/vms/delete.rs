//! Deleting a VM, with or without its volumes.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{Acted, Acting, Vms, info::text};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Resource,
        explain::CallError,
        resource::encoded,
        types::{Claim, Object, VirtualMachine},
    },
};

/// A VM that is to be deleted, and what goes with it: what somebody is asked before it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// The VM, `namespace/name`.
    pub vm: String,
    /// Whether its guest runs; it is cut off.
    pub running: bool,
    /// Volumes that are deleted with it, by the names of their claims.
    pub volumes: Vec<String>,
    /// Claims that it uses and that stay.
    pub kept: Vec<String>,
    name: String,
    uid: String,
    keep_volumes: bool,
}

impl Vms {
    /// Looks at what the deletion of a VM would delete. Volumes that its templates made go with it, and claims that
    /// belong to it, as those that were restored into it do, unless they are to be kept; others stay in any case.
    ///
    /// # Errors
    /// There is no such VM, or its claims cannot be looked at; volumes are to be kept while it runs: the cluster can
    /// only let go of everything that belongs to a VM, and its guest must not be part of that.
    pub async fn doomed(&self, name: &str, keep_volumes: bool) -> Result<Doomed> {
        let vm = self.find(name).await?;
        let running = self.instance(name).await?.is_some_and(|instance| !instance.is_over());
        if keep_volumes && running {
            return Err(self.keeps_running(name));
        }
        let templates = vm.object.pointer("/spec/dataVolumeTemplates").and_then(Value::as_array);
        let made: Vec<String> = templates
            .into_iter()
            .flatten()
            .filter_map(|template| text(template, "/metadata/name").map(str::to_owned))
            .collect();
        let used =
            crate::kubevirt::VolumePlan::of_vm(&vm.object).volumes.into_iter().map(|volume| volume.claim);
        let (mut volumes, mut kept) = (Vec::new(), Vec::new());
        if keep_volumes {
            kept.extend(used.chain(made));
        } else {
            volumes = made;
            for claim in used {
                if volumes.contains(&claim) {
                    continue;
                }
                let of = if self.owns(&vm, &claim).await? { &mut volumes } else { &mut kept };
                of.push(claim);
            }
        }
        kept.sort();
        kept.dedup();
        Ok(Doomed {
            vm: self.called(name),
            running,
            volumes,
            kept,
            name: name.to_owned(),
            uid: vm.metadata.uid,
            keep_volumes,
        })
    }

    /// Deletes what was looked at, and nothing that has come under its name since.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached; the VM was started meanwhile and its volumes are to be
    /// kept; it is not gone in time.
    pub async fn delete(&self, doomed: &Doomed, acting: &Acting) -> Result<Acted> {
        let (start, mut is_repeated) = (Instant::now(), false);
        loop {
            // An earlier request has arrived, though its answer did not.
            if is_repeated && self.is_gone(doomed).await? {
                break;
            }
            let version = if doomed.keep_volumes { Some(self.still_stopped(doomed).await?) } else { None };
            match self.ask_to_delete(doomed, version.as_deref(), acting.dry_run).await {
                Ok(()) => break,
                Err(CallError::NotFound(_)) if is_repeated => break,
                Err(CallError::NotFound(_)) => return Err(self.missing(&doomed.name).await),
                // Its status changed between the look and the deletion: look again.
                Err(CallError::Refused(_)) if version.is_some() && start.elapsed() < LOOK_AGAIN => {
                    sleep(POLL).await;
                }
                Err(CallError::Transient(_)) if start.elapsed() + POLL < self.cluster.retry_for() => {
                    is_repeated = true;
                    sleep(POLL).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let vm = doomed.vm.clone();
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else {
            return Ok(Acted { vm, state: None, complete: false });
        };
        self.until_gone(doomed, wait).await?;
        Ok(Acted { vm, state: None, complete: true })
    }

    /// Whether a claim belongs to a VM, so that the cluster deletes it when the VM is gone.
    async fn owns(&self, vm: &VirtualMachine, claim: &str) -> Result<bool> {
        let found: Option<Claim> = self.cluster.find(&Resource::claims(), claim).await?;
        let owners = found.map(|claim| claim.metadata.owner_references).unwrap_or_default();
        Ok(owners.iter().any(|owner| owner.uid == vm.metadata.uid))
    }

    /// Whether the VM that was looked at is there no more.
    async fn is_gone(&self, doomed: &Doomed) -> Result<bool> {
        let found: Option<Object> = self.cluster.find(&Resource::vms(), &doomed.name).await?;
        Ok(found.is_none_or(|found| found.metadata.uid != doomed.uid))
    }

    /// The version of a VM that has no guest.
    async fn still_stopped(&self, doomed: &Doomed) -> Result<String> {
        let vm: VirtualMachine = self.find(&doomed.name).await?;
        match self.instance(&doomed.name).await? {
            Some(instance) if !instance.is_over() => Err(self.keeps_running(&doomed.name)),
            _ => Ok(vm.metadata.resource_version),
        }
    }

    fn keeps_running(&self, name: &str) -> Error {
        Error::refused(format!("VM {} runs, and its volumes are to be kept", self.called(name)))
            .with_hint(format!("stop it first: 'vmferry vm stop {name} -n {}'", self.cluster.namespace()))
    }

    async fn ask_to_delete(
        &self,
        doomed: &Doomed,
        version: Option<&str>,
        dry_run: bool,
    ) -> Result<(), CallError> {
        let vms = Resource::vms();
        let what = format!("VM {}", doomed.vm);
        let call = self.cluster.call("delete", &vms, &what);
        let path = format!("{}/{}", vms.path(Some(self.cluster.namespace())), encoded(&doomed.name));
        let mut options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": doomed.uid},
            "propagationPolicy": if doomed.keep_volumes { "Orphan" } else { "Background" },
        });
        if let Some(version) = version {
            options["preconditions"]["resourceVersion"] = version.into();
        }
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        self.cluster.send(&call, Method::DELETE, &path, Some(&options)).await.map(|_| ())
    }

    async fn until_gone(&self, doomed: &Doomed, wait: Duration) -> Result<()> {
        let (deadline, mut news) = (Instant::now() + wait, None);
        let cluster = self.cluster.until(deadline);
        loop {
            let found: Option<Object> = cluster.find(&Resource::vms(), &doomed.name).await?;
            let Some(Object { metadata }) = found.filter(|found| found.metadata.uid == doomed.uid) else {
                return Ok(());
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("VM {} is not gone after {} s", doomed.vm, wait.as_secs_f64()),
                )
                .with_hint(
                    "the cluster goes on with it: its guest may be shutting down, or a finalizer may hold it: \
                     'kubectl get vm -o yaml' shows them",
                ));
            }
            self.tell(&mut news, &format!("VM {} is being deleted", doomed.vm));
            self.cluster
                .changed(&Resource::vms(), &doomed.name, &metadata.resource_version, left.min(POLL))
                .await;
        }
    }
}

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);

/// How long a VM may change under the look.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
