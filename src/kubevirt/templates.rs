//! Templates of VMs: listed, looked at, processed into VMs, made of VMs.
//!
//! They are KubeVirt's own, `template.kubevirt.io`, from 1.8 on; processing them is left to its server of templates.

mod info;
mod make;

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use serde_json::{Value, json};

pub use self::{
    info::{TemplateInfo, TemplateParameter},
    make::TemplateMade,
};
use super::{
    Cluster, Resource, Told,
    client::Call,
    explain::{CallError, strange, told},
    pages::{PAGE, Pages},
    resource::{TEMPLATE_GROUP, TEMPLATE_SERVER, check_name, encoded},
    session::Teller,
};
use crate::error::{Error, ErrorKind, Result};

/// The templates of a cluster, in the namespace that it works in.
///
/// ```no_run
/// use std::collections::BTreeMap;
/// use vmferry::kubevirt::{Cluster, ClusterOptions, Templates};
///
/// # async fn example() -> vmferry::Result<()> {
/// let templates = Templates::new(Cluster::connect(&ClusterOptions::default()).await?);
/// for parameter in templates.get("debian").await?.parameters {
///     println!("{}: {}", parameter.name, parameter.description);
/// }
/// let parameters = BTreeMap::from([("NAME".to_owned(), "web".to_owned())]);
/// let made = templates.create_vm("debian", &parameters).await?;
/// println!("VM {} {}", made.vm_name(), made.message);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Templates {
    cluster: Cluster,
    teller: Teller,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Templates").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// What has become of a template.
#[derive(Clone, Debug, PartialEq)]
pub struct Processed {
    /// The template, `namespace/name`.
    pub template: String,
    /// The VirtualMachine, its parameters filled in.
    pub vm: Value,
    /// What the template says to whoever uses it; empty if nothing.
    pub message: String,
}

impl Processed {
    /// Name of the VM.
    pub fn vm_name(&self) -> &str {
        self.vm.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }
}

/// What a template is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Make the VM, and tell how it is.
    Create,
    /// Tell how the VM would be.
    Process,
}

impl Task {
    const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Process => "process",
        }
    }
}

