//! `vmferry man`: manual pages, one a command, from the same definition as the help.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Command, ValueHint};
use clap_mangen::Man;
use serde::Serialize;
use vmferry::Error;

use super::{
    Failure,
    output::{Output, Report},
    plugin,
};

const AFTER_HELP: &str = "\
Examples:
  vmferry man ~/.local/share/man/man1
  man vmferry-vm-start";

/// Write the manual pages, one a command, into a directory
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ManArgs {
    /// The directory, which is made if it is not there; pages of the same names are replaced
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,
}

pub(super) fn run(args: &ManArgs, output: &Output) -> Result<(), Failure> {
    let directory = &args.directory;
    fs::create_dir_all(directory).map_err(|error| Error::io("make the directory", directory, error))?;
    let mut files = Vec::new();
    for page in
        pages(plugin::binary()).map_err(|error| Error::failed("cannot make a page").with_source(error))?
    {
        let path = directory.join(&page.file);
        fs::write(&path, &page.text).map_err(|error| Error::io("write", &path, error))?;
        files.push(page.file);
    }
    Ok(output.report(&Written { directory, pages: files })?)
}

struct Page {
    file: String,
    text: Vec<u8>,
}

/// All pages, in the order of the commands. No date and nothing of this machine is in them.
fn pages(name: &str) -> io::Result<Vec<Page>> {
    // As the plugin it has another name in front of each command.
    let mut root = plugin::command().name(name.to_owned()).disable_help_subcommand(true);
    root.build();
    let (mut pages, mut left) = (Vec::new(), vec![(name.to_owned(), &root)]);
    while let Some((title, command)) = left.pop() {
        let below: Vec<&Command> =
            command.get_subcommands().filter(|command| !command.is_hide_set()).collect();
        let text = page(&title, command)?;
        left.extend(below.iter().rev().map(|below| (format!("{title}-{}", below.get_name()), *below)));
        pages.push(Page { file: format!("{title}.1"), text });
    }
    Ok(pages)
}

fn page(title: &str, command: &Command) -> io::Result<Vec<u8>> {
    let after = command.get_after_help().map(ToString::to_string);
    let man = Man::new(command.clone().display_name(title.to_owned()));
    // A date would make a page another one every day; the version comes with the program.
    let mut text =
        format!(".TH \"{}\" 1 \"\" \"{VERSION}\" \"vmferry\"\n", title.to_ascii_uppercase()).into_bytes();
    let mut body = Vec::new();
    man.render_name_section(&mut body)?;
    man.render_synopsis_section(&mut body)?;
    man.render_description_section(&mut body)?;
    man.render_options_section(&mut body)?;
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut body)?;
    }
    text.extend(tidy(&String::from_utf8_lossy(&body)).into_bytes());
    if let Some(after) = after {
        as_it_is(&after, &mut text)?;
    }
    Ok(text)
}

/// Each part of a page comes with the same two lines in front, and a break beside a blank line breaks
/// nothing, of which readers complain.
fn tidy(body: &str) -> String {
    let lines: Vec<&str> = body.lines().filter(|line| !PREAMBLE.contains(line)).map(str::trim_end).collect();
    let is_blank = |at: Option<usize>| at.and_then(|at| lines.get(at)).is_some_and(|line| line.is_empty());
    let mut text = PREAMBLE.join("\n");
    for (at, line) in lines.iter().enumerate() {
        if *line == ".br" && (is_blank(at.checked_sub(1)) || is_blank(at.checked_add(1))) {
            continue;
        }
        text.push('\n');
        text.push_str(if line.is_empty() { ".sp" } else { line });
    }
    text + "\n"
}

/// Examples and lists, line by line: filled into paragraphs they could not be read.
fn as_it_is(after: &str, text: &mut Vec<u8>) -> io::Result<()> {
    text.write_all(b".SH NOTES\n.nf\n")?;
    for line in after.lines() {
        // A dot or a quote at the beginning would be a request.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        writeln!(text, "{guard}{}", line.replace('\\', "\\e").replace('-', "\\-"))?;
    }
    text.write_all(b".fi\n")
}

/// What was written.
#[derive(Serialize)]
struct Written<'a> {
    directory: &'a Path,
    pages: Vec<String>,
}

impl Report for Written<'_> {
    const CONFIRMS: bool = true;

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} pages in {}", self.pages.len(), self.directory.display())
    }
}

/// An apostrophe that is one, for every reader.
const PREAMBLE: [&str; 2] = [r".ie \n(.g .ds Aq \(aq", ".el .ds Aq '"];

const VERSION: &str = concat!("vmferry ", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_a_page() {
        fn count(command: &Command) -> usize {
            1 + command.get_subcommands().filter(|below| !below.is_hide_set()).map(count).sum::<usize>()
        }
        let pages = pages("vmferry").unwrap();
        assert_eq!(pages.len(), count(&Cli::command()));
        let mut names: Vec<&str> = pages.iter().map(|page| page.file.as_str()).collect();
        assert!(names.contains(&"vmferry.1") && names.contains(&"vmferry-convert.1"), "{names:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), pages.len());
    }

    #[test]
    fn lines_stay_lines() {
        let mut text = Vec::new();
        as_it_is("Examples:\n  a \\ -b\n.SH x", &mut text).unwrap();
        assert_eq!(text, b".SH NOTES\n.nf\nExamples:\n  a \\e \\-b\n\\&.SH x\n.fi\n");
    }
}
