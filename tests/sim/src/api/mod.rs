//! The Kubernetes API server: who asks, what for, and the answer.

mod admission;
mod auth;
mod console;
mod crud;
mod delete;
mod discovery;
mod expand;
mod lifecycle;
mod metrics;
mod openapi;
mod portforward;
pub(crate) mod resources;
mod simulator;
mod subresources;
mod table;
mod templates;
mod watch;

use std::{sync::Arc, time::Instant};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WARNING},
};
use serde_json::{Value, json};

use crate::{
    fault::FaultKind,
    http::{self, Body},
    log::{Entry, Server},
    refusal::{Asked, Refusal, RefusalBody},
    store::selector::Selector,
    world::{User, World},
};
pub(crate) use admission::default_vm;
pub(crate) use delete::remove as remove_object;
pub(crate) use expand::expand as expand_vm;
use resources::Resource;

/// An answer of the API.
pub(crate) struct Answer {
    status: StatusCode,
    value: Value,
    warnings: Vec<String>,
}

impl Answer {
    fn new(status: StatusCode, value: Value) -> Self {
        Self { status, value, warnings: Vec::new() }
    }

    fn ok(value: Value) -> Self {
        Self::new(StatusCode::OK, value)
    }
}

/// A request for objects: which, how, by whom.
pub(crate) struct Call<'a> {
    world: &'a Arc<World>,
    user: User,
    resource: &'a Resource,
    namespace: Option<String>,
    name: Option<String>,
    subresource: String,
    query: Query,
    headers: HeaderMap,
}

impl Call<'_> {
    fn not_found(&self) -> Refusal {
        Refusal::not_found(
            &self.resource.group,
            &self.resource.plural,
            self.name.as_deref().unwrap_or_default(),
        )
    }

    fn is_dry_run(&self) -> bool {
        self.query.first("dryRun") == Some("All")
    }

    /// Whether tables are wanted, as `kubectl get` does.
    fn wants_table(&self) -> bool {
        accepts(&self.headers, "as=Table")
    }

    fn selector(&self) -> Result<Selector, Refusal> {
        let text = |key| self.query.first(key).unwrap_or_default();
        let selector = Selector::parse(text("labelSelector"), text("fieldSelector"))?;
        match selector.foreign_field() {
            Some(field) if self.resource.is_custom => {
                Err(Refusal::bad_request(format!("field label not supported: {field}")))
            }
            _ => Ok(selector),
        }
    }

    /// An object as this version shows it.
    fn present(&self, object: &Value) -> Value {
        present(self.resource, object)
    }
}

/// An object as a version shows it.
pub(crate) fn present(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = resource.api_version().into();
    object
}

/// The parameters of a query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn is_set(&self, key: &str) -> bool {
        self.first(key).is_some_and(|value| matches!(value, "" | "1" | "true"))
    }
}

/// Answers a request.
pub(crate) async fn handle(world: Arc<World>, request: Request<Incoming>) -> Response<Body> {
    let entry = world.log.begin(Server::Api, request.method(), request.uri(), request.headers());
    let faults = world.lock().faults.for_api(request.uri().path());
    let mut cut = None;
    for fault in faults {
        match fault {
            FaultKind::Delay { pause } => tokio::time::sleep(pause).await,
            FaultKind::Status { code } => {
                entry.answered(code);
                return http::empty(status(code));
            }
            FaultKind::Answer { code, text } => {
                entry.answered(code);
                return http::text(status(code), text);
            }
            FaultKind::Garbage => {
                entry.answered(200);
                return http::text(StatusCode::OK, "<html><body>It works!</body></html>");
            }
            FaultKind::CutAfter { bytes } => cut = Some(bytes),
            _ => {}
        }
    }
    let mut response = match route(&world, request, &entry).await {
        Ok(response) => response,
        Err(refusal) => refuse(&refusal),
    };
    entry.answered(response.status().as_u16());
    if let Some(bytes) = cut {
        response = crate::data::body::cut(response, bytes);
    }
    response
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    match &refusal.body {
        RefusalBody::Status(status) => with_cache_header(http::json(refusal.code, status)),
        RefusalBody::Text(text) => with_cache_header(http::text(refusal.code, text.clone())),
    }
}

fn with_cache_header(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn respond(answer: &Answer) -> Response<Body> {
    let mut response = with_cache_header(http::json(answer.status, &answer.value));
    for warning in &answer.warnings {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

fn accepts(headers: &HeaderMap, what: &str) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|text| text.contains(what)))
}

