//! An appliance as a directory: each disk an ordinary conversion, then what describes them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, RenameFlags};
use vmferry_formats::{
    WriterSpec,
    ova::{FileNumbers, ManifestHash},
};

use super::{Pack, PackEvent, PackReport, PackedDisk, container::file_hash};
use crate::{
    conversion::{
        Conversion, ConversionOptions, ConversionReport, ResumePolicy, Target,
        job::{JobDisk, hash_file},
    },
    error::{Error, FormatContext as _, Result},
    pipeline::{
        journal::{Checkpoint, Closed, DiskEnd, DiskStart, Header, Journal, Record, Summary},
        resume,
        target::TargetPaths,
    },
    source::{SourceFormat, SourceOptions},
};

/// What an earlier run left in the directory.
#[derive(Default)]
struct Left {
    /// Disks that are complete.
    ended: Vec<DiskEnd>,
    /// Disks of which something may be there that is of that run.
    begun: usize,
    /// All that was left to do is to give the last files their names.
    closed: bool,
    /// Bytes of the journal that count.
    journal_len: u64,
}

impl Pack {
    pub(super) async fn to_directory(&self, directory: &Path) -> Result<PackReport> {
        let options = &self.options.conversion;
        if options.journal.is_some() {
            return Err(Error::usage("--journal names one file, and each disk of a directory has its own")
                .with_hint("leave it out: the journals lie beside the files"));
        }
        let made = !directory.exists();
        fs::create_dir_all(directory).map_err(|error| Error::io("create", directory, error))?;
        let paths = TargetPaths::new(&directory.join(&self.names.descriptor), None, options.force)?;
        let worked = self.fill(directory, &paths).await;
        if worked.is_err() && made {
            // It is no matter if there is something in it.
            let _ = fs::remove_dir(directory);
        }
        worked
    }

