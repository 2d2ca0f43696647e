//! Texts that users give: in a file, or by standard input.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::Path,
};

use vmferry::Error;

/// The text in a file, or of standard input for `-`; `what` is what it is called: `job`. More than `max` bytes are
/// refused, and no more are read.
pub(super) fn read_text(path: &Path, what: &str, max: u64) -> Result<String, Error> {
    if is_standard(path) && io::stdin().is_terminal() {
        return Err(Error::usage(format!("standard input is a terminal, not a {what}"))
            .with_hint(format!("pipe a {what} into the command, or name a file")));
    }
    let failed = |error| Error::io(&format!("read the {what}"), path, error);
    let source: Box<dyn Read> = match is_standard(path) {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut text = String::new();
    source.take(max.saturating_add(1)).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > max) {
        return Err(Error::refused(format!("the {what} {} has more than {max} bytes", path.display())));
    }
    Ok(text)
}

/// Where a text was read, for people.
pub(super) fn place(path: &Path) -> String {
    if is_standard(path) { "standard input".to_owned() } else { path.display().to_string() }
}

fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}
