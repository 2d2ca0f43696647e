//! Hardware in the words of a target: the descriptor.

mod advice;
mod devices;
mod limits;

use std::collections::{BTreeMap, BTreeSet};

use vmferry_formats::ovf::{self, Envelope, Number, Setting, clean_text, resource};

use super::{
    Warning,
    annotation::annotation,
    hardware::{Attachment, Firmware, GuestOs, Hardware, Nic},
    options::{DescriptorOptions, DiskFile, TargetProfile},
};
use crate::error::{Error, FormatContext as _, Result};

/// The description of an appliance.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// The descriptor.
    pub envelope: Envelope,
    /// Its text, with markers for the sizes of the files and for how much of each disk has data
    /// ([`Number::Late`], by the number of the file).
    pub template: String,
    /// What could not be said, the earlier warnings first. The annotation has the same.
    pub warnings: Vec<Warning>,
}

/// Describes hardware for a target. `files` follow the descriptor in this order; `earlier` are the warnings
/// of what made the hardware.
///
/// ```
/// use vmferry::appliance::{DescriptorOptions, DiskFile, TargetProfile, descriptor, of_vm};
///
/// let vm = serde_json::json!({
///     "metadata": {"name": "db"},
///     "spec": {"template": {"spec": {
///         "domain": {"memory": {"guest": "2Gi"}, "devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}]}},
///         "volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "db-root"}}],
///     }}},
/// });
/// let (hardware, warnings) = of_vm(&vm)?;
/// let file = DiskFile {
///     disk: Some("root".into()),
///     file_name: "db-disk1.vmdk".into(),
///     virtual_size: 1 << 30,
///     ..DiskFile::default()
/// };
/// let options = DescriptorOptions { target_profile: TargetProfile::Proxmox, ..DescriptorOptions::default() };
/// let described = descriptor(&hardware, &options, &[file], &warnings)?;
/// assert!(described.template.contains("db-disk1.vmdk"));
/// assert!(described.warnings.iter().any(|warning| warning.message.contains("root on sata")));
/// # Ok::<(), vmferry::Error>(())
/// ```
///
/// # Errors
/// - The options name a network, an operating system or a controller that there is not.
/// - A file is for a disk that there is not, or has a name that not every importer takes, or one that
///   another file has.
/// - An image has a format that importers of that profile do not take.
/// - More disks than the target has places for.
pub fn descriptor(
    hardware: &Hardware,
    options: &DescriptorOptions,
    files: &[DiskFile],
    earlier: &[Warning],
) -> Result<Descriptor> {
    let mut renderer = Renderer {
        hardware,
        options,
        profile: options.target_profile,
        os: guest_os(hardware, options)?,
        items: Vec::new(),
        warnings: earlier.to_vec(),
    };
    check_names(files)?;
    check_formats(options.target_profile, files)?;
    let disks = renderer.join(files)?;
    let networks = renderer.networks()?;
    renderer.processors()?;
    renderer.storage(&disks, files)?;
    renderer.network_cards(&networks);
    renderer.other_devices();
    let config = renderer.config();
    renderer.advise_on_machine();
    renderer.advise_on_limits();

    let name = options.name.as_deref().unwrap_or(&hardware.name);
    let envelope = Envelope {
        files: file_entries(files),
        disks: disk_entries(&disks, files),
        networks: network_entries(hardware, &networks),
        system: ovf::VirtualSystem {
            id: system_id(name),
            name: Some(clean_text(name).into_owned()),
            os: Some(renderer.os_entry()),
            hardware: ovf::Hardware {
                transport: None,
                system: Some(renderer.system(name)),
                items: std::mem::take(&mut renderer.items),
                config,
                extra_config: Vec::new(),
            },
            products: product(hardware, options),
            annotation: Some(annotation(hardware, &renderer.warnings)),
        },
        unknown: Vec::new(),
    };
    let template = envelope.to_template().context(|| format!("cannot describe {name:?}"))?;
    Ok(Descriptor { envelope, template, warnings: renderer.warnings })
}

/// A disk of the appliance.
struct Placed<'a> {
    /// The disk of the hardware; a file that belongs to none has none.
    disk: Option<&'a super::Disk>,
    /// Index of its file.
    file: Option<usize>,
}

