//! Networks of VMs: listed, attached and detached while the VM runs, their links set.
//!
//! KubeVirt has no call for these: the description of the VM is changed, and the cluster makes of it what it can.
//! What it cannot do while the guest runs counts from the next migration or restart, which is told.

mod describe;
mod refused;
mod waiting;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use self::describe::Description;
use super::{
    Acting, Cluster, Instance, Resource, Told, Vms,
    resource::{check_name, encoded},
    types::VirtualMachine,
};
use crate::error::{Error, ErrorKind, Result};

/// The networks of VMs, in the namespace that a cluster works in.
///
/// ```no_run
/// use vmferry::kubevirt::{Acting, Cluster, ClusterOptions, LinkState, Networks, NicRequest};
///
/// # async fn example() -> vmferry::Result<()> {
/// let cluster = Cluster::connect(&ClusterOptions::default()).await?;
/// let networks = Networks::new(cluster).on_event(|told| eprintln!("{told}"));
/// let attached = networks.attach("web", &NicRequest::to("backup-lan"), &Acting::default()).await?;
/// if let Some(needs) = attached.needs {
///     println!("it counts from the next {} on", needs.name());
/// }
/// networks.set_link("web", "backup-lan", LinkState::Down, &Acting::default()).await?;
/// networks.detach("web", "backup-lan", &Acting::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Networks {
    vms: Vms,
}

/// A network of a VM, and the interface that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkInfo {
    /// What the VM calls it.
    pub name: String,
    /// How the interface is bound: `masquerade`, `bridge`, `sriov`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The network: `pod`, or a NetworkAttachmentDefinition, with its namespace if that is another one.
    pub network: String,
    /// The card that the guest sees.
    pub model: String,
    /// MAC address, of the description or of the guest.
    pub mac: Option<String>,
    /// Addresses of the guest, each once.
    pub ips: Vec<String>,
    /// What the guest calls the interface, if its agent says so.
    pub device: Option<String>,
    /// `up` or `down`: the link, as the guest sees it, or as the description of a VM that does not run has it.
    pub link: Option<String>,
    /// Whether the guest that runs has it: `attached`, `attaching`, `detaching`; `None` = no guest runs.
    pub phase: Option<String>,
}

/// An interface that is to be attached to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicRequest {
    /// The NetworkAttachmentDefinition: `[namespace/]name`.
    pub network: String,
    /// What the VM calls it; `None` = as the definition.
    pub name: Option<String>,
    /// How it is bound.
    pub binding: NicBinding,
    /// MAC address; `None` = the cluster finds one.
    pub mac: Option<String>,
    /// The card that the guest sees; only `virtio` can come while it runs.
    pub model: String,
}

impl NicRequest {
    /// An interface that is bridged to a network, as a card that every guest with virtio drivers knows.
    pub fn to(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            name: None,
            binding: NicBinding::Bridge,
            mac: None,
            model: "virtio".to_owned(),
        }
    }

    /// What the VM calls it. Dots, which definitions may have and interfaces may not, become dashes.
    fn name(&self) -> String {
        let own = || self.network.rsplit('/').next().unwrap_or_default().replace('.', "-");
        self.name.clone().unwrap_or_else(own)
    }
}

/// How an interface is bound to a network that is not the pod's: of these alone KubeVirt attaches any while a guest
/// runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicBinding {
    /// By a bridge in the pod.
    Bridge,
    /// A virtual function of a network card, passed through.
    Sriov,
}

impl NicBinding {
    /// As the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Sriov => "sriov",
        }
    }
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// As by a cable that is pulled.
    Down,
    /// As by a cable that is plugged in.
    Up,
}

impl LinkState {
    /// As the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

/// What became of a change of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkChanged {
    /// The VM, `namespace/name`.
    pub vm: String,
    /// What the VM calls the network.
    pub network: String,
    /// Whether it is complete; not so if it was not waited for, or not carried out, or if it needs something.
    pub complete: bool,
    /// What the guest has to do before it counts.
    pub needs: Option<Needs>,
}

/// What a guest has to do before a change of its description counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Move to another node, or to the same one once more.
    Migration,
    /// Stop and start again.
    Restart,
}

impl Needs {
    /// `migration` or `restart`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Migration => "migration",
            Self::Restart => "restart",
        }
    }
}

