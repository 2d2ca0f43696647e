//! `pods/portforward` over WebSocket: each port has a data and an error channel, numbered by the first byte of
//! a frame, and each is opened by the server with the port's number.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{
        CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
    },
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::Call;
use crate::{
    data,
    http::{self, Body},
    refusal::Refusal,
    world::{Exporter, World},
};

/// The port that an exporter listens on.
const EXPORTER_PORT: u16 = 8443;
/// What a frame carries at most.
const FRAME: usize = 64 << 10;
/// The channel that says which channel is closed, from version 5 on.
const CLOSE_CHANNEL: u8 = 255;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers the handshake and leaves the connection to a task that lasts as long as it.
pub(super) fn handle(call: &Call<'_>, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let name = call.name.as_deref().unwrap_or_default();
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let pod =
        call.world.lock().store.get("/pods", namespace, name).cloned().ok_or_else(|| call.not_found())?;
    let ports = ports(call)?;
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(',').map(str::trim))
        .collect();
    // A kubelet of today knows version 4 only.
    let known = ["v4.channel.k8s.io", "v5.channel.k8s.io"];
    let Some(protocol) = known.into_iter().find(|known| offered.contains(known)) else {
        return Err(Refusal::bad_request(
            "unable to upgrade: no supported port-forward subprotocol was offered",
        ));
    };
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
        return Err(Refusal::bad_request("Upgrade request required"));
    };
    if pod["status"]["phase"] != "Running" {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let message = format!("unable to forward port because pod is not running. Current status={phase}");
        return Err(Refusal::bad_request(message));
    }
    let exporter =
        call.world.lock().exporters.values().find(|item| pod["metadata"]["uid"] == item.pod_uid).cloned();
    let session = Session {
        world: Arc::clone(call.world),
        exporter,
        pod: name.to_owned(),
        ports,
        tells_close: protocol == "v5.channel.k8s.io",
    };
    let upgrade = hyper::upgrade::on(&mut request);
    call.world.spawn(session.run(upgrade));
    Ok(switching(&key, protocol))
}

/// The answer that makes a connection a websocket.
pub(super) fn switching(key: &HeaderValue, protocol: &'static str) -> Response<Body> {
    let mut response = http::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    headers.extend(accept.ok().map(|accept| (SEC_WEBSOCKET_ACCEPT, accept)));
    response
}

fn ports(call: &Call<'_>) -> Result<Vec<u16>, Refusal> {
    let ports: Result<Vec<u16>, _> =
        call.query.all("ports").flat_map(|list| list.split(',')).map(|port| port.trim().parse()).collect();
    match ports {
        Ok(ports) if ports.is_empty() => Err(Refusal::bad_request("query parameter \"ports\" is required")),
        Ok(ports) => Ok(ports),
        Err(error) => Err(Refusal::bad_request(format!("invalid port: {error}"))),
    }
}

struct Session {
    world: Arc<World>,
    exporter: Option<Arc<Exporter>>,
    pod: String,
    ports: Vec<u16>,
    tells_close: bool,
}

impl Session {
    async fn run(self, upgrade: OnUpgrade) {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A connection that breaks is the client's to report.
        drop(self.forward(socket).await);
    }

    async fn forward(self, socket: Socket) -> io::Result<()> {
        let (sink, incoming) = socket.split();
        let (frames, outgoing) = mpsc::channel::<Message>(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(send(sink, outgoing));
        let mut writers = Vec::new();
        for (i, &port) in self.ports.iter().enumerate() {
            let data = u8::try_from(2 * i).map_err(io::Error::other)?;
            for channel in [data, data + 1] {
                let [low, high] = port.to_le_bytes();
                frames.send(frame(channel, &[low, high])).await.map_err(io::Error::other)?;
            }
            let exporter = self.exporter.as_ref().filter(|_| port == EXPORTER_PORT);
            let Some(exporter) = exporter else {
                let text = format!(
                    "error forwarding port {port} to pod {}: dial tcp4 127.0.0.1:{port}: connect: connection refused",
                    self.pod
                );
                frames.send(frame(data + 1, text.as_bytes())).await.map_err(io::Error::other)?;
                writers.push(None);
                continue;
            };
            let (ours, theirs) = tokio::io::duplex(4 * FRAME);
            tasks.spawn(data::exporter::serve(Arc::clone(&self.world), Arc::clone(exporter), theirs));
            let (reader, writer) = tokio::io::split(ours);
            tasks.spawn(pump(reader, frames.clone(), data, self.tells_close));
            writers.push(Some(writer));
        }
        drop(frames);
        let result = receive(incoming, writers).await;
        tasks.shutdown().await;
        result
    }
}

/// What comes from the client goes to the ports.
async fn receive(
    mut incoming: SplitStream<Socket>,
    mut writers: Vec<Option<WriteHalf<DuplexStream>>>,
) -> io::Result<()> {
    while let Some(message) = incoming.next().await {
        let bytes = match message.map_err(io::Error::other)? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => break,
            _ => continue,
        };
        let Some((&channel, data)) = bytes.split_first() else { continue };
        if channel == CLOSE_CHANNEL {
            if let Some(&closed) = data.first()
                && let Some(writer) = writers.get_mut(usize::from(closed / 2))
                && let Some(mut writer) = writer.take()
            {
                drop(writer.shutdown().await);
            }
            continue;
        }
        if channel % 2 == 1 {
            continue;
        }
        if let Some(slot) = writers.get_mut(usize::from(channel / 2))
            && let Some(writer) = slot
            && writer.write_all(data).await.is_err()
        {
            *slot = None;
        }
    }
    Ok(())
}

/// What comes from a port goes to the client.
async fn pump(
    mut reader: ReadHalf<DuplexStream>,
    frames: mpsc::Sender<Message>,
    channel: u8,
    tells_close: bool,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(FRAME + 1);
        buffer.extend_from_slice(&[channel]);
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if frames.send(Message::Binary(buffer.freeze())).await.is_err() {
            return;
        }
    }
    // The real one closes the whole connection when its port is closed, unless it can say which it was.
    let last = if tells_close { frame(CLOSE_CHANNEL, &[channel]) } else { Message::Close(None) };
    drop(frames.send(last).await);
}

async fn send(mut sink: SplitSink<Socket, Message>, mut outgoing: mpsc::Receiver<Message>) {
    while let Some(message) = outgoing.recv().await {
        let is_last = message.is_close();
        if sink.send(message).await.is_err() || is_last {
            break;
        }
    }
    drop(sink.close().await);
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.extend_from_slice(&[channel]);
    bytes.extend_from_slice(data);
    Message::Binary(Bytes::from(bytes))
}
