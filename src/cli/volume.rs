//! `vmferry volume`: volumes of VMs listed, attached, detached, made larger, exported.

use clap::{Args, Subcommand};
use vmferry::{
    Error,
    kubevirt::{AttachRequest, VolumeChanged, VolumeInfo, Volumes},
};

use super::{
    Failure,
    export::{self, ExportArgs, no_job},
    output::Output,
    rows::{self, Changing, WatchArgs},
    table::{Cells, Column, unknown},
    units::{Bytes, parse_positive_size},
    vm::OneVm,
    waiting::{PartChanged, WaitArgs, carry_out, show},
};

/// List volumes of VMs, attach, detach, enlarge and export them
#[derive(Args, Debug)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    List(ListArgs),
    Attach(AttachArgs),
    Detach(DetachArgs),
    Expand(ExpandArgs),
    /// Export one volume of a VM; the options are those of 'vmferry export'
    #[command(
        mut_arg("volume", |arg| arg.required(true)),
        mut_arg("job", |arg| arg.hide(true).value_parser(no_job))
    )]
    Export(Box<ExportArgs>),
}

/// List the volumes of a VM
#[derive(Args, Debug)]
#[command(visible_alias = "ls")]
struct ListArgs {
    #[command(flatten)]
    vm: OneVm,

    #[command(flatten)]
    watch: WatchArgs,
}

/// Attach a claim to a VM, while it runs too
#[derive(Args, Debug)]
struct AttachArgs {
    #[command(flatten)]
    vm: OneVm,

    /// The claim
    #[arg(value_name = "PVC")]
    claim: String,

    /// What the VM calls it [default: as the claim]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The bus that the guest sees it on
    #[arg(long, value_name = "scsi|virtio", default_value = "scsi", value_parser = ["scsi", "virtio"])]
    bus: String,

    /// Serial number that the guest sees
    #[arg(long, value_name = "TEXT")]
    serial: Option<String>,

    /// The claim is that of a DataVolume
    #[arg(long)]
    data_volume: bool,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Take a volume away that was attached while the VM ran
#[derive(Args, Debug)]
struct DetachArgs {
    #[command(flatten)]
    vm: OneVm,

    /// What the VM calls it, or its claim
    #[arg(value_name = "VOLUME")]
    volume: String,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// Make a volume larger
#[derive(Args, Debug)]
struct ExpandArgs {
    #[command(flatten)]
    vm: OneVm,

    /// What the VM calls it, or its claim
    #[arg(value_name = "VOLUME")]
    volume: String,

    /// Its new size: 20GiB
    #[arg(value_name = "SIZE", value_parser = parse_positive_size)]
    size: u64,

    #[command(flatten)]
    waiting: WaitArgs,
}

/// The volumes of a VM's cluster, and the VM's name.
async fn connect(vm: &OneVm, output: &Output) -> Result<(Volumes, String), Error> {
    vm.connect_to(|cluster| Volumes::new(cluster).on_event(show(output))).await
}

impl VolumeArgs {
    /// Whether it lists rows.
    pub(super) fn has_rows(&self) -> bool {
        matches!(self.command, VolumeCommand::List(_))
    }
}

pub(super) async fn run(args: VolumeArgs, output: &Output) -> Result<(), Failure> {
    match args.command {
        VolumeCommand::List(args) => {
            let (volumes, vm) = connect(&args.vm, output).await?;
            if !args.watch.watch {
                return rows::print(async move { volumes.list(&vm).await }, output).await;
            }
            let list = move || {
                let (volumes, vm) = (volumes.clone(), vm.clone());
                async move { volumes.list(&vm).await }
            };
            rows::follow(list, output).await
        }
        VolumeCommand::Attach(args) => {
            let ((volumes, vm), acting) = (connect(&args.vm, output).await?, args.waiting.acting());
            let request = AttachRequest {
                claim: args.claim,
                name: args.name,
                bus: args.bus,
                serial: args.serial,
                data_volume: args.data_volume,
            };
            let work = async move { volumes.attach(&vm, &request, &acting).await };
            carry_out("attached", work, args.waiting, output).await
        }
        VolumeCommand::Detach(args) => {
            let ((volumes, vm), acting) = (connect(&args.vm, output).await?, args.waiting.acting());
            let work = async move { volumes.detach(&vm, &args.volume, &acting).await };
            carry_out("detached", work, args.waiting, output).await
        }
        VolumeCommand::Expand(args) => {
            let ((volumes, vm), acting) = (connect(&args.vm, output).await?, args.waiting.acting());
            let work = async move { volumes.expand(&vm, &args.volume, args.size, &acting).await };
            carry_out("enlarged", work, args.waiting, output).await
        }
        VolumeCommand::Export(args) => export::run(&args, output).await,
    }
}

impl From<VolumeChanged> for PartChanged {
    fn from(changed: VolumeChanged) -> Self {
        let VolumeChanged { vm, volume: part, complete } = changed;
        Self { kind: "volume", part, vm, complete, needs: None }
    }
}

impl Changing for VolumeInfo {
    fn gone(self) -> Self {
        Self { phase: Some("gone".to_owned()), ..self }
    }
}

impl Cells for VolumeInfo {
    const COLUMNS: &'static [Column] = &[
        Column::text("NAME"),
        Column::text("TYPE"),
        Column::text("PVC"),
        Column::number("SIZE"),
        Column::text("CLASS"),
        Column::text("BUS"),
        Column::text("TARGET"),
        Column::text("HOTPLUGGED"),
        Column::text("PHASE"),
        Column::text("MODE").wide(),
        Column::text("DEVICE").wide(),
        Column::text("EXPORTED").wide(),
    ];

    fn cells(&self) -> Vec<String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
        let yes = |is_so: bool| if is_so { "yes" } else { "no" }.to_owned();
        vec![
            self.name.clone(),
            self.kind.clone(),
            text(&self.pvc),
            self.size_bytes.map_or_else(unknown, |bytes| Bytes(bytes).to_string()),
            text(&self.storage_class),
            text(&self.bus),
            text(&self.target),
            yes(self.hotplugged),
            text(&self.phase),
            text(&self.volume_mode),
            self.device.clone(),
            yes(self.exportable),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
