//! The connection to a cluster: whose it is, and requests that say what went wrong.

use std::{
    fmt,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt as _;
use http::{Method, Request, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{
    config,
    explain::{self, CallError},
    resource::{Resource, encoded},
    types::{Object, decode},
};
use crate::error::{Error, ErrorKind, Result};

/// How a cluster is found and asked.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The kubeconfig; `None` = `$KUBECONFIG`, `~/.kube/config`, or the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; `None` = the current one.
    pub context: Option<String>,
    /// The namespace; `None` = that of the context.
    pub namespace: Option<String>,
    /// The user to act as.
    pub act_as: Option<String>,
    /// The groups that this user is taken to be in.
    pub act_as_groups: Vec<String>,
    /// A request that takes longer has failed.
    pub timeout: Duration,
    /// Requests that may be repeated are tried again for this long.
    ///
    /// Before the first answer it is not longer than 10 s: a cluster that was never reached is more likely
    /// to be the wrong one than to have a bad moment.
    pub retry_for: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespace: None,
            act_as: None,
            act_as_groups: Vec::new(),
            timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(60),
        }
    }
}

/// A cluster, and the namespace that is worked in. Clones share the connection.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    url: String,
    namespace: String,
    timeout: Duration,
    retry_for: Duration,
    /// When the wait for something is over that goes on in it.
    until: Option<Instant>,
    /// It has answered, whatever it was.
    answered: Arc<AtomicBool>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("url", &self.url)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// What it does, as a right is called: `get`, `create`, …
    pub(super) verb: &'static str,
    /// What it does that to: `virtualmachineexports.export.kubevirt.io`.
    pub(super) resource: &'a str,
    /// The object, as people call it: `virtualmachineexport demo/db`.
    pub(super) what: &'a str,
    /// Namespace, for what to grant.
    pub(super) namespace: Option<&'a str>,
}

impl Cluster {
    /// Finds the cluster. Nothing is asked yet.
    ///
    /// # Errors
    /// There is no usable configuration.
    pub async fn connect(options: &ClusterOptions) -> Result<Self> {
        crate::tls::install();
        let mut config = config::load(options).await?;
        if let Some(user) = &options.act_as {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups = Some(options.act_as_groups.clone());
        }
        config.connect_timeout = Some(options.timeout.min(CONNECT_TIMEOUT));
        // Requests are repeated here, where it is known which may be, for how long, and what it is told.
        config.default_retry = false;
        let url = without_secrets(&config.cluster_url.to_string());
        let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        super::resource::check_name("namespace", &namespace)?;
        let client = kube::Client::try_from(config).map_err(|error| explain::cannot_connect(&url, error))?;
        let answered = Arc::default();
        let (timeout, retry_for) = (options.timeout, options.retry_for);
        Ok(Self { client, url, namespace, timeout, retry_for, until: None, answered })
    }

    /// The namespace that is worked in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same cluster, in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// Address of its API.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request that takes longer has failed.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same cluster, for whoever waits until `deadline` for something that goes on in it: times in which it
    /// cannot be reached are sat out until then.
    pub(super) fn until(&self, deadline: Instant) -> Self {
        Self { until: Some(deadline), ..self.clone() }
    }

    pub(super) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// How long requests that may be repeated are tried again.
    pub(super) fn retry_for(&self) -> Duration {
        self.retry_for
    }

