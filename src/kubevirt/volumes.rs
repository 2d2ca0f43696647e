//! Volumes of VMs: listed, attached and detached while the VM runs, made larger.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Acting, Cluster, Instance, Resource, Told, Vms, VolumePlan, parse_quantity, resource::check_name,
    types::Claim, vms::Put,
};
use crate::error::{Error, ErrorKind, Result};

/// The volumes of VMs, in the namespace that a cluster works in.
///
/// ```no_run
/// use vmferry::kubevirt::{Acting, AttachRequest, Cluster, ClusterOptions, Volumes};
///
/// # async fn example() -> vmferry::Result<()> {
/// let cluster = Cluster::connect(&ClusterOptions::default()).await?;
/// let volumes = Volumes::new(cluster).on_event(|told| eprintln!("{told}"));
/// volumes.attach("web", &AttachRequest::of("scratch"), &Acting::default()).await?;
/// volumes.expand("web", "scratch", 20 << 30, &Acting::default()).await?;
/// volumes.detach("web", "scratch", &Acting::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Volumes {
    vms: Vms,
}

/// A volume of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VolumeInfo {
    /// What the VM calls it.
    pub name: String,
    /// What it comes from: `dataVolume`, `containerDisk`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Its claim.
    pub pvc: Option<String>,
    /// Size of the claim in bytes.
    pub size_bytes: Option<u64>,
    /// Storage class of the claim.
    pub storage_class: Option<String>,
    /// `Block` or `Filesystem`.
    pub volume_mode: Option<String>,
    /// How the guest sees it: `disk`, `cdrom`, `lun`.
    pub device: String,
    /// The bus that it is on.
    pub bus: Option<String>,
    /// What the guest calls it, while it runs.
    pub target: Option<String>,
    /// Whether it was attached while the VM ran, and can be detached.
    pub hotplugged: bool,
    /// How far it is attached or detached.
    pub phase: Option<String>,
    /// Whether KubeVirt exports it.
    pub exportable: bool,
}

/// A volume that is to be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// The claim.
    pub claim: String,
    /// What the VM calls it; `None` = as the claim.
    pub name: Option<String>,
    /// The bus: `scsi` or `virtio`.
    pub bus: String,
    /// Serial number that the guest sees.
    pub serial: Option<String>,
    /// The claim is that of a DataVolume, which is to be named instead of it.
    pub data_volume: bool,
}

impl AttachRequest {
    /// A claim, as a disk on the bus that every guest knows.
    pub fn of(claim: impl Into<String>) -> Self {
        Self { claim: claim.into(), name: None, bus: "scsi".to_owned(), serial: None, data_volume: false }
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.claim)
    }
}

/// What became of a change of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeChanged {
    /// The VM, `namespace/name`.
    pub vm: String,
    /// What the VM calls the volume.
    pub volume: String,
    /// Whether it is complete; not so if it was not waited for, or not carried out.
    pub complete: bool,
}

impl Volumes {
    /// The volumes of a cluster's VMs.
    pub fn new(cluster: Cluster) -> Self {
        Self { vms: Vms::new(cluster) }
    }

    /// Calls `listener` with what is waited for, and with warnings.
    #[must_use]
    pub fn on_event(self, listener: impl Fn(Told) + Send + Sync + 'static) -> Self {
        Self { vms: self.vms.on_event(listener) }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        self.vms.cluster()
    }

    /// The volumes of a VM, in the order of its description.
    ///
    /// # Errors
    /// There is no such VM; the cluster refuses, or cannot be reached.
    pub async fn list(&self, vm: &str) -> Result<Vec<VolumeInfo>> {
        let found = self.vms.find(vm).await?;
        let instance = self.vms.instance(vm).await?;
        let info = self.vms.described(&found, instance.as_ref()).await?;
        let disks =
            found.object.pointer("/spec/template/spec/domain/devices/disks").and_then(Value::as_array);
        let volumes = found.object.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
        let named = |list: Option<&Vec<Value>>, name: &str| {
            list?.iter().find(|item| item.get("name").and_then(Value::as_str) == Some(name)).cloned()
        };
        Ok(info
            .disks
            .into_iter()
            .map(|disk| {
                let device = named(disks, &disk.name).unwrap_or_default();
                let kind = ["cdrom", "lun", "disk"].into_iter().find(|kind| device.get(kind).is_some());
                let kind = kind.unwrap_or("disk");
                let bus = device.pointer(&format!("/{kind}/bus")).and_then(Value::as_str);
                let source = named(volumes, &disk.name).unwrap_or_default();
                let hotplugged = ["dataVolume", "persistentVolumeClaim"]
                    .iter()
                    .any(|kind| source.pointer(&format!("/{kind}/hotpluggable")) == Some(&Value::Bool(true)));
                let status = instance.as_ref().and_then(|instance| {
                    instance.status.volume_status.iter().find(|status| status.name == disk.name)
                });
                VolumeInfo {
                    device: kind.to_owned(),
                    bus: bus.map(str::to_owned),
                    target: status.map(|status| status.target.clone()).filter(|target| !target.is_empty()),
                    hotplugged,
                    phase: status.map(|status| status.phase.clone()).filter(|phase| !phase.is_empty()),
                    name: disk.name,
                    kind: disk.kind,
                    pvc: disk.pvc,
                    size_bytes: disk.size_bytes,
                    storage_class: disk.storage_class,
                    volume_mode: disk.volume_mode,
                    exportable: disk.exportable,
                }
            })
            .collect())
    }

