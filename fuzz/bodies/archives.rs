//! Archives.

use vmferry_formats::{
    Error,
    ova::{Archive, ArchiveOpener, MAX_ENTRIES, parse_sum, parse_sums},
    ovf,
    plan::{Need, Step},
    testkit::tar_checksum,
};

/// Questions that the opener may ask: its headers, their bodies and the texts.
const MAX_QUESTIONS: usize = 16_000;

/// An OVA as it stands, and once more with the checksums of its headers put right: chance finds few.
pub fn ova_reader(data: &[u8]) {
    walk(data);
    let mut right = data.to_vec();
    for block in right.chunks_exact_mut(512) {
        if block[257..].starts_with(b"ustar") {
            tar_checksum(block);
        }
    }
    walk(&right);
}

fn walk(data: &[u8]) {
    let Ok(archive) = open(data) else { return };
    assert!(archive.entries.len() <= MAX_ENTRIES && archive.end <= data.len() as u64);
    let mut at = 0;
    for entry in &archive.entries {
        assert!(at <= entry.header && entry.header < entry.data.start, "entries follow each other");
        assert!(
            entry.data.start <= entry.data.end && entry.data.end <= archive.end,
            "{entry:?} leaves its file"
        );
        assert!(!entry.name.contains(['/', '\\', '\0']) && !matches!(entry.name.as_str(), "" | "." | ".."));
        at = entry.data.end;
    }
    let text_of = |index: usize| {
        let range = &archive.entries[index].data;
        &data[range.start as usize..range.end as usize]
    };
    assert_eq!(archive.descriptor_text, text_of(archive.descriptor));
    let _ = ovf::parse(&archive.descriptor_text);
    if let Some((index, manifest)) = &archive.manifest {
        assert_eq!(manifest, text_of(*index));
        for sum in parse_sums(manifest).unwrap_or_default() {
            assert_eq!(sum.value.len(), sum.algorithm.len_bytes());
        }
    }
    if let Some((index, certificate)) = &archive.certificate {
        assert_eq!(certificate, text_of(*index));
        let _ = parse_sum(certificate);
    }
}

fn open(data: &[u8]) -> Result<Archive, Error> {
    let mut opener = ArchiveOpener::new(data.len() as u64);
    for _ in 0..MAX_QUESTIONS {
        match opener.step()? {
            Step::Ready(archive) => return Ok(archive),
            Step::Need(need) => {
                assert!(need.file == 0 && need.len > 0 && need.len <= Need::MAX_LEN, "{need:?}");
                let end = need.offset.checked_add(need.len as u64).expect("offsets do not wrap");
                assert!(end <= data.len() as u64, "{need:?} leaves the file");
                opener.supply(need, &data[need.offset as usize..end as usize])?;
            }
        }
    }
    panic!("opening never ends");
}
