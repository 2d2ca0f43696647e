//! A bucket, open: the clients of `object_store`, set up as the options say.

use std::{env, fmt, path::Path, sync::Arc, time::Duration};

use object_store::{
    Attribute, Attributes, BackoffConfig, Certificate, ClientOptions, ObjectStore, PutMultipartOptions,
    RetryConfig, StaticCredentialProvider, TagSet,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider, Checksum},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    multipart::MultipartStore,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use url::Url;

use super::{
    Access, Encryption, ObjectLocation, Scheme, StoreOptions,
    access::{Bounded, Credentials, check_header},
    profile::Profile,
};
use crate::error::{Error, Result};

/// A bucket, open.
#[derive(Clone)]
pub(crate) struct Store {
    /// Objects.
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Objects in the making.
    pub(crate) parts: Arc<dyn MultipartStore>,
    /// The same, whose requests are refused where there is an object already: for the last one of an upload.
    /// Azure's is made by hand.
    pub(crate) parts_of_new: Arc<dyn MultipartStore>,
    /// How requests are signed that `object_store` has none for.
    pub(crate) access: Arc<Access>,
    options: Arc<StoreOptions>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("access", &self.access)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Sets up the clients for the bucket of `location`; nothing is asked yet.
    ///
    /// # Errors
    /// The options or the environment contradict each other, or a file they name cannot be read.
    pub(crate) async fn open(location: &ObjectLocation, options: &StoreOptions) -> Result<Self> {
        crate::tls::install();
        options.check_new(location.scheme())?;
        let (location, options) = (location.clone(), options.clone());
        let open = tokio::task::spawn_blocking(move || {
            let (objects, parts, parts_of_new, access) = match location.scheme() {
                Scheme::Azure => open_azure(&location, &options)?,
                Scheme::Gcs => open_gcs(&location, &options)?,
                Scheme::S3 => open_s3(&location, &options)?,
            };
            Ok(Self { objects, parts, parts_of_new, access: Arc::new(access), options: Arc::new(options) })
        });
        open.await.map_err(|error| Error::failed("opening the store was given up").with_source(error))?
    }

    /// Which kind of store it is.
    pub(crate) fn scheme(&self) -> Scheme {
        self.access.scheme()
    }

    /// How the store is reached.
    pub(crate) fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// How long to wait for a part of `len` bytes, with what the client tries by itself. Its own limit for a
    /// request follows the longest part: hours, where a disk may become large.
    pub(crate) fn patience(&self, len: u64) -> Duration {
        let sending = Duration::from_secs(len / SLOWEST);
        self.options
            .stall_timeout
            .saturating_add(retries(&self.options).retry_timeout)
            .saturating_add(sending)
    }

