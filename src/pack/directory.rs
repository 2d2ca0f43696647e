//! An appliance as a directory: each disk an ordinary conversion, then what describes them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use vmferry_formats::{
    WriterSpec,
    ova::{FileNumbers, ManifestHash},
    vmdk::Subformat,
};

use super::{Pack, PackEvent, PackReport, PackedDisk, container::file_hash, left::is_remote};
use crate::{
    conversion::{
        Conversion, ConversionOptions, ConversionReport, Readers, ResumePolicy, Target, check_output_free,
        job::{JobDisk, hash_file},
        paths_of, write_beside,
    },
    error::{Error, FormatContext as _, Result},
    pipeline::{
        journal::{Checkpoint, Closed, DiskEnd, DiskHeader, DiskStart, Journal, Record},
        target::TargetPaths,
    },
    source::{SourceFormat, SourceOptions},
};

impl Pack {
    pub(super) async fn to_directory(&self, directory: &Path) -> Result<PackReport> {
        let options = &self.options.conversion;
        if options.journal.is_some() {
            return Err(Error::usage("--journal names one file, and each disk of a directory has its own")
                .with_hint("leave it out: the journals lie beside the files"));
        }
        if is_remote(directory) {
            self.check_remote()?;
        }
        // Before anything is written: a later disk may be read from what an earlier one would overwrite.
        self.refuse_sources_in(directory)?;
        let made = !is_remote(directory) && !directory.exists();
        if !is_remote(directory) {
            fs::create_dir_all(directory).map_err(|error| Error::io("create", directory, error))?;
        }
        let paths = paths_of(&directory.join(&self.names.descriptor), options, options.force)?;
        let worked = self.fill(directory, &paths).await;
        if worked.is_err() && made {
            // It is no matter if there is something in it.
            let _ = fs::remove_dir(directory);
        }
        worked
    }

    /// Images in a store are hashed in passing, or not at all.
    fn check_remote(&self) -> Result<()> {
        let in_order = match &self.spec {
            WriterSpec::Raw(_) => true,
            WriterSpec::Vmdk(options) => options.subformat == Subformat::StreamOptimized,
            _ => false,
        };
        if in_order && self.options.manifest_hash == ManifestHash::Sha256 {
            return Ok(());
        }
        Err(Error::refused(
            "the hashes of these images are not had in passing, and objects are not fetched again for them",
        )
        .with_hint("write streamOptimized vmdk or raw images and a SHA-256 manifest, or an OVA"))
    }

    async fn fill(&self, directory: &Path, paths: &TargetPaths) -> Result<PackReport> {
        let disks = self.look_without_streams().await?;
        self.refuse_parts_in(directory, &disks)?;
        let encoder = match disks.first() {
            Some(disk) => disk.writer()?.encoder_identity(),
            None => String::new(),
        };
        self.check_capacities(&disks)?;
        let header = self.header(&paths.base_name(), &disks, encoder, (true, false));
        // Each conversion opens its source itself.
        let disks: Vec<Planned> = disks
            .into_iter()
            .map(|disk| Planned {
                name: disk.name,
                header: disk.header,
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
        let left = match self.take_up(directory, paths, summary, &header).await {
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
        if !left.closed {
            self.remove_old_description(directory).await?;
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
            self.check_description_free(directory).await?;
            journal.append([Record::Closed(closed)])?;
        }
        let described = self.describe(directory, &run.ended).await?;
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
            // Looked at before, but time has passed: a complete disk of somebody else would be taken for
            // ours from here on.
            check_output_free(&path, &self.options.conversion).await?;
            let point = Checkpoint { disk: Some(number), ..Checkpoint::default() };
            let start = DiskStart { disk: number, start: 0, out: 0 };
            journal.append([Record::DiskStart(start), Record::Checkpoint(point)])?;
        }
        let options = ConversionOptions {
            source: disk.options.clone(),
            // A run that was killed before it could say that the disk is complete makes it again.
            force: self.options.conversion.force || is_ours,
            sums: self.options.manifest_hash == ManifestHash::Sha256 && !is_remote(directory),
            flat_sha256: is_remote(directory) && matches!(disk.spec, WriterSpec::Raw(_)),
            ..self.options.conversion.clone()
        };
        let conversion = Conversion::builder(self.disks[index].source.clone(), Target::at(path.clone()))
            .spec(disk.spec.clone())
            .options(options)
            .cancel_token(self.cancel.clone())
            .build()?
            .expecting(disk.header.clone());
        self.begun(index, conversion.progress());
        let converted = conversion.run().await;
        self.tell(PackEvent::Ended);
        let report = converted?;
        // Some tell their size only now.
        self.check_capacity(index, report.virtual_size)?;
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
    async fn describe(&self, directory: &Path, ended: &[DiskEnd]) -> Result<u64> {
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
        let options = &self.options.conversion;
        let files = tail.files(&descriptor)?;
        drop(tail);
        for (name, content) in files {
            len += content.len() as u64;
            write_beside(&directory.join(name), &content, options, Readers::Anyone).await?;
        }
        write_beside(&directory.join(&self.names.descriptor), &descriptor, options, Readers::Anyone).await?;
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

    pub(super) fn disk_path(&self, directory: &Path, index: usize) -> PathBuf {
        directory.join(&self.names.disks[index])
    }
}

/// A disk whose source was looked at.
struct Planned {
    name: String,
    /// What its source was then.
    header: DiskHeader,
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

pub(super) fn sync(directory: &Path) -> Result<()> {
    if is_remote(directory) {
        return Ok(());
    }
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| Error::io("sync the directory", directory, error))
}
