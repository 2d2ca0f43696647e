//! The objects of the cluster, as far as they matter here.
//!
//! Decoding is tolerant: every field may be missing or `null`, values that are not known are kept as
//! the text they are, and what is not named here is ignored. One type fits every API version, since
//! the schemas only ever grew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// What tells it from another object of that name.
    pub uid: String,
    /// Version of the object.
    pub resource_version: String,
    /// Version of its specification.
    pub generation: Option<i64>,
    /// When it was made, in RFC 3339.
    pub creation_timestamp: Option<String>,
    /// When its deletion was asked for, in RFC 3339.
    pub deletion_timestamp: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// What it goes with.
    pub owner_references: Vec<OwnerReference>,
}

/// Another object, with which this one is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// Any object: its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Metadata.
    pub metadata: Metadata,
}

/// A condition of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// When its status last changed.
    pub last_transition_time: Option<String>,
}

/// A VirtualMachineExport.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VmExport {
    /// Metadata.
    pub metadata: Metadata,
    /// What was asked for.
    pub spec: ExportSpec,
    /// What has come of it.
    pub status: ExportStatus,
}

/// What a VirtualMachineExport was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportSpec {
    /// What is exported.
    pub source: TypedReference,
    /// The secret with the token.
    pub token_secret_ref: Option<String>,
    /// How long the export lives.
    pub ttl_duration: Option<String>,
}

/// A reference to an object of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypedReference {
    /// API group; absent for the core group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Status of a VirtualMachineExport.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExportStatus {
    /// `Pending`, `Ready`, `Terminated`, `Skipped`, or what later versions invent.
    pub phase: String,
    /// Where the volumes are; gone again whenever the exporter is not ready.
    pub links: ExportLinkSet,
    /// The secret with the token.
    pub token_secret_ref: Option<String>,
    /// When the cluster removes the export, in RFC 3339.
    pub ttl_expiration_time: Option<String>,
    /// The exporter's service.
    pub service_name: Option<String>,
    /// The VM, for VM and snapshot sources.
    pub virtual_machine_name: Option<String>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// Links from inside and from outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExportLinkSet {
    /// For pods of the cluster.
    pub internal: Option<ExportLinks>,
    /// Through an Ingress or a Route, if there is one.
    pub external: Option<ExportLinks>,
}

/// Links of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ExportLinks {
    /// CA certificates in PEM form; may be empty.
    pub cert: String,
    /// The volumes.
    pub volumes: Vec<LinkVolume>,
}

/// Links of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LinkVolume {
    /// Name of its claim.
    pub name: String,
    /// The forms in which it is offered.
    pub formats: Vec<LinkFormat>,
}

/// One form of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LinkFormat {
    /// `raw`, `gzip`, `dir`, `tar.gz`.
    pub format: String,
    /// Where it is.
    pub url: String,
}

impl LinkVolume {
    /// The URL of a form.
    pub fn url(&self, format: &str) -> Option<&str> {
        self.formats.iter().find(|offered| offered.format == format).map(|offered| offered.url.as_str())
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Metadata.
    pub metadata: Metadata,
    /// What was asked for.
    pub spec: ClaimSpec,
    /// What has come of it.
    pub status: ClaimStatus,
}

/// What a claim asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    /// `Block` or `Filesystem`.
    pub volume_mode: Option<String>,
    /// Storage class.
    pub storage_class_name: Option<String>,
    /// Resources.
    pub resources: ClaimResources,
}

/// Resources of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    /// Requests, by name.
    pub requests: BTreeMap<String, String>,
}

/// Status of a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimStatus {
    /// `Pending`, `Bound`, `Lost`.
    pub phase: String,
    /// What the volume has, by name.
    pub capacity: BTreeMap<String, String>,
}

impl Claim {
    /// The size that it asks for, as it is written.
    pub fn requested(&self) -> Option<&str> {
        self.spec.resources.requests.get("storage").map(String::as_str)
    }

    /// The size of the volume in bytes, or what was asked for while there is none.
    pub fn size(&self) -> Option<u64> {
        let capacity = self.status.capacity.get("storage").map(String::as_str);
        capacity.or_else(|| self.requested()).and_then(super::parse_quantity)
    }
}

/// A VirtualMachine: the parts that matter, and the whole as it came.
#[derive(Clone, Debug)]
pub struct VirtualMachine {
    /// Metadata.
    pub metadata: Metadata,
    /// Status.
    pub status: VmStatus,
    /// The whole object.
    pub object: Value,
}

/// Status of a VirtualMachine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VmStatus {
    /// Whether there is a VirtualMachineInstance.
    pub created: bool,
    /// `Stopped`, `Running`, …
    pub printable_status: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Whether volumes can be snapshotted.
    pub volume_snapshot_statuses: Vec<VolumeSnapshotStatus>,
}

/// Whether a volume can be snapshotted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct VolumeSnapshotStatus {
    /// Name of the volume in the VM.
    pub name: String,
    /// Whether it can.
    pub enabled: bool,
    /// Why not.
    pub reason: String,
}

/// A VirtualMachineSnapshot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VmSnapshot {
    /// Metadata.
    pub metadata: Metadata,
    /// What was asked for.
    pub spec: SnapshotSpec,
    /// What has come of it.
    pub status: SnapshotStatus,
}

/// What a snapshot was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnapshotSpec {
    /// Of what.
    pub source: TypedReference,
}

/// Status of a snapshot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotStatus {
    /// `InProgress`, `Succeeded`, `Failed`, …
    pub phase: String,
    /// Whether it can be used.
    pub ready_to_use: bool,
    /// What it consists of.
    pub virtual_machine_snapshot_content_name: Option<String>,
    /// When it was taken.
    pub creation_time: Option<String>,
    /// What went wrong.
    pub error: Option<SnapshotError>,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// How it was taken, before KubeVirt 1.7.
    pub indications: Vec<String>,
    /// How it was taken.
    pub source_indications: Vec<SourceIndication>,
    /// Volumes in it and not in it.
    pub snapshot_volumes: SnapshotVolumes,
    /// UID of the VM.
    #[serde(rename = "sourceUID")]
    pub source_uid: Option<String>,
}

/// What went wrong with a snapshot.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnapshotError {
    /// In a sentence.
    pub message: String,
}

/// How a snapshot was taken.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SourceIndication {
    /// `Online`, `GuestAgent`, `NoGuestAgent`, …
    pub indication: String,
}

/// Volumes in a snapshot and not in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotVolumes {
    /// In it.
    pub included_volumes: Vec<String>,
    /// Not in it.
    pub excluded_volumes: Vec<String>,
}

impl SnapshotStatus {
    /// Whether it was taken so; old and new fields count.
    pub fn indicates(&self, what: &str) -> bool {
        self.indications.iter().any(|indication| indication == what)
            || self.source_indications.iter().any(|indication| indication.indication == what)
    }
}

impl SnapshotStatus {
    /// How it was taken, by old and new fields, each once.
    pub fn all_indications(&self) -> Vec<String> {
        let new = self.source_indications.iter().map(|source| &source.indication);
        let mut all: Vec<String> = self.indications.iter().chain(new).cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Decodes an object; `null` counts as missing.
pub(super) fn decode<T: DeserializeOwned>(mut value: Value) -> Result<T, serde_json::Error> {
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

/// Go writes empty lists and maps as `null`.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
