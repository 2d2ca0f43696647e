//! What becomes of every field of a VM: the account by which nothing is lost in silence.
//!
//! A field is carried over ([`Rule::Mapped`], by [`super::vm`]), makes no difference elsewhere, or is lost
//! and told. What stands in no rule is told too: later versions of KubeVirt have more fields than this list.

use serde_json::Value;

use super::{
    Warning,
    rules::{OUTER_RULES, RULES},
};

/// What becomes of a field, with all that is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Carried over, or told by what maps it.
    Mapped,
    /// Makes no difference where the appliance runs.
    Harmless,
    /// Cannot be said: what is lost, and the remedy.
    Lost(&'static str, &'static str),
}

/// Tells what of a VM is lost by the rules, in the order of its fields.
pub(super) fn account(vm: &Value, warnings: &mut Vec<Warning>) {
    for (field, rule) in rules_of(vm) {
        match rule {
            Some(Rule::Mapped | Rule::Harmless) => {}
            Some(Rule::Lost(message, remedy)) => warnings.push(Warning::new(field, message, remedy)),
            None => warnings.push(Warning::new(
                field,
                "not a field that vmferry knows, so it is not in the appliance",
                "look up what it does, and set it up by hand where the appliance is imported",
            )),
        }
    }
}

/// The fields that are set, each with its rule. The rules bound the depth: what has one is not looked into.
pub(super) fn rules_of(vm: &Value) -> Vec<(String, Option<Rule>)> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), String::new(), vm)];
    while let Some((pattern, field, value)) = open.pop() {
        if is_off(value) {
            continue;
        }
        let rule = match (lookup(&pattern), value) {
            (Found::Rule(rule), _) => Some(rule),
            // In reverse, so that they are taken in order.
            (Found::Inside, Value::Object(fields)) => {
                let children = fields.iter().rev();
                open.extend(children.map(|(key, child)| (join(&pattern, key), join(&field, key), child)));
                continue;
            }
            (Found::Inside, Value::Array(items)) => {
                let children = items.iter().enumerate().rev();
                open.extend(
                    children
                        .map(|(index, child)| (format!("{pattern}[]"), format!("{field}[{index}]"), child)),
                );
                continue;
            }
            _ => None,
        };
        found.push((field, rule));
    }
    found
}

fn join(front: &str, key: &str) -> String {
    if front.is_empty() { key.to_owned() } else { format!("{front}.{key}") }
}

/// Whether a value says that there is nothing, or that it is turned off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => {
            fields.len() == 1
                && fields.iter().all(|(key, value)| {
                    matches!(key.as_str(), "enabled" | "present" | "hidden") && *value == Value::Bool(false)
                })
        }
        Value::Bool(true) | Value::Number(_) => false,
    }
}

enum Found {
    Rule(Rule),
    /// There are rules for what is in it.
    Inside,
    Nothing,
}

fn lookup(pattern: &str) -> Found {
    let (rules, pattern) = match pattern.strip_prefix("spec.template.spec.") {
        Some(rest) => (RULES, rest),
        None if "spec.template.spec".starts_with(pattern) => return Found::Inside,
        None => (OUTER_RULES, pattern),
    };
    if let Some((_, rule)) = rules.iter().find(|(known, _)| *known == pattern) {
        return Found::Rule(*rule);
    }
    let is_inside = |known: &str| {
        known.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]"))
    };
    if rules.iter().any(|(known, _)| is_inside(known)) {
        return Found::Inside;
    }
    let parent = pattern.rsplit_once('.').map_or("", |(parent, _)| parent);
    let any = rules.iter().find(|(known, _)| known.strip_suffix(".*") == Some(parent));
    any.map_or(Found::Nothing, |(_, rule)| Found::Rule(*rule))
}
