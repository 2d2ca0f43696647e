//! What commands that change something in a cluster share: whether they wait, and what is shown meanwhile.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use vmferry::kubevirt::{Acting, Told};

use super::{output::Output, units::parse_duration};

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

/// Now, in whole seconds, as answers carry it.
pub(crate) fn timestamp() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string()
}
