//! `vmferry inspect`: what can be said of an image without reading its data.

mod appliance;

use std::io::{self, Write};

use clap::Args;
use serde::{Serialize, Serializer};
use vmferry::{
    formats::ImageInfo,
    image::{self, Inspected, Inspection},
};

use self::appliance::ApplianceReport;
use super::{
    Failure,
    args::{ReadArgs, source_format_name},
    output::{Output, Report, field},
    refuse_terminal_input,
    signals::{self, Stop},
    units::Bytes,
};

/// Show format, size and properties of an image, or hardware, disks and files of an OVA or OVF, without
/// reading data
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn run(args: InspectArgs, output: &Output) -> Result<(), Failure> {
    refuse_terminal_input(&args.read.image)?;
    let (options, location) = (args.read.source_options(), args.read.image);
    let work = async move { image::inspect(&location, &options).await };
    match signals::supervise(work, Stop::AtOnce, output).await? {
        Inspected::Appliance(appliance) => output.report(&ApplianceReport::new(&appliance))?,
        Inspected::Disk(inspection) => {
            inspection.warnings.iter().for_each(|warning| output.warning(warning));
            output.report(&InspectReport::new(&inspection))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct InspectReport<'a> {
    name: &'a str,
    format: &'static str,
    virtual_size: Option<u64>,
    file_size: Option<u64>,
    allocated: Option<u64>,
    info: Option<InfoReport<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct InfoReport<'a> {
    format: &'static str,
    variant: &'a str,
    virtual_size: u64,
    cluster_size: u64,
    compression: &'static str,
    dirty: bool,
    #[serde(serialize_with = "as_object")]
    details: &'a [(&'static str, String)],
}

/// In the order that the image's format gives them.
fn as_object<S: Serializer>(details: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(details.iter().map(|(name, value)| (name, value)))
}

impl<'a> InspectReport<'a> {
    fn new(inspection: &'a Inspection) -> Self {
        let info = |info: &'a ImageInfo| InfoReport {
            format: info.format.name(),
            variant: &info.variant,
            virtual_size: info.virtual_size,
            cluster_size: info.cluster_len,
            compression: info.compression.name(),
            dirty: info.dirty,
            details: &info.details,
        };
        Self {
            name: &inspection.name,
            format: source_format_name(inspection.format),
            virtual_size: inspection.virtual_size,
            file_size: inspection.file_size,
            allocated: inspection.allocated,
            info: inspection.info.as_ref().map(info),
            warnings: &inspection.warnings,
        }
    }
}

impl Report for InspectReport<'_> {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let size = |size: Option<u64>| {
            size.map_or_else(|| "unknown".to_owned(), |size| format!("{} ({size} bytes)", Bytes(size)))
        };
        field(out, "Image", self.name)?;
        match &self.info {
            Some(info) => field(out, "Format", format_args!("{} ({})", self.format, info.variant))?,
            None => field(out, "Format", self.format)?,
        }
        field(out, "Virtual size", size(self.virtual_size))?;
        if self.file_size.is_some() {
            field(out, "File size", size(self.file_size))?;
        }
        if self.allocated.is_some() {
            field(out, "On disk", size(self.allocated))?;
        }
        let Some(info) = &self.info else { return Ok(()) };
        field(out, "Cluster size", Bytes(info.cluster_size))?;
        field(out, "Compression", info.compression)?;
        field(out, "Dirty", if info.dirty { "yes: not closed cleanly" } else { "no" })?;
        info.details.iter().try_for_each(|(name, value)| field(out, name, value))
    }
}

#[cfg(test)]
mod tests {
    use vmferry::{
        formats::{Compression, Format},
        source::SourceFormat,
    };

    use super::*;

    fn qcow2() -> Inspection {
        Inspection {
            name: "disk.qcow2".into(),
            format: SourceFormat::Image(Format::Qcow2),
            virtual_size: Some(10 << 30),
            file_size: Some(197_120),
            allocated: Some(4096),
            info: Some(ImageInfo {
                format: Format::Qcow2,
                variant: "v3".into(),
                virtual_size: 10 << 30,
                cluster_len: 65536,
                compression: Compression::Zstd,
                dirty: true,
                details: vec![("lazy refcounts", "no".into()), ("backing file", "a\u{1b}[2J".into())],
            }),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn json_has_every_field() {
        let json = serde_json::to_string(&InspectReport::new(&qcow2())).unwrap();
        assert_eq!(
            json,
            "{\"name\":\"disk.qcow2\",\"format\":\"qcow2\",\"virtual_size\":10737418240,\"file_size\":197120,\
             \"allocated\":4096,\"info\":{\"format\":\"qcow2\",\"variant\":\"v3\",\"virtual_size\":10737418240,\
             \"cluster_size\":65536,\"compression\":\"zstd\",\"dirty\":true,\
             \"details\":{\"lazy refcounts\":\"no\",\"backing file\":\"a\\u001b[2J\"}},\"warnings\":[]}"
        );
    }

    #[test]
    fn text_is_for_people_and_does_not_steer_the_terminal() {
        let mut text = Vec::new();
        InspectReport::new(&qcow2()).text(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "Image:         disk.qcow2\n\
             Format:        qcow2 (v3)\n\
             Virtual size:  10 GiB (10737418240 bytes)\n\
             File size:     192.5 KiB (197120 bytes)\n\
             On disk:       4 KiB (4096 bytes)\n\
             Cluster size:  64 KiB\n\
             Compression:   zstd\n\
             Dirty:         yes: not closed cleanly\n\
             lazy refcounts: no\n\
             backing file:  a\\u{1b}[2J\n"
        );
    }

    #[test]
    fn a_stream_says_little() {
        let stream = Inspection {
            name: "stdin".into(),
            format: SourceFormat::Gzip,
            virtual_size: None,
            file_size: None,
            allocated: None,
            info: None,
            warnings: Vec::new(),
        };
        let report = InspectReport::new(&stream);
        let mut text = Vec::new();
        report.text(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "Image:         stdin\nFormat:        gzip\nVirtual size:  unknown\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["virtual_size"].is_null() && json["info"].is_null());
    }
}
