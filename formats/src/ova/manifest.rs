//! The texts at the end of an OVA: manifest and certificate; contract 4.3 and 4.4.

use std::{fmt, str::FromStr};

use crate::{Error, Result, ova::check_name};

/// Hash function of a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ManifestHash {
    /// For vSphere before 6.5 and the readers that take nothing else.
    Sha1,
    /// What everybody reads today.
    #[default]
    Sha256,
}

impl ManifestHash {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Sha1, Self::Sha256];

    /// Lower-case name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// Bytes of a hash.
    pub const fn hash_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Name in a manifest.
    const fn label(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }
}

impl fmt::Display for ManifestHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ManifestHash {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|hash| hash.name() == name);
        found.ok_or_else(|| Error::invalid_input(format!("unknown hash {name:?} (sha1, sha256)")))
    }
}

/// The text of a manifest: `ALG(name)= hex`, a line for each of `files`, which is a name and the hash
/// of the file; the descriptor first.
///
/// # Errors
/// A name that cannot be written, or a hash of another length.
pub fn manifest<'a>(
    hash: ManifestHash,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<String> {
    let mut text = String::new();
    for (name, digest) in files {
        check_name(name)?;
        if digest.len() != hash.hash_len() {
            let len = digest.len();
            return Err(Error::invalid_input(format!("{name} has a {hash} of {len} bytes")));
        }
        text.push_str(&format!("{}({name})= {}\n", hash.label(), hex(digest)));
    }
    Ok(text)
}

/// The text of a certificate file: `signature` is that of the manifest called `manifest_name`, made
/// with SHA-256, and `pem` the certificate of its key.
///
/// # Errors
/// A name that cannot be written.
pub fn certificate(manifest_name: &str, signature: &[u8], pem: &str) -> Result<String> {
    check_name(manifest_name)?;
    let mut text = format!("SHA256({manifest_name})= {}\n{}", hex(signature), pem.trim());
    text.push('\n');
    Ok(text)
}

/// Lower-case hexadecimal digits: some readers compare them as text.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