impl Networks {
    /// The networks of a cluster's VMs.
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

    /// The networks of a VM, in the order of its description.
    ///
    /// # Errors
    /// There is no such VM; the cluster refuses, or cannot be reached.
    pub async fn list(&self, vm: &str) -> Result<Vec<NetworkInfo>> {
        let found = self.vms.find(vm).await?;
        let instance = self.guest(vm).await?;
        let binding = self.default_binding(&found.object).await;
        Ok(Description::of(&found.object, &binding).list(instance.as_ref()))
    }

    /// Attaches a VM to a network, at once if it runs and the cluster can, and for its next starts.
    ///
    /// # Errors
    /// There is no such VM or network; the name is taken; the cluster refuses, or cannot be reached; it is not attached
    /// in time.
    pub async fn attach(&self, vm: &str, request: &NicRequest, acting: &Acting) -> Result<NetworkChanged> {
        let name = request.name();
        let found = self.vms.find(vm).await?;
        // The cluster would take it, and the VM would never start again.
        self.check_network(&request.network).await?;
        let taken = || {
            Error::usage(format!("VM {} has a network {name} already", self.vms.called(vm)))
                .with_hint("choose another name: --name; 'vmferry network list' lists its networks")
        };
        self.change(found, "attach a network to", acting.dry_run, |described, is_repeated| {
            match described.interface(&name) {
                // It is ours, of a request whose answer got lost.
                Some(_) if is_repeated && described.network(&name) == request.network => Ok(false),
                Some(_) => Err(taken()),
                None => {
                    described.add(&name, request);
                    Ok(true)
                }
            }
        })
        .await?;
        self.until_attached(vm, &name, acting).await
    }

    /// Takes a VM from a network, at once if the cluster can do that while it runs, and for its next starts.
    ///
    /// # Errors
    /// There is no such VM or network; the cluster refuses, or cannot be reached; it is not detached in time.
    pub async fn detach(&self, vm: &str, network: &str, acting: &Acting) -> Result<NetworkChanged> {
        let found = self.vms.find(vm).await?;
        let binding = self.default_binding(&found.object).await;
        let Some(interface) = Description::of(&found.object, &binding).interface(network).cloned() else {
            return Err(self.none(vm, network));
        };
        let guest = self.guest(vm).await?;
        let has_it = guest.as_ref().is_some_and(|guest| guest.nic(network).is_some());
        // Only these can leave a guest that runs.
        let can_leave = has_it && interface.get("bridge").is_some() && self.can_plug().await;
        if !can_leave {
            self.take_out(found, network, acting.dry_run).await?;
            let needs = has_it.then_some(Needs::Restart).filter(|_| !acting.dry_run);
            let complete = needs.is_none() && acting.wait.is_some() && !acting.dry_run;
            return Ok(self.changed(vm, network, complete, needs));
        }
        self.change(found, "detach a network from", acting.dry_run, |described, _| {
            Ok(described.set_state(network, "absent"))
        })
        .await?;
        let changed = self.until_detached(vm, network, acting).await?;
        if let (true, Some(wait)) = (changed.complete, acting.wait) {
            // The cluster leaves the entry behind.
            let vms = self.vms.until(Instant::now() + wait);
            self.take_out(vms.find(vm).await?, network, false).await?;
        }
        Ok(changed)
    }

    /// Sets the link of a VM in a network up or down, as by its cable, at once if it runs, and for its next starts.
    ///
    /// # Errors
    /// There is no such VM or network; the network has no link that can be set; this version of KubeVirt does not know
    /// links; the cluster refuses, or cannot be reached; the link is not so in time.
    pub async fn set_link(
        &self,
        vm: &str,
        network: &str,
        link: LinkState,
        acting: &Acting,
    ) -> Result<NetworkChanged> {
        let found = self.vms.find(vm).await?;
        let none = || self.none(vm, network);
        self.change(found, "set a link of", acting.dry_run, |described, _| {
            match described.interface(network).ok_or_else(none)?.get("state").and_then(Value::as_str) {
                Some("absent") => Err(Error::new(
                    ErrorKind::Cluster,
                    format!("network {network} of VM {} is being detached", self.vms.called(vm)),
                )),
                _ => Ok(described.set_state(network, link.name())),
            }
        })
        .await?;
        self.until_linked(vm, network, link, acting).await
    }

