//! Names of objects: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`.

use std::fmt;

use object_store::path::Path;

use crate::error::{Error, Result};

/// The kinds of object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// Azure Blob.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// Amazon S3 and what speaks like it.
    S3,
}

impl Scheme {
    /// As it stands before `://`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Azure => "az",
            Self::Gcs => "gs",
            Self::S3 => "s3",
        }
    }

    /// What people call such a store.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Azure => "Azure Blob",
            Self::Gcs => "Google Cloud Storage",
            Self::S3 => "S3",
        }
    }

    /// What people call the place that objects lie in.
    pub(crate) const fn place(self) -> &'static str {
        match self {
            Self::Azure => "container",
            Self::Gcs | Self::S3 => "bucket",
        }
    }
}

/// An object, or all objects whose keys begin alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ObjectLocation {
    scheme: Scheme,
    bucket: String,
    key: String,
}

impl ObjectLocation {
    /// The object that `text` names, as it is written: nothing in a key is decoded. `None` if it is no
    /// URL of an object store.
    ///
    /// # Errors
    /// It is such a URL, but names nothing that can be there.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "az" | "azure" => Scheme::Azure,
            "gs" => Scheme::Gcs,
            "s3" => Scheme::S3,
            _ => return Ok(None),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        check_bucket(scheme, bucket)?;
        let location = Self { scheme, bucket: bucket.to_owned(), key: key.to_owned() };
        location.check_key()?;
        Ok(Some(location))
    }

    /// Which kind of store it is in.
    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, or the container of Azure.
    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key; empty where the whole bucket is meant.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The key as `object_store` has it: the same text.
    ///
    /// # Errors
    /// The whole bucket is meant, or what ends with `/`.
    pub(crate) fn path(&self) -> Result<Path> {
        if self.key.is_empty() || self.key.ends_with('/') {
            return Err(Error::usage(format!("{self} is no object: its name is missing"))
                .with_hint(format!("write {}://{}/KEY", self.scheme.name(), self.bucket)));
        }
        Path::parse(&self.key).map_err(|error| self.bad_key().with_source(error))
    }

    /// What the key has before its last part, with the `/`; empty if there is nothing.
    pub(crate) fn prefix(&self) -> &str {
        self.key.rfind('/').and_then(|slash| self.key.get(..=slash)).unwrap_or_default()
    }

    /// The object of `key` in the same bucket.
    pub(crate) fn with_key(&self, key: impl Into<String>) -> Self {
        Self { scheme: self.scheme, bucket: self.bucket.clone(), key: key.into() }
    }

    /// The object whose key has `suffix` behind this one's.
    pub(crate) fn child(&self, suffix: &str) -> Self {
        self.with_key(format!("{}{suffix}", self.key))
    }

    fn check_key(&self) -> Result<()> {
        let key = self.key.strip_suffix('/').unwrap_or(&self.key);
        let is_bad = self.key.len() > MAX_KEY_LEN
            || key.chars().any(char::is_control)
            || (!self.key.is_empty() && key.split('/').any(|part| matches!(part, "" | "." | "..")));
        if is_bad { Err(self.bad_key()) } else { Ok(()) }
    }

    fn bad_key(&self) -> Error {
        Error::usage(format!("{:?} is no key of an object", self.key)).with_hint(format!(
            "a key has at most {MAX_KEY_LEN} bytes, no control characters, and no part between slashes that is \
             empty, '.' or '..'"
        ))
    }
}

impl fmt::Display for ObjectLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.bucket, self.key)
    }
}

