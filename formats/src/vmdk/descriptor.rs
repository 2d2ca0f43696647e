//! The descriptor: text that says what a disk is made of; contract 3.6.

use std::fmt::Write as _;

use crate::{
    chunk::SECTOR_LEN,
    error::{Error, Result},
    num::to_usize,
    vmdk::{Subformat, ids::Ids},
};

/// A descriptor to be embedded in an image of one extent.
#[derive(Clone, Debug)]
pub(super) struct NewDescriptor<'a> {
    /// What `createType` says.
    pub(super) subformat: Subformat,
    /// Sectors.
    pub(super) capacity: u64,
    /// Base name of the file.
    pub(super) name: &'a str,
    /// Ids of the content.
    pub(super) ids: Ids,
}

impl NewDescriptor<'_> {
    /// The text, padded with zeros to [`DESCRIPTOR_SECTORS`].
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.to_text().into_bytes();
        bytes.resize(to_usize(DESCRIPTOR_SECTORS * SECTOR_LEN), 0);
        bytes
    }

    fn to_text(&self) -> String {
        let Self { subformat, capacity, ids, .. } = self;
        // A stream is not written to in place.
        let access = match subformat {
            Subformat::MonolithicSparse => "RW",
            Subformat::StreamOptimized => "RDONLY",
        };
        let cylinders = capacity.div_ceil(HEADS * SECTORS_PER_TRACK).min(MAX_CYLINDERS);
        let mut text = String::new();
        let lines = write!(
            text,
            "# Disk DescriptorFile\n\
             version=1\n\
             encoding=\"UTF-8\"\n\
             CID={cid:08x}\n\
             parentCID=ffffffff\n\
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
             ddb.longContentID = \"{long}\"\n\
             ddb.toolsInstallType = \"4\"\n\
             ddb.toolsVersion = \"2147483647\"\n\
             ddb.virtualHWVersion = \"4\"\n",
            cid = ids.cid,
            long = ids.long_content_id,
            name = printable(self.name),
        );
        debug_assert!(lines.is_ok(), "a string takes everything");
        text
    }
}

/// A name that cannot end the line or the quotes, and passes where only ASCII does (OpenStack).
/// Nobody opens an embedded extent by it.
fn printable(name: &str) -> String {
    let name: String = name
        .chars()
        .take(MAX_NAME_LEN)
        .map(|c| match c {
            '"' | '/' | '\\' => '_',
            ' '..='~' => c,
            _ => '_',
        })
        .collect();
    if name.is_empty() { "disk.vmdk".to_owned() } else { name }
}

/// What a descriptor says, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// `createType`.
    pub(super) create_type: String,
    /// `CID`.
    pub(super) cid: String,
    /// `ddb.adapterType`.
    pub(super) adapter: String,
    /// What the disk is made of.
    pub(super) extents: Vec<Extent>,
}

/// A line that describes an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Sectors.
    pub(super) sectors: u64,
    /// What it is.
    pub(super) kind: ExtentKind,
}

/// What an extent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// The bytes of a file from this sector on.
    Flat {
        /// Bare file name.
        name: String,
        /// First sector.
        offset: u64,
    },
    /// A sparse extent.
    Sparse {
        /// Bare file name.
        name: String,
    },
    /// Nothing.
    Zero,
}

