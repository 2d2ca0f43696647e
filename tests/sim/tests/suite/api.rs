//! The Kubernetes API: changes, selectors, watches, rights.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use vmferry_sim::{Action, Disk, Rule, Vm};

use crate::support::{Cluster, answer, exports, token_of};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn patch(cluster: &Cluster, path: &str, kind: &str, body: &Value) -> (reqwest::StatusCode, Value) {
    let request = cluster.request(Method::PATCH, path).header("content-type", kind).body(body.to_string());
    answer(request.send().await.unwrap()).await
}

#[tokio::test]
async fn changes_need_the_version_they_were_made_from() {
    let cluster = Cluster::start().await;
    let map = json!({"metadata": {"name": "a"}, "data": {"x": "1"}});
    let (_, first) = cluster.call(Method::POST, MAPS, &map).await;
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"]["x"] = "2".into();
    assert_eq!(cluster.call(Method::PUT, &path, &second).await.0, 200);
    let (status, refusal) = cluster.call(Method::PUT, &path, &second).await;
    assert_eq!((status.as_u16(), &refusal["reason"]), (409, &json!("Conflict")));
    let merge = json!({"data": {"x": null, "y": "3"}});
    let (_, merged) = patch(&cluster, &path, "application/merge-patch+json", &merge).await;
    assert_eq!(merged["data"], json!({"y": "3"}));
    let operations = json!([{"op": "test", "path": "/data/y", "value": "4"}]);
    assert_eq!(patch(&cluster, &path, "application/json-patch+json", &operations).await.0, 422);
    assert_eq!(patch(&cluster, &path, "text/plain", &operations).await.0, 415);
    let apply =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}, "data": {"z": "1"}});
    let new = format!("{MAPS}/new?fieldManager=test");
    assert_eq!(patch(&cluster, &new, "application/apply-patch+yaml", &apply).await.0, 201);
    assert_eq!(patch(&cluster, &new, "application/apply-patch+yaml", &apply).await.0, 200);
    let wrong = json!({"preconditions": {"uid": "another"}});
    assert_eq!(cluster.call(Method::DELETE, &path, &wrong).await.0, 409);
    assert_eq!(cluster.call(Method::DELETE, &path, &Value::Null).await.0, 200);
}

#[tokio::test]
async fn status_is_changed_by_its_subresource_only() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(10)));
    let path = "/apis/snapshot.storage.k8s.io/v1/namespaces/demo/volumesnapshots";
    let snapshot = json!({"metadata": {"name": "s"}, "spec": {"source": {}}, "status": {"readyToUse": true}});
    let (_, created) = cluster.call(Method::POST, path, &snapshot).await;
    assert!(created["status"].is_null());
    let kind = "application/merge-patch+json";
    let change = json!({"spec": {"extra": 1}, "status": {"readyToUse": true}});
    let (_, both) = patch(&cluster, &format!("{path}/s"), kind, &change).await;
    assert!(both["status"].is_null());
    assert_eq!(both["metadata"]["generation"], 2);
    let (_, status) = patch(
        &cluster,
        &format!("{path}/s/status"),
        kind,
        &json!({"spec": {"extra": 2}, "status": {"a": 1}}),
    )
    .await;
    assert_eq!((&status["spec"]["extra"], &status["status"]), (&json!(1), &json!({"a": 1})));
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let cluster = Cluster::start().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")] {
        let map = json!({"metadata": {"name": name, "labels": {"app": app}}});
        cluster.call(Method::POST, MAPS, &map).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, list) = cluster.get(&format!("{MAPS}?labelSelector=app%3Dx&limit=2")).await;
    assert_eq!(names(&list), ["a", "c"]);
    let token = list["metadata"]["continue"].as_str().unwrap();
    let (_, list) = cluster.get(&format!("{MAPS}?labelSelector=app%3Dx&limit=2&continue={token}")).await;
    assert_eq!(names(&list), ["d"]);
    let (_, list) = cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Db")).await;
    assert_eq!(names(&list), ["b"]);
    assert_eq!(cluster.get(&format!("{}?fieldSelector=spec.x%3Db", exports("default"))).await.0, 400);
}