/// A bucket's name becomes part of a host's name. Stores are stricter, each in its own way.
fn check_bucket(scheme: Scheme, bucket: &str) -> Result<()> {
    let place = scheme.place();
    if bucket.contains(['@', ':', '?', '#']) {
        // Not repeated: it may be a password.
        return Err(Error::usage(format!(
            "a URL of {} begins with the name of a {place} and has no account, key or query in it",
            scheme.title()
        ))
        .with_hint(format!(
            "write {}://{}/KEY; credentials come from the environment",
            scheme.name(),
            place.to_uppercase()
        )));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._$".contains(&byte);
    if bucket.is_empty()
        || bucket.len() > MAX_BUCKET_LEN
        || !bucket.bytes().all(is_plain)
        || bucket.contains("..")
    {
        return Err(Error::usage(format!("{bucket:?} is no name of a {place}")).with_hint(format!(
            "write {}://{}/KEY",
            scheme.name(),
            place.to_uppercase()
        )));
    }
    Ok(())
}

/// UTF-8 bytes of a key, in S3 and Google Cloud Storage; Azure has as many characters.
const MAX_KEY_LEN: usize = 1024;

/// Google Cloud Storage has the longest names, those with dots.
const MAX_BUCKET_LEN: usize = 222;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ObjectLocation {
        ObjectLocation::parse(text).unwrap().unwrap()
    }

    #[test]
    fn urls_are_taken_as_they_are_written() {
        for (text, scheme, bucket, key, shown) in [
            ("s3://b/disk.qcow2", Scheme::S3, "b", "disk.qcow2", "s3://b/disk.qcow2"),
            (
                "S3://my.bucket/a/b%20c d?x#y",
                Scheme::S3,
                "my.bucket",
                "a/b%20c d?x#y",
                "s3://my.bucket/a/b%20c d?x#y",
            ),
            ("gs://bucket_1/ü/disk", Scheme::Gcs, "bucket_1", "ü/disk", "gs://bucket_1/ü/disk"),
            ("az://box/disk", Scheme::Azure, "box", "disk", "az://box/disk"),
            ("azure://$root/disk", Scheme::Azure, "$root", "disk", "az://$root/disk"),
            ("s3://bucket", Scheme::S3, "bucket", "", "s3://bucket/"),
            ("s3://bucket/vms/", Scheme::S3, "bucket", "vms/", "s3://bucket/vms/"),
        ] {
            let location = parse(text);
            assert_eq!(
                (location.scheme(), location.bucket(), location.key()),
                (scheme, bucket, key),
                "{text}"
            );
            assert_eq!(location.to_string(), shown);
            assert_eq!(parse(&location.to_string()), location);
        }
        for text in ["disk.raw", "file:///x", "https://s3.amazonaws.com/b/k", "-", "s3:/b/k", "x s3://b/k"] {
            assert_eq!(ObjectLocation::parse(text).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_there_is_refused() {
        for text in [
            "s3://",
            "s3:///key",
            "s3://b/a//b",
            "s3://b//a",
            "s3://b/../a",
            "s3://b/a/./b",
            "s3://b/a\nb",
            "s3://b..c/a",
            "s3://b c/a",
            "az://box/a/..",
        ] {
            assert!(ObjectLocation::parse(text).is_err(), "{text}");
        }
        assert!(ObjectLocation::parse(&format!("s3://b/{}", "k".repeat(1025))).is_err());
        for text in ["s3://key:secret@bucket/disk", "az://box@account/disk", "s3://bucket?token=secret/x"] {
            let error = ObjectLocation::parse(text).unwrap_err();
            assert!(!format!("{error} {}", error.hint().unwrap()).contains("secret"), "{error}");
        }
    }

    #[test]
    fn keys_have_neighbours() {
        let location = parse("s3://b/vms/db/disk.qcow2");
        assert_eq!(location.prefix(), "vms/db/");
        assert_eq!(location.child(".vmferry.jsonl").key(), "vms/db/disk.qcow2.vmferry.jsonl");
        assert_eq!(location.path().unwrap().as_ref(), "vms/db/disk.qcow2");
        let top = parse("s3://b/a%20b");
        assert_eq!((top.prefix(), top.path().unwrap().as_ref()), ("", "a%20b"));
        assert!(parse("s3://b").path().is_err() && parse("s3://b/a/").path().is_err());
    }
}
