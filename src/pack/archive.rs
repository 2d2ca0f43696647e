//! An appliance as one file, by one job with one journal.

use std::{fs, path::Path, sync::Arc};

use super::{
    Pack, PackEvent, PackReport, PackedDisk,
    container::{OvaContainer, Tail, file_hash},
};
#[cfg(feature = "cloud")]
use crate::conversion::{
    object::{ObjectPlace, fetch_journal},
    worst_len,
};
use crate::{
    conversion::{
        ResumePolicy,
        job::{Done, Job, JobContainer, JobDisk},
        paths_of, refuse_parts, tree_digest,
    },
    error::{Error, Result},
    pipeline::{
        hash::FileDigest,
        journal::{self, ContainerHeader, DiskEnd, Header},
        manifest::{self, ContainerHead},
    },
};

impl Pack {
    pub(super) async fn to_archive(&self, path: &Path) -> Result<PackReport> {
        let options = &self.options.conversion;
        let paths = paths_of(path, options, options.force)?;
        if paths.is_device {
            return Err(Error::refused("a block device takes raw and qcow2 only, not an OVA")
                .with_hint("name a file"));
        }
        self.refuse_read(&paths)?;
        #[cfg(feature = "cloud")]
        if paths.is_object {
            Box::pin(fetch_journal(&path.to_string_lossy(), options)).await?;
        }
        let is_begun = fs::symlink_metadata(&paths.journal).is_ok();
        // Before anything is opened: an output that is complete already is what the user must hear of.
        if !is_begun && !paths.is_object {
            paths.check_free()?;
        }
        let mut disks = self.look(is_begun && options.resume == ResumePolicy::Resume).await?;
        refuse_parts(&paths, disks.iter().filter_map(|disk| disk.header.identity.as_ref()))?;
        let mut encoder = String::new();
        for disk in &mut disks {
            disk.hash = Some(file_hash(self.options.manifest_hash));
            let writer = disk.writer()?;
            if writer.fills_late() {
                let source = &disk.header.source;
                return Err(Error::refused(format!("the size of {source} is not known before its end"))
                    .with_hint("state it with --source-size, or convert that disk to a file first"));
            }
            encoder = writer.encoder_identity();
        }
        self.check_capacities(&disks)?;
        #[cfg(feature = "cloud")]
        let object = match paths.is_object {
            true => {
                // The sizes are known: `fills_late` was asked.
                let images = disks.iter().filter_map(|disk| disk.header.size).map(worst_len);
                Some(self.object(path, self.longest(images), is_begun).await?)
            }
            false => None,
        };
        let header = self.header(&paths.base_name(), &disks, encoder, (false, paths.is_object));
        let (container, parameters) = (self.container()?, self.parameters());
        let head = ContainerHead {
            version: manifest::CONTAINER_VERSION,
            format: FORMAT.into(),
            parameters,
            disks: u32::try_from(disks.len()).unwrap_or(u32::MAX),
        };
        let (listener, progress, names) =
            (Arc::clone(&self.listener), self.progress.clone(), self.names.disks.clone());
        let tell = move |index: usize, begins: bool| {
            let (number, count, name) = (index + 1, names.len(), names[index].clone());
            listener(match begins {
                true => PackEvent::Begun { number, count, name, progress: progress.clone() },
                false => PackEvent::Ended,
            });
        };
        let formats: Vec<_> = disks.iter().map(|disk| disk.format).collect();
        let job = Job {
            means: self.means(),
            paths,
            #[cfg(feature = "cloud")]
            object,
            header,
            disks,
            container: Some(JobContainer { container: Some(Box::new(container)), head }),
            listener: Some(Arc::new(tell)),
            warnings: Vec::new(),
        };
        let Done { disks, closed, moved, resumed_from, manifest, warnings } = Box::pin(job.run()).await?;
        let packed = disks.iter().zip(formats).enumerate();
        let packed = packed.map(|(index, (end, source_format))| {
            Ok(PackedDisk { source_format, offset: Some(end.start), ..self.packed(index, end)? })
        });
        Ok(PackReport {
            output: path.to_owned(),
            descriptor: self.names.descriptor.clone(),
            disks: packed.collect::<Result<_>>()?,
            output_size: closed.output_size,
            file_sha256: closed.file_sha256.and_then(|hash| hash.parse().ok()),
            manifest_hash: self.options.manifest_hash,
            signed: self.options.signer.is_some(),
            bytes_read: moved.read,
            bytes_written: moved.written,
            resumed_from,
            verified: options.verify,
            manifest,
            elapsed: std::time::Duration::ZERO,
            warnings,
        })
    }

