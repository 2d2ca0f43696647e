//! The last steps of a job: reading back, the closing record, names, the manifest.

use std::{fs::File, io, path::Path};

use tokio_util::sync::CancellationToken;
use vmferry_formats::{Format, digest::Algorithm};

use super::{Done, Job, JobDisk};
use crate::{
    error::{Error, ErrorKind, Result},
    pipeline::{
        Checker,
        engine::Engine,
        hash::{FileDigest, FileHash},
        journal::{Closed, DiskEnd, Journal, Record},
        manifest::{ContainerTail, Head, Tail},
        progress::{Phase, Snapshot},
        stages::{DiskChecks, VerifyStage},
        target::{ManifestContent, manifest_head},
    },
    source::{self, OpenedSource, SourceFormat, SourceOptions},
    sys,
};

impl Job<'_> {
    /// The closing record of an output of these disks.
    pub(super) fn closed(&self, disks: &[DiskEnd], output_size: u64) -> Closed {
        let plain = match (&self.header.container, disks) {
            (None, [disk]) => Some(disk),
            _ => None,
        };
        Closed {
            size: disks.iter().map(|disk| disk.size).sum(),
            output_size,
            zero: disks.iter().map(|disk| disk.zero).sum(),
            tree: plain.and_then(|disk| disk.tree.clone()),
            file_sha256: plain.and_then(|disk| disk.hash.clone()),
        }
    }

    pub(super) async fn verify_and_close(
        mut self,
        mut journal: Journal,
        records: Vec<Record>,
        disks: Vec<DiskEnd>,
        mut closed: Closed,
        resumed_from: Option<(usize, u64)>,
    ) -> Result<Done> {
        // Taken here, since reading back counts anew.
        let moved = self.means.progress.snapshot();
        #[cfg(feature = "cloud")]
        if self.object.is_some() {
            let disks = (disks, records);
            return self.close_object(journal, disks, closed, moved, resumed_from).await;
        }
        debug_assert!(records.is_empty(), "a sync of a file covers everything");
        let partial = self.paths.partial.clone();
        self.prove(&mut journal, &disks, &mut closed, &partial).await?;
        journal.append([Record::Closed(closed.clone())])?;
        self.complete(journal, disks, closed, moved, resumed_from)
    }

    /// The steps behind the closing record, for a run that was killed between them.
    pub(super) async fn complete_earlier(
        mut self,
        mut journal: Journal,
        mut disks: Vec<DiskEnd>,
        mut closed: Closed,
    ) -> Result<Done> {
        self.warnings.push("an earlier run had written everything; its last steps were done now".into());
        if self.header.container.is_none() {
            // Nothing of it was recorded: it is what the closing record says.
            disks = vec![DiskEnd {
                disk: 0,
                size: closed.size,
                zero: closed.zero,
                start: 0,
                len: closed.output_size,
                out: closed.output_size,
                tree: closed.tree.clone(),
                hash: closed.file_sha256.clone(),
            }];
        }
        let resumed_from = match disks.as_slice() {
            [disk] if self.header.container.is_none() => (0, disk.size),
            _ => (disks.len(), 0),
        };
        #[cfg(feature = "cloud")]
        if self.object.is_some() {
            return self.end_object(journal, disks, closed, Snapshot::default(), Some(resumed_from)).await;
        }
        let made = self.paths.made(&self.header, &closed)?.to_owned();
        self.prove(&mut journal, &disks, &mut closed, &made).await?;
        self.complete(journal, disks, closed, Snapshot::default(), Some(resumed_from))
    }

    /// Reads the output at `path` again as far as the user wants: to verify it, to hash it.
    pub(super) async fn prove(
        &mut self,
        journal: &mut Journal,
        disks: &[DiskEnd],
        closed: &mut Closed,
        path: &Path,
    ) -> Result<()> {
        let options = self.means.options;
        if options.verify
            && let Err(error) =
                self.read_back(journal, disks, path).await.map_err(Error::damage_is_verification)
        {
            if error.kind() != ErrorKind::Verification {
                return Err(error);
            }
            journal.append([Record::Tainted { reason: format!("the output did not read back: {error}") }])?;
            journal.send_to_mirror().await?;
            return Err(error.with_hint(format!(
                "{} is not usable; look for disk errors, then start again with --restart",
                path.display()
            )));
        }
        if options.sums && closed.file_sha256.is_none() && self.paths.is_object {
            self.warnings.push("--sums: an object is not fetched again for its SHA-256".into());
        } else if options.sums && closed.file_sha256.is_none() {
            let path = path.to_owned();
            let (limit, cancel) = (closed.output_size, self.means.cancel.clone());
            let hash = hash_file(path, limit, FileHash::Sha256, cancel).await?;
            closed.file_sha256 = Some(hash.to_string());
            self.warnings.push("--sums: the output was read again for its SHA-256".into());
        }
        Ok(())
    }

    /// Reads the images back from the disk through the reader of their format.
    async fn read_back(&mut self, journal: &Journal, disks: &[DiskEnd], path: &Path) -> Result<()> {
        let progress = self.means.progress;
        if !self.paths.is_object {
            let dropped = File::open(path).map_err(|error| Error::io("open", path, error))?;
            // What is still in the page cache would prove nothing about the disk.
            let _ = rustix::fs::fadvise(&dropped, 0, None, rustix::fs::Advice::DontNeed);
        }
        progress.restart_at(0, 0);
        progress.set_total(Some(disks.iter().map(|disk| disk.size).sum()));
        progress.set_phase(Phase::Verifying);
        let reading = self.means.options.reading_back();
        let images: Vec<Image> =
            self.disks.iter().zip(disks).map(|(disk, end)| self.image(disk, end)).collect();
        for (image, end) in images.into_iter().zip(disks) {
            let is_whole = image.place.is_none();
            let mut opened = image.open(path, &reading).await?;
            let content = end.size.next_multiple_of(512);
            if is_whole {
                progress.set_total(opened.source.size());
            }
            let engine = Engine::new(
                &opened.source,
                None,
                Checker::new(self.means.options.digest),
                Some(content),
                self.means.engine_options(),
            )?;
            let expected = DiskChecks::new(journal.reader()?, end.disk);
            let mut stage = VerifyStage::new(Box::new(expected), content);
            let read = engine.run(&mut opened.source, 0, 0, &mut stage).await?;
            stage.finish(&opened.name, read)?;
            drop((opened, engine));
            sys::release_free_memory();
        }
        Ok(())
    }

    /// Where the image of a disk lies in the output.
    fn image(&self, disk: &JobDisk<'_>, end: &DiskEnd) -> Image {
        let place = self.header.container.is_some().then_some((end.start, end.len));
        Image { name: disk.name.clone(), format: disk.spec.format(), place }
    }

    fn complete(
        self,
        journal: Journal,
        disks: Vec<DiskEnd>,
        closed: Closed,
        moved: Snapshot,
        resumed_from: Option<(usize, u64)>,
    ) -> Result<Done> {
        let options = self.means.options;
        let content = match options.digest {
            Some(algorithm) if options.manifest => Some(self.manifest(algorithm, &disks, &closed)),
            _ => None,
        };
        let manifest = self.paths.complete(journal, &self.header, &closed, content.as_ref())?;
        Ok(Done { disks, closed, moved, resumed_from, manifest, warnings: self.warnings })
    }

    pub(super) fn manifest(
        &self,
        algorithm: Algorithm,
        disks: &[DiskEnd],
        closed: &Closed,
    ) -> ManifestContent {
        let lines = self.disks.iter().zip(disks).map(|(disk, end)| {
            let head = manifest_head(&disk.spec, algorithm, end.size);
            let tree = end.tree.clone().unwrap_or_default();
            if self.container.is_none() {
                let file_sha256 = closed.file_sha256.clone();
                return (head, Tail { tree, output_size: closed.output_size, file_sha256, file_sha1: None });
            }
            let head = Head { file: Some(disk.name.clone()), offset: Some(end.start), ..head };
            let hash = |kind| end.hash.clone().filter(|_| disk.hash == Some(kind));
            let (file_sha1, file_sha256) = (hash(FileHash::Sha1), hash(FileHash::Sha256));
            (head, Tail { tree, output_size: end.len, file_sha256, file_sha1 })
        });
        let tail =
            || ContainerTail { output_size: closed.output_size, file_sha256: closed.file_sha256.clone() };
        ManifestContent {
            disks: lines.collect(),
            container: self.container.as_ref().map(|container| (container.head.clone(), tail())),
        }
    }
}

