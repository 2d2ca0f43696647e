//! What an export did: for the caller, for the record beside the disks, and for a later run.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use vmferry_formats::ova::ManifestHash;

use super::ApplianceRecord;
use crate::{
    conversion::ConversionReport,
    kubevirt::{Consistency, LeftOut, PlannedVolume},
    pack::{PackReport, PackedDisk},
    pipeline::manifest::Manifest,
};

/// What became of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// What the VM calls it.
    pub volume: String,
    /// Its claim.
    pub claim: String,
    /// The output, as it is called beside the record, or where it is if there is no record.
    pub file: String,
    /// The archive that the file is in, called likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Format written.
    pub format: String,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Length of the output in bytes.
    pub output_size: u64,
    /// Hash function of the digest, if there is one.
    pub digest_algorithm: Option<String>,
    /// Digest of the content.
    pub digest: Option<String>,
    /// SHA-256 of the output file, if it is known.
    pub sha256: Option<String>,
    /// Whether the output was read back and compared.
    pub verified: bool,
}

impl VolumeRecord {
    /// Of a volume that an earlier run completed but did not come to remember; its manifest tells.
    pub(super) fn of_manifest(
        volume: &PlannedVolume,
        file: String,
        manifest: &Manifest,
        verified: bool,
    ) -> Self {
        Self {
            volume: volume.name.clone(),
            claim: volume.claim.clone(),
            file,
            archive: None,
            format: manifest.head.format.clone(),
            virtual_size: manifest.head.virtual_size,
            output_size: manifest.tail.output_size,
            digest_algorithm: Some(manifest.algorithm.name().to_owned()),
            digest: Some(manifest.tree.to_string()),
            sha256: manifest.tail.file_sha256.clone(),
            verified,
        }
    }

    pub(super) fn new(volume: &PlannedVolume, file: String, report: &ConversionReport) -> Self {
        Self {
            volume: volume.name.clone(),
            claim: volume.claim.clone(),
            file,
            archive: None,
            format: report.format.name().to_owned(),
            virtual_size: report.virtual_size,
            output_size: report.output_size,
            digest_algorithm: report.digest.map(|digest| digest.algorithm.name().to_owned()),
            digest: report.digest.map(|digest| digest.tree.to_string()),
            sha256: report.file_sha256.map(|digest| digest.to_string()),
            verified: report.verified,
        }
    }
}

impl VolumeRecord {
    /// Of a volume whose image is a part of an appliance.
    pub(super) fn packed(
        volume: &PlannedVolume,
        archive: Option<String>,
        disk: &PackedDisk,
        report: &PackReport,
    ) -> Self {
        let is_sha256 = report.manifest_hash == ManifestHash::Sha256;
        Self {
            volume: volume.name.clone(),
            claim: volume.claim.clone(),
            file: disk.file.clone(),
            archive,
            format: disk.format.name().to_owned(),
            virtual_size: disk.virtual_size,
            output_size: disk.file_size,
            digest_algorithm: disk.digest.map(|digest| digest.algorithm.name().to_owned()),
            digest: disk.digest.map(|digest| digest.tree.to_string()),
            sha256: is_sha256.then(|| disk.file_hash.to_string()),
            verified: report.verified,
        }
    }
}

/// What an export did.
#[derive(Clone, Debug)]
pub struct ExportReport {
    /// Namespace.
    pub namespace: String,
    /// The VM, or what else was exported.
    pub name: String,
    /// Where the outputs are; `None` for standard output.
    pub output: Option<PathBuf>,
    /// Kind and name of the exported object.
    pub source: String,
    /// What the disks are consistent with.
    pub consistency: Consistency,
    /// How the exporter was reached; `None` if all volumes had been exported before.
    pub way: Option<&'static str>,
    /// The volumes, in the order of the VM.
    pub volumes: Vec<VolumeRecord>,
    /// The appliance that they are parts of.
    pub appliance: Option<ApplianceRecord>,
    /// Volumes that were left out.
    pub left_out: Vec<LeftOut>,
    /// Bytes taken from the exporter by this run.
    pub bytes_read: u64,
    /// Wall time.
    pub elapsed: Duration,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// `manifest.json`: the record beside the disks.
#[derive(Debug, Serialize)]
pub(super) struct ExportRecord<'a> {
    pub(super) version: u32,
    pub(super) created: String,
    pub(super) vmferry: &'static str,
    pub(super) kubevirt: Option<String>,
    pub(super) cluster: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) source: SourceRecord<'a>,
    pub(super) consistency: &'static str,
    pub(super) description: Option<&'static str>,
    pub(super) volumes: &'a [VolumeRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) appliance: Option<&'a ApplianceRecord>,
    pub(super) left_out: Vec<LeftOutRecord<'a>>,
}

/// What was exported.
#[derive(Debug, Serialize)]
pub(super) struct SourceRecord<'a> {
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    /// How a snapshot was taken.
    pub(super) indications: &'a [String],
    /// When a snapshot was taken.
    pub(super) taken: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub(super) struct LeftOutRecord<'a> {
    pub(super) name: &'a str,
    pub(super) reason: &'a str,
}

/// Version of the record's form.
pub(super) const RECORD_VERSION: u32 = 1;
