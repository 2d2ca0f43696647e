//! What an export would do and did, as people and programs want to read it.

use std::{
    io::{self, Write},
    path::Path,
};

use serde::Serialize;
use vmferry::{
    ApplianceRecord, ExportPlan, ExportReport, VolumeRecord,
    appliance::Warning,
    kubevirt::{LeftOut, go_duration},
};

#[cfg(feature = "cloud")]
use vmferry::{ConversionOptions, Error, UploadPlan, is_object_url};

#[cfg(feature = "cloud")]
use crate::cli::upload::UploadSummary;
use crate::cli::{
    output::{Report, field},
    units::{Bytes, Elapsed, seconds},
};

/// The result of `export`.
#[derive(Serialize)]
pub(super) struct ExportSummary<'a> {
    namespace: &'a str,
    name: &'a str,
    output: Option<String>,
    source: &'a str,
    consistency: &'static str,
    reached_by: Option<&'static str>,
    volumes: &'a [VolumeRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    appliance: Option<&'a ApplianceRecord>,
    left_out: Vec<Left<'a>>,
    bytes_read: u64,
    elapsed_seconds: f64,
    warnings: &'a [String],
    #[serde(skip)]
    elapsed: Elapsed,
}

#[derive(Serialize)]
struct Left<'a> {
    name: &'a str,
    reason: &'a str,
}

fn left(volumes: &[LeftOut]) -> Vec<Left<'_>> {
    volumes.iter().map(|left| Left { name: &left.name, reason: &left.reason }).collect()
}

impl<'a> From<&'a ExportReport> for ExportSummary<'a> {
    fn from(report: &'a ExportReport) -> Self {
        Self {
            namespace: &report.namespace,
            name: &report.name,
            output: report.output.as_ref().map(|path| path.display().to_string()),
            source: &report.source,
            consistency: report.consistency.name(),
            reached_by: report.way,
            volumes: &report.volumes,
            appliance: report.appliance.as_ref(),
            left_out: left(&report.left_out),
            bytes_read: report.bytes_read,
            elapsed_seconds: seconds(report.elapsed),
            warnings: &report.warnings,
            elapsed: Elapsed(report.elapsed),
        }
    }
}

impl Report for ExportSummary<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Exported", format_args!("{}/{}", self.namespace, self.name))?;
        field(out, "Source", format_args!("{} (consistency: {})", self.source, self.consistency))?;
        if let Some(output) = &self.output {
            field(out, "Output", output)?;
        }
        if let Some(appliance) = self.appliance {
            let (size, profile) = (Bytes(appliance.size), &appliance.target_profile);
            let signed = if appliance.signed { ", signed" } else { "" };
            field(out, "Appliance", format_args!("{}, {size}, for {profile}{signed}", appliance.file))?;
        }
        for volume in self.volumes {
            let (size, on_disk) = (Bytes(volume.virtual_size), Bytes(volume.output_size));
            field(
                out,
                "Volume",
                format_args!("{}: {}, {size}, image {on_disk}", volume.volume, volume.file),
            )?;
            if let (Some(algorithm), Some(digest)) = (&volume.digest_algorithm, &volume.digest) {
                field(out, "  Digest", format_args!("tree-{algorithm}:{digest}"))?;
            }
            if volume.verified {
                field(out, "  Verified", "yes, read back and compared")?;
            }
        }
        for left in &self.left_out {
            field(out, "Left out", format_args!("{}: {}", left.name, left.reason))?;
        }
        field(out, "Transferred", format_args!("{} in {}", Bytes(self.bytes_read), self.elapsed))?;
        match self.reached_by {
            Some(way) => field(out, "Reached by", way),
            None => Ok(()),
        }
    }
}

/// The result of `export --dry-run`.
#[derive(Serialize)]
pub(super) struct DryRun<'a> {
    namespace: &'a str,
    name: &'a str,
    source: &'a str,
    objects: &'a [&'static str],
    ttl: String,
    reach: &'a [&'static str],
    output: String,
    volumes: Vec<Planned<'a>>,
    left_out: Vec<Left<'a>>,
    space_needed: u64,
    space_free: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [Warning],
    #[cfg(feature = "cloud")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uploads: Vec<UploadSummary>,
}

#[derive(Serialize)]
struct Planned<'a> {
    volume: &'a str,
    claim: &'a str,
    size: Option<u64>,
    output: Option<String>,
}

impl<'a> DryRun<'a> {
    pub(super) fn new(plan: &'a ExportPlan, output: &Path) -> Self {
        let volume = |planned: &'a vmferry::PlannedOutput| Planned {
            volume: &planned.volume,
            claim: &planned.claim,
            size: planned.size,
            output: planned.output.as_ref().map(|path| path.display().to_string()),
        };
        Self {
            namespace: &plan.namespace,
            name: &plan.name,
            source: &plan.source,
            objects: &plan.objects,
            ttl: go_duration(plan.ttl),
            reach: &plan.reach,
            output: output.display().to_string(),
            volumes: plan.volumes.iter().map(volume).collect(),
            left_out: left(&plan.left_out),
            space_needed: plan.space_needed,
            space_free: plan.space_free,
            warnings: &plan.warnings,
            #[cfg(feature = "cloud")]
            uploads: Vec::new(),
        }
    }

    /// The same with what the uploads take; an archive holds all volumes.
    #[cfg(feature = "cloud")]
    pub(super) fn with_uploads(
        mut self,
        plan: &ExportPlan,
        options: &ConversionOptions,
    ) -> Result<Self, Error> {
        let mut outputs: Vec<(String, Option<u64>)> = Vec::new();
        for volume in &plan.volumes {
            let Some(url) = volume.output.as_ref().and_then(|output| output.to_str()) else { continue };
            match outputs.last_mut() {
                _ if !is_object_url(url) => {}
                Some((last, size)) if last == url => {
                    *size = size.zip(volume.size).map(|(all, more)| all.saturating_add(more));
                }
                _ => outputs.push((url.to_owned(), volume.size)),
            }
        }
        let plans = outputs.into_iter().map(|(url, size)| UploadPlan::new(&url, size, options));
        self.uploads = plans.map(|plan| plan.map(UploadSummary::from)).collect::<Result<_, Error>>()?;
        Ok(self)
    }
}

impl Report for DryRun<'_> {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Would export", format_args!("{}/{}", self.namespace, self.name))?;
        field(out, "Source", self.source)?;
        if !self.objects.is_empty() {
            field(out, "Makes", format_args!("{} in namespace {}", self.objects.join(", "), self.namespace))?;
            field(out, "Lives for", &self.ttl)?;
        }
        for volume in &self.volumes {
            let size =
                volume.size.map_or_else(|| "size not known".to_owned(), |size| Bytes(size).to_string());
            let output = volume.output.as_deref().unwrap_or("-");
            field(
                out,
                "Volume",
                format_args!("{} (claim {}), {size} -> {output}", volume.volume, volume.claim),
            )?;
        }
        for left in &self.left_out {
            field(out, "Left out", format_args!("{}: {}", left.name, left.reason))?;
        }
        field(out, "Reach", self.reach.join(", then "))?;
        let free = self.space_free.map_or_else(String::new, |free| format!(", {} free", Bytes(free)));
        field(out, "Space", format_args!("at most {} needed{free}", Bytes(self.space_needed)))?;
        #[cfg(feature = "cloud")]
        self.uploads.iter().try_for_each(|upload| upload.text(out))?;
        Ok(())
    }
}