    async fn fill(&self, directory: &Path, paths: &TargetPaths) -> Result<PackReport> {
        let disks = self.look_without_streams().await?;
        let encoder = match disks.first() {
            Some(disk) => disk.writer()?.encoder_identity(),
            None => String::new(),
        };
        let header = self.header(&paths.base_name(), &disks, encoder, true);
        // Each conversion opens its source itself.
        let disks: Vec<Planned> = disks
            .into_iter()
            .map(|disk| Planned {
                name: disk.name,
                options: disk.options,
                spec: disk.spec,
                format: disk.format,
            })
            .collect();
        let mut journal = Journal::open(&paths.journal)?;
        if !journal.begins_like_one()? && self.options.conversion.resume != ResumePolicy::Restart {
            let path = paths.journal.display();
            return Err(Error::refused(format!("{path} is not a journal"))
                .with_hint("if a crash made it of a journal, start again with --restart"));
        }
        let summary = journal.summary()?;
        let is_empty = summary.is_none();
        let left = match self.take_up(directory, paths, summary, &header) {
            Ok(left) => left,
            Err(error) if is_empty => {
                // Nothing was begun: leave nothing behind either.
                journal.remove()?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        journal.truncate(left.journal_len)?;
        if left.journal_len == 0 {
            journal.append([Record::Header(Box::new(header))])?;
        }
        let resumed_from = (left.begun > 0).then_some((left.ended.len(), 0));
        let mut run = Run { ended: left.ended, reports: Vec::new(), warnings: Vec::new() };
        for (index, disk) in disks.iter().enumerate().skip(run.ended.len()) {
            self.convert(directory, disk, index, index < left.begun, &mut journal, &mut run).await?;
        }
        let closed = Closed {
            size: run.ended.iter().map(|disk| disk.size).sum(),
            output_size: 0,
            zero: run.ended.iter().map(|disk| disk.zero).sum(),
            tree: None,
            file_sha256: None,
        };
        if !left.closed {
            self.check_free(directory)?;
            journal.append([Record::Closed(closed)])?;
        }
        let described = self.describe(directory, &run.ended)?;
        journal.remove()?;
        sync(directory)?;
        self.directory_report(directory, &disks, run, described, resumed_from)
    }

    /// The sources, but for standard input, which can only be opened once.
    async fn look_without_streams(&self) -> Result<Vec<JobDisk<'_>>> {
        if self.disks.iter().any(|disk| super::builder::is_stdin(&disk.source)) {
            return Err(Error::usage("a disk of an OVF directory cannot come from standard input")
                .with_hint("write an OVA, or convert that disk to a file first"));
        }
        self.look(false).await
    }

    /// Looks at what an earlier run left.
    fn take_up(
        &self,
        directory: &Path,
        paths: &TargetPaths,
        summary: Option<Summary>,
        header: &Header,
    ) -> Result<Left> {
        let options = &self.options.conversion;
        let Some(summary) = summary else {
            self.check_free(directory)?;
            return Ok(Left::default());
        };
        let begun = summary.ended.len() + usize::from(summary.open.is_some());
        match options.resume {
            ResumePolicy::Refuse => Err(Error::refused(format!(
                "{} holds an unfinished appliance of an earlier run",
                directory.display()
            ))
            .with_hint("without --no-resume it is taken up, with --restart it is discarded")),
            // What that run completed is overwritten: it was not used yet.
            ResumePolicy::Restart => {
                self.discard(directory, begun)?;
                Ok(Left::default())
            }
            ResumePolicy::Resume => {
                resume::check_header(&summary.header, header, options.assume_unchanged)?;
                for end in &summary.ended {
                    let path = self.disk_path(directory, end.disk as usize);
                    if !fs::symlink_metadata(&path).is_ok_and(|found| found.len() == end.len) {
                        return Err(Error::refused(format!(
                            "{} is not the disk that the interrupted run wrote",
                            path.display()
                        ))
                        .with_hint(format!(
                            "start again with --restart (its journal is {})",
                            paths.journal.display()
                        )));
                    }
                }
                let (closed, journal_len) = (summary.closed.is_some(), summary.valid_len);
                Ok(Left { ended: summary.ended, begun, closed, journal_len })
            }
        }
    }

    /// Removes the disks that an earlier run completed, on the user's word.
    fn discard(&self, directory: &Path, begun: usize) -> Result<()> {
        for index in 0..begun.min(self.names.disks.len()) {
            let paths = TargetPaths::new(&self.disk_path(directory, index), None, true)?;
            for path in [&paths.output, &paths.manifest] {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", path, error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Refuses what the user did not ask to overwrite.
    fn check_free(&self, directory: &Path) -> Result<()> {
        if self.options.conversion.force {
            return Ok(());
        }
        let names = [&self.names.descriptor, &self.names.manifest, &self.names.certificate];
        for path in names.map(|name| directory.join(name)) {
            if fs::symlink_metadata(&path).is_ok() {
                return Err(Error::refused(format!("{} exists", path.display()))
                    .with_hint("choose another directory, or say --force to overwrite it"));
            }
        }
        Ok(())
    }

    async fn convert(
        &self,
        directory: &Path,
        disk: &Planned,
        index: usize,
        is_ours: bool,
        journal: &mut Journal,
        run: &mut Run,
    ) -> Result<()> {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let path = self.disk_path(directory, index);
        if !is_ours {
            // A complete disk of somebody else would be taken for ours from here on.
            let paths = TargetPaths::new(&path, None, self.options.conversion.force)?;
            if !paths.journal.exists() {
                paths.check_free()?;
            }
            let point = Checkpoint { disk: Some(number), ..Checkpoint::default() };
            let start = DiskStart { disk: number, start: 0, out: 0 };
            journal.append([Record::DiskStart(start), Record::Checkpoint(point)])?;
        }
        let options = ConversionOptions {
            source: disk.options.clone(),
            // A run that was killed before it could say that the disk is complete makes it again.
            force: self.options.conversion.force || is_ours,
            sums: self.options.manifest_hash == ManifestHash::Sha256,
            ..self.options.conversion.clone()
        };
        let conversion = Conversion::builder(self.disks[index].source.clone(), Target::Path(path.clone()))
            .spec(disk.spec.clone())
            .options(options)
            .cancel_token(self.cancel.clone())
            .build()?;
        self.begun(index, conversion.progress());
        let converted = conversion.run().await;
        self.tell(PackEvent::Ended);
        let report = converted?;
        let end = self.end_of(number, &path, &report).await?;
        let told = report.warnings.iter().filter(|warning| !warning.starts_with("--sums"));
        run.warnings.extend(told.map(|warning| format!("{}: {warning}", disk.name)));
        run.reports.push(report);
        let point = Checkpoint { disk: Some(number), ..Checkpoint::default() };
        journal.append([Record::DiskEnd(end.clone()), Record::Checkpoint(point)])?;
        run.ended.push(end);
        Ok(())
    }

    async fn end_of(&self, number: u32, path: &Path, report: &ConversionReport) -> Result<DiskEnd> {
        let hash = match (self.options.manifest_hash, report.file_sha256) {
            (ManifestHash::Sha256, Some(hash)) => hash.to_string(),
            (kind, _) => {
                let cancel = self.cancel.clone();
                hash_file(path.to_owned(), report.output_size, file_hash(kind), cancel).await?.to_string()
            }
        };
        Ok(DiskEnd {
            disk: number,
            size: report.virtual_size,
            zero: report.zero_bytes,
            start: 0,
            len: report.output_size,
            out: 0,
            tree: report.digest.map(|digest| digest.tree.to_string()),
            hash: Some(hash),
        })
    }

    /// Writes the files that describe the disks; the descriptor last. Gives their lengths together.
    fn describe(&self, directory: &Path, ended: &[DiskEnd]) -> Result<u64> {
        let numbers: Vec<FileNumbers> = ended
            .iter()
            .map(|disk| FileNumbers { size: disk.len, used: disk.size.saturating_sub(disk.zero) })
            .collect();
        let text = self.template.render(&numbers).context(|| "cannot write the descriptor".into())?;
        // Nothing is reserved here that must be filled.
        let mut descriptor = text.trim_ascii_end().to_vec();
        descriptor.push(b'\n');
        let mut tail = self.tail();
        ended.iter().try_for_each(|disk| tail.add(disk))?;
        let mut len = descriptor.len() as u64;
        for (name, content) in tail.files(&descriptor)? {
            len += content.len() as u64;
            write_whole(&directory.join(name), &content)?;
        }
        write_whole(&directory.join(&self.names.descriptor), &descriptor)?;
        sync(directory)?;
        Ok(len)
    }

    fn directory_report(
        &self,
        directory: &Path,
        disks: &[Planned],
        run: Run,
        described: u64,
        resumed_from: Option<(usize, u64)>,
    ) -> Result<PackReport> {
        let Run { ended, reports, warnings } = run;
        let packed = disks.iter().zip(&ended).enumerate();
        let packed = packed.map(|(index, (disk, end))| {
            Ok(PackedDisk { source_format: disk.format, ..self.packed(index, end)? })
        });
        Ok(PackReport {
            output: directory.to_owned(),
            descriptor: self.names.descriptor.clone(),
            disks: packed.collect::<Result<_>>()?,
            output_size: described + ended.iter().map(|disk| disk.len).sum::<u64>(),
            file_sha256: None,
            manifest_hash: self.options.manifest_hash,
            signed: self.options.signer.is_some(),
            bytes_read: reports.iter().map(|report| report.bytes_read).sum(),
            bytes_written: reports.iter().map(|report| report.bytes_written).sum(),
            resumed_from,
            verified: self.options.conversion.verify,
            manifest: None,
            elapsed: Duration::ZERO,
            warnings,
        })
    }

    fn disk_path(&self, directory: &Path, index: usize) -> PathBuf {
        directory.join(&self.names.disks[index])
    }
}

/// A disk whose source was looked at.
struct Planned {
    name: String,
    options: SourceOptions,
    spec: WriterSpec,
    format: SourceFormat,
}

/// What a run has done.
struct Run {
    ended: Vec<DiskEnd>,
    reports: Vec<ConversionReport>,
    warnings: Vec<String>,
}

/// Writes a small file, whole or not at all. What has its name was either allowed to be overwritten, or
/// is of this very appliance: it was looked for before.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat_with(CWD, &partial, CWD, path, RenameFlags::empty()).map_err(io::Error::from)
    };
    write().map_err(|error| Error::io("write", path, error))
}

fn sync(directory: &Path) -> Result<()> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| Error::io("sync the directory", directory, error))
}
