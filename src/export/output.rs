//! Where the outputs of an export are.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use vmferry_formats::Format;

use super::{ExportTarget, Packaging, space};
#[cfg(feature = "cloud")]
use crate::conversion::object;
use crate::{
    conversion::{ConversionOptions, Target, is_object_url, paths_of},
    error::{Error, Result},
    file_name::{base_name, file_name},
    kubevirt::PlannedVolume,
    pack::PackTarget,
    pipeline::target::TargetPaths,
};

/// What the outputs look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// An appliance with images of this format.
    Appliance(Packaging, Format),
    /// An image of this format for each volume.
    Images(Format),
}

/// Where things go.
#[derive(Clone, Debug)]
pub(super) struct Places {
    target: ExportTarget,
    /// `DIRECTORY/<vm>`.
    directory: Option<PathBuf>,
    /// `DIRECTORY`, if it was not there.
    new: Option<PathBuf>,
}

impl Places {
    /// For the VM (or what else is exported) called `base`.
    pub(super) fn new(target: &ExportTarget, base: &str) -> Self {
        let directory = match target {
            ExportTarget::Directory(directory) => Some(directory.join(file_name(base))),
            ExportTarget::File(_) | ExportTarget::Stdout => None,
        };
        let new = match target {
            ExportTarget::Directory(directory) if !directory.exists() => Some(directory.clone()),
            _ => None,
        };
        let mut this = Self { target: target.clone(), directory, new };
        if this.is_remote() {
            this.new = None;
        }
        this
    }

    /// Whether the outputs are objects: nothing of them is on this machine.
    fn is_remote(&self) -> bool {
        let path = match &self.target {
            ExportTarget::Directory(path) | ExportTarget::File(path) => path.to_str(),
            ExportTarget::Stdout => None,
        };
        path.is_some_and(is_object_url)
    }

    /// The directory that is filled; the URL that the objects' begin with stands for one.
    pub(super) fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// What the user is told: the directory or the file.
    pub(super) fn shown(&self) -> Option<PathBuf> {
        match &self.target {
            ExportTarget::Directory(_) => self.directory.clone(),
            ExportTarget::File(file) => Some(file.clone()),
            ExportTarget::Stdout => None,
        }
    }

    /// Where the state of the run is kept. `options` say which store it is that objects go to.
    ///
    /// # Errors
    /// There is no directory for the state of what goes to a store.
    pub(super) fn state(&self, options: &ConversionOptions) -> Result<Option<PathBuf>> {
        if let (true, Some(shown)) = (self.is_remote(), self.shown()) {
            let journal = paths_of(&shown, options, options.force)?.journal;
            return Ok(Some(journal.with_extension("run")));
        }
        Ok(match &self.target {
            ExportTarget::Directory(_) => self.directory.as_ref().map(|directory| directory.join(STATE_FILE)),
            ExportTarget::File(file) => file.file_name().map(|name| {
                let mut name = name.to_owned();
                name.push(".partial.run");
                file.with_file_name(name)
            }),
            ExportTarget::Stdout => None,
        })
    }

    /// The outputs of these volumes, in the same order.
    ///
    /// # Errors
    /// There are several, and only one place.
    pub(super) fn outputs(&self, volumes: &[PlannedVolume], form: Form) -> Result<Vec<Target>> {
        let format = match form {
            Form::Images(format) => format,
            Form::Appliance(packaging, format) => return self.parts(volumes, packaging, format),
        };
        let single = |target: Target| match volumes {
            [_] => Ok(vec![target]),
            several => {
                let names: Vec<&str> = several.iter().map(|volume| volume.name.as_str()).collect();
                Err(Error::usage(format!("{} volumes do not fit into one output", several.len())).with_hint(
                    format!("name one with --volume ({}), or a directory as output", names.join(", ")),
                ))
            }
        };
        match &self.target {
            ExportTarget::File(file) => single(Target::at(file.clone())),
            ExportTarget::Stdout => single(Target::Stdout),
            ExportTarget::Directory(_) => {
                let directory = self.directory.clone().unwrap_or_default();
                let mut taken = BTreeSet::new();
                let path = |volume: &PlannedVolume| {
                    let base = file_name(&volume.name);
                    let mut name = format!("{base}.{}", format.name());
                    let mut number = 2;
                    while !taken.insert(name.to_ascii_lowercase()) {
                        name = format!("{base}-{number}.{}", format.name());
                        number += 1;
                    }
                    Target::at(directory.join(name))
                };
                Ok(volumes.iter().map(path).collect())
            }
        }
    }

    /// The place of an appliance, and what its files are called.
    ///
    /// # Errors
    /// It cannot be there.
    pub(super) fn appliance(&self, packaging: Packaging) -> Result<(PackTarget, String)> {
        match (packaging, &self.target) {
            (_, ExportTarget::Directory(_)) => {
                let directory = self.directory.clone().unwrap_or_default();
                let base = directory.file_name().unwrap_or_default().to_string_lossy();
                let base = base_name(&base);
                let target = match packaging {
                    Packaging::Ova => PackTarget::Archive(directory.join(format!("{base}.ova"))),
                    Packaging::Ovf => PackTarget::Directory(directory),
                };
                Ok((target, base))
            }
            (Packaging::Ova, ExportTarget::File(file)) => {
                let stem = file.file_stem().unwrap_or_default().to_string_lossy();
                Ok((PackTarget::Archive(file.clone()), base_name(&stem)))
            }
            (Packaging::Ova, ExportTarget::Stdout) => Err(Error::refused(
                "an OVA cannot be written to a pipe: its descriptor and the headers of its disks come late",
            )
            .with_hint("name a file or a directory as output")),
            (Packaging::Ovf, _) => {
                Err(Error::usage("an OVF appliance is several files").with_hint("name a directory as output"))
            }
        }
    }

