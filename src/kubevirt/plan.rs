//! Which volumes of a VM are exported, and why the others are not.
//!
//! Volumes are joined with links by the name of their claim, never by their order, which is arbitrary.

use serde_json::Value;

use super::types::{LinkVolume, VolumeSnapshotStatus};
use crate::error::{Error, ErrorKind, Result};

/// A volume that is exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedVolume {
    /// What the VM calls it; the name of the claim where there is no VM.
    pub name: String,
    /// Its claim, by whose name the links call it.
    pub claim: String,
}

/// A volume that is not exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What the VM calls it.
    pub name: String,
    /// Why it is left out.
    pub reason: String,
}

/// What is exported and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumePlan {
    /// In the order of the VM.
    pub volumes: Vec<PlannedVolume>,
    /// In the order of the VM.
    pub left_out: Vec<LeftOut>,
}

impl VolumePlan {
    /// The volumes of a VirtualMachine object.
    pub fn of_vm(vm: &Value) -> Self {
        let mut plan = Self::default();
        let list =
            |place: &str| vm.pointer(&format!("/spec/template/spec/{place}")).and_then(Value::as_array);
        let is_in = |place: &str, name: &str| {
            let mut items = list(place).into_iter().flatten();
            items.any(|item| item.get("name").and_then(Value::as_str) == Some(name))
        };
        for volume in list("volumes").into_iter().flatten() {
            let name = volume.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let is_shared =
                is_in("domain/devices/filesystems", &name) && !is_in("domain/devices/disks", &name);
            let claim = if is_shared { Err(SHARED.to_owned()) } else { claim_of(volume) };
            match claim {
                Ok(claim) => plan.volumes.push(PlannedVolume { name, claim }),
                Err(reason) => plan.left_out.push(LeftOut { name, reason }),
            }
        }
        plan
    }

    /// One claim and nothing else.
    pub fn of_claim(name: &str) -> Self {
        let volume = PlannedVolume { name: name.to_owned(), claim: name.to_owned() };
        Self { volumes: vec![volume], left_out: Vec::new() }
    }

