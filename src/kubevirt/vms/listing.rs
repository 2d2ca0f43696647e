//! VMs in pages, each joined with its instance and claims in memory that does not grow with the list.
//!
//! Instances and claims are lists of their own, read a page at a time and only as far as the VMs at hand
//! need them: until each has been found that the cluster says is there. The order of the lists, which is
//! alike as a rule, decides how much waits in memory, never what is found.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

use super::{
    Instance, VmInfo, Vms,
    info::{Facts, Shape, power, printable, text},
};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{
        Cluster, Resource, Told, VolumePlan,
        client::decoded,
        glob,
        pages::{FIRST_PAGE, PAGE, Pages},
        session::Teller,
        types::{Claim, VirtualMachine},
    },
};

/// Which VMs, and how much of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmQuery {
    /// Those of all namespaces.
    pub everywhere: bool,
    /// Only those with these labels, as kubectl takes them; empty = all.
    pub selector: String,
    /// Only those whose name fits: `*` is anything, `?` one character.
    pub name: Option<String>,
    /// Only those of this status or power: `running`, `stopped`, `errorunschedulable`, …; of either case.
    pub state: Option<String>,
    /// How much is looked up.
    pub detail: VmDetail,
}

/// How much is looked up of each VM, which decides the rights that are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum VmDetail {
    /// What the VirtualMachine itself says.
    Description,
    /// That with the instance (node, addresses, guest) and the instancetype (CPUs, memory).
    #[default]
    Summary,
    /// That with the claims (sizes).
    Full,
}

/// VMs, page by page.
#[derive(Debug)]
pub struct VmPages {
    query: VmQuery,
    pages: Pages,
    first: bool,
    instances: Instances,
    claims: Claims,
    shapes: Shapes,
}

impl Vms {
    /// VMs, page by page. Nothing is asked yet.
    pub fn list(&self, query: &VmQuery) -> VmPages {
        let list = |resource, selector: &str| Pages::new(&self.cluster, resource, query.everywhere, selector);
        VmPages {
            pages: list(Resource::vms(), &query.selector),
            instances: Instances { pages: list(Resource::vmis(), ""), found: HashMap::new() },
            claims: Claims { pages: Some(list(Resource::claims(), "")), ..Claims::default() },
            shapes: Shapes::new(&self.cluster, &self.teller),
            query: query.clone(),
            first: true,
        }
    }
}

impl VmPages {
    /// The next VMs; an empty page is not the last one.
    ///
    /// # Errors
    /// The cluster refuses, or cannot be reached.
    pub async fn next(&mut self) -> Result<Option<Vec<VmInfo>>> {
        let limit = if std::mem::replace(&mut self.first, false) { FIRST_PAGE } else { PAGE };
        let Some(page) = self.pages.next(limit).await? else { return Ok(None) };
        let mut vms = Vec::with_capacity(page.len());
        for object in page {
            let vm = VirtualMachine::new(object)?;
            if self.query.wants(&vm) {
                vms.push(vm);
            }
        }
        if self.query.detail >= VmDetail::Summary {
            self.instances.read_up_to(&vms).await?;
        }
        if self.query.detail >= VmDetail::Full {
            self.claims.read_up_to(&vms).await?;
        }
        let mut infos = Vec::with_capacity(vms.len());
        for vm in &vms {
            infos.push(self.info(vm).await?);
        }
        Ok(Some(infos))
    }

    /// The state of the cluster that the list shows, for [`Vms::watch`].
    pub fn version(&self) -> &str {
        self.pages.version()
    }

    async fn info(&mut self, vm: &VirtualMachine) -> Result<VmInfo> {
        let shape = match self.query.detail {
            VmDetail::Description => None,
            _ => self.shapes.of(vm).await?,
        };
        let instance = self.instances.found.remove(&place(vm));
        let claims = (self.query.detail >= VmDetail::Full).then(|| self.claims.of(&vm.metadata.namespace));
        Ok(VmInfo::new(
            &vm.metadata,
            &vm.status.conditions,
            Facts { vm: &vm.object, expanded: None, shape, instance: instance.as_ref(), claims },
        ))
    }
}

impl VmQuery {
    /// Whether a VM is one of those.
    pub(super) fn wants(&self, vm: &VirtualMachine) -> bool {
        let state = self.state.as_deref().is_none_or(|state| {
            state.eq_ignore_ascii_case(printable(&vm.object))
                || state.eq_ignore_ascii_case(power(&vm.object).name())
        });
        state && self.name.as_deref().is_none_or(|pattern| glob::fits(pattern, &vm.metadata.name))
    }
}

fn place(vm: &VirtualMachine) -> (String, String) {
    (vm.metadata.namespace.clone(), vm.metadata.name.clone())
}

/// Instances that were read and whose VM has not come yet.
#[derive(Debug)]
struct Instances {
    pages: Pages,
    found: HashMap<(String, String), Instance>,
}

impl Instances {
    /// Reads until the instance of each of these is there that has one.
    async fn read_up_to(&mut self, vms: &[VirtualMachine]) -> Result<()> {
        let wanted: Vec<_> = vms.iter().filter(|vm| vm.status.created).map(place).collect();
        while !self.pages.is_over() && wanted.iter().any(|place| !self.found.contains_key(place)) {
            for object in self.pages.next(PAGE).await?.unwrap_or_default() {
                let instance: Instance = decoded("a VirtualMachineInstance", object)?;
                let place = (instance.metadata.namespace.clone(), instance.metadata.name.clone());
                self.found.insert(place, instance);
            }
        }
        Ok(())
    }
}

