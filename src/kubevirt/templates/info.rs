//! A template as people and programs want to read it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::Result,
    kubevirt::{
        client::decoded,
        types::{Condition, Metadata},
    },
};

/// A template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TemplateInfo {
    /// Name in its namespace.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Whether it can be used; `None` if the cluster does not say so yet.
    pub ready: Option<bool>,
    /// Why it cannot; empty if it can.
    pub reason: String,
    /// Name of its VMs, with parameters as they stand there: `${NAME}`.
    pub vm_name: String,
    /// What it says to whoever uses it.
    pub message: String,
    /// What can be filled in.
    pub parameters: Vec<TemplateParameter>,
    /// When it was made, in RFC 3339.
    pub created_at: Option<String>,
}

/// A parameter of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TemplateParameter {
    /// Its name.
    pub name: String,
    /// The same for people.
    #[serde(alias = "displayName")]
    pub display_name: String,
    /// What it is for.
    pub description: String,
    /// What it is unless something else is given.
    pub value: String,
    /// How a value is found unless one is given: `expression`; empty = it is not.
    pub generate: String,
    /// The expression of which it is found.
    pub from: String,
    /// Whether there must be a value.
    pub required: bool,
}

impl TemplateParameter {
    /// Whether it has to be given.
    pub fn must_be_given(&self) -> bool {
        self.required && self.value.is_empty() && self.generate.is_empty()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    virtual_machine: Value,
    parameters: Vec<TemplateParameter>,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

impl TemplateInfo {
    pub(super) fn of(object: Value) -> Result<Self> {
        let Template { metadata, spec, status } = decoded("the VirtualMachineTemplate", object)?;
        let ready = status.conditions.iter().find(|condition| condition.kind == "Ready");
        let is_ready = ready.map(|condition| condition.status == "True");
        let why = ready.filter(|_| is_ready == Some(false)).map(|condition| {
            match (condition.reason.as_str(), condition.message.as_str()) {
                (reason, "") => reason.to_owned(),
                ("", message) => message.to_owned(),
                (reason, message) => format!("{reason}: {message}"),
            }
        });
        let vm_name = spec.virtual_machine.pointer("/metadata/name").and_then(Value::as_str);
        Ok(Self {
            name: metadata.name,
            namespace: metadata.namespace,
            ready: is_ready,
            reason: why.unwrap_or_default(),
            vm_name: vm_name.unwrap_or_default().to_owned(),
            message: spec.message,
            parameters: spec.parameters,
            created_at: metadata.creation_timestamp,
        })
    }

    /// The names of its parameters: `NAME, PASSWORD (required)`.
    pub(super) fn parameters_in_words(&self) -> String {
        let word = |parameter: &TemplateParameter| {
            let need = if parameter.must_be_given() { " (required)" } else { "" };
            format!("{}{need}", parameter.name)
        };
        self.parameters.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_read_as_far_as_it_goes() {
        let info = TemplateInfo::of(json!({
            "metadata": {"name": "t", "namespace": "n"},
            "spec": {
                "virtualMachine": {"metadata": {"name": "${NAME}"}},
                "parameters": [
                    {"name": "NAME", "generate": "expression", "from": "vm-[a-z]{4}", "required": true},
                    {"name": "KEY", "displayName": "a key", "required": true, "description": null},
                ],
            },
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Invalid", "message": "no"}]},
        }))
        .unwrap();
        assert_eq!(
            (info.ready, info.reason.as_str(), info.vm_name.as_str()),
            (Some(false), "Invalid: no", "${NAME}")
        );
        assert_eq!(info.parameters_in_words(), "NAME, KEY (required)");
        assert_eq!(info.parameters[1].display_name, "a key");
        let bare = TemplateInfo::of(json!({"metadata": {"name": "t"}})).unwrap();
        assert_eq!((bare.ready, bare.parameters.len()), (None, 0));
    }
}
