//! The one error type of the engine, with the kinds that decide exit codes.

use std::{fmt, io, path::Path};

/// What failed, where, what it means and what to do next.
///
/// `Display` prints this level only; causes are `source`s. What the operator can do next is
/// [`hint`](Self::hint), printed on a line of its own.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of [`Error`], stable to match on; each has an exit code and a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The cluster refused: no such object, no right, a conflict, a feature that is off.
    Cluster,
    /// Anything without a kind of its own: I/O errors, corrupt images, full disks.
    Failed,
    /// A signal or the caller ended the run; it can be resumed.
    Interrupted,
    /// The network gave up after all retries; the run can be resumed.
    Network,
    /// Policy forbids it: output exists, in use, backing file, a layout that the sink cannot serve.
    Refused,
    /// The source changed, or is shorter or longer than announced.
    SourceChanged,
    /// What was waited for did not come in the time that was given.
    TimedOut,
    /// A parameter is wrong.
    Usage,
    /// Content or structure is not what it must be.
    Verification,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::Failed,
        Self::Interrupted,
        Self::Network,
        Self::Refused,
        Self::SourceChanged,
        Self::TimedOut,
        Self::Usage,
        Self::Verification,
    ];

    /// Exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Verification => 3,
            Self::SourceChanged => 4,
            Self::Refused => 5,
            Self::Interrupted | Self::Network => 6,
            Self::Cluster => 7,
            Self::TimedOut => 8,
        }
    }

    /// Stable name, as in JSON output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster-refused",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Network => "network",
            Self::Refused => "refused",
            Self::SourceChanged => "source-changed",
            Self::TimedOut => "timed-out",
            Self::Usage => "usage",
            Self::Verification => "verification-failed",
        }
    }
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a full stop, with the values that help.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Anything without a kind of its own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// Policy forbids it.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// A parameter is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// An I/O error: what was attempted, on which file.
    pub fn io(operation: &str, path: &Path, source: io::Error) -> Self {
        Self::failed(format!("cannot {operation} {}", path.display())).with_source(source)
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with what to do next: a sentence or a command.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with one more thing to do next, behind those it has.
    #[must_use]
    pub(crate) fn with_further_hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        self.hint = Some(match self.hint {
            Some(first) => format!("{first}\n{hint}"),
            None => hint,
        });
        self
    }

    /// The same error, saying where it was.
    #[must_use]
    pub(crate) fn prefixed(mut self, place: &str) -> Self {
        self.message.insert_str(0, place);
        self
    }

    /// The same error, as one of verification if the cause is that an image is damaged.
    #[must_use]
    pub(crate) fn damage_is_verification(mut self) -> Self {
        use vmferry_formats::ErrorKind as Format;
        let cause = self.source.as_deref().and_then(|cause| cause.downcast_ref::<vmferry_formats::Error>());
        if cause.is_some_and(|cause| matches!(cause.kind(), Format::Corrupt | Format::Truncated)) {
            self.kind = ErrorKind::Verification;
        }
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do next.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Puts what was attempted in front of an error of the formats crate.
pub(crate) trait FormatContext<T> {
    /// `what` is lower case and names the file: `cannot read x.qcow2`.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> FormatContext<T> for Result<T, vmferry_formats::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let kind = match error.kind() {
                vmferry_formats::ErrorKind::InvalidInput => ErrorKind::Usage,
                vmferry_formats::ErrorKind::Refused | vmferry_formats::ErrorKind::Limit => ErrorKind::Refused,
                _ => ErrorKind::Failed,
            };
            Error::new(kind, what()).with_source(error)
        })
    }
}

/// The first error of type `T` below `error`. An [`io::Error`] hides the one it wraps from
/// `source`, so that is looked into.
pub(crate) fn cause<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
