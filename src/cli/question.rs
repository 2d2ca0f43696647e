//! Questions before something is deleted.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;
use vmferry::Error;

use super::output::Output;

/// Whether somebody is asked.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct YesArgs {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl YesArgs {
    /// Whether somebody is to be asked; a dry run changes nothing, and needs no question.
    ///
    /// # Errors
    /// Nobody is there to be asked.
    pub(crate) fn must_ask(self, dry_run: bool, what: &str) -> Result<bool, Error> {
        let ask = !self.yes && !dry_run;
        if ask && !io::stdin().is_terminal() {
            return Err(Error::usage(format!("nobody can be asked whether {what} is really to be deleted"))
                .with_hint("--yes deletes it without a question; --dry-run only looks"));
        }
        Ok(ask)
    }
}

/// Asks; fails unless the answer is yes.
///
/// # Errors
/// It is not.
pub(crate) async fn ask(output: &Output, question: &str, what: &str) -> Result<(), Error> {
    output.question(&format!("{question} [y/N] "));
    // On a thread of its own: a signal ends the command while nobody answers.
    let answered = tokio::task::spawn_blocking(is_yes).await;
    if matches!(answered, Ok(true)) { Ok(()) } else { Err(Error::refused(format!("{what} was not deleted"))) }
}

fn is_yes() -> bool {
    let mut line = String::new();
    let answered = io::stdin().lock().read_line(&mut line).is_ok();
    answered && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}
