//! All volumes of a VM as one appliance, described as the VM is.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vmferry_formats::ova::ManifestHash;

use super::{
    Export, ExportEvent, VolumeRecord,
    earlier::location_of,
    output::{Form, Places, shown},
    prepare::Prepared,
    run::Run,
    state::Memory,
};
use crate::{
    appliance::{DescriptorOptions, DiskFile, DiskFormat, Hardware, VmSeen, Warning, descriptor, of_vm_with},
    conversion::{ConversionOptions, ConversionSource, ResumePolicy, Target, size_of_output},
    error::{Error, Result},
    image::{self, ReadOptions},
    kubevirt::{ExportSource, PlannedVolume, Session, Told, seconds},
    pack::{Pack, PackBuilder, PackDisk, PackEvent, PackOptions, PackReport, PackTarget, Signer},
    source::Links,
};

/// An appliance instead of images by themselves.
///
/// ```no_run
/// use vmferry::{
///     ApplianceOptions, Export, ExportOf, ExportOptions, ExportTarget,
///     appliance::{DescriptorOptions, TargetProfile},
///     formats::Format,
///     kubevirt::{Cluster, ClusterOptions},
/// };
///
/// # async fn example() -> vmferry::Result<()> {
/// let cluster = Cluster::connect(&ClusterOptions::default()).await?;
/// let descriptor = DescriptorOptions { target_profile: TargetProfile::Proxmox, ..DescriptorOptions::default() };
/// let appliance = ApplianceOptions { descriptor, ..ApplianceOptions::default() };
/// let target = ExportTarget::File("db.ova".into());
/// let report = Export::builder(cluster, ExportOf::Vm("db".into()), target)
///     .spec(Format::Vmdk.into())
///     .options(ExportOptions { appliance: Some(appliance), ..ExportOptions::default() })
///     .build()
///     .run()
///     .await?;
/// for warning in report.appliance.iter().flat_map(|appliance| &appliance.warnings) {
///     println!("{warning}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ApplianceOptions {
    /// One file or a directory.
    pub packaging: Packaging,
    /// How the VM is described.
    pub descriptor: DescriptorOptions,
    /// Hash function of the manifest (`.mf`).
    pub manifest_hash: ManifestHash,
    /// Signs the manifest (`.cert`).
    pub signer: Option<Signer>,
    /// Modification time of everything in an OVA, in seconds since 1970; `None` = when the VM or the
    /// snapshot was made.
    pub mtime: Option<u64>,
}

impl ApplianceOptions {
    /// What a later run must be told again.
    pub(super) fn parameters(&self) -> String {
        let Self { packaging, descriptor, manifest_hash, signer, mtime } = self;
        let mut text =
            format!("{} for {} manifest={manifest_hash}", packaging.name(), descriptor.target_profile);
        let mut say = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!(" {name}={value}"));
            }
        };
        say("nic_model", descriptor.nic_model.map(|model| model.to_string()));
        say("disk_bus", descriptor.disk_bus.map(|model| model.to_string()));
        for (from, to) in &descriptor.network_map {
            say("network", Some(format!("{from:?}>{to:?}")));
        }
        say("mac", Some(descriptor.mac.unwrap_or_default().to_string()));
        say("os_type", descriptor.os_type.as_ref().map(|name| format!("{name:?}")));
        say("mtime", mtime.map(|mtime| mtime.to_string()));
        say("signed_by", signer.as_ref().map(Signer::fingerprint));
        text
    }
}

/// What an appliance looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packaging {
    /// One file, an OVA.
    #[default]
    Ova,
    /// A directory with each file by itself.
    Ovf,
}

impl Packaging {
    /// Its name on the command line, which is also the extension of what is named after the VM.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ova => "ova",
            Self::Ovf => "ovf",
        }
    }
}

/// What became of the appliance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplianceRecord {
    /// The OVA or the descriptor, as it is called beside the record, or where it is if there is no record.
    pub file: String,
    /// `ova` or `ovf`.
    pub format: String,
    /// Whom it is described for.
    pub target_profile: String,
    /// Length of the OVA, or of all files of the appliance, in bytes.
    pub size: u64,
    /// SHA-256 of the OVA, if asked for.
    pub sha256: Option<String>,
    /// Hash function of the manifest (`.mf`).
    pub manifest_hash: String,
    /// Whether the manifest is signed.
    pub signed: bool,
    /// What of the VM could not be described, or is described otherwise.
    pub warnings: Vec<Warning>,
}

