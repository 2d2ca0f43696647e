//! File trees: listings, and tar archives as they are streamed.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::body::{self, Pieces};
use crate::disk::{Disk, to_usize};

/// A tar record.
const BLOCK: u64 = 512;

/// A file of a volume that is offered as a tree.
pub(super) fn find(disk: &Disk, path: &str) -> Option<Disk> {
    if path == "disk.img" && !disk.is_missing() {
        return Some(disk.clone());
    }
    disk.files().iter().find(|(name, _)| name == path).map(|(_, content)| Disk::bytes(Bytes::clone(content)))
}

/// The listing of the tree's root.
pub(super) fn listing(disk: &Disk) -> String {
    let mut names: Vec<&str> = disk.files().iter().map(|(name, _)| name.as_str()).collect();
    if !disk.is_missing() {
        names.push("disk.img");
    }
    names.sort_unstable();
    let lines: String = names.iter().map(|name| format!("<a href=\"{name}\">{name}</a>\n")).collect();
    format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n"
    )
}

/// The whole tree as tar, gzipped.
pub(super) fn tar_gz(disk: Disk, modified: u64) -> Pieces {
    let (sender, pieces) = body::channel();
    tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(sender, Compression::fast());
        let mut write = || -> io::Result<()> {
            add(&mut encoder, "disk.img", &disk, modified)?;
            for (name, content) in disk.files() {
                add(&mut encoder, name, &Disk::bytes(Bytes::clone(content)), modified)?;
            }
            encoder.write_all(&[0; 1024])
        };
        // A read error ends the archive early but cleanly; that nobody listens any more is no matter.
        drop(write());
        drop(encoder.finish().and_then(|mut sender| sender.flush()));
    });
    pieces
}

fn add(out: &mut impl io::Write, name: &str, disk: &Disk, modified: u64) -> io::Result<()> {
    out.write_all(&header(name, disk.len_bytes(), modified))?;
    let mut offset = 0;
    while offset < disk.len_bytes() {
        let len = (64 << 10).min(disk.len_bytes() - offset);
        out.write_all(&disk.piece(offset, to_usize(len))?)?;
        offset += len;
    }
    let padding = disk.len_bytes().next_multiple_of(BLOCK) - disk.len_bytes();
    out.write_all(&vec![0; to_usize(padding)])
}

/// A ustar header of a plain file; sizes of 8 GiB and more are in base 256, as GNU tar has them.
fn header(name: &str, size: u64, modified: u64) -> [u8; 512] {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = header.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, name.as_bytes().get(..name.len().min(100)).unwrap_or_default());
    put(100, b"0000660\0");
    put(108, b"0000153\0");
    put(116, b"0000153\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        put(124, &[0x80]);
        put(128, &size.to_be_bytes());
    }
    put(136, format!("{modified:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    if let Some(place) = header.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    header
}
