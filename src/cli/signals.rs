//! SIGINT and SIGTERM: the first asks the run to suspend in order, the second, or 30 seconds, ends
//! it at once.

use std::{
    future::{Future, poll_fn},
    io,
    task::Poll,
    time::Duration,
};

use tokio::{
    signal::unix::{self, SignalKind},
    task::{JoinError, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use vmferry::{Error, ErrorKind, Result};

use super::{Failure, output::Output};

/// Time that a run has to suspend in order.
const DEADLINE: Duration = Duration::from_secs(30);

/// A signal that ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a supervisor, a node that shuts down.
    Terminate,
}

impl Signal {
    /// 128 and the number of the signal, as shells report it.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// What the first signal does.
#[derive(Clone, Debug)]
pub(crate) enum Stop {
    /// Nothing is lost: the command ends.
    AtOnce,
    /// Cancels the token and waits for the run to suspend.
    Orderly(CancellationToken),
}

/// Runs `work` until it ends or signals end it.
///
/// # Errors
/// Those of `work`, and a panic in it; [`ErrorKind::Interrupted`] if it was left behind.
pub(crate) async fn supervise<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    stop: Stop,
    output: &Output,
) -> Result<T, Failure> {
    let mut signals =
        Listener::new().map_err(|error| Error::failed("cannot listen for signals").with_source(error))?;
    let announce = |text: String| output.note(&text);
    supervise_with(work, stop, DEADLINE, async || signals.next().await, announce).await
}

/// As [`supervise`], with the world handed in.
async fn supervise_with<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
    stop: Stop,
    deadline: Duration,
    mut next_signal: impl AsyncFnMut() -> Signal,
    announce: impl Fn(String),
) -> Result<T, Failure> {
    // A task of its own: whatever it does between two awaits, signals are heard. Dropping the set
    // aborts the task.
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    let signal = tokio::select! {
        result = tasks.join_next() => return ended(result, None),
        signal = next_signal() => signal,
    };
    match stop {
        Stop::AtOnce => return Err(left_behind(signal, format!("stopped by {}", signal.name()))),
        Stop::Orderly(token) => token.cancel(),
    }
    announce(format!("{}: suspending; once more to stop at once", signal.name()));
    tokio::select! {
        result = tasks.join_next() => ended(result, Some(signal)),
        second = next_signal() => {
            Err(left_behind(signal, format!("stopped at once by a second signal ({})", second.name())))
        }
        () = sleep(deadline) => {
            Err(left_behind(signal, format!("not suspended within {} s of {}", deadline.as_secs(), signal.name())))
        }
    }
}

fn ended<T>(result: Option<Result<Result<T>, JoinError>>, signal: Option<Signal>) -> Result<T, Failure> {
    let result = match result {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(bug(error)),
        None => Err(Error::failed("the run vanished")),
    };
    result.map_err(|error| Failure { error, signal })
}

/// The panic itself was told by the panic hook.
fn bug(error: JoinError) -> Error {
    Error::failed("the command failed by a bug of its own").with_source(error).with_hint(concat!(
        "please report it with the lines above: ",
        env!("CARGO_PKG_REPOSITORY"),
        "/issues"
    ))
}

fn left_behind(signal: Signal, message: String) -> Failure {
    Failure { error: Error::new(ErrorKind::Interrupted, message), signal: Some(signal) }
}

/// Hears the signals. From its creation on they no longer kill the process.
#[derive(Debug)]
struct Listener {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Listener {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            if self.interrupt.poll_recv(context).is_ready() {
                Poll::Ready(Signal::Interrupt)
            } else {
                self.terminate.poll_recv(context).map(|_| Signal::Terminate)
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Mutex};

