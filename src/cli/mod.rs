//! The command line: one file a command; [`output`] is the only place that prints.

mod appliance;
mod args;
#[cfg(feature = "kubevirt")]
mod catalog;
#[cfg(feature = "kubevirt")]
mod cloned;
#[cfg(feature = "kubevirt")]
mod cluster;
mod complete;
mod completion;
mod config;
mod convert;
#[cfg(feature = "demo")]
mod demo;
mod digest;
#[cfg(feature = "kubevirt")]
mod doctor;
#[cfg(feature = "kubevirt")]
mod export;
#[cfg(any(feature = "cloud", feature = "kubevirt"))]
mod gc;
#[cfg(feature = "kubevirt")]
mod hypersdk;
#[cfg(feature = "kubevirt")]
mod input;
mod inspect;
#[cfg(feature = "kubevirt")]
mod job;
mod logging;
mod man;
mod map;
#[cfg(feature = "kubevirt")]
mod network;
mod output;
mod pack;
mod plugin;
mod progress;
#[cfg(feature = "kubevirt")]
mod provider;
#[cfg(feature = "kubevirt")]
mod question;
#[cfg(feature = "kubevirt")]
mod rows;
mod signals;
#[cfg(feature = "kubevirt")]
mod snapshot;
#[cfg(feature = "cloud")]
mod store;
#[cfg(feature = "kubevirt")]
mod table;
#[cfg(feature = "kubevirt")]
mod template;
#[cfg(feature = "kubevirt")]
mod terminal;
mod units;
mod upload;
mod verify;
#[cfg(feature = "kubevirt")]
mod vm;
#[cfg(feature = "kubevirt")]
mod volume;
#[cfg(feature = "kubevirt")]
mod waiting;
mod writing;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use vmferry::{Error, ErrorKind};

pub(crate) use self::args::Cli;
use self::{
    args::{Command, GlobalArgs, OutputFormat},
    complete::CompleteArgs,
    config::Settings,
    output::Output,
    signals::Signal,
};

/// Parses the command line, with what is set elsewhere as its defaults. On `--help`, `--version` and
/// mistakes it prints what there is to say and returns the exit code.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(asked) = CompleteArgs::of(&arguments) {
        // Whatever is wrong with the settings, nobody is there to be told.
        return plain().map(|cli| Cli { command: Command::Complete(asked), ..cli });
    }
    #[cfg(feature = "kubevirt")]
    let arguments = match hypersdk::translate(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return Err(Output::new(&plain()?.global).failure(&error.into())),
    };
    let Ok(first) = first_look(&arguments) else {
        // A mistake, or a question for help, which has the defaults that count.
        let settings = Settings::load(named_config(&arguments).as_deref(), &Cli::command());
        let command = settings.unwrap_or_default().apply(plugin::command());
        return understood(command, &arguments).map(|(cli, _)| cli);
    };
    let global = GlobalArgs::from_arg_matches(&first).map_err(|error| output::clap_message(&error))?;
    let failed = |error: Error| Output::new(&global).failure(&error.into());
    let mut settings = Settings::default();
    if needs_settings(&first) {
        settings = Settings::load(global.config.as_deref(), &Cli::command()).map_err(failed)?;
    }
    let (arguments, notes) = with_job(arguments, &first).map_err(failed)?;
    let (mut cli, matches) = understood(settings.apply(plugin::command()), &arguments)?;
    settings.overridden(&matches);
    (cli.global.settings, cli.global.notes) = (settings, notes);
    Ok(cli)
}

/// The command line where nothing is said but what it cannot do without.
fn plain() -> Result<Cli, ExitCode> {
    understood(plugin::command(), ["vmferry", "completion", "bash"]).map(|(cli, _)| cli)
}

/// What the command line says, where a job may say the rest of it.
fn first_look(arguments: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let command = plugin::command();
    #[cfg(feature = "kubevirt")]
    let command = command.mut_subcommand("export", job::may_say_it);
    command.try_get_matches_from(arguments)
}

