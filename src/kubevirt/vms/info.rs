//! A VM as people and programs want to read it: the description, the instance and the claims in one.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use serde_json::Value;

use super::instance::Instance;
use crate::kubevirt::{
    VolumePlan, parse_quantity,
    types::{Claim, Condition, Metadata},
};

/// A VM.
///
/// In JSON it has the members by which HyperSDK's clients know a VM, and more. Numbers that nobody tells
/// are `null`, never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VmInfo {
    /// Name in its namespace.
    pub name: String,
    /// `namespace/name`.
    pub path: String,
    /// Namespace.
    pub namespace: String,
    /// `kubevirt`.
    pub provider: &'static str,
    /// UID.
    pub id: String,
    /// What KubeVirt calls its status, in lower case: `running`, `stopped`, `errorunschedulable`, …
    pub state: String,
    /// Whether it has power.
    pub power_state: PowerState,
    /// The operating system, as the guest agent, or else the description, says.
    pub guest_os: Option<String>,
    /// Memory of the guest in MiB, instancetype included.
    pub memory_mb: Option<u64>,
    /// Virtual CPUs, instancetype included.
    pub num_cpu: Option<u64>,
    /// The same.
    pub num_cpus: Option<u64>,
    /// Size of all claims in bytes; `None` where they were not looked at, or one is missing.
    pub storage_bytes: Option<u64>,
    /// The same in GiB.
    pub storage_gb: Option<f64>,
    /// Addresses of the guest, each once.
    pub ip_addresses: Vec<String>,
    /// The namespace once more.
    pub location: String,
    /// Labels.
    pub tags: BTreeMap<String, String>,
    /// What belongs to the object.
    pub metadata: VmMetadata,
    /// The node that it runs on.
    pub node: Option<String>,
    /// When it was made, in RFC 3339.
    pub created_at: Option<String>,
    /// When it is to run.
    pub run_strategy: String,
    /// Whether the guest agent answers.
    pub guest_agent: bool,
    /// Its volumes, in the order of the description.
    pub disks: Vec<DiskInfo>,
    /// Its network interfaces, in the order of the description.
    pub networks: Vec<NicInfo>,
    /// Conditions.
    pub conditions: Vec<ConditionInfo>,
    /// Whether a snapshot would hold every volume that has a claim.
    pub snapshottable: bool,
    /// Whether it can be migrated now.
    pub live_migratable: bool,
}

/// Whether a VM has power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// The guest holds still.
    Paused,
    /// The guest runs.
    Running,
    /// There is no guest.
    Stopped,
    /// On its way from one to another, or nobody knows.
    #[default]
    Unknown,
}

impl PowerState {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

/// What belongs to the object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VmMetadata {
    /// Namespace.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations, but for kubectl's copy of the whole description.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is to run.
    pub running: bool,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskInfo {
    /// What the VM calls it.
    pub name: String,
    /// What it comes from: `dataVolume`, `containerDisk`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its claim.
    pub pvc: Option<String>,
    /// Size of the claim in bytes.
    pub size_bytes: Option<u64>,
    /// Storage class of the claim.
    pub storage_class: Option<String>,
    /// `Block` or `Filesystem`.
    pub volume_mode: Option<String>,
    /// Place in the order of booting.
    pub boot_order: Option<u64>,
    /// Whether KubeVirt exports it.
    pub exportable: bool,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NicInfo {
    /// What the VM calls it.
    pub name: String,
    /// How it is bound: `masquerade`, `bridge`, `sriov`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The network: `pod`, or a NetworkAttachmentDefinition.
    pub network: String,
    /// The card that the guest sees.
    pub model: String,
    /// MAC address, of the description or of the guest.
    pub mac: Option<String>,
    /// Addresses, each once.
    pub ips: Vec<String>,
}

/// A condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConditionInfo {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

impl From<&Condition> for ConditionInfo {
    fn from(condition: &Condition) -> Self {
        Self {
            kind: condition.kind.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        }
    }
}

/// CPUs and memory: what an instancetype may say in place of the VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) cpus: Option<u64>,
    pub(super) memory_mib: Option<u64>,
}

impl Shape {
    /// That of a VM whose instancetype is written out, or that has none.
    pub(super) fn of(vm: &Value) -> Self {
        Self { cpus: cpus(vm), memory_mib: memory(vm).map(|bytes| bytes >> 20) }
    }
}

/// What a VM is told from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The VirtualMachine.
    pub(super) vm: &'a Value,
    /// The same with its instancetype written out, if that was looked up.
    pub(super) expanded: Option<&'a Value>,
    /// CPUs and memory, if they are known otherwise.
    pub(super) shape: Option<Shape>,
    /// Its instance.
    pub(super) instance: Option<&'a Instance>,
    /// Claims by name; `None` = they were not looked at.
    pub(super) claims: Option<&'a HashMap<String, Claim>>,
}