    /// What a new object is made with: what the options say, and `metadata` beside.
    pub(crate) fn creation(&self, metadata: &[(&'static str, String)]) -> PutMultipartOptions {
        let mut attributes = Attributes::new();
        if let Some(class) = &self.options.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        for (name, value) in &self.options.metadata {
            attributes.insert(Attribute::Metadata(name.clone().into()), value.clone().into());
        }
        for (name, value) in metadata {
            attributes.insert(Attribute::Metadata((*name).into()), value.clone().into());
        }
        let mut tags = TagSet::default();
        for (name, value) in &self.options.tags {
            tags.push(name, value);
        }
        PutMultipartOptions { tags, attributes, ..PutMultipartOptions::default() }
    }
}

type Opened = (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>, Arc<dyn MultipartStore>, Access);

fn open_s3(location: &ObjectLocation, options: &StoreOptions) -> Result<Opened> {
    let environment = AmazonS3Builder::from_env();
    let given = |key| environment.get_config_value(&key);
    let profile = s3_profile(&environment, options)?;
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| given(AmazonS3ConfigKey::S3Endpoint))
        .or_else(|| variable("AWS_ENDPOINT_URL"))
        .or_else(|| given(AmazonS3ConfigKey::Endpoint))
        .or(profile.endpoint)
        .map(|endpoint| check_endpoint(&endpoint, options))
        .transpose()?;
    let region = options
        .region
        .clone()
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .or(profile.region)
        .unwrap_or_else(|| "us-east-1".to_owned());
    if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Err(Error::usage(format!("{region:?} is no name of a region")));
    }
    let bucket = location.bucket();
    // A certificate for *.s3.REGION.amazonaws.com does not cover a name with dots.
    let in_path = options.path_style.unwrap_or_else(|| endpoint.is_some() || bucket.contains('.'));
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let (bucket_url, base) = if in_path {
        (format!("{endpoint}/{bucket}"), endpoint)
    } else {
        let url = endpoint.replacen("://", &format!("://{bucket}."), 1);
        (url.clone(), url)
    };
    let is_encrypted = base.starts_with("https://");
    let mut builder = environment
        .clone()
        .with_client_options(client_options(options)?)
        .with_retry(retries(options))
        .with_bucket_name(bucket)
        .with_region(&region)
        .with_config(AmazonS3ConfigKey::S3Endpoint, base)
        .with_virtual_hosted_style_request(!in_path)
        // TLS sees to it that bytes arrive as they were sent. Without it the signature has to.
        .with_unsigned_payload(is_encrypted)
        .with_skip_signature(options.anonymous);
    if is_encrypted && wants_checksums(variable("AWS_REQUEST_CHECKSUM_CALCULATION").as_deref()) {
        // What the store keeps is what was sent: checked by the store, kept with the object.
        builder = builder.with_checksum_algorithm(Checksum::CRC64NVME);
    }
    for (name, value) in encryption(options.encryption.as_ref()) {
        let key = name.parse().map_err(|error| not_set_up(location, error))?;
        builder = builder.with_config(key, value);
    }
    if let Some((key_id, secret_key, token)) = profile.keys {
        let secret_key = secret_key.reveal().to_owned();
        let token = token.map(|token| token.reveal().to_owned());
        for text in [Some(&key_id), token.as_ref()].into_iter().flatten() {
            check_header(text)?;
        }
        let keys = AwsCredential { key_id, secret_key, token };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(keys)));
    } else {
        for key in [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::Token] {
            environment.get_config_value(&key).as_deref().map_or(Ok(()), check_header)?;
        }
    }
    let first = builder.clone().build().map_err(|error| not_set_up(location, error))?;
    let provider: AwsCredentialProvider = Arc::new(Bounded::new(Arc::clone(first.credentials())));
    let builder = builder.with_credentials(Arc::clone(&provider));
    let of_new = builder
        .clone()
        .with_client_options(only_new(client_options(options)?, Scheme::S3))
        .with_retry(few(options));
    let of_new = Arc::new(of_new.build().map_err(|error| not_set_up(location, error))?);
    let store = Arc::new(builder.build().map_err(|error| not_set_up(location, error))?);
    let credentials = if options.anonymous {
        Credentials::Anonymous(Scheme::S3)
    } else {
        Credentials::Aws { provider, region }
    };
    Ok((Arc::clone(&store) as _, store, of_new, Access::new(bucket_url, credentials)))
}

/// Whether parts go with a checksum that nobody insists on. Stores that know none, and refuse them, are used
/// with the setting that turns them off in the provider's own tools.
fn wants_checksums(setting: Option<&str>) -> bool {
    !setting.is_some_and(|setting| setting.eq_ignore_ascii_case("when_required"))
}

/// Encryption as the client's settings have it.
fn encryption(encryption: Option<&Encryption>) -> Vec<(&'static str, String)> {
    const HOW: &str = "aws_server_side_encryption";
    match encryption {
        None => Vec::new(),
        Some(Encryption::S3) => vec![(HOW, "AES256".to_owned())],
        Some(Encryption::Kms(None)) => vec![(HOW, "aws:kms".to_owned())],
        Some(Encryption::Kms(Some(key))) => {
            vec![(HOW, "aws:kms".to_owned()), ("aws_sse_kms_key_id", key.clone())]
        }
    }
}

/// The profile that counts. Keys of the environment go over a profile that nobody named with an
/// option, as in the provider's own tools; region and endpoint of that profile hold all the same.
fn s3_profile(environment: &AmazonS3Builder, options: &StoreOptions) -> Result<Profile> {
    if options.anonymous && options.profile.is_none() {
        return Ok(Profile::default());
    }
    let has = |key| environment.get_config_value(&key).is_some();
    let by_environment = has(AmazonS3ConfigKey::AccessKeyId)
        || (has(AmazonS3ConfigKey::WebIdentityTokenFile) && has(AmazonS3ConfigKey::RoleArn))
        || has(AmazonS3ConfigKey::ContainerCredentialsRelativeUri)
        || has(AmazonS3ConfigKey::ContainerCredentialsFullUri);
    if options.profile.is_none() && by_environment {
        // A profile that cannot be used does not matter to one who has keys.
        let profile = Profile::read(None).unwrap_or_default();
        return Ok(Profile { keys: None, ..profile });
    }
    Profile::read(options.profile.as_deref())
}

