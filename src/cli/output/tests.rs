use clap::Parser as _;
use serde_json::json;
use vmferry::ErrorKind;

use super::*;
use crate::cli::Cli;

/// What `rows` look like.
pub(crate) fn rendered<R: Row>(format: OutputFormat, rows: &[R]) -> String {
    let mut table = Rows::to(format, Vec::new());
    for row in rows {
        table.push(row).unwrap();
    }
    table.finish::<R>().unwrap();
    String::from_utf8(table.out.into_inner().unwrap()).unwrap()
}

/// What is written, to be looked at while somebody else writes.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Serialize)]
struct Sample {
    name: &'static str,
    size: u64,
}

impl Report for Sample {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "Name", self.name)
    }
}

impl Row for Sample {
    fn header(_wide: bool) -> String {
        "NAME".to_owned()
    }

    fn columns(&self, _wide: bool) -> String {
        self.name.to_owned()
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }
}

const SAMPLE: Sample = Sample { name: "a: b", size: 7 };

#[test]
fn reports_have_four_looks() {
    for (format, pretty, expected) in [
        (OutputFormat::Text, true, "Name:          a: b\n"),
        (OutputFormat::Json, true, "{\n  \"name\": \"a: b\",\n  \"size\": 7\n}\n"),
        (OutputFormat::Json, false, "{\"name\":\"a: b\",\"size\":7}\n"),
        (OutputFormat::Yaml, true, "name: \"a: b\"\nsize: 7\n"),
    ] {
        let mut out = Vec::new();
        render(&SAMPLE, format, pretty, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn errors_are_one_line_and_a_hint() {
    let inner = io::Error::other("connection reset");
    let middle = Error::failed("cannot read 4 MiB").with_source(inner);
    let error = Error::new(ErrorKind::Network, "cannot fetch https://x/y")
        .with_source(middle)
        .with_hint("run the same command again\nor use --retry-for");
    assert_eq!(
        error_text(&error),
        "vmferry: cannot fetch https://x/y: cannot read 4 MiB: connection reset\n  \
         hint: run the same command again\n  \
         hint: or use --retry-for"
    );
    let json: serde_json::Value = serde_json::from_str(&error_json(&error, 6)).unwrap();
    assert_eq!(
        json,
        json!({"error": {
            "kind": "network",
            "message": "cannot fetch https://x/y",
            "causes": ["cannot read 4 MiB", "connection reset"],
            "hint": "run the same command again\nor use --retry-for",
            "exit_code": 6,
        }})
    );
}

#[test]
fn an_error_without_cause_and_hint_is_one_line() {
    let error = Error::usage("wrong");
    assert_eq!(error_text(&error), "vmferry: wrong");
    let json: serde_json::Value = serde_json::from_str(&error_json(&error, 2)).unwrap();
    assert_eq!(
        json,
        json!({"error": {"kind": "usage", "message": "wrong", "causes": [], "hint": null, "exit_code": 2}})
    );
}

#[test]
fn a_repeated_cause_is_told_once() {
    let inner = io::Error::other("timed out");
    let error = Error::failed("a").with_source(Error::failed("request failed: timed out").with_source(inner));
    assert_eq!(error_text(&error), "vmferry: a: request failed: timed out");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    assert_eq!(Plain("a\u{1b}[2Jb\nc\u{7}").to_string(), "a\\u{1b}[2Jb\\nc\\u{7}");
    assert_eq!(Plain("größe\t").to_string(), "größe\\t");
    assert_eq!(Plain("").to_string(), "");
    assert_eq!(error_text(&Error::failed("\u{1b}]0;x")), "vmferry: \\u{1b}]0;x");
}

/// Accepts `left` bytes and then breaks.
struct Breaking {
    left: usize,
    error: io::ErrorKind,
}

impl Write for Breaking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(self.error.into());
        }
        let len = bytes.len().min(self.left);
        self.left -= len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_went_away_is_told_from_a_full_disk() {
    for (error, closed) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
        let mut table = Rows::to(OutputFormat::Json, Breaking { left: 100, error });
        let failed = (0..100_000).any(|_| table.push(&SAMPLE).is_err());
        assert!(failed);
        assert_eq!(table.closed(), closed);
        assert_eq!(written(Err(error.into())).is_ok(), closed);
    }
}

#[test]
fn nothing_is_printed_before_the_first_row() {
    let table = Rows::to(OutputFormat::Json, Vec::new());
    assert!(table.out.into_inner().unwrap().is_empty());
    assert_eq!(rendered::<Sample>(OutputFormat::Text, &[]), "NAME\n");
    assert_eq!(rendered::<Sample>(OutputFormat::Name, &[]), "");
}

#[test]
fn progress_is_chosen_by_flags() {
    // Tests have no terminal on standard error, or one that they must not depend on.
    for (flags, mode) in [
        ("--progress none", ProgressMode::None),
        ("--progress json", ProgressMode::Json),
        ("--progress json -q", ProgressMode::Json),
        ("--progress bar", ProgressMode::Bar),
        ("-q", ProgressMode::None),
    ] {
        let line = format!("vmferry inspect x {flags}");
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(Output::new(&cli.global).progress_mode(), mode, "{flags}");
    }
}

#[test]
fn clones_of_a_console_share_the_bar() {
    let console = Console::default();
    let clone = console.clone();
    console.set_bar(Some(ProgressBar::hidden()));
    assert!(clone.lock().is_some());
    clone.set_bar(None);
    assert!(console.lock().is_none());
}
