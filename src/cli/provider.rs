//! `vmferry provider list`: the words of HyperSDK for [`vm list`](super::vm).

use clap::{Args, Subcommand};

use super::{
    Failure,
    output::Output,
    vm::list::{self, ListArgs},
};

const AFTER_HELP: &str = "\
The words of HyperSDK for 'vmferry vm list', with the same options.

Examples:
  vmferry provider list --type kubevirt --namespace demo
  vmferry provider list --all-namespaces -o json";

/// List the VMs of a provider, by the words of HyperSDK
#[derive(Args, Debug)]
pub(crate) struct ProviderArgs {
    #[command(subcommand)]
    command: ProviderCommand,
}

#[derive(Debug, Subcommand)]
enum ProviderCommand {
    List(Box<ProviderListArgs>),
}

/// List the VMs of a provider
// The other name of the command comes with the list.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
struct ProviderListArgs {
    /// The provider; kubevirt is the only one here
    #[arg(long = "type", value_name = "NAME", default_value = "kubevirt", value_parser = parse_provider)]
    kind: String,

    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(args: &ProviderArgs, output: &Output) -> Result<(), Failure> {
    let ProviderCommand::List(args) = &args.command;
    list::run(&args.list, output).await
}

/// The only provider; others are told so.
pub(super) fn parse_provider(text: &str) -> Result<String, String> {
    match text {
        "kubevirt" => Ok(text.to_owned()),
        _ => Err("kubevirt is the only provider here".to_owned()),
    }
}
