//! The index of an archive: its headers, and those of its files that are text.

use std::{collections::HashSet, ops::Range};

use crate::{
    Error, Result,
    num::{round_up, to_u64, to_usize},
    ova::parser::{BLOCK_LEN, Dialect, Header, Kind, Pax, shown, until_nul},
    ovf::MAX_DESCRIPTOR_LEN,
    plan::{Need, Step},
    planning::{check_supply, opened},
    zero::is_zero,
};

/// Most entries of an archive. Appliances have a handful; one with a disk in pieces of 2 GiB has
/// some hundred.
pub const MAX_ENTRIES: usize = 1000;

/// Longest manifest and longest certificate, in bytes.
pub const MAX_SUMS_LEN: u64 = 1 << 20;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// All entries in the order of the archive.
    pub entries: Vec<Entry>,
    /// Index of the descriptor.
    pub descriptor: usize,
    /// The descriptor's bytes.
    pub descriptor_text: Vec<u8>,
    /// Index and bytes of the manifest (`.mf`).
    pub manifest: Option<(usize, Vec<u8>)>,
    /// Index and bytes of the certificate (`.cert`).
    pub certificate: Option<(usize, Vec<u8>)>,
    /// Where the zeros begin that end the archive, in bytes.
    pub end: u64,
}

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A bare file name, unique in the archive whatever the case of its letters.
    pub name: String,
    /// First byte of its first header.
    pub header: u64,
    /// Its bytes; they lie inside the archive.
    pub data: Range<u64>,
    /// How its header is written.
    pub dialect: Dialect,
}

impl Entry {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.data.end - self.data.start
    }
}

/// An archive on its way to being open: a state machine like those of the images.
///
/// ```
/// use vmferry_formats::{ova::ArchiveOpener, plan::{Need, Step}};
///
/// let mut opener = ArchiveOpener::new(10 << 20);
/// let Step::Need(need) = opener.step()? else { panic!("nothing is known yet") };
/// assert_eq!(need, Need { file: 0, offset: 0, len: 512 });
/// # Ok::<(), vmferry_formats::Error>(())
/// ```
#[derive(Debug)]
pub struct ArchiveOpener {
    len: u64,
    /// Where the next header or piece of text begins.
    at: u64,
    stage: Stage,
    pending: Option<Need>,
    /// What headers in front of the next entry say.
    ahead: Ahead,
    headers: usize,
    entries: Vec<Entry>,
    names: HashSet<String>,
    end: u64,
    texts: Vec<Text>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A header is next, or the end.
    Header,
    /// A second block of zeros is next, or nothing.
    End,
    /// The body of a header that stands in front of an entry.
    Extension { kind: Kind, end: u64 },
    /// The text of this number.
    Text(usize),
    /// The archive has been handed out, or an error.
    Done,
}

#[derive(Debug, Default)]
struct Ahead {
    /// Where the first of these headers stands.
    start: Option<u64>,
    name: Option<Vec<u8>>,
    pax: Option<Pax>,
}

/// A file that is read: one of three.
#[derive(Debug)]
struct Text {
    entry: usize,
    bytes: Vec<u8>,
}

impl ArchiveOpener {
    /// Starts to open an archive whose file has `len` bytes.
    pub fn new(len: u64) -> Self {
        Self {
            len,
            at: 0,
            stage: Stage::Header,
            pending: None,
            ahead: Ahead::default(),
            headers: 0,
            entries: Vec::new(),
            names: HashSet::new(),
            end: len,
            texts: Vec::new(),
        }
    }

    /// What is needed next, or the archive.
    ///
    /// # Errors
    /// It is corrupt, cut short, refused or unsupported; nothing but bytes of the archive was asked
    /// for until then.
    pub fn step(&mut self) -> Result<Step<Archive>> {
        let len = loop {
            match self.stage {
                Stage::Header if self.at >= self.len => {
                    return Err(Error::truncated(
                        "the archive is cut short: it has no end, which are two blocks of zeros",
                    )
                    .at(self.len));
                }
                // GNU tar takes an archive that ends with one of the two blocks, too.
                Stage::End if self.at >= self.len => self.find_texts()?,
                Stage::Header | Stage::End => break BLOCK_LEN,
                Stage::Extension { end, .. } => break end - self.at,
                Stage::Text(number) => match self.text_left(number) {
                    Some(0) => self.stage = Stage::Text(number + 1),
                    Some(left) => break left.min(PIECE_LEN),
                    None => return self.archive().map(Step::Ready),
                },
                Stage::Done => return Err(opened()),
            }
        };
        let need = self.need(len)?;
        self.pending = Some(need);
        Ok(Step::Need(need))
    }

