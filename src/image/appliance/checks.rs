//! What can be told from headers, descriptor and manifest; formats contract 4.1 to 4.5.

use std::collections::{HashMap, HashSet};

use vmferry_formats::{
    ova::{Dialect, Entry, Sum},
    ovf::{Envelope, Item, is_portable_name},
};

use super::{ApplianceCheck, CheckKind, CheckOutcome, bodies::Found};
use crate::source::{Appliance, ApplianceFile, FileRole, stated_size};

/// The archive, and the order of its entries.
pub(super) fn archive(appliance: &Appliance, checks: &mut Vec<ApplianceCheck>) {
    if let Some((_, entries, _)) = appliance.archive() {
        checks.push(dialects(entries));
        checks.push(match order(appliance.envelope(), appliance.files()) {
            Ok(()) => ApplianceCheck::new(CheckKind::Order, CheckOutcome::Passed, None, "as it must be"),
            Err(why) => ApplianceCheck::new(CheckKind::Order, CheckOutcome::Failed, None, why),
        });
    }
    names(appliance.files(), checks);
}

fn dialects(entries: &[Entry]) -> ApplianceCheck {
    let pax = entries.iter().find(|entry| entry.dialect == Dialect::Pax);
    let (outcome, text) = match pax {
        Some(entry) => (
            CheckOutcome::Warned,
            format!("{:?} has a pax header, which vSphere and VirtualBox refuse", entry.name),
        ),
        None => (CheckOutcome::Passed, format!("{} entries", entries.len())),
    };
    ApplianceCheck::new(CheckKind::Archive, outcome, None, text)
}

/// Names that not everybody takes, and those that must go together.
fn names(files: &[ApplianceFile], checks: &mut Vec<ApplianceCheck>) {
    let base = |file: &ApplianceFile| {
        let name = file.name.to_lowercase();
        name.rsplit_once('.').map_or_else(|| name.clone(), |(base, _)| base.to_owned())
    };
    let descriptor = files.iter().find(|file| file.role == FileRole::Descriptor).map(base);
    for file in files {
        let is_text = matches!(file.role, FileRole::Manifest | FileRole::Certificate);
        if is_text && Some(base(file)) != descriptor {
            let text = "its name without the extension is not that of the descriptor";
            checks.push(ApplianceCheck::new(
                CheckKind::Archive,
                CheckOutcome::Failed,
                Some(&file.name),
                text,
            ));
        }
        if !is_portable_name(&file.name) {
            let text =
                "not every importer takes that name: letters, digits, '.', '_' and '-', up to 99 of them";
            checks.push(ApplianceCheck::new(
                CheckKind::Archive,
                CheckOutcome::Warned,
                Some(&file.name),
                text,
            ));
        }
    }
}

/// Descriptor; manifest and certificate, or these at the end; the files in the order of the references.
fn order(envelope: &Envelope, files: &[ApplianceFile]) -> Result<(), String> {
    let position = |role| files.iter().position(|file| file.role == role);
    let descriptor = position(FileRole::Descriptor);
    if descriptor != Some(0) {
        let first = files.first().map_or("nothing", |file| file.name.as_str());
        return Err(format!("{first:?} comes first, and the descriptor must"));
    }
    let (manifest, certificate) = (position(FileRole::Manifest), position(FileRole::Certificate));
    let texts = usize::from(manifest.is_some()) + usize::from(certificate.is_some());
    if let Some(manifest) = manifest {
        if manifest != 1 && manifest + texts != files.len() {
            return Err("the manifest stands neither behind the descriptor nor at the end".into());
        }
        if certificate.is_some_and(|certificate| certificate != manifest + 1) {
            return Err("the certificate does not stand behind the manifest".into());
        }
    } else if certificate.is_some() {
        return Err("there is a certificate, and no manifest that it could be for".into());
    }
    let places: HashMap<&str, usize> =
        files.iter().enumerate().map(|(index, file)| (file.name.as_str(), index)).collect();
    let found = envelope.files.iter().filter_map(|file| Some((&file.href, places.get(file.href.as_str())?)));
    let found: Vec<_> = found.collect();
    match found.windows(2).find(|pair| pair[0].1 > pair[1].1) {
        Some(pair) => Err(format!(
            "{:?} stands in front of {:?}, which the descriptor refers to first",
            pair[1].0, pair[0].0
        )),
        None => Ok(()),
    }
}

