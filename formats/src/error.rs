//! The one error type of this crate.

use std::fmt;

/// What went wrong with an image, a writer parameter or a codec.
///
/// `Display` prints this level only; the cause, if any, is the `source`.
#[derive(Debug, thiserror::Error)]
#[error("{message}{}", At(*.offset))]
pub struct Error {
    kind: ErrorKind,
    message: String,
    /// Byte offset in the image file, where one applies.
    offset: Option<u64>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`Error`], stable to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The image contradicts its specification or itself.
    Corrupt,
    /// A parameter is outside what the format can express.
    InvalidInput,
    /// The image or the parameters exceed a limit of the format or of the reader policy.
    Limit,
    /// Policy forbids it: a backing file, a data file, an external extent.
    Refused,
    /// The file ends before the data that its tables point at.
    Truncated,
    /// Valid, but a feature that this crate does not implement.
    Unsupported,
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a full stop, with the values that help.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), offset: None, source: None }
    }

    /// The image is corrupt.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A parameter is outside what the format can express.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// A limit of the format or of the reader policy is exceeded.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, message)
    }

    /// Policy forbids it.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// The file ends too early.
    pub fn truncated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Truncated, message)
    }

    /// A feature that is not implemented.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The same error, naming the byte offset in the image file.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Byte offset in the image file, where one applies.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " (at byte {offset:#x} of the image)"),
            None => Ok(()),
        }
    }
}
