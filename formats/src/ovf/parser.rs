//! Reads a descriptor of any making.

use super::{
    Disk, Envelope, File, Hardware, Item, Network, Number, OperatingSystem, Product, Setting, System,
    VirtualSystem,
    document::{Document, Element, Space},
    text::shortened,
};
use crate::error::{Error, Result};

pub use super::document::MAX_DESCRIPTOR_LEN;

/// Reads a descriptor. White space behind the last element is part of it; anything else is not.
///
/// # Errors
/// - `Refused`: it has a DOCTYPE or uses an entity.
/// - `Unsupported`: it is of OVF 0.9 or 2.x, not UTF-8, describes several virtual systems, or states a
///   capacity in a way that is not known.
/// - `Limit`: it is longer than [`MAX_DESCRIPTOR_LEN`], nested too deep, or has too much of something.
/// - `Corrupt`, `Truncated`: it is not well-formed, or what must be there is not.
pub fn parse(bytes: &[u8]) -> Result<Envelope> {
    let document = Document::parse(bytes)?;
    let root = document.root();
    match (root.space, root.name.as_str()) {
        (Space::Ovf, "Envelope") => {}
        (Space::Ovf0 | Space::Ovf2, "Envelope") => {
            let version = if root.space == Space::Ovf0 { "0.9" } else { "2" };
            return Err(Error::unsupported(format!(
                "the descriptor is of OVF {version}, and only OVF 1.x is read: convert it with VMware's ovftool"
            )));
        }
        _ => {
            return Err(Error::corrupt(format!(
                "the root element is {:?}, not an Envelope of OVF 1.x",
                shortened(&root.name)
            )));
        }
    }
    let mut parser = Parser { document: &document, unknown: Vec::new() };
    let mut envelope = parser.envelope(root)?;
    envelope.unknown = parser.unknown;
    Ok(envelope)
}

struct Parser<'a> {
    document: &'a Document,
    unknown: Vec<String>,
}

impl<'a> Parser<'a> {
    fn envelope(&mut self, root: &'a Element) -> Result<Envelope> {
        let mut envelope = Envelope::default();
        let mut system = None;
        for child in self.document.children(root) {
            match (child.space, child.name.as_str()) {
                (Space::Ovf, "References") => self.references(child, &mut envelope.files)?,
                (Space::Ovf, "DiskSection") => self.disks(child, &mut envelope.disks)?,
                (Space::Ovf, "NetworkSection") => self.networks(child, &mut envelope.networks)?,
                (Space::Ovf, "VirtualSystem") => self.only_system(child, &mut system)?,
                (Space::Ovf, "VirtualSystemCollection") => self.collection(child, &mut system)?,
                _ => self.note(root, child),
            }
        }
        envelope.system = system.ok_or_else(|| Error::corrupt("the descriptor has no VirtualSystem"))?;
        Ok(envelope)
    }

    fn references(&mut self, section: &'a Element, files: &mut Vec<File>) -> Result<()> {
        for child in self.document.children(section) {
            if !child.is(Space::Ovf, "File") {
                self.note(section, child);
                continue;
            }
            room(files.len(), child)?;
            let file = File {
                id: required(child, "id")?,
                href: required(child, "href")?,
                size: number(child, "size")?.map(Number::Known),
                chunk_size: number(child, "chunkSize")?,
                compression: child.value(Space::Ovf, "compression"),
            };
            files.push(file);
        }
        unique(files.iter().map(|file| file.id.as_str()), section)
    }

    fn disks(&mut self, section: &'a Element, disks: &mut Vec<Disk>) -> Result<()> {
        for child in self.document.children(section) {
            if !child.is(Space::Ovf, "Disk") {
                self.note_section(section, child);
                continue;
            }
            room(disks.len(), child)?;
            let disk = Disk {
                id: required(child, "diskId")?,
                capacity: capacity(child)?,
                file_ref: child.value(Space::Ovf, "fileRef"),
                format: child.value(Space::Ovf, "format"),
                populated_size: number(child, "populatedSize")?.map(Number::Known),
                parent_ref: child.value(Space::Ovf, "parentRef"),
            };
            disks.push(disk);
        }
        unique(disks.iter().map(|disk| disk.id.as_str()), section)
    }