async fn route(
    world: &Arc<World>,
    request: Request<Incoming>,
    entry: &Arc<Entry>,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    // What the real one tells everybody.
    match segments.as_slice() {
        ["version"] => return Ok(respond(&Answer::ok(version(world)))),
        ["healthz" | "livez" | "readyz", ..] => return Ok(http::text(StatusCode::OK, "ok")),
        _ => {}
    }
    let user = auth::authenticate(world, request.headers(), request.extensions().get())?;
    if !world.config.hold_until_watched.is_zero() && changes_something(&request) {
        world.lock().held_until = Some(Instant::now() + world.config.hold_until_watched);
    }
    match segments.as_slice() {
        ["simulator", what] => simulator::handle(world, &user, what, request).await,
        ["api"] if accepts(request.headers(), "g=apidiscovery.k8s.io") => Ok(aggregated(world, true)),
        ["apis"] if accepts(request.headers(), "g=apidiscovery.k8s.io") => Ok(aggregated(world, false)),
        ["api"] => Ok(respond(&Answer::ok(discovery::core_versions(&world.api_address.to_string())))),
        ["apis"] => Ok(respond(&Answer::ok(discovery::groups(&world.resources)))),
        ["apis", group, ..] if world.config.absent_groups.iter().any(|absent| absent == group) => {
            Err(Refusal::no_such_path())
        }
        ["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods"]
            if world.config.metrics_server =>
        {
            metrics::pods(world, &user, namespace, &Query::parse(request.uri().query()))
        }
        ["apis", "subresources.template.kubevirt.io", rest @ ..] if templates::is_served(world) => {
            templates::handle(world, &user, rest, request).await
        }
        ["apis", group] => {
            let group = discovery::group(&world.resources, group).ok_or_else(Refusal::no_such_path)?;
            Ok(respond(&Answer::ok(group)))
        }
        ["openapi", "v3"] => Ok(respond(&Answer::ok(openapi::index(&world.resources)))),
        ["openapi", "v3", "api", "v1"] => open_api(world, "", "v1"),
        ["openapi", "v3", "apis", group, version] => open_api(world, group, version),
        ["api", "v1"] => resource_list(world, "", "v1"),
        ["apis", group, version] => resource_list(world, group, version),
        ["api", "v1", rest @ ..] => objects(world, user, ("", "v1"), rest, request, entry).await,
        ["apis", group, version, rest @ ..] => {
            objects(world, user, (group, version), rest, request, entry).await
        }
        _ => Err(Refusal::no_such_path()),
    }
}

/// Whether objects may be others after a request.
fn changes_something(request: &Request<Incoming>) -> bool {
    let is_review = request.uri().path().starts_with("/apis/authorization.k8s.io/");
    !matches!(*request.method(), Method::GET | Method::HEAD) && !is_review
}

fn version(world: &World) -> Value {
    let minor = world.config.kubernetes_minor;
    let (this, before) = (minor.to_string(), minor.saturating_sub(1).to_string());
    json!({
        "major": "1", "minor": this, "emulationMajor": "1", "emulationMinor": this,
        "minCompatibilityMajor": "1", "minCompatibilityMinor": before, "gitVersion": format!("v1.{minor}.2"),
        "gitCommit": "simulator", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "go1.26.6", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn aggregated(world: &World, is_core: bool) -> Response<Body> {
    let mut response = http::json(StatusCode::OK, &discovery::aggregated(&world.resources, is_core));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(discovery::AGGREGATED));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(hyper::header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn resource_list(world: &World, group: &str, version: &str) -> Result<Response<Body>, Refusal> {
    let version = world.resources.version(group, version).ok_or_else(Refusal::no_such_path)?;
    let mut response = respond(&Answer::ok(discovery::resource_list(version)));
    if group == "subresources.kubevirt.io" {
        nosniff(&mut response);
    }
    Ok(response)
}

fn open_api(world: &World, group: &str, version: &str) -> Result<Response<Body>, Refusal> {
    let version = world.resources.version(group, version).ok_or_else(Refusal::no_such_path)?;
    Ok(respond(&Answer::ok(openapi::document(version))))
}

fn nosniff(response: &mut Response<Body>) {
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
}

/// What a path below a version names.
struct Target<'a> {
    namespace: Option<&'a str>,
    plural: &'a str,
    name: Option<&'a str>,
    subresource: String,
}

fn parse_target<'a>(rest: &[&'a str]) -> Option<Target<'a>> {
    let target = |namespace, plural, rest: &[&'a str]| Target {
        namespace,
        plural,
        name: rest.first().copied(),
        subresource: rest.get(1..).unwrap_or_default().join("/"),
    };
    match rest {
        ["namespaces"] => Some(target(None, "namespaces", &[])),
        ["namespaces", name] => Some(target(None, "namespaces", &[name])),
        ["namespaces", name, sub @ ("status" | "finalize")] => Some(target(None, "namespaces", &[name, sub])),
        ["namespaces", namespace, plural, rest @ ..] => Some(target(Some(namespace), plural, rest)),
        [plural, rest @ ..] => Some(target(None, plural, rest)),
        [] => None,
    }
}