struct Renderer<'a> {
    hardware: &'a Hardware,
    options: &'a DescriptorOptions,
    profile: TargetProfile,
    os: GuestOs,
    items: Vec<ovf::Item>,
    warnings: Vec<Warning>,
}

impl<'a> Renderer<'a> {
    /// Joins disks and files; disks without a file are told, but for drives that are empty.
    fn join(&mut self, files: &[DiskFile]) -> Result<Vec<Placed<'a>>> {
        let all = &self.hardware.disks;
        let mut taken: Vec<Option<usize>> = vec![None; all.len()];
        for (index, file) in files.iter().enumerate() {
            let Some(name) = &file.disk else { continue };
            let found = all.iter().position(|disk| disk.name == *name).ok_or_else(|| {
                let names: Vec<&str> = all.iter().map(|disk| disk.name.as_str()).collect();
                Error::usage(format!("there is no disk {name:?} for {}", file.file_name))
                    .with_hint(format!("the disks are: {}", names.join(", ")))
            })?;
            if taken[found].replace(index).is_some() {
                return Err(Error::usage(format!("two files are for the disk {name:?}")));
            }
        }
        let mut more = Vec::new();
        for (index, _) in files.iter().enumerate().filter(|(_, file)| file.disk.is_none()) {
            let is_free = |at: &usize| taken[*at].is_none() && self.hardware.disks[*at].can_hold_a_file();
            let is_hard = |at: &usize| all[*at].kind != super::DiskKind::Cdrom;
            // Unnamed files are for hard disks first, wherever CD drives stand.
            match (0..all.len()).filter(is_hard).find(is_free).or_else(|| (0..all.len()).find(is_free)) {
                Some(at) => taken[at] = Some(index),
                None => more.push(Placed { disk: None, file: Some(index) }),
            }
        }
        let mut placed = Vec::new();
        for (disk, file) in all.iter().zip(taken) {
            if file.is_none() && disk.can_hold_a_file() {
                self.warn(
                    &disk.field,
                    format!("what is on {:?} is not in the appliance", disk.name),
                    "add it where the appliance is imported, or export it too",
                );
                // A drive stays, empty.
                if disk.kind != super::DiskKind::Cdrom {
                    continue;
                }
            }
            // An image has whole sectors.
            let stated = disk.capacity.and_then(|capacity| capacity.checked_next_multiple_of(512));
            if let (Some(stated), Some(file)) = (stated, file.and_then(|index| files.get(index)))
                && stated != file.virtual_size
            {
                self.warn(
                    &disk.field,
                    format!(
                        "{} has {} bytes, and the disk {:?} that it is for had {stated}",
                        file.file_name, file.virtual_size, disk.name
                    ),
                    "check that each image is for the disk that is meant",
                );
            }
            placed.push(Placed { disk: Some(disk), file });
        }
        placed.extend(more);
        // The target starts from the first disk: not from what was a CD, whose place in the order was for an
        // installation.
        placed.sort_by_key(|placed| {
            let was_cd = placed.file.is_some_and(|file| files[file].format != super::DiskFormat::Iso)
                && placed.disk.is_some_and(|disk| disk.kind == super::DiskKind::Cdrom);
            (was_cd, placed.disk.and_then(|disk| disk.boot_order).unwrap_or(u32::MAX))
        });
        Ok(placed)
    }

    /// The network of each card, by the names of the target.
    fn networks(&mut self) -> Result<Vec<String>> {
        let nics = &self.hardware.nics;
        let map = &self.options.network_map;
        let keys: Vec<Option<&str>> = nics.iter().map(|nic| nic.key_in(map)).collect();
        if let Some(name) = map.keys().find(|name| !keys.contains(&Some(name.as_str()))) {
            let names: Vec<String> = nics.iter().map(Nic::names).collect();
            let what = if nics.iter().any(|nic| nic.is_in(name)) {
                format!("the network {name:?} is mapped by a more exact name already")
            } else {
                format!("the VM is in no network {name:?}")
            };
            return Err(Error::usage(what)
                .with_hint(format!("its cards and their networks are: {}", names.join(", "))));
        }
        let mut plain: Vec<String> = Vec::new();
        for (nic, key) in nics.iter().zip(&keys) {
            let name = match key.and_then(|key| map.get(key)) {
                Some(mapped) => mapped.clone(),
                None => self.network_name(nic),
            };
            // Every card needs a network, and every network a name.
            let name = clean_text(&name).into_owned();
            plain.push(if name.trim().is_empty() { UNNAMED.to_owned() } else { name });
        }
        let mut names: Vec<String> = Vec::new();
        for (index, nic) in nics.iter().enumerate() {
            let is_mapped = keys[index].is_some();
            if let (false, Attachment::Network(network)) = (is_mapped, &nic.attachment) {
                let whose =
                    if self.is_kubevirt() { "the cluster's" } else { "those that the descriptor came with" };
                self.warn(
                    &nic.field,
                    format!("the network {network:?} is one of {whose}"),
                    "choose a network of the target when the appliance is imported, or name it by --network-map",
                );
            }
            let is_shared = nics
                .iter()
                .zip(&plain)
                .any(|(other, name)| *name == plain[index] && other.attachment != nic.attachment);
            let name = match &nic.attachment {
                // Namespaces keep apart what is called the same in two of them.
                Attachment::Network(network) if is_shared && !is_mapped && self.names_networks() => {
                    clean_text(network).into_owned()
                }
                _ => plain[index].clone(),
            };
            // What is mapped to one name is meant to be one network.
            let other = (0..index).find(|other| {
                names[*other] == name
                    && nics[*other].attachment != nic.attachment
                    && !(is_mapped && keys[*other].is_some())
            });
            if let Some(other) = other {
                self.warn(
                    &nic.field,
                    format!(
                        "the networks {} and {} are both called {name:?} in the appliance",
                        nics[other].names(),
                        nic.names()
                    ),
                    "keep them apart by --network-map",
                );
            }
            names.push(name);
        }
        Ok(names)
    }

    /// Whether the target takes names of networks, not only kinds of them.
    fn names_networks(&self) -> bool {
        self.profile != TargetProfile::Virtualbox
    }

    /// What a network is called if nobody says it: a name that the target has, where there is one.
    fn network_name(&self, nic: &Nic) -> String {
        match (self.profile, &nic.attachment) {
            (TargetProfile::Vmware, Attachment::Pod) => "VM Network".to_owned(),
            (TargetProfile::Virtualbox, Attachment::Pod) => "NAT".to_owned(),
            (TargetProfile::Virtualbox, Attachment::Network(_)) => "Bridged".to_owned(),
            (_, Attachment::Pod) => nic.name.clone(),
            (_, Attachment::Network(network)) => {
                network.rsplit_once('/').map_or(network.as_str(), |(_, name)| name).to_owned()
            }
        }
    }

    fn processors(&mut self) -> Result<()> {
        let cpu = &self.hardware.cpu;
        let count = cpu
            .count()
            .filter(|count| *count > 0)
            .ok_or_else(|| Error::usage("the VM has no sane number of CPUs"))?;
        let per_socket = count / cpu.sockets.max(1);
        let names_cores = self.profile != TargetProfile::Virtualbox;
        self.add(ovf::Item {
            allocation_units: Some("hertz * 10^6".to_owned()),
            description: Some("Number of virtual CPUs".to_owned()),
            element_name: format!("{count} virtual CPU(s)"),
            resource_type: resource::CPU,
            virtual_quantity: Some(u64::from(count)),
            cores_per_socket: names_cores.then_some(per_socket),
            ..ovf::Item::default()
        });
        // vSphere takes multiples of 4 MiB.
        let step = if self.profile == TargetProfile::Vmware { 4 << 20 } else { 1 << 20 };
        let memory = self.hardware.memory;
        let rounded = memory
            .max(1)
            .checked_next_multiple_of(step)
            .ok_or_else(|| Error::usage(format!("the VM has {memory} bytes of memory")))?;
        if rounded != memory {
            let field = self.path("domain.memory.guest", "memory");
            self.warn(
                &field,
                format!("memory is rounded up from {memory} bytes to {} MiB", rounded >> 20),
                "nothing to do",
            );
        }
        self.add(ovf::Item {
            allocation_units: Some("byte * 2^20".to_owned()),
            description: Some("Memory size".to_owned()),
            element_name: format!("{} MB of memory", rounded >> 20),
            resource_type: resource::MEMORY,
            virtual_quantity: Some(rounded >> 20),
            ..ovf::Item::default()
        });
        Ok(())
    }

    /// Firmware and features, by keys that VMware has and others know.
    fn config(&mut self) -> Vec<Setting> {
        let hardware = self.hardware;
        let mut settings = BTreeMap::new();
        match hardware.firmware {
            Firmware::Bios => {
                settings.insert("firmware", "bios");
            }
            Firmware::Efi { secure_boot } => {
                settings
                    .insert("bootOptions.efiSecureBootEnabled", if secure_boot { "true" } else { "false" });
                settings.insert("firmware", "efi");
            }
        }
        if self.profile == TargetProfile::Vmware {
            let flags = [
                ("cpuHotAddEnabled", hardware.cpu.can_grow),
                ("memoryHotAddEnabled", hardware.memory_can_grow),
                ("nestedHVEnabled", hardware.cpu.is_nesting),
            ];
            settings.extend(flags.into_iter().filter(|(_, is_on)| *is_on).map(|(key, _)| (key, "true")));
        }
        let setting = |(key, value): (&str, &str)| Setting { key: key.to_owned(), value: value.to_owned() };
        settings.into_iter().map(setting).collect()
    }

    fn system(&self, name: &str) -> ovf::System {
        let family = match self.profile {
            TargetProfile::Virtualbox => "virtualbox-2.2".to_owned(),
            _ => format!("vmx-{}", self.hardware_version()),
        };
        ovf::System {
            element_name: "Virtual Hardware Family".to_owned(),
            instance_id: "0".to_owned(),
            identifier: Some(clean_text(name).into_owned()),
            system_type: Some(family),
        }
    }

    /// The N of `vmx-N`: the oldest that has what is needed.
    fn hardware_version(&self) -> u32 {
        let tpm = if self.hardware.has_tpm { TPM_HARDWARE } else { 0 };
        self.os.hardware_version.max(super::os::OLDEST).max(tpm)
    }

    fn os_entry(&self) -> ovf::OperatingSystem {
        ovf::OperatingSystem {
            id: self.os.cim_id,
            version: None,
            description: Some(clean_text(&self.os.description).into_owned()),
            vmw_os_type: (self.profile == TargetProfile::Vmware).then(|| self.os.vmw_os_type.clone()),
        }
    }

    /// Adds an item; its id is its number.
    fn add(&mut self, mut item: ovf::Item) -> String {
        let id = (self.items.len() + 1).to_string();
        item.instance_id.clone_from(&id);
        self.items.push(item);
        id
    }

    fn warn(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        self.warnings.push(Warning::new(field, message, remedy));
    }
}

