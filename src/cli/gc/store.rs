//! What uploads that were never finished have left in an object store.

use std::time::Duration;

use serde::Serialize;
use vmferry::{
    Error, ErrorKind,
    object::{LeftRun, LeftUpload, UploadState, store_leftovers},
};

use super::{End, GcArgs, KEPT};
use crate::cli::{
    Failure,
    output::{Output, Row},
    signals::{self, Stop},
    units::{Bytes, Elapsed},
};

/// Looks below `url`.
pub(super) async fn run(url: &str, args: &GcArgs, output: &Output) -> Result<(), Failure> {
    let (place, run, options) = (url.to_owned(), args.run.clone(), args.store.briefly());
    let look = async move { store_leftovers(&place, run.as_deref(), &options).await };
    let found = signals::supervise(look, Stop::AtOnce, output).await?;
    for (marker, why) in &found.unbelieved {
        output.warning(&format!("the marker {marker} is left alone: {why}"));
    }
    let older_than = args.older_than.unwrap_or_default();
    let runs: Vec<LeftRun> = found.runs.into_iter().filter(|run| run.idle >= older_than).collect();
    let (from, yes, told) = (args.removed_from(), args.yes, output.clone());
    let work = async move {
        let (mut rows, mut ends) = (told.rows(), Ends::default());
        for run in &runs {
            let end = match yes {
                false => End::Listed,
                true if run.idle < from => End::Kept,
                true => match run.remove().await {
                    Ok(()) => End::Removed,
                    Err(error) => End::Failed(error),
                },
            };
            for upload in &run.uploads {
                rows.push(&Upload::new(run, upload, &end))?;
            }
            match end {
                End::Removed => {
                    let untold = |upload: &LeftUpload| upload.state == UploadState::Untold;
                    ends.untold |= run.uploads.iter().any(untold);
                }
                End::Listed => ends.listed += 1,
                End::Kept => ends.kept += 1,
                End::Failed(error) => {
                    let is_network = error.kind() == ErrorKind::Network;
                    ends.failed.get_or_insert(error);
                    if is_network {
                        break;
                    }
                }
            }
        }
        rows.finish::<Upload<'_>>()?;
        Ok(ends)
    };
    let ends = signals::supervise(work, Stop::AtOnce, output).await?;
    if let Some(error) = ends.failed {
        return Err(error.into());
    }
    if ends.listed > 0 {
        output.note("nothing was removed; --yes gives up what is listed");
    }
    if ends.kept > 0 {
        output.note(KEPT);
    }
    if ends.untold {
        output.note("markers were removed of uploads that the store does not tell of: Azure deletes blocks that were never committed after a week; other stores may have a rule for uploads that are not completed");
    }
    Ok(())
}

/// How many runs ended how.
#[derive(Default)]
struct Ends {
    listed: usize,
    kept: usize,
    /// The first error.
    failed: Option<Error>,
    /// Something was removed whose parts the store keeps for a while.
    untold: bool,
}

/// A row: an upload.
#[derive(Serialize)]
struct Upload<'a> {
    object: &'a str,
    run: &'a str,
    vm: Option<&'a str>,
    idle_seconds: u64,
    state: &'static str,
    parts: Option<usize>,
    bytes: Option<u64>,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Upload<'a> {
    fn new(run: &'a LeftRun, upload: &'a LeftUpload, end: &End) -> Self {
        let (state, parts, bytes) = match upload.state {
            UploadState::Open { parts, bytes } => ("open", Some(parts), Some(bytes)),
            UploadState::Gone => ("gone", None, None),
            UploadState::Untold => ("untold", None, None),
        };
        Self {
            object: &upload.url,
            run: &run.run,
            vm: run.vm.as_deref(),
            idle_seconds: run.idle.as_secs(),
            state,
            parts,
            bytes,
            removed: matches!(end, End::Removed),
            error: match end {
                End::Failed(error) => Some(error.to_string()),
                _ => None,
            },
        }
    }
}

impl Row for Upload<'_> {
    fn header(wide: bool) -> String {
        let run = if wide { "  RUN" } else { "" };
        format!(
            "{:<48} {:<24} {:>7}  {:<6} {:>6} {:>10}  REMOVED{run}",
            "OBJECT", "VM", "IDLE", "STATE", "PARTS", "SIZE"
        )
    }

    fn columns(&self, wide: bool) -> String {
        let idle = Elapsed(Duration::from_secs(self.idle_seconds)).to_string();
        let removed = if self.removed { "yes" } else { "no" };
        let run = if wide { format!("  {}", self.run) } else { String::new() };
        let error = self.error.as_ref().map_or_else(String::new, |error| format!("  failed: {error}"));
        let parts = self.parts.map_or_else(|| "-".to_owned(), |parts| parts.to_string());
        let size = self.bytes.map_or_else(|| "-".to_owned(), |bytes| Bytes(bytes).to_string());
        let vm = self.vm.unwrap_or("-");
        format!(
            "{:<48} {vm:<24} {idle:>7}  {:<6} {parts:>6} {size:>10}  {removed:<7}{run}{error}",
            self.object, self.state
        )
        .trim_end()
        .to_owned()
    }

    fn name(&self) -> String {
        self.object.to_owned()
    }
}
