//! `vmferry doctor`: what an export needs, looked at one by one.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, ValueHint};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use vmferry::{
    Error, ErrorKind, check_space,
    kubevirt::{Check, ProbeOptions, Verdict, examine, probe},
};

use super::{
    Failure,
    cluster::ClusterArgs,
    export::{named_vm, parse_service_url},
    output::{Output, Row},
    signals::{self, Stop},
    units::parse_duration,
};

const AFTER_HELP: &str = "\
Nothing is made, here or in the cluster, without --probe. The exit code is 0 if no check is bad.

Examples:
  vmferry doctor
  vmferry doctor demo/db --output /backup --probe";

/// Check cluster, rights, ways, space and a VM for what an export needs, with a remedy for what is missing
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DoctorArgs {
    /// The VM to look at
    #[arg(value_name = "[NAMESPACE/]VM")]
    vm: Option<String>,

    /// Where the export would go: is there space for it?
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    output: PathBuf,

    /// Make an export of the VM for a moment, ask for a disk over every way, and remove it; the VM must be
    /// stopped
    #[arg(long, requires = "vm")]
    probe: bool,

    /// Longest wait for the export of the probe to be ready
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration, requires = "probe")]
    wait: Duration,

    /// PEM file with the only CA certificates to trust in the probe [default: the export's own]
    #[arg(long, value_name = "FILE", requires = "probe")]
    ca_file: Option<PathBuf>,

    /// Where the exporter's service is reached, for the probe
    #[arg(long, value_name = "URL", requires = "probe", value_parser = parse_service_url)]
    service_url: Option<url::Url>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: &DoctorArgs, output: &Output) -> Result<(), Failure> {
    let (namespace, vm) = match &args.vm {
        Some(vm) => named_vm(vm).map(|(namespace, vm)| (namespace, Some(vm)))?,
        None => (None, None),
    };
    let authorities = match &args.ca_file {
        Some(path) => Some(fs::read(path).map_err(|error| Error::io("read", path, error))?),
        None => None,
    };
    let options = ProbeOptions { wait: args.wait, authorities, service_url: args.service_url.clone() };
    let cluster = args.cluster.connect_briefly(namespace.as_deref()).await?;
    let (place, to_probe) = (args.output.clone(), vm.clone().filter(|_| args.probe));
    let (cancel, notes) = (CancellationToken::new(), output.clone());
    let stop = if args.probe { Stop::Orderly(cancel.clone()) } else { Stop::AtOnce };
    let work = async move {
        let examined = cancel.run_until_cancelled(examine(&cluster, vm.as_deref())).await;
        let examined = examined.ok_or_else(|| Error::new(ErrorKind::Interrupted, "interrupted"))?;
        let mut checks = examined.checks;
        checks.push(check_space(&place, examined.volume_bytes));
        if let Some(vm) = to_probe {
            let teller = move |told: vmferry::kubevirt::Told| notes.note(&told.to_string());
            checks.extend(probe(&cluster, &vm, options, teller, &cancel).await?);
        }
        Ok(checks)
    };
    // Boxed: the future is large.
    let checks = signals::supervise(Box::pin(work), stop, output).await?;
    let mut rows = output.rows();
    for check in &checks {
        rows.push(&Line::from(check))?;
    }
    rows.finish::<Line<'_>>()?;
    let bad = checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
    if bad == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Cluster, format!("bad: {bad} of {} checks", checks.len())).into())
}

/// A row: a check.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    verdict: &'static str,
    found: &'a str,
    remedy: Option<&'a str>,
}

impl<'a> From<&'a Check> for Line<'a> {
    fn from(check: &'a Check) -> Self {
        Self {
            check: check.what,
            verdict: check.verdict.name(),
            found: &check.found,
            remedy: check.remedy.as_deref(),
        }
    }
}

impl Row for Line<'_> {
    fn header(_wide: bool) -> String {
        format!("{:<36} {:<7}  FOUND", "CHECK", "VERDICT")
    }

    fn columns(&self, _wide: bool) -> String {
        let remedy =
            self.remedy.map_or_else(String::new, |remedy| format!(" -> {}", remedy.replace('\n', "; ")));
        format!("{:<36} {:<7}  {}{remedy}", self.check, self.verdict, self.found)
    }

    fn name(&self) -> String {
        self.check.to_owned()
    }
}
