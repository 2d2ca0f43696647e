//! Whether a descriptor is one of these disks: whoever wrote it, what it says must be true in the end.

use vmferry_formats::{
    ova::{FileNumbers, Template},
    ovf::{self, Envelope, Number},
};

use super::{Names, Pack};
use crate::{
    conversion::job::JobDisk,
    error::{Error, FormatContext as _, Result},
};

/// Checks that `template` describes files with these names, and states no length of them by itself.
/// Gives the envelope, with numbers of no meaning where they come late.
///
/// # Errors
/// It is no envelope of OVF 1.x, or contradicts the files that it will stand beside.
pub(super) fn check(template: &Template, names: &Names) -> Result<Envelope> {
    let [first, second] = [SAMPLES, 2 * SAMPLES].map(|base| parsed(template, names, base));
    let (first, second) = (first?, second?);
    let hrefs: Vec<&str> = first.files.iter().map(|file| file.href.as_str()).collect();
    if hrefs != names.disks {
        let (hrefs, names) = (listed(&hrefs), listed(&names.disks));
        return Err(Error::usage(format!(
            "the descriptor refers to the files {hrefs}, and the images of the disks are {names}"
        ))
        .with_hint("name the images as the descriptor does, in its order, with --disk-name"));
    }
    for (index, (file, other)) in first.files.iter().zip(&second.files).enumerate() {
        let refused = |what: String, hint: String| {
            Err(Error::usage(format!("the descriptor says of {} {what}", file.href)).with_hint(hint))
        };
        let late = [sample(SAMPLES, index), sample(2 * SAMPLES, index)].map(|size| Some(Number::Known(size)));
        // What is stated is wrong already, or will be with the next version: nobody knows a length before
        // the disk was written.
        if [file.size, other.size] != [None, None] && [file.size, other.size] != late {
            return refused(
                "that it has a certain length, which only its end tells".into(),
                format!("leave ovf:size out, or write ovf:size=\"<vmferry-size-{index:05}>\""),
            );
        }
        if file.chunk_size.is_some() {
            return refused("that it is split, and it is not".into(), "leave ovf:chunkSize out".into());
        }
        if let Some(name) = file.compression.as_ref().filter(|name| *name != "identity") {
            return refused(
                format!("that it is compressed as a whole ({name}), and it is not"),
                "leave ovf:compression out".into(),
            );
        }
    }
    Ok(first)
}

fn parsed(template: &Template, names: &Names, base: u64) -> Result<Envelope> {
    let numbers = |index| FileNumbers { size: sample(base, index), used: 0 };
    let numbers: Vec<FileNumbers> = (0..names.disks.len()).map(numbers).collect();
    let what = || "the descriptor cannot be used".to_owned();
    let text = template.render(&numbers).context(what)?;
    ovf::parse(&text).map_err(|error| match error.kind() {
        vmferry_formats::ErrorKind::Refused | vmferry_formats::ErrorKind::Limit => {
            Error::refused(what()).with_source(error)
        }
        _ => Error::usage(what()).with_source(error),
    })
}

/// A length that no two files have.
fn sample(base: u64, index: usize) -> u64 {
    base + index as u64
}

fn listed<T: AsRef<str>>(names: &[T]) -> String {
    if names.is_empty() {
        return "(none)".into();
    }
    names.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
}

impl Pack {
    /// Holds the sizes that are known against the descriptor.
    ///
    /// # Errors
    /// A capacity is another one.
    pub(super) fn check_capacities(&self, disks: &[JobDisk<'_>]) -> Result<()> {
        let known = disks.iter().enumerate().filter_map(|(index, disk)| Some((index, disk.header.size?)));
        known.into_iter().try_for_each(|(index, size)| self.check_capacity(index, size))
    }

    /// Holds the size of a disk, in bytes, against the descriptor.
    ///
    /// # Errors
    /// Its capacity is another one.
    pub(super) fn check_capacity(&self, index: usize, size: u64) -> Result<()> {
        let Some(file) = self.envelope.files.get(index) else { return Ok(()) };
        // What an image holds; others say what is wrong with one of nothing.
        let size = size.next_multiple_of(512);
        let mut disks = self.envelope.disks.iter().filter(|disk| disk.file_ref.as_ref() == Some(&file.id));
        match disks.find(|disk| size > 0 && disk.capacity != size) {
            None => Ok(()),
            Some(disk) => Err(Error::refused(format!(
                "the descriptor says that the disk {} of {} has {} bytes, and it has {size}",
                disk.id, file.href, disk.capacity
            ))
            .with_hint("state that capacity in the descriptor; --ovf describes its VM anew")),
        }
    }
}

/// Lengths that are tried where some come late: no image has 2^62 bytes.
const SAMPLES: u64 = 1 << 62;
