//! VirtualMachines: whether they run, and their full description.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    Cluster, Resource, Told,
    client::{Call, decoded},
    resource::encoded,
    session::Teller,
    types::{Condition, Metadata, VirtualMachine, VmStatus},
};
use crate::error::{Error, ErrorKind, Result};

/// Whether a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// There is an instance that has not ended; `agent` tells whether the guest agent answers.
    Running {
        /// Whether the guest agent is connected.
        agent: bool,
    },
    /// There is none.
    Stopped,
}

/// A VirtualMachineInstance, as far as it matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Instance {
    metadata: Metadata,
    status: InstanceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct InstanceStatus {
    phase: String,
    conditions: Vec<Condition>,
}

impl Instance {
    fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl VirtualMachine {
    /// From the whole object.
    ///
    /// # Errors
    /// It is none.
    pub fn new(object: Value) -> Result<Self> {
        #[derive(Deserialize)]
        struct Parts {
            #[serde(default)]
            metadata: Metadata,
            #[serde(default)]
            status: VmStatus,
        }
        let parts: Parts = decoded("the VirtualMachine", object.clone())?;
        Ok(Self { metadata: parts.metadata, status: parts.status, object })
    }

    /// What says whether it is to run: the part of its specification that is changed to stop it.
    pub(crate) fn strategy(&self) -> Value {
        let spec = self.object.get("spec");
        match spec.and_then(|spec| spec.get("runStrategy")).filter(|strategy| !strategy.is_null()) {
            Some(strategy) => json!({ "runStrategy": strategy }),
            None => json!({"running": spec.and_then(|spec| spec.get("running")) == Some(&Value::Bool(true))}),
        }
    }

    /// Since when there has been no instance of it, as its Ready condition says: KubeVirt changes that
    /// time only with the condition's status or reason.
    ///
    /// A VM that stops is not Ready for another reason first, with a time that does not last.
    pub(super) fn stopped_since(&self) -> Option<String> {
        let is_down = |condition: &&Condition| {
            condition.kind == "Ready" && condition.status == "False" && condition.reason == NO_INSTANCE
        };
        self.status.conditions.iter().find(is_down)?.last_transition_time.clone()
    }

    /// Whether KubeVirt has not said anything yet about whether it runs.
    fn is_unjudged(&self) -> bool {
        !self.status.conditions.iter().any(|condition| condition.kind == "Ready")
    }

    /// Whether an instance that has ended may stay for as long as the VM is not started again.
    fn keeps_instances(&self) -> bool {
        let strategy = self.strategy();
        let strategy = strategy.get("runStrategy").and_then(Value::as_str);
        matches!(strategy, Some("Manual" | "Once" | "RerunOnFailure"))
    }

    /// The description without what the cluster keeps for itself.
    pub fn description(object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in
                ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"]
            {
                metadata.remove(field);
            }
        }
        object
    }
}

