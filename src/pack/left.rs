//! What is in the directory already: of an earlier run, of an earlier appliance, of somebody else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use vmferry_formats::ovf::safe_name;

use super::{Pack, directory::sync};
use crate::{
    conversion::{
        ConversionOptions, ResumePolicy, check_output_free, files_of, is_object_url, job::JobDisk,
        partial_of, paths_of, refuse_inputs, refuse_parts, refuse_sources, remove_output, size_of_output,
    },
    error::{Error, FormatContext as _, Result},
    pipeline::{
        journal::{DiskEnd, Header, Summary},
        resume,
        target::TargetPaths,
    },
};

/// What an earlier run left in the directory.
#[derive(Default)]
pub(super) struct Left {
    /// Disks that are complete.
    pub(super) ended: Vec<DiskEnd>,
    /// Disks of which something may be there that is of that run.
    pub(super) begun: usize,
    /// All that was left to do is to give the last files their names.
    pub(super) closed: bool,
    /// Bytes of the journal that count.
    pub(super) journal_len: u64,
}

impl Pack {
    /// Refuses a directory in which something would be written over a source or another input.
    pub(super) fn refuse_sources_in(&self, directory: &Path) -> Result<()> {
        let names = self.names.disks.iter().chain(self.names.description());
        names.map(|name| directory.join(name)).try_for_each(|path| self.refuse_sources_at(&path))
    }