    /// The files that the volumes go into as parts of an appliance.
    fn parts(&self, volumes: &[PlannedVolume], packaging: Packaging, format: Format) -> Result<Vec<Target>> {
        let (target, base) = self.appliance(packaging)?;
        let numbers = (1..).zip(volumes).map(|(number, _)| number);
        Ok(numbers
            .map(|number| match &target {
                PackTarget::Archive(path) => Target::at(path.clone()),
                PackTarget::Directory(directory) => {
                    Target::at(directory.join(format!("{base}-disk{number}.{}", format.name())))
                }
            })
            .collect())
    }

    /// Makes the directory.
    pub(super) fn create(&self) -> Result<()> {
        match &self.directory {
            Some(_) if self.is_remote() => Ok(()),
            Some(directory) => {
                fs::create_dir_all(directory).map_err(|error| Error::io("create", directory, error))
            }
            None => Ok(()),
        }
    }

    /// Removes the directories that were made, if nothing is in them.
    pub(super) fn remove_if_empty(&self) {
        if self.is_remote() {
            return;
        }
        for directory in [&self.directory, &self.new].into_iter().flatten() {
            // It is no matter if there is something in it.
            let _ = fs::remove_dir(directory);
        }
    }

    /// Bytes that are free where the outputs go.
    pub(super) fn free(&self) -> Option<u64> {
        if self.is_remote() {
            return None;
        }
        match &self.target {
            ExportTarget::Directory(directory) => space::free_at(directory),
            ExportTarget::File(file) => space::free_at(file.parent()?),
            ExportTarget::Stdout => None,
        }
    }
}

/// Refuses, before anything is made, what a conversion would refuse once it begins.
///
/// # Errors
/// An output exists, and may not be overwritten.
pub(super) async fn check_free(outputs: &[Target], options: &ConversionOptions) -> Result<()> {
    for output in outputs {
        #[cfg(feature = "cloud")]
        if let Target::Object(url) = output {
            object::check_free(url, options).await?;
        }
        if let Target::Path(path) = output {
            let paths = TargetPaths::new(path, options.journal.as_deref(), options.force)?;
            if fs::symlink_metadata(&paths.journal).is_err() {
                paths.check_free()?;
            }
        }
    }
    Ok(())
}

/// What describes the images of an appliance in a directory.
pub(super) fn descriptions(directory: &Path, base: &str) -> [PathBuf; 3] {
    ["ovf", "mf", "cert"].map(|extension| directory.join(format!("{base}.{extension}")))
}

/// Removes files, some of which may not be there.
///
/// # Errors
/// One of them stays.
pub(super) fn remove_files(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// An output as records call it: by its name beside them.
pub(super) fn shown(places: &Places, target: &Target) -> String {
    match (places.directory(), target) {
        (Some(_), Target::Path(path)) => {
            path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        }
        (None, Target::Path(path)) => path.display().to_string(),
        (Some(_), Target::Object(url)) => url.rsplit('/').next().unwrap_or(url).to_owned(),
        (None, Target::Object(url)) => url.clone(),
        (_, Target::Stdout) => "-".to_owned(),
    }
}

/// The state of a run in its directory.
const STATE_FILE: &str = ".vmferry-run";

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(names: &[&str]) -> Vec<PlannedVolume> {
        names.iter().map(|&name| PlannedVolume { name: name.into(), claim: name.into() }).collect()
    }

    #[test]
    fn outputs_stay_in_the_directory_and_apart() {
        let places = Places::new(&ExportTarget::Directory("out".into()), "../evil");
        let outputs = places
            .outputs(&volumes(&["root", "../../etc/x", "a/b", "a_b"]), Form::Images(Format::Qcow2))
            .unwrap();
        let expected = ["root.qcow2", "_.._etc_x.qcow2", "a_b.qcow2", "a_b-2.qcow2"]
            .map(|name| Target::Path(PathBuf::from("out/_evil").join(name)));
        assert_eq!(outputs, expected);
        let state = places.state(&ConversionOptions::default()).unwrap();
        assert_eq!(state.unwrap(), Path::new("out/_evil/.vmferry-run"));
    }

    #[test]
    fn outputs_in_a_store_have_their_state_here() {
        let url = "s3://bucket/backup/";
        let places = Places::new(&ExportTarget::Directory(url.into()), "db");
        let outputs = places.outputs(&volumes(&["root"]), Form::Images(Format::Raw)).unwrap();
        assert_eq!(outputs, [Target::Object("s3://bucket/backup/db/root.raw".into())]);
        let options = ConversionOptions { journal: Some("/state/x.journal".into()), ..Default::default() };
        assert_eq!(places.state(&options).unwrap().unwrap(), Path::new("/state/x.run"));
        places.create().unwrap();
        assert!(!Path::new("s3:").exists() && places.free().is_none());
    }

    #[test]
    fn one_output_takes_one_volume() {
        for target in [ExportTarget::File("x.raw".into()), ExportTarget::Stdout] {
            let places = Places::new(&target, "db");
            assert_eq!(places.outputs(&volumes(&["root"]), Form::Images(Format::Raw)).unwrap().len(), 1);
            let error = places.outputs(&volumes(&["root", "data"]), Form::Images(Format::Raw)).unwrap_err();
            assert!(error.hint().unwrap().contains("root, data"), "{error}");
        }
    }
}
