//! What a verification of an appliance found.

use std::time::Duration;

use crate::{
    error::{Error, ErrorKind},
    source::ApplianceKind,
};

/// What [`verify_appliance`](super::verify_appliance) found.
#[derive(Clone, Debug)]
pub struct ApplianceReport {
    /// Path or URL.
    pub name: String,
    /// How it is packed.
    pub kind: ApplianceKind,
    /// Each thing that was looked at.
    pub checks: Vec<ApplianceCheck>,
    /// Bytes taken from the source.
    pub bytes_read: u64,
    /// Wall time.
    pub elapsed: Duration,
}

impl ApplianceReport {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.failure().is_none()
    }

    /// What is wrong, as an error ([`Verification`](ErrorKind::Verification)); `None` if nothing is.
    pub fn failure(&self) -> Option<Error> {
        let failed: Vec<&ApplianceCheck> =
            self.checks.iter().filter(|check| check.outcome == CheckOutcome::Failed).collect();
        let first = failed.first()?;
        let subject = first.subject.as_ref().map_or_else(String::new, |subject| format!("{subject}: "));
        let message = format!(
            "{} is not what it says of itself: {} of {} checks failed, first {subject}{}",
            self.name,
            failed.len(),
            self.checks.len(),
            first.detail
        );
        Some(Error::new(ErrorKind::Verification, message))
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplianceCheck {
    /// What was asked.
    pub kind: CheckKind,
    /// Of which file or disk.
    pub subject: Option<String>,
    /// The answer.
    pub outcome: CheckOutcome,
    /// What was found.
    pub detail: String,
}

impl ApplianceCheck {
    pub(super) fn new(
        kind: CheckKind,
        outcome: CheckOutcome,
        subject: Option<&str>,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, subject: subject.map(str::to_owned), outcome, detail: detail.into() }
    }
}

/// What is asked about an appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckKind {
    /// Is the archive one that importers read?
    Archive,
    /// Is the manifest signed by the key of the certificate beside?
    Certificate,
    /// Does the descriptor agree with itself?
    Descriptor,
    /// Is a disk whole, and as large as the descriptor says?
    Disk,
    /// Do the files have the hashes of the manifest?
    Manifest,
    /// Do the entries stand in the order that they must have?
    Order,
    /// Does a file have the length that the descriptor says?
    Size,
}

impl CheckKind {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Certificate => "certificate",
            Self::Descriptor => "descriptor",
            Self::Disk => "disk",
            Self::Manifest => "manifest",
            Self::Order => "order",
            Self::Size => "size",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckOutcome {
    /// Something is wrong.
    Failed,
    /// It could not be told.
    NotChecked,
    /// It is right.
    Passed,
    /// It is right, but some importers will not like it.
    Warned,
}

impl CheckOutcome {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::NotChecked => "not-checked",
            Self::Passed => "ok",
            Self::Warned => "warning",
        }
    }
}
