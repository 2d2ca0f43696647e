//! The only place that prints. Results go to standard output and nowhere else (to standard error
//! where standard output carries an image); logs, progress and errors go to standard error.

use std::{
    error::Error as _,
    fmt,
    io::{self, BufWriter, IsTerminal as _, Write},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use indicatif::ProgressBar;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use tracing_subscriber::fmt::MakeWriter;
use vmferry::{Error, TreeDigest};

use super::{
    Failure,
    args::{GlobalArgs, OutputFormat, ProgressMode},
    plugin::typed,
};

/// Name in front of what people read on standard error.
const NAME: &str = "vmferry";

/// Where results, notes and errors go and how they look.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: OutputFormat,
    progress: ProgressMode,
    quiet: bool,
    results: Stream,
    console: Console,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Stderr,
    Stdout,
}

/// A single result.
pub(crate) trait Report: Serialize {
    /// Whether the text only confirms what was done, so that `--quiet` leaves it out.
    const CONFIRMS: bool;

    /// For people, complete lines.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// One of many results.
pub(crate) trait Row: Serialize {
    /// Line of column titles.
    fn header(wide: bool) -> String;

    /// The columns, without a line break.
    fn columns(&self, wide: bool) -> String;

    /// What identifies the row.
    fn name(&self) -> String;
}

impl Output {
    /// As the user wants it.
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        Self {
            format: global.output_format,
            progress: global.progress,
            quiet: global.quiet,
            results: Stream::Stdout,
            console: Console::default(),
        }
    }

    /// The same, with results on standard error: standard output carries an image.
    pub(crate) fn results_on_stderr(&self) -> Self {
        Self { results: Stream::Stderr, ..self.clone() }
    }

    /// Standard error, shared with a progress bar.
    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// How progress is to be shown, `Auto` decided.
    pub(crate) fn progress_mode(&self) -> ProgressMode {
        let smart =
            || io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match self.progress {
            ProgressMode::Auto if !self.quiet && smart() => ProgressMode::Bar,
            ProgressMode::Auto => ProgressMode::None,
            mode => mode,
        }
    }

    /// How results look.
    #[cfg(feature = "kubevirt")]
    pub(crate) fn format(&self) -> OutputFormat {
        self.format
    }

    /// Whether standard error takes colours.
    pub(crate) fn colours(&self) -> bool {
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// Prints a result.
    ///
    /// # Errors
    /// It cannot be written; a reader that went away is no error.
    pub(crate) fn report<R: Report>(&self, report: &R) -> Result<(), Error> {
        if self.quiet && self.format == OutputFormat::Text && R::CONFIRMS {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let rendered = render(report, self.format, self.results == Stream::Stdout, &mut bytes);
        written(rendered.and_then(|()| self.write(&bytes)))
    }

    /// Prints bytes as they are.
    ///
    /// # Errors
    /// As for [`report`](Self::report).
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Error> {
        written(self.write(bytes))
    }

    /// Prints a piece of something that goes on; `false` if the reader went away.
    ///
    /// # Errors
    /// It cannot be written.
    #[cfg(feature = "kubevirt")]
    pub(crate) fn pass_on(&self, bytes: &[u8]) -> Result<bool, Error> {
        match self.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            result => written(result).map(|()| true),
        }
    }

    /// A table to which rows are added one by one.
    pub(crate) fn rows(&self) -> Rows<Box<dyn Write + Send>> {
        let out: Box<dyn Write + Send> = match self.results {
            Stream::Stderr => Box::new(self.console.clone()),
            Stream::Stdout => Box::new(io::stdout()),
        };
        Rows::to(self.format, out)
    }

    /// Tells people something that is not a result, unless `--quiet`. Where programs read, it is
    /// only logged.
    pub(crate) fn note(&self, text: &str) {
        tracing::info!("{text}");
        if !self.quiet && self.format != OutputFormat::Json {
            self.console.line(&format!("{NAME}: {}", Plain(text)));
        }
    }

    /// Asks something; the answer comes behind it on the same line.
    #[cfg(feature = "kubevirt")]
    pub(crate) fn question(&self, text: &str) {
        self.console.write(format!("{NAME}: {}", Plain(text)).as_bytes());
    }

    /// Tells what the operator should know. JSON and YAML results carry warnings themselves.
    pub(crate) fn warning(&self, text: &str) {
        if matches!(self.format, OutputFormat::Text | OutputFormat::Wide) {
            self.console.line(&format!("{NAME}: warning: {}", Plain(text)));
        }
    }

    /// Tells why a command failed and returns its exit code.
    pub(crate) fn failure(&self, failure: &Failure) -> ExitCode {
        let code = failure.exit_code();
        self.console.line(&match self.format {
            OutputFormat::Json => error_json(&failure.error, code),
            _ => error_text(&failure.error),
        });
        ExitCode::from(code)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self.results {
            Stream::Stderr => {
                self.console.write(bytes);
                Ok(())
            }
            Stream::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
        }
    }
}

/// Prints what clap says (help, version, a mistake) and returns the exit code for it.
pub(crate) fn clap_message(error: &clap::Error) -> ExitCode {
    // Help piped into a pager that has quit, a closed standard error: there is nobody to tell.
    let _ = error.print();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A pager that was quit is no failure; a full disk is.
fn written(result: io::Result<()>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failed("cannot write the result").with_source(error))
        }
        _ => Ok(()),
    }
}

