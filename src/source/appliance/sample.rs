//! Small appliances for tests.

use vmferry_formats::{
    Format,
    testkit::{disk, write_image},
};

/// Bytes of the disk in [`stream`].
pub(crate) const CAPACITY: usize = 1 << 20;

/// A streamOptimized VMDK of [`CAPACITY`] bytes; other seeds, other disks.
pub(crate) fn stream(seed: u64) -> Vec<u8> {
    write_image(&Format::Vmdk.into(), &disk(seed, CAPACITY), "x.vmdk", true).expect("an image")
}

/// A descriptor with these elements: `File`s without their angle brackets, the same of `Disk`s, and
/// whole `Item`s.
pub(crate) fn descriptor(files: &[&str], disks: &[&str], items: &str) -> String {
    let all = |name: &str, elements: &[&str]| -> String {
        elements.iter().map(|attributes| format!("<{name} {attributes}/>\n")).collect()
    };
    format!(
        "<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1' \
         xmlns:rasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData'>\n\
         <References>\n{}</References>\n<DiskSection><Info/>\n{}</DiskSection>\n\
         <NetworkSection><Info/><Network ovf:name='n'/></NetworkSection>\n\
         <VirtualSystem ovf:id='x'><Info/><VirtualHardwareSection><Info/>{items}</VirtualHardwareSection>\
         </VirtualSystem>\n</Envelope>\n",
        all("File", files),
        all("Disk", disks)
    )
}

/// An item with these children, each `NAME=TEXT`.
pub(crate) fn item(id: u32, kind: u16, children: &[&str]) -> String {
    let mut text = format!(
        "<Item><rasd:ElementName>e</rasd:ElementName><rasd:InstanceID>{id}</rasd:InstanceID>\
         <rasd:ResourceType>{kind}</rasd:ResourceType>"
    );
    for child in children {
        let (name, value) = child.split_once('=').expect("NAME=TEXT");
        text.push_str(&format!("<rasd:{name}>{value}</rasd:{name}>"));
    }
    text + "</Item>\n"
}
