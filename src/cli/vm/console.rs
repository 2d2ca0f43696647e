//! `vmferry vm console`.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueHint};
use tokio::{
    signal::unix::{self, SignalKind},
    time::{Instant, sleep_until},
};
use vmferry::{Error, ErrorKind, kubevirt::Console};

use super::OneVm;
use crate::cli::{
    Failure,
    output::Output,
    signals::{self, Stop},
    terminal::{Input, RawTerminal},
    units::parse_duration,
};

/// Open the serial console of a VM that runs; ^] leaves it
#[derive(Args, Debug)]
pub(crate) struct ConsoleArgs {
    #[command(flatten)]
    vm: OneVm,

    /// Take what is typed from a pipe or file; the console stays open behind its end, until --timeout
    #[arg(long)]
    pipe: bool,

    /// End after this long [default: never]
    #[arg(id = "session-timeout", long = "timeout", value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,

    /// Write what the guest writes to this file too
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,

    /// Overwrite a file that is there
    #[arg(long, requires = "output")]
    force: bool,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The cluster ended it.
    Closed,
    /// Whoever typed or read has gone.
    Left,
    /// Its time is over.
    Over,
}

pub(super) async fn run(args: &ConsoleArgs, output: &Output) -> Result<(), Failure> {
    if !args.pipe && !io::stdin().is_terminal() {
        return Err(Error::usage("standard input is no terminal, so nobody could leave the console")
            .with_hint("--pipe takes what is typed from a pipe; --timeout ends the session")
            .into());
    }
    if let Some(path) = args.output.as_deref().filter(|path| !args.force && path.exists()) {
        return Err(exists(path).into());
    }
    let (vms, name) = args.vm.connect(output).await?;
    let console = signals::supervise(async move { vms.console(&name).await }, Stop::AtOnce, output).await?;
    let vm = console.vm().to_owned();
    let copy = args.output.as_deref().map(|path| open(path, args.force)).transpose()?;
    let is_raw = !args.pipe;
    if is_raw {
        output.note(&format!("connected to the console of VM {vm}; ^] leaves it, Enter shows where it is"));
    }
    // Outlives the session, however that ends.
    let terminal = if is_raw { Some(RawTerminal::enter()?) } else { None };
    let session = Session {
        console,
        input: Input::start()?,
        has_escape: is_raw,
        copy,
        until: args.timeout.map(|timeout| Instant::now() + timeout),
        output: output.clone(),
    };
    let ended = signals::supervise(session.run(), Stop::AtOnce, output).await;
    drop(terminal);
    match ended {
        Ok(end) => {
            let how = match end {
                End::Closed => "the cluster closed",
                End::Left => "left",
                End::Over => "its time is over: left",
            };
            output.note(&format!("{how} the console of VM {vm}"));
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

struct Session {
    console: Console,
    input: Input,
    /// Whether a key leaves it.
    has_escape: bool,
    copy: Option<(File, PathBuf)>,
    until: Option<Instant>,
    output: Output,
}

impl Session {
    async fn run(mut self) -> vmferry::Result<End> {
        let end = self.pass_on().await?;
        self.console.close().await;
        Ok(end)
    }

    /// Passes on what is typed and shown until one of them ends.
    async fn pass_on(&mut self) -> vmferry::Result<End> {
        let failed = |error| Error::failed("cannot listen for signals").with_source(error);
        // They would end the process, and leave the terminal raw.
        let mut hangup = unix::signal(SignalKind::hangup()).map_err(failed)?;
        let mut quit = unix::signal(SignalKind::quit()).map_err(failed)?;
        let mut is_typing = true;
        loop {
            tokio::select! {
                shown = self.console.read() => match shown? {
                    None => return Ok(End::Closed),
                    Some(bytes) => {
                        if !self.show(&bytes)? {
                            return Ok(End::Left);
                        }
                    }
                },
                typed = self.input.next(), if is_typing => match typed {
                    None if self.has_escape => return Ok(End::Left),
                    None => is_typing = false,
                    Some(keys) => {
                        let escape = keys.iter().position(|key| self.has_escape && *key == ESCAPE);
                        let keys = keys.get(..escape.unwrap_or(keys.len())).unwrap_or_default();
                        if !keys.is_empty() {
                            self.console.write(keys).await?;
                        }
                        if escape.is_some() {
                            return Ok(End::Left);
                        }
                    }
                },
                () = over(self.until) => return Ok(End::Over),
                _ = hangup.recv() => return Err(stopped("SIGHUP")),
                _ = quit.recv() => return Err(stopped("SIGQUIT")),
            }
        }
    }

    /// Shows what the guest wrote; `false` if nobody reads it any more.
    fn show(&mut self, bytes: &[u8]) -> vmferry::Result<bool> {
        if let Some((file, path)) = &mut self.copy {
            file.write_all(bytes).map_err(|error| Error::io("write", path.as_path(), error))?;
        }
        self.output.pass_on(bytes)
    }
}

async fn over(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn stopped(signal: &str) -> Error {
    Error::new(ErrorKind::Interrupted, format!("stopped by {signal}"))
}

fn open(path: &Path, force: bool) -> Result<(File, PathBuf), Error> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).create_new(!force).open(path);
    match opened {
        Ok(file) => Ok((file, path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(Error::io("create", path, error)),
    }
}

fn exists(path: &Path) -> Error {
    Error::refused(format!("{} exists", path.display())).with_hint("--force overwrites it")
}

/// `^]`, as telnet and virtctl have it.
const ESCAPE: u8 = 0x1d;
