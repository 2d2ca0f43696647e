//! A simulated cluster that serves the disk `os` to both sides: the same TLS server, link and token.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use vmferry_sim::{Action, Config, Disk, Simulator, Vm};

use crate::{Result, places::Places, rows::Link};

/// A cluster with an export that is ready.
#[derive(Debug)]
pub(crate) struct Cluster {
    simulator: Simulator,
    /// Words of commands, and what they stand for.
    words: Vec<(&'static str, String)>,
}

impl Cluster {
    /// Starts it, and waits for the export `demo/os`.
    pub(crate) fn start(places: &Places) -> Result<Self> {
        let simulator = Simulator::start_blocking(Config::default())?;
        let disk = Disk::file(places.input("os"))?.with_gzip(Disk::file(places.input("gz"))?);
        simulator.add_vm(Vm::new("demo", "os").disk("root", disk));
        simulator.add_object("secrets", secret());
        simulator.add_object("virtualmachineexports", export());
        let (raw, gzip, authorities) = wait_for_links(&simulator)?;
        let kubeconfig = private(&places.work.join("kubeconfig"), &simulator.kubeconfig())?;
        let header = format!("x-kubevirt-export-token: {TOKEN}\n");
        let header = private(&places.work.join("token-header"), &header)?;
        let authorities = private(&places.work.join("ca.pem"), &authorities)?;
        let words = vec![
            ("kubeconfig", kubeconfig),
            ("ca", authorities),
            ("token-header", format!("@{header}")),
            ("raw-url", raw),
            ("gzip-url", gzip),
        ];
        Ok(Self { simulator, words })
    }

    /// Puts this link between the cluster and its clients.
    pub(crate) fn shape(&self, link: Link) {
        self.simulator.act(Action::ShapeLink {
            bytes_per_second: link.rate,
            latency: Duration::from_millis(link.round_trip),
            stall: Duration::from_millis(link.stall),
        });
    }

    /// What `{name}` stands for.
    pub(crate) fn word(&self, name: &str) -> Option<String> {
        self.words.iter().find(|(word, _)| *word == name).map(|(_, text)| text.clone())
    }

    /// A text with the words in place of what changes from run to run.
    pub(crate) fn without_places(&self, text: &str) -> String {
        // Longest first: one URL begins with the other.
        let mut words: Vec<_> = self.words.iter().collect();
        words.sort_by_key(|(_, place)| std::cmp::Reverse(place.len()));
        words
            .into_iter()
            .fold(text.to_owned(), |text, (word, place)| text.replace(place, &format!("${word}")))
    }
}

fn secret() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": "demo", "name": "os-token" },
        "data": { "token": BASE64_STANDARD.encode(TOKEN) },
    })
}

fn export() -> serde_json::Value {
    json!({
        "apiVersion": "export.kubevirt.io/v1beta1", "kind": "VirtualMachineExport",
        "metadata": { "namespace": "demo", "name": "os" },
        "spec": {
            "source": { "apiGroup": "kubevirt.io", "kind": "VirtualMachine", "name": "os" },
            "tokenSecretRef": "os-token",
            "ttlDuration": "24h0m0s",
        },
    })
}

/// The raw and the gzip link, and the CA, once the export is ready.
fn wait_for_links(simulator: &Simulator) -> Result<(String, String, String)> {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        for export in simulator.objects("virtualmachineexports", Some("demo")) {
            let external = &export["status"]["links"]["external"];
            let url = |format: &str| {
                let formats = external["volumes"][0]["formats"].as_array()?;
                let found = formats.iter().find(|found| found["format"] == format)?;
                found["url"].as_str().map(str::to_owned)
            };
            if let (Some(raw), Some(gzip), Some(ca), "Ready") = (
                url("raw"),
                url("gzip"),
                external["cert"].as_str(),
                export["status"]["phase"].as_str().unwrap_or_default(),
            ) {
                return Ok((raw, gzip, ca.to_owned()));
            }
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    Err("the simulated cluster's export did not become ready".into())
}

/// Writes a file that its owner alone may read; its path.
fn private(path: &Path, text: &str) -> Result<String> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())?;
    Ok(path.display().to_string())
}

const TOKEN: &str = "a-token-of-the-simulated-cluster";
