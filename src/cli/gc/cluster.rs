//! What exports that were never finished have left in a cluster.

use std::time::Duration;

use serde::Serialize;
use vmferry::{
    Error, ErrorKind,
    kubevirt::{Leftover, leftovers},
};

use super::{End, GcArgs, KEPT};
use crate::cli::{
    Failure,
    output::{Output, Row},
    signals::{self, Stop},
    units::Elapsed,
};

/// Looks in the cluster.
pub(super) async fn run(args: &GcArgs, output: &Output) -> Result<(), Failure> {
    let cluster = args.cluster.connect_briefly(None).await?;
    let (everywhere, older_than, run) =
        (args.all_namespaces, args.older_than.unwrap_or_default(), args.run.clone());
    let look = {
        let cluster = cluster.clone();
        async move { leftovers(&cluster, everywhere, older_than, run.as_deref()).await }
    };
    let found = signals::supervise(look, Stop::AtOnce, output).await?;
    for (kind, error) in &found.unlisted {
        output.note(&format!("what there is of kind {} cannot be listed: {error}", kind.name()));
    }
    let (objects, from, yes) = (found.objects, args.removed_from(), args.yes);
    let told = output.clone();
    let work = async move {
        let mut rows = told.rows();
        let (mut ends, mut removed): (Ends, Vec<&Leftover>) = (Ends::default(), Vec::new());
        for leftover in &objects {
            let is_old = from.is_zero() || leftover.age.is_some_and(|age| age >= from);
            let end = match yes && ends.unreachable.is_none() {
                false => End::Listed,
                true if !is_old => End::Kept,
                true => match leftover.remove(&cluster).await {
                    Ok(_) => End::Removed,
                    // The cluster does it.
                    Err(_) if removed.iter().any(|owner| leftover.goes_with(owner)) => End::Removed,
                    Err(error) => End::Failed(error),
                },
            };
            rows.push(&Object::new(leftover, &end))?;
            match end {
                End::Removed => removed.push(leftover),
                End::Listed => ends.listed += 1,
                End::Kept => ends.kept += 1,
                End::Failed(error) => {
                    ends.failed += 1;
                    if error.kind() == ErrorKind::Network {
                        ends.unreachable = Some(error);
                    }
                }
            }
        }
        rows.finish::<Object<'_>>()?;
        Ok(ends)
    };
    let ends = signals::supervise(work, Stop::AtOnce, output).await?;
    if let Some(error) = ends.unreachable {
        return Err(error.into());
    }
    if ends.listed > 0 {
        output.note("nothing was removed; --yes removes what is listed");
    }
    if ends.kept > 0 {
        output.note(KEPT);
    }
    if ends.failed > 0 {
        let failed = format!("{} of what is listed could not be removed", ends.failed);
        return Err(Error::new(ErrorKind::Cluster, failed)
            .with_hint("the rows say why; it needs the right to delete what is listed")
            .into());
    }
    Ok(())
}

/// How many objects ended how.
#[derive(Default)]
struct Ends {
    listed: usize,
    kept: usize,
    failed: usize,
    /// The cluster does not answer any more: the rest was not tried.
    unreachable: Option<Error>,
}

/// A row: an object.
#[derive(Serialize)]
struct Object<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    run: Option<&'a str>,
    age_seconds: Option<u64>,
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> Object<'a> {
    fn new(leftover: &'a Leftover, end: &End) -> Self {
        Self {
            kind: leftover.kind.name(),
            namespace: &leftover.namespace,
            name: &leftover.name,
            run: leftover.run.as_deref(),
            age_seconds: leftover.age.map(|age| age.as_secs()),
            removed: matches!(end, End::Removed),
            error: match end {
                End::Failed(error) => Some(error.to_string()),
                _ => None,
            },
        }
    }
}

impl Row for Object<'_> {
    fn header(wide: bool) -> String {
        let run = if wide { "  RUN" } else { "" };
        format!("{:<24} {:<20} {:<48} {:>7}  REMOVED{run}", "KIND", "NAMESPACE", "NAME", "AGE")
    }

    fn columns(&self, wide: bool) -> String {
        let age =
            self.age_seconds.map_or_else(String::new, |age| Elapsed(Duration::from_secs(age)).to_string());
        let removed = if self.removed { "yes" } else { "no" };
        let run = if wide { format!("  {}", self.run.unwrap_or_default()) } else { String::new() };
        let error = self.error.as_ref().map_or_else(String::new, |error| format!("  failed: {error}"));
        format!(
            "{:<24} {:<20} {:<48} {age:>7}  {removed:<7}{run}{error}",
            self.kind, self.namespace, self.name
        )
        .trim_end()
        .to_owned()
    }

    fn name(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}