impl Cluster {
    /// A VM of the namespace; `None` if there is none of that name.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn find_vm(&self, name: &str) -> Result<Option<VirtualMachine>> {
        let object: Option<Value> = self.find(&Resource::vms(), name).await?;
        object.map(VirtualMachine::new).transpose()
    }

    /// A VM of the namespace.
    ///
    /// # Errors
    /// There is none, or as [`find_vm`](Self::find_vm).
    pub async fn vm(&self, name: &str) -> Result<VirtualMachine> {
        super::resource::check_name("VM", name)?;
        VirtualMachine::new(self.must_find(&Resource::vms(), name).await?)
    }

    /// The VirtualMachineInstance of a VM, as the cluster has it; `None` if there is none.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn instance(&self, vm: &str) -> Result<Option<Value>> {
        self.find(&Resource::vmis(), vm).await
    }

    /// Whether a VM runs. An instance that has ended does not, to KubeVirt since 1.5.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn power(&self, name: &str) -> Result<Power> {
        let instance: Option<Instance> = self.find(&Resource::vmis(), name).await?;
        Ok(match instance {
            None => Power::Stopped,
            Some(instance) if instance.has_ended() => Power::Stopped,
            Some(instance) => {
                tracing::debug!(vmi = %instance.metadata.name, phase = %instance.status.phase, "the VM runs");
                let connected = |c: &Condition| c.kind == "AgentConnected" && c.status == "True";
                Power::Running { agent: instance.status.conditions.iter().any(connected) }
            }
        })
    }

    /// The VM, and since when it has been stopped, once its status has come to rest: that can take
    /// longer than its instance takes to end. Waits no longer than `wait`, and less where no more is to
    /// be expected: a cluster that never says since when is not a reason to fail.
    ///
    /// For a VM whose instance stays when it has ended, that instance stands for the time.
    pub(super) async fn settled(
        &self,
        name: &str,
        wait: Duration,
    ) -> Result<(VirtualMachine, Option<String>)> {
        let start = Instant::now();
        loop {
            let vm = self.vm(name).await?;
            if let Some(since) = vm.stopped_since() {
                return Ok((vm, Some(since)));
            }
            let instance: Option<Instance> = self.find(&Resource::vmis(), name).await?;
            let limit = match &instance {
                Some(instance) if vm.keeps_instances() && instance.has_ended() => {
                    let since = format!("the end of instance {}", instance.metadata.uid);
                    return Ok((vm, Some(since)));
                }
                // It runs; what is asked for does not depend on a time.
                Some(instance) if !instance.has_ended() => return Ok((vm, None)),
                Some(_) => wait,
                None if vm.is_unjudged() => wait.min(UNJUDGED),
                None => wait.min(SETTLE),
            };
            if start.elapsed() >= limit {
                tracing::debug!(vm = name, "the cluster does not say since when the VM has been stopped");
                return Ok((vm, None));
            }
            sleep(STOP_POLL).await;
        }
    }

    /// Stops a VM by its run strategy and waits until it has stopped. [`VirtualMachine::strategy`] is what
    /// [`put_back`](Self::put_back) needs afterwards.
    pub(crate) async fn stop(&self, vm: &VirtualMachine, wait: Duration, teller: &Teller) -> Result<()> {
        let name = &vm.metadata.name;
        let halted = match vm.strategy().get("running") {
            Some(_) => json!({"running": false}),
            None => json!({"runStrategy": "Halted"}),
        };
        self.patch(&Resource::vms(), name, &json!({ "spec": halted })).await?;
        let start = Instant::now();
        teller(Told::Waiting(format!("VM {}/{name} is being stopped", self.namespace())));
        while self.power(name).await? != Power::Stopped {
            if start.elapsed() >= wait {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("VM {}/{name} did not stop within {} s", self.namespace(), wait.as_secs()),
                )
                .with_hint(
                    "the guest may not react to ACPI: shut it down from inside, or wait longer with --wait",
                ));
            }
            sleep(STOP_POLL).await;
        }
        // What is compared later is what is there when this is over.
        self.settled(name, wait.saturating_sub(start.elapsed())).await?;
        Ok(())
    }

    /// Puts the run strategy of a VM back as it was. A VM that is started by hand is started.
    pub(crate) async fn put_back(&self, name: &str, strategy: &Value) -> Result<()> {
        self.patch(&Resource::vms(), name, &json!({ "spec": strategy })).await?;
        if strategy.get("runStrategy").and_then(Value::as_str) != Some("Manual") {
            return Ok(());
        }
        let what = format!("VirtualMachine {}/{name}", self.namespace());
        let call = Call {
            verb: "update",
            resource: "virtualmachines.subresources.kubevirt.io/start",
            what: &what,
            namespace: Some(self.namespace()),
        };
        let path = format!("{}/virtualmachines/{}/start", self.subresources(), encoded(name));
        self.send(&call, Method::PUT, &path, None).await?;
        Ok(())
    }

    /// A VM with its instancetype and preference written out.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn expanded_vm(&self, name: &str) -> Result<Value> {
        let what = format!("VirtualMachine {}/{name}, expanded", self.namespace());
        let call = Call {
            verb: "get",
            resource: "virtualmachines.subresources.kubevirt.io/expand-spec",
            what: &what,
            namespace: Some(self.namespace()),
        };
        let path = format!("{}/virtualmachines/{}/expand-spec", self.subresources(), encoded(name));
        Ok(self.get(&call, &path).await?)
    }

    /// The same for a VM that need not exist any more.
    ///
    /// # Errors
    /// As there, or the cluster finds it invalid.
    pub async fn expanded(&self, vm: &Value) -> Result<Value> {
        let call = Call {
            verb: "update",
            resource: "expand-vm-spec.subresources.kubevirt.io",
            what: "the snapshotted VirtualMachine, expanded",
            namespace: Some(self.namespace()),
        };
        let mut vm = vm.clone();
        if let Some(fields) = vm.as_object_mut() {
            fields.entry("apiVersion").or_insert_with(|| json!("kubevirt.io/v1"));
            fields.entry("kind").or_insert_with(|| json!("VirtualMachine"));
        }
        let path = format!("{}/expand-vm-spec", self.subresources());
        Ok(self.send(&call, Method::PUT, &path, Some(&vm)).await?)
    }

    pub(super) fn subresources(&self) -> String {
        format!("/apis/subresources.kubevirt.io/v1/namespaces/{}", encoded(self.namespace()))
    }
}

/// Guests take seconds to minutes to stop.
const STOP_POLL: Duration = Duration::from_millis(500);

/// Reason of the Ready condition of a VM without an instance.
const NO_INSTANCE: &str = "VMINotExists";

/// How long a VM without a Ready condition is given to get one.
const UNJUDGED: Duration = Duration::from_secs(5);

/// How long the status of a VM may lag behind its instance.
const SETTLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(conditions: &Value, strategy: &str) -> VirtualMachine {
        VirtualMachine::new(json!({
            "metadata": {"name": "db"},
            "spec": {"runStrategy": strategy},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn ready(status: &str, reason: &str) -> Value {
        json!([{"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    }

    #[test]
    fn only_the_time_of_a_vm_without_an_instance_lasts() {
        let since = |conditions: &Value| vm(conditions, "Halted").stopped_since();
        assert_eq!(since(&ready("False", "VMINotExists")).as_deref(), Some("2026-01-01T00:00:00Z"));
        for passing in [
            ready("False", "PodTerminating"),
            ready("False", "GuestNotRunning"),
            ready("False", ""),
            ready("True", ""),
            json!([]),
        ] {
            assert_eq!(since(&passing), None, "{passing}");
        }
        assert!(vm(&json!([]), "Halted").is_unjudged());
        assert!(!vm(&ready("True", ""), "Halted").is_unjudged());
    }

    #[test]
    fn instances_stay_where_nothing_starts_or_halts_the_vm() {
        for (strategy, stays) in
            [("Manual", true), ("RerunOnFailure", true), ("Halted", false), ("Always", false)]
        {
            assert_eq!(vm(&json!([]), strategy).keeps_instances(), stays, "{strategy}");
        }
    }
}