    /// The object that an archive of at most `worst` bytes becomes.
    #[cfg(feature = "cloud")]
    async fn object(&self, path: &Path, worst: u64, is_begun: bool) -> Result<ObjectPlace> {
        let place = ObjectPlace::open(&path.to_string_lossy(), &self.options.conversion, Some(worst)).await?;
        if !is_begun {
            self.means().unless_cancelled(place.check_free()).await?;
        }
        Ok(place)
    }

    /// A new container.
    pub(super) fn container(&self) -> Result<OvaContainer> {
        OvaContainer::new(self.names.clone(), self.template.clone(), self.options.mtime, self.tail())
    }

    pub(super) fn tail(&self) -> Tail {
        Tail::new(self.names.clone(), self.options.manifest_hash, self.options.signer.clone())
    }

    /// What a later run must be told again, but for the sources.
    fn parameters(&self) -> String {
        let mut text = format!("ova mtime={} manifest={}", self.options.mtime, self.options.manifest_hash);
        if let Some(signer) = &self.options.signer {
            text.push_str(&format!(" signed_by={}", signer.fingerprint()));
        }
        text
    }

    /// The first line of a journal. `separate` = the disks are files of their own, `is_object` = the
    /// archive becomes an object.
    pub(super) fn header(
        &self,
        name: &str,
        disks: &[JobDisk<'_>],
        encoder: String,
        (separate, is_object): (bool, bool),
    ) -> Header {
        let content = [
            (super::earlier::DESCRIPTOR, self.template.text().into()),
            (super::earlier::DESCRIPTOR_NAME, self.names.descriptor.as_str().into()),
            (super::earlier::MTIME, self.options.mtime.into()),
        ];
        Header {
            version: if is_object { journal::OBJECT_VERSION } else { journal::CONTAINER_VERSION },
            name: name.to_owned(),
            spec: self.spec.to_string(),
            digest: self.options.conversion.digest.map(|algorithm| algorithm.name().into()),
            flat_sha256: false,
            disks: disks.iter().map(|disk| disk.header.clone()).collect(),
            container: Some(ContainerHeader {
                format: if separate { "ovf" } else { FORMAT }.into(),
                parameters: self.parameters(),
                file_hash: self.options.manifest_hash.name().into(),
                separate,
                content: content.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            }),
            object: None,
            encoder,
            device: 0,
            inode: 0,
        }
    }

    /// A disk that is complete, but for what only its source tells.
    pub(super) fn packed(&self, index: usize, end: &DiskEnd) -> Result<PackedDisk> {
        let hash = end.hash.as_deref().and_then(FileDigest::from_hex);
        Ok(PackedDisk {
            file: self.names.disks[index].clone(),
            format: self.spec.format(),
            source_format: crate::source::SourceFormat::Image(vmferry_formats::Format::Raw),
            virtual_size: end.size,
            zero_bytes: end.zero,
            offset: None,
            file_size: end.len,
            file_hash: hash.ok_or_else(|| Error::failed(format!("disk {index} has no hash")))?,
            digest: tree_digest(self.options.conversion.digest, end),
        })
    }
}

/// Name of the container in journals and manifests.
const FORMAT: &str = "ova";