/// What an appliance is made of.
struct Parts {
    target: PackTarget,
    /// What its files are called.
    base: String,
    /// The descriptor, with markers for late numbers.
    template: String,
    /// Names of the images; the usual ones if there are none.
    names: Vec<String>,
    mtime: u64,
    warnings: Vec<Warning>,
    /// All of it is as an interrupted run has written it.
    is_earlier: bool,
}

impl Export {
    /// Exports all volumes as one appliance.
    pub(super) async fn pack_all(
        &self,
        options: &ApplianceOptions,
        places: &Places,
        run: &mut Run,
        prepared: &mut Prepared,
        description: Option<&Value>,
        source: &ExportSource,
    ) -> Result<()> {
        let planned = prepared.volumes.volumes.clone();
        let first = first_of(&planned)?;
        let (mut hardware, warnings) = described(description, prepared)?;
        if let Some(version) = self.cluster.kubevirt_version().await {
            hardware.platform = Some(format!("KubeVirt {version}"));
        }
        let outputs = places.outputs(&planned, self.form())?;
        if let Some((mut records, appliance)) = self.packed_before(places, run.memory(), &planned).await {
            self.verify_packed(places, &mut records).await?;
            (run.volumes, run.appliance) = (records, Some(appliance));
            return Ok(());
        }
        let session = self.reach(run, prepared, source, &first.claim).await?;
        let links = self.all_links(&session, &planned).await?;
        let mut sizes = Vec::new();
        for links in &links {
            sizes.push(self.disk_size(links).await?);
        }
        let parts = self.parts(options, places, prepared, (&hardware, &warnings), &sizes)?;
        let mut parts = self.or_earlier(parts)?;
        if let Some(state) = &mut run.state {
            match &state.memory.described {
                // The descriptor is that of the earlier run, and so is what it could not say.
                Some(warnings) if parts.is_earlier => parts.warnings.clone_from(warnings),
                _ => state.remember_described(&parts.warnings)?,
            }
        }
        // Early: whoever must do something in the guest first need not wait for the end.
        let tell = self.teller();
        parts.warnings.iter().for_each(|warning| tell(Told::Warning(warning.to_string())));
        let is_ours = outputs.first().is_some_and(|output| self.is_ours(run.memory(), first, output));
        let disks = links.into_iter().map(|links| ConversionSource::Links(links, self.options.transfer));
        let pack = self.pack(options, &parts, disks, is_ours, &planned).build()?;
        for volume in &planned {
            if let Some(state) = &mut run.state {
                state.remember_begun(&volume.claim)?;
                run.begun = true;
            }
        }
        let report = pack.run().await?;
        run.bytes_read += report.bytes_read;
        run.warnings.extend(report.warnings.iter().cloned());
        let archive = match &parts.target {
            PackTarget::Archive(path) => Some(shown(places, &Target::at(path.clone()))),
            PackTarget::Directory(_) => None,
        };
        for (volume, disk) in planned.iter().zip(&report.disks) {
            let record = VolumeRecord::packed(volume, archive.clone(), disk, &report);
            if let Some(state) = &mut run.state {
                state.remember(&record)?;
            }
            run.volumes.push(record);
        }
        let file = archive.unwrap_or_else(|| report.descriptor.clone());
        let appliance = record(options, file, &report, parts.warnings);
        if let Some(state) = &mut run.state {
            state.remember_packed(&appliance)?;
        }
        run.appliance = Some(appliance);
        Ok(())
    }

    /// The links of all volumes, in their order.
    async fn all_links(
        &self,
        session: &Arc<Session>,
        planned: &[PlannedVolume],
    ) -> Result<Vec<Arc<dyn Links>>> {
        let mut links: Vec<Arc<dyn Links>> = Vec::new();
        for volume in planned {
            links.push(Arc::new(self.uncancelled(session.links(&volume.claim)).await?));
        }
        Ok(links)
    }

    /// Refuses what no appliance can be made of, and what is asked of one and cannot be: before anything is made, the
    /// disks' sizes being made up. Gives what the descriptor could not say.
    pub(super) async fn check_appliance(
        &self,
        options: &ApplianceOptions,
        places: &Places,
        prepared: &Prepared,
    ) -> Result<Vec<Warning>> {
        first_of(&prepared.volumes.volumes)?;
        let vm = match &prepared.vm {
            Some(vm) => Some(self.expanded_or_not(vm, &prepared.means, prepared.stopped).await?.0),
            None => None,
        };
        let (hardware, warnings) = described(vm.as_ref(), prepared)?;
        let sizes = vec![ANY_SIZE; prepared.volumes.volumes.len()];
        let parts = self.parts(options, places, prepared, (&hardware, &warnings), &sizes)?;
        // Names for what nobody looks at yet.
        let disks = parts.names.iter().cloned().map(ConversionSource::Location);
        self.pack(options, &parts, disks, false, &[]).check()?;
        Ok(parts.warnings)
    }

