//! VMs to put into the cluster.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api,
    control::vm as control,
    disk::Disk,
    store,
    store::patch,
    world::{LOCAL_CLASS, SNAPSHOT_CLASS, State, Trouble, Volume, World},
};

/// A VM with its volumes, as it is to be put into the cluster.
///
/// Volume `root` of VM `web` lies on claim `web-root`. Unless [`Vm::claims`] says otherwise, claims are made by
/// data volumes that the VM's templates describe.
#[derive(Clone, Debug)]
pub struct Vm {
    namespace: String,
    name: String,
    volumes: Vec<(String, VolumeSource)>,
    is_running: bool,
    is_stuck: bool,
    has_agent: bool,
    is_migratable: bool,
    is_deaf: bool,
    needs_recovery: bool,
    trouble: Option<Trouble>,
    lingers: Duration,
    has_templates: bool,
    labels: Value,
    spec: Value,
}

#[derive(Clone, Debug)]
enum VolumeSource {
    /// A disk of its own, on a claim of this name.
    Disk { claim: String, disk: Disk, kind: PvcKind, class: &'static str },
    /// Anything else, as the VM's spec has it.
    Other(Value),
}

/// How a claim holds a disk, which decides the links that an export has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PvcKind {
    /// A block volume: raw and gzip.
    Block,
    /// A file system with `disk.img`, marked as KubeVirt content: raw and gzip.
    FilesystemKubevirt,
    /// A file system that nothing says about what is in it: `dir` and `tar.gz`.
    FilesystemPlain,
}

