//! The command as a plugin of kubectl: the same binary, called `kubectl-ferry`.

use std::{env, path::Path, sync::LazyLock};

use clap::{Command, CommandFactory as _};

use super::Cli;

/// What the binary is called then.
pub(super) const PLUGIN_NAME: &str = "kubectl-ferry";

/// What people type for it.
const TYPED: &str = "kubectl ferry";

/// What people type otherwise.
const NAME: &str = "vmferry";

/// Whether this process is the plugin.
pub(super) fn is_plugin() -> bool {
    static IS: LazyLock<bool> = LazyLock::new(|| {
        let program = env::args_os().next();
        program.is_some_and(|program| is_called(program.as_ref(), PLUGIN_NAME))
    });
    *IS
}

/// Whether a program is called by this name, wherever it lies.
pub(super) fn is_called(program: &Path, name: &str) -> bool {
    program.file_stem().is_some_and(|stem| stem == name)
}

/// The name of the binary, as completions and manual pages have it.
pub(super) fn binary() -> &'static str {
    if is_plugin() { PLUGIN_NAME } else { NAME }
}

/// The definition of the command line, by the name that people type.
pub(super) fn command() -> Command {
    if is_plugin() { renamed(Cli::command()).bin_name(TYPED) } else { Cli::command().bin_name(NAME) }
}

/// A text for people, with the commands in it as they are typed here.
pub(super) fn typed(text: &str) -> String {
    if is_plugin() { by_plugin(text) } else { text.to_owned() }
}

/// Examples and descriptions that name commands.
fn renamed(command: Command) -> Command {
    let after = command.get_after_help().map(|help| by_plugin(&help.to_string()));
    let about = command.get_about().map(|help| by_plugin(&help.to_string()));
    let mut command = command;
    if let Some(after) = after {
        command = command.after_help(after);
    }
    if let Some(about) = about {
        command = command.about(about);
    }
    command.mut_subcommands(renamed)
}

/// `vmferry` in front of one of its commands; anywhere else it is the name of the program.
fn by_plugin(text: &str) -> String {
    static COMMANDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect()
    });
    let mut parts = text.split("vmferry ");
    let mut typed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let word = part.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        typed.push_str(if COMMANDS.iter().any(|command| command == word) { TYPED } else { NAME });
        typed.push(' ');
        typed.push_str(part);
    }
    typed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_texts_get_the_name_that_is_typed() {
        for (text, expected) in [
            ("'vmferry digest x' tells", "'kubectl ferry digest x' tells"),
            (
                "xz -dc F | vmferry convert - O; vmferry convert",
                "xz -dc F | kubectl ferry convert - O; kubectl ferry convert",
            ),
            ("a field that vmferry knows", "a field that vmferry knows"),
            ("VMFERRY_LOG vmferry=trace", "VMFERRY_LOG vmferry=trace"),
            ("", ""),
        ] {
            assert_eq!(by_plugin(text), expected);
        }
        let help =
            renamed(Cli::command()).find_subcommand_mut("convert").unwrap().render_long_help().to_string();
        assert!(help.contains("kubectl ferry convert") && !help.contains("vmferry convert disk"), "{help}");
    }

    #[test]
    fn the_plugin_name_is_known() {
        for (program, plugin) in [
            ("kubectl-ferry", true),
            ("/usr/local/bin/kubectl-ferry", true),
            ("kubectl-ferry.exe", true),
            ("vmferry", false),
            ("/opt/kubectl-ferry/vmferry", false),
            ("", false),
        ] {
            assert_eq!(is_called(Path::new(program), PLUGIN_NAME), plugin, "{program}");
        }
    }
}