fn render<R: Report>(report: &R, format: OutputFormat, pretty: bool, out: &mut Vec<u8>) -> io::Result<()> {
    match format {
        OutputFormat::Json if pretty => serde_json::to_writer_pretty(&mut *out, report)?,
        // Among log and progress lines an object is one line.
        OutputFormat::Json => serde_json::to_writer(&mut *out, report)?,
        OutputFormat::Yaml => return out.write_all(yaml(report)?.as_bytes()),
        OutputFormat::Name | OutputFormat::Text | OutputFormat::Wide => return report.text(out),
    }
    out.write_all(b"\n")
}

/// A value as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> io::Result<String> {
    serde_saphyr::to_string(value).map_err(io::Error::other)
}

/// Results printed as they come, so that a list of any length takes no memory.
///
/// Nothing is printed before the first row or [`finish`](Self::finish), so a command that fails to
/// start leaves standard output empty. One that fails halfway leaves a JSON array open on purpose:
/// it must not parse.
#[derive(Debug)]
pub(crate) struct Rows<W: Write> {
    format: OutputFormat,
    out: BufWriter<W>,
    begun: bool,
    closed: bool,
    endless: bool,
}

impl<W: Write> Rows<W> {
    /// Rows that go somewhere.
    pub(crate) fn to(format: OutputFormat, out: W) -> Self {
        let out = BufWriter::with_capacity(64 << 10, out);
        Self { format, out, begun: false, closed: false, endless: false }
    }

    /// The same for rows without an end: in JSON an object a line, in YAML a document each.
    #[cfg(feature = "kubevirt")]
    pub(crate) fn endless(self) -> Self {
        Self { endless: true, ..self }
    }

    /// Prints a line of a table that somebody else aligned.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    #[cfg(feature = "kubevirt")]
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Error> {
        let result = writeln!(self.out, "{text}");
        self.check(result)
    }

    /// Hands on what was printed so far.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    #[cfg(feature = "kubevirt")]
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        let result = self.out.flush();
        self.check(result)
    }

    /// Prints a row.
    ///
    /// # Errors
    /// It cannot be written. Where the reader went away ([`closed`](Self::closed)) the error only
    /// serves to stop whoever makes the rows.
    pub(crate) fn push<R: Row>(&mut self, row: &R) -> Result<(), Error> {
        let result = self.print(row);
        self.check(result)
    }

    /// Prints what stands behind the last row.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(crate) fn finish<R: Row>(&mut self) -> Result<(), Error> {
        let result = self.print_end::<R>().and_then(|()| self.out.flush());
        self.check(result)
    }

    /// Whether the reader went away.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    fn check(&mut self, result: io::Result<()>) -> Result<(), Error> {
        self.closed |= matches!(&result, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
        result.map_err(|error| Error::failed("cannot write the result").with_source(error))
    }

    fn print<R: Row>(&mut self, row: &R) -> io::Result<()> {
        let first = !std::mem::replace(&mut self.begun, true);
        let wide = self.format == OutputFormat::Wide;
        match self.format {
            OutputFormat::Json if self.endless => {
                serde_json::to_writer(&mut self.out, row)?;
                self.out.write_all(b"\n")
            }
            OutputFormat::Yaml if self.endless => {
                self.out.write_all(b"---\n")?;
                self.out.write_all(yaml(row)?.as_bytes())
            }
            OutputFormat::Json => {
                self.out.write_all(if first { b"[\n" } else { b",\n" })?;
                serde_json::to_writer(&mut self.out, row)?;
                Ok(())
            }
            OutputFormat::Name => writeln!(self.out, "{}", Plain(&row.name())),
            OutputFormat::Text | OutputFormat::Wide => {
                if first {
                    writeln!(self.out, "{}", R::header(wide))?;
                }
                writeln!(self.out, "{}", Plain(&row.columns(wide)))
            }
            OutputFormat::Yaml => self.out.write_all(yaml(&[row])?.as_bytes()),
        }
    }

    fn print_end<R: Row>(&mut self) -> io::Result<()> {
        match (self.format, self.begun) {
            _ if self.endless => Ok(()),
            (OutputFormat::Json, true) => self.out.write_all(b"\n]\n"),
            (OutputFormat::Json | OutputFormat::Yaml, false) => self.out.write_all(b"[]\n"),
            (OutputFormat::Text | OutputFormat::Wide, false) => {
                writeln!(self.out, "{}", R::header(self.format == OutputFormat::Wide))
            }
            _ => Ok(()),
        }
    }
}

