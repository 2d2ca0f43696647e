//! The annotation: where a VM comes from, what its owner says, and what is lost. It is read again, so that
//! describing anew does not pile annotation on annotation.

use vmferry_formats::ovf::clean_text;

use super::{Warning, hardware::Hardware};

/// The annotation of hardware. No time and no version of ours: equal VMs have equal descriptors.
pub(super) fn annotation(hardware: &Hardware, warnings: &[Warning]) -> String {
    let mut text = String::new();
    if let Some(origin) = &hardware.origin {
        let platform = hardware.platform.as_ref().map_or_else(String::new, |version| format!(" ({version})"));
        text.push_str(&format!("{origin}{platform}\n"));
    }
    if let Some(description) = &hardware.description {
        text.push_str(&format!("{description}\n"));
    }
    for (what, value) in [(UUID, &hardware.uuid), (SERIAL, &hardware.serial), (MACHINE, &hardware.machine)] {
        if let Some(value) = value {
            text.push_str(&format!("{what}{value}\n"));
        }
    }
    if !warnings.is_empty() {
        text.push_str(LOST);
        text.push('\n');
        for warning in warnings {
            text.push_str(&format!("- {warning}\n"));
        }
    }
    clean_text(text.trim_end()).into_owned()
}

/// What of an annotation is not made anew.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// What the owner says.
    pub(super) description: Option<String>,
    /// SMBIOS UUID.
    pub(super) uuid: Option<String>,
    /// SMBIOS serial number.
    pub(super) serial: Option<String>,
    /// Machine type.
    pub(super) machine: Option<String>,
}

impl Kept {
    /// Reads an annotation: all of one that is not ours is its owner's.
    pub(super) fn of(annotation: &str) -> Self {
        let mut lines: Vec<&str> = annotation.trim_end().lines().collect();
        let lost = lines.iter().position(|line| *line == LOST);
        let has_origin = lines.first().is_some_and(|line| is_origin(line));
        if !has_origin && lost.is_none() {
            let description = (!annotation.is_empty()).then(|| annotation.to_owned());
            return Self { description, ..Self::default() };
        }
        // What was lost is lost, and the new warnings say what is lost now.
        lines.truncate(lost.unwrap_or(lines.len()));
        let mut last = |what: &str| {
            let value = lines.last()?.strip_prefix(what)?.to_owned();
            lines.pop();
            Some(value)
        };
        // From the last to the first, as they were written.
        let (machine, serial, uuid) = (last(MACHINE), last(SERIAL), last(UUID));
        let said = lines.get(usize::from(has_origin)..).unwrap_or_default().join("\n");
        Self { description: (!said.is_empty()).then_some(said), uuid, serial, machine }
    }
}

/// Whether a line is the first of an annotation of ours: `KubeVirt VM NAMESPACE/NAME (PLATFORM)`, or
/// `OVF descriptor of "NAME"`. An owner's words hardly look like that.
fn is_origin(line: &str) -> bool {
    let bare = line.strip_suffix(')').and_then(|line| line.rsplit_once(" (")).map_or(line, |(bare, _)| bare);
    let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
    bare.strip_prefix(KUBEVIRT).is_some_and(is_name)
        || bare
            .strip_prefix(DESCRIPTOR)
            .is_some_and(|name| name.len() > 1 && name.starts_with('"') && name.ends_with('"'))
}

/// How the origin of a VM of KubeVirt begins.
pub(super) const KUBEVIRT: &str = "KubeVirt VM ";

/// How the origin of a descriptor begins.
pub(super) const DESCRIPTOR: &str = "OVF descriptor of ";

const UUID: &str = "SMBIOS UUID: ";
const SERIAL: &str = "SMBIOS serial number: ";
const MACHINE: &str = "Machine type: ";
const LOST: &str = "What this description does not say, or says otherwise:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_told_from_what_is_the_owners() {
        let warnings = [Warning::new("field", "lost", "do\nnothing")];
        for origin in [None, Some("KubeVirt VM demo/db"), Some("OVF descriptor of \"a \\\"b\\\" c\"")] {
            for platform in [None, Some("KubeVirt v1.9.0")] {
                for description in [None, Some("Orders"), Some("Orders\n\nof 2 lines\n- and a list")] {
                    for (uuid, serial, machine) in [
                        (None, None, None),
                        (Some("0b39"), None, Some("q35")),
                        (Some("1"), Some("2"), Some("3")),
                    ] {
                        let text = |text: Option<&str>| text.map(str::to_owned);
                        let hardware = Hardware {
                            origin: text(origin),
                            platform: text(platform),
                            description: text(description),
                            uuid: text(uuid),
                            serial: text(serial),
                            machine: text(machine),
                            ..Hardware::default()
                        };
                        let kept = Kept::of(&annotation(&hardware, &warnings));
                        let expected = Kept {
                            description: text(description),
                            uuid: text(uuid),
                            serial: text(serial),
                            machine: text(machine),
                        };
                        assert_eq!(kept, expected, "{hardware:?}");
                        if origin.is_some() {
                            assert_eq!(Kept::of(&annotation(&hardware, &[])), expected, "{hardware:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn all_of_a_foreign_annotation_is_the_owners() {
        for text in [
            "The till of shop 7\nMachine type: red",
            "KubeVirt VM for the shop",
            "OVF descriptor of the shop",
            "OVF descriptor of \"",
            "  two\n\n",
        ] {
            assert_eq!(
                Kept::of(text),
                Kept { description: Some(text.into()), ..Kept::default() },
                "{text:?}"
            );
        }
        assert_eq!(Kept::of(""), Kept::default());
    }
}
