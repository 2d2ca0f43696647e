//! `vmferry gc`: what exports that were never finished have left in a cluster.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use vmferry::kubevirt::{Leftover, leftovers};

use super::{
    Failure,
    cluster::ClusterArgs,
    output::{Output, Row},
    signals::{self, Stop},
    units::{Elapsed, parse_duration},
};

const AFTER_HELP: &str = "\
Objects of runs that are going on are listed too: name an age that no run of yours reaches.

Examples:
  vmferry gc -A
  vmferry gc -n demo --older-than 24h --yes";

/// List, and with --yes remove, what exports have left in the cluster
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct GcArgs {
    /// Look in all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Only what is at least so old
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,

    /// Remove what is listed
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: &GcArgs, output: &Output) -> Result<(), Failure> {
    let cluster = args.cluster.connect(None, None).await?;
    let (everywhere, older_than, yes) = (args.all_namespaces, args.older_than.unwrap_or_default(), args.yes);
    let work = async move {
        let found = leftovers(&cluster, everywhere, older_than).await?;
        if yes {
            for leftover in &found {
                leftover.remove(&cluster).await?;
            }
        }
        Ok(found)
    };
    let found = signals::supervise(work, Stop::AtOnce, output).await?;
    let mut rows = output.rows();
    for leftover in &found {
        rows.push(&Object::new(leftover, yes))?;
    }
    rows.finish::<Object<'_>>()?;
    if !yes && !found.is_empty() {
        output.note("nothing was removed; --yes removes what is listed");
    }
    Ok(())
}

/// A row: an object.
#[derive(Serialize)]
struct Object<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    run: Option<&'a str>,
    age_seconds: Option<u64>,
    removed: bool,
}

impl<'a> Object<'a> {
    fn new(leftover: &'a Leftover, removed: bool) -> Self {
        Self {
            kind: leftover.kind.name(),
            namespace: &leftover.namespace,
            name: &leftover.name,
            run: leftover.run.as_deref(),
            age_seconds: leftover.age.map(|age| age.as_secs()),
            removed,
        }
    }
}

impl Row for Object<'_> {
    fn header(wide: bool) -> String {
        let run = if wide { "  RUN" } else { "" };
        format!("{:<24} {:<20} {:<48} {:>7}  REMOVED{run}", "KIND", "NAMESPACE", "NAME", "AGE")
    }

    fn columns(&self, wide: bool) -> String {
        let age =
            self.age_seconds.map_or_else(String::new, |age| Elapsed(Duration::from_secs(age)).to_string());
        let removed = if self.removed { "yes" } else { "no" };
        let run = if wide { format!("      {}", self.run.unwrap_or_default()) } else { String::new() };
        format!("{:<24} {:<20} {:<48} {age:>7}  {removed}{run}", self.kind, self.namespace, self.name)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}
