//! A terminal whose keys go elsewhere: raw for as long as that lasts, and what comes from standard input meanwhile.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use tokio::sync::mpsc;
use vmferry::Error;

/// The terminal of standard input hands every key on, `^C` included, and shows none of them. Dropping this puts it back
/// as it was.
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes it raw.
    ///
    /// # Errors
    /// There is none, or it cannot be.
    pub(crate) fn enter() -> Result<Self, Error> {
        let failed = |error: rustix::io::Errno| {
            Error::failed("the terminal cannot be made raw").with_source(io::Error::from(error))
        };
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "the terminal is not as it was: 'reset' puts it right");
        }
    }
}

/// What comes from standard input. A read cannot be given up, so a thread waits until there is something to read; what
/// is typed after this is dropped goes to whoever reads next.
pub(crate) struct Input {
    pieces: mpsc::Receiver<Vec<u8>>,
    is_over: Arc<AtomicBool>,
}

impl Input {
    /// Begins to read.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start() -> Result<Self, Error> {
        let (sender, pieces) = mpsc::channel(PIECES);
        let is_over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&is_over);
        thread::Builder::new()
            .name("vmferry-keys".to_owned())
            .spawn(move || read(&sender, &ended))
            .map_err(|error| Error::failed("cannot start a thread").with_source(error))?;
        Ok(Self { pieces, is_over })
    }

    /// What came next; `None` at its end. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.pieces.recv().await
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn read(sender: &mpsc::Sender<Vec<u8>>, is_over: &AtomicBool) {
    let (stdin, mut buffer) = (io::stdin(), [0; PIECE]);
    while !is_over.load(Ordering::Relaxed) {
        let mut waited = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut waited, Some(&LOOK)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return tracing::debug!(%error, "standard input cannot be waited for"),
        }
        match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if sender.blocking_send(buffer.get(..len).unwrap_or_default().to_vec()).is_err() {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return tracing::debug!(%error, "standard input cannot be read"),
        }
    }
}

/// Bytes read at once: more than anybody types or pastes into a line.
const PIECE: usize = 4096;

/// Pieces that wait for a guest that does not listen.
const PIECES: usize = 16;

/// How often the thread looks whether it is over: a tenth of a second.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
