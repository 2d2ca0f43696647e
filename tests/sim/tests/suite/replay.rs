//! Recorded requests of the real components, sent to the simulator: status, headers, reasons, messages and the
//! shape of the body must be the same, and values too where they do not vary.

mod compare;
mod material;

use std::{collections::BTreeSet, path::Path, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use vmferry_sim::Config;

use crate::support::{Cluster, TOKEN, exports, missing, recorded};
use compare::{differences, normal};
use material::Recorded;

/// What is not played, with the reason.
const NOT_COVERED: [&str; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_are_given() {
    let Some(folder) = recorded() else { return missing("the folder of recorded answers") };
    // Slow enough that each state can be met.
    let cluster = Cluster::with(Config { delay: Duration::from_millis(60), ..Config::default() }).await;
    cluster.simulator.add_example();
    let mut replay = Replay { cluster, folder, done: BTreeSet::new(), failures: Vec::new() };
    replay.discovery().await;
    replay.vms().await;
    replay.exports().await;
    replay.data().await;
    replay.export_ends().await;
    replay.snapshots().await;
    replay.subresources().await;
    replay.report();
}

struct Replay {
    cluster: Cluster,
    folder: std::path::PathBuf,
    done: BTreeSet<String>,
    failures: Vec<String>,
}

impl Replay {
    fn read(&mut self, name: &str) -> Recorded {
        self.done.insert(name.to_owned());
        Recorded::read(&self.folder.join(name))
    }

    async fn all(&mut self, folder: &str, names: &[&str]) {
        for name in names {
            self.one(&format!("{folder}/{name}.http"), &[]).await;
        }
    }

    /// Sends one request and compares; `accept` is what the recording does not show.
    async fn one(&mut self, name: &str, headers: &[(&str, &str)]) {
        let wanted = self.read(name);
        let found = self.send(&wanted, headers).await;
        self.compare(name, &wanted, &found);
    }

    async fn send(&self, wanted: &Recorded, headers: &[(&str, &str)]) -> Recorded {
        let mut request = match wanted.path.strip_prefix("https://localhost") {
            // The real proxy listens behind an Ingress named localhost.
            Some(path) => {
                let url = format!("https://{}{path}", self.cluster.simulator.proxy_address());
                self.cluster.client.request(wanted.method.clone(), url)
            }
            None => self.cluster.request(wanted.method.clone(), &wanted.path),
        };
        for (name, value) in &wanted.request_headers {
            request = request.header(name, value.replace("TOKEN", TOKEN));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !wanted.request_body.is_empty() {
            request = request.body(wanted.request_body.clone());
        }
        Recorded::from_answer(request.send().await.expect("an answer")).await
    }

    fn compare(&mut self, name: &str, wanted: &Recorded, found: &Recorded) {
        let mut problems = Vec::new();
        if wanted.status != found.status {
            problems.push(format!("status {} instead of {}", found.status, wanted.status));
        }
        for header in COMPARED_HEADERS {
            let (wanted, found) = (wanted.header(header), found.header(header));
            if wanted != found {
                problems.push(format!("{header}: {found:?} instead of {wanted:?}"));
            }
        }
        match (serde_json::from_str::<Value>(&wanted.body), serde_json::from_str::<Value>(&found.body)) {
            (Ok(wanted), Ok(found)) => {
                problems.extend(differences("", &normal(&wanted), &normal(&found)));
            }
            _ if wanted.body.trim() != found.body.trim() => {
                problems.push(format!("body {:?} instead of {:?}", found.body.trim(), wanted.body.trim()));
            }
            _ => {}
        }
        self.failures.extend(problems.into_iter().map(|problem| format!("{name}: {problem}")));
    }

    async fn discovery(&mut self) {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        self.one("discovery/apis-aggregated.http", &[("accept", accept)]).await;
        let names = [
            "api-v1",
            "apis",
            "backup-v1alpha1",
            "clone-v1beta1",
            "export-group",
            "export-v1",
            "export-v1beta1",
            "instancetype-v1beta1",
            "kubevirt-v1",
            "kubevirt-version",
            "missing-group",
            "snapshot-v1beta1",
            "subresources-v1",
            "version",
        ];
        self.all("discovery", &names).await;
    }

    async fn vms(&mut self) {
        let live = "/apis/kubevirt.io/v1/namespaces/prod-db/virtualmachines/live";
        self.cluster.until(live, |vm| vm["status"]["printableStatus"] == "Starting").await;
        let first = "/apis/kubevirt.io/v1/namespaces/ns1/virtualmachines/web";
        self.cluster.until(first, |vm| vm["status"]["printableStatus"] == "Stopped").await;
        // The recorded cluster has other gates and other instance types.
        let cr = self.read("vm/kubevirt-cr.http").json();
        let path = "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt";
        self.cluster.call(Method::DELETE, path, &Value::Null).await;
        self.cluster.simulator.add_object("kubevirts", cr["items"][0].clone());
        for (name, plural) in [
            ("instancetypes", "virtualmachineclusterinstancetypes"),
            ("preferences", "virtualmachineclusterpreferences"),
        ] {
            let list = self.read(&format!("vm/{name}.http")).json();
            let path = format!("/apis/instancetype.kubevirt.io/v1beta1/{plural}");
            self.cluster.call(Method::DELETE, &path, &Value::Null).await;
            for item in list["items"].as_array().expect("items") {
                self.cluster.simulator.add_object(plural, item.clone());
            }
            for i in 0..list["metadata"]["remainingItemCount"].as_u64().expect("a count") {
                self.cluster
                    .simulator
                    .add_object(plural, json!({"metadata": {"name": format!("z-{i}")}, "spec": {}}));
            }
        }
        let names = [
            "expand-spec",
            "get-404",
            "get",
            "instancetypes",
            "kubevirt-cr",
            "list-all",
            "list-limit2",
            "list-ns1-table",
            "preferences",
            "pvc-list",
            "storageclasses",
        ];
        self.all("vm", &names).await;
        let mut wanted = self.read("vm/vmi-list.http");
        let mut found = self.send(&wanted, &[]).await;
        for side in [&mut wanted, &mut found] {
            // How often the real controller touched the instance.
            side.change(|list| list["items"][0]["metadata"]["generation"] = 0.into());
        }
        self.compare("vm/vmi-list.http", &wanted, &found);
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        self.one("vm/list-ns1-as-table.http", &[("accept", accept)]).await;
    }

    async fn exports(&mut self) {
        let (_, list) = self.cluster.get(&exports("ns1")).await;
        let version = list["metadata"]["resourceVersion"].as_str().expect("a version");
        let path = format!("{}?watch=1&resourceVersion={version}&allowWatchBookmarks=true", exports("ns1"));
        let watch = self.cluster.request(Method::GET, &path).send().await.expect("a watch");
        self.one("export/create.http", &[]).await;
        let demo = format!("{}/demo", exports("ns1"));
        // As in the recording: the pod waits for the secret.
        self.cluster.until(&demo, |export| export["status"]["conditions"][0]["reason"] == "PodPending").await;
        self.all("export", &["create-again-409", "create-secret"]).await;
        let is_unknown = |export: &Value| export["status"]["conditions"][0]["reason"] == "Unknown";
        self.cluster.until(&demo, is_unknown).await;
        self.one("export/patch-label.http", &[]).await;
        let names = [
            "create-bad-kind",
            "create-bad-group",
            "create-pvc-with-group",
            "create-unknown-field-strict",
            "create-dry-run",
            "create-v1beta1-deprecation",
            "create-missing-vm",
            "create-missing-pvc",
            "create-running-vm",
            "patch-spec-refused",
        ];
        self.all("export", &names).await;
        self.cluster.ready("ns1", "demo").await;
        for (path, reason) in [
            (format!("{}/novm", exports("ns1")), "VMNotFound"),
            (format!("{}/nopvc", exports("ns1")), "Initializing"),
            (format!("{}/running", exports("prod-db")), "InUse"),
        ] {
            let has_reason = |export: &Value| export["status"]["conditions"][0]["reason"] == reason;
            self.cluster.until(&path, has_reason).await;
        }
        let names = [
            "get-ready",
            "get-missing-vm",
            "get-missing-pvc",
            "get-running-vm",
            "secret",
            "service",
            "pods",
            "events",
            "ca-configmap",
            "ssar",
            "watch-too-old",
        ];
        self.all("export", &names).await;
        self.watch_life(watch).await;
    }

    /// Each export goes through the recorded states, in their order.
    async fn watch_life(&mut self, mut watch: reqwest::Response) {
        self.done.insert("export/watch-life.jsonl".to_owned());
        let text =
            std::fs::read_to_string(self.folder.join("export/watch-life.jsonl")).expect("the recorded watch");
        let wanted = material::events(&text);
        let mut text = String::new();
        while !text.contains("BOOKMARK") || material::events(&text).len() < wanted.len() {
            let piece = watch.chunk().await.expect("a living watch").expect("more of it");
            text.push_str(std::str::from_utf8(&piece).expect("text"));
        }
        let found = material::events(&text);
        for name in ["demo", "novm", "nopvc"] {
            let (wanted, found) = (material::states(&wanted, name), material::states(&found, name));
            if wanted != found {
                self.failures
                    .push(format!("watch-life: {name} went through {found:#?} instead of {wanted:#?}"));
            }
            for (wanted, found) in
                material::objects(&text_of(&self.folder), name).iter().zip(material::objects(&text, name))
            {
                let problems = differences("", &normal(wanted), &normal(&found));
                self.failures
                    .extend(problems.into_iter().map(|problem| format!("watch-life: {name}: {problem}")));
            }
        }
        let bookmark =
            |events: &[material::Event]| events.iter().find(|event| event.kind == "BOOKMARK").cloned();
        let keys = |event: Option<material::Event>| event.map(|event| normal(&event.object));
        if keys(bookmark(&wanted)) != keys(bookmark(&found)) {
            self.failures.push("watch-life: the bookmark looks different".to_owned());
        }
    }

    async fn data(&mut self) {
        let names = [
            "head-gzip",
            "head-raw",
            "if-range",
            "malformed-path",
            "manifest-json",
            "manifest-yaml",
            "no-token",
            "not-ready",
            "range-bad",
            "range-beyond",
            "range-multi",
            "range-raw",
            "range-suffix",
            "unknown-export",
            "unknown-volume",
            "wrong-token",
        ];
        for name in names {
            let file = format!("data/{name}.http");
            let mut wanted = self.read(&file);
            let mut found = self.send(&wanted, &[]).await;
            // Bytes of disks and certificates vary, and the recording is cut.
            if name == "manifest-json" {
                wanted.body = material::closed(&wanted.body);
                found.change(material::first_item);
            }
            for side in [&mut wanted, &mut found] {
                side.body = material::without_disk_bytes(name, &side.body);
            }
            self.compare(&file, &wanted, &found);
        }
    }

    async fn export_ends(&mut self) {
        self.all("export", &["delete", "get-after-delete"]).await;
    }

    async fn snapshots(&mut self) {
        self.all("snapshot", &["create", "create-bad-group", "create-no-vm"]).await;
        let base = "/apis/snapshot.kubevirt.io/v1beta1/namespaces/ns2";
        self.cluster
            .until(&format!("{base}/virtualmachinesnapshots/golden"), |item| {
                item["status"]["readyToUse"] == true
            })
            .await;
        self.cluster
            .until(&format!("{base}/virtualmachinesnapshots/golden3"), |item| {
                item["status"]["phase"] == "InProgress"
            })
            .await;
        self.all("snapshot", &["get-ready", "get-no-vm", "contents", "volumesnapshots"]).await;
        self.all(
            "snapshot",
            &["export-create", "restore-create", "clone-create", "migration-create-not-running"],
        )
        .await;
        self.cluster.ready("ns2", "fromgolden").await;
        self.cluster
            .until(&format!("{base}/virtualmachinerestores/back"), |item| item["status"]["complete"] == true)
            .await;
        let clone = "/apis/clone.kubevirt.io/v1beta1/namespaces/ns2/virtualmachineclones/twin";
        self.cluster.until(clone, |item| item["status"]["phase"] == "Succeeded").await;
        self.all("snapshot", &["export-get", "restore-get", "clone-get"]).await;
        let mut wanted = self.read("snapshot/pvcs-after.http");
        let mut found = self.send(&wanted, &[]).await;
        for side in [&mut wanted, &mut found] {
            side.change(|list| {
                let claims = list["items"].as_array_mut().expect("items");
                // A claim that an earlier experiment on the recorded cluster left behind.
                claims.retain(|claim| claim["metadata"]["name"] != "online-root");
                // The names of two begin with a uid.
                claims.sort_by_key(|claim| {
                    let metadata = normal(&claim["metadata"]);
                    (
                        metadata["name"].to_string(),
                        metadata["annotations"]["restore.kubevirt.io/name"].to_string(),
                    )
                });
            });
        }
        self.compare("snapshot/pvcs-after.http", &wanted, &found);
    }

    async fn subresources(&mut self) {
        let names = [
            "addvolume-halted",
            "freeze-halted",
            "guestosinfo-halted",
            "migrate-halted",
            "pause-halted",
            "post-instead-of-put",
            "reset-halted",
            "restart-halted",
            "softreboot-halted",
            "start-halted",
            "stop-halted",
            "unfreeze-halted",
            "unknown-vm",
            "unpause-halted",
        ];
        self.all("subresource", &names).await;
    }

    fn report(self) {
        let mut there = BTreeSet::new();
        for folder in std::fs::read_dir(&self.folder).expect("the folder").flatten() {
            let name = folder.file_name().to_string_lossy().into_owned();
            for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                there.insert(format!("{name}/{}", file.file_name().to_string_lossy()));
            }
        }
        let open: Vec<&String> = there.difference(&self.done).collect();
        println!("{} of {} recorded files replayed; not covered: {open:?}", self.done.len(), there.len());
        assert!(open.iter().all(|name| NOT_COVERED.contains(&name.as_str())), "not covered: {open:?}");
        assert!(
            self.failures.is_empty(),
            "{} differences:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }
}

fn text_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("export/watch-life.jsonl")).expect("the recorded watch")
}

/// The headers that clients look at.
const COMPARED_HEADERS: [&str; 10] = [
    "accept-ranges",
    "allow",
    "cache-control",
    "content-range",
    "content-type",
    "vary",
    "warning",
    "x-content-type-options",
    "location",
    "content-length",
];
