//! Finding zeros: the cheapest byte is the one that is never stored, hashed or compressed.
//!
//! The scan is safe code in a shape that the compiler vectorises: a 256-byte OR-fold with an exit
//! after each block, so data is left after its first non-zero block and zeros run at memory speed.

/// Bytes that one step of the scan folds together.
const FOLD: usize = 256;

/// Smallest block that a [`ZeroMap`] tells apart, in bytes; larger clusters are made of these.
pub const MAX_BLOCK: usize = 4096;

/// Whether every byte of `bytes` is zero. True for an empty slice.
#[inline]
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(FOLD);
    for block in &mut blocks {
        if block.iter().fold(0, |acc, byte| acc | byte) != 0 {
            return false;
        }
    }
    blocks.remainder().iter().fold(0, |acc, byte| acc | byte) == 0
}

/// Which blocks of a piece of a chunk hold a non-zero byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroMap {
    block_len: usize,
    blocks: usize,
    data: Vec<u64>,
}

impl ZeroMap {
    /// Scans `bytes` in blocks of `block_len` bytes (not 0); the last block may be short.
    pub fn scan(bytes: &[u8], block_len: usize) -> Self {
        let blocks = bytes.len().div_ceil(block_len);
        let mut data = vec![0; blocks.div_ceil(64)];
        for (index, block) in bytes.chunks(block_len).enumerate() {
            if !is_zero(block) {
                data[index / 64] |= 1 << (index % 64);
            }
        }
        Self { block_len, blocks, data }
    }

    /// Bytes in a block.
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Whether block `index` holds a non-zero byte.
    pub fn is_data(&self, index: usize) -> bool {
        self.data[index / 64] >> (index % 64) & 1 == 1
    }

    /// Whether all blocks that overlap the byte range `start..end` are zero.
    pub fn range_is_zero(&self, start: usize, end: usize) -> bool {
        (start / self.block_len..end.div_ceil(self.block_len).min(self.blocks))
            .all(|block| !self.is_data(block))
    }

    /// Number of blocks that are zero throughout.
    pub fn zero_blocks(&self) -> usize {
        self.blocks - self.data.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_found() {
        for len in [0, 1, 255, 256, 257, 4096, 4097] {
            assert!(is_zero(&vec![0; len]), "{len} zeros");
            for at in 0..len {
                let mut bytes = vec![0; len];
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "byte {at} of {len}");
            }
        }
    }

    #[test]
    fn map_names_the_blocks_that_hold_data() {
        let mut bytes = vec![0; 4096 * 70 + 5];
        bytes[4095] = 1;
        bytes[4096 * 65] = 1;
        bytes[4096 * 70 + 4] = 1;
        let map = ZeroMap::scan(&bytes, 4096);
        assert_eq!(map.blocks(), 71);
        assert_eq!((0..71).filter(|&block| map.is_data(block)).collect::<Vec<_>>(), [0, 65, 70]);
        assert_eq!(map.zero_blocks(), 68);
        assert!(map.range_is_zero(4096, 4096 * 65));
        assert!(!map.range_is_zero(4096, 4096 * 65 + 1));
        assert!(!map.range_is_zero(4096 * 70, bytes.len()));
    }
}