impl VmInfo {
    /// Puts together what is known.
    pub(super) fn new(metadata: &Metadata, conditions: &[Condition], facts: Facts<'_>) -> Self {
        let Facts { vm, expanded, shape, instance, claims } = facts;
        let written_out = expanded.unwrap_or(vm);
        let shape = shape.unwrap_or_else(|| Shape::of(written_out));
        let disks = disks(written_out, claims);
        let sizes = disks.iter().filter(|disk| disk.exportable).map(|disk| disk.size_bytes);
        let storage_bytes = claims.and_then(|_| sizes.sum::<Option<u64>>());
        let state = printable(vm).to_ascii_lowercase();
        let mut annotations = metadata.annotations.clone();
        // It holds the whole description, cloud-init's passwords included.
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        Self {
            name: metadata.name.clone(),
            path: format!("{}/{}", metadata.namespace, metadata.name),
            namespace: metadata.namespace.clone(),
            provider: "kubevirt",
            id: metadata.uid.clone(),
            power_state: power(vm),
            state,
            guest_os: guest_os(written_out, instance),
            memory_mb: shape.memory_mib,
            num_cpu: shape.cpus,
            num_cpus: shape.cpus,
            storage_bytes,
            storage_gb: storage_bytes.map(gib),
            ip_addresses: instance.map(Instance::addresses).unwrap_or_default(),
            location: metadata.namespace.clone(),
            tags: metadata.labels.clone(),
            metadata: VmMetadata {
                namespace: metadata.namespace.clone(),
                uid: metadata.uid.clone(),
                labels: metadata.labels.clone(),
                annotations,
                running: is_to_run(vm),
            },
            node: instance.and_then(|instance| instance.status.node_name.clone()),
            created_at: metadata.creation_timestamp.clone(),
            run_strategy: run_strategy(vm).to_owned(),
            guest_agent: instance.is_some_and(|instance| instance.is("AgentConnected")),
            networks: networks(written_out, instance),
            conditions: conditions.iter().map(ConditionInfo::from).collect(),
            snapshottable: is_snapshottable(vm, &disks),
            live_migratable: instance
                .is_some_and(|instance| !instance.is_over() && instance.is("LiveMigratable")),
            disks,
        }
    }
}

/// `status.printableStatus`.
pub(super) fn printable(vm: &Value) -> &str {
    text(vm, "/status/printableStatus").unwrap_or("Unknown")
}

/// Whether it has power, as its status says.
pub(super) fn power(vm: &Value) -> PowerState {
    match printable(vm) {
        "Running" | "Migrating" => PowerState::Running,
        "Paused" => PowerState::Paused,
        "Stopped" => PowerState::Stopped,
        // Something is wrong or on its way: without an instance there is no power.
        _ if vm.pointer("/status/created") != Some(&Value::Bool(true)) && vm.get("status").is_some() => {
            PowerState::Stopped
        }
        _ => PowerState::Unknown,
    }
}

/// `spec.runStrategy`, or what `spec.running` means.
pub(super) fn run_strategy(vm: &Value) -> &str {
    match (text(vm, "/spec/runStrategy"), vm.pointer("/spec/running")) {
        (Some(strategy), _) => strategy,
        (None, Some(Value::Bool(true))) => "Always",
        (None, _) => "Halted",
    }
}

fn is_to_run(vm: &Value) -> bool {
    match run_strategy(vm) {
        "Halted" => false,
        "Manual" => vm.pointer("/status/created") == Some(&Value::Bool(true)),
        _ => true,
    }
}

/// Text at a place.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Sockets, cores and threads multiplied; without a topology what is asked for, as KubeVirt does.
fn cpus(vm: &Value) -> Option<u64> {
    let domain = vm.pointer("/spec/template/spec/domain")?;
    let part = |name: &str| domain.pointer("/cpu").and_then(|cpu| cpu.get(name)).and_then(Value::as_u64);
    let parts = ["sockets", "cores", "threads"].map(part);
    if parts.iter().any(Option::is_some) {
        return parts.iter().try_fold(1_u64, |product, part| product.checked_mul(part.unwrap_or(1)));
    }
    let asked = ["/resources/limits/cpu", "/resources/requests/cpu"];
    let asked = asked.iter().find_map(|place| quantity(domain.pointer(place)?));
    Some(asked.unwrap_or(1))
}

/// Memory of the guest in bytes.
fn memory(vm: &Value) -> Option<u64> {
    let domain = vm.pointer("/spec/template/spec/domain")?;
    ["/memory/guest", "/resources/requests/memory", "/resources/limits/memory", "/memory/hugepages/pageSize"]
        .iter()
        .find_map(|place| quantity(domain.pointer(place)?))
}