    /// The bytes that the last [`Step::Need`] asked for; exactly `need.len` of them.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    pub fn supply(&mut self, need: Need, bytes: &[u8]) -> Result<()> {
        check_supply(self.pending.take(), need, bytes)?;
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Header if is_zero(bytes) => {
                if self.ahead.name.is_some() || self.ahead.pax.is_some() {
                    return Err(Error::corrupt("the archive ends behind the name of an entry").at(self.at));
                }
                self.end = self.at;
                self.at += BLOCK_LEN;
                self.stage = Stage::End;
            }
            Stage::Header => self.stage = self.header(bytes)?,
            Stage::End => {
                if !is_zero(bytes) {
                    return Err(
                        Error::corrupt("one block of zeros in the middle of the archive").at(self.end)
                    );
                }
                self.find_texts()?;
            }
            Stage::Extension { kind, end } => {
                self.extension(kind, bytes)?;
                self.at = padded(end)?.min(self.len);
                self.stage = Stage::Header;
            }
            Stage::Text(number) => {
                let text = self.texts.get_mut(number).ok_or_else(opened)?;
                text.bytes.extend_from_slice(bytes);
                self.stage = Stage::Text(number);
            }
            Stage::Done => return Err(opened()),
        }
        Ok(())
    }

    /// The next `len` bytes, if the archive has them.
    fn need(&self, len: u64) -> Result<Need> {
        if len > self.len - self.at {
            return Err(Error::truncated(format!(
                "the archive is cut short: it has {} bytes, and {len} are expected",
                self.len
            ))
            .at(self.at));
        }
        Ok(Need { file: 0, offset: self.at, len: to_usize(len) })
    }

    /// Takes a header that is not zero.
    fn header(&mut self, block: &[u8]) -> Result<Stage> {
        let at = self.at;
        self.headers += 1;
        if self.headers > MAX_HEADERS {
            return Err(Error::limit(format!("more than {MAX_HEADERS} headers in the archive")).at(at));
        }
        let header = Header::parse(block, at)?;
        let start = *self.ahead.start.get_or_insert(at);
        let pax_len = self.ahead.pax.as_ref().and_then(|pax| pax.len).filter(|_| header.kind == Kind::File);
        let len = pax_len.unwrap_or(header.len);
        let data = at + BLOCK_LEN;
        let Some(end) = data.checked_add(len).filter(|&end| end <= self.len) else {
            return Err(Error::truncated(format!(
                "the entry {:?} has {len} bytes, but the archive ends {} bytes behind its header: it is cut short, or \
                 the size is wrong",
                shown(&header.name),
                self.len.saturating_sub(data)
            ))
            .at(at));
        };
        if header.kind != Kind::File {
            let twice = match header.kind {
                Kind::LongName => self.ahead.name.is_some(),
                Kind::Pax => self.ahead.pax.is_some(),
                _ => false,
            };
            if twice {
                return Err(Error::corrupt("two extended headers for one entry").at(at));
            }
            if len == 0 || len > MAX_EXTENSION_LEN {
                return Err(Error::limit(format!(
                    "an extended header of {len} bytes; up to {MAX_EXTENSION_LEN} are read"
                ))
                .at(at));
            }
            self.at = data;
            return Ok(Stage::Extension { kind: header.kind, end });
        }
        let ahead = std::mem::take(&mut self.ahead);
        let dialect = if ahead.pax.is_some() { Dialect::Pax } else { header.dialect };
        let name = ahead.pax.and_then(|pax| pax.name).or(ahead.name).unwrap_or(header.name);
        let name = entry_name(&name).map_err(|error| error.at(at))?;
        if self.entries.len() >= MAX_ENTRIES {
            return Err(Error::limit(format!("more than {MAX_ENTRIES} entries in the archive")).at(at));
        }
        if !self.names.insert(name.to_lowercase()) {
            return Err(Error::refused(format!(
                "the archive has two entries {name:?}, if case does not count: which one is meant cannot be told"
            ))
            .at(at));
        }
        self.entries.push(Entry { name, header: start, data: data..end, dialect });
        // The last entry may lack what fills it up to a block only together with the end.
        self.at = padded(end)?.min(self.len);
        Ok(Stage::Header)
    }

    fn extension(&mut self, kind: Kind, body: &[u8]) -> Result<()> {
        match kind {
            Kind::LongName => self.ahead.name = Some(until_nul(body).to_vec()),
            Kind::Pax => self.ahead.pax = Some(Pax::parse(body, self.at)?),
            Kind::GlobalPax => {
                let pax = Pax::parse(body, self.at)?;
                if pax.name.is_some() || pax.len.is_some() {
                    return Err(Error::refused(
                        "an extended header gives one name or size to all entries of the archive",
                    )
                    .at(self.at));
                }
            }
            Kind::File => {}
        }
        Ok(())
    }

    /// All headers are known: which files are to be read?
    fn find_texts(&mut self) -> Result<()> {
        let descriptor = self.only("ovf", "descriptors")?.ok_or_else(|| {
            Error::unsupported(format!(
                "none of the {} entries of the archive is an OVF descriptor (.ovf): it is no OVA",
                self.entries.len()
            ))
        })?;
        let manifest = self.only("mf", "manifests")?;
        let certificate = self.only("cert", "certificates")?;
        let wanted =
            [(Some(descriptor), MAX_DESCRIPTOR_LEN), (manifest, MAX_SUMS_LEN), (certificate, MAX_SUMS_LEN)];
        for (entry, limit) in wanted {
            let Some(entry) = entry else { continue };
            let Entry { name, header, data, .. } = &self.entries[entry];
            let len = data.end - data.start;
            if len > limit {
                return Err(
                    Error::limit(format!("{name:?} has {len} bytes; up to {limit} are read")).at(*header)
                );
            }
            self.texts.push(Text { entry, bytes: Vec::new() });
        }
        self.stage = Stage::Text(0);
        Ok(())
    }

    /// The one entry with this extension, if there is one.
    fn only(&self, extension: &str, what: &str) -> Result<Option<usize>> {
        let found = self.entries.iter().enumerate();
        let mut found = found.filter(|(_, entry)| has_extension(&entry.name, extension));
        let first = found.next();
        if let (Some((_, first)), Some((_, second))) = (first, found.next()) {
            return Err(Error::refused(format!(
                "the archive has several {what}, {:?} and {:?} among them: which one counts cannot be told",
                first.name, second.name
            ))
            .at(second.header));
        }
        Ok(first.map(|(index, _)| index))
    }

    /// Bytes of the text of this number that are still to be read, which begin at `self.at` then;
    /// `None` where there is no such text.
    fn text_left(&mut self, number: usize) -> Option<u64> {
        let text = self.texts.get(number)?;
        let entry = self.entries.get(text.entry)?;
        let done = to_u64(text.bytes.len());
        self.at = entry.data.start + done;
        Some(entry.size() - done)
    }

    fn archive(&mut self) -> Result<Archive> {
        self.stage = Stage::Done;
        let mut texts = std::mem::take(&mut self.texts);
        let entries = std::mem::take(&mut self.entries);
        let mut take = |extension: &str| {
            let index = texts.iter().position(|text| {
                entries.get(text.entry).is_some_and(|entry| has_extension(&entry.name, extension))
            })?;
            let text = texts.swap_remove(index);
            Some((text.entry, text.bytes))
        };
        let (descriptor, descriptor_text) = take("ovf").ok_or_else(opened)?;
        let (manifest, certificate) = (take("mf"), take("cert"));
        Ok(Archive { descriptor, descriptor_text, manifest, certificate, end: self.end, entries })
    }
}