    use tokio::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// Supervises `work` while `signals` arrive one after the other.
    async fn run(
        work: impl Future<Output = Result<u8>> + Send + 'static,
        stop: Stop,
        deadline: Duration,
        signals: &[Signal],
    ) -> (Result<u8, (ErrorKind, u8, String)>, Vec<String>) {
        let (sender, mut receiver) = mpsc::channel(4);
        for signal in signals {
            sender.try_send(*signal).unwrap();
        }
        let notes = Mutex::new(Vec::new());
        let next = async || receiver.recv().await.unwrap();
        let result =
            supervise_with(work, stop, deadline, next, |note| notes.lock().unwrap().push(note)).await;
        let result =
            result.map_err(|failure| (failure.error.kind(), failure.exit_code(), failure.error.to_string()));
        (result, notes.into_inner().unwrap())
    }

    async fn until_cancelled(token: CancellationToken) -> Result<u8> {
        token.cancelled().await;
        Err(Error::new(ErrorKind::Interrupted, "suspended"))
    }

    #[tokio::test]
    async fn without_signals_the_result_is_the_result() {
        let token = CancellationToken::new();
        let (result, notes) = run(async { Ok(7) }, Stop::Orderly(token.clone()), LONG, &[]).await;
        assert_eq!(result, Ok(7));
        assert!(notes.is_empty() && !token.is_cancelled());
        let (result, _) = run(async { Err(Error::refused("no")) }, Stop::AtOnce, LONG, &[]).await;
        assert_eq!(result, Err((ErrorKind::Refused, 5, "no".to_owned())));
    }

    #[tokio::test]
    async fn the_first_signal_suspends() {
        for (signal, code) in [(Signal::Interrupt, 130), (Signal::Terminate, 143)] {
            let token = CancellationToken::new();
            let work = until_cancelled(token.clone());
            let (result, notes) = run(work, Stop::Orderly(token), LONG, &[signal]).await;
            assert_eq!(result, Err((ErrorKind::Interrupted, code, "suspended".to_owned())));
            assert_eq!(notes.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_run_that_ends_anyway_keeps_its_result() {
        let token = CancellationToken::new();
        let cancelled = token.clone();
        let work = async move {
            cancelled.cancelled().await;
            Ok(7)
        };
        let (result, _) = run(work, Stop::Orderly(token), LONG, &[Signal::Interrupt]).await;
        assert_eq!(result, Ok(7));
        let token = CancellationToken::new();
        let cancelled = token.clone();
        let work = async move {
            cancelled.cancelled().await;
            Err(Error::failed("disk full"))
        };
        let (result, _) = run(work, Stop::Orderly(token), LONG, &[Signal::Terminate]).await;
        assert_eq!(result, Err((ErrorKind::Failed, 1, "disk full".to_owned())));
    }

    #[tokio::test]
    async fn a_second_signal_or_the_deadline_ends_it_at_once() {
        let signals = [Signal::Terminate, Signal::Interrupt];
        let stop = || Stop::Orderly(CancellationToken::new());
        let (result, _) = run(pending(), stop(), LONG, &signals).await;
        let message = "stopped at once by a second signal (SIGINT)".to_owned();
        assert_eq!(result, Err((ErrorKind::Interrupted, 143, message)));
        let (result, _) = run(pending(), stop(), Duration::ZERO, &signals[..1]).await;
        let message = "not suspended within 0 s of SIGTERM".to_owned();
        assert_eq!(result, Err((ErrorKind::Interrupted, 143, message)));
    }

    #[tokio::test]
    async fn commands_with_nothing_to_lose_end_with_the_first_signal() {
        let (result, notes) = run(pending(), Stop::AtOnce, LONG, &[Signal::Interrupt]).await;
        assert_eq!(result, Err((ErrorKind::Interrupted, 130, "stopped by SIGINT".to_owned())));
        assert!(notes.is_empty());
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_with_a_hint() {
        let (result, _) = run(async { panic!("of a test") }, Stop::AtOnce, LONG, &[]).await;
        let (kind, code, _) = result.unwrap_err();
        assert_eq!((kind, code), (ErrorKind::Failed, 1));
    }
}