    fn networks(&mut self, section: &'a Element, networks: &mut Vec<Network>) -> Result<()> {
        for child in self.document.children(section) {
            if !child.is(Space::Ovf, "Network") {
                self.note_section(section, child);
                continue;
            }
            room(networks.len(), child)?;
            let description = self.document.children(child).find(|child| child.is(Space::Ovf, "Description"));
            networks.push(Network {
                name: required(child, "name")?,
                description: description.and_then(Element::content),
            });
        }
        Ok(())
    }

    fn only_system(&mut self, element: &'a Element, system: &mut Option<VirtualSystem>) -> Result<()> {
        if system.is_some() {
            return Err(Error::unsupported(
                "the descriptor has several virtual systems: split it into appliances of one each",
            )
            .at(element.offset));
        }
        *system = Some(self.system(element)?);
        Ok(())
    }

    /// One level only: collections in collections are not followed.
    fn collection(&mut self, element: &'a Element, system: &mut Option<VirtualSystem>) -> Result<()> {
        for child in self.document.children(element) {
            match (child.space, child.name.as_str()) {
                (Space::Ovf, "VirtualSystem") => self.only_system(child, system)?,
                _ => self.note_section(element, child),
            }
        }
        Ok(())
    }

    fn system(&mut self, element: &'a Element) -> Result<VirtualSystem> {
        let mut system = VirtualSystem { id: required(element, "id")?, ..VirtualSystem::default() };
        for child in self.document.children(element) {
            match (child.space, child.name.as_str()) {
                (Space::Ovf, "Name") => system.name = child.content(),
                (Space::Ovf, "OperatingSystemSection") => system.os = Some(self.os(child)?),
                (Space::Ovf, "VirtualHardwareSection") => self.hardware(child, &mut system.hardware)?,
                (Space::Ovf, "ProductSection") => {
                    room(system.products.len(), child)?;
                    let product = self.product(child);
                    system.products.push(product);
                }
                (Space::Ovf, "AnnotationSection") => {
                    for inner in self.document.children(child) {
                        if inner.is(Space::Ovf, "Annotation") {
                            system.annotation = inner.content();
                        } else {
                            self.note_section(child, inner);
                        }
                    }
                }
                _ => self.note_section(element, child),
            }
        }
        Ok(system)
    }

    fn os(&mut self, section: &'a Element) -> Result<OperatingSystem> {
        let id = section.attribute(Space::Ovf, "id");
        let id = id.and_then(|id| id.trim().parse().ok()).ok_or_else(|| missing(section, "id"))?;
        let mut os = OperatingSystem {
            id,
            version: section.value(Space::Ovf, "version"),
            vmw_os_type: section.value(Space::Vmw, "osType"),
            description: None,
        };
        for child in self.document.children(section) {
            if child.is(Space::Ovf, "Description") {
                os.description = child.content();
            } else {
                self.note_section(section, child);
            }
        }
        Ok(os)
    }

    /// A second section describes an alternative: the first one counts.
    fn hardware(&mut self, section: &'a Element, hardware: &mut Hardware) -> Result<()> {
        if hardware.system.is_some() || !hardware.items.is_empty() {
            self.remember("VirtualSystem/VirtualHardwareSection (a second one)".to_owned());
            return Ok(());
        }
        hardware.transport = section.value(Space::Ovf, "transport");
        for child in self.document.children(section) {
            match (child.space, child.name.as_str()) {
                (Space::Ovf, "System") => hardware.system = Some(self.hardware_system(child)),
                (Space::Ovf, "Item") => {
                    room(hardware.items.len(), child)?;
                    let item = self.item(child)?;
                    hardware.items.push(item);
                }
                (Space::Vmw, "Config") => setting(child, &mut hardware.config)?,
                (Space::Vmw, "ExtraConfig") => setting(child, &mut hardware.extra_config)?,
                _ => self.note_section(section, child),
            }
        }
        Ok(())
    }

    fn hardware_system(&mut self, element: &'a Element) -> System {
        let mut system = System::default();
        for child in self.document.children(element) {
            let content = child.content();
            match (child.space, child.name.as_str()) {
                (Space::Vssd, "ElementName") => system.element_name = content.unwrap_or_default(),
                (Space::Vssd, "InstanceID") => system.instance_id = content.unwrap_or_default(),
                (Space::Vssd, "VirtualSystemIdentifier") => system.identifier = content,
                (Space::Vssd, "VirtualSystemType") => system.system_type = content,
                _ => self.note(element, child),
            }
        }
        system
    }

