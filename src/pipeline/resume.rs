//! Proving that an interrupted run can be taken up: same parameters, same partial output, same
//! source.

use std::{collections::BinaryHeap, fs::File};

use super::{
    engine::Engine,
    journal::{ChunkRecord, DiskHeader, Header, Summary},
    process::Check,
    stages::changed,
    target::TargetPaths,
};
use crate::{
    error::{Error, ErrorKind, Result},
    sink::tail_crc,
    source::{Source, SourceIdentity},
};

/// Refuses to go on if the journal was written under other parameters or for another source.
///
/// # Errors
/// What differs, with `--restart` offered.
pub(crate) fn check_header(old: &Header, new: &Header, assume_unchanged: bool) -> Result<()> {
    let differs = |what: &str, old: &str, new: &str| {
        Err(Error::refused(format!("the interrupted run wrote with {what} {old}, this one asks for {new}"))
            .with_hint("use the same parameters to go on, or start again with --restart"))
    };
    if old.version != new.version {
        return differs("journal version", &old.version.to_string(), &new.version.to_string());
    }
    if old.spec != new.spec {
        return differs("the parameters", &old.spec, &new.spec);
    }
    let digest = |header: &Header| header.digest.clone().unwrap_or_else(|| "none".into());
    if old.digest != new.digest {
        return differs("digest", &digest(old), &digest(new));
    }
    if old.flat_sha256 != new.flat_sha256 {
        return differs("--flat-sha256", &old.flat_sha256.to_string(), &new.flat_sha256.to_string());
    }
    if old.name != new.name {
        return differs("the name", &old.name, &new.name);
    }
    if let (Some(old), Some(new)) = (&old.container, &new.container) {
        if old.parameters != new.parameters {
            return differs("the parameters", &old.parameters, &new.parameters);
        }
        // What stands there may be long; its name is enough.
        let other = new.content.iter().find(|&(key, value)| old.content.get(key) != Some(value));
        if let Some((key, _)) = other {
            return Err(Error::refused(format!("the interrupted run wrote with another {key}"))
                .with_hint("use the same one to go on, or start again with --restart"));
        }
    }
    if old.disks.len() != new.disks.len() {
        let count = |header: &Header| header.disks.len().to_string();
        return differs("a number of disks of", &count(old), &count(new));
    }
    let mut pairs = old.disks.iter().zip(&new.disks);
    pairs.try_for_each(|(before, now)| check_disk(before, now, assume_unchanged))
}

fn check_disk(old: &DiskHeader, new: &DiskHeader, assume_unchanged: bool) -> Result<()> {
    if old.file != new.file {
        let name = |disk: &DiskHeader| disk.file.clone().unwrap_or_default();
        let message = format!(
            "the interrupted run wrote the disk {}, this one writes {} in its place",
            name(old),
            name(new)
        );
        return Err(Error::refused(message)
            .with_hint("use the same parameters to go on, or start again with --restart"));
    }
    let of =
        |what: &str| new.file.as_ref().map_or_else(|| what.to_owned(), |file| format!("{what} of {file}"));
    match (&old.identity, &new.identity) {
        (Some(before), Some(now)) if before == now => Ok(()),
        (Some(before), Some(now)) => Err(Error::new(
            ErrorKind::SourceChanged,
            format!("{} changed since the interrupted run: {}", of("the source"), what_changed(before, now)),
        )
        .with_hint("start again with --restart")),
        _ if assume_unchanged && old.source == new.source && old.size == new.size => Ok(()),
        _ => Err(Error::refused(format!(
            "{} cannot prove that it is what the interrupted run read",
            new.source
        ))
        .with_hint("start again with --restart; for a device that did not change, say --assume-unchanged")),
    }
}

/// Whether the partial output is what the journal describes.
///
/// # Errors
/// It is not.
pub(crate) fn check_partial(summary: &Summary, file: &File, paths: &TargetPaths) -> Result<()> {
    let refused = |why: String| {
        Err(Error::refused(format!("{} is not what the journal describes: {why}", paths.partial.display()))
            .with_hint("start again with --restart"))
    };
    let Some(point) = &summary.checkpoint else { return Ok(()) };
    if paths.identity_of(file)? != (summary.header.device, summary.header.inode) {
        return refused(if paths.is_device { "it is another device" } else { "it is another file" }.into());
    }
    let found = file.metadata().map_err(|error| Error::io("look at", &paths.partial, error))?;
    if !paths.is_device && found.len() < point.out {
        return refused(format!("it has {} bytes, {} were durable", found.len(), point.out));
    }
    if tail_crc(file, &paths.partial, point.out, point.tail_len)? != point.tail_crc {
        return refused(format!("the bytes before {} are not those that were written", point.out));
    }
    Ok(())
}

