//! The ways to an exporter: what can be known of them while there is none, and what a real one says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Check, Verdict, rights_check};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Cluster, ExportSource, Power, Resource, Session, SessionOptions, Told, VolumePlan,
        access::{TO_EXPORT, demand, missing_rights, to_forward},
        config::in_cluster,
        run_id,
    },
    source::HttpOptions,
};

/// What can be seen of the ways while there is no exporter. `namespace` is KubeVirt's own, if it is known.
pub(super) async fn look(cluster: &Cluster, namespace: Option<&str>) -> Vec<Check> {
    let outside = match namespace {
        Some(namespace) => host_outside(&cluster.in_namespace(namespace)).await,
        None => Err(Error::new(ErrorKind::Cluster, "it is not known where KubeVirt is installed")),
    };
    let is_known_absent = matches!(outside, Ok(None));
    let mut checks = vec![match outside {
        Ok(Some(host)) => Check::new(EXTERNAL, Verdict::Good, format!("exports are offered at {host}")),
        Ok(None) => Check::new(EXTERNAL, Verdict::Mind, "there is no Ingress or Route to virt-exportproxy").remedy(
            "without one exports go through the API server, which is slower (--reach port-forward), or this runs in the cluster",
        ),
        Err(error) => Check::new(EXTERNAL, Verdict::Mind, format!("cannot be told without an export: {error}"))
            .remedy("make one for a moment: --probe"),
    }];
    let to_forward = to_forward(cluster).await;
    checks.push(rights_check(cluster, FORWARD, &to_forward, Verdict::Mind).await);
    if in_cluster() {
        checks.push(Check::new(INTERNAL, Verdict::Good, "this runs in the cluster"));
    } else if is_known_absent && !missing_rights(cluster, &to_forward).await.is_empty() {
        checks.push(
            Check::new("reach", Verdict::Bad, "no way leads from here to an exporter")
                .remedy("ask for the rights to port-forward or for an Ingress to virt-exportproxy, or run this in the cluster"),
        );
    }
    checks
}

/// The host at which exports are offered to those outside the cluster, found as KubeVirt finds it.
async fn host_outside(cluster: &Cluster) -> Result<Option<String>> {
    let ingresses: Vec<Value> = cluster.list(&Resource::ingresses(), false, "").await?;
    if let Some(host) = ingresses.iter().find_map(host_of) {
        return Ok(Some(host));
    }
    // Found by OpenShift only, and no error elsewhere.
    let route: Option<Value> = cluster.find(&Resource::routes(), PROXY).await?;
    let host = |route: &Value| Some(route.pointer("/spec/host")?.as_str()?.to_owned());
    Ok(route.as_ref().and_then(host))
}

/// The host of an Ingress that leads to the export proxy.
fn host_of(ingress: &Value) -> Option<String> {
    let leads = |backend: Option<&Value>| {
        backend.and_then(|backend| backend.pointer("/service/name")).and_then(Value::as_str) == Some(PROXY)
    };
    let rules = || ingress.pointer("/spec/rules").and_then(Value::as_array).into_iter().flatten();
    let is_default = leads(ingress.pointer("/spec/defaultBackend"));
    let of_rule = |rule: &&Value| {
        let paths = rule.pointer("/http/paths").and_then(Value::as_array);
        is_default || paths.into_iter().flatten().any(|path| leads(path.get("backend")))
    };
    rules().find(of_rule)?.get("host")?.as_str().map(str::to_owned)
}

/// How a probe is made.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Longest wait for the export to be ready.
    pub wait: Duration,
    /// CA certificates to trust instead of those beside the links, in PEM form.
    pub authorities: Option<Vec<u8>>,
    /// Host and port, as a URL, where the exporter's service is reached.
    pub service_url: Option<url::Url>,
}

/// Makes an export of a VM for a moment, asks for a disk's size over every way there may be, and removes it,
/// also if `cancel` ends the probe.
///
/// # Errors
/// Only of kind [`ErrorKind::Interrupted`]: whatever else goes wrong is a check.
pub async fn probe(
    cluster: &Cluster,
    vm: &str,
    options: ProbeOptions,
    teller: impl Fn(Told) + Send + Sync + 'static,
    cancel: &CancellationToken,
) -> Result<Vec<Check>> {
    let run = run_id()?;
    let failed = |error: Error| vec![Check::failed(PROBE, Verdict::Bad, &error)];
    let tried = cancel.run_until_cancelled(attempt(cluster, vm, &run, options, teller)).await;
    let mut checks = match tried {
        Some(Ok(Attempt::NotMade(check))) => return Ok(vec![check]),
        Some(Ok(Attempt::Made(checks))) => checks,
        Some(Err(error)) => failed(error),
        None => Vec::new(),
    };
    let removed = tokio::time::timeout(CLEAN_UP, cluster.remove_run(vm, &run, false)).await;
    let left = match removed {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the cluster does not answer".to_owned()),
    };
    let gc = format!("vmferry gc -n {} --yes", cluster.namespace());
    if cancel.is_cancelled() {
        let error = Error::new(ErrorKind::Interrupted, "interrupted");
        return Err(match left {
            Some(left) => {
                error.with_hint(format!("the export of the probe may still be there ({left}): {gc}"))
            }
            None => error,
        });
    }
    checks.extend(left.map(|left| {
        Check::new(PROBE, Verdict::Mind, format!("its export could not be removed: {left}")).remedy(gc)
    }));
    Ok(checks)
}

