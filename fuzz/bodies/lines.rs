//! Journal and manifest: files of lines.

use vmferry::pipeline::{
    journal::{JournalReader, Record, Summary},
    manifest::{ContainerManifest, Manifest, ManifestReader},
};

/// A journal as it stands, and once more with the checksums of its lines put right: chance does
/// not find a CRC-32C.
pub fn journal(data: &[u8]) {
    read_journal(data);
    read_journal(&with_checksums(data));
}

fn read_journal(data: &[u8]) {
    let summary = Summary::read(data).expect("memory can be read");
    if let Some(summary) = &summary {
        let len = usize::try_from(summary.valid_len).expect("a length in memory");
        assert!(len <= data.len());
        let again = Summary::read(&data[..len]).expect("memory can be read");
        assert_eq!(again.as_ref(), Some(summary), "what counts stands on its own");
    }

    let mut reader = JournalReader::new(data);
    while let Some(record) = reader.next_record().expect("memory can be read") {
        let line = record.to_line().expect("what was read can be written");
        let back = Record::from_line(line.strip_suffix(b"\n").expect("a line"));
        assert_eq!(back.as_ref(), Some(&record), "a record comes back from its line");
        if let Record::Chunk(chunk) = record {
            let _ = chunk.check();
            for bits in [9, 12, 16, 21] {
                if let Ok(shape) = chunk.shape(1 << bits) {
                    assert_eq!((shape.guest_offset, shape.len), (chunk.at, chunk.len));
                    assert_eq!(shape.units(), chunk.len.div_ceil(1 << bits));
                }
            }
        }
    }
    assert!(reader.offset() <= data.len() as u64);
}

/// The same lines, each with the checksum of its text; one that is there is replaced.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for line in data.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let end = line.iter().rposition(|&byte| byte == b'}').map_or(line.len(), |at| at + 1);
        let text = &line[..end];
        all.extend_from_slice(text);
        all.extend_from_slice(format!(" {:08x}\n", crc32c::crc32c(text)).as_bytes());
    }
    all
}

/// A manifest, of an image or of a container.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::read(data) {
        agrees(&manifest);
        assert!(ContainerManifest::read(data).is_err(), "it is one or the other");
    }
    let Ok(container) = ContainerManifest::read(data) else { return };
    assert_eq!(container.disks.len(), container.head.disks as usize);
    container.disks.iter().for_each(agrees);
    let mut last = ManifestReader::of_disk(data, container.head.disks - 1).expect("the last disk");
    while last.next_run().expect("it was read before").is_some() {}
    assert!(ManifestReader::of_disk(data, container.head.disks).is_err());
}

fn agrees(manifest: &Manifest) {
    assert_eq!(manifest.tail.tree, manifest.tree.to_string());
    assert_eq!(manifest.head.content_size, manifest.head.virtual_size.next_multiple_of(512));
}
