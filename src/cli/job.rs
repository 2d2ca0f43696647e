//! Job definitions of HyperSDK: `vmferry export --job FILE` reads one and gives it as flags.
//!
//! There is one export, and one parser of what it takes: a job becomes the flags that say the same, and
//! what the command line says itself counts before them. Fields that ask for what this program does not do
//! are refused by name; those that only say no, as HyperSDK's clients send them, pass.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgMatches, Command, parser::ValueSource};
use serde_json::{Map, Value};
use vmferry::Error;

use super::{config::nearest, export::WHAT, input};

/// A job as flags of `vmferry export`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Job {
    /// To be added to the command line.
    pub(super) arguments: Vec<OsString>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// `export`, where a job may say what is exported and where to.
pub(super) fn may_say_it(export: Command) -> Command {
    export.mut_group(WHAT, |what| what.required(false)).mut_arg("output", |output| output.required(false))
}

/// The job that a command line names, if it names one.
///
/// # Errors
/// It cannot be read, is none or several, has fields that nobody knows, or asks for what is not done here.
pub(super) fn of(matches: &ArgMatches) -> Result<Option<Job>, Error> {
    let Some(("export", export)) = matches.subcommand() else { return Ok(None) };
    let Some(path) = export.get_one::<PathBuf>("job") else { return Ok(None) };
    let text = input::read_text(path, "job", MAX_LEN)?;
    let is_given = |id: &str| export.value_source(id) == Some(ValueSource::CommandLine);
    translate(&text, is_given).map(Some).map_err(|error| error.with_place(&input::place(path)))
}

/// What is wrong with a job; where it stands is added by who read it.
#[derive(Debug)]
pub(super) struct Wrong {
    is_refusal: bool,
    message: String,
    hint: String,
}

impl Wrong {
    fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { is_refusal: false, message: message.into(), hint: hint.into() }
    }

    fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { is_refusal: true, ..Self::usage(message, hint) }
    }

    fn with_place(self, name: &str) -> Error {
        let message = format!("the job in {name}: {}", self.message);
        let error = if self.is_refusal { Error::refused(message) } else { Error::usage(message) };
        if self.hint.is_empty() { error } else { error.with_hint(self.hint) }
    }

    /// The same where flags say it, of which none can be wrong but by who typed it.
    pub(super) fn of_flags(self, program: &str) -> Error {
        Error::usage(format!("{program}: {}", self.message)).with_hint(self.hint)
    }
}

/// The job in a text, as flags; those whose argument is given already are left out.
fn translate(text: &str, is_given: impl Fn(&str) -> bool) -> Result<Job, Wrong> {
    let fields = the_only_job(parse(text)?)?;
    check_names("", &fields, &FIELDS)?;
    let empty = Map::new();
    let section = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(&empty),
        Some(Value::Object(section)) => Ok(section),
        Some(_) => Err(Wrong::usage(format!("{name} must hold fields"), "")),
    };
    let (options, metadata) = (section("options")?, section("metadata")?);
    check_names("options.", options, &OPTIONS)?;
    check_names("metadata.", metadata, &METADATA)?;
    let (top, options, metadata) = (
        Fields { place: "", fields: &fields },
        Fields { place: "options.", fields: options },
        Fields { place: "metadata.", fields: metadata },
    );
    top.one_of("provider", &["kubevirt"])?;
    for name in ["export_method", "method"] {
        top.one_of(name, &["ctl", "govc", "ovftool", "web"])?;
    }
    let mut flags = Flags { is_given, job: Job::default() };
    flags.places(&top, &metadata)?;
    flags.forms(&top, &options)?;
    flags.options(&options)?;
    for (fields, name) in [(&metadata, "storageClass"), (&options, "remove_cdrom")] {
        if fields.asks(name) {
            let why = match name {
                "remove_cdrom" => {
                    "CD-ROMs from claims are exported like disks; name the volumes to leave them out"
                }
                _ => "an export makes no volumes of a class of its own",
            };
            flags.job.notes.push(format!("{}{name} of the job has no effect: {why}", fields.place));
        }
    }
    Ok(flags.job)
}

