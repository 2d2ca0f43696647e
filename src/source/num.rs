//! Integer conversions that cannot lose bits: the formats crate compiles for 64-bit targets only.

/// `u64` to `usize`.
#[inline]
pub(super) fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("usize has 64 bits on every supported target")
}

/// `usize` to `u64`.
#[inline]
pub(super) fn to_u64(n: usize) -> u64 {
    u64::try_from(n).expect("usize has 64 bits on every supported target")
}