enum Attempt {
    /// Nothing was made.
    NotMade(Check),
    Made(Vec<Check>),
}

async fn attempt(
    cluster: &Cluster,
    name: &str,
    run: &str,
    options: ProbeOptions,
    teller: impl Fn(Told) + Send + Sync + 'static,
) -> Result<Attempt> {
    let vm = cluster.vm(name).await?;
    if cluster.power(name).await? != Power::Stopped {
        let check = Check::new(PROBE, Verdict::Mind, "the VM runs: only a snapshot of it could be exported");
        return Ok(Attempt::NotMade(check.remedy("probe a stopped VM, the ways are the same for all")));
    }
    demand(cluster, &TO_EXPORT).await?;
    let session_options = SessionOptions {
        ttl: Some(TTL),
        wait: options.wait,
        authorities: options.authorities,
        service_url: options.service_url,
        ..SessionOptions::new(run)
    };
    let source = ExportSource::VirtualMachine(name.to_owned());
    let session = Session::begin(cluster, source, session_options, teller).await?;
    let export = session.ready().await?;
    let links = export.status.links.internal.or(export.status.links.external).unwrap_or_default();
    let planned = VolumePlan::of_vm(&vm.object).joined(&links.volumes)?;
    let volume =
        planned.volumes.first().ok_or_else(|| Error::refused("the VM has no volume that is exported"))?;
    let mut checks =
        vec![Check::new(PROBE, Verdict::Good, format!("an export gets ready, with {}", volume.name))];
    checks.extend(ask_all(&session, &volume.claim).await);
    Ok(Attempt::Made(checks))
}

/// One check a way; at least one way must do.
async fn ask_all(session: &Arc<Session>, claim: &str) -> Vec<Check> {
    let http = HttpOptions { retry_for: PATIENCE, stall_timeout: PATIENCE, ..HttpOptions::default() };
    let mut found = Vec::new();
    for way in session.all_ways() {
        let start = Instant::now();
        found.push((way.name(), session.size_by(way, claim, &http).await, start.elapsed()));
    }
    let verdict = if found.iter().any(|(_, size, _)| size.is_ok()) { Verdict::Mind } else { Verdict::Bad };
    let check = |(way, size, took): (&'static str, Result<Option<u64>>, Duration)| match size {
        Ok(size) => {
            let size = size.map_or_else(String::new, |size| format!(" of {} MiB", size.div_ceil(1 << 20)));
            Check::new(
                way,
                Verdict::Good,
                format!("asked for a disk{size}, answered in {} ms", took.as_millis()),
            )
        }
        Err(error) => Check::failed(way, verdict, &error),
    };
    found.into_iter().map(check).collect()
}

const PROBE: &str = "probe";

const EXTERNAL: &str = "external link";

const FORWARD: &str = "port-forward";

const INTERNAL: &str = "internal link";

/// The service that Ingress or Route lead to.
const PROXY: &str = "virt-exportproxy";

/// Should this end before the export is removed, the cluster removes it soon.
const TTL: Duration = Duration::from_secs(1200);

/// An exporter that is ready answers within moments.
const PATIENCE: Duration = Duration::from_secs(5);

/// A command that ends does not wait for ever.
const CLEAN_UP: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ingress_is_one_that_leads_to_the_proxy() {
        let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 443}}});
        let rule =
            |host: &str, name: &str| json!({"host": host, "http": {"paths": [{"backend": backend(name)}]}});
        for (spec, host) in [
            (json!({"rules": [rule("a", "other"), rule("b", PROXY)]}), Some("b")),
            (json!({"defaultBackend": backend(PROXY), "rules": [{"host": "c"}]}), Some("c")),
            (json!({"defaultBackend": backend("other"), "rules": [rule("d", "other")]}), None),
            (json!({"defaultBackend": backend(PROXY)}), None),
            (json!({}), None),
        ] {
            assert_eq!(host_of(&json!({"spec": spec})).as_deref(), host, "{spec}");
        }
    }
}
