//! Defaults and refusals: what the schemas, the built-in kinds and KubeVirt's webhooks do to objects.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use super::Call;
use crate::{config::Config, control, refusal::Refusal, store, world::State};

const EXPORT_WEBHOOK: &str = "virtualmachineexport-validator.export.kubevirt.io";
const SNAPSHOT_WEBHOOK: &str = "virtualmachinesnapshot-validator.snapshot.kubevirt.io";
const RESTORE_WEBHOOK: &str = "virtualmachinerestore-validator.snapshot.kubevirt.io";
const CLONE_WEBHOOK: &str = "vm-clone-validator.clone.kubevirt.io";
const VM_WEBHOOK: &str = "virtualmachine-validator.kubevirt.io";
const MIGRATION_WEBHOOK: &str = "migration-create-validator.kubevirt.io";

/// Fields that the schema of an export does not know: refused, told, or dropped, as the request says.
pub(super) fn fields(call: &Call<'_>, object: &mut Value) -> Result<Vec<String>, Refusal> {
    if call.resource.plural == "virtualmachinerestores" {
        return newer_fields(call, object, &RESTORE_FIELDS);
    }
    if call.resource.plural == "virtualmachineinstancemigrations" {
        return newer_fields(call, object, &[("addedNodeSelector", 6)]);
    }
    if call.resource.plural == "virtualmachines" {
        return interface_states(call, object);
    }
    if call.resource.plural != "virtualmachineexports" {
        return Ok(Vec::new());
    }
    let mut unknown = Vec::new();
    let mut prune = |path: &str, value: &mut Value, known: &[&str]| {
        let Some(fields) = value.as_object_mut() else { return };
        fields.retain(|name, _| {
            let is_known = known.contains(&name.as_str());
            if !is_known {
                unknown.push(format!("unknown field \"{path}{name}\""));
            }
            is_known
        });
    };
    prune("", object, &["apiVersion", "kind", "metadata", "spec", "status"]);
    prune("spec.", &mut object["spec"], &["source", "tokenSecretRef", "ttlDuration"]);
    if object["spec"]["source"].is_object() {
        prune("spec.source.", &mut object["spec"]["source"], &["apiGroup", "kind", "name"]);
    }
    unknown_fields(call, unknown)
}

/// Fields of a restore that came with later releases.
const RESTORE_FIELDS: [(&str, u32); 4] = [
    ("targetReadinessPolicy", 5),
    ("volumeRestoreOverrides", 6),
    ("volumeRestorePolicy", 6),
    ("volumeOwnershipPolicy", 7),
];

/// Interfaces have a state from 1.1 on.
fn interface_states(call: &Call<'_>, vm: &mut Value) -> Result<Vec<String>, Refusal> {
    let mut unknown = Vec::new();
    if call.world.config.at_least(1) {
        return Ok(unknown);
    }
    let place = "/spec/template/spec/domain/devices/interfaces";
    let interfaces = vm.pointer_mut(place).and_then(Value::as_array_mut).into_iter().flatten();
    for (i, interface) in interfaces.enumerate() {
        if interface.as_object_mut().and_then(|fields| fields.remove("state")).is_some() {
            unknown.push(format!(
                "unknown field \"{}[{i}].state\"",
                place.trim_start_matches('/').replace('/', ".")
            ));
        }
    }
    unknown_fields(call, unknown)
}

/// States that an interface can have.
fn check_interfaces(config: &Config, vm: &Value) -> Result<(), Refusal> {
    let spec = &vm["spec"]["template"]["spec"];
    let interfaces = spec["domain"]["devices"]["interfaces"].as_array().into_iter().flatten();
    for (i, interface) in interfaces.enumerate() {
        let (name, state) =
            (interface["name"].as_str().unwrap_or_default(), interface["state"].as_str().unwrap_or_default());
        let is_default = spec["networks"].as_array().is_some_and(|all| {
            all.iter().any(|network| network["name"] == name && network["pod"].is_object())
        });
        let why = match state {
            "" => continue,
            "up" | "down" if !config.at_least(5) => {
                format!("logical {name} interface state value is unsupported: {state}")
            }
            "up" | "down" if interface["sriov"].is_object() => {
                format!("\"{name}\" interface's state \"{state}\" is not supported for SR-IOV NICs")
            }
            "up" | "down" => continue,
            "absent" if !interface["bridge"].is_object() => {
                format!("\"{name}\" interface's state \"absent\" is supported only for bridge binding")
            }
            "absent" if is_default => {
                format!("\"{name}\" interface's state \"absent\" is not supported on default networks")
            }
            "absent" => continue,
            _ => format!("logical {name} interface state value is unsupported: {state}"),
        };
        let field = format!("spec.template.spec.domain.devices.interfaces[{i}].state");
        return Err(Refusal::denied_field(VM_WEBHOOK, &field, &why));
    }
    Ok(())
}