/// The descriptor, and the lengths that it states.
pub(super) fn descriptor(appliance: &Appliance, checks: &mut Vec<ApplianceCheck>) {
    let mut problems = contradictions(appliance.envelope());
    if problems.is_empty() {
        let text = format!(
            "{} disks, {} items",
            appliance.disks().len(),
            appliance.envelope().system.hardware.items.len()
        );
        checks.push(ApplianceCheck::new(CheckKind::Descriptor, CheckOutcome::Passed, None, text));
    }
    if let Some(more) = problems.len().checked_sub(MAX_NAMED).filter(|&more| more > 0) {
        problems.truncate(MAX_NAMED);
        problems.push(format!("and {more} more"));
    }
    let failed = problems
        .into_iter()
        .map(|problem| ApplianceCheck::new(CheckKind::Descriptor, CheckOutcome::Failed, None, problem));
    checks.extend(failed);
    let files: HashMap<&str, Option<u64>> =
        appliance.files().iter().map(|file| (file.name.as_str(), file.size)).collect();
    for file in &appliance.envelope().files {
        let Ok(name) = file.safe_name() else { continue };
        let found = files.get(name).copied().flatten();
        let (outcome, text) = match (found, stated_size(file)) {
            (None, _) if file.chunk_size.is_some() => {
                (CheckOutcome::NotChecked, "the file is split into pieces".to_owned())
            }
            (None, _) => (CheckOutcome::Failed, "the file is not there".to_owned()),
            (Some(size), Some(stated)) if size != stated => {
                (CheckOutcome::Failed, format!("the file has {size} bytes, and the descriptor says {stated}"))
            }
            (Some(size), Some(_)) => (CheckOutcome::Passed, format!("{size} bytes")),
            (Some(_), None) => (CheckOutcome::NotChecked, "the descriptor states none".to_owned()),
        };
        checks.push(ApplianceCheck::new(CheckKind::Size, outcome, Some(name), text));
    }
}

/// Everything in which a descriptor contradicts itself.
fn contradictions(envelope: &Envelope) -> Vec<String> {
    let mut problems = Vec::new();
    let file_ids: HashSet<&str> = envelope.files.iter().map(|file| file.id.as_str()).collect();
    let disk_ids: HashSet<&str> = envelope.disks.iter().map(|disk| disk.id.as_str()).collect();
    let networks: HashSet<&str> = envelope.networks.iter().map(|network| network.name.as_str()).collect();
    for file in &envelope.files {
        if let Err(error) = file.safe_name() {
            problems.push(format!("the file {:?}: {error}", file.id));
        }
    }
    for disk in &envelope.disks {
        let dangling = |reference: &&String| !file_ids.contains(reference.as_str());
        if let Some(reference) = disk.file_ref.as_ref().filter(dangling) {
            problems.push(format!("the disk {:?} is in the file {reference:?}, which there is not", disk.id));
        }
    }
    let items = &envelope.system.hardware.items;
    let instances: HashSet<&str> = items.iter().map(|item| item.instance_id.as_str()).collect();
    let mut seen = HashSet::new();
    for item in items {
        let called = called(item);
        // Bounds and deployment options repeat the id of the item that they vary.
        if !seen.insert((&item.instance_id, &item.bound, &item.configuration)) {
            problems.push(format!("{called}: another item has the same InstanceID"));
        }
        for resource in &item.host_resources {
            if !resolves(resource, &disk_ids, &file_ids) {
                problems
                    .push(format!("{called}: its HostResource {resource:?} is neither a disk nor a file"));
            }
        }
        for connection in &item.connections {
            if !networks.contains(connection.as_str()) {
                problems.push(format!("{called}: its network {connection:?} is not in the NetworkSection"));
            }
        }
        if let Some(parent) = item.parent.as_ref().filter(|parent| !instances.contains(parent.as_str())) {
            problems.push(format!("{called}: its controller {parent:?} is no item"));
        }
    }
    problems
}

fn called(item: &Item) -> String {
    format!("item {:?} ({:?})", item.instance_id, item.element_name)
}

/// Whether `ovf:/disk/ID` or `ovf:/file/ID` is there. Some programs leave the scheme away.
fn resolves(resource: &str, disks: &HashSet<&str>, files: &HashSet<&str>) -> bool {
    let path = resource.strip_prefix("ovf:").unwrap_or(resource);
    let path = path.trim_start_matches('/');
    match path.split_once('/') {
        Some(("disk", id)) => disks.contains(id),
        Some(("file", id)) => files.contains(id),
        _ => false,
    }
}

/// The hashes of the manifest.
pub(super) fn manifest(
    appliance: &Appliance,
    sums: &[Sum],
    found: &HashMap<String, Found>,
    checks: &mut Vec<ApplianceCheck>,
) {
    let mut push = |outcome, name: &str, text: String| {
        checks.push(ApplianceCheck::new(CheckKind::Manifest, outcome, Some(name), text));
    };
    for sum in sums {
        let (name, algorithm) = (sum.name.as_str(), sum.algorithm);
        let is_there = appliance.files().iter().any(|file| file.name == name && file.size.is_some());
        match found.get(name).and_then(|found| found.hash.as_ref()) {
            Some(hash) if *hash == sum.value => push(CheckOutcome::Passed, name, algorithm.to_string()),
            Some(hash) => {
                let text =
                    format!("its {algorithm} is {}, and the manifest says {}", hex(hash), hex(&sum.value));
                push(CheckOutcome::Failed, name, text);
            }
            None if is_there => push(CheckOutcome::NotChecked, name, format!("{algorithm} is not computed")),
            None => push(CheckOutcome::Failed, name, "the file is not there".into()),
        }
    }
    let named: HashSet<&str> = sums.iter().map(|sum| sum.name.as_str()).collect();
    for file in appliance.files() {
        let is_covered = matches!(file.role, FileRole::Manifest | FileRole::Certificate);
        if !is_covered && !named.contains(file.name.as_str()) {
            push(CheckOutcome::NotChecked, &file.name, "the manifest does not name it".into());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Contradictions that are named one by one.
const MAX_NAMED: usize = 32;
