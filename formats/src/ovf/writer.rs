//! Writes a descriptor: order and names as the contract has them.

use super::{
    Disk, Envelope, File, Hardware, Item, NS_CIM, NS_OVF, NS_RASD, NS_VMW, NS_VSSD, NS_XSI, Network, Number,
    OperatingSystem, Product, Setting, VirtualSystem, is_portable_name,
    text::shortened,
    xml::{Attributes, Xml},
};
use crate::error::{Error, Result};

impl Envelope {
    /// The descriptor's text, with markers in place of the numbers that come late: it is as long as
    /// the final text can be.
    ///
    /// # Errors
    /// A text holds a character that XML cannot hold, or a file has a name that not every importer
    /// takes.
    pub fn to_template(&self) -> Result<String> {
        let mut xml = Xml::new()?;
        let mut attributes = Attributes::new().with("xmlns", NS_OVF)?;
        for (name, namespace) in [
            ("xmlns:cim", NS_CIM),
            ("xmlns:ovf", NS_OVF),
            ("xmlns:rasd", NS_RASD),
            ("xmlns:vmw", NS_VMW),
            ("xmlns:vssd", NS_VSSD),
            ("xmlns:xsi", NS_XSI),
        ] {
            attributes = attributes.with(name, namespace)?;
        }
        xml.start("Envelope", &attributes)?;
        self.references(&mut xml)?;
        self.disks(&mut xml)?;
        self.networks(&mut xml)?;
        self.system.write(&mut xml)?;
        xml.end("Envelope")?;
        xml.finish()
    }

    fn references(&self, xml: &mut Xml) -> Result<()> {
        let none = Attributes::new();
        if self.files.is_empty() {
            return xml.empty("References", &none);
        }
        xml.start("References", &none)?;
        for file in &self.files {
            file.write(xml)?;
        }
        xml.end("References")
    }

    fn disks(&self, xml: &mut Xml) -> Result<()> {
        if self.disks.is_empty() {
            return Ok(());
        }
        xml.start("DiskSection", &Attributes::new())?;
        xml.leaf("Info", "Virtual disks")?;
        for disk in &self.disks {
            disk.write(xml)?;
        }
        xml.end("DiskSection")
    }

    fn networks(&self, xml: &mut Xml) -> Result<()> {
        if self.networks.is_empty() {
            return Ok(());
        }
        xml.start("NetworkSection", &Attributes::new())?;
        xml.leaf("Info", "Networks")?;
        for network in &self.networks {
            network.write(xml)?;
        }
        xml.end("NetworkSection")
    }
}

impl Number {
    /// The number, or the marker for it.
    fn to_text(self, what: &str) -> Result<String> {
        match self {
            Self::Known(number) => Ok(number.to_string()),
            Self::Late(index) if index < LATE_NUMBERS => {
                let marker = format!("<vmferry-{what}-{index:05}>");
                debug_assert_eq!(marker.len(), MARKER_LEN);
                Ok(marker)
            }
            Self::Late(_) => Err(Error::limit(format!("more than {LATE_NUMBERS} numbers come late"))),
        }
    }
}

impl File {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        if !is_portable_name(&self.href) {
            return Err(Error::invalid_input(format!(
                "a file of an appliance is called {:?}, but not all importers take that: only A-Z, a-z, 0-9, '.', \
                 '_' and '-', at most 99 of them, the first no '.' or '-'",
                shortened(&self.href)
            )));
        }
        let mut attributes = Attributes::new()
            .maybe("ovf:compression", self.compression.as_deref())?
            .with("ovf:href", &self.href)?
            .with("ovf:id", &self.id)?;
        if let Some(size) = self.size {
            attributes = attributes.raw("ovf:size", size.to_text("size")?);
        }
        if let Some(size) = self.chunk_size {
            attributes = attributes.with("ovf:chunkSize", &size.to_string())?;
        }
        xml.empty("File", &attributes)
    }
}

impl Disk {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        let (capacity, units) = in_units(self.capacity);
        let mut attributes = Attributes::new()
            .with("ovf:capacity", &capacity.to_string())?
            .with("ovf:capacityAllocationUnits", units)?
            .with("ovf:diskId", &self.id)?
            .maybe("ovf:fileRef", self.file_ref.as_deref())?
            .maybe("ovf:format", self.format.as_deref())?
            .maybe("ovf:parentRef", self.parent_ref.as_deref())?;
        if let Some(size) = self.populated_size {
            attributes = attributes.raw("ovf:populatedSize", size.to_text("used")?);
        }
        xml.empty("Disk", &attributes)
    }
}

impl Network {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        let attributes = Attributes::new().with("ovf:name", &self.name)?;
        let Some(description) = self.description.as_deref().filter(|text| !text.is_empty()) else {
            return xml.empty("Network", &attributes);
        };
        xml.start("Network", &attributes)?;
        xml.leaf("Description", description)?;
        xml.end("Network")
    }
}

impl VirtualSystem {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        xml.start("VirtualSystem", &Attributes::new().with("ovf:id", &self.id)?)?;
        xml.leaf("Info", "A virtual machine")?;
        xml.maybe_leaf("Name", self.name.as_deref())?;
        if let Some(os) = &self.os {
            os.write(xml)?;
        }
        self.hardware.write(xml)?;
        for product in &self.products {
            product.write(xml)?;
        }
        if let Some(annotation) = self.annotation.as_deref().filter(|text| !text.is_empty()) {
            xml.start("AnnotationSection", &Attributes::new())?;
            xml.leaf("Info", "Annotation of the virtual machine")?;
            xml.leaf("Annotation", annotation)?;
            xml.end("AnnotationSection")?;
        }
        xml.end("VirtualSystem")
    }
}

