//! An OVA as the container of a job.

use bytes::Bytes;
use vmferry_formats::{
    Op,
    ova::{self, ArchiveOptions, ArchiveWriter, ManifestHash, Template},
};

use super::{Names, sign::Signer};
use crate::{
    error::{Error, FormatContext as _, Result},
    pipeline::{
        hash::{FileDigest, FileHash},
        journal::DiskEnd,
        layout::Container,
    },
};

/// Writes an OVA around its disks.
pub(super) struct OvaContainer {
    writer: ArchiveWriter,
    tail: Tail,
}

impl OvaContainer {
    /// An archive of files with these names.
    ///
    /// # Errors
    /// The names, the time or the template cannot be written.
    pub(super) fn new(names: Names, template: Template, mtime: u64, tail: Tail) -> Result<Self> {
        let options = ArchiveOptions { descriptor_name: names.descriptor, file_names: names.disks, mtime };
        let writer = ArchiveWriter::new(options, template).context(|| "cannot write the OVA".into())?;
        Ok(Self { writer, tail })
    }
}

impl Container for OvaContainer {
    fn begin(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.writer.begin(ops).context(|| "cannot begin the OVA".into())
    }

    fn begin_disk(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        self.writer.begin_file(ops).context(|| "cannot begin a disk of the OVA".into())
    }

    fn pass(&mut self, ops: &mut [Op]) -> Result<()> {
        self.writer.pass(ops).context(|| "cannot write a disk of the OVA".into())
    }

    fn end_disk(&mut self, disk: &DiskEnd, ops: &mut Vec<Op>) -> Result<()> {
        self.tail.add(disk)?;
        let used = disk.size.saturating_sub(disk.zero);
        self.writer.end_file(used, ops).context(|| "cannot end a disk of the OVA".into())
    }

    fn finish(&mut self, ops: &mut Vec<Op>) -> Result<()> {
        let what = || "cannot end the OVA".to_owned();
        let descriptor = self.writer.descriptor().context(what)?;
        let last = self.tail.files(&descriptor)?;
        self.writer.finish(descriptor, last, ops).context(what)
    }

    fn position(&self) -> u64 {
        self.writer.position()
    }
}

/// What stands at the end of an appliance: the manifest and, if it is signed, the certificate.
pub(super) struct Tail {
    names: Names,
    hash: ManifestHash,
    signer: Option<Signer>,
    hashes: Vec<FileDigest>,
}

impl Tail {
    pub(super) fn new(names: Names, hash: ManifestHash, signer: Option<Signer>) -> Self {
        Self { names, hash, signer, hashes: Vec::new() }
    }

    /// The next disk is complete.
    ///
    /// # Errors
    /// Nobody hashed it.
    pub(super) fn add(&mut self, disk: &DiskEnd) -> Result<()> {
        let hash = disk.hash.as_deref().and_then(FileDigest::from_hex);
        self.hashes.push(hash.ok_or_else(|| Error::failed(format!("disk {} has no hash", disk.disk)))?);
        Ok(())
    }

    /// Names and contents of the files that follow the disks.
    ///
    /// # Errors
    /// The key does not sign.
    pub(super) fn files(&self, descriptor: &[u8]) -> Result<Vec<(String, Bytes)>> {
        let descriptor = file_hash(self.hash).of(descriptor);
        let names = [&self.names.descriptor].into_iter().chain(&self.names.disks).map(String::as_str);
        let hashes = [&descriptor].into_iter().chain(&self.hashes).map(FileDigest::as_bytes);
        let text = ova::manifest(self.hash, names.zip(hashes));
        let text = text.context(|| "cannot write the manifest of the appliance".into())?;
        let mut files = vec![(self.names.manifest.clone(), Bytes::from(text.clone()))];
        if let Some(signer) = &self.signer {
            let signature = signer.sign(text.as_bytes())?;
            let text = ova::certificate(&self.names.manifest, &signature, &signer.certificate_pem());
            let text = text.context(|| "cannot write the certificate of the appliance".into())?;
            files.push((self.names.certificate.clone(), Bytes::from(text)));
        }
        Ok(files)
    }
}

/// The hash of the files that stand in a manifest.
pub(super) const fn file_hash(hash: ManifestHash) -> FileHash {
    match hash {
        ManifestHash::Sha1 => FileHash::Sha1,
        ManifestHash::Sha256 => FileHash::Sha256,
    }
}