/// Jobs are JSON or YAML, of which `{a: b}` is the latter.
fn parse(text: &str) -> Result<Value, Wrong> {
    // Lines are not quoted: they may hold passwords.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let is_like_json = text.trim_start().starts_with(['{', '[']);
    let json = is_like_json.then(|| serde_json::from_str(text));
    if let Some(Ok(value)) = json {
        return Ok(value);
    }
    let yaml = serde_saphyr::from_str_with_options(text, options);
    yaml.map_err(|yaml| match json {
        Some(Err(json)) => Wrong::usage(format!("it is no JSON: {json}"), ""),
        _ => Wrong::usage(format!("it is no YAML: {yaml}"), ""),
    })
}

fn the_only_job(value: Value) -> Result<Map<String, Value>, Wrong> {
    let value = match value {
        Value::Object(mut fields) if fields.contains_key("jobs") => {
            if let Some(other) = fields.keys().find(|name| *name != "jobs") {
                return Err(Wrong::usage(format!("{other:?} stands beside jobs"), "a job has it for itself"));
            }
            fields.remove("jobs").unwrap_or_default()
        }
        other => other,
    };
    let value = match value {
        Value::Array(mut jobs) => match (jobs.pop(), jobs.len()) {
            (Some(job), 0) => job,
            (None, _) => return Err(Wrong::usage("there is none", "")),
            (Some(_), others) => {
                let message = format!("there are {} of them", others + 1);
                return Err(Wrong::refused(message, "an export is of one VM: give each job by itself"));
            }
        },
        other => other,
    };
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Wrong::usage("it is no object with fields", "it has at least vm_path and output_dir")),
    }
}

/// Fields that nobody knows, and fields that ask for what is not done here.
fn check_names(place: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), Wrong> {
    for (name, value) in fields {
        if known.contains(&name.as_str()) {
            continue;
        }
        if place == "metadata." && name.starts_with("carbon_") {
            continue;
        }
        let is_foreign = place != "metadata."
            && (FOREIGN.contains(&name.as_str())
                || FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
        if is_foreign && !asks(value) {
            continue;
        }
        if is_foreign {
            return Err(Wrong::refused(format!("{place}{name} cannot be honoured"), FOREIGN_HINT));
        }
        let hint = match nearest(name, known.iter().copied()) {
            Some(meant) => format!("{place}{meant} is one"),
            None => "vm_path, output_dir, format, compress, options and metadata are".to_owned(),
        };
        return Err(Wrong::usage(format!("{:?} is no field of a job", format!("{place}{name}")), hint));
    }
    Ok(())
}

/// Whether a value asks for something: what is sent empty, as false or as 0 does not.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_so) => *is_so,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        // As deep as the parsers go, which have limits of their own.
        Value::Object(fields) => fields.values().any(asks),
    }
}

/// Fields of a job or of a part of it.
struct Fields<'a> {
    place: &'static str,
    fields: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn asks(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(asks)
    }

    fn wrong(&self, name: &str, what: &str) -> Wrong {
        Wrong::usage(format!("{}{name} must be {what}", self.place), "")
    }

    /// Text; empty is nothing.
    fn text(&self, name: &str) -> Result<Option<&str>, Wrong> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong(name, "text")),
        }
    }

    fn is(&self, name: &str) -> Result<Option<bool>, Wrong> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(is_so)) => Ok(Some(*is_so)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// A number; 0 is nothing.
    fn number(&self, name: &str) -> Result<Option<u64>, Wrong> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number).filter(|number| *number > 0)),
                None => Err(self.wrong(name, "a whole number, not below 0")),
            },
        }
    }

    fn one_of(&self, name: &str, all: &[&str]) -> Result<Option<&str>, Wrong> {
        match self.text(name)? {
            Some(text) if !all.contains(&text) => {
                let message = format!("{}{name} cannot be {text:?}", self.place);
                Err(Wrong::refused(message, format!("it is one of {}", all.join(", "))))
            }
            found => Ok(found),
        }
    }
}

/// The flags that a job becomes.
struct Flags<G> {
    is_given: G,
    job: Job,
}

