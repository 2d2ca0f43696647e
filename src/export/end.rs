//! The end of a run: what is put back, what is removed and what is kept.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

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
        let now = vm.strategy();
        // If an earlier run had stopped it and it is still to be down, what counts is what was before that.
        let strategy = run.stopped.clone().filter(|_| is_halted(&now)).unwrap_or(now);
        if let Some(state) = &mut run.state {
            state.remember_stopped(&strategy)?;
        }
        run.stopped = Some(strategy);
        let teller: Teller = Arc::new(self.teller());
        self.uncancelled(self.cluster.stop(&vm, self.options.wait, &teller)).await
    }

    /// Puts a VM that was stopped back as it was, however the run went.
    pub(super) async fn put_back(&self, run: &mut Run, worked: Result<String>) -> Result<String> {
        let (Some(strategy), ExportOf::Vm(name)) = (run.stopped.clone(), &self.of) else { return worked };
        let by_hand = format!(
            "put it back by hand: kubectl patch vm {name} -n {} --type merge -p '{{\"spec\":{strategy}}}'",
            self.cluster.namespace()
        );
        let putting = self.put_back_if_ours(run, name, &strategy);
        let put = match tokio::time::timeout(CLEAN_UP, putting).await {
            Ok(put) => put,
            Err(_) => Err(Error::new(ErrorKind::Network, "the cluster does not answer")),
        };
        if put.is_ok() {
            run.stopped = None;
            if let Some(state) = &mut run.state
                && let Err(error) = state.remember_put_back()
            {
                run.warnings.push(format!("that VM {name} was put back could not be written down: {error}"));
            }
        }
        let others = format!("VM {name} was started or changed by somebody else, and is left as it is");
        match (worked, put) {
            (Ok(source), Ok(true)) => Ok(source),
            (Ok(source), Ok(false)) => {
                run.warnings.push(others);
                Ok(source)
            }
            (Ok(source), Err(error)) => {
                run.warnings.push(format!("VM {name} was stopped and could not be put back ({error}); {by_hand}"));
                Ok(source)
            }
            (Err(error), Ok(true)) => Err(error.with_further_hint(format!(
                "VM {name} is put back as it was; if it runs, its disks change, and another try begins anew with --restart"
            ))),
            (Err(error), Ok(false)) => Err(error.with_further_hint(others)),
            (Err(error), Err(cause)) => {
                Err(error.with_further_hint(format!("VM {name} stays stopped ({cause}); {by_hand}")))
            }
        }
    }

    /// Tells whether the VM is as it was before; `false` if it is not down by our doing any more.
    async fn put_back_if_ours(&self, run: &Run, name: &str, strategy: &Value) -> Result<bool> {
        let Some(vm) = self.cluster.find_vm(name).await? else { return Ok(false) };
        let now = vm.strategy();
        if now == *strategy {
            return Ok(true);
        }
        let seen = run.memory().and_then(|memory| memory.source.as_ref());
        if !is_halted(&now) || seen.is_some_and(|seen| seen.was_started(&vm)) {
            return Ok(false);
        }
        self.cluster.put_back(name, strategy).await?;
        Ok(true)
    }

    /// Removes what a good run made in the cluster.
    pub(super) async fn clean_up(&self, run: &mut Run) {
        if self.options.keep || matches!(self.of, ExportOf::Existing(_)) {
            return;
        }
        let Some(after) = run.named_after.clone().or_else(|| self.named_after()) else { return };
        if let Some(error) = self.remove_objects(run, &after).await {
            let warning = format!(
                "what was made in the cluster could not be removed ({error}): '{}' removes it",
                self.give_up(&run.id)
            );
            run.warnings.push(warning);
        }
    }

    async fn remove_objects(&self, run: &Run, after: &str) -> Option<Error> {
        let removal = async {
            if let Some(session) = run.session.as_ref().filter(|session| session.is_owned()) {
                // A stream may still be read, and would take what is removed for lost.
                session.close().await;
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
    pub(super) async fn after_failure(&self, places: &Places, mut run: Run, error: Error) -> Error {
        if let Some(session) = &run.session {
            // Whatever still reads a volume is to end with the run, and to make nothing anew.
            let _ = tokio::time::timeout(CLEAN_UP, session.close()).await;
        }
        let made = run.named_after.clone().filter(|_| !matches!(self.of, ExportOf::Existing(_)));
        if run.begun || self.options.keep {
            let kind = error.kind();
            return error.with_further_hint(self.what_is_kept(&run, kind));
        }
        let left = match &made {
            Some(after) => self.remove_objects(&run, after).await,
            None => None,
        };
        let state = run.state.take();
        if let Some(state) = state
            && let Err(error) = state.remove()
        {
            tracing::debug!(%error, "the state of the run stays behind");
        }
        places.remove_if_empty();
        match left {
            Some(cause) => error.with_further_hint(format!(
                "what was made in the cluster could not be removed ({cause}): '{}' removes it",
                self.give_up(&run.id)
            )),
            None => error,
        }
    }

    /// What stays for another run, how that goes on, and what removes it instead.
    fn what_is_kept(&self, run: &Run, failure: ErrorKind) -> String {
        if matches!(self.of, ExportOf::Existing(_)) {
            return "the same command goes on where this one stopped".to_owned();
        }
        let (namespace, give_up) = (self.cluster.namespace(), self.give_up(&run.id));
        let session = run.session.as_ref().filter(|session| session.is_owned());
        let (what, instead) = match session {
            Some(session) => {
                let name = session.name();
                let snapshot = if run.with_snapshot { " with its snapshot" } else { "" };
                (
                    format!("the export {namespace}/{name}{snapshot}"),
                    format!("'{give_up}', or 'kubectl delete virtualmachineexport {name} -n {namespace}'"),
                )
            }
            None => ("what the run has made in the cluster".to_owned(), format!("'{give_up}'")),
        };
        if !run.begun {
            return format!("{what} is left there, as it was asked for; it is removed by {instead}");
        }
        if failure == ErrorKind::SourceChanged {
            return format!(
                "{what} is still there: --restart removes it and begins anew; to give up instead: {instead}"
            );
        }
        format!("the same command goes on with {what}, which is kept for that; to give up instead: {instead}")
    }

    /// The command that removes what a run has made in the cluster.
    fn give_up(&self, run: &str) -> String {
        format!("vmferry gc -n {} --run {run} --yes", self.cluster.namespace())
    }
}

/// Whether a strategy is that of a VM that was stopped for an export.
fn is_halted(strategy: &Value) -> bool {
    *strategy == json!({"runStrategy": "Halted"}) || *strategy == json!({"running": false})
}

/// A run that ends does not wait for ever.
const CLEAN_UP: Duration = Duration::from_secs(20);
