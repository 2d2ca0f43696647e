//! `vmferry gc`: what runs that were never finished have left, in a cluster or in an object store.

#[cfg(feature = "kubevirt")]
mod cluster;
#[cfg(feature = "cloud")]
mod store;

use std::time::Duration;

use clap::Args;
use vmferry::Error;

#[cfg(feature = "kubevirt")]
use super::cluster::ClusterArgs;
#[cfg(feature = "cloud")]
use super::store::StoreArgs;
use super::{Failure, output::Output, units::parse_duration};

const AFTER_HELP: &str = "\
In a cluster: objects of runs that are going on are listed too, other people's as well. It needs the
rights to list and delete virtualmachineexports, virtualmachinesnapshots and secrets. Secrets go with
their exports: without the rights to them they are left to the cluster.

In an object store: runs leave a marker below PREFIX/.vmferry/ while they upload. The uploads that
markers tell of are listed, with --yes they are given up, whereby their parts are deleted. Uploads
without a marker are never touched. Azure deletes what was not committed by itself, after a week: only
the markers are removed there. All objects below PREFIX are listed to find the markers.

With --yes alone, what is younger than an hour stays (of an upload: what was written to within an
hour): --run removes what one run has made (a failed run tells its id), --older-than what is at least
so old, --all everything.

Examples:
  vmferry gc -A
  vmferry gc -n demo --run 0123456789 --yes
  vmferry gc s3://backups/vms --older-than 24h --yes";

/// List, and with --yes remove, what unfinished runs have left in the cluster or an object store
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct GcArgs {
    /// Bucket, or a prefix in one, to look in instead of the cluster: s3://, gs:// or az://
    #[cfg(feature = "cloud")]
    #[arg(value_name = "URL")]
    #[cfg_attr(feature = "kubevirt", arg(conflicts_with_all = ["all_namespaces", "context", "kubeconfig", "namespace"]))]
    url: Option<String>,

    /// Look in all namespaces
    #[cfg(feature = "kubevirt")]
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Only what is at least so old
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    older_than: Option<Duration>,

    /// Only what the run with this id has made
    #[arg(long, value_name = "ID")]
    run: Option<String>,

    /// Remove what is listed; without --run, --older-than and --all only what is older than an hour
    #[arg(long)]
    yes: bool,

    /// With --yes: whatever its age
    #[arg(long, requires = "yes", conflicts_with_all = ["older_than", "run"])]
    all: bool,

    #[cfg(feature = "kubevirt")]
    #[command(flatten)]
    cluster: ClusterArgs,

    #[cfg(feature = "cloud")]
    #[command(flatten)]
    store: StoreArgs,
}

/// What became of what is listed.
enum End {
    /// Nothing was to be done.
    Listed,
    /// It is too young.
    Kept,
    Removed,
    Failed(Error),
}

impl GcArgs {
    /// The age from which on what is listed is removed.
    fn removed_from(&self) -> Duration {
        if self.all || self.run.is_some() { Duration::ZERO } else { self.older_than.unwrap_or(UNTOUCHED) }
    }
}

pub(super) async fn run(args: &GcArgs, output: &Output) -> Result<(), Failure> {
    #[cfg(feature = "cloud")]
    if let Some(url) = &args.url {
        return store::run(url, args, output).await;
    }
    #[cfg(feature = "kubevirt")]
    return cluster::run(args, output).await;
    #[cfg(not(feature = "kubevirt"))]
    Err(Error::usage("say where to look: this vmferry was built without clusters")
        .with_hint("vmferry gc s3://BUCKET/PREFIX")
        .into())
}

/// What is told where something was too young.
const KEPT: &str = "what is younger than an hour was kept: say --run, --older-than or --all";

/// With --yes alone, what is younger may be of a run that is going on.
const UNTOUCHED: Duration = Duration::from_secs(3600);
