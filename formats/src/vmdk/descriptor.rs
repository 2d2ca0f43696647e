//! The text that describes a VMDK: embedded in a sparse extent, or a file of its own that names its
//! extents; contract 3.6.

use crate::{
    Error, Result,
    chunk::SECTOR_LEN,
    num::to_usize,
    vmdk::{ids, writer::Subformat},
};

/// Sectors set aside for a descriptor: importers add lines to it.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// First line of a descriptor.
pub(super) const FIRST_LINE: &str = "# Disk DescriptorFile";

/// A descriptor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    text: String,
}

impl Descriptor {
    /// That of a disk of `capacity` sectors in a file called `name`; ids derive from `seed`.
    pub(super) fn new(subformat: Subformat, capacity: u64, name: &str, seed: &str) -> Self {
        let access = match subformat {
            Subformat::MonolithicSparse => "RW",
            // ovftool's habit: nobody writes into a stream.
            Subformat::StreamOptimized => "RDONLY",
        };
        // SCSI geometry, as open-vmdk computes it.
        let cylinders = capacity.div_ceil(HEADS * SECTORS_PER_TRACK).min(MAX_CYLINDERS);
        let text = format!(
            "{FIRST_LINE}\n\
             version=1\n\
             encoding=\"UTF-8\"\n\
             CID={cid:08x}\n\
             parentCID={NO_PARENT}\n\
             createType=\"{subformat}\"\n\
             \n\
             # Extent description\n\
             {access} {capacity} SPARSE \"{name}\"\n\
             \n\
             # The Disk Data Base\n\
             #DDB\n\
             \n\
             ddb.adapterType = \"lsilogic\"\n\
             ddb.geometry.cylinders = \"{cylinders}\"\n\
             ddb.geometry.heads = \"{HEADS}\"\n\
             ddb.geometry.sectors = \"{SECTORS_PER_TRACK}\"\n\
             ddb.longContentID = \"{long_id}\"\n\
             ddb.toolsInstallType = \"4\"\n\
             ddb.toolsVersion = \"2147483647\"\n\
             ddb.virtualHWVersion = \"4\"\n",
            cid = ids::content_id(seed),
            name = extent_name(name),
            long_id = ids::long_content_id(seed),
        );
        Self { text }
    }

    /// The text, zero-padded to [`DESCRIPTOR_SECTORS`].
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.text.clone().into_bytes();
        bytes.resize(to_usize(DESCRIPTOR_SECTORS * SECTOR_LEN), 0);
        bytes
    }
}

/// A base name that can stand in quotes: ASCII without what a parser could stumble over, and not so
/// long that the descriptor outgrows its place.
fn extent_name(name: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() && !"\"/\\".contains(c) || c == ' ' { c } else { '_' };
    let name: String = name.chars().take(MAX_NAME_LEN).map(clean).collect();
    if name.is_empty() { "disk.vmdk".into() } else { name }
}

/// What a descriptor that was read says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    /// `createType`, as it is spelled.
    pub(super) create_type: String,
    /// Extents, in the order of the disk.
    pub(super) extents: Vec<Extent>,
}

/// A line of the extent description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
}

/// What an extent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// The bytes as they are, from this sector of the file on.
    Flat { file: String, sector: u64 },
    /// A sparse extent.
    Sparse { file: String },
    /// Zeros.
    Zero,
}

impl Parsed {
    /// Reads a descriptor up to its first zero byte.
    ///
    /// # Errors
    /// It is no descriptor, or describes what is refused or unknown.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        if !text.lines().next().is_some_and(|line| line.trim_end().eq_ignore_ascii_case(FIRST_LINE)) {
            return Err(Error::corrupt(format!("the descriptor does not begin with {FIRST_LINE:?}")));
        }
        let (mut create_type, mut parent, mut extents) = (None, None, Vec::new());
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(extent) = parse_extent(line)? {
                if extents.len() == MAX_EXTENTS {
                    return Err(Error::limit(format!("more than {MAX_EXTENTS} extents")));
                }
                extents.push(extent);
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                return Err(Error::corrupt(format!("a line of the descriptor is not known: {line:.60?}")));
            };
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "createtype" => create_type = Some(value.to_owned()),
                "parentcid" => parent = Some(value.to_ascii_lowercase()),
                "parentfilenamehint" => return Err(has_parent()),
                _ => {}
            }
        }
        if parent.is_some_and(|parent| parent != NO_PARENT) {
            return Err(has_parent());
        }
        let create_type = create_type.ok_or_else(|| Error::corrupt("the descriptor has no createType"))?;
        Ok(Self { create_type, extents })
    }

    /// Sectors of all extents.
    ///
    /// # Errors
    /// They are too many for any disk.
    pub(super) fn capacity(&self) -> Result<u64> {
        let sum = self.extents.iter().try_fold(0_u64, |sum, extent| sum.checked_add(extent.sectors));
        sum.filter(|sum| sum.checked_mul(SECTOR_LEN).is_some())
            .ok_or_else(|| Error::limit("the extents are too large"))
    }
}

fn has_parent() -> Error {
    Error::refused("the vmdk is a differencing disk: it names a parent, whose data it lacks")
}

/// The extent that a line describes, if it is such a line:
/// `RW 4192256 SPARSE "name.vmdk"`, with an offset for flat ones.
fn parse_extent(line: &str) -> Result<Option<Extent>> {
    let mut words = line.split_ascii_whitespace();
    if !words.next().is_some_and(|access| matches!(access, "RW" | "RDONLY" | "NOACCESS")) {
        return Ok(None);
    }
    let wrong = || Error::corrupt(format!("an extent line is not understood: {line:.80?}"));
    let sectors = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
    let kind = words.next().ok_or_else(wrong)?;
    let name = || -> Result<String> {
        let (_, rest) = line.split_once('"').ok_or_else(wrong)?;
        let (name, _) = rest.split_once('"').ok_or_else(wrong)?;
        check_name(name)?;
        Ok(name.to_owned())
    };
    let kind = match kind {
        "ZERO" => ExtentKind::Zero,
        "SPARSE" => ExtentKind::Sparse { file: name()? },
        "FLAT" | "VMFS" => {
            let behind = line.rsplit('"').next().unwrap_or_default().trim();
            let sector = if behind.is_empty() { 0 } else { behind.parse().map_err(|_| wrong())? };
            ExtentKind::Flat { file: name()?, sector }
        }
        other => return Err(Error::unsupported(format!("extents of type {other:.20?}"))),
    };
    Ok(Some(Extent { sectors, kind }))
}

/// Whether a name stays in the directory of the image.
fn check_name(name: &str) -> Result<()> {
    let is_bare = !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= 255
        && !name.contains(['/', '\\', '\0'])
        && !name.chars().any(char::is_control);
    if is_bare {
        return Ok(());
    }
    Err(Error::refused(format!("the descriptor names an extent outside of its directory: {name:.80?}")))
}

const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;
const MAX_CYLINDERS: u64 = 65_535;
const NO_PARENT: &str = "ffffffff";

/// Characters of a name that are kept.
const MAX_NAME_LEN: usize = 200;

/// Extents of the largest split disk: 64 TiB in pieces of 2 GiB, with room.
const MAX_EXTENTS: usize = 40_000;
