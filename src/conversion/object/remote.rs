//! A journal that lies with the object to be, so that a run goes on from any machine.
//!
//! ```text
//! <prefix>/.vmferry/<run id>.json                  the marker, by which the run is found
//! <prefix>/.vmferry/<run id>/00000001.journal      {"segment":1,"at":0} and lines of the journal
//! <prefix>/.vmferry/<run id>/00000002.journal      …
//! <prefix>/.vmferry/<run id>/3f09a1-00000001.pin   bytes of a part that is not with the store yet
//! ```
//!
//! Segments are numbered and never rewritten: each is made only if there is none of its number, so that of
//! two runs that go on at once the slower one ends. One begins where its first line says: what an earlier
//! run had written behind that does not count. The file on this machine is a copy of what they say; it is
//! made anew when a run begins, and may be lost.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{ConversionOptions, ObjectPlace, paths};
use crate::{
    error::{Error, Result},
    object::{Act, Marker, ObjectLocation, Store, answer_of, object_error},
    pipeline::journal::{Journal, Mirror, ObjectHeader},
    sink::object::{PinCopies, PinsFile},
    source::BoxFuture,
};

/// The first line of a segment.
#[derive(Serialize, Deserialize)]
struct SegmentHead {
    segment: u32,
    /// Bytes of the journal in front of it.
    at: u64,
}

/// Makes the journal on this machine say what that beside the object says, if the options want one there.
/// Without them nothing is done.
///
/// # Errors
/// The store cannot be asked, what it has is no journal, or another run of this machine is at work.
pub(crate) async fn fetch_journal(url: &str, options: &ConversionOptions) -> Result<()> {
    if !options.object.remote_journal {
        return Ok(());
    }
    let paths = paths(url, options)?;
    let place = ObjectPlace::open(url, options, None).await?;
    let mut journal = Journal::open(&paths.journal)?;
    let fetched = place.fetch_into(&mut journal, PinsFile::beside(&paths.journal)).await;
    if !matches!(fetched, Ok(true)) && !journal.was_found() {
        journal.remove()?;
    }
    fetched.map(drop)
}

impl ObjectPlace {
    /// Whether the journal has anything in it then.
    async fn fetch_into(&self, journal: &mut Journal, mut pins: PinsFile) -> Result<bool> {
        let markers = Marker::beside(&self.store, &self.location).await?;
        let ours = |marker: &Marker| marker.uploads.iter().any(|upload| upload.key == self.location.key());
        let runs: Vec<String> = markers
            .into_iter()
            .filter_map(|found| found.marker.ok())
            .filter(ours)
            .map(|marker| marker.run)
            .collect();
        let mut found: Option<(String, Vec<Segment>)> = None;
        for run in &runs {
            let segments = self.segments(run).await?;
            if segments.is_empty() {
                continue;
            }
            if let Some((other, _)) = &found {
                return Err(Error::refused(format!(
                    "two interrupted runs have left journals of {}: {other} and {run}",
                    self.location
                ))
                .with_hint("give one of them up with vmferry gc URL --run ID --yes"));
            }
            found = Some((run.clone(), segments));
        }
        let Some((run, segments)) = found else {
            let Some(summary) = journal.summary()? else { return Ok(false) };
            let copied = summary.header.object.filter(|object| object.remote);
            if copied.is_some_and(|object| !runs.contains(&object.run)) {
                // A copy of what is over.
                pins.remove()?;
                journal.truncate(0)?;
                return Ok(false);
            }
            return Ok(true);
        };
        tracing::info!(run, segments = segments.len(), "taking the journal from beside the object");
        journal.truncate(0)?;
        for segment in &segments {
            let (at, lines) = self.read_segment(&run, segment).await?;
            if at > journal.end() {
                return Err(lacks(&run, segment.number));
            }
            journal.truncate(at)?;
            journal.copy(&lines)?;
        }
        pins.remove()?;
        let point = journal.summary()?.and_then(|summary| summary.checkpoint);
        for pin in point.iter().flat_map(|point| &point.pins) {
            let mut at = pin.at;
            for name in &pin.objects {
                let bytes =
                    self.read_pin(&run, name, pin.at.saturating_add(pin.len).saturating_sub(at)).await?;
                // Whether they are the right ones, their checksum tells later on.
                pins.write(at, std::slice::from_ref(&bytes))?;
                at += bytes.len() as u64;
            }
        }
        pins.sync()?;
        Ok(true)
    }

    /// The segments of a run, in order.
    async fn segments(&self, run: &str) -> Result<Vec<Segment>> {
        let directory = self.directory_of(run)?;
        let path = directory.path()?;
        let failed = |error| object_error(&directory, Act::List, error);
        let mut listed = self.store.objects.list(Some(&path));
        let mut segments = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(failed)? {
            let name = meta.location.filename().unwrap_or_default();
            let number = name.strip_suffix(".journal").and_then(|number| number.parse().ok());
            if let Some(number) = number.filter(|number| name == segment_name(*number)) {
                segments.push(Segment { number, size: meta.size, path: meta.location });
            }
        }
        segments.sort_by_key(|segment| segment.number);
        match segments.iter().zip(1..).find(|(segment, number)| segment.number != *number) {
            // The first goes first when a run is over.
            Some(_) if segments.first().is_some_and(|first| first.number != 1) => Ok(Vec::new()),
            Some((_, number)) => Err(lacks(run, number)),
            None => Ok(segments),
        }
    }

