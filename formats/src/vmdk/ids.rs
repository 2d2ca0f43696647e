//! Ids that depend on nothing but what the user chose, so that equal conversions give equal bytes.

use sha2::{Digest as _, Sha256};

/// Content id: 32 bits, neither of the two values that mean "none" and that writers avoid.
pub(super) fn content_id(seed: &str) -> u32 {
    let hash = derive("CID", seed);
    let words = hash.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    words.into_iter().find(|&word| word < RESERVED).unwrap_or(1)
}

/// Long content id: 32 hexadecimal digits that end with the content id.
pub(super) fn long_content_id(seed: &str) -> String {
    let hash = derive("longContentID", seed);
    let front: String = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{front}{:08x}", content_id(seed))
}

/// SHA-256 over tag, kind, seed and disk index, each with its length in front.
fn derive(kind: &str, seed: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in ["vmferry-id", kind, seed] {
        hash.update(crate::num::to_u64(field.len()).to_le_bytes());
        hash.update(field.as_bytes());
    }
    // A disk on its own is disk 0.
    hash.update(0_u32.to_le_bytes());
    hash.finalize().into()
}

/// `ffffffff` is "no parent", `fffffffe` what writers put where they have no id.
const RESERVED: u32 = 0xffff_fffe;
