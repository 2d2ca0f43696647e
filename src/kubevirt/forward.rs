//! Port-forwards: a socket on this machine whose connections go to the exporter's pod through the API
//! server, each by a stream of its own.
//!
//! TLS is between the client and the exporter: whoever connects to the socket sees nothing and can do
//! nothing without certificate and token, and the certificate is verified as ever.

use std::{fmt, io, net::SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::Value;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{Cluster, Resource, client::Call, explain, explain::CallError};
use crate::error::{Error, ErrorKind, Result};

/// A listener that forwards. Dropping it ends it with all its connections.
pub(super) struct Forward {
    address: SocketAddr,
    service: String,
    task: AbortHandle,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward").field("address", &self.address).field("service", &self.service).finish()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forward {
    /// Forwards to the pods of `service`.
    ///
    /// # Errors
    /// There is no such pod, or no right to forward to it.
    pub(super) async fn start(cluster: &Cluster, service: &str) -> Result<Self> {
        // Tried once here, where it can be explained: a client sees only that its connection ends.
        drop(open(cluster, &target(cluster, service).await?).await?);
        let failed = |error: io::Error| {
            Error::failed("cannot listen on 127.0.0.1 for a port-forward").with_source(error)
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let task = tokio::spawn(accept(listener, cluster.clone(), service.to_owned()));
        Ok(Self { address, service: service.to_owned(), task: task.abort_handle() })
    }

    /// Where to connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service whose pods are forwarded to.
    pub(super) fn service(&self) -> &str {
        &self.service
    }
}

/// Takes connections until the task is aborted, which ends theirs too.
async fn accept(listener: TcpListener, cluster: Cluster, service: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    let (cluster, service) = (cluster.clone(), service.clone());
                    connections.spawn(async move {
                        if let Err(error) = bridge(socket, &cluster, &service).await {
                            tracing::debug!(%error, cause = ?std::error::Error::source(&error), "a forwarded connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the port-forward takes no more connections for a moment");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn bridge(mut socket: TcpStream, cluster: &Cluster, service: &str) -> Result<()> {
    socket.set_nodelay(true).map_err(|error| Error::failed("cannot set up a socket").with_source(error))?;
    // Looked up for each: pods come and go.
    let target = target(cluster, service).await?;
    let mut opened = open(cluster, &target).await?;
    let broken = || Error::new(ErrorKind::Network, format!("the forward to pod {} broke", target.pod));
    let mut stream = opened.take_stream(target.port).ok_or_else(broken)?;
    let refusal = opened.take_error(target.port);
    let copied = copy_bidirectional_with_sizes(&mut socket, &mut stream, UP_LEN, DOWN_LEN);
    let result = tokio::select! {
        copied = copied => copied.map(|_| ()).map_err(|error| broken().with_source(error)),
        Some(text) = async { match refusal { Some(refusal) => refusal.await, None => None } } => {
            Err(broken().with_source(Error::failed(text)))
        }
    };
    opened.abort();
    result
}

async fn open(cluster: &Cluster, target: &Target) -> Result<kube::api::Portforwarder> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), cluster.namespace());
    let what = format!("a port-forward to pod {}/{}", cluster.namespace(), target.pod);
    // Newer clusters ask for both, and say which is missing.
    let call = |error: Option<&kube::Error>| Call {
        verb: match error {
            Some(kube::Error::Api(status)) if status.message.contains("cannot create resource") => "create",
            _ => "get",
        },
        resource: "pods/portforward",
        what: &what,
        namespace: Some(cluster.namespace()),
    };
    // The client itself tries again for minutes.
    let opened = timeout(cluster.timeout(), pods.portforward(&target.pod, &[target.port])).await;
    let failed = match opened {
        Ok(Ok(opened)) => return Ok(opened),
        Ok(Err(error)) => explain::failure(cluster.url(), &call(Some(&error)), error),
        Err(_) => explain::no_answer(cluster.url(), &call(None), cluster.timeout()),
    };
    Err(match failed {
        CallError::Transient(error) => error.with_further_hint(
            "a proxy before the API server may not let websockets through: then take --reach external, or run this in the cluster",
        ),
        other => other.into(),
    })
}

/// A pod and the port that its exporter listens on.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    pod: String,
    port: u16,
}

async fn target(cluster: &Cluster, service: &str) -> Result<Target> {
    let found: Value = cluster.must_find(&Resource::services(), service).await?;
    let selector = selector(&found).ok_or_else(|| {
        Error::new(ErrorKind::Cluster, format!("service {}/{service} selects no pods", cluster.namespace()))
    })?;
    let pods: Vec<Value> = cluster.list(&Resource::pods(), false, &selector).await?;
    choose(&found, &pods).ok_or_else(|| {
        Error::new(
            ErrorKind::Network,
            format!("no pod of service {}/{service} is ready", cluster.namespace()),
        )
        .with_hint("it is being replaced, or cannot start: 'kubectl get pods'")
    })
}

fn selector(service: &Value) -> Option<String> {
    let selector = service.pointer("/spec/selector")?.as_object()?;
    let terms: Vec<String> =
        selector.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    (!terms.is_empty()).then(|| terms.join(","))
}

/// A pod that is ready, and the port in it that the service leads to.
fn choose(service: &Value, pods: &[Value]) -> Option<Target> {
    let is_ready = |pod: &&Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        pod.pointer("/metadata/deletionTimestamp").is_none_or(Value::is_null)
            && pod.pointer("/status/phase").and_then(Value::as_str) == Some("Running")
            && conditions.is_none_or(|conditions| {
                let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
                ready.is_none_or(|ready| ready["status"] == "True")
            })
    };
    let pod = pods.iter().find(is_ready)?;
    let port = match service.pointer("/spec/ports/0/targetPort") {
        Some(Value::Number(port)) => u16::try_from(port.as_u64()?).ok()?,
        Some(Value::String(name)) => named_port(pod, name).unwrap_or(EXPORTER_PORT),
        _ => EXPORTER_PORT,
    };
    Some(Target { pod: pod.pointer("/metadata/name")?.as_str()?.to_owned(), port })
}

fn named_port(pod: &Value, name: &str) -> Option<u16> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    let mut ports = containers.iter().filter_map(|container| container.get("ports")?.as_array()).flatten();
    let port = ports.find(|port| port.get("name").and_then(Value::as_str) == Some(name))?;
    u16::try_from(port.get("containerPort")?.as_u64()?).ok()
}

/// Where exporters listen.
const EXPORTER_PORT: u16 = 8443;

/// Requests are small.
const UP_LEN: usize = 16 << 10;

/// Answers are not.
const DOWN_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"ports": [{"name": "export", "containerPort": 9443}]}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    #[test]
    fn a_pod_that_is_ready_is_taken() {
        let service = |port: Value| json!({"spec": {"selector": {"app": "x", "run": "y"}, "ports": [{"targetPort": port}]}});
        let pods = [
            pod("old", "Succeeded", "False"),
            pod("starting", "Running", "False"),
            pod("new", "Running", "True"),
        ];
        let target = |port: Value| choose(&service(port), &pods).unwrap();
        assert_eq!(target(json!(8443)), Target { pod: "new".into(), port: 8443 });
        assert_eq!(target(json!("export")).port, 9443);
        assert_eq!(target(json!("unknown")).port, 8443);
        assert_eq!(choose(&service(json!(1)), &pods[..2]), None);
        assert_eq!(selector(&service(json!(1))).as_deref(), Some("app=x,run=y"));
        assert_eq!(selector(&json!({"spec": {"selector": {}}})), None);
    }
}