fn what_changed(before: &SourceIdentity, now: &SourceIdentity) -> String {
    use SourceIdentity::{Export, File, Http, Image, Part};
    match (before, now) {
        (
            Export { source, uid, generation, stopped_since, volume_uid, volume_size, volume },
            Export {
                source: new_source,
                uid: new_uid,
                generation: new_generation,
                stopped_since: new_since,
                volume_uid: new_volume_uid,
                volume_size: new_size,
                volume: new_volume,
            },
        ) => {
            if (source, volume) != (new_source, new_volume) {
                format!("it was volume {volume} of a {source} and is volume {new_volume} of a {new_source}")
            } else if uid != new_uid {
                format!("the {source} was deleted and made anew")
            } else if volume_uid != new_volume_uid {
                format!("the claim of volume {volume} was deleted and made anew")
            } else if volume_size != new_size {
                format!("the claim of volume {volume} has another size")
            } else if generation != new_generation {
                format!("the specification of the {source} was changed; starting a VM does that too")
            } else if stopped_since != new_since {
                "the VM was started in between".into()
            } else {
                "nothing that is known".into()
            }
        }
        (
            File { device, inode, size, modified_ns, .. },
            File { device: new_device, inode: new_inode, size: new_size, modified_ns: new_modified, .. },
        ) => {
            if (device, inode) != (new_device, new_inode) {
                "it is another file".into()
            } else if size != new_size {
                format!("it had {size} bytes and has {new_size}")
            } else if modified_ns != new_modified {
                "it was written to (modification time)".into()
            } else {
                "it was touched (status change time)".into()
            }
        }
        (Http { size, .. }, Http { size: new_size, .. }) if size != new_size => "its size".into(),
        (Http { etag, .. }, Http { etag: new_etag, .. }) if etag != new_etag => "its ETag".into(),
        (Http { .. }, Http { .. }) => "its URL or modification date".into(),
        (Image { files }, Image { files: new_files }) => {
            files.iter().zip(new_files).find(|(before, now)| before != now).map_or_else(
                || "its files".into(),
                |(before, now)| match (before, now) {
                    (Image { .. }, _) | (_, Image { .. }) => "its files".into(),
                    _ => what_changed(before, now),
                },
            )
        }
        (Part { file, .. }, Part { file: new_file, .. }) if file != new_file => what_changed(file, new_file),
        (Part { .. }, Part { .. }) => "its place in the archive".into(),
        _ => "it is of another kind".into(),
    }
}

/// Chunks of an earlier run that are read again before it is taken up.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    seed: u32,
    last: Vec<(u64, u64, Check)>,
    chosen: BinaryHeap<(u32, u64)>,
    checks: std::collections::HashMap<u64, (u64, Check)>,
}

impl Guard {
    /// `seed` decides which chunks are chosen; it comes from the journal's own content.
    pub(crate) fn new(seed: u32) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Considers a chunk of the earlier run: the last two with data and 16 others are kept.
    pub(crate) fn consider(&mut self, record: &ChunkRecord) -> Result<()> {
        if record.shape.is_none() {
            return Ok(());
        }
        let check = record.check()?;
        self.last.push((record.at, record.len, check));
        if self.last.len() > 2 {
            self.last.remove(0);
        }
        let rank = crc32c::crc32c_append(self.seed, &record.at.to_le_bytes());
        self.chosen.push((rank, record.at));
        self.checks.insert(record.at, (record.len, check));
        if self.chosen.len() > CHOSEN
            && let Some((_, at)) = self.chosen.pop()
        {
            self.checks.remove(&at);
        }
        Ok(())
    }

    /// Reads the chunks again. Streams are compared as they are read from their start instead.
    ///
    /// # Errors
    /// The source changed, or cannot be read.
    pub(crate) async fn check(self, engine: &Engine, source: &mut Source) -> Result<()> {
        if matches!(source, Source::Stream(_)) {
            return Ok(());
        }
        let mut chunks: Vec<(u64, u64, Check)> =
            self.checks.into_iter().map(|(at, (len, check))| (at, len, check)).chain(self.last).collect();
        chunks.sort_unstable_by_key(|(at, ..)| *at);
        chunks.dedup_by_key(|(at, ..)| *at);
        for (at, len, expected) in chunks {
            if engine.check_chunk(source, at, len).await? != expected {
                return Err(changed(at));
            }
        }
        Ok(())
    }
}

/// Chunks that the guard reads beside the last two.
const CHOSEN: usize = 16;
