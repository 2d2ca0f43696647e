//! `vmferry completion`: completion scripts for shells.

use std::ffi::OsStr;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Failure, PLUGIN_NAME, is_plugin, output::Output};

const AFTER_HELP: &str = "\
Examples:
  source <(vmferry completion bash)
  vmferry completion zsh > \"${fpath[1]}/_vmferry\"
  vmferry completion fish > ~/.config/fish/completions/vmferry.fish";

/// Print a completion script for a shell
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionArgs, output: &Output) -> Result<(), Failure> {
    let program = std::env::args_os().next();
    let plugin = program.as_deref().map(OsStr::as_ref).is_some_and(is_plugin);
    Ok(output.raw(&script(args.shell, if plugin { PLUGIN_NAME } else { "vmferry" }))?)
}

fn script(shell: Shell, name: &str) -> Vec<u8> {
    // Into memory: the generator panics where a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            for name in ["vmferry", PLUGIN_NAME] {
                let script = String::from_utf8(script(*shell, name)).unwrap();
                for word in [name, "convert", "checkpoint-bytes"] {
                    assert!(script.contains(word), "{shell}: {word}");
                }
            }
        }
    }
}
