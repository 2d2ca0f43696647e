//! KubeVirt: what is in a cluster, and how a disk gets out of it.
//!
//! The cluster is talked to through [`Cluster`]; the API versions are found by discovery. A
//! [`Session`] is the life of one VirtualMachineExport: it makes the object and its token, waits for
//! it, reads its links anew whenever a transfer breaks, and removes what it made. Its
//! [`VolumeLinks`] are what a [`Conversion`](crate::Conversion) reads a disk by.
//!
//! This module knows objects and links; it does not know what is inside a disk.
//!
//! Tokens live in [`Secret`](crate::secret::Secret)s and in the requests that must carry them, and
//! nowhere else: no error, log line or name holds one.

mod access;
mod candidates;
mod catalog;
mod client;
mod clones;
mod config;
mod console;
mod discovery;
mod doctor;
mod explain;
mod forward;
mod glob;
mod identity;
mod leftovers;
mod links;
mod made;
mod names;
mod networks;
mod pages;
mod plan;
mod reach;
mod release;
mod resource;
mod session;
mod snapshot;
mod snapshots;
mod templates;
mod time;
pub mod types;
mod vm;
mod vms;
mod volumes;
mod wait;

pub use crate::quantity::parse_quantity;

pub use self::{
    access::{Right, missing_rights},
    candidates::Candidates,
    catalog::{Catalog, InstancetypeInfo, PreferenceInfo},
    client::{Cluster, ClusterOptions},
    clones::Cloned,
    console::Console,
    doctor::{Check, Examination, ProbeOptions, Verdict, examine, probe},
    leftovers::{Leftover, LeftoverKind, Leftovers, leftovers},
    links::VolumeLinks,
    names::run_id,
    networks::{LinkState, Needs, NetworkChanged, NetworkInfo, Networks, NicBinding, NicRequest},
    plan::{LeftOut, PlannedVolume, VolumePlan},
    reach::{Reach, ReachChoice},
    resource::Resource,
    session::{ExportSource, Session, SessionOptions, Told},
    snapshot::{Consistency, Quiesce, Snapshot},
    snapshots::{
        OwnershipPolicy, ReadinessPolicy, RestoreRequest, RestoreVolumePolicy, Restored, SnapshotInfo,
        SnapshotPages, SnapshotRequest, SnapshotVolumesInfo, Snapshots,
    },
    templates::{Processed, TemplateInfo, TemplateMade, TemplateParameter, Templates},
    time::go_duration,
    vm::Power,
    vms::{
        Acted, Acting, ConditionInfo, CpuMetrics, DiskInfo, DiskMetrics, Doomed, FilesystemMetrics,
        GuestMetrics, MemoryMetrics, Migrated, NicInfo, NicMetrics, PhaseInfo, PowerState, VmChange,
        VmDetail, VmInfo, VmMetadata, VmMetrics, VmPages, VmQuery, VmState, VmWatch, Vms,
    },
    volumes::{AttachRequest, VolumeChanged, VolumeInfo, Volumes},
};

pub(crate) use self::{
    access::{TO_EXPAND, TO_EXPAND_GIVEN, TO_EXPORT, TO_FOLLOW, TO_SNAPSHOT, TO_STOP, demand, to_forward},
    identity::{Sighting, begin_anew},
    session::Teller,
    snapshot::{Making, no_agent},
    time::{now, seconds},
    vms::Instance,
};

/// The label by which everything that is made here is found again.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "vmferry");

/// The label that tells runs apart.
pub const RUN_ID: &str = "vmferry.io/run-id";
