//! What a VM uses, without Prometheus: the metrics API for CPU and memory, the instance for the rest, and
//! the guest agent for what only the guest knows.

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Instance, Vms,
    info::{Shape, printable},
    listing::chain,
};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Told,
        client::{Call, decoded},
        parse_quantity,
        resource::encoded,
        time,
    },
};

/// What a VM uses. What nobody tells is `null`, never zero.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VmMetrics {
    /// The VM, `namespace/name`.
    pub vm: String,
    /// When this was read, in RFC 3339.
    pub timestamp: String,
    /// Its status in lower case.
    pub state: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// CPU.
    pub cpu: CpuMetrics,
    /// Memory.
    pub memory: MemoryMetrics,
    /// Its disks, as the instance sees them.
    pub disks: Vec<DiskMetrics>,
    /// File systems of the guest; empty without its agent.
    pub filesystems: Vec<FilesystemMetrics>,
    /// Its network interfaces. Counters are in Prometheus alone.
    pub networks: Vec<NicMetrics>,
    /// The guest; `None` without its agent.
    pub guest: Option<GuestMetrics>,
}

/// CPU of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuMetrics {
    /// Virtual CPUs.
    pub cpus: Option<u64>,
    /// Use in thousandths of a CPU, the overhead of its pod included.
    pub usage_millis: Option<u64>,
}

/// Memory of a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryMetrics {
    /// What the guest has, in bytes.
    pub guest_bytes: Option<u64>,
    /// Use in bytes, the overhead of its pod included.
    pub usage_bytes: Option<u64>,
}

/// A disk of a VM that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskMetrics {
    /// What the VM calls it.
    pub name: String,
    /// What the guest calls it.
    pub target: String,
    /// Its size in bytes.
    pub size_bytes: Option<u64>,
    /// How far it is attached, where it was attached later.
    pub phase: String,
}

/// A file system of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilesystemMetrics {
    /// The guest's name for its device.
    pub disk: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// `ext4`, `ntfs`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes used.
    pub used_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// A network interface of a VM that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicMetrics {
    /// What the VM calls it.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Addresses, each once.
    pub ips: Vec<String>,
    /// `up`, `down`, or nothing.
    pub link_state: String,
}