#[tokio::test]
async fn a_watch_sees_changes_and_bookmarks_and_ends() {
    let cluster = Cluster::start().await;
    let watch = |query: &str| cluster.request(Method::GET, &format!("{MAPS}?watch=true&{query}"));
    let (_, list) = cluster.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let query =
        format!("resourceVersion={version}&timeoutSeconds=2&allowWatchBookmarks=true&labelSelector=app%3Dx");
    let stream = watch(&query).send().await.unwrap();
    cluster.call(Method::POST, MAPS, &json!({"metadata": {"name": "other"}})).await;
    cluster.call(Method::POST, MAPS, &json!({"metadata": {"name": "a", "labels": {"app": "x"}}})).await;
    let kind = "application/merge-patch+json";
    patch(&cluster, &format!("{MAPS}/a"), kind, &json!({"data": {"k": "v"}})).await;
    patch(&cluster, &format!("{MAPS}/a"), kind, &json!({"metadata": {"labels": {"app": "y"}}})).await;
    patch(&cluster, &format!("{MAPS}/a"), kind, &json!({"metadata": {"labels": {"app": "x"}}})).await;
    cluster.call(Method::DELETE, &format!("{MAPS}/a"), &Value::Null).await;
    let text = stream.text().await.unwrap();
    let kinds: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .filter(|kind| kind != "BOOKMARK")
        .collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]);
    assert!(text.contains("BOOKMARK"));
    let text = watch("sendInitialEvents=true&allowWatchBookmarks=true&timeoutSeconds=1")
        .send()
        .await
        .unwrap()
        .text();
    assert!(text.await.unwrap().contains("k8s.io/initial-events-end"));
}

#[tokio::test]
async fn a_watch_from_forgotten_history_is_told_so() {
    let cluster = Cluster::start().await;
    let (_, list) = cluster.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    cluster.simulator.act(Action::ForgetHistory);
    let path = format!("{MAPS}?watch=1&resourceVersion={version}");
    let stream = cluster.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let event: Value = serde_json::from_str(&stream.text().await.unwrap()).unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
}

#[tokio::test]
async fn owners_take_along_what_they_own_unless_told_otherwise() {
    let cluster = Cluster::start().await;
    for policy in ["Background", "Foreground", "Orphan"] {
        let name = policy.to_lowercase();
        let (_, owner) = cluster.call(Method::POST, MAPS, &json!({"metadata": {"name": name}})).await;
        let reference = json!([{
            "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": true,
        }]);
        let owned = json!({"metadata": {"name": format!("{name}-owned"), "ownerReferences": reference}});
        cluster.call(Method::POST, "/api/v1/namespaces/default/secrets", &owned).await;
        let options = json!({"propagationPolicy": policy});
        assert_eq!(cluster.call(Method::DELETE, &format!("{MAPS}/{name}"), &options).await.0, 200);
        cluster.gone(&format!("{MAPS}/{name}")).await;
        let owned = format!("/api/v1/namespaces/default/secrets/{name}-owned");
        if policy == "Orphan" {
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(cluster.get(&owned).await.0, 200);
        } else {
            cluster.gone(&owned).await;
        }
    }
}

