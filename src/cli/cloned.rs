//! What became of a clone, as people and programs want to read it.

use std::io::{self, Write};

use serde::Serialize;
use vmferry::kubevirt::Cloned;

use super::{output::Report, waiting::timestamp};

/// The result of `vm clone` and `snapshot clone`.
#[derive(Serialize)]
pub(crate) struct ClonedReport<'a> {
    success: bool,
    message: &'static str,
    timestamp: String,
    vm: &'a str,
    source: String,
    clone: &'a str,
    state: Option<&'a str>,
    complete: bool,
    dry_run: bool,
}

impl<'a> ClonedReport<'a> {
    /// `source` is what was cloned, in words.
    pub(crate) fn new(source: String, cloned: &'a Cloned, dry_run: bool) -> Self {
        let message = match (dry_run, cloned.complete) {
            (true, _) => "VM would be cloned",
            (false, true) => "VM cloned successfully",
            (false, false) => "VM is being cloned",
        };
        Self {
            success: true,
            message,
            timestamp: timestamp(),
            vm: &cloned.vm,
            source,
            clone: &cloned.clone,
            state: cloned.state.as_deref(),
            complete: cloned.complete,
            dry_run,
        }
    }
}

impl Report for ClonedReport<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { vm, source, clone, .. } = self;
        match (self.dry_run, self.complete) {
            (true, _) => writeln!(out, "VM {vm} would be made of {source} (dry run, nothing was changed)"),
            (false, true) => {
                writeln!(out, "VM {vm} made of {source} ({})", self.state.unwrap_or("gone again"))
            }
            (false, false) => writeln!(out, "VM {vm} is being made of {source} (clone {clone})"),
        }
    }
}
