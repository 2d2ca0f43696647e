//! The words of HyperSDK: what this binary understands when it is called `hyperctl` or `hyperexport`.
//!
//! What was typed becomes a command line of vmferry before clap sees it, by the tables in [`words`]; from then
//! on everything is vmferry's. Flags are read as HyperSDK's are: by one dash or two, with the value behind `=`
//! or as the next argument, and the last one counts. A word or flag that has nothing for it here is an error
//! that names what comes nearest, unless it asks for nothing, as `-encrypt=false` does.

mod given;
mod words;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use vmferry::Error;

use self::{
    given::{BY_ITS_NAME, Given, flag, not_here, split, unknown},
    words::{EXPORT, Flag, K8S, K8S_OPERATIONS, LIST, Operation, SAME, SHELL, VM, VM_OPERATIONS},
};
use super::{config::nearest, job::form, plugin::is_called};

/// The command line of vmferry for what was typed; what is not HyperSDK's is left as it is.
///
/// # Errors
/// A word or flag is none of HyperSDK's, or there is nothing for it here.
pub(super) fn translate(arguments: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let Some((program, rest)) = arguments.split_first() else { return Ok(arguments) };
    let program = Path::new(program);
    let line = if is_called(program, HYPERCTL) {
        ctl(rest)?
    } else if is_called(program, HYPEREXPORT) {
        export(rest)?
    } else {
        return Ok(arguments);
    };
    Ok([OsString::from("vmferry")].into_iter().chain(line).collect())
}

fn ctl(arguments: &[OsString]) -> Result<Vec<OsString>, Error> {
    // Without a word clap shows what there is.
    let Some((word, rest)) = arguments.split_first() else { return Ok(Vec::new()) };
    if let Some((name, _)) = split(word)? {
        return match name {
            "h" | "help" => Ok(line(["--help"])),
            "version" => Ok(line(["--version"])),
            "daemon" => Err(not_here("hyperctl -daemon", words::NO_DAEMON)),
            other => Err(unknown(HYPERCTL, other, ["daemon", "help", "version"], BY_ITS_NAME)),
        };
    }
    match &*word.to_string_lossy() {
        "help" => Ok(line(["--help"])),
        word @ ("provider" | "export") => same(word, rest),
        "vm" => operation("hyperctl vm", VM, VM_OPERATIONS, rest),
        "k8s" => operation("hyperctl k8s", K8S, K8S_OPERATIONS, rest),
        "list" => list(rest),
        "completion" => completion(rest),
        other => Err(match words::NOT_HERE.iter().find(|(word, _)| *word == other) {
            Some((_, hint)) => not_here(&format!("hyperctl {other}"), hint),
            None => Error::usage(format!("{other:?} is no word of hyperctl"))
                .with_hint("its words here are completion, export, k8s, list, provider and vm"),
        }),
    }
}

/// `provider` and `export`, which are vmferry's words too: only the dashes differ.
fn same(word: &str, rest: &[OsString]) -> Result<Vec<OsString>, Error> {
    let mut line = line([word]);
    let mut left = rest.iter();
    for argument in left.by_ref() {
        if argument == "--" {
            line.push(argument.clone());
            break;
        }
        let typed = argument.as_encoded_bytes();
        let is_word = typed.len() > 2 && typed[0] == b'-' && typed[1] != b'-';
        // What counts, such as -vv, is vmferry's.
        if !is_word || typed[1..].iter().all(|letter| *letter == b'v') {
            line.push(argument.clone());
            continue;
        }
        match split(argument)? {
            // `-n=demo`, as clap has it.
            Some((name, _)) if name.len() == 1 => line.push(argument.clone()),
            Some((name, _)) if !SAME.contains(&name) => {
                let place = format!("hyperctl {word}");
                return Err(unknown(
                    &place,
                    name,
                    SAME.iter().copied(),
                    "flags of vmferry have two dashes here",
                ));
            }
            _ => {
                let mut longer = OsString::from("-");
                longer.push(argument);
                line.push(longer);
            }
        }
    }
    line.extend(left.cloned());
    Ok(line)
}

/// `vm -op …` and `k8s -op …`.
fn operation(
    place: &'static str,
    flags: &'static [Flag],
    operations: &[Operation],
    rest: &[OsString],
) -> Result<Vec<OsString>, Error> {
    let Some(given) = Given::read(place, flags, rest)? else { return Ok(line(["vm", "--help"])) };
    let names = || operations.iter().map(|operation| operation.name);
    let Some(name) = given.text("op") else {
        let names: Vec<&str> = names().collect();
        return Err(Error::usage(format!("{place}: -op is missing"))
            .with_hint(format!("it is one of {}", names.join(", "))));
    };
    let name = name.to_string_lossy();
    let Some(operation) = operations.iter().find(|operation| operation.name == name) else {
        let other = words::NO_OPERATIONS.iter().find(|(prefix, _)| name.starts_with(prefix));
        return Err(match other {
            Some((_, hint)) => not_here(&format!("{place} -op {name}"), hint),
            None => Error::usage(format!("{name:?} is no operation of {place}")).with_hint(
                nearest(&name, names()).map_or_else(
                    || "'vmferry vm --help' shows what there is".to_owned(),
                    |name| format!("{name} is one"),
                ),
            ),
        });
    };
    given.check_provider()?;

    let mut line = line(operation.line.iter().copied());
    let mut used = vec!["op", "provider"];
    if operation.waits {
        used.push("wait");
        // HyperSDK does not wait unless it is told to.
        match (given.is("wait"), given.text("timeout")) {
            (Some(true), _) => line.push("--wait".into()),
            (None, Some(_)) => {}
            _ => line.push("--no-wait".into()),
        }
    }
    for (theirs, ours) in operation.flags {
        used.push(theirs);
        line.extend(given.as_flag(theirs, ours));
    }
    used.extend(operation.names);
    line.extend(given.passed_on(&used)?);
    let names = operation.names.iter().filter(|name| !operation.optional || given.text(name).is_some());
    let names: Vec<OsString> =
        names.map(|name| given.required(name).map(OsStr::to_owned)).collect::<Result<_, _>>()?;
    if !names.is_empty() {
        line.push("--".into());
    }
    line.extend(names);
    Ok(line)
}

