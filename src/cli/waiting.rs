//! What commands that change something in a cluster share: whether they wait, and what is shown meanwhile.

use std::{
    future::Future,
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use vmferry::kubevirt::{Acting, Needs, Told};

use super::{
    Failure,
    output::{Output, Report},
    signals::{self, Stop},
    units::parse_duration,
};

/// Whether and how long a change is waited for.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Waiting")]
pub(crate) struct WaitArgs {
    /// Wait until it is done; the default
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,

    /// Return as soon as the cluster has accepted it
    #[arg(long)]
    no_wait: bool,

    /// Longest wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration, conflicts_with = "no_wait")]
    timeout: Duration,

    /// Let the cluster say whether it would do it, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl WaitArgs {
    /// The same for the library.
    pub(crate) fn acting(&self) -> Acting {
        Acting { wait: (!self.no_wait).then_some(self.timeout), dry_run: self.dry_run }
    }
}

/// Shows what the library tells.
pub(crate) fn show(output: &Output) -> impl Fn(Told) + Send + Sync + 'static {
    let output = output.clone();
    move |told| match told {
        Told::Warning(text) => output.warning(&text),
        told => output.note(&told.to_string()),
    }
}

/// Waits for a change of a part of a VM and tells what became of it; `done` is what the part is afterwards:
/// `attached`.
pub(crate) async fn carry_out<C: Into<PartChanged> + Send + 'static>(
    done: &'static str,
    work: impl Future<Output = vmferry::Result<C>> + Send + 'static,
    waiting: WaitArgs,
    output: &Output,
) -> Result<(), Failure> {
    let changed = signals::supervise(work, Stop::AtOnce, output).await?.into();
    Ok(output.report(&Done { changed, done, dry_run: waiting.dry_run })?)
}

/// What became of a change of a part of a VM.
pub(crate) struct PartChanged {
    /// What kind of part it is: `volume`.
    pub(crate) kind: &'static str,
    /// What the VM calls it.
    pub(crate) part: String,
    /// The VM, `namespace/name`.
    pub(crate) vm: String,
    /// Whether the change is complete.
    pub(crate) complete: bool,
    /// What the guest has to do first, for parts that may need it.
    pub(crate) needs: Option<Option<Needs>>,
}

struct Done {
    changed: PartChanged,
    done: &'static str,
    dry_run: bool,
}

impl Done {
    /// The sentence without who it is about.
    fn message(&self) -> String {
        let (kind, done) = (self.changed.kind, self.done);
        let text = match (self.dry_run, self.changed.needs.flatten(), self.changed.complete) {
            (true, ..) => format!("{kind} would be {done}"),
            (false, Some(needs), _) => {
                format!("{kind} will be {done} with the next {} of the VM", needs.name())
            }
            (false, None, true) => format!("{kind} {done} successfully"),
            (false, None, false) => format!("{kind} is being {done}"),
        };
        let mut letters = text.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }
}

// By hand, for the part is under the name of its kind.
impl Serialize for Done {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PartChanged { kind, part, vm, complete, needs } = &self.changed;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("success", &true)?;
        map.serialize_entry("message", &self.message())?;
        map.serialize_entry("timestamp", &timestamp())?;
        map.serialize_entry("vm", vm)?;
        map.serialize_entry(kind, part)?;
        map.serialize_entry("complete", complete)?;
        if let Some(needs) = needs {
            map.serialize_entry("needs", &needs.map(Needs::name))?;
        }
        map.serialize_entry("dry_run", &self.dry_run)?;
        map.end()
    }
}

impl Report for Done {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let PartChanged { kind, part, vm, complete, needs } = &self.changed;
        let (it, done) = (format!("{kind} {part} of VM {vm}"), self.done);
        match (self.dry_run, needs.flatten(), complete) {
            (true, ..) => writeln!(out, "{it} would be {done} (dry run, nothing was changed)"),
            (false, Some(needs), _) => {
                let command = if needs == Needs::Migration { "migrate" } else { "restart" };
                writeln!(
                    out,
                    "{it} will be {done} with its next {}: 'vmferry vm {command} {vm}'",
                    needs.name()
                )
            }
            (false, None, true) => writeln!(out, "{it} {done}"),
            (false, None, false) => writeln!(out, "{it} is being {done}"),
        }
    }
}

/// Now, in whole seconds, as answers carry it.
pub(crate) fn timestamp() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string()
}
