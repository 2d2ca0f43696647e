//! Which format a source has: what the user says, what it is called, what it begins with.

use std::path::Path;

use vmferry_formats::{Detected, Format};

use super::{SourceFormat, SourceOptions};
use crate::error::{Error, Result};

/// What decides besides the magic.
pub(super) struct Rest {
    pub(super) name: String,
    /// Whether bytes without a magic may be taken as RAW.
    pub(super) raw_likely: bool,
}

/// The format to read a source as.
pub(super) fn choose(named: Option<SourceFormat>, detected: Detected, rest: &Rest) -> Result<SourceFormat> {
    let name = &rest.name;
    let found = match detected {
        Detected::Image(format) => Some(SourceFormat::Image(format)),
        Detected::Gzip => Some(SourceFormat::Gzip),
        Detected::Zstd => Some(SourceFormat::Zstd),
        _ => None,
    };
    match (named, found) {
        (Some(named @ SourceFormat::Image(Format::Raw)), _) => Ok(named),
        (Some(named), found) if found == Some(named) => Ok(named),
        (Some(named), _) => Err(Error::usage(format!(
            "{name} is named as {named}, but by its first bytes it is {}",
            describe(detected)
        ))
        .with_hint("leave the format away to take what is there, or name raw to take the bytes as the disk")),
        (None, Some(found @ SourceFormat::Image(_))) if says_raw(name) => Err(Error::refused(format!(
            "{name} calls itself RAW and begins like {}",
            describe(detected)
        ))
        .with_hint(format!(
            "a guest can write such a beginning into its disk: say '-f raw' to take the bytes as the disk, or '-f {found}' if it is one"
        ))),
        (None, Some(found)) => Ok(found),
        (None, None) if detected == Detected::Unknown => {
            if rest.raw_likely {
                return Ok(SourceFormat::Image(Format::Raw));
            }
            Err(Error::usage(format!(
                "{name} has no magic that is known, and its name does not say that it is RAW"
            ))
            .with_hint("if it is a RAW disk, say so: '-f raw'"))
        }
        (None, None) => {
            let hint = match detected {
                Detected::Tar => {
                    "an OVA is such an archive: save it to a file and name that, since its disks are not read in order"
                }
                Detected::Known("xz stream") => {
                    "decompress it on the way: 'xz -dc FILE | vmferry convert -f raw - OUTPUT'"
                }
                _ => "convert it to RAW or QCOW2 first, with qemu-img or the tool that made it",
            };
            Err(Error::failed(format!(
                "{name} is {}, which is not supported as a source",
                describe(detected)
            ))
            .with_hint(hint))
        }
    }
}

/// Whether a source is to be opened as an archive.
///
/// # Errors
/// Its name promises the bytes of a disk, into which a guest may have written what is found.
pub(super) fn is_archive(detected: Detected, rest: &Rest) -> Result<bool> {
    if detected != Detected::Tar {
        return Ok(false);
    }
    if says_raw(&rest.name) {
        return Err(Error::refused(format!("{} calls itself RAW and begins like a tar archive", rest.name))
            .with_hint("a guest can write such a beginning into its disk: say '-f raw' to take the bytes as the disk"));
    }
    Ok(true)
}

/// What a volume of a VMExport is: the bytes of the disk, or these in gzip. Its content has no say in
/// that, since the guest could write the magic of an image there.
pub(super) fn exported_format(location: &str, options: &SourceOptions) -> Option<SourceFormat> {
    options.http.token_file.as_ref()?;
    let path = location.split(['?', '#']).next().unwrap_or(location);
    // No export calls a volume so.
    if has_extension(path, "ova") {
        return None;
    }
    Some(if path.ends_with(".gz") { SourceFormat::Gzip } else { SourceFormat::Image(Format::Raw) })
}

pub(super) fn describe(detected: Detected) -> String {
    match detected {
        Detected::Gzip => "a gzip stream".to_owned(),
        Detected::Image(Format::Qcow2) => "a QCOW2 image".to_owned(),
        Detected::Image(Format::Vmdk) => "a VMDK image".to_owned(),
        Detected::Image(format) => format!("a {format} image"),
        Detected::Known("xz stream") => "an xz stream".to_owned(),
        Detected::Known(what) => format!("a {what} image"),
        Detected::Tar => "a tar archive".to_owned(),
        Detected::Zstd => "a zstd stream".to_owned(),
        _ => "none that is known".to_owned(),
    }
}

/// Whether the extension of a path lets it be a RAW disk. Links and pipes often have names that say
/// nothing, so there (`lenient`) only the extension of something else counts against it.
pub(super) fn may_be_raw(location: &str, lenient: bool) -> bool {
    let Some(extension) = Path::new(location).extension() else { return true };
    let extension = extension.to_string_lossy().to_ascii_lowercase();
    match Format::from_extension(&extension) {
        Some(format) => format == Format::Raw,
        None => lenient && !OTHER_EXTENSIONS.contains(&extension.as_str()),
    }
}

/// Whether a name promises the bytes of a disk; `.img` does not.
pub(super) fn says_raw(location: &str) -> bool {
    has_extension(location, "raw")
}

pub(super) fn has_extension(location: &str, extension: &str) -> bool {
    Path::new(location).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Extensions of what is no RAW disk.
const OTHER_EXTENSIONS: [&str; 14] =
    ["7z", "bz2", "gz", "htm", "html", "ova", "ovf", "tar", "vdi", "vhd", "vhdx", "xz", "zip", "zst"];