    /// An object of the namespace; `None` if there is none of that name.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        name: &str,
    ) -> Result<Option<T>> {
        let what = resource.object(&self.namespace, name);
        let path = format!("{}/{}", resource.path(Some(&self.namespace)), encoded(name));
        match self.get(&self.call("get", resource, &what), &path).await {
            // All that is in an object may be missing, but for its name.
            Ok(value) if value.pointer("/metadata/name").and_then(Value::as_str) != Some(name) => {
                Err(explain::strange(&self.url, &what, "about something else"))
            }
            Ok(value) => decoded(&what, value).map(Some),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An object of the namespace that must be there.
    pub(super) async fn must_find<T: DeserializeOwned>(&self, resource: &Resource, name: &str) -> Result<T> {
        if let Some(found) = self.find(resource, name).await? {
            return Ok(found);
        }
        // Where there is no such kind, no name would be better.
        if !resource.group.is_empty() && !self.serves(resource.group).await {
            return Err(self.not_served(resource));
        }
        let what = resource.object(&self.namespace, name);
        Err(Error::new(ErrorKind::Cluster, format!("{what} does not exist")).with_hint(format!(
            "check name and namespace: 'kubectl get {} -n {}'",
            resource.plural, self.namespace
        )))
    }

    /// All objects with these labels, of the namespace or of all.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        everywhere: bool,
        selector: &str,
    ) -> Result<Vec<T>> {
        let namespace = (!everywhere).then_some(self.namespace.as_str());
        let what = match namespace {
            Some(namespace) => format!("the {} of namespace {namespace}", resource.plural),
            None => format!("the {} of all namespaces", resource.plural),
        };
        let call = Call { namespace, ..self.call("list", resource, &what) };
        let (mut items, mut next) = (Vec::new(), String::new());
        loop {
            let path = format!(
                "{}?limit={PAGE}&labelSelector={}&continue={}",
                resource.path(namespace),
                encoded(selector),
                encoded(&next)
            );
            let mut page = self.get(&call, &path).await.map_err(Error::from)?;
            for item in items_of(&mut page).ok_or_else(|| explain::strange(&self.url, &what, "no list"))? {
                items.push(decoded(&what, item)?);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(more) if !more.is_empty() => next = more.to_owned(),
                _ => return Ok(items),
            }
        }
    }

    /// Makes an object in the namespace.
    pub(super) async fn create(&self, resource: &Resource, object: &Value) -> Result<Value, CallError> {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let what = resource.object(&self.namespace, name);
        let path = resource.path(Some(&self.namespace));
        self.send(&self.call("create", resource, &what), Method::POST, &path, Some(object)).await
    }

    /// Deletes an object of the namespace; `false` if there was none.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn delete(&self, resource: &Resource, name: &str) -> Result<bool> {
        let what = resource.object(&self.namespace, name);
        let path = format!(
            "{}/{}?propagationPolicy=Background",
            resource.path(Some(&self.namespace)),
            encoded(name)
        );
        let call = self.call("delete", resource, &what);
        match self.repeated(&call, Method::DELETE, &path, None).await {
            Ok(_) => Ok(true),
            Err(CallError::NotFound(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes an object of the namespace by a merge patch, tried again while that may help: the same
    /// patch twice is the same as once.
    pub(super) async fn patch(&self, resource: &Resource, name: &str, patch: &Value) -> Result<()> {
        let what = resource.object(&self.namespace, name);
        let path = format!("{}/{}", resource.path(Some(&self.namespace)), encoded(name));
        let call = self.call("patch", resource, &what);
        self.repeated(&call, Method::PATCH, &path, Some(patch)).await?;
        Ok(())
    }

    /// As [`patch`](Self::patch), or only what would come of it.
    pub(super) async fn patch_dry(
        &self,
        resource: &Resource,
        name: &str,
        patch: &Value,
        dry_run: bool,
    ) -> Result<()> {
        let what = resource.object(&self.namespace, name);
        let dry = if dry_run { "?dryRun=All" } else { "" };
        let path = format!("{}/{}{dry}", resource.path(Some(&self.namespace)), encoded(name));
        let call = self.call("patch", resource, &what);
        self.repeated(&call, Method::PATCH, &path, Some(patch)).await?;
        Ok(())
    }

    /// What is at `path`, tried again while that may help.
    pub(super) async fn get(&self, call: &Call<'_>, path: &str) -> Result<Value, CallError> {
        self.repeated(call, Method::GET, path, None).await
    }

    /// One request with a body.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let changes = method != Method::GET && !ONLY_ASKS.iter().any(|part| path.contains(part));
        let content =
            if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, content)
            .body(body)
            .map_err(|error| Error::failed(format!("cannot ask for {}", call.what)).with_source(error))?;
        let answer = match timeout(self.timeout, self.client.request_text(request)).await {
            Err(_) => return Err(explain::no_answer(&self.url, call, self.timeout).of_change(changes)),
            Ok(Err(error)) => {
                if matches!(error, kube::Error::Api(_)) {
                    self.answered.store(true, Ordering::Relaxed);
                }
                return Err(explain::failure(&self.url, call, error).of_change(changes));
            }
            Ok(Ok(answer)) => answer,
        };
        self.answered.store(true, Ordering::Relaxed);
        if answer.trim().is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&answer).map_err(|_| explain::strange(&self.url, call.what, "no JSON"))?)
    }

    pub(super) async fn repeated(
        &self,
        call: &Call<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            match self.send(call, method.clone(), path, body).await {
                Err(CallError::Transient(error)) if self.tries_on(start, pause) => {
                    tracing::debug!(%error, what = %call.what, ?pause, "the cluster did not answer, asking again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(CallError::Transient(error)) if self.until.is_some() => {
                    return Err(CallError::Transient(error.with_further_hint(GOES_ON)));
                }
                other => return other,
            }
        }
    }

    /// Whether what was first asked at `start` is asked again behind a pause.
    fn tries_on(&self, start: Instant, pause: Duration) -> bool {
        start.elapsed() + pause < self.patience()
            || self.until.is_some_and(|until| Instant::now() + pause < until)
    }

    /// How long requests are tried again.
    fn patience(&self) -> Duration {
        if self.answered.load(Ordering::Relaxed) { self.retry_for } else { self.retry_for.min(FIRST_CONTACT) }
    }

    /// Returns when the object has another version than `version`, or when `wait` is over. A watch that
    /// is not possible is a pause.
    pub(super) async fn changed(&self, resource: &Resource, name: &str, version: &str, wait: Duration) {
        let start = Instant::now();
        match timeout(wait, self.watch(resource, name, version, wait)).await {
            Ok(Ok(true)) | Err(_) => return,
            Ok(Ok(false)) => tracing::debug!(name, "the watch ended without an event"),
            Ok(Err(error)) => tracing::debug!(%error, "cannot watch, polling instead"),
        }
        // A watch that ends at once, whatever it says, is no reason to ask without a pause.
        sleep(wait.min(POLL).saturating_sub(start.elapsed())).await;
    }

    /// Whether there was a change before the watch ended.
    async fn watch(
        &self,
        resource: &Resource,
        name: &str,
        version: &str,
        wait: Duration,
    ) -> Result<bool, kube::Error> {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=false&fieldSelector={}&resourceVersion={}&timeoutSeconds={}",
            resource.path(Some(&self.namespace)),
            encoded(&format!("metadata.name={name}")),
            encoded(version),
            wait.as_secs().max(1)
        );
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        let mut events = pin!(self.client.request_events::<Value>(request).await?);
        while let Some(event) = events.try_next().await? {
            use kube::core::WatchEvent::{Added, Bookmark, Deleted, Error, Modified};
            match event {
                Added(object) | Modified(object) => {
                    let seen =
                        decode::<Object>(object).map_err(kube::Error::SerdeError)?.metadata.resource_version;
                    if seen != version {
                        return Ok(true);
                    }
                }
                Deleted(_) => return Ok(true),
                Bookmark(_) => {}
                Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(false)
    }

    pub(super) fn call<'a>(&'a self, verb: &'static str, resource: &'a Resource, what: &'a str) -> Call<'a> {
        Call { verb, resource: resource.full_name(), what, namespace: Some(&self.namespace) }
    }
}