    fn item(&mut self, element: &'a Element) -> Result<Item> {
        let mut item = Item {
            is_optional: element.attribute(Space::Ovf, "required").and_then(boolean) == Some(false),
            bound: element.value(Space::Ovf, "bound"),
            configuration: element.value(Space::Ovf, "configuration"),
            ..Item::default()
        };
        let mut resource_type = None;
        for child in self.document.children(element) {
            let content = child.content();
            match (child.space, child.name.as_str()) {
                (Space::Rasd, "Address") => item.address = content,
                (Space::Rasd, "AddressOnParent") => item.address_on_parent = content,
                (Space::Rasd, "AllocationUnits") => item.allocation_units = content,
                (Space::Rasd, "AutomaticAllocation") => {
                    item.automatic_allocation = content.as_deref().and_then(boolean);
                }
                (Space::Rasd, "Connection") => push(child, content, &mut item.connections)?,
                (Space::Rasd, "Description") => item.description = content,
                (Space::Rasd, "ElementName") => item.element_name = content.unwrap_or_default(),
                (Space::Rasd, "HostResource") => push(child, content, &mut item.host_resources)?,
                (Space::Rasd, "InstanceID") => item.instance_id = content.unwrap_or_default(),
                (Space::Rasd, "Limit") => item.limit = whole(child, content.as_deref())?,
                (Space::Rasd, "Parent") => item.parent = content,
                (Space::Rasd, "Reservation") => item.reservation = whole(child, content.as_deref())?,
                (Space::Rasd, "ResourceSubType") => item.resource_sub_type = content,
                (Space::Rasd, "ResourceType") => resource_type = whole(child, content.as_deref())?,
                (Space::Rasd, "VirtualQuantity") => item.virtual_quantity = whole(child, content.as_deref())?,
                (Space::Vmw, "CoresPerSocket") => item.cores_per_socket = whole(child, content.as_deref())?,
                (Space::Vmw, "Config") => setting(child, &mut item.config)?,
                _ => self.note(element, child),
            }
        }
        let wrong = || missing(element, "ResourceType");
        item.resource_type = resource_type.ok_or_else(wrong)?;
        Ok(item)
    }

    fn product(&mut self, section: &'a Element) -> Product {
        let mut product = Product::default();
        for child in self.document.children(section) {
            let content = child.content();
            match (child.space, child.name.as_str()) {
                (Space::Ovf, "Product") => product.product = content,
                (Space::Ovf, "Vendor") => product.vendor = content,
                (Space::Ovf, "Version") => product.version = content,
                (Space::Ovf, "FullVersion") => product.full_version = content,
                (Space::Ovf, "ProductUrl") => product.product_url = content,
                (Space::Ovf, "VendorUrl") => product.vendor_url = content,
                _ => self.note_section(section, child),
            }
        }
        product
    }

    /// Remembers a child of a section that is not understood; every section has its Info.
    fn note_section(&mut self, section: &Element, child: &Element) {
        if !child.is(Space::Ovf, "Info") {
            self.note(section, child);
        }
    }

    fn note(&mut self, parent: &Element, child: &Element) {
        self.remember(shortened(&format!("{}/{}", parent.name, child.name)));
    }

    fn remember(&mut self, what: String) {
        if self.unknown.len() < MAX_UNKNOWN && !self.unknown.contains(&what) {
            self.unknown.push(what);
        }
    }
}

impl Envelope {
    /// The file of this id.
    pub fn file(&self, id: &str) -> Option<&File> {
        self.files.iter().find(|file| file.id == id)
    }

    /// The disk of this id.
    pub fn disk(&self, id: &str) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.id == id)
    }
}

impl Item {
    /// The id of the disk that backs it: `ovf:/disk/ID`, or without the scheme.
    pub fn disk_id(&self) -> Option<&str> {
        self.resource("/disk/")
    }

    /// The id of the file that backs it: `ovf:/file/ID`, or without the scheme.
    pub fn file_id(&self) -> Option<&str> {
        self.resource("/file/")
    }

