//! Templates made of VMs: by a request, which the cluster carries out with a snapshot of the VM's disks.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::Templates;
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Acting, Resource, Told, Vms,
        resource::check_name,
        types::{Condition, Metadata},
    },
};

/// What became of a template that was to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateMade {
    /// The template, `namespace/name`.
    pub template: String,
    /// The VM that it is of, `namespace/name`.
    pub vm: String,
    /// Whether it can be used; not so if it was not waited for, or not made.
    pub complete: bool,
}

/// A VirtualMachineTemplateRequest.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    metadata: Metadata,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

impl Request {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    fn is_done(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }

    /// What went wrong for good.
    fn failure(&self) -> Option<String> {
        let failed = ["Failed", "Failure"].into_iter().find_map(|kind| self.condition(kind));
        failed.filter(|condition| condition.status == "True").map(words)
    }

    fn state(&self) -> String {
        self.condition("Ready").map_or_else(|| "not begun".to_owned(), words)
    }
}

fn words(condition: &Condition) -> String {
    match (condition.reason.as_str(), condition.message.as_str()) {
        ("", "") => condition.kind.clone(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

impl Templates {
    /// Makes a template of a VM, its disks included. Nothing is taken out of it: keys and passwords of its guest are in
    /// the template.
    ///
    /// # Errors
    /// There is no such VM; the name is taken; the cluster has no templates, refuses, cannot be reached, fails, or is
    /// not done in time.
    pub async fn make(&self, vm: &str, name: Option<&str>, acting: &Acting) -> Result<TemplateMade> {
        let name = name.unwrap_or(vm);
        check_name("template", name)?;
        let templates = self.resource().await?;
        Vms::new(self.cluster.clone()).find(vm).await?;
        let (namespace, requests) =
            (self.cluster.namespace(), Resource::template_requests(&templates.version));
        let made = |complete| TemplateMade {
            template: format!("{namespace}/{name}"),
            vm: format!("{namespace}/{vm}"),
            complete,
        };
        if self.cluster.find::<serde_json::Value>(&templates, name).await?.is_some() {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("template {namespace}/{name} exists already"),
            )
            .with_hint("choose another name: --name"));
        }
        let object = json!({
            "apiVersion": requests.api_version(),
            "kind": requests.kind,
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"virtualMachineRef": {"namespace": namespace, "name": vm}, "templateName": name},
        });
        self.cluster.make(&requests, &object, acting.dry_run).await?;
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else { return Ok(made(false)) };
        let (start, mut news) = (Instant::now(), String::new());
        let cluster = self.cluster.until(start + wait);
        loop {
            let found: Request = cluster.must_find(&requests, name).await?;
            if found.is_done() {
                return Ok(made(true));
            }
            let more = format!("'kubectl describe {} {name} -n {namespace}' tells more", requests.plural);
            if let Some(failure) = found.failure() {
                let text = format!("template {namespace}/{name} was not made: {failure}");
                return Err(Error::new(ErrorKind::Cluster, text).with_hint(more));
            }
            let state = found.state();
            if state != news {
                (self.teller)(Told::Waiting(format!("template {name}: {state}")));
                news = state;
            }
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                let seconds = wait.as_secs_f64();
                let text = format!("template {namespace}/{name} was not made within {seconds} s: {news}");
                return Err(Error::new(ErrorKind::TimedOut, text)
                    .with_hint(format!("the cluster goes on with it: {more}")));
            }
            let version = &found.metadata.resource_version;
            self.cluster.changed(&requests, name, version, left.min(LOOK)).await;
        }
    }
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(5);