pub(super) fn decoded<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    decode(value).map_err(|error| {
        Error::failed(format!("{what} is not as KubeVirt describes it"))
            .with_hint("this version of KubeVirt may be newer than this program: look for an update")
            .with_source(error)
    })
}

/// What is in a list, which it is left without; `None` if it is none. Some write an empty list as null.
pub(super) fn items_of(list: &mut Value) -> Option<Vec<Value>> {
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Some(items),
        Some(Value::Null) => Some(Vec::new()),
        _ => None,
    }
}

/// A URL without user, password and query.
fn without_secrets(url: &str) -> String {
    let Ok(mut url) = url::Url::parse(url) else { return "the cluster".to_owned() };
    // Both fail only for URLs that cannot have any.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.set_query(None);
    url.as_str().trim_end_matches('/').to_owned()
}

/// What is sent to be answered, and changes nothing.
const ONLY_ASKS: [&str; 3] = ["/selfsubjectaccessreviews", "/process", "/expand-vm-spec"];

const GOES_ON: &str = "what was asked for is done in the cluster, or goes on there meanwhile";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a cluster that has never answered is asked.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(250);

const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Between two looks where watching is not possible.
const POLL: Duration = Duration::from_secs(2);

/// Objects asked for at once.
const PAGE: u32 = 250;
