//! The ids of a VMDK: derived, so that equal input and parameters give equal bytes.

use sha2::{Digest as _, Sha256};

use crate::num::to_u64;

/// What a descriptor calls its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    /// Content id: changes when a disk is written to, and links a delta to its parent.
    pub(super) cid: u32,
    /// 32 hexadecimal digits, the last 8 of them the CID (as open-vmdk does it).
    pub(super) long_content_id: String,
}

impl Ids {
    /// Ids of disk number `disk` of an output with this seed.
    pub(super) fn new(seed: &Seed<'_>, disk: u64) -> Self {
        let seed = seed.to_bytes();
        let words = hash("cid", &seed, disk);
        let cid = words
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
            .find(|cid| !RESERVED_CIDS.contains(cid))
            .unwrap_or(0);
        let long = &hash("long-content-id", &seed, disk)[..12];
        let mut long_content_id = String::with_capacity(32);
        for byte in long.iter().chain(&cid.to_be_bytes()) {
            long_content_id.push_str(&format!("{byte:02x}"));
        }
        Self { cid, long_content_id }
    }
}

/// What ids derive from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seed<'a> {
    /// What is known of the output.
    Derived {
        /// Bytes of the guest disk.
        virtual_size: u64,
        /// All parameters of the writer.
        parameters: &'a str,
        /// Final base name.
        name: &'a str,
    },
    /// What the user gave.
    Given(&'a str),
}

impl Seed<'_> {
    /// Unambiguous: every part has its length in front.
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Derived { virtual_size, parameters, name } => {
                push(&mut bytes, b"derived");
                push(&mut bytes, &virtual_size.to_le_bytes());
                push(&mut bytes, parameters.as_bytes());
                push(&mut bytes, name.as_bytes());
            }
            Self::Given(seed) => {
                push(&mut bytes, b"given");
                push(&mut bytes, seed.as_bytes());
            }
        }
        bytes
    }
}

fn hash(kind: &str, seed: &[u8], disk: u64) -> [u8; 32] {
    let mut bytes = Vec::new();
    push(&mut bytes, b"vmferry-id");
    push(&mut bytes, kind.as_bytes());
    push(&mut bytes, seed);
    push(&mut bytes, &disk.to_le_bytes());
    Sha256::digest(&bytes).into()
}

fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&to_u64(part.len()).to_le_bytes());
    bytes.extend_from_slice(part);
}

/// 'No parent', and what ovftool ends its longContentID with.
const RESERVED_CIDS: [u32; 2] = [u32::MAX, u32::MAX - 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_every_part_of_the_seed_and_on_nothing_else() {
        let seed =
            |virtual_size, parameters, name| Ids::new(&Seed::Derived { virtual_size, parameters, name }, 0);
        let base = seed(1 << 20, "level=fast", "a.vmdk");
        assert_eq!(base, seed(1 << 20, "level=fast", "a.vmdk"));
        let others = [
            seed(2 << 20, "level=fast", "a.vmdk"),
            seed(1 << 20, "level=best", "a.vmdk"),
            seed(1 << 20, "level=fast", "b.vmdk"),
            seed(1 << 20, "level=fasta", ".vmdk"),
            Ids::new(&Seed::Given(""), 0),
            Ids::new(&Seed::Given("x"), 0),
            Ids::new(&Seed::Given("x"), 1),
        ];
        for (index, ids) in others.iter().enumerate() {
            assert_ne!(ids.cid, base.cid);
            assert!(others[..index].iter().all(|other| other.cid != ids.cid));
            assert_eq!(ids.long_content_id.len(), 32);
            assert!(ids.long_content_id.ends_with(&format!("{:08x}", ids.cid)));
        }
    }
}
