//! `vmferry digest`: the digest of a disk's content, whatever its format.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use vmferry::image::{self, DigestReport, ReadOptions};

use super::{
    Failure,
    args::{AlgorithmArg, ReadArgs, source_format_name},
    output::{DigestObject, Output, Plain, Report, tree_digest},
    progress::Watch,
    refuse_terminal_input,
    signals::{self, Stop},
    units::seconds,
};

const AFTER_HELP: &str = "\
The digest is that of the guest disk: the same content has the same digest in every format. It is
not what sha256sum prints of the file; convert --sums reports that.";

/// Compute the digest of a disk's content
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DigestArgs {
    #[command(flatten)]
    read: ReadArgs,

    /// Hash function of the digest tree
    #[arg(long, value_name = "ALGORITHM", default_value = "sha256", value_enum)]
    digest: AlgorithmArg,
}

pub(super) async fn run(args: DigestArgs, output: &Output) -> Result<(), Failure> {
    refuse_terminal_input(&args.read.image)?;
    let options = read_options(&args.read);
    let watch = Watch::start(output, options.progress.clone());
    let stop = Stop::Orderly(options.cancel.clone());
    let work = async move { image::digest(&args.read.image, args.digest.into(), &options).await };
    let result = signals::supervise(work, stop, output).await;
    watch.finish().await;
    Ok(output.report(&DigestResult::from(&result?))?)
}

/// How a whole image is read.
pub(super) fn read_options(args: &ReadArgs) -> ReadOptions {
    ReadOptions {
        source: args.source_options(),
        workers: args.resources.workers(),
        memory: args.resources.memory,
        ..ReadOptions::default()
    }
}

#[derive(Serialize)]
struct DigestResult<'a> {
    name: &'a str,
    format: &'static str,
    virtual_size: u64,
    zero_bytes: u64,
    bytes_read: u64,
    digest: DigestObject,
    elapsed_seconds: f64,
}

impl<'a> From<&'a DigestReport> for DigestResult<'a> {
    fn from(report: &'a DigestReport) -> Self {
        Self {
            name: &report.name,
            format: source_format_name(report.format),
            virtual_size: report.virtual_size,
            zero_bytes: report.zero_bytes,
            bytes_read: report.bytes_read,
            digest: DigestObject(report.digest),
            elapsed_seconds: seconds(report.elapsed),
        }
    }
}

impl Report for DigestResult<'_> {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}", tree_digest(&self.digest.0), Plain(self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use vmferry::{
        TreeDigest,
        formats::{
            Format,
            digest::{Algorithm, Digest},
        },
        source::SourceFormat,
    };

    use super::*;
    use crate::cli::{Cli, args::Command};

    fn report() -> DigestReport {
        DigestReport {
            name: "disk.vmdk".into(),
            format: SourceFormat::Image(Format::Vmdk),
            virtual_size: 1024,
            zero_bytes: 512,
            bytes_read: 2048,
            digest: TreeDigest { algorithm: Algorithm::Blake3, tree: Digest::from_bytes([0xab; 32]) },
            elapsed: Duration::from_micros(1_234_567),
        }
    }

    #[test]
    fn text_is_a_line_like_those_of_sha256sum() {
        let mut text = Vec::new();
        DigestResult::from(&report()).text(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), format!("tree-blake3:{}  disk.vmdk\n", "ab".repeat(32)));
    }

    #[test]
    fn json_has_a_stable_shape() {
        let json = serde_json::to_string(&DigestResult::from(&report())).unwrap();
        assert_eq!(
            json,
            format!(
                "{{\"name\":\"disk.vmdk\",\"format\":\"vmdk\",\"virtual_size\":1024,\"zero_bytes\":512,\
                 \"bytes_read\":2048,\"digest\":{{\"algorithm\":\"blake3\",\"tree\":\"{}\"}},\
                 \"elapsed_seconds\":1.235}}",
                "ab".repeat(32)
            )
        );
    }

    #[test]
    fn options_are_passed_on() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Digest(args) => args,
            other => panic!("{other:?}"),
        };
        let defaults = parse("vmferry digest x");
        assert_eq!(defaults.digest, AlgorithmArg::Sha256);
        let (ours, library) = (read_options(&defaults.read), ReadOptions::default());
        assert_eq!(format!("{:?}", ours.source), format!("{:?}", library.source));
        assert_eq!((ours.workers, ours.memory), (library.workers, library.memory));
        let args = parse("vmferry digest x --digest blake3 -f gz --workers 3 --memory 1G --source-size 1M");
        let options = read_options(&args.read);
        assert_eq!((options.workers, options.memory), (Some(3), 1 << 30));
        assert_eq!((options.source.format, options.source.size), (Some(SourceFormat::Gzip), Some(1 << 20)));
        assert!(Cli::try_parse_from(["vmferry", "digest", "x", "--digest", "none"]).is_err());
    }
}
