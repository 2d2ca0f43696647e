//! Which cluster: what all commands that talk to one share.

use std::{path::PathBuf, time::Duration};

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use vmferry::{
    Error,
    kubevirt::{Cluster, ClusterOptions},
};

use super::units::parse_duration;

/// Which cluster, and as whom.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cluster options")]
pub(crate) struct ClusterArgs {
    /// The kubeconfig [default: KUBECONFIG, ~/.kube/config, or the pod that this runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The context in it [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    #[command(flatten)]
    namespace: NamespaceArg,

    /// The user to act as
    #[arg(long = "as", value_name = "USER")]
    act_as: Option<String>,

    /// A group that this user is taken to be in; may be given several times
    #[arg(long = "as-group", value_name = "GROUP", requires = "act_as")]
    act_as_groups: Vec<String>,

    /// Give up a request to the API server that takes longer and try it again
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    request_timeout: Duration,
}

impl ClusterArgs {
    /// The kubeconfig, if one is named.
    pub(super) fn kubeconfig(&self) -> Option<&PathBuf> {
        self.kubeconfig.as_ref()
    }

    /// The cluster, for commands that somebody waits for: one that cannot be reached is given up soon.
    pub(crate) async fn connect_briefly(&self, namespace: Option<&str>) -> Result<Cluster, Error> {
        self.connect(namespace, Some(BRIEFLY)).await
    }

    /// The cluster; `namespace` counts where none was named. Requests are tried again for at most `retry_for`.
    pub(crate) async fn connect(
        &self,
        namespace: Option<&str>,
        retry_for: Option<Duration>,
    ) -> Result<Cluster, Error> {
        if let (Some(named), Some(other)) = (&self.namespace.named, namespace)
            && named != other
        {
            return Err(Error::usage(format!("two namespaces are named: {named} and {other}")));
        }
        let default = ClusterOptions::default();
        let options = ClusterOptions {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.namespace.or(namespace),
            act_as: self.act_as.clone(),
            act_as_groups: self.act_as_groups.clone(),
            timeout: self.request_timeout,
            retry_for: retry_for.unwrap_or(default.retry_for).min(default.retry_for),
        };
        Cluster::connect(&options).await
    }
}

/// A namespace that was named, or one that is only set: what stands before the name of a VM counts before
/// that.
#[derive(Clone, Debug, Default)]
struct NamespaceArg {
    named: Option<String>,
    set: Option<String>,
}

impl NamespaceArg {
    /// The namespace that counts, where `other` stands before a name.
    fn or(&self, other: Option<&str>) -> Option<String> {
        self.named.clone().or_else(|| other.map(str::to_owned)).or_else(|| self.set.clone())
    }
}

// By hand, because what clap derives does not tell a default from a flag.
impl Args for NamespaceArg {
    fn augment_args(command: Command) -> Command {
        let help = "The namespace [default: that of the context]";
        command.arg(Arg::new("namespace").short('n').long("namespace").value_name("NAME").help(help))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for NamespaceArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = matches.get_one::<String>("namespace").cloned();
        Ok(match matches.value_source("namespace") {
            Some(ValueSource::DefaultValue) => Self { named: None, set: value },
            _ => Self { named: value, set: None },
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Long enough for an API server that is restarted behind a load balancer.
const BRIEFLY: Duration = Duration::from_secs(10);
