//! What an interrupted run wrote, for whoever makes descriptors out of things that change.

use std::{fs::File, io};

use vmferry_formats::ova::Template;

use super::{Pack, PackTarget};
use crate::{
    conversion::{ConversionOptions, paths_of},
    error::{Error, Result},
    pipeline::journal::{Header, JournalReader, Record},
};

/// What an interrupted run wrote beside the disks. A run that goes on must be given the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierPack {
    /// The descriptor's text, with markers where there were some.
    pub descriptor: String,
    /// Base name of the files.
    pub base_name: String,
    /// Names of the images, in their order.
    pub file_names: Vec<String>,
    /// Modification time of everything, in seconds since 1970.
    pub mtime: u64,
}

impl Pack {
    /// What an interrupted run for `target` has written, if there is one to go on with: a run that is to
    /// take it up needs the same descriptor, whatever the VM looks like by now.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn earlier(
        target: &PackTarget,
        base_name: Option<&str>,
        options: &ConversionOptions,
    ) -> Result<Option<EarlierPack>> {
        let output = match target {
            PackTarget::Archive(path) => path.clone(),
            PackTarget::Directory(path) => {
                let base = match base_name {
                    Some(base) => base.to_owned(),
                    None => super::builder::base_of(target)?,
                };
                path.join(format!("{base}.ovf"))
            }
        };
        let path = paths_of(&output, options, true)?.journal;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open the journal", &path, error)),
        };
        match JournalReader::new(file).next_record()? {
            Some(Record::Header(header)) => Ok(read(&header)),
            _ => Ok(None),
        }
    }
}

fn read(header: &Header) -> Option<EarlierPack> {
    let container = header.container.as_ref()?;
    let text = |key: &str| container.content.get(key)?.as_str();
    let descriptor = text(DESCRIPTOR)?.to_owned();
    Template::new(descriptor.as_str()).ok()?;
    Some(EarlierPack {
        descriptor,
        base_name: text(DESCRIPTOR_NAME)?.strip_suffix(".ovf")?.to_owned(),
        file_names: header.disks.iter().map(|disk| disk.file.clone()).collect::<Option<_>>()?,
        mtime: container.content.get(MTIME)?.as_u64()?,
    })
}

/// The names under which a journal keeps what only this module understands; messages show them.
pub(super) const DESCRIPTOR: &str = "descriptor";
pub(super) const DESCRIPTOR_NAME: &str = "descriptor name";
pub(super) const MTIME: &str = "mtime";
