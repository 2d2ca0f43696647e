//! The header block of a tar entry; contract 4.2.

use crate::{Error, Result};

/// The header block of a regular file of `size` bytes: mode 0644, owner 0, `mtime` in seconds since
/// 1970. Below 8 GiB it is POSIX ustar with octal digits, from there on GNU with base-256 numbers; it
/// is one block in either case.
///
/// # Errors
/// The name cannot be written ([`check_name`]), or `mtime` is past [`MAX_MTIME`].
pub fn header(name: &str, size: u64, mtime: u64) -> Result<[u8; BLOCK_LEN]> {
    check_name(name)?;
    if mtime > MAX_MTIME {
        return Err(Error::invalid_input(format!("a tar entry cannot be of second {mtime} since 1970")));
    }
    let mut block = [0; BLOCK_LEN];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, b"0000644\0");
    put(&mut block, 108, b"0000000\0");
    put(&mut block, 116, b"0000000\0");
    if size < OCTAL_END {
        put(&mut block, 124, format!("{size:011o}\0").as_bytes());
        put(&mut block, 257, b"ustar\0");
        put(&mut block, 263, b"00");
    } else {
        put(&mut block, 124, &[0x80, 0, 0, 0]);
        put(&mut block, 128, &size.to_be_bytes());
        put(&mut block, 257, b"ustar  \0");
    }
    put(&mut block, 136, format!("{mtime:011o}\0").as_bytes());
    block[156] = b'0';
    // The sum is over the block with the field itself as spaces.
    put(&mut block, 148, b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn put(block: &mut [u8; BLOCK_LEN], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Whether an entry of an OVA may be called `name`: 1 to 99 of `A-Z a-z 0-9 . _ -`, no directory. All
/// importers take such names, and no extension of tar is needed to write them.
///
/// # Errors
/// Why not.
pub fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err(Error::invalid_input(format!(
            "a file in an OVA has a name of 1 to {MAX_NAME_LEN} bytes, not {}",
            name.len()
        )));
    }
    if let Some(bad) = name.chars().find(|&c| !u8::try_from(c).is_ok_and(good)) {
        return Err(Error::invalid_input(format!(
            "{name:?} cannot be the name of a file in an OVA because of {bad:?}: letters, digits, '.', '_' and '-' can"
        )));
    }
    if name.bytes().all(|byte| byte == b'.') {
        return Err(Error::invalid_input(format!("{name:?} is not the name of a file")));
    }
    Ok(())
}

/// Bytes of a block of a tar archive.
pub const BLOCK_LEN: usize = 512;

/// Latest time that eleven octal digits hold, in seconds since 1970: the year 2242.
pub const MAX_MTIME: u64 = OCTAL_END - 1;

/// First number that eleven octal digits do not hold.
const OCTAL_END: u64 = 1 << 33;

/// Longest name in bytes that needs no extension.
const MAX_NAME_LEN: usize = 99;
