//! Settings: what the configuration file and the environment say, as defaults of the command line.
//!
//! A flag counts before the environment, the environment before the file, the file before what is built
//! in. What is set becomes the default of clap's arguments: it is checked by the same parsers as flags are,
//! `--help` shows it, and it never conflicts with a flag.

mod file;
mod keys;
mod show;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgMatches, Command, error::ContextKind, parser::ValueSource};
use vmferry::Error;

#[cfg(feature = "kubevirt")]
pub(super) use self::keys::nearest;
use self::keys::{KEYS, Key};
pub(super) use self::show::{ConfigArgs, run};

/// What is set, and by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The configuration file, if there is one.
    file: Option<PathBuf>,
    /// What counts; each key once.
    found: Vec<Setting>,
    /// What the file says and this program does not use.
    ignored: Vec<Ignored>,
}

/// A key that is set.
#[derive(Clone, Debug)]
struct Setting {
    key: &'static Key,
    value: String,
    origin: Origin,
}

/// Who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A variable of the environment.
    Environment(&'static str),
    /// The configuration file.
    File,
    /// The command line.
    Flag,
}

/// A key of the file without an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ignored {
    /// The key, parted by dots.
    path: String,
    /// Its value; `None` if it is not for every eye.
    value: Option<String>,
    /// Why it has no effect.
    why: &'static str,
}

impl Settings {
    /// Reads the file and the environment. `named` is what `--config` names; `command` has the arguments.
    ///
    /// # Errors
    /// The file cannot be read, is no YAML, has unknown keys, or holds secrets that others could change; a
    /// value is not what its argument takes.
    pub(super) fn load(named: Option<&Path>, command: &Command) -> Result<Self, Error> {
        let file = file::find(named).map(|place| file::read(&place)).transpose()?.flatten();
        let mut settings = Self::default();
        if let Some(file) = &file {
            settings.file = Some(file.path.clone());
            settings.ignored.clone_from(&file.ignored);
        }
        for key in &KEYS {
            let variable = key.variables.iter().find_map(|name| Some((*name, of_environment(name)?)));
            let written = file.as_ref().and_then(|file| file.values.get(key.name));
            let (value, origin) = match (variable, written) {
                (Some((name, value)), _) => (value, Origin::Environment(name)),
                (None, Some(value)) => (value.clone(), Origin::File),
                (None, None) => continue,
            };
            let setting = Setting { key, value, origin };
            settings.check(&setting, command)?;
            settings.found.push(setting);
        }
        Ok(settings)
    }

    /// Commands with these settings as defaults.
    pub(super) fn apply(&self, command: Command) -> Command {
        let mut command = command;
        // What the library reads by itself is left to it: KUBECONFIG may name several files.
        for Setting { key, value, .. } in self.found.iter().filter(|setting| !setting.is_read_elsewhere()) {
            if argument(&command, key).is_some() {
                command = command.mut_arg(key.argument, |arg| arg.default_value(value.clone()));
            }
        }
        command.mut_subcommands(|command| self.apply(command))
    }

    /// Notes what the command line itself says, for [`show`].
    pub(super) fn overridden(&mut self, matches: &ArgMatches) {
        for key in &KEYS {
            let is_known = matches.try_contains_id(key.argument).unwrap_or(false);
            if !is_known || matches.value_source(key.argument) != Some(ValueSource::CommandLine) {
                continue;
            }
            let Some(value) = matches.get_raw(key.argument).and_then(|mut values| values.next()) else {
                continue;
            };
            self.found.retain(|setting| setting.key.name != key.name);
            let value = value.to_string_lossy().into_owned();
            self.found.push(Setting { key, value, origin: Origin::Flag });
        }
    }

