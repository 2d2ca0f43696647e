//! Refusals of the API server: `metav1.Status` with the texts of the real one.

use hyper::StatusCode;
use serde_json::{Value, json};

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: StatusCode,
    pub(crate) body: RefusalBody,
}

/// How a refusal is told.
#[derive(Clone, Debug)]
pub(crate) enum RefusalBody {
    /// As a Status object.
    Status(Value),
    /// As plain text.
    Text(String),
}

impl Refusal {
    /// A Status; `reason` may be empty and `details` null, which leaves them out.
    pub(crate) fn new(code: StatusCode, reason: &str, message: impl Into<String>, details: Value) -> Self {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message.into(), "code": code.as_u16(),
        });
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        if !details.is_null() {
            status["details"] = details;
        }
        Self { code, body: RefusalBody::Status(status) }
    }

    pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Self {
        Self { code, body: RefusalBody::Text(text.into()) }
    }

    /// `virtualmachines.kubevirt.io "x" not found`.
    pub(crate) fn not_found(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, plural));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message, details(group, plural, name))
    }

    pub(crate) fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, plural));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message, details(group, plural, name))
    }

    /// `Operation cannot be fulfilled on …`.
    pub(crate) fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, plural));
        Self::new(StatusCode::CONFLICT, "Conflict", message, details(group, plural, name))
    }

    /// The object was changed since it was read.
    pub(crate) fn stale(group: &str, plural: &str, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message, Value::Null)
    }

    /// A path that nothing is served at.
    pub(crate) fn no_such_path() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message, json!({}))
    }

    pub(crate) fn unsupported_media_type(supported: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {supported}"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message, json!({}))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized", Value::Null)
    }

    /// What an admission webhook says to a field's value.
    pub(crate) fn denied_field(webhook: &str, field: &str, message: &str) -> Self {
        let causes = json!({
            "causes": [{"reason": "FieldValueInvalid", "message": message, "field": field}]
        });
        let message = format!("admission webhook \"{webhook}\" denied the request: {message}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message, causes)
    }

    /// What an admission webhook says that gives no reason.
    pub(crate) fn denied(webhook: &str, message: &str) -> Self {
        let message = format!("admission webhook \"{webhook}\" denied the request: {message}");
        Self::new(StatusCode::BAD_REQUEST, "", message, Value::Null)
    }

    /// The history of a watch is gone.
    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(StatusCode::GONE, "Expired", message, Value::Null)
    }

    /// The user lacks the right.
    pub(crate) fn forbidden(user: &str, verb: &str, asked: &Asked<'_>) -> Self {
        let Asked { group, plural, subresource, namespace, name } = *asked;
        let resource =
            if subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{subresource}") };
        let place = match namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!(
            "{}{named} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" \
             in API group \"{group}\" {place}",
            qualified(group, plural)
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message, details(group, plural, name))
    }
}

/// What a request is about, for a refusal's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) group: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
}

fn qualified(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

fn details(group: &str, plural: &str, name: &str) -> Value {
    let mut details = json!({"kind": plural});
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details
}
