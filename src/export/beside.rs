//! What stands beside the disks: the VM's description, the record, sums.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{
    Export, ExportOptions, Packaging,
    output::{Form, Places, descriptions},
    prepare::{Means, Prepared, has_references},
    record::{ExportRecord, LeftOutRecord, RECORD_VERSION, SourceRecord},
    run::Run,
};
use crate::{
    conversion::{Readers, Target, files_of, partial_of, refuse_inputs, write_beside},
    error::{Error, ErrorKind, Result},
    kubevirt::{ExportSource, Snapshot, now, types::VirtualMachine},
    pack::PackTarget,
    pipeline::target::TargetPaths,
};

impl Export {
    /// The VM's description, with instancetype and preference written out.
    pub(super) async fn description(&self, prepared: &Prepared, run: &mut Run) -> Result<Option<Value>> {
        let Some(mut vm) = prepared.vm.clone() else { return Ok(None) };
        // As it was before it was stopped.
        if let (Some(Value::Object(strategy)), Some(spec)) =
            (&run.stopped, vm.get_mut("spec").and_then(Value::as_object_mut))
        {
            spec.extend(strategy.clone());
        }
        let (expanded, warning) = self.expanded_or_not(&vm, &prepared.means, run.stopped.is_some()).await?;
        run.warnings.extend(warning);
        Ok(Some(VirtualMachine::description(&expanded)))
    }

    /// The VM expanded, or as it is, with the reason, where it may be used like that.
    pub(super) async fn expanded_or_not(
        &self,
        vm: &Value,
        means: &Means,
        is_stopped: bool,
    ) -> Result<(Value, Option<String>)> {
        match self.expanded(vm, means, is_stopped).await {
            Ok(expanded) => Ok((expanded, None)),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            // Firmware, buses and models would be wrong without a word in the appliance.
            Err(error) if self.options.appliance.is_some() && has_references(vm) => {
                Err(error.prefixed("the VM's instancetype and preference cannot be written out: "))
            }
            Err(error) => {
                let warning = format!(
                    "the VM's description is as it is in the cluster, instancetype and preference not written out: {error}"
                );
                Ok((vm.clone(), Some(warning)))
            }
        }
    }

    /// The VM with instancetype and preference written out, by the cluster.
    async fn expanded(&self, vm: &Value, means: &Means, is_stopped: bool) -> Result<Value> {
        let expanded = match means {
            Means::Direct(ExportSource::VirtualMachine(name)) if !is_stopped => {
                self.cluster.expanded_vm(name).await?
            }
            // In the cluster it is another one by now.
            _ => self.cluster.expanded(vm).await?,
        };
        Ok(if expanded.is_object() { expanded } else { vm.clone() })
    }

    /// Refuses outputs that would be written over what is read beside the disks: permission to overwrite is none to
    /// lose a key.
    pub(super) fn refuse_inputs(&self, places: &Places, outputs: &[Target]) -> Result<()> {
        let Self { options: ExportOptions { inputs, conversion, .. }, .. } = self;
        for output in outputs {
            let Target::Path(path) = output else { continue };
            refuse_inputs(files_of(&TargetPaths::new(path, conversion.journal.as_deref(), true)?), inputs)?;
        }
        let mut beside: Vec<PathBuf> = Vec::new();
        if let Some(directory) = places.directory() {
            beside.extend([DESCRIPTION, RECORD, SUMS].map(|name| directory.join(name)));
        }
        if let Form::Appliance(packaging @ Packaging::Ovf, _) = self.form()
            && let (PackTarget::Directory(directory), base) = places.appliance(packaging)?
        {
            beside.extend(descriptions(&directory, &base));
        }
        let partials: Vec<PathBuf> = beside.iter().map(|path| partial_of(path)).collect();
        refuse_inputs(beside.iter().chain(&partials), inputs)
    }

    /// Writes what stands beside the disks.
    pub(super) async fn describe(
        &self,
        directory: &Path,
        run: &Run,
        prepared: &Prepared,
        description: Option<&Value>,
        source: &ExportSource,
    ) -> Result<()> {
        if let Some(description) = description {
            let text = serde_saphyr::to_string(description).map_err(|error| {
                Error::failed("cannot write the VM's description as YAML").with_source(error)
            })?;
            self.write(&directory.join(DESCRIPTION), text.as_bytes()).await?;
        }
        let files = run.volumes.iter().filter(|volume| volume.archive.is_none());
        let files = files.map(|volume| (volume.sha256.as_ref(), &volume.file));
        let archive = run.appliance.as_ref().map(|appliance| (appliance.sha256.as_ref(), &appliance.file));
        let sums: String = files
            .chain(archive)
            .filter_map(|(sha256, file)| Some(format!("{}  {file}\n", sha256?)))
            .collect();
        if !sums.is_empty() {
            self.write(&directory.join(SUMS), sums.as_bytes()).await?;
        }
        let snapshot: Option<&Snapshot> = prepared.snapshot.as_ref();
        let record = ExportRecord {
            version: RECORD_VERSION,
            created: now(),
            vmferry: env!("CARGO_PKG_VERSION"),
            kubevirt: self.cluster.kubevirt_version().await,
            cluster: self.cluster.url(),
            namespace: self.cluster.namespace(),
            name: &prepared.plan.name,
            source: SourceRecord {
                kind: source.kind(),
                name: source.name(),
                indications: snapshot.map(|snapshot| snapshot.indications.as_slice()).unwrap_or_default(),
                taken: snapshot.and_then(|snapshot| snapshot.taken.as_deref()),
            },
            consistency: prepared.consistency.name(),
            description: description.map(|_| DESCRIPTION),
            volumes: &run.volumes,
            appliance: run.appliance.as_ref(),
            left_out: prepared
                .volumes
                .left_out
                .iter()
                .map(|left| LeftOutRecord { name: &left.name, reason: &left.reason })
                .collect(),
        };
        let mut text = serde_json::to_string_pretty(&record)
            .map_err(|error| Error::failed("cannot write the record of the export").with_source(error))?;
        text.push('\n');
        self.write(&directory.join(RECORD), text.as_bytes()).await
    }

    /// Writes a small file, or a small object.
    async fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        write_beside(path, bytes, &self.options.conversion, Readers::Owner).await
    }
}

/// The VM's description.
pub(super) const DESCRIPTION: &str = "vm.yaml";

/// The record of the export.
pub(super) const RECORD: &str = "manifest.json";

/// What `sha256sum -c` checks.
pub(super) const SUMS: &str = "SHA256SUMS";
