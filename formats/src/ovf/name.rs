//! Names of files: what may be read, and what is written.

use super::text::shortened;
use crate::error::{Error, Result};

/// The name of a file that a descriptor or an archive mentions, if it is a bare one: such a name can
/// only mean a file beside the descriptor or in the archive.
///
/// # Errors
/// It is empty, too long, leads into or out of a directory, is a URL, or holds what steers a terminal.
pub fn safe_name(href: &str) -> Result<&str> {
    let is_bare = !href.is_empty()
        && href != "."
        && href != ".."
        && href.len() <= MAX_NAME_LEN
        && !href.contains(|c: char| matches!(c, '/' | '\\') || c.is_control());
    if is_bare {
        return Ok(href);
    }
    Err(Error::refused(format!(
        "{:?} is not a bare file name: only files beside the descriptor, or in the same archive, are read",
        shortened(href)
    )))
}

/// Whether every importer takes the name: contract 4.1.
pub fn is_portable_name(name: &str) -> bool {
    (1..=MAX_PORTABLE_LEN).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Longest name of a file on Linux.
const MAX_NAME_LEN: usize = 255;

/// Longest name that a tar header holds without an extension, and one byte for the NUL.
const MAX_PORTABLE_LEN: usize = 99;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn only_bare_names_are_safe() {
        for name in ["a.vmdk", "my disk (1).vmdk", "ä.vmdk", "...", "-rf", "a:b", "%2e%2e"] {
            assert_eq!(safe_name(name).unwrap(), name);
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "http://x/y", "a\0", "a\nb", &long]
        {
            let error = safe_name(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{name:?}");
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }

    #[test]
    fn portable_names_are_what_the_contract_allows() {
        assert!(is_portable_name("db-disk1.vmdk") && is_portable_name(&"x".repeat(99)));
        for name in ["", ".ovf", "-x", "a b", "ä", "a/b", &"x".repeat(100)] {
            assert!(!is_portable_name(name), "{name:?}");
        }
    }
}
