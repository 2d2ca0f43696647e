//! The exporter: volumes as raw, gzip, tree and archive; manifests; the token.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    archive,
    body::{self, Shape},
    content::Content,
    manifest,
};
use crate::{
    fault::{FaultKind, Link, Subject},
    http::{self, Body},
    log::{Entry, Server},
    world::{ExportedVolume, Exporter, World},
};

/// The header and the query parameter that hold the token.
pub(super) const TOKEN: &str = "x-kubevirt-export-token";
/// When the files of trees were last changed: long ago, and always the same.
const MODIFIED: u64 = 1_790_000_000;

/// A request at an exporter.
pub(super) struct Inquiry<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
}

impl Inquiry<'_> {
    /// A header's text.
    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Serves a connection to an exporter.
pub(crate) async fn serve(
    world: Arc<World>,
    exporter: Arc<Exporter>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let tls = Arc::clone(&exporter.tls);
    let stop = exporter.stop.clone();
    let connection = http::serve_connection(stream, tls, exporter.drain.clone(), move |request| {
        let (world, exporter) = (Arc::clone(&world), Arc::clone(&exporter));
        async move {
            let entry = world.log.begin(Server::Exporter, request.method(), request.uri(), request.headers());
            let inquiry = Inquiry {
                method: request.method(),
                path: request.uri().path(),
                query: request.uri().query().unwrap_or_default(),
                headers: request.headers(),
            };
            let response = answer(&world, &exporter, &inquiry, &entry).await;
            entry.answered(response.status().as_u16());
            response
        }
    });
    // Bodies break by themselves; this ends connections that are idle.
    tokio::select! {
        () = connection => {}
        () = async {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        } => {}
    }
}

/// What a path of an exporter is.
enum Route<'a> {
    Manifest { is_external: bool, is_secret: bool },
    Missing,
    Ready,
    Redirect(String),
    Volume { volume: &'a ExportedVolume, link: Link, file: &'a str },
}