/// Claims that were read, by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pages: Option<Pages>,
    found: HashMap<String, HashMap<String, Claim>>,
    none: HashMap<String, Claim>,
}

impl Claims {
    /// Those of a namespace that were read.
    pub(super) fn of(&self, namespace: &str) -> &HashMap<String, Claim> {
        self.found.get(namespace).unwrap_or(&self.none)
    }

    /// Looks up those of one VM, in the cluster's namespace.
    pub(super) async fn look_up(&mut self, cluster: &Cluster, plan: &VolumePlan) -> Result<()> {
        for volume in &plan.volumes {
            if let Some(claim) = cluster.find::<Claim>(&Resource::claims(), &volume.claim).await? {
                self.keep(cluster.namespace().to_owned(), volume.claim.clone(), claim);
            }
        }
        Ok(())
    }

    /// Reads until each claim of these VMs is there, or there are no more.
    async fn read_up_to(&mut self, vms: &[VirtualMachine]) -> Result<()> {
        let mut wanted = Vec::new();
        for vm in vms {
            let volumes = VolumePlan::of_vm(&vm.object).volumes.into_iter();
            wanted.extend(volumes.map(|volume| (vm.metadata.namespace.clone(), volume.claim)));
        }
        let is_missing = |found: &HashMap<String, HashMap<String, Claim>>| {
            wanted.iter().any(|(namespace, claim)| {
                found.get(namespace).is_none_or(|claims| !claims.contains_key(claim))
            })
        };
        while is_missing(&self.found) {
            let Some(page) = self.next().await? else { break };
            for object in page {
                let claim: Claim = decoded("a PersistentVolumeClaim", object)?;
                self.keep(claim.metadata.namespace.clone(), claim.metadata.name.clone(), claim);
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        match &mut self.pages {
            Some(pages) => pages.next(PAGE).await,
            None => Ok(None),
        }
    }

    /// Of a claim only what is shown is kept.
    fn keep(&mut self, namespace: String, name: String, claim: Claim) {
        let slim = Claim { metadata: crate::kubevirt::types::Metadata::default(), ..claim };
        self.found.entry(namespace).or_default().insert(name, slim);
    }
}

/// CPUs and memory of instancetypes: one look a revision, since a VM that has an instancetype cannot say
/// anything else.
#[derive(Debug)]
pub(super) struct Shapes {
    cluster: Cluster,
    teller: Warner,
    known: HashMap<String, Option<Shape>>,
    /// In their order, so that those that were not asked for lately can be forgotten.
    order: VecDeque<String>,
}

/// Somebody who is told warnings.
struct Warner(Teller);

impl std::fmt::Debug for Warner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Warner")
    }
}

impl Shapes {
    pub(super) fn new(cluster: &Cluster, teller: &Teller) -> Self {
        Self {
            cluster: cluster.clone(),
            teller: Warner(Teller::clone(teller)),
            known: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// `None` for a VM without an instancetype, which says it itself.
    async fn of(&mut self, vm: &VirtualMachine) -> Result<Option<Shape>> {
        let Some(key) = key(vm) else { return Ok(None) };
        if let Some(known) = self.known.get(&key) {
            return Ok(Some(known.unwrap_or_default()));
        }
        let shape = self.expanded(vm).await?.as_ref().map(Shape::of);
        if self.order.len() >= MOST_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.known.insert(key, shape);
        Ok(Some(shape.unwrap_or_default()))
    }

    /// A VM with instancetype and preference written out; `None` if it has neither, or if the cluster
    /// cannot do it, which is told.
    pub(super) async fn expanded(&self, vm: &VirtualMachine) -> Result<Option<Value>> {
        let has = |field: &str| vm.object.pointer(field).is_some_and(Value::is_object);
        if !has("/spec/instancetype") && !has("/spec/preference") {
            return Ok(None);
        }
        let (namespace, name) = (&vm.metadata.namespace, &vm.metadata.name);
        match self.cluster.in_namespace(namespace).expanded_vm(name).await {
            Ok(expanded) => Ok(Some(expanded)),
            // An instancetype that is gone is no reason to show nothing of all the others.
            Err(error) if error.kind() == ErrorKind::Cluster => {
                let warning =
                    format!("CPUs and memory of VM {namespace}/{name} are not known: {}", chain(&error));
                (self.teller.0)(Told::Warning(warning));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What decides CPUs and memory: the instancetype, and the revision of it that the VM was made with.
fn key(vm: &VirtualMachine) -> Option<String> {
    let of = |place: &str| text(&vm.object, place).unwrap_or_default();
    let name = text(&vm.object, "/spec/instancetype/name")?;
    let revisions =
        [of("/spec/instancetype/revisionName"), of("/status/instancetypeRef/controllerRevisionRef/name")];
    Some(format!(
        "{}\n{}\n{name}\n{}\n{}",
        vm.metadata.namespace,
        of("/spec/instancetype/kind"),
        revisions[0],
        revisions[1]
    ))
}

/// An error, its cause and what to do, in one line.
pub(super) fn chain(error: &Error) -> String {
    let mut line = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        line = format!("{line}: {cause}");
    }
    match error.hint() {
        Some(hint) => format!("{line} ({hint})"),
        None => line,
    }
}

/// Instancetypes that are remembered: clusters have some dozens.
const MOST_KNOWN: usize = 4096;