/// An image that is to be read back.
struct Image {
    name: String,
    format: Format,
    /// Offset and length, if it is not the whole output.
    place: Option<(u64, u64)>,
}

impl Image {
    async fn open(self, path: &Path, reading: &SourceOptions) -> Result<OpenedSource> {
        if let Some(place) = self.place {
            let name = format!("{} in {}", self.name, path.display());
            return source::open_window(path, name, place, self.format, reading).await;
        }
        let location = path
            .to_str()
            .ok_or_else(|| Error::usage("the output's path is not UTF-8; it cannot be read back"))?;
        let format = Some(SourceFormat::Image(self.format));
        source::open(location, &SourceOptions { format, ..reading.clone() }).await
    }
}

/// Hash of the first `limit` bytes of a file, read from the start.
///
/// # Errors
/// It cannot be read, or `cancel` was.
pub(crate) async fn hash_file(
    path: std::path::PathBuf,
    limit: u64,
    kind: FileHash,
    cancel: CancellationToken,
) -> Result<FileDigest> {
    let hash = move || {
        let failed = |error| Error::io("read back", &path, error);
        let mut file = io::Read::take(File::open(&path).map_err(failed)?, limit);
        let (mut hash, mut buffer) = (kind.start(), vec![0; 1 << 20]);
        loop {
            if cancel.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted while the output was hashed"));
            }
            match io::Read::read(&mut file, &mut buffer).map_err(failed)? {
                0 => return Ok(hash.finish()),
                len => hash.update(&buffer[..len]),
            }
        }
    };
    let hashed = tokio::task::spawn_blocking(hash).await;
    hashed.map_err(|error| Error::failed("hashing panicked").with_source(error))?
}
