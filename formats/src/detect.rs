//! Which format a file has, by its magic. RAW is never concluded from content: a guest could write
//! a header into its first sector and make the next reader follow it.

use crate::Format;

/// Bytes from the start of a file that [`detect`] wants to see, if the file has as many.
pub const HEAD_LEN: usize = 512;

/// Bytes from the end of a file that [`detect`] wants to see, if the file has as many.
pub const TAIL_LEN: usize = 512;

/// What the magic of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detected {
    /// gzip stream (RFC 1952).
    Gzip,
    /// An image that [`open`](crate::open) takes.
    Image(Format),
    /// A format that is known, but not read: its name.
    Known(&'static str),
    /// tar archive.
    Tar,
    /// No magic known. It may be RAW; only the user can say so.
    Unknown,
    /// Zstandard stream.
    Zstd,
}

/// Looks at the first [`HEAD_LEN`] and the last [`TAIL_LEN`] bytes of a file (fewer if it is
/// shorter). Formats contract section 1.13.
pub fn detect(head: &[u8], tail: &[u8]) -> Detected {
    let magic = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if magic(0, b"QFI\xfb") {
        Detected::Image(Format::Qcow2)
    } else if magic(0, b"KDMV") || magic(0, b"COWD") || magic(0, b"# Disk DescriptorFile") {
        Detected::Image(Format::Vmdk)
    } else if magic(0, &[0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0]) {
        Detected::Known("seSparse VMDK")
    } else if magic(0, b"conectix") {
        Detected::Known("dynamic VHD")
    } else if magic(0, b"vhdxfile") {
        Detected::Known("VHDX")
    } else if magic(64, &[0x7f, 0x10, 0xda, 0xbe]) {
        Detected::Known("VDI")
    } else if magic(0, &[0x1f, 0x8b]) {
        Detected::Gzip
    } else if magic(0, &[0x28, 0xb5, 0x2f, 0xfd]) {
        Detected::Zstd
    } else if magic(0, &[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Detected::Known("xz stream")
    } else if magic(257, b"ustar") {
        Detected::Tar
    } else if tail.len() >= TAIL_LEN && tail[tail.len() - TAIL_LEN..].starts_with(b"conectix") {
        Detected::Known("fixed VHD")
    } else {
        Detected::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics_are_told_apart() {
        let at = |offset: usize, magic: &[u8]| {
            let mut head = vec![0; 512];
            head[offset..offset + magic.len()].copy_from_slice(magic);
            detect(&head, &[0; 512])
        };
        assert_eq!(at(0, b"QFI\xfb"), Detected::Image(Format::Qcow2));
        assert_eq!(at(0, b"KDMV"), Detected::Image(Format::Vmdk));
        assert_eq!(at(0, b"vhdxfile"), Detected::Known("VHDX"));
        assert_eq!(at(64, &[0x7f, 0x10, 0xda, 0xbe]), Detected::Known("VDI"));
        assert_eq!(at(0, &[0x1f, 0x8b]), Detected::Gzip);
        assert_eq!(at(0, &[0x28, 0xb5, 0x2f, 0xfd]), Detected::Zstd);
        assert_eq!(at(257, b"ustar"), Detected::Tar);
        assert_eq!(at(1, b"QFI\xfb"), Detected::Unknown);
        assert_eq!(detect(b"QF", b"QF"), Detected::Unknown);
        let mut tail = vec![0; 512];
        tail[..8].copy_from_slice(b"conectix");
        assert_eq!(detect(&[0; 512], &tail), Detected::Known("fixed VHD"));
    }
}