    fn resource(&self, kind: &str) -> Option<&str> {
        self.host_resources.iter().find_map(|resource| {
            let resource = resource.trim();
            resource.strip_prefix("ovf:").unwrap_or(resource).strip_prefix(kind)
        })
    }
}

/// What one unit is in bytes: `byte * 2^20` as the specification has it, and the names that older
/// programs write. `None` if it is not a unit of bytes.
pub fn bytes_per_unit(units: &str) -> Option<u64> {
    let units: String = units.chars().filter(|c| !c.is_whitespace()).take(MAX_UNITS_LEN).collect();
    let units = units.to_ascii_lowercase();
    match units.as_str() {
        "" | "byte" | "bytes" => return Some(1),
        "kb" | "kilobytes" | "kilobyte" => return Some(1 << 10),
        "mb" | "megabytes" | "megabyte" => return Some(1 << 20),
        "gb" | "gigabytes" | "gigabyte" => return Some(1 << 30),
        _ => {}
    }
    let (base, exponent) =
        units.strip_prefix("byte*").or_else(|| units.strip_prefix("bytes*"))?.split_once('^')?;
    let base: u64 = matches!(base, "2" | "10").then(|| base.parse().ok()).flatten()?;
    base.checked_pow(exponent.parse().ok()?)
}

fn capacity(element: &Element) -> Result<u64> {
    let text = element.attribute(Space::Ovf, "capacity").ok_or_else(|| missing(element, "capacity"))?;
    let units = element.attribute(Space::Ovf, "capacityAllocationUnits").unwrap_or_default();
    let wrong = || {
        Error::unsupported(format!(
            "a disk's capacity is {:?} in units of {:?}, which is not a number of bytes",
            shortened(text),
            shortened(units)
        ))
        .at(element.offset)
    };
    let count: u64 = text.trim().parse().map_err(|_| wrong())?;
    bytes_per_unit(units).and_then(|unit| count.checked_mul(unit)).ok_or_else(wrong)
}

fn required(element: &Element, name: &str) -> Result<String> {
    element.value(Space::Ovf, name).ok_or_else(|| missing(element, name))
}

fn missing(element: &Element, name: &str) -> Error {
    Error::corrupt(format!("an element {:?} has no {name}, or a wrong one", shortened(&element.name)))
        .at(element.offset)
}

fn number(element: &Element, name: &str) -> Result<Option<u64>> {
    let text = element.attribute(Space::Ovf, name).map(str::trim).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| missing(element, name))).transpose()
}

/// A whole number in the text of an element.
fn whole<T: std::str::FromStr>(element: &Element, content: Option<&str>) -> Result<Option<T>> {
    let Some(text) = content else { return Ok(None) };
    let wrong = |_| {
        Error::corrupt(format!(
            "{} is {:?}, not a number that fits",
            shortened(&element.name),
            shortened(text)
        ))
        .at(element.offset)
    };
    text.trim().parse().map(Some).map_err(wrong)
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn setting(element: &Element, settings: &mut Vec<Setting>) -> Result<()> {
    room(settings.len(), element)?;
    let value = |name: &str| element.attribute(Space::Vmw, name).unwrap_or_default().to_owned();
    settings.push(Setting { key: value("key"), value: value("value") });
    Ok(())
}

fn push(element: &Element, content: Option<String>, list: &mut Vec<String>) -> Result<()> {
    room(list.len(), element)?;
    list.extend(content);
    Ok(())
}

fn room(len: usize, element: &Element) -> Result<()> {
    if len < MAX_LIST {
        return Ok(());
    }
    Err(Error::limit(format!("there are more than {MAX_LIST} elements {:?}", shortened(&element.name)))
        .at(element.offset))
}

fn unique<'b>(ids: impl Iterator<Item = &'b str>, section: &Element) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            return Err(
                Error::corrupt(format!("two elements have the id {:?}", shortened(id))).at(section.offset)
            );
        }
    }
    Ok(())
}

/// Files, disks, networks, items of one descriptor, each.
pub const MAX_LIST: usize = 4096;

/// Names of what is not understood.
const MAX_UNKNOWN: usize = 64;

/// Longest name of a unit.
const MAX_UNITS_LEN: usize = 32;
