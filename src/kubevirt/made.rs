//! Objects that are made once, though the request may have to be repeated; and conditions that tell how far
//! they are.

use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    Cluster, Resource,
    explain::{CallError, told},
    names::run_id,
    types::{Condition, Metadata},
};
use crate::error::{Error, ErrorKind, Result};

/// An object that works towards an end: a restore, a clone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Work {
    pub(super) metadata: Metadata,
    pub(super) status: WorkStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WorkStatus {
    pub(super) phase: String,
    pub(super) complete: bool,
    pub(super) target_name: Option<String>,
    pub(super) conditions: Vec<Condition>,
}

impl Cluster {
    /// Makes an object in the namespace, whose name is new. Fields that the cluster does not know are
    /// refused, not dropped. A request whose answer was lost is given again; that an object is then ours is
    /// seen by a mark, since somebody else's may have the same name and specification.
    pub(super) async fn make(&self, resource: &Resource, object: &Value, dry_run: bool) -> Result<()> {
        let mut object = object.clone();
        let mark = run_id()?;
        object["metadata"]["annotations"][REQUEST] = mark.as_str().into();
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let what = resource.object(self.namespace(), name);
        let call = self.call("create", resource, &what);
        let dry = if dry_run { "&dryRun=All" } else { "" };
        let path = format!("{}?fieldValidation=Strict{dry}", resource.path(Some(self.namespace())));
        let (start, mut is_repeated) = (Instant::now(), false);
        loop {
            match self.send(&call, Method::POST, &path, Some(&object)).await {
                Ok(_) => return Ok(()),
                Err(CallError::Exists(error)) => {
                    let found: Option<Value> =
                        if is_repeated { self.find(resource, name).await? } else { None };
                    if found.is_some_and(|found| found["metadata"]["annotations"][REQUEST] == mark.as_str()) {
                        return Ok(());
                    }
                    return Err(error.with_hint("choose another name, or delete that one"));
                }
                Err(CallError::Transient(error)) => {
                    if start.elapsed() + PAUSE >= self.retry_for() {
                        return Err(error);
                    }
                    tracing::debug!(%error, what, "the cluster did not answer, asking again");
                    is_repeated = true;
                    sleep(PAUSE).await;
                }
                Err(CallError::NotFound(error)) => {
                    return Err(Error::new(
                        ErrorKind::Cluster,
                        format!("namespace {} or what {what} is of does not exist", self.namespace()),
                    )
                    .with_source(error));
                }
                Err(error) => return Err(unknown_field(error.into())),
            }
        }
    }
}

impl Cluster {
    /// Makes an object; an answer that got lost is asked for again, and then says that the object exists.
    pub(super) async fn create_again(&self, resource: &Resource, object: &Value) -> Result<Value, CallError> {
        let start = Instant::now();
        loop {
            match self.create(resource, object).await {
                Err(CallError::Transient(error)) if start.elapsed() + PAUSE < self.retry_for() => {
                    tracing::debug!(%error, "the cluster did not answer, asking again");
                    sleep(PAUSE).await;
                }
                other => return other,
            }
        }
    }
}

/// An error about a field, or a value of one, that is too new for the cluster says so.
fn unknown_field(error: Error) -> Error {
    let text = told(&error);
    let found =
        ["unknown field \"spec.", "Unsupported value: \""].into_iter().find_map(|part| text.split_once(part));
    let Some((_, rest)) = found else { return error };
    let field = rest.split('"').next().unwrap_or_default();
    let since = FIELDS.iter().find(|(name, _)| *name == field).map(|(_, since)| *since);
    let needs = since.map_or_else(String::new, |since| format!("it needs KubeVirt {since} or newer; "));
    Error::new(ErrorKind::Cluster, format!("this version of KubeVirt does not know {field}"))
        .with_hint(format!("{needs}leave the option for it out"))
        .with_source(Error::failed(text))
}

