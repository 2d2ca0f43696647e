//! The first line of a journal.

use serde::{Deserialize, Serialize};

use crate::{sink::object::Schedule, source::SourceIdentity};

/// Everything in an output that is not disk content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "HeaderLine", into = "HeaderLine")]
pub struct Header {
    /// Final base name of the output; ids derive from it.
    pub name: String,
    /// Parameters of the writers with defaults resolved.
    pub spec: String,
    /// Name of the digest algorithm, if any.
    pub digest: Option<String>,
    /// Whether the output file's SHA-256 is taken in passing.
    pub flat_sha256: bool,
    /// The sources of the disks: one of a plain image, any number in a container.
    pub disks: Vec<DiskHeader>,
    /// What the disks lie in; `None` = a plain image.
    pub container: Option<ContainerHeader>,
    /// The object that the output becomes; `None` = a file or a device.
    pub object: Option<ObjectHeader>,
    /// Encoder whose bytes these are.
    pub encoder: String,
    /// Device number of the partial output.
    pub device: u64,
    /// Inode number of the partial output.
    pub inode: u64,
    /// Version of the journal's format.
    pub version: u32,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskHeader {
    /// Name of its image in the container; ids derive from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Source, as people call it.
    pub source: String,
    /// What proves that the source is the same; `None` = nothing can.
    pub identity: Option<SourceIdentity>,
    /// Size of the disk in bytes, if it was known at the start.
    pub size: Option<u64>,
}

/// Which object an output becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHeader {
    /// Its URL, without secrets.
    pub url: String,
    /// Id of the run: its marker is called so, and the object carries it.
    pub run: String,
    /// How it is cut into parts.
    pub schedule: Schedule,
    /// Whether the journal lies beside the object: the one here is a copy.
    #[serde(default, skip_serializing_if = "is_false")]
    pub remote: bool,
}

/// Everything in a container that is not a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerHeader {
    /// Its format, as in the manifest.
    pub format: String,
    /// Its parameters with defaults resolved, as in the manifest.
    pub parameters: String,
    /// Name of the hash function of the images in it.
    pub file_hash: String,
    /// Whether the disks are files of their own with journals of their own: only their starts and ends
    /// are recorded here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub separate: bool,
    /// What else stands in it. Only who writes the container knows what that means.
    pub content: serde_json::Map<String, serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A header as it is written: the one source of a plain image stands in the line itself.
#[derive(Serialize, Deserialize)]
struct HeaderLine {
    version: u32,
    name: String,
    spec: String,
    digest: Option<String>,
    flat_sha256: bool,
    #[serde(flatten)]
    sources: Sources,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    object: Option<ObjectHeader>,
    encoder: String,
    device: u64,
    inode: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Sources {
    Container { container: ContainerHeader, disks: Vec<DiskHeader> },
    Image(DiskHeader),
}

impl From<HeaderLine> for Header {
    fn from(line: HeaderLine) -> Self {
        let HeaderLine { version, name, spec, digest, flat_sha256, sources, object, encoder, .. } = line;
        let (device, inode) = (line.device, line.inode);
        let (container, disks) = match sources {
            Sources::Container { container, disks } => (Some(container), disks),
            Sources::Image(disk) => (None, vec![disk]),
        };
        Self { name, spec, digest, flat_sha256, disks, container, object, encoder, device, inode, version }
    }
}

impl From<Header> for HeaderLine {
    fn from(header: Header) -> Self {
        let Header { name, spec, digest, flat_sha256, mut disks, container, .. } = header;
        let sources = match container {
            Some(container) => Sources::Container { container, disks },
            None => Sources::Image(disks.pop().unwrap_or(DiskHeader {
                file: None,
                source: String::new(),
                identity: None,
                size: None,
            })),
        };
        let Header { version, object, encoder, device, inode, .. } = header;
        Self { version, name, spec, digest, flat_sha256, sources, object, encoder, device, inode }
    }
}
