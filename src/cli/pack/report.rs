//! What was packed, as people and programs want to read it.

use std::{
    borrow::Cow,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;
use vmferry::{PackReport, PackedDisk};

use crate::cli::{
    args::source_format_name,
    output::{DigestObject, Report, field, tree_digest},
    units::{Bytes, Elapsed, percent, seconds},
};

/// The result of `pack`.
#[derive(Serialize)]
pub(super) struct PackSummary<'a> {
    output: Cow<'a, str>,
    descriptor: &'a str,
    disks: Vec<DiskSummary<'a>>,
    output_size: u64,
    file_sha256: Option<String>,
    manifest_algorithm: &'static str,
    signed: bool,
    bytes_read: u64,
    bytes_written: u64,
    resumed_from: Option<ResumedFrom>,
    verified: bool,
    manifest: Option<Cow<'a, str>>,
    elapsed_seconds: f64,
    warnings: &'a [String],
    #[serde(skip)]
    elapsed: Duration,
}

#[derive(Serialize)]
struct DiskSummary<'a> {
    file: &'a str,
    format: &'static str,
    source_format: &'static str,
    virtual_size: u64,
    zero_bytes: u64,
    offset: Option<u64>,
    file_size: u64,
    file_hash: String,
    digest: Option<DigestObject>,
}

#[derive(Clone, Copy, Serialize)]
struct ResumedFrom {
    disk: usize,
    offset: u64,
}

impl<'a> From<&'a PackReport> for PackSummary<'a> {
    fn from(report: &'a PackReport) -> Self {
        Self {
            output: report.output.to_string_lossy(),
            descriptor: &report.descriptor,
            disks: report.disks.iter().map(DiskSummary::from).collect(),
            output_size: report.output_size,
            file_sha256: report.file_sha256.map(|hash| hash.to_string()),
            manifest_algorithm: report.manifest_hash.name(),
            signed: report.signed,
            bytes_read: report.bytes_read,
            bytes_written: report.bytes_written,
            resumed_from: report.resumed_from.map(|(disk, offset)| ResumedFrom { disk, offset }),
            verified: report.verified,
            manifest: report.manifest.as_ref().map(|path| path.to_string_lossy()),
            elapsed_seconds: seconds(report.elapsed),
            warnings: &report.warnings,
            elapsed: report.elapsed,
        }
    }
}

impl<'a> From<&'a PackedDisk> for DiskSummary<'a> {
    fn from(disk: &'a PackedDisk) -> Self {
        Self {
            file: &disk.file,
            format: disk.format.name(),
            source_format: source_format_name(disk.source_format),
            virtual_size: disk.virtual_size,
            zero_bytes: disk.zero_bytes,
            offset: disk.offset,
            file_size: disk.file_size,
            file_hash: disk.file_hash.to_string(),
            digest: disk.digest.map(DigestObject),
        }
    }
}

impl Report for PackSummary<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Output", &self.output)?;
        field(out, "Descriptor", self.descriptor)?;
        for disk in &self.disks {
            let (size, zero) = (disk.virtual_size, disk.zero_bytes);
            let from = disk.source_format;
            field(
                out,
                "Disk",
                format_args!(
                    "{} (from {from}), {} for {} of disk, zero {}%",
                    disk.file,
                    Bytes(disk.file_size),
                    Bytes(size),
                    percent(zero, size)
                ),
            )?;
            if let Some(digest) = &disk.digest {
                field(out, "Digest", tree_digest(&digest.0))?;
            }
        }
        if let Some(ResumedFrom { disk, offset }) = self.resumed_from {
            match self.disks.get(disk) {
                Some(disk) => field(out, "Resumed at", format_args!("{}, {}", disk.file, Bytes(offset)))?,
                None => field(out, "Resumed at", "the end of the last disk")?,
            }
        }
        let signed = if self.signed { ", signed" } else { "" };
        field(out, "Hashes", format_args!("{}{signed}", self.manifest_algorithm))?;
        let (written, time) = (Bytes(self.bytes_written), Elapsed(self.elapsed));
        field(out, "Written", format_args!("{written} in {time}"))?;
        if let Some(sum) = &self.file_sha256 {
            field(out, "File SHA-256", sum)?;
        }
        if let Some(manifest) = &self.manifest {
            field(out, "Manifest", manifest)?;
        }
        if self.verified {
            field(out, "Verified", "yes, read back and compared")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vmferry::{
        formats::{Format, ova::ManifestHash},
        pipeline::hash::FileHash,
        source::SourceFormat,
    };

    use super::*;

    fn report() -> PackReport {
        PackReport {
            output: "vm.ova".into(),
            descriptor: "vm.ovf".into(),
            disks: vec![PackedDisk {
                file: "vm-disk1.vmdk".into(),
                format: Format::Vmdk,
                source_format: SourceFormat::Image(Format::Raw),
                virtual_size: 8 << 30,
                zero_bytes: 6 << 30,
                offset: Some(2048),
                file_size: 1 << 30,
                file_hash: FileHash::Sha1.of(b""),
                digest: None,
            }],
            output_size: (1 << 30) + 4096,
            file_sha256: None,
            manifest_hash: ManifestHash::Sha1,
            signed: true,
            bytes_read: 2 << 30,
            bytes_written: 1 << 30,
            resumed_from: Some((0, 4 << 20)),
            verified: true,
            manifest: None,
            elapsed: Duration::from_secs(3),
            warnings: Vec::new(),
        }
    }

    fn text(report: &PackReport) -> String {
        let mut text = Vec::new();
        PackSummary::from(report).text(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn text_has_a_line_for_each_disk() {
        assert_eq!(
            text(&report()),
            "Output:        vm.ova\n\
             Descriptor:    vm.ovf\n\
             Disk:          vm-disk1.vmdk (from raw), 1 GiB for 8 GiB of disk, zero 75%\n\
             Resumed at:    vm-disk1.vmdk, 4 MiB\n\
             Hashes:        sha1, signed\n\
             Written:       1 GiB in 3.0s\n\
             Verified:      yes, read back and compared\n"
        );
        let behind = PackReport { resumed_from: Some((1, 0)), ..report() };
        assert!(text(&behind).contains("Resumed at:    the end of the last disk\n"));
    }

    #[test]
    fn json_has_a_stable_shape() {
        let json = serde_json::to_string(&PackSummary::from(&report())).unwrap();
        assert_eq!(
            json,
            "{\"output\":\"vm.ova\",\"descriptor\":\"vm.ovf\",\"disks\":[{\"file\":\"vm-disk1.vmdk\",\
             \"format\":\"vmdk\",\"source_format\":\"raw\",\"virtual_size\":8589934592,\
             \"zero_bytes\":6442450944,\"offset\":2048,\"file_size\":1073741824,\
             \"file_hash\":\"da39a3ee5e6b4b0d3255bfef95601890afd80709\",\"digest\":null}],\
             \"output_size\":1073745920,\"file_sha256\":null,\"manifest_algorithm\":\"sha1\",\"signed\":true,\
             \"bytes_read\":2147483648,\"bytes_written\":1073741824,\
             \"resumed_from\":{\"disk\":0,\"offset\":4194304},\"verified\":true,\"manifest\":null,\
             \"elapsed_seconds\":3.0,\"warnings\":[]}"
        );
    }
}
