//! Waiting until a VM is as it was asked to be.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    Instance, Vms,
    info::{PowerState, power, printable, run_strategy},
    state::reason,
    verbs::Verb,
};
use crate::{
    error::{Error, ErrorKind, Result},
    kubevirt::{Resource, Told, types::VirtualMachine},
};

/// A VM and its instance, as they were just now.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) vm: VirtualMachine,
    pub(super) instance: Option<Instance>,
}

/// How far a VM is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// Its instance is; its own status, which follows, is not yet.
    Nearly,
    /// It will not get there by itself, for this reason.
    Failed(String),
    /// It is on its way, and this is what it waits for.
    Waiting(String),
}

impl Vms {
    /// Waits until what was asked for is done; `before` is the instance there was. Tells what is waited for
    /// whenever that changes. Times in which the cluster cannot be reached are sat out.
    pub(super) async fn wait(
        &self,
        name: &str,
        verb: Verb,
        before: Option<&str>,
        wait: Duration,
    ) -> Result<Look> {
        let deadline = Instant::now() + wait;
        let (mut news, mut failing, mut nearly): (Option<String>, Option<Instant>, Option<Instant>) =
            (None, None, None);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let look = match timeout(left, self.look(name)).await {
                Ok(Ok(look)) => look,
                Ok(Err(error)) if error.kind() == ErrorKind::Network && !left.is_zero() => {
                    self.tell(&mut news, &format!("the cluster does not answer: {error}"));
                    sleep(LOOK.min(left)).await;
                    continue;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(self.too_late(name, verb, wait, news)),
            };
            let progress = judge(verb, before, &look);
            let (text, pause) = match progress {
                Progress::Done => return Ok(look),
                // The status may be about something else altogether: a claim that is missing.
                Progress::Nearly => {
                    if nearly.get_or_insert_with(Instant::now).elapsed() >= SETTLED {
                        return Ok(look);
                    }
                    (look.state(), SETTLED)
                }
                Progress::Waiting(text) => {
                    failing = None;
                    (text, LOOK)
                }
                // What an earlier attempt left behind may stand for a moment.
                Progress::Failed(text) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= SETTLED {
                        return Err(self.failed(name, verb, &text));
                    }
                    (text, SETTLED)
                }
            };
            self.tell(&mut news, &format!("VM {}: {text}", self.called(name)));
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.too_late(name, verb, wait, news));
            }
            let version = &look.vm.metadata.resource_version;
            self.cluster.changed(&Resource::vms(), name, version, pause.min(left)).await;
        }
    }

    async fn look(&self, name: &str) -> Result<Look> {
        let vm = self.find(name).await?;
        Ok(Look { vm, instance: self.instance(name).await? })
    }

    /// Tells what is waited for, once; `news` is what was told last.
    pub(in crate::kubevirt) fn tell(&self, news: &mut Option<String>, text: &str) {
        if news.as_deref() != Some(text) {
            (self.teller)(Told::Waiting(text.to_owned()));
            *news = Some(text.to_owned());
        }
    }

    fn too_late(&self, name: &str, verb: Verb, wait: Duration, news: Option<String>) -> Error {
        let (vm, seconds) = (self.called(name), wait.as_secs_f64());
        let hint = match verb {
            Verb::Stop { grace } if grace.is_none_or(|grace| !grace.is_zero()) => {
                "the guest may not react to ACPI: 'vmferry vm stop --force' cuts it off; the cluster goes on with it meanwhile"
            }
            _ => {
                "the cluster goes on with it: 'vmferry vm status' tells how far it is; wait longer with --timeout"
            }
        };
        let last = news.unwrap_or_else(|| "the cluster did not answer".to_owned());
        Error::new(ErrorKind::TimedOut, format!("VM {vm} is not {} after {seconds} s: {last}", done(verb)))
            .with_hint(hint)
    }

    fn failed(&self, name: &str, verb: Verb, why: &str) -> Error {
        Error::new(ErrorKind::Cluster, format!("VM {} is not {}: {why}", self.called(name), done(verb)))
            .with_hint(format!(
                "'vmferry vm status {name} -n {0}' and 'kubectl describe vmi {name} -n {0}' tell more",
                self.cluster.namespace()
            ))
    }
}

/// What a VM is afterwards.
fn done(verb: Verb) -> &'static str {
    match verb {
        Verb::Pause | Verb::Start { paused: true } => "paused",
        Verb::Restart => "restarted",
        Verb::Start { paused: false } => "running",
        Verb::Stop { .. } => "stopped",
        Verb::Unpause => "going on",
    }
}

