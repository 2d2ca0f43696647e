//! How object stores are reached, and what objects are made with.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::Scheme;
use crate::error::Error;

/// How object stores are reached, and what objects are made with.
///
/// Credentials are not part of it: they come from the environment, from a profile, or from where the
/// machine or workload gets its identity.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// URL of the store, without the bucket; `None` = what the environment or profile says, or the
    /// provider's own.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket; `None` = what the environment or profile says, or `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket stands in the path of S3 URLs and not in the host's name; `None` = in the
    /// path of an endpoint that is named, in the name of Amazon's hosts.
    pub path_style: Option<bool>,
    /// Storage account of Azure; `None` = that of the environment.
    pub account: Option<String>,
    /// Profile of the AWS configuration files; `None` = what the environment says.
    pub profile: Option<String>,
    /// Ask without credentials: for what anybody may read.
    pub anonymous: bool,
    /// PEM file with the only CA certificates to trust; `None` = those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether an endpoint may be `http://`.
    pub allow_http: bool,
    /// A request whose answer makes no progress for this long is given up and tried again.
    pub stall_timeout: Duration,
    /// Give up when a request has not succeeded for this long.
    pub retry_for: Duration,
    /// Bytes of the largest part that is sent in one request; the time for a request grows with it.
    pub largest_part: u64,
    /// How the store is to encrypt new objects; `None` = as the bucket says.
    pub encryption: Option<Encryption>,
    /// Storage class of new objects, as the store spells it.
    pub storage_class: Option<String>,
    /// Tags of new objects (S3).
    pub tags: Vec<(String, String)>,
    /// Metadata of new objects.
    pub metadata: Vec<(String, String)>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: None,
            account: None,
            profile: None,
            anonymous: false,
            ca_file: None,
            allow_http: false,
            stall_timeout: Duration::from_secs(30),
            retry_for: Duration::from_secs(300),
            largest_part: 8 << 20,
            encryption: None,
            storage_class: None,
            tags: Vec::new(),
            metadata: Vec::new(),
        }
    }
}

impl StoreOptions {
    /// Refuses what new objects are to have and a store of this kind would not give them.
    ///
    /// # Errors
    /// There is such an option.
    pub(super) fn check_new(&self, scheme: Scheme) -> Result<(), Error> {
        let refused = match scheme {
            Scheme::S3 => None,
            _ if self.encryption.is_some() => Some("--sse"),
            _ if !self.tags.is_empty() => Some("--object-tag"),
            Scheme::Azure if self.storage_class.is_some() => Some("--storage-class"),
            Scheme::Azure | Scheme::Gcs => None,
        };
        let Some(option) = refused else { return Ok(()) };
        let message = format!("{option} has no effect on new objects in {}", scheme.title());
        Err(Error::usage(message)
            .with_hint(format!("leave it out, and set the {} up with the provider", scheme.place())))
    }
}

/// Encryption by an S3 store, under keys that it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// `AES256`: keys of S3.
    S3,
    /// `aws:kms`: a key of the key service, by id or ARN; `None` = the account's own for S3.
    Kms(Option<String>),
}

impl FromStr for Encryption {
    type Err = Error;

    /// `AES256`, `aws:kms` or `aws:kms=KEY`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once('=').map_or((text, None), |(name, key)| (name, Some(key))) {
            ("AES256", None) => Ok(Self::S3),
            ("aws:kms", None) => Ok(Self::Kms(None)),
            ("aws:kms", Some(key)) if !key.is_empty() => Ok(Self::Kms(Some(key.to_owned()))),
            _ => Err(Error::usage(format!("{text:?} is no encryption"))
                .with_hint("say AES256, aws:kms or aws:kms=KEY")),
        }
    }
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 => f.write_str("AES256"),
            Self::Kms(None) => f.write_str("aws:kms"),
            Self::Kms(Some(key)) => write!(f, "aws:kms={key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_would_leave_undone_is_refused() {
        let encrypted = StoreOptions { encryption: Some(Encryption::S3), ..StoreOptions::default() };
        let tagged = StoreOptions { tags: vec![("a".into(), "b".into())], ..StoreOptions::default() };
        let classed = StoreOptions { storage_class: Some("COLDLINE".into()), ..StoreOptions::default() };
        for (options, gcs) in
            [(&encrypted, false), (&tagged, false), (&classed, true), (&StoreOptions::default(), true)]
        {
            options.check_new(Scheme::S3).unwrap();
            assert_eq!(options.check_new(Scheme::Gcs).is_ok(), gcs, "{options:?}");
        }
        for options in [encrypted, tagged, classed] {
            let error = options.check_new(Scheme::Azure).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage, "{error}");
        }
    }

    #[test]
    fn encryption_is_read_as_it_is_written() {
        for text in ["AES256", "aws:kms", "aws:kms=arn:aws:kms:eu-west-1:1:key/2"] {
            assert_eq!(text.parse::<Encryption>().unwrap().to_string(), text);
        }
        for text in ["", "aes256", "aws:kms=", "AES256=key", "sse-c"] {
            assert!(text.parse::<Encryption>().is_err(), "{text}");
        }
    }
}
