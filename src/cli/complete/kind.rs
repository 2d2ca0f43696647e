//! Candidates from the cluster.

use std::{path::PathBuf, time::Duration};

use clap::Arg;
use vmferry::kubevirt::{Candidates, Cluster, ClusterOptions, Volumes};

use super::Line;
use crate::cli::config::Settings;

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Objects of the namespace that is worked in, which may stand before a name: `demo/db`.
    Objects(Candidates, Prefixed),
    /// Volumes of the VM that was named.
    Volumes,
}

/// Whether a namespace may stand before the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefixed {
    May,
    Never,
}

/// What an argument names, by how the help calls it.
pub(super) fn of(arg: &Arg) -> Option<Kind> {
    let called = arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
    Some(match (arg.get_id().as_str(), called) {
        ("namespace", _) => Kind::Objects(Candidates::Namespaces, Prefixed::Never),
        ("snapshot" | "vm", "[NAMESPACE/]SNAPSHOT") => Kind::Objects(Candidates::Snapshots, Prefixed::May),
        ("snapshot" | "from_snapshot", _) => Kind::Objects(Candidates::Snapshots, Prefixed::Never),
        (_, "[NAMESPACE/]VM") => Kind::Objects(Candidates::Vms, Prefixed::May),
        ("volume", _) => Kind::Volumes,
        ("pvc" | "claim", _) => Kind::Objects(Candidates::Claims, Prefixed::Never),
        _ => return None,
    })
}

/// The names, or none if anything is wrong.
pub(super) async fn ask(kind: Kind, line: &Line<'_>, settings: &Settings) -> Vec<String> {
    let vm = ["vm", "vm_flag"].into_iter().find_map(|id| line.value(id));
    let named = match kind {
        Kind::Objects(_, Prefixed::May) => line.typed.as_str(),
        Kind::Objects(_, Prefixed::Never) | Kind::Volumes => vm.unwrap_or_default(),
    };
    let before = named.split_once('/').map(|(namespace, _)| namespace);
    let set = |id| line.value(id).or_else(|| settings.value(id)).map(str::to_owned);
    let options = ClusterOptions {
        kubeconfig: set("kubeconfig").map(PathBuf::from),
        context: set("context"),
        namespace: line
            .value("namespace")
            .or(before)
            .or_else(|| settings.value("namespace"))
            .map(str::to_owned),
        act_as: set("act_as"),
        timeout: PATIENCE,
        retry_for: Duration::ZERO,
        ..ClusterOptions::default()
    };
    let Ok(cluster) = Cluster::connect(&options).await else { return Vec::new() };
    match kind {
        Kind::Volumes => {
            let Some(vm) = vm else { return Vec::new() };
            let name = vm.rsplit('/').next().unwrap_or(vm);
            let found = Volumes::new(cluster).list(name).await.unwrap_or_default();
            found.into_iter().map(|volume| volume.name).filter(|name| name.starts_with(&line.typed)).collect()
        }
        Kind::Objects(what, prefixed) => {
            let (place, typed) = match line.typed.split_once('/').filter(|_| prefixed == Prefixed::May) {
                Some((namespace, name)) => (format!("{namespace}/"), name),
                None => (String::new(), line.typed.as_str()),
            };
            let found = what.names(&cluster, typed, MOST).await.unwrap_or_default();
            found.into_iter().map(|name| format!("{place}{name}")).collect()
        }
    }
}

/// How long somebody who types may be kept waiting.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// More than that nobody reads.
const MOST: usize = 1000;
