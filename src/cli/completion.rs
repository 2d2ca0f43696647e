//! `vmferry completion`: completion scripts for shells.
//!
//! Commands, flags and their values are in the script. Names of VMs, snapshots, volumes and namespaces are
//! asked from the cluster while somebody types, by `vmferry __complete`: bash, zsh and fish get a few lines
//! for that in front of what clap generates.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Failure, output::Output, plugin};

const AFTER_HELP: &str = "\
Names of VMs, snapshots, volumes and namespaces are asked from the cluster, in bash, zsh and fish.

Examples:
  source <(vmferry completion bash)
  vmferry completion zsh > \"${fpath[1]}/_vmferry\"
  vmferry completion fish > ~/.config/fish/completions/vmferry.fish

For 'kubectl ferry', kubectl asks an executable kubectl_complete-ferry on the PATH:
  #!/bin/sh
  exec kubectl-ferry __complete \"$@\"";

/// Print a completion script for a shell
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &CompletionArgs, output: &Output) -> Result<(), Failure> {
    Ok(output.raw(script(args.shell, plugin::binary()).as_bytes())?)
}

fn script(shell: Shell, name: &str) -> String {
    // Into memory: the generator panics where a pipe breaks.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        // clap gives its function another name where there is a dash.
        Shell::Bash => script + &BASH.replace("THEIRS", &name.replace('-', "__")).replace("NAME", name),
        Shell::Fish => fish(&script, name),
        // The function that the shell calls asks first; the one that clap made gets another name.
        Shell::Zsh => {
            let (theirs, other) = (format!("_{name}() {{\n"), format!("_{name}_words() {{\n"));
            script.replacen(&theirs, &(ZSH.replace("NAME", name) + &other), 1)
        }
        _ => script,
    }
}

/// Names first, and all the rest where there are none.
const BASH: &str = r#"
_NAME_names() {
    local program=${1/#\~/$HOME}
    local -a found
    mapfile -t found < <("$program" __complete --names "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null </dev/null)
    if ((${#found[@]})); then
        COMPREPLY=("${found[@]}")
    else
        _THEIRS "$@"
    fi
}

complete -F _NAME_names -o nosort -o bashdefault -o default NAME
"#;

const ZSH: &str = r#"_NAME() {
    local -a found
    found=(${(f)"$(command ${(Q)words[1]/#\~/$HOME} __complete --names "${(@Q)words[2,CURRENT]}" 2>/dev/null </dev/null)"})
    if (( $#found )); then
        compadd -a found
    else
        _NAME_words "$@"
    fi
}

"#;

const FISH: &str = r#"
function __NAME_ask
    set -l words (commandline -opc)
    # What stands before the value in the same word is the shell's.
    command $words[1] __complete --names $words[2..-1] (commandline -ct) 2>/dev/null </dev/null | string replace -r -- '^--[^=]+=' ''
end

function __NAME_names
    set -g __NAME_found (__NAME_ask)
    test (count $__NAME_found) -gt 0
end

complete -c NAME -n __NAME_names -f -a '$__NAME_found'
"#;

/// Flags whose values are names of the cluster. fish looks for them nowhere but beside the flag.
const FISH_FLAGS: [&str; 6] = ["from-snapshot", "namespace", "pvc", "snapshot", "vm", "volume"];

fn fish(script: &str, name: &str) -> String {
    let mut lines = String::new();
    for line in script.lines() {
        lines.push_str(line);
        let is_named = FISH_FLAGS.iter().any(|flag| line.contains(&format!(" -l {flag} ")));
        // What takes files says so by `-F` behind that.
        if is_named && line.ends_with(" -r") {
            lines.push_str(&format!(" -f -a '(__{name}_ask)'"));
        }
        lines.push('\n');
    }
    lines + &FISH.replace("NAME", name)
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
                let script = script(*shell, name);
                for word in [name, "convert", "checkpoint-bytes"] {
                    assert!(script.contains(word), "{shell}: {word}");
                }
                let asks = matches!(shell, Shell::Bash | Shell::Fish | Shell::Zsh);
                assert_eq!(script.contains("__complete --names"), asks, "{shell}");
                // What is handed on to is there.
                let theirs = match shell {
                    Shell::Bash => format!("\n_{}() {{", name.replace('-', "__")),
                    Shell::Zsh => format!("\n_{name}_words() {{"),
                    _ => continue,
                };
                assert!(
                    script.contains(&theirs) || script.starts_with(theirs.trim_start()),
                    "{shell}: {theirs}"
                );
            }
        }
    }
}
