//! The end of a run: what is put back, what is removed and what is kept.

use std::{sync::Arc, time::Duration};

use super::{Export, ExportOf, output::Places, prepare::Prepared, run::Run};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{Teller, types::VirtualMachine},
};

impl Export {
    /// Stops the VM. What its run strategy was is remembered before.
    pub(super) async fn stop(&self, run: &mut Run, prepared: &Prepared) -> Result<()> {
        let object = prepared.vm.clone().unwrap_or_default();
        let vm = VirtualMachine::new(object)?;
        // If an earlier run had stopped it, what counts is what was before that.
        let strategy = run.stopped.clone().unwrap_or_else(|| vm.strategy());
        if let Some(state) = &mut run.state {
            state.remember_stopped(&strategy)?;
        }
        run.stopped = Some(strategy);
        let teller: Teller = Arc::new(self.teller());
        self.uncancelled(self.cluster.stop(&vm, self.options.wait, &teller)).await
    }

    /// Puts a VM that was stopped back as it was, however the run went.
    pub(super) async fn put_back(&self, run: &mut Run, worked: Result<String>) -> Result<String> {
        let (Some(strategy), ExportOf::Vm(name)) = (&run.stopped, &self.of) else { return worked };
        let by_hand = format!(
            "put it back by hand: kubectl patch vm {name} -n {} --type merge -p '{{\"spec\":{strategy}}}'",
            self.cluster.namespace()
        );
        let put = tokio::time::timeout(CLEAN_UP, self.cluster.put_back(name, strategy)).await;
        let failed = match put {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(Error::new(ErrorKind::Network, "the cluster does not answer")),
        };
        match (worked, failed) {
            (Ok(source), None) => Ok(source),
            (Ok(source), Some(error)) => {
                run.warnings.push(format!("VM {name} was stopped and could not be put back ({error}); {by_hand}"));
                Ok(source)
            }
            (Err(error), None) => Err(error.with_further_hint(format!(
                "VM {name} is put back as it was; if it runs, its disks change, and another try begins anew with --restart"
            ))),
            (Err(error), Some(cause)) => {
                Err(error.with_further_hint(format!("VM {name} stays stopped ({cause}); {by_hand}")))
            }
        }
    }

    /// Removes what a good run made in the cluster.
    pub(super) async fn clean_up(&self, run: &mut Run) {
        if self.options.keep || matches!(self.of, ExportOf::Existing(_)) {
            return;
        }
        let Some(after) = run.named_after.clone().or_else(|| self.named_after()) else { return };
        if let Some(error) = self.remove_objects(run, &after).await {
            let warning = format!(
                "what was made in the cluster could not be removed ({error}): vmferry gc -n {} lists it",
                self.cluster.namespace()
            );
            run.warnings.push(warning);
        }
    }

    async fn remove_objects(&self, run: &Run, after: &str) -> Option<Error> {
        let removal = async {
            if let Some(session) = run.session.as_ref().filter(|session| session.is_owned()) {
                session.remove().await?;
            }
            self.cluster.remove_run(after, &run.id, run.with_snapshot).await
        };
        match tokio::time::timeout(CLEAN_UP, removal).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(Error::new(ErrorKind::Network, "the cluster does not answer")),
        }
    }

    /// Keeps what a later run can go on with, says how, and removes the rest.
    pub(super) async fn after_failure(&self, places: &Places, run: Run, error: Error) -> Error {
        let namespace = self.cluster.namespace();
        let made = run.named_after.clone().filter(|_| !matches!(self.of, ExportOf::Existing(_)));
        if run.begun || self.options.keep {
            let Some(session) = run.session.as_ref().filter(|session| session.is_owned()) else {
                return error;
            };
            let snapshot = if run.with_snapshot { " and its snapshot" } else { "" };
            return error.with_further_hint(format!(
                "the export {namespace}/{}{snapshot} is kept in the cluster for that; to give up instead: 'kubectl delete \
                 virtualmachineexport {} -n {namespace}', or 'vmferry gc -n {namespace} --yes' for all that was left",
                session.name(),
                session.name()
            ));
        }
        let left = match &made {
            Some(after) => self.remove_objects(&run, after).await,
            None => None,
        };
        if let Some(state) = run.state
            && let Err(error) = state.remove()
        {
            tracing::debug!(%error, "the state of the run stays behind");
        }
        places.remove_if_empty();
        match left {
            Some(cause) => error.with_further_hint(format!(
                "what was made in the cluster could not be removed ({cause}): 'vmferry gc -n {namespace}' lists it"
            )),
            None => error,
        }
    }
}

/// A run that ends does not wait for ever.
const CLEAN_UP: Duration = Duration::from_secs(20);
