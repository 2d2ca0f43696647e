//! `vmferry network`: networks of VMs listed, attached, detached, their links set.

use clap::{Args, Subcommand, ValueEnum};
use vmferry::{
    Error,
    kubevirt::{LinkState, NetworkChanged, NetworkInfo, Networks, NicBinding, NicRequest},
};

use super::{
    Failure,
    output::Output,
    rows::{self, Changing, WatchArgs},
    table::{Cells, Column, unknown},
    vm::OneVm,
    waiting::{PartChanged, WaitArgs, carry_out, show},
};

/// List networks of VMs, attach and detach them, set their links
#[derive(Args, Debug)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    List(ListArgs),
    Attach(AttachArgs),
    Detach(DetachArgs),
    SetLink(SetLinkArgs),
}

/// List the networks of a VM
#[derive(Args, Debug)]
#[command(visible_alias = "ls")]
struct ListArgs {
    #[command(flatten)]
    vm: OneVm,

    #[command(flatten)]
    watch: WatchArgs,
}

/// Attach a VM to a network, while it runs too
#[derive(Args, Debug)]
struct AttachArgs {
    #[command(flatten)]
    vm: OneVm,

    /// The NetworkAttachmentDefinition
    #[arg(value_name = "[NAMESPACE/]NETWORK")]
    network: String,

    /// What the VM calls it [default: as the definition]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How the interface is bound
    #[arg(long, value_enum, default_value_t = Binding::Bridge)]
    binding: Binding,

    /// MAC address [default: the cluster finds one]
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,

    /// The card that the guest sees
    #[arg(long, value_name = "MODEL", default_value = "virtio")]
    model: String,

    #[command(flatten)]
    waiting: WaitArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Binding {
    /// By a bridge in the pod
    Bridge,
    /// A virtual function of a network card
    Sriov,
}

/// Take a VM from a network
#[derive(Args, Debug)]
struct DetachArgs {
    #[command(flatten)]
    vm: OneVm,

    /// What the VM calls it
    #[arg(value_name = "NETWORK")]
    network: String,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Set the link of a VM in a network up or down, as by its cable
#[derive(Args, Debug)]
struct SetLinkArgs {
    #[command(flatten)]
    vm: OneVm,

    /// What the VM calls it
    #[arg(value_name = "NETWORK")]
    network: String,

    /// How it is to be
    #[arg(value_enum)]
    link: Link,

    #[command(flatten)]
    waiting: WaitArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Link {
    Down,
    Up,
}

/// The networks of a VM's cluster, and the VM's name.
async fn connect(vm: &OneVm, output: &Output) -> Result<(Networks, String), Error> {
    vm.connect_to(|cluster| Networks::new(cluster).on_event(show(output))).await
}

impl NetworkArgs {
    /// Whether it lists rows.
    pub(super) fn has_rows(&self) -> bool {
        matches!(self.command, NetworkCommand::List(_))
    }
}

pub(super) async fn run(args: NetworkArgs, output: &Output) -> Result<(), Failure> {
    match args.command {
        NetworkCommand::List(args) => {
            let (networks, vm) = connect(&args.vm, output).await?;
            if !args.watch.watch {
                return rows::print(async move { networks.list(&vm).await }, output).await;
            }
            let list = move || {
                let (networks, vm) = (networks.clone(), vm.clone());
                async move { networks.list(&vm).await }
            };
            rows::follow(list, output).await
        }
        NetworkCommand::Attach(args) => {
            let ((networks, vm), acting) = (connect(&args.vm, output).await?, args.waiting.acting());
            let request = NicRequest {
                network: args.network,
                name: args.name,
                binding: match args.binding {
                    Binding::Bridge => NicBinding::Bridge,
                    Binding::Sriov => NicBinding::Sriov,
                },
                mac: args.mac,
                model: args.model,
            };
            let work = Box::pin(async move { networks.attach(&vm, &request, &acting).await });
            carry_out("attached", work, args.waiting, output).await
        }
        NetworkCommand::Detach(args) => {
            let ((networks, vm), acting) = (connect(&args.vm, output).await?, args.waiting.acting());
            let work = Box::pin(async move { networks.detach(&vm, &args.network, &acting).await });
            carry_out("detached", work, args.waiting, output).await
        }
        NetworkCommand::SetLink(args) => {
            let ((networks, vm), acting) = (connect(&args.vm, output).await?, args.waiting.acting());
            let (link, done) = match args.link {
                Link::Down => (LinkState::Down, "set down"),
                Link::Up => (LinkState::Up, "set up"),
            };
            let work = Box::pin(async move { networks.set_link(&vm, &args.network, link, &acting).await });
            carry_out(done, work, args.waiting, output).await
        }
    }
}

impl From<NetworkChanged> for PartChanged {
    fn from(changed: NetworkChanged) -> Self {
        let NetworkChanged { vm, network: part, complete, needs } = changed;
        Self { kind: "network", part, vm, complete, needs: Some(needs) }
    }
}

impl Changing for NetworkInfo {
    fn gone(self) -> Self {
        Self { phase: Some("gone".to_owned()), ..self }
    }
}

impl Cells for NetworkInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAME"),
        Column::text("TYPE"),
        Column::text("NETWORK"),
        Column::text("MAC"),
        Column::text("ADDRESSES"),
        Column::text("LINK"),
        Column::text("PHASE"),
        Column::text("MODEL").wide(),
        Column::text("DEVICE").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.network.clone(),
            text(&self.mac),
            if self.ips.is_empty() { unknown() } else { self.ips.join(",") },
            text(&self.link),
            text(&self.phase),
            self.model.clone(),
            text(&self.device),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
