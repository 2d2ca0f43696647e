//! What a conversion did, as people and programs want to read it.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;
use vmferry::ConversionReport;

use crate::cli::{
    args::source_format_name,
    output::{DigestObject, Report, field, tree_digest},
    units::{Bytes, Elapsed, percent, rate, seconds},
};

/// The result of `convert`.
#[derive(Serialize)]
pub(super) struct ConvertReport<'a> {
    output: &'a str,
    format: &'static str,
    source_format: &'static str,
    virtual_size: u64,
    bytes_read: u64,
    bytes_written: u64,
    output_size: u64,
    zero_bytes: u64,
    digest: Option<DigestObject>,
    file_sha256: Option<String>,
    resumed_from: Option<u64>,
    verified: bool,
    manifest: Option<String>,
    elapsed_seconds: f64,
    warnings: &'a [String],
    #[serde(skip)]
    elapsed: Duration,
}

impl<'a> From<&'a ConversionReport> for ConvertReport<'a> {
    fn from(report: &'a ConversionReport) -> Self {
        Self {
            output: &report.output,
            format: report.format.name(),
            source_format: source_format_name(report.source_format),
            virtual_size: report.virtual_size,
            bytes_read: report.bytes_read,
            bytes_written: report.bytes_written,
            output_size: report.output_size,
            zero_bytes: report.zero_bytes,
            digest: report.digest.map(DigestObject),
            file_sha256: report.file_sha256.map(|digest| digest.to_string()),
            resumed_from: report.resumed_from,
            verified: report.verified,
            manifest: report.manifest.as_ref().map(|path| path.to_string_lossy().into_owned()),
            elapsed_seconds: seconds(report.elapsed),
            warnings: &report.warnings,
            elapsed: report.elapsed,
        }
    }
}

impl Report for ConvertReport<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Output", self.output)?;
        field(out, "Format", format_args!("{} (from {})", self.format, self.source_format))?;
        let size = self.virtual_size;
        field(out, "Virtual size", format_args!("{} ({size} bytes)", Bytes(size)))?;
        let (data, zero) = (size.saturating_sub(self.zero_bytes), self.zero_bytes);
        field(out, "Data", format_args!("{}, zero {} ({}%)", Bytes(data), Bytes(zero), percent(zero, size)))?;
        if let Some(offset) = self.resumed_from {
            field(out, "Resumed at", Bytes(offset))?;
        }
        field(out, "Written", format_args!("{} in {}", Bytes(self.bytes_written), self.time()))?;
        if let Some(digest) = &self.digest {
            field(out, "Digest", tree_digest(&digest.0))?;
        }
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

impl ConvertReport<'_> {
    /// The time, and how fast this run went through the disk.
    fn time(&self) -> String {
        let done = self.virtual_size.saturating_sub(self.resumed_from.unwrap_or(0));
        match rate(done, self.elapsed) {
            Some(rate) if rate > 0 => format!("{} ({}/s of disk)", Elapsed(self.elapsed), Bytes(rate)),
            _ => Elapsed(self.elapsed).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use vmferry::{
        TreeDigest,
        formats::{
            Format,
            digest::{Algorithm, Digest},
        },
        source::SourceFormat,
    };

    use super::*;

    fn report() -> ConversionReport {
        ConversionReport {
            output: "disk.qcow2".into(),
            format: Format::Qcow2,
            source_format: SourceFormat::Image(Format::Raw),
            virtual_size: 10 << 30,
            bytes_read: 3 << 30,
            bytes_written: (3 << 30) + 65536,
            output_size: (3 << 30) + 131_072,
            zero_bytes: 7 << 30,
            digest: Some(TreeDigest { algorithm: Algorithm::Sha256, tree: Digest::from_bytes([0xcd; 32]) }),
            file_sha256: None,
            resumed_from: None,
            verified: true,
            manifest: Some("disk.qcow2.vmferry.jsonl".into()),
            elapsed: Duration::from_millis(2500),
            warnings: vec!["the source has no ETag".into()],
        }
    }

    fn text(report: &ConversionReport) -> String {
        let mut text = Vec::new();
        ConvertReport::from(report).text(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn text_is_a_short_summary() {
        assert_eq!(
            text(&report()),
            format!(
                "Output:        disk.qcow2\n\
                 Format:        qcow2 (from raw)\n\
                 Virtual size:  10 GiB (10737418240 bytes)\n\
                 Data:          3 GiB, zero 7 GiB (70%)\n\
                 Written:       3 GiB in 2.5s (4 GiB/s of disk)\n\
                 Digest:        tree-sha256:{}\n\
                 Manifest:      disk.qcow2.vmferry.jsonl\n\
                 Verified:      yes, read back and compared\n",
                "cd".repeat(32)
            )
        );
    }

    #[test]
    fn a_resumed_run_counts_only_what_it_did() {
        let resumed = ConversionReport {
            resumed_from: Some(5 << 30),
            file_sha256: Some(Digest::from_bytes([1; 32])),
            digest: None,
            manifest: None,
            verified: false,
            ..report()
        };
        let text = text(&resumed);
        assert!(text.contains("Resumed at:    5 GiB\n"), "{text}");
        assert!(text.contains("(2 GiB/s of disk)"), "{text}");
        assert!(text.contains(&format!("File SHA-256:  {}\n", "01".repeat(32))), "{text}");
        for absent in ["Digest:", "Manifest:", "Verified:"] {
            assert!(!text.contains(absent), "{text}");
        }
    }

    #[test]
    fn json_has_a_stable_shape() {
        let json = serde_json::to_string(&ConvertReport::from(&report())).unwrap();
        assert_eq!(
            json,
            format!(
                "{{\"output\":\"disk.qcow2\",\"format\":\"qcow2\",\"source_format\":\"raw\",\
                 \"virtual_size\":10737418240,\"bytes_read\":3221225472,\"bytes_written\":3221291008,\
                 \"output_size\":3221356544,\"zero_bytes\":7516192768,\
                 \"digest\":{{\"algorithm\":\"sha256\",\"tree\":\"{}\"}},\"file_sha256\":null,\
                 \"resumed_from\":null,\"verified\":true,\"manifest\":\"disk.qcow2.vmferry.jsonl\",\
                 \"elapsed_seconds\":2.5,\"warnings\":[\"the source has no ETag\"]}}",
                "cd".repeat(32)
            )
        );
        let without = ConversionReport { digest: None, manifest: None, ..report() };
        let json = serde_json::to_value(ConvertReport::from(&without)).unwrap();
        assert!(json["digest"].is_null() && json["manifest"].is_null());
    }

    #[test]
    fn an_empty_disk_does_not_divide_by_zero() {
        let empty = ConversionReport {
            virtual_size: 0,
            zero_bytes: 0,
            bytes_written: 0,
            elapsed: Duration::ZERO,
            ..report()
        };
        assert!(text(&empty).contains("Written:       0 B in 0.0s\n"));
    }
}
