//! What a run would make, before anything is made.

use std::path::PathBuf;

use vmferry_formats::Format;

use super::Pack;
#[cfg(feature = "cloud")]
use super::PackTarget;
#[cfg(feature = "cloud")]
use crate::conversion::{UploadPlan, is_object_url};
use crate::{conversion::worst_len, error::Result, source::SourceFormat};

/// What a run would make.
#[derive(Clone, Debug)]
pub struct PackPlan {
    /// The archive, the object or the directory.
    pub output: PathBuf,
    /// Name of the descriptor.
    pub descriptor: String,
    /// The disks, in their order.
    pub disks: Vec<PlannedDisk>,
    /// Bytes of all that is written, at most; `None` if the size of a disk is not known.
    pub longest_output: Option<u64>,
    /// How it would be uploaded, if it becomes an object.
    #[cfg(feature = "cloud")]
    pub upload: Option<UploadPlan>,
}

/// A disk that a run would write.
#[derive(Clone, Debug)]
pub struct PlannedDisk {
    /// Name of its image.
    pub file: String,
    /// Format of its image.
    pub format: Format,
    /// Where it comes from.
    pub source: String,
    /// Format of that.
    pub source_format: SourceFormat,
    /// Bytes of the disk, if that is known before its end.
    pub virtual_size: Option<u64>,
}

impl Pack {
    /// What a run would make. The disks are looked at, and nothing is made; the place of the output is not
    /// asked for.
    ///
    /// # Errors
    /// A disk cannot be opened, or the output can hold no such disks.
    pub async fn plan(&self) -> Result<PackPlan> {
        let disks = self.look(false).await?;
        for disk in &disks {
            disk.writer()?;
        }
        let sizes: Option<Vec<u64>> = disks.iter().map(|disk| disk.header.size).collect();
        let longest_output = sizes.map(|sizes| self.longest(sizes.into_iter().map(worst_len)));
        let output = self.target.path().to_owned();
        #[cfg(feature = "cloud")]
        let upload = match (&self.target, output.to_str()) {
            (PackTarget::Archive(_), Some(url)) if is_object_url(url) => {
                Some(UploadPlan::of(url, longest_output, &self.options.conversion)?)
            }
            _ => None,
        };
        Ok(PackPlan {
            output,
            descriptor: self.names.descriptor.clone(),
            disks: disks
                .into_iter()
                .map(|disk| PlannedDisk {
                    file: disk.name,
                    format: disk.spec.format(),
                    source: disk.header.source,
                    source_format: disk.format,
                    virtual_size: disk.header.size,
                })
                .collect(),
            longest_output,
            #[cfg(feature = "cloud")]
            upload,
        })
    }

    /// Bytes of an archive of images of these lengths, at most.
    pub(super) fn longest(&self, images: impl Iterator<Item = u64>) -> u64 {
        let around = self.template.text().len() as u64 * 2 + (1 << 20);
        images.fold(around, u64::saturating_add)
    }
}
