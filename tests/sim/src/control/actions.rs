//! What happens on order.

use std::time::Instant;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{export, migration, vm};
use crate::{
    cluster,
    fault::Action,
    store::{self, Key},
    tls::Authority,
    world::{ExportMemo, KUBEVIRT_NAMESPACE, State, World},
};

/// Makes something happen now; what follows from it is left to the controllers.
pub(crate) fn act(world: &World, action: Action) {
    world.change(|state| match action {
        Action::EmptyExternalCert { empty } => state.is_external_cert_empty = empty,
        Action::ExternalLink { present } => {
            if state.has_external_link != present {
                cluster::set_ingress(world, state, present);
            }
        }
        Action::EndGuest { namespace, name, failed } => vm::end_guest(state, &namespace, &name, failed),
        Action::ExpireTtl { namespace, export } => {
            with_memo(state, &namespace, &export, |memo| memo.is_ttl_over = true);
        }
        Action::FailMigration { namespace, name, reason } => {
            let running: Vec<Key> = state
                .store
                .list("kubevirt.io/virtualmachineinstancemigrations", Some(&namespace))
                .filter(|(_, item)| item["spec"]["vmiName"] == name.as_str() && !migration::is_over(item))
                .map(|(key, _)| key.clone())
                .collect();
            for key in running {
                migration::fail(state, &key, &reason);
            }
        }
        Action::FailPod { namespace, export } => {
            if let Some(exporter) = state.exporters.remove(&(namespace.clone(), export.clone())) {
                exporter.stop.cancel();
            }
            end_pod(state, &namespace, &export, "Failed");
        }
        Action::ForgetHistory => state.store.forget(),
        Action::LinksVanish { namespace, export, pause } => {
            with_memo(state, &namespace, &export, |memo| memo.unready_until = Some(Instant::now() + pause));
        }
        Action::ReplacePod { namespace, export } => {
            if let Some(exporter) = state.exporters.remove(&(namespace.clone(), export.clone())) {
                exporter.stop.cancel();
            }
            state.store.remove(&Key::new("/pods", &namespace, &export::pod_name(&export)));
        }
        Action::RotateCertificate => rotate(state),
        Action::ShapeLink { bytes_per_second, latency, stall } => {
            world.link.shape(bytes_per_second, latency, stall);
        }
        Action::StartVm { namespace, name } => vm::set_running(state, &namespace, &name, true),
        Action::StopVm { namespace, name } => vm::set_running(state, &namespace, &name, false),
        Action::TokenJunk { namespace, export, before, after } => {
            spoil_token(state, &namespace, &export, &before, &after);
        }
    });
    world.wake();
}

fn with_memo(state: &mut State, namespace: &str, name: &str, work: impl FnOnce(&mut ExportMemo)) {
    let export = state.store.get("export.kubevirt.io/virtualmachineexports", namespace, name);
    if let Some(export) = export {
        let uid = store::uid(export).to_owned();
        work(state.exports.entry(uid).or_default());
    }
}

/// A new authority, beside the old one in the bundle; every exporter makes room for one with a new certificate.
/// Nobody cuts their transfers: they end as an exporter at its deadline does, when they are idle.
fn rotate(state: &mut State) {
    let number = state.rng.next();
    let Ok(next) = Authority::new(&format!("export.kubevirt.io@{number}")) else { return };
    state.internal_bundle = format!("{}{}", next.pem(), state.internal_ca.pem());
    state.internal_ca = next;
    let bundle = state.internal_bundle.clone();
    state.store.update(&Key::new("/configmaps", KUBEVIRT_NAMESPACE, "kubevirt-export-ca"), |map| {
        map["data"]["ca-bundle"] = bundle.into();
    });
    for ((namespace, export), exporter) in std::mem::take(&mut state.exporters) {
        exporter.drain.cancel();
        end_pod(state, &namespace, &export, "Succeeded");
    }
}

/// A pod that has ended; the export controller makes another.
fn end_pod(state: &mut State, namespace: &str, export: &str, phase: &str) {
    state.store.update(&Key::new("/pods", namespace, &export::pod_name(export)), |pod| {
        pod["status"]["phase"] = phase.into();
        if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
            for condition in conditions.iter_mut().filter(|condition| condition["type"] != "PodScheduled") {
                condition["status"] = "False".into();
            }
        }
    });
}

fn spoil_token(state: &mut State, namespace: &str, name: &str, before: &str, after: &str) {
    let export = state.store.get("export.kubevirt.io/virtualmachineexports", namespace, name);
    let Some(secret) = export.map(|export| export::token_secret(export)) else { return };
    state.store.update(&Key::new("/secrets", namespace, &secret), |secret| {
        let token =
            secret["data"]["token"].as_str().and_then(|data| BASE64.decode(data).ok()).unwrap_or_default();
        let spoilt = [before.as_bytes(), &token, after.as_bytes()].concat();
        secret["data"]["token"] = BASE64.encode(spoilt).into();
    });
}