/// What `--config` names on a line that is no command.
fn named_config(arguments: &[OsString]) -> Option<PathBuf> {
    let at = arguments.iter().position(|argument| argument.as_encoded_bytes().starts_with(b"--config"))?;
    match arguments[at].to_str()?.strip_prefix("--config")? {
        "" => arguments.get(at + 1).map(PathBuf::from),
        value => value.strip_prefix('=').map(PathBuf::from),
    }
}

/// The command line with what its job says, and what the user should know of it.
#[cfg(feature = "kubevirt")]
fn with_job(mut arguments: Vec<OsString>, first: &ArgMatches) -> Result<(Vec<OsString>, Vec<String>), Error> {
    let job = job::of(first)?.unwrap_or_default();
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.splice(end..end, job.arguments);
    Ok((arguments, job.notes))
}

#[cfg(not(feature = "kubevirt"))]
#[expect(clippy::unnecessary_wraps, reason = "as with jobs")]
fn with_job(arguments: Vec<OsString>, _: &ArgMatches) -> Result<(Vec<OsString>, Vec<String>), Error> {
    Ok((arguments, Vec::new()))
}

fn understood<A: Into<OsString> + Clone>(
    command: clap::Command,
    arguments: impl IntoIterator<Item = A>,
) -> Result<(Cli, ArgMatches), ExitCode> {
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    parsed.map_err(|error| output::clap_message(&error))
}

/// Scripts and pages are the same whatever is set, and a shell that starts is not stopped by a mistake in a
/// file.
fn needs_settings(matches: &ArgMatches) -> bool {
    !matches!(matches.subcommand_name(), Some("completion" | "man"))
}

/// Says that there is no runtime, so nothing can run.
pub(crate) fn cannot_start(cli: &Cli, error: io::Error) -> ExitCode {
    let error = Error::failed("cannot start threads").with_source(error);
    Output::new(&cli.global).failure(&error.into())
}