    /// Refuses a directory in which something would be written over what an opened source consists of.
    pub(super) fn refuse_parts_in(&self, directory: &Path, disks: &[JobDisk<'_>]) -> Result<()> {
        let mut names = self.names.disks.iter().chain(self.names.description());
        names.try_for_each(|name| {
            let paths = self.paths(&directory.join(name), true)?;
            refuse_parts(&paths, disks.iter().filter_map(|disk| disk.header.identity.as_ref()))
        })
    }

    /// Refuses to write `path`, or what lies beside it while it is written, over what is read.
    fn refuse_sources_at(&self, path: &Path) -> Result<()> {
        let paths = self.paths(path, true)?;
        self.refuse_read(&paths)
    }

    /// Refuses to write over anything that is read: disks, description, key or certificate. Permission to
    /// overwrite an output is no permission to lose what it is made of.
    pub(super) fn refuse_read(&self, paths: &TargetPaths) -> Result<()> {
        refuse_sources(paths, self.disks.iter().map(|disk| &disk.source))?;
        refuse_inputs(files_of(paths), &self.options.inputs)
    }

    /// Looks at what an earlier run left. What this run would overwrite without having been told so is
    /// refused here, before anything is written.
    pub(super) async fn take_up(
        &self,
        directory: &Path,
        paths: &TargetPaths,
        summary: Option<Summary>,
        header: &Header,
    ) -> Result<Left> {
        let options = &self.options.conversion;
        let Some(summary) = summary else {
            self.check_free(directory, 0).await?;
            return Ok(Left::default());
        };
        match options.resume {
            ResumePolicy::Refuse => Err(Error::refused(format!(
                "{} holds an unfinished appliance of an earlier run",
                directory.display()
            ))
            .with_hint("without --no-resume it is taken up, with --restart it is discarded")),
            ResumePolicy::Restart => {
                self.discard(directory, &summary).await?;
                self.check_free(directory, 0).await?;
                Ok(Left::default())
            }
            ResumePolicy::Resume => {
                resume::check_header(&summary.header, header, options.assume_unchanged)?;
                for end in &summary.ended {
                    let path = self.disk_path(directory, end.disk as usize);
                    if !self.is_made(&path, end).await? {
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
                let begun = summary.ended.len() + usize::from(summary.open.is_some());
                let (closed, journal_len) = (summary.closed.is_some(), summary.valid_len);
                if !closed {
                    self.check_free(directory, begun).await?;
                }
                Ok(Left { ended: summary.ended, begun, closed, journal_len })
            }
        }
    }

    /// Removes what an earlier run wrote, on the user's word: nobody used it yet. It may have given its
    /// files other names, and what has the names of this one may be somebody else's.
    async fn discard(&self, directory: &Path, summary: &Summary) -> Result<()> {
        let begun = summary.ended.len() + usize::from(summary.open.is_some());
        let mut doomed = Vec::new();
        for (index, disk) in summary.header.disks.iter().enumerate().take(begun) {
            let Some(name) = &disk.file else { continue };
            let what = || "the journal of the earlier run names no file of its directory".to_owned();
            let path = directory.join(safe_name(name).context(what)?);
            self.refuse_sources_at(&path)?;
            let paths = self.paths(&path, true)?;
            let is_ours = match summary.ended.get(index) {
                Some(end) => self.is_made(&path, end).await?,
                // As long as it has no name of its own, what has it is older.
                None if paths.is_object => fs::symlink_metadata(&paths.journal).is_err(),
                None => fs::symlink_metadata(&paths.partial).is_err(),
            };
            doomed.push((paths, is_ours));
        }
        for (paths, is_ours) in doomed {
            // The upload of an object is given up by the conversion that begins it anew.
            if !paths.is_object {
                paths.discard()?;
                self.remove(&paths.journal).await?;
            }
            if is_ours {
                self.remove(&paths.output).await?;
                self.remove(&paths.manifest).await?;
            }
        }
        if summary.closed.is_some() {
            self.remove_description(directory).await?;
        }
        Ok(())
    }

    /// Refuses what the user did not ask to overwrite; the first `begun` disks are of an earlier run.
    async fn check_free(&self, directory: &Path, begun: usize) -> Result<()> {
        self.check_description_free(directory).await?;
        for index in begun..self.names.disks.len() {
            let path = self.disk_path(directory, index);
            check_output_free(&path, &self.options.conversion).await?;
        }
        Ok(())
    }

    /// The same of the files that describe the disks.
    pub(super) async fn check_description_free(&self, directory: &Path) -> Result<()> {
        if self.options.conversion.force {
            return Ok(());
        }
        for path in self.description(directory) {
            // Under the second name it is until it is whole; what a run leaves there has the journal beside it.
            let names = [Some(path.clone()), (!is_remote(directory)).then(|| partial_of(&path))];
            for path in names.into_iter().flatten() {
                if size_of_output(&path, &self.options.conversion).await?.is_some() {
                    return Err(Error::refused(format!("{} exists", path.display()))
                        .with_hint("choose another directory, or say --force to overwrite it"));
                }
            }
        }
        Ok(())
    }

    /// Removes what described the disks that are overwritten: it is not true of the new ones, and a
    /// certificate would be taken for that of the new manifest.
    pub(super) async fn remove_old_description(&self, directory: &Path) -> Result<()> {
        if !self.options.conversion.force {
            return Ok(());
        }
        self.remove_description(directory).await?;
        sync(directory)
    }

    async fn remove_description(&self, directory: &Path) -> Result<()> {
        for path in self.description(directory) {
            self.remove(&path).await?;
            if !is_remote(directory) {
                self.remove(&partial_of(&path)).await?;
            }
        }
        Ok(())
    }

    /// What belongs to a file of the directory.
    fn paths(&self, path: &Path, force: bool) -> Result<TargetPaths> {
        paths_of(path, &ConversionOptions { journal: None, ..self.options.conversion.clone() }, force)
    }

    /// Whether the disk at `path` can be the one that a run completed.
    async fn is_made(&self, path: &Path, end: &DiskEnd) -> Result<bool> {
        Ok(size_of_output(path, &self.options.conversion).await? == Some(end.len))
    }

    /// Removes a file, if it is there.
    async fn remove(&self, path: &Path) -> Result<()> {
        remove_output(path, &self.options.conversion).await
    }

    /// The files that describe the disks; the descriptor first.
    fn description(&self, directory: &Path) -> [PathBuf; 3] {
        self.names.description().map(|name| directory.join(name))
    }
}

/// Whether the files of a directory are objects.
pub(super) fn is_remote(directory: &Path) -> bool {
    directory.to_str().is_some_and(is_object_url)
}
