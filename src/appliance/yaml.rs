//! VMs in YAML or JSON, as `kubectl` prints them and as an export writes them.

use serde_json::Value;

use crate::error::{Error, Result};

/// The VM in a text of YAML or JSON: one object, a `List`, or several documents, among which there is one
/// VirtualMachine.
///
/// # Errors
/// It is not YAML, or there is no VM in it, or more than one.
pub fn read_vm(text: &str) -> Result<Value> {
    if text.len() > MAX_LEN {
        return Err(Error::refused(format!(
            "the VM's description has {} bytes, more than {MAX_LEN}",
            text.len()
        )));
    }
    // `yes` and `on` are text, as they are to Kubernetes.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| Error::usage("the VM's description is no YAML").with_source(error))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Object(mut fields) if fields.get("kind").and_then(Value::as_str) == Some("List") => {
                if let Some(Value::Array(items)) = fields.remove("items") {
                    objects.extend(items);
                }
            }
            other => objects.push(other),
        }
    }
    let mut vms = objects
        .into_iter()
        .filter(|object| object.get("kind").and_then(Value::as_str) == Some("VirtualMachine"));
    match (vms.next(), vms.count()) {
        (Some(vm), 0) => Ok(vm),
        (Some(_), more) => {
            Err(Error::usage(format!("there are {} VirtualMachines in the description", more + 1))
                .with_hint("give one of them"))
        }
        (None, _) => {
            Err(Error::usage("there is no VirtualMachine in the description")
                .with_hint(super::vm::DESCRIBED_BY))
        }
    }
}

/// Longest description in bytes; etcd takes 1.5 MiB for an object.
const MAX_LEN: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const VM: &str =
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {name: yes, labels: {on: off}}\n";

    #[test]
    fn a_vm_is_found_in_objects_lists_and_documents() {
        let in_list =
            format!("apiVersion: v1\nkind: List\nitems:\n- kind: ConfigMap\n- {}", VM.replace('\n', "\n  "));
        let texts = [VM.to_owned(), format!("---\nkind: ConfigMap\n---\n{VM}---\n"), in_list];
        for text in texts {
            let vm = read_vm(&text).unwrap();
            assert_eq!(
                (vm["metadata"]["name"].as_str(), vm["kind"].as_str()),
                (Some("yes"), Some("VirtualMachine")),
                "{text}"
            );
            assert_eq!(vm["metadata"]["labels"]["on"], "off");
        }
        let json = serde_json::to_string_pretty(&read_vm(VM).unwrap()).unwrap();
        assert_eq!(read_vm(&json).unwrap(), read_vm(VM).unwrap());
    }

    #[test]
    fn what_is_no_vm_or_several_is_refused() {
        let two = format!("{VM}---\n{VM}");
        for text in ["", "kind: Pod", "[1, 2]", "a: b: c", "{", &two] {
            assert_eq!(read_vm(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
        let bomb = "a: &a [x, x, x, x, x, x, x, x]\n".to_owned()
            + &(0..20).map(|n| format!("b{n}: &b{n} [*a, *a, *a, *a]\n")).collect::<String>();
        assert!(read_vm(&bomb).is_err());
        assert_eq!(read_vm(&" ".repeat(MAX_LEN + 1)).unwrap_err().kind(), ErrorKind::Refused);
    }
}