/// Standard error, and the progress bar that may be drawn on it. Clones share the bar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console {
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Console {
    /// From now on `bar` makes way for lines; `None` = there is none any more.
    pub(crate) fn set_bar(&self, bar: Option<ProgressBar>) {
        *self.lock() = bar;
    }

    /// Writes a line.
    pub(crate) fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }

    /// Writes bytes in one go. If standard error is gone there is nobody to tell.
    fn write(&self, bytes: &[u8]) {
        // Not under the lock: drawing may wait for a slow terminal.
        let bar = self.lock().clone();
        let write = || {
            let _ = io::stderr().lock().write_all(bytes);
        };
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Console {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Text from an image, a server or a file name that must not steer the terminal.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.chars().next_back() {
                Some(last) if last.is_control() => {
                    f.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(f, "{}", last.escape_default())?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Name and value in two columns.
pub(crate) fn field(out: &mut dyn Write, name: &str, value: impl fmt::Display) -> io::Result<()> {
    writeln!(out, "{:<14} {}", format!("{name}:"), Plain(&value.to_string()))
}

/// The scheme and the hexadecimal digest: `tree-sha256:…`.
pub(crate) fn tree_digest(digest: &TreeDigest) -> String {
    format!("tree-{}:{}", digest.algorithm, digest.tree)
}

/// A digest as an object of algorithm and hexadecimal text.
pub(crate) struct DigestObject(pub(crate) TreeDigest);

impl Serialize for DigestObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Digest", 2)?;
        object.serialize_field("algorithm", self.0.algorithm.name())?;
        object.serialize_field("tree", &self.0.tree.to_string())?;
        object.end()
    }
}

/// `vmferry: message: cause: cause`, then the hint line by line.
fn error_text(error: &Error) -> String {
    let mut text = format!("{NAME}: {}", Plain(&error.to_string()));
    for cause in causes(error) {
        text.push_str(": ");
        text.push_str(&Plain(&cause).to_string());
    }
    for line in error.hint().unwrap_or_default().lines() {
        text.push_str("\n  hint: ");
        text.push_str(&Plain(&typed(line)).to_string());
    }
    text
}

fn error_json(error: &Error, exit_code: u8) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        error: Body<'a>,
    }

    #[derive(Serialize)]
    struct Body<'a> {
        kind: &'a str,
        message: String,
        causes: Vec<String>,
        hint: Option<String>,
        exit_code: u8,
    }

    let body = Body {
        kind: error.kind().name(),
        message: error.to_string(),
        causes: causes(error),
        hint: error.hint().map(typed),
        exit_code,
    };
    serde_json::to_string(&Object { error: body }).unwrap_or_else(|_| error_text(error))
}

/// What stands behind an error, outermost first. Some libraries repeat a cause in the message
/// above it; people need it once.
fn causes(error: &Error) -> Vec<String> {
    let mut above = error.to_string();
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !text.is_empty() && !above.ends_with(&text) {
            causes.push(text.clone());
        }
        above = text;
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use self::tests::{Shared, rendered};