impl Descriptor {
    /// Reads the descriptor that stands at byte `offset` of a file, up to the first zero byte.
    ///
    /// # Errors
    /// It is none, or says that the disk needs another one.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some(FIRST_LINE) {
            return Err(Error::corrupt(
                "no vmdk descriptor: this may be one of several extents, whose descriptor is a file of its own",
            )
            .at(offset));
        }
        let mut descriptor = Self::default();
        for line in lines {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(extent) = Extent::parse(line).map_err(|error| error.at(offset))? {
                if descriptor.extents.len() >= MAX_EXTENTS {
                    return Err(Error::limit(format!(
                        "the descriptor names more than {MAX_EXTENTS} extents"
                    ))
                    .at(offset));
                }
                descriptor.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                descriptor.set(key.trim(), unquoted(value)).map_err(|error| error.at(offset))?;
            }
            // Other lines are those of programs that this one does not know.
        }
        if descriptor.create_type.is_empty() {
            return Err(Error::corrupt("the descriptor has no createType").at(offset));
        }
        Ok(descriptor)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key.to_ascii_lowercase().as_str() {
            "cid" => self.cid = shortened(value),
            "createtype" => self.create_type = shortened(value),
            "ddb.adaptertype" => self.adapter = shortened(value),
            "parentcid" if !value.eq_ignore_ascii_case("ffffffff") => {
                return Err(Error::refused(format!(
                    "the image is a difference to another one, whose content has the id {:?}: {CONSOLIDATE}",
                    shortened(value)
                )));
            }
            "parentfilenamehint" => {
                return Err(Error::refused(format!(
                    "the image is a difference to {:?}: {CONSOLIDATE}",
                    shortened(value)
                )));
            }
            "version" if !matches!(value, "1" | "2" | "3") => {
                return Err(Error::unsupported(format!("descriptor version {:?}", shortened(value))));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Extent {
    /// Reads a line, if it describes an extent.
    fn parse(line: &str) -> Result<Option<Self>> {
        let mut fields = line.splitn(4, char::is_whitespace);
        let access = fields.next().unwrap_or_default().to_ascii_uppercase();
        if !matches!(access.as_str(), "RW" | "RDONLY" | "NOACCESS") {
            return Ok(None);
        }
        let wrong = || Error::corrupt(format!("extent line {:?} cannot be understood", shortened(line)));
        let sectors = fields.next().and_then(|field| field.parse().ok()).ok_or_else(wrong)?;
        let kind = fields.next().ok_or_else(wrong)?.to_ascii_uppercase();
        let rest = fields.next().unwrap_or_default().trim();
        if access == "NOACCESS" && kind != "ZERO" {
            return Err(Error::refused(format!("extent line {:?} forbids to read it", shortened(line))));
        }
        let file = || {
            let (name, rest) =
                rest.strip_prefix('"').and_then(|rest| rest.split_once('"')).ok_or_else(wrong)?;
            check_name(name)?;
            Ok((name.to_owned(), rest.trim()))
        };
        let kind = match kind.as_str() {
            "ZERO" => ExtentKind::Zero,
            "FLAT" | "VMFS" => {
                let (name, rest) = file()?;
                let offset = if rest.is_empty() { 0 } else { rest.parse().map_err(|_| wrong())? };
                ExtentKind::Flat { name, offset }
            }
            "SPARSE" => ExtentKind::Sparse { name: file()?.0 },
            other => {
                return Err(Error::unsupported(format!(
                    "extents of type {:?}, not FLAT, VMFS, SPARSE or ZERO",
                    shortened(other)
                )));
            }
        };
        Ok(Some(Self { sectors, kind }))
    }
}

/// Names that lead anywhere but beside the descriptor are an attack, or of no use here.
fn check_name(name: &str) -> Result<()> {
    let bare = !name.is_empty()
        && name != "."
        && name != ".."
        && name.len() <= MAX_NAME_LEN
        && !name.contains(|c: char| c == '/' || c.is_control());
    if bare {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the descriptor names {:?}, which is not a bare file name: put the file beside the descriptor and name it so",
        shortened(name)
    )))
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// The front of a text from an image, for people; what would steer a terminal is replaced.
fn shortened(text: &str) -> String {
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(64).map(printable).collect()
}

/// At the front of every descriptor.
pub(super) const FIRST_LINE: &str = "# Disk DescriptorFile";

/// Sectors that are set aside for a descriptor: what QEMU searches, with room for the lines that
/// VirtualBox adds.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// Longest descriptor that is read, in bytes.
pub(super) const MAX_DESCRIPTOR_LEN: u64 = 2 << 20;

/// Extents of one disk: 64 TiB in pieces of 2 GiB.
const MAX_EXTENTS: usize = 32_768;

/// Longest name of a file.
const MAX_NAME_LEN: usize = 255;

/// Geometry of a SCSI disk: heads and sectors per track as VMware counts them, and the most
/// cylinders that fit (open-vmdk).
const HEADS: u64 = 255;
const SECTORS_PER_TRACK: u64 = 63;
const MAX_CYLINDERS: u64 = 65_535;

const CONSOLIDATE: &str = "consolidate its snapshots or clone it first";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn new(subformat: Subformat, capacity: u64, name: &str) -> String {
        let ids = Ids { cid: 0x1234_abcd, long_content_id: "00112233445566778899aabb1234abcd".to_owned() };
        NewDescriptor { subformat, capacity, name, ids }.to_text()
    }

    #[test]
    fn the_text_is_as_the_contract_lists_it() {
        let expected = r##"# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=1234abcd
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY 2048 SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "1"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "00112233445566778899aabb1234abcd"
ddb.toolsInstallType = "4"
ddb.toolsVersion = "2147483647"
ddb.virtualHWVersion = "4"
"##;
        assert_eq!(new(Subformat::StreamOptimized, 2048, "disk.vmdk"), expected);
        let sparse = new(Subformat::MonolithicSparse, 1 << 32, "disk.vmdk");
        assert!(sparse.contains("createType=\"monolithicSparse\"\n"));
        assert!(sparse.contains("\nRW 4294967296 SPARSE \"disk.vmdk\"\n"));
        assert!(sparse.contains("cylinders = \"65535\"\n"));
    }

    #[test]
    fn no_name_breaks_out_of_its_quotes_or_the_room() {
        let names = ["a\"b\nRW 1 FLAT \"/etc/passwd\"", "", "../x", "ä.vmdk", &"\u{1f4be}".repeat(9999)];
        for name in names {
            let text = new(Subformat::StreamOptimized, u64::MAX, name);
            assert!(text.is_ascii() && text.len() < to_usize(DESCRIPTOR_SECTORS * SECTOR_LEN), "{text}");
            assert_eq!(text.lines().filter(|line| line.contains("SPARSE")).count(), 1);
            let parsed = Descriptor::parse(text.as_bytes(), 0).unwrap();
            assert_eq!(parsed.extents.len(), 1, "{text}");
            assert_eq!(parsed.extents[0].sectors, u64::MAX);
            assert_eq!((parsed.cid.as_str(), parsed.adapter.as_str()), ("1234abcd", "lsilogic"));
        }
    }

    #[test]
    fn geometry_rounds_cylinders_up() {
        for (capacity, cylinders) in [(1, 1), (16_065, 1), (16_066, 2), (16_065 * 65_535 + 1, 65_535)] {
            let text = new(Subformat::StreamOptimized, capacity, "x");
            assert!(text.contains(&format!("cylinders = \"{cylinders}\"")), "{text}");
        }
    }

    #[test]
    fn descriptors_of_others_are_understood() {
        let text = "# Disk DescriptorFile\r\nversion=1\r\n CID = 1A2b3c4d \r\nparentCID=FFFFFFFF\n\
                    createType=\"twoGbMaxExtentFlat\"\n# RW 5 FLAT \"no\" 0\nunknown words\n\
                    RW 4192256 FLAT \"a b-f001.vmdk\" 0\nrw 10 flat \"c\"\nRW 7 VMFS \"d\" 3\n\
                    RDONLY 3 ZERO\nNOACCESS 3 ZERO\nRW 9 SPARSE \"e\"\n\
                    ddb.adapterType = \"ide\"\n\0RW 1 FLAT \"/etc/passwd\" 0\n";
        let descriptor = Descriptor::parse(text.as_bytes(), 0).unwrap();
        assert_eq!(descriptor.create_type, "twoGbMaxExtentFlat");
        assert_eq!((descriptor.cid.as_str(), descriptor.adapter.as_str()), ("1A2b3c4d", "ide"));
        let flat = |name: &str, offset| ExtentKind::Flat { name: name.to_owned(), offset };
        let expected = [
            (4_192_256, flat("a b-f001.vmdk", 0)),
            (10, flat("c", 0)),
            (7, flat("d", 3)),
            (3, ExtentKind::Zero),
            (3, ExtentKind::Zero),
            (9, ExtentKind::Sparse { name: "e".to_owned() }),
        ];
        assert_eq!(descriptor.extents, expected.map(|(sectors, kind)| Extent { sectors, kind }));
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let refused = ErrorKind::Refused;
        let lines: &[(&str, ErrorKind)] = &[
            ("RW 1 FLAT \"/etc/passwd\" 0", refused),
            ("RW 1 FLAT \"../x\" 0", refused),
            ("RW 1 FLAT \"..\" 0", refused),
            ("RW 1 FLAT \"\" 0", refused),
            ("RW 1 SPARSE \"a/b\"", refused),
            ("RW 1 SPARSE \"a\tb\"", refused),
            ("NOACCESS 1 FLAT \"a\" 0", refused),
            ("parentCID=12345678", refused),
            ("parentFileNameHint=\"base.vmdk\"", refused),
            ("RW 1 VMFSRDM \"a\"", ErrorKind::Unsupported),
            ("RW 1 SESPARSE \"a\"", ErrorKind::Unsupported),
            ("version=4", ErrorKind::Unsupported),
            ("RW -1 FLAT \"a\" 0", ErrorKind::Corrupt),
            ("RW 99999999999999999999 FLAT \"a\" 0", ErrorKind::Corrupt),
            ("RW 1", ErrorKind::Corrupt),
            ("RW 1 FLAT a 0", ErrorKind::Corrupt),
            ("RW 1 FLAT \"a\" x", ErrorKind::Corrupt),
        ];
        for (line, kind) in lines {
            let text = format!("{FIRST_LINE}\ncreateType=\"x\"\n{line}\n");
            let error = Descriptor::parse(text.as_bytes(), 512).unwrap_err();
            assert_eq!((error.kind(), error.offset()), (*kind, Some(512)), "{line}: {error}");
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
        assert_eq!(Descriptor::parse(b"", 0).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(Descriptor::parse(b"# Disk DescriptorFile\n", 0).unwrap_err().kind(), ErrorKind::Corrupt);
        let many = format!("{FIRST_LINE}\n{}", "RW 1 ZERO\n".repeat(MAX_EXTENTS + 1));
        assert_eq!(Descriptor::parse(many.as_bytes(), 0).unwrap_err().kind(), ErrorKind::Limit);
    }
}
