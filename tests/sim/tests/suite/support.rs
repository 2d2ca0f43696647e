//! What the tests share: a client, waiting, and how to skip.

use std::{
    path::PathBuf,
    sync::Once,
    time::{Duration, Instant},
};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use vmferry_sim::{Config, Simulator};

/// How long anything may take that is only a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster and a client with the administrator's token.
pub(crate) struct Cluster {
    pub(crate) simulator: Simulator,
    pub(crate) client: reqwest::Client,
    pub(crate) token: String,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let simulator = Simulator::start(config).await.expect("the simulator starts");
        let client = client(&[simulator.api_ca_pem(), simulator.ingress_ca_pem()]);
        let token = token_of(&simulator.kubeconfig());
        Self { simulator, client, token }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.simulator.api_url());
        self.client.request(method, url).bearer_auth(&self.token)
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let mut request = self.request(method, path);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        answer(request.send().await.expect("an answer")).await
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// Creates an export of a VM with a token, and waits until it is ready.
    pub(crate) async fn export(&self, namespace: &str, name: &str, vm: &str) -> Value {
        self.create_export(
            namespace,
            name,
            &json!({"apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": vm}),
        )
        .await;
        self.ready(namespace, name).await
    }

    pub(crate) async fn create_export(&self, namespace: &str, name: &str, source: &Value) {
        let secret = json!({"metadata": {"name": name}, "stringData": {"token": TOKEN}});
        let (status, body) =
            self.call(Method::POST, &format!("/api/v1/namespaces/{namespace}/secrets"), &secret).await;
        assert_eq!(status, 201, "{body}");
        let export = json!({"metadata": {"name": name}, "spec": {"source": source, "tokenSecretRef": name}});
        let (status, body) = self.call(Method::POST, &exports(namespace), &export).await;
        assert_eq!(status, 201, "{body}");
    }

    pub(crate) async fn ready(&self, namespace: &str, name: &str) -> Value {
        self.until(&format!("{}/{name}", exports(namespace)), |export| export["status"]["phase"] == "Ready")
            .await
    }

    /// Waits until an export is ready with a pod that is ready, after something happened to its pod.
    pub(crate) async fn ready_again(&self, namespace: &str, name: &str) -> Value {
        let pod = format!("/api/v1/namespaces/{namespace}/pods/virt-export-{name}");
        let is_ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.is_some_and(|list| {
                list.iter().any(|item| item["type"] == "Ready" && item["status"] == "True")
            })
        };
        self.until(&pod, is_ready).await;
        self.ready(namespace, name).await
    }

    /// Polls an object until it is as wanted.
    pub(crate) async fn until(&self, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let (status, object) = self.get(path).await;
            if status.is_success() && is_wanted(&object) {
                return object;
            }
            assert!(start.elapsed() < PATIENCE, "{path} is still {object}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Polls until an object is gone.
    pub(crate) async fn gone(&self, path: &str) {
        let start = Instant::now();
        while self.get(path).await.0 != 404 {
            assert!(start.elapsed() < PATIENCE, "{path} is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A request for data with the token.
    pub(crate) fn data(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        self.client.request(method, url).header("x-kubevirt-export-token", TOKEN)
    }
}

/// The token of the tests' exports.
pub(crate) const TOKEN: &str = "exampletokenexampletok";

pub(crate) fn exports(namespace: &str) -> String {
    format!("/apis/export.kubevirt.io/v1/namespaces/{namespace}/virtualmachineexports")
}

/// The URL of a volume's link.
pub(crate) fn url(export: &Value, side: &str, volume: &str, format: &str) -> String {
    let volumes = export["status"]["links"][side]["volumes"].as_array().expect("volumes");
    let volume = volumes.iter().find(|item| item["name"] == volume).expect("the volume");
    let formats = volume["formats"].as_array().expect("formats");
    let link = formats.iter().find(|item| item["format"] == format).expect("the format");
    link["url"].as_str().expect("a URL").to_owned()
}

/// A client that trusts these authorities only.
pub(crate) fn client(authorities: &[String]) -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let roots =
        authorities.iter().map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate"));
    reqwest::Client::builder()
        .tls_certs_only(roots)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client")
}

pub(crate) fn token_of(kubeconfig: &str) -> String {
    let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("token: "));
    line.expect("a token in the kubeconfig").to_owned()
}

pub(crate) async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Skips loudly, or fails where nothing may be skipped.
#[track_caller]
pub(crate) fn missing(what: &str) {
    let place = std::panic::Location::caller();
    assert!(
        std::env::var_os("VMFERRY_STRICT").is_none_or(|value| value != "1"),
        "{place}: {what} is not there"
    );
    eprintln!("SKIPPED at {place}: {what} is not there; set VMFERRY_STRICT=1 to make this a failure");
}

/// The folder of recorded answers, if the test material is there.
pub(crate) fn recorded() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("VMFERRY_TEST_MATERIAL")?).join("recorded");
    folder.is_dir().then_some(folder)
}
