//! The manifests: the VM as it can be made elsewhere, and the secret that holds the token header.

use std::sync::PoisonError;

use hyper::{
    Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Value, json};

use super::exporter::{Inquiry, TOKEN};
use crate::{
    control::links,
    http::{self, Body},
    world::{Exporter, World},
};

pub(super) fn answer(
    world: &World,
    exporter: &Exporter,
    inquiry: &Inquiry<'_>,
    is_external: bool,
    is_secret: bool,
) -> Response<Body> {
    if is_external && !exporter.knew_external_host {
        return http::text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let items = if is_secret {
        vec![secret(exporter)]
    } else {
        if !exporter.has_manifest {
            return http::text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        // The real one has nothing to show for a snapshot whose VM is gone.
        let Some(vm) = &exporter.vm else { return http::empty(StatusCode::INTERNAL_SERVER_ERROR) };
        all(world, exporter, vm, is_external)
    };
    let is_yaml = inquiry.headers.get(ACCEPT).is_some_and(|accept| accept == "application/yaml");
    let text = if is_yaml {
        items.iter().map(|item| yaml(item) + "---\n").collect()
    } else {
        indented(&json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    };
    let mut response = Response::new(http::full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn secret(exporter: &Exporter) -> Value {
    let token =
        exporter.last_token.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": format!("header-secret-{}", exporter.export)},
        "stringData": {"token": format!("{TOKEN}:{}", String::from_utf8_lossy(&token))},
    })
}

fn all(world: &World, exporter: &Exporter, vm: &Value, is_external: bool) -> Vec<Value> {
    let (base, ca) = {
        let state = world.lock();
        if is_external {
            let base = links::external_base(world, &exporter.namespace, &exporter.export);
            (base, links::external_cert(world, &state))
        } else {
            (links::internal_base(&exporter.service, &exporter.namespace), state.internal_bundle.clone())
        }
    };
    let config_map = format!("export-ca-cm-{}", exporter.export);
    let source = |claim: &str| {
        json!({"http": {
            "url": format!("{base}/volumes/{claim}/disk.img.gz"), "certConfigMap": config_map,
            "secretExtraHeaders": [format!("header-secret-{}", exporter.export)],
        }})
    };
    let path_of = |name: &str| {
        let volume = exporter.volumes.iter().find(|volume| volume.name == name && volume.is_disk);
        volume.map(|volume| volume.claim.as_str())
    };
    let mut vm = vm.clone();
    for template in vm["spec"]["dataVolumeTemplates"].as_array_mut().into_iter().flatten() {
        let name = template["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(claim) = path_of(&name) {
            template["spec"]["source"] = source(claim);
            if let Some(spec) = template["spec"].as_object_mut() {
                spec.remove("sourceRef");
            }
        }
    }
    let mut data_volumes = Vec::new();
    for volume in vm["spec"]["template"]["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        let Some(name) = volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned) else {
            continue;
        };
        let Some(claim) = path_of(&name) else { continue };
        let size =
            exporter.volumes.iter().find(|volume| volume.name == name).map(|volume| volume.disk.len_bytes());
        data_volumes.push(json!({
            "kind": "DataVolume", "apiVersion": "cdi.kubevirt.io/v1beta1", "metadata": {"name": name},
            "spec": {
                "source": source(claim),
                "storage": {"resources": {"requests": {"storage": size.unwrap_or_default().to_string()}}},
            },
        }));
        *volume = json!({"name": volume["name"], "dataVolume": {"name": name}});
    }
    let config_map = json!({
        "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": config_map}, "data": {"ca.pem": ca},
    });
    [config_map, vm].into_iter().chain(data_volumes).collect()
}

fn yaml(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// JSON, indented by four as the real one does.
fn indented(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Writing a JSON value to memory does not fail.
    drop(serde::Serialize::serialize(value, &mut serializer));
    String::from_utf8(out).unwrap_or_default()
}
