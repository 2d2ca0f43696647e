//! A descriptor with numbers that only the end of the disks tells; contract 4.10, steps 2 and 4.

use crate::{
    Error, Result,
    num::{to_u64, to_usize},
};

/// The text of a descriptor with markers where late numbers go.
///
/// A marker has exactly 20 bytes, as many as the largest number, and begins with a `<`, which escaped
/// XML cannot have where a number stands:
///
/// * `<vmferry-size-NNNNN>`: bytes of file `NNNNN` as stored;
/// * `<vmferry-used-NNNNN>`: bytes of disk `NNNNN` that are not zero.
///
/// `NNNNN` counts from `00000` in the order of the files. The text with its numbers is never longer than
/// with its markers, so its length is known before the first disk is read.
///
/// ```
/// use vmferry_formats::ova::{FileNumbers, Template};
///
/// let template = Template::new(r#"<File size="<vmferry-size-00000>"/>"#)?;
/// let text = template.render(&[FileNumbers { size: 7, used: 0 }])?;
/// assert_eq!(text.len() as u64, template.reserved_len());
/// assert!(text.starts_with(b"<File size=\"7\"/>\n "));
/// # Ok::<(), vmferry_formats::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// First byte in the text.
    at: usize,
    late: Late,
    file: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Size,
    Used,
}

/// What is known of a file once it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileNumbers {
    /// Bytes as stored.
    pub size: u64,
    /// Bytes of the disk that are not zero.
    pub used: u64,
}

impl Template {
    /// Finds the markers of `text`.
    ///
    /// # Errors
    /// It is longer than 1 MiB, or something in it begins like a marker and is none.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.len() > MAX_LEN {
            let len = text.len();
            return Err(Error::limit(format!("a descriptor has at most {MAX_LEN} bytes, not {len}")));
        }
        let mut marks = Vec::new();
        for (at, _) in text.match_indices(PREFIX) {
            let marker = text.as_bytes().get(at..at + MARKER_LEN);
            let (late, file) = marker.and_then(parse).ok_or_else(|| {
                Error::invalid_input(format!("byte {at} of the descriptor begins a marker that is none"))
            })?;
            marks.push(Mark { at, late, file });
        }
        Ok(Self { text, marks })
    }

    /// The text with its markers.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of the text with its numbers, padded.
    pub fn reserved_len(&self) -> u64 {
        to_u64(self.text.len())
    }

    /// How many files there must be at least.
    pub fn files(&self) -> usize {
        self.marks.iter().map(|mark| mark.file + 1).max().unwrap_or(0)
    }

    /// The text with the numbers of all files, padded behind its end with a line feed and spaces to the
    /// [`reserved_len`](Self::reserved_len).
    ///
    /// # Errors
    /// There are fewer files than the markers name.
    pub fn render(&self, files: &[FileNumbers]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.text.len());
        let mut copied = 0;
        for mark in &self.marks {
            let file = files.get(mark.file).ok_or_else(|| {
                let (named, there) = (mark.file, files.len());
                Error::invalid_input(format!("the descriptor names file {named}, and there are {there}"))
            })?;
            out.extend_from_slice(&self.text.as_bytes()[copied..mark.at]);
            let number = match mark.late {
                Late::Size => file.size,
                Late::Used => file.used,
            };
            out.extend_from_slice(number.to_string().as_bytes());
            copied = mark.at + MARKER_LEN;
        }
        out.extend_from_slice(&self.text.as_bytes()[copied..]);
        if out.len() < self.text.len() {
            out.push(b'\n');
            out.resize(self.text.len(), b' ');
        }
        Ok(out)
    }
}

fn parse(marker: &[u8]) -> Option<(Late, usize)> {
    let rest = marker.strip_prefix(PREFIX.as_bytes())?.strip_suffix(b">")?;
    let (late, digits) = match rest.strip_prefix(b"size-") {
        Some(digits) => (Late::Size, digits),
        None => (Late::Used, rest.strip_prefix(b"used-")?),
    };
    let number = digits.iter().try_fold(0, |number: u64, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    });
    Some((late, to_usize(number?)))
}

/// What every marker begins with.
const PREFIX: &str = "<vmferry-";

/// Bytes of a marker: as many as the digits of the largest number.
const MARKER_LEN: usize = 20;

/// Longest text in bytes.
const MAX_LEN: usize = 1 << 20;
