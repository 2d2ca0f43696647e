//! Lists that come in pages, so that their length does not matter.

use serde_json::Value;

use super::{
    Cluster, Resource,
    client::{Call, items_of},
    explain::{CallError, strange, told},
    resource::encoded,
};
use crate::error::{Error, ErrorKind, Result};

/// All objects of a kind, of a namespace or of all, page by page.
#[derive(Debug)]
pub(super) struct Pages {
    cluster: Cluster,
    resource: Resource,
    namespace: Option<String>,
    selector: String,
    next: Next,
    version: String,
}

#[derive(Debug)]
enum Next {
    First,
    Behind(String),
    Nothing,
}

impl Pages {
    /// Nothing is asked yet. `selector` is one of labels.
    pub(super) fn new(cluster: &Cluster, resource: Resource, everywhere: bool, selector: &str) -> Self {
        Self {
            namespace: (!everywhere).then(|| cluster.namespace().to_owned()),
            cluster: cluster.clone(),
            resource,
            selector: selector.to_owned(),
            next: Next::First,
            version: String::new(),
        }
    }

    /// The next objects, about `limit` of them; `None` behind the last.
    pub(super) async fn next(&mut self, limit: u32) -> Result<Option<Vec<Value>>> {
        let behind = match &self.next {
            Next::First => "",
            Next::Behind(token) => token,
            Next::Nothing => return Ok(None),
        };
        let path = format!(
            "{}?limit={limit}&labelSelector={}&continue={}",
            self.resource.path(self.namespace.as_deref()),
            encoded(&self.selector),
            encoded(behind)
        );
        let what = self.what();
        let call =
            Call { namespace: self.namespace.as_deref(), ..self.cluster.call("list", &self.resource, &what) };
        let mut page = match self.cluster.get(&call, &path).await {
            Ok(page) => page,
            Err(error) => return Err(self.failed(error)),
        };
        let items = items_of(&mut page).ok_or_else(|| strange(self.cluster.url(), &what, "no list"))?;
        let text = |pointer: &str| page.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        text("/metadata/resourceVersion").clone_into(&mut self.version);
        self.next = match text("/metadata/continue") {
            "" => Next::Nothing,
            token => Next::Behind(token.to_owned()),
        };
        Ok(Some(items))
    }

    /// Whether there was a last page.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// The state of the cluster that the list shows: what a watch goes on from.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    fn what(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("the {} of namespace {namespace}", self.resource.plural),
            None => format!("the {} of all namespaces", self.resource.plural),
        }
    }

    fn failed(&self, error: CallError) -> Error {
        match error {
            // A list of a kind that is served is never missing, only empty.
            CallError::NotFound(_) => self.cluster.not_served(&self.resource),
            error => {
                let error = Error::from(error);
                // The cluster keeps what a list showed at its beginning for some minutes.
                if told(&error).contains("continue parameter") {
                    return error.with_hint("the list took too long to be read: ask again, or for less");
                }
                error
            }
        }
    }
}

impl Cluster {
    /// The error for a kind that the cluster does not have.
    pub(super) fn not_served(&self, resource: &Resource) -> Error {
        Error::new(ErrorKind::Cluster, format!("the cluster does not serve {}", resource.full_name()))
            .with_hint(format!(
                "is this the right cluster ({}), and is KubeVirt installed there?",
                self.url()
            ))
    }
}

/// Objects asked for at once: a page of VMs is some MiB.
pub(super) const PAGE: u32 = 250;

/// Objects of the first page: few, so that something is there to be seen soon.
pub(super) const FIRST_PAGE: u32 = 50;