#[tokio::test]
async fn users_may_do_what_their_rules_say() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(10)));
    let rule = Rule::new(&["get", "list"], &["kubevirt.io/virtualmachines"]).within(&["demo"]);
    let token = token_of(&cluster.simulator.kubeconfig_with(vec![rule]));
    let get = async |path: &str, token: &str| {
        let url = format!("{}{path}", cluster.simulator.api_url());
        answer(cluster.client.get(url).bearer_auth(token).send().await.unwrap()).await
    };
    let vms = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines";
    assert_eq!(get(vms, &token).await.0, 200);
    let (status, refusal) = get("/apis/kubevirt.io/v1/virtualmachines", &token).await;
    assert_eq!(status, 403);
    assert_eq!(
        refusal["message"],
        "virtualmachines.kubevirt.io is forbidden: User \"user-1\" cannot list resource \"virtualmachines\" \
         in API group \"kubevirt.io\" at the cluster scope"
    );
    assert_eq!(get("/apis/kubevirt.io/v1/kubevirts", &token).await.0, 200);
    assert_eq!(get("/apis", &token).await.0, 200);
    assert_eq!(get("/apis", "nonsense").await.0, 401);
    let review = |verb: &str| {
        json!({"spec": {"resourceAttributes": {
            "namespace": "demo", "verb": verb, "group": "kubevirt.io", "resource": "virtualmachines",
        }}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, is_allowed) in [("list", true), ("delete", false)] {
        let request = cluster.request(Method::POST, reviews).header("impersonate-user", "user-1");
        let request = request.header("content-type", "application/json").body(review(verb).to_string());
        let (status, found) = answer(request.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &found["status"]["allowed"]), (201, &json!(is_allowed)));
    }
    let url = format!("{}{vms}", cluster.simulator.api_url());
    let request = cluster.client.get(url).bearer_auth(&token).header("impersonate-user", "admin");
    assert_eq!(request.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn specs_are_expanded() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").instancetype("u1.large").preference("fedora"));
    let base = "/apis/subresources.kubevirt.io/v1/namespaces/demo";
    let (_, stored) = cluster.get(&format!("{base}/virtualmachines/web/expand-spec")).await;
    let (_, vm) = cluster.get("/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/web").await;
    let (status, given) = cluster.call(Method::PUT, &format!("{base}/expand-vm-spec"), &vm).await;
    assert_eq!(status, 200);
    for expanded in [stored, given] {
        let domain = &expanded["spec"]["template"]["spec"]["domain"];
        assert_eq!((&domain["cpu"]["sockets"], &domain["memory"]["guest"]), (&json!(2), &json!("8Gi")));
        assert!(expanded["spec"]["instancetype"].is_null());
    }
}

#[tokio::test]
async fn subresources_start_and_stop() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(10)));
    let vm = "/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/web";
    let call = async |what: &str| {
        let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/demo/virtualmachines/web/{what}");
        cluster.call(Method::PUT, &path, &Value::Null).await
    };
    assert_eq!(call("stop").await.0, 409);
    assert_eq!(call("start").await, (reqwest::StatusCode::ACCEPTED, json!("")));
    cluster
        .until(vm, |vm| vm["status"]["printableStatus"] == "Running" && vm["spec"]["runStrategy"] == "Always")
        .await;
    assert_eq!(call("start").await.0, 409);
    assert_eq!(call("stop").await.0, 202);
    cluster
        .until(vm, |vm| vm["status"]["printableStatus"] == "Stopped" && vm["spec"]["runStrategy"] == "Halted")
        .await;
}

#[tokio::test]
async fn a_namespace_takes_along_what_is_in_it() {
    let cluster = Cluster::start().await;
    cluster.simulator.add_vm(Vm::new("demo", "web").disk("root", Disk::zeros(10)));
    cluster.call(Method::DELETE, "/api/v1/namespaces/demo", &Value::Null).await;
    cluster.gone("/apis/kubevirt.io/v1/namespaces/demo/virtualmachines/web").await;
    cluster.gone("/api/v1/namespaces/demo/persistentvolumeclaims/web-root").await;
    let (status, refusal) =
        cluster.call(Method::POST, &exports("demo"), &json!({"metadata": {"name": "e"}, "spec": {}})).await;
    assert_eq!((status.as_u16(), &refusal["message"]), (404, &json!("namespaces \"demo\" not found")));
}
