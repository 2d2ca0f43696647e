//! OVF (Open Virtualization Format, DSP0243) 1.x: the text that describes an appliance, written and
//! read.
//!
//! # Layout written
//!
//! Formats contract 4.5 to 4.7; valid against `dsp8023_1.1.1.xsd`. `rasd:` children are in
//! alphabetical order, as the schema demands, and `vmw:` ones follow them.
//!
//! ```text
//! Envelope
//! ├── References                     File*      href, id, size
//! ├── DiskSection                    Disk*      capacity, diskId, fileRef, format, populatedSize
//! ├── NetworkSection                 Network*   name
//! └── VirtualSystem
//!     ├── Info, Name
//!     ├── OperatingSystemSection     id, vmw:osType, Description
//!     ├── VirtualHardwareSection     System, Item*, vmw:Config*, vmw:ExtraConfig*
//!     ├── ProductSection*
//!     └── AnnotationSection
//! ```
//!
//! An appliance is written in one pass, and its descriptor stands in front of its disks. So numbers
//! that come late are [`Number::Late`]: [`Envelope::to_template`] puts a marker in their place, of
//! as many bytes as the largest number can have, which no escaped XML can contain.
//!
//! # Supported and refused
//!
//! | feature | written | read |
//! |---|---|---|
//! | envelope 1.x, any prefixes | yes | yes |
//! | envelope 0.9 and 2.x | no | unsupported, naming the version |
//! | one `VirtualSystem` | yes | also alone in a `VirtualSystemCollection` |
//! | sections and elements not in the picture above | no | named in [`Envelope::unknown`] |
//! | `Strings`, `msgid` | no | the text in place counts |
//! | `Property`, `EulaSection`, deployment options | no | named in [`Envelope::unknown`] |
//! | capacities with `${property}` | no | unsupported |
//! | DOCTYPE, entities | no | refused |
//!
//! What is read is hostile until it is checked: the text, its depth, its elements, their values and
//! each list are bounded, nothing is expanded, and no recursion follows the input. Names of files
//! are reported as they are; a file's `safe_name` says whether one is bare.

mod document;
mod model;
mod name;
mod parser;
#[cfg(any(test, feature = "testkit"))]
mod sample;
#[cfg(test)]
mod tests;
mod text;
mod writer;
mod xml;

pub use self::{
    model::{
        Disk, Envelope, File, Hardware, Item, Network, Number, OperatingSystem, Product, Setting, System,
        VirtualSystem, resource,
    },
    name::{is_portable_name, safe_name},
    parser::{MAX_DESCRIPTOR_LEN, MAX_LIST, bytes_per_unit, parse},
    text::clean_text,
    writer::MARKER_LEN,
};

#[cfg(any(test, feature = "testkit"))]
pub use self::sample::sample;

/// `ovf:format` of the disks that are in use, and of CD images (contract 4.5).
pub mod format_uri {
    /// VMDK, streamOptimized.
    pub const VMDK_STREAM: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
    /// VMDK, sparse.
    pub const VMDK_SPARSE: &str = "http://www.vmware.com/specifications/vmdk.html#sparse";
    /// VHD.
    pub const VHD: &str = "http://go.microsoft.com/fwlink/?LinkId=137171";
    /// ISO 9660.
    pub const ISO: &str = "http://www.ecma-international.org/publications/standards/Ecma-119.htm";
    /// RAW, as oVirt has it; there is no standard one.
    pub const RAW: &str = "http://en.wikipedia.org/wiki/Byte";
    /// QCOW2; there is no standard one.
    pub const QCOW2: &str = "http://www.gnome.org/~markmc/qcow-image-format.html";
}

/// Namespace of OVF 1.x, the only one that importers agree on.
const NS_OVF: &str = "http://schemas.dmtf.org/ovf/envelope/1";
/// Namespace of OVF 2.x.
const NS_OVF_2: &str = "http://schemas.dmtf.org/ovf/envelope/2";
/// Namespace of OVF 0.9.
const NS_OVF_0_9: &str = "http://www.vmware.com/schema/ovf/1/envelope";
/// Resource allocation settings: what items are made of.
const NS_RASD: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
/// Virtual system settings.
const NS_VSSD: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData";
/// VMware's extensions, which most importers know.
const NS_VMW: &str = "http://www.vmware.com/schema/ovf";
/// `xsi:nil`.
const NS_XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// CIM types.
const NS_CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