impl Vm {
    /// A stopped VM without volumes.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        let spec = json!({
            "template": {
                "metadata": {"labels": {"kubevirt.io/domain": name}},
                "spec": {
                    "domain": {
                        "cpu": {"cores": 2}, "memory": {"guest": "1Gi"},
                        "firmware": {"bootloader": {"efi": {"secureBoot": false}}},
                        "devices": {"interfaces": [{"name": "default", "model": "virtio", "masquerade": {}}]},
                    },
                    "networks": [{"name": "default", "pod": {}}],
                },
            },
        });
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            volumes: Vec::new(),
            is_running: false,
            is_stuck: false,
            has_agent: false,
            is_migratable: false,
            is_deaf: false,
            needs_recovery: false,
            trouble: None,
            lingers: Duration::ZERO,
            has_templates: true,
            labels: json!({"app": name}),
            spec,
        }
    }

    /// A disk on a claim `VM-NAME`, marked as KubeVirt content, on storage that can take snapshots.
    #[must_use]
    pub fn disk(self, name: &str, disk: Disk) -> Self {
        self.disk_as(name, disk, PvcKind::FilesystemKubevirt)
    }

    /// A disk on a claim of this kind, on storage that can take snapshots.
    #[must_use]
    pub fn disk_as(self, name: &str, disk: Disk, kind: PvcKind) -> Self {
        let claim = format!("{}-{name}", self.name);
        self.disk_on(name, &claim, disk, kind, SNAPSHOT_CLASS)
    }

    /// A disk on storage without snapshots: a snapshot of the VM leaves it out.
    #[must_use]
    pub fn local_disk(self, name: &str, disk: Disk) -> Self {
        let claim = format!("{}-{name}", self.name);
        self.disk_on(name, &claim, disk, PvcKind::FilesystemKubevirt, LOCAL_CLASS)
    }

    pub(crate) fn disk_on(
        mut self,
        name: &str,
        claim: &str,
        disk: Disk,
        kind: PvcKind,
        class: &'static str,
    ) -> Self {
        let source = VolumeSource::Disk { claim: claim.to_owned(), disk, kind, class };
        self.volumes.push((name.to_owned(), source));
        self
    }

    /// A volume on a claim that is there already, or is not there.
    #[must_use]
    pub fn claim(self, name: &str, claim: &str) -> Self {
        self.volume(name, &json!({"persistentVolumeClaim": {"claimName": claim}}))
    }

    /// A container disk, which exports leave out.
    #[must_use]
    pub fn container_disk(self, name: &str) -> Self {
        self.volume(name, &json!({"containerDisk": {"image": "registry.example/containerdisks/debian:13"}}))
    }

    /// A cloud-init disk, which exports leave out but manifests show.
    #[must_use]
    pub fn cloud_init(self, name: &str, user_data: &str) -> Self {
        self.volume(name, &json!({"cloudInitNoCloud": {"userData": user_data}}))
    }

    /// Any volume, as the VM's spec has it but for the name.
    #[must_use]
    pub fn volume(mut self, name: &str, source: &Value) -> Self {
        self.volumes.push((name.to_owned(), VolumeSource::Other(source.clone())));
        self
    }

    /// Whether the VM runs.
    #[must_use]
    pub fn running(mut self, is_running: bool) -> Self {
        self.is_running = is_running;
        self
    }

    /// The VM has been started but its guest never runs.
    #[must_use]
    pub fn stuck_starting(mut self) -> Self {
        self.is_running = true;
        self.is_stuck = true;
        self
    }

    /// A VM that never runs when it is started: its status, and why, as its instance tells it.
    #[must_use]
    pub fn in_trouble(mut self, status: &str, message: &str) -> Self {
        self.is_stuck = true;
        self.trouble = Some(Trouble { status: status.to_owned(), message: message.to_owned() });
        self
    }

    /// The guest does not end when it is asked to, only when its grace period (30 seconds unless said) is over.
    #[must_use]
    pub fn deaf(mut self) -> Self {
        self.is_deaf = true;
        self
    }

    /// A volume migration was interrupted: it cannot be started.
    #[must_use]
    pub fn needs_recovery(mut self) -> Self {
        self.needs_recovery = true;
        self
    }

    /// Its instance can be migrated.
    #[must_use]
    pub fn migratable(mut self) -> Self {
        self.is_migratable = true;
        self
    }

    /// The run strategy, instead of `Always` or `Halted`. One that waits to be started by hand waits for that.
    #[must_use]
    pub fn strategy(self, strategy: &str) -> Self {
        self.patch(&json!({"runStrategy": strategy}))
    }

    /// Whether the guest agent answers while the VM runs: snapshots are quiesced then.
    #[must_use]
    pub fn agent(mut self, has_agent: bool) -> Self {
        self.has_agent = has_agent;
        self
    }

    /// How long the instance of a VM that is stopped stays when it has ended. Meanwhile the VM is not
    /// Ready for another reason than later, when there is none.
    #[must_use]
    pub fn lingering(mut self, lingers: Duration) -> Self {
        self.lingers = lingers;
        self
    }

    /// Volumes name their claims; there are no data volumes.
    #[must_use]
    pub fn claims(mut self) -> Self {
        self.has_templates = false;
        self
    }

    /// Labels in place of `app=NAME`.
    #[must_use]
    pub fn labels(mut self, labels: &Value) -> Self {
        self.labels = labels.clone();
        self
    }

    /// An instance type of the cluster.
    #[must_use]
    pub fn instancetype(self, name: &str) -> Self {
        self.patch(&json!({
            "instancetype": {"kind": "VirtualMachineClusterInstancetype", "name": name},
            "template": {"spec": {"domain": {"cpu": null, "memory": null}}},
        }))
    }

    /// A preference of the cluster.
    #[must_use]
    pub fn preference(self, name: &str) -> Self {
        self.patch(&json!({"preference": {"kind": "VirtualMachineClusterPreference", "name": name}}))
    }

    /// A merge patch for the VM's spec.
    #[must_use]
    pub fn patch(mut self, change: &Value) -> Self {
        patch::merge(&mut self.spec, change);
        self
    }

    /// Puts it in.
    pub(crate) fn add_to(self, world: &World, state: &mut State) {
        world.ensure_namespace(state, &self.namespace);
        let mut spec = self.spec;
        let strategy = spec["runStrategy"].clone();
        if spec["runStrategy"].is_null() && spec["running"].is_null() {
            spec["runStrategy"] = if self.is_running { "Always" } else { "Halted" }.into();
        }
        let (mut disks, mut volumes, mut templates, mut claims) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (name, source) in &self.volumes {
            disks.push(json!({"name": name, "disk": {"bus": "virtio"}}));
            let mut volume = match source {
                VolumeSource::Other(source) => source.clone(),
                VolumeSource::Disk { claim, .. } if !self.has_templates => {
                    json!({"persistentVolumeClaim": {"claimName": claim}})
                }
                VolumeSource::Disk { claim, disk, kind, class } => {
                    let mut template = json!({
                        "metadata": {"name": claim},
                        "spec": {"source": {"blank": {}}, "storage": claim_spec(disk, *kind, class)},
                    });
                    if *kind == PvcKind::FilesystemPlain {
                        template["spec"]["contentType"] = "archive".into();
                    }
                    templates.push(template);
                    json!({"dataVolume": {"name": claim}})
                }
            };
            volume["name"] = name.as_str().into();
            volumes.push(volume);
            if let VolumeSource::Disk { claim, disk, kind, class } = source {
                claims.push((claim, disk, *kind, *class));
            }
        }
        let template = &mut spec["template"]["spec"];
        template["domain"]["devices"]["disks"] = disks.into();
        template["volumes"] = volumes.into();
        if !templates.is_empty() {
            spec["dataVolumeTemplates"] = templates.clone().into();
        }
        let mut vm = json!({
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels}, "spec": spec,
        });
        if self.labels.is_null()
            && let Some(metadata) = vm["metadata"].as_object_mut()
        {
            metadata.remove("labels");
        }
        api::default_vm(&mut vm, state);
        let vm = world.create(state, "kubevirt.io", "virtualmachines", vm);
        for (claim, disk, kind, class) in &claims {
            let mut owner = Value::Null;
            if let Some(template) = templates.iter().find(|template| template["metadata"]["name"] == **claim)
            {
                let data_volume = json!({
                    "metadata": {
                        "name": claim, "namespace": self.namespace, "ownerReferences": [store::owner(&vm)],
                    },
                    "spec": template["spec"],
                    "status": {"phase": "Succeeded", "progress": "100.0%", "claimName": claim},
                });
                owner = store::owner(&world.create(state, "cdi.kubevirt.io", "datavolumes", data_volume));
            }
            add_claim(world, state, &self.namespace, claim, disk, *kind, class, &owner);
        }
        let place = (self.namespace.clone(), self.name.clone());
        let memo = state.vms.entry(place).or_default();
        memo.is_stuck = self.is_stuck;
        memo.has_agent = self.has_agent;
        memo.is_migratable = self.is_migratable;
        memo.is_deaf = self.is_deaf;
        memo.needs_recovery = self.needs_recovery;
        memo.trouble = self.trouble;
        if !strategy.is_null() {
            memo.is_wanted = Some(self.is_running);
        }
        memo.lingers = self.lingers;
        // What runs, runs from the beginning.
        control::settle(world, state, &self.namespace, &self.name);
        for (claim, disk, ..) in claims {
            let volume = Volume { disk: disk.clone() };
            state.volumes.insert((self.namespace.clone(), claim.clone()), volume);
        }
    }
}