/// Answers a request, whether it came through the proxy or directly.
pub(super) async fn answer(
    world: &Arc<World>,
    exporter: &Arc<Exporter>,
    inquiry: &Inquiry<'_>,
    entry: &Arc<Entry>,
) -> Response<Body> {
    let route = route(exporter, inquiry.path);
    let mut faults = Vec::new();
    match &route {
        Route::Missing => return http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Route::Ready => return http::text(StatusCode::OK, "OK"),
        Route::Redirect(location) => {
            let mut response = http::empty(StatusCode::TEMPORARY_REDIRECT);
            response
                .headers_mut()
                .extend(HeaderValue::from_str(location).ok().map(|value| (LOCATION, value)));
            return response;
        }
        Route::Manifest { .. } => {}
        Route::Volume { volume, link, .. } => {
            faults = world.lock().faults.for_data(&Subject {
                namespace: &exporter.namespace,
                export: &exporter.export,
                volume: [&volume.claim, &volume.name],
                link: *link,
                has_body: inquiry.method != Method::HEAD,
            });
        }
    }
    for fault in &faults {
        match *fault {
            FaultKind::Delay { pause } => tokio::time::sleep(pause).await,
            FaultKind::Status { code } => {
                return http::empty(StatusCode::from_u16(code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
            }
            _ => {}
        }
    }
    let latency = world.link.latency();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    match token(world, exporter) {
        None => return http::empty(StatusCode::INTERNAL_SERVER_ERROR),
        // An empty token in the secret means that no token is asked for.
        Some(token) if token.is_empty() || is_authorized(inquiry, &token) => {}
        Some(_) => return http::empty(StatusCode::UNAUTHORIZED),
    }
    match route {
        Route::Manifest { is_external, is_secret } => {
            if inquiry.method != Method::GET {
                return http::empty(StatusCode::BAD_REQUEST);
            }
            manifest::answer(world, exporter, inquiry, is_external, is_secret)
        }
        Route::Volume { volume, link, file } => {
            let shape = Shape::new(&faults, &world.link);
            let request = VolumeRequest { volume, link, file };
            let mut response = serve_volume(exporter, inquiry, &request, shape, &faults, entry);
            if inquiry.method == Method::HEAD {
                *response.body_mut() = http::full("");
            }
            response
        }
        _ => http::empty(StatusCode::NOT_FOUND),
    }
}

fn route<'a>(exporter: &'a Exporter, path: &'a str) -> Route<'a> {
    match path {
        "/exportready" => return Route::Ready,
        "/internal/manifests/all" => return Route::Manifest { is_external: false, is_secret: false },
        "/internal/manifests/secret" => return Route::Manifest { is_external: false, is_secret: true },
        "/external/manifests/all" => return Route::Manifest { is_external: true, is_secret: false },
        "/external/manifests/secret" => return Route::Manifest { is_external: true, is_secret: true },
        _ => {}
    }
    let Some((claim, rest)) = path.strip_prefix("/volumes/").and_then(|rest| rest.split_once('/')) else {
        return Route::Missing;
    };
    let Some(volume) = exporter.volumes.iter().find(|volume| volume.claim == claim) else {
        return Route::Missing;
    };
    match (volume.is_disk, rest) {
        (true, "disk.img") => Route::Volume { volume, link: Link::Raw, file: "" },
        (true, "disk.img.gz") => Route::Volume { volume, link: Link::Gzip, file: "" },
        (false, "disk.tar.gz") => Route::Volume { volume, link: Link::Archive, file: "" },
        (false, "dir") => Route::Redirect(format!("{path}/")),
        (false, rest) => match rest.strip_prefix("dir/") {
            Some(file) => Route::Volume { volume, link: Link::Dir, file },
            None => Route::Missing,
        },
        _ => Route::Missing,
    }
}

/// The token as the pod sees it now.
fn token(world: &World, exporter: &Exporter) -> Option<Vec<u8>> {
    let state = world.lock();
    let secret = state.store.get("/secrets", &exporter.namespace, &exporter.secret);
    let current =
        secret.and_then(|secret| secret["data"]["token"].as_str()).and_then(|data| BASE64.decode(data).ok());
    let mut last = exporter.last_token.lock().unwrap_or_else(PoisonError::into_inner);
    if current.is_some() {
        *last = current;
    }
    last.clone()
}

/// Header or query parameter, either suffices; compared byte for byte.
fn is_authorized(inquiry: &Inquiry<'_>, token: &[u8]) -> bool {
    let by_header = inquiry.headers.get(TOKEN).is_some_and(|value| value.as_bytes() == token);
    by_header
        || url::form_urlencoded::parse(inquiry.query.as_bytes())
            .any(|(key, value)| key == TOKEN && value.as_bytes() == token)
}

/// What of which volume is asked for.
struct VolumeRequest<'a> {
    volume: &'a ExportedVolume,
    link: Link,
    file: &'a str,
}

fn serve_volume(
    exporter: &Exporter,
    inquiry: &Inquiry<'_>,
    &VolumeRequest { volume, link, file }: &VolumeRequest<'_>,
    shape: Shape,
    faults: &[FaultKind],
    entry: &Arc<Entry>,
) -> Response<Body> {
    let stop = exporter.stop.clone();
    if volume.disk.is_missing() && link != Link::Dir {
        return http::empty(StatusCode::INTERNAL_SERVER_ERROR);
    }
    match link {
        Link::Raw => {
            let content =
                Content { disk: volume.disk.clone(), modified: None, kind: "application/x-raw-disk-image" };
            content.serve(inquiry, shape, faults, stop, entry)
        }
        Link::Dir if file.is_empty() => {
            let mut response = http::text(StatusCode::OK, archive::listing(&volume.disk));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            response
        }
        Link::Dir => match archive::find(&volume.disk, file) {
            Some(disk) => {
                let kind = if file == "disk.img" {
                    "application/x-raw-disk-image"
                } else {
                    "application/octet-stream"
                };
                Content { disk, modified: Some(MODIFIED), kind }.serve(inquiry, shape, faults, stop, entry)
            }
            None => http::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
        Link::Gzip | Link::Archive => {
            if inquiry.method != Method::GET {
                return http::empty(StatusCode::BAD_REQUEST);
            }
            let pieces = match link {
                Link::Gzip => body::gzip(volume.disk.clone(), &shape),
                _ => archive::tar_gz(volume.disk.clone(), MODIFIED),
            };
            let mut response = Response::new(body::shaped(pieces, shape, stop, Arc::clone(entry)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-gzip"));
            response
        }
    }
}