/// What the guest agent tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestMetrics {
    /// Host name.
    pub hostname: String,
    /// Operating system.
    pub os: String,
    /// Kernel.
    pub kernel: String,
    /// Time zone.
    pub timezone: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Users that are logged in.
    pub users: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GuestInfo {
    guest_agent_version: String,
    hostname: String,
    os: GuestInfoOs,
    timezone: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GuestInfoOs {
    pretty_name: String,
    name: String,
    kernel_release: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GuestFilesystem {
    disk_name: String,
    mount_point: String,
    file_system_type: String,
    used_bytes: u64,
    total_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GuestUser {
    user_name: String,
}

impl Vms {
    /// What a VM uses now. What the cluster does not tell (no metrics server, no right, no agent) is left
    /// open, and the reason told as a warning.
    ///
    /// # Errors
    /// There is no such VM; the cluster refuses to show it, or cannot be reached.
    pub async fn metrics(&self, name: &str) -> Result<VmMetrics> {
        let vm = self.find(name).await?;
        let instance = self.instance(name).await?.filter(|instance| !instance.is_over());
        let shapes = super::listing::Shapes::new(self.cluster(), self.teller());
        let expanded = shapes.expanded(&vm).await?;
        let shape = Shape::of(expanded.as_ref().unwrap_or(&vm.object));
        let mut metrics = VmMetrics {
            vm: self.called(name),
            timestamp: time::now(),
            state: printable(&vm.object).to_ascii_lowercase(),
            node: None,
            cpu: CpuMetrics { cpus: shape.cpus, usage_millis: None },
            memory: MemoryMetrics {
                guest_bytes: shape.memory_mib.and_then(|mib| mib.checked_mul(1 << 20)),
                usage_bytes: None,
            },
            disks: Vec::new(),
            filesystems: Vec::new(),
            networks: Vec::new(),
            guest: None,
        };
        let Some(instance) = instance else { return Ok(metrics) };
        metrics.node.clone_from(&instance.status.node_name);
        metrics.disks = instance
            .status
            .volume_status
            .iter()
            .map(|volume| DiskMetrics {
                name: volume.name.clone(),
                target: volume.target.clone(),
                size_bytes: volume.size_bytes(),
                phase: volume.phase.clone(),
            })
            .collect();
        metrics.networks = instance
            .status
            .interfaces
            .iter()
            .map(|nic| NicMetrics {
                name: nic.name.clone(),
                mac: nic.mac.clone(),
                ips: nic.addresses(),
                link_state: nic.link_state.clone(),
            })
            .collect();
        if let Some((cpu, memory)) = self.told(self.usage(&instance).await)? {
            (metrics.cpu.usage_millis, metrics.memory.usage_bytes) = (cpu, memory);
        }
        if instance.is("AgentConnected") {
            self.ask_guest(name, &mut metrics).await?;
        }
        Ok(metrics)
    }

    async fn ask_guest(&self, name: &str, metrics: &mut VmMetrics) -> Result<()> {
        if let Some(found) = self.told(self.guest::<GuestInfo>(name, "guestosinfo").await)? {
            let os = if found.os.pretty_name.is_empty() { found.os.name } else { found.os.pretty_name };
            metrics.guest = Some(GuestMetrics {
                hostname: found.hostname,
                os,
                kernel: found.os.kernel_release,
                timezone: found.timezone,
                agent_version: found.guest_agent_version,
                users: Vec::new(),
            });
        }
        if let Some(found) = self.told(self.guest::<Items<GuestFilesystem>>(name, "filesystemlist").await)? {
            metrics.filesystems = found
                .items
                .into_iter()
                .map(|item| FilesystemMetrics {
                    disk: item.disk_name,
                    mount_point: item.mount_point,
                    kind: item.file_system_type,
                    used_bytes: item.used_bytes,
                    total_bytes: item.total_bytes,
                })
                .collect();
        }
        if let Some(found) = self.told(self.guest::<Items<GuestUser>>(name, "userlist").await)?
            && let Some(guest) = &mut metrics.guest
        {
            guest.users = found.items.into_iter().map(|user| user.user_name).collect();
        }
        Ok(())
    }

    /// CPU in thousandths and memory in bytes, of the pod that the guest runs in.
    async fn usage(&self, instance: &Instance) -> Result<(Option<u64>, Option<u64>)> {
        let namespace = self.cluster.namespace();
        let call = Call {
            verb: "list",
            resource: "pods.metrics.k8s.io",
            what: "the metrics of its pod",
            namespace: Some(namespace),
        };
        let selector = format!("kubevirt.io=virt-launcher,kubevirt.io/created-by={}", instance.metadata.uid);
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods?labelSelector={}",
            encoded(namespace),
            encoded(&selector)
        );
        let answer = self.cluster.get(&call, &path).await.map_err(|error| match error {
            crate::kubevirt::explain::CallError::NotFound(error) => Error::new(
                ErrorKind::Cluster,
                "the cluster has no metrics server, so use of CPU and memory is not known",
            )
            .with_source(error),
            error => error.into(),
        })?;
        let pods: Items<Value> = decoded("the metrics of a pod", answer)?;
        let containers =
            |pod: &Value| pod.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
        // During a migration there are two pods; the one with more to do is the one that runs the guest.
        let found = pods
            .items
            .iter()
            .flat_map(containers)
            .filter(|container| container.get("name").and_then(Value::as_str) == Some("compute"))
            .map(|container| {
                let of = |what: &str| {
                    container.pointer(&format!("/usage/{what}")).and_then(Value::as_str).map(str::to_owned)
                };
                (of("cpu").as_deref().and_then(cpu_millis), of("memory").as_deref().and_then(parse_quantity))
            })
            .max();
        Ok(found.unwrap_or_default())
    }

    async fn guest<T: serde::de::DeserializeOwned>(&self, name: &str, what: &str) -> Result<T> {
        let resource = format!("virtualmachineinstances.subresources.kubevirt.io/{what}");
        let asked = format!("virtualmachineinstances/{what} of {}", self.called(name));
        let call = Call {
            verb: "get",
            resource: &resource,
            what: &asked,
            namespace: Some(self.cluster.namespace()),
        };
        let path =
            format!("{}/virtualmachineinstances/{}/{what}", self.cluster.subresources(), encoded(name));
        // Not asked again: every failure of the guest is a 500.
        let answer = self.cluster.send(&call, Method::GET, &path, None).await?;
        decoded(&asked, answer)
    }

    /// What is not known is told, and left open; a cluster that cannot be reached is an error.
    fn told<T>(&self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Network && !is_answered(&error) => Err(error),
            Err(error) => {
                (self.teller)(Told::Warning(chain(&error)));
                Ok(None)
            }
        }
    }
}

/// Whether the cluster was reached: what it said is behind the error then, not what the client met.
fn is_answered(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| !source.is::<kube::Error>())
}

/// A quantity of CPUs in thousandths, rounded up: metrics come in billionths.
fn cpu_millis(text: &str) -> Option<u64> {
    let (number, per_milli) = match text.trim() {
        text if text.ends_with('n') => (text.strip_suffix('n')?, 1_000_000),
        text if text.ends_with('u') => (text.strip_suffix('u')?, 1000),
        text if text.ends_with('m') => (text.strip_suffix('m')?, 1),
        text => return parse_quantity(text)?.checked_mul(1000),
    };
    Some(number.parse::<u64>().ok()?.div_ceil(per_milli))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_come_in_every_unit() {
        for (text, millis) in [
            ("1500000000n", Some(1500)),
            ("1n", Some(1)),
            ("250000u", Some(250)),
            ("250m", Some(250)),
            ("2", Some(2000)),
            ("0", Some(0)),
            ("n", None),
            ("much", None),
        ] {
            assert_eq!(cpu_millis(text), millis, "{text}");
        }
    }
}