fn open_azure(location: &ObjectLocation, options: &StoreOptions) -> Result<Opened> {
    let environment = MicrosoftAzureBuilder::from_env();
    let given = |key| environment.get_config_value(&key);
    let account = options
        .account
        .clone()
        .or_else(|| given(AzureConfigKey::AccountName))
        .or_else(|| variable("AZURE_STORAGE_ACCOUNT"))
        .ok_or_else(|| {
            Error::usage(format!("{location} does not say in which storage account it is")).with_hint(
                "name it with --store-account, or in AZURE_STORAGE_ACCOUNT_NAME; a connection string is not read",
            )
        })?;
    if account.is_empty() || !account.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Error::usage(format!("{account:?} is no name of a storage account")));
    }
    let endpoint = match options.endpoint.clone().or_else(|| given(AzureConfigKey::Endpoint)) {
        Some(endpoint) => check_endpoint(&endpoint, options)?,
        None => format!("https://{account}.blob.core.windows.net"),
    };
    if let Some(token) = given(AzureConfigKey::Token) {
        check_header(&token)?;
    }
    let store = environment
        .with_client_options(client_options(options)?)
        .with_retry(retries(options))
        .with_account(&account)
        .with_container_name(location.bucket())
        .with_use_emulator(false)
        .with_endpoint(endpoint.clone())
        .with_skip_signature(options.anonymous);
    let first = store.clone().build().map_err(|error| not_set_up(location, error))?;
    let provider: object_store::azure::AzureCredentialProvider =
        Arc::new(Bounded::new(Arc::clone(first.credentials())));
    let store = Arc::new(
        store.with_credentials(Arc::clone(&provider)).build().map_err(|error| not_set_up(location, error))?,
    );
    let credentials = if options.anonymous {
        Credentials::Anonymous(Scheme::Azure)
    } else {
        Credentials::Azure { provider, account }
    };
    let access = Access::new(format!("{endpoint}/{}", location.bucket()), credentials);
    Ok((Arc::clone(&store) as _, Arc::clone(&store) as _, store, access))
}

fn open_gcs(location: &ObjectLocation, options: &StoreOptions) -> Result<Opened> {
    let environment = GoogleCloudStorageBuilder::from_env();
    let endpoint =
        match options.endpoint.clone().or_else(|| environment.get_config_value(&GoogleConfigKey::BaseUrl)) {
            Some(endpoint) => check_endpoint(&endpoint, options)?,
            None => "https://storage.googleapis.com".to_owned(),
        };
    let store = environment
        .with_client_options(client_options(options)?)
        .with_retry(retries(options))
        .with_bucket_name(location.bucket())
        .with_base_url(&endpoint)
        .with_skip_signature(options.anonymous);
    let first = store.clone().build().map_err(|error| not_set_up(location, error))?;
    let provider: object_store::gcp::GcpCredentialProvider =
        Arc::new(Bounded::new(Arc::clone(first.credentials())));
    let store = store.with_credentials(Arc::clone(&provider));
    let of_new = store
        .clone()
        .with_client_options(only_new(client_options(options)?, Scheme::Gcs))
        .with_retry(few(options));
    let of_new = Arc::new(of_new.build().map_err(|error| not_set_up(location, error))?);
    let store = Arc::new(store.build().map_err(|error| not_set_up(location, error))?);
    let credentials =
        if options.anonymous { Credentials::Anonymous(Scheme::Gcs) } else { Credentials::Gcs(provider) };
    let access = Access::new(format!("{endpoint}/{}", location.bucket()), credentials);
    Ok((Arc::clone(&store) as _, store, of_new, access))
}

