//! Which parts of a disk are data, without reading them.

use std::ops::Range;

use crate::{
    error::{Error, Result},
    source::{self, Piece, Source, SourceOptions},
};

/// A run of the guest disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Guest bytes.
    pub guest: Range<u64>,
    /// What is known of them.
    pub kind: MapKind,
    /// Where they begin in the image file, for data stored there as it is.
    pub host_offset: Option<u64>,
}

/// What is known of a run of the guest disk without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Stored compressed.
    Compressed,
    /// Stored as it is.
    Data,
    /// Reads as zeros.
    Zero,
}

/// Tells the extents of a source to `each`, in guest order, neighbours that go on in one another
/// joined.
///
/// # Errors
/// It cannot be opened, is refused, or is a stream, which has no map.
pub async fn map(
    location: &str,
    options: &SourceOptions,
    mut each: impl FnMut(MapEntry) -> Result<()> + Send,
) -> Result<()> {
    let opened = source::open(location, options).await?;
    let Source::Random(mut plan) = opened.source else {
        return Err(Error::refused(format!("{} comes in order and has no map", opened.name))
            .with_hint("save the disk to a file and name that"));
    };
    let (size, mut at, mut run) = (plan.size(), 0, None);
    while at < size {
        let piece = plan.piece_at(at).await?;
        at = piece.guest_offset + piece.len;
        for entry in entries(&piece) {
            run = match run.take() {
                None => Some(entry),
                Some(last) => match join(last, entry) {
                    Ok(joined) => Some(joined),
                    Err((last, entry)) => {
                        each(last)?;
                        Some(entry)
                    }
                },
            };
        }
    }
    run.map_or(Ok(()), each)
}

/// The extents of one piece, in order.
fn entries(piece: &Piece) -> Vec<MapEntry> {
    let end = piece.guest_offset + piece.len;
    let Some(read) = &piece.read else {
        return vec![MapEntry { guest: piece.guest_offset..end, kind: MapKind::Zero, host_offset: None }];
    };
    // A cluster may reach past the end of the disk.
    let entry = |chunk: &Range<usize>, kind, host_offset| {
        let [start, end] =
            [chunk.start, chunk.end].map(|at| piece.guest_offset.saturating_add(at as u64).min(end));
        MapEntry { guest: start..end, kind, host_offset }
    };
    let mut entries: Vec<MapEntry> = Vec::new();
    entries.extend(read.holes.iter().map(|hole| entry(hole, MapKind::Zero, None)));
    entries.extend(read.decodes.iter().map(|decode| entry(&decode.chunk, MapKind::Compressed, None)));
    entries.extend(read.reads.iter().map(|(store, read)| {
        let host_offset = (*store == 0).then_some(read.offset);
        entry(&(read.at..read.at + read.len), MapKind::Data, host_offset)
    }));
    entries.sort_by_key(|entry| entry.guest.start);
    entries
}

fn join(last: MapEntry, next: MapEntry) -> Result<MapEntry, (MapEntry, MapEntry)> {
    let goes_on = match (last.host_offset, next.host_offset) {
        (Some(offset), Some(next_offset)) => offset + (last.guest.end - last.guest.start) == next_offset,
        (None, None) => true,
        _ => false,
    };
    if goes_on && last.kind == next.kind && last.guest.end == next.guest.start {
        return Ok(MapEntry { guest: last.guest.start..next.guest.end, ..last });
    }
    Err((last, next))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use vmferry_formats::{
        Compression, WriterSpec, chunk::CHUNK_LEN, qcow2::Qcow2Options, testkit::write_image,
    };

    use super::*;

    async fn map_of(path: &std::path::Path) -> Vec<MapEntry> {
        let mut entries = Vec::new();
        let options = SourceOptions::default();
        let each = |entry| {
            entries.push(entry);
            Ok(())
        };
        map(path.to_str().unwrap(), &options, each).await.unwrap();
        entries
    }

    #[tokio::test]
    async fn extents_follow_each_other_and_equal_ones_are_joined() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.raw");
        let file = std::fs::File::create(&path).unwrap();
        let size = 5 * CHUNK_LEN + 700;
        file.set_len(size).unwrap();
        // Data over the border of two chunks, holes around it.
        file.write_all_at(&[1; 0x4_0000], CHUNK_LEN - 0x2_0000).unwrap();
        let (start, end) = (CHUNK_LEN - 0x2_0000, CHUNK_LEN + 0x2_0000);
        let zero = |guest| MapEntry { guest, kind: MapKind::Zero, host_offset: None };
        let data = MapEntry { guest: start..end, kind: MapKind::Data, host_offset: Some(start) };
        assert_eq!(map_of(&path).await, [zero(0..start), data, zero(end..size)]);

        let disk = std::fs::read(&path).unwrap();
        let options = Qcow2Options { compression: Compression::Deflate, ..Qcow2Options::default() };
        let image = directory.path().join("disk.qcow2");
        let bytes = write_image(&WriterSpec::Qcow2(options), &disk, "disk.qcow2", true).unwrap();
        std::fs::write(&image, bytes).unwrap();
        let size = size.next_multiple_of(512);
        let packed = MapEntry { guest: start..end, kind: MapKind::Compressed, host_offset: None };
        assert_eq!(map_of(&image).await, [zero(0..start), packed, zero(end..size)]);
    }
}
