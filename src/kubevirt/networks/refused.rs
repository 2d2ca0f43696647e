//! What the cluster says to changes of networks, and what can be done about it.

use crate::{
    error::{Error, ErrorKind},
    kubevirt::explain::told,
};

/// Whether somebody else changed the object since it was read.
pub(super) fn is_stale(error: &Error) -> bool {
    told(error).contains("the object has been modified")
}

/// The error: `cannot set a link of VM demo/web: this version of KubeVirt does not know links`.
pub(super) fn explain(doing: &str, vm: &str, error: Error) -> Error {
    let text = told(&error);
    let Some((_, meaning, hint)) = KNOWN.iter().find(|(part, ..)| text.contains(part)) else { return error };
    Error::new(ErrorKind::Cluster, format!("cannot {doing} VM {vm}: {meaning}"))
        .with_hint(*hint)
        .with_source(Error::failed(text))
}

/// Part of the text, what it means, and what to do.
const KNOWN: [(&str, &str, &str); 7] = [
    (
        "interface state value is unsupported",
        "this version of KubeVirt does not know links that are up or down",
        "it needs KubeVirt 1.5 or newer",
    ),
    (
        "].state\"",
        "this version of KubeVirt does not know states of interfaces",
        "links need KubeVirt 1.5 or newer; stop the VM to detach a network",
    ),
    (
        "not supported for SR-IOV NICs",
        "it is bound by SR-IOV, whose links are not KubeVirt's to set",
        "set the link in the guest, or detach the network",
    ),
    (
        "is supported only for bridge binding",
        "only networks that are bound by a bridge can leave a VM that runs",
        "stop the VM first",
    ),
    (
        "is not supported on default networks",
        "its first network cannot leave a VM that runs",
        "stop the VM first",
    ),
    (
        "interface name can only contain",
        "that is no name for a network",
        "choose one of letters, digits, '-' and '_': --name",
    ),
    (
        "invalid MAC address",
        "that is no MAC address",
        "it is six pairs of hexadecimal digits: 02:00:00:00:00:01",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_of_the_cluster_has_a_meaning() {
        for (text, means) in [
            ("logical lan interface state value is unsupported: down", "does not know links"),
            (
                "unknown field \"spec.template.spec.domain.devices.interfaces[1].state\"",
                "states of interfaces",
            ),
            ("\"lan\" interface's state \"down\" is not supported for SR-IOV NICs", "SR-IOV"),
            ("\"lan\" interface's state \"absent\" is supported only for bridge binding", "bridge"),
            ("\"lan\" interface's state \"absent\" is not supported on default networks", "first network"),
        ] {
            let refused = Error::new(ErrorKind::Cluster, "refused").with_source(Error::failed(text));
            let error = explain("set a link of", "demo/web", refused);
            assert!(error.to_string().contains(means) && error.hint().is_some(), "{text}: {error}");
        }
        let other = Error::new(ErrorKind::Cluster, "refused").with_source(Error::failed("something else"));
        assert_eq!(explain("x", "y", other).to_string(), "refused");
    }
}