    /// What a key is set to, unless the library reads it by itself.
    #[cfg(feature = "kubevirt")]
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let found = self.found.iter().find(|setting| setting.key.name == name);
        found.filter(|setting| !setting.is_read_elsewhere()).map(|setting| setting.value.as_str())
    }

    /// What a key is set to, by whom.
    fn of(&self, key: &Key) -> Option<&Setting> {
        self.found.iter().find(|setting| setting.key.name == key.name)
    }

    /// Holds a value against the argument that it is for.
    fn check(&self, setting: &Setting, command: &Command) -> Result<(), Error> {
        let Some(argument) = setting.key.find(command) else {
            // Of a command that this build does not have.
            return Ok(());
        };
        let parser = argument.get_value_parser().clone();
        let trial = Command::new("setting")
            .no_binary_name(true)
            .arg(Arg::new("value").value_parser(parser).allow_hyphen_values(true).required(true));
        let Err(error) = trial.try_get_matches_from([OsString::from(&setting.value)]) else { return Ok(()) };
        let reason = std::error::Error::source(&error).map(ToString::to_string);
        let choice = error.get(ContextKind::ValidValue).map(|names| format!("one of {names}"));
        let place = self.place(setting.origin);
        let wrong =
            Error::usage(format!("{} cannot be {:?}, as {place} has it", setting.key.name, setting.value));
        Err(match reason.or(choice) {
            Some(hint) => wrong.with_hint(hint),
            None => wrong,
        })
    }

    fn place(&self, origin: Origin) -> String {
        match (origin, &self.file) {
            (Origin::Environment(name), _) => format!("the variable {name}"),
            (Origin::File, Some(path)) => path.display().to_string(),
            (Origin::File, None) => "the configuration".to_owned(),
            (Origin::Flag, _) => "the command line".to_owned(),
        }
    }
}

impl Setting {
    fn is_read_elsewhere(&self) -> bool {
        self.origin == Origin::Environment("KUBECONFIG")
    }
}

impl Key {
    /// The first argument that the key sets, of this command or of those below.
    fn find<'a>(&self, command: &'a Command) -> Option<&'a Arg> {
        argument(command, self).or_else(|| command.get_subcommands().find_map(|command| self.find(command)))
    }
}

fn argument<'a>(command: &'a Command, key: &Key) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_id() == key.argument)
}

/// What a variable says; empty is nothing.
fn of_environment(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// All arguments of that id, in all commands.
    fn all<'a>(command: &'a Command, id: &str, found: &mut Vec<&'a Arg>) {
        found.extend(command.get_arguments().filter(|arg| arg.get_id() == id));
        command.get_subcommands().for_each(|command| all(command, id, found));
    }

    #[test]
    fn a_key_means_the_same_in_every_command() {
        let command = Cli::command();
        for key in &KEYS {
            let mut found = Vec::new();
            all(&command, key.argument, &mut found);
            assert!(!found.is_empty() || !cfg!(feature = "kubevirt"), "{}: no argument", key.name);
            for arg in &found {
                assert_eq!(arg.get_value_names(), found[0].get_value_names(), "{}", key.name);
                assert_eq!(arg.get_long(), found[0].get_long(), "{}", key.name);
                assert_eq!(arg.get_default_values(), found[0].get_default_values(), "{}", key.name);
                assert!(arg.get_action().takes_values() && !arg.is_required_set(), "{}", key.name);
            }
        }
    }

    #[test]
    fn settings_become_defaults_that_flags_replace() {
        let setting = |name: &str, value: &str| Setting {
            key: KEYS.iter().find(|key| key.name == name).unwrap(),
            value: value.to_owned(),
            origin: Origin::File,
        };
        let found = vec![setting("memory", "64MiB"), setting("progress", "none")];
        let settings = Settings { found, ..Settings::default() };
        let parsed = |line: &str| {
            let matches = settings.apply(Cli::command()).get_matches_from(line.split_whitespace());
            let below = matches.subcommand().unwrap().1;
            let memory = *below.get_one::<u64>("memory").unwrap();
            (
                memory,
                below.value_source("memory"),
                below.get_raw("progress").unwrap().next().unwrap().to_owned(),
            )
        };
        assert_eq!(
            parsed("vmferry digest x"),
            (64 << 20, Some(ValueSource::DefaultValue), OsString::from("none"))
        );
        assert_eq!(
            parsed("vmferry digest x --memory 1GiB --progress bar"),
            (1 << 30, Some(ValueSource::CommandLine), OsString::from("bar"))
        );
    }

    #[test]
    fn values_are_held_against_their_arguments() {
        let command = Cli::command();
        for (name, value, says) in [
            ("memory", "64KB", "two sizes"),
            ("progress", "loud", "auto, bar"),
            ("workers", "0", "1..=1024"),
            ("log_level", "loud", "error, warn"),
        ] {
            let key = KEYS.iter().find(|key| key.name == name).unwrap();
            let setting = Setting { key, value: value.to_owned(), origin: Origin::Environment("X") };
            let error = Settings::default().check(&setting, &command).unwrap_err();
            assert!(error.to_string().contains(name) && error.to_string().contains("variable X"), "{error}");
            assert!(error.hint().unwrap_or_default().contains(says), "{name}: {:?}", error.hint());
        }
    }
}