    /// How the VM is described with disks of these sizes.
    fn parts(
        &self,
        options: &ApplianceOptions,
        places: &Places,
        prepared: &Prepared,
        (hardware, warnings): (&Hardware, &[Warning]),
        sizes: &[u64],
    ) -> Result<Parts> {
        let (target, base) = places.appliance(options.packaging)?;
        let mut files = Vec::new();
        for ((volume, size), number) in prepared.volumes.volumes.iter().zip(sizes).zip(1..) {
            files.push(DiskFile {
                disk: hardware.disks.iter().any(|disk| disk.name == volume.name).then(|| volume.name.clone()),
                file_name: format!("{base}-disk{number}.{}", self.spec.format().name()),
                virtual_size: *size,
                format: DiskFormat::of(&self.spec),
            });
        }
        let described = descriptor(hardware, &options.descriptor, &files, warnings)?;
        Ok(Parts {
            target,
            base,
            template: described.template,
            names: files.into_iter().map(|file| file.file_name).collect(),
            mtime: options.mtime.or_else(|| made(prepared)).unwrap_or(0),
            warnings: described.warnings,
            is_earlier: false,
        })
    }

    /// What an earlier run that is taken up has written, whatever the VM looks like by now.
    fn or_earlier(&self, mut parts: Parts) -> Result<Parts> {
        let conversion = &self.options.conversion;
        if conversion.resume == ResumePolicy::Resume
            && let Some(earlier) = Pack::earlier(&parts.target, Some(&parts.base), conversion)?
        {
            parts.template = earlier.descriptor;
            parts.names = earlier.file_names;
            parts.base = earlier.base_name;
            parts.mtime = earlier.mtime;
            parts.is_earlier = true;
        }
        Ok(parts)
    }

    /// Bytes of the guest disk: what an image of it holds.
    async fn disk_size(&self, links: &Arc<dyn Links>) -> Result<u64> {
        let source = ConversionSource::Links(Arc::clone(links), self.options.transfer);
        let size = self.uncancelled(source.size(&self.options.conversion.source)).await?;
        size.and_then(|size| size.checked_next_multiple_of(SECTOR_LEN)).ok_or_else(|| {
            Error::refused(format!("the size of {} is not known before its end", links.name())).with_hint(
                "an OVA begins with the sizes of its disks, and only a raw link tells them; -O qcow2 needs none",
            )
        })
    }

    /// The appliance, set up.
    fn pack(
        &self,
        options: &ApplianceOptions,
        parts: &Parts,
        disks: impl IntoIterator<Item = ConversionSource>,
        is_ours: bool,
        planned: &[PlannedVolume],
    ) -> PackBuilder {
        let conversion = ConversionOptions {
            force: self.options.conversion.force || is_ours,
            ..self.options.conversion.clone()
        };
        let (listener, volumes): (_, Vec<String>) =
            (Arc::clone(&self.listener), planned.iter().map(|volume| volume.name.clone()).collect());
        let mut builder = Pack::builder(parts.template.clone(), parts.target.clone())
            .base_name(parts.base.clone())
            .spec(self.spec.clone())
            .options(PackOptions {
                conversion,
                manifest_hash: options.manifest_hash,
                mtime: parts.mtime,
                signer: options.signer.clone(),
                inputs: self.options.inputs.clone(),
            })
            .cancel_token(self.cancel.clone())
            .on_event(move |event| match event {
                PackEvent::Begun { number, count, name, progress } => {
                    let name = volumes.get(number - 1).cloned().unwrap_or(name);
                    listener(ExportEvent::Begun { number, count, name, progress });
                }
                PackEvent::Ended => listener(ExportEvent::Ended),
            });
        for (index, source) in disks.into_iter().enumerate() {
            let disk = PackDisk::new(source);
            builder = builder.disk(match parts.names.get(index) {
                Some(name) => disk.named(name.clone()),
                None => disk,
            });
        }
        builder
    }