/// A quantity, which YAML may have made a number.
fn quantity(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| parse_quantity(value.as_str()?))
}

fn disks(vm: &Value, claims: Option<&HashMap<String, Claim>>) -> Vec<DiskInfo> {
    let plan = VolumePlan::of_vm(vm);
    let claim_of =
        |name: &str| plan.volumes.iter().find(|volume| volume.name == name).map(|volume| &volume.claim);
    let boot_order = |name: &str| {
        items(vm, "/spec/template/spec/domain/devices/disks")
            .find(|disk| text(disk, "/name") == Some(name))?
            .get("bootOrder")?
            .as_u64()
    };
    items(vm, "/spec/template/spec/volumes")
        .map(|volume| {
            let name = text(volume, "/name").unwrap_or_default().to_owned();
            let kind = volume.as_object().and_then(|fields| fields.keys().find(|key| *key != "name"));
            let pvc = claim_of(&name).cloned();
            let claim = claims.and_then(|claims| claims.get(pvc.as_deref()?));
            DiskInfo {
                kind: kind.cloned().unwrap_or_default(),
                size_bytes: claim.and_then(Claim::size),
                storage_class: claim.and_then(|claim| claim.spec.storage_class_name.clone()),
                volume_mode: claim.and_then(|claim| claim.spec.volume_mode.clone()),
                boot_order: boot_order(&name),
                exportable: pvc.is_some(),
                pvc,
                name,
            }
        })
        .collect()
}

fn networks(vm: &Value, instance: Option<&Instance>) -> Vec<NicInfo> {
    let network = |name: &str| {
        let mut all = items(vm, "/spec/template/spec/networks");
        let Some(found) = all.find(|network| text(network, "/name") == Some(name)) else { return "" };
        let is_pod = found.get("pod").is_some();
        text(found, "/multus/networkName").unwrap_or(if is_pod { "pod" } else { "" })
    };
    items(vm, "/spec/template/spec/domain/devices/interfaces")
        .map(|interface| {
            let name = text(interface, "/name").unwrap_or_default();
            let live =
                instance.and_then(|instance| instance.status.interfaces.iter().find(|nic| nic.name == name));
            let binding = BINDINGS.into_iter().find(|binding| interface.get(binding).is_some());
            let mac = text(interface, "/macAddress").map(str::to_owned);
            NicInfo {
                name: name.to_owned(),
                kind: text(interface, "/binding/name").or(binding).unwrap_or_default().to_owned(),
                network: network(name).to_owned(),
                model: text(interface, "/model").unwrap_or("virtio").to_owned(),
                mac: mac.or_else(|| live.map(|nic| nic.mac.clone()).filter(|mac| !mac.is_empty())),
                ips: live.map(|nic| nic.addresses()).unwrap_or_default(),
            }
        })
        .collect()
}

/// What the agent says, or the annotations and labels that templates and preferences put there.
fn guest_os(vm: &Value, instance: Option<&Instance>) -> Option<String> {
    if let Some(os) = instance.map(|instance| &instance.status.guest_os) {
        let told = [&os.pretty_name, &os.name].into_iter().find(|name| !name.is_empty());
        if told.is_some() {
            return told.cloned();
        }
    }
    let places = ["/metadata/annotations", "/spec/template/metadata/annotations"];
    let annotated = places.iter().find_map(|place| vm.pointer(place)?.get("vm.kubevirt.io/os")?.as_str());
    let labelled = || {
        let labels = vm.pointer("/metadata/labels")?.as_object()?;
        let template = labels.keys().find_map(|label| label.strip_prefix("os.template.kubevirt.io/"));
        template.or_else(|| labels.get("kubevirt.io/os")?.as_str())
    };
    let preference = || text(vm, "/spec/preference/name");
    annotated.or_else(labelled).or_else(preference).map(str::to_owned)
}

fn is_snapshottable(vm: &Value, disks: &[DiskInfo]) -> bool {
    let is_enabled = |name: &str| {
        items(vm, "/status/volumeSnapshotStatuses").any(|status| {
            text(status, "/name") == Some(name) && status.get("enabled") == Some(&Value::Bool(true))
        })
    };
    let mut exported = disks.iter().filter(|disk| disk.exportable).peekable();
    exported.peek().is_some() && exported.all(|disk| is_enabled(&disk.name))
}

/// Bytes in GiB with two decimals.
fn gib(bytes: u64) -> f64 {
    // Hundredths of a GiB fit into 32 bits up to 40 PiB.
    let hundredths = u32::try_from((u128::from(bytes) * 100) >> 30).unwrap_or(u32::MAX);
    f64::from(hundredths) / 100.0
}

/// How an interface is bound.
const BINDINGS: [&str; 7] = ["masquerade", "bridge", "sriov", "passtBinding", "passt", "slirp", "macvtap"];

#[cfg(test)]
mod tests;
