//! The links of an export that is ready.

use serde_json::{Value, json};

use crate::{
    store,
    world::{ExportedVolume, Exporter, State, World},
};

/// What links through the proxy begin with. The real ones have no port; here the proxy has a random one, unless a
/// host is configured.
pub(crate) fn external_base(world: &World, namespace: &str, export: &str) -> String {
    let version = world.config.export_versions().first().copied().unwrap_or("v1");
    let host = world.config.external_host.clone().unwrap_or_else(|| world.proxy_address.to_string());
    format!(
        "https://{host}/api/export.kubevirt.io/{version}/namespaces/{namespace}/virtualmachineexports/{export}"
    )
}

/// What links to the exporter begin with.
pub(crate) fn internal_base(service: &str, namespace: &str) -> String {
    format!("https://{service}.{namespace}.svc")
}

/// The chain of the ingress certificate, or nothing if the cluster does not find it.
pub(crate) fn external_cert(world: &World, state: &State) -> String {
    if state.is_external_cert_empty {
        return String::new();
    }
    format!("{}{}", world.ingress.pem, world.ingress_ca_pem.trim_end())
}

/// `status.links`.
pub(super) fn links(world: &World, state: &State, export: &Value, exporter: &Exporter) -> Value {
    let (namespace, name) = (store::namespace(export), store::name(export));
    let has_manifest = exporter.has_manifest;
    let base = internal_base(&exporter.service, namespace);
    let mut links = json!({
        "internal": side(&base, "internal", &state.internal_bundle, &exporter.volumes, has_manifest),
    });
    if state.has_external_link {
        let base = external_base(world, namespace, name);
        links["external"] =
            side(&base, "external", &external_cert(world, state), &exporter.volumes, has_manifest);
    }
    links
}

fn side(base: &str, side: &str, cert: &str, volumes: &[ExportedVolume], has_manifest: bool) -> Value {
    let volumes: Vec<Value> = volumes
        .iter()
        .map(|volume| {
            let formats = if volume.is_disk {
                [("raw", "disk.img"), ("gzip", "disk.img.gz")]
            } else {
                [("dir", "dir"), ("tar.gz", "disk.tar.gz")]
            };
            let formats: Vec<Value> = formats
                .iter()
                .map(|(format, file)| json!({"format": format, "url": format!("{base}/volumes/{}/{file}", volume.claim)}))
                .collect();
            json!({"name": volume.name, "formats": formats})
        })
        .collect();
    let mut manifests =
        vec![json!({"type": "auth-header-secret", "url": format!("{base}/{side}/manifests/secret")})];
    if has_manifest {
        manifests.insert(0, json!({"type": "all", "url": format!("{base}/{side}/manifests/all")}));
    }
    json!({"cert": cert, "manifests": manifests, "volumes": volumes})
}
