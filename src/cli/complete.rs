//! `vmferry __complete`: what could stand where somebody types, asked by shells and by kubectl.
//!
//! The words of the line so far are its arguments, the last one being typed. It answers a candidate a
//! line, with a tab before what describes it, then `:` and a number that says whether files come into
//! question: the answer that kubectl takes from its plugins. With `--names` in front it answers names from
//! the cluster and nothing else, for scripts that know the rest.
//!
//! Nobody waits for a cluster that is slow, and nobody wants to read about one that is away: whatever goes
//! wrong, there are fewer candidates.

#[cfg(feature = "kubevirt")]
mod kind;

use std::ffi::OsString;

use clap::{Arg, Command, CommandFactory as _};

use super::{Cli, Failure, output::Output};

/// A line that is being typed.
#[derive(Debug)]
pub(crate) struct CompleteArgs {
    /// Only names from the cluster.
    names: bool,
    words: Vec<String>,
}

impl CompleteArgs {
    /// The line, if the arguments ask for candidates. Not by clap: its flags would be taken for ours.
    pub(super) fn of(arguments: &[OsString]) -> Option<Self> {
        let [_, command, words @ ..] = arguments else { return None };
        if command != "__complete" {
            return None;
        }
        let (names, words) = match words {
            [flag, words @ ..] if flag == "--names" => (true, words),
            words => (false, words),
        };
        Some(Self { names, words: words.iter().map(|word| word.to_string_lossy().into_owned()).collect() })
    }
}

/// Prints the candidates.
pub(super) async fn run(args: &CompleteArgs, output: &Output) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let line = Line::read(&command, &args.words);
    let mut answer = String::new();
    let named = names(&line).await;
    if let Some(names) = &named {
        names.iter().for_each(|name| answer.push_str(&format!("{}{name}\n", line.before)));
    }
    if !args.names {
        let directive = match named {
            Some(_) => NO_FILES,
            None => line.words(&mut answer),
        };
        answer.push_str(&format!(":{directive}\n"));
    }
    Ok(output.raw(answer.as_bytes())?)
}

/// The line, understood as far as it goes.
struct Line<'a> {
    /// The command that is being typed.
    command: &'a Command,
    /// Ids and values of the arguments so far.
    values: Vec<(&'a str, String)>,
    /// What is being typed: the value of an argument, a flag, or a word.
    asked: Asked<'a>,
    /// What has been typed of it.
    typed: String,
    /// What stands before it in the same word: `--namespace=`.
    before: String,
}

enum Asked<'a> {
    Flag,
    Value(&'a Arg),
    Word(Option<&'a Arg>),
}

impl<'a> Line<'a> {
    fn read(root: &'a Command, words: &[String]) -> Self {
        let (last, earlier) =
            words.split_last().map_or(("", [].as_slice()), |(last, rest)| (last.as_str(), rest));
        let mut line = Self {
            command: root,
            values: Vec::new(),
            asked: Asked::Word(None),
            typed: last.to_owned(),
            before: String::new(),
        };
        let (mut open, mut position, mut only_words) = (None, 1, false);
        for word in earlier {
            if let Some(arg) = open {
                // bash takes `--flag=value` apart.
                if word != "=" {
                    line.note(arg, word);
                    open = None;
                }
            } else if only_words || !word.starts_with('-') || word == "-" {
                if let Some(below) = line.command.find_subcommand(word).filter(|_| !only_words) {
                    line.command = below;
                } else {
                    if let Some(arg) = line.word(position) {
                        line.note(arg, word);
                    }
                    position += 1;
                }
            } else if word == "--" {
                only_words = true;
            } else {
                open = line.flag(word);
            }
        }
        if let Some(arg) = open {
            line.asked = Asked::Value(arg);
            if last == "=" {
                line.typed.clear();
            }
        } else if last.starts_with('-') && !only_words {
            line.asked = Asked::Flag;
            if let Some((flag, value)) = last.split_once('=')
                && let Some(arg) = line.long(flag)
            {
                line.asked = Asked::Value(arg);
                line.before = format!("{flag}=");
                value.clone_into(&mut line.typed);
            }
        } else {
            line.asked = Asked::Word(line.word(position));
        }
        line
    }

    /// Takes a flag; the argument whose value is the next word.
    fn flag(&mut self, word: &str) -> Option<&'a Arg> {
        if word.starts_with("--") {
            let (flag, value) =
                word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
            let arg = self.long(flag)?;
            return match value {
                Some(value) => {
                    self.note(arg, value);
                    None
                }
                None => Some(arg),
            };
        }
        // A cluster of short ones: what stands behind one with a value is its value.
        for (at, letter) in word.char_indices().skip(1) {
            let found = self.command.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
            if !found.get_action().takes_values() {
                continue;
            }
            let value = &word[at + letter.len_utf8()..];
            if value.is_empty() {
                return Some(found);
            }
            self.note(found, value.strip_prefix('=').unwrap_or(value));
            return None;
        }
        None
    }

    /// The argument with a value that a long flag is.
    fn long(&self, flag: &str) -> Option<&'a Arg> {
        let name = flag.strip_prefix("--")?;
        let mut arguments = self.command.get_arguments();
        arguments.find(|arg| arg.get_long() == Some(name) && arg.get_action().takes_values())
    }

    /// The argument that a word at this place is.
    fn word(&self, position: usize) -> Option<&'a Arg> {
        self.command.get_positionals().find(|arg| arg.get_index() == Some(position))
    }

    fn note(&mut self, arg: &'a Arg, value: &str) {
        self.values.push((arg.get_id().as_str(), value.to_owned()));
    }

    #[cfg(feature = "kubevirt")]
    fn value(&self, id: &str) -> Option<&str> {
        self.values.iter().rev().find(|(found, _)| *found == id).map(|(_, value)| value.as_str())
    }

    /// Writes what needs no cluster; whether files come into question.
    fn words(&self, answer: &mut String) -> u8 {
        let mut offer = |word: &str, about: Option<String>| {
            if word.starts_with(&self.typed) {
                let about = about.as_deref().and_then(|about| about.lines().next());
                let about = about.map_or_else(String::new, |about| format!("\t{about}"));
                answer.push_str(&format!("{}{word}{about}\n", self.before));
            }
        };
        match self.asked {
            Asked::Flag => {
                for arg in self.command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                    if let Some(long) = arg.get_long() {
                        offer(&format!("--{long}"), arg.get_help().map(ToString::to_string));
                    }
                }
                NO_FILES
            }
            Asked::Word(None) => {
                for below in self.command.get_subcommands().filter(|command| !command.is_hide_set()) {
                    offer(below.get_name(), below.get_about().map(ToString::to_string));
                }
                NO_FILES
            }
            Asked::Value(arg) | Asked::Word(Some(arg)) => {
                let values = arg.get_possible_values();
                for value in values.iter().filter(|value| !value.is_hide_set()) {
                    offer(value.get_name(), value.get_help().map(ToString::to_string));
                }
                if values.is_empty() { FILES } else { NO_FILES }
            }
        }
    }
}

