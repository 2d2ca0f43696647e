//! Whether a descriptor agrees with itself, and with what importers make of it; formats contract 4.5 to
//! 4.8.

use std::collections::{HashMap, HashSet};

use vmferry_formats::{
    Detected, Format,
    ovf::{Disk, Envelope, Item, format_uri, resource},
};

/// What is wrong with a descriptor.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// In which it contradicts itself.
    pub(super) failed: Vec<String>,
    /// What some importers will not take.
    pub(super) warned: Vec<String>,
}

impl Problems {
    /// Those of `envelope`.
    pub(super) fn of(envelope: &Envelope) -> Self {
        let mut this = Self::default();
        this.files(envelope);
        this.disks(envelope);
        this.references(envelope);
        this.places(&envelope.system.hardware.items);
        this.attachments(envelope);
        this.firmware(envelope);
        this
    }

    fn fail(&mut self, text: String) {
        self.failed.push(text);
    }

    fn warn(&mut self, text: String) {
        self.warned.push(text);
    }

    fn files(&mut self, envelope: &Envelope) {
        let mut seen = HashMap::new();
        for file in &envelope.files {
            if let Err(error) = file.safe_name() {
                self.fail(format!("the file {:?}: {error}", file.id));
            }
            if let Some(other) = seen.insert(file.href.as_str(), &file.id) {
                self.fail(format!("the files {other:?} and {:?} are both {:?}", file.id, file.href));
            }
        }
    }

    fn disks(&mut self, envelope: &Envelope) {
        let file_ids: HashSet<&str> = envelope.files.iter().map(|file| file.id.as_str()).collect();
        let mut seen = HashMap::new();
        for Disk { id, file_ref, format, .. } in &envelope.disks {
            if let Some(reference) = file_ref {
                if !file_ids.contains(reference.as_str()) {
                    self.fail(format!("the disk {id:?} is in the file {reference:?}, which there is not"));
                }
                if let Some(other) = seen.insert(reference.as_str(), id) {
                    self.fail(format!("the disks {other:?} and {id:?} are both in the file {reference:?}"));
                }
            }
            if format.is_none() {
                self.warn(format!("the disk {id:?} has no ovf:format, which VirtualBox demands"));
            }
        }
    }

    /// What items refer to.
    fn references(&mut self, envelope: &Envelope) {
        let file_ids: HashSet<&str> = envelope.files.iter().map(|file| file.id.as_str()).collect();
        let disk_ids: HashSet<&str> = envelope.disks.iter().map(|disk| disk.id.as_str()).collect();
        let networks: HashSet<&str> = envelope.networks.iter().map(|network| network.name.as_str()).collect();
        let items = &envelope.system.hardware.items;
        let instances: HashSet<&str> = items.iter().map(|item| item.instance_id.as_str()).collect();
        let mut seen = HashSet::new();
        for item in items {
            let called = called(item);
            // Bounds and deployment options repeat the id of the item that they vary.
            if !seen.insert((&item.instance_id, &item.bound, &item.configuration)) {
                self.fail(format!("{called}: another item has the same InstanceID"));
            }
            for resource in &item.host_resources {
                let resolves = match resolved(resource) {
                    Some(("disk", id)) => disk_ids.contains(id),
                    Some(("file", id)) => file_ids.contains(id),
                    _ => false,
                };
                if !resolves {
                    self.fail(format!(
                        "{called}: its HostResource {resource:?} is neither a disk nor a file"
                    ));
                }
            }
            for connection in &item.connections {
                if !networks.contains(connection.as_str()) {
                    self.fail(format!("{called}: its network {connection:?} is not in the NetworkSection"));
                }
            }
            if item.resource_type == resource::ETHERNET && item.connections.is_empty() && item.bound.is_none()
            {
                self.warn(format!("{called}: it has no Connection, which Harvester demands"));
            }
            if let Some(parent) = item.parent.as_ref().filter(|parent| !instances.contains(parent.as_str())) {
                self.fail(format!("{called}: its controller {parent:?} is no item"));
            }
        }
    }

