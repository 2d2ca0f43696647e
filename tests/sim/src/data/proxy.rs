//! The export proxy: finds the exporter of a path and passes the request on.
//!
//! The real one opens a TLS connection to the exporter; here the exporter is called directly.

use std::sync::Arc;

use hyper::{Request, Response, StatusCode, body::Incoming};

use super::exporter::{self, Inquiry};
use crate::{
    http::{self, Body},
    log::Server,
    world::{Exporter, World},
};

/// Answers a request to the proxy.
pub(crate) async fn handle(world: Arc<World>, request: Request<Incoming>) -> Response<Body> {
    let entry = world.log.begin(Server::Proxy, request.method(), request.uri(), request.headers());
    let path = request.uri().path().to_owned();
    let found = match parse(&world, &path) {
        Some((namespace, export, rest)) => find(&world, namespace, export).map(|exporter| (exporter, rest)),
        None => Err(StatusCode::BAD_REQUEST),
    };
    let response = match found {
        Ok((exporter, path)) => {
            let inquiry = Inquiry {
                method: request.method(),
                path,
                query: request.uri().query().unwrap_or_default(),
                headers: request.headers(),
            };
            exporter::answer(&world, &exporter, &inquiry, &entry).await
        }
        Err(status) => http::empty(status),
    };
    entry.answered(response.status().as_u16());
    response
}

/// Namespace, export and the path at the exporter.
fn parse<'a>(world: &World, path: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
    let rest = path.strip_prefix("/api/export.kubevirt.io/")?;
    let (version, rest) = rest.split_once("/namespaces/")?;
    if !world.config.export_versions().contains(&version) {
        return None;
    }
    let (namespace, rest) = rest.split_once("/virtualmachineexports/")?;
    let end = rest.find('/')?;
    let (export, path) = rest.split_at(end);
    let is_name = |text: &str| !text.is_empty() && !text.contains('/');
    (is_name(namespace) && is_name(export)).then_some((namespace, export, path))
}

fn find(world: &World, namespace: &str, export: &str) -> Result<Arc<Exporter>, StatusCode> {
    let state = world.lock();
    let object = state
        .store
        .get("export.kubevirt.io/virtualmachineexports", namespace, export)
        .ok_or(StatusCode::NOT_FOUND)?;
    if object["status"]["phase"] != "Ready" {
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    // Ready, but the pod has just gone: nothing to connect to.
    let key = (namespace.to_owned(), export.to_owned());
    state.exporters.get(&key).cloned().ok_or(StatusCode::BAD_GATEWAY)
}
