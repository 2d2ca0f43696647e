//! Port-forward to an exporter, with TLS verified through it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use vmferry_sim::{Action, Disk, Rule, Vm};

use crate::support::{Cluster, TOKEN, token_of, url};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

fn connector(pem: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

async fn open(cluster: &Cluster, token: &str, pod: &str, port: u16, protocol: &str) -> Result<Socket, u16> {
    let address = cluster.simulator.api_url().replace("https://", "");
    let stream = TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = connector(&cluster.simulator.api_ca_pem()).connect(name, stream).await.unwrap();
    let url = format!("wss://{address}/api/v1/namespaces/demo/pods/{pod}/portforward?ports={port}");
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, answer)) => {
            assert!(protocol.contains(answer.headers()["sec-websocket-protocol"].to_str().unwrap()));
            Ok(socket)
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn frame(socket: &mut Socket) -> Bytes {
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => return bytes,
            Message::Close(_) => panic!("closed"),
            _ => {}
        }
    }
}

/// The port's number comes first on both channels; then everything is passed on.
async fn forwarded(mut socket: Socket) -> DuplexStream {
    assert_eq!(frame(&mut socket).await, [0, 0xfb, 0x20][..]);
    assert_eq!(frame(&mut socket).await, [1, 0xfb, 0x20][..]);
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 14];
        loop {
            tokio::select! {
                read = theirs.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(len) => {
                        let bytes = [&[0], &buffer[..len]].concat();
                        if socket.send(Message::binary(bytes)).await.is_err() {
                            break;
                        }
                    }
                },
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) if bytes[0] == 0 => {
                        if theirs.write_all(&bytes[1..]).await.is_err() {
                            break;
                        }
                    }
                    Some(Ok(Message::Binary(_) | Message::Ping(_))) => {}
                    _ => break,
                },
            }
        }
    });
    ours
}

#[tokio::test]
async fn an_exporter_is_reached_with_verified_tls() {
    let cluster = Cluster::start().await;
    let disk = vec![5; 300_000];
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::bytes(disk.clone())));
    let export = cluster.export("demo", "e", "web").await;
    let internal = &export["status"]["links"]["internal"];
    let path = url(&export, "internal", "web-root", "raw");
    let path = path.strip_prefix("https://virt-export-e.demo.svc").unwrap();
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io", "v5.channel.k8s.io, v4.channel.k8s.io"] {
        let socket = open(&cluster, &cluster.token, "virt-export-e", 8443, protocol).await.unwrap();
        let stream = forwarded(socket).await;
        let name = ServerName::try_from("virt-export-e.demo.svc").unwrap();
        let mut tls = connector(internal["cert"].as_str().unwrap()).connect(name, stream).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-kubevirt-export-token: {TOKEN}\r\n\r\n"
        );
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.ends_with(&disk));
    }
}

#[tokio::test]
async fn a_stale_authority_does_not_verify_the_new_certificate() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(10)));
    let export = cluster.export("demo", "e", "web").await;
    let old = export["status"]["links"]["internal"]["cert"].as_str().unwrap().to_owned();
    cluster.simulator.act(Action::RotateCertificate);
    let path = format!("{}/e", crate::support::exports("demo"));
    let is_new = |export: &serde_json::Value| {
        export["status"]["phase"] == "Ready" && export["status"]["links"]["internal"]["cert"] != old.as_str()
    };
    let export = cluster.until(&path, is_new).await;
    let new = export["status"]["links"]["internal"]["cert"].as_str().unwrap().to_owned();
    for (pem, is_trusted) in [(old, false), (new, true)] {
        let socket =
            open(&cluster, &cluster.token, "virt-export-e", 8443, "v4.channel.k8s.io").await.unwrap();
        let name = ServerName::try_from("virt-export-e.demo.svc").unwrap();
        assert_eq!(connector(&pem).connect(name, forwarded(socket).await).await.is_ok(), is_trusted);
    }
}

#[tokio::test]
async fn other_ports_and_pods_are_refused() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(10)));
    cluster.export("demo", "e", "web").await;
    let protocol = "v4.channel.k8s.io";
    let mut socket = open(&cluster, &cluster.token, "virt-export-e", 80, protocol).await.unwrap();
    frame(&mut socket).await;
    frame(&mut socket).await;
    let error = frame(&mut socket).await;
    assert_eq!(error[0], 1);
    assert!(String::from_utf8_lossy(&error[1..]).contains("connection refused"));
    assert_eq!(open(&cluster, &cluster.token, "nope", 8443, protocol).await.err(), Some(404));
    assert_eq!(
        open(&cluster, &cluster.token, "virt-export-e", 8443, "base64.channel.k8s.io").await.err(),
        Some(400)
    );
    let user = token_of(&cluster.simulator.kubeconfig_with(vec![Rule::new(&["get"], &["/pods"])]));
    assert_eq!(open(&cluster, &user, "virt-export-e", 8443, protocol).await.err(), Some(403));
}