    /// What an export offers, where nothing tells more.
    pub fn of_links(links: &[LinkVolume]) -> Self {
        let volume = |link: &LinkVolume| PlannedVolume { name: link.name.clone(), claim: link.name.clone() };
        let (disks, files): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.url("raw").is_some());
        let left_out =
            files.into_iter().map(|link| LeftOut { name: link.name.clone(), reason: files_only() });
        Self { volumes: disks.into_iter().map(volume).collect(), left_out: left_out.collect() }
    }

    /// Only the volumes of these names (the VM's, or those of claims); all if there are none.
    ///
    /// # Errors
    /// There is no such volume, or none at all.
    pub fn select(mut self, names: &[String]) -> Result<Self> {
        for name in names {
            if self.volumes.iter().any(|volume| volume.is_called(name)) {
                continue;
            }
            if let Some(left) = self.left_out.iter().find(|left| &left.name == name) {
                return Err(Error::refused(format!("volume {name} cannot be exported: {}", left.reason)));
            }
            return Err(Error::usage(format!("there is no volume {name}"))
                .with_hint(format!("the volumes are: {}", self.names())));
        }
        if self.volumes.is_empty() {
            let left: Vec<String> =
                self.left_out.iter().map(|left| format!("{} ({})", left.name, left.reason)).collect();
            let error = Error::new(ErrorKind::Cluster, "there is no volume that can be exported");
            return Err(if left.is_empty() { error } else { error.with_hint(left.join("; ")) });
        }
        if names.is_empty() {
            return Ok(self);
        }
        let is_wanted = |volume: &PlannedVolume| names.iter().any(|name| volume.is_called(name));
        let (wanted, others) = self.volumes.into_iter().partition(is_wanted);
        self.volumes = wanted;
        let others = others.into_iter().map(|volume: PlannedVolume| LeftOut {
            name: volume.name,
            reason: "not asked for by --volume".to_owned(),
        });
        self.left_out.extend(others);
        Ok(self)
    }

    /// The plan with what the export really offers: each planned volume must be there, and what is
    /// offered beside is told.
    ///
    /// # Errors
    /// A planned volume is not offered.
    pub fn joined(mut self, links: &[LinkVolume]) -> Result<Self> {
        let missing: Vec<&str> = self
            .volumes
            .iter()
            .filter(|volume| !links.iter().any(|link| link.name == volume.claim))
            .map(|volume| volume.claim.as_str())
            .collect();
        if !missing.is_empty() {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("the export offers no volume for the claim {}", missing.join(", ")),
            )
            .with_hint(
                "KubeVirt leaves out, without a word, claims that do not exist: check 'kubectl get pvc'; the others \
                 are exported by --volume",
            ));
        }
        for link in links {
            let known = self.volumes.iter().any(|volume| volume.claim == link.name)
                || self.left_out.iter().any(|left| left.name == link.name);
            if !known && link.url("raw").is_none() {
                let reason = if link.name.starts_with(STATE_CLAIM) {
                    "state of TPM or EFI: files, not a disk".to_owned()
                } else {
                    files_only()
                };
                self.left_out.push(LeftOut { name: link.name.clone(), reason });
            }
        }
        Ok(self)
    }

    /// Fails if the storage cannot snapshot a planned volume.
    ///
    /// # Errors
    /// The first such volume, with the reason that the cluster gives.
    pub fn check_snapshottable(&self, statuses: &[VolumeSnapshotStatus]) -> Result<()> {
        let unfit = self
            .volumes
            .iter()
            .find_map(|volume| statuses.iter().find(|status| status.name == volume.name && !status.enabled));
        match unfit {
            None => Ok(()),
            Some(status) => Err(Error::refused(format!(
                "volume {} cannot be snapshotted: {}",
                status.name,
                if status.reason.is_empty() { "its storage has no snapshots" } else { &status.reason }
            ))
            .with_hint(
                "stop the VM and export it directly, or leave the volume out by naming others with --volume",
            )),
        }
    }

    fn names(&self) -> String {
        let names =
            self.volumes.iter().map(|volume| &volume.name).chain(self.left_out.iter().map(|left| &left.name));
        names.cloned().collect::<Vec<_>>().join(", ")
    }
}

impl PlannedVolume {
    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.claim == name
    }
}

/// The claim of a volume, or why it is not exported.
fn claim_of(volume: &Value) -> Result<String, String> {
    let text = |pointer: &str| volume.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    if let Some(claim) = text("/dataVolume/name").or_else(|| text("/persistentVolumeClaim/claimName")) {
        return Ok(claim);
    }
    let kind =
        volume.as_object().and_then(|fields| fields.keys().find(|key| *key != "name")).map(String::as_str);
    Err(match kind {
        Some("containerDisk") => {
            "containerDisk: comes from a container image, and what the guest writes is lost"
        }
        Some("ephemeral") => "ephemeral: what the guest writes is lost",
        Some("emptyDisk") => "emptyDisk: lives only as long as the VM runs",
        Some("hostDisk") => "hostDisk: KubeVirt does not export files of a node",
        Some("memoryDump") => "memoryDump: not a disk",
        Some("cloudInitNoCloud" | "cloudInitConfigDrive") => "cloud-init: part of the VM's description",
        Some("sysprep") => "sysprep: part of the VM's description",
        Some("configMap" | "secret" | "downwardAPI" | "serviceAccount" | "downwardMetrics") => {
            "made by the cluster when the VM starts"
        }
        Some(other) => return Err(format!("{other}: KubeVirt does not export volumes of this kind")),
        None => "it has no source",
    }
    .to_owned())
}

fn files_only() -> String {
    "offered as files, not as a disk".to_owned()
}

/// The guest mounts it, and the export has it as files.
const SHARED: &str = "virtiofs: files that are shared with the guest, not a disk";

