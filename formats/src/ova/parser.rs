//! One header block of a tar archive; contract 4.2.

use std::fmt;

use crate::{Error, Result, num::to_usize};

/// Bytes of a block: headers are one, bodies are filled up to one.
pub(super) const BLOCK_LEN: u64 = 512;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// GNU tar before POSIX, `ustar` and two spaces.
    Gnu,
    /// The magic of ustar with a version of spaces, as ovftool writes it.
    Mixed,
    /// ustar with extended headers in front.
    Pax,
    /// POSIX.1-1988.
    Ustar,
}

impl Dialect {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gnu => "gnu",
            Self::Mixed => "mixed",
            Self::Pax => "pax",
            Self::Ustar => "ustar",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands behind a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file.
    File,
    /// Extended headers for all entries that follow.
    GlobalPax,
    /// The name of the next entry.
    LongName,
    /// Extended headers for the next entry.
    Pax,
}

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// As it stands in the header; not yet checked.
    pub(super) name: Vec<u8>,
    /// Bytes of the body.
    pub(super) len: u64,
    pub(super) dialect: Dialect,
}

impl Header {
    /// Parses a block that is not all zero, which stands at byte `at` of the archive.
    ///
    /// # Errors
    /// It is no header, or one of an entry that has no place in an OVA.
    pub(super) fn parse(block: &[u8], at: u64) -> Result<Self> {
        let field = |offset: usize, len: usize| block.get(offset..offset + len).unwrap_or_default();
        if block.len() != to_usize(BLOCK_LEN) {
            return Err(Error::truncated("a header of the archive is cut off").at(at));
        }
        let dialect = match field(257, 8) {
            b"ustar\x0000" => Dialect::Ustar,
            b"ustar  \0" => Dialect::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, b' ', b'\0' | b' '] => Dialect::Mixed,
            _ => return Err(Error::corrupt("no header of a tar archive where one must be").at(at)),
        };
        let named = octal(field(148, 8)).ok_or_else(|| {
            Error::corrupt("the checksum of a header of the archive is no number").at(at + 148)
        })?;
        let computed = checksum(block);
        if named != computed {
            return Err(Error::corrupt(format!(
                "a header of the archive has the checksum {computed}, and says {named}: it is damaged"
            ))
            .at(at));
        }
        let mut name = until_nul(field(0, 100)).to_vec();
        if dialect == Dialect::Ustar && field(345, 1) != [0] {
            name = [until_nul(field(345, 155)), b"/", &name[..]].concat();
        }
        let kind = kind(field(156, 1), &name, at)?;
        let len = number(field(124, 12)).ok_or_else(|| {
            Error::corrupt(format!("the size of the entry {:?} is no number", shown(&name))).at(at + 124)
        })?;
        Ok(Self { kind, name, len, dialect })
    }
}

/// What the type flag says.
fn kind(flag: &[u8], name: &[u8], at: u64) -> Result<Kind> {
    let refused = |what: &str| {
        Err(Error::refused(format!("the entry {:?} of the archive is {what}, not a file", shown(name)))
            .at(at + 156))
    };
    let unsupported = |what: &str| {
        Err(Error::unsupported(format!("the entry {:?} of the archive is {what}", shown(name))).at(at + 156))
    };
    match flag.first().copied().unwrap_or_default() {
        // What was a directory before there was a type for it.
        0 if name.ends_with(b"/") => refused("a directory"),
        b'0' | 0 => Ok(Kind::File),
        b'1' => refused("a hard link"),
        b'2' | b'K' => refused("a symbolic link"),
        b'3' | b'4' => refused("a device"),
        b'5' | b'D' => refused("a directory"),
        b'6' => refused("a pipe"),
        b'L' => Ok(Kind::LongName),
        b'x' => Ok(Kind::Pax),
        b'g' => Ok(Kind::GlobalPax),
        b'S' => unsupported("stored sparsely, which no importer of OVAs reads"),
        b'M' => unsupported("continued from another archive"),
        flag => unsupported(&format!("of the unknown type {:?}", char::from(flag))),
    }
}

/// The sum of the bytes of a header, with its checksum as spaces.
pub(super) fn checksum(block: &[u8]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    sum(block.get(..148).unwrap_or_default()) + 8 * 0x20 + sum(block.get(156..).unwrap_or_default())
}

/// A number in octal, or in base-256 where the first byte is 0x80: 11 bytes, big-endian.
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    // 0xff begins negative numbers, and anything else is larger than any file.
    let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
    if first != 0x80 || high.iter().any(|&byte| byte != 0) {
        return None;
    }
    Some(u64::from_be_bytes(low.try_into().ok()?))
}

/// A number in octal between spaces, ended by a NUL or a space.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = until_nul(field).trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The bytes in front of the first NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A name for people, shortened.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// What pax headers say of the next entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) name: Option<Vec<u8>>,
    pub(super) len: Option<u64>,
}

impl Pax {
    /// Parses the body of an extended header, which stands at byte `at` of the archive: records of
    /// `LENGTH KEY=VALUE` and a line break.
    ///
    /// # Errors
    /// A record is damaged, or makes the entry a sparse one.
    pub(super) fn parse(mut body: &[u8], at: u64) -> Result<Self> {
        let damaged = || Error::corrupt("an extended header of the archive is damaged").at(at);
        let mut pax = Self::default();
        while !body.is_empty() {
            let space = body.iter().take(MAX_LEN_DIGITS + 1).position(|&byte| byte == b' ');
            let len = space.and_then(|space| decimal(body.get(..space)?)).ok_or_else(damaged)?;
            let len = usize::try_from(len).map_err(|_| damaged())?;
            let record = body.get(..len).and_then(|record| record.strip_suffix(b"\n"));
            let text = record.zip(space).and_then(|(record, space)| record.get(space + 1..));
            let text = text.ok_or_else(damaged)?;
            let equals = text.iter().position(|&byte| byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (&text[..equals], &text[equals + 1..]);
            match key {
                b"path" => pax.name = Some(value.to_vec()),
                b"size" => pax.len = Some(decimal(value).ok_or_else(damaged)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Error::unsupported(
                        "an entry of the archive is stored sparsely, which no importer of OVAs reads",
                    )
                    .at(at));
                }
                _ => {}
            }
            body = &body[len..];
        }
        Ok(pax)
    }
}

/// A number of decimal digits and nothing else.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > MAX_LEN_DIGITS {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The largest u64 has so many decimal digits.
const MAX_LEN_DIGITS: usize = 20;

/// Characters of a name that are shown in an error.
const MAX_SHOWN: usize = 80;
