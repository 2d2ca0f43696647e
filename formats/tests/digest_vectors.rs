//! The published test vectors, which a program that shares no code with this crate computed.

use serde_json::Value;
use vmferry_formats::digest::{Algorithm, tree_digest};

/// Made by `docs/tree_digest.py --vectors`.
const VECTORS: &str = include_str!("../../docs/digest-vectors.json");

/// The content that the vectors are about; `docs/digest.md` defines it.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| u8::try_from((i * 7 + i / 251 + 1) % 256).expect("below 256")).collect()
}

#[test]
fn published_vectors_are_what_we_compute() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    let vectors = vectors["vectors"].as_array().expect("a list");
    let mut sizes = Vec::new();
    for vector in vectors {
        let size = vector["size"].as_u64().expect("a size");
        let content = pattern(usize::try_from(size).expect("a small size"));
        for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
            let ours = tree_digest(algorithm, &content).to_string();
            assert_eq!(vector[algorithm.name()], ours, "{algorithm} of {size} bytes");
        }
        sizes.push(size);
    }
    let chunk = 4 << 20;
    assert_eq!(sizes, [0, 1, 511, 512, 513, 65_535, chunk - 1, chunk, chunk + 1, chunk + 512]);
}