impl super::Disk {
    /// Whether a file can be for it.
    fn can_hold_a_file(&self) -> bool {
        self.claim.is_some() || self.capacity.is_some()
    }
}

impl Nic {
    /// The names that its network goes by, the most exact first: that in the VM, that of the definition in
    /// the cluster, and that one without its namespace.
    fn known_as(&self) -> impl Iterator<Item = &str> {
        let network = match &self.attachment {
            Attachment::Pod => None,
            Attachment::Network(network) => Some(network.as_str()),
        };
        let bare = network.and_then(|network| network.rsplit_once('/')).map(|(_, bare)| bare);
        [Some(self.name.as_str()), network, bare].into_iter().flatten()
    }

    /// Whether its network has this name, in the VM or in the cluster.
    fn is_in(&self, name: &str) -> bool {
        self.known_as().any(|known| known == name)
    }

    /// The key of `map` that decides.
    fn key_in<'a>(&'a self, map: &BTreeMap<String, String>) -> Option<&'a str> {
        self.known_as().find(|name| map.contains_key(*name))
    }

    /// For people: the name in the VM, and in brackets that in the cluster, where it is another.
    fn names(&self) -> String {
        match &self.attachment {
            Attachment::Network(network) if *network != self.name => format!("{} ({network})", self.name),
            _ => self.name.clone(),
        }
    }
}

