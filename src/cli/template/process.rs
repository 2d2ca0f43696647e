//! `vmferry template process`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, ValueHint};
use serde::Serialize;
use serde_json::Value;
use vmferry::Error;

use super::{OneTemplate, connect};
use crate::cli::{
    Failure, input,
    output::{Output, Report, yaml},
    signals::{self, Stop},
    waiting::timestamp,
};

/// Show the VM that a template makes, or make it
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ProcessArgs {
    #[command(flatten)]
    template: OneTemplate,

    /// What a parameter is to be; may be given several times, and counts before a file
    #[arg(short, long = "param", value_name = "NAME=VALUE", value_parser = parse_parameter)]
    parameters: Vec<(String, String)>,

    /// File with what parameters are to be, NAME=VALUE a line; - reads standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    param_file: Option<PathBuf>,

    /// Make the VM
    #[arg(long)]
    create: bool,
}

const AFTER_HELP: &str = "\
Others on this machine can see the values of --param while the command runs: passwords belong in a file.
In it, empty lines and lines that begin with # are passed over, and a value goes to the end of its line.
The VM that is shown without --create holds the values, those too that the cluster has made up.

Examples:
  vmferry template process demo/debian -p NAME=db --create
  pass show vms/db | vmferry template process demo/debian --param-file - --create";

pub(super) async fn run(args: ProcessArgs, output: &Output) -> Result<(), Failure> {
    let mut parameters = unique(args.parameters, "")?;
    if let Some(path) = &args.param_file {
        let place = input::place(path);
        let lines = parse_file(&input::read_text(path, "file of parameters", MAX_LEN)?, &place)?;
        for (name, value) in unique(lines, &format!(" in {place}"))? {
            parameters.entry(name).or_insert(value);
        }
    }
    let (templates, name) = connect(&args.template.template, &args.template.cluster, output).await?;
    let namespace = templates.cluster().namespace().to_owned();
    let create = args.create;
    let work = async move {
        if create {
            templates.create_vm(&name, &parameters).await
        } else {
            templates.process(&name, &parameters).await
        }
    };
    let processed = signals::supervise(work, Stop::AtOnce, output).await?;
    if !processed.message.is_empty() {
        output.note(&processed.message);
    }
    if create {
        let vm = format!("{namespace}/{}", processed.vm_name());
        let created =
            Created { success: true, vm: &vm, template: &processed.template, timestamp: timestamp() };
        return Ok(output.report(&created)?);
    }
    Ok(output.report(&Vm(processed.vm))?)
}

/// Each name once.
fn unique(given: Vec<(String, String)>, place: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut parameters = BTreeMap::new();
    for (name, value) in given {
        match parameters.entry(name) {
            Entry::Occupied(entry) => {
                return Err(Error::usage(format!("parameter {} is given twice{place}", entry.key())));
            }
            Entry::Vacant(entry) => entry.insert(value),
        };
    }
    Ok(parameters)
}

/// The parameters in a text. Lines are not repeated in errors: they may hold passwords.
fn parse_file(text: &str, place: &str) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |_| Error::usage(format!("line {} of {place} is not NAME=VALUE", index + 1));
        found.push(parse_parameter(line).map_err(wrong)?);
    }
    Ok(found)
}

/// `NAME=VALUE`; the value may be empty, and hold more of the signs.
fn parse_parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// The result of `template process`: a VirtualMachine, for kubectl or a file.
#[derive(Serialize)]
#[serde(transparent)]
struct Vm(Value);

impl Report for Vm {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(yaml(&self.0)?.as_bytes())
    }
}

/// The result of `template process --create`.
#[derive(Serialize)]
struct Created<'a> {
    success: bool,
    vm: &'a str,
    template: &'a str,
    timestamp: String,
}

impl Report for Created<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "VM {} made of template {}", self.vm, self.template)
    }
}

/// Longest file of parameters in bytes: a cluster takes no larger objects.
const MAX_LEN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_names() {
        for (text, parsed) in [
            ("A=b", Some(("A", "b"))),
            ("A=", Some(("A", ""))),
            ("KEY=ssh-rsa AAA==", Some(("KEY", "ssh-rsa AAA=="))),
            ("A", None),
            ("=b", None),
        ] {
            let expected = parsed.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(parse_parameter(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn files_of_parameters_are_lines() {
        let text = "# of the database\n\n  NAME=db\r\nPASSWORD= a=b # c \nEMPTY=";
        let found = parse_file(text, "x").unwrap();
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("NAME", "db"), ("PASSWORD", " a=b # c "), ("EMPTY", "")]);
        for (text, line) in [("A=b\nhunter2\n", 2), ("=hunter2", 1), ("A: hunter2", 1)] {
            let error = parse_file(text, "standard input").unwrap_err().to_string();
            assert_eq!(error, format!("line {line} of standard input is not NAME=VALUE"));
        }
        assert!(parse_file("", "x").unwrap().is_empty());
    }
}
