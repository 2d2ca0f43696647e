//! The networks in the description of a VM: read, changed, and written back whole, as merge patches replace lists.

use serde_json::{Map, Value, json};

use super::{NetworkInfo, NicRequest};
use crate::kubevirt::Instance;

/// The two lists that belong together, and whether a VM without any gets one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Description {
    interfaces: Vec<Value>,
    networks: Vec<Value>,
    /// The description says so already, or has to: a VM without interfaces gets one in the network of its pod.
    none_by_itself: bool,
}

impl Description {
    /// Whether a VirtualMachine describes none, and gets one all the same.
    pub(super) fn is_implied(vm: &Value) -> bool {
        let described = Self::written(vm);
        described.interfaces.is_empty() && described.networks.is_empty() && !described.none_by_itself
    }

    /// That of a VirtualMachine. The interface that KubeVirt gives those without any, bound by `binding`, is written out:
    /// it would be gone as soon as there is another.
    pub(super) fn of(vm: &Value, binding: &str) -> Self {
        let mut described = Self::written(vm);
        if Self::is_implied(vm) {
            described.interfaces.push(json!({"name": DEFAULT, binding: {}}));
            described.networks.push(json!({"name": DEFAULT, "pod": {}}));
        }
        described
    }

    fn written(vm: &Value) -> Self {
        let list = |place: &str| vm.pointer(place).and_then(Value::as_array).cloned().unwrap_or_default();
        Self {
            interfaces: list("/spec/template/spec/domain/devices/interfaces"),
            networks: list("/spec/template/spec/networks"),
            none_by_itself: vm.pointer("/spec/template/spec/domain/devices/autoattachPodInterface")
                == Some(&Value::Bool(false)),
        }
    }

    /// An interface.
    pub(super) fn interface(&self, name: &str) -> Option<&Value> {
        self.interfaces.iter().find(|interface| is_named(interface, name))
    }

    /// Adds an interface and its network.
    pub(super) fn add(&mut self, name: &str, request: &NicRequest) {
        let mut interface = json!({"name": name, "model": request.model, request.binding.name(): {}});
        if let Some(mac) = &request.mac {
            interface["macAddress"] = mac.as_str().into();
        }
        self.interfaces.push(interface);
        self.networks.push(json!({"name": name, "multus": {"networkName": request.network}}));
    }

    /// Takes an interface and its network away; `false` if there was none.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let before = self.interfaces.len() + self.networks.len();
        self.interfaces.retain(|interface| !is_named(interface, name));
        self.networks.retain(|network| !is_named(network, name));
        self.none_by_itself |= self.interfaces.is_empty();
        self.interfaces.len() + self.networks.len() < before
    }

    /// Says how an interface is to be; `false` if there is none, or it says so already.
    pub(super) fn set_state(&mut self, name: &str, state: &str) -> bool {
        let found = self.interfaces.iter_mut().find(|interface| is_named(interface, name));
        let Some(fields) = found.and_then(Value::as_object_mut) else { return false };
        let before = fields.insert("state".to_owned(), state.into());
        before.as_ref().and_then(Value::as_str) != Some(state)
    }

    /// The merge patch for a VM of this version, which no other may have replaced meanwhile.
    pub(super) fn patch(&self, version: &str) -> Value {
        let mut devices = Map::from_iter([("interfaces".to_owned(), self.interfaces.clone().into())]);
        if self.none_by_itself && self.interfaces.is_empty() {
            devices.insert("autoattachPodInterface".to_owned(), false.into());
        }
        json!({
            "metadata": {"resourceVersion": version},
            "spec": {"template": {"spec": {"networks": self.networks, "domain": {"devices": devices}}}},
        })
    }

    /// For people and programs, together with what the guest has.
    pub(super) fn list(&self, guest: Option<&Instance>) -> Vec<NetworkInfo> {
        self.interfaces.iter().map(|interface| self.info(interface, guest)).collect()
    }

    fn info(&self, interface: &Value, guest: Option<&Instance>) -> NetworkInfo {
        let text = |key: &str| interface.get(key).and_then(Value::as_str);
        let (name, state) = (text("name").unwrap_or_default(), text("state"));
        let nic = guest.and_then(|guest| guest.nic(name));
        let binding = BINDINGS.into_iter().find(|binding| interface.get(binding).is_some());
        let plugin = interface.pointer("/binding/name").and_then(Value::as_str);
        let filled = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let described_link = match state {
            Some("up" | "down") => state,
            _ => Some("up"),
        };
        let phase = guest.map(|_| match (nic.is_some_and(|nic| nic.is_in_guest()), state) {
            (_, Some("absent")) => "detaching",
            (true, _) => "attached",
            (false, _) => "attaching",
        });
        NetworkInfo {
            name: name.to_owned(),
            kind: plugin.or(binding).unwrap_or_default().to_owned(),
            network: self.network(name).to_owned(),
            model: text("model").unwrap_or("virtio").to_owned(),
            mac: text("macAddress").map(str::to_owned).or_else(|| nic.and_then(|nic| filled(&nic.mac))),
            ips: nic.map(|nic| nic.addresses()).unwrap_or_default(),
            device: nic.and_then(|nic| filled(&nic.interface_name)),
            link: match nic {
                Some(nic) => filled(&nic.link_state),
                None if guest.is_some() => None,
                None => described_link.map(str::to_owned),
            },
            phase: phase.map(str::to_owned),
        }
    }

    /// The network that an interface is in: `pod`, or a definition; empty if there is none.
    pub(super) fn network(&self, name: &str) -> &str {
        let Some(found) = self.networks.iter().find(|network| is_named(network, name)) else { return "" };
        let is_pod = found.get("pod").is_some();
        let multus = found.pointer("/multus/networkName").and_then(Value::as_str);
        multus.unwrap_or(if is_pod { "pod" } else { "" })
    }
}

