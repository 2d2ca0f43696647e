//! The two-level digest of a disk's content, `tree-sha256` or `tree-blake3`.
//!
//! `docs/digest.md` defines it and holds test vectors. In short, with `H` the algorithm:
//!
//! ```text
//! leaf   = H(64 KiB of content)                                 the last leaf may be short
//! chunk  = H(leaf digests of 4 MiB of content, in order)        the last chunk may be short
//! disk   = H("vmferry-tree-v1" 00, name of H padded with 00 to 16 bytes,
//!            u64 LE leaf length, u64 LE chunk length, u64 LE content size, chunk digests in order)
//! ```
//!
//! Content is the source zero-extended to a multiple of 512 bytes. Zero leaves have a known digest,
//! so the cost follows the data; whether a range was a hole, a zero cluster or written zeros never
//! shows in the digest.

use std::{fmt, str::FromStr, sync::OnceLock};

use sha2::Digest as _;

use crate::{
    chunk::{CHUNK_LEN, LEAF_LEN},
    error::{Error, Result},
    num::{to_u64, to_usize},
};

/// A 32-byte digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Bytes in a digest.
    pub const LEN: usize = 32;

    /// A digest from its bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Reads 64 hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid_input(format!("a digest has 64 hexadecimal digits, not {text:?}"));
        if text.len() != 2 * Self::LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; Self::LEN];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// The hash function under the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// BLAKE3, 256 bits: three to four times as fast as SHA-256.
    Blake3,
    /// SHA-256 (FIPS 180-4), the default: anyone can check a leaf with standard tools.
    Sha256,
}

impl Algorithm {
    /// The name as it stands in manifests: `sha256` or `blake3`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }

    /// The plain hash of `bytes`.
    pub fn hash(self, bytes: &[u8]) -> Digest {
        Digest(match self {
            Self::Blake3 => *blake3::hash(bytes).as_bytes(),
            Self::Sha256 => sha2::Sha256::digest(bytes).into(),
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "blake3" => Ok(Self::Blake3),
            "sha256" => Ok(Self::Sha256),
            _ => Err(Error::invalid_input(format!("unknown digest algorithm {name:?} (sha256, blake3)"))),
        }
    }
}

/// Leaf and chunk digests of one algorithm, with those of zeros computed once.
#[derive(Clone, Debug)]
pub struct ChunkHasher {
    algorithm: Algorithm,
    zero_leaf: Digest,
    zero_chunk: Digest,
}

impl ChunkHasher {
    /// Prepares the digests of zeros.
    pub fn new(algorithm: Algorithm) -> Self {
        let zero_leaf = algorithm.hash(&[0; LEAF_LEN]);
        let mut this = Self { algorithm, zero_leaf, zero_chunk: zero_leaf };
        this.zero_chunk = this.chunk((0..CHUNK_LEN / to_u64(LEAF_LEN)).map(|_| zero_leaf));
        this
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Digest of a leaf that holds `bytes` (at most [`LEAF_LEN`]).
    pub fn leaf(&self, bytes: &[u8]) -> Digest {
        self.algorithm.hash(bytes)
    }

    /// Digests of several leaves: as [`leaf`](Self::leaf) for each of them, but several at a time,
    /// which is about twice as fast where SHA-256 has instructions of its own.
    pub fn leaves(&self, leaves: &[&[u8]]) -> Vec<Digest> {
        if self.algorithm == Algorithm::Sha256 && batches_agree() {
            let mut digests = vec![[0; Digest::LEN]; leaves.len()];
            tape_sha256::hash_many(leaves, &mut digests);
            return digests.into_iter().map(Digest).collect();
        }
        leaves.iter().map(|leaf| self.leaf(leaf)).collect()
    }

    /// Digest of a leaf of `len` zero bytes.
    pub fn zero_leaf(&self, len: usize) -> Digest {
        if len == LEAF_LEN { self.zero_leaf } else { self.algorithm.hash(&[0; LEAF_LEN][..len]) }
    }

    /// Digest of a chunk from the digests of its leaves, in order.
    pub fn chunk(&self, leaves: impl IntoIterator<Item = Digest>) -> Digest {
        let mut hasher = Hasher::new(self.algorithm);
        leaves.into_iter().for_each(|leaf| hasher.update(leaf.as_bytes()));
        hasher.finish()
    }

    /// Digest of a chunk of `len` zero bytes, `1..=CHUNK_LEN`.
    pub fn zero_chunk(&self, len: u64) -> Digest {
        if len == CHUNK_LEN {
            return self.zero_chunk;
        }
        let short = to_usize(len) % LEAF_LEN;
        let leaves = std::iter::repeat_n(self.zero_leaf, to_usize(len) / LEAF_LEN);
        self.chunk(leaves.chain((short > 0).then(|| self.zero_leaf(short))))
    }
}

/// Whether hashing several leaves at a time gives what hashing them one by one gives: looked at once
/// in a process, since which instructions are used depends on the machine.
fn batches_agree() -> bool {
    static AGREE: OnceLock<bool> = OnceLock::new();
    *AGREE.get_or_init(|| {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(19 * 1000).collect();
        // More leaves than any machine has lanes, of lengths with and without a last block.
        let leaves: Vec<&[u8]> = bytes.chunks(1000).chain([&bytes[..64], &bytes[..0]]).collect();
        let mut digests = vec![[0; Digest::LEN]; leaves.len()];
        tape_sha256::hash_many(&leaves, &mut digests);
        leaves.iter().zip(digests).all(|(leaf, digest)| Algorithm::Sha256.hash(leaf) == Digest(digest))
    })
}

/// The disk digest, fed with chunk digests in guest order.
#[derive(Clone, Debug)]
pub struct TreeHasher {
    algorithm: Algorithm,
    chunks: Vec<u8>,
    hasher: Option<Hasher>,
    size: Option<u64>,
}

impl TreeHasher {
    /// A tree over content of `size` bytes, if that is known; otherwise the chunk digests (8 bytes
    /// a MiB of disk) are kept until [`finish`](Self::finish) names it.
    pub fn new(algorithm: Algorithm, size: Option<u64>) -> Self {
        Self { algorithm, chunks: Vec::new(), hasher: size.map(|size| Self::root(algorithm, size)), size }
    }

