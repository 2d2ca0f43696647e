//! Hashes of files, taken while their bytes pass in order; their state survives a restart.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, digest::common::hazmat::SerializableState as _};

use crate::error::{Error, Result};

/// Hash functions of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileHash {
    /// SHA-1, for readers that take nothing else.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl FileHash {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// The hash of `bytes`.
    pub fn of(self, bytes: &[u8]) -> FileDigest {
        let mut hash = self.start();
        hash.update(bytes);
        hash.finish()
    }

    /// A hash of no bytes yet.
    pub(crate) fn start(self) -> RunningHash {
        match self {
            Self::Sha1 => RunningHash::Sha1(Sha1::default()),
            Self::Sha256 => RunningHash::Sha256(Sha256::default()),
        }
    }

    /// A hash whose state a [`RunningHash::state`] told.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn restore(self, state: &str) -> Result<RunningHash> {
        let damaged = || {
            Error::failed("the journal is damaged: the state of the file's hash")
                .with_hint("start again with --restart")
        };
        let bytes = BASE64_STANDARD_NO_PAD.decode(state).map_err(|_| damaged())?;
        let bytes = bytes.as_slice();
        Ok(match self {
            Self::Sha1 => {
                let state = bytes.try_into().map_err(|_| damaged())?;
                RunningHash::Sha1(Sha1::deserialize(state).map_err(|_| damaged())?)
            }
            Self::Sha256 => {
                let state = bytes.try_into().map_err(|_| damaged())?;
                RunningHash::Sha256(Sha256::deserialize(state).map_err(|_| damaged())?)
            }
        })
    }
}

/// A hash on its way.
#[derive(Clone)]
pub(crate) enum RunningHash {
    Sha1(Sha1),
    Sha256(Sha256),
}

impl fmt::Debug for RunningHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunningHash").field(&self.kind()).finish()
    }
}

impl RunningHash {
    pub(crate) fn kind(&self) -> FileHash {
        match self {
            Self::Sha1(_) => FileHash::Sha1,
            Self::Sha256(_) => FileHash::Sha256,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn update_zeros(&mut self, mut len: u64) {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while len > 0 {
            let step = len.min(ZEROS.len() as u64);
            self.update(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())]);
            len -= step;
        }
    }

    /// What [`FileHash::restore`] takes, base64.
    pub(crate) fn state(&self) -> String {
        match self {
            Self::Sha1(hash) => BASE64_STANDARD_NO_PAD.encode(hash.serialize()),
            Self::Sha256(hash) => BASE64_STANDARD_NO_PAD.encode(hash.serialize()),
        }
    }

    pub(crate) fn finish(self) -> FileDigest {
        match self {
            Self::Sha1(hash) => FileDigest(hash.finalize().to_vec()),
            Self::Sha256(hash) => FileDigest(hash.finalize().to_vec()),
        }
    }
}

/// The hash of a file; shown as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileDigest(Vec<u8>);

impl FileDigest {
    /// Its bytes: 20 of SHA-1, 32 of SHA-256.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From hexadecimal digits.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>().map(Self)
    }
}

impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_goes_on_from_its_state_wherever_it_was_cut() {
        let bytes: Vec<u8> = (0..300_u32).map(|index| u8::try_from(index % 251).unwrap()).collect();
        for kind in [FileHash::Sha1, FileHash::Sha256] {
            let mut whole = kind.start();
            whole.update(&bytes);
            whole.update_zeros(70_000);
            let whole = whole.finish();
            for cut in [0, 1, 55, 63, 64, 65, 128, 299] {
                let mut first = kind.start();
                first.update(&bytes[..cut]);
                let mut second = kind.restore(&first.state()).unwrap();
                assert_eq!(second.kind(), kind);
                second.update(&bytes[cut..]);
                second.update(&[0; 70_000]);
                assert_eq!(second.finish(), whole, "{kind:?} cut at {cut}");
            }
            for damaged in ["", "AAAA", "!", &kind.start().state()[1..]] {
                assert!(kind.restore(damaged).is_err(), "{kind:?} {damaged:?}");
            }
        }
        assert_eq!(FileHash::Sha1.start().finish().to_string(), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        let digest = FileHash::Sha256.start().finish();
        assert_eq!(FileDigest::from_hex(&digest.to_string()), Some(digest.clone()));
        assert_eq!((FileDigest::from_hex("abc"), FileDigest::from_hex("zz")), (None, None));
    }
}
