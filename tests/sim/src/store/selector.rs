//! Label and field selectors.

use serde_json::Value;

use crate::refusal::Refusal;

/// What a list or a watch is restricted to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug)]
enum Operator {
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Present,
}

impl Selector {
    /// Reads the two query parameters.
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, Refusal> {
        let mut selector = Self::default();
        for term in split_terms(labels) {
            let requirement = parse_label(term).ok_or_else(|| {
                Refusal::bad_request(format!("unable to parse requirement: found '{term}'"))
            })?;
            selector.labels.push(requirement);
        }
        for term in fields.split(',').filter(|term| !term.is_empty()) {
            let (key, is_equal, value) = match (term.split_once("!="), term.split_once('=')) {
                (Some((key, value)), _) => (key, false, value),
                (None, Some((key, value))) => (key, true, value.strip_prefix('=').unwrap_or(value)),
                (None, None) => {
                    return Err(Refusal::bad_request(format!(
                        "invalid selector: '{term}'; can't understand '{term}'"
                    )));
                }
            };
            selector.fields.push((key.trim().to_owned(), is_equal, value.trim().to_owned()));
        }
        Ok(selector)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The field selector that is not supported for custom resources, if there is one.
    pub(crate) fn foreign_field(&self) -> Option<&str> {
        self.fields
            .iter()
            .map(|(key, ..)| key.as_str())
            .find(|key| !matches!(*key, "metadata.name" | "metadata.namespace"))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|requirement| {
            let value = labels[&requirement.key].as_str();
            match (&requirement.operator, value) {
                (Operator::Absent, value) => value.is_none(),
                (Operator::Present, value) => value.is_some(),
                (Operator::In(list), Some(value)) => list.iter().any(|item| item == value),
                (Operator::In(_), None) => false,
                (Operator::NotIn(list), Some(value)) => list.iter().all(|item| item != value),
                (Operator::NotIn(_), None) => true,
            }
        }) && self.fields.iter().all(|(path, is_equal, wanted)| {
            let found = path.split('.').fold(object, |value, key| &value[key]);
            let found = match found {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (found == *wanted) == *is_equal
        })
    }
}

/// Splits at commas that are not within brackets.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|term| !term.is_empty())
}

fn parse_label(term: &str) -> Option<Requirement> {
    let one = |key: &str, operator| Some(Requirement { key: key.trim().to_owned(), operator });
    if let Some(key) = term.strip_prefix('!') {
        return one(key, Operator::Absent);
    }
    if let Some((head, list)) = term.split_once('(') {
        let list = list.strip_suffix(')')?.split(',').map(|item| item.trim().to_owned()).collect();
        let (key, word) = head.trim().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => one(key, Operator::In(list)),
            "notin" => one(key, Operator::NotIn(list)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return one(key, Operator::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value).trim().to_owned();
        return one(key, Operator::In(vec![value]));
    }
    if term.contains(char::is_whitespace) { None } else { one(term, Operator::Present) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let object = json!({
            "metadata": {"name": "x", "labels": {"app": "web", "tier": "1"}}, "status": {"phase": "Ready"}
        });
        for (labels, fields, expected) in [
            ("app=web", "", true),
            ("app==web,tier!=2", "", true),
            ("app in (db, web),tier", "", true),
            ("app notin (db,web)", "", false),
            ("!app", "", false),
            ("!zone", "metadata.name=x", true),
            ("", "metadata.name!=x", false),
            ("", "status.phase=Ready,metadata.name=x", true),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&object), expected, "{labels} {fields}");
        }
        assert!(Selector::parse("a b c", "").is_err());
        assert!(Selector::parse("", "name").is_err());
    }
}
