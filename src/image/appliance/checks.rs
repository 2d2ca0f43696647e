//! What can be told from headers, descriptor and manifest; formats contract 4.1 to 4.5.

use std::collections::{HashMap, HashSet};

use vmferry_formats::{
    ova::{Dialect, Entry, Sum},
    ovf::{Envelope, is_portable_name},
};

use super::{ApplianceCheck, CheckKind, CheckOutcome, bodies::Found, descriptor::Problems};
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
    let Problems { failed, warned } = Problems::of(appliance.envelope());
    if failed.is_empty() && warned.is_empty() {
        let text = format!(
            "{} disks, {} items",
            appliance.disks().len(),
            appliance.envelope().system.hardware.items.len()
        );
        checks.push(ApplianceCheck::new(CheckKind::Descriptor, CheckOutcome::Passed, None, text));
    }
    for (outcome, mut problems) in [(CheckOutcome::Failed, failed), (CheckOutcome::Warned, warned)] {
        if let Some(more) = problems.len().checked_sub(MAX_NAMED).filter(|&more| more > 0) {
            problems.truncate(MAX_NAMED);
            problems.push(format!("and {more} more"));
        }
        let told = problems
            .into_iter()
            .map(|problem| ApplianceCheck::new(CheckKind::Descriptor, outcome, None, problem));
        checks.extend(told);
    }
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

/// The hashes of the manifest.
pub(super) fn manifest(
    appliance: &Appliance,
    sums: &[Sum],
    found: &HashMap<String, Found>,
    checks: &mut Vec<ApplianceCheck>,
) {
    let reference = |name: &str| appliance.envelope().files.iter().find(|file| file.href == name);
    let is_referenced = |name: &str| reference(name).is_some();
    let is_split = |name: &str| reference(name).is_some_and(|file| file.chunk_size.is_some());
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
            None if is_referenced(name) => push(CheckOutcome::Failed, name, "the file is not there".into()),
            None => {
                let text = "there is no such file, and the descriptor refers to none";
                push(CheckOutcome::Warned, name, text.into());
            }
        }
    }
    let named: HashSet<&str> = sums.iter().map(|sum| sum.name.as_str()).collect();
    for file in appliance.files() {
        let outcome = match file.role {
            FileRole::Manifest | FileRole::Certificate => continue,
            _ if named.contains(file.name.as_str()) => continue,
            // What is in pieces has lines for these.
            FileRole::Referenced if is_split(&file.name) => CheckOutcome::NotChecked,
            FileRole::Referenced => CheckOutcome::Failed,
            FileRole::Descriptor => CheckOutcome::Warned,
            FileRole::Other => CheckOutcome::NotChecked,
        };
        push(outcome, &file.name, "the manifest does not name it".into());
    }
    if sums.is_empty() {
        let text = "the manifest is empty: it proves nothing";
        checks.push(ApplianceCheck::new(CheckKind::Manifest, CheckOutcome::Failed, None, text));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Contradictions that are named one by one.
const MAX_NAMED: usize = 32;
