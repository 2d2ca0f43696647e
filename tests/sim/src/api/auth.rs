//! Who asks, and whether he may: bearer tokens, client certificates, impersonation, rules, and reviews of one's own rights.

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};
use serde_json::{Value, json};

use crate::{
    http::ClientCertificate,
    refusal::{Asked, Refusal},
    world::{User, World},
};

/// The user of a request, after impersonation.
pub(super) fn authenticate(
    world: &World,
    headers: &HeaderMap,
    certificate: Option<&ClientCertificate>,
) -> Result<User, Refusal> {
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Bearer "))
        .map(str::trim);
    let state = world.lock();
    let user = match (token, certificate) {
        (Some(token), _) => state.user(token),
        (None, Some(certificate)) => state.user_of_certificate(&certificate.0),
        (None, None) => None,
    };
    let user = user.cloned().ok_or_else(Refusal::unauthorized)?;
    let text = |value: &HeaderValue| {
        let text = value.to_str().map_err(|_| Refusal::bad_request("invalid impersonation header"));
        text.map(str::to_owned)
    };
    let wanted = headers.get("impersonate-user").map(text).transpose()?;
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().map(text).collect::<Result<_, _>>()?;
    let Some(wanted) = wanted else {
        return if groups.is_empty() {
            Ok(user)
        } else {
            Err(Refusal::bad_request("requested groups without impersonating a user"))
        };
    };
    let may = |plural, name: &str| {
        let asked = Asked { group: "", plural, subresource: "", namespace: None, name };
        check(&user, "impersonate", &asked)
    };
    may("users", &wanted)?;
    let known = state.users.iter().find(|item| item.name == wanted);
    let mut rules = known.map(|known| known.rules.clone()).unwrap_or_default();
    for group in &groups {
        may("groups", group)?;
        rules.extend(state.groups.get(group).cloned().unwrap_or_default());
    }
    Ok(User { name: wanted, token: String::new(), certificate: None, rules })
}

/// Refuses what no rule allows.
pub(super) fn check(user: &User, verb: &str, asked: &Asked<'_>) -> Result<(), Refusal> {
    if is_allowed(user, verb, asked) { Ok(()) } else { Err(Refusal::forbidden(&user.name, verb, asked)) }
}

fn is_allowed(user: &User, verb: &str, asked: &Asked<'_>) -> bool {
    let resource = if asked.subresource.is_empty() {
        asked.plural.to_owned()
    } else {
        format!("{}/{}", asked.plural, asked.subresource)
    };
    is_for_everybody(verb, asked)
        || user.rules.iter().any(|rule| rule.allows(verb, asked.group, &resource, asked.namespace))
}

/// What all authenticated users may do on the real thing.
fn is_for_everybody(verb: &str, asked: &Asked<'_>) -> bool {
    match (asked.group, asked.plural) {
        ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews") => verb == "create",
        ("kubevirt.io", "kubevirts") => matches!(verb, "get" | "list"),
        ("subresources.kubevirt.io", "version" | "healthz") => verb == "get",
        _ => false,
    }
}

/// Answers a SelfSubjectAccessReview.
pub(super) fn review(user: &User, body: &[u8]) -> Result<Value, Refusal> {
    let review: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let attributes = &review["spec"]["resourceAttributes"];
    let text = |key: &str| attributes[key].as_str().unwrap_or_default();
    let asked = Asked {
        group: text("group"),
        plural: text("resource"),
        subresource: text("subresource"),
        namespace: Some(text("namespace")).filter(|namespace| !namespace.is_empty()),
        name: text("name"),
    };
    let is_path = !review["spec"]["nonResourceAttributes"].is_null();
    let is_allowed = is_path || is_allowed(user, text("verb"), &asked);
    Ok(json!({
        "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
        "spec": review["spec"], "status": {"allowed": is_allowed},
    }))
}