    async fn read_segment(&self, run: &str, segment: &Segment) -> Result<(u64, Bytes)> {
        if segment.size > MAX_SEGMENT_LEN {
            return Err(Error::failed(format!(
                "{} has {} bytes, too many for a journal",
                segment.path, segment.size
            )));
        }
        let bytes = self.read_beside(&segment.path, MAX_SEGMENT_LEN).await?;
        let head = bytes.iter().position(|byte| *byte == b'\n');
        let head = head.and_then(|end| Some((serde_json::from_slice(&bytes[..end]).ok()?, end + 1)));
        match head {
            Some((SegmentHead { segment: number, at }, start)) if number == segment.number => {
                Ok((at, bytes.slice(start..)))
            }
            _ => Err(lacks(run, segment.number)),
        }
    }

    async fn read_pin(&self, run: &str, name: &str, max: u64) -> Result<Bytes> {
        let stem = name.strip_suffix(".pin").unwrap_or_default();
        if stem.is_empty() || !stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(Error::failed(format!("the journal is damaged: {name:?} is no name of a pin")));
        }
        self.read_beside(&self.directory_of(run)?.child(&format!("/{name}")).path()?, max).await
    }

    /// All bytes of an object that should have at most `max`.
    async fn read_beside(&self, path: &Path, max: u64) -> Result<Bytes> {
        let place = self.location.with_key(path.as_ref());
        let failed = |error| object_error(&place, Act::Read, error);
        let got = self.store.objects.get(path).await.map_err(failed)?;
        if got.meta.size > max {
            let message =
                format!("{place} has {} bytes, and {max} are the most that belong there", got.meta.size);
            return Err(Error::failed(message)
                .with_hint("give the run up with vmferry gc URL --run ID --yes, and start again"));
        }
        got.bytes().await.map_err(failed)
    }

    fn directory_of(&self, run: &str) -> Result<ObjectLocation> {
        Marker::directory(run, &self.location)
    }

    /// What takes the lines of the journal of a run that begins, or goes on; `None` if they stay here.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(crate) async fn mirror(&self, header: &ObjectHeader) -> Result<Option<Box<dyn Mirror>>> {
        if !header.remote {
            return Ok(None);
        }
        let last = self.segments(&header.run).await?.last().map_or(0, |segment| segment.number);
        let directory = self.directory_of(&header.run)?;
        Ok(Some(Box::new(RemoteJournal { store: self.store.clone(), directory, last })))
    }

    /// The pins file of a run; with copies of it beside the object if its journal is there.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub(crate) fn pins(&self, header: &ObjectHeader, journal: &std::path::Path) -> Result<PinsFile> {
        let file = PinsFile::beside(journal);
        if !header.remote {
            return Ok(file);
        }
        let mut stamp = [0_u8; 4];
        SystemRandom::new()
            .fill(&mut stamp)
            .map_err(|_| Error::failed("the system gives no random bytes for the names of pins"))?;
        let (directory, location) = (self.directory_of(&header.run)?, self.location.clone());
        Ok(file.with_copies(PinCopies {
            store: Arc::clone(&self.store.objects),
            directory: directory.path()?,
            stamp: stamp.iter().map(|byte| format!("{byte:02x}")).collect(),
            explain: Arc::new(move |error| object_error(&location, Act::Write, error)),
        }))
    }
}

/// A segment that was found.
struct Segment {
    number: u32,
    size: u64,
    path: Path,
}

/// Puts lines of a journal beside the object.
#[derive(Debug)]
struct RemoteJournal {
    store: Store,
    directory: ObjectLocation,
    /// Number of the last segment that is there.
    last: u32,
}

impl Mirror for RemoteJournal {
    fn write(&mut self, at: u64, lines: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let segment = self.last + 1;
            let mut text = serde_json::to_vec(&SegmentHead { segment, at })
                .map_err(|error| Error::failed("cannot write a segment").with_source(error))?;
            text.push(b'\n');
            text.extend(lines);
            let (place, text) =
                (self.directory.child(&format!("/{}", segment_name(segment))), Bytes::from(text));
            let path = place.path()?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.store.objects.put_opts(&path, PutPayload::from(text.clone()), options).await;
            match put {
                Ok(_) => {}
                // It may be this very one, of which the answer got lost.
                Err(error) if answer_of(&error).is_conflict() => {
                    let failed = |error| object_error(&place, Act::Read, error);
                    let there = self.store.objects.get(&path).await.map_err(failed)?;
                    if there.bytes().await.map_err(failed)? != text {
                        return Err(Error::refused(format!(
                            "another run goes on with the upload whose journal is {}",
                            self.directory
                        ))
                        .with_hint("let one of them finish; the same command tells what came of it"));
                    }
                }
                Err(error) if answer_of(&error).is_unknown_demand() => {
                    return Err(object_error(&place, Act::Write, error).with_further_hint(
                        "--journal remote takes a store that can be told to overwrite nothing",
                    ));
                }
                Err(error) => return Err(object_error(&place, Act::Write, error)),
            }
            self.last = segment;
            Ok(())
        })
    }
}

fn segment_name(number: u32) -> String {
    format!("{number:08}.journal")
}

fn lacks(run: &str, number: u32) -> Error {
    Error::failed(format!(
        "the journal of run {run} beside the object lacks segment {number}, or it is damaged"
    ))
    .with_hint("give the run up with vmferry gc URL --run ID --yes, and start again")
}

/// Bytes of a segment. The longest real one has the records of a batch.
const MAX_SEGMENT_LEN: u64 = 64 << 20;
