//! `vmferry config show`: what is set, and by whom.

use std::path::Path;

use clap::{Args, Command, CommandFactory as _, Subcommand};
use serde::Serialize;

use super::{KEYS, Origin, Settings, keys::Key};
use crate::cli::{
    Cli, Failure,
    output::{Output, Row},
};

const AFTER_HELP: &str = "\
The file is that of --config, else of the variable VMFERRY_CONFIG, else vmferry/config.yaml in
XDG_CONFIG_HOME or ~/.config. A flag counts before the environment, that before the file.
A provider configuration of HyperSDK is understood too. Secrets are not shown.

Examples:
  vmferry config show
  vmferry config show --config provider.yaml -o json";

/// Show the settings, and where each comes from
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    Show(ShowArgs),
}

/// Show every setting, its value, and where that comes from
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
struct ShowArgs {}

/// Prints the settings.
pub(crate) fn run(args: &ConfigArgs, settings: &Settings, output: &Output) -> Result<(), Failure> {
    let ConfigCommand::Show(ShowArgs {}) = args.command;
    let command = Cli::command();
    let mut rows: Vec<Shown> = KEYS.iter().map(|key| Shown::of(key, settings, &command)).collect();
    rows.extend(settings.ignored.iter().map(|ignored| Shown {
        key: ignored.path.clone(),
        value: ignored.value.clone(),
        source: "file",
        place: place(settings.file.as_deref()),
        used: false,
        secret: ignored.value.is_none(),
        note: Some(ignored.why),
    }));
    let mut lines = output.rows();
    let printed = rows.iter().try_for_each(|row| lines.push(row)).and_then(|()| lines.finish::<Shown>());
    match printed {
        Err(_) if lines.closed() => Ok(()),
        result => Ok(result?),
    }
}

/// A row: a setting.
#[derive(Serialize)]
struct Shown {
    key: String,
    /// `null` if there is none, or if it is secret.
    value: Option<String>,
    /// `flag`, `environment`, `file` or `default`.
    source: &'static str,
    /// The variable, or the file.
    place: Option<String>,
    /// Whether it has an effect.
    used: bool,
    /// Whether there is a value that is not shown.
    secret: bool,
    /// Why it has no effect.
    note: Option<&'static str>,
}

impl Shown {
    fn of(key: &Key, settings: &Settings, command: &Command) -> Self {
        let (value, source, place) = match settings.of(key) {
            None => (default(key, command), "default", None),
            Some(setting) => {
                let (source, place) = match setting.origin {
                    Origin::Environment(name) => ("environment", Some(name.to_owned())),
                    Origin::File => ("file", place(settings.file.as_deref())),
                    Origin::Flag => ("flag", None),
                };
                (Some(setting.value.clone()), source, place)
            }
        };
        Self { key: key.name.to_owned(), value, source, place, used: true, secret: false, note: None }
    }
}

/// What is built in; `None` if that depends on the cluster or the machine.
fn default(key: &Key, command: &Command) -> Option<String> {
    let value = key.find(command)?.get_default_values().first()?;
    Some(value.to_string_lossy().into_owned())
}

fn place(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

impl Row for Shown {
    fn header(_wide: bool) -> String {
        format!("{:<30} {:<24} FROM", "KEY", "VALUE")
    }

    fn columns(&self, _wide: bool) -> String {
        let value = match (&self.value, self.secret) {
            (_, true) => "(not shown)",
            (Some(value), _) => value,
            (None, _) => "-",
        };
        let place = self.place.as_ref().map_or_else(String::new, |place| format!(" {place}"));
        let note = self.note.map_or_else(String::new, |why| format!(", not used: {why}"));
        format!("{:<30} {value:<24} {}{place}{note}", self.key, self.source)
    }

    fn name(&self) -> String {
        self.key.clone()
    }
}
