//! The network cards of a KubeVirt VM, joined with its networks by name.

use serde_json::Value;

use super::{
    hardware::{Attachment, Nic, NicModel},
    vm::{Reader, count_of},
};

/// The network cards, in order.
pub(super) fn nics(reader: &mut Reader<'_>) -> Vec<Nic> {
    let networks = reader.list("/networks");
    let interfaces = reader.list("/domain/devices/interfaces");
    if interfaces.is_empty() && networks.is_empty() {
        return usual(reader);
    }
    let mut nics = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let field = format!("domain.devices.interfaces[{index}]");
        let text = |name: &str| interface.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("name").unwrap_or_default();
        let state = text("state").unwrap_or("up");
        if state == "absent" {
            reader.warn(
                &format!("{field}.state"),
                "the network card is being removed, so it is not in the appliance",
                "nothing to do",
            );
            continue;
        }
        let network =
            networks.iter().find(|network| network.get("name").and_then(Value::as_str) == Some(name));
        warn_of_binding(reader, interface, &field);
        let mac =
            text("macAddress").or_else(|| reader.seen.macs.get(name).map(String::as_str)).map(plain_mac);
        nics.push(Nic {
            name: name.to_owned(),
            model: model_of(text("model").unwrap_or("virtio")),
            mac,
            attachment: attachment_of(network, name),
            boot_order: interface.get("bootOrder").and_then(count_of),
            is_connected: state != "down",
            field: format!("spec.template.spec.{field}"),
        });
    }
    nics
}

/// What KubeVirt gives a VM that says nothing: a card in the pods' network.
fn usual(reader: &Reader<'_>) -> Vec<Nic> {
    if reader.get("/domain/devices/autoattachPodInterface") == Some(&Value::Bool(false)) {
        return Vec::new();
    }
    vec![Nic {
        name: USUAL.to_owned(),
        model: NicModel::Virtio,
        mac: reader.seen.macs.get(USUAL).map(|mac| plain_mac(mac)),
        attachment: Attachment::Pod,
        boot_order: None,
        is_connected: true,
        field: "spec.template.spec.domain.devices.autoattachPodInterface".to_owned(),
    }]
}

/// A MAC address as importers write it.
fn plain_mac(mac: &str) -> String {
    mac.replace('-', ":").to_ascii_lowercase()
}

fn model_of(model: &str) -> NicModel {
    match model {
        "virtio" => NicModel::Virtio,
        "e1000" => NicModel::E1000,
        "e1000e" => NicModel::E1000e,
        "pcnet" => NicModel::Pcnet,
        other => NicModel::Other(other.to_owned()),
    }
}

fn attachment_of(network: Option<&Value>, name: &str) -> Attachment {
    let Some(network) = network else { return Attachment::Network(name.to_owned()) };
    if network.get("pod").is_some_and(|pod| !pod.is_null()) {
        return Attachment::Pod;
    }
    let multus =
        network.pointer("/multus/networkName").and_then(Value::as_str).filter(|name| !name.is_empty());
    Attachment::Network(multus.unwrap_or(name).to_owned())
}

/// Bindings that do more than to plug a card into a network.
fn warn_of_binding(reader: &mut Reader<'_>, interface: &Value, field: &str) {
    let is = |kind: &str| interface.get(kind).is_some_and(|value| !value.is_null());
    if is("sriov") {
        reader.warn(
            &format!("{field}.sriov"),
            "a virtual function of a network card (SR-IOV) becomes an emulated card",
            "assign a function where the appliance runs, if the guest needs its speed",
        );
    }
    for kind in ["macvtap", "slirp", "passt", "passtBinding", "binding"] {
        if is(kind) {
            let plugin =
                interface.pointer("/binding/name").and_then(Value::as_str).filter(|_| kind == "binding");
            let plugin = plugin.map_or_else(String::new, |name| format!(" {name:?}"));
            reader.warn(
                &format!("{field}.{kind}"),
                format!("the network binding {kind}{plugin} becomes an ordinary network"),
                "check the guest's address and what reaches it",
            );
        }
    }
}

/// What KubeVirt calls the card of a VM that says nothing.
const USUAL: &str = "default";