/// The endpoint without `/` at its end, if it is one that may be asked.
fn check_endpoint(endpoint: &str, options: &StoreOptions) -> Result<String> {
    // The text is not repeated before it is known to hold no password.
    let url = Url::parse(endpoint)
        .map_err(|error| Error::usage("the endpoint of the store is not a valid URL").with_source(error))?;
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(Error::usage("the endpoint of the store has a user, password, query or fragment in it")
            .with_hint("write https://HOST[:PORT]; credentials come from the environment or a profile"));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(Error::usage(format!("{endpoint:?} is no http:// or https:// URL")));
    }
    if url.scheme() == "http" {
        if !options.allow_http {
            return Err(Error::refused(format!("the endpoint {endpoint} is not encrypted")).with_hint(
                "say --store-allow-http if everybody in between may see and change what is sent",
            ));
        }
        tracing::warn!(
            endpoint,
            "the connection to the store is NOT encrypted: whoever is in between can read the disk"
        );
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The environment has no say in these: it could turn the verification of certificates off.
fn client_options(options: &StoreOptions) -> Result<ClientOptions> {
    // The time for a whole request, from its first byte to the answer: it is long enough for the
    // largest part on the slowest link. What is fetched has a limit for each piece instead.
    let sending = Duration::from_secs(options.largest_part / SLOWEST);
    let mut client = ClientOptions::new()
        .with_allow_http(options.allow_http)
        .with_connect_timeout(options.stall_timeout.min(MAX_CONNECT_TIMEOUT))
        .with_timeout_disabled()
        .with_read_timeout(options.stall_timeout.saturating_add(sending))
        .with_pool_idle_timeout(Duration::from_secs(20));
    match &options.ca_file {
        Some(file) => {
            client = client.with_no_system_certificates(true);
            for certificate in authorities(file)? {
                client = client.with_root_certificate(certificate);
            }
        }
        // A machine without CA certificates can still speak plain HTTP.
        None if options.allow_http => client = client.with_no_system_certificates(!has_system_certificates()),
        None => {}
    }
    Ok(client)
}

/// Every request demands that there is no object yet.
fn only_new(client: ClientOptions, scheme: Scheme) -> ClientOptions {
    let (name, value) = match scheme {
        Scheme::Gcs => (HeaderName::from_static("x-goog-if-generation-match"), "0"),
        Scheme::Azure | Scheme::S3 => (IF_NONE_MATCH, "*"),
    };
    client.with_default_headers(HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
}

/// Whether this machine has CA certificates, as far as that can be told by a client that is built.
fn has_system_certificates() -> bool {
    reqwest::Client::builder().build().is_ok()
}

fn authorities(file: &Path) -> Result<Vec<Certificate>> {
    let wrong = || {
        Error::usage(format!("{} holds no CA certificate in PEM form", file.display()))
            .with_hint("it must have at least one block '-----BEGIN CERTIFICATE-----'")
    };
    let is_small =
        std::fs::metadata(file).map_err(|error| Error::io("read", file, error))?.len() <= MAX_CA_FILE_LEN;
    if !is_small {
        return Err(wrong());
    }
    let pem = std::fs::read(file).map_err(|error| Error::io("read", file, error))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| wrong().with_source(error))?;
    if found.is_empty() { Err(wrong()) } else { Ok(found) }
}

fn retries(options: &StoreOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: MAX_RETRIES,
        retry_timeout: options.retry_for.min(SIGNED_FOR),
    }
}

/// For a request that may be answered with a 501, which the client takes for a bad moment of the store.
fn few(options: &StoreOptions) -> RetryConfig {
    RetryConfig { max_retries: FEW_RETRIES, ..retries(options) }
}