/// What kubectl and its kin read as: files come into question, or not.
const FILES: u8 = 0;
const NO_FILES: u8 = 4;

#[cfg(not(feature = "kubevirt"))]
async fn names(_: &Line<'_>) -> Option<Vec<String>> {
    std::future::ready(None).await
}

/// Names from the cluster; `None` if none are asked for.
#[cfg(feature = "kubevirt")]
async fn names(line: &Line<'_>) -> Option<Vec<String>> {
    let (Asked::Value(arg) | Asked::Word(Some(arg))) = line.asked else { return None };
    let kind = kind::of(arg)?;
    let named = line.value("config").map(std::path::PathBuf::from);
    let settings = super::config::Settings::load(named.as_deref(), &Cli::command()).unwrap_or_default();
    let found = kind::ask(kind, line, &settings);
    Some(tokio::time::timeout(kind::PATIENCE, found).await.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked on a line of words parted by blanks; a line that ends with one begins a new word.
    fn asked(text: &str) -> (String, String, String, Vec<(String, String)>) {
        let mut command = Cli::command();
        command.build();
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let line = Line::read(&command, &words);
        let asked = match line.asked {
            Asked::Flag => "flag".to_owned(),
            Asked::Word(None) => format!("below {}", line.command.get_name()),
            Asked::Value(arg) | Asked::Word(Some(arg)) => arg.get_id().to_string(),
        };
        let values = line.values.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect();
        (asked, line.typed.clone(), line.before.clone(), values)
    }

    #[test]
    fn a_line_is_understood_as_far_as_it_goes() {
        for (text, expected, typed, before) in [
            ("", "below vmferry", "", ""),
            ("con", "below vmferry", "con", ""),
            ("-q convert a", "source", "a", ""),
            ("convert a ", "output", "", ""),
            ("convert --memory 1G a ", "output", "", ""),
            ("convert --mem", "flag", "--mem", ""),
            ("convert --compression ", "compression", "", ""),
            ("convert --compression = z", "compression", "z", ""),
            ("convert --compression =", "compression", "", ""),
            ("convert --compression=z", "compression", "z", "--compression="),
            ("convert -qf ", "source_format", "", ""),
            ("convert -fraw a ", "output", "", ""),
            ("convert -- -a ", "output", "", ""),
            ("convert a b c", "below convert", "c", ""),
            ("no-such command", "below vmferry", "command", ""),
        ] {
            let (asked, was_typed, was_before, _) = asked(text);
            assert_eq!(
                (asked.as_str(), was_typed.as_str(), was_before.as_str()),
                (expected, typed, before),
                "{text:?}"
            );
        }
        let (_, _, _, values) = asked("convert -f raw --memory=1G -- -a ");
        let expected = [("source_format", "raw"), ("memory", "1G"), ("source", "-a")];
        assert!(values.iter().map(|(id, value)| (id.as_str(), value.as_str())).eq(expected), "{values:?}");
    }

    #[test]
    fn only_the_first_word_asks() {
        let of = |words: &[&str]| CompleteArgs::of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(of(&["vmferry", "convert", "__complete"]).is_none() && of(&["vmferry"]).is_none());
        let asked = of(&["vmferry", "__complete", "--names", "vm", "-n", "-v"]).unwrap();
        assert!(asked.names && asked.words == ["vm", "-n", "-v"]);
        let asked = of(&["vmferry", "__complete", "-o"]).unwrap();
        assert!(!asked.names && asked.words == ["-o"]);
    }

    #[test]
    fn words_that_need_no_cluster_are_described() {
        let mut command = Cli::command();
        command.build();
        let answer = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            let mut answer = String::new();
            let files = Line::read(&command, &words).words(&mut answer);
            (answer, files)
        };
        let (found, files) = answer(&["digest", "--progress", ""]);
        assert_eq!((found.as_str(), files), ("auto\nbar\njson\nnone\n", NO_FILES));
        assert_eq!(answer(&["digest", ""]), (String::new(), FILES));
        assert!(answer(&["di"]).0.starts_with("digest\t"));
        assert!(answer(&["digest", "--mem"]).0.starts_with("--memory\t"));
        assert_eq!(answer(&["digest", "--progress=n"]).0, "--progress=none\n");
    }
}
