//! Options of commands that take objects: `s3://`, `gs://`, `az://`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use vmferry::object::{Encryption, StoreOptions};

use super::args::HttpArgs;

/// How object stores are reached.
#[derive(Args, Debug)]
#[command(next_help_heading = "Object storage options")]
pub(crate) struct StoreArgs {
    /// URL of the store, without the bucket: for MinIO, Ceph, R2 and others [default: AWS_ENDPOINT_URL_S3,
    /// AZURE_STORAGE_ENDPOINT, or the provider's own]
    #[arg(long, value_name = "URL")]
    store_endpoint: Option<String>,

    /// Region of an S3 bucket [default: AWS_REGION, the profile's, or us-east-1]
    #[arg(long, value_name = "REGION")]
    store_region: Option<String>,

    /// Where the bucket stands in S3 URLs [default: path for an endpoint that is named, else host]
    #[arg(long, value_name = "WHERE", value_enum)]
    store_addressing: Option<AddressingArg>,

    /// Storage account of az:// URLs [default: AZURE_STORAGE_ACCOUNT_NAME]
    #[arg(long, value_name = "NAME")]
    store_account: Option<String>,

    /// Profile of the AWS configuration files [default: keys of the environment, then AWS_PROFILE]
    #[arg(long, value_name = "NAME")]
    store_profile: Option<String>,

    /// Ask without credentials, for what anybody may read
    #[arg(long, conflicts_with = "store_profile")]
    store_anonymous: bool,

    /// PEM file with the only CA certificates to trust for the store [default: the system's]
    #[arg(long, value_name = "FILE")]
    store_ca_file: Option<PathBuf>,

    /// Take an http:// endpoint: whoever is in between can read and change the disk
    #[arg(long)]
    store_allow_http: bool,
}

/// Where a bucket's name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AddressingArg {
    /// <https://bucket.host/key>
    Host,
    /// <https://host/bucket/key>
    Path,
}

impl StoreArgs {
    /// The same for the library; how patient it is, `http` says.
    pub(crate) fn options(&self, http: &HttpArgs) -> StoreOptions {
        let http = http.options();
        StoreOptions { stall_timeout: http.stall_timeout, retry_for: http.retry_for, ..self.base() }
    }

    /// The same, for commands that somebody waits for.
    pub(crate) fn briefly(&self) -> StoreOptions {
        StoreOptions { retry_for: BRIEFLY, ..self.base() }
    }

    fn base(&self) -> StoreOptions {
        StoreOptions {
            endpoint: self.store_endpoint.clone(),
            region: self.store_region.clone(),
            path_style: self.store_addressing.map(|addressing| addressing == AddressingArg::Path),
            account: self.store_account.clone(),
            profile: self.store_profile.clone(),
            anonymous: self.store_anonymous,
            ca_file: self.store_ca_file.clone(),
            allow_http: self.store_allow_http,
            ..StoreOptions::default()
        }
    }
}

/// What new objects are made with.
#[derive(Args, Debug)]
#[command(next_help_heading = "Object storage options")]
pub(crate) struct NewObjectArgs {
    /// How S3 is to encrypt new objects: AES256, aws:kms or aws:kms=KEY [default: as the bucket says]
    #[arg(long, value_name = "HOW")]
    sse: Option<Encryption>,

    /// Storage class of new objects, as the store spells it
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,

    /// Tag of new objects in S3; may be repeated
    #[arg(long = "object-tag", value_name = "NAME=VALUE", value_parser = parse_pair)]
    tags: Vec<(String, String)>,

    /// Metadata of new objects; may be repeated
    #[arg(long = "object-metadata", value_name = "NAME=VALUE", value_parser = parse_metadata)]
    metadata: Vec<(String, String)>,
}

impl NewObjectArgs {
    /// `options` with these in it.
    pub(crate) fn add_to(&self, options: StoreOptions) -> StoreOptions {
        StoreOptions {
            encryption: self.sse.clone(),
            storage_class: self.storage_class.clone(),
            tags: self.tags.clone(),
            metadata: self.metadata.clone(),
            ..options
        }
    }
}

/// Long enough for a store that is busy for a moment.
const BRIEFLY: Duration = Duration::from_secs(20);

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Metadata travels in headers, its names even as parts of their names.
fn parse_metadata(text: &str) -> Result<(String, String), String> {
    let (name, value) = parse_pair(text)?;
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        return Err("a name has letters, digits, '-' and '_' only".to_owned());
    }
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("a value has printable ASCII characters only".to_owned());
    }
    Ok((name.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_fit_into_headers() {
        assert_eq!(parse_pair("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(parse_metadata("Team=a b").unwrap(), ("team".to_owned(), "a b".to_owned()));
        for text in ["", "a", "=a"] {
            assert!(parse_pair(text).is_err(), "{text}");
        }
        for text in ["a b=c", "a=ü", "a=\n", "a:b=c"] {
            assert!(parse_metadata(text).is_err(), "{text}");
        }
    }
}