    /// How the interface of a VM is bound that describes none: the cluster says so, and is asked only then. Another
    /// binding than that would be another network card with another address.
    async fn default_binding(&self, vm: &Value) -> String {
        if !Description::is_implied(vm) {
            return String::new();
        }
        self.cluster().release().await.default_binding().to_owned()
    }

    /// The instance of a VM, if its guest has not ended.
    async fn guest(&self, vm: &str) -> Result<Option<Instance>> {
        Ok(self.vms.instance(vm).await?.filter(|instance| !instance.is_over()))
    }

    /// Fails unless there is such a NetworkAttachmentDefinition.
    async fn check_network(&self, network: &str) -> Result<()> {
        let (namespace, name) = match network.split_once('/') {
            Some((namespace, name)) => (namespace, name),
            None => (self.cluster().namespace(), network),
        };
        check_name("namespace", namespace)?;
        check_name("NetworkAttachmentDefinition", name)?;
        let (resource, cluster) = (Resource::attachments(), self.cluster().in_namespace(namespace));
        let Err(error) = cluster.must_find::<Value>(&resource, name).await else { return Ok(()) };
        if error.kind() == ErrorKind::Cluster && !cluster.serves(resource.group).await {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("the cluster does not know {}", resource.group),
            )
            .with_hint("networks beside the pod's come with Multus: is it installed there?"));
        }
        Err(error)
    }

    /// Takes a network out of the description.
    async fn take_out(&self, vm: VirtualMachine, network: &str, dry_run: bool) -> Result<()> {
        self.change(vm, "detach a network from", dry_run, |described, _| Ok(described.remove(network))).await
    }

    /// Changes the description of a VM. `edit` is given what there is and whether an earlier request may have arrived, and
    /// says whether there is anything to do; it is asked again when somebody else was faster.
    async fn change(
        &self,
        mut vm: VirtualMachine,
        doing: &str,
        dry_run: bool,
        edit: impl Fn(&mut Description, bool) -> Result<bool> + Send,
    ) -> Result<()> {
        let (start, name) = (Instant::now(), vm.metadata.name.clone());
        let mut is_repeated = false;
        loop {
            let binding = self.default_binding(&vm.object).await;
            let mut described = Description::of(&vm.object, &binding);
            if !edit(&mut described, is_repeated)? {
                return Ok(());
            }
            let patch = described.patch(&vm.metadata.resource_version);
            let Err(error) = self.cluster().patch_strictly(&Resource::vms(), &name, &patch, dry_run).await
            else {
                return Ok(());
            };
            if !refused::is_stale(&error) || start.elapsed() >= self.cluster().retry_for() {
                return Err(refused::explain(doing, &self.vms.called(&name), error));
            }
            is_repeated = true;
            sleep(PAUSE).await;
            vm = self.vms.find(&name).await?;
        }
    }

    fn changed(&self, vm: &str, network: &str, complete: bool, needs: Option<Needs>) -> NetworkChanged {
        NetworkChanged { vm: self.vms.called(vm), network: network.to_owned(), complete, needs }
    }

    fn none(&self, vm: &str, network: &str) -> Error {
        Error::usage(format!("VM {} has no network {network}", self.vms.called(vm)))
            .with_hint(format!("'vmferry network list {}' lists its networks", self.vms.called(vm)))
    }
}

impl Cluster {
    /// Changes an object of the namespace by a merge patch; fields that the cluster does not know are refused, not
    /// dropped.
    async fn patch_strictly(
        &self,
        resource: &Resource,
        name: &str,
        patch: &Value,
        dry_run: bool,
    ) -> Result<()> {
        let what = resource.object(self.namespace(), name);
        let dry = if dry_run { "&dryRun=All" } else { "" };
        let path = format!(
            "{}/{}?fieldValidation=Strict{dry}",
            resource.path(Some(self.namespace())),
            encoded(name)
        );
        let call = self.call("patch", resource, &what);
        self.repeated(&call, http::Method::PATCH, &path, Some(patch)).await?;
        Ok(())
    }
}

/// Between two tries, when others change the same VM.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
