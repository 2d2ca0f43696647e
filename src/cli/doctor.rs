//! `vmferry doctor`: what an export needs, looked at one by one.

use clap::Args;
use serde::Serialize;
use vmferry::{
    Error, ErrorKind,
    kubevirt::{Check, Verdict, examine},
};

use super::{
    Failure,
    cluster::ClusterArgs,
    output::{Output, Row},
    signals::{self, Stop},
};

/// Check cluster, rights and a VM for what an export needs, with a remedy for what is missing
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// The VM to look at
    #[arg(value_name = "[NAMESPACE/]VM")]
    vm: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(super) async fn run(args: &DoctorArgs, output: &Output) -> Result<(), Failure> {
    let (namespace, vm) = match &args.vm {
        Some(vm) => super::export::named_vm(vm).map(|(namespace, vm)| (namespace, Some(vm)))?,
        None => (None, None),
    };
    let cluster = args.cluster.connect(namespace.as_deref()).await?;
    let work = async move { Ok(examine(&cluster, vm.as_deref()).await) };
    let checks = signals::supervise(work, Stop::AtOnce, output).await?;
    let mut rows = output.rows();
    for check in &checks {
        rows.push(&Line::from(check))?;
    }
    rows.finish::<Line<'_>>()?;
    let bad = checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
    if bad == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Cluster, format!("{bad} of {} checks are bad", checks.len())).into())
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
        format!("{:<24} {:<7}  FOUND", "CHECK", "VERDICT")
    }

    fn columns(&self, _wide: bool) -> String {
        let remedy =
            self.remedy.map_or_else(String::new, |remedy| format!(" -> {}", remedy.replace('\n', "; ")));
        format!("{:<24} {:<7}  {}{remedy}", self.check, self.verdict, self.found)
    }

    fn name(&self) -> String {
        self.check.to_owned()
    }
}