    /// Attaches a claim to a VM, at once if it runs, and for its next starts.
    ///
    /// # Errors
    /// There is no such VM or claim; the name is taken; the cluster does not allow it, refuses, or cannot be
    /// reached; it is not attached in time.
    pub async fn attach(&self, vm: &str, request: &AttachRequest, acting: &Acting) -> Result<VolumeChanged> {
        let (claim, name) = (&request.claim, request.name());
        check_name("PersistentVolumeClaim", claim)?;
        self.vms.find(vm).await?;
        // The cluster would take it, and wait for the claim for ever.
        let _: Claim = self.cluster().must_find(&Resource::claims(), claim).await?;
        let source = if request.data_volume {
            json!({"dataVolume": {"name": claim, "hotpluggable": true}})
        } else {
            json!({"persistentVolumeClaim": {"claimName": claim, "hotpluggable": true}})
        };
        let mut disk = json!({"disk": {"bus": request.bus}});
        if let Some(serial) = &request.serial {
            disk["serial"] = serial.as_str().into();
        }
        let mut body = json!({"name": name, "disk": disk, "volumeSource": source});
        if acting.dry_run {
            body["dryRun"] = json!(["All"]);
        }
        let put = Put {
            plural: "virtualmachines",
            call: "addvolume",
            doing: "attach a volume to",
            body,
            replaces: None,
        };
        self.vms.put(vm, &put).await?;
        self.until(vm, name, acting, "attached", |instance| {
            let status = instance.status.volume_status.iter().find(|status| status.name == name);
            match status {
                Some(status) if status.phase == "Ready" => None,
                Some(status) => Some(state(&status.phase, &status.reason, &status.message)),
                None => Some("not begun".to_owned()),
            }
        })
        .await
    }

    /// Takes a volume away that was attached while the VM ran; it may be named by its claim too.
    ///
    /// # Errors
    /// There is no such VM or volume; it was not attached so; the cluster refuses, or cannot be reached; it is
    /// not detached in time.
    pub async fn detach(&self, vm: &str, volume: &str, acting: &Acting) -> Result<VolumeChanged> {
        let found = self.vms.find(vm).await?;
        // The cluster takes the name of a claim without a word, and then takes nothing away.
        let name = called(&found.object, volume);
        let volume = name.as_str();
        let mut body = json!({ "name": volume });
        if acting.dry_run {
            body["dryRun"] = json!(["All"]);
        }
        let put = Put {
            plural: "virtualmachines",
            call: "removevolume",
            doing: "detach a volume from",
            body,
            replaces: None,
        };
        self.vms.put(vm, &put).await?;
        self.until(vm, volume, acting, "detached", |instance| {
            let status = instance.status.volume_status.iter().find(|status| status.name == volume)?;
            Some(state(&status.phase, &status.reason, &status.message))
        })
        .await
    }

