//! `vmferry map`: which parts of a disk hold data, and where.
//!
//! Offsets and lengths are hexadecimal in text, as in `qemu-img map`, and numbers of bytes in JSON.

use std::ops::Range;

use clap::Args;
use serde::Serialize;
use vmferry::image::{self, MapEntry, MapKind};

use super::{
    Failure,
    args::ReadArgs,
    output::{Output, Row},
    refuse_terminal_input,
    signals::{self, Stop},
    units::Bytes,
};

const AFTER_HELP: &str = "\
Text shows offsets and lengths in bytes, hexadecimal. JSON and YAML are a list of objects with
start, length, zero, data, compressed and offset (null unless stored as it is), in guest order.
-o name prints one START+LENGTH a line, in decimal bytes. A JSON list that could not be completed
is left without its closing bracket.";

/// List which parts of a disk are data, zero or compressed, without reading them
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct MapArgs {
    #[command(flatten)]
    read: ReadArgs,
}

pub(super) async fn run(args: MapArgs, output: &Output) -> Result<(), Failure> {
    refuse_terminal_input(&args.read.image)?;
    let (options, location) = (args.read.source_options(), args.read.image);
    let mut rows = output.rows();
    let work = async move {
        let result = image::map(&location, &options, |entry| rows.push(&MapRow::from(entry))).await;
        match result.and_then(|()| rows.finish::<MapRow>()) {
            // `vmferry map | head` has seen what it wanted.
            Err(_) if rows.closed() => Ok(()),
            result => result,
        }
    };
    signals::supervise(work, Stop::AtOnce, output).await
}

#[derive(Debug, Serialize)]
struct MapRow {
    start: u64,
    length: u64,
    zero: bool,
    data: bool,
    compressed: bool,
    offset: Option<u64>,
    #[serde(skip)]
    kind: &'static str,
}

impl From<MapEntry> for MapRow {
    fn from(entry: MapEntry) -> Self {
        let Range { start, end } = entry.guest;
        let (zero, compressed, kind) = match entry.kind {
            MapKind::Compressed => (false, true, "compressed"),
            MapKind::Data => (false, false, "data"),
            MapKind::Zero => (true, false, "zero"),
        };
        let length = end.saturating_sub(start);
        Self { start, length, zero, data: !zero, compressed, offset: entry.host_offset, kind }
    }
}

impl Row for MapRow {
    fn header(wide: bool) -> String {
        let text = format!("{:<18}{:<18}{:<12}OFFSET", "START", "LENGTH", "KIND");
        if wide { format!("{text:<66}{:<18}SIZE", "END") } else { text }
    }

    fn columns(&self, wide: bool) -> String {
        let offset = self.offset.map_or_else(|| "-".to_owned(), |offset| format!("{offset:#x}"));
        let text = format!("{:<#18x}{:<#18x}{:<12}{offset}", self.start, self.length, self.kind);
        if !wide {
            return text;
        }
        format!("{text:<66}{:<#18x}{}", self.start.saturating_add(self.length), Bytes(self.length))
    }

    fn name(&self) -> String {
        format!("{}+{}", self.start, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{args::OutputFormat, output::rendered};

    fn rows() -> [MapRow; 3] {
        let entry = |guest, kind, host_offset| MapRow::from(MapEntry { guest, kind, host_offset });
        [
            entry(0..0x1_0000, MapKind::Data, Some(0x5_0000)),
            entry(0x1_0000..0x2_0000, MapKind::Compressed, None),
            entry(0x2_0000..10 << 30, MapKind::Zero, None),
        ]
    }

    #[test]
    fn text_is_a_table() {
        assert_eq!(
            rendered(OutputFormat::Text, &rows()),
            "START             LENGTH            KIND        OFFSET\n\
             0x0               0x10000           data        0x50000\n\
             0x10000           0x10000           compressed  -\n\
             0x20000           0x27ffe0000       zero        -\n"
        );
        let wide = rendered(OutputFormat::Wide, &rows());
        let lines: Vec<Vec<&str>> = wide.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["START", "LENGTH", "KIND", "OFFSET", "END", "SIZE"]);
        assert_eq!(lines[3], ["0x20000", "0x27ffe0000", "zero", "-", "0x280000000", "9.9", "GiB"]);
        assert_eq!(wide.lines().next().and_then(|line| line.find("END")), Some(66));
    }

    #[test]
    fn json_is_an_array_of_objects() {
        assert_eq!(
            rendered(OutputFormat::Json, &rows()),
            "[\n\
             {\"start\":0,\"length\":65536,\"zero\":false,\"data\":true,\"compressed\":false,\"offset\":327680},\n\
             {\"start\":65536,\"length\":65536,\"zero\":false,\"data\":true,\"compressed\":true,\"offset\":null},\n\
             {\"start\":131072,\"length\":10737287168,\"zero\":true,\"data\":false,\"compressed\":false,\"offset\":null}\n\
             ]\n"
        );
        assert_eq!(rendered::<MapRow>(OutputFormat::Json, &[]), "[]\n");
    }

    #[test]
    fn yaml_is_a_list() {
        let yaml = rendered(OutputFormat::Yaml, &rows());
        assert!(yaml.starts_with("- start: 0\n  length: 65536\n  zero: false\n"), "{yaml}");
        assert_eq!(yaml.lines().filter(|line| line.starts_with("- start: ")).count(), 3);
        assert_eq!(yaml.lines().filter(|line| line.starts_with("  ")).count(), 15);
        assert_eq!(rendered::<MapRow>(OutputFormat::Yaml, &[]), "[]\n");
    }

    #[test]
    fn names_are_start_and_length() {
        assert_eq!(rendered(OutputFormat::Name, &rows()), "0+65536\n65536+65536\n131072+10737287168\n");
    }
}
