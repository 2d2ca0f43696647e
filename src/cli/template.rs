//! `vmferry template`: templates of VMs listed, looked at, processed, made of VMs.

mod process;

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Serialize;
use vmferry::{
    Error,
    kubevirt::{TemplateInfo, TemplateMade, TemplateParameter, Templates},
};

use self::process::ProcessArgs;
use super::{
    Failure,
    cluster::ClusterArgs,
    export::named_vm,
    output::{Output, Report, field},
    rows::{self, Changing, WatchArgs},
    signals::{self, Stop},
    table::{Cells, Column, age, unknown},
    waiting::{WaitArgs, show, timestamp},
};

/// List templates of VMs, make VMs of them and them of VMs
#[derive(Args, Debug)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    command: TemplateCommand,
}

#[derive(Debug, Subcommand)]
enum TemplateCommand {
    List(ListArgs),
    Get(GetArgs),
    Process(ProcessArgs),
    Create(CreateArgs),
}

/// List templates
#[derive(Args, Debug)]
#[command(visible_alias = "ls")]
struct ListArgs {
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Only those with these labels: os=debian,tier!=test
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    selector: String,

    #[command(flatten)]
    watch: WatchArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Show a template and its parameters
#[derive(Args, Debug)]
struct GetArgs {
    #[command(flatten)]
    template: OneTemplate,
}

/// Make a template of a VM, its disks included; what is secret in its guest is in the template too
#[derive(Args, Debug)]
struct CreateArgs {
    /// The VM
    #[arg(value_name = "[NAMESPACE/]VM")]
    vm: String,

    /// Name of the template [default: as the VM]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// A template, and where it is.
#[derive(Args, Debug)]
struct OneTemplate {
    /// The template
    #[arg(value_name = "[NAMESPACE/]TEMPLATE")]
    template: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl TemplateArgs {
    /// Whether it lists rows.
    pub(super) fn has_rows(&self) -> bool {
        matches!(self.command, TemplateCommand::List(_))
    }
}

async fn connect(given: &str, cluster: &ClusterArgs, output: &Output) -> Result<(Templates, String), Error> {
    let (namespace, name) = named_vm(given)?;
    let cluster = cluster.connect_briefly(namespace.as_deref()).await?;
    Ok((Templates::new(cluster).on_event(show(output)), name))
}

pub(super) async fn run(args: TemplateArgs, output: &Output) -> Result<(), Failure> {
    match args.command {
        TemplateCommand::List(args) => {
            let templates = Templates::new(args.cluster.connect_briefly(None).await?);
            let (everywhere, selector) = (args.all_namespaces, args.selector);
            if !args.watch.watch {
                let work = async move { templates.list(everywhere, &selector).await };
                return rows::print(work, output).await;
            }
            let list = move || {
                let (templates, selector) = (templates.clone(), selector.clone());
                async move { templates.list(everywhere, &selector).await }
            };
            rows::follow(list, output).await
        }
        TemplateCommand::Get(args) => {
            let (templates, name) = connect(&args.template.template, &args.template.cluster, output).await?;
            let work = async move { templates.get(&name).await };
            Ok(output.report(&Shown(signals::supervise(work, Stop::AtOnce, output).await?))?)
        }
        TemplateCommand::Process(args) => process::run(args, output).await,
        TemplateCommand::Create(args) => {
            let (templates, vm) = connect(&args.vm, &args.cluster, output).await?;
            let acting = args.waiting.acting();
            let work = async move { templates.make(&vm, args.name.as_deref(), &acting).await };
            let made = signals::supervise(work, Stop::AtOnce, output).await?;
            Ok(output.report(&Made::new(&made, args.waiting.dry_run))?)
        }
    }
}

/// The result of `template get`.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(TemplateInfo);

impl Report for Shown {
    const CONFIRMS: bool = false;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let TemplateInfo { name, namespace, vm_name, message, parameters, .. } = &self.0;
        field(out, "Template", format_args!("{namespace}/{name}"))?;
        field(out, "Ready", ready(&self.0))?;
        if !self.0.reason.is_empty() {
            field(out, "Reason", &self.0.reason)?;
        }
        field(out, "VM", if vm_name.is_empty() { "-" } else { vm_name })?;
        if !message.is_empty() {
            field(out, "Message", message)?;
        }
        field(out, "Age", age(self.0.created_at.as_deref()))?;
        for parameter in parameters {
            field(out, "Parameter", described(parameter))?;
        }
        Ok(())
    }
}

fn described(parameter: &TemplateParameter) -> String {
    let value = match parameter {
        parameter if parameter.must_be_given() => " (required)".to_owned(),
        TemplateParameter { generate, from, .. } if !generate.is_empty() => format!(" = made of {from}"),
        TemplateParameter { value, .. } => format!(" = {value:?}"),
    };
    let about = [&parameter.description, &parameter.display_name].into_iter().find(|text| !text.is_empty());
    let about = about.map(|about| format!(": {about}")).unwrap_or_default();
    format!("{}{value}{about}", parameter.name)
}

fn ready(template: &TemplateInfo) -> String {
    match template.ready {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => unknown(),
    }
}

/// The result of `template create`.
#[derive(Serialize)]
struct Made<'a> {
    success: bool,
    message: &'static str,
    timestamp: String,
    template: &'a str,
    vm: &'a str,
    complete: bool,
    dry_run: bool,
}

impl<'a> Made<'a> {
    fn new(made: &'a TemplateMade, dry_run: bool) -> Self {
        let message = match (dry_run, made.complete) {
            (true, _) => "Template would be made",
            (false, true) => "Template made successfully",
            (false, false) => "Template is being made",
        };
        let TemplateMade { template, vm, complete } = made;
        Self { success: true, message, timestamp: timestamp(), template, vm, complete: *complete, dry_run }
    }
}

impl Report for Made<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { template, vm, .. } = self;
        match (self.dry_run, self.complete) {
            (true, _) => {
                writeln!(out, "template {template} would be made of VM {vm} (dry run, nothing was changed)")
            }
            (false, true) => writeln!(out, "template {template} made of VM {vm}"),
            (false, false) => writeln!(out, "template {template} is being made of VM {vm}"),
        }
    }
}

impl Changing for TemplateInfo {
    fn gone(self) -> Self {
        Self { ready: None, reason: "deleted".to_owned(), ..self }
    }
}

impl Cells for TemplateInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAMESPACE"),
        Column::text("NAME"),
        Column::text("READY"),
        Column::text("PARAMETERS"),
        Column::text("VM").wide(),
        Column::text("REASON").wide(),
        Column::number("AGE"),
    ];

    fn cells(&self) -> Vec<String> {
        let text = |text: String| if text.is_empty() { unknown() } else { text };
        let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        vec![
            self.namespace.clone(),
            self.name.clone(),
            ready(self),
            text(names.join(",")),
            text(self.vm_name.clone()),
            text(self.reason.clone()),
            age(self.created_at.as_deref()),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