    /// Makes a volume larger; `size` is in bytes. The guest sees it once its storage has grown.
    ///
    /// # Errors
    /// There is no such VM or volume, or it has no claim; it is as large already; its storage cannot grow; the
    /// cluster refuses, or cannot be reached; it has not grown in time.
    pub async fn expand(&self, vm: &str, volume: &str, size: u64, acting: &Acting) -> Result<VolumeChanged> {
        let found = self.vms.find(vm).await?;
        let plan = VolumePlan::of_vm(&found.object).select(&[volume.to_owned()])?;
        let claim =
            &plan.volumes.first().ok_or_else(|| Error::usage(format!("there is no volume {volume}")))?.claim;
        let before: Claim = self.cluster().must_find(&Resource::claims(), claim).await?;
        let asked = before.requested().and_then(parse_quantity).unwrap_or_default();
        if size <= asked.max(before.size().unwrap_or_default()) {
            return Err(Error::usage(format!(
                "volume {volume} has {} bytes already",
                asked.max(before.size().unwrap_or_default())
            ))
            .with_hint("volumes can only grow"));
        }
        let patch = json!({"spec": {"resources": {"requests": {"storage": size.to_string()}}}});
        self.cluster()
            .patch_dry(&Resource::claims(), claim, &patch, acting.dry_run)
            .await
            .map_err(cannot_grow)?;
        let done = |complete| VolumeChanged { vm: self.vms.called(vm), volume: volume.to_owned(), complete };
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else { return Ok(done(false)) };
        let (start, mut news) = (Instant::now(), None);
        let cluster = self.cluster().until(start + wait);
        loop {
            let now: Claim = cluster.must_find(&Resource::claims(), claim).await?;
            let capacity = now.status.capacity.get("storage").map(String::as_str).and_then(parse_quantity);
            if capacity.is_some_and(|capacity| capacity >= size) {
                return Ok(done(true));
            }
            let text = format!(
                "volume {volume}: claim {claim} has {} of {size} bytes",
                capacity.unwrap_or_default()
            );
            self.vms.tell(&mut news, &text);
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("volume {volume} has not grown within {} s: {text}", wait.as_secs_f64()),
                )
                .with_hint(format!(
                    "the storage goes on with it; some grows only while no pod uses it: 'kubectl describe pvc {claim}' tells"
                )));
            }
            let version = &now.metadata.resource_version;
            self.cluster().changed(&Resource::claims(), claim, version, left.min(LOOK)).await;
        }
    }

    /// Waits until an instance is as it is to be; a VM that does not run is so at once.
    async fn until(
        &self,
        vm: &str,
        volume: &str,
        acting: &Acting,
        done: &str,
        missing: impl Fn(&Instance) -> Option<String>,
    ) -> Result<VolumeChanged> {
        let changed =
            |complete| VolumeChanged { vm: self.vms.called(vm), volume: volume.to_owned(), complete };
        let Some(wait) = acting.wait.filter(|_| !acting.dry_run) else { return Ok(changed(false)) };
        let (start, mut news) = (Instant::now(), None);
        let vms = self.vms.until(start + wait);
        loop {
            let instance = vms.instance(vm).await?.filter(|instance| !instance.is_over());
            let Some(instance) = instance else { return Ok(changed(true)) };
            let Some(state) = missing(&instance) else { return Ok(changed(true)) };
            self.vms.tell(&mut news, &format!("volume {volume}: {state}"));
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    format!("volume {volume} is not {done} after {} s: {state}", wait.as_secs_f64()),
                )
                .with_hint(format!(
                    "the cluster goes on with it: 'vmferry volume list {vm}' tells how far it is; 'kubectl get pods' shows \
                     the pod hp-volume-… that attaches it"
                )));
            }
            let version = &instance.metadata.resource_version;
            self.cluster().changed(&Resource::vmis(), vm, version, left.min(LOOK)).await;
        }
    }
}

/// What a VM calls a volume that is named by that, or by its claim; what it does not have stays as it is.
fn called(vm: &Value, volume: &str) -> String {
    let all = vm.pointer("/spec/template/spec/volumes").and_then(Value::as_array);
    let is_name = |item: &Value| item.get("name").and_then(Value::as_str) == Some(volume);
    if all.is_some_and(|all| all.iter().any(is_name)) {
        return volume.to_owned();
    }
    let planned = VolumePlan::of_vm(vm).volumes.into_iter().find(|planned| planned.claim == volume);
    planned.map_or_else(|| volume.to_owned(), |planned| planned.name)
}

fn state(phase: &str, reason: &str, message: &str) -> String {
    let phase = if phase.is_empty() { "Pending" } else { phase };
    let why: Vec<&str> = [reason, message].into_iter().filter(|text| !text.is_empty()).collect();
    if why.is_empty() { phase.to_owned() } else { format!("{phase} ({})", why.join(": ")) }
}

/// The refusal of a storage class that cannot grow is told as if a right were missing.
fn cannot_grow(error: Error) -> Error {
    let text = super::explain::told(&error);
    if !text.contains("must support resize") {
        return error;
    }
    Error::new(ErrorKind::Cluster, "the storage class of the volume does not let volumes grow")
        .with_hint("it needs allowVolumeExpansion: 'kubectl get storageclass' tells which have it")
        .with_source(Error::failed(text))
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(3);