    /// Adds the digest of the next chunk, `count` times over.
    pub fn push(&mut self, chunk: Digest, count: u64) {
        for _ in 0..count {
            match &mut self.hasher {
                Some(hasher) => hasher.update(chunk.as_bytes()),
                None => self.chunks.extend_from_slice(chunk.as_bytes()),
            }
        }
    }

    /// The digest of a disk whose content has `size` bytes (the size given to `new`, if any).
    pub fn finish(self, size: u64) -> Digest {
        debug_assert!(
            self.size.is_none_or(|announced| announced == size),
            "the size of a disk does not change"
        );
        let mut hasher = self.hasher.unwrap_or_else(|| Self::root(self.algorithm, size));
        hasher.update(&self.chunks);
        hasher.finish()
    }

    fn root(algorithm: Algorithm, size: u64) -> Hasher {
        let mut name = [0; 16];
        name[..algorithm.name().len()].copy_from_slice(algorithm.name().as_bytes());
        let mut hasher = Hasher::new(algorithm);
        hasher.update(TREE_TAG);
        hasher.update(&name);
        hasher.update(&to_u64(LEAF_LEN).to_le_bytes());
        hasher.update(&CHUNK_LEN.to_le_bytes());
        hasher.update(&size.to_le_bytes());
        hasher
    }
}

/// A running hash of either algorithm.
#[derive(Clone, Debug)]
enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Blake3 => Self::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        Digest(match self {
            Self::Blake3(hasher) => *hasher.finalize().as_bytes(),
            Self::Sha256(hasher) => hasher.finalize().into(),
        })
    }
}

/// First bytes under every disk digest; the version changes with the definition.
const TREE_TAG: &[u8; 16] = b"vmferry-tree-v1\0";

/// The disk digest of `content` held in memory; for tests and small disks.
///
/// `content` is zero-extended to a multiple of 512 bytes first.
pub fn tree_digest(algorithm: Algorithm, content: &[u8]) -> Digest {
    let mut content = content.to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    let hasher = ChunkHasher::new(algorithm);
    let size = to_u64(content.len());
    let mut tree = TreeHasher::new(algorithm, Some(size));
    for chunk in content.chunks(to_usize(CHUNK_LEN)) {
        tree.push(hasher.chunk(chunk.chunks(LEAF_LEN).map(|leaf| hasher.leaf(leaf))), 1);
    }
    tree.finish(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_at_a_time_have_the_digests_of_leaves_one_by_one() {
        assert!(batches_agree());
        let mut bytes = vec![0; 37 * LEAF_LEN];
        crate::testkit::Rng::new(5).fill(&mut bytes);
        for algorithm in [Algorithm::Sha256, Algorithm::Blake3] {
            let hasher = ChunkHasher::new(algorithm);
            for count in [0, 1, 2, 3, 4, 5, 7, 16, 31, 37] {
                let leaves: Vec<&[u8]> = bytes.chunks(LEAF_LEN).take(count).collect();
                let one_by_one: Vec<Digest> = leaves.iter().map(|leaf| hasher.leaf(leaf)).collect();
                assert_eq!(hasher.leaves(&leaves), one_by_one, "{count} leaves, {algorithm}");
            }
        }
    }
}
