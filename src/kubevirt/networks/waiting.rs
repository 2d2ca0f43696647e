//! Waiting until a guest has what its description says, or until it is clear what it needs first.

use std::time::Duration;

use tokio::time::Instant;

use super::{LinkState, Needs, NetworkChanged, Networks};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{Acting, Instance, Resource},
};

/// How far a guest is.
enum Progress {
    Done,
    Waiting(String),
}

/// What is waited for.
#[derive(Clone, Copy)]
struct Goal<'a> {
    vm: &'a str,
    network: &'a str,
    /// `attached`, `detached`, `up`: what it is afterwards.
    done: &'static str,
    /// Whether a migration or a restart may be needed for it.
    may_need: bool,
}

impl Networks {
    pub(super) async fn until_attached(
        &self,
        vm: &str,
        network: &str,
        acting: &Acting,
    ) -> Result<NetworkChanged> {
        let goal = Goal { vm, network, done: "attached", may_need: true };
        self.until(goal, acting, |guest| match guest.nic(network) {
            Some(nic) if nic.is_in_guest() => Progress::Done,
            Some(_) => Progress::Waiting("its pod has it, its guest not yet".to_owned()),
            None => Progress::Waiting("not begun".to_owned()),
        })
        .await
    }

    pub(super) async fn until_detached(
        &self,
        vm: &str,
        network: &str,
        acting: &Acting,
    ) -> Result<NetworkChanged> {
        let goal = Goal { vm, network, done: "detached", may_need: true };
        self.until(goal, acting, |guest| match guest.nic(network) {
            None => Progress::Done,
            Some(_) => Progress::Waiting("its guest has it still".to_owned()),
        })
        .await
    }

    pub(super) async fn until_linked(
        &self,
        vm: &str,
        network: &str,
        link: LinkState,
        acting: &Acting,
    ) -> Result<NetworkChanged> {
        let done = link.name();
        let goal = Goal { vm, network, done, may_need: false };
        self.until(goal, acting, |guest| match guest.nic(network) {
            Some(nic) if nic.link_state == done => Progress::Done,
            Some(nic) if nic.link_state.is_empty() => {
                Progress::Waiting("the cluster does not say how it is".to_owned())
            }
            Some(nic) => Progress::Waiting(format!("it is {}", nic.link_state)),
            None => Progress::Waiting("its guest does not have it".to_owned()),
        })
        .await
    }

    /// Whether the cluster lets networks come and go while guests run.
    pub(super) async fn can_plug(&self) -> bool {
        self.cluster().release().await.plugs_networks()
    }

    /// Waits; a VM that does not run is as it is to be at once.
    async fn until(
        &self,
        goal: Goal<'_>,
        acting: &Acting,
        look: impl Fn(&Instance) -> Progress + Send,
    ) -> Result<NetworkChanged> {
        let Goal { vm, network, .. } = goal;
        let changed = |complete, needs| Ok(self.changed(vm, network, complete, needs));
        if acting.dry_run {
            return changed(false, None);
        }
        let release = self.cluster().release().await;
        if goal.may_need && !release.plugs_networks() {
            let runs = self.guest(vm).await?.is_some();
            return changed(!runs, runs.then_some(Needs::Restart));
        }
        let Some(wait) = acting.wait else { return changed(false, None) };
        let (start, mut news, mut needed) = (Instant::now(), None, None::<(Needs, Instant)>);
        let waiting = Self { vms: self.vms.until(start + wait) };
        loop {
            let Some(guest) = waiting.guest(vm).await? else { return changed(true, None) };
            let Progress::Waiting(state) = look(&guest) else { return changed(true, None) };
            let needs = if goal.may_need { waiting.needs(vm, &guest).await? } else { None };
            let is_coming = needs == Some(Needs::Migration) && release.migrates_by_itself();
            let text = match needs {
                Some(Needs::Migration) if is_coming => format!("{state}; its guest is to be migrated"),
                Some(needs) => format!("{state}; it needs a {}", needs.name()),
                None => state,
            };
            // What an earlier change left behind may stand for a moment.
            let since = needs.filter(|_| !is_coming).map(|needs| match needed {
                Some((before, since)) if before == needs => (needs, since),
                _ => (needs, Instant::now()),
            });
            needed = since;
            if let Some((needs, since)) = needed
                && since.elapsed() >= SETTLED
            {
                return changed(false, Some(needs));
            }
            self.vms.tell(&mut news, &format!("network {network}: {text}"));
            let left = wait.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(too_late(&self.vms.called(vm), goal, wait, &text));
            }
            let pause = if needed.is_some() { SETTLED } else { LOOK };
            let version = &guest.metadata.resource_version;
            self.cluster().changed(&Resource::vmis(), vm, version, left.min(pause)).await;
        }
    }

    /// What the cluster says that the guest needs.
    async fn needs(&self, vm: &str, guest: &Instance) -> Result<Option<Needs>> {
        if guest.is("MigrationRequired") {
            return Ok(Some(Needs::Migration));
        }
        let vm = self.vms.find(vm).await?;
        let mut conditions = vm.status.conditions.iter();
        let is_required = conditions.any(|found| found.kind == "RestartRequired" && found.status == "True");
        Ok(is_required.then_some(Needs::Restart))
    }
}

fn too_late(vm: &str, goal: Goal<'_>, wait: Duration, state: &str) -> Error {
    let Goal { network, done, may_need, .. } = goal;
    let hint = if may_need {
        format!(
            "the cluster goes on with it: 'vmferry network list {vm}' tells how far it is; where it cannot do it in \
             place, 'vmferry vm migrate {vm}' does, or a restart"
        )
    } else {
        format!("the cluster goes on with it: 'vmferry network list {vm}' tells how far it is")
    };
    Error::new(
        ErrorKind::TimedOut,
        format!("network {network} of VM {vm} is not {done} after {} s: {state}", wait.as_secs_f64()),
    )
    .with_hint(hint)
}

/// A watch may miss what happens to other objects.
const LOOK: Duration = Duration::from_secs(3);

/// What is needed so long is needed.
const SETTLED: Duration = Duration::from_secs(2);