impl Templates {
    /// The templates of a cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, teller: Arc::new(|_| {}) }
    }

    /// Calls `listener` with what is waited for, and with warnings.
    #[must_use]
    pub fn on_event(self, listener: impl Fn(Told) + Send + Sync + 'static) -> Self {
        Self { teller: Arc::new(listener), ..self }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The templates of the namespace, or of all; `selector` is one of labels, empty for all.
    ///
    /// # Errors
    /// The cluster has no templates, refuses, or cannot be reached.
    pub async fn list(&self, everywhere: bool, selector: &str) -> Result<Vec<TemplateInfo>> {
        let mut pages = Pages::new(&self.cluster, self.resource().await?, everywhere, selector);
        let mut found = Vec::new();
        while let Some(page) = pages.next(PAGE).await? {
            for template in page {
                found.push(TemplateInfo::of(template)?);
            }
        }
        Ok(found)
    }

    /// A template, with its parameters.
    ///
    /// # Errors
    /// There is none of that name; the cluster has no templates, refuses, or cannot be reached.
    pub async fn get(&self, name: &str) -> Result<TemplateInfo> {
        check_name("template", name)?;
        TemplateInfo::of(self.cluster.must_find(&self.resource().await?, name).await?)
    }

    /// The VM that a template would make with these parameters, which the cluster fills in. Nothing is made.
    ///
    /// # Errors
    /// There is no such template; parameters are missing or wrong; the cluster has no templates, refuses, or cannot be
    /// reached.
    pub async fn process(&self, name: &str, parameters: &BTreeMap<String, String>) -> Result<Processed> {
        self.ask(name, Task::Process, parameters).await
    }

    /// Makes the VM of a template, for which no right to make any other is needed.
    ///
    /// The request is not repeated: its name may be another one each time.
    ///
    /// # Errors
    /// As [`process`](Self::process), or there is a VM of that name.
    pub async fn create_vm(&self, name: &str, parameters: &BTreeMap<String, String>) -> Result<Processed> {
        self.ask(name, Task::Create, parameters).await
    }

    async fn ask(&self, name: &str, task: Task, parameters: &BTreeMap<String, String>) -> Result<Processed> {
        check_name("template", name)?;
        // First whether there are templates at all: that is the better error.
        self.resource().await?;
        let version = self.cluster.template_server_version().await?;
        let (template, part) = (format!("{}/{name}", self.cluster.namespace()), task.name());
        let resource = format!("virtualmachinetemplates.{TEMPLATE_SERVER}/{part}");
        let what = format!("virtualmachinetemplates/{part} of {template}");
        let call = Call {
            verb: "create",
            resource: &resource,
            what: &what,
            namespace: Some(self.cluster.namespace()),
        };
        let path = format!(
            "/apis/{TEMPLATE_SERVER}/{version}/namespaces/{}/virtualmachinetemplates/{}/{part}",
            encoded(self.cluster.namespace()),
            encoded(name)
        );
        let body = json!({
            "apiVersion": format!("{TEMPLATE_SERVER}/{version}"), "kind": "ProcessOptions", "parameters": parameters,
        });
        let sent = match (task, self.cluster.send(&call, Method::POST, &path, Some(&body)).await) {
            (Task::Process, Err(CallError::Transient(error))) if !is_about_parameters(&error) => {
                self.cluster.repeated(&call, Method::POST, &path, Some(&body)).await
            }
            (_, sent) => sent,
        };
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(error) => return Err(self.refused(name, &template, error).await),
        };
        let vm = answer.get_mut("virtualMachine").map(Value::take).filter(Value::is_object);
        let vm = vm.ok_or_else(|| strange(self.cluster.url(), &what, "without a VM"))?;
        let message = answer.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Processed { template, vm, message })
    }

    /// What a refusal means. What the template needs is looked up, if that is possible.
    async fn refused(&self, name: &str, template: &str, error: CallError) -> Error {
        match error {
            CallError::NotFound(error) => {
                Error::new(ErrorKind::Cluster, format!("template {template} does not exist"))
                    .with_hint(format!(
                        "'vmferry template list -n {}' lists those of the namespace",
                        self.cluster.namespace()
                    ))
                    .with_source(error)
            }
            CallError::Exists(error) => Error::new(
                ErrorKind::Cluster,
                format!("template {template} makes a VM whose name is taken"),
            )
            .with_hint(
                "give another name by the parameter for it: 'vmferry template get' lists the parameters",
            )
            .with_source(Error::failed(told(&error))),
            CallError::Transient(error) if is_about_parameters(&error) => {
                self.cannot_process(name, template, &error).await
            }
            // Rights and logins are told as they are.
            CallError::Refused(error) if error.hint().is_some() => error,
            CallError::Refused(error) => self.cannot_process(name, template, &error).await,
            other => other.into(),
        }
    }

    async fn cannot_process(&self, name: &str, template: &str, error: &Error) -> Error {
        let parameters = self.get(name).await.map(|found| found.parameters_in_words());
        let hint = match parameters {
            Ok(words) if !words.is_empty() => format!("its parameters: {words}"),
            _ => format!("'vmferry template get {template}' lists its parameters"),
        };
        Error::new(ErrorKind::Cluster, format!("template {template} cannot be processed"))
            .with_hint(hint)
            .with_source(Error::failed(told(error)))
    }

    async fn resource(&self) -> Result<Resource> {
        Ok(Resource::templates(self.cluster.template_version().await?))
    }
}

impl Cluster {
    /// The version of templates.
    pub(super) async fn template_version(&self) -> Result<&'static str> {
        let hint = format!(
            "is this the right cluster ({})? Templates came with KubeVirt 1.8, behind its feature gate Template",
            self.url()
        );
        self.version_or(TEMPLATE_GROUP, &TEMPLATE_VERSIONS, hint).await
    }

    /// The version of what processes them.
    async fn template_server_version(&self) -> Result<&'static str> {
        let hint = format!(
            "does the server of templates run? 'kubectl get apiservices | grep {TEMPLATE_SERVER}' tells"
        );
        self.version_or(TEMPLATE_SERVER, &TEMPLATE_VERSIONS, hint).await
    }
}

/// Whether the cluster speaks of what was given to a template, though it may do so as of an error of its own.
fn is_about_parameters(error: &Error) -> bool {
    told(error).to_ascii_lowercase().contains("parameter")
}

/// Versions of templates that are known here, newest first.
const TEMPLATE_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
