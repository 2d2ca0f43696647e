//! What the servers share: bodies, and connections over TLS.

use std::{convert::Infallible, io, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A response's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The certificate that a client showed, in DER form; an extension of its requests.
#[derive(Clone)]
pub(crate) struct ClientCertificate(pub(crate) Vec<u8>);

/// Bodies of requests are not larger than this.
const REQUEST_LIMIT: usize = 8 << 20;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string() + "\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body that comes in pieces; an error breaks the connection off.
pub(crate) fn stream(pieces: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::StreamExt as _;
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// Reads a request's body, up to the limit.
pub(crate) async fn read(body: Incoming) -> io::Result<Bytes> {
    let limited = http_body_util::Limited::new(body, REQUEST_LIMIT);
    Ok(limited.collect().await.map_err(io::Error::other)?.to_bytes())
}

/// Answers requests on one connection until it ends; when `drain` says so, after the request that is running.
pub(crate) async fn serve_connection<S, H, F>(
    stream: S,
    tls: Arc<ServerConfig>,
    drain: CancellationToken,
    handle: H,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send,
{
    // A handshake that fails is the client's to report.
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let shown = shown.map(|certificate| ClientCertificate(certificate.to_vec()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(shown) = &shown {
            request.extensions_mut().insert(shown.clone());
        }
        let answer = handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // So is a connection that breaks, which faults do on purpose.
    let connection = http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return drop(result),
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

/// Accepts connections for ever; all of them end when the future is dropped.
pub(crate) async fn serve_listener<T, H, F>(listener: TcpListener, tls: T, handle: H)
where
    T: Fn() -> Option<Arc<ServerConfig>> + Send,
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        // Without TLS settings nobody is listening behind this address just now.
        let Some(tls) = tls() else { continue };
        drop(stream.set_nodelay(true));
        connections.spawn(serve_connection(stream, tls, CancellationToken::new(), handle.clone()));
    }
}