/// Since when KubeVirt has fields, and values of them, that older versions lack.
const FIELDS: [(&str, &str); 7] = [
    ("PrefixTargetName", "1.8"),
    ("addedNodeSelector", "1.6"),
    ("patches", "1.6"),
    ("targetReadinessPolicy", "1.5"),
    ("volumeNamePolicy", "1.8"),
    ("volumeOwnershipPolicy", "1.7"),
    ("volumeRestorePolicy", "1.6"),
];

impl WorkStatus {
    /// What went wrong for good, in the cluster's words.
    pub(super) fn failure(&self) -> Option<String> {
        let failed = |condition: &&Condition| condition.kind == "Failure" && condition.status == "True";
        match self.conditions.iter().find(failed) {
            Some(condition) => Some(words(condition)),
            None if self.phase == "Failed" => Some(self.state()),
            None => None,
        }
    }

    /// What it waits for.
    pub(super) fn state(&self) -> String {
        let of = |kind: &str| self.conditions.iter().find(|condition| condition.kind == kind).map(words);
        let condition = match of("Progressing") {
            // Of a clone that says no more than this, the reason is in the other condition.
            Some(vague) if vague == self.phase || vague == "Pending" => of("Ready").or(Some(vague)),
            other => other.or_else(|| self.conditions.first().map(words)),
        };
        let condition = condition.unwrap_or_default();
        match (self.phase.as_str(), condition.as_str()) {
            ("", "") => "not begun".to_owned(),
            ("", words) => words.to_owned(),
            (phase, "") => phase.to_owned(),
            (phase, words) => format!("{phase} ({words})"),
        }
    }
}

/// The text of a condition. That of snapshots, restores and clones is in the reason.
fn words(condition: &Condition) -> String {
    match (condition.reason.trim(), condition.message.trim()) {
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// Annotation by which an object is known to be of this very request.
const REQUEST: &str = "vmferry.io/request";

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_too_new_is_named_with_its_version() {
        let text = "VirtualMachineRestore in version \"v1beta1\" cannot be handled as a VirtualMachineRestore: strict \
                    decoding error: unknown field \"spec.volumeRestorePolicy\"";
        let error = Error::new(ErrorKind::Cluster, "refused").with_source(Error::failed(text));
        let error = unknown_field(error);
        assert_eq!(error.to_string(), "this version of KubeVirt does not know volumeRestorePolicy");
        assert!(error.hint().unwrap().contains("1.6"), "{:?}", error.hint());
        let other = Error::new(ErrorKind::Cluster, "refused").with_source(Error::failed("quota"));
        assert_eq!(unknown_field(other).to_string(), "refused");
    }

    #[test]
    fn work_tells_what_it_waits_for() {
        let condition = |kind: &str, status: &str, reason: &str| Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            ..Condition::default()
        };
        let mut status = WorkStatus::default();
        assert_eq!(status.state(), "not begun");
        status.conditions = vec![
            condition("Ready", "False", "Waiting"),
            condition("Progressing", "True", "Creating new PVCs"),
        ];
        assert_eq!((status.state().as_str(), status.failure()), ("Creating new PVCs", None));
        status.phase = "RestoreInProgress".into();
        assert_eq!(status.state(), "RestoreInProgress (Creating new PVCs)");
        status.conditions.push(condition("Failure", "True", "no space"));
        assert_eq!(status.failure().as_deref(), Some("no space"));
        let failed = WorkStatus { phase: "Failed".into(), ..WorkStatus::default() };
        assert_eq!(failed.failure().as_deref(), Some("Failed"));
        // As the controller of clones tells it.
        let conditions = vec![
            condition("Progressing", "False", "Failed"),
            condition("Ready", "False", "no snapshots there"),
        ];
        let failed = WorkStatus { phase: "Failed".into(), conditions, ..WorkStatus::default() };
        assert_eq!(failed.failure().as_deref(), Some("Failed (no snapshots there)"));
        let conditions =
            vec![condition("Progressing", "False", "Pending"), condition("Ready", "False", "no source")];
        let pending = WorkStatus { conditions, ..WorkStatus::default() };
        assert_eq!((pending.state().as_str(), pending.failure()), ("no source", None));
    }
}
