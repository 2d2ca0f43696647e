//! Telling blocks that will not shrink before an encoder has tried.
//!
//! A fifth of the data on an ordinary system disk is packed already (archives, packages, modules,
//! pictures). The portable encoders spend longer on it than on anything else, to no avail: more than a
//! quarter of their time. Such bytes are evenly spread and do not repeat, which a few samples show.
//! ISA-L gives up on them by itself, as fast as samples could be taken.

use super::DeflateEncoder;
use crate::error::Result;

/// An encoder that gives up at once on what will not shrink.
pub(super) struct Sifting<E>(pub(super) E);

impl<E: DeflateEncoder> DeflateEncoder for Sifting<E> {
    fn compress(&mut self, input: &[u8], out: &mut [u8]) -> Result<Option<usize>> {
        if is_noise(input) { Ok(None) } else { self.0.compress(input, out) }
    }
}

/// Whether samples of `bytes` look like noise. If so, less than a percent
/// could be saved. Blocks that are too short to be sampled never do.
fn is_noise(bytes: &[u8]) -> bool {
    if bytes.len() < SAMPLES * 2 * SAMPLE_LEN {
        return false;
    }
    let mut counts = [0_u32; 256];
    for index in 0..SAMPLES {
        let at = bytes.len() / SAMPLES * index;
        let sample = &bytes[at..at + SAMPLE_LEN];
        sample.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        if repeats(sample) || !is_even(&counts, (index + 1) * SAMPLE_LEN) {
            return false;
        }
    }
    !is_periodic(bytes)
}

/// Whether four bytes in a row come again so often that matches would be found.
fn repeats(sample: &[u8]) -> bool {
    // The last four bytes seen for each hash; zero is seen at first, and four zeros are no noise.
    let mut seen = [0_u32; 1 << HASH_BITS];
    let mut count = 0;
    for bytes in sample.windows(4) {
        let four = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let slot = (four.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize;
        count += u32::from(seen[slot] == four);
        seen[slot] = four;
    }
    count > MAX_REPEATS
}

/// Pearson's test: the squares of what the counts of byte values are off, against what chance makes.
fn is_even(counts: &[u32; 256], total: usize) -> bool {
    // All in whole numbers: 256 times the sum of squares, less the square of the sum.
    let squares: u64 = counts.iter().map(|&count| u64::from(count) * u64::from(count)).sum();
    let total = crate::num::to_u64(total);
    256 * squares - total * total < MAX_CHI_SQUARE * total
}

/// Whether noise repeats at a distance at which files and test patterns do.
fn is_periodic(bytes: &[u8]) -> bool {
    (9..=15).map(|bits| 1_usize << bits).take_while(|distance| 2 * distance <= bytes.len()).any(|distance| {
        let (probe, again) = (&bytes[..PROBE_LEN], &bytes[distance..distance + PROBE_LEN]);
        let (late, early) = (bytes.len() - PROBE_LEN, bytes.len() - PROBE_LEN - distance);
        probe == again || bytes[late..] == bytes[early..early + PROBE_LEN]
    })
}

const SAMPLES: usize = 3;
const SAMPLE_LEN: usize = 2048;

/// Bits of the hash of four bytes.
const HASH_BITS: u32 = 11;

/// Chance makes about none in a sample.
const MAX_REPEATS: u32 = 4;

/// Chance makes 255, with a standard deviation of 23. At this bound some 0.03 of the 8 bits of a byte
/// could be saved, less than half a percent.
const MAX_CHI_SQUARE: u64 = 400;

const PROBE_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Rng;

    const LEN: usize = 64 << 10;

    fn noise() -> Vec<u8> {
        let mut noise = vec![0; LEN];
        Rng::new(5).fill(&mut noise);
        noise
    }

    /// Bytes that shrink to what zlib makes of them at its best.
    fn shrunk(bytes: &[u8]) -> usize {
        let mut encoder = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
        let mut out = vec![0; encoder.zlib_compress_bound(bytes.len())];
        encoder.zlib_compress(bytes, &mut out).unwrap()
    }

    #[test]
    fn noise_is_told() {
        let mut rng = Rng::new(6);
        for _ in 0..200 {
            let mut noise = vec![0; LEN];
            rng.fill(&mut noise);
            assert!(is_noise(&noise));
        }
    }

    #[test]
    fn what_shrinks_by_more_than_a_percent_is_no_noise() {
        let mut rng = Rng::new(7);
        // Noise of fewer values, noise with runs, with copies near and far, counters, and text.
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for values in [2_u64, 16, 64, 128, 192, 224] {
            blocks.push((0..LEN).map(|_| u8::try_from(rng.below(values)).unwrap()).collect());
        }
        for period in [64_usize, 512, 4096, 8192, 16_384] {
            blocks.push({
                let noise = noise();
                (0..LEN).map(|index| noise[index % period]).collect()
            });
        }
        blocks.push((0..LEN).map(|index| u8::try_from(index % 256).unwrap()).collect());
        blocks.push((0..LEN / 4).flat_map(|index| u32::try_from(index).unwrap().to_le_bytes()).collect());
        blocks.push(vec![0; LEN]);
        let mut half = noise();
        half[LEN / 2..].fill(0);
        blocks.push(half);
        for (index, block) in blocks.iter().enumerate() {
            assert!(shrunk(block) < LEN * 99 / 100, "block {index} does not shrink");
            assert!(!is_noise(block), "block {index}");
        }
    }

    #[test]
    fn short_blocks_are_left_to_the_encoder() {
        for len in [0, 1, 4096, 8192] {
            assert!(!is_noise(&noise()[..len]));
        }
        assert!(is_noise(&noise()[..16 << 10]));
    }
}
