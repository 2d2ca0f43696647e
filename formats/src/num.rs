//! Integer helpers: conversions that cannot lose bits, and rounding.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("vmferry addresses disks larger than 4 GiB in memory-sized integers: 64-bit targets only");

/// `u64` to `usize`; the same width on every supported target.
#[inline]
pub(crate) fn to_usize(n: u64) -> usize {
    usize::try_from(n).expect("usize has 64 bits on every supported target")
}

/// `usize` to `u64`; the same width on every supported target.
#[inline]
pub(crate) fn to_u64(n: usize) -> u64 {
    u64::try_from(n).expect("usize has 64 bits on every supported target")
}

/// `n` rounded up to a multiple of `unit`, or `None` on overflow. `unit` is not 0.
#[inline]
pub(crate) fn round_up(n: u64, unit: u64) -> Option<u64> {
    n.div_ceil(unit).checked_mul(unit)
}