/// Fields of the specification that came with later releases than the one that is played.
fn newer_fields(call: &Call<'_>, object: &mut Value, fields: &[(&str, u32)]) -> Result<Vec<String>, Refusal> {
    let mut unknown = Vec::new();
    let Some(spec) = object["spec"].as_object_mut() else { return Ok(unknown) };
    for (field, minor) in fields {
        if !call.world.config.at_least(*minor) && spec.remove(*field).is_some() {
            unknown.push(format!("unknown field \"spec.{field}\""));
        }
    }
    unknown_fields(call, unknown)
}

fn unknown_fields(call: &Call<'_>, unknown: Vec<String>) -> Result<Vec<String>, Refusal> {
    match call.query.first("fieldValidation") {
        Some("Strict") if !unknown.is_empty() => Err(Refusal::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
            call.resource.version,
            unknown.join(", "),
            kind = call.resource.kind,
        ))),
        Some("Ignore") => Ok(Vec::new()),
        _ => Ok(unknown),
    }
}

/// What happens to a new object before it is stored.
pub(super) fn create(call: &Call<'_>, state: &mut State, object: &mut Value) -> Result<(), Refusal> {
    let config = &call.world.config;
    match call.resource.plural.as_str() {
        "virtualmachineexports" => {
            if !config.at_least(9) && !config.export_gate {
                return Err(Refusal::denied(EXPORT_WEBHOOK, "vm export feature gate not enabled"));
            }
            check_export_source(&object["spec"]["source"])
        }
        "virtualmachinesnapshots" => {
            check_snapshot_gate(config, SNAPSHOT_WEBHOOK)?;
            check_snapshot_source(&object["spec"]["source"])
        }
        "virtualmachinerestores" => {
            check_snapshot_gate(config, RESTORE_WEBHOOK)?;
            check_restore_target(&object["spec"]["target"])?;
            check_restore(state, object)?;
            if !config.at_least(8) && object["spec"]["volumeRestorePolicy"] == "PrefixTargetName" {
                return Err(unknown_policy(object));
            }
            if config.at_least(5) && object["spec"]["targetReadinessPolicy"].is_null() {
                object["spec"]["targetReadinessPolicy"] = "WaitGracePeriod".into();
            }
            Ok(())
        }
        "virtualmachineclones" if !config.snapshot_gate => {
            Err(Refusal::denied(CLONE_WEBHOOK, "snapshot feature gate is not enabled"))
        }
        "virtualmachineinstancemigrations" => check_migration(state, object),
        "virtualmachines" => {
            default_vm(object, state);
            check_interfaces(config, object)
        }
        "persistentvolumeclaims" => {
            default_claim(object);
            Ok(())
        }
        "secrets" => {
            default_secret(object);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What happens to a change before it is stored.
pub(super) fn update(
    call: &Call<'_>,
    state: &State,
    before: &Value,
    after: &mut Value,
) -> Result<(), Refusal> {
    match call.resource.plural.as_str() {
        "virtualmachineexports" if before["spec"] != after["spec"] => {
            Err(Refusal::denied_field(EXPORT_WEBHOOK, "spec", "spec in immutable after creation"))
        }
        "virtualmachinesnapshots" if before["spec"] != after["spec"] => {
            Err(Refusal::denied_field(SNAPSHOT_WEBHOOK, "spec", "spec in immutable after creation"))
        }
        "persistentvolumeclaims" => check_growth(state, before, after),
        "virtualmachines" => check_interfaces(&call.world.config, after),
        "secrets" => {
            default_secret(after);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Claims grow if their storage class lets them.
fn check_growth(state: &State, before: &Value, after: &Value) -> Result<(), Refusal> {
    let (old, new) = (&before["spec"]["resources"]["requests"], &after["spec"]["resources"]["requests"]);
    let class = after["spec"]["storageClassName"].as_str().unwrap_or_default();
    let class = state.store.get("storage.k8s.io/storageclasses", "", class);
    if old == new || class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    let name = store::name(after);
    let message = format!(
        "persistentvolumeclaims \"{name}\" is forbidden: only dynamically provisioned pvc can be resized and the \
         storageclass that provisions the pvc must support resize"
    );
    let details = json!({"name": name, "kind": "persistentvolumeclaims"});
    Err(Refusal::new(hyper::StatusCode::FORBIDDEN, "Forbidden", message, details))
}

fn check_export_source(source: &Value) -> Result<(), Refusal> {
    let group = source["apiGroup"].as_str().unwrap_or_default();
    let expected = match source["kind"].as_str().unwrap_or_default() {
        "PersistentVolumeClaim" if group.is_empty() => return Ok(()),
        "PersistentVolumeClaim" => {
            let message = "PVC API group must be missing or blank";
            return Err(Refusal::denied_field(EXPORT_WEBHOOK, "spec.source.APIGroup", message));
        }
        "VirtualMachine" => ("VM", "kubevirt.io"),
        "VirtualMachineSnapshot" => ("VMSnapshot", "snapshot.kubevirt.io"),
        _ => return Err(Refusal::denied_field(EXPORT_WEBHOOK, "spec.source.kind", "invalid kind")),
    };
    if group == expected.1 {
        return Ok(());
    }
    let message = format!("{} API group must be {}", expected.0, expected.1);
    Err(Refusal::denied_field(EXPORT_WEBHOOK, "spec.source.APIGroup", &message))
}

fn check_snapshot_source(source: &Value) -> Result<(), Refusal> {
    if source["apiGroup"] != "kubevirt.io" {
        return Err(Refusal::denied_field(SNAPSHOT_WEBHOOK, "spec.source.apiGroup", "invalid apiGroup"));
    }
    if source["kind"] != "VirtualMachine" {
        return Err(Refusal::denied_field(SNAPSHOT_WEBHOOK, "spec.source.kind", "invalid kind"));
    }
    Ok(())
}

fn check_snapshot_gate(config: &Config, webhook: &str) -> Result<(), Refusal> {
    if config.snapshot_gate {
        Ok(())
    } else {
        Err(Refusal::denied(webhook, "Snapshot/Restore feature gate not enabled"))
    }
}

/// A guest that runs, can be moved, and is not being moved.
fn check_migration(state: &State, migration: &Value) -> Result<(), Refusal> {
    let (namespace, name) =
        (store::namespace(migration), migration["spec"]["vmiName"].as_str().unwrap_or_default());
    let denied = |message: &str| Err(Refusal::denied(MIGRATION_WEBHOOK, message));
    let Some(instance) = state.store.get("kubevirt.io/virtualmachineinstances", namespace, name) else {
        return denied(&format!("the VMI \"{namespace}/{name}\" does not exist"));
    };
    let conditions = instance["status"]["conditions"].as_array().into_iter().flatten();
    let mut unfit = conditions.filter(|item| item["type"] == "LiveMigratable" && item["status"] == "False");
    if let Some(unfit) = unfit.next() {
        let text = |key: &str| unfit[key].as_str().unwrap_or_default();
        return denied(&format!(
            "Cannot migrate VMI, Reason: {}, Message: {}",
            text("reason"),
            text("message")
        ));
    }
    let mut all = state.store.list("kubevirt.io/virtualmachineinstancemigrations", Some(namespace));
    let running =
        all.find(|(_, other)| other["spec"]["vmiName"] == name && !control::migration::is_over(other));
    match running {
        None => Ok(()),
        Some((_, other)) => denied(&format!(
            "in-flight migration detected. Active migration job ({}) is currently already in progress for VMI {name}.",
            store::uid(other)
        )),
    }
}

/// One restore a VM at a time, and no other VM for state that cannot be shared.
fn check_restore(state: &State, restore: &Value) -> Result<(), Refusal> {
    let (namespace, spec) = (store::namespace(restore), &restore["spec"]);
    let running = state
        .store
        .list("snapshot.kubevirt.io/virtualmachinerestores", Some(namespace))
        .find(|(_, other)| other["spec"]["target"] == spec["target"] && other["status"]["complete"] != true);
    if let Some((key, _)) = running {
        let message = format!("VirtualMachineRestore \"{}\" in progress", key.name);
        return Err(Refusal::denied_field(RESTORE_WEBHOOK, "spec.target", &message));
    }
    let get = |resource: &str, name: &Value| {
        state.store.get(resource, namespace, name.as_str().unwrap_or_default())
    };
    let snapshot = get("snapshot.kubevirt.io/virtualmachinesnapshots", &spec["virtualMachineSnapshotName"]);
    let Some(snapshot) = snapshot else { return Ok(()) };
    let content = get(
        "snapshot.kubevirt.io/virtualmachinesnapshotcontents",
        &snapshot["status"]["virtualMachineSnapshotContentName"],
    );
    let target = get("kubevirt.io/virtualmachines", &spec["target"]["name"]);
    let is_other = target.is_none_or(|target| target["metadata"]["uid"] != snapshot["status"]["sourceUID"]);
    let has_state = content.is_some_and(|content| {
        let domain = &content["spec"]["source"]["virtualMachine"]["spec"]["template"]["spec"]["domain"];
        domain["devices"]["tpm"]["persistent"] == true
            || domain["firmware"]["bootloader"]["efi"]["persistent"] == true
    });
    if is_other && has_state {
        let message = "Restore to a different VM is not supported when snapshotted VM has backend storage (persistent \
                       TPM or EFI)";
        return Err(Refusal::denied_field(RESTORE_WEBHOOK, "spec", message));
    }
    Ok(())
}

/// What the schema says to a policy that came with 1.8.
fn unknown_policy(restore: &Value) -> Refusal {
    let field = "spec.volumeRestorePolicy";
    let why = "Unsupported value: \"PrefixTargetName\": supported values: \"RandomizeNames\", \"InPlace\"";
    let name = store::name(restore);
    let message = format!("VirtualMachineRestore.snapshot.kubevirt.io \"{name}\" is invalid: {field}: {why}");
    let causes = json!({"causes": [{"reason": "FieldValueNotSupported", "message": why, "field": field}]});
    Refusal::new(hyper::StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message, causes)
}

fn check_restore_target(target: &Value) -> Result<(), Refusal> {
    if target["apiGroup"] != "kubevirt.io" {
        return Err(Refusal::denied_field(RESTORE_WEBHOOK, "spec.target.apiGroup", "invalid apiGroup"));
    }
    if target["kind"] != "VirtualMachine" {
        return Err(Refusal::denied_field(RESTORE_WEBHOOK, "spec.target.kind", "invalid kind"));
    }
    Ok(())
}

/// What the webhook and the controller put into a VM.
pub(crate) fn default_vm(vm: &mut Value, state: &mut State) {
    let annotations = &mut vm["metadata"]["annotations"];
    annotations["kubevirt.io/latest-observed-api-version"] = "v1".into();
    annotations["kubevirt.io/storage-observed-api-version"] = "v1".into();
    if vm["metadata"]["finalizers"].is_null() {
        vm["metadata"]["finalizers"] = json!(["kubevirt.io/virtualMachineControllerFinalize"]);
    }
    let template = &mut vm["spec"]["template"];
    template["metadata"]["annotations"]["kubevirt.io/pci-topology-version"] = "v3".into();
    let spec = &mut template["spec"];
    let default = |place: &mut Value, value: Value| {
        if place.is_null() {
            *place = value;
        }
    };
    default(&mut spec["architecture"], "amd64".into());
    let domain = &mut spec["domain"];
    default(&mut domain["resources"], json!({}));
    default(&mut domain["machine"]["type"], "q35".into());
    default(&mut domain["firmware"]["uuid"], state.rng.uid().into());
    default(&mut domain["firmware"]["serial"], state.rng.uid().into());
}

fn default_claim(claim: &mut Value) {
    if claim["metadata"]["finalizers"].is_null() {
        claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
    }
    if claim["spec"]["volumeMode"].is_null() {
        claim["spec"]["volumeMode"] = "Filesystem".into();
    }
    if claim["spec"]["storageClassName"].is_null() {
        claim["spec"]["storageClassName"] = crate::world::LOCAL_CLASS.into();
    }
    claim["status"] = json!({"phase": "Pending"});
}

fn default_secret(secret: &mut Value) {
    if secret["type"].is_null() {
        secret["type"] = "Opaque".into();
    }
    let Some(text) = secret.as_object_mut().and_then(|fields| fields.remove("stringData")) else { return };
    for (key, value) in text.as_object().into_iter().flatten() {
        secret["data"][key] = BASE64.encode(value.as_str().unwrap_or_default()).into();
    }
}