fn not_set_up(location: &ObjectLocation, error: object_store::Error) -> Error {
    // Such an error is about what was given, and may repeat it; its kind is all that is told.
    let _may_repeat_a_key = error;
    Error::usage(format!("what the environment says of the store of {location} cannot be used"))
        .with_hint(match location.scheme() {
            Scheme::Azure => {
                "AZURE_STORAGE_ACCOUNT_KEY must be base64 and AZURE_STORAGE_SAS_TOKEN the query of a URL; see the guide \
                 to object storage"
            }
            Scheme::Gcs => {
                "GOOGLE_SERVICE_ACCOUNT and GOOGLE_APPLICATION_CREDENTIALS name JSON files with a key; see the guide to \
                 object storage"
            }
            Scheme::S3 => {
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together; see the guide to object storage"
            }
        })
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Bytes a second below which a part is believed to be stuck.
const SLOWEST: u64 = 32 << 10;

/// A TCP and TLS handshake that takes longer than this has failed.
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The CA bundle of a whole distribution has 250 KiB.
const MAX_CA_FILE_LEN: u64 = 4 << 20;

/// Tries of the last request of an upload behind the first. They take a second or two; what it has come to
/// is looked at then.
const FEW_RETRIES: usize = 4;

/// The client signs a request once for all its tries, and a signature is good for fifteen minutes, the last
/// try included. Parts are tried again behind that, newly signed.
const SIGNED_FOR: Duration = Duration::from_secs(300);

/// Tries of one request behind the first; they take a minute and more.
const MAX_RETRIES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    async fn open(url: &str, options: &StoreOptions) -> Result<Store> {
        Store::open(&ObjectLocation::parse(url).unwrap().unwrap(), options).await
    }

    fn bucket_url(store: &Store) -> String {
        store.access.url("", &[]).unwrap().as_str().trim_end_matches('/').to_owned()
    }

    #[tokio::test]
    async fn buckets_are_found_in_paths_and_in_names() {
        let with = |endpoint: Option<&str>, path_style| StoreOptions {
            endpoint: endpoint.map(str::to_owned),
            region: Some("eu-west-1".into()),
            path_style,
            anonymous: true,
            ..StoreOptions::default()
        };
        for (bucket, endpoint, path_style, url) in [
            ("b", None, None, "https://b.s3.eu-west-1.amazonaws.com"),
            ("b.c", None, None, "https://s3.eu-west-1.amazonaws.com/b.c"),
            ("b", None, Some(true), "https://s3.eu-west-1.amazonaws.com/b"),
            ("b", Some("https://minio:9000/"), None, "https://minio:9000/b"),
            ("b", Some("https://ceph/x"), None, "https://ceph/x/b"),
            ("b", Some("https://oss.example"), Some(false), "https://b.oss.example"),
        ] {
            let options = with(endpoint, path_style);
            let store = open(&format!("s3://{bucket}/k"), &options).await.unwrap();
            assert_eq!(bucket_url(&store), url);
            assert_eq!(store.scheme(), Scheme::S3);
        }
        let options = StoreOptions { account: Some("acc".into()), ..with(None, None) };
        assert_eq!(
            bucket_url(&open("az://box/k", &options).await.unwrap()),
            "https://acc.blob.core.windows.net/box"
        );
        assert_eq!(
            bucket_url(&open("gs://b/k", &with(None, None)).await.unwrap()),
            "https://storage.googleapis.com/b"
        );
    }

    #[tokio::test]
    async fn endpoints_are_encrypted_and_hold_no_secrets() {
        let with = |endpoint: &str, allow_http| StoreOptions {
            endpoint: Some(endpoint.to_owned()),
            allow_http,
            anonymous: true,
            ..StoreOptions::default()
        };
        let error = open("s3://b/k", &with("http://10.0.0.1:9000", false)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.hint().unwrap().contains("--store-allow-http"), "{error}");
        open("s3://b/k", &with("http://10.0.0.1:9000", true)).await.unwrap();
        for endpoint in ["https://user:s3cret@host", "https://host?key=s3cret", "host s3cret", "ftp://host"] {
            let error = open("s3://b/k", &with(endpoint, true)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn checksums_can_be_turned_off_for_stores_that_refuse_them() {
        assert!(wants_checksums(None) && wants_checksums(Some("when_supported")));
        assert!(!wants_checksums(Some("when_required")) && !wants_checksums(Some("WHEN_REQUIRED")));
    }

    #[test]
    fn no_request_is_tried_for_longer_than_its_signature_is_good() {
        let of = |seconds| {
            let retry_for = Duration::from_secs(seconds);
            retries(&StoreOptions { retry_for, ..StoreOptions::default() }).retry_timeout
        };
        assert_eq!((of(60), of(3600)), (Duration::from_secs(60), SIGNED_FOR));
    }

    #[tokio::test]
    async fn objects_are_made_with_what_the_options_say() {
        let options = StoreOptions {
            storage_class: Some("STANDARD_IA".into()),
            tags: vec![("team".into(), "a b".into())],
            metadata: vec![("note".into(), "x".into())],
            anonymous: true,
            ..StoreOptions::default()
        };
        let store = open("s3://b/k", &options).await.unwrap();
        let made = store.creation(&[("vmferry-run", "r1".to_owned())]);
        assert_eq!(made.tags.encoded(), "team=a+b");
        assert_eq!(made.attributes.len(), 3);
        assert_eq!(made.attributes.get(&Attribute::Metadata("vmferry-run".into())).unwrap().as_ref(), "r1");
    }
}