/// Importers that know no upper case must find each file.
fn check_names(files: &[DiskFile]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match files.iter().find(|file| !seen.insert(file.file_name.to_ascii_lowercase())) {
        None => Ok(()),
        Some(file) => {
            Err(Error::usage(format!("two files of the appliance are called {:?}", file.file_name)))
        }
    }
}

/// Importers refuse images of other formats, or take them for VMDKs.
fn check_formats(profile: TargetProfile, files: &[DiskFile]) -> Result<()> {
    match files.iter().find(|file| !profile.takes(file.format)) {
        None => Ok(()),
        Some(file) => Err(Error::usage(format!(
            "the target {profile} does not take {} as {} image",
            file.file_name,
            file.format.title()
        ))
        .with_hint(
            "write streamOptimized VMDKs, which every importer takes; Proxmox VE takes others in a directory",
        )),
    }
}

/// The operating system: what the options say, or the hardware's hint.
fn guest_os(hardware: &Hardware, options: &DescriptorOptions) -> Result<GuestOs> {
    let Some(wanted) = &options.os_type else {
        return Ok(hardware.os.clone().unwrap_or_else(GuestOs::unknown));
    };
    let is_vmware_name = wanted.ends_with("Guest") || wanted.ends_with("Guest64");
    let known = GuestOs::from_hint(wanted);
    match (known, is_vmware_name && wanted.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')) {
        (Some(os), false) => Ok(os),
        (known, true) => {
            Ok(GuestOs { vmw_os_type: wanted.clone(), ..known.unwrap_or_else(GuestOs::unknown) })
        }
        (None, false) => Err(Error::usage(format!("unknown operating system {wanted:?}")).with_hint(
            "name it as KubeVirt's preferences do (rhel.9, ubuntu, windows.2k22), or as VMware does (rhel9_64Guest)",
        )),
    }
}

