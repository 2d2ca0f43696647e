//! Lists as commands print them, once or with a row for each change.

use std::{collections::BTreeMap, future::Future, time::Duration};

use clap::Args;
use tokio::time::sleep;

use super::{
    Failure,
    output::Output,
    signals::{self, Stop},
    table::{Cells, Table},
};

/// Whether a list goes on.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WatchArgs {
    /// Go on, with a row for each change
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// A row that may change.
pub(crate) trait Changing: Cells + Clone + PartialEq + Send {
    /// The row of what is there no more.
    #[must_use]
    fn gone(self) -> Self;
}

/// Prints the rows that `work` finds.
pub(crate) async fn print<R, W>(work: W, output: &Output) -> Result<(), Failure>
where
    R: Cells + Send + 'static,
    W: Future<Output = vmferry::Result<Vec<R>>> + Send + 'static,
{
    let rows = signals::supervise(work, Stop::AtOnce, output).await?;
    let mut table = Table::new(output);
    match table.page(&rows).and_then(|()| table.finish()) {
        // `vmferry volume list | head` has seen what it wanted.
        Err(_) if table.closed() => Ok(()),
        result => Ok(result?),
    }
}

/// Prints what `list` gives, and again what has changed in it, without an end.
///
/// The list is asked for again and again: what its rows are made of lies in objects of several kinds, which would all
/// have to be watched.
pub(crate) async fn follow<R, W>(
    list: impl Fn() -> W + Send + 'static,
    output: &Output,
) -> Result<(), Failure>
where
    R: Changing + 'static,
    W: Future<Output = vmferry::Result<Vec<R>>> + Send,
{
    let mut table = Table::endless(output);
    let work = async move {
        let mut before: BTreeMap<String, R> = BTreeMap::new();
        loop {
            let now = list().await?;
            match table.page(&changes(&mut before, now)) {
                Err(_) if table.closed() => return Ok(()),
                result => result?,
            }
            sleep(LOOK).await;
        }
    };
    signals::supervise(work, Stop::AtOnce, output).await
}

/// What is other than before, and what is there no more.
fn changes<R: Changing>(before: &mut BTreeMap<String, R>, now: Vec<R>) -> Vec<R> {
    let mut old = std::mem::take(before);
    let mut changed = Vec::new();
    for row in now {
        if old.remove(&row.name()).as_ref() != Some(&row) {
            changed.push(row.clone());
        }
        before.insert(row.name(), row);
    }
    changed.extend(old.into_values().map(Changing::gone));
    changed
}

/// Between two looks: not more than a cluster notices.
const LOOK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::cli::table::Column;

    #[derive(Clone, Debug, PartialEq, Serialize)]
    struct Sample(&'static str, u64);

    impl Cells for Sample {
        const COLUMNS: &'static [Column] = &[];

        fn cells(&self) -> Vec<String> {
            Vec::new()
        }

        fn name(&self) -> String {
            self.0.to_owned()
        }
    }

    impl Changing for Sample {
        fn gone(self) -> Self {
            Self(self.0, 0)
        }
    }

    #[test]
    fn only_what_has_changed_comes_again() {
        let mut before = BTreeMap::new();
        for (now, expected) in [
            (vec![Sample("b", 1), Sample("a", 1)], vec![Sample("b", 1), Sample("a", 1)]),
            (vec![Sample("b", 1), Sample("a", 1)], vec![]),
            (vec![Sample("b", 2), Sample("a", 1), Sample("c", 1)], vec![Sample("b", 2), Sample("c", 1)]),
            (vec![Sample("c", 1)], vec![Sample("a", 0), Sample("b", 0)]),
            (vec![Sample("a", 1), Sample("c", 1)], vec![Sample("a", 1)]),
        ] {
            assert_eq!(changes(&mut before, now), expected);
        }
    }
}