impl OperatingSystem {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        let attributes = Attributes::new()
            .with("ovf:id", &self.id.to_string())?
            .maybe("ovf:version", self.version.as_deref())?
            .maybe("vmw:osType", self.vmw_os_type.as_deref())?;
        xml.start("OperatingSystemSection", &attributes)?;
        xml.leaf("Info", "The guest operating system")?;
        xml.maybe_leaf("Description", self.description.as_deref())?;
        xml.end("OperatingSystemSection")
    }
}

impl Hardware {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        let attributes = Attributes::new().maybe("ovf:transport", self.transport.as_deref())?;
        xml.start("VirtualHardwareSection", &attributes)?;
        xml.leaf("Info", "Virtual hardware")?;
        if let Some(system) = &self.system {
            xml.start("System", &Attributes::new())?;
            xml.leaf("vssd:ElementName", &system.element_name)?;
            xml.leaf("vssd:InstanceID", &system.instance_id)?;
            xml.maybe_leaf("vssd:VirtualSystemIdentifier", system.identifier.as_deref())?;
            xml.maybe_leaf("vssd:VirtualSystemType", system.system_type.as_deref())?;
            xml.end("System")?;
        }
        for item in &self.items {
            item.write(xml)?;
        }
        settings(xml, "vmw:Config", &self.config)?;
        settings(xml, "vmw:ExtraConfig", &self.extra_config)?;
        xml.end("VirtualHardwareSection")
    }
}

impl Item {
    /// Children of `rasd:` in alphabetical order: the schema has them so.
    fn write(&self, xml: &mut Xml) -> Result<()> {
        let mut attributes = Attributes::new()
            .maybe("ovf:bound", self.bound.as_deref())?
            .maybe("ovf:configuration", self.configuration.as_deref())?;
        if self.is_optional {
            attributes = attributes.with("ovf:required", "false")?;
        }
        xml.start("Item", &attributes)?;
        xml.maybe_leaf("rasd:Address", self.address.as_deref())?;
        xml.maybe_leaf("rasd:AddressOnParent", self.address_on_parent.as_deref())?;
        xml.maybe_leaf("rasd:AllocationUnits", self.allocation_units.as_deref())?;
        let automatic = self.automatic_allocation.map(|is| is.to_string());
        xml.maybe_leaf("rasd:AutomaticAllocation", automatic.as_deref())?;
        for connection in &self.connections {
            xml.leaf("rasd:Connection", connection)?;
        }
        xml.maybe_leaf("rasd:Description", self.description.as_deref())?;
        xml.leaf("rasd:ElementName", &self.element_name)?;
        for resource in &self.host_resources {
            xml.leaf("rasd:HostResource", resource)?;
        }
        xml.leaf("rasd:InstanceID", &self.instance_id)?;
        number(xml, "rasd:Limit", self.limit)?;
        xml.maybe_leaf("rasd:Parent", self.parent.as_deref())?;
        number(xml, "rasd:Reservation", self.reservation)?;
        xml.maybe_leaf("rasd:ResourceSubType", self.resource_sub_type.as_deref())?;
        xml.leaf("rasd:ResourceType", &self.resource_type.to_string())?;
        number(xml, "rasd:VirtualQuantity", self.virtual_quantity)?;
        if let Some(cores) = self.cores_per_socket {
            let attributes = Attributes::new().with("ovf:required", "false")?;
            xml.leaf_with("vmw:CoresPerSocket", &attributes, &cores.to_string())?;
        }
        settings(xml, "vmw:Config", &self.config)?;
        xml.end("Item")
    }
}

impl Product {
    fn write(&self, xml: &mut Xml) -> Result<()> {
        xml.start("ProductSection", &Attributes::new())?;
        xml.leaf("Info", "What is in the virtual machine")?;
        xml.maybe_leaf("Product", self.product.as_deref())?;
        xml.maybe_leaf("Vendor", self.vendor.as_deref())?;
        xml.maybe_leaf("Version", self.version.as_deref())?;
        xml.maybe_leaf("FullVersion", self.full_version.as_deref())?;
        xml.maybe_leaf("ProductUrl", self.product_url.as_deref())?;
        xml.maybe_leaf("VendorUrl", self.vendor_url.as_deref())?;
        xml.end("ProductSection")
    }
}

fn settings(xml: &mut Xml, element: &str, settings: &[Setting]) -> Result<()> {
    for Setting { key, value } in settings {
        let attributes = Attributes::new()
            .with("ovf:required", "false")?
            .with("vmw:key", key)?
            .with("vmw:value", value)?;
        xml.empty(element, &attributes)?;
    }
    Ok(())
}

fn number(xml: &mut Xml, name: &str, number: Option<u64>) -> Result<()> {
    number.map_or(Ok(()), |number| xml.leaf(name, &number.to_string()))
}

/// Bytes in the largest unit that is exact. Proxmox reads no other spelling of units than these.
fn in_units(bytes: u64) -> (u64, &'static str) {
    const UNITS: [(u32, &str); 3] = [(30, "byte * 2^30"), (20, "byte * 2^20"), (10, "byte * 2^10")];
    UNITS
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or((bytes, "byte"), |(shift, unit)| (bytes >> shift, unit))
}

/// Length of a marker for a late number in bytes: that of the largest `u64` in decimal.
pub const MARKER_LEN: usize = 20;

/// Numbers of each kind for which there are markers: five digits.
const LATE_NUMBERS: u32 = 100_000;