/// What KubeVirt calls the claim that holds the state of TPM and EFI.
const STATE_CLAIM: &str = "persistent-state-for-";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubevirt::types::LinkFormat;

    fn vm() -> Value {
        json!({"spec": {"template": {"spec": {"volumes": [
            {"name": "root", "dataVolume": {"name": "db-root"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "db.data"}},
            {"name": "cd", "containerDisk": {"image": "x"}},
            {"name": "init", "cloudInitNoCloud": {"userData": "secret"}},
            {"name": "new", "quantumDisk": {}},
        ]}}}})
    }

    fn link(name: &str, format: &str) -> LinkVolume {
        let format = LinkFormat { format: format.into(), url: format!("https://x/{name}") };
        LinkVolume { name: name.into(), formats: vec![format] }
    }

    fn names(plan: &VolumePlan) -> Vec<&str> {
        plan.volumes.iter().map(|volume| volume.name.as_str()).collect()
    }

    #[test]
    fn volumes_without_a_claim_are_left_out_with_the_reason() {
        let plan = VolumePlan::of_vm(&vm());
        assert_eq!(names(&plan), ["root", "data"]);
        let left: Vec<_> =
            plan.left_out.iter().map(|left| (left.name.as_str(), left.reason.as_str())).collect();
        assert_eq!(left.len(), 3);
        assert!(left[0].1.starts_with("containerDisk") && left[1].1.starts_with("cloud-init"), "{left:?}");
        assert_eq!(left[2], ("new", "quantumDisk: KubeVirt does not export volumes of this kind"));
        assert!(!format!("{plan:?}").contains("secret"));
    }

    #[test]
    fn what_is_shared_as_files_is_no_disk() {
        let mut vm = vm();
        vm["spec"]["template"]["spec"]["domain"] =
            json!({"devices": {"filesystems": [{"name": "data", "virtiofs": {}}, {"name": "none"}]}});
        let plan = VolumePlan::of_vm(&vm);
        assert_eq!(names(&plan), ["root"]);
        assert!(plan.left_out.iter().any(|left| left.name == "data" && left.reason.starts_with("virtiofs")));
    }

    #[test]
    fn volumes_are_selected_by_either_name() {
        let select = |names: &[&str]| {
            VolumePlan::of_vm(&vm()).select(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(names(&select(&[]).unwrap()), ["root", "data"]);
        let plan = select(&["db.data"]).unwrap();
        assert_eq!(names(&plan), ["data"]);
        assert_eq!(plan.left_out.last().unwrap().reason, "not asked for by --volume");
        assert_eq!(select(&["nothing"]).unwrap_err().kind(), ErrorKind::Usage);
        let error = select(&["cd"]).unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("containerDisk"), "{error}");
        let empty = VolumePlan::of_vm(&json!({})).select(&[]).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::Cluster);
    }

    #[test]
    fn volumes_are_joined_by_claim_in_any_order() {
        let links = [
            link("persistent-state-for-db", "dir"),
            link("db.data", "raw"),
            link("db-root", "raw"),
            link("odd", "dir"),
        ];
        let plan = VolumePlan::of_vm(&vm()).joined(&links).unwrap();
        assert_eq!(names(&plan), ["root", "data"]);
        let told: Vec<_> = plan.left_out.iter().skip(3).map(|left| left.reason.as_str()).collect();
        assert_eq!(told, ["state of TPM or EFI: files, not a disk", "offered as files, not as a disk"]);
        let error = VolumePlan::of_vm(&vm()).joined(&links[..2]).unwrap_err();
        assert!(error.to_string().contains("db-root"), "{error}");
    }

    #[test]
    fn what_cannot_be_snapshotted_is_found_before() {
        let status = |name: &str, enabled| VolumeSnapshotStatus {
            name: name.into(),
            enabled,
            reason: "no class".into(),
        };
        let plan = VolumePlan::of_vm(&vm());
        plan.check_snapshottable(&[status("root", true), status("cd", false)]).unwrap();
        let error = plan.check_snapshottable(&[status("data", false)]).unwrap_err();
        assert!(error.to_string().contains("data") && error.to_string().contains("no class"), "{error}");
    }
}