async fn objects(
    world: &Arc<World>,
    user: User,
    (group, version): (&str, &str),
    rest: &[&str],
    request: Request<Incoming>,
    entry: &Arc<Entry>,
) -> Result<Response<Body>, Refusal> {
    let served = world.resources.version(group, version).ok_or_else(Refusal::no_such_path)?;
    let target = parse_target(rest).ok_or_else(Refusal::no_such_path)?;
    let query = Query::parse(request.uri().query());
    if group == "subresources.kubevirt.io" {
        return match subresources::handle(world, &user, &target, request).await {
            // Answered by KubeVirt's own server, behind the check of rights.
            Err(refusal) if refusal.code != StatusCode::FORBIDDEN => {
                let mut response = refuse(&refusal);
                nosniff(&mut response);
                Ok(response)
            }
            result => result,
        };
    }
    let resource = served
        .resources
        .iter()
        .find(|item| item.plural == target.plural)
        .ok_or_else(Refusal::no_such_path)?;
    if target.namespace.is_some() && !resource.is_namespaced {
        return Err(Refusal::no_such_path());
    }
    let verb =
        verb(request.method(), target.name.is_some(), &query).ok_or_else(Refusal::method_not_allowed)?;
    let asked = Asked {
        group,
        plural: target.plural,
        subresource: &target.subresource,
        namespace: target.namespace,
        name: target.name.unwrap_or_default(),
    };
    auth::check(&user, verb, &asked)?;
    let is_socket = group.is_empty() && asked.plural == "pods" && asked.subresource == "portforward";
    if is_socket && world.config.kubernetes_minor >= 35 {
        auth::check(&user, "create", &asked)?;
    }
    if asked.plural == "selfsubjectaccessreviews" && verb == "create" {
        if request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/vnd"))
        {
            return Err(Refusal::unsupported_media_type("application/json"));
        }
        let body = http::read(request.into_body()).await.map_err(|e| Refusal::bad_request(e.to_string()))?;
        return Ok(respond(&Answer::new(StatusCode::CREATED, auth::review(&user, &body)?)));
    }
    let call = Call {
        world,
        user,
        resource,
        namespace: target.namespace.map(str::to_owned),
        name: target.name.map(str::to_owned),
        subresource: target.subresource,
        query,
        headers: request.headers().clone(),
    };
    if group.is_empty() && call.resource.plural == "pods" && call.subresource == "portforward" {
        return portforward::handle(&call, request);
    }
    if resource.storage.is_none() || !matches!(call.subresource.as_str(), "" | "status") {
        return Err(Refusal::no_such_path());
    }
    let warning = deprecation(world, resource);
    let mut response = if verb == "watch" {
        with_cache_header(watch::handle(&call, entry)?)
    } else {
        let mut answer = crud::handle(&call, verb, request.into_body()).await?;
        if call.wants_table() && answer.status.is_success() && answer.value["kind"] != "Status" {
            answer.value = table::table(resource, &answer.value);
        }
        respond(&answer)
    };
    if let Some(warning) = warning {
        let text = HeaderValue::from_str(&format!("299 - \"{warning}\"")).ok();
        response.headers_mut().extend(text.map(|value| (WARNING, value)));
    }
    Ok(response)
}

/// What the server says to every request of a version that is on its way out.
fn deprecation(world: &World, resource: &Resource) -> Option<String> {
    let is_old = resource.plural == "virtualmachineexports"
        && resource.version == "v1beta1"
        && world.config.at_least(9);
    is_old.then(|| {
        format!(
            "{} {} is now deprecated and will be removed in a future version.",
            resource.api_version(),
            resource.kind
        )
    })
}

fn verb(method: &Method, is_named: bool, query: &Query) -> Option<&'static str> {
    Some(match (method, is_named) {
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) if query.is_set("watch") => "watch",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return None,
    })
}
