//! What a cluster's answers mean, and what to do about them.

use std::time::Duration;

use super::client::Call;
use crate::error::{Error, ErrorKind, cause};

/// Why a request to the cluster came to nothing.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is an object of that name.
    Exists(Error),
    /// There is no such object.
    NotFound(Error),
    /// Another try would end the same way.
    Refused(Error),
    /// Another try may help.
    Transient(Error),
}

impl CallError {
    /// The same, of a request that changes something: who gets no answer does not know whether it does.
    pub(super) fn of_change(self, changes: bool) -> Self {
        match self {
            Self::Transient(error) if changes => Self::Transient(error.with_further_hint(
                "it may have been carried out all the same: look before it is asked for once more",
            )),
            other => other,
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Exists(error)
            | CallError::NotFound(error)
            | CallError::Refused(error)
            | CallError::Transient(error) => error,
        }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// What became of a request, from what the client says.
pub(super) fn failure(url: &str, call: &Call<'_>, error: kube::Error) -> CallError {
    match error {
        kube::Error::Api(status) => refusal(call, status.code, &status.reason, &status.message),
        kube::Error::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(status)) => {
            refusal(call, status.as_u16(), "", "the connection was not upgraded to a websocket")
        }
        kube::Error::Auth(error) => CallError::Refused(unauthenticated(&error)),
        kube::Error::Service(error) if error.is::<kube::client::AuthError>() => match error.downcast() {
            Ok(error) => CallError::Refused(unauthenticated(&error)),
            Err(_) => CallError::Refused(Error::failed("cannot log in to the cluster")),
        },
        other if certificate_error(&other) => CallError::Refused(
            Error::new(ErrorKind::Cluster, format!("the certificate of the cluster at {url} is not trusted"))
                .with_hint(
                    "the kubeconfig is for another cluster, its certificate-authority is an old one, or something in between \
                     shows a certificate of its own: 'kubectl version' must work",
                )
                .with_source(other),
        ),
        other => CallError::Transient(
            Error::new(
                ErrorKind::Network,
                format!("cannot reach the cluster at {url} to {} {}", call.verb, call.what),
            )
            .with_hint(
                "check the network, the address in the kubeconfig, and proxies: 'kubectl version' must work",
            )
            .with_source(other),
        ),
    }
}

/// Whether TLS failed over the server's certificate, which will not pass.
fn certificate_error(error: &kube::Error) -> bool {
    matches!(cause(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// No answer came in time.
pub(super) fn no_answer(url: &str, call: &Call<'_>, waited: Duration) -> CallError {
    CallError::Transient(
        Error::new(
            ErrorKind::Network,
            format!(
                "the cluster at {url} did not answer within {} s to {} {}",
                waited.as_secs(),
                call.verb,
                call.what
            ),
        )
        .with_hint("check the network and the cluster: 'kubectl version' must work"),
    )
}

/// An answer that cannot be one of a Kubernetes API; `is` says why. It is not shown: it may be a secret.
pub(super) fn strange(url: &str, what: &str, is: &str) -> Error {
    Error::failed(format!("the answer of {url} about {what} is {is}")).with_hint(
        "something else may answer in place of the cluster, such as a proxy or the page of a login: 'kubectl version' must work",
    )
}

/// There is no client for what the configuration says.
pub(super) fn cannot_connect(url: &str, error: kube::Error) -> Error {
    match error {
        kube::Error::Auth(error) => unauthenticated(&error),
        other => Error::failed(format!("cannot set up the connection to the cluster at {url}"))
            .with_hint(
                "its CA or client certificate in the kubeconfig may be damaged: 'kubectl version' must work",
            )
            .with_source(other),
    }
}

/// What plugins print may be a token, so it is not repeated.
fn unauthenticated(error: &kube::client::AuthError) -> Error {
    use kube::client::AuthError as Auth;
    let what = match error {
        Auth::AuthExecStart(_) => "the plugin that the kubeconfig names cannot be started",
        Auth::AuthExecRun { .. } => "the plugin that the kubeconfig names failed",
        _ => "the kubeconfig does not lead to a valid login",
    };
    Error::new(ErrorKind::Cluster, format!("cannot log in to the cluster: {what}"))
        .with_hint("log in again; 'kubectl auth whoami' must work")
}

/// What the cluster itself said, where an error is of what it said.
pub(super) fn told(error: &Error) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// What a status of the API server means for a request.
pub(super) fn refusal(call: &Call<'_>, code: u16, reason: &str, message: &str) -> CallError {
    let Call { verb, resource, what, namespace } = call;
    let error = |text: String| Error::new(ErrorKind::Cluster, text);
    let told = || Error::failed(message.trim().to_owned());
    match (code, reason) {
        (401, _) => CallError::Refused(
            error(format!("the cluster does not know who asks to {verb} {what} (401)"))
                .with_hint("the login has expired or is for another cluster: log in again"),
        ),
        (403, _) if !is_denied_by_webhook(message) => {
            // What is in no namespace, or in all, takes a right in all of them.
            let (role, binding, place) = match namespace {
                Some(namespace) => ("role", "a role binding", format!(" -n {namespace}")),
                None => ("clusterrole", "a cluster role binding", String::new()),
            };
            let of = if resource.starts_with('/') { "non-resource-url" } else { "resource" };
            CallError::Refused(
                error(format!("no right to {verb} {what} (403)"))
                    .with_hint(format!(
                        "ask for the verb {verb:?} on {resource}: 'kubectl create {role} vmferry --verb={verb} \
                         --{of}={resource}{place}' and {binding}"
                    ))
                    .with_source(told()),
            )
        }
        (404, _) => CallError::NotFound(error(format!("{what} does not exist")).with_source(told())),
        (409, "AlreadyExists") => {
            CallError::Exists(error(format!("{what} exists already")).with_source(told()))
        }
        (409, _) => CallError::Refused(
            error(format!("cannot {verb} {what}: something else is going on with it (409)"))
                .with_source(told()),
        ),
        (429 | 500 | 502..=504, _) if !is_denied(message) => CallError::Transient(
            Error::new(ErrorKind::Network, format!("the cluster could not {verb} {what} ({code})"))
                .with_hint("its API server, or what is behind it, has a bad moment: 'kubectl get --raw /readyz' tells")
                .with_source(told()),
        ),
        _ => {
            let refused = error(format!("the cluster refuses to {verb} {what} ({code})")).with_source(told());
            CallError::Refused(match gate(message) {
                Some(hint) => refused.with_hint(hint),
                None => refused,
            })
        }
    }
}

/// Whether a webhook said no; virt-api passes that on as an error of its own.
fn is_denied(message: &str) -> bool {
    message.contains("admission webhook") && message.contains("denied the request")
}

fn is_denied_by_webhook(message: &str) -> bool {
    message.contains("admission webhook") || gate(message).is_some()
}

/// What to do if a feature is switched off.
fn gate(message: &str) -> Option<String> {
    let message = message.to_ascii_lowercase();
    let name = match () {
        // The webhook of clones says it in other words than the rest.
        () if !message.contains("feature gate not enabled")
            && !message.contains("feature gate is not enabled") =>
        {
            return None;
        }
        () if message.contains("export") => "VMExport",
        () if message.contains("snapshot") => "Snapshot",
        () => "that it names",
    };
    Some(format!(
        "switch the feature gate {name} on: add it to spec.configuration.developerConfiguration.featureGates of the \
         KubeVirt object ('kubectl edit kubevirt -A')"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'static> = Call {
        verb: "create",
        resource: "virtualmachineexports.export.kubevirt.io",
        what: "VirtualMachineExport demo/x",
        namespace: Some("demo"),
    };

    fn refused(code: u16, reason: &str, message: &str) -> (&'static str, Error) {
        match refusal(&CALL, code, reason, message) {
            CallError::Exists(error) => ("exists", error),
            CallError::NotFound(error) => ("not found", error),
            CallError::Refused(error) => ("refused", error),
            CallError::Transient(error) => ("transient", error),
        }
    }

    #[test]
    fn rights_everywhere_take_a_role_everywhere() {
        for (resource, says) in [
            (
                "virtualmachines.kubevirt.io",
                "clusterrole vmferry --verb=list --resource=virtualmachines.kubevirt.io'",
            ),
            ("/apis/kubevirt.io", "clusterrole vmferry --verb=list --non-resource-url=/apis/kubevirt.io'"),
        ] {
            let call = Call { verb: "list", resource, what: "it", namespace: None };
            let error = Error::from(refusal(&call, 403, "Forbidden", "no"));
            let hint = error.hint().unwrap();
            assert!(hint.contains(says) && hint.ends_with(" and a cluster role binding"), "{hint}");
        }
    }

    #[test]
    fn every_refusal_says_what_to_do_or_can_be_repeated() {
        let gate = "admission webhook \"x\" denied the request: vm export feature gate not enabled";
        for (code, reason, message, kind, says) in [
            (401, "Unauthorized", "", "refused", "log in again"),
            (
                403,
                "Forbidden",
                "user x cannot create",
                "refused",
                "kubectl create role vmferry --verb=create",
            ),
            (403, "Forbidden", gate, "refused", "feature gate VMExport"),
            (400, "", "VM snapshot feature gate not enabled", "refused", "feature gate Snapshot"),
            (400, "", "denied: snapshot feature gate is not enabled", "refused", "feature gate Snapshot"),
            (404, "NotFound", "gone", "not found", ""),
            (409, "AlreadyExists", "there", "exists", ""),
            (409, "Conflict", "busy", "refused", ""),
            (422, "Invalid", "invalid kind", "refused", ""),
            (429, "TooManyRequests", "", "transient", "readyz"),
            (500, "InternalError", "", "transient", ""),
            (500, "InternalError", "failed calling webhook", "transient", ""),
            (500, "InternalError", gate, "refused", "feature gate VMExport"),
            (503, "ServiceUnavailable", "", "transient", ""),
        ] {
            let (found, error) = refused(code, reason, message);
            assert_eq!(found, kind, "{code} {reason}");
            assert!(error.hint().unwrap_or_default().contains(says), "{code}: {:?}", error.hint());
            assert!(error.to_string().contains("VirtualMachineExport demo/x"), "{error}");
            let expected = if kind == "transient" { ErrorKind::Network } else { ErrorKind::Cluster };
            assert_eq!(error.kind(), expected, "{code}");
        }
    }
}
