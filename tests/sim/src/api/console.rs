//! The serial console of a guest, over WebSocket: it says whose it is, and then what is typed, line by line.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::portforward::switching;
use crate::{http::Body, refusal::Refusal, world::World};

/// The subprotocol of KubeVirt's streams.
const PROTOCOL: &str = "plain.kubevirt.io";
/// What ends a session from the guest's side: `^D`, as in a shell.
const END: u8 = 4;

/// Answers the handshake and leaves the connection to a task that lasts as long as it.
pub(super) fn handle(
    world: &Arc<World>,
    namespace: &str,
    name: &str,
    request: &mut Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let instance = world.lock().store.get("kubevirt.io/virtualmachineinstances", namespace, name).cloned();
    let instance =
        instance.ok_or_else(|| Refusal::not_found("kubevirt.io", "virtualmachineinstance", name))?;
    if instance["spec"]["domain"]["devices"]["autoattachSerialConsole"] == false {
        return Err(Refusal::bad_request("No serial consoles are present."));
    }
    match instance["status"]["phase"].as_str() {
        Some("Running") => {}
        Some("Failed") => {
            let why = "VMI is in failed status";
            return Err(Refusal::conflict("kubevirt.io", "virtualmachineinstance", name, why));
        }
        _ => return Err(Refusal::bad_request("VMI is not running")),
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let is_known = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|offered| offered.trim() == PROTOCOL);
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let Some(key) = key.filter(|_| is_known) else {
        return Err(Refusal::bad_request(
            "unable to upgrade: websocket: the client is not using plain.kubevirt.io",
        ));
    };
    let upgrade = hyper::upgrade::on(request);
    world.spawn(serve(upgrade, format!("console of {namespace}/{name}\r\n")));
    Ok(switching(&key, PROTOCOL))
}

async fn serve(upgrade: OnUpgrade, greeting: String) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    if socket.send(Message::Binary(greeting.into())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(typed) = message else { continue };
        if typed.contains(&END) {
            break;
        }
        // As a terminal that echoes: a line ends with both.
        let shown: Vec<u8> = typed
            .iter()
            .flat_map(|key| if matches!(key, b'\r' | b'\n') { b"\r\n".to_vec() } else { vec![*key] })
            .collect();
        if socket.send(Message::Binary(Bytes::from(shown))).await.is_err() {
            return;
        }
    }
    drop(socket.close(None).await);
}