fn judge(verb: Verb, before: Option<&str>, look: &Look) -> Progress {
    let status = power(&look.vm.object);
    let agreed = match verb {
        Verb::Pause | Verb::Start { paused: true } => status == PowerState::Paused,
        Verb::Restart | Verb::Start { paused: false } | Verb::Unpause => status == PowerState::Running,
        Verb::Stop { .. } => printable(&look.vm.object) == "Stopped",
    };
    match of_instance(verb, before, look) {
        Progress::Done if !agreed => Progress::Nearly,
        progress => progress,
    }
}

fn of_instance(verb: Verb, before: Option<&str>, look: &Look) -> Progress {
    let instance = look.instance.as_ref();
    let runs = instance.filter(|instance| instance.status.phase == "Running");
    let is_new = instance.is_some_and(|instance| Some(instance.metadata.uid.as_str()) != before);
    let waiting = || match look.wrong(is_new) {
        Some(wrong) => Progress::Failed(wrong),
        None => Progress::Waiting(look.state()),
    };
    match verb {
        Verb::Start { paused } => match runs {
            Some(instance) if !paused || instance.is("Paused") => Progress::Done,
            _ => waiting(),
        },
        Verb::Restart => match runs {
            Some(_) if is_new => Progress::Done,
            _ => waiting(),
        },
        Verb::Stop { .. } => match instance {
            None => Progress::Done,
            Some(instance) if instance.is_over() => Progress::Done,
            Some(_) if is_new && before.is_some() => {
                Progress::Failed("it was started again meanwhile".to_owned())
            }
            Some(_) => Progress::Waiting(look.state()),
        },
        Verb::Pause | Verb::Unpause => match runs {
            Some(instance) if instance.is("Paused") == (verb == Verb::Pause) => Progress::Done,
            Some(_) => Progress::Waiting(look.state()),
            None => Progress::Failed(format!("it does not run any more: {}", look.state())),
        },
    }
}

impl Look {
    /// Its status, and what it waits for.
    fn state(&self) -> String {
        let status = printable(&self.vm.object);
        match reason(&self.vm, self.instance.as_ref()) {
            Some(reason) => format!("{status} ({reason})"),
            None => status.to_owned(),
        }
    }

    /// What keeps it from ever running. A guest that was there before is none of that: its object may stay for a while
    /// with how it ended, when a new one has been asked for.
    fn wrong(&self, is_new: bool) -> Option<String> {
        let object = &self.vm.object;
        let status = printable(object);
        let failure =
            self.vm.status.conditions.iter().any(|found| found.kind == "Failure" && found.status == "True");
        let has_ended = self.instance.as_ref().is_some_and(|instance| {
            is_new && instance.status.phase == "Failed" && matches!(run_strategy(object), "Manual" | "Once")
        });
        let is_wrong = failure || has_ended || HOPELESS.contains(&status);
        is_wrong.then(|| match self.instance.as_ref().filter(|_| has_ended) {
            Some(instance) if !instance.status.reason.is_empty() => {
                format!("its guest failed ({})", instance.status.reason)
            }
            Some(_) => format!("its guest failed: {}", self.state()),
            None => self.state(),
        })
    }
}

/// States that do not end by themselves.
const HOPELESS: [&str; 2] = ["CrashLoopBackOff", "ErrorPvcNotFound"];

/// The instance is looked at so often at least: its changes need not change the VM.
const LOOK: Duration = Duration::from_secs(2);

/// A failure that stands so long is one.
const SETTLED: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_the_guest_before_ended_says_nothing_of_the_next_one() {
        let look = Look {
            vm: VirtualMachine::new(json!({
                "metadata": {"name": "web"},
                "spec": {"runStrategy": "Manual"},
                "status": {"printableStatus": "Stopping"},
            }))
            .unwrap(),
            instance: crate::kubevirt::types::decode(
                json!({"metadata": {"name": "web", "uid": "old"}, "status": {"phase": "Failed"}}),
            )
            .ok(),
        };
        for verb in [Verb::Restart, Verb::Start { paused: false }] {
            assert_eq!(judge(verb, Some("old"), &look), Progress::Waiting("Stopping".to_owned()), "{verb:?}");
            assert!(matches!(judge(verb, Some("older"), &look), Progress::Failed(_)), "{verb:?}");
        }
    }
}