fn file_entries(files: &[DiskFile]) -> Vec<ovf::File> {
    let entry = |(index, file): (usize, &DiskFile)| ovf::File {
        id: file_id(index),
        href: file.file_name.clone(),
        size: Some(late(index)),
        ..ovf::File::default()
    };
    files.iter().enumerate().map(entry).collect()
}

/// Disks in the order of their files, and blank ones behind them.
fn disk_entries(disks: &[Placed<'_>], files: &[DiskFile]) -> Vec<ovf::Disk> {
    let mut entries: Vec<(usize, ovf::Disk)> = disks
        .iter()
        .filter_map(|placed| {
            let index = placed.file?;
            let file = files.get(index).filter(|file| file.format != super::DiskFormat::Iso)?;
            let disk = ovf::Disk {
                id: disk_id(index),
                capacity: file.virtual_size,
                file_ref: Some(file_id(index)),
                format: Some(file.format.uri().to_owned()),
                populated_size: Some(late(index)),
                parent_ref: None,
            };
            Some((index, disk))
        })
        .collect();
    entries.sort_by_key(|(index, _)| *index);
    entries.into_iter().map(|(_, disk)| disk).collect()
}

/// Each name once, with what it stands for.
fn network_entries(hardware: &Hardware, names: &[String]) -> Vec<ovf::Network> {
    let mut networks: Vec<ovf::Network> = Vec::new();
    for (nic, name) in hardware.nics.iter().zip(names) {
        if networks.iter().all(|known| known.name != *name) {
            let description = match &nic.attachment {
                Attachment::Pod => "The pod network".to_owned(),
                Attachment::Network(network) => format!("The network {network}"),
            };
            let description = Some(clean_text(&description).into_owned());
            networks.push(ovf::Network { name: name.clone(), description });
        }
    }
    networks
}

fn product(hardware: &Hardware, options: &DescriptorOptions) -> Vec<ovf::Product> {
    let text = |given: &Option<String>, own: &Option<String>| {
        given.as_ref().or(own.as_ref()).map(|text| clean_text(text).into_owned())
    };
    let product = ovf::Product {
        product: text(&options.product, &hardware.product),
        vendor: text(&options.vendor, &hardware.vendor),
        ..ovf::Product::default()
    };
    if product == ovf::Product::default() { Vec::new() } else { vec![product] }
}

/// An id of what importers take in ids.
fn system_id(name: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let id: String = name.chars().take(80).map(kept).collect();
    if id.is_empty() { "vm".to_owned() } else { id }
}

fn file_id(index: usize) -> String {
    format!("file{}", index + 1)
}

fn disk_id(index: usize) -> String {
    format!("vmdisk{}", index + 1)
}

fn late(index: usize) -> Number {
    Number::Late(u32::try_from(index).unwrap_or(u32::MAX))
}

/// A network that has no name in the VM.
const UNNAMED: &str = "network";

/// vTPMs came with vSphere 6.7.
const TPM_HARDWARE: u32 = 14;