    /// The records of an appliance that an earlier run completed.
    async fn packed_before(
        &self,
        places: &Places,
        memory: Option<&Memory>,
        planned: &[PlannedVolume],
    ) -> Option<(Vec<VolumeRecord>, ApplianceRecord)> {
        let memory = memory?;
        let appliance = memory.packed.clone()?;
        let record =
            |volume: &PlannedVolume| memory.done.iter().find(|record| record.claim == volume.claim).cloned();
        let records: Vec<VolumeRecord> = planned.iter().map(record).collect::<Option<_>>()?;
        let file = self.appliance_file(places).ok()?;
        let size = size_of_output(&file, &self.options.conversion).await.ok()?;
        size.map(|_| (records, appliance))
    }

    /// Reads an appliance back that an earlier run completed, if it was asked for and not done then.
    async fn verify_packed(&self, places: &Places, records: &mut [VolumeRecord]) -> Result<()> {
        let conversion = &self.options.conversion;
        if !conversion.verify || records.iter().all(|record| record.verified) {
            return Ok(());
        }
        let path = self.appliance_file(places)?;
        let path = location_of(&path)?;
        let Some(location) = path.to_str() else {
            return Err(Error::refused(format!(
                "{} cannot be verified: its name is not UTF-8",
                path.display()
            )));
        };
        let options = ReadOptions {
            workers: conversion.workers,
            memory: conversion.memory,
            cancel: self.cancel.clone(),
            source: conversion.reading_back(),
            ..ReadOptions::default()
        };
        let report = image::verify_appliance(location, &options).await;
        report.and_then(|report| report.failure().map_or(Ok(()), Err)).map_err(|error| {
            error.with_further_hint("what an earlier run wrote has changed: begin anew with --restart")
        })?;
        records.iter_mut().for_each(|record| record.verified = true);
        Ok(())
    }

    /// The OVA, or the descriptor in its directory: what has its name last.
    fn appliance_file(&self, places: &Places) -> Result<PathBuf> {
        let packaging = self.options.appliance.as_ref().map(|options| options.packaging).unwrap_or_default();
        Ok(match places.appliance(packaging)? {
            (PackTarget::Archive(path), _) => path,
            (PackTarget::Directory(directory), base) => directory.join(format!("{base}.ovf")),
        })
    }

    /// What the outputs look like.
    pub(super) fn form(&self) -> Form {
        match &self.options.appliance {
            Some(options) => Form::Appliance(options.packaging, self.spec.format()),
            None => Form::Images(self.spec.format()),
        }
    }
}

/// The volume that is fetched first.
fn first_of(planned: &[PlannedVolume]) -> Result<&PlannedVolume> {
    planned
        .first()
        .ok_or_else(|| Error::refused("the VM has no disk that can be exported, and an appliance needs one"))
}

/// The hardware of the VM that is exported, from its description and what was seen of it besides.
fn described(description: Option<&Value>, prepared: &Prepared) -> Result<(Hardware, Vec<Warning>)> {
    let vm = description.ok_or_else(|| {
        Error::usage("an appliance describes a VM, and there is none here")
            .with_hint("name the VM or a snapshot of it, or export the volume by itself with -O vmdk")
    })?;
    let seen = prepared.seen.clone();
    // Expansion takes it out of the description.
    let seen = prepared.vm.iter().fold(seen, VmSeen::with_preference_of);
    of_vm_with(vm, &seen)
}

fn record(
    options: &ApplianceOptions,
    file: String,
    report: &PackReport,
    warnings: Vec<Warning>,
) -> ApplianceRecord {
    ApplianceRecord {
        file,
        format: options.packaging.name().to_owned(),
        target_profile: options.descriptor.target_profile.name().to_owned(),
        size: report.output_size,
        sha256: report.file_sha256.map(|hash| hash.to_string()),
        manifest_hash: report.manifest_hash.name().to_owned(),
        signed: report.signed,
        warnings,
    }
}

/// When the VM was as it is exported, in seconds since 1970.
fn made(prepared: &Prepared) -> Option<u64> {
    let taken = prepared.snapshot.as_ref().and_then(|snapshot| snapshot.taken.as_deref());
    let created = || prepared.vm.as_ref()?["metadata"]["creationTimestamp"].as_str();
    seconds(taken.or_else(created)?)
}

/// Stands for the size of a disk that is not known yet; there is nothing to say about it.
const ANY_SIZE: u64 = 1 << 30;

/// VMDKs hold whole sectors.
const SECTOR_LEN: u64 = 512;
