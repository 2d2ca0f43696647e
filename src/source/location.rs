//! What a location is: a path, standard input, a URL, an object.

use std::path::PathBuf;

use crate::error::{Error, Result};
#[cfg(feature = "cloud")]
use crate::object::ObjectLocation;

/// What a location is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An object of a store.
    #[cfg(feature = "cloud")]
    Object(ObjectLocation),
    /// A file or device of this machine, by path or by `file://` URL.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// `http://` or `https://`.
    Url,
}

impl Kind {
    /// What `location` is; nothing is looked at.
    ///
    /// # Errors
    /// It is a URL of a scheme that is not read, or one that names nothing.
    pub(crate) fn of(location: &str) -> Result<Self> {
        if location == "-" {
            return Ok(Self::Stdin);
        }
        let Some((scheme, _)) = location.split_once("://") else { return Ok(Self::Path(location.into())) };
        #[cfg(feature = "cloud")]
        if let Some(object) = ObjectLocation::parse(location)? {
            return Ok(Self::Object(object));
        }
        let is_scheme = !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => Ok(Self::Url),
            "file" => file_path(location).map(Self::Path),
            _ if is_scheme => {
                Err(Error::usage(format!("sources of scheme {scheme:?} are not supported"))
                    .with_hint(SUPPORTED))
            }
            _ => Ok(Self::Path(location.into())),
        }
    }
}

/// The path in a `file://` URL.
///
/// # Errors
/// It is that of another machine, or no URL.
fn file_path(location: &str) -> Result<PathBuf> {
    let url = url::Url::parse(location)
        .map_err(|error| Error::usage(format!("{location} is not a valid URL")).with_source(error))?;
    url.to_file_path().map_err(|()| {
        Error::usage(format!("{location} names no file of this machine"))
            .with_hint("write file:///PATH, with three slashes, or the path alone")
    })
}

#[cfg(feature = "cloud")]
const SUPPORTED: &str =
    "name a file, a block device, an http://, https://, s3://, gs:// or az:// URL, or '-' for stdin";
#[cfg(not(feature = "cloud"))]
const SUPPORTED: &str = "name a file, a block device, an http:// or https:// URL, or '-' for stdin; this vmferry was built without object \
     storage (feature 'cloud')";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn locations_are_told_apart() {
        for location in ["nbd+unix:///x", "a://b/../weird name", "ftp://host/disk", "file://host/disk"] {
            assert_eq!(Kind::of(location).unwrap_err().kind(), ErrorKind::Usage, "{location}");
        }
        for (location, path) in [
            ("disk.raw", "disk.raw"),
            ("dir with space://x", "dir with space://x"),
            ("file:///a/b%20c.raw", "/a/b c.raw"),
            ("FILE:///a", "/a"),
            ("file://localhost/a", "/a"),
        ] {
            assert_eq!(Kind::of(location).unwrap(), Kind::Path(path.into()));
        }
        assert_eq!(Kind::of("HTTPS://host/x").unwrap(), Kind::Url);
        assert_eq!(Kind::of("-").unwrap(), Kind::Stdin);
    }

    #[test]
    #[cfg(feature = "cloud")]
    fn objects_are_known() {
        for location in ["s3://b/k", "gs://b/k", "az://b/k"] {
            assert!(
                matches!(Kind::of(location).unwrap(), Kind::Object(object) if object.to_string() == location)
            );
        }
        assert_eq!(Kind::of("s3://b/../k").unwrap_err().kind(), ErrorKind::Usage);
    }
}
