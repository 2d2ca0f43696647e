//! Options of commands that write objects: `s3://`, `gs://`, `az://`.

#[cfg(feature = "cloud")]
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
#[cfg(feature = "cloud")]
use serde::Serialize;
use vmferry::{Error, Target, is_object_url};
#[cfg(feature = "cloud")]
use vmferry::{ObjectOptions, UploadPlan, object::StoreOptions, source::Rate};

#[cfg(feature = "cloud")]
use super::{
    args::SourceArgs,
    output::{Report, field},
    store::NewObjectArgs,
    units::{Bytes, parse_positive_size},
};

/// How objects are written.
#[cfg(feature = "cloud")]
#[derive(Args, Debug)]
#[command(next_help_heading = "Object storage options")]
pub(crate) struct UploadArgs {
    #[command(flatten)]
    new: NewObjectArgs,

    /// Bytes of each part of an upload, for stores that want them equal [default: 8 MiB for the first
    /// 12 GB, then growing]
    #[arg(long, value_name = "SIZE", value_parser = parse_positive_size)]
    part_size: Option<u64>,
}

#[cfg(not(feature = "cloud"))]
#[derive(Args, Debug)]
pub(crate) struct UploadArgs {}

#[cfg(feature = "cloud")]
impl UploadArgs {
    /// The same for the library, in a store that is reached as the sources are.
    pub(crate) fn options(&self, reading: &SourceArgs, remote_journal: bool) -> ObjectOptions {
        let reading = reading.options();
        let rate = reading.http.rate.map(|rate| rate.bytes_per_second());
        self.options_in(reading.store, rate, remote_journal)
    }

    /// The same in `store`, by at most `rate` bytes a second: a limit of its own, since what is fetched
    /// should not slow down what is sent.
    pub(crate) fn options_in(
        &self,
        store: StoreOptions,
        rate: Option<u64>,
        remote_journal: bool,
    ) -> ObjectOptions {
        let store = self.new.add_to(store);
        let (part_size, rate) = (self.part_size, rate.map(Rate::new));
        ObjectOptions { store, part_size, rate, remote_journal, vm: None }
    }
}

/// What an upload would take.
#[cfg(feature = "cloud")]
#[derive(Serialize)]
pub(super) struct UploadSummary {
    object: String,
    longest_output: Option<u64>,
    first_part: u64,
    longest_part: u64,
    parts: u32,
    longest_object: u64,
    memory: u64,
    most_memory: u64,
}

#[cfg(feature = "cloud")]
impl From<UploadPlan> for UploadSummary {
    fn from(plan: UploadPlan) -> Self {
        Self {
            object: plan.object,
            longest_output: plan.longest_output,
            first_part: plan.first_part,
            longest_part: plan.longest_part,
            parts: plan.parts,
            longest_object: plan.longest_object,
            memory: plan.memory,
            most_memory: plan.most_memory,
        }
    }
}

#[cfg(feature = "cloud")]
impl Report for UploadSummary {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Would upload", &self.object)?;
        match self.longest_output {
            Some(len) => field(out, "At most", Bytes(len))?,
            None => field(out, "At most", "not known before the end of the source")?,
        }
        let (first, longest) = (Bytes(self.first_part), Bytes(self.longest_part));
        field(out, "Parts", format_args!("of {first}, growing to {longest}; {} at most", self.parts))?;
        field(out, "Object", format_args!("up to {} with these parts", Bytes(self.longest_object)))?;
        let (memory, most) = (Bytes(self.memory), Bytes(self.most_memory));
        field(out, "Memory", format_args!("{memory} while parts are short, {most} at the very most"))
    }
}

/// What the user names as an output: an object, or a path, which may be written as a URL too.
pub(crate) fn output_path(output: &Path) -> Result<PathBuf, Error> {
    let Some(text) = output.to_str().filter(|text| text.contains("://")) else {
        return Ok(output.to_owned());
    };
    if is_object_url(text) {
        return Ok(output.to_owned());
    }
    match text.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Ok(path.into()),
        Some(_) => Err(Error::usage(format!("{text} names no file of this machine"))
            .with_hint("write file:///PATH, or the path alone")),
        None => Err(Error::usage(format!("cannot write to the URL {text}")).with_hint(
            "write to a file, to s3://, gs:// or az://, or to - and pipe a raw or streamOptimized vmdk image on",
        )),
    }
}

/// The same as a target.
pub(crate) fn output_target(output: &Path) -> Result<Target, Error> {
    output_path(output).map(Target::at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_files_are_paths_and_those_of_stores_objects() {
        let target = |text: &str| output_target(Path::new(text));
        assert_eq!(target("a/b.raw").unwrap(), Target::Path("a/b.raw".into()));
        assert_eq!(target("file:///a/b.raw").unwrap(), Target::Path("/a/b.raw".into()));
        assert_eq!(target("s3://b/k.raw").unwrap(), Target::Object("s3://b/k.raw".into()));
        assert_eq!(target("azure://b/k.raw").unwrap(), Target::Object("azure://b/k.raw".into()));
        for wrong in ["file://host/a", "https://host/a", "nbd://host"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