fn claim_spec(disk: &Disk, kind: PvcKind, class: &str) -> Value {
    let mode = if kind == PvcKind::Block { "Block" } else { "Filesystem" };
    json!({
        "accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": class,
        "resources": {"requests": {"storage": quantity(disk.len_bytes())}},
    })
}

/// Bytes as a quantity, in the largest binary unit that is exact.
fn quantity(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A claim that is bound.
#[expect(
    clippy::too_many_arguments,
    reason = "a claim is all of these, and there is one caller beside this file"
)]
pub(crate) fn add_claim(
    world: &World,
    state: &mut State,
    namespace: &str,
    name: &str,
    disk: &Disk,
    kind: PvcKind,
    class: &str,
    owner: &Value,
) {
    world.ensure_namespace(state, namespace);
    let mut spec = claim_spec(disk, kind, class);
    spec["volumeName"] = format!("pv-{namespace}-{name}").into();
    let mut annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
    if kind == PvcKind::FilesystemKubevirt {
        annotations["cdi.kubevirt.io/storage.contentType"] = "kubevirt".into();
    }
    let storage = spec["resources"]["requests"]["storage"].clone();
    let mut claim = json!({
        "metadata": {
            "name": name, "namespace": namespace, "annotations": annotations,
            "finalizers": ["kubernetes.io/pvc-protection"],
        },
        "spec": spec,
        "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": storage}},
    });
    if !owner.is_null() {
        claim["metadata"]["ownerReferences"] = json!([owner]);
    }
    world.create(state, "", "persistentvolumeclaims", claim);
    let volume = Volume { disk: disk.clone() };
    state.volumes.insert((namespace.to_owned(), name.to_owned()), volume);
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantities_are_exact() {
        assert_eq!(super::quantity(1 << 30), "1Gi");
        assert_eq!(super::quantity(256 << 20), "256Mi");
        assert_eq!(super::quantity(1000), "1000");
        assert_eq!(super::quantity(0), "0");
    }
}