impl<G: Fn(&str) -> bool> Flags<G> {
    fn switch(&mut self, id: &str) {
        if !(self.is_given)(id) {
            self.job.arguments.push(format!("--{}", id.replace('_', "-")).into());
        }
    }

    fn value(&mut self, id: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value.filter(|_| !(self.is_given)(id)) {
            self.job.arguments.push(format!("--{}={value}", id.replace('_', "-")).into());
        }
    }

    /// What is exported, where from and where to.
    fn places(&mut self, top: &Fields<'_>, metadata: &Fields<'_>) -> Result<(), Wrong> {
        let vm = top.text("vm_path")?;
        if !WHATS.iter().any(|id| (self.is_given)(id)) {
            let vm = vm.ok_or_else(|| Wrong::usage("vm_path is missing", "it is NAMESPACE/VM, or VM"))?;
            self.job.arguments.push(format!("--vm={vm}").into());
            // What stands before the name counts first.
            if !vm.contains('/') {
                self.value("namespace", metadata.text("namespace")?);
            }
        }
        self.value("kubeconfig", metadata.text("kubeconfig")?);
        let output = match (top.text("output_dir")?, top.text("output_path")?) {
            (Some(one), Some(other)) if one != other => {
                return Err(Wrong::usage("output_dir and output_path say two things", ""));
            }
            (one, other) => one.or(other),
        };
        if output.is_none() && !(self.is_given)("output") {
            return Err(Wrong::usage("output_dir is missing", "it is a directory, or a file"));
        }
        self.value("output", output);
        Ok(())
    }

    /// Format and compression.
    fn forms(&mut self, top: &Fields<'_>, options: &Fields<'_>) -> Result<(), Wrong> {
        let wanted = options.one_of("compression", &["none", "zlib", "zstd", "deflate"])?;
        let form = form(top.text("format")?, top.is("compress")?, wanted)?;
        self.value("format", Some(form.format));
        let before = self.job.arguments.len();
        self.value("compression", form.compression);
        let level = options.number("compress_level")?;
        if form.is_compressed {
            self.value("compression_level", level);
        }
        // They are of the format that the job has.
        if (self.is_given)("format") || (self.is_given)("compression") {
            self.job.arguments.truncate(before);
        }
        Ok(())
    }

    fn options(&mut self, options: &Fields<'_>) -> Result<(), Wrong> {
        let connections = options.number("parallel_downloads")?;
        if connections.is_some_and(|connections| connections > MAX_DOWNLOADS) {
            return Err(options.wrong("parallel_downloads", "from 1 to 32"));
        }
        self.value("connections", connections);
        let source = options.one_of("source", &["auto", "export", "snapshot"])?;
        self.value("source", source.map(|source| if source == "export" { "vm" } else { source }));
        self.value("quiesce", options.one_of("quiesce", &["prefer", "require", "never"])?);
        self.value("mac", options.text("mac_policy")?);
        self.value("target_profile", options.text("target_profile")?);
        self.value("rate", options.number("bandwidth_limit")?);
        let ttl = match options.fields.get("ttl") {
            Some(Value::Number(_)) => options.number("ttl")?.map(|seconds| seconds.to_string()),
            _ => options.text("ttl")?.map(str::to_owned),
        };
        self.value("ttl", ttl);
        for (name, id) in [("verify", "verify"), ("overwrite", "force"), ("keep_export", "keep_export")] {
            if options.is(name)? == Some(true) {
                self.switch(id);
            }
        }
        if options.is("resume")? == Some(false) && !(self.is_given)("restart") {
            self.switch("no_resume");
        }
        options.is("show_individual_progress")?;
        options.is("remove_cdrom")?;
        if options.asks("encrypt") {
            return Err(Wrong::refused("options.encrypt is not in this version", ENCRYPTION_HINT));
        }
        self.volumes(options)
    }

    fn volumes(&mut self, options: &Fields<'_>) -> Result<(), Wrong> {
        let volumes = match options.fields.get("volumes") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(volumes)) => volumes,
            Some(_) => return Err(options.wrong("volumes", "a list of names")),
        };
        for volume in volumes {
            match volume.as_str() {
                Some(name) if !name.is_empty() => self.value("volume", Some(name)),
                _ => return Err(options.wrong("volumes", "a list of names")),
            }
        }
        Ok(())
    }
}

