//! `vmferry completion`: completion scripts for shells.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Failure, output::Output, plugin};

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
    Ok(output.raw(&script(args.shell, plugin::binary()))?)
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
    use crate::cli::plugin::PLUGIN_NAME;

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
