//! Manifests of appliances (`.mf`), and the first line of certificates; contract 4.3 and 4.4.

use std::fmt;

use crate::{Error, Result};

/// A hash function of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SumAlgorithm {
    /// MD5, in old appliances of VirtualBox.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl SumAlgorithm {
    /// As it stands in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }

    /// Bytes of a digest.
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The function of this name: `SHA256`, and `SHA2-256` as newer OpenSSL calls it.
    fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "MD5" => Some(Self::Md5),
            "SHA1" => Some(Self::Sha1),
            "SHA256" | "SHA2-256" => Some(Self::Sha256),
            "SHA512" | "SHA2-512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

impl fmt::Display for SumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A line of a manifest: `SHA256(disk.vmdk)= 0123…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The hash function.
    pub algorithm: SumAlgorithm,
    /// The file.
    pub name: String,
    /// What stands behind the name: a digest, or the signature in a certificate.
    pub value: Vec<u8>,
}

/// Parses a manifest. Blank lines, ends of line as on Windows and digits of either case are taken.
///
/// # Errors
/// A line is something else, names an unknown function, or has a digest of another length; two
/// lines name one file.
pub fn parse_sums(text: &[u8]) -> Result<Vec<Sum>> {
    let mut sums: Vec<Sum> = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let wrong = |what: &str| Error::corrupt(format!("line {} of the manifest {what}", index + 1));
        let sum = parse_sum(line).ok_or_else(|| wrong("is not of the form ALGORITHM(FILE)= HEX"))?;
        if sum.value.len() != sum.algorithm.len_bytes() {
            return Err(wrong(&format!(
                "has {} bytes of digest, and {} has {}",
                sum.value.len(),
                sum.algorithm,
                sum.algorithm.len_bytes()
            )));
        }
        sums.push(sum);
        if sums.len() > MAX_SUMS {
            return Err(Error::limit(format!("the manifest has more than {MAX_SUMS} lines")));
        }
    }
    let mut names: Vec<&str> = sums.iter().map(|sum| sum.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::corrupt(format!("the manifest names {:?} twice", pair[0]))),
        None => Ok(sums),
    }
}

/// Parses one line, without its end: a digest of a manifest, or the signature of a certificate.
pub fn parse_sum(line: &[u8]) -> Option<Sum> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let (algorithm, rest) = line.split_once('(')?;
    // A name may hold anything, so the last bracket counts.
    let (name, value) = rest.rsplit_once(')')?;
    let value = value.trim_start().strip_prefix('=')?.trim();
    let is_name = !name.is_empty() && !name.contains(char::is_control);
    let algorithm = SumAlgorithm::from_name(algorithm.trim()).filter(|_| is_name)?;
    Some(Sum { algorithm, name: name.to_owned(), value: unhex(value)? })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// More lines than an archive has entries.
const MAX_SUMS: usize = 4 * super::MAX_ENTRIES;