fn is_named(item: &Value, name: &str) -> bool {
    item.get("name").and_then(Value::as_str) == Some(name)
}

/// What KubeVirt calls the interface of a VM without any.
const DEFAULT: &str = "default";

/// How an interface is bound.
const BINDINGS: [&str; 7] = ["masquerade", "bridge", "sriov", "passtBinding", "passt", "slirp", "macvtap"];

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(devices: &Value, networks: &Value) -> Value {
        json!({"spec": {"template": {"spec": {"networks": networks, "domain": {"devices": devices}}}}})
    }

    #[test]
    fn a_vm_without_networks_keeps_the_one_it_gets_by_itself() {
        let mut described = Description::of(&json!({}), "masquerade");
        described.add("lan", &NicRequest::to("other/lan"));
        let patch = described.patch("7");
        let spec = &patch["spec"]["template"]["spec"];
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(
            spec["networks"],
            json!([{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "other/lan"}}])
        );
        assert_eq!(
            spec["domain"]["devices"]["interfaces"],
            json!([
                {"name": "default", "masquerade": {}},
                {"name": "lan", "model": "virtio", "bridge": {}},
            ])
        );
        let none = vm(&json!({"autoattachPodInterface": false}), &json!([]));
        assert!(Description::of(&none, "bridge").interface("default").is_none());
    }

    #[test]
    fn who_loses_the_last_network_gets_none_by_itself() {
        let two = vm(
            &json!({"interfaces": [{"name": "a", "masquerade": {}}, {"name": "b", "bridge": {}, "ports": []}]}),
            &json!([{"name": "a", "pod": {}}, {"name": "b", "multus": {"networkName": "lan"}}]),
        );
        let mut described = Description::of(&two, "bridge");
        assert!(described.remove("a") && !described.remove("a"));
        let devices = described.patch("")["spec"]["template"]["spec"]["domain"]["devices"].clone();
        assert_eq!(devices, json!({"interfaces": [{"name": "b", "bridge": {}, "ports": []}]}));
        assert!(described.remove("b"));
        let devices = described.patch("")["spec"]["template"]["spec"]["domain"]["devices"].clone();
        assert_eq!(devices, json!({"interfaces": [], "autoattachPodInterface": false}));
    }

    #[test]
    fn a_state_is_set_once() {
        let mut described =
            Description::of(&vm(&json!({"interfaces": [{"name": "a", "bridge": {}}]}), &json!([])), "bridge");
        assert!(described.set_state("a", "down") && !described.set_state("a", "down"));
        assert!(described.set_state("a", "up") && !described.set_state("b", "up"));
        assert_eq!(described.interface("a").unwrap()["state"], "up");
    }
}
