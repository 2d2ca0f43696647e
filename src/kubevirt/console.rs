//! The serial console of a guest: a websocket through the API server, whose frames are what is typed and shown.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    Vms,
    client::Call,
    explain::{CallError, failure, no_answer, refusal, told},
    resource::encoded,
};
use crate::error::{Error, ErrorKind, Result};

/// The serial console of a guest that runs.
///
/// Dropping it ends the session; the guest does not notice. Whoever opens it next has it then.
///
/// ```no_run
/// use vmferry::kubevirt::{Cluster, ClusterOptions, Vms};
///
/// # async fn example() -> vmferry::Result<()> {
/// let vms = Vms::new(Cluster::connect(&ClusterOptions::default()).await?);
/// let mut console = vms.console("web").await?;
/// console.write(b"\n").await?;
/// while let Some(bytes) = console.read().await? {
///     print!("{}", String::from_utf8_lossy(&bytes));
/// }
/// # Ok(())
/// # }
/// ```
pub struct Console {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    vm: String,
    ping: Interval,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("vm", &self.vm).finish_non_exhaustive()
    }
}

impl Vms {
    /// Opens the serial console of a VM that runs.
    ///
    /// # Errors
    /// There is no such VM, it does not run, or has no serial console; the cluster refuses, or cannot be reached.
    pub async fn console(&self, name: &str) -> Result<Console> {
        self.find(name).await?;
        let runs = self.instance(name).await?.is_some_and(|instance| instance.status.phase == "Running");
        let vm = self.called(name);
        let unfit = |why: &str, hint: &str| {
            Error::new(ErrorKind::Cluster, format!("VM {vm} has no console to be opened: {why}"))
                .with_hint(hint.to_owned())
        };
        if !runs {
            return Err(unfit("it is not running", "'vmferry vm start' starts it"));
        }
        let what = format!("virtualmachineinstances/console of {vm}");
        let call = Call {
            verb: "get",
            resource: "virtualmachineinstances.subresources.kubevirt.io/console",
            what: &what,
            namespace: Some(self.cluster().namespace()),
        };
        let path =
            format!("{}/virtualmachineinstances/{}/console", self.cluster().subresources(), encoded(name));
        let opened = match timeout(self.cluster().timeout(), self.open(&call, &path)).await {
            Ok(opened) => opened,
            Err(_) => Err(no_answer(self.cluster().url(), &call, self.cluster().timeout())),
        };
        match opened {
            Ok(socket) => {
                let mut ping = interval_at(Instant::now() + PING, PING);
                ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Ok(Console { socket, vm, ping })
            }
            Err(error) => {
                let (text, error) = (cluster_text(&error), Error::from(error));
                Err(match text {
                    text if text.contains("No serial consoles are present") => unfit(
                        "it has no serial console",
                        "take autoattachSerialConsole: false out of its description, and restart it",
                    )
                    .with_source(Error::failed(text)),
                    text if text.contains("VMI is in failed status") => {
                        unfit("its guest has failed", "'vmferry vm status' tells more")
                            .with_source(Error::failed(text))
                    }
                    text if text.contains("page not found") => Error::new(
                        ErrorKind::Cluster,
                        "the cluster does not serve virtualmachineinstances/console",
                    )
                    .with_hint(
                        "is virt-api running? 'kubectl get apiservices v1.subresources.kubevirt.io' tells",
                    )
                    .with_source(error),
                    _ => error,
                })
            }
        }
    }

    async fn open(
        &self,
        call: &Call<'_>,
        path: &str,
    ) -> Result<WebSocketStream<TokioIo<Upgraded>>, CallError> {
        let key = generate_key();
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .header(header::SEC_WEBSOCKET_KEY, &key)
            .body(Body::empty())
            .map_err(|error| Error::failed(format!("cannot ask for {}", call.what)).with_source(error))?;
        let url = self.cluster().url();
        let answer =
            self.cluster().client().send(request).await.map_err(|error| failure(url, call, error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(url, call, answer).await);
        }
        let accepted = answer.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted != derive_accept_key(key.as_bytes()).as_str()) {
            return Err(no_websocket(url, call).into());
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|error| CallError::from(no_websocket(url, call).with_source(error)))?;
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MOST_MESSAGE_BYTES))
            .max_frame_size(Some(MOST_MESSAGE_BYTES));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(limits)).await)
    }
}

impl Console {
    /// The VM, `namespace/name`.
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// What the guest wrote next; `None` once the cluster has ended the session, as when the guest ends, or somebody else
    /// opens its console. Cancellation safe: nothing that came is lost.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            let message = tokio::select! {
                message = self.socket.next() => message,
                // A connection on which nothing happens is cut by what lies between.
                _ = self.ping.tick() => {
                    let sent = self.socket.send(Message::Ping(Bytes::new())).await;
                    sent.map_err(|error| broken(&self.vm).with_source(error))?;
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                Some(Ok(Message::Text(text))) => return Ok(Some(text.into())),
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(broken(&self.vm).with_source(error)),
            }
        }
    }

    /// Types something.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        self.socket.send(message).await.map_err(|error| broken(&self.vm).with_source(error))
    }

    /// Ends the session. What goes wrong with that is nobody's concern any more.
    pub async fn close(mut self) {
        drop(timeout(CLOSE, self.socket.close(None)).await);
    }
}

/// What a refusal says: a status, or a text.
async fn refused(url: &str, call: &Call<'_>, answer: Response<Body>) -> CallError {
    let code = answer.status().as_u16();
    if answer.status().is_success() {
        return no_websocket(url, call).into();
    }
    // One that is longer, or breaks, says nothing.
    let body = Limited::new(answer.into_body(), MOST_MESSAGE_BYTES).collect().await;
    let bytes = body.map(Collected::to_bytes).unwrap_or_default();
    let text = |status: &Value, key: &str| status.get(key).and_then(Value::as_str).map(str::to_owned);
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(status) => {
            let (reason, message) = (text(&status, "reason"), text(&status, "message"));
            refusal(call, code, &reason.unwrap_or_default(), &message.unwrap_or_default())
        }
        Err(_) => refusal(call, code, "", &String::from_utf8_lossy(&bytes)),
    }
}

fn no_websocket(url: &str, call: &Call<'_>) -> Error {
    Error::new(ErrorKind::Network, format!("{url} did not open a websocket for {}", call.what)).with_hint(
        "a proxy before the API server may not let websockets through: 'virtctl console' would fail too",
    )
}

fn broken(vm: &str) -> Error {
    Error::new(ErrorKind::Network, format!("the connection to the console of VM {vm} broke"))
        .with_hint("open it again: what the guest wrote meanwhile is lost")
}

/// What the cluster itself said.
fn cluster_text(error: &CallError) -> String {
    match error {
        CallError::Exists(error)
        | CallError::NotFound(error)
        | CallError::Refused(error)
        | CallError::Transient(error) => told(error),
    }
}

/// The subprotocol of KubeVirt's streams: frames of bytes, without channels.
const PROTOCOL: &str = "plain.kubevirt.io";

/// Frames are what a serial line gives at once: some KiB.
const MOST_MESSAGE_BYTES: usize = 1 << 20;

/// Balancers cut connections after a minute without traffic and more.
const PING: Duration = Duration::from_secs(20);

/// How long a farewell may take.
const CLOSE: Duration = Duration::from_secs(1);
