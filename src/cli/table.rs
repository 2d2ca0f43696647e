//! Tables whose columns align, though their rows come a page at a time.

use std::{io::Write, iter, marker::PhantomData, time::Duration};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use vmferry::Error;

use super::{
    args::OutputFormat,
    output::{Output, Plain, Row, Rows},
};

/// A row of an aligned table.
pub(crate) trait Cells: Serialize {
    /// The columns, in their order.
    const COLUMNS: &'static [Column];

    /// What stands in them, all of them.
    fn cells(&self) -> Vec<String>;

    /// What identifies the row.
    fn name(&self) -> String;
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    wide: bool,
    right: bool,
}

impl Column {
    /// Text.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, wide: false, right: false }
    }

    /// A number, which stands at the right.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { right: true, ..Self::text(title) }
    }

    /// The same, shown by `-o wide` only.
    pub(crate) const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// A table that is printed page by page. The first page decides the widths; what comes later and is wider
/// widens its column from there on.
pub(crate) struct Table<R> {
    rows: Rows<Box<dyn Write + Send>>,
    format: OutputFormat,
    widths: Option<Vec<usize>>,
    row: PhantomData<fn(R)>,
}

impl<R: Cells> Table<R> {
    /// Nothing is printed yet.
    pub(crate) fn new(output: &Output) -> Self {
        Self { rows: output.rows(), format: output.format(), widths: None, row: PhantomData }
    }

    /// The same, without an end: in JSON an object a line, in YAML documents.
    pub(crate) fn endless(output: &Output) -> Self {
        let table = Self::new(output);
        Self { rows: table.rows.endless(), ..table }
    }

    /// Prints rows, and hands them on at once.
    ///
    /// # Errors
    /// They cannot be written; see [`closed`](Self::closed).
    pub(crate) fn page(&mut self, page: &[R]) -> Result<(), Error> {
        match self.format {
            OutputFormat::Text | OutputFormat::Wide => self.lines(page)?,
            OutputFormat::Json | OutputFormat::Name | OutputFormat::Yaml => {
                for row in page {
                    self.rows.push(&Bare(row))?;
                }
            }
        }
        self.rows.flush()
    }

    /// Prints what stands behind the last row.
    ///
    /// # Errors
    /// As for [`page`](Self::page).
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        match self.format {
            OutputFormat::Text | OutputFormat::Wide => {
                if self.widths.is_none() {
                    self.lines(&[])?;
                }
                self.rows.flush()
            }
            _ => self.rows.finish::<Bare<'_, R>>(),
        }
    }

    /// Whether the reader went away, which is no failure.
    pub(crate) fn closed(&self) -> bool {
        self.rows.closed()
    }

    fn lines(&mut self, page: &[R]) -> Result<(), Error> {
        let wide = self.format == OutputFormat::Wide;
        let shown: Vec<(usize, &Column)> =
            R::COLUMNS.iter().enumerate().filter(|(_, column)| wide || !column.wide).collect();
        let mut lines: Vec<Vec<String>> = Vec::with_capacity(page.len() + 1);
        if self.widths.is_none() {
            lines.push(shown.iter().map(|(_, column)| column.title.to_owned()).collect());
        }
        for row in page {
            let cells = row.cells();
            let cell = |at: &usize| cells.get(*at).map_or_else(String::new, |cell| Plain(cell).to_string());
            lines.push(shown.iter().map(|(at, _)| cell(at)).collect());
        }
        let widths = self.widths.get_or_insert_with(|| vec![0; shown.len()]);
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &lines {
            let mut text = String::new();
            for ((cell, width), (_, column)) in line.iter().zip(&*widths).zip(&shown) {
                let gap: String = iter::repeat_n(' ', width - cell.chars().count()).collect();
                let (before, behind) = if column.right { (gap, String::new()) } else { (String::new(), gap) };
                text.push_str(&format!("{before}{cell}{behind}{GAP}"));
            }
            self.rows.line(text.trim_end())?;
        }
        Ok(())
    }
}

/// A row for programs.
struct Bare<'a, R>(&'a R);

impl<R: Serialize> Serialize for Bare<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<R: Cells> Row for Bare<'_, R> {
    fn header(_wide: bool) -> String {
        String::new()
    }

    fn columns(&self, _wide: bool) -> String {
        String::new()
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

/// How long ago a time was, in its two largest units at most: `42s`, `5m`, `3h12m`, `9d`.
pub(crate) fn age(time: Option<&str>) -> String {
    let since = |time: &str| {
        let time: Timestamp = time.parse().ok()?;
        Duration::try_from(Timestamp::now().duration_since(time)).ok()
    };
    time.and_then(since).map_or_else(unknown, |age| short(age.as_secs()))
}

fn short(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{minutes}m"),
        7200..86_400 => format!("{hours}h{}m", minutes % 60),
        86_400..864_000 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// What stands where nothing is known.
pub(crate) fn unknown() -> String {
    "-".to_owned()
}

/// Between two columns.
const GAP: &str = "  ";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[derive(Serialize)]
    struct Sample(&'static str, u64);

    impl Cells for Sample {
        const COLUMNS: &'static [Column] =
            &[Column::text("NAME"), Column::number("SIZE"), Column::text("MORE").wide(), Column::text("END")];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string(), "more".to_owned(), "x".to_owned()]
        }

        fn name(&self) -> String {
            self.0.to_owned()
        }
    }

    /// What a table of two pages looks like.
    fn shown(format: &str, pages: &[&[Sample]]) -> String {
        let cli = Cli::try_parse_from(["vmferry", "map", "x", "-o", format]).unwrap();
        let output = Output::new(&cli.global);
        let written = crate::cli::output::Shared::default();
        let mut table = Table::<Sample> {
            rows: Rows::to(output.format(), Box::new(written.clone())),
            format: output.format(),
            widths: None,
            row: PhantomData,
        };
        for page in pages {
            table.page(page).unwrap();
        }
        table.finish().unwrap();
        written.text()
    }

    #[test]
    fn columns_align_and_widen() {
        let pages: [&[Sample]; 2] =
            [&[Sample("a", 5), Sample("long-name", 12345)], &[Sample("longer-than-before", 1)]];
        assert_eq!(
            shown("text", &pages),
            "NAME        SIZE  END\n\
             a              5  x\n\
             long-name  12345  x\n\
             longer-than-before      1  x\n"
        );
        assert_eq!(shown("wide", &[&[Sample("a", 5)]]), "NAME  SIZE  MORE  END\na        5  more  x\n");
        assert_eq!(shown("text", &[]), "NAME  SIZE  END\n");
        assert_eq!(shown("name", &pages), "a\nlong-name\nlonger-than-before\n");
        assert_eq!(shown("json", &[&[Sample("a", 5)], &[]]), "[\n[\"a\",5]\n]\n");
        assert_eq!(shown("json", &[]), "[]\n");
    }

    #[test]
    fn ages_are_short() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (125, "2m"), (7200, "2h0m"), (100_000, "1d3h"), (9_000_000, "104d")]
        {
            assert_eq!(short(seconds), text);
        }
        assert_eq!(age(None), "-");
        assert_eq!(age(Some("soon")), "-");
    }
}
