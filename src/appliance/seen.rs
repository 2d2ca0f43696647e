//! What is known of a VM besides its description.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was seen of a VM besides its description: what expansion takes out of it, and what only an instance that
/// runs tells.
///
/// ```
/// use serde_json::json;
/// use vmferry::appliance::{VmSeen, of_vm_with};
///
/// let vm = json!({
///     "metadata": {"name": "db"},
///     "spec": {"template": {"spec": {"domain": {"memory": {"guest": "1Gi"}}}}},
/// });
/// let instance = json!({"status": {
///     "guestOSInfo": {"id": "debian", "versionId": "12"},
///     "interfaces": [{"name": "default", "mac": "02:00:00:00:00:01"}],
/// }});
/// let (hardware, _) = of_vm_with(&vm, &VmSeen::of_instance(&instance))?;
/// assert_eq!(hardware.os.expect("a hint").description, "Debian GNU/Linux 12 (64-bit)");
/// assert_eq!(hardware.nics[0].mac.as_deref(), Some("02:00:00:00:00:01"));
/// # Ok::<(), vmferry::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSeen {
    /// What the guest itself says its operating system is, the most exact first.
    pub guest_os: Vec<String>,
    /// Name of the preference.
    pub preference: Option<String>,
    /// MAC addresses, by the names that the cards have in the VM.
    pub macs: BTreeMap<String, String>,
}

impl VmSeen {
    /// What a VirtualMachineInstance tells: `status.guestOSInfo`, if there is a guest agent, and the addresses in
    /// `status.interfaces`.
    pub fn of_instance(instance: &Value) -> Self {
        let text = |value: &Value, field: &str| {
            value.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let mut seen = Self::default();
        if let Some(guest) = instance.pointer("/status/guestOSInfo") {
            let id = text(guest, "id");
            let with_version =
                id.as_ref().zip(text(guest, "versionId")).map(|(id, version)| id.clone() + &version);
            let hints = [with_version, text(guest, "prettyName"), text(guest, "name"), id];
            seen.guest_os.extend(hints.into_iter().flatten());
        }
        let interfaces = instance.pointer("/status/interfaces").and_then(Value::as_array);
        for interface in interfaces.into_iter().flatten() {
            // Without a name it is one that the guest made itself.
            if let (Some(name), Some(mac)) = (text(interface, "name"), text(interface, "mac")) {
                seen.macs.insert(name, mac);
            }
        }
        seen
    }

    /// With the preference that a VM names as long as it is not expanded.
    #[must_use]
    pub fn with_preference_of(self, vm: &Value) -> Self {
        let preference = vm.pointer("/spec/preference/name").and_then(Value::as_str);
        Self { preference: preference.map(str::to_owned).or(self.preference), ..self }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_is_not_seen() {
        for nothing in [
            json!(null),
            json!({"status": {"guestOSInfo": {}, "interfaces": null}}),
            json!({"status": {"guestOSInfo": {"id": "", "versionId": "12"}, "interfaces": "none"}}),
            json!({"status": {"interfaces": [{"mac": "02:00:00:00:00:07"}, {"name": "a", "mac": ""}, 7]}}),
        ] {
            assert_eq!(VmSeen::of_instance(&nothing), VmSeen::default(), "{nothing}");
        }
    }

    #[test]
    fn the_preference_of_a_vm_is_kept() {
        let vm = json!({"spec": {"preference": {"name": "fedora"}}});
        let seen = VmSeen::default().with_preference_of(&vm);
        assert_eq!(seen.preference.as_deref(), Some("fedora"));
        assert_eq!(seen.clone().with_preference_of(&json!({})), seen);
    }
}