/// Runs the command and tells how it ended.
pub(crate) async fn run(cli: Cli) -> ExitCode {
    let output = Output::new(&cli.global);
    match Box::pin(execute(cli, &output)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

async fn execute(cli: Cli, output: &Output) -> Result<(), Failure> {
    if let Command::Complete(args) = &cli.command {
        return complete::run(args, output).await;
    }
    logging::start(&cli.global, output)?;
    check_output_format(&cli)?;
    for note in &cli.global.notes {
        output.warning(note);
    }
    match cli.command {
        // Done already.
        Command::Complete(_) => Ok(()),
        Command::Completion(args) => completion::run(&args, output),
        Command::Config(args) => config::run(&args, &cli.global.settings, output),
        Command::Convert(args) => convert::run(&args, output).await,
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, output).await,
        Command::Digest(args) => digest::run(args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Doctor(args) => doctor::run(&args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Export(args) => export::run(&args, output).await,
        #[cfg(any(feature = "cloud", feature = "kubevirt"))]
        Command::Gc(args) => gc::run(&args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Instancetype(args) => catalog::instancetypes(&args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Preference(args) => catalog::preferences(&args, output).await,
        Command::Inspect(args) => inspect::run(args, output).await,
        Command::Man(args) => man::run(&args, output),
        Command::Map(args) => map::run(args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Network(args) => network::run(args, output).await,
        Command::Pack(args) => pack::run(&args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Provider(args) => provider::run(&args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Snapshot(args) => Box::pin(snapshot::run(args, output)).await,
        #[cfg(feature = "kubevirt")]
        Command::Template(args) => template::run(args, output).await,
        Command::Verify(args) => verify::run(args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Vm(args) => vm::run(&args, output).await,
        #[cfg(feature = "kubevirt")]
        Command::Volume(args) => Box::pin(volume::run(args, output)).await,
    }
}

/// Formats for rows are refused before anything runs, not after an hour.
fn check_output_format(cli: &Cli) -> Result<(), Error> {
    let rows = match &cli.command {
        Command::Config(_) | Command::Map(_) => true,
        #[cfg(feature = "kubevirt")]
        Command::Vm(args) => args.has_rows(),
        #[cfg(feature = "kubevirt")]
        Command::Network(args) => args.has_rows(),
        #[cfg(feature = "kubevirt")]
        Command::Template(args) => args.has_rows(),
        #[cfg(feature = "kubevirt")]
        Command::Volume(args) => args.has_rows(),
        #[cfg(feature = "kubevirt")]
        Command::Snapshot(args) => args.has_rows(),
        #[cfg(any(feature = "cloud", feature = "kubevirt"))]
        Command::Gc(_) => true,
        #[cfg(feature = "kubevirt")]
        Command::Doctor(_) | Command::Instancetype(_) | Command::Preference(_) | Command::Provider(_) => true,
        _ => false,
    };
    match cli.global.output_format {
        OutputFormat::Wide | OutputFormat::Name if !rows => {
            Err(Error::usage("-o wide and -o name are for commands that list rows, such as map")
                .with_hint("this command answers with -o text, -o json or -o yaml"))
        }
        _ => Ok(()),
    }
}

/// Nobody types a disk image.
fn refuse_terminal_input(location: &str) -> Result<(), Error> {
    if location == "-" && io::stdin().is_terminal() {
        return Err(Error::usage("standard input is a terminal, not an image")
            .with_hint("pipe an image into the command, or name a file"));
    }
    Ok(())
}

/// How a command failed.
#[derive(Debug)]
struct Failure {
    error: Error,
    /// The signal that ended it.
    signal: Option<Signal>,
}

impl Failure {
    /// Shells expect 128 + n after a signal. A run that a signal came too late to stop, or that
    /// failed for a reason of its own meanwhile, keeps the code of that reason.
    fn exit_code(&self) -> u8 {
        match self.signal {
            Some(signal) if self.error.kind() == ErrorKind::Interrupted => signal.exit_code(),
            _ => self.error.kind().exit_code(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, signal: None }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes_are_stable() {
        let codes = ErrorKind::ALL.map(|kind| {
            let code = |signal| Failure { error: Error::new(kind, "x"), signal }.exit_code();
            (kind.name(), code(None), code(Some(Signal::Interrupt)), code(Some(Signal::Terminate)))
        });
        assert_eq!(
            codes,
            [
                ("cluster-refused", 7, 7, 7),
                ("failed", 1, 1, 1),
                ("interrupted", 6, 130, 143),
                ("network", 6, 6, 6),
                ("refused", 5, 5, 5),
                ("source-changed", 4, 4, 4),
                ("timed-out", 8, 8, 8),
                ("usage", 2, 2, 2),
                ("verification-failed", 3, 3, 3),
            ]
        );
    }

    #[test]
    fn exit_codes_are_documented() {
        let help = Cli::command().render_help().to_string();
        for code in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "130", "143"] {
            assert!(help.contains(&format!(" {code} ")), "{code}");
        }
    }

    #[test]
    fn row_formats_are_for_commands_with_rows() {
        let check = |line: &str| check_output_format(&Cli::try_parse_from(line.split(' ')).unwrap());
        for format in ["text", "table", "json", "yaml"] {
            check(&format!("vmferry inspect x -o {format}")).unwrap();
        }
        for format in ["wide", "name"] {
            check(&format!("vmferry map x -o {format}")).unwrap();
            for command in ["inspect x", "digest x", "verify x", "convert x y.raw", "completion bash"] {
                let error = check(&format!("vmferry -o {format} {command}")).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Usage);
            }
        }
    }

    #[test]
    fn output_is_never_short() {
        let cli = Cli::command();
        for command in cli.get_subcommands().chain([&cli]) {
            let short = command.get_arguments().find(|arg| arg.get_short() == Some('o'));
            assert!(short.is_none_or(|arg| arg.get_long() == Some("output-format")));
        }
    }

    #[test]
    fn version_names_commit_and_encoder() {
        let version = Cli::command().render_long_version();
        assert!(
            version.starts_with(concat!("vmferry ", env!("CARGO_PKG_VERSION"), " (commit ")),
            "{version}"
        );
        assert!(version.contains("\ndeflate: "), "{version}");
    }
}
