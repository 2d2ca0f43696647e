//! What would be packed, for `pack --dry-run`.

use std::io::{self, Write};

use serde::Serialize;
use vmferry::PackPlan;

#[cfg(feature = "cloud")]
use crate::cli::upload::UploadSummary;
use crate::cli::{
    args::source_format_name,
    output::{Report, field},
    units::Bytes,
};

/// The result of `pack --dry-run`.
#[derive(Serialize)]
pub(super) struct DryRun {
    output: String,
    descriptor: String,
    disks: Vec<Disk>,
    longest_output: Option<u64>,
    #[cfg(feature = "cloud")]
    upload: Option<UploadSummary>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Disk {
    file: String,
    format: &'static str,
    source: String,
    source_format: &'static str,
    virtual_size: Option<u64>,
}

impl DryRun {
    /// What `plan` says; `warnings` are of the description.
    pub(super) fn new(plan: PackPlan, warnings: Vec<String>) -> Self {
        let disks = plan.disks.into_iter().map(|disk| Disk {
            file: disk.file,
            format: disk.format.name(),
            source: disk.source,
            source_format: source_format_name(disk.source_format),
            virtual_size: disk.virtual_size,
        });
        Self {
            output: plan.output.display().to_string(),
            descriptor: plan.descriptor,
            disks: disks.collect(),
            longest_output: plan.longest_output,
            #[cfg(feature = "cloud")]
            upload: plan.upload.map(UploadSummary::from),
            warnings,
        }
    }
}

impl Report for DryRun {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Would pack", &self.output)?;
        field(out, "Descriptor", &self.descriptor)?;
        for disk in &self.disks {
            let size =
                disk.virtual_size.map_or_else(|| "size not known".to_owned(), |size| Bytes(size).to_string());
            field(
                out,
                "Disk",
                format_args!("{} ({size}) from {} ({})", disk.file, disk.source, disk.source_format),
            )?;
        }
        match self.longest_output {
            Some(len) => field(out, "At most", Bytes(len))?,
            None => field(out, "At most", "not known before the end of the sources")?,
        }
        #[cfg(feature = "cloud")]
        if let Some(upload) = &self.upload {
            upload.text(out)?;
        }
        Ok(())
    }
}