/// The end of a body with what fills it up to a block.
fn padded(end: u64) -> Result<u64> {
    round_up(end, BLOCK_LEN)
        .ok_or_else(|| Error::corrupt("an entry of the archive ends behind all bytes").at(end))
}

fn entry_name(name: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(name).map_err(|_| {
        Error::refused(format!("the name {:?} of an entry of the archive is not UTF-8", shown(name)))
    })?;
    // `tar -C directory .` names files so.
    let text = text.strip_prefix("./").unwrap_or(text);
    check_file_name(text)?;
    Ok(text.to_owned())
}

/// Whether `name` is a bare file name that stays in its directory.
fn check_file_name(name: &str) -> Result<()> {
    let refused =
        |what: &str| Err(Error::refused(format!("the file name {:?} {what}", shown(name.as_bytes()))));
    if name.is_empty() {
        return refused("is empty");
    }
    if name.len() > MAX_NAME_LEN {
        return refused(&format!("has {} bytes; up to {MAX_NAME_LEN} are taken", name.len()));
    }
    if name == "." || name == ".." || name.contains(['/', '\\']) {
        return refused("has a directory in it: files of an appliance lie beside each other");
    }
    if name.contains(char::is_control) {
        return refused("has control characters in it");
    }
    Ok(())
}

/// Whether a file name ends so, in any case.
fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

/// Longest name of an entry: that of a file on Linux.
const MAX_NAME_LEN: usize = 255;

/// Longest body of an extended header, in bytes.
const MAX_EXTENSION_LEN: u64 = 64 << 10;

/// Headers of all kinds: three in front of each entry.
const MAX_HEADERS: usize = 4 * MAX_ENTRIES;

/// Text is read in pieces of this many bytes.
const PIECE_LEN: u64 = 1 << 20;
const _: () = assert!(PIECE_LEN <= 2 << 20);

#[cfg(test)]
mod tests;