    /// Where devices are on their controllers.
    fn places(&mut self, items: &[Item]) {
        let mut seen = HashMap::new();
        for item in items.iter().filter(|item| item.bound.is_none()) {
            let (Some(parent), Some(address)) = (&item.parent, &item.address_on_parent) else { continue };
            if let Some(other) = seen.insert((parent, address, &item.configuration), item) {
                self.fail(format!(
                    "{}: it has the place {address} of the controller {parent:?}, and so has {}",
                    called(item),
                    called(other)
                ));
            }
        }
    }

    /// Which disks are in the machine.
    fn attachments(&mut self, envelope: &Envelope) {
        let mut attached: HashMap<&str, &Item> = HashMap::new();
        let mut seen = HashMap::new();
        for item in envelope.system.hardware.items.iter().filter(|item| item.bound.is_none()) {
            for resource in &item.host_resources {
                let Some(("disk", id)) = resolved(resource) else { continue };
                attached.insert(id, item);
                if let Some(other) = seen.insert((id, &item.configuration), item) {
                    self.fail(format!("{} and {} are both the disk {id:?}", called(other), called(item)));
                }
            }
        }
        for disk in &envelope.disks {
            if !attached.contains_key(disk.id.as_str()) {
                self.warn(format!("the disk {:?} is in no item: the machine does not have it", disk.id));
            }
        }
    }

    fn firmware(&mut self, envelope: &Envelope) {
        let settings = envelope.system.hardware.config.iter().filter(|setting| setting.key == "firmware");
        for setting in settings {
            if !matches!(setting.value.as_str(), "bios" | "efi") {
                self.fail(format!("the firmware is {:?}, and importers know bios and efi", setting.value));
            }
        }
    }
}

/// In what a disk's image is not of the format that the descriptor states.
pub(super) fn other_format(uri: Option<&str>, detected: Detected) -> Option<String> {
    let uri = uri?;
    let stated = if is_vmdk(uri) {
        "VMDK"
    } else if uri == format_uri::VHD {
        "VHD"
    } else if uri == format_uri::QCOW2 {
        "QCOW2"
    } else if uri == format_uri::RAW {
        "RAW"
    } else {
        return None;
    };
    let found = match detected {
        Detected::Image(Format::Vmdk) => "VMDK",
        Detected::Image(Format::Qcow2) => "QCOW2",
        Detected::Image(Format::Raw) => "RAW",
        Detected::Known(name) => name,
        // It may be RAW, or damaged; reading it tells.
        _ => return None,
    };
    // As in 'fixed VHD'.
    (!found.ends_with(stated))
        .then(|| format!("the file is {found}, and the descriptor says that it is {stated} ({uri})"))
}

/// In what a VMDK is not of the layout that the descriptor states. Only streams have a URI that all agree
/// on.
pub(super) fn other_layout(uri: Option<&str>, variant: &str) -> Option<String> {
    let is_stream = variant.eq_ignore_ascii_case("streamOptimized");
    (uri == Some(format_uri::VMDK_STREAM) && !is_stream).then(|| {
        format!("the file is a VMDK ({variant}), and the descriptor says that it is streamOptimized")
    })
}

fn is_vmdk(uri: &str) -> bool {
    uri.contains("vmware.com/") && uri.contains("/vmdk.html")
}

fn called(item: &Item) -> String {
    format!("item {:?} ({:?})", item.instance_id, item.element_name)
}

/// What `ovf:/disk/ID` or `ovf:/file/ID` means. Some programs leave the scheme away.
fn resolved(resource: &str) -> Option<(&str, &str)> {
    let path = resource.strip_prefix("ovf:").unwrap_or(resource);
    path.trim_start_matches('/').split_once('/')
}
