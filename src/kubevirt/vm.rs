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

    /// Since when it has not been running, as its Ready condition says: KubeVirt changes that time only
    /// with the condition.
    pub(super) fn stopped_since(&self) -> Option<String> {
        let is_down = |condition: &&Condition| condition.kind == "Ready" && condition.status == "False";
        self.status.conditions.iter().find(is_down)?.last_transition_time.clone()
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

    /// Whether a VM runs. An instance that has ended does not, to KubeVirt since 1.5.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn power(&self, name: &str) -> Result<Power> {
        let instance: Option<Instance> = self.find(&Resource::vmis(), name).await?;
        Ok(match instance {
            None => Power::Stopped,
            Some(instance) if matches!(instance.status.phase.as_str(), "Succeeded" | "Failed") => {
                Power::Stopped
            }
            Some(instance) => {
                tracing::debug!(vmi = %instance.metadata.name, phase = %instance.status.phase, "the VM runs");
                let connected = |c: &Condition| c.kind == "AgentConnected" && c.status == "True";
                Power::Running { agent: instance.status.conditions.iter().any(connected) }
            }
        })
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
            resource: "virtualmachines/start.subresources.kubevirt.io",
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
            resource: "virtualmachines/expand-spec.subresources.kubevirt.io",
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
