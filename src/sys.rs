//! The few calls of the system and its C library that have no safe wrapper in rustix.
#![expect(unsafe_code, reason = "ioctl, sync_file_range and malloc_trim through libc")]

use std::{fs::File, io, os::fd::AsRawFd};

/// Starts to write `offset..offset + len` of `file` back to its disk, without waiting; a hint, so
/// that the sync that follows finds little to do.
pub(crate) fn start_writeback(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (signed(offset)?, signed(len)?);
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    let status = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `offset..offset + len` of a block device read as zeros. Both are multiples of 512.
pub(crate) fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: BLKZEROOUT reads two u64 from the pointer, which `range` holds for the whole call.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT, range.as_ptr()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives memory that was freed back to the system. The allocator keeps large blocks once some were
/// freed, and what is allocated next may be of another size.
pub(crate) fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no memory from us and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn signed(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// `_IO(0x12, 127)` of linux/fs.h.
const BLKZEROOUT: libc::Ioctl = 0x127f;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    #[test]
    fn starting_writeback_leaves_content_alone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        super::start_writeback(&file, 0, 10_000).unwrap();
        let mut back = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut back).unwrap();
        assert_eq!(back, [7; 10_000]);
    }

    #[test]
    fn only_block_devices_are_zeroed() {
        let file = tempfile::tempfile().unwrap();
        assert!(super::zero_out(&file, 0, 512).is_err());
    }
}
