//! Finding zeros: the cheapest byte is the one that is never stored, hashed or compressed.
//!
//! The scan is safe code in a shape that the compiler vectorises: a 256-byte OR-fold with an exit
//! after each block, so data is left after its first non-zero block and zeros run at memory speed.

/// Bytes that one step of the scan folds together.
const FOLD: usize = 256;

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
}