/// `list`, which is of VMs.
fn list(rest: &[OsString]) -> Result<Vec<OsString>, Error> {
    let mut line = line(["vm", "list"]);
    let Some(given) = Given::read("hyperctl list", LIST, rest)? else {
        line.push("--help".into());
        return Ok(line);
    };
    if let Some(part) = given.text("filter") {
        // Names in a cluster have no capitals.
        line.push(format!("--name=*{}*", part.to_string_lossy().to_lowercase()).into());
    }
    line.extend(given.passed_on(&["filter"])?);
    Ok(line)
}

fn completion(rest: &[OsString]) -> Result<Vec<OsString>, Error> {
    let Some(given) = Given::read("hyperctl completion", SHELL, rest)? else {
        return Ok(line(["completion", "--help"]));
    };
    Ok(vec!["completion".into(), "--".into(), given.required("shell")?.to_owned()])
}

/// `hyperexport`, which has flags alone.
fn export(arguments: &[OsString]) -> Result<Vec<OsString>, Error> {
    let Some(given) = Given::read(HYPEREXPORT, EXPORT, arguments)? else {
        return Ok(line(["export", "--help"]));
    };
    if given.is("version") == Some(true) {
        return Ok(line(["--version"]));
    }
    if let Some(shell) = given.text("completion") {
        return Ok(vec!["completion".into(), "--".into(), shell.to_owned()]);
    }
    given.check_provider()?;
    let vm = given.required("vm")?;
    let mut export = line(["export"]);
    export.push(flag("vm", vm));
    export.push(flag("output", &output(&given, vm)?));
    export.extend(written(&given)?);
    let rate = given.number("bandwidth-limit", "MB/s")?;
    export.extend(rate.map(|rate| format!("--rate={rate}MiB").into()));
    for (theirs, is, ours) in [
        // What was interrupted is taken up in any case, unless that is not wanted.
        ("resume", false, "--no-resume"),
        // Holding the file systems still is HyperSDK's default, so it cannot mean to fail where nobody can.
        ("snapshot-quiesce", true, "--quiesce=prefer"),
        ("snapshot-quiesce", false, "--quiesce=never"),
        ("delete-snapshot", false, "--keep-export"),
    ] {
        if given.is(theirs) == Some(is) {
            export.push(ours.into());
        }
    }
    export.extend(given.passed_on(words::EXPORT_WORDS)?);

    // These look before an export, which the other flags are about.
    let mut look = match (given.is("vm-info"), given.is("validate-only")) {
        (Some(true), _) => line(["vm", "get"]),
        (_, Some(true)) => {
            let mut look = line(["doctor"]);
            let place = given.text("output").filter(|_| given.text("upload").is_none());
            look.extend(place.map(|place| flag("output", place)));
            look
        }
        _ => return Ok(export),
    };
    look.extend((given.is("quiet") == Some(true)).then(|| "--quiet".into()));
    look.extend(["--".into(), vm.to_owned()]);
    Ok(look)
}

/// Where an export goes: one place, which may be in a store.
fn output(given: &Given, vm: &OsStr) -> Result<OsString, Error> {
    let (keeps, streams) = (given.is("keep-local"), given.is("stream-upload") == Some(true));
    match (given.text("output"), given.text("upload")) {
        (_, None) if streams => {
            Err(Error::usage("hyperexport: -stream-upload is for -upload")
                .with_hint("-upload s3://BUCKET/PATH"))
        }
        (Some(directory), None) => Ok(directory.to_owned()),
        // As HyperSDK names it.
        (None, None) => {
            let vm = vm.to_string_lossy();
            Ok(format!("export-{}/", vm.rsplit('/').next().unwrap_or_default()).into())
        }
        (_, Some(url)) if !url.to_string_lossy().contains("://") => {
            Err(Error::usage("hyperexport: -upload must be a URL").with_hint("-upload s3://BUCKET/PATH"))
        }
        (_, Some(_)) if keeps == Some(true) => Err(not_here("hyperexport -keep-local", words::ONE_PLACE)),
        (Some(_), Some(_)) if keeps.is_none() && !streams => {
            Err(not_here("hyperexport -output beside -upload", words::ONE_PLACE))
        }
        (_, Some(url)) => Ok(url.to_owned()),
    }
}

/// Format and compression, as in a job.
fn written(given: &Given) -> Result<Vec<OsString>, Error> {
    let format = given.text("format").map(OsStr::to_string_lossy);
    let form =
        form(format.as_deref(), given.is("compress"), None).map_err(|wrong| wrong.of_flags(HYPEREXPORT))?;
    let mut line = vec![OsString::from(format!("--format={}", form.format))];
    line.extend(form.compression.map(|name| format!("--compression={name}").into()));
    line.extend(given.text("compress-level").map(|level| flag("compression-level", level)));
    Ok(line)
}

fn line<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

/// The names by which these words are understood.
const HYPERCTL: &str = "hyperctl";
const HYPEREXPORT: &str = "hyperexport";

#[cfg(test)]
mod tests;
