//! `vmferry verify`: does an image hold what its manifest says? Is an appliance what it says of itself?

mod appliance;

use std::{
    borrow::Cow,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;
use vmferry::{
    image::{self, ApplianceReport, VerifyReport},
    source,
};

use self::appliance::ApplianceResult;
use super::{
    Failure,
    args::{ReadArgs, source_format_name},
    digest::read_options,
    output::{DigestObject, Output, Plain, Report, tree_digest},
    progress::Watch,
    refuse_terminal_input,
    signals::{self, Stop},
    units::{Bytes, seconds},
};

const AFTER_HELP: &str = "\
The manifest is the file IMAGE.vmferry.jsonl that convert leaves beside its output. Exit code 3
says that the content differs.

An OVA or OVF (without --disk or --manifest) is held against itself: order of the archive, hashes of
its .mf, lengths and references of its descriptor, signature of its .cert, and each disk. A line a
check; exit code 3 if one of them failed. What could not be told is 'not-checked'.";

/// Read a whole image and compare its content with a manifest, or check an OVA or OVF
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// The manifest [default: IMAGE.vmferry.jsonl]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

pub(super) async fn run(args: VerifyArgs, output: &Output) -> Result<(), Failure> {
    refuse_terminal_input(&args.read.image)?;
    let options = read_options(&args.read);
    let watch = Watch::start(output, options.progress.clone());
    let stop = Stop::Orderly(options.cancel.clone());
    let work = async move {
        let (image, manifest) = (&args.read.image, args.manifest);
        let is_whole = manifest.is_none() && options.source.disk.is_none();
        if is_whole && source::is_appliance(image, &options.source).await? {
            return image::verify_appliance(image, &options).await.map(Verified::Appliance);
        }
        image::verify(image, manifest, &options).await.map(Verified::Disk)
    };
    let result = signals::supervise(work, stop, output).await;
    watch.finish().await;
    match result? {
        Verified::Appliance(report) => {
            output.report(&ApplianceResult::from(&report))?;
            report.failure().map_or(Ok(()), |error| Err(error.into()))
        }
        Verified::Disk(report) => Ok(output.report(&VerifyResult::from(&report))?),
    }
}

enum Verified {
    Appliance(ApplianceReport),
    Disk(VerifyReport),
}

#[derive(Serialize)]
struct VerifyResult<'a> {
    name: &'a str,
    verified: bool,
    manifest: Cow<'a, str>,
    format: &'static str,
    content_size: u64,
    digest: DigestObject,
    elapsed_seconds: f64,
}

impl<'a> From<&'a VerifyReport> for VerifyResult<'a> {
    fn from(report: &'a VerifyReport) -> Self {
        Self {
            name: &report.name,
            verified: true,
            manifest: report.manifest.to_string_lossy(),
            format: source_format_name(report.format),
            content_size: report.content_size,
            digest: DigestObject(report.digest),
            elapsed_seconds: seconds(report.elapsed),
        }
    }
}

impl Report for VerifyResult<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (name, digest) = (Plain(self.name), tree_digest(&self.digest.0));
        writeln!(out, "{name}: OK  {digest}  ({})", Bytes(self.content_size))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmferry::{
        TreeDigest,
        formats::{
            Format,
            digest::{Algorithm, Digest},
        },
        source::SourceFormat,
    };

    use super::*;

    fn report() -> VerifyReport {
        VerifyReport {
            name: "disk.qcow2".into(),
            manifest: "disk.qcow2.vmferry.jsonl".into(),
            format: SourceFormat::Image(Format::Qcow2),
            content_size: 1 << 20,
            digest: TreeDigest { algorithm: Algorithm::Sha256, tree: Digest::from_bytes([1; 32]) },
            elapsed: Duration::from_secs(2),
        }
    }

    #[test]
    fn text_is_one_line() {
        let mut text = Vec::new();
        VerifyResult::from(&report()).text(&mut text).unwrap();
        let tree = "01".repeat(32);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            format!("disk.qcow2: OK  tree-sha256:{tree}  (1 MiB)\n")
        );
    }

    #[test]
    fn json_has_a_stable_shape() {
        let json = serde_json::to_string(&VerifyResult::from(&report())).unwrap();
        assert_eq!(
            json,
            format!(
                "{{\"name\":\"disk.qcow2\",\"verified\":true,\"manifest\":\"disk.qcow2.vmferry.jsonl\",\
                 \"format\":\"qcow2\",\"content_size\":1048576,\
                 \"digest\":{{\"algorithm\":\"sha256\",\"tree\":\"{}\"}},\"elapsed_seconds\":2.0}}",
                "01".repeat(32)
            )
        );
    }
}
