//! Flags as HyperSDK reads them.

use std::ffi::{OsStr, OsString};

use vmferry::Error;

use super::words::{Flag, Means, Takes};
use crate::cli::{config::nearest, provider::parse_provider};

/// Flags that were given, each once.
pub(super) struct Given {
    /// Whose they are: `hyperctl k8s`.
    place: &'static str,
    flags: Vec<(&'static Flag, Value)>,
}

/// What a flag says.
enum Value {
    Is(bool),
    Text(OsString),
}

impl Given {
    /// Reads them; `None` is a question for help.
    pub(super) fn read(
        place: &'static str,
        known: &'static [Flag],
        arguments: &[OsString],
    ) -> Result<Option<Self>, Error> {
        let mut given = Self { place, flags: Vec::new() };
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let Some((name, value)) = split(argument)? else {
                let word = if argument == "--" { left.next() } else { Some(argument) };
                let Some(word) = word else { break };
                return Err(Error::usage(format!("{place} does not take {word:?}"))
                    .with_hint(format!("it takes flags alone; {BY_ITS_NAME}")));
            };
            let Some(flag) = known.iter().find(|flag| flag.name == name) else {
                if matches!(name, "h" | "help") {
                    return Ok(None);
                }
                return Err(unknown(place, name, known.iter().map(|flag| flag.name), BY_ITS_NAME));
            };
            let value = match (flag.takes, value) {
                (Takes::Switch, None) => Value::Is(true),
                (Takes::Switch, Some(value)) => Value::Is(truth(value).ok_or_else(|| {
                    Error::usage(format!("{place}: -{name} must be true or false"))
                        .with_hint(format!("-{name}=false"))
                })?),
                (Takes::Value, Some(value)) => Value::Text(value.into()),
                (Takes::Value, None) => Value::Text(left.next().cloned().ok_or_else(|| {
                    Error::usage(format!("{place}: -{name} has no value")).with_hint(format!("-{name} VALUE"))
                })?),
            };
            given.flags.retain(|(other, _)| other.name != name);
            given.flags.push((flag, value));
        }
        Ok(Some(given))
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.flags.iter().find(|(flag, _)| flag.name == name).map(|(_, value)| value)
    }

    /// What a switch says, if it was given.
    pub(super) fn is(&self, name: &str) -> Option<bool> {
        match self.find(name)? {
            Value::Is(is) => Some(*is),
            Value::Text(_) => None,
        }
    }

    /// A value; empty is none.
    pub(super) fn text(&self, name: &str) -> Option<&OsStr> {
        match self.find(name)? {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn required(&self, name: &str) -> Result<&OsStr, Error> {
        self.text(name).ok_or_else(|| {
            let hint = match name {
                "path" | "vm" => "it is NAMESPACE/VM, or VM; 'vmferry vm list' lists them".to_owned(),
                _ => format!("-{name} {}", name.to_uppercase()),
            };
            Error::usage(format!("{}: -{name} is missing", self.place)).with_hint(hint)
        })
    }

    /// A number; 0 is none.
    pub(super) fn number(&self, name: &str, unit: &str) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.to_str().and_then(|text| text.parse::<u64>().ok());
        let number = number.ok_or_else(|| {
            Error::usage(format!("{}: -{name} must be a whole number of {unit}", self.place))
                .with_hint(format!("-{name} 50, or 0 for no limit"))
        })?;
        Ok(Some(number).filter(|number| *number > 0))
    }

    /// There is one provider.
    pub(super) fn check_provider(&self) -> Result<(), Error> {
        let Some(provider) = self.text("provider") else { return Ok(()) };
        parse_provider(&provider.to_string_lossy()).map(drop).map_err(|hint| {
            Error::usage(format!("{}: -provider cannot be {provider:?}", self.place)).with_hint(hint)
        })
    }

    /// One of them as a flag of vmferry.
    pub(super) fn as_flag(&self, theirs: &str, ours: &str) -> Option<OsString> {
        match self.find(theirs)? {
            Value::Is(true) => Some(format!("--{ours}").into()),
            Value::Is(false) => None,
            Value::Text(text) => Some(flag(ours, text)),
        }
    }

    /// What is left to say after the words in `used` have been looked at.
    pub(super) fn passed_on(&self, used: &[&str]) -> Result<Vec<OsString>, Error> {
        let mut line = Vec::new();
        for (flag, value) in &self.flags {
            let asks = match value {
                Value::Is(is) => *is,
                Value::Text(text) => !text.is_empty() && text != "0",
            };
            let name = flag.name;
            match flag.means {
                Means::Flag(ours) => line.extend(self.as_flag(name, ours)),
                Means::Nothing(hint) if asks => {
                    return Err(not_here(&format!("{} -{name}", self.place), hint));
                }
                Means::Word if asks && !used.contains(&name) => {
                    return Err(Error::usage(format!(
                        "{}: -{name} says nothing about this operation",
                        self.place
                    ))
                    .with_hint("leave it out"));
                }
                Means::Always | Means::Nothing(_) | Means::Word => {}
            }
        }
        Ok(line)
    }
}

/// The name and the value of a flag; `None` is no flag.
pub(super) fn split(argument: &OsStr) -> Result<Option<(&str, Option<&str>)>, Error> {
    let Some(text) = argument.to_str() else {
        // A value with such letters can be an argument of its own.
        return if argument.as_encoded_bytes().starts_with(b"-") {
            Err(Error::usage(format!("{argument:?} is not UTF-8"))
                .with_hint("give the value as the next argument"))
        } else {
            Ok(None)
        };
    };
    let Some(text) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else { return Ok(None) };
    Ok(match text.split_once('=') {
        _ if text.is_empty() => None,
        Some((name, value)) => Some((name, Some(value))),
        None => Some((text, None)),
    })
}

/// As HyperSDK reads it.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A flag of vmferry with its value.
pub(super) fn flag(name: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value);
    flag
}

/// What HyperSDK has and this program has not; `hint` comes nearest.
pub(super) fn not_here(what: &str, hint: &str) -> Error {
    Error::usage(format!("{what} is not in this version")).with_hint(hint)
}

/// A flag that HyperSDK does not have either; `otherwise` is said where none is like it.
pub(super) fn unknown<'a>(
    place: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> Error {
    let meant = nearest(name, known).map(|meant| format!("-{meant} is one"));
    Error::usage(format!("{place} has no flag -{name}"))
        .with_hint(meant.unwrap_or_else(|| otherwise.to_owned()))
}

/// What is said to who types what only vmferry has.
pub(super) const BY_ITS_NAME: &str = "words and flags of vmferry are understood by that name";
