//! A snapshot as people and programs want to read it.

use serde::Serialize;
use serde_json::Value;

use crate::kubevirt::{Consistency, parse_quantity, types::VmSnapshot};

/// A snapshot.
///
/// In JSON it has the members by which HyperSDK's clients know a snapshot, and more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// Name in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// The VM that it is of.
    pub vm_name: String,
    /// When it was taken, or asked for if it is not yet, in RFC 3339.
    pub created_at: Option<String>,
    /// Whether it can be used.
    pub ready_to_use: bool,
    /// `InProgress`, `Succeeded`, `Failed`, …
    pub phase: String,
    /// How it was taken, as the cluster says: `Online`, `GuestAgent`, …
    pub indications: Vec<String>,
    /// What went wrong; empty if nothing did.
    pub error: String,
    /// What its disks are consistent with: `stopped`, `guest-agent`, `crash`, `unknown`.
    pub consistency: &'static str,
    /// The volumes that are in it, and those that are not.
    pub volumes: SnapshotVolumesInfo,
    /// Size of its volumes in bytes; `None` if it was not looked up or is not known.
    pub size_bytes: Option<u64>,
}

/// Volumes in a snapshot and not in it, by the names that the VM has for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SnapshotVolumesInfo {
    /// In it.
    pub included: Vec<String>,
    /// Not in it.
    pub excluded: Vec<String>,
}

impl SnapshotInfo {
    pub(super) fn new(snapshot: &VmSnapshot) -> Self {
        let status = &snapshot.status;
        let error = status.error.as_ref().map(|error| error.message.clone());
        let failed = status
            .conditions
            .iter()
            .find(|condition| condition.kind == "Failure" && condition.status == "True")
            .map(|condition| condition.reason.clone());
        Self {
            name: snapshot.metadata.name.clone(),
            namespace: snapshot.metadata.namespace.clone(),
            vm_name: snapshot.spec.source.name.clone(),
            created_at: status.creation_time.clone().or_else(|| snapshot.metadata.creation_timestamp.clone()),
            ready_to_use: status.ready_to_use,
            phase: status.phase.clone(),
            indications: status.all_indications(),
            error: error.or(failed).unwrap_or_default(),
            consistency: Consistency::of(status).name(),
            volumes: SnapshotVolumesInfo {
                included: status.snapshot_volumes.included_volumes.clone(),
                excluded: status.snapshot_volumes.excluded_volumes.clone(),
            },
            size_bytes: None,
        }
    }
}

/// The size of all volumes of a content, if all are known.
pub(super) fn size(content: &Value) -> Option<u64> {
    let backups = content.pointer("/spec/volumeBackups")?.as_array()?;
    backups
        .iter()
        .map(|backup| {
            let size = backup.pointer("/persistentVolumeClaim/spec/resources/requests/storage")?;
            parse_quantity(size.as_str()?)
        })
        .sum()
}
