//! What was found of an OVA or OVF: a line for each check.

use std::io::{self, Write};

use serde::Serialize;
use vmferry::image::{ApplianceCheck, ApplianceReport};

use crate::cli::{
    output::{Plain, Report},
    units::seconds,
};

#[derive(Serialize)]
pub(super) struct ApplianceResult<'a> {
    name: &'a str,
    format: &'static str,
    verified: bool,
    checks: Vec<CheckResult<'a>>,
    bytes_read: u64,
    elapsed_seconds: f64,
}

#[derive(Serialize)]
struct CheckResult<'a> {
    check: &'static str,
    subject: Option<&'a str>,
    outcome: &'static str,
    detail: &'a str,
}

impl<'a> From<&'a ApplianceReport> for ApplianceResult<'a> {
    fn from(report: &'a ApplianceReport) -> Self {
        Self {
            name: &report.name,
            format: report.kind.name(),
            verified: report.is_good(),
            checks: report.checks.iter().map(CheckResult::from).collect(),
            bytes_read: report.bytes_read,
            elapsed_seconds: seconds(report.elapsed),
        }
    }
}

impl<'a> From<&'a ApplianceCheck> for CheckResult<'a> {
    fn from(check: &'a ApplianceCheck) -> Self {
        Self {
            check: check.kind.name(),
            subject: check.subject.as_deref(),
            outcome: check.outcome.name(),
            detail: &check.detail,
        }
    }
}

impl Report for ApplianceResult<'_> {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for check in &self.checks {
            let outcome = match check.outcome {
                "failed" => "FAILED",
                "ok" => "OK",
                other => other,
            };
            let subject = check.subject.map_or_else(String::new, |subject| format!("{subject}: "));
            let line = format!("{outcome:<12} {:<12} {subject}{}", check.check, check.detail);
            writeln!(out, "{}", Plain(&line))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vmferry::{
        ErrorKind,
        image::{CheckKind, CheckOutcome},
        source::ApplianceKind,
    };

    use super::*;

    fn report(outcome: CheckOutcome) -> ApplianceReport {
        let check = |kind, subject: Option<&str>, outcome, detail: &str| ApplianceCheck {
            kind,
            subject: subject.map(str::to_owned),
            outcome,
            detail: detail.into(),
        };
        ApplianceReport {
            name: "x.ova".into(),
            kind: ApplianceKind::Ova,
            checks: vec![
                check(CheckKind::Order, None, CheckOutcome::Passed, "as it must be"),
                check(CheckKind::Manifest, Some("x\u{1b}.vmdk"), outcome, "SHA256"),
                check(CheckKind::Certificate, Some("x.cert"), CheckOutcome::NotChecked, "unknown key"),
            ],
            bytes_read: 7,
            elapsed: Duration::from_secs(2),
        }
    }

    #[test]
    fn text_is_a_line_for_each_check() {
        let mut text = Vec::new();
        ApplianceResult::from(&report(CheckOutcome::Failed)).text(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "OK           order        as it must be\n\
             FAILED       manifest     x\\u{1b}.vmdk: SHA256\n\
             not-checked  certificate  x.cert: unknown key\n"
        );
    }

    #[test]
    fn a_failed_check_is_a_failed_verification() {
        let error = report(CheckOutcome::Failed).failure().unwrap();
        assert_eq!(error.kind(), ErrorKind::Verification);
        assert!(error.to_string().contains("1 of 3"), "{error}");
        assert!(report(CheckOutcome::Warned).failure().is_none());
        let json = serde_json::to_value(ApplianceResult::from(&report(CheckOutcome::Passed))).unwrap();
        assert_eq!(json["verified"], true);
        assert_eq!(json["checks"][1]["outcome"], "ok");
    }
}
