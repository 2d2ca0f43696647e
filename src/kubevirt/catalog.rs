//! What VMs are made after: instancetypes, which say how large, and preferences, which say how.

use serde::Serialize;
use serde_json::Value;

use super::{
    Cluster, Resource,
    client::decoded,
    pages::{PAGE, Pages},
    parse_quantity,
    types::Object,
};
use crate::error::Result;

/// The instancetypes and preferences of a cluster: those for all, and those of the namespace that it works in.
///
/// ```no_run
/// use vmferry::kubevirt::{Catalog, Cluster, ClusterOptions};
///
/// # async fn example() -> vmferry::Result<()> {
/// let catalog = Catalog::new(Cluster::connect(&ClusterOptions::default()).await?);
/// for found in catalog.instancetypes(false).await? {
///     println!("{}: {:?} CPUs", found.name, found.cpus);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Catalog {
    cluster: Cluster,
}

/// An instancetype.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstancetypeInfo {
    /// Its name.
    pub name: String,
    /// Its namespace; `None` = it is for all.
    pub namespace: Option<String>,
    /// Its kind, as VMs refer to it.
    pub kind: &'static str,
    /// Virtual CPUs.
    pub cpus: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Whether the CPUs are the guest's alone.
    pub dedicated_cpus: bool,
    /// GPUs.
    pub gpus: u64,
}

/// A preference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PreferenceInfo {
    /// Its name.
    pub name: String,
    /// Its namespace; `None` = it is for all.
    pub namespace: Option<String>,
    /// Its kind, as VMs refer to it.
    pub kind: &'static str,
    /// The operating system that it is for, as it says.
    pub os: Option<String>,
    /// The bus of disks.
    pub disk_bus: Option<String>,
    /// The model of network interfaces.
    pub interface_model: Option<String>,
    /// `efi`, `efi, secure boot`, or nothing.
    pub firmware: Option<String>,
}

impl Catalog {
    /// Those of a cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// The instancetypes: first those for all, then those of the namespace, or of all namespaces.
    ///
    /// # Errors
    /// The cluster has none, refuses, or cannot be reached.
    pub async fn instancetypes(&self, everywhere: bool) -> Result<Vec<InstancetypeInfo>> {
        let version = self.cluster.instancetype_version().await?;
        let kinds = [
            ("VirtualMachineClusterInstancetype", "virtualmachineclusterinstancetypes"),
            ("VirtualMachineInstancetype", "virtualmachineinstancetypes"),
        ];
        let mut found = Vec::new();
        for (kind, object) in self.read(version, kinds, everywhere).await? {
            let (name, namespace) = named(&object)?;
            let size = |place: &str| object.pointer(place)?.as_str().and_then(parse_quantity);
            found.push(InstancetypeInfo {
                name,
                namespace,
                kind,
                cpus: object.pointer("/spec/cpu/guest").and_then(Value::as_u64),
                memory_bytes: size("/spec/memory/guest"),
                dedicated_cpus: object.pointer("/spec/cpu/dedicatedCPUPlacement") == Some(&Value::Bool(true)),
                gpus: object
                    .pointer("/spec/gpus")
                    .and_then(Value::as_array)
                    .map_or(0, |gpus| u64::try_from(gpus.len()).unwrap_or(u64::MAX)),
            });
        }
        Ok(found)
    }

    /// The preferences, as [`instancetypes`](Self::instancetypes).
    ///
    /// # Errors
    /// As there.
    pub async fn preferences(&self, everywhere: bool) -> Result<Vec<PreferenceInfo>> {
        let version = self.cluster.instancetype_version().await?;
        let kinds = [
            ("VirtualMachineClusterPreference", "virtualmachineclusterpreferences"),
            ("VirtualMachinePreference", "virtualmachinepreferences"),
        ];
        let mut found = Vec::new();
        for (kind, object) in self.read(version, kinds, everywhere).await? {
            let (name, namespace) = named(&object)?;
            let text = |place: &str| object.pointer(place).and_then(Value::as_str).map(str::to_owned);
            let annotation = object.pointer("/spec/annotations").and_then(|all| all.get("vm.kubevirt.io/os"));
            let efi = object.pointer("/spec/firmware/preferredEfi");
            let old = object.pointer("/spec/firmware/preferredUseEfi") == Some(&Value::Bool(true));
            let is_secure = efi.and_then(|efi| efi.get("secureBoot")) == Some(&Value::Bool(true))
                || object.pointer("/spec/firmware/preferredUseSecureBoot") == Some(&Value::Bool(true));
            found.push(PreferenceInfo {
                name,
                namespace,
                kind,
                os: annotation.and_then(Value::as_str).map(str::to_owned),
                disk_bus: text("/spec/devices/preferredDiskBus"),
                interface_model: text("/spec/devices/preferredInterfaceModel"),
                firmware: (efi.is_some() || old)
                    .then(|| if is_secure { "efi, secure boot" } else { "efi" }.to_owned()),
            });
        }
        Ok(found)
    }

    /// All objects of two kinds, the first of which has no namespaces.
    async fn read(
        &self,
        version: &str,
        [(wide, wide_plural), (kind, plural)]: [(&'static str, &'static str); 2],
        everywhere: bool,
    ) -> Result<Vec<(&'static str, Value)>> {
        let mut found = Vec::new();
        for (kind, plural, everywhere) in [(wide, wide_plural, true), (kind, plural, everywhere)] {
            let resource = Resource::instancetypes(version, kind, plural);
            let mut pages = Pages::new(&self.cluster, resource, everywhere, "");
            while let Some(page) = pages.next(PAGE).await? {
                found.extend(page.into_iter().map(|object| (kind, object)));
            }
        }
        Ok(found)
    }
}

fn named(object: &Value) -> Result<(String, Option<String>)> {
    let Object { metadata } = decoded("an instancetype or preference", object.clone())?;
    Ok((metadata.name, Some(metadata.namespace).filter(|namespace| !namespace.is_empty())))
}
