//! Logs: to standard error, never through a progress bar.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};
use vmferry::Error;

use super::{
    args::{GlobalArgs, LogFormat, LogLevel},
    output::Output,
};

/// The variable with the filter.
const VARIABLE: &str = "VMFERRY_LOG";

/// Starts logging for the whole process.
///
/// # Errors
/// The filter in `VMFERRY_LOG` does not parse.
pub(super) fn start(global: &GlobalArgs, output: &Output) -> Result<(), Error> {
    let filter = filter(global, std::env::var(VARIABLE).ok().as_deref())?;
    let layer = fmt::layer().with_writer(output.console().clone());
    let layer = match global.log_format {
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
        LogFormat::Text => layer.with_ansi(output.colours()).with_target(false).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(|error| Error::failed("cannot start logging").with_source(error))
}

/// `variable` if it says anything, else the level that the flags stand for: other crates are
/// quieter than ours.
fn filter(global: &GlobalArgs, variable: Option<&str>) -> Result<EnvFilter, Error> {
    let directives = match variable {
        Some(directives) if !directives.trim().is_empty() => directives,
        // What a request to a cluster fails by is in the error that ends the command.
        _ => match level(global) {
            LogLevel::Error => "error,kube_client=off",
            LogLevel::Warn => "warn,kube_client=off",
            LogLevel::Info => "warn,kube_client=off,vmferry=info,vmferry_formats=info",
            LogLevel::Debug => "info,vmferry=debug,vmferry_formats=debug",
            LogLevel::Trace => "debug,vmferry=trace,vmferry_formats=trace",
        },
    };
    EnvFilter::try_new(directives)
        .map_err(|error| Error::usage(format!("{VARIABLE} is not a log filter")).with_source(error))
}

/// `-q` and `-v` before the name, which may be a setting.
fn level(global: &GlobalArgs) -> LogLevel {
    match (global.quiet, global.verbose, global.log_level) {
        (true, _, _) => LogLevel::Error,
        (_, 0, level) => level.unwrap_or(LogLevel::Warn),
        (_, 1, _) => LogLevel::Info,
        (_, 2, _) => LogLevel::Debug,
        (_, _, _) => LogLevel::Trace,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_variable_decides_before_the_flags() {
        for (flags, variable, expected) in [
            ("", None, "kube_client=off,warn"),
            ("-q", None, "kube_client=off,error"),
            ("-v", None, "vmferry_formats=info,kube_client=off,vmferry=info,warn"),
            ("-vvv", Some(""), "vmferry_formats=trace,vmferry=trace,debug"),
            ("-q", Some("vmferry=trace"), "vmferry=trace"),
            ("--log-level info", None, "vmferry_formats=info,kube_client=off,vmferry=info,warn"),
        ] {
            let line = format!("vmferry inspect x {flags}");
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
            assert_eq!(filter(&cli.global, variable).unwrap().to_string(), expected, "{flags} {variable:?}");
        }
    }

    #[test]
    fn a_broken_filter_is_a_usage_error() {
        let cli = Cli::try_parse_from(["vmferry", "inspect", "x"]).unwrap();
        let error = filter(&cli.global, Some("vmferry=loud")).unwrap_err();
        assert_eq!(error.kind(), vmferry::ErrorKind::Usage);
    }
}
