//! The SMBIOS UUID that KubeVirt gives a VM which states none.

use std::fmt::Write as _;

use sha1::{Digest as _, Sha1};

/// The UUID of a VM by its name: version 5 of RFC 9562 in KubeVirt's namespace (contract section 5).
pub(super) fn uuid_of(name: &str) -> String {
    let hash = Sha1::new().chain_update(NAMESPACE).chain_update(name).finalize();
    let mut text = String::with_capacity(36);
    for (index, byte) in hash.iter().take(16).enumerate() {
        let byte = match index {
            // Version and variant.
            6 => byte & 0x0f | 0x50,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `6a1a24a1-4061-4607-8bf4-a3963d0c5895`.
const NAMESPACE: [u8; 16] =
    [0x6a, 0x1a, 0x24, 0xa1, 0x40, 0x61, 0x46, 0x07, 0x8b, 0xf4, 0xa3, 0x96, 0x3d, 0x0c, 0x58, 0x95];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_those_that_others_derive() {
        // python3 -c 'import uuid; print(uuid.uuid5(uuid.UUID("6a1a24a1-4061-4607-8bf4-a3963d0c5895"), "db"))'
        for (name, uuid) in [
            ("db", "afbfbee4-e771-559c-b6d5-41f26cb027a0"),
            ("web.prod-1", "a1c5ec26-4063-51d6-b608-095ff389e28f"),
        ] {
            assert_eq!(uuid_of(name), uuid);
        }
    }
}