/// What is written, as HyperSDK says it: by a format, and whether that is compressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form<'a> {
    /// For `--format`.
    pub(super) format: &'a str,
    /// For `--compression`, if it must be said.
    pub(super) compression: Option<&'a str>,
    /// Whether a level has a meaning.
    pub(super) is_compressed: bool,
}

/// What is written where HyperSDK says `format` and `compress`, and maybe how it is `wanted` compressed.
///
/// # Errors
/// The format is none that is written here, it cannot be compressed, or the two wishes contradict.
pub(super) fn form<'a>(
    format: Option<&'a str>,
    compress: Option<bool>,
    wanted: Option<&'a str>,
) -> Result<Form<'a>, Wrong> {
    let format = format.unwrap_or(DEFAULT_FORMAT);
    if matches!(format, "vhd" | "vhdx") {
        return Err(Wrong::refused(format!("format {format} is not in this version"), FORMATS_HINT));
    }
    if !FORMATS.contains(&format) {
        return Err(Wrong::refused(format!("format cannot be {format:?}"), FORMATS_HINT));
    }
    let (compression, is_compressed) = match (format, wanted, compress) {
        (_, Some("none"), Some(true)) => {
            return Err(Wrong::usage("compress and options.compression say two things", ""));
        }
        ("raw", _, Some(true)) => {
            return Err(Wrong::refused("compress is not possible for raw", "take format qcow2 or ova"));
        }
        (_, Some(wanted), _) => (Some(wanted), wanted != "none"),
        ("qcow2", None, Some(true)) => (Some("deflate"), true),
        // The images of appliances, and VMDKs, are compressed in any case.
        ("ova" | "ovf" | "vmdk", None, _) => (None, true),
        _ => (None, false),
    };
    Ok(Form { format, compression, is_compressed })
}

/// Longest text in bytes, as HyperSDK takes it.
const MAX_LEN: u64 = 10 << 20;

/// Most downloads side by side that a job may ask for.
const MAX_DOWNLOADS: u64 = 32;

/// What is written.
const FORMATS: [&str; 5] = ["raw", "qcow2", "vmdk", "ova", "ovf"];

const FORMATS_HINT: &str = "it is one of raw, qcow2, vmdk, ova, ovf";

/// What a job without a format means.
const DEFAULT_FORMAT: &str = "ovf";

/// Arguments that name what is exported.
const WHATS: [&str; 5] = ["vm", "vm_flag", "snapshot", "pvc", "vmexport"];

/// Fields of a job. Names, ids and times are only for whoever keeps jobs.
const FIELDS: [&str; 13] = [
    "id",
    "name",
    "created_at",
    "vm_path",
    "provider",
    "output_dir",
    "output_path",
    "format",
    "compress",
    "export_method",
    "method",
    "options",
    "metadata",
];

const OPTIONS: [&str; 17] = [
    "parallel_downloads",
    "compress_level",
    "remove_cdrom",
    "show_individual_progress",
    "compression",
    "source",
    "quiesce",
    "volumes",
    "verify",
    "resume",
    "bandwidth_limit",
    "overwrite",
    "mac_policy",
    "target_profile",
    "ttl",
    "keep_export",
    "encrypt",
];

const METADATA: [&str; 3] = ["namespace", "kubeconfig", "storageClass"];

/// Fields of other providers, and of programs that come behind an export.
const FOREIGN: [&str; 9] = [
    "vcenter",
    "vcenter_url",
    "username",
    "password",
    "insecure",
    "datacenter",
    "thin",
    "enable_pipeline",
    "enable_rdp",
];

/// What is said to who asks for them.
pub(super) const FOREIGN_HINT: &str = "this exports from KubeVirt, and does not hand over to another program";

/// What comes nearest to encryption.
pub(super) const ENCRYPTION_HINT: &str = "pipe one volume into a program that encrypts: --output -";

const FOREIGN_PREFIXES: [&str; 4] = ["libvirt_", "hyper2kvm_", "h2kvm_", "pipeline_"];

#[cfg(test)]
mod tests;
